//! The world: one clock, one agenda, and everything that happens in it, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ginnel_forward::Command;
use ginnel_node::{Input, TunState};
use ginnel_signal_proto::server::{Change, ConnectionId, Ticket};
use ginnel_time::Instant;

use crate::Outcome;
use crate::calm::Calm;
use crate::dice::Dice;
use crate::intruder::{Heard, Intruder};
use crate::judge::{Drills, Shares};
use crate::ledger::Ledger;
use crate::machine::{self, Life, Machine};
use crate::net::{Arrival, Holder, Net, Packet, Realm};
use crate::reach::Severed;
use crate::scenario::{Scenario, Weather};
use crate::script::{Script, Step, Troubler};
use crate::server::{self, Server};
use crate::station::{self, Service, Station};
use crate::stream::{Caller, End, Streams};
use crate::trace::{Telling, Trace};
use crate::turncoat::Turncoat;

/// Something that is going to happen.
pub(crate) enum Happening {
    /// A packet reaches its network's holder of the address.
    Arrive {
        holder: Holder,
        packet: Packet,
    },
    /// A command reaches the data plane.
    Command {
        machine: usize,
        epoch: u32,
        command: Command,
    },
    /// The interface is set up.
    Tun {
        machine: usize,
        epoch: u32,
        state: TunState,
    },
    /// An event or answer reaches node.
    Input {
        machine: usize,
        epoch: u32,
        input: Input,
    },
    /// Something reaches the end of a stream.
    Stream {
        conn: ConnectionId,
        end: End,
    },
    /// The disk of a signaling server has written.
    Stored {
        host: usize,
        epoch: u32,
        ticket: Ticket,
        change: Change,
    },
    Step(Step),
}

/// Whoever has deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Actor {
    Machine(usize),
    Host(usize),
    Station(usize),
}

pub(crate) struct World {
    pub(crate) now: Instant,
    agenda: BTreeMap<(Instant, u64), Happening>,
    count: u64,
    /// The next deadline of everybody who has one.
    deadlines: BTreeSet<(Instant, Actor)>,
    next: BTreeMap<Actor, Instant>,
    pub(crate) dice: Dice,
    pub(crate) net: Net,
    pub(crate) machines: Vec<Machine>,
    /// What waits until a suspended machine wakes.
    pub(crate) frozen: Vec<Vec<Happening>>,
    /// When the last command and the last input of each machine arrive: neither lane reorders.
    lanes: Vec<(Instant, Instant)>,
    pub(crate) hosts: Vec<Server>,
    /// Signaling servers that are what they seem; what comes after them in `hosts` is another face of one.
    pub(crate) servers: usize,
    pub(crate) stations: Vec<Station>,
    pub(crate) services: Vec<Service>,
    disk_free: Instant,
    pub(crate) streams: Streams,
    pub(crate) ledger: Ledger,
    pub(crate) script: Script,
    pub(crate) calm: Calm,
    pub(crate) severed: Severed,
    pub(crate) intruder: Option<Intruder>,
    pub(crate) turncoat: Turncoat,
    pub(crate) heard: Heard,
    pub(crate) shares: Shares,
    pub(crate) drills: Drills,
    pub(crate) weather: Weather,
    pub(crate) trace: Trace,
    pub(crate) over: bool,
}

impl World {
    pub(crate) fn new(seed: u64, telling: Telling) -> Self {
        let mut dice = Dice::new(seed);
        let now = Instant::ZERO + dice.time(Duration::from_secs(1), Duration::from_secs(100_000));
        let scenario = Scenario::new(&mut dice, &mut Dice::labelled(seed, *b"later"));
        let hosts = (0..scenario.servers).map(|number| Server::new(now, number, scenario.relays.clone(), &mut dice));
        let hosts = hosts.collect();
        let services = scenario.services.clone();
        let stations =
            services.iter().enumerate().map(|(number, service)| Station::new(now, number, service, &mut dice));
        let stations = stations.collect();
        let machines: Vec<Machine> =
            scenario.setups.iter().map(|setup| Machine::new(now, setup.clone(), dice.fork())).collect();
        let mut world = Self {
            now,
            agenda: BTreeMap::new(),
            count: 0,
            deadlines: BTreeSet::new(),
            next: BTreeMap::new(),
            net: scenario.net,
            lanes: vec![(now, now); machines.len()],
            frozen: machines.iter().map(|_| Vec::new()).collect(),
            machines,
            hosts,
            servers: scenario.servers,
            stations,
            services,
            disk_free: now,
            streams: Streams::new(dice.fork()),
            ledger: Ledger::default(),
            script: Script::new(now, scenario.faults, scenario.spare, scenario.talkers, scenario.duration),
            calm: Calm::new(scenario.servers),
            severed: Severed::default(),
            intruder: None,
            turncoat: Turncoat::new(seed),
            heard: Heard::default(),
            shares: Shares::default(),
            drills: Drills::default(),
            weather: scenario.weather,
            trace: Trace::new(telling),
            over: false,
            dice,
        };
        world.script.quality = scenario.quality;
        world.describe();
        world.begin();
        for host in 0..world.hosts.len() {
            world.settle_host(host);
        }
        for machine in 0..world.machines.len() {
            world.settle_machine(machine);
        }
        world
    }

    /// Runs to the end.
    pub(crate) fn run(mut self, seed: u64) -> Outcome {
        let start = self.now;
        let mut standing = 0_u32;
        while !self.over {
            let planned = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let due = self.deadlines.first().map(|(at, _)| *at);
            let Some(next) = [planned, due].into_iter().flatten().min() else { break };
            standing = if next > self.now { 0 } else { standing + 1 };
            if standing > STANDSTILL {
                self.ledger.violate(self.now, "time stands still");
                break;
            }
            self.now = self.now.max(next);
            if due.is_some_and(|due| due <= self.now) {
                self.fire();
            } else if let Some(((_, _), happening)) = self.agenda.pop_first() {
                self.happen(happening);
            }
        }
        self.conclude();
        Outcome {
            seed,
            hash: self.trace.hash(),
            virtual_time: self.now.saturating_duration_since(start),
            packets: self.ledger.delivered,
            shares: self.shares,
            drills: self.drills,
            violations: self.ledger.violations(),
        }
    }

    pub(crate) fn plan(&mut self, at: Instant, happening: Happening) {
        self.count += 1;
        self.agenda.insert((at.max(self.now), self.count), happening);
    }

    pub(crate) fn step_at(&mut self, at: Instant, step: Step) {
        self.plan(at, Happening::Step(step));
    }

    #[cfg(test)]
    pub(crate) fn is_planned(&self, fits: impl Fn(&Step) -> bool) -> bool {
        self.agenda.values().any(|happening| matches!(happening, Happening::Step(step) if fits(step)))
    }

    /// Lets the earliest deadline fire, which has come.
    fn fire(&mut self) {
        let now = self.now;
        let Some((_, actor)) = self.deadlines.first().copied() else { return };
        match actor {
            Actor::Machine(machine) => {
                self.machines[machine].handle_timeout(now);
                self.settle_machine(machine);
            }
            Actor::Host(host) => {
                self.hosts[host].handle_timeout(now);
                self.settle_host(host);
            }
            Actor::Station(station) => {
                self.stations[station].handle_timeout(now);
                self.settle_station(station);
            }
        }
    }

    pub(crate) fn reckon(&mut self, machine: usize) {
        self.note_due(Actor::Machine(machine), self.machines[machine].due());
    }

    pub(crate) fn reckon_host(&mut self, host: usize) {
        self.note_due(Actor::Host(host), self.hosts[host].due());
    }

    pub(crate) fn reckon_station(&mut self, station: usize) {
        self.note_due(Actor::Station(station), self.stations[station].due());
    }

    fn note_due(&mut self, actor: Actor, due: Option<Instant>) {
        let before = match due {
            Some(due) => self.next.insert(actor, due),
            None => self.next.remove(&actor),
        };
        if before == due {
            return;
        }
        if let Some(before) = before {
            self.deadlines.remove(&(before, actor));
        }
        if let Some(due) = due {
            self.deadlines.insert((due, actor));
        }
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::Arrive { holder, packet } => match self.net.arrive(now, holder, packet) {
                Arrival::Station(station, packet) => {
                    self.stations[station].handle_packet(now, packet);
                    self.settle_station(station);
                }
                Arrival::Machine(machine, packet) => {
                    if self.machines[machine].life == Life::Awake {
                        let deed = self.sown(&packet.bytes);
                        let opened = self.machines[machine].receive(now, packet.to.port(), packet.from, &packet.bytes);
                        if let Some(deed) = deed.filter(|_| opened) {
                            self.drills.deeds.count(deed);
                        }
                        self.settle_machine(machine);
                    }
                }
                Arrival::Nowhere => {}
            },
            Happening::Command { machine, epoch, .. }
            | Happening::Input { machine, epoch, .. }
            | Happening::Tun { machine, epoch, .. }
                if self.machines[machine].epoch != epoch => {}
            Happening::Command { machine, .. } | Happening::Input { machine, .. } | Happening::Tun { machine, .. }
                if self.machines[machine].life == Life::Asleep =>
            {
                self.frozen[machine].push(happening);
            }
            Happening::Command { machine, command, .. } => {
                if !matches!(command, Command::Send { .. }) {
                    self.trace.tell(now, || format!("node{machine} does {command:?}"));
                }
                self.machines[machine].command(now, command);
                self.settle_machine(machine);
            }
            Happening::Input { machine, input, .. } => {
                self.machines[machine].input(now, input);
                self.settle_machine(machine);
            }
            Happening::Tun { machine, state, .. } => self.machines[machine].tun = state,
            Happening::Stream { conn, end } => self.stream(conn, end),
            Happening::Stored { host, epoch, ticket, change } => {
                if self.hosts[host].epoch == epoch {
                    self.hosts[host].stored(now, ticket, change);
                    self.settle_host(host);
                }
            }
            Happening::Step(step) => self.step(step),
        }
    }

    /// Carries out what a machine wants done.
    pub(crate) fn settle_machine(&mut self, machine: usize) {
        for effect in self.machines[machine].effects() {
            match effect {
                machine::Effect::Command(command) => {
                    let at = self.lane(machine, |lanes| &mut lanes.0);
                    let epoch = self.machines[machine].epoch;
                    self.plan(at, Happening::Command { machine, epoch, command });
                }
                machine::Effect::Tun(state) => {
                    let at = self.lane(machine, |lanes| &mut lanes.0);
                    let epoch = self.machines[machine].epoch;
                    self.plan(at, Happening::Tun { machine, epoch, state });
                }
                machine::Effect::Input(input) => {
                    let at = self.lane(machine, |lanes| &mut lanes.1);
                    let epoch = self.machines[machine].epoch;
                    self.plan(at, Happening::Input { machine, epoch, input });
                }
                machine::Effect::Datagram { socket, to, ttl, bytes } => {
                    let Some(port) = self.machines[machine].sockets.get(&socket).copied() else { continue };
                    self.check_wire(machine, to, &bytes);
                    self.note_handshake(machine, &bytes);
                    self.note_trouble(Troubler::Machine(machine), to.ip());
                    self.trace.note(self.now, 1, &bytes);
                    self.trace.tell(self.now, || format!("node{machine} :{port} -> {to} ttl {ttl:?} {}", name(&bytes)));
                    let setup = &self.machines[machine].setup;
                    let from = std::net::SocketAddr::new(setup.address, port);
                    let packet = Packet { from, to, ttl: ttl.unwrap_or(station::TTL), bytes };
                    self.transmit(setup.realm, packet);
                }
                machine::Effect::Deliver(packet) => self.deliver(machine, &packet),
                machine::Effect::Connect(server, addresses) => {
                    self.connect(Caller::Machine(machine, server), &addresses);
                }
                machine::Effect::Write(server, bytes) => {
                    self.write_up(Caller::Machine(machine, server), bytes);
                }
                machine::Effect::Disconnect(server) => self.disconnect(Caller::Machine(machine, server)),
                machine::Effect::Reply(id, reply) => self.replied(machine, id, reply),
                machine::Effect::Died => {
                    self.trace.tell(self.now, || format!("node{machine} dies of its disk"));
                    self.kill(machine);
                }
                machine::Effect::Broken(text) => self.ledger.violate(self.now, &text),
            }
        }
        self.reckon(machine);
    }

    /// Carries out what a signaling server wants done.
    pub(crate) fn settle_host(&mut self, host: usize) {
        for effect in self.hosts[host].effects() {
            match effect {
                server::Effect::Write(conn, bytes) => self.write_down(conn, bytes),
                server::Effect::Close(conn) => self.close_down(conn),
                server::Effect::Store(ticket, change) => {
                    let took = self.dice.time(Duration::from_micros(300), Duration::from_millis(8));
                    self.disk_free = self.disk_free.max(self.now) + took;
                    let epoch = self.hosts[host].epoch;
                    self.plan(self.disk_free, Happening::Stored { host, epoch, ticket, change });
                }
                server::Effect::Dial(link, addresses) => self.connect(Caller::Host(host, link), &addresses),
                server::Effect::LinkWrite(link, bytes) => self.write_up(Caller::Host(host, link), bytes),
                server::Effect::LinkClose(link) => self.disconnect(Caller::Host(host, link)),
                server::Effect::Broken(text) => self.ledger.violate(self.now, &text),
            }
        }
        self.reckon_host(host);
    }

    /// Carries out what a public host wants sent.
    pub(crate) fn settle_station(&mut self, station: usize) {
        for packet in self.stations[station].sent() {
            self.trace.note(self.now, 2, &packet.bytes);
            self.note_trouble(Troubler::Relay(station), packet.to.ip());
            self.transmit(Realm::INTERNET, packet);
        }
        for text in self.stations[station].broken() {
            self.ledger.violate(self.now, &text);
        }
        self.reckon_station(station);
    }

    /// Tells a machine the time on its wall clock.
    pub(crate) fn tell_wall(&mut self, machine: usize) {
        if self.machines[machine].life == Life::Awake {
            self.machines[machine].tell_wall(self.now);
            self.settle_machine(machine);
        }
    }

    pub(crate) fn transmit(&mut self, realm: Realm, packet: Packet) {
        let Some(transit) = self.net.send(self.now, realm, packet) else { return };
        for delay in transit.delays {
            self.plan(self.now + delay, Happening::Arrive { holder: transit.holder, packet: transit.packet.clone() });
        }
    }

    fn lane(&mut self, machine: usize, pick: impl Fn(&mut (Instant, Instant)) -> &mut Instant) -> Instant {
        let lag = self.machines[machine].lag();
        let lane = pick(&mut self.lanes[machine]);
        *lane = (*lane).max(self.now + lag);
        *lane
    }

    fn describe(&self) {
        self.trace.tell(self.now, || format!("a world of {:?} weather", self.weather));
        for (index, machine) in self.machines.iter().enumerate() {
            self.trace.tell(self.now, || {
                let nats: Vec<_> = self.net.nats(machine.setup.realm).into_iter().collect();
                let nats: Vec<_> = nats.iter().map(|(number, nat)| (number, nat.outside, nat.behaviour)).collect();
                let line = self.net.line(machine.setup.realm, machine.setup.address);
                format!("node{index} {:?} behind {nats:?} on {line:?}", machine.setup)
            });
        }
        let servers = self.hosts.len();
        self.trace.tell(self.now, || format!("{servers} signaling servers, public hosts {:?}", self.services));
        self.trace.tell(self.now, || format!("{:?}", self.script.faults));
    }
}

/// So much does not happen at one moment.
const STANDSTILL: u32 = 1_000_000;

/// What a datagram is, for a reader.
fn name(bytes: &[u8]) -> String {
    let (channel, inner) = match bytes {
        [a @ 0x40..=0x4F, b, _, _, inner @ ..] => (format!("channel {a:02x}{b:02x} "), inner),
        _ => (String::new(), bytes),
    };
    let index = |range: std::ops::Range<usize>| match inner.get(range) {
        Some([a, b, c, d]) => format!("{a:02x}{b:02x}{c:02x}{d:02x}"),
        Some(_) | None => "?".to_owned(),
    };
    let kind = match inner.first() {
        Some(0xC0 | 0xC4) => "initiation".to_owned(),
        Some(0xC1 | 0xC5) => "response".to_owned(),
        Some(0xC2 | 0xC6) => "cookie".to_owned(),
        Some(0xC3 | 0xC7) => format!("data for {}", index(8..12)),
        Some(0x00..=0x3F) => "stun".to_owned(),
        Some(_) | None => "?".to_owned(),
    };
    format!("{channel}{kind} {} B", bytes.len())
}
