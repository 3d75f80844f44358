//! What time it is, for a machine whose own clock may be wrong by decades.
//!
//! Only the age of a lease and the end of an invite are judged by it; entries of the log carry their own time. What
//! servers say counts before the own clock, but none of them can turn time back: what once was believed grows with the
//! machine's uptime, and across restarts no less than the log and a floor in the state folder say. A clock and a server
//! that agree within [`AGREEMENT`] are believed together.

use std::collections::BTreeMap;

use ginnel_time::Instant;

use crate::io::ServerId;
use crate::network::Network;
use crate::networks::NetworkNumber;
use crate::node::Node;
use crate::notice::Notice;
use crate::report::HealthReport;

/// What servers said of the time.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// When each server said last what time it is, in Unix seconds.
    told: BTreeMap<ServerId, (Instant, u64)>,
    /// The floor as this run found it.
    floor: Option<(Instant, u64)>,
    /// The error of the own clock that the user was told last.
    noticed: i64,
}

impl Clock {
    /// Takes a server's time.
    pub(crate) fn tell(&mut self, now: Instant, server: ServerId, time: u64) {
        self.told.insert(server, (now, time));
    }

    /// The latest time that any server told, grown since.
    fn served(&self, now: Instant) -> Option<u64> {
        self.told.values().map(|told| grown(now, *told)).max()
    }
}

impl Network {
    /// Starts the floor of this run.
    pub(crate) fn start_clock(&mut self, now: Instant) {
        self.clock.floor = Some((now, self.saved.time_floor));
    }

    /// The best guess at the time, where the own clock says `wall`; both in Unix seconds.
    pub(crate) fn believed(&self, now: Instant, wall: u64) -> u64 {
        let floor = self.clock.floor.map_or(0, |floor| grown(now, floor)).max(self.state.time());
        match self.clock.served(now) {
            Some(served) => {
                let served = served.max(floor);
                if wall.abs_diff(served) <= AGREEMENT { wall.max(served) } else { served }
            }
            None => wall.max(floor),
        }
    }

    /// Seconds by which the own clock is ahead of the servers', when that is too many.
    pub(crate) fn clock_error(&self, now: Instant, wall: u64) -> Option<i64> {
        let served = self.clock.served(now).filter(|_| wall != 0)?;
        let ahead = i64::try_from(wall).ok()?.checked_sub(i64::try_from(served).ok()?)?;
        (ahead.unsigned_abs() >= TOLERANCE).then_some(ahead)
    }

    /// Raises the floor where clock and servers agree.
    pub(crate) fn raise_floor(&mut self, now: Instant, wall: u64) {
        if let Some(served) = self.clock.served(now)
            && wall.abs_diff(served) <= AGREEMENT
        {
            self.saved.time_floor = self.saved.time_floor.max(served.min(wall));
        }
    }

    /// What is wrong with the clock, for the status.
    pub(crate) fn clock_health(&self, now: Instant, wall: u64) -> Option<HealthReport> {
        let ahead = self.clock_error(now, wall)?;
        let side = if ahead > 0 { "ahead of" } else { "behind" };
        let text = format!("this machine's clock is {} {side} the server's", length(ahead.unsigned_abs()));
        Some(HealthReport {
            network: Some(self.number),
            code: "clock",
            text,
            fix: "set the clock, for instance by NTP; links work meanwhile".to_owned(),
        })
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
        for network in self.networks.iter_mut() {
            let ahead_seconds = network.clock_error(now, wall).unwrap_or(0);
            let noticed = network.clock.noticed;
            if ahead_seconds.abs_diff(noticed) >= TOLERANCE || (ahead_seconds == 0 && noticed != 0) {
                network.clock.noticed = ahead_seconds;
                notices.push((network.number, Notice::Clock { ahead_seconds }));
            }
        }
        for (at, notice) in notices {
            self.notice(Some(at), notice);
        }
    }
}

fn grown(now: Instant, (at, time): (Instant, u64)) -> u64 {
    time.saturating_add(now.saturating_duration_since(at).as_secs())
}

/// A length of time in words, rounded.
fn length(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..7200 => (seconds / 60, "minutes"),
        7200..172_800 => (seconds / 3600, "hours"),
        172_800..63_072_000 => (seconds / 86_400, "days"),
        63_072_000.. => (seconds / 31_557_600, "years"),
    };
    format!("{count} {unit}")
}

/// Seconds of difference within which a clock and a server are believed together.
const AGREEMENT: u64 = 86_400;
/// Seconds of error that a user is told of.
const TOLERANCE: u64 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_told_in_words() {
        assert_eq!(length(360), "6 minutes");
        assert_eq!(length(7200), "2 hours");
        assert_eq!(length(50 * 31_557_600), "50 years");
        assert_eq!(length(3 * 86_400), "3 days");
    }

    #[test]
    fn what_a_server_said_grows_with_time() {
        let mut clock = Clock::default();
        let at = |seconds: u64| Instant::ZERO + std::time::Duration::from_secs(seconds);
        clock.tell(at(10), ServerId(0), 1000);
        clock.tell(at(10), ServerId(1), 1005);
        assert_eq!(clock.served(at(30)), Some(1025));
        // A server that turns time back counts no more than the other one.
        clock.tell(at(40), ServerId(1), 0);
        assert_eq!(clock.served(at(40)), Some(1030));
    }
}
