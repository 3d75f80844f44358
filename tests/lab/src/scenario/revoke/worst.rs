//! The worst case: a member that hears from nobody, under a policy of strict freshness.
//!
//! A week cannot be waited for. The judgement is asked of the very code by which a daemon judges, on a log that holds
//! everything but the revocation; how whole machines act on it over days is the simulator's to show.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use ginnel_membership::build::{self, Charter};
use ginnel_membership::record::{Freshness, Policy};
use ginnel_membership::{Admission, Capabilities, Name, Sequencer, Server, ServerKeys, SigningKey, State, TunnelKey};
use ginnel_tunnel::StaticSecret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::Report;
use crate::scenario::guest::random;
use crate::scenario::machine::Programs;

/// Finds the moment from which the member lets nobody new in.
pub(super) fn lease(_: &Programs, report: &mut Report) -> Result<()> {
    let strict = state(Freshness::Strict)?;
    ensure!(strict.member_named(&Name::new("victim")?).is_some(), "the victim is no member in the log without its end");
    ensure!(strict.admitting(BEGUN) == Admission::Fresh, "a fresh lease lets nobody in");
    let mut reach = (BEGUN, BEGUN + 60 * DAY);
    ensure!(strict.admitting(reach.1) == Admission::Closed, "60 days without a lease still let newcomers in");
    while reach.1 - reach.0 > 1 {
        let middle = reach.0.midpoint(reach.1);
        if strict.admitting(middle) == Admission::Closed { reach.1 = middle } else { reach.0 = middle }
    }
    let took = Duration::from_secs(reach.1 - BEGUN);
    ensure!(took <= Duration::from_secs(LIFE * DAY + 1), "only {} days after the lease", took.as_secs() / DAY);
    let warned = state(Freshness::Warn)?.admitting(reach.1);
    ensure!(warned == Admission::Stale, "without strictness a member is {warned:?} then, not warned");
    report.at_worst = format!(
        "a member that no word reaches lets nobody new in from {} days and {} s after the last lease on (strict policy; \
         judged in virtual time), and is warned then otherwise",
        took.as_secs() / DAY,
        took.as_secs() % DAY
    );
    Ok(())
}

/// A log with one lease, the policy, and the member that was revoked meanwhile elsewhere.
fn state(freshness: Freshness) -> Result<State> {
    let mut rng = ChaCha20Rng::from_seed(random());
    let server = SigningKey::from_bytes(&random());
    let secret = || StaticSecret::generate(&mut ChaCha20Rng::from_seed(random()));
    let keys = ServerKeys { signing: server.sequencer_key().to_bytes(), noise: secret().public().to_bytes() };
    let charter = Charter {
        name: Name::new("home")?,
        sequencer: keys.sequencer(),
        servers: vec![Server { addresses: vec!["192.0.2.1:4433".to_owned()], keys }],
        ipv4_range: None,
        now: BEGUN,
    };
    let founded = build::found(&mut rng, charter).context("found a network")?;
    let (network, admin) = (founded.network, &founded.admin);
    let refused = |error| anyhow!("the log refuses a record: {error:?}");
    let (mut log, _) = Sequencer::found(server, BEGUN, &founded.genesis).map_err(refused)?;
    let policy = Policy { number: log.state().next_policy(), freshness, delegates: Vec::new() };
    let invite = SigningKey::from_bytes(&random());
    let tunnel = TunnelKey::from_bytes(secret().public().to_bytes());
    let member = SigningKey::from_bytes(&random());
    for record in [
        build::policy_record(&network, admin, policy).context("make a policy")?,
        build::invite_record(&network, admin, invite.invite_key(), BEGUN + DAY, None),
        build::member_record(&network, &invite, &member, tunnel, Name::new("victim")?, Capabilities::BOTH_SUITES),
    ] {
        log.append(BEGUN, &record).map_err(refused)?;
    }
    let lease = build::lease_record(&network, admin, log.state().head(), BEGUN);
    log.append(BEGUN, &lease).map_err(refused)?;
    Ok(log.state().clone())
}

/// Unix seconds.
const BEGUN: u64 = 1_800_000_000;
const DAY: u64 = 86_400;
/// Days that a lease is good for.
const LIFE: u64 = 7;
