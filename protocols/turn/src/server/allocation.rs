//! Allocations, what they hold, and what they count against.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_stun::codec::{AddressFamily, Key, TransactionId};
use ginnel_time::Instant;

use super::{Quotas, Refusal};
use crate::channel_data::ChannelNumber;

/// Names an allocation between the server and its shell; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllocationId(pub u64);

/// The client's address and the server's own that it sent to; UDP is the only protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FiveTuple {
    pub(super) client: SocketAddr,
    pub(super) local: SocketAddr,
}

/// Which ports will do (RFC 8656 §18.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parity {
    Any,
    Even,
}

#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) five_tuple: FiveTuple,
    /// The name part of the user name.
    pub(super) user: String,
    pub(super) family: AddressFamily,
    pub(super) port: u16,
    pub(super) parity: Parity,
    pub(super) stage: Stage,
    /// The request that made the allocation, for its repetitions.
    pub(super) transaction: TransactionId,
    expires: Instant,
    permissions: BTreeMap<IpAddr, Instant>,
    channels: BTreeMap<ChannelNumber, Channel>,
    channel_of: BTreeMap<SocketAddr, ChannelNumber>,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// The shell is opening the port.
    Opening { key: Key, lifetime: Duration, ports_tried: u8 },
    /// Relaying. The answer is kept for repetitions of the request.
    Live { relayed: SocketAddr, answer: Vec<u8> },
}

#[derive(Clone, Copy, Debug)]
struct Channel {
    peer: SocketAddr,
    expires: Instant,
}

impl Allocation {
    pub(super) fn relayed(&self) -> Option<SocketAddr> {
        match &self.stage {
            Stage::Live { relayed, .. } => Some(*relayed),
            Stage::Opening { .. } => None,
        }
    }

    pub(super) fn is_permitted(&self, now: Instant, address: IpAddr) -> bool {
        self.permissions.get(&address).is_some_and(|expires| *expires > now)
    }

    pub(super) fn peer_of(&self, now: Instant, channel: ChannelNumber) -> Option<SocketAddr> {
        self.channels.get(&channel).filter(|bound| bound.expires > now).map(|bound| bound.peer)
    }

    pub(super) fn channel_of(&self, now: Instant, peer: SocketAddr) -> Option<ChannelNumber> {
        let channel = *self.channel_of.get(&peer)?;
        self.peer_of(now, channel).map(|_| channel)
    }

    /// Permits all of `addresses` for [`PERMISSION_LIFETIME`], or none when there is no room.
    pub(super) fn permit(&mut self, now: Instant, addresses: &[IpAddr], limit: usize) -> Result<(), Refusal> {
        let new: BTreeSet<_> = addresses.iter().filter(|address| !self.permissions.contains_key(address)).collect();
        if self.permissions.len() + new.len() > limit {
            self.permissions.retain(|_, expires| *expires > now);
            let new = addresses.iter().filter(|address| !self.permissions.contains_key(address));
            if self.permissions.len() + new.collect::<BTreeSet<_>>().len() > limit {
                return Err(Refusal::InsufficientCapacity);
            }
        }
        for address in addresses {
            self.permissions.insert(*address, now + PERMISSION_LIFETIME);
        }
        Ok(())
    }

    /// Binds a channel for [`CHANNEL_LIFETIME`] and permits its peer's address.
    pub(super) fn bind(
        &mut self,
        now: Instant,
        channel: ChannelNumber,
        peer: SocketAddr,
        quotas: &Quotas,
    ) -> Result<(), Refusal> {
        let holder = self.peer_of(now, channel);
        let number = self.channel_of(now, peer);
        if holder.is_some_and(|holder| holder != peer) || number.is_some_and(|number| number != channel) {
            return Err(Refusal::BadRequest);
        }
        if number.is_none() {
            // What this number or this peer was bound to before has run out.
            self.unbind(channel);
            if let Some(old) = self.channel_of.get(&peer).copied() {
                self.unbind(old);
            }
            if self.channels.len() >= quotas.channels {
                self.drop_expired_channels(now);
            }
            if self.channels.len() >= quotas.channels {
                return Err(Refusal::InsufficientCapacity);
            }
        }
        self.permit(now, &[peer.ip()], quotas.permissions)?;
        self.channels.insert(channel, Channel { peer, expires: now + CHANNEL_LIFETIME });
        self.channel_of.insert(peer, channel);
        Ok(())
    }

    fn unbind(&mut self, channel: ChannelNumber) {
        if let Some(bound) = self.channels.remove(&channel) {
            self.channel_of.remove(&bound.peer);
        }
    }

    fn drop_expired_channels(&mut self, now: Instant) {
        self.channels.retain(|_, bound| bound.expires > now);
        let Self { channels, channel_of, .. } = self;
        channel_of.retain(|_, channel| channels.contains_key(channel));
    }
}

/// All allocations, with every index and count that follows from them.
#[derive(Debug, Default)]
pub(super) struct Allocations {
    by_id: BTreeMap<AllocationId, Allocation>,
    by_five_tuple: BTreeMap<FiveTuple, AllocationId>,
    by_relayed: BTreeMap<SocketAddr, AllocationId>,
    ports: BTreeSet<(AddressFamily, u16)>,
    per_user: BTreeMap<String, usize>,
    expiries: BTreeSet<(Instant, AllocationId)>,
    next: u64,
}

/// What a new allocation is made of.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) five_tuple: FiveTuple,
    pub(super) user: String,
    pub(super) key: Key,
    pub(super) family: AddressFamily,
    pub(super) port: u16,
    pub(super) parity: Parity,
    pub(super) transaction: TransactionId,
    pub(super) lifetime: Duration,
}

impl Allocations {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn of_user(&self, user: &str) -> usize {
        self.per_user.get(user).copied().unwrap_or_default()
    }

    pub(super) fn is_port_taken(&self, family: AddressFamily, port: u16) -> bool {
        self.ports.contains(&(family, port))
    }

    pub(super) fn get(&self, id: AllocationId) -> Option<&Allocation> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: AllocationId) -> Option<&mut Allocation> {
        self.by_id.get_mut(&id)
    }

    pub(super) fn of_client(&self, five_tuple: FiveTuple) -> Option<(AllocationId, &Allocation)> {
        let id = *self.by_five_tuple.get(&five_tuple)?;
        Some((id, self.by_id.get(&id)?))
    }

    pub(super) fn of_relayed(&self, relayed: SocketAddr) -> Option<(AllocationId, &Allocation)> {
        let id = *self.by_relayed.get(&relayed)?;
        Some((id, self.by_id.get(&id)?))
    }

    /// Enters an allocation whose port is being opened.
    pub(super) fn add(&mut self, now: Instant, proposal: Proposal) -> AllocationId {
        let id = AllocationId(self.next);
        self.next += 1;
        let Proposal { five_tuple, user, key, family, port, parity, transaction, lifetime } = proposal;
        let expires = now + OPENING_LIFETIME;
        self.by_five_tuple.insert(five_tuple, id);
        self.ports.insert((family, port));
        *self.per_user.entry(user.clone()).or_default() += 1;
        self.expiries.insert((expires, id));
        let allocation = Allocation {
            five_tuple,
            user,
            family,
            port,
            parity,
            stage: Stage::Opening { key, lifetime, ports_tried: 1 },
            transaction,
            expires,
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
            channel_of: BTreeMap::new(),
        };
        self.by_id.insert(id, allocation);
        id
    }

    /// Another port for an allocation whose port could not be opened.
    pub(super) fn change_port(&mut self, id: AllocationId, port: u16) {
        if let Some(allocation) = self.by_id.get_mut(&id) {
            self.ports.remove(&(allocation.family, allocation.port));
            allocation.port = port;
            self.ports.insert((allocation.family, port));
        }
    }

    /// The port is open: the allocation relays from here on.
    pub(super) fn go_live(&mut self, id: AllocationId, relayed: SocketAddr, answer: Vec<u8>) {
        if let Some(allocation) = self.by_id.get_mut(&id) {
            allocation.stage = Stage::Live { relayed, answer };
            self.by_relayed.insert(relayed, id);
        }
    }

    pub(super) fn set_expiry(&mut self, id: AllocationId, expires: Instant) {
        if let Some(allocation) = self.by_id.get_mut(&id) {
            self.expiries.remove(&(allocation.expires, id));
            allocation.expires = expires;
            self.expiries.insert((expires, id));
        }
    }

    pub(super) fn remove(&mut self, id: AllocationId) -> Option<Allocation> {
        let allocation = self.by_id.remove(&id)?;
        self.by_five_tuple.remove(&allocation.five_tuple);
        self.ports.remove(&(allocation.family, allocation.port));
        self.expiries.remove(&(allocation.expires, id));
        if let Some(relayed) = allocation.relayed() {
            self.by_relayed.remove(&relayed);
        }
        if let Some(count) = self.per_user.get_mut(&allocation.user) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.per_user.remove(&allocation.user);
            }
        }
        Some(allocation)
    }

    pub(super) fn next_expiry(&self) -> Option<(Instant, AllocationId)> {
        self.expiries.first().copied()
    }

    /// Checks that every index and count follows from the allocations alone.
    #[cfg(test)]
    pub(super) fn assert_consistent(&self) {
        let all = || self.by_id.iter();
        assert_eq!(self.by_five_tuple.len(), self.by_id.len());
        assert_eq!(self.ports.len(), self.by_id.len());
        assert_eq!(self.expiries.len(), self.by_id.len());
        assert_eq!(self.per_user.values().sum::<usize>(), self.by_id.len());
        assert!(self.per_user.values().all(|count| *count > 0));
        assert_eq!(self.by_relayed.len(), all().filter(|(_, held)| held.relayed().is_some()).count());
        for (id, held) in all() {
            assert_eq!(self.by_five_tuple.get(&held.five_tuple), Some(id));
            assert!(self.ports.contains(&(held.family, held.port)));
            assert!(self.expiries.contains(&(held.expires, *id)));
            assert!(held.relayed().is_none_or(|relayed| self.by_relayed.get(&relayed) == Some(id)));
            assert_eq!(held.channels.len(), held.channel_of.len());
        }
    }
}

/// RFC 8656 §9.
const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// RFC 8656 §12.
const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);
/// How long the shell may take to open a port.
const OPENING_LIFETIME: Duration = Duration::from_secs(10);
