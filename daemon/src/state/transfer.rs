//! A machine's whole state as one file: made on the machine that is given up, taken in on the one that replaces it.
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | version, 1 |
//! | 32 | BLAKE2s-256 over version and the rest |
//! | then for each file of the state folder: 1 | length of its name |
//! | that | name |
//! | 4 | length of its content, big-endian |
//! | that | content, as it stands in the folder |
//!
//! The file holds the machine's private keys. Two machines must not run with one state: they would replace each other at
//! the servers and at every peer.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use blake2::{Blake2s256, Digest as _};
use zeroize::Zeroizing;

use super::{StateError, StateFolder};

/// Whether an import may take the place of a state that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// It may.
    Yes,
    /// It may not.
    No,
}

/// Writes the whole state to a new file that its owner alone can read, and gives the count of files in it.
///
/// # Errors
/// When there is no state, the file exists, or something cannot be read or written.
pub fn export(folder: &mut StateFolder, file: &Path) -> Result<usize, StateError> {
    let mut body = Zeroizing::new(Vec::new());
    let names = folder.names()?;
    if !names.iter().any(|name| name == MAIN) {
        return Err(StateError::Unusable(format!("{} holds no state to export", folder.path("").display())));
    }
    for name in &names {
        let bytes = whole(folder, name)?;
        let too_long = || StateError::Unusable(format!("{name} is too long to be exported"));
        body.push(u8::try_from(name.len()).map_err(|_| too_long())?);
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(&u32::try_from(bytes.len()).map_err(|_| too_long())?.to_be_bytes());
        body.extend_from_slice(&bytes);
    }
    let io = |source| StateError::Io { action: "write", path: file.to_owned(), source };
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(io)?;
    let written = out
        .write_all(&[VERSION])
        .and_then(|()| out.write_all(&sum(&body)))
        .and_then(|()| out.write_all(&body))
        .and_then(|()| out.sync_all());
    if let Err(source) = written {
        // A part of it is of no use.
        let _ = std::fs::remove_file(file);
        return Err(io(source));
    }
    Ok(names.len())
}

/// Takes in what [`export`] has written, and gives the count of files. The state itself is written last: until then a
/// power cut leaves the folder as it was or without what the state needs, which is fetched again.
///
/// # Errors
/// When the file is not whole or of a newer version, when there is a state already and it may not be replaced, or when
/// something cannot be read or written.
pub fn import(folder: &mut StateFolder, file: &Path, replace: Replace) -> Result<usize, StateError> {
    let io = |source| StateError::Io { action: "read", path: file.to_owned(), source };
    let mut bytes = Zeroizing::new(Vec::new());
    let source = OpenOptions::new().read(true).open(file).map_err(io)?;
    source.take(LONGEST + 1).read_to_end(&mut bytes).map_err(io)?;
    let files = parse(file, &bytes)?;
    let held = folder.names()?;
    if !held.is_empty() && replace == Replace::No {
        let path = folder.path("");
        return Err(StateError::Unusable(format!(
            "{} holds the state of a machine already: give --replace to put the imported one in its place",
            path.display()
        )));
    }
    let (main, others): (Vec<_>, Vec<_>) = files.iter().partition(|(name, _)| *name == MAIN);
    files.iter().try_for_each(|(name, _)| folder.check(name))?;
    for (name, content) in others.iter().chain(&main) {
        folder.put_whole(name, content)?;
    }
    // What the state before had and this one has not; the generation before holds keys of another machine.
    for name in held.iter().filter(|name| !files.iter().any(|(kept, _)| kept == name)) {
        folder.remove(name)?;
    }
    Ok(files.len())
}

/// A file as it stands in the folder, checked; of a damaged one the generation before.
fn whole(folder: &mut StateFolder, name: &str) -> Result<Zeroizing<Vec<u8>>, StateError> {
    let bytes = if name.starts_with(LOG) {
        folder.read_journal(name)?;
        folder.disk.read(name, LONGEST).map_err(|source| folder.io("read", name, source))?
    } else {
        folder.read(name, u8::MAX)?.map(|(version, content)| super::file::framed(version, &content))
    };
    Ok(bytes.unwrap_or_default())
}

type File<'a> = (&'a str, &'a [u8]);

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Vec<File<'a>>, StateError> {
    let damaged = |how: &str| StateError::Damaged { path: path.to_owned(), how: how.to_owned() };
    let Some((&version, rest)) = bytes.split_first() else { return Err(damaged("it is empty")) };
    if version > VERSION {
        return Err(StateError::Newer { path: path.to_owned(), version, newest: VERSION });
    }
    let Some((checksum, mut body)) = rest.split_first_chunk::<32>() else { return Err(damaged("it is cut off")) };
    if version == 0 || *checksum != sum(body) {
        return Err(damaged("it is not an export of ginneld, or its checksum is wrong"));
    }
    let mut files = Vec::new();
    while !body.is_empty() {
        let (file, rest) = next(body).ok_or_else(|| damaged("it does not decode"))?;
        files.push(file);
        body = rest;
    }
    if !files.iter().any(|(name, _)| *name == MAIN) {
        return Err(damaged("it holds no state"));
    }
    Ok(files)
}

fn next(body: &[u8]) -> Option<(File<'_>, &[u8])> {
    let (&length, rest) = body.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(length))?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (content, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Some(((std::str::from_utf8(name).ok()?, content), rest))
}

fn sum(body: &[u8]) -> [u8; 32] {
    let mut hash = Blake2s256::new();
    hash.update([VERSION]);
    hash.update(body);
    hash.finalize().into()
}

impl StateFolder {
    /// Puts a whole file, its own frame included, in place of the one that is there, and forgets the generation before.
    fn put_whole(&mut self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let new = format!("{name}{}", super::NEW);
        let written: io::Result<()> = (|| {
            self.disk.put(&new, content)?;
            self.disk.rename(&new, name)?;
            self.disk.remove(&format!("{name}{}", super::PREVIOUS))?;
            self.disk.remove(&format!("{name}{}", super::DAMAGED))?;
            self.sync_names()
        })();
        self.ends.remove(name);
        self.damaged.remove(name);
        written.map_err(|source| self.io("write", name, source))
    }
}

const VERSION: u8 = 1;
const LONGEST: u64 = 1 << 30;
/// What the names of journals begin with.
const LOG: &str = "log-";
/// The file that makes a folder the state of a machine.
const MAIN: &str = crate::control::STATE;
