//! Rounds of punching, arranged inside the session while traffic goes by a relay.
//!
//! ```text
//! Quiet ──> Watching ──> Gathering ──> Calling ──> Watching ──> ... ──> Resting ──> Gathering
//!              ^   (no direct path)  (fresh port)  │ Ready: full probes
//!              └── Answered <── Call of the other side: openers, then full probes
//! ```
//! The caller asks for a fresh port, so that no mapping that an earlier packet spoilt is used again; the called side opens
//! ([`Opening`](crate::strategy::Opening)) and answers; the caller then probes at full TTL.
//!
//! Where no path carries a call, the round is the driver's handshake by other means ([`Step::Summon`]): it brings our fresh
//! port to the other side, which opens for it before it answers.

use std::time::Duration;

use ginnel_time::Instant;

use crate::event::Role;
use crate::schedule;

#[derive(Debug)]
pub(crate) struct Punch {
    stage: Stage,
    /// Number of the round under way, or of the last one.
    round: u8,
    /// Rounds since a direct path was last up.
    tried: u8,
    /// The round of the call that was answered last, and when.
    answered: Option<(u8, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A direct path is up, or none can be hoped for.
    Quiet,
    /// Full probes are out; what comes next is decided at `until`.
    Watching { until: Instant },
    /// A fresh socket is awaited.
    Gathering { until: Instant, births: u64 },
    /// A call is out.
    Calling { sent: u8, next: Instant },
    /// Between rounds.
    Resting { until: Instant },
}

/// What the agent has to do for a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask for a fresh socket.
    Fresh { round: u8 },
    /// Send our candidates as a call.
    Call { round: u8 },
    /// Have the driver call by a handshake: no path carries the call.
    Summon,
    /// Send full probes on the round's pairs.
    Fire,
}

/// What the machine has to know of the agent at each step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation {
    pub(crate) role: Role,
    pub(crate) need: Need,
    /// The round trip of the path that a call can travel by, if there is one.
    pub(crate) control_rtt: Option<Duration>,
}

impl Situation {
    /// The rest before the next round, which is never long while there is no path at all.
    fn rest_before(self, tried: u8) -> Duration {
        let rest = rest_before(tried);
        if self.control_rtt.is_some() { rest } else { rest.min(PATHLESS_REST) }
    }
}

/// What a round could be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A direct path carries the traffic.
    Met,
    /// Traffic flows, not directly, and direct addresses are known.
    Open,
    /// Nothing flows, or no direct address is known.
    Hopeless,
}

impl Punch {
    pub(crate) const fn new() -> Self {
        Self { stage: Stage::Quiet, round: 0, tried: 0, answered: None }
    }

    /// Starts anew with a session, or after the last one.
    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }

    /// Notes that full probes left just now on their own account.
    pub(crate) fn watch(&mut self, now: Instant, role: Role) {
        self.stage = Stage::Watching { until: now + patience(role) };
    }

    /// Like [`Punch::watch`] when something new may help: one round follows without a rest, unless one is under way.
    pub(crate) fn renew(&mut self, now: Instant, role: Role) {
        self.tried = self.tried.min(2);
        if !self.is_preparing() {
            self.watch(now, role);
        }
    }

    /// Like [`Punch::watch`] when a handshake, and not a path, brought something new: the rests go on as they were.
    pub(crate) fn go_on(&mut self, now: Instant, role: Role) {
        if !self.is_preparing() {
            self.watch(now, role);
        }
    }

    /// Whether our own round is being prepared, so that new sockets wait for it.
    pub(crate) fn is_preparing(&self) -> bool {
        matches!(self.stage, Stage::Gathering { .. } | Stage::Calling { .. })
    }

    /// Notes that a socket born after `births` has its mapping: the call can go out.
    pub(crate) fn gathered(&mut self, now: Instant, newest: u64) {
        if let Stage::Gathering { until, births } = &mut self.stage
            && newest > *births
        {
            *until = now;
        }
    }

    /// Takes the answer to our call.
    pub(crate) fn ready(&mut self, now: Instant, role: Role, round: u8) -> Option<Step> {
        let matches = round == self.round && matches!(self.stage, Stage::Calling { .. });
        matches.then(|| {
            self.watch(now, role);
            Step::Fire
        })
    }

    /// Takes a call of the other side. Answers whether to open and answer; a repeated call is only answered again.
    pub(crate) fn called(&mut self, now: Instant, role: Role, round: u8) -> Answer {
        if self.is_preparing() && role == Role::Initiator {
            return Answer::Ignore;
        }
        if let Some((_, answered)) = self.answered
            && now < answered + LEAST_BETWEEN_CALLS
        {
            return Answer::TooOften;
        }
        // A round of our own has a number, too, and is not what was answered.
        let repeated = self.answered.is_some_and(|(before, at)| before == round && now < at + REPEAT_WINDOW);
        self.answered = Some((round, now));
        if repeated {
            return Answer::Again;
        }
        self.round = round;
        if !self.is_preparing() {
            // A round of our own, whose place this one takes, is counted already.
            self.tried = self.tried.saturating_add(1);
        }
        self.watch(now, role);
        Answer::Open
    }

    /// Advances; called until it answers `None`.
    pub(crate) fn advance(&mut self, now: Instant, births: u64, situation: Situation) -> Option<Step> {
        if situation.need == Need::Met {
            (self.stage, self.tried) = (Stage::Quiet, 0);
            return None;
        }
        match self.stage {
            Stage::Watching { until } | Stage::Resting { until } | Stage::Gathering { until, .. } if now < until => {
                None
            }
            Stage::Calling { next, .. } if now < next => None,
            Stage::Quiet => None,
            Stage::Watching { .. } if situation.need == Need::Open => match situation.rest_before(self.tried) {
                Duration::ZERO => Some(self.begin(now, births)),
                rest => {
                    self.stage = Stage::Resting { until: now + rest };
                    None
                }
            },
            Stage::Resting { .. } if situation.need == Need::Open => Some(self.begin(now, births)),
            Stage::Watching { .. } | Stage::Resting { .. } => {
                self.stage = Stage::Quiet;
                None
            }
            Stage::Gathering { .. } => Some(self.call(now, 0, situation)),
            Stage::Calling { sent, .. } => Some(self.call(now, sent, situation)),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Quiet => None,
            Stage::Watching { until } | Stage::Resting { until } | Stage::Gathering { until, .. } => Some(until),
            Stage::Calling { next, .. } => Some(next),
        }
    }

    fn begin(&mut self, now: Instant, births: u64) -> Step {
        self.round = self.round.wrapping_add(1);
        self.tried = self.tried.saturating_add(1);
        self.stage = Stage::Gathering { until: now + GATHERING, births };
        Step::Fresh { round: self.round }
    }

    /// Calls, again if need be; without an answer it probes all the same. Probes without a call would only arrive too early.
    fn call(&mut self, now: Instant, sent: u8, situation: Situation) -> Step {
        let Some(rtt) = situation.control_rtt else {
            self.watch(now, situation.role);
            return Step::Summon;
        };
        if sent >= CALLS {
            self.watch(now, situation.role);
            return Step::Fire;
        }
        let wait = schedule::call_gap(rtt);
        self.stage = Stage::Calling { sent: sent + 1, next: now + wait };
        Step::Call { round: self.round }
    }
}

/// What to do with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Open, and answer.
    Open,
    /// Answer again: the answer was lost.
    Again,
    /// Our own call crossed it and stands.
    Ignore,
    /// The peer calls too often.
    TooOften,
}

/// How long full probes are given. The responder waits longer, so that calls seldom cross.
fn patience(role: Role) -> Duration {
    Duration::from_millis(match role {
        Role::Initiator => 2500,
        Role::Responder => 3300,
    })
}

/// The rest before the next round: none for the first three, then longer and longer.
fn rest_before(tried: u8) -> Duration {
    Duration::from_secs(match tried {
        0..3 => 0,
        3 => 15,
        4 => 60,
        5.. => 300,
    })
}

/// The longest rest while no path at all is up.
const PATHLESS_REST: Duration = Duration::from_secs(10);
/// How long a fresh socket and its mapping are awaited.
const GATHERING: Duration = Duration::from_millis(1500);
/// Times that a call is sent before it is given up.
const CALLS: u8 = 4;
/// Two calls that are answered are at least this far apart.
const LEAST_BETWEEN_CALLS: Duration = Duration::from_millis(200);
/// Within this time the same round number is a repetition.
const REPEAT_WINDOW: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn relayed(role: Role) -> Situation {
        Situation { role, need: Need::Open, control_rtt: Some(Duration::from_millis(80)) }
    }

    /// Lets time pass to each deadline and notes what is done, until `end`.
    fn play(punch: &mut Punch, role: Role, end: u64) -> Vec<(u128, Step)> {
        let mut steps = Vec::new();
        while let Some(due) = punch.deadline().filter(|due| *due <= at(end)) {
            while let Some(step) = punch.advance(due, 0, relayed(role)) {
                steps.push((due.saturating_duration_since(Instant::ZERO).as_millis(), step));
            }
            assert!(punch.deadline().is_none_or(|next| next > due), "firing moves the deadline");
        }
        steps
    }

    #[test]
    fn a_round_asks_for_a_port_calls_and_fires_even_unanswered() {
        let mut punch = Punch::new();
        punch.watch(at(0), Role::Initiator);
        let steps = play(&mut punch, Role::Initiator, 5100);
        let call = Step::Call { round: 1 };
        let expected = [
            (2500, Step::Fresh { round: 1 }),
            (4000, call),
            (4250, call),
            (4500, call),
            (4750, call),
            (5000, Step::Fire),
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn three_rounds_follow_at_once_and_later_ones_ever_more_rarely() {
        let mut punch = Punch::new();
        punch.watch(at(0), Role::Initiator);
        let steps = play(&mut punch, Role::Initiator, 2_000_000);
        let rounds: Vec<u128> =
            steps.iter().filter(|(_, step)| matches!(step, Step::Fresh { .. })).map(|(at, _)| at / 1000).collect();
        assert_eq!(rounds[..5], [2, 7, 12, 32, 97]);
        assert!(rounds[5..].windows(2).all(|pair| pair[1] - pair[0] >= 300), "{rounds:?}");
    }

    #[test]
    fn of_two_crossing_calls_the_initiators_stands() {
        let calling = |role: Role| {
            let mut punch = Punch::new();
            punch.watch(at(0), role);
            assert_eq!(punch.advance(at(4000), 0, relayed(role)), Some(Step::Fresh { round: 1 }));
            punch.gathered(at(4100), 1);
            assert_eq!(punch.advance(at(4100), 1, relayed(role)), Some(Step::Call { round: 1 }));
            punch
        };
        let (mut initiator, mut responder) = (calling(Role::Initiator), calling(Role::Responder));
        assert_eq!(initiator.called(at(4140), Role::Initiator, 1), Answer::Ignore);
        assert_eq!(responder.called(at(4140), Role::Responder, 1), Answer::Open);
        assert_eq!(responder.ready(at(4150), Role::Responder, 1), None, "its own call is given up");
        assert_eq!(initiator.ready(at(4180), Role::Initiator, 2), None, "another round's answer");
        assert_eq!(initiator.ready(at(4180), Role::Initiator, 1), Some(Step::Fire));
        assert_eq!(initiator.ready(at(4181), Role::Initiator, 1), None, "an answer counts once");
    }

    #[test]
    fn calls_that_cross_are_one_round() {
        let mut punch = Punch::new();
        punch.watch(at(0), Role::Responder);
        let mut now = 4000;
        for round in 1..=3 {
            let step = punch.advance(at(now), 0, relayed(Role::Responder));
            assert_eq!(step, Some(Step::Fresh { round }), "no rest before the first three");
            assert_eq!(punch.called(at(now + 100), Role::Responder, round), Answer::Open);
            now += 4000;
        }
        assert_eq!(punch.advance(at(now), 0, relayed(Role::Responder)), None, "then there is one");
        assert_eq!(punch.deadline(), Some(at(now + 15_000)));
    }

    #[test]
    fn a_repeated_call_is_answered_again_and_a_flood_is_not() {
        let mut punch = Punch::new();
        assert_eq!(punch.called(at(0), Role::Responder, 7), Answer::Open);
        assert_eq!(punch.called(at(100), Role::Responder, 8), Answer::TooOften);
        assert_eq!(punch.called(at(250), Role::Responder, 7), Answer::Again);
        assert_eq!(punch.called(at(500), Role::Responder, 8), Answer::Open);
    }

    #[test]
    fn without_any_path_the_driver_calls_and_rests_stay_short() {
        let mut punch = Punch::new();
        punch.watch(at(0), Role::Responder);
        let pathless = Situation { control_rtt: None, ..relayed(Role::Responder) };
        let mut steps = Vec::new();
        while let Some(due) = punch.deadline().filter(|due| *due <= at(120_000)) {
            while let Some(step) = punch.advance(due, 0, pathless) {
                steps.push((due.saturating_duration_since(Instant::ZERO).as_millis(), step));
            }
            // What the handshake brings begins no rounds beyond those that are due.
            punch.go_on(due, Role::Responder);
        }
        assert!(steps.iter().all(|(_, step)| matches!(step, Step::Fresh { .. } | Step::Summon)), "{steps:?}");
        let calls: Vec<u128> = steps.iter().filter(|(_, step)| *step == Step::Summon).map(|(at, _)| *at).collect();
        assert_eq!(calls[..3], [4800, 9600, 14_400]);
        assert!(calls[3..].windows(2).all(|pair| (10_000..20_000).contains(&(pair[1] - pair[0]))), "{calls:?}");
    }

    #[test]
    fn a_direct_path_ends_the_rounds() {
        let mut punch = Punch::new();
        punch.watch(at(0), Role::Initiator);
        let direct = Situation { need: Need::Met, ..relayed(Role::Initiator) };
        assert_eq!(punch.advance(at(10), 0, direct), None);
        assert_eq!(punch.deadline(), None);
    }
}
