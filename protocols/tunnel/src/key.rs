//! Keys, and the identity that a host has in one network.

use std::fmt;

use rand_core::{CryptoRng, RngCore};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::cookie::Mac1;

/// An X25519 public key: what a host is known by in the tunnel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Takes the 32 bytes of a key as they stand on the wire. Low-order keys are refused when they are used.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the key as they stand on the wire.
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// The 32 bytes of the key, borrowed.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "PublicKey({a:02x}{b:02x}{c:02x}{d:02x}..)")
    }
}

/// An X25519 private key, clamped (RFC 7748 section 5) and wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct StaticSecret([u8; 32]);

impl StaticSecret {
    /// Draws a new key: 32 bytes of `rng`.
    pub fn generate<R: RngCore + CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(bytes.as_mut_slice());
        Self::from_bytes(*bytes)
    }

    /// Takes the 32 bytes of a key and clamps them.
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        bytes[0] &= 0b1111_1000;
        bytes[31] = bytes[31] & 0b0111_1111 | 0b0100_0000;
        let secret = Self(bytes);
        bytes.zeroize();
        secret
    }

    /// The 32 clamped bytes of the key.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0)
    }

    /// The public key that belongs to this one; one multiplication on the curve.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.dalek()).to_bytes())
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn dalek(&self) -> x25519_dalek::StaticSecret {
        x25519_dalek::StaticSecret::from(self.0)
    }
}

/// A symmetric key that two hosts mix into their handshakes, wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; 32]);

impl PresharedKey {
    /// The key of hosts that have none: 32 zero bytes.
    pub const fn zero() -> Self {
        Self([0; 32])
    }

    /// Takes the 32 bytes of a key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the key.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The id of the network in the prologue of ginneld's own suites; zeros for peers from a config file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkTag(pub [u8; 32]);

/// A host in one network: its static key, the network, and what follows from both, computed once.
pub struct Identity {
    secret: StaticSecret,
    public: PublicKey,
    network: NetworkTag,
    mac1: Mac1,
}

impl Identity {
    /// Joins a static key to a network and computes the public key.
    pub fn new(secret: StaticSecret, network: NetworkTag) -> Self {
        let public = secret.public();
        Self { secret, public, network, mac1: Mac1::new(&public) }
    }

    /// The public key of this identity.
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// The network of this identity.
    pub const fn network(&self) -> NetworkTag {
        self.network
    }

    /// The mac1 that messages to this identity carry; tells which identity a handshake message is for.
    pub const fn mac1(&self) -> &Mac1 {
        &self.mac1
    }

    pub(crate) const fn secret(&self) -> &StaticSecret {
        &self.secret
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("public", &self.public).field("network", &self.network).finish_non_exhaustive()
    }
}

/// The key of one direction of one session, wiped when dropped. It cannot be copied: a [`Sealer`](crate::Sealer) or
/// [`Opener`](crate::Opener) consumes it.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct TransportKey([u8; 32]);

impl TransportKey {
    /// Takes the 32 bytes of a key. One key serves one [`Sealer`](crate::Sealer) and never a second one.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Both keys of a session, from the view of one side.
pub struct SessionKeys {
    /// Seals what this side sends.
    pub send: TransportKey,
    /// Opens what this side receives.
    pub receive: TransportKey,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748, section 6.1.
    #[test]
    fn public_key_is_that_of_the_rfc() {
        let secret = StaticSecret::from_bytes([
            0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45, 0xdf, 0x4c,
            0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a,
        ]);
        let expected = [
            0x85, 0x20, 0xf0, 0x09, 0x89, 0x30, 0xa7, 0x54, 0x74, 0x8b, 0x7d, 0xdc, 0xb4, 0x3e, 0xf7, 0x5a, 0x0d, 0xbf,
            0x3a, 0x0d, 0x26, 0x38, 0x1a, 0xf4, 0xeb, 0xa4, 0xa9, 0x8e, 0xaa, 0x9b, 0x4e, 0x6a,
        ];
        assert_eq!(secret.public().to_bytes(), expected);
        assert_eq!(secret.to_bytes()[0], 0x70);
    }

    #[test]
    fn debug_output_is_short() {
        assert_eq!(format!("{:?}", PublicKey::from_bytes([0xab; 32])), "PublicKey(abababab..)");
    }
}
