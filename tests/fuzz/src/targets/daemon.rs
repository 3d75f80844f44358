//! Files that the daemon reads: its configuration, its state, the machine's hosts file.

use std::cell::OnceCell;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use blake2::{Blake2s256, Digest as _};
use ginneld::config::{Config, Mode};
use ginneld::hosts::Hosts;
use ginneld::state::StateFolder;
use ginneld::state::transfer::Replace;
use tempfile::TempDir;

use crate::{Effort, Target};

/// Configuration files.
pub(crate) const CONFIG: Target = Target {
    name: "config",
    covers: "the configuration file of ginneld",
    run: config,
    seeds: || {
        let key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
        let full = format!(
            "[interface]\nprivate_key_file = \"key\"\naddresses = [\"10.9.0.1/24\", \"fd00::1\"]\nlisten_port = 51820\n\
             mtu = 1420\n[[peer]]\nname = \"router\"\npublic_key = \"{key}\"\npreshared_key_file = \"key\"\n\
             endpoint = \"vpn.example.com:51820\"\nallowed_ips = [\"10.9.0.7/24\", \"::/0\"]\n\
             persistent_keepalive = 25\nkind = \"ginnel\"\n[names]\nwrite_hosts = false\nhosts_file = \"/etc/hosts\"\n\
             [control]\nadmin_group = \"wheel\"\n[debug]\nrekey_after_seconds = 5\n"
        );
        ["", "[interface]\nmtu = 100\n", "[peer]\n", "interface = 1", &full, "a = \"\u{1b}[31m\"\n"]
            .map(|text| text.as_bytes().to_vec())
            .to_vec()
    },
    longest: 1500,
    effort: Effort::Middling,
};

/// State files as disks and others leave them.
pub(crate) const STATE: Target = Target {
    name: "state_file",
    covers: "files of the state folder",
    run: state,
    seeds: || vec![vec![0], vec![1, 1, 2, 3], vec![2, 0, 7, 7, 7, 7]],
    longest: 400,
    effort: Effort::Middling,
};

/// Journals, cut and damaged.
pub(crate) const JOURNAL: Target = Target {
    name: "journal",
    covers: "journals of the state folder",
    run: journal,
    seeds: || vec![vec![0, 3, 0, 5, 0, 1, 2], vec![1, 2, 1, 4, 9, 8], vec![2, 1, 0, 0, 0, 9]],
    longest: 300,
    effort: Effort::Middling,
};

/// Exported states.
pub(crate) const TRANSFER: Target = Target {
    name: "transfer",
    covers: "the file that moves a machine's state",
    run: transfer,
    seeds: || {
        let file = |name: &str, content: &[u8]| {
            [&[name.len() as u8][..], name.as_bytes(), &[0, 0, 0, content.len() as u8], content].concat()
        };
        let state = [&[1][..], &checksum(&[&[1], b"content"]), b"content"].concat();
        vec![
            vec![0, 1],
            [&[1][..], &file("node", &state)].concat(),
            [&[1][..], &file("node", &state), &file("log-1", b"\x02"), &file("../x", b"y")].concat(),
            [&[2][..], b"content"].concat(),
        ]
    },
    longest: 400,
    effort: Effort::Middling,
};

/// Hosts files that others edit, and names that would break them.
pub(crate) const HOSTS: Target = Target {
    name: "hosts",
    covers: "the block of names in the hosts file",
    run: hosts,
    seeds: || {
        let begin = "# BEGIN ginneld ginnel0 (changes in this block are lost)\n";
        let block = format!("{begin}100.70.0.9 a.home.internal\n# END ginneld ginnel0\n");
        ["127.0.0.1 localhost\n", "no end of line", begin, &format!("x\n{block}y\n{block}"), &format!("{begin}{block}")]
            .iter()
            .map(|text| [b"nas.home.internal\0", text.as_bytes()].concat())
            .chain([b"x.internal\n10.0.0.1 bank.example\0a\n".to_vec()])
            .collect()
    },
    longest: 600,
    effort: Effort::Middling,
};

/// A folder of this thread, in memory where the system has such a place.
fn folder() -> PathBuf {
    thread_local! {
        static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
    }
    FOLDER.with(|folder| {
        let made = folder.get_or_init(|| {
            let memory = Path::new("/dev/shm");
            let made = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() };
            made.expect("a folder for files can be made")
        });
        made.path().to_owned()
    })
}

fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Key files are read from where the text says; devices and pipes would be waited for.
    if ["/dev", "/proc", "/sys", ".."].iter().any(|place| text.contains(place)) || text.contains("\\u") {
        return;
    }
    let folder = folder();
    let path = folder.join("config.toml");
    fs::write(folder.join("key"), "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n").expect("a file can be written");
    fs::write(&path, text).expect("a file can be written");
    for mode in [Mode::Normal, Mode::Test] {
        match Config::load(&path, mode) {
            Ok(config) => {
                let named: std::collections::BTreeSet<_> = config.peers.iter().map(|peer| &peer.name).collect();
                assert_eq!(named.len(), config.peers.len(), "two peers of one name");
                assert!(config.interface.mtu.is_none_or(|mtu| mtu >= 1280));
                for (address, length) in config.peers.iter().flat_map(|peer| &peer.allowed_ips) {
                    assert!(*length <= if address.is_ipv4() { 32 } else { 128 });
                }
            }
            Err(error) => {
                assert!(error.place.contains("config.toml"), "{error}");
                let shown = error.to_string();
                assert!(!shown.chars().any(char::is_control), "the error shows control characters: {shown:?}");
            }
        }
    }
}

fn opened() -> (StateFolder, PathBuf) {
    let path = folder().join("state");
    let _ = fs::remove_dir_all(&path);
    (StateFolder::open(&path).expect("a state folder can be made"), path)
}

fn checksum(parts: &[&[u8]]) -> Vec<u8> {
    let mut hash = Blake2s256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize()[..16].to_vec()
}

fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a file can be written");
}

/// The first byte chooses: the file as it comes, with a right checksum, or ours with a change.
fn state(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let (mut state, path) = opened();
    match kind % 4 {
        0 => put(&path.join("it"), bytes),
        1 => {
            let (version, content) = bytes.split_first().unwrap_or((&1, &[]));
            let whole = [&[*version][..], &checksum(&[&[*version], content]), content].concat();
            put(&path.join("it"), &whole);
            if (1..=2).contains(version) {
                let read = state.read("it", 2).expect("an intact file is read").expect("it is there");
                assert_eq!((read.0, &read.1[..]), (*version, content));
            }
        }
        _ => {
            let (place, content) = bytes.split_first_chunk::<2>().unwrap_or((&[0, 0], &[]));
            let earlier = kind % 4 == 3;
            if earlier {
                state.write("it", 1, b"the one before").expect("memory has room");
            }
            state.write("it", 1, content).expect("memory has room");
            let mut whole = fs::read(path.join("it")).expect("it was written");
            let place = usize::from(u16::from_be_bytes(*place)) % whole.len();
            whole[place] ^= 1 << (bytes.len() % 8);
            put(&path.join("it"), &whole);
            // A version that is not known is not damage: nothing before it is preferred.
            match state.read("it", 1) {
                Ok(Some((_, content))) => {
                    assert!(earlier && content[..] == b"the one before"[..], "changed at {place}")
                }
                Ok(None) => panic!("a damaged file is no missing file"),
                Err(_) => assert!(!earlier || place == 0, "the generation before was not used"),
            }
        }
    }
    // What remains to be shown: reading neither panics nor changes its mind.
    let mut read = || state.read("it", 2).map(|read| read.map(|(version, content)| (version, content.to_vec()))).ok();
    assert_eq!(read(), read());
}

/// Entries that were written come back, up to where the end was cut.
fn journal(data: &[u8]) {
    let Some((&[kind, a, b], bytes)) = data.split_first_chunk::<3>() else { return };
    let (mut state, path) = opened();
    let file = path.join("log");
    if kind % 4 == 0 {
        put(&file, bytes);
        let _ = state.read_journal("log");
        return;
    }
    let batches: Vec<&[u8]> = bytes.chunks(usize::from(a % 40) + 1).take(12).collect();
    let with_snapshot = kind % 8 > 3;
    if with_snapshot {
        state.restart("log", b"a snapshot", b"its entry", &[] as &[&[u8]]).expect("memory has room");
    }
    for batch in &batches {
        let entries: Vec<&[u8]> = batch.chunks(7).collect();
        state.append("log", &entries).expect("memory has room");
    }
    let written: Vec<&[u8]> = batches.iter().flat_map(|batch| batch.chunks(7)).collect();
    let Ok(whole) = fs::read(&file) else { return };
    let cut = usize::from(u16::from_be_bytes([a, b])) % (whole.len() + 1);
    let mut again = reopened(state, &path);
    if kind % 4 == 1 {
        put(&file, &whole[..cut]);
        let Ok(kept) = again.read_journal("log") else {
            // Nothing of it is left, not even the version.
            assert!(cut == 0, "a cut journal was refused");
            return;
        };
        let kept = kept.unwrap_or_default();
        assert!(kept.entries.len() <= written.len());
        assert!(kept.entries.iter().zip(&written).all(|(a, b)| a == b), "another entry came back");
        assert!(cut < whole.len() || kept.entries.len() == written.len(), "an entry was lost");
        again.append("log", &[b"more"]).expect("the journal goes on");
        let grown = again.read_journal("log").expect("it is whole again").expect("it is there");
        assert_eq!(grown.entries.len(), kept.entries.len() + 1);
        assert_eq!(grown.entries.last().map(Vec::as_slice), Some(&b"more"[..]));
        return;
    }
    let mut damaged = whole;
    if let Some(byte) = damaged.get_mut(cut) {
        *byte ^= 1 << (b % 8);
        put(&file, &damaged);
        if let Ok(Some(kept)) = again.read_journal("log") {
            // Only the end may be taken for cut off.
            assert!(kept.entries.iter().zip(&written).all(|(a, b)| a == b), "a changed entry came back");
            let lost: usize = written[kept.entries.len().min(written.len())..].iter().map(|entry| entry.len()).sum();
            let last = batches.last().map_or(0, |batch| batch.len());
            assert!(lost <= last, "more than the last batch was dropped");
        }
    }
}

fn reopened(state: StateFolder, path: &Path) -> StateFolder {
    drop(state);
    StateFolder::open(path).expect("the folder is free again")
}

/// A machine's state in one file, damaged or made by others.
fn transfer(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let file = folder().join("exported");
    let _ = fs::remove_file(&file);
    let body = match kind % 3 {
        0 => bytes.to_vec(),
        1 => {
            let sum = Blake2s256::new().chain_update([1]).chain_update(bytes).finalize();
            [&[1][..], &sum, bytes].concat()
        }
        _ => {
            let (mut state, _) = opened();
            state.write("node", 1, bytes).expect("memory has room");
            if ginneld::state::transfer::export(&mut state, &file).is_err() {
                return;
            }
            fs::read(&file).expect("it was written")
        }
    };
    put(&file, &body);
    let (mut state, path) = opened();
    let taken = ginneld::state::transfer::import(&mut state, &file, Replace::No);
    let names = state.names().expect("the folder can be listed");
    match taken {
        Ok(count) => {
            assert!(names.len() <= count);
            let outside =
                fs::read_dir(&path).expect("the folder is there").flatten().all(|entry| entry.path().is_file());
            assert!(outside, "an import made a folder");
            assert!(ginneld::state::transfer::import(&mut state, &file, Replace::No).is_err(), "a state was replaced");
        }
        Err(_) => assert!(kind % 3 != 2 || names.is_empty()),
    }
}

fn begins(text: &str) -> usize {
    text.lines().filter(|line| line.trim_end() == "# BEGIN ginneld ginnel0 (changes in this block are lost)").count()
}

fn hosts(data: &[u8]) {
    let Some(end) = data.iter().position(|byte| *byte == 0) else { return };
    let (name, old) = (String::from_utf8_lossy(&data[..end]).into_owned(), &data[end + 1..]);
    let path = folder().join("hosts");
    fs::write(&path, old).expect("a file can be written");
    let mut hosts = Hosts::new(&path, "ginnel0");
    let address = IpAddr::from([100, 70, 0, 9]);
    if hosts.set(&[(name.clone(), vec![address])]).is_err() {
        assert!(std::str::from_utf8(old).is_err(), "a text was refused");
        assert_eq!(fs::read(&path).expect("it is there"), old);
        return;
    }
    let text = fs::read_to_string(&path).expect("it is text");
    assert!(begins(&text) <= 1, "two blocks");
    hosts.set(&[(name, vec![address]), ("b.home.internal".to_owned(), vec![address])]).expect("again");
    drop(hosts);
    let left = fs::read_to_string(&path).expect("it is text");
    assert_eq!(begins(&left), 0, "the block is left behind");
    // Lines of others are all there, in order.
    let others = |text: &str| {
        text.lines()
            .filter(|line| {
                !line.trim_end().is_empty() && !line.contains("ginneld ginnel0") && !line.contains(".internal")
            })
            .map(|line| line.trim_end().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(others(&left), others(&String::from_utf8_lossy(old)), "a line of another was lost");
}
