//! What a server is set up with, told, and wants done.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use ginnel_membership::sequencer::Trust;
use ginnel_membership::{MemberKey, NetworkId, ServerKeys, SigningKey};
use zeroize::Zeroizing;

use super::limits::Limits;
use crate::message::{FoundingToken, Head, RelayCredentials};

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
    /// Every network's log: its entries in order.
    pub logs: Vec<(NetworkId, Vec<StoredEntry>)>,
    /// Entries that are not as they were stored, by their sequence.
    pub damaged: BTreeSet<(NetworkId, u64)>,
    /// Every founding token, with the network that it founded, or by which this server became its mirror.
    pub tokens: Vec<(FoundingToken, Option<NetworkId>)>,
    /// The genesis records of networks that this server became a mirror of; the log may be missing yet.
    pub adopted: Vec<(NetworkId, Vec<u8>)>,
    /// The newest [`Output::Witness`] of each network, from a place that a disk restored from an earlier time does not bring
    /// back, and that was written by a server that ran until a moment ago; nothing where there is any doubt.
    pub witnessed: BTreeMap<NetworkId, Head>,
}

/// A log entry as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// The encoded entry.
    pub bytes: Vec<u8>,
    /// What is known of its record: spares the server to judge it again at the next start.
    pub trust: Trust,
}

impl From<Vec<u8>> for StoredEntry {
    /// An encoded entry of which nothing else is known.
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, trust: Trust::Stored }
    }
}

/// A connection, as the driver numbers it; a number is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A link that this server makes to a fellow server. The same number is dialled anew after its stream closed; what the
/// driver still holds of the stream before is void then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

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
    /// A stream to a fellow server is open, as [`Output::Dial`] asked.
    LinkOpened {
        /// The link.
        link: LinkId,
    },
    /// Bytes from a fellow server, cut anywhere.
    LinkReceived {
        /// The link.
        link: LinkId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A stream to a fellow server could not be opened within 10 s, ended or broke.
    LinkClosed {
        /// The link.
        link: LinkId,
        /// Why, for people.
        why: String,
    },
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
    /// Remember the end of a log that this server orders, or forget it, for [`Stored::witnessed`]; it must be done before any
    /// later output is. Where it cannot be remembered, nothing may be.
    Witness {
        /// The network.
        network: NetworkId,
        /// The log's end; `None` where nothing is to be remembered of it.
        head: Option<Head>,
    },
    /// Open a stream to the first of these addresses that answers; [`Input::LinkOpened`] or [`Input::LinkClosed`] says how
    /// it went. The machine waits between two dials, longer after each failure, at most [`LINK_REST_MAX`].
    Dial {
        /// Names the stream.
        link: LinkId,
        /// Each `host:port`, best first.
        addresses: Vec<String>,
    },
    /// Write these bytes to a stream that was opened.
    LinkWrite {
        /// The link.
        link: LinkId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Give up a stream, whether it is open yet or not; the server has forgotten it.
    LinkClose {
        /// The link.
        link: LinkId,
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
        /// Entry 0.
        entry: StoredEntry,
    },
    /// One more entry.
    Append {
        /// The network.
        network: NetworkId,
        /// The entry's sequence: the number of entries that the log has without it.
        sequence: u64,
        /// The entry.
        entry: StoredEntry,
    },
    /// An entry anew, in place of one that was damaged on the disk.
    Mend {
        /// The network.
        network: NetworkId,
        /// The entry's sequence.
        sequence: u64,
        /// The entry.
        entry: StoredEntry,
    },
    /// Nothing of a log from a damaged entry on: this server only mirrors the log, and fetches it anew.
    Cut {
        /// The network.
        network: NetworkId,
        /// How many entries stay.
        length: u64,
    },
    /// The use of a founding token to fill the log of a network that this server was only told of.
    Spend {
        /// The network.
        network: NetworkId,
        /// The token that it uses up.
        token: FoundingToken,
    },
    /// The genesis record of a network that this server shall mirror, and with it the use of a founding token.
    Adopt {
        /// The network.
        network: NetworkId,
        /// The token that it uses up.
        token: FoundingToken,
        /// The encoded genesis record.
        genesis: Vec<u8>,
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
    /// A source that guessed too often.
    #[error("too many guesses from one source")]
    GuessLimit,
    /// A client that does not read what is written to it.
    #[error("client does not read")]
    SlowClient,
    /// No such link; it may just have been given up from this side.
    #[error("no such link")]
    UnknownLink,
    /// A fellow server that does not hold its key, or sends what is no message.
    #[error("fellow server does not verify")]
    BadFellow,
    /// An entry that its network's sequencer did not sign.
    #[error("log entry that does not verify")]
    BadEntry,
    /// A record that the sequencer says it placed, and that its log does not hold.
    #[error("record that is not where the sequencer says")]
    FalsePlace,
    /// Two histories of one network, both signed by its sequencer.
    #[error("two histories of one network")]
    Fork,
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
    /// Networks whose log another server orders.
    pub mirrored: usize,
    /// Links to fellow servers that are up.
    pub links: usize,
}

/// How long a fellow server that could not be reached is left alone at most.
pub const LINK_REST_MAX: Duration = Duration::from_secs(15);
