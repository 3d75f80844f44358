//! Datagrams that nobody asked for, on every open UDP port of both programs while links are in use.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::volley::{Account, Shot, fire, fire_as, shots};
use super::{Book, Case, alarms};
use crate::counters::Direction;
use crate::delay::Shape;
use crate::host::Host;
use crate::lab::Lab;
use crate::measure::{Ping, ping, resident};
use crate::nat::NatKind;
use crate::scenario::machine::{Addresses, Machine, Programs, Server, tail};
use crate::site::Site;

/// A network of three, one of which lets nothing in from the others but by relay, and a host that is no part of it.
struct Front {
    hub: Host,
    server: Server,
    ada: Machine,
    ben: Machine,
    cleo: Machine,
    inner: [Addresses; 3],
    enemy: Host,
    shots: Vec<Shot>,
    _lab: Lab,
}

/// What a port may answer a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    /// Nothing at all.
    None,
    /// Nothing, or less than it was sent.
    AtMostLess,
    /// Something, and less than it was sent.
    Less,
    /// STUN: as little as the standard allows, and only so often.
    Stun,
}

pub(super) fn chapter(programs: &Programs, book: &Book<'_>) {
    let cases: [Case<Front>; 7] = [
        ("datagrams: signaling port", signaling),
        ("datagrams: STUN and TURN port", stun_and_turn),
        ("datagrams: live relayed ports", relayed),
        ("datagrams: every port of ginneld", every_port_of_ginneld),
        ("datagrams: as if from the relay and from a peer", forged_for_ginneld),
        ("datagrams: as if from a client of the relay", forged_for_the_relay),
        ("datagrams: as if from a peer, through the relay", forged_through_the_relay),
    ];
    book.chapter(|| Front::build(programs), &cases);
}

impl Front {
    fn build(programs: &Programs) -> Result<Self> {
        let near = |name: &str| {
            let line = Shape::delay(Duration::ZERO);
            Site::new(name, NatKind::Open).uplink(line, line)
        };
        let lab = Lab::builder()
            .site(near("ada"))
            .site(near("ben"))
            .site(near("cleo"))
            .site(near("enemy"))
            .site(near("hub"))
            .build()?;
        let hub = lab.host("hub")?;
        let server = Server::start(&hub, programs)?;
        let ada = Machine::start(&lab.host("ada")?, programs)?;
        let first = ada.up(&server.founding, "ada")?;
        let ben = Machine::start(&lab.host("ben")?, programs)?;
        let second = ben.up(&ada.invite()?, "ben")?;
        let host = lab.host("cleo")?;
        let [direct_a, direct_b] = [&ada, &ben].map(|machine| machine.host.ipv4());
        host.nft(&format!(
            "table inet wall {{ chain in {{ type filter hook input priority 0; \
             ip saddr {{ {direct_a}, {direct_b} }} drop; }}; }}\n"
        ))?;
        let cleo = Machine::start(&host, programs)?;
        let third = cleo.up(&ada.invite()?, "cleo")?;
        for machine in [&ada, &ben, &cleo] {
            machine.wait_for_peers(2)?;
        }
        let inner = [first, second, third];
        let front =
            Self { hub, server, ada, ben, cleo, inner, enemy: lab.host("enemy")?, shots: shots(SEED), _lab: lab };
        front.settle("ben", "direct4")?;
        front.settle("cleo", "turn-udp")?;
        Ok(front)
    }

    /// Waits until the first machine reaches a peer by the wanted path.
    fn settle(&self, peer: &str, wanted: &str) -> Result<()> {
        let mut seen = serde_json::Value::Null;
        for _ in 0..40 {
            seen = self.ada.ginnel(&["ping", peer, "-c", "1"]).unwrap_or_default();
            let kind = seen.pointer("/path/kind").or_else(|| seen.pointer("/final_path/kind"));
            if kind.is_some_and(|kind| kind == wanted) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        bail!("{peer} is not reached by {wanted}: {seen}\n{}", tail(&self.ada.log()))
    }

    /// Runs `attack` inside the enemy's namespace while both links carry pings, then sees what is left.
    fn under(&self, attack: impl FnOnce() -> Result<String> + Send) -> Result<String> {
        let logs = self.logs();
        let memory = self.memory()?;
        let over = AtomicBool::new(false);
        let (said, direct, relayed) = std::thread::scope(|scope| {
            let direct = scope.spawn(|| self.ping_until(&over, self.inner[1]));
            let relayed = scope.spawn(|| self.ping_until(&over, self.inner[2]));
            let said = self.enemy.enter(attack);
            over.store(true, Ordering::Relaxed);
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<(u32, u32)>>| {
                thread.join().map_err(|_| anyhow::anyhow!("the thread that pings panicked"))?
            };
            anyhow::Ok((said??, join(direct)?, join(relayed)?))
        })?;
        for (name, (sent, received)) in [("direct", direct), ("relayed", relayed)] {
            ensure!(received * 10 >= sent * 8, "only {received} of {sent} pings came back on the {name} link");
        }
        self.is_well(&logs)?;
        let grown = self.memory()?.iter().zip(&memory).map(|(after, before)| after.saturating_sub(*before)).max();
        let grown = grown.unwrap_or(0);
        ensure!(grown < MEMORY, "a program grew by {grown} KiB");
        let pings = |(sent, received)| format!("{received} of {sent}");
        Ok(format!("{said}; pings back meanwhile: direct {}, relayed {}", pings(direct), pings(relayed)))
    }

    fn ping_until(&self, over: &AtomicBool, inner: Addresses) -> Result<(u32, u32)> {
        let (mut sent, mut received) = (0, 0);
        while !over.load(Ordering::Relaxed) || sent == 0 {
            let round: Ping = ping(&self.ada.host, inner.v4.into(), 10, Duration::from_millis(40))?;
            sent += round.sent;
            received += round.received;
        }
        Ok((sent, received))
    }

    /// Everything runs, answers, and has not cried out for each packet.
    fn is_well(&self, logs: &[String]) -> Result<()> {
        for (peer, inner) in [("ben", self.inner[1]), ("cleo", self.inner[2])] {
            let echo = ping(&self.ada.host, inner.v4.into(), 10, Duration::from_millis(20))?;
            ensure!(echo.received == 10, "{} of 10 pings to {peer} came back afterwards", echo.received);
        }
        for machine in [&self.ada, &self.ben, &self.cleo] {
            let status = machine.ginnel(&["status"])?;
            ensure!(status["networks"][0]["server"]["connected"] == true, "no server any more: {status}");
        }
        for (before, after) in logs.iter().zip(self.logs()) {
            let fresh = after.get(before.len()..).unwrap_or(&after);
            let alarms = alarms(fresh);
            ensure!(alarms.len() <= ALARMS, "{} warnings, such as {:?}", alarms.len(), alarms.first());
            ensure!(!fresh.contains("panicked"), "a program panicked: {}", tail(fresh));
            ensure!(fresh.len() < 64 * 1024, "{} bytes of log: {}", fresh.len(), tail(fresh));
        }
        Ok(())
    }

    fn logs(&self) -> Vec<String> {
        vec![self.server.log(), self.ada.log(), self.ben.log(), self.cleo.log()]
    }

    /// The resident memory of each program, in KiB.
    fn memory(&self) -> Result<Vec<u64>> {
        let pids = [self.server.pid(), self.ada.pid(), self.ben.pid(), self.cleo.pid()];
        pids.into_iter().map(resident).collect()
    }

    /// Fires everything at each port and holds the answers against what the port may say.
    fn bombard(&self, host: &Host, ports: &[u16], answers: Answers) -> Result<String> {
        ensure!(!ports.is_empty(), "{} has no such port open", host.name());
        self.under(|| {
            let mut said = Vec::new();
            for port in ports {
                let account = fire(&self.shots, SocketAddrV4::new(host.ipv4(), *port).into())?;
                judge(&account, answers).with_context(|| format!("port {port}"))?;
                said.push(format!("port {port}: {}", in_words(&account)));
            }
            Ok(said.join("; "))
        })
    }
}

fn signaling(front: &Front) -> Result<String> {
    front.bombard(&front.hub, &[SIGNALING], Answers::Less)
}

fn stun_and_turn(front: &Front) -> Result<String> {
    front.bombard(&front.hub, &[STUN], Answers::Stun)
}

fn relayed(front: &Front) -> Result<String> {
    front.bombard(&front.hub, &relayed_ports(front)?, Answers::None)
}

fn every_port_of_ginneld(front: &Front) -> Result<String> {
    let own = kept_port(&front.ada)?;
    let mut others = open_ports(front.ada.pid())?;
    others.retain(|port| *port != own);
    let said = front.bombard(&front.ada.host, &[own], Answers::None)?;
    // Those of its connections to servers: QUIC resets what it does not know, by fewer bytes than that had.
    Ok(format!("{said}; {}", front.bombard(&front.ada.host, &others, Answers::AtMostLess)?))
}

fn forged_for_ginneld(front: &Front) -> Result<String> {
    let (hub, ben) = (front.hub.ipv4(), front.ben.host.ipv4());
    let own = kept_port(&front.ada)?;
    let at = |port| SocketAddrV4::new(front.ada.host.ipv4(), port);
    let mut roads =
        vec![(SocketAddrV4::new(hub, STUN), at(own)), (SocketAddrV4::new(ben, kept_port(&front.ben)?), at(own))];
    let others = open_ports(front.ada.pid())?.into_iter().filter(|port| *port != own);
    roads.extend(others.map(|port| (SocketAddrV4::new(hub, SIGNALING), at(port))));
    front.forged(&roads)
}

fn forged_for_the_relay(front: &Front) -> Result<String> {
    let source = SocketAddrV4::new(front.cleo.host.ipv4(), kept_port(&front.cleo)?);
    front.forged(&[(source, SocketAddrV4::new(front.hub.ipv4(), STUN))])
}

fn forged_through_the_relay(front: &Front) -> Result<String> {
    let source = SocketAddrV4::new(front.ada.host.ipv4(), kept_port(&front.ada)?);
    let ports = relayed_ports(front)?;
    let roads: Vec<_> = ports.iter().map(|port| (source, SocketAddrV4::new(front.hub.ipv4(), *port))).collect();
    front.forged(&roads)
}

/// Foreign addresses on the enemy's machine, given back at the end.
struct Forged<'a> {
    enemy: &'a Host,
    addresses: Vec<Ipv4Addr>,
}

impl Front {
    /// Fires everything at each target under an address that is another's.
    fn forged(&self, roads: &[(SocketAddrV4, SocketAddrV4)]) -> Result<String> {
        let mut sources: Vec<Ipv4Addr> = roads.iter().map(|(source, _)| *source.ip()).collect();
        sources.sort_unstable();
        sources.dedup();
        let target = if roads.iter().any(|(_, to)| *to.ip() == self.hub.ipv4()) { &self.hub } else { &self.ada.host };
        let ports: Vec<String> = roads.iter().map(|(_, to)| to.port().to_string()).collect();
        // Only the first fragment of a long one has a port; there are few of those.
        let meter = target.count_bytes(Direction::In, &format!("udp dport {{ {} }}", ports.join(", ")))?;
        let _forged = self.forge(&sources)?;
        self.under(|| {
            let mut sent = 0;
            for (source, to) in roads {
                sent += fire_as(&self.shots, *source, (*to).into())?.sent;
            }
            let arrived = meter.read()?.packets;
            ensure!(arrived as usize * 2 > sent, "the network let only {arrived} of {sent} through");
            Ok(format!("{sent} datagrams on {} forged roads", roads.len()))
        })
    }

    fn forge(&self, addresses: &[Ipv4Addr]) -> Result<Forged<'_>> {
        let forged = Forged { enemy: &self.enemy, addresses: addresses.to_vec() };
        for address in addresses {
            self.enemy.ip(&format!("addr add {address}/32 dev lo\n"))?;
        }
        Ok(forged)
    }
}

impl Drop for Forged<'_> {
    fn drop(&mut self) {
        for address in &self.addresses {
            // Later cases reach for the true owner and fail loudly if this one stays.
            drop(self.enemy.ip(&format!("addr del {address}/32 dev lo\n")));
        }
    }
}

fn judge(account: &Account, answers: Answers) -> Result<()> {
    let told = || in_words(account);
    match answers {
        Answers::None => ensure!(account.answers == 0, "it answers strangers: {} {:?}", told(), account.by_kind),
        Answers::AtMostLess => {
            ensure!(account.amplified.is_empty(), "answers longer than the question: {:?}", account.amplified);
        }
        Answers::Less => {
            ensure!(account.answers > 0, "it answers nothing, not even what it should: {}", told());
            ensure!(account.amplified.is_empty(), "answers longer than the question: {:?}", account.amplified);
        }
        Answers::Stun => {
            ensure!(account.by_kind.contains_key("stun binding"), "no answer to a binding request: {}", told());
            let excess = account.amplified.iter().find(|(kind, _, answer)| *answer > most(kind));
            ensure!(excess.is_none(), "an answer beyond the mandatory attributes: {excess:?}");
            ensure!(account.answered_bytes < account.sent_bytes / 4, "it answers too much: {}", told());
        }
    }
    Ok(())
}

/// The most that a STUN server without a proof of identity answers, in bytes.
fn most(kind: &str) -> usize {
    if kind.starts_with("stun binding") { 92 } else { 128 }
}

fn in_words(account: &Account) -> String {
    let Account { sent, sent_bytes, answers, answered_bytes, .. } = account;
    format!("{sent} datagrams of {sent_bytes} bytes, {answers} answers of {answered_bytes} bytes")
}

/// The UDP ports that a program's network namespace has open for IPv4, by the kernel's own table.
fn open_ports(pid: u32) -> Result<Vec<u16>> {
    let mut ports = Vec::new();
    for table in ["udp", "udp6"] {
        let path = format!("/proc/{pid}/net/{table}");
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let local = |line: &str| {
            let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
            u16::from_str_radix(port, 16).ok()
        };
        ports.extend(text.lines().skip(1).filter_map(local));
    }
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

/// The relayed ports that are open on the hub.
fn relayed_ports(front: &Front) -> Result<Vec<u16>> {
    Ok(open_ports(front.server.pid())?.into_iter().filter(|port| *port >= FIRST_RELAYED).collect())
}

/// The port of a machine's own that its links use, which its state folder keeps.
fn kept_port(machine: &Machine) -> Result<u16> {
    let path = machine.host.files()?.join("state/port");
    let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let port = bytes.last_chunk::<2>().context("the kept port has no bytes")?;
    Ok(u16::from_be_bytes(*port))
}

const SEED: u64 = 7;
const SIGNALING: u16 = 4433;
const STUN: u16 = 3478;
const FIRST_RELAYED: u16 = 49_152;
/// Warnings that a whole volley may cause in one program.
const ALARMS: usize = 3;
/// Growth of one program in KiB that is no leak: its buffers in use for the first time.
const MEMORY: u64 = 32 * 1024;
