//! Which credentials sign a request.

use ginnel_stun::codec::{Builder, EncodeError, Key, Message};

use crate::MAX_CHALLENGE_LEN;
use crate::credentials::Credentials;

/// The credentials in use, those they replaced, and the server's latest realm and nonce.
#[derive(Debug)]
pub(super) struct Authenticator {
    in_use: Credentials,
    /// What the live allocation was made with, until the server has taken its replacement.
    replaced: Option<Credentials>,
    challenge: Option<Challenge>,
}

#[derive(Debug)]
struct Challenge {
    realm: String,
    nonce: String,
    key: Option<Key>,
}

impl Authenticator {
    pub(super) const fn new(credentials: Credentials) -> Self {
        Self { in_use: credentials, replaced: None, challenge: None }
    }

    /// Signs with the newest credentials from here on. A server that ties an allocation to its user name refuses them
    /// for this allocation; [`Self::fall_back`] then returns to those before.
    pub(super) fn replace(&mut self, credentials: Credentials) {
        if credentials == self.in_use {
            return;
        }
        let old = std::mem::replace(&mut self.in_use, credentials);
        self.replaced.get_or_insert(old);
        self.derive_key();
    }

    /// Forgets everything that only an allocation gave meaning to.
    pub(super) fn start_over(&mut self) {
        self.replaced = None;
    }

    /// Returns to the credentials before the last replacement; `None` when there are none.
    pub(super) fn fall_back(&mut self) -> Option<Credentials> {
        let refused = std::mem::replace(&mut self.in_use, self.replaced.take()?);
        self.derive_key();
        Some(refused)
    }

    /// The server took the credentials in use.
    pub(super) fn confirm(&mut self) {
        self.replaced = None;
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
    pub(super) fn write(&self, request: Builder) -> Result<(Vec<u8>, Option<Key>), EncodeError> {
        let Some(challenge) = &self.challenge else {
            return Ok((request.pad_to(MAX_CHALLENGE_LEN).encode()?, None));
        };
        let key = challenge.key.as_ref().ok_or(EncodeError)?;
        let request = request.username(&self.in_use.username).realm(&challenge.realm).nonce(&challenge.nonce);
        Ok((request.encode_signed(key)?, Some(key.clone())))
    }

    fn derive_key(&mut self) {
        if let Some(challenge) = &mut self.challenge {
            challenge.key = self.in_use.key(&challenge.realm).ok();
        }
    }
}
