//! What the server sends: answers to open requests, and data.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_stun::codec::{self, AddressFamily, Class, Message, Method};

use super::api::{Discard, Ended, Failure, Loss, Output};
use super::transactions::Purpose;
use super::{Attempt, Client, Live, State};
use crate::channel_data;

impl Client {
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), Discard> {
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
        self.outputs.push_back(Output::Data { peer, bytes: data.to_vec() });
        Ok(())
    }

    fn receive_success(&mut self, answer: &Message, bytes: &[u8]) -> Result<(), Discard> {
        let open = self.transactions.get(answer.transaction()).ok_or(Discard::UnknownTransaction)?;
        let purpose = open.purpose;
        if purpose.method() != answer.method() {
            return Err(Discard::UnknownTransaction);
        }
        let signature = open.signature.as_ref().ok_or(Discard::Unauthenticated)?;
        codec::verify(bytes, &signature.key).map_err(|_| Discard::Unauthenticated)?;
        if !answer.unknown_required(&UNDERSTOOD).is_empty() {
            return Err(Discard::Incomplete);
        }
        match purpose {
            Purpose::Allocate => {
                if self.allocated(answer).is_err() {
                    self.fail(Failure::Malformed);
                }
            }
            Purpose::Recover => self.begin(Purpose::Allocate, 0),
            Purpose::Refresh => self.refreshed(answer)?,
            Purpose::Release => self.finish_close(),
            Purpose::Bind(peer, _) => self.bound(peer),
            Purpose::Permit(address) => self.permitted(address),
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

    fn receive_error(&mut self, answer: &Message, bytes: &[u8]) -> Result<(), Discard> {
        let open = self.transactions.get(answer.transaction()).ok_or(Discard::UnknownTransaction)?;
        if open.purpose.method() != answer.method() {
            return Err(Discard::UnknownTransaction);
        }
        let (code, _) = answer.error().ok_or(Discard::Incomplete)?;
        // 401 and 438 are never signed (RFC 8489 §9.2.4), nor is coturn's 441.
        if let Some(signature) = &open.signature
            && !matches!(code, 401 | 438 | 441)
        {
            codec::verify(bytes, &signature.key).map_err(|_| Discard::Unauthenticated)?;
        }
        let (purpose, stale, signature) = (open.purpose, open.stale, open.signature.clone());
        self.transactions.take(answer.transaction());
        self.heard();
        let outdated = code == 438 || (code == 401 && (signature.is_none() || self.auth.is_other_realm(answer)));
        if outdated && stale < MAX_STALE && self.auth.take_challenge(answer) {
            self.begin(purpose, stale + 1);
        } else if matches!(code, 401 | 441) && signature.is_some_and(|refused| self.auth.fall_back(&refused)) {
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

/// At the pace that keeps a NAT's mapping open, or at half the lifetime of a short-lived allocation.
fn refresh_after(seconds: u32) -> Duration {
    KEEPALIVE.min(lifetime_of(seconds) / 2)
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
/// After a Refresh that the server refused for a reason that may pass.
const REFRESH_RETRY: Duration = Duration::from_secs(15);
/// Below the 20 s after which the most forgetful NATs close a UDP mapping, with room for a repetition.
const KEEPALIVE: Duration = Duration::from_secs(15);
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
