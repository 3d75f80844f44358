//! How many answers a network gets that has not proved anything.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_time::Instant;

/// Limits answers per IPv4 /24 and IPv6 /64: [`BURST`] at once, one more each [`INTERVAL`].
///
/// The table holds [`MAX_NETWORKS`]; while it is full of networks that are being limited, all others share one
/// allowance.
#[derive(Debug, Default)]
pub(super) struct AnswerLimiter {
    networks: BTreeMap<Network, Instant>,
    others: Instant,
    pruned_at: Instant,
}

type Network = [u8; 9];

impl AnswerLimiter {
    /// Whether an answer may go to `client`; if so, it counts.
    pub(super) fn allow(&mut self, now: Instant, client: SocketAddr) -> bool {
        let network = network_of(client.ip());
        if self.networks.len() >= MAX_NETWORKS && !self.networks.contains_key(&network) {
            self.prune(now);
            if self.networks.len() >= MAX_NETWORKS {
                return take(&mut self.others, now);
            }
        }
        take(self.networks.entry(network).or_default(), now)
    }

    /// Forgets networks that have their whole allowance again; a full table is searched once a second at most.
    fn prune(&mut self, now: Instant) {
        if now.saturating_duration_since(self.pruned_at) >= PRUNE_EVERY {
            self.pruned_at = now;
            self.networks.retain(|_, paid_until| *paid_until > now);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.networks.len()
    }
}

/// `paid_until` is when the whole allowance is back; each answer moves it by an interval.
fn take(paid_until: &mut Instant, now: Instant) -> bool {
    let next = now.max(*paid_until) + INTERVAL;
    if next.saturating_duration_since(now) > INTERVAL.saturating_mul(BURST) {
        return false;
    }
    *paid_until = next;
    true
}

fn network_of(ip: IpAddr) -> Network {
    let mut network = [0; 9];
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            network = [4, a, b, c, 0, 0, 0, 0, 0];
        }
        IpAddr::V6(ip) => {
            let [_, prefix @ ..] = &mut network;
            prefix.copy_from_slice(ip.octets().split_at(8).0);
        }
    }
    network
}

/// Twenty answers a second: a house full of clients that start at once is served within seconds.
const INTERVAL: Duration = Duration::from_millis(50);
const BURST: u32 = 40;
const MAX_NETWORKS: usize = 4096;
const PRUNE_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_gets_its_burst_and_then_its_rate() {
        let mut limiter = AnswerLimiter::default();
        let count = |limiter: &mut AnswerLimiter, now| {
            (0..=255_u8).filter(|host| limiter.allow(now, SocketAddr::from(([192, 0, 2, *host], 9)))).count()
        };
        let now = Instant::ZERO + Duration::from_secs(5);
        assert_eq!(count(&mut limiter, now), 40);
        assert_eq!(count(&mut limiter, now + Duration::from_secs(1)), 20);
        assert!(limiter.allow(now, "192.0.3.1:9".parse().unwrap()), "the next network is not concerned");
    }

    #[test]
    fn memory_is_bounded_and_a_flood_shares_one_allowance() {
        let mut limiter = AnswerLimiter::default();
        let now = Instant::ZERO + Duration::from_secs(5);
        let flood = |n: u32| SocketAddr::new(IpAddr::V4((0x0B00_0000 + (n << 8)).into()), 1);
        let allowed = (0..20_000).filter(|n| limiter.allow(now, flood(*n))).count();
        assert_eq!(limiter.len(), MAX_NETWORKS);
        assert_eq!(allowed, MAX_NETWORKS + 40);
        assert!(limiter.allow(now + PRUNE_EVERY, flood(30_000)), "the table empties by itself");
    }

    #[test]
    fn ipv6_is_limited_by_64() {
        assert_eq!(network_of("2001:db8::1".parse().unwrap()), network_of("2001:db8::2:0:0:1".parse().unwrap()));
        assert_ne!(network_of("2001:db8::1".parse().unwrap()), network_of("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(network_of("::ffff:192.0.2.1".parse().unwrap()), network_of("192.0.2.77".parse().unwrap()));
    }
}
