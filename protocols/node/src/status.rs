//! Reading a node's state without changing it.

use std::net::IpAddr;

use ginnel_forward::PeerId;
use ginnel_membership::addressing::ipv6_prefix;
use ginnel_membership::state::InviteStanding;
use ginnel_path::address::{Reach, reach};
use ginnel_path::{CandidateKind, Local, Path};
use ginnel_time::Instant;

use crate::io::Failure;
use crate::link::LinkStatus;
use crate::network::{Extent, Network};
use crate::networks::{Ipv4Use, NetworkNumber};
use crate::node::Node;
use crate::peer::{Peer, Ways};
use crate::report::{
    Administration, HealthReport, InviteReport, InviteState, NetworkReport, NetworkState, PathKind, PathReport,
    PeerReport, ServerReport, Status,
};
use crate::saved::Switch;

impl Node {
    /// The node's state at `now`.
    pub fn status(&self, now: Instant) -> Status {
        Status {
            networks: self.networks.iter().map(Network::report).collect(),
            peers: self.peers.values().map(|peer| self.peer_report(peer)).collect(),
            candidates: self.gather.candidates().iter().map(|own| (own.kind, own.addr)).collect(),
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

    fn health(&self, now: Instant) -> Vec<HealthReport> {
        let clock = self.stamper.unix_seconds(now);
        self.networks.iter().flat_map(|network| network.health(now, clock)).collect()
    }
}

impl Network {
    /// What is wrong, by a clock that says `clock` (Unix seconds, 0 when unknown).
    fn health(&self, now: Instant, clock: u64) -> Vec<HealthReport> {
        let network = self;
        let wall = self.believed(now, clock);
        let mut health = Vec::new();
        if let Some(fork) = &network.fork {
            health.push(HealthReport {
                network: Some(network.number),
                code: "forked-log",
                text: format!("{}: {fork}; this machine keeps to the one it saw first", network.title()),
                fix: "move the network to a server you trust: `ginnel server promote`".to_owned(),
            });
        }
        if let Some(forged) = &network.forged {
            health.push(HealthReport {
                network: Some(network.number),
                code: "forged-entry",
                text: forged.clone(),
                fix: "it has no effect; `ginnel server promote` makes a server you trust the sequencer".to_owned(),
            });
        }
        for link in network.links.values() {
            let Some(accused) = &link.accused else { continue };
            let address = link.server.addresses.first().map_or("a server", String::as_str);
            health.push(HealthReport {
                network: Some(network.number),
                code: "dishonest-server",
                text: format!("{address}: {accused}"),
                fix: "this machine keeps to the log that it has verified; `ginnel server remove` takes a server off the list".to_owned(),
            });
        }
        if let Some(refused) = network.why_out() {
            health.push(HealthReport {
                network: Some(network.number),
                code: "not-a-member",
                text: format!("this machine is no member of {}: {refused}", network.title()),
                fix: "`ginnel leave`, then join with a fresh invite".to_owned(),
            });
        } else if network.saved.switch == Switch::Up
            && !network.is_connected()
            && let Some(why) = network.links.values().find_map(|link| link.trouble.clone())
        {
            health.push(HealthReport {
                network: Some(network.number),
                code: "no-server",
                text: format!("no server of {} is reached: {why}", network.title()),
                fix: "links that are up stay up; new ones need a server".to_owned(),
            });
        }
        if !network.held_back.is_empty() {
            health.push(HealthReport {
                network: Some(network.number),
                code: "newcomers-wait",
                text: format!(
                    "{} new members of {} are not let in: no admin has vouched for the log",
                    network.held_back.len(),
                    network.title()
                ),
                fix: "let an admin's machine go online".to_owned(),
            });
        }
        if network.extent == Extent::CutShort {
            let (here, verified) = (network.state.head().0, network.saved.head.0);
            let title = network.title();
            health.push(HealthReport {
                network: Some(network.number),
                code: "log-cut-short",
                text: format!(
                    "only {here} of the {verified} entries of {title} that this machine had verified are here"
                ),
                fix: "the rest comes from a server or a member; check this machine's disk".to_owned(),
            });
        }
        health.extend(network.clock_health(now, clock));
        if let Some(age) = network.state.lease_age(wall).filter(|age| wall != 0 && age.as_secs() > LEASE_LIFE) {
            health.push(HealthReport {
                network: Some(network.number),
                code: "stale-log",
                text: format!(
                    "no admin of {} has vouched for its log in {} days",
                    network.title(),
                    age.as_secs() / 86_400
                ),
                fix: "let the machine that founded the network go online".to_owned(),
            });
        }
        health
    }

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
                    connected: link.status == LinkStatus::Up,
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

/// Seconds after which the lease counts as run out.
const LEASE_LIFE: u64 = 7 * 86_400;
