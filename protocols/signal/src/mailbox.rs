//! Mail between members through a server that need not be trusted.
//!
//! One piece of mail is one message of `Noise_X_25519_ChaChaPoly_BLAKE2s` from the sender's tunnel key to the
//! recipient's, with the prologue `ginnel mail v1` and the network's id. The recipient learns the sender's key from the
//! message and takes only keys that its caller knows to be members.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | version, 1 |
//! | 32 | ephemeral key |
//! | 48 | sender's tunnel key, sealed |
//! | 8 | counter, u64 big-endian, sealed from here on |
//! | 0–[`MAX_BODY`] | body |
//! | 16 | tag |
//!
//! The counter is the nanosecond count of the moment of sending, raised where needed so that it always rises; so it
//! goes on rising after a restart that lost the last value, provided that the clock did not go back. A recipient takes
//! from each sender only counters above the last one, which refuses repeated and reordered mail.
//!
//! Who learns the recipient's long-term key can read mail sent earlier, and can forge mail *to* that recipient: bodies
//! must hold nothing that matters then. Candidates and handshake messages do not.

use std::collections::BTreeMap;

use ginnel_membership::{NetworkId, TunnelKey};
use ginnel_time::Tai64n;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use zeroize::Zeroizing;

use crate::noise::{BadSeal, builder, seal_error};

/// Seals mail from one node in one network.
pub struct MailSealer {
    secret: Zeroizing<[u8; 32]>,
    prologue: Vec<u8>,
    rng: ChaCha20Rng,
    last: u64,
}

/// Opens mail to one node in one network, each at most once.
pub struct MailOpener {
    secret: Zeroizing<[u8; 32]>,
    prologue: Vec<u8>,
    rng: ChaCha20Rng,
    /// The last counter per sender. Holds known senders only, so the network's membership bounds it.
    last: BTreeMap<TunnelKey, u64>,
}

/// What was in one piece of mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The tunnel key that sealed it.
    pub sender: TunnelKey,
    /// Its counter.
    pub counter: u64,
    /// What the sender wrote.
    pub body: Vec<u8>,
}

/// Why mail could not be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The body is over [`MAX_BODY`] bytes.
    #[error("mail body of {0} bytes is over {MAX_BODY}")]
    TooLong(usize),
    /// The recipient's key is a low-order point.
    #[error("recipient key is not usable")]
    BadKey,
}

/// Why mail was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MailError {
    /// Too short, too long, or of another version.
    #[error("mail is malformed")]
    Malformed,
    /// It does not verify: forged, damaged, for another node or of another network.
    #[error("mail does not verify")]
    BadSeal,
    /// The sender is not a known member.
    #[error("mail is from an unknown sender")]
    UnknownSender,
    /// The counter is not above the last one of this sender.
    #[error("mail is a repetition or came out of order")]
    Replayed,
}

impl MailSealer {
    /// Makes a sealer for the node with the X25519 secret `secret`.
    pub fn new(seed: [u8; 32], secret: Zeroizing<[u8; 32]>, network: &NetworkId) -> Self {
        Self { secret, prologue: prologue(network), rng: ChaCha20Rng::from_seed(seed), last: 0 }
    }

    /// Seals `body` to `recipient` at the wall time `now`.
    ///
    /// # Errors
    /// [`SealError`]; neither error depends on anything but the arguments.
    pub fn seal(&mut self, now: Tai64n, recipient: &TunnelKey, body: &[u8]) -> Result<Vec<u8>, SealError> {
        if body.len() > MAX_BODY {
            return Err(SealError::TooLong(body.len()));
        }
        let counter = nanoseconds(now).max(self.last.saturating_add(1));
        let mut plaintext = counter.to_be_bytes().to_vec();
        plaintext.extend_from_slice(body);
        let sealed = self.encrypt(recipient, &plaintext).map_err(|_| SealError::BadKey)?;
        self.last = counter;
        Ok(sealed)
    }

    fn encrypt(&mut self, recipient: &TunnelKey, plaintext: &[u8]) -> Result<Vec<u8>, BadSeal> {
        let mut state = builder(PATTERN, fork(&mut self.rng))
            .prologue(&self.prologue)
            .and_then(|builder| builder.local_private_key(&*self.secret))
            .map_err(seal_error)?
            .remote_public_key(&recipient.to_bytes())
            .and_then(snow::Builder::build_initiator)
            .map_err(seal_error)?;
        let mut mail = vec![0; plaintext.len() + SEAL_LEN];
        mail[0] = MAIL_VERSION;
        state.write_message(plaintext, &mut mail[1..]).map_err(seal_error)?;
        Ok(mail)
    }
}

impl MailOpener {
    /// Makes an opener for the node with the X25519 secret `secret`.
    pub fn new(seed: [u8; 32], secret: Zeroizing<[u8; 32]>, network: &NetworkId) -> Self {
        Self { secret, prologue: prologue(network), rng: ChaCha20Rng::from_seed(seed), last: BTreeMap::new() }
    }

    /// Opens one piece of mail. `known` tells whether a tunnel key is a member's.
    ///
    /// # Errors
    /// [`MailError`]; the state is as before.
    pub fn open(&mut self, mail: &[u8], known: &mut dyn FnMut(&TunnelKey) -> bool) -> Result<Opened, MailError> {
        let Some((&MAIL_VERSION, sealed)) = mail.split_first() else { return Err(MailError::Malformed) };
        if mail.len() > MAX_MAIL || mail.len() < SEAL_LEN + COUNTER_LEN {
            return Err(MailError::Malformed);
        }
        let (sender, plaintext) = self.decrypt(sealed).map_err(|_| MailError::BadSeal)?;
        if !known(&sender) {
            return Err(MailError::UnknownSender);
        }
        let (counter, body) = plaintext.split_first_chunk::<COUNTER_LEN>().ok_or(MailError::Malformed)?;
        let counter = u64::from_be_bytes(*counter);
        if self.last.get(&sender).is_some_and(|last| counter <= *last) {
            return Err(MailError::Replayed);
        }
        self.last.insert(sender, counter);
        Ok(Opened { sender, counter, body: body.to_vec() })
    }

    /// Forgets a sender that left the network.
    pub fn forget(&mut self, sender: &TunnelKey) {
        self.last.remove(sender);
    }

    fn decrypt(&mut self, sealed: &[u8]) -> Result<(TunnelKey, Vec<u8>), BadSeal> {
        let mut state = builder(PATTERN, fork(&mut self.rng))
            .prologue(&self.prologue)
            .and_then(|builder| builder.local_private_key(&*self.secret))
            .and_then(snow::Builder::build_responder)
            .map_err(seal_error)?;
        let mut plaintext = vec![0; sealed.len()];
        let length = state.read_message(sealed, &mut plaintext).map_err(seal_error)?;
        plaintext.truncate(length);
        let sender = state.get_remote_static().and_then(|key| key.try_into().ok()).ok_or(BadSeal)?;
        Ok((TunnelKey::from_bytes(sender), plaintext))
    }
}

fn prologue(network: &NetworkId) -> Vec<u8> {
    let mut prologue = b"ginnel mail v1".to_vec();
    prologue.extend_from_slice(&network.to_bytes());
    prologue
}

fn fork(rng: &mut ChaCha20Rng) -> ChaCha20Rng {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    ChaCha20Rng::from_seed(seed)
}

/// Nanoseconds since 1970; they fit into a u64 until 2554 and stay at its end afterwards.
fn nanoseconds(label: Tai64n) -> u64 {
    label.unix_seconds().saturating_mul(1_000_000_000).saturating_add(u64::from(label.subsec_nanos()))
}

/// Most bytes of one piece of mail as the server sees it.
pub const MAX_MAIL: usize = 4096;

/// Most bytes of a body.
pub const MAX_BODY: usize = MAX_MAIL - SEAL_LEN - COUNTER_LEN;

/// Version, ephemeral key, sealed static key, tag of the body.
const SEAL_LEN: usize = 1 + 32 + 48 + 16;
const COUNTER_LEN: usize = 8;
const MAIL_VERSION: u8 = 1;
const PATTERN: &str = "Noise_X_25519_ChaChaPoly_BLAKE2s";

#[cfg(test)]
mod tests {
    use x25519_dalek::{PublicKey, StaticSecret};

    use super::*;

    const NETWORK: [u8; 32] = [9; 32];

    fn key(secret: u8) -> TunnelKey {
        TunnelKey::from_bytes(PublicKey::from(&StaticSecret::from([secret; 32])).to_bytes())
    }

    fn sealer(secret: u8) -> MailSealer {
        MailSealer::new([secret; 32], Zeroizing::new([secret; 32]), &NetworkId::from_bytes(NETWORK))
    }

    fn opener(secret: u8) -> MailOpener {
        MailOpener::new([secret ^ 0x80; 32], Zeroizing::new([secret; 32]), &NetworkId::from_bytes(NETWORK))
    }

    fn at(seconds: u64) -> Tai64n {
        Tai64n::from_unix(seconds, 0)
    }

    #[test]
    fn recipient_learns_sender_and_body() {
        let mail = sealer(1).seal(at(100), &key(2), b"candidates").unwrap();
        let opened = opener(2).open(&mail, &mut |sender| *sender == key(1)).unwrap();
        assert_eq!((opened.sender, opened.body.as_slice()), (key(1), b"candidates".as_slice()));
        assert_eq!(opened.counter, 100_000_000_000);
    }

    #[test]
    fn repeated_and_older_mail_is_refused() {
        let (mut sealer, mut opener) = (sealer(1), opener(2));
        let first = sealer.seal(at(100), &key(2), b"1").unwrap();
        let second = sealer.seal(at(100), &key(2), b"2").unwrap();
        let third = sealer.seal(at(50), &key(2), b"3").unwrap();
        let known = &mut |_: &TunnelKey| true;
        assert!(opener.open(&second, known).is_ok());
        assert_eq!(opener.open(&second, known), Err(MailError::Replayed));
        assert_eq!(opener.open(&first, known), Err(MailError::Replayed));
        assert_eq!(opener.open(&third, known).unwrap().body, b"3");
    }

    #[test]
    fn strangers_do_not_use_up_state() {
        let mail = sealer(1).seal(at(100), &key(2), b"x").unwrap();
        let mut opener = opener(2);
        assert_eq!(opener.open(&mail, &mut |_| false), Err(MailError::UnknownSender));
        assert!(opener.last.is_empty());
        assert!(opener.open(&mail, &mut |_| true).is_ok());
    }

    #[test]
    fn other_recipients_other_networks_and_every_damage_are_refused() {
        let mail = sealer(1).seal(at(100), &key(2), b"body").unwrap();
        let known = &mut |_: &TunnelKey| true;
        assert_eq!(opener(3).open(&mail, known), Err(MailError::BadSeal));
        let mut foreign = MailOpener::new([0; 32], Zeroizing::new([2; 32]), &NetworkId::from_bytes([8; 32]));
        assert_eq!(foreign.open(&mail, known), Err(MailError::BadSeal));
        for length in 0..mail.len() {
            assert!(opener(2).open(&mail[..length], known).is_err());
        }
        for position in 0..mail.len() {
            let mut damaged = mail.clone();
            damaged[position] ^= 1;
            assert!(opener(2).open(&damaged, known).is_err(), "byte {position}");
        }
    }

    #[test]
    fn largest_body_fills_the_largest_mail() {
        let mail = sealer(1).seal(at(100), &key(2), &[5; MAX_BODY]).unwrap();
        assert_eq!(mail.len(), MAX_MAIL);
        assert_eq!(opener(2).open(&mail, &mut |_| true).unwrap().body.len(), MAX_BODY);
        assert_eq!(sealer(1).seal(at(100), &key(2), &[5; MAX_BODY + 1]), Err(SealError::TooLong(MAX_BODY + 1)));
    }

    #[test]
    fn low_order_recipient_is_refused() {
        assert_eq!(sealer(1).seal(at(1), &TunnelKey::from_bytes([0; 32]), b"x"), Err(SealError::BadKey));
    }
}
