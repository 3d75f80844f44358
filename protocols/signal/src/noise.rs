//! The inner Noise channel: `NK` between client and server, and the resolver that both it and the mailbox use.
//!
//! The resolver draws from a seeded generator, refuses low-order public keys and wipes Diffie-Hellman secrets. The
//! ciphers and hashes are the library's.

use rand_chacha::ChaCha20Rng;
use rand_core::RngCore as _;
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState, StatelessTransportState};
use x25519_dalek::{PublicKey, StaticSecret};

/// A Noise message that does not verify, is out of order or names a low-order key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message does not verify")]
pub(crate) struct BadSeal;

/// The client's half of the `NK` handshake.
pub(crate) struct Initiator(HandshakeState);

impl Initiator {
    /// Starts a handshake with the server whose static key is `server`; returns the first message.
    pub(crate) fn start(server: &[u8; 32], rng: ChaCha20Rng) -> Result<(Self, Vec<u8>), BadSeal> {
        let builder = builder(CHANNEL_PATTERN, rng).prologue(CHANNEL_PROLOGUE).map_err(seal_error)?;
        let mut state = builder.remote_public_key(server).map_err(seal_error)?.build_initiator().map_err(seal_error)?;
        let mut message = vec![0; HANDSHAKE_MESSAGE_LEN];
        let length = state.write_message(&[], &mut message).map_err(seal_error)?;
        message.truncate(length);
        Ok((Self(state), message))
    }

    /// Takes the server's answer.
    pub(crate) fn finish(mut self, answer: &[u8]) -> Result<Channel, BadSeal> {
        self.0.read_message(answer, &mut []).map_err(seal_error)?;
        Channel::new(self.0)
    }
}

/// Answers a client's first `NK` message; returns the channel and the answer to send.
pub(crate) fn respond(secret: &[u8; 32], message: &[u8], rng: ChaCha20Rng) -> Result<(Channel, Vec<u8>), BadSeal> {
    let builder = builder(CHANNEL_PATTERN, rng).prologue(CHANNEL_PROLOGUE).map_err(seal_error)?;
    let mut state = builder.local_private_key(secret).map_err(seal_error)?.build_responder().map_err(seal_error)?;
    state.read_message(message, &mut []).map_err(seal_error)?;
    let mut answer = vec![0; HANDSHAKE_MESSAGE_LEN];
    let length = state.write_message(&[], &mut answer).map_err(seal_error)?;
    answer.truncate(length);
    Ok((Channel::new(state)?, answer))
}

/// An established channel: seals and opens the frames of one ordered stream.
///
/// Both counters start at zero and rise by one per frame; they are not on the wire, because the stream below is
/// reliable and ordered. A dropped, repeated or reordered frame fails to open.
pub(crate) struct Channel {
    state: StatelessTransportState,
    binding: [u8; 32],
    sent: u64,
    received: u64,
}

impl Channel {
    fn new(state: HandshakeState) -> Result<Self, BadSeal> {
        let binding = state.get_handshake_hash().try_into().map_err(|_| BadSeal)?;
        let state = state.into_stateless_transport_mode().map_err(seal_error)?;
        Ok(Self { state, binding, sent: 0, received: 0 })
    }

    /// The hash of the whole handshake, which names this channel and no other.
    pub(crate) const fn binding(&self) -> &[u8; 32] {
        &self.binding
    }

    pub(crate) fn seal(&mut self, plaintext: &[u8]) -> Result<Vec<u8>, BadSeal> {
        let mut sealed = vec![0; plaintext.len().saturating_add(TAG_LEN)];
        let length = self.state.write_message(self.sent, plaintext, &mut sealed).map_err(seal_error)?;
        sealed.truncate(length);
        self.sent = self.sent.checked_add(1).ok_or(BadSeal)?;
        Ok(sealed)
    }

    pub(crate) fn open(&mut self, sealed: &[u8]) -> Result<Vec<u8>, BadSeal> {
        let mut plaintext = vec![0; sealed.len()];
        let length = self.state.read_message(self.received, sealed, &mut plaintext).map_err(seal_error)?;
        plaintext.truncate(length);
        self.received = self.received.checked_add(1).ok_or(BadSeal)?;
        Ok(plaintext)
    }
}

/// A builder for `pattern` over the strict resolver.
pub(crate) fn builder<'a>(pattern: &str, rng: ChaCha20Rng) -> Builder<'a> {
    let params: NoiseParams = pattern.parse().expect("pattern names are constants of this crate");
    Builder::with_resolver(params, Box::new(Resolver { rng }))
}

pub(crate) fn seal_error(_: snow::Error) -> BadSeal {
    BadSeal
}

struct Resolver {
    rng: ChaCha20Rng,
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Seeded(self.rng.clone())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(StrictDh::new())),
            DHChoice::Curve448 => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct Seeded(ChaCha20Rng);

impl Random for Seeded {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

/// X25519 that refuses a shared secret without a contribution from the other side (RFC 7748 section 6.1).
struct StrictDh {
    secret: StaticSecret,
    public: PublicKey,
}

impl StrictDh {
    fn new() -> Self {
        let secret = StaticSecret::from([0; 32]);
        let public = PublicKey::from(&secret);
        Self { secret, public }
    }

    fn install(&mut self, bytes: [u8; 32]) {
        self.secret = StaticSecret::from(bytes);
        self.public = PublicKey::from(&self.secret);
    }
}

impl Dh for StrictDh {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_LEN
    }

    fn priv_len(&self) -> usize {
        KEY_LEN
    }

    fn set(&mut self, privkey: &[u8]) {
        let bytes = zeroize::Zeroizing::new(key(privkey).expect("static keys are 32 bytes by type"));
        self.install(*bytes);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut bytes = zeroize::Zeroizing::new([0; KEY_LEN]);
        rng.try_fill_bytes(&mut *bytes)?;
        self.install(*bytes);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn privkey(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let remote = PublicKey::from(key(pubkey).ok_or(snow::Error::Dh)?);
        let shared = self.secret.diffie_hellman(&remote);
        if !shared.was_contributory() {
            return Err(snow::Error::Dh);
        }
        out.get_mut(..KEY_LEN).ok_or(snow::Error::Dh)?.copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

/// The first 32 bytes; the library lends key buffers that may be longer than the key.
fn key(bytes: &[u8]) -> Option<[u8; KEY_LEN]> {
    bytes.first_chunk().copied()
}

/// Bytes that sealing adds to a frame.
pub(crate) const TAG_LEN: usize = 16;
/// Each of the two handshake messages: an ephemeral key and the tag of an empty payload.
const HANDSHAKE_MESSAGE_LEN: usize = KEY_LEN + TAG_LEN;

const KEY_LEN: usize = 32;
const CHANNEL_PATTERN: &str = "Noise_NK_25519_ChaChaPoly_BLAKE2s";
const CHANNEL_PROLOGUE: &[u8] = b"ginnel signal v1";

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    fn pair() -> (Channel, Channel) {
        let secret = [7; 32];
        let public = PublicKey::from(&StaticSecret::from(secret)).to_bytes();
        let (initiator, first) = Initiator::start(&public, ChaCha20Rng::seed_from_u64(1)).unwrap();
        let (server, answer) = respond(&secret, &first, ChaCha20Rng::seed_from_u64(2)).unwrap();
        (initiator.finish(&answer).unwrap(), server)
    }

    #[test]
    fn both_ends_share_the_binding_and_read_each_other() {
        let (mut client, mut server) = pair();
        assert_eq!(client.binding(), server.binding());
        let sealed = client.seal(b"up").unwrap();
        assert_eq!(server.open(&sealed).unwrap(), b"up");
        let sealed = server.seal(b"down").unwrap();
        assert_eq!(client.open(&sealed).unwrap(), b"down");
    }

    #[test]
    fn repeated_and_skipped_frames_do_not_open() {
        let (mut client, mut server) = pair();
        let first = client.seal(b"one").unwrap();
        let second = client.seal(b"two").unwrap();
        assert_eq!(server.open(&second), Err(BadSeal));
        assert!(server.open(&first).is_ok());
        assert_eq!(server.open(&first), Err(BadSeal));
        assert!(server.open(&second).is_ok());
    }

    #[test]
    fn low_order_server_keys_are_refused() {
        assert!(Initiator::start(&[0; 32], ChaCha20Rng::seed_from_u64(1)).is_err());
    }

    #[test]
    fn wrong_server_key_refuses_the_first_message() {
        let public = PublicKey::from(&StaticSecret::from([7; 32])).to_bytes();
        let (_, first) = Initiator::start(&public, ChaCha20Rng::seed_from_u64(1)).unwrap();
        assert!(respond(&[8; 32], &first, ChaCha20Rng::seed_from_u64(2)).is_err());
    }
}
