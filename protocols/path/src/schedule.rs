//! When probes are due: bursts for what is unproven, watching for what is in use.

use std::time::Duration;

use ginnel_time::Instant;

/// Probes of one burst on one pair; after them the pair is silent until something changes.
pub(crate) const BURST_BUDGET: u8 = 12;
/// A two-relay pair starts this much later: it is needed only where nothing better answers.
pub(crate) const LAST_RESORT_DELAY: Duration = Duration::from_millis(200);
/// A proof is worth something for this long.
pub(crate) const PROOF_LIFETIME: Duration = Duration::from_secs(30);
/// An echo later than this proves nothing.
pub(crate) const LATE: Duration = Duration::from_secs(5);
/// Unanswered probes that make a path doubtful: the third one goes out 750 ms after the first.
pub(crate) const DOUBT_PROBES: u8 = 3;
/// Two probes of one pair are at least this far apart, whatever arrives.
pub(crate) const LEAST_GAP: Duration = Duration::from_millis(20);
/// Data one way with nothing coming back questions a primary that was not probed for this long.
pub(crate) const ONE_WAY_PATIENCE: Duration = Duration::from_secs(2);
/// While data flowed within this time the primary is probed every [`FLOWING_INTERVAL`].
pub(crate) const FLOWING: Duration = Duration::from_secs(15);
/// A peer without data for this long is idle, and nothing is sent.
pub(crate) const ACTIVE: Duration = Duration::from_secs(120);
/// Between probes of the primary while data flows.
pub(crate) const FLOWING_INTERVAL: Duration = Duration::from_secs(5);
/// Between probes of the backup, and of the primary of a quiet peer: below the 20 s that the shortest NAT timers last, less
/// up to [`INTERVAL_JITTER`] ms.
pub(crate) const ACTIVE_INTERVAL: Duration = Duration::from_secs(17);
/// Milliseconds that [`ACTIVE_INTERVAL`] is shortened by at most.
pub(crate) const INTERVAL_JITTER: u64 = 3000;
/// Milliseconds that each gap of a burst is lengthened by at most, so that two sides do not stay in step.
pub(crate) const BURST_JITTER: u64 = 8;

/// The gap between probe number `sent` of a burst and the next: probes at 0, 40, 120, 280, 600, 1200 ms, then every
/// second. `None` when the budget is spent.
pub(crate) fn burst_gap(sent: u8) -> Option<Duration> {
    let millis = match sent {
        0 | 1 => 40,
        2 => 80,
        3 => 160,
        4 => 320,
        5 => 600,
        6..BURST_BUDGET => 1000,
        BURST_BUDGET.. => return None,
    };
    Some(Duration::from_millis(millis))
}

/// The first retransmission time of a path: 250 ms, or twice the round trip if that is longer, at most 1 s.
pub(crate) fn retransmission(rtt: Duration) -> Duration {
    rtt.saturating_mul(2).clamp(Duration::from_millis(250), Duration::from_secs(1))
}

/// The gap after unanswered probe number `sent` of a path in use: 250 ms, 500 ms, then every second.
pub(crate) fn doubt_gap(rtt: Duration, sent: u8) -> Duration {
    let doublings = u32::from(sent.saturating_sub(1).min(4));
    retransmission(rtt).saturating_mul(1 << doublings).min(Duration::from_secs(1))
}

/// How long an unanswered path in use is kept: 3 s, more where the round trip is long.
pub(crate) fn doubt_limit(rtt: Duration) -> Duration {
    retransmission(rtt).saturating_mul(6).max(Duration::from_secs(3))
}

/// The gap between two copies of a call for a round: twice the round trip of its path, 250 ms to 1 s.
pub(crate) fn call_gap(rtt: Duration) -> Duration {
    retransmission(rtt)
}

/// How lately data flowed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Activity {
    last: Option<Instant>,
}

impl Activity {
    pub(crate) fn note(&mut self, now: Instant) {
        self.last = Some(now);
    }

    pub(crate) fn is_active(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now < last + ACTIVE)
    }

    /// When a primary last probed at `probed` is due again; never when the peer falls idle before.
    pub(crate) fn primary_due(&self, probed: Instant, jitter: Duration) -> Option<Instant> {
        let last = self.last?;
        let soon = probed + FLOWING_INTERVAL;
        if soon <= last + FLOWING { Some(soon) } else { self.backup_due(probed, jitter) }
    }

    /// When a backup last probed at `probed` is due again; never when the peer falls idle before.
    pub(crate) fn backup_due(&self, probed: Instant, jitter: Duration) -> Option<Instant> {
        let due = probed + ACTIVE_INTERVAL.saturating_sub(jitter);
        (due < self.last? + ACTIVE).then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_out_at_the_stated_times_and_ends() {
        let mut at = 0;
        let mut times = vec![0];
        for sent in 1..=BURST_BUDGET {
            if let Some(gap) = burst_gap(sent) {
                at += gap.as_millis();
                times.push(at);
            }
        }
        assert_eq!(times, [0, 40, 120, 280, 600, 1200, 2200, 3200, 4200, 5200, 6200, 7200]);
        assert_eq!(burst_gap(BURST_BUDGET), None);
    }

    #[test]
    fn the_third_unanswered_probe_goes_out_after_750_ms() {
        let rtt = Duration::from_millis(20);
        assert_eq!(doubt_gap(rtt, 1) + doubt_gap(rtt, 2), Duration::from_millis(750));
        assert_eq!(doubt_gap(rtt, 3), Duration::from_secs(1));
        assert_eq!(doubt_limit(rtt), Duration::from_secs(3));
        assert_eq!(doubt_limit(Duration::from_secs(9)), Duration::from_secs(6));
    }

    #[test]
    fn an_idle_peer_has_no_probe_due() {
        let mut activity = Activity::default();
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        assert_eq!(activity.primary_due(at(0), Duration::ZERO), None);
        activity.note(at(100));
        assert_eq!(activity.primary_due(at(100), Duration::ZERO), Some(at(105)));
        assert_eq!(activity.primary_due(at(112), Duration::ZERO), Some(at(129)));
        assert_eq!(activity.primary_due(at(203), Duration::ZERO), None);
        assert!(activity.is_active(at(219)) && !activity.is_active(at(220)));
    }
}
