//! What was sent, what arrived, and what must not happen: the judge of a world.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use ginnel_time::Instant;
use ginnel_tunnel::timers::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_AFTER_TIME};

use crate::trace::digest;
use crate::watch::{inner, sealed_for};
use crate::wire;

/// A stream of packets between two machines for a while.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) start: Instant,
    pub(crate) end: Instant,
    pub(crate) interval: Duration,
    pub(crate) family: ginnel_node::Family,
    pub(crate) answers: Answers,
    pub(crate) longest: usize,
    pub(crate) sent: u32,
    /// When the last [`UNLIKELY_LOST`] packets were sent.
    pub(crate) said: VecDeque<Instant>,
    pub(crate) delivered: u32,
    /// When it last got on: its start, or a packet that arrived.
    pub(crate) progress: Instant,
    /// The longest time without a packet that arrived.
    pub(crate) gap: Duration,
    pub(crate) first: Option<Duration>,
    /// When the last packet arrived.
    pub(crate) heard: Option<Instant>,
    /// When answers last got on: the flow's start, or an answer that arrived.
    pub(crate) answered: Instant,
    /// What had arrived when one of its machines was known for no member by the other.
    pub(crate) parted: Option<u32>,
}

impl Flow {
    /// Notes that a packet is sent.
    pub(crate) fn say(&mut self, now: Instant) {
        self.sent += 1;
        if self.said.len() == UNLIKELY_LOST {
            self.said.pop_front();
        }
        self.said.push_back(now);
    }

    /// How many packets were sent since then, up to [`UNLIKELY_LOST`].
    pub(crate) fn said_since(&self, since: Instant) -> usize {
        self.said.iter().filter(|at| **at >= since).count()
    }
}

/// What the other machine of a flow does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// It answers each packet.
    Each,
    None,
}

/// Whether the sender of a packet has the addressee for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Member,
    Stranger,
}

struct Sent {
    flow: usize,
    to: usize,
    bytes: Vec<u8>,
    arrived: bool,
    known: Known,
}

/// The time in which a key served, as the wire shows it.
#[derive(Clone, Copy, Debug)]
struct Service {
    first: Instant,
    last: Instant,
    /// The first packet after the key should have been replaced, in use without a pause since.
    overdue: Option<Instant>,
}

/// Keeps the books of a world.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) flows: Vec<Flow>,
    sent: BTreeMap<u64, Sent>,
    next: u64,
    /// Sender, receiver index and counter of each sealed datagram, and what it was.
    sealed: BTreeMap<(usize, [u8; 4], u64), u64>,
    /// How long each key has served, by sender and receiver index.
    keys: BTreeMap<(usize, [u8; 4]), Service>,
    pub(crate) delivered: u64,
    violations: Vec<String>,
    over: usize,
}

/// A packet that arrived.
pub(crate) struct Delivery {
    pub(crate) flow: usize,
    /// Whether it goes the flow's own way, and is no answer.
    pub(crate) forth: bool,
}

impl Ledger {
    pub(crate) fn violate(&mut self, now: Instant, text: &str) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(format!("{:.3} s: {text}", seconds(now)));
        } else {
            self.over += 1;
        }
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        let mut all = self.violations.clone();
        if self.over > 0 {
            all.push(format!("and {} more", self.over));
        }
        all
    }

    /// Makes the next packet of a flow, or an answer.
    pub(crate) fn packet(
        &mut self,
        flow: usize,
        to: usize,
        ends: (IpAddr, IpAddr),
        length: usize,
        known: Known,
    ) -> Vec<u8> {
        self.next += 1;
        let bytes = udp(ends.0, ends.1, self.next, length);
        self.sent.insert(self.next, Sent { flow, to, bytes: bytes.clone(), arrived: false, known });
        bytes
    }

    /// Takes a packet that machine `at` was given.
    pub(crate) fn arrive(&mut self, now: Instant, at: usize, bytes: &[u8]) -> Option<Delivery> {
        let Some(sent) = packet_id(bytes).and_then(|id| self.sent.get_mut(&id)) else {
            self.violate(now, &format!("node{at} was given a packet that nobody sent: {bytes:02x?}"));
            return None;
        };
        let complaint = if sent.to != at {
            Some(format!("node{at} was given a packet for node{}", sent.to))
        } else if sent.bytes != bytes {
            Some(format!("a packet for node{at} was changed on the way"))
        } else if sent.arrived {
            Some(format!("node{at} was given a packet twice"))
        } else if sent.known == Known::Stranger {
            Some(format!("node{at} was given a packet whose sender knew it for no member"))
        } else {
            None
        };
        if let Some(text) = complaint {
            self.violate(now, &text);
            return None;
        }
        sent.arrived = true;
        self.delivered += 1;
        let number = sent.flow;
        let flow = self.flows.get_mut(number)?;
        let forth = flow.to == at;
        if forth {
            flow.delivered += 1;
            flow.gap = flow.gap.max(now.saturating_duration_since(flow.progress));
            flow.progress = now;
            flow.heard = Some(now);
            flow.first.get_or_insert(now.saturating_duration_since(flow.start));
        } else {
            flow.answered = now;
        }
        Some(Delivery { flow: number, forth })
    }

    /// Whether somebody who sees a datagram could read a packet that a program has sent, or a part of one.
    pub(crate) fn is_readable(&self, bytes: &[u8]) -> bool {
        wire::counts_up(bytes) || wire::readable_numbers(bytes, PORT).any(|number| self.sent.contains_key(&number))
    }

    /// Looks at a datagram on the wire: no two sealed under one key may have one counter, unless they are the same, and no
    /// key serves longer than it may. Tells for how long its key has served although it was to be replaced.
    pub(crate) fn wire(&mut self, now: Instant, from: usize, bytes: &[u8]) -> Duration {
        let datagram = inner(bytes);
        let Some((head, _)) = datagram.split_first_chunk::<12>() else { return Duration::ZERO };
        let [0xC3 | 0xC7, counter @ .., a, b, c, d] = *head else { return Duration::ZERO };
        let counter = counter.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
        let own = digest(datagram);
        let before = self.sealed.insert((from, [a, b, c, d], counter), own);
        if before.is_some_and(|before| before != own) {
            self.violate(now, &format!("node{from} sealed two packets under counter {counter} of one session"));
        }
        let service = self.keys.entry((from, [a, b, c, d])).or_insert(Service { first: now, last: now, overdue: None });
        let age = now.saturating_duration_since(service.first);
        if now.saturating_duration_since(service.last) >= KEEPALIVE_TIMEOUT {
            service.overdue = None;
        }
        service.last = now;
        if age >= REKEY_AFTER_TIME {
            service.overdue.get_or_insert(now);
        }
        let overdue = service.overdue.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if age > REJECT_AFTER_TIME {
            self.violate(now, &format!("node{from} seals with a key that has served for {age:?}"));
        }
        overdue
    }

    /// When the key that a datagram is sealed with began to serve.
    pub(crate) fn serves_since(&self, from: usize, bytes: &[u8]) -> Option<Instant> {
        self.keys.get(&(from, sealed_for(bytes)?)).map(|service| service.first)
    }
}

/// Whether a datagram is of the tunnel, and not one that keeps a mapping or an allocation.
pub(crate) fn is_tunnel(bytes: &[u8]) -> bool {
    matches!(inner(bytes).first(), Some(0xC0..=0xC7))
}

/// An IP packet with a UDP datagram that holds its number and bytes made of it.
pub(crate) fn udp(from: IpAddr, to: IpAddr, number: u64, length: usize) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.extend((0..length).map(|place| (number as usize).wrapping_mul(31).wrapping_add(place) as u8));
    let length = u16::try_from(8 + payload.len()).expect("packets are small");
    let mut datagram = Vec::with_capacity(usize::from(length));
    for field in [PORT, PORT, length, 0] {
        datagram.extend_from_slice(&field.to_be_bytes());
    }
    datagram.extend_from_slice(&payload);
    let (mut pseudo, header) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0];
            header.extend_from_slice(&(length + 20).to_be_bytes());
            header.extend_from_slice(&[0, 0, 0x40, 0, 64, UDP, 0, 0]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            ([from.octets(), to.octets()].concat(), header)
        }
        (from, to) => {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            let mut header = vec![0x60, 0, 0, 0];
            header.extend_from_slice(&length.to_be_bytes());
            header.extend_from_slice(&[UDP, 64]);
            header.extend_from_slice(&octets(from));
            header.extend_from_slice(&octets(to));
            ([octets(from), octets(to)].concat(), header)
        }
    };
    pseudo.extend_from_slice(&[0, UDP]);
    pseudo.extend_from_slice(&length.to_be_bytes());
    pseudo.extend_from_slice(&datagram);
    let sum = checksum(&pseudo);
    datagram[6..8].copy_from_slice(&if sum == 0 { 0xFFFF } else { sum }.to_be_bytes());
    [header, datagram].concat()
}

/// The number of a packet that [`udp`] made.
fn packet_id(packet: &[u8]) -> Option<u64> {
    let (next, header) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, 20),
        6 => (*packet.get(6)?, 40),
        _ => return None,
    };
    let payload = packet.get(header + 8..)?.first_chunk::<8>()?;
    (next == UDP).then(|| u64::from_be_bytes(*payload))
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

pub(crate) fn seconds(at: Instant) -> f64 {
    at.saturating_duration_since(Instant::ZERO).as_secs_f64()
}

const UDP: u8 = 17;
pub(crate) const PORT: u16 = 7777;
const MAX_VIOLATIONS: usize = 20;
/// So many packets are not lost in a row.
pub(crate) const UNLIKELY_LOST: usize = 10;

#[cfg(test)]
mod tests;
