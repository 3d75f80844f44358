//! Requests from clients.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_stun::codec::{
    AddressFamily, Builder, Class, InvalidCredentials, Key, Message, Method, attribute, is_stun, verify,
};

use super::allocation::{Allocation, AllocationId, FiveTuple, Parity, Proposal, Stage};
use super::{Discard, Output, Refusal, Server};
use crate::channel_data::{self, ChannelNumber};
use crate::credentials::{Credentials, parse_username, password_for};

/// A request whose sender proved to know a password.
struct Authentic<'a> {
    from: FiveTuple,
    request: &'a Message,
    /// The name part of the user name.
    user: String,
    key: Key,
}

/// Why a request is not authentic, as the client is told.
#[derive(Clone, Copy, Debug)]
enum Denial {
    Unauthorized,
    StaleNonce,
    BadRequest,
}

impl From<InvalidCredentials> for Denial {
    fn from(_: InvalidCredentials) -> Self {
        Self::Unauthorized
    }
}

impl Server {
    /// Anything from a client.
    pub(super) fn receive(&mut self, from: FiveTuple, bytes: Vec<u8>) -> Result<(), Discard> {
        self.note_own_address(from.local.ip());
        if channel_data::is_channel_data(&bytes) {
            return self.receive_channel_data(from, bytes);
        }
        if !is_stun(&bytes) {
            return Err(Discard::Malformed);
        }
        let message = Message::decode(&bytes).map_err(|_| Discard::Malformed)?;
        match (message.class(), message.method()) {
            (Class::Request, Method::Binding) => self.receive_binding(from, &bytes),
            (Class::Indication, Method::Send) => self.receive_send(from, &message),
            // A keepalive (RFC 8656 §3.7).
            (Class::Indication, Method::Binding) => Ok(()),
            (Class::Request, Method::Allocate | Method::Refresh | Method::CreatePermission | Method::ChannelBind) => {
                self.receive_request(from, &message, &bytes)
            }
            (Class::Request | Class::Indication | Class::Success | Class::Error, _) => Err(Discard::Unexpected),
        }
    }

    fn receive_binding(&mut self, from: FiveTuple, bytes: &[u8]) -> Result<(), Discard> {
        if !self.limiter.allow(self.now, from.client) {
            return Err(Discard::RateLimited);
        }
        let answer = ginnel_stun::answer_binding(bytes, from.client).map_err(|_| Discard::Malformed)?;
        self.send_to_client(from, answer)
    }

    fn receive_request(&mut self, from: FiveTuple, request: &Message, bytes: &[u8]) -> Result<(), Discard> {
        let authentic = match self.authenticate(from, request, bytes) {
            Ok(authentic) => authentic,
            Err(denial) => return self.deny(from, request, denial),
        };
        let mut unknown = request.unknown_required(understood(request.method()));
        if !unknown.is_empty() {
            unknown.truncate(MAX_UNKNOWN_LISTED);
            let answer = Builder::new(Class::Error, request.method(), request.transaction());
            self.reply_signed(from, answer.error(420).unknown_attributes(&unknown), &authentic.key);
            return Ok(());
        }
        let done = match request.method() {
            Method::Allocate => self.allocate(&authentic),
            Method::Refresh => self.refresh(&authentic),
            Method::CreatePermission => self.create_permission(&authentic),
            Method::ChannelBind => self.channel_bind(&authentic),
            Method::Binding | Method::Send | Method::Data | Method::Other(_) => return Err(Discard::Unexpected),
        };
        if let Err(refusal) = done {
            let answer = Builder::new(Class::Error, request.method(), request.transaction());
            self.reply_signed(from, answer.error(refusal.code()), &authentic.key);
        }
        Ok(())
    }

    fn authenticate<'a>(&self, from: FiveTuple, request: &'a Message, bytes: &[u8]) -> Result<Authentic<'a>, Denial> {
        if !request.has_integrity() {
            return Err(Denial::Unauthorized);
        }
        let (Some(username), Some(realm), Some(nonce)) = (request.username(), request.realm(), request.nonce()) else {
            return Err(Denial::BadRequest);
        };
        let (expires, name) = parse_username(username).ok_or(Denial::Unauthorized)?;
        let now = self.unix_seconds().ok_or(Denial::Unauthorized)?;
        if expires <= now || realm != self.config.realm {
            return Err(Denial::Unauthorized);
        }
        let password = password_for(&self.config.secret, username).to_string();
        let key = Credentials { username: username.to_owned(), password }.key(&self.config.realm)?;
        verify(bytes, &key).map_err(|_| Denial::Unauthorized)?;
        if !self.nonces.is_valid(self.now, from.client, nonce) {
            return Err(Denial::StaleNonce);
        }
        Ok(Authentic { from, request, user: name.to_owned(), key })
    }

    fn deny(&mut self, from: FiveTuple, request: &Message, denial: Denial) -> Result<(), Discard> {
        // Who is told of a stale nonce knows a password: no flood from the same network may keep that answer from it.
        // Its request was longer than the answer, should it be a copy sent in another's name.
        if !matches!(denial, Denial::StaleNonce) && !self.limiter.allow(self.now, from.client) {
            return Err(Discard::RateLimited);
        }
        let answer = Builder::new(Class::Error, request.method(), request.transaction());
        let answer = match denial {
            Denial::BadRequest => answer.error(400),
            Denial::Unauthorized => self.challenge(answer.error(401), from),
            Denial::StaleNonce => self.challenge(answer.error(438), from),
        };
        self.send_to_client(from, answer.encode().expect("the realm was checked and a nonce is plain text"))
    }

    fn challenge(&self, answer: Builder, from: FiveTuple) -> Builder {
        answer.realm(&self.config.realm).nonce(&self.nonces.make(self.now, from.client))
    }

    fn allocate(&mut self, authentic: &Authentic<'_>) -> Result<(), Refusal> {
        let request = authentic.request;
        if let Some((_, held)) = self.allocations.of_client(authentic.from) {
            if held.transaction != request.transaction() {
                return Err(Refusal::AllocationMismatch);
            }
            // A repetition. While the port is being opened, the answer is still to come.
            if let Stage::Live { answer, .. } = &held.stage {
                let answer = answer.clone();
                let _ = self.send_to_client(authentic.from, answer);
            }
            return Ok(());
        }
        let (family, parity) = self.check_allocate(request)?;
        if self.allocations.of_user(&authentic.user) >= self.config.quotas.per_user {
            return Err(Refusal::QuotaReached);
        }
        if self.allocations.len() >= self.config.quotas.total {
            return Err(Refusal::InsufficientCapacity);
        }
        let port = self.pick_port(family, parity).ok_or(Refusal::InsufficientCapacity)?;
        let proposal = Proposal {
            five_tuple: authentic.from,
            user: authentic.user.clone(),
            key: authentic.key.clone(),
            family,
            port,
            parity,
            transaction: request.transaction(),
            lifetime: lifetime(request),
        };
        let allocation = self.allocations.add(self.now, proposal);
        if self.push(Output::OpenPort { allocation, family, port }).is_err() {
            self.allocations.remove(allocation);
            return Err(Refusal::InsufficientCapacity);
        }
        Ok(())
    }

    fn check_allocate(&self, request: &Message) -> Result<(AddressFamily, Parity), Refusal> {
        match request.requested_transport() {
            None => return Err(Refusal::BadRequest),
            Some(UDP) => {}
            Some(_) => return Err(Refusal::UnsupportedTransport),
        }
        let (token, even) = (request.has(attribute::RESERVATION_TOKEN), request.even_port());
        let asked = request.requested_address_family();
        if token && (even.is_some() || asked.is_some()) {
            return Err(Refusal::BadRequest);
        }
        // No port is ever reserved, so every token is unknown.
        if token || even == Some(true) {
            return Err(Refusal::InsufficientCapacity);
        }
        let family = asked.unwrap_or(AddressFamily::Ipv4);
        let parity = if even.is_some() { Parity::Even } else { Parity::Any };
        if self.serves(family) { Ok((family, parity)) } else { Err(Refusal::AddressFamilyNotSupported) }
    }

    fn refresh(&mut self, authentic: &Authentic<'_>) -> Result<(), Refusal> {
        let id = self.allocation_of(authentic)?.0;
        let request = authentic.request;
        let family = self.allocations.get(id).map(|held| held.family);
        if request.requested_address_family().is_some_and(|asked| Some(asked) != family) {
            return Err(Refusal::PeerFamilyMismatch);
        }
        let lifetime = if request.lifetime() == Some(0) { Duration::ZERO } else { lifetime(request) };
        if lifetime.is_zero() {
            self.end(id);
        } else {
            self.allocations.set_expiry(id, self.now + lifetime);
        }
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        let answer = Builder::new(Class::Success, Method::Refresh, request.transaction()).lifetime(seconds);
        self.reply_signed(authentic.from, answer, &authentic.key);
        Ok(())
    }

    fn create_permission(&mut self, authentic: &Authentic<'_>) -> Result<(), Refusal> {
        let id = self.allocation_of(authentic)?.0;
        let addresses: Vec<IpAddr> = authentic.request.xor_peer_addresses().map(|peer| peer.ip()).collect();
        if addresses.is_empty() {
            return Err(Refusal::BadRequest);
        }
        for address in &addresses {
            self.check_grant(id, *address)?;
        }
        let limit = self.config.quotas.permissions;
        let held = self.allocations.get_mut(id).ok_or(Refusal::AllocationMismatch)?;
        held.permit(self.now, &addresses, limit)?;
        self.succeed(authentic);
        Ok(())
    }

    fn channel_bind(&mut self, authentic: &Authentic<'_>) -> Result<(), Refusal> {
        let id = self.allocation_of(authentic)?.0;
        let channel = authentic.request.channel_number().and_then(ChannelNumber::new).ok_or(Refusal::BadRequest)?;
        let peer: SocketAddr = authentic.request.xor_peer_addresses().next().ok_or(Refusal::BadRequest)?;
        if peer.port() == 0 {
            return Err(Refusal::BadRequest);
        }
        self.check_grant(id, peer.ip())?;
        let quotas = self.config.quotas;
        let held = self.allocations.get_mut(id).ok_or(Refusal::AllocationMismatch)?;
        held.bind(self.now, channel, peer, &quotas)?;
        self.succeed(authentic);
        Ok(())
    }

    fn succeed(&mut self, authentic: &Authentic<'_>) {
        let request = authentic.request;
        let answer = Builder::new(Class::Success, request.method(), request.transaction());
        self.reply_signed(authentic.from, answer, &authentic.key);
    }

    /// The live allocation of the sender's address, if it is the sender's.
    fn allocation_of(&self, authentic: &Authentic<'_>) -> Result<(AllocationId, &Allocation), Refusal> {
        let (id, held) = self.allocations.of_client(authentic.from).ok_or(Refusal::AllocationMismatch)?;
        if held.relayed().is_none() {
            return Err(Refusal::AllocationMismatch);
        }
        if held.user != authentic.user {
            return Err(Refusal::WrongCredentials);
        }
        Ok((id, held))
    }

    fn check_grant(&self, id: AllocationId, address: IpAddr) -> Result<(), Refusal> {
        let family = self.allocations.get(id).map(|held| held.family);
        if Some(AddressFamily::of(address)) != family {
            return Err(Refusal::PeerFamilyMismatch);
        }
        if self.may_reach(address) { Ok(()) } else { Err(Refusal::Forbidden) }
    }
}

/// Attributes that a request of this method may carry, besides comprehension-optional ones.
fn understood(method: Method) -> &'static [u16] {
    match method {
        Method::Allocate => &[
            attribute::USERNAME,
            attribute::REALM,
            attribute::NONCE,
            attribute::REQUESTED_TRANSPORT,
            attribute::LIFETIME,
            attribute::REQUESTED_ADDRESS_FAMILY,
            attribute::EVEN_PORT,
            attribute::RESERVATION_TOKEN,
        ],
        Method::Refresh => &[
            attribute::USERNAME,
            attribute::REALM,
            attribute::NONCE,
            attribute::LIFETIME,
            attribute::REQUESTED_ADDRESS_FAMILY,
        ],
        Method::CreatePermission => {
            &[attribute::USERNAME, attribute::REALM, attribute::NONCE, attribute::XOR_PEER_ADDRESS]
        }
        Method::ChannelBind => &[
            attribute::USERNAME,
            attribute::REALM,
            attribute::NONCE,
            attribute::XOR_PEER_ADDRESS,
            attribute::CHANNEL_NUMBER,
        ],
        Method::Binding | Method::Send | Method::Data | Method::Other(_) => &[],
    }
}

/// The lifetime to grant: what is asked for, between the default and the maximum.
fn lifetime(request: &Message) -> Duration {
    let asked = request.lifetime().map_or(DEFAULT_LIFETIME, |seconds| Duration::from_secs(u64::from(seconds)));
    asked.clamp(DEFAULT_LIFETIME, MAX_LIFETIME)
}

/// RFC 8656 §3.2.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(600);
/// RFC 8656 §7.2 recommends one hour.
const MAX_LIFETIME: Duration = Duration::from_secs(3600);
/// The IP protocol number.
const UDP: u8 = 17;
/// Keeps a 420 answer small.
const MAX_UNKNOWN_LISTED: usize = 8;
