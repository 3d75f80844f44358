//! STUN (RFC 8489) for a program that shares its UDP sockets with other protocols: messages, message integrity, and
//! Binding transactions.
//!
//! - [`is_stun`] tells a STUN message from everything else that a socket carries.
//! - [`codec`] reads and writes messages. It rests on `stun-rs` for the attributes and hides it.
//! - [`BindingClient`] asks servers, from several sockets, for the address that they see.
//! - [`answer_binding`] is the server's side of the same exchange.
//!
//! This crate never opens a socket, never reads a clock and never draws entropy. [`BindingClient`] is driven as every
//! deciding machine of the house is: hand it an [`Input`], drain [`BindingClient::poll_output`] to `None`, read
//! [`BindingClient::poll_timeout`], and call [`BindingClient::handle_timeout`] when that moment has come.
//!
//! # Deviations from RFC 8489
//! - A datagram is one message: bytes after the length that its header states make it malformed.
//! - A message of more than [`codec::MAX_ATTRIBUTES`] attributes is malformed, and so is one whose FINGERPRINT is wrong
//!   or not last.
//! - Requests are padded with SOFTWARE to the size of the largest answer (see [`REQUEST_LEN`]), so that a server is of
//!   no use for amplification if it answers only requests of that size. PADDING (RFC 5780) would be the natural
//!   attribute, but it is comprehension-required and servers without RFC 5780 refuse it.
//! - MESSAGE-INTEGRITY-SHA256 and user hashes are not used: the servers that are deployed do not offer them.
//! - NONCE and REALM must follow the RFC's grammar (quoted-string); a server that sends binary nonces is not understood.
#![forbid(unsafe_code)]

mod answer;
mod binding;
pub mod codec;

pub use answer::{Discard as AnswerDiscard, MAX_ANSWER_LEN, answer_binding};
pub use binding::{BindingClient, Config, Discard, Input, MAX_TRANSACTIONS, Output, REQUEST_LEN};
pub use codec::is_stun;
