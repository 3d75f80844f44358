//! Connections: their bounds, their frames, and what is written to them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_membership::{InviteKey, MemberKey, NetworkId};
use ginnel_time::Instant;

use super::limits::{Bucket, Limits, Source, Taken};
use super::{ConnectionId, Discard, Output};
use crate::frame::{self, FrameReader};
use crate::message::{Refusal, Request, ServerMessage, Standing, printable};
use crate::noise::{Channel, TAG_LEN};

/// All connections of a server.
///
/// A connection that is closed from this side, for whatever reason, goes into `fallen` with what it was, so that the
/// server can take it out of its network after the current input.
pub(crate) struct Lines {
    limits: Limits,
    lines: BTreeMap<ConnectionId, Line>,
    unproven: usize,
    sources: BTreeMap<Source, Origin>,
    /// Connections of each address.
    addresses: BTreeMap<IpAddr, usize>,
    /// Bytes written on all connections that the driver has not reported as flushed.
    unsent: usize,
    /// Connections that were cut because nobody read at the other end.
    slow: u64,
    deadlines: BTreeSet<(Instant, ConnectionId)>,
    fallen: Vec<(ConnectionId, Session)>,
    outputs: VecDeque<Output>,
}

/// One connection.
struct Line {
    from: SocketAddr,
    reader: FrameReader,
    phase: Phase,
    deadline: Instant,
    requests: Bucket,
    /// Bytes written that the driver has not reported as flushed.
    unsent: usize,
}

/// How far a connection has come.
pub(crate) enum Phase {
    /// Nothing is proved; the first Noise message is awaited.
    Hello,
    /// The channel stands; the client's proof is awaited.
    Unproven { channel: Box<Channel> },
    /// The client proved its key.
    Open { channel: Box<Channel>, session: Session },
}

/// Who is at the other end, as proved.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) network: NetworkId,
    pub(crate) key: MemberKey,
    pub(crate) standing: Standing,
    /// The invite by which a joiner came.
    pub(crate) invite: Option<InviteKey>,
    /// The founding token, by its place in the server's list.
    pub(crate) token: Option<usize>,
    /// How much of the log a server may see that was one of the network's once.
    pub(crate) until: Option<u64>,
}

/// What is known of one source.
struct Origin {
    open: usize,
    unproven: usize,
    opens: Bucket,
    guesses: Bucket,
}

/// What a frame is for.
pub(crate) enum Arrival {
    Hello(Vec<u8>),
    Proof(Vec<u8>),
    Request(Vec<u8>),
}

impl Lines {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            lines: BTreeMap::new(),
            unproven: 0,
            sources: BTreeMap::new(),
            addresses: BTreeMap::new(),
            unsent: 0,
            slow: 0,
            deadlines: BTreeSet::new(),
            fallen: Vec::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes in a new connection, or closes it where a bound is reached.
    pub(crate) fn open(&mut self, now: Instant, conn: ConnectionId, from: SocketAddr) -> Result<(), Discard> {
        if self.lines.contains_key(&conn) {
            return Err(Discard::OutOfOrder);
        }
        if let Err(discard) = self.allow(now, from.ip()) {
            self.outputs.push_back(Output::Close { conn });
            return Err(discard);
        }
        let deadline = now + PROOF_DEADLINE;
        let requests = Bucket::new(now, self.limits.requests);
        let line = Line { from, reader: FrameReader::default(), phase: Phase::Hello, deadline, requests, unsent: 0 };
        self.lines.insert(conn, line);
        self.deadlines.insert((deadline, conn));
        self.unproven += 1;
        Ok(())
    }

    fn allow(&mut self, now: Instant, address: IpAddr) -> Result<(), Discard> {
        let source = Source::of(address);
        if self.lines.len() >= self.limits.connections || self.unproven >= self.limits.unauthenticated {
            return Err(Discard::Full);
        }
        if !self.sources.contains_key(&source) && self.sources.len() >= MAX_SOURCES {
            return Err(Discard::Full);
        }
        let limits = &self.limits;
        let origin = self.sources.entry(source).or_insert_with(|| Origin {
            open: 0,
            unproven: 0,
            opens: Bucket::new(now, limits.opens),
            guesses: Bucket::new(now, limits.guesses),
        });
        let of_address = self.addresses.get(&address).copied().unwrap_or_default();
        if origin.open >= limits.connections_per_source
            || origin.unproven >= limits.unauthenticated_per_source
            || of_address >= limits.connections_per_address
            || origin.opens.take(now) == Taken::Empty
        {
            return Err(Discard::SourceLimit);
        }
        origin.open += 1;
        origin.unproven += 1;
        *self.addresses.entry(address).or_default() += 1;
        Ok(())
    }

    /// Whether the source of a connection may still try keys that nobody knows.
    pub(crate) fn guesses(&mut self, now: Instant, conn: ConnectionId) -> Taken {
        let source = self.source_of(conn);
        let origin = source.and_then(|source| self.sources.get_mut(&source));
        origin.map_or(Taken::Granted, |origin| origin.guesses.peek(now))
    }

    /// Notes that the source of a connection tried a key that nobody knows.
    pub(crate) fn charge_guess(&mut self, now: Instant, conn: ConnectionId) {
        let source = self.source_of(conn);
        if let Some(origin) = source.and_then(|source| self.sources.get_mut(&source)) {
            origin.guesses.take(now);
        }
    }

    fn source_of(&self, conn: ConnectionId) -> Option<Source> {
        self.lines.get(&conn).map(|line| Source::of(line.from.ip()))
    }

    /// Adds bytes to a connection's stream.
    pub(crate) fn push(&mut self, conn: ConnectionId, bytes: &[u8]) -> Result<(), Discard> {
        self.lines.get_mut(&conn).ok_or(Discard::UnknownConnection)?.reader.push(bytes);
        Ok(())
    }

    /// Takes the next frame of a connection and opens it; on an error the connection is closed.
    pub(crate) fn next(&mut self, now: Instant, conn: ConnectionId) -> Result<Option<Arrival>, Discard> {
        let Some(line) = self.lines.get_mut(&conn) else { return Ok(None) };
        let arrival = line.next(now);
        if let Err(discard) = arrival {
            if discard == Discard::RequestLimit {
                self.dismiss(conn, Refusal::RateLimited, "too many requests on one connection");
            } else {
                self.close(conn);
            }
        }
        arrival
    }

    /// Puts the channel under a connection and sends the server's half of the handshake.
    pub(crate) fn establish(&mut self, conn: ConnectionId, channel: Channel, answer: &[u8]) {
        if let Some(line) = self.lines.get_mut(&conn) {
            line.phase = Phase::Unproven { channel: Box::new(channel) };
            self.write(conn, frame::encode(answer));
        }
    }

    /// Sends bytes as they are, for a client that speaks another version, and closes.
    pub(crate) fn answer_stranger(&mut self, conn: ConnectionId, answer: &[u8]) {
        self.write(conn, frame::encode(answer));
        self.close(conn);
    }

    /// Notes that a connection proved who it is.
    pub(crate) fn admit(&mut self, now: Instant, conn: ConnectionId, session: Session) {
        let Some(line) = self.lines.get_mut(&conn) else { return };
        let was = std::mem::replace(&mut line.phase, Phase::Hello);
        line.phase = match was {
            Phase::Unproven { channel } => {
                self.deadlines.remove(&(line.deadline, conn));
                self.unproven -= 1;
                if let Some(origin) = self.sources.get_mut(&Source::of(line.from.ip())) {
                    origin.unproven = origin.unproven.saturating_sub(1);
                }
                if session.standing == Standing::Mirror {
                    line.requests = Bucket::new(now, self.limits.mirror_requests);
                }
                Phase::Open { channel, session }
            }
            other @ (Phase::Hello | Phase::Open { .. }) => other,
        };
    }

    /// The hash that names a connection's channel, once there is one.
    pub(crate) fn binding(&self, conn: ConnectionId) -> Option<[u8; 32]> {
        match &self.lines.get(&conn)?.phase {
            Phase::Hello => None,
            Phase::Unproven { channel } | Phase::Open { channel, .. } => Some(*channel.binding()),
        }
    }

    pub(crate) fn session(&self, conn: ConnectionId) -> Option<&Session> {
        match &self.lines.get(&conn)?.phase {
            Phase::Open { session, .. } => Some(session),
            Phase::Hello | Phase::Unproven { .. } => None,
        }
    }

    /// Changes what a connection may do.
    pub(crate) fn set_standing(&mut self, conn: ConnectionId, new: Standing) {
        if let Some(Line { phase: Phase::Open { session, .. }, .. }) = self.lines.get_mut(&conn) {
            session.standing = new;
        }
    }

    /// Shows a connection the log without an end.
    pub(crate) fn show_all(&mut self, conn: ConnectionId) {
        if let Some(Line { phase: Phase::Open { session, .. }, .. }) = self.lines.get_mut(&conn) {
            session.until = None;
        }
    }

    /// The address a connection comes from.
    pub(crate) fn from(&self, conn: ConnectionId) -> Option<SocketAddr> {
        self.lines.get(&conn).map(|line| line.from)
    }

    /// Whether mail may be written to a connection now rather than held.
    pub(crate) fn has_room(&self, conn: ConnectionId) -> bool {
        self.lines.get(&conn).is_some_and(|line| line.unsent < MAIL_WINDOW)
    }

    /// The driver got `bytes` more bytes off to the client.
    pub(crate) fn flushed(&mut self, conn: ConnectionId, bytes: usize) -> Result<(), Discard> {
        let line = self.lines.get_mut(&conn).ok_or(Discard::UnknownConnection)?;
        let bytes = bytes.min(line.unsent);
        line.unsent -= bytes;
        self.unsent = self.unsent.saturating_sub(bytes);
        Ok(())
    }

    /// Says something on a connection whose channel stands. A client that does not read is cut off.
    pub(crate) fn say(&mut self, conn: ConnectionId, message: &ServerMessage) {
        let Some(line) = self.lines.get_mut(&conn) else { return };
        let (Phase::Unproven { channel } | Phase::Open { channel, .. }) = &mut line.phase else { return };
        let encoded = message.encode().expect("the server cuts its answers to fit");
        let sealed = channel.seal(&encoded).expect("counters of 64 bits do not run out");
        if line.unsent + sealed.len() > MAX_UNSENT {
            self.cut(conn);
        } else {
            self.write(conn, frame::encode(&sealed));
            self.cut_the_slowest();
        }
    }

    /// Holds the bound on all unsent bytes by cutting off whoever has left most of them unread.
    fn cut_the_slowest(&mut self) {
        while self.unsent > self.limits.unsent {
            let slowest = self.lines.iter().max_by_key(|(_, line)| line.unsent).map(|(conn, _)| *conn);
            let Some(conn) = slowest else { return };
            self.cut(conn);
        }
    }

    fn cut(&mut self, conn: ConnectionId) {
        tracing::debug!(conn = conn.0, "client does not read; connection dropped");
        self.slow = self.slow.saturating_add(1);
        self.close(conn);
    }

    /// How many clients were cut off since the last call because they did not read.
    pub(crate) fn take_slow(&mut self) -> u64 {
        std::mem::take(&mut self.slow)
    }

    /// Refuses one request.
    pub(crate) fn refuse(&mut self, conn: ConnectionId, request: Request, code: Refusal, text: &str) {
        self.say(conn, &ServerMessage::Refused { request, code, text: printable(text) });
    }

    /// Refuses the connection as a whole and closes it.
    pub(crate) fn dismiss(&mut self, conn: ConnectionId, code: Refusal, text: &str) {
        self.refuse(conn, Request::Connection, code, text);
        self.close(conn);
    }

    /// Closes a connection from this side.
    pub(crate) fn close(&mut self, conn: ConnectionId) {
        if self.forget(conn) {
            self.outputs.push_back(Output::Close { conn });
        }
    }

    /// Forgets a connection; whether there was one.
    pub(crate) fn forget(&mut self, conn: ConnectionId) -> bool {
        let Some(line) = self.lines.remove(&conn) else { return false };
        let address = line.from.ip();
        self.unsent = self.unsent.saturating_sub(line.unsent);
        let unproven = usize::from(!matches!(line.phase, Phase::Open { .. }));
        match line.phase {
            Phase::Open { session, .. } => self.fallen.push((conn, session)),
            Phase::Hello | Phase::Unproven { .. } => {
                self.unproven -= 1;
                self.deadlines.remove(&(line.deadline, conn));
            }
        }
        if let Some(origin) = self.sources.get_mut(&Source::of(address)) {
            origin.open = origin.open.saturating_sub(1);
            origin.unproven = origin.unproven.saturating_sub(unproven);
        }
        if let Entry::Occupied(mut open) = self.addresses.entry(address) {
            *open.get_mut() = open.get().saturating_sub(1);
            if *open.get() == 0 {
                open.remove();
            }
        }
        true
    }

    /// Takes a connection that fell since the last call.
    pub(crate) fn take_fallen(&mut self) -> Option<(ConnectionId, Session)> {
        self.fallen.pop()
    }

    /// Closes connections that have proved nothing in time.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, conn)) = self.deadlines.first()
            && deadline <= now
        {
            self.close(conn);
        }
    }

    /// Forgets sources without connections whose bucket is full; whether any are left.
    pub(crate) fn sweep(&mut self, now: Instant) -> bool {
        self.sources.retain(|_, origin| origin.open > 0 || !(origin.opens.is_full(now) && origin.guesses.is_full(now)));
        self.sources.values().any(|origin| origin.open == 0)
    }

    /// The earliest deadline of a connection that has proved nothing.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    pub(crate) fn emit(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.outputs.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    fn write(&mut self, conn: ConnectionId, bytes: Vec<u8>) {
        if let Some(line) = self.lines.get_mut(&conn) {
            line.unsent += bytes.len();
            self.unsent += bytes.len();
            self.outputs.push_back(Output::Write { conn, bytes });
        }
    }
}

impl Line {
    fn next(&mut self, now: Instant) -> Result<Option<Arrival>, Discard> {
        let limit = match self.phase {
            // Longer than ours, so that later versions hear that we are an earlier one.
            Phase::Hello | Phase::Unproven { .. } => MAX_PROOF_FRAME,
            Phase::Open { .. } => MAX_CLIENT_FRAME,
        };
        let Some(frame) = self.reader.next(limit).map_err(|_| Discard::FrameLength)? else { return Ok(None) };
        match &mut self.phase {
            Phase::Hello => Ok(Some(Arrival::Hello(frame))),
            Phase::Unproven { channel } => {
                channel.open(&frame).map(|plaintext| Some(Arrival::Proof(plaintext))).map_err(|_| Discard::BadSeal)
            }
            Phase::Open { channel, .. } => {
                let plaintext = channel.open(&frame).map_err(|_| Discard::BadSeal)?;
                match self.requests.take(now) {
                    Taken::Granted => Ok(Some(Arrival::Request(plaintext))),
                    Taken::Empty => Err(Discard::RequestLimit),
                }
            }
        }
    }
}

/// How long a client may take from the opened connection to its proof.
pub const PROOF_DEADLINE: Duration = Duration::from_secs(5);

/// Most bytes that wait for a client before it is cut off.
pub const MAX_UNSENT: usize = 512 << 10;

/// Most bytes of one frame from a client that has proved its key.
pub const MAX_CLIENT_FRAME: usize = 16 << 10;

/// Mail is written to a client while fewer bytes than this wait for it, and held otherwise.
const MAIL_WINDOW: usize = 128 << 10;

/// The largest `Authenticate`, sealed, is a joiner's with 265 bytes.
const MAX_PROOF_FRAME: usize = 512 + TAG_LEN;

/// Source addresses that are remembered.
const MAX_SOURCES: usize = 65_536;
