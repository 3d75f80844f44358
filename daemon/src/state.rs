//! The state folder: what must survive a restart, held by one daemon at a time.
//!
//! # Formats
//! A **file** is written whole: to a temporary file, flushed to the disk, then renamed over the old one.
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | version of the content, from 1 |
//! | 16 | checksum: the first 16 bytes of BLAKE2s-256 over the version byte and the content |
//! | rest | content |
//!
//! A **journal** grows at its end; each append is flushed to the disk before it returns.
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | version of the entries, from 1 |
//! | then for each entry: 4 | length of the entry, big-endian, at most 1 MiB |
//! | 16 | checksum: the first 16 bytes of BLAKE2s-256 over version byte, length and entry |
//! | length | entry |
//!
//! A journal's end that was cut off by a power failure is dropped when the journal is read; damage before the end is an
//! error.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use blake2::{Blake2s256, Digest as _};
use zeroize::Zeroizing;

/// An open state folder, which no other daemon can open until this is dropped.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    _lock: File,
}

impl StateFolder {
    /// Opens the folder, making it where it is missing, and locks it.
    ///
    /// # Errors
    /// When it cannot be made or written, or another daemon has it open, whose process id is named.
    pub fn open(path: impl Into<PathBuf>) -> anyhow::Result<Self> {
        let path = path.into();
        let context = || format!("cannot use the state folder {}", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&path).with_context(context)?;
        let mode = fs::metadata(&path).with_context(context)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            tracing::warn!("{} was open to others (mode {mode:03o}) and is closed to them", path.display());
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).with_context(context)?;
        }
        let lock = lock(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file `name` with the version of its content; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or is of a version above `newest`.
    pub fn read(&self, name: &str, newest: u8) -> anyhow::Result<Option<(u8, Zeroizing<Vec<u8>>)>> {
        let path = self.file(name)?;
        let Some(bytes) = read_whole(&path, LONGEST_FILE)? else { return Ok(None) };
        let Some((&version, rest)) = bytes.split_first() else { bail!(damaged(&path, "it is empty")) };
        check_version(&path, version, newest)?;
        let Some((sum, content)) = rest.split_first_chunk::<CHECKSUM>() else {
            bail!(damaged(&path, "it is cut off"));
        };
        if *sum != checksum(&[&[version], content]) {
            bail!(damaged(&path, "its checksum is wrong"));
        }
        Ok(Some((version, Zeroizing::new(content.to_vec()))))
    }

    /// Writes the file `name` so that after a power failure it holds either the old or the new content.
    ///
    /// # Errors
    /// When it cannot be written, as on a full disk; the old content stays.
    pub fn write(&self, name: &str, version: u8, content: &[u8]) -> anyhow::Result<()> {
        let path = self.file(name)?;
        let context = || format!("write {}", path.display());
        let temporary = path.with_extension("new");
        let mut bytes = Zeroizing::new(Vec::with_capacity(1 + CHECKSUM + content.len()));
        bytes.push(version);
        bytes.extend_from_slice(&checksum(&[&[version], content]));
        bytes.extend_from_slice(content);
        let mut file =
            private(OpenOptions::new().write(true).create(true).truncate(true), &temporary).with_context(context)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).with_context(context)?;
        fs::rename(&temporary, &path).with_context(context)?;
        self.sync().with_context(context)
    }

    /// Reads the entries of the journal `name`; `None` when there is none. An entry cut off at the end is dropped, also
    /// from the file.
    ///
    /// # Errors
    /// When it cannot be read, is damaged before its end, or is of a version above `newest`.
    pub fn read_journal(&self, name: &str, newest: u8) -> anyhow::Result<Option<(u8, Vec<Vec<u8>>)>> {
        let path = self.file(name)?;
        let Some(bytes) = read_whole(&path, LONGEST_JOURNAL)? else { return Ok(None) };
        let Some((&version, mut rest)) = bytes.split_first() else { return Ok(None) };
        check_version(&path, version, newest)?;
        let mut entries = Vec::new();
        while !rest.is_empty() {
            match next_entry(version, rest) {
                Parsed::Entry { entry, after } => {
                    entries.push(entry.to_vec());
                    rest = after;
                }
                Parsed::CutOff => break,
                Parsed::Damaged => bail!(damaged(&path, &format!("entry {} is wrong", entries.len()))),
            }
        }
        if !rest.is_empty() {
            tracing::warn!("{}: an entry that was being written at a power failure is dropped", path.display());
            let keep = u64::try_from(bytes.len() - rest.len()).expect("file lengths fit");
            let file = OpenOptions::new().write(true).open(&path);
            file.and_then(|file| file.set_len(keep).and_then(|()| file.sync_all()))
                .with_context(|| format!("cut the damaged end off {}", path.display()))?;
        }
        Ok(Some((version, entries)))
    }

    /// Appends entries to the journal `name`, which is made where it is missing, and flushes them to the disk.
    ///
    /// # Errors
    /// When they cannot be written, are too long, or the journal is of another version; the journal then ends as before.
    pub fn append<E: AsRef<[u8]>>(&self, name: &str, version: u8, entries: &[E]) -> anyhow::Result<()> {
        let path = self.file(name)?;
        let context = || format!("write {}", path.display());
        let mut file = private(OpenOptions::new().read(true).write(true).create(true).truncate(false), &path)
            .with_context(context)?;
        let mut held = [0; 1];
        let is_new = file.read(&mut held).with_context(context)? == 0;
        if !is_new && held != [version] {
            bail!(
                "{} is of version {}, and entries of version {version} cannot be added to it",
                path.display(),
                held[0]
            );
        }
        let mut bytes = if is_new { vec![version] } else { Vec::new() };
        for entry in entries {
            let entry = entry.as_ref();
            let Some(length) = u32::try_from(entry.len()).ok().filter(|length| *length <= LONGEST_ENTRY) else {
                bail!("an entry of {} bytes is too long for {}", entry.len(), path.display());
            };
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&checksum(&[&[version], &length.to_be_bytes(), entry]));
            bytes.extend_from_slice(entry);
        }
        let end = file.seek(SeekFrom::End(0)).with_context(context)?;
        if let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_data()) {
            // What was half written would hide later entries; where even this fails, reading drops it.
            let _ = file.set_len(end);
            return Err(error).with_context(context);
        }
        if is_new { self.sync().with_context(context) } else { Ok(()) }
    }

    /// Removes the file or journal `name`; none is fine.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.file(name)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            Ok(()) | Err(_) => self.sync().with_context(|| format!("remove {}", path.display())),
        }
    }

    fn file(&self, name: &str) -> anyhow::Result<PathBuf> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.starts_with('.') || name.ends_with(".new") || !name.bytes().all(plain) {
            bail!("{name:?} cannot name a file of the state folder");
        }
        Ok(self.path.join(name))
    }

    /// Makes the folder's own entries durable.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join("lock");
    let mut file = private(OpenOptions::new().read(true).write(true).create(true).truncate(false), &path)
        .with_context(|| format!("cannot write to the state folder {}", folder.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Without the number the message is still true.
            let _ = file.take(32).read_to_string(&mut holder);
            let holder = holder.trim();
            let process = if holder.is_empty() { String::new() } else { format!(" (process {holder})") };
            bail!(
                "another ginneld{process} uses the state folder {}: stop it, or give this one a folder of its own with --state",
                folder.display()
            );
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).context("write the lock file")?;
    Ok(file)
}

enum Parsed<'a> {
    Entry { entry: &'a [u8], after: &'a [u8] },
    CutOff,
    Damaged,
}

fn next_entry(version: u8, bytes: &[u8]) -> Parsed<'_> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Parsed::CutOff };
    let announced = u32::from_be_bytes(*length);
    if announced > LONGEST_ENTRY {
        return Parsed::Damaged;
    }
    let Some((sum, rest)) = rest.split_first_chunk::<CHECKSUM>() else { return Parsed::CutOff };
    let Some((entry, after)) = rest.split_at_checked(usize::try_from(announced).expect("a MiB fits")) else {
        return Parsed::CutOff;
    };
    if *sum == checksum(&[&[version], length, entry]) {
        Parsed::Entry { entry, after }
    } else if after.is_empty() {
        // The disk may have taken the length of the last write without its bytes.
        Parsed::CutOff
    } else {
        Parsed::Damaged
    }
}

fn private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn read_whole(path: &Path, longest: u64) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    // Room for the whole file at once, so that no copy of a secret is left behind by growing.
    let length = file.metadata().with_context(|| format!("read {}", path.display()))?.len().min(longest);
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    file.take(longest + 1).read_to_end(&mut bytes).with_context(|| format!("read {}", path.display()))?;
    if bytes.len() as u64 > longest {
        bail!(damaged(path, "it is too long"));
    }
    Ok(Some(bytes))
}

fn check_version(path: &Path, version: u8, newest: u8) -> anyhow::Result<()> {
    if version == 0 {
        bail!(damaged(path, "it has no version"));
    }
    if version > newest {
        bail!(
            "{} was written by a newer ginneld (version {version} of the file, this one knows {newest}): install that \
             version again, or start with another state folder",
            path.display()
        );
    }
    Ok(())
}

fn damaged(path: &Path, how: &str) -> String {
    format!("{} is damaged: {how}. Restore it from a backup, or remove it to start without it", path.display())
}

fn checksum(parts: &[&[u8]]) -> [u8; CHECKSUM] {
    let mut hash = Blake2s256::new();
    parts.iter().for_each(|part| hash.update(part));
    *hash.finalize().first_chunk().expect("BLAKE2s-256 gives 32 bytes")
}

const CHECKSUM: usize = 16;
const LONGEST_FILE: u64 = 64 << 20;
const LONGEST_JOURNAL: u64 = 1 << 30;
const LONGEST_ENTRY: u32 = 1 << 20;

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn content_survives_and_stays_private() {
        let (_folder, state) = open();
        assert!(state.read("identity", 1).unwrap().is_none());
        state.write("identity", 1, b"first").unwrap();
        state.write("identity", 2, b"second").unwrap();
        let (version, content) = state.read("identity", 2).unwrap().unwrap();
        assert_eq!((version, &content[..]), (2, &b"second"[..]));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(state.path()), mode(&state.path().join("identity"))), (0o700, 0o600));
        state.remove("identity").unwrap();
        state.remove("identity").unwrap();
        assert!(state.read("identity", 2).unwrap().is_none());
    }

    #[test]
    fn a_file_and_a_journal_are_written_as_the_tables_say() {
        let (_folder, state) = open();
        state.write("file", 1, b"abc").unwrap();
        state.append("journal", 1, &[b"abc"]).unwrap();
        let hex = |name: &str| data_encoding::HEXLOWER.encode(&fs::read(state.path().join(name)).unwrap());
        // Checked with Python's hashlib.blake2s.
        assert_eq!(hex("file"), FILE);
        assert_eq!(hex("journal"), JOURNAL);
    }

    #[test]
    fn a_second_daemon_is_told_who_has_the_folder() {
        let (folder, state) = open();
        let error = StateFolder::open(folder.path().join("state")).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())) && error.contains("--state"), "{error}");
        drop(state);
        StateFolder::open(folder.path().join("state")).unwrap();
    }

    #[test]
    fn damage_and_newer_versions_are_refused_with_the_remedy() {
        let (_folder, state) = open();
        state.write("file", 3, b"content").unwrap();
        let error = state.read("file", 2).unwrap_err().to_string();
        assert!(error.contains("newer ginneld") && error.contains("version 3"), "{error}");
        let path = state.path().join("file");
        let good = fs::read(&path).unwrap();
        for place in 1..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(state.read("file", 3).unwrap_err().to_string().contains("damaged"), "byte {place}");
            fs::write(&path, &good[..place]).unwrap();
            assert!(state.read("file", 3).is_err(), "cut at {place}");
        }
    }

    #[test]
    fn a_journal_grows_and_loses_only_an_end_that_was_cut_off() {
        let (_folder, state) = open();
        assert!(state.read_journal("log", 1).unwrap().is_none());
        state.append("log", 1, &[&b"one"[..], b""]).unwrap();
        state.append("log", 1, &[b"three"]).unwrap();
        let whole = fs::read(state.path().join("log")).unwrap();
        let all = vec![b"one".to_vec(), Vec::new(), b"three".to_vec()];
        assert_eq!(state.read_journal("log", 1).unwrap().unwrap(), (1, all.clone()));
        for cut in (whole.len() - 24)..whole.len() {
            fs::write(state.path().join("log"), &whole[..cut]).unwrap();
            assert_eq!(state.read_journal("log", 1).unwrap().unwrap().1, all[..2], "cut at {cut}");
            state.append("log", 1, &[b"three"]).unwrap();
            assert_eq!(state.read_journal("log", 1).unwrap().unwrap().1, all, "mended after {cut}");
        }
    }

    #[test]
    fn damage_inside_a_journal_is_an_error_and_another_version_is_not_mixed_in() {
        let (_folder, state) = open();
        state.append("log", 1, &[b"one", b"two"]).unwrap();
        let path = state.path().join("log");
        let mut bad = fs::read(&path).unwrap();
        bad[22] ^= 1;
        fs::write(&path, bad).unwrap();
        assert!(state.read_journal("log", 1).unwrap_err().to_string().contains("entry 0"));
        assert!(state.append("log", 2, &[b"x"]).is_err());
        assert!(state.read_journal("log", 0).unwrap_err().to_string().contains("newer"));
    }

    #[test]
    fn names_cannot_leave_the_folder() {
        let (_folder, state) = open();
        for name in ["", "..", "../x", "a/b", ".hidden", "a.new", "a b"] {
            assert!(state.write(name, 1, b"").is_err(), "{name}");
        }
    }

    fn open() -> (TempDir, StateFolder) {
        let folder = TempDir::new().unwrap();
        let state = StateFolder::open(folder.path().join("state")).unwrap();
        (folder, state)
    }

    const FILE: &str = "01d6ad87114d39c52d569fa48fcfcfdcf1616263";
    const JOURNAL: &str = "0100000003cd780d666241b0f8bd3850a9faaa829c616263";
}
