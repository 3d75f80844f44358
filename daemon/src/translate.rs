//! Between the control socket's documents and the node's own words.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_forward::{PeerCounters, PeerId, Shields};
use ginnel_local_api::{self as api, ApiError, Endpoint, Exit, Timestamp};
use ginnel_membership::record::{Freshness, Rights};
use ginnel_node::{
    Failure, FailureCode, HealthReport, Holder, InviteReport, InviteState, Ipv4Use, LogLine, NetworkReport,
    NetworkState, Node, Notice, PathKind, PathReport, PeerReport, PeerSource, Reply, Request, Roster, RosterAdmin,
    RosterDelegate, RosterServer, ServerRole, Status, UpOutcome, UpReport,
};
use ginnel_path::Local;
use ginnel_time::Instant;

use crate::clock;
use crate::tun::Unset;

/// What is known of the data plane when a document is made.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Counters by peer.
    pub peers: BTreeMap<PeerId, PeerCounters>,
}

/// The node's request for an API request, or the document that answers it without one.
#[derive(Debug)]
pub enum Asked {
    /// The node decides.
    Node(Request),
    /// The state as it is answers it.
    Report(Report),
}

/// A document made of the node's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The whole state.
    Status,
    /// The peers.
    Peers,
    /// The addresses of this machine, or of the named peer.
    Ip(Option<String>),
    /// The servers.
    Servers,
    /// The admins.
    Admins,
    /// The rules.
    Policy,
}

/// Says what an API request wants.
pub fn request(request: &api::Request) -> Asked {
    Asked::Node(match request {
        api::Request::Status => return Asked::Report(Report::Status),
        api::Request::Peers => return Asked::Report(Report::Peers),
        api::Request::Ip(ip) => return Asked::Report(Report::Ip(ip.peer.clone())),
        api::Request::Log => Request::Log,
        // The socket's own task tells of events.
        api::Request::Events => return Asked::Report(Report::Status),
        api::Request::Ping(ping) => Request::Ping { peer: ping.peer.clone(), timeout: ping.timeout() },
        api::Request::Up(up) => Request::Up {
            ticket: up.invite_or_founding.as_ref().map(|ticket| ticket.expose().to_owned()),
            name: up.name.clone(),
            network: up.network.clone(),
            shields: up.shields_up.map(|up| if up { Shields::Up } else { Shields::Down }),
            range: up.range.clone(),
            ipv4: up.ipv4.map(|on| if on { Ipv4Use::On } else { Ipv4Use::Off }),
        },
        api::Request::Down => Request::Down,
        api::Request::InviteCreate(invite) => {
            Request::Invite { expires: Duration::from_secs(invite.expires_s), name: invite.name.clone() }
        }
        api::Request::InviteList => Request::Invites,
        api::Request::InviteRevoke(invite) => Request::VoidInvite { id: invite.id.clone() },
        api::Request::Revoke(revoke) => Request::Revoke { peer: revoke.peer.clone() },
        api::Request::Leave => Request::Leave,
        api::Request::ServerList => return Asked::Report(Report::Servers),
        api::Request::AdminList => return Asked::Report(Report::Admins),
        api::Request::Policy => return Asked::Report(Report::Policy),
        api::Request::ServerAdd(server) => Request::ServerAdd { founding: server.founding.expose().to_owned() },
        api::Request::ServerRemove(server) => Request::ServerRemove { server: server.server.clone() },
        api::Request::ServerPromote(server) => Request::ServerPromote { server: server.server.clone() },
        api::Request::AdminAdd(admin) => Request::AdminAdd { peer: admin.peer.clone() },
        api::Request::AdminRemove(admin) => Request::AdminRemove { peer: admin.peer.clone() },
        api::Request::AdminThreshold(threshold) => Request::AdminThreshold { threshold: threshold.threshold },
        api::Request::Cosign(cosign) => Request::Cosign { proposal: cosign.proposal.clone() },
        api::Request::PolicySet(policy) => {
            let delegate = policy.delegate.as_ref().map(|delegate| (delegate.peer.clone(), rights_of(delegate)));
            Request::Policy { strict: policy.strict, delegate }
        }
        api::Request::Checkpoint => Request::Checkpoint,
        api::Request::RotateKeys => Request::RotateKeys,
    })
}

/// The rights that a delegate is to have; `None` for none.
fn rights_of(delegate: &api::DelegateRequest) -> Option<Rights> {
    let bits = delegate.rights.iter().map(|right| match right {
        api::Right::Leases => Rights::LEASE.bits(),
        api::Right::Invites => Rights::INVITE.bits(),
    });
    Rights::from_bits(bits.fold(0, |all, bits| all | bits))
}

/// Turns the node's answer into the document for the request that it answers.
pub fn reply(asked: &api::Request, reply: Reply, status: &Status) -> Result<api::Reply, ApiError> {
    Ok(match (asked, reply) {
        (_, Reply::Up(up)) => up_reply(up_network(up, status), Vec::new(), status),
        (_, Reply::AllUp(all)) => {
            let mut all = all.into_iter().map(|up| up_network(up, status));
            let first = all.next().ok_or_else(bad_answer)?;
            up_reply(first, all.collect(), status)
        }
        (api::Request::Ping(ping), Reply::Pong { path, rtt, .. }) => {
            api::PingReply { seq: ping.seq, ok: true, path: path_report(&path, None), rtt_ms: Some(millis(rtt)) }.into()
        }
        (_, Reply::Invite { ticket, network, invite }) => api::InviteCreated {
            invite: ticket.into(),
            id: invite.id,
            network,
            expires: Timestamp::from_unix(invite.expires),
            name: invite.name,
        }
        .into(),
        (_, Reply::Invites(invites)) => {
            api::InviteList { invites: invites.into_iter().map(invite_summary).collect() }.into()
        }
        (_, Reply::Log { network, lines }) => {
            api::Log { network, entries: lines.into_iter().map(log_entry).collect() }.into()
        }
        (_, Reply::Revoked { name, id }) => api::Revoked { name, id }.into(),
        (api::Request::InviteRevoke(invite), Reply::Done) => api::InviteVoided { id: invite.id.clone() }.into(),
        (_, Reply::Stopped(stopped)) => api::Down { stopped }.into(),
        (_, Reply::Left { network }) => api::Left { network }.into(),
        (_, Reply::Proposed { proposal, missing, what, ticket }) => api::Changed {
            outcome: api::ChangeOutcome::Proposed,
            what: Some(what),
            proposal: Some(proposal),
            missing,
            invite: ticket.map(Into::into),
        }
        .into(),
        (api::Request::RotateKeys, Reply::Done) => {
            let own = status.networks.first();
            let name = own.map_or_else(String::new, |network| network.self_name.clone());
            api::Rotated { name, id: own.map_or_else(String::new, |network| network.self_id.clone()) }.into()
        }
        (
            api::Request::ServerAdd(_)
            | api::Request::ServerRemove(_)
            | api::Request::ServerPromote(_)
            | api::Request::AdminAdd(_)
            | api::Request::AdminRemove(_)
            | api::Request::AdminThreshold(_)
            | api::Request::Cosign(_)
            | api::Request::PolicySet(_)
            | api::Request::Checkpoint,
            Reply::Done,
        ) => api::Changed { outcome: api::ChangeOutcome::Done, what: None, proposal: None, missing: 0, invite: None }
            .into(),
        (_, Reply::Done | Reply::Pong { .. }) => {
            return Err(bad_answer());
        }
    })
}

/// Turns the node's failure into the error document, or into the reply that says "no answer" to a ping.
pub fn failure(asked: &api::Request, failure: Failure) -> Result<api::Reply, ApiError> {
    if let (api::Request::Ping(ping), FailureCode::TimedOut) = (asked, failure.code) {
        return Ok(api::PingReply { seq: ping.seq, ok: false, path: api::PathReport::NONE, rtt_ms: None }.into());
    }
    let exit = match failure.code {
        FailureCode::Failed => Exit::Failed,
        FailureCode::Usage | FailureCode::Ambiguous => Exit::Usage,
        FailureCode::Denied => Exit::Denied,
        FailureCode::NotJoined => Exit::NotJoined,
        FailureCode::NoSuch | FailureCode::NoSuchNetwork => Exit::NotFound,
        FailureCode::TimedOut => Exit::NoAnswer,
    };
    let code = cause(asked, failure.code);
    let error = ApiError::new(exit, code, failure.message);
    Err(if failure.hint.is_empty() { error } else { error.with_hint(failure.hint) })
}

/// The stable name of a failure's cause. What is missing or denied depends on what was asked for.
fn cause(asked: &api::Request, code: FailureCode) -> &'static str {
    match code {
        FailureCode::Failed => "failed",
        FailureCode::Usage => "usage",
        FailureCode::Ambiguous => "several-networks",
        FailureCode::NoSuchNetwork => "no-such-network",
        // The caller's own rights were judged before: it is this machine that may not.
        FailureCode::Denied => "not-an-admin",
        FailureCode::NotJoined if matches!(asked, api::Request::Up(up) if up.invite_or_founding.is_some()) => {
            "invite-not-open"
        }
        FailureCode::NotJoined => "not-joined",
        FailureCode::NoSuch => match asked.endpoint() {
            Endpoint::InviteRevoke => "no-such-invite",
            Endpoint::ServerRemove | Endpoint::ServerPromote => "no-such-server",
            Endpoint::AdminRemove => "no-such-admin",
            Endpoint::Status
            | Endpoint::Peers
            | Endpoint::Ip
            | Endpoint::Log
            | Endpoint::Events
            | Endpoint::Ping
            | Endpoint::Up
            | Endpoint::Down
            | Endpoint::InviteCreate
            | Endpoint::InviteList
            | Endpoint::Revoke
            | Endpoint::Leave
            | Endpoint::ServerList
            | Endpoint::ServerAdd
            | Endpoint::AdminList
            | Endpoint::AdminAdd
            | Endpoint::AdminThreshold
            | Endpoint::Cosign
            | Endpoint::Policy
            | Endpoint::PolicySet
            | Endpoint::Checkpoint
            | Endpoint::RotateKeys => "no-such-peer",
        },
        FailureCode::TimedOut => "no-answer",
    }
}

/// Turns what happened into a line of the event stream.
pub fn event(notice: Notice) -> api::EventKind {
    match notice {
        Notice::Joined { name, id } => api::EventKind::Joined { peer: name, id },
        Notice::Left { name, id, by } => api::EventKind::Left { peer: name, id, by },
        Notice::Updated { name, id } => api::EventKind::Updated { peer: name, id },
        Notice::InviteUsed { invite, name } => api::EventKind::InviteUsed { invite, peer: name },
        Notice::Linked { peer } => api::EventKind::Linked { peer },
        Notice::PathChanged { peer, path } => api::EventKind::PathChanged { peer, path: path_report(&path, None) },
        Notice::Lost { peer } => api::EventKind::Lost { peer },
        Notice::ServerUp { server } => api::EventKind::ServerUp { server },
        Notice::ServerDown { server, reason } => api::EventKind::ServerDown { server, reason },
        Notice::Alarm { text } => api::EventKind::Alarm { text },
        Notice::Clock { ahead_seconds } => api::EventKind::Clock { ahead_s: ahead_seconds },
    }
}

/// Makes a document of the node's status.
pub fn report(
    wanted: &Report,
    node: &Node,
    status: &Status,
    traffic: &Traffic,
    started: Timestamp,
) -> Result<api::Reply, ApiError> {
    let now = clock::now();
    let roster = || {
        let only = status.networks.first().and_then(|network| node.roster(network.number));
        only.ok_or_else(not_joined)
    };
    let members = |of: &NetworkReport| {
        let peers = status.peers.iter().filter(|peer| peer.network == Some(of.number));
        peers.map(|peer| member(now, of, peer, traffic)).collect::<Vec<_>>()
    };
    let configured = || {
        let peers = status.peers.iter().filter(|peer| peer.source != PeerSource::Log);
        peers.map(|peer| static_peer(now, peer, traffic)).collect::<Vec<_>>()
    };
    Ok(match wanted {
        Report::Status => api::Status {
            daemon: api::Daemon { version: env!("CARGO_PKG_VERSION").to_owned(), pid: std::process::id(), started },
            networks: status.networks.iter().map(|report| network(now, report, members(report))).collect(),
            static_peers: configured(),
            health: status.health.iter().map(|item| health(status, item)).collect(),
        }
        .into(),
        Report::Peers => {
            api::Peers { peers: status.networks.iter().flat_map(members).collect(), static_peers: configured() }.into()
        }
        Report::Ip(None) => {
            let own = status.networks.first().ok_or_else(not_joined)?;
            api::Ip { name: own.self_name.clone(), ips: own.self_addresses.clone() }.into()
        }
        Report::Ip(Some(name)) => {
            let peer = status.peers.first().ok_or_else(|| {
                ApiError::new(Exit::NotFound, "no-such-peer", format!("no peer {name}"))
                    .with_hint("`ginnel peers` shows them")
            })?;
            api::Ip { name: peer.name.clone(), ips: peer.addresses.iter().map(|(ip, _)| *ip).collect() }.into()
        }
        Report::Servers => servers(now, roster()?).into(),
        Report::Admins => admins(roster()?).into(),
        Report::Policy => policy(roster()?).into(),
    })
}

fn not_joined() -> ApiError {
    ApiError::new(Exit::NotJoined, "not-joined", "this machine is in no network")
        .with_hint("`ginnel up INVITE` joins one")
}

fn servers(now: Instant, roster: Roster) -> api::ServerList {
    let server = |server: RosterServer| {
        let report = server.report;
        api::ServerSummary {
            addresses: server.addresses,
            key: server.key,
            role: match server.role {
                ServerRole::Sequencer => api::ServerRole::Sequencer,
                ServerRole::Mirror => api::ServerRole::Mirror,
            },
            connected: report.as_ref().is_some_and(|report| report.connected),
            last_contact: report.as_ref().and_then(|report| report.last_contact).map(|at| timestamp(now, at)),
            trouble: report.and_then(|report| report.trouble),
        }
    };
    api::ServerList { network: roster.network, servers: roster.servers.into_iter().map(server).collect() }
}

fn admins(roster: Roster) -> api::AdminList {
    let admin =
        |admin: RosterAdmin| api::AdminSummary { id: admin.id, name: admin.name, here: admin.holder == Holder::Here };
    let admins = roster.admins.into_iter().map(admin).collect();
    api::AdminList { network: roster.network, threshold: roster.threshold, admins }
}

fn policy(roster: Roster) -> api::Policy {
    let delegate = |delegate: RosterDelegate| api::Delegate {
        peer: delegate.name,
        id: delegate.id,
        rights: [(Rights::LEASE, api::Right::Leases), (Rights::INVITE, api::Right::Invites)]
            .into_iter()
            .filter(|(right, _)| delegate.rights.contains(*right))
            .map(|(_, right)| right)
            .collect(),
    };
    api::Policy {
        network: roster.network,
        strict: roster.freshness == Freshness::Strict,
        delegates: roster.delegates.into_iter().map(delegate).collect(),
    }
}

fn up_network(up: UpReport, status: &Status) -> api::UpNetwork {
    let report = status.networks.iter().find(|network| network.id == up.network_id);
    api::UpNetwork {
        outcome: match up.outcome {
            UpOutcome::Founded => api::UpOutcome::Founded,
            UpOutcome::Joined => api::UpOutcome::Joined,
            UpOutcome::Started => api::UpOutcome::Started,
            UpOutcome::Unchanged => api::UpOutcome::Unchanged,
        },
        network: up.network,
        network_id: up.network_id,
        name: up.name,
        ips: up.addresses,
        state: report.map_or(api::NetworkState::Unknown, |network| state(network.state)),
    }
}

fn up_reply(first: api::UpNetwork, others: Vec<api::UpNetwork>, status: &Status) -> api::Reply {
    let started: Vec<&str> = std::iter::once(&first).chain(&others).map(|up| up.network_id.as_str()).collect();
    let concerns = |item: &&HealthReport| {
        let of = item.network.and_then(|number| status.networks.iter().find(|network| network.number == number));
        of.is_none_or(|network| started.contains(&network.id.as_str()))
    };
    let warnings = status.health.iter().filter(concerns).map(|item| health(status, item)).collect();
    api::Up { first, others, warnings }.into()
}

fn bad_answer() -> ApiError {
    ApiError::new(Exit::Failed, "bad-answer", "the daemon gave an answer to another question")
}

fn network(now: Instant, report: &NetworkReport, peers: Vec<api::Peer>) -> api::Network {
    let range = |(ip, prefix): (IpAddr, u8)| format!("{ip}/{prefix}");
    let server = report.servers.iter().find(|server| server.connected).or_else(|| report.servers.first());
    api::Network {
        name: report.name.clone(),
        id: report.id.clone(),
        state: state(report.state),
        range4: report.range4.map(range),
        range6: Some(range(report.range6)),
        server: server.map(|server| api::ServerReport {
            addr: server.address.clone(),
            connected: server.connected,
            last_contact: server.last_contact.map(|at| timestamp(now, at)),
        }),
        own: api::OwnNode {
            name: report.self_name.clone(),
            id: report.self_id.clone(),
            ips: report.self_addresses.clone(),
        },
        peers,
    }
}

fn member(now: Instant, of: &NetworkReport, peer: &PeerReport, traffic: &Traffic) -> api::Peer {
    let counted = traffic.peers.get(&peer.id).copied().unwrap_or_default();
    api::Peer {
        name: peer.name.clone(),
        network: of.name.clone(),
        id: peer.key.clone(),
        ips: peer.addresses.iter().map(|(ip, _)| *ip).collect(),
        online: peer.path.is_some(),
        path: peer.path.as_ref().map_or(api::PathReport::NONE, |path| path_report(path, Some(now))),
        rx_bytes: counted.rx_bytes,
        tx_bytes: counted.tx_bytes,
        last_handshake: peer.last_handshake.map(|at| timestamp(now, at)),
        last_seen: counted.last_received.map(|at| timestamp(now, at)),
        waiting: peer.waiting.clone(),
    }
}

fn static_peer(now: Instant, peer: &PeerReport, traffic: &Traffic) -> api::StaticPeer {
    let counted = traffic.peers.get(&peer.id).copied().unwrap_or_default();
    api::StaticPeer {
        name: peer.name.clone(),
        public_key: peer.key.clone(),
        kind: match peer.source {
            PeerSource::ConfigWireGuard => api::PeerKind::Wireguard,
            PeerSource::ConfigGinnel | PeerSource::Log => api::PeerKind::Ginnel,
        },
        allowed_ips: peer.addresses.iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect(),
        online: peer.path.is_some(),
        path: peer.path.as_ref().map_or(api::PathReport::NONE, |path| path_report(path, Some(now))),
        rx_bytes: counted.rx_bytes,
        tx_bytes: counted.tx_bytes,
        last_handshake: peer.last_handshake.map(|at| timestamp(now, at)),
        last_seen: counted.last_received.map(|at| timestamp(now, at)),
    }
}

fn path_report(report: &PathReport, now: Option<Instant>) -> api::PathReport {
    let relayed = report.kind == PathKind::TurnUdp;
    let remote = canonical(report.path.remote);
    api::PathReport {
        kind: match report.kind {
            PathKind::Lan => api::PathKind::Lan,
            PathKind::Direct4 => api::PathKind::Direct4,
            PathKind::Direct6 => api::PathKind::Direct6,
            PathKind::TurnUdp => api::PathKind::TurnUdp,
        },
        endpoint: Some(remote),
        relay: match report.path.local {
            Local::Socket(_) => relayed.then_some(remote),
            Local::Relay(_) => report.relay,
        },
        rtt_ms: report.rtt.map(millis),
        since_s: report.since.zip(now).map(|(since, now)| now.saturating_duration_since(since).as_secs()),
    }
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

const fn state(state: NetworkState) -> api::NetworkState {
    match state {
        NetworkState::Joining => api::NetworkState::Starting,
        NetworkState::Running => api::NetworkState::Running,
        NetworkState::NoServer => api::NetworkState::NoServer,
        NetworkState::Stopped => api::NetworkState::Stopped,
        NetworkState::Revoked => api::NetworkState::Error,
    }
}

/// What the kernel does not route, with its network; nothing for a network that is not among those `shown`.
pub fn unset(networks: &[NetworkReport], shown: &[api::Network], unset: &Unset) -> Option<api::Health> {
    let of = networks.iter().find(|network| unset.own.is_some_and(|own| network.self_addresses.contains(&own)));
    if of.is_some_and(|network| shown.iter().all(|other| other.id != network.id)) {
        return None;
    }
    let text = of.map_or_else(|| unset.text.clone(), |network| format!("{}: {}", network.name, unset.text));
    Some(api::Health {
        network: of.map(|network| network.name.clone()),
        code: "route-clash".to_owned(),
        severity: api::Severity::Warning,
        text,
        fix: Some("the peer is still reached by its other address".to_owned()),
    })
}

fn health(status: &Status, report: &HealthReport) -> api::Health {
    let of = report.network.and_then(|number| status.networks.iter().find(|network| network.number == number));
    let severity = if report.code == "not-a-member" { api::Severity::Error } else { api::Severity::Warning };
    api::Health {
        network: of.map(|network| network.name.clone()),
        code: report.code.to_owned(),
        severity,
        text: report.text.clone(),
        fix: (!report.fix.is_empty()).then(|| report.fix.clone()),
    }
}

fn invite_summary(invite: InviteReport) -> api::InviteSummary {
    api::InviteSummary {
        id: invite.id,
        by: invite.by.join(", "),
        created: Timestamp::from_unix(invite.created),
        expires: Timestamp::from_unix(invite.expires),
        state: match invite.state {
            InviteState::Open => api::InviteState::Open,
            InviteState::Used => api::InviteState::Used,
            InviteState::Void => api::InviteState::Revoked,
            InviteState::Expired => api::InviteState::Expired,
        },
        used_by: invite.used_by,
    }
}

fn log_entry(line: LogLine) -> api::LogEntry {
    let (verdict, reason) = match line.verdict {
        Ok(()) => (api::Verdict::Applied, None),
        Err(reason) => (api::Verdict::Refused, Some(reason)),
    };
    api::LogEntry {
        sequence: line.sequence,
        time: Timestamp::from_unix(line.time),
        kind: line.kind,
        subject: line.subject,
        by: line.by.join(", "),
        verdict,
        reason,
    }
}

fn timestamp(now: Instant, at: Instant) -> Timestamp {
    Timestamp::from_unix(clock::wall().saturating_sub(now.saturating_duration_since(at)).as_secs())
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(at: u32) -> ginnel_node::NetworkNumber {
        ginnel_node::NetworkNumber(at)
    }

    /// A network in which this machine has one address, with its number at the end.
    fn network(at: u8, name: &str) -> NetworkReport {
        NetworkReport {
            number: number(at.into()),
            name: name.to_owned(),
            id: format!("id of {name}"),
            state: NetworkState::Running,
            range4: None,
            range6: (IpAddr::from([0; 16]), 64),
            self_name: "desk".to_owned(),
            self_id: String::new(),
            self_addresses: vec![IpAddr::from([100, 64, 0, at])],
            admin: ginnel_node::Administration::Member,
            servers: Vec::new(),
            log_length: 2,
        }
    }

    #[test]
    fn a_route_that_clashes_is_told_with_its_network() {
        let networks = [network(1, "home"), network(2, "work")];
        let shown = networks.each_ref().map(|report| super::network(Instant::ZERO, report, Vec::new()));
        let told = |shown: &[api::Network], own: Option<[u8; 4]>| {
            let unset = Unset { own: own.map(IpAddr::from), text: "a route".to_owned() };
            super::unset(&networks, shown, &unset).map(|item| (item.network, item.text))
        };
        let of = |name: &str| Some((Some(name.to_owned()), format!("{name}: a route")));
        assert_eq!(told(&shown, Some([100, 64, 0, 1])), of("home"));
        assert_eq!(told(&shown, Some([100, 64, 0, 2])), of("work"));
        assert_eq!(told(&shown[..1], Some([100, 64, 0, 2])), None, "nobody asked for it");
        // Peers of the configuration file are in none.
        assert_eq!(told(&shown, None), Some((None, "a route".to_owned())));
    }

    #[test]
    fn starting_one_network_tells_what_is_wrong_with_it_and_with_the_machine_alone() {
        let item = |network: Option<u32>| HealthReport {
            network: network.map(number),
            code: "clock",
            text: String::new(),
            fix: String::new(),
        };
        let status = Status {
            networks: vec![network(1, "home"), network(2, "work")],
            peers: Vec::new(),
            candidates: Vec::new(),
            health: vec![item(Some(1)), item(Some(2)), item(None)],
        };
        let up = UpReport {
            outcome: UpOutcome::Started,
            network: "work".to_owned(),
            network_id: "id of work".to_owned(),
            name: "desk".to_owned(),
            addresses: Vec::new(),
        };
        let api::Reply::Up(document) = up_reply(up_network(up, &status), Vec::new(), &status) else { panic!() };
        let told: Vec<Option<&str>> = document.body.warnings.iter().map(|item| item.network.as_deref()).collect();
        assert_eq!(told, [Some("work"), None]);
    }

    #[test]
    fn each_cause_that_can_be_told_has_a_code_of_its_own() {
        let refused = |asked: &api::Request, code| {
            failure(asked, Failure { code, message: String::new(), hint: String::new() }).unwrap_err()
        };
        let peer = api::Request::Revoke(api::RevokeRequest { peer: "laptop".into() });
        let invite = api::Request::InviteRevoke(api::InviteRevokeRequest { id: "k5".into() });
        let server = api::Request::ServerRemove(api::ServerRequest { server: "a1".into() });
        let admin = api::Request::AdminRemove(api::AdminRequest { peer: "desk".into() });
        for (asked, code) in [
            (&peer, "no-such-peer"),
            (&invite, "no-such-invite"),
            (&server, "no-such-server"),
            (&admin, "no-such-admin"),
        ] {
            let error = refused(asked, FailureCode::NoSuch);
            assert_eq!((error.code.as_str(), error.exit), (code, Exit::NotFound));
        }
        assert_eq!(refused(&admin, FailureCode::Denied).code, "not-an-admin");
        let up = |ticket: Option<&str>| {
            let invite_or_founding = ticket.map(|ticket| api::Secret::from(ticket.to_owned()));
            api::Request::Up(api::UpRequest { invite_or_founding, ..api::UpRequest::default() })
        };
        assert_eq!(refused(&up(Some("ginnel-invite-x")), FailureCode::NotJoined).code, "invite-not-open");
        assert_eq!(refused(&up(None), FailureCode::NotJoined).code, "not-joined");
    }

    #[test]
    fn a_delegate_without_rights_loses_them() {
        let delegate = |rights| rights_of(&api::DelegateRequest { peer: "nas".into(), rights });
        assert_eq!(delegate(vec![api::Right::Leases, api::Right::Invites]), Some(Rights::ALL));
        assert_eq!(delegate(vec![api::Right::Invites, api::Right::Invites]), Some(Rights::INVITE));
        assert_eq!(delegate(Vec::new()), None);
    }
}
