//! One line between an attachment and the middle of its network: delay, loss in bursts, corruption, and what fits.

use std::time::Duration;

use crate::dice::Dice;

/// What a line does to packets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    pub(crate) loss: Loss,
    /// Packets that arrive twice, of a thousand.
    pub(crate) duplicates: u64,
    /// Packets held back so that others overtake them, of a thousand.
    pub(crate) reordered: u64,
    /// Packets with a bit turned, of a thousand.
    pub(crate) corrupted: u64,
    /// Routers on the way to the middle of the network.
    pub(crate) hops: u8,
    /// The longest IP packet that fits; longer ones vanish without a word, since the sockets forbid fragments.
    pub(crate) mtu: usize,
}

/// Loss after Gilbert and Elliott: a line is good or bad, and changes with each packet by chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// Packets lost while the line is good, of a thousand.
    pub(crate) good: u64,
    /// Packets lost while it is bad, of a thousand.
    pub(crate) bad: u64,
    /// How often a good line turns bad, of a thousand packets.
    pub(crate) worsens: u64,
    /// How often a bad line turns good, of a thousand packets.
    pub(crate) mends: u64,
}

impl Loss {
    pub(crate) const NONE: Self = Self { good: 0, bad: 0, worsens: 0, mends: 1000 };
}

impl Line {
    /// A cable on a table.
    pub(crate) const LOCAL: Self = Self {
        delay: Duration::from_micros(150),
        jitter: Duration::ZERO,
        loss: Loss::NONE,
        duplicates: 0,
        reordered: 0,
        corrupted: 0,
        hops: 0,
        mtu: 1500,
    };
}

/// What became of one packet on two lines.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Passage {
    /// When each copy arrives.
    pub(crate) delays: Vec<Duration>,
    /// Whether a bit has turned.
    pub(crate) corrupted: bool,
}

/// Draws whether a packet of `length` bytes is lost on a line whose state is `bad`, and moves that state.
pub(crate) fn loses(line: &Line, bad: &mut bool, length: usize, dice: &mut Dice) -> bool {
    if length > line.mtu {
        return true;
    }
    if line.loss == Loss::NONE {
        return false;
    }
    let turns = if *bad { line.loss.mends } else { line.loss.worsens };
    *bad ^= dice.chance(turns);
    dice.chance(if *bad { line.loss.bad } else { line.loss.good })
}

/// Draws what two lines in a row do to a packet that neither loses.
pub(crate) fn passage(a: &Line, b: &Line, dice: &mut Dice) -> Passage {
    let corrupted = dice.chance(a.corrupted) || dice.chance(b.corrupted);
    let copies = 1 + u8::from(dice.chance(a.duplicates)) + u8::from(dice.chance(b.duplicates));
    let delays = (0..copies).map(|_| {
        let mut delay = a.delay + b.delay + dice.time(Duration::ZERO, a.jitter + b.jitter);
        if dice.chance(a.reordered + b.reordered) {
            delay += dice.millis(1, 40);
        }
        delay
    });
    Passage { delays: delays.collect(), corrupted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_comes_in_bursts_and_long_packets_vanish() {
        let loss = Loss { good: 0, bad: 1000, worsens: 10, mends: 200 };
        let line = Line { loss, mtu: 1300, ..Line::LOCAL };
        let (mut dice, mut bad) = (Dice::new(1), false);
        let lost: Vec<bool> = (0..20_000).map(|_| loses(&line, &mut bad, 100, &mut dice)).collect();
        let total = lost.iter().filter(|lost| **lost).count();
        let bursts = lost.windows(2).filter(|pair| pair[1] && !pair[0]).count();
        assert!((400..1800).contains(&total), "{total}");
        assert!(bursts * 3 < total, "{bursts} bursts of {total}");
        assert!(loses(&line, &mut false, 1301, &mut dice));
    }
}
