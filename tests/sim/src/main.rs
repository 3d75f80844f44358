//! `ginnel-sim`: runs simulated worlds and says what went wrong in them.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use ginnel_sim::{Deeds, Outcome, Stop, Telling, replay, run, run_again, run_seed};

/// Runs simulated worlds, one for each seed.
#[derive(Parser)]
#[command(name = "ginnel-sim")]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
struct Arguments {
    /// How many worlds.
    #[arg(long, default_value_t = 200)]
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
    /// Plays a recording of `ginneld --record` again, in place of worlds; with --trace it tells what the node says.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "from", "stop_at_first"])]
    replay: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let seeds = arguments.from..arguments.from.saturating_add(arguments.seeds);
    let mut out = std::io::stdout();
    // Before anybody listens to what machines tell.
    let worlds = if arguments.trace && arguments.replay.is_none() { seeds.clone() } else { 0..0 };
    let before: Vec<Outcome> = worlds.map(|seed| run_seed(seed, Telling::Quiet)).collect();
    if arguments.trace {
        tracing_subscriber::fmt()
            .without_time()
            .with_ansi(false)
            .with_env_filter(tracing_subscriber::EnvFilter::try_new("debug")?)
            .with_writer(std::io::stdout)
            .init();
    }
    if let Some(file) = &arguments.replay {
        writeln!(out, "{}", replay(file)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.trace {
        let mut violations = 0;
        for before in &before {
            let outcome = run_again(before);
            let seed = outcome.seed;
            for violation in &outcome.violations {
                writeln!(out, "seed {seed}: {violation}")?;
            }
            violations += outcome.violations.len();
            writeln!(out, "seed={seed} hash={:016x} packets={}", outcome.hash, outcome.packets)?;
        }
        return Ok(if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let stop = if arguments.stop_at_first { Stop::AtFirst } else { Stop::AtEnd };
    let report = run(seeds, stop);
    for failure in &report.failed {
        for violation in &failure.violations {
            writeln!(out, "seed {}: {violation}", failure.seed)?;
        }
        writeln!(out, "    {}", failure.replay)?;
    }
    if arguments.why {
        for (why, count) in report.doubts() {
            writeln!(out, "{count:8} {why}")?;
        }
        for (deed, count) in report.deeds() {
            writeln!(out, "{count:8} said in sessions: {deed}")?;
        }
        let Deeds { looks, linked, .. } = report.drills.deeds;
        writeln!(out, "{linked:8} of {looks} looks of hostile members for somebody to talk to")?;
    }
    writeln!(out, "{}", report.line())?;
    Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
