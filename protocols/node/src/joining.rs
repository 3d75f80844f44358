//! From a server's log to a membership: taking entries, writing this machine's own, keeping the lease.

use std::time::Duration;

use ginnel_membership::build::{invite_record, lease_record, member_record};
use ginnel_membership::record::Lease;
use ginnel_membership::{Capabilities, Name, Rights, TunnelKey};
use ginnel_signal_proto::{ClientMessage, Head, Refusal, Request as Asked};
use ginnel_time::Instant;
use ginnel_tunnel::Suite;

use crate::Discard;
use crate::clock::AGREEMENT;
use crate::gossip::Past;
use crate::guise::Guise;
use crate::io::{FailureCode, Output, ServerId, UpOutcome};
use crate::link::{CROWDED, Hopeless, Purpose, RELAY_AGAIN};
use crate::networks::{Ipv4Use, NetworkNumber};
use crate::node::Node;
use crate::saved::Stage;

impl Node {
    pub(crate) fn take_entries(&mut self, now: Instant, id: ServerId, first: u64, entries: &[Vec<u8>], head: Head) {
        let Some(network) = self.networks.owner(id) else { return };
        if network.is_recruit(id) {
            return if head.length > 0 {
                self.recruited(now, id)
            };
        }
        let at = network.number;
        let before = network.state.head().0;
        let taken = self.absorb(now, at, first, entries, Past::Skip);
        let trouble = taken.err().map(|error| format!("the server's log does not verify: {error}"));
        let Some(network) = self.networks.get_mut(at) else { return };
        let length = network.state.head().0;
        // Asked in any case, since it is what raises the alarm.
        let disagreement = network.disagreement(head);
        let trouble = trouble.or(disagreement);
        self.note_head(now, id, head);
        let Some(network) = self.networks.get_mut(at) else { return };
        let Some(link) = network.links.get_mut(&id) else { return };
        let broken = trouble.is_some();
        link.accused.clone_from(&trouble);
        if broken {
            self.counters.count(Discard::BadServerMessage);
            link.trouble = trouble;
            link.pause = CROWDED;
        } else if length < head.length && (length > before || first > length) {
            link.say(now, ClientMessage::Fetch { from: length });
        }
        let guise = link.guise;
        self.report_alarm(at);
        match guise {
            _ if broken || length < head.length => {}
            Guise::Member => self.caught_up(now, id),
            Guise::Admin if length == head.length => self.come_in_as_member(now, id),
            Guise::Admin => {}
        }
    }

    /// The log is as long as the server's: does this machine's own membership have to be written?
    pub(crate) fn caught_up(&mut self, now: Instant, id: ServerId) {
        let capabilities = self.capabilities();
        let Some(at) = self.networks.owner(id).map(|network| network.number) else { return };
        let time = self.time(now, at);
        let Some(network) = self.networks.get_mut(at) else { return };
        if network.is_member() {
            self.sync_servers(now, at);
            self.became_member(now, id);
            return;
        }
        let (at, network_id) = (network.number, network.saved.id());
        if network.state.head().0 == 0 {
            return;
        }
        if let Some(text) = self.overlap(at) {
            let founded = self.networks.get_mut(at).filter(|n| matches!(n.saved.stage, Stage::Founding { .. }));
            let Some(network) = founded else {
                self.decline(at, FailureCode::Usage, text, OVERLAP_HINT);
                return;
            };
            // The only key of a network that exists by now: it is kept, and its members are reached by IPv6.
            tracing::warn!("{text}; its IPv4 is not used here");
            network.saved.ipv4 = Ipv4Use::Off;
            self.persist();
        }
        let Some(network) = self.networks.owner_mut(id) else { return };
        let (invite, founder) = match &network.saved.stage {
            Stage::Founding { invite, .. } => (invite.signing(), network.saved.admin.clone()),
            Stage::Joining { invite } => (invite.signing(), None),
            Stage::Member => return,
        };
        let member = network.saved.member.signing();
        let name = Name::new(&network.saved.wish).unwrap_or_else(|_| Name::from_hostname("machine"));
        let tunnel = TunnelKey::from_bytes(network.saved.tunnel.tunnel().public().to_bytes());
        let known = network.state.invite(&invite.invite_key()).is_some();
        let Some(link) = network.links.get_mut(&id) else { return };
        if link.is_appending(&Purpose::Own) {
            return;
        }
        if let Some(admin) = founder.filter(|_| !known) {
            // Nobody but this machine ever holds its key, so that a wrong time does no harm.
            let expires = time.saturating_add(FOUNDER_INVITE_LIFE);
            let record = invite_record(&network_id, &admin.signing(), invite.invite_key(), expires, None);
            link.append(now, Purpose::Own, record);
        }
        let record = member_record(&network_id, &invite, &member, tunnel, name, capabilities);
        link.append(now, Purpose::Own, record);
    }

    pub(crate) fn became_member(&mut self, now: Instant, id: ServerId) {
        let Some(network) = self.networks.owner_mut(id) else { return };
        let at = network.number;
        let before = std::mem::replace(&mut network.saved.stage, Stage::Member);
        let Some(link) = network.links.get_mut(&id) else { return };
        let outcome = match before {
            Stage::Member => UpOutcome::Started,
            Stage::Joining { .. } => {
                link.say(now, ClientMessage::Relay);
                self.persist();
                UpOutcome::Joined
            }
            Stage::Founding { .. } => {
                link.close(now, Some(Duration::ZERO));
                self.outputs.push_back(Output::DisconnectServer(id));
                self.persist();
                UpOutcome::Founded
            }
        };
        self.settle_shields(at);
        self.answer_up(at, outcome);
        self.renew_lease(now, at);
        self.send_waiting(now, at);
    }

    pub(crate) fn appended(&mut self, now: Instant, id: ServerId, sequence: u64) {
        let Some(network) = self.networks.owner_mut(id) else { return };
        let at = network.number;
        let unread = network.state.head().0 == 0;
        if network.is_recruit(id) {
            return self.recruited(now, id);
        }
        let Some(link) = network.links.get_mut(&id) else { return };
        if unread {
            // The genesis is on the server's disk now; a fetch before that was refused.
            link.say(now, ClientMessage::Fetch { from: 0 });
            return;
        }
        link.at_a_loss = None;
        if let Some(Purpose::Request(request)) = link.appended(now) {
            self.acknowledged(at, id, request, sequence);
        }
    }

    pub(crate) fn server_refused(&mut self, now: Instant, id: ServerId, asked: Asked, code: Refusal, text: &str) {
        tracing::debug!(?asked, ?code, text, "the server refuses");
        let Some(network) = self.networks.owner_mut(id) else { return };
        let founding = matches!(network.saved.stage, Stage::Founding { .. });
        if network.is_recruit(id) {
            return self.recruiting_failed(id, text);
        }
        let Some(link) = network.links.get_mut(&id) else { return };
        match asked {
            Asked::Append if is_passing(code) => {
                // The same again in a moment, by another server where there is one; a user's request until its time is over.
                link.trouble = Some(text.to_owned());
                let at_a_loss = code == Refusal::NoSequencer;
                if at_a_loss {
                    link.at_a_loss = Some(now);
                }
                let purpose = link.appended(now);
                if purpose.is_some() {
                    link.append_again = Some(now + APPEND_AGAIN);
                }
                if at_a_loss && network.best_server() != Some(id) {
                    let at = network.number;
                    self.send_waiting(now, at);
                }
            }
            Asked::Append => match link.appended(now) {
                Some(Purpose::Request(request)) => self.finish_request(request, Err(text.to_owned())),
                Some(Purpose::Own) if is_final(code) || matches!(code, Refusal::Record(_)) => {
                    self.refuse(id, code, text.to_owned());
                }
                Some(Purpose::Own) => link.trouble = Some(text.to_owned()),
                Some(Purpose::Lease | Purpose::Revocation) | None => {}
            },
            Asked::Found if is_final(code) => self.refuse(id, code, text.to_owned()),
            Asked::Fetch if founding && code == Refusal::UnknownNetwork => {}
            Asked::FetchSnapshot => {
                link.checkpoint = None;
                link.download = None;
                let at = network.number;
                self.fetch_from_all(now, at);
            }
            Asked::Refill if code == Refusal::Fork => {
                link.trouble = Some(text.to_owned());
                let asked = link.refilled.is_some();
                let name = link.name();
                if asked {
                    network.alarm = Some(format!("the server {name} says that it holds another history"));
                }
                let at = network.number;
                self.report_alarm(at);
            }
            Asked::Refill => tracing::debug!(text, "the server does not take what it lacks"),
            Asked::Found | Asked::Connection | Asked::Fetch => {
                link.trouble = Some(text.to_owned());
            }
            Asked::Relay => link.credentials_due = Some(now + RELAY_AGAIN),
        }
    }

    /// Takes a server's final no. A join is over when no other server is left to say yes.
    pub(crate) fn refuse(&mut self, id: ServerId, code: Refusal, text: String) {
        let Some(network) = self.networks.owner_mut(id) else { return };
        let at = network.number;
        if matches!(network.saved.stage, Stage::Member) {
            if code == Refusal::NotAMember && network.is_member() {
                // The log that this machine has verified says otherwise, and has entries that the server does not know of.
                if let Some(link) = network.links.get_mut(&id) {
                    link.trouble = Some(LOST_ENTRIES.to_owned());
                }
                return;
            }
            // The server's word, not the log's: it is taken back when a server lets this machine in.
            if !network.is_connected() {
                network.refused = Some(text);
            }
            return;
        }
        // What a log holds it holds for good, and the sequencer has all of it; a server that only mirrors may be behind.
        let for_good = matches!(code, Refusal::Revoked | Refusal::InviteUsed | Refusal::TokenUsed);
        let sequencer = network.state.sequencer();
        let Some(link) = network.links.get_mut(&id) else { return };
        let last_word = for_good || sequencer.is_some_and(|key| key == link.server.keys.sequencer());
        link.hopeless = Some(Hopeless::Refused(text.clone()));
        if last_word {
            self.refuse_join(at, text);
        } else {
            self.judge_join(at);
        }
    }

    /// The join is over.
    pub(crate) fn refuse_join(&mut self, at: NetworkNumber, text: String) {
        let Some(network) = self.networks.get_mut(at) else { return };
        if network.state.head().0 > 0 && network.saved.admin.is_some() {
            // This machine holds the only key of a network that exists: forgetting it would lose the network.
            self.fail_up(at, FailureCode::Failed, text, "`ginnel up --name NAME` tries again with another name");
            return;
        }
        let hint = "ask for a fresh invite: `ginnel invite` on an admin's machine makes one";
        self.decline(at, FailureCode::NotJoined, text, hint);
    }

    /// Ends a join that cannot come through, and forgets its network.
    fn decline(&mut self, at: NetworkNumber, code: FailureCode, text: String, hint: &str) {
        self.fail_up(at, code, text, hint);
        self.forget_network(at);
    }

    /// Signs a lease when this machine is an admin and the last one grows old.
    pub(crate) fn renew_lease(&mut self, now: Instant, at: NetworkNumber) {
        let own = self.stamper.unix_seconds(now);
        let Some(network) = self.networks.get_mut(at) else { return };
        let Some(time) = network.time_to_vouch(now, own) else { return };
        let signer = network.admin_keys().into_iter().next().or_else(|| network.delegate_key(Rights::LEASE));
        let Some(signer) = signer else { return };
        // One that is ahead of our clock is no reason to leave the log without a true one.
        let fresh =
            |lease: Lease| lease.time <= own.saturating_add(AGREEMENT) && time < lease.time.saturating_add(LEASE_RENEW);
        if network.state.lease().is_some_and(fresh) || !network.is_member() {
            return;
        }
        let record = lease_record(&network.saved.id(), &signer, network.state.head(), time);
        // Another server than the one that is best now may have it.
        if network.links.values().any(|link| link.is_appending(&Purpose::Lease)) {
            return;
        }
        if let Some(link) = network.best_server().and_then(|id| network.links.get_mut(&id)) {
            link.append(now, Purpose::Lease, record);
        }
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        if self.suites.contains(&Suite::AesGcm) { Capabilities::BOTH_SUITES } else { Capabilities::CHACHA_POLY }
    }
}

/// Whether a server could say yes to the same record in a moment.
pub(crate) const fn is_passing(code: Refusal) -> bool {
    matches!(code, Refusal::NoSequencer | Refusal::Busy | Refusal::Storage)
}

/// Whether a server's no is the last word on a join.
pub(crate) const fn is_final(code: Refusal) -> bool {
    matches!(
        code,
        Refusal::BadSignature
            | Refusal::NotAMember
            | Refusal::Revoked
            | Refusal::InviteUnknown
            | Refusal::InviteUsed
            | Refusal::InviteExpired
            | Refusal::TokenUnknown
            | Refusal::TokenUsed
    )
}

/// What a joiner can do about overlapping ranges.
const OVERLAP_HINT: &str = "join with `ginnel up INVITE --no-ipv4`, which reaches its members by IPv6 alone; or leave one \
                            of the two; or ask its admin to found it with another range: `ginnel up FOUNDING --range \
                            100.72.0.0/16`";
/// What is wrong with a server that does not know a member.
pub(crate) const LOST_ENTRIES: &str = "the server has lost entries; it gets them back from a machine with an admin key, \
                                       normally the founder's";
/// An admin signs a lease when the last one is a day old; it runs out after seven.
const LEASE_RENEW: u64 = 24 * 3600;
/// Before a record that a server could not take is sent again.
const APPEND_AGAIN: Duration = Duration::from_secs(1);
/// Seconds in which the founder's own join has to be ordered.
const FOUNDER_INVITE_LIFE: u64 = 24 * 3600;
