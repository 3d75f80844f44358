//! Programs that end and start again.

use std::time::Duration;

use anyhow::{Context, Result};

use super::pulse::unix_now;
use super::scene::{DIRECT, LINK, Member, Scene, demand, until_true};
use crate::nat::NatKind;
use crate::scenario::machine::Programs;

/// Daemons end, by a manager's word and by force, and start again while the other side pings.
pub(super) fn daemon_restarts(programs: &Programs) -> Result<String> {
    let mut scene = Scene::pair(programs, NatKind::PortRestricted, NatKind::PortRestricted)?;
    scene.pulse(0, 1)?.steady(LINK)?;
    let mut told = Vec::new();
    for (who, signal) in [(1, libc::SIGTERM), (0, libc::SIGKILL)] {
        let before = State::of(&scene.crew[who])?;
        let pulse = scene.pulse(1 - who, who)?;
        pulse.steady(LINK)?;
        let began = unix_now();
        scene.crew[who].machine.end(signal)?;
        scene.crew[who].machine.start_again()?;
        let gap = pulse.gap_since(began, Duration::from_secs(2), LINK).with_context(|| scene.logs())?;
        let after = State::of(&scene.crew[who])?;
        demand(before == after, || format!("{before:?} became {after:?}"))?;
        scene.pulse(who, 1 - who)?.steady(LINK).with_context(|| scene.logs())?;
        let other = scene.crew[1 - who].name.clone();
        scene.crew[who].await_path(&other, &DIRECT, LINK).with_context(|| scene.logs())?;
        told.push(format!("signal {signal}: answers again after {:.1} s", gap.as_secs_f64()));
    }
    Ok(told.join(", "))
}

/// The server restarts: links stay, the daemons come back, the log is there, and a newcomer can join.
pub(super) fn server_restarts(programs: &Programs) -> Result<String> {
    let mut scene = Scene::pair(programs, NatKind::PortRestricted, NatKind::PortRestricted)?;
    let log = scene.crew[0].log_entries()?;
    let mut told = Vec::new();
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        let pulse = scene.pulse(0, 1)?;
        pulse.steady(LINK)?;
        scene.crew[0].await_path("b", &DIRECT, LINK).with_context(|| scene.logs())?;
        let began = unix_now();
        scene.server.end(signal)?;
        scene.server.start_again()?;
        // The server's own word: a daemon believes in a dead connection for a while.
        let took = until_true(RECONNECT, "both are connected", || {
            Ok(scene.server.log().lines().filter(|line| line.contains("client let in")).count() >= 2)
        })
        .with_context(|| scene.logs())?;
        until_true(LINK, "both know", || Ok(scene.crew[0].is_connected()? && scene.crew[1].is_connected()?))?;
        scene.crew[0].machine.invite().context("an invite after the restart")?;
        let gap = pulse.gap_since(began, Duration::ZERO, LINK)?;
        demand(gap < Duration::from_secs(3), || format!("the direct link had a gap of {gap:?}\n{}", scene.logs()))?;
        told.push(format!("signal {signal}: connected after {:.1} s, longest gap {gap:.1?}", took.as_secs_f64()));
    }
    let kept = scene.crew[1].log_entries()?;
    demand(kept.starts_with(&log), || format!("the log was {log:?} and is {kept:?}"))?;
    let host = scene.lab.host("spare")?;
    scene.join(programs, &host, "c").context("a newcomer after the restart")?;
    scene.pulse(2, 0)?.steady(LINK).with_context(|| scene.logs())?;
    Ok(told.join(", "))
}

/// The server is gone for good: the direct link stays, and a daemon that restarts finds back while the other calls it.
pub(super) fn server_dead(programs: &Programs) -> Result<String> {
    let mut scene = Scene::pair(programs, NatKind::PortRestricted, NatKind::PortRestricted)?;
    let (there, back) = (scene.pulse(0, 1)?, scene.pulse(1, 0)?);
    there.steady(LINK)?;
    back.steady(LINK)?;
    scene.crew[0].await_path("b", &DIRECT, LINK).with_context(|| scene.logs())?;
    let began = unix_now();
    scene.server.end(libc::SIGKILL)?;
    let mut longest = Duration::ZERO;
    for pulse in [&there, &back] {
        longest = longest.max(pulse.gap_since(began, DEAD, DEAD + LINK).with_context(|| scene.logs())?);
    }
    demand(longest < Duration::from_secs(3), || format!("a gap of {longest:?} without a server\n{}", scene.logs()))?;
    let began = unix_now();
    scene.crew[0].machine.end(libc::SIGTERM)?;
    scene.crew[0].machine.start_again()?;
    let gap = back.gap_since(began, Duration::from_secs(2), LINK * 2).with_context(|| scene.logs())?;
    Ok(format!(
        "longest gap {longest:.1?} in {} s without a server; a daemon restarted then answers after {:.1} s",
        DEAD.as_secs(),
        gap.as_secs_f64()
    ))
}

/// What a restart must not change.
#[derive(Debug, PartialEq, Eq)]
struct State {
    addresses: Vec<String>,
    port: u16,
    members: usize,
}

impl State {
    fn of(member: &Member) -> Result<Self> {
        let own = member.network()?["self"]["ips"].clone();
        let addresses = own.as_array().into_iter().flatten().filter_map(|ip| ip.as_str().map(str::to_owned)).collect();
        let members = member.log_entries()?.iter().filter(|entry| entry["kind"] == "member").count();
        Ok(Self { addresses, port: member.port()?, members })
    }
}

const RECONNECT: Duration = Duration::from_secs(45);
const DEAD: Duration = Duration::from_secs(20);
