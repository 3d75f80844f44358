//! A signaling server in the wrong hands: its keys, its database and its wires are the attacker's.
//!
//! The attacker stops the server, rewrites its log with the true sequencer's key, and lets it serve again; what then goes
//! over the wire is what a modified program would send. Each case demands three things: the forgery has no effect, the
//! machines say so, and the link that stood before carries on.

mod forge;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ed25519_dalek::SigningKey;
use serde_json::Value;

use self::forge::{Forger, History, MEMBER, Stored, invite_record, member_record, swap_tunnel_key};
use super::batch::{self, Case};
use super::machine::{Machine, Programs};
use super::pulse::{Pulse, unix_now};
use super::scene::{LINK, Member, Scene, demand, until};
use crate::cases::CaseResult;
use crate::host::Host;
use crate::nat::NatKind;

/// Runs every case; `tell` gets each result as it comes.
pub fn run(programs: &Programs, only: &str, tell: &(dyn Fn(&CaseResult) + Sync)) -> Vec<CaseResult> {
    let case = |name, work: fn(&Programs) -> Result<String>| -> Case<'_> { (name, Box::new(move || work(programs))) };
    let cases = vec![
        case("hostile-server: adds a member", adds_member),
        case("hostile-server: adds a member by an invite of its own", adds_invite_and_member),
        case("hostile-server: swaps a member's key", swaps_key),
        case("hostile-server: rolls the log back", rolls_back),
        case("hostile-server: takes a revocation back", unrevokes),
        case("hostile-server: shows two histories", two_histories),
    ];
    batch::run(cases, only, AT_ONCE, tell)
}

/// Two linked machines and their server, with a stream of pings that must not stop.
struct Siege {
    scene: Scene,
    pulse: Pulse,
    begun: Duration,
}

impl Siege {
    fn lay(programs: &Programs) -> Result<Self> {
        let scene = Scene::pair(programs, NatKind::PortRestricted, NatKind::PortRestricted)?;
        let pulse = scene.pulse(0, 1)?;
        pulse.steady(LINK)?;
        scene.crew[0].await_path("b", &super::scene::DIRECT, LINK)?;
        Ok(Self { scene, pulse, begun: unix_now() })
    }

    /// Stops the server, lets `work` rewrite its log, and starts it again.
    fn rewrite(&mut self, work: impl FnOnce(&mut History) -> Result<()>) -> Result<()> {
        let state = server_state(&self.scene.hub)?;
        self.scene.server.end(libc::SIGTERM)?;
        let forger = Forger::break_in(&state)?;
        let mut history = forger.read()?;
        work(&mut history)?;
        forger.write(&history)?;
        self.scene.server.start_again()
    }

    /// The link has carried on since the siege began, and everybody has the same peers as before.
    fn judge_links(&self) -> Result<()> {
        let gap = self.pulse.gap_since(self.begun, Duration::from_secs(1), LINK)?;
        demand(gap < LONGEST_GAP, || format!("the link was silent for {gap:?}"))?;
        for (member, other) in self.scene.crew.iter().zip(["b", "a"]) {
            let names = peer_names(&member.machine)?;
            demand(names == [other], || format!("{} has the peers {names:?}", member.name))?;
        }
        Ok(())
    }

    /// Waits until a machine says something of the forgery in its health report.
    fn await_alarm(&self, member: &Member) -> Result<String> {
        alarm(&member.machine)
            .with_context(|| format!("{} says nothing of the forgery\n{}", member.name, self.scene.logs()))
    }
}

fn adds_member(programs: &Programs) -> Result<String> {
    let mut siege = Siege::lay(programs)?;
    siege.rewrite(|history| {
        let record = member_record(&history.network, &key(1), &key(2), "mallory")?;
        history.append(record);
        Ok(())
    })?;
    let refused = refused_entry(&siege.scene.crew[0], "member")?;
    let alarm = siege.await_alarm(&siege.scene.crew[0])?;
    siege.judge_links()?;
    Ok(format!("the log says: {refused}; status says: {alarm}"))
}

fn adds_invite_and_member(programs: &Programs) -> Result<String> {
    let mut siege = Siege::lay(programs)?;
    siege.rewrite(|history| {
        let (mallory, invite) = (key(3), key(4));
        history.append(invite_record(&history.network, &mallory, &invite, u64::MAX >> 1));
        let record = member_record(&history.network, &invite, &key(5), "mallory")?;
        history.append(record);
        Ok(())
    })?;
    refused_entry(&siege.scene.crew[0], "invite")?;
    let refused = refused_entry(&siege.scene.crew[1], "member")?;
    let alarm = siege.await_alarm(&siege.scene.crew[1])?;
    siege.judge_links()?;
    Ok(format!("the log says: {refused}; status says: {alarm}"))
}

fn swaps_key(programs: &Programs) -> Result<String> {
    let mut siege = Siege::lay(programs)?;
    let ticket = siege.scene.crew[0].machine.invite()?;
    siege.rewrite(|history| {
        let last =
            history.entries.iter().rposition(|entry| entry.kind() == Some(MEMBER)).context("nobody has joined")?;
        swap_tunnel_key(&mut history.entries[last], key(6).verifying_key().as_bytes())
    })?;
    let alarms = [siege.await_alarm(&siege.scene.crew[0])?, siege.await_alarm(&siege.scene.crew[1])?];
    siege.judge_links()?;
    // Whoever joins by the forged history must not take the swapped key for b's.
    let newcomer = Machine::start(&siege.scene.lab.host("spare")?, programs)?;
    let joined = newcomer.run(&["up", &ticket, "--name", "c"])?;
    let sees = if joined.status.success() { peer_names(&newcomer)? } else { Vec::new() };
    demand(!sees.iter().any(|name| name == "b"), || "the newcomer takes the swapped key for b's".to_owned())?;
    siege.judge_links()?;
    Ok(format!("status says: {}; the newcomer sees {sees:?}", alarms[0]))
}

fn rolls_back(programs: &Programs) -> Result<String> {
    let mut siege = Siege::lay(programs)?;
    let length = siege.scene.crew[0].log_entries()?.len();
    siege.rewrite(|history| {
        history.entries.truncate(history.entries.len().saturating_sub(2));
        Ok(())
    })?;
    siege.judge_links()?;
    // A shorter log of the same history is no fork: the members fill it up again.
    let state = server_state(&siege.scene.hub)?;
    let refilled = until(LINK, || {
        let held = Forger::break_in(&state)?.read()?.entries.len();
        Ok((held >= length).then_some(held))
    })?;
    let held = refilled.context("nobody gave the server its entries back")?;
    let log = siege.scene.crew[0].log_entries()?.len();
    demand(log >= length, || format!("a's log shrank from {length} to {log}"))?;
    siege.judge_links()?;
    Ok(format!("the server lost 2 of {length} entries and has {held} again"))
}

fn unrevokes(programs: &Programs) -> Result<String> {
    let mut siege = Siege::lay(programs)?;
    let host = siege.scene.lab.host("spare")?;
    siege.scene.join(programs, &host, "mallory")?;
    siege.scene.crew[0].machine.ginnel(&["revoke", "mallory", "--yes"])?;
    let put_out = siege.scene.crew.pop().context("mallory has joined")?;
    until(LINK, || Ok(peer_names(&siege.scene.crew[1].machine)?.len().eq(&1).then_some(())))?
        .context("b still has mallory as a peer")?;
    siege.rewrite(|history| {
        let revocation = history.entries.iter().rposition(|entry| entry.kind() == Some(REVOKE));
        history.entries.truncate(revocation.context("the revocation is not in the log")?);
        Ok(())
    })?;
    let began = unix_now();
    let reached = Pulse::start(put_out.host(), siege.scene.crew[1].inner.v4.into())?;
    std::thread::sleep(Duration::from_secs(8));
    let answers = reached.answers_since(began);
    demand(answers == 0, || format!("mallory got {answers} answers after its revocation was taken back"))?;
    siege.judge_links()?;
    Ok("mallory stays out".to_owned())
}

/// The server shows the members one history and, on another port to which the packet filter leads b, a second one.
fn two_histories(programs: &Programs) -> Result<String> {
    let mut siege = Siege::lay(programs)?;
    let hub = siege.scene.hub.clone();
    let state = server_state(&hub)?;
    let other = state.with_file_name("other-state");
    siege.scene.server.end(libc::SIGTERM)?;
    copy_folder(&state, &other)?;
    let append = |folder: &PathBuf, number: u8| -> Result<()> {
        let forger = Forger::break_in(folder)?;
        let mut history = forger.read()?;
        history.append(invite_record(&history.network, &key(number), &key(number + 1), u64::MAX >> 1));
        forger.write(&history)
    };
    append(&state, 10)?;
    append(&other, 20)?;
    let second = second_server(programs, &hub, &other)?;
    let b = siege.scene.lab.face("b")?.ipv4();
    hub.nft(&format!(
        "table ip twofaced {{\nchain in {{\ntype nat hook prerouting priority -100;\n\
         ip saddr {b} udp dport 4433 redirect to :{SECOND_PORT}\n}}\n}}\n"
    ))?;
    siege.scene.server.start_again()?;
    let alarm = until(Duration::from_secs(70), || {
        Ok(siege.scene.crew.iter().find_map(|member| fork(&member.machine).ok().flatten()))
    })?;
    let alarm = alarm.with_context(|| format!("nobody notices the second history\n{}", siege.scene.logs()))?;
    siege.judge_links()?;
    drop(second);
    Ok(format!("status says: {alarm}"))
}

fn second_server(programs: &Programs, hub: &Host, state: &std::path::Path) -> Result<crate::process::Process> {
    let addresses: Vec<String> = hub.addresses().iter().map(ToString::to_string).collect();
    let (listen, stun) = (format!("[::]:{SECOND_PORT}"), format!("[::]:{}", SECOND_PORT + 1));
    let (state, addresses) = (state.to_string_lossy(), addresses.join(","));
    let program = programs.path("ginnel-signal");
    let argv = [&*program, "--state", &state, "--public-address", &addresses, "--listen", &listen, "--stun", &stun];
    let process = hub.spawn("second-server", &argv, &[])?;
    process.wait_for_line(Duration::from_secs(10), |line| line.contains("serving"))?;
    Ok(process)
}

impl History {
    /// Puts a record at the end, dated like the entry before it.
    fn append(&mut self, record: Vec<u8>) {
        let time = self.entries.last().map_or(0, |last| last.time);
        self.entries.push(Stored { time, record });
    }
}

/// Waits until the log shows a refused entry of a kind, and answers why it was refused.
fn refused_entry(member: &Member, kind: &str) -> Result<String> {
    let found = until(LINK, || {
        let entries = member.log_entries()?;
        let refused = entries.iter().find(|entry| entry["kind"] == kind && entry["verdict"] == "refused");
        Ok(refused.map(|entry| entry["reason"].as_str().unwrap_or("no reason").to_owned()))
    })?;
    match found {
        Some(reason) => Ok(reason),
        None => bail!("{} shows no refused {kind} in its log: {:?}", member.name, member.log_entries()?),
    }
}

/// Waits for a health item that speaks of the server's log.
fn alarm(machine: &Machine) -> Result<String> {
    let found = until(Duration::from_secs(30), || {
        let texts = health(machine)?;
        Ok(texts.into_iter().find(|text| text.contains("histor") || text.contains("verify") || text.contains("order")))
    })?;
    found.context("no alarm in `ginnel status`")
}

/// The health item that speaks of another history, if there is one.
fn fork(machine: &Machine) -> Result<Option<String>> {
    Ok(health(machine)?.into_iter().find(|text| text.contains("histor")))
}

fn health(machine: &Machine) -> Result<Vec<String>> {
    let status = machine.ginnel(&["status"])?;
    let items = status["health"].as_array().cloned().unwrap_or_default();
    Ok(items.iter().filter_map(|item: &Value| item["text"].as_str().map(str::to_owned)).collect())
}

fn peer_names(machine: &Machine) -> Result<Vec<String>> {
    let peers = machine.ginnel(&["peers"])?;
    let names = peers["peers"].as_array().into_iter().flatten();
    Ok(names.filter_map(|peer| peer["name"].as_str().map(str::to_owned)).collect())
}

fn server_state(hub: &Host) -> Result<PathBuf> {
    Ok(hub.files()?.join("signal-state"))
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    std::fs::create_dir(to).with_context(|| format!("make {}", to.display()))?;
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
    for file in std::fs::read_dir(from)? {
        let file = file?;
        std::fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}

/// A key of the attacker.
fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

/// Cases at the same time.
const AT_ONCE: usize = 3;
/// What a link may miss while the server is exchanged under it: nothing but the noise of a busy machine.
const LONGEST_GAP: Duration = Duration::from_secs(2);
const REVOKE: u8 = 6;
const SECOND_PORT: u16 = 5433;
