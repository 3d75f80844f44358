//! Checks that need no test binary: format, lints, purity of the protocol crates, dependencies.

use std::collections::BTreeSet;

use crate::cargo::{self, run_kept};
use crate::tally::Tally;

/// Runs every check.
pub(crate) fn run(tally: &mut Tally) {
    tally.count("format", outcome("cargo", &["fmt", "--all", "--check"]));
    tally.count("lints", lints());
    for name in PURE {
        tally.count(&format!("purity of {name}"), purity(name));
    }
    tally.count("arrows of the house", arrows());
    tally.count("dependencies: bans, licences, sources", deny());
    advisories(tally);
    tally.count("mistakes of the past", crate::history::patches_apply());
    tally.count("mistakes to plant", crate::planted::fits());
}

/// The crates that may know no socket, no clock and no runtime.
const PURE: [&str; 10] = [
    "ginnel-time",
    "ginnel-stun",
    "ginnel-turn",
    "ginnel-tunnel",
    "ginnel-path",
    "ginnel-membership",
    "ginnel-signal-proto",
    "ginnel-forward",
    "ginnel-node",
    "ginnel-local-api",
];

/// Crates that would bring sockets, a runtime or a poller.
const IMPURE: [&str; 11] = [
    "tokio",
    "mio",
    "socket2",
    "quinn",
    "quinn-udp",
    "quinn-proto",
    "polling",
    "async-io",
    "async-std",
    "tun",
    "rtnetlink",
];

/// Which crates of the house each pure crate may use.
const ARROWS: [(&str, &[&str]); 10] = [
    ("ginnel-time", &[]),
    ("ginnel-stun", &["ginnel-time"]),
    ("ginnel-turn", &["ginnel-time", "ginnel-stun"]),
    ("ginnel-tunnel", &["ginnel-time"]),
    ("ginnel-path", &["ginnel-time"]),
    ("ginnel-membership", &["ginnel-time"]),
    ("ginnel-signal-proto", &["ginnel-time", "ginnel-membership"]),
    ("ginnel-forward", &["ginnel-time", "ginnel-tunnel", "ginnel-path", "ginnel-turn", "ginnel-stun"]),
    (
        "ginnel-node",
        &[
            "ginnel-time",
            "ginnel-stun",
            "ginnel-turn",
            "ginnel-tunnel",
            "ginnel-path",
            "ginnel-membership",
            "ginnel-signal-proto",
            "ginnel-forward",
        ],
    ),
    ("ginnel-local-api", &[]),
];

fn lints() -> Result<String, String> {
    outcome(
        "cargo",
        &["clippy", "--quiet", "--profile", "ci", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
    )
}

fn purity(name: &str) -> Result<String, String> {
    let tree = dependencies(name, &["--prefix", "none"])?;
    let found: Vec<&str> = IMPURE.into_iter().filter(|bad| tree.contains(*bad)).collect();
    if found.is_empty() {
        Ok(format!("{} crates", tree.len()))
    } else {
        Err(format!("depends on {}", found.join(", ")))
    }
}

fn arrows() -> Result<String, String> {
    for (name, allowed) in ARROWS {
        for used in dependencies(name, &["--prefix", "none", "--depth", "1"])? {
            if used.starts_with("ginnel-") && used != name && !allowed.contains(&used.as_str()) {
                return Err(format!("{name} uses {used}"));
            }
        }
    }
    Ok(String::new())
}

fn dependencies(name: &str, arguments: &[&str]) -> Result<BTreeSet<String>, String> {
    let mut all = vec!["tree", "--quiet", "--locked", "--edges", "normal", "--package", name];
    all.extend_from_slice(arguments);
    let ran = run_kept("cargo", &all).map_err(|error| format!("{error:#}"))?;
    if !ran.success {
        return Err(last_lines(&ran.output));
    }
    Ok(ran.output.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

fn deny() -> Result<String, String> {
    if !run_kept("cargo", &["deny", "--version"]).is_ok_and(|ran| ran.success) {
        cargo::say("cargo-deny is not there; installing it, which takes some minutes");
        outcome("cargo", &["install", "--quiet", "--locked", "cargo-deny"])?;
    }
    outcome("cargo", &["deny", "--locked", "check", "bans", "licenses", "sources"])
}

/// Advisories need a database from outside; where it cannot be reached, that is said and nothing is claimed.
fn advisories(tally: &mut Tally) {
    let Ok(ran) = run_kept("cargo", &["deny", "--locked", "check", "advisories"]) else { return };
    if ran.success {
        tally.count("dependencies: advisories", Ok(String::new()));
    } else if ran.output.contains("failed to fetch advisory database") || ran.output.contains("failed to load advisory")
    {
        cargo::tell("note  advisories were not checked: their database cannot be reached from here");
    } else {
        tally.count("dependencies: advisories", Err(last_lines(&ran.output)));
    }
}

fn outcome(program: &str, arguments: &[&str]) -> Result<String, String> {
    let ran = run_kept(program, arguments).map_err(|error| format!("{error:#}"))?;
    if ran.success { Ok(String::new()) } else { Err(last_lines(&ran.output)) }
}

fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(40);
    format!("\n{}", lines[from..].join("\n"))
}
