//! Writes down everything that goes into the node, for `ginneld --record`.
//!
//! The file holds private keys, so nobody but its owner can read it, and it is never made over one that is there. Each
//! input is in the file before the node gets it: what makes a daemon end without a word stands last in its recording. The
//! format is that of [`ginnel_node::record`].

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use ginnel_node::record::{self, OutputDigest};
use ginnel_node::{Config, Input, Output, Resume};
use ginnel_time::Instant;

/// A recording that goes on until its bound, the end of the disk or the end of the daemon.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    /// None after the end.
    file: Option<File>,
    /// Bytes that may still be written.
    left: usize,
    /// Outputs since the last entry of them.
    taken: Vec<OutputDigest>,
}

impl Recorder {
    /// Begins a recording of at most `bound` bytes in a new file; the node must be made right after, from the same.
    ///
    /// # Errors
    /// When the file exists or cannot be written, or what the node is made from is too long for the bound.
    pub fn begin(path: &Path, bound: usize, now: Instant, config: &Config, resume: &Resume) -> Result<Self> {
        let bytes = record::beginning(env!("CARGO_PKG_VERSION"), now, config, resume);
        ensure!(
            bytes.len() <= bound,
            "the state of this machine takes {} bytes, and a recording {bound} at most",
            bytes.len()
        );
        let cannot = || format!("cannot record to {}, which must be a new file", path.display());
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(path).with_context(cannot)?;
        file.write_all(&bytes).with_context(cannot)?;
        Ok(Self { path: path.to_owned(), file: Some(file), left: bound - bytes.len(), taken: Vec::new() })
    }

    /// Takes down an input that the node is about to get.
    pub fn input(&mut self, now: Instant, input: &Input) {
        if self.file.is_some() {
            self.write(&record::input(now, input));
        }
    }

    /// Takes down that the node's deadlines are about to fire.
    pub fn deadlines(&mut self, now: Instant) {
        self.write(&record::deadlines(now));
    }

    /// Takes down an output that was taken from the node.
    pub fn output(&mut self, output: &Output) {
        if self.file.is_some() {
            self.taken.push(OutputDigest::of(output));
        }
    }

    /// Takes down that the node has no more outputs.
    pub fn drained(&mut self) {
        if !self.taken.is_empty() {
            let bytes = record::outputs(&std::mem::take(&mut self.taken));
            self.write(&bytes);
        }
    }

    fn write(&mut self, entry: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let Some(left) = self.left.checked_sub(entry.len()) else {
            tracing::warn!("the recording {} is full and ends here", self.path.display());
            self.file = None;
            return;
        };
        self.left = left;
        if let Err(error) = file.write_all(entry) {
            tracing::error!("the recording {} ends here: {error}", self.path.display());
            self.file = None;
        }
    }
}

/// Bytes of a recording: some days of a quiet machine.
pub const BOUND: usize = 256 << 20;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use ginnel_node::record::{ReplayError, replay};
    use ginnel_node::{Debug, Node, Request, RequestId};
    use ginnel_time::Tai64n;
    use ginnel_tunnel::Suite;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_recording_is_private_replays_and_never_takes_the_place_of_a_file() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("recording");
        run(&path, BOUND, 50);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let bytes = fs::read(&path).unwrap();
        let played = replay(&bytes).unwrap();
        assert_eq!((played.inputs, played.cut_off), (100, None));
        assert!(played.outputs >= 50 && played.deadlines == 0, "{played:?}");
        let error = Recorder::begin(&path, BOUND, Instant::ZERO, &config(), &Resume::default()).unwrap_err();
        assert!(format!("{error:#}").contains("must be a new file"), "{error:#}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn at_its_bound_a_recording_ends_with_a_whole_entry_and_the_daemon_goes_on() {
        let folder = TempDir::new().unwrap();
        let whole = folder.path().join("whole");
        run(&whole, BOUND, 50);
        let length = usize::try_from(fs::metadata(&whole).unwrap().len()).unwrap();
        for bound in [length - 1, length / 2] {
            let path = folder.path().join(bound.to_string());
            run(&path, bound, 50);
            let bytes = fs::read(&path).unwrap();
            assert!(bytes.len() <= bound && bytes.len() + 200 > bound, "{} of {bound}", bytes.len());
            let played = replay(&bytes).unwrap();
            assert!(played.cut_off.is_none() && played.inputs < 101, "{played:?}");
        }
        let path = folder.path().join("none");
        assert!(Recorder::begin(&path, 20, Instant::ZERO, &config(), &Resume::default()).is_err());
        assert!(!path.exists());
        let mut bytes = fs::read(&whole).unwrap();
        bytes[0] = 9;
        assert!(matches!(replay(&bytes), Err(ReplayError::Recording(_))));
    }

    /// A machine that is asked `count` times for what it cannot do.
    fn run(path: &Path, bound: usize, count: u64) {
        let resume = Resume::default();
        let mut recorder = Recorder::begin(path, bound, Instant::ZERO, &config(), &resume).unwrap();
        let mut node = Node::new(Instant::ZERO, config(), resume).unwrap();
        for number in 1..=count {
            let now = Instant::from_nanos(number * 1_000_000);
            let wall = Input::Wall(Tai64n::from_unix(1_800_000_000 + number, 0));
            let request = Input::Request { id: RequestId(number), network: None, request: Request::Invites };
            for input in [wall, request] {
                recorder.input(now, &input);
                let _ = node.handle_input(now, input);
                while let Some(output) = node.poll_output() {
                    recorder.output(&output);
                }
                recorder.drained();
            }
        }
    }

    fn config() -> Config {
        Config {
            seed: [7; 32],
            secret: None,
            addresses: Vec::new(),
            peers: Vec::new(),
            suites: vec![Suite::ChaChaPoly],
            hostname: "desk".to_owned(),
            debug: Debug::default(),
        }
    }
}
