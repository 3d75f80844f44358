//! `ginneld`: the daemon, one per machine. It owns the TUN interface, the UDP sockets and this machine's keys.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use ginnel_forward::Config as ForwardConfig;
use ginnel_local_api::{Exit, Timestamp};
use ginnel_node::{BadState, ConfigPeer, ConfigPeerKind, Debug, Node, Resume, StoredLog};
use ginnel_path::Policy;
use ginnel_time::Instant;
use ginnel_tunnel::{PresharedKey, PublicKey, StaticSecret, Suite};
use ginneld::api::{ControlSocket, Events, Options as SocketOptions};
use ginneld::clock;
use ginneld::config::{Config, ConfigError, Mode, Peer, PeerKind};
use ginneld::control::{Control, LOG_PREFIX, STATE, STATE_VERSION, Tasks, folder, log_name, own_sockets};
use ginneld::data::{DataThread, Options as DataOptions};
use ginneld::hosts::Hosts;
use ginneld::netlink::Netlink;
use ginneld::record::{self, Recorder};
use ginneld::state::transfer::{self, Replace};
use ginneld::state::{Keeper, StateError, StateFolder};
use ginneld::tun::Tun;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// The Ginnel daemon: links this machine with others into one private IP network.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    args_conflicts_with_subcommands = false,
    after_help = AFTER_HELP
)]
struct Arguments {
    /// Configuration file [default: /etc/ginnel/ginneld.toml when it exists].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// State folder: keys and the membership log [default: $STATE_DIRECTORY or /var/lib/ginnel].
    #[arg(long, value_name = "DIR", global = true)]
    state: Option<PathBuf>,
    /// Control socket [default: ginneld.sock in $RUNTIME_DIRECTORY or /run/ginnel].
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Name of the TUN interface.
    #[arg(long, value_name = "NAME", default_value = "ginnel0")]
    interface: String,
    /// Hosts file for the names of peers, in place of the configured one.
    #[arg(long, value_name = "FILE")]
    hosts: Option<PathBuf>,
    /// Records everything that this machine's node is told to a new file, for `cargo xtask sim --replay FILE`
    ///
    /// The file holds this machine's private keys and the strings with which it joins: whoever has it can be this machine.
    /// Only its owner can read it. Recording ends at 256 MiB; the daemon goes on.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Accepts the `[debug]` section of the configuration, whose settings only tests need.
    #[arg(long)]
    test_mode: bool,
    #[command(subcommand)]
    task: Option<Task>,
}

/// What is done in place of running, while no daemon runs on the state folder.
#[derive(Debug, Subcommand)]
enum Task {
    /// Write this machine's whole state, its private keys included, to a new file
    ///
    /// The machine that imports the file takes this one's place: this one must not run on with its state.
    Export {
        /// The file to make; nobody but its owner can read it
        file: PathBuf,
    },
    /// Take in what `ginneld export` wrote on another machine, and be that machine from now on
    Import {
        /// The exported file
        file: PathBuf,
        /// Put it in place of the state that this machine has, which is lost
        #[arg(long)]
        replace: bool,
    },
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("GINNEL_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    if let Err(error) = ginneld::protect_memory() {
        tracing::warn!("a core file of this process would hold its keys: {error}");
    }
    if let Some(task) = arguments.task.take() {
        return match transfer(task, arguments.state) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        };
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("start the runtime")),
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Says why the daemon ends, and gives the exit code for it.
fn fail(error: &anyhow::Error) -> ExitCode {
    // Standard error may be closed; there is nobody else to tell.
    drop(writeln!(std::io::stderr(), "ginneld: {error:#}"));
    let state = error.chain().find_map(|cause| cause.downcast_ref::<StateError>());
    let node = error.chain().find_map(|cause| cause.downcast_ref::<BadState>());
    ExitCode::from(match (state, node) {
        (Some(StateError::Newer { .. }), _) | (_, Some(BadState::Newer(_))) => NEWER_STATE,
        (Some(StateError::Damaged { .. }), _) | (_, Some(BadState::Broken)) => DAMAGED_STATE,
        _ if error.is::<ConfigError>() => Exit::Config.code(),
        _ => Exit::Failed.code(),
    })
}

/// Moves a machine's state out of or into its folder.
fn transfer(task: Task, state: Option<PathBuf>) -> Result<()> {
    let path = state.unwrap_or_else(|| folder("STATE_DIRECTORY", "/var/lib/ginnel"));
    let mut out = std::io::stdout().lock();
    match task {
        Task::Export { file } => {
            anyhow::ensure!(path.is_dir(), "there is no state folder {}", path.display());
            let count = transfer::export(&mut StateFolder::open(&path)?, &file)?;
            writeln!(
                out,
                "Exported {count} files of {} to {}.\n\
                 It holds this machine's private keys: carry it by a safe road and destroy it after the import.\n\
                 Do not start ginneld here again before {} is removed: two machines with one state push each other out.",
                path.display(),
                file.display(),
                path.display()
            )?;
        }
        Task::Import { file, replace } => {
            let replace = if replace { Replace::Yes } else { Replace::No };
            let count = transfer::import(&mut StateFolder::open(&path)?, &file, replace)?;
            writeln!(
                out,
                "Imported {count} files to {}. Start ginneld to be that machine; the old one must not run on.",
                path.display()
            )?;
        }
    }
    Ok(())
}

async fn run(arguments: Arguments) -> Result<()> {
    let mode = if arguments.test_mode { Mode::Test } else { Mode::Normal };
    let config = load_config(arguments.config.as_deref(), mode)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let state_folder = arguments.state.unwrap_or_else(|| folder("STATE_DIRECTORY", "/var/lib/ginnel"));
    let socket = arguments.socket.unwrap_or_else(|| folder("RUNTIME_DIRECTORY", "/run/ginnel").join("ginneld.sock"));
    let mut state = Keeper::new(StateFolder::open(&state_folder)?);
    let resume = resume(&mut state)?;
    // A disk that takes nothing is said at once; links come up from what it holds.
    let _ = state.check(clock::now());
    let netlink = Netlink::open()?;
    let control_socket =
        ControlSocket::bind(&SocketOptions { path: socket.clone(), admin_group: config.control.admin_group.clone() })?;
    let mtu = config.interface.mtu.unwrap_or(MTU);
    let tun = Tun::open(&arguments.interface, mtu, &netlink).await?;

    let mut forward = ForwardConfig { mtu: usize::from(mtu), ..ForwardConfig::default() };
    if let Some(seconds) = config.debug.rekey_after_seconds {
        forward.rekey_after_time = std::time::Duration::from_secs(seconds);
    }
    let file = tun.file().context("share the TUN with the data thread")?;
    let (data, events) = DataThread::spawn(DataOptions { seed: random()?, forward, tun: Some(file) })?;
    let hosts_file = arguments.hosts.unwrap_or_else(|| config.names.hosts_file.clone());
    let hosts = config.names.write_hosts.then(|| Hosts::new(hosts_file, &arguments.interface));
    let own = own_sockets(&mut state, config.interface.listen_port)?;
    let (now, config) = (clock::now(), node_config(config).await?);
    let recorder = arguments.record.map(|path| recorder(&path, now, &config, &resume)).transpose()?;
    let node = Node::new(now, config, resume).context("take up the saved state")?;

    let (calls_sender, calls) = mpsc::channel(CALLS);
    let (stop_api, api_stopped) = tokio::sync::oneshot::channel::<()>();
    let events_out = Events::default();
    let api = tokio::spawn(control_socket.serve(calls_sender, events_out.clone(), async {
        // Either end of the channel means the same.
        let _ = api_stopped.await;
    }));
    let changes = Netlink::watch()?;
    tracing::info!(interface = tun.name(), socket = %socket.display(), "ready");
    let control = Control {
        node,
        data: data.handle().clone(),
        state,
        tun,
        netlink,
        hosts,
        events: events_out,
        recorder,
        started: Timestamp::from_unix(clock::unix_now()),
        tasks: Tasks::new(own),
    };
    let outcome = control.run(events, calls, changes, ended()?).await;
    drop(stop_api);
    // Connections that a client holds open do not keep the daemon.
    if tokio::time::timeout(GRACE, api).await.is_err() {
        tracing::debug!("a caller held its connection open");
    }
    drop(data);
    outcome
}

fn load_config(path: Option<&Path>, mode: Mode) -> Result<Config> {
    let custom = Path::new("/etc/ginnel/ginneld.toml");
    match path {
        Some(path) => Ok(Config::load(path, mode)?),
        None if custom.exists() => Ok(Config::load(custom, mode)?),
        None => Ok(Config::default()),
    }
}

/// Reads the node's state and the logs of the networks that it names.
fn resume(state: &mut Keeper) -> Result<Resume> {
    let Some((_, bytes)) = state.read(STATE, STATE_VERSION)? else { return Ok(Resume::default()) };
    let mut logs = Vec::new();
    let networks = Node::networks_of(&bytes);
    let named = networks.iter().map(log_name).collect();
    if state.folder().warnings().is_empty() {
        // An older generation of the state may not know a network that was joined since.
        state.forget_others(clock::now(), LOG_PREFIX, &named);
    }
    for network in networks {
        if let Some(journal) = state.read_log(&log_name(&network))? {
            logs.push(StoredLog { network, snapshot: journal.snapshot, entries: journal.entries });
        }
    }
    Ok(Resume { state: Some(bytes.to_vec()), logs })
}

async fn node_config(config: Config) -> Result<ginnel_node::Config> {
    let mut peers = Vec::new();
    for peer in config.peers {
        peers.push(config_peer(peer).await?);
    }
    Ok(ginnel_node::Config {
        seed: random()?,
        secret: config.interface.private_key.map(|key| StaticSecret::from_bytes(*key.expose())),
        addresses: config.interface.addresses,
        peers,
        suites: suites(),
        hostname: hostname(),
        debug: Debug {
            load_threshold: None,
            paths: if config.debug.relay_only { Policy::RelayOnly } else { Policy::Any },
        },
    })
}

async fn config_peer(peer: Peer) -> Result<ConfigPeer> {
    let endpoint = match &peer.endpoint {
        Some(text) => Some(resolve(text).await.with_context(|| format!("endpoint of peer {}", peer.name))?),
        None => None,
    };
    Ok(ConfigPeer {
        name: peer.name,
        key: PublicKey::from_bytes(peer.public_key),
        psk: peer.preshared_key.map_or_else(PresharedKey::zero, |key| PresharedKey::from_bytes(*key.expose())),
        endpoint,
        allowed: peer.allowed_ips,
        persistent_keepalive: peer.persistent_keepalive,
        kind: match peer.kind {
            PeerKind::Wireguard => ConfigPeerKind::WireGuard,
            PeerKind::Ginnel => ConfigPeerKind::Ginnel,
        },
    })
}

async fn resolve(text: &str) -> Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(text).await.with_context(|| format!("look up {text}"))?;
    found.next().with_context(|| format!("{text} has no address"))
}

/// AES-256-GCM first where the processor computes it, else ChaCha20-Poly1305 alone.
fn suites() -> Vec<Suite> {
    #[cfg(target_arch = "x86_64")]
    let fast = std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let fast = std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let fast = false;
    if fast { vec![Suite::AesGcm, Suite::ChaChaPoly] } else { vec![Suite::ChaChaPoly] }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("the system gives no randomness: {error}"))?;
    Ok(bytes)
}

/// Begins to write down what the node is told.
fn recorder(path: &Path, now: Instant, config: &ginnel_node::Config, resume: &Resume) -> Result<Recorder> {
    tracing::warn!("{} will hold this machine's private keys: destroy it after use", path.display());
    Recorder::begin(path, record::BOUND, now, config, resume)
}

/// Ready when the service manager or a terminal wants the daemon to end.
fn ended() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

const AFTER_HELP: &str = "\
The daemon needs CAP_NET_ADMIN and /dev/net/tun. `ginnel up` tells it what to join.

Exit codes: 0 ended as asked, 1 failed, 2 usage, 9 configuration invalid, 11 the state folder was
written by a newer ginneld, 12 the state folder is damaged. Files are left as they are with 11 and 12.";
/// Exit code when something in the state folder is of a later version.
const NEWER_STATE: u8 = 11;
/// Exit code when something in the state folder is damaged.
const DAMAGED_STATE: u8 = 12;
/// MTU of the TUN until a path has proved more: what every IPv6 link carries.
const MTU: u16 = 1280;
const CALLS: usize = 64;
const GRACE: std::time::Duration = std::time::Duration::from_millis(500);
