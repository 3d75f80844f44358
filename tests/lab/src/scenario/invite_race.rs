//! Two hundred machines race for one invite, over two servers, while the sequencer is killed and started again.
//!
//! ```text
//! founder ─┐                      ┌─ a third of the joiners by the sequencer alone
//!          ├─ sequencer ─ mirror ─┼─ a third by the mirror alone
//!          └──────────────────────┴─ a third by both
//! ```
//! Every joiner is a daemon of its own with a state folder of its own. The winner of a round asks again with the spent
//! invite, as a machine does whose answer was lost, and then leaves; the losers race on in the next round.
//!
//! The kills are spread from the start of a race to twice the time after which winners' entries come, so that some fall
//! before the entry and some while the others are told. Which it was, the dead sequencer's database says.

use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ginnel_membership::{Invite, InviteKey, Server as MembershipServer, SigningKey};
use serde::Serialize;

use super::disk::OnDisk;
use super::machine::{Machine, Programs, Server, tail};
use super::times::millis;
use crate::host::Host;
use crate::lab::Lab;
use crate::nat::NatKind;
use crate::process::{Output, Process};
use crate::site::Site;

/// How much is raced.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Races, each for an invite of its own.
    pub rounds: usize,
    /// Machines in each race.
    pub joiners: usize,
}

/// How one race ended.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// From 1.
    pub round: usize,
    /// The member that it made.
    pub winner: String,
    /// By which servers the winner's invite went: `sequencer`, `mirror` or `both`.
    pub by: &'static str,
    /// Joiners that were refused and told who had joined.
    pub losers_told: usize,
    /// When the sequencer was killed, after the start of the race.
    pub killed_after_ms: u64,
    /// When the winner's entry was first seen in the sequencer's database, after the start of the race; absent when the
    /// sequencer was killed before it.
    pub entry_after_ms: Option<u64>,
    /// From the start of the race to the last answer.
    pub milliseconds: u64,
}

/// How all races ended.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Races that ended with one member who knows it and everybody else told.
    pub rounds: Vec<Round>,
    /// What went wrong; nothing is raced after it.
    pub failed: Option<String>,
}

impl Report {
    /// What breaks a promise.
    pub fn complaints(&self) -> Vec<String> {
        let mut all: Vec<String> = self.failed.iter().cloned().collect();
        let before = self.killed_before();
        if self.rounds.len() >= ENOUGH && (before == 0 || before == self.rounds.len()) {
            all.push(format!(
                "in {before} of {} races the sequencer was killed before the winner's entry; there must be such and others",
                self.rounds.len()
            ));
        }
        all
    }

    /// Races in which the sequencer died before it had the winner's entry.
    fn killed_before(&self) -> usize {
        self.rounds.iter().filter(|round| round.entry_after_ms.is_none()).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slowest = self.rounds.iter().map(|round| round.milliseconds).max().unwrap_or_default();
        let by = |road: &str| self.rounds.iter().filter(|round| round.by == road).count();
        write!(
            f,
            "{} races, one member each; the sequencer killed before the winner's entry in {}; won by the sequencer alone {}, \
             by the mirror alone {}, by both {}; the slowest took {slowest} ms",
            self.rounds.len(),
            self.killed_before(),
            by("sequencer"),
            by("mirror"),
            by("both"),
        )
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { round, winner, by, losers_told, killed_after_ms, entry_after_ms, milliseconds } = self;
        let entry = entry_after_ms.map_or_else(
            || "before the winner's entry".to_owned(),
            |after| format!("the winner's entry there after {after} ms"),
        );
        write!(
            f,
            "race {round:2}: {winner} (invite by {by}), {losers_told} losers told, sequencer killed after {killed_after_ms} ms, \
             {entry}, over after {milliseconds} ms"
        )
    }
}

/// Runs the races; `tell` gets each as it ends.
///
/// # Errors
/// When the machines cannot be set up.
pub fn run(programs: &Programs, extent: Extent, tell: &(dyn Fn(&Round) + Sync)) -> Result<Report> {
    let mut field = Field::set(programs, extent.joiners)?;
    let mut report = Report::default();
    let mut pace = Pace(FIRST_GUESS);
    for round in 1..=extent.rounds {
        match field.race(round, pace.kill_at(round)) {
            Ok(race) => {
                pace.learn(&race);
                tell(&race);
                report.rounds.push(race);
            }
            Err(error) => {
                report.failed = Some(format!("race {round}: {error:#}"));
                break;
            }
        }
    }
    Ok(report)
}

/// After how long a winner's entry comes, in milliseconds, as far as is known.
struct Pace(u64);

impl Pace {
    /// When to kill: places that fill the time from nothing to twice the pace evenly, however many there are.
    fn kill_at(&self, round: usize) -> Duration {
        let place = round as u64 * 618 % 1000;
        Duration::from_millis(2 * self.0 * place / 1000)
    }

    fn learn(&mut self, race: &Round) {
        self.0 = match race.entry_after_ms {
            Some(after) => (self.0 + after) / 2,
            // It would have come later than that.
            None => self.0.max(race.killed_after_ms * 5 / 4),
        };
    }
}

/// The machines of all rounds. Taken down in the order of the fields.
struct Field {
    joiners: Vec<Joiner>,
    founder: Machine,
    sequencer: Server,
    _mirror: Server,
    _lab: Lab,
}

/// A daemon that wants to join.
struct Joiner {
    name: String,
    host: Host,
    ginnel: Vec<String>,
    _process: Process,
}

impl Field {
    fn set(programs: &Programs, joiners: usize) -> Result<Self> {
        let crowds: Vec<String> = (0..CROWDS).map(|crowd| format!("crowd{crowd}")).collect();
        let lab = Lab::builder().site(Site::server("first")).site(Site::server("second"));
        let lab = lab.site(Site::new("founder", NatKind::PortRestricted));
        let lab = crowds.iter().fold(lab, |lab, name| lab.site(Site::server(name).hosts(PER_CROWD))).build()?;
        let sequencer = Server::start(&lab.host("first")?, programs)?;
        let mirror = Server::start(&lab.host("second")?, programs)?;
        let founder = Machine::start(&lab.host("founder")?, programs)?;
        founder.up(&sequencer.founding, "founder")?;
        founder.ginnel(&["server", "add", &mirror.founding])?;
        let mut field = Self { joiners: Vec::with_capacity(joiners), founder, sequencer, _mirror: mirror, _lab: lab };
        field.await_mirror()?;
        for number in 0..joiners {
            let crowd = &crowds[number % crowds.len()];
            let seat =
                u8::try_from(number / crowds.len() % usize::from(PER_CROWD)).context("a seat is a small number")?;
            let host = field._lab.host_at(crowd, seat)?;
            field.joiners.push(Joiner::start(programs, host, number)?);
        }
        field.joiners.iter().try_for_each(Joiner::wait_until_it_answers)?;
        Ok(field)
    }

    /// Waits until the founder is connected to both servers.
    fn await_mirror(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let list = self.founder.ginnel(&["server", "list"])?;
            let servers = &list["servers"];
            let up = servers.as_array().into_iter().flatten().filter(|server| server["connected"] == true).count();
            if up == 2 {
                return Ok(());
            }
            ensure!(begun.elapsed() < SETTLED, "the founder is not connected to both servers: {servers}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn race(&mut self, round: usize, kill_at: Duration) -> Result<Round> {
        let before = self.joined()?;
        let invites = Tickets::of(&self.founder.invite()?)?;
        let begun = Instant::now();
        let (outcomes, killed, entry) = std::thread::scope(|scope| {
            let racing = scope.spawn(|| start_all(&self.joiners, &invites));
            let seen = watch(&self.sequencer, &invites.key, begun, kill_at);
            let killed = begun.elapsed();
            self.sequencer.end(libc::SIGKILL)?;
            let has_it = OnDisk::of_dead(self.sequencer.state())?.has_used(&invites.key);
            self.sequencer.start_again()?;
            ensure!(has_it || seen.is_none(), "the winner's entry was there and is gone");
            match racing.join() {
                Ok(outcomes) => anyhow::Ok((outcomes?, killed, has_it.then(|| seen.unwrap_or(killed)))),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })?;
        let milliseconds = millis(begun.elapsed());
        let winners: Vec<usize> = (0..outcomes.len()).filter(|&index| outcomes[index].status.success()).collect();
        let [winner] = winners[..] else {
            let texts: Vec<&str> = outcomes.iter().map(|outcome| outcome.stderr.trim()).take(3).collect();
            bail!("{} joiners say that they joined; the first texts: {texts:?}", winners.len());
        };
        let name = self.joiners[winner].name.clone();
        let losers_told = self.judge_losers(&outcomes, winner)?;
        self.judge_log(&before, &name)?;
        self.retry(winner, &invites)?;
        self.joiners[winner].ginnel(&["leave", "--yes"])?.success().context("the winner leaves")?;
        Ok(Round {
            round,
            winner: name,
            by: Tickets::road(winner),
            losers_told,
            killed_after_ms: millis(killed),
            entry_after_ms: entry.map(millis),
            milliseconds,
        })
    }

    /// Everybody else was refused because the invite is spent, and knows by whom.
    fn judge_losers(&self, outcomes: &[Output], winner: usize) -> Result<usize> {
        let name = &self.joiners[winner].name;
        for (index, outcome) in outcomes.iter().enumerate().filter(|(index, _)| *index != winner) {
            let text = format!("{}{}", outcome.stdout, outcome.stderr);
            ensure!(
                outcome.status.code() == Some(SPENT),
                "{} ended with {} and said: {}",
                self.joiners[index].name,
                outcome.status,
                text.trim()
            );
            ensure!(
                text.contains(name.as_str()),
                "{} was not told who joined: {}",
                self.joiners[index].name,
                text.trim()
            );
        }
        Ok(outcomes.len() - 1)
    }

    /// The founder sees one member more, and by whom the invite was used.
    fn judge_log(&self, before: &[String], name: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let after = self.joined()?;
            let fresh: Vec<&String> = after.iter().skip(before.len()).collect();
            if let [only] = fresh[..] {
                ensure!(only == name, "the log says that {only} joined, but {name} was told so");
                break;
            }
            ensure!(fresh.len() < 2, "one invite made the members {fresh:?}");
            ensure!(begun.elapsed() < SETTLED, "the founder's log shows no new member\n{}", tail(&self.founder.log()));
            std::thread::sleep(Duration::from_millis(50));
        }
        let invites = self.founder.ginnel(&["invite", "list"])?;
        let told = invites["invites"].as_array().into_iter().flatten().any(|invite| invite["used_by"] == name);
        ensure!(told, "the inviter is not told who joined: {invites}");
        Ok(())
    }

    /// Names of all who ever joined, by the founder's log.
    fn joined(&self) -> Result<Vec<String>> {
        let log = self.founder.ginnel(&["log"])?;
        let entries = log["entries"].as_array().context("the log has no entries")?;
        let joined = entries.iter().filter(|entry| entry["kind"] == "member" && entry["verdict"] == "applied");
        // A name, and behind it the key.
        Ok(joined.filter_map(|entry| entry["subject"].as_str()?.split(' ').next().map(str::to_owned)).collect())
    }

    /// Who lost the answer asks again, and is a member.
    fn retry(&self, winner: usize, invites: &Tickets) -> Result<()> {
        let again = self.joiners[winner].up(invites.of_joiner(winner))?;
        ensure!(again.status.success(), "the winner's retry was refused: {}{}", again.stdout, again.stderr);
        Ok(())
    }
}

impl Joiner {
    fn start(programs: &Programs, host: Host, number: usize) -> Result<Self> {
        let name = format!("joiner-{number}");
        let folder: PathBuf = host.files()?.join(&name);
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let file = |file: &str| folder.join(file).to_string_lossy().into_owned();
        std::fs::write(folder.join("hosts"), "127.0.0.1 localhost\n").context("write a hosts file")?;
        let tun = format!("joiner{number}");
        let (state, socket, hosts) = (file("state"), file("ginneld.sock"), file("hosts"));
        let argv =
            [&programs.path("ginneld"), "--state", &state, "--socket", &socket, "--hosts", &hosts, "--interface", &tun];
        let process = host.spawn(&name, &argv, &[("GINNEL_LOG", "warn")])?;
        let ginnel = vec![programs.path("ginnel"), "--socket".to_owned(), socket, "--json".to_owned()];
        Ok(Self { name, host, ginnel, _process: process })
    }

    fn wait_until_it_answers(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let answer = self.ginnel(&["status"])?;
            if answer.status.success() {
                return Ok(());
            }
            ensure!(begun.elapsed() < Duration::from_secs(30), "{} does not answer: {}", self.name, answer.stderr);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn ginnel(&self, arguments: &[&str]) -> Result<Output> {
        let mut argv: Vec<&str> = self.ginnel.iter().map(String::as_str).collect();
        argv.extend(arguments);
        self.host.run(&argv, PATIENCE)
    }

    /// Joins; asks again while the servers are away, as the error text tells a user to.
    fn up(&self, ticket: &str) -> Result<Output> {
        let begun = Instant::now();
        loop {
            let outcome = self.ginnel(&["up", ticket, "--name", &self.name])?;
            let settled = outcome.status.success() || outcome.status.code() == Some(SPENT);
            if settled || begun.elapsed() > PATIENCE {
                return Ok(outcome);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// One invite, leading to the sequencer, to the mirror, or to both.
struct Tickets {
    key: InviteKey,
    roads: [String; 3],
}

impl Tickets {
    fn of(ticket: &str) -> Result<Self> {
        let invite: Invite = ticket.parse().context("read the invite")?;
        let [first, second] = invite.servers() else {
            bail!("the invite names {} servers instead of 2", invite.servers().len());
        };
        let by = |server: &MembershipServer| -> Result<String> {
            let key = SigningKey::from_bytes(&invite.key().to_bytes());
            let servers = std::slice::from_ref(server);
            Ok(Invite::new(servers, invite.network(), key, invite.expires(), invite.hint().cloned())?.to_string())
        };
        let roads = [by(first)?, by(second)?, ticket.to_owned()];
        Ok(Self { key: invite.invite_key(), roads })
    }

    fn of_joiner(&self, number: usize) -> &str {
        &self.roads[number % 3]
    }

    const fn road(number: usize) -> &'static str {
        ["sequencer", "mirror", "both"][number % 3]
    }
}

/// Waits until `until` after `begun`, and answers when the sequencer's database first held an entry by the invite, if so.
fn watch(sequencer: &Server, invite: &InviteKey, begun: Instant, until: Duration) -> Option<Duration> {
    let mut seen = None;
    while let Some(left) = until.checked_sub(begun.elapsed()) {
        std::thread::sleep(left.min(LOOK_PACE));
        // The server may be writing at this moment; the next look is near.
        if seen.is_none() && OnDisk::of_living(sequencer.state()).is_ok_and(|held| held.has_used(invite)) {
            seen = Some(begun.elapsed());
        }
    }
    seen
}

/// Lets all joiners try at once, and answers what each was told, in their order.
fn start_all(joiners: &[Joiner], invites: &Tickets) -> Result<Vec<Output>> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::with_capacity(joiners.len()));
    std::thread::scope(|scope| {
        for _ in joiners {
            scope.spawn(|| {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let outcome = joiners[index].up(invites.of_joiner(index));
                if let Ok(mut outcomes) = outcomes.lock() {
                    outcomes.push((index, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_default();
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// After how long the first winner's entry is thought to come, in milliseconds.
const FIRST_GUESS: u64 = 400;
/// Pause between two looks at the sequencer's database.
const LOOK_PACE: Duration = Duration::from_millis(10);
/// Races that are so many that kills must have fallen before and after the winner's entry.
const ENOUGH: usize = 20;
/// Sites of joiners, and hosts in each.
const CROWDS: usize = 4;
const PER_CROWD: u8 = 8;
/// How long servers and logs may take to agree.
const SETTLED: Duration = Duration::from_secs(20);
/// How long a joiner tries.
const PATIENCE: Duration = Duration::from_secs(60);
/// The exit code for an invite that lets nobody in.
const SPENT: i32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn race(killed_after_ms: u64, entry_after_ms: Option<u64>) -> Round {
        let winner = "joiner-1".to_owned();
        Round { round: 1, winner, by: "mirror", losers_told: 1, killed_after_ms, entry_after_ms, milliseconds: 900 }
    }

    #[test]
    fn many_races_need_kills_before_and_after_the_winners_entry() {
        let report = |before: usize, after: usize| Report {
            rounds: [vec![race(10, None); before], vec![race(90, Some(50)); after]].concat(),
            failed: None,
        };
        assert_eq!(report(0, ENOUGH).complaints().len(), 1);
        assert_eq!(report(ENOUGH, 0).complaints().len(), 1);
        assert!(report(1, ENOUGH - 1).complaints().is_empty());
        assert!(report(0, ENOUGH - 1).complaints().is_empty(), "too few to demand it");
        assert!(report(1, 2).to_string().contains("before the winner's entry in 1;"));
    }

    #[test]
    fn kills_find_the_winners_entry_wherever_it_is() {
        for truth in [40, 400, 3_000] {
            let (mut pace, mut before) = (Pace(FIRST_GUESS), 0);
            for round in 1..=20 {
                let kill_at = millis(pace.kill_at(round));
                before += u32::from(kill_at < truth);
                pace.learn(&race(kill_at, (kill_at >= truth).then_some(truth)));
            }
            assert!((5..=17).contains(&before), "{before} of 20 before {truth} ms");
        }
    }
}
