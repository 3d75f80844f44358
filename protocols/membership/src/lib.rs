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
//! | server | [`Sequencer::found`] or [`Sequencer::resume_with`], then [`Sequencer::append`] per record, storing each [`Entry`] before it is shown |
//! | mirror | [`Sequencer::mirror`], [`Sequencer::apply`] per entry, [`Sequencer::take_over`] when admins say so |
//! | admin | [`build::invite_record`] to the server, [`Invite`] to the newcomer; [`build::revoke_record`]; [`build::lease_record`] daily; [`State::make_checkpoint`] now and then |
//! | admins, k of n | a [`Proposal`] from one to the next until [`Proposal::missing`] is 0 |
//! | newcomer | parses the [`Invite`], starts with [`State::from_checkpoint`] or replays the log, sends [`build::member_record`] |
//! | every node | [`State::apply`] per entry, [`State::peer`] for whom its [`Change`] names, [`State::revoke_on_receipt`], [`State::compare`] with other nodes, [`State::admitting`] |
//!
//! # Rules of replay
//!
//! * An entry that does not continue the chain is a [`Break`]: the state stays as it was. An entry in its place whose
//!   record means nothing is [`Applied::Skipped`], by every node alike.
//! * Expiry counts by the entry's time only. The first valid use of an invite in log order wins.
//! * A node key, an invite key or a tunnel key is taken once: those of revoked members and those that members have
//!   replaced are dead for ever. Tunnel keys of low order and second encodings of a tunnel key are refused.
//! * What admins decide takes as many of them as the threshold says; nobody else's signature may stand beside theirs. A
//!   lease takes one. A member may revoke itself. Delegates may sign leases or invite alone, as the policy says, and take
//!   back what they invited; their rights end with the membership.
//! * No invite bears a key that is an admin's, a member's or dead.
//! * An invite is open only while its makers have the right to make it: a threshold of admins, or the one delegate.
//! * Changes of admins, servers and policy carry a number, one above that of the change before, so that each takes effect
//!   once and none was made for another state. A revocation of an admin is no change in this sense.
//! * The set of admins is never empty, never below its threshold, and holds no dead key and no invite's. A revocation never removes an
//!   admin when that would leave fewer than the threshold.
//! * A revocation holds even if its entry comes before the one that would make its target a member; its key is then never
//!   let in. One that names a key which its member has replaced meanwhile ends that membership all the same.
//! * A member that replaces its keys keeps its name, its addresses and its rights. Open invites that its old key signed die
//!   with that key.
//! * The entry that hands the log to another sequencer may be signed by either of the two; the later ones by the new one.
//! * Another entry for such a place, signed by a sequencer that this log does not know, is a fork where the admins in force
//!   at that place handed over in it, see [`State::is_handover`]; else it is noise.
//! * A lease lies at most a day ahead of its entry. One that lies further ahead of the clock that asks keeps nothing fresh.
//! * Of two leases the one for the longer log counts, then the later one. Nothing about a log's length before the latest
//!   checkpoint has an effect any more, because those who started there cannot judge it.
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
//! | 1 genesis | name; time u64; threshold u8; count u8 (1–8) and admins' keys, strictly ascending; sequencer's key 32; servers, as in type 9; 0, or 1 and the first two bytes of the IPv4 range | threshold of the admins named |
//! | 2 invite | one-time key 32; expiry u64; name or a zero byte | threshold of admins, or a delegate with the right |
//! | 3 invite-void | one-time key 32 | threshold of admins, or the delegate that made it |
//! | 4 member | one-time key 32; member key 32; tunnel key 32; name; capabilities u16 | one-time key and member key |
//! | 5 member-update | member key 32; number u64; name; capabilities u16; 0, or 1 and a new tunnel key 32, or 2 and a new member key 32 and a new tunnel key 32 | member; where its key changes, the old and the new one |
//! | 6 revoke | member key 32 | threshold of admins, or the member |
//! | 7 lease | length u64; head 32; time u64 | admins or delegates with the right, at least one |
//! | 8 admin-change | number u64; threshold u8; count u8 (1–8) and admins' keys, strictly ascending | threshold of the admins before |
//! | 9 servers | number u64; sequencer's key 32; servers, no key twice, the sequencer's among them | threshold of admins |
//! | 10 policy | number u64; flags u16; count u8 (0–16) and delegates, strictly ascending: member key 32, rights u8 | threshold of admins |
//! | 11 checkpoint | length u64, head 32: the log before this entry; hash of the snapshot 32, its length u32 | threshold of admins |
//!
//! Capabilities: bit 0 AES-256-GCM, bit 1 ChaCha20-Poly1305; others are kept and ignored. Flags of a policy: bit 0 strict
//! freshness. Rights: bit 0 leases, bit 1 invites, at least one. Other bits of these two make a record unreadable, since
//! nobody must pretend to keep a rule that it does not know.
//!
//! **Entry**, at most 2,163 bytes. Its hash, label `ginnel entry v1`, is over everything but the signature.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 8 | sequence, from 0 |
//! | 32 | hash of the entry before; the network id for entry 0 |
//! | 8 | Unix seconds, never decreasing, at most 253,402,300,799 (the year 9999) |
//! | 2 | length of the record |
//! | … | record |
//! | 64 | the sequencer's signature, label `ginnel entry v1`, message network id and all bytes before |
//!
//! **Snapshot**, at most 64 MiB. Its hash, label `ginnel snapshot v1`, is over all of it. `record` is a length u16 and as many
//! bytes, `list` a count u32 and as many items, `terms` an invite's expiry u64, hint (name or a zero byte), and the makers: a
//! count u8 (1–8) and as many u32, each an index into the list of makers. Lists are sorted by their items' first field, in
//! strictly ascending order, but for the proof, which is in log order. A reader proves the admins first, record by record,
//! then holds the checkpoint's signatures and the hash of the whole against them, and only then reads the lists: nobody but
//! admins can make it fill its memory.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | … | genesis: record |
//! | 48 | length u64, head 32 and time u64 of the log |
//! | … | proof of the admins: list of records, every admin-change, every revocation of an admin, every member-update that changed an admin's key; behind a revocation 0, or 1 and the admin's key 32 where the record names one that was replaced |
//! | … | servers: as the body of the latest record of type 9, number 0 for the genesis |
//! | … | policy: as the body of the latest record of type 10, less the delegates who lost their rights and with their latest keys |
//! | 48 | the latest lease |
//! | 1 or 77 | 0, or 1 and the latest checkpoint |
//! | … | makers: list of keys that signed invites |
//! | … | members: list of member key 32, tunnel key 32, invite's key 32, terms, name, the name wished for (a zero byte when it is the same), capabilities u16, IPv4 host u16 (0 for none), IPv6 interface u64, joined u64, update number u64, 0 or 1 and the time u64 of its revocation |
//! | … | other dead keys: list of key 32, 0 or 1 and the key 32 that replaced it |
//! | … | replaced tunnel keys: list of 32 |
//! | … | invites that no member used: list of key 32, terms, 0 for open or 1 for void |
//! | … | numbers of names: list of name, next number u32 |
//!
//! **Invite**, **founding string**, at most 512 characters, and **proposal**: `ginnel-invite-`, `ginnel-found-` or
//! `ginnel-sign-`, then base64url without padding of
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 2 | length of all these bytes |
//! | … | invite: network id 32, one-time secret 32, expiry u64, name or a zero byte, servers; founding: token 16, server; proposal: network id 32, record with at least one signature |
//! | 4 | first bytes of the hash, label the prefix, of all bytes before |
//!
//! # Not covered
//!
//! * A newcomer's record does not prove that it holds the secret of its tunnel key. Claiming another's key gets it no
//!   traffic, since it cannot complete a handshake, but keeps the true owner from joining with that key. The same holds for
//!   a new tunnel key of a member.
//! * A sequencer chooses entry times. One that is broken into can let invites expire early, or late as long as it orders
//!   nothing newer; an invite that has leaked is voided, not waited out. One whose clock once ran far ahead makes every
//!   later invite expire at once unless its expiry lies further ahead still.
//! * Freshness is judged by the clock of the machine that asks, and by that of the machine that signed the lease: one that
//!   ran ahead keeps the log fresh for longer by as much, a day at most, until the next lease.
//! * A revocation that took effect on receipt and whose signer loses its rights before it is ordered stays in effect only
//!   where it was received.
//! * A mirror that takes over while the old sequencer still orders, or without entries that this one has shown to others,
//!   makes a fork: the record that hands over does not name a head. Whoever holds both sides is told.
//! * Keys of admins who were removed stay dangerous to newcomers that meet nobody else: with a server's help they could show
//!   a history in which nobody removed them, as a whole log or as a checkpoint. An invite names the network, not its state.
//! * An admin-change does not prove that the new admins hold their secrets. Whoever raises the threshold to keys that
//!   nobody has locks everybody out.
//! * A checkpoint speaks of the log's end: where several admins must sign, all must do so before the next entry.
//! * A checkpoint is worth what the admins' software is that made it: a newcomer cannot hold it against the entries before
//!   it, which members that replayed them do.
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
mod office;
mod paste;
mod peer;
mod proposal;
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
pub use proposal::Proposal;
pub use record::{Capabilities, Checkpoint, Record, Rights, SignedRecord};
pub use refusal::{Break, Refusal};
pub use sequencer::{Placed, Sequencer, Trust};
pub use snapshot::BadSnapshot;
pub use state::{Admission, Applied, Change, Comparison, Member, State, VerifiedPeer};
