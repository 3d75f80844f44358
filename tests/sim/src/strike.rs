//! How a fault strikes, and how it is undone.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::calm::{MarkId, Scope};
use crate::chores::Chore;
use crate::fault::{Direction, Fault, Trouble};
use crate::machine::{Company, Life, Manners};
use crate::malice::Malice;
use crate::net::{Cut, Holder};
use crate::script::Step;
use crate::server::Room;
use crate::station;
use crate::world::World;

impl World {
    /// Lets something go wrong.
    pub(crate) fn strike(&mut self, number: usize) {
        let fault = self.script.faults[number].clone();
        if self.is_idle_fault(&fault.what) {
            return;
        }
        self.end_calm(number, &fault);
        match fault.what {
            Trouble::ServerCrash(host) | Trouble::RollBack(host, _) | Trouble::Wiped(host) => {
                self.stop_server(number, host);
            }
            Trouble::ServerCutOff(host) => self.cut_off_server(number, host),
            Trouble::Promote(host) => self.promote(host),
            Trouble::Succession(host) => {
                self.stop_server(number, self.script.sequencer);
                self.give_chores([Chore::Promote(host)]);
            }
            Trouble::Revoke(machine) => self.revoke(machine),
            Trouble::Ambush(machine) => self.lie_in_wait(machine),
            Trouble::Silence(_) => self.begin_silence(number),
            Trouble::Turncoat(machine) => self.turn(machine),
            Trouble::HostileRelay(station) => self.corrupt_relay(station),
            Trouble::LyingServer(host, seconds) => self.begin_lies(host, seconds),
            Trouble::TwoFaces => {
                self.script.company = Company { nodes: Manners::Hostile, servers: Manners::Hostile };
                self.grow_faces();
            }
            Trouble::ServerDiskFull(host) => self.hosts[host].room = Room::Full,
            Trouble::Crash(machine) => self.kill(machine),
            Trouble::Doomed(machine, doom) => self.machines[machine].doom(Some(doom)),
            Trouble::DiskFull(machine) => self.machines[machine].room(Room::Full),
            Trouble::Moves(machine) => self.move_away(machine),
            Trouble::Suspend(machines) => self.suspend(machines),
            Trouble::ClockJump(machine, seconds) => {
                self.machines[machine].setup.clock_ahead += seconds;
                self.tell_wall(machine);
            }
            Trouble::Partition(a, b) => {
                let (a, b) = (self.publics(&a), self.publics(&b));
                self.cut_off(number, &a, &b, Direction::Both);
            }
            Trouble::BlackHole(machine, direction) => self.black_hole(number, machine, direction),
            Trouble::NatReboot(machine) => self.reboot_nat(machine),
            Trouble::RelayCrash(station) => {
                self.stations[station].stop();
                self.reckon_station(station);
            }
            Trouble::CredentialsExpire => self.outdate_credentials(),
            Trouble::Withholds(host) => self.begin_withholding(host),
            Trouble::Intruder(seed) => self.begin_intrusion(seed, self.now + fault.lasts),
        }
        self.survey();
    }

    /// Ends the calm for those whom a fault concerns, and plans its end.
    fn end_calm(&mut self, number: usize, fault: &Fault) {
        let now = self.now;
        self.trace.tell(now, || format!("fault: {:?} for {:?}", fault.what, fault.lasts));
        let mark = self.calm.begin(now, &fault.what.word(), self.scope_of(&fault.what), fault.what.recovery());
        self.script.undo[number].mark = Some(mark);
        if self.leaves_a_relay(&fault.what) {
            self.calm.bypass(mark);
        }
        if fault.lasts < Duration::MAX {
            self.step_at(now + fault.lasts, Step::Mend(number));
        }
        if matches!(fault.what, Trouble::Revoke(_) | Trouble::Ambush(_)) {
            // What it costs begins with the deed.
            self.calm.end(now, mark);
        }
        if matches!(fault.what, Trouble::Turncoat(_) | Trouble::TwoFaces | Trouble::Withholds(_)) {
            // It never ends, and others have their rest all the same.
            self.calm.settle(mark);
        }
    }

    /// Whether a fault cannot come about as things are, so that it excuses nothing.
    fn is_idle_fault(&self, what: &Trouble) -> bool {
        matches!(what, Trouble::Withholds(host) if !self.can_withhold(*host))
            || matches!(what, Trouble::Revoke(machine) if !self.can_revoke(*machine))
            || (matches!(what, Trouble::TwoFaces) && !self.can_grow_faces())
    }

    /// Whether all still reach a server and a relay that a fault does not touch.
    fn leaves_a_relay(&self, what: &Trouble) -> bool {
        let mut live = (0..self.stations.len()).filter(|other| self.stations[*other].relays());
        if let Trouble::RelayCrash(station) | Trouble::HostileRelay(station) = what {
            return live.any(|other| other != *station && !self.stations[other].is_hostile());
        }
        matches!(what, Trouble::Partition(..)) && self.has_relays()
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
            Trouble::RollBack(host, lost) => self.start_rolled_back(host, lost),
            Trouble::Wiped(host) => return self.replace_server(host, undo.mark),
            Trouble::Silence(_) => (0..self.servers).for_each(|host| self.start_server(host)),
            Trouble::HostileRelay(station) => self.stations[station].set_malice(None),
            Trouble::LyingServer(host, seconds) => self.end_lies(host, seconds),
            Trouble::ServerDiskFull(host) => self.hosts[host].room = Room::Free,
            Trouble::Crash(machine) => self.revive(machine),
            Trouble::Doomed(machine, _) => self.fulfil(machine),
            Trouble::DiskFull(machine) => self.machines[machine].room(Room::Free),
            Trouble::Suspend(machines) => self.wake_all(machines),
            Trouble::RelayCrash(station) => self.start_relay(station),
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
            | Trouble::Withholds(_)
            | Trouble::Intruder(_)
            | Trouble::CredentialsExpire => {}
        }
        if let Some(mark) = undo.mark {
            self.calm.end(now, mark);
        }
        self.survey();
    }

    fn cut_off_server(&mut self, number: usize, host: usize) {
        let own = [self.hosts[host].address()].into();
        let others = (0..self.stations.len()).map(station::address).chain(self.everybody()).collect();
        self.cut_off(number, &own, &others, Direction::Both);
    }

    /// Restarts a machine, which is revoked at its first handshake.
    fn lie_in_wait(&mut self, machine: usize) {
        self.kill(machine);
        self.revive(machine);
        self.script.ambush = Some(machine);
    }

    /// Lets a member mean harm.
    fn turn(&mut self, machine: usize) {
        self.script.hostile.insert(machine);
        self.script.company.nodes = Manners::Hostile;
        self.net.listen();
        self.call_all(machine);
        self.step_at(self.now, Step::Mischief(machine));
    }

    fn corrupt_relay(&mut self, station: usize) {
        self.script.company.nodes = Manners::Hostile;
        let malice = Malice::new(self.dice.fork(), self.net.bystander());
        self.stations[station].set_malice(Some(malice));
    }

    /// Lets a signaling server lie; whoever is connected comes again and is lied to.
    fn begin_lies(&mut self, host: usize, seconds: i64) {
        self.script.company = Company { nodes: Manners::Hostile, servers: Manners::Hostile };
        let lie = self.net.bystander();
        self.hosts[host].lies(self.now, Some(lie), seconds);
        self.settle_host(host);
        for (conn, _) in self.streams_to(host) {
            self.break_stream(conn);
        }
    }

    fn end_lies(&mut self, host: usize, seconds: i64) {
        self.hosts[host].lies(self.now, None, -seconds);
        self.settle_host(host);
    }

    fn suspend(&mut self, machines: BTreeSet<usize>) {
        for machine in machines {
            if self.machines[machine].life == Life::Awake {
                self.machines[machine].life = Life::Asleep;
                self.reckon(machine);
            }
        }
        self.review_streams();
    }

    fn wake_all(&mut self, machines: BTreeSet<usize>) {
        for machine in machines {
            self.wake(machine);
        }
        self.review_streams();
    }

    fn black_hole(&mut self, number: usize, machine: usize, direction: Direction) {
        let own = self.publics(&[machine].into());
        let stations = (0..self.stations.len()).map(station::address);
        let others: BTreeSet<IpAddr> = stations.chain(self.everybody()).collect();
        self.cut_off(number, &own, &others, direction);
    }

    /// Lets the NAT nearest to a machine forget everything.
    fn reboot_nat(&mut self, machine: usize) {
        let nearest = self.net.nats(self.machines[machine].setup.realm).first().map(|(number, _)| *number);
        if let Some(nat) = nearest {
            self.net.reboot(nat);
        }
    }

    fn start_relay(&mut self, station: usize) {
        let service = self.services[station].clone();
        self.stations[station].start(self.now, &service, &mut self.dice);
        self.settle_station(station);
    }

    /// Moves relays and servers on to when no credential is good any more.
    fn outdate_credentials(&mut self) {
        for station in 0..self.stations.len() {
            self.stations[station].jump(self.now, LATER);
            self.settle_station(station);
        }
        for host in 0..self.hosts.len() {
            self.hosts[host].jump(self.now, LATER);
            self.settle_host(host);
        }
    }

    /// Kills a doomed daemon that has not written anything meanwhile, and starts it anew; a sleeper as well, which would stay
    /// doomed else. Who is dead may not have died of its doom, and would die of it after the fault, with nobody to revive it.
    fn fulfil(&mut self, machine: usize) {
        if self.machines[machine].life != Life::Dead {
            self.kill(machine);
        }
        self.machines[machine].doom(None);
        self.revive(machine);
    }

    /// Kills a machine's daemon.
    pub(crate) fn kill(&mut self, machine: usize) {
        for conn in self.streams_of(machine) {
            self.break_stream(conn);
        }
        self.machines[machine].die();
        if self.script.unanswerable(machine) {
            self.ask_again();
        }
        self.frozen[machine].clear();
        self.reckon(machine);
        self.survey();
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
        self.machines[machine].wake(self.now);
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
            self.hang_stream(conn);
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
            self.survey();
        }
    }

    pub(crate) fn stop_server(&mut self, number: usize, host: usize) {
        self.script.undo[number].host = Some(host);
        for conn in self.links_of(host) {
            self.break_stream(conn);
        }
        for conn in self.hosts[host].stop(self.now) {
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

    /// Starts a server from a disk without its newest entries, unless another fault has started it already.
    fn start_rolled_back(&mut self, host: usize, lost: usize) {
        if !self.hosts[host].is_up() {
            self.hosts[host].roll_back(lost);
        }
        self.start_server(host);
    }

    /// Starts a server whose disk is lost. The admin takes it on anew: the first one, which the genesis names, as it is, since
    /// nobody may be there to dismiss it; another one as a stranger, once another orders the log if it did.
    fn replace_server(&mut self, host: usize, mark: Option<MarkId>) {
        // Where another fault has started it again in the meantime, nothing is lost. Somebody must know the log, and be
        // there to take over.
        let heir = (host + 1) % self.servers;
        let known = (host == 0 || self.hosts[heir].is_up()) && !self.script.chores.is_busy();
        if self.hosts[host].is_up() || !known {
            self.start_server(host);
            return self.give_chores(mark.map(Chore::Calm));
        }
        self.hosts[host].wipe();
        self.start_server(host);
        if host == 0 {
            return self.give_chores([Chore::Restore(host)].into_iter().chain(mark.map(Chore::Calm)));
        }
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
            Trouble::ServerCutOff(host) if self.services[*host] == station::Service::StunOnly => Scope::Server(*host),
            Trouble::Succession(_) => Scope::Server(self.script.sequencer),
            Trouble::TwoFaces => Scope::OddOnes(self.script.sequencer),
            Trouble::ServerCrash(_)
            | Trouble::RollBack(..)
            | Trouble::ServerCutOff(_)
            | Trouble::Promote(_)
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
            | Trouble::Withholds(_)
            | Trouble::Intruder(_)
            | Trouble::CredentialsExpire => what.scope(),
        }
    }
}

/// Longer than any credential lives.
const LATER: u64 = 7200;
/// Longer than all that servers can move on by in time, so that what an admin writes does not come too late for them.
pub(crate) const LONG: Duration = Duration::from_secs(20 * LATER);

#[cfg(test)]
mod tests {
    use ginnel_node::Request;

    use super::*;
    use crate::calm::{Concern, Promise, Servers};
    use crate::fault::{Fault, Undo};
    use crate::machine::Doom;
    use crate::trace::Telling;

    fn facing(what: Trouble) -> World {
        let mut world = World::new(3, Telling::Quiet);
        world.script.faults = vec![Fault { at: Duration::ZERO, lasts: Duration::MAX, what }];
        world.script.undo = vec![Undo::default()];
        world
    }

    #[test]
    fn what_cannot_come_about_excuses_nothing() {
        for what in [Trouble::TwoFaces, Trouble::Revoke(1), Trouble::Withholds(0)] {
            let mut world = facing(what.clone());
            world.kill(0);
            world.strike(0);
            let company = world.script.company.servers;
            assert!(world.calm.is_quiet(world.now) && company == Manners::Honest, "{what:?}");
            assert!(world.calm.is_well(world.now, 1), "{what:?}");
        }
        let mut world = facing(Trouble::Revoke(1));
        world.strike(0);
        assert_eq!([0, 1].map(|machine| world.calm.is_well(world.now, machine)), [true, false]);
    }

    #[test]
    fn a_relay_that_dies_excuses_no_standstill_where_another_lives() {
        let mut worlds = (0..).map(|seed| World::new(seed, Telling::Quiet));
        let mut two = worlds.find(|world| world.stations.iter().filter(|station| station.relays()).count() > 1);
        let world = two.as_mut().expect("some have two");
        let live: Vec<usize> = (0..world.stations.len()).filter(|station| world.stations[*station].relays()).collect();
        let faults = live.iter().map(|station| Trouble::RelayCrash(*station));
        world.script.faults = faults.map(|what| Fault { at: Duration::ZERO, lasts: Duration::MAX, what }).collect();
        world.script.undo = live.iter().map(|_| Undo::default()).collect();
        let talk = Concern { servers: Servers::Any, ..Concern::other(0, 1, world.now) };
        world.strike(0);
        assert_eq!(world.calm.promise(world.now, &talk), Promise::Linked(world.now));
        (1..live.len()).for_each(|number| world.strike(number));
        assert_eq!(world.calm.promise(world.now, &talk), Promise::Nothing);
    }

    #[test]
    fn a_doom_ends_with_its_fault_whatever_the_machine_does_meanwhile() {
        let doomed = Trouble::Doomed(1, Doom::Written);
        for meanwhile in [Trouble::Suspend([1].into()), Trouble::Crash(1), Trouble::DiskFull(1)] {
            let mut world = World::new(3, Telling::Quiet);
            let faults = [meanwhile.clone(), doomed.clone()];
            world.script.faults =
                faults.map(|what| Fault { at: Duration::ZERO, lasts: Duration::MAX, what }).into_iter().collect();
            world.script.undo = vec![Undo::default(), Undo::default()];
            world.strike(0);
            world.strike(1);
            world.mend(1);
            world.mend(0);
            let machine = &world.machines[1];
            assert_eq!((machine.life, machine.epoch), (Life::Awake, 1), "{meanwhile:?}");
        }
    }

    /// Lets a machine's daemon write its state.
    fn write(world: &mut World, machine: usize) {
        let ticket = Some(world.hosts[0].founding());
        let up = Request::Up { ticket, name: None, network: None, shields: None, range: None, ipv4: None };
        world.machines[machine].request(world.now, up);
        world.settle_machine(machine);
    }

    #[test]
    fn who_was_dead_when_its_doom_came_outlives_it() {
        let mut world = facing(Trouble::Doomed(1, Doom::Written));
        world.kill(1);
        world.strike(0);
        world.mend(0);
        write(&mut world, 1);
        assert_eq!((world.machines[1].life, world.machines[1].epoch), (Life::Awake, 1));
        // While it is doomed, such a write is its end.
        world.strike(0);
        write(&mut world, 1);
        assert_eq!(world.machines[1].life, Life::Dead);
        world.mend(0);
        write(&mut world, 1);
        assert_eq!(world.machines[1].life, Life::Awake);
    }
}
