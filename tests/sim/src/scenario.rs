//! What a seed decides: machines, NATs, lines, faults and who talks to whom.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ginnel_tunnel::Suite;

use crate::dice::Dice;
use crate::machine::Setup;
use crate::nat::{Behaviour, Dependence, Hairpin, Nat, Ports, Unsolicited};
use crate::net::{Holder, Line, Net, Realm};
use crate::server;

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
    pub(crate) lines: Vec<Line>,
    pub(crate) faults: Vec<Fault>,
    /// How long the world runs once everybody has joined.
    pub(crate) duration: Duration,
}

/// Something that goes wrong, `at` after everybody has joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: Duration,
    pub(crate) what: Trouble,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The public host ends and starts anew from its disk.
    ServerRestarts,
    /// A machine's daemon ends and starts anew from its disk.
    MachineRestarts(usize),
    /// A machine moves to another network.
    MachineMoves(usize),
}

impl Fault {
    /// For how long after it no more is promised to a conversation of `machines` than that it gets on.
    ///
    /// Who still holds a session with a daemon that restarted, and has been silent since, learns of it only by talking.
    pub(crate) fn aftermath(self, machines: &[usize]) -> Duration {
        match self.what {
            Trouble::MachineRestarts(machine) if machines.contains(&machine) => Duration::from_secs(300),
            Trouble::ServerRestarts | Trouble::MachineRestarts(_) | Trouble::MachineMoves(_) => Duration::from_secs(60),
        }
    }
}

impl Scenario {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let weather = if dice.chance(500) { Weather::Clear } else { Weather::Rough };
        let mut net = Net::new(dice.fork());
        let server = Line { delay: dice.millis(1, 5), hops: 3, ..Line::LOCAL };
        net.attach(Realm::INTERNET, server::ADDRESS, Holder::Server, server);
        let mut builder = Builder { net, dice, weather, sites: 0, lans: Vec::new(), carriers: Vec::new() };
        let count = usize::try_from(builder.dice.between(2, 4)).expect("few machines");
        let mut setups = Vec::new();
        let mut lines = Vec::new();
        for index in 0..count {
            let (realm, address, line) = builder.place();
            builder.net.attach(realm, address, Holder::Machine(index), line);
            lines.push(line);
            setups.push(builder.setup(index, realm, address));
        }
        let spare = (0..2).map(|_| builder.place()).collect();
        let faults = builder.faults(count);
        let net = builder.net;
        let duration = dice.time(Duration::from_secs(180), Duration::from_secs(300));
        Self { weather, net, setups, spare, lines, faults, duration }
    }
}

struct Builder<'a> {
    net: Net,
    dice: &'a mut Dice,
    weather: Weather,
    sites: u8,
    lans: Vec<(Realm, [u8; 3], u8)>,
    carriers: Vec<(Realm, u8)>,
}

impl Builder<'_> {
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
            lifetime: self.dice.time(Duration::from_secs(30), Duration::from_secs(300)),
            unsolicited,
            hairpin: if self.dice.chance(300) { Hairpin::Supported } else { Hairpin::Dropped },
        }
    }

    fn line(&mut self) -> Line {
        let delay = self.dice.millis(1, 40);
        let hops = u8::try_from(self.dice.between(3, 6)).expect("few hops");
        let clear = Line { delay, hops, ..Line::LOCAL };
        match self.weather {
            Weather::Clear => clear,
            Weather::Rough => Line {
                jitter: self.dice.millis(0, 15),
                loss: self.dice.below(60),
                duplicates: self.dice.below(30),
                reordered: self.dice.below(50),
                ..clear
            },
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
            clock_ahead: self.dice.millis(0, 20_000),
            lag,
            raw_drops,
        }
    }

    /// Every third world has one fault.
    fn faults(&mut self, machines: usize) -> Vec<Fault> {
        if !self.dice.chance(330) {
            return Vec::new();
        }
        let at = self.dice.time(Duration::from_secs(20), Duration::from_secs(150));
        let machine = usize::try_from(self.dice.below(machines as u64)).expect("few machines");
        let what = self.dice.pick(&[
            Trouble::ServerRestarts,
            Trouble::MachineRestarts(machine),
            Trouble::MachineMoves(machine),
        ]);
        vec![Fault { at, what }]
    }
}
