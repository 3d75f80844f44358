//! A deterministic world for the real machines: nodes, data planes, signaling servers, relays and STUN in virtual time,
//! behind simulated NATs and on simulated lines, all decided by one number.
//!
//! # What is real and what is not
//! Real: `ginnel-node`, `ginnel-forward` with its AEAD, the signaling server's machine, the TURN server's machine, the
//! STUN answers, the membership log. Simulated: sockets, the TUN, streams, disks, clocks, NATs, routers and lines.
//!
//! - Node and data plane are two machines: commands and events between them take a while, in order; handshake and STUN
//!   datagrams between them may be dropped, nothing else.
//! - A NAT maps and filters by endpoint, address, or address and port; keeps ports or draws them; forgets after 20 to
//!   300 s; may turn packets back; may take an uninvited packet for a flow of its own, so that the next own packet leaves
//!   by another port.
//! - A packet passes at least six routers between two sites, so openers with a small TTL die on the way.
//! - Lines delay and carry 1280 to 1500 bytes, dropping longer packets in silence; in rough weather they also lose
//!   (evenly or in bursts), duplicate, reorder, corrupt and jitter.
//! - A world has 2 to 16 machines (few have more than 5), 0 to 3 relays, ten virtual minutes or more, and at least two
//!   faults.
//! - It has one signaling server, or two or three: one orders the log, the others mirror it over links of their own, and
//!   every member talks to all. The founder takes the mirrors on before anybody else comes in.
//!
//! # What goes wrong, and what must hold again by when
//! For `back` nothing is promised after the fault has ended; until `shaken` a conversation gets on within 20 s; then
//! everything holds as before. Conversations that a fault does not concern keep every promise throughout.
//!
//! A conversation begins when its machines have not been talking already: whoever has been for a minute needs no server.
//! Mail goes by every server, so conversations that begin are concerned by what befalls one server only where no other is
//! well. What befalls a machine or a line shakes those pairs alone that may hold sessions from before: they have talked
//! within 300 s before it, and for less than a minute since.
//!
//! | fault | concerns | back | shaken | because |
//! |---|---|---|---|---|
//! | a signaling server is killed | conversations that begin | 35 s | 125 s | a silent stream is given up after 22 s, the next try is at most 8 s off |
//! | it loses its newest entries, and gets them back from members | conversations that begin | 35 s | 200 s | likewise |
//! | its disk is full | nobody | | | nobody writes to talk |
//! | its host reaches nobody | relayed and beginning ones | 40 s | 130 s | as for server and relay |
//! | it loses its disk and keeps its key, and the admin takes it on anew, the one that the genesis names as it is, another one as a stranger | conversations that begin | 125 s | 200 s | as for lost entries, and the admin may have to try again |
//! | the server that orders the log is killed, and the admin lets a mirror take over | conversations that begin | 125 s | 125 s | likewise |
//! | the admin lets a mirror take over from a server that lives | nobody | | | |
//! | a machine is revoked | its pairs | for ever | | it is no member |
//! | a daemon is killed, at any time or in the middle of a write | its pairs | 20 s | 300 s | who has been silent learns of it by talking |
//! | a machine's disk is full | nobody | | | nobody writes to talk |
//! | a machine moves | its pairs | 15 s | 75 s | probes, then a call |
//! | machines are suspended, 1 s to 7 days | their pairs | 30 s | 300 s | as for the server; who has data waiting calls every 10 s |
//! | a wall clock jumps by up to 50 years | its pairs | 0 | 60 s | handshakes go on |
//! | a partition, a black hole, either way | pairs across | 30 s | 300 s | likewise |
//! | a partition where there is a relay | pairs across | | 300 s | all still reach relay and server: they get on within 20 s throughout |
//! | a NAT forgets everything | its pairs | 15 s | 75 s | as for a move |
//! | all credentials are out of date at once | relayed and beginning ones | 30 s | 130 s | refused, asked for, taken |
//! | a relay is killed | relayed and beginning ones | 30 s | 130 s | it is found out after 15 s and tried again within 8 s |
//! | a relay is killed or means harm where another lives | relayed and beginning ones | | 130 s | the other takes over, or the hostile one, which spoils less than half, lets enough pass: they get on within 20 s throughout |
//!
//! # Who means harm
//! In some worlds one of these does, from a time on; what it can spoil by itself is promised to nobody it concerns, and
//! everything else stays promised.
//!
//! | who | does | concerns |
//! |---|---|---|
//! | a member | calls all others, and in its sessions: heads that are not, floods of gossip, probes, echoes and pings, entries and revocations that are forged or were true before, candidates of somebody else, of other members and of nobody, packets under inner addresses of others and to others, control messages that are odd, cut short or too long; it repeats what it hears on the internet, cut short, with a bit turned, from other ports | its pairs; that no path can join two machines is not said any more, for it knows the ports that their NATs give, and tells them |
//! | a relay, for a time | drops, doubles, keeps back, spoils, repeats and redirects, lies about mapped addresses | relayed and beginning conversations, and 130 s more |
//! | a signaling server, for a time | lies about the addresses that it sees and is years ahead | beginning conversations, and 125 s more, until 200 s shaken |
//! | the server that orders the log | signs another entry for a place and shows it to machines with odd numbers, and to servers | beginning conversations of machines with odd numbers |
//!
//! | a mirror, where there is another server | shows machines with odd numbers a face that lacks entries, gets none from its fellows, and hands no mail to the others | nobody |
//! | somebody who is in no network, for a time | comes to the servers up to 25 times a second with keys, invites and tokens that are guessed or used up, with what machines have said, with what is no message or with nothing | nobody |
//!
//! Where a member means harm, all servers may die at some time as well, so that the others have each other alone, and it.
//!
//! Two more troubles have a rule of their own: a machine is revoked at the moment when it shakes hands with others after a
//! restart; and all servers die when the founder alone has seen the newest entry, perhaps with somebody revoked just then.
//! For the latter beginning conversations are promised nothing for 70 s and 125 s more, and are shaken for 200; relayed ones
//! for the seconds in which the founder alone reaches the relays, and 40 s more, and are shaken for 130.
//!
//! # What is judged
//! | rule | limit |
//! |---|---|
//! | a packet arrives at most once, unchanged, only where it was sent, and never at one its sender knows for no member | always |
//! | who is in no network is not let in by a server | always |
//! | no counter is used twice under one key for two packets | always |
//! | whatever leaves a machine is a handshake message, a sealed packet or STUN, or to a relay one of the first two in a channel, of a fitting length | always |
//! | no datagram holds a piece of 15 bytes of what a program sends, or the head of its packet, in the clear | always |
//! | everybody joins | 30 s, in rough weather 90 s |
//! | a conversation's first packet arrives | 1 s, in rough weather 10 s; without a relay 4 s more, if it lasts that long |
//! | a conversation goes on, and so do its answers | no gap above 5 s, in rough weather 15 s |
//! | a pair that the theory of NATs entitles to it is direct, both ways | 3 s after a conversation began, 6 s with a NAT that minds early packets, rough: 60 s and at one of two looks |
//! | a pair that no path can join is not linked | always |
//! | between machines of which one sleeps or is dead, or that no line and no relay that lives joins both ways, nothing arrives, and neither takes a path to the other for alive | 15 s for who sends, 60 s for who listened when it began |
//! | a pair whose NATs let each other's packets in from any port, and remember them, is linked without a relay, too, and goes on | 20 s, no gap above 20 s |
//! | a deadline that fires moves; while output waits, the deadline is now | always |
//! | nothing is dropped that honest machines never send; forged datagrams where lines corrupt; all there is in hostile company | always |
//! | a revoked machine is known to be one by all whom the server reaches, undisturbed | 5 s, rough: 15 s |
//! | nobody is given a packet of one that it knows for no member | always |
//! | every log is as long as the longest of a server | at the end, where a server is reached |
//! | no two machines or servers hold different entries for one place of the log, unless a server has signed both; then a member says so, if members of both halves have talked for 60 s | at the end |
//! | whatever a data plane seals is for a session of one of its peers, and no session is with anybody else | always |
//! | with all servers dead, what a member knew of the log, and whom the founder revoked, all know who are linked with it, over others too | 60 s |
//! | a machine sends a third party that a member has named for a candidate no more than probes and handshakes | 5 packets a second in the long run, 360 at once; through each relay that is honest, so much for each member |
//! | a machine sends nothing to loopback, groups or what is nobody's address, nor to an inner address of its own or of a peer | always |
//! | nobody raises an alarm for what a member alone has told | at the end, where no server shows two histories |
//! | what the admin does about servers is done | 40 tries, 15 s apart |
//! | no key serves for longer than 180 s | always |
//! | a key in use is replaced once it has served for 120 s, unless its two see each another face of a server, no other one is well, and something has struck them since they have it: then nobody brings them together again | within 20 s, in clear weather, undisturbed, with a relay |
//! | nothing passes between a machine and one that it has learnt to be no member | always |
//! | each machine holds one socket, no path, and at most one allocation, beside one for each thing that befell it in the last ten minutes | after 340 s of silence, undisturbed but for somebody else's revocation or bad will |
//! | peers are no more than members, of those that know who is one no more than such as live, streams no more than one for each machine and server with each server | after 340 s of silence |
//! | nothing is sent but what keeps mappings, allocations and streams | in the last 25 s of silence, undisturbed likewise |
//!
//! The last two leave out worlds with a NAT that forgets a mapping before it is refreshed: it loses allocations, and who
//! loses a path looks for another.
//!
//! The oracle gives its verdict on every conversation when it is old enough and every 20 s: it must be direct, must be
//! linked, cannot be, or may; the shares are in the report. What is counted is what is checked there and then: who must be
//! linked must have delivered something of at least three packets sent in the last 5 s, of ten in the last 15 s in rough
//! weather, or in the last 20 s where no more is promised; where fewer were sent, it is no verdict. A pair that something has
//! severed, or that no path can join, counts once for each time, and only where somebody could have gone wrong: who held a
//! path then, or whom packets still reach one way; the rest is `idle_cannot` and in no share. With `--why` the reasons for
//! each that may.
//!
//! A run of one seed is the same each time: the hash over everything sent, written and delivered is equal.
#![forbid(unsafe_code)]

mod budget;
mod calm;
mod chores;
#[cfg(test)]
mod contract;
mod deeds;
mod dice;
mod faces;
mod fault;
mod history;
mod intruder;
mod judge;
mod ledger;
mod line;
mod machine;
mod malice;
mod nat;
mod net;
mod oracle;
mod reach;
mod replay;
#[cfg(test)]
mod rules;
mod scenario;
mod script;
mod server;
mod silence;
mod station;
mod stream;
mod strike;
mod trace;
mod turncoat;
mod verdict;
mod watch;
mod wire;
mod world;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use deeds::Deeds;
pub use judge::{Drills, Shares};
pub use replay::replay;
pub use trace::Telling;

/// How one world ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// A hash over everything that happened.
    pub hash: u64,
    /// How long it lasted in its own time.
    pub virtual_time: Duration,
    /// Packets that arrived.
    pub packets: u64,
    /// How often each verdict was given.
    pub shares: Shares,
    /// How often the rules that need an occasion had one.
    pub drills: Drills,
    /// What must not happen and did.
    pub violations: Vec<String>,
}

/// How a number of worlds ended.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Worlds without a violation.
    pub passed: u64,
    /// The others, by seed.
    pub failed: Vec<Failure>,
    /// The time that passed in all worlds together.
    pub virtual_time: Duration,
    /// Packets that arrived in all worlds together.
    pub packets: u64,
    /// How often each verdict was given.
    pub shares: Shares,
    /// How often the rules that need an occasion had one.
    pub drills: Drills,
    /// Worlds that were run twice.
    pub repeated: u64,
    /// How long the run took.
    pub took: Duration,
}

/// A world that went wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What went wrong.
    pub violations: Vec<String>,
    /// The command that shows it.
    pub replay: String,
}

/// Runs the world of one seed. A machine that panics is a violation of it.
pub fn run_seed(seed: u64, telling: Telling) -> Outcome {
    let run = AssertUnwindSafe(|| world::World::new(seed, telling).run(seed));
    catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        let violations = vec![format!("panic: {text}")];
        let (shares, drills) = (Shares::default(), Drills::default());
        Outcome { seed, hash: 0, virtual_time: Duration::ZERO, packets: 0, shares, drills, violations }
    })
}

/// Runs a world once more and tells everything that happens; that it is another than before is a violation.
pub fn run_again(before: &Outcome) -> Outcome {
    let mut outcome = run_seed(before.seed, Telling::Lines);
    outcome.compare(before);
    outcome
}

/// When a run of many worlds ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// After the last.
    AtEnd,
    /// After the first in which something went wrong.
    AtFirst,
}

/// Runs the worlds of `seeds` on two threads; every fiftieth twice, to see that it is the same again.
pub fn run(seeds: Range<u64>, stop: Stop) -> Report {
    let began = std::time::Instant::now();
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut report = Report::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return report;
            }
            report.add(judged(seed));
            if stop == Stop::AtFirst && !report.failed.is_empty() {
                next.store(seeds.end, Ordering::Relaxed);
            }
        }
    };
    let mut total = std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mut total = work();
        total.merge(other.join().expect("panics of machines are caught within their world"));
        total
    });
    total.failed.sort_by_key(|failure| failure.seed);
    if stop == Stop::AtFirst {
        total.failed.truncate(1);
    }
    total.took = began.elapsed();
    total
}

/// Runs one world, and every fiftieth again.
fn judged(seed: u64) -> Outcome {
    let mut outcome = run_seed(seed, Telling::Quiet);
    if seed.is_multiple_of(REPEATED) {
        let again = run_seed(seed, Telling::Quiet);
        outcome.compare(&again);
    }
    outcome
}

impl Outcome {
    /// Complains if the same seed gave another outcome in whatever it holds.
    fn compare(&mut self, again: &Self) {
        let differ = [
            ("what happened", self.hash != again.hash),
            ("its time", self.virtual_time != again.virtual_time),
            ("packets that arrived", self.packets != again.packets),
            ("verdicts", self.shares != again.shares),
            ("occasions of rules", self.drills != again.drills),
            ("violations", self.violations != again.violations),
        ];
        let differ: Vec<&str> = differ.into_iter().filter_map(|(what, differs)| differs.then_some(what)).collect();
        if !differ.is_empty() {
            self.violations.push(format!("the same seed gave another run; not the same: {}", differ.join(", ")));
        }
    }
}

impl Report {
    /// The whole run in one line.
    pub fn line(&self) -> String {
        let worlds = self.passed + self.failed.len() as u64;
        let violations: usize = self.failed.iter().map(|failure| failure.violations.len()).sum();
        let Drills { ambushes, whispers, outcasts, forks, deeds, repeats, intrusions, withheld } = self.drills;
        let arrived: u64 = deeds.arrived().map(|(_, count)| count).sum();
        let Shares { direct, linked, cannot, idle, may, .. } = self.shares;
        format!(
            "seeds={worlds} violations={violations} seeds_per_second={:.1} virtual_hours={:.1} packets={} \
             verdicts: direct={direct} linked={linked} cannot={cannot} may={may} idle_cannot={idle} must_or_cannot={}% \
             ambushes={ambushes} whispers={whispers} outcasts={outcasts} forks={forks} deeds={arrived} repeats={repeats} intrusions={intrusions} withheld={withheld} run_twice={}",
            worlds as f64 / self.took.as_secs_f64().max(0.001),
            self.virtual_time.as_secs_f64() / 3600.0,
            self.packets,
            self.shares.firm(),
            self.repeated,
        )
    }

    /// Why so many verdicts are none, the most frequent reason first.
    pub fn doubts(&self) -> Vec<(&str, u64)> {
        let mut all: Vec<(&str, u64)> = self.shares.why.iter().map(|(why, count)| (why.as_str(), *count)).collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all
    }

    /// What hostile members have said in sessions and was opened, by its kind.
    pub fn deeds(&self) -> Vec<(String, u64)> {
        self.drills.deeds.arrived().collect()
    }

    fn add(&mut self, outcome: Outcome) {
        self.virtual_time += outcome.virtual_time;
        self.packets += outcome.packets;
        self.shares.add(&outcome.shares);
        self.drills.add(outcome.drills);
        self.repeated += u64::from(outcome.seed.is_multiple_of(REPEATED));
        if outcome.violations.is_empty() {
            self.passed += 1;
        } else {
            let replay = format!("cargo xtask sim --seeds 1 --from {} --trace", outcome.seed);
            self.failed.push(Failure { seed: outcome.seed, violations: outcome.violations, replay });
        }
    }

    fn merge(&mut self, other: Self) {
        self.passed += other.passed;
        self.virtual_time += other.virtual_time;
        self.packets += other.packets;
        self.shares.add(&other.shares);
        self.drills.add(other.drills);
        self.repeated += other.repeated;
        self.failed.extend(other.failed);
    }
}

/// Each of so many worlds is run twice.
const REPEATED: u64 = 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_worlds_keep_every_promise() {
        let report = run(0..24, Stop::AtEnd);
        assert!(report.failed.is_empty(), "{:#?}", report.failed);
        assert_eq!(report.passed, 24);
        assert!(report.packets > 10_000, "{}", report.packets);
    }

    #[test]
    fn every_rule_that_needs_an_occasion_has_one() {
        let report = run(24..81, Stop::AtEnd);
        let Drills { ambushes, whispers, outcasts, forks, deeds, repeats, intrusions, withheld } = report.drills;
        let had = [ambushes, whispers, outcasts, forks, repeats, intrusions, withheld];
        assert!(report.failed.is_empty(), "{:#?}", report.failed);
        assert!(had.iter().all(|count| *count > 0), "{:?}", report.drills);
        assert!(deeds.arrived().all(|(_, count)| count > 0), "{deeds:?}");
        assert!(deeds.linked * 2 > deeds.looks, "a hostile member has somebody to talk to: {deeds:?}");
    }

    #[test]
    fn two_runs_of_one_seed_that_differ_in_anything_are_told() {
        let outcome = Outcome {
            seed: 1,
            hash: 2,
            virtual_time: Duration::ZERO,
            packets: 3,
            shares: Shares::default(),
            drills: Drills::default(),
            violations: Vec::new(),
        };
        let others = [
            Outcome { hash: 9, ..outcome.clone() },
            Outcome { virtual_time: Duration::from_secs(9), ..outcome.clone() },
            Outcome { packets: 9, ..outcome.clone() },
            Outcome { shares: Shares { may: 9, ..Shares::default() }, ..outcome.clone() },
            Outcome { drills: Drills { repeats: 9, ..Drills::default() }, ..outcome.clone() },
            Outcome { violations: vec!["other".to_owned()], ..outcome.clone() },
        ];
        for other in others {
            let mut compared = outcome.clone();
            compared.compare(&other);
            assert!(compared.violations.len() == 1 && compared.violations[0].contains("another run"), "{other:?}");
        }
        let mut compared = outcome.clone();
        compared.compare(&outcome);
        assert_eq!(compared, outcome);
    }

    #[test]
    fn a_seed_gives_one_run() {
        for seed in [3, 7] {
            assert_eq!(run_seed(seed, Telling::Quiet), run_seed(seed, Telling::Quiet));
        }
        assert_ne!(run_seed(3, Telling::Quiet).hash, run_seed(7, Telling::Quiet).hash);
    }
}
