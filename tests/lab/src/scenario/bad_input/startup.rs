//! Circumstances in which a daemon cannot start, and a command line that has no daemon or no right to one.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Book, Case, Refusal, alarms, daemon, ends};
use crate::host::Host;
use crate::lab::Lab;
use crate::nat::NatKind;
use crate::process::Output;
use crate::scenario::machine::Programs;
use crate::site::Site;

/// One host, on which each case has a folder of its own.
struct Bench {
    host: Host,
    programs: Programs,
    _lab: Lab,
}

pub(super) fn chapter(programs: &Programs, book: &Book<'_>) {
    let cases: [Case<Bench>; 17] = [
        ("start: no /dev/net/tun", no_tun),
        ("start: /dev/net/tun is something else", strange_tun),
        ("start: without CAP_NET_ADMIN", without_right),
        ("start: configuration with an unknown key", unknown_key),
        ("start: configuration that is no TOML", no_toml),
        ("start: test settings without --test-mode", test_settings),
        ("start: two daemons on one state folder", two_on_one_folder),
        ("start: two daemons on one socket", two_on_one_socket),
        ("start: two daemons on one interface", two_on_one_interface),
        ("start: port in use", port_in_use),
        ("start: damaged state", damaged_state),
        ("start: damaged state with a generation before", restored_state),
        ("start: damaged port", damaged_port),
        ("start: unreadable state", unreadable_state),
        ("command: no daemon", no_daemon),
        ("command: a daemon that does not answer", silent_daemon),
        ("command: an unprivileged user", unprivileged),
    ];
    book.chapter(|| Bench::build(programs), &cases);
}

impl Bench {
    fn build(programs: &Programs) -> Result<Self> {
        let lab = Lab::builder().site(Site::new("a", NatKind::Open)).build()?;
        Ok(Self { host: lab.host("a")?, programs: programs.clone(), _lab: lab })
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.host.files()?.join(name);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("hosts"), "127.0.0.1 localhost\n")?;
        Ok(folder)
    }

    /// The command line of a daemon with everything in `folder`.
    fn argv(&self, folder: &Path, more: &[&str]) -> Vec<String> {
        let inside = |name: &str| folder.join(name).to_string_lossy().into_owned();
        let mut argv = vec![self.programs.path("ginneld")];
        for (option, name) in [("--state", "state"), ("--socket", "socket"), ("--hosts", "hosts")] {
            argv.extend([option.to_owned(), inside(name)]);
        }
        argv.extend(more.iter().map(|&argument| argument.to_owned()));
        argv
    }

    /// A command line that runs a daemon after `preparation` in a mount namespace of its own.
    fn after(&self, preparation: &str, folder: &Path) -> Vec<String> {
        let script = format!("{preparation} && exec \"$@\"");
        let mut argv = ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
        argv.extend(self.argv(folder, &[]));
        argv
    }

    /// The command line of `ginnel` on the socket in `folder`.
    fn ginnel(&self, folder: &Path, arguments: &[&str]) -> Vec<String> {
        let socket = folder.join("socket").to_string_lossy().into_owned();
        let mut argv = vec![self.programs.path("ginnel"), "--socket".to_owned(), socket];
        argv.extend(arguments.iter().map(|&argument| argument.to_owned()));
        argv
    }

    fn run(&self, argv: &[String]) -> Result<Output> {
        self.host.run(argv, Duration::from_secs(8))
    }

    /// Runs a daemon on a configuration file that it must refuse.
    fn config_refused(&self, name: &str, text: &str, words: &[&str]) -> Result<String> {
        let folder = self.folder(name)?;
        let file = folder.join("ginneld.toml");
        std::fs::write(&file, text)?;
        let file = file.to_string_lossy().into_owned();
        let said = ends(&self.host, &self.argv(&folder, &["--config", &file]), CONFIG, words)?;
        ensure!(!folder.join("state").exists(), "a state folder was made before the configuration was read");
        Ok(said)
    }
}

fn no_tun(bench: &Bench) -> Result<String> {
    let folder = bench.folder("no-tun")?;
    let argv = bench.after("mount -t tmpfs none /dev/net", &folder);
    let said = ends(&bench.host, &argv, FAILED, &["no /dev/net/tun", "modprobe tun"])?;
    ensure!(!folder.join("socket").exists(), "the control socket stays behind");
    Ok(said)
}

fn strange_tun(bench: &Bench) -> Result<String> {
    let argv = bench.after("mount --bind /dev/null /dev/net/tun", &bench.folder("strange-tun")?);
    ends(&bench.host, &argv, FAILED, &["/dev/net/tun is not", "mknod"])
}

fn without_right(bench: &Bench) -> Result<String> {
    let mut argv = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"].map(str::to_owned).to_vec();
    argv.extend(bench.argv(&bench.folder("without-right")?, &[]));
    ends(&bench.host, &argv, FAILED, &["CAP_NET_ADMIN", "run as root"])
}

fn unknown_key(bench: &Bench) -> Result<String> {
    let text = "[interface]\nmtu = 1400\nlisten_prot = 51820\n";
    bench.config_refused("unknown-key", text, &["ginneld.toml:3", "listen_prot", "Did you mean listen_port?"])
}

fn no_toml(bench: &Bench) -> Result<String> {
    bench.config_refused("no-toml", "[interface\n", &["ginneld.toml:1"])
}

fn test_settings(bench: &Bench) -> Result<String> {
    bench.config_refused("test-settings", "[debug]\nrelay_only = true\n", &["ginneld.toml:1", "--test-mode"])
}

fn two_on_one_folder(bench: &Bench) -> Result<String> {
    let folder = bench.folder("shared")?;
    let first = daemon(&bench.host, &bench.argv(&folder, &[]))?;
    let mut argv = bench.argv(&folder, &["--interface", "ginnel1"]);
    argv[4] = folder.join("other-socket").to_string_lossy().into_owned();
    let process = format!("process {}", first.pid());
    let said = ends(&bench.host, &argv, FAILED, &["another ginneld", &process, "--state"])?;
    let status = bench.run(&bench.ginnel(&folder, &["status"]))?;
    ensure!(status.status.success(), "the first daemon no longer answers: {}", status.stderr);
    Ok(said)
}

fn two_on_one_socket(bench: &Bench) -> Result<String> {
    let folder = bench.folder("socket-taken")?;
    let _first = daemon(&bench.host, &bench.argv(&folder, &[]))?;
    let mut argv = bench.argv(&folder, &["--interface", "ginnel1"]);
    argv[2] = folder.join("other-state").to_string_lossy().into_owned();
    let said = ends(&bench.host, &argv, FAILED, &["another ginneld"])?;
    let status = bench.run(&bench.ginnel(&folder, &["status"]))?;
    ensure!(status.status.success(), "the first daemon no longer answers: {}", status.stderr);
    Ok(said)
}

fn two_on_one_interface(bench: &Bench) -> Result<String> {
    let _first = daemon(&bench.host, &bench.argv(&bench.folder("interface-a")?, &[]))?;
    let argv = bench.argv(&bench.folder("interface-b")?, &[]);
    ends(&bench.host, &argv, FAILED, &["ginnel0", "--interface"])
}

fn port_in_use(bench: &Bench) -> Result<String> {
    let folder = bench.folder("port-in-use")?;
    let taken = bench.host.enter(|| std::net::UdpSocket::bind("0.0.0.0:5599"))??;
    let file = folder.join("ginneld.toml");
    std::fs::write(&file, "[interface]\nlisten_port = 5599\n")?;
    let argv = bench.argv(&folder, &["--config", &file.to_string_lossy()]);
    let said = ends(&bench.host, &argv, FAILED, &["UDP port 5599", "in use", "listen_port", "stop the program"])?;
    drop(taken);
    daemon(&bench.host, &argv).context("with the port free again")?.stop()?;
    Ok(said)
}

fn damaged_state(bench: &Bench) -> Result<String> {
    let folder = bench.folder("damaged")?;
    let argv = bench.argv(&folder, &[]);
    daemon(&bench.host, &argv)?.stop()?;
    let path = folder.join("state/node");
    let mut bytes = std::fs::read(&path).unwrap_or_else(|_| vec![1; 40]);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    forget_previous(&path)?;
    let cases = [(&bytes[..], DAMAGED), (&bytes[..bytes.len() / 2], DAMAGED), (&[], DAMAGED), (&[0xFF; 60], NEWER)];
    for (damaged, exit) in cases {
        std::fs::write(&path, damaged)?;
        ends(&bench.host, &argv, exit, &[&*path.to_string_lossy()])
            .with_context(|| format!("{} bytes", damaged.len()))?;
        ensure!(std::fs::read(&path)? == damaged, "{} was changed", path.display());
    }
    std::fs::write(&path, &bytes)?;
    let said = ends(&bench.host, &argv, DAMAGED, &["damaged", "Restore it from a backup"])?;
    std::fs::remove_file(&path)?;
    daemon(&bench.host, &argv).context("after the damaged file was removed")?.stop()?;
    Ok(said)
}

/// Without its port a machine can do: it takes another one and says so.
fn damaged_port(bench: &Bench) -> Result<String> {
    let folder = bench.folder("damaged-port")?;
    let argv = bench.argv(&folder, &[]);
    daemon(&bench.host, &argv)?.stop()?;
    let path = folder.join("state/port");
    forget_previous(&path)?;
    std::fs::write(&path, [1; 19])?;
    let running = daemon(&bench.host, &argv)?;
    let log = running.stderr();
    ensure!(alarms(&log).iter().any(|line| line.contains(&*path.to_string_lossy())), "no warning: {log}");
    running.stop()?;
    let kept = std::fs::read(&path)?;
    ensure!(kept != [1; 19], "the new port was not kept");
    Ok("another port is taken and kept".to_owned())
}

/// Where the generation before is whole, it stands in for the damaged one, and the daemon says so.
fn restored_state(bench: &Bench) -> Result<String> {
    let folder = bench.folder("restored")?;
    let argv = bench.argv(&folder, &[]);
    daemon(&bench.host, &argv)?.stop()?;
    let path = folder.join("state/port");
    let whole = std::fs::read(&path)?;
    std::fs::write(path.with_extension("previous"), &whole)?;
    std::fs::write(&path, &whole[..whole.len() / 2])?;
    let running = daemon(&bench.host, &argv)?;
    let status = bench.run(&bench.ginnel(&folder, &["status", "--json"]))?;
    ensure!(status.stdout.contains("state-restored"), "status says nothing of it: {}", status.stdout);
    running.stop()?;
    // A generation of a later version is no damage: nothing older stands in for it.
    std::fs::write(&path, [0xFF; 60])?;
    let said = ends(&bench.host, &argv, NEWER, &[&*path.to_string_lossy()])?;
    ensure!(std::fs::read(&path)? == [0xFF; 60], "{} was changed", path.display());
    Ok(said)
}

fn forget_previous(path: &Path) -> Result<()> {
    match std::fs::remove_file(path.with_extension("previous")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("remove a generation"),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn unreadable_state(bench: &Bench) -> Result<String> {
    let folder = bench.folder("unreadable")?;
    let in_the_way = folder.join("state/node");
    std::fs::create_dir_all(&in_the_way)?;
    ends(&bench.host, &bench.argv(&folder, &[]), FAILED, &["state/node"])?;
    ensure!(in_the_way.is_dir(), "what was in the way was removed");
    let other = bench.folder("state-is-a-file")?;
    std::fs::write(other.join("state"), "precious")?;
    let said = ends(&bench.host, &bench.argv(&other, &[]), FAILED, &["cannot use the state folder"])?;
    ensure!(std::fs::read(other.join("state"))? == b"precious", "the file was changed");
    Ok(said)
}

fn no_daemon(bench: &Bench) -> Result<String> {
    let folder = bench.folder("no-daemon")?;
    let words = ["not running", "systemctl start ginneld"];
    let ask = |arguments: &[&str]| -> Result<String> {
        Refusal::read(&bench.run(&bench.ginnel(&folder, arguments))?)?.expect(UNREACHABLE, &words)
    };
    for verb in [&["status"][..], &["peers"], &["ping", "x"], &["up", "ginnel-invite-x"], &["invite"], &["log"]] {
        ask(&[verb, &["--json"]].concat())?;
    }
    drop(UnixListener::bind(folder.join("socket"))?);
    ask(&["status", "--json"])?;
    let words = bench.run(&bench.ginnel(&folder, &["status"]))?;
    ensure!(words.status.code() == Some(UNREACHABLE) && words.stdout.is_empty(), "{words:?}");
    Ok(format!("exit {UNREACHABLE}: {}", words.stderr.trim().replace('\n', " | ")))
}

fn silent_daemon(bench: &Bench) -> Result<String> {
    let folder = bench.folder("silent")?;
    let _silent = UnixListener::bind(folder.join("socket"))?;
    let output = bench.run(&bench.ginnel(&folder, &["--timeout", "0.5", "--json", "status"]))?;
    Refusal::read(&output)?.expect(NO_ANSWER, &["0.5 s", "--timeout"])
}

fn unprivileged(bench: &Bench) -> Result<String> {
    let folder = bench.folder("unprivileged")?;
    let _first = daemon(&bench.host, &bench.argv(&folder, &[]))?;
    // The way to the socket is open; what stops the user is the socket's own mode.
    for folder in folder.ancestors().take_while(|folder| folder.starts_with(std::env::temp_dir())).take(3) {
        if folder != std::env::temp_dir() {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
        }
    }
    let mode = std::fs::metadata(folder.join("socket"))?.permissions().mode() & 0o777;
    ensure!(mode == 0o660, "the socket has mode {mode:03o}");
    let nobody = ["env", "HOME=/", "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let nobody = nobody.map(str::to_owned);
    let mut said = String::new();
    for verb in [&["status"][..], &["down"], &["up"], &["invite"], &["leave", "--yes"]] {
        let argv = [&nobody[..], &bench.ginnel(&folder, &[verb, &["--json"]].concat())].concat();
        said = Refusal::read(&bench.run(&argv)?)?.expect(DENIED, &["ginnel-admin", "sudo"])?;
    }
    Ok(said)
}

const FAILED: i32 = 1;
const UNREACHABLE: i32 = 3;
const DENIED: i32 = 4;
const NO_ANSWER: i32 = 7;
const CONFIG: i32 = 9;
const NEWER: i32 = 11;
const DAMAGED: i32 = 12;
