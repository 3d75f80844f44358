//! Who is attached where, and how a packet finds its way: private networks behind NATs behind the internet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ginnel_time::Instant;

use crate::dice::Dice;
use crate::line::{Line, loses, passage};
use crate::nat::{Hairpin, Nat};
use crate::watch::inner;

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
    /// A public host with STUN, and perhaps a relay.
    Station(usize),
    Machine(usize),
    Nat(usize),
    /// Somebody who has nothing to do with it.
    Bystander,
}

#[derive(Clone, Copy, Debug)]
struct Attachment {
    holder: Holder,
    line: Line,
    /// Whether the line is in its bad state.
    bad: bool,
}

/// Packets from any of some public addresses to any of others do not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) from: BTreeSet<IpAddr>,
    pub(crate) to: BTreeSet<IpAddr>,
}

/// A cut in force, so that it can be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CutId(u64);

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
    Station(usize, Packet),
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
    cuts: BTreeMap<CutId, Cut>,
    next_cut: u64,
    dice: Dice,
    /// What was sealed or shakes hands and went over the internet a moment ago, if somebody listens.
    overheard: Option<VecDeque<(Instant, Packet)>>,
}

impl Net {
    pub(crate) fn new(dice: Dice) -> Self {
        let segments = vec![Segment { uplink: None, attached: BTreeMap::new() }];
        let mut net = Self { segments, routers: Vec::new(), cuts: BTreeMap::new(), next_cut: 0, dice, overheard: None };
        let line = Line { delay: Duration::from_millis(10), hops: 3, ..Line::LOCAL };
        let address = net.bystander();
        net.attach(Realm::INTERNET, address, Holder::Bystander, line);
        net
    }

    /// The address of somebody who has nothing to do with any of it.
    #[expect(clippy::unused_self, reason = "an address is a matter of the network")]
    pub(crate) const fn bystander(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(45, 84, 0, 7))
    }

    /// Lets somebody listen on the internet.
    pub(crate) fn listen(&mut self) {
        self.overheard.get_or_insert_default();
    }

    /// Something that went over the internet so lately that every NAT still has the flow.
    pub(crate) fn overheard(&mut self, now: Instant, dice: &mut Dice) -> Option<Packet> {
        let heard = self.overheard.as_mut()?;
        heard.retain(|(at, _)| now < *at + LATELY);
        let count = heard.len() as u64;
        (count > 0).then(|| heard[usize::try_from(dice.below(count)).expect("an index fits")].1.clone())
    }

    /// Lets no packet pass from some public addresses to others until [`Self::heal`].
    pub(crate) fn cut(&mut self, cut: Cut) -> CutId {
        self.next_cut += 1;
        let id = CutId(self.next_cut);
        self.cuts.insert(id, cut);
        id
    }

    pub(crate) fn heal(&mut self, id: CutId) {
        self.cuts.remove(&id);
    }

    /// Whether packets pass between two public addresses, this way.
    pub(crate) fn passes(&self, from: IpAddr, to: IpAddr) -> bool {
        !self.cuts.values().any(|cut| cut.from.contains(&from) && cut.to.contains(&to))
    }

    /// Makes a NAT forget all its mappings.
    pub(crate) fn reboot(&mut self, router: usize) {
        self.routers[router].nat.reboot();
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
        let before = self.segments[realm.0].attached.insert(address, Attachment { holder, line, bad: false });
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
            if self.segments[at.0].attached.contains_key(&packet.to.ip()) {
                return self.deliver(now, at, packet);
            }
            let number = self.segments[at.0].uplink?;
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

    /// Carries a packet over the lines of its sender and its addressee, both in the network `at`.
    fn deliver(&mut self, now: Instant, at: Realm, mut packet: Packet) -> Option<Transit> {
        if at == Realm::INTERNET && !self.passes(packet.from.ip(), packet.to.ip()) {
            return None;
        }
        let length = packet.bytes.len() + IP_AND_UDP;
        let dice = &mut self.dice;
        let attached = &mut self.segments[at.0].attached;
        let mut over = |address: IpAddr| {
            let Some(attachment) = attached.get_mut(&address) else { return Some((None, Line::LOCAL)) };
            let lost = loses(&attachment.line, &mut attachment.bad, length, dice);
            (!lost).then_some((Some(attachment.holder), attachment.line))
        };
        let (_, origin) = over(packet.from.ip())?;
        let (holder, target) = over(packet.to.ip())?;
        packet.ttl = packet.ttl.checked_sub(origin.hops + target.hops).filter(|ttl| *ttl > 0)?;
        if let Some(heard) = self.overheard.as_mut()
            && at == Realm::INTERNET
            && inner(&packet.bytes).first().is_some_and(|first| *first >= 0xC0)
        {
            heard.push_back((now, packet.clone()));
            heard.truncate(MOST_OVERHEARD);
        }
        let passage = passage(&origin, &target, &mut self.dice);
        if passage.corrupted {
            self.corrupt(&mut packet.bytes)?;
        }
        Some(Transit { holder: holder?, packet, delays: passage.delays })
    }

    /// Turns a bit. Nearly all such packets die of their UDP checksum, and the STUN answers among the rest would be lies
    /// that nobody can tell from the truth, so only sealed and handshake datagrams ever pass.
    fn corrupt(&mut self, bytes: &mut [u8]) -> Option<()> {
        let passes = self.dice.chance(CHECKSUM_FAILS) && bytes.first().is_some_and(|first| *first >= 0xC0);
        if !passes {
            return None;
        }
        let place = usize::try_from(self.dice.below(bytes.len() as u64)).expect("an index fits");
        bytes[place] ^= 1 << self.dice.below(8);
        Some(())
    }

    /// Takes a packet that reached `holder` down to whom it is for.
    pub(crate) fn arrive(&mut self, now: Instant, mut holder: Holder, mut packet: Packet) -> Arrival {
        loop {
            match holder {
                Holder::Station(station) => return Arrival::Station(station, packet),
                Holder::Machine(machine) => return Arrival::Machine(machine, packet),
                Holder::Bystander => return Arrival::Nowhere,
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
}

/// Bytes of the headers around a datagram.
const IP_AND_UDP: usize = 28;
/// No NAT forgets a flow sooner.
const LATELY: Duration = Duration::from_secs(5);
const MOST_OVERHEARD: usize = 128;
/// Corrupted packets that their checksum lets pass, of a thousand: far more than in life, to see them at all.
const CHECKSUM_FAILS: u64 = 100;
