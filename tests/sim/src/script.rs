//! What is done in a world: a network is founded, machines join, programs talk, things go wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ginnel_node::{Family, Reply, Request, RequestId};
use ginnel_time::Instant;

use crate::budget::Budget;
use crate::calm::{MarkId, Recovery, Scope};
use crate::chores::{Chore, Chores};
use crate::faces::Faces;
use crate::fault::{Fault, Undo};
use crate::ledger::{Answers, Flow, Known};
use crate::line::Line;
use crate::machine::{Company, Life, Lines};
use crate::net::Realm;
use crate::silence::Secret;
use crate::watch::inner;
use crate::world::World;

/// One thing to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Found,
    Join(usize),
    /// Everybody should be in by now.
    Late,
    /// Does everybody know everybody?
    Watch,
    /// The wall clocks are told.
    Wall,
    /// A flow sends its next packet.
    Send(usize),
    /// A packet of a flow is answered.
    Answer(usize),
    /// A flow's first packet should have arrived.
    First(usize),
    /// A flow is judged by what its machines are entitled to.
    Judge(usize),
    /// A flow that was not direct is looked at again.
    Look(usize),
    /// Everybody in reach should know that a machine is no member.
    Gone(usize),
    /// The admin does what is to be done about servers.
    Chore,
    /// A hostile member does something.
    Mischief(usize),
    /// All servers die, of a fault.
    ServersDie(usize),
    /// Everybody linked should know by now what one knew when the servers died.
    Heard(usize),
    /// A server with two faces looks whether it can show the second.
    Forge,
    /// Somebody tries to come in at a server.
    Intrude,
    /// A machine is revoked in the middle of a handshake.
    Ambush(usize),
    /// Was a machine that should be no member spared?
    Spared(usize),
    /// A fault of the scenario strikes.
    Strike(usize),
    /// It is over.
    Mend(usize),
    End,
}

/// Who sends something to somebody who has nothing to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Troubler {
    Machine(usize),
    Relay(usize),
}

pub(crate) struct Script {
    pub(crate) began: Instant,
    pub(crate) faults: Vec<Fault>,
    pub(crate) undo: Vec<Undo>,
    pub(crate) spare: Vec<(Realm, IpAddr, Line)>,
    talkers: Vec<(usize, usize)>,
    duration: Duration,
    wanted: BTreeMap<(usize, RequestId), Wanted>,
    pub(crate) tickets: BTreeMap<usize, String>,
    /// When everybody was in.
    pub(crate) joined: Option<Instant>,
    pub(crate) quality: Lines,
    /// Machines that were revoked, and when the admin's own machine said so.
    pub(crate) revoked: BTreeMap<usize, Option<Instant>>,
    /// What it costs them.
    pub(crate) ousted: BTreeMap<usize, MarkId>,
    /// The address that each machine had in the network when all had joined.
    pub(crate) addresses: Vec<Option<IpAddr>>,
    /// When a machine last moved.
    pub(crate) moved: Option<Instant>,
    pub(crate) chores: Chores,
    /// The server that orders the log, as far as the admin has been told.
    pub(crate) sequencer: usize,
    /// From when on nobody has anything to say.
    pub(crate) silent: Option<Instant>,
    /// Members that mean harm, and when they have had enough.
    pub(crate) hostile: BTreeSet<usize>,
    pub(crate) mischief_until: Option<Instant>,
    pub(crate) company: Company,
    /// What each machine, and each relay for all of them, may still send to somebody who has nothing to do with it.
    pub(crate) troubled: BTreeMap<Troubler, Budget>,
    /// A machine that is revoked as soon as it shakes hands.
    pub(crate) ambush: Option<usize>,
    /// What was known when all servers died, by the fault.
    pub(crate) secrets: BTreeMap<usize, Secret>,
    pub(crate) faces: Option<Faces>,
    /// What it costs that the relays are out of reach while the servers die.
    pub(crate) relays_hidden: Option<MarkId>,
    /// How long the founder's log was when it was asked to write the last entry, and until when it may.
    pub(crate) whisper: Option<(u64, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Network,
    Chore,
    /// Whatever the answer is.
    Whisper,
    Invite(usize),
    Membership,
    Revocation(usize),
}

impl Script {
    pub(crate) fn new(
        began: Instant,
        faults: Vec<Fault>,
        spare: Vec<(Realm, IpAddr, Line)>,
        talkers: Vec<(usize, usize)>,
        duration: Duration,
    ) -> Self {
        let (wanted, tickets) = (BTreeMap::new(), BTreeMap::new());
        let undo = faults.iter().map(|_| Undo::default()).collect();
        Self {
            began,
            faults,
            undo,
            spare,
            talkers,
            duration,
            wanted,
            tickets,
            joined: None,
            quality: Lines::Sound,
            revoked: BTreeMap::new(),
            ousted: BTreeMap::new(),
            addresses: Vec::new(),
            moved: None,
            chores: Chores::default(),
            sequencer: 0,
            silent: None,
            hostile: BTreeSet::new(),
            mischief_until: None,
            company: Company::default(),
            troubled: BTreeMap::new(),
            ambush: None,
            secrets: BTreeMap::new(),
            faces: None,
            relays_hidden: None,
            whisper: None,
        }
    }
}

impl Script {
    /// Nobody is left to answer what a machine was asked; tells whether the admin waited for it.
    pub(crate) fn unanswerable(&mut self, machine: usize) -> bool {
        let chore = self.wanted.iter().any(|((asked, _), wanted)| *asked == machine && *wanted == Wanted::Chore);
        self.wanted.retain(|(asked, _), _| *asked != machine);
        chore
    }

    /// Requests that were not answered by those machines that `could` have.
    pub(crate) fn unanswered(&self, could: impl Fn(usize) -> bool) -> Vec<String> {
        let left = self.wanted.iter().filter(|((machine, _), _)| could(*machine));
        left.map(|((machine, _), wanted)| format!("node{machine} never answered {wanted:?}")).collect()
    }
}

impl World {
    pub(crate) fn begin(&mut self) {
        let now = self.now;
        self.step_at(now + Duration::from_millis(200), Step::Found);
        let servers = u32::try_from(self.hosts.len()).expect("few servers");
        self.step_at(now + self.patience().join + TAKING_ON * (servers - 1), Step::Late);
        self.step_at(now + WATCH, Step::Watch);
        self.step_at(now + WALL, Step::Wall);
    }

    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::Found => {
                let ticket = Some(self.hosts[0].founding());
                let up = Request::Up { ticket, name: None, network: None, shields: None, range: None, ipv4: None };
                self.ask(0, up, Wanted::Network);
            }
            Step::Join(machine) => {
                let ticket = self.script.tickets.get(&machine).cloned();
                let request = Request::Up { ticket, name: None, network: None, shields: None, range: None, ipv4: None };
                self.ask(machine, request, Wanted::Membership);
            }
            Step::Late => {
                if self.script.joined.is_none() {
                    self.complain("not everybody has joined", 0, self.machines.len() - 1);
                    self.over = true;
                }
            }
            Step::Watch => self.watch_joining(),
            Step::Wall => self.tell_walls(),
            Step::Send(flow) => self.send(flow),
            Step::Answer(flow) => {
                let Flow { from, to, family, .. } = self.ledger.flows[flow];
                self.emit(flow, to, from, family);
            }
            Step::First(flow) => self.check_first(flow),
            Step::Judge(flow) => self.judge(flow),
            Step::Look(flow) => self.look_again(flow),
            Step::Gone(machine) => self.check_gone(machine),
            Step::Chore => self.next_chore(),
            Step::Mischief(machine) => self.mischief(machine),
            Step::ServersDie(fault) => self.silence(fault),
            Step::Heard(fault) => self.check_heard(fault),
            Step::Forge => self.forge(),
            Step::Intrude => self.intrude(),
            Step::Ambush(machine) => {
                self.drills.ambushes += 1;
                self.revoke(machine);
            }
            Step::Spared(machine) => self.spare(machine),
            Step::Strike(fault) => self.strike(fault),
            Step::Mend(fault) => self.mend(fault),
            Step::End => self.over = true,
        }
    }

    fn tell_walls(&mut self) {
        for machine in 0..self.machines.len() {
            self.tell_wall(machine);
        }
        for host in 0..self.hosts.len() {
            self.hosts[host].tell_wall(self.now);
            self.settle_host(host);
        }
        for station in 0..self.stations.len() {
            self.stations[station].tell_wall(self.now);
            self.settle_station(station);
        }
        self.step_at(self.now + WALL, Step::Wall);
    }

    /// Takes the answer to a request.
    pub(crate) fn replied(&mut self, machine: usize, id: RequestId, reply: Result<Reply, String>) {
        self.trace.tell(self.now, || format!("node{machine} replies {reply:?}"));
        let Some(wanted) = self.script.wanted.remove(&(machine, id)) else { return };
        match (wanted, reply) {
            (Wanted::Network, Ok(Reply::Up(_))) => {
                let mirrors = (1..self.hosts.len()).map(Chore::Add);
                self.give_chores(mirrors.chain([Chore::Invite]));
            }
            (Wanted::Chore, reply) => self.chore_answered(reply),
            (Wanted::Whisper, _) => {}
            (Wanted::Invite(newcomer), Ok(Reply::Invite { ticket, .. })) => {
                self.script.tickets.insert(newcomer, ticket);
                let at = self.now + self.dice.millis(1, 2000);
                self.step_at(at, Step::Join(newcomer));
            }
            (Wanted::Membership, Ok(Reply::Up(_))) => {}
            (Wanted::Revocation(gone), Ok(Reply::Revoked { .. })) => {
                self.script.revoked.insert(gone, Some(self.now));
                self.step_at(self.now + self.weather.patience().gap, Step::Gone(gone));
            }
            // Without a server nobody is told, or it was not in force yet; the machine stays in doubt until it is spared.
            (Wanted::Revocation(_), Err(_)) => {}
            (wanted, reply) => {
                let text = format!("node{machine} answers {wanted:?} with {reply:?}");
                self.ledger.violate(self.now, &text);
            }
        }
    }

    /// Makes an invite for everybody who is not in yet.
    pub(crate) fn invite_all(&mut self) {
        for newcomer in 1..self.machines.len() {
            let request = Request::Invite { expires: Duration::from_secs(3600), name: None };
            self.ask(0, request, Wanted::Invite(newcomer));
        }
    }

    /// Takes a packet for the programs of a machine.
    pub(crate) fn deliver(&mut self, machine: usize, packet: &[u8]) {
        self.trace.note(self.now, 5, packet);
        self.trace.tell(self.now, || format!("node{machine} is given a packet of {} B", packet.len()));
        if let Some(returned) = complaint(packet) {
            // The data plane tells a program that whom it talks to is nobody; that concerns its own packets only.
            let own = source(returned).is_some_and(|source| self.machines[machine].is_own(source));
            if !own && !self.script.hostile.contains(&machine) {
                self.ledger.violate(self.now, &format!("node{machine} was told of a packet that is not its own"));
            }
            return;
        }
        let Some(delivery) = self.ledger.arrive(self.now, machine, packet) else { return };
        if source(packet).is_some_and(|source| !self.machines[machine].knows(source)) {
            self.ledger
                .violate(self.now, &format!("node{machine} was given a packet of one that it knows for no member"));
        }
        if delivery.forth && self.ledger.flows[delivery.flow].answers == Answers::Each {
            self.step_at(self.now + Duration::from_micros(300), Step::Answer(delivery.flow));
        }
    }

    /// Looks whether everybody knows everybody; then the programs begin.
    fn watch_joining(&mut self) {
        let know = |a: usize, b: usize| {
            a == b
                || self.machines[b]
                    .tunnel_address(Family::V6)
                    .is_some_and(|ip| self.machines[a].owners.contains_key(&ip))
        };
        let count = self.machines.len();
        if !(0..count).all(|a| (0..count).all(|b| know(a, b))) {
            self.step_at(self.now + WATCH, Step::Watch);
            return;
        }
        let start = self.now;
        self.script.joined = Some(start);
        self.script.addresses = self.machines.iter().map(|machine| machine.tunnel_address(Family::V6)).collect();
        self.trace.tell(start, || "everybody has joined".to_owned());
        for number in 0..self.script.faults.len() {
            self.step_at(start + self.script.faults[number].at, Step::Strike(number));
        }
        let lasting = self.script.faults.iter().map(|fault| fault.lasts).filter(|lasts| *lasts < Duration::MAX);
        let lasts = lasting.max().unwrap_or_default();
        // A long night does not count as a part of the day.
        let night = lasts.saturating_sub(Duration::from_secs(600));
        self.script.duration += night;
        self.script.mischief_until = Some(start + self.script.duration);
        let end = start + self.script.duration + SILENCE;
        self.script.silent = Some(end - LAST_OF_SILENCE);
        self.step_at(end, Step::End);
        for (a, b) in self.script.talkers.clone() {
            self.plan_flows(start, a, b);
        }
    }

    /// Lets the founder revoke a machine; from now on nothing is promised to it.
    pub(crate) fn revoke(&mut self, machine: usize) {
        if !self.can_revoke(machine) {
            return;
        }
        self.script.revoked.insert(machine, None);
        let never = Recovery { back: Duration::ZERO, shaken: Duration::ZERO };
        let mark = self.calm.begin(self.now, "revoked", Scope::Machines([machine].into()), never);
        self.calm.settle(mark);
        self.script.ousted.insert(machine, mark);
        self.step_at(self.now + DOUBTED, Step::Spared(machine));
        let peer = self.machines[machine].setup.name.clone();
        self.ask(0, Request::Revoke { peer }, Wanted::Revocation(machine));
    }

    pub(crate) fn can_revoke(&self, machine: usize) -> bool {
        self.machines[0].life == Life::Awake && !self.script.revoked.contains_key(&machine)
    }

    /// Takes a machine for a member again whose revocation nobody confirmed, once it is certain that there is none: every
    /// server lives and has the founder's log, the founder waits for no answer, and has it for a member.
    fn spare(&mut self, machine: usize) {
        if self.script.revoked.get(&machine) != Some(&None) {
            return;
        }
        let founder = &self.machines[0];
        let length = founder.log(self.now).map(|(length, _)| length);
        let same = self.hosts.iter().take(self.servers).all(|host| host.is_up() && Some(host.log_length()) == length);
        let address = self.script.addresses.get(machine).copied().flatten();
        let member = founder.life == Life::Awake && address.is_some_and(|address| founder.knows(address));
        let asked = self.script.wanted.values().any(|wanted| *wanted == Wanted::Revocation(machine));
        if !same || !member || asked {
            return self.step_at(self.now + DOUBTED, Step::Spared(machine));
        }
        self.trace.tell(self.now, || format!("node{machine} is a member still"));
        self.script.revoked.remove(&machine);
        if let Some(mark) = self.script.ousted.remove(&machine) {
            self.calm.end(self.now, mark);
        }
    }

    /// Revokes a machine that lies in wait for it, in the middle of a handshake.
    pub(crate) fn note_handshake(&mut self, machine: usize, bytes: &[u8]) {
        let shakes = matches!(inner(bytes).first(), Some(0xC0 | 0xC1 | 0xC4 | 0xC5));
        if shakes && self.script.ambush == Some(machine) {
            self.script.ambush = None;
            self.step_at(self.now, Step::Ambush(machine));
        }
    }

    pub(crate) fn ask(&mut self, machine: usize, request: Request, wanted: Wanted) {
        self.trace.tell(self.now, || format!("node{machine} is asked {request:?}"));
        let id = self.machines[machine].request(self.now, request);
        self.script.wanted.insert((machine, id), wanted);
        self.settle_machine(machine);
    }

    /// Some conversations of two machines, with silence between them.
    fn plan_flows(&mut self, start: Instant, a: usize, b: usize) {
        for _ in 0..self.dice.between(2, 4) {
            let at = start + self.dice.time(Duration::from_secs(1), self.script.duration - Duration::from_secs(10));
            let length = match self.dice.below(8) {
                0 | 1 => self.dice.millis(1000, 5000),
                2..5 => self.dice.millis(5000, 20_000),
                5 | 6 => self.dice.millis(30_000, 60_000),
                _ => self.dice.millis(65_000, 180_000),
            };
            // One that ends before its first packet must be there says nothing.
            let length = length.max(self.patience().first + Duration::from_secs(1));
            let end = (at + length).min(start + self.script.duration);
            let (from, to) = if self.dice.chance(500) { (a, b) } else { (b, a) };
            let family = self.dice.pick(&[Family::V4, Family::V6]);
            let interval =
                if length > Duration::from_secs(30) { self.dice.millis(300, 1500) } else { self.dice.millis(40, 800) };
            let answers = if self.dice.chance(600) { Answers::Each } else { Answers::None };
            self.add_flow(from, to, (at, end), interval, family, answers);
            if answers == Answers::None && self.dice.chance(500) {
                let later = at + self.dice.millis(0, 50);
                self.add_flow(to, from, (later, end), interval, family, Answers::None);
            }
        }
    }

    pub(crate) fn add_flow(
        &mut self,
        from: usize,
        to: usize,
        (start, end): (Instant, Instant),
        interval: Duration,
        family: Family,
        answers: Answers,
    ) {
        let index = self.ledger.flows.len();
        // Where lines are narrow, packets of full size do not fit through a tunnel.
        let longest = self.dice.pick(&[100, 1000, 1188]);
        self.ledger.flows.push(Flow {
            from,
            to,
            start,
            end,
            interval,
            family,
            answers,
            longest,
            sent: 0,
            said: std::collections::VecDeque::new(),
            delivered: 0,
            progress: start,
            gap: Duration::ZERO,
            first: None,
            heard: None,
            answered: start,
            parted: None,
        });
        self.step_at(start, Step::Send(index));
        // The first packet may be lost with a path that died in silence; the third finds another.
        self.step_at(start + self.patience().first.max(interval * 5 / 2), Step::First(index));
        self.step_at((start + self.patience().direct).min(end), Step::Judge(index));
    }

    fn send(&mut self, index: usize) {
        let Flow { from, to, end, interval, family, .. } = self.ledger.flows[index];
        if self.now >= end {
            return;
        }
        self.check_gap(index);
        if self.machines[from].life == Life::Awake {
            self.ledger.flows[index].say(self.now);
            self.emit(index, from, to, family);
        }
        self.step_at(self.now + interval, Step::Send(index));
    }

    fn emit(&mut self, flow: usize, from: usize, to: usize, family: Family) {
        if self.machines[from].life != Life::Awake {
            return;
        }
        let ends = (self.machines[from].tunnel_address(family), self.machines[to].tunnel_address(family));
        let (Some(source), Some(target)) = ends else { return };
        let longest = self.ledger.flows[flow].longest - if family == Family::V6 { 20 } else { 0 };
        let length = usize::try_from(self.dice.below(longest as u64)).expect("a length fits");
        let known = if self.machines[from].owners.contains_key(&target) { Known::Member } else { Known::Stranger };
        let packet = self.ledger.packet(flow, to, (source, target), length, known);
        self.trace.tell(self.now, || format!("node{from} sends node{to} a packet of flow {flow}"));
        self.machines[from].send_packet(self.now, &packet);
        self.settle_machine(from);
    }
}

/// The beginning of the packet that an ICMP message complains of.
fn complaint(packet: &[u8]) -> Option<&[u8]> {
    let (next, header) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, 20),
        6 => (*packet.get(6)?, 40),
        _ => return None,
    };
    (next == ICMP || next == ICMP_V6).then(|| packet.get(header + 8..)).flatten()
}

/// The address that a packet comes from.
fn source(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(12..16).and_then(|octets| octets.first_chunk::<4>()).map(|octets| IpAddr::from(*octets)),
        6 => packet.get(8..24).and_then(|octets| octets.first_chunk::<16>()).map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
/// What taking on a server may take, with a second try.
const TAKING_ON: Duration = Duration::from_secs(30);
/// So long nobody talks before the end: for two minutes a peer is probed, and its session may be renewed once; that lasts
/// three minutes, and what was opened for it is gone shortly after.
const SILENCE: Duration = Duration::from_secs(340);
/// In so much of it nothing is sent but what keeps mappings and allocations.
const LAST_OF_SILENCE: Duration = Duration::from_secs(25);
/// After so long it is asked whether a revocation has failed.
const DOUBTED: Duration = Duration::from_secs(30);
/// Between two tellings of the wall clock.
const WALL: Duration = Duration::from_secs(30);
/// Between two looks at who has joined.
const WATCH: Duration = Duration::from_millis(500);
