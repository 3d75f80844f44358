//! The world: one clock, one agenda, and everything that happens in it, in order.

use std::collections::BTreeMap;
use std::time::Duration;

use ginnel_forward::Command;
use ginnel_node::{Input, TunState};
use ginnel_signal_proto::server::{Change, ConnectionId, Ticket};
use ginnel_time::Instant;

use crate::Outcome;
use crate::dice::Dice;
use crate::ledger::Ledger;
use crate::machine::{self, Machine};
use crate::nat::Behaviour;
use crate::net::{Arrival, Holder, Net, Packet};
use crate::oracle::{Entitled, entitled};
use crate::scenario::{Scenario, Weather};
use crate::script::{Script, Step};
use crate::server::{self, Host};
use crate::stream::{End, Streams};
use crate::trace::{Telling, Trace};

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
    /// The disk of the public host has written.
    Stored {
        epoch: u32,
        ticket: Ticket,
        change: Change,
    },
    Step(Step),
}

pub(crate) struct World {
    pub(crate) now: Instant,
    agenda: BTreeMap<(Instant, u64), Happening>,
    count: u64,
    pub(crate) dice: Dice,
    pub(crate) net: Net,
    pub(crate) machines: Vec<Machine>,
    /// When the last command and the last input of each machine arrive: neither lane reorders.
    lanes: Vec<(Instant, Instant)>,
    pub(crate) host: Host,
    disk_free: Instant,
    pub(crate) streams: Streams,
    pub(crate) ledger: Ledger,
    pub(crate) script: Script,
    pub(crate) weather: Weather,
    pub(crate) trace: Trace,
    pub(crate) over: bool,
}

impl World {
    pub(crate) fn new(seed: u64, telling: Telling) -> Self {
        let mut dice = Dice::new(seed);
        let now = Instant::ZERO + dice.time(Duration::from_secs(1), Duration::from_secs(100_000));
        let scenario = Scenario::new(&mut dice);
        let host = Host::new(now, &mut dice);
        let machines: Vec<Machine> =
            scenario.setups.iter().map(|setup| Machine::new(now, setup.clone(), dice.fork())).collect();
        let mut world = Self {
            now,
            agenda: BTreeMap::new(),
            count: 0,
            net: scenario.net,
            lanes: vec![(now, now); machines.len()],
            machines,
            host,
            disk_free: now,
            streams: Streams::new(dice.fork()),
            ledger: Ledger::default(),
            script: Script::new(now, scenario.faults, scenario.spare, scenario.lines, scenario.duration),
            weather: scenario.weather,
            trace: Trace::new(telling),
            over: false,
            dice,
        };
        world.describe();
        world.begin();
        for machine in 0..world.machines.len() {
            world.settle_machine(machine);
        }
        world
    }

    /// Runs to the end.
    pub(crate) fn run(mut self, seed: u64) -> Outcome {
        let start = self.now;
        while !self.over {
            let planned = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let due = self.machines.iter().filter_map(Machine::due).chain(self.host.due()).min();
            let Some(next) = [planned, due].into_iter().flatten().min() else { break };
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

    /// What the machines `a` and `b` are entitled to where they now are.
    pub(crate) fn entitled(&self, a: usize, b: usize) -> Entitled {
        let chain = |machine: usize| -> Vec<(usize, Behaviour)> {
            let nats = self.net.nats(self.machines[machine].setup.realm);
            nats.into_iter().map(|(number, nat)| (number, nat.behaviour)).collect()
        };
        entitled(&chain(a), &chain(b))
    }

    /// Lets the deadlines of every machine fire that have come.
    fn fire(&mut self) {
        let now = self.now;
        for machine in 0..self.machines.len() {
            if self.machines[machine].due().is_some_and(|due| due <= now) {
                self.machines[machine].handle_timeout(now);
                self.settle_machine(machine);
            }
        }
        if self.host.due().is_some_and(|due| due <= now) {
            self.host.handle_timeout(now);
            self.settle_host();
        }
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::Arrive { holder, packet } => match self.net.arrive(now, holder, packet) {
                Arrival::Server(packet) => {
                    self.host.handle_packet(now, packet);
                    self.settle_host();
                }
                Arrival::Machine(machine, packet) => {
                    self.trace.tell(now, || {
                        format!("node{machine} <- {} at :{} {}", packet.from, packet.to.port(), name(&packet.bytes))
                    });
                    self.machines[machine].receive(now, packet.to.port(), packet.from, &packet.bytes);
                    self.settle_machine(machine);
                }
                Arrival::Nowhere => {}
            },
            Happening::Command { machine, epoch, command } if self.machines[machine].epoch == epoch => {
                if !matches!(command, Command::Send { .. }) {
                    self.trace.tell(now, || format!("node{machine} does {command:?}"));
                }
                self.machines[machine].command(now, command);
                self.settle_machine(machine);
            }
            Happening::Input { machine, epoch, input } if self.machines[machine].epoch == epoch => {
                self.machines[machine].input(now, input);
                self.settle_machine(machine);
            }
            Happening::Tun { machine, epoch, state } if self.machines[machine].epoch == epoch => {
                self.machines[machine].tun = state;
            }
            Happening::Command { .. } | Happening::Input { .. } | Happening::Tun { .. } => {}
            Happening::Stream { conn, end } => self.stream(conn, end),
            Happening::Stored { epoch, ticket, change } => {
                if self.host.epoch == epoch {
                    self.host.stored(now, ticket, change);
                    self.settle_host();
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
                    self.ledger.wire(self.now, machine, &bytes);
                    self.trace.note(self.now, 1, &bytes);
                    self.trace.tell(self.now, || format!("node{machine} :{port} -> {to} ttl {ttl:?} {}", name(&bytes)));
                    let setup = &self.machines[machine].setup;
                    let from = std::net::SocketAddr::new(setup.address, port);
                    let packet = Packet { from, to, ttl: ttl.unwrap_or(server::TTL), bytes };
                    self.transmit(setup.realm, packet);
                }
                machine::Effect::Deliver(packet) => self.deliver(machine, &packet),
                machine::Effect::Connect(server) => self.connect(machine, server),
                machine::Effect::Write(server, bytes) => self.write_up(machine, server, bytes),
                machine::Effect::Disconnect(server) => self.disconnect(machine, server),
                machine::Effect::Reply(id, reply) => self.replied(machine, id, reply),
                machine::Effect::Broken(text) => self.ledger.violate(self.now, &text),
            }
        }
    }

    /// Carries out what the public host wants done.
    pub(crate) fn settle_host(&mut self) {
        for effect in self.host.effects() {
            match effect {
                server::Effect::Datagram(packet) => {
                    self.trace.note(self.now, 2, &packet.bytes);
                    self.transmit(crate::net::Realm::INTERNET, packet);
                }
                server::Effect::Write(conn, bytes) => self.write_down(conn, bytes),
                server::Effect::Close(conn) => self.close_down(conn),
                server::Effect::Store(ticket, change) => {
                    let took = self.dice.time(Duration::from_micros(300), Duration::from_millis(8));
                    self.disk_free = self.disk_free.max(self.now) + took;
                    self.plan(self.disk_free, Happening::Stored { epoch: self.host.epoch, ticket, change });
                }
                server::Effect::Broken(text) => self.ledger.violate(self.now, &text),
            }
        }
    }

    fn transmit(&mut self, realm: crate::net::Realm, packet: Packet) {
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
        self.trace.tell(self.now, || format!("{:?}", self.script.faults));
    }
}

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
