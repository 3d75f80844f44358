//! What is disturbed, whom that concerns, and from when on the full promise holds again.

use std::collections::BTreeSet;
use std::time::Duration;

use ginnel_time::Instant;

/// Whom a disturbance concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Pairs with one of these machines.
    Machines(BTreeSet<usize>),
    /// Pairs with one machine of either group.
    Between(BTreeSet<usize>, BTreeSet<usize>),
    /// Conversations that begin meanwhile or were begun shortly before: the signaling server is away.
    Beginning,
    /// Pairs that may need a relay.
    Relayed,
}

/// How long things take to be well after a disturbance has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recovery {
    /// Nothing is promised for so long.
    pub(crate) back: Duration,
    /// For so long a conversation is promised only to get on within [`STALLED`].
    pub(crate) shaken: Duration,
}

#[derive(Clone, Debug)]
struct Mark {
    scope: Scope,
    from: Instant,
    until: Option<Instant>,
    recovery: Recovery,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MarkId(usize);

/// A conversation, as far as disturbances concern it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Concern {
    pub(crate) a: usize,
    pub(crate) b: usize,
    /// When it began.
    pub(crate) start: Instant,
    /// Whether its machines have a direct path for certain.
    pub(crate) direct: bool,
}

/// What may be promised to a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Promise {
    /// Everything, from this time on.
    Full(Instant),
    /// To get on within [`STALLED`], from this time on.
    Shaken(Instant),
    /// Nothing yet.
    Nothing,
}

/// All disturbances of a world.
#[derive(Debug, Default)]
pub(crate) struct Calm {
    marks: Vec<Mark>,
}

impl Calm {
    pub(crate) fn begin(&mut self, now: Instant, scope: Scope, recovery: Recovery) -> MarkId {
        self.marks.push(Mark { scope, from: now, until: None, recovery });
        MarkId(self.marks.len() - 1)
    }

    pub(crate) fn end(&mut self, now: Instant, id: MarkId) {
        self.marks[id.0].until = Some(now);
    }

    pub(crate) fn promise(&self, now: Instant, concern: Concern) -> Promise {
        // Whom something has struck begins anew, and needs server and relay for it like the first time.
        let struck = self.marks.iter().filter(|mark| mark.is_personal() && mark.concerns(concern));
        let anew = struck.filter_map(|mark| mark.until).fold(concern.start, Instant::max);
        let beginning = Concern { start: anew, ..concern };
        let mut best = Promise::Full(concern.start);
        for mark in self.marks.iter().filter(|mark| mark.concerns(beginning)) {
            let Some(until) = mark.until else { return Promise::Nothing };
            let back = until + mark.recovery.back;
            if now < back {
                return Promise::Nothing;
            }
            let shaken = until + mark.recovery.shaken.max(mark.recovery.back);
            let since = |other: Promise| match other {
                Promise::Full(at) | Promise::Shaken(at) => at.max(back),
                Promise::Nothing => back,
            };
            best = if concern.start < shaken || matches!(best, Promise::Shaken(_)) {
                Promise::Shaken(since(best))
            } else {
                Promise::Full(since(best))
            };
        }
        best
    }
}

impl Mark {
    /// Whether it strikes machines or lines, and not what all share.
    const fn is_personal(&self) -> bool {
        matches!(self.scope, Scope::Machines(_) | Scope::Between(..))
    }

    fn concerns(&self, concern: Concern) -> bool {
        let Concern { a, b, start, direct } = concern;
        match &self.scope {
            Scope::Machines(machines) => machines.contains(&a) || machines.contains(&b),
            Scope::Between(x, y) => (x.contains(&a) && y.contains(&b)) || (x.contains(&b) && y.contains(&a)),
            Scope::Beginning => start + SETTLING >= self.from,
            Scope::Relayed => !direct || start + SETTLING >= self.from,
        }
    }
}

/// A flow that something struck gets on after this, since a usable path has been there all along or came soon.
pub(crate) const STALLED: Duration = Duration::from_secs(20);
/// A conversation as old as this stands on its own feet.
const SETTLING: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_comes_back_in_steps() {
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let mut calm = Calm::default();
        let recovery = Recovery { back: Duration::from_secs(10), shaken: Duration::from_secs(60) };
        let mark = calm.begin(at(100), Scope::Machines([1].into()), recovery);
        let concern = |start| Concern { a: 0, b: 1, start: at(start), direct: true };
        assert_eq!(calm.promise(at(105), concern(50)), Promise::Nothing);
        calm.end(at(120), mark);
        assert_eq!(calm.promise(at(129), concern(50)), Promise::Nothing);
        assert_eq!(calm.promise(at(131), concern(50)), Promise::Shaken(at(130)));
        assert_eq!(calm.promise(at(190), concern(179)), Promise::Shaken(at(179)));
        assert_eq!(calm.promise(at(190), concern(180)), Promise::Full(at(180)));
        assert_eq!(calm.promise(at(105), Concern { b: 2, ..concern(50) }), Promise::Full(at(50)));
    }
}
