//! Bounds and rates of a server, and the token bucket that keeps the rates.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ginnel_time::Instant;

/// What one server process allows; the defaults suit one process that serves small networks.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one IPv4 address or IPv6 /64.
    pub connections_per_source: usize,
    /// Connections in all that have not proved a key yet.
    pub unauthenticated: usize,
    /// New connections from one source.
    pub opens: Rate,
    /// Messages on one connection, of any kind.
    pub requests: Rate,
    /// Mail from one member.
    pub mail: Rate,
    /// Appends by one member or joiner.
    pub appends: Rate,
    /// Networks in all.
    pub networks: usize,
    /// Entries of one network's log; members' updates may fill three quarters of it, revocations go a quarter beyond.
    pub log_entries: usize,
    /// Bytes of mail held for members that are away or slow, over all networks.
    pub held_mail: usize,
}

/// A steady rate and how much of it may come at once.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Events per second in the long run; at least 1.
    pub per_second: u32,
    /// Events at once after a pause.
    pub burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_source: 128,
            unauthenticated: 512,
            opens: Rate { per_second: 10, burst: 100 },
            requests: Rate { per_second: 100, burst: 600 },
            mail: Rate { per_second: 32, burst: 512 },
            appends: Rate { per_second: 2, burst: 100 },
            networks: 1024,
            log_entries: 65_536,
            held_mail: 32 << 20,
        }
    }
}

/// A token bucket over virtual time, in thousandths of an event.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    level: u64,
    updated: Instant,
}

impl Bucket {
    pub(crate) fn new(now: Instant, rate: Rate) -> Self {
        Self { rate, level: u64::from(rate.burst) * MILLI, updated: now }
    }

    /// Takes one event out, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> Taken {
        self.refill(now);
        match self.level.checked_sub(MILLI) {
            Some(level) => {
                self.level = level;
                Taken::Granted
            }
            None => Taken::Empty,
        }
    }

    /// Whether the bucket is as good as new.
    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.level >= u64::from(self.rate.burst) * MILLI
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.updated);
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        if millis == 0 {
            return;
        }
        // One event per second is one thousandth per millisecond.
        let gained = millis.saturating_mul(u64::from(self.rate.per_second));
        self.level = self.level.saturating_add(gained).min(u64::from(self.rate.burst) * MILLI);
        self.updated += Duration::from_millis(millis);
    }
}

/// Whether a bucket held an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Granted,
    Empty,
}

/// Where connections come from, as far as limits tell sources apart: an IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

impl Source {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = Ipv6Addr::segments(&address);
                Self::V6([a, b, c, d])
            }
        }
    }
}

const MILLI: u64 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_never_gives_more_than_burst_and_rate() {
        let rate = Rate { per_second: 10, burst: 5 };
        let mut bucket = Bucket::new(Instant::ZERO, rate);
        let mut granted = 0;
        for millis in 0..10_000 {
            let now = Instant::ZERO + Duration::from_millis(millis);
            if bucket.take(now) == Taken::Granted {
                granted += 1;
            }
        }
        assert!((100..=105).contains(&granted), "{granted}");
    }

    #[test]
    fn bucket_keeps_fractions_of_a_millisecond() {
        let mut bucket = Bucket::new(Instant::ZERO, Rate { per_second: 1, burst: 1 });
        assert_eq!(bucket.take(Instant::ZERO), Taken::Granted);
        for micros in 1..1000 {
            assert_eq!(bucket.take(Instant::ZERO + Duration::from_micros(micros * 999)), Taken::Empty);
        }
        assert_eq!(bucket.take(Instant::ZERO + Duration::from_secs(1)), Taken::Granted);
    }

    #[test]
    fn sources_are_addresses_or_slash_64() {
        let source = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
    }
}
