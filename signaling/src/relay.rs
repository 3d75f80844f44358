//! STUN and TURN: the sockets around the relay machine.
//!
//! One task owns the machine. A task for the listening socket and one per relayed address receive and hand over what came
//! in by one bounded queue, so no lock is held anywhere. Each of them has a share of the queue and drops what goes beyond
//! it, as a full socket buffer does; so a relayed address that is flooded takes no room from the others.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ginnel_turn::AddressFamily;
use ginnel_turn::server::{AllocationId, Input, Output, Server};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::hub::{TELL_WALL, unix, until};
use crate::{socket, sys};

/// The socket that clients send to. It learns to which of our addresses each datagram came, so as to answer from there.
struct Listener {
    socket: UdpSocket,
    state: UdpSocketState,
    port: u16,
}

/// The machine, its sockets, and the relayed addresses.
pub(crate) struct Relay {
    server: Server,
    listener: Arc<Listener>,
    /// Where relayed addresses are bound, one of a family.
    binds: Vec<Bind>,
    ports: BTreeMap<AllocationId, Port>,
    inputs: mpsc::Sender<Waiting>,
    queue: mpsc::Receiver<Waiting>,
    undelivered: u64,
}

/// A datagram that waits for the machine, and its place in its receiver's share of the queue.
struct Waiting {
    input: Input,
    _place: OwnedSemaphorePermit,
}

/// One receiver's end of the queue.
struct Share {
    inputs: mpsc::Sender<Waiting>,
    places: Arc<Semaphore>,
}

/// A relayed address.
struct Port {
    socket: Arc<UdpSocket>,
    receiving: JoinHandle<()>,
}

/// Where a relay address is, as peers see it and as this machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bind {
    public: IpAddr,
    local: IpAddr,
}

impl Relay {
    /// Puts the machine on a bound socket.
    pub(crate) fn new(server: Server, socket: std::net::UdpSocket, addresses: &[IpAddr]) -> io::Result<Self> {
        let port = socket.local_addr()?.port();
        let socket = UdpSocket::from_std(socket)?;
        let state = UdpSocketState::new((&socket).into())?;
        let binds = addresses.iter().copied().map(Bind::of).collect();
        let (inputs, queue) = mpsc::channel(QUEUE);
        let listener = Arc::new(Listener { socket, state, port });
        Ok(Self { server, listener, binds, ports: BTreeMap::new(), inputs, queue, undelivered: 0 })
    }

    /// Runs until `stop` turns true.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let listening = tokio::spawn(self.listener.clone().receive(Share::new(&self.inputs, LISTENER_SHARE)));
        let mut wall = tokio::time::interval(TELL_WALL);
        wall.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let sleep = until(self.server.poll_timeout());
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                _ = wall.tick() => self.input(Input::Wall(unix())),
                () = sleep => {
                    self.server.handle_timeout(sys::now());
                    self.drain();
                }
                // This task holds a sender, so the queue does not end.
                _ = self.queue.recv_many(&mut batch, BATCH) => {
                    for waiting in batch.drain(..) {
                        self.input(waiting.input);
                    }
                }
            }
        }
        listening.abort();
        for port in self.ports.into_values() {
            port.receiving.abort();
        }
        tracing::debug!(undelivered = self.undelivered, "relay ends");
    }

    fn input(&mut self, input: Input) {
        if let Err(discard) = self.server.handle_input(sys::now(), input) {
            tracing::trace!(%discard, "datagram of no use");
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::ToClient { to, local, bytes } => {
                    let sent = self.listener.send(to, local.ip(), &bytes);
                    self.count(sent);
                }
                Output::Relay { allocation, to, bytes } => {
                    if let Some(port) = self.ports.get(&allocation) {
                        let sent = port.socket.try_send_to(&bytes, to).map(|_| ());
                        self.count(sent);
                    }
                }
                Output::OpenPort { allocation, family, port } => {
                    let answer = self.open(allocation, family, port);
                    if let Err(discard) = self.server.handle_input(sys::now(), answer) {
                        tracing::debug!(%discard, "relayed address of no use");
                    }
                }
                Output::ClosePort { allocation } => {
                    if let Some(port) = self.ports.remove(&allocation) {
                        port.receiving.abort();
                    }
                }
            }
        }
    }

    fn open(&mut self, allocation: AllocationId, family: AddressFamily, port: u16) -> Input {
        let Some(bind) = self.binds.iter().find(|bind| AddressFamily::of(bind.public) == family) else {
            return Input::PortFailed { allocation };
        };
        let socket = socket::bind(SocketAddr::new(bind.local, port)).and_then(UdpSocket::from_std);
        match socket {
            Ok(socket) => {
                let socket = Arc::new(socket);
                let receiving = tokio::spawn(receive(allocation, socket.clone(), Share::new(&self.inputs, PORT_SHARE)));
                self.ports.insert(allocation, Port { socket, receiving });
                Input::PortOpened { allocation, addr: SocketAddr::new(bind.public, port) }
            }
            Err(error) => {
                tracing::debug!(%error, port, "relay port cannot be opened");
                Input::PortFailed { allocation }
            }
        }
    }

    /// Datagrams that the system does not take are lost, as on any network.
    fn count(&mut self, sent: io::Result<()>) {
        if sent.is_err() {
            self.undelivered = self.undelivered.saturating_add(1);
        }
    }
}

impl Listener {
    async fn receive(self: Arc<Self>, share: Share) {
        let mut slabs = vec![vec![0_u8; SLAB]; quinn_udp::BATCH_SIZE];
        let mut metas = vec![RecvMeta::default(); quinn_udp::BATCH_SIZE];
        loop {
            let received = self
                .socket
                .async_io(Interest::READABLE, || {
                    let mut slices: Vec<IoSliceMut<'_>> = slabs.iter_mut().map(|slab| IoSliceMut::new(slab)).collect();
                    self.state.recv((&self.socket).into(), &mut slices, &mut metas)
                })
                .await;
            match received {
                Ok(count) => {
                    for (slab, meta) in slabs.iter().zip(&metas).take(count) {
                        self.hand_over(slab, meta, &share);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "receiving failed");
                    tokio::time::sleep(AFTER_ERROR).await;
                }
            }
        }
    }

    fn hand_over(&self, slab: &[u8], meta: &RecvMeta, share: &Share) {
        let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
        let local =
            meta.dst_ip.map_or_else(|| wildcard(AddressFamily::of(from.ip())), |address| address.to_canonical());
        let local = SocketAddr::new(local, self.port);
        let received = slab.get(..meta.len).unwrap_or(slab);
        for datagram in received.chunks(meta.stride.max(1)) {
            share.offer(|| Input::Client { from, local, bytes: datagram.to_vec() });
        }
    }

    fn send(&self, to: SocketAddr, from: IpAddr, contents: &[u8]) -> io::Result<()> {
        let dual = self.socket.local_addr()?.is_ipv6();
        let destination = match (to, dual) {
            (SocketAddr::V4(v4), true) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            (SocketAddr::V4(_), false) | (SocketAddr::V6(_), _) => to,
        };
        let src_ip = (!from.is_unspecified()).then_some(from);
        let transmit = Transmit { destination, ecn: None, contents, segment_size: None, src_ip };
        self.socket.try_io(Interest::WRITABLE, || self.state.try_send((&self.socket).into(), &transmit))
    }
}

async fn receive(allocation: AllocationId, socket: Arc<UdpSocket>, share: Share) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                let datagram = buffer.get(..length).unwrap_or(&buffer);
                share.offer(|| Input::Relayed { allocation, from, bytes: datagram.to_vec() });
            }
            Err(error) => {
                tracing::debug!(%error, "receiving on a relayed address failed");
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }
}

impl Share {
    fn new(inputs: &mpsc::Sender<Waiting>, places: usize) -> Self {
        Self { inputs: inputs.clone(), places: Arc::new(Semaphore::new(places)) }
    }

    /// Queues a datagram, or drops it where the share is used up.
    fn offer(&self, input: impl FnOnce() -> Input) {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            let _ = self.inputs.try_send(Waiting { input: input(), _place: place });
        }
    }
}

impl Bind {
    fn of(public: IpAddr) -> Self {
        let local = if socket::is_local(public) { public } else { wildcard(AddressFamily::of(public)) };
        Self { public, local }
    }
}

fn wildcard(family: AddressFamily) -> IpAddr {
    match family {
        AddressFamily::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Datagrams that wait for the machine, in all, from the listening socket, and from one relayed address.
const QUEUE: usize = 16_384;
const LISTENER_SHARE: usize = 4096;
const PORT_SHARE: usize = 256;
const BATCH: usize = 64;
/// Room for one receive: the kernel may join datagrams of one sender into one slab.
const SLAB: usize = 65_536;
const MAX_DATAGRAM: usize = 65_536;
/// Pause after an error that may last, so that it does not keep a processor busy.
const AFTER_ERROR: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ginnel_turn::client::{self, Client};
    use ginnel_turn::server::{Config, Quotas};
    use ginnel_turn::{ChannelNumber, Credentials, channel_data};
    use tokio::time::timeout;
    use zeroize::Zeroizing;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);
    const SECRET: [u8; 32] = [7; 32];

    /// Starts a relay on 127.0.0.1 that lets everything through; its address and the way to stop it.
    fn start(listen: &str) -> (SocketAddr, watch::Sender<bool>, JoinHandle<()>) {
        let server = Server::new(
            [1; 32],
            Config {
                realm: "test".to_owned(),
                secret: Zeroizing::new(SECRET.to_vec()),
                relay_addresses: vec![Ipv4Addr::LOCALHOST.into()],
                ports: 30_000..=39_999,
                quotas: Quotas::default(),
                policy: Box::new(|_| true),
                nonce_lifetime: Duration::from_secs(600),
            },
        );
        let socket = socket::bind(listen.parse().unwrap()).unwrap();
        let port = socket.local_addr().unwrap().port();
        let relay = Relay::new(server.unwrap(), socket, &[Ipv4Addr::LOCALHOST.into()]).unwrap();
        let (stop, stopping) = watch::channel(false);
        (SocketAddr::from(([127, 0, 0, 1], port)), stop, tokio::spawn(relay.run(stopping)))
    }

    struct User {
        client: Client,
        socket: UdpSocket,
        server: SocketAddr,
    }

    impl User {
        async fn new(server: SocketAddr) -> Self {
            let credentials = Credentials::time_limited(&SECRET, unix() + 600, "user");
            let config = client::Config { server, credentials, family: AddressFamily::Ipv4 };
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            Self { client: Client::new([2; 32], config), socket, server }
        }

        async fn next(&mut self) -> client::Output {
            let start = Instant::now();
            let mut buffer = vec![0; 2048];
            loop {
                while let Some(output) = self.client.poll_output() {
                    if let client::Output::Send(bytes) = output {
                        self.socket.send_to(&bytes, self.server).await.unwrap();
                    } else {
                        return output;
                    }
                }
                assert!(start.elapsed() < PATIENCE);
                if let Ok(received) = timeout(Duration::from_millis(100), self.socket.recv_from(&mut buffer)).await {
                    let input = client::Input::Received(buffer[..received.unwrap().0].to_vec());
                    let _ = self.client.handle_input(sys::now(), input);
                }
                self.client.handle_timeout(sys::now());
            }
        }

        async fn ask(&mut self, input: client::Input) -> client::Output {
            self.client.handle_input(sys::now(), input).unwrap();
            self.next().await
        }
    }

    async fn receive_from(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut buffer = vec![0; 2048];
        let (length, from) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
        (buffer[..length].to_vec(), from)
    }

    #[tokio::test]
    async fn datagrams_go_both_ways_by_the_relayed_address_until_it_is_closed() {
        let (server, stop, running) = start("127.0.0.1:0");
        let mut user = User::new(server).await;
        let client::Output::Allocated { relayed, .. } = user.ask(client::Input::Allocate).await else { panic!() };
        let peer = UdpSocket::bind("127.0.0.2:0").await.unwrap();
        let peer_address = peer.local_addr().unwrap();
        let bound = user.ask(client::Input::Bind(peer_address)).await;
        let client::Output::Bound { channel, .. } = bound else { panic!("{bound:?}") };

        let mut framed = vec![0; 4];
        frame(channel, b"there", &mut framed);
        user.socket.send_to(&framed, server).await.unwrap();
        assert_eq!(receive_from(&peer).await, (b"there".to_vec(), relayed));
        for n in 0..50_u8 {
            peer.send_to(&[n; 1200], relayed).await.unwrap();
        }
        for n in 0..50_u8 {
            let data = user.next().await;
            assert_eq!(data, client::Output::Data { peer: peer_address, bytes: vec![n; 1200] });
        }

        assert_eq!(user.ask(client::Input::Close).await, client::Output::Closed);
        let free = || UdpSocket::bind(relayed);
        let start = Instant::now();
        while free().await.is_err() {
            assert!(start.elapsed() < PATIENCE, "the port is closed with its allocation");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.send_replace(true);
        timeout(PATIENCE, running).await.unwrap().unwrap();
    }

    fn frame(channel: ChannelNumber, payload: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&channel_data::encode_header(channel, payload.len()).unwrap());
        out.extend_from_slice(payload);
    }

    #[tokio::test]
    async fn wildcard_listener_answers_from_the_address_that_was_asked() {
        for listen in ["0.0.0.0:0", "[::]:0"] {
            let (server, stop, running) = start(listen);
            let asked = SocketAddr::from(([127, 0, 0, 5], server.port()));
            let mut user = User::new(asked).await;
            user.client.handle_input(sys::now(), client::Input::Allocate).unwrap();
            let Some(client::Output::Send(request)) = user.client.poll_output() else { panic!() };
            user.socket.send_to(&request, asked).await.unwrap();
            assert_eq!(receive_from(&user.socket).await.1, asked, "{listen}");
            stop.send_replace(true);
            timeout(PATIENCE, running).await.unwrap().unwrap();
        }
    }
}
