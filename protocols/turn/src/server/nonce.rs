//! Nonces that need no memory.
//!
//! A nonce is the second it was made in and a MAC over that and the client's address: 4 bytes and 12 bytes, in base64url.
//! So a nonce proves that its holder receives at that address, and a flood of requests from invented addresses leaves
//! nothing behind. The MAC's secret is drawn anew once a nonce's lifetime; that before it still checks.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use ginnel_stun::codec::hmac_sha1;
use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;
use subtle::ConstantTimeEq;

#[derive(Debug)]
pub(super) struct Nonces {
    lifetime: Duration,
    secret: Secret,
    previous: Option<Secret>,
    rotate_at: Instant,
}

struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Nonces {
    pub(super) fn new(now: Instant, lifetime: Duration, rng: &mut ChaCha20Rng) -> Self {
        Self { lifetime, secret: Secret::draw(rng), previous: None, rotate_at: now + lifetime }
    }

    /// Draws a new secret when the current one has served a lifetime. Called before every use.
    pub(super) fn rotate(&mut self, now: Instant, rng: &mut ChaCha20Rng) {
        if now < self.rotate_at {
            return;
        }
        // Nothing that the current secret made is valid any more when a whole further lifetime has passed unused.
        let stale = now >= self.rotate_at + self.lifetime;
        let old = std::mem::replace(&mut self.secret, Secret::draw(rng));
        self.previous = (!stale).then_some(old);
        self.rotate_at = now + self.lifetime;
    }

    pub(super) fn make(&self, now: Instant, client: SocketAddr) -> String {
        let made = seconds(now);
        let mut bytes = [0; 16];
        let (time, mac) = bytes.split_at_mut(4);
        time.copy_from_slice(&made.to_be_bytes());
        mac.copy_from_slice(&self.secret.mac(made, client));
        BASE64URL_NOPAD.encode(&bytes)
    }

    pub(super) fn is_valid(&self, now: Instant, client: SocketAddr, nonce: &str) -> bool {
        let Ok(bytes) = BASE64URL_NOPAD.decode(nonce.as_bytes()) else { return false };
        let Some((&time, mac)) = bytes.split_first_chunk() else { return false };
        let made = u32::from_be_bytes(time);
        let age = u64::from(seconds(now).saturating_sub(made));
        if made > seconds(now) || age >= self.lifetime.as_secs().max(1) {
            return false;
        }
        let secrets = [Some(&self.secret), self.previous.as_ref()];
        secrets.into_iter().flatten().any(|secret| bool::from(secret.mac(made, client).ct_eq(mac)))
    }
}

impl Secret {
    fn draw(rng: &mut ChaCha20Rng) -> Self {
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        Self(secret)
    }

    fn mac(&self, made: u32, client: SocketAddr) -> [u8; 12] {
        let ip = match client.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let full = hmac_sha1(&self.0, &[&made.to_be_bytes(), &ip.octets(), &client.port().to_be_bytes()]);
        let mut short = [0; 12];
        short.copy_from_slice(full.split_at(12).0);
        short
    }
}

/// Seconds on the boot clock; they wrap after 136 years.
fn seconds(now: Instant) -> u32 {
    (now.as_nanos() / 1_000_000_000) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    #[test]
    fn nonces_hold_for_their_lifetime_and_their_address_only() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let lifetime = Duration::from_secs(600);
        let mut nonces = Nonces::new(Instant::ZERO, lifetime, &mut rng);
        let client: SocketAddr = "192.0.2.1:50000".parse().unwrap();
        for start in [0, 599, 600, 1234, 90_000] {
            let now = Instant::ZERO + Duration::from_secs(start);
            nonces.rotate(now, &mut rng);
            let nonce = nonces.make(now, client);
            assert!(nonce.len() <= 24);
            assert!(nonces.is_valid(now, client, &nonce));
            assert!(!nonces.is_valid(now, "192.0.2.1:50001".parse().unwrap(), &nonce));
            let last = now + Duration::from_secs(599);
            nonces.rotate(last, &mut rng);
            assert!(nonces.is_valid(last, client, &nonce), "made at {start}");
            assert!(!nonces.is_valid(now + lifetime, client, &nonce));
            assert!(!nonces.is_valid(now, client, &nonce[1..]));
            assert!(!nonces.is_valid(now, client, ""));
        }
    }

    #[test]
    fn another_secret_makes_other_nonces() {
        let client: SocketAddr = "[2001:db8::1]:1".parse().unwrap();
        let make = |seed| {
            let mut rng = ChaCha20Rng::from_seed([seed; 32]);
            Nonces::new(Instant::ZERO, Duration::from_secs(9), &mut rng).make(Instant::ZERO, client)
        };
        assert_ne!(make(1), make(2));
    }
}
