//! A rehearsal of power cuts: a disk on paper that notes every operation, loses power after any byte of any of them, and
//! treats what was not flushed as badly as disks may.
//!
//! What a cut does to what was not flushed: a write is there, missing, there in part, there in some of its 512-byte
//! sectors (the rest being zeros, noise, or what was there before), or it has made the file longer and nothing else; names
//! change in any order, some of them not at all. A failed flush may lose what it was to flush, even when a later one
//! succeeds.

mod paper;

use std::fmt;
use std::io;
use std::time::Duration;

use ginnel_time::Instant;

use super::{Journal, Keeper, StateError, StateFolder};
use paper::{Dice, Image, PaperDisk, after_cut};

/// What a rehearsal found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Power cuts.
    pub cuts: usize,
    /// Runs of a keeper that they were made in.
    pub worlds: usize,
    /// Cuts in the middle of a write.
    pub torn: usize,
    /// Cuts while the disk was full, read-only or failing.
    pub failing: usize,
    /// Times that the newest generation was gone and the one before it served.
    pub earlier: usize,
    /// Cuts after which the state or the journal could not be read.
    pub unreadable: usize,
    /// Cuts after which something acknowledged was missing.
    pub older: usize,
    /// Cuts after which something stood there that was never written.
    pub invented: usize,
    /// Cuts after which the folder took no more.
    pub stuck: usize,
    /// The first thing that was wrong, with the seed and the place that bring it back.
    pub first: Option<String>,
}

impl Report {
    /// Whether every cut left what was acknowledged, and a folder that goes on.
    pub fn is_clean(&self) -> bool {
        self.unreadable + self.older + self.invented + self.stuck == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} power cuts in {} runs, {} in the middle of a write, {} on a failing disk: {} unreadable, {} older than \
             acknowledged, {} with what was never written, {} that took no more; the generation before served {} times",
            self.cuts,
            self.worlds,
            self.torn,
            self.failing,
            self.unreadable,
            self.older,
            self.invented,
            self.stuck,
            self.earlier
        )?;
        self.first.as_ref().map_or(Ok(()), |first| write!(f, "; first: {first}"))
    }
}

/// Rehearses `count` power cuts, every one of them determined by `seed`.
pub fn power_cuts(seed: u64, count: usize) -> Report {
    let mut report = Report::default();
    let mut dice = Dice(seed);
    while report.cuts < count {
        report.worlds += 1;
        let world = dice.next();
        let mut dice = Dice(world);
        let mut run = Run::new(first_image(&mut dice), &mut dice);
        run.live(ACTIONS, &mut dice);
        // Every step of the run, and some second steps after a first cut.
        let steps = run.disk.world().steps.len();
        for at in 0..=steps {
            if report.cuts >= count {
                break;
            }
            let place = format!("seed {world}, step {at}");
            let Some(image) = run.cut(at, &mut dice, &mut report, &place) else { continue };
            if dice.one_in(4) && report.cuts < count {
                let mut again = Run::new(image, &mut dice);
                again.live(3, &mut dice);
                let second = dice.below(again.disk.world().steps.len() + 1);
                again.cut(second, &mut dice, &mut report, &format!("{place}, then step {second}"));
            }
        }
    }
    report
}

/// A keeper that lives on a disk on paper, and what it was told to keep.
struct Run {
    disk: PaperDisk,
    base: Image,
    /// Every state that was to be written, with the step before which that began.
    states: Vec<(usize, Option<Vec<u8>>)>,
    /// Every log that was to be written.
    logs: Vec<(usize, Option<Journal>)>,
    /// Steps after which everything so far was acknowledged: the step, the state and the log.
    acknowledged: Vec<(usize, usize, usize)>,
}

impl Run {
    fn new(base: Image, dice: &mut Dice) -> Self {
        let disk = PaperDisk::new(&base);
        let found = read(&disk).unwrap_or_default();
        if dice.one_in(2) {
            let from = dice.below(150);
            let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::Other];
            let kind = kinds[dice.below(kinds.len())];
            disk.world().failing = Some((from, from + 1 + dice.below(40), kind));
        }
        Self { disk, base, states: vec![(0, found.0)], logs: vec![(0, found.1)], acknowledged: vec![(0, 0, 0)] }
    }

    /// Carries out some actions, as a daemon would.
    fn live(&mut self, actions: usize, dice: &mut Dice) {
        let mut keeper = self.start();
        let mut now = Instant::ZERO;
        // What a killed daemon has left counts as acknowledged once its successor has written.
        let (mut is_state_sure, mut is_log_sure) = (true, true);
        for _ in 0..actions {
            now += Duration::from_secs(10);
            let begun = self.disk.world().steps.len();
            let last = self.logs.last().and_then(|(_, log)| log.clone());
            match dice.below(17) {
                0..7 => {
                    is_state_sure = true;
                    let state = dice.bytes(2500);
                    self.states.push((begun, Some(state.clone())));
                    keeper.write(now, STATE, 1, state);
                }
                7..13 => {
                    is_log_sure = true;
                    let entries: Vec<Vec<u8>> = (0..=dice.below(5)).map(|_| dice.bytes(700)).collect();
                    let mut log = last.unwrap_or_default();
                    log.entries.extend(entries.clone());
                    self.logs.push((begun, Some(log)));
                    keeper.append(now, LOG, entries);
                }
                13 => {
                    is_log_sure = true;
                    let snapshot = (dice.bytes(4000), dice.bytes(200));
                    let entries: Vec<Vec<u8>> = (0..dice.below(4)).map(|_| dice.bytes(700)).collect();
                    let log = Journal { snapshot: Some(snapshot.clone()), entries: entries.clone() };
                    self.logs.push((begun, Some(log)));
                    keeper.restart(now, LOG, snapshot, entries);
                }
                14 => {
                    is_log_sure = true;
                    self.logs.push((begun, None));
                    keeper.forget(now, LOG);
                }
                15 => {
                    keeper.forget_previous(now, STATE);
                    let _ = keeper.check(now);
                }
                _ => {
                    // Killed and started again, without a power cut.
                    let Ok((state, log)) = read(&self.disk) else { return };
                    self.states.push((begun, state));
                    self.logs.push((begun, log));
                    keeper = self.start();
                    (is_state_sure, is_log_sure) = (false, false);
                }
            }
            if keeper.trouble().is_none() {
                let step = self.disk.world().steps.len();
                let (_, state, log) = self.acknowledged.last().copied().unwrap_or_default();
                let state = if is_state_sure { self.states.len() - 1 } else { state };
                let log = if is_log_sure { self.logs.len() - 1 } else { log };
                self.acknowledged.push((step, state, log));
            }
        }
    }

    /// A daemon reads before it writes.
    fn start(&self) -> Keeper {
        let mut keeper = Keeper::timed_by(|| Instant::ZERO, StateFolder::on(Box::new(self.disk.clone())));
        let _ = keeper.read(STATE, 1);
        let _ = keeper.read_log(LOG);
        keeper
    }

    /// Cuts the power at step `at`, somewhere within it, and judges what is left. Gives that, unless it cannot be read.
    fn cut(&self, at: usize, dice: &mut Dice, report: &mut Report, place: &str) -> Option<Image> {
        let world = self.disk.world();
        let (image, is_torn) = after_cut(&self.base, &world.steps, at, dice);
        report.cuts += 1;
        report.torn += usize::from(is_torn);
        report.failing += usize::from(world.failing.is_some_and(|(from, to, _)| (from..to).contains(&at)));
        let mut wrong = |count: &mut usize, what: String| {
            *count += 1;
            report.first.get_or_insert_with(|| format!("{place}: {what}"));
        };
        let disk = PaperDisk::new(&image);
        let ((state, log), is_earlier) = match read_with_warnings(&disk) {
            Ok(found) => found,
            Err(error) => {
                wrong(&mut report.unreadable, error.to_string());
                return None;
            }
        };
        report.earlier += usize::from(is_earlier);
        let (_, oldest_state, oldest_log) =
            self.acknowledged.iter().rev().find(|(step, ..)| *step <= at).copied().unwrap_or_default();
        let judge = |found: Option<usize>, oldest: usize| found.map(|index| index >= oldest);
        let of_state = self.states.iter().rposition(|(begun, known)| *begun <= at && *known == state);
        let of_log = self.logs.iter().rposition(|(begun, known)| *begun <= at && *known == log);
        for (what, verdict) in [("state", judge(of_state, oldest_state)), ("log", judge(of_log, oldest_log))] {
            match verdict {
                Some(true) => {}
                Some(false) => wrong(&mut report.older, format!("the {what} is older than acknowledged")),
                None => wrong(&mut report.invented, format!("the {what} was never written")),
            }
        }
        if let Err(error) = goes_on(&disk, log.unwrap_or_default()) {
            wrong(&mut report.stuck, error);
        }
        Some(image)
    }
}

type Found = (Option<Vec<u8>>, Option<Journal>);

fn read(disk: &PaperDisk) -> Result<Found, StateError> {
    read_with_warnings(disk).map(|(found, _)| found)
}

fn read_with_warnings(disk: &PaperDisk) -> Result<(Found, bool), StateError> {
    let mut folder = StateFolder::on(Box::new(disk.clone()));
    let state = folder.read(STATE, 1)?.map(|(_, content)| content.to_vec());
    let log = folder.read_journal(LOG)?;
    Ok(((state, log), !folder.warnings().is_empty()))
}

/// Writes once more on what a cut has left, and reads it back.
fn goes_on(disk: &PaperDisk, mut log: Journal) -> Result<(), String> {
    let mut keeper = Keeper::timed_by(|| Instant::ZERO, StateFolder::on(Box::new(disk.clone())));
    let _ = keeper.read(STATE, 1);
    keeper.write(Instant::ZERO, STATE, 1, b"after".to_vec());
    keeper.append(Instant::ZERO, LOG, vec![b"after".to_vec()]);
    log.entries.push(b"after".to_vec());
    if let Some(trouble) = keeper.trouble() {
        return Err(trouble.text.clone());
    }
    match read(disk) {
        Ok((Some(state), Some(found))) if state == b"after" && found == log => Ok(()),
        Ok(_) => Err("what was written after the cut is not there".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A disk that is empty, or holds what an earlier version left.
fn first_image(dice: &mut Dice) -> Image {
    let mut image = Image::default();
    if dice.one_in(3) {
        let mut bytes = vec![1];
        for _ in 0..dice.below(6) {
            let entry = dice.bytes(300);
            let length = u32::try_from(entry.len()).unwrap_or(0).to_be_bytes();
            bytes.extend_from_slice(&length);
            bytes.extend_from_slice(&super::checksum(&[&[1], &length, &entry]));
            bytes.extend_from_slice(&entry);
        }
        image.names.insert(LOG.to_owned(), 0);
        image.files.push(bytes);
    }
    image
}

const STATE: &str = "node";
const LOG: &str = "log";
/// Actions of one run: some hundreds of steps.
const ACTIONS: usize = 40;
