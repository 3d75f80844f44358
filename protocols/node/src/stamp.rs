//! Handshake timestamps that never go back, across restarts and a wrong clock.

use std::time::Duration;

use ginnel_time::{Instant, Tai64n};

/// Makes the TAI64N labels of initiations, strictly increasing for the life of the state folder.
///
/// The state folder keeps a *reserve*: a label that no sent one has passed. After a restart the first label is later than
/// the reserve, so a clock that was set back locks nobody out. A clock that runs more than a year ahead of a known reserve
/// is not believed: the next tick after the reserve is sent instead, so one wrong boot cannot move every peer's memory of
/// us into the far future (CVE-2021-46873).
#[derive(Debug)]
pub(crate) struct Stamper {
    base: Option<(Instant, Tai64n)>,
    last: Tai64n,
    reserve: Tai64n,
}

impl Stamper {
    pub(crate) fn new(reserve: Tai64n) -> Self {
        Self { base: None, last: reserve, reserve }
    }

    /// Takes the wall clock's time.
    pub(crate) fn set_wall(&mut self, now: Instant, wall: Tai64n) {
        self.base = Some((now, wall));
    }

    /// The wall time as the clock tells it; `None` before the first [`Self::set_wall`].
    pub(crate) fn wall(&self, now: Instant) -> Option<Tai64n> {
        self.base.map(|(at, wall)| wall.saturating_add(now.saturating_duration_since(at)))
    }

    /// Unix seconds as the clock tells them; zero before the first [`Self::set_wall`].
    pub(crate) fn unix_seconds(&self, now: Instant) -> u64 {
        self.wall(now).map_or(0, Tai64n::unix_seconds)
    }

    /// The next label, and the reserve to persist before it is sent, when it has to move.
    pub(crate) fn stamp(&mut self, now: Instant) -> (Tai64n, Option<Tai64n>) {
        let wall = self.wall(now).unwrap_or(Tai64n::ZERO).whitened();
        let believable =
            self.reserve == Tai64n::ZERO || wall.unix_seconds() <= self.reserve.unix_seconds().saturating_add(YEAR);
        let label = if believable && wall > self.last { wall } else { self.last.next_tick() };
        self.last = label;
        if label.saturating_add(RESERVE_MARGIN) > self.reserve {
            self.reserve = label.saturating_add(RESERVE_AHEAD);
            (label, Some(self.reserve))
        } else {
            (label, None)
        }
    }

    /// The reserve as it should stand in the state folder.
    pub(crate) fn reserve(&self) -> Tai64n {
        self.reserve
    }
}

const YEAR: u64 = 366 * 24 * 3600;
/// How far ahead of a sent label the reserve is written, so that it moves at most once a minute.
const RESERVE_AHEAD: Duration = Duration::from_secs(120);
const RESERVE_MARGIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn labels_increase_when_the_clock_steps_back() {
        let mut stamper = Stamper::new(Tai64n::ZERO);
        stamper.set_wall(at(1), Tai64n::from_unix(1_800_000_000, 0));
        let (first, reserve) = stamper.stamp(at(1));
        assert!(reserve.is_some_and(|r| r > first));
        stamper.set_wall(at(2), Tai64n::from_unix(1_000_000_000, 0));
        let (second, _) = stamper.stamp(at(2));
        assert!(second > first);
    }

    #[test]
    fn a_restart_continues_after_the_reserve() {
        let mut stamper = Stamper::new(Tai64n::ZERO);
        stamper.set_wall(at(1), Tai64n::from_unix(1_800_000_000, 0));
        let (sent, _) = stamper.stamp(at(1));
        let mut restarted = Stamper::new(stamper.reserve());
        restarted.set_wall(at(1), Tai64n::from_unix(1_000_000_000, 0));
        assert!(restarted.stamp(at(1)).0 > sent);
    }

    #[test]
    fn a_clock_far_ahead_of_a_known_reserve_is_not_believed() {
        let mut stamper = Stamper::new(Tai64n::from_unix(1_800_000_000, 0));
        stamper.set_wall(at(1), Tai64n::from_unix(3_400_000_000, 0));
        assert!(stamper.stamp(at(1)).0.unix_seconds() < 1_800_000_010);
    }

    #[test]
    fn the_reserve_moves_at_most_once_a_minute() {
        let mut stamper = Stamper::new(Tai64n::ZERO);
        stamper.set_wall(at(0), Tai64n::from_unix(1_800_000_000, 0));
        let moves = (0..600).filter(|s| stamper.stamp(at(*s)).1.is_some()).count();
        assert!(moves <= 11, "{moves} moves in ten minutes");
    }
}
