//! What one peer has to tell node, held until it is taken.

use std::collections::VecDeque;

use ginnel_path::Path;
use ginnel_tunnel::ReceiverIndex;

use crate::command::PeerId;
use crate::config::{ARRIVED_QUEUE, CONTROL_QUEUE, EXPIRED_QUEUE};
use crate::counters::Discard;
use crate::event::{Event, RekeyReason};
use crate::table::{Slot, Table};

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    Confirmed(ReceiverIndex),
    Expired(ReceiverIndex),
    RekeyDue(RekeyReason),
    SessionWanted,
    Arrived(Path),
    Roamed(Path),
    Control(Path, Vec<u8>),
    Sent,
    Received,
}

/// One peer's facts, in the order in which they came true. A fact that waits already is not held twice.
#[derive(Default)]
pub(crate) struct Facts {
    waiting: VecDeque<Fact>,
    listed: bool,
}

impl Facts {
    /// Holds a fact.
    ///
    /// # Errors
    /// [`Discard::ControlFull`] when the fact was dropped, [`Discard::FactFull`] when an older one was dropped for it.
    pub(crate) fn push(&mut self, fact: Fact) -> Result<(), Discard> {
        let bound = match &fact {
            Fact::Control(..) if self.count(&fact) >= CONTROL_QUEUE => return Err(Discard::ControlFull),
            Fact::Control(..) => CONTROL_QUEUE,
            _ if self.waiting.contains(&fact) => return Ok(()),
            Fact::Roamed(_) | Fact::RekeyDue(_) | Fact::SessionWanted | Fact::Sent | Fact::Received => {
                self.retract(&fact);
                1
            }
            Fact::Arrived(_) => ARRIVED_QUEUE,
            Fact::Confirmed(_) | Fact::Expired(_) => EXPIRED_QUEUE,
        };
        let full = self.count(&fact) >= bound;
        if full && let Some(oldest) = self.waiting.iter().position(|other| same_kind(other, &fact)) {
            self.waiting.remove(oldest);
        }
        self.waiting.push_back(fact);
        if full { Err(Discard::FactFull) } else { Ok(()) }
    }

    /// Drops every waiting fact of the kind of `like`: it is no longer true.
    pub(crate) fn retract(&mut self, like: &Fact) {
        self.waiting.retain(|other| !same_kind(other, like));
    }

    fn count(&self, fact: &Fact) -> usize {
        self.waiting.iter().filter(|other| same_kind(other, fact)).count()
    }
}

/// A peer that has facts.
pub(crate) trait HasFacts {
    fn id(&self) -> PeerId;
    fn facts(&mut self) -> &mut Facts;
}

/// The peers of one half that have facts waiting, each listed once and served in turn.
#[derive(Default)]
pub(crate) struct Ready(VecDeque<Slot>);

impl Ready {
    /// Lists a peer if it has facts waiting and is not listed.
    pub(crate) fn list(&mut self, slot: Slot, facts: &mut Facts) {
        if !facts.listed && !facts.waiting.is_empty() {
            facts.listed = true;
            self.0.push_back(slot);
        }
    }

    /// Takes the next event.
    pub(crate) fn poll<T: HasFacts>(&mut self, peers: &mut Table<T>) -> Option<Event> {
        while let Some(slot) = self.0.pop_front() {
            let Some(peer) = peers.get_mut(slot) else { continue };
            let id = peer.id();
            let facts = peer.facts();
            facts.listed = false;
            let fact = facts.waiting.pop_front();
            self.list(slot, facts);
            if let Some(fact) = fact {
                return Some(event(id, fact));
            }
        }
        None
    }

    /// Whether no peer is listed. A listed peer whose facts were retracted counts until the next poll.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn event(peer: PeerId, fact: Fact) -> Event {
    match fact {
        Fact::Confirmed(index) => Event::Confirmed { peer, index },
        Fact::Expired(index) => Event::Expired { index, peer },
        Fact::RekeyDue(why) => Event::RekeyDue { peer, why },
        Fact::SessionWanted => Event::SessionWanted { peer },
        Fact::Arrived(path) => Event::Arrived { peer, path },
        Fact::Roamed(path) => Event::Roamed { peer, path },
        Fact::Control(path, plaintext) => Event::Control { peer, path, plaintext },
        Fact::Sent => Event::Traffic { peer, sent: true, received: false },
        Fact::Received => Event::Traffic { peer, sent: false, received: true },
    }
}

fn same_kind(a: &Fact, b: &Fact) -> bool {
    std::mem::discriminant(a) == std::mem::discriminant(b)
}

#[cfg(test)]
mod tests {
    use ginnel_path::{Local, SocketId};

    use super::*;

    fn path(port: u16) -> Path {
        Path { local: Local::Socket(SocketId(0)), remote: ([192, 0, 2, 1], port).into() }
    }

    fn drain(facts: &mut Facts) -> Vec<Fact> {
        facts.waiting.drain(..).collect()
    }

    #[test]
    fn a_fact_waits_once_and_the_newest_endpoint_counts() {
        let mut facts = Facts::default();
        for fact in [Fact::SessionWanted, Fact::Roamed(path(1)), Fact::SessionWanted, Fact::Roamed(path(2))] {
            assert_eq!(facts.push(fact), Ok(()));
        }
        assert_eq!(drain(&mut facts), [Fact::SessionWanted, Fact::Roamed(path(2))]);
    }

    #[test]
    fn each_kind_keeps_its_bound() {
        let mut facts = Facts::default();
        for number in 0..100u16 {
            let _ = facts.push(Fact::Arrived(path(number)));
            let _ = facts.push(Fact::Control(path(0), vec![number as u8]));
            let _ = facts.push(Fact::Expired(ReceiverIndex(number.into())));
        }
        assert_eq!(facts.count(&Fact::Arrived(path(0))), ARRIVED_QUEUE);
        assert_eq!(facts.count(&Fact::Control(path(0), Vec::new())), CONTROL_QUEUE);
        assert_eq!(facts.count(&Fact::Expired(ReceiverIndex(0))), EXPIRED_QUEUE);
        let kept = drain(&mut facts);
        assert!(kept.contains(&Fact::Arrived(path(99))) && kept.contains(&Fact::Expired(ReceiverIndex(99))));
        assert!(kept.contains(&Fact::Control(path(0), vec![0])) && !kept.contains(&Fact::Control(path(0), vec![99])));
    }
}
