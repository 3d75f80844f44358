//! Recordings that `ginneld --record` made on a true machine, played again by a fresh node.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ginnel_node::record;

/// Plays the recording in `file` and says how it went, in one line.
///
/// # Errors
/// When it cannot be read, or when the node does anything else than it did then; the first difference is named.
pub fn replay(file: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let recording = File::open(file).with_context(|| format!("open {}", file.display()))?;
    recording.take(LONGEST + 1).read_to_end(&mut bytes).with_context(|| format!("read {}", file.display()))?;
    ensure!(bytes.len() as u64 <= LONGEST, "{} is longer than any recording", file.display());
    let played = record::replay(&bytes).with_context(|| format!("replay {}", file.display()))?;
    let end = played.cut_off.map(|at| format!("; it is cut off at byte {at}")).unwrap_or_default();
    let own = env!("CARGO_PKG_VERSION");
    let program = if played.program == own { String::new() } else { format!(" (recorded by {})", played.program) };
    Ok(format!(
        "the same again{program}: {} inputs, {} times of deadlines, {} outputs in {:.1} s{end}",
        played.inputs,
        played.deadlines,
        played.outputs,
        played.ended.saturating_duration_since(played.began).as_secs_f64()
    ))
}

/// Bytes that are read: more than a daemon records.
const LONGEST: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use ginnel_node::record::{OutputDigest, beginning, input, outputs};
    use ginnel_node::{Config, Debug, Input, Node, Resume};
    use ginnel_time::{Instant, Tai64n};

    use super::*;

    #[test]
    fn a_recording_is_played_and_a_false_one_is_told_apart() {
        let folder = std::env::temp_dir().join(format!("ginnel-replay-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, bytes: &[u8]| -> PathBuf {
            let file = folder.join(name);
            fs::write(&file, bytes).unwrap();
            file
        };
        let good = recording(1_800_000_000);
        let told = replay(&write("good", &good)).unwrap();
        assert!(told.starts_with("the same again: 1 inputs"), "{told}");
        let told = replay(&write("short", &good[..good.len() - 1])).unwrap();
        assert!(told.contains("; it is cut off at byte "), "{told}");
        let mut bad = good;
        *bad.last_mut().unwrap() ^= 1;
        let error = replay(&write("bad", &bad)).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("after Wall(") && error.contains(" was "), "{error}");
        assert!(replay(&folder.join("none")).is_err());
        fs::remove_dir_all(folder).unwrap();
    }

    /// A node that opens its two sockets and is told the time.
    fn recording(wall: u64) -> Vec<u8> {
        let config = || Config {
            seed: [1; 32],
            secret: None,
            addresses: Vec::new(),
            peers: Vec::new(),
            suites: Vec::new(),
            hostname: String::new(),
            debug: Debug::default(),
        };
        let wall = Input::Wall(Tai64n::from_unix(wall, 0));
        let mut bytes = beginning(env!("CARGO_PKG_VERSION"), Instant::ZERO, &config(), &Resume::default()).to_vec();
        bytes.extend_from_slice(&input(Instant::ZERO, &wall));
        let mut node = Node::new(Instant::ZERO, config(), Resume::default()).unwrap();
        let _ = node.handle_input(Instant::ZERO, wall);
        let digests: Vec<_> =
            std::iter::from_fn(|| node.poll_output()).map(|output| OutputDigest::of(&output)).collect();
        bytes.extend(outputs(&digests));
        bytes
    }
}
