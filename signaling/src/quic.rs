//! Signaling over QUIC: one connection per client, one stream per connection.
//!
//! TLS is here for QUIC's sake: the certificate is made at each start and clients do not look at it, because the Noise
//! handshake inside proves the server's key. The protocol's name is `ginnel/1`. Clients keep the connection alive every
//! 15 to 25 s; one that has been silent for 60 s is gone. Connections of an earlier run of this server are told so with
//! their next packet (RFC 9000 §10.3), so that clients of a server that died come back soon.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use ginnel_signal_proto::server::{ConnectionId, PROOF_DEADLINE};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Connection, ConnectionId as QuicId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout, Incoming,
    RecvStream, SendStream, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::hub::{Event, Written};

/// Makes the endpoint on a bound socket; `secret` is the server's own and outlives it.
pub(crate) fn endpoint(socket: std::net::UdpSocket, secret: &[u8; 32]) -> anyhow::Result<Endpoint> {
    let secret = hmac::Key::new(HMAC_SHA256, secret);
    let reset = hmac::sign(&secret, b"ginnel quic reset");
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(HMAC_SHA256, reset.as_ref())));
    config.cid_generator(|| Box::new(RandomIds));
    config.grease_quic_bit(false);
    Endpoint::new(config, Some(server_config()?), socket, Arc::new(TokioRuntime)).context("cannot start QUIC")
}

/// Random ids. Those that QUIC's implementation makes by itself are known by a key of the process, and packets with ids
/// of an earlier run would be dropped in silence.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> QuicId {
        let mut id = [0; ID_LEN];
        getrandom::fill(&mut id).expect("the system gives randomness, as it did at the start");
        QuicId::new(&id)
    }

    fn cid_len(&self) -> usize {
        ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn server_config() -> anyhow::Result<ServerConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["ginnel".to_owned()]).context("cannot make a certificate")?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.into()], key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport()));
    config.max_incoming(MAX_HANDSHAKES);
    Ok(config)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MILLIS))));
    transport
}

/// Takes in connections until the endpoint is closed.
pub(crate) async fn accept(endpoint: Endpoint, hub: mpsc::Sender<Event>) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let next = AtomicU64::new(0);
    while let Some(incoming) = endpoint.accept().await {
        let (Ok(handshake), Ok(connection)) =
            (handshakes.clone().try_acquire_owned(), connections.clone().try_acquire_owned())
        else {
            incoming.refuse();
            continue;
        };
        // Most of the room is for addresses that have proved to be real.
        if !incoming.remote_address_validated() && handshakes.available_permits() < MAX_HANDSHAKES - MAX_UNPROVEN {
            if incoming.retry().is_err() {
                tracing::debug!("a retry was not possible");
            }
            continue;
        }
        let conn = ConnectionId(next.fetch_add(1, Ordering::Relaxed));
        let hub = hub.clone();
        tokio::spawn(async move {
            let opened = timeout(PROOF_DEADLINE, open(incoming)).await;
            drop(handshake);
            if let Ok(Ok((connection, send, receive))) = opened {
                serve(conn, connection, send, receive, hub).await;
            }
            drop(connection);
        });
    }
}

async fn open(incoming: Incoming) -> anyhow::Result<(Connection, SendStream, RecvStream)> {
    let connection = incoming.accept()?.await?;
    let (send, receive) = connection.accept_bi().await?;
    Ok((connection, send, receive))
}

async fn serve(
    conn: ConnectionId,
    connection: Connection,
    send: SendStream,
    mut receive: RecvStream,
    hub: mpsc::Sender<Event>,
) {
    let remote = connection.remote_address();
    let from = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    let (writer, written) = mpsc::unbounded_channel();
    if hub.send(Event::Opened { conn, from, writer }).await.is_err() {
        return;
    }
    let writing = tokio::spawn(write(conn, connection, send, written, hub.clone()));
    while let Ok(Some(chunk)) = receive.read_chunk(MAX_CHUNK, true).await {
        if hub.send(Event::Received { conn, bytes: chunk.bytes.to_vec() }).await.is_err() {
            break;
        }
    }
    // The hub drops the writer's sender then, which ends it.
    let _ = hub.send(Event::Closed { conn }).await;
    let _ = writing.await;
}

async fn write(
    conn: ConnectionId,
    connection: Connection,
    mut send: SendStream,
    mut written: mpsc::UnboundedReceiver<Written>,
    hub: mpsc::Sender<Event>,
) {
    while let Some(Written::Bytes(bytes)) = written.recv().await {
        if !matches!(timeout(STALL, send.write_all(&bytes)).await, Ok(Ok(()))) {
            break;
        }
        if hub.send(Event::Flushed { conn, bytes: bytes.len() }).await.is_err() {
            break;
        }
    }
    // The client shall have the last words before the connection goes.
    if send.finish().is_ok() {
        let _ = timeout(LINGER, send.stopped()).await;
    }
    connection.close(VarInt::from_u32(0), b"");
}

/// The protocol inside QUIC.
pub(crate) const ALPN: &[u8] = b"ginnel/1";
const ID_LEN: usize = 8;
/// Bytes in flight per connection and direction.
pub(crate) const WINDOW: u32 = 128 << 10;
const IDLE_MILLIS: u32 = 60_000;
/// Connections between their first packet and their first stream.
const MAX_HANDSHAKES: usize = 1024;
/// Of them, connections whose address nobody has proved; each costs some 70 KiB, and further ones one more round trip.
const MAX_UNPROVEN: usize = 64;
/// Connections at the level of QUIC, somewhat more than the machine lets in, so that it can say why it refuses.
const MAX_CONNECTIONS: usize = 8192;
/// Bytes that are taken off a stream at once.
pub(crate) const MAX_CHUNK: usize = 16 << 10;
/// How long a client may take none of the bytes that wait for it.
const STALL: Duration = Duration::from_secs(20);
/// How long a client may take to acknowledge the last words.
const LINGER: Duration = Duration::from_secs(2);
