//! Extra sockets: opened for a peer's rounds of punching, told to that peer alone, closed when a later round, or silence
//! after another path was taken, has made them useless. Our own choice of a path says nothing of the peer's: it may send
//! to such a socket while we send from another.

use std::time::Duration;

use ginnel_forward::PeerId;
use ginnel_path::{Local, LocalCandidate, SocketId};
use ginnel_time::Instant;

use crate::io::{Family, Output, Port};
use crate::node::Node;
use crate::peer::Ways;

/// A socket opened for a round of punching.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fresh {
    pub(crate) owner: PeerId,
    /// When it was opened, or something authentic last came in on it.
    used: Instant,
}

impl Fresh {
    fn idle_at(self) -> Instant {
        self.used + IDLE
    }
}

impl Node {
    /// Opens one more socket for a round of punching with a peer. Those of earlier rounds go, unless a path in use is on
    /// them; at the bound, an unused one of another peer goes.
    pub(crate) fn fresh_socket(&mut self, now: Instant, id: PeerId) {
        self.close_fresh(now, id);
        if self.sockets.len() - self.gather.sockets_lent() >= MAX_SOCKETS {
            let unused = self.fresh.keys().copied().find(|socket| !self.carries(*socket));
            let Some(socket) = unused else { return };
            self.close_socket(now, socket);
        }
        tracing::debug!(peer = id.0, "a fresh port for another try");
        let socket = self.open_socket(Family::V4, Port::Fresh);
        self.fresh.insert(socket, Fresh { owner: id, used: now });
    }

    /// Closes the sockets that were opened for a peer and that no path in use is on.
    pub(crate) fn close_fresh(&mut self, now: Instant, id: PeerId) {
        let own = self.fresh.iter().filter(|(_, fresh)| fresh.owner == id).map(|(socket, _)| *socket);
        let unused: Vec<SocketId> = own.filter(|socket| !self.carries(*socket)).collect();
        for socket in unused {
            self.close_socket(now, socket);
        }
    }

    /// Takes note that something authentic came in on a socket.
    pub(crate) fn fresh_used(&mut self, now: Instant, local: Local) {
        if let Local::Socket(socket) = local
            && let Some(fresh) = self.fresh.get_mut(&socket)
        {
            fresh.used = now;
        }
    }

    /// When the next extra socket may have become useless.
    pub(crate) fn fresh_deadline(&self) -> Option<Instant> {
        self.fresh.values().map(|fresh| fresh.idle_at()).min()
    }

    /// Closes extra sockets that have been silent and that no path in use is on.
    pub(crate) fn fresh_timeout(&mut self, now: Instant) {
        let idle = self.fresh.iter().filter(|(_, fresh)| fresh.idle_at() <= now).map(|(socket, _)| *socket);
        for socket in idle.collect::<Vec<_>>() {
            if self.carries(socket) {
                self.fresh_used(now, Local::Socket(socket));
            } else {
                self.close_socket(now, socket);
            }
        }
    }

    /// Own candidates as the agent of a peer is to know them.
    pub(crate) fn candidates_for(&self, id: PeerId) -> Vec<LocalCandidate> {
        let foreign = |local: Local| match local {
            Local::Socket(socket) => self.fresh.get(&socket).is_some_and(|fresh| fresh.owner != id),
            Local::Relay(_) => false,
        };
        let network = self.network_of(id);
        self.gather.candidates(network).iter().copied().filter(|candidate| !foreign(candidate.local)).collect()
    }

    pub(crate) fn close_socket(&mut self, now: Instant, socket: SocketId) {
        self.outputs.push_back(Output::CloseSocket(socket));
        self.socket_lost(now, socket);
    }

    /// Whether a selected path or the relay is on a socket.
    fn carries(&self, socket: SocketId) -> bool {
        let on = |local: Local| local == Local::Socket(socket);
        let awake = self.awake.iter().filter_map(|id| self.peers.get(id));
        let selected = { awake }.any(|peer| match &peer.ways {
            Ways::Dormant => false,
            Ways::Agent { primary, backup, .. } => {
                primary.is_some_and(|(path, _)| on(path.local)) || backup.is_some_and(|path| on(path.local))
            }
            Ways::Endpoint(path) => path.is_some_and(|path| on(path.local)),
        });
        selected || self.gather.is_relays(socket)
    }
}

/// A path in use is probed at least every 5 s while anything flows; after three times that, nobody sends here.
const IDLE: Duration = Duration::from_secs(15);
/// Sockets open at a time beside those for relays alone: those at rest and those for another try.
const MAX_SOCKETS: usize = 16;
