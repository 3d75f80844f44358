//! The end of the log as it was received, to be handed to those who lack it.

use std::collections::VecDeque;

/// Encoded entries with consecutive sequences up to the log's end; the oldest go when they are too many.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    first: u64,
    entries: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Tail {
    /// Adds the entry at the log's end.
    pub(crate) fn push(&mut self, sequence: u64, entry: Vec<u8>) {
        if self.entries.is_empty() || self.first.checked_add(self.entries.len() as u64) != Some(sequence) {
            self.entries.clear();
            self.bytes = 0;
            self.first = sequence;
        }
        self.bytes = self.bytes.saturating_add(entry.len());
        self.entries.push_back(entry);
        while self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES {
            let Some(oldest) = self.entries.pop_front() else { return };
            self.bytes = self.bytes.saturating_sub(oldest.len());
            self.first = self.first.saturating_add(1);
        }
    }

    /// The entries from sequence `from` on; `None` when some of them are not here.
    pub(crate) fn from(&self, from: u64) -> Option<impl Iterator<Item = &[u8]>> {
        let skip = usize::try_from(from.checked_sub(self.first)?).ok()?;
        (skip <= self.entries.len()).then(|| self.entries.iter().skip(skip).map(Vec::as_slice))
    }
}

/// Entries kept at most.
const MAX_ENTRIES: usize = 8192;
/// Their bytes at most.
const MAX_BYTES: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_and_bounded() {
        let mut tail = Tail::default();
        for sequence in 5..5 + 2 * MAX_ENTRIES as u64 {
            tail.push(sequence, vec![sequence as u8; 4]);
        }
        let end = 5 + 2 * MAX_ENTRIES as u64;
        assert!(tail.from(5).is_none() && tail.from(end + 1).is_none());
        assert_eq!(tail.from(end).map(Iterator::count), Some(0));
        assert_eq!(tail.from(end - 3).map(|entries| entries.map(|entry| entry[0]).collect::<Vec<_>>()), {
            Some(vec![(end - 3) as u8, (end - 2) as u8, (end - 1) as u8])
        });
        for sequence in 0..100 {
            tail.push(sequence, vec![0; MAX_BYTES / 10]);
        }
        assert!(tail.bytes <= MAX_BYTES && tail.entries.len() == 10 && tail.first == 90);
    }
}
