//! The connection to a signaling server: one bidirectional stream over QUIC, as chunks of bytes in two bounded channels.
//!
//! Any certificate is accepted. The stream carries a Noise handshake with the server key from the invite, and nothing is
//! believed or told before that has succeeded; so TLS needs no certificate authority, no domain, and works behind a
//! proxy, and whoever stands in between learns no more than that a connection exists.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, IdleTimeout, RecvStream, SendStream, TransportConfig, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The name of the protocol inside QUIC.
pub const ALPN: &[u8] = b"ginnel/1";

/// What a server's stream brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Bytes, in stream order.
    Bytes(Vec<u8>),
    /// The end, with its reason in words; nothing follows.
    Closed(String),
}

/// An open stream to a server. Dropping it closes the connection.
#[derive(Debug)]
pub struct ServerStream {
    /// What the server sends; a slow reader slows the server down.
    pub incoming: mpsc::Receiver<Incoming>,
    /// What is sent to the server, at most 1,024 messages ahead: a burst to every peer of a large network fits.
    pub outgoing: mpsc::Sender<Vec<u8>>,
    link: ServerLink,
}

/// A handle on the connection of a [`ServerStream`], once its channels have gone elsewhere.
#[derive(Debug)]
pub struct ServerLink {
    remote: SocketAddr,
    endpoint: Endpoint,
    connection: Connection,
}

/// No address of a server could be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConnectError(String);

impl ServerStream {
    /// Connects to the first of `addresses`, each `host:port`, that answers.
    ///
    /// Names are resolved; the addresses found are tried in order, each some time after the one before it, for five
    /// seconds in all.
    ///
    /// # Errors
    /// What went wrong with each address, in words.
    pub async fn connect(addresses: &[String]) -> Result<Self, ConnectError> {
        let mut troubles = Vec::new();
        match tokio::time::timeout(CONNECT_TIMEOUT, race(addresses, &mut troubles)).await {
            Ok(Some(stream)) => Ok(stream),
            Ok(None) => Err(ConnectError(troubles.join("; "))),
            Err(_) => {
                troubles.push(format!("no answer from {} within 5 s", addresses.join(", ")));
                Err(ConnectError(troubles.join("; ")))
            }
        }
    }

    /// The server's address.
    pub const fn remote(&self) -> SocketAddr {
        self.link.remote
    }

    /// Takes the stream apart: the two channels, and a handle that keeps the connection open.
    pub fn split(self) -> (mpsc::Receiver<Incoming>, mpsc::Sender<Vec<u8>>, ServerLink) {
        (self.incoming, self.outgoing, self.link)
    }

    async fn open(remote: SocketAddr) -> Result<Self, String> {
        let told = |error: &dyn std::fmt::Display| format!("{remote}: {error}");
        let endpoint = Endpoint::client(any(remote)).map_err(|error| told(&error))?;
        let config = client_config().map_err(|error| told(&error))?;
        let connecting = endpoint.connect_with(config, remote, SERVER_NAME).map_err(|error| told(&error))?;
        let connection = connecting.await.map_err(|error| told(&error))?;
        let (send, receive) = connection.open_bi().await.map_err(|error| told(&error))?;
        let (incoming_sender, incoming) = mpsc::channel(CHUNKS);
        let (outgoing, outgoing_receiver) = mpsc::channel(MESSAGES);
        tokio::spawn(read(receive, connection.clone(), incoming_sender));
        tokio::spawn(write(send, outgoing_receiver));
        Ok(Self { incoming, outgoing, link: ServerLink { remote, endpoint, connection } })
    }
}

impl ServerLink {
    /// The server's address.
    pub const fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Moves the connection to a new local socket after the machine's addresses changed; the stream goes on.
    ///
    /// # Errors
    /// When no socket can be bound; the old one stays.
    pub fn rebind(&self) -> io::Result<()> {
        self.endpoint.rebind(std::net::UdpSocket::bind(any(self.remote))?)
    }

    /// Tells the server goodbye, and waits a second at most for that to be sent.
    pub async fn close(self) {
        self.connection.close(VarInt::from_u32(0), b"");
        // A server that does not answer finds out by its own timeout.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

impl Drop for ServerLink {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), b"");
    }
}

/// Tries every address, each [`STAGGER`] after the one before or at once when that one has failed.
async fn race(addresses: &[String], troubles: &mut Vec<String>) -> Option<ServerStream> {
    let mut waiting = std::collections::VecDeque::new();
    for address in addresses {
        match tokio::net::lookup_host(address).await {
            Ok(found) => waiting.extend(found.take(ADDRESSES)),
            Err(error) => troubles.push(format!("{address}: {error}")),
        }
    }
    if waiting.is_empty() && troubles.is_empty() {
        troubles.push("no server address is known".to_owned());
    }
    let mut attempts = JoinSet::new();
    loop {
        match waiting.pop_front() {
            Some(address) => {
                attempts.spawn(ServerStream::open(address));
            }
            None if attempts.is_empty() => return None,
            None => {}
        }
        let ended = if waiting.is_empty() {
            attempts.join_next().await
        } else {
            tokio::time::timeout(STAGGER, attempts.join_next()).await.unwrap_or(None)
        };
        match ended {
            Some(Ok(Ok(stream))) => return Some(stream),
            Some(Ok(Err(trouble))) => troubles.push(trouble),
            Some(Err(error)) => troubles.push(error.to_string()),
            None => {}
        }
    }
}

async fn read(mut stream: RecvStream, connection: Connection, sender: mpsc::Sender<Incoming>) {
    loop {
        let incoming = match stream.read_chunk(LARGEST_CHUNK, true).await {
            Ok(Some(chunk)) => Incoming::Bytes(chunk.bytes.to_vec()),
            Ok(None) => Incoming::Closed("the server ended the stream".to_owned()),
            Err(error) => {
                let reason = connection.close_reason().map_or_else(|| error.to_string(), |reason| reason.to_string());
                Incoming::Closed(reason)
            }
        };
        let ended = matches!(incoming, Incoming::Closed(_));
        if sender.send(incoming).await.is_err() || ended {
            return;
        }
    }
}

async fn write(mut stream: SendStream, mut receiver: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = receiver.recv().await {
        if stream.write_all(&bytes).await.is_err() {
            // The reading half tells the reason.
            return;
        }
    }
    // Closed already, or the server learns of the end.
    let _ = stream.finish();
}

fn client_config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate { algorithms: provider.signature_verification_algorithms });
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    // The server's name would tell an observer what this connection is for.
    tls.enable_sni = false;
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut transport = TransportConfig::default();
    transport
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS))))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .send_window(WINDOW.into());
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// The unspecified address of `remote`'s family, with a port of the kernel's choice.
fn any(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Accepts every certificate, and checks that the server has its key; the crate's docs say why that suffices.
#[derive(Debug)]
struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // QUIC is TLS 1.3 only (RFC 9001 §4.2).
        Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From one address to the next (RFC 8305 §5).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses taken of one name.
const ADDRESSES: usize = 8;
/// Below the 30 s after which common NATs forget a UDP mapping.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const IDLE_MS: u32 = 60_000;
/// Chunks from the server that wait.
const CHUNKS: usize = 64;
/// Messages to the server that wait.
const MESSAGES: usize = 1024;
const LARGEST_CHUNK: usize = 64 * 1024;
const WINDOW: u32 = 1 << 20;
/// Never sent nor checked; the interface wants a name.
const SERVER_NAME: &str = "ginnel.invalid";

#[cfg(test)]
mod tests {
    use quinn::crypto::rustls::QuicServerConfig;
    use quinn::{ServerConfig, rustls::pki_types::PrivatePkcs8KeyDer};

    use super::*;

    #[tokio::test]
    async fn bytes_pass_both_ways_and_the_end_is_told() {
        let (endpoint, address) = server(ALPN);
        let echo = tokio::spawn(async move {
            let connection = endpoint.accept().await.unwrap().await.unwrap();
            let (mut send, mut receive) = connection.accept_bi().await.unwrap();
            let mut buffer = [0; 5];
            receive.read_exact(&mut buffer).await.unwrap();
            send.write_all(&buffer).await.unwrap();
            connection.closed().await;
            buffer
        });
        // A name that resolves to nothing and an address where nobody answers come first.
        let addresses = ["no-such-host.invalid:1".to_owned(), "127.0.0.1:9".to_owned(), address];
        let mut stream = ServerStream::connect(&addresses).await.unwrap();
        stream.outgoing.send(b"hello".to_vec()).await.unwrap();
        assert_eq!(stream.incoming.recv().await, Some(Incoming::Bytes(b"hello".to_vec())));
        stream.link.rebind().unwrap();
        let (mut incoming, _outgoing, link) = stream.split();
        link.close().await;
        assert!(matches!(incoming.recv().await, Some(Incoming::Closed(_))));
        assert_eq!(&echo.await.unwrap(), b"hello");
    }

    #[tokio::test]
    async fn another_protocol_is_refused_in_words() {
        let (endpoint, address) = server(b"h3");
        let refusal = tokio::spawn(async move { endpoint.accept().await.unwrap().await.is_err() });
        let error = ServerStream::connect(&[address]).await.unwrap_err().to_string();
        assert!(error.contains("127.0.0.1"), "{error}");
        assert!(refusal.await.unwrap());
    }

    #[tokio::test]
    async fn no_address_is_told_as_such() {
        assert_eq!(ServerStream::connect(&[]).await.unwrap_err().to_string(), "no server address is known");
    }

    fn server(alpn: &[u8]) -> (Endpoint, String) {
        let certified = rcgen::generate_simple_self_signed(vec!["anything".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key.into())
            .unwrap();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let address = endpoint.local_addr().unwrap().to_string();
        (endpoint, address)
    }
}
