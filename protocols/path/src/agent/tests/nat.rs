//! A NAT of one machine: how it maps, what it lets in, and whether an early packet spoils a mapping.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapping {
    /// No NAT: the machine has the public address itself.
    None,
    /// One outside port per inside socket.
    Endpoint,
    /// One outside port per inside socket and destination.
    PerDestination,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Open,
    Address,
    Port,
}

/// What happens to packets that no flow asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsolicited {
    Drop,
    /// The NAT records them, and an own flow to the same place then gets another port.
    Clash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) mapping: Mapping,
    pub(super) filter: Filter,
    pub(super) unsolicited: Unsolicited,
}

pub(super) const PUBLIC: Kind = kind(Mapping::None, Filter::Open);
pub(super) const FULL_CONE: Kind = kind(Mapping::Endpoint, Filter::Open);
pub(super) const ADDRESS_RESTRICTED: Kind = kind(Mapping::Endpoint, Filter::Address);
pub(super) const PORT_RESTRICTED: Kind = kind(Mapping::Endpoint, Filter::Port);
pub(super) const SYMMETRIC: Kind = kind(Mapping::PerDestination, Filter::Port);
pub(super) const ACCEPTING: Kind = Kind { unsolicited: Unsolicited::Clash, ..PORT_RESTRICTED };

const fn kind(mapping: Mapping, filter: Filter) -> Kind {
    Kind { mapping, filter, unsolicited: Unsolicited::Drop }
}

#[derive(Debug)]
pub(super) struct Nat {
    kind: Kind,
    ip: IpAddr,
    next_port: u16,
    /// (inside socket, destination if it matters) to outside port.
    ports: BTreeMap<(SocketAddr, Option<SocketAddr>), u16>,
    inside: BTreeMap<u16, SocketAddr>,
    /// Flows: (outside port, remote) to the last packet out.
    flows: BTreeMap<(u16, SocketAddr), Instant>,
    /// Packets that no flow asked for: (outside port, remote) to the last one.
    foreign: BTreeMap<(u16, SocketAddr), Instant>,
}

impl Nat {
    pub(super) fn new(kind: Kind, ip: IpAddr) -> Self {
        let (ports, inside) = (BTreeMap::new(), BTreeMap::new());
        Self { kind, ip, next_port: 20_000, ports, inside, flows: BTreeMap::new(), foreign: BTreeMap::new() }
    }

    /// Lets a packet out; answers the address that it leaves with.
    pub(super) fn outbound(&mut self, now: Instant, inside: SocketAddr, remote: SocketAddr) -> SocketAddr {
        let key = match self.kind.mapping {
            Mapping::None => {
                self.inside.insert(inside.port(), inside);
                return inside;
            }
            Mapping::Endpoint => (inside, None),
            Mapping::PerDestination => (inside, Some(remote)),
        };
        let preserved = (self.kind.mapping == Mapping::Endpoint).then_some(inside.port());
        let moved = self.ports.get(&(inside, Some(remote))).copied();
        let mut port = moved.or_else(|| self.ports.get(&key).copied()).or(preserved).unwrap_or_else(|| self.fresh());
        let spoilt = self.foreign.get(&(port, remote)).is_some_and(|at| now < *at + UNREPLIED);
        if spoilt {
            port = self.fresh();
            self.ports.insert((inside, Some(remote)), port);
        } else if moved.is_none() {
            self.ports.insert(key, port);
        }
        self.inside.insert(port, inside);
        self.flows.insert((port, remote), now);
        SocketAddr::new(self.ip, port)
    }

    /// Lets a packet in, or not; answers the inside socket.
    pub(super) fn inbound(&mut self, now: Instant, port: u16, from: SocketAddr) -> Option<SocketAddr> {
        let live = |at: &Instant| now < *at + FLOW;
        let passes = match self.kind.filter {
            Filter::Open => true,
            Filter::Address => self.flows.iter().any(|((p, r), at)| *p == port && r.ip() == from.ip() && live(at)),
            Filter::Port => self.flows.get(&(port, from)).is_some_and(live),
        };
        if passes {
            return self.inside.get(&port).copied();
        }
        if self.kind.unsolicited == Unsolicited::Clash {
            self.foreign.insert((port, from), now);
        }
        None
    }

    /// Forgets every mapping and flow; the next ones have other ports.
    pub(super) fn forget(&mut self) {
        self.ports.clear();
        self.inside.clear();
        self.flows.clear();
        self.foreign.clear();
    }

    pub(super) fn address(&self) -> IpAddr {
        self.ip
    }

    /// Whether a packet from `ip` came before any of ours to it.
    pub(super) fn spoilt_by(&self, ip: IpAddr) -> bool {
        self.foreign.keys().any(|(_, remote)| remote.ip() == ip)
    }

    fn fresh(&mut self) -> u16 {
        self.next_port += 7;
        self.next_port
    }
}

const UNREPLIED: Duration = Duration::from_secs(30);
const FLOW: Duration = Duration::from_secs(120);
