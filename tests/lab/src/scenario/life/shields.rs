//! Shields: flows that others open are refused, answers to own flows pass.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use super::pulse::answers;
use super::scene::{LINK, Member, Scene, demand, until_true};
use crate::nat::NatKind;
use crate::scenario::machine::Programs;
use crate::scenario::probe::transfer;

/// B raises its shields, restarts behind them, and lowers them.
pub(super) fn shields(programs: &Programs) -> Result<String> {
    let mut scene = Scene::pair(programs, NatKind::FullCone, NatKind::FullCone)?;
    scene.pulse(0, 1)?.steady(LINK)?;
    carry(&scene, 0, 1)?;
    scene.crew[1].machine.ginnel(&["up", "--shields-up"])?;
    closed(&scene)?;
    scene.crew[1].machine.end(libc::SIGTERM)?;
    scene.crew[1].machine.start_again()?;
    until_true(LINK, "b reaches a again", || answers(scene.crew[1].host(), scene.crew[0].inner.v4.into()))?;
    closed(&scene).context("after a restart")?;
    scene.crew[1].machine.ginnel(&["up", "--shields-up=false"])?;
    scene.pulse(0, 1)?.steady(LINK).context("shields down").with_context(|| scene.logs())?;
    carry(&scene, 0, 1).context("shields down")?;
    Ok("ping and TCP refused inwards and carried outwards, also after a restart".to_owned())
}

fn closed(scene: &Scene) -> Result<()> {
    let (a, b) = (&scene.crew[0], &scene.crew[1]);
    for to in [b.inner.v4.into(), b.inner.v6] {
        demand(!answers(a.host(), to)?, || format!("{to} answers behind shields"))?;
    }
    demand(!connects(a, b)?, || "TCP to b goes through its shields".to_owned())?;
    for to in [a.inner.v4.into(), a.inner.v6] {
        demand(answers(b.host(), to)?, || format!("b's own ping to {to} is not answered"))?;
    }
    carry(scene, 1, 0).context("b's own TCP behind its shields")
}

/// Whether a TCP connection comes about within a second and a half.
fn connects(from: &Member, to: &Member) -> Result<bool> {
    let listener = to.host().enter(|| TcpListener::bind((to.inner.v4, 0)))?.context("listen inside the network")?;
    let target = listener.local_addr().context("read the listener's port")?;
    from.host().enter(|| TcpStream::connect_timeout(&target, Duration::from_millis(1500)).is_ok())
}

fn carry(scene: &Scene, from: usize, to: usize) -> Result<()> {
    let (from, to) = (&scene.crew[from], &scene.crew[to]);
    transfer(from.host(), (to.host(), to.inner.v4), BYTES, Duration::from_secs(3)).map(drop)
}

const BYTES: usize = 200_000;
