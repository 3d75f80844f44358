//! Which credentials sign a request.

use ginnel_stun::codec::{Builder, EncodeError, Key, Message};

use crate::MAX_CHALLENGE_LEN;
use crate::credentials::Credentials;

/// The credentials in use, those before and after, and the server's latest realm and nonce.
#[derive(Debug)]
pub(super) struct Authenticator {
    /// What the next allocation is made with.
    newest: Credentials,
    in_use: Credentials,
    /// What the live allocation was made with, until the server has taken its replacement.
    replaced: Option<Credentials>,
    /// Counts changes of `in_use`.
    generation: u32,
    challenge: Option<Challenge>,
}

#[derive(Debug)]
struct Challenge {
    realm: String,
    nonce: String,
    key: Option<Key>,
}

/// What a request was signed with, and its answer must be.
#[derive(Clone, Debug)]
pub(super) struct Signature {
    pub(super) key: Key,
    generation: u32,
}

impl Authenticator {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self { newest: credentials.clone(), in_use: credentials, replaced: None, generation: 0, challenge: None }
    }

    /// Signs with these from here on. A server that ties an allocation to its user name refuses them for this
    /// allocation; [`Self::fall_back`] then returns to those before.
    pub(super) fn replace(&mut self, credentials: Credentials) {
        self.newest = credentials.clone();
        if credentials != self.in_use {
            let old = std::mem::replace(&mut self.in_use, credentials);
            self.replaced.get_or_insert(old);
            self.changed();
        }
    }

    /// Turns to the newest credentials, there being no allocation that needs others.
    pub(super) fn start_over(&mut self) {
        self.replaced = None;
        self.in_use = self.newest.clone();
        self.changed();
    }

    /// The server took the credentials in use.
    pub(super) fn confirm(&mut self) {
        self.replaced = None;
    }

    /// The server refused a request so signed: tells whether other credentials are in use by now, or there are former
    /// ones to return to, so that it is worth asking again.
    pub(super) fn fall_back(&mut self, refused: &Signature) -> bool {
        if refused.generation != self.generation {
            return true;
        }
        let Some(former) = self.replaced.take() else { return false };
        self.in_use = former;
        self.changed();
        true
    }

    /// Takes realm and nonce from an error answer; `false` when it names none.
    pub(super) fn take_challenge(&mut self, answer: &Message) -> bool {
        let (Some(realm), Some(nonce)) = (answer.realm(), answer.nonce()) else { return false };
        self.challenge = Some(Challenge { realm: realm.to_owned(), nonce: nonce.to_owned(), key: None });
        self.derive_key();
        true
    }

    /// Whether an answer names another realm than the one in use.
    pub(super) fn is_other_realm(&self, answer: &Message) -> bool {
        match (&self.challenge, answer.realm()) {
            (Some(challenge), Some(realm)) => challenge.realm != realm,
            (None, _) | (_, None) => false,
        }
    }

    pub(super) const fn is_challenged(&self) -> bool {
        self.challenge.is_some()
    }

    /// Writes a request: signed once the server has named its realm, padded to the size of its answer before.
    pub(super) fn write(&self, request: Builder) -> Result<(Vec<u8>, Option<Signature>), EncodeError> {
        let Some(challenge) = &self.challenge else {
            return Ok((request.pad_to(MAX_CHALLENGE_LEN).encode()?, None));
        };
        let key = challenge.key.as_ref().ok_or(EncodeError)?;
        let request = request.username(&self.in_use.username).realm(&challenge.realm).nonce(&challenge.nonce);
        let signature = Signature { key: key.clone(), generation: self.generation };
        Ok((request.encode_signed(key)?, Some(signature)))
    }

    fn changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.derive_key();
    }

    fn derive_key(&mut self) {
        if let Some(challenge) = &mut self.challenge {
            challenge.key = self.in_use.key(&challenge.realm).ok();
        }
    }
}
