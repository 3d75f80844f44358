//! Addresses inside a network: an IPv6 address from the member's key, an IPv4 address by a probe sequence.
//!
//! BLAKE2s stands for the hash of the [crate's docs](crate#formats): length byte, label, data.
//!
//! | what | how |
//! |---|---|
//! | IPv6 prefix | `fd`, then 7 bytes of BLAKE2s("ginnel ipv6 prefix v1", network id): a ULA /64 |
//! | IPv6 interface | first 8 bytes of BLAKE2s("ginnel ipv6 interface v1", network id, member key, attempt u32); the first attempt that is neither taken nor reserved |
//! | IPv4 range | 100.b.0.0/16 with b = 64 + (first byte of BLAKE2s("ginnel ipv4 range v1", network id) mod 64), or what the genesis names |
//! | IPv4 host | start and odd step, u16 each, from BLAKE2s("ginnel ipv4 host v1", network id, member key): the first free of start, start + step, … mod 2^16 |

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::keys::{MemberKey, NetworkId, hash};

/// The /16 out of which a network's IPv4 addresses come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Range([u8; 2]);

impl Ipv4Range {
    /// The range that a network id chooses inside 100.64.0.0/10.
    pub fn of(network: &NetworkId) -> Self {
        let [byte, ..] = hash("ginnel ipv4 range v1", &[network.as_bytes()]);
        Self([100, 64 | (byte & 63)])
    }

    /// The /16 that starts with the bytes `a.b`; `None` unless it lies in 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or
    /// 100.64.0.0/10.
    pub const fn new(a: u8, b: u8) -> Option<Self> {
        match (a, b) {
            (10, _) | (172, 16..=31) | (192, 168) | (100, 64..=127) => Some(Self([a, b])),
            _ => None,
        }
    }

    /// The first two bytes of every address in the range.
    pub const fn prefix(self) -> [u8; 2] {
        self.0
    }

    /// The address of the range itself; its prefix length is 16.
    pub const fn network_address(self) -> Ipv4Addr {
        self.host(0)
    }

    /// The address with this host number.
    pub(crate) const fn host(self, host: u16) -> Ipv4Addr {
        let [a, b] = self.0;
        let [c, d] = host.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    }

    /// The network's own address, the broadcast address and a well-known resolver are never given out.
    fn is_assignable(self, host: u16) -> bool {
        host != 0 && host != u16::MAX && self.host(host) != WELL_KNOWN_RESOLVER
    }

    const fn capacity(self) -> usize {
        let resolver = matches!(self.0, [100, 100]) as usize;
        65_534 - resolver
    }
}

/// The /64 of a network's IPv6 addresses, host part zero.
pub fn ipv6_prefix(network: &NetworkId) -> Ipv6Addr {
    join(prefix_half(network), 0)
}

/// The IPv6 address that a key gets when nobody holds it: the usual case by far.
pub fn ula(network: &NetworkId, key: &MemberKey) -> Ipv6Addr {
    interfaces(*network, *key)
        .map(|interface| join(prefix_half(network), interface))
        .next()
        .unwrap_or(Ipv6Addr::UNSPECIFIED)
}

/// The address with this interface part in a network's /64.
pub(crate) fn ipv6_of(network: &NetworkId, interface: u64) -> Ipv6Addr {
    join(prefix_half(network), interface)
}

/// The interface part of an address.
pub(crate) const fn interface_of(addr: Ipv6Addr) -> u64 {
    (addr.to_bits() & u64::MAX as u128) as u64
}

/// The IPv4 addresses that a key may get, in the order in which they are tried; each assignable address once.
pub fn ipv4_probes(range: Ipv4Range, network: &NetworkId, key: &MemberKey) -> impl Iterator<Item = Ipv4Addr> + use<> {
    hosts(range, network, key).map(move |host| range.host(host))
}

/// Who holds which address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    network: NetworkId,
    range: Ipv4Range,
    /// Every host number ever given.
    hosts: BTreeSet<u16>,
    /// Host numbers of dead members; used again only when nothing else is left.
    abandoned: BTreeSet<u16>,
    interfaces: BTreeSet<u64>,
}

impl Pool {
    pub(crate) const fn new(network: NetworkId, range: Ipv4Range) -> Self {
        Self { network, range, hosts: BTreeSet::new(), abandoned: BTreeSet::new(), interfaces: BTreeSet::new() }
    }

    /// Takes up the addresses of all members that ever were, and whether each is live; `None` when two live members have
    /// one IPv4 address, or any two one IPv6 address.
    pub(crate) fn restore(
        network: NetworkId,
        range: Ipv4Range,
        members: impl Iterator<Item = (Option<Ipv4Addr>, Ipv6Addr, bool)>,
    ) -> Option<Self> {
        let mut pool = Self::new(network, range);
        let mut held = BTreeSet::new();
        for (ipv4, ipv6, live) in members {
            if let Some(addr) = ipv4 {
                let [.., c, d] = addr.octets();
                let host = u16::from_be_bytes([c, d]);
                if !range.is_assignable(host) || live && !held.insert(host) {
                    return None;
                }
                pool.hosts.insert(host);
            }
            if !pool.interfaces.insert(interface_of(ipv6)) {
                return None;
            }
        }
        pool.abandoned = pool.hosts.difference(&held).copied().collect();
        Some(pool)
    }

    pub(crate) const fn range(&self) -> Ipv4Range {
        self.range
    }

    pub(crate) fn assign(&mut self, key: &MemberKey) -> (Option<Ipv4Addr>, Ipv6Addr) {
        (self.assign_ipv4(key), self.assign_ipv6(key))
    }

    /// Gives up the IPv4 address of a dead member. Its IPv6 address is never given again.
    pub(crate) fn release(&mut self, addr: Ipv4Addr) {
        let [.., c, d] = addr.octets();
        self.abandoned.insert(u16::from_be_bytes([c, d]));
    }

    fn assign_ipv4(&mut self, key: &MemberKey) -> Option<Ipv4Addr> {
        let mut probes = hosts(self.range, &self.network, key);
        let host = if self.hosts.len() < self.range.capacity() {
            probes.find(|host| !self.hosts.contains(host))
        } else if self.abandoned.is_empty() {
            None
        } else {
            probes.find(|host| self.abandoned.contains(host))
        }?;
        self.abandoned.remove(&host);
        self.hosts.insert(host);
        Some(self.range.host(host))
    }

    fn assign_ipv6(&mut self, key: &MemberKey) -> Ipv6Addr {
        let interface = interfaces(self.network, *key)
            .find(|interface| !self.interfaces.contains(interface))
            .expect("2^32 attempts find a free interface among 2^64");
        self.interfaces.insert(interface);
        join(prefix_half(&self.network), interface)
    }
}

fn hosts(range: Ipv4Range, network: &NetworkId, key: &MemberKey) -> impl Iterator<Item = u16> + use<> {
    let [a, b, c, d, ..] = hash("ginnel ipv4 host v1", &[network.as_bytes(), key.as_bytes()]);
    let start = u16::from_be_bytes([a, b]);
    // An odd step visits every number once.
    let step = u16::from_be_bytes([c, d]) | 1;
    (0..=u16::MAX)
        .map(move |index| start.wrapping_add(step.wrapping_mul(index)))
        .filter(move |host| range.is_assignable(*host))
}

fn interfaces(network: NetworkId, key: MemberKey) -> impl Iterator<Item = u64> {
    (0..u32::MAX)
        .map(move |attempt| {
            let parts: [&[u8]; 3] = [network.as_bytes(), key.as_bytes(), &attempt.to_be_bytes()];
            high_half(hash("ginnel ipv6 interface v1", &parts))
        })
        .filter(|interface| !is_reserved_interface(*interface))
}

fn prefix_half(network: &NetworkId) -> u64 {
    high_half(hash("ginnel ipv6 prefix v1", &[network.as_bytes()])) >> 8 | 0xfd << 56
}

const fn high_half(hash: [u8; 32]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = hash;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

fn join(prefix: u64, interface: u64) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(prefix) << 64 | u128::from(interface))
}

/// Interface identifiers with a meaning of their own: the subnet-router anycast address (RFC 4291), the range of the
/// IANA Ethernet block (RFC 5453), reserved anycast (RFC 2526) and the ISATAP form (RFC 5214), which other parts of this
/// system read as an IPv4 address in disguise.
const fn is_reserved_interface(interface: u64) -> bool {
    let high = (interface >> 32) as u32;
    interface == 0
        || matches!(high, 0x0200_5efe | 0x0000_5efe)
        || high == 0x0200_5eff && interface as u32 >= 0xfe00_0000
        || interface >= 0xfdff_ffff_ffff_ff80 && interface <= 0xfdff_ffff_ffff_ffff
}

/// The address at which a widely used mesh VPN answers DNS.
const WELL_KNOWN_RESOLVER: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 100);

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: NetworkId = NetworkId::from_bytes([1; 32]);

    fn key(number: u32) -> MemberKey {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        MemberKey::from_bytes(bytes)
    }

    #[test]
    fn addresses_lie_in_the_networks_ranges() {
        let range = Ipv4Range::of(&NETWORK);
        let [a, b] = range.prefix();
        assert!(a == 100 && (64..=127).contains(&b));
        for number in 0..200 {
            let v6 = ula(&NETWORK, &key(number)).octets();
            assert_eq!(v6[..8], ipv6_prefix(&NETWORK).octets()[..8]);
            assert_eq!(v6[0], 0xfd);
            let v4 = ipv4_probes(range, &NETWORK, &key(number)).next().expect("a first probe");
            assert_eq!(v4.octets()[..2], [a, b]);
        }
    }

    #[test]
    fn probe_sequence_visits_every_assignable_address_once() {
        let range = Ipv4Range::new(100, 100).expect("in 100.64.0.0/10");
        let seen: BTreeSet<_> = ipv4_probes(range, &NETWORK, &key(3)).collect();
        assert_eq!(seen.len(), range.capacity());
        assert_eq!(ipv4_probes(range, &NETWORK, &key(3)).count(), range.capacity());
        for never in [Ipv4Addr::new(100, 100, 0, 0), Ipv4Addr::new(100, 100, 255, 255), WELL_KNOWN_RESOLVER] {
            assert!(!seen.contains(&never));
        }
    }

    #[test]
    fn address_of_dead_member_is_last_resort() {
        let range = Ipv4Range::of(&NETWORK);
        let mut pool = Pool::new(NETWORK, range);
        let (first, _) = pool.assign(&key(0));
        let first = first.expect("an empty pool has room");
        pool.release(first);
        let mut seen = BTreeSet::from([first]);
        for number in 1..range.capacity() as u32 {
            let (addr, _) = pool.assign(&key(number));
            assert!(seen.insert(addr.expect("room is left")));
        }
        assert_eq!(pool.assign(&key(100_000)).0, Some(first));
        assert_eq!(pool.assign(&key(100_001)).0, None);
    }

    #[test]
    fn restored_pool_behaves_like_the_one_before() {
        let range = Ipv4Range::of(&NETWORK);
        for count in [1_000, range.capacity() as u32] {
            let mut pool = Pool::new(NETWORK, range);
            let mut members: Vec<_> = (0..count).map(|number| (number, pool.assign(&key(number)), true)).collect();
            for (number, (ipv4, _), live) in &mut members {
                if *number % 97 == 0 {
                    *live = false;
                    pool.release(ipv4.expect("room for all"));
                }
            }
            // In a full range some of the addresses given up have a second holder.
            members.extend((count..count + 50).map(|number| (number, pool.assign(&key(number)), true)));
            let all = members.iter().map(|(_, (ipv4, ipv6), live)| (*ipv4, *ipv6, *live));
            let mut restored = Pool::restore(NETWORK, range, all.clone()).expect("its own addresses");
            assert_eq!(restored, pool);
            for number in count + 50..count + 2_000 {
                assert_eq!(restored.assign(&key(number)), pool.assign(&key(number)));
            }
            let twice = members
                .iter()
                .find(|(.., live)| *live)
                .map(|(_, (ipv4, _), _)| (*ipv4, ula(&NETWORK, &key(9_999_999)), true));
            assert_eq!(Pool::restore(NETWORK, range, all.chain(twice)), None);
        }
    }

    #[test]
    fn colliding_interface_takes_its_next_attempt() {
        let mut pool = Pool::new(NETWORK, Ipv4Range::of(&NETWORK));
        let mut attempts = interfaces(NETWORK, key(5));
        let first = attempts.next().expect("attempts abound");
        pool.interfaces.insert(first);
        let (_, addr) = pool.assign(&key(5));
        assert_eq!(addr, join(prefix_half(&NETWORK), attempts.next().expect("attempts abound")));
    }

    #[test]
    fn interfaces_with_a_meaning_are_skipped() {
        for reserved in [0, 0x0000_5efe_0a00_0001, 0x0200_5efe_0a00_0001, 0x0200_5eff_fe00_5212, 0xfdff_ffff_ffff_ff80]
        {
            assert!(is_reserved_interface(reserved));
        }
        assert!(!is_reserved_interface(0x1234_5678_9abc_def0));
    }

    #[test]
    fn only_private_ranges_are_taken() {
        assert!(Ipv4Range::new(10, 7).is_some());
        for (a, b) in [(8, 8), (127, 0), (172, 32), (192, 169), (100, 63), (169, 254)] {
            assert_eq!(Ipv4Range::new(a, b), None);
        }
    }
}
