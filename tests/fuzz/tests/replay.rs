//! The committed corpus and some thousand changes to it, through every target.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use data_encoding::HEXLOWER;
use ginnel_fuzz::mutate::Mutator;
use ginnel_fuzz::{TARGETS, Target, corpus, inputs};

#[test]
fn no_input_of_the_corpus_and_no_change_to_it_breaks_a_promise() {
    let next = AtomicUsize::new(0);
    let broken = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from).min(4) {
            scope.spawn(|| {
                while let Some(target) = TARGETS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(how) = replay(target) {
                        broken.lock().unwrap_or_else(PoisonError::into_inner).push(how);
                    }
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Runs one target; says with which input it broke.
fn replay(target: &Target) -> Result<(), String> {
    let mut among = inputs(target).map_err(|error| format!("the corpus of {}: {error}", target.name))?;
    let seeds = catch_unwind(|| (target.seeds)()).map_err(|_| format!("{}: its seeds cannot be made", target.name))?;
    among.extend(seeds);
    let mut mutator = Mutator::new(1);
    let changed = (0..target.effort.changes()).map(|_| mutator.next(&among, target.longest));
    for input in among.iter().cloned().chain(changed) {
        catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).map_err(|_| {
            format!("{}: cargo xtask fuzz --only {} --hex {}", target.name, target.name, HEXLOWER.encode(&input))
        })?;
    }
    Ok(())
}

#[test]
fn targets_and_folders_of_the_corpus_match() {
    let names: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names.len(), TARGETS.len(), "two targets of one name");
    let above = corpus(&TARGETS[0]).parent().expect("corpora lie in one folder").to_owned();
    let folders = fs::read_dir(above).expect("the corpora are there");
    let folders: BTreeSet<_> =
        folders.map(|entry| entry.expect("a folder").file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(folders, names);
}

#[test]
fn the_corpus_stays_small() {
    let all: Vec<_> = TARGETS.iter().flat_map(|target| inputs(target).expect("it can be read")).collect();
    let bytes: usize = all.iter().map(Vec::len).sum();
    assert!(all.len() < 3_000 && bytes < 2 << 20, "{} files, {bytes} bytes", all.len());
}
