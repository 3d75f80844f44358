//! Every kind of NAT with every kind of NAT: does a link come up, how soon, and is it direct?
//!
//! The verdict is the laboratory's: 10 s after the first packet, 5 MB cross the link, and the packet filters of both
//! sites and of the relay say which way they went.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::machine::{Addresses, Machine, Programs, Server, tail};
use super::probe::{Datagrams, transfer};
use crate::counters::{Direction, Meter};
use crate::host::Host;
use crate::lab::Lab;
use crate::nat::NatKind;
use crate::site::Site;

/// One row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The side that sends first.
    pub a: String,
    /// The other side.
    pub b: String,
    /// Which way a transfer went.
    pub path: Verdict,
    /// From the first packet written until it was read at the other side; absent when none arrived within 10 s.
    pub first_byte_ms: Option<f64>,
    /// From the first packet read until the first data on the direct path; absent when there was none within 10 s.
    pub direct_ms: Option<f64>,
    /// What went wrong, when something did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Which way a transfer went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Less than 1 % of it through the relay.
    Direct,
    /// Through the relay.
    Relay,
    /// Nowhere.
    None,
}

/// The whole table.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// Its rows, in the order of [`combinations`].
    pub pairs: Vec<Row>,
}

/// One row to be tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combination {
    /// Two sites.
    Two(NatKind, NatKind),
    /// Two machines on one network behind one NAT without hairpin.
    SameLan,
    /// Two machines on networks kept apart behind one NAT with hairpin.
    SameNatHairpin,
}

impl Combination {
    /// The names of both sides.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Two(a, b) => (a.name(), b.name()),
            Self::SameLan => ("same-lan", "same-lan"),
            Self::SameNatHairpin => ("same-nat-hairpin", "same-nat-hairpin"),
        }
    }

    /// What the row has to show: a direct path wherever theory finds one without guessing ports.
    pub fn expected(self) -> Verdict {
        use NatKind::{AddressRestricted, FullCone, Open, Symmetric};
        match self {
            Self::Two(Symmetric, other) | Self::Two(other, Symmetric) => {
                // The other side's filter must let a port in that it has not written to.
                let lets_in = matches!(other, Open | FullCone | AddressRestricted);
                if lets_in { Verdict::Direct } else { Verdict::Relay }
            }
            Self::Two(..) | Self::SameLan | Self::SameNatHairpin => Verdict::Direct,
        }
    }
}

/// Every row: the unordered pairs of the kinds, a kind with itself included, and the two rows of one site.
pub fn combinations() -> Vec<Combination> {
    let mut all = Vec::new();
    for (index, a) in KINDS.into_iter().enumerate() {
        all.extend(KINDS[index..].iter().map(|b| Combination::Two(a, *b)));
    }
    all.extend([Combination::SameLan, Combination::SameNatHairpin]);
    all
}

/// Runs `wanted` rows, a few at a time, and calls `tell` for each as it ends.
///
/// # Errors
/// When the programs are missing.
pub fn run(programs: &Programs, wanted: &[Combination], tell: &(dyn Fn(&Row) + Sync)) -> Result<Table> {
    let rows = Mutex::new(BTreeMap::new());
    let queue = Mutex::new(wanted.iter().copied().enumerate());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some((index, combination)) = next else { return };
                    let row = run_one(programs, combination);
                    tell(&row);
                    if let Ok(mut rows) = rows.lock() {
                        rows.insert(index, row);
                    }
                }
            });
        }
    });
    let rows = rows.into_inner().map_err(|_| anyhow::anyhow!("a row panicked"))?;
    if rows.len() != wanted.len() {
        bail!("{} of {} rows were run", rows.len(), wanted.len());
    }
    Ok(Table { pairs: rows.into_values().collect() })
}

/// What a row fails in, if it does.
pub fn complaint(combination: Combination, row: &Row) -> Option<String> {
    if let Some(error) = &row.error {
        return Some(error.clone());
    }
    let expected = combination.expected();
    if row.path != expected {
        return Some(format!("the path is {:?}, not {expected:?}", row.path));
    }
    None
}

fn run_one(programs: &Programs, combination: Combination) -> Row {
    let (a, b) = combination.names();
    let mut row = Row {
        a: a.to_owned(),
        b: b.to_owned(),
        path: Verdict::None,
        first_byte_ms: None,
        direct_ms: None,
        error: None,
    };
    if let Err(error) = measure(programs, combination, &mut row) {
        row.error = Some(format!("{error:#}"));
    }
    row
}

fn measure(programs: &Programs, combination: Combination, row: &mut Row) -> Result<()> {
    let lab = build(combination)?;
    let scene = Scene::set(&lab, combination, programs)?;
    let probe = Datagrams::open((&scene.a.host, scene.inner_a.v4), (&scene.b.host, scene.inner_b.v4))?;
    let direct = scene.direct_meter()?;
    std::thread::sleep(SETTLE);
    let Some(first) = probe.first_byte(LIMIT)? else {
        bail!("nothing arrived; a says:\n{}\nb says:\n{}", tail(&scene.a.log()), tail(&scene.b.log()));
    };
    row.first_byte_ms = Some(millis(first));
    let begun = Instant::now();
    let mut number = 1;
    while begun.elapsed() < PAUSE {
        probe.send(number)?;
        number += 1;
        if row.direct_ms.is_none() && direct.read().is_ok_and(|count| count.packets > 0) {
            row.direct_ms = Some(millis(begun.elapsed()));
        }
        let wait = if row.direct_ms.is_some() { 50 } else { 10 };
        let next = Instant::now() + Duration::from_millis(wait);
        while Instant::now() < next {
            probe.receive();
        }
    }
    row.path = scene.verdict(&lab, combination)?;
    if LONG.contains(&combination) {
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            probe.send(number)?;
            number += 1;
            std::thread::sleep(Duration::from_millis(500));
        }
        let later = scene.verdict(&lab, combination)?;
        if later != row.path {
            bail!("the path was {:?}, and {later:?} a minute later", row.path);
        }
    }
    if row.path != combination.expected() {
        bail!("{:?}; a says:\n{}\nb says:\n{}", row.path, tail(&scene.a.log()), tail(&scene.b.log()));
    }
    Ok(())
}

fn build(combination: Combination) -> Result<Lab> {
    match combination {
        Combination::Two(a, b) => Lab::builder()
            .site(Site::new("a", a).lan_number(1))
            .site(Site::new("b", b).lan_number(2))
            .site(Site::server("hub"))
            .build(),
        Combination::SameLan => Lab::same_lan(),
        Combination::SameNatHairpin => Lab::same_nat_hairpin(),
    }
}

/// Two joined machines and their server.
struct Scene {
    a: Machine,
    b: Machine,
    inner_a: Addresses,
    inner_b: Addresses,
    hub: Host,
    server: Server,
}

impl Scene {
    fn set(lab: &Lab, combination: Combination, programs: &Programs) -> Result<Self> {
        let hub = lab.host("hub")?;
        let server = Server::start(&hub, programs)?;
        let (host_a, host_b) = match combination {
            Combination::Two(..) => (lab.host("a")?, lab.host("b")?),
            Combination::SameLan | Combination::SameNatHairpin => (lab.host_at("a", 0)?, lab.host_at("a", 1)?),
        };
        let a = Machine::start(&host_a, programs)?;
        let b = Machine::start(&host_b, programs)?;
        let told = || format!("the server says:\n{}", tail(&server.log()));
        let inner_a = a.up(&server.founding, "a").with_context(told)?;
        let inner_b = b.up(&a.invite()?, "b").with_context(told)?;
        a.wait_for_peers(1)?;
        b.wait_for_peers(1)?;
        Ok(Self { a, b, inner_a, inner_b, hub, server })
    }

    /// A counter of data (not of probes, which are short) that leaves A and does not go to the relay.
    fn direct_meter(&self) -> Result<Meter> {
        let hub = self.hub.ipv4();
        self.a.host.count_bytes(Direction::Out, &format!("ip daddr != {hub} udp length > 600"))
    }

    fn verdict(&self, lab: &Lab, combination: Combination) -> Result<Verdict> {
        let faces = match combination {
            Combination::Two(..) => vec![lab.face("a")?, lab.face("b")?],
            Combination::SameLan | Combination::SameNatHairpin => Vec::new(),
        };
        let before: Vec<_> = faces.iter().map(Host::traffic).collect::<Result<_>>()?;
        let relay_before = self.hub.traffic()?;
        transfer(&self.a.host, (&self.b.host, self.inner_b.v4), TRANSFER, LIMIT * 3).with_context(|| {
            format!(
                "a says:\n{}\nb says:\n{}\nthe server says:\n{}",
                tail(&self.a.log()),
                tail(&self.b.log()),
                tail(&self.server.log())
            )
        })?;
        let relayed = self.hub.traffic()?.since(relay_before).udp_bytes();
        for (face, before) in faces.iter().zip(before) {
            let crossed = face.traffic()?.since(before).udp_bytes();
            if crossed < TRANSFER as u64 {
                bail!("only {crossed} bytes crossed {}", face.name());
            }
        }
        Ok(if relayed * 100 < TRANSFER as u64 { Verdict::Direct } else { Verdict::Relay })
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

/// The kinds of the table.
pub const KINDS: [NatKind; 7] = [
    NatKind::Open,
    NatKind::FullCone,
    NatKind::AddressRestricted,
    NatKind::PortRestricted,
    NatKind::PortRestrictedAccepting,
    NatKind::Symmetric,
    NatKind::DoubleNat,
];

/// Rows whose path is looked at once more after a minute.
const LONG: [Combination; 3] = [
    Combination::Two(NatKind::PortRestricted, NatKind::PortRestricted),
    Combination::Two(NatKind::PortRestrictedAccepting, NatKind::PortRestrictedAccepting),
    Combination::Two(NatKind::AddressRestricted, NatKind::Symmetric),
];
const AT_ONCE: usize = 3;
/// How long both machines are idle before the first packet.
const SETTLE: Duration = Duration::from_millis(1500);
const LIMIT: Duration = Duration::from_secs(10);
/// From the first byte to the transfer that gives the verdict.
const PAUSE: Duration = Duration::from_secs(10);
const TRANSFER: usize = 5_000_000;
