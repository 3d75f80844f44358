//! Changes to inputs, chosen by a seed: the engine's work in small, for test runs without instrumentation.

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore as _, SeedableRng as _};

/// A source of changed inputs.
pub struct Mutator {
    rng: ChaCha20Rng,
}

impl Mutator {
    /// The changes of one seed.
    pub fn new(seed: u64) -> Self {
        Self { rng: ChaCha20Rng::seed_from_u64(seed) }
    }

    /// An input made of those in `among`, of at most `longest` bytes.
    pub fn next(&mut self, among: &[Vec<u8>], longest: usize) -> Vec<u8> {
        let mut input = self.one_of(among);
        for _ in 0..=self.below(4) {
            self.change(&mut input, among);
        }
        input.truncate(longest);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, among: &[Vec<u8>]) {
        let place = self.below(input.len() + 1);
        match self.below(8) {
            0 | 1 => {
                if let Some(byte) = input.get_mut(place) {
                    *byte ^= 1 << self.below(8);
                }
            }
            2 => {
                let value = [0, 1, 0x7f, 0x80, 0xff, self.below(256) as u8][self.below(6)];
                if let Some(byte) = input.get_mut(place) {
                    *byte = value;
                }
            }
            3 => input.truncate(place),
            4 => {
                let bytes: Vec<u8> = (0..=self.below(8)).map(|_| self.below(256) as u8).collect();
                input.splice(place..place, bytes);
            }
            5 => {
                let end = (place + self.below(16)).min(input.len());
                input.drain(place..end);
            }
            6 => {
                let end = (place + self.below(64)).min(input.len());
                let copy = input[place..end].to_vec();
                input.extend(copy);
            }
            _ => {
                let other = self.one_of(among);
                let from = self.below(other.len() + 1);
                input.truncate(place);
                input.extend_from_slice(&other[from..]);
            }
        }
    }

    fn one_of(&mut self, among: &[Vec<u8>]) -> Vec<u8> {
        if among.is_empty() { Vec::new() } else { among[self.below(among.len())].clone() }
    }

    /// Below `bound`, which is not zero.
    fn below(&mut self, bound: usize) -> usize {
        (self.rng.next_u64() % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_changes_and_they_are_changes() {
        let among = [b"one input".to_vec(), b"another".to_vec()];
        let run = |seed| {
            let mut mutator = Mutator::new(seed);
            (0..100).map(|_| mutator.next(&among, 20)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert!(run(1).iter().filter(|input| among.contains(input)).count() < 20);
        assert!(run(1).iter().all(|input| input.len() <= 20));
    }
}
