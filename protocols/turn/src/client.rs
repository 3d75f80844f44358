//! The client: one allocation on one server.
//!
//! ```text
//! Idle --Allocate--> Allocating --answer--> Live --Close--> Closing --> Idle (Closed)
//!                        |                   |
//!                        +--> Idle (Failed)  +--> Idle (Lost)
//! ```
//! After `Failed`, `Lost` and `Closed` nothing is kept but the credentials: no channel is bound and no address permitted.
//! [`Input::Allocate`] starts anew.
//!
//! - An answer counts only with the id of an open request. A success must carry MESSAGE-INTEGRITY made with the key that
//!   signed the request.
//! - A nonce that became stale (438) is replaced and the request made again, whatever it was for.
//! - The allocation is refreshed at half its lifetime, a channel after 4 to 5 minutes, since a channel brings a
//!   permission that lasts 5, and a permission of its own after 3 to 4.
//! - Every 25 s without a request the client asks the server for its mapped address. That keeps a NAT's mapping open,
//!   and when the address has changed, or no answer comes, the allocation is refreshed at once: it belongs to the old
//!   address, and the server says so.
//! - A server that answers nothing for 30 s has lost the allocation, since some servers never answer for one that they
//!   forgot.

mod auth;
mod peers;
mod transactions;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_stun::codec::{self, AddressFamily, Builder, Class, Message, Method, TransactionId, Unauthenticated};
use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use crate::channel_data::{self, ChannelNumber};
use crate::credentials::Credentials;
use auth::Authenticator;
pub use peers::MAX_PEERS;
use peers::{Bindings, Permissions};
use transactions::{Fired, Purpose, Transactions};

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

/// What happens to a [`Client`].
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
    /// Delete the allocation.
    Close,
}

/// What a [`Client`] wants done, or has found out.
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
    /// The allocation was deleted as asked, or could not be for want of an answer.
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
    /// Another took its place: [`MAX_PEERS`] are held at most.
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
    /// [`MAX_OUTPUTS`] wait to be drained; data is dropped.
    #[error("output queue is full")]
    QueueFull,
    /// Data that does not fit one datagram.
    #[error("data does not fit one datagram")]
    TooLong,
}

/// Most outputs that wait to be drained; data beyond is dropped, requests and results are not.
pub const MAX_OUTPUTS: usize = 1024;

/// Keeps one allocation on one server.
#[derive(Debug)]
pub struct Client {
    config: Config,
    rng: ChaCha20Rng,
    now: Instant,
    auth: Authenticator,
    state: State,
    transactions: Transactions,
    bindings: Bindings,
    permissions: Permissions,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
enum State {
    Idle,
    Allocating(Attempt),
    Live(Live),
    Closing,
}

/// Whether a forgotten allocation of ours was in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    First,
    AfterRecovery,
}

#[derive(Debug)]
struct Live {
    mapped: SocketAddr,
    expires: Instant,
    /// `None` while a Refresh is open.
    refresh_at: Option<Instant>,
    keepalive_at: Instant,
    /// The first request that no answer of any kind has followed.
    unanswered_since: Option<Instant>,
}

impl Client {
    /// Makes a client without an allocation; `seed` decides transaction ids and must not be guessable.
    pub fn new(seed: [u8; 32], config: Config) -> Self {
        Self {
            auth: Authenticator::new(config.credentials.clone()),
            config,
            rng: ChaCha20Rng::from_seed(seed),
            now: Instant::ZERO,
            state: State::Idle,
            transactions: Transactions::default(),
            bindings: Bindings::new(),
            permissions: Permissions::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes a wish or a datagram.
    ///
    /// # Errors
    /// [`Discard`] says why the input had no effect.
    pub fn handle_input(&mut self, now: Instant, input: Input) -> Result<(), Discard> {
        self.now = self.now.max(now);
        match input {
            Input::Allocate => self.allocate(),
            Input::Received(bytes) => return self.receive(&bytes),
            Input::Bind(peer) => return self.bind(peer),
            Input::Unbind(peer) => self.unbind(peer, Ended::Asked),
            Input::Permit(address) => return self.permit(address),
            Input::Unpermit(address) => self.unpermit(address, Ended::Asked),
            Input::Send { peer, bytes } => return self.send(peer, &bytes),
            Input::Credentials(credentials) => self.replace_credentials(credentials),
            Input::Close => self.close(),
        }
        Ok(())
    }

    /// Repeats, refreshes and gives up what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if matches!(&self.state, State::Live(live) if live.expires <= self.now) {
            self.lose(Loss::Expired);
        }
        for id in self.transactions.due(self.now) {
            match self.transactions.fire(self.now, id) {
                Some(Fired::Repeat(bytes)) => self.outputs.push_back(Output::Send(bytes)),
                Some(Fired::GaveUp(purpose)) => self.unanswered(purpose),
                None => {}
            }
        }
        self.renew_allocation();
        self.renew_peers();
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
        let mut deadlines = vec![self.transactions.next_deadline()];
        if let State::Live(live) = &self.state {
            deadlines.extend([Some(live.expires), live.refresh_at, Some(live.keepalive_at)]);
            deadlines.extend([self.bindings.next_deadline(), self.permissions.next_deadline()]);
        }
        deadlines.into_iter().flatten().min()
    }

    /// The server that this client was made for.
    pub const fn server(&self) -> SocketAddr {
        self.config.server
    }

    /// The address that the server last said it sees us by, while there is an allocation.
    pub const fn mapped(&self) -> Option<SocketAddr> {
        match &self.state {
            State::Live(live) => Some(live.mapped),
            State::Idle | State::Allocating(_) | State::Closing => None,
        }
    }

    fn allocate(&mut self) {
        if matches!(self.state, State::Idle | State::Closing) {
            self.transactions = Transactions::default();
            self.auth.start_over();
            self.state = State::Allocating(Attempt::First);
            self.begin(Purpose::Allocate, 0);
        }
    }

    fn close(&mut self) {
        let was = std::mem::replace(&mut self.state, State::Closing);
        self.forget_peers();
        match was {
            // An Allocate without an answer may have made an allocation all the same.
            State::Live(_) | State::Allocating(_) if self.auth.is_challenged() => {
                self.transactions = Transactions::default();
                self.begin(Purpose::Release, 0);
            }
            State::Live(_) | State::Allocating(_) | State::Idle => self.finish_close(),
            State::Closing => {}
        }
    }

    fn finish_close(&mut self) {
        self.transactions = Transactions::default();
        self.state = State::Idle;
        self.outputs.push_back(Output::Closed);
    }

    fn replace_credentials(&mut self, credentials: Credentials) {
        self.auth.replace(credentials);
        if !matches!(self.state, State::Live(_)) {
            self.auth.confirm();
        }
    }

    fn bind(&mut self, peer: SocketAddr) -> Result<(), Discard> {
        self.check_peer(peer.ip())?;
        if let Some(entry) = self.bindings.get(peer) {
            let channel = entry.detail;
            self.bindings.touch(peer);
            if self.bindings.is_held(peer) {
                self.outputs.push_back(Output::Bound { peer, channel });
            }
            return Ok(());
        }
        let start = ChannelNumber::MIN.get() + (self.rng.next_u32() & 0x0FFF) as u16;
        let start = ChannelNumber::new(start).unwrap_or(ChannelNumber::MIN);
        let channel = self.bindings.number_for(self.now, peer, start).ok_or(Discard::NoChannel)?;
        if let Some(surplus) = self.bindings.surplus() {
            self.unbind(surplus, Ended::Evicted);
        }
        self.bindings.request(peer, channel);
        if matches!(self.state, State::Live(_)) {
            self.begin(Purpose::Bind(peer, channel), 0);
        }
        Ok(())
    }

    fn unbind(&mut self, peer: SocketAddr, reason: Ended) {
        if self.bindings.get(peer).is_none() {
            return;
        }
        self.transactions.cancel(|purpose| matches!(purpose, Purpose::Bind(other, _) if other == peer));
        if let Some(channel) = self.bindings.retire(self.now, peer) {
            self.outputs.push_back(Output::Unbound { peer, channel, reason });
        }
    }

    fn permit(&mut self, address: IpAddr) -> Result<(), Discard> {
        self.check_peer(address)?;
        if self.permissions.get(address).is_some() {
            self.permissions.touch(address);
            if self.permissions.is_held(address) {
                self.outputs.push_back(Output::Permitted(address));
            }
            return Ok(());
        }
        if let Some(surplus) = self.permissions.surplus() {
            self.unpermit(surplus, Ended::Evicted);
        }
        self.permissions.request(address, ());
        if matches!(self.state, State::Live(_)) {
            self.begin(Purpose::Permit(address), 0);
        }
        Ok(())
    }

    fn unpermit(&mut self, address: IpAddr, reason: Ended) {
        self.transactions.cancel(|purpose| purpose == Purpose::Permit(address));
        if self.permissions.remove(address).is_some() {
            self.outputs.push_back(Output::Unpermitted { address, reason });
        }
    }

    fn check_peer(&self, address: IpAddr) -> Result<(), Discard> {
        if matches!(self.state, State::Idle | State::Closing) {
            return Err(Discard::NotAllocated);
        }
        if AddressFamily::of(address) != self.config.family {
            return Err(Discard::WrongFamily);
        }
        Ok(())
    }

    fn send(&mut self, peer: SocketAddr, bytes: &[u8]) -> Result<(), Discard> {
        if !matches!(self.state, State::Live(_)) {
            return Err(Discard::NotAllocated);
        }
        if self.outputs.len() >= MAX_OUTPUTS {
            return Err(Discard::QueueFull);
        }
        let datagram = if self.bindings.is_held(peer) {
            let channel = self.bindings.get(peer).map_or(ChannelNumber::MIN, |entry| entry.detail);
            self.bindings.touch(peer);
            let header = channel_data::encode_header(channel, bytes.len()).ok_or(Discard::TooLong)?;
            [&header, bytes].concat()
        } else if self.permissions.is_held(peer.ip()) {
            self.permissions.touch(peer.ip());
            let id = self.next_id();
            let indication = Builder::new(Class::Indication, Method::Send, id).xor_peer_address(peer).data(bytes);
            indication.encode().map_err(|_| Discard::TooLong)?
        } else {
            return Err(Discard::NotPermitted);
        };
        self.outputs.push_back(Output::Send(datagram));
        Ok(())
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), Discard> {
        if channel_data::is_channel_data(bytes) {
            let (channel, data) = channel_data::decode(bytes).map_err(|_| Discard::Malformed)?;
            let peer = self.bindings.peer_of(channel).ok_or(Discard::UnknownChannel)?;
            return self.deliver(peer, data);
        }
        let message = Message::decode(bytes).map_err(|_| Discard::Malformed)?;
        match message.class() {
            Class::Indication if message.method() == Method::Data => self.receive_data(&message),
            Class::Success => self.receive_success(&message, bytes),
            Class::Error => self.receive_error(&message, bytes),
            Class::Indication | Class::Request => Err(Discard::Unexpected),
        }
    }

    fn receive_data(&mut self, message: &Message) -> Result<(), Discard> {
        let peer = message.xor_peer_addresses().next().ok_or(Discard::Incomplete)?;
        let data = message.data().ok_or(Discard::Incomplete)?;
        let bound = self.bindings.is_held(peer);
        if !bound && !self.permissions.is_held(peer.ip()) && !self.bindings.holds_address(peer.ip()) {
            return Err(Discard::NotPermitted);
        }
        self.deliver(peer, data)
    }

    fn deliver(&mut self, peer: SocketAddr, data: &[u8]) -> Result<(), Discard> {
        if !matches!(self.state, State::Live(_)) {
            return Err(Discard::NotAllocated);
        }
        if self.outputs.len() >= MAX_OUTPUTS {
            return Err(Discard::QueueFull);
        }
        self.outputs.push_back(Output::Data { peer, bytes: data.to_vec() });
        Ok(())
    }

    fn receive_success(&mut self, answer: &Message, bytes: &[u8]) -> Result<(), Discard> {
        let open = self.transactions.get(answer.transaction()).ok_or(Discard::UnknownTransaction)?;
        let purpose = open.purpose;
        if purpose.method() != answer.method() {
            return Err(Discard::UnknownTransaction);
        }
        if purpose != Purpose::Keepalive {
            let key = open.key.as_ref().ok_or(Discard::Unauthenticated)?;
            codec::verify(bytes, key).map_err(|_: Unauthenticated| Discard::Unauthenticated)?;
        }
        if !answer.unknown_required(&UNDERSTOOD).is_empty() {
            return Err(Discard::Incomplete);
        }
        match purpose {
            Purpose::Allocate => self.allocated(answer)?,
            Purpose::Recover => self.begin(Purpose::Allocate, 0),
            Purpose::Refresh => self.refreshed(answer)?,
            Purpose::Release => self.finish_close(),
            Purpose::Bind(peer, _) => self.bound(peer),
            Purpose::Permit(address) => self.permitted(address),
            Purpose::Keepalive => self.kept_alive(answer)?,
        }
        self.transactions.take(answer.transaction());
        self.heard();
        Ok(())
    }

    fn allocated(&mut self, answer: &Message) -> Result<(), Discard> {
        let relayed = answer.xor_relayed_address().ok_or(Discard::Incomplete)?;
        let mapped = answer.xor_mapped_address().ok_or(Discard::Incomplete)?;
        let lifetime = answer.lifetime().filter(|seconds| *seconds > 0).ok_or(Discard::Incomplete)?;
        if AddressFamily::of(relayed.ip()) != self.config.family || relayed.port() == 0 {
            return Err(Discard::Incomplete);
        }
        self.auth.confirm();
        self.state = State::Live(Live {
            mapped,
            expires: self.now + lifetime_of(lifetime),
            refresh_at: Some(self.now + refresh_after(lifetime)),
            keepalive_at: self.now + KEEPALIVE,
            unanswered_since: None,
        });
        self.outputs.push_back(Output::Allocated { relayed, mapped });
        for (peer, channel) in self.bindings.requested() {
            self.begin(Purpose::Bind(peer, channel), 0);
        }
        for (address, ()) in self.permissions.requested() {
            self.begin(Purpose::Permit(address), 0);
        }
        Ok(())
    }

    fn refreshed(&mut self, answer: &Message) -> Result<(), Discard> {
        let lifetime = answer.lifetime().ok_or(Discard::Incomplete)?;
        if lifetime == 0 {
            self.lose(Loss::Mismatch);
            return Ok(());
        }
        self.auth.confirm();
        if let State::Live(live) = &mut self.state {
            live.expires = self.now + lifetime_of(lifetime);
            live.refresh_at = Some(self.now + refresh_after(lifetime));
        }
        Ok(())
    }

    fn bound(&mut self, peer: SocketAddr) {
        let refresh_at = self.now + BIND_REFRESH + self.jitter(BIND_REFRESH_SPREAD);
        if let Some(channel) = self.bindings.grant(peer, self.now + CHANNEL_LIFETIME, refresh_at) {
            self.outputs.push_back(Output::Bound { peer, channel });
        }
    }

    fn permitted(&mut self, address: IpAddr) {
        let refresh_at = self.now + PERMIT_REFRESH + self.jitter(PERMIT_REFRESH_SPREAD);
        if self.permissions.grant(address, self.now + PERMISSION_LIFETIME, refresh_at).is_some() {
            self.outputs.push_back(Output::Permitted(address));
        }
    }

    fn kept_alive(&mut self, answer: &Message) -> Result<(), Discard> {
        let seen = answer.xor_mapped_address().ok_or(Discard::Incomplete)?;
        if let State::Live(live) = &mut self.state
            && live.mapped != seen
            && live.refresh_at.is_some()
        {
            // The answer is not authenticated: only the server's word on the allocation itself counts.
            live.refresh_at = Some(self.now);
            self.renew_allocation();
        }
        Ok(())
    }

    fn receive_error(&mut self, answer: &Message, bytes: &[u8]) -> Result<(), Discard> {
        let open = self.transactions.get(answer.transaction()).ok_or(Discard::UnknownTransaction)?;
        if open.purpose.method() != answer.method() {
            return Err(Discard::UnknownTransaction);
        }
        let (code, _) = answer.error().ok_or(Discard::Incomplete)?;
        if let Some(key) = &open.key
            && !matches!(code, 401 | 438)
        {
            codec::verify(bytes, key).map_err(|_: Unauthenticated| Discard::Unauthenticated)?;
        }
        let (purpose, signed, stale) = (open.purpose, open.key.is_some(), open.stale);
        self.transactions.take(answer.transaction());
        self.heard();
        let outdated = code == 438 || (code == 401 && (!signed || self.auth.is_other_realm(answer)));
        if outdated && stale < MAX_STALE && self.auth.take_challenge(answer) {
            self.begin(purpose, stale + 1);
        } else if signed && matches!(code, 401 | 441) && self.auth.fall_back().is_some() {
            self.begin(purpose, stale);
        } else {
            self.refused(purpose, code, answer.alternate_server());
        }
        Ok(())
    }

    fn refused(&mut self, purpose: Purpose, code: u16, alternate: Option<SocketAddr>) {
        match (purpose, code) {
            (Purpose::Allocate, 437) if matches!(self.state, State::Allocating(Attempt::First)) => {
                self.state = State::Allocating(Attempt::AfterRecovery);
                self.begin(Purpose::Recover, 0);
            }
            (Purpose::Allocate, _) => self.fail(failure(code, alternate)),
            (Purpose::Recover, _) => self.begin(Purpose::Allocate, 0),
            (Purpose::Release, _) => self.finish_close(),
            (Purpose::Keepalive, _) => {}
            (Purpose::Refresh | Purpose::Bind(..) | Purpose::Permit(_), 437) => self.lose(Loss::Mismatch),
            (Purpose::Refresh | Purpose::Bind(..) | Purpose::Permit(_), 401 | 438 | 441) => {
                self.lose(Loss::Unauthorized);
            }
            (Purpose::Refresh, _) => {
                if let State::Live(live) = &mut self.state {
                    live.refresh_at = Some(self.now + REFRESH_RETRY);
                }
            }
            (Purpose::Bind(peer, _), _) => self.unbind(peer, ended(code)),
            (Purpose::Permit(address), _) => self.unpermit(address, ended(code)),
        }
    }

    /// A request was repeated as often as it may be.
    fn unanswered(&mut self, purpose: Purpose) {
        if let State::Live(live) = &self.state
            && live.unanswered_since.is_some_and(|since| self.now.saturating_duration_since(since) >= SILENCE)
        {
            return self.lose(Loss::Silent);
        }
        match purpose {
            Purpose::Allocate | Purpose::Recover => self.fail(Failure::Timeout),
            Purpose::Release => self.finish_close(),
            Purpose::Refresh => self.begin(Purpose::Refresh, 0),
            Purpose::Bind(peer, _) if self.bindings.get(peer).is_none() => {}
            Purpose::Permit(address) if self.permissions.get(address).is_none() => {}
            Purpose::Bind(..) | Purpose::Permit(_) => self.begin(purpose, 0),
            Purpose::Keepalive => {
                if let State::Live(live) = &mut self.state
                    && live.refresh_at.is_some()
                {
                    live.refresh_at = Some(self.now);
                }
            }
        }
    }

    fn heard(&mut self) {
        if let State::Live(live) = &mut self.state {
            live.unanswered_since = None;
        }
    }

    fn renew_allocation(&mut self) {
        let State::Live(live) = &mut self.state else { return };
        if live.refresh_at.is_some_and(|at| at <= self.now) {
            live.refresh_at = None;
            self.begin(Purpose::Refresh, 0);
        }
        let State::Live(live) = &mut self.state else { return };
        if live.keepalive_at <= self.now {
            live.keepalive_at = self.now + KEEPALIVE;
            if !self.transactions.is_open(Purpose::Keepalive) {
                self.begin(Purpose::Keepalive, 0);
            }
        }
    }

    fn renew_peers(&mut self) {
        if !matches!(self.state, State::Live(_)) {
            return;
        }
        for peer in self.bindings.expired(self.now) {
            self.unbind(peer, Ended::Expired);
        }
        for address in self.permissions.expired(self.now) {
            self.unpermit(address, Ended::Expired);
        }
        for (peer, channel) in self.bindings.take_due(self.now) {
            self.begin(Purpose::Bind(peer, channel), 0);
        }
        for (address, ()) in self.permissions.take_due(self.now) {
            self.begin(Purpose::Permit(address), 0);
        }
    }

    fn begin(&mut self, purpose: Purpose, stale: u8) {
        let id = self.next_id();
        let request = Builder::new(Class::Request, purpose.method(), id);
        let request = match purpose {
            Purpose::Allocate => {
                let request = request.requested_transport_udp();
                match self.config.family {
                    // Servers older than RFC 6156 refuse the attribute, and IPv4 is what its absence means.
                    AddressFamily::Ipv4 => request,
                    AddressFamily::Ipv6 => request.requested_address_family(AddressFamily::Ipv6),
                }
            }
            Purpose::Refresh => request,
            Purpose::Recover | Purpose::Release => request.lifetime(0),
            Purpose::Bind(peer, channel) => request.channel_number(channel.get()).xor_peer_address(peer),
            Purpose::Permit(address) => request.xor_peer_address(SocketAddr::new(address, 0)),
            Purpose::Keepalive => request.pad_to(ginnel_stun::REQUEST_LEN),
        };
        let written = if purpose == Purpose::Keepalive {
            request.encode().map(|bytes| (bytes, None))
        } else {
            self.auth.write(request)
        };
        let Ok((bytes, key)) = written else { return self.cannot_write(purpose) };
        self.outputs.push_back(Output::Send(bytes.clone()));
        self.transactions.start(self.now, id, purpose, bytes, key, stale);
        if let State::Live(live) = &mut self.state {
            live.unanswered_since.get_or_insert(self.now);
            live.keepalive_at = self.now + KEEPALIVE;
        }
    }

    fn cannot_write(&mut self, purpose: Purpose) {
        match purpose {
            Purpose::Allocate | Purpose::Recover => self.fail(Failure::InvalidCredentials),
            Purpose::Release => self.finish_close(),
            Purpose::Refresh | Purpose::Bind(..) | Purpose::Permit(_) | Purpose::Keepalive => {
                self.lose(Loss::Unauthorized);
            }
        }
    }

    fn fail(&mut self, reason: Failure) {
        self.forget_peers();
        self.transactions = Transactions::default();
        self.state = State::Idle;
        self.outputs.push_back(Output::Failed { reason });
    }

    fn lose(&mut self, reason: Loss) {
        self.forget_peers();
        self.transactions = Transactions::default();
        self.state = State::Idle;
        self.outputs.push_back(Output::Lost { reason });
    }

    fn forget_peers(&mut self) {
        self.bindings.clear();
        self.permissions.clear();
    }

    fn next_id(&mut self) -> TransactionId {
        let mut id = TransactionId([0; 12]);
        self.rng.fill_bytes(&mut id.0);
        id
    }

    /// A random part of `spread`, so that many peers bound at once are not renewed at once for ever.
    fn jitter(&mut self, spread: Duration) -> Duration {
        let millis = u32::try_from(spread.as_millis()).unwrap_or(u32::MAX);
        Duration::from_millis(u64::from(self.rng.next_u32() % millis.max(1)))
    }
}

fn failure(code: u16, alternate: Option<SocketAddr>) -> Failure {
    match (code, alternate) {
        (300, Some(alternate)) => Failure::Redirect(alternate),
        (401 | 438 | 441, _) => Failure::Unauthorized,
        (403, _) => Failure::Forbidden,
        (437, _) => Failure::Mismatch,
        (440, _) => Failure::FamilyNotSupported,
        (486, _) => Failure::QuotaReached,
        (508, _) => Failure::InsufficientCapacity,
        (other, _) => Failure::Refused(other),
    }
}

const fn ended(code: u16) -> Ended {
    match code {
        403 => Ended::Forbidden,
        other => Ended::Refused(other),
    }
}

fn lifetime_of(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds)).min(MAX_LIFETIME)
}

/// Half the lifetime, yet not more often than once a minute unless the lifetime itself is near a minute.
fn refresh_after(seconds: u32) -> Duration {
    let lifetime = lifetime_of(seconds);
    let half = lifetime / 2;
    if lifetime >= MIN_REFRESH + MIN_REFRESH / 2 { half.max(MIN_REFRESH) } else { half }
}

/// What an answer may carry besides comprehension-optional attributes.
const UNDERSTOOD: [u16; 11] = [
    codec::attribute::MAPPED_ADDRESS,
    codec::attribute::USERNAME,
    codec::attribute::ERROR_CODE,
    codec::attribute::UNKNOWN_ATTRIBUTES,
    codec::attribute::CHANNEL_NUMBER,
    codec::attribute::LIFETIME,
    codec::attribute::REALM,
    codec::attribute::NONCE,
    codec::attribute::XOR_RELAYED_ADDRESS,
    codec::attribute::XOR_MAPPED_ADDRESS,
    codec::attribute::RESERVATION_TOKEN,
];
/// Lifetimes beyond are treated as this: a server's mistake must not switch refreshing off.
const MAX_LIFETIME: Duration = Duration::from_secs(3600);
const MIN_REFRESH: Duration = Duration::from_secs(60);
/// After a Refresh that the server refused for a reason that may pass.
const REFRESH_RETRY: Duration = Duration::from_secs(15);
/// Below the 30 s after which many NATs close a UDP mapping.
const KEEPALIVE: Duration = Duration::from_secs(25);
/// A server that answers nothing for this long is taken to be gone.
const SILENCE: Duration = Duration::from_secs(30);
/// RFC 8656 §12.
const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);
/// RFC 8656 §9.
const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// Leaves a request 16 s to get through before the permission runs out, at the latest.
const BIND_REFRESH: Duration = Duration::from_secs(240);
const BIND_REFRESH_SPREAD: Duration = Duration::from_secs(40);
const PERMIT_REFRESH: Duration = Duration::from_secs(200);
const PERMIT_REFRESH_SPREAD: Duration = Duration::from_secs(40);
/// A fresh nonce that is stale at once, again and again, is a server that cannot be satisfied.
const MAX_STALE: u8 = 3;
