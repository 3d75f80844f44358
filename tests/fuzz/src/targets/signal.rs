//! The talk with a signaling server, from both ends and between servers, and sealed mail.

#![expect(clippy::wildcard_enum_match_arm, reason = "of outputs, a target looks at those that it promises about")]

mod mirror;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ginnel_membership::build::{Charter, Founded, found, invite_record};
use ginnel_membership::invite::Token;
use ginnel_membership::{Name, NetworkId, ServerKeys, SigningKey, TunnelKey};
use ginnel_signal_proto::client::{Input as ClientInput, Output as ClientOutput};
use ginnel_signal_proto::mailbox::{MAX_BODY, MAX_MAIL, MailError, MailOpener, MailSealer};
use ginnel_signal_proto::message::MAX_TEXT;
use ginnel_signal_proto::server::{
    Change, Config, ConnectionId, Input as ServerInput, Limits, Outcome, Output as ServerOutput, Stored, Ticket,
};
use ginnel_signal_proto::{
    Client, ClientMessage, Credentials, FoundingToken, Head, MAX_MESSAGE, MailRefusal, Refusal, Request, Server,
    ServerMessage,
};
use ginnel_time::{Instant, Tai64n};
use ginnel_tunnel::StaticSecret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use zeroize::Zeroizing;

use self::mirror::mirror;
use crate::feed::{Feed, Script, salt};
use crate::{Effort, Target};

/// What clients say.
pub(crate) const CLIENT_MESSAGE: Target = Target {
    name: "client_message",
    covers: "messages from clients to a signaling server",
    run: |bytes| {
        if let Ok(message) = ClientMessage::decode(bytes) {
            let again = message.encode().expect("what fits in a frame fits again");
            assert!(again.len() <= MAX_MESSAGE);
            assert_eq!(ClientMessage::decode(&again), Ok(message), "a message changes on its way");
        }
    },
    seeds: || {
        let messages = [
            ClientMessage::Found { genesis: vec![1; 200] },
            ClientMessage::Fetch { from: 300 },
            ClientMessage::Append { record: vec![2; 100] },
            ClientMessage::Mail { to: SigningKey::from_bytes(&[1; 32]).member_key(), bytes: vec![3; 90] },
            ClientMessage::Relay,
            ClientMessage::Ping,
        ];
        messages.iter().filter_map(|message| message.encode().ok()).collect()
    },
    longest: 2000,
    effort: Effort::Small,
};

/// What a server says.
pub(crate) const SERVER_MESSAGE: Target = Target {
    name: "server_message",
    covers: "messages from a signaling server to its clients",
    run: |bytes| {
        if let Ok(message) = ServerMessage::decode(bytes) {
            let again = message.encode().expect("what fits in a frame fits again");
            assert!(again.len() <= MAX_MESSAGE);
            assert_eq!(ServerMessage::decode(&again).as_ref(), Ok(&message), "a message changes on its way");
        }
    },
    seeds: || {
        let key = SigningKey::from_bytes(&[1; 32]).member_key();
        let text = || "why".to_owned();
        let messages = [
            ServerMessage::Entries { first: 2, entries: vec![vec![1; 40]; 3], head: Head { length: 5, hash: [6; 32] } },
            ServerMessage::Appended { sequence: 7 },
            ServerMessage::Refused { request: Request::Append, code: Refusal::InviteUsed, text: text() },
            ServerMessage::Refused { request: Request::Fetch, code: Refusal::Record(9), text: text() },
            ServerMessage::Mail { from: key, bytes: vec![3; 90] },
            ServerMessage::MailRefused { to: key, why: MailRefusal::Busy },
            ServerMessage::Pong,
        ];
        messages.iter().filter_map(|message| message.encode().ok()).collect()
    },
    longest: 2000,
    effort: Effort::Small,
};

/// A client whose server's bytes are damaged, cut and mixed with others.
pub(crate) const CLIENT: Target = Target {
    name: "signal_client",
    covers: "the signaling client behind its sealed channel",
    run: client,
    seeds: || {
        let talk = [1, 0, 1, 0, 1, 0, 2, 1, 1, 0, 2, 0, 1, 0, 1, 0, 2, 5, 1, 0];
        vec![
            Script::default().bytes(&talk).bytes(&talk).done(),
            Script::default().bytes(&talk).bytes(&[3, 3, 9, 1]).bytes(&talk).done(),
            Script::default().bytes(&[4]).chunk(&[0, 3, 1, 2, 3]).done(),
        ]
    },
    longest: 400,
    effort: Effort::Great,
};

/// A server with hostile clients: strangers, members that say anything, and streams cut anywhere.
pub(crate) const SERVER: Target = Target {
    name: "signal_server",
    covers: "the signaling server behind its sealed channels",
    run: serve,
    seeds: || {
        let found = [0, 0, 3, 0, 3, 0, 3, 0, 1, 0, 0, 3, 0, 4, 3, 0];
        let record = invite_record(
            &founded().network,
            &founded().admin,
            SigningKey::from_bytes(&[9; 32]).invite_key(),
            UNIX + 60,
            None,
        );
        vec![
            Script::default().bytes(&found).bytes(&[1, 0, 1, 0, 3, 0, 4, 3, 0, 1, 0, 5]).done(),
            Script::default().bytes(&found).bytes(&[1, 0, 2]).chunk(&record).bytes(&[3, 0, 4, 3, 0]).done(),
            Script::default().bytes(&found).bytes(&[0, 1, 3, 1, 6, 1, 3]).chunk(&[0; 40]).bytes(&[7, 200]).done(),
            Script::default().bytes(&found).bytes(&[1, 0, 3]).chunk(&[7; 90]).bytes(&[3, 0, 3, 0]).done(),
        ]
    },
    longest: 1200,
    effort: Effort::Great,
};

/// A mirror that catches up with its sequencer over a line that somebody changes.
pub(crate) const MIRROR: Target = Target {
    name: "signal_mirror",
    covers: "the talk between two signaling servers",
    run: mirror,
    seeds: || {
        let talk = [1, 1, 1, 1, 0, 60, 1, 1, 4, 20, 1, 1, 1, 1];
        vec![
            Script::default().bytes(&talk).bytes(&talk).done(),
            Script::default().bytes(&talk).bytes(&[3, 3, 9, 1]).bytes(&talk).done(),
            Script::default().bytes(&[1, 1, 2]).chunk(&[0; 40]).bytes(&[4, 255, 1, 1, 1]).bytes(&talk).done(),
        ]
    },
    longest: 300,
    effort: Effort::Great,
};

/// Mail, damaged and repeated.
pub(crate) const MAILBOX: Target = Target {
    name: "mailbox",
    covers: "mail sealed from node to node",
    run: mailbox,
    seeds: || {
        vec![
            Script::default().bytes(&[1]).chunk(b"body").bytes(&[0, 0, 1]).chunk(b"next").bytes(&[3, 5, 1]).done(),
            Script::default().bytes(&[1]).chunk(&[7; 300]).bytes(&[0, 7]).chunk(&[1; 130]).done(),
        ]
    },
    longest: 800,
    effort: Effort::Great,
};

const UNIX: u64 = 1_800_000_000;
const TOKEN: [u8; 16] = [7; 16];
const NOISE: [u8; 32] = [0x51; 32];

pub(super) fn sequencer() -> SigningKey {
    SigningKey::from_bytes(&[0x5e; 32])
}

pub(super) fn keys() -> ServerKeys {
    let noise = StaticSecret::from_bytes(NOISE).public().to_bytes();
    ServerKeys { signing: sequencer().sequencer_key().to_bytes(), noise }
}

pub(super) fn founded() -> Founded {
    let server = ginnel_membership::Server { addresses: vec!["203.0.113.1:4433".to_owned()], keys: keys() };
    let name = Name::new("home").expect("a name");
    let charter = Charter { name, sequencer: keys().sequencer(), servers: vec![server], ipv4_range: None, now: UNIX };
    found(&mut ChaCha20Rng::from_seed([4; 32]), charter).expect("the charter is sound")
}

fn config(sequencer: SigningKey) -> Config {
    Config { noise: NOISE.into(), sequencer, stun_ports: vec![3478], relay: None, limits: Limits::default() }
}

pub(super) fn new_server(now: Instant, seed: [u8; 32], logs: Vec<(NetworkId, Vec<Vec<u8>>)>) -> Server {
    let config = config(sequencer());
    let tokens = vec![(FoundingToken(Token::from_bytes(TOKEN)), None)];
    let logs = logs.into_iter().map(|(network, log)| (network, log.into_iter().map(Into::into).collect())).collect();
    Server::new(seed, config, Stored { logs, tokens, ..Stored::default() }, now, UNIX).expect("what is stored is sound")
}

fn new_client(seed: [u8; 32], founded: &Founded) -> Client {
    let credentials = Credentials::Founder { token: Token::from_bytes(TOKEN), key: founded.admin.clone() };
    Client::new(seed, keys(), founded.network, credentials)
}

fn message(feed: &mut Feed<'_>, founded: &Founded) -> ClientMessage {
    match feed.u8() % 6 {
        0 => ClientMessage::Found { genesis: founded.genesis.clone() },
        1 => ClientMessage::Fetch { from: feed.u8().into() },
        2 => ClientMessage::Append { record: feed.chunk().to_vec() },
        3 => ClientMessage::Mail { to: founded.admin.member_key(), bytes: feed.chunk().to_vec() },
        4 => ClientMessage::Relay,
        _ => ClientMessage::Ping,
    }
}

/// A server and the ends of its streams.
struct Hub {
    server: Server,
    now: Instant,
    /// Bytes on their way to each client.
    down: BTreeMap<ConnectionId, Vec<u8>>,
    stores: Vec<(Ticket, Change)>,
    written: usize,
}

impl Hub {
    fn new(seed: [u8; 32]) -> Self {
        let now = Instant::ZERO + Duration::from_secs(10);
        Self { server: new_server(now, seed, Vec::new()), now, down: BTreeMap::new(), stores: Vec::new(), written: 0 }
    }

    fn input(&mut self, input: ServerInput) {
        let _ = self.server.handle_input(self.now, input);
        let mut outputs = 0;
        while let Some(output) = self.server.poll_output() {
            outputs += 1;
            assert!(outputs < 10_000, "output without end");
            match output {
                ServerOutput::Write { conn, bytes } => {
                    self.written += bytes.len();
                    self.down.entry(conn).or_default().extend(bytes);
                }
                ServerOutput::Close { conn } => {
                    self.down.remove(&conn);
                }
                ServerOutput::Store { ticket, change } => self.stores.push((ticket, change)),
                _ => {}
            }
        }
        let status = self.server.status();
        assert!(status.networks <= 1 && status.connections <= 8);
    }

    fn open(&mut self, conn: ConnectionId) {
        let from = SocketAddr::from(([198, 51, 100, 1], 4000));
        self.down.entry(conn).or_default();
        self.input(ServerInput::Opened { conn, from });
    }

    fn store(&mut self, outcome: Outcome) {
        if !self.stores.is_empty() {
            let (ticket, _) = self.stores.remove(0);
            self.input(ServerInput::Stored { ticket, outcome });
        }
    }
}

fn client(data: &[u8]) {
    let mut feed = Feed::new(data);
    let (founded, conn) = (founded(), ConnectionId(1));
    let (mut hub, mut client) = (Hub::new(salt(data)), new_client(salt(&[data, &[1]].concat()), &founded));
    hub.open(conn);
    let _ = client.handle_input(hub.now, ClientInput::Opened);
    let (mut broken, mut ready) = (false, false);
    // Whether bytes on the way were changed, and whether they were before the last ones that the client got.
    let (mut tampered, mut long_ago) = (false, false);
    loop {
        while let Some(output) = client.poll_output() {
            assert!(!broken, "{output:?} after the end");
            match output {
                ClientOutput::Write(bytes) => hub.input(ServerInput::Received { conn, bytes }),
                ClientOutput::Ready => ready = true,
                ClientOutput::Message(message) => {
                    assert!(ready, "{message:?} before the server proved itself");
                    assert!(!long_ago, "{message:?} out of a damaged stream");
                    if let ServerMessage::Refused { text, .. } = message {
                        assert!(text.len() <= MAX_TEXT && !text.chars().any(char::is_control), "{text:?}");
                    }
                }
                ClientOutput::Broken { .. } => broken = true,
            }
        }
        if feed.is_empty() || broken {
            return;
        }
        long_ago = tampered;
        match feed.u8() % 6 {
            kind @ (0 | 1 | 3) => {
                let waiting = hub.down.entry(conn).or_default();
                let length = if kind == 0 { waiting.len().min(feed.u8().into()) } else { waiting.len() };
                let rest = waiting.split_off(length);
                let bytes = std::mem::replace(waiting, rest);
                let given = if kind == 3 { feed.spoil(bytes.clone()) } else { bytes.clone() };
                tampered |= given != bytes;
                let _ = client.handle_input(hub.now, ClientInput::Received(given));
            }
            2 => {
                let said = message(&mut feed, &founded);
                let _ = client.handle_input(hub.now, ClientInput::Send(said));
                hub.store(Outcome::Durable);
            }
            4 => {
                let bytes = feed.chunk().to_vec();
                tampered |= !bytes.is_empty();
                let _ = client.handle_input(hub.now, ClientInput::Received(bytes));
            }
            _ => {
                hub.now += Duration::from_millis(u64::from(feed.u8()) * 100);
                client.handle_timeout(hub.now);
            }
        }
    }
}

fn serve(data: &[u8]) {
    let mut feed = Feed::new(data);
    let founded = founded();
    let mut hub = Hub::new([3; 32]);
    let mut clients: BTreeMap<ConnectionId, (Client, Vec<u8>)> = BTreeMap::new();
    let mut next = 0;
    while !feed.is_empty() {
        let kind = feed.u8() % 8;
        let who = clients.keys().nth(feed.below(clients.len().max(1))).copied();
        match (kind, who) {
            (0, _) if clients.len() < 6 => {
                next += 1;
                let conn = ConnectionId(next);
                hub.open(conn);
                let mut client = new_client([next as u8; 32], &founded);
                let _ = client.handle_input(hub.now, ClientInput::Opened);
                clients.insert(conn, (client, Vec::new()));
            }
            (1 | 2, Some(conn)) => {
                let said = message(&mut feed, &founded);
                if let Some((client, _)) = clients.get_mut(&conn) {
                    let _ = client.handle_input(hub.now, ClientInput::Send(said));
                }
            }
            (3, Some(conn)) => {
                if let Some((_, up)) = clients.get_mut(&conn) {
                    let bytes = std::mem::take(up);
                    hub.input(ServerInput::Received { conn, bytes });
                }
            }
            (4, _) => hub.store(if feed.u8() < 240 { Outcome::Durable } else { Outcome::Failed }),
            (5, Some(conn)) => {
                hub.input(ServerInput::Closed { conn });
                clients.remove(&conn);
            }
            (6, Some(conn)) => {
                if let Some((_, up)) = clients.get_mut(&conn) {
                    let bytes = feed.spoil(std::mem::take(up));
                    hub.input(ServerInput::Received { conn, bytes });
                }
            }
            _ => {
                hub.now += Duration::from_millis(u64::from(feed.u8()) * 100);
                hub.server.handle_timeout(hub.now);
                hub.input(ServerInput::Wall(UNIX + hub.now.as_nanos() / 1_000_000_000));
            }
        }
        exchange(&mut hub, &mut clients);
    }
}

/// Gives the clients what they were sent, and collects what they say to it.
fn exchange(hub: &mut Hub, clients: &mut BTreeMap<ConnectionId, (Client, Vec<u8>)>) {
    for (conn, (client, up)) in clients {
        let bytes = hub.down.get_mut(conn).map(std::mem::take).unwrap_or_default();
        if !bytes.is_empty() {
            let length = bytes.len();
            let _ = client.handle_input(hub.now, ClientInput::Received(bytes));
            let _ = hub.server.handle_input(hub.now, ServerInput::Flushed { conn: *conn, bytes: length });
        }
        while let Some(output) = client.poll_output() {
            if let ClientOutput::Write(bytes) = output {
                up.extend(bytes);
            }
        }
    }
}

fn mailbox(data: &[u8]) {
    let mut feed = Feed::new(data);
    let network = NetworkId::from_bytes([3; 32]);
    let secret = |seed: u8| Zeroizing::new(*StaticSecret::from_bytes([seed; 32]).to_bytes());
    let public = |seed: u8| TunnelKey::from_bytes(StaticSecret::from_bytes([seed; 32]).public().to_bytes());
    let mut sealer = MailSealer::new(salt(data), secret(1), &network);
    let mut opener = MailOpener::new([2; 32], secret(2), &network);
    let mut sent: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut newest = None;
    for _ in 0..12 {
        if feed.is_empty() {
            return;
        }
        if feed.flag() {
            let body = feed.chunk().to_vec();
            let stamp = Tai64n::from_unix(UNIX + u64::from(feed.u8()), 0);
            match sealer.seal(stamp, &public(2), &body) {
                Ok(mail) => {
                    assert!(mail.len() <= MAX_MAIL);
                    sent.push((mail, body));
                }
                Err(error) => assert!(body.len() > MAX_BODY, "{error}"),
            }
        }
        let Some(place) = sent.len().checked_sub(1 + feed.below(3)) else { continue };
        let Some((mail, body)) = sent.get(place).cloned() else { continue };
        let arrived = feed.spoil(mail.clone());
        match opener.open(&arrived, &mut |sender| *sender == public(1)) {
            Ok(opened) => {
                assert_eq!(
                    (&arrived, &opened.body, opened.sender),
                    (&mail, &body, public(1)),
                    "forged mail was opened"
                );
                assert!(newest.is_none_or(|newest| opened.counter > newest), "mail was opened twice");
                newest = Some(opened.counter);
            }
            Err(MailError::Replayed) => assert!(newest.is_some()),
            Err(error) => assert!(arrived != mail, "true mail was refused: {error}"),
        }
        assert!(opener.open(&mail, &mut |_| false).is_err(), "mail from a stranger was opened");
    }
}
