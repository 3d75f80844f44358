//! The judge: whether conversations get on as they are entitled to, and what is left at the end.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_path::address::usable_source;
use ginnel_time::Instant;

use crate::calm::{Concern, Promise, REBUILT, STALLED, Servers};
use crate::deeds::{Deeds, is_unusable};
use crate::ledger::{Answers, Flow, UNLIKELY_LOST, is_tunnel, seconds};
use crate::machine::Life;
use crate::oracle::{Verdict, is_forgetful};
use crate::scenario::Weather;
use crate::script::{Step, Troubler};
use crate::station::{STUN_PORT, Service};
use crate::verdict::{FOUND_OUT, Owed};
use crate::wire::{Toward, is_odd};
use crate::world::World;

/// How often each verdict was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// The pair had to be direct.
    pub direct: u64,
    /// The pair had to be linked.
    pub linked: u64,
    /// Nothing could get through, and nothing did.
    pub cannot: u64,
    /// Likewise, where nothing could have gone wrong: nobody had a path to give up, or it was counted before.
    pub idle: u64,
    /// Whatever happened was right.
    pub may: u64,
    /// Why, and how often.
    pub why: BTreeMap<String, u64>,
}

/// How often the rules that need an occasion had one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drills {
    /// Machines that were revoked in the middle of a handshake.
    pub ambushes: u64,
    /// Machines that could learn from other members alone what the log had become.
    pub whispers: u64,
    /// Machines that could learn from other members alone that one is revoked.
    pub outcasts: u64,
    /// Worlds in which a server has shown two histories.
    pub forks: u64,
    /// What hostile members have said inside sessions.
    pub deeds: Deeds,
    /// How often a hostile member has repeated what it heard others say.
    pub repeats: u64,
    /// Servers that have kept things to themselves.
    pub withheld: u64,
    /// How often somebody who is in no network tried to come in at a server.
    pub intrusions: u64,
}

impl Drills {
    pub(crate) fn add(&mut self, other: Self) {
        self.ambushes += other.ambushes;
        self.whispers += other.whispers;
        self.outcasts += other.outcasts;
        self.forks += other.forks;
        self.deeds.add(&other.deeds);
        self.repeats += other.repeats;
        self.intrusions += other.intrusions;
        self.withheld += other.withheld;
    }
}

impl Shares {
    pub(crate) fn add(&mut self, other: &Self) {
        self.direct += other.direct;
        self.linked += other.linked;
        self.cannot += other.cannot;
        self.idle += other.idle;
        self.may += other.may;
        for (why, count) in &other.why {
            *self.why.entry(why.clone()).or_default() += count;
        }
    }

    fn count(&mut self, verdict: Verdict, why: impl FnOnce() -> String) {
        match verdict {
            Verdict::Direct => self.direct += 1,
            Verdict::Linked => self.linked += 1,
            Verdict::Cannot => self.cannot += 1,
            Verdict::May => {
                self.may += 1;
                *self.why.entry(why()).or_default() += 1;
            }
        }
    }

    /// Verdicts that can be wrong, of a hundred.
    pub fn firm(&self) -> u64 {
        let firm = self.direct + self.linked + self.cannot;
        100 * firm / (firm + self.may).max(1)
    }
}

impl World {
    /// Complains when a conversation, or what answers it, has stood still for longer than it may.
    pub(crate) fn check_gap(&mut self, index: usize) {
        let Flow { from, to, progress, answered, answers, .. } = self.ledger.flows[index];
        let (since, limit) = match self.promise(index) {
            Promise::Nothing => {
                let flow = &mut self.ledger.flows[index];
                (flow.progress, flow.answered) = (self.now, self.now);
                return;
            }
            Promise::Full(since) => (since, self.weather.patience().gap),
            Promise::Shaken(since) | Promise::Linked(since) => (since, STALLED),
        };
        let limit = if self.is_open_pair(from, to) { STALLED } else { limit };
        if !self.must_link(from, to) && !self.is_open_pair(from, to) {
            return;
        }
        let now = self.now;
        let silent = |progress: Instant| now.saturating_duration_since(since.max(progress));
        if silent(progress) > limit {
            self.complain(&format!("flow {index} has delivered nothing for {:?}", silent(progress)), from, to);
            self.ledger.flows[index].progress = now;
        }
        if answers == Answers::Each && silent(answered) > limit {
            self.complain(&format!("flow {index} has had no answer for {:?}", silent(answered)), from, to);
            self.ledger.flows[index].answered = now;
        }
    }

    /// Looks at a datagram that leaves a machine: it is of a class that goes there, and says nothing in the clear; in
    /// undisturbed use a key is replaced in time, and in silence nothing is said.
    pub(crate) fn check_wire(&mut self, machine: usize, to: SocketAddr, bytes: &[u8]) {
        let toward = if self.is_relay(to) { Toward::Relay } else { Toward::Elsewhere };
        if is_odd(bytes, toward) {
            let beginning = &bytes[..bytes.len().min(12)];
            let text = format!("node{machine} sends {} bytes of no class to {to}: {beginning:02x?}", bytes.len());
            self.ledger.violate(self.now, &text);
        }
        let sender = &self.machines[machine];
        let nowhere = !usable_source(to) || is_unusable(to.ip()) || sender.is_own(to.ip()) || sender.knows(to.ip());
        if nowhere && !self.script.hostile.contains(&machine) {
            self.ledger.violate(self.now, &format!("node{machine} sends to {to}, where nobody can be"));
        }
        if self.ledger.is_readable(bytes) {
            self.ledger.violate(self.now, &format!("node{machine} sends {to} a program's packet that can be read"));
        }
        let overdue = self.ledger.wire(self.now, machine, bytes);
        let late = overdue > REPLACED && self.weather == Weather::Clear && self.has_relays();
        if late && self.calm.is_well(self.now, machine) && !self.may_be_lost(machine, bytes) {
            let text = format!("node{machine} has sealed for {overdue:?} with a key that was to be replaced");
            self.ledger.violate(self.now, &text);
        }
        let silent = self.script.silent.is_some_and(|since| self.now >= since) && is_tunnel(bytes);
        if silent && self.is_at_rest() && self.calm.is_well(self.now, machine) {
            self.ledger.violate(self.now, &format!("node{machine} sends to peers though nobody talks"));
        }
    }

    /// Whether a relay serves its clients at an address.
    fn is_relay(&self, to: SocketAddr) -> bool {
        let mut services = self.stations.iter().zip(&self.services);
        to.port() == STUN_PORT
            && services.any(|(station, service)| station.address == to.ip() && *service != Service::StunOnly)
    }

    pub(crate) fn check_first(&mut self, index: usize) {
        let Flow { from, to, start, end, first, .. } = self.ledger.flows[index];
        // Without a relay every packet of a short conversation may go the way of a path that died in silence.
        if !self.has_relays() && end < self.now {
            return;
        }
        // A NAT that forgets soon has forgotten the relay, too, and only a packet from inside brings it back.
        let forgetful = is_forgetful(&self.chain(from), &self.chain(to));
        if !matches!(self.promise(index), Promise::Full(_)) || !self.must_link(from, to) || forgetful {
            return;
        }
        // A line that loses may lose a few packets in a row.
        if first.is_none() && (self.weather == Weather::Clear || self.ledger.flows[index].said.len() >= UNLIKELY_LOST) {
            let limit = self.patience().first;
            let text = format!("flow {index}, begun at {:.3} s, has delivered nothing after {limit:?}", seconds(start));
            self.complain(&text, from, to);
        }
    }

    /// Judges a conversation now, and again later while it lasts.
    pub(crate) fn judge(&mut self, index: usize) {
        let Flow { from, to, start, end, .. } = self.ledger.flows[index];
        self.note_parting(index);
        let verdict = self.verdict(index);
        if verdict == Verdict::Cannot && self.is_idle(index) {
            self.shares.idle += 1;
        } else {
            let why = self.doubt(index);
            self.shares.count(verdict, || why);
        }
        match verdict {
            // In rough weather a path may be given up for a moment; it is looked at twice.
            Verdict::Direct if self.weather == Weather::Rough && !self.is_direct(index) => {
                self.step_at(self.now + SECOND_LOOK, Step::Look(index));
            }
            Verdict::Direct => self.check_direct(index),
            Verdict::Linked => self.check_linked(index),
            Verdict::Cannot => self.check_cut_off(index),
            Verdict::May => {}
        }
        self.trace.tell(self.now, || {
            let begun = seconds(start);
            format!("flow {index} of node{from} and node{to}, begun at {begun:.3} s: {verdict:?}")
        });
        let again = self.now + AGAIN;
        if again <= end {
            self.step_at(again, Step::Judge(index));
        }
    }

    pub(crate) fn complain(&mut self, text: &str, a: usize, b: usize) {
        self.trace.tell(self.now, || format!("VIOLATION: {text}"));
        for machine in [a, b] {
            self.trace.tell(self.now, || self.machines[machine].describe(self.now));
        }
        let since = seconds(self.script.joined.unwrap_or(self.script.began));
        let relays = self.services.iter().filter(|service| **service != Service::StunOnly).count();
        let pair = format!("node{a} and node{b}: {:?}, {relays} relays", self.theory(a, b));
        self.ledger.violate(self.now, &format!("({:?}, joined at {since:.3} s, {pair}) {text}", self.weather));
    }

    /// Says at the end what is odd.
    pub(crate) fn conclude(&mut self) {
        let machines = self.machines.iter().filter(|machine| machine.life == Life::Awake);
        let (lines, company) = (self.script.quality, self.script.company);
        let oddities = machines.flat_map(|machine| machine.oddities(lines, company));
        let oddities: Vec<String> = oddities.chain(self.hosts.iter().flat_map(|host| host.oddities(company))).collect();
        let left = self.leftovers();
        for text in oddities.into_iter().chain(left) {
            self.ledger.violate(self.now, &text);
        }
        for index in 0..self.machines.len() {
            self.trace.tell(self.now, || self.machines[index].describe(self.now));
        }
        for host in &self.hosts {
            self.trace.tell(self.now, || host.describe());
        }
        for (index, flow) in self.ledger.flows.iter().enumerate() {
            self.trace.tell(self.now, || format!("flow {index}: {flow:?}"));
        }
    }

    /// What is held at the end, after a long silence, that nobody needs any more.
    fn leftovers(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        let members = self.machines.len();
        let living = members - self.script.revoked.values().flatten().count();
        let quiet = self.is_at_rest();
        for (index, machine) in self.machines.iter().enumerate() {
            let (sockets, peers) = (machine.sockets.len(), machine.paths.len());
            let quiet = quiet && self.calm.is_well(self.now, index);
            if sockets > MOST_SOCKETS || (quiet && machine.life == Life::Awake && sockets != 1) {
                left.push(format!("node{index} holds {sockets} sockets of one family"));
            }
            let paths = machine.paths.values().flatten().count();
            if quiet && paths > 0 {
                left.push(format!("node{index} holds {paths} paths"));
            }
            let members = if self.knows_all(index) { living } else { members };
            if peers >= members {
                left.push(format!("node{index} holds {peers} peers in a network of {members}"));
            }
        }
        for (index, host) in self.hosts.iter().enumerate() {
            let (known, open) = host.connections();
            if known != open || open > self.callers_of(index) {
                left.push(format!("server {index} knows {known} connections, {open} are open, of {members} members"));
            }
        }
        for (index, station) in self.stations.iter().enumerate() {
            let held = station.allocations();
            // A relay keeps for ten minutes what a daemon that died or moved has left.
            // A NAT that forgets sooner than an allocation is refreshed makes a new client of an old one, time and again.
            if held > MOST_ALLOCATIONS * members {
                left.push(format!("relay {index} holds {held} allocations for {members} members"));
            }
        }
        // A second face of a server calls its fellows as well.
        let (servers, faces) = (self.servers, self.hosts.len());
        if self.streams.count() > servers * members + faces * (servers - 1) {
            left.push(format!("{} streams are open of {members} members, {servers} servers", self.streams.count()));
        }
        let admin = self.informed(0, self.now);
        // Time of recovery that begins once it is done excuses nothing.
        let calm = self.calm.without(&self.script.chores.awaited());
        let able = self.machines[0].life == Life::Awake && matches!(calm.promise(self.now, &admin), Promise::Full(_));
        if self.script.chores.is_busy() && able {
            left.push(format!("the admin is not done: {:?}", self.script.chores));
        }
        left.extend(self.abandoned());
        // Who sleeps answers when it wakes.
        left.extend(self.script.unanswered(|machine| self.machines[machine].life != Life::Asleep));
        left.extend(self.behind());
        left.extend(self.unreported());
        left.extend(self.false_alarms());
        left
    }

    /// Machines that say somebody cheats, where all that a member has told them proves nothing.
    fn false_alarms(&self) -> Vec<String> {
        let forged = self.script.faces.is_some() && !self.is_withholding();
        if self.script.hostile.is_empty() || forged {
            return Vec::new();
        }
        let alarmed = self.machines.iter().enumerate().filter(|(_, machine)| machine.alarms > 0);
        alarmed.map(|(number, _)| format!("node{number} raises an alarm that nothing proves")).collect()
    }

    /// Whether a machine is a member and must know by now who is one.
    fn knows_all(&self, machine: usize) -> bool {
        let served = self.machines[machine].log(self.now).is_some_and(|(_, served)| served);
        let calm = matches!(self.calm.promise(self.now, &self.informed(machine, self.now)), Promise::Full(_));
        served && calm && self.machines[machine].life == Life::Awake && !self.script.revoked.contains_key(&machine)
    }

    /// Whether everything is well and stays so: a NAT that forgets an allocation makes its owner search anew.
    fn is_at_rest(&self) -> bool {
        let mut chains = (0..self.machines.len()).map(|machine| self.chain(machine));
        self.calm.is_quiet(self.now) && !chains.any(|chain| is_forgetful(&chain, &[]))
    }

    /// Allocations beyond one for each machine and one for each time that something has befallen it lately, which a relay
    /// keeps until they end.
    fn abandoned(&self) -> Option<String> {
        let since = self.now - Duration::from_secs(600);
        if !self.is_at_rest() {
            return None;
        }
        let most: usize = (0..self.machines.len()).map(|machine| 1 + self.calm.disturbances(machine, since)).sum();
        let held: usize = self.stations.iter().map(crate::station::Station::allocations).sum();
        (held > most).then(|| format!("relays hold {held} allocations where {most} are accounted for"))
    }

    /// Complains of machines that should know by now that another is no member, and do not.
    pub(crate) fn check_gone(&mut self, gone: usize) {
        let Some(Some(since)) = self.script.revoked.get(&gone).copied() else { return };
        let address = self.machines[gone].tunnel_address(ginnel_node::Family::V6).or(self.script.addresses[gone]);
        let Some(address) = address else { return };
        for other in (0..self.machines.len()).filter(|other| *other != gone) {
            let concern = self.informed(other, since);
            let served = self.machines[other].log(self.now).is_some_and(|(_, served)| served);
            let undisturbed = matches!(self.calm.promise(self.now, &concern), Promise::Full(_));
            let awake = self.machines[other].life == Life::Awake && !self.script.revoked.contains_key(&other);
            if (other == 0 || (served && undisturbed)) && awake && self.machines[other].knows(address) {
                self.complain(&format!("node{other} has not learnt that node{gone} was revoked"), other, gone);
            }
        }
    }

    /// A machine that is to learn something of the founder: from every server that is well, or from any where one of them
    /// keeps things to itself.
    fn informed(&self, machine: usize, at: Instant) -> Concern {
        let servers = if self.is_withholding() { Servers::Any } else { Servers::Every };
        Concern { servers, ..Concern::other(0, machine, at) }
    }

    /// Servers and machines whose log is not the longest at the end, though they have been in touch for long.
    fn behind(&self) -> Vec<String> {
        let length = self.hosts.iter().map(crate::server::Server::log_length).max().unwrap_or_default();
        let calm = |machine: usize| {
            let concern = self.informed(machine, self.now);
            matches!(self.calm.promise(self.now, &concern), Promise::Full(_))
        };
        let members = (0..self.machines.len()).filter(|machine| !self.script.revoked.contains_key(machine));
        let members = members.filter_map(|machine| {
            let (own, served) = self.machines[machine].log(self.now)?;
            let awake = self.machines[machine].life == Life::Awake;
            (awake && calm(machine) && served && own != length)
                .then(|| format!("node{machine} has {own} entries of the log, the server {length}"))
        });
        let hosts = self.hosts.iter().enumerate().take(self.servers).filter(|(_, host)| host.is_up() && calm(0));
        let hosts = hosts.filter(|(_, host)| host.log_length() != length);
        let hosts = hosts.map(|(number, host)| {
            format!("server {number} has {} entries of the log, another one {length}", host.log_length())
        });
        members.chain(hosts).collect()
    }

    /// Notes that something goes to an address. Somebody who has nothing to do with it may be sent probes and handshakes, at
    /// their pace, by each machine and through each relay.
    pub(crate) fn note_trouble(&mut self, by: Troubler, to: IpAddr) {
        if to != self.net.bystander() {
            return;
        }
        let (share, honest, text) = match by {
            Troubler::Machine(machine) => (1, !self.script.hostile.contains(&machine), format!("node{machine}")),
            Troubler::Relay(station) => {
                let members = u32::try_from(self.machines.len()).expect("few machines");
                (members, !self.stations[station].is_hostile(), format!("relay {station}"))
            }
        };
        if honest && self.script.troubled.entry(by).or_default().spend(self.now, share) {
            self.ledger.violate(self.now, &format!("{text} sends too much to somebody who asked for nothing"));
        }
    }

    /// Looks again whether a conversation is direct, if it still must be.
    pub(crate) fn look_again(&mut self, index: usize) {
        let entitled = self.direct_since(index).is_some_and(|since| since <= self.now);
        let Flow { from, to, end, parted, .. } = self.ledger.flows[index];
        if self.now < end && entitled && parted.is_none() && self.severed_since(from, to).is_none() {
            self.check_direct(index);
        }
    }

    fn is_direct(&self, index: usize) -> bool {
        let Flow { from, to, family, .. } = self.ledger.flows[index];
        [(from, to), (to, from)].into_iter().all(|(a, b)| {
            self.machines[b].tunnel_address(family).is_none_or(|address| self.machines[a].is_direct_to(address))
        })
    }

    fn check_direct(&mut self, index: usize) {
        let Flow { from, to, start, family, .. } = self.ledger.flows[index];
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

    fn check_linked(&mut self, index: usize) {
        let Flow { from, to, heard, .. } = self.ledger.flows[index];
        let Some(Owed { since, said }) = self.owed(index) else { return };
        if heard.is_none_or(|heard| heard < since) {
            let silent = self.now.saturating_duration_since(since);
            let text = format!("flow {index} has delivered nothing of {said} or more packets in the last {silent:?}");
            self.complain(&text, from, to);
        }
    }

    /// Notes that one of a conversation's machines has been revoked and the other knows it: from now on nothing passes.
    fn note_parting(&mut self, index: usize) {
        let Flow { from, to, delivered, parted, .. } = self.ledger.flows[index];
        let known = [(from, to), (to, from)].into_iter().any(|(gone, other)| {
            let revoked = matches!(self.script.revoked.get(&gone), Some(Some(_)));
            let address = self.script.addresses.get(gone).copied().flatten();
            revoked && address.is_some_and(|address| !self.machines[other].knows(address))
        });
        if known && parted.is_none() {
            self.ledger.flows[index].parted = Some(delivered);
        }
    }

    fn check_cut_off(&mut self, index: usize) {
        let Flow { from, to, start, first, delivered, parted, .. } = self.ledger.flows[index];
        if let Some(before) = parted {
            if delivered != before {
                let text = format!("flow {index} got {} packets through to or from no member", delivered - before);
                self.complain(&text, from, to);
            }
            return;
        }
        if !self.learnt(index).is_empty() {
            self.check_severed(index);
        }
        let never = self.is_hopeless(from, to) && !self.has_relays();
        // Before a machine moved it may have been elsewhere.
        let moved = self.script.moved.is_some_and(|moved| start < moved + REBUILT);
        if never && !moved && first.is_some() {
            self.complain(&format!("flow {index} got through where no path is possible"), from, to);
        }
    }

    /// Whether a verdict that nothing gets through says nothing: nobody said anything to one that is no member, nobody held a
    /// path when the pair was severed and no packet goes either way, or this severance was counted before.
    fn is_idle(&mut self, index: usize) -> bool {
        let Flow { from, to, parted, .. } = self.ledger.flows[index];
        match parted {
            Some(_) => self.ledger.flows[index].said_since(self.now - AGAIN) == 0,
            None => !self.severed.is_telling(from, to),
        }
    }

    /// Complains of ends of a conversation that have not learnt that nothing goes between them.
    fn check_severed(&mut self, index: usize) {
        let Flow { from, to, heard, .. } = self.ledger.flows[index];
        let since = self.severed_since(from, to);
        if since.zip(heard).is_some_and(|(since, heard)| heard > since + FOUND_OUT) {
            self.complain(&format!("flow {index} got through where no packet could be answered"), from, to);
        }
        for (end, other) in self.learnt(index) {
            let path = self.script.addresses[other].and_then(|address| self.machines[end].path_to(address));
            if path.is_some() {
                let text =
                    format!("flow {index}: node{end} takes {path:?} to node{other}, where nothing goes, for alive");
                self.complain(&text, end, other);
            }
        }
    }
}

/// A key that is in use is replaced within this time from when it was to be: the initiator sends something, a keepalive at
/// least, and has an answer.
const REPLACED: Duration = Duration::from_secs(20);
/// Sockets of one family that a machine may hold in silence.
const MOST_SOCKETS: usize = 16;
/// Allocations that a relay may hold for each member: one that lives, and what is left of others for ten minutes.
const MOST_ALLOCATIONS: usize = 8;
/// Between two looks at one path.
pub(crate) const SECOND_LOOK: Duration = Duration::from_secs(5);
/// Between two verdicts on one conversation.
const AGAIN: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Fault, Trouble, Undo};
    use crate::oracle::Theory;
    use crate::trace::Telling;

    /// A world without loss in which two machines need a relay, have one, and have talked for a minute.
    fn talked() -> World {
        let worlds = (0..).map(|seed| World::new(seed, Telling::Quiet));
        let mut fit = worlds.filter(|world| world.has_relays() && world.theory(0, 1) == Theory::Never);
        let mut world = fit.next().expect("there are such");
        world.weather = Weather::Clear;
        let start = world.now;
        let lasts = (start, start + Duration::from_secs(100));
        world.add_flow(0, 1, lasts, Duration::from_millis(500), ginnel_node::Family::V6, Answers::None);
        world.now = start + Duration::from_secs(60);
        let flow = &mut world.ledger.flows[0];
        (flow.first, flow.heard) = (Some(Duration::ZERO), Some(start + Duration::from_secs(10)));
        world
    }

    #[test]
    fn who_was_linked_once_must_be_linked_still() {
        let mut world = talked();
        for ago in [3, 2, 1] {
            let said = world.now - Duration::from_secs(ago);
            world.ledger.flows[0].say(said);
        }
        world.judge(0);
        assert_eq!((world.shares.linked, world.ledger.violations().len()), (1, 1));
        world.ledger.flows[0].heard = Some(world.now - Duration::from_secs(1));
        world.judge(0);
        assert_eq!((world.shares.linked, world.ledger.violations().len()), (2, 1));
    }

    #[test]
    fn who_sleeps_at_the_end_owes_no_answer() {
        let mut world = talked();
        // Founding waits for a server.
        world.step(Step::Found);
        for (life, unanswered) in [(Life::Asleep, 0), (Life::Awake, 1)] {
            world.machines[0].life = life;
            let left = world.leftovers();
            let missed = left.iter().filter(|text| text.contains("never answered")).count();
            assert_eq!(missed, unanswered, "{life:?}: {left:?}");
        }
    }

    #[test]
    fn answers_that_are_lost_are_missed() {
        let mut world = talked();
        world.ledger.flows[0].progress = world.now;
        world.check_gap(0);
        assert_eq!(world.ledger.violations().len(), 0, "nobody answers");
        world.ledger.flows[0].answers = Answers::Each;
        world.check_gap(0);
        world.check_gap(0);
        assert_eq!(world.ledger.violations().len(), 1, "said once");
    }

    /// A machine sleeps, and all relays die before it wakes.
    fn overslept(sleeper: usize) -> World {
        let mut world = talked();
        let relays = (0..world.stations.len()).map(Trouble::RelayCrash);
        let troubles = [Trouble::Suspend([sleeper].into())].into_iter().chain(relays);
        let fault = |what| Fault { at: Duration::ZERO, lasts: Duration::MAX, what };
        world.script.faults = troubles.map(fault).collect();
        world.script.undo = world.script.faults.iter().map(|_| Undo::default()).collect();
        world.strike(0);
        world.now += Duration::from_secs(20);
        (1..world.script.faults.len()).for_each(|number| world.strike(number));
        world.now += Duration::from_secs(1);
        world.mend(0);
        world
    }

    #[test]
    fn who_slept_learns_once_it_is_awake() {
        let (talker, listener) = ((0, 1), (1, 0));
        for (sleeper, awake, expected) in [
            (0, 14, vec![]),
            (0, 15, vec![talker]),
            // Who was awake has known for long.
            (1, 0, vec![talker]),
            (1, 59, vec![talker]),
            (1, 60, vec![talker, listener]),
        ] {
            let mut world = overslept(sleeper);
            world.now += Duration::from_secs(awake);
            assert_eq!(world.learnt(0), expected, "node{sleeper}, awake for {awake} s");
        }
        // A daemon that begins anew holds nothing that it would have to find out.
        let mut world = overslept(0);
        world.kill(0);
        world.machines[0].revive(world.now);
        assert_eq!(world.learnt(0), [talker]);
    }

    #[test]
    fn a_verdict_that_cannot_fail_is_none() {
        let mut world = talked();
        world.judge(0);
        assert_eq!((world.shares.linked, world.shares.may), (0, 1));
        world.services = vec![Service::StunOnly];
        world.survey();
        world.now += Duration::from_secs(60);
        world.judge(0);
        assert_eq!((world.shares.cannot, world.shares.idle), (0, 1));
    }
}
