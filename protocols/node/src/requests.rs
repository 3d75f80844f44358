//! Requests of the local API.

use std::time::Duration;

use ginnel_membership::build::{invite_record, revoke_record, void_record};
use ginnel_membership::{Entry, Invite, Name, Record, Rights, SignedRecord, SigningKey};
use ginnel_signal_proto::server::{FORWARD_PATIENCE, TAKEOVER_PATIENCE};
use ginnel_time::Instant;

use crate::clock::in_words;
use crate::govern::refs;
use crate::io::{Failure, FailureCode, Output, Reply, Request, RequestId};
use crate::lookup::no_peer;
use crate::network::Network;
use crate::networks::{MIN_ID, NetworkNumber, not_joined};
use crate::node::Node;
use crate::report::{InviteReport, InviteState, LogLine};
use crate::saved::Switch;
use crate::up::UpSettings;
use crate::waiting::{Waiting, Wish};

impl Node {
    pub(crate) fn handle_request(&mut self, now: Instant, id: RequestId, wanted: Option<&str>, request: Request) {
        match self.request(now, id, wanted, request) {
            Ok(Some(reply)) => self.outputs.push_back(Output::Reply { id, reply: Ok(reply) }),
            Ok(None) => {}
            Err(failure) => self.outputs.push_back(Output::Reply { id, reply: Err(failure) }),
        }
    }

    /// Carries a request out; the answer comes later where there is none.
    fn request(
        &mut self,
        now: Instant,
        id: RequestId,
        wanted: Option<&str>,
        request: Request,
    ) -> Result<Option<Reply>, Failure> {
        match request {
            Request::Up { ticket, name, network, shields, range, ipv4 } => {
                let wish = name.as_deref().map(usable_name).transpose()?;
                let settings = UpSettings { wish, title: network, shields, range, ipv4 };
                self.up(now, id, wanted, ticket, &settings)
            }
            Request::Down => self.down(now, wanted).map(Some),
            Request::Leave => self.networks.choose_strictly(wanted).and_then(|at| self.leave(now, id, at)),
            Request::Ping { peer, timeout } => {
                self.find_peer(wanted, &peer).and_then(|peer| self.ping(now, id, peer, timeout)).map(|()| None)
            }
            Request::Invite { expires, name } => {
                self.networks.choose(wanted).and_then(|at| self.invite(now, id, at, expires, name))
            }
            Request::Invites => self.networks.choose(wanted).and_then(|at| self.invites(now, at)).map(Some),
            Request::VoidInvite { id: invite } => {
                self.networks.choose(wanted).and_then(|at| self.void_invite(now, id, at, &invite))
            }
            Request::Revoke { peer } => {
                self.network_of_lost_member(wanted, &peer).and_then(|at| self.revoke(now, id, at, &peer))
            }
            Request::Log => self.networks.choose(wanted).and_then(|at| self.log(at)).map(Some),
            Request::ServerAdd { founding } => {
                self.networks.choose(wanted).and_then(|at| self.server_add(now, id, at, &founding))
            }
            Request::ServerRemove { server } => {
                self.networks.choose(wanted).and_then(|at| self.server_remove(now, id, at, &server))
            }
            Request::ServerPromote { server } => {
                self.networks.choose(wanted).and_then(|at| self.server_promote(now, id, at, &server))
            }
            Request::AdminAdd { peer } => {
                self.network_of_member(wanted, &peer).and_then(|at| self.admin_add(now, id, at, &peer))
            }
            Request::AdminRemove { peer } => {
                self.networks.choose(wanted).and_then(|at| self.admin_remove(now, id, at, &peer))
            }
            Request::AdminThreshold { threshold } => {
                self.networks.choose(wanted).and_then(|at| self.admin_threshold(now, id, at, threshold))
            }
            Request::Cosign { proposal } => self.cosign(now, id, wanted, &proposal),
            Request::Policy { strict, delegate } => {
                self.networks.choose(wanted).and_then(|at| self.set_policy(now, id, at, strict, delegate))
            }
            Request::Checkpoint => self.networks.choose(wanted).and_then(|at| self.checkpoint(now, id, at)),
            Request::RotateKeys => self.networks.choose(wanted).and_then(|at| self.rotate_keys(now, id, at)),
        }
    }

    /// Stops the named network, or all of them: who names none wants this machine to be off.
    fn down(&mut self, now: Instant, wanted: Option<&str>) -> Result<Reply, Failure> {
        let numbers = match wanted {
            Some(_) => vec![self.networks.choose(wanted)?],
            None if self.networks.len() == 0 => return Err(not_joined()),
            None => self.networks.numbers(),
        };
        let mut stopped = Vec::new();
        for at in &numbers {
            let Some(network) = self.networks.get_mut(*at) else { continue };
            if std::mem::replace(&mut network.saved.switch, Switch::Down) == Switch::Up {
                stopped.push(network.title());
            }
        }
        self.persist();
        for at in numbers {
            self.stop_network(now, at);
        }
        Ok(Reply::Stopped(stopped))
    }

    fn leave(&mut self, now: Instant, id: RequestId, at: NetworkNumber) -> Result<Option<Reply>, Failure> {
        let network = self.networks.get(at).ok_or_else(not_joined)?;
        if !network.is_member() || !network.is_connected() {
            let network = network.title();
            self.forget_network(at);
            return Ok(Some(Reply::Left { network }));
        }
        let record = revoke_record(&network.saved.id(), &network.saved.member.signing(), network.key());
        self.wait(id, at, now + LEAVE_PATIENCE, Wish::Leave { record })?;
        self.send_waiting(now, at);
        Ok(None)
    }

    fn invite(
        &mut self,
        now: Instant,
        id: RequestId,
        at: NetworkNumber,
        expires: Duration,
        name: Option<String>,
    ) -> Result<Option<Reply>, Failure> {
        let hint = name.as_deref().map(usable_name).transpose()?;
        let key = SigningKey::generate(&mut self.rng);
        let own = self.stamper.unix_seconds(now);
        let network = self.networks.get(at).ok_or_else(not_joined)?;
        let (start, believed) = (network.time_to_invite(now, own), network.believed(now, own));
        let lost = believed.saturating_sub(start);
        if lost > 0 && lost >= expires.as_secs() {
            let behind = in_words(believed.saturating_sub(own));
            let text =
                format!("this machine's clock is {behind} behind the server's: the invite would be over already");
            return Err(Failure::new(FailureCode::Failed, text, "set the clock, for instance by NTP"));
        }
        let signers = match network.delegate_key(Rights::INVITE) {
            Some(delegate) if network.admin_keys().is_empty() => vec![delegate],
            Some(_) | None => self.as_admin(at, "invite")?.1,
        };
        let end = start.saturating_add(expires.as_secs());
        let record = invite_record(&network.saved.id(), &refs(&signers)[..], key.invite_key(), end, hint.clone());
        let servers = network.state.servers();
        let report = InviteReport {
            id: key.invite_key().to_string(),
            by: signers.iter().map(|key| key.member_key().to_string()).collect(),
            created: start,
            expires: end,
            state: InviteState::Open,
            name,
            used_by: None,
        };
        let invite = Invite::new(servers, network.saved.id(), key, end, hint)
            .map_err(|error| Failure::new(FailureCode::Failed, error.to_string(), ""))?;
        let reply = Reply::Invite { ticket: invite.to_string(), network: network.title(), invite: report };
        if network.delegate_key(Rights::INVITE).is_some() && network.admin_keys().is_empty() {
            return self.append(now, id, at, record, Some(reply));
        }
        match self.propose(now, id, at, record, reply)? {
            Some(Reply::Proposed { proposal, missing, what, .. }) => {
                // The string works once the others have signed; it is told here, since nobody else has it.
                let ticket = Some(invite.to_string());
                Ok(Some(Reply::Proposed { proposal, missing, what, ticket }))
            }
            other => Ok(other),
        }
    }

    fn invites(&self, now: Instant, at: NetworkNumber) -> Result<Reply, Failure> {
        let network = self.networks.get(at).ok_or_else(not_joined)?;
        let wall = self.time(now, at);
        Ok(Reply::Invites(network.invite_reports(wall)))
    }

    fn void_invite(
        &mut self,
        now: Instant,
        id: RequestId,
        at: NetworkNumber,
        text: &str,
    ) -> Result<Option<Reply>, Failure> {
        let (network, keys) = self.as_admin(at, "take invites back")?;
        let mut found = network.state.invites().map(|info| info.key).filter(|key| key.to_string().starts_with(text));
        let key = found.next().filter(|_| text.len() >= MIN_ID).ok_or_else(|| {
            Failure::new(FailureCode::NoSuch, format!("no invite {text}"), "`ginnel invite list` shows them")
        })?;
        if found.next().is_some() {
            return Err(Failure::new(FailureCode::Usage, format!("{text} fits several invites"), "give more digits"));
        }
        let record = void_record(&network.saved.id(), &refs(&keys)[..], key);
        drop(found);
        self.propose(now, id, at, record, Reply::Done)
    }

    fn revoke(&mut self, now: Instant, id: RequestId, at: NetworkNumber, text: &str) -> Result<Option<Reply>, Failure> {
        let (network, keys) = self.as_admin(at, "revoke members")?;
        let (key, name) = network.find_member(text).ok_or_else(|| no_peer(text))?;
        if key == network.key() {
            return Err(Failure::new(FailureCode::Usage, "that is this machine", "use `ginnel leave`"));
        }
        let record = revoke_record(&network.saved.id(), &refs(&keys)[..], key);
        self.propose(now, id, at, record, Reply::Revoked { name, id: key.to_string() })
    }

    /// Puts a revocation into effect and has it ordered.
    pub(crate) fn append_revocation(
        &mut self,
        now: Instant,
        id: RequestId,
        at: NetworkNumber,
        record: Vec<u8>,
        reply: Reply,
    ) -> Result<Option<Reply>, Failure> {
        let done = self.revoke_here(now, at, &record, None).is_ok();
        if done && !self.networks.get(at).is_some_and(Network::is_connected) {
            // It holds here and wherever it is handed on to; a server orders it when there is one.
            return Ok(Some(reply));
        }
        self.append(now, id, at, record, Some(reply))
    }

    fn log(&self, at: NetworkNumber) -> Result<Reply, Failure> {
        let network = self.networks.get(at).ok_or_else(not_joined)?;
        Ok(Reply::Log { network: network.title(), lines: network.log.iter().cloned().collect() })
    }

    pub(crate) fn append(
        &mut self,
        now: Instant,
        id: RequestId,
        at: NetworkNumber,
        record: Vec<u8>,
        reply: Option<Reply>,
    ) -> Result<Option<Reply>, Failure> {
        let handover = self.networks.get(at).is_some_and(|network| network.is_handover(&record));
        let patience = if handover { HANDOVER_PATIENCE } else { APPEND_PATIENCE };
        self.wait(id, at, now + patience, Wish::Append { record, reply })?;
        self.send_waiting(now, at);
        Ok(None)
    }

    pub(crate) fn wait(
        &mut self,
        request: RequestId,
        at: NetworkNumber,
        deadline: Instant,
        wish: Wish,
    ) -> Result<(), Failure> {
        let network = self.networks.get_mut(at).ok_or_else(not_joined)?;
        if network.waiting.len() >= MAX_WAITING {
            return Err(Failure::new(FailureCode::Failed, "too many requests wait for the server", "try again later"));
        }
        network.waiting.push(Waiting { request, deadline, wish, acknowledged: None });
        Ok(())
    }
}

impl Network {
    /// What the network is called here: its own name, one with a number where another network has that; the start of its
    /// id before this machine is let in.
    pub(crate) fn title(&self) -> String {
        if let Some(alias) = &self.saved.alias {
            return alias.clone();
        }
        if self.is_pending() {
            return self.saved.id().to_string()[..8].to_owned();
        }
        self.state.name().map_or_else(|| self.saved.id().to_string()[..8].to_owned(), |name| name.as_str().to_owned())
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

/// Above the pause of a server that has just started, and above the time that a mirror holds a record for a sequencer that
/// it has lost, so that the next one can have it; below what a caller waits.
const APPEND_PATIENCE: Duration = FORWARD_PATIENCE.saturating_add(Duration::from_secs(8));
/// A mirror looks for a lost sequencer, and asks every fellow before it takes over; a second is for the ways there and back.
/// Below what a caller waits, 30 s.
const HANDOVER_PATIENCE: Duration =
    FORWARD_PATIENCE.saturating_add(TAKEOVER_PATIENCE).saturating_add(Duration::from_secs(1));
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);
const MAX_WAITING: usize = 64;
