//! Links that do without servers: a restarted daemon calls the members it had links with, where it last reached them,
//! and links are kept warm while no server could mend them.
//!
//! Nothing here waits for a server. A call goes out at full TTL to each remembered address, again and again for
//! [`GREETING`], so that two restarted daemons open both their NATs; a call that stays unanswered ends quietly. It is made
//! again when a server comes up, and traffic makes calls of its own.

use std::collections::VecDeque;
use std::time::Duration;

use ginnel_forward::PeerId;
use ginnel_membership::MemberKey;
use ginnel_path::{Candidate, CandidateKind, Input as PathInput, Path};
use ginnel_time::Instant;

use crate::attempt::GREETING;
use crate::exchange::CONFIRMATION_PATIENCE;
use crate::network::Network;
use crate::networks::NetworkNumber;
use crate::node::Node;
use crate::peer::{Confirmation, Peer};
use crate::report::PathKind;
use crate::saved::Switch;

/// Calls to be made, and endpoints to be written down.
#[derive(Debug, Default)]
pub(crate) struct Greeter {
    /// Whom to call, in order; at most [`MAX_GREETED`].
    queue: VecDeque<MemberKey>,
    next: Option<Instant>,
    reason: Reason,
    /// When changed endpoints are written to the state folder.
    write: Option<Instant>,
    written: Option<Instant>,
    /// When links are next kept warm.
    warm: Option<Instant>,
}

/// Why members are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reason {
    /// This machine has just started.
    #[default]
    Started,
    /// A server let it in: whom the last endpoints did not lead to may be reached by mail.
    Welcomed,
    /// The last server was lost: while both sides still send, their NATs open for each other.
    Abandoned,
}

impl Greeter {
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [self.next, self.write, self.warm].into_iter().flatten().min()
    }
}

impl Node {
    /// Lines up the members that this machine last had links with.
    pub(crate) fn plan_greetings(&mut self, now: Instant, at: NetworkNumber, reason: Reason) {
        let Some(network) = self.networks.get(at) else { return };
        if network.saved.switch == Switch::Down || !network.is_member() {
            return;
        }
        let unmet = |member: &MemberKey| {
            let peer = self.member_peer(at, member).and_then(|id| self.peers.get(&id));
            peer.is_some_and(|peer| peer.unanswered || peer.attempt.is_some())
        };
        let recent = network.saved.recent.members().take(MAX_GREETED);
        let queue: VecDeque<MemberKey> = recent.filter(|member| reason != Reason::Welcomed || unmet(member)).collect();
        let delay = match reason {
            Reason::Started => Duration::ZERO,
            Reason::Welcomed => AFTER_WELCOME,
            Reason::Abandoned => AFTER_LOSS,
        };
        let Some(network) = self.networks.get_mut(at) else { return };
        network.greeter.next = (!queue.is_empty()).then(|| now + delay);
        network.greeter.queue = queue;
        network.greeter.reason = reason;
        network.greeter.warm.get_or_insert(now + WARM);
    }

    /// Makes the calls that are due, writes changed endpoints down, and keeps links warm.
    pub(crate) fn greeter_timeout(&mut self, now: Instant, at: NetworkNumber) {
        let reachable = !self.gather.candidates(Some(at)).is_empty();
        let Some(network) = self.networks.get_mut(at) else { return };
        let back = network.is_connected();
        let greeter = &mut network.greeter;
        if back && greeter.reason == Reason::Abandoned {
            greeter.queue.clear();
        }
        let mut calls = Vec::new();
        if greeter.next.is_some_and(|at| at <= now) {
            // Without an address of our own nothing can be sent; the sockets are about to open.
            if reachable {
                calls.extend(greeter.queue.pop_front());
            }
            let pace = if reachable { PACE } else { NO_ADDRESS_YET };
            greeter.next = (!greeter.queue.is_empty()).then(|| now + pace);
        }
        let write = greeter.write.take_if(|at| *at <= now).is_some();
        if write {
            greeter.written = Some(now);
        }
        let warm = greeter.warm.is_some_and(|at| at <= now);
        if warm {
            greeter.warm = Some(now + WARM);
        }
        if write {
            self.persist();
        }
        for member in calls {
            self.greet(now, at, member);
        }
        if warm {
            self.keep_warm(now, at);
        }
    }

    /// Notes the path that data takes to a member, when it is a direct one.
    pub(crate) fn remember(&mut self, now: Instant, id: PeerId, path: Path) {
        let Some(peer) = self.peers.get(&id) else { return };
        let Some((member, at)) = peer.profile.member.zip(peer.profile.network()) else { return };
        if path.is_relayed() || self.path_report(peer, path).kind == PathKind::TurnUdp {
            return;
        }
        let Some(network) = self.networks.get_mut(at) else { return };
        if network.saved.recent.note(member, path.remote) && network.greeter.write.is_none() {
            let soon = now + WRITE_DELAY;
            let spaced = network.greeter.written.map_or(soon, |written| soon.max(written + WRITE_SPACING));
            network.greeter.write = Some(spaced);
        }
    }

    /// Calls a member where it was last reached, unless there is a session or a call.
    fn greet(&mut self, now: Instant, at: NetworkNumber, member: MemberKey) {
        let Some(id) = self.member_peer(at, &member) else { return };
        let mailed = self.networks.get(at).is_some_and(Network::is_connected);
        let Some(peer) = self.peers.get(&id) else { return };
        match peer.session {
            Some(session) if session.confirmed == Confirmation::Confirmed => return,
            // An old mail may have been answered; its sender is given the time to confirm.
            Some(session) if now.saturating_duration_since(session.made) < CONFIRMATION_PATIENCE => {
                let Some(network) = self.networks.get_mut(at) else { return };
                network.greeter.queue.push_back(member);
                network.greeter.next.get_or_insert(now + CONFIRMATION_PATIENCE);
                return;
            }
            Some(_) | None => {}
        }
        if peer.attempt.is_some() {
            if mailed {
                self.mail_attempt(now, id);
            }
            return;
        }
        self.recall(now, id);
        self.begin_attempt(now, id, now, GREETING);
    }

    /// Which member of which network a peer is.
    fn membership_of(&self, id: PeerId) -> Option<(MemberKey, NetworkNumber)> {
        let profile = &self.peers.get(&id)?.profile;
        profile.member.zip(profile.network())
    }

    /// Tells a peer's agent where it was last reached, when no server brings anything newer.
    pub(crate) fn recall(&mut self, now: Instant, id: PeerId) {
        self.wake(now, id);
        let Some((member, at)) = self.membership_of(id) else { return };
        let Some(network) = self.networks.get(at).filter(|network| !network.is_connected()) else { return };
        // As a host's address it goes out at full TTL: there is nobody to arrange a punch with.
        let known = network.saved.recent.remotes(&member).iter();
        let candidates: Vec<Candidate> =
            known.map(|addr| Candidate { kind: CandidateKind::Host, addr: *addr }).collect();
        if !candidates.is_empty() {
            self.tell_agent(now, id, PathInput::RemoteCandidates(candidates));
        }
    }

    /// While no server is reached, an idle link that went cold could not be made again: its mappings are kept open.
    fn keep_warm(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get(at).filter(|network| !network.is_connected()) else { return };
        if network.saved.switch == Switch::Down {
            return;
        }
        let members: Vec<MemberKey> = network.saved.recent.members().take(MAX_GREETED).collect();
        for member in members {
            let Some(id) = self.member_peer(at, &member) else { continue };
            let linked = self.peers.get(&id).is_some_and(|peer| peer.session.is_some() && peer.primary().is_some());
            if linked {
                self.tell_agent(now, id, PathInput::Traffic { sent: true, received: true });
            }
        }
    }

    /// The last session with a peer has ended; without a server it is made anew at once, while the mappings are open.
    pub(crate) fn went_cold(&mut self, now: Instant, id: PeerId) {
        let Some((member, at)) = self.membership_of(id) else { return };
        let Some(network) = self.networks.get(at).filter(|network| !network.is_connected()) else { return };
        let warm = network.saved.recent.members().take(MAX_GREETED).any(|known| known == member);
        if warm && network.saved.switch == Switch::Up {
            self.greet(now, at, member);
        }
    }

    /// Why there is no link to a peer though one is wanted, in words; `None` where there is one or none is wanted.
    pub(crate) fn why_waiting(&self, peer: &Peer) -> Option<String> {
        let member = peer.profile.member?;
        let network = self.networks.get(peer.profile.network()?)?;
        if network.saved.switch == Switch::Down || (peer.session.is_some() && peer.primary().is_some()) {
            return None;
        }
        let calling = peer.attempt.is_some();
        if !calling && !peer.unanswered && peer.session.is_none() {
            return None;
        }
        let known = !network.saved.recent.remotes(&member).is_empty();
        if !network.is_connected() {
            let trouble = network.links.values().find_map(|link| link.trouble.as_deref()).unwrap_or("none is reached");
            return Some(if known {
                format!("its last endpoint does not answer, and no server can help: {trouble}")
            } else {
                format!("waiting for a server: {trouble}")
            });
        }
        let relay = if self.gather.has_relay(network.number) { "" } else { "; relay unreachable" };
        Some(if peer.session.is_some() {
            format!("no path carries packets yet{relay}")
        } else if calling {
            format!("called, and has not answered yet{relay}")
        } else {
            format!("did not answer: it is offline, or cannot be reached from here{relay}")
        })
    }
}

/// Members called after a start, and links kept warm without a server.
const MAX_GREETED: usize = 32;
/// Between two calls.
const PACE: Duration = Duration::from_millis(25);
/// Between looks for an address of our own.
const NO_ADDRESS_YET: Duration = Duration::from_millis(250);
/// An endpoint that changes is written down after this time, so that changes which come together are written once.
const WRITE_DELAY: Duration = Duration::from_secs(1);
/// Between two writes at least.
const WRITE_SPACING: Duration = Duration::from_secs(15);
/// How often an idle link counts as used while no server is reached: paths in use are probed often enough for a NAT.
const WARM: Duration = Duration::from_secs(60);
/// After a server lets us in: by then the candidates are gathered anew.
const AFTER_WELCOME: Duration = Duration::from_secs(1);
/// After the last server is lost: most come back sooner.
const AFTER_LOSS: Duration = Duration::from_secs(8);
