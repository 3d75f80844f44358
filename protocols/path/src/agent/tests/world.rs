//! Two agents, two NATs, a relay and the links between them, all in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore as _, SeedableRng as _};

use super::nat::{Kind, Mapping, Nat};
use crate::message::{self, Echo, Message};
use crate::{
    Agent, CandidateKind, Config, Input, Local, LocalCandidate, Output, Path, PathEvent, RelayId, Role, SocketId,
};

pub(super) const A: usize = 0;
pub(super) const B: usize = 1;

#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) nats: [Kind; 2],
    pub(super) relays: [bool; 2],
    pub(super) seed: u64,
    /// Packets lost, in percent.
    pub(super) loss: u32,
    /// Routers between the two NATs.
    pub(super) hops: u8,
    pub(super) config: Config,
}

impl Setting {
    pub(super) fn new(a: Kind, b: Kind) -> Self {
        Self { nats: [a, b], relays: [true, true], seed: 1, loss: 0, hops: 8, config: Config::default() }
    }
}

pub(super) struct Side {
    pub(super) agent: Agent,
    pub(super) nat: Nat,
    sockets: BTreeMap<SocketId, SocketAddr>,
    relay: Option<SocketAddr>,
    permissions: BTreeSet<IpAddr>,
    role: Option<Role>,
    /// When it answered a later handshake that nothing has confirmed yet.
    awaits: Option<Instant>,
    host: IpAddr,
    next_port: u16,
    pub(super) primary: Option<Path>,
    pub(super) backup: Option<Path>,
    pub(super) duplicate: bool,
    pub(super) selects: usize,
    pub(super) fresh: usize,
    pub(super) summoned: usize,
    pub(super) events: Vec<(Instant, PathEvent)>,
    pub(super) sent: Vec<(Instant, Path, Option<u8>)>,
}

enum Happening {
    /// A side sends copies of its handshake answer, at full TTL when it is bold.
    Openers {
        side: usize,
        bold: bool,
    },
    /// A packet arrives at a public address.
    Arrive {
        to: SocketAddr,
        from: SocketAddr,
        ttl: u8,
        payload: Option<Vec<u8>>,
    },
    /// A packet arrives at a relay from its owner.
    Relayed {
        owner: usize,
        to: SocketAddr,
        payload: Option<Vec<u8>>,
    },
    /// A packet arrives at a machine. No payload: a copy of a handshake message.
    Deliver {
        side: usize,
        path: Path,
        payload: Option<Vec<u8>>,
    },
    /// Mail with a handshake and candidates arrives.
    Mail {
        to: usize,
    },
    /// Mail with a later handshake arrives: its receiver opens and answers.
    Offer {
        to: usize,
    },
    /// The answer to it.
    Answer {
        to: usize,
    },
    Gathered {
        side: usize,
    },
    Tick,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Link {
    Direct,
    Relay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Steady,
    /// Only this side has anything to say.
    From(usize),
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FreshSockets {
    Given,
    Refused,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) sides: [Side; 2],
    pub(super) blocked: BTreeSet<Link>,
    pub(super) load: Load,
    pub(super) fresh_sockets: FreshSockets,
    setting: Setting,
    agenda: BTreeMap<(Instant, u64), Happening>,
    count: u64,
    rng: ChaCha20Rng,
}

impl World {
    pub(super) fn new(setting: Setting) -> Self {
        let side = |index: usize| {
            let octet = u8::try_from(index).unwrap() + 1;
            let public = IpAddr::from([203, 0, 113, 10 * octet]);
            let kind = setting.nats[index];
            // The second network is another /24, so that nothing looks near.
            let public = if index == B { IpAddr::from([198, 51, 100, 20]) } else { public };
            let host = if kind.mapping == Mapping::None { public } else { IpAddr::from([192, 168, octet, 2]) };
            let mut seed = [octet; 32];
            seed[..8].copy_from_slice(&setting.seed.to_be_bytes());
            Side {
                agent: Agent::new(seed, setting.config.clone()),
                nat: Nat::new(kind, public),
                sockets: BTreeMap::new(),
                relay: setting.relays[index].then(|| SocketAddr::new(RELAY, 49_000 + u16::from(octet))),
                permissions: BTreeSet::new(),
                role: None,
                awaits: None,
                host,
                next_port: 5000 + 1000 * u16::from(octet),
                primary: None,
                backup: None,
                duplicate: false,
                selects: 0,
                fresh: 0,
                summoned: 0,
                events: Vec::new(),
                sent: Vec::new(),
            }
        };
        let mut seed = [9; 32];
        seed[..8].copy_from_slice(&setting.seed.to_be_bytes());
        let mut world = Self {
            now: Instant::from_nanos(1_000_000_000),
            sides: [side(A), side(B)],
            blocked: BTreeSet::new(),
            load: Load::Steady,
            fresh_sockets: FreshSockets::Given,
            setting,
            agenda: BTreeMap::new(),
            count: 0,
            rng: ChaCha20Rng::from_seed(seed),
        };
        for index in [A, B] {
            world.open_socket(index);
            world.tell_locals(index);
        }
        world.plan(Duration::ZERO, Happening::Tick);
        world
    }

    /// A calls B: the handshake goes by mail, and B's openers leave before its answer does.
    pub(super) fn connect(setting: Setting) -> Self {
        let mut world = Self::new(setting);
        world.plan(MAIL, Happening::Mail { to: B });
        world
    }

    /// The handshake went by the relays alone, so the candidates travel inside the session only.
    pub(super) fn connect_by_relay(setting: Setting) -> Self {
        let mut world = Self::new(setting);
        for side in [A, B] {
            let mut told = world.sides[1 - side].agent.candidates();
            told.retain(|candidate| candidate.kind == CandidateKind::Relayed);
            world.sides[side].permissions.insert(RELAY);
            world.input(side, Input::RemoteCandidates(told));
        }
        world.sides[A].role = Some(Role::Initiator);
        world.input(A, Input::Session(Role::Initiator));
        world
    }

    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.run_until(end, |_| false);
    }

    /// Runs until both sides send directly, at most for `limit`; answers how long that took.
    pub(super) fn until_direct(&mut self, limit: Duration) -> Option<Duration> {
        let start = self.now;
        let end = self.now + limit;
        self.run_until(end, |world| world.is_direct(A) && world.is_direct(B));
        (self.is_direct(A) && self.is_direct(B)).then(|| self.now.saturating_duration_since(start))
    }

    fn run_until(&mut self, end: Instant, done: impl Fn(&Self) -> bool) {
        let mut stuck = (self.now, 0);
        while !done(self) {
            let planned = self.agenda.keys().next().map(|(at, _)| *at);
            let timers = self.sides.iter().filter_map(|side| side.agent.poll_timeout());
            let Some(next) = timers.chain(planned).min() else { break };
            if next > end {
                break;
            }
            stuck = if next <= stuck.0 { (stuck.0, stuck.1 + 1) } else { (next, 0) };
            assert!(stuck.1 < 2000, "no progress at {next:?}");
            self.now = self.now.max(next);
            self.step();
        }
        if !done(self) {
            self.now = self.now.max(end);
        }
    }

    fn step(&mut self) {
        for index in [A, B] {
            if self.sides[index].agent.poll_timeout().is_some_and(|due| due <= self.now) {
                self.sides[index].agent.handle_timeout(self.now);
                self.drain(index);
                let next = self.sides[index].agent.poll_timeout();
                assert!(next.is_none_or(|next| next > self.now), "side {index} spins at {:?}", self.now);
            }
        }
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let happening = entry.remove();
            self.happen(happening);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive { to, from, ttl, payload } => self.arrive(to, from, ttl, payload),
            Happening::Relayed { owner, to, payload } => {
                let Some(from) = self.sides[owner].relay else { return };
                self.sides[owner].permissions.insert(to.ip());
                self.transmit(LEG, Happening::Arrive { to, from, ttl: 64, payload });
            }
            Happening::Deliver { side, path, payload } => self.deliver(side, path, payload),
            Happening::Mail { to } => self.mail(to),
            Happening::Offer { to } => {
                self.mailed(to);
                self.sides[to].awaits = Some(self.now);
                self.answer(to);
                self.plan(MAIL, Happening::Answer { to: 1 - to });
            }
            Happening::Answer { to } => {
                self.mailed(to);
                self.sides[to].role = Some(Role::Initiator);
                self.input(to, Input::Session(Role::Initiator));
            }
            Happening::Openers { side, .. } if self.sides[side].role.is_some() && self.sides[side].awaits.is_none() => {
            }
            Happening::Openers { side, bold } => {
                for (path, ttl) in self.sides[side].agent.openers() {
                    self.send(side, path, ttl.filter(|_| !bold), None);
                }
            }
            Happening::Gathered { side } => {
                self.open_socket(side);
                self.tell_locals(side);
            }
            Happening::Tick => {
                for index in [A, B] {
                    let up = self.sides[index].primary.is_some();
                    if self.load == Load::Steady {
                        self.input(index, Input::Traffic { sent: true, received: up });
                    } else if self.load == Load::From(index) {
                        self.input(index, Input::Traffic { sent: true, received: false });
                    }
                }
                self.plan(Duration::from_secs(1), Happening::Tick);
            }
        }
    }

    fn arrive(&mut self, to: SocketAddr, from: SocketAddr, ttl: u8, payload: Option<Vec<u8>>) {
        if to.ip() == RELAY {
            let owner = self.sides.iter().position(|side| side.relay == Some(to));
            if let Some(side) = owner.filter(|side| self.sides[*side].permissions.contains(&from.ip())) {
                let path = Path { local: Local::Relay(RelayId(0)), remote: from };
                self.transmit(LEG, Happening::Deliver { side, path, payload });
            }
            return;
        }
        let reached = |side: &Side| side.nat.address() == to.ip() || side.host == to.ip();
        let Some(side) = self.sides.iter().position(reached) else { return };
        let is_between_nats = from.ip() != RELAY;
        if is_between_nats && (ttl <= self.setting.hops || self.blocked.contains(&Link::Direct)) {
            return;
        }
        let Some(inside) = self.sides[side].nat.inbound(self.now, to.port(), from) else { return };
        let socket = self.sides[side].sockets.iter().find(|(_, addr)| **addr == inside).map(|(id, _)| *id);
        if let Some(socket) = socket {
            self.deliver(side, Path { local: Local::Socket(socket), remote: from }, payload);
        }
    }

    fn deliver(&mut self, side: usize, path: Path, payload: Option<Vec<u8>>) {
        let Some(bytes) = payload else {
            self.input(side, Input::Arrived(path));
            return;
        };
        if self.sides[side].role.is_none() {
            if side == A {
                return;
            }
            self.sides[side].role = Some(Role::Responder);
            self.input(side, Input::Arrived(path));
            self.input(side, Input::Session(Role::Responder));
        }
        if self.sides[side].primary != Some(path) {
            self.input(side, Input::Arrived(path));
        }
        if self.sides[side].awaits.take().is_some() {
            self.input(side, Input::Session(Role::Responder));
        }
        if let Ok(Message::Probe(probe)) = message::decode(&bytes) {
            let echo = Echo { id: probe.id, observed: path.remote, relayed: path.is_relayed() };
            self.send(side, path, None, Some(echo.encode()));
        } else {
            self.input(side, Input::Message { path, bytes });
        }
    }

    /// Copies of an answer are repeated until the session is confirmed: the first ones may meet a relay that does not know their
    /// sender yet, or a NAT that is not open.
    fn answer(&mut self, side: usize) {
        for (after, bold) in [(0, false), (200, false), (600, true), (1400, true), (3000, true)] {
            self.plan(Duration::from_millis(after), Happening::Openers { side, bold });
        }
    }

    fn mailed(&mut self, to: usize) {
        let candidates = self.sides[1 - to].agent.candidates();
        self.sides[to].permissions.extend(candidates.iter().map(|candidate| candidate.addr.ip()));
        self.input(to, Input::RemoteCandidates(candidates));
    }

    fn mail(&mut self, to: usize) {
        self.mailed(to);
        if to == A {
            self.sides[A].role = Some(Role::Initiator);
            self.input(A, Input::Session(Role::Initiator));
            return;
        }
        self.answer(B);
        self.plan(MAIL, Happening::Mail { to: A });
    }

    /// One side finds itself in another network: new addresses, a new NAT and a new allocation, the same sockets.
    pub(super) fn roam(&mut self, index: usize, kind: Kind) {
        let side = &mut self.sides[index];
        side.nat = Nat::new(kind, IpAddr::from([9, 9, 9, 9]));
        side.host = IpAddr::from([10, 5, 5, 5]);
        for addr in side.sockets.values_mut() {
            addr.set_ip(side.host);
        }
        if let Some(relay) = &mut side.relay {
            relay.set_port(relay.port() + 100);
        }
        self.tell_locals(index);
    }

    /// Tells one side its candidates anew.
    pub(super) fn gather(&mut self, side: usize) {
        self.tell_locals(side);
    }

    /// Gives an input to one side and does what it asks for.
    pub(super) fn input(&mut self, side: usize, input: Input) {
        let _ = self.sides[side].agent.handle_input(self.now, input);
        self.drain(side);
    }

    fn drain(&mut self, side: usize) {
        while let Some(output) = self.sides[side].agent.poll_output() {
            match output {
                Output::Seal { path, ttl, plaintext } => {
                    self.sides[side].sent.push((self.now, path, ttl));
                    self.send(side, path, ttl, Some(plaintext));
                }
                Output::Select { primary, backup, duplicate } => {
                    let selected = &mut self.sides[side];
                    (selected.primary, selected.backup, selected.duplicate) = (primary, backup, duplicate);
                    selected.selects += 1;
                }
                Output::FreshSocket { .. } => {
                    self.sides[side].fresh += 1;
                    if self.fresh_sockets == FreshSockets::Given {
                        self.plan(LEG * 2, Happening::Gathered { side });
                    }
                }
                Output::Answered { .. } => {}
                Output::Summon => {
                    self.sides[side].summoned += 1;
                    self.plan(MAIL, Happening::Offer { to: 1 - side });
                }
                Output::Event(event) => self.sides[side].events.push((self.now, event)),
            }
        }
    }

    fn send(&mut self, side: usize, path: Path, ttl: Option<u8>, payload: Option<Vec<u8>>) {
        let ttl = ttl.unwrap_or(64);
        match path.local {
            Local::Relay(_) => self.transmit(LEG, Happening::Relayed { owner: side, to: path.remote, payload }),
            Local::Socket(socket) => {
                let Some(inside) = self.sides[side].sockets.get(&socket).copied() else { return };
                if crate::address::reach(path.remote.ip()).is_private() {
                    return;
                }
                let from = self.sides[side].nat.outbound(self.now, inside, path.remote);
                let delay = if path.remote.ip() == RELAY { LEG } else { DIRECT };
                self.transmit(delay, Happening::Arrive { to: path.remote, from, ttl, payload });
            }
        }
    }

    fn transmit(&mut self, delay: Duration, happening: Happening) {
        let by_relay =
            !matches!(&happening, Happening::Arrive { from, to, .. } if from.ip() != RELAY && to.ip() != RELAY);
        let lost = self.rng.next_u32() % 100 < self.setting.loss;
        let blocked = by_relay && self.blocked.contains(&Link::Relay);
        if !lost && !blocked {
            self.plan(delay, happening);
        }
    }

    fn plan(&mut self, delay: Duration, happening: Happening) {
        self.count += 1;
        self.agenda.insert((self.now + delay, self.count), happening);
    }

    fn open_socket(&mut self, index: usize) {
        let side = &mut self.sides[index];
        let id = SocketId(u16::try_from(side.sockets.len()).unwrap());
        side.next_port += 1;
        side.sockets.insert(id, SocketAddr::new(side.host, side.next_port));
    }

    fn tell_locals(&mut self, index: usize) {
        let now = self.now;
        let side = &mut self.sides[index];
        let mut list = Vec::new();
        for (id, addr) in side.sockets.clone() {
            let local = Local::Socket(id);
            list.push(LocalCandidate { kind: CandidateKind::Host, local, addr });
            let mapped = side.nat.outbound(now, addr, SocketAddr::new(RELAY, 3478));
            if mapped != addr {
                list.push(LocalCandidate { kind: CandidateKind::ServerReflexive, local, addr: mapped });
            }
        }
        let relay = side.relay.map(|addr| LocalCandidate {
            kind: CandidateKind::Relayed,
            local: Local::Relay(RelayId(0)),
            addr,
        });
        list.extend(relay);
        self.input(index, Input::LocalCandidates(list));
    }

    pub(super) fn is_direct(&self, side: usize) -> bool {
        self.sides[side].primary.is_some_and(|path| !path.is_relayed() && path.remote.ip() != RELAY)
    }

    pub(super) fn is_relayed(&self, side: usize) -> bool {
        self.sides[side].primary.is_some() && !self.is_direct(side)
    }

    /// Whether an early packet of one side spoilt a mapping of the other.
    pub(super) fn clashed(&self) -> bool {
        let spoilt = |side: usize| self.sides[side].nat.spoilt_by(self.sides[1 - side].nat.address());
        spoilt(A) || spoilt(B)
    }

    /// The most probes and lists that one side sent in any second.
    pub(super) fn peak_rate(&self, side: usize) -> usize {
        let sent = &self.sides[side].sent;
        let second = Duration::from_secs(1);
        let within = |index: usize| sent[index..].iter().take_while(|entry| entry.0 < sent[index].0 + second).count();
        (0..sent.len()).map(within).max().unwrap_or(0)
    }
}

/// One way between the two machines.
const DIRECT: Duration = Duration::from_millis(20);
/// One way between a machine and the relay.
const LEG: Duration = Duration::from_millis(20);
const MAIL: Duration = Duration::from_millis(50);
pub(super) const RELAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9));
