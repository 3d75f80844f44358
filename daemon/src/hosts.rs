//! Names of peers in the machine's hosts file: one marked block of ours, every other line left as it is.
//!
//! ```text
//! # BEGIN ginneld ginnel0 (changes in this block are lost)
//! 100.70.0.9 laptop.home.internal
//! fd5a:1:2:3::9 laptop.home.internal
//! # END ginneld ginnel0
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// A hosts file and our block in it, which is taken out when this is dropped.
#[derive(Debug)]
pub struct Hosts {
    path: PathBuf,
    begin: String,
    end: String,
    written: Option<String>,
}

impl Hosts {
    /// Names the file and the mark that tells this daemon's block from another's, as the name of its interface.
    pub fn new(path: impl Into<PathBuf>, mark: &str) -> Self {
        Self {
            path: path.into(),
            begin: format!("{BEGIN} {mark} (changes in this block are lost)"),
            end: format!("{END} {mark}"),
            written: None,
        }
    }

    /// Makes the block hold exactly `names`; without names there is no block. A name that is no host name is left out.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is longer than 16 MiB.
    pub fn set(&mut self, names: &[(String, Vec<IpAddr>)]) -> anyhow::Result<()> {
        let block = self.block(names);
        if self.written.as_ref() == Some(&block) {
            return Ok(());
        }
        let context = || format!("write the names of peers to {}", self.path.display());
        // A link, as NixOS has, stays a link: what it names is written.
        let path = fs::canonicalize(&self.path).with_context(context)?;
        let old = read(&path).with_context(context)?;
        let new = self.replace(&old, &block);
        if new != old {
            write(&path, new.as_bytes()).with_context(context)?;
        }
        self.written = Some(block);
        Ok(())
    }

    /// Takes the block out.
    ///
    /// # Errors
    /// As [`Hosts::set`].
    pub fn remove(&mut self) -> anyhow::Result<()> {
        self.set(&[])
    }

    fn block(&self, names: &[(String, Vec<IpAddr>)]) -> String {
        let lines: String = names
            .iter()
            .filter(|(name, _)| is_host_name(name))
            .flat_map(|(name, addresses)| addresses.iter().map(move |address| format!("{address} {name}\n")))
            .collect();
        if lines.is_empty() { String::new() } else { format!("{}\n{lines}{}\n", self.begin, self.end) }
    }

    /// `old` with our block, wherever it stands, replaced by `block`; a new block goes to the end.
    fn replace(&self, old: &str, block: &str) -> String {
        let mut new = String::with_capacity(old.len() + block.len());
        let mut place = None;
        let mut lines = old.split_inclusive('\n').peekable();
        while let Some(line) = lines.next() {
            if line.trim_end() != self.begin {
                new.push_str(line);
                continue;
            }
            place.get_or_insert(new.len());
            // A block that somebody cut short ends where lines stop looking like ours.
            while lines.next_if(|line| is_ours(line)).is_some() {}
            lines.next_if(|line| line.trim_end() == self.end);
        }
        match place {
            Some(place) => new.insert_str(place, block),
            None if block.is_empty() => {}
            None => {
                if !new.is_empty() && !new.ends_with('\n') {
                    new.push('\n');
                }
                new.push_str(block);
            }
        }
        new
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if self.written.as_ref().is_some_and(|block| !block.is_empty())
            && let Err(error) = self.remove()
        {
            tracing::warn!("names of peers stay behind: {error:#}");
        }
    }
}

/// An address and names of ours alone.
fn is_ours(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let address = words.next().is_some_and(|word| word.parse::<IpAddr>().is_ok());
    let names: Vec<&str> = words.collect();
    address && !names.is_empty() && names.iter().all(|name| name.ends_with(SUFFIX))
}

/// Letters, digits and hyphens in labels of 1 to 63, below `.internal`: nothing that could start another line or word.
fn is_host_name(name: &str) -> bool {
    name.len() <= 253
        && name.ends_with(SUFFIX)
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = Vec::new();
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LONGEST {
        bail!("the file is longer than {LONGEST} bytes");
    }
    String::from_utf8(text).context("the file is not UTF-8")
}

/// Replaces the file at once where that can be done; where it cannot, as on a file mounted into a container, in place.
fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    let replaced = replacement(path, &metadata, contents).and_then(|temporary| {
        fs::rename(&temporary, path).inspect_err(|_| {
            // The file in use is still whole; a leftover beside it does no harm.
            let _ = fs::remove_file(&temporary);
        })
    });
    match replaced {
        Ok(()) => Ok(()),
        Err(error) => {
            tracing::debug!("{} is written in place, as it cannot be replaced: {error}", path.display());
            let mut file = OpenOptions::new().write(true).open(path)?;
            file.write_all(contents)?;
            let end = file.stream_position()?;
            file.set_len(end)?;
            file.sync_all()
        }
    }
}

/// A file beside `path` with its owner and mode, and the new contents.
fn replacement(path: &Path, metadata: &fs::Metadata, contents: &[u8]) -> io::Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".ginneld-{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let fill = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(contents)?;
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (metadata.uid(), metadata.gid()) {
            std::os::unix::fs::fchown(&file, Some(metadata.uid()), Some(metadata.gid()))?;
        }
        file.set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
        file.sync_all()
    };
    match fill() {
        Ok(()) => Ok(temporary),
        Err(error) => {
            if error.kind() != io::ErrorKind::AlreadyExists {
                // What is half written is of no use; the file in use is untouched.
                let _ = fs::remove_file(&temporary);
            }
            Err(error)
        }
    }
}

const BEGIN: &str = "# BEGIN ginneld";
const END: &str = "# END ginneld";
const SUFFIX: &str = ".internal";
/// Blocking lists in hosts files reach some MiB.
const LONGEST: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const OTHERS: &str = "127.0.0.1 localhost\n# comment\n10.0.0.1\tprinter # keep";

    #[test]
    fn the_block_comes_changes_and_goes_and_other_lines_stay() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("hosts");
        fs::write(&path, OTHERS).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let mut hosts = Hosts::new(&path, "ginnel0");
        hosts.set(&names(&["laptop.home.internal"])).unwrap();
        let expected = format!(
            "{OTHERS}\n# BEGIN ginneld ginnel0 (changes in this block are lost)\n100.70.0.9 laptop.home.internal\n\
             fd00::9 laptop.home.internal\n# END ginneld ginnel0\n"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);

        // Lines that others add around the block stay where they are.
        fs::write(&path, format!("{expected}10.0.0.2 scanner\n")).unwrap();
        hosts.set(&names(&["nas.home.internal"])).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.ends_with(
                "100.70.0.9 nas.home.internal\nfd00::9 nas.home.internal\n# END ginneld ginnel0\n10.0.0.2 scanner\n"
            ),
            "{text}"
        );
        assert!(!text.contains("laptop"));
        drop(hosts);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{OTHERS}\n10.0.0.2 scanner\n"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside the file");
    }

    #[test]
    fn a_block_left_behind_or_cut_short_is_replaced_without_touching_others() {
        let hosts = Hosts::new("/nowhere", "ginnel0");
        let begin = "# BEGIN ginneld ginnel0 (changes in this block are lost)\n";
        let old = format!("a\n{begin}100.70.0.1 old.home.internal\n10.0.0.1 printer\nb\n");
        assert_eq!(hosts.replace(&old, ""), "a\n10.0.0.1 printer\nb\n");
        let other = format!("{}# END ginneld ginnel1\n", begin.replace("ginnel0", "ginnel1"));
        assert_eq!(hosts.replace(&other, ""), other);
    }

    #[test]
    fn a_name_cannot_smuggle_a_line_in() {
        let hosts = Hosts::new("/nowhere", "ginnel0");
        let evil = names(&["x.internal\n10.0.0.1 bank.example", "bank.example", "a b.internal", ".internal", ""]);
        assert_eq!(hosts.block(&evil), "");
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = TempDir::new().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("hosts"));
        fs::write(&target, "x\n").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let mut hosts = Hosts::new(&link, "ginnel0");
        hosts.set(&names(&["a.home.internal"])).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&target).unwrap().contains("a.home.internal"));
    }

    #[test]
    fn in_place_writing_leaves_no_tail_of_the_longer_old_contents() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("hosts");
        fs::write(&path, "old and long\n").unwrap();
        // A leftover under the temporary name keeps the replacement from being made.
        fs::write(folder.path().join(format!("hosts.ginneld-{}", std::process::id())), "").unwrap();
        write(&path, b"new\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
    }

    fn names(names: &[&str]) -> Vec<(String, Vec<IpAddr>)> {
        let addresses: Vec<IpAddr> = vec!["100.70.0.9".parse().unwrap(), "fd00::9".parse().unwrap()];
        names.iter().map(|name| ((*name).to_owned(), addresses.clone())).collect()
    }
}
