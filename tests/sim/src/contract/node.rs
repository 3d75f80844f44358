//! The node: a network founded on a real server, peers of the configuration, and whatever the shell might say.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_forward::{Command, Event, PeerId, RekeyReason, Shields};
use ginnel_node::{
    Config, ConfigPeer, ConfigPeerKind, Debug, Input, Node, Output, Request, RequestId, Resume, ServerId,
};
use ginnel_path::message::{Echo, Message, decode};
use ginnel_path::{Local, Path, RelayId, SocketId};
use ginnel_signal_proto::server::ConnectionId;
use ginnel_time::{Instant, Tai64n};
use ginnel_tunnel::{Identity, NetworkTag, PresharedKey, Received, ReceiverIndex, StaticSecret, Suite};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::{Subject, garbage, index, obeys, spoil};
use crate::dice::Dice;
use crate::net::Packet;
use crate::server::{Effect, Relays, Server, unix};
use crate::station::{self, Service, Station, TTL};

struct Whole {
    node: Node,
    host: Server,
    /// The relay that the host offers.
    relay: Station,
    now: Instant,
    conn: Option<ConnectionId>,
    connections: u64,
    /// Bytes from the server, and raw datagrams that the node sent.
    down: Vec<u8>,
    sent: Vec<Vec<u8>>,
    opened: Vec<SocketId>,
    requests: u64,
    founded: bool,
    /// The ginneld of the configuration, and what it answers.
    peer: Identity,
    rng: ChaCha20Rng,
    answers: Vec<Event>,
    /// What the relay answers: it comes before everything else that waits, or the node would have given up.
    relayed: Vec<Event>,
    sessions: u32,
}

impl Whole {
    fn new(now: Instant, dice: &mut Dice) -> Self {
        let peer = |dice: &mut Dice, kind, endpoint| ConfigPeer {
            name: format!("{kind:?}").to_lowercase(),
            key: StaticSecret::from_bytes(dice.seed()).public(),
            psk: PresharedKey::zero(),
            endpoint,
            allowed: vec![(IpAddr::from([10, 9, 0, dice.below(200) as u8]), 32)],
            persistent_keepalive: None,
            kind,
        };
        let secret = StaticSecret::from_bytes(dice.seed());
        let endpoint = Some(SocketAddr::from(([198, 51, 100, 9], 51_820)));
        let mut peers = vec![
            peer(dice, ConfigPeerKind::WireGuard, endpoint),
            peer(dice, ConfigPeerKind::Ginnel, endpoint),
            peer(dice, ConfigPeerKind::WireGuard, None),
        ];
        peers[1].key = secret.public();
        let config = Config {
            seed: dice.seed(),
            secret: Some(StaticSecret::from_bytes(dice.seed())),
            addresses: vec![(IpAddr::from([10, 9, 0, 1]), 24)],
            peers,
            suites: vec![Suite::AesGcm, Suite::ChaChaPoly],
            hostname: "machine".to_owned(),
            debug: Debug::default(),
        };
        let relay = SocketAddr::new(station::address(0), station::STUN_PORT);
        let secret_of_relays = dice.seed();
        let relays = Relays { secret: secret_of_relays, addresses: vec![relay], lifetime: Duration::from_secs(3600) };
        Self {
            relay: Station::new(now, 0, &Service::Relay(secret_of_relays), dice),
            node: Node::new(now, config, Resume::default()).expect("nothing is saved"),
            host: Server::new(now, 0, relays, dice),
            now,
            conn: None,
            connections: 0,
            down: Vec::new(),
            sent: Vec::new(),
            opened: Vec::new(),
            requests: 0,
            founded: false,
            peer: Identity::new(secret, NetworkTag([0; 32])),
            rng: ChaCha20Rng::from_seed(dice.seed()),
            answers: Vec::new(),
            relayed: Vec::new(),
            sessions: 0,
        }
    }

    /// Lets the host do what is due, and collects what it says.
    fn serve(&mut self) {
        loop {
            let effects = self.host.effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Write(conn, bytes) => {
                        self.host.flushed(self.now, conn, bytes.len());
                        if self.conn == Some(conn) {
                            self.down.extend(bytes);
                        }
                    }
                    Effect::Store(ticket, change) => self.host.stored(self.now, ticket, change),
                    // There is no fellow.
                    Effect::Dial(..) | Effect::LinkWrite(..) | Effect::LinkClose(_) => {}
                    Effect::Close(_) | Effect::Broken(_) => {}
                }
            }
        }
    }

    /// Answers as the other ginneld does: initiations, probes and pings; and as the relay does.
    fn answer(&mut self, command: &Command) {
        match command {
            Command::Send { path: Path { local: Local::Socket(socket), remote }, bytes, .. }
                if remote.ip() == self.relay.address =>
            {
                let from = SocketAddr::from(([198, 51, 100, 7], 4000));
                self.relay.handle_packet(self.now, Packet { from, to: *remote, ttl: TTL, bytes: bytes.clone() });
                let sent = self.relay.sent().into_iter().filter(|packet| packet.to == from);
                let stun = |packet: Packet| Event::Stun { socket: *socket, from: packet.from, bytes: packet.bytes };
                self.relayed.extend(sent.map(stun));
            }
            Command::Send { path, bytes, .. } => {
                let Ok(received) = Received::read(&self.peer, bytes, &mut |_| true) else { return };
                self.sessions += 1;
                let index = ReceiverIndex(self.sessions);
                if let Ok((bytes, _)) = received.respond(&PresharedKey::zero(), 0, index, &mut self.rng) {
                    self.answers.push(Event::Handshake { path: *path, bytes });
                }
            }
            Command::SealControl { peer, path: Some(path), plaintext, .. } => {
                if let Ok(Message::Probe(probe)) = decode(plaintext) {
                    let echo = Echo { id: probe.id, observed: path.remote, relayed: false }.encode();
                    self.answers.push(Event::Control { peer: *peer, path: *path, plaintext: echo });
                }
            }
            Command::SealControl { peer, path: None, plaintext, .. } => {
                let path =
                    Path { local: Local::Socket(SocketId(0)), remote: SocketAddr::from(([198, 51, 100, 9], 51_820)) };
                let mut pong = plaintext.clone();
                if let Some(kind @ 0x10) = pong.first_mut() {
                    *kind = 0x11;
                }
                self.answers.push(Event::Control { peer: *peer, path, plaintext: pong });
            }
            Command::AddPeer { .. }
            | Command::SetOwn { .. }
            | Command::RemovePeer { .. }
            | Command::Install { .. }
            | Command::Forget { .. }
            | Command::SetPath { .. }
            | Command::SetRelay { .. }
            | Command::RemoveRelay { .. }
            | Command::BindChannel { .. }
            | Command::UnbindChannel { .. }
            | Command::Inject { .. }
            | Command::SetShields(_)
            | Command::SetKeys(_) => {}
        }
    }

    fn event(&self, dice: &mut Dice) -> Event {
        let peer = PeerId(u32::try_from(dice.below(4)).expect("few peers"));
        let ends = ReceiverIndex(u32::try_from(dice.below(5)).expect("few sessions"));
        let local = dice.pick(&[Local::Socket(SocketId(0)), Local::Socket(SocketId(2)), Local::Relay(RelayId(0))]);
        let path = Path { local, remote: SocketAddr::from(([198, 51, 100, dice.below(4) as u8], 4000)) };
        let bytes = if self.sent.is_empty() || dice.chance(300) {
            garbage(dice)
        } else {
            let bytes = self.sent[index(dice, self.sent.len())].clone();
            spoil(dice, bytes)
        };
        match dice.below(12) {
            0 => Event::Confirmed { peer, index: ends },
            1 => Event::Expired { index: ends, peer },
            2 => Event::RekeyDue { peer, why: dice.pick(&[RekeyReason::Age, RekeyReason::Silence]) },
            3 | 4 => Event::SessionWanted { peer },
            5 => Event::Arrived { peer, path },
            6 => Event::Roamed { peer, path },
            7 => Event::Control { peer, path, plaintext: bytes },
            8 | 9 => Event::Handshake { path, bytes },
            10 => Event::Stun { socket: SocketId(0), from: SocketAddr::from(([203, 0, 113, 1], 3478)), bytes },
            _ => Event::Traffic { peer, sent: dice.chance(500), received: dice.chance(500) },
        }
    }

    fn request(&mut self, dice: &mut Dice) -> Input {
        self.requests += 1;
        let peer = || "wireguard".to_owned();
        let request = match dice.below(14) {
            0..3 if !self.founded => {
                self.founded = true;
                Request::Up {
                    ticket: Some(self.host.founding()),
                    name: None,
                    network: None,
                    shields: None,
                    range: None,
                    ipv4: None,
                }
            }
            0 => Request::Up {
                ticket: None,
                name: None,
                network: None,
                shields: Some(Shields::Up),
                range: None,
                ipv4: None,
            },
            1 => Request::Down,
            2 if dice.chance(100) => Request::Leave,
            3 | 4 => Request::Ping { peer: "ginnel".to_owned(), timeout: dice.millis(0, 9000) },
            5 => Request::Ping { peer: peer(), timeout: Duration::from_secs(1) },
            6..9 => Request::Invite { expires: dice.millis(0, 9_000_000), name: Some(format!("n{}", dice.below(3))) },
            9 => Request::Invites,
            10 => Request::VoidInvite { id: format!("{:x}", dice.below(16)) },
            11 => Request::Revoke { peer: peer() },
            12 => Request::Up {
                ticket: Some("ginnel-invite-broken".to_owned()),
                name: None,
                network: None,
                shields: None,
                range: None,
                ipv4: None,
            },
            _ => Request::Log,
        };
        Input::Request { id: RequestId(self.requests), network: None, request }
    }
}

impl Subject for Whole {
    fn input(&mut self, now: Instant, dice: &mut Dice) {
        self.now = self.now.max(now);
        self.serve();
        let server = ServerId(0);
        let input = match dice.below(40) {
            0 | 1 => Input::Wall(Tai64n::from_unix(unix(self.now) + dice.below(3), 0)),
            2 => Input::Interfaces(vec![IpAddr::from([192, 168, 1, dice.below(3) as u8])]),
            3..6 if !self.opened.is_empty() => {
                let socket = self.opened.remove(0);
                let local = SocketAddr::from(([0, 0, 0, 0], 40_000 + socket.0));
                Input::SocketOpened { socket, local }
            }
            6 if dice.chance(200) => Input::SocketLost { socket: SocketId(dice.below(4) as u16) },
            7..10 => self.request(dice),
            10 if dice.chance(150) => Input::ServerClosed { server, reason: "lost".to_owned() },
            11..20 => match self.conn {
                Some(_) if !self.down.is_empty() => {
                    let rest = self.down.split_off(1 + index(dice, self.down.len()));
                    Input::ServerBytes { server, bytes: std::mem::replace(&mut self.down, rest) }
                }
                Some(_) | None => Input::ServerBytes { server: ServerId(1), bytes: garbage(dice) },
            },
            20 if dice.chance(50) => Input::ServerBytes { server, bytes: garbage(dice) },
            20..34 if !self.relayed.is_empty() => Input::Forward(self.relayed.remove(0)),
            21..34 if !self.answers.is_empty() => Input::Forward(self.answers.remove(0)),
            _ => Input::Forward(self.event(dice)),
        };
        if matches!(input, Input::ServerClosed { .. }) {
            self.conn = None;
        }
        let _ = self.node.handle_input(now, input);
    }

    fn timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.node.handle_timeout(now);
        if let Some(conn) = self.conn.filter(|conn| conn.0 > self.connections) {
            self.connections = conn.0;
            self.host.opened(self.now, conn, SocketAddr::from(([198, 51, 100, 7], 4000)));
            let remote = SocketAddr::from(([203, 0, 113, 1], 4433));
            let _ = self.node.handle_input(self.now, Input::ServerOpened { server: ServerId(0), remote });
        }
    }

    fn output(&mut self) -> Option<String> {
        let output = self.node.poll_output()?;
        let text = format!("{output:?}");
        if let Output::Forward(command) = &output {
            self.answer(command);
        }
        match output {
            Output::ConnectServer { .. } => {
                self.down.clear();
                self.conn = Some(ConnectionId(self.connections + 1));
            }
            Output::WriteServer { bytes, .. } => {
                if let Some(conn) = self.conn {
                    self.host.received(self.now, conn, bytes);
                }
            }
            Output::DisconnectServer(_) => {
                if let Some(conn) = self.conn.take() {
                    self.host.closed(self.now, conn);
                }
            }
            Output::OpenSocket { socket, .. } => self.opened.push(socket),
            Output::Forward(Command::Send { bytes, .. }) => self.sent.push(bytes),
            Output::Forward(_)
            | Output::CloseSocket(_)
            | Output::Tun(_)
            | Output::Names(_)
            | Output::Persist(_)
            | Output::StoreEntries { .. }
            | Output::StoreSnapshot { .. }
            | Output::ForgetLog(_)
            | Output::Notice { .. }
            | Output::Reply { .. } => {}
        }
        Some(text)
    }

    fn due(&self) -> Option<Instant> {
        self.node.poll_timeout()
    }
}

#[test]
fn node_obeys() {
    let depths = ["Pong", "Invite {", "Install", "SetRelay", "StoreEntries", "SealControl", "Tun(", "TimedOut"];
    obeys("node", 1200, &depths, Whole::new);
}
