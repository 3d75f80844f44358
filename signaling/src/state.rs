//! The state folder: its lock and the server's keys.
//!
//! | file | content |
//! |---|---|
//! | `lock` | locked while a server runs on this folder |
//! | `server.key` | the keys, see below; mode 0600 |
//! | `signal.db` | logs and founding tokens, see [`crate::storage`]; mode 0600 |
//!
//! `server.key`:
//!
//! | bytes | content |
//! |---|---|
//! | 1 | version, 1 |
//! | 32 | Ed25519 secret that signs log entries |
//! | 32 | X25519 secret that clients know the public half of |
//! | 32 | secret of the relay's credentials |

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use ginnel_membership::SigningKey;
use zeroize::Zeroizing;

/// The state folder, held by this process alone.
pub(crate) struct StateDir {
    path: PathBuf,
    /// Held for its lock.
    _lock: File,
}

/// The server's secrets.
pub(crate) struct Keys {
    pub(crate) sequencer: SigningKey,
    pub(crate) noise: Zeroizing<[u8; 32]>,
    pub(crate) relay: Zeroizing<[u8; 32]>,
}

/// Whether another server runs on the folder.
pub(crate) enum Opened {
    Ours(StateDir),
    Busy,
}

impl StateDir {
    /// Makes the folder where it does not exist, and takes its lock.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Opened> {
        let shown = path.display();
        if !path.exists() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .with_context(|| format!("cannot make the state folder {shown}"))?;
        }
        let metadata = fs::metadata(path).with_context(|| format!("cannot read the state folder {shown}"))?;
        ensure!(metadata.is_dir(), "{shown} is not a folder");
        if metadata.mode() & 0o022 != 0 {
            bail!("others may write into the state folder {shown}; make it private: chmod 0700 {shown}");
        }
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .with_context(|| format!("cannot write into the state folder {shown}"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Opened::Ours(Self { path: path.to_owned(), _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(Opened::Busy),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {shown}")),
        }
    }

    /// Where the database is.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join(DATABASE_FILE)
    }

    /// Reads the server's keys, or makes them where there are none and there is nothing that would need older ones.
    pub(crate) fn keys(&self) -> anyhow::Result<Keys> {
        let path = self.path.join(KEY_FILE);
        match File::open(&path) {
            Ok(mut file) => {
                let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_FILE_LEN + 1));
                file.read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
                Keys::decode(&bytes).with_context(|| format!("{} cannot be used", path.display()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                ensure!(
                    !self.database().exists(),
                    "{} is missing, but there are logs that only its keys can go on with; restore it from a backup, or \
                     start afresh with an empty state folder",
                    path.display()
                );
                let keys = Keys::generate()?;
                self.write(&path, &keys.encode()).with_context(|| format!("cannot write {}", path.display()))?;
                Ok(keys)
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes a secret file so that after a crash it is either whole or not there.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(&self.path)?.sync_all()
    }
}

impl Keys {
    fn generate() -> anyhow::Result<Self> {
        let mut bytes = Zeroizing::new([0; KEY_FILE_LEN]);
        getrandom::fill(&mut *bytes).context("the system gives no randomness")?;
        bytes[0] = VERSION;
        Self::decode(&*bytes)
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_FILE_LEN));
        bytes.push(VERSION);
        for secret in [&self.sequencer.to_bytes(), &self.noise, &self.relay] {
            bytes.extend_from_slice(&**secret);
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> anyhow::Result<Self> {
        match bytes {
            [VERSION, rest @ ..] if bytes.len() == KEY_FILE_LEN => {
                let (secrets, _) = rest.as_chunks::<32>();
                let [sequencer, noise, relay] = secrets else { bail!("it is damaged") };
                Ok(Self {
                    sequencer: SigningKey::from_bytes(sequencer),
                    noise: Zeroizing::new(*noise),
                    relay: Zeroizing::new(*relay),
                })
            }
            [VERSION, ..] | [] => bail!("it is damaged: {} bytes where {KEY_FILE_LEN} are expected", bytes.len()),
            [version, ..] => bail!("it is of version {version}; this program reads version {VERSION}"),
        }
    }
}

const LOCK_FILE: &str = "lock";
const KEY_FILE: &str = "server.key";
pub(crate) const DATABASE_FILE: &str = "signal.db";
const VERSION: u8 = 1;
const KEY_FILE_LEN: usize = 1 + 3 * 32;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn open(path: &Path) -> StateDir {
        match StateDir::open(path).unwrap() {
            Opened::Ours(state) => state,
            Opened::Busy => panic!("busy"),
        }
    }

    #[test]
    fn folder_and_keys_are_private_and_lasting() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/state");
        let first = open(&path).keys().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join(KEY_FILE)), 0o600);
        let second = open(&path).keys().unwrap();
        assert_eq!(*first.encode(), *second.encode());
    }

    #[test]
    fn second_server_on_one_folder_is_noticed() {
        let parent = tempfile::tempdir().unwrap();
        let first = open(parent.path());
        assert!(matches!(StateDir::open(parent.path()).unwrap(), Opened::Busy));
        drop(first);
        assert!(matches!(StateDir::open(parent.path()).unwrap(), Opened::Ours(_)));
    }

    #[test]
    fn keys_are_not_made_anew_under_existing_logs() {
        let parent = tempfile::tempdir().unwrap();
        let state = open(parent.path());
        fs::write(state.database(), b"").unwrap();
        assert!(state.keys().is_err());
    }

    #[test]
    fn folder_that_others_may_write_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = StateDir::open(parent.path()).err().unwrap().to_string();
        assert!(error.contains("chmod 0700"), "{error}");
    }

    #[test]
    fn key_file_is_these_bytes() {
        let mut bytes = vec![1];
        bytes.extend([2; 32]);
        bytes.extend([3; 32]);
        bytes.extend([4; 32]);
        let keys = Keys::decode(&bytes).unwrap();
        assert_eq!(*keys.encode(), bytes);
        assert_eq!((*keys.sequencer.to_bytes(), *keys.noise, *keys.relay), ([2; 32], [3; 32], [4; 32]));
        for length in 0..bytes.len() {
            assert!(Keys::decode(&bytes[..length]).is_err());
        }
        bytes[0] = 2;
        assert!(Keys::decode(&bytes).err().unwrap().to_string().contains("version 2"));
    }
}
