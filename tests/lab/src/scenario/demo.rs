//! The demonstration: two homes and a third machine meet over one public host.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use ginnel_node::record::replay;
use serde::Serialize;

use super::machine::{Addresses, Machine, Programs, Server, tail};
use crate::host::Host;
use crate::lab::Lab;
use crate::measure::{Load, Protocol, Towards, iperf3, ping};
use crate::nat::NatKind;
use crate::site::Site;

/// What the demonstration found.
#[derive(Clone, Debug, Serialize)]
pub struct Account {
    /// One link for each two machines.
    pub links: Vec<Link>,
}

/// One link.
#[derive(Clone, Debug, Serialize)]
pub struct Link {
    /// One machine.
    pub a: String,
    /// The other.
    pub b: String,
    /// What `ginnel ping` says of the path: `direct4`, `turn-udp`, ….
    pub path: String,
    /// The mean round trip by `ping`, in milliseconds.
    pub ping_ms: f64,
    /// The TCP throughput by `iperf3`, in Mbit/s.
    pub mbps: f64,
}

/// Builds the networks, runs the programs, and measures every link; `tell` gets the account line by line.
///
/// # Errors
/// When a step fails; the error holds what the programs said.
pub fn run(programs: &Programs, tell: &dyn Fn(&str)) -> Result<Account> {
    tell("Building three homes and a public host in network namespaces; 20 ms lie between any two.");
    let lab = Lab::builder()
        .site(Site::new("ada", NatKind::PortRestricted).lan_number(1))
        .site(Site::new("ben", NatKind::PortRestricted).lan_number(2))
        .site(Site::new("cleo", NatKind::Symmetric).lan_number(3))
        .site(Site::server("hub"))
        .build()?;
    let hub = lab.host("hub")?;
    let server = Server::start(&hub, programs)?;
    tell(&format!("hub   $ ginnel-signal --public-address {}", hub.ipv4()));
    tell(&format!("        {}", shortened(&server.founding)));
    let mut crew = vec![join(&lab, programs, "ada", &server.founding, tell).with_context(|| tail(&server.log()))?];
    for name in ["ben", "cleo"] {
        let invite = crew[0].machine.invite()?;
        tell("ada   $ ginnel invite");
        tell(&format!("        {}", shortened(&invite)));
        crew.push(join(&lab, programs, name, &invite, tell).with_context(|| tail(&server.log()))?);
    }
    for member in &crew {
        member.machine.wait_for_peers(crew.len() - 1)?;
    }
    let mut links = Vec::new();
    for (a, b, wanted) in [(0, 1, "direct4"), (0, 2, "turn-udp"), (1, 2, "turn-udp")] {
        links.push(measure(&crew[a], &crew[b], wanted, tell)?);
    }
    for member in crew {
        let name = member.name;
        let recording = member.host().files()?.join("recording");
        let ended = member.machine.stop()?;
        if !ended.status.success() {
            bail!("the daemon of {name} ended with {}: {}", ended.status, tail(&ended.stderr));
        }
        let recording = std::fs::read(&recording).with_context(|| format!("read the recording of {name}"))?;
        let played = replay(&recording).with_context(|| format!("replay what {name} recorded"))?;
        tell(&format!(
            "{name:<5} recorded {} inputs; a fresh node that is given them puts out the same {} things.",
            played.inputs, played.outputs
        ));
    }
    drop(server);
    drop(lab);
    tell("Everything is taken down; nothing is left behind.");
    Ok(Account { links })
}

struct Member {
    name: &'static str,
    machine: Machine,
    inner: Addresses,
}

impl Member {
    fn host(&self) -> &Host {
        &self.machine.host
    }
}

fn join(lab: &Lab, programs: &Programs, name: &'static str, ticket: &str, tell: &dyn Fn(&str)) -> Result<Member> {
    let host = lab.host(name)?;
    let file = host.files()?.join("recording");
    let machine = Machine::start_with(&host, programs, &["--record", &file.to_string_lossy()])?;
    let inner = machine.up(ticket, name)?;
    tell(&format!("{name:<5} $ ginnel up {} --name {name}", shortened(ticket)));
    tell(&format!("        joined as {name}: {}, {}", inner.v4, inner.v6));
    Ok(Member { name, machine, inner })
}

fn measure(a: &Member, b: &Member, wanted: &str, tell: &dyn Fn(&str)) -> Result<Link> {
    let path = settled_path(a, b, wanted)?;
    let rtt = ping(a.host(), b.inner.v4.into(), 10, Duration::from_millis(100))?;
    let mean = rtt.rtt.context("no ping came back")?.avg;
    let v6 = ping(a.host(), b.inner.v6, 3, Duration::from_millis(100))?;
    if v6.rtt.is_none() {
        bail!("no ping over IPv6 from {} to {} came back", a.name, b.name);
    }
    let load = Load { protocol: Protocol::Tcp, duration: Duration::from_secs(3), towards: Towards::Server, streams: 1 };
    let flow = iperf3(a.host(), b.host(), b.inner.v4.into(), load)?;
    let link = Link {
        a: a.name.to_owned(),
        b: b.name.to_owned(),
        path,
        ping_ms: (mean.as_secs_f64() * 10_000.0).round() / 10.0,
        mbps: (flow.bits_per_second / 100_000.0).round() / 10.0,
    };
    tell(&format!("{} – {}: {}, ping {} ms, {} Mbit/s", link.a, link.b, link.path, link.ping_ms, link.mbps));
    Ok(link)
}

/// Pings until the path is the wanted one, for at most 10 s, and answers the path of the last reply.
fn settled_path(a: &Member, b: &Member, wanted: &str) -> Result<String> {
    let mut seen = "none".to_owned();
    for _ in 0..20 {
        let reply = a.machine.ginnel(&["ping", b.name, "-c", "1"])?;
        seen = path_of(&reply).unwrap_or_else(|| "none".to_owned());
        if seen == wanted {
            return Ok(seen);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    bail!(
        "the path from {} to {} is {seen}, not {wanted}\n{} says:\n{}\n{} says:\n{}",
        a.name,
        b.name,
        a.name,
        tail(&a.machine.log()),
        b.name,
        tail(&b.machine.log())
    )
}

fn path_of(reply: &serde_json::Value) -> Option<String> {
    let kind = reply.pointer("/path/kind").or_else(|| reply.pointer("/final_path/kind"))?;
    kind.as_str().map(str::to_owned)
}

fn shortened(text: &str) -> String {
    let start: String = text.chars().take(28).collect();
    format!("{start}…")
}
