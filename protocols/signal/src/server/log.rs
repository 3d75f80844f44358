//! One network's log on this server: what is on disk, what is on its way there, and whether this server orders it.
//!
//! An entry of this server's own making takes effect when it is on disk, one after the other, so that a disk that fails
//! has nothing to undo. Entries that another server made come many at a time and take effect at once, since each is
//! judged by those before it; a disk that fails them undoes them all, and they can be had again.

use std::collections::{BTreeMap, VecDeque};

use ginnel_membership::record::{BadGenesis, Genesis, check_genesis, network_id};
use ginnel_membership::sequencer::Trust;
use ginnel_membership::{
    Applied, Break, Entry, Malformed, NetworkId, Placed, Record, Refusal as Rejection, Sequencer, SequencerKey,
    Server as ServerRecord, SignedRecord, SigningKey, State,
};

use super::answers::Asker;
use super::{StoredEntry, Ticket};
use crate::frame::MAX_MESSAGE;
use crate::message::{Head, ServerMessage};

/// A network's log.
pub(crate) struct Log {
    id: NetworkId,
    key: SigningKey,
    /// Holds the log whoever orders it, and signs only where [`Self::role`] says so. Ahead of `entries` by `batch`.
    sequencer: Sequencer,
    genesis: Vec<u8>,
    charter: Genesis,
    /// Encoded entries that are on disk.
    entries: Vec<Box<[u8]>>,
    /// What is known of each one's record.
    trusts: Vec<Trust>,
    bytes: usize,
    head: [u8; 32],
    /// The servers by the last entry on disk that changed them, and those that were, with the length of what they saw.
    listed: Vec<SequencerKey>,
    former: BTreeMap<SequencerKey, u64>,
    own: Option<Coming>,
    batch: VecDeque<Coming>,
    batch_bytes: usize,
}

/// An entry on its way to the disk.
struct Coming {
    ticket: Ticket,
    entry: Entry,
    encoded: Box<[u8]>,
    /// Whether it took effect, or will.
    trust: Trust,
    askers: Vec<Asker>,
}

/// What this server does for a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It orders the log.
    Sequencer,
    /// It holds a copy and hands records on.
    Mirror,
}

/// How a key stands among a network's servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is one of them.
    Server,
    /// It was one of them, and may see the log up to the entry that ended that.
    Former { until: u64 },
    /// It never was.
    Nobody,
}

/// What became of a record that was to be ordered.
pub(crate) enum Proposed {
    /// It has been in the log before.
    Known(u64),
    /// It is to be stored.
    New { sequence: u64, entry: StoredEntry },
}

/// What became of an entry that another server made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// It was in the log.
    Known,
    /// Entries before it are missing.
    Beyond,
    /// It is to be stored.
    New(StoredEntry),
}

/// Why an entry is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It is no entry, or not of the place it was said to be of.
    Malformed,
    /// The sequencer did not sign it, or it does not continue the log.
    Bad(String),
    /// It and the log claim one place.
    Fork {
        /// Whether the entry proves that admins moved the log to another sequencer in a place that this server filled.
        moved: bool,
    },
    /// The log is as long as this server takes.
    TooLarge,
}

/// An entry that reached the disk.
pub(crate) struct Settled {
    pub(crate) sequence: u64,
    pub(crate) askers: Vec<Asker>,
}

/// A stored log that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log of network {network}, entry {sequence}: {why}")]
pub struct BadLog {
    /// The network.
    pub network: NetworkId,
    /// The first entry that is wrong.
    pub sequence: u64,
    /// What is wrong with it.
    pub why: String,
}

impl Log {
    /// Orders the genesis of a new network; the entry is not on disk yet.
    pub(crate) fn found(
        id: NetworkId,
        key: SigningKey,
        unix: u64,
        genesis: &[u8],
    ) -> Result<(Self, StoredEntry), Rejection> {
        if network_id(genesis) != id {
            return Err(BadGenesis::OtherNetwork.into());
        }
        let charter = check_genesis(genesis, Some(&id))?;
        // The founder's own time, so that a server that founded this network before, and lost it, makes the same entry again.
        let time = unix.min(charter.time);
        let (sequencer, entry) = Sequencer::found(key.clone(), time, genesis)?;
        let mut log = Self::empty(id, key, sequencer, genesis.to_vec(), charter);
        let encoded = entry.encode();
        log.settle(&entry, encoded.clone().into(), Trust::Effective);
        Ok((log, StoredEntry { bytes: encoded, trust: Trust::Effective }))
    }

    /// Takes up a network whose log is elsewhere.
    pub(crate) fn adopt(id: NetworkId, key: SigningKey, genesis: &[u8]) -> Result<Self, BadGenesis> {
        let charter = check_genesis(genesis, Some(&id))?;
        let sequencer = Sequencer::mirror(key.clone(), id);
        Ok(Self::empty(id, key, sequencer, genesis.to_vec(), charter))
    }

    /// Takes up a stored log, which this server verified entry by entry when it stored it.
    pub(crate) fn restore(id: NetworkId, key: SigningKey, stored: Vec<StoredEntry>) -> Result<Self, BadLog> {
        let bad = |sequence, why: String| BadLog { network: id, sequence, why };
        let mut decoded = Vec::with_capacity(stored.len());
        for (sequence, entry) in (0..).zip(&stored) {
            decoded.push(Entry::decode(&entry.bytes).map_err(|why| bad(sequence, why.to_string()))?);
        }
        let Some(first) = decoded.first() else { return Err(bad(0, "the log is empty".to_owned())) };
        let genesis = first.record.clone();
        let charter = check_genesis(&genesis, Some(&id)).map_err(|why| bad(0, why.to_string()))?;
        let trusted = decoded.iter().zip(stored.iter().map(|entry| entry.trust));
        let resumed = Sequencer::resume_with(key.clone(), id, trusted);
        let (sequencer, trusts) = resumed.map_err(|why| bad(0, why.to_string()))?;
        let mut log = Self::empty(id, key, sequencer, genesis, charter);
        for ((entry, stored), trust) in decoded.iter().zip(stored).zip(trusts) {
            log.settle(entry, stored.bytes.into(), trust);
        }
        Ok(log)
    }

    fn empty(id: NetworkId, key: SigningKey, sequencer: Sequencer, genesis: Vec<u8>, charter: Genesis) -> Self {
        Self {
            listed: charter.servers.iter().map(|server| server.keys.sequencer()).collect(),
            former: BTreeMap::new(),
            id,
            key,
            sequencer,
            genesis,
            charter,
            entries: Vec::new(),
            trusts: Vec::new(),
            bytes: 0,
            head: id.to_bytes(),
            own: None,
            batch: VecDeque::new(),
            batch_bytes: 0,
        }
    }

    fn settle(&mut self, entry: &Entry, encoded: Box<[u8]>, trust: Trust) {
        // What meant nothing has named nobody.
        if trust == Trust::Effective
            && let Ok(Record::Servers(body)) = servers_record(&entry.record)
        {
            let now: Vec<SequencerKey> = body.servers.iter().map(|server| server.keys.sequencer()).collect();
            let gone = self.listed.iter().filter(|key| !now.contains(key));
            self.former.extend(gone.map(|key| (*key, entry.sequence + 1)));
            self.listed = now;
        }
        self.trusts.push(trust);
        self.bytes += encoded.len();
        self.entries.push(encoded);
        self.head = entry.hash();
    }

    /// Makes an entry for a record, unless the record is in the log; `askers` are taken with it. Only while
    /// [`Self::is_idle`], and only as sequencer.
    pub(crate) fn propose(
        &mut self,
        unix: u64,
        record: &[u8],
        ticket: Ticket,
        askers: &mut Vec<Asker>,
    ) -> Result<Proposed, Rejection> {
        let placed = self.sequencer.prepare(unix, record)?;
        Ok(self.proposed(placed, ticket, askers))
    }

    /// Makes the entry by which this server becomes the sequencer. Only while [`Self::is_idle`].
    pub(crate) fn propose_takeover(
        &mut self,
        unix: u64,
        record: &[u8],
        ticket: Ticket,
        askers: &mut Vec<Asker>,
    ) -> Result<Proposed, Rejection> {
        let placed = self.sequencer.take_over(unix, record)?;
        Ok(self.proposed(placed, ticket, askers))
    }

    fn proposed(&mut self, placed: Placed, ticket: Ticket, askers: &mut Vec<Asker>) -> Proposed {
        match placed {
            Placed::Existing(entry) => Proposed::Known(entry.sequence),
            Placed::New(entry) => {
                let (sequence, encoded) = (entry.sequence, entry.encode());
                let askers = std::mem::take(askers);
                // Judged just before it was made.
                let trust = Trust::Effective;
                self.own = Some(Coming { ticket, entry, encoded: encoded.clone().into(), trust, askers });
                Proposed::New { sequence, entry: StoredEntry { bytes: encoded, trust } }
            }
        }
    }

    /// Takes an entry that another server made, or this one before its disk forgot it.
    pub(crate) fn accept(&mut self, sequence: u64, encoded: &[u8], ticket: Ticket) -> Result<Accepted, Unfit> {
        let entry = Entry::decode(encoded).map_err(|_| Unfit::Malformed)?;
        if entry.sequence != sequence {
            return Err(Unfit::Malformed);
        }
        let next = self.state().head().0;
        if sequence > next || (sequence == next && self.own.is_some()) {
            return Ok(Accepted::Beyond);
        }
        let own = self.key.sequencer_key();
        // This server orders nothing that means nothing, so such an entry of its own office is a thief's.
        if sequence == next
            && self.state().sequencer() == Some(own)
            && let Err(rejection) = self.state().judge(entry.time, &entry.record)
        {
            return Err(Unfit::Bad(format!("this server did not order it: {rejection}")));
        }
        match self.sequencer.apply(&entry) {
            Ok(Applied::Known) => Ok(Accepted::Known),
            Ok(Applied::Changed(_)) => Ok(self.coming(entry, encoded, ticket, Trust::Effective)),
            Ok(Applied::Skipped(_)) => Ok(self.coming(entry, encoded, ticket, Trust::Skipped)),
            Err(Break::Fork { .. }) => {
                let moved = self.state().office_of(sequence) == Some(own) && self.state().is_handover(&entry);
                Err(Unfit::Fork { moved })
            }
            Err(why) => Err(Unfit::Bad(why.to_string())),
        }
    }

    fn coming(&mut self, entry: Entry, encoded: &[u8], ticket: Ticket, trust: Trust) -> Accepted {
        self.batch_bytes += encoded.len();
        self.batch.push_back(Coming { ticket, entry, encoded: encoded.into(), trust, askers: Vec::new() });
        Accepted::New(StoredEntry { bytes: encoded.to_vec(), trust })
    }

    /// An entry reached the disk; `None` where `ticket` names none, or not the one whose turn it is.
    pub(crate) fn advance(&mut self, ticket: Ticket) -> Option<Settled> {
        let coming = if self.own.as_ref().is_some_and(|own| own.ticket == ticket) {
            let own = self.own.take()?;
            self.sequencer.apply(&own.entry).expect("an entry made for the log's end continues it");
            own
        } else if self.batch.front()?.ticket == ticket {
            let coming = self.batch.pop_front()?;
            self.batch_bytes -= coming.encoded.len();
            coming
        } else {
            return None;
        };
        self.settle(&coming.entry, coming.encoded, coming.trust);
        Some(Settled { sequence: coming.entry.sequence, askers: coming.askers })
    }

    /// Forgets what is on its way to the disk; returns who asked for it.
    pub(crate) fn roll_back(&mut self) -> Vec<Asker> {
        if !self.batch.is_empty() {
            self.batch.clear();
            self.batch_bytes = 0;
            let decode = |encoded: &[u8]| Entry::decode(encoded).expect("settled entries are our own encoding");
            let entries = self.entries.iter().map(|encoded| decode(encoded)).zip(self.trusts.iter().copied());
            let resumed = Sequencer::resume_with(self.key.clone(), self.id, entries);
            self.sequencer = resumed.expect("settled entries were applied before").0;
        }
        self.own.take().map(|own| own.askers).unwrap_or_default()
    }

    /// Somebody else asks for the record that is on its way; whether it is.
    pub(crate) fn join(&mut self, record: &[u8], asker: Asker) -> bool {
        let own = self.own.as_mut().filter(|own| own.entry.record == record);
        own.map(|own| own.askers.push(asker)).is_some()
    }

    /// The sequence of a record that took effect and is on disk.
    pub(crate) fn find(&self, record: &[u8]) -> Option<u64> {
        self.sequencer.find(record).filter(|sequence| *sequence < self.length())
    }

    /// An entry as it is to be on disk.
    pub(crate) fn stored(&self, sequence: u64) -> Option<StoredEntry> {
        let place = usize::try_from(sequence).ok()?;
        Some(StoredEntry { bytes: self.entries.get(place)?.to_vec(), trust: *self.trusts.get(place)? })
    }

    /// Entries from `from` on, as many as fit into one message of the server.
    pub(crate) fn fetch(&self, from: u64) -> Vec<Vec<u8>> {
        self.chunk(from, MAX_MESSAGE - ENTRIES_OVERHEAD)
    }

    /// Entries from `from` on, as many as fit into `room` bytes.
    pub(crate) fn chunk(&self, from: u64, mut room: usize) -> Vec<Vec<u8>> {
        let start = usize::try_from(from).unwrap_or(usize::MAX);
        let mut chunk = Vec::new();
        for entry in self.entries.iter().skip(start) {
            let Some(left) = room.checked_sub(entry.len() + ENTRY_OVERHEAD) else { break };
            room = left;
            chunk.push(entry.to_vec());
        }
        chunk
    }

    /// How many entries are on their way to the disk.
    pub(crate) fn backlog(&self) -> usize {
        self.batch.len()
    }

    /// Whether nothing is on its way to the disk.
    pub(crate) fn is_idle(&self) -> bool {
        self.own.is_none() && self.batch.is_empty()
    }

    /// What this server does for the log.
    pub(crate) fn role(&self) -> Role {
        if self.state().sequencer() == Some(self.key.sequencer_key()) { Role::Sequencer } else { Role::Mirror }
    }

    /// The key that orders the log, by the genesis while there is nothing else to go by.
    pub(crate) fn orderer(&self) -> SequencerKey {
        self.state().sequencer().unwrap_or(self.charter.sequencer)
    }

    /// The network's servers, this one included.
    pub(crate) fn servers(&self) -> &[ServerRecord] {
        let servers = self.state().servers();
        if servers.is_empty() { &self.charter.servers } else { servers }
    }

    /// Whether `key` is one of the network's servers.
    pub(crate) fn is_server(&self, key: &SequencerKey) -> bool {
        self.servers().iter().any(|server| server.keys.sequencer() == *key)
    }

    /// How `key` stands among the network's servers.
    pub(crate) fn place_of(&self, key: &SequencerKey) -> Place {
        if self.is_server(key) {
            return Place::Server;
        }
        self.former.get(key).map_or(Place::Nobody, |until| Place::Former { until: *until })
    }

    /// Whether the record is the one that founded the network.
    pub(crate) fn is_genesis(&self, record: &[u8]) -> bool {
        self.genesis == record
    }

    /// The network as the log tells it.
    pub(crate) const fn state(&self) -> &State {
        self.sequencer.state()
    }

    /// The end of what is on disk.
    pub(crate) fn head(&self) -> Head {
        Head { length: self.length(), hash: self.head }
    }

    /// The end of the first `length` entries, or of what is on disk where that is less.
    pub(crate) fn head_at(&self, length: u64) -> Head {
        match self.state().head_at(length) {
            Some(hash) if length < self.length() => Head { length, hash },
            Some(_) | None => self.head(),
        }
    }

    /// The sequence of the newest checkpoint that is on disk and whose state is here.
    pub(crate) fn checkpoint(&self) -> Option<u64> {
        self.state().checkpoint_snapshot()?;
        self.state().checkpoint().map(|checkpoint| checkpoint.length).filter(|sequence| *sequence < self.length())
    }

    /// A piece of the newest checkpoint's state.
    pub(crate) fn snapshot(&self, offset: u64) -> Option<ServerMessage> {
        let entry = self.entries.get(usize::try_from(self.checkpoint()?).ok()?)?.to_vec();
        let snapshot = self.state().checkpoint_snapshot()?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(snapshot.len());
        let end = start.saturating_add(SNAPSHOT_PIECE).min(snapshot.len());
        let bytes = snapshot.get(start..end).unwrap_or_default().to_vec();
        Some(ServerMessage::Snapshot { entry, total: snapshot.len() as u64, offset: start as u64, bytes })
    }

    /// Entries on disk.
    pub(crate) fn length(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Bytes of the entries on disk and of those that others made and that are on their way there.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes + self.batch_bytes
    }

    pub(crate) const fn id(&self) -> NetworkId {
        self.id
    }
}

/// Version, variant, first sequence, count, head: at most this many bytes.
const ENTRIES_OVERHEAD: usize = 64;
/// The length before one entry.
const ENTRY_OVERHEAD: usize = 3;

/// Bytes of a checkpoint's state in one message, beside the checkpoint's entry.
pub const SNAPSHOT_PIECE: usize = 60_000;

/// A record, if it is one that names servers; nothing else is decoded.
fn servers_record(record: &[u8]) -> Result<Record, Malformed> {
    match record {
        [_, SERVERS_TYPE, ..] => SignedRecord::decode(record).map(|signed| signed.record().clone()),
        [..] => Err(Malformed::Truncated),
    }
}

/// The type byte of a record that names servers.
const SERVERS_TYPE: u8 = 9;
