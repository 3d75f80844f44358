//! Who ordered the log and who governed it, place by place: what it takes to judge another entry for a place that is
//! taken.

use crate::authority::AdminSet;
use crate::entry::{Entry, MAX_TIME};
use crate::keys::{BadSignature, NetworkId, SequencerKey, Verifier};
use crate::ledger::Ledger;
use crate::record::{Record, ServersChange, SignedRecord};

/// The sequencers and the admins of a log from where its state started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Offices {
    /// Ascending; empty until the genesis is in.
    offices: Vec<Office>,
    /// Ascending; empty until the genesis is in.
    reigns: Vec<Reign>,
}

/// A sequencer's time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Office {
    /// The place after the entry that handed the log over.
    from: u64,
    /// Who signed that entry.
    handed: Handed,
    key: SequencerKey,
    verifier: Verifier,
}

/// Who signed the entry with which an office began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handed {
    /// The sequencer before.
    Over,
    /// The new one itself.
    Taken,
}

/// What it took to hand the log over, from a place on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reign {
    from: u64,
    admins: AdminSet,
    /// The number of the latest change of servers.
    service: u64,
}

impl Offices {
    pub(crate) const fn new() -> Self {
        Self { offices: Vec::new(), reigns: Vec::new() }
    }

    /// Starts at place `from`, with what `ledger` says before it.
    pub(crate) fn starting(from: u64, verifier: Verifier, ledger: &Ledger) -> Self {
        let office = Office { from, handed: Handed::Over, key: ledger.sequencer(), verifier };
        let mut offices = Self { offices: vec![office], reigns: Vec::new() };
        offices.govern(from, ledger);
        offices
    }

    /// Notes what `entry` changed, now that `ledger` has taken it.
    pub(crate) fn take(&mut self, network: &NetworkId, entry: &Entry, ledger: &Ledger) {
        let from = entry.sequence.saturating_add(1);
        self.govern(from, ledger);
        let key = ledger.sequencer();
        if let Some(last) = self.offices.last().filter(|last| last.key != key) {
            let handed = if entry.verify(network, &last.verifier).is_ok() { Handed::Over } else { Handed::Taken };
            let verifier = Verifier::new(key.as_bytes()).expect("a sequencer's key is checked before it takes effect");
            self.offices.push(Office { from, handed, key, verifier });
        }
    }

    fn govern(&mut self, from: u64, ledger: &Ledger) {
        let (admins, service) = (ledger.authority.set(), ledger.service.number);
        if self.reigns.last().is_none_or(|last| last.admins != *admins || last.service != service) {
            self.reigns.push(Reign { from, admins: admins.clone(), service });
        }
    }

    /// Who filled a place, or shall fill it; `None` for one before the start.
    pub(crate) fn holder(&self, sequence: u64) -> Option<SequencerKey> {
        let next = self.offices.iter().find(|office| office.from == sequence.saturating_add(1));
        let taken = next.filter(|office| office.handed == Handed::Taken);
        taken.or_else(|| self.before(sequence)).map(|office| office.key)
    }

    /// Checks that the last sequencer signed an entry, or the one that its own record puts in that one's place, which is
    /// answered: whether that record is worth it is another question.
    pub(crate) fn verify(&self, network: &NetworkId, entry: &Entry) -> Result<Option<SequencerKey>, BadSignature> {
        let office = self.offices.last().ok_or(BadSignature)?;
        let Err(bad) = entry.verify(network, &office.verifier) else { return Ok(None) };
        let heir = heir(entry).filter(|(_, body)| body.sequencer != office.key).ok_or(bad)?.1.sequencer;
        entry.verify(network, &Verifier::new(heir.as_bytes())?)?;
        Ok(Some(heir))
    }

    /// Whether a sequencer of the place signed this entry. Where an entry handed the log over, both sides are.
    pub(crate) fn vouch(&self, network: &NetworkId, entry: &Entry) -> Result<(), BadSignature> {
        let mut bad = BadSignature;
        let mut later = u64::MAX;
        for office in self.offices.iter().rev() {
            if office.from <= entry.sequence.saturating_add(1) && entry.sequence < later {
                match entry.verify(network, &office.verifier) {
                    Ok(()) => return Ok(()),
                    Err(error) => bad = error,
                }
            }
            later = office.from;
        }
        Err(bad)
    }

    /// Whether the admins in force at its place handed the log over in this entry, by the change of servers that was next
    /// there, to another sequencer than the place's; that one or the new one must have signed it.
    pub(crate) fn is_handover(&self, network: &NetworkId, entry: &Entry) -> bool {
        let Some((signed, body)) = heir(entry) else { return false };
        let (Some(office), Some(reign)) = (self.before(entry.sequence), self.reign(entry.sequence)) else {
            return false;
        };
        body.sequencer != office.key
            && Some(body.number) == reign.service.checked_add(1)
            && entry.time <= MAX_TIME
            && reign.admins.authorise(&signed).is_ok()
            && Verifier::new(body.sequencer.as_bytes()).is_ok_and(|heir| {
                entry.verify(network, &heir).is_ok() || entry.verify(network, &office.verifier).is_ok()
            })
            && signed.verify(network).is_ok()
    }

    /// The office into which a place falls, the entry that ends it included.
    fn before(&self, sequence: u64) -> Option<&Office> {
        self.offices.iter().rev().find(|office| office.from <= sequence)
    }

    fn reign(&self, sequence: u64) -> Option<&Reign> {
        self.reigns.iter().rev().find(|reign| reign.from <= sequence)
    }
}

/// The change of servers that an entry holds, if it holds one.
fn heir(entry: &Entry) -> Option<(SignedRecord, ServersChange)> {
    let signed = SignedRecord::decode(&entry.record).ok()?;
    let Record::Servers(body) = signed.record() else { return None };
    let body = body.clone();
    Some((signed, body))
}
