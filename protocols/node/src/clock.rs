//! What time it is, for a machine whose own clock may be wrong by decades.
//!
//! Only the age of a lease and the end of an invite are judged by it; entries of the log carry their own time. A clock
//! and a server that agree within [`AGREEMENT`] are believed together; else what servers say counts before the own clock.
//!
//! None of them can turn time back. The least that it can be is kept across restarts as a [`Mark`]: a time that a server
//! and the own clock had reached, and what the own clock said then. From there time goes on with the machine's uptime or,
//! where that is more, as its clock went on, right or wrong.
//!
//! None of them can have this machine sign a time that is yet to come either: what it signs is never ahead of its own
//! clock. A lease is not signed at all while the clock is far behind the servers', since it would make the log look old.

use std::collections::BTreeMap;

use ginnel_time::Instant;

use crate::io::ServerId;
use crate::network::Network;
use crate::networks::NetworkNumber;
use crate::node::Node;
use crate::notice::Notice;
use crate::saved::SavedNetwork;

/// What is known of the time beside the own clock.
#[derive(Debug)]
pub(crate) struct Clock {
    /// When each server said last what time it is, in Unix seconds.
    told: BTreeMap<ServerId, (Instant, u64)>,
    mark: Option<Mark>,
    /// The error of the own clock that the user was told last.
    noticed: i64,
}

/// A time that has certainly passed, in Unix seconds.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// When it was reached, or when this run began.
    at: Instant,
    time: u64,
    /// What the own clock said then.
    wall: u64,
}

impl Mark {
    /// The least that the time can be.
    fn least(&self, now: Instant, wall: u64) -> u64 {
        let lived = grown(now, (self.at, self.time));
        let counted = self.time.saturating_add(wall.saturating_sub(self.wall));
        // A clock that was set right meanwhile counts no further than it goes.
        counted.min(wall).max(lived)
    }

    /// The same mark as of `now`.
    fn moved(&self, now: Instant) -> Self {
        Self { at: now, time: grown(now, (self.at, self.time)), wall: grown(now, (self.at, self.wall)) }
    }
}

impl Clock {
    /// The clock of a network as the state folder has it.
    pub(crate) fn resume(now: Instant, saved: &SavedNetwork) -> Self {
        let mark = Mark { at: now, time: saved.time_floor, wall: saved.floor_wall };
        Self { told: BTreeMap::new(), mark: (mark.time > 0).then_some(mark), noticed: 0 }
    }

    /// Takes a server's time.
    pub(crate) fn tell(&mut self, now: Instant, server: ServerId, time: u64) {
        self.told.insert(server, (now, time));
    }

    /// A server is none of the network's any longer.
    pub(crate) fn forget(&mut self, server: ServerId) {
        self.told.remove(&server);
    }

    /// The latest time that a server told, grown since; of those that agree with the own clock, if there are any.
    fn served(&self, now: Instant, wall: u64) -> Option<u64> {
        let told = || self.told.values().map(|told| grown(now, *told));
        told().filter(|time| wall.abs_diff(*time) <= AGREEMENT).max().or_else(|| told().max())
    }
}

impl Network {
    /// The best guess at the time, where the own clock says `wall`; both in Unix seconds.
    pub(crate) fn believed(&self, now: Instant, wall: u64) -> u64 {
        let least = self.clock.mark.map_or(0, |mark| mark.least(now, wall)).max(self.state.time());
        match self.clock.served(now, wall) {
            Some(served) => {
                let served = served.max(least);
                if wall.abs_diff(served) <= AGREEMENT { wall.max(served) } else { served }
            }
            None => wall.max(least),
        }
    }

    /// The time to sign a lease for: never ahead of the own clock. `None` while that is unknown or far behind.
    pub(crate) fn time_to_vouch(&self, now: Instant, wall: u64) -> Option<u64> {
        let served = self.clock.served(now, wall).unwrap_or(wall);
        (wall != 0 && served <= wall.saturating_add(AGREEMENT)).then_some(served.min(wall))
    }

    /// The time from which an invite counts: ahead of neither the own clock nor, where that is behind, the log. An invite's
    /// end is judged by the log's time, so that only who orders the log could gain by it, and has no need to.
    pub(crate) fn time_to_invite(&self, now: Instant, wall: u64) -> u64 {
        self.believed(now, wall).min(wall.max(self.state.time()))
    }

    /// Seconds by which the own clock is ahead of the servers', when that is too many.
    pub(crate) fn clock_error(&self, now: Instant, wall: u64) -> Option<i64> {
        let served = self.clock.served(now, wall).filter(|_| wall != 0)?;
        let ahead = i64::try_from(wall).ok()?.checked_sub(i64::try_from(served).ok()?)?;
        (ahead.unsigned_abs() >= TOLERANCE).then_some(ahead)
    }

    /// Moves the mark to what clock and servers have reached, and has it saved.
    pub(crate) fn mark_time(&mut self, now: Instant, wall: u64) {
        let clock = &mut self.clock;
        if let Some(served) = clock.served(now, wall).filter(|_| wall != 0) {
            let time = served.min(wall);
            if clock.mark.is_none_or(|mark| time >= mark.least(now, wall)) {
                clock.mark = Some(Mark { at: now, time, wall });
            }
        }
        if let Some(mark) = clock.mark.map(|mark| mark.moved(now)) {
            (self.saved.time_floor, self.saved.floor_wall) = (mark.time, mark.wall);
        }
    }
}

impl Node {
    /// Unix seconds as well as they are known; zero before the shell told the wall time.
    pub(crate) fn time(&self, now: Instant, at: NetworkNumber) -> u64 {
        let wall = self.stamper.unix_seconds(now);
        self.networks.get(at).map_or(wall, |network| network.believed(now, wall))
    }

    /// Tells the user of a wrong clock, once for each error.
    pub(crate) fn check_clock(&mut self, now: Instant) {
        let wall = self.stamper.unix_seconds(now);
        let mut notices = Vec::new();
        let mut healed = Vec::new();
        for network in self.networks.iter_mut() {
            let ahead_seconds = network.clock_error(now, wall).unwrap_or(0);
            let noticed = network.clock.noticed;
            if ahead_seconds.abs_diff(noticed) >= TOLERANCE || (ahead_seconds == 0 && noticed != 0) {
                network.clock.noticed = ahead_seconds;
                notices.push((network.number, Notice::Clock { ahead_seconds }));
                healed.extend((ahead_seconds == 0).then_some(network.number));
            }
        }
        for (at, notice) in notices {
            self.notice(Some(at), notice);
        }
        for at in healed {
            // A lease may have waited for it.
            self.renew_lease(now, at);
        }
    }
}

fn grown(now: Instant, (at, time): (Instant, u64)) -> u64 {
    time.saturating_add(now.saturating_duration_since(at).as_secs())
}

/// A length of time in words, rounded.
pub(crate) fn in_words(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..7200 => (seconds / 60, "minutes"),
        7200..172_800 => (seconds / 3600, "hours"),
        172_800..63_072_000 => (seconds / 86_400, "days"),
        63_072_000.. => (seconds / 31_557_600, "years"),
    };
    format!("{count} {unit}")
}

/// Seconds of difference within which a clock and a server are believed together.
pub(crate) const AGREEMENT: u64 = 86_400;
/// Seconds of error that a user is told of.
const TOLERANCE: u64 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_told_in_words() {
        assert_eq!(in_words(360), "6 minutes");
        assert_eq!(in_words(7200), "2 hours");
        assert_eq!(in_words(50 * 31_557_600), "50 years");
        assert_eq!(in_words(3 * 86_400), "3 days");
    }

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + std::time::Duration::from_secs(seconds)
    }

    #[test]
    fn what_a_server_said_grows_with_time() {
        let mut clock = Clock { told: BTreeMap::new(), mark: None, noticed: 0 };
        clock.tell(at(10), ServerId(0), 1_000_000);
        clock.tell(at(10), ServerId(1), 1_000_005);
        assert_eq!(clock.served(at(30), 0), Some(1_000_025));
        // A server that turns time back counts no more than the other one.
        clock.tell(at(40), ServerId(1), 0);
        assert_eq!(clock.served(at(40), 9_000_000), Some(1_000_030));
        // Nor does one that turns it forward, where the own clock agrees with the other one.
        clock.tell(at(40), ServerId(1), 9_000_000);
        assert_eq!(clock.served(at(40), 1_000_000), Some(1_000_030));
        assert_eq!(clock.served(at(40), 0), Some(9_000_000));
        clock.forget(ServerId(1));
        assert_eq!(clock.served(at(40), 0), Some(1_000_030));
    }

    #[test]
    fn time_goes_on_from_its_mark_as_a_clock_does_that_is_right_or_wrong() {
        let mark = |time, wall| Mark { at: at(10), time, wall };
        // Ten days later by a clock that was right, or wrong by as much before.
        assert_eq!(mark(5_000_000, 5_000_000).least(at(15), 5_864_000), 5_864_000);
        assert_eq!(mark(5_000_000, 9_000_000).least(at(15), 9_864_000), 5_864_000);
        // One that was behind and is set right, and one that was ahead and is set right.
        assert_eq!(mark(1_000, 1_000).least(at(15), 5_000_000), 5_000_000);
        assert_eq!(mark(5_000_000, 9_000_000).least(at(15), 5_000_000), 5_000_005);
        // A clock that begins anew with every start counts for nothing, and the uptime counts.
        let moved = mark(5_000_000, 5_000_000).moved(at(110));
        assert_eq!((moved.time, moved.wall), (5_000_100, 5_000_100));
        assert_eq!(moved.least(at(120), 60), 5_000_110);
    }
}
