//! The flows that this machine started, for the shields.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ginnel_time::Instant;

use crate::config::{FLOW_TIME, FLOWS};
use crate::packet::Wanted;

/// One flow, as this machine sees it. For ICMP echo the identifier stands in `local_port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    pub(crate) local: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
}

/// At most [`FLOWS`] flows, each remembered for [`FLOW_TIME`] after its last packet; the longest unused makes room.
#[derive(Default)]
pub(crate) struct FlowTable {
    used: BTreeMap<FlowKey, Instant>,
    by_time: BTreeSet<(Instant, FlowKey)>,
}

impl FlowTable {
    /// Remembers a flow that this machine started or kept alive.
    pub(crate) fn note(&mut self, now: Instant, key: FlowKey) {
        if let Some(used) = self.used.get(&key).copied() {
            self.touch(now, key, used);
            return;
        }
        if self.used.len() >= FLOWS
            && let Some((_, oldest)) = self.by_time.pop_first()
        {
            self.used.remove(&oldest);
        }
        self.used.insert(key, now);
        self.by_time.insert((now, key));
    }

    /// Tells whether an inbound packet answers a remembered flow.
    pub(crate) fn admits(&mut self, now: Instant, wanted: Wanted) -> bool {
        let fresh = |used: Instant| now.saturating_duration_since(used) < FLOW_TIME;
        match wanted {
            Wanted::Flow(key) => match self.used.get(&key).copied() {
                Some(used) if fresh(used) => {
                    self.touch(now, key, used);
                    true
                }
                _ => false,
            },
            Wanted::AnyPort(key) => {
                let first = FlowKey { local_port: 0, remote_port: 0, ..key };
                let last = FlowKey { local_port: u16::MAX, remote_port: u16::MAX, ..key };
                self.used.range(first..=last).any(|(_, used)| fresh(*used))
            }
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.used.clear();
        self.by_time.clear();
    }

    fn touch(&mut self, now: Instant, key: FlowKey, used: Instant) {
        if now.saturating_duration_since(used) >= TOUCH_INTERVAL {
            self.by_time.remove(&(used, key));
            self.by_time.insert((now, key));
            self.used.insert(key, now);
        }
    }
}

/// Remembers which flows were lately noted, so that a busy flow is told once a second and not once a packet.
#[derive(Default)]
pub(crate) struct NotedFlows {
    recent: Vec<Option<(FlowKey, Instant)>>,
}

impl NotedFlows {
    /// Tells whether the flow should be noted; assumes that it then is.
    pub(crate) fn is_due(&mut self, now: Instant, key: FlowKey) -> bool {
        if self.recent.is_empty() {
            self.recent.resize(NOTED, None);
        }
        let place = usize::from(key.local_port ^ key.remote_port) % NOTED;
        match self.recent[place] {
            Some((known, at)) if known == key && now.saturating_duration_since(at) < TOUCH_INTERVAL => false,
            _ => {
                self.recent[place] = Some((key, now));
                true
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.recent.clear();
    }
}

/// The resolution of a flow's last use: far below [`FLOW_TIME`], far above the time between two packets.
const TOUCH_INTERVAL: Duration = Duration::from_secs(1);
/// Busy flows told apart.
const NOTED: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16, remote: u8) -> FlowKey {
        FlowKey {
            local: IpAddr::from([10, 0, 0, 1]),
            remote: IpAddr::from([10, 0, 0, remote]),
            protocol: 6,
            local_port: port,
            remote_port: 80,
        }
    }

    #[test]
    fn flows_end_three_minutes_after_their_last_packet() {
        let mut table = FlowTable::default();
        let start = Instant::ZERO;
        table.note(start, key(1, 2));
        let later = start + Duration::from_secs(170);
        assert!(table.admits(later, Wanted::Flow(key(1, 2))));
        assert!(!table.admits(later, Wanted::Flow(key(2, 2))));
        assert!(table.admits(later + Duration::from_secs(179), Wanted::Flow(key(1, 2))));
        assert!(!table.admits(later + Duration::from_secs(400), Wanted::Flow(key(1, 2))));
    }

    #[test]
    fn the_longest_unused_flow_makes_room() {
        let mut table = FlowTable::default();
        let mut now = Instant::ZERO;
        for port in 0..FLOWS as u16 {
            now += Duration::from_millis(1);
            table.note(now, key(port, 2));
        }
        now += Duration::from_secs(2);
        table.note(now, key(0, 2));
        table.note(now, key(9, 3));
        assert_eq!((table.used.len(), table.by_time.len()), (FLOWS, FLOWS));
        assert!(table.admits(now, Wanted::Flow(key(0, 2))));
        assert!(!table.admits(now, Wanted::Flow(key(1, 2))));
        assert!(table.admits(now, Wanted::Flow(key(9, 3))));
    }

    #[test]
    fn later_fragments_need_a_flow_of_their_addresses() {
        let mut table = FlowTable::default();
        table.note(Instant::ZERO, key(5, 2));
        assert!(table.admits(Instant::ZERO, Wanted::AnyPort(key(0, 2))));
        assert!(!table.admits(Instant::ZERO, Wanted::AnyPort(key(0, 3))));
    }

    #[test]
    fn a_busy_flow_is_due_once_a_second() {
        let mut noted = NotedFlows::default();
        assert!(noted.is_due(Instant::ZERO, key(5, 2)));
        assert!(!noted.is_due(Instant::ZERO + Duration::from_millis(999), key(5, 2)));
        assert!(noted.is_due(Instant::ZERO + Duration::from_secs(1), key(5, 2)));
    }
}
