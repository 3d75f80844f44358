//! What goes wrong in a world, when, for how long, and what is promised afterwards.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::calm::{MarkId, Recovery, Scope};
use crate::chores::Chore;
use crate::dice::Dice;
use crate::machine::{Company, Doom, Life};
use crate::malice::Malice;
use crate::net::{Cut, CutId, Holder};
use crate::script::Step;
use crate::server::Room;
use crate::silence::SILENCE;
use crate::station;
use crate::world::World;

/// Something that goes wrong, `at` after everybody has joined, for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) what: Trouble,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// A signaling server is killed and starts anew from its disk.
    ServerCrash(usize),
    /// A signaling server is killed and starts anew from a disk without so many of its newest entries.
    RollBack(usize, usize),
    /// A signaling server's host reaches nobody.
    ServerCutOff(usize),
    /// The admin lets a mirror order the log.
    Promote(usize),
    /// The server that orders the log is killed, and the admin lets this mirror take over.
    Succession(usize),
    /// A signaling server loses its disk, but not its key; the admin takes it on anew.
    Wiped(usize),
    /// The admin revokes a machine's membership.
    Revoke(usize),
    /// A signaling server's disk is full.
    ServerDiskFull(usize),
    /// A machine's daemon is killed, data plane and all, and starts anew from its disk.
    Crash(usize),
    /// The next write of a machine's daemon to its disk ends it.
    Doomed(usize, Doom),
    /// A machine's disk is full.
    DiskFull(usize),
    /// A machine moves to another network.
    Moves(usize),
    /// Machines are suspended.
    Suspend(BTreeSet<usize>),
    /// A machine's wall clock jumps by so many seconds.
    ClockJump(usize, i64),
    /// No packet passes between two groups of machines.
    Partition(BTreeSet<usize>, BTreeSet<usize>),
    /// A machine's line carries nothing in one direction or both.
    BlackHole(usize, Direction),
    /// The NAT nearest to a machine forgets everything.
    NatReboot(usize),
    /// A relay is killed and starts anew, remembering nothing.
    RelayCrash(usize),
    /// Relays and server move on so far in time that every credential is out of date.
    CredentialsExpire,
    /// The admin revokes a machine while it shakes hands with others, after a restart.
    Ambush(usize),
    /// The founder alone knows the newest entry when all servers die; perhaps it revokes a machine then.
    Silence(Option<usize>),
    /// A member means harm from here on.
    Turncoat(usize),
    /// A relay means harm for a time.
    HostileRelay(usize),
    /// A signaling server lies about addresses and the time, by so many seconds.
    LyingServer(usize, i64),
    /// The server that orders the log shows two histories from here on.
    TwoFaces,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Out,
    In,
    Both,
}

/// What has to be undone when a fault ends.
#[derive(Debug, Default)]
pub(crate) struct Undo {
    cuts: Vec<CutId>,
    mark: Option<MarkId>,
    /// The server that was killed.
    host: Option<usize>,
}

/// Draws two to five faults, spread over the world's time.
pub(crate) fn draw(
    machines: usize,
    stations: usize,
    servers: usize,
    duration: Duration,
    dice: &mut Dice,
) -> Vec<Fault> {
    let count = dice.between(2, 5);
    let mut faults: Vec<Fault> = (0..count)
        .map(|_| {
            let at = dice.time(Duration::from_secs(15), duration - Duration::from_secs(150));
            let of_servers = servers > 1 && dice.chance(300);
            let what =
                if of_servers { server_trouble(servers, dice) } else { trouble(machines, stations, servers, dice) };
            let lasts = what.lasts(dice);
            Fault { at, lasts, what }
        })
        .collect();
    if dice.chance(350) {
        let at = dice.time(Duration::from_secs(15), duration - Duration::from_secs(250));
        let what = hostility(machines, stations, servers, dice);
        let lasts = what.lasts(dice);
        faults.push(Fault { at, lasts, what });
    }
    faults.sort_by_key(|fault| fault.at);
    faults
}

fn below(dice: &mut Dice, count: usize) -> usize {
    usize::try_from(dice.below(count as u64)).expect("few")
}

/// Something that befalls a signaling server; what needs a fellow is for several alone.
fn server_trouble(servers: usize, dice: &mut Dice) -> Trouble {
    let host = below(dice, servers);
    match dice.below(if servers > 1 { 100 } else { 60 }) {
        0..24 => Trouble::ServerCrash(host),
        24..40 => Trouble::RollBack(host, 1 + below(dice, 3)),
        40..52 => Trouble::ServerDiskFull(host),
        52..66 => Trouble::ServerCutOff(host),
        66..76 => Trouble::Promote(host),
        76..88 => Trouble::Succession(host),
        // The server that the genesis names would found the network a second time when it is taken on anew.
        _ if host == 0 => Trouble::ServerCrash(host),
        _ => Trouble::Wiped(host),
    }
}

/// Somebody who means harm, or what is hard on those who do not.
fn hostility(machines: usize, stations: usize, servers: usize, dice: &mut Dice) -> Trouble {
    let machine = below(dice, machines);
    match dice.below(100) {
        0..20 if machine > 0 => Trouble::Ambush(machine),
        20..45 if machines > 2 => Trouble::Turncoat(machines - 1),
        45..60 => Trouble::HostileRelay(below(dice, stations)),
        60..70 => Trouble::LyingServer(below(dice, servers), YEAR * i64::try_from(1 + below(dice, 20)).expect("few")),
        70..80 => Trouble::TwoFaces,
        _ => Trouble::Silence((machine > 0 && dice.chance(500)).then_some(machine)),
    }
}

fn trouble(machines: usize, stations: usize, servers: usize, dice: &mut Dice) -> Trouble {
    let machine = below(dice, machines);
    match dice.below(100) {
        0..13 => server_trouble(servers, dice),
        13..25 => Trouble::Crash(machine),
        25..28 if machine > 0 => Trouble::Revoke(machine),
        25..31 => Trouble::Doomed(machine, dice.pick(&[Doom::Torn, Doom::Written])),
        31..35 => Trouble::DiskFull(machine),
        35..46 => Trouble::Moves(machine),
        46..55 => Trouble::Suspend([machine].into()),
        55..56 => Trouble::Suspend((0..machines).collect()),
        56..64 => {
            let years = i64::try_from(dice.between(1, 50)).expect("few years");
            Trouble::ClockJump(machine, dice.pick(&[years, -years]) * YEAR)
        }
        64..74 => {
            let (mut a, mut b): (BTreeSet<usize>, BTreeSet<usize>) = (0..machines).partition(|_| dice.chance(500));
            if a.is_empty() {
                a.extend(b.pop_first());
            }
            if b.is_empty() {
                b.extend(a.pop_first());
            }
            Trouble::Partition(a, b)
        }
        74..83 => Trouble::BlackHole(machine, dice.pick(&[Direction::Out, Direction::In, Direction::Both])),
        83..90 => Trouble::NatReboot(machine),
        90..96 => Trouble::RelayCrash(below(dice, stations)),
        _ => Trouble::CredentialsExpire,
    }
}

impl Trouble {
    fn lasts(&self, dice: &mut Dice) -> Duration {
        let seconds = |low: u64, high: u64, dice: &mut Dice| dice.millis(low * 1000, high * 1000);
        match self {
            Self::ServerCrash(_) | Self::RollBack(..) | Self::Wiped(_) | Self::ServerCutOff(_) => seconds(0, 90, dice),
            // So long that the admin has done it before the old server is back, mostly.
            Self::Succession(_) => seconds(30, 150, dice),
            Self::ServerDiskFull(_) | Self::DiskFull(_) => seconds(10, 90, dice),
            Self::Crash(_) | Self::Doomed(..) => dice.millis(100, 20_000),
            // A night of all machines costs nothing to simulate; one of a single machine costs the others' idling.
            Self::Suspend(machines) if machines.len() > 1 => seconds(600, 604_800, dice),
            Self::Suspend(_) if dice.chance(20) => seconds(600, 86_400, dice),
            Self::Suspend(_) if dice.chance(200) => seconds(60, 600, dice),
            Self::Suspend(_) => seconds(1, 60, dice),
            Self::Partition(..) => seconds(1, 90, dice),
            Self::BlackHole(..) => dice.millis(200, 60_000),
            Self::RelayCrash(_) => seconds(0, 60, dice),
            Self::Moves(_) | Self::ClockJump(..) | Self::NatReboot(_) | Self::CredentialsExpire | Self::Promote(_) => {
                Duration::ZERO
            }
            Self::Silence(_) => SILENCE,
            Self::HostileRelay(_) | Self::LyingServer(..) => seconds(30, 200, dice),
            // It is final.
            Self::Revoke(_) | Self::Ambush(_) | Self::Turncoat(_) | Self::TwoFaces => Duration::MAX,
        }
    }

    /// Its kind in one word.
    fn word(&self) -> String {
        let whole = format!("{self:?}");
        whole.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default().to_owned()
    }

    /// What must hold again and by when. Figures of waiting come from the programs: a stream whose other end is silent is
    /// given up after 60 s, a server that did not answer is tried again after at most 60 s.
    const fn recovery(&self) -> Recovery {
        let (back, shaken) = match self {
            // A silent stream is given up after 22 s, and the next try is at most 8 s away.
            Self::ServerCrash(_) => (35, 125),
            // The admin may have to try again, and so may the others.
            Self::Succession(_) => (125, 125),
            // Then members hand it what it has lost.
            Self::RollBack(..) => (35, 200),
            Self::Wiped(_) => (125, 200),
            Self::Revoke(_) | Self::Promote(_) | Self::Ambush(_) | Self::Turncoat(_) | Self::TwoFaces => (0, 0),
            // All streams hang.
            Self::Silence(_) | Self::LyingServer(..) => (125, 200),
            Self::ServerDiskFull(_) | Self::DiskFull(_) => (5, 10),
            // Who still holds a session with a daemon that restarted, and has been silent since, learns of it only by
            // talking.
            Self::Crash(_) | Self::Doomed(..) => (20, 300),
            Self::Moves(_) => (15, 75),
            // As for the server; and a peer that data waits for is called every 10 s.
            Self::Suspend(_) | Self::Partition(..) | Self::BlackHole(..) => (30, 300),
            Self::ClockJump(..) => (0, 60),
            Self::NatReboot(_) => (15, 75),
            // A relay that forgot us is found out after at most 15 s and tried again within 8 s.
            Self::RelayCrash(_) => (30, 130),
            Self::ServerCutOff(_) => (40, 130),
            // What it has spoilt is found out as late.
            Self::HostileRelay(_) => (130, 130),
            Self::CredentialsExpire => (30, 130),
        };
        Recovery { back: Duration::from_secs(back), shaken: Duration::from_secs(shaken) }
    }

    fn scope(&self) -> Scope {
        match self {
            Self::ServerCrash(_)
            | Self::ServerDiskFull(_)
            | Self::RollBack(..)
            | Self::Succession(_)
            | Self::LyingServer(..)
            | Self::TwoFaces
            | Self::Wiped(_) => Scope::Beginning,
            Self::Promote(_) => Scope::Machines(BTreeSet::new()),
            Self::Crash(machine)
            | Self::Revoke(machine)
            | Self::Ambush(machine)
            | Self::Turncoat(machine)
            | Self::Doomed(machine, _)
            | Self::DiskFull(machine)
            | Self::Moves(machine)
            | Self::ClockJump(machine, _)
            | Self::BlackHole(machine, _)
            | Self::NatReboot(machine) => Scope::Machines([*machine].into()),
            Self::Suspend(machines) => Scope::Machines(machines.clone()),
            Self::Partition(a, b) => Scope::Between(a.clone(), b.clone()),
            // Its host is a relay, too.
            Self::RelayCrash(_)
            | Self::CredentialsExpire
            | Self::ServerCutOff(_)
            | Self::HostileRelay(_)
            | Self::Silence(_) => Scope::Relayed,
        }
    }
}

impl World {
    /// Lets something go wrong.
    pub(crate) fn strike(&mut self, number: usize) {
        let fault = self.script.faults[number].clone();
        let now = self.now;
        self.trace.tell(now, || format!("fault: {:?} for {:?}", fault.what, fault.lasts));
        let mark = self.calm.begin(now, &fault.what.word(), self.scope_of(&fault.what), fault.what.recovery());
        self.script.undo[number].mark = Some(mark);
        if matches!(fault.what, Trouble::Partition(..)) && self.has_relays() {
            // All still reach the server and the relays.
            self.calm.bypass(mark);
        }
        if fault.lasts < Duration::MAX {
            self.step_at(now + fault.lasts, Step::Mend(number));
        }
        match fault.what {
            Trouble::ServerCrash(host) | Trouble::RollBack(host, _) | Trouble::Wiped(host) => {
                self.stop_server(number, host);
            }
            Trouble::ServerCutOff(host) => {
                let own = [self.hosts[host].address()].into();
                let others = (0..self.stations.len()).map(station::address).chain(self.everybody()).collect();
                self.cut_off(number, &own, &others, Direction::Both);
            }
            Trouble::Promote(host) => self.promote(host),
            Trouble::Succession(host) => {
                self.stop_server(number, self.script.sequencer);
                self.give_chores([Chore::Promote(host)]);
            }
            Trouble::Revoke(machine) => self.revoke(machine),
            Trouble::Ambush(machine) => {
                self.kill(machine);
                self.revive(machine);
                self.script.ambush = Some(machine);
            }
            Trouble::Silence(_) => self.begin_silence(number),
            Trouble::Turncoat(machine) => {
                self.script.hostile.insert(machine);
                self.script.company = Company::Hostile;
                self.net.listen();
                self.step_at(now, Step::Mischief(machine));
            }
            Trouble::HostileRelay(station) => {
                self.script.company = Company::Hostile;
                let malice = Malice::new(self.dice.fork(), self.net.bystander());
                self.stations[station].set_malice(Some(malice));
            }
            Trouble::LyingServer(host, seconds) => {
                self.script.company = Company::Hostile;
                let lie = self.net.bystander();
                self.hosts[host].lies(now, Some(lie), seconds);
                self.settle_host(host);
                for (conn, _) in self.streams_to(host) {
                    self.break_stream(conn);
                }
            }
            Trouble::TwoFaces => {
                self.script.company = Company::Hostile;
                self.grow_faces();
            }
            Trouble::ServerDiskFull(host) => self.hosts[host].room = Room::Full,
            Trouble::Crash(machine) => self.kill(machine),
            Trouble::Doomed(machine, doom) => self.machines[machine].doom(doom),
            Trouble::DiskFull(machine) => self.machines[machine].room(Room::Full),
            Trouble::Moves(machine) => self.move_away(machine),
            Trouble::Suspend(machines) => {
                for machine in machines {
                    if self.machines[machine].life == Life::Awake {
                        self.machines[machine].life = Life::Asleep;
                        self.reckon(machine);
                    }
                }
                self.review_streams();
            }
            Trouble::ClockJump(machine, seconds) => {
                self.machines[machine].setup.clock_ahead += seconds;
                self.tell_wall(machine);
            }
            Trouble::Partition(a, b) => {
                let (a, b) = (self.publics(&a), self.publics(&b));
                self.cut_off(number, &a, &b, Direction::Both);
            }
            Trouble::BlackHole(machine, direction) => {
                let own = self.publics(&[machine].into());
                let stations = (0..self.stations.len()).map(station::address);
                let others: BTreeSet<IpAddr> = stations.chain(self.everybody()).collect();
                self.cut_off(number, &own, &others, direction);
            }
            Trouble::NatReboot(machine) => {
                let nearest = self.net.nats(self.machines[machine].setup.realm).first().map(|(number, _)| *number);
                if let Some(nat) = nearest {
                    self.net.reboot(nat);
                }
            }
            Trouble::RelayCrash(station) => {
                self.stations[station].stop();
                self.reckon_station(station);
            }
            Trouble::CredentialsExpire => {
                for station in 0..self.stations.len() {
                    self.stations[station].jump(now, LATER);
                    self.settle_station(station);
                }
                for host in 0..self.hosts.len() {
                    self.hosts[host].jump(now, LATER);
                    self.settle_host(host);
                }
            }
        }
    }

    /// Undoes what can be undone, and lets the time of recovery begin.
    pub(crate) fn mend(&mut self, number: usize) {
        let now = self.now;
        let what = self.script.faults[number].what.clone();
        self.trace.tell(now, || format!("mended: {what:?}"));
        self.heal(number);
        let undo = std::mem::take(&mut self.script.undo[number]);
        match what {
            Trouble::ServerCrash(_) | Trouble::Succession(_) => {
                if let Some(host) = undo.host {
                    self.start_server(host);
                }
            }
            Trouble::RollBack(host, lost) => {
                if !self.hosts[host].is_up() {
                    self.hosts[host].roll_back(lost);
                }
                self.start_server(host);
            }
            Trouble::Wiped(host) => return self.replace_server(host, undo.mark),
            Trouble::Silence(_) => (0..self.servers).for_each(|host| self.start_server(host)),
            Trouble::HostileRelay(station) => self.stations[station].set_malice(None),
            Trouble::LyingServer(host, seconds) => {
                self.hosts[host].lies(now, None, -seconds);
                self.settle_host(host);
            }
            Trouble::ServerDiskFull(host) => self.hosts[host].room = Room::Free,
            Trouble::Crash(machine) => self.revive(machine),
            // Nothing was written meanwhile: then it is no longer doomed, as the kill comes now.
            Trouble::Doomed(machine, _) => {
                if self.machines[machine].life == Life::Awake {
                    self.kill(machine);
                }
                self.revive(machine);
            }
            Trouble::DiskFull(machine) => self.machines[machine].room(Room::Free),
            Trouble::Suspend(machines) => {
                for machine in machines {
                    self.wake(machine);
                }
                self.review_streams();
            }
            Trouble::RelayCrash(station) => {
                let service = self.services[station].clone();
                self.stations[station].start(now, &service, &mut self.dice);
                self.settle_station(station);
            }
            Trouble::Moves(_)
            | Trouble::Revoke(_)
            | Trouble::Ambush(_)
            | Trouble::Turncoat(_)
            | Trouble::TwoFaces
            | Trouble::ClockJump(..)
            | Trouble::Partition(..)
            | Trouble::BlackHole(..)
            | Trouble::NatReboot(_)
            | Trouble::ServerCutOff(_)
            | Trouble::Promote(_)
            | Trouble::CredentialsExpire => {}
        }
        if let Some(mark) = undo.mark {
            self.calm.end(now, mark);
        }
    }

    /// Kills a machine's daemon.
    pub(crate) fn kill(&mut self, machine: usize) {
        for conn in self.streams_of(machine) {
            self.break_stream(conn);
        }
        self.machines[machine].die();
        self.script.unanswerable(machine);
        self.frozen[machine].clear();
        self.reckon(machine);
    }

    fn revive(&mut self, machine: usize) {
        if self.machines[machine].life == Life::Dead {
            self.machines[machine].revive(self.now);
            self.settle_machine(machine);
        }
    }

    fn wake(&mut self, machine: usize) {
        if self.machines[machine].life != Life::Asleep {
            return;
        }
        self.machines[machine].life = Life::Awake;
        for happening in std::mem::take(&mut self.frozen[machine]) {
            self.plan(self.now, happening);
        }
        self.tell_wall(machine);
    }

    fn move_away(&mut self, machine: usize) {
        let Some((realm, address, line)) = self.script.spare.pop() else { return };
        self.script.moved = Some(self.now);
        let setup = &self.machines[machine].setup;
        self.net.detach(setup.realm, setup.address);
        self.net.attach(realm, address, Holder::Machine(machine), line);
        for conn in self.streams_of(machine) {
            self.break_stream(conn);
        }
        self.machines[machine].moved(self.now, realm, address);
        self.settle_machine(machine);
    }

    /// Kills all servers, as a fault has it.
    pub(crate) fn silence(&mut self, number: usize) {
        if !self.is_whispered() {
            return self.wait_for_whisper(number);
        }
        if let Trouble::Silence(revoked) = self.script.faults[number].what {
            self.servers_die(number, revoked);
        }
    }

    /// Lets packets pass again that a fault has stopped.
    pub(crate) fn heal(&mut self, number: usize) {
        let cuts = std::mem::take(&mut self.script.undo[number].cuts);
        for cut in &cuts {
            self.net.heal(*cut);
        }
        if !cuts.is_empty() {
            self.review_streams();
        }
    }

    pub(crate) fn stop_server(&mut self, number: usize, host: usize) {
        self.script.undo[number].host = Some(host);
        for conn in self.links_of(host) {
            self.break_stream(conn);
        }
        for conn in self.hosts[host].stop() {
            self.break_stream(conn);
        }
        self.reckon_host(host);
    }

    fn start_server(&mut self, host: usize) {
        if !self.hosts[host].is_up() {
            self.hosts[host].start(self.now, &mut self.dice);
            self.settle_host(host);
        }
    }

    /// Starts a server whose disk is lost; the admin lets another one order the log if it did, and takes it on anew.
    fn replace_server(&mut self, host: usize, mark: Option<MarkId>) {
        // Where another fault has started it again in the meantime, nothing is lost. Somebody must know the log, and be
        // there to take over: a network whose servers are all lost at once is another trouble.
        let heir = (host + 1) % self.servers;
        let known = self.hosts[heir].is_up() && !self.script.chores.is_busy();
        if self.hosts[host].is_up() || !known {
            self.start_server(host);
            return self.give_chores(mark.map(Chore::Calm));
        }
        self.hosts[host].wipe();
        self.start_server(host);
        let promote = (self.script.sequencer == host).then_some(Chore::Promote(heir));
        let anew = [Chore::Remove(host), Chore::Add(host)];
        self.give_chores(promote.into_iter().chain(anew).chain(mark.map(Chore::Calm)));
    }

    /// Lets a mirror order the log. Where the old server lives and cannot be reached, nobody should.
    fn promote(&mut self, host: usize) {
        let old = self.script.sequencer;
        let (from, to) = (self.hosts[old].address(), self.hosts[host].address());
        if self.hosts[old].is_up() && self.hosts[host].is_up() && self.net.passes(from, to) && self.net.passes(to, from)
        {
            self.give_chores([Chore::Promote(host)]);
        }
    }

    pub(crate) fn cut_off(&mut self, number: usize, a: &BTreeSet<IpAddr>, b: &BTreeSet<IpAddr>, direction: Direction) {
        // Who shares an address with the other group stays joined to it.
        let (a, b) = (a - b, b - a);
        if direction != Direction::In {
            let cut = self.net.cut(Cut { from: a.clone(), to: b.clone() });
            self.script.undo[number].cuts.push(cut);
        }
        if direction != Direction::Out {
            let cut = self.net.cut(Cut { from: b, to: a });
            self.script.undo[number].cuts.push(cut);
        }
        self.review_streams();
    }

    /// The addresses that all machines are seen by.
    pub(crate) fn everybody(&self) -> BTreeSet<IpAddr> {
        (0..self.machines.len()).map(|machine| self.public_address(machine)).collect()
    }

    fn publics(&self, machines: &BTreeSet<usize>) -> BTreeSet<IpAddr> {
        machines.iter().map(|machine| self.public_address(*machine)).collect()
    }

    /// Whom a fault concerns: beside the machine that it names, all that share a line or a NAT with it.
    fn scope_of(&self, what: &Trouble) -> Scope {
        let neighbours = |machine: usize| -> BTreeSet<usize> {
            let public = self.public_address(machine);
            (0..self.machines.len()).filter(|other| self.public_address(*other) == public).collect()
        };
        match what {
            Trouble::BlackHole(machine, _) | Trouble::NatReboot(machine) => Scope::Machines(neighbours(*machine)),
            Trouble::RelayCrash(station) if self.services[*station] == station::Service::StunOnly => Scope::Beginning,
            Trouble::ServerCrash(_)
            | Trouble::RollBack(..)
            | Trouble::ServerCutOff(_)
            | Trouble::Promote(_)
            | Trouble::Succession(_)
            | Trouble::Wiped(_)
            | Trouble::Revoke(_)
            | Trouble::ServerDiskFull(_)
            | Trouble::Crash(_)
            | Trouble::Doomed(..)
            | Trouble::DiskFull(_)
            | Trouble::Moves(_)
            | Trouble::Suspend(_)
            | Trouble::ClockJump(..)
            | Trouble::Partition(..)
            | Trouble::RelayCrash(_)
            | Trouble::Ambush(_)
            | Trouble::Silence(_)
            | Trouble::Turncoat(_)
            | Trouble::HostileRelay(_)
            | Trouble::LyingServer(..)
            | Trouble::TwoFaces
            | Trouble::CredentialsExpire => what.scope(),
        }
    }
}

const YEAR: i64 = 31_557_600;
/// Longer than any credential lives.
const LATER: u64 = 7200;
