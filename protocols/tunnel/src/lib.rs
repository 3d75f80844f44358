//! The tunnel's cryptography: WireGuard's handshake by Noise IKpsk2, cookies, and the sealing and opening of packets.
//!
//! This crate turns keys and bytes into bytes and keys. It holds no peer table, no address, no timer and no queue: who
//! a peer is, when to begin a handshake and where a datagram goes is decided by its callers. It reads no clock and no
//! entropy source, and nothing that comes from the network can make it panic.
//!
//! # A session from start to end
//! 1. [`Initiator::start`] gives the initiation and keeps the half-open state.
//! 2. The other side checks [`Mac1`](cookie::Mac1) (and, under load, the cookie), then [`Received::read`] and
//!    [`Received::respond`].
//! 3. [`Initiator::finish`] reads the response. Both sides hold an [`Established`].
//! 4. Each direction becomes one [`Sealer`] on one side and one [`Opener`] on the other. The keys are consumed: no second
//!    sealer can be made of them, so no counter is ever used twice.
//!
//! # Suites
//! | suite | types | Noise protocol | prologue |
//! |---|---|---|---|
//! | [`Suite::WireGuard`] | 1, 2, 3, 4 | `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` | `WireGuard v1 zx2c4 Jason@zx2c4.com` |
//! | [`Suite::AesGcm`] | 0xC0, 0xC1, 0xC2, 0xC3 | `Noise_IKpsk2_25519_AESGCM_BLAKE2s` | `ginnel v1`, 0xC0, network tag (32 bytes) |
//! | [`Suite::ChaChaPoly`] | 0xC4, 0xC5, 0xC6, 0xC7 | `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` | `ginnel v1`, 0xC4, network tag (32 bytes) |
//!
//! The first is WireGuard byte for byte. The type byte is the version byte of the other two: a new layout takes new
//! types and a new prologue.
//!
//! # Handshake messages
//! All three suites share these layouts. The three bytes after the type are zero, indices are little-endian.
//!
//! | initiation | size | response | size | cookie reply | size |
//! |---|---|---|---|---|---|
//! | type | 4 | type | 4 | type | 4 |
//! | sender index | 4 | sender index | 4 | receiver index | 4 |
//! | ephemeral | 32 | receiver index | 4 | nonce | 24 |
//! | sealed static | 48 | ephemeral | 32 | sealed cookie | 32 |
//! | sealed payload | 28 or 32 | sealed payload | 16 or 20 | | |
//! | mac1 | 16 | mac1 | 16 | | |
//! | mac2 | 16 | mac2 | 16 | | |
//! | **total** | 148 or 152 | | 92 or 96 | | 64 |
//!
//! WireGuard's payloads are the TAI64N label (12 bytes) and nothing. The other suites append a psk id to the first (u32
//! big-endian, 0 = bootstrap) and answer with the id of the key that was used.
//!
//! # Data messages
//! | WireGuard | bytes | other suites | bytes |
//! |---|---|---|---|
//! | type, three zero bytes | 0..4 | type | 0 |
//! | receiver index, little-endian | 4..8 | counter, u56 big-endian | 1..8 |
//! | counter, u64 little-endian | 8..16 | receiver index, big-endian | 8..12 |
//! | sealed packet, zero-padded | 16.. | sealed [`Metadata`] (4 bytes) and packet | 12.. |
//! | tag | last 16 | tag | last 16 |
//! | no associated data | | associated data: bytes 0..12 | |
//!
//! The nonce is four zero bytes and the counter as u64: little-endian under ChaCha20-Poly1305, big-endian under AES-GCM.
//!
//! # Deviations from the WireGuard whitepaper
//! - Keys of low order are refused wherever they appear, as the kernel does.
//! - [`cookie::CookieIssuer`] also accepts cookies of the secret before the present one, so that a cookie is good for at
//!   least as long as its holder may use it.
//!
//! # What stays in memory
//! Private, preshared and transport keys are wiped when dropped. `snow` keeps the chaining key of a handshake in memory
//! that it does not wipe; a handshake lives for seconds and its copy of the preshared key is overwritten at its end.
#![forbid(unsafe_code)]

pub mod cookie;
mod handshake;
mod key;
pub mod limiter;
mod metadata;
mod noise;
mod replay;
#[cfg(test)]
mod testing;
pub mod timers;
mod transport;
mod wire;

pub use handshake::{Established, HandshakeError, Initiator, MAX_PRESHARED_KEYS, Received, Side};
pub use key::{Identity, NetworkTag, PresharedKey, PublicKey, SessionKeys, StaticSecret, TransportKey};
pub use metadata::{Checksum, Metadata, Run};
pub use replay::{ReplayError, ReplayWindow, WindowSize};
pub use transport::{HEADROOM, OVERHEAD, OpenError, Opener, SealError, Sealer, TAILROOM};
pub use wire::{DATA_LEN_MIN, MessageKind, ReceiverIndex, Suite, classify, receiver_index, sender_index};
