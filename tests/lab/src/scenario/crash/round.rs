//! One round: a victim dies, is started again, and everything is looked at.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::Report;
use super::kept::Kept;
use crate::nat::NatKind;
use crate::scenario::guest::random;
use crate::scenario::machine::Programs;
use crate::scenario::scene::{DIRECT, LINK, Scene, until};
use crate::scenario::two_way::TwoWay;

/// Who dies next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    /// The daemon of the machine with this number.
    Daemon(usize),
    Server,
}

/// Two machines behind cone NATs and a server.
pub(super) struct Arena {
    scene: Scene,
    link: TwoWay,
    rng: ChaCha20Rng,
    kept: [Kept; 2],
    /// Invites that somebody was told are made.
    acknowledged: Vec<String>,
}

impl Arena {
    pub(super) fn build(programs: &Programs) -> Result<Self> {
        let scene = Scene::pair(programs, NatKind::PortRestricted, NatKind::PortRestricted)?;
        scene.pulse(0, 1)?.steady(LINK)?;
        scene.crew[0].await_path("b", &DIRECT, LINK).with_context(|| scene.logs())?;
        let link = TwoWay::open(&scene.crew[0], &scene.crew[1])?;
        let kept = [Kept::of(&scene.crew[0])?, Kept::of(&scene.crew[1])?];
        let rng = ChaCha20Rng::from_seed(random());
        Ok(Self { scene, link, rng, kept, acknowledged: Vec::new() })
    }

    pub(super) fn logs(&self) -> String {
        self.scene.logs()
    }

    /// Who dies next.
    pub(super) fn fate(&mut self) -> Victim {
        match self.rng.next_u32() % 3 {
            0 => Victim::Server,
            who => Victim::Daemon(who as usize - 1),
        }
    }

    /// Kills a daemon, perhaps once more while it starts, and answers how long packets both ways took from its last start.
    pub(super) fn kill_daemon(&mut self, who: usize, report: &mut Report) -> Result<Duration> {
        let asked = who == 0 && self.rng.next_u32().is_multiple_of(2);
        let pause = self.up_to(PAUSE);
        let machine = &self.scene.crew[who].machine;
        let made = while_asking(asked.then_some(|| self.scene.crew[0].machine.invite()), || {
            std::thread::sleep(pause);
            machine.end(libc::SIGKILL)
        })?;
        report.kills += 1;
        report.kills_in_write += u64::from(asked);
        self.note(made);
        self.scene.crew[who].machine.begin_again()?;
        if self.rng.next_u32().is_multiple_of(2) {
            std::thread::sleep(self.up_to(PAUSE));
            self.scene.crew[who].machine.end(libc::SIGKILL)?;
            report.kills += 1;
            report.kills_in_start += 1;
            self.scene.crew[who].machine.begin_again()?;
        }
        let took = self.link.both_ways(LINK).with_context(|| format!("after the death of daemon {who}"))?;
        self.scene.crew[who].machine.wait_until_it_answers()?;
        self.look(report)?;
        Ok(took)
    }

    /// Kills the server, perhaps once more while it starts; answers the longest silence of the link meanwhile, and how
    /// long the server took from its last start to the first record that it took.
    pub(super) fn kill_server(&mut self, report: &mut Report) -> Result<(Duration, Duration)> {
        let asked = self.rng.next_u32().is_multiple_of(2);
        let pause = self.up_to(PAUSE);
        let server = &self.scene.server;
        let made = while_asking(asked.then_some(|| self.scene.crew[0].machine.invite()), || {
            std::thread::sleep(pause);
            server.end(libc::SIGKILL)
        })?;
        report.kills += 1;
        report.kills_in_write += u64::from(asked);
        self.note(made);
        let mut begun = Instant::now();
        self.scene.server.begin_again()?;
        let mut silence = self.link.silence(SILENCE)?;
        if self.rng.next_u32().is_multiple_of(2) {
            std::thread::sleep(self.up_to(PAUSE));
            self.scene.server.end(libc::SIGKILL)?;
            report.kills += 1;
            report.kills_in_start += 1;
            begun = Instant::now();
            self.scene.server.begin_again()?;
            silence = silence.max(self.link.silence(SILENCE)?);
        }
        let ticket = until(SERVES, || Ok(self.scene.crew[0].machine.invite().ok()))?;
        let took = begun.elapsed();
        let ticket = ticket.with_context(|| format!("the server takes no record {SERVES:?} after its start"))?;
        self.note(Some(ticket));
        self.look(report)?;
        Ok((silence, took))
    }

    /// Compares both machines with what they were.
    fn look(&mut self, report: &mut Report) -> Result<()> {
        // The second machine learns of entries while the first already has them.
        let mut now = [Kept::of(&self.scene.crew[0])?, Kept::of(&self.scene.crew[1])?];
        for (who, now) in now.iter_mut().enumerate() {
            let before = &self.kept[who];
            let settled = until(SETTLE, || {
                let seen = Kept::of(&self.scene.crew[who])?;
                Ok(seen.lost_since(before).is_empty().then_some(seen))
            })?;
            match settled {
                Some(seen) => *now = seen,
                None => {
                    let name = &self.scene.crew[who].name;
                    report.lost.extend(now.lost_since(before).into_iter().map(|lost| format!("{name}: {lost}")));
                }
            }
            report.looks += 1;
        }
        for id in std::mem::take(&mut self.acknowledged) {
            let held = until(SETTLE, || {
                let listed = self.scene.crew[0].machine.ginnel(&["invite", "list"])?;
                let found =
                    listed["invites"].as_array().into_iter().flatten().any(|invite| invite["id"] == id.as_str());
                Ok(found.then_some(()))
            })?;
            match held {
                Some(()) => report.acknowledged += 1,
                None => report.lost.push(format!("the acknowledged invite {id}")),
            }
        }
        self.kept = now;
        Ok(())
    }

    /// Notes an invite that was acknowledged.
    fn note(&mut self, ticket: Option<String>) {
        let invite = ticket.and_then(|ticket| ticket.parse::<ginnel_membership::invite::Invite>().ok());
        self.acknowledged.extend(invite.map(|invite| invite.invite_key().to_string()));
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        let millis = u64::from(self.rng.next_u32()) % u64::try_from(most.as_millis()).unwrap_or(1).max(1);
        Duration::from_millis(millis)
    }
}

/// Does `work` while, if wanted, somebody asks for a record; answers what was acknowledged.
fn while_asking(
    ask: Option<impl Fn() -> Result<String> + Send>,
    work: impl FnOnce() -> Result<()>,
) -> Result<Option<String>> {
    std::thread::scope(|scope| {
        // It may well fail: whoever it asks dies meanwhile.
        let asking = ask.map(|ask| scope.spawn(move || ask().ok()));
        work()?;
        let made = asking.map(|asking| asking.join().map_err(|_| anyhow::anyhow!("the one who asks panicked")));
        Ok(made.transpose()?.flatten())
    })
}

/// The longest pause between a start and a kill.
const PAUSE: Duration = Duration::from_millis(400);
/// How long the link is listened to after the death of a server.
const SILENCE: Duration = Duration::from_millis(300);
/// How long a server and the one who asks it may take to come together again.
const SERVES: Duration = Duration::from_secs(60);
/// How long a machine that has just started may take to show its members.
const SETTLE: Duration = Duration::from_secs(3);
