//! One direction of a link as a pure machine: frames in, frames out when their time has come.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Shape;

/// Frames on their way. Time is what has passed since a start that the caller chose.
#[derive(Debug)]
pub struct Line {
    shape: Shape,
    dice: Dice,
    flying: VecDeque<(Duration, Vec<u8>)>,
    flying_bytes: usize,
    spare: Vec<Vec<u8>>,
    /// When the rate has sent all that it took so far.
    sent_by: Duration,
    last_due: Duration,
    tally: Tally,
}

/// What became of the frames offered to a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Frames that left at the far end.
    pub delivered: u64,
    /// Bytes of those frames.
    pub bytes: u64,
    /// Frames lost by the dice.
    pub lost: u64,
    /// Frames dropped because the queue was full.
    pub overflowed: u64,
}

impl Line {
    /// Makes an empty line whose loss and jitter follow from `seed`.
    pub fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            dice: Dice(seed),
            flying: VecDeque::new(),
            flying_bytes: 0,
            spare: Vec::new(),
            sent_by: Duration::ZERO,
            last_due: Duration::ZERO,
            tally: Tally::default(),
        }
    }

    /// Takes a frame at `now`, which costs the time of `wire` bytes where there is a rate.
    pub fn push(&mut self, now: Duration, frame: &[u8], wire: usize) {
        if self.dice.percent() < self.shape.loss_percent {
            self.tally.lost += 1;
            return;
        }
        let start = self.sent_by.max(now);
        if start - now > self.shape.queue || self.flying_bytes + frame.len() > FLYING_LIMIT {
            self.tally.overflowed += 1;
            return;
        }
        let sent = start + self.serialisation(wire);
        if self.shape.rate_bits.is_some() {
            self.sent_by = sent;
        }
        let jitter = self.shape.jitter.mul_f64(self.dice.percent() / 100.0);
        let due = (sent + self.shape.delay + jitter).max(self.last_due);
        self.last_due = due;
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(frame);
        self.flying_bytes += buffer.len();
        self.flying.push_back((due, buffer));
    }

    /// Gives the next frame whose time has come to `deliver` and answers whether there was one.
    pub fn pop(&mut self, now: Duration, deliver: impl FnOnce(&[u8])) -> bool {
        let Some((_, frame)) = self.flying.pop_front_if(|(due, _)| *due <= now) else { return false };
        self.flying_bytes -= frame.len();
        deliver(&frame);
        self.tally.delivered += 1;
        self.tally.bytes += frame.len() as u64;
        if self.spare.len() < SPARE_LIMIT {
            self.spare.push(frame);
        }
        true
    }

    /// Uses another shape for the frames to come. Frames on their way keep their times, and none overtakes another.
    pub fn reshape(&mut self, shape: Shape) {
        self.shape = shape;
    }

    /// When the next frame is due.
    pub fn next_due(&self) -> Option<Duration> {
        self.flying.front().map(|(due, _)| *due)
    }

    /// What happened so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    fn serialisation(&self, bytes: usize) -> Duration {
        self.shape.rate_bits.map_or(Duration::ZERO, |rate| {
            let nanoseconds = (bytes as u128) * 8 * 1_000_000_000 / u128::from(rate.max(1));
            Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX / 4))
        })
    }
}

/// SplitMix64: a run of numbers from one seed.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    /// Draws evenly from 0 (included) to 100 (excluded).
    fn percent(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 * (100.0 / (1_u64 << 53) as f64)
    }
}

/// Bytes on their way: what a line of 2.5 Gbit/s and 100 ms holds.
const FLYING_LIMIT: usize = 32 << 20;

/// Buffers kept for reuse.
const SPARE_LIMIT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn push(line: &mut Line, now: Duration, frame: &[u8]) {
        line.push(now, frame, frame.len());
    }

    fn drain(line: &mut Line, now: Duration) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while line.pop(now, |frame| frames.push(frame.to_vec())) {}
        frames
    }

    #[test]
    fn a_frame_leaves_exactly_when_its_delay_has_passed() {
        let mut line = Line::new(Shape::delay(10 * MS), 1);
        push(&mut line, 5 * MS, b"frame");
        assert_eq!(line.next_due(), Some(15 * MS));
        assert!(drain(&mut line, 15 * MS - Duration::from_nanos(1)).is_empty());
        assert_eq!(drain(&mut line, 15 * MS), [b"frame".to_vec()]);
        assert_eq!(line.next_due(), None);
    }

    #[test]
    fn jitter_stays_in_its_bounds_and_keeps_the_order() {
        let mut line = Line::new(Shape::delay(10 * MS).with_jitter(5 * MS), 2);
        let mut last = Duration::ZERO;
        for index in 0..100_u8 {
            let now = MS * u32::from(index) * 20;
            push(&mut line, now, &[index]);
            let due = line.next_due().expect("one frame flies");
            assert!(due >= now + 10 * MS && due <= now + 15 * MS && due >= last);
            last = due;
            assert_eq!(drain(&mut line, due), [vec![index]]);
        }
        for index in 0..100_u8 {
            push(&mut line, 10_000 * MS, &[index]);
        }
        let order: Vec<u8> = drain(&mut line, 20_000 * MS).concat();
        assert!(order.is_sorted() && order.len() == 100);
    }

    #[test]
    fn loss_follows_its_share_and_its_seed() {
        let run = |seed| {
            let mut line = Line::new(Shape::delay(Duration::ZERO).with_loss(10.0), seed);
            for _ in 0..10_000 {
                push(&mut line, Duration::ZERO, b"x");
                drain(&mut line, Duration::ZERO);
            }
            line.tally()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3).lost, run(4).lost);
        assert!((800..1_200).contains(&run(3).lost), "{:?}", run(3));
        assert_eq!(run(3).lost + run(3).delivered, 10_000);
    }

    #[test]
    fn a_cut_line_delivers_nothing_and_a_whole_one_everything() {
        let mut line = Line::new(Shape::cut(), 5);
        (0..1_000).for_each(|_| push(&mut line, Duration::ZERO, b"x"));
        assert_eq!((line.tally().lost, line.next_due()), (1_000, None));
        line.reshape(Shape::delay(Duration::ZERO));
        (0..1_000).for_each(|_| push(&mut line, Duration::ZERO, b"x"));
        assert_eq!(drain(&mut line, Duration::ZERO).len(), 1_000);
    }

    #[test]
    fn a_rate_spaces_frames_and_drops_the_tail_beyond_its_queue() {
        let mut line = Line::new(Shape::delay(Duration::ZERO).with_rate(8_000_000), 6);
        (0..100).for_each(|_| push(&mut line, Duration::ZERO, &[0; 1_000]));
        let tally = line.tally();
        assert_eq!(tally.overflowed, 49, "1 ms per frame and 50 ms of queue: frame 51 still starts in time");
        assert_eq!(drain(&mut line, 10 * MS).len(), 10);
        assert_eq!(drain(&mut line, 51 * MS).len(), 41);
        push(&mut line, 100 * MS, &[0; 1_000]);
        assert_eq!(line.next_due(), Some(101 * MS));
    }

    #[test]
    fn a_line_without_rate_still_has_an_end() {
        let mut line = Line::new(Shape::delay(MS), 7);
        let frame = vec![0; 1 << 16];
        (0..FLYING_LIMIT / frame.len() + 5).for_each(|_| push(&mut line, Duration::ZERO, &frame));
        assert_eq!(line.tally().overflowed, 5);
    }

    #[test]
    fn a_shorter_delay_does_not_let_frames_overtake() {
        let mut line = Line::new(Shape::delay(10 * MS), 8);
        push(&mut line, Duration::ZERO, b"first");
        line.reshape(Shape::delay(MS));
        push(&mut line, Duration::ZERO, b"second");
        assert!(drain(&mut line, 9 * MS).is_empty());
        assert_eq!(drain(&mut line, 10 * MS), [b"first".to_vec(), b"second".to_vec()]);
    }
}
