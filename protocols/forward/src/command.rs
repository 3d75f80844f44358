//! What node tells forward to do.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_path::{Path, RelayId, SocketId};
use ginnel_tunnel::cookie::Mac1;
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
    /// Says by which addresses of this machine a peer may be spoken with: packets to others of them are not taken from
    /// it, packets from others are not sent to it. Without this order every address will do. It holds until the peer is
    /// removed.
    SetOwn {
        /// The peer.
        peer: PeerId,
        /// The addresses.
        own: Vec<IpAddr>,
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
    /// Ends one session at once; no [`crate::Event::Expired`] follows.
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
    /// Says whose handshakes node can read: an initiation or response for none of these keys is dropped. Without this order
    /// node gets them all.
    SetKeys(Vec<Mac1>),
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
            Self::SetOwn { peer, own } => (Some(E::SetOwn { peer, own: own.clone() }), Some(I::SetOwn { peer, own })),
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
            Self::SetKeys(keys) => (None, Some(I::SetKeys(keys))),
        }
    }
}

impl fmt::Debug for Command {
    /// Names the command; keys and payloads stay out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddPeer { peer, allowed, .. } => write!(f, "AddPeer({peer:?}, {} prefixes)", allowed.len()),
            Self::SetOwn { peer, own } => write!(f, "SetOwn({peer:?}, {own:?})"),
            Self::RemovePeer { peer } => write!(f, "RemovePeer({peer:?})"),
            Self::Install { peer, established } => write!(f, "Install({peer:?}, {:?})", established.local_index),
            Self::Forget { index } => write!(f, "Forget({index:?})"),
            Self::SetPath { peer, primary, backup, duplicate } => {
                write!(f, "SetPath({peer:?}, {primary:?}, {backup:?}, duplicate {duplicate})")
            }
            Self::SealControl { peer, path, ttl, plaintext } => {
                write!(f, "SealControl({peer:?}, {path:?}, ttl {ttl:?}, {} B)", plaintext.len())
            }
            Self::Send { path, ttl, bytes } => write!(f, "Send({path:?}, ttl {ttl:?}, {} B)", bytes.len()),
            Self::SetRelay { relay, socket, server } => write!(f, "SetRelay({relay:?}, {socket:?}, {server})"),
            Self::RemoveRelay { relay } => write!(f, "RemoveRelay({relay:?})"),
            Self::BindChannel { relay, channel, remote } => write!(f, "BindChannel({relay:?}, {channel:#x}, {remote})"),
            Self::UnbindChannel { relay, channel } => write!(f, "UnbindChannel({relay:?}, {channel:#x})"),
            Self::Inject { path, bytes } => write!(f, "Inject({path:?}, {} B)", bytes.len()),
            Self::SetShields(shields) => write!(f, "SetShields({shields:?})"),
            Self::SetKeys(keys) => write!(f, "SetKeys({} keys)", keys.len()),
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
    SetOwn { peer: PeerId, own: Vec<IpAddr> },
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
    SetOwn { peer: PeerId, own: Vec<IpAddr> },
    RemovePeer { peer: PeerId },
    Install { peer: PeerId, session: ReceiveSession },
    Forget { index: ReceiverIndex },
    SetPath { peer: PeerId, primary: Option<Path>, backup: Option<Path> },
    Relay(RelayCommand),
    Inject { path: Path, bytes: Vec<u8> },
    SetShields(Shields),
    SetKeys(Vec<Mac1>),
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
