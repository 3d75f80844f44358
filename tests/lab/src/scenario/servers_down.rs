//! Signaling and relay are dead: direct links carry on, daemons that restart find each other again, and a pair that
//! cannot says why it waits.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::machine::Programs;
use super::pulse::unix_now;
use super::scene::{DIRECT, LINK, Scene, until};
use super::times::{Times, millis};
use super::two_way::TwoWay;
use crate::measure::{Load, Protocol, Towards, iperf3};
use crate::nat::NatKind;
use crate::site::Site;

/// What a run found. All of it happened while every server was dead.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How long the direct link was watched, in seconds.
    pub watched_seconds: u64,
    /// Pings sent over it meanwhile, counted by the watch of ten a second.
    pub pings: usize,
    /// The longest time without an answer, in milliseconds.
    pub longest_gap_ms: u64,
    /// Throughput at the end, in Mbit/s, there and back.
    pub mbps: [f64; 2],
    /// One daemon restarted: from its start to packets both ways.
    pub one_restarted: Times,
    /// Both restarted, while the NATs kept their mappings.
    pub both_restarted: Times,
    /// Both restarted, while the NATs had forgotten every flow; they keep ports.
    pub both_restarted_afresh: Times,
    /// Why a pair that needs a relay waits, as both sides say.
    pub why_waiting: Vec<String>,
    /// What went wrong.
    pub failures: Vec<String>,
}

/// Watches the direct link for `watch`; `tell` gets a line for each step.
///
/// # Errors
/// When the network cannot be built.
pub fn run(programs: &Programs, watch: Duration, tell: &dyn Fn(&str)) -> Result<Report> {
    let sites = vec![
        Site::new("a", NatKind::PortRestricted),
        Site::new("b", NatKind::PortRestricted),
        Site::new("far", NatKind::Symmetric),
    ];
    let mut scene = Scene::set(programs, sites)?;
    for (from, to) in [(0, 1), (0, 2)] {
        scene.pulse(from, to)?.steady(LINK).with_context(|| scene.logs())?;
    }
    scene.crew[0].await_path("b", &DIRECT, LINK).with_context(|| scene.logs())?;
    scene.crew[0].await_path("far", &["turn-udp"], LINK).with_context(|| scene.logs())?;
    // What is written down about links is written with a delay.
    std::thread::sleep(WRITTEN);
    scene.server.end(libc::SIGKILL)?;
    tell("signaling and relay are dead");
    let mut report = Report::default();
    let steps: [(&str, Step); 4] = [
        ("the direct link carries on", |scene, report, watch| carries_on(scene, report, watch)),
        ("one daemon restarts", |scene, report, _| restarts(scene, report)),
        ("both daemons restart", |scene, report, _| both_restart(scene, report)),
        ("a pair that needs a relay says why it waits", |scene, report, _| says_why(scene, report)),
    ];
    for (name, step) in steps {
        match step(&mut scene, &mut report, watch) {
            Ok(()) => tell(&format!("pass {name}")),
            Err(error) => {
                tell(&format!("FAIL {name}: {error:#}"));
                report.failures.push(format!("{name}: {error:#}\n{}", scene.logs()));
            }
        }
    }
    Ok(report)
}

type Step = fn(&mut Scene, &mut Report, Duration) -> Result<()>;

fn carries_on(scene: &Scene, report: &mut Report, watch: Duration) -> Result<()> {
    let began = unix_now();
    let pulses = [scene.pulse(0, 1)?, scene.pulse(1, 0)?];
    std::thread::sleep(watch);
    for pulse in pulses {
        let gap = pulse.gap_since(began, Duration::ZERO, watch + LINK)?;
        report.longest_gap_ms = report.longest_gap_ms.max(millis(gap));
        report.pings += pulse.answers_since(began);
    }
    report.watched_seconds = watch.as_secs();
    let path = scene.crew[0].path("b")?;
    ensure!(DIRECT.contains(&path.as_str()), "the path is {path}");
    ensure!(report.longest_gap_ms < GAP, "a gap of {} ms", report.longest_gap_ms);
    let (a, b) = (&scene.crew[0], &scene.crew[1]);
    for (place, towards) in [Towards::Server, Towards::Client].into_iter().enumerate() {
        let load = Load { protocol: Protocol::Tcp, duration: Duration::from_secs(2), towards, streams: 1 };
        let flow = iperf3(a.host(), b.host(), b.inner.v4.into(), load)?;
        report.mbps[place] = (flow.bits_per_second / 1e5).round() / 10.0;
    }
    ensure!(report.mbps.iter().all(|mbps| *mbps > SLOW), "only {:?} Mbit/s", report.mbps);
    Ok(())
}

/// One daemon at a time, killed, and started after a while.
fn restarts(scene: &mut Scene, report: &mut Report) -> Result<()> {
    let mut link = TwoWay::open(&scene.crew[0], &scene.crew[1])?;
    let mut times = Vec::new();
    for (who, pause) in [(0, 0), (1, 0), (0, 2), (1, 5), (0, 19)] {
        let machine = &mut scene.crew[who].machine;
        machine.end(libc::SIGKILL)?;
        std::thread::sleep(Duration::from_secs(pause));
        machine.begin_again()?;
        times.push(millis(link.both_ways(LINK * 2).with_context(|| format!("machine {who}, {pause} s later"))?));
        scene.crew[who].machine.wait_until_it_answers()?;
        // As long as a machine of life would run at least, so that this link is the one that is remembered.
        std::thread::sleep(WRITTEN);
    }
    report.one_restarted = Times::of(times);
    within(&report.one_restarted)
}

fn both_restart(scene: &mut Scene, report: &mut Report) -> Result<()> {
    let mut link = TwoWay::open(&scene.crew[0], &scene.crew[1])?;
    let [mut kept, mut afresh] = [Vec::new(), Vec::new()];
    for round in 0..2 * BOTH {
        for who in [0, 1] {
            scene.crew[who].machine.end(libc::SIGKILL)?;
        }
        let forget = round % 2 == 1;
        if forget {
            for site in ["a", "b"] {
                scene.lab.nat(site)?.forget_flows()?;
            }
        }
        for who in [0, 1] {
            scene.crew[who].machine.begin_again()?;
        }
        let took = link.both_ways(LINK * 2).with_context(|| format!("round {round}"))?;
        if forget { &mut afresh } else { &mut kept }.push(millis(took));
        for who in [0, 1] {
            scene.crew[who].machine.wait_until_it_answers()?;
        }
        std::thread::sleep(WRITTEN);
    }
    (report.both_restarted, report.both_restarted_afresh) = (Times::of(kept), Times::of(afresh));
    within(&report.both_restarted)?;
    within(&report.both_restarted_afresh)
}

/// The pair whose relay is dead, while both sides want to talk.
fn says_why(scene: &Scene, report: &mut Report) -> Result<()> {
    let pulses = [scene.pulse(0, 2)?, scene.pulse(2, 0)?];
    for (who, other) in [(0, "far"), (2, "a")] {
        let member = &scene.crew[who];
        let said = until(SAYS, || {
            let network = member.network()?;
            let peer = network["peers"].as_array().into_iter().flatten().find(|peer| peer["name"] == other).cloned();
            let peer = peer.with_context(|| format!("{} does not know {other}", member.name))?;
            Ok(peer["waiting"].as_str().filter(|text| !text.is_empty()).map(str::to_owned))
        })?;
        let said = said.with_context(|| format!("{} does not say why it waits for {other}", member.name))?;
        report.why_waiting.push(format!("{} for {other}: {said}", member.name));
    }
    let began = unix_now();
    std::thread::sleep(Duration::from_secs(1));
    let answers: usize = pulses.iter().map(|pulse| pulse.answers_since(began)).sum();
    ensure!(answers == 0, "{answers} answers came all the same, so nobody had to wait");
    Ok(())
}

fn within(times: &Times) -> Result<()> {
    ensure!(times.max <= BACK, "{} ms, more than {BACK}", times.max);
    Ok(())
}

impl Report {
    /// What is wrong, one line for each.
    pub fn complaints(&self) -> Vec<String> {
        self.failures.clone()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "direct link, {} s: {} pings answered, longest gap {} ms; then {} and {} Mbit/s",
            self.watched_seconds, self.pings, self.longest_gap_ms, self.mbps[0], self.mbps[1]
        )?;
        writeln!(f, "one daemon restarted                  {}", self.one_restarted)?;
        writeln!(f, "both restarted, NATs remember         {}", self.both_restarted)?;
        writeln!(f, "both restarted, NATs have forgotten   {}", self.both_restarted_afresh)?;
        write!(f, "waiting: {}", self.why_waiting.join("; "))
    }
}

/// The promise of a restart, in milliseconds.
const BACK: u64 = 5_000;
/// The longest gap of a link that nothing happens to, in milliseconds; a busy machine stops for so long.
const GAP: u64 = 3_000;
/// Mbit/s that any link exceeds.
const SLOW: f64 = 5.0;
/// Restarts of both, of each sort.
const BOTH: usize = 3;
/// How long a machine may take to write down where it reached a peer.
const WRITTEN: Duration = Duration::from_secs(3);
/// How long a machine may take to know why it waits.
const SAYS: Duration = Duration::from_secs(45);
