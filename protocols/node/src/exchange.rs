//! Handshakes: starting them, answering them, and handing finished sessions to the data plane.

use std::net::SocketAddr;
use std::time::Duration;

use ginnel_forward::{Command, PeerId};
use ginnel_path::{Candidate, Input as PathInput, LocalCandidate, Path, Role};
use ginnel_time::Instant;
use ginnel_tunnel::{
    Established, Identity, Initiator, MessageKind, PublicKey, Received, ReceiverIndex, Side, Suite, classify,
    receiver_index,
};
use rand_core::RngCore;

use crate::Discard;
use crate::attempt::{Attempt, COPIES, GIVE_UP_AFTER, NO_COPIES, Want};
use crate::io::Output;
use crate::mail::{Mail, MailKind};
use crate::node::Node;
use crate::peer::{
    ANSWER_KEPT, ANSWER_PATHS, ANSWER_REPEATS, Accepted, Answered, Confirmation, IdentityId, Peer, SessionInfo, Ways,
};

/// The road by which a handshake message came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Road {
    /// A datagram on a path.
    Path(Path),
    /// The mailbox, from this authenticated peer.
    Mailbox(PeerId),
}

impl Road {
    const fn path(self) -> Option<Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Mailbox(_) => None,
        }
    }
}

/// Whom a receiver index belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IndexUse {
    /// A handshake under way with the peer.
    Attempt(PeerId),
    /// A session with the peer.
    Session(PeerId),
}

/// An answer that waits until our relay lets its receiver in.
pub(crate) struct PendingAnswer {
    pub(crate) peer: PeerId,
    pub(crate) deadline: Instant,
    pub(crate) response: Vec<u8>,
    pub(crate) awaits: Vec<SocketAddr>,
}

impl Node {
    /// Begins a handshake unless one is under way, ours or, just answered, the other side's.
    pub(crate) fn want_session(&mut self, now: Instant, id: PeerId) {
        let idle = self.peers.get(&id).is_some_and(|peer| {
            let answered = peer.session.is_some_and(|session| {
                session.confirmed == Confirmation::Awaited
                    && now.saturating_duration_since(session.made) < CONFIRMATION_PATIENCE
            });
            peer.attempt.is_none() && !answered
        });
        if idle {
            self.recall(now, id);
            self.begin_attempt(now, id, now, GIVE_UP_AFTER);
        }
    }

    /// Begins a handshake for a session that grows old; a fresh session makes it needless.
    pub(crate) fn rekey(&mut self, now: Instant, id: PeerId) {
        let fresh = self.peers.get(&id).and_then(|peer| peer.session).is_some_and(|session| {
            now.saturating_duration_since(session.made) < REKEY_SPACING && session.confirmed == Confirmation::Confirmed
        });
        if !fresh {
            self.want_session(now, id);
        }
    }

    /// Begins a handshake with a peer that no path reaches: it may have restarted and forgotten the session, or moved; a
    /// handshake goes by the mailbox too.
    pub(crate) fn out_of_reach(&mut self, now: Instant, id: PeerId) {
        let session = self.peers.get(&id).and_then(|peer| peer.session);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let spacing = REKEY_SPACING * (1 << peer.unreached.min(MAX_UNREACHED));
        if session.is_some_and(|session| now.saturating_duration_since(session.made) >= spacing) {
            peer.unreached = peer.unreached.saturating_add(1);
            self.want_session(now, id);
        }
    }

    /// Calls a peer by a handshake because no path is known to carry an agent's own call.
    pub(crate) fn summon(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let settling =
            peer.session.is_some_and(|session| now.saturating_duration_since(session.made) < CONFIRMATION_PATIENCE);
        let (trusts, calls) = (peer.primary().is_some(), peer.attempt.is_some());
        let began = peer.attempt.as_ref().map(|attempt| attempt.began);
        // Whoever has no path at all needs the mailbox more than whoever may have one.
        let network = peer.profile.network().and_then(|at| self.networks.get(at));
        let spared = trusts && network.is_some_and(|network| !network.mails.is_over_half(now));
        if !calls && !settling {
            self.begin_attempt(now, id, now, GIVE_UP_AFTER);
        }
        // What began just now went by mail already, unless a path is in use: then it has gone out by that path alone.
        let mailed = !trusts && began == Some(now);
        if !spared && !mailed && (calls || (trusts && !settling)) {
            self.mail_attempt(now, id);
        }
    }

    pub(crate) fn begin_attempt(&mut self, now: Instant, id: PeerId, began: Instant, patience: Duration) {
        self.wake(now, id);
        let (stamp, reserve) = self.stamper.stamp(now);
        if reserve.is_some() {
            self.persist();
        }
        let index = self.free_index();
        let jitter = Duration::from_millis(u64::from(self.rng.next_u32() % 334));
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(identity) = self.identities.get(&peer.profile.identity) else { return };
        let started = Initiator::start(
            identity,
            peer.profile.key,
            peer.profile.suite,
            &peer.profile.psk,
            BOOTSTRAP_PSK,
            stamp,
            index,
            &mut self.rng,
        );
        let Ok((initiator, bytes)) = started else {
            self.counters.count(Discard::BadPeerKey);
            self.doze(id);
            return;
        };
        let ladder = if matches!(peer.ways, Ways::Agent { .. }) { COPIES } else { NO_COPIES };
        peer.attempt = Some(Box::new(Attempt::new(now, (began, patience), (initiator, bytes), index, jitter, ladder)));
        self.indices.insert(index.0, IndexUse::Attempt(id));
        self.send_attempt(now, id);
    }

    /// Sends the initiation under way on every plausible path and by the mailbox.
    fn send_attempt(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        let Some(attempt) = &peer.attempt else { return };
        let (bytes, rung) = (attempt.bytes.clone(), attempt.rung);
        let proven = peer.primary().filter(|_| peer.session.is_some());
        let mut targets = Vec::new();
        if let Some(primary) = proven {
            targets.push((primary, None));
        }
        if proven.is_none() || rung > 0 {
            targets.extend(self.openers(id));
        }
        for (path, ttl) in targets {
            self.send_handshake(now, id, path, ttl, &bytes);
        }
        let mailed = if proven.is_none() { MAIL_RUNGS } else { &MAIL_RUNGS[1..] };
        if mailed.contains(&rung) {
            self.mail(now, id, MailKind::Offer, bytes);
        }
    }

    /// Sends the initiation under way by the mailbox, once more.
    pub(crate) fn mail_attempt(&mut self, now: Instant, id: PeerId) {
        let attempt = self.peers.get(&id).and_then(|peer| peer.attempt.as_ref());
        if let Some(bytes) = attempt.map(|attempt| attempt.bytes.clone()) {
            self.mail(now, id, MailKind::Offer, bytes);
        }
    }

    /// Where handshake messages go while no path is proven.
    pub(crate) fn openers(&self, id: PeerId) -> Vec<(Path, Option<u8>)> {
        match self.peers.get(&id).map(|peer| &peer.ways) {
            Some(Ways::Agent { agent, .. }) => agent.openers(),
            Some(Ways::Endpoint(Some(path))) => vec![(*path, None)],
            Some(Ways::Endpoint(None) | Ways::Dormant) | None => Vec::new(),
        }
    }

    /// Walks the ladder of a handshake under way.
    pub(crate) fn attempt_timeout(&mut self, now: Instant, id: PeerId) {
        let Some(attempt) = self.peers.get_mut(&id).and_then(|peer| peer.attempt.as_mut()) else { return };
        let (began, patience) = (attempt.began, attempt.patience);
        match attempt.want(now) {
            Want::Wait => {}
            Want::Copy => self.send_attempt(now, id),
            Want::Renew => {
                self.end_attempt(id);
                self.begin_attempt(now, id, began, patience);
            }
            Want::GiveUp => {
                self.end_attempt(id);
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.unanswered = true;
                }
                self.doze(id);
            }
        }
    }

    pub(crate) fn end_attempt(&mut self, id: PeerId) {
        if let Some(attempt) = self.peers.get_mut(&id).and_then(|peer| peer.attempt.take()) {
            self.indices.remove(&attempt.index.0);
        }
    }

    /// Takes a handshake message from outside.
    pub(crate) fn handle_handshake(
        &mut self,
        now: Instant,
        road: Road,
        bytes: &[u8],
        candidates: &[Candidate],
    ) -> Result<(), Discard> {
        let (suite, kind) = classify(bytes).ok_or(Discard::NotAHandshake)?;
        match kind {
            MessageKind::Initiation => self.handle_initiation(now, road, bytes, candidates),
            MessageKind::Response => self.handle_response(now, road, suite, bytes, candidates),
            MessageKind::Cookie => self.handle_cookie(now, road, bytes),
            MessageKind::Data => Err(Discard::NotAHandshake),
        }
    }

    fn handle_initiation(
        &mut self,
        now: Instant,
        road: Road,
        bytes: &[u8],
        candidates: &[Candidate],
    ) -> Result<(), Discard> {
        let identity_id = self.identity_of(bytes)?;
        if self.answer_copy(now, road, bytes, candidates) {
            return Ok(());
        }
        self.admit(now, road, identity_id, bytes)?;
        let (id, received) = self.read_initiation(identity_id, bytes)?;
        if matches!(road, Road::Mailbox(from) if from != id) {
            return Err(Discard::ForeignMail);
        }
        let index = self.free_index();
        let peer = self.peers.get_mut(&id).ok_or(Discard::UnknownPeer)?;
        if matches!(road, Road::Mailbox(_)) && !peer.offers.take(now) {
            return Err(Discard::TooManyInitiations);
        }
        peer.take_initiation(now, &received)?;
        let psk = peer.profile.psk.clone();
        // Only now: a replayed message leaves a dormant peer alone.
        self.wake(now, id);
        let (response, established) =
            received.respond(&psk, BOOTSTRAP_PSK, index, &mut self.rng).map_err(|_| Discard::BadInitiation)?;
        let peer = self.peers.get_mut(&id).ok_or(Discard::UnknownPeer)?;
        peer.answered = Some(Answered::new(now, road.path(), bytes.to_vec(), response.clone()));
        self.install(now, id, established);
        self.send_answer(now, id, road, response, candidates);
        Ok(())
    }

    /// Opens an initiation to one of our keys, and tells which peer it comes from.
    fn read_initiation(&self, identity_id: IdentityId, bytes: &[u8]) -> Result<(PeerId, Received), Discard> {
        let identity = self.identities.get(&identity_id).ok_or(Discard::BadMac)?;
        let peer = |key: &PublicKey| self.by_key.get(&(identity_id, *key)).copied();
        let received = Received::read(identity, bytes, &mut |key| peer(key).is_some());
        let received = received.map_err(|_| Discard::BadInitiation)?;
        let id = peer(&received.remote()).ok_or(Discard::UnknownPeer)?;
        Ok((id, received))
    }

    /// Answers the copy of an initiation that was answered already, on the road by which the copy came.
    fn answer_copy(&mut self, now: Instant, road: Road, bytes: &[u8], candidates: &[Candidate]) -> bool {
        let peers = &mut self.peers;
        let known = self.awake.iter().find_map(|id| {
            let answered = peers.get(id)?.answered.as_ref().filter(|answered| answered.until > now)?;
            same_message(&answered.initiation, bytes).then_some(*id)
        });
        let known = known.and_then(|id| Some((id, peers.get_mut(&id)?.answered.as_mut()?)));
        let Some((id, answered)) = known else { return false };
        match road {
            Road::Path(path) => {
                if !answered.paths.contains(&path) {
                    if answered.paths.len() >= ANSWER_PATHS {
                        return true;
                    }
                    answered.paths.push(path);
                }
                let response = answered.response.clone();
                self.send_handshake(now, id, path, None, &response);
            }
            Road::Mailbox(from) if from == id => {
                let first = answered.first_by_mail();
                let response = answered.response.clone();
                if first {
                    self.send_answer(now, id, road, response, candidates);
                } else if !self.pending_answers.iter().any(|pending| pending.peer == id) {
                    self.mail(now, id, MailKind::Answer, response);
                }
            }
            Road::Mailbox(_) => {}
        }
        true
    }

    /// Sends a fresh answer: at once on a path; by the mailbox after our relay lets the other side in.
    fn send_answer(&mut self, now: Instant, id: PeerId, road: Road, response: Vec<u8>, candidates: &[Candidate]) {
        match road {
            Road::Path(path) => {
                let Some(peer) = self.peers.get_mut(&id) else { return };
                let bytes = peer.jars.stamped(now, path, &response);
                self.send(path, None, bytes);
            }
            Road::Mailbox(_) => {
                self.tell_candidates(now, id, candidates);
                let awaits = self.gather.let_in(now, self.network_of(id), id, candidates);
                self.pending_answers.retain(|pending| pending.peer != id);
                self.pending_answers.push(PendingAnswer { peer: id, deadline: now + RELAY_PATIENCE, response, awaits });
                self.flush_answers(now);
            }
        }
    }

    /// Sends the answers whose receivers our relay lets in, or whose wait is over.
    pub(crate) fn flush_answers(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(pending) = self.pending_answers.get(index) {
            let network = self.network_of(pending.peer);
            let ready = pending.awaits.iter().all(|addr| self.gather.lets_in(network, *addr));
            if !ready && now < pending.deadline {
                index += 1;
                continue;
            }
            let pending = self.pending_answers.swap_remove(index);
            for (path, ttl) in self.openers(pending.peer) {
                self.send_handshake(now, pending.peer, path, ttl, &pending.response);
            }
            self.mail(now, pending.peer, MailKind::Answer, pending.response);
        }
    }

    fn handle_response(
        &mut self,
        now: Instant,
        road: Road,
        suite: Suite,
        bytes: &[u8],
        candidates: &[Candidate],
    ) -> Result<(), Discard> {
        let index = receiver_index(bytes).ok_or(Discard::NotAHandshake)?;
        let id = match self.indices.get(&index.0) {
            Some(&IndexUse::Attempt(id)) => id,
            Some(&IndexUse::Session(id)) => return self.handle_response_copy(now, id, road, bytes, candidates),
            None => return Err(Discard::UnknownIndex),
        };
        if matches!(road, Road::Mailbox(from) if from != id) {
            return Err(Discard::ForeignMail);
        }
        let identity = self.identity_of(bytes)?;
        let peer = self.peers.get_mut(&id).ok_or(Discard::UnknownPeer)?;
        if peer.profile.identity != identity {
            return Err(Discard::BadMac);
        }
        let attempt = peer.attempt.as_mut().filter(|attempt| attempt.index == index).ok_or(Discard::UnknownIndex)?;
        if peer.profile.suite != suite {
            return Err(Discard::SuiteNotAllowed);
        }
        if attempt.forged >= MAX_FORGED {
            return Err(Discard::RateLimited);
        }
        let Ok(established) = attempt.initiator.finish(bytes) else {
            attempt.forged += 1;
            return Err(Discard::BadResponse);
        };
        peer.attempt = None;
        peer.accepted = Some(Accepted { response: bytes.to_vec(), until: now + ANSWER_KEPT, strays: MAX_STRAYS });
        if let (Road::Path(path), Ways::Endpoint(endpoint)) = (road, &mut peer.ways) {
            *endpoint = Some(path);
            self.forward(Command::SetPath { peer: id, primary: Some(path), backup: None, duplicate: false });
        }
        self.install(now, id, established);
        if matches!(road, Road::Mailbox(_)) {
            self.tell_candidates(now, id, candidates);
        }
        let role = self.role(id);
        let Some(agent) = self.peers.get_mut(&id).and_then(|peer| peer.agent()) else { return Ok(()) };
        if let Road::Path(path) = road {
            let _ = agent.handle_input(now, PathInput::Arrived(path));
        }
        let _ = agent.handle_input(now, PathInput::Session(role));
        self.begin_talk(id);
        Ok(())
    }

    /// The copy of a response that was accepted already proves nothing but that its path works; by mailbox it brings the
    /// other side's candidates.
    fn handle_response_copy(
        &mut self,
        now: Instant,
        id: PeerId,
        road: Road,
        bytes: &[u8],
        candidates: &[Candidate],
    ) -> Result<(), Discard> {
        let peer = self.peers.get_mut(&id).ok_or(Discard::UnknownPeer)?;
        let asked = matches!(road, Road::Path(path) if peer.jars.knows(path));
        let accepted = peer.accepted.as_mut().filter(|accepted| now < accepted.until);
        let accepted =
            accepted.filter(|accepted| same_message(&accepted.response, bytes)).ok_or(Discard::UnknownIndex)?;
        if !asked {
            // Copies come from where no initiation went, too; a few at most, because each makes us probe its source.
            accepted.strays = accepted.strays.checked_sub(1).ok_or(Discard::UnknownIndex)?;
        }
        match road {
            Road::Path(path) => {
                if let Some(agent) = peer.agent() {
                    let _ = agent.handle_input(now, PathInput::Arrived(path));
                }
            }
            Road::Mailbox(from) if from == id => self.tell_candidates(now, id, candidates),
            Road::Mailbox(_) => return Err(Discard::ForeignMail),
        }
        Ok(())
    }

    /// Repeats an answer that went by mailbox on the paths that may carry it, until the session is confirmed.
    pub(crate) fn answer_timeout(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let confirmed = peer.session.is_none_or(|session| session.confirmed == Confirmation::Confirmed);
        let Some(answered) = &mut peer.answered else { return };
        if confirmed {
            answered.repeats = &[];
            return;
        }
        let mut due = false;
        while answered.deadline().is_some_and(|at| at <= now) {
            answered.repeats = &answered.repeats[1..];
            due = true;
        }
        if due {
            let response = answered.response.clone();
            // By then the other side has the answer that went by mailbox, and has opened. Where our own NAT gives each remote
            // another port, it learns from these which one is its own.
            let bold = answered.repeats.len() < ANSWER_REPEATS.len() - 1;
            for (path, ttl) in self.openers(id) {
                self.send_handshake(now, id, path, ttl.filter(|_| !bold), &response);
            }
        }
    }

    fn handle_cookie(&mut self, now: Instant, road: Road, bytes: &[u8]) -> Result<(), Discard> {
        let index = receiver_index(bytes).ok_or(Discard::NotAHandshake)?;
        let Some(&(IndexUse::Attempt(id) | IndexUse::Session(id))) = self.indices.get(&index.0) else {
            return Err(Discard::UnknownIndex);
        };
        let peer = self.peers.get_mut(&id).ok_or(Discard::UnknownPeer)?;
        let Road::Path(path) = road else { return Err(Discard::BadCookie) };
        if peer.jars.accept(now, path, bytes) { Ok(()) } else { Err(Discard::BadCookie) }
    }

    /// Checks mac1 against every key of ours and tells whose it is.
    pub(crate) fn identity_of(&self, bytes: &[u8]) -> Result<IdentityId, Discard> {
        self.macs.iter().find(|(_, mac)| mac.verify(bytes)).map(|(id, _)| *id).ok_or(Discard::BadMac)
    }

    /// Under load, lets only senders pass that have proved their address, and each address only so often.
    fn admit(&mut self, now: Instant, road: Road, identity: IdentityId, bytes: &[u8]) -> Result<(), Discard> {
        if !self.load.note(now) {
            return Ok(());
        }
        let Road::Path(path) = road else { return Ok(()) };
        let peers = self.awake.iter().filter_map(|id| self.peers.get(id));
        let issuer = self.issuers.get_mut(&identity).ok_or(Discard::BadMac)?;
        if issuer.verify_mac2(now, bytes, path.remote) {
            return if self.limiter.allow(now, path.remote.ip()) { Ok(()) } else { Err(Discard::RateLimited) };
        }
        if !self.cookies.take(now, path.remote.ip(), || peers.flat_map(Peer::places).collect()) {
            return Err(Discard::CookiesSpent);
        }
        if let Some(reply) = issuer.reply(now, bytes, path.remote) {
            self.send(path, None, reply);
        }
        Err(Discard::CookieDemanded)
    }

    fn install(&mut self, now: Instant, id: PeerId, established: Established) {
        let side = established.side;
        self.indices.insert(established.local_index.0, IndexUse::Session(id));
        if let Some(peer) = self.peers.get_mut(&id) {
            let confirmed = match side {
                Side::Initiator => Confirmation::Confirmed,
                Side::Responder => Confirmation::Awaited,
            };
            peer.session = Some(SessionInfo { made: now, side, confirmed });
            peer.unanswered = false;
        }
        self.forward(Command::Install { peer: id, established });
    }

    /// A packet under the keys of a session that this side answered has come in.
    pub(crate) fn confirmed(&mut self, now: Instant, id: PeerId) {
        let role = self.role(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if let Some(session) = &mut peer.session
            && session.side == Side::Responder
        {
            session.confirmed = Confirmation::Confirmed;
        }
        if let Some(agent) = peer.agent() {
            let _ = agent.handle_input(now, PathInput::Session(role));
        }
        self.begin_talk(id);
    }

    /// Which of the two sides of a pair this one is, by their keys.
    pub(crate) fn role(&self, id: PeerId) -> Role {
        let profile = self.peers.get(&id).map(|peer| &peer.profile);
        let own = profile.and_then(|profile| self.identities.get(&profile.identity)).map(Identity::public);
        if own < profile.map(|profile| profile.key) { Role::Initiator } else { Role::Responder }
    }

    /// A session has ended in the data plane.
    pub(crate) fn expired(&mut self, now: Instant, id: PeerId, index: ReceiverIndex) {
        self.indices.remove(&index.0);
        let left = self.indices.values().any(|used| *used == IndexUse::Session(id));
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !left {
            peer.session = None;
            if let Some(agent) = peer.agent() {
                let _ = agent.handle_input(now, PathInput::SessionLost);
            }
            let at = peer.profile.network();
            if let Some(network) = at.and_then(|at| self.networks.get_mut(at)) {
                network.gossip.forget(now, id);
            }
            self.went_cold(now, id);
            self.doze(id);
        }
    }

    fn tell_candidates(&mut self, now: Instant, id: PeerId, candidates: &[Candidate]) {
        if let Some(agent) = self.peers.get_mut(&id).and_then(|peer| peer.agent()) {
            let _ = agent.handle_input(now, PathInput::RemoteCandidates(candidates.to_vec()));
        }
    }

    /// Seals a mail to a member and hands it to every connected server.
    pub(crate) fn mail(&mut self, now: Instant, id: PeerId, kind: MailKind, handshake: Vec<u8>) {
        let Some(peer) = self.peers.get(&id) else { return };
        let Some((member, at)) = peer.profile.member.zip(peer.profile.network()) else { return };
        let candidates = self.candidates_for(id).iter().map(LocalCandidate::candidate).collect();
        let mail = Mail { kind, handshake, candidates };
        let key = peer.profile.key;
        let Some(network) = self.networks.get_mut(at).filter(|network| network.is_connected()) else { return };
        if !network.mails.take(now) {
            self.counters.count(Discard::TooManyMails);
            return;
        }
        // The label is ahead of every earlier one, across restarts: mail of the past is told by it.
        let (label, reserve) = self.stamper.stamp(now);
        if reserve.is_some() {
            self.persist();
        }
        if let Some(network) = self.networks.get_mut(at) {
            network.mail(now, label, member, key, &mail.encode());
        }
    }

    /// Sends a handshake message on one path, with the mac2 of that path.
    fn send_handshake(&mut self, now: Instant, id: PeerId, path: Path, ttl: Option<u8>, message: &[u8]) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.primary() != Some(path) {
            let named = matches!(peer.ways, Ways::Agent { .. });
            // One network's many members leave the others theirs.
            let network = peer.profile.network().and_then(|at| self.networks.get_mut(at));
            if (named && !self.strangers.may_greet(now, id, path))
                || !network.is_none_or(|network| network.unproven.take(now))
                || !self.unproven.take(now)
            {
                self.counters.count(Discard::TooManyUnproven);
                return;
            }
        }
        let bytes = peer.jars.stamped(now, path, message);
        self.send(path, ttl, bytes);
    }

    fn free_index(&mut self) -> ReceiverIndex {
        loop {
            let index = self.rng.next_u32();
            if !self.indices.contains_key(&index) {
                return ReceiverIndex(index);
            }
        }
    }

    pub(crate) fn send(&mut self, path: Path, ttl: Option<u8>, bytes: Vec<u8>) {
        self.forward(Command::Send { path, ttl, bytes });
    }

    pub(crate) fn forward(&mut self, command: Command) {
        self.outputs.push_back(Output::Forward(command));
    }
}

/// Whether two handshake messages are one but for mac2, which is each path's own.
fn same_message(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.get(..a.len().saturating_sub(MAC2_LEN)) == b.get(..b.len().saturating_sub(MAC2_LEN))
}

const MAC2_LEN: usize = 16;
/// Copies of a response that are believed from paths where no initiation went.
const MAX_STRAYS: u8 = 4;
/// Doublings of the pause between handshakes with a peer that no path reaches: 10 s at most, while data waits for it.
const MAX_UNREACHED: u32 = 1;
/// Responses that do not open and are still tried, for one initiation.
const MAX_FORGED: u32 = 200;
/// Which copies of an initiation go by the mailbox too.
const MAIL_RUNGS: &[usize] = &[0, 2, 4];
/// The preshared key that both sides hold from the start.
const BOOTSTRAP_PSK: u32 = 0;
/// A rekey is not begun for a session younger than this (`REKEY_TIMEOUT`).
const REKEY_SPACING: Duration = Duration::from_secs(5);
/// How long the initiator of an answered handshake has for its first packet before this side begins one of its own.
pub(crate) const CONFIRMATION_PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer by mailbox waits for our relay.
const RELAY_PATIENCE: Duration = Duration::from_millis(250);
