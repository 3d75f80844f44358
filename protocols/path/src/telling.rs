//! When the other side is told our candidates.

use std::time::Duration;

use ginnel_time::Instant;

use crate::id::Candidate;

/// Our candidate list as last told, and how often it still has to be.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    last: Vec<Candidate>,
    copies: u8,
    next: Instant,
}

impl Telling {
    /// Has the list told anew, whatever was told before: with a new session.
    pub(crate) fn restart(&mut self, list: Vec<Candidate>) {
        self.last = list;
        self.copies = COPIES;
    }

    /// Has the list told if it differs from the one told last.
    pub(crate) fn changed(&mut self, list: Vec<Candidate>) {
        if list != self.last {
            self.restart(list);
        }
    }

    /// Notes that a call or an answer just carried the list.
    pub(crate) fn carried(&mut self, list: Vec<Candidate>) {
        self.last = list;
        self.copies = 0;
    }

    /// When the next copy may leave.
    pub(crate) fn due(&self) -> Option<Instant> {
        (self.copies > 0).then_some(self.next)
    }

    /// Takes the next copy if it is due.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Vec<Candidate>> {
        self.due().filter(|due| *due <= now)?;
        self.copies -= 1;
        self.next = now + GAP;
        Some(self.last.clone())
    }
}

/// Nothing acknowledges the list, so it is told twice.
const COPIES: u8 = 2;
/// Between two copies, and between two lists.
const GAP: Duration = Duration::from_millis(400);
