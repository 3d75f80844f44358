//! The world of the tests: whole machines (node and data plane) behind port-preserving NATs, and true signaling servers,
//! joined by a wire of 10 ms.

mod host;
mod machine;
mod relay;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ginnel_forward::Command;
use ginnel_signal_proto::Server as Signal;
use ginnel_signal_proto::server::{ConnectionId, Input as SignalInput, LinkId};
use ginnel_time::{Instant, Tai64n};
use ginnel_tunnel::MessageKind;

pub(crate) use host::{Dialled, Writes, host_address};
use host::{End, Host};
use machine::Machine;
pub(crate) use machine::Nat;
pub(crate) use relay::Relay;

use super::stored::length;
use crate::io::{Failure, Input, Output, Reply, Request, RequestId, ServerId, UpOutcome, UpReport};
use crate::node::StoredLog;
use crate::report::{PeerReport, Status};
use crate::tests::record::{Recorded, Recording};

/// The wall clock at the world's start.
pub(crate) const WALL: u64 = 1_800_000_000;
const DELAY: Duration = Duration::from_millis(10);
const SERVER_PORT: u16 = 4433;
const STUN_PORT: u16 = 3478;
/// Every machine's, behind its NAT.
const LAN_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 2));

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
    /// Servers of which neither reaches the other, the lesser first, and what comes of it when one dials.
    apart: BTreeMap<(usize, usize), Dialled>,
    /// Datagrams that reached another machine or a server.
    pub(crate) carried: u64,
    /// How many sealed packets went to addresses that nobody here has.
    pub(crate) astray: BTreeMap<IpAddr, u64>,
    /// How many handshake messages did.
    pub(crate) strays: BTreeMap<IpAddr, u64>,
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

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn public(machine: usize) -> IpAddr {
    IpAddr::from([198, 51, 100, 10 + machine as u8])
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
            apart: BTreeMap::new(),
            carried: 0,
            astray: BTreeMap::new(),
            strays: BTreeMap::new(),
        };
        for number in 0..hosts {
            world.hosts.push(Host::new(number));
            world.start_host(number);
        }
        for number in 0..machines {
            world.machines.push(Machine::new(number));
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

    pub(crate) fn stop(&mut self, number: usize) {
        for (serial, host) in self.machines[number].stop() {
            self.hangup(host, serial);
        }
    }

    pub(crate) fn start(&mut self, number: usize) {
        self.machines[number].start(self.now, number, self.recording);
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
        let [from, to] = [one, other].map(|number| self.machines[number].ipv6().expect("a member has an address"));
        self.send(one, from, to);
    }

    /// Something on a machine sends a packet into the tunnels, whatever addresses it bears.
    pub(crate) fn send(&mut self, number: usize, from: Ipv6Addr, to: Ipv6Addr) {
        let mut packet = vec![0x60, 0, 0, 0, 0, 8, 59, 64];
        packet.extend_from_slice(&from.octets());
        packet.extend_from_slice(&to.octets());
        packet.extend_from_slice(&[number as u8; 8]);
        self.machines[number].send_packet(self.now, &packet);
        self.flush(number);
    }

    /// Packets that a machine's data plane dropped for a reason.
    pub(crate) fn discarded(&self, number: usize, why: ginnel_forward::Discard) -> u64 {
        self.machines[number].discarded(why)
    }

    /// Lets time pass; the wall clocks are told every 30 s.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        let mut steps = 0_u32;
        loop {
            let wire = self.queue.keys().next().map(|(at, _)| *at);
            let machines = self.machines.iter().filter_map(Machine::poll_timeout);
            let hosts = self.hosts.iter().filter_map(|host| host.signal.as_ref().and_then(Signal::poll_timeout));
            let next = machines.chain(hosts).chain(wire).min();
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
            let Some(node) = &mut self.machines[number].node else { continue };
            if node.poll_timeout().is_some_and(|at| at <= now) {
                node.handle_timeout(now);
                self.drain(number);
            }
            if self.machines[number].fire_forward(now) {
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

    fn datagram(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if let Some(number) = self.host_at(to.ip()) {
            self.host_datagram(number, from, to, bytes);
            return;
        }
        let Some(number) = (0..self.machines.len()).find(|number| public(*number) == to.ip()) else {
            let kind = ginnel_tunnel::classify(bytes).map(|(_, kind)| kind);
            let sealed = kind == Some(MessageKind::Data);
            *self.astray.entry(to.ip()).or_default() += u64::from(sealed);
            *self.strays.entry(to.ip()).or_default() += u64::from(kind.is_some() && !sealed);
            return;
        };
        if self.machines[number].receive(self.now, from, to.port(), bytes) {
            self.carried += 1;
            self.flush(number);
        }
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
                let local = machine.open_socket(socket, family, port);
                self.input(number, Input::SocketOpened { socket, local });
            }
            Output::CloseSocket(socket) => machine.close_socket(socket),
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
        let host = self.host_named(addresses);
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
        self.machines[number].command(self.now, command);
        self.flush(number);
    }

    /// Sends what the data plane has made, and tells node what it has seen.
    fn flush(&mut self, number: usize) {
        for (port, to, bytes) in self.machines[number].leave(self.now) {
            let from = SocketAddr::new(public(number), port);
            self.later(Item::Datagram { from, to, bytes });
        }
        while let Some(event) = self.machines[number].poll_event() {
            self.input(number, Input::Forward(event));
        }
    }
}

fn wall(now: Instant, ahead: i64) -> u64 {
    (WALL + now.as_nanos() / 1_000_000_000).saturating_add_signed(ahead)
}
