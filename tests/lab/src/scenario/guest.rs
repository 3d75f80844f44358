//! A client of a signaling server that says what a test wants: the protocol's machine on a QUIC stream.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use ginnel_membership::{NetworkId, Server};
use ginnel_signal_proto::client::{Client, Input, Output};
use ginnel_signal_proto::{ClientMessage, Credentials, ServerMessage};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, RecvStream, SendStream, TokioRuntime};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::time::timeout;

/// A client that a server has let in.
pub(crate) struct Guest {
    client: Client,
    road: Road,
    messages: VecDeque<ServerMessage>,
    ended: Option<String>,
    begun: Instant,
}

/// A QUIC connection to a server, with the one stream that the server takes.
pub(crate) struct Road {
    send: SendStream,
    receive: RecvStream,
    connection: Connection,
    _endpoint: Endpoint,
}

impl Guest {
    /// Connects from `socket` and proves `credentials`.
    ///
    /// # Errors
    /// When the server does not let it in; the error says why.
    pub(crate) async fn enter(
        socket: UdpSocket,
        server: &Server,
        network: NetworkId,
        credentials: Credentials,
    ) -> Result<Self> {
        let road = Road::open(socket, server).await?;
        let client = Client::new(random(), server.keys, network, credentials);
        let mut guest = Self { client, road, messages: VecDeque::new(), ended: None, begun: Instant::now() };
        guest.input(Input::Opened).await;
        match guest.hear(PATIENCE).await? {
            Some(ServerMessage::Welcome(_)) => Ok(guest),
            other => bail!("no welcome, but {other:?}"),
        }
    }

    /// Says something; what the server does with it is heard later.
    pub(crate) async fn say(&mut self, message: ClientMessage) {
        self.input(Input::Send(message)).await;
    }

    /// The next message of the server, if one comes in time.
    ///
    /// # Errors
    /// When the connection is over.
    pub(crate) async fn hear(&mut self, patience: Duration) -> Result<Option<ServerMessage>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Ok(Some(message));
            }
            if let Some(ended) = &self.ended {
                bail!("{ended}");
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match timeout(left, self.road.receive.read_chunk(65_536, true)).await {
                Err(_) => return Ok(None),
                Ok(Ok(Some(chunk))) => self.input(Input::Received(chunk.bytes.to_vec())).await,
                Ok(Ok(None) | Err(_)) => self.input(Input::Closed).await,
            }
        }
    }

    async fn input(&mut self, input: Input) {
        let now = ginnel_time::Instant::ZERO + self.begun.elapsed();
        // What the machine has no use for shows in what it says next.
        let _ = self.client.handle_input(now, input);
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Write(bytes) => self.road.write(&bytes).await,
                Output::Message(message) => self.messages.push_back(message),
                Output::Broken { reason } => self.ended = Some(reason.to_string()),
                Output::Ready => {}
            }
        }
    }
}

impl Road {
    /// Connects from `socket` to the first address of `server`.
    pub(crate) async fn open(socket: UdpSocket, server: &Server) -> Result<Self> {
        let endpoint = endpoint(socket)?;
        let connecting = endpoint.connect(address_of(server)?, "ginnel").context("connect")?;
        let connection =
            timeout(PATIENCE, connecting).await.context("the server does not answer")?.context("connect")?;
        let (send, receive) = connection.open_bi().await.context("open a stream")?;
        Ok(Self { send, receive, connection, _endpoint: endpoint })
    }

    /// Writes bytes of whatever kind.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        // A stream that the server closed, or whose bytes it does not take, is found out by reading.
        drop(timeout(PATIENCE, self.send.write_all(bytes)).await);
    }

    /// Waits until the server closes the connection; `false` when it has not in time.
    pub(crate) async fn closed(&self, patience: Duration) -> bool {
        timeout(patience, self.connection.closed()).await.is_ok()
    }
}

/// A QUIC endpoint on `socket`; runs inside the calling runtime.
pub(crate) fn endpoint(socket: UdpSocket) -> Result<Endpoint> {
    let mut endpoint = Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime))
        .context("make a QUIC endpoint")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("choose TLS 1.3")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(NoiseProvesIt))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"ginnel/1".to_vec()];
    let crypto = QuicClientConfig::try_from(tls).context("configure QUIC")?;
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(crypto)));
    Ok(endpoint)
}

/// The address at which a server is reached.
pub(crate) fn address_of(server: &Server) -> Result<SocketAddr> {
    let text = server.addresses.first().ok_or_else(|| anyhow!("the server has no address"))?;
    text.parse().with_context(|| format!("the server's address is {text}"))
}

/// A runtime for guests, on the calling thread.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")
}

/// Bytes from the system's generator.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives randomness");
    bytes
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

const PATIENCE: Duration = Duration::from_secs(8);
