//! mac1, which proves that a sender knows whom it writes to, and cookies, which prove that it owns its address.
//!
//! A host under load answers a handshake message whose mac2 is not right with a cookie reply. The sender keeps the
//! cookie and stamps mac2 on its next try (whitepaper sections 5.3 and 5.4.7). Cookies are bound to address and port as
//! the host sees them, so a sender with several paths keeps one [`CookieJar`] per path.

use std::net::{IpAddr, SocketAddr};

use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use blake2::{Blake2s256, Blake2sMac, Digest};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::key::PublicKey;
use crate::timers::{COOKIE_SECRET_LIFETIME, COOKIE_USE_BELOW};
use crate::wire::{COOKIE_LEN, MAC_LEN, MessageKind, ReceiverIndex, Suite, classify, receiver_index, sender_index};

/// The mac1 of messages to one public key.
#[derive(Clone)]
pub struct Mac1 {
    key: [u8; 32],
}

impl Mac1 {
    /// The mac1 of messages that `receiver` gets.
    pub fn new(receiver: &PublicKey) -> Self {
        Self { key: labelled(b"mac1----", receiver) }
    }

    /// Writes mac1 into a handshake message; shorter bytes stay as they are.
    pub fn stamp(&self, message: &mut [u8]) {
        if let Some(start) = message.len().checked_sub(2 * MAC_LEN) {
            let (covered, macs) = message.split_at_mut(start);
            macs[..MAC_LEN].copy_from_slice(&mac(&self.key, &[covered]));
        }
    }

    /// Whether `message` is an initiation or response with the right mac1.
    pub fn verify(&self, message: &[u8]) -> bool {
        macs_of(message).is_some_and(|macs| bool::from(mac(&self.key, &[macs.covered]).ct_eq(macs.mac1)))
    }
}

/// Why a cookie reply was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CookieError {
    /// The datagram is no cookie reply.
    #[error("not a cookie reply")]
    Malformed,
    /// No message is waiting for a cookie, or the reply is for another one.
    #[error("cookie reply answers no message of ours")]
    Unasked,
    /// The reply is forged or damaged.
    #[error("cookie reply is not authentic")]
    NotAuthentic,
}

/// Makes cookies for the senders of messages to one identity, and checks them.
///
/// The secret behind them is replaced every [`COOKIE_SECRET_LIFETIME`]; cookies of the one before are accepted still.
pub struct CookieIssuer {
    rng: ChaCha20Rng,
    cipher: XChaCha20Poly1305,
    current: Secret,
    previous: Option<Secret>,
}

#[derive(Clone)]
struct Secret {
    key: Zeroizing<[u8; 32]>,
    born: Option<Instant>,
}

impl CookieIssuer {
    /// Makes the issuer for the identity with the key `public`. `seed` feeds secrets and nonces.
    pub fn new(seed: [u8; 32], public: PublicKey) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let current = Secret::draw(&mut rng, None);
        Self { rng, cipher: XChaCha20Poly1305::new(&labelled(b"cookie--", &public).into()), current, previous: None }
    }

    /// Whether the mac2 of `message` proves that its sender receives at `from`.
    pub fn verify_mac2(&mut self, now: Instant, message: &[u8], from: SocketAddr) -> bool {
        self.rotate(now);
        let Some(macs) = macs_of(message) else { return false };
        let secrets = [Some(&self.current), self.previous.as_ref()];
        secrets.into_iter().flatten().any(|secret| {
            let cookie = secret.cookie(from);
            bool::from(mac(cookie.as_slice(), &[macs.covered, macs.mac1]).ct_eq(macs.mac2))
        })
    }

    /// The cookie reply to `message` for a sender at `from`; `None` when `message` is no initiation or response.
    pub fn reply(&mut self, now: Instant, message: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
        self.rotate(now);
        let (suite, _) = classify(message)?;
        let (macs, sender) = (macs_of(message)?, sender_index(message)?);
        let mut reply = vec![0; COOKIE_LEN];
        reply[0] = suite.message_type(MessageKind::Cookie);
        reply[4..8].copy_from_slice(&sender.0.to_le_bytes());
        self.rng.fill_bytes(&mut reply[8..32]);
        reply[32..48].copy_from_slice(self.current.cookie(from).as_slice());
        let (head, body) = reply.split_at_mut(32);
        let (cookie, tag) = body.split_at_mut(MAC_LEN);
        let sealed = self
            .cipher
            .encrypt_in_place_detached(XNonce::from_slice(&head[8..]), macs.mac1, cookie)
            .expect("a cookie is far below the cipher's limits");
        tag.copy_from_slice(&sealed);
        Some(reply)
    }

    fn rotate(&mut self, now: Instant) {
        let Some(born) = self.current.born else {
            self.current.born = Some(now);
            return;
        };
        let age = now.saturating_duration_since(born);
        if age >= COOKIE_SECRET_LIFETIME {
            let fresh = Secret::draw(&mut self.rng, Some(now));
            let old = std::mem::replace(&mut self.current, fresh);
            self.previous = (age < 2 * COOKIE_SECRET_LIFETIME).then_some(old);
        }
    }
}

impl Secret {
    fn draw(rng: &mut ChaCha20Rng, born: Option<Instant>) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        rng.fill_bytes(key.as_mut_slice());
        Self { key, born }
    }

    fn cookie(&self, from: SocketAddr) -> Zeroizing<[u8; MAC_LEN]> {
        let address = match from.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Zeroizing::new(mac(self.key.as_slice(), &[&address.octets(), &from.port().to_be_bytes()]))
    }
}

/// The sender's side of cookies, for one peer on one path.
pub struct CookieJar {
    cipher: XChaCha20Poly1305,
    cookie: Option<Cookie>,
    waiting: Option<Waiting>,
}

#[derive(Zeroize, ZeroizeOnDrop)]
struct Cookie {
    bytes: [u8; MAC_LEN],
    #[zeroize(skip)]
    received: Instant,
}

/// The message whose answer may be a cookie reply.
struct Waiting {
    suite: Suite,
    sender: ReceiverIndex,
    mac1: [u8; MAC_LEN],
}

impl CookieJar {
    /// An empty jar for messages to `remote`.
    pub fn new(remote: &PublicKey) -> Self {
        Self { cipher: XChaCha20Poly1305::new(&labelled(b"cookie--", remote).into()), cookie: None, waiting: None }
    }

    /// Notes that `message`, an initiation or response, was sent: one cookie reply to it will be accepted.
    pub fn sent(&mut self, message: &[u8]) {
        if let (Some((suite, _)), Some(macs), Some(sender)) =
            (classify(message), macs_of(message), sender_index(message))
        {
            self.waiting = Some(Waiting { suite, sender, mac1: *macs.mac1 });
        }
    }

    /// Takes the cookie out of a cookie reply. Nothing is to be sent because of it before the next try is due.
    ///
    /// # Errors
    /// [`CookieError`] for everything but the first authentic reply to the last message sent; the jar stays as it was.
    pub fn accept(&mut self, now: Instant, reply: &[u8]) -> Result<(), CookieError> {
        let Some((suite, MessageKind::Cookie)) = classify(reply) else { return Err(CookieError::Malformed) };
        let waiting = self.waiting.as_ref().ok_or(CookieError::Unasked)?;
        if waiting.suite != suite || receiver_index(reply) != Some(waiting.sender) {
            return Err(CookieError::Unasked);
        }
        let (nonce, rest) = reply.get(8..).and_then(<[u8]>::split_first_chunk::<24>).ok_or(CookieError::Malformed)?;
        let (sealed, rest) = rest.split_first_chunk::<MAC_LEN>().ok_or(CookieError::Malformed)?;
        let tag = rest.first_chunk::<MAC_LEN>().ok_or(CookieError::Malformed)?;
        let mut bytes = *sealed;
        self.cipher
            .decrypt_in_place_detached(XNonce::from_slice(nonce), &waiting.mac1, &mut bytes, Tag::from_slice(tag))
            .map_err(|_| CookieError::NotAuthentic)?;
        self.cookie = Some(Cookie { bytes, received: now });
        self.waiting = None;
        Ok(())
    }

    /// Writes mac2 into a handshake message: by the cookie while that is younger than [`COOKIE_USE_BELOW`], zeros
    /// otherwise. Bytes that are no handshake message stay as they are.
    pub fn stamp(&mut self, now: Instant, message: &mut [u8]) {
        if macs_of(message).is_none() {
            return;
        }
        if self.cookie.as_ref().is_some_and(|c| now.saturating_duration_since(c.received) >= COOKIE_USE_BELOW) {
            self.cookie = None;
        }
        let (covered, mac2) = message.split_at_mut(message.len() - MAC_LEN);
        mac2.copy_from_slice(&match &self.cookie {
            Some(cookie) => mac(&cookie.bytes, &[covered]),
            None => [0; MAC_LEN],
        });
    }
}

/// The tail of an initiation or response.
struct Macs<'a> {
    /// Everything that mac1 covers; mac2 covers mac1 besides.
    covered: &'a [u8],
    mac1: &'a [u8; MAC_LEN],
    mac2: &'a [u8; MAC_LEN],
}

fn macs_of(message: &[u8]) -> Option<Macs<'_>> {
    match classify(message)?.1 {
        MessageKind::Initiation | MessageKind::Response => {
            let (rest, mac2) = message.split_last_chunk::<MAC_LEN>()?;
            let (covered, mac1) = rest.split_last_chunk::<MAC_LEN>()?;
            Some(Macs { covered, mac1, mac2 })
        }
        MessageKind::Cookie | MessageKind::Data => None,
    }
}

fn labelled(label: &[u8; 8], key: &PublicKey) -> [u8; 32] {
    Blake2s256::new().chain_update(label).chain_update(key.as_bytes()).finalize().into()
}

/// Keyed BLAKE2s with 16 bytes of output.
fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC_LEN] {
    let mut state = <Blake2sMac<U16> as KeyInit>::new_from_slice(key).expect("keys have 16 or 32 bytes");
    for part in parts {
        Mac::update(&mut state, part);
    }
    Mac::finalize(state).into_bytes().into()
}

#[cfg(test)]
mod tests;
