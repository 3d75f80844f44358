//! Revocations in effect before they are ordered: taken, told to whoever has a session, and brought to those without.
//!
//! A revocation is for good, so none is dropped because it cannot be judged yet: whose signer became an admin by an entry
//! that is still missing waits for that entry, up to [`MAX_EARLY_OF_ONE`] from one peer and [`MAX_EARLY`] in all, the
//! oldest dropped. Those in effect are in the state folder until the log holds them.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use ginnel_forward::PeerId;
use ginnel_membership::{Change, MemberKey, Refusal, SignedRecord};
use ginnel_time::Instant;
use rand_core::RngCore;

use super::is_listening;
use crate::Discard;
use crate::networks::NetworkNumber;
use crate::node::Node;
use crate::peer::Peer;

/// Revocations that wait to be judged, and those on their way to members without a session.
#[derive(Debug, Default)]
pub(crate) struct Revoking {
    /// Records that the log as it stands does not take, and who brought them.
    early: VecDeque<(PeerId, Vec<u8>)>,
    /// Who is to be called, in order.
    queue: Vec<PeerId>,
    /// Who was called already.
    called: BTreeSet<PeerId>,
    next: Option<Instant>,
    /// When the calls begin, unless the revocation is ordered before.
    begin: Option<Instant>,
}

/// A revocation that has taken effect.
pub(crate) struct Taken {
    key: MemberKey,
    record: Vec<u8>,
    from: Option<PeerId>,
}

impl Revoking {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next.into_iter().chain(self.begin).min()
    }

    /// Keeps a record until more of the log is here.
    fn keep(&mut self, id: PeerId, record: &[u8]) {
        if self.early.iter().any(|(_, known)| known == record) {
            return;
        }
        let of_one = |entry: &(PeerId, Vec<u8>)| entry.0 == id;
        if self.early.iter().filter(|entry| of_one(entry)).count() >= MAX_EARLY_OF_ONE
            && let Some(oldest) = self.early.iter().position(of_one)
        {
            self.early.remove(oldest);
        }
        if self.early.len() >= MAX_EARLY {
            self.early.pop_front();
        }
        self.early.push_back((id, record.to_vec()));
    }

    fn end_calls(&mut self) {
        self.queue.clear();
        self.called.clear();
        (self.next, self.begin) = (None, None);
    }
}

impl Node {
    /// Puts a revocation into effect on this machine, for good, before it is ordered, and hands it to every peer with a
    /// session; those without one are called soon unless it is ordered before. `from` is the peer that brought it.
    pub(crate) fn revoke_here(
        &mut self,
        now: Instant,
        at: NetworkNumber,
        record: &[u8],
        from: Option<PeerId>,
    ) -> Result<(), Discard> {
        let network = self.networks.get_mut(at).ok_or(Discard::Stale)?;
        let key = network.state.revoke_on_receipt(record).map_err(|_| Discard::BadGossip)?;
        self.revoked_here(now, at, &[Taken { key, record: record.to_vec(), from }]);
        Ok(())
    }

    /// What follows from revocations that have taken effect.
    pub(crate) fn revoked_here(&mut self, now: Instant, at: NetworkNumber, taken: &[Taken]) {
        if taken.is_empty() {
            return;
        }
        for Taken { key, record, from } in taken {
            let Some(network) = self.networks.get_mut(at) else { return };
            if !network.saved.revocations.contains(record) {
                network.saved.revocations.push(record.clone());
            }
            tracing::info!(member = %key, "revoked before it is ordered");
            // The one that is revoked is told, too, before its session ends.
            self.tell_revocation(at, *key, *from);
        }
        self.plan_calls(now, at, taken.iter().find_map(|taken| taken.from));
        self.persist();
        self.sync_members(at);
        self.send_waiting(now, at);
    }

    fn tell_revocation(&mut self, at: NetworkNumber, key: MemberKey, from: Option<PeerId>) {
        let awake = self.awake.iter().filter_map(|id| self.peers.get(id));
        let hears = |peer: &&Peer| peer.profile.network() == Some(at) && is_listening(peer);
        let listening: Vec<PeerId> = awake.filter(hears).map(|peer| peer.id).collect();
        if let Some((network, from)) = self.networks.get_mut(at).zip(from) {
            network.gossip.talks.entry(from).or_default().revocations.insert(key);
        }
        for id in listening {
            self.begin_talk(id);
        }
    }

    /// Members without a session are called soon. A machine that was told, by `from`, is likely one of many, which do not
    /// call all at once.
    pub(crate) fn plan_calls(&mut self, now: Instant, at: NetworkNumber, from: Option<PeerId>) {
        let jitter = Duration::from_millis(u64::from(self.rng.next_u32() % 2000));
        if let Some(network) = self.networks.get_mut(at)
            && network.state.pending_revocations().next().is_some()
        {
            let delay = if from.is_some() { SPREAD_AFTER + jitter } else { SPREAD_AFTER };
            network.gossip.revoking.begin.get_or_insert(now + delay);
        }
    }

    pub(super) fn hear_revocation(
        &mut self,
        now: Instant,
        at: NetworkNumber,
        id: PeerId,
        record: &[u8],
    ) -> Result<(), Discard> {
        let network = self.networks.get_mut(at).ok_or(Discard::Stale)?;
        if network.state.pending_revocations().any(|(_, known)| known == record) {
            return Ok(());
        }
        match network.state.verify_revocation(record) {
            Ok(key) if network.state.is_revoked(&key) => Ok(()),
            Ok(_) => self.revoke_here(now, at, record, Some(id)),
            Err(Refusal::AlreadyRevoked) => Ok(()),
            // Whoever tells it may know more of the log than we do.
            Err(Refusal::NotAuthorised | Refusal::LastAdmin | Refusal::NotFounded) => {
                network.gossip.revoking.keep(id, record);
                Ok(())
            }
            Err(_) => Err(Discard::BadGossip),
        }
    }

    /// Puts revocations into effect that the log took as little as long as it was shorter: those of the state folder, and
    /// those that peers told ahead of the entries that make them good. [`Self::revoked_here`] does the rest.
    pub(crate) fn retry_revocations(&mut self, at: NetworkNumber) -> Vec<Taken> {
        let Some(network) = self.networks.get_mut(at) else { return Vec::new() };
        let early = std::mem::take(&mut network.gossip.revoking.early);
        let pending: BTreeSet<&[u8]> = network.state.pending_revocations().map(|(_, record)| record).collect();
        let saved = network.saved.revocations.iter().filter(|record| !pending.contains(record.as_slice()));
        let waiting: Vec<(Option<PeerId>, Vec<u8>)> = saved
            .map(|record| (None, record.clone()))
            .chain(early.into_iter().map(|(id, record)| (Some(id), record)))
            .collect();
        let mut taken = Vec::new();
        for (from, record) in waiting {
            match network.state.verify_revocation(&record) {
                Ok(key) if network.state.is_revoked(&key) => {}
                Ok(_) => {
                    if let Ok(key) = network.state.revoke_on_receipt(&record) {
                        taken.push(Taken { key, record, from });
                    }
                }
                Err(Refusal::AlreadyRevoked) => {}
                Err(_) => network.gossip.revoking.early.extend(from.map(|from| (from, record))),
            }
        }
        taken
    }

    /// Forgets the kept revocations that the log holds by now, or that its order has made void.
    pub(crate) fn drop_ordered_revocations(&mut self, at: NetworkNumber, changes: &[Change]) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let state = &network.state;
        let pending: BTreeSet<&[u8]> = state.pending_revocations().map(|(_, record)| record).collect();
        let spared = |record: &[u8]| {
            let signed = SignedRecord::decode(record).ok();
            let member = signed.and_then(|signed| Some(state.current_key(signed.record().revokes()?)));
            changes.iter().any(|change| matches!(change, Change::Spared(key) if member == Some(*key)))
        };
        let before = network.saved.revocations.len();
        network.saved.revocations.retain(|record| {
            pending.contains(record.as_slice())
                || (state.verify_revocation(record) != Err(Refusal::AlreadyRevoked) && !spared(record))
        });
        if network.saved.revocations.len() != before {
            self.persist();
        }
    }

    /// Calls members that have no session, so that they hear of a revocation that no server has ordered.
    pub(super) fn calls_timeout(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get_mut(at) else { return };
        if network.state.pending_revocations().next().is_none() {
            network.gossip.revoking.end_calls();
            return;
        }
        if network.gossip.revoking.begin.take_if(|at| *at <= now).is_some() {
            network.gossip.revoking.called.clear();
            self.line_up_calls(now, at);
        }
        let Some(network) = self.networks.get(at) else { return };
        let revoking = &network.gossip.revoking;
        if revoking.next.is_none_or(|at| at > now) {
            return;
        }
        if revoking.queue.is_empty() {
            self.line_up_calls(now, at);
        }
        let Some(network) = self.networks.get_mut(at) else { return };
        let revoking = &mut network.gossip.revoking;
        let Some(id) = revoking.queue.pop() else { return };
        revoking.next = Some(now + if revoking.queue.is_empty() { NEXT_CALLS } else { CALL_PACE });
        if self.peers.get(&id).is_some_and(|peer| peer.attempt.is_none() && !is_listening(peer)) {
            self.recall(now, id);
            self.begin_attempt(now, id, now, CALLS_LAST);
        }
    }

    /// Chooses whom to call next: those that this machine last had links with, then the others from a place on that is each
    /// machine's own, so that not all call the same.
    fn line_up_calls(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get(at) else { return };
        let called = &network.gossip.revoking.called;
        let unheard = |id: &PeerId| !called.contains(id) && self.peers.get(id).is_some_and(|peer| !is_listening(peer));
        let recent = network.saved.recent.members().filter_map(|member| self.member_peer(at, &member));
        let mut queue: Vec<PeerId> = recent.filter(unheard).collect();
        let ours = self.peers.values().filter(|peer| peer.profile.network() == Some(at)).map(|peer| peer.id);
        let mut others: Vec<PeerId> = ours.filter(|id| unheard(id) && !queue.contains(id)).collect();
        if !others.is_empty() {
            let start = usize::try_from(self.rng.next_u32()).unwrap_or(0) % others.len();
            others.rotate_left(start);
        }
        queue.extend(others);
        queue.truncate(MAX_CALLED);
        queue.reverse();
        let Some(network) = self.networks.get_mut(at) else { return };
        let revoking = &mut network.gossip.revoking;
        revoking.called.extend(&queue);
        revoking.next = (!queue.is_empty()).then_some(now);
        revoking.queue = queue;
    }
}

/// A server has this long to order a revocation before members without a session are called.
pub(crate) const SPREAD_AFTER: Duration = Duration::from_secs(2);
/// Members called at a time for one revocation; each passes it on.
const MAX_CALLED: usize = 64;
/// The next so many are called after this time, while no server has ordered it.
const NEXT_CALLS: Duration = Duration::from_secs(30);
const CALL_PACE: Duration = Duration::from_millis(50);
/// How long such a call is kept up.
const CALLS_LAST: Duration = Duration::from_secs(45);
/// Revocations kept that cannot be judged yet.
const MAX_EARLY: usize = 64;
const MAX_EARLY_OF_ONE: usize = 8;
