//! The laboratory on its own: checks itself, installs what it needs, opens a shell in a topology.
#![expect(clippy::print_stdout, reason = "what it prints is its product")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use ginnel_lab::cases::{self, CaseResult};
use ginnel_lab::scenario::{Programs, bad_input, crash, flood, revoke, servers_down};
use ginnel_lab::{Lab, NatKind, setup};

#[derive(Parser)]
#[command(about = "A laboratory of real NATs, routers and slow lines in network namespaces")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Checks that every NAT, line and guard does what it promises; exit status 1 if one does not
    Selfcheck {
        /// Run only the checks whose name contains this
        #[arg(default_value = "")]
        filter: String,
        /// How to print the results
        #[arg(long, value_enum, default_value_t = Format::Lines)]
        format: Format,
    },
    /// Gives the programs beside this one wrong input; exit status 1 if one does not refuse it well
    BadInput {
        /// Run only the cases whose name contains this
        #[arg(default_value = "")]
        filter: String,
    },
    /// Floods a network while a transfer runs; exit status 1 if that, a newcomer or memory suffers too much
    Flood {
        /// Run only the floods whose name contains this
        #[arg(default_value = "")]
        filter: String,
        /// How long each flood is
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Kills programs at random points; exit status 1 if something is lost or the link is back too late
    Crash {
        /// How many kills
        #[arg(long, default_value_t = 500)]
        kills: u64,
    },
    /// Kills signaling and relay; exit status 1 if direct links suffer or daemons do not find each other again
    ServersDown {
        /// How long the direct link is watched, in minutes
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// Revokes members; exit status 1 if it takes too long
    Revoke,
    /// Names what this machine lacks, and installs it where it can
    Setup,
    /// Removes namespaces whose laboratory's process is dead
    Sweep,
    /// Builds two sites and a hub, and runs a command on host `a` until it ends, at most an hour
    Run {
        /// NAT of site `a`
        #[arg(long, default_value = "port-restricted")]
        a: NatKind,
        /// NAT of site `b`
        #[arg(long, default_value = "port-restricted")]
        b: NatKind,
        /// The command and its arguments; LAB in its environment is what every namespace's name starts with
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// One line per check, and a sum
    Lines,
    /// One JSON array
    Json,
}

fn main() -> Result<ExitCode> {
    ginnel_lab::dispatch_hidden();
    match Arguments::parse().verb {
        Verb::Selfcheck { filter, format } => selfcheck(&filter, format),
        Verb::BadInput { filter } => bad_input(&filter),
        Verb::Flood { filter, seconds } => flood(seconds, &filter),
        Verb::Crash { kills } => {
            let report = crash::run(&Programs::beside_this_one()?, kills, &|line| println!("{line}"))?;
            println!("{report}");
            Ok(judge(report.complaints()))
        }
        Verb::ServersDown { minutes } => {
            let watch = Duration::from_secs(minutes * 60);
            let report = servers_down::run(&Programs::beside_this_one()?, watch, &|line| println!("{line}"))?;
            println!("{report}");
            Ok(judge(report.complaints()))
        }
        Verb::Revoke => {
            let report = revoke::run(&Programs::beside_this_one()?, &|line| println!("{line}"))?;
            println!("{report}");
            Ok(judge(report.complaints()))
        }
        Verb::Setup => {
            let installed = setup::install()?;
            let what = if installed.is_empty() { "nothing was missing".to_owned() } else { installed.join(" ") };
            println!("ready; installed: {what}");
            Ok(ExitCode::SUCCESS)
        }
        Verb::Sweep => {
            println!("{} namespaces removed", Lab::sweep_stale()?);
            Ok(ExitCode::SUCCESS)
        }
        Verb::Run { a, b, command } => run(a, b, &command),
    }
}

fn selfcheck(filter: &str, format: Format) -> Result<ExitCode> {
    let begun = Instant::now();
    let results = cases::run_self_checks(filter);
    let failed = results.iter().filter(|result| !result.pass).count();
    if format == Format::Json {
        println!("{}", serde_json::to_string_pretty(&results)?);
    } else {
        results.iter().for_each(show);
        println!("{} checks, {failed} failed, {:.1} s", results.len(), begun.elapsed().as_secs_f64());
    }
    let well = failed == 0 && !results.is_empty();
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bad_input(filter: &str) -> Result<ExitCode> {
    let results = bad_input::run(&Programs::beside_this_one()?, filter, &show);
    let well = !results.is_empty() && results.iter().all(|result| result.pass);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn flood(seconds: u64, filter: &str) -> Result<ExitCode> {
    let report = flood::run(&Programs::beside_this_one()?, seconds, filter, &|row| println!("{row}"))?;
    println!("{}", report.bad_mac1);
    Ok(judge(report.complaints()))
}

/// Prints what is wrong, if anything.
fn judge(complaints: Vec<String>) -> ExitCode {
    complaints.iter().for_each(|complaint| println!("FAIL {complaint}"));
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(result: &CaseResult) {
    let verdict = if result.pass { "pass" } else { "FAIL" };
    println!("{verdict} {:32} {:5.1} s  {}", result.name, result.seconds, result.detail);
}

fn run(a: NatKind, b: NatKind, command: &[String]) -> Result<ExitCode> {
    let lab = Lab::pair(a, b)?;
    let host = lab.host("a")?;
    let prefix =
        host.namespace().name().strip_suffix(host.name()).context("names start with the laboratory's prefix")?;
    let process = host.spawn("command", command, &[("LAB", prefix)])?;
    let output = process.wait(Duration::from_secs(3600))?;
    print!("{}{}", output.stdout, output.stderr);
    Ok(if output.status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
