//! The programs themselves, in the same network namespace as the other tests of this file: what they tell, what they
//! keep to themselves, and what they do when the disk fails.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use data_encoding::{BASE64, BASE64URL, HEXLOWER, HEXUPPER};
use ginnel_membership::SigningKey;
use ginnel_tunnel::StaticSecret;
use serde_json::Value;
use tempfile::TempDir;

#[test]
#[ignore = "needs root and a network namespace of its own"]
fn a_running_daemon_tells_no_secret_and_listens_on_no_tcp_port() {
    let scene = Scene::new();
    let server = scene.server();
    let desk = scene.daemon("desk");
    let founding = server.founding();
    desk.ask(&["up", &founding, "--name", "desk"]);
    let events = desk.listen();
    let invite = desk.ask(&["invite"])["invite"].as_str().expect("an invite").to_owned();
    let laptop = scene.daemon("laptop");
    laptop.ask(&["up", &invite, "--name", "laptop"]);
    let wasted = desk.ask(&["invite"]);
    desk.ask(&["invite", "revoke", wasted["id"].as_str().expect("an id")]);
    desk.until("both are members", |desk| desk.ask(&["peers"])["peers"].as_array().is_some_and(|all| !all.is_empty()));
    let mut told = String::new();
    for machine in [&desk, &laptop] {
        for verb in [&["status"][..], &["peers"], &["ip"], &["log"], &["down"], &["up"]] {
            told += &machine.ask(verb).to_string();
        }
        assert_eq!(machine.tcp_listeners(), 0, "{} listens on TCP", machine.name);
        let limits = fs::read_to_string(format!("/proc/{}/limits", machine.child.id())).expect("read the limits");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line on core files");
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
    told += &desk.ask(&["invite", "list"]).to_string();

    let mut public = fs::read(scene.path("desk").join(log_name(&scene.path("desk")))).expect("read the log");
    public.extend(HEXLOWER.decode(desk.member().as_bytes()).expect("a key in hexadecimal"));
    public.extend(HEXLOWER.decode(laptop.member().as_bytes()).expect("a key in hexadecimal"));
    let mut secrets = secrets_in(&scene.path("desk"), &public);
    assert!(secrets.len() >= 3, "member, tunnel and admin key of the founder: {}", secrets.len());
    let of_laptop = secrets_in(&scene.path("laptop"), &public);
    assert!(of_laptop.len() >= 2, "member and tunnel key: {}", of_laptop.len());
    secrets.extend(of_laptop);

    desk.ask(&["revoke", "laptop", "--yes"]);
    laptop.until("it is put out", |laptop| laptop.ask(&["status"])["networks"][0]["state"] == "error");
    laptop.ask(&["leave", "--yes"]);
    told += &events.output();
    let logs = [desk.stop(), laptop.stop()].concat();
    assert!(logs.contains("TRACE"), "the daemons were to log everything");
    assert!(told.contains("joined") && told.contains("listening"), "events were told: {}", events.output());

    for text in [&told, &logs] {
        for secret in &secrets {
            assert_eq!(forms(secret).into_iter().find(|form| text.contains(form)), None, "a secret is told");
        }
        for string in [invite.as_str(), &founding, wasted["invite"].as_str().expect("an invite")] {
            let middle = &string[string.len() / 2 - 12..string.len() / 2 + 12];
            assert!(!text.contains(middle), "an invite or founding string is told: {middle}");
        }
    }
    // What was left is forgotten, in every generation.
    for entry in fs::read_dir(scene.path("laptop")).expect("list the state") {
        let bytes = fs::read(entry.expect("an entry").path()).expect("read the state");
        for secret in &secrets {
            assert!(!bytes.windows(32).any(|window| window == secret), "the keys of a network that was left are kept");
        }
    }
}

#[test]
#[ignore = "needs root and a network namespace of its own"]
fn a_full_or_read_only_disk_ends_no_daemon_and_is_told() {
    let scene = Scene::new();
    let server = scene.server();
    let disk = Disk::mount(scene.path("nas"));
    let nas = scene.daemon("nas");
    nas.ask(&["up", &server.founding(), "--name", "nas"]);
    let state = || fs::read(scene.path("nas").join("node")).expect("read the state");
    let kept = state();

    disk.fill();
    let refused = nas.refused(&["down"]);
    assert_eq!((&refused["code"], &refused["exit"]), (&"state-not-writable".into(), &1.into()), "{refused}");
    let health = nas.ask(&["status"])["health"].clone();
    assert_eq!(health[0]["code"], "state-not-written", "{health}");
    assert_eq!(nas.ask(&["status"])["networks"][0]["state"], "running", "it goes on");
    assert_eq!(state(), kept, "nothing is cut off");
    disk.empty();
    nas.until("the disk is well", |nas| nas.ask(&["status"])["health"].as_array().is_some_and(Vec::is_empty));

    disk.protect();
    assert_eq!(nas.refused(&["down"])["code"], "state-not-writable");
    assert_eq!(nas.ask(&["status"])["networks"][0]["state"], "running");
    // A daemon that is started there has its links, and says what is wrong.
    drop(nas.stop());
    let nas = scene.daemon("nas");
    nas.until("it runs", |nas| nas.ask(&["status"])["networks"][0]["state"] == "running");
    nas.until("it says so", |nas| nas.ask(&["status"])["health"][0]["code"] == "state-not-written");
    disk.unprotect();
    nas.until("it can stop", |nas| nas.run(&["down"]).status.success());
    assert_ne!(state(), kept);
    drop(nas.stop());

    // A folder that is gone while the daemon runs takes nothing, and lets nobody in.
    let invite = {
        let nas = scene.daemon("nas");
        nas.ask(&["up"]);
        nas.ask(&["invite"])["invite"].as_str().expect("an invite").to_owned()
    };
    let lost = scene.daemon("lost");
    fs::remove_dir_all(scene.path("lost")).expect("remove the state");
    let refused = lost.refused(&["up", &invite, "--name", "lost"]);
    assert_eq!(refused["code"], "state-not-writable", "{refused}");
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("was removed")), "{refused}");
    assert!(!scene.path("lost").exists());
}

#[test]
#[ignore = "needs root and a network namespace of its own"]
fn a_daemon_refuses_damaged_and_newer_state_by_its_exit_code_and_leaves_it_alone() {
    let scene = Scene::new();
    let folder = scene.path("old");
    fs::create_dir(&folder).expect("make the folder");
    for (bytes, code) in [(&b"\x63whatever comes later"[..], 11), (b"\x01nonsense", 12), (b"", 12)] {
        fs::write(folder.join("node"), bytes).expect("write the state");
        let output = scene.start("old").wait_with_output().expect("run the daemon");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert_eq!(fs::read(folder.join("node")).expect("read the state"), bytes, "left alone");
    }
}

/// The secret keys in a state folder: what has its public half in `public`.
fn secrets_in(folder: &Path, public: &[u8]) -> BTreeSet<[u8; 32]> {
    let known: BTreeSet<&[u8]> = public.windows(32).collect();
    let state = fs::read(folder.join("node")).expect("read the state");
    let is_secret = |window: &[u8; 32]| {
        let signing = SigningKey::from_bytes(window).member_key();
        let tunnel = StaticSecret::from_bytes(*window).public().to_bytes();
        known.contains(&signing.as_bytes()[..]) || known.contains(&tunnel[..])
    };
    state.windows(32).filter_map(|window| window.try_into().ok()).filter(is_secret).collect()
}

/// How a secret might be written.
fn forms(secret: &[u8; 32]) -> Vec<String> {
    let mut forms = vec![HEXLOWER.encode(secret), HEXUPPER.encode(secret)];
    // Alone and as a part of something longer, whose three possible positions share no letters.
    for skip in 0..3 {
        let whole = &secret[skip..];
        let inner = &whole[..whole.len() / 3 * 3];
        forms.extend([BASE64.encode(inner), BASE64URL.encode(inner)]);
    }
    // As a list of numbers.
    forms.push(secret.iter().map(u8::to_string).collect::<Vec<_>>().join(", "));
    forms
}

fn log_name(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("list the state");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.starts_with("log-")).find(|name| !name.contains('.')).expect("a log")
}

/// A folder for everything, and an address for the server.
struct Scene {
    folder: TempDir,
    _alone: crate::Alone,
}

/// A program that runs, with what it says.
struct Program {
    name: String,
    child: Child,
    said: Arc<Mutex<String>>,
    socket: PathBuf,
}

/// A small disk.
struct Disk {
    path: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let alone = crate::Alone::new();
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["address", "add", &format!("{SERVER}/32"), "dev", "lo"]);
        Self { folder: TempDir::new().expect("make a folder"), _alone: alone }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A port of its own for each scene.
    fn server(&self) -> Program {
        let port =
            std::net::UdpSocket::bind((SERVER, 0)).and_then(|socket| socket.local_addr()).expect("a port").port();
        let mut command = Command::new(program("ginnel-signal"));
        command.arg("--state").arg(self.path("server")).args(["--no-relay", "--log", "trace"]);
        command.arg("--listen").arg(format!("{SERVER}:{port}")).arg("--stun").arg(format!("{SERVER}:0"));
        command.args(["--public-address", SERVER]);
        let server = Program::start("server", command, PathBuf::new());
        wait("a founding string", || server.output().contains("ginnel-found-"));
        server
    }

    fn start(&self, name: &str) -> Child {
        self.command(name).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("start the daemon")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ginneld"));
        command.arg("--state").arg(self.path(name)).arg("--socket").arg(self.path(&format!("{name}.sock")));
        command.arg("--interface").arg(format!("gp-{name}")).arg("--hosts").arg(self.path(&format!("{name}.hosts")));
        command.env("GINNEL_LOG", "trace");
        command
    }

    fn daemon(&self, name: &str) -> Program {
        let socket = self.path(&format!("{name}.sock"));
        let daemon = Program::start(name, self.command(name), socket);
        daemon.until("it answers", |daemon| daemon.run(&["status"]).status.success());
        daemon
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["address", "del", &format!("{SERVER}/32"), "dev", "lo"]).status());
    }
}

impl Program {
    fn start(name: &str, mut command: Command, socket: PathBuf) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start a program");
        let said = Arc::new(Mutex::new(String::new()));
        keep(child.stdout.take().expect("a pipe"), Arc::clone(&said));
        keep(child.stderr.take().expect("a pipe"), Arc::clone(&said));
        Self { name: name.to_owned(), child, said, socket }
    }

    fn output(&self) -> String {
        self.said.lock().expect("nobody panics with it").clone()
    }

    fn founding(&self) -> String {
        let output = self.output();
        output.split_whitespace().find(|word| word.starts_with("ginnel-found-")).expect("a founding string").to_owned()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program("ginnel"));
        command.arg("--socket").arg(&self.socket).args(arguments).args(["--json", "--timeout", "20"]);
        command.env("XDG_CONFIG_HOME", "/nonexistent").output().expect("run ginnel")
    }

    /// What a verb answers; it must succeed.
    fn ask(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: ginnel {}: {error}", self.name, arguments[0]);
        serde_json::from_slice(&output.stdout).expect("an answer in JSON")
    }

    /// The error of a verb, which must fail.
    fn refused(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{}: ginnel {} succeeds", self.name, arguments[0]);
        serde_json::from_slice::<Value>(&output.stderr).expect("an error in JSON")["error"].clone()
    }

    fn listen(&self) -> Self {
        let mut command = Command::new(program("ginnel"));
        command.arg("--socket").arg(&self.socket).args(["events", "--json"]);
        let events = Self::start("events", command, PathBuf::new());
        wait("the stream begins", || events.output().contains("listening"));
        events
    }

    fn member(&self) -> String {
        self.ask(&["status"])["networks"][0]["self"]["id"].as_str().expect("a member key").to_owned()
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        wait(&format!("{}: {what}", self.name), || holds(self));
    }

    /// TCP sockets in the state LISTEN that this process holds.
    fn tcp_listeners(&self) -> usize {
        let process = format!("/proc/{}", self.child.id());
        let held: BTreeSet<String> = fs::read_dir(format!("{process}/fd"))
            .expect("list descriptors")
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()?.into_os_string().into_string().ok())
            .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        assert!(!held.is_empty(), "the daemon holds sockets");
        let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("{process}/net/{table}")).expect("read"));
        let rows = tables.iter().flat_map(|table| table.lines().skip(1));
        rows.filter(|row| row.split_whitespace().nth(9).is_some_and(|inode| held.contains(inode))).count()
    }

    /// Ends the program and gives all that it said.
    fn stop(mut self) -> String {
        run("kill", &["-TERM", &self.child.id().to_string()]);
        self.child.wait().expect("wait for a program");
        thread::sleep(Duration::from_millis(100));
        self.output()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Disk {
    fn mount(path: PathBuf) -> Self {
        fs::create_dir(&path).expect("make the folder");
        run("mount", &["-t", "tmpfs", "-o", "size=512k,mode=700", "tmpfs", &path.to_string_lossy()]);
        Self { path }
    }

    fn fill(&self) {
        let chunk = vec![0; 4096];
        let mut ballast = fs::File::create(self.path.join("ballast")).expect("make the ballast");
        while std::io::Write::write_all(&mut ballast, &chunk).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.path.join("ballast")).expect("remove the ballast");
    }

    /// Lays a read-only view over the disk, as the kernel makes one of a disk that fails.
    fn protect(&self) {
        let path = self.path.to_string_lossy();
        run("mount", &["--bind", &path, &path]);
        run("mount", &["-o", "remount,bind,ro", &path]);
    }

    fn unprotect(&self) {
        // The daemon that was started on the view holds it.
        run("umount", &["-l", &self.path.to_string_lossy()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The view that lies over it, if it does, and the disk; the daemon on it may still be ending.
        for _ in 0..2 {
            drop(Command::new("umount").arg("-l").arg(&self.path).stderr(Stdio::null()).status());
        }
    }
}

fn keep(mut pipe: impl Read + Send + 'static, said: Arc<Mutex<String>>) {
    thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut chunk) {
            said.lock().expect("nobody panics with it").push_str(&String::from_utf8_lossy(&chunk[..length]));
        }
    });
}

/// A program of this workspace beside the daemon.
fn program(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_ginneld")).with_file_name(name);
    assert!(path.exists(), "{} is missing: cargo build --profile ci -p {name}", path.display());
    path
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().expect("run a program");
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

fn wait(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// The server's address, which the namespace's loopback interface holds.
const SERVER: &str = "203.0.113.1";
