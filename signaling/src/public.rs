//! Where clients find this server, and where relayed traffic may go.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, ensure};
use ginnel_membership::codec::MAX_ADDRESSES;
use ginnel_path::address::{Reach, canonical, reach};

/// The addresses by which clients reach this server, IPv4 before IPv6: those given, or else those of the interfaces.
pub(crate) fn addresses(given: &[IpAddr], interfaces: &[IpAddr]) -> anyhow::Result<Vec<IpAddr>> {
    if !given.is_empty() {
        ensure!(given.len() <= MAX_ADDRESSES, "--public-address takes at most {MAX_ADDRESSES} addresses");
        for address in given {
            let class = reach(*address);
            ensure!(
                !matches!(class, Reach::Unspecified | Reach::Multicast | Reach::Broadcast | Reach::LinkLocal),
                "--public-address {address}: no client can reach a server there"
            );
        }
        return Ok(given.to_vec());
    }
    let public = pick(interfaces, Reach::is_public);
    if !public.is_empty() {
        return Ok(public);
    }
    let local = pick(interfaces, Reach::is_private);
    let only = "only clients in this network will reach the server; if it has a public address, give it with \
                --public-address";
    tracing::warn!(addresses = ?local, "this machine's interfaces have no public address; {only}");
    ensure!(!local.is_empty(), "this machine has no address that clients could reach; give one with --public-address");
    Ok(local)
}

fn pick(interfaces: &[IpAddr], wanted: impl Fn(Reach) -> bool) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = interfaces.iter().copied().filter(|address| wanted(reach(*address))).collect();
    addresses.sort();
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    addresses
}

/// The first address of each family, for relaying.
pub(crate) fn relay_addresses(public: &[IpAddr]) -> Vec<IpAddr> {
    let first = |is_ours: fn(&IpAddr) -> bool| public.iter().copied().find(is_ours);
    [first(IpAddr::is_ipv4), first(IpAddr::is_ipv6)].into_iter().flatten().collect()
}

/// Whether relayed traffic may go to private addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PrivatePeers {
    Allowed,
    Refused,
}

/// Judges where relayed traffic may go, by what an address really is: nowhere but to public addresses, or private ones
/// by option, and never to this machine itself.
pub(crate) fn peer_policy(private: PrivatePeers, own: &[IpAddr]) -> impl Fn(IpAddr) -> bool + Send + Sync + use<> {
    let own: BTreeSet<IpAddr> = own.iter().copied().map(canonical).collect();
    move |address| {
        let class = reach(address);
        let allowed = class.is_public() || (private == PrivatePeers::Allowed && class.is_private());
        allowed && !own.contains(&canonical(address))
    }
}

/// The addresses of a founding string.
pub(crate) fn server_addresses(public: &[IpAddr], port: u16) -> Vec<String> {
    public.iter().map(|address| SocketAddr::new(*address, port).to_string()).collect()
}

/// The addresses of this machine's interfaces.
pub(crate) fn interfaces() -> anyhow::Result<Vec<IpAddr>> {
    crate::sys::interface_addresses().context("cannot list the addresses of this machine")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn public_interface_addresses_come_first_and_alone() {
        let interfaces = ips(&["127.0.0.1", "10.0.0.1", "fe80::1", "2001:db8::1", "203.0.113.7", "::1"]);
        assert_eq!(addresses(&[], &interfaces).unwrap(), ips(&["203.0.113.7", "2001:db8::1"]));
        assert_eq!(addresses(&[], &ips(&["127.0.0.1", "10.0.0.1", "fe80::1"])).unwrap(), ips(&["10.0.0.1"]));
        assert!(addresses(&[], &ips(&["127.0.0.1", "::1"])).is_err());
        assert_eq!(addresses(&ips(&["127.0.0.1"]), &interfaces).unwrap(), ips(&["127.0.0.1"]));
        assert!(addresses(&ips(&["0.0.0.0"]), &interfaces).is_err());
    }

    #[test]
    fn relay_has_one_address_of_each_family() {
        assert_eq!(
            relay_addresses(&ips(&["203.0.113.7", "203.0.113.8", "2001:db8::1"])),
            ips(&["203.0.113.7", "2001:db8::1"])
        );
    }

    #[test]
    fn nothing_inside_is_reached_in_any_form() {
        let own = ips(&["203.0.113.7"]);
        let policy = peer_policy(PrivatePeers::Refused, &own);
        for inside in [
            "0.0.0.0",
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "203.0.113.7",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "2002:7f00:1::",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "::ffff:203.0.113.7",
            "2002:cb00:7107::",
            "64:ff9b::cb00:7107",
        ] {
            assert!(!policy(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["198.51.100.1", "9.9.9.9", "2001:db8::5", "2620:fe::9"] {
            assert!(policy(outside.parse().unwrap()), "{outside}");
        }
        let lan = peer_policy(PrivatePeers::Allowed, &own);
        for (address, allowed) in [("10.1.2.3", true), ("fd00::1", true), ("127.0.0.1", false), ("169.254.1.1", false)]
        {
            assert_eq!(lan(address.parse().unwrap()), allowed, "{address}");
        }
        assert!(!lan("203.0.113.7".parse().unwrap()));
    }
}
