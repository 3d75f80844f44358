//! One pair: a path, what is known of it, and the probes in flight on it.
//!
//! ```text
//!            start             budget spent
//!  Waiting ─────────> Checking ───────────> Silent
//!     │  open  ┌──────────^│                  │ start
//!     └────> Opening       │ echo             v
//!     ^                    v               Checking
//!     └──── proof stale  Proven {Good <─> Doubt} ── limit ──> Checking
//! ```

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use ginnel_time::Instant;

use crate::event::PathState;
use crate::id::{CandidateKind, Local, Path};
use crate::schedule::{self, Activity, BURST_BUDGET, DOUBT_PROBES, LATE, PROOF_LIFETIME};
use crate::score::{Family, Score, Tier};

/// Probes in flight that are remembered per pair; the oldest is forgotten.
const MAX_FLIGHTS: usize = 16;

#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) path: Path,
    pub(crate) kind: CandidateKind,
    pub(crate) tier: Tier,
    /// Whether the peer told the remote address; otherwise it was learnt from an arrival.
    pub(crate) told: bool,
    /// When an authentic packet last came by this path.
    pub(crate) heard: Option<Instant>,
    /// When a probe last left, at any TTL.
    pub(crate) probed: Option<Instant>,
    /// Our address as the other side last saw it on this path.
    pub(crate) observed: Option<SocketAddr>,
    pub(crate) state: State,
    flights: VecDeque<(u64, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing is due.
    Waiting,
    /// `left` more short-lived probes, the next at `due`; full ones from `fire` on.
    Opening { left: u8, ttl: u8, due: Instant, fire: Instant },
    /// `sent` probes of a burst have left, the next is due at `due`.
    Checking { sent: u8, due: Instant },
    /// The whole burst went unanswered.
    Silent,
    /// A probe was echoed.
    Proven(Proof),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Proof {
    /// Smoothed round trip.
    pub(crate) rtt: Duration,
    /// Until when the proof counts for a choice.
    pub(crate) fresh_until: Instant,
    /// How much the next long interval is shortened.
    pub(crate) jitter: Duration,
    pub(crate) health: Health,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// Every probe so far was answered.
    Good,
    /// `sent` probes since `since` are unanswered; the next leaves at `next`.
    Doubt { sent: u8, since: Instant, next: Instant },
}

/// What a path in use is watched as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    Primary,
    Backup,
    Not,
}

impl Pair {
    pub(crate) fn new(path: Path, kind: CandidateKind, tier: Tier) -> Self {
        Self {
            path,
            kind,
            tier,
            told: true,
            heard: None,
            probed: None,
            observed: None,
            state: State::Waiting,
            flights: VecDeque::new(),
        }
    }

    /// Starts a burst of full probes at `due`, unless the pair is proven.
    pub(crate) fn start(&mut self, due: Instant) {
        match self.state {
            State::Proven(_) => {}
            State::Waiting | State::Opening { .. } | State::Checking { .. } | State::Silent => {
                self.state = State::Checking { sent: 0, due };
            }
        }
    }

    /// Starts with two short-lived probes, and sends full ones from `fire` on.
    pub(crate) fn open(&mut self, now: Instant, ttl: u8, fire: Instant) {
        match self.state {
            State::Proven(_) => {}
            State::Waiting | State::Opening { .. } | State::Checking { .. } | State::Silent => {
                self.state = State::Opening { left: 2, ttl, due: now, fire };
            }
        }
    }

    /// Sends a probe at once because something arrived, in whatever state the pair is.
    pub(crate) fn trigger(&mut self, now: Instant) {
        let earliest = self.probed.map_or(now, |probed| now.max(probed + schedule::LEAST_GAP));
        match &mut self.state {
            State::Waiting | State::Silent | State::Opening { .. } => {
                self.state = State::Checking { sent: 0, due: earliest };
            }
            State::Checking { due, .. } => *due = earliest.min(*due),
            // The arrival may be the echo of the first probe.
            State::Proven(Proof { health: Health::Doubt { sent: 2.., next, .. }, .. }) => *next = earliest.min(*next),
            State::Proven(_) => {}
        }
    }

    /// Asks a proven path again from `now` on; an unanswered `sent` counts as already sent at `since`.
    pub(crate) fn question(&mut self, now: Instant, sent: u8, since: Instant) {
        if let State::Proven(proof) = &mut self.state {
            match &mut proof.health {
                Health::Good => proof.health = Health::Doubt { sent, since, next: now },
                Health::Doubt { sent: already, since: began, next } => {
                    *already = sent.max(*already);
                    *began = since.min(*began);
                    *next = now.min(*next);
                }
            }
        }
    }

    /// Comes into use: an older doubt begins anew, and a proof that is not recent is asked for again.
    pub(crate) fn enter_use(&mut self, now: Instant) {
        let recent = self.probed.is_some_and(|probed| now < probed + RECENT);
        if let State::Proven(proof) = &mut self.state
            && !(recent && proof.health == Health::Good)
        {
            proof.health = Health::Doubt { sent: 0, since: now, next: now };
        }
    }

    /// Makes the proof count for nothing in a choice.
    pub(crate) fn stale(&mut self, now: Instant) {
        self.flights.clear();
        if let State::Proven(proof) = &mut self.state {
            proof.fresh_until = now;
        }
    }

    /// Forgets everything that a session proved.
    pub(crate) fn reset(&mut self) {
        self.state = State::Waiting;
        self.flights.clear();
        self.probed = None;
    }

    /// Leaves a proven path: it has to prove itself anew, from `due` on.
    pub(crate) fn demote(&mut self, due: Instant) {
        self.flights.clear();
        self.state = State::Checking { sent: 0, due };
    }

    /// Notes a probe that leaves now, and moves the deadline on. Answers its TTL.
    pub(crate) fn sent(&mut self, now: Instant, id: u64, jitter: Duration) -> Option<u8> {
        if self.flights.len() == MAX_FLIGHTS {
            self.flights.pop_front();
        }
        self.flights.push_back((id, now));
        self.probed = Some(now);
        match self.state {
            State::Waiting | State::Silent => None,
            State::Opening { left, ttl, fire, .. } => {
                self.state = match left.checked_sub(1) {
                    Some(left @ 1..) => State::Opening { left, ttl, due: (now + OPENER_GAP).min(fire), fire },
                    Some(0) | None => State::Checking { sent: 0, due: fire },
                };
                Some(ttl)
            }
            State::Checking { sent, .. } => {
                let sent = sent.saturating_add(1);
                self.state = match schedule::burst_gap(sent) {
                    Some(gap) => State::Checking { sent, due: now + gap + jitter },
                    None => State::Checking { sent, due: now + LAST_WAIT },
                };
                None
            }
            State::Proven(ref mut proof) => {
                proof.health = match proof.health {
                    Health::Good => {
                        Health::Doubt { sent: 1, since: now, next: now + schedule::doubt_gap(proof.rtt, 1) }
                    }
                    Health::Doubt { sent, since, .. } => {
                        let sent = sent.saturating_add(1);
                        Health::Doubt { sent, since, next: now + schedule::doubt_gap(proof.rtt, sent) }
                    }
                };
                None
            }
        }
    }

    /// Takes an echo. `None` when no probe of this pair has the id; `Some(None)` when it came too late to count.
    pub(crate) fn echoed(&mut self, now: Instant, id: u64, jitter: Duration) -> Option<Option<Duration>> {
        let at = self.flights.iter().position(|(flight, _)| *flight == id)?;
        let (_, left) = self.flights.remove(at).expect("position lies inside the queue");
        let sample = now.saturating_duration_since(left);
        if sample > LATE {
            return Some(None);
        }
        let rtt = match self.state {
            State::Proven(proof) => (proof.rtt * 3 + sample) / 4,
            State::Waiting | State::Opening { .. } | State::Checking { .. } | State::Silent => sample,
        };
        self.state = State::Proven(Proof { rtt, fresh_until: now + PROOF_LIFETIME, jitter, health: Health::Good });
        Some(Some(rtt))
    }

    /// Ends a burst whose budget is spent, and forgets a proof that nobody uses and that has gone stale or is in doubt:
    /// nothing asks such a pair any more, so the doubt would never end.
    pub(crate) fn settle(&mut self, now: Instant, watch: Watch) {
        match self.state {
            State::Checking { sent: BURST_BUDGET.., due } if due <= now => self.state = State::Silent,
            State::Proven(proof) if watch == Watch::Not && (now >= proof.fresh_until || self.is_doubtful()) => {
                self.state = State::Waiting;
            }
            State::Waiting | State::Opening { .. } | State::Checking { .. } | State::Silent | State::Proven(_) => {}
        }
    }

    /// When the next probe is due, or the state changes by itself.
    pub(crate) fn due(&self, watch: Watch, activity: &Activity) -> Option<Instant> {
        match self.state {
            State::Waiting | State::Silent => None,
            State::Opening { due, .. } | State::Checking { due, .. } => Some(due),
            State::Proven(proof) => match (watch, proof.health) {
                (Watch::Not, _) => None,
                (Watch::Primary | Watch::Backup, Health::Doubt { next, .. }) => Some(next),
                (Watch::Primary, Health::Good) => activity.primary_due(self.probed?, proof.jitter),
                (Watch::Backup, Health::Good) => activity.backup_due(self.probed?, proof.jitter),
            },
        }
    }

    /// When a path in use that stays unanswered is left.
    pub(crate) fn demotion(&self) -> Option<Instant> {
        match self.state {
            State::Proven(Proof { rtt, health: Health::Doubt { since, .. }, .. }) => {
                Some(since + schedule::doubt_limit(rtt))
            }
            State::Proven(_) | State::Waiting | State::Opening { .. } | State::Checking { .. } | State::Silent => None,
        }
    }

    pub(crate) fn proof(&self) -> Option<&Proof> {
        match &self.state {
            State::Proven(proof) => Some(proof),
            State::Waiting | State::Opening { .. } | State::Checking { .. } | State::Silent => None,
        }
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.proof().is_some()
    }

    /// Whether traffic may move to this path.
    pub(crate) fn is_eligible(&self, now: Instant) -> bool {
        self.proof().is_some_and(|proof| now < proof.fresh_until) && !self.is_doubtful()
    }

    /// Whether enough probes went unanswered for data to go by the backup as well.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.proof().is_some_and(|proof| matches!(proof.health, Health::Doubt { sent: DOUBT_PROBES.., .. }))
    }

    pub(crate) fn is_checking(&self) -> bool {
        matches!(self.state, State::Checking { .. } | State::Opening { .. })
    }

    /// Whether openers are out or have been, and full probes are still to come.
    pub(crate) fn is_opened(&self, now: Instant) -> bool {
        match self.state {
            State::Opening { .. } => true,
            State::Checking { sent: 0, due } => due > now,
            State::Checking { .. } | State::Waiting | State::Silent | State::Proven(_) => false,
        }
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.tier.is_direct()
    }

    /// What the pair is judged by; `None` while it is unproven.
    pub(crate) fn score(&self) -> Option<Score> {
        let family = if self.path.remote.is_ipv6() { Family::V6 } else { Family::V4 };
        self.proof().map(|proof| Score { tier: self.tier, rtt: proof.rtt, family })
    }

    pub(crate) fn path_state(&self) -> PathState {
        match self.state {
            State::Waiting => PathState::Waiting,
            State::Opening { .. } | State::Checking { .. } => PathState::Checking,
            State::Silent => PathState::Silent,
            State::Proven(_) if self.is_doubtful() => PathState::Doubtful,
            State::Proven(_) => PathState::Proven,
        }
    }

    /// Whether an early packet on this path could make the other side's NAT give its flow another port.
    pub(crate) fn can_clash(&self) -> bool {
        can_clash(self.path, self.kind, self.tier)
    }
}

/// Whether an unannounced packet from `path` meets a NAT of the other side: so for public addresses that are mappings.
/// A host's own public address has no mapping to lose, and a relay none either.
pub(crate) fn can_clash(path: Path, kind: CandidateKind, tier: Tier) -> bool {
    let mapped = matches!(kind, CandidateKind::ServerReflexive | CandidateKind::PeerReflexive);
    tier == Tier::Public && mapped && matches!(path.local, Local::Socket(_))
}

/// A path asked within this time is not asked again for coming into use.
const RECENT: Duration = Duration::from_secs(1);
/// How long the last probe of a burst is given; an echo that comes later still counts.
const LAST_WAIT: Duration = Duration::from_secs(2);
/// Between the two short-lived probes of an opening.
const OPENER_GAP: Duration = Duration::from_millis(10);
