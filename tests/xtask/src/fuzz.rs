//! Fuzzing: builds the engine with coverage counters, runs every target for a while, and says what it did.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::cargo::{root, say, tell};

/// What is to be done.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many targets run at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Runs only the target of this name, or those whose names contain it.
    #[arg(long)]
    only: Option<String>,
    /// Runs the one target on one file.
    #[arg(long, requires = "only")]
    replay: Option<PathBuf>,
    /// Runs the one target on these bytes, in hexadecimal digits.
    #[arg(long, requires = "only", conflicts_with = "replay")]
    hex: Option<String>,
    /// What to do instead of running targets.
    #[arg(long = "do", value_enum)]
    instead: Option<Instead>,
}

/// What else there is to do.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Instead {
    /// Lists the targets.
    List,
    /// Puts into the corpora what leads furthest of all that was found.
    Minimise,
}

/// A target, as the engine lists it.
struct Target {
    name: String,
    longest: usize,
    covers: String,
}

/// Does it.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let engine = build()?;
    let chosen = choose(targets(&engine)?, arguments.only.as_deref())?;
    if arguments.instead == Some(Instead::List) {
        chosen.iter().for_each(|target| tell(&format!("{:<16} {}", target.name, target.covers)));
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(file) = given(arguments)? {
        let [target] = &chosen[..] else { bail!("several targets have such names; give a whole one, see --do list") };
        return replay(&engine, target, &file);
    }
    if arguments.instead == Some(Instead::Minimise) {
        chosen.iter().try_for_each(|target| minimise(&engine, target))?;
        return Ok(ExitCode::SUCCESS);
    }
    fuzz(&engine, &chosen, arguments)
}

/// A whole name means that target alone.
fn choose(all: Vec<Target>, only: Option<&str>) -> Result<Vec<Target>> {
    let Some(only) = only else { return Ok(all) };
    let exact = all.iter().any(|target| target.name == only);
    let named = |target: &Target| if exact { target.name == only } else { target.name.contains(only) };
    let chosen: Vec<Target> = all.into_iter().filter(named).collect();
    if chosen.is_empty() {
        bail!("no target has such a name; see --do list");
    }
    Ok(chosen)
}

/// The file to replay, made of the digits where those were given.
fn given(arguments: &Arguments) -> Result<Option<PathBuf>> {
    if let Some(file) = &arguments.replay {
        return file.canonicalize().with_context(|| format!("find {}", file.display())).map(Some);
    }
    let Some(hex) = &arguments.hex else { return Ok(None) };
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let byte = |pair: &[u8]| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?);
    let bytes: Option<Vec<u8>> = hex.as_bytes().chunks(2).map(byte).collect();
    let file = work().join("given");
    fs::write(&file, bytes.context("--hex wants pairs of hexadecimal digits")?).context("write the input")?;
    Ok(Some(file))
}

fn replay(engine: &Path, target: &Target, file: &Path) -> Result<ExitCode> {
    let done = command(engine, target).arg(file).env("RUST_BACKTRACE", "1").status().context("run the engine")?;
    tell(if done.success() { "no promise was broken" } else { "a promise was broken" });
    Ok(if done.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asks the engine for its targets, whose seeds it puts beside what was found before.
fn targets(engine: &Path) -> Result<Vec<Target>> {
    let listed =
        Command::new(engine).env("GINNEL_FUZZ_LIST", work().join("found")).output().context("run the engine")?;
    if !listed.status.success() {
        bail!("the engine does not list its targets: {}", String::from_utf8_lossy(&listed.stderr));
    }
    let target = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        Some(Target { name: fields.next()?, longest: fields.next()?.parse().ok()?, covers: fields.next()? })
    };
    let list = String::from_utf8_lossy(&listed.stdout).lines().map(target).collect::<Option<Vec<_>>>();
    list.context("the engine's list is not understood")
}

/// Builds the engine on the stable compiler; its counters come from a pass that every rustc has.
fn build() -> Result<PathBuf> {
    say("building the engine");
    let engine = root().join("tests/fuzz/engine");
    let folder = work().join("build");
    let done = Command::new("cargo")
        .args(["build", "--quiet", "--release", "--locked", "--target", TRIPLE, "--manifest-path"])
        .arg(engine.join("Cargo.toml"))
        .env("RUSTC_WRAPPER", engine.join("instrument.sh"))
        .env("CARGO_TARGET_DIR", &folder)
        .stdin(Stdio::null())
        .status()
        .context("run cargo")?;
    if !done.success() {
        bail!("the engine does not build");
    }
    Ok(folder.join(TRIPLE).join("release/ginnel-fuzz-engine"))
}

/// How one target did.
struct Outcome {
    target: String,
    executions: u64,
    per_second: u64,
    inputs: usize,
    crashes: Vec<PathBuf>,
    /// What the engine said last, where it ended in another way than by running out of time.
    last_words: Option<String>,
}

fn fuzz(engine: &Path, chosen: &[Target], arguments: &Arguments) -> Result<ExitCode> {
    let waiting = Mutex::new(chosen.iter().enumerate().collect::<VecDeque<_>>());
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..arguments.jobs.clamp(1, 64) {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((place, target)) = next else { return };
                    say(&format!("{}: {} s", target.name, arguments.seconds));
                    let outcome = one(engine, target, arguments.seconds);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((place, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(place, _)| *place);
    tell(&format!("{:<16} {:>12} {:>10} {:>7} {:>8}", "target", "executions", "per second", "inputs", "crashes"));
    let (mut executions, mut failed) = (0, Vec::new());
    for (_, outcome) in outcomes {
        let outcome = outcome?;
        executions += outcome.executions;
        tell(&format!(
            "{:<16} {:>12} {:>10} {:>7} {:>8}",
            outcome.target,
            outcome.executions,
            outcome.per_second,
            outcome.inputs,
            outcome.crashes.len()
        ));
        let replays = outcome.crashes.iter().map(|crash| {
            format!("replay with: cargo xtask fuzz --only {} --replay {}", outcome.target, crash.display())
        });
        failed.extend(replays);
        failed.extend(outcome.last_words.map(|words| format!("{}: the engine ended early: {words}", outcome.target)));
    }
    failed.iter().for_each(|line| tell(line));
    tell(&format!("{} targets, {executions} executions, {} crashes", chosen.len(), failed.len()));
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn one(engine: &Path, target: &Target, seconds: u64) -> Result<Outcome> {
    let (found, crashes) = (folder("found", target)?, folder("crashes", target)?);
    let before = files(&crashes)?;
    let done = command(engine, target)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={}", target.longest))
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", "-use_value_profile=1"])
        .args([found.as_path(), corpus(target).as_path()])
        .output()
        .context("run the engine")?;
    let words = String::from_utf8_lossy(&done.stderr);
    let number = |name: &str| {
        let line = words.lines().rev().find_map(|line| line.trim().strip_prefix(name));
        line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
    };
    let new: Vec<PathBuf> = files(&crashes)?.into_iter().filter(|file| !before.contains(file)).collect();
    let last = words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing was said");
    Ok(Outcome {
        target: target.name.clone(),
        executions: number("stat::number_of_executed_units:"),
        per_second: number("stat::average_exec_per_sec:"),
        inputs: files(&found)?.len(),
        last_words: (!done.status.success() && new.is_empty()).then(|| last.to_owned()),
        crashes: new,
    })
}

/// Keeps the smallest set of inputs that reaches all that was reached, within the bounds of a corpus.
fn minimise(engine: &Path, target: &Target) -> Result<()> {
    let (found, kept, committed) = (folder("found", target)?, folder("kept", target)?, corpus(target));
    for file in files(&kept)? {
        fs::remove_file(file).context("empty a folder")?;
    }
    fs::create_dir_all(&committed).context("make the corpus")?;
    let merged = command(engine, target)
        .args(["-merge=1".to_owned(), format!("-max_len={}", target.longest)])
        .args([kept.as_path(), committed.as_path(), found.as_path()])
        .output()
        .context("run the engine")?;
    if !merged.status.success() {
        bail!("{}: {}", target.name, String::from_utf8_lossy(&merged.stderr));
    }
    let measured = files(&kept)?.into_iter().map(|file| Ok((fs::metadata(&file)?.len(), file)));
    let mut inputs = measured.collect::<std::io::Result<Vec<_>>>().context("look at an input")?;
    inputs.sort();
    // Short and long ones alike: the long ones lead deep.
    let mut chosen: Vec<_> = inputs.iter().rev().step_by(inputs.len().div_ceil(MOST_INPUTS).max(1)).collect();
    while chosen.iter().map(|(length, _)| length).sum::<u64>() > MOST_BYTES {
        chosen.remove(0);
    }
    for file in files(&committed)?.into_iter().filter(|file| !is_finding(file)) {
        fs::remove_file(file).context("empty the corpus")?;
    }
    for (_, file) in &chosen {
        fs::copy(file, committed.join(file.file_name().unwrap_or_default())).context("fill the corpus")?;
    }
    tell(&format!("{:<16} {:>4} inputs", target.name, chosen.len()));
    Ok(())
}

/// The committed inputs of a target.
fn corpus(target: &Target) -> PathBuf {
    root().join("tests/fuzz/corpus").join(&target.name)
}

/// Inputs that once broke a promise stay, whatever they reach.
fn is_finding(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("finding-"))
}

fn command(engine: &Path, target: &Target) -> Command {
    let mut command = Command::new(engine);
    command.env("GINNEL_FUZZ_TARGET", &target.name).current_dir(work()).stdin(Stdio::null());
    command
}

fn work() -> PathBuf {
    root().join("target/fuzz")
}

fn folder(kind: &str, target: &Target) -> Result<PathBuf> {
    let folder = work().join(kind).join(&target.name);
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect())
}

/// Bounds of one target's corpus.
const MOST_INPUTS: usize = 80;
const MOST_BYTES: u64 = 56 << 10;
#[cfg(target_arch = "aarch64")]
const TRIPLE: &str = "aarch64-unknown-linux-gnu";
#[cfg(not(target_arch = "aarch64"))]
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
