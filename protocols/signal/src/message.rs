//! What client and server say to each other, and its encoding.

use std::net::SocketAddr;

use ginnel_membership::invite::Token;
use ginnel_membership::{InviteKey, MemberKey, NetworkId, SequencerKey, Signature};
use serde::{Deserialize, Serialize};

use crate::frame::MAX_MESSAGE;

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientMessage {
    /// The first message on every channel: who the client is, proved by signatures over this channel.
    ///
    /// [`Client`](crate::Client) writes it by itself.
    Authenticate {
        /// The network that the client speaks for.
        network: NetworkId,
        /// The role and its proof.
        claim: Claim,
    },
    /// Registers a network; founders only. Where the genesis names this server's key, the server orders the network's log
    /// from here on; where it names another's, the server becomes a mirror, whose log comes by [`Self::Refill`] and from
    /// the network's other servers.
    Found {
        /// The encoded genesis record.
        genesis: Vec<u8>,
    },
    /// Asks for log entries from sequence `from` on; answered by one [`ServerMessage::Entries`].
    Fetch {
        /// The first sequence wanted.
        from: u64,
    },
    /// Asks for a record to be put into the log.
    Append {
        /// The encoded signed record.
        record: Vec<u8>,
    },
    /// Hands sealed mail to the server for another member; members only.
    Mail {
        /// Who shall have it.
        to: MemberKey,
        /// What [`mailbox`](crate::mailbox) sealed; at most [`MAX_MAIL`](crate::mailbox::MAX_MAIL) bytes.
        bytes: Vec<u8>,
    },
    /// Asks for TURN credentials; members only.
    Relay,
    /// Asks for a sign of life.
    Ping,
    /// Hands the server entries that its log lacks; members, admins, founders and mirrors.
    ///
    /// Answered, once all that was new is on disk, by one [`ServerMessage::Entries`] without entries, whose head tells how
    /// far the server's log goes: entries that do not touch its end are left aside. Refused with [`Refusal::Fork`] where an
    /// entry and the server's own claim one place.
    Refill {
        /// The sequence of the first entry in the list.
        first: u64,
        /// Encoded entries with consecutive sequences, together at most [`MAX_REFILL`](crate::server::MAX_REFILL) bytes
        /// with 3 more for each.
        entries: Vec<Vec<u8>>,
    },
    /// Asks for a piece of the newest checkpoint's state; answered by one [`ServerMessage::Snapshot`].
    FetchSnapshot {
        /// The first byte wanted.
        offset: u64,
    },
    /// Hands on a record that a client of this mirror asks to append; mirrors only. Answered by one
    /// [`ServerMessage::Forwarded`].
    Forward {
        /// The mirror's own number for this request.
        number: u64,
        /// The encoded signed record.
        record: Vec<u8>,
    },
}

/// The role a client claims, with its proof.
///
/// Every signature is over the message that the [crate's docs](crate#messages) define, which holds the handshake of this channel, so
/// it is worth nothing on another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// A member, or an admin that is no member.
    Member {
        /// The Ed25519 key of the node or admin.
        key: MemberKey,
        /// By `key`.
        signature: Signature,
    },
    /// The holder of an invite.
    Joiner {
        /// The invite's Ed25519 key.
        invite: InviteKey,
        /// By `invite`.
        invite_signature: Signature,
        /// The key that the joiner is about to make a member.
        key: MemberKey,
        /// By `key`.
        signature: Signature,
    },
    /// The holder of a founding string.
    Founder {
        /// The one-time token.
        token: FoundingToken,
        /// The first admin's Ed25519 key.
        key: MemberKey,
        /// By `key`.
        signature: Signature,
    },
    /// Another server of the network.
    Mirror {
        /// The key by which it stands in the log's list of servers.
        key: SequencerKey,
        /// By `key`.
        signature: Signature,
    },
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerMessage {
    /// The first message after authentication.
    Welcome(Welcome),
    /// Log entries in order, as an answer to `Fetch` or pushed when the log grew.
    Entries {
        /// The sequence of the first entry in the list; where the list is empty, the sequence asked for.
        first: u64,
        /// Encoded entries with consecutive sequences; fewer than asked for when they would not fit.
        entries: Vec<Vec<u8>>,
        /// The end of the server's log.
        head: Head,
    },
    /// The record is in the log, and the log is on disk.
    Appended {
        /// Its sequence.
        sequence: u64,
    },
    /// The server did not do what was asked.
    Refused {
        /// The request that is refused. Requests of one kind are answered in the order in which they were made.
        request: Request,
        /// Why, for programs.
        code: Refusal,
        /// Why, for people; both sides keep it to at most [`MAX_TEXT`] characters of printable ASCII.
        text: String,
    },
    /// Sealed mail from another member.
    Mail {
        /// Who handed it in, as the server saw it; the seal proves the tunnel key.
        from: MemberKey,
        /// The sealed bytes.
        bytes: Vec<u8>,
    },
    /// Mail was not taken.
    MailRefused {
        /// The addressee of the refused mail.
        to: MemberKey,
        /// Why.
        why: MailRefusal,
    },
    /// Credentials for the server's TURN relay.
    Relay(RelayCredentials),
    /// The answer to `Ping`.
    Pong,
    /// A piece of the newest checkpoint's state. Pieces of one state all carry the same `entry`; another one means that a
    /// newer checkpoint took its place, and the client begins anew.
    Snapshot {
        /// The encoded log entry that holds the checkpoint.
        entry: Vec<u8>,
        /// Bytes of the whole state.
        total: u64,
        /// Where this piece begins.
        offset: u64,
        /// The piece; empty at the end.
        bytes: Vec<u8>,
    },
    /// What became of a record that was handed on.
    Forwarded {
        /// The number out of [`ClientMessage::Forward`].
        number: u64,
        /// What became of it.
        outcome: Placing,
    },
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placing {
    /// It is in the log, on the sequencer's disk.
    Placed {
        /// Its sequence.
        sequence: u64,
    },
    /// It is not.
    Refused {
        /// Why, for programs.
        code: Refusal,
        /// Why, for people.
        text: String,
    },
}

/// What a server tells every client that it lets in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// What the client may do on this channel.
    pub standing: Standing,
    /// The client's address as the server sees it.
    pub observed: SocketAddr,
    /// UDP ports on the server's address that answer STUN and serve TURN, best first.
    pub stun_ports: Vec<u16>,
    /// Whether this server hands out relay credentials.
    pub relay: RelayOffer,
    /// The end of the network's log; zero entries for a network not founded yet.
    pub head: Head,
    /// The server's clock, Unix seconds.
    pub time: u64,
    /// The sequence of the newest checkpoint whose state [`ClientMessage::FetchSnapshot`] gets.
    pub checkpoint: Option<u64>,
}

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Standing {
    /// May read the log, append, mail and relay.
    Member,
    /// May read the log and append its own membership.
    Joiner,
    /// May found the network, and afterwards what an admin may: read the log and append.
    Founder,
    /// Holds an admin key that is no member: may read the log and append.
    Admin,
    /// A server of the network: may read the log and hand records on.
    Mirror,
}

/// Whether a server hands out relay credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RelayOffer {
    /// `Relay` is answered with credentials.
    Offered,
    /// `Relay` is refused.
    None,
}

/// The end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// How many entries the log holds.
    pub length: u64,
    /// The hash of the last entry; the network's id for an empty log.
    pub hash: [u8; 32],
}

/// Time-limited credentials for a TURN relay.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayCredentials {
    /// The long-term credential's user name.
    pub username: String,
    /// The long-term credential's password.
    pub password: String,
    /// How long the server accepts them, from the moment of the answer.
    pub lifetime_seconds: u32,
    /// The relay's addresses over UDP; empty means the address by which the server was reached, first STUN port.
    pub addresses: Vec<SocketAddr>,
}

/// The request that a [`ServerMessage::Refused`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Request {
    /// The connection as a whole; it closes.
    Connection,
    /// `Found`.
    Found,
    /// `Fetch`.
    Fetch,
    /// `Append`.
    Append,
    /// `Relay`.
    Relay,
    /// `Refill`.
    Refill,
    /// `FetchSnapshot`.
    FetchSnapshot,
}

/// Why a server refuses, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Refusal {
    /// The server does not know the network.
    UnknownNetwork,
    /// A signature does not verify.
    BadSignature,
    /// The key is not in the network.
    NotAMember,
    /// The key was revoked, for good.
    Revoked,
    /// No such invite in the log, or it was made void.
    InviteUnknown,
    /// The invite was used by another machine.
    InviteUsed,
    /// The invite is past its expiry.
    InviteExpired,
    /// The server never gave out this founding token.
    TokenUnknown,
    /// The founding token has founded another network.
    TokenUsed,
    /// What was asked is not for this standing.
    NotAllowed,
    /// The log's rules refuse the record, by the number of [`ginnel_membership::Refusal::code`].
    Record(u16),
    /// The record or the log is larger than the server takes.
    TooLarge,
    /// Too many requests; try again after some seconds.
    RateLimited,
    /// The server has no room; try later or elsewhere.
    Busy,
    /// The same key came in on a newer connection.
    Replaced,
    /// The server could not write to its disk; nothing was changed.
    Storage,
    /// The server offers no relay.
    NoRelay,
    /// The message was malformed or out of place.
    Malformed,
    /// This server cannot reach the one that orders the log, or is not yet sure that its own log is whole; try again.
    NoSequencer,
    /// An entry and the server's log, both signed by the sequencer, claim one place. The server keeps its own.
    Fork,
    /// The server holds no checkpoint's state.
    NoCheckpoint,
}

/// Why mail was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MailRefusal {
    /// The addressee is not a member.
    NotAMember,
    /// Over 4 KiB, or empty.
    Size,
    /// The sender sends too fast.
    RateLimited,
    /// The server holds too much mail.
    Busy,
    /// Only members may mail.
    NotAllowed,
}

/// A founding token on the wire: 16 plain bytes.
#[derive(Clone)]
pub struct FoundingToken(pub Token);

/// Bytes that are no message of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The version byte is not ours.
    #[error("message version {0} is not known")]
    Version(u8),
    /// The body does not decode, or has bytes left over.
    #[error("message body does not decode")]
    Body,
    /// Nothing at all.
    #[error("message is empty")]
    Empty,
}

impl ClientMessage {
    /// The message as it is sealed: a version byte and the body.
    ///
    /// # Errors
    /// [`TooLong`] where the message would not fit into one frame.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        encode(self)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`Malformed`], also for bytes left over.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        decode(bytes)
    }
}

impl ServerMessage {
    /// The message as it is sealed: a version byte and the body.
    ///
    /// # Errors
    /// [`TooLong`] where the message would not fit into one frame.
    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        encode(self)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`Malformed`], also for bytes left over.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        decode(bytes)
    }
}

/// A message that does not fit into one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message of {0} bytes does not fit into one frame")]
pub struct TooLong(pub usize);

impl PartialEq for FoundingToken {
    fn eq(&self, other: &Self) -> bool {
        self.0.matches(&other.0)
    }
}

impl Eq for FoundingToken {}

impl std::fmt::Debug for FoundingToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FoundingToken(..)")
    }
}

impl Serialize for FoundingToken {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_bytes().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for FoundingToken {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <[u8; 16]>::deserialize(deserializer).map(|bytes| Self(Token::from_bytes(bytes)))
    }
}

impl std::fmt::Debug for RelayCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayCredentials")
            .field("username", &self.username)
            .field("lifetime_seconds", &self.lifetime_seconds)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, TooLong> {
    let bytes = postcard::to_extend(message, vec![VERSION]).expect("messages hold only types that postcard encodes");
    if bytes.len() > MAX_MESSAGE { Err(TooLong(bytes.len())) } else { Ok(bytes) }
}

fn decode<'de, M: Deserialize<'de>>(bytes: &'de [u8]) -> Result<M, Malformed> {
    match bytes {
        [] => Err(Malformed::Empty),
        [VERSION, body @ ..] => match postcard::take_from_bytes(body) {
            Ok((message, [])) => Ok(message),
            Ok(_) | Err(_) => Err(Malformed::Body),
        },
        [other, ..] => Err(Malformed::Version(*other)),
    }
}

/// A text that may go to a terminal: printable ASCII, at most [`MAX_TEXT`] characters. Servers send their refusals
/// so, and clients do not rely on it.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

/// Most characters of a refusal's text.
pub const MAX_TEXT: usize = 300;

/// The version byte before every message body.
pub const VERSION: u8 = 2;
