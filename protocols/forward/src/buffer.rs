//! The reusable slabs that the shell lends: packets from the TUN, datagrams from the sockets, and the two results.
//!
//! None of them allocates per packet once it has grown to what a batch needs.

use std::mem;
use std::net::SocketAddr;
use std::ops::Range;

use ginnel_path::{Path, SocketId};

/// Packets read from the TUN.
pub struct TunBatch {
    bytes: Vec<u8>,
    slot_len: usize,
    lens: Vec<usize>,
    slots: usize,
}

impl TunBatch {
    /// Makes room for `packets` packets of at most `packet_len` bytes each.
    pub fn with_capacity(packets: usize, packet_len: usize) -> Self {
        Self {
            bytes: vec![0; packets.saturating_mul(packet_len)],
            slot_len: packet_len,
            lens: Vec::with_capacity(packets),
            slots: packets,
        }
    }

    /// Empties the batch.
    pub fn clear(&mut self) {
        self.lens.clear();
    }

    /// The next free buffer, to read one packet into; `None` when the batch is full. [`commit`](Self::commit) keeps it.
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        if self.lens.len() == self.slots {
            return None;
        }
        let start = self.lens.len() * self.slot_len;
        self.bytes.get_mut(start..start + self.slot_len)
    }

    /// Keeps the first `len` bytes of the buffer that [`slot`](Self::slot) gave.
    pub fn commit(&mut self, len: usize) {
        if self.lens.len() < self.slots {
            self.lens.push(len.min(self.slot_len));
        }
    }

    /// Copies a packet in; `false` when the batch is full or the packet too long.
    pub fn push(&mut self, packet: &[u8]) -> bool {
        match self.slot().and_then(|slot| slot.get_mut(..packet.len())) {
            Some(slot) => slot.copy_from_slice(packet),
            None => return false,
        }
        self.commit(packet.len());
        true
    }

    /// Number of packets held.
    pub fn len(&self) -> usize {
        self.lens.len()
    }

    /// Whether no packet is held.
    pub fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }

    /// The packets, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.lens.iter().enumerate().map(|(place, len)| {
            let start = place * self.slot_len;
            &self.bytes[start..start + len]
        })
    }
}

impl Default for TunBatch {
    fn default() -> Self {
        Self::with_capacity(DEFAULT_BATCH, DEFAULT_SLOT)
    }
}

/// Datagrams read from the sockets.
pub struct Datagrams {
    bytes: Vec<u8>,
    slot_len: usize,
    slots: usize,
    heads: Vec<Head>,
}

#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub(crate) socket: SocketId,
    pub(crate) from: SocketAddr,
    pub(crate) len: usize,
}

impl Datagrams {
    /// Makes room for `datagrams` datagrams of at most `datagram_len` bytes each.
    pub fn with_capacity(datagrams: usize, datagram_len: usize) -> Self {
        Self {
            bytes: vec![0; datagrams.saturating_mul(datagram_len)],
            slot_len: datagram_len,
            slots: datagrams,
            heads: Vec::with_capacity(datagrams),
        }
    }

    /// Empties the batch.
    pub fn clear(&mut self) {
        self.heads.clear();
    }

    /// The next free buffer, to read one datagram into; `None` when the batch is full. [`commit`](Self::commit) keeps
    /// it.
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        if self.heads.len() == self.slots {
            return None;
        }
        let start = self.heads.len() * self.slot_len;
        self.bytes.get_mut(start..start + self.slot_len)
    }

    /// Keeps the first `len` bytes of the buffer that [`slot`](Self::slot) gave, as a datagram that came to `socket`
    /// from `from`.
    pub fn commit(&mut self, socket: SocketId, from: SocketAddr, len: usize) {
        if self.heads.len() < self.slots {
            self.heads.push(Head { socket, from, len: len.min(self.slot_len) });
        }
    }

    /// Copies a datagram in; `false` when the batch is full or the datagram too long.
    pub fn push(&mut self, socket: SocketId, from: SocketAddr, datagram: &[u8]) -> bool {
        match self.slot().and_then(|slot| slot.get_mut(..datagram.len())) {
            Some(slot) => slot.copy_from_slice(datagram),
            None => return false,
        }
        self.commit(socket, from, datagram.len());
        true
    }

    /// Number of datagrams held.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether no datagram is held.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// The datagram at `place`, with the offset of its buffer in the slab.
    pub(crate) fn get_mut(&mut self, place: usize) -> Option<(Head, usize, &mut [u8])> {
        let head = *self.heads.get(place)?;
        let start = place * self.slot_len;
        Some((head, start, &mut self.bytes[start..start + head.len]))
    }
}

impl Default for Datagrams {
    fn default() -> Self {
        Self::with_capacity(DEFAULT_BATCH, DEFAULT_SLOT)
    }
}

/// IP packets for the TUN.
///
/// The packets of a batch stay where they were opened: the plan takes the batch's slab and gives its own in exchange.
#[derive(Default)]
pub struct WritePlan {
    slab: Vec<u8>,
    scratch: Vec<u8>,
    packets: Vec<Place>,
    slab_lent: bool,
}

enum Place {
    Slab(Range<usize>),
    Scratch(Range<usize>),
}

impl WritePlan {
    /// Empties the plan.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.scratch.clear();
        self.slab_lent = false;
    }

    /// Number of packets planned.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether no packet is planned.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// The packets, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.packets.iter().map(|place| match place {
            Place::Slab(range) => &self.slab[range.clone()],
            Place::Scratch(range) => &self.scratch[range.clone()],
        })
    }

    /// Plans a packet by copying it.
    pub(crate) fn push(&mut self, packet: &[u8]) {
        let start = self.scratch.len();
        self.scratch.extend_from_slice(packet);
        self.packets.push(Place::Scratch(start..self.scratch.len()));
    }

    /// Plans the bytes at `range` of the slab of `datagrams`; they count once [`take_slab`](Self::take_slab) ran. When
    /// the plan still holds an earlier slab the packet is copied.
    pub(crate) fn push_range(&mut self, datagrams: &Datagrams, range: Range<usize>) {
        if self.slab_lent {
            self.push(&datagrams.bytes[range]);
        } else {
            self.packets.push(Place::Slab(range));
        }
    }

    /// Exchanges slabs with `datagrams`, whose batch ends.
    pub(crate) fn take_slab(&mut self, datagrams: &mut Datagrams) {
        if !self.slab_lent && self.packets.iter().any(|place| matches!(place, Place::Slab(_))) {
            mem::swap(&mut self.slab, &mut datagrams.bytes);
            datagrams.bytes.resize(datagrams.slots * datagrams.slot_len, 0);
            self.slab_lent = true;
        }
        datagrams.clear();
    }
}

/// Datagrams for the sockets.
#[derive(Default)]
pub struct SendArena {
    bytes: Vec<u8>,
    used: usize,
    entries: Vec<Entry>,
}

struct Entry {
    path: Path,
    socket: SocketId,
    to: SocketAddr,
    ttl: Option<u8>,
    range: Range<usize>,
}

/// One send.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    /// The path that the datagram takes, to name in a report of a failed send.
    pub path: Path,
    /// The socket to send on.
    pub socket: SocketId,
    /// The destination.
    pub to: SocketAddr,
    /// The IP time to live; the socket's own when `None`.
    pub ttl: Option<u8>,
    /// The length of each datagram when `contents` holds several; `None` for one datagram.
    pub segment_size: Option<u16>,
    /// The bytes.
    pub contents: &'a [u8],
}

impl SendArena {
    /// Empties the arena.
    pub fn clear(&mut self) {
        self.used = 0;
        self.entries.clear();
    }

    /// Number of sends.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The sends, in order.
    pub fn iter(&self) -> impl Iterator<Item = Transmit<'_>> {
        self.entries.iter().map(|entry| Transmit {
            path: entry.path,
            socket: entry.socket,
            to: entry.to,
            ttl: entry.ttl,
            segment_size: None,
            contents: &self.bytes[entry.range.clone()],
        })
    }

    /// Room for `len` bytes, with its place. The room is given back unless [`keep`](Self::keep) follows.
    pub(crate) fn room(&mut self, len: usize) -> (usize, &mut [u8]) {
        let end = self.used + len;
        if end > self.bytes.len() {
            self.bytes.resize(end.next_power_of_two(), 0);
        }
        (self.used, &mut self.bytes[self.used..end])
    }

    /// Keeps everything up to `end`.
    pub(crate) fn keep(&mut self, end: usize) {
        debug_assert!(end <= self.bytes.len());
        self.used = self.used.max(end);
    }

    /// The bytes at `range`, which must be kept.
    pub(crate) fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.bytes[range]
    }

    /// Copies kept bytes behind the last kept ones and gives their new start.
    pub(crate) fn copy(&mut self, range: Range<usize>, headroom: usize) -> usize {
        let len = range.len();
        let (at, _) = self.room(headroom + len);
        self.bytes.copy_within(range, at + headroom);
        self.keep(at + headroom + len);
        at + headroom
    }

    /// Adds a send of kept bytes.
    pub(crate) fn send(&mut self, path: Path, to: (SocketId, SocketAddr), ttl: Option<u8>, range: Range<usize>) {
        self.entries.push(Entry { path, socket: to.0, to: to.1, ttl, range });
    }
}

/// Packets in a batch unless the shell asks for another number.
const DEFAULT_BATCH: usize = 64;
/// Bytes of a buffer unless the shell asks for another length: an Ethernet frame's worth, and some.
const DEFAULT_SLOT: usize = 2048;

#[cfg(test)]
mod tests {
    use ginnel_path::Local;

    use super::*;

    fn from() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 9))
    }

    #[test]
    fn a_full_batch_gives_no_slot_and_clearing_frees_it() {
        let mut batch = TunBatch::with_capacity(2, 8);
        assert!(batch.push(b"one"));
        batch.slot().expect("room for a second")[..3].copy_from_slice(b"two");
        batch.commit(3);
        assert!(batch.slot().is_none());
        assert!(!batch.push(b"x"));
        assert_eq!(batch.iter().collect::<Vec<_>>(), [b"one", b"two"]);
        batch.clear();
        assert!(!batch.push(&[0; 9]));
        assert!(batch.push(&[0; 8]));
    }

    #[test]
    fn plan_exchanges_slabs_and_copies_when_it_holds_one() {
        let mut datagrams = Datagrams::with_capacity(2, 8);
        let mut plan = WritePlan::default();
        datagrams.push(SocketId(0), from(), b"abcdef");
        plan.push_range(&datagrams, 2..6);
        plan.take_slab(&mut datagrams);
        datagrams.push(SocketId(0), from(), b"ghijkl");
        plan.push_range(&datagrams, 0..2);
        plan.take_slab(&mut datagrams);
        datagrams.push(SocketId(0), from(), b"overwrite");
        assert_eq!(plan.iter().collect::<Vec<_>>(), [&b"cdef"[..], b"gh"]);
        plan.clear();
        assert!(plan.is_empty());
    }

    #[test]
    fn room_not_kept_is_given_again() {
        let mut arena = SendArena::default();
        let (first, _) = arena.room(10);
        let (second, room) = arena.room(4);
        assert_eq!(first, second);
        room.copy_from_slice(b"data");
        arena.keep(4);
        let path = Path { local: Local::Socket(SocketId(1)), remote: from() };
        arena.send(path, (SocketId(1), from()), None, 0..4);
        let copy = arena.copy(0..4, 4);
        arena.bytes_mut(copy..copy + 1)[0] = b'D';
        arena.send(path, (SocketId(1), from()), Some(3), copy..copy + 4);
        let sent: Vec<_> = arena.iter().map(|transmit| (transmit.ttl, transmit.contents)).collect();
        assert_eq!(sent, [(None, &b"data"[..]), (Some(3), b"Data")]);
    }
}
