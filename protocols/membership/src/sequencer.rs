//! The server's side of a log: judges records and puts them in order.

use std::collections::BTreeMap;

use crate::entry::{Entry, Place};
use crate::keys::{NetworkId, SigningKey, hash};
use crate::record::{check_genesis, network_id};
use crate::refusal::{Break, Refusal};
use crate::state::{Applied, State};

/// Orders one network's log.
///
/// Whoever stores the log must have stored an entry before anybody else sees it: two entries signed for one place are a
/// fork, and every member would take it for fraud.
#[derive(Clone)]
pub struct Sequencer {
    key: SigningKey,
    state: State,
    /// Where each record that took effect stands, so that a retry is answered and not refused.
    placed: BTreeMap<[u8; 32], (u64, u64)>,
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
        let place = Place { sequence: 0, previous: network.to_bytes(), time: now };
        let entry = Entry::sign(&key, &network, place, genesis);
        let mut sequencer = Self { key, state: State::new(network), placed: BTreeMap::new() };
        sequencer.apply(&entry).expect("a checked genesis in an entry just signed founds its network");
        Ok((sequencer, entry))
    }

    /// Takes up a stored log.
    ///
    /// # Errors
    /// [`Break`] when the entries are not this network's log from its start.
    pub fn resume<'a>(
        key: SigningKey,
        network: NetworkId,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<Self, Break> {
        let mut sequencer = Self { key, state: State::new(network), placed: BTreeMap::new() };
        for entry in entries {
            sequencer.apply(entry)?;
        }
        Ok(sequencer)
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
    /// [`Refusal`] when the record would mean nothing.
    pub fn prepare(&self, now: u64, record: &[u8]) -> Result<Placed, Refusal> {
        if let Some(existing) = self.existing(record) {
            return Ok(Placed::Existing(existing));
        }
        let time = now.max(self.state.time());
        self.state.judge(time, record)?;
        let (sequence, previous) = self.state.head();
        Ok(Placed::New(Entry::sign(&self.key, &self.state.network(), Place { sequence, previous, time }, record)))
    }

    /// Takes an entry that is stored: one of [`Self::prepare`]'s, or another process's with the same key.
    ///
    /// # Errors
    /// [`Break`] when it does not continue the log.
    pub fn apply(&mut self, entry: &Entry) -> Result<Applied, Break> {
        let applied = self.state.apply(entry)?;
        if let Applied::Changed(_) = applied {
            self.placed.entry(record_hash(&entry.record)).or_insert((entry.sequence, entry.time));
        }
        Ok(applied)
    }

    /// The network as the log tells it.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Rebuilds the entry that holds `record`; signatures are deterministic, so it is the same to the byte.
    fn existing(&self, record: &[u8]) -> Option<Entry> {
        let (sequence, time) = *self.placed.get(&record_hash(record))?;
        let previous = self.state.head_at(sequence)?;
        Some(Entry::sign(&self.key, &self.state.network(), Place { sequence, previous, time }, record))
    }
}

fn record_hash(record: &[u8]) -> [u8; 32] {
    hash("ginnel record v1", &[record])
}
