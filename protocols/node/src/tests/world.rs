//! The world of the tests: whole machines (node and data plane) behind port-preserving NATs, and true signaling servers,
//! joined by a wire of 10 ms.

mod host;
mod relay;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ginnel_forward::{
    Command, Config as ForwardConfig, Datagrams, Forward, PeerId, SendArena, Shields, TunBatch, WritePlan,
};
use ginnel_membership::invite::Token;
use ginnel_membership::{Founding, NetworkId, ServerKeys, SigningKey};
use ginnel_path::{Path, SocketId};
use ginnel_signal_proto::server::{
    Config as SignalConfig, ConnectionId, Input as SignalInput, Limits, LinkId, Outcome, Output as SignalOutput, Stored,
};
use ginnel_signal_proto::{FoundingToken, Server as Signal};
use ginnel_time::{Instant, Tai64n};
use ginnel_tunnel::{MessageKind, StaticSecret, Suite};

pub(crate) use host::Writes;
use host::{End, Host};
pub(crate) use relay::Relay;

use super::stored::length;
use crate::io::{
    Failure, Family, Input, Output, Port, Reply, Request, RequestId, ServerId, TunState, UpOutcome, UpReport,
};
use crate::node::{Config, Debug, Resume, StoredLog};
use crate::notice::Notice;
use crate::report::{PeerReport, Status};
use crate::tests::record::{Recorded, Recording};

/// The wall clock at the world's start.
pub(crate) const WALL: u64 = 1_800_000_000;
const DELAY: Duration = Duration::from_millis(10);
const SERVER_PORT: u16 = 4433;
const STUN_PORT: u16 = 3478;
/// Every machine's, behind its NAT.
const LAN_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 2));
/// What a Linux NAT grants a flow that was never answered.
const MAPPING: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) machines: Vec<Machine>,
    pub(crate) hosts: Vec<Host>,
    queue: BTreeMap<(Instant, u64), Item>,
    order: u64,
    requests: u64,
    /// Streams that carry nothing any more, though neither end knows.
    hung: BTreeSet<u64>,
    recording: Recording,
    /// Machines that cannot reach a server.
    cuts: BTreeSet<(usize, usize)>,
    /// Datagrams that reached another machine or a server.
    pub(crate) carried: u64,
    /// How many sealed packets went to addresses that nobody here has.
    pub(crate) astray: BTreeMap<IpAddr, u64>,
}

enum Item {
    Datagram {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    Opened {
        machine: usize,
        server: ServerId,
        serial: u64,
        host: usize,
    },
    Up {
        machine: usize,
        server: ServerId,
        serial: u64,
        bytes: Vec<u8>,
    },
    Down {
        machine: usize,
        server: ServerId,
        serial: u64,
        bytes: Vec<u8>,
    },
    Closed {
        machine: usize,
        server: ServerId,
        serial: u64,
        reason: &'static str,
    },
    /// From a server to a fellow.
    LinkUp {
        host: usize,
        link: LinkId,
        bytes: Vec<u8>,
    },
    /// Back; nothing for an end, no bytes for the beginning.
    LinkDown {
        host: usize,
        link: LinkId,
        news: Option<Vec<u8>>,
    },
}

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
    streams: BTreeMap<ServerId, (u64, usize)>,
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
    initiations: Vec<Vec<u8>>,
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

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn public(machine: usize) -> IpAddr {
    IpAddr::from([198, 51, 100, 10 + machine as u8])
}

pub(crate) fn host_address(host: usize) -> IpAddr {
    IpAddr::from([203, 0, 113, 1 + host as u8])
}

impl World {
    pub(crate) fn new(machines: usize, hosts: usize) -> Self {
        Self::with(machines, hosts, Recording::Off)
    }

    pub(crate) fn with(machines: usize, hosts: usize, recording: Recording) -> Self {
        let mut world = Self {
            recording,
            now: Instant::ZERO + secs(1000),
            machines: Vec::new(),
            hosts: Vec::new(),
            queue: BTreeMap::new(),
            order: 0,
            requests: 0,
            hung: BTreeSet::new(),
            cuts: BTreeSet::new(),
            carried: 0,
            astray: BTreeMap::new(),
        };
        for number in 0..hosts {
            let key = SigningKey::from_bytes(&[100 + number as u8; 32]);
            let token = [50 + number as u8; 16];
            let tokens = vec![(FoundingToken(Token::from_bytes(token)), None)];
            let disk = Stored { tokens, ..Stored::default() };
            world.hosts.push(Host {
                signal: None,
                key,
                noise: [120 + number as u8; 32],
                token,
                disk,
                lines: BTreeMap::new(),
                links: BTreeMap::new(),
                starts: 0,
                writes: Writes::Durable,
                ahead: 0,
                sees_lan: false,
                relay: None,
            });
            world.start_host(number);
        }
        for number in 0..machines {
            world.machines.push(Machine {
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
            });
            world.start(number);
        }
        world
    }

    /// A network of all machines on the first server, machine 0 its founder, every pair linked.
    pub(crate) fn linked(machines: usize, hosts: usize) -> Self {
        let mut world = Self::new(machines, hosts);
        world.found();
        for number in 1..machines {
            world.join(number);
        }
        world.pass(secs(3));
        for one in 0..machines {
            for other in 0..machines {
                if one != other {
                    world.talk(one, other);
                }
            }
        }
        world.pass(secs(10));
        for one in 0..machines {
            for other in (0..machines).filter(|other| *other != one) {
                assert!(world.reaches(one, other), "{:?}", world.status(one));
            }
        }
        world
    }

    pub(crate) fn found(&mut self) {
        let ticket = Some(self.founding(0));
        let up = self.ask(
            0,
            Request::Up { ticket, name: Some("m0".into()), network: None, shields: None, range: None, ipv4: None },
        );
        assert!(matches!(up, Ok(Reply::Up(UpReport { outcome: UpOutcome::Founded, .. }))), "{up:?}");
        self.pass(secs(2));
    }

    pub(crate) fn invite(&mut self, by: usize) -> String {
        match self.ask(by, Request::Invite { expires: secs(86_400), name: None }) {
            Ok(Reply::Invite { ticket, .. }) => ticket,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn join(&mut self, number: usize) {
        let ticket = Some(self.invite(0));
        let up = self.ask(
            number,
            Request::Up {
                ticket,
                name: Some(format!("m{number}")),
                network: None,
                shields: None,
                range: None,
                ipv4: None,
            },
        );
        assert!(matches!(up, Ok(Reply::Up(UpReport { outcome: UpOutcome::Joined, .. }))), "{up:?}");
    }

    pub(crate) fn server(&self, host: usize) -> ginnel_membership::Server {
        let host_keys = &self.hosts[host];
        let noise = StaticSecret::from_bytes(host_keys.noise).public().to_bytes();
        let keys = ServerKeys { signing: host_keys.key.sequencer_key().to_bytes(), noise };
        ginnel_membership::Server {
            addresses: vec![SocketAddr::new(host_address(host), SERVER_PORT).to_string()],
            keys,
        }
    }

    pub(crate) fn founding(&self, host: usize) -> String {
        let token = Token::from_bytes(self.hosts[host].token);
        Founding::new(self.server(host), token).expect("one address fits").to_string()
    }

    /// Takes a stopped server's disk away; its keys are kept, and it prints a fresh founding string.
    pub(crate) fn wipe_host(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        assert!(host.signal.is_none());
        host.token[0] ^= 0x80;
        let tokens = vec![(FoundingToken(Token::from_bytes(host.token)), None)];
        host.disk = Stored { tokens, ..Stored::default() };
    }

    /// Gives a stopped server a fresh founding string beside the used one.
    pub(crate) fn renew_founding(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        assert!(host.signal.is_none());
        host.token[1] ^= 0x80;
        host.disk.tokens.push((FoundingToken(Token::from_bytes(host.token)), None));
    }

    /// Starts a server anew with a relay.
    pub(crate) fn give_relay(&mut self, number: usize) {
        self.stop_host(number);
        self.hosts[number].relay = Some(Relay::new(SocketAddr::new(host_address(number), STUN_PORT)));
        self.start_host(number);
    }

    pub(crate) fn stop_host(&mut self, number: usize) {
        self.hosts[number].signal = None;
        let lines = std::mem::take(&mut self.hosts[number].lines);
        for end in lines.into_values() {
            self.end(end, "connection lost");
        }
        for (fellow, serial) in std::mem::take(&mut self.hosts[number].links).into_values() {
            self.hosts[fellow].lines.remove(&serial);
            self.tell_host(fellow, SignalInput::Closed { conn: ConnectionId(serial) });
        }
    }

    /// Lets a machine through to a server again.
    pub(crate) fn mend(&mut self, machine: usize, host: usize) {
        self.cuts.remove(&(machine, host));
    }

    /// Lets a machine's stream to a server carry nothing any more.
    pub(crate) fn hang(&mut self, machine: usize, host: usize) {
        let streams = self.machines[machine].streams.values().filter(|(_, at)| *at == host);
        self.hung.extend(streams.map(|(serial, _)| *serial));
    }

    pub(crate) fn is_connected(&self, number: usize) -> bool {
        self.status(number).networks.iter().flat_map(|network| &network.servers).any(|server| server.connected)
    }

    /// Keeps a machine from a server.
    pub(crate) fn cut(&mut self, machine: usize, host: usize) {
        self.cuts.insert((machine, host));
        let streams = self.machines[machine].streams.iter().filter(|(_, (_, at))| *at == host);
        let broken: Vec<_> = streams.map(|(server, (serial, _))| (*server, *serial)).collect();
        for (server, serial) in broken {
            self.hangup(host, serial);
            self.later(Item::Closed { machine, server, serial, reason: "connection lost" });
        }
    }

    fn end(&mut self, end: End, reason: &'static str) {
        self.later(match end {
            End::Machine(machine, server, serial) => Item::Closed { machine, server, serial, reason },
            End::Host(host, link) => Item::LinkDown { host, link, news: None },
        });
    }

    pub(crate) fn start_host(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        host.starts += 1;
        let config = SignalConfig {
            noise: host.noise.into(),
            sequencer: host.key.clone(),
            stun_ports: vec![STUN_PORT],
            relay: host.relay.as_ref().map(Relay::issuer),
            limits: Limits { log_entries: 1 << 20, log_bytes: 1 << 30, ..Limits::default() },
        };
        let wall = wall(self.now, host.ahead);
        let seed = [host.starts; 32];
        let signal =
            Signal::new(seed, config, host.disk.clone(), self.now, wall).expect("the disk holds what it wrote");
        host.signal = Some(signal);
    }

    pub(crate) fn stop(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        machine.node = None;
        machine.sockets.clear();
        let streams = std::mem::take(&mut machine.streams);
        for (serial, host) in streams.into_values() {
            self.hangup(host, serial);
        }
    }

    pub(crate) fn start(&mut self, number: usize) {
        let now = self.now;
        let machine = &mut self.machines[number];
        machine.starts += 1;
        machine.tun = TunState::default();
        let seed = [machine.starts.wrapping_mul(31).wrapping_add(number as u8); 32];
        machine.forward = Forward::new(seed, ForwardConfig::default());
        let config = Config {
            seed,
            secret: None,
            addresses: Vec::new(),
            peers: Vec::new(),
            suites: vec![Suite::AesGcm, Suite::ChaChaPoly],
            hostname: format!("m{number}"),
            debug: Debug::default(),
        };
        let resume = Resume { state: machine.state.clone(), logs: machine.logs.clone() };
        machine.node = Some(Recorded::new(now, config, resume, self.recording));
        self.drain(number);
        self.input(number, Input::Interfaces(vec![LAN_ADDRESS]));
        self.tell_wall(number);
    }

    pub(crate) fn tell_wall(&mut self, number: usize) {
        let wall = wall(self.now, self.machines[number].ahead);
        self.input(number, Input::Wall(Tai64n::from_unix(wall, 0)));
    }

    pub(crate) fn request(&mut self, number: usize, network: Option<&str>, request: Request) -> RequestId {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.input(number, Input::Request { id, network: network.map(str::to_owned), request });
        id
    }

    /// Asks and waits for the answer.
    pub(crate) fn ask(&mut self, number: usize, request: Request) -> Result<Reply, Failure> {
        self.ask_in(number, None, request)
    }

    /// Asks about one network and waits for the answer.
    pub(crate) fn ask_in(&mut self, number: usize, network: Option<&str>, request: Request) -> Result<Reply, Failure> {
        let id = self.request(number, network, request);
        for _ in 0..600 {
            if let Some(reply) = self.machines[number].replies.remove(&id) {
                return reply;
            }
            self.pass(Duration::from_millis(50));
        }
        panic!("no reply within 30 s");
    }

    pub(crate) fn status(&self, number: usize) -> Status {
        self.machines[number].node.as_ref().expect("the machine runs").status(self.now)
    }

    pub(crate) fn peer(&self, number: usize, other: usize) -> Option<PeerReport> {
        self.status(number).peers.into_iter().find(|peer| peer.name == format!("m{other}"))
    }

    /// The handshake initiations that reached a machine so far.
    pub(crate) fn initiations_to(&self, number: usize) -> Vec<Vec<u8>> {
        self.machines[number].initiations.clone()
    }

    pub(crate) fn log_length(&self, number: usize) -> u64 {
        self.status(number).networks.first().map_or(0, |network| network.log_length)
    }

    /// Whether data of one machine goes to another by a direct path.
    pub(crate) fn reaches(&self, one: usize, other: usize) -> bool {
        self.peer(one, other).is_some_and(|peer| peer.path.is_some_and(|path| path.path.remote.ip() == public(other)))
    }

    /// A program on one machine sends another machine a packet.
    pub(crate) fn talk(&mut self, one: usize, other: usize) {
        let own = |machine: &Machine| {
            machine.tun.addresses.iter().find_map(|(ip, _)| match ip {
                IpAddr::V6(ip) => Some(*ip),
                IpAddr::V4(_) => None,
            })
        };
        let from = own(&self.machines[one]).expect("a member has an address");
        let to = own(&self.machines[other]).expect("a member has an address");
        self.send(one, from, to);
    }

    /// Something on a machine sends a packet into the tunnels, whatever addresses it bears.
    pub(crate) fn send(&mut self, number: usize, from: Ipv6Addr, to: Ipv6Addr) {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, 59, 64];
        packet.extend_from_slice(&from.octets());
        packet.extend_from_slice(&to.octets());
        packet.extend_from_slice(&[number as u8; 8]);
        let now = self.now;
        let machine = &mut self.machines[number];
        assert!(machine.buffers.batch.push(&packet));
        let buffers = &mut machine.buffers;
        machine.forward.handle_tun(now, &mut buffers.batch, &mut buffers.plan, &mut buffers.arena);
        self.flush(number);
    }

    /// Packets that a machine's data plane dropped for a reason.
    pub(crate) fn discarded(&self, number: usize, why: ginnel_forward::Discard) -> u64 {
        self.machines[number].forward.counters().discarded(why)
    }

    /// Lets time pass; the wall clocks are told every 30 s.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut steps = 0_u32;
        loop {
            let wire = self.queue.keys().next().map(|(at, _)| *at);
            let machines = self.machines.iter().filter(|machine| machine.node.is_some()).flat_map(|machine| {
                [machine.node.as_ref().and_then(|node| node.poll_timeout()), machine.forward.poll_timeout()]
            });
            let hosts = self.hosts.iter().map(|host| host.signal.as_ref().and_then(Signal::poll_timeout));
            let next = machines.chain(hosts).flatten().chain(wire).min();
            let Some(next) = next.filter(|at| *at <= end) else { break };
            let tick = self.now.as_nanos() / 30_000_000_000 != next.max(self.now).as_nanos() / 30_000_000_000;
            self.now = self.now.max(next);
            steps += 1;
            assert!(steps < 400_000, "the world spins");
            if tick {
                (0..self.machines.len()).for_each(|number| self.tell_wall(number));
            }
            self.step();
        }
        self.now = end;
    }

    fn step(&mut self) {
        let now = self.now;
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= now) {
            let item = entry.remove();
            self.take(item);
        }
        for number in 0..self.machines.len() {
            let machine = &mut self.machines[number];
            let Some(node) = &mut machine.node else { continue };
            if node.poll_timeout().is_some_and(|at| at <= now) {
                node.handle_timeout(now);
                self.drain(number);
            }
            let machine = &mut self.machines[number];
            if machine.forward.poll_timeout().is_some_and(|at| at <= now) {
                machine.forward.handle_timeout(now, &mut machine.buffers.arena);
                self.flush(number);
            }
        }
        for number in 0..self.hosts.len() {
            if let Some(signal) = &mut self.hosts[number].signal
                && signal.poll_timeout().is_some_and(|at| at <= now)
            {
                signal.handle_timeout(now);
                self.serve(number);
            }
        }
    }

    fn later(&mut self, item: Item) {
        self.order += 1;
        self.queue.insert((self.now + DELAY, self.order), item);
    }

    fn take(&mut self, item: Item) {
        match item {
            Item::Up { serial, .. } | Item::Down { serial, .. } if self.hung.contains(&serial) => {}
            Item::Datagram { from, to, bytes } => self.datagram(from, to, &bytes),
            Item::Opened { machine, server, serial, host } => {
                if self.hosts[host].signal.is_none() || self.cuts.contains(&(machine, host)) {
                    let reason = "no answer";
                    return self.take(Item::Closed { machine, server, serial, reason });
                }
                if self.machines[machine].streams.get(&server) != Some(&(serial, host)) {
                    return;
                }
                self.machines[machine].opened += 1;
                self.hosts[host].lines.insert(serial, End::Machine(machine, server, serial));
                let from = SocketAddr::new(public(machine), 5000);
                self.tell_host(host, SignalInput::Opened { conn: ConnectionId(serial), from });
                let remote = SocketAddr::new(host_address(host), SERVER_PORT);
                self.input(machine, Input::ServerOpened { server, remote });
            }
            Item::Up { machine, server, serial, bytes } => {
                if let Some((current, host)) = self.machines[machine].streams.get(&server).copied()
                    && current == serial
                {
                    self.tell_host(host, SignalInput::Received { conn: ConnectionId(serial), bytes });
                }
            }
            Item::Down { machine, server, serial, bytes } => {
                if self.machines[machine].streams.get(&server).is_some_and(|(current, _)| *current == serial) {
                    self.input(machine, Input::ServerBytes { server, bytes });
                }
            }
            Item::LinkUp { host, link, bytes } => {
                if let Some((fellow, serial)) = self.hosts[host].links.get(&link.0).copied() {
                    self.tell_host(fellow, SignalInput::Received { conn: ConnectionId(serial), bytes });
                }
            }
            Item::LinkDown { host, link, news } => {
                let input = match news {
                    Some(bytes) if bytes.is_empty() => SignalInput::LinkOpened { link },
                    Some(bytes) => SignalInput::LinkReceived { link, bytes },
                    None => {
                        self.hosts[host].links.remove(&link.0);
                        SignalInput::LinkClosed { link, why: "gone".to_owned() }
                    }
                };
                self.tell_host(host, input);
            }
            Item::Closed { machine, server, serial, reason } => {
                if self.machines[machine].streams.get(&server).is_some_and(|(current, _)| *current == serial) {
                    self.machines[machine].streams.remove(&server);
                    self.input(machine, Input::ServerClosed { server, reason: reason.to_owned() });
                }
            }
        }
    }

    /// A server answers STUN, and relays if it has a relay.
    fn host_datagram(&mut self, number: usize, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let now = self.now;
        let host = &mut self.hosts[number];
        let seen = if host.sees_lan { SocketAddr::new(LAN_ADDRESS, from.port()) } else { from };
        if host.signal.is_none() {
            return;
        }
        if let Ok(bytes) = ginnel_stun::answer_binding(bytes, seen) {
            self.later(Item::Datagram { from: to, to: from, bytes });
        } else if let Some(relay) = &mut host.relay {
            for (from, to, bytes) in relay.take(now, from, to, bytes) {
                self.later(Item::Datagram { from, to, bytes });
            }
        }
    }

    fn datagram(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if let Some(number) = (0..self.hosts.len()).find(|number| host_address(*number) == to.ip()) {
            self.host_datagram(number, from, to, bytes);
            return;
        }
        let Some(number) = (0..self.machines.len()).find(|number| public(*number) == to.ip()) else {
            let sealed = matches!(ginnel_tunnel::classify(bytes), Some((_, MessageKind::Data)));
            *self.astray.entry(to.ip()).or_default() += u64::from(sealed);
            return;
        };
        let now = self.now;
        let machine = &mut self.machines[number];
        let fits = |remote: &SocketAddr| match machine.nat {
            Nat::PortRestricted | Nat::Symmetric => *remote == from,
            Nat::AddressRestricted => remote.ip() == from.ip(),
        };
        let live = |at: Instant| now.saturating_duration_since(at) < MAPPING;
        let open = machine.flows.iter().any(|((port, remote), at)| *port == to.port() && fits(remote) && live(*at));
        let inside = match machine.nat {
            Nat::PortRestricted | Nat::AddressRestricted => Some(to.port()),
            Nat::Symmetric => machine.outside.iter().find(|(_, port)| **port == to.port()).map(|((port, _), _)| *port),
        };
        let socket = machine.sockets.iter().find(|(_, port)| Some(**port) == inside).map(|(socket, _)| *socket);
        let (true, false, Some(socket)) = (open, machine.deaf, socket) else { return };
        machine.flows.insert((to.port(), from), now);
        self.carried += 1;
        if matches!(ginnel_tunnel::classify(bytes), Some((_, MessageKind::Initiation))) {
            machine.initiations.push(bytes.to_vec());
        }
        let buffers = &mut machine.buffers;
        assert!(buffers.datagrams.push(socket, from, bytes));
        machine.forward.handle_datagrams(now, &mut buffers.datagrams, &mut buffers.plan, &mut buffers.arena);
        self.flush(number);
    }

    pub(crate) fn input(&mut self, number: usize, input: Input) {
        let now = self.now;
        if let Some(node) = &mut self.machines[number].node {
            let _ = node.handle_input(now, input);
            self.drain(number);
        }
    }

    fn drain(&mut self, number: usize) {
        while let Some(output) = self.machines[number].node.as_mut().and_then(Recorded::poll_output) {
            self.output(number, output);
        }
    }

    fn output(&mut self, number: usize, output: Output) {
        let machine = &mut self.machines[number];
        match output {
            Output::Forward(command) => self.command(number, command),
            Output::OpenSocket { socket, family, port } => {
                let fresh = machine.sockets.values().max().copied().unwrap_or(50_000) + 100;
                let port = if port == Port::Kept { machine.port } else { fresh };
                let local = match family {
                    Family::V4 => {
                        machine.sockets.insert(socket, port);
                        SocketAddr::from(([0, 0, 0, 0], port))
                    }
                    Family::V6 => SocketAddr::from(([0; 16], port)),
                };
                self.input(number, Input::SocketOpened { socket, local });
            }
            Output::CloseSocket(socket) => {
                machine.sockets.remove(&socket);
            }
            Output::ConnectServer { server, addresses } => self.connect(number, server, &addresses),
            Output::WriteServer { server, bytes } => {
                if let Some((serial, _)) = machine.streams.get(&server).copied() {
                    self.later(Item::Up { machine: number, server, serial, bytes });
                }
            }
            Output::DisconnectServer(server) => {
                if let Some((serial, host)) = machine.streams.remove(&server) {
                    self.hangup(host, serial);
                }
            }
            Output::Tun(state) => machine.tun = state,
            Output::Names(names) => machine.names = names,
            Output::Persist(state) => {
                machine.writes += 1;
                machine.state = Some(state);
            }
            Output::StoreEntries { network, entries } => machine.log(network).entries.extend(entries),
            Output::StoreSnapshot { network, snapshot, entry, entries } => {
                let stored = StoredLog { network, snapshot: Some((snapshot, entry)), entries };
                assert!(length(&stored) >= length(machine.log(network)), "what was stored is gone");
                *machine.log(network) = stored;
            }
            Output::ForgetLog(network) => machine.logs.retain(|log| log.network != network),
            Output::Notice { notice, .. } => machine.notices.push(notice),
            Output::Reply { id, reply } => {
                machine.replies.insert(id, reply);
            }
        }
    }

    fn connect(&mut self, number: usize, server: ServerId, addresses: &[String]) {
        self.order += 1;
        let serial = self.order;
        let wanted: Option<SocketAddr> = addresses.first().and_then(|text| text.parse().ok());
        let host = (0..self.hosts.len()).find(|host| wanted.is_some_and(|addr| addr.ip() == host_address(*host)));
        self.machines[number].streams.insert(server, (serial, host.unwrap_or(usize::MAX)));
        match host {
            Some(host) => self.later(Item::Opened { machine: number, server, serial, host }),
            None => self.later(Item::Closed { machine: number, server, serial, reason: "no route" }),
        }
    }

    fn hangup(&mut self, host: usize, serial: u64) {
        if self.hosts.get_mut(host).is_some_and(|host| host.lines.remove(&serial).is_some()) {
            self.tell_host(host, SignalInput::Closed { conn: ConnectionId(serial) });
        }
    }

    /// Gives a machine's data plane an order: its node's, or one behind the node's back, as in a changed daemon.
    pub(crate) fn command(&mut self, number: usize, command: Command) {
        let now = self.now;
        let machine = &mut self.machines[number];
        if let Command::SetShields(shields) = command {
            machine.shields = Some(shields);
        }
        if let Command::SetPath { peer, primary, .. } = &command {
            machine.paths.insert(*peer, *primary);
        }
        machine.forward.handle_command(now, command, &mut machine.buffers.plan, &mut machine.buffers.arena);
        self.flush(number);
    }

    /// Sends what the data plane has made, and tells node what it has seen.
    fn flush(&mut self, number: usize) {
        let now = self.now;
        let machine = &mut self.machines[number];
        let sent: Vec<_> = machine.buffers.arena.iter().map(|t| (t.socket, t.to, t.ttl, t.contents.to_vec())).collect();
        machine.delivered.extend(machine.buffers.plan.iter().map(<[u8]>::to_vec));
        machine.buffers.arena.clear();
        machine.buffers.plan.clear();
        for (socket, to, ttl, bytes) in sent {
            let machine = &mut self.machines[number];
            let Some(inside) = machine.sockets.get(&socket).copied() else { continue };
            let port = match machine.nat {
                Nat::PortRestricted | Nat::AddressRestricted => inside,
                Nat::Symmetric => {
                    let next = 20_000 + machine.outside.len() as u16;
                    *machine.outside.entry((inside, to)).or_insert(next)
                }
            };
            machine.flows.insert((port, to), now);
            if ttl.is_none_or(|ttl| ttl > 10) {
                let from = SocketAddr::new(public(number), port);
                self.later(Item::Datagram { from, to, bytes });
            }
        }
        while let Some(event) = self.machines[number].forward.poll_event() {
            self.input(number, Input::Forward(event));
        }
    }

    /// One server opens a stream to another.
    fn dial(&mut self, number: usize, link: LinkId, addresses: &[String]) {
        let wanted: Option<SocketAddr> = addresses.first().and_then(|text| text.parse().ok());
        let fellow = (0..self.hosts.len()).find(|host| wanted.is_some_and(|addr| addr.ip() == host_address(*host)));
        match fellow.filter(|fellow| self.hosts[*fellow].signal.is_some()) {
            Some(fellow) => {
                self.order += 1;
                let serial = self.order;
                self.hosts[number].links.insert(link.0, (fellow, serial));
                self.hosts[fellow].lines.insert(serial, End::Host(number, link));
                let from = SocketAddr::new(host_address(number), 6000);
                self.tell_host(fellow, SignalInput::Opened { conn: ConnectionId(serial), from });
                self.later(Item::LinkDown { host: number, link, news: Some(Vec::new()) });
            }
            None => self.later(Item::LinkDown { host: number, link, news: None }),
        }
    }

    fn tell_host(&mut self, number: usize, input: SignalInput) {
        let now = self.now;
        if let Some(signal) = &mut self.hosts[number].signal {
            let _ = signal.handle_input(now, input);
            self.serve(number);
        }
    }

    fn serve(&mut self, number: usize) {
        while let Some(output) = self.hosts[number].signal.as_mut().and_then(Signal::poll_output) {
            match output {
                SignalOutput::Write { conn, bytes } => {
                    let length = bytes.len();
                    let item = match self.hosts[number].lines.get(&conn.0).copied() {
                        Some(End::Machine(machine, server, serial)) => Item::Down { machine, server, serial, bytes },
                        Some(End::Host(host, link)) => Item::LinkDown { host, link, news: Some(bytes) },
                        None => continue,
                    };
                    self.later(item);
                    self.tell_host(number, SignalInput::Flushed { conn, bytes: length });
                }
                SignalOutput::Close { conn } => {
                    if let Some(end) = self.hosts[number].lines.remove(&conn.0) {
                        self.end(end, "the server closed");
                    }
                }
                SignalOutput::Dial { link, addresses } => self.dial(number, link, &addresses),
                SignalOutput::LinkWrite { link, bytes } => self.later(Item::LinkUp { host: number, link, bytes }),
                SignalOutput::LinkClose { link } => {
                    if let Some((fellow, serial)) = self.hosts[number].links.remove(&link.0) {
                        self.hosts[fellow].lines.remove(&serial);
                        self.tell_host(fellow, SignalInput::Closed { conn: ConnectionId(serial) });
                    }
                }
                SignalOutput::Witness { .. } => {}
                SignalOutput::Store { .. } if self.hosts[number].writes == Writes::Unanswered => {}
                SignalOutput::Store { ticket, change } => {
                    self.hosts[number].keep(change);
                    self.tell_host(number, SignalInput::Stored { ticket, outcome: Outcome::Durable });
                }
            }
        }
    }
}

impl Machine {
    /// What is stored of a network's log.
    fn log(&mut self, network: NetworkId) -> &mut StoredLog {
        let place = self.logs.iter().position(|log| log.network == network).unwrap_or_else(|| {
            self.logs.push(StoredLog { network, snapshot: None, entries: Vec::new() });
            self.logs.len() - 1
        });
        &mut self.logs[place]
    }
}

fn wall(now: Instant, ahead: i64) -> u64 {
    (WALL + now.as_nanos() / 1_000_000_000).saturating_add_signed(ahead)
}
