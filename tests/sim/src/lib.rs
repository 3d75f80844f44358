//! A deterministic world for the real machines: nodes, data planes, signaling server, relay and STUN in virtual time,
//! behind simulated NATs and on simulated lines, all decided by one number.
//!
//! # What is real and what is not
//! Real: `ginnel-node`, `ginnel-forward` with its AEAD, the signaling server's machine, the TURN server's machine, the
//! STUN answers, the membership log. Simulated: sockets, the TUN, streams, disks, clocks, NATs, routers and lines.
//!
//! - Node and data plane are two machines: commands and events between them take a while, in order; handshake and STUN
//!   datagrams between them may be dropped, nothing else.
//! - A NAT maps and filters by endpoint, address, or address and port; keeps ports or draws them; forgets; may turn
//!   packets back; may take an uninvited packet for a flow of its own, so that the next own packet leaves by another port.
//! - A packet passes at least six routers between two sites, so openers with a small TTL die on the way.
//! - Lines delay; in rough weather they also lose, duplicate, reorder and jitter.
//! - Every third world has a fault: the server restarts, a daemon restarts, or a machine moves.
//!
//! # What is judged
//! | rule | limit |
//! |---|---|
//! | a packet arrives at most once, unchanged, and only where it was sent | always |
//! | no counter is used twice under one key for two packets | always |
//! | everybody joins | 30 s, in rough weather 90 s |
//! | a conversation's first packet arrives | 1 s, in rough weather 10 s |
//! | a conversation goes on | no gap above 5 s, in rough weather 15 s, around a fault 45 s |
//! | a pair that the theory of NATs entitles to it is direct, both ways | 3 s after a conversation began, rough: 60 s |
//! | a deadline that fires moves; while output waits, the deadline is now | always |
//! | nothing is dropped that honest machines never send | always |
//!
//! A run of one seed is the same each time: the hash over everything sent, written and delivered is equal.
#![forbid(unsafe_code)]

#[cfg(test)]
mod contract;
mod dice;
mod ledger;
mod machine;
mod nat;
mod net;
mod oracle;
mod scenario;
mod script;
mod server;
mod stream;
mod trace;
mod world;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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

/// Runs the world of one seed.
pub fn run_seed(seed: u64, telling: Telling) -> Outcome {
    world::World::new(seed, telling).run(seed)
}

/// Runs the worlds of `seeds` on two threads; every fiftieth twice, to see that it is the same again.
///
/// A machine that panics is a violation of its world.
pub fn run(seeds: Range<u64>) -> Report {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut report = Report::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return report;
            }
            report.add(judged(seed));
        }
    };
    let mut total = std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mut total = work();
        total.merge(other.join().expect("panics of machines are caught within their world"));
        total
    });
    total.failed.sort_by_key(|failure| failure.seed);
    total
}

/// Runs one world, and every fiftieth again.
fn judged(seed: u64) -> Outcome {
    let mut outcome = caught(seed);
    if seed.is_multiple_of(REPEATED) {
        let again = caught(seed);
        if again.hash != outcome.hash {
            outcome.violations.push("the same seed gave another run".to_owned());
        }
    }
    outcome
}

fn caught(seed: u64) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| run_seed(seed, Telling::Quiet))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        let violations = vec![format!("panic: {text}")];
        Outcome { seed, hash: 0, virtual_time: Duration::ZERO, packets: 0, violations }
    })
}

impl Report {
    fn add(&mut self, outcome: Outcome) {
        self.virtual_time += outcome.virtual_time;
        self.packets += outcome.packets;
        if outcome.violations.is_empty() {
            self.passed += 1;
        } else {
            let replay = format!("cargo run --profile ci -p ginnel-sim -- --seeds 1 --from {} --trace", outcome.seed);
            self.failed.push(Failure { seed: outcome.seed, violations: outcome.violations, replay });
        }
    }

    fn merge(&mut self, other: Self) {
        self.passed += other.passed;
        self.virtual_time += other.virtual_time;
        self.packets += other.packets;
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
        let report = run(0..24);
        assert!(report.failed.is_empty(), "{:#?}", report.failed);
        assert_eq!(report.passed, 24);
        assert!(report.packets > 10_000, "{}", report.packets);
    }

    #[test]
    fn a_seed_gives_one_run() {
        for seed in [3, 7] {
            assert_eq!(run_seed(seed, Telling::Quiet), run_seed(seed, Telling::Quiet));
        }
        assert_ne!(run_seed(3, Telling::Quiet).hash, run_seed(7, Telling::Quiet).hash);
    }
}
