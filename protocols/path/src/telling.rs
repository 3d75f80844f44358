//! When the other side is told our candidates.

use std::time::Duration;

use ginnel_time::Instant;

use crate::id::Candidate;

/// Our candidate list as last told, and how often it has been.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    list: Vec<Candidate>,
    told: u32,
    last: Option<Instant>,
}

/// How much depends on the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weight {
    /// A direct path is up.
    Little,
    /// Traffic goes by a relay; what the list says may end that.
    Much,
}

impl Telling {
    /// Has the list told anew, whatever was told before: with a new session.
    pub(crate) fn restart(&mut self, list: Vec<Candidate>) {
        self.list = list;
        self.told = 0;
    }

    /// Has the list told if it differs from the one told last.
    pub(crate) fn changed(&mut self, list: Vec<Candidate>) {
        if list != self.list {
            self.restart(list);
        }
    }

    /// Notes that a call or an answer carries the list now.
    pub(crate) fn carried(&mut self, now: Instant, list: Vec<Candidate>) {
        self.list = list;
        self.told = COPIES;
        self.last = Some(now);
    }

    /// When the next copy may leave.
    pub(crate) fn due(&self, weight: Weight) -> Option<Instant> {
        let gap = match self.told {
            0 => GAP,
            told if told < COPIES => GAP * (1 << (told - 1)),
            _ => REMINDER,
        };
        let due = self.last.map_or(Instant::ZERO, |last| last + gap);
        (self.told < COPIES || weight == Weight::Much).then_some(due)
    }

    /// Takes the next copy if it is due.
    pub(crate) fn take(&mut self, now: Instant, weight: Weight) -> Option<Vec<Candidate>> {
        self.due(weight).filter(|due| *due <= now)?;
        self.told = self.told.saturating_add(1);
        self.last = Some(now);
        Some(self.list.clone())
    }
}

/// Nothing acknowledges the list, so it is told this often at growing gaps; also two changes are [`GAP`] apart.
const COPIES: u32 = 4;
const GAP: Duration = Duration::from_millis(400);
/// Between later copies while no direct path is up.
const REMINDER: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn told_at(weight: Weight, end: u64) -> Vec<u128> {
        let mut telling = Telling::default();
        telling.restart(Vec::new());
        let mut times = Vec::new();
        while let Some(due) = telling.due(weight).filter(|due| *due <= Instant::from_nanos(end * 1_000_000_000)) {
            assert!(telling.take(due, weight).is_some());
            times.push(due.saturating_duration_since(Instant::ZERO).as_millis());
        }
        times
    }

    #[test]
    fn a_list_is_repeated_a_few_times_and_on_and_on_where_it_matters() {
        assert_eq!(told_at(Weight::Little, 600), [0, 400, 1200, 2800]);
        assert_eq!(told_at(Weight::Much, 70), [0, 400, 1200, 2800, 32_800, 62_800]);
    }
}
