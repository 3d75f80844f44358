//! One member's machine: a real node and a real data plane, and the shell around them in miniature.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_forward::{
    Command, Config as ForwardConfig, Datagrams, Discard as ForwardDiscard, Event, Forward, PeerId, SendArena,
    TunBatch, WritePlan,
};
use ginnel_membership::NetworkId;
use ginnel_node::{
    Config, Debug, Discard, Family, Input, Node, Notice, Output, Port, Reply, Request, RequestId, Resume, ServerId,
    StoredLog, TunState,
};
use ginnel_path::{Local, Path, SocketId};
use ginnel_time::{Instant, Tai64n};
use ginnel_tunnel::Suite;

use crate::dice::Dice;
use crate::net::Realm;
use crate::server::{self, Room};
use crate::station;
use crate::watch::Watch;

/// What a machine wants done.
pub(crate) enum Effect {
    /// A command on its way from node to the data plane.
    Command(Command),
    /// An event or an answer of the shell on its way to node.
    Input(Input),
    Datagram {
        socket: SocketId,
        to: SocketAddr,
        ttl: Option<u8>,
        bytes: Vec<u8>,
    },
    /// An IP packet for the programs on the machine.
    Deliver(Vec<u8>),
    /// The interface's wanted state, which the shell sets up after the commands before it.
    Tun(TunState),
    Connect(ServerId, Vec<String>),
    Write(ServerId, Vec<u8>),
    Disconnect(ServerId),
    Reply(RequestId, Result<Reply, String>),
    /// The daemon died, as it was doomed to.
    Died,
    /// A machine broke the contract.
    Broken(String),
}

/// Whether all lines of a world leave bits as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lines {
    Sound,
    Corrupting,
}

/// Who is exposed to somebody who is not what it seems.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Company {
    /// Machines: a member, a relay or a server means harm.
    pub(crate) nodes: Manners,
    /// Servers: somebody who calls them, or a fellow, means harm.
    pub(crate) servers: Manners,
}

/// How others behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Manners {
    #[default]
    Honest,
    Hostile,
}

/// Whether a machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Awake,
    /// Suspended: nothing happens to it, and datagrams for it are lost.
    Asleep,
    /// The daemon does not run.
    Dead,
}

/// How the next write to the disk ends the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doom {
    /// Before anything of it is on the disk; the generation before is whole.
    Torn,
    /// With all of it on the disk, and nothing after it done.
    Written,
}

/// How a machine is set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) name: String,
    pub(crate) realm: Realm,
    pub(crate) address: IpAddr,
    pub(crate) suites: Vec<Suite>,
    /// How far its wall clock is from the server's, in seconds.
    pub(crate) clock_ahead: i64,
    /// Longest time that commands and events take between node and the data plane.
    pub(crate) lag: Duration,
    /// Handshake and STUN datagrams lost between the data plane and node, of a thousand.
    pub(crate) raw_drops: u64,
}

pub(crate) struct Machine {
    pub(crate) setup: Setup,
    /// Counts restarts.
    pub(crate) epoch: u32,
    pub(crate) life: Life,
    /// When it woke last with what it held when it fell asleep.
    pub(crate) woke: Option<Instant>,
    room: Room,
    doom: Option<Doom>,
    node: Node,
    forward: Forward,
    pub(crate) sockets: BTreeMap<SocketId, u16>,
    kept_port: u16,
    pub(crate) tun: TunState,
    /// The primary path of each peer in the data plane, and whether data goes by two.
    pub(crate) paths: BTreeMap<PeerId, Option<Path>>,
    pub(crate) owners: BTreeMap<IpAddr, PeerId>,
    buffers: Buffers,
    watch: Watch,
    /// How often the node has said that somebody cheats.
    pub(crate) alarms: usize,
    /// What is written, and what the daemon wants written.
    disk: Disk,
    wanted: Disk,
    node_due: Option<Instant>,
    forward_due: Option<Instant>,
    next_request: u64,
    dice: Dice,
    effects: Vec<Effect>,
}

/// What is in a state folder.
#[derive(Clone, Debug, Default)]
struct Disk {
    state: Option<Vec<u8>>,
    logs: Vec<StoredLog>,
}

impl Disk {
    /// What is stored of a network's log.
    fn log(&mut self, network: NetworkId) -> &mut StoredLog {
        let place = self.logs.iter().position(|log| log.network == network).unwrap_or_else(|| {
            self.logs.push(StoredLog { network, snapshot: None, entries: Vec::new() });
            self.logs.len() - 1
        });
        &mut self.logs[place]
    }
}

#[derive(Default)]
struct Buffers {
    batch: TunBatch,
    datagrams: Datagrams,
    plan: WritePlan,
    arena: SendArena,
}

impl Machine {
    pub(crate) fn new(now: Instant, setup: Setup, mut dice: Dice) -> Self {
        let mut machine = Self {
            node: node(now, &setup, Resume::default(), &mut dice),
            forward: Forward::new(dice.seed(), ForwardConfig::default()),
            epoch: 0,
            life: Life::Awake,
            woke: None,
            room: Room::Free,
            doom: None,
            sockets: BTreeMap::new(),
            kept_port: dice.port(),
            tun: TunState::default(),
            paths: BTreeMap::new(),
            owners: BTreeMap::new(),
            buffers: Buffers::default(),
            watch: Watch::default(),
            alarms: 0,
            disk: Disk::default(),
            wanted: Disk::default(),
            node_due: None,
            forward_due: None,
            next_request: 0,
            effects: Vec::new(),
            setup,
            dice,
        };
        machine.start(now);
        machine
    }

    /// Ends both machines, as a kill does.
    pub(crate) fn die(&mut self) {
        self.epoch += 1;
        self.life = Life::Dead;
        self.woke = None;
        self.doom = None;
        self.effects.clear();
        self.sockets.clear();
        self.paths.clear();
        self.owners.clear();
        self.watch = Watch::default();
        (self.node_due, self.forward_due) = (None, None);
    }

    /// Ends a suspension.
    pub(crate) const fn wake(&mut self, now: Instant) {
        self.life = Life::Awake;
        self.woke = Some(now);
    }

    /// Starts both machines from what is on the disk.
    pub(crate) fn revive(&mut self, now: Instant) {
        self.life = Life::Awake;
        self.tun = TunState::default();
        self.wanted.clone_from(&self.disk);
        let Disk { state, logs } = self.disk.clone();
        let resume = Resume { state, logs };
        self.node = node(now, &self.setup, resume, &mut self.dice);
        self.forward = Forward::new(self.dice.seed(), ForwardConfig::default());
        self.start(now);
    }

    /// Lets the next write to the disk end the daemon, or spares it again.
    pub(crate) const fn doom(&mut self, doom: Option<Doom>) {
        self.doom = doom;
    }

    /// Gives the machine another place; the caller has moved its attachment.
    pub(crate) fn moved(&mut self, now: Instant, realm: Realm, address: IpAddr) {
        (self.setup.realm, self.setup.address) = (realm, address);
        if self.life == Life::Awake {
            self.input(now, Input::Interfaces(vec![address]));
        }
    }

    pub(crate) fn tell_wall(&mut self, now: Instant) {
        let unix = server::unix(now).saturating_add_signed(self.setup.clock_ahead);
        let nanos = u32::try_from(now.as_nanos() % 1_000_000_000).expect("below a second");
        self.input(now, Input::Wall(Tai64n::from_unix(unix, nanos)));
    }

    pub(crate) fn request(&mut self, now: Instant, request: Request) -> RequestId {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.input(now, Input::Request { id, network: None, request });
        id
    }

    pub(crate) fn input(&mut self, now: Instant, input: Input) {
        // What node had no use for it has counted.
        let _ = self.node.handle_input(now, input);
        self.drain_node(now);
    }

    pub(crate) fn command(&mut self, now: Instant, command: Command) {
        if let Some(wrong) = self.watch.command(&command) {
            self.effects.push(Effect::Broken(format!("{}: {wrong}", self.setup.name)));
        }
        match &command {
            Command::AddPeer { peer, allowed, .. } => {
                self.owners.extend(allowed.iter().map(|(address, _)| (*address, *peer)));
            }
            Command::RemovePeer { peer } => {
                self.owners.retain(|_, owner| owner != peer);
                self.paths.remove(peer);
            }
            Command::SetPath { peer, primary, .. } => {
                self.paths.insert(*peer, *primary);
            }
            Command::SetOwn { .. }
            | Command::Install { .. }
            | Command::Forget { .. }
            | Command::SealControl { .. }
            | Command::Send { .. }
            | Command::SetRelay { .. }
            | Command::RemoveRelay { .. }
            | Command::BindChannel { .. }
            | Command::UnbindChannel { .. }
            | Command::Inject { .. }
            | Command::SetShields(_)
            | Command::SetKeys(_) => {}
        }
        self.forward.handle_command(now, command, &mut self.buffers.plan, &mut self.buffers.arena);
        self.flush(now);
    }

    /// A program on the machine sends a packet.
    pub(crate) fn send_packet(&mut self, now: Instant, packet: &[u8]) {
        let fits = self.buffers.batch.push(packet);
        debug_assert!(fits, "an empty batch takes a packet");
        self.forward.handle_tun(now, &mut self.buffers.batch, &mut self.buffers.plan, &mut self.buffers.arena);
        self.flush(now);
    }

    /// A datagram came in on a port; tells whether nothing was in the way of opening it.
    pub(crate) fn receive(&mut self, now: Instant, port: u16, from: SocketAddr, bytes: &[u8]) -> bool {
        let Some(socket) = self.sockets.iter().find(|(_, own)| **own == port).map(|(socket, _)| *socket) else {
            return false;
        };
        let before = self.unopened();
        self.buffers.datagrams.push(socket, from, bytes);
        self.forward.handle_datagrams(
            now,
            &mut self.buffers.datagrams,
            &mut self.buffers.plan,
            &mut self.buffers.arena,
        );
        let opened = self.unopened() == before;
        self.flush(now);
        opened
    }

    /// Sealed datagrams that came to nobody, or could not be opened.
    fn unopened(&self) -> u64 {
        let reasons = [
            ForwardDiscard::UnknownChannel,
            ForwardDiscard::ForeignChannelData,
            ForwardDiscard::UnknownIndex,
            ForwardDiscard::WrongSuite,
            ForwardDiscard::KeyExpired,
            ForwardDiscard::KeyExhausted,
            ForwardDiscard::Forged,
            ForwardDiscard::Replayed,
        ];
        let counters = self.forward.counters();
        reasons.into_iter().map(|reason| counters.discarded(reason)).sum()
    }

    /// Datagrams that have been made and wait to be sent.
    pub(crate) fn waiting_datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.effects.iter().filter_map(|effect| {
            if let Effect::Datagram { bytes, .. } = effect { Some(bytes.as_slice()) } else { None }
        })
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.node_due.is_some_and(|due| due <= now) {
            self.node.handle_timeout(now);
            self.drain_node(now);
            self.check_moved("node", self.node_due, now);
        }
        if self.forward_due.is_some_and(|due| due <= now) {
            self.forward.handle_timeout(now, &mut self.buffers.arena);
            self.flush(now);
            self.check_moved("forward", self.forward_due, now);
        }
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        if self.life != Life::Awake {
            return None;
        }
        [self.node_due, self.forward_due].into_iter().flatten().min()
    }

    pub(crate) fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// How long something takes between node and the data plane this time.
    pub(crate) fn lag(&mut self) -> Duration {
        self.dice.time(Duration::from_micros(5), self.setup.lag)
    }

    /// Tells whether data for `address` goes out directly, and by which path.
    pub(crate) fn path_to(&self, address: IpAddr) -> Option<Path> {
        self.paths.get(self.owners.get(&address)?).copied().flatten()
    }

    pub(crate) fn is_direct_to(&self, address: IpAddr) -> bool {
        self.path_to(address)
            .is_some_and(|path| matches!(path.local, Local::Socket(_)) && !station::is_station(path.remote.ip()))
    }

    /// The machine's own address in the network.
    pub(crate) fn tunnel_address(&self, family: Family) -> Option<IpAddr> {
        let fits = |address: &IpAddr| address.is_ipv4() == (family == Family::V4);
        self.tun.addresses.iter().map(|(address, _)| *address).find(fits)
    }

    /// Entries of the log that the machine has verified, and whether a server is there for it.
    pub(crate) fn log(&self, now: Instant) -> Option<(u64, bool)> {
        let network = self.node.status(now).networks.into_iter().next()?;
        Some((network.log_length, network.servers.iter().any(|server| server.connected)))
    }

    /// The network that it is in.
    pub(crate) fn network(&self) -> Option<NetworkId> {
        self.disk.logs.first().map(|log| log.network)
    }

    /// Peers that it has a way to.
    pub(crate) fn reached_peers(&self) -> Vec<PeerId> {
        self.paths.iter().filter(|(_, path)| path.is_some()).map(|(peer, _)| *peer).collect()
    }

    /// The entries of the log on the disk, from the last snapshot on.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.disk.logs.iter().flat_map(|log| &log.entries)
    }

    /// Whether an address is this machine's own in the network.
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        self.tun.addresses.iter().any(|(own, _)| *own == address)
    }

    /// Whether the data plane has a peer with this address.
    pub(crate) fn knows(&self, address: IpAddr) -> bool {
        self.owners.contains_key(&address)
    }

    /// Whether a datagram that goes out is sealed for the one with this address.
    pub(crate) fn seals_for(&self, bytes: &[u8], address: IpAddr) -> bool {
        self.owners.get(&address).is_some_and(|peer| self.watch.addressee(bytes) == Some(*peer))
    }

    /// Why a peer is reached as it is, for a report.
    pub(crate) fn describe(&self, now: Instant) -> String {
        let status = self.node.status(now);
        let networks = status.networks.into_iter().map(|network| (network.state, network.log_length, network.servers));
        let networks: Vec<_> = networks.collect();
        let peers: Vec<_> = status
            .peers
            .into_iter()
            .map(|peer| {
                format!("{}: {:?} backup {:?} connecting {}", peer.name, peer.path, peer.backup, peer.connecting)
            })
            .collect();
        let discards: Vec<_> = self.node.counters().iter().collect();
        let forward: Vec<_> = self.forward.counters().discards().filter(|(_, count)| *count > 0).collect();
        format!(
            "{} at {}: {networks:?} candidates {:?} peers {peers:#?} node {discards:?} forward {forward:?}",
            self.setup.name, self.setup.address, status.candidates
        )
    }

    /// What was dropped that honest peers on honest lines never send.
    ///
    /// On lines that corrupt, forged datagrams are no wonder; in hostile company nothing is that comes from outside.
    pub(crate) fn oddities(&self, lines: Lines, company: Company) -> Vec<String> {
        let own = ForwardDiscard::KeyExhausted;
        if company.nodes == Manners::Hostile {
            let count = self.forward.counters().discarded(own);
            return (count > 0).then(|| format!("{}: {count} x {own}", self.setup.name)).into_iter().collect();
        }
        let node = [Discard::BadServerMessage, Discard::ForeignMail, Discard::SuiteNotAllowed, Discard::BadPeerKey];
        let forward = [
            ForwardDiscard::WrongSuite,
            ForwardDiscard::UnknownMetadata,
            ForwardDiscard::UnknownPlaintext,
            ForwardDiscard::MalformedProbe,
            ForwardDiscard::MalformedPacket,
            ForwardDiscard::SpoofedSource,
            ForwardDiscard::Forged,
            ForwardDiscard::BadChannel,
            ForwardDiscard::TooLong,
            own,
        ];
        let counters = self.forward.counters();
        let node = node.map(|discard| (discard.to_string(), self.node.counters().of(discard)));
        let forward = forward.map(|discard| (discard.to_string(), counters.discarded(discard)));
        // A turned bit spoils the tag, or names another suite.
        let spoilt = [ForwardDiscard::Forged.to_string(), ForwardDiscard::WrongSuite.to_string()];
        let wonder = |discard: &String| lines == Lines::Sound || !spoilt.contains(discard);
        let odd = node.into_iter().chain(forward).filter(|(discard, count)| *count > 0 && wonder(discard));
        odd.map(|(discard, count)| format!("{}: {count} x {discard}", self.setup.name)).collect()
    }

    fn start(&mut self, now: Instant) {
        self.drain_node(now);
        self.forward_due = self.forward.poll_timeout();
        self.tell_wall(now);
        self.input(now, Input::Interfaces(vec![self.setup.address]));
    }

    fn check_moved(&mut self, what: &str, due: Option<Instant>, now: Instant) {
        if self.life == Life::Awake && due.is_some_and(|due| due <= now) {
            let text = format!("{} of {}: a deadline does not move: {due:?} at {now:?}", what, self.setup.name);
            self.effects.push(Effect::Broken(text));
        }
    }

    fn drain_node(&mut self, now: Instant) {
        loop {
            let due = self.node.poll_timeout();
            let Some(output) = self.node.poll_output() else { break };
            if due != Some(now) {
                let text = format!("node of {}: {due:?} instead of {now:?} while output waits", self.setup.name);
                self.effects.push(Effect::Broken(text));
            }
            self.take_output(output);
            if self.life == Life::Dead {
                return;
            }
        }
        self.node_due = self.node.poll_timeout();
    }

    fn take_output(&mut self, output: Output) {
        match output {
            Output::Forward(command) => self.effects.push(Effect::Command(command)),
            Output::OpenSocket { socket, family, port } => self.open(socket, family, port),
            Output::CloseSocket(socket) => {
                self.sockets.remove(&socket);
            }
            Output::ConnectServer { server, addresses } => self.effects.push(Effect::Connect(server, addresses)),
            Output::WriteServer { server, bytes } => self.effects.push(Effect::Write(server, bytes)),
            Output::DisconnectServer(server) => self.effects.push(Effect::Disconnect(server)),
            Output::Tun(state) => self.effects.push(Effect::Tun(state)),
            Output::Persist(state) => self.write(|disk| disk.state = Some(state)),
            Output::StoreEntries { network, entries } => self.write(|disk| disk.log(network).entries.extend(entries)),
            Output::StoreSnapshot { network, snapshot, entry, entries } => self.write(|disk| {
                let log = disk.log(network);
                log.snapshot = Some((snapshot, entry));
                log.entries = entries;
            }),
            Output::ForgetLog(network) => self.write(|disk| disk.logs.retain(|log| log.network != network)),
            Output::Notice { notice: Notice::Alarm { .. }, .. } => self.alarms += 1,
            Output::Names(_) | Output::Notice { .. } => {}
            Output::Reply { id, reply } => {
                let reply = reply.map_err(|failure| format!("{:?}: {}", failure.code, failure.message));
                self.effects.push(Effect::Reply(id, reply));
            }
        }
    }

    /// Writes to the disk, unless the daemon dies of it. What a full disk does not take waits for room in memory.
    fn write(&mut self, write: impl FnOnce(&mut Disk)) {
        let doom = self.doom.take();
        if doom != Some(Doom::Torn) {
            write(&mut self.wanted);
        }
        if self.room == Room::Free {
            self.disk.clone_from(&self.wanted);
        }
        if doom.is_some() {
            self.life = Life::Dead;
            self.effects.push(Effect::Died);
        }
    }

    /// Fills the disk, or makes room; then what waited is written.
    pub(crate) fn room(&mut self, room: Room) {
        self.room = room;
        if room == Room::Free && self.life != Life::Dead {
            self.disk.clone_from(&self.wanted);
        }
    }

    /// Opens a socket; the world is one of IPv4, so IPv6 sockets open and reach nothing.
    fn open(&mut self, socket: SocketId, family: Family, port: Port) {
        let number = match (family, port) {
            (Family::V4, Port::Kept) => self.kept_port,
            (Family::V4, Port::Fresh) => self.free_port(),
            (Family::V6, _) => 0,
        };
        let local = match family {
            Family::V4 => {
                self.sockets.insert(socket, number);
                SocketAddr::from(([0, 0, 0, 0], number))
            }
            Family::V6 => SocketAddr::from(([0; 16], self.kept_port)),
        };
        self.effects.push(Effect::Input(Input::SocketOpened { socket, local }));
    }

    fn free_port(&mut self) -> u16 {
        loop {
            let port = self.dice.port();
            if port != self.kept_port && !self.sockets.values().any(|taken| *taken == port) {
                return port;
            }
        }
    }

    /// Sends, writes and reports what the data plane has made.
    fn flush(&mut self, now: Instant) {
        for transmit in self.buffers.arena.iter() {
            if let Some(wrong) = self.watch.datagram(transmit.contents) {
                self.effects.push(Effect::Broken(format!("{}: {wrong}", self.setup.name)));
            }
            self.effects.push(Effect::Datagram {
                socket: transmit.socket,
                to: transmit.to,
                ttl: transmit.ttl,
                bytes: transmit.contents.to_vec(),
            });
        }
        self.buffers.arena.clear();
        self.effects.extend(self.buffers.plan.iter().map(|packet| Effect::Deliver(packet.to_vec())));
        self.buffers.plan.clear();
        loop {
            let due = self.forward.poll_timeout();
            let Some(event) = self.forward.poll_event() else { break };
            if due.is_none_or(|due| due > now) {
                let text = format!("forward of {}: {due:?} at {now:?} while an event waits", self.setup.name);
                self.effects.push(Effect::Broken(text));
            }
            let raw = matches!(event, Event::Handshake { .. } | Event::Stun { .. });
            if !(raw && self.dice.chance(self.setup.raw_drops)) {
                self.effects.push(Effect::Input(Input::Forward(event)));
            }
        }
        self.forward_due = self.forward.poll_timeout();
    }
}

fn node(now: Instant, setup: &Setup, resume: Resume, dice: &mut Dice) -> Node {
    let config = Config {
        seed: dice.seed(),
        secret: None,
        addresses: Vec::new(),
        peers: Vec::new(),
        suites: setup.suites.clone(),
        hostname: setup.name.clone(),
        debug: Debug::default(),
    };
    Node::new(now, config, resume).expect("the state on the disk is what the node wrote")
}
