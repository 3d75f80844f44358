//! Rollback detection: the ends of the logs, remembered in memory, tell a server that was merely killed from one whose disk
//! was set back.
//!
//! A file in a folder that no disk holds, so that no backup, snapshot or copy of a disk brings it back with the logs. It is
//! named after the server's key, not after its state folder: a copy of that folder elsewhere is the same server. It is
//! replaced as a whole, by rename, before anything that follows from a new entry leaves the server.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | version, 1 |
//! | 36 | the kernel's boot id, as it says it |
//! | 8 | when a server last kept the file, in nanoseconds of the boot clock, big-endian |
//! | 72 each | network (32), length of its log (8, big-endian), hash of its last entry (32) |
//!
//! A file is believed for [`GOOD_FOR`] after a server last kept it, and only in the boot in which it was written. A server
//! keeps it by the entries that it orders, and once it has run for [`STEADY`]; not by starting: one that fails or dies
//! again and again, and orders nothing in between, lets it grow old. Later the logs may have been taken elsewhere, gone on
//! there and come back; what the server does then is what it does without such a file: it waits for others to say that they
//! have no more.
//!
//! A virtual machine that is set back with its memory is set back with this file. But then the running server is, too, and
//! goes on from there; nothing that it could do protects from that.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ginnel_membership::{NetworkId, SequencerKey};
use ginnel_signal_proto::Head;
use ginnel_time::Instant;

use crate::sys;

/// The file, where there is a place for it.
pub(crate) struct Witness {
    place: Option<Place>,
    heads: BTreeMap<NetworkId, Head>,
    /// From when on a server that orders nothing keeps what another one before it left.
    steady: Instant,
}

struct Place {
    path: PathBuf,
    boot: [u8; BOOT_ID_LEN],
}

impl Witness {
    /// Finds the place, and reads what the server before this one left there.
    pub(crate) fn open(key: &SequencerKey, now: Instant) -> Self {
        let found = folder().and_then(|folder| Some((folder, boot_id()?)));
        let Some((folder, boot)) = found else {
            tracing::info!(
                "no folder in memory ($RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR, /dev/shm): a restart pauses appends for some seconds"
            );
            return Self { place: None, heads: BTreeMap::new(), steady: now };
        };
        Self::open_in(&folder, boot, key, now)
    }

    fn open_in(folder: &Path, boot: [u8; BOOT_ID_LEN], key: &SequencerKey, now: Instant) -> Self {
        let mut name = String::from("witness-");
        for byte in key.to_bytes() {
            // A string takes everything.
            let _ = write!(name, "{byte:02x}");
        }
        let path = folder.join(name);
        let believed = fs::read(&path).ok().and_then(|bytes| decode(&bytes, &boot, now));
        let heads = believed.unwrap_or_default();
        let mut witness = Self { place: Some(Place { path, boot }), heads, steady: now + STEADY };
        // What is not believed must not be believed later, either. What is believed stays as it is: it is kept by a server
        // that runs, and not by one that tries to.
        if witness.heads.is_empty() {
            witness.write(now);
        }
        witness
    }

    /// What is remembered.
    pub(crate) fn heads(&self) -> BTreeMap<NetworkId, Head> {
        self.heads.clone()
    }

    /// Remembers the end of a log, or forgets it.
    pub(crate) fn note(&mut self, network: NetworkId, head: Option<Head>, now: Instant) {
        match head {
            Some(head) => self.heads.insert(network, head),
            None => self.heads.remove(&network),
        };
        self.write(now);
    }

    /// Says that the server still runs.
    pub(crate) fn keep(&mut self, now: Instant) {
        if now >= self.steady {
            self.write(now);
        }
    }

    fn write(&mut self, now: Instant) {
        let Some(Place { path, boot }) = &self.place else { return };
        let result = match self.heads.is_empty() {
            true => remove(path),
            false => replace(path, &encode(boot, now, &self.heads)),
        };
        if let Err(error) = result {
            tracing::warn!(%error, path = %path.display(), "cannot remember how far the logs go: a restart will pause appends for some seconds");
            // Something older must not be taken for the newest.
            if remove(path).is_err() {
                tracing::error!(path = %path.display(), "cannot remove what is out of date; remove it before the next start");
            }
            self.place = None;
        }
    }
}

fn encode(boot: &[u8; BOOT_ID_LEN], now: Instant, heads: &BTreeMap<NetworkId, Head>) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(boot);
    bytes.extend_from_slice(&now.as_nanos().to_be_bytes());
    for (network, head) in heads {
        bytes.extend_from_slice(network.as_bytes());
        bytes.extend_from_slice(&head.length.to_be_bytes());
        bytes.extend_from_slice(&head.hash);
    }
    bytes
}

/// What a file says; `None` where it is not to be believed.
fn decode(bytes: &[u8], boot: &[u8; BOOT_ID_LEN], now: Instant) -> Option<BTreeMap<NetworkId, Head>> {
    let (&[VERSION], bytes) = bytes.split_first_chunk()? else { return None };
    let (written_in, bytes) = bytes.split_first_chunk::<BOOT_ID_LEN>()?;
    let (kept, bytes) = bytes.split_first_chunk()?;
    let kept = Instant::from_nanos(u64::from_be_bytes(*kept));
    if written_in != boot || kept > now || now.saturating_duration_since(kept) > GOOD_FOR {
        return None;
    }
    let (records, rest) = bytes.as_chunks::<RECORD_LEN>();
    let head = |record: &[u8; RECORD_LEN]| {
        let (network, record) = record.split_first_chunk()?;
        let (length, hash) = record.split_first_chunk()?;
        let head = Head { length: u64::from_be_bytes(*length), hash: hash.try_into().ok()? };
        Some((NetworkId::from_bytes(*network), head))
    };
    rest.is_empty().then(|| records.iter().map(head).collect())?
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?.write_all(bytes)?;
    fs::rename(&temporary, path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// A folder in memory that nobody else writes into: the one that the service manager gives, the system's, the user's, or one
/// beside other programs' shared memory.
fn folder() -> Option<PathBuf> {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let given = of("RUNTIME_DIRECTORY");
    let systems = sys::is_root().then(|| PathBuf::from("/run/ginnel-signal"));
    let users = of("XDG_RUNTIME_DIR").map(|folder| folder.join("ginnel-signal"));
    let shared = Some(PathBuf::from(format!("/dev/shm/ginnel-signal-{}", sys::user())));
    [given, systems, users, shared].into_iter().flatten().find(|folder| {
        if folder.parent().is_some_and(sys::is_in_memory) {
            // Whether it was there or could not be made shows next.
            let _ = DirBuilder::new().mode(0o700).create(folder);
        }
        sys::is_private_memory(folder)
    })
}

fn boot_id() -> Option<[u8; BOOT_ID_LEN]> {
    let text = fs::read("/proc/sys/kernel/random/boot_id").ok()?;
    text.trim_ascii().try_into().ok()
}

/// For how long a file is believed: longer than any service manager takes to start a server that died, and too short for
/// the logs to go on elsewhere and to be brought back.
const GOOD_FOR: Duration = Duration::from_secs(30);
/// After this a server that orders nothing keeps the file: as long as it would pause without one. One that dies sooner has
/// had no use of it.
const STEADY: Duration = Duration::from_secs(10);
const VERSION: u8 = 1;
const BOOT_ID_LEN: usize = 36;
const RECORD_LEN: usize = 72;

#[cfg(test)]
mod tests {
    use ginnel_membership::SigningKey;

    use super::*;

    const BOOT: [u8; BOOT_ID_LEN] = *b"01234567-89ab-cdef-0123-456789abcdef";
    const NOW: Instant = Instant::from_nanos(1_000_000_000_000);

    fn key() -> SequencerKey {
        SigningKey::from_bytes(&[1; 32]).sequencer_key()
    }

    fn head(length: u64) -> Head {
        Head { length, hash: [9; 32] }
    }

    fn open(folder: &Path, boot: [u8; BOOT_ID_LEN], now: Instant) -> BTreeMap<NetworkId, Head> {
        Witness::open_in(folder, boot, &key(), now).heads()
    }

    fn written(folder: &Path) -> BTreeMap<NetworkId, Head> {
        let mut witness = Witness::open_in(folder, BOOT, &key(), NOW);
        assert!(witness.heads().is_empty());
        witness.note(NetworkId::from_bytes([2; 32]), Some(head(7)), NOW);
        witness.note(NetworkId::from_bytes([3; 32]), Some(head(8)), NOW);
        witness.note(NetworkId::from_bytes([4; 32]), Some(head(9)), NOW);
        witness.note(NetworkId::from_bytes([2; 32]), Some(head(10)), NOW);
        witness.note(NetworkId::from_bytes([3; 32]), None, NOW);
        witness.heads()
    }

    #[test]
    fn the_next_server_in_the_same_boot_reads_what_the_one_before_it_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let heads = written(folder.path());
        assert_eq!(heads.values().map(|head| head.length).collect::<Vec<_>>(), [10, 9]);
        assert_eq!(open(folder.path(), BOOT, NOW + GOOD_FOR), heads);
        let other = SigningKey::from_bytes(&[2; 32]).sequencer_key();
        assert!(Witness::open_in(folder.path(), BOOT, &other, NOW).heads().is_empty(), "another server's");
    }

    #[test]
    fn server_keeps_it_by_running_and_not_by_starting() {
        let (folder, moment) = (tempfile::tempdir().unwrap(), Duration::from_nanos(1));
        let heads = written(folder.path());
        let mut running = Witness::open_in(folder.path(), BOOT, &key(), NOW + GOOD_FOR);
        running.keep(NOW + GOOD_FOR + STEADY);
        let late = NOW + GOOD_FOR * 2 + STEADY;
        assert_eq!(open(folder.path(), BOOT, late), heads, "the second ran");
        assert_eq!(open(folder.path(), BOOT, late), heads);
        assert!(open(folder.path(), BOOT, late + moment).is_empty(), "starts that fail do not extend it");
        assert!(open(folder.path(), BOOT, late).is_empty(), "nor does one bring it back");
    }

    #[test]
    fn servers_that_start_well_and_die_soon_let_it_grow_old() {
        let (folder, moment) = (tempfile::tempdir().unwrap(), Duration::from_nanos(1));
        let heads = written(folder.path());
        let mut now = NOW;
        while now < NOW + GOOD_FOR {
            let mut dying = Witness::open_in(folder.path(), BOOT, &key(), now);
            assert_eq!(dying.heads(), heads);
            dying.keep(now);
            now += STEADY - moment;
            dying.keep(now);
        }
        assert!(now > NOW + GOOD_FOR && open(folder.path(), BOOT, now).is_empty());
    }

    #[test]
    fn an_entry_keeps_it_at_once() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        let late = NOW + GOOD_FOR;
        let mut dying = Witness::open_in(folder.path(), BOOT, &key(), late);
        dying.note(NetworkId::from_bytes([2; 32]), Some(head(11)), late);
        let heads = open(folder.path(), BOOT, late + GOOD_FOR);
        assert_eq!(heads.values().map(|head| head.length).collect::<Vec<_>>(), [11, 9]);
    }

    #[test]
    fn after_a_reboot_or_a_pause_or_from_the_future_nothing_is_believed_then_or_later() {
        let mut other = BOOT;
        other[0] ^= 1;
        let moment = Duration::from_nanos(1);
        for (boot, now) in [(other, NOW), (BOOT, NOW + GOOD_FOR + moment), (BOOT, NOW - moment)] {
            let folder = tempfile::tempdir().unwrap();
            written(folder.path());
            assert!(open(folder.path(), boot, now).is_empty());
            assert!(open(folder.path(), BOOT, NOW).is_empty());
        }
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing_older_behind() {
        let folder = tempfile::tempdir().unwrap();
        let mut witness = Witness::open_in(folder.path(), BOOT, &key(), NOW);
        witness.note(NetworkId::from_bytes([2; 32]), Some(head(7)), NOW);
        let path = witness.place.as_ref().unwrap().path.clone();
        fs::create_dir(path.with_extension("new")).unwrap();
        witness.note(NetworkId::from_bytes([2; 32]), Some(head(8)), NOW);
        assert!(!path.exists());
        witness.note(NetworkId::from_bytes([2; 32]), Some(head(9)), NOW);
        assert!(open(folder.path(), BOOT, NOW).is_empty());
    }

    #[test]
    fn file_is_these_bytes() {
        let heads = BTreeMap::from([(NetworkId::from_bytes([2; 32]), head(7))]);
        let mut bytes = vec![1];
        bytes.extend(BOOT);
        bytes.extend([0, 0, 0, 0xe8, 0xd4, 0xa5, 0x10, 0]);
        bytes.extend([2; 32]);
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 7]);
        bytes.extend([9; 32]);
        assert_eq!(encode(&BOOT, NOW, &heads), bytes);
        assert_eq!(decode(&bytes, &BOOT, NOW), Some(heads));
        for length in (0..bytes.len()).filter(|length| *length != bytes.len() - RECORD_LEN) {
            assert_eq!(decode(&bytes[..length], &BOOT, NOW), None, "{length} bytes");
        }
        bytes[0] = 2;
        assert_eq!(decode(&bytes, &BOOT, NOW), None);
    }

    #[test]
    fn a_folder_on_a_disk_or_open_to_others_is_no_place_for_it() {
        use std::os::unix::fs::PermissionsExt as _;
        assert!(!sys::is_private_memory(Path::new("/proc")));
        // Where the tests are built is a disk nearly everywhere.
        let program = std::env::current_exe().unwrap();
        let disk = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        fs::set_permissions(disk.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(sys::is_private_memory(disk.path()), sys::is_in_memory(&program));
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        assert!(sys::is_private_memory(folder.path()));
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!sys::is_private_memory(folder.path()));
    }
}
