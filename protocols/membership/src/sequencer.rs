//! The server's side of a log: judges records and puts them in order.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use crate::entry::{Entry, MAX_TIME, Place};
use crate::keys::{NetworkId, Signature, SigningKey, hash};
use crate::ledger::Check;
use crate::record::{Record, check_genesis, is_checkpoint, network_id};
use crate::refusal::{Break, Refusal};
use crate::state::{Applied, State};

/// Orders one network's log, or mirrors it for the server that does: which of the two follows from the log.
///
/// Whoever stores the log must have stored an entry before anybody else sees it: two entries signed for one place are a
/// fork, and every member would take it for fraud.
#[derive(Clone)]
pub struct Sequencer {
    key: SigningKey,
    state: State,
    /// Where each record that took effect stands, so that a retry is answered and not refused.
    placed: BTreeMap<[u8; 32], Spot>,
}

/// What an entry holds beside its record and the chain.
#[derive(Clone, Copy)]
struct Spot {
    sequence: u64,
    time: u64,
    signature: Signature,
}

/// What is known of a stored entry's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The store holds it, no more. Where it stands in this server's own office, this server judged it before it signed the
    /// entry; anywhere else it is judged anew, because a dishonest sequencer may have ordered what means nothing.
    Stored,
    /// Others brought it, even if the entry bears this server's signature: it is judged anew.
    Refilled,
    /// It took effect when it was judged: its signatures are not looked at again.
    Effective,
    /// It meant nothing when it was judged: it is passed over.
    Skipped,
}

/// Where a record belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    /// In this new entry, which must be stored and then given to [`Sequencer::apply`].
    New(Entry),
    /// In this entry, which is in the log already.
    Existing(Entry),
}

impl Sequencer {
    /// Starts a log with its genesis at `now` (Unix seconds).
    ///
    /// # Errors
    /// [`Refusal`] when the genesis is bad or names another sequencer.
    pub fn found(key: SigningKey, now: u64, genesis: &[u8]) -> Result<(Self, Entry), Refusal> {
        let content = check_genesis(genesis, None)?;
        if content.sequencer != key.sequencer_key() {
            return Err(Refusal::OtherSequencer);
        }
        let network = network_id(genesis);
        let mut sequencer = Self::mirror(key.clone(), network);
        let place = Place { sequence: 0, previous: network.to_bytes(), time: now.min(MAX_TIME) };
        let entry = Entry::sign(&key, &network, place, genesis);
        sequencer.apply(&entry).expect("a checked genesis in an entry just signed founds its network");
        Ok((sequencer, entry))
    }

    /// Starts an empty mirror of a network that another server orders; [`Self::apply`] fills it.
    pub const fn mirror(key: SigningKey, network: NetworkId) -> Self {
        Self { key, state: State::new(network), placed: BTreeMap::new() }
    }

    /// Starts a mirror at a checkpoint. A record that was ordered before the checkpoint and comes again is refused, since
    /// its entry is not here.
    pub const fn mirror_at(key: SigningKey, state: State) -> Self {
        Self { key, state, placed: BTreeMap::new() }
    }

    /// Takes up a stored log of which nothing else is known: see [`Self::resume_with`] and [`Trust::Stored`].
    ///
    /// # Errors
    /// [`Break`] when the entries are not this network's log from its start.
    pub fn resume<'a, I>(key: SigningKey, network: NetworkId, entries: I) -> Result<Self, Break>
    where
        I: IntoIterator<Item = &'a Entry, IntoIter: Clone>,
    {
        let entries = entries.into_iter().map(|entry| (entry, Trust::Stored));
        Self::resume_with(key, network, entries).map(|(sequencer, _)| sequencer)
    }

    /// Takes up a stored log, and answers what is known of each entry from here on: [`Trust::Effective`] or
    /// [`Trust::Skipped`]. The chain of hashes and the signature at its end say that the entries are those that were
    /// stored; each was checked when it came. Which records are judged anew depends on what is known of them; the last one
    /// always is. Of checkpoints that are known to be good, the latest one's snapshot alone is built.
    ///
    /// # Errors
    /// [`Break`] when the entries are not this network's log from its start.
    pub fn resume_with<E, I>(key: SigningKey, network: NetworkId, entries: I) -> Result<(Self, Vec<Trust>), Break>
    where
        E: Borrow<Entry>,
        I: IntoIterator<Item = (E, Trust), IntoIter: Clone>,
    {
        let entries = entries.into_iter();
        let checkpoints = (0..).zip(entries.clone()).filter(|(_, (entry, _))| is_checkpoint(&entry.borrow().record));
        let latest =
            checkpoints.filter(|(_, (_, trust))| *trust != Trust::Skipped).last().map(|(sequence, _)| sequence);
        let (sequencer, known) = Self::replay(key.clone(), network, entries.clone(), latest)?;
        let wanted = sequencer.state.checkpoint().map(|checkpoint| checkpoint.length);
        if wanted == latest || wanted.is_none() {
            return Ok((sequencer, known));
        }
        // What looked like the latest checkpoint was none.
        let entries = entries.zip(known).map(|((entry, _), trust)| (entry, trust));
        Self::replay(key, network, entries, wanted)
    }

    /// Builds no snapshot for a checkpoint that is known to be good, but for the one in place `latest`.
    fn replay<E: Borrow<Entry>>(
        key: SigningKey,
        network: NetworkId,
        entries: impl Iterator<Item = (E, Trust)>,
        latest: Option<u64>,
    ) -> Result<(Self, Vec<Trust>), Break> {
        let mut sequencer = Self::mirror(key, network);
        let own = sequencer.key.sequencer_key();
        let mut known = Vec::new();
        let mut entries = entries.peekable();
        while let Some((entry, trust)) = entries.next() {
            let entry = entry.borrow();
            let good = if Some(entry.sequence) == latest { Check::Nothing } else { Check::Brief };
            let check = match trust {
                _ if entries.peek().is_none() => Check::All,
                Trust::Stored if sequencer.state.sequencer() == Some(own) => good,
                Trust::Stored | Trust::Refilled => Check::Records,
                Trust::Effective => good,
                Trust::Skipped => Check::Void,
            };
            known.push(match sequencer.take(entry, check)? {
                Applied::Changed(_) => Trust::Effective,
                Applied::Skipped(_) => Trust::Skipped,
                Applied::Known => return Err(Break::Gap { expected: known.len() as u64, found: entry.sequence }),
            });
        }
        Ok((sequencer, known))
    }

    /// Orders a record at `now` (Unix seconds; the log's own time where that is later). The same record appended again
    /// answers the entry that it has.
    ///
    /// # Errors
    /// [`Refusal`] when the record would mean nothing; the log has not changed then.
    pub fn append(&mut self, now: u64, record: &[u8]) -> Result<Entry, Refusal> {
        match self.prepare(now, record)? {
            Placed::Existing(entry) => Ok(entry),
            Placed::New(entry) => {
                self.apply(&entry).expect("an entry made for the log's end continues it");
                Ok(entry)
            }
        }
    }

    /// Makes the entry that [`Self::append`] would make, without taking it: for storage that must agree first.
    ///
    /// # Errors
    /// [`Refusal`] when the record would mean nothing, [`Refusal::OtherSequencer`] when this server is a mirror.
    pub fn prepare(&self, now: u64, record: &[u8]) -> Result<Placed, Refusal> {
        if let Some(existing) = self.existing(record) {
            return Ok(Placed::Existing(existing));
        }
        let time = self.entry_time(now);
        self.state.judge(time, record)?;
        if self.is_sequencer() { Ok(Placed::New(self.sign(time, record))) } else { Err(Refusal::OtherSequencer) }
    }

    /// Makes the entry by which this mirror becomes the sequencer: for a servers record that names it, when the sequencer
    /// before it is lost. What that one ordered and this mirror has not seen is a fork from here on.
    ///
    /// # Errors
    /// [`Refusal`] when the record would mean nothing, [`Refusal::OtherSequencer`] when it does not name this server.
    pub fn take_over(&self, now: u64, record: &[u8]) -> Result<Placed, Refusal> {
        if let Some(existing) = self.existing(record) {
            return Ok(Placed::Existing(existing));
        }
        let time = self.entry_time(now);
        let own = self.key.sequencer_key();
        let judged = self.state.judge(time, record)?;
        if !matches!(judged.record(), Record::Servers(body) if body.sequencer == own) {
            return Err(Refusal::OtherSequencer);
        }
        Ok(Placed::New(self.sign(time, record)))
    }

    /// Takes an entry that is stored: one of [`Self::prepare`]'s, another process's with the same key, or one that the
    /// sequencer made where this is a mirror.
    ///
    /// # Errors
    /// [`Break`] when it does not continue the log.
    pub fn apply(&mut self, entry: &Entry) -> Result<Applied, Break> {
        self.take(entry, Check::All)
    }

    /// The network as the log tells it.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The place of a record that took effect, retries of it included.
    pub fn find(&self, record: &[u8]) -> Option<u64> {
        self.placed.get(&record_hash(record)).map(|spot| spot.sequence)
    }

    /// Whether this server orders the log, rather than mirror it.
    pub fn is_sequencer(&self) -> bool {
        self.state.sequencer() == Some(self.key.sequencer_key())
    }

    fn take(&mut self, entry: &Entry, check: Check) -> Result<Applied, Break> {
        let applied = self.state.apply_checked(entry, check)?;
        if let Applied::Changed(_) = applied {
            let Entry { sequence, time, signature, .. } = *entry;
            self.placed.entry(record_hash(&entry.record)).or_insert(Spot { sequence, time, signature });
        }
        Ok(applied)
    }

    /// The time of an entry made at `now`, whatever the clock says.
    fn entry_time(&self, now: u64) -> u64 {
        now.min(MAX_TIME).max(self.state.time())
    }

    fn sign(&self, time: u64, record: &[u8]) -> Entry {
        let (sequence, previous) = self.state.head();
        Entry::sign(&self.key, &self.state.network(), Place { sequence, previous, time }, record)
    }

    /// The entry that holds `record`.
    fn existing(&self, record: &[u8]) -> Option<Entry> {
        let Spot { sequence, time, signature } = *self.placed.get(&record_hash(record))?;
        let previous = self.state.head_at(sequence)?;
        Some(Entry { sequence, previous, time, record: record.to_vec(), signature })
    }
}

fn record_hash(record: &[u8]) -> [u8; 32] {
    hash("ginnel record v1", &[record])
}
