//! Many machines at once.

use std::time::Duration;

use anyhow::{Context, Result};

use super::pulse::{Pulse, unix_now};
use super::scene::{LINK, Scene};
use crate::nat::NatKind;
use crate::scenario::machine::Programs;
use crate::site::Site;

/// Four machines behind four sorts of NAT; as soon as the last has joined, each pings each.
pub(super) fn four_at_once(programs: &Programs) -> Result<String> {
    let kinds = [NatKind::PortRestricted, NatKind::FullCone, NatKind::Symmetric, NatKind::DoubleNat];
    let sites = ["a", "b", "c", "d"].into_iter().zip(kinds).map(|(name, kind)| Site::new(name, kind)).collect();
    let scene = Scene::set(programs, sites)?;
    let begun = unix_now();
    let all: Vec<Pulse> = (0..kinds.len())
        .flat_map(|from| (0..kinds.len()).map(move |to| (from, to)))
        .filter(|(from, to)| from != to)
        .map(|(from, to)| scene.pulse(from, to))
        .collect::<Result<_>>()?;
    let mut slowest = Duration::ZERO;
    for pulse in &all {
        pulse.gap_since(begun, Duration::ZERO, LINK).with_context(|| scene.logs())?;
        let first = pulse.first_answer_after(begun).context("steady without an answer")?;
        slowest = slowest.max(first.saturating_sub(begun));
    }
    Ok(format!("{} streams, the slowest first answer after {:.2} s", all.len(), slowest.as_secs_f64()))
}
