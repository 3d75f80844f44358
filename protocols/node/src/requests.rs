//! Requests of the local API.

use std::net::IpAddr;
use std::time::Duration;

use ginnel_forward::{PeerId, Shields};
use ginnel_membership::build::{Charter, found, invite_record, revoke_record, void_record};
use ginnel_membership::state::Standing;
use ginnel_membership::{Entry, Founding, Invite, MemberKey, Name, Pasted, Record, Rights, SignedRecord, SigningKey};
use ginnel_time::Instant;
use ginnel_tunnel::StaticSecret;

use crate::govern::refs;
use crate::io::{Failure, FailureCode, Output, Reply, Request, RequestId, UpOutcome};
use crate::network::Network;
use crate::node::Node;
use crate::recent::Recent;
use crate::report::{InviteReport, InviteState, LogLine};
use crate::saved::{SavedNetwork, SavedShields, Secret, Stage, Switch};
use crate::waiting::{Waiting, Wish};

impl Node {
    pub(crate) fn handle_request(&mut self, now: Instant, id: RequestId, request: Request) {
        let outcome = match request {
            Request::Up { ticket, name, network, shields } => self.up(now, id, ticket, name, network, shields),
            Request::Down => self.down(now).map(Some),
            Request::Leave => self.leave(now, id),
            Request::Ping { peer, timeout } => {
                self.find_peer(&peer).and_then(|peer| self.ping(now, id, peer, timeout)).map(|()| None)
            }
            Request::Invite { expires, name } => self.invite(now, id, expires, name),
            Request::Invites => self.invites(now).map(Some),
            Request::VoidInvite { id: invite } => self.void_invite(now, id, &invite),
            Request::Revoke { peer } => self.revoke(now, id, &peer),
            Request::Log => self.log().map(Some),
            Request::ServerAdd { founding } => self.server_add(now, id, &founding),
            Request::ServerRemove { server } => self.server_remove(now, id, &server),
            Request::ServerPromote { server } => self.server_promote(now, id, &server),
            Request::AdminAdd { peer } => self.admin_add(now, id, &peer),
            Request::AdminRemove { peer } => self.admin_remove(now, id, &peer),
            Request::AdminThreshold { threshold } => self.admin_threshold(now, id, threshold),
            Request::Cosign { proposal } => self.cosign(now, id, &proposal),
            Request::Policy { strict, delegate } => self.set_policy(now, id, strict, delegate),
            Request::Checkpoint => self.checkpoint(now, id),
            Request::RotateKeys => self.rotate_keys(now, id),
        };
        match outcome {
            Ok(Some(reply)) => self.outputs.push_back(Output::Reply { id, reply: Ok(reply) }),
            Ok(None) => {}
            Err(failure) => self.outputs.push_back(Output::Reply { id, reply: Err(failure) }),
        }
    }

    fn up(
        &mut self,
        now: Instant,
        id: RequestId,
        ticket: Option<String>,
        name: Option<String>,
        title: Option<String>,
        shields: Option<Shields>,
    ) -> Result<Option<Reply>, Failure> {
        let wish = name.as_deref().map(usable_name).transpose()?;
        if let Some(text) = ticket {
            let pasted: Pasted = text.trim().parse().map_err(|error: ginnel_membership::PasteError| {
                Failure::new(FailureCode::Usage, error.to_string(), "paste the whole string, as it was printed")
            })?;
            self.take_ticket(now, pasted, wish.as_ref(), title.as_deref())?;
        }
        let network = self.network.as_mut().ok_or_else(not_joined)?;
        if let Some(refused) = &network.refused {
            return Err(Failure::new(
                FailureCode::NotJoined,
                refused.clone(),
                "`ginnel leave`, then join with an invite",
            ));
        }
        let before = std::mem::replace(&mut network.saved.switch, Switch::Up);
        if let Some(wish) = wish.filter(|_| !network.is_member()) {
            network.saved.wish = wish.as_str().to_owned();
        }
        match shields {
            Some(Shields::Up) => network.saved.shields = SavedShields::Up,
            Some(Shields::Down) => network.saved.shields = SavedShields::Down,
            None => {}
        }
        let member = network.is_member();
        if !member {
            self.wait(id, now + UP_PATIENCE, Wish::Up)?;
        }
        self.persist();
        self.sync_members();
        self.start_network(now);
        let outcome = if before == Switch::Down { UpOutcome::Started } else { UpOutcome::Unchanged };
        if member { self.up_reply(outcome).map(Some) } else { Ok(None) }
    }

    pub(crate) fn up_reply(&self, outcome: UpOutcome) -> Result<Reply, Failure> {
        let network = self.network.as_ref().ok_or_else(not_joined)?;
        let member = network.state.member(&network.key()).ok_or_else(not_joined)?;
        Ok(Reply::Up {
            outcome,
            network: network.title(),
            network_id: network.saved.id().to_string(),
            name: member.name().as_str().to_owned(),
            addresses: network.own_addresses(),
        })
    }

    fn take_ticket(
        &mut self,
        now: Instant,
        pasted: Pasted,
        wish: Option<&Name>,
        title: Option<&str>,
    ) -> Result<(), Failure> {
        if let Some(network) = &self.network {
            let same = match (&pasted, &network.saved.stage) {
                (Pasted::Invite(invite), Stage::Joining { invite: held }) => {
                    held.signing().invite_key() == invite.invite_key()
                }
                (Pasted::Invite(invite), Stage::Member | Stage::Founding { .. }) => {
                    invite.network() == network.saved.id()
                }
                (Pasted::Founding(founding), Stage::Founding { .. } | Stage::Joining { .. } | Stage::Member) => {
                    network.saved.founded_with.as_ref() == Some(founding.token().as_bytes())
                }
            };
            if same {
                return Ok(());
            }
            if !matches!(network.saved.stage, Stage::Joining { .. }) {
                let text = format!("this machine is in the network {} already", network.title());
                return Err(Failure::new(
                    FailureCode::Usage,
                    text,
                    "`ginnel leave` first; one network at a time for now",
                ));
            }
        }
        let saved = match pasted {
            Pasted::Invite(_) if title.is_some() => {
                let text = "this is an invite to a network that has its name: --network-name is for founding one";
                return Err(Failure::new(FailureCode::Usage, text, "leave --network-name out"));
            }
            Pasted::Invite(invite) => self.joining(&invite, wish)?,
            Pasted::Founding(founding) => self.founding(&founding, wish, title)?,
        };
        if self.network.is_some() {
            // A join that has not come through gives way to the newer string.
            self.forget_network();
        }
        self.enter_network(now, saved);
        Ok(())
    }

    fn joining(&mut self, invite: &Invite, wish: Option<&Name>) -> Result<SavedNetwork, Failure> {
        // Whether it has expired is for the server to say: this machine's clock may be wrong.
        let wish = wish.or(invite.hint());
        Ok(SavedNetwork {
            id: invite.network().to_bytes(),
            servers: invite.servers().to_vec(),
            member: Secret::of_signing(&SigningKey::generate(&mut self.rng)),
            tunnel: Secret::of_tunnel(&StaticSecret::generate(&mut self.rng)),
            admin: None,
            stage: Stage::Joining { invite: Secret::of_signing(invite.key()) },
            wish: wish.map_or_else(|| self.host_name(), |name| name.as_str().to_owned()),
            switch: Switch::Up,
            shields: SavedShields::Down,
            revocations: Vec::new(),
            founded_with: None,
            recent: Recent::default(),
            time_floor: 0,
            next_keys: None,
        })
    }

    fn founding(
        &mut self,
        founding: &Founding,
        wish: Option<&Name>,
        title: Option<&str>,
    ) -> Result<SavedNetwork, Failure> {
        let name = Name::new(title.unwrap_or(DEFAULT_TITLE)).map_err(|error| {
            Failure::new(FailureCode::Usage, format!("the network's name cannot be used: {error}"), "choose another")
        })?;
        let server = founding.server().clone();
        let charter = Charter {
            name,
            sequencer: server.keys.sequencer(),
            servers: vec![server.clone()],
            ipv4_range: None,
            // The founding counts as the first lease, and one from the future would keep all others out: until a server
            // has told the time, an old one is claimed. The first true lease follows as soon as this machine is a member.
            now: 0,
        };
        let founded = found(&mut self.rng, charter).map_err(|error| {
            Failure::new(FailureCode::Usage, format!("the founding string cannot be used: {error}"), "")
        })?;
        Ok(SavedNetwork {
            id: founded.network.to_bytes(),
            servers: vec![server],
            member: Secret::of_signing(&SigningKey::generate(&mut self.rng)),
            tunnel: Secret::of_tunnel(&StaticSecret::generate(&mut self.rng)),
            admin: Some(Secret::of_signing(&founded.admin)),
            stage: Stage::Founding {
                token: *founding.token().as_bytes(),
                genesis: founded.genesis,
                invite: Secret::of_signing(&SigningKey::generate(&mut self.rng)),
            },
            wish: wish.map_or_else(|| self.host_name(), |name| name.as_str().to_owned()),
            switch: Switch::Up,
            shields: SavedShields::Down,
            revocations: Vec::new(),
            founded_with: Some(*founding.token().as_bytes()),
            recent: Recent::default(),
            time_floor: 0,
            next_keys: None,
        })
    }

    fn host_name(&self) -> String {
        Name::from_hostname(&self.hostname).as_str().to_owned()
    }

    fn down(&mut self, now: Instant) -> Result<Reply, Failure> {
        self.network.as_mut().ok_or_else(not_joined)?.saved.switch = Switch::Down;
        self.persist();
        self.stop_network(now);
        Ok(Reply::Done)
    }

    fn leave(&mut self, now: Instant, id: RequestId) -> Result<Option<Reply>, Failure> {
        let network = self.network.as_ref().ok_or_else(not_joined)?;
        if !network.is_member() || !network.is_connected() {
            let network = network.title();
            self.forget_network();
            return Ok(Some(Reply::Left { network }));
        }
        let record = revoke_record(&network.saved.id(), &network.saved.member.signing(), network.key());
        self.wait(id, now + LEAVE_PATIENCE, Wish::Leave { record })?;
        self.send_waiting(now);
        Ok(None)
    }

    fn invite(
        &mut self,
        now: Instant,
        id: RequestId,
        expires: Duration,
        name: Option<String>,
    ) -> Result<Option<Reply>, Failure> {
        let hint = name.as_deref().map(usable_name).transpose()?;
        let key = SigningKey::generate(&mut self.rng);
        let wall = self.time(now);
        let network = self.network.as_ref().ok_or_else(not_joined)?;
        let signers = match network.delegate_key(Rights::INVITE) {
            Some(delegate) if network.admin_keys().is_empty() => vec![delegate],
            Some(_) | None => self.as_admin("invite")?.1,
        };
        let end = wall.saturating_add(expires.as_secs());
        let record = invite_record(&network.saved.id(), &refs(&signers)[..], key.invite_key(), end, hint.clone());
        let servers = network.state.servers();
        let report = InviteReport {
            id: key.invite_key().to_string(),
            by: signers.iter().map(|key| key.member_key().to_string()).collect(),
            created: wall,
            expires: end,
            state: InviteState::Open,
            name,
            used_by: None,
        };
        let invite = Invite::new(servers, network.saved.id(), key, end, hint)
            .map_err(|error| Failure::new(FailureCode::Failed, error.to_string(), ""))?;
        let reply = Reply::Invite { ticket: invite.to_string(), invite: report };
        if network.delegate_key(Rights::INVITE).is_some() && network.admin_keys().is_empty() {
            return self.append(now, id, record, Some(reply));
        }
        match self.propose(now, id, record, reply)? {
            Some(Reply::Proposed { proposal, missing, what }) => {
                // The string works once the others have signed; it is told here, since nobody else has it.
                let what = format!("{what}; once signed, this string joins: {invite}");
                Ok(Some(Reply::Proposed { proposal, missing, what }))
            }
            other => Ok(other),
        }
    }

    fn invites(&self, now: Instant) -> Result<Reply, Failure> {
        let network = self.network.as_ref().ok_or_else(not_joined)?;
        let wall = self.time(now);
        Ok(Reply::Invites(network.invite_reports(wall)))
    }

    fn void_invite(&mut self, now: Instant, id: RequestId, text: &str) -> Result<Option<Reply>, Failure> {
        let (network, keys) = self.as_admin("take invites back")?;
        let mut found = network.state.invites().map(|info| info.key).filter(|key| key.to_string().starts_with(text));
        let key = found.next().filter(|_| text.len() >= MIN_ID).ok_or_else(|| {
            Failure::new(FailureCode::NoSuch, format!("no invite {text}"), "`ginnel invite list` shows them")
        })?;
        if found.next().is_some() {
            return Err(Failure::new(FailureCode::Usage, format!("{text} fits several invites"), "give more digits"));
        }
        let record = void_record(&network.saved.id(), &refs(&keys)[..], key);
        drop(found);
        self.propose(now, id, record, Reply::Done)
    }

    fn revoke(&mut self, now: Instant, id: RequestId, text: &str) -> Result<Option<Reply>, Failure> {
        let (network, keys) = self.as_admin("revoke members")?;
        let (key, name) = network.find_member(text).ok_or_else(|| no_peer(text))?;
        if key == network.key() {
            return Err(Failure::new(FailureCode::Usage, "that is this machine", "use `ginnel leave`"));
        }
        let record = revoke_record(&network.saved.id(), &refs(&keys)[..], key);
        self.propose(now, id, record, Reply::Revoked { name, id: key.to_string() })
    }

    /// Puts a revocation into effect and has it ordered.
    pub(crate) fn append_revocation(
        &mut self,
        now: Instant,
        id: RequestId,
        record: Vec<u8>,
        reply: Reply,
    ) -> Result<Option<Reply>, Failure> {
        let done = self.revoke_here(now, &record, None).is_ok();
        if done && !self.network.as_ref().is_some_and(Network::is_connected) {
            // It holds here and wherever it is handed on to; a server orders it when there is one.
            return Ok(Some(reply));
        }
        self.append(now, id, record, Some(reply))
    }

    fn log(&self) -> Result<Reply, Failure> {
        let network = self.network.as_ref().ok_or_else(not_joined)?;
        Ok(Reply::Log(network.log.iter().cloned().collect()))
    }

    pub(crate) fn append(
        &mut self,
        now: Instant,
        id: RequestId,
        record: Vec<u8>,
        reply: Option<Reply>,
    ) -> Result<Option<Reply>, Failure> {
        self.wait(id, now + APPEND_PATIENCE, Wish::Append { record, reply })?;
        self.send_waiting(now);
        Ok(None)
    }

    fn wait(&mut self, request: RequestId, deadline: Instant, wish: Wish) -> Result<(), Failure> {
        let network = self.network.as_mut().ok_or_else(not_joined)?;
        if network.waiting.len() >= MAX_WAITING {
            return Err(Failure::new(FailureCode::Failed, "too many requests wait for the server", "try again later"));
        }
        network.waiting.push(Waiting { request, deadline, wish });
        Ok(())
    }

    /// The peer by name, full name, address or the start of its key.
    pub(crate) fn find_peer(&self, text: &str) -> Result<PeerId, Failure> {
        let ip: Option<IpAddr> = text.parse().ok();
        let short = text.split('.').next().unwrap_or(text);
        let by_name = self.peers.values().find(|peer| peer.profile.name == text || peer.profile.name == short);
        let by_ip = || {
            self.peers.values().find(|peer| ip.is_some_and(|ip| peer.profile.allowed.contains(&crate::node::host(ip))))
        };
        let by_key = || {
            self.peers.values().find(|peer| {
                text.len() >= MIN_ID && peer.profile.member.is_some_and(|member| member.to_string().starts_with(text))
            })
        };
        let found = if ip.is_some() { by_ip() } else { by_name.or_else(by_key) };
        found.map(|peer| peer.id).ok_or_else(|| no_peer(text))
    }
}

impl Network {
    /// The network's name, or the start of its id while the genesis is unknown.
    pub(crate) fn title(&self) -> String {
        self.state.name().map_or_else(|| self.saved.id().to_string()[..8].to_owned(), |name| name.as_str().to_owned())
    }

    /// The live member by name, address or the start of its key.
    pub(crate) fn find_member(&self, text: &str) -> Option<(MemberKey, String)> {
        let ip: Option<IpAddr> = text.parse().ok();
        let short = text.split('.').next().unwrap_or(text);
        // A revocation that waits to be ordered can be asked for again.
        let mut live = self.state.members().filter(|member| member.standing() == Standing::Live);
        live.find(|member| match ip {
            Some(ip) => member.ipv4().map(IpAddr::V4) == Some(ip) || IpAddr::V6(member.ipv6()) == ip,
            None => {
                member.name().as_str() == short || (text.len() >= MIN_ID && member.key().to_string().starts_with(text))
            }
        })
        .map(|member| (member.key(), member.name().as_str().to_owned()))
    }
}

/// One entry of the log in words.
pub(crate) fn describe(entry: &Entry, verdict: Result<(), String>) -> LogLine {
    let record = SignedRecord::decode(&entry.record);
    let (kind, subject) = match record.as_ref().map(SignedRecord::record) {
        Ok(record) => describe_record(record),
        Err(error) => ("unreadable", error.to_string()),
    };
    let by = record.as_ref().map(|record| record.signers().map(ToString::to_string).collect()).unwrap_or_default();
    LogLine { sequence: entry.sequence, time: entry.time, kind: kind.to_owned(), subject, by, verdict }
}

/// A record's kind, and whom it concerns, in words.
pub(crate) fn describe_record(record: &Record) -> (&'static str, String) {
    match record {
        Record::Genesis(body) => ("genesis", body.name.as_str().to_owned()),
        Record::Invite(body) => ("invite", body.key.to_string()),
        Record::InviteVoid(body) => ("invite-void", body.key.to_string()),
        Record::Member(body) => ("member", format!("{} {}", body.name, body.member)),
        Record::MemberUpdate(body) => ("member-update", format!("{} {}", body.name, body.member)),
        Record::Revoke(body) => ("revoke", body.member.to_string()),
        Record::Lease(body) => ("lease", format!("{} entries", body.length)),
        Record::AdminChange(body) => {
            ("admin-change", format!("{} of {} admins must agree", body.threshold, body.admins.len()))
        }
        Record::Servers(body) => ("servers", format!("{} servers, ordered by {}", body.servers.len(), body.sequencer)),
        Record::Policy(body) => ("policy", format!("{} delegates", body.delegates.len())),
        Record::Checkpoint(body) => ("checkpoint", format!("{} entries", body.length)),
    }
}

fn usable_name(text: &str) -> Result<Name, Failure> {
    let name = Name::new(text).map_err(|error| {
        let hint = "use lower-case letters, digits and hyphens";
        Failure::new(FailureCode::Usage, format!("the name {text:?} cannot be used: {error}"), hint)
    })?;
    if name.is_reserved() {
        let text = format!("the name {name} is reserved, so that it cannot be mistaken for something else");
        return Err(Failure::new(FailureCode::Usage, text, "choose another one with --name"));
    }
    Ok(name)
}

pub(crate) fn not_joined() -> Failure {
    Failure::new(FailureCode::NotJoined, "this machine is in no network", "`ginnel up INVITE` joins one")
}

pub(crate) fn no_peer(text: &str) -> Failure {
    Failure::new(FailureCode::NoSuch, format!("no peer {text}"), "`ginnel peers` shows them")
}

/// The name of a network whose founder gave none.
const DEFAULT_TITLE: &str = "home";
const UP_PATIENCE: Duration = Duration::from_secs(15);
const APPEND_PATIENCE: Duration = Duration::from_secs(8);
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);
const MAX_WAITING: usize = 64;
/// Digits of a key or id that a user must give at least.
const MIN_ID: usize = 4;
