//! Signaling servers that are not the one that a network names, or that cannot start.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Book, Case, ends, in_no_network, refused};
use crate::host::Host;
use crate::lab::Lab;
use crate::nat::NatKind;
use crate::process::Process;
use crate::scenario::machine::{Machine, Programs, tail};
use crate::site::Site;

/// A public host for servers, with a founder of a network and a guest.
struct Harbour {
    hub: Host,
    founder: Machine,
    guest: Machine,
    programs: Programs,
    _lab: Lab,
}

pub(super) fn chapter(programs: &Programs, book: &Book<'_>) {
    let cases: [Case<Harbour>; 6] = [
        ("server: another key at the same address", another_key),
        ("server: two on one state folder", two_on_one_folder),
        ("server: port in use", port_in_use),
        ("server: damaged keys", damaged_keys),
        ("server: damaged database", damaged_database),
        ("server: a state folder that others may write", open_folder),
    ];
    book.chapter(|| Harbour::build(programs), &cases);
}

impl Harbour {
    fn build(programs: &Programs) -> Result<Self> {
        let lab = Lab::builder()
            .site(Site::new("founder", NatKind::Open))
            .site(Site::new("guest", NatKind::Open))
            .site(Site::server("hub"))
            .build()?;
        let founder = Machine::start(&lab.host("founder")?, programs)?;
        let guest = Machine::start(&lab.host("guest")?, programs)?;
        Ok(Self { hub: lab.host("hub")?, founder, guest, programs: programs.clone(), _lab: lab })
    }

    /// The command line of a server on the state folder `state`.
    fn argv(&self, state: &str, more: &[&str]) -> Result<Vec<String>> {
        let state = self.hub.files()?.join(state).to_string_lossy().into_owned();
        let address = self.hub.ipv4().to_string();
        let mut argv = vec![self.programs.path("ginnel-signal")];
        argv.extend(["--state", &state, "--public-address", &address].map(str::to_owned));
        argv.extend(more.iter().map(|&argument| argument.to_owned()));
        Ok(argv)
    }

    /// Starts a server and answers its founding string.
    fn serve(&self, state: &str, more: &[&str]) -> Result<(Process, String)> {
        let process = self.hub.spawn("ginnel-signal", &self.argv(state, more)?, &[])?;
        let founding = process.wait_for_line(Duration::from_secs(10), |line| line.starts_with("ginnel-found-"))?;
        Ok((process, founding))
    }
}

fn another_key(harbour: &Harbour) -> Result<String> {
    let (first, founding) = harbour.serve("first", &[])?;
    harbour.founder.up(&founding, "founder")?;
    let invite = harbour.founder.invite()?;
    let before = harbour.founder.ginnel(&["ip"])?;
    first.stop()?;
    let (second, _) = harbour.serve("second", &["--log", "debug"])?;
    let said = refused(&harbour.guest, &["up", &invite], 1, &["another key", "fresh invite"])?;
    // The daemon keeps trying, as the true server may come back; who has a fresh invite gives this attempt up.
    harbour.guest.ginnel(&["leave", "--yes"])?;
    in_no_network(&harbour.guest)?;
    ensure!(harbour.founder.ginnel(&["ip"])? == before, "the founder's membership changed");
    let mut status = harbour.founder.ginnel(&["status"])?;
    for _ in 0..200 {
        if status["health"].to_string().contains("another key") {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        status = harbour.founder.ginnel(&["status"])?;
    }
    ensure!(status["health"].to_string().contains("another key"), "status does not say why: {status}");
    ensure!(status["networks"][0]["server"]["connected"] == false, "the founder believes the server: {status}");
    // The proof of a key is the first thing that a client says once the server has proved its own; it would have been let
    // in or turned away by name. What reached this server is a greeting that it cannot open.
    let log = second.stop()?.stderr;
    ensure!(log.contains("input of no use"), "nobody tried this server: {log}");
    let told = log.lines().find(|line| ["client let in", "client not admitted"].iter().any(|word| line.contains(word)));
    ensure!(told.is_none(), "a client proved a key to a stranger: {told:?}");
    Ok(said)
}

fn two_on_one_folder(harbour: &Harbour) -> Result<String> {
    let (first, _) = harbour.serve("shared", &[])?;
    let other_ports = ["--listen", "[::]:4434", "--stun", "[::]:3479"];
    let said = ends(&harbour.hub, &harbour.argv("shared", &other_ports)?, 1, &["another ginnel-signal", "--state"])?;
    ends(&harbour.hub, &harbour.argv("shared", &[])?, 1, &["another ginnel-signal", "--state"])?;
    ensure!(first.is_running(), "the first one ended");
    Ok(said)
}

fn port_in_use(harbour: &Harbour) -> Result<String> {
    let (first, _) = harbour.serve("holder", &[])?;
    let stun = harbour.argv("newcomer", &["--listen", "[::]:4434"])?;
    ends(&harbour.hub, &stun, 1, &["3478", "in use", "--stun"])?;
    let said = ends(&harbour.hub, &harbour.argv("newcomer", &[])?, 1, &["4433", "in use", "--listen"])?;
    ensure!(first.is_running(), "the first one ended");
    Ok(said)
}

fn damaged_keys(harbour: &Harbour) -> Result<String> {
    let (first, _) = harbour.serve("keys", &[])?;
    first.stop()?;
    let path = harbour.hub.files()?.join("keys/server.key");
    let whole = std::fs::read(&path).context("read the server's keys")?;
    for damaged in [&whole[..whole.len() / 2], &[], &[9; 97]] {
        std::fs::write(&path, damaged)?;
        ends(&harbour.hub, &harbour.argv("keys", &[])?, 1, &["server.key"])?;
        ensure!(std::fs::read(&path)? == damaged, "the damaged file was changed");
    }
    std::fs::remove_file(&path)?;
    let said = ends(&harbour.hub, &harbour.argv("keys", &[])?, 1, &["server.key", "missing", "backup"])?;
    ensure!(!path.exists(), "keys were made anew under existing logs");
    Ok(said)
}

fn damaged_database(harbour: &Harbour) -> Result<String> {
    let (first, _) = harbour.serve("database", &[])?;
    first.stop()?;
    let path = harbour.hub.files()?.join("database/signal.db");
    let mut bytes = std::fs::read(&path).context("read the database")?;
    bytes[..200].fill(0x5A);
    std::fs::write(&path, &bytes)?;
    let said = ends(&harbour.hub, &harbour.argv("database", &[])?, 1, &["signal.db"])?;
    ensure!(std::fs::read(&path)? == bytes, "the damaged file was changed");
    Ok(said)
}

fn open_folder(harbour: &Harbour) -> Result<String> {
    let folder = harbour.hub.files()?.join("open");
    std::fs::create_dir(&folder)?;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777))?;
    ends(&harbour.hub, &harbour.argv("open", &[])?, 1, &["chmod 0700"])?;
    let file = harbour.hub.files()?.join("file");
    std::fs::write(&file, "precious")?;
    let said = ends(&harbour.hub, &harbour.argv("file", &[])?, 1, &["not a folder"])?;
    ensure!(std::fs::read(&file)? == b"precious", "{}", tail(&said));
    Ok(said)
}
