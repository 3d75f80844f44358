//! Datagrams both ways between two members, as fast as a death or a rebirth of the link is to be noticed.

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

    /// The longest time without a datagram each way, within `length`.
    pub(crate) fn silence(&mut self, length: Duration) -> Result<Duration> {
        let begun = Instant::now();
        let mut last = [begun; 2];
        let mut longest = Duration::ZERO;
        while begun.elapsed() < length {
            self.number += 1;
            for (stream, last) in self.streams.iter().zip(&mut last) {
                stream.send(self.number)?;
                while stream.receive().is_some() {
                    longest = longest.max(last.elapsed());
                    *last = Instant::now();
                }
            }
            std::thread::sleep(PACE);
        }
        Ok(last.iter().map(Instant::elapsed).fold(longest, Duration::max))
    }
}

const PACE: Duration = Duration::from_millis(5);
