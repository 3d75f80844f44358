//! A laboratory with a server and machines that have joined.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host::Host;
use crate::lab::Lab;
use crate::nat::NatKind;
use crate::scenario::machine::{Addresses, Machine, Programs, Server, tail};
use crate::scenario::pulse::Pulse;
use crate::site::{Family, Site};

/// Machines in one network, the first of them its admin. Taken down in the order of the fields.
pub(crate) struct Scene {
    pub(crate) crew: Vec<Member>,
    pub(crate) server: Server,
    pub(crate) hub: Host,
    pub(crate) lab: Lab,
}

/// A machine that has joined.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) machine: Machine,
    pub(crate) inner: Addresses,
}

impl Scene {
    /// One machine at each site, named as its site, and a site `spare` whose machine has not joined.
    pub(crate) fn set(programs: &Programs, sites: Vec<Site>) -> Result<Self> {
        let names: Vec<String> = sites.iter().map(|site| site.name.clone()).collect();
        let hub = Site::server("hub").family(Family::Dual);
        let spare = Site::new("spare", NatKind::PortRestricted);
        let lab = Lab::builder().site(hub).site(spare);
        let lab = sites.into_iter().fold(lab, |lab, site| lab.site(site)).build()?;
        let hub = lab.host("hub")?;
        let server = Server::start(&hub, programs)?;
        let mut scene = Self { crew: Vec::new(), server, hub, lab };
        for name in names {
            let host = scene.lab.host(&name)?;
            scene.join(programs, &host, &name)?;
        }
        for member in &scene.crew {
            member.machine.wait_for_peers(scene.crew.len() - 1)?;
        }
        Ok(scene)
    }

    /// Machines `a` and `b` behind NATs of these kinds.
    pub(crate) fn pair(programs: &Programs, a: NatKind, b: NatKind) -> Result<Self> {
        Self::set(programs, vec![Site::new("a", a), Site::new("b", b)])
    }

    /// Lets one more machine join, by an invite of the first.
    pub(crate) fn join(&mut self, programs: &Programs, host: &Host, wish: &str) -> Result<()> {
        let ticket = match self.crew.first() {
            Some(first) => first.machine.invite()?,
            None => self.server.founding.clone(),
        };
        let machine = Machine::start(host, programs)?;
        let inner =
            machine.up(&ticket, wish).with_context(|| format!("the server says:\n{}", tail(&self.server.log())))?;
        self.crew.push(Member { name: wish.to_owned(), machine, inner });
        Ok(())
    }

    /// A stream of pings between two members.
    pub(crate) fn pulse(&self, from: usize, to: usize) -> Result<Pulse> {
        Pulse::start(self.crew[from].host(), self.crew[to].inner.v4.into())
    }

    /// What everybody says, for an error.
    pub(crate) fn logs(&self) -> String {
        let mut logs: String = self
            .crew
            .iter()
            .map(|member| format!("{} says:\n{}\n", member.name, tail(&member.machine.log())))
            .collect();
        logs.push_str(&format!("the server says:\n{}", tail(&self.server.log())));
        logs
    }
}

impl Member {
    pub(crate) fn host(&self) -> &Host {
        &self.machine.host
    }

    /// The only network of this machine, as its status shows it.
    pub(crate) fn network(&self) -> Result<Value> {
        let status = self.machine.ginnel(&["status"])?;
        status["networks"].get(0).cloned().with_context(|| format!("{} is in no network: {status}", self.name))
    }

    /// The row of a peer, if it is known.
    pub(crate) fn peer(&self, name: &str) -> Result<Option<Value>> {
        let peers = self.machine.ginnel(&["peers"])?;
        Ok(peers["peers"].as_array().into_iter().flatten().find(|peer| peer["name"] == name).cloned())
    }

    /// The kind of path to a peer: `direct4`, `turn-udp`, …, `none`.
    pub(crate) fn path(&self, name: &str) -> Result<String> {
        let peer = self.peer(name)?.with_context(|| format!("{} knows no {name}", self.name))?;
        Ok(peer["path"]["kind"].as_str().unwrap_or("none").to_owned())
    }

    /// Waits until the path to a peer is of a wanted kind, and answers how long that took.
    pub(crate) fn await_path(&self, name: &str, wanted: &[&str], limit: Duration) -> Result<Duration> {
        let begun = Instant::now();
        let mut seen = String::new();
        let found = until(limit, || {
            seen = self.path(name)?;
            Ok(wanted.contains(&seen.as_str()).then(|| begun.elapsed()))
        })?;
        found.with_context(|| format!("the path from {} to {name} is {seen}, not {}", self.name, wanted.join(" or ")))
    }

    /// Whether this machine says that it is connected to the server.
    pub(crate) fn is_connected(&self) -> Result<bool> {
        Ok(self.network()?["server"]["connected"] == true)
    }

    /// The entries of the membership log.
    pub(crate) fn log_entries(&self) -> Result<Vec<Value>> {
        Ok(self.machine.ginnel(&["log"])?["entries"].as_array().cloned().unwrap_or_default())
    }

    /// The UDP port that the daemon has in both families; other sockets have one alone.
    pub(crate) fn port(&self) -> Result<u16> {
        let shown = self.host().run(&["ss", "-Hlun"], Duration::from_secs(5))?.success()?;
        let bound: Vec<(&str, u16)> = shown
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3)?.rsplit_once(':'))
            .filter_map(|(ip, port)| Some((ip, port.parse().ok()?)))
            .collect();
        let of = |wanted: fn(&str) -> bool| -> BTreeSet<u16> {
            bound.iter().filter(|(ip, _)| wanted(ip)).map(|(_, port)| *port).collect()
        };
        let (v4, v6) = (of(|ip| ip == "0.0.0.0"), of(|ip| ip == "[::]" || ip == "*"));
        let both: Vec<u16> = v4.intersection(&v6).copied().collect();
        both.first().copied().with_context(|| format!("no port in both families:\n{shown}"))
    }

    /// What the hosts file of this machine holds.
    pub(crate) fn hosts_file(&self) -> Result<String> {
        std::fs::read_to_string(self.host().files()?.join("hosts")).context("read the hosts file")
    }
}

/// Tries until there is an answer, or `None` when `limit` is over.
pub(crate) fn until<T>(limit: Duration, mut attempt: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = attempt()? {
            return Ok(Some(answer));
        }
        if begun.elapsed() > limit {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until something holds, and answers how long that took.
pub(crate) fn until_true(limit: Duration, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let begun = Instant::now();
    match until(limit, || Ok(holds()?.then(|| begun.elapsed())))? {
        Some(took) => Ok(took),
        None => bail!("{limit:?} later it still does not hold that {what}"),
    }
}

/// Fails unless something holds.
#[expect(clippy::fn_params_excessive_bools, reason = "it is an assertion")]
pub(crate) fn demand(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { bail!("{}", what()) }
}

/// Kinds of path without a relay.
pub(crate) const DIRECT: [&str; 3] = ["lan", "direct4", "direct6"];
/// How long a link may take to come up, or back, on a slow machine.
pub(crate) const LINK: Duration = Duration::from_secs(15);
