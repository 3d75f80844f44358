//! What an agent does by itself after each input and at each deadline.

use ginnel_time::Instant;
use rand_core::RngCore as _;

use super::*;
use crate::message::Probe;
use crate::pace::Purpose;
use crate::pair::Watch;
use crate::punch::{Need, Situation};
use crate::telling::Weight;

impl Agent {
    /// When [`Agent::handle_timeout`] is next wanted; the last `now` while output is queued.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.outbox.is_empty() {
            return Some(self.now);
        }
        self.role?;
        let probe = self.checklist.iter().filter_map(|pair| {
            let (purpose, due) = self.due(pair)?;
            Some(due.max(self.pace.ready(purpose)))
        });
        let left = self.checklist.iter().filter_map(|pair| self.demotion(pair));
        let told = self.telling.due(self.weight()).filter(|_| self.can_tell());
        let single = [self.punch.deadline(), self.retry, told];
        probe.chain(left).chain(single.into_iter().flatten()).min()
    }

    /// Brings everything up to `now`.
    pub(super) fn settle(&mut self) {
        let Some(role) = self.role else { return };
        self.judge();
        self.choose();
        self.arrange(role);
        self.try_again();
        self.probe();
        // What comes into use is asked at once, and a probe too many makes its path doubtful. Each pair is asked at most
        // once per `now`, so this ends.
        while self.choose() {
            self.probe();
        }
        self.tell();
    }

    /// Ends bursts and stale proofs, and leaves paths that stayed unanswered.
    fn judge(&mut self) {
        let (now, selection) = (self.now, self.selection);
        for pair in self.checklist.iter_mut() {
            pair.settle(now, selection.watch(pair.path));
        }
        for path in selection.in_use().into_iter().flatten() {
            let left = self.checklist.get(path).and_then(|pair| self.demotion(pair)).is_some_and(|due| due <= now);
            if left && let Some(pair) = self.checklist.get_mut(path) {
                pair.demote(now);
                self.outbox.event(PathEvent::Failed { path });
                if selection.primary == Some(path) {
                    self.search_anew(Some(path));
                }
            }
        }
    }

    /// Selects anew; answers whether anything changed.
    fn choose(&mut self) -> bool {
        let next = self.selection.next(self.now, &self.checklist);
        let changed = next != self.selection;
        if changed {
            self.select(next);
        }
        changed
    }

    /// Puts a selection into effect.
    pub(super) fn select(&mut self, next: Selection) {
        let last = std::mem::replace(&mut self.selection, next);
        self.outbox.select(next);
        let is_direct =
            |path: Option<Path>| path.and_then(|path| self.checklist.get(path)).is_some_and(Pair::is_direct);
        if is_direct(last.primary)
            && next.primary.is_some()
            && !is_direct(next.primary)
            && let Some(role) = self.role
        {
            self.punch.renew(self.now, role);
        }
        for path in next.in_use().into_iter().flatten().filter(|path| !last.in_use().contains(&Some(*path))) {
            self.checklist.get_mut(path).into_iter().for_each(|pair| pair.enter_use(self.now));
        }
        if next.duplicate
            && !last.duplicate
            && let Some(pair) = next.backup.and_then(|path| self.checklist.get_mut(path))
        {
            pair.question(self.now, 0, self.now);
        }
        if next.primary == last.primary {
            return;
        }
        self.seek_displaced(last.primary);
        match next.primary.and_then(|path| self.checklist.get(path)) {
            Some(pair) => {
                let rtt = pair.proof().map_or(Duration::ZERO, |proof| proof.rtt);
                let event = PathEvent::Selected { path: pair.path, kind: pair.kind, tier: pair.tier, rtt };
                self.last_good = Some(pair.path);
                self.outbox.event(event);
            }
            None if self.role.is_some() && self.activity.is_active(self.now) => self.outbox.event(PathEvent::Lost),
            None => {}
        }
    }

    /// A path that gave way to a worse one because it did not answer is looked for like any other from here on: the other
    /// side may open for it only now.
    fn seek_displaced(&mut self, last: Option<Path>) {
        let Some(tier) = self.selection.primary.and_then(|path| self.checklist.get(path)).map(|pair| pair.tier) else {
            return;
        };
        let (now, fire) = (self.now, self.now + self.control_rtt());
        let unused = last.filter(|path| !self.selection.in_use().contains(&Some(*path)));
        if let Some(pair) = unused.and_then(|path| self.checklist.get_mut(path))
            && pair.is_doubtful()
            && pair.tier < tier
        {
            pair.state = State::Waiting;
            start_gently(pair, now, fire);
        }
    }

    fn arrange(&mut self, role: Role) {
        while let Some(step) = self.punch.advance(self.now, self.ends.births(), self.situation(role)) {
            self.take_step(step);
        }
    }

    fn situation(&self, role: Role) -> Situation {
        let primary = self.selection.primary.and_then(|path| self.checklist.get(path));
        let need = if primary.is_some_and(Pair::is_direct) {
            Need::Met
        } else if self.activity.is_active(self.now) && self.checklist.has_direct() {
            Need::Open
        } else {
            Need::Hopeless
        };
        Situation { role, need, control_rtt: primary.map(|_| self.control_rtt()) }
    }

    pub(super) fn take_step(&mut self, step: Step) {
        match step {
            Step::Fresh { round } => {
                self.stop_direct();
                self.outbox.fresh(round);
                self.outbox.event(PathEvent::Punching { round });
            }
            Step::Call { round } => {
                let candidates = self.ends.told(self.config.policy);
                self.telling.carried(self.now, candidates.clone());
                let call = CandidateList { round, phase: Phase::Call, candidates };
                if let Some(path) = self.selection.primary {
                    self.outbox.seal(path, None, call.encode());
                }
            }
            Step::Summon => self.outbox.summon(),
            Step::Fire => {
                let now = self.now;
                self.round_pairs().for_each(|pair| pair.start(now));
            }
        }
    }

    /// Opens for a round that the other side called.
    /// `called_by` is the path that the call came by and the answer takes.
    pub(super) fn open_round(&mut self, round: u8, called_by: Path) {
        self.stop_direct();
        let (now, opening, fire) = self.opening(round, called_by);
        for pair in self.round_pairs() {
            match opening {
                _ if !pair.can_clash() => pair.start(now),
                Opening::ShortLived { ttl } => pair.open(now, ttl, fire),
                Opening::Simultaneous => pair.start(fire),
            }
        }
    }

    /// The answer was lost: what has not fired yet opens again and waits for the next one.
    pub(super) fn reopen_round(&mut self, round: u8, called_by: Path) {
        if let (now, Opening::ShortLived { ttl }, fire) = self.opening(round, called_by) {
            let waiting = self.checklist.iter_mut().filter(|pair| pair.is_opened(now) && pair.can_clash());
            waiting.for_each(|pair| pair.open(now, ttl, fire));
            self.probe();
        }
    }

    fn opening(&self, round: u8, called_by: Path) -> (Instant, Opening, Instant) {
        let opening = Opening::of_round(round);
        let proof = self.checklist.get(called_by).and_then(Pair::proof);
        let rtt = proof.map_or_else(|| self.control_rtt(), |proof| proof.rtt);
        (self.now, opening, self.now + opening.delay(rtt))
    }

    /// The pairs of a round: direct, unproven, and not spoilt by an earlier packet that a NAT may remember. What has no NAT
    /// in the way gains nothing from a second try.
    fn round_pairs(&mut self) -> impl Iterator<Item = &mut Pair> {
        let now = self.now;
        self.checklist.iter_mut().filter(move |pair| {
            let clean = pair.probed.is_none_or(|probed| pair.can_clash() && now >= probed + CLASH_LIFETIME);
            pair.is_direct() && !pair.is_proven() && clean
        })
    }

    /// Ends direct bursts: each further packet would keep a spoilt mapping alive.
    fn stop_direct(&mut self) {
        for pair in self.checklist.iter_mut().filter(|pair| pair.is_direct() && pair.is_checking()) {
            pair.state = State::Waiting;
        }
    }

    /// Tries relayed pairs again from time to time while there is no path at all, or none that stands by.
    fn try_again(&mut self) {
        let (now, selection) = (self.now, self.selection);
        let pathless = selection.primary.is_none();
        let lacking = pathless || (selection.backup.is_none() && self.checklist.iter().any(|pair| !pair.is_direct()));
        if !lacking || !self.activity.is_active(now) {
            self.retry = None;
            return;
        }
        let interval = if pathless { RETRY_PATHLESS } else { RETRY_BACKUP };
        let due = self.retry.map_or(now + interval, |due| due.min(now + interval));
        self.retry = Some(due);
        if due <= now {
            self.retry = Some(now + interval);
            let missing = self.checklist.iter_mut().filter(|pair| !pair.is_checking());
            missing
                .filter(|pair| !pair.is_direct() || (pathless && !pair.can_clash()))
                .for_each(|pair| pair.start(now));
        }
    }

    /// Sends every probe that is due, most urgent first, as far as the pace allows. While there is no path, relayed pairs
    /// come first: they are few, and traffic waits.
    pub(super) fn probe(&mut self) {
        let (now, pathless) = (self.now, self.selection.primary.is_none());
        loop {
            let due = self.checklist.iter().filter_map(|pair| {
                let (purpose, due) = self.due(pair).filter(|(_, due)| *due <= now)?;
                let progress = match pair.state {
                    State::Checking { sent, .. } => sent,
                    State::Opening { .. } | State::Waiting | State::Silent | State::Proven(_) => 0,
                };
                let later = pathless && pair.is_direct();
                Some((purpose == Purpose::Search, progress, later, pair.tier, due, pair.path))
            });
            let Some((search, .., path)) = due.min() else { return };
            let purpose = if search { Purpose::Search } else { Purpose::Liveness };
            if !self.is_worth_probing(path) {
                if let Some(pair) = self.checklist.get_mut(path) {
                    pair.state = State::Waiting;
                }
                continue;
            }
            if self.pace.ready(purpose) > now {
                return;
            }
            self.pace.spend(now, purpose);
            let (id, jitter) = (self.rng.next_u64(), self.jitter(schedule::BURST_JITTER));
            let Some(pair) = self.checklist.get_mut(path) else { return };
            let ttl = pair.sent(now, id, jitter);
            self.outbox.seal(path, ttl, Probe { id }.encode());
        }
    }

    /// When a pair's next probe is due, and what it is for.
    fn due(&self, pair: &Pair) -> Option<(Purpose, Instant)> {
        let watch = self.selection.watch(pair.path);
        let due = pair.due(watch, &self.activity)?;
        // Where the peer's own packets came by just now, nobody else is searched for.
        let heard = pair.heard.is_some_and(|heard| self.now < heard + HEARD);
        let purpose = if pair.is_proven() || heard { Purpose::Liveness } else { Purpose::Search };
        let in_doubt = pair.proof().is_some_and(|proof| proof.health != Health::Good);
        let silent = pair.is_proven() && !in_doubt && !self.activity.is_active(self.now);
        (!silent).then_some((purpose, due))
    }

    /// When a pair that is in use and unanswered is left.
    fn demotion(&self, pair: &Pair) -> Option<Instant> {
        match self.selection.watch(pair.path) {
            Watch::Primary | Watch::Backup => pair.demotion(),
            Watch::Not => None,
        }
    }

    /// Whether a proof of this pair would be of use: not below the tier in use, and not without end beside an equal.
    fn is_worth_probing(&self, path: Path) -> bool {
        let Some(pair) = self.checklist.get(path) else { return false };
        if pair.is_proven() {
            return true;
        }
        let sent = match pair.state {
            State::Checking { sent, .. } => sent,
            State::Opening { .. } | State::Waiting | State::Silent | State::Proven(_) => 0,
        };
        self.rival(pair).is_none_or(|rival| pair.tier < rival.tier || (pair.tier == rival.tier && sent < ENOUGH))
    }

    /// Whether a proof of this pair would change what is in use.
    pub(super) fn would_gain(&self, pair: &Pair) -> bool {
        self.rival(pair).is_none_or(|rival| pair.tier < rival.tier)
    }

    /// The proven path that a pair would have to beat.
    fn rival(&self, pair: &Pair) -> Option<&Pair> {
        if !pair.is_direct() {
            return self.best_relayed();
        }
        let primary = self.selection.primary.and_then(|path| self.checklist.get(path));
        primary.filter(|primary| !primary.is_doubtful() && primary.path != pair.path)
    }

    fn best_relayed(&self) -> Option<&Pair> {
        self.checklist
            .iter()
            .filter(|pair| !pair.is_direct() && pair.is_eligible(self.now))
            .min_by_key(|pair| pair.score())
    }

    fn can_tell(&self) -> bool {
        self.selection.primary.is_some() && self.activity.is_active(self.now) && !self.punch.is_preparing()
    }

    fn weight(&self) -> Weight {
        let primary = self.selection.primary.and_then(|path| self.checklist.get(path));
        if primary.is_some_and(Pair::is_direct) { Weight::Little } else { Weight::Much }
    }

    fn tell(&mut self) {
        if self.can_tell()
            && let Some(path) = self.selection.primary
            && let Some(candidates) = self.telling.take(self.now, self.weight())
        {
            let update = CandidateList { round: 0, phase: Phase::Update, candidates };
            self.outbox.seal(path, None, update.encode());
        }
    }
}

/// Linux keeps an unanswered UDP entry for 30 s; a mapping that an early packet spoilt is clean after that.
const CLASH_LIFETIME: Duration = Duration::from_secs(35);
/// For how long an authentic packet makes its path as good as proven for the pace of probes.
const HEARD: Duration = Duration::from_secs(3);
/// Probes that a pair gets beside an equal one that is proven.
const ENOUGH: u8 = 5;
/// Between attempts while no path at all is proven.
const RETRY_PATHLESS: Duration = Duration::from_secs(5);
/// Between attempts while no backup is proven.
const RETRY_BACKUP: Duration = Duration::from_secs(60);
