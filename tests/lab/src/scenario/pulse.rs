//! A stream of pings, and the gaps in its answers.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::process::Process;

/// Pings that go on until this is dropped, ten a second.
pub(crate) struct Pulse {
    process: Process,
    what: String,
}

/// An answer.
#[derive(Clone, Copy)]
struct Answer {
    sequence: u64,
    /// Since the Unix epoch.
    at: Duration,
}

impl Pulse {
    /// Starts pinging `to` from `from`.
    pub(crate) fn start(from: &Host, to: IpAddr) -> Result<Self> {
        let process = from.spawn("pulse", &["ping", "-n", "-D", "-i", "0.1", &to.to_string()], &[])?;
        Ok(Self { process, what: format!("{} to {to}", from.name()) })
    }

    /// Waits until answers come steadily, a second without a hole, and answers the longest time without an answer since
    /// `event`.
    ///
    /// Looks for `least` at any rate, so that what the event does has time to show.
    pub(crate) fn gap_since(&self, event: Duration, least: Duration, limit: Duration) -> Result<Duration> {
        loop {
            let now = unix_now();
            let answers = self.answers();
            let since = now.saturating_sub(event);
            if since >= least && is_steady(&answers, now) {
                return Ok(longest_gap(&answers, event));
            }
            if since > limit {
                bail!("{}: no steady answers {limit:?} later; {}", self.what, self.describe(event));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until answers come steadily.
    pub(crate) fn steady(&self, limit: Duration) -> Result<()> {
        self.gap_since(unix_now(), Duration::ZERO, limit).map(drop)
    }

    /// Answers after `moment`.
    pub(crate) fn answers_since(&self, moment: Duration) -> usize {
        self.answers().iter().filter(|answer| answer.at > moment).count()
    }

    /// When the first answer after `moment` came, by the Unix clock.
    pub(crate) fn first_answer_after(&self, moment: Duration) -> Option<Duration> {
        self.answers().iter().map(|answer| answer.at).find(|at| *at > moment)
    }

    /// When the last answer came, by the Unix clock.
    pub(crate) fn last_answer(&self) -> Option<Duration> {
        self.answers().last().map(|answer| answer.at)
    }

    fn describe(&self, event: Duration) -> String {
        let answers = self.answers();
        let last = answers.last().map_or_else(
            || "none ever".to_owned(),
            |last| format!("the last {:.1} s after the event", last.at.as_secs_f64() - event.as_secs_f64()),
        );
        format!("{} answers since, {last}", self.answers_since(event))
    }

    fn answers(&self) -> Vec<Answer> {
        self.process.stdout().lines().filter_map(read).collect()
    }
}

/// The Unix clock, by which `ping` stamps its lines.
pub(crate) fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Pings once and answers whether there was an answer within a second.
pub(crate) fn answers(from: &Host, to: IpAddr) -> Result<bool> {
    let output = from.run(&["ping", "-n", "-c1", "-W1", &to.to_string()], Duration::from_secs(10)).context("ping")?;
    Ok(output.status.success())
}

/// Reads `[1700000000.123456] 64 bytes from 100.70.0.9: icmp_seq=5 ttl=64 time=40.1 ms`.
fn read(line: &str) -> Option<Answer> {
    let (stamp, rest) = line.strip_prefix('[')?.split_once(']')?;
    let (_, after) = rest.split_once("icmp_seq=")?;
    let (sequence, more) = after.split_once(' ')?;
    // Without a round trip it is a complaint, not an answer.
    more.contains("time=").then_some(())?;
    let at = Duration::try_from_secs_f64(stamp.parse().ok()?).ok()?;
    Some(Answer { sequence: sequence.parse().ok()?, at })
}

/// Ten answers in sequence, the last of them just now.
fn is_steady(answers: &[Answer], now: Duration) -> bool {
    let last = &answers[answers.len().saturating_sub(10)..];
    last.len() == 10
        && last.windows(2).all(|pair| pair[1].sequence == pair[0].sequence + 1)
        && last.last().is_some_and(|last| now.saturating_sub(last.at) < Duration::from_millis(500))
}

/// The longest time between two answers of which the second came after `event`.
fn longest_gap(answers: &[Answer], event: Duration) -> Duration {
    let pairs = answers.windows(2).filter(|pair| pair[1].at > event);
    pairs.map(|pair| pair[1].at.saturating_sub(pair[0].at)).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_complaints() {
        let line = "[1700000000.250000] 64 bytes from 100.70.0.9: icmp_seq=5 ttl=64 time=40.1 ms";
        let answer = read(line).expect("an answer");
        assert_eq!((answer.sequence, answer.at), (5, Duration::from_millis(1_700_000_000_250)));
        assert!(read("[1700000000.25] From 10.0.0.1 icmp_seq=6 Destination Host Unreachable").is_none());
        assert!(read("ping: sendmsg: Network is unreachable").is_none());
    }

    #[test]
    fn gaps_count_from_the_last_answer_before_the_event() {
        let answer = |sequence, millis| Answer { sequence, at: Duration::from_millis(millis) };
        let answers = [answer(1, 0), answer(2, 5_000), answer(3, 5_100), answer(9, 7_100), answer(10, 7_200)];
        assert_eq!(longest_gap(&answers, Duration::from_millis(5_200)), Duration::from_secs(2));
        assert_eq!(longest_gap(&answers, Duration::from_millis(100)), Duration::from_secs(5));
        assert_eq!(longest_gap(&answers, Duration::from_secs(9)), Duration::ZERO);
    }
}
