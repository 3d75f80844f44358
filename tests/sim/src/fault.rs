//! What goes wrong in a world, when, for how long, and what is promised afterwards.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::calm::{MarkId, Recovery, Scope};
use crate::dice::Dice;
use crate::machine::Doom;
use crate::net::CutId;
use crate::silence::SILENCE;

/// Something that goes wrong, `at` after everybody has joined, for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) what: Trouble,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// A signaling server is killed and starts anew from its disk.
    ServerCrash(usize),
    /// A signaling server is killed and starts anew from a disk without so many of its newest entries.
    RollBack(usize, usize),
    /// A signaling server's host reaches nobody.
    ServerCutOff(usize),
    /// The admin lets a mirror order the log.
    Promote(usize),
    /// The server that orders the log is killed, and the admin lets this mirror take over.
    Succession(usize),
    /// A signaling server loses its disk, but not its key; the admin takes it on anew.
    Wiped(usize),
    /// The admin revokes a machine's membership.
    Revoke(usize),
    /// A signaling server's disk is full.
    ServerDiskFull(usize),
    /// A machine's daemon is killed, data plane and all, and starts anew from its disk.
    Crash(usize),
    /// The next write of a machine's daemon to its disk ends it.
    Doomed(usize, Doom),
    /// A machine's disk is full.
    DiskFull(usize),
    /// A machine moves to another network.
    Moves(usize),
    /// Machines are suspended.
    Suspend(BTreeSet<usize>),
    /// A machine's wall clock jumps by so many seconds.
    ClockJump(usize, i64),
    /// No packet passes between two groups of machines.
    Partition(BTreeSet<usize>, BTreeSet<usize>),
    /// A machine's line carries nothing in one direction or both.
    BlackHole(usize, Direction),
    /// The NAT nearest to a machine forgets everything.
    NatReboot(usize),
    /// A relay is killed and starts anew, remembering nothing.
    RelayCrash(usize),
    /// Relays and server move on so far in time that every credential is out of date.
    CredentialsExpire,
    /// The admin revokes a machine while it shakes hands with others, after a restart.
    Ambush(usize),
    /// The founder alone knows the newest entry when all servers die; perhaps it revokes a machine then.
    Silence(Option<usize>),
    /// A member means harm from here on.
    Turncoat(usize),
    /// A relay means harm for a time.
    HostileRelay(usize),
    /// A signaling server lies about addresses and the time, by so many seconds.
    LyingServer(usize, i64),
    /// The server that orders the log shows two histories from here on.
    TwoFaces,
    /// A mirror keeps entries and mail to itself from here on.
    Withholds(usize),
    /// Somebody who is in no network tries to come in for a time, by chance of this seed.
    Intruder(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Out,
    In,
    Both,
}

/// What has to be undone when a fault ends.
#[derive(Debug, Default)]
pub(crate) struct Undo {
    pub(crate) cuts: Vec<CutId>,
    pub(crate) mark: Option<MarkId>,
    /// The server that was killed.
    pub(crate) host: Option<usize>,
}

/// Draws two to five faults, spread over the world's time.
pub(crate) fn draw(
    machines: usize,
    stations: usize,
    servers: usize,
    duration: Duration,
    dice: &mut Dice,
) -> Vec<Fault> {
    let count = dice.between(2, 5);
    let mut faults: Vec<Fault> = (0..count)
        .map(|_| {
            let at = dice.time(Duration::from_secs(15), duration - Duration::from_secs(150));
            let of_servers = servers > 1 && dice.chance(300);
            let what =
                if of_servers { server_trouble(servers, dice) } else { trouble(machines, stations, servers, dice) };
            let lasts = what.lasts(dice);
            Fault { at, lasts, what }
        })
        .collect();
    if dice.chance(350) {
        let at = dice.time(Duration::from_secs(15), duration - Duration::from_secs(250));
        let what = hostility(machines, stations, servers, dice);
        let lasts = what.lasts(dice);
        faults.push(Fault { at, lasts, what });
    }
    faults.sort_by_key(|fault| fault.at);
    faults
}

/// Draws what befalls few worlds, for which the others are the same as without it.
pub(crate) fn draw_later(servers: usize, duration: Duration, dice: &mut Dice) -> Vec<Fault> {
    let mut faults = Vec::new();
    let intruder = Trouble::Intruder(dice.below(u64::MAX));
    let withholds = Trouble::Withholds(1 + below(dice, servers.max(2) - 1));
    let aloof = if servers > 1 { 150 } else { 0 };
    for (per_mille, what) in [(60, Trouble::Wiped(0)), (60, intruder), (aloof, withholds)] {
        if dice.chance(per_mille) {
            let at = dice.time(Duration::from_secs(15), duration - Duration::from_secs(250));
            let lasts = what.lasts(dice);
            faults.push(Fault { at, lasts, what });
        }
    }
    faults
}

/// Draws whether all servers die where a member means harm, so that the others have nobody but each other, and it.
pub(crate) fn draw_hush(machines: usize, duration: Duration, dice: &mut Dice) -> Option<Fault> {
    let at = dice.time(Duration::from_secs(15), duration - Duration::from_secs(250));
    let revoked = 1 + below(dice, machines.max(3) - 2);
    let what = Trouble::Silence(dice.chance(500).then_some(revoked));
    dice.chance(500).then_some(Fault { at, lasts: SILENCE, what })
}

fn below(dice: &mut Dice, count: usize) -> usize {
    usize::try_from(dice.below(count as u64)).expect("few")
}

/// Something that befalls a signaling server; what needs a fellow is for several alone.
fn server_trouble(servers: usize, dice: &mut Dice) -> Trouble {
    let host = below(dice, servers);
    match dice.below(if servers > 1 { 100 } else { 60 }) {
        0..24 => Trouble::ServerCrash(host),
        24..40 => Trouble::RollBack(host, 1 + below(dice, 3)),
        40..52 => Trouble::ServerDiskFull(host),
        52..66 => Trouble::ServerCutOff(host),
        66..76 => Trouble::Promote(host),
        76..88 => Trouble::Succession(host),
        // What befalls the first one comes by other chance.
        _ if host == 0 => Trouble::ServerCrash(host),
        _ => Trouble::Wiped(host),
    }
}

/// Somebody who means harm, or what is hard on those who do not.
fn hostility(machines: usize, stations: usize, servers: usize, dice: &mut Dice) -> Trouble {
    let machine = below(dice, machines);
    match dice.below(100) {
        0..20 if machine > 0 => Trouble::Ambush(machine),
        20..45 if machines > 2 => Trouble::Turncoat(machines - 1),
        45..60 => Trouble::HostileRelay(below(dice, stations)),
        60..70 => Trouble::LyingServer(below(dice, servers), YEAR * i64::try_from(1 + below(dice, 20)).expect("few")),
        70..80 => Trouble::TwoFaces,
        _ => Trouble::Silence((machine > 0 && dice.chance(500)).then_some(machine)),
    }
}

fn trouble(machines: usize, stations: usize, servers: usize, dice: &mut Dice) -> Trouble {
    let machine = below(dice, machines);
    match dice.below(100) {
        0..13 => server_trouble(servers, dice),
        13..25 => Trouble::Crash(machine),
        25..28 if machine > 0 => Trouble::Revoke(machine),
        25..31 => Trouble::Doomed(machine, dice.pick(&[Doom::Torn, Doom::Written])),
        31..35 => Trouble::DiskFull(machine),
        35..46 => Trouble::Moves(machine),
        46..55 => Trouble::Suspend([machine].into()),
        55..56 => Trouble::Suspend((0..machines).collect()),
        56..64 => {
            let years = i64::try_from(dice.between(1, 50)).expect("few years");
            Trouble::ClockJump(machine, dice.pick(&[years, -years]) * YEAR)
        }
        64..74 => {
            let (mut a, mut b): (BTreeSet<usize>, BTreeSet<usize>) = (0..machines).partition(|_| dice.chance(500));
            if a.is_empty() {
                a.extend(b.pop_first());
            }
            if b.is_empty() {
                b.extend(a.pop_first());
            }
            Trouble::Partition(a, b)
        }
        74..83 => Trouble::BlackHole(machine, dice.pick(&[Direction::Out, Direction::In, Direction::Both])),
        83..90 => Trouble::NatReboot(machine),
        90..96 => Trouble::RelayCrash(below(dice, stations)),
        _ => Trouble::CredentialsExpire,
    }
}

impl Trouble {
    fn lasts(&self, dice: &mut Dice) -> Duration {
        let seconds = |low: u64, high: u64, dice: &mut Dice| dice.millis(low * 1000, high * 1000);
        match self {
            Self::ServerCrash(_) | Self::RollBack(..) | Self::Wiped(_) | Self::ServerCutOff(_) => seconds(0, 90, dice),
            // So long that the admin has done it before the old server is back, mostly.
            Self::Succession(_) => seconds(30, 150, dice),
            Self::ServerDiskFull(_) | Self::DiskFull(_) => seconds(10, 90, dice),
            Self::Crash(_) | Self::Doomed(..) => dice.millis(100, 20_000),
            // A night of all machines costs nothing to simulate; one of a single machine costs the others' idling.
            Self::Suspend(machines) if machines.len() > 1 => seconds(600, 604_800, dice),
            Self::Suspend(_) if dice.chance(20) => seconds(600, 86_400, dice),
            Self::Suspend(_) if dice.chance(200) => seconds(60, 600, dice),
            Self::Suspend(_) => seconds(1, 60, dice),
            Self::Partition(..) => seconds(1, 90, dice),
            Self::BlackHole(..) => dice.millis(200, 60_000),
            Self::RelayCrash(_) => seconds(0, 60, dice),
            Self::Moves(_) | Self::ClockJump(..) | Self::NatReboot(_) | Self::CredentialsExpire | Self::Promote(_) => {
                Duration::ZERO
            }
            Self::Silence(_) => SILENCE,
            Self::Intruder(_) => seconds(30, 120, dice),
            Self::HostileRelay(_) | Self::LyingServer(..) => seconds(30, 200, dice),
            // It is final.
            Self::Revoke(_) | Self::Ambush(_) | Self::Turncoat(_) | Self::TwoFaces | Self::Withholds(_) => {
                Duration::MAX
            }
        }
    }

    /// Its kind in one word.
    pub(crate) fn word(&self) -> String {
        let whole = format!("{self:?}");
        whole.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default().to_owned()
    }

    /// What must hold again and by when. Figures of waiting come from the programs: a stream whose other end is silent is
    /// given up after 60 s, a server that did not answer is tried again after at most 60 s.
    pub(crate) const fn recovery(&self) -> Recovery {
        let (back, shaken) = match self {
            // A silent stream is given up after 22 s, and the next try is at most 8 s away.
            Self::ServerCrash(_) => (35, 125),
            // The admin may have to try again, and so may the others.
            Self::Succession(_) => (125, 125),
            // Then members hand it what it has lost.
            Self::RollBack(..) => (35, 200),
            Self::Wiped(_) => (125, 200),
            Self::Revoke(_)
            | Self::Promote(_)
            | Self::Turncoat(_)
            | Self::TwoFaces
            | Self::Intruder(_)
            | Self::Withholds(_) => (0, 0),
            // All streams hang.
            Self::Silence(_) | Self::LyingServer(..) => (125, 200),
            Self::ServerDiskFull(_) | Self::DiskFull(_) => (5, 10),
            // Who still holds a session with a daemon that restarted, and has been silent since, learns of it only by
            // talking.
            Self::Crash(_) | Self::Doomed(..) | Self::Ambush(_) => (20, 300),
            // Its servers are asked at once, and given up when they have not answered for 8 s.
            Self::Moves(_) => (15, 75),
            // As for the server; and a peer that data waits for is called every 10 s.
            Self::Suspend(_) | Self::Partition(..) | Self::BlackHole(..) => (30, 300),
            Self::ClockJump(..) => (0, 60),
            Self::NatReboot(_) => (15, 75),
            // A relay that forgot us is found out after at most 15 s and tried again within 8 s.
            Self::RelayCrash(_) => (30, 130),
            Self::ServerCutOff(_) => (40, 130),
            // What it has spoilt is found out as late.
            Self::HostileRelay(_) => (130, 130),
            Self::CredentialsExpire => (30, 130),
        };
        Recovery { back: Duration::from_secs(back), shaken: Duration::from_secs(shaken) }
    }

    pub(crate) fn scope(&self) -> Scope {
        match self {
            Self::ServerCrash(host) | Self::RollBack(host, _) | Self::LyingServer(host, _) | Self::Wiped(host) => {
                Scope::Server(*host)
            }
            // Nobody writes to talk.
            Self::ServerDiskFull(_) | Self::DiskFull(_) | Self::Promote(_) | Self::Intruder(_) => {
                Scope::Machines(BTreeSet::new())
            }
            Self::Withholds(host) => Scope::OddOnes(*host),
            Self::Succession(_) | Self::TwoFaces | Self::Silence(_) => Scope::Beginning,
            Self::Crash(machine)
            | Self::Revoke(machine)
            | Self::Ambush(machine)
            | Self::Turncoat(machine)
            | Self::Doomed(machine, _)
            | Self::Moves(machine)
            | Self::ClockJump(machine, _)
            | Self::BlackHole(machine, _)
            | Self::NatReboot(machine) => Scope::Machines([*machine].into()),
            Self::Suspend(machines) => Scope::Machines(machines.clone()),
            Self::Partition(a, b) => Scope::Between(a.clone(), b.clone()),
            // Its host is a relay, too.
            Self::RelayCrash(_) | Self::CredentialsExpire | Self::ServerCutOff(_) | Self::HostileRelay(_) => {
                Scope::Relayed
            }
        }
    }
}

const YEAR: i64 = 31_557_600;
