//! MESSAGE-INTEGRITY (RFC 8489 §14.5) and its keys.

use std::fmt;

use hmac::{Hmac, Mac};
use sha1::Sha1;
use stun_rs::{Algorithm, AlgorithmId, HMACKey};
use subtle::ConstantTimeEq;

use super::message::Malformed;
use super::wire::{HEADER_LEN, attribute_at, layout};

/// A key for MESSAGE-INTEGRITY.
#[derive(Clone)]
pub struct Key(pub(super) HMACKey);

impl Key {
    /// The key of the long-term mechanism: MD5 of `username:realm:password` (RFC 8489 §18.5.1.1).
    ///
    /// # Errors
    /// [`InvalidCredentials`] when realm or password hold characters that the OpaqueString profile (RFC 8265) forbids.
    pub fn long_term(username: &str, realm: &str, password: &str) -> Result<Self, InvalidCredentials> {
        HMACKey::new_long_term(username, realm, password, Algorithm::from(AlgorithmId::MD5))
            .map(Self)
            .map_err(|_| InvalidCredentials)
    }

    /// The key of the short-term mechanism: the password itself (RFC 8489 §9.1.1).
    ///
    /// # Errors
    /// [`InvalidCredentials`] when the password holds characters that the OpaqueString profile (RFC 8265) forbids.
    pub fn short_term(password: &str) -> Result<Self, InvalidCredentials> {
        HMACKey::new_short_term(password).map(Self).map_err(|_| InvalidCredentials)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A user name, realm or password that cannot be used with STUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("user name, realm or password is empty, too long or holds forbidden characters")]
pub struct InvalidCredentials;

/// Why a message is not authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Unauthenticated {
    /// The bytes are not one whole message.
    #[error("malformed message")]
    Malformed(#[from] Malformed),
    /// There is no MESSAGE-INTEGRITY.
    #[error("message carries no MESSAGE-INTEGRITY")]
    Missing,
    /// MESSAGE-INTEGRITY does not fit the message and the key.
    #[error("MESSAGE-INTEGRITY does not fit")]
    Wrong,
}

/// Checks that a message carries MESSAGE-INTEGRITY made with `key`; the comparison takes constant time.
///
/// Everything that [`Message`](super::Message) reports of the same bytes is covered when this succeeds: attributes after
/// MESSAGE-INTEGRITY are never reported.
///
/// # Errors
/// [`Unauthenticated`], as [`decode_authenticated`](super::decode_authenticated).
pub fn verify(datagram: &[u8], key: &Key) -> Result<(), Unauthenticated> {
    let position = layout(datagram)?.integrity.ok_or(Unauthenticated::Missing)?;
    let (_, value) = attribute_at(datagram, position).ok_or(Malformed::Truncated)?;
    let covered = datagram.get(4..position).ok_or(Malformed::Truncated)?;
    let kind = datagram.get(..2).ok_or(Malformed::Truncated)?;
    // The length in the header counts up to and with MESSAGE-INTEGRITY, whatever follows it (RFC 8489 §14.5).
    let length = u16::try_from(position + INTEGRITY_LEN - HEADER_LEN).map_err(|_| Malformed::Truncated)?;
    let expected = hmac_sha1(key.0.as_bytes(), &[kind, &length.to_be_bytes(), covered]);
    if bool::from(expected.ct_eq(value)) { Ok(()) } else { Err(Unauthenticated::Wrong) }
}

/// Adds MESSAGE-INTEGRITY to a message that was written without one.
///
/// # Errors
/// [`Malformed`] when the bytes are not one whole message, or too many for one more attribute.
pub fn sign(mut message: Vec<u8>, key: &Key) -> Result<Vec<u8>, Malformed> {
    layout(&message)?;
    let length = u16::try_from(message.len() + INTEGRITY_LEN - HEADER_LEN).map_err(|_| Malformed::Truncated)?;
    message.get_mut(2..4).ok_or(Malformed::Truncated)?.copy_from_slice(&length.to_be_bytes());
    let mac = hmac_sha1(key.0.as_bytes(), &[&message]);
    message.extend_from_slice(&INTEGRITY_HEADER);
    message.extend_from_slice(&mac);
    Ok(message)
}

/// HMAC-SHA1 over `parts` in order, as MESSAGE-INTEGRITY and shared-secret passwords use it.
pub fn hmac_sha1(key: &[u8], parts: &[&[u8]]) -> [u8; 20] {
    let mut mac = <Hmac<Sha1> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Type 0x0008, 20 bytes.
const INTEGRITY_HEADER: [u8; 4] = [0x00, 0x08, 0x00, 0x14];
/// Header and value of MESSAGE-INTEGRITY.
const INTEGRITY_LEN: usize = 24;
