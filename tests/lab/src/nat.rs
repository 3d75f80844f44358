//! The sorts of NAT that the laboratory builds, as kernel packet-filter rules.
//!
//! Every ruleset drops what arrives unasked at the NAT itself, save for [`NatKind::PortRestrictedAccepting`]. Without
//! that drop, a packet that arrives early makes a connection-tracking entry, and the host's own packet to the same
//! peer then leaves by another port. Routers of both sorts exist.
//!
//! The cone kinds keep a map from WAN port to inside address, refreshed by every outgoing packet in a filter chain; a
//! NAT chain sees only the first packet of a flow, so a map kept there would run out under keepalives. They rely on
//! the kernel's keeping the source port, hence two inside hosts must not use the same one.

use std::fmt::Write;
use std::net::Ipv4Addr;

/// What stands between a site's hosts and the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NatKind {
    /// Nothing: the hosts have public addresses.
    Open,
    /// One mapping per inside port, open to everybody.
    FullCone,
    /// One mapping per inside port, open to addresses already written to.
    AddressRestricted,
    /// One mapping per inside port, open to address and port already written to; the usual home router.
    PortRestricted,
    /// Like [`Self::PortRestricted`], but takes early packets as its own, which moves the mapping for their sender.
    PortRestrictedAccepting,
    /// A random mapping per destination, open to that destination alone.
    Symmetric,
    /// A port-restricted router behind a port-restricted carrier NAT on 100.64.0.0/10.
    DoubleNat,
    /// A router that lets no UDP out.
    UdpBlocked,
    /// A full cone that also serves inside hosts which use its outer address.
    Hairpin,
}

/// What a mapping depends on, in the words of RFC 4787 section 4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// There is no NAT.
    None,
    /// The inside address and port alone.
    EndpointIndependent,
    /// The destination's address as well.
    AddressDependent,
    /// The destination's address and port as well.
    AddressAndPortDependent,
}

/// Who may answer through a mapping, in the words of RFC 4787 section 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtering {
    /// Everybody.
    EndpointIndependent,
    /// Addresses already written to.
    AddressDependent,
    /// Addresses and ports already written to.
    AddressAndPortDependent,
}

/// Where a ruleset works.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The outer address, on the interface `wan`.
    pub(crate) wan: Ipv4Addr,
    /// How long the cone kinds' map remembers a mapping, in seconds.
    pub(crate) memory: u32,
}

impl NatKind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Self; 9] = [
        Self::Open,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::PortRestrictedAccepting,
        Self::Symmetric,
        Self::DoubleNat,
        Self::UdpBlocked,
        Self::Hairpin,
    ];

    /// The kind's name in reports and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::FullCone => "full-cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::PortRestrictedAccepting => "port-restricted-accepting",
            Self::Symmetric => "symmetric",
            Self::DoubleNat => "double-nat",
            Self::UdpBlocked => "udp-blocked",
            Self::Hairpin => "hairpin",
        }
    }

    /// The mapping and filtering that a discovery must find, `None` if UDP gets no answer at all.
    pub fn behaviour(self) -> Option<(Mapping, Filtering)> {
        match self {
            Self::Open => Some((Mapping::None, Filtering::EndpointIndependent)),
            Self::FullCone | Self::Hairpin => Some((Mapping::EndpointIndependent, Filtering::EndpointIndependent)),
            Self::AddressRestricted => Some((Mapping::EndpointIndependent, Filtering::AddressDependent)),
            Self::PortRestricted | Self::PortRestrictedAccepting | Self::DoubleNat => {
                Some((Mapping::EndpointIndependent, Filtering::AddressAndPortDependent))
            }
            Self::Symmetric => Some((Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent)),
            Self::UdpBlocked => None,
        }
    }

    /// The ruleset of a router of this kind; [`Self::DoubleNat`] needs it twice, [`Self::Open`] has none.
    pub(crate) fn ruleset(self, place: Place) -> String {
        match self {
            Self::Open => String::new(),
            Self::FullCone | Self::AddressRestricted | Self::Hairpin => self.cone(place) + &self.guard(),
            Self::PortRestricted | Self::PortRestrictedAccepting | Self::DoubleNat | Self::UdpBlocked => {
                masquerade("") + &self.guard()
            }
            Self::Symmetric => {
                masquerade("oifname \"wan\" meta l4proto udp masquerade to :1024-65535 fully-random\n") + &self.guard()
            }
        }
    }

    fn cone(self, Place { wan, memory }: Place) -> String {
        let mut table = format!(
            "table ip nat4 {{\n\
             map mappings {{ type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout {memory}s; size 65535; }}\n\
             set seen {{ type ipv4_addr . inet_service; flags dynamic,timeout; timeout {memory}s; size 65535; }}\n\
             chain learn {{ type filter hook postrouting priority 90;\n\
             oifname \"wan\" ip saddr != {wan} meta l4proto udp update @mappings {{ udp sport : ip saddr . udp sport }} update @seen {{ ip daddr . udp sport }}\n"
        );
        let inward = match self {
            Self::AddressRestricted => "iifname \"wan\" ip saddr . udp dport @seen ",
            Self::Hairpin => {
                table.push_str(
                    "oifname != \"wan\" iifname != \"wan\" ct status dnat meta l4proto udp update @mappings { udp sport : ip saddr . udp sport }\n",
                );
                "ip daddr "
            }
            Self::FullCone
            | Self::Open
            | Self::PortRestricted
            | Self::PortRestrictedAccepting
            | Self::Symmetric
            | Self::DoubleNat
            | Self::UdpBlocked => "iifname \"wan\" ",
        };
        let inward = if self == Self::Hairpin { format!("{inward}{wan} ") } else { inward.to_owned() };
        // Writing to a String cannot fail.
        let _infallible = write!(
            table,
            "}}\n\
             chain pre {{ type nat hook prerouting priority dstnat;\n\
             {inward}meta l4proto udp dnat ip to udp dport map @mappings\n\
             }}\n\
             chain post {{ type nat hook postrouting priority srcnat;\n\
             oifname \"wan\" masquerade\n"
        );
        if self == Self::Hairpin {
            let _infallible = writeln!(table, "iifname != \"wan\" oifname != \"wan\" ct status dnat snat to {wan}");
        }
        table + "}\n}\n"
    }

    /// The stateful filter, for both address families.
    fn guard(self) -> String {
        let input = if self == Self::PortRestrictedAccepting { "accept" } else { "drop" };
        let first = if self == Self::UdpBlocked { "oifname \"wan\" meta l4proto udp drop\n" } else { "" };
        format!(
            "table inet guard {{\n\
             chain input {{ type filter hook input priority filter; policy {input};\n\
             ct state established,related accept\n\
             iifname != \"wan\" accept\n\
             icmp type echo-request accept\n\
             icmpv6 type {{ echo-request, nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert }} accept\n\
             }}\n\
             chain forward {{ type filter hook forward priority filter; policy drop;\n\
             {first}\
             ct state established,related accept\n\
             ct status dnat accept\n\
             iifname != \"wan\" oifname \"wan\" accept\n\
             }}\n\
             }}\n"
        )
    }
}

impl std::fmt::Display for NatKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(self.name())
    }
}

impl std::str::FromStr for NatKind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| anyhow::anyhow!("{text} is no kind of NAT; there are {}", names()))
    }
}

fn masquerade(first: &str) -> String {
    format!(
        "table ip nat4 {{\n\
         map mappings {{ type inet_service : ipv4_addr . inet_service; }}\n\
         set seen {{ type ipv4_addr . inet_service; }}\n\
         chain post {{ type nat hook postrouting priority srcnat;\n\
         {first}\
         oifname \"wan\" masquerade\n\
         }}\n}}\n"
    )
}

/// Empties what the cone kinds remember beside the kernel's connection tracking; every NAT has these tables.
pub(crate) const FORGET: &str = "flush map ip nat4 mappings\nflush set ip nat4 seen\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_their_kinds() {
        for kind in NatKind::ALL {
            assert_eq!(kind.name().parse::<NatKind>().expect("a known name"), kind);
        }
        assert!("cone".parse::<NatKind>().expect_err("unknown").to_string().contains("full-cone"));
    }

    #[test]
    fn only_the_accepting_router_keeps_early_packets() {
        let place = Place { wan: Ipv4Addr::new(203, 0, 113, 10), memory: 120 };
        for kind in NatKind::ALL {
            let accepts = kind.ruleset(place).contains("priority filter; policy accept");
            assert_eq!(accepts, kind == NatKind::PortRestrictedAccepting, "{kind}");
        }
    }
}
