//! The laboratory's checks of itself: is each NAT what it is called, each line as slow, each end as clean?

mod guard;
mod lines;
mod punch;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

pub use self::guard::VICTIM;
pub(crate) use self::guard::run_victim;
use crate::coturn;
use crate::lab::Lab;
use crate::nat::NatKind;
use crate::verify;

/// How one check went.
#[derive(Clone, Debug, Serialize)]
pub struct CaseResult {
    /// Which check.
    pub name: String,
    /// Whether everything promised was found.
    pub pass: bool,
    /// What was found, or what was wrong.
    pub detail: String,
    /// How long it took.
    pub seconds: f64,
}

/// Lists the names of all checks.
pub fn names() -> Vec<String> {
    cases().into_iter().map(|case| case.name).collect()
}

/// Runs the checks whose name contains `filter`, two at a time, and answers in the order of [`names`].
pub fn run_self_checks(filter: &str) -> Vec<CaseResult> {
    let chosen: Vec<Case> = cases().into_iter().filter(|case| case.name.contains(filter)).collect();
    let results: Mutex<Vec<Option<CaseResult>>> = Mutex::new(vec![None; chosen.len()]);
    let waiting = Mutex::new(chosen.iter().enumerate());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((place, case)) = next else { return };
                    let result = case.run();
                    results.lock().unwrap_or_else(PoisonError::into_inner)[place] = Some(result);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
}

struct Case {
    name: String,
    work: Box<dyn Fn() -> Result<String> + Send + Sync>,
}

impl Case {
    fn new(name: impl Into<String>, work: impl Fn() -> Result<String> + Send + Sync + 'static) -> Self {
        Self { name: name.into(), work: Box::new(work) }
    }

    fn run(&self) -> CaseResult {
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.work)()));
        let (pass, detail) = match outcome {
            Ok(Ok(detail)) => (true, detail),
            Ok(Err(error)) => (false, format!("{error:#}")),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("of unknown cause");
                (false, format!("panic: {text}"))
            }
        };
        CaseResult { name: self.name.clone(), pass, detail, seconds: begun.elapsed().as_secs_f64() }
    }
}

fn cases() -> Vec<Case> {
    let nats = NatKind::ALL.map(|kind| Case::new(format!("nat/{kind}"), move || verify::verify_nat(kind)));
    let rest = [
        Case::new("line/routers", lines::routers),
        Case::new("line/delay", lines::delay),
        Case::new("line/lan-has-no-delay", lines::lan_has_no_delay),
        Case::new("line/loss", lines::loss),
        Case::new("line/rate", lines::rate),
        Case::new("line/throughput", lines::throughput),
        Case::new("line/mtu", lines::mtu),
        Case::new("line/ipv6", lines::ipv6),
        Case::new("line/counters", lines::counters),
        Case::new("punch/port-restricted-pair", punch::port_restricted_pair),
        Case::new("punch/symmetric-pair", punch::symmetric_pair),
        Case::new("punch/same-lan", punch::same_lan),
        Case::new("punch/same-nat-hairpin", punch::same_nat_hairpin),
        Case::new("punch/nat-forgets", punch::nat_forgets),
        Case::new("coturn/relay", coturn_relays),
        Case::new("guard/drop", guard::removed_by_drop),
        Case::new("guard/panic", || guard::removed_after(guard::Death::Panic)),
        Case::new("guard/terminate", || guard::removed_after(guard::Death::Terminate)),
        Case::new("guard/kill", || guard::removed_after(guard::Death::Kill)),
        Case::new("guard/stale", guard::stale_is_swept),
    ];
    nats.into_iter().chain(rest).collect()
}

fn coturn_relays() -> Result<String> {
    let lab = Lab::pair(NatKind::PortRestricted, NatKind::Open)?;
    let hub = lab.host("hub")?;
    let _server = coturn::start_relay(&hub, "sesame")?;
    coturn::try_relay(&lab.host("a")?, hub.ipv4(), "sesame")
}

const AT_A_TIME: usize = 2;
