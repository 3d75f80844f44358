//! The server's end of all connections.
//!
//! ```text
//! connection:  Hello ──Noise──> Unproven ──Authenticate──> Open        5 s to get there
//! append:      asked ──sequencer──> Output::Store ──Input::Stored──> answered and pushed to all members
//! ```
//!
//! Nothing of an entry leaves the server before the driver says that it is on disk. The driver hands the stores to its
//! disk in the order in which they came out, and answers in that order; once one of a network has failed, it fails all
//! later ones of that network that it was given before its answer to the first.

mod admission;
mod limits;
mod line;
mod network;
mod post;
mod request;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ginnel_membership::{MemberKey, NetworkId, ServerKeys, SigningKey};
use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore as _, SeedableRng as _};
use zeroize::Zeroizing;

use crate::message::{FoundingToken, Refusal, RelayCredentials, Request, ServerMessage, Standing, VERSION};
use crate::noise;

pub use limits::{Limits, Rate};
pub use line::{MAX_CLIENT_FRAME, MAX_UNSENT, PROOF_DEADLINE};
pub use network::BadLog;
pub use post::{LIFETIME, PER_PAIR, PER_RECIPIENT};

use line::{Arrival, Lines};
use network::{Advance, Network};

/// One signaling server: every connection, every network's log, and the mail that waits.
///
/// All logs are held in memory, as the driver stored them; [`Limits`] bounds them.
pub struct Server {
    config: Config,
    rng: ChaCha20Rng,
    clock: WallClock,
    lines: Lines,
    networks: BTreeMap<NetworkId, Network>,
    tokens: Vec<(FoundingToken, TokenUse)>,
    stores: BTreeMap<Ticket, Storing>,
    next_ticket: u64,
    sweep: Option<Instant>,
    counters: BTreeMap<Discard, u64>,
    now: Instant,
}

/// What a server is set up with.
pub struct Config {
    /// The X25519 secret that clients know the public half of.
    pub noise: Zeroizing<[u8; 32]>,
    /// The key that signs log entries.
    pub sequencer: SigningKey,
    /// UDP ports that answer STUN, best first.
    pub stun_ports: Vec<u16>,
    /// Makes relay credentials for a member at a Unix time; `None` where no relay is offered.
    pub relay: Option<RelayIssuer>,
    /// Bounds and rates.
    pub limits: Limits,
}

impl Config {
    /// The public halves of the server's keys, as invites and founding strings name them.
    pub fn keys(&self) -> ServerKeys {
        let noise = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(*self.noise)).to_bytes();
        ServerKeys { signing: self.sequencer.sequencer_key().to_bytes(), noise }
    }
}

/// Makes relay credentials for a member at a Unix time.
pub type RelayIssuer = Box<dyn Fn(u64, &MemberKey) -> RelayCredentials + Send + Sync>;

/// What a server starts from: what its driver stored.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Every network's log: encoded entries in order.
    pub logs: Vec<(NetworkId, Vec<Vec<u8>>)>,
    /// Every founding token, with the network that it founded.
    pub tokens: Vec<(FoundingToken, Option<NetworkId>)>,
}

/// A connection, as the driver numbers it; a number is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// One request to store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What a server is told.
#[derive(Debug)]
pub enum Input {
    /// A client opened its stream.
    Opened {
        /// The connection.
        conn: ConnectionId,
        /// Where it comes from.
        from: SocketAddr,
    },
    /// Bytes from a client, cut anywhere.
    Received {
        /// The connection.
        conn: ConnectionId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// That many bytes of earlier writes went out to a client.
    Flushed {
        /// The connection.
        conn: ConnectionId,
        /// How many bytes.
        bytes: usize,
    },
    /// A connection ended from the other side, or broke.
    Closed {
        /// The connection.
        conn: ConnectionId,
    },
    /// A store came to its end.
    Stored {
        /// Which one.
        ticket: Ticket,
        /// How.
        outcome: Outcome,
    },
    /// The wall clock, in Unix seconds; told often enough to follow its corrections.
    Wall(u64),
    /// A founding token was made and is on disk.
    Token(FoundingToken),
}

/// How a store ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is on disk for good.
    Durable,
    /// It is not, and will not be.
    Failed,
}

/// What a server wants done.
#[derive(Debug)]
pub enum Output {
    /// Write these bytes to a connection.
    Write {
        /// The connection.
        conn: ConnectionId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Close a connection once what was written is out; the server has forgotten it.
    Close {
        /// The connection.
        conn: ConnectionId,
    },
    /// Put this on disk and answer with [`Input::Stored`].
    Store {
        /// Names the answer.
        ticket: Ticket,
        /// What to put there.
        change: Change,
    },
}

/// What is to be stored.
#[derive(Clone, Debug)]
pub enum Change {
    /// The first entry of a new network, and with it the use of a founding token.
    Found {
        /// The network.
        network: NetworkId,
        /// The token that it uses up.
        token: FoundingToken,
        /// The encoded entry 0.
        entry: Vec<u8>,
    },
    /// One more entry.
    Append {
        /// The network.
        network: NetworkId,
        /// The entry's sequence: the number of entries that the log has without it.
        sequence: u64,
        /// The encoded entry.
        entry: Vec<u8>,
    },
}

/// An input that the server could not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Discard {
    /// No such connection; it may just have been closed from this side.
    #[error("no such connection")]
    UnknownConnection,
    /// No such store; its network may have been rolled back.
    #[error("no such store")]
    UnknownTicket,
    /// A connection number used twice, or stores answered in another order.
    #[error("input out of order")]
    OutOfOrder,
    /// Too many connections in all.
    #[error("too many connections")]
    Full,
    /// Too many connections from one source.
    #[error("too many connections from one source")]
    SourceLimit,
    /// Too many requests on one connection.
    #[error("too many requests on one connection")]
    RequestLimit,
    /// A frame of a length that is not allowed.
    #[error("frame of a length that is not allowed")]
    FrameLength,
    /// Another version of the protocol.
    #[error("another version of the protocol")]
    Version,
    /// A handshake or frame that does not verify: damaged, or for another server key.
    #[error("bytes that do not verify")]
    BadSeal,
    /// A message that does not decode or is out of place.
    #[error("malformed message")]
    Malformed,
    /// A client that could not prove what it claims.
    #[error("client not admitted")]
    NotAdmitted,
}

/// What a server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Connections, whether or not they have proved a key.
    pub connections: usize,
    /// Networks.
    pub networks: usize,
    /// Bytes of mail that wait.
    pub held_mail: usize,
}

/// How a founding token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenUse {
    Unused,
    Founding(NetworkId),
    Founded(NetworkId),
}

/// What a ticket stands for.
enum Storing {
    Entry(NetworkId),
    Genesis { network: Box<Network>, token: usize, conn: ConnectionId },
}

/// The wall clock, carried on by the boot clock between two tellings.
struct WallClock {
    unix: u64,
    told: Instant,
}

impl WallClock {
    fn at(&self, now: Instant) -> u64 {
        self.unix.saturating_add(now.saturating_duration_since(self.told).as_secs())
    }
}

impl Server {
    /// Makes a server from what was stored, at `now`, which is `unix` in Unix seconds.
    ///
    /// # Errors
    /// [`BadLog`] where a stored log does not replay, or is ordered by another key.
    pub fn new(seed: [u8; 32], config: Config, stored: Stored, now: Instant, unix: u64) -> Result<Self, BadLog> {
        let mut networks = BTreeMap::new();
        for (id, entries) in stored.logs {
            networks.insert(id, Network::restore(id, config.sequencer.clone(), &entries)?);
        }
        let usage = |network: Option<NetworkId>| network.map_or(TokenUse::Unused, TokenUse::Founded);
        Ok(Self {
            lines: Lines::new(config.limits.clone()),
            config,
            rng: ChaCha20Rng::from_seed(seed),
            clock: WallClock { unix, told: now },
            networks,
            tokens: stored.tokens.into_iter().map(|(token, network)| (token, usage(network))).collect(),
            stores: BTreeMap::new(),
            next_ticket: 0,
            sweep: None,
            counters: BTreeMap::new(),
            now,
        })
    }

    /// Takes one input.
    ///
    /// # Errors
    /// [`Discard`] says why the input was of no use; [`counters`](Self::counters) counts it.
    pub fn handle_input(&mut self, now: Instant, input: Input) -> Result<(), Discard> {
        self.now = self.now.max(now);
        let result = match input {
            Input::Opened { conn, from } => self.lines.open(self.now, conn, from),
            Input::Received { conn, bytes } => self.receive(conn, &bytes),
            Input::Flushed { conn, bytes } => self.flushed(conn, bytes),
            Input::Closed { conn } => {
                self.lines.forget(conn);
                Ok(())
            }
            Input::Stored { ticket, outcome } => self.stored(ticket, outcome),
            Input::Wall(unix) => {
                self.clock = WallClock { unix, told: self.now };
                Ok(())
            }
            Input::Token(token) => {
                self.tokens.push((token, TokenUse::Unused));
                Ok(())
            }
        };
        self.reap();
        self.arm_sweep();
        if let Err(discard) = result {
            let count = self.counters.entry(discard).or_default();
            *count = count.saturating_add(1);
        }
        result
    }

    /// Closes connections that prove nothing, drops mail that is too old, and forgets rates that have recovered.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.lines.expire(self.now);
        self.reap();
        if self.sweep.is_some_and(|at| at <= self.now) {
            self.sweep = None;
            let mut more = self.lines.sweep(self.now);
            for network in self.networks.values_mut() {
                more |= network.sweep(self.now);
            }
            if more {
                self.sweep = Some(self.now + SWEEP);
            }
        }
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.lines.poll_output()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.lines.is_quiet() {
            return Some(self.now);
        }
        [self.lines.deadline(), self.sweep].into_iter().flatten().min()
    }

    /// What the server is doing.
    pub fn status(&self) -> Status {
        Status { connections: self.lines.len(), networks: self.networks.len(), held_mail: self.held_mail() }
    }

    /// How often each kind of input was of no use.
    pub const fn counters(&self) -> &BTreeMap<Discard, u64> {
        &self.counters
    }

    fn receive(&mut self, conn: ConnectionId, bytes: &[u8]) -> Result<(), Discard> {
        self.lines.push(conn, bytes)?;
        let mut result = Ok(());
        while let Some(arrival) = self.lines.next(self.now, conn)? {
            let taken = match arrival {
                Arrival::Hello(frame) => self.greet(conn, &frame),
                Arrival::Proof(plaintext) => self.take_proof(conn, &plaintext),
                Arrival::Request(plaintext) => self.take_request(conn, &plaintext),
            };
            result = result.and(taken);
        }
        result
    }

    fn greet(&mut self, conn: ConnectionId, frame: &[u8]) -> Result<(), Discard> {
        let Some((&VERSION, message)) = frame.split_first() else {
            self.lines.answer_stranger(conn, &[VERSION]);
            return Err(Discard::Version);
        };
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        match noise::respond(&self.config.noise, message, ChaCha20Rng::from_seed(seed)) {
            Ok((channel, answer)) => {
                let mut hello = vec![VERSION];
                hello.extend(answer);
                self.lines.establish(conn, channel, &hello);
                Ok(())
            }
            Err(noise::BadSeal) => {
                self.lines.close(conn);
                Err(Discard::BadSeal)
            }
        }
    }

    fn flushed(&mut self, conn: ConnectionId, bytes: usize) -> Result<(), Discard> {
        self.lines.flushed(conn, bytes)?;
        self.deliver(conn);
        Ok(())
    }

    fn stored(&mut self, ticket: Ticket, outcome: Outcome) -> Result<(), Discard> {
        match self.stores.remove(&ticket).ok_or(Discard::UnknownTicket)? {
            Storing::Genesis { network, token, conn } => self.founded(*network, token, conn, outcome),
            Storing::Entry(id) => {
                let network = self.networks.get_mut(&id).ok_or(Discard::UnknownTicket)?;
                match outcome {
                    Outcome::Durable => {
                        let advance = network.advance(ticket).ok_or(Discard::OutOfOrder)?;
                        self.publish(id, advance);
                    }
                    Outcome::Failed => self.roll_back(id),
                }
            }
        }
        Ok(())
    }

    /// Tells everybody about an entry that is on disk, and lets its consequences happen.
    fn publish(&mut self, id: NetworkId, advance: Advance) {
        for conn in &advance.askers {
            self.lines.say(*conn, &ServerMessage::Appended { sequence: advance.sequence });
        }
        let Some(network) = self.networks.get(&id) else { return };
        let push =
            ServerMessage::Entries { first: advance.sequence, entries: vec![advance.entry], head: network.head() };
        let present: Vec<ConnectionId> = network.connections().collect();
        for conn in present {
            let sees_log =
                |server: &Self| server.lines.session(conn).is_some_and(|session| session.standing != Standing::Joiner);
            // Whom the entry puts out sees it first: a member believes the log and no server.
            let saw = sees_log(self);
            if saw {
                self.lines.say(conn, &push);
            }
            self.review(conn);
            if !saw && sees_log(self) {
                self.lines.say(conn, &push);
            }
        }
    }

    /// Undoes what the disk did not take.
    fn roll_back(&mut self, id: NetworkId) {
        tracing::error!(network = %id, "storage failed; undoing the appends that were waiting for it");
        let Some(network) = self.networks.get_mut(&id) else { return };
        for asker in network.roll_back(self.config.sequencer.clone()) {
            let text = "the server could not write to its disk";
            self.lines.refuse(asker, Request::Append, Refusal::Storage, text);
        }
        self.stores.retain(|_, storing| !matches!(storing, Storing::Entry(network) if *network == id));
    }

    /// Takes connections that fell out of their networks.
    fn reap(&mut self) {
        while let Some((conn, session)) = self.lines.take_fallen() {
            if let Some(network) = self.networks.get_mut(&session.network) {
                network.leave(conn, &session.key);
            }
        }
    }

    fn arm_sweep(&mut self) {
        if self.sweep.is_none() && (self.lines.len() > 0 || self.held_mail() > 0) {
            self.sweep = Some(self.now + SWEEP);
        }
    }

    fn held_mail(&self) -> usize {
        self.networks.values().map(Network::held_mail).sum()
    }

    fn ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        ticket
    }
}

/// Pace of forgetting: mail lives at most this much longer than it should in memory, never on the wire.
const SWEEP: Duration = Duration::from_secs(10);
