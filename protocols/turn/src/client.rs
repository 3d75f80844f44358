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
//!   signed the request, and so must an error to a signed request, except 401, 438 and 441, which servers do not sign.
//! - A nonce that became stale (438) is replaced and the request made again, whatever it was for.
//! - The allocation is refreshed every 15 s, far more often than its lifetime asks for. That keeps a NAT's mapping open,
//!   which needs a datagram at that pace anyway, and it is the only question whose answer tells that the server forgot the
//!   allocation or that a NAT gave us another address (437 in either case). A mapping that went would leave the
//!   allocation behind, out of reach, until its lifetime ends: a refresh in time keeps them from piling up.
//! - [`Input::Check`] asks the same question at once.
//! - A channel is bound anew after 4 to 5 minutes, since it brings a permission that lasts 5; a permission of its own after
//!   3 to 4.
//! - A server that answers nothing for 30 s has lost the allocation, since some servers never answer for one that they
//!   forgot. [`Client::silent_since`] tells of the silence before; meanwhile a datagram goes out every 2 s at least.
//! - [`Input::Close`] is told to the server for as long, until it answers: what it did not hear of it would hold until the
//!   allocation's lifetime ends.

mod answers;
mod api;
mod auth;
mod peers;
mod transactions;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_stun::codec::{AddressFamily, Builder, Class, Method, TransactionId};
use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use crate::channel_data::{self, ChannelNumber};
use crate::credentials::Credentials;
pub use api::{Config, Discard, Ended, Failure, Input, Loss, Output};
use auth::Authenticator;
pub use peers::MAX_PEERS;
use peers::{Bindings, Permissions};
use transactions::{Fired, Purpose, Transactions};

/// Most outputs that wait to be drained before inputs are refused; a datagram refused is as one that the network lost.
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
    Closing { since: Instant },
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
        if self.outputs.len() >= MAX_OUTPUTS {
            return Err(Discard::QueueFull);
        }
        match input {
            Input::Allocate => self.allocate(),
            Input::Received(bytes) => return self.receive(&bytes),
            Input::Bind(peer) => return self.bind(peer),
            Input::Unbind(peer) => self.unbind(peer, Ended::Asked),
            Input::Permit(address) => return self.permit(address),
            Input::Unpermit(address) => self.unpermit(address, Ended::Asked),
            Input::Send { peer, bytes } => return self.send(peer, &bytes),
            Input::Credentials(credentials) => self.replace_credentials(credentials),
            Input::Check => self.check(),
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
            deadlines.extend([Some(live.expires), live.refresh_at]);
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
            State::Idle | State::Allocating(_) | State::Closing { .. } => None,
        }
    }

    /// Since when requests for a live allocation have gone unanswered; `None` when nothing is open.
    pub const fn silent_since(&self) -> Option<Instant> {
        match &self.state {
            State::Live(live) => live.unanswered_since,
            State::Idle | State::Allocating(_) | State::Closing { .. } => None,
        }
    }

    fn check(&mut self) {
        if let State::Live(live) = &mut self.state
            && live.refresh_at.is_some()
        {
            live.refresh_at = Some(self.now);
            self.renew_allocation();
        }
    }

    fn allocate(&mut self) {
        if matches!(self.state, State::Idle | State::Closing { .. }) {
            self.transactions = Transactions::default();
            self.auth.start_over();
            self.state = State::Allocating(Attempt::First);
            self.begin(Purpose::Allocate, 0);
        }
    }

    fn close(&mut self) {
        let was = std::mem::replace(&mut self.state, State::Closing { since: self.now });
        self.forget_peers();
        match was {
            // An Allocate without an answer may have made an allocation all the same.
            State::Live(_) | State::Allocating(_) if self.auth.is_challenged() => {
                self.transactions = Transactions::default();
                self.begin(Purpose::Release, 0);
            }
            State::Live(_) | State::Allocating(_) | State::Idle => self.finish_close(),
            State::Closing { since } => self.state = State::Closing { since },
        }
    }

    fn finish_close(&mut self) {
        self.transactions = Transactions::default();
        self.state = State::Idle;
        self.outputs.push_back(Output::Closed);
    }

    fn replace_credentials(&mut self, credentials: Credentials) {
        self.auth.replace(credentials);
        match &mut self.state {
            // New ones come with a new connection to their issuer, which may have restarted and know no allocation.
            State::Live(live) if live.refresh_at.is_some() => live.refresh_at = Some(self.now),
            State::Live(_) | State::Closing { .. } => {}
            State::Idle | State::Allocating(_) => self.auth.start_over(),
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
        if matches!(self.state, State::Idle | State::Closing { .. }) {
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

    /// A request was repeated as often as it may be.
    fn unanswered(&mut self, purpose: Purpose) {
        if let State::Live(live) = &self.state
            && live.unanswered_since.is_some_and(|since| self.now.saturating_duration_since(since) >= SILENCE)
        {
            return self.lose(Loss::Silent);
        }
        let closing = |since: Instant| self.now.saturating_duration_since(since) < SILENCE;
        let insists = matches!(self.state, State::Closing { since } if closing(since));
        match purpose {
            Purpose::Allocate | Purpose::Recover => self.fail(Failure::Timeout),
            // What made the server's answers stay out for long enough to leave it swallows a few requests more.
            Purpose::Release if insists => self.begin(Purpose::Release, 0),
            Purpose::Release => self.finish_close(),
            Purpose::Refresh => self.begin(Purpose::Refresh, 0),
            Purpose::Bind(peer, _) if self.bindings.get(peer).is_none() => {}
            Purpose::Permit(address) if self.permissions.get(address).is_none() => {}
            Purpose::Bind(..) | Purpose::Permit(_) => self.begin(purpose, 0),
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
        };
        let Ok((bytes, signature)) = self.auth.write(request) else { return self.cannot_write(purpose) };
        self.outputs.push_back(Output::Send(bytes.clone()));
        self.transactions.start(self.now, id, purpose, bytes, signature, stale);
        if let State::Live(live) = &mut self.state {
            live.unanswered_since.get_or_insert(self.now);
        }
    }

    fn cannot_write(&mut self, purpose: Purpose) {
        match purpose {
            Purpose::Allocate | Purpose::Recover => self.fail(Failure::InvalidCredentials),
            Purpose::Release => self.finish_close(),
            Purpose::Refresh | Purpose::Bind(..) | Purpose::Permit(_) => {
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

/// A server that answers nothing for this long is taken to be gone.
const SILENCE: Duration = Duration::from_secs(30);
