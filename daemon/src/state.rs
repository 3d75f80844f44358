//! The state folder: what must survive a restart, a power cut and a bad disk, held by one daemon at a time.
//!
//! | part | what it owns |
//! |---|---|
//! | [`Disk`] | the few operations on files that everything else is made of |
//! | [`StateFolder`] | files with a generation before them, and journals |
//! | [`Keeper`] | what could not be written yet, and when it is tried again |
//! | [`transfer`] | a whole folder as one file, for moving a machine |
//! | [`power`] | a disk that loses power at any byte, to prove the rest |
//!
//! # Files
//! A **file** is written whole: as `NAME.new`, flushed to the disk; then the file before it becomes `NAME.previous`, and
//! the new one takes its name. So at every moment one of the two is whole, and the newer one is taken. Where the newest
//! is damaged, the one before it is used, and the daemon says so in its log and in `status`; the damaged one stays as
//! `NAME.damaged`.
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | version of the content, from 1 |
//! | 16 | checksum: the first 16 bytes of BLAKE2s-256 over the version byte and the content |
//! | rest | content |
//!
//! An older generation of the node's state brings back an older *reserve*, the handshake time that no sent message has
//! passed. By the machine's clock the next handshakes are later all the same. Where the clock is wrong too, peers ignore
//! handshakes until its time has passed the highest that they remember. They remember it while they run: a peer that was
//! started anew takes a captured handshake once more. It gains nothing by that, since the session's keys need the private
//! key that the capturer lacks; it costs the peer a session that nobody confirms, and up to 2 s in which it begins no
//! handshake of its own with that machine.
//!
//! # Journals
//! A **journal** grows by whole batches; each is flushed to the disk before it counts. It can be begun anew with a
//! snapshot that stands for everything before it.
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | version, 2 |
//! | then for each batch: 4 | length of the payload, big-endian, at most 256 MiB |
//! | 16 | checksum: the first 16 bytes of BLAKE2s-256 over version byte, place of the batch in the file (8, big-endian), length and payload |
//! | length | payload: 0 and for each entry its length (4, big-endian) and the entry; or, in the first batch alone, 1 and a snapshot and the entry that vouches for it, each after its length |
//!
//! Version 1 knew no batches: after the version byte came for each entry its length (4), the first 16 bytes of BLAKE2s-256
//! over version byte, length and entry, and the entry. It is read, and written anew as version 2 with the next batch.
//!
//! A batch that was being written when the power failed is dropped: it is the last one, so nothing whole follows it. A
//! batch that is wrong while another follows is damage, and an error: what is missing might be a revocation.
//!
//! # What is refused
//! A file or journal of a version that this program does not know is left as it is. Later versions keep the version in
//! the first byte.

mod disk;
mod file;
mod journal;
mod keeper;
pub mod power;
pub mod transfer;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use blake2::{Blake2s256, Digest as _};

pub use disk::{Disk, Files};
pub use file::Content;
pub use journal::Journal;
pub use keeper::{Keeper, Trouble};

/// An open state folder, which no other daemon can open until this is dropped.
#[derive(Debug)]
pub struct StateFolder {
    disk: Box<dyn Disk>,
    /// Files whose newest generation is damaged and must not become the previous one.
    damaged: BTreeSet<String>,
    /// Journals as they were read or written last.
    ends: BTreeMap<String, journal::End>,
    /// Whether a name may not be durable yet, by the hand of this process or of one that was killed.
    is_unsynced: bool,
    warnings: Vec<String>,
}

/// The state folder, or something in it, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Written by a later version of this program.
    #[error(
        "{path} was written by a newer ginneld (version {version} of the file, this one knows {newest}): install that \
         version again, or start with another state folder"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u8,
        /// The highest version that this program knows.
        newest: u8,
    },
    /// Not as it was written.
    #[error("{path} is damaged: {how}. Restore it from a backup, or remove it to start without it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        how: String,
    },
    /// In use by another process.
    #[error(
        "another ginneld{holder} uses the state folder {path}: stop it, or give this one a folder of its own with --state"
    )]
    Busy {
        /// The folder.
        path: PathBuf,
        /// The process, in words; empty where it is not known.
        holder: String,
    },
    /// The system refuses.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Unusable(String),
}

impl StateFolder {
    /// Opens the folder, making it where it is missing, and locks it. A folder on a read-only disk can be opened when a
    /// daemon has used it before.
    ///
    /// # Errors
    /// When it cannot be made or locked, or another daemon has it open, whose process id is named.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        Ok(Self::on(Box::new(Files::open(path.into())?)))
    }

    /// A state folder on a disk that is held already.
    pub fn on(disk: Box<dyn Disk>) -> Self {
        Self { disk, damaged: BTreeSet::new(), ends: BTreeMap::new(), is_unsynced: true, warnings: Vec::new() }
    }

    /// Where `name` is, for messages and for the tools of an operator.
    pub fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }

    /// What a user should know of what was read so far, in whole sentences.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Names of the files and journals, without generations before the newest and without what is left of writing.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn names(&self) -> Result<Vec<String>, StateError> {
        let names = self.disk.names().map_err(|source| self.io("list", "", source))?;
        let plain = |name: &String| name != disk::LOCK && is_plain(name);
        // A power cut may leave nothing of a file but the generation before it.
        let newest = names.iter().map(|name| name.strip_suffix(PREVIOUS).unwrap_or(name).to_owned());
        Ok(newest.filter(plain).collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// Finds out whether `length` bytes can be written and flushed at this moment.
    ///
    /// # Errors
    /// When they cannot.
    pub fn probe(&mut self, length: usize) -> Result<(), StateError> {
        let name = format!("probe{NEW}");
        let written = self.disk.put(&name, &vec![0x55; length]);
        let removed = self.disk.remove(&name);
        written.and(removed).map(|_| ()).map_err(|source| self.io("write in", "", source))
    }

    /// Removes the file or journal `name` with every generation; none is fine.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&mut self, name: &str) -> Result<(), StateError> {
        self.check(name)?;
        // The newest goes last: until then it is what is read.
        for suffix in [NEW, DAMAGED, PREVIOUS, ""] {
            self.disk.remove(&format!("{name}{suffix}")).map_err(|source| self.io("remove", name, source))?;
        }
        self.sync_names().map_err(|source| self.io("remove", name, source))?;
        self.damaged.remove(name);
        self.ends.remove(name);
        Ok(())
    }

    fn check(&self, name: &str) -> Result<(), StateError> {
        if is_plain(name) && name != disk::LOCK {
            return Ok(());
        }
        Err(StateError::Unusable(format!("{name:?} cannot name a file of the state folder")))
    }

    /// Makes every name durable.
    fn sync_names(&mut self) -> io::Result<()> {
        self.is_unsynced = true;
        self.disk.sync_folder()?;
        self.is_unsynced = false;
        Ok(())
    }

    fn warn(&mut self, warning: String) {
        tracing::warn!("{warning}");
        self.warnings.push(warning);
    }

    fn io(&self, action: &'static str, name: &str, source: io::Error) -> StateError {
        StateError::Io { action, path: self.disk.path(name), source }
    }

    fn damage(&self, name: &str, how: &str) -> StateError {
        StateError::Damaged { path: self.disk.path(name), how: how.to_owned() }
    }
}

fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let taken = [NEW, PREVIOUS, DAMAGED].iter().any(|suffix| name.ends_with(suffix));
    !name.is_empty() && !name.starts_with('.') && !taken && name.bytes().all(plain)
}

fn checksum(parts: &[&[u8]]) -> [u8; CHECKSUM] {
    let mut hash = Blake2s256::new();
    parts.iter().for_each(|part| hash.update(part));
    *hash.finalize().first_chunk().expect("BLAKE2s-256 gives 32 bytes")
}

const CHECKSUM: usize = 16;
const NEW: &str = ".new";
const PREVIOUS: &str = ".previous";
const DAMAGED: &str = ".damaged";

#[cfg(test)]
mod tests;
