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

/// Whether something leaves a way around it, which serves from its beginning on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detour {
    None,
    Open,
}

#[derive(Clone, Debug)]
struct Mark {
    what: String,
    scope: Scope,
    detour: Detour,
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
    /// Likewise, by whatever way.
    Linked(Instant),
    /// Nothing yet.
    Nothing,
}

/// All disturbances of a world.
#[derive(Debug, Default)]
pub(crate) struct Calm {
    marks: Vec<Mark>,
}

impl Calm {
    /// Notes that something begins; `what` names it in the account.
    pub(crate) fn begin(&mut self, now: Instant, what: &str, scope: Scope, recovery: Recovery) -> MarkId {
        let what = what.to_owned();
        self.marks.push(Mark { what, scope, detour: Detour::None, from: now, until: None, recovery });
        MarkId(self.marks.len() - 1)
    }

    /// Notes that there is a way around it.
    pub(crate) fn bypass(&mut self, id: MarkId) {
        self.marks[id.0].detour = Detour::Open;
    }

    pub(crate) fn end(&mut self, now: Instant, id: MarkId) {
        self.marks[id.0].until = Some(now);
    }

    /// Whether everything that was disturbed is well again.
    pub(crate) fn is_quiet(&self, now: Instant) -> bool {
        let well =
            |mark: &Mark| mark.until.is_some_and(|until| now >= until + mark.recovery.back.max(mark.recovery.shaken));
        self.marks.iter().all(well)
    }

    /// How often something has befallen a machine that ended after `since`, or what it shares with all.
    pub(crate) fn disturbances(&self, machine: usize, since: Instant) -> usize {
        let recent = self.marks.iter().filter(|mark| mark.until.is_none_or(|until| until >= since));
        let concerned = recent.filter(|mark| match &mark.scope {
            Scope::Machines(machines) => machines.contains(&machine),
            Scope::Between(a, b) => a.contains(&machine) || b.contains(&machine),
            Scope::Beginning | Scope::Relayed => true,
        });
        concerned.count()
    }

    /// Names the disturbance that costs a conversation most of its promise.
    pub(crate) fn reason(&self, now: Instant, concern: Concern) -> String {
        let beginning = self.anew(concern);
        let concerned = self.marks.iter().filter(|mark| mark.concerns(beginning));
        let worst = concerned.max_by_key(|mark| match mark.until {
            None => (3, Instant::ZERO),
            Some(until) if now < until + mark.recovery.back => (2, until + mark.recovery.back),
            Some(until) => (1, until + mark.recovery.shaken),
        });
        match worst {
            None => "just begun".to_owned(),
            Some(Mark { what, until: None, .. }) => format!("during {what}"),
            Some(Mark { what, until: Some(until), recovery, .. }) if now < *until + recovery.back => {
                format!("after {what}")
            }
            Some(Mark { what, .. }) => format!("shaken by {what}"),
        }
    }

    /// Whom something has struck begins anew, and needs server and relay for it like the first time.
    fn anew(&self, concern: Concern) -> Concern {
        let struck = self.marks.iter().filter(|mark| mark.strikes() && mark.concerns(concern));
        Concern { start: struck.filter_map(|mark| mark.until).fold(concern.start, Instant::max), ..concern }
    }

    pub(crate) fn promise(&self, now: Instant, concern: Concern) -> Promise {
        let beginning = self.anew(concern);
        let concerned = self.marks.iter().filter(|mark| mark.concerns(beginning));
        concerned.fold(Promise::Full(concern.start), |best, mark| best.but(mark.leaves(now, concern)))
    }
}

impl Promise {
    /// What is left of two promises: the lesser of them, from the later time on.
    fn but(self, other: Self) -> Self {
        match self.max(other) {
            Self::Full(_) => Self::Full(self.since().max(other.since())),
            Self::Shaken(_) => Self::Shaken(self.since().max(other.since())),
            Self::Linked(_) => Self::Linked(self.since().max(other.since())),
            Self::Nothing => Self::Nothing,
        }
    }

    fn since(self) -> Instant {
        match self {
            Self::Full(since) | Self::Shaken(since) | Self::Linked(since) => since,
            Self::Nothing => Instant::ZERO,
        }
    }
}

impl Mark {
    /// What it leaves of the promise to a conversation.
    fn leaves(&self, now: Instant, concern: Concern) -> Promise {
        let around = || Promise::Linked(concern.start.max(self.from));
        let lost = || if self.detour == Detour::Open { around() } else { Promise::Nothing };
        let Some(until) = self.until else { return lost() };
        let back = until + self.recovery.back;
        if now < back {
            lost()
        } else if concern.start < until + self.recovery.shaken.max(self.recovery.back) {
            Promise::Shaken(concern.start.max(back))
        } else {
            Promise::Full(concern.start.max(back))
        }
    }

    /// Whether it strikes machines, lines or the relay under a conversation, and not what all begin by.
    const fn strikes(&self) -> bool {
        matches!(self.scope, Scope::Machines(_) | Scope::Between(..) | Scope::Relayed)
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
        let mark = calm.begin(at(100), "a move", Scope::Machines([1].into()), recovery);
        let concern = |start| Concern { a: 0, b: 1, start: at(start), direct: true };
        assert_eq!(calm.promise(at(105), concern(50)), Promise::Nothing);
        calm.end(at(120), mark);
        assert_eq!(calm.promise(at(129), concern(50)), Promise::Nothing);
        assert_eq!(calm.promise(at(131), concern(50)), Promise::Shaken(at(130)));
        assert_eq!(calm.promise(at(190), concern(179)), Promise::Shaken(at(179)));
        assert_eq!(calm.promise(at(190), concern(180)), Promise::Full(at(180)));
        assert_eq!(calm.promise(at(105), Concern { b: 2, ..concern(50) }), Promise::Full(at(50)));
    }

    #[test]
    fn a_way_around_keeps_a_lesser_promise() {
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let mut calm = Calm::default();
        let recovery = Recovery { back: Duration::from_secs(10), shaken: Duration::from_secs(60) };
        let mark = calm.begin(at(100), "a partition", Scope::Between([0].into(), [1].into()), recovery);
        let concern = Concern { a: 0, b: 1, start: at(50), direct: true };
        assert_eq!(calm.promise(at(105), concern), Promise::Nothing);
        calm.bypass(mark);
        assert_eq!(calm.promise(at(105), concern), Promise::Linked(at(100)));
        calm.end(at(120), mark);
        assert_eq!(calm.promise(at(129), concern), Promise::Linked(at(100)));
        assert_eq!(calm.promise(at(131), concern), Promise::Shaken(at(130)));
        let other = calm.begin(at(131), "a crash", Scope::Machines([1].into()), recovery);
        assert_eq!(calm.promise(at(132), concern), Promise::Nothing);
        calm.end(at(132), other);
        assert_eq!(calm.promise(at(150), concern), Promise::Shaken(at(142)));
    }
}
