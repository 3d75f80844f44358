//! What happened in a world: a running hash of everything, and lines for a reader on request.

use std::io::Write as _;

use ginnel_time::Instant;

/// Whether a world tells what happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Telling {
    /// Only the result.
    #[default]
    Quiet,
    /// A line on standard output for each thing that happens.
    Lines,
}

/// The hash of all that happened so far.
pub(crate) struct Trace {
    hash: u64,
    telling: Telling,
}

impl Trace {
    pub(crate) const fn new(telling: Telling) -> Self {
        Self { hash: OFFSET, telling }
    }

    /// Takes in that something happened at a time, and what it was made of.
    pub(crate) fn note(&mut self, now: Instant, kind: u8, bytes: &[u8]) {
        self.hash = absorb(self.hash, &now.as_nanos().to_be_bytes());
        self.hash = absorb(self.hash, &[kind]);
        self.hash = absorb(self.hash, bytes);
    }

    pub(crate) fn tell(&self, now: Instant, line: impl FnOnce() -> String) {
        if self.telling == Telling::Lines {
            let seconds = crate::ledger::seconds(now);
            // Where nobody reads any longer there is nobody to tell.
            let _ = writeln!(std::io::stdout(), "{seconds:12.6} {}", line());
        }
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }
}

/// FNV-1a over `bytes`: two runs of one seed differ in chance only by a defect, not by an adversary.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    absorb(OFFSET, bytes)
}

fn absorb(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;
