//! What forward tells node, and what the receiving half tells the sending one.

use std::fmt;
use std::net::SocketAddr;

use ginnel_path::{Path, SocketId};
use ginnel_tunnel::ReceiverIndex;

use crate::command::PeerId;

/// A report to node.
///
/// All but [`Event::Handshake`] and [`Event::Stun`] are facts held per peer until they are taken, so a slow reader
/// delays them and never loses them; the raw ones wait in queues of [`crate::HANDSHAKE_QUEUE`],
/// [`crate::COOKIE_QUEUE`] and [`crate::STUN_QUEUE`], the newest dropped when its own is full.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    /// The first packet arrived on a session that we hold as responder: the initiator has the keys.
    Confirmed {
        /// The peer.
        peer: PeerId,
        /// Our index of the session.
        index: ReceiverIndex,
    },
    /// A session ended by age or by newer ones; its keys are erased.
    Expired {
        /// Our index of the session.
        index: ReceiverIndex,
        /// The peer.
        peer: PeerId,
    },
    /// The current session should be replaced.
    RekeyDue {
        /// The peer.
        peer: PeerId,
        /// What was noticed.
        why: RekeyReason,
    },
    /// A packet for the peer, or its persistent keepalive, waits and there is no session to send it on.
    SessionWanted {
        /// The peer.
        peer: PeerId,
    },
    /// An authentic packet came by a path that is neither the primary nor the backup; repeated at most once in
    /// [`crate::ARRIVED_INTERVAL`] for each path.
    Arrived {
        /// The peer.
        peer: PeerId,
        /// The path.
        path: Path,
    },
    /// The endpoint of a [`crate::Roam::FollowSource`] peer moved here.
    Roamed {
        /// The peer.
        peer: PeerId,
        /// The new path.
        path: Path,
    },
    /// A control message came out of the session. At most [`crate::CONTROL_QUEUE`] wait per peer, the newest dropped.
    Control {
        /// The peer.
        peer: PeerId,
        /// The path it came by.
        path: Path,
        /// The message.
        plaintext: Vec<u8>,
    },
    /// A handshake or cookie datagram came in.
    Handshake {
        /// The path it came by.
        path: Path,
        /// The datagram, without ChannelData framing.
        bytes: Vec<u8>,
    },
    /// A STUN message came in.
    Stun {
        /// The socket that it came to.
        socket: SocketId,
        /// Its source.
        from: SocketAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// Data flowed; at most once a second and direction.
    Traffic {
        /// The peer.
        peer: PeerId,
        /// We had some to send, whether or not there was a path for it.
        sent: bool,
        /// Some came in.
        received: bool,
    },
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Confirmed { peer, index } => write!(f, "Confirmed({peer:?}, {index:?})"),
            Self::Expired { index, peer } => write!(f, "Expired({peer:?}, {index:?})"),
            Self::RekeyDue { peer, why } => write!(f, "RekeyDue({peer:?}, {why:?})"),
            Self::SessionWanted { peer } => write!(f, "SessionWanted({peer:?})"),
            Self::Arrived { peer, path } => write!(f, "Arrived({peer:?}, {path:?})"),
            Self::Roamed { peer, path } => write!(f, "Roamed({peer:?}, {path:?})"),
            Self::Traffic { peer, sent, received } => write!(f, "Traffic({peer:?}, sent {sent}, received {received})"),
            Self::Control { peer, path, plaintext } => write!(f, "Control({peer:?}, {path:?}, {} B)", plaintext.len()),
            Self::Handshake { path, bytes } => write!(f, "Handshake({path:?}, {} B)", bytes.len()),
            Self::Stun { socket, from, bytes } => write!(f, "Stun({socket:?}, {from}, {} B)", bytes.len()),
        }
    }
}

/// Why a session should be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RekeyReason {
    /// We are the initiator and sent on a session older than REKEY_AFTER_TIME.
    Age,
    /// The key has sealed as much as it should.
    Count,
    /// We are the initiator and received on a session that is about to be refused.
    LastMinute,
    /// We sent data and nothing authentic came back.
    Silence,
}

/// What [`crate::Ingress`] learnt that [`crate::Egress`] must know.
///
/// A notice waits per peer until it is taken, so a ring between two threads may be full without loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The first packet arrived on a session that we hold as responder.
    Confirmed {
        /// The peer.
        peer: PeerId,
        /// Our index of the session.
        index: ReceiverIndex,
    },
    /// The endpoint of a [`crate::Roam::FollowSource`] peer moved.
    Roamed {
        /// The peer.
        peer: PeerId,
        /// The new path.
        path: Path,
    },
    /// A probe wants its echo.
    Probe {
        /// The peer.
        peer: PeerId,
        /// The path to answer on.
        path: Path,
        /// The probe's id.
        id: u64,
    },
    /// Authentic datagrams came in.
    Received {
        /// The peer.
        peer: PeerId,
        /// The weightiest of them.
        what: Received,
        /// How much the most worn of their keys has opened.
        wear: Wear,
    },
}

/// What came in, by weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Received {
    /// Keepalives and control messages only.
    Control,
    /// IP packets.
    Data,
}

/// How much of its life a key has spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wear {
    /// Less than calls for a new one.
    Fresh,
    /// As much as it should.
    Worn,
}
