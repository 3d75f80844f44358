//! Scratch directories of laboratories, named after their process so that the guardian can find them.

use std::path::PathBuf;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Makes a scratch directory that is removed with its handle, or by the guardian.
pub(crate) fn scratch() -> Result<TempDir> {
    tempfile::Builder::new().prefix(&name_prefix(std::process::id())).tempdir().context("make a scratch directory")
}

/// What the paths of all scratch directories of the process `pid` start with.
pub(crate) fn prefix_of_process(pid: u32) -> PathBuf {
    std::env::temp_dir().join(name_prefix(pid))
}

fn name_prefix(pid: u32) -> String {
    format!("ginnel-lab-{pid}-")
}
