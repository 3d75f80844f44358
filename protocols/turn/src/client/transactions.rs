//! Open requests and their repetition.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_stun::codec::{Method, TransactionId};
use ginnel_time::Instant;

use super::auth::Signature;
use crate::channel_data::ChannelNumber;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Allocate.
    Allocate,
    /// Refresh with lifetime 0, to be rid of an allocation that the server still holds for our address.
    Recover,
    /// Refresh.
    Refresh,
    /// Refresh with lifetime 0, at the end.
    Release,
    /// ChannelBind.
    Bind(SocketAddr, ChannelNumber),
    /// CreatePermission.
    Permit(IpAddr),
}

impl Purpose {
    pub(super) const fn method(self) -> Method {
        match self {
            Self::Allocate => Method::Allocate,
            Self::Recover | Self::Refresh | Self::Release => Method::Refresh,
            Self::Bind(..) => Method::ChannelBind,
            Self::Permit(_) => Method::CreatePermission,
        }
    }
}

/// One request without an answer.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) purpose: Purpose,
    pub(super) bytes: Vec<u8>,
    /// `None` before the server has named its realm.
    pub(super) signature: Option<Signature>,
    /// How often this request was made again because of a stale nonce.
    pub(super) stale: u8,
    attempts: u8,
    wait: Duration,
    deadline: Instant,
}

/// What became of a request that was due.
#[derive(Debug)]
pub(super) enum Fired {
    Repeat(Vec<u8>),
    GaveUp(Purpose),
}

/// Requests by transaction id: one per peer that is being bound or permitted, and one of each other purpose.
#[derive(Debug, Default)]
pub(super) struct Transactions(BTreeMap<TransactionId, Open>);

impl Transactions {
    pub(super) fn start(
        &mut self,
        now: Instant,
        id: TransactionId,
        purpose: Purpose,
        bytes: Vec<u8>,
        signature: Option<Signature>,
        stale: u8,
    ) {
        let deadline = now + FIRST_RTO;
        self.0.insert(id, Open { purpose, bytes, signature, stale, attempts: 1, wait: FIRST_RTO, deadline });
    }

    pub(super) fn get(&self, id: TransactionId) -> Option<&Open> {
        self.0.get(&id)
    }

    pub(super) fn take(&mut self, id: TransactionId) -> Option<Open> {
        self.0.remove(&id)
    }

    pub(super) fn cancel(&mut self, condemned: impl Fn(Purpose) -> bool) {
        self.0.retain(|_, open| !condemned(open.purpose));
    }

    pub(super) fn due(&self, now: Instant) -> Vec<TransactionId> {
        self.0.iter().filter(|(_, open)| open.deadline <= now).map(|(id, _)| *id).collect()
    }

    pub(super) fn fire(&mut self, now: Instant, id: TransactionId) -> Option<Fired> {
        let open = self.0.get_mut(&id)?;
        if open.attempts < ATTEMPTS {
            open.attempts += 1;
            open.wait = open.wait.saturating_mul(2).min(LONGEST_RTO);
            open.deadline = now + open.wait;
            return Some(Fired::Repeat(open.bytes.clone()));
        }
        self.0.remove(&id).map(|open| Fired::GaveUp(open.purpose))
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.0.values().map(|open| open.deadline).min()
    }
}

/// First wait for an answer. RFC 8489 §6.2.1 asks for 500 ms unless the round trip is known to be shorter; to a relay
/// that is worth using it is.
const FIRST_RTO: Duration = Duration::from_millis(250);
/// The longest wait: a server that comes back is heard of within this time.
const LONGEST_RTO: Duration = Duration::from_secs(2);
/// Six requests, at 0, 250, 750, 1750, 3750 and 5750 ms; a dead server is known after 7.75 s.
const ATTEMPTS: u8 = 6;
