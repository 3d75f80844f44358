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
//! | questions under way | one for missing entries and one for the proof of another history, each for 2 s; the next goes to whoever was asked in vain least often and longest ago, and four in vain give a peer a rest of a minute; when one more is in vain, what it claims is forgotten until it claims it again |
//! | peers told of a new head at a time | [`MAX_TOLD`], the rest [`TOLD_PACE`] later |
//! | revocations that cannot be judged yet | 8 from one peer, 64 in all |
//! | repeats of a head for a peer that has not shown that it heard, and of revocations, which nobody acknowledges | [`REPEATS`], [`REPEAT`] apart |

mod asking;
mod message;
mod revoking;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ginnel_forward::PeerId;
use ginnel_membership::state::Comparison;
use ginnel_membership::{Change, MemberKey, State};
use ginnel_time::Instant;
use rand_core::RngCore;

use crate::Discard;
use crate::io::Output;
use crate::load::Bucket;
use crate::networks::NetworkNumber;
use crate::node::Node;
use crate::peer::{Confirmation, Peer};
use asking::{Answer, Asking, Tried, Why};
pub(crate) use message::is_gossip;
use message::{Entries, Message, pages};
use revoking::Revoking;

/// The end of a log: its length and the hash of its last entry.
type Head = (u64, [u8; 32]);

/// What has been said to whom, and what is to be said.
#[derive(Debug, Default)]
pub(crate) struct Gossip {
    talks: BTreeMap<PeerId, Talk>,
    /// When a new head is told to the peers.
    announce: Option<Instant>,
    /// When those are told again who have not shown that they heard.
    again: Option<Instant>,
    asking: Asking,
    revoking: Revoking,
}

/// The conversation with one peer, for as long as there is a session.
#[derive(Debug)]
struct Talk {
    /// The head it was told last.
    told: Option<Head>,
    /// The head it has told last.
    theirs: Option<Head>,
    /// How often it is still told again what it was told last: a datagram may be lost.
    repeats: u8,
    /// When the session was made in which it was told revocations.
    session: Option<Instant>,
    /// The revocations it was told in that session.
    revocations: BTreeSet<MemberKey>,
    heard: Bucket,
    asked: Bucket,
    /// The parts of an entry that comes in several packets.
    parts: Vec<u8>,
    /// What it was asked: for entries that are missing here, and for the proof of another history.
    missing: Tried,
    proof: Tried,
}

/// What becomes of entries that the log should hold already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Past {
    /// They are passed over.
    Skip,
    /// They are compared with the log's own.
    Compare,
}

impl Default for Talk {
    fn default() -> Self {
        Self {
            told: None,
            theirs: None,
            repeats: 0,
            session: None,
            revocations: BTreeSet::new(),
            heard: Bucket::new(50, 200),
            asked: Bucket::new(4, 16),
            parts: Vec::new(),
            missing: Tried::default(),
            proof: Tried::default(),
        }
    }
}

impl Talk {
    /// Whether the peer does not know of all revocations that wait to be ordered.
    fn lacks_revocations(&self, state: &State) -> bool {
        state.pending_revocations().any(|(member, _)| !self.revocations.contains(member))
    }
}

impl Gossip {
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [self.announce, self.again, self.asking.poll_timeout(), self.revoking.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Forgets a peer, or one whose last session has ended.
    pub(crate) fn forget(&mut self, now: Instant, id: PeerId) {
        self.talks.remove(&id);
        self.asking.forget(now, id);
    }
}

impl Node {
    /// A session with a member carries packets: it is told our head, and the revocations that no log holds yet.
    pub(crate) fn begin_talk(&mut self, id: PeerId) {
        let again = self.now + REPEAT;
        let Some(at) = self.tell(id) else { return };
        let Some(gossip) = self.networks.get_mut(at).map(|network| &mut network.gossip) else { return };
        gossip.again.get_or_insert(again);
        if let Some(talk) = gossip.talks.get_mut(&id) {
            talk.repeats = REPEATS;
        }
    }

    /// Tells a peer what it was not told yet; answers in which network, if there was anything.
    fn tell(&mut self, id: PeerId) -> Option<NetworkNumber> {
        let peer = self.peers.get(&id).filter(|peer| is_listening(peer))?;
        let session = peer.session.map(|session| session.made);
        let at = peer.profile.network()?;
        let network = self.networks.get_mut(at)?;
        let head = network.state.head();
        if head.0 == 0 {
            return None;
        }
        let talk = network.gossip.talks.entry(id).or_default();
        if talk.session != session {
            // It may have been off when it was told them in the session before.
            talk.session = session;
            talk.revocations.clear();
        }
        let mut messages = Vec::new();
        // First, so that the peer knows that it may lack what makes a revocation good.
        if talk.told != Some(head) {
            talk.told = Some(head);
            messages.push(Message::Head { length: head.0, hash: head.1 });
        }
        let untold: Vec<(MemberKey, Vec<u8>)> = network
            .state
            .pending_revocations()
            .filter(|(member, _)| !talk.revocations.contains(member))
            .take(MAX_REVOCATIONS)
            .map(|(member, record)| (*member, record.to_vec()))
            .collect();
        if untold.len() == MAX_REVOCATIONS {
            network.gossip.announce.get_or_insert(self.now + TOLD_PACE);
        }
        for (member, record) in untold {
            talk.revocations.insert(member);
            messages.push(Message::Revocation(record));
        }
        let told = (!messages.is_empty()).then_some(at);
        for message in messages {
            self.seal(id, None, message.encode());
        }
        told
    }

    /// Tells those again who have not shown that they heard.
    fn tell_again(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let head = network.state.head();
        let revoking = network.state.pending_revocations().next().is_some();
        let listening = |id: &PeerId| self.peers.get(id).is_some_and(is_listening);
        let mut deaf = Vec::new();
        for (id, talk) in network.gossip.talks.iter_mut().filter(|(id, talk)| talk.repeats > 0 && listening(id)) {
            talk.repeats -= 1;
            if talk.theirs != Some(head) {
                talk.told = None;
            } else if !revoking {
                talk.repeats = 0;
                continue;
            }
            talk.revocations.clear();
            deaf.push(*id);
            if deaf.len() == MAX_TOLD {
                break;
            }
        }
        if !deaf.is_empty() {
            network.gossip.again = Some(now + REPEAT);
        }
        for id in deaf {
            self.tell(id);
        }
    }

    /// The log has grown: the peers are told soon.
    pub(crate) fn head_changed(&mut self, now: Instant, at: NetworkNumber) {
        let random = u64::from(self.rng.next_u32());
        if let Some(network) = self.networks.get_mut(at) {
            // The more there are to be told, the likelier it is that a server tells them meanwhile.
            let spread = 500_u64.saturating_add(network.gossip.talks.len() as u64 * 10).min(MOST_SPREAD);
            let jitter = Duration::from_millis(random % spread);
            network.gossip.announce.get_or_insert(now + ANNOUNCE_AFTER + jitter);
        }
    }

    pub(crate) fn gossip_timeout(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let gossip = &mut network.gossip;
        if gossip.announce.take_if(|at| *at <= now).is_some() {
            self.announce(now, at);
        }
        if self.networks.get_mut(at).is_some_and(|network| network.gossip.again.take_if(|at| *at <= now).is_some()) {
            self.tell_again(now, at);
        }
        self.asking_timeout(now, at);
        self.calls_timeout(now, at);
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

    fn announce(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get_mut(at).filter(|network| network.state.head().0 > 0) else { return };
        let head = network.state.head();
        let listening = |id: &PeerId| self.peers.get(id).is_some_and(is_listening);
        let knows_head = |talk: &Talk| talk.told == Some(head) || talk.theirs == Some(head);
        let lacks = |talk: &Talk| !knows_head(talk) || talk.lacks_revocations(&network.state);
        let lacking: Vec<(PeerId, bool)> = network
            .gossip
            .talks
            .iter()
            .filter(|(id, talk)| lacks(talk) && listening(id))
            .map(|(id, talk)| (*id, knows_head(talk)))
            .take(MAX_TOLD)
            .collect();
        if lacking.len() == MAX_TOLD {
            network.gossip.announce = Some(now + TOLD_PACE);
        }
        for (id, knows_head) in lacking {
            if knows_head {
                // The rest of what did not fit at once is repeated with what did.
                self.tell(id);
            } else {
                self.begin_talk(id);
            }
        }
    }

    fn peer_head(&mut self, now: Instant, at: NetworkNumber, id: PeerId, head: Head) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let Some(talk) = network.gossip.talks.get_mut(&id) else { return };
        talk.theirs = Some(head);
        match network.state.compare(head.0, head.1) {
            // So that it need not tell us again.
            Comparison::Same => {
                if talk.told != Some(head) {
                    self.begin_talk(id);
                }
            }
            Comparison::Unknown => {}
            Comparison::Ahead => self.ask_next(now, at, Why::Missing),
            Comparison::Behind => {
                // It has forgotten what it was told, or was never told: the head lets it ask.
                if talk.asked.take(now) {
                    talk.told = None;
                    self.begin_talk(id);
                }
            }
            Comparison::Fork => self.ask_next(now, at, Why::Proof),
        }
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
        let why = network.gossip.asking.asked(id, page.first).ok_or(Discard::Stale)?;
        let talk = network.gossip.talks.get_mut(&id).ok_or(Discard::Stale)?;
        let last = page.last;
        let (first, entries) = page.assemble(&mut talk.parts).ok_or(Discard::BadControl)?;
        let before = network.state.head().0;
        let past = match why {
            Why::Missing => Past::Skip,
            Why::Proof => Past::Compare,
        };
        let taken = self.absorb(now, at, first, &entries, past);
        let Some(network) = self.networks.get_mut(at) else { return Ok(()) };
        let grown = network.state.head().0 > before;
        if taken.is_err() {
            self.answered(now, at, why, Answer::Useless);
        } else if last && !entries.is_empty() {
            let answer = match why {
                Why::Missing if grown => Answer::Useful,
                Why::Missing => Answer::Vain,
                Why::Proof => Answer::Useless,
            };
            self.answered(now, at, why, answer);
        } else if grown {
            network.gossip.asking.goes_on(now, why);
        }
        if last && grown {
            self.sync_servers(now, at);
        }
        taken.map_err(|_| Discard::BadGossip)
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
            if length >= MAX_LOG || network.log_bytes > MAX_LOG_BYTES {
                outcome = Err(format!("the log has more than {MAX_LOG} entries or {MAX_LOG_BYTES} bytes"));
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
        if !fresh.is_empty() {
            self.grown(now, at, fresh, &changes);
        }
        self.report_alarm(at);
        outcome
    }

    /// Stores entries that were just applied, and puts what they changed into effect.
    fn grown(&mut self, now: Instant, at: NetworkNumber, fresh: Vec<Vec<u8>>, changes: &[Change]) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let id = network.saved.id();
        let whole_again = network.is_whole_again();
        let settled = std::mem::take(&mut network.settled);
        self.outputs.push_back(Output::StoreEntries { network: id, entries: fresh });
        if whole_again || changes.iter().any(is_pinned) {
            self.persist();
        }
        let revoked = self.retry_revocations(at);
        self.drop_ordered_revocations(at, changes);
        self.take_changes(now, at, changes);
        self.revoked_here(now, at, &revoked);
        if whole_again {
            self.sync_members(at);
        }
        self.head_changed(now, at);
        for (request, outcome) in settled {
            self.finish_request(request, outcome);
        }
    }
}

/// Whether the state folder's memory of the log's end goes on with a change at once: one that a shorter log would undo.
const fn is_pinned(change: &Change) -> bool {
    match change {
        Change::Founded
        | Change::InviteVoided(_)
        | Change::Rotated { .. }
        | Change::Revoked(_)
        | Change::AdminsChanged
        | Change::ServersChanged
        | Change::PolicyChanged => true,
        Change::Invited(_)
        | Change::Joined(_)
        | Change::Updated(_)
        | Change::Spared(_)
        | Change::Leased(_)
        | Change::Checkpointed(_) => false,
    }
}

/// Whether what is sealed for a peer reaches it.
fn is_listening(peer: &Peer) -> bool {
    let confirmed = peer.session.is_some_and(|session| session.confirmed == Confirmation::Confirmed);
    peer.profile.member.is_some() && confirmed && peer.primary().is_some()
}

/// Entries that a log may have; the server's own bound is lower.
const MAX_LOG: u64 = 1 << 20;
/// Bytes that a log may have from the stored one's beginning on: twice the server's own bound, and what a shell can still
/// read back at a start.
const MAX_LOG_BYTES: u64 = 400 << 20;
/// A new head is told after this time and up to half a second more: by then most have it from a server.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(300);
/// And up to ten seconds in a network where many are to be told, in milliseconds.
const MOST_SPREAD: u64 = 10_000;
/// Peers told of a new head at a time.
const MAX_TOLD: usize = 256;
/// How often a peer is told again that has not shown that it heard, and how long after.
const REPEATS: u8 = 3;
const REPEAT: Duration = Duration::from_secs(5);
/// Before what did not fit is told.
const TOLD_PACE: Duration = Duration::from_millis(300);
/// Packets of one answer.
const MAX_PACKETS: usize = 24;
/// Revocations that a peer is told at once.
const MAX_REVOCATIONS: usize = 64;
