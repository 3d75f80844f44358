//! A copy of the tracked files, which may be harmed, beside the tree that must not be.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cargo::root;

/// Where copies are built, so that they share what does not differ.
pub(crate) fn build_folder() -> PathBuf {
    root().join("target/history/build")
}

/// Makes `folder` hold each tracked file as `change` makes it, and nothing else. A file that is so already is not
/// touched, so that it is not built again.
pub(crate) fn tracked(folder: &Path, change: impl Fn(&Path, Vec<u8>) -> Vec<u8>) -> Result<()> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().context("run git")?;
    let names: BTreeSet<PathBuf> = listed
        .stdout
        .split(|byte| *byte == 0)
        .filter_map(|name| std::str::from_utf8(name).ok())
        .map(PathBuf::from)
        .collect();
    for name in names.iter().filter(|name| !name.as_os_str().is_empty()) {
        let Ok(content) = fs::read(root().join(name)) else { continue };
        write(&folder.join(name), &change(name, content))?;
    }
    remove_others(folder, folder, &names)
}

fn write(to: &Path, content: &[u8]) -> Result<()> {
    if fs::read(to).is_ok_and(|held| held == content) {
        return Ok(());
    }
    if let Some(above) = to.parent() {
        fs::create_dir_all(above).with_context(|| format!("make {}", above.display()))?;
    }
    fs::write(to, content).with_context(|| format!("write {}", to.display()))
}

fn remove_others(folder: &Path, top: &Path, names: &BTreeSet<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            remove_others(&path, top, names)?;
        } else if path.strip_prefix(top).is_ok_and(|name| !names.contains(name)) {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}
