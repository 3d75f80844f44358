//! STUN messages on the wire: reading, writing and message integrity.
//!
//! Reading is total: any bytes give a [`Message`] or an error. [`Message::decode`] alone authenticates nothing; whoever
//! acts on a message that must be authentic calls [`decode_authenticated`], or [`verify`] on the same bytes.

mod build;
mod integrity;
mod message;
mod wire;

pub use build::{Builder, EncodeError};
pub use integrity::{InvalidCredentials, Key, Unauthenticated, hmac_sha1, sign, verify};
pub use message::{AddressFamily, Class, Malformed, Message, Method, TransactionId};
pub use wire::{HEADER_LEN, MAX_ATTRIBUTES, is_stun};

/// Reads a message and insists that it carries a MESSAGE-INTEGRITY made with `key`.
///
/// # Errors
/// [`Unauthenticated::Missing`] without the attribute, [`Unauthenticated::Wrong`] when it does not fit, and
/// [`Unauthenticated::Malformed`] for anything that is not one whole STUN message.
pub fn decode_authenticated(datagram: &[u8], key: &Key) -> Result<Message, Unauthenticated> {
    let message = Message::decode(datagram)?;
    verify(datagram, key)?;
    Ok(message)
}

/// Numbers of the attributes that this crate looks at by itself (RFC 8489 §18.3, RFC 8656 §18).
pub mod attribute {
    /// XOR'd addresses came later; requests still may not carry this one.
    pub const MAPPED_ADDRESS: u16 = 0x0001;
    /// RFC 8489 §14.3.
    pub const USERNAME: u16 = 0x0006;
    /// RFC 8489 §14.5.
    pub const MESSAGE_INTEGRITY: u16 = 0x0008;
    /// RFC 8489 §14.8.
    pub const ERROR_CODE: u16 = 0x0009;
    /// RFC 8489 §14.13.
    pub const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
    /// RFC 8656 §18.1.
    pub const CHANNEL_NUMBER: u16 = 0x000C;
    /// RFC 8656 §18.2.
    pub const LIFETIME: u16 = 0x000D;
    /// RFC 8656 §18.3.
    pub const XOR_PEER_ADDRESS: u16 = 0x0012;
    /// RFC 8656 §18.4.
    pub const DATA: u16 = 0x0013;
    /// RFC 8489 §14.9.
    pub const REALM: u16 = 0x0014;
    /// RFC 8489 §14.10.
    pub const NONCE: u16 = 0x0015;
    /// RFC 8656 §18.5.
    pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    /// RFC 8656 §18.6.
    pub const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
    /// RFC 8656 §18.7.
    pub const EVEN_PORT: u16 = 0x0018;
    /// RFC 8656 §18.8.
    pub const REQUESTED_TRANSPORT: u16 = 0x0019;
    /// RFC 8656 §18.9.
    pub const DONT_FRAGMENT: u16 = 0x001A;
    /// RFC 8489 §14.2.
    pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    /// RFC 8656 §18.10.
    pub const RESERVATION_TOKEN: u16 = 0x0022;
    /// RFC 8489 §14.7.
    pub const FINGERPRINT: u16 = 0x8028;
}
