//! Channels and permissions that the client holds or wants.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_time::Instant;

use crate::channel_data::ChannelNumber;

/// Most channels, and most permissions, that one client asks for; the one that was asked for or sent to longest ago
/// gives way.
pub const MAX_PEERS: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// Asked for, not given yet.
    Requested,
    /// Held until then.
    Held { until: Instant },
    /// Given up by us; the server may hold it until then, so its number must not serve another peer (RFC 8656 §12).
    Retired { until: Instant },
}

/// A permission, or a channel with its number.
#[derive(Debug)]
pub(super) struct Entry<T> {
    pub(super) grant: Grant,
    pub(super) detail: T,
    /// When to renew; `None` while a request is open.
    refresh_at: Option<Instant>,
    touched: u64,
}

/// Grants by address.
#[derive(Debug)]
pub(super) struct Table<K, T> {
    entries: BTreeMap<K, Entry<T>>,
    clock: u64,
}

impl<K: Ord + Copy, T: Copy> Table<K, T> {
    pub(super) const fn new() -> Self {
        Self { entries: BTreeMap::new(), clock: 0 }
    }

    pub(super) fn get(&self, address: K) -> Option<&Entry<T>> {
        self.entries.get(&address).filter(|entry| !matches!(entry.grant, Grant::Retired { .. }))
    }

    pub(super) fn is_held(&self, address: K) -> bool {
        self.get(address).is_some_and(|entry| matches!(entry.grant, Grant::Held { .. }))
    }

    /// Enters an address that is not in the table, or is retired.
    pub(super) fn request(&mut self, address: K, detail: T) {
        self.clock += 1;
        let entry = Entry { grant: Grant::Requested, detail, refresh_at: None, touched: self.clock };
        self.entries.insert(address, entry);
    }

    pub(super) fn touch(&mut self, address: K) {
        self.clock += 1;
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.touched = self.clock;
        }
    }

    /// Notes that the server granted; tells whether this is news.
    pub(super) fn grant(&mut self, address: K, until: Instant, refresh_at: Instant) -> Option<T> {
        let entry = self.entries.get_mut(&address)?;
        let news = match entry.grant {
            Grant::Requested => Some(entry.detail),
            Grant::Held { .. } => None,
            Grant::Retired { .. } => return None,
        };
        entry.grant = Grant::Held { until };
        entry.refresh_at = Some(refresh_at);
        news
    }

    pub(super) fn remove(&mut self, address: K) -> Option<Entry<T>> {
        self.entries.remove(&address)
    }

    /// The address to give way when the table is full.
    pub(super) fn surplus(&self) -> Option<K> {
        let wanted = || self.entries.iter().filter(|(_, entry)| !matches!(entry.grant, Grant::Retired { .. }));
        if wanted().count() < MAX_PEERS {
            return None;
        }
        wanted().min_by_key(|(_, entry)| entry.touched).map(|(address, _)| *address)
    }

    /// Addresses whose grant ran out.
    pub(super) fn expired(&self, now: Instant) -> Vec<K> {
        let out = |entry: &Entry<T>| matches!(entry.grant, Grant::Held { until } if until <= now);
        self.entries.iter().filter(|(_, entry)| out(entry)).map(|(address, _)| *address).collect()
    }

    /// Takes the addresses whose renewal is due; they are not due again until granted.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(K, T)> {
        let mut due = Vec::new();
        for (address, entry) in &mut self.entries {
            if entry.refresh_at.is_some_and(|at| at <= now) {
                entry.refresh_at = None;
                due.push((*address, entry.detail));
            }
        }
        due
    }

    /// Addresses that are asked for and not granted.
    pub(super) fn requested(&self) -> Vec<(K, T)> {
        let entries = self.entries.iter().filter(|(_, entry)| entry.grant == Grant::Requested);
        entries.map(|(address, entry)| (*address, entry.detail)).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let until = |entry: &Entry<T>| match entry.grant {
            Grant::Held { until } => Some(entry.refresh_at.map_or(until, |at| at.min(until))),
            Grant::Requested | Grant::Retired { .. } => None,
        };
        self.entries.values().filter_map(until).min()
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }
}

pub(super) type Permissions = Table<IpAddr, ()>;
pub(super) type Bindings = Table<SocketAddr, ChannelNumber>;

impl Bindings {
    /// Gives up a channel; its number stays reserved for the same peer.
    pub(super) fn retire(&mut self, now: Instant, peer: SocketAddr) -> Option<ChannelNumber> {
        let entry = self.entries.get_mut(&peer)?;
        entry.grant = Grant::Retired { until: now + RETIREMENT };
        entry.refresh_at = None;
        Some(entry.detail)
    }

    /// The number for a peer: the one it had, or the next that no peer has; `None` when all are taken.
    pub(super) fn number_for(&mut self, now: Instant, peer: SocketAddr, start: ChannelNumber) -> Option<ChannelNumber> {
        self.entries.retain(|_, entry| !matches!(entry.grant, Grant::Retired { until } if until <= now));
        if let Some(entry) = self.entries.get(&peer) {
            return Some(entry.detail);
        }
        let taken: std::collections::BTreeSet<_> = self.entries.values().map(|entry| entry.detail).collect();
        let mut number = start;
        loop {
            if !taken.contains(&number) {
                return Some(number);
            }
            number = number.next();
            if number == start {
                return None;
            }
        }
    }

    /// Whether some channel's peer has this address: a channel permits the address of its peer.
    pub(super) fn holds_address(&self, address: IpAddr) -> bool {
        let held = |entry: &Entry<_>| matches!(entry.grant, Grant::Held { .. });
        self.entries.iter().any(|(peer, entry)| peer.ip() == address && held(entry))
    }

    /// The peer that holds a channel.
    pub(super) fn peer_of(&self, channel: ChannelNumber) -> Option<SocketAddr> {
        let held = |entry: &Entry<_>| entry.detail == channel && !matches!(entry.grant, Grant::Retired { .. });
        self.entries.iter().find(|(_, entry)| held(entry)).map(|(peer, _)| *peer)
    }
}

/// Lifetime of a channel, and the five minutes after it that its number must rest (RFC 8656 §12).
const RETIREMENT: Duration = Duration::from_secs(600 + 300);
