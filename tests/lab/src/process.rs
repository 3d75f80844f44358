//! Processes of a laboratory: started inside a namespace, with their output in files, ended by id.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::sys;

/// How long a process may take to obey SIGTERM before it is killed.
pub const GRACE: Duration = Duration::from_secs(2);

/// A running program. Stopped when its handle is dropped, unless given to the laboratory by [`Process::detach`].
#[derive(Debug)]
#[must_use = "dropping the handle stops the process"]
pub struct Process {
    running: Arc<Running>,
    owner: Owner,
}

/// What a finished program left.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, read as UTF-8 with replacements.
    pub stdout: String,
    /// Its standard error, read as UTF-8 with replacements.
    pub stderr: String,
}

/// A child that can be ended from any thread, once.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    pid: u32,
    child: Mutex<Child>,
    stdout: PathBuf,
    stderr: PathBuf,
}

#[derive(Debug, PartialEq, Eq)]
enum Owner {
    Handle,
    Laboratory,
}

impl Process {
    /// Starts `command`; its output goes to `<files>.out` and `<files>.err`.
    ///
    /// The child dies with this process, whichever thread asked for it.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(name: &str, mut command: Command, files: &Path) -> Result<Self> {
        let stdout = files.with_extension("out");
        let stderr = files.with_extension("err");
        command.stdin(Stdio::null());
        command.stdout(File::create(&stdout).with_context(|| format!("create {}", stdout.display()))?);
        command.stderr(File::create(&stderr).with_context(|| format!("create {}", stderr.display()))?);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = spawn(command).with_context(|| format!("start {program}"))?;
        let running = Running { name: name.to_owned(), pid: child.id(), child: Mutex::new(child), stdout, stderr };
        Ok(Self { running: Arc::new(running), owner: Owner::Handle })
    }

    /// Leaves the process to the laboratory, which stops it at its own end.
    pub fn detach(mut self) {
        self.owner = Owner::Laboratory;
    }

    /// Asks the process to end by SIGTERM, kills it after [`GRACE`], and waits for it.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn stop(self) -> Result<Output> {
        let status = self.running.stop()?;
        Ok(self.output(status))
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// When it still runs after `limit`; the text holds the end of what it said.
    pub fn wait(&self, limit: Duration) -> Result<Output> {
        match self.running.wait(limit)? {
            Some(status) => Ok(self.output(status)),
            None => bail!("{} still runs after {limit:?}\n{}", self.running.name, self.tail()),
        }
    }

    /// Waits until a line of standard output or standard error satisfies `wanted`, and answers that line.
    ///
    /// # Errors
    /// When the process ends first or `limit` passes; the text holds the end of what it said.
    pub fn wait_for_line(&self, limit: Duration, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.running.wait(Duration::ZERO)?;
            for text in [self.stdout(), self.stderr()] {
                if let Some(line) = text.lines().find(|line| wanted(line)) {
                    return Ok(line.to_owned());
                }
            }
            if let Some(status) = ended {
                bail!("{} ended with {status} before it said so\n{}", self.running.name, self.tail());
            }
            if Instant::now() >= deadline {
                bail!("{} did not say so within {limit:?}\n{}", self.running.name, self.tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends `signal`, e.g. `libc::SIGHUP`.
    ///
    /// # Errors
    /// When the process has already been waited for, or the kernel refuses.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.running.signal(signal)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.running.pid
    }

    /// Whether the process has not ended yet.
    pub fn is_running(&self) -> bool {
        self.running.is_running()
    }

    /// What the process wrote to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.running.stdout)
    }

    /// What the process wrote to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.running.stderr)
    }

    pub(crate) fn running(&self) -> Arc<Running> {
        Arc::clone(&self.running)
    }

    fn output(&self, status: ExitStatus) -> Output {
        Output { status, stdout: self.stdout(), stderr: self.stderr() }
    }

    fn tail(&self) -> String {
        let last = |text: String| {
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(20)..].join("\n")
        };
        format!("--- stdout\n{}\n--- stderr\n{}", last(self.stdout()), last(self.stderr()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.owner == Owner::Handle {
            // Nobody is left to tell; the guardian ends what survives.
            drop(self.running.stop());
        }
    }
}

impl Output {
    /// Answers standard output if the program succeeded.
    ///
    /// # Errors
    /// With the status and everything said, if it did not.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("{}\n--- stdout\n{}\n--- stderr\n{}", self.status, self.stdout.trim(), self.stderr.trim())
    }
}

impl Running {
    pub(crate) fn stop(&self) -> Result<ExitStatus> {
        if let Some(status) = self.wait(Duration::ZERO)? {
            return Ok(status);
        }
        self.signal(libc::SIGTERM)?;
        if let Some(status) = self.wait(GRACE)? {
            return Ok(status);
        }
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.kill().with_context(|| format!("kill {}", self.name))?;
        child.wait().with_context(|| format!("wait for {}", self.name))
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.wait(Duration::ZERO), Ok(None))
    }

    fn signal(&self, signal: i32) -> Result<()> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // While the child is not reaped its id cannot belong to another process; the lock keeps it so.
        match child.try_wait().with_context(|| format!("look at {}", self.name))? {
            Some(status) => bail!("{} has ended with {status}", self.name),
            None => sys::send_signal(self.pid, signal).with_context(|| format!("signal {}", self.name)),
        }
    }

    fn wait(&self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_millis(1);
        loop {
            let status = self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait();
            let status = status.with_context(|| format!("look at {}", self.name))?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            std::thread::sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }
}

/// Spawns on a thread that lives as long as the process: the kernel ties a child's death signal to the thread that
/// made it, and the threads that ask come and go.
pub(crate) fn spawn(mut command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    sys::die_with_parent(&mut command);
    let (answer, answered) = channel();
    let job: Job = Box::new(move || drop(answer.send(command.spawn())));
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = channel::<Job>();
        std::thread::spawn(move || jobs.into_iter().for_each(|job| job()));
        Mutex::new(sender)
    });
    let sent = spawner.lock().unwrap_or_else(PoisonError::into_inner).send(job);
    sent.ok().context("the spawning thread has ended")?;
    Ok(answered.recv().context("the spawning thread has ended")??)
}

type Job = Box<dyn FnOnce() + Send>;

fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Describes how a process ended: `exit 3` or `signal 9`.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_is_captured_and_failure_names_both_streams() {
        let files = crate::files::scratch().expect("scratch");
        let process =
            Process::start("t", shell("echo out; echo err >&2; exit 3"), &files.path().join("t")).expect("start");
        let output = process.wait(Duration::from_secs(20)).expect("ends");
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
        let error = output.success().expect_err("exit 3").to_string();
        assert!(error.contains("out") && error.contains("err") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_process_deaf_to_sigterm_is_killed_after_the_grace() {
        let files = crate::files::scratch().expect("scratch");
        let process =
            Process::start("t", shell("trap '' TERM; echo up; while :; do sleep 0.1; done"), &files.path().join("t"))
                .expect("start");
        process.wait_for_line(Duration::from_secs(20), |line| line == "up").expect("started");
        let begun = Instant::now();
        let output = process.stop().expect("stops");
        assert_eq!(describe(output.status), "signal 9");
        assert!(begun.elapsed() >= GRACE);
    }

    #[test]
    fn waiting_for_a_line_of_a_dead_process_fails_at_once() {
        let files = crate::files::scratch().expect("scratch");
        let process = Process::start("t", shell("echo bye"), &files.path().join("t")).expect("start");
        let error = process.wait_for_line(Duration::from_secs(60), |line| line == "never").expect_err("it ends");
        assert!(error.to_string().contains("bye"), "{error}");
    }

    #[test]
    fn children_outlive_the_thread_that_asked_for_them() {
        let files = crate::files::scratch().expect("scratch");
        let path = files.path().join("t");
        let process = std::thread::spawn(move || Process::start("t", shell("sleep 60"), &path).expect("start"))
            .join()
            .expect("thread");
        std::thread::sleep(Duration::from_millis(100));
        assert!(process.is_running());
    }
}
