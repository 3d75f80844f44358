//! The contract of every machine, held against random input.
//!
//! | rule | how it is tried |
//! |---|---|
//! | after a call: drain, then read the deadline | reading it twice gives the same |
//! | while output waits, the deadline is the last `now` | read before each output that is taken |
//! | a deadline fires when it has come, and firing moves it | one call at one moment is enough |
//! | an earlier `now` counts as the latest seen | a tenth of the calls lie in the past |
//! | randomness comes from the seed | two walks of one seed give one hash |
//! | outside bytes never panic | garbage, old messages, and real ones with bits turned |

mod forward;
mod node;
mod path;
mod relay;
mod signal;
mod stun;

use std::time::Duration;

use ginnel_time::Instant;

use crate::dice::Dice;
use crate::trace::{Telling, Trace};

/// A machine under test, with the means to think up input.
trait Subject {
    /// Makes up one input and gives it; where nothing comes to mind, it is a timeout.
    fn input(&mut self, now: Instant, dice: &mut Dice);
    fn timeout(&mut self, now: Instant);
    /// Takes one output, in words that tell all of it.
    fn output(&mut self) -> Option<String>;
    fn due(&self) -> Option<Instant>;
    /// Whether the deadline is as it must be while output waits.
    fn hurries(&self, latest: Instant) -> bool {
        self.due() == Some(latest)
    }
}

/// Walks machines of many seeds through random calls, each seed twice. `depths` are words of outputs that some walk must
/// see, so that the input is known to lead somewhere.
fn obeys<S: Subject>(name: &str, steps: usize, depths: &[&'static str], make: impl Fn(Instant, &mut Dice) -> S) {
    let mut unseen = depths.to_vec();
    for seed in 0..SEEDS {
        let first = walk(name, seed, steps, &mut unseen, &make);
        let second = walk(name, seed, steps, &mut unseen, &make);
        assert_eq!(first, second, "{name}, seed {seed}: two walks differ");
    }
    assert!(unseen.is_empty(), "{name}: no walk saw {unseen:?}");
}

/// Gives the hash of all outputs.
fn walk<S: Subject>(
    name: &str,
    seed: u64,
    steps: usize,
    unseen: &mut Vec<&'static str>,
    make: &impl Fn(Instant, &mut Dice) -> S,
) -> u64 {
    let mut dice = Dice::new(seed);
    let mut latest = Instant::ZERO + Duration::from_secs(1000);
    let mut subject = make(latest, &mut dice);
    subject.timeout(latest);
    let mut trace = Trace::new(Telling::Quiet);
    drain(&mut subject, &mut trace, unseen, latest, &format!("{name}, seed {seed}, made"));
    for step in 0..steps {
        let place = format!("{name}, seed {seed}, step {step}");
        let now = match dice.below(10) {
            0 => latest - dice.millis(1, 100_000),
            1..4 => latest,
            4..7 => latest + dice.millis(0, 400),
            7 if dice.chance(300) => latest + dice.millis(0, 60_000),
            7 | 8 => latest + dice.millis(0, 20),
            _ => subject.due().map_or(latest, |due| due.max(latest)),
        };
        latest = latest.max(now);
        if dice.chance(250) {
            subject.timeout(now);
        } else {
            subject.input(now, &mut dice);
        }
        drain(&mut subject, &mut trace, unseen, latest, &place);
        if subject.due().is_some_and(|due| due <= latest) {
            subject.timeout(latest);
            drain(&mut subject, &mut trace, unseen, latest, &place);
            let due = subject.due();
            assert!(due.is_none_or(|due| due > latest), "{place}: firing does not move the deadline {due:?}");
        }
    }
    trace.hash()
}

fn drain<S: Subject>(subject: &mut S, trace: &mut Trace, unseen: &mut Vec<&'static str>, latest: Instant, place: &str) {
    for _ in 0..MOST_OUTPUTS {
        let (due, hurries) = (subject.due(), subject.hurries(latest));
        let Some(output) = subject.output() else {
            assert_eq!(due, subject.due(), "{place}: reading the deadline changes it");
            return;
        };
        assert!(hurries, "{place}, at {latest:?}: the deadline is {due:?} while output waits: {output}");
        unseen.retain(|word| !output.contains(word));
        trace.note(latest, 0, output.as_bytes());
    }
    panic!("{place}: output without end");
}

/// Turns one bit, cuts, or lengthens; a third stays as it is.
fn spoil(dice: &mut Dice, mut bytes: Vec<u8>) -> Vec<u8> {
    let length = bytes.len() as u64;
    match dice.below(6) {
        0 if length > 0 => {
            let place = usize::try_from(dice.below(length)).expect("an index fits");
            bytes[place] ^= 1 << dice.below(8);
        }
        1 => bytes.truncate(usize::try_from(dice.below(length + 1)).expect("an index fits")),
        2 => bytes.extend(garbage(dice)),
        3 => bytes = garbage(dice),
        _ => {}
    }
    bytes
}

/// Up to 200 bytes that begin like something, often.
fn garbage(dice: &mut Dice) -> Vec<u8> {
    let length = if dice.chance(300) { dice.pick(&[32, 48, 64, 92, 96, 148, 152]) } else { dice.below(200) };
    let mut bytes: Vec<u8> = (0..length).map(|_| dice.below(256) as u8).collect();
    if let Some([_, reserved @ ..]) = bytes.first_chunk_mut::<4>().filter(|_| dice.chance(500)) {
        *reserved = [0; 3];
    }
    if let Some(first) = bytes.first_mut() {
        *first = dice.pick(&[0, 1, 2, 3, 4, 0x10, 0x11, 0x40, 0x45, 0x60, 0xC0, 0xC1, 0xC2, 0xC3, 0xC7, *first]);
    }
    bytes
}

fn index(dice: &mut Dice, length: usize) -> usize {
    usize::try_from(dice.below(length as u64)).expect("an index fits")
}

const SEEDS: u64 = 24;
const MOST_OUTPUTS: usize = 100_000;
