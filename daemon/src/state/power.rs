//! A rehearsal of power cuts: a disk on paper that notes every operation, loses power after any byte of any of them, and
//! treats what was not flushed as badly as disks may.
//!
//! What a cut does to what was not flushed: a write is there, missing, there in part, there in some of its 512-byte
//! sectors (the rest being zeros, noise, or what was there before), or it has made the file longer and nothing else; names
//! change in any order, some of them not at all. A failed flush may lose what it was to flush, even when a later one
//! succeeds.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ginnel_time::Instant;
use zeroize::Zeroizing;

use super::{Disk, Journal, Keeper, StateError, StateFolder};

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

/// A disk on paper, shared with the rehearsal that reads its notes.
#[derive(Clone, Debug)]
struct PaperDisk(Arc<Mutex<World>>);

#[derive(Debug, Default)]
struct World {
    names: BTreeMap<String, usize>,
    files: Vec<Vec<u8>>,
    steps: Vec<Step>,
    /// Steps between which every step fails, and how.
    failing: Option<(usize, usize, io::ErrorKind)>,
}

/// What is on the disk for certain.
#[derive(Clone, Debug, Default)]
struct Image {
    names: BTreeMap<String, usize>,
    files: Vec<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Step {
    Create { name: String, file: usize },
    Resize { file: usize, length: usize },
    Write { file: usize, place: usize, bytes: Vec<u8> },
    Flush { file: usize },
    FlushFailed { file: usize },
    Rename { from: String, to: String, file: usize },
    Remove { name: String },
    FlushNames,
}

impl PaperDisk {
    fn new(image: &Image) -> Self {
        let world = World { names: image.names.clone(), files: image.files.clone(), ..World::default() };
        Self(Arc::new(Mutex::new(world)))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    /// Whether the next step fails, and how.
    fn failure(&self) -> Option<io::Error> {
        let (from, to, kind) = self.failing?;
        (from..to).contains(&self.steps.len()).then(|| io::Error::from(kind))
    }

    fn step(&mut self, step: Step) -> io::Result<()> {
        if let Some(error) = self.failure() {
            // A step that fails is noted, too, so that failing ends.
            match step {
                Step::Write { file, place, mut bytes } => {
                    bytes.truncate(bytes.len() / 2);
                    self.apply(Step::Write { file, place, bytes });
                }
                Step::Create { .. }
                | Step::Resize { .. }
                | Step::Flush { .. }
                | Step::FlushFailed { .. }
                | Step::Rename { .. }
                | Step::Remove { .. }
                | Step::FlushNames => self
                    .steps
                    .push(Step::FlushFailed { file: if let Step::Flush { file } = step { file } else { usize::MAX } }),
            }
            return Err(error);
        }
        self.apply(step);
        Ok(())
    }

    fn apply(&mut self, step: Step) {
        match &step {
            Step::Create { name, file } => {
                self.names.insert(name.clone(), *file);
                self.files.push(Vec::new());
            }
            Step::Resize { file, length } => self.files[*file].resize(*length, 0),
            Step::Write { file, place, bytes } => overwrite(&mut self.files[*file], *place, bytes),
            Step::Rename { from, to, file } => {
                self.names.remove(from);
                self.names.insert(to.clone(), *file);
            }
            Step::Remove { name } => {
                self.names.remove(name);
            }
            Step::Flush { .. } | Step::FlushFailed { .. } | Step::FlushNames => {}
        }
        self.steps.push(step);
    }

    fn fill(&mut self, file: usize, place: usize, bytes: &[u8]) -> io::Result<()> {
        self.step(Step::Write { file, place, bytes: bytes.to_vec() })?;
        self.step(Step::Flush { file })
    }
}

impl Disk for PaperDisk {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("paper").join(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.world().names.keys().cloned().collect())
    }

    fn read(&self, name: &str, _longest: u64) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let world = self.world();
        Ok(world.names.get(name).map(|file| Zeroizing::new(world.files[*file].clone())))
    }

    fn put(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut world = self.world();
        let file = match world.names.get(name).copied() {
            Some(file) => {
                world.step(Step::Resize { file, length: 0 })?;
                file
            }
            None => {
                let file = world.files.len();
                world.step(Step::Create { name: name.to_owned(), file })?;
                file
            }
        };
        world.fill(file, 0, content)
    }

    fn extend(&mut self, name: &str, place: u64, content: &[u8]) -> io::Result<()> {
        let mut world = self.world();
        let place = usize::try_from(place).map_err(io::Error::other)?;
        let file = *world.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        if world.files[file].len() < place {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        world.step(Step::Resize { file, length: place })?;
        world.fill(file, place, content)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.world();
        let file = *world.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        world.step(Step::Rename { from: from.to_owned(), to: to.to_owned(), file })
    }

    fn remove(&mut self, name: &str) -> io::Result<bool> {
        let mut world = self.world();
        if !world.names.contains_key(name) {
            return Ok(false);
        }
        world.step(Step::Remove { name: name.to_owned() })?;
        Ok(true)
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        self.world().step(Step::FlushNames)
    }
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
                    let (snapshot, entry) = (dice.bytes(4000), dice.bytes(200));
                    let log = Journal { snapshot: Some((snapshot.clone(), entry.clone())), entries: Vec::new() };
                    self.logs.push((begun, Some(log)));
                    keeper.restart(now, LOG, snapshot, entry);
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
        let mut keeper = Keeper::new(StateFolder::on(Box::new(self.disk.clone())));
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
    let mut keeper = Keeper::new(StateFolder::on(Box::new(disk.clone())));
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

/// What is left of `base` when the power fails within step `at`, and whether that was a write.
fn after_cut(base: &Image, steps: &[Step], at: usize, dice: &mut Dice) -> (Image, bool) {
    let mut image = base.clone();
    // What was not flushed, with whether a flush of it has failed.
    let mut writes: Vec<(Step, bool)> = Vec::new();
    let mut names: Vec<Step> = Vec::new();
    for step in steps.get(..at).unwrap_or(steps) {
        note(&mut image, &mut writes, &mut names, step.clone(), dice);
    }
    let mut is_torn = false;
    if let Some(Step::Write { file, place, bytes }) = steps.get(at) {
        is_torn = true;
        let bytes = bytes[..dice.below(bytes.len() + 1)].to_vec();
        note(&mut image, &mut writes, &mut names, Step::Write { file: *file, place: *place, bytes }, dice);
    } else if let Some(step) = steps.get(at).filter(|_| dice.one_in(2)) {
        // Begun and perhaps done, though nobody heard so.
        note(&mut image, &mut writes, &mut names, step.clone(), dice);
    }
    let (all, none) = (dice.one_in(5), dice.one_in(5));
    for (write, _) in writes {
        if all {
            apply_to(&mut image, &write);
        } else if !none {
            maul(&mut image, &write, dice);
        }
    }
    if dice.one_in(3) {
        dice.shuffle(&mut names);
    }
    for step in names {
        if all || (!none && dice.one_in(2)) {
            rename_in(&mut image, &step);
        }
    }
    (image, is_torn)
}

/// Takes a whole step into account.
fn note(image: &mut Image, writes: &mut Vec<(Step, bool)>, names: &mut Vec<Step>, step: Step, dice: &mut Dice) {
    match step {
        Step::Create { file, .. } => {
            image.files.resize(image.files.len().max(file + 1), Vec::new());
            names.push(step);
        }
        Step::Rename { .. } | Step::Remove { .. } => names.push(step),
        Step::Resize { .. } | Step::Write { .. } => writes.push((step, false)),
        Step::FlushFailed { file } => {
            writes.iter_mut().filter(|(write, _)| file_of(write) == file).for_each(|(_, lost)| *lost = true);
        }
        Step::Flush { file } => {
            for (write, is_lost) in writes.iter().filter(|(write, _)| file_of(write) == file) {
                if *is_lost {
                    maul(image, write, dice);
                } else {
                    apply_to(image, write);
                }
            }
            writes.retain(|(write, _)| file_of(write) != file);
        }
        Step::FlushNames => names.drain(..).for_each(|step| rename_in(image, &step)),
    }
}

fn file_of(step: &Step) -> usize {
    match step {
        Step::Create { file, .. }
        | Step::Resize { file, .. }
        | Step::Write { file, .. }
        | Step::Flush { file }
        | Step::FlushFailed { file }
        | Step::Rename { file, .. } => *file,
        Step::Remove { .. } | Step::FlushNames => usize::MAX,
    }
}

fn apply_to(image: &mut Image, step: &Step) {
    match step {
        Step::Resize { file, length } => image.files[*file].resize(*length, 0),
        Step::Write { file, place, bytes } => overwrite(&mut image.files[*file], *place, bytes),
        Step::Create { .. }
        | Step::Flush { .. }
        | Step::FlushFailed { .. }
        | Step::Rename { .. }
        | Step::Remove { .. }
        | Step::FlushNames => {}
    }
}

fn rename_in(image: &mut Image, step: &Step) {
    match step {
        // In whatever order: a file has one name.
        Step::Create { name, file } => {
            if !image.names.values().any(|named| named == file) {
                image.names.insert(name.clone(), *file);
            }
        }
        Step::Rename { from, to, file } => {
            image.names.remove(from);
            image.names.retain(|_, named| named != file);
            image.names.insert(to.clone(), *file);
        }
        Step::Remove { name } => {
            image.names.remove(name);
        }
        Step::Resize { .. } | Step::Write { .. } | Step::Flush { .. } | Step::FlushFailed { .. } | Step::FlushNames => {
        }
    }
}

/// Does to an unflushed write what a disk may do.
fn maul(image: &mut Image, step: &Step, dice: &mut Dice) {
    let Step::Write { file, place, bytes } = step else {
        if dice.one_in(2) {
            apply_to(image, step);
        }
        return;
    };
    let content = &mut image.files[*file];
    match dice.below(5) {
        0 => {}
        1 => overwrite(content, *place, bytes),
        2 => overwrite(content, *place, &bytes[..dice.below(bytes.len() + 1)]),
        3 => content.resize(content.len().max(place + bytes.len()), 0),
        _ => {
            let is_noise = dice.one_in(3);
            let end = place + bytes.len();
            let mut from = *place;
            while from < end {
                let to = ((from / SECTOR + 1) * SECTOR).min(end);
                if dice.one_in(2) {
                    overwrite(content, from, &bytes[from - place..to - place]);
                } else if is_noise && content.len() < to {
                    let noise: Vec<u8> = (from..to).map(|_| dice.next().to_le_bytes()[0]).collect();
                    overwrite(content, from, &noise);
                }
                from = to;
            }
        }
    }
}

fn overwrite(content: &mut Vec<u8>, place: usize, bytes: &[u8]) {
    content.resize(content.len().max(place + bytes.len()), 0);
    content[place..place + bytes.len()].copy_from_slice(bytes);
}

/// SplitMix64: all that a rehearsal needs of chance is that it can be repeated.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// Bytes that never come twice.
    fn bytes(&mut self, longest: usize) -> Vec<u8> {
        let mut bytes = self.next().to_le_bytes().to_vec();
        bytes.extend((0..self.below(longest)).map(|_| self.next().to_le_bytes()[0]));
        bytes
    }

    fn shuffle(&mut self, steps: &mut [Step]) {
        for last in (1..steps.len()).rev() {
            steps.swap(last, self.below(last + 1));
        }
    }
}

const STATE: &str = "node";
const LOG: &str = "log";
const SECTOR: usize = 512;
/// Actions of one run: some hundreds of steps.
const ACTIONS: usize = 40;
