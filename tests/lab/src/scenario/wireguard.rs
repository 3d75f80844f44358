//! The tunnel against the stranger `wireguard-go`, and between two ginneld of the same configuration file.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::batch::{self, Case};
use super::machine::{Machine, Programs, tail};
use crate::cases::CaseResult;
use crate::counters::Direction;
use crate::host::Host;
use crate::lab::Lab;
use crate::measure::{Load, Protocol, Towards, iperf3, ping};
use crate::nat::NatKind;
use crate::process::Process;
use crate::site::Site;

/// Who sends the first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Ours,
    Theirs,
}

/// Whether a preshared key is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Psk {
    With,
    Without,
}

/// Runs every proof, by name, two at a time; `tell` gets each result as it comes.
pub fn run(programs: &Programs, only: &str, tell: &(dyn Fn(&CaseResult) + Sync)) -> Vec<CaseResult> {
    let stranger =
        |first, psk| Box::new(move || against_stranger(programs, first, psk)) as Box<dyn Fn() -> Result<String> + Sync>;
    let cases: Vec<Case<'_>> = vec![
        ("wireguard-go: ginneld initiates", stranger(First::Ours, Psk::Without)),
        ("wireguard-go: wireguard-go initiates", stranger(First::Theirs, Psk::Without)),
        ("wireguard-go: ginneld initiates, preshared key", stranger(First::Ours, Psk::With)),
        ("wireguard-go: wireguard-go initiates, preshared key", stranger(First::Theirs, Psk::With)),
        ("wireguard-go: link survives rekeys", Box::new(|| rekey(programs))),
        ("wireguard-go: ginneld roams", Box::new(|| roam(programs, First::Ours))),
        ("wireguard-go: wireguard-go roams", Box::new(|| roam(programs, First::Theirs))),
        ("ginneld to ginneld: AES-256-GCM in its own frame", Box::new(|| two_ginneld(programs))),
    ];
    batch::run(cases, only, 2, tell)
}

fn against_stranger(programs: &Programs, first: First, psk: Psk) -> Result<String> {
    let scene = Scene::build(programs, psk, &[])?;
    scene.check_both_families(first)?;
    let (us, them) = (&scene.us.host, &scene.them.host);
    let to = |towards| Load { protocol: Protocol::Tcp, duration: Duration::from_secs(2), towards, streams: 1 };
    let up = iperf3(us, them, THEIRS_V4.into(), to(Towards::Server)).with_context(|| scene.logs())?;
    let down = iperf3(us, them, THEIRS_V4.into(), to(Towards::Client)).with_context(|| scene.logs())?;
    Ok(format!("{:.0} Mbit/s to it, {:.0} from it", up.bits_per_second / 1e6, down.bits_per_second / 1e6))
}

fn rekey(programs: &Programs) -> Result<String> {
    let scene = Scene::build(programs, Psk::Without, &["rekey_after_seconds = 2"])?;
    scene.check_both_families(First::Ours)?;
    let mut seen = std::collections::BTreeSet::new();
    let mut lost = 0;
    for _ in 0..18 {
        let round = ping(&scene.us.host, THEIRS_V4.into(), 10, Duration::from_millis(100))?;
        lost += round.sent - round.received;
        seen.insert(scene.them.latest_handshake()?);
    }
    if seen.len() < 3 || lost > 0 {
        bail!("{} handshakes seen, {lost} of 180 pings lost\n{}", seen.len(), scene.logs());
    }
    Ok(format!("{} handshakes, 0 of 180 pings lost", seen.len()))
}

fn roam(programs: &Programs, who: First) -> Result<String> {
    let scene = Scene::build(programs, Psk::Without, &[])?;
    scene.check_both_families(First::Ours)?;
    let moved = match who {
        First::Ours => move_address(&scene.us.host)?,
        First::Theirs => scene.them.move_port()?,
    };
    let (from, target): (&Host, IpAddr) = match who {
        First::Ours => (&scene.us.host, THEIRS_V4.into()),
        First::Theirs => (&scene.them.host, OURS_V4.into()),
    };
    let after = ping(from, target, 10, Duration::from_millis(200))?;
    if after.received < 8 {
        bail!("{} of 10 pings answered after the move\n{}", after.received, scene.logs());
    }
    let back: (&Host, IpAddr) = match who {
        First::Ours => (&scene.them.host, OURS_V4.into()),
        First::Theirs => (&scene.us.host, THEIRS_V4.into()),
    };
    let answered = ping(back.0, back.1, 5, Duration::from_millis(200))?;
    if answered.received < 4 {
        bail!("{} of 5 pings towards the new address answered\n{}", answered.received, scene.logs());
    }
    Ok(format!("{moved}: {} of 10 pings answered", after.received))
}

/// The mover loses the address that the other side knows, and speaks from its other one.
fn move_address(mover: &Host) -> Result<String> {
    let outer = mover.ipv4s();
    let [old, new] = outer.as_slice() else { bail!("the moving machine has not two addresses") };
    // Removing the first address of a network removes the others too, and the routes through it.
    let device = mover.interface();
    let routes = mover.run(&["ip", "-4", "route", "show", "default"], Duration::from_secs(2))?.success()?;
    let gateway = routes.split_whitespace().nth(2).context("the moving machine has no default route")?;
    let shown = mover.run(&["ip", "-4", "-o", "address", "show", "dev", device], Duration::from_secs(2))?.success()?;
    let prefix = shown
        .split_whitespace()
        .find_map(|word| word.strip_prefix(&format!("{old}/")))
        .context("the moving machine does not show its address")?;
    mover.ip(&format!(
        "address del {old}/{prefix} dev {device}\naddress replace {new}/{prefix} dev {device}\n\
         route replace default via {gateway} dev {device}\n"
    ))?;
    Ok(format!("from {old} to {new}"))
}

fn two_ginneld(programs: &Programs) -> Result<String> {
    let lab = sites()?;
    let (host_a, host_b) = (lab.host("a")?, lab.host("b")?);
    let (key_a, key_b) = (Keys::generate()?, Keys::generate()?);
    let configure = |host: &Host, own: &Keys, other: &Keys, inner: &str, peer: &str, endpoint: Option<Ipv4Addr>| {
        let endpoint = endpoint.map_or_else(String::new, |ip| format!("endpoint = \"{ip}:{PORT}\"\n"));
        write_config(host, own, inner, &[], &format!("kind = \"ginnel\"\n{endpoint}"), peer, other, None)
    };
    let config_a = configure(&host_a, &key_a, &key_b, "ours", "theirs", Some(host_b.ipv4()))?;
    let config_b = configure(&host_b, &key_b, &key_a, "theirs", "ours", None)?;
    let aes = host_a.count_bytes(Direction::Out, "udp length > 40 @th,64,8 0xc3")?;
    let other = host_a.count_bytes(Direction::Out, "udp length > 40 @th,64,8 0x04")?;
    let a = Machine::start_with(&host_a, programs, &["--config", &config_a])?;
    let b = Machine::start_with(&host_b, programs, &["--config", &config_b])?;
    let logs = || format!("a says:\n{}\nb says:\n{}", tail(&a.log()), tail(&b.log()));
    for target in [IpAddr::V4(THEIRS_V4), THEIRS_V6.parse()?] {
        let answered = ping(&host_a, target, 5, Duration::from_millis(200))?;
        if answered.received < 4 {
            bail!("{} of 5 pings to {target} answered\n{}", answered.received, logs());
        }
    }
    let load = Load { protocol: Protocol::Tcp, duration: Duration::from_secs(2), towards: Towards::Server, streams: 1 };
    let flow = iperf3(&host_a, &host_b, THEIRS_V4.into(), load).with_context(logs)?;
    let (aes, other) = (aes.read()?.packets, other.read()?.packets);
    if aes < 100 || other > 0 {
        bail!("{aes} datagrams of the AES suite and {other} of WireGuard's left");
    }
    Ok(format!("{:.0} Mbit/s in {aes} datagrams of type 0xC3", flow.bits_per_second / 1e6))
}

struct Scene {
    us: Machine,
    them: Stranger,
    _lab: Lab,
}

impl Scene {
    fn build(programs: &Programs, psk: Psk, debug: &[&str]) -> Result<Self> {
        let lab = sites()?;
        let (ours, theirs) = (lab.host("a")?, lab.host("b")?);
        let (our_keys, their_keys) = (Keys::generate()?, Keys::generate()?);
        let psk = match psk {
            Psk::With => Some(run_tool("wg", &["genpsk"], "")?),
            Psk::Without => None,
        };
        let peer = format!("kind = \"wireguard\"\nendpoint = \"{}:{PORT}\"\n", theirs.ipv4());
        let config = write_config(&ours, &our_keys, "ours", debug, &peer, "theirs", &their_keys, psk.as_deref())?;
        let them = Stranger::start(&theirs, &their_keys, &our_keys, psk.as_deref(), (ours.ipv4(), PORT))?;
        let us = Machine::start_with(&ours, programs, &["--config", &config, "--test-mode"])?;
        Ok(Self { us, them, _lab: lab })
    }

    /// The first packets go from the side that is to initiate, which has to be the one.
    fn check_both_families(&self, first: First) -> Result<()> {
        let (from, v4, v6): (&Host, IpAddr, IpAddr) = match first {
            First::Ours => (&self.us.host, THEIRS_V4.into(), THEIRS_V6.parse()?),
            First::Theirs => (&self.them.host, OURS_V4.into(), OURS_V6.parse()?),
        };
        for target in [v4, v6] {
            let answered = ping(from, target, 5, Duration::from_millis(200))?;
            if answered.received < 4 {
                bail!("{} of 5 pings to {target} answered\n{}", answered.received, self.logs());
            }
        }
        Ok(())
    }

    fn logs(&self) -> String {
        format!("ginneld says:\n{}\nwireguard-go says:\n{}", tail(&self.us.log()), tail(&self.them.process.stdout()))
    }
}

/// A machine with `wireguard-go`.
struct Stranger {
    host: Host,
    interface: String,
    process: Process,
}

impl Stranger {
    fn start(host: &Host, own: &Keys, peer: &Keys, psk: Option<&str>, endpoint: (Ipv4Addr, u16)) -> Result<Self> {
        // The control socket of wireguard-go lies in one folder for all namespaces: the name must be the only one.
        let interface = format!("gw{}x{}", std::process::id() % 100_000, SERIAL.fetch_add(1, Ordering::Relaxed));
        let process = host.spawn("wireguard-go", &["wireguard-go", "-f", &interface], &[("LOG_LEVEL", "verbose")])?;
        let begun = Instant::now();
        let socket = format!("/var/run/wireguard/{interface}.sock");
        while !Path::new(&socket).exists() {
            if begun.elapsed() > Duration::from_secs(5) || !process.is_running() {
                bail!("wireguard-go did not start: {} {}", process.stdout(), process.stderr());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let files = host.files()?;
        let own_file = secret_file(files, "stranger.key", &own.secret)?;
        let mut argv: Vec<String> =
            ["wg", "set", &interface, "listen-port", &PORT.to_string(), "private-key", &own_file, "peer", &peer.public]
                .map(str::to_owned)
                .to_vec();
        if let Some(psk) = psk {
            argv.extend(["preshared-key".to_owned(), secret_file(files, "stranger.psk", psk)?]);
        }
        argv.extend(["endpoint".to_owned(), format!("{}:{}", endpoint.0, endpoint.1)]);
        argv.extend(["allowed-ips".to_owned(), format!("{OURS_V4}/32,{OURS_V6}/128")]);
        host.run(&argv, Duration::from_secs(5))?.success()?;
        host.ip(&format!(
            "address add {THEIRS_V4}/24 dev {interface}\naddress add {THEIRS_V6}/64 dev {interface}\n\
             link set {interface} mtu 1280 up\n"
        ))?;
        Ok(Self { host: host.clone(), interface, process })
    }

    /// Takes another port; the other side learns of it by the next packet.
    fn move_port(&self) -> Result<String> {
        let port = (PORT + 1).to_string();
        self.host.run(&["wg", "set", &self.interface, "listen-port", &port], Duration::from_secs(5))?.success()?;
        Ok(format!("from port {PORT} to {port}"))
    }

    fn latest_handshake(&self) -> Result<u64> {
        let shown =
            self.host.run(&["wg", "show", &self.interface, "latest-handshakes"], Duration::from_secs(5))?.success()?;
        shown.split_whitespace().last().and_then(|text| text.parse().ok()).context("no handshake is shown")
    }
}

/// A key pair in WireGuard's text form.
struct Keys {
    secret: String,
    public: String,
}

impl Keys {
    fn generate() -> Result<Self> {
        let secret = run_tool("wg", &["genkey"], "")?;
        let public = run_tool("wg", &["pubkey"], &secret)?;
        Ok(Self { secret, public })
    }
}

fn sites() -> Result<Lab> {
    Lab::builder()
        .site(Site::new("a", NatKind::Open).addresses(2))
        .site(Site::new("b", NatKind::Open).addresses(2))
        .build()
}

#[allow(clippy::too_many_arguments, reason = "a configuration file has as many parts")]
fn write_config(
    host: &Host,
    own: &Keys,
    inner: &str,
    debug: &[&str],
    peer: &str,
    peer_inner: &str,
    peer_keys: &Keys,
    psk: Option<&str>,
) -> Result<String> {
    let files = host.files()?;
    let key = secret_file(files, "own.key", &own.secret)?;
    let (v4, v6) = inner_addresses(inner);
    let (peer_v4, peer_v6) = inner_addresses(peer_inner);
    let mut text = format!(
        "[interface]\nprivate_key_file = \"{key}\"\naddresses = [\"{v4}/24\", \"{v6}/64\"]\nlisten_port = {PORT}\n\n\
         [[peer]]\nname = \"peer\"\npublic_key = \"{}\"\nallowed_ips = [\"{peer_v4}/32\", \"{peer_v6}/128\"]\n{peer}",
        peer_keys.public
    );
    if let Some(psk) = psk {
        text.push_str(&format!("preshared_key_file = \"{}\"\n", secret_file(files, "own.psk", psk)?));
    }
    if !debug.is_empty() {
        text.push_str(&format!("\n[debug]\n{}\n", debug.join("\n")));
    }
    let path = files.join("ginneld.toml");
    std::fs::write(&path, text).context("write the configuration")?;
    Ok(path.to_string_lossy().into_owned())
}

fn inner_addresses(side: &str) -> (Ipv4Addr, &'static str) {
    if side == "ours" { (OURS_V4, OURS_V6) } else { (THEIRS_V4, THEIRS_V6) }
}

fn secret_file(folder: &Path, name: &str, content: &str) -> Result<String> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = folder.join(name);
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("write {}", path.display()))?;
    writeln!(file, "{content}").context("write a key")?;
    Ok(path.to_string_lossy().into_owned())
}

fn run_tool(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A tool that makes keys reads nothing and may be gone already; its exit code tells.
        drop(writeln!(pipe, "{input}"));
    }
    let output = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    if !output.status.success() {
        bail!("{program} failed");
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

const OURS_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const OURS_V6: &str = "fd77::1";
const THEIRS_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const THEIRS_V6: &str = "fd77::2";
const PORT: u16 = 51820;

static SERIAL: AtomicU32 = AtomicU32::new(0);
