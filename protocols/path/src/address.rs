//! What an address really is: one canonicaliser and the reach classes, for candidates and for a relay's peer policy.
//!
//! An IPv4 address can hide in many IPv6 forms, and a filter that judges only the form in hand lets the hidden one
//! through. Every judgement here is therefore made on [`canonical`] addresses.
//!
//! | form | prefix | the IPv4 address stands in |
//! |---|---|---|
//! | mapped (RFC 4291) | `::ffff:0:0/96` | the last 4 bytes |
//! | compatible (RFC 4291) | `::/96`, without `::` and `::1` | the last 4 bytes |
//! | translated (RFC 2765) | `::ffff:0:0:0/96` | the last 4 bytes |
//! | 6to4 (RFC 3056) | `2002::/16` | bytes 2..6 |
//! | NAT64 (RFC 6052) | `64:ff9b::/96` | the last 4 bytes |
//! | local NAT64 (RFC 8215) | `64:ff9b:1::/48` | where RFC 6052 places it under /48, /56, /64 or /96 |
//! | Teredo (RFC 4380) | `2001::/32` | the last 4 bytes, inverted |
//! | ISATAP (RFC 5214) | any, interface identifier `[02]00:5efe:` | the last 4 bytes |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// How far packets to an address can travel, and what kind of place they end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// This machine: 127.0.0.0/8, `::1`.
    Loopback,
    /// No address at all: 0.0.0.0, `::`.
    Unspecified,
    /// One link, cloud metadata services included: 169.254.0.0/16, `fe80::/10`.
    LinkLocal,
    /// A group: 224.0.0.0/4, `ff00::/8`.
    Multicast,
    /// Everybody on the link: 255.255.255.255.
    Broadcast,
    /// A private network of RFC 1918.
    Private,
    /// The space between a carrier's NAT and its customers, 100.64.0.0/10 (RFC 6598).
    SharedCgn,
    /// An IPv6 private network, `fc00::/7` (RFC 4193).
    UniqueLocal,
    /// Ranges for examples, which test networks treat as public (RFC 5737, RFC 3849, RFC 9637).
    Documentation,
    /// Set aside, so nobody's address: 0.0.0.0/8, 192.0.0.0/24, 198.18.0.0/15, 240.0.0.0/4 and whatever IPv6 has not given out.
    Reserved,
    /// The public Internet.
    Global,
}

impl Reach {
    /// Whether the address counts as one of the public Internet; documentation ranges do.
    pub fn is_public(self) -> bool {
        matches!(self, Self::Global | Self::Documentation)
    }

    /// Whether the address belongs to a network that others may number alike: private, unique local or a carrier's.
    pub fn is_private(self) -> bool {
        matches!(self, Self::Private | Self::SharedCgn | Self::UniqueLocal)
    }

    /// How much is allowed with an address of this class: nothing, private use, everything.
    fn licence(self) -> u8 {
        u8::from(self.is_public()) * 2 + u8::from(self.is_private())
    }
}

/// The address that packets to `ip` finally concern: the IPv4 address inside an IPv6 form, or `ip` itself.
///
/// An ISATAP address under a prefix that is itself not public stays as it is unless what it hides is allowed even less.
pub fn canonical(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => embedded(v6).map_or(ip, IpAddr::V4),
    }
}

/// The [`Reach`] of the [`canonical`] form of `ip`.
pub fn reach(ip: IpAddr) -> Reach {
    match canonical(ip) {
        IpAddr::V4(v4) => reach_v4(v4),
        IpAddr::V6(v6) => reach_v6(v6),
    }
}

/// Whether a candidate of another member may be probed at all.
///
/// True for a plain public or private unicast address with a port. An IPv6 form that hides an IPv4 address is refused
/// whatever it hides: no peer has reason to write its address so.
pub fn usable_candidate(addr: SocketAddr) -> bool {
    let reach = reach(addr.ip());
    addr.port() != 0 && canonical(addr.ip()) == addr.ip() && (reach.is_public() || reach.is_private())
}

/// Whether an authentic packet's source may be probed back.
///
/// Like [`usable_candidate`], but forms such as NAT64 pass when what they hide is usable: the local network made them.
pub fn usable_source(addr: SocketAddr) -> bool {
    let reach = reach(addr.ip());
    addr.port() != 0 && (reach.is_public() || reach.is_private())
}

/// Whether two addresses share the usual subnet of one link: /24 in IPv4, /64 in IPv6.
pub fn same_subnet(a: IpAddr, b: IpAddr) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..3] == b.octets()[..3],
        (IpAddr::V6(a), IpAddr::V6(b)) => a.segments()[..4] == b.segments()[..4],
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// Whether `ip` lies in the prefix of the first `length` bits of `prefix`.
pub fn is_within(ip: IpAddr, prefix: IpAddr, length: u8) -> bool {
    match (ip, prefix) {
        (IpAddr::V4(ip), IpAddr::V4(prefix)) => {
            let host = 32_u32.saturating_sub(length.into());
            (ip.to_bits() ^ prefix.to_bits()).checked_shr(host).unwrap_or(0) == 0
        }
        (IpAddr::V6(ip), IpAddr::V6(prefix)) => {
            let host = 128_u32.saturating_sub(length.into());
            (ip.to_bits() ^ prefix.to_bits()).checked_shr(host).unwrap_or(0) == 0
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let o = ip.octets();
    let last = Ipv4Addr::new(o[12], o[13], o[14], o[15]);
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
        return None;
    }
    match ip.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] | [0, 0, 0, 0, 0xffff, 0, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
            Some(last)
        }
        [0x64, 0xff9b, 1, ..] => Some(local_nat64(o)),
        [0x2002, ..] => Some(Ipv4Addr::new(o[2], o[3], o[4], o[5])),
        [0x2001, 0, ..] => Some(Ipv4Addr::from_bits(!last.to_bits())),
        [_, _, _, _, 0 | 0x0200, 0x5efe, _, _] => isatap(ip, last),
        _ => None,
    }
}

/// Reads an address under 64:ff9b:1::/48. The operator chose the prefix length; RFC 6052, section 2.2, leaves byte 8 and
/// the suffix zero, so the shortest prefix whose suffix is zero is taken.
fn local_nat64(o: [u8; 16]) -> Ipv4Addr {
    match (o[8], [o[11], o[12], o[13], o[14], o[15]]) {
        (0, [0, 0, 0, 0, 0]) => Ipv4Addr::new(o[6], o[7], o[9], o[10]),
        (0, [_, 0, 0, 0, 0]) => Ipv4Addr::new(o[7], o[9], o[10], o[11]),
        (0, [_, _, 0, 0, 0]) => Ipv4Addr::new(o[9], o[10], o[11], o[12]),
        _ => Ipv4Addr::new(o[12], o[13], o[14], o[15]),
    }
}

/// A prefix that is not public keeps its own class unless the address inside is allowed even less.
fn isatap(outer: Ipv6Addr, inner: Ipv4Addr) -> Option<Ipv4Addr> {
    (reach_v4(inner).licence() <= reach_v6(outer).licence()).then_some(inner)
}

fn reach_v4(ip: Ipv4Addr) -> Reach {
    match ip.octets() {
        [0, 0, 0, 0] => Reach::Unspecified,
        [127, ..] => Reach::Loopback,
        [169, 254, ..] => Reach::LinkLocal,
        [255, 255, 255, 255] => Reach::Broadcast,
        [224..=239, ..] => Reach::Multicast,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Reach::Private,
        [100, 64..=127, ..] => Reach::SharedCgn,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Reach::Documentation,
        [0, ..] | [192, 0, 0, _] | [192, 88, 99, _] | [198, 18..=19, ..] | [240..=255, ..] => Reach::Reserved,
        _ => Reach::Global,
    }
}

fn reach_v6(ip: Ipv6Addr) -> Reach {
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Reach::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Loopback,
        [0xff00..=0xffff, ..] => Reach::Multicast,
        [0xfe80..=0xfebf, ..] => Reach::LinkLocal,
        [0xfc00..=0xfdff, ..] => Reach::UniqueLocal,
        [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => Reach::Documentation,
        [0x2001, 0..=0x01ff, ..] => Reach::Reserved,
        [0x2000..=0x3fff, ..] => Reach::Global,
        _ => Reach::Reserved,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The eight ways an IPv4 address is written.
    fn encodings(ip: Ipv4Addr) -> [(&'static str, IpAddr); 8] {
        let [a, b, c, d] = ip.octets();
        let tail = |mut prefix: [u8; 16]| {
            prefix[12..].copy_from_slice(&[a, b, c, d]);
            IpAddr::from(prefix)
        };
        let nat64_local = [0, 0x64, 0xff, 0x9b, 0, 1, a, b, 0, c, d, 0, 0, 0, 0, 0];
        [
            ("plain", IpAddr::V4(ip)),
            ("mapped", IpAddr::V6(ip.to_ipv6_mapped())),
            ("compatible", tail([0; 16])),
            ("6to4", IpAddr::from([0x20, 2, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])),
            ("NAT64", tail([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
            ("local NAT64", IpAddr::from(nat64_local)),
            ("Teredo", IpAddr::from([0x20, 1, 0, 0, 8, 8, 8, 8, 0x80, 0, 0x11, 0x22, !a, !b, !c, !d])),
            ("ISATAP", tail([0x2a, 0, 0, 1, 0, 2, 0, 3, 2, 0, 0x5e, 0xfe, 0, 0, 0, 0])),
        ]
    }

    fn v4(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    #[test]
    fn forbidden_addresses_stay_forbidden_in_every_encoding() {
        let forbidden = [
            ("127.0.0.1", Reach::Loopback),
            ("127.255.255.254", Reach::Loopback),
            ("0.1.2.3", Reach::Reserved),
            ("169.254.169.254", Reach::LinkLocal),
            ("224.0.0.251", Reach::Multicast),
            ("239.255.255.250", Reach::Multicast),
            ("255.255.255.255", Reach::Broadcast),
            ("240.0.0.1", Reach::Reserved),
            ("198.18.0.1", Reach::Reserved),
        ];
        for (text, class) in forbidden {
            for (form, ip) in encodings(v4(text)) {
                assert!(!usable_source(SocketAddr::new(ip, 51820)), "{text} as {form}: {ip}");
                assert!(!usable_candidate(SocketAddr::new(ip, 51820)), "{text} as {form}: {ip}");
                assert_eq!(reach(ip), class, "{text} as {form}: {ip}");
            }
        }
    }

    #[test]
    fn private_addresses_are_private_in_every_encoding() {
        for text in ["10.1.2.3", "172.16.9.9", "172.31.255.1", "192.168.1.2", "100.64.0.1", "100.127.255.254"] {
            for (form, ip) in encodings(v4(text)) {
                assert!(reach(ip).is_private(), "{text} as {form}: {ip} is {:?}", reach(ip));
                assert_eq!(canonical(ip), IpAddr::V4(v4(text)), "{form}");
            }
        }
    }

    #[test]
    fn public_addresses_are_public_in_every_encoding() {
        for text in ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "192.169.0.1", "223.255.255.254", "203.0.113.7"]
        {
            for (form, ip) in encodings(v4(text)) {
                assert!(reach(ip).is_public(), "{text} as {form}: {ip} is {:?}", reach(ip));
            }
        }
    }

    #[test]
    fn the_unspecified_address_is_never_usable() {
        for (form, ip) in encodings(Ipv4Addr::UNSPECIFIED) {
            assert!(!usable_source(SocketAddr::new(ip, 1)), "{form}: {ip}");
        }
        assert_eq!(reach(IpAddr::V6(Ipv6Addr::UNSPECIFIED)), Reach::Unspecified);
    }

    #[test]
    fn local_nat64_is_read_under_each_prefix_length() {
        let forms: [&str; 4] = [
            "64:ff9b:1:7f00:0:100::",       // /48
            "64:ff9b:1:aa7f:0:1:0:0",       // /56
            "64:ff9b:1:aabb:7f:0:100:0",    // /64
            "64:ff9b:1:aabb:0:ccdd:7f00:1", // /96
        ];
        for text in forms {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(reach(ip), Reach::Loopback, "{text} read as {}", canonical(ip));
        }
    }

    #[test]
    fn ipv6_classes() {
        let cases = [
            ("::1", Reach::Loopback),
            ("fe80::1", Reach::LinkLocal),
            ("fe80::5efe:8.8.8.8", Reach::LinkLocal),
            ("fd00::5efe:8.8.8.8", Reach::UniqueLocal),
            ("fd00::5efe:127.0.0.1", Reach::Loopback),
            ("ff02::fb", Reach::Multicast),
            ("fd12:3456::1", Reach::UniqueLocal),
            ("fec0::1", Reach::Reserved),
            ("2001:db8::1", Reach::Documentation),
            ("3fff::1", Reach::Documentation),
            ("2001:20::1", Reach::Reserved),
            ("100::1", Reach::Reserved),
            ("2606:4700::1111", Reach::Global),
            ("::ffff:0:127.0.0.1", Reach::Loopback),
        ];
        for (text, class) in cases {
            assert_eq!(reach(text.parse().unwrap()), class, "{text}");
        }
    }

    #[test]
    fn candidates_are_plain_unicast_with_a_port() {
        for good in
            ["192.168.1.2:1", "8.8.8.8:51820", "[2606:4700::1]:9", "[fd00::1]:9", "203.0.113.1:5", "100.64.3.3:7"]
        {
            assert!(usable_candidate(good.parse().unwrap()), "{good}");
        }
        for bad in ["8.8.8.8:0", "[::ffff:8.8.8.8]:5", "[2002:808:808::1]:5", "[fe80::1]:5", "127.0.0.1:80", "[::1]:80"]
        {
            assert!(!usable_candidate(bad.parse().unwrap()), "{bad}");
        }
    }

    #[test]
    fn subnets_of_one_link() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(same_subnet(ip("203.0.113.1"), ip("203.0.113.9")));
        assert!(!same_subnet(ip("203.0.113.1"), ip("203.0.114.1")));
        assert!(same_subnet(ip("2001:db8:1:2::1"), ip("2001:db8:1:2:ffff::9")));
        assert!(!same_subnet(ip("2001:db8:1:2::1"), ip("2001:db8:1:3::1")));
        assert!(!same_subnet(ip("::ffff:1.2.3.4"), ip("1.2.3.4")));
    }

    #[test]
    fn prefixes_hold_what_shares_their_bits() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (prefix, length, inside, outside) in [
            ("100.72.0.0", 16, "100.72.255.255", "100.73.0.0"),
            ("100.72.3.9", 16, "100.72.0.1", "100.71.255.255"),
            ("10.0.0.4", 32, "10.0.0.4", "10.0.0.5"),
            ("10.0.0.4", 33, "10.0.0.4", "10.0.0.5"),
            ("0.0.0.0", 0, "255.1.2.3", "::1"),
            ("fd12:3456:789a:1::", 64, "fd12:3456:789a:1:ffff::9", "fd12:3456:789a:2::"),
            ("::", 0, "ffff::1", "1.2.3.4"),
        ] {
            assert!(is_within(ip(inside), ip(prefix), length), "{inside} in {prefix}/{length}");
            assert!(!is_within(ip(outside), ip(prefix), length), "{outside} in {prefix}/{length}");
        }
    }

    proptest! {
        #[test]
        fn canonical_is_idempotent_and_reach_agrees(bits: u128) {
            let ip = IpAddr::V6(Ipv6Addr::from_bits(bits));
            prop_assert_eq!(canonical(canonical(ip)), canonical(ip));
            prop_assert_eq!(reach(canonical(ip)), reach(ip));
        }

        #[test]
        fn no_encoding_widens_an_address(bits: u32) {
            let plain = Ipv4Addr::from_bits(bits);
            for (form, ip) in encodings(plain) {
                prop_assert!(
                    !reach(ip).is_public() || reach(IpAddr::V4(plain)).is_public(),
                    "{} as {}: {} is {:?}", plain, form, ip, reach(ip)
                );
            }
        }
    }
}
