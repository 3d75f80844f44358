//! What must reach the disk, while the disk is well and while it is not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ginnel_time::Instant;
use zeroize::Zeroizing;

use super::{Content, Journal, StateError, StateFolder};
use crate::clock;

/// Writes to a state folder, and keeps in memory what a full, read-only or failing disk did not take.
///
/// Nothing here fails: a daemon whose disk fails keeps its links. [`Self::trouble`] tells whether everything given to the
/// keeper is on the disk; what is not is tried again after 1 s, then 2 s, and so on up to a minute.
///
/// A write returns when the disk has it, so one that hangs holds up its caller. After a write of more than a second the disk
/// is left alone for ten times as long: it takes at most a tenth of the daemon's time, and handshakes get through between.
#[derive(Debug)]
pub struct Keeper {
    folder: StateFolder,
    files: BTreeMap<String, Content>,
    /// Files whose generation before the newest is to be forgotten.
    scrubbed: BTreeSet<String>,
    logs: BTreeMap<String, Unsaved>,
    /// Logs of which more came than memory is given to: what follows is not kept.
    behind: BTreeSet<String>,
    trouble: Option<Trouble>,
    /// Until when a slow disk is left alone.
    rest: Option<Rest>,
    clock: fn() -> Instant,
    /// The length of the longest file that was written or read whole.
    longest: usize,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Instant,
    /// How long the disk took.
    took: Duration,
}

/// Why the disk does not hold everything that it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// When it began.
    pub since: Instant,
    /// What the disk says, in words for a user.
    pub text: String,
    /// When it is tried again.
    pub next: Instant,
    wait: Duration,
}

/// What a log has to become, in this order.
#[derive(Debug, Default)]
struct Unsaved {
    is_forgotten: bool,
    snapshot: Option<(Vec<u8>, Vec<u8>)>,
    entries: Vec<Vec<u8>>,
}

impl Keeper {
    /// A keeper of an open folder.
    pub fn new(folder: StateFolder) -> Self {
        Self::timed_by(clock::now, folder)
    }

    /// A keeper that learns from `clock` how long the disk takes.
    pub(super) fn timed_by(clock: fn() -> Instant, folder: StateFolder) -> Self {
        Self {
            folder,
            files: BTreeMap::new(),
            scrubbed: BTreeSet::new(),
            logs: BTreeMap::new(),
            behind: BTreeSet::new(),
            trouble: None,
            rest: None,
            clock,
            longest: 0,
        }
    }

    /// Reads a file, see [`StateFolder::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&mut self, name: &str, newest: u8) -> Result<Option<Content>, StateError> {
        let content = self.folder.read(name, newest)?;
        self.longest = self.longest.max(content.as_ref().map_or(0, |(_, bytes)| bytes.len()));
        Ok(content)
    }

    /// Reads a log, see [`StateFolder::rescue_journal`].
    ///
    /// # Errors
    /// As there.
    pub fn read_log(&mut self, name: &str) -> Result<Option<Journal>, StateError> {
        self.folder.rescue_journal(name)
    }

    /// Writes the file `name` whole.
    pub fn write(&mut self, now: Instant, name: &str, version: u8, content: Vec<u8>) {
        self.longest = self.longest.max(content.len());
        self.files.insert(name.to_owned(), (version, Zeroizing::new(content)));
        self.save(now);
    }

    /// Forgets what the file `name` held before its newest content.
    pub fn forget_previous(&mut self, now: Instant, name: &str) {
        self.scrubbed.insert(name.to_owned());
        self.save(now);
    }

    /// Appends entries to the log `name`.
    pub fn append(&mut self, now: Instant, name: &str, entries: Vec<Vec<u8>>) {
        if self.behind.contains(name) {
            return;
        }
        let waits = self.logs.get(name).into_iter().flat_map(|log| &log.entries);
        let waiting: usize = waits.map(|entry| entry.len() + COST).sum();
        let more: usize = entries.iter().map(|entry| entry.len() + COST).sum();
        if waiting.saturating_add(more) > MOST_WAITING && waiting > 0 {
            tracing::error!("{name} grows faster than it can be written; a restart fetches the rest from a server");
            self.behind.insert(name.to_owned());
        } else {
            self.logs.entry(name.to_owned()).or_default().entries.extend(entries);
        }
        self.save(now);
    }

    /// Begins the log `name` anew with a snapshot, the entry that vouches for it and the entries after that one.
    pub fn restart(&mut self, now: Instant, name: &str, snapshot: (Vec<u8>, Vec<u8>), entries: Vec<Vec<u8>>) {
        let log = Unsaved { snapshot: Some(snapshot), entries, ..Unsaved::default() };
        self.logs.insert(name.to_owned(), log);
        self.behind.remove(name);
        self.save(now);
    }

    /// Removes the log `name`.
    pub fn forget(&mut self, now: Instant, name: &str) {
        self.logs.insert(name.to_owned(), Unsaved { is_forgotten: true, ..Unsaved::default() });
        self.behind.remove(name);
        self.save(now);
    }

    /// Removes every log whose name begins with `prefix` and that is not one of `named`: a crash may leave one behind whose
    /// network was left.
    pub fn forget_others(&mut self, now: Instant, prefix: &str, named: &BTreeSet<String>) {
        let held = self.folder.names().unwrap_or_default();
        for name in held.iter().filter(|name| name.starts_with(prefix) && !named.contains(*name)) {
            tracing::info!("{name} belongs to a network that this machine has left, and is removed");
            self.forget(now, name);
        }
    }

    /// Tries again what the disk has not taken, when it is time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.trouble.as_ref().is_some_and(|trouble| trouble.next <= now) {
            self.retry(now);
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.trouble.as_ref().map(|trouble| trouble.next)
    }

    /// Finds out, at this moment, whether the disk takes what it is given.
    ///
    /// # Errors
    /// What is the matter, in words for a user.
    pub fn check(&mut self, now: Instant) -> Result<(), String> {
        self.retry(now);
        self.trouble.as_ref().map_or(Ok(()), |trouble| Err(trouble.text.clone()))
    }

    /// Why the disk does not hold everything that it should; `None` when it does.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// The folder itself.
    pub fn folder(&self) -> &StateFolder {
        &self.folder
    }

    fn save(&mut self, now: Instant) {
        match (&self.trouble, self.rest.filter(|rest| rest.until > now)) {
            (Some(trouble), _) if trouble.next > now => {}
            (None, Some(rest)) => {
                let text = format!("the disk took {} s for a write and is given a rest", rest.took.as_secs());
                tracing::warn!("this machine's state waits in memory: {text}");
                self.trouble = Some(Trouble { since: now, text, next: rest.until, wait: FIRST_WAIT });
            }
            (Some(_), _) => self.retry(now),
            (None, None) => {
                let began = (self.clock)();
                let flushed = self.flush();
                self.settle(now, began, flushed);
            }
        }
    }

    fn retry(&mut self, now: Instant) {
        let began = (self.clock)();
        let tried = self.folder.probe(PROBE.max(2 * self.longest)).and_then(|()| self.flush());
        self.settle(now, began, tried);
    }

    /// Writes everything that waits. Logs go before the state, which forgets a revocation once it has been given to a log;
    /// a state that is behind its log catches up. But a log that the disk has none of yet comes after the state that names
    /// its network, and is fetched again where it is missing; and one that goes does so after the state that names it no
    /// more.
    fn flush(&mut self) -> Result<(), StateError> {
        let known = |folder: &StateFolder, name: &str, log: &Unsaved| !log.is_forgotten && folder.has_journal(name);
        let folder = &self.folder;
        let first: Vec<String> =
            self.logs.iter().filter(|(name, log)| known(folder, name, log)).map(|(name, _)| name.clone()).collect();
        self.flush_logs(&first)?;
        while let Some(file) = self.files.first_entry() {
            let (version, content) = file.get();
            self.folder.write(file.key(), *version, content)?;
            file.remove();
        }
        while let Some(name) = self.scrubbed.first() {
            self.folder.forget_previous(name)?;
            self.scrubbed.pop_first();
        }
        let rest: Vec<String> = self.logs.keys().cloned().collect();
        self.flush_logs(&rest)
    }

    /// Writes what waits for these logs. One that cannot be written keeps none of the others from the disk.
    fn flush_logs(&mut self, names: &[String]) -> Result<(), StateError> {
        names.iter().map(|name| self.flush_log(name)).fold(Ok(()), Result::and)
    }

    fn flush_log(&mut self, name: &str) -> Result<(), StateError> {
        let Some(log) = self.logs.get_mut(name) else { return Ok(()) };
        if log.is_forgotten {
            self.folder.remove(name)?;
            log.is_forgotten = false;
        }
        if let Some((snapshot, voucher)) = &log.snapshot {
            self.folder.restart(name, snapshot, voucher, &log.entries)?;
        } else if !log.entries.is_empty() {
            self.folder.append(name, &log.entries)?;
        }
        self.logs.remove(name);
        Ok(())
    }

    /// Takes in what came of an attempt that began at `began` by the keeper's own clock.
    fn settle(&mut self, now: Instant, began: Instant, outcome: Result<(), StateError>) {
        let took = (self.clock)().saturating_duration_since(began);
        self.rest = (took > SLOW).then(|| Rest { until: now + took * (PATIENCE + 1), took });
        match (outcome, self.trouble.take()) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => tracing::info!("this machine's state is on the disk again"),
            (Err(error), before) => {
                if before.is_none() {
                    tracing::error!("this machine's state is not on the disk: {error}; links stay up, trying again");
                }
                let wait = before.as_ref().map_or(FIRST_WAIT, |trouble| (trouble.wait * 2).min(LONGEST_WAIT));
                let since = before.map_or(now, |trouble| trouble.since);
                let next = self.rest.map_or(now + wait, |rest| rest.until.max(now + wait));
                self.trouble = Some(Trouble { since, text: error.to_string(), next, wait });
            }
        }
    }
}

/// A write that takes longer is followed by a rest.
const SLOW: Duration = Duration::from_secs(1);
/// How many times as long as the write the rest is.
const PATIENCE: u32 = 10;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// More than the state of a machine in few networks takes.
const PROBE: usize = 64 * 1024;
/// Bytes of one log's entries that wait for a disk at most.
const MOST_WAITING: usize = 8 << 20;
/// What an entry takes beside its bytes.
const COST: usize = 64;
