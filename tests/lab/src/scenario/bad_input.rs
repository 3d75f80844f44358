//! Wrong input: datagrams, strings, servers, files and circumstances that no program must give way to.
//!
//! Every refusal has to name the cause and the remedy, end with the documented exit code, and leave everything else as
//! it was.

mod datagrams;
mod invites;
mod server;
mod startup;
mod volley;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::machine::{Machine, Programs, tail};
use crate::cases::CaseResult;
use crate::host::Host;
use crate::process::{Output, Process};

/// Runs every proof, by name, two topologies at a time; `tell` gets each result as it comes.
pub fn run(programs: &Programs, only: &str, tell: &(dyn Fn(&CaseResult) + Sync)) -> Vec<CaseResult> {
    let book = Book { only, tell, results: Mutex::default() };
    let chapters = [datagrams::chapter, invites::chapter, server::chapter, startup::chapter];
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(chapter) = chapters.get(next.fetch_add(1, Ordering::Relaxed)) {
                    chapter(programs, &book);
                }
            });
        }
    });
    book.results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Where the cases write their results.
struct Book<'a> {
    only: &'a str,
    tell: &'a (dyn Fn(&CaseResult) + Sync),
    results: Mutex<Vec<CaseResult>>,
}

/// A case on the topology `T`; what it answers says what was seen.
type Case<T> = (&'static str, fn(&T) -> Result<String>);

impl Book<'_> {
    /// Builds a topology and runs the chosen cases on it, in order; builds nothing when none is chosen.
    fn chapter<T>(&self, build: impl FnOnce() -> Result<T>, cases: &[Case<T>]) {
        let chosen: Vec<&Case<T>> = cases.iter().filter(|(name, _)| name.contains(self.only)).collect();
        if chosen.is_empty() {
            return;
        }
        let begun = Instant::now();
        match build() {
            Ok(topology) => chosen.into_iter().for_each(|(name, case)| {
                let begun = Instant::now();
                self.note(name, begun, case(&topology));
            }),
            Err(error) => {
                let text = format!("the topology could not be built: {error:#}");
                chosen.into_iter().for_each(|(name, _)| self.note(name, begun, Err(anyhow::anyhow!(text.clone()))));
            }
        }
    }

    fn note(&self, name: &str, begun: Instant, outcome: Result<String>) {
        let (pass, detail) = match outcome {
            Ok(detail) => (true, detail),
            Err(error) => (false, format!("{error:#}")),
        };
        let result = CaseResult { name: name.to_owned(), pass, detail, seconds: begun.elapsed().as_secs_f64() };
        (self.tell)(&result);
        self.results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
    }
}

/// What `ginnel --json` said when it refused.
#[derive(Debug)]
struct Refusal {
    exit: i32,
    code: String,
    message: String,
    hint: String,
}

impl Refusal {
    /// Holds a failed run against the rules: nothing on standard output, one complete error object on standard error.
    fn read(output: &Output) -> Result<Self> {
        let said = || format!("{}\nstdout {:?}\nstderr {:?}", output.status, output.stdout, output.stderr);
        let exit = output.status.code().with_context(said)?;
        ensure!(exit != 0, "it went through: {}", said());
        ensure!(output.stdout.is_empty(), "standard output is not empty: {}", said());
        let reply: Value = serde_json::from_str(&output.stderr)
            .with_context(|| format!("standard error is not one JSON object: {}", said()))?;
        let text = |key: &str| {
            let value = reply["error"][key].as_str().filter(|text| !text.is_empty());
            value.map(str::to_owned).with_context(|| format!("the error has no {key}: {}", said()))
        };
        ensure!(reply["error"]["exit"] == exit, "the object names another exit code: {}", said());
        Ok(Self { exit, code: text("code")?, message: text("message")?, hint: text("hint")? })
    }

    /// Insists on an exit code and on words that message and hint must hold between them.
    fn expect(self, exit: i32, words: &[&str]) -> Result<String> {
        let whole = format!("exit {} ({}): {} | {}", self.exit, self.code, self.message, self.hint);
        ensure!(self.exit == exit, "not exit {exit}, but {whole}");
        for word in words {
            ensure!(whole.contains(word), "it does not say {word:?}: {whole}");
        }
        Ok(whole)
    }
}

/// Runs `ginnel` on a machine, which must refuse.
fn refused(machine: &Machine, arguments: &[&str], exit: i32, words: &[&str]) -> Result<String> {
    let output = machine.run(arguments)?;
    let refusal = Refusal::read(&output).with_context(|| format!("ginnel {}", arguments.join(" ")))?;
    refusal.expect(exit, words).with_context(|| tail(&machine.log()))
}

/// Runs a program that must end by itself with `exit` and say `words` on standard error; answers its last line.
fn ends(host: &Host, argv: &[String], exit: i32, words: &[&str]) -> Result<String> {
    let output = host.run(argv, Duration::from_secs(8)).with_context(|| argv.join(" "))?;
    let said = format!("{}\n{}{}", output.status, output.stdout, output.stderr);
    ensure!(output.status.code() == Some(exit), "not exit {exit}: {said}");
    ensure!(!output.stderr.contains("panicked"), "it panicked: {said}");
    for word in words {
        ensure!(output.stderr.contains(word), "it does not say {word:?}: {said}");
    }
    let last = output.stderr.lines().last().unwrap_or_default();
    Ok(format!("exit {exit}: {last}"))
}

/// Starts a daemon by a command line of the case's own and waits until it is ready.
fn daemon(host: &Host, argv: &[String]) -> Result<Process> {
    let process = host.spawn("ginneld", argv, &[])?;
    process
        .wait_for_line(Duration::from_secs(8), |line| line.contains("ready"))
        .context("ginneld does not get ready")?;
    Ok(process)
}

/// The lines that a log has at WARN or ERROR.
fn alarms(log: &str) -> Vec<&str> {
    log.lines().filter(|line| [" WARN ", "ERROR "].iter().any(|level| line.contains(level))).collect()
}

/// Insists that a machine is in no network and that its state folder holds no log of one.
fn in_no_network(machine: &Machine) -> Result<()> {
    let status = machine.ginnel(&["status"])?;
    let networks = status["networks"].as_array().context("status lists no networks")?;
    if !networks.is_empty() {
        bail!("{} is half in a network: {status}", machine.host.name());
    }
    let folder = machine.host.files()?.join("state");
    for file in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let name = file?.file_name();
        ensure!(!name.to_string_lossy().starts_with("log-"), "{} is left in the state folder", name.display());
    }
    Ok(())
}

const AT_A_TIME: usize = 2;
