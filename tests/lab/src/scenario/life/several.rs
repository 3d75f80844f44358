//! One machine in several networks.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::pulse::Pulse;
use super::scene::{LINK, demand, until_true};
use crate::host::Host;
use crate::lab::Lab;
use crate::nat::NatKind;
use crate::scenario::machine::{Addresses, Machine, Programs, Server, tail};
use crate::site::Site;

/// Machine `b` is in the networks of `a` and `c`, each with a server of its own, and pings both; then it joins a third one
/// whose range is that of the first, by IPv6 alone.
pub(super) fn two_networks(programs: &Programs) -> Result<String> {
    let site = |name| Site::new(name, NatKind::PortRestricted);
    let mut lab = Lab::builder();
    for hub in ["hub1", "hub2", "hub3"] {
        lab = lab.site(Site::server(hub));
    }
    let lab = ["a", "b", "c"].into_iter().fold(lab, |lab, name| lab.site(site(name))).build()?;
    let servers = ["hub1", "hub2", "hub3"].map(|hub| lab.host(hub).and_then(|host| Server::start(&host, programs)));
    let [home, work, play] = servers;
    let (home, work, play) = (home?, work?, play?);
    let machine = |name: &str| lab.host(name).and_then(|host| Machine::start(&host, programs));
    let (a, b, c) = (machine("a")?, machine("b")?, machine("c")?);
    let logs =
        || [&a, &b, &c].map(|machine| format!("{} says:\n{}\n", machine.host.name(), tail(&machine.log()))).concat();

    let at_home = found((&a, "a"), &home, "home", "100.70.0.0/16").with_context(logs)?;
    let at_work = found((&c, "c"), &work, "work", "100.71.0.0/16").with_context(logs)?;
    b.up(&a.invite()?, "b").context("join the first network").with_context(logs)?;
    b.up(&c.invite()?, "b").context("join the second network").with_context(logs)?;
    let pulses = links(&b.host, &[at_home.v4.into(), at_home.v6, at_work.v4.into(), at_work.v6]).with_context(logs)?;
    verbs(&b).with_context(logs)?;

    // The networks do not meet: `a` has no road to `c`, and none through `b`.
    demand(!super::pulse::answers(&a.host, at_work.v4.into())?, || "a reaches a member of another network".to_owned())?;

    b.end(libc::SIGTERM)?;
    let mut b = b;
    b.start_again()?;
    for pulse in &pulses {
        pulse.steady(LINK).context("after a restart")?;
    }

    let at_play = found((&c, "c"), &play, "play", "100.70.0.0/16").context("a second network of c")?;
    let invite = c.ginnel(&["invite", "--network", "play"])?;
    let invite = invite["invite"].as_str().context("the invite's string is missing")?.to_owned();
    let refused = b.run(&["up", &invite, "--name", "b"])?;
    demand(refused.status.code() == Some(2) && refused.stderr.contains("--no-ipv4"), || {
        format!("the range is taken, and `up` says {} {}", refused.stdout, refused.stderr)
    })?;
    let joined = b.ginnel(&["up", &invite, "--name", "b", "--no-ipv4"])?;
    demand(joined["ips"].as_array().is_some_and(|ips| ips.len() == 1), || format!("up --no-ipv4 says {joined}"))?;
    let by_v6 = Pulse::start(&b.host, at_play.v6)?;
    by_v6.steady(LINK).context("by IPv6 alone")?;
    let left = b.ginnel(&["leave", "--network", "home", "--yes"])?;
    demand(left["network"] == "home", || format!("leave says {left}"))?;
    pulses[2].steady(LINK).context("the second network, without the first")?;
    Ok("two networks by both families, a third one by IPv6".to_owned())
}

fn found((machine, name): (&Machine, &str), server: &Server, title: &str, range: &str) -> Result<Addresses> {
    let arguments = ["up", &server.founding, "--name", name, "--network-name", title, "--range", range];
    let up = machine.ginnel(&arguments)?;
    demand(up["outcome"] == "founded" && up["network"] == title, || format!("up says {up}"))?;
    Addresses::read(&up["ips"])
}

fn links(from: &Host, to: &[std::net::IpAddr]) -> Result<Vec<Pulse>> {
    let pulses = to.iter().map(|ip| Pulse::start(from, *ip)).collect::<Result<Vec<_>>>()?;
    for pulse in &pulses {
        pulse.steady(LINK)?;
    }
    Ok(pulses)
}

/// What a user of two networks sees and says.
fn verbs(b: &Machine) -> Result<()> {
    let names = |status: &Value| -> Vec<String> {
        let networks = status["networks"].as_array().into_iter().flatten();
        networks.filter_map(|network| network["name"].as_str().map(str::to_owned)).collect()
    };
    let status = b.ginnel(&["status"])?;
    demand(names(&status) == ["home", "work"], || format!("status says {status}"))?;
    let one = b.ginnel(&["status", "--network", "work"])?;
    demand(names(&one) == ["work"], || format!("status --network work says {one}"))?;
    let peers = b.ginnel(&["peers", "--network", "home"])?;
    let known = peers["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
    demand(known.len() == 1 && known[0]["name"] == "a" && known[0]["network"] == "home", || format!("{peers}"))?;
    let log = b.run(&["log"])?;
    demand(log.status.code() == Some(2) && log.stderr.contains("home, work"), || format!("log says {}", log.stderr))?;
    let log = b.ginnel(&["--network", "work", "log"])?;
    demand(log["network"] == "work", || format!("log --network work says {log}"))?;
    let hosts = b.host.files()?.join("hosts");
    until_true(Duration::from_secs(5), "names of both are known", || {
        let file = std::fs::read_to_string(&hosts).context("read the hosts file")?;
        Ok(["a.home.internal", "b.home.internal", "b.work.internal", "c.work.internal"]
            .iter()
            .all(|n| file.contains(n)))
    })?;
    Ok(())
}
