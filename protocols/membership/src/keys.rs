//! Keys, identifiers and domain-separated signatures.

use std::fmt;
use std::str::FromStr;

use blake2::{Blake2s256, Digest as _};
use data_encoding::HEXLOWER;
use ed25519_dalek::Signer as _;
use rand_core::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

/// What a signature is for: a label that stands in front of every signed message, so that a signature made for one
/// purpose is worth nothing for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context(&'static str);

impl Context {
    /// Signatures on log records, see [`crate::record`].
    pub const RECORD: Self = Self::new("ginnel record v1");
    /// The sequencer's signatures on log entries, see [`crate::entry`].
    pub const ENTRY: Self = Self::new("ginnel entry v1");

    /// Makes a context of another protocol; the label is at most 255 bytes long and names protocol, role and version.
    pub const fn new(label: &'static str) -> Self {
        assert!(label.len() <= 255, "a context label is at most 255 bytes long");
        Self(label)
    }

    /// The bytes that are signed: length of the label, label, message.
    fn message(self, parts: &[&[u8]]) -> Vec<u8> {
        let mut message = Vec::with_capacity(1 + self.0.len() + parts.iter().map(|part| part.len()).sum::<usize>());
        message.push(self.0.len() as u8);
        message.extend_from_slice(self.0.as_bytes());
        for part in parts {
            message.extend_from_slice(part);
        }
        message
    }
}

/// An Ed25519 signing key; wiped when dropped, never shown.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// Makes a fresh key.
    pub fn generate<R: RngCore + CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        Self::from_bytes(&seed)
    }

    /// Takes the 32 secret bytes of a stored key.
    pub fn from_bytes(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The 32 secret bytes, for storing.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half of a node's or an admin's key.
    pub fn member_key(&self) -> MemberKey {
        MemberKey(self.0.verifying_key().to_bytes())
    }

    /// The public half of an invite's one-time key.
    pub fn invite_key(&self) -> InviteKey {
        InviteKey(self.0.verifying_key().to_bytes())
    }

    /// The public half of a sequencer's key.
    pub fn sequencer_key(&self) -> SequencerKey {
        SequencerKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `message` for the purpose `context`.
    pub fn sign(&self, context: Context, message: &[u8]) -> Signature {
        self.sign_parts(context, &[message])
    }

    pub(crate) fn sign_parts(&self, context: Context, parts: &[&[u8]]) -> Signature {
        Signature(self.0.sign(&context.message(parts)).to_bytes())
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Signature([u8; 64]);

impl Signature {
    /// Takes the 64 bytes of a signature as they stand on the wire.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The 64 bytes of the signature as they stand on the wire.
    pub const fn to_bytes(self) -> [u8; 64] {
        self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({}…)", short(&self.0))
    }
}

impl From<Signature> for Vec<u8> {
    fn from(signature: Signature) -> Self {
        signature.0.to_vec()
    }
}

impl TryFrom<Vec<u8>> for Signature {
    type Error = BadSignature;

    fn try_from(bytes: Vec<u8>) -> Result<Self, BadSignature> {
        bytes.try_into().map(Self).map_err(|_| BadSignature)
    }
}

/// A signature does not fit its key, its message and its purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("signature does not verify")]
pub struct BadSignature;

/// A text is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not 64 lower-case hexadecimal digits")]
pub struct BadHex;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Shown as 64 hexadecimal digits; `Debug` shows the first eight.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Takes the 32 bytes as they stand on the wire.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes as they stand on the wire.
            pub const fn to_bytes(self) -> [u8; 32] {
                self.0
            }

            /// The 32 bytes as they stand on the wire, by reference.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({}…)"), short(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = BadHex;

            fn from_str(text: &str) -> Result<Self, BadHex> {
                let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| BadHex)?;
                bytes.try_into().map(Self).map_err(|_| BadHex)
            }
        }
    };
}

macro_rules! verifies {
    ($name:ident) => {
        impl $name {
            /// Checks a signature strictly: canonical encodings only, no key or commitment of small order.
            ///
            /// # Errors
            /// [`BadSignature`] when the signature was not made by this key over `message` for `context`.
            pub fn verify(&self, context: Context, message: &[u8], signature: &Signature) -> Result<(), BadSignature> {
                Verifier::new(&self.0)?.verify(context, &[message], signature)
            }
        }
    };
}

identifier! {
    /// A network's identity: the hash of its genesis record.
    NetworkId
}
identifier! {
    /// A node's or an admin's Ed25519 public key.
    MemberKey
}
identifier! {
    /// The public half of an invite's one-time Ed25519 key.
    InviteKey
}
identifier! {
    /// The Ed25519 public key of the server that orders a network's log.
    SequencerKey
}
identifier! {
    /// A node's X25519 public key, the static key of its tunnels.
    TunnelKey
}
verifies!(MemberKey);
verifies!(InviteKey);
verifies!(SequencerKey);

impl TunnelKey {
    /// Whether the key is the one canonical encoding of a point that is not of low order.
    ///
    /// Other encodings are refused because one key must not be able to appear as two members.
    pub fn is_usable(&self) -> bool {
        let mut big_endian = self.0;
        big_endian.reverse();
        big_endian < PRIME_BIG_ENDIAN && !LOW_ORDER.contains(&self.0)
    }
}

/// The public keys of a server: one signs log entries where the server is a network's sequencer, the other answers the
/// Noise handshake of the signaling protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ServerKeys {
    /// Ed25519 public key.
    pub signing: [u8; 32],
    /// X25519 public key.
    pub noise: [u8; 32],
}

impl ServerKeys {
    /// The key under which this server orders logs.
    pub const fn sequencer(&self) -> SequencerKey {
        SequencerKey(self.signing)
    }
}

/// A signaling server: where it is and what proves that it is the one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Server {
    /// One to four `host:port`, best first; see [`crate::codec::is_address`].
    pub addresses: Vec<String>,
    /// Its public keys.
    pub keys: ServerKeys,
}

/// An unpacked public key that checks many signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verifier(ed25519_dalek::VerifyingKey);

impl Verifier {
    pub(crate) fn new(key: &[u8; 32]) -> Result<Self, BadSignature> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(key).map_err(|_| BadSignature)?;
        if key.is_weak() { Err(BadSignature) } else { Ok(Self(key)) }
    }

    pub(crate) fn verify(&self, context: Context, parts: &[&[u8]], signature: &Signature) -> Result<(), BadSignature> {
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        self.0.verify_strict(&context.message(parts), &signature).map_err(|_| BadSignature)
    }
}

/// BLAKE2s-256 over a length-prefixed label and the parts.
pub(crate) fn hash(label: &'static str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Blake2s256::new();
    hasher.update([label.len() as u8]);
    hasher.update(label.as_bytes());
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

fn short(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes.get(..4).unwrap_or(bytes))
}

/// 2^255 - 19, most significant byte first.
const PRIME_BIG_ENDIAN: [u8; 32] = {
    let mut prime = [0xff; 32];
    prime[0] = 0x7f;
    prime[31] = 0xed;
    prime
};

/// The canonical encodings of Curve25519's points of low order: 0, 1, two points of order 8, and p - 1.
const LOW_ORDER: [[u8; 32]; 5] = {
    let zero = [0; 32];
    let mut one = zero;
    one[0] = 1;
    let mut minus_one = [0xff; 32];
    minus_one[0] = 0xec;
    minus_one[31] = 0x7f;
    [
        zero,
        one,
        minus_one,
        [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
            0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ],
        [
            0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
            0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
        ],
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_is_worth_nothing_in_another_context() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let signature = key.sign(Context::RECORD, b"message");
        assert_eq!(key.member_key().verify(Context::RECORD, b"message", &signature), Ok(()));
        assert_eq!(key.member_key().verify(Context::ENTRY, b"message", &signature), Err(BadSignature));
        assert_eq!(key.member_key().verify(Context::RECORD, b"massage", &signature), Err(BadSignature));
    }

    #[test]
    fn label_and_message_do_not_run_into_each_other() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let signature = key.sign(Context::new("ab"), b"c");
        assert_eq!(key.member_key().verify(Context::new("a"), b"bc", &signature), Err(BadSignature));
    }

    #[test]
    fn malleated_signature_is_refused() {
        // S + L is the same scalar in another encoding (RFC 8032, section 8.4).
        const ORDER: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let key = SigningKey::from_bytes(&[7; 32]);
        let mut bytes = key.sign(Context::RECORD, b"m").to_bytes();
        let mut carry = 0;
        for (byte, order) in bytes[32..].iter_mut().zip(ORDER) {
            let sum = u16::from(*byte) + u16::from(order) + carry;
            *byte = (sum & 0xff) as u8;
            carry = sum >> 8;
        }
        assert_eq!(key.member_key().verify(Context::RECORD, b"m", &Signature(bytes)), Err(BadSignature));
    }

    #[test]
    fn key_of_small_order_verifies_nothing() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(MemberKey(identity).verify(Context::RECORD, b"m", &Signature(signature)).is_err());
    }

    #[test]
    fn low_order_list_is_what_the_curve_says() {
        let secret = x25519_dalek::StaticSecret::from([0x55; 32]);
        for bytes in LOW_ORDER {
            assert!(!secret.diffie_hellman(&bytes.into()).was_contributory());
            assert!(!TunnelKey(bytes).is_usable());
        }
        let good = x25519_dalek::PublicKey::from(&secret).to_bytes();
        assert!(TunnelKey(good).is_usable());
    }

    #[test]
    fn second_encodings_of_a_tunnel_key_are_refused() {
        let secret = x25519_dalek::StaticSecret::from([0x55; 32]);
        let mut high_bit = x25519_dalek::PublicKey::from(&secret).to_bytes();
        high_bit[31] |= 0x80;
        assert!(!TunnelKey(high_bit).is_usable());
        let mut nine_and_prime = [0xff; 32];
        nine_and_prime[0] = 0xed + 9;
        nine_and_prime[31] = 0x7f;
        assert!(!TunnelKey(nine_and_prime).is_usable());
    }

    #[test]
    fn identifiers_survive_their_text() {
        let id = NetworkId::from_bytes([0xa5; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(format!("{id:?}"), "NetworkId(a5a5a5a5…)");
        assert_eq!("A5".repeat(32).parse::<NetworkId>(), Err(BadHex));
        assert_eq!("a5".repeat(31).parse::<NetworkId>(), Err(BadHex));
    }
}
