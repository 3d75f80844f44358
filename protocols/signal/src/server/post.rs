//! Mail that waits for its recipient.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ginnel_membership::MemberKey;
use ginnel_time::Instant;

/// The mail of one network that waits.
///
/// At most [`PER_PAIR`] pieces per sender and recipient and [`PER_RECIPIENT`] per recipient, each for at most
/// [`LIFETIME`]; over a bound the oldest of the pair, or of the recipient, is dropped.
#[derive(Default)]
pub(crate) struct Post {
    boxes: BTreeMap<MemberKey, VecDeque<Piece>>,
    bytes: usize,
}

pub(crate) struct Piece {
    pub(crate) from: MemberKey,
    pub(crate) bytes: Vec<u8>,
    expires: Instant,
}

impl Post {
    /// Keeps one piece for `to`.
    pub(crate) fn push(&mut self, now: Instant, from: MemberKey, to: MemberKey, bytes: Vec<u8>) {
        let queue = self.boxes.entry(to).or_default();
        let of_pair = queue.iter().filter(|piece| piece.from == from).count();
        let oldest = if of_pair >= PER_PAIR {
            queue.iter().position(|piece| piece.from == from)
        } else if queue.len() >= PER_RECIPIENT {
            Some(0)
        } else {
            None
        };
        if let Some(dropped) = oldest.and_then(|position| queue.remove(position)) {
            self.bytes -= dropped.bytes.len();
        }
        self.bytes += bytes.len();
        queue.push_back(Piece { from, bytes, expires: now + LIFETIME });
    }

    /// Takes the oldest piece for `to` that is still alive.
    pub(crate) fn pop(&mut self, now: Instant, to: &MemberKey) -> Option<Piece> {
        let queue = self.boxes.get_mut(to)?;
        let mut found = None;
        while let Some(piece) = queue.pop_front() {
            self.bytes -= piece.bytes.len();
            if piece.expires > now {
                found = Some(piece);
                break;
            }
        }
        if queue.is_empty() {
            self.boxes.remove(to);
        }
        found
    }

    /// Drops what is too old.
    pub(crate) fn expire(&mut self, now: Instant) {
        let bytes = &mut self.bytes;
        self.boxes.retain(|_, queue| {
            while queue.front().is_some_and(|piece| piece.expires <= now) {
                *bytes -= queue.pop_front().map_or(0, |piece| piece.bytes.len());
            }
            !queue.is_empty()
        });
    }

    /// Drops all mail from and to a key that left.
    pub(crate) fn forget(&mut self, key: &MemberKey) {
        let mut dropped: usize = self.boxes.remove(key).iter().flatten().map(|piece| piece.bytes.len()).sum();
        for queue in self.boxes.values_mut() {
            queue.retain(|piece| {
                let stays = piece.from != *key;
                dropped += if stays { 0 } else { piece.bytes.len() };
                stays
            });
        }
        self.boxes.retain(|_, queue| !queue.is_empty());
        self.bytes -= dropped;
    }

    /// Whether mail waits for `to`.
    pub(crate) fn holds_for(&self, to: &MemberKey) -> bool {
        self.boxes.contains_key(to)
    }

    /// Bytes held.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.boxes.is_empty()
    }
}

/// Pieces that wait per sender and recipient.
pub const PER_PAIR: usize = 16;

/// Pieces that wait per recipient, whoever sent them.
pub const PER_RECIPIENT: usize = 512;

/// How long a piece waits. A handshake or a candidate older than this is of no use.
pub const LIFETIME: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> MemberKey {
        MemberKey::from_bytes([n; 32])
    }

    fn drain(post: &mut Post, now: Instant, to: u8) -> Vec<u8> {
        std::iter::from_fn(|| post.pop(now, &key(to))).map(|piece| piece.bytes[0]).collect()
    }

    #[test]
    fn a_pair_holds_its_newest_sixteen() {
        let mut post = Post::default();
        post.push(Instant::ZERO, key(3), key(2), vec![99]);
        for n in 0..20 {
            post.push(Instant::ZERO, key(1), key(2), vec![n]);
        }
        let mut expected = vec![99];
        expected.extend(4..20);
        assert_eq!(drain(&mut post, Instant::ZERO, 2), expected);
        assert_eq!(post.bytes(), 0);
        assert!(post.is_empty());
    }

    #[test]
    fn mail_dies_after_a_minute() {
        let mut post = Post::default();
        post.push(Instant::ZERO, key(1), key(2), vec![1]);
        post.push(Instant::ZERO + Duration::from_secs(30), key(1), key(2), vec![2]);
        let later = Instant::ZERO + LIFETIME;
        assert_eq!(drain(&mut post, later, 2), [2]);
        post.push(Instant::ZERO, key(1), key(2), vec![1]);
        post.expire(later);
        assert!(post.is_empty());
        assert_eq!(post.bytes(), 0);
    }

    #[test]
    fn a_recipient_is_bounded_whoever_writes() {
        let mut post = Post::default();
        for n in 0..=255_u8 {
            for _ in 0..PER_PAIR {
                post.push(Instant::ZERO, key(n), key(2), vec![n]);
            }
        }
        assert_eq!(post.bytes(), PER_RECIPIENT);
    }

    #[test]
    fn mail_of_a_key_that_left_is_dropped() {
        let mut post = Post::default();
        post.push(Instant::ZERO, key(1), key(2), vec![1]);
        post.push(Instant::ZERO, key(3), key(2), vec![3]);
        post.push(Instant::ZERO, key(2), key(1), vec![2]);
        post.forget(&key(1));
        assert_eq!(drain(&mut post, Instant::ZERO, 2), [3]);
        assert_eq!(post.bytes(), 0);
    }
}
