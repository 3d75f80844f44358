//! Machines that move, NATs that forget, lines that break.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::pulse::unix_now;
use super::scene::{DIRECT, LINK, Scene, demand};
use crate::delay::Shape;
use crate::nat::NatKind;
use crate::scenario::machine::Programs;
use crate::site::UPLINK_DELAY;

/// A gets another address on its LAN in the middle of a stream.
pub(super) fn new_address(programs: &Programs) -> Result<String> {
    let scene = direct_pair(programs)?;
    let gap = disturb(&scene, || {
        let host = scene.crew[0].host();
        let [a, b, c, _] = host.ipv4().octets();
        host.ip(&format!(
            "address del {old}/24 dev eth0\naddress add {a}.{b}.{c}.77/24 dev eth0\n\
             route replace default via {a}.{b}.{c}.1 dev eth0\n",
            old = host.ipv4()
        ))
    })?;
    Ok(format!("answers again after {:.1} s, same session", gap.as_secs_f64()))
}

/// The NAT before A forgets, and gives A's socket another port.
pub(super) fn new_mapping(programs: &Programs) -> Result<String> {
    let scene = direct_pair(programs)?;
    let nat = scene.lab.nat("a")?;
    let gap = disturb(&scene, || {
        nat.nft(&format!(
            "flush chain ip nat4 post\nadd rule ip nat4 post oifname \"wan\" meta l4proto udp masquerade to :{NEW_PORTS}\n\
             add rule ip nat4 post oifname \"wan\" masquerade\n"
        ))?;
        nat.forget_flows()
    })?;
    let seen = scene.crew[1].peer("a")?.context("b lost a")?["path"]["endpoint"].clone();
    Ok(format!("answers again after {:.1} s at {seen}, same session", gap.as_secs_f64()))
}

/// Nothing passes A's uplink for 5 s.
pub(super) fn cut(programs: &Programs) -> Result<String> {
    let scene = direct_pair(programs)?;
    let (there, back) = (scene.pulse(0, 1)?, scene.pulse(1, 0)?);
    there.steady(LINK)?;
    back.steady(LINK)?;
    scene.lab.reshape("a", Shape::cut(), Shape::cut())?;
    std::thread::sleep(CUT);
    let line = Shape::delay(UPLINK_DELAY);
    scene.lab.reshape("a", line, line)?;
    let again = unix_now();
    let mut slowest = Duration::ZERO;
    for pulse in [&there, &back] {
        let gap = pulse.gap_since(again, Duration::from_secs(1), LINK).with_context(|| scene.logs())?;
        demand(gap >= CUT - Duration::from_millis(500), || format!("a gap of {gap:?}: the line was not cut"))?;
        slowest = slowest.max(gap.saturating_sub(CUT));
    }
    scene.crew[0].await_path("b", &DIRECT, LINK).with_context(|| scene.logs())?;
    Ok(format!("answers again {:.1} s after the line", slowest.as_secs_f64()))
}

/// Disturbs A amid streams both ways: answers come back soon, by a direct path, in the same session.
fn disturb(scene: &Scene, event: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let (a, b) = (&scene.crew[0], &scene.crew[1]);
    let (there, back) = (scene.pulse(0, 1)?, scene.pulse(1, 0)?);
    there.steady(LINK)?;
    back.steady(LINK)?;
    let before = handshake(scene)?;
    let began = unix_now();
    event()?;
    let mut slowest = Duration::ZERO;
    for pulse in [&there, &back] {
        let gap = pulse.gap_since(began, Duration::from_secs(2), LINK).with_context(|| scene.logs())?;
        slowest = slowest.max(gap);
    }
    a.await_path("b", &DIRECT, LINK).with_context(|| scene.logs())?;
    b.await_path("a", &DIRECT, LINK).with_context(|| scene.logs())?;
    let after = handshake(scene)?;
    demand(before == after, || format!("the session of {before} gave way to one of {after}\n{}", scene.logs()))?;
    demand(slowest < AGAIN, || format!("no answer for {slowest:?}\n{}", scene.logs()))?;
    Ok(slowest)
}

fn direct_pair(programs: &Programs) -> Result<Scene> {
    let scene = Scene::pair(programs, NatKind::PortRestricted, NatKind::PortRestricted)?;
    scene.pulse(0, 1)?.steady(LINK)?;
    for (from, to) in [(0, "b"), (1, "a")] {
        scene.crew[from].await_path(to, &DIRECT, LINK).with_context(|| scene.logs())?;
    }
    Ok(scene)
}

fn handshake(scene: &Scene) -> Result<Value> {
    Ok(scene.crew[0].peer("b")?.context("a lost b")?["last_handshake"].clone())
}

const NEW_PORTS: &str = "21000-21000";
const CUT: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(8);
