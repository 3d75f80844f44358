//! What a server is made of, what goes in and what comes out.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ginnel_stun::codec::{AddressFamily, Builder, Class, Key, Method, TransactionId};
use zeroize::Zeroizing;

use super::allocation::AllocationId;

/// Decides which addresses the server relays to; `true` lets through. It must judge what an address really is
/// (IPv4-mapped and other forms that embed an IPv4 address included).
pub type PeerPolicy = Box<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// What a server is made for.
pub struct Config {
    /// REALM of the long-term credentials, at most [`MAX_REALM_LEN`] bytes.
    pub realm: String,
    /// The secret that user names and passwords are made with, at least [`MIN_SECRET_LEN`] bytes.
    pub secret: Zeroizing<Vec<u8>>,
    /// The addresses that relayed addresses are on, as clients see them. Their families are the families served.
    pub relay_addresses: Vec<IpAddr>,
    /// The ports of relayed addresses; picked at random from this range.
    pub ports: RangeInclusive<u16>,
    /// Bounds.
    pub quotas: Quotas,
    /// Where clients may send to.
    pub policy: PeerPolicy,
    /// How long a nonce is good for; at least [`MIN_NONCE_LIFETIME`].
    pub nonce_lifetime: Duration,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("realm", &self.realm)
            .field("relay_addresses", &self.relay_addresses)
            .field("ports", &self.ports)
            .field("quotas", &self.quotas)
            .field("nonce_lifetime", &self.nonce_lifetime)
            .finish_non_exhaustive()
    }
}

/// How much a server holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Allocations of all users; beyond it, 508.
    pub total: usize,
    /// Allocations of one user, by the name part of the user name; beyond it, 486.
    pub per_user: usize,
    /// Permissions of one allocation; beyond it, 508.
    pub permissions: usize,
    /// Channels of one allocation; beyond it, 508.
    pub channels: usize,
}

impl Default for Quotas {
    /// For one small network: 1,000 allocations, 16 a user, and as many peers as a client of this crate asks for.
    fn default() -> Self {
        Self { total: 1000, per_user: 16, permissions: 512, channels: 512 }
    }
}

/// What happens to a [`Server`](super::Server).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The wall time, in Unix seconds. Give it first, and again when the clock was set.
    Wall(u64),
    /// A datagram from a client.
    Client {
        /// Its source.
        from: SocketAddr,
        /// The address of ours that it was sent to.
        local: SocketAddr,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// A datagram arrived on a relayed address.
    Relayed {
        /// Whose address it is.
        allocation: AllocationId,
        /// Its source.
        from: SocketAddr,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// A port is open.
    PortOpened {
        /// Whose it is.
        allocation: AllocationId,
        /// The relayed address as peers see it.
        addr: SocketAddr,
    },
    /// A port could not be opened; another is tried, up to eight.
    PortFailed {
        /// Whose it is.
        allocation: AllocationId,
    },
}

/// What a [`Server`](super::Server) wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send to a client.
    ToClient {
        /// The client.
        to: SocketAddr,
        /// The address of ours to send from.
        local: SocketAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// Open a UDP port for relaying; answer with [`Input::PortOpened`] or [`Input::PortFailed`].
    OpenPort {
        /// For whom.
        allocation: AllocationId,
        /// On the relay address of which family.
        family: AddressFamily,
        /// The port, not otherwise in use by this server.
        port: u16,
    },
    /// Close the port of an allocation that is gone; nothing is to be answered.
    ClosePort {
        /// Whose it was.
        allocation: AllocationId,
    },
    /// Send to a peer from a relayed address.
    Relay {
        /// Whose relayed address to send from.
        allocation: AllocationId,
        /// The peer.
        to: SocketAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
}

/// Why a configuration cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The realm is empty, too long or holds characters that REALM may not.
    #[error("realm is empty, longer than {MAX_REALM_LEN} bytes or holds forbidden characters")]
    Realm,
    /// The secret is too short.
    #[error("secret has fewer than {MIN_SECRET_LEN} bytes")]
    Secret,
    /// There is no relay address, or there are two of one family.
    #[error("there must be one relay address of a family, and one at least")]
    RelayAddresses,
    /// The range of ports is empty or begins with 0.
    #[error("range of relay ports is empty or begins with 0")]
    Ports,
    /// The nonce lifetime is too short.
    #[error("nonce lifetime is below one minute")]
    NonceLifetime,
}

/// Why an [`Input`] had no effect, or had none but an error answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Discard {
    /// Neither a STUN message nor ChannelData.
    #[error("neither a STUN message nor ChannelData")]
    Malformed,
    /// A message that no client sends to a server.
    #[error("unexpected message")]
    Unexpected,
    /// The network has had its share of answers without authentication.
    #[error("too many unauthenticated requests from this network")]
    RateLimited,
    /// Data from an address that has no allocation.
    #[error("no allocation")]
    NoAllocation,
    /// ChannelData on a channel that is not bound.
    #[error("channel is not bound")]
    UnknownChannel,
    /// An indication that lacks what it must have, or has what is not understood.
    #[error("indication lacks an attribute or has one that is not understood")]
    Incomplete,
    /// No permission for the peer's address.
    #[error("peer is not permitted")]
    NotPermitted,
    /// The policy does not let the peer's address through.
    #[error("peer policy forbids the address")]
    Forbidden,
    /// A relay address of this server without a live allocation on that port.
    #[error("no live allocation at this relay address")]
    NoSuchPeer,
    /// [`MAX_OUTPUTS`](super::MAX_OUTPUTS) wait to be drained; the datagram is dropped.
    #[error("output queue is full")]
    QueueFull,
    /// Data that does not fit one datagram.
    #[error("data does not fit one datagram")]
    TooLong,
    /// The shell speaks of an allocation that does not wait for a port.
    #[error("allocation does not wait for a port")]
    NotOpening,
}

impl Config {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let challenge = Builder::new(Class::Error, Method::Allocate, TransactionId([0; 12])).realm(&self.realm);
        if self.realm.len() > MAX_REALM_LEN
            || challenge.encode().is_err()
            || Key::long_term("u", &self.realm, "p").is_err()
        {
            return Err(ConfigError::Realm);
        }
        if self.secret.len() < MIN_SECRET_LEN {
            return Err(ConfigError::Secret);
        }
        let families: BTreeSet<_> = self.relay_addresses.iter().map(|address| AddressFamily::of(*address)).collect();
        if families.is_empty() || families.len() != self.relay_addresses.len() {
            return Err(ConfigError::RelayAddresses);
        }
        if self.ports.is_empty() || *self.ports.start() == 0 {
            return Err(ConfigError::Ports);
        }
        if self.nonce_lifetime < MIN_NONCE_LIFETIME {
            return Err(ConfigError::NonceLifetime);
        }
        Ok(())
    }
}

/// Longest realm: a 401 answer must not exceed [`MAX_CHALLENGE_LEN`](crate::MAX_CHALLENGE_LEN).
pub const MAX_REALM_LEN: usize = 48;
/// Shortest secret.
pub const MIN_SECRET_LEN: usize = 16;
/// Shortest nonce lifetime.
pub const MIN_NONCE_LIFETIME: Duration = Duration::from_secs(60);
