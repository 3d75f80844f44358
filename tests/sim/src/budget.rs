//! What somebody who asked for nothing may be sent: so much at once, and a steady trickle after it.

use std::time::Duration;

use ginnel_time::Instant;

/// What one sender has left.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Budget {
    /// When all that was sent would have trickled away.
    paid: Option<Instant>,
}

impl Budget {
    /// Takes one packet of `share` senders; whether it was one too many.
    pub(crate) fn spend(&mut self, now: Instant, share: u32) -> bool {
        let paid = self.paid.map_or(now, |paid| paid.max(now)) + APART / share.max(1);
        let over = paid > now + APART * AT_ONCE;
        // Each packet that is too many counts by itself.
        self.paid = Some(if over { now + APART * AT_ONCE } else { paid });
        over
    }
}

/// In the long run: whoever believes members' candidates probes an address once in two seconds and sends it three copies of
/// handshakes a second, however many members name it.
const APART: Duration = Duration::from_millis(200);
/// Probes and copies that go out without a pause: those of a lone liar, 80 and 120, and most of as many again from another
/// place that the machine has come to.
const AT_ONCE: u32 = 360;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_up_for_a_day_is_no_more_than_what_is_allowed_at_once() {
        for (share, most) in [(1, 360), (3, 1080)] {
            let mut budget = Budget::default();
            let day = Instant::ZERO + Duration::from_secs(86_400);
            assert!(!budget.spend(Instant::ZERO, share));
            let sent = (0..5000).filter(|_| !budget.spend(day, share)).count();
            assert_eq!(sent, most);
            assert!(!budget.spend(day + APART, share));
        }
    }

    #[test]
    fn a_trickle_may_last() {
        let mut budget = Budget::default();
        let spent = (0..10_000_u32).map(|count| budget.spend(Instant::ZERO + APART * count, 1));
        assert_eq!(spent.filter(|over| *over).count(), 0);
    }
}
