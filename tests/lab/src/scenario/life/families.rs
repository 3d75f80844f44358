//! Both address families at once.

use std::time::Duration;

use anyhow::{Context, Result};

use super::scene::{DIRECT, LINK, Scene, demand};
use crate::counters::Direction;
use crate::nat::NatKind;
use crate::scenario::machine::Programs;
use crate::scenario::probe::transfer;
use crate::site::{Family, Site};

/// Two homes with IPv4 behind a NAT and IPv6 behind a filter: one of them goes direct.
pub(super) fn either(programs: &Programs) -> Result<String> {
    let scene = dual(programs, NatKind::PortRestricted)?;
    scene.pulse(0, 1)?.steady(LINK)?;
    let took = scene.crew[0].await_path("b", &DIRECT, LINK).with_context(|| scene.logs())?;
    Ok(format!("{} after {:.1} s", scene.crew[0].path("b")?, took.as_secs_f64()))
}

/// Where IPv4 cannot be direct, IPv6 is, and carries the data.
pub(super) fn only_v6_direct(programs: &Programs) -> Result<String> {
    let scene = dual(programs, NatKind::Symmetric)?;
    let (a, b) = (&scene.crew[0], &scene.crew[1]);
    scene.pulse(0, 1)?.steady(LINK)?;
    let took = a.await_path("b", &["direct6"], LINK).with_context(|| scene.logs())?;
    b.await_path("a", &["direct6"], LINK).with_context(|| scene.logs())?;
    let meter = a.host().count_bytes(Direction::Out, "meta nfproto ipv6 udp length > 600")?;
    let hub = scene.hub.traffic()?;
    transfer(a.host(), (b.host(), b.inner.v4), BYTES, Duration::from_secs(20))?;
    let (over_v6, relayed) = (meter.read()?.bytes, scene.hub.traffic()?.since(hub).udp_bytes());
    demand(over_v6 >= BYTES as u64 && relayed * 20 < BYTES as u64, || {
        format!("of {BYTES} bytes {over_v6} went over IPv6, and the server saw {relayed}")
    })?;
    Ok(format!("direct6 after {:.1} s, {} KB over IPv6", took.as_secs_f64(), over_v6 / 1000))
}

/// A machine that reaches its server by IPv6 alone still learns its IPv4 mapping, and meets a machine without IPv6.
pub(super) fn server_by_v6(programs: &Programs) -> Result<String> {
    let both = Site::new("a", NatKind::PortRestricted).family(Family::Dual);
    let mut scene = Scene::set(programs, vec![both, Site::new("b", NatKind::PortRestricted)])?;
    scene.crew[0].machine.end(libc::SIGTERM)?;
    scene.crew[0].host().nft(
        "table inet no_quic4 {\nchain out { type filter hook output priority filter;\n\
         meta nfproto ipv4 udp dport 4433 drop\n}\n}\n",
    )?;
    let before = scene.crew[0].host().count_bytes(Direction::Out, "meta nfproto ipv6 udp dport 4433")?;
    scene.crew[0].machine.start_again()?;
    scene.pulse(0, 1)?.steady(LINK).with_context(|| scene.logs())?;
    let took = scene.crew[0].await_path("b", &["direct4"], LINK).with_context(|| scene.logs())?;
    demand(before.read()?.packets > 0, || "the server was not reached by IPv6".to_owned())?;
    Ok(format!("direct4 after {:.1} s", took.as_secs_f64()))
}

fn dual(programs: &Programs, a: NatKind) -> Result<Scene> {
    let site = |name, kind| Site::new(name, kind).family(Family::Dual);
    Scene::set(programs, vec![site("a", a), site("b", NatKind::PortRestricted)])
}

const BYTES: usize = 2_000_000;
