//! Recordings: everything that went into a node and a digest of everything that came out, so that the run can be repeated
//! and looked into.
//!
//! A node is a function of what it is made from and of its inputs. A recording holds both; [`replay`] makes the same node
//! again, feeds it the same, and names the first output that differs. It says what the program of the recording did only
//! when that same program replays it.
//!
//! A recording holds private keys: the saved state, the seed of all randomness and the strings by which machines join.
//! Whoever has it can be that machine.
//!
//! # Format
//!
//! | bytes | meaning |
//! |---|---|
//! | 1 | version, 1 |
//! | then for each entry: 4 | length of the rest of the entry, big-endian |
//! | 1 | kind: 0 start, 1 input, 2 deadlines, 3 outputs |
//! | start: | version of the program (text), instant (8), the node's configuration, the stored state and logs; once, first |
//! | input: | instant (8), the input |
//! | deadlines: | instant (8) at which those that have come were let fire |
//! | outputs: | their count (4), and for each its kind (1) and a 64-bit FNV-1a digest of its content (8) |
//!
//! Instants are nanoseconds, texts and lists stand behind their length or count (4), enums are one byte for the case and
//! then its fields. An entry of outputs holds what was taken out since the one before it. Session keys have no part in the
//! digests; the handshake messages of which they are made have.
//!
//! A recording that was cut off, as by a crash, is good up to its last whole entry.

mod coded;
mod output;
mod replay;

use coded::Coded;
use ginnel_time::Instant;
use zeroize::Zeroizing;

use crate::io::Input;
use crate::node::{Config, Resume};

pub use output::OutputDigest;
pub use replay::{Difference, Played, ReplayError, replay};

/// One entry of a recording.
pub enum Entry {
    /// The node was made.
    Start(Box<Start>),
    /// The node was told something.
    Input {
        /// When.
        now: Instant,
        /// What.
        input: Input,
    },
    /// Deadlines were let fire.
    Deadlines {
        /// When.
        now: Instant,
    },
    /// What the node had put out was taken.
    Outputs(Vec<OutputDigest>),
}

/// What a node was made from.
pub struct Start {
    /// Version of the program.
    pub program: String,
    /// When.
    pub now: Instant,
    /// Its configuration, the seed of all randomness included.
    pub config: Config,
    /// What the state folder held.
    pub resume: Resume,
}

/// Bytes that are no recording, or not from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadRecording {
    /// Written by a newer program.
    #[error("the recording is of version {0}, which this program does not know")]
    Newer(u8),
    /// Something else.
    #[error("this is no recording of a node")]
    NotOne,
    /// An entry does not decode.
    #[error("the entry at byte {at} of the recording does not decode")]
    Broken {
        /// Where it begins.
        at: usize,
    },
    /// The last entry is not whole.
    #[error("the recording is cut off at byte {at}")]
    CutOff {
        /// Where what is left of it begins.
        at: usize,
    },
}

/// The first bytes of a recording: version and start.
pub fn beginning(program: &str, now: Instant, config: &Config, resume: &Resume) -> Zeroizing<Vec<u8>> {
    let mut bytes = vec![VERSION];
    entry(&mut bytes, START, |out| {
        program.to_owned().put(out);
        now.put(out);
        config.put(out);
        resume.put(out);
    });
    Zeroizing::new(bytes)
}

/// The entry of an input.
pub fn input(now: Instant, input: &Input) -> Zeroizing<Vec<u8>> {
    let mut bytes = Vec::new();
    entry(&mut bytes, INPUT, |out| {
        now.put(out);
        input.put(out);
    });
    Zeroizing::new(bytes)
}

/// The entry of deadlines that are let fire.
pub fn deadlines(now: Instant) -> Vec<u8> {
    let mut bytes = Vec::new();
    entry(&mut bytes, DEADLINES, |out| now.put(out));
    bytes
}

/// The entry of outputs that were taken.
pub fn outputs(digests: &[OutputDigest]) -> Vec<u8> {
    let mut bytes = Vec::new();
    entry(&mut bytes, OUTPUTS, |out| digests.to_vec().put(out));
    bytes
}

/// Reads a recording entry by entry, and ends after the first that is none.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Begins to read.
    ///
    /// # Errors
    /// When the bytes are no recording, or one of a newer version.
    pub fn new(bytes: &'a [u8]) -> Result<Self, BadRecording> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => Ok(Self { rest, at: 1 }),
            Some((&version, _)) if version > VERSION => Err(BadRecording::Newer(version)),
            Some(_) | None => Err(BadRecording::NotOne),
        }
    }

    fn take(&mut self) -> Result<Entry, BadRecording> {
        let at = self.at;
        let (length, rest) = self.rest.split_first_chunk::<4>().ok_or(BadRecording::CutOff { at })?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| BadRecording::CutOff { at })?;
        let (body, rest) = rest.split_at_checked(length).ok_or(BadRecording::CutOff { at })?;
        (self.rest, self.at) = (rest, at + 4 + length);
        parse(body).ok_or(BadRecording::Broken { at })
    }
}

impl Iterator for Reader<'_> {
    type Item = Result<Entry, BadRecording>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = self.take();
        if entry.is_err() {
            self.rest = &[];
        }
        Some(entry)
    }
}

fn parse(mut body: &[u8]) -> Option<Entry> {
    let from = &mut body;
    let entry = match u8::take(from)? {
        START => Entry::Start(Box::new(Start {
            program: Coded::take(from)?,
            now: Coded::take(from)?,
            config: Coded::take(from)?,
            resume: Coded::take(from)?,
        })),
        INPUT => Entry::Input { now: Coded::take(from)?, input: Coded::take(from)? },
        DEADLINES => Entry::Deadlines { now: Coded::take(from)? },
        OUTPUTS => Entry::Outputs(Coded::take(from)?),
        _ => return None,
    };
    from.is_empty().then_some(entry)
}

fn entry(bytes: &mut Vec<u8>, kind: u8, content: impl FnOnce(&mut Vec<u8>)) {
    let place = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    bytes.push(kind);
    content(bytes);
    let length = u32::try_from(bytes.len() - place - 4).expect("what a node is told is far below 4 GiB");
    bytes[place..place + 4].copy_from_slice(&length.to_be_bytes());
}

const VERSION: u8 = 1;
const START: u8 = 0;
const INPUT: u8 = 1;
const DEADLINES: u8 = 2;
const OUTPUTS: u8 = 3;
