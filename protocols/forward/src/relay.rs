//! Our allocations: which socket and server each goes through, and its channels.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ginnel_path::{Local, Path, RelayId, SocketId};
use ginnel_turn::ChannelNumber;

use crate::command::RelayCommand;
use crate::counters::Discard;

/// The allocations with their channels, looked up both ways.
#[derive(Default)]
pub(crate) struct Relays {
    relays: BTreeMap<RelayId, Relay>,
    servers: BTreeMap<(SocketId, SocketAddr), Vec<RelayId>>,
}

struct Relay {
    server: (SocketId, SocketAddr),
    by_remote: BTreeMap<SocketAddr, ChannelNumber>,
    by_channel: BTreeMap<ChannelNumber, SocketAddr>,
}

/// Where a path's datagrams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) socket: SocketId,
    pub(crate) to: SocketAddr,
    pub(crate) channel: Option<ChannelNumber>,
}

impl Relays {
    pub(crate) fn apply(&mut self, command: RelayCommand) -> Result<(), Discard> {
        match command {
            RelayCommand::Set { relay, socket, server } => self.set(relay, socket, server),
            RelayCommand::Remove { relay } => self.remove(relay),
            RelayCommand::Bind { relay, channel, remote } => self.bind(relay, channel, remote)?,
            RelayCommand::Unbind { relay, channel } => self.unbind(relay, channel)?,
        }
        Ok(())
    }

    fn set(&mut self, relay: RelayId, socket: SocketId, server: SocketAddr) {
        if self.relays.get(&relay).is_some_and(|known| known.server == (socket, server)) {
            return;
        }
        self.remove(relay);
        let entry = Relay { server: (socket, server), by_remote: BTreeMap::new(), by_channel: BTreeMap::new() };
        self.relays.insert(relay, entry);
        self.servers.entry((socket, server)).or_default().push(relay);
    }

    fn remove(&mut self, relay: RelayId) {
        let Some(gone) = self.relays.remove(&relay) else { return };
        if let Some(sharing) = self.servers.get_mut(&gone.server) {
            sharing.retain(|other| *other != relay);
            if sharing.is_empty() {
                self.servers.remove(&gone.server);
            }
        }
    }

    fn bind(&mut self, relay: RelayId, channel: u16, remote: SocketAddr) -> Result<(), Discard> {
        let channel = ChannelNumber::new(channel).ok_or(Discard::BadChannel)?;
        let relay = self.relays.get_mut(&relay).ok_or(Discard::NoRelay)?;
        if let Some(old) = relay.by_remote.insert(remote, channel) {
            relay.by_channel.remove(&old);
        }
        if let Some(old) = relay.by_channel.insert(channel, remote)
            && old != remote
        {
            relay.by_remote.remove(&old);
        }
        Ok(())
    }

    fn unbind(&mut self, relay: RelayId, channel: u16) -> Result<(), Discard> {
        let channel = ChannelNumber::new(channel).ok_or(Discard::BadChannel)?;
        let relay = self.relays.get_mut(&relay).ok_or(Discard::NoRelay)?;
        if let Some(remote) = relay.by_channel.remove(&channel) {
            relay.by_remote.remove(&remote);
        }
        Ok(())
    }

    /// Where datagrams of `path` go.
    #[inline]
    pub(crate) fn target(&self, path: Path) -> Result<Target, Discard> {
        match path.local {
            Local::Socket(socket) => Ok(Target { socket, to: path.remote, channel: None }),
            Local::Relay(relay) => {
                let relay = self.relays.get(&relay).ok_or(Discard::NoRelay)?;
                let channel = *relay.by_remote.get(&path.remote).ok_or(Discard::NoChannel)?;
                Ok(Target { socket: relay.server.0, to: relay.server.1, channel: Some(channel) })
            }
        }
    }

    /// The path behind a channel of the server that a datagram came from.
    #[inline]
    pub(crate) fn source(&self, socket: SocketId, from: SocketAddr, channel: ChannelNumber) -> Result<Path, Discard> {
        let sharing = self.servers.get(&(socket, from)).ok_or(Discard::ForeignChannelData)?;
        sharing
            .iter()
            .find_map(|id| {
                let remote = *self.relays.get(id)?.by_channel.get(&channel)?;
                Some(Path { local: Local::Relay(*id), remote })
            })
            .ok_or(Discard::UnknownChannel)
    }

    /// Whether a relay of ours is reached at `from` by `socket`.
    #[inline]
    pub(crate) fn is_server(&self, socket: SocketId, from: SocketAddr) -> bool {
        self.servers.contains_key(&(socket, from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("address")
    }

    #[test]
    fn channels_are_found_both_ways_until_unbound() {
        let mut relays = Relays::default();
        let (server, remote) = (addr("192.0.2.1:3478"), addr("198.51.100.7:99"));
        let path = Path { local: Local::Relay(RelayId(1)), remote };
        let channel = ChannelNumber::new(0x4001).expect("in range");
        assert_eq!(relays.target(path), Err(Discard::NoRelay));
        relays.set(RelayId(1), SocketId(2), server);
        assert_eq!(relays.target(path), Err(Discard::NoChannel));
        assert_eq!(relays.bind(RelayId(1), 0x5000, remote), Err(Discard::BadChannel));
        assert_eq!(relays.bind(RelayId(1), 0x4001, remote), Ok(()));
        assert_eq!(relays.target(path), Ok(Target { socket: SocketId(2), to: server, channel: Some(channel) }));
        assert_eq!(relays.source(SocketId(2), server, channel), Ok(path));
        assert_eq!(relays.source(SocketId(3), server, channel), Err(Discard::ForeignChannelData));
        relays.set(RelayId(1), SocketId(2), server);
        assert!(relays.target(path).is_ok(), "setting the same server keeps the channels");
        assert_eq!(relays.unbind(RelayId(1), 0x4001), Ok(()));
        assert_eq!(relays.source(SocketId(2), server, channel), Err(Discard::UnknownChannel));
        relays.remove(RelayId(1));
        assert!(!relays.is_server(SocketId(2), server));
    }

    #[test]
    fn a_channel_bound_anew_leaves_its_old_address() {
        let mut relays = Relays::default();
        let (a, b) = (addr("198.51.100.7:1"), addr("198.51.100.7:2"));
        let path = |remote| Path { local: Local::Relay(RelayId(1)), remote };
        relays.set(RelayId(1), SocketId(0), addr("192.0.2.1:3478"));
        relays.bind(RelayId(1), 0x4001, a).expect("bound");
        relays.bind(RelayId(1), 0x4001, b).expect("bound");
        assert_eq!(relays.target(path(a)), Err(Discard::NoChannel));
        assert!(relays.target(path(b)).is_ok());
        relays.bind(RelayId(1), 0x4002, b).expect("bound");
        let old = ChannelNumber::new(0x4001).expect("in range");
        assert_eq!(relays.source(SocketId(0), addr("192.0.2.1:3478"), old), Err(Discard::UnknownChannel));
    }
}
