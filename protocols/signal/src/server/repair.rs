//! Logs that the disk has damaged.
//!
//! The chain of hashes covers all of an entry but its signature. Where it still holds, an entry is as it was but for the
//! signature, which this server makes again where it is its own: the same bytes make the same signature. All else that is
//! damaged is fetched anew by a server that only mirrors the log. One that orders it must not start without what it has
//! lost, since it would order something else in that place.

use ginnel_membership::{Context, Entry, NetworkId, Record, Signature, SignedRecord, SigningKey};

use super::log::{BadLog, Log};
use super::{Change, StoredEntry};

/// Takes up a stored log of which some entries are damaged; what the disk is to be told goes into `changes`.
pub(crate) fn restore(
    id: NetworkId,
    key: &SigningKey,
    stored: Vec<StoredEntry>,
    damaged: &[u64],
    changes: &mut Vec<Change>,
) -> Result<Log, BadLog> {
    let Some(first) = damaged.first().copied() else { return Log::restore(id, key.clone(), stored) };
    match mend(id, key, stored.clone(), damaged) {
        Ok(log) => {
            let entries = damaged.iter().filter_map(|sequence| Some((*sequence, log.stored(*sequence)?)));
            changes.extend(entries.map(|(sequence, entry)| Change::Mend { network: id, sequence, entry }));
            Ok(log)
        }
        Err(bad) => {
            let log = cut(id, key, stored, first).ok_or(bad)?;
            tracing::warn!(network = %id, first, "a mirrored log is damaged; fetching it anew from there");
            changes.push(Change::Cut { network: id, length: first });
            Ok(log)
        }
    }
}

/// Signs what is this server's own again; fails where that does not help.
fn mend(id: NetworkId, key: &SigningKey, mut stored: Vec<StoredEntry>, damaged: &[u64]) -> Result<Log, BadLog> {
    let own = key.sequencer_key();
    // What the disk says of a damaged entry is worth nothing.
    for sequence in damaged {
        if let Some(entry) = at(&mut stored, *sequence) {
            *entry = std::mem::take(&mut entry.bytes).into();
        }
    }
    // That it replays shows that the chain holds, and that the last entry's signature is good.
    let log = Log::restore(id, key.clone(), stored.clone())?;
    for sequence in damaged {
        let Some(entry) = at(&mut stored, *sequence) else { continue };
        let Some((unsigned, signature)) = entry.bytes.split_last_chunk() else { continue };
        let message = [&id.as_bytes()[..], unsigned].concat();
        let office = log.state().office_of(*sequence);
        if office.is_some_and(|key| key.verify(Context::ENTRY, &message, &Signature::from_bytes(*signature)).is_ok()) {
            continue;
        }
        if office != Some(own) {
            return Err(BadLog {
                network: id,
                sequence: *sequence,
                why: "its signature is damaged on disk".to_owned(),
            });
        }
        entry.bytes = [unsigned, &key.sign(Context::ENTRY, &message).to_bytes()].concat();
        tracing::warn!(network = %id, sequence, "signed a damaged log entry again");
    }
    Log::restore(id, key.clone(), stored)
}

/// The log before a damaged entry, where another server orders it.
fn cut(id: NetworkId, key: &SigningKey, mut stored: Vec<StoredEntry>, first: u64) -> Option<Log> {
    let own = key.sequencer_key();
    let rest = stored.split_off(usize::try_from(first).ok()?.min(stored.len()));
    // Somewhere in the rest the log may have been moved to this server.
    let names_this = |entry: &StoredEntry| {
        let record = Entry::decode(&entry.bytes).and_then(|entry| SignedRecord::decode(&entry.record));
        record.is_ok_and(|record| matches!(record.record(), Record::Servers(body) if body.sequencer == own))
    };
    if rest.iter().any(names_this) {
        return None;
    }
    let log = Log::restore(id, key.clone(), stored).ok()?;
    (log.orderer() != own).then_some(log)
}

fn at(stored: &mut [StoredEntry], sequence: u64) -> Option<&mut StoredEntry> {
    stored.get_mut(usize::try_from(sequence).ok()?)
}
