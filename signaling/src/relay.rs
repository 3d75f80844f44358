//! STUN and TURN: the sockets around the relay machine.
//!
//! One task owns the machine. A task per listening socket and one per relayed address receive and hand over what came in
//! by bounded queues, which drop what does not fit, as a full socket buffer does; so no lock is held anywhere, and a
//! relayed address that is flooded does not keep datagrams from the others for longer than its queue lasts.

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
use tokio::sync::{mpsc, watch};
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
    inputs: mpsc::Sender<Input>,
    queue: mpsc::Receiver<Input>,
    undelivered: u64,
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
        let listening = tokio::spawn(self.listener.clone().receive(self.inputs.clone()));
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
                    for input in batch.drain(..) {
                        self.input(input);
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
                let receiving = tokio::spawn(receive(allocation, socket.clone(), self.inputs.clone()));
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
    async fn receive(self: Arc<Self>, inputs: mpsc::Sender<Input>) {
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
                        self.hand_over(slab, meta, &inputs);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "receiving failed");
                    tokio::time::sleep(AFTER_ERROR).await;
                }
            }
        }
    }

    fn hand_over(&self, slab: &[u8], meta: &RecvMeta, inputs: &mpsc::Sender<Input>) {
        let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
        let local =
            meta.dst_ip.map_or_else(|| wildcard(AddressFamily::of(from.ip())), |address| address.to_canonical());
        let local = SocketAddr::new(local, self.port);
        let received = slab.get(..meta.len).unwrap_or(slab);
        for datagram in received.chunks(meta.stride.max(1)) {
            let _ = inputs.try_send(Input::Client { from, local, bytes: datagram.to_vec() });
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

async fn receive(allocation: AllocationId, socket: Arc<UdpSocket>, inputs: mpsc::Sender<Input>) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                let bytes = buffer.get(..length).unwrap_or(&buffer).to_vec();
                let _ = inputs.try_send(Input::Relayed { allocation, from, bytes });
            }
            Err(error) => {
                tracing::debug!(%error, "receiving on a relayed address failed");
                tokio::time::sleep(AFTER_ERROR).await;
            }
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

/// Datagrams that wait for the machine.
const QUEUE: usize = 4096;
const BATCH: usize = 64;
/// Room for one receive: the kernel may join datagrams of one sender into one slab.
const SLAB: usize = 65_536;
const MAX_DATAGRAM: usize = 65_536;
/// Pause after an error that may last, so that it does not keep a processor busy.
const AFTER_ERROR: Duration = Duration::from_millis(10);
