//! Fuzz targets: one for every parser of bytes from outside, and for the machines behind the parsers.
//!
//! A target is a function of bytes that panics when a promise is broken. The promises are the same everywhere: no bytes
//! make a program panic, a format has one encoding for one meaning, what fails changes nothing, and no list grows
//! beyond its bound. Where a seal or a signature would stop bytes at the door, the target makes a valid message out of
//! them first and damages it then.
//!
//! | who runs them | how |
//! |---|---|
//! | `cargo test -p ginnel-fuzz` | the corpus, and some thousand changes to it that a fixed seed chooses |
//! | `cargo xtask fuzz --seconds 60` | the engine in `engine/`: coverage-guided, without end |
//!
//! The corpus lies in `corpus/TARGET/`, one input per file. Whatever the engine finds goes there with its fix.

#![forbid(unsafe_code)]

mod feed;
pub mod mutate;
mod targets;

use std::fs;
use std::io;
use std::path::PathBuf;

pub use targets::TARGETS;

/// One fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// By which it is chosen, and the name of its corpus folder.
    pub name: &'static str,
    /// What it covers.
    pub covers: &'static str,
    /// Runs it on one input; panics where a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs that lead deep, made by the code under test itself.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Bytes that an input holds at most.
    pub longest: usize,
    /// How much work one run of it is.
    pub effort: Effort,
}

/// How much work a run of a target is; decides how many of them a test affords.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// A parser alone: a microsecond or a few.
    Small,
    /// Machines, files or some cryptography: up to some hundred microseconds.
    Middling,
    /// Networks with handshakes and signatures: a millisecond and more.
    Great,
}

impl Effort {
    /// Changed inputs that a test run tries.
    pub const fn changes(self) -> usize {
        match self {
            Self::Small => 20_000,
            Self::Middling => 2_000,
            Self::Great => 200,
        }
    }
}

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// The folder of a target's corpus.
pub fn corpus(target: &Target) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// The target's committed inputs, in the order of their names.
///
/// # Errors
/// When the folder or a file in it cannot be read.
pub fn inputs(target: &Target) -> io::Result<Vec<Vec<u8>>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(corpus(target))?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.sort();
    files.iter().map(fs::read).collect()
}
