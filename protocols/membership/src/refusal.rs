//! Why a record has no effect, and why an entry is not taken.

use thiserror::Error;

use crate::codec::Malformed;
use crate::keys::BadSignature;
use crate::record::BadGenesis;

/// A record means nothing: a sequencer does not order it, a replay skips it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The bytes are no record that this version can read.
    #[error("record {0}")]
    Malformed(#[from] Malformed),
    /// A signature is bad.
    #[error("record {0}")]
    Signature(#[from] BadSignature),
    /// Somebody signed who has no right to, or too few did.
    #[error("not signed by those who have the right to")]
    NotAuthorised,
    /// The log has no genesis yet.
    #[error("the network is not founded yet")]
    NotFounded,
    /// A network is founded once.
    #[error("the network is founded already")]
    SecondGenesis,
    /// The genesis is not fit to found a network.
    #[error(transparent)]
    Genesis(#[from] BadGenesis),
    /// The genesis names another server as its sequencer.
    #[error("the genesis names another sequencer")]
    OtherSequencer,
    /// The key is in the log already, as an invite's, a member's or an admin's.
    #[error("this invite's key is in the log already")]
    InviteKnown,
    /// No such invite.
    #[error("there is no such invite")]
    InviteUnknown,
    /// The invite's time is over.
    #[error("the invite has expired")]
    InviteExpired,
    /// Somebody joined with it.
    #[error("the invite has been used")]
    InviteUsed,
    /// An admin took it back.
    #[error("the invite has been taken back")]
    InviteVoid,
    /// Those who made the invite are admins no more.
    #[error("whoever made the invite may no longer invite")]
    InviterGone,
    /// The node's key was a member's, an invite's, or is revoked.
    #[error("this node key has been used before")]
    MemberKnown,
    /// The tunnel key was a member's before, revoked ones included.
    #[error("this tunnel key has been used before")]
    TunnelKeyKnown,
    /// The tunnel key is of low order or not in canonical form.
    #[error("this tunnel key is weak")]
    TunnelKeyWeak,
    /// The name is one of [`crate::name::RESERVED`].
    #[error("this name is reserved")]
    NameReserved,
    /// The member supports no suite that a tunnel could use.
    #[error("no cipher suite in common")]
    NoSuite,
    /// No such live member.
    #[error("there is no such member")]
    MemberUnknown,
    /// An update with this number or a later one was seen.
    #[error("a later update of this member is in the log already")]
    StaleUpdate,
    /// The key is dead already.
    #[error("this member is revoked already")]
    AlreadyRevoked,
    /// So many revocations wait to be ordered that no further one is kept.
    #[error("too many revocations wait to be ordered")]
    TooManyPending,
    /// Too few admins would be left.
    #[error("the last admin cannot be removed")]
    LastAdmin,
    /// An admin vouches for a history that is not this one: somebody shows two.
    #[error("the lease speaks of another history of this network")]
    LeaseOfAnotherHistory,
    /// A later lease was seen.
    #[error("a later lease is in the log already")]
    StaleLease,
    /// The lease lies more than a day ahead of its entry, and would never age.
    #[error("the lease lies too far ahead of the log's time: check the clocks of its signer and of the server")]
    LeaseAhead,
    /// Another record of the kind took effect first.
    #[error("this change was made for another state of the network: make it anew")]
    WrongNumber,
    /// A revoked key, an invite's, or one that can verify nothing, would become an admin's.
    #[error("one of these keys cannot be an admin's")]
    AdminUnfit,
    /// The checkpoint was not made for the log's end.
    #[error("the log has moved on since this checkpoint was made")]
    StaleCheckpoint,
    /// An admin vouches for a state that is not this one: somebody shows two histories, or one of the two is wrong.
    #[error("the checkpoint speaks of another state of this network")]
    CheckpointOfAnotherState,
}

impl Refusal {
    /// A number that stands for the refusal in messages; numbers are never reused.
    pub const fn code(&self) -> u16 {
        match self {
            Self::Malformed(Malformed::UnknownType(_) | Malformed::Version(_)) => 2,
            Self::Malformed(_) => 1,
            Self::Signature(_) => 3,
            Self::NotAuthorised => 4,
            Self::SecondGenesis => 5,
            Self::Genesis(_) => 6,
            Self::OtherSequencer => 7,
            Self::InviteKnown => 8,
            Self::InviteUnknown => 9,
            Self::InviteExpired => 10,
            Self::InviteUsed => 11,
            Self::InviteVoid => 12,
            Self::InviterGone => 13,
            Self::MemberKnown => 14,
            Self::TunnelKeyKnown => 15,
            Self::TunnelKeyWeak => 16,
            Self::NameReserved => 17,
            Self::NoSuite => 18,
            Self::MemberUnknown => 19,
            Self::StaleUpdate => 20,
            Self::AlreadyRevoked => 21,
            Self::LastAdmin => 22,
            Self::LeaseOfAnotherHistory => 23,
            Self::StaleLease => 24,
            Self::NotFounded => 25,
            Self::TooManyPending => 26,
            Self::WrongNumber => 27,
            Self::AdminUnfit => 28,
            Self::StaleCheckpoint => 29,
            Self::CheckpointOfAnotherState => 30,
            Self::LeaseAhead => 31,
        }
    }
}

/// An entry does not continue the log; the state is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Break {
    /// Entries are missing in between.
    #[error("log entry {found} came where {expected} is next")]
    Gap {
        /// The sequence number that is next.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// The first entry does not found this network.
    #[error(transparent)]
    Genesis(#[from] BadGenesis),
    /// The entry is not signed by the network's sequencer.
    #[error("log entry: {0}")]
    Signature(#[from] BadSignature),
    /// The entry is longer than an entry may be.
    #[error("log entry is too long")]
    TooLong,
    /// The sequencer's own signature stands under a second history.
    #[error("the sequencer signed two histories: they differ at entry {sequence} or before")]
    Fork {
        /// The entry's sequence number.
        sequence: u64,
    },
    /// The sequencer's clock ran backwards in the log.
    #[error("log entry is older than the one before it")]
    Time,
    /// The sequencer's clock is beyond [`MAX_TIME`](crate::entry::MAX_TIME).
    #[error("log entry is of a time after the year 9999")]
    Era,
}
