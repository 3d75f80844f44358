//! Machines that move, NATs that forget, lines that break.

use std::time::Duration;

use anyhow::{Context, Result};

use super::pulse::unix_now;
use super::scene::{DIRECT, LINK, Scene, demand};
use crate::delay::Shape;
use crate::nat::NatKind;
use crate::scenario::machine::Programs;
use crate::site::UPLINK_DELAY;

/// A gets another address on its LAN in the middle of a stream.
pub(super) fn new_address(programs: &Programs) -> Result<String> {
    let scene = direct_pair(programs)?;
    disturb(&scene, || {
        let host = scene.crew[0].host();
        let [a, b, c, _] = host.ipv4().octets();
        host.ip(&format!(
            "address del {old}/24 dev eth0\naddress add {a}.{b}.{c}.77/24 dev eth0\n\
             route replace default via {a}.{b}.{c}.1 dev eth0\n",
            old = host.ipv4()
        ))
    })
}

/// The NAT before A forgets, and gives A's socket another port.
pub(super) fn new_mapping(programs: &Programs) -> Result<String> {
    let scene = direct_pair(programs)?;
    let (nat, port) = (scene.lab.nat("a")?, scene.crew[0].port()?);
    disturb(&scene, || {
        nat.nft(&format!(
            "insert rule ip nat4 post oifname \"wan\" meta l4proto udp udp sport {port} masquerade to :{NEW_PORT}\n"
        ))?;
        nat.forget_flows()
    })
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
fn disturb(scene: &Scene, event: impl FnOnce() -> Result<()>) -> Result<String> {
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
    demand(slowest < AGAIN, || format!("no answer for {slowest:?}\n{}", scene.logs()))?;
    a.await_path("b", &DIRECT, DIRECT_AGAIN).with_context(|| scene.logs())?;
    b.await_path("a", &DIRECT, DIRECT_AGAIN).with_context(|| scene.logs())?;
    let direct = unix_now().saturating_sub(began);
    let after = handshake(scene)?;
    demand(after <= before + 1, || format!("the session of {before} gave way to one of {after}\n{}", scene.logs()))?;
    Ok(format!("no answer for {slowest:.1?} at most, direct after {direct:.1?}, same session"))
}

fn direct_pair(programs: &Programs) -> Result<Scene> {
    let scene = Scene::pair(programs, NatKind::PortRestricted, NatKind::PortRestricted)?;
    scene.pulse(0, 1)?.steady(LINK)?;
    for (from, to) in [(0, "b"), (1, "a")] {
        scene.crew[from].await_path(to, &DIRECT, LINK).with_context(|| scene.logs())?;
    }
    Ok(scene)
}

/// The second of the day in which the session was made, which the clocks' drift may change by one.
fn handshake(scene: &Scene) -> Result<u32> {
    let peer = scene.crew[0].peer("b")?.context("a lost b")?;
    let text = peer["last_handshake"].as_str().context("no handshake is shown")?;
    let (_, time) = text.trim_end_matches('Z').split_once('T').with_context(|| format!("{text} is no time"))?;
    time.split(':').try_fold(0, |sum, part| Ok(sum * 60 + part.parse::<u32>().context("a number")?))
}

const NEW_PORT: u16 = 1234;
const CUT: Duration = Duration::from_secs(5);
/// Both sides have to find out that the direct path is gone, then meet anew.
const DIRECT_AGAIN: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_secs(8);
