//! A rehearsal of power cuts. A commit of SQLite's in WAL mode with `synchronous = FULL` writes frames to the journal and
//! flushes it; when the journal is long it then copies pages into the database and flushes that. A cut may therefore find a
//! part of the frames beside the database as it was, or a part of the pages beside the whole journal. A part is what came
//! before some byte, or any of the 512-byte sectors, the others being what they were, zeros or noise. What a write does not
//! touch stays as it is even within a torn sector; SQLite takes that for granted, too (`POWERSAFE_OVERWRITE`).

use std::path::Path;

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::tests::{NETWORK, effective, outcomes, token};
use super::*;

/// What is on the disk.
#[derive(Clone)]
struct Files {
    database: Vec<u8>,
    journal: Vec<u8>,
}

impl Files {
    fn of(folder: &Path) -> Self {
        let read = |name| std::fs::read(folder.join(name)).unwrap_or_default();
        Self { database: read("signal.db"), journal: read("signal.db-wal") }
    }

    /// What a server finds that is started on these files, after it has taken one more entry.
    fn reopened(&self) -> Vec<StoredEntry> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("signal.db");
        std::fs::write(&path, &self.database).unwrap();
        std::fs::write(folder.path().join("signal.db-wal"), &self.journal).unwrap();
        let mut storage = Storage::open(&path).unwrap();
        let stored = storage.load().unwrap();
        assert!(stored.damaged.is_empty(), "{:?}", stored.damaged);
        let mut logs = stored.logs;
        let entries = logs.pop().map_or_else(Vec::new, |(_, entries)| entries);
        if !entries.is_empty() {
            assert_eq!(outcomes(&mut storage, &[entry(entries.len() as u64, vec![9])]), [Outcome::Durable]);
        }
        entries
    }
}

#[test]
fn power_cuts_leave_everything_that_was_acknowledged() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let folder = tempfile::tempdir().unwrap();
    let mut storage = Storage::open(&folder.path().join("signal.db")).unwrap();
    let setting = |name: &str| -> String {
        let value = storage.connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
        format!("{:?}", value.unwrap())
    };
    assert_eq!(setting("journal_mode"), "Text(\"wal\")");
    assert_eq!(setting("synchronous"), "Integer(2)", "what the rehearsal takes for flushed is flushed");
    // So short a journal is begun anew every few commits.
    storage.connection.pragma_update(None, "wal_autocheckpoint", 12).unwrap();
    storage.add_token(&token(7), 5).unwrap();
    let (mut written, mut before, mut restarts, mut short) = (Vec::new(), Files::of(folder.path()), 0, 0);
    for _ in 0..COMMITS {
        let acknowledged = written.len();
        let mut batch = Vec::new();
        for _ in 0..=rng.next_u32() % 3 {
            let mut bytes = vec![0; 1 + rng.next_u32() as usize % 2_000];
            rng.fill_bytes(&mut bytes);
            batch.push(entry(written.len() as u64, bytes.clone()));
            written.push(effective(bytes));
        }
        assert!(outcomes(&mut storage, &batch).iter().all(|outcome| *outcome == Outcome::Durable));
        let after = Files::of(folder.path());
        restarts += usize::from(!after.journal.starts_with(&before.journal));
        for _ in 0..CUTS {
            let database = part(&before.database, &after.database, &mut rng);
            let journal = part(&before.journal, &after.journal, &mut rng);
            let in_journal = Files { journal, ..before.clone() }.reopened();
            assert!(written.starts_with(&in_journal), "there is what was never written");
            assert!(in_journal.len() >= acknowledged, "{} of {acknowledged} entries are left", in_journal.len());
            short += usize::from(in_journal.len() < written.len());
            let in_database = Files { database, ..after.clone() }.reopened();
            assert!(in_database == written, "{} of {} entries are left", in_database.len(), written.len());
        }
        before = after;
    }
    assert!(restarts > 3, "the journal was begun anew {restarts} times");
    assert!(short > COMMITS, "only {short} cuts took anything away");
}

fn entry(sequence: u64, bytes: Vec<u8>) -> (Ticket, Change) {
    let entry = effective(bytes);
    let change = match sequence {
        0 => Change::Found { network: NETWORK, token: FoundingToken(token(7)), entry },
        _ => Change::Append { network: NETWORK, sequence, entry },
    };
    (Ticket(sequence), change)
}

/// A file in the middle of a write that makes `before` into `after`.
fn part(before: &[u8], after: &[u8], rng: &mut ChaCha20Rng) -> Vec<u8> {
    let same = before.iter().zip(after).take_while(|(before, after)| before == after).count();
    let place = same + rng.next_u32() as usize % (after.len() - same + 1);
    if rng.next_u32().is_multiple_of(2) {
        return [&after[..place], before.get(place..).unwrap_or_default()].concat();
    }
    let mut torn = Vec::new();
    for (number, new) in after.chunks(SECTOR).enumerate() {
        let from = (number * SECTOR).min(before.len());
        let old = &before[from..before.len().min(from + SECTOR)];
        let mut noise = vec![0; new.len()];
        match rng.next_u32() % 4 {
            _ if old == new => torn.extend_from_slice(new),
            0 => torn.extend_from_slice(new),
            1 if old.len() == new.len() => torn.extend_from_slice(old),
            kind => {
                if kind == 2 {
                    rng.fill_bytes(&mut noise);
                }
                let pairs = noise.iter_mut().zip(old.iter().zip(new));
                pairs.filter(|(_, (old, new))| old == new).for_each(|(byte, (_, new))| *byte = *new);
                torn.extend(noise);
            }
        }
    }
    torn
}

const SECTOR: usize = 512;
const COMMITS: usize = 40;
/// Cuts of each kind in every commit.
const CUTS: usize = 4;
