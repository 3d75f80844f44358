//! What is done in a world: a network is founded, machines join, programs talk, one thing may go wrong.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ginnel_node::{Family, Reply, Request, RequestId};
use ginnel_time::Instant;

use crate::ledger::{Answers, Flow, Promise, seconds};
use crate::net::{Holder, Line, Realm};
use crate::oracle::Entitled;
use crate::scenario::{Fault, Trouble, Weather};
use crate::world::World;

/// One thing to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Found,
    Join(usize),
    /// Everybody should be in by now.
    Late,
    /// The wall clocks are told.
    Wall,
    /// A flow sends its next packet.
    Send(usize),
    /// A packet of a flow is answered.
    Answer(usize),
    /// A flow's first packet should have arrived.
    First(usize),
    /// A flow's machines should have found a direct path.
    Direct(usize),
    Fault(Fault),
    End,
}

pub(crate) struct Script {
    began: Instant,
    pub(crate) faults: Vec<Fault>,
    spare: Vec<(Realm, IpAddr, Line)>,
    lines: Vec<Line>,
    duration: Duration,
    wanted: BTreeMap<(usize, RequestId), Wanted>,
    tickets: BTreeMap<usize, String>,
    /// When everybody was in.
    joined: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Wanted {
    Network,
    Invite(usize),
    Membership,
}

impl Script {
    pub(crate) fn new(
        began: Instant,
        faults: Vec<Fault>,
        spare: Vec<(Realm, IpAddr, Line)>,
        lines: Vec<Line>,
        duration: Duration,
    ) -> Self {
        let (wanted, tickets) = (BTreeMap::new(), BTreeMap::new());
        Self { began, faults, spare, lines, duration, wanted, tickets, joined: None }
    }
}

impl World {
    pub(crate) fn begin(&mut self) {
        let now = self.now;
        self.step_at(now + Duration::from_millis(200), Step::Found);
        self.step_at(now + self.weather.patience().join, Step::Late);
        self.step_at(now + WALL, Step::Wall);
    }

    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::Found => {
                let ticket = Some(self.host.founding());
                self.ask(0, Request::Up { ticket, name: None, network: None, shields: None }, Wanted::Network);
            }
            Step::Join(machine) => {
                let ticket = self.script.tickets.get(&machine).cloned();
                let request = Request::Up { ticket, name: None, network: None, shields: None };
                self.ask(machine, request, Wanted::Membership);
            }
            Step::Late => {
                if self.script.joined.is_none() {
                    self.complain("not everybody has joined", 0, self.machines.len() - 1);
                    self.over = true;
                }
            }
            Step::Wall => {
                for machine in 0..self.machines.len() {
                    self.machines[machine].tell_wall(self.now);
                    self.settle_machine(machine);
                }
                self.watch_joining();
                self.step_at(self.now + WALL, Step::Wall);
            }
            Step::Send(flow) => self.send(flow),
            Step::Answer(flow) => {
                let Flow { from, to, family, .. } = self.ledger.flows[flow];
                self.emit(flow, to, from, family);
            }
            Step::First(flow) => self.check_first(flow),
            Step::Direct(flow) => self.check_direct(flow),
            Step::Fault(fault) => self.strike(fault.what),
            Step::End => self.over = true,
        }
    }

    /// Takes the answer to a request.
    pub(crate) fn replied(&mut self, machine: usize, id: RequestId, reply: Result<Reply, String>) {
        self.trace.tell(self.now, || format!("node{machine} replies {reply:?}"));
        let Some(wanted) = self.script.wanted.remove(&(machine, id)) else { return };
        match (wanted, reply) {
            (Wanted::Network, Ok(Reply::Up { .. })) => {
                for newcomer in 1..self.machines.len() {
                    let request = Request::Invite { expires: Duration::from_secs(3600), name: None };
                    self.ask(0, request, Wanted::Invite(newcomer));
                }
            }
            (Wanted::Invite(newcomer), Ok(Reply::Invite { ticket, .. })) => {
                self.script.tickets.insert(newcomer, ticket);
                let at = self.now + self.dice.millis(1, 2000);
                self.step_at(at, Step::Join(newcomer));
            }
            (Wanted::Membership, Ok(Reply::Up { .. })) => {}
            (wanted, reply) => {
                let text = format!("node{machine} answers {wanted:?} with {reply:?}");
                self.ledger.violate(self.now, &text);
            }
        }
    }

    /// Takes a packet for the programs of a machine.
    pub(crate) fn deliver(&mut self, machine: usize, packet: &[u8]) {
        self.trace.note(self.now, 5, packet);
        self.trace.tell(self.now, || format!("node{machine} is given a packet of {} B", packet.len()));
        let Some(delivery) = self.ledger.arrive(self.now, machine, packet) else { return };
        if delivery.forth && self.ledger.flows[delivery.flow].answers == Answers::Each {
            self.step_at(self.now + Duration::from_micros(300), Step::Answer(delivery.flow));
        }
    }

    /// Looks whether everybody knows everybody; then the programs begin.
    pub(crate) fn watch_joining(&mut self) {
        if self.script.joined.is_some() {
            return;
        }
        let know = |a: usize, b: usize| {
            a == b
                || self.machines[b]
                    .tunnel_address(Family::V6)
                    .is_some_and(|ip| self.machines[a].owners.contains_key(&ip))
        };
        let count = self.machines.len();
        if !(0..count).all(|a| (0..count).all(|b| know(a, b))) {
            return;
        }
        let start = self.now;
        self.script.joined = Some(start);
        self.trace.tell(start, || "everybody has joined".to_owned());
        for fault in self.script.faults.clone() {
            self.step_at(start + fault.at, Step::Fault(fault));
        }
        self.step_at(start + self.script.duration, Step::End);
        for a in 0..count {
            for b in a + 1..count {
                self.plan_flows(start, a, b);
            }
        }
    }

    /// Says at the end what is odd.
    pub(crate) fn conclude(&mut self) {
        let oddities = self.machines.iter().flat_map(crate::machine::Machine::oddities).chain(self.host.oddities());
        for text in oddities.collect::<Vec<_>>() {
            self.ledger.violate(self.now, &text);
        }
        for index in 0..self.machines.len() {
            self.trace.tell(self.now, || self.machines[index].describe(self.now));
        }
        for (index, flow) in self.ledger.flows.iter().enumerate() {
            self.trace.tell(self.now, || format!("flow {index}: {flow:?}"));
        }
    }

    fn ask(&mut self, machine: usize, request: Request, wanted: Wanted) {
        self.trace.tell(self.now, || format!("node{machine} is asked {request:?}"));
        let id = self.machines[machine].request(self.now, request);
        self.script.wanted.insert((machine, id), wanted);
        self.settle_machine(machine);
    }

    /// One to three conversations of two machines, with silence between them.
    fn plan_flows(&mut self, start: Instant, a: usize, b: usize) {
        for _ in 0..self.dice.between(1, 3) {
            let at = start + self.dice.time(Duration::from_secs(1), self.script.duration - Duration::from_secs(10));
            let length = match self.dice.below(4) {
                0 => self.dice.millis(1000, 5000),
                1 | 2 => self.dice.millis(5000, 30_000),
                _ => self.dice.millis(65_000, 90_000),
            };
            let end = (at + length).min(start + self.script.duration);
            let (from, to) = if self.dice.chance(500) { (a, b) } else { (b, a) };
            let family = self.dice.pick(&[Family::V4, Family::V6]);
            let interval = self.dice.millis(30, 800);
            let answers = if self.dice.chance(600) { Answers::Each } else { Answers::None };
            self.add_flow(from, to, (at, end), interval, family, answers);
            if answers == Answers::None && self.dice.chance(500) {
                let later = at + self.dice.millis(0, 50);
                self.add_flow(to, from, (later, end), interval, family, Answers::None);
            }
        }
    }

    fn add_flow(
        &mut self,
        from: usize,
        to: usize,
        (start, end): (Instant, Instant),
        interval: Duration,
        family: Family,
        answers: Answers,
    ) {
        let joined = self.script.joined.unwrap_or(start);
        let shaken = self.script.faults.iter().any(|fault| {
            let struck = joined + fault.at;
            struck < end && start < struck + fault.aftermath(&[from, to])
        });
        let index = self.ledger.flows.len();
        self.ledger.flows.push(Flow {
            from,
            to,
            start,
            end,
            interval,
            family,
            answers,
            promise: if shaken { Promise::Shaken } else { Promise::Full },
            sent: 0,
            delivered: 0,
            progress: start,
            gap: Duration::ZERO,
            first: None,
        });
        let patience = self.weather.patience();
        self.step_at(start, Step::Send(index));
        if !shaken {
            self.step_at(start + patience.first, Step::First(index));
            if start + patience.direct < end {
                self.step_at(start + patience.direct, Step::Direct(index));
            }
        }
    }

    fn send(&mut self, index: usize) {
        let Flow { from, to, end, interval, family, progress, promise, .. } = self.ledger.flows[index];
        if self.now >= end {
            return;
        }
        let limit = match promise {
            Promise::Full => self.weather.patience().gap,
            Promise::Shaken => STALLED,
        };
        if self.now > progress + limit {
            let silent = self.now.saturating_duration_since(progress);
            self.complain(&format!("flow {index} has delivered nothing for {silent:?}"), from, to);
            self.ledger.flows[index].progress = self.now;
        }
        self.ledger.flows[index].sent += 1;
        self.emit(index, from, to, family);
        self.step_at(self.now + interval, Step::Send(index));
    }

    fn emit(&mut self, flow: usize, from: usize, to: usize, family: Family) {
        let ends = (self.machines[from].tunnel_address(family), self.machines[to].tunnel_address(family));
        let (Some(source), Some(target)) = ends else { return };
        let length = usize::try_from(self.dice.below(1100)).expect("a length fits");
        let packet = self.ledger.packet(flow, to, (source, target), length);
        self.trace.tell(self.now, || format!("node{from} sends node{to} a packet of flow {flow}"));
        self.machines[from].send_packet(self.now, &packet);
        self.settle_machine(from);
    }

    fn check_first(&mut self, index: usize) {
        let Flow { from, to, start, first, sent, .. } = self.ledger.flows[index];
        // A line that loses may lose a few packets in a row.
        if first.is_none() && (self.weather == Weather::Clear || sent >= UNLIKELY_LOST) {
            let limit = self.weather.patience().first;
            let text = format!("flow {index}, begun at {:.3} s, has delivered nothing after {limit:?}", seconds(start));
            self.complain(&text, from, to);
        }
    }

    fn check_direct(&mut self, index: usize) {
        let Flow { from, to, start, family, .. } = self.ledger.flows[index];
        if self.entitled(from, to) == Entitled::Linked {
            return;
        }
        for (a, b) in [(from, to), (to, from)] {
            let Some(address) = self.machines[b].tunnel_address(family) else { continue };
            if !self.machines[a].is_direct_to(address) {
                let path = self.machines[a].path_to(address);
                let text = format!(
                    "flow {index}, begun at {:.3} s: node{a} sends to node{b} by {path:?}, entitled to a direct path",
                    seconds(start)
                );
                self.complain(&text, a, b);
            }
        }
    }

    fn strike(&mut self, what: Trouble) {
        self.trace.tell(self.now, || format!("fault: {what:?}"));
        let now = self.now;
        match what {
            Trouble::ServerRestarts => {
                for conn in self.host.restart(now, &mut self.dice) {
                    self.break_stream(conn);
                }
                self.settle_host();
            }
            Trouble::MachineRestarts(machine) => {
                for conn in self.streams_of(machine) {
                    self.break_stream(conn);
                }
                self.machines[machine].restart(now);
                self.settle_machine(machine);
            }
            Trouble::MachineMoves(machine) => {
                let Some((realm, address, line)) = self.script.spare.pop() else { return };
                let setup = &self.machines[machine].setup;
                self.net.detach(setup.realm, setup.address);
                self.net.attach(realm, address, Holder::Machine(machine), line);
                self.script.lines[machine] = line;
                for conn in self.streams_of(machine) {
                    self.break_stream(conn);
                }
                self.machines[machine].moved(now, realm, address);
                self.settle_machine(machine);
            }
        }
    }

    fn complain(&mut self, text: &str, a: usize, b: usize) {
        self.trace.tell(self.now, || format!("VIOLATION: {text}"));
        for machine in [a, b] {
            self.trace.tell(self.now, || self.machines[machine].describe(self.now));
        }
        let since = seconds(self.script.joined.unwrap_or(self.script.began));
        self.ledger.violate(self.now, &format!("({:?}, joined at {since:.3} s) {text}", self.weather));
    }
}

/// How long the judge waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    join: Duration,
    first: Duration,
    direct: Duration,
    gap: Duration,
}

impl Weather {
    pub(crate) const fn patience(self) -> Patience {
        match self {
            Self::Clear => Patience {
                join: Duration::from_secs(30),
                first: Duration::from_secs(1),
                direct: Duration::from_secs(3),
                gap: Duration::from_secs(5),
            },
            Self::Rough => Patience {
                join: Duration::from_secs(90),
                first: Duration::from_secs(10),
                direct: Duration::from_secs(60),
                gap: Duration::from_secs(15),
            },
        }
    }
}

/// A flow that something struck gets on after this, since a usable path has been there all along or came soon.
const STALLED: Duration = Duration::from_secs(20);
/// So many packets are not lost in a row.
const UNLIKELY_LOST: u32 = 10;
/// Between two tellings of the wall clock.
const WALL: Duration = Duration::from_secs(1);
