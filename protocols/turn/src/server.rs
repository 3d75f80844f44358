//! The server: relays for clients that hold time-limited credentials.
//!
//! The shell owns the sockets: those that clients send to, and one for each relayed address, opened on
//! [`Output::OpenPort`] and closed on [`Output::ClosePort`]. Give [`Input::Wall`] first: without wall time no credentials
//! are valid.
//!
//! **Who may reach what.** Every datagram in either direction passes one check: the peer's address must hold an unexpired
//! permission of the allocation, and must be one that [`PeerPolicy`] lets through or a relay address of this server.
//! Granting a permission or a channel asks the policy too. For a relay address of this server, only live relayed addresses
//! exist: the datagram goes from one allocation to the other inside the process, when the second has permitted the first
//! as well; nothing is ever sent to another port there.
//!
//! **What a stranger costs.** A request that is not authenticated leaves nothing behind but an entry in a bounded table
//! that limits answers per /24 and /64. Its answer has at most [`MAX_CHALLENGE_LEN`](crate::MAX_CHALLENGE_LEN) bytes.
//!
//! **What a user costs.** Allocations count against [`Quotas`] from the moment a port is asked for; channels and
//! permissions are bounded per allocation.

mod allocation;
mod limiter;
mod nonce;
mod relay;
mod requests;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use ginnel_stun::codec::{AddressFamily, Builder, Class, Key, Method, TransactionId};
use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use zeroize::Zeroizing;

use allocation::{Allocations, FiveTuple, Stage};
use limiter::AnswerLimiter;
use nonce::Nonces;

pub use allocation::AllocationId;

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

/// What happens to a [`Server`].
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

/// What a [`Server`] wants done.
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
    /// [`MAX_OUTPUTS`] wait to be drained; the datagram is dropped.
    #[error("output queue is full")]
    QueueFull,
    /// Data that does not fit one datagram.
    #[error("data does not fit one datagram")]
    TooLong,
    /// The shell speaks of an allocation that does not wait for a port.
    #[error("allocation does not wait for a port")]
    NotOpening,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    BadRequest,
    Forbidden,
    AllocationMismatch,
    AddressFamilyNotSupported,
    WrongCredentials,
    UnsupportedTransport,
    PeerFamilyMismatch,
    QuotaReached,
    InsufficientCapacity,
}

impl Refusal {
    const fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::AllocationMismatch => 437,
            Self::AddressFamilyNotSupported => 440,
            Self::WrongCredentials => 441,
            Self::UnsupportedTransport => 442,
            Self::PeerFamilyMismatch => 443,
            Self::QuotaReached => 486,
            Self::InsufficientCapacity => 508,
        }
    }
}

/// Longest realm: a 401 answer must not exceed [`MAX_CHALLENGE_LEN`](crate::MAX_CHALLENGE_LEN).
pub const MAX_REALM_LEN: usize = 48;
/// Shortest secret.
pub const MIN_SECRET_LEN: usize = 16;
/// Shortest nonce lifetime.
pub const MIN_NONCE_LIFETIME: Duration = Duration::from_secs(60);
/// Most outputs that wait to be drained; what would come after is dropped.
pub const MAX_OUTPUTS: usize = 4096;

/// Relays between clients and peers.
pub struct Server {
    config: Config,
    rng: ChaCha20Rng,
    now: Instant,
    wall: Option<Wall>,
    nonces: Nonces,
    limiter: AnswerLimiter,
    allocations: Allocations,
    /// Addresses that only live relayed addresses exist on: those of the configuration and those the shell opened.
    own_addresses: BTreeSet<IpAddr>,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug)]
struct Wall {
    unix_seconds: u64,
    at: Instant,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("config", &self.config)
            .field("allocations", &self.allocations)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Makes a server without allocations; `seed` decides nonces and ports and must not be guessable.
    ///
    /// # Errors
    /// [`ConfigError`] names what cannot work.
    pub fn new(seed: [u8; 32], config: Config) -> Result<Self, ConfigError> {
        check(&config)?;
        let mut rng = ChaCha20Rng::from_seed(seed);
        let nonces = Nonces::new(Instant::ZERO, config.nonce_lifetime, &mut rng);
        Ok(Self {
            own_addresses: config.relay_addresses.iter().copied().collect(),
            config,
            rng,
            now: Instant::ZERO,
            wall: None,
            nonces,
            limiter: AnswerLimiter::default(),
            allocations: Allocations::default(),
            outputs: VecDeque::new(),
        })
    }

    /// Takes a datagram, the wall time or the shell's word on a port.
    ///
    /// # Errors
    /// [`Discard`] says why the input had no effect. A request that is answered with an error is not discarded.
    pub fn handle_input(&mut self, now: Instant, input: Input) -> Result<(), Discard> {
        self.advance(now);
        match input {
            Input::Wall(unix_seconds) => {
                self.wall = Some(Wall { unix_seconds, at: self.now });
                Ok(())
            }
            Input::Client { from, local, bytes } => self.receive(FiveTuple { client: from, local }, bytes),
            Input::Relayed { allocation, from, bytes } => self.receive_relayed(allocation, from, bytes),
            Input::PortOpened { allocation, addr } => self.port_opened(allocation, addr),
            Input::PortFailed { allocation } => self.port_failed(allocation),
        }
    }

    /// Ends allocations whose lifetime ran out.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// Gives the next thing to do; `None` once all is given.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is due; the last `now` while output waits.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.outputs.is_empty() {
            return Some(self.now);
        }
        self.allocations.next_expiry().map(|(expires, _)| expires)
    }

    /// How many allocations there are, those being opened included.
    pub fn allocations(&self) -> usize {
        self.allocations.len()
    }

    /// Makes credentials that this server accepts for `lifetime`, in the name of `name`; nothing before the first
    /// [`Input::Wall`].
    pub fn credentials(&self, name: &str, lifetime: Duration) -> Option<crate::Credentials> {
        let expires = self.unix_seconds()?.saturating_add(lifetime.as_secs());
        Some(crate::Credentials::time_limited(&self.config.secret, expires, name))
    }

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.nonces.rotate(self.now, &mut self.rng);
        while let Some((expires, id)) = self.allocations.next_expiry()
            && expires <= self.now
        {
            self.end(id);
        }
    }

    fn unix_seconds(&self) -> Option<u64> {
        let wall = self.wall?;
        Some(wall.unix_seconds.saturating_add(self.now.saturating_duration_since(wall.at).as_secs()))
    }

    /// Ends an allocation and has its port closed. The order to close is never dropped: the shell would keep the socket.
    fn end(&mut self, id: AllocationId) {
        if self.allocations.remove(id).is_some() {
            self.outputs.push_back(Output::ClosePort { allocation: id });
        }
    }

    fn port_opened(&mut self, id: AllocationId, relayed: SocketAddr) -> Result<(), Discard> {
        let relayed = SocketAddr::new(relayed.ip().to_canonical(), relayed.port());
        let Some(allocation) = self.allocations.get(id) else {
            self.outputs.push_back(Output::ClosePort { allocation: id });
            return Err(Discard::NotOpening);
        };
        let Stage::Opening { key, lifetime, .. } = &allocation.stage else { return Err(Discard::NotOpening) };
        let (key, lifetime, to) = (key.clone(), *lifetime, allocation.five_tuple);
        let unusable = AddressFamily::of(relayed.ip()) != allocation.family || relayed.port() == 0;
        if unusable || self.allocations.of_relayed(relayed).is_some() {
            let answer = Builder::new(Class::Error, Method::Allocate, allocation.transaction).error(508);
            self.reply_signed(to, answer, &key);
            self.end(id);
            return Ok(());
        }
        let answer = Builder::new(Class::Success, Method::Allocate, allocation.transaction)
            .xor_relayed_address(relayed)
            .lifetime(u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX))
            .xor_mapped_address(SocketAddr::new(to.client.ip().to_canonical(), to.client.port()))
            .encode_signed(&key)
            .expect("addresses and numbers always fit");
        self.own_addresses.insert(relayed.ip());
        self.allocations.go_live(id, relayed, answer.clone());
        self.allocations.set_expiry(id, self.now + lifetime);
        self.to_client(to, answer)
    }

    fn port_failed(&mut self, id: AllocationId) -> Result<(), Discard> {
        let allocation = self.allocations.get(id).ok_or(Discard::NotOpening)?;
        let (family, to, transaction) = (allocation.family, allocation.five_tuple, allocation.transaction);
        let port = self.pick_port(family);
        let allocation = self.allocations.get_mut(id).ok_or(Discard::NotOpening)?;
        let Stage::Opening { key, ports_tried, .. } = &mut allocation.stage else { return Err(Discard::NotOpening) };
        *ports_tried = ports_tried.saturating_add(1);
        let key = key.clone();
        if let Some(port) = port.filter(|_| *ports_tried <= MAX_PORTS_TRIED) {
            self.allocations.change_port(id, port);
            self.outputs.push_back(Output::OpenPort { allocation: id, family, port });
            return Ok(());
        }
        // The shell has no socket to close.
        self.allocations.remove(id);
        self.reply_signed(to, Builder::new(Class::Error, Method::Allocate, transaction).error(508), &key);
        Ok(())
    }

    /// A port at random that no allocation of the family has; `None` when all are taken.
    fn pick_port(&mut self, family: AddressFamily) -> Option<u16> {
        let (low, high) = (u32::from(*self.config.ports.start()), u32::from(*self.config.ports.end()));
        let size = high.checked_sub(low)? + 1;
        let start = self.rng.next_u32() % size;
        (0..size)
            .filter_map(|step| u16::try_from(low + (start + step) % size).ok())
            .find(|port| !self.allocations.is_port_taken(family, *port))
    }

    fn serves(&self, family: AddressFamily) -> bool {
        self.config.relay_addresses.iter().any(|address| AddressFamily::of(*address) == family)
    }

    fn reply_signed(&mut self, to: FiveTuple, answer: Builder, key: &Key) {
        let bytes = answer.encode_signed(key).expect("answers hold only what was checked or fixed");
        // A full queue drops the answer; the client repeats its request.
        let _ = self.to_client(to, bytes);
    }

    fn to_client(&mut self, to: FiveTuple, bytes: Vec<u8>) -> Result<(), Discard> {
        self.push(Output::ToClient { to: to.client, local: to.local, bytes })
    }

    fn push(&mut self, output: Output) -> Result<(), Discard> {
        if self.outputs.len() >= MAX_OUTPUTS {
            return Err(Discard::QueueFull);
        }
        self.outputs.push_back(output);
        Ok(())
    }
}

fn check(config: &Config) -> Result<(), ConfigError> {
    let challenge = Builder::new(Class::Error, Method::Allocate, TransactionId([0; 12])).realm(&config.realm);
    if config.realm.len() > MAX_REALM_LEN
        || challenge.encode().is_err()
        || Key::long_term("u", &config.realm, "p").is_err()
    {
        return Err(ConfigError::Realm);
    }
    if config.secret.len() < MIN_SECRET_LEN {
        return Err(ConfigError::Secret);
    }
    let families: BTreeSet<_> = config.relay_addresses.iter().map(|address| AddressFamily::of(*address)).collect();
    if families.is_empty() || families.len() != config.relay_addresses.len() {
        return Err(ConfigError::RelayAddresses);
    }
    if config.ports.is_empty() || *config.ports.start() == 0 {
        return Err(ConfigError::Ports);
    }
    if config.nonce_lifetime < MIN_NONCE_LIFETIME {
        return Err(ConfigError::NonceLifetime);
    }
    Ok(())
}

/// Other programs on the machine use ports too; a range in which eight in a row are taken is full.
const MAX_PORTS_TRIED: u8 = 8;

#[cfg(test)]
mod tests;
