//! `ginnel-signal`: the signaling server, with STUN and TURN in the same process.
//!
//! | module | job |
//! |---|---|
//! | `hub` | one task that owns the signaling machine |
//! | `quic` | connections |
//! | `dial` | streams to fellow servers |
//! | `relay` | one task that owns the STUN and TURN machine, and its sockets |
//! | `storage` | the database and the thread that writes it |
//! | `state` | the state folder: lock, keys |
//! | `witness` | the ends of the logs in memory, so that a restart need not wait to hear that the disk was not set back |
//! | `public` | own addresses, and where relayed traffic may go |

mod cli;
mod dial;
mod hub;
mod public;
mod quic;
mod relay;
mod socket;
mod state;
mod storage;
mod sys;
mod witness;

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser as _;
use ginnel_membership::invite::{Founding, Token};
use ginnel_membership::{MemberKey, ServerKeys};
use ginnel_signal_proto::server::{Config, Limits, RelayIssuer, Server, Stored};
use ginnel_signal_proto::{FoundingToken, RelayCredentials};
use ginnel_turn::Credentials;
use ginnel_turn::server::Quotas;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

use cli::Args;
use dial::Dialler;
use hub::{Event, Hub};
use public::PrivatePeers;
use relay::Relay;
use state::{Keys, Opened, StateDir};
use storage::Storage;
use witness::Witness;

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = match EnvFilter::try_new(&args.log) {
        Ok(filter) => filter,
        Err(error) => return complain(&format!("--log {}: {error}", args.log)),
    };
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("cannot start: {error}")),
    };
    let result = runtime.block_on(run(args));
    runtime.shutdown_timeout(SHUTDOWN);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!("{error:#}")),
    }
}

/// Errors that end the program are for people, whatever the log filter says.
#[expect(clippy::print_stderr, reason = "the program ends here")]
fn complain(text: &str) -> ExitCode {
    eprintln!("ginnel-signal: {text}");
    ExitCode::FAILURE
}

async fn run(args: Args) -> anyhow::Result<()> {
    // First of all, so that a signal at any time ends the server cleanly.
    let signals = Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
    let signaling = socket::bind_listener(args.listen, "--listen");
    let state = match StateDir::open(&args.state)? {
        Opened::Ours(state) => state,
        Opened::Busy => return beside_another(&args),
    };
    let signaling = signaling?;
    let stun = socket::bind_listener(args.stun, "--stun")?;
    let (signaling_port, stun_port) = (signaling.local_addr()?.port(), stun.local_addr()?.port());
    let interfaces = public::interfaces()?;
    let public = public::addresses(&args.public_address, &interfaces)?;

    let keys = state.keys()?;
    let storage = Storage::open(&state.database())?;
    let mut stored = storage.load()?;
    let token = founding_token(&storage, &mut stored, &args)?;
    let config = server_config(&keys, &args, &public, stun_port);
    let server_keys = config.keys();
    let witness = Witness::open(&keys.sequencer.sequencer_key(), sys::now());
    stored.witnessed = witness.heads();
    let server = Server::new(seed()?, config, stored, sys::now(), hub::unix())?;

    let (stop, stopping) = watch::channel(false);
    let turn = turn_server(&keys, &args, &public, &interfaces)?;
    let relay = Relay::new(turn, stun, &public::relay_addresses(&public)).context("cannot start STUN and TURN")?;
    let relaying = tokio::spawn(relay.run(stopping.clone()));
    let (events, queue) = mpsc::channel(EVENTS);
    let answers = events.clone();
    let writer = storage.into_writer(move |outcomes| {
        // At the end nobody is there to be told.
        let _ = answers.blocking_send(Event::Stored(outcomes));
    })?;
    let dialler = Dialler::new(events.clone(), &public);
    let endpoint = quic::endpoint(signaling, &keys.noise)?;
    let accepting = tokio::spawn(quic::accept(endpoint.clone(), events));
    tracing::info!(signaling = signaling_port, stun = stun_port, addresses = ?public, "serving");
    if let Some(token) = token {
        print_founding(&public::server_addresses(&public, signaling_port), server_keys, token)?;
    }
    // Last, once nothing can keep the server from running: the hub says so to the witness.
    let hub = tokio::spawn(Hub::new(server, writer, witness, dialler).run(queue, stopping));

    let outcome = stopped(signals, hub, relaying, stop).await;
    endpoint.close(quinn::VarInt::from_u32(0), b"server stops");
    let _ = tokio::time::timeout(SHUTDOWN, endpoint.wait_idle()).await;
    accepting.abort();
    outcome
}

/// The signals that stop the server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// Waits for a signal to stop, or for a task that ended although nobody told it to.
async fn stopped(
    mut signals: Signals,
    mut hub: tokio::task::JoinHandle<()>,
    mut relaying: tokio::task::JoinHandle<()>,
    stop: watch::Sender<bool>,
) -> anyhow::Result<()> {
    let outcome = tokio::select! {
        _ = signals.terminate.recv() => Ok(()),
        _ = signals.interrupt.recv() => Ok(()),
        ended = &mut hub => Err(ended.err().map_or_else(|| anyhow::anyhow!("signaling ended"), anyhow::Error::from)),
        ended = &mut relaying => Err(ended.err().map_or_else(|| anyhow::anyhow!("the relay ended"), anyhow::Error::from)),
    };
    tracing::info!("stopping");
    stop.send_replace(true);
    for task in [hub, relaying] {
        if !task.is_finished() {
            let _ = tokio::time::timeout(SHUTDOWN, task).await;
        }
    }
    outcome
}

/// What can be done where another server runs on the state folder: say which founding string it takes.
fn beside_another(args: &Args) -> anyhow::Result<()> {
    let shown = args.state.display();
    if args.print_founding {
        bail!(
            "another ginnel-signal runs on {shown}; stop it and start it with --print-founding, and it prints a founding \
             string that it will take"
        );
    }
    bail!("another ginnel-signal runs on {shown}; stop it, or give this one a state folder of its own with --state")
}

/// The token of the founding string to print, if one is to be printed: the unused one, or a new one.
fn founding_token(storage: &Storage, stored: &mut Stored, args: &Args) -> anyhow::Result<Option<Token>> {
    if !args.print_founding && (!stored.logs.is_empty() || !stored.adopted.is_empty()) {
        return Ok(None);
    }
    if let Some((token, _)) = stored.tokens.iter().find(|(_, network)| network.is_none()) {
        return Ok(Some(token.0.clone()));
    }
    let mut bytes = Zeroizing::new([0; 16]);
    getrandom::fill(&mut *bytes).context("the system gives no randomness")?;
    let token = Token::from_bytes(*bytes);
    storage.add_token(&token, hub::unix()).context("cannot store the founding token")?;
    stored.tokens.push((FoundingToken(token.clone()), None));
    Ok(Some(token))
}

/// Prints the founding string, which is what a person waits for.
fn print_founding(addresses: &[String], keys: ServerKeys, token: Token) -> anyhow::Result<()> {
    let server = ginnel_membership::Server { addresses: addresses.to_vec(), keys };
    let founding = Founding::new(server, token).context("cannot make the founding string")?;
    tracing::info!("paste the string on standard output into `ginnel up` on the first machine of the network");
    let mut out = std::io::stdout().lock();
    writeln!(out, "{founding}").and_then(|()| out.flush()).context("cannot print the founding string")
}

fn server_config(keys: &Keys, args: &Args, public: &[IpAddr], stun_port: u16) -> Config {
    let addresses: Vec<SocketAddr> =
        public::relay_addresses(public).into_iter().map(|address| SocketAddr::new(address, stun_port)).collect();
    Config {
        noise: keys.noise.clone(),
        sequencer: keys.sequencer.clone(),
        stun_ports: vec![stun_port],
        relay: (!args.no_relay).then(|| relay_issuer(keys.relay.clone(), addresses)),
        limits: Limits::default(),
    }
}

fn relay_issuer(secret: Zeroizing<[u8; 32]>, addresses: Vec<SocketAddr>) -> RelayIssuer {
    Box::new(move |unix: u64, member: &MemberKey| {
        let name: String = member.to_string().chars().take(RELAY_NAME_LEN).collect();
        let lifetime = u32::try_from(RELAY_LIFETIME.as_secs()).unwrap_or(u32::MAX);
        let made = Credentials::time_limited(&*secret, unix.saturating_add(u64::from(lifetime)), &name);
        RelayCredentials {
            username: made.username,
            password: made.password,
            lifetime_seconds: lifetime,
            addresses: addresses.clone(),
        }
    })
}

fn turn_server(
    keys: &Keys,
    args: &Args,
    public: &[IpAddr],
    interfaces: &[IpAddr],
) -> anyhow::Result<ginnel_turn::Server> {
    let private = if args.allow_private_peers { PrivatePeers::Allowed } else { PrivatePeers::Refused };
    let own = [interfaces, public].concat();
    let none = Quotas { total: 0, ..Quotas::default() };
    let config = ginnel_turn::server::Config {
        realm: "ginnel".to_owned(),
        secret: Zeroizing::new(keys.relay.to_vec()),
        relay_addresses: public::relay_addresses(public),
        ports: args.relay_ports.ports(),
        quotas: if args.no_relay { none } else { Quotas::default() },
        policy: Box::new(public::peer_policy(private, &own)),
        nonce_lifetime: NONCE_LIFETIME,
    };
    ginnel_turn::Server::new(seed()?, config).context("cannot set up the relay")
}

fn seed() -> anyhow::Result<[u8; 32]> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("the system gives no randomness")?;
    Ok(seed)
}

/// Events that wait for the hub; who sends more waits, which slows clients down by their own windows.
const EVENTS: usize = 4096;
/// How long a client may use one set of relay credentials for new allocations.
const RELAY_LIFETIME: Duration = Duration::from_secs(4 * 3600);
/// Hexadecimal digits of the member's key in its relay user name.
const RELAY_NAME_LEN: usize = 32;
const NONCE_LIFETIME: Duration = Duration::from_secs(3600);
/// How long the parts of the server may take to stop.
const SHUTDOWN: Duration = Duration::from_secs(3);
