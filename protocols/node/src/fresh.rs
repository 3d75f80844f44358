//! Extra sockets: opened for a peer's rounds of punching, told to that peer alone, closed when a later round or traffic
//! on another path has made them useless.

use ginnel_forward::PeerId;
use ginnel_path::{Local, LocalCandidate, SocketId};
use ginnel_time::Instant;

use crate::io::{Family, Output, Port};
use crate::node::Node;
use crate::peer::Ways;

impl Node {
    /// Opens one more socket for a round of punching with a peer. Those of earlier rounds go, unless a path in use is on
    /// them; at the bound, an unused one of another peer goes.
    pub(crate) fn fresh_socket(&mut self, now: Instant, id: PeerId) {
        self.close_fresh(now, id);
        if self.sockets.len() >= MAX_SOCKETS {
            let unused = self.fresh.keys().copied().find(|socket| !self.carries(*socket));
            let Some(socket) = unused else { return };
            self.close_socket(now, socket);
        }
        tracing::debug!(peer = id.0, "a fresh port for another try");
        let socket = self.open_socket(Family::V4, Port::Fresh);
        self.fresh.insert(socket, id);
    }

    /// Closes the sockets that were opened for a peer and that no path in use is on.
    pub(crate) fn close_fresh(&mut self, now: Instant, id: PeerId) {
        let own = self.fresh.iter().filter(|(_, owner)| **owner == id).map(|(socket, _)| *socket);
        let unused: Vec<SocketId> = own.filter(|socket| !self.carries(*socket)).collect();
        for socket in unused {
            self.close_socket(now, socket);
        }
    }

    /// Own candidates as the agent of a peer is to know them.
    pub(crate) fn candidates_for(&self, id: PeerId) -> Vec<LocalCandidate> {
        let foreign = |local: Local| match local {
            Local::Socket(socket) => self.fresh.get(&socket).is_some_and(|owner| *owner != id),
            Local::Relay(_) => false,
        };
        self.gather.candidates().iter().copied().filter(|candidate| !foreign(candidate.local)).collect()
    }

    fn close_socket(&mut self, now: Instant, socket: SocketId) {
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
        selected || self.gather.relay_socket() == Some(socket)
    }
}

/// Sockets open at a time, those at rest and those for another try.
const MAX_SOCKETS: usize = 16;
