//! The server as a process, ended by its id.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ginnel_membership::invite::Founding;

/// A state folder and a folder in memory, both removed in the end, and the port of the server that runs on them.
pub(crate) struct State {
    parent: tempfile::TempDir,
    memory: tempfile::TempDir,
    port: u16,
}

impl State {
    pub(crate) fn new() -> Self {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let memory = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
        Self { parent, memory, port: free_port() }
    }

    /// Loses the newest entries of every log, as a restored backup would; no server runs.
    pub(crate) fn forget_entries(&self, count: i64) {
        let database = rusqlite::Connection::open(self.path().join("signal.db")).expect("a database");
        let query = "DELETE FROM entry WHERE sequence > (SELECT MAX(sequence) FROM entry) - ?1";
        assert_eq!(
            database.execute(query, [count]).expect("a table of entries"),
            usize::try_from(count).expect("small")
        );
    }

    /// Makes the database look like a later program's; no server runs.
    pub(crate) fn set_database_version(&self, version: i64) {
        let database = rusqlite::Connection::open(self.path().join("signal.db")).expect("a database");
        database.pragma_update(None, "user_version", version).expect("a pragma");
    }

    /// How many entries of its one network the server has had remembered beside the database; `None` where nothing is.
    pub(crate) fn remembered(&self) -> Option<u64> {
        let path = std::fs::read_dir(self.memory.path()).expect("a folder").next()?.expect("an entry").path();
        let bytes = std::fs::read(path).expect("a file");
        let length = bytes.get(77..85)?.try_into().expect("8 bytes");
        Some(u64::from_be_bytes(length))
    }

    /// Loses what is in memory, as a reboot does; no server runs.
    pub(crate) fn reboot(&self) {
        for file in std::fs::read_dir(self.memory.path()).expect("a folder") {
            std::fs::remove_file(file.expect("an entry").path()).expect("removed");
        }
    }

    fn path(&self) -> PathBuf {
        self.parent.path().join("state")
    }
}

/// A running server.
pub(crate) struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Process {
    /// Starts a server on loopback; later options override the ones given here.
    pub(crate) fn start(state: &State, options: &[&str]) -> Self {
        let mut child = command(state, options).stdout(Stdio::piped()).spawn().expect("the binary starts");
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// Starts a server that cannot start; its exit code and what it says.
    pub(crate) fn fail(state: &State, options: &[&str]) -> (Option<i32>, String) {
        let mut child =
            command(state, options).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let mut stderr = child.stderr.take().expect("piped");
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).expect("text");
            text
        });
        let code = wait(&mut child);
        (code, reader.join().expect("read"))
    }

    /// The founding string that it prints.
    pub(crate) fn founding(&self) -> Founding {
        let line = self.lines.recv_timeout(PATIENCE).expect("a line on standard output");
        line.parse().expect("a founding string")
    }

    /// Whether nothing is on standard output within a moment after it serves.
    pub(crate) fn prints_nothing(&self) -> bool {
        self.lines.recv_timeout(Duration::from_secs(1)).is_err()
    }

    /// Ends it by SIGKILL, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        wait(&mut self.child);
    }

    /// Ends it by SIGTERM, which must take effect at once and cleanly.
    pub(crate) fn terminate(&mut self) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
        assert_eq!(wait(&mut self.child), Some(0));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(state: &State, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ginnel-signal"));
    let mut defaults = vec![
        ("--state", state.path().display().to_string()),
        ("--listen", format!("127.0.0.1:{}", state.port)),
        ("--stun", "127.0.0.1:0".to_owned()),
        ("--public-address", "127.0.0.1".to_owned()),
        ("--relay-ports", "20000-29999".to_owned()),
        ("--log", "ginnel_signal=debug,ginnel_signal_proto=debug,info".to_owned()),
    ];
    defaults.retain(|(option, _)| !options.contains(option));
    for (option, value) in defaults {
        command.arg(option).arg(value);
    }
    command.env("RUNTIME_DIRECTORY", state.memory.path());
    command.args(options).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// A UDP port that is free, below those that the system hands out by itself: it stays free while a server restarts.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(101).wrapping_add(std::process::id());
        let port = 10_000 + u16::try_from(step % 10_000).expect("below 10,000");
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn wait(child: &mut Child) -> Option<i32> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code();
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("the server did not end within {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// How long anything here may take; the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
