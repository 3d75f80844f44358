//! Who is attached where, and how a packet finds its way: private networks behind NATs behind the internet.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_time::Instant;

use crate::dice::Dice;
use crate::nat::{Hairpin, Nat};

/// A network in which addresses are unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Realm(pub(crate) usize);

impl Realm {
    /// Where public addresses are.
    pub(crate) const INTERNET: Self = Self(0);
}

/// What has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The machine with the signaling server and the relay.
    Server,
    Machine(usize),
    Nat(usize),
}

/// The last mile of an attachment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    /// Packets lost, of a thousand.
    pub(crate) loss: u64,
    pub(crate) duplicates: u64,
    /// Packets held back so that others overtake them, of a thousand.
    pub(crate) reordered: u64,
    /// Routers on the way to the middle of the realm.
    pub(crate) hops: u8,
}

impl Line {
    /// A cable on a table.
    pub(crate) const LOCAL: Self = Self {
        delay: Duration::from_micros(150),
        jitter: Duration::ZERO,
        loss: 0,
        duplicates: 0,
        reordered: 0,
        hops: 0,
    };
}

#[derive(Clone, Copy, Debug)]
struct Attachment {
    holder: Holder,
    line: Line,
}

#[derive(Debug)]
struct Segment {
    uplink: Option<usize>,
    attached: BTreeMap<IpAddr, Attachment>,
}

/// A datagram under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) ttl: u8,
    pub(crate) bytes: Vec<u8>,
}

/// A packet on its way to a holder, with the times at which copies of it arrive.
#[derive(Debug)]
pub(crate) struct Transit {
    pub(crate) holder: Holder,
    pub(crate) packet: Packet,
    pub(crate) delays: Vec<Duration>,
}

/// Where a packet ended up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Server(Packet),
    Machine(usize, Packet),
    Nowhere,
}

struct Router {
    nat: Nat,
    inside: Realm,
    outside: Realm,
}

/// All networks.
pub(crate) struct Net {
    segments: Vec<Segment>,
    routers: Vec<Router>,
    dice: Dice,
}

impl Net {
    pub(crate) fn new(dice: Dice) -> Self {
        Self { segments: vec![Segment { uplink: None, attached: BTreeMap::new() }], routers: Vec::new(), dice }
    }

    /// Adds a private network behind a NAT that is attached to `outside`.
    pub(crate) fn add_realm(&mut self, outside: Realm, nat: Nat, line: Line) -> Realm {
        let inside = Realm(self.segments.len());
        let router = self.routers.len();
        self.attach(outside, nat.outside, Holder::Nat(router), line);
        self.segments.push(Segment { uplink: Some(router), attached: BTreeMap::new() });
        self.routers.push(Router { nat, inside, outside });
        inside
    }

    pub(crate) fn attach(&mut self, realm: Realm, address: IpAddr, holder: Holder, line: Line) {
        let before = self.segments[realm.0].attached.insert(address, Attachment { holder, line });
        assert!(before.is_none(), "{address} is given out once in {realm:?}");
    }

    pub(crate) fn detach(&mut self, realm: Realm, address: IpAddr) {
        self.segments[realm.0].attached.remove(&address);
    }

    /// The NATs between `realm` and the internet, the innermost first.
    pub(crate) fn nats(&self, realm: Realm) -> Vec<(usize, &Nat)> {
        let mut nats = Vec::new();
        let mut at = realm;
        while let Some(router) = self.segments[at.0].uplink {
            nats.push((router, &self.routers[router].nat));
            at = self.routers[router].outside;
        }
        nats
    }

    /// The last address that a machine in `realm` has on its way to the internet.
    pub(crate) fn public_address(&self, realm: Realm, own: IpAddr) -> IpAddr {
        self.nats(realm).last().map_or(own, |(_, nat)| nat.outside)
    }

    /// The slowest line between `realm` and the internet, for streams to the server.
    pub(crate) fn line(&self, realm: Realm, own: IpAddr) -> Line {
        let public = self.public_address(realm, own);
        self.segments[Realm::INTERNET.0].attached.get(&public).map_or(Line::LOCAL, |attachment| attachment.line)
    }

    /// Sends a packet up from `realm` until it is in the network of its addressee; `None` where it is lost.
    pub(crate) fn send(&mut self, now: Instant, realm: Realm, mut packet: Packet) -> Option<Transit> {
        let mut at = realm;
        loop {
            let segment = &self.segments[at.0];
            if let Some(target) = segment.attached.get(&packet.to.ip()).copied() {
                let origin = segment.attached.get(&packet.from.ip()).map_or(Line::LOCAL, |from| from.line);
                packet.ttl = packet.ttl.checked_sub(origin.hops + target.line.hops).filter(|ttl| *ttl > 0)?;
                let delays = self.arrivals(origin, target.line);
                return Some(Transit { holder: target.holder, packet, delays });
            }
            let number = segment.uplink?;
            let router = &mut self.routers[number];
            packet.ttl = packet.ttl.checked_sub(1).filter(|ttl| *ttl > 0)?;
            let turns_back = packet.to.ip() == router.nat.outside;
            if turns_back && router.nat.behaviour.hairpin == Hairpin::Dropped {
                return None;
            }
            packet.from = router.nat.outbound(now, &mut self.dice, packet.from, packet.to);
            if turns_back {
                return Some(Transit { holder: Holder::Nat(number), packet, delays: vec![Line::LOCAL.delay] });
            }
            at = router.outside;
        }
    }

    /// Takes a packet that reached `holder` down to whom it is for.
    pub(crate) fn arrive(&mut self, now: Instant, mut holder: Holder, mut packet: Packet) -> Arrival {
        loop {
            match holder {
                Holder::Server => return Arrival::Server(packet),
                Holder::Machine(machine) => return Arrival::Machine(machine, packet),
                Holder::Nat(number) => {
                    let router = &mut self.routers[number];
                    let inside = router.nat.inbound(now, packet.to.port(), packet.from);
                    let ttl = packet.ttl.checked_sub(1).filter(|ttl| *ttl > 0);
                    let (Some(inside), Some(ttl)) = (inside, ttl) else { return Arrival::Nowhere };
                    (packet.to, packet.ttl) = (inside, ttl);
                    match self.segments[router.inside.0].attached.get(&inside.ip()) {
                        Some(attachment) => holder = attachment.holder,
                        None => return Arrival::Nowhere,
                    }
                }
            }
        }
    }

    /// When the copies of one packet arrive; none when it is lost.
    fn arrivals(&mut self, a: Line, b: Line) -> Vec<Duration> {
        if self.dice.chance(a.loss) || self.dice.chance(b.loss) {
            return Vec::new();
        }
        let copies = 1 + u8::from(self.dice.chance(a.duplicates)) + u8::from(self.dice.chance(b.duplicates));
        (0..copies)
            .map(|_| {
                let mut delay = a.delay + b.delay + self.dice.time(Duration::ZERO, a.jitter + b.jitter);
                if self.dice.chance(a.reordered + b.reordered) {
                    delay += self.dice.millis(1, 40);
                }
                delay
            })
            .collect()
    }
}
