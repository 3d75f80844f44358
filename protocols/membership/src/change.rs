//! What entries do to a state, in answers small enough to copy.

use crate::keys::{InviteKey, MemberKey};
use crate::name::Name;
use crate::record::{Checkpoint, Lease};
use crate::refusal::Refusal;

/// What an entry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Its record took effect.
    Changed(Change),
    /// The entry stands in the log, but its record means nothing.
    Skipped(Refusal),
    /// The entry was in the log already.
    Known,
}

/// What a record changed.
///
/// Every member whose [`VerifiedPeer`](crate::state::VerifiedPeer) is another afterwards, has come or has gone is named
/// here, so that whoever follows the changes need not look at all members again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The network exists.
    Founded,
    /// An invite can be used.
    Invited(InviteKey),
    /// An invite can no longer be used.
    InviteVoided(InviteKey),
    /// A member came in.
    Joined(MemberKey),
    /// A member's name or capabilities changed.
    Updated(MemberKey),
    /// A member has new keys, and perhaps another name and capabilities.
    Rotated {
        /// Its key before.
        old: MemberKey,
        /// Its key from here on, which is the same where only the tunnel key is new.
        new: MemberKey,
    },
    /// A key is dead.
    Revoked(MemberKey),
    /// A revocation that was in effect on receipt is not valid by the log: the member counts again.
    Spared(MemberKey),
    /// An admin or a delegate vouched for the log.
    Leased(Lease),
    /// There are other admins, or another threshold.
    AdminsChanged,
    /// There are other servers, or another sequencer.
    ServersChanged,
    /// There are other rules.
    PolicyChanged,
    /// Admins vouched for the log's meaning; newcomers may start here.
    Checkpointed(Checkpoint),
}

/// An invite, for lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InviteInfo {
    /// The public half of its one-time key.
    pub key: InviteKey,
    /// Unix seconds.
    pub expires: u64,
    /// The name its maker proposed.
    pub hint: Option<Name>,
    /// The admins who signed it, or the one delegate.
    pub by: Vec<MemberKey>,
    /// What became of it.
    pub standing: InviteStanding,
}

/// What became of an invite; whether it has expired is a question of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InviteStanding {
    /// Nobody has used it.
    Open,
    /// This member joined with it; the member's latest key.
    Used(MemberKey),
    /// It was taken back.
    Void,
}

/// How another's log relates to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Both hold the same entries.
    Same,
    /// The other is shorter, and a part of this one.
    Behind,
    /// The other is longer; whether it continues this one shows when its entries come.
    Ahead,
    /// The two are different histories.
    Fork,
    /// The other is so short that it ends before the checkpoint at which this one started.
    Unknown,
}

/// Whether newcomers may be let in, as far as the latest lease tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A lease is younger than [`LEASE_LIFE`](crate::state::LEASE_LIFE).
    Fresh,
    /// None is: somebody may be hiding newer entries. People should know.
    Stale,
    /// None is, and the policy is strict: nobody whom this machine does not know yet may be let in.
    Closed,
}
