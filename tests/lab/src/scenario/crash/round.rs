//! One round: a victim dies, is started again, and everything is looked at.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ginnel_membership::{Invite, InviteKey};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::kept::Kept;
use super::{LIMIT, Report};
use crate::nat::NatKind;
use crate::scenario::disk::OnDisk;
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
    promises: Promises,
    /// How long the last record took that nobody's death came between.
    asking: Duration,
}

/// Invites that somebody was told are made.
#[derive(Default)]
struct Promises {
    /// All of them.
    all: BTreeSet<InviteKey>,
    /// Those that the founder has not been asked for since.
    to_look_for: Vec<InviteKey>,
    /// Those that a dead server's database was found to hold.
    on_disk: BTreeSet<InviteKey>,
}

impl Arena {
    pub(super) fn build(programs: &Programs) -> Result<Self> {
        let scene = Scene::pair(programs, NatKind::PortRestricted, NatKind::PortRestricted)?;
        scene.pulse(0, 1)?.steady(LINK)?;
        scene.crew[0].await_path("b", &DIRECT, LINK).with_context(|| scene.logs())?;
        let link = TwoWay::open(&scene.crew[0], &scene.crew[1])?;
        let kept = [Kept::of(&scene.crew[0])?, Kept::of(&scene.crew[1])?];
        let rng = ChaCha20Rng::from_seed(random());
        let begun = Instant::now();
        scene.crew[0].machine.invite()?;
        let asking = begun.elapsed();
        Ok(Self { scene, link, rng, kept, promises: Promises::default(), asking })
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
        let asks = who == 0 && self.rng.next_u32().is_multiple_of(2);
        let pause = self.pause(asks);
        let machine = &self.scene.crew[who].machine;
        let asked =
            while_asking(asks.then_some(|| self.scene.crew[0].machine.invite()), pause, || machine.end(libc::SIGKILL))?;
        report.kills += 1;
        self.note(asked, report);
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

    /// Kills the server, perhaps once more while it starts; answers the longest silence of the link from before the kill
    /// until [`AFTER`] the last start, and how long the server took from that to the first record that it took.
    pub(super) fn kill_server(&mut self, report: &mut Report) -> Result<(Duration, Duration)> {
        let asks = self.rng.next_u32().is_multiple_of(2);
        let pause = self.pause(asks);
        let again = self.rng.next_u32().is_multiple_of(2).then(|| self.up_to(PAUSE));
        let over = AtomicBool::new(false);
        let Self { scene, link, promises, asking, .. } = self;
        let (silence, took) = std::thread::scope(|scope| {
            let listening = scope.spawn(|| link.silence_until(&over));
            let took = die_and_serve(scene, promises, asking, report, (asks, pause, again));
            over.store(true, Ordering::Relaxed);
            (listening.join(), took)
        });
        let took = took?;
        let silence = silence.map_err(|_| anyhow!("the one who listens panicked"))??;
        self.link.both_ways(LINK).context("after the death of the server")?;
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
        for invite in std::mem::take(&mut self.promises.to_look_for) {
            let id = invite.to_string();
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

    fn note(&mut self, asked: Asked, report: &mut Report) {
        self.promises.note(asked, &mut self.asking, report);
    }

    /// A pause before a kill: while a record is asked for, within the time that one takes.
    #[expect(clippy::fn_params_excessive_bools, reason = "a coin has two sides")]
    fn pause(&mut self, asks: bool) -> Duration {
        self.up_to(if asks { (self.asking * 5 / 4).min(PAUSE) } else { PAUSE })
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        let millis = u64::from(self.rng.next_u32()) % u64::try_from(most.as_millis()).unwrap_or(1).max(1);
        Duration::from_millis(millis)
    }
}

impl Promises {
    /// Notes what came of a record that was asked for, and whether its asker still waited when somebody was killed.
    fn note(&mut self, asked: Asked, asking: &mut Duration, report: &mut Report) {
        match asked {
            Asked::Nothing => {}
            Asked::Before(ticket, took) => {
                *asking = took;
                self.keep(ticket);
            }
            Asked::UnderWay(ticket) => {
                report.kills_in_ask += 1;
                self.keep(ticket);
            }
        }
    }

    fn keep(&mut self, ticket: Option<String>) {
        if let Some(invite) = ticket.and_then(|ticket| ticket.parse::<Invite>().ok()) {
            self.all.insert(invite.invite_key());
            self.to_look_for.push(invite.invite_key());
        }
    }

    /// Looks for everything that was ever acknowledged in the database of a server that is dead, before anybody can bring
    /// back what it lost.
    fn look_on_disk(&mut self, scene: &Scene, report: &mut Report) -> Result<()> {
        let held = OnDisk::of_dead(scene.server.state()).context("read the database of the dead server")?.invites();
        report.disks += 1;
        for invite in &self.all {
            if held.contains(invite) {
                self.on_disk.insert(*invite);
            } else {
                report.lost.push(format!("the acknowledged invite {invite} is not in the dead server's database"));
            }
        }
        report.on_disk = self.on_disk.len() as u64;
        Ok(())
    }
}

/// Lets the server die as `plan` says (whether somebody asks, the pause before, the pause before a second death), and
/// answers how long it took from its last start to the first record.
fn die_and_serve(
    scene: &mut Scene,
    promises: &mut Promises,
    asking: &mut Duration,
    report: &mut Report,
    (asks, pause, again): (bool, Duration, Option<Duration>),
) -> Result<Duration> {
    let (server, founder) = (&scene.server, &scene.crew[0].machine);
    let asked = while_asking(asks.then_some(|| founder.invite()), pause, || server.end(libc::SIGKILL))?;
    report.kills += 1;
    promises.note(asked, asking, report);
    promises.look_on_disk(scene, report)?;
    let mut begun = Instant::now();
    scene.server.begin_again()?;
    if let Some(pause) = again {
        std::thread::sleep(pause);
        scene.server.end(libc::SIGKILL)?;
        report.kills += 1;
        report.kills_in_start += 1;
        promises.look_on_disk(scene, report)?;
        begun = Instant::now();
        scene.server.begin_again()?;
    }
    let ticket = until(SERVES, || Ok(scene.crew[0].machine.invite().ok()))?;
    let took = begun.elapsed();
    let ticket = ticket.with_context(|| format!("the server takes no record {SERVES:?} after its start"))?;
    promises.keep(Some(ticket));
    std::thread::sleep(AFTER.saturating_sub(begun.elapsed()));
    Ok(took)
}

/// What came of a record that was asked for while somebody was to die.
enum Asked {
    /// None was.
    Nothing,
    /// Answered before the kill, after so long.
    Before(Option<String>, Duration),
    /// Not answered yet at the kill; perhaps afterwards.
    UnderWay(Option<String>),
}

/// Kills after a pause while, if wanted, somebody asks for a record.
fn while_asking(
    ask: Option<impl Fn() -> Result<String> + Send>,
    pause: Duration,
    kill: impl FnOnce() -> Result<()>,
) -> Result<Asked> {
    std::thread::scope(|scope| {
        let begun = Instant::now();
        // It may well fail: whoever it asks dies meanwhile.
        let asking = ask.map(|ask| scope.spawn(move || (ask().ok(), Instant::now())));
        std::thread::sleep(pause);
        let killed = Instant::now();
        kill()?;
        let Some(asking) = asking else { return Ok(Asked::Nothing) };
        let (made, answered) = asking.join().map_err(|_| anyhow!("the one who asks panicked"))?;
        Ok(if answered > killed { Asked::UnderWay(made) } else { Asked::Before(made, answered - begun) })
    })
}

/// The longest pause between a start and a kill.
const PAUSE: Duration = Duration::from_millis(400);
/// How long the link is listened to after the last start of a server, at least: longer than it may be silent.
const AFTER: Duration = Duration::from_millis(LIMIT + 500);
/// How long a server and the one who asks it may take to come together again.
const SERVES: Duration = Duration::from_secs(60);
/// How long a machine that has just started may take to show its members.
const SETTLE: Duration = Duration::from_secs(3);
