//! Streams to fellow servers, opened on the machine's word.
//!
//! The addresses come out of a network's log, which its admins write and this server's operator does not. Loopback,
//! multicast and link-local addresses are not dialled, so that a log cannot point this server at what listens on its own
//! machine; a server whose own public address is one of the kind, as in a test, may dial that kind.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ginnel_path::address::{Reach, reach};
use ginnel_signal_proto::server::LinkId;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, IdleTimeout, RecvStream, SendStream, TransportConfig, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::hub::{Event, Written};
use crate::quic::{ALPN, MAX_CHUNK, WINDOW};

/// Opens streams and carries their bytes.
pub(crate) struct Dialler {
    events: mpsc::Sender<Event>,
    loopback: Loopback,
    open: BTreeMap<LinkId, Line>,
    dials: u64,
}

/// One dial of a link. What a stream that was given up has left in the queue of events carries another number than that of
/// the dial that came after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dial {
    pub(crate) link: LinkId,
    number: u64,
}

/// Whether this server may dial its own machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loopback {
    Allowed,
    Refused,
}

struct Line {
    number: u64,
    writer: mpsc::UnboundedSender<Written>,
    task: AbortHandle,
}

impl Dialler {
    pub(crate) fn new(events: mpsc::Sender<Event>, public: &[IpAddr]) -> Self {
        let local = public.iter().any(|address| reach(*address) == Reach::Loopback);
        let loopback = if local { Loopback::Allowed } else { Loopback::Refused };
        Self { events, loopback, open: BTreeMap::new(), dials: 0 }
    }

    /// Starts to open a stream; an event says how it went.
    pub(crate) fn dial(&mut self, link: LinkId, addresses: Vec<String>) {
        let (writer, written) = mpsc::unbounded_channel();
        self.dials += 1;
        let dial = Dial { link, number: self.dials };
        let task = tokio::spawn(run(dial, addresses, self.loopback, written, self.events.clone()));
        let line = Line { number: dial.number, writer, task: task.abort_handle() };
        if let Some(before) = self.open.insert(link, line) {
            before.task.abort();
        }
    }

    /// Whether an event is of the stream that the machine knows by its link.
    pub(crate) fn is_current(&self, dial: Dial) -> bool {
        self.open.get(&dial.link).is_some_and(|line| line.number == dial.number)
    }

    /// Writes to a stream. The machine asks no more of a fellow before it has answered, which bounds what waits.
    pub(crate) fn write(&self, link: LinkId, bytes: Vec<u8>) {
        if let Some(line) = self.open.get(&link) {
            // A stream that is gone has its end reported already.
            let _ = line.writer.send(Written::Bytes(bytes));
        }
    }

    /// Gives a stream up.
    pub(crate) fn close(&mut self, link: LinkId) {
        if let Some(line) = self.open.remove(&link) {
            line.task.abort();
        }
    }
}

impl Drop for Dialler {
    fn drop(&mut self) {
        self.open.values().for_each(|line| line.task.abort());
    }
}

async fn run(
    dial: Dial,
    addresses: Vec<String>,
    loopback: Loopback,
    written: mpsc::UnboundedReceiver<Written>,
    events: mpsc::Sender<Event>,
) {
    let why = match timeout(CONNECT, connect(&addresses, loopback)).await {
        Err(_) => format!("no answer from {} within {} s", addresses.join(", "), CONNECT.as_secs()),
        Ok(Err(error)) => format!("{error:#}"),
        Ok(Ok(stream)) => match events.send(Event::LinkOpened(dial)).await {
            Ok(()) => carry(dial, stream, written, &events).await,
            Err(_) => return,
        },
    };
    let _ = events.send(Event::LinkClosed { dial, why }).await;
}

/// A stream, and what it lives in.
struct Stream {
    send: SendStream,
    receive: RecvStream,
    connection: Connection,
    _endpoint: Endpoint,
}

/// Carries bytes both ways until the stream ends; says why it did.
async fn carry(
    dial: Dial,
    stream: Stream,
    mut written: mpsc::UnboundedReceiver<Written>,
    events: &mpsc::Sender<Event>,
) -> String {
    let Stream { mut send, mut receive, connection, _endpoint } = stream;
    let writing = async {
        while let Some(Written::Bytes(bytes)) = written.recv().await {
            if !matches!(timeout(STALL, send.write_all(&bytes)).await, Ok(Ok(()))) {
                break;
            }
        }
    };
    let reading = async {
        while let Ok(Some(chunk)) = receive.read_chunk(MAX_CHUNK, true).await {
            if events.send(Event::LinkReceived { dial, bytes: chunk.bytes.to_vec() }).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = writing => connection.close(VarInt::from_u32(0), b""),
        () = reading => {}
    }
    connection.close_reason().map_or_else(|| "the stream ended".to_owned(), |reason| reason.to_string())
}

/// Tries the addresses in order.
async fn connect(addresses: &[String], loopback: Loopback) -> anyhow::Result<Stream> {
    let mut troubles = Vec::new();
    for address in addresses {
        let found = match tokio::net::lookup_host(address).await {
            Ok(found) => found,
            Err(error) => {
                troubles.push(format!("{address}: {error}"));
                continue;
            }
        };
        for remote in found.take(RESOLVED) {
            match timeout(EACH, open(remote, loopback)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => troubles.push(format!("{remote}: {error:#}")),
                Err(_) => troubles.push(format!("{remote}: no answer within {} s", EACH.as_secs())),
            }
        }
    }
    bail!("{}", if troubles.is_empty() { "no address is known".to_owned() } else { troubles.join("; ") })
}

async fn open(remote: SocketAddr, loopback: Loopback) -> anyhow::Result<Stream> {
    if !may_dial(remote.ip(), loopback) {
        bail!("not an address that a log may point a server at");
    }
    let any = match remote {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let endpoint = Endpoint::client(any).context("cannot open a socket")?;
    let connection = endpoint.connect_with(config()?, remote, SERVER_NAME)?.await?;
    let (send, receive) = connection.open_bi().await?;
    Ok(Stream { send, receive, connection, _endpoint: endpoint })
}

fn may_dial(address: IpAddr, loopback: Loopback) -> bool {
    let class = reach(address);
    class.is_public() || class.is_private() || (class == Reach::Loopback && loopback == Loopback::Allowed)
}

fn config() -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = NoiseProvesIt(provider.signature_verification_algorithms);
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MILLIS))));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Takes any certificate: the server's key is proved inside.
#[derive(Debug)]
struct NoiseProvesIt(WebPkiSupportedAlgorithms);

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
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

const SERVER_NAME: &str = "ginnel";
/// How long all addresses may take together; the machine waits somewhat longer.
const CONNECT: Duration = Duration::from_secs(10);
/// How long one address may take.
const EACH: Duration = Duration::from_secs(3);
/// Addresses of one host name that are tried.
const RESOLVED: usize = 4;
/// A sequencer that lost its power is noticed within the idle time.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
const IDLE_MILLIS: u32 = 10_000;
/// How long a fellow may take none of the bytes that wait for it.
const STALL: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_point_at_no_service_of_this_machine() {
        for inside in ["127.0.0.1", "::1", "0.0.0.0", "169.254.169.254", "fe80::1", "224.0.0.1", "::ffff:127.0.0.1"] {
            assert!(!may_dial(inside.parse().unwrap(), Loopback::Refused), "{inside}");
        }
        assert!(!may_dial("169.254.169.254".parse().unwrap(), Loopback::Allowed));
        assert!(may_dial("127.0.0.1".parse().unwrap(), Loopback::Allowed));
        for outside in ["203.0.113.7", "10.0.0.1", "2001:db8::1"] {
            assert!(may_dial(outside.parse().unwrap(), Loopback::Refused), "{outside}");
        }
    }

    #[tokio::test]
    async fn streams_that_were_given_up_are_told_from_the_next_dial() {
        let (events, mut queue) = mpsc::channel(8);
        let mut dialler = Dialler::new(events, &["127.0.0.1".parse().unwrap()]);
        let link = LinkId(3);
        dialler.dial(link, vec!["no-port".to_owned()]);
        // Its end waits in the queue when the link is given up and dialled anew.
        let Some(Event::LinkClosed { dial, .. }) = queue.recv().await else { panic!("no end") };
        assert!(dialler.is_current(dial));
        dialler.close(link);
        assert!(!dialler.is_current(dial), "given up");
        dialler.dial(link, vec!["no-port".to_owned()]);
        assert!(!dialler.is_current(dial), "of the dial before");
        let Some(Event::LinkClosed { dial: next, .. }) = queue.recv().await else { panic!("no end") };
        assert!(dialler.is_current(next));
    }

    #[tokio::test]
    async fn failures_name_every_address() {
        let addresses = ["127.0.0.1:1".to_owned(), "no-such-host.invalid:1".to_owned()];
        let error = connect(&addresses, Loopback::Refused).await.err().unwrap().to_string();
        assert!(error.contains("127.0.0.1:1") && error.contains("no-such-host"), "{error}");
    }
}
