//! Who the admins are, how many of them must agree, and the records that prove both from the genesis on.

use std::collections::BTreeSet;

use crate::codec::{Malformed, Reader, Writer};
use crate::keys::{MemberKey, NetworkId, Verifier};
use crate::record::{AdminChange, Genesis, Record, Rotation, SignedRecord};
use crate::refusal::Refusal;
use crate::snapshot::BadSnapshot;

/// The admins of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    set: AdminSet,
    /// Of the latest admin-change.
    number: u64,
    /// Every record since the genesis that changed the set.
    proof: Vec<Step>,
}

/// A record that changed the set.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    /// As it stands in the log.
    record: Vec<u8>,
    ended: Ended,
}

/// Whose right a record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// It is no revocation.
    Nobody,
    /// The one's whose key it names.
    Named,
    /// The one's who had replaced the key that it names with this one.
    Heir { named: MemberKey, heir: MemberKey },
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
        let ended = match (effect, signed.record()) {
            (Effect::Remove(key), Record::Revoke(body)) if body.member == key => Ended::Named,
            (Effect::Remove(heir), Record::Revoke(body)) => Ended::Heir { named: body.member, heir },
            (Effect::Replace(_) | Effect::Remove(_) | Effect::Rotate { .. }, _) => Ended::Nobody,
        };
        self.proof.push(Step { record: signed.encode(), ended });
    }

    /// Writes the records that prove the set, in log order.
    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.count(self.proof.len());
        for step in &self.proof {
            writer.record(&step.record);
            match step.ended {
                Ended::Nobody => {}
                Ended::Named => {
                    writer.u8(0);
                }
                Ended::Heir { heir, .. } => {
                    writer.u8(1).bytes(heir.as_bytes());
                }
            }
        }
    }

    /// Reads what [`Self::write`] wrote and follows it from the genesis on. Each record must be good before the next one is
    /// looked at: nobody but admins can make this long.
    pub(crate) fn read(network: &NetworkId, genesis: &Genesis, reader: &mut Reader<'_>) -> Result<Self, BadSnapshot> {
        let mut authority = Self::new(genesis);
        for _ in 0..reader.u32()? {
            let signed = SignedRecord::decode(reader.record()?).map_err(|bad| BadSnapshot::Admins(bad.into()))?;
            let heir = if signed.record().revokes().is_some() { read_heir(reader)? } else { None };
            authority.follow(network, &signed, heir).map_err(BadSnapshot::Admins)?;
        }
        Ok(authority)
    }

    /// Takes the next record of a proof.
    fn follow(&mut self, network: &NetworkId, signed: &SignedRecord, heir: Option<MemberKey>) -> Result<(), Refusal> {
        let effect = match signed.record() {
            Record::AdminChange(body) => {
                self.judge_change(signed, body)?;
                Effect::Replace(body)
            }
            Record::Revoke(body) => {
                let key = heir.unwrap_or(body.member);
                if !self.contains(&key) || self.admins().len() <= usize::from(self.threshold()) {
                    return Err(Refusal::LastAdmin);
                }
                if !signed.signers().eq([&key]) {
                    self.authorise(signed)?;
                }
                Effect::Remove(key)
            }
            Record::MemberUpdate(body) => {
                let Rotation::Both { member: new, .. } = body.rotation else { return Err(Refusal::NotAuthorised) };
                let old = body.member;
                let both = signed.signers().len() == 2 && signed.signers().all(|key| *key == old || *key == new);
                if !both || !self.contains(&old) || self.contains(&new) {
                    return Err(Refusal::NotAuthorised);
                }
                Effect::Rotate { old, new }
            }
            Record::Genesis(_)
            | Record::Invite(_)
            | Record::InviteVoid(_)
            | Record::Member(_)
            | Record::Lease(_)
            | Record::Servers(_)
            | Record::Policy(_)
            | Record::Checkpoint(_) => return Err(Refusal::NotAuthorised),
        };
        signed.verify(network)?;
        self.take(signed, effect);
        Ok(())
    }

    /// The keys that revocations named of admins who had replaced them, and with what.
    pub(crate) fn heirs(&self) -> impl Iterator<Item = (MemberKey, MemberKey)> {
        self.proof.iter().filter_map(|step| match step.ended {
            Ended::Heir { named, heir } => Some((named, heir)),
            Ended::Nobody | Ended::Named => None,
        })
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
}

fn read_heir(reader: &mut Reader<'_>) -> Result<Option<MemberKey>, Malformed> {
    match reader.u8()? {
        0 => Ok(None),
        1 => Ok(Some(MemberKey::from_bytes(reader.array()?))),
        other => Err(Malformed::Value(other, "the key of a revoked admin")),
    }
}
