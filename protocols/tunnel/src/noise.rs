//! The primitives that `snow` runs on: an X25519 that refuses low-order keys and asks before it spends work on an
//! unknown peer, AEADs from the provider that seals packets, and randomness that the caller drew.
//!
//! `snow` reads the first message in one call, the static-static step included. The responder's static key is used
//! twice there: with the ephemeral (`es`) and with the initiator's static (`ss`). [`Gate`] stops the second use, the
//! caller asks whether the peer is known, and a second call repeats the reading with the first product from memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rand_core::{CryptoRng, RngCore};
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, Error, HandshakeState};
use subtle::ConstantTimeEq;
use x25519_dalek::{PublicKey as Point, StaticSecret as Scalar};
use zeroize::{Zeroize, Zeroizing};

use crate::key::{Identity, NetworkTag, PublicKey};
use crate::wire::{MessageKind, Suite, TAG_LEN};

/// A handshake of `snow` and the doors by which this crate reaches its primitives.
pub(crate) struct Noise {
    pub(crate) state: Box<HandshakeState>,
    doors: Arc<Mutex<Doors>>,
}

impl Noise {
    /// Begins as initiator towards `remote`.
    pub(crate) fn initiator(identity: &Identity, suite: Suite, remote: &PublicKey) -> Result<Self, Error> {
        Self::build(protocol(suite), &prologue(suite, identity.network()), identity, Some(remote))
    }

    /// Begins as responder.
    pub(crate) fn responder(identity: &Identity, suite: Suite) -> Result<Self, Error> {
        Self::build(protocol(suite), &prologue(suite, identity.network()), identity, None)
    }

    /// Begins as initiator towards `remote`, or as responder when there is none.
    pub(crate) fn build(
        protocol: &str,
        prologue: &[u8],
        identity: &Identity,
        remote: Option<&PublicKey>,
    ) -> Result<Self, Error> {
        let gate = if remote.is_some() { Gate::Passed } else { Gate::Closed };
        let doors = Arc::new(Mutex::new(Doors { gate, drawn: None }));
        let resolver = Resolver { public: identity.public(), doors: Arc::clone(&doors) };
        let builder = Builder::with_resolver(protocol.parse::<NoiseParams>()?, Box::new(resolver))
            .prologue(prologue)?
            .local_private_key(identity.secret().as_bytes())?;
        let state = match remote {
            Some(remote) => builder.remote_public_key(remote.as_bytes())?.build_initiator()?,
            None => builder.build_responder()?,
        };
        Ok(Self { state: Box::new(state), doors })
    }

    /// Draws the 32 bytes of the ephemeral key that the next written message will carry.
    pub(crate) fn draw_ephemeral<R: RngCore + CryptoRng + ?Sized>(&self, rng: &mut R) {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill_bytes(bytes.as_mut_slice());
        locked(&self.doors).drawn = Some(bytes);
    }

    /// The initiator's static key, when reading the first message stopped because the peer must be looked up.
    pub(crate) fn asked(&self) -> Option<PublicKey> {
        match &locked(&self.doors).gate {
            Gate::Asking { remote, .. } => Some(PublicKey::from_bytes(*remote)),
            Gate::Closed | Gate::Ephemeral { .. } | Gate::Admitted { .. } | Gate::Passed => None,
        }
    }

    /// Lets the peer that was asked for through, when the first message is read again.
    pub(crate) fn admit(&self) {
        let mut doors = locked(&self.doors);
        doors.gate = match std::mem::replace(&mut doors.gate, Gate::Closed) {
            Gate::Asking { ephemeral, shared, remote } => Gate::Admitted { ephemeral, shared, remote },
            other @ (Gate::Closed | Gate::Ephemeral { .. } | Gate::Admitted { .. } | Gate::Passed) => other,
        };
    }
}

impl Drop for Noise {
    /// Overwrites the copy of the preshared key that `snow` would leave in memory.
    fn drop(&mut self) {
        self.state.set_psk(PSK_POSITION, &[0; 32]).expect("position and length are right");
    }
}

/// What this crate and the primitives inside of `snow` hand each other.
struct Doors {
    gate: Gate,
    /// Bytes for the next ephemeral key; taken once.
    drawn: Option<Zeroizing<[u8; 32]>>,
}

/// How far the static key of a responder has been used.
enum Gate {
    /// Not at all.
    Closed,
    /// With the initiator's ephemeral.
    Ephemeral { ephemeral: [u8; 32], shared: Shared },
    /// Its use with the initiator's static was refused until the peer is admitted.
    Asking { ephemeral: [u8; 32], shared: Shared, remote: [u8; 32] },
    /// The peer was admitted and the message is to be read again.
    Admitted { ephemeral: [u8; 32], shared: Shared, remote: [u8; 32] },
    /// Open: the key of an initiator, or of a responder that admitted its peer.
    Passed,
}

type Shared = Zeroizing<[u8; 32]>;

impl Gate {
    /// Answers one use of the static key.
    fn product(&mut self, secret: &Scalar, point: [u8; 32]) -> Result<Shared, Error> {
        match std::mem::replace(self, Self::Closed) {
            Self::Closed => {
                let shared = multiply(secret, point)?;
                *self = Self::Ephemeral { ephemeral: point, shared: shared.clone() };
                Ok(shared)
            }
            Self::Ephemeral { ephemeral, shared } => {
                *self = Self::Asking { ephemeral, shared, remote: point };
                Err(Error::Dh)
            }
            Self::Admitted { ephemeral, shared, remote } if point == ephemeral => {
                let again = shared.clone();
                *self = Self::Admitted { ephemeral, shared, remote };
                Ok(again)
            }
            Self::Admitted { remote, .. } if point == remote => {
                *self = Self::Passed;
                multiply(secret, point)
            }
            Self::Asking { .. } | Self::Admitted { .. } => Err(Error::Dh),
            Self::Passed => {
                *self = Self::Passed;
                multiply(secret, point)
            }
        }
    }
}

struct Resolver {
    public: PublicKey,
    doors: Arc<Mutex<Doors>>,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Drawn(Arc::clone(&self.doors))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(StrictDh {
                use_as: Use::Ephemeral,
                secret: Scalar::from([0; 32]),
                public: self.public.to_bytes(),
                doors: Arc::clone(&self.doors),
            })),
            DHChoice::Curve448 => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        match choice {
            CipherChoice::AESGCM => Some(Box::new(Aead { name: "AESGCM", algorithm: &AES_256_GCM, key: None })),
            CipherChoice::ChaChaPoly => {
                Some(Box::new(Aead { name: "ChaChaPoly", algorithm: &CHACHA20_POLY1305, key: None }))
            }
        }
    }
}

/// Hands out the bytes that the caller drew, once.
struct Drawn(Arc<Mutex<Doors>>);

impl Random for Drawn {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        let drawn = locked(&self.0).drawn.take().ok_or(Error::Rng)?;
        if dest.len() != drawn.len() {
            return Err(Error::Rng);
        }
        dest.copy_from_slice(drawn.as_slice());
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Static,
    Ephemeral,
}

/// X25519 that fails where the product is zero.
struct StrictDh {
    use_as: Use,
    secret: Scalar,
    /// The identity's public key until [`Dh::set`] or [`Dh::generate`] says what the key is used as.
    public: [u8; 32],
    doors: Arc<Mutex<Doors>>,
}

impl Dh for StrictDh {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    /// Takes the identity's private key, the only key ever set; its public key is known already.
    fn set(&mut self, privkey: &[u8]) {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(privkey);
        self.secret = Scalar::from(bytes);
        self.use_as = Use::Static;
        bytes.zeroize();
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.try_fill_bytes(bytes.as_mut_slice())?;
        self.secret = Scalar::from(*bytes);
        self.public = Point::from(&self.secret).to_bytes();
        self.use_as = Use::Ephemeral;
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let point = *pubkey.first_chunk::<32>().ok_or(Error::Dh)?;
        let shared = match self.use_as {
            Use::Static => locked(&self.doors).gate.product(&self.secret, point)?,
            Use::Ephemeral => multiply(&self.secret, point)?,
        };
        out.get_mut(..32).ok_or(Error::Dh)?.copy_from_slice(shared.as_slice());
        Ok(())
    }
}

/// An AEAD for the handshake. The key's memory is wiped by the provider.
struct Aead {
    name: &'static str,
    algorithm: &'static Algorithm,
    key: Option<LessSafeKey>,
}

impl Aead {
    fn nonce(&self, counter: u64) -> Nonce {
        let mut bytes = [0; 12];
        let counter = if self.name == "AESGCM" { counter.to_be_bytes() } else { counter.to_le_bytes() };
        bytes[4..].copy_from_slice(&counter);
        Nonce::assume_unique_for_key(bytes)
    }

    fn key(&self) -> &LessSafeKey {
        self.key.as_ref().expect("snow sets a key before it uses the cipher")
    }
}

impl Cipher for Aead {
    fn name(&self) -> &'static str {
        self.name
    }

    fn set(&mut self, key: &[u8; 32]) {
        let key = UnboundKey::new(self.algorithm, key).expect("both ciphers take keys of 32 bytes");
        self.key = Some(LessSafeKey::new(key));
    }

    fn encrypt(&self, nonce: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (sealed, rest) = out.split_at_mut(plaintext.len());
        sealed.copy_from_slice(plaintext);
        let tag = self
            .key()
            .seal_in_place_separate_tag(self.nonce(nonce), Aad::from(authtext), sealed)
            .expect("handshake fields are far below the cipher's limits");
        rest[..TAG_LEN].copy_from_slice(tag.as_ref());
        plaintext.len() + TAG_LEN
    }

    fn decrypt(&self, nonce: u64, authtext: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let (sealed, tag) = ciphertext.split_last_chunk::<TAG_LEN>().ok_or(Error::Decrypt)?;
        let out = out.get_mut(..sealed.len()).ok_or(Error::Decrypt)?;
        self.key()
            .open_separate_gather(self.nonce(nonce), Aad::from(authtext), sealed, tag, out)
            .map_err(|_| Error::Decrypt)?;
        Ok(sealed.len())
    }
}

fn multiply(secret: &Scalar, point: [u8; 32]) -> Result<Shared, Error> {
    let shared = secret.diffie_hellman(&Point::from(point));
    if bool::from(shared.as_bytes().ct_eq(&[0; 32])) { Err(Error::Dh) } else { Ok(Zeroizing::new(shared.to_bytes())) }
}

/// The state behind the lock is a plain value that is never left half-changed, so a poisoned lock is still good.
fn locked(doors: &Mutex<Doors>) -> MutexGuard<'_, Doors> {
    doors.lock().unwrap_or_else(PoisonError::into_inner)
}

fn protocol(suite: Suite) -> &'static str {
    match suite {
        Suite::AesGcm => "Noise_IKpsk2_25519_AESGCM_BLAKE2s",
        Suite::WireGuard | Suite::ChaChaPoly => "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s",
    }
}

fn prologue(suite: Suite, network: NetworkTag) -> Vec<u8> {
    match suite {
        Suite::WireGuard => b"WireGuard v1 zx2c4 Jason@zx2c4.com".to_vec(),
        Suite::AesGcm | Suite::ChaChaPoly => {
            [b"ginnel v1".as_slice(), &[suite.message_type(MessageKind::Initiation)], &network.0].concat()
        }
    }
}

/// The psk2 modifier mixes the preshared key in at the end of the second message.
pub(crate) const PSK_POSITION: usize = 2;

#[cfg(test)]
mod tests;
