//! What a node tells of itself: plain values for the local API, without secrets.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_forward::PeerId;
use ginnel_path::{CandidateKind, Path};
use ginnel_time::Instant;

use crate::networks::NetworkNumber;

/// The state of a node at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// The networks that this machine is in, in the order in which it joined them.
    pub networks: Vec<NetworkReport>,
    /// Every peer that the data plane knows, of the network and of the configuration.
    pub peers: Vec<PeerReport>,
    /// Own candidates as they would be told to a peer.
    pub candidates: Vec<(CandidateKind, SocketAddr)>,
    /// What needs a user's attention.
    pub health: Vec<HealthReport>,
}

/// A network and this machine's part in it.
#[derive(Clone, Debug)]
pub struct NetworkReport {
    /// Its number on this machine.
    pub number: NetworkNumber,
    /// The network's name on this machine.
    pub name: String,
    /// The network's id in hexadecimal.
    pub id: String,
    /// How far it has come.
    pub state: NetworkState,
    /// The IPv4 range; `None` while unknown, and where IPv4 is not used.
    pub range4: Option<(IpAddr, u8)>,
    /// The IPv6 range.
    pub range6: (IpAddr, u8),
    /// This machine's name.
    pub self_name: String,
    /// This machine's member key in hexadecimal.
    pub self_id: String,
    /// This machine's addresses.
    pub self_addresses: Vec<IpAddr>,
    /// Whether this machine holds an admin key.
    pub admin: Administration,
    /// The servers.
    pub servers: Vec<ServerReport>,
    /// Entries in the log.
    pub log_length: u64,
}

/// Whether a machine may sign for its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Administration {
    /// It holds an admin key.
    Admin,
    /// It is a plain member.
    Member,
}

/// How far a network has come on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkState {
    /// Joining; not a member yet.
    Joining,
    /// Running with at least one server.
    Running,
    /// Running, with no server reached.
    NoServer,
    /// Stopped by `down`.
    Stopped,
    /// This machine's membership was revoked.
    Revoked,
}

/// One signaling server.
#[derive(Clone, Debug)]
pub struct ServerReport {
    /// Its first address.
    pub address: String,
    /// Whether the authenticated stream is up.
    pub connected: bool,
    /// When it last said anything.
    pub last_contact: Option<Instant>,
    /// Why it is not connected, in words.
    pub trouble: Option<String>,
}

/// One peer.
#[derive(Clone, Debug)]
pub struct PeerReport {
    /// Its number in the data plane.
    pub id: PeerId,
    /// The network that it is a member of; none for a peer of the configuration.
    pub network: Option<NetworkNumber>,
    /// Its name.
    pub name: String,
    /// Its member key (or tunnel key, from the configuration) in hexadecimal.
    pub key: String,
    /// Its addresses in the network.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Where the peer comes from.
    pub source: PeerSource,
    /// The path that data takes.
    pub path: Option<PathReport>,
    /// The path kept warm behind it.
    pub backup: Option<PathReport>,
    /// When the newest session was made.
    pub last_handshake: Option<Instant>,
    /// Whether a handshake is under way.
    pub connecting: bool,
    /// Why a link that is wanted is not there, in words.
    pub waiting: Option<String>,
}

/// Where a peer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerSource {
    /// The membership log.
    Log,
    /// The configuration: a ginneld.
    ConfigGinnel,
    /// The configuration: stock WireGuard.
    ConfigWireGuard,
}

/// One path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathReport {
    /// The path.
    pub path: Path,
    /// What it runs over.
    pub kind: PathKind,
    /// The relay's own address, when the path runs through our allocation.
    pub relay: Option<SocketAddr>,
    /// The last measured round trip.
    pub rtt: Option<Duration>,
    /// Since when it carries data.
    pub since: Option<Instant>,
}

/// What a path runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// A private address, without leaving the site.
    Lan,
    /// A direct path over IPv4.
    Direct4,
    /// A direct path over IPv6.
    Direct6,
    /// A relay reached over UDP.
    TurnUdp,
}

/// An invite, without its secret.
#[derive(Clone, Debug)]
pub struct InviteReport {
    /// The invite's public key in hexadecimal.
    pub id: String,
    /// The keys that signed it, in hexadecimal.
    pub by: Vec<String>,
    /// Unix seconds at which it was written to the log; zero when not known.
    pub created: u64,
    /// Unix seconds of its end.
    pub expires: u64,
    /// Where it stands.
    pub state: InviteState,
    /// The name hint.
    pub name: Option<String>,
    /// The member that used it, by name.
    pub used_by: Option<String>,
}

/// Where an invite stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InviteState {
    /// Can be used.
    Open,
    /// Was used.
    Used,
    /// Was taken back.
    Void,
    /// Ran out.
    Expired,
}

/// One entry of the membership log, in words.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// Its place in the log.
    pub sequence: u64,
    /// Unix seconds of the entry.
    pub time: u64,
    /// The record's kind.
    pub kind: String,
    /// Whom it concerns.
    pub subject: String,
    /// The keys that signed the record, in hexadecimal.
    pub by: Vec<String>,
    /// Whether replay accepted it, else why not.
    pub verdict: Result<(), String>,
}

/// Something that needs a user's attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthReport {
    /// The network that it is about; none for the whole machine.
    pub network: Option<NetworkNumber>,
    /// A stable word for scripts.
    pub code: &'static str,
    /// What is wrong.
    pub text: String,
    /// What to do about it.
    pub fix: String,
}
