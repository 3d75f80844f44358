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
//! | 1st | client | version 1, then message 1 of `Noise_NK_25519_ChaChaPoly_BLAKE2s` (48 bytes), prologue `ginnel signal v1` |
//! | 1st | server | version 1, then message 2 (48 bytes) |
//! | 2nd | client | sealed `Authenticate` |
//! | 2nd | server | sealed `Welcome`, or `Refused` and the end |
//! | further | both | sealed messages |
//!
//! A sealed frame is one Noise transport message; the nonce counts frames per direction and is not sent. The server
//! proves its static key by its answer; the client proves its Ed25519 key by a signature over the handshake hash (see
//! `Authenticate`), and sees nothing of a log before that. Identity never comes from a message's body.
//!
//! # Messages
//! A sealed message is a version byte, 1, and a body in postcard's encoding: the variant's number as a varint, then
//! the fields in order; integers are varints, lists and texts carry their length first, keys are 32 plain bytes,
//! signatures a list of 64 bytes. The numbers of standings, requests and refusals are their places in their enums, from
//! 0; the refusal `Record` is followed by the number that [`ginnel_membership::Refusal::code`] gives.
//!
//! | number | client says | fields |
//! |---|---|---|
//! | 0 | `Authenticate` | network, claim: 0 `Member` {key, signature}, 1 `Joiner` {invite, invite signature, key, signature}, 2 `Founder` {token (16 bytes), key, signature} |
//! | 1 | `Found` | genesis record |
//! | 2 | `Fetch` | first sequence |
//! | 3 | `Append` | record |
//! | 4 | `Mail` | addressee, bytes |
//! | 5 | `Relay` | |
//! | 6 | `Ping` | |
//!
//! | number | server says | fields |
//! |---|---|---|
//! | 0 | `Welcome` | standing, observed address, STUN ports, relay offer, head {length, hash}, time |
//! | 1 | `Entries` | first sequence, entries, head |
//! | 2 | `Appended` | sequence |
//! | 3 | `Refused` | request, code, text |
//! | 4 | `Mail` | sender, bytes |
//! | 5 | `MailRefused` | addressee, why |
//! | 6 | `Relay` | user name, password, lifetime in seconds, addresses |
//! | 7 | `Pong` | |
//!
//! The signature in `Authenticate` is Ed25519 in the context `ginnel signal auth v1` over: a byte for the role (0
//! member, 1 joiner by its invite key, 2 joiner by its node key, 3 founder), the network's id, the handshake hash.
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
