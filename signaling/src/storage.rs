//! The database: every network's log and every founding token, on disk before anybody is told.
//!
//! SQLite in `signal.db`, journal in WAL mode, synced at every commit. Version 3 (`user_version`):
//!
//! | table | columns |
//! |---|---|
//! | `entry` | `network` (32 bytes), `sequence` (from 0 without gaps), `bytes` (the encoded entry), `trust` (what is known of its record: 0 nothing, 1 it took effect, 2 it meant nothing), `checksum` (the first 16 bytes of SHA-256 over network, sequence as 8 bytes big-endian, trust as one byte, and the encoded entry; of a row without one nothing is known) |
//! | `token` | `bytes` (16), `made` (Unix seconds), `network` (the one that it founded, or by which this server became its mirror, or null) |
//! | `adopted` | `network` (32 bytes), `genesis` (the encoded record): networks that this server mirrors, whose log may have yet to come |
//! | `removed` | as `entry`: what was taken out of a mirrored log from a damaged entry on, to be fetched anew; nothing reads it but people |
//!
//! Version 1 had no `adopted`, version 2 neither `removed` nor the last two columns of `entry`; both are brought to version
//! 3 when they are opened, with checksums over what is there.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context as _, bail};
use aws_lc_rs::digest;
use ginnel_membership::NetworkId;
use ginnel_membership::invite::Token;
use ginnel_membership::sequencer::Trust;
use ginnel_signal_proto::FoundingToken;
use ginnel_signal_proto::server::{Change, Outcome, Stored, StoredEntry, Ticket};
use rusqlite::{Connection, params};

/// The open database.
pub(crate) struct Storage {
    connection: Connection,
}

/// The thread that writes.
pub(crate) struct Writer {
    changes: mpsc::Sender<(Ticket, Change)>,
    thread: JoinHandle<()>,
}

impl Storage {
    /// Opens the database, and makes it where it does not exist.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        // SQLite would make it readable for others; its further files take over the mode of this one.
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .with_context(|| format!("cannot write {shown}"))?;
        let connection = Connection::open(path).with_context(|| format!("cannot open {shown}"))?;
        let mut storage = Self { connection };
        storage.prepare().with_context(|| format!("cannot use {shown}"))?;
        Ok(storage)
    }

    fn prepare(&mut self) -> anyhow::Result<()> {
        self.connection.pragma_update(None, "journal_mode", "WAL")?;
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        self.connection.busy_timeout(std::time::Duration::from_secs(5))?;
        let transaction = self.connection.transaction()?;
        match transaction.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0))? {
            VERSION => {}
            older @ 0..VERSION => {
                for (version, schema) in (1..).zip(SCHEMAS) {
                    if version > older {
                        transaction.execute_batch(schema)?;
                    }
                }
                add_checksums(&transaction)?;
                transaction.pragma_update(None, "user_version", VERSION)?;
            }
            newer => bail!("it is of version {newer}; this program reads version {VERSION}; use a newer ginnel-signal"),
        }
        transaction.commit()?;
        Ok(())
    }

    /// Everything that is stored.
    pub(crate) fn load(&self) -> anyhow::Result<Stored> {
        let mut stored = Stored::default();
        let mut query = self
            .connection
            .prepare("SELECT network, sequence, bytes, trust, checksum FROM entry ORDER BY network, sequence")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let (network, sequence) = (NetworkId::from_bytes(row.get(0)?), row.get::<_, i64>(1)?);
            let (bytes, mark) = (row.get::<_, Vec<u8>>(2)?, row.get::<_, i64>(3)?);
            let sum = row.get_ref(4)?.as_blob_or_null()?;
            if sum.is_some_and(|sum| sum != checksum(&network, sequence, mark, &bytes)) {
                tracing::error!(%network, sequence, "a log entry is damaged on disk");
                stored.damaged.insert((network, u64::try_from(sequence)?));
            }
            let entry = StoredEntry { bytes, trust: sum.map_or(Trust::Stored, |_| trust(mark)) };
            match stored.logs.last_mut() {
                Some((last, entries)) if *last == network => entries.push(entry),
                Some(_) | None => stored.logs.push((network, vec![entry])),
            }
        }
        let mut query = self.connection.prepare("SELECT bytes, network FROM token ORDER BY made, bytes")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let network = row.get::<_, Option<[u8; 32]>>(1)?.map(NetworkId::from_bytes);
            stored.tokens.push((FoundingToken(Token::from_bytes(row.get(0)?)), network));
        }
        let mut query = self.connection.prepare("SELECT network, genesis FROM adopted ORDER BY network")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            stored.adopted.push((NetworkId::from_bytes(row.get(0)?), row.get(1)?));
        }
        Ok(stored)
    }

    /// Puts a new founding token on disk.
    pub(crate) fn add_token(&self, token: &Token, unix: u64) -> anyhow::Result<()> {
        let made = i64::try_from(unix).unwrap_or(i64::MAX);
        self.connection.execute("INSERT INTO token (bytes, made) VALUES (?1, ?2)", params![token.as_bytes(), made])?;
        Ok(())
    }

    /// Puts changes on disk in one commit, in order; one that cannot be stored fails alone.
    pub(crate) fn store(&mut self, changes: &[(Ticket, Change)]) -> Vec<(Ticket, Outcome)> {
        let attempt = |storage: &mut Self| -> rusqlite::Result<Vec<(Ticket, Outcome)>> {
            let mut transaction = storage.connection.transaction()?;
            let mut outcomes = Vec::with_capacity(changes.len());
            for (ticket, change) in changes {
                let savepoint = transaction.savepoint()?;
                let outcome = match put(&savepoint, change) {
                    Ok(()) => savepoint.commit().map(|()| Outcome::Durable)?,
                    // A full disk may have ended the transaction, and what came next would be on its own.
                    Err(error) if savepoint.is_autocommit() => return Err(error),
                    Err(error) => {
                        tracing::error!(%error, "a change cannot be stored");
                        Outcome::Failed
                    }
                };
                outcomes.push((*ticket, outcome));
            }
            transaction.commit()?;
            Ok(outcomes)
        };
        attempt(self).unwrap_or_else(|error| {
            tracing::error!(%error, "the disk takes nothing");
            // A commit that fails may have come through all the same.
            let outcome = |change| if self.holds(change) { Outcome::Durable } else { Outcome::Failed };
            changes.iter().map(|(ticket, change)| (*ticket, outcome(change))).collect()
        })
    }

    /// Whether a change is on disk.
    fn holds(&self, change: &Change) -> bool {
        let row = |query, network: &NetworkId, sequence: u64, bytes: &[u8]| {
            let sequence = i64::try_from(sequence).unwrap_or(i64::MAX);
            let found =
                self.connection.query_row(query, params![network.as_bytes(), sequence, bytes], |row| row.get(0));
            found.unwrap_or(false)
        };
        match change {
            Change::Found { network, entry, .. } => row(ENTRY_STORED, network, 0, &entry.bytes),
            Change::Append { network, sequence, entry } | Change::Mend { network, sequence, entry } => {
                row(ENTRY_STORED, network, *sequence, &entry.bytes)
            }
            Change::Spend { network, token } => row(TOKEN_USED, network, 0, token.0.as_bytes()),
            Change::Adopt { network, genesis, .. } => row(GENESIS_STORED, network, 0, genesis),
            Change::Cut { network, length } => row(LOG_CUT, network, *length, &[]),
        }
    }

    /// Starts the thread that writes; `done` is called with each commit's outcomes.
    pub(crate) fn into_writer(
        mut self,
        done: impl Fn(Vec<(Ticket, Outcome)>) + Send + 'static,
    ) -> anyhow::Result<Writer> {
        let (changes, queue) = mpsc::channel();
        let thread = std::thread::Builder::new().name("storage".to_owned()).spawn(move || {
            while let Ok(first) = queue.recv() {
                let mut batch: Vec<(Ticket, Change)> = vec![first];
                batch.extend(queue.try_iter().take(MAX_BATCH));
                done(self.store(&batch));
            }
        })?;
        Ok(Writer { changes, thread })
    }
}

impl Writer {
    /// Queues a change. The server's own bound on appends that wait for the disk bounds the queue.
    pub(crate) fn store(&self, ticket: Ticket, change: Change) {
        if self.changes.send((ticket, change)).is_err() {
            tracing::error!("the storage thread is gone");
        }
    }

    /// Waits until everything queued is on disk.
    pub(crate) fn finish(self) {
        drop(self.changes);
        if self.thread.join().is_err() {
            tracing::error!("the storage thread panicked");
        }
    }
}

fn put(transaction: &Connection, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Found { network, token, entry } => {
            use_token(transaction, token, network)?;
            insert(transaction, network, 0, entry)
        }
        Change::Spend { network, token } => use_token(transaction, token, network),
        Change::Adopt { network, token, genesis } => {
            use_token(transaction, token, network)?;
            let query = "INSERT INTO adopted (network, genesis) VALUES (?1, ?2)";
            transaction.execute(query, params![network.as_bytes(), genesis]).map(|_| ())
        }
        Change::Append { network, sequence, entry } => insert(transaction, network, *sequence, entry),
        Change::Mend { network, sequence, entry } => mend(transaction, network, *sequence, entry),
        Change::Cut { network, length } => {
            let row = params![network.as_bytes(), position(*length)?];
            transaction.execute(
                "INSERT OR REPLACE INTO removed SELECT * FROM entry WHERE network = ?1 AND sequence >= ?2",
                row,
            )?;
            transaction.execute("DELETE FROM entry WHERE network = ?1 AND sequence >= ?2", row).map(|_| ())
        }
    }
}

fn use_token(transaction: &Connection, token: &FoundingToken, network: &NetworkId) -> rusqlite::Result<()> {
    let query = "UPDATE token SET network = ?1 WHERE bytes = ?2 AND network IS NULL";
    match transaction.execute(query, params![network.as_bytes(), token.0.as_bytes()])? {
        1 => Ok(()),
        rows => Err(rusqlite::Error::StatementChangedRows(rows)),
    }
}

fn insert(transaction: &Connection, network: &NetworkId, sequence: u64, entry: &StoredEntry) -> rusqlite::Result<()> {
    // One row, unless the log's length is another than the entry thinks.
    let query = "INSERT INTO entry (network, sequence, bytes, trust, checksum) SELECT ?1, ?2, ?3, ?4, ?5
                 WHERE (SELECT COUNT(*) FROM entry WHERE network = ?1 AND sequence >= ?2 - 1) = MIN(?2, 1)";
    write(transaction, query, network, sequence, entry)
}

fn mend(transaction: &Connection, network: &NetworkId, sequence: u64, entry: &StoredEntry) -> rusqlite::Result<()> {
    let query = "UPDATE entry SET bytes = ?3, trust = ?4, checksum = ?5 WHERE network = ?1 AND sequence = ?2";
    write(transaction, query, network, sequence, entry)
}

fn write(
    transaction: &Connection,
    query: &str,
    network: &NetworkId,
    sequence: u64,
    entry: &StoredEntry,
) -> rusqlite::Result<()> {
    let (sequence, mark) = (position(sequence)?, mark(entry.trust));
    let sum = checksum(network, sequence, mark, &entry.bytes);
    match transaction.prepare_cached(query)?.execute(params![network.as_bytes(), sequence, entry.bytes, mark, sum])? {
        1 => Ok(()),
        rows => Err(rusqlite::Error::StatementChangedRows(rows)),
    }
}

fn position(sequence: u64) -> rusqlite::Result<i64> {
    i64::try_from(sequence).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(1, i64::MAX))
}

/// Gives every entry that has none a checksum.
fn add_checksums(transaction: &Connection) -> rusqlite::Result<()> {
    let mut query = transaction.prepare("SELECT network, sequence, bytes, trust FROM entry WHERE checksum IS NULL")?;
    let mut update = transaction.prepare("UPDATE entry SET checksum = ?3 WHERE network = ?1 AND sequence = ?2")?;
    let mut sums = Vec::new();
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (network, sequence) = (NetworkId::from_bytes(row.get(0)?), row.get(1)?);
        sums.push((network, sequence, checksum(&network, sequence, row.get(3)?, row.get_ref(2)?.as_blob()?)));
    }
    for (network, sequence, sum) in sums {
        update.execute(params![network.as_bytes(), sequence, sum])?;
    }
    Ok(())
}

fn checksum(network: &NetworkId, sequence: i64, mark: i64, bytes: &[u8]) -> [u8; 16] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(network.as_bytes());
    context.update(&sequence.to_be_bytes());
    context.update(&[mark.to_le_bytes()[0]]);
    context.update(bytes);
    *context.finish().as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

const fn mark(trust: Trust) -> i64 {
    match trust {
        // What others brought is judged anew, as if nothing were known.
        Trust::Stored | Trust::Refilled => 0,
        Trust::Effective => 1,
        Trust::Skipped => 2,
    }
}

/// A row that knows nothing may hold what others brought.
const fn trust(mark: i64) -> Trust {
    match mark {
        1 => Trust::Effective,
        2 => Trust::Skipped,
        _ => Trust::Stored,
    }
}

const VERSION: i64 = 3;
/// What each version added.
const SCHEMAS: [&str; 3] = [
    "CREATE TABLE entry (
        network BLOB NOT NULL,
        sequence INTEGER NOT NULL,
        bytes BLOB NOT NULL,
        PRIMARY KEY (network, sequence)
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE token (
        bytes BLOB NOT NULL PRIMARY KEY,
        made INTEGER NOT NULL,
        network BLOB
    ) WITHOUT ROWID, STRICT;",
    "CREATE TABLE adopted (
        network BLOB NOT NULL PRIMARY KEY,
        genesis BLOB NOT NULL
    ) WITHOUT ROWID, STRICT;",
    "ALTER TABLE entry ADD COLUMN trust INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE entry ADD COLUMN checksum BLOB;
    CREATE TABLE removed (
        network BLOB NOT NULL,
        sequence INTEGER NOT NULL,
        bytes BLOB NOT NULL,
        trust INTEGER NOT NULL,
        checksum BLOB,
        PRIMARY KEY (network, sequence)
    ) WITHOUT ROWID, STRICT;",
];

const ENTRY_STORED: &str = "SELECT EXISTS (SELECT 1 FROM entry WHERE network = ?1 AND sequence = ?2 AND bytes = ?3)";
const LOG_CUT: &str = "SELECT NOT EXISTS (SELECT 1 FROM entry WHERE network = ?1 AND sequence >= ?2 AND ?3 = x'')";
const TOKEN_USED: &str = "SELECT EXISTS (SELECT 1 FROM token WHERE network = ?1 AND ?2 = 0 AND bytes = ?3)";
const GENESIS_STORED: &str = "SELECT EXISTS (SELECT 1 FROM adopted WHERE network = ?1 AND ?2 = 0 AND genesis = ?3)";

/// Changes in one commit.
const MAX_BATCH: usize = 256;

#[cfg(test)]
mod power;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    pub(super) const NETWORK: NetworkId = NetworkId::from_bytes([1; 32]);

    pub(super) fn token(n: u8) -> Token {
        Token::from_bytes([n; 16])
    }

    pub(super) fn effective(bytes: Vec<u8>) -> StoredEntry {
        StoredEntry { bytes, trust: Trust::Effective }
    }

    fn found(ticket: u64, token_number: u8) -> (Ticket, Change) {
        let token = FoundingToken(token(token_number));
        (Ticket(ticket), Change::Found { network: NETWORK, token, entry: effective(vec![0]) })
    }

    fn append(ticket: u64, sequence: u64) -> (Ticket, Change) {
        (Ticket(ticket), Change::Append { network: NETWORK, sequence, entry: effective(vec![sequence as u8]) })
    }

    pub(super) fn outcomes(storage: &mut Storage, changes: &[(Ticket, Change)]) -> Vec<Outcome> {
        let answers = storage.store(changes);
        assert!(answers.iter().map(|(ticket, _)| ticket).eq(changes.iter().map(|(ticket, _)| ticket)));
        answers.into_iter().map(|(_, outcome)| outcome).collect()
    }

    #[test]
    fn logs_come_back_in_order_and_without_gaps() {
        use Outcome::{Durable, Failed};
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("signal.db");
        let mut storage = Storage::open(&path).unwrap();
        storage.add_token(&token(7), 5).unwrap();
        let first = [found(0, 7), append(1, 1), append(2, 3), append(3, 2)];
        assert_eq!(outcomes(&mut storage, &first), [Durable, Durable, Failed, Durable]);
        assert_eq!(outcomes(&mut storage, &[append(4, 2), append(5, 4), append(6, 3)]), [Failed, Failed, Durable]);
        assert_eq!(outcomes(&mut storage, &[found(7, 7), found(8, 9)]), [Failed, Failed]);
        drop(storage);
        let stored = Storage::open(&path).unwrap().load().unwrap();
        assert_eq!(stored.logs, [(NETWORK, (0..4).map(|n| effective(vec![n])).collect())]);
        assert!(stored.damaged.is_empty());
        assert_eq!(stored.tokens, [(FoundingToken(token(7)), Some(NETWORK))]);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn full_disk_takes_nothing_and_goes_on_when_there_is_room() {
        use Outcome::{Durable, Failed};
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("signal.db");
        let mut storage = Storage::open(&path).unwrap();
        storage.add_token(&token(7), 5).unwrap();
        assert_eq!(outcomes(&mut storage, &[found(0, 7)]), [Durable]);
        let pages: i64 = storage.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        let limit = |storage: &Storage, pages: i64| {
            let set: i64 = storage
                .connection
                .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| row.get(0))
                .unwrap();
            assert_eq!(set, pages);
        };
        limit(&storage, pages + 1);
        let large = |ticket, sequence| {
            let entry = effective(vec![sequence as u8; 3000]);
            (Ticket(ticket), Change::Append { network: NETWORK, sequence, entry })
        };
        let mut stored = 0;
        for round in 0..10 {
            let batch: Vec<_> = (0..3).map(|n| large(10 * round + n, stored + 1 + n)).collect();
            let got = outcomes(&mut storage, &batch);
            let durable = got.iter().take_while(|outcome| **outcome == Durable).count();
            assert!(got[durable..].iter().all(|outcome| *outcome == Failed), "nothing after a gap: {got:?}");
            stored += durable as u64;
        }
        let held = Storage::open(&path).unwrap().load().unwrap();
        assert_eq!(held.logs[0].1.len() as u64, 1 + stored, "what was said to be stored, and no more");
        limit(&storage, pages + 100);
        assert_eq!(outcomes(&mut storage, &[large(900, stored + 1), append(901, stored + 2)]), [Durable, Durable]);
    }

    #[test]
    fn token_is_spent_once_and_stays_so() {
        use Outcome::{Durable, Failed};
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("signal.db");
        let mut storage = Storage::open(&path).unwrap();
        storage.add_token(&token(7), 5).unwrap();
        let spend = |ticket, network| {
            (
                Ticket(ticket),
                Change::Spend { network: NetworkId::from_bytes([network; 32]), token: FoundingToken(token(7)) },
            )
        };
        assert_eq!(outcomes(&mut storage, &[spend(0, 1), spend(1, 2)]), [Durable, Failed]);
        drop(storage);
        let stored = Storage::open(&path).unwrap().load().unwrap();
        assert_eq!(stored.tokens, [(FoundingToken(token(7)), Some(NetworkId::from_bytes([1; 32])))]);
    }

    #[test]
    fn networks_that_are_mirrored_come_back_and_use_their_token_once() {
        use Outcome::{Durable, Failed};
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("signal.db");
        let mut storage = Storage::open(&path).unwrap();
        storage.add_token(&token(7), 5).unwrap();
        let adopt = |ticket| {
            let token = FoundingToken(token(7));
            (Ticket(ticket), Change::Adopt { network: NETWORK, token, genesis: vec![9, 9] })
        };
        assert_eq!(
            outcomes(&mut storage, &[adopt(0), adopt(1), append(2, 1), append(3, 0)]),
            [Durable, Failed, Failed, Durable]
        );
        drop(storage);
        let stored = Storage::open(&path).unwrap().load().unwrap();
        assert_eq!(stored.adopted, [(NETWORK, vec![9, 9])]);
        assert_eq!(stored.logs, [(NETWORK, vec![effective(vec![0])])]);
        assert_eq!(stored.tokens, [(FoundingToken(token(7)), Some(NETWORK))]);
    }

    #[test]
    fn older_databases_are_brought_along() {
        for version in [1, 2] {
            let parent = tempfile::tempdir().unwrap();
            let path = parent.path().join("signal.db");
            let old = Connection::open(&path).unwrap();
            SCHEMAS[..version].iter().for_each(|schema| old.execute_batch(schema).unwrap());
            old.pragma_update(None, "user_version", version as i64).unwrap();
            let row = params![NETWORK.as_bytes(), vec![7_u8]];
            old.execute("INSERT INTO entry (network, sequence, bytes) VALUES (?1, 0, ?2)", row).unwrap();
            drop(old);
            let mut storage = Storage::open(&path).unwrap();
            assert_eq!(outcomes(&mut storage, &[append(1, 1)]), [Outcome::Durable]);
            let stored = Storage::open(&path).unwrap().load().unwrap();
            assert_eq!(stored.logs, [(NETWORK, vec![vec![7].into(), effective(vec![1])])]);
            assert!(stored.damaged.is_empty(), "what was there has a checksum");
        }
    }

    #[test]
    fn damaged_rows_are_noticed_mended_and_taken_out() {
        use Outcome::{Durable, Failed};
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("signal.db");
        let mut storage = Storage::open(&path).unwrap();
        storage.add_token(&token(7), 5).unwrap();
        outcomes(&mut storage, &[found(0, 7), append(1, 1), append(2, 2), append(3, 3)]);
        for harm in ["bytes = x'99'", "trust = 2", "checksum = x'00'"] {
            let query = format!("UPDATE entry SET {harm} WHERE sequence = 2");
            storage.connection.execute(&query, []).unwrap();
            assert_eq!(storage.load().unwrap().damaged.into_iter().collect::<Vec<_>>(), [(NETWORK, 2)], "{harm}");
            let mend = |sequence| Change::Mend { network: NETWORK, sequence, entry: effective(vec![2]) };
            assert_eq!(outcomes(&mut storage, &[(Ticket(4), mend(2)), (Ticket(5), mend(4))]), [Durable, Failed]);
            let stored = storage.load().unwrap();
            assert!(stored.damaged.is_empty());
            assert_eq!(stored.logs[0].1[2], effective(vec![2]));
        }
        for _ in 0..2 {
            let cut = (Ticket(6), Change::Cut { network: NETWORK, length: 2 });
            assert_eq!(
                outcomes(&mut storage, &[cut, append(7, 3), append(8, 2), append(9, 3)]),
                [Durable, Failed, Durable, Durable]
            );
        }
        let kept: i64 = storage.connection.query_row("SELECT COUNT(*) FROM removed", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, 2, "nothing is thrown away");
    }

    #[test]
    fn newer_databases_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("signal.db");
        let storage = Storage::open(&path).unwrap();
        storage.connection.pragma_update(None, "user_version", 4).unwrap();
        drop(storage);
        let error = format!("{:#}", Storage::open(&path).err().unwrap());
        assert!(error.contains("version 4") && error.contains("newer ginnel-signal"), "{error}");
    }

    #[test]
    fn writer_answers_every_change_before_it_ends() {
        let parent = tempfile::tempdir().unwrap();
        let storage = Storage::open(&parent.path().join("signal.db")).unwrap();
        storage.add_token(&token(7), 5).unwrap();
        let (sender, answers) = mpsc::channel();
        let writer = storage.into_writer(move |outcomes| sender.send(outcomes).unwrap()).unwrap();
        let (ticket, change) = found(0, 7);
        writer.store(ticket, change);
        for sequence in 1..100 {
            let (ticket, change) = append(sequence, sequence);
            writer.store(ticket, change);
        }
        writer.finish();
        let all: Vec<_> = answers.iter().flatten().collect();
        assert_eq!(all.len(), 100);
        assert!(all.iter().all(|(_, outcome)| *outcome == Outcome::Durable));
    }

    #[test]
    fn journal_is_as_private_as_the_database() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("signal.db");
        let storage = Storage::open(&path).unwrap();
        storage.add_token(&token(7), 5).unwrap();
        for file in std::fs::read_dir(parent.path()).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600, "{:?}", file.file_name());
        }
        assert!(parent.path().join("signal.db-wal").exists());
    }
}
