//! The public host: one process with the signaling server, STUN and the relay, as `ginnel-signal` runs them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ginnel_membership::invite::Token;
use ginnel_membership::{Founding, ServerKeys, SigningKey};
use ginnel_path::address::{Reach, reach};
use ginnel_signal_proto::server::{Change, Config, ConnectionId, Input, Limits, Outcome, Output, Stored, Ticket};
use ginnel_signal_proto::{FoundingToken, RelayCredentials, Server as Signal};
use ginnel_time::Instant;
use ginnel_tunnel::StaticSecret;
use ginnel_turn::server::{AllocationId, Config as TurnConfig, Input as TurnInput, Output as TurnOutput, Quotas};
use ginnel_turn::{Credentials, Server as Turn};

use crate::dice::Dice;
use crate::net::Packet;

/// What the host wants done.
pub(crate) enum Effect {
    Datagram(Packet),
    /// Bytes for a client's stream.
    Write(ConnectionId, Vec<u8>),
    /// The end of a client's stream.
    Close(ConnectionId),
    /// A store that ends after the disk's time.
    Store(Ticket, Change),
    /// A machine broke the contract.
    Broken(String),
}

/// The host and all that a restart of it leaves: its disk and its keys.
pub(crate) struct Host {
    signal: Signal,
    turn: Turn,
    keys: Keys,
    disk: Stored,
    /// Relayed addresses whose ports are open.
    ports: BTreeMap<SocketAddr, AllocationId>,
    addresses: BTreeMap<AllocationId, SocketAddr>,
    connections: BTreeSet<ConnectionId>,
    /// Counts restarts, so that what is under way from before finds nobody.
    pub(crate) epoch: u32,
    due: Option<Instant>,
    effects: Vec<Effect>,
}

struct Keys {
    noise: [u8; 32],
    sequencer: SigningKey,
    token: [u8; 16],
    relay_secret: [u8; 32],
}

impl Host {
    pub(crate) fn new(now: Instant, dice: &mut Dice) -> Self {
        let seed = dice.seed();
        let token = seed.first_chunk().copied().expect("a seed is longer than a token");
        let keys = Keys {
            noise: dice.seed(),
            sequencer: SigningKey::from_bytes(&dice.seed()),
            token,
            relay_secret: dice.seed(),
        };
        let disk = Stored { tokens: vec![(FoundingToken(Token::from_bytes(token)), None)], ..Stored::default() };
        let (signal, turn) = (signal(now, &keys, &disk, dice), turn(now, &keys, dice));
        Self {
            signal,
            turn,
            keys,
            disk,
            ports: BTreeMap::new(),
            addresses: BTreeMap::new(),
            connections: BTreeSet::new(),
            epoch: 0,
            due: None,
            effects: Vec::new(),
        }
    }

    /// What `ginnel-signal` prints at its first start.
    pub(crate) fn founding(&self) -> String {
        let noise = StaticSecret::from_bytes(self.keys.noise).public().to_bytes();
        let keys = ServerKeys { signing: self.keys.sequencer.sequencer_key().to_bytes(), noise };
        let server =
            ginnel_membership::Server { addresses: vec![SocketAddr::new(ADDRESS, STREAM_PORT).to_string()], keys };
        let founding = Founding::new(server, Token::from_bytes(self.keys.token)).expect("one address fits");
        founding.to_string()
    }

    /// Ends the process and starts it anew from its disk; tells the streams that break.
    pub(crate) fn restart(&mut self, now: Instant, dice: &mut Dice) -> Vec<ConnectionId> {
        self.signal = signal(now, &self.keys, &self.disk, dice);
        self.turn = turn(now, &self.keys, dice);
        self.ports.clear();
        self.addresses.clear();
        self.epoch += 1;
        self.due = None;
        self.effects.clear();
        std::mem::take(&mut self.connections).into_iter().collect()
    }

    pub(crate) fn opened(&mut self, now: Instant, conn: ConnectionId, from: SocketAddr) {
        self.connections.insert(conn);
        self.signal(now, Input::Opened { conn, from });
    }

    pub(crate) fn received(&mut self, now: Instant, conn: ConnectionId, bytes: Vec<u8>) {
        self.signal(now, Input::Received { conn, bytes });
    }

    pub(crate) fn flushed(&mut self, now: Instant, conn: ConnectionId, bytes: usize) {
        if self.connections.contains(&conn) {
            self.signal(now, Input::Flushed { conn, bytes });
        }
    }

    pub(crate) fn closed(&mut self, now: Instant, conn: ConnectionId) {
        if self.connections.remove(&conn) {
            self.signal(now, Input::Closed { conn });
        }
    }

    pub(crate) fn stored(&mut self, now: Instant, ticket: Ticket, change: Change) {
        self.keep(change);
        self.signal(now, Input::Stored { ticket, outcome: Outcome::Durable });
    }

    pub(crate) fn handle_packet(&mut self, now: Instant, packet: Packet) {
        if packet.to == SocketAddr::new(ADDRESS, STUN_PORT) {
            if let Ok(bytes) = ginnel_stun::answer_binding(&packet.bytes, packet.from) {
                self.effects.push(Effect::Datagram(Packet { from: packet.to, to: packet.from, ttl: TTL, bytes }));
                return;
            }
            self.turn(now, TurnInput::Client { from: packet.from, local: packet.to, bytes: packet.bytes });
        } else if let Some(allocation) = self.ports.get(&packet.to).copied() {
            self.turn(now, TurnInput::Relayed { allocation, from: packet.from, bytes: packet.bytes });
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.signal.handle_timeout(now);
        self.turn.handle_timeout(now);
        self.drain(now);
        if self.due.is_some_and(|due| due <= now) {
            self.effects.push(Effect::Broken(format!("a server's deadline does not move: {:?} at {now:?}", self.due)));
        }
    }

    pub(crate) const fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(crate) fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// What the servers dropped that honest clients on honest lines never send.
    pub(crate) fn oddities(&self) -> Vec<String> {
        use ginnel_signal_proto::server::Discard;
        let odd = [Discard::FrameLength, Discard::Version, Discard::BadSeal, Discard::Malformed, Discard::OutOfOrder];
        let counted = odd.into_iter().filter_map(|discard| Some((discard, self.signal.counters().get(&discard)?)));
        counted.map(|(discard, count)| format!("signaling server: {count} x {discard}")).collect()
    }

    fn keep(&mut self, change: Change) {
        match change {
            Change::Found { network, token, entry } => {
                self.disk.logs.push((network, vec![entry]));
                for (known, usage) in &mut self.disk.tokens {
                    if *known == token {
                        *usage = Some(network);
                    }
                }
            }
            Change::Adopt { network, token, genesis } => {
                self.disk.adopted.push((network, genesis));
                for (known, usage) in &mut self.disk.tokens {
                    if *known == token {
                        *usage = Some(network);
                    }
                }
            }
            Change::Append { network, sequence, entry } => {
                if sequence == 0 {
                    self.disk.logs.push((network, Vec::new()));
                }
                let log = self.disk.logs.iter_mut().find(|(id, _)| *id == network);
                match log {
                    Some((_, log)) if log.len() as u64 == sequence => log.push(entry),
                    Some(_) | None => self.effects.push(Effect::Broken("a log has a gap".to_owned())),
                }
            }
        }
    }

    fn signal(&mut self, now: Instant, input: Input) {
        // What the server had no use for it has counted.
        let _ = self.signal.handle_input(now, input);
        self.drain(now);
    }

    fn turn(&mut self, now: Instant, input: TurnInput) {
        let _ = self.turn.handle_input(now, input);
        self.drain(now);
    }

    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.signal.poll_output() {
            let effect = match output {
                Output::Write { conn, bytes } => Effect::Write(conn, bytes),
                Output::Close { conn } => {
                    self.connections.remove(&conn);
                    Effect::Close(conn)
                }
                Output::Store { ticket, change } => Effect::Store(ticket, change),
                Output::Dial { link, .. } => {
                    // There is one server in this world.
                    let why = "nobody there".to_owned();
                    let _ = self.signal.handle_input(now, Input::LinkClosed { link, why });
                    continue;
                }
                Output::LinkWrite { .. } | Output::LinkClose { .. } => continue,
            };
            self.effects.push(effect);
        }
        while let Some(output) = self.turn.poll_output() {
            match output {
                TurnOutput::ToClient { to, local, bytes } => {
                    self.effects.push(Effect::Datagram(Packet { from: local, to, ttl: TTL, bytes }));
                }
                TurnOutput::OpenPort { allocation, port, .. } => {
                    let addr = SocketAddr::new(ADDRESS, port);
                    self.ports.insert(addr, allocation);
                    self.addresses.insert(allocation, addr);
                    let _ = self.turn.handle_input(now, TurnInput::PortOpened { allocation, addr });
                }
                TurnOutput::ClosePort { allocation } => {
                    if let Some(addr) = self.addresses.remove(&allocation) {
                        self.ports.remove(&addr);
                    }
                }
                TurnOutput::Relay { allocation, to, bytes } => {
                    if let Some(from) = self.addresses.get(&allocation).copied() {
                        self.effects.push(Effect::Datagram(Packet { from, to, ttl: TTL, bytes }));
                    }
                }
            }
        }
        self.due = [self.signal.poll_timeout(), self.turn.poll_timeout()].into_iter().flatten().min();
    }
}

fn signal(now: Instant, keys: &Keys, disk: &Stored, dice: &mut Dice) -> Signal {
    let secret = keys.relay_secret;
    let config = Config {
        noise: keys.noise.into(),
        sequencer: keys.sequencer.clone(),
        stun_ports: vec![STUN_PORT],
        relay: Some(Box::new(move |unix, member| {
            let lifetime = Duration::from_secs(3600);
            let made = Credentials::time_limited(&secret, unix + lifetime.as_secs(), &member.to_string());
            RelayCredentials {
                username: made.username,
                password: made.password,
                lifetime_seconds: 3600,
                addresses: vec![SocketAddr::new(ADDRESS, STUN_PORT)],
            }
        })),
        limits: Limits::default(),
    };
    Signal::new(dice.seed(), config, disk.clone(), now, unix(now)).expect("the stored logs are those the server made")
}

fn turn(now: Instant, keys: &Keys, dice: &mut Dice) -> Turn {
    let config = TurnConfig {
        realm: "relay.internal".to_owned(),
        secret: keys.relay_secret.to_vec().into(),
        relay_addresses: vec![ADDRESS],
        ports: 49_152..=65_535,
        quotas: Quotas::default(),
        policy: Box::new(|ip| matches!(reach(ip), Reach::Global | Reach::Documentation)),
        nonce_lifetime: Duration::from_secs(600),
    };
    let mut turn = Turn::new(dice.seed(), config).expect("the configuration is sound");
    turn.handle_input(now, TurnInput::Wall(unix(now))).expect("wall time is always taken");
    turn
}

/// The server's wall clock, in Unix seconds.
pub(crate) fn unix(now: Instant) -> u64 {
    WALL + now.as_nanos() / 1_000_000_000
}

/// The host's address.
pub(crate) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
/// Where clients open their streams.
pub(crate) const STREAM_PORT: u16 = 4433;
const STUN_PORT: u16 = 3478;
/// The IP time to live of ordinary packets.
pub(crate) const TTL: u8 = 64;
const WALL: u64 = 1_800_000_000;
