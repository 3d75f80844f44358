//! What a seed decides: machines, NATs, lines, relays, faults and who talks to whom.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ginnel_tunnel::Suite;

use crate::dice::Dice;
use crate::fault::{Fault, Trouble, draw, draw_hush, draw_later};
use crate::line::{Line, Loss};
use crate::machine::{Lines, Setup};
use crate::nat::{Behaviour, Dependence, Hairpin, Nat, Ports, Unsolicited};
use crate::net::{Holder, Net, Realm};
use crate::server::Relays;
use crate::station::{self, Service};

/// How well the lines and shells of a world behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Nothing is lost.
    Clear,
    /// Loss, jitter, duplicates and reordering, drops of raw datagrams between the data plane and node.
    Rough,
}

/// Everything that is decided before the world runs.
pub(crate) struct Scenario {
    pub(crate) weather: Weather,
    pub(crate) net: Net,
    pub(crate) setups: Vec<Setup>,
    /// Where machines may move to.
    pub(crate) spare: Vec<(Realm, IpAddr, Line)>,
    pub(crate) quality: Lines,
    /// Signaling servers.
    pub(crate) servers: usize,
    /// The public hosts; those of the signaling servers come first.
    pub(crate) services: Vec<Service>,
    pub(crate) relays: Relays,
    pub(crate) faults: Vec<Fault>,
    /// Pairs of machines that talk.
    pub(crate) talkers: Vec<(usize, usize)>,
    /// How long the world runs once everybody has joined.
    pub(crate) duration: Duration,
}

impl Scenario {
    /// Draws a world; `later` is the chance of what worlds are the same without.
    pub(crate) fn new(dice: &mut Dice, later: &mut Dice) -> Self {
        let weather = if dice.chance(500) { Weather::Clear } else { Weather::Rough };
        let mut net = Net::new(dice.fork());
        let servers = dice.pick(&[1, 1, 1, 1, 1, 1, 2, 2, 3, 3]);
        let (mut services, relays) = relays(dice);
        services.resize(services.len().max(servers), Service::StunOnly);
        for number in 0..services.len() {
            let line = Line { delay: dice.millis(1, 5), hops: 3, ..Line::LOCAL };
            net.attach(Realm::INTERNET, station::address(number), Holder::Station(number), line);
        }
        let mut builder =
            Builder { net, dice, weather, sites: 0, lans: Vec::new(), carriers: Vec::new(), quality: Lines::Sound };
        let count = builder.count();
        let mut setups = Vec::new();
        for index in 0..count {
            let (realm, address, line) = builder.place();
            builder.net.attach(realm, address, Holder::Machine(index), line);
            setups.push(builder.setup(index, realm, address));
        }
        let spare = (0..4).map(|_| builder.place()).collect();
        let (net, quality) = (builder.net, builder.quality);
        let duration = dice.time(Duration::from_secs(600), Duration::from_secs(840));
        let mut talkers = talkers(count, dice);
        let mut faults = draw(count, services.len(), servers, duration, dice);
        faults.extend(draw_later(servers, duration, later));
        let hostile = faults.iter().any(|fault| matches!(fault.what, Trouble::Turncoat(_)));
        faults.extend(draw_hush(count, duration, later).filter(|_| hostile));
        faults.sort_by_key(|fault| fault.at);
        // Nothing is promised to who talks with a machine that means harm; it has all the others' addresses anyway.
        for fault in &faults {
            if let Trouble::Turncoat(machine) = fault.what {
                talkers.retain(|(a, b)| *a != machine && *b != machine);
            }
        }
        Self { weather, net, setups, spare, quality, servers, services, relays, faults, talkers, duration }
    }
}

/// No relay in some worlds, one beside the server in most, up to three.
fn relays(dice: &mut Dice) -> (Vec<Service>, Relays) {
    let secret = dice.seed();
    let relay = Service::Relay(secret);
    let services = match dice.below(100) {
        0..10 => vec![Service::StunOnly],
        10..65 => vec![relay],
        65..75 => vec![Service::StunOnly, relay],
        75..85 => vec![relay.clone(), relay],
        85..95 => vec![Service::StunOnly, relay.clone(), relay],
        _ => vec![relay.clone(), relay.clone(), relay],
    };
    let numbered = services.iter().enumerate();
    let mut addresses: Vec<SocketAddr> = numbered
        .filter(|(_, service)| matches!(service, Service::Relay(_)))
        .map(|(number, _)| SocketAddr::new(station::address(number), station::STUN_PORT))
        .collect();
    let turn = dice.below(addresses.len().max(1) as u64);
    addresses.rotate_left(usize::try_from(turn).expect("few relays"));
    let lifetime = Duration::from_secs(dice.pick(&[240, 600, 3600, 3600]));
    (services, Relays { secret, addresses, lifetime })
}

/// All pairs of a small world, some of a large one.
fn talkers(count: usize, dice: &mut Dice) -> Vec<(usize, usize)> {
    let mut pairs: Vec<(usize, usize)> = (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))).collect();
    while pairs.len() > MOST_TALKERS {
        let place = usize::try_from(dice.below(pairs.len() as u64)).expect("few pairs");
        pairs.swap_remove(place);
    }
    pairs
}

struct Builder<'a> {
    net: Net,
    dice: &'a mut Dice,
    weather: Weather,
    sites: u8,
    lans: Vec<(Realm, [u8; 3], u8)>,
    carriers: Vec<(Realm, u8)>,
    quality: Lines,
}

impl Builder<'_> {
    /// Mostly a few machines; sometimes up to sixteen.
    fn count(&mut self) -> usize {
        let count = match self.dice.below(100) {
            0..88 => self.dice.between(2, 5),
            88..97 => self.dice.between(6, 10),
            _ => self.dice.between(11, 16),
        };
        usize::try_from(count).expect("few machines")
    }

    /// Finds a place for a machine: in the open, in a network that is there, behind a NAT or behind two.
    fn place(&mut self) -> (Realm, IpAddr, Line) {
        match self.dice.below(100) {
            0..12 => {
                let address = self.public_address();
                (Realm::INTERNET, address, self.line())
            }
            12..27 if !self.lans.is_empty() => {
                let lan = usize::try_from(self.dice.below(self.lans.len() as u64)).expect("few networks");
                self.seat(lan)
            }
            27..47 => {
                let carrier = self.carrier();
                let lan = self.lan(carrier);
                self.seat(lan)
            }
            _ => {
                let lan = self.lan(None);
                self.seat(lan)
            }
        }
    }

    /// A machine's place in a private network. Homes are numbered alike, so addresses of different homes often clash.
    fn seat(&mut self, lan: usize) -> (Realm, IpAddr, Line) {
        let (realm, prefix, next) = &mut self.lans[lan];
        let [a, b, c] = *prefix;
        *next += 1;
        (*realm, IpAddr::from([a, b, c, *next]), Line::LOCAL)
    }

    fn lan(&mut self, carrier: Option<(Realm, IpAddr)>) -> usize {
        let prefix = self.dice.pick(&[[192, 168, 1], [192, 168, 0], [10, 0, 0], [172, 16, 4]]);
        let behaviour = self.behaviour();
        let (outside, address, line) = match carrier {
            Some((realm, address)) => (realm, address, Line { hops: 1, ..self.line() }),
            None => (Realm::INTERNET, self.public_address(), self.line()),
        };
        let realm = self.net.add_realm(outside, Nat::new(behaviour, address), line);
        self.lans.push((realm, prefix, 1));
        self.lans.len() - 1
    }

    /// A place in a carrier's network, which may have customers already.
    fn carrier(&mut self) -> Option<(Realm, IpAddr)> {
        if self.carriers.is_empty() || self.dice.chance(400) {
            let behaviour = Behaviour {
                unsolicited: Unsolicited::Nothing,
                hairpin: self.dice.pick(&[Hairpin::Supported, Hairpin::Dropped]),
                ..self.behaviour()
            };
            let (address, line) = (self.public_address(), Line { hops: 3, ..Line::LOCAL });
            let realm = self.net.add_realm(Realm::INTERNET, Nat::new(behaviour, address), line);
            self.carriers.push((realm, 1));
        }
        let index = usize::try_from(self.dice.below(self.carriers.len() as u64)).expect("few carriers");
        let (realm, next) = &mut self.carriers[index];
        *next += 1;
        Some((*realm, IpAddr::from([100, 72, 0, *next])))
    }

    fn behaviour(&mut self) -> Behaviour {
        let mapping = match self.dice.below(100) {
            0..65 => Dependence::Endpoint,
            65..75 => Dependence::Address,
            _ => Dependence::AddressAndPort,
        };
        // A NAT that maps per address knows which address a packet may come from.
        let filtering = match self.dice.below(100) {
            0..20 if mapping == Dependence::Endpoint => Dependence::Endpoint,
            20..40 if mapping <= Dependence::Address => Dependence::Address,
            _ => Dependence::AddressAndPort,
        };
        let ports =
            if mapping == Dependence::Endpoint && self.dice.chance(650) { Ports::Preserve } else { Ports::Random };
        let linux = mapping == Dependence::Endpoint && filtering == Dependence::AddressAndPort;
        let unsolicited = if linux && self.dice.chance(300) { Unsolicited::Occupy } else { Unsolicited::Nothing };
        Behaviour {
            mapping,
            filtering,
            ports,
            lifetime: self.dice.time(Duration::from_secs(20), Duration::from_secs(300)),
            unsolicited,
            hairpin: if self.dice.chance(300) { Hairpin::Supported } else { Hairpin::Dropped },
        }
    }

    fn line(&mut self) -> Line {
        let delay = self.dice.millis(1, 40);
        let hops = u8::try_from(self.dice.between(3, 6)).expect("few hops");
        let mtu = usize::try_from(self.dice.pick(&[1500, 1500, 1500, 1492, 1460, 1400, 1344, 1280])).expect("small");
        let clear = Line { delay, hops, mtu, ..Line::LOCAL };
        match self.weather {
            Weather::Clear => clear,
            Weather::Rough => {
                let corrupted = self.dice.pick(&[0, 0, 1, 5]);
                if corrupted > 0 {
                    self.quality = Lines::Corrupting;
                }
                Line {
                    jitter: self.dice.millis(0, 15),
                    loss: self.loss(),
                    duplicates: self.dice.below(30),
                    reordered: self.dice.below(50),
                    corrupted,
                    ..clear
                }
            }
        }
    }

    /// Even loss, or bursts of some packets.
    fn loss(&mut self) -> Loss {
        if self.dice.chance(500) {
            return Loss { good: self.dice.below(60), ..Loss::NONE };
        }
        Loss {
            good: self.dice.below(5),
            bad: self.dice.between(300, 900),
            worsens: self.dice.between(1, 15),
            mends: self.dice.between(150, 500),
        }
    }

    /// Each site is another network, so that no two public addresses look near.
    fn public_address(&mut self) -> IpAddr {
        self.sites += 1;
        let host = u8::try_from(self.dice.between(1, 254)).expect("an octet");
        IpAddr::V4(Ipv4Addr::new(45, 83, self.sites, host))
    }

    fn setup(&mut self, index: usize, realm: Realm, address: IpAddr) -> Setup {
        let suites = match self.dice.below(3) {
            0 => vec![Suite::ChaChaPoly],
            1 => vec![Suite::ChaChaPoly, Suite::AesGcm],
            _ => vec![Suite::AesGcm, Suite::ChaChaPoly],
        };
        let (lag, raw_drops) = match self.weather {
            Weather::Clear => (self.dice.time(Duration::from_micros(20), Duration::from_millis(2)), 0),
            Weather::Rough => (self.dice.time(Duration::from_micros(20), Duration::from_millis(20)), 5),
        };
        Setup {
            name: format!("node{index}"),
            realm,
            address,
            suites,
            clock_ahead: i64::try_from(self.dice.below(20)).expect("seconds"),
            lag,
            raw_drops,
        }
    }
}

/// Pairs that talk in a large world.
const MOST_TALKERS: usize = 8;
