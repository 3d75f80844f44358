//! Relayed links, and how quiet a link is that nobody uses.

use std::time::Duration;

use anyhow::{Context, Result};

use super::pulse::unix_now;
use super::scene::{DIRECT, LINK, Scene, demand};
use crate::nat::NatKind;
use crate::scenario::machine::Programs;

/// The server, and its relay with it, restarts under a relayed stream.
pub(super) fn restarts(programs: &Programs) -> Result<String> {
    let mut scene = Scene::pair(programs, NatKind::Symmetric, NatKind::PortRestricted)?;
    let (there, back) = (scene.pulse(0, 1)?, scene.pulse(1, 0)?);
    there.steady(LINK)?;
    back.steady(LINK)?;
    scene.crew[0].await_path("b", &["turn-udp"], LINK).with_context(|| scene.logs())?;
    let began = unix_now();
    scene.server.end(libc::SIGTERM)?;
    scene.server.start_again()?;
    let mut slowest = Duration::ZERO;
    for pulse in [&there, &back] {
        let gap = pulse.gap_since(began, Duration::from_secs(3), RELAY_AGAIN).with_context(|| scene.logs())?;
        slowest = slowest.max(gap);
    }
    scene.crew[0].await_path("b", &["turn-udp"], LINK).with_context(|| scene.logs())?;
    Ok(format!("answers again after {:.1} s", slowest.as_secs_f64()))
}

/// A minute after the last packet only what keeps mappings and the server connection open crosses A's uplink.
pub(super) fn idle(programs: &Programs) -> Result<String> {
    let scene = Scene::pair(programs, NatKind::PortRestricted, NatKind::PortRestricted)?;
    let pulse = scene.pulse(0, 1)?;
    pulse.steady(LINK)?;
    scene.crew[0].await_path("b", &DIRECT, LINK).with_context(|| scene.logs())?;
    drop(pulse);
    std::thread::sleep(IDLE);
    let face = scene.lab.face("a")?;
    let before = face.traffic()?;
    std::thread::sleep(WATCHED);
    let seen = face.traffic()?.since(before);
    let (out, came) = (seen.udp_out.packets, seen.udp_in.packets);
    demand(out <= FEW && came <= FEW, || format!("{out} packets out and {came} in within {WATCHED:?}"))?;
    demand(out > 0, || format!("nothing kept the mapping open for {WATCHED:?}"))?;
    // What was kept open serves at once.
    scene.pulse(0, 1)?.steady(LINK).with_context(|| scene.logs())?;
    Ok(format!("{out} packets ({} bytes) out and {came} in within {} s", seen.udp_out.bytes, WATCHED.as_secs()))
}

/// The daemons notice the restart, connect again and get new relayed addresses.
const RELAY_AGAIN: Duration = Duration::from_secs(40);
const IDLE: Duration = Duration::from_secs(60);
const WATCHED: Duration = Duration::from_secs(20);
const FEW: u64 = 12;
