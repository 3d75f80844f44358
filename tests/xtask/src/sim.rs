//! `cargo xtask sim`: simulated worlds on the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::cargo;

/// Which worlds, and how much is told of them.
#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub(crate) struct Worlds {
    /// How many worlds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Tells everything that happens, and runs each world again to see that it is the same; meant for one seed.
    #[arg(long)]
    trace: bool,
    /// Stops at the first world in which something goes wrong.
    #[arg(long)]
    stop_at_first: bool,
    /// Says of the verdicts that are none why they are not.
    #[arg(long)]
    why: bool,
    /// Plays a recording of `ginneld --record` again, in place of worlds; it fails where the node does anything else. The
    /// recording holds the private keys of the machine that made it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "from", "stop_at_first"])]
    replay: Option<PathBuf>,
}

/// Builds the simulator and runs it; it fails when a world breaks a rule.
pub(crate) fn run(worlds: &Worlds) -> Result<ExitCode> {
    let (seeds, from) = (worlds.seeds.to_string(), worlds.from.to_string());
    let mut arguments = vec!["run", "--quiet", "--profile", "ci", "--locked", "--package", "ginnel-sim", "--"];
    let replay = worlds.replay.as_ref().map(std::path::absolute).transpose()?;
    let replay =
        replay.as_ref().map(|file| file.to_str().context("the name of the recording is not UTF-8")).transpose()?;
    match replay {
        Some(file) => arguments.extend(["--replay", file]),
        None => arguments.extend(["--seeds", &seeds, "--from", &from]),
    }
    if worlds.trace {
        arguments.push("--trace");
    }
    if worlds.stop_at_first {
        arguments.push("--stop-at-first");
    }
    if worlds.why {
        arguments.push("--why");
    }
    let ran = cargo::run_shown("cargo", &arguments)?;
    Ok(if ran.success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
