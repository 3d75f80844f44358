//! A public host for datagrams: STUN, and perhaps a relay, as `ginnel-signal` runs them beside its signaling.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ginnel_path::address::{Reach, reach};
use ginnel_time::Instant;
use ginnel_turn::Server as Turn;
use ginnel_turn::server::{AllocationId, Config as TurnConfig, Input as TurnInput, Output as TurnOutput, Quotas};

use crate::dice::Dice;
use crate::malice::Malice;
use crate::net::Packet;
use crate::server::unix;

/// What a public host does for datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    StunOnly,
    /// STUN and a relay with this shared secret.
    Relay([u8; 32]),
}

pub(crate) struct Station {
    pub(crate) address: IpAddr,
    turn: Option<Turn>,
    /// Relayed addresses whose ports are open.
    ports: BTreeMap<SocketAddr, AllocationId>,
    addresses: BTreeMap<AllocationId, SocketAddr>,
    /// How far its wall clock is ahead.
    ahead: u64,
    up: bool,
    due: Option<Instant>,
    sent: Vec<Packet>,
    broken: Vec<String>,
    malice: Option<Malice>,
}

impl Station {
    pub(crate) fn new(now: Instant, number: usize, service: &Service, dice: &mut Dice) -> Self {
        let address = address(number);
        let mut station = Self {
            address,
            turn: None,
            ports: BTreeMap::new(),
            addresses: BTreeMap::new(),
            ahead: 0,
            up: true,
            due: None,
            sent: Vec::new(),
            broken: Vec::new(),
            malice: None,
        };
        station.start(now, service, dice);
        station
    }

    /// Ends the process.
    pub(crate) fn stop(&mut self) {
        self.up = false;
        self.turn = None;
        self.ports.clear();
        self.addresses.clear();
        self.due = None;
        self.sent.clear();
    }

    /// Starts the process, which remembers nothing.
    pub(crate) fn start(&mut self, now: Instant, service: &Service, dice: &mut Dice) {
        self.up = true;
        self.turn = match service {
            Service::StunOnly => None,
            Service::Relay(secret) => Some(turn(self.address, secret, dice)),
        };
        self.tell_wall(now);
    }

    /// Moves the wall clock.
    pub(crate) fn jump(&mut self, now: Instant, seconds: u64) {
        self.ahead += seconds;
        self.tell_wall(now);
    }

    pub(crate) fn tell_wall(&mut self, now: Instant) {
        self.turn(now, TurnInput::Wall(unix(now) + self.ahead));
    }

    pub(crate) fn handle_packet(&mut self, now: Instant, packet: Packet) {
        if !self.up {
            return;
        }
        if packet.to.port() == STUN_PORT {
            let seen = self.malice.as_mut().map_or(packet.from, |malice| malice.lie(packet.from));
            if let Ok(bytes) = ginnel_stun::answer_binding(&packet.bytes, seen) {
                self.sent.push(Packet { from: packet.to, to: packet.from, ttl: TTL, bytes });
                return;
            }
            self.turn(now, TurnInput::Client { from: packet.from, local: packet.to, bytes: packet.bytes });
        } else if let Some(allocation) = self.ports.get(&packet.to).copied() {
            self.turn(now, TurnInput::Relayed { allocation, from: packet.from, bytes: packet.bytes });
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(turn) = &mut self.turn {
            turn.handle_timeout(now);
        }
        self.drain(now);
        if self.due.is_some_and(|due| due <= now) {
            self.broken.push(format!("a relay's deadline does not move: {:?} at {now:?}", self.due));
        }
    }

    pub(crate) const fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(crate) fn sent(&mut self) -> Vec<Packet> {
        let sent = std::mem::take(&mut self.sent);
        match &mut self.malice {
            Some(malice) => sent.into_iter().flat_map(|packet| malice.spoil(packet)).collect(),
            None => sent,
        }
    }

    /// Whether it means harm.
    pub(crate) const fn is_hostile(&self) -> bool {
        self.malice.is_some()
    }

    /// Lets it mean harm, or be as it was.
    pub(crate) fn set_malice(&mut self, malice: Option<Malice>) {
        self.malice = malice;
    }

    pub(crate) fn broken(&mut self) -> Vec<String> {
        std::mem::take(&mut self.broken)
    }

    /// Whether it runs, and is a relay.
    pub(crate) const fn relays(&self) -> bool {
        self.turn.is_some()
    }

    /// Allocations that live.
    pub(crate) fn allocations(&self) -> usize {
        self.turn.as_ref().map_or(0, Turn::allocations)
    }

    fn turn(&mut self, now: Instant, input: TurnInput) {
        if let Some(turn) = &mut self.turn {
            // What it had no use for it has counted.
            let _ = turn.handle_input(now, input);
            self.drain(now);
        }
    }

    fn drain(&mut self, now: Instant) {
        let Some(turn) = &mut self.turn else { return };
        while let Some(output) = turn.poll_output() {
            match output {
                TurnOutput::ToClient { to, local, bytes } => {
                    self.sent.push(Packet { from: local, to, ttl: TTL, bytes });
                }
                TurnOutput::OpenPort { allocation, port, .. } => {
                    let addr = SocketAddr::new(self.address, port);
                    self.ports.insert(addr, allocation);
                    self.addresses.insert(allocation, addr);
                    let _ = turn.handle_input(now, TurnInput::PortOpened { allocation, addr });
                }
                TurnOutput::ClosePort { allocation } => {
                    if let Some(addr) = self.addresses.remove(&allocation) {
                        self.ports.remove(&addr);
                    }
                }
                TurnOutput::Relay { allocation, to, bytes } => {
                    if let Some(from) = self.addresses.get(&allocation).copied() {
                        self.sent.push(Packet { from, to, ttl: TTL, bytes });
                    }
                }
            }
        }
        self.due = turn.poll_timeout();
    }
}

fn turn(address: IpAddr, secret: &[u8; 32], dice: &mut Dice) -> Turn {
    let config = TurnConfig {
        realm: "relay.internal".to_owned(),
        secret: secret.to_vec().into(),
        relay_addresses: vec![address],
        ports: 49_152..=65_535,
        quotas: Quotas::default(),
        policy: Box::new(|ip| matches!(reach(ip), Reach::Global | Reach::Documentation)),
        nonce_lifetime: Duration::from_secs(600),
    };
    Turn::new(dice.seed(), config).expect("the configuration is sound")
}

/// The address of a public host: the signaling servers come first.
pub(crate) fn address(number: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1 + u8::try_from(number).expect("few hosts")))
}

/// Whether an address is one of a public host.
pub(crate) fn is_station(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(ip) if ip.octets()[..3] == [203, 0, 113])
}

pub(crate) const STUN_PORT: u16 = 3478;
/// The IP time to live of ordinary packets.
pub(crate) const TTL: u8 = 64;
