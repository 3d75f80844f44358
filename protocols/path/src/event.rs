//! What goes into an [`Agent`](crate::Agent) and what comes out.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::address;
use crate::id::{Candidate, CandidateKind, Local, LocalCandidate, Path};
use crate::message::Malformed;
use crate::score::Tier;

/// Which of the two sides we are; decides between two rounds of punching that cross.
///
/// The two agents of a pair must have different roles at all times. Who began the last handshake is no measure: two that
/// cross both succeed, and each side may hold another one for the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Our call stands when two cross.
    Initiator,
    /// The other side's call stands.
    Responder,
}

/// Which paths an agent may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// Every path.
    #[default]
    Any,
    /// Relayed paths only; direct candidates are neither told nor probed.
    RelayOnly,
}

/// Settings of an [`Agent`](crate::Agent).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Which paths may be used.
    pub policy: Policy,
    /// Prefixes, as address and length, in which no address of the other side is probed: those that the tunnels themselves
    /// carry. A probe to one of them would travel inside another path and prove nothing.
    pub refused: Arc<[(IpAddr, u8)]>,
}

impl Config {
    /// Whether `addr` lies in a refused prefix, in whatever form it is written.
    pub(crate) fn refuses(&self, addr: SocketAddr) -> bool {
        let forms = [addr.ip(), address::canonical(addr.ip())];
        self.refused.iter().any(|(prefix, length)| forms.iter().any(|ip| address::is_within(*ip, *prefix, *length)))
    }
}

/// What an [`Agent`](crate::Agent) is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Our own candidates, the whole set; replaces the former.
    ///
    /// Every usable socket and allocation appears at least once: its `local` is what pairs are made of, its address
    /// family says what it can send to. An entry whose address may not be told (loopback, unspecified) still declares its
    /// socket. An address that disappears from a socket means that this machine has moved.
    LocalCandidates(Vec<LocalCandidate>),
    /// The other side's candidates by mailbox or from storage; replaces those learnt so. Comes before [`Input::Session`]
    /// when both are at hand.
    RemoteCandidates(Vec<Candidate>),
    /// A session is up and probes can be sealed; where we answered the handshake, only once it is confirmed. Repeated for
    /// every rekey.
    Session(Role),
    /// No session is left: nothing can be sealed.
    SessionLost,
    /// An authentic packet came in by this path.
    Arrived(Path),
    /// An Echo or Candidates message came out of the session by this path.
    Message {
        /// The path that it came by.
        path: Path,
        /// The opened plaintext.
        bytes: Vec<u8>,
    },
    /// Data flowed during the last second or so.
    Traffic {
        /// We sent some.
        sent: bool,
        /// We received some.
        received: bool,
    },
    /// The system refused to send by this path for want of a route.
    SendFailed {
        /// The path.
        path: Path,
    },
    /// A socket or an allocation is gone.
    PathLost(Local),
    /// The prefixes of [`Config::refused`], the whole set; replaces the former. A path in use stays until it fails.
    Refused(Arc<[(IpAddr, u8)]>),
}

/// What an [`Agent`](crate::Agent) asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Seal this plaintext in the session and send it by this path.
    Seal {
        /// The path.
        path: Path,
        /// The IP TTL or hop limit; the system's own when absent.
        ttl: Option<u8>,
        /// The control message.
        plaintext: Vec<u8>,
    },
    /// A probe by this path was answered: somebody at its far end, or on the way there, has read it.
    Answered {
        /// The path that the probe went by; the echo may have come by another one.
        path: Path,
    },
    /// Send data by these paths from here on.
    Select {
        /// Where data goes; nowhere (it waits) when absent.
        primary: Option<Path>,
        /// The path that stands by.
        backup: Option<Path>,
        /// Whether data goes by both, because the primary has stopped answering.
        duplicate: bool,
    },
    /// Open a socket on a new local port and find its mapping; the answer is [`Input::LocalCandidates`] with it.
    ///
    /// Only the sockets of the last round and those of selected paths are needed any longer.
    FreshSocket {
        /// The round of punching that wants it.
        round: u8,
    },
    /// Begin a handshake, by the mailbox if there is one: no path is up that could carry a call for a round of punching, or
    /// traffic begins for a peer that was idle, whose paths may be gone. The other side opens for the candidates that come
    /// with it before it answers.
    Summon,
    /// Something that a user or a log wants to know.
    Event(PathEvent),
}

/// News for status and log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathEvent {
    /// A new primary carries the traffic.
    Selected {
        /// The path.
        path: Path,
        /// How its remote address is known.
        kind: CandidateKind,
        /// Its class.
        tier: Tier,
        /// The smoothed round trip.
        rtt: Duration,
    },
    /// A path that had worked stopped answering, or the system has no route for it.
    Failed {
        /// The path.
        path: Path,
    },
    /// No path is left to a peer that is not idle.
    Lost,
    /// A round of punching begins.
    Punching {
        /// Its number.
        round: u8,
    },
}

/// Why an input was ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Discard {
    /// The message does not decode.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The message is a probe, which the data plane answers.
    #[error("probes are not for the agent")]
    Probe,
    /// No probe with this id is in flight.
    #[error("echo of an unknown probe")]
    UnknownEcho,
    /// The echo came too late to prove anything.
    #[error("echo came too late")]
    LateEcho,
    /// The address may not be probed, or lies in a refused prefix.
    #[error("address may not be probed")]
    UnusableAddress,
    /// The socket or allocation is not among our local candidates.
    #[error("unknown local end")]
    UnknownLocal,
    /// No session is up.
    #[error("no session is up")]
    NoSession,
    /// The path is not known.
    #[error("unknown path")]
    UnknownPath,
    /// The round of punching is not the one under way.
    #[error("round is not under way")]
    StaleRound,
    /// The peer calls more often than rounds are played.
    #[error("called too often")]
    TooOften,
}

/// One pair as `status` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathStatus {
    /// The path.
    pub path: Path,
    /// How its remote address is known.
    pub kind: CandidateKind,
    /// Its class.
    pub tier: Tier,
    /// The smoothed round trip, once echoed.
    pub rtt: Option<Duration>,
    /// What is known about it.
    pub state: PathState,
    /// What it is used for.
    pub selected: Selected,
}

/// What is known about a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathState {
    /// Not probed, or not since its last proof went stale.
    Waiting,
    /// Probes are out.
    Checking,
    /// The last probe was echoed.
    Proven,
    /// It was proven, and probes are now unanswered.
    Doubtful,
    /// Every probe of the last burst went unanswered.
    Silent,
}

/// What a path is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Selected {
    /// It carries the traffic.
    Primary,
    /// It stands by.
    Backup,
    /// It is not used.
    Unused,
}

/// Why traffic does not flow directly; each reason is an observed fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WhyNotDirect {
    /// No session is up, so nothing can be probed.
    NoSession,
    /// Direct paths are switched off.
    Forbidden,
    /// The peer told no direct address of a family that we have.
    NoCandidates,
    /// Probes are out and may yet be echoed.
    AwaitingEcho,
    /// Probes went unanswered, and our own NAT was seen to use another port for each destination.
    OwnMappingVaries,
    /// Probes went unanswered; a filter, or a NAT that varies its ports, stands on at least one side.
    NoEcho,
    /// The peer is idle, so nothing is probed.
    Idle,
}
