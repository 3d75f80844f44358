//! The window of counters that were opened (RFC 6479): each counter is accepted once, and old ones never.

use thiserror::Error;

/// How many counters a window remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WindowSize {
    /// 8,192 counters, as WireGuard has.
    #[default]
    Standard,
    /// 65,536 counters, for sessions so fast that reordering spans thousands of packets.
    Large,
}

impl WindowSize {
    const fn words(self) -> usize {
        match self {
            Self::Standard => 8_192 / 64,
            Self::Large => 65_536 / 64,
        }
    }
}

/// Why a counter is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The counter was accepted before.
    #[error("counter was seen before")]
    Seen,
    /// The counter is so far behind the newest that the window no longer remembers it.
    #[error("counter is behind the window")]
    TooOld,
}

/// A ring of bits, one per counter. One word of it is being cleared while the newest counter moves on, so counters are
/// accepted up to the ring's size less 64 behind the newest.
pub struct ReplayWindow {
    words: Box<[u64]>,
    newest: u64,
}

impl ReplayWindow {
    /// A window that has seen nothing.
    pub fn new(size: WindowSize) -> Self {
        Self { words: vec![0; size.words()].into_boxed_slice(), newest: 0 }
    }

    /// Accepts `counter` once.
    ///
    /// # Errors
    /// [`ReplayError`] for a counter that was accepted before or is behind the window; the window stays as it was.
    pub fn accept(&mut self, counter: u64) -> Result<(), ReplayError> {
        if counter > self.newest {
            self.advance(counter);
        } else if self.newest - counter >= self.span() {
            return Err(ReplayError::TooOld);
        }
        let bit = 1 << (counter % 64);
        let word = self.word(counter / 64);
        if *word & bit != 0 {
            return Err(ReplayError::Seen);
        }
        *word |= bit;
        Ok(())
    }

    /// Counters accepted from the newest backwards, the newest included.
    pub fn span(&self) -> u64 {
        (self.words.len() as u64 - 1) * 64
    }

    /// The greatest counter accepted; zero before the first.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    fn advance(&mut self, counter: u64) {
        let from = self.newest / 64;
        let steps = (counter / 64 - from).min(self.words.len() as u64);
        for step in 1..=steps {
            *self.word(from + step) = 0;
        }
        self.newest = counter;
    }

    fn word(&mut self, number: u64) -> &mut u64 {
        // The length is a power of two, so the mask keeps the index in range.
        let index = number as usize & (self.words.len() - 1);
        &mut self.words[index]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What a window means, without a ring: all counters ever accepted.
    #[derive(Default)]
    struct Model {
        accepted: BTreeSet<u64>,
    }

    impl Model {
        fn accept(&mut self, counter: u64, span: u64) -> Result<(), ReplayError> {
            let newest = self.accepted.last().copied().unwrap_or(0);
            if counter < newest && newest - counter >= span {
                return Err(ReplayError::TooOld);
            }
            if self.accepted.insert(counter) { Ok(()) } else { Err(ReplayError::Seen) }
        }
    }

    fn steps() -> impl Strategy<Value = Vec<(u8, u64)>> {
        prop::collection::vec((0_u8..5, 0_u64..200_000), 1..400)
    }

    fn follows_model(size: WindowSize, start: u64, steps: &[(u8, u64)]) {
        let mut window = ReplayWindow::new(size);
        let mut model = Model::default();
        let mut newest = start;
        for &(kind, amount) in steps {
            let counter = match kind {
                0 => newest.saturating_add(amount % 3),
                1 => newest.saturating_add(amount),
                2 => newest.saturating_sub(amount % 200),
                3 => newest.saturating_sub(amount),
                _ => newest.saturating_sub(window.span() - 2 + amount % 4),
            };
            assert_eq!(window.accept(counter), model.accept(counter, window.span()), "counter {counter}");
            newest = newest.max(counter);
            assert_eq!(window.newest(), model.accepted.last().copied().unwrap_or(0));
        }
    }

    proptest! {
        #[test]
        fn standard_window_follows_the_model(start in prop_oneof![Just(0), 0..1_u64 << 20, Just(u64::MAX - 300_000)], steps in steps()) {
            follows_model(WindowSize::Standard, start, &steps);
        }

        #[test]
        fn large_window_follows_the_model(start in prop_oneof![Just(0), 0..1_u64 << 20], steps in steps()) {
            follows_model(WindowSize::Large, start, &steps);
        }
    }

    #[test]
    fn window_reaches_back_to_its_span_and_no_further() {
        for size in [WindowSize::Standard, WindowSize::Large] {
            let mut window = ReplayWindow::new(size);
            let span = window.span();
            window.accept(10 * span).unwrap();
            assert_eq!(window.accept(9 * span + 1), Ok(()));
            assert_eq!(window.accept(9 * span), Err(ReplayError::TooOld));
        }
    }

    #[test]
    fn end_of_the_number_range_is_no_trap() {
        let mut window = ReplayWindow::new(WindowSize::Standard);
        assert_eq!(window.accept(u64::MAX), Ok(()));
        assert_eq!(window.accept(u64::MAX), Err(ReplayError::Seen));
        assert_eq!(window.accept(u64::MAX - 1), Ok(()));
        assert_eq!(window.accept(0), Err(ReplayError::TooOld));
    }
}
