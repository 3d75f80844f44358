//! What a server has on disk, read without changing anything there.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use ginnel_membership::{Entry, InviteKey, Record, SignedRecord};
use rusqlite::{Connection, OpenFlags};

/// The records of a server's logs.
pub(crate) struct OnDisk {
    records: Vec<Record>,
}

impl OnDisk {
    /// What a dead server left. Its files are copied first: whoever opens a database recovers it, which is to be the
    /// server's own work.
    pub(crate) fn of_dead(state: &Path) -> Result<Self> {
        let copy = crate::files::scratch()?;
        for file in [DATABASE, JOURNAL] {
            let (from, to) = (state.join(file), copy.path().join(file));
            if from.exists() {
                std::fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
            }
        }
        Self::read(&Connection::open(copy.path().join(DATABASE))?)
    }

    /// What a living server has. The connection is closed before this returns, so that nothing is left for the server's
    /// successor to find.
    pub(crate) fn of_living(state: &Path) -> Result<Self> {
        Self::read(&Connection::open_with_flags(state.join(DATABASE), OpenFlags::SQLITE_OPEN_READ_ONLY)?)
    }

    fn read(database: &Connection) -> Result<Self> {
        let mut query = database.prepare("SELECT bytes FROM entry ORDER BY network, sequence")?;
        let rows: Vec<Vec<u8>> = query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let record = |bytes: &Vec<u8>| -> Result<Record> {
            let entry = Entry::decode(bytes).map_err(|error| anyhow!("a stored entry: {error:?}"))?;
            let signed = SignedRecord::decode(&entry.record).map_err(|error| anyhow!("a stored record: {error:?}"))?;
            Ok(signed.record().clone())
        };
        Ok(Self { records: rows.iter().map(record).collect::<Result<_>>()? })
    }

    /// Every invite that was ever made.
    pub(crate) fn invites(&self) -> BTreeSet<InviteKey> {
        let made = |record: &Record| if let Record::Invite(invite) = record { Some(invite.key) } else { None };
        self.records.iter().filter_map(made).collect()
    }

    /// Whether somebody has used an invite.
    pub(crate) fn has_used(&self, invite: &InviteKey) -> bool {
        self.records.iter().any(|record| matches!(record, Record::Member(enrolment) if enrolment.invite == *invite))
    }
}

const DATABASE: &str = "signal.db";
const JOURNAL: &str = "signal.db-wal";
