use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{Body, Timestamp};

/// Everything the daemon knows of itself, its networks and their peers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon.
    pub daemon: Daemon,
    /// The networks that this machine is in.
    pub networks: Vec<Network>,
    /// Peers from the configuration file, stock WireGuard or ginneld.
    pub static_peers: Vec<StaticPeer>,
    /// What is wrong or deserves a look, worst first.
    pub health: Vec<Health>,
}

impl Body for Status {
    const SCHEMA: &'static str = "ginnel.status/1";
}

impl Status {
    /// Removes what a caller of the lowest tier may not see: endpoints, server addresses, public keys, and words that may
    /// quote one of them.
    pub fn redact(&mut self) {
        for network in &mut self.networks {
            if let Some(server) = &mut network.server {
                server.addr.clear();
            }
            network.peers.iter_mut().for_each(Peer::redact);
        }
        self.static_peers.iter_mut().for_each(StaticPeer::redact);
        self.health.iter_mut().for_each(Health::redact);
    }
}

/// The daemon process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Daemon {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    pub started: Timestamp,
}

/// One network that this machine is in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Name, as in `PEER.NAME.internal`.
    pub name: String,
    /// Id, the hash of the network's first record, as text.
    pub id: String,
    /// What the network is doing on this machine.
    pub state: NetworkState,
    /// IPv4 range that members' addresses are taken from, as `100.64.0.0/16`.
    pub range4: Option<String>,
    /// IPv6 range of the network, as `fd00::/64`.
    pub range6: Option<String>,
    /// The signaling server in use.
    pub server: Option<ServerReport>,
    /// This machine as a member.
    #[serde(rename = "self")]
    pub own: OwnNode,
    /// The other members.
    pub peers: Vec<Peer>,
}

/// What a network is doing on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkState {
    /// Carrying packets, with a server connected.
    Running,
    /// Coming up.
    Starting,
    /// Taken down by the user.
    Stopped,
    /// Asked to join and not admitted yet.
    AwaitingApproval,
    /// This machine's membership has ended.
    Expired,
    /// Carrying packets without any server connected.
    NoServer,
    /// Not working; `health` says why.
    Error,
    /// A state of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for NetworkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Starting => "starting",
            Self::Stopped => "stopped",
            Self::AwaitingApproval => "awaiting-approval",
            Self::Expired => "expired",
            Self::NoServer => "no-server",
            Self::Error => "error",
            Self::Unknown => "unknown",
        })
    }
}

/// A signaling server as this machine sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerReport {
    /// `host:port`; empty for a caller of the lowest tier.
    pub addr: String,
    /// Whether a connection stands.
    pub connected: bool,
    /// When it was last heard.
    pub last_contact: Option<Timestamp>,
}

/// This machine as a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnNode {
    /// Name in the network.
    pub name: String,
    /// Member key as text.
    pub id: String,
    /// Addresses in the network.
    pub ips: Vec<IpAddr>,
}

/// Another member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Name in the network.
    pub name: String,
    /// Name of the network, as [`Network::name`].
    #[serde(default)]
    pub network: String,
    /// Member key as text.
    pub id: String,
    /// Addresses in the network.
    pub ips: Vec<IpAddr>,
    /// Whether a session carries packets.
    pub online: bool,
    /// How packets travel to it.
    pub path: PathReport,
    /// Bytes of IP packets received from it.
    pub rx_bytes: u64,
    /// Bytes of IP packets sent to it.
    pub tx_bytes: u64,
    /// When the last handshake was completed.
    pub last_handshake: Option<Timestamp>,
    /// When anything authentic was last received from it.
    pub last_seen: Option<Timestamp>,
    /// Why a link that is wanted is not there, in words; absent for a caller of the lowest tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
}

impl Peer {
    /// Removes the endpoint, the relay and what may quote an address, as [`Status::redact`] does.
    pub fn redact(&mut self) {
        self.path.redact();
        self.waiting = None;
    }
}

/// How packets travel to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathReport {
    /// Kind of path.
    pub kind: PathKind,
    /// Where packets are sent: the peer's own address or its mapping, or its relayed address.
    pub endpoint: Option<SocketAddr>,
    /// The relay in between.
    pub relay: Option<SocketAddr>,
    /// Round trip of the last probe, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// How long this path has been in use, in seconds.
    pub since_s: Option<u64>,
}

impl PathReport {
    /// No path.
    pub const NONE: Self = Self { kind: PathKind::None, endpoint: None, relay: None, rtt_ms: None, since_s: None };

    /// Removes the addresses and leaves kind and figures.
    pub fn redact(&mut self) {
        self.endpoint = None;
        self.relay = None;
    }
}

/// Kinds of path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// Straight between private or link addresses.
    Lan,
    /// Straight between public IPv4 addresses or mappings.
    Direct4,
    /// Straight over public IPv6.
    Direct6,
    /// Through a TURN relay reached by UDP.
    TurnUdp,
    /// No path.
    None,
    /// A kind of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lan => "lan",
            Self::Direct4 => "direct4",
            Self::Direct6 => "direct6",
            Self::TurnUdp => "turn-udp",
            Self::None => "none",
            Self::Unknown => "unknown",
        })
    }
}

/// A peer from the configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StaticPeer {
    /// Name from the file.
    pub name: String,
    /// X25519 public key in base64; empty for a caller of the lowest tier.
    pub public_key: String,
    /// What runs at the other end.
    pub kind: PeerKind,
    /// Prefixes routed to it.
    pub allowed_ips: Vec<String>,
    /// Whether a session carries packets.
    pub online: bool,
    /// How packets travel to it.
    pub path: PathReport,
    /// Bytes of IP packets received from it.
    pub rx_bytes: u64,
    /// Bytes of IP packets sent to it.
    pub tx_bytes: u64,
    /// When the last handshake was completed.
    pub last_handshake: Option<Timestamp>,
    /// When anything authentic was last received from it.
    pub last_seen: Option<Timestamp>,
}

impl StaticPeer {
    /// Removes the key and the addresses, as [`Status::redact`] does.
    pub fn redact(&mut self) {
        self.public_key.clear();
        self.path.redact();
    }
}

/// What runs at the other end of a peer from the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerKind {
    /// Stock WireGuard.
    Wireguard,
    /// ginneld.
    Ginnel,
    /// A kind of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for PeerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Wireguard => "wireguard",
            Self::Ginnel => "ginnel",
            Self::Unknown => "unknown",
        })
    }
}

/// Something that is wrong or deserves a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The network that it is about; absent where it is about the machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Stable kebab-case name for scripts.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is the matter, in one sentence; the code and [`Self::REDACTED`] for a caller of the lowest tier.
    pub text: String,
    /// What to do about it; absent for a caller of the lowest tier.
    pub fix: Option<String>,
}

impl Health {
    /// What stands in place of the text for a caller of the lowest tier, to whom the code alone is told.
    pub const REDACTED: &'static str = "told in full to those who may operate this machine";

    /// Removes what may quote an address, as [`Status::redact`] does.
    pub fn redact(&mut self) {
        self.text = format!("{}: {}", self.code, Self::REDACTED);
        self.fix = None;
    }
}

/// How bad a [`Health`] item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Something does not work.
    Error,
    /// Works, but look at this.
    Warning,
    /// Worth knowing.
    Info,
    /// A severity of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Unknown => "unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Document;

    #[test]
    fn status_is_written_as_its_schema_says() {
        assert_eq!(serde_json::to_string_pretty(&Document::new(example())).unwrap(), GOLDEN);
        assert_eq!(serde_json::from_str::<Document<Status>>(GOLDEN).unwrap(), Document::new(example()));
    }

    #[test]
    fn words_of_a_later_version_are_read_as_unknown() {
        let path: PathReport = serde_json::from_str(r#"{"kind":"turn-tls","endpoint":null,"new":1}"#).unwrap();
        assert_eq!(path.kind, PathKind::Unknown);
        assert_eq!(serde_json::from_str::<Severity>("\"dire\"").unwrap(), Severity::Unknown);
    }

    #[test]
    fn redaction_leaves_no_address_outside_the_network_and_no_key() {
        let mut status = example();
        status.networks[0].peers[0].waiting = Some("waiting for a server: no answer from signal.example".into());
        status.health.push(Health {
            network: Some("home".into()),
            code: "no-server".into(),
            severity: Severity::Warning,
            text: "no server of home is reached: no answer from signal.example:4433 (203.0.113.9)".into(),
            fix: Some("`ginnel server remove signal.example` takes it off the list".into()),
        });
        status.redact();
        let text = serde_json::to_string(&status).unwrap();
        for secret in ["198.51.100", "203.0.113", "signal.example", "xTIBA5"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert!(text.contains("100.70.0.9") && text.contains("direct4") && text.contains("no-server"));
    }

    fn example() -> Status {
        Status {
            daemon: Daemon { version: "0.1.0".into(), pid: 77, started: Timestamp::from_unix(1_790_000_000) },
            networks: vec![example_network()],
            static_peers: vec![StaticPeer {
                name: "router".into(),
                public_key: "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=".into(),
                kind: PeerKind::Wireguard,
                allowed_ips: vec!["10.0.0.0/24".into()],
                online: false,
                path: PathReport { endpoint: Some("198.51.100.1:51820".parse().unwrap()), ..PathReport::NONE },
                rx_bytes: 0,
                tx_bytes: 0,
                last_handshake: None,
                last_seen: None,
            }],
            health: vec![
                Health {
                    network: None,
                    code: "no-ipv6".into(),
                    severity: Severity::Info,
                    text: "this machine has no public IPv6 address".into(),
                    fix: None,
                },
                Health {
                    network: Some("home".into()),
                    code: "stale-log".into(),
                    severity: Severity::Warning,
                    text: "home: no admin has vouched for the log in 9 days".into(),
                    fix: Some("let the machine that founded the network go online".into()),
                },
            ],
        }
    }

    fn example_network() -> Network {
        Network {
            name: "home".into(),
            id: "k5qf".into(),
            state: NetworkState::Running,
            range4: Some("100.70.0.0/16".into()),
            range6: Some("fd5a:1:2:3::/64".into()),
            server: Some(ServerReport {
                addr: "signal.example:4433".into(),
                connected: true,
                last_contact: Some(Timestamp::from_unix(1_790_000_060)),
            }),
            own: OwnNode { name: "desk".into(), id: "a1".into(), ips: vec!["100.70.0.8".parse().unwrap()] },
            peers: vec![Peer {
                name: "laptop".into(),
                network: "home".into(),
                id: "b2".into(),
                ips: vec!["100.70.0.9".parse().unwrap()],
                online: true,
                path: PathReport {
                    kind: PathKind::Direct4,
                    endpoint: Some("203.0.113.7:41641".parse().unwrap()),
                    relay: None,
                    rtt_ms: Some(12.5),
                    since_s: Some(30),
                },
                rx_bytes: 10,
                tx_bytes: 20,
                last_handshake: Some(Timestamp::from_unix(1_790_000_030)),
                last_seen: None,
                waiting: None,
            }],
        }
    }

    const GOLDEN: &str = include_str!("../testdata/status.json");
}
