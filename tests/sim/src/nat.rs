//! One NAT: how it maps, what it lets in, how long it remembers, and what an uninvited packet does to it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound;
use std::time::Duration;

use ginnel_time::Instant;

use crate::dice::Dice;

/// On what a mapping or a filter depends (RFC 4787, sections 4.1 and 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dependence {
    Endpoint,
    Address,
    AddressAndPort,
}

/// How outside ports are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    /// The inside port where it is free.
    Preserve,
    Random,
}

/// What packets do that no flow asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsolicited {
    Nothing,
    /// The NAT takes them for flows to itself; an own flow to the same place is then given another port.
    Occupy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hairpin {
    Supported,
    Dropped,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    pub(crate) mapping: Dependence,
    pub(crate) filtering: Dependence,
    pub(crate) ports: Ports,
    pub(crate) lifetime: Duration,
    pub(crate) unsolicited: Unsolicited,
    pub(crate) hairpin: Hairpin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Toward {
    Anywhere,
    Address(IpAddr),
    Endpoint(SocketAddr),
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    inside: SocketAddr,
    toward: Toward,
    used: Instant,
}

#[derive(Debug)]
pub(crate) struct Nat {
    pub(crate) behaviour: Behaviour,
    pub(crate) outside: IpAddr,
    ports: BTreeMap<(SocketAddr, Toward), u16>,
    mappings: BTreeMap<u16, Mapping>,
    /// (outside port, remote) to the last packet out.
    flows: BTreeMap<(u16, SocketAddr), Instant>,
    /// (outside port, remote) to the last packet in that no flow asked for.
    foreign: BTreeMap<(u16, SocketAddr), Instant>,
}

impl Nat {
    pub(crate) fn new(behaviour: Behaviour, outside: IpAddr) -> Self {
        Self {
            behaviour,
            outside,
            ports: BTreeMap::new(),
            mappings: BTreeMap::new(),
            flows: BTreeMap::new(),
            foreign: BTreeMap::new(),
        }
    }

    /// Forgets everything.
    pub(crate) fn reboot(&mut self) {
        self.ports.clear();
        self.mappings.clear();
        self.flows.clear();
        self.foreign.clear();
    }

    /// Lets a packet out and tells the source that it leaves with.
    pub(crate) fn outbound(
        &mut self,
        now: Instant,
        dice: &mut Dice,
        inside: SocketAddr,
        remote: SocketAddr,
    ) -> SocketAddr {
        let toward = match self.behaviour.mapping {
            Dependence::Endpoint => Toward::Anywhere,
            Dependence::Address => Toward::Address(remote.ip()),
            Dependence::AddressAndPort => Toward::Endpoint(remote),
        };
        let moved = self.live_port(now, (inside, Toward::Endpoint(remote)));
        let mut port = match moved.or_else(|| self.live_port(now, (inside, toward))) {
            Some(port) => port,
            None => self.allocate(now, dice, inside, toward),
        };
        if self.foreign.get(&(port, remote)).is_some_and(|at| now < *at + OCCUPIED) {
            let other = Toward::Endpoint(remote);
            port = self.allocate(now, dice, inside, other);
        }
        if let Some(mapping) = self.mappings.get_mut(&port) {
            mapping.used = now;
        }
        self.flows.insert((port, remote), now);
        SocketAddr::new(self.outside, port)
    }

    /// Lets a packet in, or not; tells the inside socket.
    pub(crate) fn inbound(&mut self, now: Instant, port: u16, from: SocketAddr) -> Option<SocketAddr> {
        let live = |at: Instant| now < at + self.behaviour.lifetime;
        let mapping = self.mappings.get(&port).copied().filter(|mapping| live(mapping.used));
        let passes = match self.behaviour.filtering {
            Dependence::Endpoint => true,
            Dependence::Address => {
                let low = Bound::Included((port, SocketAddr::new(from.ip(), 0)));
                let high = Bound::Included((port, SocketAddr::new(from.ip(), u16::MAX)));
                self.flows.range((low, high)).any(|(_, at)| live(*at))
            }
            Dependence::AddressAndPort => self.flows.get(&(port, from)).is_some_and(|at| live(*at)),
        };
        match mapping {
            // A mapping that was moved aside for one flow serves only that flow.
            Some(Mapping { inside, toward: Toward::Endpoint(remote), .. })
                if self.behaviour.mapping == Dependence::Endpoint =>
            {
                (remote == from && passes).then_some(inside)
            }
            Some(mapping) if passes => Some(mapping.inside),
            Some(_) | None => {
                if self.behaviour.unsolicited == Unsolicited::Occupy {
                    self.foreign.insert((port, from), now);
                }
                None
            }
        }
    }

    fn live_port(&self, now: Instant, key: (SocketAddr, Toward)) -> Option<u16> {
        let port = *self.ports.get(&key)?;
        let mapping = self.mappings.get(&port)?;
        (now < mapping.used + self.behaviour.lifetime).then_some(port)
    }

    fn allocate(&mut self, now: Instant, dice: &mut Dice, inside: SocketAddr, toward: Toward) -> u16 {
        let lifetime = self.behaviour.lifetime;
        let is_free = |mappings: &BTreeMap<u16, Mapping>, port: u16| {
            mappings.get(&port).is_none_or(|mapping| now >= mapping.used + lifetime)
        };
        let preserved = (self.behaviour.ports == Ports::Preserve && is_free(&self.mappings, inside.port()))
            .then_some(inside.port());
        let port = preserved.unwrap_or_else(|| {
            loop {
                let port = dice.port();
                if is_free(&self.mappings, port) {
                    break port;
                }
            }
        });
        if let Some(old) = self.mappings.insert(port, Mapping { inside, toward, used: now }) {
            self.ports.remove(&(old.inside, old.toward));
            self.flows.retain(|(owner, _), _| *owner != port);
        }
        self.ports.insert((inside, toward), port);
        port
    }
}

/// For how long Linux keeps a UDP entry that nobody answered.
const OCCUPIED: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "203.0.113.1:3478";
    const PEER: &str = "198.51.100.7:4000";
    const INSIDE: &str = "192.168.1.2:5000";

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("literal")
    }

    fn nat(mapping: Dependence, filtering: Dependence, unsolicited: Unsolicited) -> Nat {
        let behaviour = Behaviour {
            mapping,
            filtering,
            ports: Ports::Preserve,
            lifetime: Duration::from_secs(60),
            unsolicited,
            hairpin: Hairpin::Dropped,
        };
        Nat::new(behaviour, addr(SERVER).ip())
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn mappings_differ_by_what_they_depend_on() {
        let mut dice = Dice::new(1);
        let other = SocketAddr::new(addr(PEER).ip(), 9);
        for (mapping, same_host, same_everywhere) in [
            (Dependence::Endpoint, true, true),
            (Dependence::Address, true, false),
            (Dependence::AddressAndPort, false, false),
        ] {
            let mut nat = nat(mapping, Dependence::AddressAndPort, Unsolicited::Nothing);
            let to_server = nat.outbound(at(0), &mut dice, addr(INSIDE), addr(SERVER));
            let to_peer = nat.outbound(at(0), &mut dice, addr(INSIDE), addr(PEER));
            let to_other = nat.outbound(at(0), &mut dice, addr(INSIDE), other);
            assert_eq!(to_peer == to_other, same_host, "{mapping:?}");
            assert_eq!(to_server == to_peer, same_everywhere, "{mapping:?}");
        }
    }

    #[test]
    fn filters_let_in_what_was_asked_for_until_it_expires() {
        let mut dice = Dice::new(1);
        let other_port = SocketAddr::new(addr(PEER).ip(), 9);
        let stranger = addr("192.0.2.9:1");
        for (filter, passes) in [
            (Dependence::Endpoint, [true, true, true]),
            (Dependence::Address, [true, true, false]),
            (Dependence::AddressAndPort, [true, false, false]),
        ] {
            let mut nat = nat(Dependence::Endpoint, filter, Unsolicited::Nothing);
            let out = nat.outbound(at(0), &mut dice, addr(INSIDE), addr(PEER));
            for (from, passes) in [addr(PEER), other_port, stranger].into_iter().zip(passes) {
                assert_eq!(nat.inbound(at(59), out.port(), from).is_some(), passes, "{filter:?} {from}");
                assert_eq!(nat.inbound(at(60), out.port(), from), None);
            }
        }
    }

    #[test]
    fn an_early_packet_moves_the_flow_to_another_port_for_a_while() {
        let mut dice = Dice::new(1);
        let mut nat = nat(Dependence::Endpoint, Dependence::AddressAndPort, Unsolicited::Occupy);
        let out = nat.outbound(at(0), &mut dice, addr(INSIDE), addr(SERVER));
        assert_eq!(nat.inbound(at(1), out.port(), addr(PEER)), None);
        let moved = nat.outbound(at(2), &mut dice, addr(INSIDE), addr(PEER));
        assert_ne!(moved, out);
        assert_eq!(nat.inbound(at(3), out.port(), addr(PEER)), None, "the old port stays occupied");
        assert_eq!(nat.inbound(at(3), moved.port(), addr(PEER)), Some(addr(INSIDE)));
        assert_eq!(nat.outbound(at(4), &mut dice, addr(INSIDE), addr(SERVER)), out, "other flows stay");
    }
}
