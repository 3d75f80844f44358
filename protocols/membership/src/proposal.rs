//! Proposals: records that wait for further admins' signatures, as strings that people paste to each other.

use std::fmt;
use std::str::FromStr;

use crate::codec::{Malformed, Writer};
use crate::keys::{MemberKey, NetworkId, SigningKey};
use crate::paste::{Kind, PasteError};
use crate::record::{Record, SignedRecord};
use crate::state::State;

/// A record of a network that some of the admins it needs have signed. No secret: whoever holds it can read it, and only
/// admins can add to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    network: NetworkId,
    signed: SignedRecord,
}

impl Proposal {
    /// Takes a partly signed record.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are no record of a kind that a threshold of admins signs. In particular no change of a
    /// member's keys passes: an admin's key may be a member's as well, and must not sign that for somebody else.
    pub fn new(network: NetworkId, record: &[u8]) -> Result<Self, Malformed> {
        let signed = SignedRecord::decode(record)?;
        match signed.record() {
            Record::Invite(_)
            | Record::InviteVoid(_)
            | Record::Revoke(_)
            | Record::AdminChange(_)
            | Record::Servers(_)
            | Record::Policy(_)
            | Record::Checkpoint(_) => Ok(Self { network, signed }),
            Record::Genesis(_) | Record::Member(_) | Record::MemberUpdate(_) | Record::Lease(_) => {
                Err(Malformed::Value(record.get(1).copied().unwrap_or_default(), "a proposal's record type"))
            }
        }
    }

    /// Reads a pasted string; white space anywhere in it is ignored.
    ///
    /// # Errors
    /// [`PasteError`] in words for whoever pasted it.
    pub fn parse(text: &str) -> Result<Self, PasteError> {
        Kind::Proposal.unwrap(text, |reader| {
            let network = NetworkId::from_bytes(reader.array()?);
            Self::new(network, reader.rest())
        })
    }

    /// Adds a signature; a second one by the same key changes nothing.
    ///
    /// # Errors
    /// [`Malformed`] when the record has no room for another one.
    pub fn cosign(&mut self, admin: &SigningKey) -> Result<(), Malformed> {
        self.signed.cosign(&self.network, admin)
    }

    /// Drops signatures that are bad or no admin's by the admins of `state`, so that nobody who handed the proposal on, and no
    /// admin who has lost that right since, keeps it from taking effect. Signatures do not cover each other. One that is
    /// left with none must be signed before it is handed on.
    pub fn prune(&mut self, state: &State) {
        let network = self.network;
        self.signed.retain_signers(|signed, key| is_good(state, &network, signed, key));
    }

    /// How many admins must still sign, by the admins and the threshold of `state`: signatures that are bad or no admin's
    /// do not count, but keep the record from taking effect until [`Self::prune`] drops them.
    pub fn missing(&self, state: &State) -> u8 {
        let good = |key: &&MemberKey| is_good(state, &self.network, &self.signed, key);
        let count = self.signed.signers().filter(good).count();
        state.threshold().saturating_sub(count.try_into().unwrap_or(u8::MAX))
    }

    /// The network it is for.
    pub const fn network(&self) -> NetworkId {
        self.network
    }

    /// What is proposed.
    pub const fn record(&self) -> &Record {
        self.signed.record()
    }

    /// The record with its signatures: once nobody is missing and [`Self::prune`] has dropped what does not count, it can be
    /// appended.
    pub fn encode(&self) -> Vec<u8> {
        self.signed.encode()
    }

    /// Whose signatures it carries, whether or not they are good.
    pub fn signers(&self) -> impl ExactSizeIterator<Item = &MemberKey> {
        self.signed.signers()
    }
}

/// Whether a signature counts.
fn is_good(state: &State, network: &NetworkId, signed: &SignedRecord, key: &MemberKey) -> bool {
    state.is_admin(key) && signed.verify_by(network, key).is_ok()
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut writer = Writer::empty();
        writer.bytes(self.network.as_bytes()).bytes(&self.signed.encode());
        f.write_str(&Kind::Proposal.wrap(&writer.into_bytes()))
    }
}

impl FromStr for Proposal {
    type Err = PasteError;

    fn from_str(text: &str) -> Result<Self, PasteError> {
        Self::parse(text)
    }
}
