//! The programmes of the laboratory: each builds what it needs, installs what is missing, and says what it found.

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use ginnel_lab::cases::{self, CaseResult};
use ginnel_lab::scenario::{
    Programs, bad_input, crash, demo, flood, hostile_server, invite_race, life, pairs, revoke, servers_down, wireguard,
};
use ginnel_lab::{Lab, setup};

use crate::cargo;
use crate::suite::Extent;
use crate::tally::Tally;

/// How a result is printed.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// How the programs under test are built.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Build {
    /// Optimised, with assertions and overflow checks.
    #[default]
    Checked,
    /// As they are installed.
    Release,
}

/// Runs the demonstration.
pub(crate) fn demo(form: Form) -> Result<ExitCode> {
    let programs = prepare(Build::Checked)?;
    let account = demo::run(&programs, &|line| tell_for(form, line))?;
    if form == Form::Json {
        cargo::tell(&serde_json::to_string(&account)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// How long the programmes are that can be longer or shorter.
#[derive(Clone, Copy, clap::Args)]
pub(crate) struct Length {
    /// How long each flood is, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How many kills.
    #[arg(long, default_value_t = 500)]
    rounds: u64,
    /// How long links are watched without servers, in minutes.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// How many races for an invite.
    #[arg(long, default_value_t = 20)]
    races: usize,
    /// How many machines race.
    #[arg(long, default_value_t = 200)]
    joiners: usize,
}

/// Runs one programme by name.
pub(crate) fn lab(name: &str, form: Form, only: Option<&str>, length: Length, build: Build) -> Result<ExitCode> {
    let programs = prepare(build)?;
    let tell = |line: &str| {
        if form == Form::Text {
            cargo::say(line)
        }
    };
    match name {
        "flood" => {
            let report =
                flood::run(&programs, length.seconds, only.unwrap_or_default(), &|row| tell(&row.to_string()))?;
            conclude(&report, &report.complaints(), form)
        }
        "crash" => {
            let report = crash::run(&programs, length.rounds, &tell)?;
            conclude(&report, &report.complaints(), form)
        }
        "servers-down" => {
            let report = servers_down::run(&programs, Duration::from_secs(length.minutes * 60), &tell)?;
            conclude(&report, &report.complaints(), form)
        }
        "revoke" => {
            let report = revoke::run(&programs, &tell)?;
            conclude(&report, &report.complaints(), form)
        }
        "invite-race" => {
            let extent = invite_race::Extent { rounds: length.races, joiners: length.joiners };
            let report = invite_race::run(&programs, extent, &|race| tell(&race.to_string()))?;
            conclude(&report, &report.complaints(), form)
        }
        "hostile-server" => {
            let found = hostile_server::run(&programs, only.unwrap_or_default(), &|case| tell_case(form, case));
            Ok(close(&found, form))
        }
        "check" => Ok(close(&cases::run_self_checks(only.unwrap_or_default()), form)),
        "wireguard" => {
            Ok(close(&wireguard::run(&programs, only.unwrap_or_default(), &|case| tell_case(form, case)), form))
        }
        "bad-input" => {
            Ok(close(&bad_input::run(&programs, only.unwrap_or_default(), &|case| tell_case(form, case)), form))
        }
        "life" => Ok(close(&life::run(&programs, only.unwrap_or_default(), &|case| tell_case(form, case)), form)),
        "pairs" => {
            let (table, complaints) = run_pairs(&programs, form, only)?;
            if form == Form::Json {
                cargo::tell(&serde_json::to_string(&table)?);
            }
            for complaint in &complaints {
                cargo::say(&format!("complaint: {complaint}"));
            }
            Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        other => bail!("there is no laboratory programme {other}; there are {PROGRAMMES}"),
    }
}

/// Counts the laboratory's results in the test suite.
pub(crate) fn count(tally: &mut Tally, extent: Extent) -> Result<()> {
    let quick = extent == Extent::Quick;
    let programs = prepare(Build::Checked)?;
    for case in cases::run_self_checks(if quick { QUICK_CHECKS } else { "" }) {
        tally.count(&format!("lab: {}", case.name), outcome(&case));
    }
    let only = if quick { QUICK_WIREGUARD } else { "" };
    for case in wireguard::run(&programs, only, &|_| {}) {
        tally.count(&format!("lab: {}", case.name), outcome(&case));
    }
    if !quick {
        let lives = life::run(&programs, "", &|_| {});
        let inputs = bad_input::run(&programs, "", &|_| {});
        let servers = hostile_server::run(&programs, "", &|_| {});
        for case in lives.into_iter().chain(inputs).chain(servers) {
            tally.count(&format!("lab: {}", case.name), outcome(&case));
        }
        hard_times(tally, &programs);
    }
    let begun = demo::run(&programs, &|line| cargo::say(line));
    tally.count("demo", begun.map(|account| format!("{} links", account.links.len())).map_err(|e| format!("{e:#}")));
    let wanted: Vec<_> =
        pairs::combinations().into_iter().filter(|pair| !quick || QUICK_PAIRS.contains(pair)).collect();
    let table = pairs::run(&programs, &wanted, &|row| cargo::say(&in_words(row)))?;
    for (pair, row) in wanted.iter().zip(&table.pairs) {
        let name = format!("lab: pair {} – {}", row.a, row.b);
        tally.count(&name, pairs::complaint(*pair, row).map_or_else(|| Ok(in_words(row)), Err));
    }
    Ok(())
}

/// The programmes of floods, deaths and dead servers, shorter than by themselves. Floods run alone, the others together.
fn hard_times(tally: &mut Tally, programs: &Programs) {
    let quiet = |_: &str| {};
    let (servers, revoked, killed) = std::thread::scope(|scope| {
        let servers = scope.spawn(move || servers_down::run(programs, SUITE_WATCH, &quiet));
        let revoked = scope.spawn(move || revoke::run(programs, &quiet));
        let killed = crash::run(programs, SUITE_KILLS, &quiet);
        (servers.join(), revoked.join(), killed)
    });
    let servers = servers.unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
    let revoked = revoked.unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
    judge(tally, "lab: servers-down", servers, servers_down::Report::complaints);
    judge(tally, "lab: revoke", revoked, revoke::Report::complaints);
    judge(tally, "lab: crash", killed, crash::Report::complaints);
    let raced = invite_race::run(programs, SUITE_RACES, &|_| {});
    judge(tally, "lab: invite-race", raced, invite_race::Report::complaints);
    let flooded = flood::run(programs, SUITE_FLOOD, "", &|_| {});
    judge(tally, "lab: flood", flooded, flood::Report::complaints);
}

fn judge<R: Display>(tally: &mut Tally, name: &str, report: Result<R>, complaints: impl Fn(&R) -> Vec<String>) {
    let outcome = report.map_err(|error| format!("{error:#}")).and_then(|report| {
        let complaints = complaints(&report);
        if complaints.is_empty() { Ok(report.to_string()) } else { Err(format!("{}\n{report}", complaints.join("\n"))) }
    });
    tally.count(name, outcome);
}

fn run_pairs(programs: &Programs, form: Form, only: Option<&str>) -> Result<(pairs::Table, Vec<String>)> {
    let wanted: Vec<_> = pairs::combinations()
        .into_iter()
        .filter(|pair| {
            let (a, b) = pair.names();
            only.is_none_or(|only| format!("{a} {b}").contains(only))
        })
        .collect();
    if wanted.is_empty() {
        bail!("no pair has such a name");
    }
    let table = pairs::run(programs, &wanted, &|row| tell_for(form, &in_words(row)))?;
    let complaints = wanted
        .iter()
        .zip(&table.pairs)
        .filter_map(|(pair, row)| Some(format!("{} – {}: {}", row.a, row.b, pairs::complaint(*pair, row)?)))
        .collect();
    Ok((table, complaints))
}

/// Installs what is missing, removes what dead runs left, builds the programs.
///
/// With `GINNEL_PROGRAMS=DIR` nothing is built: the programs in that folder are run.
fn prepare(build: Build) -> Result<Programs> {
    if let Some(folder) = std::env::var_os("GINNEL_PROGRAMS") {
        if build == Build::Release {
            bail!(
                "--release builds programs, and GINNEL_PROGRAMS says that those of a folder are to be run: leave one away"
            );
        }
        return Programs::in_folder(std::path::Path::new(&folder));
    }
    for package in setup::install()? {
        cargo::say(&format!("installed {package}"));
    }
    Lab::sweep_stale()?;
    let profile = match build {
        Build::Checked => "ci",
        Build::Release => "release",
    };
    let built = cargo::run_shown(
        "cargo",
        &["build", "--quiet", "--profile", profile, "--locked", "-p", "ginneld", "-p", "ginnel", "-p", "ginnel-signal"],
    )?;
    if !built.success {
        bail!("the programs do not build");
    }
    Programs::of_profile(profile)
}

/// Prints what a programme found, and what is wrong with it.
fn conclude<R: serde::Serialize + Display>(report: &R, complaints: &[String], form: Form) -> Result<ExitCode> {
    match form {
        Form::Json => cargo::tell(&serde_json::json!({ "report": report, "complaints": complaints }).to_string()),
        Form::Text => cargo::tell(&report.to_string()),
    }
    for complaint in complaints {
        cargo::say(&format!("complaint: {complaint}"));
    }
    Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn close(cases: &[CaseResult], form: Form) -> ExitCode {
    let mut tally = Tally::default();
    if form == Form::Json {
        let list: Vec<_> = cases
            .iter()
            .map(|case| serde_json::json!({"case": case.name, "pass": case.pass, "detail": case.detail}))
            .collect();
        cargo::tell(&serde_json::json!({ "results": list }).to_string());
        let passed = !cases.is_empty() && cases.iter().all(|case| case.pass);
        return if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    for case in cases {
        tally.count(&case.name, outcome(case));
    }
    if tally.close() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn outcome(case: &CaseResult) -> Result<String, String> {
    if case.pass { Ok(case.detail.clone()) } else { Err(case.detail.clone()) }
}

fn tell_case(form: Form, case: &CaseResult) {
    if form == Form::Text {
        cargo::say(&format!("{}: {} ({:.1} s)", case.name, if case.pass { "pass" } else { "FAIL" }, case.seconds));
    }
}

fn tell_for(form: Form, line: &str) {
    match form {
        Form::Text => cargo::tell(line),
        Form::Json => cargo::say(line),
    }
}

fn in_words(row: &pairs::Row) -> String {
    let millis = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.1} ms"));
    format!(
        "{:<26} {:<26} {:<7} first byte {:>9}, direct after {:>9}",
        row.a,
        row.b,
        format!("{:?}", row.path).to_lowercase(),
        millis(row.first_byte_ms),
        millis(row.direct_ms)
    )
}

const PROGRAMMES: &str = "check, wireguard, pairs, life, bad-input, flood, crash, servers-down, \
                          revoke, invite-race and hostile-server";
/// How long the suite watches links without servers, how often it kills, and how long it floods, in seconds.
const SUITE_WATCH: Duration = Duration::from_secs(60);
const SUITE_KILLS: u64 = 40;
const SUITE_FLOOD: u64 = 3;
const SUITE_RACES: invite_race::Extent = invite_race::Extent { rounds: 2, joiners: 24 };
const QUICK_CHECKS: &str = "port-restricted";
const QUICK_WIREGUARD: &str = "initiates";
const QUICK_PAIRS: [pairs::Combination; 2] = [
    pairs::Combination::Two(ginnel_lab::NatKind::PortRestricted, ginnel_lab::NatKind::PortRestricted),
    pairs::Combination::Two(ginnel_lab::NatKind::Open, ginnel_lab::NatKind::Symmetric),
];
