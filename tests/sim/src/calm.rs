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
    /// Conversations that begin meanwhile or were begun shortly before: nobody carries their mail.
    Beginning,
    /// Likewise, of one signaling server. Mail goes by every server, so they are concerned only where no other is well.
    Server(usize),
    /// Likewise, of one server that serves machines with odd numbers otherwise than it says.
    OddOnes(usize),
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
    settled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MarkId(usize);

/// Which servers a conversation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Servers {
    Any,
    Every,
}

/// A conversation, as far as disturbances concern it.
#[derive(Clone, Debug)]
pub(crate) struct Concern {
    pub(crate) a: usize,
    pub(crate) b: usize,
    /// When it began.
    pub(crate) start: Instant,
    /// Since when its machines have been talking without a long pause.
    pub(crate) known: Instant,
    /// Whether its machines have a direct path for certain.
    pub(crate) direct: bool,
    pub(crate) servers: Servers,
    /// What its machines have said to each other before.
    pub(crate) talks: Vec<Talk>,
}

/// An earlier conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Talk {
    pub(crate) start: Instant,
    pub(crate) end: Instant,
    /// When the last packet of it arrived.
    pub(crate) heard: Option<Instant>,
}

impl Concern {
    /// Something other than a conversation, at a time.
    pub(crate) const fn other(a: usize, b: usize, at: Instant) -> Self {
        Self { a, b, start: at, known: at, direct: false, servers: Servers::Every, talks: Vec::new() }
    }
}

/// What may be promised to a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    servers: usize,
}

impl Calm {
    pub(crate) const fn new(servers: usize) -> Self {
        Self { marks: Vec::new(), servers }
    }

    /// Notes that something begins; `what` names it in the account.
    pub(crate) fn begin(&mut self, now: Instant, what: &str, scope: Scope, recovery: Recovery) -> MarkId {
        let what = what.to_owned();
        self.marks.push(Mark { what, scope, detour: Detour::None, from: now, until: None, recovery, settled: false });
        MarkId(self.marks.len() - 1)
    }

    /// Notes that there is a way around it.
    pub(crate) fn bypass(&mut self, id: MarkId) {
        self.marks[id.0].detour = Detour::Open;
    }

    pub(crate) fn end(&mut self, now: Instant, id: MarkId) {
        self.marks[id.0].until = Some(now);
    }

    /// Notes that it is no more than how things are from here on: who is at rest stays so, unless it is named.
    pub(crate) fn settle(&mut self, id: MarkId) {
        self.marks[id.0].settled = true;
    }

    /// The same disturbances without some.
    pub(crate) fn without(&self, ids: &[MarkId]) -> Self {
        let marks = self.marks.iter().enumerate().filter(|(number, _)| !ids.contains(&MarkId(*number)));
        Self { marks: marks.map(|(_, mark)| mark.clone()).collect(), servers: self.servers }
    }

    /// Whether everything that was disturbed is well again.
    pub(crate) fn is_quiet(&self, now: Instant) -> bool {
        let well =
            |mark: &Mark| mark.until.is_some_and(|until| now >= until + mark.recovery.back.max(mark.recovery.shaken));
        self.marks.iter().filter(|mark| !mark.settled).all(well)
    }

    /// Likewise, for a machine that nothing singles out for good.
    pub(crate) fn is_well(&self, now: Instant, machine: usize) -> bool {
        let named = |mark: &Mark| matches!(&mark.scope, Scope::Machines(machines) if machines.contains(&machine));
        self.is_quiet(now) && !self.marks.iter().any(|mark| mark.settled && mark.until.is_none() && named(mark))
    }

    /// How often something has befallen a machine that ended after `since`, or what it shares with all. What is settled ends
    /// as it begins.
    pub(crate) fn disturbances(&self, machine: usize, since: Instant) -> usize {
        let ended = |mark: &Mark| mark.until.or(mark.settled.then_some(mark.from));
        let recent = self.marks.iter().filter(|mark| ended(mark).is_none_or(|until| until >= since));
        let concerned = recent.filter(|mark| match &mark.scope {
            Scope::Machines(machines) => machines.contains(&machine),
            Scope::Between(a, b) => a.contains(&machine) || b.contains(&machine),
            Scope::Beginning | Scope::Server(_) | Scope::OddOnes(_) | Scope::Relayed => true,
        });
        concerned.count()
    }

    /// Names the disturbance that costs a conversation most of its promise.
    pub(crate) fn reason(&self, now: Instant, concern: &Concern) -> String {
        let beginning = self.anew(concern);
        let served = matches!(self.of_servers(now, concern, beginning), Promise::Full(_));
        let concerned = self.marks.iter().filter(|mark| mark.concerns(concern, beginning));
        let worst = concerned.filter(|mark| !served || mark.server().is_none()).max_by_key(|mark| match mark.until {
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
    fn anew(&self, concern: &Concern) -> Instant {
        let struck = self.marks.iter().filter(|mark| mark.strikes() && mark.concerns(concern, concern.known));
        struck.filter_map(|mark| mark.until).fold(concern.known, Instant::max)
    }

    /// Whether a conversation's machines may have lost each other for as long as things stay as they are: something has
    /// struck them since they knew each other, and no server is well that could bring them together again.
    pub(crate) fn is_severing(&self, now: Instant, concern: &Concern) -> bool {
        let struck = self.anew(concern);
        struck > concern.known && self.of_servers(now, concern, struck) == Promise::Nothing
    }

    pub(crate) fn promise(&self, now: Instant, concern: &Concern) -> Promise {
        let beginning = self.anew(concern);
        let others = self.marks.iter().filter(|mark| mark.server().is_none());
        self.left(now, concern, beginning, others).but(self.of_servers(now, concern, beginning))
    }

    /// What the servers leave of a promise: what the best of them leaves, or the worst where every one is needed.
    fn of_servers(&self, now: Instant, concern: &Concern, beginning: Instant) -> Promise {
        let by = |server: usize| {
            let marks = self.marks.iter().filter(move |mark| mark.server() == Some(server));
            self.left(now, concern, beginning, marks)
        };
        let all = (0..self.servers).map(by);
        let whole = Promise::Full(concern.start);
        match concern.servers {
            Servers::Any => all.min_by_key(|promise| (promise.rank(), promise.since())).unwrap_or(whole),
            Servers::Every => all.fold(whole, Promise::but),
        }
    }

    fn left<'a>(
        &'a self,
        now: Instant,
        concern: &Concern,
        beginning: Instant,
        marks: impl Iterator<Item = &'a Mark>,
    ) -> Promise {
        let concerned = marks.filter(|mark| mark.concerns(concern, beginning));
        concerned.fold(Promise::Full(concern.start), |best, mark| best.but(mark.leaves(now, concern)))
    }
}

impl Promise {
    /// What is left of two promises: the lesser of them, from the later time on.
    fn but(self, other: Self) -> Self {
        let worse = if self.rank() >= other.rank() { self } else { other };
        match worse {
            Self::Full(_) => Self::Full(self.since().max(other.since())),
            Self::Shaken(_) => Self::Shaken(self.since().max(other.since())),
            Self::Linked(_) => Self::Linked(self.since().max(other.since())),
            Self::Nothing => Self::Nothing,
        }
    }

    const fn rank(self) -> u8 {
        match self {
            Self::Full(_) => 0,
            Self::Shaken(_) => 1,
            Self::Linked(_) => 2,
            Self::Nothing => 3,
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
    fn leaves(&self, now: Instant, concern: &Concern) -> Promise {
        let around = || Promise::Linked(concern.start.max(self.from));
        let lost = || if self.detour == Detour::Open { around() } else { Promise::Nothing };
        let Some(until) = self.until else { return lost() };
        let back = until + self.recovery.back;
        if now < back {
            lost()
        } else if concern.start < until + self.recovery.shaken.max(self.recovery.back) && self.shakes(concern, back) {
            Promise::Shaken(concern.start.max(back))
        } else {
            Promise::Full(concern.start.max(back))
        }
    }

    /// Whether a conversation's machines may still hold what it has made worthless. What strikes machines or lines spoils
    /// sessions and paths: those who had none have nothing to lose, and those who have talked for long since have others.
    fn shakes(&self, concern: &Concern, back: Instant) -> bool {
        if !matches!(self.scope, Scope::Machines(_) | Scope::Between(..)) || concern.start < back {
            return true;
        }
        let held = concern.talks.iter().any(|talk| talk.start < back && talk.end + HELD > self.from);
        let renewed = concern.talks.iter().filter_map(|talk| Some((talk.start.max(back), talk.heard?)));
        let renewed = renewed.filter(|(since, heard)| *since + REBUILT <= *heard).count() > 0;
        held && !renewed
    }

    /// The server that it befalls, if it is one that others can stand in for.
    const fn server(&self) -> Option<usize> {
        match self.scope {
            Scope::Server(host) | Scope::OddOnes(host) => Some(host),
            Scope::Machines(_) | Scope::Between(..) | Scope::Beginning | Scope::Relayed => None,
        }
    }

    /// Whether it strikes machines, lines or the relay under a conversation, and not what all begin by.
    const fn strikes(&self) -> bool {
        matches!(self.scope, Scope::Machines(_) | Scope::Between(..) | Scope::Relayed)
    }

    /// Whether it concerns a conversation whose machines have needed nothing but each other since `beginning`.
    fn concerns(&self, concern: &Concern, beginning: Instant) -> bool {
        let Concern { a, b, direct, .. } = concern;
        let begins = beginning + SETTLING >= self.from;
        match &self.scope {
            Scope::Machines(machines) => machines.contains(a) || machines.contains(b),
            Scope::Between(x, y) => (x.contains(a) && y.contains(b)) || (x.contains(b) && y.contains(a)),
            Scope::Beginning | Scope::Server(_) => begins,
            Scope::OddOnes(_) => begins && (a % 2 == 1 || b % 2 == 1 || concern.servers == Servers::Every),
            Scope::Relayed => !direct || begins,
        }
    }
}

/// A flow that something struck gets on after this, since a usable path has been there all along or came soon.
pub(crate) const STALLED: Duration = Duration::from_secs(20);
/// For so long a machine may hold a session with somebody whom it no longer talks with: it is asked for two minutes, may be
/// renewed in them, and lasts three.
const HELD: Duration = Duration::from_secs(300);
/// Who has talked for so long after a disturbance has everything anew.
pub(crate) const REBUILT: Duration = Duration::from_secs(60);
/// A conversation as old as this stands on its own feet.
const SETTLING: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    /// A conversation of two who have talked before.
    fn talk(a: usize, b: usize, start: Instant) -> Concern {
        Concern { servers: Servers::Any, talks: vec![said(0, 80)], ..Concern::other(a, b, start) }
    }

    fn said(start: u64, end: u64) -> Talk {
        Talk { start: at(start), end: at(end), heard: Some(at(end)) }
    }

    const RECOVERY: Recovery = Recovery { back: Duration::from_secs(10), shaken: Duration::from_secs(60) };

    #[test]
    fn mail_is_carried_while_one_server_is_well() {
        let mut calm = Calm::new(2);
        let concern = talk(0, 1, at(110));
        let first = calm.begin(at(100), "a crash", Scope::Server(0), RECOVERY);
        assert_eq!(calm.promise(at(112), &concern), Promise::Full(at(110)));
        assert_eq!(calm.promise(at(112), &Concern { servers: Servers::Every, ..concern.clone() }), Promise::Nothing);
        let _ = calm.begin(at(101), "two faces", Scope::OddOnes(1), RECOVERY);
        assert_eq!(calm.promise(at(112), &concern), Promise::Nothing);
        assert_eq!(calm.promise(at(112), &Concern { b: 2, ..concern.clone() }), Promise::Full(at(110)));
        assert_eq!(calm.promise(at(112), &Concern { known: at(30), ..concern.clone() }), Promise::Full(at(110)));
        calm.end(at(120), first);
        assert_eq!(calm.promise(at(131), &concern), Promise::Shaken(at(130)));
    }

    #[test]
    fn only_what_was_there_is_shaken() {
        let mut calm = Calm::new(1);
        let mark = calm.begin(at(1000), "a crash", Scope::Machines([1].into()), RECOVERY);
        calm.end(at(1020), mark);
        let after = |talks| Concern { talks, ..talk(0, 1, at(1040)) };
        for (talks, expected) in [
            (vec![], Promise::Full(at(1040))),
            (vec![said(10, 700)], Promise::Full(at(1040))),
            (vec![said(10, 701)], Promise::Shaken(at(1040))),
            (vec![said(1029, 1039)], Promise::Shaken(at(1040))),
            (vec![said(1031, 1039)], Promise::Full(at(1040))),
        ] {
            assert_eq!(calm.promise(at(1045), &after(talks)), expected);
        }
        assert_eq!(calm.promise(at(1045), &talk(0, 1, at(1029))), Promise::Shaken(at(1030)));
    }

    #[test]
    fn a_promise_comes_back_in_steps() {
        let mut calm = Calm::default();
        let mark = calm.begin(at(100), "a move", Scope::Machines([1].into()), RECOVERY);
        let concern = |start| Concern { known: at(start), direct: true, ..talk(0, 1, at(start)) };
        assert_eq!(calm.promise(at(105), &concern(50)), Promise::Nothing);
        calm.end(at(120), mark);
        assert_eq!(calm.promise(at(129), &concern(50)), Promise::Nothing);
        assert_eq!(calm.promise(at(131), &concern(50)), Promise::Shaken(at(130)));
        assert_eq!(calm.promise(at(190), &concern(179)), Promise::Shaken(at(179)));
        assert_eq!(calm.promise(at(190), &concern(180)), Promise::Full(at(180)));
        assert_eq!(calm.promise(at(105), &Concern { b: 2, ..concern(50) }), Promise::Full(at(50)));
    }

    #[test]
    fn what_lasts_disturbs_no_rest_and_can_be_left_out() {
        let mut calm = Calm::new(1);
        let odd = calm.begin(at(100), "less", Scope::OddOnes(0), Recovery { back: Duration::ZERO, ..RECOVERY });
        assert!(!calm.is_quiet(at(200)));
        calm.settle(odd);
        assert!(calm.is_quiet(at(200)));
        // Who begins by it is promised nothing all the same.
        let concern = talk(0, 1, at(190));
        assert_eq!(calm.promise(at(200), &concern), Promise::Nothing);
        assert_eq!(calm.without(&[odd]).promise(at(200), &concern), Promise::Full(at(190)));
        let gone = calm.begin(at(200), "revoked", Scope::Machines([1].into()), RECOVERY);
        assert!(!calm.is_well(at(900), 0));
        calm.settle(gone);
        assert_eq!([0, 1].map(|machine| calm.is_well(at(900), machine)), [true, false]);
        assert_eq!([at(200), at(201)].map(|since| calm.disturbances(1, since)), [1, 0]);
        let _ = calm.begin(at(200), "a crash", Scope::Machines([1].into()), RECOVERY);
        assert!(!calm.is_quiet(at(900)));
    }

    #[test]
    fn only_who_was_struck_and_is_brought_together_by_nobody_may_have_lost_each_other() {
        let concern = Concern { servers: Servers::Any, ..Concern::other(0, 1, at(100)) };
        let of = |servers: usize, crash: Option<u64>| {
            let mut calm = Calm::new(servers);
            let odd = calm.begin(at(90), "two faces", Scope::OddOnes(0), Recovery { back: Duration::ZERO, ..RECOVERY });
            calm.settle(odd);
            if let Some(until) = crash {
                let mark = calm.begin(at(80), "a crash", Scope::Relayed, RECOVERY);
                calm.end(at(until), mark);
            }
            calm
        };
        for (servers, crash, lost) in
            [(1, Some(110), true), (1, Some(99), false), (1, None, false), (2, Some(110), false)]
        {
            assert_eq!(of(servers, crash).is_severing(at(300), &concern), lost, "{servers} servers, crash {crash:?}");
        }
        let calm = of(1, Some(110));
        assert!(!calm.is_severing(at(300), &Concern { known: at(120), ..concern.clone() }), "their key is younger");
        assert!(!calm.is_severing(at(300), &Concern { b: 2, ..concern }), "both see the same face");
    }

    #[test]
    fn a_way_around_keeps_a_lesser_promise() {
        let mut calm = Calm::default();
        let mark = calm.begin(at(100), "a partition", Scope::Between([0].into(), [1].into()), RECOVERY);
        let concern = Concern { direct: true, ..talk(0, 1, at(50)) };
        assert_eq!(calm.promise(at(105), &concern), Promise::Nothing);
        calm.bypass(mark);
        assert_eq!(calm.promise(at(105), &concern), Promise::Linked(at(100)));
        calm.end(at(120), mark);
        assert_eq!(calm.promise(at(129), &concern), Promise::Linked(at(100)));
        assert_eq!(calm.promise(at(131), &concern), Promise::Shaken(at(130)));
        let other = calm.begin(at(131), "a crash", Scope::Machines([1].into()), RECOVERY);
        assert_eq!(calm.promise(at(132), &concern), Promise::Nothing);
        calm.end(at(132), other);
        assert_eq!(calm.promise(at(150), &concern), Promise::Shaken(at(142)));
    }
}
