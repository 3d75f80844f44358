//! What node tells forward to do, and what forward tells node.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_path::{Path, RelayId, SocketId};
use ginnel_tunnel::{Established, ReceiverIndex};

use crate::session::{ReceiveSession, SendSession};

/// A peer, as node numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// Who moves a peer's endpoint when authentic packets come from a new source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roam {
    /// Node does, by [`Command::SetPath`]; a new source is only reported. For ginneld peers.
    Fixed,
    /// Forward does, on authenticated data. For stock WireGuard peers.
    FollowSource,
}

/// Whether inbound packets need a flow that this machine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shields {
    /// Only answers to our own TCP, UDP and ICMP echo flows come in, and ICMP errors about them.
    Up,
    /// Every packet from its rightful owner comes in.
    #[default]
    Down,
}

/// An order from node.
pub enum Command {
    /// Adds a peer, or replaces the settings of one that is there; its sessions and paths stay.
    AddPeer {
        /// The peer.
        peer: PeerId,
        /// The addresses the peer owns, as prefixes. A prefix that another peer held moves to this one.
        allowed: Vec<(IpAddr, u8)>,
        /// Who moves its endpoint.
        roam: Roam,
        /// The interval of keepalives sent even when idle.
        persistent_keepalive: Option<Duration>,
    },
    /// Removes a peer with its sessions, queue and addresses.
    RemovePeer {
        /// The peer.
        peer: PeerId,
    },
    /// Installs the keys of a finished handshake: the initiator's at once as current, the responder's as next, until
    /// the first packet on it confirms it.
    Install {
        /// The peer.
        peer: PeerId,
        /// What the handshake left.
        established: Established,
    },
    /// Ends one session at once; no [`Event::Expired`] follows.
    Forget {
        /// Our index of the session.
        index: ReceiverIndex,
    },
    /// Sets the paths that a peer's packets take.
    SetPath {
        /// The peer.
        peer: PeerId,
        /// Carries data; without one data waits in the bounded queue.
        primary: Option<Path>,
        /// Carries copies while `duplicate` holds.
        backup: Option<Path>,
        /// Whether data goes out on both. Bounded by [`crate::DUPLICATE_TIME`] and [`crate::DUPLICATE_BYTES`] from when
        /// it turns true.
        duplicate: bool,
    },
    /// Seals a control message on the peer's current session and sends it.
    SealControl {
        /// The peer.
        peer: PeerId,
        /// The path to take; the primary when `None`.
        path: Option<Path>,
        /// The IP time to live of the datagram; the socket's own when `None`.
        ttl: Option<u8>,
        /// The message; its first byte is below 0x40.
        plaintext: Vec<u8>,
    },
    /// Sends bytes as they are: handshakes, openers, STUN.
    Send {
        /// The path to take; on [`ginnel_path::Local::Relay`] the bytes are wrapped as ChannelData.
        path: Path,
        /// The IP time to live of the datagram; the socket's own when `None`.
        ttl: Option<u8>,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// Makes an allocation known, or moves it to another server.
    SetRelay {
        /// The allocation.
        relay: RelayId,
        /// The socket that talks to the server.
        socket: SocketId,
        /// The server's address.
        server: SocketAddr,
    },
    /// Forgets an allocation and its channels.
    RemoveRelay {
        /// The allocation.
        relay: RelayId,
    },
    /// Makes a channel binding known.
    BindChannel {
        /// The allocation.
        relay: RelayId,
        /// The channel number, 0x4000 to 0x4FFF.
        channel: u16,
        /// The address that the channel is bound to.
        remote: SocketAddr,
    },
    /// Forgets a channel binding.
    UnbindChannel {
        /// The allocation.
        relay: RelayId,
        /// The channel number.
        channel: u16,
    },
    /// Handles the payload of a TURN Data indication as if it had come in a datagram.
    Inject {
        /// The relayed path that the payload came by.
        path: Path,
        /// The payload.
        bytes: Vec<u8>,
    },
    /// Raises or lowers the shields.
    SetShields(Shields),
}

impl Command {
    /// The parts of the order for the two halves. Both must get theirs, in the order of the commands.
    pub fn split(self) -> (Option<EgressCommand>, Option<IngressCommand>) {
        use {EgressCommand as E, IngressCommand as I};
        match self {
            Self::AddPeer { peer, allowed, roam, persistent_keepalive } => (
                Some(E::AddPeer { peer, allowed: allowed.clone(), persistent_keepalive }),
                Some(I::AddPeer { peer, allowed, roam }),
            ),
            Self::RemovePeer { peer } => (Some(E::RemovePeer { peer }), Some(I::RemovePeer { peer })),
            Self::Install { peer, established } => {
                let (send, receive) = crate::session::split(established);
                (Some(E::Install { peer, session: send }), Some(I::Install { peer, session: receive }))
            }
            Self::Forget { index } => (Some(E::Forget { index }), Some(I::Forget { index })),
            Self::SetPath { peer, primary, backup, duplicate } => {
                (Some(E::SetPath { peer, primary, backup, duplicate }), Some(I::SetPath { peer, primary, backup }))
            }
            Self::SealControl { peer, path, ttl, plaintext } => {
                (Some(E::SealControl { peer, path, ttl, plaintext }), None)
            }
            Self::Send { path, ttl, bytes } => (Some(E::Send { path, ttl, bytes }), None),
            Self::SetRelay { relay, socket, server } => both(RelayCommand::Set { relay, socket, server }),
            Self::RemoveRelay { relay } => both(RelayCommand::Remove { relay }),
            Self::BindChannel { relay, channel, remote } => both(RelayCommand::Bind { relay, channel, remote }),
            Self::UnbindChannel { relay, channel } => both(RelayCommand::Unbind { relay, channel }),
            Self::Inject { path, bytes } => (None, Some(I::Inject { path, bytes })),
            Self::SetShields(shields) => (Some(E::SetShields(shields)), Some(I::SetShields(shields))),
        }
    }
}

fn both(command: RelayCommand) -> (Option<EgressCommand>, Option<IngressCommand>) {
    (Some(EgressCommand::Relay(command)), Some(IngressCommand::Relay(command)))
}

/// The part of a [`Command`] for [`crate::Egress`]; its fields are those of the command.
#[expect(missing_docs, reason = "the fields are those of Command")]
pub enum EgressCommand {
    AddPeer { peer: PeerId, allowed: Vec<(IpAddr, u8)>, persistent_keepalive: Option<Duration> },
    RemovePeer { peer: PeerId },
    Install { peer: PeerId, session: SendSession },
    Forget { index: ReceiverIndex },
    SetPath { peer: PeerId, primary: Option<Path>, backup: Option<Path>, duplicate: bool },
    SealControl { peer: PeerId, path: Option<Path>, ttl: Option<u8>, plaintext: Vec<u8> },
    Send { path: Path, ttl: Option<u8>, bytes: Vec<u8> },
    Relay(RelayCommand),
    SetShields(Shields),
}

/// The part of a [`Command`] for [`crate::Ingress`]; its fields are those of the command.
#[expect(missing_docs, reason = "the fields are those of Command")]
pub enum IngressCommand {
    AddPeer { peer: PeerId, allowed: Vec<(IpAddr, u8)>, roam: Roam },
    RemovePeer { peer: PeerId },
    Install { peer: PeerId, session: ReceiveSession },
    Forget { index: ReceiverIndex },
    SetPath { peer: PeerId, primary: Option<Path>, backup: Option<Path> },
    Relay(RelayCommand),
    Inject { path: Path, bytes: Vec<u8> },
    SetShields(Shields),
}

/// The commands about relays, which both halves get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of Command")]
pub enum RelayCommand {
    Set { relay: RelayId, socket: SocketId, server: SocketAddr },
    Remove { relay: RelayId },
    Bind { relay: RelayId, channel: u16, remote: SocketAddr },
    Unbind { relay: RelayId, channel: u16 },
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
    /// The endpoint of a [`Roam::FollowSource`] peer moved.
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
        /// Whether a receiving key has opened as much as it should.
        key_worn: bool,
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

/// A report to node.
///
/// All but [`Event::Handshake`] and [`Event::Stun`] are facts held per peer until they are taken, so a slow reader
/// delays them and never loses them; the raw two wait in one queue of [`crate::RAW_QUEUE`], the newest dropped when it
/// is full.
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
    /// The endpoint of a [`Roam::FollowSource`] peer moved here.
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
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Confirmed { peer, index } => write!(f, "Confirmed({peer:?}, {index:?})"),
            Self::Expired { index, peer } => write!(f, "Expired({peer:?}, {index:?})"),
            Self::RekeyDue { peer, why } => write!(f, "RekeyDue({peer:?}, {why:?})"),
            Self::SessionWanted { peer } => write!(f, "SessionWanted({peer:?})"),
            Self::Arrived { peer, path } => write!(f, "Arrived({peer:?}, {path:?})"),
            Self::Roamed { peer, path } => write!(f, "Roamed({peer:?}, {path:?})"),
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
