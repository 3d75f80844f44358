//! Mistakes planted in the protocols: the simulated worlds must find each of them.
//!
//! All go into one copy of the tree, each behind a switch that exists in the copy alone, so that one build serves all.
//! The copy's simulator is told by `--planted N` which of them is in force.
//!
//! A fault is found when a world with it breaks the rule that is there for it; the same world without it must break none.
//! `cargo xtask test` looks at each fault in the one world that its row names, if it names one; this programme looks in as
//! many as it is asked to.

mod edit;
mod rows;

use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};

use crate::cargo::{root, say, tell};
use crate::duplicate;
use crate::tally::Tally;
use edit::Harm;
use rows::{FAULTS, Fault};

/// Which faults are planted, and in how many worlds they are looked for.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only the fault of this number.
    #[arg(long)]
    fault: Option<u32>,
    /// How many worlds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
}

/// Plants the faults and looks for each; it fails when one is not found.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let chosen: Vec<&Fault> =
        FAULTS.iter().filter(|fault| arguments.fault.is_none_or(|only| only == fault.number)).collect();
    if chosen.is_empty() {
        bail!("no fault has this number; there are 1 to {}", FAULTS.len());
    }
    let simulator = build()?;
    let mut missed = 0;
    for fault in &chosen {
        let finding = search(&simulator, fault, arguments.from, arguments.seeds)?;
        missed += usize::from(!matches!(finding, Finding::Found { .. }));
        tell(&format!("{:>2} {:<9} {}\n   {finding}", fault.number, fault.package, fault.what));
    }
    tell(&format!("{} faults planted, {missed} not found", chosen.len()));
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Looks for each fault in the one world that is known to show it, and where that has changed, in some more.
pub(crate) fn count(tally: &mut Tally) {
    let simulator = match build() {
        Ok(simulator) => simulator,
        Err(error) => return tally.count("planted mistakes", Err(format!("{error:#}"))),
    };
    let next = AtomicUsize::new(0);
    let work = || {
        let mut findings = Vec::new();
        while let Some(fault) = FAULTS.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Some(seed) = fault.seed else { continue };
            let known = search(&simulator, fault, seed, 1);
            let finding = match known {
                Ok(Finding::Missed { .. }) => search(&simulator, fault, 0, MOVED),
                known => known,
            };
            findings.push((fault, finding));
        }
        findings
    };
    let mut findings = std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mut findings = work();
        findings.extend(other.join().expect("looking for a fault does not panic"));
        findings
    });
    findings.sort_by_key(|(fault, _)| fault.number);
    let unknown: Vec<String> =
        FAULTS.iter().filter(|fault| fault.seed.is_none()).map(|fault| fault.number.to_string()).collect();
    if !unknown.is_empty() {
        let those = unknown.join(", ");
        tell(&format!("note  not looked for, for no world is known that shows them: planted mistakes {those}"));
    }
    for (fault, finding) in findings {
        let outcome = match finding {
            Ok(found @ Finding::Found { seed, .. }) if Some(seed) != fault.seed => {
                Ok(format!("{found}; not the known seed"))
            }
            Ok(found @ Finding::Found { .. }) => Ok(found.to_string()),
            Ok(other) => Err(other.to_string()),
            Err(error) => Err(format!("{error:#}")),
        };
        tally.count(&format!("planted mistake {}, {}", fault.number, fault.what), outcome);
    }
}

/// What came of looking for a fault.
#[derive(Debug)]
enum Finding {
    /// A world breaks its rule with the fault, and none without.
    Found { seed: u64, what: String },
    /// No world breaks its rule; perhaps one breaks another.
    Missed { worlds: u64, other: Option<String> },
    /// The world breaks a rule without the fault, too.
    Unsound { seed: u64, what: String },
}

impl Display for Finding {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found { seed, what } => write!(f, "seed {seed}: {what}"),
            Self::Missed { worlds, other: None } => write!(f, "NOT FOUND in {worlds} worlds"),
            Self::Missed { worlds, other: Some(other) } => {
                write!(f, "NOT FOUND by its rule in {worlds} worlds, only: {other}")
            }
            Self::Unsound { seed, what } => write!(f, "PROVES NOTHING, seed {seed} without it: {what}"),
        }
    }
}

/// Looks for a world that breaks a fault's rule with it, and no rule without it.
fn search(simulator: &Path, fault: &Fault, from: u64, seeds: u64) -> Result<Finding> {
    let mut other = None;
    let (mut next, end) = (from, from.saturating_add(seeds));
    while next < end {
        let Some(broken) = worlds(simulator, fault.number, next, end - next)? else { break };
        let by_rule = broken.violations.iter().find(|what| what.contains(fault.rule));
        if let Some(what) = by_rule {
            let (seed, what) = (broken.seed, shortened(what));
            return Ok(match worlds(simulator, 0, seed, 1)? {
                None => Finding::Found { seed, what },
                Some(unsound) => Finding::Unsound { seed, what: shortened(&unsound.violations.concat()) },
            });
        }
        let first = broken.violations.first().map(|what| format!("seed {}: {}", broken.seed, shortened(what)));
        other = other.or(first);
        next = broken.seed + 1;
    }
    Ok(Finding::Missed { worlds: seeds, other })
}

/// Whether every fault fits the tree as it is; builds nothing.
pub(crate) fn fits() -> Result<String, String> {
    let mut wrong: Vec<String> = Harm::of_tree().misfits();
    let numbered = FAULTS.iter().zip(1..).filter(|(fault, number)| fault.number != *number);
    wrong.extend(numbered.map(|(fault, number)| format!("fault {} stands at place {number}", fault.number)));
    let ruleless = FAULTS.iter().filter(|fault| fault.rule.is_empty());
    wrong.extend(ruleless.map(|fault| format!("fault {} names no rule", fault.number)));
    if wrong.is_empty() { Ok(format!("{} faults", FAULTS.len())) } else { Err(wrong.join("\n")) }
}

/// Builds the simulator with all faults in it.
fn build() -> Result<PathBuf> {
    let harm = Harm::of_tree();
    let wrong = harm.misfits();
    if !wrong.is_empty() {
        bail!("faults do not fit the tree:\n{}", wrong.join("\n"));
    }
    let folder = root().join("target/planted/tree");
    duplicate::tracked(&folder, |name, content| harm.of(name).map_or(content, |harmed| harmed.as_bytes().to_vec()))?;
    say("building the simulator with faults in it");
    let target = duplicate::build_folder();
    let done = Command::new("cargo")
        .args(["build", "--quiet", "--profile", "ci", "--offline", "--package", "ginnel-sim"])
        .env("CARGO_TARGET_DIR", &target)
        .current_dir(&folder)
        .stdin(Stdio::null())
        .output()
        .context("run cargo")?;
    if !done.status.success() {
        bail!("the planted tree does not build\n{}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(target.join("ci/ginnel-sim"))
}

/// A world that breaks rules.
#[derive(Debug, PartialEq, Eq)]
struct Broken {
    seed: u64,
    violations: Vec<String>,
}

/// Runs worlds with one fault in force, or none, until one breaks a rule.
fn worlds(simulator: &Path, fault: u32, from: u64, seeds: u64) -> Result<Option<Broken>> {
    let done = Command::new(simulator)
        .args(["--planted", &fault.to_string(), "--from", &from.to_string(), "--seeds", &seeds.to_string()])
        .arg("--stop-at-first")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .context("run the simulator")?;
    let output = String::from_utf8_lossy(&done.stdout);
    let found = broken(&output);
    if found.is_none() && !output.lines().any(|line| line.starts_with("seeds=")) {
        bail!("the simulator ended early with fault {fault}");
    }
    Ok(found)
}

/// The first world that a run of the simulator names, with all its violations.
fn broken(output: &str) -> Option<Broken> {
    let told = output.lines().filter_map(|line| {
        let (seed, what) = line.strip_prefix("seed ")?.split_once(": ")?;
        Some((seed.parse::<u64>().ok()?, what.to_owned()))
    });
    let told: Vec<(u64, String)> = told.collect();
    let seed = told.first()?.0;
    let violations = told.into_iter().filter(|(other, _)| *other == seed).map(|(_, what)| what).collect();
    Some(Broken { seed, violations })
}

/// A violation without the description of its pair.
fn shortened(what: &str) -> String {
    let what = match (what.find(" ("), what.find(") ")) {
        (Some(from), Some(to)) if from < to => [&what[..from], &what[to + 1..]].concat(),
        _ => what.to_owned(),
    };
    what.chars().take(MOST_SHOWN).collect()
}

/// Worlds in which a fault is looked for whose known one shows it no longer.
const MOVED: u64 = 300;
const MOST_SHOWN: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_fits_the_tree() {
        assert_eq!(fits(), Ok(format!("{} faults", FAULTS.len())));
    }

    #[test]
    fn the_first_broken_world_is_read_with_all_that_it_breaks() {
        let output = "12.0 told\nseed 7: 1.0 s: one\nseed 7: 2.0 s: two: three\n    cargo\nseed 9: other\nseeds=9 x\n";
        let violations = vec!["1.0 s: one".to_owned(), "2.0 s: two: three".to_owned()];
        assert_eq!(broken(output), Some(Broken { seed: 7, violations }));
        assert_eq!(broken("seeds=9 violations=0\n"), None);
    }

    #[test]
    fn a_violation_is_shown_without_its_pair() {
        let whole = "12.5 s: (Clear, joined at 3 s, node0 and node1: Meet, 1 relays) flow 2 stands still";
        assert_eq!(shortened(whole), "12.5 s: flow 2 stands still");
    }
}
