//! All chance of a world, from one seed.

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore as _, SeedableRng as _};

/// A source of chance.
#[derive(Clone, Debug)]
pub(crate) struct Dice(ChaCha20Rng);

impl Dice {
    /// Makes the chance of world number `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self::labelled(seed, *b"world")
    }

    /// Makes other chance of the same seed, so that what is drawn of it changes nothing else.
    pub(crate) fn labelled(seed: u64, label: [u8; 5]) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        bytes[8..13].copy_from_slice(&label);
        Self(ChaCha20Rng::from_seed(bytes))
    }

    /// Chance of its own for a part of the world, so that what one part draws changes no other.
    pub(crate) fn fork(&mut self) -> Self {
        Self(ChaCha20Rng::from_seed(self.seed()))
    }

    /// A seed for a machine.
    pub(crate) fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.0.fill_bytes(&mut seed);
        seed
    }

    /// A number below `bound`, which must not be zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// A port that programs may have.
    pub(crate) fn port(&mut self) -> u16 {
        u16::try_from(self.between(1024, 65_535)).expect("bounds are ports")
    }

    /// Yes in `per_mille` of a thousand cases.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }

    /// A time from `low` to `high`.
    pub(crate) fn time(&mut self, low: Duration, high: Duration) -> Duration {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).expect("below centuries");
        Duration::from_nanos(self.between(nanos(low), nanos(high).max(nanos(low))))
    }

    /// A time from `low` to `high` milliseconds.
    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        self.time(Duration::from_millis(low), Duration::from_millis(high))
    }

    /// One of `options`, which must not be empty.
    pub(crate) fn pick<T: Copy>(&mut self, options: &[T]) -> T {
        options[usize::try_from(self.below(options.len() as u64)).expect("an index fits")]
    }
}
