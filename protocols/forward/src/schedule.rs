//! Deadlines of many peers, one entry each, moved lazily.
//!
//! A peer's entry may be earlier than its true deadline, never later: packets that only put a deadline off write a
//! field of the peer, and the entry moves when it fires.

use std::collections::BTreeSet;

use ginnel_time::Instant;

use crate::table::Slot;

/// The entries, in order of time.
#[derive(Default)]
pub(crate) struct Schedule {
    entries: BTreeSet<(Instant, Slot)>,
}

/// One peer's entry, kept with the peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Armed(Option<Instant>);

impl Schedule {
    /// Makes sure that `slot` fires at `deadline` or earlier.
    #[inline]
    pub(crate) fn arm(&mut self, armed: &mut Armed, slot: Slot, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return };
        match armed.0 {
            Some(at) if at <= deadline => return,
            Some(at) => {
                self.entries.remove(&(at, slot));
            }
            None => {}
        }
        armed.0 = Some(deadline);
        self.entries.insert((deadline, slot));
    }

    /// Drops the entry of a peer that goes away.
    pub(crate) fn disarm(&mut self, armed: &mut Armed, slot: Slot) {
        if let Some(at) = armed.0.take() {
            self.entries.remove(&(at, slot));
        }
    }

    /// Takes the next entry that is due; the caller must call [`fired`](Self::fired) for its peer.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Slot> {
        let first = *self.entries.first()?;
        if first.0 > now {
            return None;
        }
        self.entries.remove(&first);
        Some(first.1)
    }

    /// Notes that the peer's entry was taken.
    pub(crate) fn fired(armed: &mut Armed) {
        armed.0 = None;
    }

    /// The earliest entry.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.entries.first().map(|entry| entry.0)
    }
}

/// The earlier of two deadlines, where `None` is never.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
