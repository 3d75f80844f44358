//! Mistakes that others made, made again: each is put into a copy of the tree, and a test of ours must find it.
//!
//! The patches lie in `tests/fuzz/history`. Their rows are named after a list of what broke in programs like this one:
//! VPNs, relays and membership services, by their advisories and their histories.

mod rest;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::cargo::{root, say, tell};
use crate::duplicate;
use rest::{Cover, REST};
use rows::{ROWS, Row};

/// Puts every mistake, or those whose row or patch is named so, back in, one at a time.
pub(crate) fn run(only: Option<&str>) -> Result<ExitCode> {
    let named = |row: &&Row| only.is_none_or(|only| row.id == only || row.patch.contains(only));
    let chosen: Vec<&Row> = ROWS.iter().filter(named).collect();
    if chosen.is_empty() {
        bail!("no row has such a name");
    }
    let tree = Tree::new()?;
    tree.pass_unharmed(&chosen)?;
    let mut missed = 0;
    for row in &chosen {
        let verdict = tree.verdict(row)?;
        missed += usize::from(verdict != Verdict::Found);
        tell(&format!("{:<5} {:<9} {}\n      by {}: {}", row.id, verdict.word(), row.what, row.package, row.test));
    }
    tell(&format!("{} mistakes, {missed} not found", chosen.len()));
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the whole list: what broke elsewhere, and what finds it or keeps it out here.
pub(crate) fn list() -> ExitCode {
    let found = ROWS.iter().map(|row| (row.id, row.what, format!("by the test {} of {}", row.test, row.package)));
    let mut lines: Vec<_> = found.chain(REST.iter().map(|rest| (rest.id, rest.what, rest.cover.text()))).collect();
    lines.sort_by_key(|(id, _, _)| *id);
    for (id, what, cover) in &lines {
        tell(&format!("{id:<5} {what}\n      {cover}"));
    }
    ExitCode::SUCCESS
}

/// Whether every patch fits the tree as it is, and every test that covers a row exists.
pub(crate) fn patches_apply() -> Result<String, String> {
    let lacking = REST.iter().filter_map(|rest| {
        let Cover::Test(name) = rest.cover else { return None };
        let exists = git(&root(), &["grep", "--quiet", "--fixed-strings", &format!("fn {name}("), "--", "*.rs"]);
        let found = { exists }.status().is_ok_and(|status| status.success());
        (!found).then(|| format!("{}: no test is called {name}", rest.id))
    });
    let unfit = ROWS.iter().filter_map(|row| {
        let done = git(&root(), &["apply", "--check"]).arg(patch(row)).output().ok()?;
        (!done.status.success()).then(|| format!("{}: {}", row.patch, String::from_utf8_lossy(&done.stderr)))
    });
    let wrong: Vec<String> = unfit.chain(lacking).collect();
    if wrong.is_empty() { Ok(format!("{} patches", ROWS.len())) } else { Err(wrong.join("\n")) }
}

/// What came of one mistake.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The test failed.
    Found,
    /// The test passed.
    Missed,
    /// The compiler refused it, so it proves nothing.
    Unbuildable,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Missed => "MISSED",
            Self::Unbuildable => "NO BUILD",
        }
    }
}

/// A copy of the tracked files, which may be harmed.
struct Tree {
    folder: PathBuf,
    build: PathBuf,
}

impl Tree {
    fn new() -> Result<Self> {
        let folder = root().join("target/history/tree");
        duplicate::tracked(&folder, |_, content| content)?;
        Ok(Self { folder, build: duplicate::build_folder() })
    }

    /// Without a mistake every test of the rows must pass, else its failure would say nothing.
    fn pass_unharmed(&self, rows: &[&Row]) -> Result<()> {
        let mut by_package: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for row in rows {
            by_package.entry(row.package).or_default().insert(row.test);
        }
        for (package, tests) in by_package {
            say(&format!("{package}: {} tests as they are", tests.len()));
            let (success, output) = self.test(package, &tests)?;
            let ran = output.lines().filter(|line| line.starts_with("test ") && line.ends_with("... ok")).count();
            if !success || ran < tests.len() {
                bail!("{package}: of {} tests {ran} pass in an unharmed tree\n{output}", tests.len());
            }
        }
        Ok(())
    }

    fn verdict(&self, row: &Row) -> Result<Verdict> {
        self.apply(row, &[])?;
        let tested = self.test(row.package, &BTreeSet::from([row.test]));
        self.apply(row, &["--reverse"])?;
        let (success, output) = tested?;
        Ok(match (success, output.contains("test result: FAILED")) {
            (true, _) => Verdict::Missed,
            // A mistake that ends the whole process is found as well.
            (false, failed) if failed || output.contains("(signal: ") => Verdict::Found,
            (false, _) => {
                say(&output);
                Verdict::Unbuildable
            }
        })
    }

    fn apply(&self, row: &Row, arguments: &[&str]) -> Result<()> {
        let done = git(&self.folder, &["apply"]).args(arguments).arg(patch(row)).output().context("run git")?;
        if !done.status.success() {
            bail!("{}: {}", row.patch, String::from_utf8_lossy(&done.stderr));
        }
        Ok(())
    }

    fn test(&self, package: &str, tests: &BTreeSet<&str>) -> Result<(bool, String)> {
        let done = Command::new("cargo")
            .args(["test", "--profile", "ci", "--offline", "--no-fail-fast", "--package", package, "--"])
            .args(tests)
            .env("CARGO_TARGET_DIR", &self.build)
            .env("RUST_BACKTRACE", "0")
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .context("run cargo")?;
        let output = [String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr)].concat();
        Ok((done.status.success(), output))
    }
}

/// Git as a mere patch tool: the copy lies inside a repository and is none of it.
fn git(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    if let Some(above) = folder.parent() {
        command.env("GIT_CEILING_DIRECTORIES", above);
    }
    command
}

fn patch(row: &Row) -> PathBuf {
    root().join("tests/fuzz/history").join(row.patch)
}
