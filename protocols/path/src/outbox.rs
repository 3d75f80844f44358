//! Output that waits to be taken, bounded.

use std::collections::VecDeque;

use crate::event::{Output, PathEvent};
use crate::id::Path;
use crate::selection::Selection;

/// Messages to seal that wait at most; further ones are dropped, as a network would.
const MAX_SEALS: usize = 64;
/// News that waits at most; the oldest is dropped.
const MAX_EVENTS: usize = 32;

/// What an agent has to say. Of answers, which one input brings at most one of, of selections, and of wishes for a socket
/// or a handshake, only the last one counts.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    answered: Option<Path>,
    select: Option<Selection>,
    fresh: Option<u8>,
    summon: bool,
    seals: VecDeque<Output>,
    events: VecDeque<PathEvent>,
}

impl Outbox {
    pub(crate) fn seal(&mut self, path: Path, ttl: Option<u8>, plaintext: Vec<u8>) {
        if self.seals.len() < MAX_SEALS {
            self.seals.push_back(Output::Seal { path, ttl, plaintext });
        }
    }

    pub(crate) fn answered(&mut self, path: Path) {
        self.answered = Some(path);
    }

    pub(crate) fn select(&mut self, selection: Selection) {
        self.select = Some(selection);
    }

    pub(crate) fn fresh(&mut self, round: u8) {
        self.fresh = Some(round);
    }

    pub(crate) fn summon(&mut self) {
        self.summon = true;
    }

    pub(crate) fn event(&mut self, event: PathEvent) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Drops what can no longer be sealed or used.
    pub(crate) fn session_lost(&mut self) {
        self.seals.clear();
        self.fresh = None;
        self.summon = false;
    }

    pub(crate) fn is_empty(&self) -> bool {
        let wishes = self.answered.is_some() || self.select.is_some() || self.fresh.is_some() || self.summon;
        !wishes && self.seals.is_empty() && self.events.is_empty()
    }

    pub(crate) fn take(&mut self) -> Option<Output> {
        if let Some(path) = self.answered.take() {
            return Some(Output::Answered { path });
        }
        if let Some(Selection { primary, backup, duplicate }) = self.select.take() {
            return Some(Output::Select { primary, backup, duplicate });
        }
        if let Some(round) = self.fresh.take() {
            return Some(Output::FreshSocket { round });
        }
        if std::mem::take(&mut self.summon) {
            return Some(Output::Summon);
        }
        self.seals.pop_front().or_else(|| self.events.pop_front().map(Output::Event))
    }
}
