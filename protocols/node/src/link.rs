//! The stream to one signaling server: connecting, proving, saying and hearing.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_membership::Server;
use ginnel_path::address::{Reach, reach};
use ginnel_signal_proto::client::{Broken, Input as ClientInput, Output as ClientOutput};
use ginnel_signal_proto::{
    Client, ClientMessage, Head, Refusal, RelayOffer as ServerRelay, ServerMessage, Standing, Welcome,
};
use ginnel_time::Instant;
use rand_core::RngCore;

use crate::Discard;
use crate::fetching::{Download, Piece};
use crate::gather::RelayOffer;
use crate::greet::Reason;
use crate::guise::Guise;
use crate::io::{FailureCode, Output, RequestId, ServerId};
use crate::joining::{LOST_ENTRIES, is_final};
use crate::network::Network;
use crate::networks::NetworkNumber;
use crate::node::Node;
use crate::notice::Notice;
use crate::saved::{Stage, Switch};

/// The stream to one server.
pub(crate) struct Link {
    pub(crate) server: Server,
    pub(crate) status: LinkStatus,
    pub(crate) client: Option<Client>,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) retry: Option<Instant>,
    pub(crate) pause: Duration,
    pub(crate) last_contact: Option<Instant>,
    /// When the server was asked whether it is still there, unless it has said something since.
    pub(crate) pinged: Option<Instant>,
    pub(crate) trouble: Option<String>,
    /// What its log breaks, in words, since it last showed one that does not verify.
    pub(crate) accused: Option<String>,
    /// Records to be appended and what each is for. Only the first is ever in flight, because answers come in no fixed order.
    pub(crate) appends: VecDeque<(Purpose, Vec<u8>)>,
    flight: Flight,
    log: ServerLog,
    pub(crate) credentials_due: Option<Instant>,
    /// Since when the server lets us in.
    pub(crate) up_since: Option<Instant>,
    /// Why the server cannot help with a join, when that is sure.
    pub(crate) hopeless: Option<Hopeless>,
    /// The sequence of the checkpoint from which a newcomer can start.
    pub(crate) checkpoint: Option<u64>,
    pub(crate) download: Option<Download>,
    /// The end of the server's log as it last told it.
    pub(crate) head: Option<Head>,
    /// When the server is handed what it lacks.
    pub(crate) refill: Option<Instant>,
    /// The sequence from which on it was handed entries last.
    pub(crate) refilled: Option<u64>,
    /// How often it was handed those without a sign of having taken them.
    pub(crate) vain_refills: u8,
    /// When records that the server could not take are sent again.
    pub(crate) append_again: Option<Instant>,
    /// When it last said that it does not reach the server that orders the log, unless it has had a record ordered since.
    pub(crate) at_a_loss: Option<Instant>,
    /// As whom this machine comes in next, or has come in.
    pub(crate) guise: Guise,
}

/// Why a server cannot help with a join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hopeless {
    /// It is not the server that was named.
    Wrong(String),
    /// It has said a final no.
    Refused(String),
}

/// How far a link has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkStatus {
    /// Not connected.
    Down,
    /// Asked the shell to connect, or shaking hands.
    Connecting,
    /// The server proved itself and let us in.
    Up,
}

/// Which append was sent and is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flight {
    None,
    /// The first of those that wait.
    First,
}

/// A server's log beside ours, as the server last told its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerLog {
    /// As long as ours, or longer, or nothing is known of it.
    Level,
    /// Shorter: an append would put another entry into a place that is taken.
    Behind,
}

/// What an append is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// This machine's own membership.
    Own,
    /// A lease.
    Lease,
    /// A revocation that waited for a server.
    Revocation,
    /// A user's request.
    Request(RequestId),
}

impl Link {
    pub(crate) fn new(server: Server) -> Self {
        Self {
            server,
            status: LinkStatus::Down,
            client: None,
            remote: None,
            retry: None,
            pause: RETRY,
            last_contact: None,
            pinged: None,
            trouble: None,
            accused: None,
            appends: VecDeque::new(),
            flight: Flight::None,
            log: ServerLog::Level,
            credentials_due: None,
            up_since: None,
            hopeless: None,
            checkpoint: None,
            download: None,
            head: None,
            refill: None,
            refilled: None,
            vain_refills: 0,
            append_again: None,
            at_a_loss: None,
            guise: Guise::Member,
        }
    }

    /// Whether the server has let us in.
    pub(crate) fn is_up(&self) -> bool {
        self.status == LinkStatus::Up
    }

    /// The server's first address.
    pub(crate) fn name(&self) -> String {
        self.server.addresses.first().cloned().unwrap_or_default()
    }

    pub(crate) fn say(&mut self, now: Instant, message: ClientMessage) {
        if let Some(client) = &mut self.client {
            let _ = client.handle_input(now, ClientInput::Send(message));
        }
    }

    pub(crate) fn append(&mut self, now: Instant, purpose: Purpose, record: Vec<u8>) {
        self.appends.push_back((purpose, record));
        self.append_next(now);
    }

    /// Notes whether the server's log is shorter than ours; what waits for it to grow is sent when it has.
    pub(crate) fn note_log(&mut self, now: Instant, standing: ServerLog) {
        self.log = standing;
        self.append_next(now);
    }

    /// Whether a record for this purpose waits or is in flight.
    pub(crate) fn is_appending(&self, purpose: &Purpose) -> bool {
        self.appends.iter().any(|(known, _)| known == purpose)
    }

    /// Whether this record waits or is in flight.
    pub(crate) fn holds(&self, record: &[u8]) -> bool {
        self.appends.iter().any(|(_, known)| known == record)
    }

    /// Takes the answer to the append in flight, and sends the next.
    pub(crate) fn appended(&mut self, now: Instant) -> Option<Purpose> {
        if std::mem::replace(&mut self.flight, Flight::None) == Flight::None {
            return None;
        }
        let (purpose, _) = self.appends.pop_front()?;
        self.append_next(now);
        Some(purpose)
    }

    fn append_next(&mut self, now: Instant) {
        if self.flight == Flight::First || self.log == ServerLog::Behind {
            return;
        }
        if let Some(record) = self.appends.front().map(|(_, record)| record.clone()) {
            self.flight = Flight::First;
            self.say(now, ClientMessage::Append { record });
        }
    }

    /// How long to wait before the next try; it begins anew after a connection that held.
    fn next_pause(&mut self, now: Instant) -> Duration {
        if self.up_since.is_some_and(|since| now.saturating_duration_since(since) >= HELD) {
            self.pause = RETRY;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(RETRY_MAX);
        pause
    }

    pub(crate) fn close(&mut self, now: Instant, again: Option<Duration>) {
        self.up_since = None;
        self.pinged = None;
        self.status = LinkStatus::Down;
        self.client = None;
        self.appends.clear();
        (self.flight, self.log) = (Flight::None, ServerLog::Level);
        self.credentials_due = None;
        self.download = None;
        self.refill = None;
        self.refilled = None;
        self.vain_refills = 0;
        (self.append_again, self.at_a_loss) = (None, None);
        self.head = None;
        self.retry = again.map(|pause| now + pause);
    }
}

impl Node {
    pub(crate) fn server_opened(&mut self, now: Instant, id: ServerId, remote: SocketAddr) {
        let seed = self.seed();
        let Some(network) = self.networks.owner_mut(id) else { return };
        let credentials = network.credentials(id);
        let network_id = network.saved.id();
        let Some(link) = network.links.get_mut(&id).filter(|link| link.status == LinkStatus::Connecting) else {
            return;
        };
        link.retry = None;
        let mut client = Client::new(seed, link.server.keys, network_id, credentials);
        let _ = client.handle_input(now, ClientInput::Opened);
        link.client = Some(client);
        link.remote = Some(remote);
        link.status = LinkStatus::Connecting;
        self.drain_links(now);
    }

    pub(crate) fn server_bytes(&mut self, now: Instant, id: ServerId, bytes: Vec<u8>) {
        let Some(link) = self.networks.link_mut(id) else { return };
        link.last_contact = Some(now);
        link.pinged = None;
        if let Some(client) = &mut link.client {
            let _ = client.handle_input(now, ClientInput::Received(bytes));
        }
        self.drain_links(now);
    }

    pub(crate) fn server_closed(&mut self, now: Instant, id: ServerId, reason: String) {
        let jitter = Duration::from_millis(u64::from(self.rng.next_u32() % 500));
        let Some(network) = self.networks.owner_mut(id) else { return };
        let again = network.saved.switch == Switch::Up;
        let Some(link) = network.links.get_mut(&id) else { return };
        if let Some(client) = &mut link.client {
            let _ = client.handle_input(now, ClientInput::Closed);
        }
        self.drain_links(now);
        let Some(network) = self.networks.owner_mut(id) else { return };
        let at = network.number;
        let Some(link) = network.links.get_mut(&id) else { return };
        let was_up = link.serves();
        let server = link.name();
        if link.status != LinkStatus::Down || link.retry.is_none() {
            let pause = link.next_pause(now) + jitter;
            link.close(now, again.then_some(pause));
        }
        link.trouble.get_or_insert_with(|| reason.clone());
        if was_up {
            self.server_lost(now, at, server, reason);
        }
    }

    /// A server that had let us in is gone.
    fn server_lost(&mut self, now: Instant, at: NetworkNumber, server: String, reason: String) {
        if self.networks.get(at).is_some_and(|network| network.state.head().0 == 0) {
            // It may have been the one that a snapshot came from.
            self.fetch_from_all(now, at);
        }
        self.notice(Some(at), Notice::ServerDown { server, reason });
        // What it was asked for another server may do.
        self.send_waiting(now, at);
        if !self.networks.get(at).is_some_and(Network::is_connected) {
            self.plan_greetings(now, at, Reason::Abandoned);
        }
    }

    /// Drains the clients of every link; answers whether there was anything.
    pub(crate) fn drain_links(&mut self, now: Instant) -> bool {
        let ids = self.networks.servers();
        let mut any = false;
        for id in ids {
            loop {
                let output =
                    self.networks.link_mut(id).and_then(|link| link.client.as_mut()).and_then(Client::poll_output);
                any |= output.is_some();
                match output {
                    Some(ClientOutput::Write(bytes)) => {
                        self.outputs.push_back(Output::WriteServer { server: id, bytes });
                    }
                    Some(ClientOutput::Ready) => self.link_ready(now, id),
                    Some(ClientOutput::Message(message)) => self.server_says(now, id, message),
                    Some(ClientOutput::Broken { reason }) => self.link_broken(now, id, &reason),
                    None => break,
                }
            }
        }
        any
    }

    pub(crate) fn link_ready(&mut self, now: Instant, id: ServerId) {
        let Some(network) = self.networks.owner_mut(id) else { return };
        network.refused = None;
        let (at, recruit) = (network.number, network.is_recruit(id));
        let member = matches!(network.saved.stage, Stage::Member);
        let stage = network.saved.stage.clone();
        let Some(link) = network.links.get_mut(&id) else { return };
        link.status = LinkStatus::Up;
        link.up_since = Some(now);
        // One that knows the bare key alone is in trouble until it has all of the log.
        link.trouble = (link.guise == Guise::Admin).then(|| LOST_ENTRIES.to_owned());
        link.hopeless = None;
        let (server, serves) = (link.name(), link.serves());
        if recruit {
            return self.recruit_ready(now, id);
        }
        if !serves {
            return;
        }
        if let Stage::Founding { genesis, .. } = stage {
            link.say(now, ClientMessage::Found { genesis });
        }
        self.notice(Some(at), Notice::ServerUp { server });
        if member {
            self.plan_greetings(now, at, Reason::Welcomed);
        }
    }

    pub(crate) fn link_broken(&mut self, now: Instant, id: ServerId, reason: &Broken) {
        let jitter = Duration::from_millis(u64::from(self.rng.next_u32() % 500));
        self.outputs.push_back(Output::DisconnectServer(id));
        let Some(network) = self.networks.owner_mut(id) else { return };
        let at = network.number;
        let Some(link) = network.links.get_mut(&id) else { return };
        link.trouble = Some(reason.to_string());
        let was_up = link.serves();
        let guise = link.guise;
        let server = link.name();
        let crowded = is_crowded(reason);
        let pause = if crowded { CROWDED } else { link.next_pause(now) } + jitter;
        link.close(now, Some(pause));
        if network.is_recruit(id) {
            return self.recruiting_failed(id, &reason.to_string());
        }
        let refused = if let Broken::Refused { code, text } = reason
            && is_final(*code)
        {
            Some((*code, text.clone()))
        } else {
            None
        };
        if refused.as_ref().is_some_and(|(code, _)| *code == Refusal::NotAMember || guise == Guise::Admin) {
            network.change_guise(id);
        }
        let Some(link) = network.links.get_mut(&id) else { return };
        if let Some((code, text)) = refused {
            match guise {
                Guise::Member => {
                    // With keys that were asked for, one of the two pairs is the right one.
                    network.next_keys_tried = !network.next_keys_tried && network.saved.next_keys.is_some();
                    self.refuse(id, code, text);
                }
                // It is the bare key that is refused, which says nothing of the member.
                Guise::Admin => link.trouble = Some(LOST_ENTRIES.to_owned()),
            }
        } else if matches!(reason, Broken::WrongServer | Broken::HandshakeRefused) {
            link.hopeless = Some(Hopeless::Wrong(reason.to_string()));
            self.judge_join(at);
        }
        if was_up {
            self.server_lost(now, at, server, reason.to_string());
        }
    }

    pub(crate) fn server_says(&mut self, now: Instant, id: ServerId, message: ServerMessage) {
        match message {
            ServerMessage::Welcome(welcome) => self.welcomed(now, id, &welcome),
            ServerMessage::Entries { first, entries, head } => self.take_entries(now, id, first, &entries, head),
            ServerMessage::Appended { sequence } => self.appended(now, id, sequence),
            ServerMessage::Refused { request, code, text } => self.server_refused(now, id, request, code, &text),
            ServerMessage::Mail { from, bytes } => {
                if let Err(discard) = self.handle_mail(now, id, from, &bytes) {
                    self.counters.count(discard);
                }
            }
            ServerMessage::MailRefused { to, why } => tracing::debug!(?to, ?why, "mail was not taken"),
            ServerMessage::Relay(relay) => {
                let Some(network) = self.networks.owner_mut(id) else { return };
                let at = network.number;
                let Some(link) = network.links.get_mut(&id) else { return };
                let life = Duration::from_secs(u64::from(relay.lifetime_seconds.max(120)));
                link.credentials_due = Some(now + life / 2);
                let mut servers = relay.addresses;
                if servers.is_empty() {
                    servers.extend(link.remote.map(|remote| SocketAddr::new(remote.ip(), DEFAULT_STUN_PORT)));
                }
                let reached = link.remote;
                servers.retain(|server| may_relay(reached, *server));
                servers.truncate(MAX_RELAYS);
                let credentials = ginnel_turn::Credentials { username: relay.username, password: relay.password };
                self.gather.relay_offer(now, at, id, RelayOffer { servers, credentials });
            }
            // Nothing of the kind was asked for.
            ServerMessage::Snapshot { entry, total, offset, bytes } => {
                self.take_piece(now, id, Piece { entry, total, offset, bytes });
            }
            // Those are for servers.
            ServerMessage::Forwarded { .. } => self.counters.count(Discard::BadServerMessage),
            ServerMessage::Pong => {}
        }
    }

    pub(crate) fn welcomed(&mut self, now: Instant, id: ServerId, welcome: &Welcome) {
        let Some(network) = self.networks.owner_mut(id) else { return };
        let Some(link) = network.links.get_mut(&id) else { return };
        link.checkpoint = welcome.checkpoint;
        let Some(remote) = link.remote else { return };
        // The connection shows one family of the server; the mappings of both are wanted.
        let written = link.server.addresses.iter().filter_map(|text| text.parse().ok());
        let mut hosts: Vec<IpAddr> = Vec::new();
        for addr in std::iter::once(remote).chain(written) {
            let ip = addr.ip().to_canonical();
            if hosts.iter().all(|host| host.is_ipv4() != ip.is_ipv4()) {
                hosts.push(ip);
            }
        }
        let ports = &welcome.stun_ports;
        let servers = hosts.iter().flat_map(|ip| ports.iter().map(|port| SocketAddr::new(*ip, *port))).collect();
        if welcome.relay == ServerRelay::Offered && welcome.standing == Standing::Member {
            link.say(now, ClientMessage::Relay);
        }
        let recruit = network.is_recruit(id);
        network.clock.tell(now, id, welcome.time);
        let at = network.number;
        self.gather.stun_servers(now, at, id, servers);
        self.check_clock(now);
        if !recruit {
            self.begin_fetch(now, id);
        }
    }

    /// Ends a join once no server is left that could help with it.
    pub(crate) fn judge_join(&mut self, at: NetworkNumber) {
        let Some(network) = self.networks.get(at) else { return };
        if matches!(network.saved.stage, Stage::Member) || network.links.values().any(|link| link.hopeless.is_none()) {
            return;
        }
        let reasons = || network.links.values().filter_map(|link| link.hopeless.as_ref());
        let refused = reasons().find_map(|reason| match reason {
            Hopeless::Refused(text) => Some(text.clone()),
            Hopeless::Wrong(_) => None,
        });
        let wrong = reasons().find_map(|reason| match reason {
            Hopeless::Wrong(text) => Some(text.clone()),
            Hopeless::Refused(_) => None,
        });
        match (refused, wrong) {
            (Some(text), _) => self.refuse_join(at, text),
            (None, Some(text)) => self.fail_up(at, FailureCode::Failed, text, "ask the inviter for a fresh invite"),
            (None, None) => {}
        }
    }
}

/// Whether coming back at once would make it worse.
const fn is_crowded(reason: &Broken) -> bool {
    matches!(reason, Broken::Refused { code: Refusal::Replaced | Refusal::RateLimited | Refusal::Busy, .. })
}

/// Whether a relay's address, named by a server that was reached at `server`, may be sent to: a server on the internet
/// cannot aim us at a private network.
fn may_relay(server: Option<SocketAddr>, relay: SocketAddr) -> bool {
    let Some(server) = server else { return false };
    let (at, named) = (reach(server.ip()), reach(relay.ip()));
    let allowed =
        named.is_public() || (named.is_private() && !at.is_public()) || (named == at && at == Reach::Loopback);
    relay.port() != 0 && allowed
}

const MAX_RELAYS: usize = 8;
/// A connection that lived this long was a good one.
const HELD: Duration = Duration::from_secs(30);
/// First pause before a server is tried again; doubled up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(500);
/// The longest pause before a server that does not answer is tried again: whoever waits for it waits no longer.
const RETRY_MAX: Duration = Duration::from_secs(8);
/// The pause before a server that has said no, or that asks for less, is tried again.
pub(crate) const CROWDED: Duration = Duration::from_secs(60);
pub(crate) const RELAY_AGAIN: Duration = Duration::from_secs(60);
const DEFAULT_STUN_PORT: u16 = 3478;
