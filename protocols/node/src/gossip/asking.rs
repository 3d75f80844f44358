//! Who is asked for what the log lacks, and for the proof of another history.
//!
//! A head is a word, and who gives it may never answer: whoever was asked in vain goes behind all others that could know,
//! and after [`MAX_MISSES`] times rests for [`REST`]. When it is asked in vain after that as well, what it claims is
//! forgotten until it claims it again. The two sorts of question keep out of each other's way.

use std::collections::BTreeMap;
use std::time::Duration;

use ginnel_forward::PeerId;
use ginnel_membership::state::Comparison;
use ginnel_time::Instant;

use super::{Head, Talk, is_listening};
use crate::gossip::message::Message;
use crate::networks::NetworkNumber;
use crate::node::Node;

/// Why entries are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The peer's log is longer.
    Missing,
    /// The peer's log is another one: its entry at this place is wanted as the proof.
    Proof,
}

/// The questions under way.
#[derive(Debug, Default)]
pub(super) struct Asking {
    missing: Slot,
    proof: Slot,
}

/// One sort of question; one is under way at a time.
#[derive(Debug, Default)]
struct Slot {
    want: Option<Want>,
    /// When the next is put, if none is under way.
    again: Option<Instant>,
}

#[derive(Debug)]
struct Want {
    peer: PeerId,
    /// The first sequence that is asked for.
    from: u64,
    began: Instant,
    deadline: Instant,
}

/// What became of the questions of one sort that a peer was asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tried {
    last: Option<Instant>,
    /// Those in vain since one that was not.
    misses: u8,
}

impl Tried {
    fn rests_until(self, now: Instant) -> Option<Instant> {
        let until = self.last.filter(|_| self.misses >= MAX_MISSES)? + REST;
        (now < until).then_some(until)
    }
}

impl Asking {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let due = |slot: &Slot| slot.want.as_ref().map(|want| want.deadline).or(slot.again);
        due(&self.missing).into_iter().chain(due(&self.proof)).min()
    }

    /// A peer is gone; another one is asked in its place.
    pub(super) fn forget(&mut self, now: Instant, id: PeerId) {
        for slot in [&mut self.missing, &mut self.proof] {
            if slot.want.take_if(|want| want.peer == id).is_some() {
                slot.again = Some(now);
            }
        }
    }

    /// Which question of ours entries from `first` on are an answer to.
    pub(super) fn asked(&self, id: PeerId, first: u64) -> Option<Why> {
        let proves = self.proof.want.as_ref().is_some_and(|want| want.peer == id && want.from == first);
        let lacks = self.missing.want.as_ref().is_some_and(|want| want.peer == id);
        proves.then_some(Why::Proof).or(lacks.then_some(Why::Missing))
    }

    /// More of an answer may follow.
    pub(super) fn goes_on(&mut self, now: Instant, why: Why) {
        if let Some(want) = &mut self.slot(why).want {
            want.deadline = (now + PATIENCE).min(want.began + LONGEST);
        }
    }

    fn slot(&mut self, why: Why) -> &mut Slot {
        match why {
            Why::Missing => &mut self.missing,
            Why::Proof => &mut self.proof,
        }
    }
}

impl Talk {
    fn tried(&mut self, why: Why) -> &mut Tried {
        match why {
            Why::Missing => &mut self.missing,
            Why::Proof => &mut self.proof,
        }
    }
}

impl Node {
    /// Asks the next peer that could know, unless one is being asked.
    pub(super) fn ask_next(&mut self, now: Instant, at: NetworkNumber, why: Why) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let (state, forked) = (&network.state, network.fork.is_some());
        let length = state.head().0;
        let knows = |theirs: Head| match why {
            Why::Missing => theirs.0 > length,
            Why::Proof => !forked && theirs.0 > 0 && state.compare(theirs.0, theirs.1) == Comparison::Fork,
        };
        let slot = network.gossip.asking.slot(why);
        slot.again = None;
        if slot.want.is_some() {
            return;
        }
        let listening = |id: &PeerId| self.peers.get(id).is_some_and(is_listening);
        let (next, rested) = choose(&mut network.gossip.talks, now, why, |id, head| knows(head) && listening(id));
        let Some((peer, theirs)) = next else {
            slot.again = rested;
            return;
        };
        let from = match why {
            Why::Missing => length,
            Why::Proof => theirs.saturating_sub(1),
        };
        slot.want = Some(Want { peer, from, began: now, deadline: now + PATIENCE });
        self.seal(peer, None, Message::Want { from }.encode());
    }

    /// A question is answered, for better or worse.
    pub(super) fn answered(&mut self, now: Instant, at: NetworkNumber, why: Why, outcome: Answer) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let gossip = &mut network.gossip;
        if let Some(want) = gossip.asking.slot(why).want.take()
            && let Some(talk) = gossip.talks.get_mut(&want.peer)
        {
            let tried = talk.tried(why);
            let rested = tried.misses >= MAX_MISSES;
            tried.misses = match outcome {
                Answer::Useful => 0,
                Answer::Vain => (tried.misses + 1).min(MAX_MISSES),
                Answer::Useless => MAX_MISSES,
            };
            if rested && tried.misses == MAX_MISSES {
                // Else the questions alone would keep the session alive for as long as both machines run.
                talk.theirs = None;
            }
        }
        self.ask_next(now, at, why);
    }

    pub(super) fn asking_timeout(&mut self, now: Instant, at: NetworkNumber) {
        for why in [Why::Missing, Why::Proof] {
            let Some(network) = self.networks.get_mut(at) else { return };
            let slot = network.gossip.asking.slot(why);
            if slot.want.as_ref().is_some_and(|want| want.deadline <= now) {
                self.answered(now, at, why, Answer::Vain);
            } else if slot.again.is_some_and(|at| at <= now) {
                self.ask_next(now, at, why);
            }
        }
    }
}

/// What an answer was worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The log has grown by it.
    Useful,
    /// It did not come, or not wholly.
    Vain,
    /// The peer has nothing to say.
    Useless,
}

/// Whoever was asked in vain least often and longest ago, and the length of its log; else when the first has rested.
fn choose(
    talks: &mut BTreeMap<PeerId, Talk>,
    now: Instant,
    why: Why,
    could: impl Fn(&PeerId, Head) -> bool,
) -> (Option<(PeerId, u64)>, Option<Instant>) {
    let mut rested: Option<Instant> = None;
    let mut best: Option<((u8, Option<Instant>), PeerId)> = None;
    for (id, talk) in talks.iter_mut() {
        if !talk.theirs.is_some_and(|head| could(id, head)) {
            continue;
        }
        let tried = *talk.tried(why);
        match tried.rests_until(now) {
            Some(until) => rested = Some(rested.map_or(until, |first| first.min(until))),
            None => {
                let rank = (tried.misses, tried.last);
                if best.is_none_or(|(least, _)| rank < least) {
                    best = Some((rank, *id));
                }
            }
        }
    }
    let Some((_, id)) = best else { return (None, rested) };
    let Some(talk) = talks.get_mut(&id) else { return (None, rested) };
    talk.tried(why).last = Some(now);
    (talk.theirs.map(|(length, _)| (id, length)), rested)
}

/// How long an answer may take, from one packet to the next.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// And from the first to the last.
const LONGEST: Duration = Duration::from_secs(8);
/// Questions in vain after which a peer rests.
pub(super) const MAX_MISSES: u8 = 4;
/// How long it rests.
pub(super) const REST: Duration = Duration::from_secs(60);
