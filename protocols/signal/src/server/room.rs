//! How much of a log is for whom. No member fills it with its updates so that nobody is let in, nobody who may invite fills
//! it so that it cannot be governed, and no full log keeps a member from being revoked or the log from being moved.

use ginnel_membership::entry::MAX_ENTRY_LEN;
use ginnel_membership::record::MAX_RECORD_LEN;
use ginnel_membership::{Record, SignedRecord};

use super::limits::Limits;

/// How long a log may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    entries: u64,
    bytes: usize,
}

impl Room {
    /// Whether an entry of this place, with which the log has so many bytes, fits.
    pub(crate) const fn holds(self, sequence: u64, bytes: usize) -> bool {
        sequence < self.entries && bytes <= self.bytes
    }

    fn new(limits: &Limits, eighths: usize) -> Self {
        // Divided first: limits may be as large as the type holds. One more, so that tiny logs have room for a revocation.
        let beyond = usize::from(eighths > WHOLE);
        let share =
            |limit: usize| (limit / WHOLE).saturating_mul(eighths).saturating_add(limit % WHOLE * eighths / WHOLE);
        Self { entries: share(limits.log_entries).saturating_add(beyond) as u64, bytes: share(limits.log_bytes) }
    }
}

/// How long the log may become by this record's entry.
pub(crate) fn room_for(record: &[u8], limits: &Limits) -> Room {
    let eighths = match SignedRecord::decode(record).as_ref().map(SignedRecord::record) {
        Ok(Record::MemberUpdate(_)) => 6,
        Ok(Record::Invite(_) | Record::Member(_)) => 7,
        // Delegates sign these alone.
        Ok(Record::Lease(_) | Record::InviteVoid(_) | Record::Genesis(_)) | Err(_) => WHOLE,
        Ok(
            Record::Revoke(_) | Record::AdminChange(_) | Record::Servers(_) | Record::Policy(_) | Record::Checkpoint(_),
        ) => MOST,
    };
    Room::new(limits, eighths)
}

/// How long the log may become at all: what a mirror takes of a sequencer with the same limits.
pub(crate) fn most(limits: &Limits) -> Room {
    Room::new(limits, MOST)
}

/// Bytes of the entry that holds a record.
pub(crate) const fn entry_len(record: &[u8]) -> usize {
    record.len() + (MAX_ENTRY_LEN - MAX_RECORD_LEN)
}

const WHOLE: usize = 8;
const MOST: usize = 10;
