//! One machine of the world: its node and its data plane, its disk, and the NAT before it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ginnel_forward::{
    Command, Config as ForwardConfig, Datagrams, Discard as ForwardDiscard, Event, Forward, PeerId, SendArena, Shields,
    TunBatch, WritePlan,
};
use ginnel_membership::NetworkId;
use ginnel_path::{Path, SocketId};
use ginnel_time::Instant;
use ginnel_tunnel::{MessageKind, Suite};

use crate::io::{Failure, Family, Port, Reply, RequestId, ServerId, TunState};
use crate::node::{Config, Debug, Resume, StoredLog};
use crate::notice::Notice;
use crate::tests::record::{Recorded, Recording};

/// What a Linux NAT grants a flow that was never answered.
const MAPPING: Duration = Duration::from_secs(30);

pub(crate) struct Machine {
    pub(crate) node: Option<Recorded>,
    forward: Forward,
    buffers: Buffers,
    /// Seconds by which the wall clock is wrong.
    pub(crate) ahead: i64,
    port: u16,
    sockets: BTreeMap<SocketId, u16>,
    pub(crate) nat: Nat,
    /// The outside port of each flow, where each has its own.
    outside: BTreeMap<(u16, SocketAddr), u16>,
    /// When a packet last left an outside port for a remote address, through the NAT.
    flows: BTreeMap<(u16, SocketAddr), Instant>,
    pub(super) streams: BTreeMap<ServerId, (u64, usize)>,
    /// Streams that were opened.
    pub(crate) opened: u32,
    pub(crate) state: Option<Vec<u8>>,
    pub(crate) logs: Vec<StoredLog>,
    pub(crate) tun: TunState,
    pub(crate) names: Vec<(String, Vec<IpAddr>)>,
    pub(crate) replies: BTreeMap<RequestId, Result<Reply, Failure>>,
    pub(crate) delivered: Vec<Vec<u8>>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) writes: u64,
    /// What the data plane was last told about them.
    pub(crate) shields: Option<Shields>,
    /// Handshake initiations that reached it.
    pub(super) initiations: Vec<Vec<u8>>,
    /// The path that the data plane was last given for each peer.
    pub(crate) paths: BTreeMap<PeerId, Option<Path>>,
    starts: u8,
    /// Whether no datagram comes in.
    pub(crate) deaf: bool,
}

/// How a machine's NAT maps and filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nat {
    /// One outside port for each socket, open to the endpoints that were sent to.
    PortRestricted,
    /// One outside port for each socket, open to the addresses that were sent to.
    AddressRestricted,
    /// An outside port for each flow.
    Symmetric,
}

#[derive(Default)]
struct Buffers {
    batch: TunBatch,
    datagrams: Datagrams,
    plan: WritePlan,
    arena: SendArena,
}

impl Machine {
    pub(super) fn new(number: usize) -> Self {
        Self {
            node: None,
            forward: Forward::new([0; 32], ForwardConfig::default()),
            buffers: Buffers::default(),
            ahead: 0,
            port: 40_000 + number as u16,
            sockets: BTreeMap::new(),
            nat: Nat::PortRestricted,
            outside: BTreeMap::new(),
            flows: BTreeMap::new(),
            streams: BTreeMap::new(),
            opened: 0,
            state: None,
            logs: Vec::new(),
            tun: TunState::default(),
            names: Vec::new(),
            replies: BTreeMap::new(),
            delivered: Vec::new(),
            notices: Vec::new(),
            writes: 0,
            shields: None,
            initiations: Vec::new(),
            paths: BTreeMap::new(),
            starts: 0,
            deaf: false,
        }
    }

    /// Starts node and data plane from what is on the disk.
    pub(super) fn start(&mut self, now: Instant, number: usize, recording: Recording) {
        self.starts += 1;
        self.tun = TunState::default();
        let seed = [self.starts.wrapping_mul(31).wrapping_add(number as u8); 32];
        self.forward = Forward::new(seed, ForwardConfig::default());
        let config = Config {
            seed,
            secret: None,
            addresses: Vec::new(),
            peers: Vec::new(),
            suites: vec![Suite::AesGcm, Suite::ChaChaPoly],
            hostname: format!("m{number}"),
            debug: Debug::default(),
        };
        let resume = Resume { state: self.state.clone(), logs: self.logs.clone() };
        self.node = Some(Recorded::new(now, config, resume, recording));
    }

    /// Ends node and closes what it had open; the streams to servers are left to be hung up.
    pub(super) fn stop(&mut self) -> impl Iterator<Item = (u64, usize)> + use<> {
        self.node = None;
        self.sockets.clear();
        std::mem::take(&mut self.streams).into_values()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let node = self.node.as_ref()?;
        [node.poll_timeout(), self.forward.poll_timeout()].into_iter().flatten().min()
    }

    /// Fires the data plane's deadlines; `false` when none is due.
    pub(super) fn fire_forward(&mut self, now: Instant) -> bool {
        let due = self.forward.poll_timeout().is_some_and(|at| at <= now);
        if due {
            self.forward.handle_timeout(now, &mut self.buffers.arena);
        }
        due
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.forward.poll_event()
    }

    pub(super) fn discarded(&self, why: ForwardDiscard) -> u64 {
        self.forward.counters().discarded(why)
    }

    /// Its address in the first network that gave it one.
    pub(super) fn ipv6(&self) -> Option<Ipv6Addr> {
        self.tun.addresses.iter().find_map(|(ip, _)| match ip {
            IpAddr::V6(ip) => Some(*ip),
            IpAddr::V4(_) => None,
        })
    }

    pub(super) fn open_socket(&mut self, socket: SocketId, family: Family, port: Port) -> SocketAddr {
        let fresh = self.sockets.values().max().copied().unwrap_or(50_000) + 100;
        let port = if port == Port::Kept { self.port } else { fresh };
        match family {
            Family::V4 => {
                self.sockets.insert(socket, port);
                SocketAddr::from(([0, 0, 0, 0], port))
            }
            Family::V6 => SocketAddr::from(([0; 16], port)),
        }
    }

    pub(super) fn close_socket(&mut self, socket: SocketId) {
        self.sockets.remove(&socket);
    }

    pub(super) fn command(&mut self, now: Instant, command: Command) {
        if let Command::SetShields(shields) = command {
            self.shields = Some(shields);
        }
        if let Command::SetPath { peer, primary, .. } = &command {
            self.paths.insert(*peer, *primary);
        }
        self.forward.handle_command(now, command, &mut self.buffers.plan, &mut self.buffers.arena);
    }

    /// A program sends a packet.
    pub(super) fn send_packet(&mut self, now: Instant, packet: &[u8]) {
        let buffers = &mut self.buffers;
        assert!(buffers.batch.push(packet));
        self.forward.handle_tun(now, &mut buffers.batch, &mut buffers.plan, &mut buffers.arena);
    }

    /// A datagram comes to an outside port; `false` when it gets no further.
    pub(super) fn receive(&mut self, now: Instant, from: SocketAddr, port: u16, bytes: &[u8]) -> bool {
        let (true, false, Some(socket)) = (self.is_open(now, from, port), self.deaf, self.socket_behind(port)) else {
            return false;
        };
        self.flows.insert((port, from), now);
        if matches!(ginnel_tunnel::classify(bytes), Some((_, MessageKind::Initiation))) {
            self.initiations.push(bytes.to_vec());
        }
        let buffers = &mut self.buffers;
        assert!(buffers.datagrams.push(socket, from, bytes));
        self.forward.handle_datagrams(now, &mut buffers.datagrams, &mut buffers.plan, &mut buffers.arena);
        true
    }

    /// What the data plane has made since the last call: packets are delivered here; datagrams that reach beyond the NAT
    /// are handed back, each with its outside port.
    pub(super) fn leave(&mut self, now: Instant) -> Vec<(u16, SocketAddr, Vec<u8>)> {
        let sent: Vec<_> = self.buffers.arena.iter().map(|t| (t.socket, t.to, t.ttl, t.contents.to_vec())).collect();
        self.delivered.extend(self.buffers.plan.iter().map(<[u8]>::to_vec));
        self.buffers.arena.clear();
        self.buffers.plan.clear();
        let mut left = Vec::new();
        for (socket, to, ttl, bytes) in sent {
            let Some(inside) = self.sockets.get(&socket).copied() else { continue };
            let port = self.map(inside, to);
            self.flows.insert((port, to), now);
            if ttl.is_none_or(|ttl| ttl > 10) {
                left.push((port, to, bytes));
            }
        }
        left
    }

    /// The outside port of a flow.
    fn map(&mut self, inside: u16, to: SocketAddr) -> u16 {
        match self.nat {
            Nat::PortRestricted | Nat::AddressRestricted => inside,
            Nat::Symmetric => {
                let next = 20_000 + self.outside.len() as u16;
                *self.outside.entry((inside, to)).or_insert(next)
            }
        }
    }

    /// Whether the NAT lets `from` in at an outside port.
    fn is_open(&self, now: Instant, from: SocketAddr, port: u16) -> bool {
        let fits = |remote: &SocketAddr| match self.nat {
            Nat::PortRestricted | Nat::Symmetric => *remote == from,
            Nat::AddressRestricted => remote.ip() == from.ip(),
        };
        let live = |at: Instant| now.saturating_duration_since(at) < MAPPING;
        self.flows.iter().any(|((own, remote), at)| *own == port && fits(remote) && live(*at))
    }

    /// The socket to which an outside port belongs.
    fn socket_behind(&self, port: u16) -> Option<SocketId> {
        let inside = match self.nat {
            Nat::PortRestricted | Nat::AddressRestricted => Some(port),
            Nat::Symmetric => {
                self.outside.iter().find(|(_, outside)| **outside == port).map(|((inside, _), _)| *inside)
            }
        };
        self.sockets.iter().find(|(_, own)| Some(**own) == inside).map(|(socket, _)| *socket)
    }

    /// What is stored of a network's log.
    pub(super) fn log(&mut self, network: NetworkId) -> &mut StoredLog {
        let place = self.logs.iter().position(|log| log.network == network).unwrap_or_else(|| {
            self.logs.push(StoredLog { network, snapshot: None, entries: Vec::new() });
            self.logs.len() - 1
        });
        &mut self.logs[place]
    }
}
