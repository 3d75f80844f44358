//! Who the admins are, how many of them must agree, and the records that prove both from the genesis on.

use std::collections::BTreeSet;

use crate::keys::{MemberKey, Verifier};
use crate::record::{AdminChange, Genesis, SignedRecord};
use crate::refusal::Refusal;

/// The admins of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    admins: BTreeSet<MemberKey>,
    threshold: u8,
    /// Of the latest admin-change.
    number: u64,
    /// Every record since the genesis that changed the set, as it stands in the log.
    proof: Vec<Vec<u8>>,
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
        Self { admins, threshold: genesis.threshold, number: 0, proof: Vec::new() }
    }

    /// Takes what a valid record did to the set, and keeps the record as proof.
    pub(crate) fn take(&mut self, signed: &SignedRecord, effect: Effect<'_>) {
        match effect {
            Effect::Replace(change) => {
                self.admins = change.admins.iter().copied().collect();
                self.threshold = change.threshold;
                self.number = change.number;
            }
            Effect::Remove(key) => {
                self.admins.remove(&key);
            }
            Effect::Rotate { old, new } => {
                self.admins.remove(&old);
                self.admins.insert(new);
            }
        }
        self.proof.push(signed.encode());
    }

    /// At least the threshold of admins signed, and nobody else.
    pub(crate) fn authorise(&self, signed: &SignedRecord) -> Result<(), Refusal> {
        let enough = signed.signers().len() >= self.threshold.into();
        let only_admins = signed.signers().all(|key| self.admins.contains(key));
        if enough && only_admins { Ok(()) } else { Err(Refusal::NotAuthorised) }
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
        self.admins.contains(key)
    }

    pub(crate) const fn admins(&self) -> &BTreeSet<MemberKey> {
        &self.admins
    }

    pub(crate) const fn threshold(&self) -> u8 {
        self.threshold
    }

    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn proof(&self) -> &[Vec<u8>] {
        &self.proof
    }
}
