//! Datagrams both ways between two members, as fast as a death or a rebirth of the link is to be noticed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::probe::Datagrams;
use super::scene::Member;

/// Streams from one member to another, and back.
pub(crate) struct TwoWay {
    streams: [Datagrams; 2],
    number: u32,
}

impl TwoWay {
    pub(crate) fn open(a: &Member, b: &Member) -> Result<Self> {
        let [a, b] = [a, b].map(|member| (member.host(), member.inner.v4));
        Ok(Self { streams: [Datagrams::open(a, b)?, Datagrams::open(b, a)?], number: 0 })
    }

    /// Waits until a datagram that is sent from here on has arrived each way, and answers how long that took.
    pub(crate) fn both_ways(&mut self, limit: Duration) -> Result<Duration> {
        let (begun, first) = (Instant::now(), self.number + 1);
        let mut there = [None; 2];
        while there.iter().any(Option::is_none) {
            if begun.elapsed() > limit {
                bail!("no packets both ways {limit:?} later: {there:?}");
            }
            self.number += 1;
            for (stream, there) in self.streams.iter().zip(&mut there) {
                // While the interface is gone, sending fails.
                drop(stream.send(self.number));
                while let Some(number) = stream.receive() {
                    if number >= first {
                        there.get_or_insert(begun.elapsed());
                    }
                }
            }
            std::thread::sleep(PACE);
        }
        Ok(there.into_iter().flatten().max().unwrap_or_default())
    }

    /// Listens until it is `over`, and answers the longest time without a datagram one way or the other.
    pub(crate) fn silence_until(&mut self, over: &AtomicBool) -> Result<Duration> {
        let mut silence = Silence::since(Instant::now());
        while !over.load(Ordering::Relaxed) {
            self.number += 1;
            for (way, stream) in self.streams.iter().enumerate() {
                stream.send(self.number)?;
                while stream.receive().is_some() {
                    silence.heard(way, Instant::now());
                }
            }
            std::thread::sleep(PACE);
        }
        Ok(silence.longest(Instant::now()))
    }
}

/// The longest time in which one of two ways was silent.
struct Silence {
    last: [Instant; 2],
    longest: Duration,
}

impl Silence {
    fn since(now: Instant) -> Self {
        Self { last: [now; 2], longest: Duration::ZERO }
    }

    fn heard(&mut self, way: usize, now: Instant) {
        self.longest = self.longest.max(now - self.last[way]);
        self.last[way] = now;
    }

    /// What lasts still counts.
    fn longest(&self, now: Instant) -> Duration {
        self.last.iter().map(|last| now - *last).fold(self.longest, Duration::max)
    }
}

const PACE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_dies_is_silent_to_the_end() {
        let begun = Instant::now();
        let at = |millis| begun + Duration::from_millis(millis);
        let mut silence = Silence::since(begun);
        for millis in (5..=1_000).step_by(5) {
            silence.heard(0, at(millis));
            silence.heard(1, at(millis));
        }
        assert_eq!(silence.longest(at(1_010)), Duration::from_millis(10));
        // One way alone.
        (1_005..=4_000).step_by(5).for_each(|millis| silence.heard(0, at(millis)));
        assert_eq!(silence.longest(at(4_000)), Duration::from_secs(3));
        silence.heard(1, at(4_500));
        assert_eq!(
            silence.longest(at(4_500)),
            Duration::from_millis(3_500),
            "and one that comes back was silent till then"
        );
    }
}
