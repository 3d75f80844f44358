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
//!
//! # Several servers
//! One server of a network, the sequencer, orders its log; the others are mirrors: they hold a copy, serve their own
//! clients from it, and hand on what is to be appended. A mirror that cannot reach the sequencer refuses appends with
//! [`Refusal::NoSequencer`] and goes on with all else.
//!
//! Two entries signed for one place are a fork, which every member would take for fraud. So that an honest server never
//! makes one,
//! * a sequencer that has started orders nothing for [`Limits::settle`] after the first client has come, and no longer than
//!   needed beyond that while a client or a fellow hands back entries that its disk has lost; the pause is short where all
//!   who may hold such entries have said that they do not, and where the driver remembers that the disk holds them all
//!   ([`Output::Witness`], [`Stored::witnessed`]); it is ten minutes where the driver remembers more than the disk holds and
//!   nobody gives it back, and until then appends are refused as [`Refusal::Busy`];
//! * it asks its fellows in that time, and so learns where the log was moved to another sequencer;
//! * a mirror that an admins' record makes the sequencer asks the old one to order that record, and orders it itself only
//!   where the old one cannot be reached.
//!
//! What remains is a sequencer that lives, but that the new one cannot reach: it goes on ordering until it is reached or
//! stopped, and the two histories part. Whoever moves a sequencer away from a server stops that server first.

mod admission;
mod answers;
mod append;
mod contract;
mod fellows;
mod limits;
mod line;
mod log;
mod network;
mod post;
mod refill;
mod repair;
mod request;
mod room;
mod settling;
mod takeover;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ginnel_membership::NetworkId;
use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore as _, SeedableRng as _};

use crate::message::{FoundingToken, Head, Placing, Refusal, VERSION};
use crate::noise;

pub use append::FORWARD_PATIENCE;
pub use contract::{
    Change, Config, ConnectionId, Discard, Input, LINK_REST_MAX, LinkId, Outcome, Output, RelayIssuer, Status, Stored,
    StoredEntry, Ticket,
};
pub use limits::{Limits, Rate};
pub use line::{MAX_CLIENT_FRAME, MAX_UNSENT, PROOF_DEADLINE};
pub use log::{BadLog, SNAPSHOT_PIECE};
pub use post::{LIFETIME, PER_PAIR, PER_RECIPIENT};
pub use refill::MAX_REFILL;
pub use takeover::TAKEOVER_PATIENCE;

use answers::Answers;
use fellows::Link;
use line::{Arrival, Lines};
use log::{Log, Role};
use network::Network;

/// One signaling server: every connection, every network's log, and the mail that waits.
///
/// All logs are held in memory, as the driver stored them; [`Limits`] bounds them.
pub struct Server {
    config: Config,
    rng: ChaCha20Rng,
    clock: WallClock,
    lines: Lines,
    networks: BTreeMap<NetworkId, Network>,
    links: BTreeMap<LinkId, Link>,
    link_deadlines: BTreeSet<(Instant, LinkId)>,
    next_link: u64,
    answers: Answers,
    next_forward: u64,
    /// When networks wait for something: forwards, the pause after a start.
    agenda: BTreeSet<(Instant, NetworkId)>,
    tokens: Vec<(FoundingToken, TokenUse)>,
    /// How far this server is known to have ordered logs of which nothing is here.
    vanished: BTreeMap<NetworkId, Head>,
    stores: BTreeMap<Ticket, Storing>,
    next_ticket: u64,
    sweep: Option<Instant>,
    counters: BTreeMap<Discard, u64>,
    now: Instant,
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
    /// What was damaged on the disk; the next start tries again.
    Repair,
    /// The use of a token. Where the disk does not take it, the token is used up until the next start only.
    Token,
    /// A network founded or taken up, and the entries to put into it then.
    Genesis {
        network: Box<Network>,
        token: usize,
        conn: ConnectionId,
        refill: Vec<Vec<u8>>,
    },
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
    /// [`BadLog`] where a stored log does not replay.
    pub fn new(seed: [u8; 32], config: Config, stored: Stored, now: Instant, unix: u64) -> Result<Self, BadLog> {
        let (mut networks, mut changes) = (BTreeMap::new(), Vec::new());
        for (id, entries) in stored.logs {
            let all = stored.damaged.range((id, 0)..=(id, u64::MAX));
            let damaged: Vec<u64> = all.map(|(_, sequence)| *sequence).collect();
            let log = repair::restore(id, &config.sequencer, entries, &damaged, &mut changes)?;
            networks.insert(id, Network::new(log, now, &config.limits));
        }
        for (id, genesis) in stored.adopted {
            if networks.contains_key(&id) {
                continue;
            }
            let log = Log::adopt(id, config.sequencer.clone(), &genesis);
            let log = log.map_err(|why| BadLog { network: id, sequence: 0, why: why.to_string() })?;
            networks.insert(id, Network::new(log, now, &config.limits));
        }
        let witnessed = stored.witnessed;
        let usage = |network: Option<NetworkId>| network.map_or(TokenUse::Unused, TokenUse::Founded);
        let mut server = Self {
            lines: Lines::new(config.limits.clone()),
            config,
            rng: ChaCha20Rng::from_seed(seed),
            clock: WallClock { unix, told: now },
            networks,
            links: BTreeMap::new(),
            link_deadlines: BTreeSet::new(),
            next_link: 0,
            answers: Answers::default(),
            next_forward: 0,
            agenda: BTreeSet::new(),
            tokens: stored.tokens.into_iter().map(|(token, network)| (token, usage(network))).collect(),
            vanished: BTreeMap::new(),
            stores: BTreeMap::new(),
            next_ticket: 0,
            sweep: None,
            counters: BTreeMap::new(),
            now,
        };
        for change in changes {
            let ticket = server.ticket();
            server.store_under(ticket, Storing::Repair, change);
        }
        server.begin(witnessed);
        Ok(server)
    }

    /// Lets every network take its place among its servers.
    fn begin(&mut self, witnessed: BTreeMap<NetworkId, Head>) {
        let ids: Vec<NetworkId> = self.networks.keys().copied().collect();
        for id in ids {
            self.settle_at_start(id, witnessed.get(&id).copied());
            self.reconcile(id);
        }
        self.note_all_vanished(witnessed);
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
            Input::LinkOpened { link } => self.link_opened(link),
            Input::LinkReceived { link, bytes } => self.link_received(link, bytes),
            Input::LinkClosed { link, why } => self.link_closed(link, &why),
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
            self.count(discard);
        }
        result
    }

    /// Closes connections that prove nothing, drops mail that is too old, and forgets rates that have recovered.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.lines.expire(self.now);
        self.expire_links();
        self.expire_agenda();
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
        let link = self.link_deadlines.first().map(|(due, _)| *due);
        let agenda = self.agenda.first().map(|(due, _)| *due);
        [self.lines.deadline(), self.sweep, link, agenda].into_iter().flatten().min()
    }

    /// What the server is doing.
    pub fn status(&self) -> Status {
        let mirrored = |network: &&Network| network.log.role() == Role::Mirror;
        Status {
            connections: self.lines.len(),
            networks: self.networks.len(),
            held_mail: self.held_mail(),
            mirrored: self.networks.values().filter(mirrored).count(),
            links: self.links_up(),
        }
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
            Storing::Genesis { network, token, conn, refill } => {
                self.installed(*network, token, conn, &refill, outcome);
            }
            Storing::Repair | Storing::Token => {}
            Storing::Entry(id) => {
                let network = self.networks.get_mut(&id).ok_or(Discard::UnknownTicket)?;
                match outcome {
                    Outcome::Durable => {
                        let settled = network.log.advance(ticket).ok_or(Discard::OutOfOrder)?;
                        self.settled(id, settled);
                    }
                    Outcome::Failed => self.undo(id),
                }
            }
        }
        Ok(())
    }

    /// Undoes what the disk did not take.
    fn undo(&mut self, id: NetworkId) {
        tracing::error!(network = %id, "storage failed; undoing what was waiting for it");
        let Some(network) = self.networks.get_mut(&id) else { return };
        let entries_of_others = network.log.backlog() > 0;
        let askers = network.log.roll_back();
        network.unpublished = None;
        self.stores.retain(|_, storing| !matches!(storing, Storing::Entry(network) if *network == id));
        self.answer_all(askers, &Placing::Refused { code: Refusal::Storage, text: refill::NO_DISK.to_owned() });
        if entries_of_others {
            self.fail_refills(id);
            self.sync_links(id);
        }
        self.pump(id);
    }

    /// Takes connections that fell out of their networks.
    fn reap(&mut self) {
        (0..self.lines.take_slow()).for_each(|_| self.count(Discard::SlowClient));
        while let Some((conn, session)) = self.lines.take_fallen() {
            self.answers.forget(conn);
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

    fn store_under(&mut self, ticket: Ticket, storing: Storing, change: Change) {
        self.stores.insert(ticket, storing);
        self.lines.emit(Output::Store { ticket, change });
    }

    fn count(&mut self, discard: Discard) {
        let count = self.counters.entry(discard).or_default();
        *count = count.saturating_add(1);
    }

    fn ticket(&mut self) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        ticket
    }
}

/// Pace of forgetting: mail lives at most this much longer than it should in memory, never on the wire.
const SWEEP: Duration = Duration::from_secs(10);
