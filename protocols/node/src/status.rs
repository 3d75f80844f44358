//! Reading a node's state without changing it.

use std::net::IpAddr;

use ginnel_forward::PeerId;
use ginnel_membership::addressing::ipv6_prefix;
use ginnel_membership::state::InviteStanding;
use ginnel_path::address::{Reach, reach};
use ginnel_path::{CandidateKind, Local, Path};
use ginnel_time::Instant;

use crate::io::Failure;
use crate::network::Network;
use crate::networks::{Ipv4Use, NetworkNumber};
use crate::node::Node;
use crate::peer::{Peer, Ways};
use crate::report::{
    Administration, InviteReport, InviteState, NetworkReport, NetworkState, PathKind, PathReport, PeerReport,
    ServerReport, Status,
};
use crate::saved::Switch;

impl Node {
    /// The node's state at `now`.
    pub fn status(&self, now: Instant) -> Status {
        Status {
            networks: self.networks.iter().map(Network::report).collect(),
            peers: self.peers.values().map(|peer| self.peer_report(peer)).collect(),
            candidates: self.gather.all_candidates().iter().map(|own| (own.kind, own.addr)).collect(),
            health: self.health(now),
        }
    }

    /// The network that a user means, by its name or the start of its id, or the only one.
    ///
    /// # Errors
    /// [`Failure`] says that there is none, that none fits, or that several do.
    pub fn network_named(&self, wanted: Option<&str>) -> Result<NetworkNumber, Failure> {
        self.networks.choose(wanted)
    }

    /// The peer that a user means, in the named network or in any.
    ///
    /// # Errors
    /// [`Failure`] says that none fits, or that peers of several networks do.
    pub fn peer_named(&self, network: Option<&str>, peer: &str) -> Result<PeerId, Failure> {
        self.find_peer(network, peer)
    }

    /// The name of a peer, for log lines.
    pub fn peer_name(&self, id: PeerId) -> Option<&str> {
        self.peers.get(&id).map(|peer| peer.profile.name.as_str())
    }

    /// What a path to a peer runs over.
    pub(crate) fn path_report(&self, peer: &Peer, path: Path) -> PathReport {
        let known = match &peer.ways {
            Ways::Agent { agent, .. } => agent.status().into_iter().find(|status| status.path == path),
            Ways::Dormant | Ways::Endpoint(_) => None,
        };
        let through_theirs = known.as_ref().is_some_and(|status| status.kind == CandidateKind::Relayed);
        let kind = match (path.is_relayed() || through_theirs, path.remote.ip()) {
            (true, _) => PathKind::TurnUdp,
            (false, ip) if is_local(ip) => PathKind::Lan,
            (false, ip) if ip.to_canonical().is_ipv4() => PathKind::Direct4,
            (false, _) => PathKind::Direct6,
        };
        let relay = match path.local {
            Local::Relay(id) => self.gather.relay_server(id),
            Local::Socket(_) => None,
        };
        PathReport { path, kind, relay, rtt: known.and_then(|status| status.rtt), since: None }
    }

    fn peer_report(&self, peer: &Peer) -> PeerReport {
        let report = |path: Path, since: Option<Instant>| PathReport { since, ..self.path_report(peer, path) };
        let (path, backup) = match &peer.ways {
            Ways::Agent { primary, backup, .. } => {
                (primary.map(|(path, since)| report(path, Some(since))), backup.map(|path| report(path, None)))
            }
            Ways::Dormant => (None, None),
            Ways::Endpoint(path) => (path.filter(|_| peer.session.is_some()).map(|path| report(path, None)), None),
        };
        PeerReport {
            id: peer.id,
            network: peer.profile.network(),
            name: peer.profile.name.clone(),
            key: peer.profile.member.map_or_else(|| hex(peer.profile.key.as_bytes()), |member| member.to_string()),
            addresses: peer.profile.allowed.clone(),
            source: peer.profile.source,
            path,
            backup,
            last_handshake: peer.session.map(|session| session.made),
            connecting: peer.attempt.is_some(),
            waiting: self.why_waiting(peer),
        }
    }
}

impl Network {
    fn report(&self) -> NetworkReport {
        let member = self.state.member(&self.key());
        let state = if self.refused.is_some() || self.state.is_revoked(&self.key()) {
            NetworkState::Revoked
        } else if self.saved.switch == Switch::Down {
            NetworkState::Stopped
        } else if member.is_none() {
            NetworkState::Joining
        } else if self.is_connected() {
            NetworkState::Running
        } else {
            NetworkState::NoServer
        };
        NetworkReport {
            number: self.number,
            name: self.title(),
            id: self.saved.id().to_string(),
            state,
            range4: self
                .state
                .ipv4_range()
                .filter(|_| self.saved.ipv4 == Ipv4Use::On)
                .map(|range| (IpAddr::V4(range.network_address()), 16)),
            range6: (IpAddr::V6(ipv6_prefix(&self.saved.id())), 64),
            self_name: member.map_or_else(|| self.saved.wish.clone(), |member| member.name().as_str().to_owned()),
            self_id: self.key().to_string(),
            self_addresses: self.own_addresses(),
            admin: if self.saved.admin.is_some() { Administration::Admin } else { Administration::Member },
            servers: self
                .links
                .iter()
                .filter(|(id, _)| !self.is_recruit(**id))
                .map(|(_, link)| ServerReport {
                    address: link.server.addresses.first().cloned().unwrap_or_default(),
                    connected: link.serves(),
                    last_contact: link.last_contact,
                    trouble: link.trouble.clone(),
                })
                .collect(),
            log_length: self.state.head().0,
        }
    }

    /// The invites as they stand at `wall` (Unix seconds).
    pub(crate) fn invite_reports(&self, wall: u64) -> Vec<InviteReport> {
        self.state
            .invites()
            .map(|info| {
                let (state, used_by) = match info.standing {
                    InviteStanding::Used(key) => {
                        (InviteState::Used, self.state.member(&key).map(|member| member.name().as_str().to_owned()))
                    }
                    InviteStanding::Void => (InviteState::Void, None),
                    InviteStanding::Open if info.expires <= wall => (InviteState::Expired, None),
                    InviteStanding::Open => (InviteState::Open, None),
                };
                let id = info.key.to_string();
                let line = self.log.iter().find(|line| line.kind == "invite" && line.subject == id);
                InviteReport {
                    created: line.map_or(0, |line| line.time),
                    by: info.by.iter().map(ToString::to_string).collect(),
                    id,
                    expires: info.expires,
                    state,
                    name: info.hint.as_ref().map(|name| name.as_str().to_owned()),
                    used_by,
                }
            })
            .collect()
    }
}

fn is_local(ip: IpAddr) -> bool {
    matches!(reach(ip), Reach::Private | Reach::UniqueLocal | Reach::LinkLocal | Reach::Loopback | Reach::SharedCgn)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
