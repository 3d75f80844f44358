//! Long-term credentials, and the time-limited ones that a server makes from a shared secret.
//!
//! A time-limited user name is `<unix expiry in seconds>:<name>`; its password is the base64 of HMAC-SHA1 over the user
//! name under the secret. Servers in use (coturn with `use-auth-secret`) follow the same convention, so one secret serves
//! an embedded and a separate relay alike.

use std::fmt;

use data_encoding::BASE64;
use ginnel_stun::codec::{InvalidCredentials, Key, hmac_sha1};
use zeroize::Zeroizing;

/// A user name and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// USERNAME.
    pub username: String,
    /// The password, never sent.
    pub password: String,
}

impl Credentials {
    /// Makes time-limited credentials: valid until `expires_unix` (Unix seconds), in the name of `name`.
    pub fn time_limited(secret: &[u8], expires_unix: u64, name: &str) -> Self {
        let username = format!("{expires_unix}:{name}");
        let password = password_for(secret, &username).to_string();
        Self { username, password }
    }

    pub(crate) fn key(&self, realm: &str) -> Result<Key, InvalidCredentials> {
        if self.username.is_empty() || self.username.len() > MAX_USERNAME_LEN {
            return Err(InvalidCredentials);
        }
        Key::long_term(&self.username, realm, &self.password)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// The password of a time-limited user name under a shared secret.
pub fn password_for(secret: &[u8], username: &str) -> Zeroizing<String> {
    Zeroizing::new(BASE64.encode(&hmac_sha1(secret, &[username.as_bytes()])))
}

/// Splits a time-limited user name into its expiry (Unix seconds) and its name.
pub fn parse_username(username: &str) -> Option<(u64, &str)> {
    let (expires, name) = username.split_once(':')?;
    if expires.is_empty() || !expires.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((expires.parse().ok()?, name))
}

/// RFC 8489 §14.3: fewer than 509 bytes.
const MAX_USERNAME_LEN: usize = 508;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_the_hmac_of_the_user_name() {
        // printf '1700000000:alice' | openssl dgst -sha1 -hmac north -binary | base64
        let made = Credentials::time_limited(b"north", 1_700_000_000, "alice");
        assert_eq!(made.username, "1700000000:alice");
        assert_eq!(made.password, GOLDEN_PASSWORD);
    }

    #[test]
    fn user_names_without_an_expiry_are_refused() {
        assert_eq!(parse_username("1700000000:alice:b"), Some((1_700_000_000, "alice:b")));
        for wrong in ["alice", ":alice", "-1:alice", "+1:alice", "1 :alice", "99999999999999999999999:a", ""] {
            assert_eq!(parse_username(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn debug_output_keeps_the_password() {
        let made = Credentials::time_limited(b"north", 1, "a");
        assert!(!format!("{made:?}").contains(&made.password));
    }

    const GOLDEN_PASSWORD: &str = "Cd/49soE35ICqcJF/bCTn8Z4OyE=";
}
