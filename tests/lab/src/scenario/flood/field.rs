//! The field of the floods: one segment with a network of two, a server, an enemy, a newcomer and a bystander.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ginnel_membership::invite::Invite;

use super::handshakes::Victim;
use super::hostile::Hostile;
use crate::counters::{Direction, Meter};
use crate::host::Host;
use crate::lab::Lab;
use crate::measure::{Load, Protocol, Towards, iperf3, ping, processor_time, resident};
use crate::nat::NatKind;
use crate::scenario::guest::address_of;
use crate::scenario::machine::{Machine, Programs, Server, tail};
use crate::scenario::pulse::answers;
use crate::scenario::scene::{DIRECT, LINK, Member};
use crate::site::Site;

/// Where a flood goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// To the victim's port.
    Victim,
    /// To where it harms nobody: a port of the victim's machine behind which nobody reads, the flooder itself, or another
    /// network's server.
    Nobody,
}

impl Aim {
    /// Where datagrams go that are meant for the victim's port.
    pub(super) fn at(self, victim: SocketAddrV4) -> SocketAddrV4 {
        match self {
            Self::Victim => victim,
            Self::Nobody => SocketAddrV4::new(*victim.ip(), SINK),
        }
    }
}

/// What a flood sent.
pub(super) struct Volley {
    pub(super) sent: u64,
    /// What must have reached the victim's port, at least by half.
    pub(super) bytes: u64,
    pub(super) note: String,
}

impl Volley {
    /// A flood by other roads than datagrams to the victim.
    pub(super) fn elsewhere(sent: u64, note: String) -> Self {
        Self { sent, bytes: 0, note }
    }
}

/// What came of a flood.
pub(super) struct Outcome {
    pub(super) volley: Result<Volley>,
    /// How long the flood took, with what it had to prepare.
    pub(super) took: Duration,
    pub(super) mbps: f64,
    pub(super) newcomer: Result<Duration>,
    /// KiB.
    pub(super) daemon_growth: u64,
    /// KiB.
    pub(super) server_growth: u64,
    /// The share of a core that the server took while the flood lasted.
    pub(super) server_core: f64,
}

/// A transfer beside a flood.
struct Fought {
    volley: Result<Volley>,
    took: Duration,
    server_core: f64,
    mbps: f64,
}

/// Another network, whose members and server do nothing.
struct Elsewhere {
    _founder: Machine,
    _server: Server,
    invite: Invite,
}

impl Elsewhere {
    fn build(host: &Host, programs: &Programs) -> Result<Self> {
        let server = Server::start(host, programs)?;
        let founder = Machine::start(host, programs)?;
        founder.up(&server.founding, "eve").with_context(|| tail(&server.log()))?;
        let invite = founder.invite()?.parse().context("read the invite of the other network")?;
        Ok(Self { _founder: founder, _server: server, invite })
    }
}

/// Taken down in the order of the fields.
pub(super) struct Field {
    ada: Member,
    ben: Member,
    newcomer: Machine,
    server: Server,
    pub(super) victim: Victim,
    pub(super) hostile: Hostile,
    pub(super) enemy: Host,
    pub(super) bystander: Host,
    elsewhere: Elsewhere,
    _lab: Lab,
}

impl Field {
    pub(super) fn build(programs: &Programs) -> Result<Self> {
        let lab = Lab::builder().site(Site::new("town", NatKind::Open).hosts(7)).build()?;
        let [hub, ada, ben, newcomer, enemy, bystander, other] =
            [0, 1, 2, 3, 4, 5, 6].map(|number| lab.host_at("town", number));
        let (hub, enemy) = (hub?, enemy?);
        let server = Server::start(&hub, programs)?;
        let join = |host: Host, name: &str, ticket: &str| -> Result<Member> {
            let machine = Machine::start(&host, programs)?;
            let inner = machine.up(ticket, name).with_context(|| tail(&server.log()))?;
            Ok(Member { name: name.to_owned(), machine, inner })
        };
        let ada = join(ada?, "ada", &server.founding)?;
        let ben = join(ben?, "ben", &ada.machine.invite()?)?;
        let newcomer = Machine::start(&newcomer?, programs)?;
        let hostile = Hostile::join(&enemy, &ada.machine.invite()?)?;
        for member in [&ada, &ben] {
            member.machine.wait_for_peers(2)?;
        }
        ensure!(answers(ada.host(), ben.inner.v4.into())? || answers(ada.host(), ben.inner.v4.into())?, "no link");
        ben.await_path("ada", &DIRECT, LINK)?;
        let at = SocketAddrV4::new(ada.host().ipv4(), ada.port()?);
        let victim = Victim { network: hostile.network(), key: hostile.key_of("ada")?, at };
        // A port that is closed would answer; the sink takes everything in silence.
        ada.host().nft(&format!(
            "table inet sink {{ chain in {{ type filter hook input priority 0; udp dport {SINK} drop; }}; }}\n"
        ))?;
        // Addresses that the enemy can really be reached at, as many as a small provider lends.
        enemy.ip(&format!("route add local {MANY} dev lo\nroute add local {LOST} dev lo\n"))?;
        lab.router("town", 1)?.ip(&format!("route add {MANY} via {}\n", enemy.ipv4()))?;
        let elsewhere = Elsewhere::build(&other?, programs)?;
        Ok(Self { ada, ben, newcomer, server, victim, hostile, enemy, bystander: bystander?, elsewhere, _lab: lab })
    }

    /// The throughput of a transfer towards the victim, in Mbit/s.
    fn transfer(&self, length: Duration) -> Result<f64> {
        let load = Load { protocol: Protocol::Tcp, duration: length, towards: Towards::Client, streams: 1 };
        let flow = iperf3(self.ada.host(), self.ben.host(), self.ben.inner.v4.into(), load)?;
        Ok((flow.bits_per_second / 1e5).round() / 10.0)
    }

    /// An invite to the network, or to another one.
    pub(super) fn invite_of(&self, aim: Aim) -> &Invite {
        match aim {
            Aim::Victim => self.hostile.invite(),
            Aim::Nobody => &self.elsewhere.invite,
        }
    }

    /// The server's port, or one behind which nobody reads.
    pub(super) fn server_or(&self, aim: Aim) -> Result<SocketAddr> {
        match aim {
            Aim::Victim => address_of(self.hostile.server()),
            Aim::Nobody => Ok(aim.at(self.victim.at).into()),
        }
    }

    /// Counts what comes from the enemy, under any of its addresses, to the victim's port.
    pub(super) fn meter(&self) -> Result<Meter> {
        let (enemy, port) = (self.enemy.ipv4(), self.victim.at.port());
        self.ada.host().count_bytes(Direction::In, &format!("ip saddr {{ {enemy}, {SPOOFED} }} udp dport {port}"))
    }

    /// The transfer beside a flood from the enemy's machine.
    fn beside(&self, length: Duration, flood: impl FnOnce(Instant) -> Result<Volley> + Send) -> Result<Fought> {
        std::thread::scope(|scope| {
            let flooding = scope.spawn(move || {
                let (begun, busy) = (Instant::now(), processor_time(self.server.pid())?);
                let volley = self.enemy.enter(move || flood(begun + length + WARM_UP)).and_then(std::convert::identity);
                let busy = processor_time(self.server.pid())?.saturating_sub(busy);
                anyhow::Ok((volley, begun.elapsed(), busy))
            });
            std::thread::sleep(WARM_UP);
            let mbps = self.transfer(length);
            let (volley, took, busy) = flooding.join().map_err(|_| anyhow::anyhow!("the flooder panicked"))??;
            Ok(Fought { volley, took, server_core: busy.as_secs_f64() / took.as_secs_f64(), mbps: mbps? })
        })
    }

    /// The same, with a newcomer who joins meanwhile, and an eye on memory.
    pub(super) fn under(
        &self,
        length: Duration,
        flood: impl FnOnce(Instant) -> Result<Volley> + Send,
    ) -> Result<Outcome> {
        let ticket = self.ada.machine.invite()?;
        let pids = [self.ada.machine.pid(), self.server.pid()];
        let before = [resident(pids[0])?, resident(pids[1])?];
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let mut most = before;
                while !over.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(200));
                    for (most, pid) in most.iter_mut().zip(pids) {
                        *most = (*most).max(resident(pid).unwrap_or(0));
                    }
                }
                most
            });
            let joining = scope.spawn(|| {
                std::thread::sleep(WARM_UP + length / 10);
                self.newcomer_joins(&ticket)
            });
            let fought = self.beside(length, flood);
            let newcomer = joining.join().map_err(|_| anyhow::anyhow!("the newcomer panicked")).and_then(|took| took);
            over.store(true, Ordering::Relaxed);
            let most = watching.join().map_err(|_| anyhow::anyhow!("the watch panicked"))?;
            let Fought { volley, took, server_core, mbps } = fought?;
            let [daemon_growth, server_growth] = [0, 1].map(|place| most[place].saturating_sub(before[place]));
            self.newcomer.ginnel(&["leave", "--yes"]).context("the newcomer leaves")?;
            Ok(Outcome { volley, took, mbps, newcomer, daemon_growth, server_growth, server_core })
        })
    }

    /// How long a newcomer takes from its `ginnel up` to the first answer.
    fn newcomer_joins(&self, ticket: &str) -> Result<Duration> {
        let begun = Instant::now();
        self.newcomer.up(ticket, "newcomer")?;
        let target: IpAddr = self.ada.inner.v4.into();
        while !answers(&self.newcomer.host, target)? {
            ensure!(
                begun.elapsed() < PATIENCE,
                "no answer {PATIENCE:?} after ginnel up: {}",
                tail(&self.newcomer.log())
            );
        }
        Ok(begun.elapsed())
    }

    /// Everything runs, and the link is what it was.
    pub(super) fn is_well(&self) -> Result<()> {
        std::thread::sleep(Duration::from_secs(1));
        let echo = ping(self.ada.host(), self.ben.inner.v4.into(), 10, Duration::from_millis(20))?;
        ensure!(echo.received == 10, "{} of 10 pings came back", echo.received);
        for log in [self.server.log(), self.ada.machine.log(), self.ben.machine.log()] {
            ensure!(!log.contains("panicked"), "a program panicked: {}", tail(&log));
        }
        ensure!(self.ada.is_connected()?, "the victim lost the server: {}", tail(&self.ada.machine.log()));
        Ok(())
    }
}

/// The port behind which nobody reads.
const SINK: u16 = 9;
/// How long a flood runs before the transfer begins.
const WARM_UP: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(30);
/// Where spoofed addresses are from.
const SPOOFED: &str = "198.18.0.0/15";
/// Addresses of the enemy's besides its own.
const MANY: &str = "198.19.255.0/24";
/// Addresses that it may bind and that answers do not find back to.
const LOST: &str = "198.19.254.0/24";
