//! TURN (RFC 8656) over UDP: a client for one allocation, a server for many, and the ChannelData header between them.
//!
//! - [`Client`] keeps one allocation on one server, with its permissions and channels.
//! - [`Server`] relays for clients that hold time-limited credentials.
//! - [`channel_data`] is the 4-byte framing that data travels in once a channel is bound.
//! - [`credentials`] makes and checks `<unix expiry>:<name>` user names with a shared secret.
//!
//! Nothing here opens a socket, reads a clock or draws entropy. Both machines are driven alike: hand in an input, drain
//! `poll_output` to `None`, read `poll_timeout`, call `handle_timeout` when that moment has come. In this crate a *peer*
//! is RFC 8656's peer: a transport address that a client exchanges data with through its relayed address.
//!
//! # Deviations from RFC 8656
//! - UDP between client and server, and UDP between server and peer; no reservation of ports (508), no
//!   DONT-FRAGMENT (420), no ICMP attribute, no mobility.
//! - Channel numbers are 0x4000 to 0x4FFF as in RFC 8656; the wider range of RFC 5766 is refused. What else shares a
//!   socket with ChannelData is told apart by that range.
//! - ADDITIONAL-ADDRESS-FAMILY is ignored, as a server may that relays one family per allocation; a client that wants
//!   both families makes two allocations.
//! - The server accepts, on an existing allocation, every valid user name with the same name part: so a client may renew
//!   credentials that are about to expire without losing the allocation. Other names get 441.
//! - The server relays between two of its own relayed addresses inside the process and never sends to any other port of
//!   its own addresses.
//! - Messages that cannot be parsed get no answer, rather than 400.
//! - The client asks for one peer per CreatePermission, since servers are in use that install only the first.
//! - The client asks for a second allocation in place of a forgotten one: told 437 by Allocate, it deletes what the
//!   server still holds for its address and asks again, once.
#![forbid(unsafe_code)]

pub mod channel_data;
pub mod client;
pub mod credentials;
pub mod server;

pub use channel_data::ChannelNumber;
pub use client::Client;
pub use credentials::Credentials;
pub use ginnel_stun::codec::AddressFamily;
pub use server::Server;

/// Most bytes in a server's answer to a request that is not authenticated; a client pads its first request to this.
pub const MAX_CHALLENGE_LEN: usize = 128;
