//! One machine of a laboratory: a namespace with addresses, in which tests run programs and sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::blueprint::Role;
use crate::counters::{self, Direction, Meter, Traffic};
use crate::namespace::Namespace;
use crate::process::{Output, Process, Running};

/// A machine of the laboratory: a host, a NAT or a router. Cheap to clone; of use while its laboratory lives.
#[derive(Clone, Debug)]
pub struct Host {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    role: Role,
    namespace: Namespace,
    addresses: Vec<IpAddr>,
    interface: &'static str,
    files: PathBuf,
    roster: Arc<Roster>,
}

/// The processes of a laboratory, for its end.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    running: Mutex<Vec<Arc<Running>>>,
    serial: AtomicU64,
}

impl Host {
    pub(crate) fn new(node: &crate::blueprint::Node, namespace: Namespace, files: &Path, roster: &Arc<Roster>) -> Self {
        let inner = Inner {
            name: node.name.clone(),
            role: node.role.clone(),
            namespace,
            addresses: node.addresses.clone(),
            interface: node.interface,
            files: files.join(&node.name),
            roster: Arc::clone(roster),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Starts a program that runs until it is stopped, its handle dropped or the laboratory gone.
    ///
    /// What it writes goes to files named after `name` in [`Self::files`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn<S: AsRef<str>>(&self, name: &str, argv: &[S], env: &[(&str, &str)]) -> Result<Process> {
        let (program, arguments) = argv.split_first().context("an empty command line")?;
        let mut command = self.inner.namespace.command(program.as_ref())?;
        command.args(arguments.iter().map(AsRef::as_ref)).envs(env.iter().copied());
        let serial = self.inner.roster.serial.fetch_add(1, Ordering::Relaxed);
        let files = self.files()?.join(format!("{name}-{serial}"));
        let process = Process::start(&format!("{name} on {}", self.name()), command, &files)?;
        self.inner.roster.add(process.running());
        Ok(process)
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// When it cannot be started, or still runs after `limit`, in which case it is stopped.
    pub fn run<S: AsRef<str>>(&self, argv: &[S], limit: Duration) -> Result<Output> {
        let name = argv.first().map_or("command", |program| program.as_ref());
        let name = Path::new(name).file_name().and_then(|name| name.to_str()).unwrap_or("command").to_owned();
        self.spawn(&name, argv, &[])?.wait(limit)
    }

    /// Runs `work` on a thread of this process inside the machine; sockets made there belong to it for good.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.inner.namespace.enter(work)
    }

    /// What crossed the watched interface so far: a NAT's `wan`, a host's `eth0`.
    ///
    /// # Errors
    /// For routers, which count nothing, and when the packet filter cannot be read.
    pub fn traffic(&self) -> Result<Traffic> {
        counters::traffic(self)
    }

    /// Starts counting what crosses the watched interface and matches `filter`, in the packet filter's own language.
    ///
    /// # Errors
    /// For routers, which count nothing, and when the filter is not understood.
    pub fn count_bytes(&self, direction: Direction, filter: &str) -> Result<Meter> {
        let number = self.inner.roster.serial.fetch_add(1, Ordering::Relaxed);
        counters::add_meter(self, direction, filter, number)
    }

    /// Adds rules to the machine's packet filter, in the language of `nft -f`.
    ///
    /// # Errors
    /// When they are refused.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.inner.namespace.nft(rules)
    }

    /// Runs lines of `ip -batch` on the machine.
    ///
    /// # Errors
    /// When one is refused.
    pub fn ip(&self, lines: &str) -> Result<()> {
        self.inner.namespace.ip(lines)
    }

    /// Makes a NAT forget every mapping, as one that restarts does: nothing comes in until the inside has written again.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forget_flows(&self) -> Result<()> {
        self.enter(crate::sys::flush_connection_tracking)?
            .with_context(|| format!("flush flows of {}", self.name()))?;
        let mut list = self.inner.namespace.command("nft")?;
        let tables = list.args(["list", "tables"]).output().context("run nft")?;
        if String::from_utf8_lossy(&tables.stdout).contains("table ip nat4") {
            return self.nft(crate::nat::FORGET);
        }
        Ok(())
    }

    /// The name within the laboratory, e.g. `a-h0`.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.inner.namespace
    }

    /// The machine's own addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.inner.addresses
    }

    /// The first IPv4 address.
    ///
    /// # Panics
    /// For routers, whose addresses are not known by name.
    pub fn ipv4(&self) -> Ipv4Addr {
        self.ipv4s().first().copied().expect("every host and NAT has an IPv4 address")
    }

    /// All IPv4 addresses.
    pub fn ipv4s(&self) -> Vec<Ipv4Addr> {
        let only = |address: &IpAddr| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        };
        self.inner.addresses.iter().filter_map(only).collect()
    }

    /// The first IPv6 address, if the site has that family.
    pub fn ipv6(&self) -> Option<Ipv6Addr> {
        self.inner.addresses.iter().find_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        })
    }

    /// The interface that the machine's counters watch.
    pub fn interface(&self) -> &'static str {
        self.inner.interface
    }

    /// The machine's directory for files, made when first asked for and gone with the laboratory.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn files(&self) -> Result<&Path> {
        let path = &self.inner.files;
        std::fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    pub(crate) fn role(&self) -> &Role {
        &self.inner.role
    }
}

impl Roster {
    fn add(&self, process: Arc<Running>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|process| process.is_running());
        running.push(process);
    }

    /// Ends every process that still runs, all at the same time.
    pub(crate) fn stop_all(&self) {
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        std::thread::scope(|scope| {
            for process in running.iter().filter(|process| process.is_running()) {
                scope.spawn(|| process.stop());
            }
        });
    }
}
