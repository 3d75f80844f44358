use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ginnel_time::Instant;
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::power::power_cuts;
use super::transfer::{Replace, export, import};
use super::*;

#[test]
fn no_power_cut_leaves_the_state_unreadable_or_older_than_acknowledged() {
    let report = power_cuts(20_261_122, 5_000);
    println!("{report}");
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.cuts, 5_000);
    // A rehearsal that meets none of these proves little.
    assert!(report.torn > 500 && report.failing > 100 && report.earlier > 100, "{report}");
    assert_eq!(report, power_cuts(20_261_122, 5_000), "a seed says it all");
}

#[test]
fn content_survives_and_stays_private() {
    let (_folder, mut state) = open();
    assert!(state.read("identity", 1).unwrap().is_none());
    state.write("identity", 1, b"first").unwrap();
    state.write("identity", 2, b"second").unwrap();
    assert_eq!(content(&mut state, "identity", 2), (2, b"second".to_vec()));
    assert!(state.warnings().is_empty());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state.path("")), mode(&state.path("identity"))), (0o700, 0o600));
    assert_eq!(mode(&state.path("identity.previous")), 0o600);
    state.remove("identity").unwrap();
    state.remove("identity").unwrap();
    assert!(state.read("identity", 2).unwrap().is_none());
    assert_eq!(files(&state), ["lock"]);
}

#[test]
fn files_and_journals_are_written_as_the_tables_say() {
    let (_folder, mut state) = open();
    state.write("file", 1, b"abc").unwrap();
    state.append("journal", &[b"abc"]).unwrap();
    state.restart("restarted", b"snap", b"e", &[b""; 0]).unwrap();
    state.restart("whole", b"snap", b"e", &[b"abc"]).unwrap();
    let hex = |name: &str| data_encoding::HEXLOWER.encode(&fs::read(state.path(name)).unwrap());
    // Checked with Python's hashlib.blake2s.
    assert_eq!(hex("file"), FILE);
    assert_eq!(hex("journal"), JOURNAL);
    assert_eq!(hex("restarted"), RESTARTED);
    let whole = hex("whole");
    state.append("restarted", &[b"abc"]).unwrap();
    let restarted = data_encoding::HEXLOWER.encode(&fs::read(state.path("restarted")).unwrap());
    assert_eq!(whole, restarted, "as if it were written in two steps");
}

#[test]
fn a_journal_of_version_1_is_read_and_goes_on_as_version_2() {
    let (_folder, mut state) = open();
    let old = data_encoding::HEXLOWER.decode(JOURNAL_1.as_bytes()).unwrap();
    fs::write(state.path("log"), &old).unwrap();
    assert_eq!(entries(&mut state, "log"), [b"abc"]);
    assert_eq!(fs::read(state.path("log")).unwrap(), old, "reading changes nothing");
    state.append("log", &[b"def"]).unwrap();
    assert_eq!(fs::read(state.path("log")).unwrap()[0], 2);
    assert_eq!(entries(&mut state, "log"), [b"abc", b"def"]);

    let mut torn = old.clone();
    torn.extend_from_slice(&old[1..old.len() - 1]);
    fs::write(state.path("torn"), &torn).unwrap();
    assert_eq!(entries(&mut state, "torn"), [b"abc"]);
    let mut bad = old.clone();
    bad.extend_from_slice(&old[1..]);
    bad[22] ^= 1;
    fs::write(state.path("bad"), &bad).unwrap();
    assert!(state.read_journal("bad").unwrap_err().to_string().contains("entry 0"));
}

#[test]
fn a_second_daemon_is_told_who_has_the_folder() {
    let (folder, state) = open();
    let error = StateFolder::open(folder.path().join("state")).unwrap_err();
    assert!(matches!(error, StateError::Busy { .. }));
    let error = error.to_string();
    assert!(error.contains(&format!("process {}", std::process::id())) && error.contains("--state"), "{error}");
    drop(state);
    StateFolder::open(folder.path().join("state")).unwrap();
}

#[test]
fn damage_in_both_generations_is_refused_with_the_remedy() {
    let (_folder, mut state) = open();
    state.write("file", 3, b"content").unwrap();
    let path = state.path("file");
    let good = fs::read(&path).unwrap();
    for place in 1..good.len() {
        let mut bad = good.clone();
        bad[place] ^= 1;
        fs::write(&path, &bad).unwrap();
        assert!(state.read("file", 3).unwrap_err().to_string().contains("damaged"), "byte {place}");
        fs::write(&path, &good[..place]).unwrap();
        fs::write(path.with_extension("previous"), &good[..place]).unwrap();
        assert!(state.read("file", 3).is_err(), "cut at {place}");
    }
}

#[test]
fn the_generation_before_serves_for_a_damaged_one_and_that_is_said() {
    let (_folder, mut state) = open();
    state.write("file", 1, b"first").unwrap();
    state.write("file", 1, b"second").unwrap();
    fs::write(state.path("file"), b"\x01nonsense").unwrap();
    assert_eq!(content(&mut state, "file", 1).1, b"first");
    assert!(state.warnings()[0].contains("file is damaged; the state before it is in use"), "{:?}", state.warnings());
    // The damaged one must not push the good one out.
    state.write("file", 1, b"third").unwrap();
    assert_eq!(fs::read(state.path("file.damaged")).unwrap(), b"\x01nonsense");
    fs::remove_file(state.path("file")).unwrap();
    assert_eq!(content(&mut state, "file", 1).1, b"first");
    state.write("file", 1, b"fourth").unwrap();
    state.forget_previous("file").unwrap();
    fs::remove_file(state.path("file")).unwrap();
    assert_eq!(content(&mut state, "file", 1).1, b"fourth");
}

#[test]
fn a_newer_version_is_refused_and_left_alone_although_an_older_generation_is_known() {
    let (_folder, mut state) = open();
    state.write("file", 1, b"old").unwrap();
    state.write("file", 4, b"new").unwrap();
    let before = fs::read(state.path("file")).unwrap();
    let error = state.read("file", 2).unwrap_err();
    assert!(matches!(error, StateError::Newer { version: 4, newest: 2, .. }), "{error}");
    assert!(error.to_string().contains("newer ginneld"));
    fs::write(state.path("log"), b"\x09whatever").unwrap();
    assert!(matches!(state.read_journal("log"), Err(StateError::Newer { version: 9, .. })));
    assert!(matches!(state.append("log", &[b"x"]), Err(StateError::Newer { .. })));
    assert_eq!(fs::read(state.path("file")).unwrap(), before);
    assert_eq!(fs::read(state.path("log")).unwrap(), b"\x09whatever");
}

#[test]
fn a_journal_grows_and_loses_only_a_batch_that_was_cut_off() {
    let (_folder, mut state) = open();
    assert!(state.read_journal("log").unwrap().is_none());
    state.append("log", &[&b"one"[..], b""]).unwrap();
    let first = fs::read(state.path("log")).unwrap().len();
    state.append("log", &[b"three", b"four!"]).unwrap();
    let whole = fs::read(state.path("log")).unwrap();
    let all = [&b"one"[..], b"", b"three", b"four!"];
    assert_eq!(entries(&mut state, "log"), all);
    for cut in first..whole.len() {
        fs::write(state.path("log"), &whole[..cut]).unwrap();
        assert_eq!(entries(&mut state, "log"), all[..2], "cut at {cut}");
        state.append("log", &[b"three", b"four!"]).unwrap();
        assert_eq!(fs::read(state.path("log")).unwrap(), whole, "mended after {cut}");
    }
}

#[test]
fn damage_inside_a_journal_is_an_error() {
    let (_folder, mut state) = open();
    state.append("log", &[b"one"]).unwrap();
    let first = fs::read(state.path("log")).unwrap().len();
    state.append("log", &[b"two"]).unwrap();
    let good = fs::read(state.path("log")).unwrap();
    for place in 1..first {
        let mut bad = good.clone();
        bad[place] ^= 1;
        fs::write(state.path("log"), bad).unwrap();
        assert!(state.read_journal("log").unwrap_err().to_string().contains("batch 0 is wrong"), "byte {place}");
    }
}

#[test]
fn a_snapshot_replaces_what_was_before_it() {
    let (_folder, mut state) = open();
    state.append("log", &[b"one", b"two"]).unwrap();
    state.restart("log", b"snapshot", b"voucher", &[b"two"]).unwrap();
    state.append("log", &[b"three"]).unwrap();
    let journal = state.read_journal("log").unwrap().unwrap();
    assert_eq!(journal.snapshot, Some((b"snapshot".to_vec(), b"voucher".to_vec())));
    assert_eq!(journal.entries, [b"two".as_slice(), b"three"]);
    state.restart("log", b"later", b"voucher", &[b""; 0]).unwrap();
    assert!(state.read_journal("log").unwrap().unwrap().entries.is_empty());
}

#[test]
fn names_cannot_leave_the_folder_or_meet_its_own_files() {
    let (_folder, mut state) = open();
    for name in ["", "..", "../x", "a/b", ".hidden", "a.new", "a.previous", "a.damaged", "a b", "lock"] {
        assert!(state.write(name, 1, b"").is_err(), "{name}");
        assert!(state.append(name, &[b""]).is_err(), "{name}");
    }
}

#[test]
fn a_folder_that_is_removed_or_replaced_takes_nothing() {
    let (folder, mut state) = open();
    state.append("log", &[b"one"]).unwrap();
    let path = folder.path().join("state");
    fs::rename(&path, folder.path().join("elsewhere")).unwrap();
    assert!(state.write("file", 1, b"x").unwrap_err().to_string().contains("was removed"));
    fs::create_dir(&path).unwrap();
    fs::write(path.join("lock"), "").unwrap();
    assert!(state.write("file", 1, b"x").unwrap_err().to_string().contains("was replaced"));
    assert!(state.append("log", &[b"two"]).unwrap_err().to_string().contains("was replaced"));
    assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
}

#[test]
fn a_journal_that_became_shorter_takes_nothing() {
    let (_folder, mut state) = open();
    state.append("log", &[b"one"]).unwrap();
    fs::write(state.path("log"), b"").unwrap();
    assert!(state.append("log", &[b"two"]).unwrap_err().to_string().contains("shorter"));
    assert_eq!(fs::read(state.path("log")).unwrap(), b"");
}

#[test]
fn what_a_disk_does_not_take_is_kept_and_tried_again_ever_more_rarely() {
    let (folder, state) = open();
    let mut keeper = Keeper::new(state);
    let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
    keeper.write(at(0), "node", 1, b"first".to_vec());
    assert!(keeper.trouble().is_none() && keeper.poll_timeout().is_none());
    let (path, away) = (folder.path().join("state"), folder.path().join("away"));
    fs::rename(&path, &away).unwrap();
    keeper.write(at(1), "node", 1, b"second".to_vec());
    keeper.append(at(1), "log", vec![b"one".to_vec()]);
    keeper.append(at(1), "log", vec![b"two".to_vec()]);
    assert!(keeper.trouble().unwrap().text.contains("was removed"));
    let mut waits = Vec::new();
    for _ in 0..9 {
        let next = keeper.poll_timeout().unwrap();
        keeper.handle_timeout(next);
        waits.push(keeper.poll_timeout().unwrap().saturating_duration_since(next).as_secs());
    }
    assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60, 60]);
    assert!(keeper.check(at(5000)).is_err());
    assert_eq!(keeper.trouble().unwrap().since, at(1));
    fs::rename(&away, &path).unwrap();
    keeper.handle_timeout(at(5000) + Duration::from_secs(60));
    assert!(keeper.trouble().is_none() && keeper.check(at(5100)).is_ok());
    drop(keeper);
    let mut state = StateFolder::open(path).unwrap();
    assert_eq!(content(&mut state, "node", 1).1, b"second");
    assert_eq!(entries(&mut state, "log"), [b"one", b"two"]);
}

/// A revocation leaves the state when it has come into the log: whichever of them the disk does not take, one holds it.
#[test]
fn what_moves_from_the_state_to_the_log_is_never_in_neither() {
    let (folder, disk) = picky();
    let mut keeper = Keeper::new(StateFolder::on(Box::new(disk.clone())));
    let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
    keeper.write(at(0), "node", 1, b"revocation".to_vec());
    keeper.append(at(0), "log", vec![b"one".to_vec()]);
    disk.refuse("");
    keeper.append(at(1), "log", vec![b"revocation".to_vec()]);
    keeper.write(at(1), "node", 1, b"none".to_vec());
    disk.refuse("log");
    assert!(keeper.check(at(2)).is_err());
    let held = |name: &str| fs::read(folder.path().join("state").join(name)).unwrap();
    assert!(held("node").ends_with(b"revocation"), "the log does not have it yet");
    disk.refuse("node");
    assert!(keeper.check(at(3)).is_err());
    assert!(held("log").ends_with(b"revocation"));
    disk.refuse("nothing");
    keeper.check(at(4)).unwrap();
    assert!(held("node").ends_with(b"none"));
    // A log that the state does not name yet, and one that it names no more, never stand alone.
    disk.refuse("node");
    keeper.write(at(5), "node", 1, b"network 2".to_vec());
    keeper.append(at(5), "log-2", vec![b"one".to_vec()]);
    keeper.forget(at(5), "log");
    let mut state = StateFolder::on(Box::new(disk.clone()));
    assert_eq!(state.names().unwrap(), ["log", "node"]);
    disk.refuse("nothing");
    keeper.check(at(6)).unwrap();
    assert_eq!(state.names().unwrap(), ["log-2", "node"]);
    assert_eq!(entries(&mut state, "log-2"), [b"one"]);
}

#[test]
fn a_log_that_cannot_be_written_holds_up_no_other() {
    let (_folder, disk) = picky();
    let mut keeper = Keeper::new(StateFolder::on(Box::new(disk.clone())));
    let mut state = StateFolder::on(Box::new(disk.clone()));
    let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
    let both = ["log-a", "log-b"];
    both.iter().for_each(|name| keeper.append(at(0), name, vec![b"one".to_vec()]));
    disk.refuse("log-a");
    both.iter().for_each(|name| keeper.append(at(1), name, vec![b"two".to_vec()]));
    assert!(keeper.check(at(2)).is_err());
    assert_eq!(entries(&mut state, "log-a"), [b"one"]);
    assert_eq!(entries(&mut state, "log-b"), [b"one", b"two"]);
    disk.refuse("nothing");
    keeper.check(at(3)).unwrap();
    assert_eq!(entries(&mut state, "log-a"), [b"one", b"two"]);
    // One that grows without end leaves the others their room.
    disk.refuse("");
    for _ in 0..5 {
        keeper.append(at(4), "log-a", vec![vec![0; 4 << 20]]);
    }
    keeper.append(at(4), "log-b", vec![b"three".to_vec()]);
    disk.refuse("nothing");
    keeper.check(at(5)).unwrap();
    assert_eq!(entries(&mut state, "log-b"), [&b"one"[..], b"two", b"three"]);
}

#[test]
fn a_damaged_log_is_set_aside_and_the_others_are_read() {
    let (_folder, mut state) = open();
    for name in ["log-a", "log-b"] {
        state.append(name, &[b"one"]).unwrap();
        state.append(name, &[b"two"]).unwrap();
    }
    let mut bad = fs::read(state.path("log-a")).unwrap();
    bad[8] ^= 1;
    fs::write(state.path("log-a"), &bad).unwrap();
    assert_eq!(state.rescue_journal("log-b").unwrap().unwrap().entries, [b"one", b"two"]);
    assert_eq!(state.rescue_journal("log-a").unwrap(), None);
    assert_eq!(fs::read(state.path("log-a.damaged")).unwrap(), bad, "nothing is lost of it");
    assert!(state.warnings().iter().any(|warning| warning.contains("log-a.damaged")), "{:?}", state.warnings());
    state.append("log-a", &[b"again"]).unwrap();
    assert_eq!(entries(&mut state, "log-a"), [b"again"]);
    // What a newer version wrote is left where it is.
    fs::write(state.path("log-b"), b"\x09whatever").unwrap();
    assert!(matches!(state.rescue_journal("log-b"), Err(StateError::Newer { .. })));
}

#[test]
fn a_log_that_the_state_does_not_name_goes() {
    let (_folder, mut state) = open();
    for name in ["log-a", "log-b", "node"] {
        state.append(name, &[b"one"]).unwrap();
    }
    let mut keeper = Keeper::new(state);
    keeper.forget_others(Instant::ZERO, "log-", &["log-b".to_owned()].into());
    assert_eq!(keeper.folder().names().unwrap(), ["log-b", "node"]);
}

/// A state that does not fit any more is noticed before anything is changed.
#[test]
fn room_is_looked_for_by_the_length_of_the_state() {
    let (_folder, disk) = picky();
    let mut keeper = Keeper::new(StateFolder::on(Box::new(disk.clone())));
    keeper.write(Instant::ZERO, "node", 1, vec![1; 200 << 10]);
    disk.refuse_longer(100 << 10);
    assert!(keeper.check(Instant::ZERO).is_err(), "what is there could not be written again");
    disk.refuse_longer(usize::MAX);
    keeper.check(Instant::ZERO).unwrap();
}

#[test]
fn a_disk_that_hangs_is_left_alone_ten_times_as_long() {
    let (_folder, disk) = picky();
    let mut keeper = Keeper::timed_by(picky_time, StateFolder::on(Box::new(disk.clone())));
    let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
    keeper.write(at(0), "node", 1, b"first".to_vec());
    assert!(keeper.trouble().is_none() && disk.flushes() == 1);
    disk.take(Duration::from_secs(30));
    keeper.write(at(10), "node", 1, b"second".to_vec());
    assert!(keeper.trouble().is_none(), "it is on the disk");
    // It is 40 now; nothing touches the disk before 340.
    for second in 40..340 {
        keeper.append(at(second), "log", vec![b"x".to_vec()]);
        keeper.handle_timeout(at(second));
    }
    assert_eq!(disk.flushes(), 2);
    assert!(keeper.trouble().unwrap().text.contains("took 30 s"));
    assert_eq!(keeper.poll_timeout(), Some(at(340)));
    disk.take(Duration::ZERO);
    keeper.handle_timeout(at(340));
    assert!(keeper.trouble().is_none());
    assert_eq!(entries(&mut StateFolder::on(Box::new(disk.clone())), "log").len(), 300);
    keeper.append(at(341), "log", vec![b"y".to_vec()]);
    assert!(keeper.trouble().is_none(), "it is well again");
    // One that hangs and then fails is no better.
    disk.take(Duration::from_secs(20));
    disk.refuse("");
    keeper.append(at(350), "log", vec![b"z".to_vec()]);
    assert_eq!(keeper.poll_timeout(), Some(at(570)));
}

#[test]
fn what_left_a_network_forgets_its_keys_in_both_generations() {
    let (_folder, state) = open();
    let mut keeper = Keeper::new(state);
    keeper.write(Instant::ZERO, "node", 1, b"secret".to_vec());
    keeper.append(Instant::ZERO, "log", vec![b"one".to_vec()]);
    keeper.write(Instant::ZERO, "node", 1, b"empty".to_vec());
    keeper.forget(Instant::ZERO, "log");
    keeper.forget_previous(Instant::ZERO, "node");
    for name in files(keeper.folder()) {
        let bytes = fs::read(keeper.folder().path(&name)).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret"), "{name}");
    }
    assert!(!files(keeper.folder()).contains(&"log".to_owned()));
}

#[test]
fn a_machine_is_moved_by_export_and_import() {
    let (folder, mut state) = open();
    let file = folder.path().join("machine");
    assert!(export(&mut state, &file).unwrap_err().to_string().contains("no state"));
    state.write("node", 1, b"before").unwrap();
    state.write("node", 1, b"keys").unwrap();
    state.append("log-1", &[b"one"]).unwrap();
    assert_eq!(export(&mut state, &file).unwrap(), 2);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(export(&mut state, &file).unwrap_err().to_string().contains("exists"), "an export is not overwritten");

    let mut other = StateFolder::open(folder.path().join("other")).unwrap();
    assert_eq!(import(&mut other, &file, Replace::No).unwrap(), 2);
    assert_eq!(content(&mut other, "node", 1).1, b"keys");
    assert_eq!(entries(&mut other, "log-1"), [b"one"]);
    let error = import(&mut other, &file, Replace::No).unwrap_err().to_string();
    assert!(error.contains("--replace"), "{error}");

    other.write("node", 1, b"other keys").unwrap();
    other.append("log-2", &[b"other"]).unwrap();
    assert_eq!(import(&mut other, &file, Replace::Yes).unwrap(), 2);
    assert_eq!(content(&mut other, "node", 1).1, b"keys");
    assert_eq!(files(&other), ["lock", "log-1", "node"]);
}

#[test]
fn a_damaged_or_newer_export_changes_nothing() {
    let (folder, mut state) = open();
    state.write("node", 1, b"keys").unwrap();
    let file = folder.path().join("machine");
    export(&mut state, &file).unwrap();
    let good = fs::read(&file).unwrap();
    let mut other = StateFolder::open(folder.path().join("other")).unwrap();
    for place in 1..good.len() {
        let mut bad = good.clone();
        bad[place] ^= 1;
        fs::write(&file, &bad).unwrap();
        assert!(import(&mut other, &file, Replace::Yes).is_err(), "byte {place}");
        fs::write(&file, &good[..place]).unwrap();
        assert!(import(&mut other, &file, Replace::Yes).is_err(), "cut at {place}");
    }
    fs::write(&file, [&[9], &good[1..]].concat()).unwrap();
    assert!(matches!(import(&mut other, &file, Replace::Yes), Err(StateError::Newer { version: 9, .. })));
    assert_eq!(files(&other), ["lock"]);
}

/// A folder whose disk refuses some files, and takes its time.
#[derive(Clone, Debug)]
struct Picky {
    files: Arc<Mutex<Files>>,
    longest: Arc<Mutex<usize>>,
    refused: Arc<Mutex<String>>,
    takes: Arc<Mutex<Duration>>,
    flushes: Arc<Mutex<usize>>,
}

thread_local! {
    static PICKY_TIME: Cell<Instant> = const { Cell::new(Instant::ZERO) };
}

fn picky_time() -> Instant {
    PICKY_TIME.get()
}

fn picky() -> (TempDir, Picky) {
    let folder = TempDir::new().unwrap();
    let files = Arc::new(Mutex::new(Files::open(folder.path().join("state")).unwrap()));
    let refused = Arc::new(Mutex::new("nothing".to_owned()));
    let longest = Arc::new(Mutex::new(usize::MAX));
    (folder, Picky { files, refused, longest, takes: Arc::default(), flushes: Arc::default() })
}

impl Picky {
    /// Files whose names begin so are refused.
    fn refuse(&self, names: &str) {
        names.clone_into(&mut self.refused.lock().unwrap());
    }

    /// Contents that are longer are refused.
    fn refuse_longer(&self, than: usize) {
        *self.longest.lock().unwrap() = than;
    }

    fn take(&self, time: Duration) {
        *self.takes.lock().unwrap() = time;
    }

    fn flushes(&self) -> usize {
        *self.flushes.lock().unwrap()
    }

    fn flush(&self, name: &str) -> io::Result<()> {
        PICKY_TIME.set(PICKY_TIME.get() + *self.takes.lock().unwrap());
        *self.flushes.lock().unwrap() += 1;
        let refused = name.starts_with(self.refused.lock().unwrap().as_str());
        if refused { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }
}

impl Disk for Picky {
    fn path(&self, name: &str) -> PathBuf {
        self.files.lock().unwrap().path(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.files.lock().unwrap().names()
    }

    fn read(&self, name: &str, longest: u64) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        self.files.lock().unwrap().read(name, longest)
    }

    fn put(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.flush(name)?;
        if content.len() > *self.longest.lock().unwrap() {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.files.lock().unwrap().put(name, content)
    }

    fn extend(&mut self, name: &str, place: u64, content: &[u8]) -> io::Result<()> {
        self.flush(name)?;
        self.files.lock().unwrap().extend(name, place, content)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.files.lock().unwrap().rename(from, to)
    }

    fn remove(&mut self, name: &str) -> io::Result<bool> {
        self.files.lock().unwrap().remove(name)
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        self.files.lock().unwrap().sync_folder()
    }
}

fn open() -> (TempDir, StateFolder) {
    let folder = TempDir::new().unwrap();
    let state = StateFolder::open(folder.path().join("state")).unwrap();
    (folder, state)
}

fn content(state: &mut StateFolder, name: &str, newest: u8) -> (u8, Vec<u8>) {
    let (version, content) = state.read(name, newest).unwrap().unwrap();
    (version, content.to_vec())
}

fn entries(state: &mut StateFolder, name: &str) -> Vec<Vec<u8>> {
    state.read_journal(name).unwrap().unwrap().entries
}

fn files(state: &StateFolder) -> Vec<String> {
    let entries = fs::read_dir(state.path("")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

const FILE: &str = "01d6ad87114d39c52d569fa48fcfcfdcf1616263";
const JOURNAL_1: &str = "0100000003cd780d666241b0f8bd3850a9faaa829c616263";
const JOURNAL: &str = "02000000082e64a23f09e2b585ce18b8e93efce3ae0000000003616263";
const RESTARTED: &str = "020000000e075596742bc5ed5d2e47ab408c24f4430100000004736e61700000000165";
