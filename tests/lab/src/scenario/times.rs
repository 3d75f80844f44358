//! How long things took, by rank.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// How long something took, in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Times {
    /// How often it was measured.
    pub count: usize,
    /// Half of the times are below.
    pub p50: u64,
    /// Of twenty times, nineteen are below.
    pub p95: u64,
    /// The longest.
    pub max: u64,
}

impl Times {
    pub(crate) fn of(mut millis: Vec<u64>) -> Self {
        millis.sort_unstable();
        let at = |percent: usize| millis.get((millis.len() * percent / 100).min(millis.len().max(1) - 1)).copied();
        Self {
            count: millis.len(),
            p50: at(50).unwrap_or(0),
            p95: at(95).unwrap_or(0),
            max: millis.last().copied().unwrap_or(0),
        }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, p50, p95, max } = self;
        let n = format!("n={count}");
        if *count < RANKED {
            return write!(f, "{n:>6}, p50 {p50:>5} ms, longest {max:>5} ms (too few for a p95)");
        }
        write!(f, "{n:>6}, p50 {p50:>5} ms, p95 {p95:>5} ms, longest {max:>5} ms")
    }
}

/// So many times it takes for the 95th percentile to be another than the longest.
const RANKED: usize = 21;

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_by_rank() {
        let times = Times::of((1..=100).rev().collect());
        assert_eq!((times.count, times.p50, times.p95, times.max), (100, 51, 96, 100));
        let none = Times::of(Vec::new());
        assert_eq!((none.count, none.p50, none.p95, none.max), (0, 0, 0, 0));
        assert_eq!(Times::of(vec![7]).p95, 7);
        let said = |count: u64| Times::of((1..=count).collect()).to_string();
        assert!(said(20).contains("n=20") && !said(20).contains("p95  "), "{}", said(20));
        assert!(said(21).contains("n=21") && said(21).contains("p95    20 ms"), "{}", said(21));
    }
}
