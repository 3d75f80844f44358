//! Network namespaces: made in one batch, entered by threads, removed whatever happens.
//!
//! Every name starts with `gnl-<pid>-`, so that anyone can tell whose a namespace is. The owner removes its own on drop;
//! a *guardian*, a shell in its own process group that reads from a pipe, removes them when this process dies in any
//! other way, SIGKILL included.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, bail};

use crate::sys;

/// What every namespace of every laboratory starts with.
pub const PREFIX: &str = "gnl-";

/// One network namespace by name. A handle only: whoever made it removes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Names a namespace; it need not exist yet.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Makes all of `namespaces` in one go.
    ///
    /// # Errors
    /// When `ip` fails, e.g. for want of root.
    pub fn create_all(namespaces: &[Self]) -> Result<()> {
        start_guardian()?;
        let batch: String = namespaces.iter().map(|namespace| format!("netns add {}\n", namespace.name)).collect();
        feed(&mut ip_batch(None), &batch).context("create network namespaces")
    }

    /// Removes all of `namespaces` that exist.
    ///
    /// # Errors
    /// When one of them is still there afterwards.
    pub fn remove_all(namespaces: &[Self]) -> Result<()> {
        let present: Vec<&Self> = namespaces.iter().filter(|namespace| namespace.path().exists()).collect();
        if present.is_empty() {
            return Ok(());
        }
        let batch: String = present.iter().map(|namespace| format!("netns del {}\n", namespace.name)).collect();
        let mut command = ip_batch(None);
        command.arg("-force");
        let outcome = feed(&mut command, &batch);
        match present.iter().find(|namespace| namespace.path().exists()) {
            Some(left) => bail!("namespace {} could not be removed: {outcome:?}", left.name),
            None => Ok(()),
        }
    }

    /// The name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that `ip netns` binds the namespace to.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Runs `work` on a thread inside the namespace and returns its answer; a panic in `work` passes on.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("open namespace {}", self.name))?;
        let outcome = std::thread::scope(|scope| {
            scope.spawn(move || sys::enter_network_namespace(file.as_fd()).map(|()| work())).join()
        });
        match outcome {
            Ok(answer) => answer.with_context(|| format!("enter namespace {}", self.name)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// A command whose process will run inside the namespace.
    ///
    /// # Errors
    /// When the namespace does not exist.
    pub fn command(&self, program: &str) -> Result<Command> {
        let file = File::open(self.path()).with_context(|| format!("open namespace {}", self.name))?;
        let mut command = Command::new(program);
        sys::run_inside(&mut command, file.into());
        Ok(command)
    }

    /// Runs the lines of `script` as one `ip -batch` inside the namespace.
    ///
    /// # Errors
    /// When a line is refused.
    pub fn ip(&self, script: &str) -> Result<()> {
        if script.is_empty() {
            return Ok(());
        }
        feed(&mut ip_batch(Some(self)), script).with_context(|| format!("configure {}", self.name))
    }

    /// Loads `ruleset` into the namespace's packet filter.
    ///
    /// # Errors
    /// When `nft` refuses it.
    pub fn nft(&self, ruleset: &str) -> Result<()> {
        if ruleset.is_empty() {
            return Ok(());
        }
        let mut command = self.command("nft")?;
        command.args(["-f", "-"]);
        feed(&mut command, ruleset).with_context(|| format!("load packet filter of {}", self.name))
    }

    /// Writes kernel settings, each a dotted name and a value, that belong to the namespace.
    ///
    /// Settings of bridge filtering are skipped where the kernel has none.
    ///
    /// # Errors
    /// When the kernel does not know one of them or refuses its value.
    pub fn sysctl(&self, settings: &[(String, String)]) -> Result<()> {
        self.enter(|| {
            settings.iter().try_for_each(|(name, value)| {
                let path = Path::new("/proc/sys").join(name.replace('.', "/"));
                if name.starts_with("net.bridge.") && !path.exists() {
                    return Ok(());
                }
                std::fs::write(&path, value).with_context(|| format!("write {value} to {}", path.display()))
            })
        })?
        .with_context(|| format!("settings of {}", self.name))
    }
}

/// Lists the laboratory namespaces of the process `pid`.
pub fn of_process(pid: u32) -> Vec<Namespace> {
    let prefix = format!("{PREFIX}{pid}-");
    all().into_iter().filter(|namespace| namespace.name.starts_with(&prefix)).collect()
}

/// Removes the namespaces of laboratories whose process is dead and answers how many there were.
///
/// # Errors
/// When one of them cannot be removed.
pub fn sweep_stale() -> Result<usize> {
    let stale: Vec<Namespace> = all().into_iter().filter(|namespace| owner(namespace).is_some_and(is_dead)).collect();
    Namespace::remove_all(&stale)?;
    Ok(stale.len())
}

/// Runs lines of `ip -batch` that name their namespaces themselves.
pub(crate) fn ip_batch_everywhere(script: &str) -> Result<()> {
    feed(&mut ip_batch(None), script)
}

fn all() -> Vec<Namespace> {
    let Ok(entries) = std::fs::read_dir(DIRECTORY) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut namespaces: Vec<Namespace> =
        names.filter(|name| name.starts_with(PREFIX)).map(|name| Namespace { name }).collect();
    namespaces.sort();
    namespaces
}

fn owner(namespace: &Namespace) -> Option<u32> {
    namespace.name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn is_dead(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

fn ip_batch(inside: Option<&Namespace>) -> Command {
    let mut command = Command::new("ip");
    if let Some(namespace) = inside {
        command.args(["-n", &namespace.name]);
    }
    command.args(["-batch", "-"]);
    command
}

/// Runs `command` with `input` on its standard input; what it says on standard error becomes the error.
fn feed(command: &mut Command, input: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}\n{}", output.status, said.trim(), numbered(input));
    }
    written.with_context(|| format!("write to {program}"))
}

fn numbered(text: &str) -> String {
    text.lines().enumerate().map(|(index, line)| format!("{:4} {line}\n", index + 1)).collect()
}

/// Starts this process's guardian once. Its only tie to us is the pipe, whose end it sees however we die.
fn start_guardian() -> Result<()> {
    static GUARDIAN: OnceLock<Mutex<Option<ChildStdin>>> = OnceLock::new();
    let mut guardian = GUARDIAN.get_or_init(|| Mutex::new(None)).lock().unwrap_or_else(PoisonError::into_inner);
    if guardian.is_some() {
        return Ok(());
    }
    let mut child = Command::new("/bin/sh")
        .args(["-c", GUARDIAN_SCRIPT, "ginnel-lab-guardian"])
        .arg(format!("{DIRECTORY}/{PREFIX}{}-", std::process::id()))
        .arg(crate::files::prefix_of_process(std::process::id()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("start the guardian of network namespaces")?;
    *guardian = child.stdin.take();
    // A dead process may have had this one's number before.
    Namespace::remove_all(&of_process(std::process::id()))?;
    Ok(())
}

const DIRECTORY: &str = "/run/netns";

/// Waits for the end of its input, then ends what still runs in the namespaces, removes them and the scratch files.
const GUARDIAN_SCRIPT: &str = r#"
trap '' HUP INT TERM
cat >/dev/null
for path in "$1"*; do
    [ -e "$path" ] || continue
    name=${path##*/}
    for pid in $(ip netns pids "$name"); do kill -9 "$pid"; done
    ip netns del "$name"
done
rm -rf "$2"*
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_is_read_from_the_name() {
        assert_eq!(owner(&Namespace::named("gnl-417-0-a-nat")), Some(417));
        assert_eq!(owner(&Namespace::named("gnl-x-0")), None);
        assert_eq!(owner(&Namespace::named("other-417-0")), None);
    }

    #[test]
    fn this_process_is_alive_and_an_impossible_one_is_dead() {
        assert!(!is_dead(std::process::id()));
        assert!(is_dead(u32::MAX));
    }

    #[test]
    fn refused_input_is_shown_with_line_numbers() {
        let error = feed(Command::new("sh").args(["-c", "cat >/dev/null; echo no >&2; exit 3"]), "one\ntwo\n")
            .expect_err("the command fails");
        let text = format!("{error:#}");
        assert!(text.contains("no") && text.contains("   2 two"), "{text}");
    }
}
