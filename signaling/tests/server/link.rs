//! A client: the protocol's machine on a QUIC stream.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ginnel_membership::{NetworkId, Server};
use ginnel_signal_proto::client::{Broken, Client, Input, Output};
use ginnel_signal_proto::{ClientMessage, Credentials, ServerMessage, Welcome};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::time::timeout;

use crate::process::PATIENCE;

pub(crate) struct Link {
    client: Client,
    endpoint: Endpoint,
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    messages: VecDeque<ServerMessage>,
    broken: Option<Broken>,
    start: Instant,
    pub(crate) welcome: Welcome,
}

fn address_of(server: &Server) -> SocketAddr {
    server.addresses[0].parse().expect("an address")
}

impl Link {
    /// Connects and proves `credentials`.
    pub(crate) async fn open(server: &Server, network: NetworkId, credentials: Credentials) -> Result<Self, Broken> {
        let (endpoint, connection) = connect(server).await;
        let (send, receive) = connection.open_bi().await.expect("a stream");
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("randomness");
        let client = Client::new(seed, server.keys, network, credentials);
        let welcome = placeholder();
        let mut link = Self {
            client,
            endpoint,
            connection,
            send,
            receive,
            messages: VecDeque::new(),
            broken: None,
            start: Instant::now(),
            welcome,
        };
        link.input(Input::Opened).await;
        let first = link.try_next().await?;
        let ServerMessage::Welcome(welcome) = first else { panic!("no welcome but {first:?}") };
        link.welcome = welcome;
        Ok(link)
    }

    pub(crate) async fn send(&mut self, message: ClientMessage) {
        self.input(Input::Send(message)).await;
    }

    /// Appends a record and waits until it is in the log.
    pub(crate) async fn append(&mut self, record: Vec<u8>) {
        self.send(ClientMessage::Append { record }).await;
        let answer = self.answer().await;
        assert!(matches!(answer, ServerMessage::Appended { .. }), "{answer:?}");
    }

    /// The next message that is not a push.
    pub(crate) async fn answer(&mut self) -> ServerMessage {
        loop {
            let message = self.next().await;
            if !matches!(message, ServerMessage::Entries { .. }) {
                return message;
            }
        }
    }

    pub(crate) async fn next(&mut self) -> ServerMessage {
        self.try_next().await.expect("a message")
    }

    pub(crate) async fn try_next(&mut self) -> Result<ServerMessage, Broken> {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(message);
            }
            if let Some(broken) = self.broken.clone() {
                return Err(broken);
            }
            let read = timeout(PATIENCE, self.receive.read_chunk(65_536, true)).await.expect("in time");
            match read {
                Ok(Some(chunk)) => self.input(Input::Received(chunk.bytes.to_vec())).await,
                Ok(None) | Err(_) => self.input(Input::Closed).await,
            }
        }
    }

    /// Why the connection ends, whatever is said before.
    pub(crate) async fn end(&mut self) -> Broken {
        loop {
            if let Err(broken) = self.try_next().await {
                return broken;
            }
        }
    }

    pub(crate) async fn close(self) {
        self.connection.close(0_u32.into(), b"");
        self.endpoint.wait_idle().await;
    }

    async fn input(&mut self, input: Input) {
        let now = ginnel_time::Instant::ZERO + self.start.elapsed();
        let _ = self.client.handle_input(now, input);
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Write(bytes) => {
                    // A stream that the server closed is found out by reading.
                    let _ = self.send.write_all(&bytes).await;
                }
                Output::Message(message) => self.messages.push_back(message),
                Output::Broken { reason } => self.broken = Some(reason),
                Output::Ready => {}
            }
        }
    }
}

/// Connects, says a byte and nothing more; how long the server bears it.
pub(crate) async fn silent(server: &Server) -> Duration {
    let (_endpoint, connection) = connect(server).await;
    let (mut send, _receive) = connection.open_bi().await.expect("a stream");
    send.write_all(&[0]).await.expect("room for a byte");
    let start = Instant::now();
    timeout(PATIENCE, connection.closed()).await.expect("in time");
    start.elapsed()
}

async fn connect(server: &Server) -> (Endpoint, Connection) {
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(NoiseProvesIt))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"ginnel/1".to_vec()];
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("TLS 1.3"))));
    let connecting = endpoint.connect(address_of(server), "ginnel").expect("an address");
    let connection = timeout(PATIENCE, connecting).await.expect("in time").expect("connected");
    (endpoint, connection)
}

fn placeholder() -> Welcome {
    Welcome {
        standing: ginnel_signal_proto::Standing::Joiner,
        observed: SocketAddr::from(([0, 0, 0, 0], 0)),
        stun_ports: Vec::new(),
        relay: ginnel_signal_proto::RelayOffer::None,
        head: ginnel_signal_proto::Head { length: 0, hash: [0; 32] },
        time: 0,
        checkpoint: None,
    }
}

/// Takes any certificate: the server's key is proved inside.
#[derive(Debug)]
struct NoiseProvesIt;

impl ServerCertVerifier for NoiseProvesIt {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
