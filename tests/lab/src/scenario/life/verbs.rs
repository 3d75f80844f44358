//! What users say to their machines.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::pulse::{answers, unix_now};
use super::scene::{LINK, Member, Scene, demand, until_true};
use crate::nat::NatKind;
use crate::scenario::machine::{Addresses, Programs};
use crate::site::Site;

/// `down` and `up` again, `ip`, `log`, and names.
pub(super) fn down_and_up(programs: &Programs) -> Result<String> {
    let mut scene = Scene::pair(programs, NatKind::PortRestricted, NatKind::PortRestricted)?;
    let host = scene.lab.host("spare")?;
    scene.join(programs, &host, "b").context("a second machine named b")?;
    names(&scene)?;
    let (a, b) = (&scene.crew[0], &scene.crew[1]);
    let pulse = scene.pulse(0, 1)?;
    pulse.steady(LINK)?;
    let down = b.machine.ginnel(&["down"])?;
    demand(down["stopped"] == serde_json::json!(["home"]), || format!("down says {down}"))?;
    demand(!answers(a.host(), b.inner.v4.into())?, || "b answers although it is down".to_owned())?;
    demand(b.network()?["state"] == "stopped", || "b's state is not stopped".to_owned())?;
    demand(b.hosts_file()? == PLAIN_HOSTS, || "names stay in the hosts file after down".to_owned())?;
    let began = unix_now();
    let up = b.machine.ginnel(&["up"])?;
    demand(up["outcome"] == "started", || format!("up says {up}"))?;
    same(&up["ips"], b.inner).context("up after down")?;
    pulse.gap_since(began, Duration::ZERO, LINK).with_context(|| scene.logs())?;
    let again = pulse.first_answer_after(began).unwrap_or_default().saturating_sub(began);
    scene.pulse(1, 0)?.steady(LINK).with_context(|| scene.logs())?;
    names(&scene).context("after up")?;
    let second = b.machine.ginnel(&["up"])?;
    demand(second["outcome"] == "unchanged", || format!("a second up says {second}"))?;
    log(a)?;
    for member in &scene.crew {
        member.machine.end(libc::SIGTERM)?;
        demand(member.hosts_file()? == PLAIN_HOSTS, || format!("{} leaves names behind", member.name))?;
    }
    Ok(format!("answers again {:.1} s after up", again.as_secs_f64()))
}

/// Every machine has every name in its hosts file and tells the same addresses.
fn names(scene: &Scene) -> Result<()> {
    for member in &scene.crew {
        for (name, other) in ["a", "b", "b-2"].into_iter().zip(&scene.crew) {
            let wanted = [other.inner.v4.into(), other.inner.v6].map(|ip| format!("{ip} {name}.home.internal"));
            let what = format!("{} names {} as {name}", member.name, other.name);
            until_true(LINK, &what, || {
                let file = member.hosts_file()?;
                Ok(wanted.iter().all(|line| file.lines().any(|seen| seen == line)))
            })?;
            let told = if std::ptr::eq(member, other) {
                member.machine.ginnel(&["ip"])?
            } else {
                member.machine.ginnel(&["ip", name])?
            };
            demand(told["name"] == name, || format!("{} tells {told}", member.name))?;
            same(&told["ips"], other.inner)?;
        }
    }
    Ok(())
}

/// The log shows how the network came to be.
fn log(member: &Member) -> Result<()> {
    let entries = member.log_entries()?;
    for (kind, wanted) in [("genesis", 1), ("invite", 3), ("member", 3)] {
        let count = entries.iter().filter(|entry| entry["kind"] == kind && entry["verdict"] == "applied").count();
        demand(count == wanted, || format!("{count} entries of kind {kind} instead of {wanted}: {entries:?}"))?;
    }
    for name in ["a", "b"] {
        let named = entries.iter().any(|entry| {
            entry["kind"] == "member" && entry["subject"].as_str().is_some_and(|subject| subject.starts_with(name))
        });
        demand(named, || format!("no entry names {name}: {entries:?}"))?;
    }
    Ok(())
}

/// A revoked machine is out at once, on all sides, and stays out.
pub(super) fn revoke(programs: &Programs) -> Result<String> {
    let site = |name| Site::new(name, NatKind::PortRestricted);
    let mut scene = Scene::set(programs, vec![site("a"), site("b"), site("c")])?;
    let streams = [scene.pulse(0, 1)?, scene.pulse(1, 0)?, scene.pulse(2, 1)?, scene.pulse(1, 2)?];
    for stream in &streams {
        stream.steady(LINK).with_context(|| scene.logs())?;
    }
    let (a, b, c) = (&scene.crew[0], &scene.crew[1], &scene.crew[2]);
    let refused = c.machine.run(&["revoke", "b", "--yes"])?;
    demand(!refused.status.success(), || "a plain member may revoke".to_owned())?;
    let began = unix_now();
    a.machine.ginnel(&["revoke", "b", "--yes"])?;
    let took = until_true(SOON, "nobody knows b", || Ok(a.peer("b")?.is_none() && c.peer("b")?.is_none()))?;
    until_true(SOON, "b's status says so", || {
        let status = b.machine.ginnel(&["status"])?;
        let named = |health: &serde_json::Value| health["code"] == "not-a-member";
        Ok(status["networks"][0]["state"] == "error"
            && status["health"].as_array().is_some_and(|all| all.iter().any(named)))
    })
    .with_context(|| format!("b: {}\n{}", b.machine.ginnel(&["status"]).unwrap_or_default(), scene.logs()))?;
    let quiet = unix_now();
    std::thread::sleep(Duration::from_secs(2));
    let late: usize = streams.iter().map(|stream| stream.answers_since(quiet)).sum();
    demand(late == 0, || format!("{late} answers after the revocation was known\n{}", scene.logs()))?;
    for (who, name) in [(a, "a"), (c, "c")] {
        demand(!who.hosts_file()?.contains(" b.home"), || format!("{name} still names b"))?;
    }
    let up = b.machine.run(&["up"])?;
    demand(!up.status.success(), || format!("up works on a revoked machine: {}", up.stdout))?;
    scene.crew[1].machine.end(libc::SIGTERM)?;
    scene.crew[1].machine.start_again()?;
    std::thread::sleep(Duration::from_secs(2));
    let late: usize = streams.iter().map(|stream| stream.answers_since(quiet)).sum();
    demand(late == 0, || format!("{late} answers after the revoked machine restarted"))?;
    let state = scene.crew[1].network()?["state"].clone();
    demand(state == "error", || format!("after a restart the revoked machine says {state}"))?;
    scene.pulse(0, 2)?.steady(LINK).context("the others")?;
    let last = streams.iter().filter_map(|stream| stream.last_answer()).max().unwrap_or_default();
    Ok(format!(
        "gone from the peers after {:.1} s, the last answer {:.1} s after the verb",
        took.as_secs_f64(),
        last.saturating_sub(began).as_secs_f64()
    ))
}

/// A machine that leaves is gone from the others, forgets all, and can join anew.
pub(super) fn leave(programs: &Programs) -> Result<String> {
    let mut scene = Scene::pair(programs, NatKind::PortRestricted, NatKind::PortRestricted)?;
    scene.pulse(0, 1)?.steady(LINK)?;
    let before = scene.crew[1].inner;
    let left = scene.crew[1].machine.ginnel(&["leave", "--yes"])?;
    demand(left["network"] == "home", || format!("leave says {left}"))?;
    let b = &scene.crew[1];
    let took = until_true(SOON, "a does not know b", || Ok(scene.crew[0].peer("b")?.is_none()))?;
    let status = b.machine.ginnel(&["status"])?;
    demand(status["networks"] == serde_json::json!([]), || format!("b says {status}"))?;
    demand(b.hosts_file()? == PLAIN_HOSTS, || "names stay in the hosts file after leave".to_owned())?;
    let shown = b.host().run(&["ip", "-o", "address"], Duration::from_secs(5))?.success()?;
    for ip in [before.v4.to_string(), before.v6.to_string()] {
        demand(!shown.contains(&format!("{ip}/")), || format!("b still has {ip}:\n{shown}"))?;
    }
    let ip = b.machine.run(&["ip"])?;
    demand(!ip.status.success(), || format!("ip works outside a network: {}", ip.stdout))?;
    let invite = scene.crew[0].machine.invite()?;
    let inner = b.machine.up(&invite, "b").context("join again").with_context(|| scene.logs())?;
    scene.crew[1].inner = inner;
    scene.pulse(0, 1)?.steady(LINK).with_context(|| scene.logs())?;
    Ok(format!("gone from the peers after {:.1} s, joined again as {}", took.as_secs_f64(), inner.v4))
}

fn same(list: &serde_json::Value, wanted: Addresses) -> Result<()> {
    let ips: Vec<&str> = list.as_array().into_iter().flatten().filter_map(|ip| ip.as_str()).collect();
    let wanted = [wanted.v4.to_string(), wanted.v6.to_string()];
    if ips.len() != 2 || !wanted.iter().all(|ip| ips.contains(&ip.as_str())) {
        bail!("the addresses are {ips:?} instead of {wanted:?}");
    }
    Ok(())
}

/// What the hosts file of a machine holds without names of ours.
const PLAIN_HOSTS: &str = "127.0.0.1 localhost\n";
const SOON: Duration = Duration::from_secs(10);
