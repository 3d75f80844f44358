//! Scratch directories of laboratories, named after their process so that the guardian can find them.

use std::path::PathBuf;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Makes a scratch directory that is removed with its handle, or by the guardian; one that [`crate::KEEP_VARIABLE`] asks
/// for elsewhere stays.
pub(crate) fn scratch() -> Result<TempDir> {
    let name = name_prefix(std::process::id());
    let mut builder = tempfile::Builder::new();
    builder.prefix(&name);
    match std::env::var_os(crate::KEEP_VARIABLE) {
        Some(directory) => builder.disable_cleanup(true).tempdir_in(directory),
        None => builder.tempdir(),
    }
    .context("make a scratch directory")
}

/// What the paths of all scratch directories of the process `pid` start with.
pub(crate) fn prefix_of_process(pid: u32) -> PathBuf {
    std::env::temp_dir().join(name_prefix(pid))
}

fn name_prefix(pid: u32) -> String {
    format!("ginnel-lab-{pid}-")
}
