//! The whole test suite, in the order in which a mistake is found soonest.

use std::process::ExitCode;

use anyhow::Result;

use crate::cargo;
use crate::check;
use crate::laboratory;
use crate::tally::Tally;

/// How much of the suite runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What fits between two commits.
    Quick,
    /// Everything.
    Full,
}

/// Runs the suite.
pub(crate) fn run(extent: Extent) -> Result<ExitCode> {
    let mut tally = Tally::default();
    check::run(&mut tally);
    unit(&mut tally)?;
    simulate(&mut tally, extent);
    if extent == Extent::Full {
        crate::planted::count(&mut tally);
    }
    laboratory::count(&mut tally, extent)?;
    rooted(&mut tally)?;
    Ok(if tally.close() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the checks alone.
pub(crate) fn check_only() -> Result<ExitCode> {
    let mut tally = Tally::default();
    check::run(&mut tally);
    Ok(if tally.close() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the tests of crates that a plain `cargo test` leaves out because they need root: those of an interface in a
/// network namespace that is made for them and gone with them.
fn rooted(tally: &mut Tally) -> Result<()> {
    let common = ["--profile", "ci", "--workspace", "--locked", "--offline"];
    let interface = [&["--net", "cargo", "test"], &common[..], &["--test", "interface", "--", "--ignored"]].concat();
    tally.count_test_binaries("a true interface", &cargo::run_shown("unshare", &interface)?);
    let only = "a_helper_that_is_no_delay_box";
    let helper = [&["test"], &common[..], &["--test", "selfcheck", "--", "--ignored", only]].concat();
    tally.count_test_binaries("the laboratory's refusals", &cargo::run_shown("cargo", &helper)?);
    Ok(())
}

/// Runs the simulated worlds.
fn simulate(tally: &mut Tally, extent: Extent) {
    let seeds = match extent {
        Extent::Quick => 0..20,
        Extent::Full => 0..1000,
    };
    cargo::say(&format!("simulation, seeds {seeds:?}"));
    let report = ginnel_sim::run(seeds, ginnel_sim::Stop::AtEnd);
    for failure in &report.failed {
        tally.count(
            &format!("simulation, seed {}", failure.seed),
            Err(format!("{}; replay with: {}", failure.violations.join("; "), failure.replay)),
        );
    }
    if report.failed.is_empty() {
        tally.count("simulation", Ok(report.line()));
    }
}

fn unit(tally: &mut Tally) -> Result<()> {
    cargo::say("unit and vector tests");
    let ran = cargo::run_shown("cargo", &["test", "--profile", "ci", "--workspace", "--locked", "--no-fail-fast"])?;
    tally.count_test_binaries("unit and vector tests", &ran);
    Ok(())
}
