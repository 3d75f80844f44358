//! `ginnel-sim`: runs simulated worlds and says what went wrong in them.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use ginnel_sim::{Telling, run, run_seed};

/// Runs simulated worlds, one for each seed.
#[derive(Parser)]
#[command(name = "ginnel-sim")]
struct Arguments {
    /// How many worlds.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Tells everything that happens; meant for one seed.
    #[arg(long)]
    trace: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let seeds = arguments.from..arguments.from.saturating_add(arguments.seeds);
    let mut out = std::io::stdout();
    if arguments.trace {
        tracing_subscriber::fmt()
            .without_time()
            .with_ansi(false)
            .with_env_filter(tracing_subscriber::EnvFilter::try_new("debug")?)
            .with_writer(std::io::stdout)
            .init();
        let mut violations = 0;
        for seed in seeds {
            let outcome = run_seed(seed, Telling::Lines);
            for violation in &outcome.violations {
                writeln!(out, "seed {seed}: {violation}")?;
            }
            violations += outcome.violations.len();
            writeln!(out, "seed={seed} hash={:016x} packets={}", outcome.hash, outcome.packets)?;
        }
        return Ok(if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let report = run(seeds);
    let mut violations = 0;
    for failure in &report.failed {
        for violation in &failure.violations {
            writeln!(out, "seed {}: {violation}", failure.seed)?;
        }
        writeln!(out, "    {}", failure.replay)?;
        violations += failure.violations.len();
    }
    let hours = report.virtual_time.as_secs_f64() / 3600.0;
    writeln!(
        out,
        "seeds={} virtual_hours={hours:.2} packets={} violations={violations}",
        arguments.seeds, report.packets
    )?;
    Ok(if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
