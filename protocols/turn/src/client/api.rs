//! What goes into a client and what comes out.

use std::net::{IpAddr, SocketAddr};

use ginnel_stun::codec::AddressFamily;

use crate::channel_data::ChannelNumber;
use crate::credentials::Credentials;

/// What a client is made for.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server. The client never sends by itself; the caller sends every [`Output::Send`] there and hands in only
    /// what came from there.
    pub server: SocketAddr,
    /// The credentials to begin with.
    pub credentials: Credentials,
    /// Family of the relayed address, which is the family of all its peers.
    pub family: AddressFamily,
}

/// What happens to a [`Client`](super::Client).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Make the allocation; nothing while there is one, or one is being made.
    Allocate,
    /// A datagram came from the server.
    Received(Vec<u8>),
    /// Bind a channel to this peer, which permits its address too. Asking again for a peer that is bound repeats
    /// [`Output::Bound`] and marks the peer as used.
    Bind(SocketAddr),
    /// Give up a peer's channel.
    Unbind(SocketAddr),
    /// Permit an address without a channel.
    Permit(IpAddr),
    /// Let the permission of an address run out.
    Unpermit(IpAddr),
    /// Send data to a peer: by its channel if one is bound, in a Send indication if its address is permitted.
    Send {
        /// The peer.
        peer: SocketAddr,
        /// The data.
        bytes: Vec<u8>,
    },
    /// Sign with these from now on. A live allocation stays; if its server insists on the user name that made it, the
    /// former credentials serve until the next allocation.
    Credentials(Credentials),
    /// Ask the server at once whether the allocation lives; nothing while that is being asked, or without one.
    Check,
    /// Delete the allocation.
    Close,
}

/// What a [`Client`](super::Client) wants done, or has found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send these bytes to the server.
    Send(Vec<u8>),
    /// There is an allocation.
    Allocated {
        /// The address that peers reach us by.
        relayed: SocketAddr,
        /// The address that the server sees us by.
        mapped: SocketAddr,
    },
    /// A channel is bound: ChannelData may be sent on it and may arrive on it.
    Bound {
        /// The peer.
        peer: SocketAddr,
        /// Its channel.
        channel: ChannelNumber,
    },
    /// A channel is no longer bound, or a peer that was asked for cannot be. Data still may arrive on it for a while.
    Unbound {
        /// The peer.
        peer: SocketAddr,
        /// Its channel.
        channel: ChannelNumber,
        /// Why.
        reason: Ended,
    },
    /// An address is permitted.
    Permitted(IpAddr),
    /// An address is no longer permitted, or cannot be.
    Unpermitted {
        /// The address.
        address: IpAddr,
        /// Why.
        reason: Ended,
    },
    /// Data from a peer, out of a Data indication or out of ChannelData that was handed in.
    Data {
        /// The peer.
        peer: SocketAddr,
        /// The data.
        bytes: Vec<u8>,
    },
    /// There is no allocation, and none will come of the request for one.
    Failed {
        /// Why.
        reason: Failure,
    },
    /// The allocation is gone, with all channels and permissions.
    Lost {
        /// Why.
        reason: Loss,
    },
    /// The allocation was deleted as asked, or could not be because no answer came for half a minute.
    Closed,
}

/// Why an allocation was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// No answer.
    #[error("server does not answer")]
    Timeout,
    /// 401 or 441: the server does not accept the credentials.
    #[error("server does not accept the credentials")]
    Unauthorized,
    /// The credentials cannot be written into a message.
    #[error("credentials hold forbidden characters or are too long")]
    InvalidCredentials,
    /// 437: the server holds an allocation for our address and does not let go of it.
    #[error("server holds another allocation for this address")]
    Mismatch,
    /// 486: the user has as many allocations as it may.
    #[error("allocation quota reached")]
    QuotaReached,
    /// 508: the server has no room.
    #[error("server has no capacity")]
    InsufficientCapacity,
    /// 403: the server's administrator forbids it.
    #[error("forbidden by the server")]
    Forbidden,
    /// 440: the server relays no addresses of the family that was asked for.
    #[error("server does not relay this address family")]
    FamilyNotSupported,
    /// 300: another server is to be asked.
    #[error("server names another server")]
    Redirect(SocketAddr),
    /// The server's answer makes no sense.
    #[error("server gave an unusable answer")]
    Malformed,
    /// Another error code.
    #[error("server refused with code {0}")]
    Refused(u16),
}

/// Why an allocation is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Loss {
    /// 437: the server knows no allocation for our address; it restarted, or our address changed.
    #[error("server does not know the allocation")]
    Mismatch,
    /// The server has not answered for 30 s.
    #[error("server does not answer")]
    Silent,
    /// The lifetime ran out, as after suspend.
    #[error("lifetime ran out")]
    Expired,
    /// The server no longer accepts the credentials.
    #[error("server no longer accepts the credentials")]
    Unauthorized,
}

/// Why a channel or a permission ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// The caller gave it up.
    #[error("given up")]
    Asked,
    /// Another took its place: [`MAX_PEERS`](super::MAX_PEERS) are held at most.
    #[error("another peer took its place")]
    Evicted,
    /// It was not renewed in time.
    #[error("not renewed in time")]
    Expired,
    /// 403: the server does not relay to this address.
    #[error("server does not relay to this address")]
    Forbidden,
    /// Another error code.
    #[error("server refused with code {0}")]
    Refused(u16),
}

/// Why an [`Input`] had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Discard {
    /// Neither a STUN message nor ChannelData.
    #[error("neither a STUN message nor ChannelData")]
    Malformed,
    /// A message that no server sends to a client.
    #[error("unexpected message")]
    Unexpected,
    /// No open request has this id, or it was another request.
    #[error("no such request")]
    UnknownTransaction,
    /// An answer without proof that the server made it.
    #[error("answer is not authentic")]
    Unauthenticated,
    /// An answer that lacks what it must have.
    #[error("answer lacks an attribute or has one that is not understood")]
    Incomplete,
    /// ChannelData on a channel that no peer holds.
    #[error("no peer holds this channel")]
    UnknownChannel,
    /// Data from or for a peer that is not permitted.
    #[error("peer is not permitted")]
    NotPermitted,
    /// There is no allocation.
    #[error("no allocation")]
    NotAllocated,
    /// A peer of the other address family, or one that no relay reaches.
    #[error("peer has the wrong address family")]
    WrongFamily,
    /// All channel numbers are taken or rest.
    #[error("no channel number is free")]
    NoChannel,
    /// [`MAX_OUTPUTS`](super::MAX_OUTPUTS) wait to be drained.
    #[error("output queue is full")]
    QueueFull,
    /// Data that does not fit one datagram.
    #[error("data does not fit one datagram")]
    TooLong,
}
