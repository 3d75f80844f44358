//! Who belongs to a network: keys, the signed log, names, addresses and invites.
#![forbid(unsafe_code)]

pub mod addressing;
pub mod build;
pub mod codec;
pub mod entry;
pub mod invite;
pub mod keys;
mod ledger;
pub mod name;
mod peer;
pub mod record;
mod refusal;
pub mod sequencer;
pub mod state;

pub use codec::Malformed;
pub use entry::Entry;
pub use invite::{Founding, Invite, PasteError, Pasted};
pub use keys::{
    BadSignature, Context, InviteKey, MemberKey, NetworkId, SequencerKey, Server, ServerKeys, Signature, SigningKey,
    TunnelKey,
};
pub use name::Name;
pub use record::{Capabilities, Record, SignedRecord};
pub use refusal::{Break, Refusal};
pub use sequencer::{Placed, Sequencer};
pub use state::{Applied, Change, Comparison, Member, State, VerifiedPeer};
