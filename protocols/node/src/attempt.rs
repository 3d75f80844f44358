//! One peer's way from "a session is wanted" to "a session is there": initiations, their copies, their end.

use std::time::Duration;

use ginnel_time::Instant;
use ginnel_tunnel::{Initiator, ReceiverIndex};

/// A handshake that this side began and that has no answer yet.
///
/// One initiation is one byte string. Its copies go out on a ladder; after [`RENEW_AFTER`] a new initiation replaces it,
/// as the WireGuard whitepaper (section 6.4) asks, until the patience is at its end since the first.
pub(crate) struct Attempt {
    pub(crate) initiator: Initiator,
    pub(crate) bytes: Vec<u8>,
    pub(crate) index: ReceiverIndex,
    pub(crate) began: Instant,
    pub(crate) sent: Instant,
    pub(crate) rung: usize,
    pub(crate) jitter: Duration,
    /// Responses that did not open.
    pub(crate) forged: u32,
    ladder: &'static [Duration],
    /// For how long initiations are renewed, from [`Self::began`] on.
    pub(crate) patience: Duration,
}

/// What an attempt wants at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Nothing yet.
    Wait,
    /// Send the same bytes once more.
    Copy,
    /// Replace the initiation by a new one.
    Renew,
    /// Stop trying.
    GiveUp,
}

impl Attempt {
    pub(crate) fn new(
        now: Instant,
        (began, patience): (Instant, Duration),
        (initiator, bytes): (Initiator, Vec<u8>),
        index: ReceiverIndex,
        jitter: Duration,
        ladder: &'static [Duration],
    ) -> Self {
        Self { initiator, bytes, index, began, sent: now, rung: 0, jitter, forged: 0, ladder, patience }
    }

    pub(crate) fn deadline(&self) -> Instant {
        let renew = self.sent + RENEW_AFTER + self.jitter;
        match self.ladder.get(self.rung) {
            Some(step) => renew.min(self.sent + *step),
            None => renew,
        }
    }

    pub(crate) fn want(&mut self, now: Instant) -> Want {
        if now < self.deadline() {
            return Want::Wait;
        }
        if now >= self.sent + RENEW_AFTER + self.jitter {
            if now.saturating_duration_since(self.began) >= self.patience { Want::GiveUp } else { Want::Renew }
        } else {
            while self.ladder.get(self.rung).is_some_and(|step| self.sent + *step <= now) {
                self.rung += 1;
            }
            Want::Copy
        }
    }
}

/// When copies of one initiation go out between two ginneld, counted from the first.
pub(crate) const COPIES: &[Duration] = &[
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(700),
    Duration::from_millis(1500),
    Duration::from_millis(3000),
];
/// Stock WireGuard gets one copy of each initiation.
pub(crate) const NO_COPIES: &[Duration] = &[];
/// `REKEY_TIMEOUT` of the whitepaper, section 6.1.
pub(crate) const RENEW_AFTER: Duration = Duration::from_secs(5);
/// `REKEY_ATTEMPT_TIME` of the whitepaper, section 6.1.
pub(crate) const GIVE_UP_AFTER: Duration = Duration::from_secs(90);
/// How long a call to a member's last endpoint is kept up: a Linux NAT remembers an unanswered packet for 30 s, so two
/// machines that start within a minute find each other.
pub(crate) const GREETING: Duration = Duration::from_secs(30);
