//! Bounds and rates of a server, and the token bucket that keeps the rates.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ginnel_time::Instant;

/// What one server process allows; the defaults suit one process that serves small networks.
///
/// A *source* is an IPv4 /24 or an IPv6 /64.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections in all: 4,096.
    pub connections: usize,
    /// Connections from one source: 1,024.
    pub connections_per_source: usize,
    /// Connections from one address: 256.
    pub connections_per_address: usize,
    /// Connections of one network: 3,072, so that no network keeps all others out.
    pub connections_per_network: usize,
    /// Connections in all that have not proved a key yet: 512.
    pub unauthenticated: usize,
    /// Connections from one source that have not proved a key yet: 256.
    pub unauthenticated_per_source: usize,
    /// New connections from one source: 20 a second, 400 at once.
    pub opens: Rate,
    /// Claims from one source that nobody knows: unknown invites, tokens and keys, bad signatures. 1 a second, 60 at once.
    /// A source over this is refused before anything is verified, known members and servers excepted.
    pub guesses: Rate,
    /// Messages on one connection, of any kind: 100 a second, 600 at once; over it the connection ends.
    pub requests: Rate,
    /// The same for a fellow server, which hands on what its own clients ask: 1,000 a second, 4,000 at once.
    pub mirror_requests: Rate,
    /// Mail from one member: 32 a second, 512 at once.
    pub mail: Rate,
    /// Mail in one network: 2,000 a second, 20,000 at once.
    pub network_mail: Rate,
    /// Appends by one member, or by all joiners of one invite: 2 a second, 100 at once.
    pub appends: Rate,
    /// Records that one mirror hands on: 50 a second, 500 at once.
    pub forwards: Rate,
    /// Appends to one network, those that mirrors hand on included: 100 a second, 2,000 at once.
    pub network_appends: Rate,
    /// Revocations signed by one admin that go beyond the network's rate: 5 a second, 50 at once. They still count in the
    /// rate of whoever hands them in.
    pub revocations: Rate,
    /// `Refill` from one member or server: 20 a second, 200 at once.
    pub refills: Rate,
    /// `Fetch` and `FetchSnapshot` from one member or by one invite: 50 a second, 1,000 at once, which is 64 MB.
    pub fetches: Rate,
    /// Networks in all: 1,024.
    pub networks: usize,
    /// Entries of one network's log: 400,000, room for 100,000 members by one invite each and as many updates. Members'
    /// updates may fill three quarters of it, invites and those who join by them seven eighths; leases and invites taken
    /// back fill it, and what admins decide goes a quarter beyond: revocations, servers, admins, policies, checkpoints.
    pub log_entries: usize,
    /// Bytes of the entries of one network's log: 192 MiB, in the same shares.
    pub log_bytes: usize,
    /// Bytes of mail held for members that are away or slow, over all networks: 32 MiB.
    pub held_mail: usize,
    /// The same for one network: 16 MiB.
    pub held_mail_per_network: usize,
    /// Bytes written to clients that have not taken them yet, over all connections: 64 MiB; over it the client that has
    /// left most unread is cut off. One client is cut off at [`MAX_UNSENT`](super::MAX_UNSENT) in any case.
    pub unsent: usize,
    /// For how long a server that has started puts no record into the order of a log that it had before, from the moment
    /// when the first client of the network comes: 10 s, which is longer than clients wait between two tries. Three fifths of
    /// it are enough where there are fellow servers and none has a longer log, and none of it where every fellow and every
    /// member has said so. A log that was handed in whole waits six times as long for members who hold more.
    pub settle: Duration,
}

/// A steady rate and how much of it may come at once.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Events per second in the long run; at least 1.
    pub per_second: u32,
    /// Events at once after a pause.
    pub burst: u32,
}

impl Rate {
    const fn new(per_second: u32, burst: u32) -> Self {
        Self { per_second, burst }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_source: 1024,
            connections_per_address: 256,
            connections_per_network: 3072,
            unauthenticated: 512,
            unauthenticated_per_source: 256,
            opens: Rate::new(20, 400),
            guesses: Rate::new(1, 60),
            requests: Rate::new(100, 600),
            mirror_requests: Rate::new(1000, 4000),
            mail: Rate::new(32, 512),
            network_mail: Rate::new(2000, 20_000),
            appends: Rate::new(2, 100),
            forwards: Rate::new(50, 500),
            network_appends: Rate::new(100, 2000),
            revocations: Rate::new(5, 50),
            refills: Rate::new(20, 200),
            fetches: Rate::new(50, 1000),
            networks: 1024,
            log_entries: 400_000,
            log_bytes: 192 << 20,
            held_mail: 32 << 20,
            held_mail_per_network: 16 << 20,
            unsent: 64 << 20,
            settle: Duration::from_secs(10),
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

    /// Whether there is an event to take.
    pub(crate) fn peek(&mut self, now: Instant) -> Taken {
        self.refill(now);
        if self.level >= MILLI { Taken::Granted } else { Taken::Empty }
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

/// Where connections come from, as far as limits tell sources apart: an IPv4 /24 or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    V4([u8; 3]),
    V6([u16; 4]),
}

impl Source {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, c, _] = address.octets();
                Self::V4([a, b, c])
            }
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
    fn sources_are_slash_24_or_slash_64() {
        let source = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.77"));
        assert_ne!(source("192.0.2.1"), source("192.0.3.1"));
    }
}
