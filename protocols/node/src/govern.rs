//! What admins decide: who the admins are, which servers there are, the rules, checkpoints. With a threshold above one a
//! record leaves this machine as a proposal, which the other admins sign in turn; the last one's machine appends it.

use ginnel_membership::build::{NewKeys, admin_change_record, checkpoint_record, policy_record, servers_record};
use ginnel_membership::record::{AdminChange, Delegate, Freshness, Policy, Rights, ServersChange};
use ginnel_membership::{Founding, MemberKey, Pasted, Proposal, Server, SignedRecord, SigningKey, TunnelKey};
use ginnel_time::Instant;
use ginnel_tunnel::StaticSecret;

use crate::io::{Failure, FailureCode, Reply, RequestId};
use crate::lookup::no_peer;
use crate::network::Network;
use crate::networks::{NetworkNumber, not_joined};
use crate::node::Node;
use crate::requests::describe_record;
use crate::saved::{NewSecrets, Secret};

impl Node {
    pub(crate) fn admin_add(
        &mut self,
        now: Instant,
        id: RequestId,
        at: NetworkNumber,
        text: &str,
    ) -> Result<Option<Reply>, Failure> {
        let (network, _) = self.as_admin(at, "add admins")?;
        let (key, name) = network.find_member(text).ok_or_else(|| no_peer(text))?;
        let mut admins: Vec<MemberKey> = network.state.admins().copied().collect();
        if admins.contains(&key) {
            return Err(Failure::new(FailureCode::Usage, format!("{name} is an admin already"), ""));
        }
        admins.push(key);
        let threshold = network.state.threshold();
        self.change_admins(now, id, at, admins, threshold)
    }

    pub(crate) fn admin_remove(
        &mut self,
        now: Instant,
        id: RequestId,
        at: NetworkNumber,
        text: &str,
    ) -> Result<Option<Reply>, Failure> {
        let (network, _) = self.as_admin(at, "remove admins")?;
        let mut admins: Vec<MemberKey> = network.state.admins().copied().collect();
        let member = network.find_member(text).map(|(key, _)| key).filter(|key| admins.contains(key));
        let by_key = || {
            let mut fits = admins.iter().filter(|key| text.len() >= MIN_DIGITS && key.to_string().starts_with(text));
            fits.next().copied().filter(|_| fits.next().is_none())
        };
        let key = member.or_else(by_key).ok_or_else(|| {
            Failure::new(FailureCode::NoSuch, format!("no admin {text}"), "`ginnel admin list` shows them")
        })?;
        admins.retain(|admin| *admin != key);
        let threshold = network.state.threshold();
        if admins.len() < usize::from(threshold) {
            let text = format!("{threshold} admins must agree, and fewer would be left");
            return Err(Failure::new(FailureCode::Usage, text, "add another one first, or lower the threshold"));
        }
        self.change_admins(now, id, at, admins, threshold)
    }

    pub(crate) fn admin_threshold(
        &mut self,
        now: Instant,
        id: RequestId,
        at: NetworkNumber,
        threshold: u8,
    ) -> Result<Option<Reply>, Failure> {
        let (network, _) = self.as_admin(at, "change the threshold")?;
        let admins: Vec<MemberKey> = network.state.admins().copied().collect();
        if threshold == 0 || usize::from(threshold) > admins.len() {
            let text = format!("the threshold lies between 1 and the number of admins, {}", admins.len());
            return Err(Failure::new(FailureCode::Usage, text, ""));
        }
        self.change_admins(now, id, at, admins, threshold)
    }

    fn change_admins(
        &mut self,
        now: Instant,
        id: RequestId,
        at: NetworkNumber,
        mut admins: Vec<MemberKey>,
        threshold: u8,
    ) -> Result<Option<Reply>, Failure> {
        let (network, keys) = self.as_admin(at, "change the admins")?;
        admins.sort_unstable();
        let change = AdminChange { number: network.state.next_admin_change(), threshold, admins };
        let record =
            admin_change_record(&network.saved.id(), &refs(&keys)[..], change).map_err(|error| unfit(&error))?;
        self.propose(now, id, at, record, Reply::Done)
    }

    pub(crate) fn server_remove(
        &mut self,
        now: Instant,
        id: RequestId,
        at: NetworkNumber,
        text: &str,
    ) -> Result<Option<Reply>, Failure> {
        let (network, _) = self.as_admin(at, "remove servers")?;
        let gone = network.find_server(text)?;
        if Some(gone.keys.sequencer()) == network.state.sequencer() {
            let text = "this server orders the log".to_owned();
            return Err(Failure::new(FailureCode::Usage, text, "`ginnel server promote` another one first"));
        }
        let servers = network.state.servers().iter().filter(|server| server.keys != gone.keys).cloned().collect();
        self.change_servers(now, id, at, servers, None)
    }

    pub(crate) fn server_promote(
        &mut self,
        now: Instant,
        id: RequestId,
        at: NetworkNumber,
        text: &str,
    ) -> Result<Option<Reply>, Failure> {
        let (network, _) = self.as_admin(at, "promote servers")?;
        let server = network.find_server(text)?;
        if Some(server.keys.sequencer()) == network.state.sequencer() {
            return Ok(Some(Reply::Done));
        }
        // The one that orders comes first in invites.
        let mut servers = network.state.servers().to_vec();
        servers.sort_by_key(|other| other.keys != server.keys);
        self.change_servers(now, id, at, servers, Some(server))
    }

    /// Replaces the list of servers; `sequencer` orders the log from there on, or the present one goes on to.
    pub(crate) fn change_servers(
        &mut self,
        now: Instant,
        id: RequestId,
        at: NetworkNumber,
        servers: Vec<Server>,
        sequencer: Option<Server>,
    ) -> Result<Option<Reply>, Failure> {
        let (network, keys) = self.as_admin(at, "change the servers")?;
        let sequencer = sequencer.map(|server| server.keys.sequencer()).or_else(|| network.state.sequencer());
        let sequencer = sequencer.ok_or_else(not_joined)?;
        let change = ServersChange { number: network.state.next_servers(), sequencer, servers };
        let record = servers_record(&network.saved.id(), &refs(&keys)[..], change).map_err(|error| unfit(&error))?;
        self.propose(now, id, at, record, Reply::Done)
    }

    pub(crate) fn set_policy(
        &mut self,
        now: Instant,
        id: RequestId,
        at: NetworkNumber,
        strict: Option<bool>,
        delegate: Option<(String, Option<Rights>)>,
    ) -> Result<Option<Reply>, Failure> {
        let (network, keys) = self.as_admin(at, "change the rules")?;
        let old = network.state.policy();
        let mut policy = Policy { number: network.state.next_policy(), ..old.clone() };
        match strict {
            Some(true) => policy.freshness = Freshness::Strict,
            Some(false) => policy.freshness = Freshness::Warn,
            None => {}
        }
        if let Some((text, rights)) = delegate {
            let (member, _) = network.find_member(&text).ok_or_else(|| no_peer(&text))?;
            policy.delegates.retain(|known| known.member != member);
            policy.delegates.extend(rights.map(|rights| Delegate { member, rights }));
            policy.delegates.sort_unstable();
        }
        if (policy.freshness, &policy.delegates) == (old.freshness, &old.delegates) {
            return Ok(Some(Reply::Done));
        }
        let record = policy_record(&network.saved.id(), &refs(&keys)[..], policy).map_err(|error| unfit(&error))?;
        self.propose(now, id, at, record, Reply::Done)
    }

    pub(crate) fn checkpoint(
        &mut self,
        now: Instant,
        id: RequestId,
        at: NetworkNumber,
    ) -> Result<Option<Reply>, Failure> {
        let (network, keys) = self.as_admin(at, "make a checkpoint")?;
        let checkpoint = network
            .state
            .make_checkpoint()
            .ok_or_else(|| Failure::new(FailureCode::Failed, "the network is too large for a checkpoint", ""))?;
        let record = checkpoint_record(&network.saved.id(), &refs(&keys)[..], checkpoint);
        self.propose(now, id, at, record, Reply::Done)
    }

    /// Adds this machine's signatures to a proposal, and appends the record when no more are missing.
    pub(crate) fn cosign(
        &mut self,
        now: Instant,
        id: RequestId,
        wanted: Option<&str>,
        text: &str,
    ) -> Result<Option<Reply>, Failure> {
        let mut proposal = Proposal::parse(text).map_err(|error| {
            Failure::new(FailureCode::Usage, error.to_string(), "paste the whole string, as it was printed")
        })?;
        // The string says which network it is for.
        let at = match self.networks.by_id(proposal.network()) {
            Some(network) => network.number,
            None if self.networks.len() == 0 => return Err(not_joined()),
            None => return Err(Failure::new(FailureCode::Usage, "the proposal is for another network", "")),
        };
        if wanted.is_some() && self.networks.choose(wanted)? != at {
            return Err(Failure::new(FailureCode::Usage, "the proposal is for another network", "leave --network out"));
        }
        let (network, keys) = self.as_admin(at, "sign proposals")?;
        // Whoever passed it on may have spoilt it.
        proposal.prune(&network.state);
        for key in &keys {
            proposal.cosign(key).map_err(|error| unfit(&error))?;
        }
        let reply = match proposal.record().revokes() {
            Some(key) => {
                let name = network.state.member(key).map(|member| member.name().as_str().to_owned());
                Reply::Revoked { name: name.unwrap_or_default(), id: key.to_string() }
            }
            None => Reply::Done,
        };
        self.propose(now, id, at, proposal.encode(), reply)
    }

    /// Appends a record that this machine has signed, or hands it out for the other admins to sign.
    pub(crate) fn propose(
        &mut self,
        now: Instant,
        id: RequestId,
        at: NetworkNumber,
        record: Vec<u8>,
        reply: Reply,
    ) -> Result<Option<Reply>, Failure> {
        let network = self.networks.get(at).ok_or_else(not_joined)?;
        let proposal = Proposal::new(network.saved.id(), &record).map_err(|error| unfit(&error))?;
        let missing = proposal.missing(&network.state);
        if missing > 0 {
            let what = SignedRecord::decode(&record).map(|signed| describe_record(signed.record())).ok();
            let what = what.map_or_else(String::new, |(kind, subject)| format!("{kind}: {subject}"));
            return Ok(Some(Reply::Proposed { proposal: proposal.to_string(), missing, what, ticket: None }));
        }
        if let Reply::Revoked { .. } = reply {
            return self.append_revocation(now, id, at, record, reply);
        }
        self.append(now, id, at, record, Some(reply))
    }

    /// Asks for new keys of this machine; they take effect when the log holds them.
    pub(crate) fn rotate_keys(
        &mut self,
        now: Instant,
        id: RequestId,
        at: NetworkNumber,
    ) -> Result<Option<Reply>, Failure> {
        let fresh = NewSecrets {
            member: Secret::of_signing(&SigningKey::generate(&mut self.rng)),
            tunnel: Secret::of_tunnel(&StaticSecret::generate(&mut self.rng)),
        };
        let network = self.networks.get_mut(at).ok_or_else(not_joined)?;
        let member = network.state.member(&network.key()).filter(|_| network.is_member()).ok_or_else(not_joined)?;
        // Keys that were asked for and did not come through are asked for again.
        let next = network.saved.next_keys.get_or_insert(fresh).clone();
        let tunnel = TunnelKey::from_bytes(next.tunnel.tunnel().public().to_bytes());
        let number = member.update_number().saturating_add(1);
        let record = ginnel_membership::build::update_record(
            &network.saved.id(),
            &network.saved.member.signing(),
            number,
            member.wish().clone(),
            member.capabilities(),
            NewKeys::Both(&next.member.signing(), tunnel),
        );
        // Before the record leaves: it kills the present keys.
        self.persist();
        self.append(now, id, at, record, Some(Reply::Done))
    }

    /// The network and the keys with which this machine may sign for it.
    pub(crate) fn as_admin(&self, at: NetworkNumber, what: &str) -> Result<(&Network, Vec<SigningKey>), Failure> {
        let network = self.networks.get(at).ok_or_else(not_joined)?;
        let keys = network.admin_keys();
        if keys.is_empty() {
            let text = format!("this machine may not {what}: it holds no admin key");
            return Err(Failure::new(FailureCode::Denied, text, "do it on an admin's machine: `ginnel admin list`"));
        }
        Ok((network, keys))
    }
}

impl Network {
    /// The keys of this machine that are an admin's: its own, once it was made one, and the founder's.
    pub(crate) fn admin_keys(&self) -> Vec<SigningKey> {
        let own = std::iter::once(&self.saved.member).chain(&self.saved.admin).map(Secret::signing);
        let founding = self.state.head().0 == 0;
        let mut keys: Vec<SigningKey> = own.filter(|key| self.state.is_admin(&key.member_key()) && !founding).collect();
        keys.sort_by_key(SigningKey::member_key);
        keys
    }

    /// The key with which this machine may sign leases or invite, without being an admin.
    pub(crate) fn delegate_key(&self, right: Rights) -> Option<SigningKey> {
        let me = self.key();
        let policy = self.state.policy();
        let held = policy.delegates.iter().any(|known| known.member == me && known.rights.contains(right));
        (held && self.is_member()).then(|| self.saved.member.signing())
    }

    /// A server of the log by one of its addresses or the start of its key.
    fn find_server(&self, text: &str) -> Result<Server, Failure> {
        let fits = |server: &&Server| {
            let key = server.keys.sequencer().to_string();
            server
                .addresses
                .iter()
                .any(|address| address == text || address.rsplit_once(':').is_some_and(|at| at.0 == text))
                || (text.len() >= MIN_DIGITS && key.starts_with(text))
        };
        let mut found = self.state.servers().iter().filter(fits);
        let server = found.next().cloned().ok_or_else(|| {
            Failure::new(FailureCode::NoSuch, format!("no server {text}"), "`ginnel server list` shows them")
        })?;
        if found.next().is_some() {
            return Err(Failure::new(FailureCode::Usage, format!("{text} fits several servers"), "give its key"));
        }
        Ok(server)
    }
}

/// Reads a founding string.
pub(crate) fn founding_string(text: &str) -> Result<Founding, Failure> {
    match text.trim().parse() {
        Ok(Pasted::Founding(founding)) => Ok(founding),
        Ok(Pasted::Invite(_)) => Err(Failure::new(
            FailureCode::Usage,
            "this is an invite; a server shows a founding string",
            "`ginnel-signal` prints one when it starts, and on request",
        )),
        Err(error) => Err(Failure::new(FailureCode::Usage, error.to_string(), "paste the whole string")),
    }
}

pub(crate) fn refs(keys: &[SigningKey]) -> Vec<&SigningKey> {
    keys.iter().collect()
}

pub(crate) fn unfit(error: &ginnel_membership::Malformed) -> Failure {
    Failure::new(FailureCode::Usage, format!("the record {error}"), "")
}

/// Digits of a key that a user must give at least.
const MIN_DIGITS: usize = 4;
