//! The operations on files that the state folder is made of, and the true ones.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::StateError;

/// One folder of a disk. Contents are durable when a call returns; names are so after [`Self::sync_folder`].
pub trait Disk: fmt::Debug + Send {
    /// Where `name` is, for messages; the folder itself for an empty name.
    fn path(&self, name: &str) -> PathBuf;

    /// The names in the folder.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    fn names(&self) -> io::Result<Vec<String>>;

    /// The content of a file; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is longer than `longest`.
    fn read(&self, name: &str, longest: u64) -> io::Result<Option<Zeroizing<Vec<u8>>>>;

    /// Makes or replaces a file, readable by its owner alone, and flushes its content.
    ///
    /// # Errors
    /// When that fails; the file then holds anything.
    fn put(&mut self, name: &str, content: &[u8]) -> io::Result<()>;

    /// Replaces what a file holds from `place` on, and flushes its content.
    ///
    /// # Errors
    /// When that fails, or the file does not reach to `place`; what is before that place stays.
    fn extend(&mut self, name: &str, place: u64, content: &[u8]) -> io::Result<()>;

    /// Gives a file another name, in place of the file that has it.
    ///
    /// # Errors
    /// When that fails; both names are then as before.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file, and tells whether there was one.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn remove(&mut self, name: &str) -> io::Result<bool>;

    /// Makes the folder's own entries durable.
    ///
    /// # Errors
    /// When that fails; each name may then be as before.
    fn sync_folder(&mut self) -> io::Result<()>;
}

/// A folder of the file system, locked by this process.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    lock: File,
}

impl Files {
    /// Opens the folder, making it where it is missing, and locks it.
    ///
    /// # Errors
    /// When it cannot be made or locked, or another process has it.
    pub fn open(folder: PathBuf) -> Result<Self, StateError> {
        let cannot = |source| StateError::Io { action: "use the state folder", path: folder.clone(), source };
        match DirBuilder::new().recursive(true).mode(0o700).create(&folder) {
            Err(_) if folder.is_dir() => {}
            made => made.map_err(cannot)?,
        }
        let mode = fs::metadata(&folder).map_err(cannot)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            tracing::warn!("{} was open to others (mode {mode:03o}) and is closed to them", folder.display());
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(cannot)?;
        }
        let lock = lock(&folder)?;
        Ok(Self { folder, lock })
    }

    /// Whether the folder at the path is still the one that was locked.
    fn is_ours(&self) -> io::Result<()> {
        let held = self.lock.metadata()?;
        match fs::symlink_metadata(self.folder.join(LOCK)) {
            Ok(found) if (found.dev(), found.ino()) == (held.dev(), held.ino()) => Ok(()),
            Ok(_) => Err(io::Error::other("the folder was replaced while the daemon ran")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(io::Error::new(error.kind(), "the folder was removed while the daemon ran"))
            }
            Err(error) => Err(error),
        }
    }
}

impl Disk for Files {
    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.folder.clone() } else { self.folder.join(name) }
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        fs::read_dir(&self.folder)?.map(name).collect()
    }

    fn read(&self, name: &str, longest: u64) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(self.path(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // Room for the whole file at once, so that no copy of a secret is left behind by growing.
        let length = file.metadata()?.len().min(longest);
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
        file.take(longest + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > longest {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is too long"));
        }
        Ok(Some(bytes))
    }

    fn put(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.is_ours()?;
        let mut file = private(OpenOptions::new().write(true).create(true).truncate(true), &self.path(name))?;
        file.write_all(content)?;
        file.sync_all()
    }

    fn extend(&mut self, name: &str, place: u64, content: &[u8]) -> io::Result<()> {
        self.is_ours()?;
        let mut file = private(OpenOptions::new().write(true), &self.path(name))?;
        if file.metadata()?.len() < place {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was"));
        }
        file.set_len(place)?;
        file.seek(SeekFrom::Start(place))?;
        if let Err(error) = file.write_all(content).and_then(|()| file.sync_all()) {
            // A reader drops what was half written; without it there is less to drop.
            let _ = file.set_len(place);
            return Err(error);
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.is_ours()?;
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<bool> {
        match fs::remove_file(self.path(name)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}

fn lock(folder: &Path) -> Result<File, StateError> {
    let path = folder.join(LOCK);
    let cannot = |source| StateError::Io { action: "lock", path: path.clone(), source };
    let mut file = private(OpenOptions::new().read(true).write(true).create(true).truncate(false), &path)
        .or_else(|error| {
            // On a read-only disk the lock of the last run serves.
            let is_read_only = error.kind() == io::ErrorKind::ReadOnlyFilesystem;
            if is_read_only { private(OpenOptions::new().read(true), &path) } else { Err(error) }
        })
        .map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Without the number the message is still true.
            let _ = file.take(32).read_to_string(&mut holder);
            let holder = holder.trim();
            let holder = if holder.is_empty() { String::new() } else { format!(" (process {holder})") };
            return Err(StateError::Busy { path: folder.to_owned(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(cannot(error)),
    }
    if let Err(error) = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())) {
        // A full or read-only disk: the lock holds all the same.
        tracing::debug!("the lock file does not name this process: {error}");
    }
    Ok(file)
}

fn private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path)
}

/// Name of the lock file.
pub(super) const LOCK: &str = "lock";
