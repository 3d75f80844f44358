//! The disk on paper itself: its notes, and what a power cut leaves of it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use super::super::Disk;

/// A disk on paper, shared with the rehearsal that reads its notes.
#[derive(Clone, Debug)]
pub(super) struct PaperDisk(Arc<Mutex<World>>);

#[derive(Debug, Default)]
pub(super) struct World {
    names: BTreeMap<String, usize>,
    files: Vec<Vec<u8>>,
    pub(super) steps: Vec<Step>,
    /// Steps between which every step fails, and how.
    pub(super) failing: Option<(usize, usize, io::ErrorKind)>,
}

/// What is on the disk for certain.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) names: BTreeMap<String, usize>,
    pub(super) files: Vec<Vec<u8>>,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
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
    pub(super) fn new(image: &Image) -> Self {
        let world = World { names: image.names.clone(), files: image.files.clone(), ..World::default() };
        Self(Arc::new(Mutex::new(world)))
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
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

/// What is left of `base` when the power fails within step `at`, and whether that was a write.
pub(super) fn after_cut(base: &Image, steps: &[Step], at: usize, dice: &mut Dice) -> (Image, bool) {
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
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    pub(super) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// Bytes that never come twice.
    pub(super) fn bytes(&mut self, longest: usize) -> Vec<u8> {
        let mut bytes = self.next().to_le_bytes().to_vec();
        bytes.extend((0..self.below(longest)).map(|_| self.next().to_le_bytes()[0]));
        bytes
    }

    pub(super) fn shuffle(&mut self, steps: &mut [Step]) {
        for last in (1..steps.len()).rev() {
            steps.swap(last, self.below(last + 1));
        }
    }
}

const SECTOR: usize = 512;
