//! The server: relays for clients that hold time-limited credentials.
//!
//! The shell owns the sockets: those that clients send to, and one for each relayed address, opened on
//! [`Output::OpenPort`] and closed on [`Output::ClosePort`]. Give [`Input::Wall`] first: without wall time no credentials
//! are valid.
//!
//! **Who may reach what.** Every datagram in either direction passes one check: the peer's address must hold an unexpired
//! permission of the allocation, and must be one that [`PeerPolicy`] lets through or an address of this server's own.
//! Granting a permission or a channel asks the policy too. On an address of the server's own, only live relayed addresses
//! exist: the datagram goes from one allocation to the other inside the process, when the second has permitted the first
//! as well; nothing is ever sent to another port there.
//!
//! **What a stranger costs.** A request that is not authenticated leaves nothing behind but an entry in a bounded table
//! that limits answers per /24 and /64. Its answer has at most [`MAX_CHALLENGE_LEN`](crate::MAX_CHALLENGE_LEN) bytes.
//!
//! **What a user costs.** Allocations count against [`Quotas`] from the moment a port is asked for; channels and
//! permissions are bounded per allocation.

mod allocation;
mod api;
mod limiter;
mod nonce;
mod relay;
mod requests;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_stun::codec::{AddressFamily, Builder, Class, Key, Method};
use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use allocation::{Allocations, FiveTuple, Parity, Stage};
use limiter::AnswerLimiter;
use nonce::Nonces;

pub use allocation::AllocationId;
pub use api::{
    Config, ConfigError, Discard, Input, MAX_REALM_LEN, MIN_NONCE_LIFETIME, MIN_SECRET_LEN, Output, PeerPolicy, Quotas,
};

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
    /// Addresses that only live relayed addresses exist on: those of the configuration, those the shell opened, and those
    /// that clients send to.
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
        config.check()?;
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

    /// Takes an address out of what can be reached, but for live relayed addresses on it: a client that could reach our
    /// own ports could relay through itself in circles.
    fn note_own_address(&mut self, address: IpAddr) {
        if !address.is_unspecified() && self.own_addresses.len() < MAX_OWN_ADDRESSES {
            self.own_addresses.insert(address.to_canonical());
        }
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
        self.note_own_address(relayed.ip());
        self.allocations.go_live(id, relayed, answer.clone());
        self.allocations.set_expiry(id, self.now + lifetime);
        self.send_to_client(to, answer)
    }

    fn port_failed(&mut self, id: AllocationId) -> Result<(), Discard> {
        let allocation = self.allocations.get(id).ok_or(Discard::NotOpening)?;
        let (family, to, transaction) = (allocation.family, allocation.five_tuple, allocation.transaction);
        let port = self.pick_port(family, allocation.parity);
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
    fn pick_port(&mut self, family: AddressFamily, parity: Parity) -> Option<u16> {
        let (low, high) = (u32::from(*self.config.ports.start()), u32::from(*self.config.ports.end()));
        let size = high.checked_sub(low)? + 1;
        let start = self.rng.next_u32() % size;
        (0..size)
            .filter_map(|step| u16::try_from(low + (start + step) % size).ok())
            .filter(|port| parity == Parity::Any || port.is_multiple_of(2))
            .find(|port| !self.allocations.is_port_taken(family, *port))
    }

    fn serves(&self, family: AddressFamily) -> bool {
        self.config.relay_addresses.iter().any(|address| AddressFamily::of(*address) == family)
    }

    fn reply_signed(&mut self, to: FiveTuple, answer: Builder, key: &Key) {
        let bytes = answer.encode_signed(key).expect("answers hold only what was checked or fixed");
        // A full queue drops the answer; the client repeats its request.
        let _ = self.send_to_client(to, bytes);
    }

    fn send_to_client(&mut self, to: FiveTuple, bytes: Vec<u8>) -> Result<(), Discard> {
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

/// More addresses than a machine that relays has; the shell tells them, so it bounds a mistake of the shell's.
const MAX_OWN_ADDRESSES: usize = 256;
/// Other programs on the machine use ports too; a range in which eight in a row are taken is full.
const MAX_PORTS_TRIED: u8 = 8;

#[cfg(test)]
mod tests;
