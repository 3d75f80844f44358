//! From sites to namespaces, cables, addresses, routes and rules: a pure computation.
//!
//! ```text
//! host ─ NAT [─ carrier NAT] ─ r1 ═delay box═ r2 ─ r3 ─ core ─ r3 ─ r2 ═delay box═ r1 ─ NAT ─ host
//! ```
//! Seven routers lie between any two NATs. A packet whose TTL is just enough to pass its own NATs dies at r1, on the
//! near side of the delay box.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, ensure};

use crate::counters;
use crate::delay::Shape;
use crate::nat::{NatKind, Place};
use crate::numbers::{FIRST_LAN, FIRST_PUBLIC, Numbers, SITE_LIMIT};
use crate::site::{Family, Lans, Site};

/// Everything that the kernel is to be told.
#[derive(Debug, Default)]
pub(crate) struct Blueprint {
    pub(crate) nodes: Vec<Node>,
    pub(crate) cables: Vec<Cable>,
    /// Links of the delay box, one per site in the order of the sites.
    pub(crate) uplinks: Vec<Uplink>,
}

/// One namespace.
#[derive(Debug)]
pub(crate) struct Node {
    /// Unique within the laboratory, e.g. `a-nat`.
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) sysctl: Vec<(String, String)>,
    /// Lines for `ip -batch`.
    pub(crate) ip: String,
    pub(crate) nft: String,
    /// Its own addresses, the one it is best known by first.
    pub(crate) addresses: Vec<IpAddr>,
    /// The interface that its counters watch.
    pub(crate) interface: &'static str,
}

/// What a namespace is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Core,
    Router { site: String, number: u8 },
    CarrierNat { site: String },
    Nat { site: String },
    Host { site: String, number: u8 },
}

/// A pair of virtual Ethernet devices between two nodes, by their index.
#[derive(Debug)]
pub(crate) struct Cable {
    pub(crate) ends: [(usize, String); 2],
}

/// A link of the delay box between the routers r1 and r2 of one site.
#[derive(Debug)]
pub(crate) struct Uplink {
    pub(crate) inner: usize,
    pub(crate) outer: usize,
    pub(crate) up: Shape,
    pub(crate) down: Shape,
}

impl Blueprint {
    pub(crate) fn draw(sites: &[Site]) -> Result<Self> {
        ensure!(sites.len() <= SITE_LIMIT, "a laboratory holds at most {SITE_LIMIT} sites");
        let mut print = Self::default();
        let core = print.node("core".to_owned(), Role::Core, "s0");
        for (index, site) in (0_u8..).zip(sites) {
            ensure!(
                !site.name.is_empty() && site.name.len() <= 12,
                "the site name {:?} is too long or empty",
                site.name
            );
            ensure!(sites.iter().filter(|other| other.name == site.name).count() == 1, "two sites named {}", site.name);
            let numbers = Numbers::of(index);
            let edge = print.chain(core, site, numbers);
            match site.nat {
                NatKind::Open => print.public_hosts(edge, site, numbers),
                NatKind::DoubleNat => {
                    let carrier = print.carrier(edge, site, numbers);
                    print.nat(carrier, site, numbers);
                }
                NatKind::FullCone
                | NatKind::AddressRestricted
                | NatKind::PortRestricted
                | NatKind::PortRestrictedAccepting
                | NatKind::Symmetric
                | NatKind::UdpBlocked
                | NatKind::Hairpin => print.nat(edge, site, numbers),
            }
        }
        Ok(print)
    }

    /// Draws r1, r2 and r3 of a site up to the core, and answers r1.
    fn chain(&mut self, core: usize, site: &Site, numbers: Numbers) -> usize {
        let router = |print: &mut Self, number| {
            let role = Role::Router { site: site.name.clone(), number };
            print.node(format!("{}-r{number}", site.name), role, "north")
        };
        let [edge, middle, last] = [1, 2, 3].map(|number| router(self, number));
        let core_port = format!("s{}", numbers.index);
        self.uplinks.push(Uplink { inner: edge, outer: middle, up: site.up, down: site.down });
        self.cable(middle, "north", last, "south");
        self.cable(last, "north", core, &core_port);
        for (step, (below, above, port)) in
            (0_u8..).zip([(edge, middle, "south"), (middle, last, "south"), (last, core, &*core_port)])
        {
            self.transit(numbers, step, below, (above, port));
        }
        let Numbers { index, .. } = numbers;
        for (node, device) in [(edge, "north"), (middle, "south")] {
            self.line(node, format_args!("link set {device} mtu {} txqueuelen {TAP_QUEUE}", site.mtu));
        }
        self.pin(edge, "north", index, (2, numbers.transit4(0, 1), numbers.transit6(0, 1)));
        self.pin(middle, "south", index, (1, numbers.transit4(0, 0), numbers.transit6(0, 0)));
        edge
    }

    /// Numbers the step between a router and the next one towards the core, with routes both ways.
    fn transit(&mut self, numbers: Numbers, step: u8, below: usize, (above, port): (usize, &str)) {
        for (node, device, side) in [(below, "north", 0), (above, port, 1)] {
            self.line(node, format_args!("addr add {}/31 dev {device}", numbers.transit4(step, side)));
            self.line(node, format_args!("addr add {}/127 dev {device} nodad", numbers.transit6(step, side)));
            self.line(node, format_args!("link set {device} up"));
        }
        self.line(below, format_args!("route add default via {}", numbers.transit4(step, 1)));
        self.line(below, format_args!("route add ::/0 via {}", numbers.transit6(step, 1)));
        let (via4, via6) = (numbers.transit4(step, 0), numbers.transit6(step, 0));
        self.line(above, format_args!("route add {}/27 via {via4}", numbers.public));
        self.line(above, format_args!("route add {}/48 via {via6}", numbers.site6()));
    }

    /// Fixes both Ethernet addresses of a delayed link, so that no packet ever waits for an address resolution.
    fn pin(&mut self, node: usize, device: &str, site: u8, (other, other4, other6): (u8, Ipv4Addr, Ipv6Addr)) {
        let address = |side: u8| format!("02:67:6e:6c:{site:02x}:{side:02x}");
        self.line(node, format_args!("link set {device} address {}", address(3 - other)));
        for neighbour in [IpAddr::from(other4), other6.into()] {
            self.line(
                node,
                format_args!("neigh replace {neighbour} lladdr {} dev {device} nud permanent", address(other)),
            );
        }
    }

    fn public_hosts(&mut self, edge: usize, site: &Site, numbers: Numbers) {
        let gateway = numbers.public4(1);
        let hosts: Vec<usize> = (0..site.hosts).map(|number| self.host(site, number)).collect();
        self.segment(edge, "south", &hosts, "eth0");
        self.line(edge, format_args!("addr add {gateway}/27 dev south"));
        self.line(edge, format_args!("addr add {}/64 dev south nodad", numbers.wan6(1)));
        for (number, host) in (0_u8..).zip(hosts) {
            for extra in 0..site.addresses {
                let address = numbers.public4(FIRST_PUBLIC + number * site.addresses + extra);
                self.address(host, format_args!("{address}/27 dev eth0"), address.into());
            }
            self.line(host, format_args!("route add default via {gateway}"));
            if site.family == Family::Dual {
                let address = numbers.wan6(u16::from(FIRST_PUBLIC + number));
                self.address(host, format_args!("{address}/64 dev eth0 nodad"), address.into());
                self.line(host, format_args!("route add ::/0 via {}", numbers.wan6(1)));
            }
        }
    }

    /// Draws the carrier's NAT below `edge` and answers it.
    fn carrier(&mut self, edge: usize, site: &Site, numbers: Numbers) -> usize {
        let role = Role::CarrierNat { site: site.name.clone() };
        let carrier = self.node(format!("{}-cgn", site.name), role, "wan");
        self.cable(edge, "south", carrier, "wan");
        self.wan(edge, carrier, site, numbers);
        let inside = numbers.carrier4(1);
        self.line(carrier, format_args!("link set south up"));
        self.line(carrier, format_args!("addr add {inside}/24 dev south"));
        self.line(carrier, format_args!("addr add {}/64 dev south nodad", numbers.carrier6(1)));
        self.line(
            carrier,
            format_args!("route add {}/52 via {}", numbers.lans6(), numbers.carrier6(u16::from(FIRST_PUBLIC))),
        );
        carrier
    }

    /// Draws a site's NAT and its hosts below `above`, which is r1 or the carrier's NAT.
    fn nat(&mut self, above: usize, site: &Site, numbers: Numbers) {
        let nat = self.node(format!("{}-nat", site.name), Role::Nat { site: site.name.clone() }, "wan");
        self.cable(above, "south", nat, "wan");
        if site.nat == NatKind::DoubleNat {
            let wan = numbers.carrier4(FIRST_PUBLIC);
            self.address(nat, format_args!("{wan}/24 dev wan"), wan.into());
            self.line(nat, format_args!("link set wan up"));
            self.line(nat, format_args!("route add default via {}", numbers.carrier4(1)));
            self.line(nat, format_args!("addr add {}/64 dev wan nodad", numbers.carrier6(u16::from(FIRST_PUBLIC))));
            self.line(nat, format_args!("route add ::/0 via {}", numbers.carrier6(1)));
            self.rules(nat, site, wan);
        } else {
            self.wan(above, nat, site, numbers);
        }
        let hosts: Vec<usize> = (0..site.hosts).map(|number| self.host(site, number)).collect();
        match site.lans {
            Lans::Shared => self.lan(nat, "lan", site, numbers, 0, &hosts),
            Lans::Isolated => {
                for (lan, host) in (0_u8..).zip(&hosts) {
                    self.lan(nat, &format!("lan{lan}"), site, numbers, lan, &[*host]);
                }
            }
        }
    }

    /// Numbers the public side of a NAT below r1.
    fn wan(&mut self, edge: usize, nat: usize, site: &Site, numbers: Numbers) {
        let (gateway, wan) = (numbers.public4(1), numbers.public4(FIRST_PUBLIC));
        let wan6 = numbers.wan6(u16::from(FIRST_PUBLIC));
        self.line(edge, format_args!("link set south up"));
        self.line(edge, format_args!("addr add {gateway}/27 dev south"));
        self.line(edge, format_args!("addr add {}/64 dev south nodad", numbers.wan6(1)));
        self.line(edge, format_args!("route add {}/48 via {wan6}", numbers.site6()));
        self.address(nat, format_args!("{wan}/27 dev wan"), wan.into());
        self.address(nat, format_args!("{wan6}/64 dev wan nodad"), wan6.into());
        self.line(nat, format_args!("link set wan up"));
        self.line(nat, format_args!("route add default via {gateway}"));
        self.line(nat, format_args!("route add ::/0 via {}", numbers.wan6(1)));
        self.rules(nat, site, wan);
    }

    fn rules(&mut self, nat: usize, site: &Site, wan: Ipv4Addr) {
        let memory = site.udp_memory.map_or(120, |memory| memory.stream.as_secs().clamp(1, 3600));
        let place = Place { wan, memory: u32::try_from(memory).unwrap_or(120) };
        let node = &mut self.nodes[nat];
        node.nft.push_str(&site.nat.ruleset(place));
        if let Some(memory) = site.udp_memory {
            for (name, time) in [("udp_timeout", memory.unreplied), ("udp_timeout_stream", memory.stream)] {
                let seconds = time.as_secs().max(1).to_string();
                node.sysctl.push((format!("net.netfilter.nf_conntrack_{name}"), seconds));
            }
        }
    }

    fn lan(&mut self, nat: usize, device: &str, site: &Site, numbers: Numbers, lan: u8, hosts: &[usize]) {
        let number = site.lan_number.unwrap_or(FIRST_LAN + numbers.index * 8).wrapping_add(lan);
        let at = |last: u8| Ipv4Addr::new(192, 168, number, last);
        self.segment(nat, device, hosts, "eth0");
        self.line(nat, format_args!("addr add {}/24 dev {device}", at(1)));
        if site.family == Family::Dual {
            self.line(nat, format_args!("addr add {}/64 dev {device} nodad", numbers.lan6(lan, 1)));
        }
        for (last, host) in (2_u8..).zip(hosts) {
            self.address(*host, format_args!("{}/24 dev eth0", at(last)), at(last).into());
            self.line(*host, format_args!("route add default via {}", at(1)));
            if site.family == Family::Dual {
                let address = numbers.lan6(lan, u16::from(last));
                self.address(*host, format_args!("{address}/64 dev eth0 nodad"), address.into());
                self.line(*host, format_args!("route add ::/0 via {}", numbers.lan6(lan, 1)));
            }
        }
    }

    /// Joins `members` to `node` by a bridge named `device`, or by one cable if there is but one.
    fn segment(&mut self, node: usize, device: &str, members: &[usize], member_device: &str) {
        if let [only] = members {
            self.cable(node, device, *only, member_device);
        } else {
            self.line(node, format_args!("link add {device} type bridge mcast_snooping 0"));
            for (number, member) in members.iter().enumerate() {
                let port = format!("{device}-p{number}");
                self.cable(node, &port, *member, member_device);
                self.line(node, format_args!("link set {port} master {device} up"));
            }
        }
        self.line(node, format_args!("link set {device} up"));
        for member in members {
            self.line(*member, format_args!("link set {member_device} up"));
        }
    }

    fn host(&mut self, site: &Site, number: u8) -> usize {
        let role = Role::Host { site: site.name.clone(), number };
        self.node(format!("{}-h{number}", site.name), role, "eth0")
    }

    fn node(&mut self, name: String, role: Role, interface: &'static str) -> usize {
        let forwards = !matches!(role, Role::Host { .. });
        let mut sysctl: Vec<(String, String)> =
            QUIET.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        if forwards {
            sysctl.extend(FORWARDING.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        }
        let nft = match &role {
            Role::Core | Role::Router { .. } => String::new(),
            Role::CarrierNat { .. } | Role::Nat { .. } | Role::Host { .. } => counters::ruleset(interface),
        };
        let ip = "link set lo up\n".to_owned();
        self.nodes.push(Node { name, role, sysctl, ip, nft, addresses: Vec::new(), interface });
        self.nodes.len() - 1
    }

    fn cable(&mut self, a: usize, a_device: &str, b: usize, b_device: &str) {
        self.cables.push(Cable { ends: [(a, a_device.to_owned()), (b, b_device.to_owned())] });
    }

    fn line(&mut self, node: usize, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _infallible = writeln!(self.nodes[node].ip, "{line}");
    }

    fn address(&mut self, node: usize, what: std::fmt::Arguments<'_>, address: IpAddr) {
        self.line(node, format_args!("addr add {what}"));
        self.nodes[node].addresses.push(address);
    }
}

/// An address of the core that every laboratory with a site has: where the first site's routers end.
pub(crate) const CORE_IPV6: &str = "fd0f:0:2::1";

/// Frames that wait in a TAP device while the delay box does not run; 100 ms at 1 Gbit/s.
const TAP_QUEUE: u32 = 8_000;

/// No waiting for duplicate address detection, no router advertisements, no rate limit on ICMP errors.
const QUIET: [(&str, &str); 8] = [
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.all.accept_ra", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv4.icmp_ratelimit", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
];

/// Routers route, and their bridges pass frames between neighbours without asking the packet filter.
const FORWARDING: [(&str, &str); 5] = [
    ("net.bridge.bridge-nf-call-iptables", "0"),
    ("net.bridge.bridge-nf-call-ip6tables", "0"),
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv6.conf.default.forwarding", "1"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn public_addresses(print: &Blueprint) -> Vec<Ipv4Addr> {
        let all = print.nodes.iter().flat_map(|node| &node.addresses);
        all.filter_map(|address| match address {
            IpAddr::V4(address) if !address.is_private() && address.octets()[0] != 100 => Some(*address),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        })
        .collect()
    }

    #[test]
    fn the_first_three_sites_lie_in_different_documentation_ranges() {
        let sites = ["a", "b", "c"].map(|name| Site::new(name, NatKind::PortRestricted));
        let print = Blueprint::draw(&sites).expect("draws");
        let expected =
            ["203.0.113.10", "198.51.100.10", "192.0.2.10"].map(|text| text.parse::<Ipv4Addr>().expect("address"));
        assert_eq!(public_addresses(&print), expected);
    }

    #[test]
    fn a_full_laboratory_repeats_no_public_address() {
        let names: Vec<String> = (0..SITE_LIMIT).map(|index| format!("s{index}")).collect();
        let sites: Vec<Site> = names.iter().map(|name| Site::server(name).hosts(8).addresses(2)).collect();
        let mut addresses = public_addresses(&Blueprint::draw(&sites).expect("draws"));
        assert_eq!(addresses.len(), SITE_LIMIT * 16);
        assert!(addresses.iter().all(Ipv4Addr::is_documentation));
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), SITE_LIMIT * 16);
    }

    #[test]
    fn sites_that_share_a_name_are_refused() {
        let sites = [Site::server("x"), Site::server("x")];
        assert!(Blueprint::draw(&sites).expect_err("same name").to_string().contains("two sites named x"));
    }
}
