//! Machines that run Ginnel's programs.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host::Host;
use crate::process::Process;

/// Where the built programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// The programs in `folder`.
    ///
    /// # Errors
    /// When one is missing.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        for name in ["ginneld", "ginnel", "ginnel-signal"] {
            if !folder.join(name).is_file() {
                bail!("{} is missing in {}; build the workspace first", name, folder.display());
            }
        }
        Ok(Self { folder: folder.to_path_buf() })
    }

    /// The programs beside this one.
    ///
    /// # Errors
    /// When one is missing.
    pub fn beside_this_one() -> Result<Self> {
        let own = std::env::current_exe().context("find this program's own file")?;
        Self::in_folder(own.parent().context("this program's file has no folder")?)
    }

    /// The programs that a profile has built into the target folder that this one is in.
    ///
    /// # Errors
    /// When one is missing.
    pub fn of_profile(profile: &str) -> Result<Self> {
        let own = std::env::current_exe().context("find this program's own file")?;
        let target = own.parent().and_then(Path::parent).context("this program's file is in no target folder")?;
        Self::in_folder(&target.join(profile))
    }

    /// The full path of one program.
    pub fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }
}

/// A public host with `ginnel-signal`.
#[derive(Debug)]
pub struct Server {
    host: Host,
    state: PathBuf,
    argv: Vec<String>,
    process: Process,
    /// The founding string that it printed.
    pub founding: String,
}

impl Server {
    /// Starts the server and waits for its founding string.
    ///
    /// # Errors
    /// When it does not start within 10 s.
    pub fn start(host: &Host, programs: &Programs) -> Result<Self> {
        let state = host.files()?.join("signal-state");
        let addresses: Vec<String> = host.addresses().iter().map(ToString::to_string).collect();
        let argv = vec![
            programs.path("ginnel-signal"),
            "--state".to_owned(),
            state.to_string_lossy().into_owned(),
            "--public-address".to_owned(),
            addresses.join(","),
        ];
        let process = host.spawn("ginnel-signal", &argv, &[])?;
        let founding = process
            .wait_for_line(Duration::from_secs(10), |line| line.starts_with("ginnel-found-"))
            .with_context(|| format!("ginnel-signal printed no founding string: {}", process.stderr()))?;
        Ok(Self { host: host.clone(), state, argv, process, founding: founding.trim().to_owned() })
    }

    /// Ends the server by a signal and waits for its end.
    ///
    /// # Errors
    /// When it does not end within 5 s.
    pub fn end(&self, signal: i32) -> Result<()> {
        end(&self.process, signal)
    }

    /// Starts the server again, with its state, after its end.
    ///
    /// # Errors
    /// When it does not serve within 10 s.
    pub fn start_again(&mut self) -> Result<()> {
        self.begin_again()?;
        self.process.wait_for_line(Duration::from_secs(10), |line| line.contains("serving")).map(drop)
    }

    /// Starts the server again, with its state, after its end, and does not wait for it.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn begin_again(&mut self) -> Result<()> {
        self.process = self.host.spawn("ginnel-signal", &self.argv, &[])?;
        Ok(())
    }

    /// What it wrote to its log.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Its state folder.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// A machine with `ginneld`.
#[derive(Debug)]
pub struct Machine {
    /// The host that it runs on.
    pub host: Host,
    programs: Programs,
    socket: String,
    argv: Vec<String>,
    process: Process,
}

impl Machine {
    /// Starts a daemon with an empty state folder and waits until its socket answers.
    ///
    /// # Errors
    /// When it does not answer within 10 s.
    pub fn start(host: &Host, programs: &Programs) -> Result<Self> {
        Self::start_with(host, programs, &[])
    }

    /// Starts a daemon with more arguments.
    ///
    /// # Errors
    /// When it does not answer within 10 s.
    pub fn start_with(host: &Host, programs: &Programs, more: &[&str]) -> Result<Self> {
        let files = host.files()?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let socket = text(&files.join("ginneld.sock"));
        std::fs::write(files.join("hosts"), "127.0.0.1 localhost\n").context("write a hosts file")?;
        let mut argv = vec![
            programs.path("ginneld"),
            "--state".to_owned(),
            text(&files.join("state")),
            "--socket".to_owned(),
            socket.clone(),
            "--hosts".to_owned(),
            text(&files.join("hosts")),
        ];
        argv.extend(more.iter().map(|&argument| argument.to_owned()));
        let process = spawn(host, &argv)?;
        let machine = Self { host: host.clone(), programs: programs.clone(), socket, argv, process };
        machine.wait_until_it_answers()?;
        Ok(machine)
    }

    /// Ends the daemon by a signal and waits for its end.
    ///
    /// # Errors
    /// When it does not end within 5 s.
    pub fn end(&self, signal: i32) -> Result<()> {
        end(&self.process, signal)
    }

    /// Starts the daemon again, with its state, after its end.
    ///
    /// # Errors
    /// When it does not answer within 10 s.
    pub fn start_again(&mut self) -> Result<()> {
        self.begin_again()?;
        self.wait_until_it_answers()
    }

    /// Starts the daemon again, with its state, after its end, and does not wait for it.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn begin_again(&mut self) -> Result<()> {
        self.process = spawn(&self.host, &self.argv)?;
        Ok(())
    }

    /// Waits until the daemon's socket answers.
    ///
    /// # Errors
    /// When it does not within 10 s.
    pub fn wait_until_it_answers(&self) -> Result<()> {
        let begun = Instant::now();
        while self.ginnel(&["status"]).is_err() {
            if begun.elapsed() > Duration::from_secs(10) || !self.process.is_running() {
                bail!("ginneld on {} does not answer: {}", self.host.name(), self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Runs `ginnel` with `--json` and answers the object that it prints.
    ///
    /// # Errors
    /// When it ends with another exit code than 0; the error holds what it said.
    pub fn ginnel(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.run(arguments)?;
        if !output.status.success() {
            bail!("ginnel {} on {}: {}", arguments.join(" "), self.host.name(), output.stderr.trim());
        }
        let last = output.stdout.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("null");
        serde_json::from_str(&output.stdout)
            .or_else(|_| serde_json::from_str(last))
            .with_context(|| format!("ginnel {} printed {}", arguments.join(" "), output.stdout))
    }

    /// Runs `ginnel` with `--json`, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be run or takes more than 40 s.
    pub fn run(&self, arguments: &[&str]) -> Result<crate::process::Output> {
        let mut argv =
            vec![self.programs.path("ginnel"), "--socket".to_owned(), self.socket.clone(), "--json".to_owned()];
        argv.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self.host.run(&argv, Duration::from_secs(40))
    }

    /// Founds a network on `server` or joins by an invite, and answers this machine's addresses.
    ///
    /// # Errors
    /// When `ginnel up` fails.
    pub fn up(&self, ticket: &str, name: &str) -> Result<Addresses> {
        let up = self
            .ginnel(&["up", ticket, "--name", name])
            .with_context(|| format!("the daemon says:\n{}", tail(&self.log())))?;
        Addresses::read(&up["ips"])
    }

    /// Makes an invite and answers its string.
    ///
    /// # Errors
    /// When `ginnel invite` fails.
    pub fn invite(&self) -> Result<String> {
        let invite = self.ginnel(&["invite"])?;
        invite["invite"].as_str().map(str::to_owned).context("the invite's string is missing")
    }

    /// Waits until this machine knows `count` peers.
    ///
    /// # Errors
    /// When it does not within 10 s.
    pub fn wait_for_peers(&self, count: usize) -> Result<()> {
        let begun = Instant::now();
        loop {
            let known = self.ginnel(&["peers"])?["peers"].as_array().map_or(0, Vec::len);
            if known >= count {
                return Ok(());
            }
            if begun.elapsed() > Duration::from_secs(10) {
                bail!("{} knows {known} peers instead of {count}", self.host.name());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the daemon wrote to its log.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends the daemon as a service manager would.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn stop(self) -> Result<crate::process::Output> {
        self.process.stop()
    }
}

fn spawn(host: &Host, argv: &[String]) -> Result<Process> {
    let level = std::env::var("GINNEL_LAB_LOG").unwrap_or_else(|_| "info".to_owned());
    host.spawn("ginneld", argv, &[("GINNEL_LOG", &level)])
}

fn end(process: &Process, signal: i32) -> Result<()> {
    process.signal(signal)?;
    process.wait(Duration::from_secs(5)).map(drop)
}

/// A machine's addresses inside the network.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: IpAddr,
}

impl Addresses {
    pub(crate) fn read(list: &Value) -> Result<Self> {
        let all: Vec<IpAddr> =
            list.as_array().into_iter().flatten().filter_map(|ip| ip.as_str()?.parse().ok()).collect();
        let v4 = all.iter().find_map(|ip| match ip {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        });
        let v6 = all.iter().copied().find(IpAddr::is_ipv6);
        Ok(Self { v4: v4.context("no IPv4 address")?, v6: v6.context("no IPv6 address")? })
    }
}

/// The last lines of a log.
pub fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
