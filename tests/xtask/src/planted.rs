//! Mistakes planted in the protocols: the simulated worlds must find each of them.
//!
//! All go into one copy of the tree, each behind a switch that exists in the copy alone, so that one build serves all.
//! The copy's simulator is told by `--planted N` which of them is in force.

mod edit;
mod rows;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::cargo::{root, say, tell};
use crate::duplicate;
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
    let unharmed = worlds(&simulator, 0, 0, UNHARMED)?;
    if let Some((seed, what)) = unharmed {
        bail!("with no fault in force, seed {seed} shows: {what}");
    }
    let mut missed = 0;
    for fault in &chosen {
        let found = worlds(&simulator, fault.number, arguments.from, arguments.seeds)?;
        missed += usize::from(found.is_none());
        let account = found.map_or_else(
            || format!("NOT FOUND in {} worlds", arguments.seeds),
            |(seed, what)| format!("seed {seed}: {}", shortened(&what)),
        );
        tell(&format!("{:>2} {:<9} {}\n   {account}", fault.number, fault.package, fault.what));
    }
    tell(&format!("{} faults planted, {missed} not found", chosen.len()));
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether every fault fits the tree as it is; builds nothing.
pub(crate) fn fits() -> Result<String, String> {
    let mut wrong: Vec<String> = Harm::of_tree().misfits();
    let numbered = FAULTS.iter().zip(1..).filter(|(fault, number)| fault.number != *number);
    wrong.extend(numbered.map(|(fault, number)| format!("fault {} stands at place {number}", fault.number)));
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

/// Runs worlds with one fault in force; answers the first seed that shows it, and its first violation.
fn worlds(simulator: &PathBuf, fault: u32, from: u64, seeds: u64) -> Result<Option<(u64, String)>> {
    let done = Command::new(simulator)
        .args(["--planted", &fault.to_string(), "--from", &from.to_string(), "--seeds", &seeds.to_string()])
        .arg("--stop-at-first")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .context("run the simulator")?;
    let output = String::from_utf8_lossy(&done.stdout);
    let found = output.lines().find_map(|line| {
        let (seed, what) = line.strip_prefix("seed ")?.split_once(": ")?;
        Some((seed.parse().ok()?, what.to_owned()))
    });
    if found.is_none() && !output.lines().any(|line| line.starts_with("seeds=")) {
        bail!("the simulator ended early with fault {fault}");
    }
    Ok(found)
}

/// A violation without the description of its pair.
fn shortened(what: &str) -> String {
    let what = match (what.find(" ("), what.find(") ")) {
        (Some(from), Some(to)) if from < to => [&what[..from], &what[to + 1..]].concat(),
        _ => what.to_owned(),
    };
    what.chars().take(MOST_SHOWN).collect()
}

/// Worlds that must show nothing while no fault is in force.
const UNHARMED: u64 = 20;
const MOST_SHOWN: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_fits_the_tree() {
        assert_eq!(fits(), Ok(format!("{} faults", FAULTS.len())));
    }

    #[test]
    fn a_violation_is_shown_without_its_pair() {
        let whole = "12.5 s: (Clear, joined at 3 s, node0 and node1: Meet, 1 relays) flow 2 stands still";
        assert_eq!(shortened(whole), "12.5 s: flow 2 stands still");
    }
}
