//! What a laboratory is built from: sites with hosts behind a NAT, or with public addresses.

use std::time::Duration;

use crate::delay::Shape;
use crate::nat::NatKind;

/// One place on the internet with an uplink of its own.
#[derive(Clone, Debug)]
pub struct Site {
    pub(crate) name: String,
    pub(crate) nat: NatKind,
    pub(crate) hosts: u8,
    pub(crate) addresses: u8,
    pub(crate) lans: Lans,
    pub(crate) lan_number: Option<u8>,
    pub(crate) family: Family,
    pub(crate) up: Shape,
    pub(crate) down: Shape,
    pub(crate) mtu: u16,
    pub(crate) udp_memory: Option<UdpMemory>,
}

/// How a site's hosts are wired to its NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lans {
    /// All on one network.
    Shared,
    /// Each on a network of its own, which the NAT keeps apart.
    Isolated,
}

/// Which address families a site has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 alone.
    Ipv4,
    /// Both; IPv6 without translation, behind a stateful filter wherever there is a NAT.
    Dual,
}

/// How long a site's NAT remembers UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpMemory {
    /// While nothing has been answered.
    pub unreplied: Duration,
    /// Once traffic has gone both ways.
    pub stream: Duration,
}

impl Site {
    /// A site with one host behind a NAT of the kind `nat`; hosts of [`NatKind::Open`] have public addresses.
    pub fn new(name: &str, nat: NatKind) -> Self {
        Self {
            name: name.to_owned(),
            nat,
            hosts: 1,
            addresses: 1,
            lans: Lans::Shared,
            lan_number: None,
            family: Family::Ipv4,
            up: Shape::delay(UPLINK_DELAY),
            down: Shape::delay(UPLINK_DELAY),
            mtu: 1500,
            udp_memory: None,
        }
    }

    /// A site of one server with a public address.
    pub fn server(name: &str) -> Self {
        Self::new(name, NatKind::Open)
    }

    /// Sets the number of hosts, 1 to 8.
    #[must_use]
    pub fn hosts(self, hosts: u8) -> Self {
        Self { hosts: hosts.clamp(1, 8), ..self }
    }

    /// Sets the number of IPv4 addresses of each public host, 1 or 2.
    #[must_use]
    pub fn addresses(self, addresses: u8) -> Self {
        Self { addresses: addresses.clamp(1, 2), ..self }
    }

    /// Sets how the hosts are wired.
    #[must_use]
    pub fn lans(self, lans: Lans) -> Self {
        Self { lans, ..self }
    }

    /// Numbers the site's (first) LAN 192.168.`number`.0/24; two sites may have the same one, as in life.
    #[must_use]
    pub fn lan_number(self, number: u8) -> Self {
        Self { lan_number: Some(number), ..self }
    }

    /// Sets the address families.
    #[must_use]
    pub fn family(self, family: Family) -> Self {
        Self { family, ..self }
    }

    /// Sets what the uplink does to frames, out of the site and into it. Without it each way costs [`UPLINK_DELAY`].
    #[must_use]
    pub fn uplink(self, up: Shape, down: Shape) -> Self {
        Self { up, down, ..self }
    }

    /// Sets the uplink's MTU, at most 1500.
    #[must_use]
    pub fn mtu(self, mtu: u16) -> Self {
        Self { mtu: mtu.min(1500), ..self }
    }

    /// Sets how long the NAT remembers UDP; the kernel's own values are 30 s and 120 s.
    #[must_use]
    pub fn udp_memory(self, memory: UdpMemory) -> Self {
        Self { udp_memory: Some(memory), ..self }
    }
}

/// One way through a site's uplink. Two sites are two of these apart.
pub const UPLINK_DELAY: Duration = Duration::from_millis(10);
