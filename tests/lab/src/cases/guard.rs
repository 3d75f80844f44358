//! Checks that nothing outlives a laboratory, however its process ends.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::{Lab, default_helper};
use crate::namespace::{self, Namespace, PREFIX};
use crate::nat::NatKind;
use crate::verify::wait_until;
use crate::{files, process, sys};

/// The hidden sub-command that builds a laboratory in order to die with it.
pub const VICTIM: &str = "__victim";

/// How a victim ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    Panic,
    Terminate,
    Kill,
}

pub(super) fn removed_by_drop() -> Result<String> {
    let lab = Lab::pair(NatKind::DoubleNat, NatKind::Open)?;
    let deaf = ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"];
    let process = lab.host("a")?.spawn("deaf", &deaf, &[])?;
    process.wait_for_line(Duration::from_secs(5), |line| line == "up")?;
    let (pid, files) = (process.pid(), lab.files().to_owned());
    process.detach();
    let namespaces = lab.namespaces().to_vec();
    ensure!(namespaces.iter().all(|namespace| namespace.path().exists()), "namespaces are missing");
    drop(lab);
    ensure!(is_gone(pid), "the process {pid} still runs");
    ensure!(!files.exists(), "{} still exists", files.display());
    let left: Vec<&Namespace> = namespaces.iter().filter(|namespace| namespace.path().exists()).collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(format!("{} namespaces, a process deaf to SIGTERM and its files are gone", namespaces.len()))
}

pub(super) fn removed_after(death: Death) -> Result<String> {
    let program = default_helper()?;
    let word = if death == Death::Panic { "panic" } else { "wait" };
    let mut command = Command::new(&program);
    command.args([VICTIM, word]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut victim = process::spawn(command)?;
    let mut said = String::new();
    BufReader::new(victim.stdout.take().context("the victim has no output")?).read_line(&mut said)?;
    let child: u32 = said.trim().parse().with_context(|| format!("the victim said {said:?}"))?;
    let pid = victim.id();
    let made = namespace::of_process(pid).len();
    match death {
        Death::Panic => {}
        Death::Terminate => sys::send_signal(pid, libc::SIGTERM)?,
        Death::Kill => victim.kill()?,
    }
    let status = victim.wait()?;
    ensure!(!status.success(), "the victim ended well");
    let scratch = files::prefix_of_process(pid);
    wait_until(|| Ok(namespace::of_process(pid).is_empty() && is_gone(child) && !any_with_prefix(&scratch)))
        .with_context(|| format!("left behind: {:?}, child gone: {}", namespace::of_process(pid), is_gone(child)))?;
    Ok(format!("{made} namespaces, a process and its files are gone after {}", process::describe(status)))
}

pub(super) fn stale_is_swept() -> Result<String> {
    // The number of a process that has ended and been waited for.
    let mut ended = Command::new("true").spawn()?;
    ended.wait()?;
    let stale = Namespace::named(format!("{PREFIX}{}-0-stale", ended.id()));
    let living = Namespace::named(format!("{PREFIX}{}-stale-living", std::process::id()));
    Namespace::create_all(&[stale.clone(), living.clone()])?;
    let swept = Lab::sweep_stale();
    let spared = living.path().exists();
    Namespace::remove_all(std::slice::from_ref(&living))?;
    ensure!(swept? >= 1 && !stale.path().exists(), "a dead process's namespace is not swept");
    ensure!(spared, "a living process's namespace is swept");
    Ok("a dead process's namespace is swept, a living one's is not".to_owned())
}

/// Builds a laboratory with a process in it, says that process's id, and ends as told.
pub(crate) fn run_victim(ending: &str) -> Result<()> {
    let lab = Lab::pair(NatKind::PortRestricted, NatKind::Open)?;
    let process = lab.host("a")?.spawn("sleeper", &["sleep", "60"], &[])?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", process.pid())?;
    out.flush()?;
    match ending {
        "panic" => panic!("as the check asked"),
        "wait" => std::thread::sleep(Duration::from_secs(20)),
        other => bail!("no such ending: {other}"),
    }
    Ok(())
}

fn is_gone(pid: u32) -> bool {
    // A zombie has no program file any more.
    !Path::new(&format!("/proc/{pid}/exe")).exists()
}

fn any_with_prefix(prefix: &Path) -> bool {
    let (Some(directory), Some(name)) = (prefix.parent(), prefix.file_name().and_then(|name| name.to_str())) else {
        return false;
    };
    let Ok(entries) = std::fs::read_dir(directory) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_str().is_some_and(|entry| entry.starts_with(name)))
}
