//! A recorded run, once more.

use std::fmt;

use ginnel_time::Instant;

use super::{BadRecording, Entry, OutputDigest, Reader};
use crate::io::{Input, Output};
use crate::node::Node;
use crate::saved::BadState;

/// A replay that went as recorded, as far as the recording goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Played {
    /// Version of the program that recorded.
    pub program: String,
    /// When the node was made.
    pub began: Instant,
    /// The last instant.
    pub ended: Instant,
    /// Inputs.
    pub inputs: u64,
    /// Times that deadlines were let fire.
    pub deadlines: u64,
    /// Outputs, all as recorded.
    pub outputs: u64,
    /// Where the recording was cut off, if it was.
    pub cut_off: Option<usize>,
}

/// Why a replay did not get to the end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The recording cannot be read.
    #[error(transparent)]
    Recording(#[from] BadRecording),
    /// An entry is out of place.
    #[error("the recording does not begin with a start, or has several")]
    Misplaced,
    /// The recorded state cannot be used.
    #[error(transparent)]
    State(#[from] BadState),
    /// The node did something else.
    #[error("{0}")]
    Differs(Box<Difference>),
}

/// The first output that is not as recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The entry of outputs, counted from 0 with the start.
    pub entry: u64,
    /// The instant of the entry before it.
    pub now: Instant,
    /// What the node was told last.
    pub after: String,
    /// Which output of the entry, from 0.
    pub place: usize,
    /// What was recorded; none where the node had no further output.
    pub recorded: Option<OutputDigest>,
    /// What came; none where nothing did.
    pub came: Option<OutputDigest>,
    /// What came, in words that hold no secret; empty where nothing did.
    pub words: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.now.as_nanos();
        write!(
            f,
            "entry {} at {}.{:09} s, after {}: output {} was ",
            self.entry,
            at / 1_000_000_000,
            at % 1_000_000_000,
            self.after,
            self.place
        )?;
        match self.recorded {
            Some(recorded) => write!(f, "{recorded}")?,
            None => f.write_str("none")?,
        }
        match self.came {
            Some(came) => write!(f, ", and is {came}: {}", self.words),
            None => f.write_str(", and is none"),
        }
    }
}

/// Makes the recorded node again, tells it everything that it was told, and compares what comes out.
///
/// # Errors
/// [`ReplayError`] when the recording cannot be read, or something else comes out.
pub fn replay(bytes: &[u8]) -> Result<Played, ReplayError> {
    let mut entries = Reader::new(bytes)?;
    let Some(Entry::Start(start)) = entries.next().transpose()? else { return Err(ReplayError::Misplaced) };
    let mut node = Node::new(start.now, start.config, start.resume)?;
    let mut played = Played {
        program: start.program,
        began: start.now,
        ended: start.now,
        inputs: 0,
        deadlines: 0,
        outputs: 0,
        cut_off: None,
    };
    let mut after = "the start".to_owned();
    for (entry, number) in entries.zip(1..) {
        match entry {
            Ok(Entry::Start(_)) => return Err(ReplayError::Misplaced),
            Ok(Entry::Input { now, input }) => {
                after = told(&input);
                // What is dropped is so again.
                let _ = node.handle_input(now, input);
                played.inputs += 1;
                played.ended = now;
            }
            Ok(Entry::Deadlines { now }) => {
                "deadlines".clone_into(&mut after);
                node.handle_timeout(now);
                played.deadlines += 1;
                played.ended = now;
            }
            Ok(Entry::Outputs(recorded)) => {
                compare(&mut node, &recorded).map_err(|difference| {
                    let (now, after) = (played.ended, after.clone());
                    ReplayError::Differs(Box::new(Difference { entry: number, now, after, ..difference }))
                })?;
                played.outputs += recorded.len() as u64;
            }
            Err(BadRecording::CutOff { at }) => played.cut_off = Some(at),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(played)
}

/// Takes everything out of a node, which should be as recorded.
fn compare(node: &mut Node, recorded: &[OutputDigest]) -> Result<(), Difference> {
    let mut place = 0;
    let mut rest = recorded.iter();
    loop {
        let output = node.poll_output();
        let (wanted, came) = (rest.next().copied(), output.as_ref().map(OutputDigest::of));
        if wanted != came {
            return Err(Difference {
                entry: 0,
                now: Instant::ZERO,
                after: String::new(),
                place,
                recorded: wanted,
                came,
                words: output.as_ref().map(words).unwrap_or_default(),
            });
        }
        if wanted.is_none() {
            return Ok(());
        }
        place += 1;
    }
}

/// An input in words, without its secrets.
fn told(input: &Input) -> String {
    match input {
        Input::Forward(event) => format!("{event:?}"),
        Input::ServerBytes { server, bytes } => format!("ServerBytes({server:?}, {} B)", bytes.len()),
        Input::Request { id, .. } => format!("Request({id:?})"),
        Input::Wall(_)
        | Input::Interfaces(_)
        | Input::Addresses(_)
        | Input::SocketOpened { .. }
        | Input::SocketLost { .. }
        | Input::SendFailed { .. }
        | Input::ServerOpened { .. }
        | Input::ServerClosed { .. } => format!("{input:?}"),
    }
}

/// An output in words, without its secrets.
fn words(output: &Output) -> String {
    match output {
        Output::Forward(command) => format!("{command:?}"),
        Output::WriteServer { server, bytes } => format!("{server:?}, {} B", bytes.len()),
        Output::Persist(bytes) => format!("{} B", bytes.len()),
        Output::Reply { id, .. } => format!("{id:?}"),
        Output::StoreEntries { network, .. } | Output::StoreSnapshot { network, .. } => format!("{network}"),
        Output::OpenSocket { .. }
        | Output::CloseSocket(_)
        | Output::ConnectServer { .. }
        | Output::DisconnectServer(_)
        | Output::Tun(_)
        | Output::Names(_)
        | Output::ForgetLog(_)
        | Output::Notice { .. } => format!("{output:?}"),
    }
}
