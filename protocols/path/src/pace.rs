//! How fast probes may go out, however many pairs want one.

use std::time::Duration;

use ginnel_time::Instant;

/// What a probe is for; proofs that traffic depends on are held to the rate only, not to the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Watching a path that has been proven.
    Liveness,
    /// Looking for a path; these may go to addresses that a peer merely named.
    Search,
}

/// Two leaky buckets: at most 50 probes in any second, and of search probes at most 6 per second in the long run.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: Bucket,
    volume: Bucket,
}

impl Pace {
    pub(crate) const fn new() -> Self {
        Self {
            rate: Bucket::new(Duration::from_nanos(1_000_000_000 / 34), 16),
            volume: Bucket::new(Duration::from_nanos(1_000_000_000 / 6), 360),
        }
    }

    /// When the next probe may go out; `now` or earlier means at once.
    pub(crate) fn ready(&self, purpose: Purpose) -> Instant {
        match purpose {
            Purpose::Liveness => self.rate.ready(),
            Purpose::Search => self.rate.ready().max(self.volume.ready()),
        }
    }

    /// Takes one probe out of the budget; the caller has looked at [`Pace::ready`].
    pub(crate) fn spend(&mut self, now: Instant, purpose: Purpose) {
        self.rate.spend(now);
        match purpose {
            Purpose::Liveness => {}
            Purpose::Search => self.volume.spend(now),
        }
    }
}

/// A leaky bucket kept as the time at which it will be empty.
#[derive(Debug)]
struct Bucket {
    interval: Duration,
    tolerance: Duration,
    empty: Instant,
}

impl Bucket {
    const fn new(interval: Duration, burst: u32) -> Self {
        let tolerance = interval.saturating_mul(burst - 1);
        Self { interval, tolerance, empty: Instant::ZERO }
    }

    fn ready(&self) -> Instant {
        self.empty - self.tolerance
    }

    fn spend(&mut self, now: Instant) {
        self.empty = self.empty.max(now) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_sees_more_than_fifty_probes() {
        let mut pace = Pace::new();
        let mut sent = Vec::new();
        for milli in 0..20_000_u64 {
            let now = Instant::from_nanos(milli * 1_000_000);
            while pace.ready(Purpose::Liveness) <= now {
                pace.spend(now, Purpose::Liveness);
                sent.push(milli);
            }
        }
        for (index, start) in sent.iter().enumerate() {
            let within = sent[index..].iter().take_while(|at| **at < start + 1000).count();
            assert!(within <= 50, "{within} probes from {start} ms");
        }
        assert!(sent.len() > 600, "the budget is used: {}", sent.len());
    }

    #[test]
    fn search_runs_dry_and_liveness_does_not() {
        let mut pace = Pace::new();
        let mut searched = 0;
        for milli in 0..120_000_u64 {
            let now = Instant::from_nanos(milli * 1_000_000);
            while pace.ready(Purpose::Search) <= now {
                pace.spend(now, Purpose::Search);
                searched += 1;
            }
        }
        assert!((1000..=360 + 6 * 120 + 1).contains(&searched), "{searched}");
        let later = Instant::from_nanos(120_100_000_000);
        assert!(pace.ready(Purpose::Liveness) <= later);
    }
}
