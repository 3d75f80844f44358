//! The signaling client and the signaling server, each with the other as its surroundings.

use std::net::SocketAddr;

use ginnel_membership::build::{Charter, Founded, found, invite_record};
use ginnel_membership::invite::Token;
use ginnel_membership::{Name, ServerKeys, SigningKey};
use ginnel_signal_proto::client::{Input as ClientInput, Output as ClientOutput};
use ginnel_signal_proto::server::{
    Change, Config, ConnectionId, Input as ServerInput, Limits, LinkId, Outcome, Output as ServerOutput, Stored, Ticket,
};
use ginnel_signal_proto::{Client, ClientMessage, Credentials, FoundingToken, Server};
use ginnel_time::Instant;
use ginnel_tunnel::StaticSecret;
use rand_core::SeedableRng as _;

use super::{Subject, garbage, index, obeys, spoil};
use crate::dice::Dice;

const UNIX: u64 = 1_800_000_000;
const TOKEN: [u8; 16] = [7; 16];
const NOISE: [u8; 32] = [0x51; 32];

fn sequencer() -> SigningKey {
    SigningKey::from_bytes(&[0x5e; 32])
}

fn keys() -> ServerKeys {
    let noise = StaticSecret::from_bytes(NOISE).public().to_bytes();
    ServerKeys { signing: sequencer().sequencer_key().to_bytes(), noise }
}

fn founded(dice: &mut Dice) -> Founded {
    let server = ginnel_membership::Server { addresses: vec!["203.0.113.1:4433".to_owned()], keys: keys() };
    let charter = Charter {
        name: Name::new("home").expect("a name"),
        sequencer: keys().sequencer(),
        servers: vec![server],
        ipv4_range: None,
        now: UNIX,
    };
    found(&mut rand_chacha::ChaCha20Rng::from_seed(dice.seed()), charter).expect("the charter is sound")
}

fn server(now: Instant, dice: &mut Dice) -> Server {
    let config = Config {
        noise: NOISE.into(),
        sequencer: sequencer(),
        stun_ports: vec![3478],
        relay: None,
        limits: Limits::default(),
    };
    let tokens = vec![(FoundingToken(Token::from_bytes(TOKEN)), None)];
    Server::new(dice.seed(), config, Stored { tokens, ..Stored::default() }, now, UNIX).expect("nothing is stored")
}

fn client(dice: &mut Dice, founded: &Founded) -> Client {
    let credentials = Credentials::Founder { token: Token::from_bytes(TOKEN), key: founded.admin.clone() };
    Client::new(dice.seed(), keys(), founded.network, credentials)
}

/// Something to say.
fn message(dice: &mut Dice, founded: &Founded) -> ClientMessage {
    match dice.below(9) {
        0 => ClientMessage::Found { genesis: founded.genesis.clone() },
        1 => ClientMessage::Fetch { from: dice.below(4) },
        2 => {
            let invite = SigningKey::from_bytes(&dice.seed());
            let expires = UNIX + dice.below(9999);
            let record = invite_record(&founded.network, &founded.admin, invite.invite_key(), expires, None);
            ClientMessage::Append { record: spoil(dice, record) }
        }
        3 => ClientMessage::Mail { to: founded.admin.member_key(), bytes: garbage(dice) },
        4 => ClientMessage::Relay,
        5 => ClientMessage::Refill { first: dice.below(4), entries: vec![garbage(dice)] },
        6 => ClientMessage::FetchSnapshot { offset: dice.below(100_000) },
        7 => ClientMessage::Forward { number: dice.below(4), record: garbage(dice) },
        _ => ClientMessage::Ping,
    }
}

struct AsClient {
    client: Client,
    server: Server,
    founded: Founded,
    now: Instant,
    up: Vec<Vec<u8>>,
    down: Vec<u8>,
    /// The connection, and whether it is over.
    conn: u64,
    over: bool,
}

impl AsClient {
    /// Begins anew with another connection.
    fn again(&mut self, now: Instant, dice: &mut Dice) {
        let _ = self.server.handle_input(self.now, ServerInput::Closed { conn: ConnectionId(self.conn) });
        self.conn += 1;
        self.over = false;
        self.up.clear();
        self.down.clear();
        let from = SocketAddr::from(([198, 51, 100, 1], 4000));
        let _ = self.server.handle_input(self.now, ServerInput::Opened { conn: ConnectionId(self.conn), from });
        self.client = client(dice, &self.founded);
        self.client.handle_timeout(self.now.max(now));
        let _ = self.client.handle_input(now, ClientInput::Opened);
    }

    fn serve(&mut self) {
        let conn = ConnectionId(self.conn);
        for bytes in std::mem::take(&mut self.up) {
            let _ = self.server.handle_input(self.now, ServerInput::Received { conn, bytes });
        }
        while let Some(output) = self.server.poll_output() {
            match output {
                ServerOutput::Write { bytes, .. } => {
                    let length = bytes.len();
                    self.down.extend(bytes);
                    let _ = self.server.handle_input(self.now, ServerInput::Flushed { conn, bytes: length });
                }
                ServerOutput::Store { ticket, .. } => {
                    let _ =
                        self.server.handle_input(self.now, ServerInput::Stored { ticket, outcome: Outcome::Durable });
                }
                ServerOutput::Close { .. }
                | ServerOutput::Witness { .. }
                | ServerOutput::Dial { .. }
                | ServerOutput::LinkWrite { .. }
                | ServerOutput::LinkClose { .. } => {}
            }
        }
    }
}

impl Subject for AsClient {
    fn input(&mut self, now: Instant, dice: &mut Dice) {
        self.now = self.now.max(now);
        if self.over {
            return self.again(now, dice);
        }
        self.serve();
        let input = match dice.below(200) {
            0 => ClientInput::Closed,
            1 => ClientInput::Received(garbage(dice)),
            2..30 => ClientInput::Opened,
            30..80 => ClientInput::Send(message(dice, &self.founded)),
            _ if self.down.is_empty() => ClientInput::Opened,
            _ => {
                let length = if dice.chance(500) { self.down.len() } else { 1 + index(dice, self.down.len()) };
                let rest = self.down.split_off(length);
                ClientInput::Received(std::mem::replace(&mut self.down, rest))
            }
        };
        let _ = self.client.handle_input(now, input);
    }

    fn timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.client.handle_timeout(now);
    }

    fn output(&mut self) -> Option<String> {
        let output = self.client.poll_output()?;
        match &output {
            ClientOutput::Write(bytes) => self.up.push(bytes.clone()),
            ClientOutput::Broken { .. } => self.over = true,
            ClientOutput::Ready | ClientOutput::Message(_) => {}
        }
        Some(format!("{output:?}"))
    }

    fn due(&self) -> Option<Instant> {
        self.client.poll_timeout()
    }
}

struct AsServer {
    server: Server,
    founded: Founded,
    lines: Vec<(ConnectionId, Client)>,
    /// What clients wrote and the server has not seen.
    up: Vec<(ConnectionId, Vec<u8>)>,
    stores: Vec<(Ticket, Change)>,
    /// Links to fellow servers that the server asked for.
    dialled: Vec<LinkId>,
    next: u64,
}

impl AsServer {
    fn client_writes(&mut self) {
        for (conn, client) in &mut self.lines {
            while let Some(output) = client.poll_output() {
                if let ClientOutput::Write(bytes) = output {
                    self.up.push((*conn, bytes));
                }
            }
        }
    }

    fn open(&mut self, now: Instant, dice: &mut Dice) -> ServerInput {
        self.next += 1;
        let conn = ConnectionId(self.next);
        let mut client = client(dice, &self.founded);
        let _ = client.handle_input(now, ClientInput::Opened);
        self.lines.push((conn, client));
        self.client_writes();
        ServerInput::Opened { conn, from: SocketAddr::from(([198, 51, 100, dice.below(3) as u8], 4000)) }
    }
}

impl Subject for AsServer {
    fn input(&mut self, now: Instant, dice: &mut Dice) {
        let some = ConnectionId(1 + dice.below(self.next.max(1)));
        let input = match dice.below(40) {
            0 | 1 => self.open(now, dice),
            2 => ServerInput::Closed { conn: some },
            3 => ServerInput::Received { conn: some, bytes: garbage(dice) },
            4 => ServerInput::Wall(UNIX + dice.below(1000)),
            5 => ServerInput::Token(FoundingToken(Token::from_bytes([dice.below(256) as u8; 16]))),
            6 => ServerInput::Flushed { conn: some, bytes: index(dice, 300) },
            7..12 if !self.stores.is_empty() => {
                let (ticket, _) = self.stores.remove(0);
                let outcome = if dice.chance(100) { Outcome::Failed } else { Outcome::Durable };
                ServerInput::Stored { ticket, outcome }
            }
            22..26 if !self.dialled.is_empty() => {
                let link = self.dialled[index(dice, self.dialled.len())];
                match dice.below(4) {
                    0 => ServerInput::LinkClosed { link, why: "gone".to_owned() },
                    1 => ServerInput::LinkReceived { link, bytes: garbage(dice) },
                    _ => ServerInput::LinkOpened { link },
                }
            }
            12..22 if !self.lines.is_empty() => {
                let place = index(dice, self.lines.len());
                let said = message(dice, &self.founded);
                let _ = self.lines[place].1.handle_input(now, ClientInput::Send(said));
                self.client_writes();
                return self.timeout(now);
            }
            _ if self.up.is_empty() => self.open(now, dice),
            _ => {
                let (conn, bytes) = self.up.remove(0);
                let bytes = if dice.chance(20) { spoil(dice, bytes) } else { bytes };
                ServerInput::Received { conn, bytes }
            }
        };
        let _ = self.server.handle_input(now, input);
    }

    fn timeout(&mut self, now: Instant) {
        self.server.handle_timeout(now);
    }

    fn output(&mut self) -> Option<String> {
        let output = self.server.poll_output()?;
        let text = format!("{output:?}");
        match output {
            ServerOutput::Write { conn, bytes } => {
                if let Some((_, client)) = self.lines.iter_mut().find(|(id, _)| *id == conn) {
                    // The client's own clock does not matter here.
                    let _ = client.handle_input(Instant::ZERO, ClientInput::Received(bytes));
                }
            }
            ServerOutput::Close { conn } => self.lines.retain(|(id, _)| *id != conn),
            ServerOutput::Store { ticket, change } => self.stores.push((ticket, change)),
            ServerOutput::Dial { link, .. } => self.dialled.push(link),
            ServerOutput::Witness { .. } | ServerOutput::LinkWrite { .. } | ServerOutput::LinkClose { .. } => {}
        }
        self.client_writes();
        Some(text)
    }

    fn due(&self) -> Option<Instant> {
        self.server.poll_timeout()
    }
}

#[test]
fn signaling_client_obeys() {
    obeys("signaling client", 400, &["Ready", "Entries", "Appended", "Pong", "Refused", "Broken"], |now, dice| {
        let founded = founded(dice);
        let (client, server) = (client(dice, &founded), server(now, dice));
        AsClient { client, server, founded, now, up: Vec::new(), down: Vec::new(), conn: 0, over: true }
    });
}

#[test]
fn signaling_server_obeys() {
    obeys("signaling server", 800, &["Write", "Close", "Found", "Append"], |now, dice| {
        let (lines, up, stores) = (Vec::new(), Vec::new(), Vec::new());
        AsServer { server: server(now, dice), founded: founded(dice), lines, up, stores, dialled: Vec::new(), next: 0 }
    });
}
