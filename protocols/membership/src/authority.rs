//! Who the admins are, how many of them must agree, and the records that prove both from the genesis on.

use std::collections::BTreeSet;

use crate::keys::{MemberKey, Verifier};
use crate::record::{AdminChange, Genesis, SignedRecord};
use crate::refusal::Refusal;

/// The admins of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    set: AdminSet,
    /// Of the latest admin-change.
    number: u64,
    /// Every record since the genesis that changed the set, as it stands in the log.
    proof: Vec<Vec<u8>>,
}

/// Who may decide, and how many of them it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdminSet {
    admins: BTreeSet<MemberKey>,
    threshold: u8,
}

impl AdminSet {
    /// At least the threshold of admins signed, and nobody else. Whether the signatures are good is another question.
    pub(crate) fn authorise(&self, signed: &SignedRecord) -> Result<(), Refusal> {
        let enough = signed.signers().len() >= self.threshold.into();
        let only_admins = signed.signers().all(|key| self.admins.contains(key));
        if enough && only_admins { Ok(()) } else { Err(Refusal::NotAuthorised) }
    }
}

/// What a record does to the set.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effect<'a> {
    /// A whole new set.
    Replace(&'a AdminChange),
    /// An admin's key died.
    Remove(MemberKey),
    /// An admin has a new key.
    Rotate { old: MemberKey, new: MemberKey },
}

impl Authority {
    pub(crate) fn new(genesis: &Genesis) -> Self {
        let admins = genesis.admins.iter().copied().collect();
        Self { set: AdminSet { admins, threshold: genesis.threshold }, number: 0, proof: Vec::new() }
    }

    /// Takes what a valid record did to the set, and keeps the record as proof.
    pub(crate) fn take(&mut self, signed: &SignedRecord, effect: Effect<'_>) {
        match effect {
            Effect::Replace(change) => {
                self.set.admins = change.admins.iter().copied().collect();
                self.set.threshold = change.threshold;
                self.number = change.number;
            }
            Effect::Remove(key) => {
                self.set.admins.remove(&key);
            }
            Effect::Rotate { old, new } => {
                self.set.admins.remove(&old);
                self.set.admins.insert(new);
            }
        }
        self.proof.push(signed.encode());
    }

    /// See [`AdminSet::authorise`].
    pub(crate) fn authorise(&self, signed: &SignedRecord) -> Result<(), Refusal> {
        self.set.authorise(signed)
    }

    /// Whether an admin-change would take effect, as far as the set itself can tell.
    pub(crate) fn judge_change(&self, signed: &SignedRecord, body: &AdminChange) -> Result<(), Refusal> {
        self.authorise(signed)?;
        if body.number != self.number.saturating_add(1) {
            return Err(Refusal::WrongNumber);
        }
        // A key that verifies nothing could leave too few who can sign.
        let fit = body.admins.iter().all(|key| Verifier::new(key.as_bytes()).is_ok());
        if fit { Ok(()) } else { Err(Refusal::AdminUnfit) }
    }

    pub(crate) fn contains(&self, key: &MemberKey) -> bool {
        self.set.admins.contains(key)
    }

    pub(crate) const fn admins(&self) -> &BTreeSet<MemberKey> {
        &self.set.admins
    }

    pub(crate) const fn threshold(&self) -> u8 {
        self.set.threshold
    }

    pub(crate) const fn set(&self) -> &AdminSet {
        &self.set
    }

    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn proof(&self) -> &[Vec<u8>] {
        &self.proof
    }
}
