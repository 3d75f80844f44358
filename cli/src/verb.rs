use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ginnel_local_api::{
    ApiError, Changed, DEFAULT_SOCKET, Down, Exit, InviteCreateRequest, InviteCreated, InviteList, InviteRevokeRequest,
    InviteState, InviteVoided, Ip, IpRequest, Left, Log, Network, PathReport, Peer, Peers, Request, RevokeRequest,
    Revoked, Secret, StaticPeer, Status, Up, UpNetwork, UpOutcome, UpRequest, Verdict, nearest,
};

use crate::arguments::{self, AdminAction, Arguments, InviteAction, InviteCreate, Verb};
use crate::client::{Answer, Client};
use crate::events;
use crate::govern;
use crate::output::{Output, clean};
use crate::ping;
use crate::settings::Settings;
use crate::table::Table;
use crate::time::{ago, bytes, length, now};

/// Carries out the verb and gives the exit code.
///
/// # Errors
/// What to tell the user, with the exit code.
pub(crate) async fn run(arguments: &Arguments, settings: &Settings, output: &Output) -> Result<Exit, ApiError> {
    let global = &arguments.global;
    let socket = global.socket.clone().or_else(|| settings.socket.clone()).unwrap_or_else(|| DEFAULT_SOCKET.into());
    let client = Client::new(socket, global.timeout, global.network.clone());
    let result = match &arguments.verb {
        Verb::Up(options) => up(options, global.timeout, &client, output).await,
        Verb::Down => down(&client, output).await,
        Verb::Status => status(&client, output).await,
        Verb::Peers => peers(&client, output).await,
        Verb::Ping(options) => ping::run(options, global.timeout, &client, output).await,
        Verb::Invite(invite) => match &invite.action {
            None => invite_create(&invite.create, &client, output).await,
            Some(InviteAction::Create(options)) => invite_create(options, &client, output).await,
            Some(InviteAction::List) => invite_list(&client, output).await,
            Some(InviteAction::Revoke { id }) => invite_revoke(id, &client, output).await,
        },
        Verb::Revoke(options) => revoke(options, &client, output).await,
        Verb::Ip(options) => ip(options, &client, output).await,
        Verb::Leave(options) => leave(options, global.network.as_deref(), &client, output).await,
        Verb::Log => log(&client, output).await,
        Verb::Events(options) => events::run(options, &client, output).await,
        Verb::Server(action) => govern::server(action, &client, output).await,
        Verb::Admin(action) => govern::admin(action, &client, output).await,
        Verb::Cosign { proposal } => govern::cosign(proposal, &client, output).await,
        Verb::Policy(options) => govern::policy(options, &client, output).await,
        Verb::Checkpoint => govern::checkpoint(&client, output).await,
        Verb::RotateKeys => govern::rotate_keys(&client, output).await,
    };
    match (result, named_peer(&arguments.verb)) {
        (Err(error), Some(peer)) if error.exit == Exit::NotFound => Err(with_nearest_peer(error, peer, &client).await),
        (result, _) => result,
    }
}

async fn up(
    options: &arguments::Up,
    timeout: Option<Duration>,
    client: &Client,
    output: &Output,
) -> Result<Exit, ApiError> {
    let mut request = UpRequest {
        invite_or_founding: options.from.as_deref().map(secret).transpose()?,
        name: options.name.clone(),
        network: options.network_name.clone(),
        range: options.range.clone(),
        ipv4: options.no_ipv4.map(|off| !off),
        shields_up: options.shields_up,
        ..UpRequest::default()
    };
    if let Some(timeout) = timeout {
        request.timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    }
    let answer = client.ask(&Request::Up(request)).await?;
    show(&answer, output, |up: Up, output| {
        for network in std::iter::once(&up.first).chain(&up.others) {
            output.line(&up_line(network));
        }
        for warning in &up.warnings {
            let fix = warning.fix.as_deref().map(|fix| format!(" {}", clean(fix))).unwrap_or_default();
            output.note(&format!("{}: {}.{fix}", warning.severity, clean(&warning.text)));
        }
        if up.first.outcome == UpOutcome::Founded {
            output.note("Run `ginnel invite` to let another machine in.");
        }
    })
}

fn up_line(up: &UpNetwork) -> String {
    let network = clean(&up.network);
    let name = clean(&up.name);
    let ips: Vec<String> = up.ips.iter().map(ToString::to_string).collect();
    let ips = ips.join(", ");
    match up.outcome {
        UpOutcome::Founded => format!("Founded the network {network}; this machine is {name}: {ips}"),
        UpOutcome::Joined => format!("Joined the network {network} as {name}: {ips}"),
        UpOutcome::Started => format!("Started the network {network}; this machine is {name}: {ips}"),
        UpOutcome::Unchanged => format!("The network {network} is {}; this machine is {name}: {ips}", up.state),
    }
}

async fn down(client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let answer = client.ask(&Request::Down).await?;
    show(&answer, output, |down: Down, output| {
        for network in &down.stopped {
            output.line(&format!("Stopped the network {}; `ginnel up` starts it again", clean(network)));
        }
        if down.stopped.is_empty() {
            output.line("No network was running");
        }
    })
}

async fn status(client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let answer = client.ask(&Request::Status).await?;
    show(&answer, output, |status: Status, output| {
        let daemon = &status.daemon;
        let uptime = length(now().unix().saturating_sub(daemon.started.unix()));
        output.line(&format!("ginneld {}, process {}, up {uptime}", clean(&daemon.version), daemon.pid));
        for network in &status.networks {
            show_network(network, output);
        }
        if status.networks.is_empty() && status.static_peers.is_empty() {
            output.line("");
            output.line("Not in a network. `ginnel up INVITE` joins one; `ginnel up FOUNDING` founds one.");
        }
        if !status.static_peers.is_empty() {
            output.line("");
            show_static_peers(&status.static_peers, output);
        }
        for item in &status.health {
            output.line("");
            let severity = output.severity(item.severity);
            output.line(&format!("{severity}: {}", clean(&item.text)));
            if let Some(fix) = &item.fix {
                output.line(&format!("  {}", clean(fix)));
            }
        }
    })
}

fn show_network(network: &Network, output: &Output) {
    let ips: Vec<String> = network.own.ips.iter().map(ToString::to_string).collect();
    output.line("");
    output.line(&format!("{}: {}", output.strong(&clean(&network.name)), network.state));
    output.line(&format!("  this machine  {}  {}", clean(&network.own.name), ips.join(", ")));
    if let Some(server) = &network.server {
        let state = if server.connected { "connected" } else { "not connected" };
        let heard = ago(now(), server.last_contact);
        output.line(&format!("  server        {} {state}, last heard {heard}", clean(&server.addr)));
    }
    output.line("");
    if network.peers.is_empty() {
        output.line("No peers yet. `ginnel invite` makes an invite for another machine.");
    } else {
        show_peers(&network.peers, output);
    }
}

async fn peers(client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let answer = client.ask(&Request::Peers).await?;
    show(&answer, output, |peers: Peers, output| {
        if !peers.peers.is_empty() {
            show_peers(&peers.peers, output);
        }
        if !peers.static_peers.is_empty() {
            if !peers.peers.is_empty() {
                output.line("");
            }
            show_static_peers(&peers.static_peers, output);
        }
        if peers.peers.is_empty() && peers.static_peers.is_empty() {
            output.note("No peers yet. `ginnel invite` makes an invite for another machine.");
        }
    })
}

/// One table, or one for each network where there are several.
fn show_peers(peers: &[Peer], output: &Output) {
    let mut networks: Vec<&str> = peers.iter().map(|peer| peer.network.as_str()).collect();
    networks.dedup();
    if networks.len() < 2 {
        show_table(peers, output);
        return;
    }
    for (place, network) in networks.into_iter().enumerate() {
        if place > 0 {
            output.line("");
        }
        output.line(&format!("Network {}", clean(network)));
        let own: Vec<Peer> = peers.iter().filter(|peer| peer.network == network).cloned().collect();
        show_table(&own, output);
    }
}

fn show_table(peers: &[Peer], output: &Output) {
    let mut table = Table::new(&["NAME", "ADDRESS", "PATH", "ENDPOINT", "RTT", "RECEIVED", "SENT", "LAST SEEN"]);
    for peer in peers {
        let first = peer.ips.first().map(ToString::to_string).unwrap_or_default();
        let seen = if peer.online { "online".to_owned() } else { ago(now(), peer.last_seen) };
        let [path, endpoint, rtt] = path_cells(&peer.path, output);
        table.row([clean(&peer.name), first, path, endpoint, rtt, bytes(peer.rx_bytes), bytes(peer.tx_bytes), seen]);
    }
    table.lines().iter().for_each(|line| output.line(line));
    for (peer, waiting) in peers.iter().filter_map(|peer| Some((peer, peer.waiting.as_ref()?))) {
        output.line(&format!("{}: {}", clean(&peer.name), clean(waiting)));
    }
}

fn show_static_peers(peers: &[StaticPeer], output: &Output) {
    let heading =
        ["FROM THE CONFIGURATION", "KIND", "PREFIXES", "PATH", "ENDPOINT", "RTT", "RECEIVED", "SENT", "LAST SEEN"];
    let mut table = Table::new(&heading);
    for peer in peers {
        let seen = if peer.online { "online".to_owned() } else { ago(now(), peer.last_seen) };
        let [path, endpoint, rtt] = path_cells(&peer.path, output);
        let prefixes = clean(&peer.allowed_ips.join(","));
        let (received, sent) = (bytes(peer.rx_bytes), bytes(peer.tx_bytes));
        table.row([clean(&peer.name), peer.kind.to_string(), prefixes, path, endpoint, rtt, received, sent, seen]);
    }
    table.lines().iter().for_each(|line| output.line(line));
}

fn path_cells(path: &PathReport, output: &Output) -> [String; 3] {
    let endpoint = path.endpoint.or(path.relay).map_or_else(|| "-".to_owned(), |endpoint| endpoint.to_string());
    let rtt = path.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms"));
    [output.path(path.kind), endpoint, rtt]
}

async fn invite_create(options: &InviteCreate, client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let request = InviteCreateRequest { expires_s: options.expires.as_secs(), name: options.name.clone() };
    let answer = client.ask(&Request::InviteCreate(request)).await?;
    show(&answer, output, |created: InviteCreated, output| {
        let network = clean(&created.network);
        output.note(&format!(
            "An invite to the network {network} for one machine, to be used before {}.\n\
             On that machine run `ginnel up` with the string below; whoever holds it can join.\n\
             `ginnel invite revoke {}` takes it back.",
            created.expires,
            short(&created.id)
        ));
        output.line(&clean(created.invite.expose()));
    })
}

async fn invite_list(client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let answer = client.ask(&Request::InviteList).await?;
    show(&answer, output, |list: InviteList, output| {
        if list.invites.is_empty() {
            output.note("No invites. `ginnel invite` makes one.");
            return;
        }
        let mut table = Table::new(&["ID", "STATE", "MADE BY", "MADE", "EXPIRES", "USED BY"]);
        for invite in &list.invites {
            let state = match invite.state {
                InviteState::Open => "open",
                InviteState::Used => "used",
                InviteState::Revoked => "revoked",
                InviteState::Expired => "expired",
                InviteState::Unknown => "unknown",
            };
            let used_by = invite.used_by.as_deref().map_or_else(|| "-".to_owned(), clean);
            let (created, expires) = (invite.created.to_string(), invite.expires.to_string());
            table.row([short(&invite.id), state.to_owned(), short(&invite.by), created, expires, used_by]);
        }
        table.lines().iter().for_each(|line| output.line(line));
    })
}

async fn invite_revoke(id: &str, client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let answer = client.ask(&Request::InviteRevoke(InviteRevokeRequest { id: id.to_owned() })).await?;
    show(&answer, output, |voided: InviteVoided, output| {
        output.line(&format!("Revoked the invite {}", short(&voided.id)));
    })
}

async fn revoke(options: &arguments::Revoke, client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let peer = clean(&options.peer);
    if !options.yes {
        confirm(&format!("Put {peer} out of the network for good? Its key cannot come back."), output)?;
    }
    let answer = client.ask(&Request::Revoke(RevokeRequest { peer: options.peer.clone() })).await?;
    show(&answer, output, |revoked: Revoked, output| tell_revoked(&revoked, output))
}

fn tell_revoked(revoked: &Revoked, output: &Output) {
    output.line(&format!("Revoked {} ({})", clean(&revoked.name), short(&revoked.id)));
}

async fn ip(options: &arguments::Ip, client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let answer = client.ask(&Request::Ip(IpRequest { peer: options.peer.clone() })).await?;
    show(&answer, output, |ip: Ip, output| {
        ip.ips.iter().for_each(|ip| output.line(&ip.to_string()));
    })
}

async fn leave(
    options: &arguments::Leave,
    network: Option<&str>,
    client: &Client,
    output: &Output,
) -> Result<Exit, ApiError> {
    if !options.yes {
        let which = network.map(|name| format!(" {}", clean(name))).unwrap_or_default();
        let question = format!("Leave the network{which} and forget its keys? Coming back takes a new invite.");
        confirm(&question, output)?;
    }
    let answer = client.ask(&Request::Leave).await?;
    show(&answer, output, |left: Left, output| {
        output.line(&format!("Left the network {}", clean(&left.network)));
    })
}

async fn log(client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let answer = client.ask(&Request::Log).await?;
    show(&answer, output, |log: Log, output| {
        let mut table = Table::new(&["SEQUENCE", "TIME", "KIND", "SUBJECT", "BY", "VERDICT"]);
        for entry in &log.entries {
            let verdict = match (entry.verdict, &entry.reason) {
                (Verdict::Applied, _) => "applied".to_owned(),
                (Verdict::Refused, None) => "refused".to_owned(),
                (Verdict::Refused, Some(reason)) => format!("refused: {}", clean(reason)),
            };
            let time = entry.time.to_string();
            table.row([
                entry.sequence.to_string(),
                time,
                clean(&entry.kind),
                short(&entry.subject),
                short(&entry.by),
                verdict,
            ]);
        }
        table.lines().iter().for_each(|line| output.line(line));
    })
}

/// The text with its 64-digit keys cut to their first eight digits, which is what every verb takes.
pub(crate) fn short(text: &str) -> String {
    let is_key = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words = clean(text);
    let cut = words.split(' ').map(|word| {
        let (bare, end) = word.strip_suffix(',').map_or((word, ""), |bare| (bare, ","));
        if is_key(&bare) { format!("{}{end}", &bare[..8]) } else { word.to_owned() }
    });
    cut.collect::<Vec<_>>().join(" ")
}

/// Prints a reply: as the daemon wrote it, or in words.
pub(crate) fn show<T: ginnel_local_api::Body + serde::de::DeserializeOwned>(
    answer: &Answer,
    output: &Output,
    words: impl FnOnce(T, &Output),
) -> Result<Exit, ApiError> {
    if output.is_json() {
        output.line(answer.text());
    } else if answer.is_of::<Changed>() {
        // Whatever an admin asks for may need other admins first.
        govern::tell(&answer.read()?, output);
    } else if answer.is_of::<Revoked>() {
        // The last signature may be one on a revocation.
        tell_revoked(&answer.read()?, output);
    } else {
        words(answer.read()?, output);
    }
    Ok(Exit::Done)
}

/// The founding string or invite that an argument names.
pub(crate) fn secret(argument: &str) -> Result<Secret, ApiError> {
    let (text, from) = if argument == "-" {
        (read_limited(io::stdin().lock()), PathBuf::from("standard input"))
    } else if let Some(path) = argument.strip_prefix("file:") {
        (std::fs::File::open(path).and_then(read_limited), PathBuf::from(path))
    } else if argument.is_empty() || argument.len() as u64 > LONGEST_INVITE {
        (read_limited(argument.as_bytes()), PathBuf::from("the command line"))
    } else {
        return Ok(Secret::from(argument.to_owned()));
    };
    let wrong = |path: &Path, cause: &str| {
        ApiError::new(Exit::Usage, "no-invite", format!("cannot take an invite from {}: {cause}", path.display()))
            .with_hint("Give the string that `ginnel invite` printed on a member of the network, whole.")
    };
    match text {
        Ok(text) if text.trim().is_empty() => Err(wrong(&from, "it is empty")),
        Ok(text) => Ok(Secret::from(text.trim().to_owned())),
        Err(error) => Err(wrong(&from, &error.to_string())),
    }
}

fn read_limited(source: impl Read) -> io::Result<String> {
    let mut text = String::new();
    source.take(LONGEST_INVITE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST_INVITE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long for an invite"));
    }
    Ok(text)
}

/// Asks on a terminal; a script must say `--yes` beforehand.
fn confirm(question: &str, output: &Output) -> Result<(), ApiError> {
    if output.is_json() || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(ApiError::new(
            Exit::Usage,
            "needs-yes",
            "nothing was changed: this cannot be undone and nobody can be asked",
        )
        .with_hint("Give --yes to go ahead."));
    }
    let mut stderr = io::stderr().lock();
    let mut answer = String::new();
    let asked = write!(stderr, "{question} [y/N] ")
        .and_then(|()| stderr.flush())
        .and_then(|()| io::stdin().lock().read_line(&mut answer));
    match asked {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        Ok(_) => Err(ApiError::new(Exit::Failed, "declined", "nothing was changed")),
        Err(error) => Err(ApiError::new(Exit::Failed, "not-asked", format!("cannot ask: {error}"))),
    }
}

/// The peer that the verb names.
fn named_peer(verb: &Verb) -> Option<&str> {
    match verb {
        Verb::Ping(options) => Some(&options.peer),
        Verb::Revoke(options) => Some(&options.peer),
        Verb::Ip(options) => options.peer.as_deref(),
        Verb::Up(_)
        | Verb::Down
        | Verb::Status
        | Verb::Peers
        | Verb::Invite(_)
        | Verb::Leave(_)
        | Verb::Log
        | Verb::Events(_)
        | Verb::Server(_)
        | Verb::Cosign { .. }
        | Verb::Checkpoint
        | Verb::RotateKeys => None,
        Verb::Admin(AdminAction::Add { peer } | AdminAction::Remove { peer }) => Some(peer),
        Verb::Admin(AdminAction::List | AdminAction::Threshold { .. }) => None,
        Verb::Policy(options) => options.delegate.as_deref(),
    }
}

/// The error with the name of the peer that was probably meant.
async fn with_nearest_peer(error: ApiError, peer: &str, client: &Client) -> ApiError {
    let Ok(peers) = client.ask(&Request::Peers).await.and_then(|answer| answer.read::<Peers>()) else { return error };
    let names = peers.peers.iter().map(|peer| peer.name.as_str());
    let names = names.chain(peers.static_peers.iter().map(|peer| peer.name.as_str()));
    match nearest(peer, names) {
        Some(name) => error.with_hint(format!("Did you mean {}?", clean(name))),
        None if error.hint.is_some() => error,
        None => error.with_hint("`ginnel peers` lists the names."),
    }
}

/// Far above any invite, which holds some addresses and keys.
const LONGEST_INVITE: u64 = 16 * 1024;
