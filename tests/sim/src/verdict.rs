//! The oracle: what a conversation is entitled to now, by the theory of NATs and by what befell its machines.

use std::time::Duration;

use ginnel_node::Family;
use ginnel_time::Instant;

use crate::calm::{Concern, Promise, REBUILT, STALLED, Servers, Talk};
use crate::judge::SECOND_LOOK;
use crate::ledger::{Flow, UNLIKELY_LOST};
use crate::machine::Life;
use crate::nat::Behaviour;
use crate::oracle::{Theory, Verdict, is_easy, is_forgetful, is_open, is_walled, minds, theory};
use crate::scenario::Weather;
use crate::station::Service;
use crate::world::World;

impl World {
    /// Whether a pair has a way for its packets, as far as NATs and relays go. Rounds of punching are arranged inside a
    /// session: without a relay there is none before the first path, so only pairs that meet at first sight must meet.
    pub(crate) fn must_link(&self, a: usize, b: usize) -> bool {
        self.has_relays() || (self.theory(a, b) == Theory::Meet && is_easy(&self.chain(a), &self.chain(b)))
    }

    /// Whether no direct path can join two machines, whoever helps. A hostile member that hears the internet knows the ports
    /// that NATs give, and tells both of them as candidates of its own: that opens what the theory calls closed, unless the
    /// two are behind one NAT that turns nothing back.
    pub(crate) fn is_hopeless(&self, a: usize, b: usize) -> bool {
        let helped = !self.script.hostile.is_empty() && !is_walled(&self.chain(a), &self.chain(b));
        self.theory(a, b) == Theory::Never && !helped
    }

    /// Whether a pair that nobody arranges anything for has a way all the same, as long as its NATs remember it: what comes
    /// in is let in from any port.
    pub(crate) fn is_open_pair(&self, a: usize, b: usize) -> bool {
        let (from, to) = (self.chain(a), self.chain(b));
        !self.must_link(a, b) && is_open(&from, &to) && !is_forgetful(&from, &to)
    }

    /// What theory says of a pair where its machines now are.
    pub(crate) fn theory(&self, a: usize, b: usize) -> Theory {
        theory(&self.chain(a), &self.chain(b))
    }

    pub(crate) fn chain(&self, machine: usize) -> Vec<(usize, Behaviour)> {
        let nats = self.net.nats(self.machines[machine].setup.realm);
        nats.into_iter().map(|(number, nat)| (number, nat.behaviour)).collect()
    }

    /// How long the judge waits in this world. Without a relay nothing stands by for a path that died in silence, and it is
    /// found out by 3 s of unanswered probes.
    pub(crate) fn patience(&self) -> Patience {
        let patience = self.weather.patience();
        let slow = if self.has_relays() { Duration::ZERO } else { Duration::from_secs(4) };
        Patience { first: patience.first + slow, direct: patience.direct + slow, ..patience }
    }

    pub(crate) fn has_relays(&self) -> bool {
        self.services.iter().any(|service| *service != Service::StunOnly)
    }

    pub(crate) fn promise(&self, index: usize) -> Promise {
        self.calm.promise(self.now, &self.concern(index))
    }

    /// A conversation as disturbances see it.
    fn concern(&self, index: usize) -> Concern {
        let Flow { from, to, start, .. } = self.ledger.flows[index];
        let others = self.ledger.flows.iter().enumerate().filter(|(other, _)| *other != index);
        let talks: Vec<Talk> = others
            .map(|(_, flow)| flow)
            .filter(|flow| (flow.from, flow.to) == (from, to) || (flow.from, flow.to) == (to, from))
            .filter(|flow| flow.start < self.now && flow.sent > 0)
            .map(|flow| Talk { start: flow.start, end: flow.end.min(self.now), heard: flow.heard })
            .collect();
        let known = known_since(start, &talks);
        let direct = self.theory(from, to) == Theory::Meet;
        Concern { a: from, b: to, start, known, direct, servers: Servers::Any, talks }
    }

    /// Whether a datagram is sealed for somebody whom its sender may have lost: something has struck them since they have
    /// this key, and the one server that could bring them together again has another face for each. Such a key is asked for
    /// a way until it ends, and nobody can replace it.
    pub(crate) fn may_be_lost(&self, machine: usize, bytes: &[u8]) -> bool {
        let Some(since) = self.ledger.serves_since(machine, bytes) else { return false };
        let address = |other: usize| {
            self.machines[other].tunnel_address(Family::V6).or(self.script.addresses.get(other).copied().flatten())
        };
        let is_for = |other: usize| address(other).is_some_and(|to| self.machines[machine].seals_for(bytes, to));
        let addressee = (0..self.machines.len()).find(|other| is_for(*other));
        addressee.is_some_and(|other| {
            let direct = self.theory(machine, other) == Theory::Meet;
            let concern = Concern { direct, servers: Servers::Any, ..Concern::other(machine, other, since) };
            self.see_two_faces(machine, other) && self.calm.is_severing(self.now, &concern)
        })
    }

    pub(crate) fn verdict(&self, index: usize) -> Verdict {
        let Flow { from, to, .. } = self.ledger.flows[index];
        if (self.is_hopeless(from, to) && !self.has_relays()) || self.ledger.flows[index].parted.is_some() {
            return Verdict::Cannot;
        }
        if self.severed_since(from, to).is_some() {
            return if self.learnt(index).is_empty() { Verdict::May } else { Verdict::Cannot };
        }
        if let Some(since) = self.direct_since(index)
            && since <= self.now
            && (self.weather == Weather::Clear || self.now + SECOND_LOOK < self.ledger.flows[index].end)
        {
            return Verdict::Direct;
        }
        if self.owed(index).is_some_and(|owed| owed.said >= self.telling()) { Verdict::Linked } else { Verdict::May }
    }

    /// From when on a conversation is entitled to a direct path, if it is.
    pub(crate) fn direct_since(&self, index: usize) -> Option<Instant> {
        let Flow { from, to, .. } = self.ledger.flows[index];
        if !self.must_link(from, to) || self.theory(from, to) != Theory::Meet {
            return None;
        }
        let minds = minds(&self.chain(from), &self.chain(to));
        // Those who met before first try what they remember, which their NATs may have forgotten in silence.
        let met = self.ledger.flows.iter().take(index).any(|flow| {
            flow.first.is_some() && ((flow.from, flow.to) == (from, to) || (flow.from, flow.to) == (to, from))
        });
        let direct = self.patience().direct + if minds || met { ROUNDS } else { Duration::ZERO };
        match self.promise(index) {
            Promise::Full(since) => Some(since + direct),
            Promise::Shaken(since) => Some(since + REBUILT),
            Promise::Linked(_) | Promise::Nothing => None,
        }
    }

    /// What a conversation must have delivered something of, once it must have.
    pub(crate) fn owed(&self, index: usize) -> Option<Owed> {
        let Flow { from, to, .. } = self.ledger.flows[index];
        let open = self.is_open_pair(from, to);
        if !open && !self.must_link(from, to) {
            return None;
        }
        let gap = self.weather.patience().gap;
        // A path that a NAT has forgotten in silence is left only once it has been asked in vain.
        let forgotten = is_forgetful(&self.chain(from), &self.chain(to));
        let (since, first, gap) = match self.promise(index) {
            Promise::Nothing => return None,
            Promise::Full(since) if !open => (since, if forgotten { gap } else { self.patience().first }, gap),
            Promise::Full(since) | Promise::Shaken(since) | Promise::Linked(since) => (since, STALLED, STALLED),
        };
        let begun = since + first <= self.now;
        let since = since.max(self.now - gap);
        begun.then(|| Owed { since, said: self.ledger.flows[index].said_since(since) })
    }

    /// So many packets are not lost in a row. Where no line loses any, some may go the way of a path that died in silence.
    pub(crate) const fn telling(&self) -> usize {
        match self.weather {
            Weather::Clear => 3,
            Weather::Rough => UNLIKELY_LOST,
        }
    }

    /// The ends of a conversation that must have learnt by now that nothing goes between them.
    pub(crate) fn learnt(&self, index: usize) -> Vec<(usize, usize)> {
        let Flow { from, to, start, .. } = self.ledger.flows[index];
        let Some(since) = self.severed_since(from, to) else { return Vec::new() };
        // Who sleeps learns nothing, and a relay may have died meanwhile that would have gone on.
        let able = |end: usize| self.machines[end].woke.map_or(since, |woke| woke.max(since));
        let talks = self.now >= able(from).max(start) + FOUND_OUT;
        // Who only listens asks more rarely whether somebody is still there, and only who was talked to lately.
        let listens = start < since && self.now >= able(to) + NOTICED;
        let ends = [(from, to, talks), (to, from, listens)].into_iter();
        let awake = ends.filter(|(end, _, knows)| *knows && self.machines[*end].life == Life::Awake);
        awake.map(|(end, other, _)| (end, other)).collect()
    }

    /// Why a conversation cannot be judged.
    pub(crate) fn doubt(&self, index: usize) -> String {
        let Flow { from, to, .. } = self.ledger.flows[index];
        if self.severed_since(from, to).is_some() {
            return "just severed".to_owned();
        }
        if !self.must_link(from, to) {
            return "no relay for a hard pair".to_owned();
        }
        if self.owed(index).is_some() {
            return "too little said to tell".to_owned();
        }
        self.calm.reason(self.now, &self.concern(index))
    }
}

/// What must have arrived of a conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owed {
    /// A packet at least since then.
    pub(crate) since: Instant,
    /// So many were sent since then, as far as is remembered.
    pub(crate) said: usize,
}

/// Since when two machines have been talking with no pause in which a path between them may have been forgotten.
fn known_since(start: Instant, talks: &[Talk]) -> Instant {
    let mut known = start;
    while let Some(talk) =
        talks.iter().find(|talk| talk.start < known && talk.heard.is_some_and(|at| at + KEPT > known))
    {
        known = talk.start;
    }
    known
}

/// How long the judge waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) join: Duration,
    pub(crate) first: Duration,
    pub(crate) direct: Duration,
    pub(crate) gap: Duration,
}

impl Weather {
    pub(crate) const fn patience(self) -> Patience {
        match self {
            Self::Clear => Patience {
                join: Duration::from_secs(30),
                first: Duration::from_secs(1),
                direct: Duration::from_secs(3),
                gap: Duration::from_secs(5),
            },
            Self::Rough => Patience {
                join: Duration::from_secs(90),
                first: Duration::from_secs(10),
                direct: Duration::from_secs(60),
                gap: Duration::from_secs(15),
            },
        }
    }
}

/// What a further round of punching takes, the first one's patience of 2.5 s included: a NAT that minds early packets may
/// cost it, or one that has forgotten what was open.
const ROUNDS: Duration = Duration::from_secs(3);
/// Who has heard from each other asks after the path for two minutes more.
const KEPT: Duration = Duration::from_secs(60);
/// Who talks into the void leaves one path after 3 s, and the next, until none is left.
pub(crate) const FOUND_OUT: Duration = Duration::from_secs(15);
/// Likewise who only listens.
const NOTICED: Duration = Duration::from_secs(60);
