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
    laboratory::count(&mut tally, extent)?;
    Ok(if tally.close() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the checks alone.
pub(crate) fn check_only() -> Result<ExitCode> {
    let mut tally = Tally::default();
    check::run(&mut tally);
    Ok(if tally.close() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn unit(tally: &mut Tally) -> Result<()> {
    cargo::say("unit and vector tests");
    let ran = cargo::run_shown("cargo", &["test", "--profile", "ci", "--workspace", "--locked", "--no-fail-fast"])?;
    tally.count_test_binaries("unit and vector tests", &ran);
    Ok(())
}
