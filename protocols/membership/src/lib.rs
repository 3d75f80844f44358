//! Who belongs to a network: keys, the signed log, invites, names and addresses.
//!
//! A network is one append-only log of records that admins and members sign. A server, the *sequencer*, puts the records
//! in order and signs each entry, but has no say in what they mean: every node replays the log by itself, and only a
//! [`VerifiedPeer`] that comes out of a replay can be given a tunnel. A server that is broken into can refuse service and
//! read the log; it cannot add, replace or re-address a member.
//!
//! Nothing here reads a clock, draws randomness or does input and output: times and generators are arguments.
//!
//! # Driving it
//!
//! | who | does |
//! |---|---|
//! | founder | [`build::found`], sends the genesis to the server, keeps the admin key |
//! | server | [`Sequencer::found`] or [`Sequencer::resume`], then [`Sequencer::append`] per record, storing each [`Entry`] before it is shown |
//! | admin | [`build::invite_record`] to the server, [`Invite`] to the newcomer; [`build::revoke_record`]; [`build::lease_record`] daily |
//! | newcomer | parses the [`Invite`], replays the log, sends [`build::member_record`] |
//! | every node | [`State::apply`] per entry, [`State::peers`] after each change, [`State::revoke_on_receipt`], [`State::compare`] with other nodes |
//!
//! # Rules of replay
//!
//! * An entry that does not continue the chain is a [`Break`]: the state stays as it was. An entry in its place whose
//!   record means nothing is [`Applied::Skipped`], by every node alike.
//! * Expiry counts by the entry's time only. The first valid use of an invite in log order wins.
//! * A node key, an invite key or a tunnel key is taken once, revoked members included. Tunnel keys of low order and
//!   second encodings of a tunnel key are refused.
//! * Invites, voids and revocations need as many admins as the threshold says, a lease needs one; nobody else's signature
//!   may stand beside them. A member may revoke itself. An invite dies when its makers are no longer admins.
//! * A revocation holds even if its entry comes before the one that would make its target a member; its key is then never
//!   let in. It never removes an admin when that would leave fewer than the threshold.
//! * Names are DNS labels, see [`name::Name`] and [`name::RESERVED`]; a taken name gets `-2`, `-3`, …, no number twice.
//!   Addresses are explained in [`addressing`].
//! * An admin key that is also a member's loses its rights with the membership; one that is not stays until it is revoked
//!   itself.
//!
//! # Formats
//!
//! Integers are big-endian. Every value has exactly one encoding; other spellings are refused. `name` is a length byte and
//! as many bytes of a DNS label; `server` is a count byte (1–4), as many addresses (length byte, `host:port`), an Ed25519
//! key and an X25519 key; `servers` is a count byte (1–4) and as many of those. Hashes are BLAKE2s-256 over a length byte,
//! a label and the data. Signatures are Ed25519 over a length byte, a label and the message, and are verified strictly.
//!
//! **Record**, at most 2,048 bytes. The network id is the hash, label `ginnel network v1`, of the genesis record.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | type |
//! | … | body |
//! | 1 | number of signatures, 1–8 |
//! | 96 each | signer's key (32) and signature (64), strictly ascending by key; label `ginnel record v1`, message network id (zeros for a genesis) and all bytes before the number |
//!
//! | type | body | signed by |
//! |---|---|---|
//! | 1 genesis | name; time u64; threshold u8; count u8 (1–8) and admins' keys, strictly ascending; sequencer's key 32; servers; 0, or 1 and the first two bytes of the IPv4 range | threshold of the admins named |
//! | 2 invite | one-time key 32; expiry u64; name or a zero byte | threshold of admins |
//! | 3 invite-void | one-time key 32 | threshold of admins |
//! | 4 member | one-time key 32; member key 32; tunnel key 32; name; capabilities u16 | one-time key and member key |
//! | 5 member-update | member key 32; number u64; name; capabilities u16; 0 (1 is reserved for key rotation) | member |
//! | 6 revoke | member key 32 | threshold of admins, or the member |
//! | 7 lease | length u64; head 32; time u64 | an admin |
//! | 8–11 | reserved: admin-change, servers, policy, checkpoint; refused and skipped as unsupported | |
//!
//! Capabilities: bit 0 AES-256-GCM, bit 1 ChaCha20-Poly1305; others are kept and ignored.
//!
//! **Entry**, at most 2,163 bytes. Its hash, label `ginnel entry v1`, is over everything but the signature.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 8 | sequence, from 0 |
//! | 32 | hash of the entry before; the network id for entry 0 |
//! | 8 | Unix seconds, never decreasing |
//! | 2 | length of the record |
//! | … | record |
//! | 64 | the sequencer's signature, label `ginnel entry v1`, message network id and all bytes before |
//!
//! **Invite** and **founding string**, at most 512 characters: `ginnel-invite-` or `ginnel-found-`, then base64url without
//! padding of
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 2 | length of all these bytes |
//! | … | invite: network id 32, one-time secret 32, expiry u64, name or a zero byte, servers; founding: token 16, server |
//! | 4 | first bytes of the hash, label the prefix, of all bytes before |
//!
//! # Not covered
//!
//! * A newcomer's record does not prove that it holds the secret of its tunnel key. Claiming another's key gets it no
//!   traffic, since it cannot complete a handshake, but keeps the true owner from joining with that key.
//! * A sequencer chooses entry times. One that is broken into can let invites expire early, or late as long as it orders
//!   nothing newer; an invite that has leaked is voided, not waited out.
//! * A revocation that took effect on receipt and whose signer loses its rights before it is ordered stays in effect only
//!   where it was received.
#![forbid(unsafe_code)]

pub mod addressing;
mod authority;
pub mod build;
mod change;
pub mod codec;
pub mod entry;
mod governance;
pub mod invite;
pub mod keys;
mod ledger;
pub mod name;
mod peer;
pub mod record;
mod refusal;
pub mod sequencer;
pub mod snapshot;
pub mod state;

pub use codec::Malformed;
pub use entry::Entry;
pub use invite::{Founding, Invite, PasteError, Pasted};
pub use keys::{
    BadSignature, Context, InviteKey, MemberKey, NetworkId, SequencerKey, Server, ServerKeys, Signature, SigningKey,
    TunnelKey,
};
pub use name::Name;
pub use record::{Capabilities, Checkpoint, Record, Rights, SignedRecord};
pub use refusal::{Break, Refusal};
pub use sequencer::{Placed, Sequencer};
pub use snapshot::BadSnapshot;
pub use state::{Admission, Applied, Change, Comparison, Member, State, VerifiedPeer};
