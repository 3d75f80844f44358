//! The names that paths go by: sockets, relay allocations, paths and candidates.

use std::net::SocketAddr;

/// One of our UDP sockets, as the shell numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u16);

/// One of our allocations on a TURN server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(pub u16);

/// Our end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Local {
    /// A UDP socket of this machine.
    Socket(SocketId),
    /// The relayed address of an allocation that we hold.
    Relay(RelayId),
}

/// A way to the other side: from our end to the address `remote`.
///
/// With [`Local::Relay`] the allocation sends to `remote`; the relay's own address is no part of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// Our end.
    pub local: Local,
    /// The address at the other end, as our end sees it.
    pub remote: SocketAddr,
}

impl Path {
    /// Tells whether the path runs through an allocation of ours.
    pub const fn is_relayed(&self) -> bool {
        matches!(self.local, Local::Relay(_))
    }
}

/// How a candidate address came to be known (RFC 8445 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CandidateKind {
    /// An address of one of the machine's interfaces.
    Host,
    /// The address that a STUN server saw.
    ServerReflexive,
    /// The address that the other side saw.
    PeerReflexive,
    /// The relayed address of an allocation on a TURN server.
    Relayed,
}

/// A candidate as it is told to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// How the address came to be known.
    pub kind: CandidateKind,
    /// The transport address.
    pub addr: SocketAddr,
}

/// A candidate of our own, with the end that it is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalCandidate {
    /// How the address came to be known.
    pub kind: CandidateKind,
    /// Our end behind the address.
    pub local: Local,
    /// The transport address.
    pub addr: SocketAddr,
}

impl LocalCandidate {
    /// The candidate as it is told to the other side.
    pub const fn candidate(&self) -> Candidate {
        Candidate { kind: self.kind, addr: self.addr }
    }
}
