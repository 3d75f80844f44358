//! The agent: everything that concerns the paths to one peer.

mod drive;
#[cfg(test)]
mod tests;
mod view;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore as _, SeedableRng as _};

use crate::address;
use crate::candidate::{Ends, Remotes, Source};
use crate::checklist::Checklist;
use crate::event::{Config, Discard, Input, Output, PathEvent, Role};
use crate::id::{Candidate, Local, LocalCandidate, Path};
use crate::message::{self, CandidateList, Echo, Message, Phase};
use crate::outbox::Outbox;
use crate::pace::Pace;
use crate::pair::{Health, Pair, Proof, State};
use crate::punch::{Answer, Punch, Step};
use crate::schedule::{self, Activity};
use crate::score::Tier;
use crate::selection::Selection;
use crate::strategy::{OPENER_TTL, Opening};
use crate::telling::Telling;

/// Decides about the paths to one peer: pairs, probes, selection, punching.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    rng: ChaCha20Rng,
    now: Instant,
    /// Our side of the session, while one is up.
    role: Option<Role>,
    ends: Ends,
    remotes: Remotes,
    checklist: Checklist,
    selection: Selection,
    activity: Activity,
    punch: Punch,
    pace: Pace,
    telling: Telling,
    /// When the driver last brought the other side's candidates.
    brought: Option<Instant>,
    /// When relayed pairs are tried again because none is proven.
    retry: Option<Instant>,
    /// The last primary, kept beyond its session for the next handshake.
    last_good: Option<Path>,
    outbox: Outbox,
}

impl Agent {
    /// Makes an agent that knows no candidate and no session; `seed` yields probe ids and jitter.
    pub fn new(seed: [u8; 32], config: Config) -> Self {
        Self {
            config,
            rng: ChaCha20Rng::from_seed(seed),
            now: Instant::ZERO,
            role: None,
            ends: Ends::default(),
            remotes: Remotes::default(),
            checklist: Checklist::default(),
            selection: Selection::default(),
            activity: Activity::default(),
            punch: Punch::new(),
            pace: Pace::new(),
            telling: Telling::default(),
            brought: None,
            retry: None,
            last_good: None,
            outbox: Outbox::default(),
        }
    }

    /// Takes one input.
    ///
    /// # Errors
    /// [`Discard`] says why the input changed nothing; the agent stays usable.
    pub fn handle_input(&mut self, now: Instant, input: Input) -> Result<(), Discard> {
        self.now = self.now.max(now);
        let result = match input {
            Input::LocalCandidates(list) => self.local_candidates(list),
            Input::RemoteCandidates(list) => self.remote_candidates(list),
            Input::Session(role) => self.session(role),
            Input::SessionLost => self.session_lost(),
            Input::Arrived(path) => self.arrived(path),
            Input::Message { path, bytes } => self.message(path, &bytes),
            Input::Traffic { sent, received } => self.traffic(match (sent, received) {
                (_, true) => Flow::Answered,
                (true, false) => Flow::OneWay,
                (false, false) => Flow::Nothing,
            }),
            Input::SendFailed { path } => self.send_failed(path),
            Input::PathLost(local) => self.path_lost(local),
            Input::Refused(prefixes) => self.refuse(prefixes),
        };
        self.settle();
        result
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.settle();
    }

    /// Takes the next output; drained until `None` after every `handle_*`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outbox.take()
    }

    fn local_candidates(&mut self, list: Vec<LocalCandidate>) -> Result<(), Discard> {
        let change = self.ends.replace(list);
        let added = self.rebuild();
        if change.moved {
            self.moved();
        }
        if self.punch.is_preparing() {
            let needs_mapping = self.ends.any_socket_is_public();
            let usable = |local: &&Local| !needs_mapping || self.ends.has_public_address(**local);
            let sockets = self.ends.locals().filter(|local| matches!(local, Local::Socket(_)));
            let newest = sockets.filter(|local| usable(&local)).map(|local| self.ends.birth(local)).max();
            self.punch.gathered(self.now, newest.unwrap_or(0));
        } else {
            self.telling.changed(self.ends.told(self.config.policy));
        }
        self.begin(&added);
        Ok(())
    }

    fn remote_candidates(&mut self, list: Vec<Candidate>) -> Result<(), Discard> {
        self.replace_remotes(Source::Mailbox, list);
        self.brought = Some(self.now);
        let added = self.rebuild();
        self.begin(&added);
        Ok(())
    }

    fn replace_remotes(&mut self, source: Source, mut list: Vec<Candidate>) {
        list.retain(|candidate| !self.config.refuses(candidate.addr));
        self.remotes.replace(source, list);
    }

    fn session(&mut self, role: Role) -> Result<(), Discard> {
        let was_up = self.role.replace(role).is_some();
        if was_up {
            // The renewal of a session is no traffic: a probe may have caused it, and as traffic it would cause the next.
            if self.lacks_proof() {
                // The handshake went through where probes did not: the other side may have forgotten the last session, or
                // has opened for us only now.
                if self.brought.is_some_and(|brought| self.now < brought + MAILED) {
                    self.start_all();
                } else {
                    self.start_all_gently();
                }
                self.punch.go_on(self.now, role);
            }
            return Ok(());
        }
        self.activity.note(self.now);
        self.start_all();
        self.punch.reset();
        self.punch.watch(self.now, role);
        self.telling.restart(self.ends.told(self.config.policy));
        Ok(())
    }

    fn session_lost(&mut self) -> Result<(), Discard> {
        self.role.take().ok_or(Discard::NoSession)?;
        self.checklist.iter_mut().for_each(Pair::reset);
        self.remotes.forget_session();
        self.punch.reset();
        self.retry = None;
        self.outbox.session_lost();
        self.select(Selection::default());
        Ok(())
    }

    fn arrived(&mut self, path: Path) -> Result<(), Discard> {
        if self.config.refuses(path.remote) {
            return Err(Discard::UnusableAddress);
        }
        let context = (&self.ends, &self.remotes, self.config.policy);
        let pair = self.checklist.heard(self.now, path, context, self.selection.in_use())?;
        let is_direct = pair.is_direct();
        if self.role.is_none() {
            return Ok(());
        }
        let pair = self.checklist.get(path).ok_or(Discard::UnknownPath)?;
        if (pair.is_proven() || self.would_gain(pair))
            && let Some(pair) = self.checklist.get_mut(path)
        {
            pair.trigger(self.now);
        }
        if is_direct {
            // The caller's first packet is through: what was opened for it can be used.
            let now = self.now;
            let opened = self.checklist.iter_mut().filter(|pair| pair.is_direct() && pair.is_opened(now));
            opened.for_each(|pair| pair.start(now));
        }
        Ok(())
    }

    fn message(&mut self, path: Path, bytes: &[u8]) -> Result<(), Discard> {
        let role = self.role.ok_or(Discard::NoSession)?;
        match message::decode(bytes)? {
            Message::Probe(_) => Err(Discard::Probe),
            Message::Echo(echo) => self.echo(echo),
            // It may be answered by its path, which its sender chose.
            Message::Candidates(_) if !self.may_answer(path) => Err(Discard::UnusableAddress),
            Message::Candidates(list) => self.candidate_list(path, role, list),
        }
    }

    fn may_answer(&self, path: Path) -> bool {
        address::usable_source(path.remote) && !self.config.refuses(path.remote)
    }

    fn echo(&mut self, echo: Echo) -> Result<(), Discard> {
        let jitter = self.jitter(schedule::INTERVAL_JITTER);
        let now = self.now;
        let answered = self.checklist.iter_mut().find_map(|pair| Some((pair.echoed(now, echo.id, jitter)?, pair)));
        let (rtt, pair) = answered.ok_or(Discard::UnknownEcho)?;
        rtt.ok_or(Discard::LateEcho)?;
        pair.observed = Some(echo.observed);
        if echo.relayed && !pair.path.is_relayed() {
            pair.tier = pair.tier.max(Tier::OneRelay);
        }
        self.outbox.answered(pair.path);
        Ok(())
    }

    fn candidate_list(&mut self, path: Path, role: Role, list: CandidateList) -> Result<(), Discard> {
        match list.phase {
            Phase::Update => {
                let added = self.told_in_session(list.candidates);
                self.begin(&added);
                Ok(())
            }
            Phase::Call => self.called(path, role, list),
            Phase::Ready => {
                let step = self.punch.ready(self.now, role, list.round).ok_or(Discard::StaleRound)?;
                self.told_in_session(list.candidates);
                self.take_step(step);
                Ok(())
            }
        }
    }

    /// Takes the peer's whole list; answers the new pairs. A path in use whose address is no longer told is questioned: the
    /// peer has moved.
    fn told_in_session(&mut self, candidates: Vec<Candidate>) -> Vec<Path> {
        let in_use = self.selection.in_use();
        let told = |agent: &Self, path: Path| agent.checklist.get(path).is_some_and(|pair| pair.told);
        let before = in_use.map(|path| path.filter(|path| told(self, *path)));
        self.replace_remotes(Source::Session, candidates);
        let added = self.rebuild();
        for path in before.into_iter().flatten().filter(|path| !told(self, *path)).collect::<Vec<_>>() {
            if let Some(pair) = self.checklist.get_mut(path) {
                pair.stale(self.now);
                pair.question(self.now, schedule::DOUBT_PROBES - 1, self.now - MOVED_HEAD_START);
            }
        }
        added
    }

    fn called(&mut self, path: Path, role: Role, list: CandidateList) -> Result<(), Discard> {
        match self.punch.called(self.now, role, list.round) {
            Answer::TooOften => return Err(Discard::TooOften),
            Answer::Ignore => {
                // Both sides may take the same role, between versions; what the call brings is as good as ever.
                let added = self.told_in_session(list.candidates);
                self.begin(&added);
                return Ok(());
            }
            Answer::Again => self.reopen_round(list.round, path),
            Answer::Open => {
                self.told_in_session(list.candidates);
                self.open_round(list.round, path);
                // The openers leave before the answer that they open for.
                self.probe();
            }
        }
        let candidates = self.ends.told(self.config.policy);
        self.telling.carried(self.now, candidates.clone());
        let ready = CandidateList { round: list.round, phase: Phase::Ready, candidates };
        self.outbox.seal(path, None, ready.encode());
        Ok(())
    }

    fn traffic(&mut self, flow: Flow) -> Result<(), Discard> {
        let was_active = self.activity.is_active(self.now);
        if flow != Flow::Nothing {
            self.activity.note(self.now);
        }
        if self.role.is_none() || flow == Flow::Nothing {
            return Ok(());
        }
        if !was_active {
            self.wake();
            if flow == Flow::OneWay {
                // Nothing was asked while the peer was idle, so that either side's addresses may be others by now; a call
                // brings them, and opens both sides, long before the paths at hand are known to be dead. Whoever lost the
                // path meanwhile has been told nothing of it, and needs the call all the more.
                self.outbox.summon();
            }
        } else if flow == Flow::OneWay
            && let Some(pair) = self.selection.primary.and_then(|path| self.checklist.get_mut(path))
            && pair.probed.is_some_and(|probed| self.now >= probed + schedule::ONE_WAY_PATIENCE)
        {
            pair.question(self.now, 0, self.now);
        }
        Ok(())
    }

    fn send_failed(&mut self, path: Path) -> Result<(), Discard> {
        let pair = self.checklist.get_mut(path).ok_or(Discard::UnknownPath)?;
        if self.selection.in_use().contains(&Some(path)) && pair.is_proven() {
            pair.demote(self.now + UNREACHABLE_REST);
            self.outbox.event(PathEvent::Failed { path });
            self.search_anew(Some(path));
        } else {
            pair.state = State::Silent;
        }
        Ok(())
    }

    fn path_lost(&mut self, local: Local) -> Result<(), Discard> {
        if !self.ends.remove(local) {
            return Err(Discard::UnknownLocal);
        }
        let in_use = self.selection.in_use().into_iter().flatten().any(|path| path.local == local);
        self.checklist.remove_local(local);
        self.telling.changed(self.ends.told(self.config.policy));
        if in_use {
            self.search_anew(None);
        }
        Ok(())
    }

    fn refuse(&mut self, prefixes: Arc<[(IpAddr, u8)]>) -> Result<(), Discard> {
        self.config.refused = prefixes;
        let config = &self.config;
        if self.remotes.retain(|candidate| !config.refuses(candidate.addr)) {
            self.rebuild();
        }
        Ok(())
    }

    /// Makes the pairs of the present candidates; answers the new ones.
    fn rebuild(&mut self) -> Vec<Path> {
        self.checklist.rebuild(&self.ends, &self.remotes, self.config.policy, self.selection.in_use())
    }

    /// Starts pairs that came up inside a session. Both sides open first, since neither knows when the other sends; while
    /// a round of our own is prepared that a path will carry, direct pairs wait for it.
    fn begin(&mut self, added: &[Path]) {
        let Some(role) = self.role.filter(|_| self.activity.is_active(self.now)) else {
            return;
        };
        let (now, fire, pathless) = (self.now, self.now + self.control_rtt(), self.selection.primary.is_none());
        let waits = self.punch.is_preparing() && !pathless;
        let mut direct = false;
        for path in added {
            if let Some(pair) = self.checklist.get_mut(*path)
                && !(waits && pair.is_direct())
            {
                direct |= pair.is_direct();
                start_gently(pair, now, fire);
            }
        }
        if direct && pathless {
            self.punch.go_on(now, role);
        } else if direct {
            self.punch.renew(now, role);
        }
    }

    /// Whether there is no path in use, or traffic for one whose proof is out of date.
    fn lacks_proof(&self) -> bool {
        let primary = self.selection.primary.and_then(|path| self.checklist.get(path)).and_then(Pair::proof);
        primary.is_none_or(|proof| self.activity.is_active(self.now) && self.now >= proof.fresh_until)
    }

    /// Full probes on every pair: a handshake by mailbox has opened both sides.
    fn start_all(&mut self) {
        self.question_primary();
        for pair in self.checklist.iter_mut() {
            let delay = last_resort_delay(pair);
            pair.start(self.now + delay);
        }
    }

    /// Likewise, where the handshake went by a path and opened nothing but that: the other side hears of it within a round
    /// trip, and opens then.
    fn start_all_gently(&mut self) {
        self.question_primary();
        let (now, fire) = (self.now, self.now + self.control_rtt());
        for pair in self.checklist.iter_mut() {
            start_gently(pair, now + last_resort_delay(pair), fire);
        }
    }

    fn question_primary(&mut self) {
        if let Some(primary) = self.selection.primary.and_then(|path| self.checklist.get_mut(path)) {
            primary.question(self.now, 0, self.now);
        }
    }

    /// Takes up an idle peer again: what was proven is asked again while data already flows on it.
    fn wake(&mut self) {
        let Some(role) = self.role else { return };
        let (now, fire, selection) = (self.now, self.now + self.control_rtt(), self.selection);
        for pair in self.checklist.iter_mut() {
            if selection.primary == Some(pair.path) && pair.is_proven() {
                let unanswered = if pair.is_eligible(now) { 0 } else { schedule::DOUBT_PROBES - 1 };
                pair.question(now, unanswered, now);
            } else if selection.backup == Some(pair.path) && pair.is_proven() {
                pair.question(now, 0, now);
            } else {
                start_gently(pair, now, fire);
            }
        }
        self.punch.renew(now, role);
    }

    /// The machine has other addresses: nothing that was proven counts, and the primary gets half the usual time.
    fn moved(&mut self) {
        let (now, selection) = (self.now, self.selection);
        self.checklist.iter_mut().for_each(|pair| pair.stale(now));
        let Some(role) = self.role.filter(|_| self.activity.is_active(now)) else {
            return;
        };
        let fire = now + self.control_rtt();
        for pair in self.checklist.iter_mut() {
            if selection.primary == Some(pair.path) && pair.is_proven() {
                pair.question(now, schedule::DOUBT_PROBES - 1, now - MOVED_HEAD_START);
            } else if selection.backup == Some(pair.path) && pair.is_proven() {
                pair.question(now, 0, now);
            } else {
                start_gently(pair, now, fire);
            }
        }
        self.punch.reset();
        self.punch.watch(now, role);
    }

    /// A path in use is gone: asks every other one at once. Nobody misses the path of an idle peer; what is said next
    /// looks for one.
    fn search_anew(&mut self, failed: Option<Path>) {
        let now = self.now;
        let Some(role) = self.role.filter(|_| self.activity.is_active(now)) else { return };
        for pair in self.checklist.iter_mut().filter(|pair| Some(pair.path) != failed) {
            if pair.is_proven() { pair.question(now, 0, now) } else { pair.start(now) }
        }
        self.punch.renew(now, role);
    }

    /// The round trip of the path that control messages take, or a guess.
    fn control_rtt(&self) -> Duration {
        let primary = self.selection.primary.and_then(|path| self.checklist.get(path));
        primary.and_then(Pair::proof).map_or(GUESSED_RTT, |proof| proof.rtt)
    }

    fn jitter(&mut self, millis: u64) -> Duration {
        Duration::from_millis(self.rng.next_u64() % (millis + 1))
    }
}

/// Which ways data flowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Nothing,
    /// We sent and received nothing.
    OneWay,
    /// We received some.
    Answered,
}

/// How much later than others a pair begins with a session.
fn last_resort_delay(pair: &Pair) -> Duration {
    if pair.tier == Tier::TwoRelays { schedule::LAST_RESORT_DELAY } else { Duration::ZERO }
}

/// Starts a pair without spoiling the other side's mapping: with openers where that could happen.
fn start_gently(pair: &mut Pair, now: Instant, fire: Instant) {
    if pair.can_clash() { pair.open(now, OPENER_TTL, fire) } else { pair.start(now) }
}

/// For so long what the driver brought belongs to the handshake that ends: an answer by mailbox is repeated for 3 s.
const MAILED: Duration = Duration::from_secs(5);
/// A path without a route is not asked again before this.
const UNREACHABLE_REST: Duration = Duration::from_secs(1);
/// How long a path is taken to have been silent already when one of its ends moves.
const MOVED_HEAD_START: Duration = Duration::from_millis(1500);
/// Round trip where no path has been measured: what an answer by the driver's mailbox takes, with a repetition on its way.
const GUESSED_RTT: Duration = Duration::from_millis(600);
