//! What members tell each other inside tunnels about the log: how long it is, the entries that one of them lacks, and
//! revocations that no server has ordered yet. It says nothing on a network where nothing changes, and only over sessions
//! that exist.
//!
//! A head is a peer's word and proves nothing: an entry is believed because replay verifies it, whoever brought it, and
//! two histories count as proved when both entries bear the sequencer's signature.
//!
//! | bound | value |
//! |---|---|
//! | gossip messages taken from one peer | 50 a second, 200 at once |
//! | answers to one peer that lacks entries | 4 a second, 16 at once, of [`MAX_PACKETS`] packets each |
//! | questions under way | one, for [`PATIENCE`]; [`MAX_TRIES`] without progress end it |
//! | peers told of a new head at a time | [`MAX_TOLD`] |

mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ginnel_forward::PeerId;
use ginnel_membership::MemberKey;
use ginnel_membership::state::Comparison;
use ginnel_time::Instant;
use rand_core::RngCore;

use crate::Discard;
use crate::io::Output;
use crate::load::Bucket;
use crate::networks::NetworkNumber;
use crate::node::Node;
use crate::peer::{Confirmation, Peer};
pub(crate) use message::is_gossip;
use message::{Entries, Message, pages};

/// The end of a log: its length and the hash of its last entry.
type Head = (u64, [u8; 32]);

/// What has been said to whom, and what is to be said.
#[derive(Debug, Default)]
pub(crate) struct Gossip {
    talks: BTreeMap<PeerId, Talk>,
    /// When a new head is told to the peers.
    announce: Option<Instant>,
    want: Option<Want>,
    pub(crate) spread: Spread,
}

/// The conversation with one peer, for as long as there is a session.
#[derive(Debug)]
struct Talk {
    /// The head it was told last.
    told: Option<Head>,
    /// The head it has told last.
    theirs: Option<Head>,
    /// The revocations it was told.
    revocations: BTreeSet<MemberKey>,
    heard: Bucket,
    asked: Bucket,
    /// The parts of an entry that comes in several packets.
    parts: Vec<u8>,
}

/// A question for missing entries.
#[derive(Debug)]
struct Want {
    peer: PeerId,
    /// Our length when it was asked.
    length: u64,
    deadline: Instant,
    tries: u8,
    why: Why,
}

/// What becomes of entries that the log should hold already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Past {
    /// They are passed over.
    Skip,
    /// They are compared with the log's own.
    Compare,
}

/// Why entries are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The peer's log is longer.
    Missing,
    /// The peer's log is another one: its entry at this place is wanted as the proof.
    Proof,
}

/// Revocations on their way to members without a session.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    /// Who is to be called, in order.
    queue: Vec<PeerId>,
    next: Option<Instant>,
    /// When the calls begin, unless the revocation is ordered before.
    begin: Option<Instant>,
}

impl Default for Talk {
    fn default() -> Self {
        Self {
            told: None,
            theirs: None,
            revocations: BTreeSet::new(),
            heard: Bucket::new(50, 200),
            asked: Bucket::new(4, 16),
            parts: Vec::new(),
        }
    }
}

impl Gossip {
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let want = self.want.as_ref().map(|want| want.deadline);
        [self.announce, want, self.spread.next, self.spread.begin].into_iter().flatten().min()
    }

    /// Forgets a peer, or one whose last session has ended.
    pub(crate) fn forget(&mut self, id: PeerId) {
        self.talks.remove(&id);
        self.want.take_if(|want| want.peer == id);
    }
}

impl Node {
    /// A session with a member carries packets: it is told our head, and the revocations that no log holds yet.
    pub(crate) fn begin_talk(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get(&id).filter(|peer| is_listening(peer)) else { return };
        let Some(network) = peer.profile.network().and_then(|at| self.networks.get_mut(at)) else { return };
        let head = network.state.head();
        if head.0 == 0 {
            return;
        }
        let talk = network.gossip.talks.entry(id).or_default();
        let mut messages = Vec::new();
        for (member, record) in network.state.pending_revocations().take(MAX_REVOCATIONS) {
            if talk.revocations.insert(*member) {
                messages.push(Message::Revocation(record.to_vec()));
            }
        }
        if talk.told != Some(head) {
            talk.told = Some(head);
            messages.push(Message::Head { length: head.0, hash: head.1 });
        }
        for message in messages {
            self.seal(id, None, message.encode());
        }
    }

    /// The log has grown: the peers are told soon.
    pub(crate) fn head_changed(&mut self, now: Instant, at: NetworkNumber) {
        let jitter = Duration::from_millis(u64::from(self.rng.next_u32() % 500));
        if let Some(network) = self.networks.get_mut(at) {
            network.gossip.announce.get_or_insert(now + ANNOUNCE_AFTER + jitter);
        }
    }

    pub(crate) fn gossip_timeout(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let gossip = &mut network.gossip;
        if gossip.announce.take_if(|at| *at <= now).is_some() {
            self.announce(at);
        }
        let Some(network) = self.networks.get_mut(at) else { return };
        if let Some(want) = network.gossip.want.take_if(|want| want.deadline <= now) {
            let progress = network.state.head().0 > want.length;
            let tries = if progress { 0 } else { want.tries + 1 };
            if want.why == Why::Missing && tries < MAX_TRIES {
                self.ask(now, want.peer, tries);
            }
        }
        self.spread_timeout(now, at);
    }

    /// Takes a gossip message out of a session.
    pub(crate) fn handle_gossip(&mut self, now: Instant, id: PeerId, plaintext: &[u8]) -> Result<(), Discard> {
        let at = self.peers.get(&id).and_then(|peer| peer.profile.network()).ok_or(Discard::BadControl)?;
        let network = self.networks.get_mut(at).ok_or(Discard::Stale)?;
        let talk = network.gossip.talks.entry(id).or_default();
        if !talk.heard.take(now) {
            return Err(Discard::TooMuchGossip);
        }
        match Message::decode(plaintext).ok_or(Discard::BadControl)? {
            Message::Head { length, hash } => self.peer_head(now, at, id, (length, hash)),
            Message::Want { from } => return self.serve_entries(now, at, id, from),
            Message::Entries(entries) => return self.gossiped(now, at, id, entries),
            Message::Revocation(record) => return self.hear_revocation(now, at, id, &record),
        }
        Ok(())
    }

    fn announce(&mut self, at: NetworkNumber) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let head = network.state.head();
        let listening = |id: &PeerId| self.peers.get(id).is_some_and(is_listening);
        let lacking: Vec<PeerId> = network
            .gossip
            .talks
            .iter()
            .filter(|(id, talk)| talk.told != Some(head) && talk.theirs != Some(head) && listening(id))
            .map(|(id, _)| *id)
            .take(MAX_TOLD)
            .collect();
        for id in lacking {
            self.begin_talk(id);
        }
    }

    fn peer_head(&mut self, now: Instant, at: NetworkNumber, id: PeerId, head: Head) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let Some(talk) = network.gossip.talks.get_mut(&id) else { return };
        talk.theirs = Some(head);
        match network.state.compare(head.0, head.1) {
            Comparison::Same | Comparison::Unknown => {}
            Comparison::Ahead => self.ask(now, id, 0),
            Comparison::Behind => {
                // It has forgotten what it was told, or was never told: the head lets it ask.
                if talk.asked.take(now) {
                    talk.told = None;
                    self.begin_talk(id);
                }
            }
            Comparison::Fork => {
                let Some(last) = head.0.checked_sub(1) else { return };
                if network.gossip.want.is_none() && network.fork.is_none() {
                    let deadline = now + PATIENCE;
                    let length = network.state.head().0;
                    network.gossip.want = Some(Want { peer: id, length, deadline, tries: 0, why: Why::Proof });
                    self.seal(id, None, Message::Want { from: last }.encode());
                }
            }
        }
    }

    /// Asks a peer for what comes after our log, unless somebody is being asked.
    fn ask(&mut self, now: Instant, id: PeerId, tries: u8) {
        if !self.peers.get(&id).is_some_and(is_listening) {
            return;
        }
        let at = self.peers.get(&id).and_then(|peer| peer.profile.network());
        let Some(network) = at.and_then(|at| self.networks.get_mut(at)) else { return };
        let length = network.state.head().0;
        let theirs = network.gossip.talks.get(&id).and_then(|talk| talk.theirs);
        if network.gossip.want.is_some() || theirs.is_none_or(|(theirs, _)| theirs <= length) {
            return;
        }
        network.gossip.want = Some(Want { peer: id, length, deadline: now + PATIENCE, tries, why: Why::Missing });
        self.seal(id, None, Message::Want { from: length }.encode());
    }

    fn serve_entries(&mut self, now: Instant, at: NetworkNumber, id: PeerId, from: u64) -> Result<(), Discard> {
        let network = self.networks.get_mut(at).ok_or(Discard::Stale)?;
        let talk = network.gossip.talks.get_mut(&id).ok_or(Discard::Stale)?;
        if !talk.asked.take(now) {
            return Err(Discard::TooMuchGossip);
        }
        // What is not at hand is for a server to give.
        let entries = network.tail.from(from).ok_or(Discard::Stale)?;
        let packets: Vec<Vec<u8>> = pages(from, entries).map(|page| Message::Entries(page).encode()).collect();
        for packet in packets {
            self.seal(id, None, packet);
        }
        Ok(())
    }

    fn gossiped(&mut self, now: Instant, at: NetworkNumber, id: PeerId, page: Entries) -> Result<(), Discard> {
        let network = self.networks.get_mut(at).ok_or(Discard::Stale)?;
        let want = network.gossip.want.as_ref().filter(|want| want.peer == id).ok_or(Discard::Stale)?;
        let why = want.why;
        let talk = network.gossip.talks.get_mut(&id).ok_or(Discard::Stale)?;
        let last = page.last;
        let (first, entries) = page.assemble(&mut talk.parts).ok_or(Discard::BadControl)?;
        let before = network.state.head().0;
        let taken = self.absorb(now, at, first, &entries, if why == Why::Proof { Past::Compare } else { Past::Skip });
        let Some(network) = self.networks.get_mut(at) else { return Ok(()) };
        let length = network.state.head().0;
        if length > before
            && let Some(want) = &mut network.gossip.want
        {
            want.deadline = now + PATIENCE;
        }
        if taken.is_err() || (last && !entries.is_empty()) {
            network.gossip.want = None;
        }
        taken.map_err(|_| Discard::BadGossip)?;
        if last && length > before {
            self.ask(now, id, 0);
            self.sync_servers(now, at);
        }
        Ok(())
    }

    /// Applies entries that continue the log, wherever they come from, stores them and puts them into effect. Words of what is wrong with the first that is not taken.
    pub(crate) fn absorb(
        &mut self,
        now: Instant,
        at: NetworkNumber,
        first: u64,
        entries: &[Vec<u8>],
        past: Past,
    ) -> Result<(), String> {
        let Some(network) = self.networks.get_mut(at) else { return Ok(()) };
        let mut fresh = Vec::new();
        let mut changes = Vec::new();
        let mut outcome = Ok(());
        for (offset, bytes) in (0u64..).zip(entries) {
            let length = network.state.head().0;
            let Some(sequence) = first.checked_add(offset) else { break };
            if sequence > length || (sequence < length && past == Past::Skip) {
                continue;
            }
            if length >= MAX_LOG {
                outcome = Err(format!("the log has more than {MAX_LOG} entries"));
                break;
            }
            match network.take_entry(bytes) {
                Ok(taken) => {
                    if network.state.head().0 > length {
                        fresh.push(bytes.clone());
                    }
                    changes.extend(taken);
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        let id = network.saved.id();
        if !fresh.is_empty() {
            self.outputs.push_back(Output::StoreEntries { network: id, entries: fresh });
            self.drop_ordered_revocations(at);
            self.take_changes(now, at, &changes);
            self.head_changed(now, at);
        }
        self.report_alarm(at);
        outcome
    }

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
        if !network.saved.revocations.iter().any(|known| known == record) {
            network.saved.revocations.push(record.to_vec());
        }
        tracing::info!(member = %key, "revoked before it is ordered");
        let awake = self.awake.iter().filter_map(|id| self.peers.get(id));
        let hears = |peer: &&Peer| peer.profile.network() == Some(at) && is_listening(peer);
        let listening: Vec<PeerId> = awake.filter(hears).map(|peer| peer.id).collect();
        for id in listening {
            // The one that is revoked is told, too, before its session ends.
            let Some(network) = self.networks.get_mut(at) else { break };
            if network.gossip.talks.entry(id).or_default().revocations.insert(key) && Some(id) != from {
                self.seal(id, None, Message::Revocation(record.to_vec()).encode());
            }
        }
        let jitter = Duration::from_millis(u64::from(self.rng.next_u32() % 2000));
        if let Some(network) = self.networks.get_mut(at) {
            let delay = if from.is_some() { SPREAD_AFTER + jitter } else { SPREAD_AFTER };
            network.gossip.spread.begin.get_or_insert(now + delay);
        }
        self.persist();
        self.sync_members(at);
        self.send_waiting(now, at);
        Ok(())
    }

    fn hear_revocation(&mut self, now: Instant, at: NetworkNumber, id: PeerId, record: &[u8]) -> Result<(), Discard> {
        let network = self.networks.get(at).ok_or(Discard::Stale)?;
        if network.state.pending_revocations().any(|(_, known)| known == record) {
            return Ok(());
        }
        match network.state.verify_revocation(record) {
            Ok(key) if network.state.is_revoked(&key) => Ok(()),
            Ok(_) => self.revoke_here(now, at, record, Some(id)),
            Err(ginnel_membership::Refusal::AlreadyRevoked) => Ok(()),
            Err(_) => Err(Discard::BadGossip),
        }
    }

    /// Calls members that have no session, so that they hear of a revocation that no server has ordered.
    fn spread_timeout(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get_mut(at) else { return };
        if network.state.pending_revocations().next().is_none() {
            network.gossip.spread = Spread::default();
            return;
        }
        if network.gossip.spread.begin.take_if(|at| *at <= now).is_some() {
            let recent: Vec<MemberKey> = network.saved.recent.members().collect();
            let mut queue: Vec<PeerId> = recent.iter().filter_map(|member| self.member_peer(at, member)).collect();
            let others = self.peers.values().filter(|peer| peer.profile.network() == Some(at)).map(|peer| peer.id);
            queue.extend(others.take(MAX_CALLED));
            let mut seen = BTreeSet::new();
            queue.retain(|id| seen.insert(*id) && self.peers.get(id).is_some_and(|peer| !is_listening(peer)));
            queue.truncate(MAX_CALLED);
            queue.reverse();
            let Some(network) = self.networks.get_mut(at) else { return };
            network.gossip.spread.next = (!queue.is_empty()).then_some(now);
            network.gossip.spread.queue = queue;
        }
        let Some(network) = self.networks.get_mut(at) else { return };
        let spread = &mut network.gossip.spread;
        if spread.next.is_some_and(|at| at <= now) {
            let id = spread.queue.pop();
            spread.next = (!spread.queue.is_empty()).then(|| now + CALL_PACE);
            if let Some(id) = id.filter(|id| self.peers.get(id).is_some_and(|peer| peer.attempt.is_none())) {
                self.recall(now, id);
                self.begin_attempt(now, id, now, CALLS_LAST);
            }
        }
    }
}

/// Whether what is sealed for a peer reaches it.
fn is_listening(peer: &Peer) -> bool {
    let confirmed = peer.session.is_some_and(|session| session.confirmed == Confirmation::Confirmed);
    peer.profile.member.is_some() && confirmed && peer.primary().is_some()
}

/// Entries that a log may have; the server's own bound is lower.
const MAX_LOG: u64 = 1 << 20;
/// A new head is told after this time and up to half a second more: by then most have it from a server.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(300);
/// How long an answer may take, from one packet to the next.
const PATIENCE: Duration = Duration::from_secs(2);
const MAX_TRIES: u8 = 4;
const MAX_TOLD: usize = 256;
/// Packets of one answer.
const MAX_PACKETS: usize = 24;
/// Revocations that a peer is told at once.
const MAX_REVOCATIONS: usize = 64;
/// A server has this long to order a revocation before members without a session are called.
const SPREAD_AFTER: Duration = Duration::from_secs(2);
/// Members called for one revocation; each passes it on.
const MAX_CALLED: usize = 64;
const CALL_PACE: Duration = Duration::from_millis(50);
/// How long such a call is kept up.
const CALLS_LAST: Duration = Duration::from_secs(45);
