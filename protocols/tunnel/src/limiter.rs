//! A brake on handshakes per source address, for a host under load: what the kernel's `ratelimiter.c` does.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ginnel_time::Instant;

/// Handshakes a second that one IPv4 address or one IPv6 /64 may start.
pub const HANDSHAKES_PER_SECOND: u32 = 20;
/// Handshakes that one source may start at once.
pub const HANDSHAKES_BURST: u32 = 5;
/// Sources remembered. While the table is full of busy sources, further ones are refused.
pub const SOURCES_MAX: usize = 8_192;

/// Token buckets by source. Only senders that proved their address (mac2) should be counted here; others could spend the
/// tokens of whom they pretend to be.
pub struct HandshakeLimiter {
    buckets: BTreeMap<Source, Bucket>,
    swept: Instant,
    latest: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    V4([u8; 4]),
    V6([u8; 8]),
}

struct Bucket {
    tokens: Duration,
    last: Instant,
}

impl HandshakeLimiter {
    /// A limiter that has seen nobody.
    pub const fn new() -> Self {
        Self { buckets: BTreeMap::new(), swept: Instant::ZERO, latest: Instant::ZERO }
    }

    /// Whether one more handshake from `source` may be worked on; it is counted if so.
    pub fn allow(&mut self, now: Instant, source: IpAddr) -> bool {
        self.latest = self.latest.max(now);
        let now = self.latest;
        if now.saturating_duration_since(self.swept) >= FORGET_AFTER {
            self.swept = now;
            self.buckets.retain(|_, bucket| now.saturating_duration_since(bucket.last) < FORGET_AFTER);
        }
        let source = Source::of(source);
        let full = self.buckets.len() >= SOURCES_MAX;
        match self.buckets.get_mut(&source) {
            Some(bucket) => bucket.take(now),
            None if full => false,
            None => {
                self.buckets.insert(source, Bucket { tokens: CAPACITY - COST, last: now });
                true
            }
        }
    }

    /// Sources remembered at present.
    pub fn sources(&self) -> usize {
        self.buckets.len()
    }
}

impl Default for HandshakeLimiter {
    fn default() -> Self {
        Self::new()
    }
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        self.tokens = (self.tokens + now.saturating_duration_since(self.last)).min(CAPACITY);
        self.last = now;
        match self.tokens.checked_sub(COST) {
            Some(rest) => {
                self.tokens = rest;
                true
            }
            None => false,
        }
    }
}

impl Source {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// Tokens are time: a handshake costs a twentieth of a second.
const COST: Duration = Duration::from_nanos(1_000_000_000 / HANDSHAKES_PER_SECOND as u64);
const CAPACITY: Duration = Duration::from_nanos(COST.as_nanos() as u64 * HANDSHAKES_BURST as u64);
/// A bucket is full again long before.
const FORGET_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn allowed(limiter: &mut HandshakeLimiter, now: Instant, source: IpAddr, tries: usize) -> usize {
        (0..tries).filter(|_| limiter.allow(now, source)).count()
    }

    #[test]
    fn burst_is_five_and_the_rate_twenty_a_second() {
        let source = IpAddr::from([192, 0, 2, 1]);
        let mut limiter = HandshakeLimiter::new();
        assert_eq!(allowed(&mut limiter, at(0), source, 50), 5);
        assert_eq!(allowed(&mut limiter, at(49), source, 50), 0);
        assert_eq!(allowed(&mut limiter, at(50), source, 50), 1);
        let over_ten_seconds: usize = (51..10_051).map(|ms| allowed(&mut limiter, at(ms), source, 3)).sum();
        assert_eq!(over_ten_seconds, 200);
    }

    #[test]
    fn sources_do_not_share_tokens_but_a_64_does() {
        let mut limiter = HandshakeLimiter::new();
        let v6 = |net: u16, host: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, net, 0, 0, 0, host));
        let together: usize = (0..20).map(|host| allowed(&mut limiter, at(0), v6(1, host), 1)).sum();
        assert_eq!(together, 5);
        assert_eq!(allowed(&mut limiter, at(0), v6(2, 0), 9), 5);
        assert_eq!(allowed(&mut limiter, at(0), IpAddr::from([192, 0, 2, 1]), 9), 5);
        let mapped = IpAddr::V6(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped());
        assert_eq!(allowed(&mut limiter, at(0), mapped, 9), 0);
    }

    #[test]
    fn table_is_bounded_and_recovers() {
        let mut limiter = HandshakeLimiter::new();
        let source = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
        let taken = (0..20_000).filter(|n| limiter.allow(at(500), source(*n))).count();
        assert_eq!((taken, limiter.sources()), (SOURCES_MAX, SOURCES_MAX));
        assert!(limiter.allow(at(500), source(0)), "a remembered source is served while the table is full");
        assert!(limiter.allow(at(1_500), source(19_999)));
        assert_eq!(limiter.sources(), 1);
    }

    #[test]
    fn time_that_runs_backwards_gives_no_tokens() {
        let source = IpAddr::from([192, 0, 2, 1]);
        let mut limiter = HandshakeLimiter::new();
        assert_eq!(allowed(&mut limiter, at(10_000), source, 9), 5);
        assert_eq!(allowed(&mut limiter, at(0), source, 9), 0);
        assert_eq!(allowed(&mut limiter, at(10_040), source, 9), 0);
    }
}
