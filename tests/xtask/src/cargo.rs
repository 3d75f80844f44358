//! Running cargo and other programs from the workspace root.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// Folder of the workspace: of the one that cargo runs this from, which a checkout that was moved or shares its
/// build folder with another need not have been built in.
pub(crate) fn root() -> PathBuf {
    let built = || env!("CARGO_MANIFEST_DIR").into();
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(built));
    here.ancestors().nth(2).unwrap_or(&here).to_path_buf()
}

/// Prints a line for the person who watches.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints a line of the result.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// How a program ended and what it wrote.
pub(crate) struct Ran {
    pub(crate) success: bool,
    pub(crate) output: String,
}

/// Runs a program in the workspace root, showing what it writes as it comes and keeping it.
pub(crate) fn run_shown(program: &str, arguments: &[&str]) -> Result<Ran> {
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let pipe = child.stdout.take().context("take the pipe of a child")?;
    let mut output = String::new();
    for line in BufReader::new(pipe).lines() {
        let line = line.with_context(|| format!("read what {program} wrote"))?;
        tell(&line);
        output.push_str(&line);
        output.push('\n');
    }
    let success = child.wait().with_context(|| format!("wait for {program}"))?.success();
    Ok(Ran { success, output })
}

/// Runs a program in the workspace root and keeps what it writes, both streams.
pub(crate) fn run_kept(program: &str, arguments: &[&str]) -> Result<Ran> {
    let done = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {program}"))?;
    let mut output = String::from_utf8_lossy(&done.stdout).into_owned();
    output.push_str(&String::from_utf8_lossy(&done.stderr));
    Ok(Ran { success: done.status.success(), output })
}
