//! The network's servers: following the log's list of them, and taking a new one on.

use std::time::Duration;

use ginnel_membership::invite::Token;
use ginnel_membership::{Record, SequencerKey, Server, SignedRecord, SigningKey};
use ginnel_signal_proto::{ClientMessage, Credentials};
use ginnel_time::Instant;

use crate::govern::founding_string;
use crate::io::{Failure, FailureCode, Output, Reply, RequestId, ServerId};
use crate::link::{Link, LinkStatus};
use crate::network::Network;
use crate::networks::NetworkNumber;
use crate::node::Node;
use crate::saved::{Stage, Switch};

/// A server that is being taken on: it has to know the network before the log names it.
pub(crate) struct Recruit {
    request: RequestId,
    pub(crate) link: ServerId,
    server: Server,
    token: Token,
    key: SigningKey,
    /// The log names it already: it has lost what it knew.
    is_listed: bool,
    pub(crate) deadline: Instant,
}

impl Recruit {
    /// Who waits for the outcome.
    pub(crate) const fn request(&self) -> RequestId {
        self.request
    }

    /// How to come in at the server.
    fn credentials(&self) -> Credentials {
        Credentials::Founder { token: self.token.clone(), key: self.key.clone() }
    }
}

impl Node {
    /// Brings the links in line with the servers that the log names.
    pub(crate) fn sync_servers(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get(at) else { return };
        let wanted = network.state.servers().to_vec();
        if wanted.is_empty() || wanted == network.saved.servers {
            return;
        }
        let mut free = self.networks.server_ids(wanted.len()).into_iter();
        let Some(network) = self.networks.get_mut(at) else { return };
        let recruit = network.recruit.as_ref().map(|recruit| recruit.link);
        let up = network.saved.switch == Switch::Up;
        let mut gone = Vec::new();
        for (id, link) in &mut network.links {
            match wanted.iter().find(|server| server.keys == link.server.keys) {
                Some(server) => link.server.clone_from(server),
                None if recruit == Some(*id) => {}
                None => gone.push(*id),
            }
        }
        for server in &wanted {
            if network.links.values().all(|link| link.server.keys != server.keys) {
                let Some(id) = free.next() else { break };
                let mut link = Link::new(server.clone());
                link.retry = up.then_some(now);
                network.links.insert(id, link);
            }
        }
        network.saved.servers = wanted;
        for id in &gone {
            network.links.remove(id);
            network.clock.forget(*id);
        }
        self.outputs.extend(gone.iter().copied().map(Output::DisconnectServer));
        self.gather.forget_servers(now, &gone);
        self.persist();
    }

    pub(crate) fn server_add(
        &mut self,
        now: Instant,
        id: RequestId,
        at: NetworkNumber,
        text: &str,
    ) -> Result<Option<Reply>, Failure> {
        let founding = founding_string(text)?;
        let (network, keys) = self.as_admin(at, "add servers")?;
        let key = keys.into_iter().next().ok_or_else(crate::networks::not_joined)?;
        let server = founding.server().clone();
        let is_listed = network.state.servers().iter().any(|known| known.keys == server.keys);
        let serves = |link: &Link| link.server.keys == server.keys && link.serves();
        if is_listed && network.links.values().any(serves) {
            return Err(Failure::new(FailureCode::Usage, "the network has this server already", ""));
        }
        if !is_listed && network.state.servers().len() >= MAX_SERVERS {
            let text = format!("a network has at most {MAX_SERVERS} servers");
            return Err(Failure::new(FailureCode::Usage, text, "`ginnel server remove` one first"));
        }
        if network.recruit.is_some() {
            return Err(Failure::new(FailureCode::Failed, "another server is being added", "try again in a moment"));
        }
        let link = self.networks.server_ids(1).into_iter().next().ok_or_else(crate::networks::not_joined)?;
        let Some(network) = self.networks.get_mut(at) else { return Ok(None) };
        let token = founding.token().clone();
        let mut stream = Link::new(server.clone());
        stream.retry = Some(now);
        network.links.insert(link, stream);
        network.recruit =
            Some(Recruit { request: id, link, server, token, key, is_listed, deadline: now + RECRUITING });
        self.network_timeout(now);
        Ok(None)
    }

    /// The server that is being taken on has let us in: it is told which network it is to hold, by the beginning of the log
    /// where that is here. By the genesis alone a server that it names as the sequencer would begin another history.
    pub(crate) fn recruit_ready(&mut self, now: Instant, id: ServerId) {
        let Some(network) = self.networks.owner_mut(id) else { return };
        let Some(genesis) = network.state.genesis_record().map(<[u8]>::to_vec) else { return };
        let Some(recruit) = network.recruit.as_ref().filter(|recruit| recruit.link == id) else { return };
        let message = match network.refill_from(0) {
            Some(entries) => ClientMessage::Refill { first: 0, entries },
            None if first_sequencer(&genesis) == Some(recruit.server.keys.sequencer()) => {
                let why = "it has to get the log from its beginning, which this machine does not hold; \
                           an older member may";
                return self.recruiting_failed(id, why);
            }
            None => ClientMessage::Found { genesis },
        };
        if let Some(link) = network.links.get_mut(&id) {
            link.say(now, message);
        }
    }

    /// The server knows the network: the log may name it.
    pub(crate) fn recruited(&mut self, now: Instant, id: ServerId) {
        let Some(network) = self.networks.owner_mut(id) else { return };
        let at = network.number;
        let Some(recruit) = network.recruit.take_if(|recruit| recruit.link == id) else { return };
        if let Some(link) = network.links.get_mut(&id) {
            // It comes back as a member's link when the log names the server.
            link.close(now, None);
        }
        network.links.remove(&id);
        network.clock.forget(id);
        self.gather.forget_servers(now, &[id]);
        self.outputs.push_back(Output::DisconnectServer(id));
        if recruit.is_listed {
            for link in network.links.values_mut().filter(|link| link.server.keys == recruit.server.keys) {
                link.retry = (link.status == LinkStatus::Down).then_some(now);
            }
            self.outputs.push_back(Output::Reply { id: recruit.request, reply: Ok(Reply::Done) });
            return self.network_timeout(now);
        }
        let servers = network.state.servers().iter().cloned().chain([recruit.server]).collect();
        let outcome = self.change_servers(now, recruit.request, at, servers, None);
        let reply = match outcome {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => return,
            Err(failure) => Err(failure),
        };
        self.outputs.push_back(Output::Reply { id: recruit.request, reply });
    }

    /// The server that is being taken on said no, or nothing in time.
    pub(crate) fn recruiting_failed(&mut self, id: ServerId, why: &str) {
        let Some(network) = self.networks.owner_mut(id) else { return };
        let Some(recruit) = network.recruit.take_if(|recruit| recruit.link == id) else { return };
        network.clock.forget(id);
        let open = network.links.remove(&id).is_some_and(|link| link.status != LinkStatus::Down);
        self.gather.forget_servers(self.now, &[id]);
        if open {
            self.outputs.push_back(Output::DisconnectServer(id));
        }
        let failure = Failure::new(
            FailureCode::Failed,
            format!("the server cannot be added: {why}"),
            "let `ginnel-signal` print a fresh founding string",
        );
        self.outputs.push_back(Output::Reply { id: recruit.request, reply: Err(failure) });
    }

    pub(crate) fn recruit_timeout(&mut self, now: Instant, at: NetworkNumber) {
        let late = self.networks.get(at).and_then(|network| network.recruit.as_ref()).filter(|r| r.deadline <= now);
        if let Some(id) = late.map(|recruit| recruit.link) {
            let trouble = self.networks.get(at).and_then(|network| network.links.get(&id)?.trouble.clone());
            self.recruiting_failed(id, trouble.as_deref().unwrap_or("it does not answer"));
        }
    }
}

impl Network {
    /// How this machine comes in at a server.
    pub(crate) fn credentials(&self, id: ServerId) -> Credentials {
        if let Some(recruit) = self.recruit.as_ref().filter(|recruit| recruit.link == id) {
            return recruit.credentials();
        }
        match &self.saved.stage {
            Stage::Founding { token, .. } => Credentials::Founder {
                token: Token::from_bytes(*token),
                key: self.saved.admin.as_ref().unwrap_or(&self.saved.member).signing(),
            },
            Stage::Joining { invite } => {
                Credentials::Joiner { invite: invite.signing(), key: self.saved.member.signing() }
            }
            Stage::Member => {
                let next = self.saved.next_keys.as_ref().filter(|_| self.next_keys_tried);
                let member = || next.map_or(&self.saved.member, |next| &next.member).signing();
                Credentials::Member { key: self.guise_key(id).unwrap_or_else(member) }
            }
        }
    }

    /// Whether a link leads to a server that is being taken on.
    pub(crate) fn is_recruit(&self, id: ServerId) -> bool {
        self.recruit.as_ref().is_some_and(|recruit| recruit.link == id)
    }
}

/// The sequencer that a genesis record names.
fn first_sequencer(genesis: &[u8]) -> Option<SequencerKey> {
    let signed = SignedRecord::decode(genesis).ok()?;
    let Record::Genesis(genesis) = signed.record() else { return None };
    Some(genesis.sequencer)
}

/// Servers that a network may have.
const MAX_SERVERS: usize = 4;
/// How long taking on a server may take.
const RECRUITING: Duration = Duration::from_secs(12);
