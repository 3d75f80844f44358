//! The delay box: one process that carries Ethernet frames between pairs of namespaces, late, and loses some.
//!
//! For each [`Link`] it opens a TAP device in two namespaces and forwards frames both ways through a [`line::Line`] per
//! direction: fixed delay, jitter that keeps the order, seeded loss, a rate with a bounded queue that drops its tail.
//! One thread serves one link. The laboratory starts the box by running its own executable again with the hidden
//! sub-command [`COMMAND`]; a program that builds laboratories calls [`crate::dispatch_hidden`] first in `main`.
//!
//! The two speak JSON lines: the box reads a [`Plan`], answers `"ready"`, then reads [`Order`]s until its input ends.

mod carrier;
pub mod line;
mod remote;

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use self::carrier::Carrier;
use self::line::Tally;
pub(crate) use self::remote::DelayBox;

/// The hidden sub-command's name on the command line.
pub const COMMAND: &str = "__delay-box";

/// What one direction of a link does to frames.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Time that every frame spends on the line.
    pub delay: Duration,
    /// Upper bound of the extra time, drawn evenly; frames keep their order.
    pub jitter: Duration,
    /// Share of frames lost, in percent.
    pub loss_percent: f64,
    /// Bits per second, counting whole Ethernet frames; unlimited if `None`.
    pub rate_bits: Option<u64>,
    /// How much waiting the rate may cause before frames are dropped on arrival.
    pub queue: Duration,
}

/// One pair of TAP devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The end called A.
    pub a: End,
    /// The end called B.
    pub b: End,
    /// What happens from A to B.
    pub a_to_b: Shape,
    /// What happens from B to A.
    pub b_to_a: Shape,
}

/// Where a TAP device goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The file that names the network namespace.
    pub namespace: PathBuf,
    /// The device's name there.
    pub interface: String,
}

/// The first line a box reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Seed of every loss and jitter decision.
    pub seed: u64,
    /// The links, numbered from zero.
    pub links: Vec<Link>,
}

/// Each further line a box reads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// Gives the link numbered `link` other shapes from the next frame on; answered by `"done"`.
    Reshape {
        /// Which link.
        link: usize,
        /// The shape from A to B.
        a_to_b: Shape,
        /// The shape from B to A.
        b_to_a: Shape,
    },
    /// Asks for the tallies of the link numbered `link`; answered by `{"tally":[a_to_b,b_to_a]}`.
    Count {
        /// Which link.
        link: usize,
    },
}

/// Each line a box writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The TAP devices exist.
    Ready,
    /// The order was carried out.
    Done,
    /// What both directions did so far.
    Tally([Tally; 2]),
}

impl Shape {
    /// A line that only delays.
    pub fn delay(delay: Duration) -> Self {
        Self { delay, jitter: Duration::ZERO, loss_percent: 0.0, rate_bits: None, queue: DEFAULT_QUEUE }
    }

    /// The same line with a rate, in bits per second.
    #[must_use]
    pub fn with_rate(self, bits_per_second: u64) -> Self {
        Self { rate_bits: Some(bits_per_second), ..self }
    }

    /// The same line losing `percent` of its frames.
    #[must_use]
    pub fn with_loss(self, percent: f64) -> Self {
        Self { loss_percent: percent, ..self }
    }

    /// The same line with up to `jitter` more delay per frame.
    #[must_use]
    pub fn with_jitter(self, jitter: Duration) -> Self {
        Self { jitter, ..self }
    }

    /// A line that is cut: it loses everything.
    pub fn cut() -> Self {
        Self::delay(Duration::ZERO).with_loss(100.0)
    }
}

/// Runs a delay box on standard input and output until the input ends.
///
/// # Errors
/// When the plan cannot be read or a TAP device cannot be made.
pub fn run_delay_box() -> Result<()> {
    let mut lines = std::io::stdin().lock().lines();
    let first = lines.next().context("the delay box got no plan")??;
    let plan: Plan = serde_json::from_str(&first).context("read the delay box's plan")?;
    let seeds = (0_u64..).map(|link| plan.seed.wrapping_add(link.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    let carriers = plan.links.iter().zip(seeds).map(|(link, seed)| Carrier::start(link, seed));
    let carriers: Vec<Carrier> = carriers.collect::<Result<_>>()?;
    say(Answer::Ready)?;
    for line in lines {
        let answer = match serde_json::from_str(&line?).context("read an order")? {
            Order::Reshape { link, a_to_b, b_to_a } => {
                carriers.get(link).context("no such link")?.reshape([a_to_b, b_to_a])?;
                Answer::Done
            }
            Order::Count { link } => Answer::Tally(carriers.get(link).context("no such link")?.tally()),
        };
        say(answer)?;
    }
    Ok(())
}

fn say(answer: Answer) -> Result<()> {
    let mut line = serde_json::to_string(&answer)?;
    line.push('\n');
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes())?;
    Ok(out.flush()?)
}

/// About what a home router's line card buffers.
const DEFAULT_QUEUE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_and_orders_survive_their_lines() {
        let shape = Shape::delay(Duration::from_micros(10_500)).with_loss(1.5).with_rate(20_000_000);
        let end = |name: &str| End { namespace: PathBuf::from("/run/netns/x"), interface: name.to_owned() };
        let link = Link { a: end("up"), b: end("down"), a_to_b: shape, b_to_a: Shape::cut() };
        let plan = Plan { seed: 7, links: vec![link] };
        let line = serde_json::to_string(&plan).expect("encode");
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Plan>(&line).expect("decode"), plan);
        let order = Order::Reshape { link: 0, a_to_b: shape, b_to_a: shape };
        let line = serde_json::to_string(&order).expect("encode");
        assert_eq!(serde_json::from_str::<Order>(&line).expect("decode"), order);
    }
}
