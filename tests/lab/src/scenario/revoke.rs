//! How soon a revocation takes effect: through a server, through tunnels while every server is dead, and at worst.

mod worst;

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Serialize;

use super::machine::Programs;
use super::pulse::{Pulse, unix_now};
use super::scene::{DIRECT, LINK, Member, Scene, until};
use super::times::{Times, millis};
use crate::nat::NatKind;
use crate::site::Site;

/// What a run found. Each time is from the admin's `ginnel revoke` until a member that is not the admin neither answers
/// the revoked one nor lists it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// With the server up.
    pub through_a_server: Times,
    /// With every server dead, at members linked with the admin.
    pub through_tunnels: Times,
    /// With every server dead, at a member that no word of the admin's reaches but through another member.
    pub through_a_third: Times,
    /// What a member that nobody tells does, in words.
    pub at_worst: String,
    /// What went wrong.
    pub failures: Vec<String>,
}

/// Runs everything; `tell` gets a line for each step.
///
/// # Errors
/// Never by a broken promise: that is in the report.
pub fn run(programs: &Programs, tell: &dyn Fn(&str)) -> Result<Report> {
    let mut report = Report::default();
    let steps: [(&str, Step); 3] =
        [("through a server", server), ("through tunnels", tunnels), ("at worst, by the lease", worst::lease)];
    for (name, step) in steps {
        match step(programs, &mut report) {
            Ok(()) => tell(&format!("pass {name}")),
            Err(error) => {
                tell(&format!("FAIL {name}: {error:#}"));
                report.failures.push(format!("{name}: {error:#}"));
            }
        }
    }
    Ok(report)
}

type Step = fn(&Programs, &mut Report) -> Result<()>;

fn site(name: &str) -> Site {
    Site::new(name, NatKind::PortRestricted)
}

/// Several members, revoked one after the other.
fn server(programs: &Programs, report: &mut Report) -> Result<()> {
    let sites = ["a", "b", "x", "y", "z"].map(site);
    let scene = Scene::set(programs, sites.into())?;
    let mut times = Vec::new();
    for who in [2, 3, 4] {
        let watch = Watch::start(&scene, &[1], who)?;
        let began = unix_now();
        scene.crew[0].machine.ginnel(&["revoke", &scene.crew[who].name, "--yes"])?;
        let took = watch.over(began, SERVER).with_context(|| scene.logs())?;
        times.extend(took.into_iter().map(millis));
    }
    report.through_a_server = Times::of(times);
    within(&report.through_a_server, SERVER)
}

/// The server is dead, and one member hears from the admin only through another.
fn tunnels(programs: &Programs, report: &mut Report) -> Result<()> {
    let sites = ["a", "b", "far", "x", "y"].map(site);
    let scene = Scene::set(programs, sites.into())?;
    let (admin, far) = (&scene.crew[0], &scene.crew[2]);
    // The admin and the far member are cut off from each other, and both talk with the one between.
    for (member, other) in [("a", "far"), ("far", "a")] {
        let outer = scene.lab.nat(other)?.ipv4();
        scene.lab.host(member)?.nft(&format!(
            "table inet cut {{ chain in {{ type filter hook input priority 0; ip saddr {outer} drop; }}; \
             chain out {{ type filter hook output priority 0; ip daddr {outer} drop; }}; }}\n"
        ))?;
    }
    let between = [scene.pulse(0, 1)?, scene.pulse(2, 1)?];
    between.iter().try_for_each(|pulse| pulse.steady(LINK))?;
    for (one, other) in [(admin, "b"), (far, "b")] {
        one.await_path(other, &DIRECT, LINK).with_context(|| scene.logs())?;
    }
    let watches = [(3, Watch::start(&scene, &[1, 2], 3)?), (4, Watch::start(&scene, &[1, 2], 4)?)];
    for (who, watch) in &watches {
        for member in watch.members() {
            member.await_path(&scene.crew[*who].name, &DIRECT, LINK).with_context(|| scene.logs())?;
        }
    }
    scene.server.end(libc::SIGKILL)?;
    let [mut near, mut third] = [Vec::new(), Vec::new()];
    for (who, watch) in &watches {
        let began = unix_now();
        // The verb may well say that the record waits for a server; what counts is what members do meanwhile.
        let (said, took) = std::thread::scope(|scope| {
            let verb = scope.spawn(|| admin.machine.run(&["revoke", &scene.crew[*who].name, "--yes"]));
            let took = watch.over(began, TUNNELS);
            (verb.join(), took)
        });
        let said = said.map_err(|_| anyhow!("the one who revokes panicked"))??;
        let took = took.with_context(|| format!("{}{}\n{}", said.stdout, said.stderr, scene.logs()))?;
        let [at_b, at_far] = took[..] else { bail!("two members were watched") };
        near.push(millis(at_b));
        third.push(millis(at_far));
    }
    (report.through_tunnels, report.through_a_third) = (Times::of(near), Times::of(third));
    within(&report.through_tunnels, TUNNELS)?;
    within(&report.through_a_third, TUNNELS)
}

/// An eye on members who talk with one that is to be revoked.
struct Watch<'a> {
    eyes: Vec<Eye<'a>>,
    name: String,
}

/// One member, and the pings between it and the one to be revoked.
struct Eye<'a> {
    member: &'a Member,
    pulses: [Pulse; 2],
}

impl<'a> Watch<'a> {
    /// Waits until everybody's pings are answered.
    fn start(scene: &'a Scene, members: &[usize], revoked: usize) -> Result<Self> {
        let eye = |member: &usize| -> Result<Eye<'a>> {
            let pulses = [scene.pulse(*member, revoked)?, scene.pulse(revoked, *member)?];
            Ok(Eye { member: &scene.crew[*member], pulses })
        };
        let eyes: Vec<Eye<'a>> = members.iter().map(eye).collect::<Result<_>>()?;
        for eye in &eyes {
            eye.pulses.iter().try_for_each(|pulse| pulse.steady(LINK)).with_context(|| scene.logs())?;
        }
        Ok(Self { eyes, name: scene.crew[revoked].name.clone() })
    }

    fn members(&self) -> impl Iterator<Item = &'a Member> {
        self.eyes.iter().map(|eye| eye.member)
    }

    /// For each member, how long after `began` it was done with the revoked one: no longer listed, the last ping answered.
    fn over(&self, began: Duration, limit: Duration) -> Result<Vec<Duration>> {
        let since = || unix_now().saturating_sub(began);
        let mut unlisted: Vec<Option<Duration>> = vec![None; self.eyes.len()];
        until(limit, || {
            for (eye, unlisted) in self.eyes.iter().zip(&mut unlisted) {
                if unlisted.is_none() && eye.member.peer(&self.name)?.is_none() {
                    *unlisted = Some(since());
                }
            }
            Ok(unlisted.iter().all(Option::is_some).then_some(()))
        })?;
        let quiet = unix_now();
        std::thread::sleep(AFTERWARDS);
        let mut took = Vec::new();
        for (eye, unlisted) in self.eyes.iter().zip(unlisted) {
            let name = &eye.member.name;
            let unlisted = unlisted.with_context(|| format!("{name} still lists {} {limit:?} later", self.name))?;
            let late: usize = eye.pulses.iter().map(|pulse| pulse.answers_since(quiet)).sum();
            ensure!(late == 0, "{late} pings between {name} and {} were answered afterwards", self.name);
            let last = eye.pulses.iter().filter_map(Pulse::last_answer).max().unwrap_or_default();
            took.push(unlisted.max(last.saturating_sub(began)));
        }
        Ok(took)
    }
}

fn within(times: &Times, limit: Duration) -> Result<()> {
    ensure!(times.max <= millis(limit), "{} ms, more than {limit:?}", times.max);
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
        writeln!(f, "through a server (at most 5 s)        {}", self.through_a_server)?;
        writeln!(f, "through tunnels (at most 60 s)        {}", self.through_tunnels)?;
        writeln!(f, "through a third member (the same)     {}", self.through_a_third)?;
        write!(f, "at worst: {}", self.at_worst)
    }
}

const SERVER: Duration = Duration::from_secs(5);
const TUNNELS: Duration = Duration::from_secs(60);
/// How long nothing may be answered once a member is done with the revoked one.
const AFTERWARDS: Duration = Duration::from_secs(2);
