//! A server, its disk and its clients, driven in virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use ginnel_membership::build::{self, Charter, Founded};
use ginnel_membership::invite::Token;
use ginnel_membership::{Capabilities, Entry, NetworkId, ServerKeys, SigningKey, State, TunnelKey};
use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::client::{Broken, Client, Credentials};
use crate::message::{ClientMessage, FoundingToken, RelayCredentials, ServerMessage, Standing};
use crate::server::{Change, Config, ConnectionId, Input, Limits, Outcome, Output, Server, Stored, Ticket};
use crate::{client, server};

pub(super) const UNIX: u64 = 1_800_000_000;
pub(super) const TOKEN: [u8; 16] = [0x70; 16];

pub(super) struct World {
    pub(super) server: Server,
    pub(super) now: Instant,
    pub(super) disk: Disk,
    pub(super) peers: BTreeMap<ConnectionId, Peer>,
    next: u64,
}

/// Where stores go; a held disk answers nothing until it is released.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) held: Option<VecDeque<(Ticket, Change)>>,
    pub(super) fails: bool,
    /// How many changes it has not taken.
    pub(super) failures: usize,
    pub(super) stored: Stored,
}

pub(super) struct Peer {
    client: Client,
    pub(super) messages: VecDeque<ServerMessage>,
    pub(super) broken: Option<Broken>,
    /// Whether what the server writes is reported as flushed.
    pub(super) reads: bool,
    pub(super) received: usize,
}

pub(super) fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

pub(super) fn keys() -> ServerKeys {
    config(limits()).keys()
}

/// The default limits without a pause after the start.
pub(super) fn limits() -> Limits {
    Limits { settle: Duration::ZERO, ..Limits::default() }
}

/// Limits under which a server that starts waits for what it may have lost.
pub(super) fn pausing() -> Limits {
    Limits { settle: Limits::default().settle, ..limits() }
}

pub(super) fn charter(seed: u64) -> Founded {
    let server = ginnel_membership::Server { addresses: vec!["203.0.113.1:4433".to_owned()], keys: keys() };
    let charter = Charter {
        name: ginnel_membership::Name::new("home").unwrap(),
        sequencer: keys().sequencer(),
        servers: vec![server],
        ipv4_range: None,
        now: UNIX,
    };
    build::found(&mut ChaCha20Rng::seed_from_u64(seed), charter).unwrap()
}

pub(super) fn member_record(network: &NetworkId, invite: &SigningKey, member: u8) -> Vec<u8> {
    let tunnel_key = TunnelKey::from_bytes(PublicKey::from(&StaticSecret::from([member; 32])).to_bytes());
    let name = ginnel_membership::Name::new(&format!("node{member}")).unwrap();
    build::member_record(network, invite, &key(member), tunnel_key, name, Capabilities::BOTH_SUITES)
}

pub(super) fn invite(founded: &Founded, n: u8) -> Vec<u8> {
    let expires = UNIX + 360_000;
    build::invite_record(&founded.network, &founded.admin, key(n).invite_key(), expires, None)
}

pub(super) fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 5000))
}

impl Disk {
    pub(super) fn put(&mut self, change: &Change) -> Outcome {
        if self.fails {
            self.failures += 1;
            return Outcome::Failed;
        }
        match change.clone() {
            Change::Found { network, token, entry } => {
                self.stored.logs.push((network, vec![entry]));
                for (known, usage) in &mut self.stored.tokens {
                    if *known == token {
                        *usage = Some(network);
                    }
                }
            }
            Change::Adopt { network, token, genesis } => {
                self.stored.adopted.push((network, genesis));
                for (known, usage) in &mut self.stored.tokens {
                    if *known == token {
                        *usage = Some(network);
                    }
                }
            }
            Change::Spend { network, token } => {
                for (known, usage) in &mut self.stored.tokens {
                    if *known == token {
                        *usage = Some(network);
                    }
                }
            }
            Change::Append { network, sequence, entry } => {
                if sequence == 0 {
                    self.stored.logs.push((network, Vec::new()));
                }
                let log = &mut self.stored.logs.iter_mut().find(|(id, _)| *id == network).unwrap().1;
                if log.len() as u64 != sequence {
                    return Outcome::Failed;
                }
                log.push(entry);
            }
            Change::Mend { network, sequence, entry } => {
                self.stored.damaged.remove(&(network, sequence));
                let log = &mut self.stored.logs.iter_mut().find(|(id, _)| *id == network).unwrap().1;
                log[usize::try_from(sequence).unwrap()] = entry;
            }
            Change::Cut { network, length } => {
                self.stored.damaged.retain(|(id, sequence)| *id != network || *sequence < length);
                let log = &mut self.stored.logs.iter_mut().find(|(id, _)| *id == network).unwrap().1;
                log.truncate(usize::try_from(length).unwrap());
            }
        }
        Outcome::Durable
    }
}

pub(super) fn config(limits: Limits) -> Config {
    config_of(0, limits)
}

/// What server number `n` is set up with.
pub(super) fn config_of(n: u8, limits: Limits) -> Config {
    Config {
        noise: Zeroizing::new([0x51 + n; 32]),
        sequencer: key(0x5e + n),
        stun_ports: vec![3478],
        relay: Some(Box::new(|unix, key| RelayCredentials {
            username: format!("{}:{key:?}", unix + 3600),
            password: "secret".to_owned(),
            lifetime_seconds: 3600,
            addresses: vec![SocketAddr::from(([203, 0, 113, 1], 3478))],
        })),
        limits,
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(
            limits(),
            Stored { tokens: vec![(FoundingToken(Token::from_bytes(TOKEN)), None)], ..Stored::default() },
        )
    }

    pub(super) fn with(limits: Limits, stored: Stored) -> Self {
        let now = Instant::ZERO + Duration::from_secs(1000);
        let server = Server::new([1; 32], config(limits), stored.clone(), now, UNIX).unwrap();
        Self { server, now, disk: Disk { stored, ..Disk::default() }, peers: BTreeMap::new(), next: 0 }
    }

    /// A world with a founded network whose members are nodes 1 to `members`, nobody connected.
    pub(super) fn founded(members: u8) -> (Self, Founded) {
        Self::founded_with(limits(), members)
    }

    pub(super) fn founded_with(limits: Limits, members: u8) -> (Self, Founded) {
        let mut world = Self::new();
        let founded = charter(1);
        let conn = world.connect(founded.network, founder(&founded));
        world.send(conn, ClientMessage::Found { genesis: founded.genesis.clone() });
        assert_eq!(world.take(conn, 2)[1], ServerMessage::Appended { sequence: 0 });
        for member in 1..=members {
            world.enrol(conn, &founded, member);
        }
        let stored = world.disk.stored.clone();
        (Self::with(limits, stored), founded)
    }

    fn enrol(&mut self, conn: ConnectionId, founded: &Founded, member: u8) {
        let invite = key(100 + member);
        let record = build::invite_record(&founded.network, &founded.admin, invite.invite_key(), UNIX + 3600, None);
        self.send(conn, ClientMessage::Append { record });
        self.send(conn, ClientMessage::Append { record: member_record(&founded.network, &invite, member) });
        self.advance(Duration::from_secs(2));
        let messages = self.peers.get_mut(&conn).unwrap().messages.drain(..);
        assert_eq!(messages.filter(|message| matches!(message, ServerMessage::Appended { .. })).count(), 2);
    }

    pub(super) fn connect(&mut self, network: NetworkId, credentials: Credentials) -> ConnectionId {
        self.connect_from(address(1), keys(), network, credentials)
    }

    pub(super) fn member(&mut self, network: NetworkId, n: u8) -> ConnectionId {
        let conn = self.connect(network, Credentials::Member { key: key(n) });
        assert_eq!(self.welcome(conn), Standing::Member);
        conn
    }

    pub(super) fn connect_from(
        &mut self,
        from: SocketAddr,
        keys: ServerKeys,
        network: NetworkId,
        credentials: Credentials,
    ) -> ConnectionId {
        self.next += 1;
        let conn = ConnectionId(self.next);
        let mut seed = [2; 32];
        seed[..8].copy_from_slice(&self.next.to_be_bytes());
        let mut client = Client::new(seed, keys, network, credentials);
        client.handle_input(self.now, client::Input::Opened).unwrap();
        let peer = Peer { client, messages: VecDeque::new(), broken: None, reads: true, received: 0 };
        self.peers.insert(conn, peer);
        let _ = self.server.handle_input(self.now, Input::Opened { conn, from });
        self.run();
        conn
    }

    pub(super) fn send(&mut self, conn: ConnectionId, message: ClientMessage) {
        self.try_send(conn, message).unwrap();
    }

    pub(super) fn try_send(&mut self, conn: ConnectionId, message: ClientMessage) -> Result<(), client::Discard> {
        let sent = self.peers.get_mut(&conn).unwrap().client.handle_input(self.now, client::Input::Send(message));
        self.run();
        sent
    }

    /// Ends a connection from the client's side.
    pub(super) fn hang_up(&mut self, conn: ConnectionId) {
        self.peers.remove(&conn);
        self.server.handle_input(self.now, Input::Closed { conn }).unwrap();
        self.run();
    }

    /// Takes the `n` messages that a client has received since the last call.
    pub(super) fn take(&mut self, conn: ConnectionId, n: usize) -> Vec<ServerMessage> {
        let peer = self.peers.get_mut(&conn).unwrap();
        let messages: Vec<_> = peer.messages.drain(..).collect();
        assert_eq!(messages.len(), n, "{messages:?}, broken: {:?}", peer.broken);
        messages
    }

    pub(super) fn welcome(&mut self, conn: ConnectionId) -> Standing {
        let first = self.peers.get_mut(&conn).unwrap().messages.pop_front();
        let Some(ServerMessage::Welcome(welcome)) = first else {
            panic!("no welcome but {first:?}, broken: {:?}", self.peers[&conn].broken)
        };
        welcome.standing
    }

    pub(super) fn broken(&self, conn: ConnectionId) -> Option<&Broken> {
        self.peers[&conn].broken.as_ref()
    }

    /// The refusal with which a connection ended.
    pub(super) fn refusal(&self, conn: ConnectionId) -> crate::Refusal {
        match self.broken(conn) {
            Some(Broken::Refused { code, .. }) => *code,
            other => panic!("not refused but {other:?}"),
        }
    }

    /// Lets time pass, with every deadline on its way.
    pub(super) fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let deadlines = self.peers.values().filter_map(|peer| peer.client.poll_timeout());
            let next = deadlines.chain(self.server.poll_timeout()).min().filter(|at| *at <= end);
            let Some(at) = next else { break };
            self.now = self.now.max(at);
            self.server.handle_timeout(self.now);
            for peer in self.peers.values_mut() {
                peer.client.handle_timeout(self.now);
            }
            self.run();
            let due = self.server.poll_timeout();
            assert!(due.is_none_or(|due| due > self.now), "firing a deadline moves it");
        }
        self.now = end;
    }

    /// Lets a held disk answer everything, well or badly.
    pub(super) fn release(&mut self) {
        for (ticket, change) in self.disk.held.take().into_iter().flatten() {
            let outcome = self.disk.put(&change);
            let _ = self.server.handle_input(self.now, Input::Stored { ticket, outcome });
        }
        self.run();
    }

    /// The encoded entries of the first network.
    pub(super) fn log(&self) -> Vec<Vec<u8>> {
        self.disk.stored.logs[0].1.iter().map(|entry| entry.bytes.clone()).collect()
    }

    /// Replays the stored log as a node does.
    pub(super) fn replay(&self, network: NetworkId) -> State {
        let mut state = State::new(network);
        for (_, log) in self.disk.stored.logs.iter().filter(|(id, _)| *id == network) {
            for entry in log {
                state.apply(&Entry::decode(&entry.bytes).unwrap()).unwrap();
            }
        }
        state
    }

    pub(super) fn run(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(output) = self.server.poll_output() {
                quiet = false;
                self.take_output(output);
            }
            let conns: Vec<_> = self.peers.keys().copied().collect();
            for conn in conns {
                while let Some(output) = self.peers.get_mut(&conn).and_then(|peer| peer.client.poll_output()) {
                    quiet = false;
                    self.take_client_output(conn, output);
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn take_client_output(&mut self, conn: ConnectionId, output: client::Output) {
        match output {
            client::Output::Write(bytes) => {
                let _ = self.server.handle_input(self.now, Input::Received { conn, bytes });
            }
            client::Output::Message(message) => self.peers.get_mut(&conn).unwrap().messages.push_back(message),
            client::Output::Broken { reason } => {
                self.peers.get_mut(&conn).unwrap().broken = Some(reason);
                self.server.handle_input(self.now, Input::Closed { conn }).unwrap();
            }
            client::Output::Ready => {}
        }
    }

    fn take_output(&mut self, output: server::Output) {
        match output {
            Output::Write { conn, bytes } => {
                let Some(peer) = self.peers.get_mut(&conn) else { return };
                let (reads, length) = (peer.reads, bytes.len());
                peer.received += length;
                let _ = peer.client.handle_input(self.now, client::Input::Received(bytes));
                if reads {
                    let _ = self.server.handle_input(self.now, Input::Flushed { conn, bytes: length });
                }
            }
            Output::Close { conn } => {
                if let Some(peer) = self.peers.get_mut(&conn) {
                    let _ = peer.client.handle_input(self.now, client::Input::Closed);
                }
            }
            Output::Store { ticket, change } => match &mut self.disk.held {
                Some(held) => held.push_back((ticket, change)),
                None => {
                    let outcome = self.disk.put(&change);
                    self.server.handle_input(self.now, Input::Stored { ticket, outcome }).unwrap();
                }
            },
            Output::Witness { .. } => {}
            Output::Dial { .. } | Output::LinkWrite { .. } | Output::LinkClose { .. } => {
                panic!("{output:?}: one server")
            }
        }
    }
}

pub(super) fn founder(founded: &Founded) -> Credentials {
    Credentials::Founder { token: Token::from_bytes(TOKEN), key: founded.admin.clone() }
}
