//! One signaling server: the real machine, its disk, and what may befall either.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_membership::invite::Token;
use ginnel_membership::{Entry, Founding, NetworkId, Placed, Sequencer, ServerKeys, SigningKey, Trust};
use ginnel_signal_proto::server::{
    Change, Config, ConnectionId, Input, Limits, LinkId, Outcome, Output, Stored, StoredEntry, Ticket,
};
use ginnel_signal_proto::{FoundingToken, Head, RelayCredentials, Server as Signal};
use ginnel_time::Instant;
use ginnel_tunnel::StaticSecret;
use ginnel_turn::Credentials;

use crate::dice::Dice;
use crate::machine::{Company, Manners};
use crate::station;

/// What the server wants done.
pub(crate) enum Effect {
    /// Bytes for a client's stream.
    Write(ConnectionId, Vec<u8>),
    /// The end of a client's stream.
    Close(ConnectionId),
    /// A store that ends after the disk's time.
    Store(Ticket, Change),
    /// A stream to a fellow server.
    Dial(LinkId, Vec<String>),
    /// Bytes for a fellow server.
    LinkWrite(LinkId, Vec<u8>),
    /// The end of a stream to a fellow server.
    LinkClose(LinkId),
    /// A machine broke the contract.
    Broken(String),
}

/// What a server says about relays.
#[derive(Clone, Debug)]
pub(crate) struct Relays {
    pub(crate) secret: [u8; 32],
    pub(crate) addresses: Vec<SocketAddr>,
    /// For how long credentials are good.
    pub(crate) lifetime: Duration,
}

/// Whether a disk takes what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Free,
    Full,
}

/// The server and all that a restart of it leaves: its disk, its keys, and for a moment what its host's memory holds.
pub(crate) struct Server {
    number: usize,
    signal: Option<Signal>,
    keys: Keys,
    relays: Relays,
    disk: Stored,
    /// The ends of its logs, as it last had its host remember them beside the disk.
    witnessed: BTreeMap<NetworkId, Head>,
    /// When it last ran.
    ran: Instant,
    pub(crate) room: Room,
    connections: BTreeSet<ConnectionId>,
    /// Counts restarts, so that what is under way from before finds nobody.
    pub(crate) epoch: u32,
    /// How far its wall clock is ahead, in seconds.
    ahead: u64,
    /// The address that it says everybody comes from, when it lies.
    lie: Option<IpAddr>,
    due: Option<Instant>,
    effects: Vec<Effect>,
}

struct Keys {
    noise: [u8; 32],
    sequencer: SigningKey,
    token: [u8; 16],
}

impl Server {
    pub(crate) fn new(now: Instant, number: usize, relays: Relays, dice: &mut Dice) -> Self {
        let seed = dice.seed();
        let token = seed.first_chunk().copied().expect("a seed is longer than a token");
        let keys = Keys { noise: dice.seed(), sequencer: SigningKey::from_bytes(&dice.seed()), token };
        let disk = Stored { tokens: vec![(FoundingToken(Token::from_bytes(token)), None)], ..Stored::default() };
        let mut server = Self {
            number,
            signal: None,
            keys,
            relays,
            disk,
            witnessed: BTreeMap::new(),
            ran: now,
            room: Room::Free,
            connections: BTreeSet::new(),
            epoch: 0,
            ahead: 0,
            lie: None,
            due: None,
            effects: Vec::new(),
        };
        server.start(now, dice);
        server
    }

    pub(crate) fn server_keys(&self) -> ServerKeys {
        let noise = StaticSecret::from_bytes(self.keys.noise).public().to_bytes();
        ServerKeys { signing: self.keys.sequencer.sequencer_key().to_bytes(), noise }
    }

    /// What `ginnel-signal` prints at its first start.
    pub(crate) fn founding(&self) -> String {
        let server = ginnel_membership::Server { addresses: vec![self.name()], keys: self.server_keys() };
        let founding = Founding::new(server, Token::from_bytes(self.keys.token)).expect("one address fits");
        founding.to_string()
    }

    /// What `ginnel-signal` prints when it is asked for a fresh founding string.
    pub(crate) fn fresh_founding(&mut self, now: Instant, dice: &mut Dice) -> String {
        self.keys.token = dice.seed().first_chunk().copied().expect("a seed is longer than a token");
        let token = || FoundingToken(Token::from_bytes(self.keys.token));
        self.disk.tokens.push((token(), None));
        let input = Input::Token(token());
        self.signal(now, input);
        self.founding()
    }

    /// The address that members know it by.
    pub(crate) fn name(&self) -> String {
        SocketAddr::new(self.address(), STREAM_PORT).to_string()
    }

    pub(crate) fn address(&self) -> IpAddr {
        station::address(self.number)
    }

    /// Ends the process; tells the streams that break. What was not yet written is lost.
    pub(crate) fn stop(&mut self, now: Instant) -> Vec<ConnectionId> {
        if self.signal.take().is_some() {
            self.ran = now;
        }
        self.epoch += 1;
        self.due = None;
        self.effects.clear();
        std::mem::take(&mut self.connections).into_iter().collect()
    }

    /// Starts the process from its disk, and from what its host remembers of a process that ran until a moment ago.
    pub(crate) fn start(&mut self, now: Instant, dice: &mut Dice) {
        let unix = unix(now) + self.ahead;
        if now.saturating_duration_since(self.ran) > REMEMBERED {
            self.witnessed.clear();
        }
        let stored = Stored { witnessed: self.witnessed.clone(), ..self.disk.clone() };
        let signal = signal(now, unix, &self.keys, &self.relays, stored, dice);
        self.due = signal.poll_timeout();
        self.signal = Some(signal);
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.signal.is_some()
    }

    /// Moves the wall clock.
    pub(crate) fn jump(&mut self, now: Instant, seconds: u64) {
        self.ahead += seconds;
        self.tell_wall(now);
    }

    /// Lets it tell everybody a false address, and a time that is years ahead; or the truth again.
    pub(crate) fn lies(&mut self, now: Instant, lie: Option<IpAddr>, seconds: i64) {
        self.lie = lie;
        self.ahead = self.ahead.saturating_add_signed(seconds);
        self.tell_wall(now);
    }

    pub(crate) fn tell_wall(&mut self, now: Instant) {
        let wall = unix(now) + self.ahead;
        self.signal(now, Input::Wall(wall));
    }

    /// Loses the newest entries of every log on the disk, keeping the first. What is remembered beside it is not set back.
    pub(crate) fn roll_back(&mut self, lost: usize) {
        for (_, log) in &mut self.disk.logs {
            log.truncate(log.len().saturating_sub(lost).max(1));
        }
    }

    /// Another face of it: the same keys, no process, and an empty disk.
    pub(crate) fn twin(&self) -> Self {
        let Keys { noise, sequencer, token } = &self.keys;
        Self {
            number: self.number,
            signal: None,
            keys: Keys { noise: *noise, sequencer: sequencer.clone(), token: *token },
            relays: self.relays.clone(),
            disk: Stored::default(),
            witnessed: BTreeMap::new(),
            ran: self.ran,
            room: Room::Free,
            connections: BTreeSet::new(),
            epoch: 0,
            ahead: self.ahead,
            lie: None,
            due: None,
            effects: Vec::new(),
        }
    }

    /// Has what another one has on its disk.
    pub(crate) fn take_over(&mut self, disk: Stored) {
        self.disk = disk;
    }

    /// What is on the disk.
    pub(crate) fn stored_all(&self) -> Stored {
        self.disk.clone()
    }

    /// Takes the log of `honest` up to `length`, and signs another entry for the next place.
    pub(crate) fn forge(&mut self, honest: Stored, length: u64) {
        let keep = usize::try_from(length).expect("a short log");
        self.disk = honest;
        for (network, log) in &mut self.disk.logs {
            let decode =
                |entry: &StoredEntry| Entry::decode(&entry.bytes).expect("a server stores what it has encoded");
            let Some(true_entry) = log.get(keep).map(decode) else { continue };
            log.truncate(keep);
            let before: Vec<Entry> = log.iter().map(decode).collect();
            let sequencer = Sequencer::resume(self.keys.sequencer.clone(), *network, &before);
            let placed = sequencer.ok().and_then(|known| known.prepare(true_entry.time + 1, &true_entry.record).ok());
            if let Some(Placed::New(entry)) = placed {
                log.push(StoredEntry { bytes: entry.encode(), trust: Trust::Stored });
            }
        }
    }

    /// Loses the whole disk; the key is kept elsewhere.
    pub(crate) fn wipe(&mut self) {
        self.disk = Stored::default();
    }

    /// The encoded entries of the logs on the disk.
    pub(crate) fn logs(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.disk.logs.iter().flat_map(|(_, log)| log).map(|entry| &entry.bytes)
    }

    /// Something about a stream to a fellow server.
    pub(crate) fn link(&mut self, now: Instant, input: Input) {
        self.signal(now, input);
    }

    /// Entries on the disk.
    pub(crate) fn log_length(&self) -> u64 {
        self.disk.logs.iter().map(|(_, log)| log.len() as u64).sum()
    }

    pub(crate) fn opened(&mut self, now: Instant, conn: ConnectionId, from: SocketAddr) {
        self.connections.insert(conn);
        let from = self.lie.map_or(from, |ip| SocketAddr::new(ip, from.port()));
        self.signal(now, Input::Opened { conn, from });
    }

    pub(crate) fn received(&mut self, now: Instant, conn: ConnectionId, bytes: Vec<u8>) {
        if self.connections.contains(&conn) {
            self.signal(now, Input::Received { conn, bytes });
        }
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
        let outcome = match self.room {
            Room::Free => {
                self.keep(change);
                Outcome::Durable
            }
            Room::Full => Outcome::Failed,
        };
        self.signal(now, Input::Stored { ticket, outcome });
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(signal) = &mut self.signal {
            signal.handle_timeout(now);
        }
        self.drain();
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

    /// What the server dropped that honest clients on honest lines never send.
    pub(crate) fn oddities(&self, company: Company) -> Vec<String> {
        use ginnel_signal_proto::server::Discard;
        let Some(signal) = self.signal.as_ref().filter(|_| company.servers == Manners::Honest) else {
            return Vec::new();
        };
        let odd = [Discard::FrameLength, Discard::Version, Discard::BadSeal, Discard::Malformed, Discard::OutOfOrder];
        let counted = odd.into_iter().filter_map(|discard| Some((discard, signal.counters().get(&discard)?)));
        counted.map(|(discard, count)| format!("signaling server {}: {count} x {discard}", self.number)).collect()
    }

    /// How it stands, for a report.
    pub(crate) fn describe(&self) -> String {
        let status = self.signal.as_ref().map(|signal| (signal.status(), signal.counters()));
        format!("server {}, {} entries: {status:?}", self.number, self.log_length())
    }

    /// Whether a connection is open.
    pub(crate) fn holds(&self, conn: ConnectionId) -> bool {
        self.connections.contains(&conn)
    }

    /// Connections that the machine holds, and that are open.
    pub(crate) fn connections(&self) -> (usize, usize) {
        (self.signal.as_ref().map_or(0, |signal| signal.status().connections), self.connections.len())
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
            Change::Spend { network, token } => {
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
            Change::Mend { .. } | Change::Cut { .. } => {
                self.effects.push(Effect::Broken("a sound disk is repaired".to_owned()));
            }
        }
    }

    fn signal(&mut self, now: Instant, input: Input) {
        if let Some(signal) = &mut self.signal {
            // What the server had no use for it has counted.
            let _ = signal.handle_input(now, input);
            self.drain();
        }
    }

    fn drain(&mut self) {
        let Some(signal) = &mut self.signal else { return };
        while let Some(output) = signal.poll_output() {
            let effect = match output {
                Output::Write { conn, bytes } => Effect::Write(conn, bytes),
                Output::Close { conn } => {
                    self.connections.remove(&conn);
                    Effect::Close(conn)
                }
                Output::Store { ticket, change } => Effect::Store(ticket, change),
                Output::Witness { network, head } => {
                    match head {
                        Some(head) => self.witnessed.insert(network, head),
                        None => self.witnessed.remove(&network),
                    };
                    continue;
                }
                Output::Dial { link, addresses } => Effect::Dial(link, addresses),
                Output::LinkWrite { link, bytes } => Effect::LinkWrite(link, bytes),
                Output::LinkClose { link } => Effect::LinkClose(link),
            };
            self.effects.push(effect);
        }
        self.due = signal.poll_timeout();
    }
}

fn signal(now: Instant, unix: u64, keys: &Keys, relays: &Relays, stored: Stored, dice: &mut Dice) -> Signal {
    let Relays { secret, addresses, lifetime } = relays.clone();
    let offered = !addresses.is_empty();
    let issue = move |unix: u64, member: &ginnel_membership::MemberKey| {
        let made = Credentials::time_limited(&secret, unix + lifetime.as_secs(), &member.to_string());
        RelayCredentials {
            username: made.username,
            password: made.password,
            lifetime_seconds: u32::try_from(lifetime.as_secs()).expect("hours"),
            addresses: addresses.clone(),
        }
    };
    let config = Config {
        noise: keys.noise.into(),
        sequencer: keys.sequencer.clone(),
        stun_ports: vec![station::STUN_PORT],
        relay: if offered { Some(Box::new(issue)) } else { None },
        limits: Limits::default(),
    };
    Signal::new(dice.seed(), config, stored, now, unix).expect("the stored logs are those the server made")
}

/// For how long `ginnel-signal` believes what a process before it left in memory.
const REMEMBERED: Duration = Duration::from_secs(30);

/// True time, in Unix seconds.
pub(crate) fn unix(now: Instant) -> u64 {
    WALL + now.as_nanos() / 1_000_000_000
}

/// Where clients open their streams.
pub(crate) const STREAM_PORT: u16 = 4433;
const WALL: u64 = 1_800_000_000;
