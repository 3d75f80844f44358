//! Packets that wait for a session or a path.

use std::collections::VecDeque;

use ginnel_time::Instant;

use crate::config::{PENDING_BYTES, PENDING_PACKETS, PENDING_TIME};

/// One peer's waiting packets: at most [`PENDING_PACKETS`] and [`PENDING_BYTES`], the oldest dropped, none for longer
/// than [`PENDING_TIME`].
#[derive(Default)]
pub(crate) struct Pending {
    packets: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
}

/// Buffers that waited once and may wait again, shared by all peers.
#[derive(Default)]
pub(crate) struct Spares(Vec<Vec<u8>>);

impl Pending {
    /// Appends a packet and gives the number of packets dropped for it.
    pub(crate) fn push(&mut self, now: Instant, packet: &[u8], spares: &mut Spares) -> usize {
        let mut dropped = 0;
        while self.packets.len() >= PENDING_PACKETS
            || (self.bytes.saturating_add(packet.len()) > PENDING_BYTES && !self.packets.is_empty())
        {
            self.drop_front(spares);
            dropped += 1;
        }
        let mut buffer = spares.0.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(packet);
        self.bytes += buffer.len();
        self.packets.push_back((now, buffer));
        dropped
    }

    /// Takes the oldest packet.
    pub(crate) fn pop(&mut self) -> Option<Vec<u8>> {
        let (_, packet) = self.packets.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }

    /// Drops what waited too long and gives the number of packets dropped.
    pub(crate) fn expire(&mut self, now: Instant, spares: &mut Spares) -> usize {
        let mut dropped = 0;
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            self.drop_front(spares);
            dropped += 1;
        }
        dropped
    }

    /// When the oldest packet has waited too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.packets.front().map(|(at, _)| *at + PENDING_TIME)
    }

    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    fn drop_front(&mut self, spares: &mut Spares) {
        if let Some(packet) = self.pop() {
            spares.give(packet);
        }
    }
}

impl Spares {
    /// Keeps a buffer for later use.
    pub(crate) fn give(&mut self, buffer: Vec<u8>) {
        if self.0.len() < PENDING_PACKETS && buffer.capacity() <= SPARE_LEN {
            self.0.push(buffer);
        }
    }
}

/// The longest buffer kept for reuse: an ordinary packet's.
const SPARE_LEN: usize = 4096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_packet_makes_room() {
        let (mut pending, mut spares) = (Pending::default(), Spares::default());
        for number in 0..PENDING_PACKETS as u8 {
            assert_eq!(pending.push(Instant::ZERO, &[number], &mut spares), 0);
        }
        assert_eq!(pending.push(Instant::ZERO, &[200], &mut spares), 1);
        assert_eq!((pending.len(), pending.pop()), (PENDING_PACKETS, Some(vec![1])));
    }

    #[test]
    fn long_packets_are_bounded_by_their_bytes() {
        let (mut pending, mut spares) = (Pending::default(), Spares::default());
        for _ in 0..40 {
            pending.push(Instant::ZERO, &[0; 60_000], &mut spares);
        }
        assert_eq!(pending.len(), PENDING_BYTES / 60_000);
        while pending.pop().is_some() {}
        assert_eq!(pending.bytes, 0);
    }

    #[test]
    fn packets_wait_no_longer_than_a_handshake_is_tried() {
        let (mut pending, mut spares) = (Pending::default(), Spares::default());
        pending.push(Instant::ZERO, b"a", &mut spares);
        pending.push(Instant::ZERO + Duration::from_secs(1), b"b", &mut spares);
        let deadline = pending.deadline().expect("a packet waits");
        assert_eq!(pending.expire(deadline, &mut spares), 1);
        assert!(pending.deadline().expect("a packet waits") > deadline);
    }
}
