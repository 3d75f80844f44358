//! The signaling protocol: how nodes reach a network's log, their mail and the relay through a server that need not be
//! trusted with any of them.
//!
//! [`Client`] and [`Server`] are machines without sockets, clocks or entropy; [`mailbox`] seals what nodes tell each
//! other through the server. The crate never decides who is a member: the server asks the log's
//! [`Sequencer`](ginnel_membership::Sequencer), and nodes replay the log themselves.
//!
//! # Driving a machine
//! Call `handle_input` or `handle_timeout`, drain `poll_output` until `None`, then read `poll_timeout`.
//!
//! # One connection
//! The bytes of one reliable, ordered stream, whatever carries it, are frames: a length (u16, big-endian, 1 to 65,535)
//! and that many bytes.
//!
//! | frame | from | content |
//! |---|---|---|
//! | 1st | client | version 2, then message 1 of `Noise_NK_25519_ChaChaPoly_BLAKE2s` (48 bytes), prologue `ginnel signal v1` |
//! | 1st | server | version 2, then message 2 (48 bytes) |
//! | 2nd | client | sealed `Authenticate` |
//! | 2nd | server | sealed `Welcome`, or `Refused` and the end |
//! | further | both | sealed messages |
//!
//! A sealed frame is one Noise transport message; the nonce counts frames per direction and is not sent. The server
//! proves its static key by its answer; the client proves its Ed25519 key by a signature over the handshake hash (see
//! `Authenticate`), and sees nothing of a log before that. Identity never comes from a message's body.
//!
//! # Messages
//! A sealed message is a version byte, 2, and a body in postcard's encoding: the variant's number as a varint, then
//! the fields in order; integers are varints, lists and texts carry their length first, keys are 32 plain bytes,
//! signatures a list of 64 bytes. The numbers of standings, requests and refusals are their places in their enums, from
//! 0; the refusal `Record` is followed by the number that [`ginnel_membership::Refusal::code`] gives. Version 2 added the
//! last three messages of each side, the claim `Mirror` and `Welcome`'s last field; version 1 is not spoken any more.
//!
//! | number | client says | fields |
//! |---|---|---|
//! | 0 | `Authenticate` | network, claim: 0 `Member` {key, signature}, 1 `Joiner` {invite, invite signature, key, signature}, 2 `Founder` {token (16 bytes), key, signature}, 3 `Mirror` {key, signature} |
//! | 1 | `Found` | genesis record |
//! | 2 | `Fetch` | first sequence |
//! | 3 | `Append` | record |
//! | 4 | `Mail` | addressee, bytes |
//! | 5 | `Relay` | |
//! | 6 | `Ping` | |
//! | 7 | `Refill` | first sequence, entries |
//! | 8 | `FetchSnapshot` | first byte |
//! | 9 | `Forward` | number, record |
//!
//! | number | server says | fields |
//! |---|---|---|
//! | 0 | `Welcome` | standing, observed address, STUN ports, relay offer, head {length, hash}, time, sequence of the newest checkpoint or nothing (0, or 1 and a varint) |
//! | 1 | `Entries` | first sequence, entries, head |
//! | 2 | `Appended` | sequence |
//! | 3 | `Refused` | request, code, text |
//! | 4 | `Mail` | sender, bytes |
//! | 5 | `MailRefused` | addressee, why |
//! | 6 | `Relay` | user name, password, lifetime in seconds, addresses |
//! | 7 | `Pong` | |
//! | 8 | `Snapshot` | checkpoint's entry, bytes in all, first byte, bytes |
//! | 9 | `Forwarded` | number, outcome: 0 `Placed` {sequence}, 1 `Refused` {code, text} |
//!
//! The signature in `Authenticate` is Ed25519 in the context `ginnel signal auth v1` over: a byte for the role (0
//! member, 1 joiner by its invite key, 2 joiner by its node key, 3 founder, 4 mirror), the network's id, the handshake
//! hash.
//!
//! # What is asked, and what answers it
//!
//! | asked | by | answered by |
//! |---|---|---|
//! | `Found` | founder | `Appended {0}` once it is on disk. A genesis that names another server's key makes this server a mirror; it knows the genesis then and no entry |
//! | `Fetch` | anybody | one `Entries` from that sequence on, as many as fit; none where the log ends there. A sequencer that has just started takes a member's `Fetch` for its word that its own log ends there |
//! | `Append` | all but mirrors; a joiner only its own membership | `Appended` once the entry is on *this* server's disk, or `Refused`, in the order in which they were asked. A record that is in the log and took effect is answered with its sequence |
//! | `Refill` | all but joiners; servers that were dismissed are only told where their part of the log ends | `Entries` without entries, whose `head` tells how far the server's log goes now; or `Refused` with `Fork`, `BadSignature`, `Malformed`, `TooLarge`, `RateLimited`, `Busy`, `Storage`. A founder's `Refill` from 0 on, to a server that does not know the network, brings network and log at once |
//! | `FetchSnapshot` | anybody | one `Snapshot`; at most [`SNAPSHOT_PIECE`](server::SNAPSHOT_PIECE) bytes. Several may be asked ahead, as long as their answers together stay below [`MAX_UNSENT`](server::MAX_UNSENT): 6 do |
//! | `Forward` | mirrors that the log lists | `Forwarded`, in any order |
//! | `Mail` | members | nothing, or `MailRefused` |
//! | `Relay` | members | `Relay` or `Refused` |
//! | `Ping` | anybody | `Pong` |
//!
//! A server pushes `Entries` to everybody but joiners when its log grows.
//!
//! # A client and several servers
//! A client that is welcomed with a shorter log than its own, whose last entry is the one that it knows, hands in the rest
//! by `Refill`, [`MAX_REFILL`](server::MAX_REFILL) bytes at a time, before it asks for anything but a `Fetch` from the end of
//! its log: a server that has lost entries and orders new ones in their places makes a fork. A server that has started waits
//! for that with all appends, see [`server::Limits::settle`]; it hears in time those who come within 10 s of the first. A server that answers an append with `NoSequencer` has
//! done nothing; the same record may go to any server again. `NoSequencer` comes from a mirror that cannot reach the
//! sequencer, after at most [`FORWARD_PATIENCE`](server::FORWARD_PATIENCE). Loser and late user of an invite get
//! `InviteUsed`, with the name of the machine that joined with it in the text.
//!
//! A server that has lost even the entries by which it knew its members refuses them with `NotAMember`. An admin's key that
//! is no member's still stands in the genesis: its holder comes in as [`Standing::Admin`], hands in the rest, and comes in
//! again as a member.
//!
//! The record that moves the sequencer goes to the server that it names. That one has the old sequencer order it where it
//! can be reached, and else answers after at most [`TAKEOVER_PATIENCE`](server::TAKEOVER_PATIENCE).
//!
//! # Bounds
//! [`server::Limits`] lists them with their figures. Beyond those: 5 s from the opened connection to the proof, 16 KiB for
//! a client's frame, 512 KiB unread by one client, 256 appends of one connection without an answer, 256 records of one
//! network that wait for the disk or on their way to the sequencer, 16 pieces of mail per pair and 512 per recipient for
//! 60 s. A network of 100,000 members has 200,002 entries of 67 MB; a server holds it in 220 MB and takes it up again in
//! about 2.2 s of one processor, whoever orders it: what is known of a record is stored with its entry. Where nothing is
//! known, as of entries that an earlier version stored, a mirror looks at the records' signatures again, since a dishonest
//! sequencer may have ordered what means nothing, and takes about 16 s.
#![forbid(unsafe_code)]

pub mod client;
pub mod mailbox;
pub mod message;
pub mod server;

mod auth;
mod frame;
mod noise;

pub use client::{Client, Credentials};
pub use frame::{MAX_FRAME, MAX_MESSAGE};
pub use message::{
    Claim, ClientMessage, FoundingToken, Head, MailRefusal, Malformed, Placing, Refusal, RelayCredentials, RelayOffer,
    Request, ServerMessage, Standing, Welcome,
};
pub use server::Server;

#[cfg(test)]
mod tests;
