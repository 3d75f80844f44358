//! Programs killed without warning, again and again, at random points: how soon the link is back, and whether anything
//! that they had acknowledged is lost.

mod kept;
mod round;

use std::fmt;

use anyhow::{Context, Result};
use ginneld::state::power::power_cuts;
use serde::Serialize;

use self::round::{Arena, Victim};
use super::machine::Programs;
use super::pulse::unix_now;
use super::times::{Times, millis};

/// What a run found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Kills in all.
    pub kills: u64,
    /// Of them, kills within 400 ms of the victim's start.
    pub kills_in_start: u64,
    /// Kills while somebody waited for the answer to `ginnel invite`, whose record passes through the victim.
    pub kills_in_ask: u64,
    /// From the start of a killed daemon to the first packets both ways.
    pub daemon: Times,
    /// The longest silence of the link, one way or the other, from before a server's death until 2.5 s after its start.
    pub server: Times,
    /// From the start of a killed server to the first record that it takes.
    pub server_serves: Times,
    /// Looks at what must be kept.
    pub looks: u64,
    /// Records that were acknowledged, and found again.
    pub acknowledged: u64,
    /// Databases of dead servers that were read before anybody started them again.
    pub disks: u64,
    /// Acknowledged records that were found in them; every one is looked for in every database.
    pub on_disk: u64,
    /// Simulated power cuts at random points of a daemon's writes to its state folder.
    pub power_cuts: usize,
    /// Of them, those that left a state that could not be read, was older than acknowledged, or took no more.
    pub power_cuts_unreadable: usize,
    /// The rehearsal's own words.
    pub power: String,
    /// What was lost.
    pub lost: Vec<String>,
    /// What kept the run from its end.
    pub error: Option<String>,
}

/// Kills `kills` times; `tell` gets a line now and then.
///
/// # Errors
/// When the network cannot be built.
pub fn run(programs: &Programs, kills: u64, tell: &dyn Fn(&str)) -> Result<Report> {
    let mut arena = Arena::build(programs).context("build a network of two")?;
    let mut report = Report::default();
    let (mut daemon, mut server, mut serves) = (Vec::new(), Vec::new(), Vec::new());
    let power = power_cuts(unix_now().as_secs(), usize::try_from(kills * CUTS_A_KILL).unwrap_or(usize::MAX));
    report.power_cuts = power.cuts;
    report.power_cuts_unreadable = power.unreadable + power.older + power.invented + power.stuck;
    report.power = power.to_string();
    while report.kills < kills {
        let before = report.kills;
        let outcome = match arena.fate() {
            Victim::Daemon(who) => arena.kill_daemon(who, &mut report).map(|took| daemon.push(millis(took))),
            Victim::Server => arena.kill_server(&mut report).map(|(silence, took)| {
                server.push(millis(silence));
                serves.push(millis(took));
            }),
        };
        if let Err(error) = outcome {
            report.error = Some(format!("after {before} kills: {error:#}\n{}", arena.logs()));
            break;
        }
        if report.kills / TOLD > before / TOLD {
            tell(&format!("{} kills, {} found lost", report.kills, report.lost.len()));
        }
    }
    (report.daemon, report.server, report.server_serves) = (Times::of(daemon), Times::of(server), Times::of(serves));
    Ok(report)
}

impl Report {
    /// What is wrong, one line for each.
    pub fn complaints(&self) -> Vec<String> {
        let mut all: Vec<String> = self.error.iter().cloned().collect();
        all.extend(self.lost.iter().map(|lost| format!("lost: {lost}")));
        for (times, what) in [
            (&self.daemon, "the link was back after a daemon's death"),
            (&self.server, "the link was silent around a server's death"),
        ] {
            if times.p95 > LIMIT {
                all.push(format!("{what}: {} ms at the 95th percentile, more than {LIMIT}", times.p95));
            }
        }
        if self.power_cuts_unreadable > 0 || self.power_cuts == 0 {
            all.push(self.power.clone());
        }
        if self.acknowledged == 0 || self.looks == 0 {
            all.push("no acknowledged record was ever looked for, so this shows nothing".to_owned());
        }
        if self.kills >= ENOUGH && (self.kills_in_ask == 0 || self.on_disk == 0) {
            all.push(format!(
                "of {} kills {} fell while a record was asked for, and {} acknowledged ones were looked for on a dead \
                 server's disk, so this shows nothing",
                self.kills, self.kills_in_ask, self.on_disk
            ));
        }
        all
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} kills, {} of them within 400 ms of a start, {} while a record was asked for and not answered",
            self.kills, self.kills_in_start, self.kills_in_ask
        )?;
        for (what, times) in [
            ("daemon started again to packets both ways", &self.daemon),
            ("longest silence around a server's death", &self.server),
            ("server started again to a record taken", &self.server_serves),
        ] {
            writeln!(f, "{what:<44} {times}")?;
        }
        write!(
            f,
            "{} looks at keys, addresses, port, members and log: {} lost; {} acknowledged records found again by the \
             founder, {} in {} databases of dead servers\nof a daemon's state folder: {}",
            self.looks,
            self.lost.len(),
            self.acknowledged,
            self.on_disk,
            self.disks,
            self.power
        )
    }
}

/// The promise, in milliseconds.
const LIMIT: u64 = 2_000;
/// Kills that are so many that every kind of them must have happened.
const ENOUGH: u64 = 40;
/// Simulated power cuts for each kill.
const CUTS_A_KILL: u64 = 4;
/// Kills between two lines of news.
const TOLD: u64 = 25;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_shows_nothing_or_loses_something_is_complained_of() {
        let good = Report { kills: 1, looks: 1, acknowledged: 1, power_cuts: 4, ..Report::default() };
        assert!(good.complaints().is_empty());
        assert_eq!(Report { acknowledged: 0, ..good.clone() }.complaints().len(), 1);
        assert_eq!(Report { lost: vec!["a key".to_owned()], ..good.clone() }.complaints().len(), 1);
        assert_eq!(Report { power_cuts_unreadable: 1, ..good.clone() }.complaints().len(), 1);
        let slow = Times { count: 1, p50: 1, p95: LIMIT + 1, max: LIMIT + 1 };
        assert_eq!(Report { daemon: slow.clone(), ..good.clone() }.complaints().len(), 1);
        assert_eq!(Report { server: slow, ..good.clone() }.complaints().len(), 1);
        let many = Report { kills: ENOUGH, kills_in_ask: 1, on_disk: 1, ..good };
        assert!(many.complaints().is_empty());
        assert_eq!(Report { kills_in_ask: 0, ..many.clone() }.complaints().len(), 1);
        assert_eq!(Report { on_disk: 0, ..many }.complaints().len(), 1);
    }
}
