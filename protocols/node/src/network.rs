//! The network that this machine is in: its servers, its log, its members as peers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_forward::{Command, PeerId, Roam, Shields};
use ginnel_membership::build::{invite_record, lease_record, member_record};
use ginnel_membership::invite::Token;
use ginnel_membership::state::Applied;
use ginnel_membership::{Capabilities, Entry, MemberKey, Name, Server, State, TunnelKey, VerifiedPeer};
use ginnel_signal_proto::client::{Broken, Input as ClientInput, Output as ClientOutput};
use ginnel_signal_proto::mailbox::{MailOpener, MailSealer};
use ginnel_signal_proto::{
    Client, ClientMessage, Credentials, Head, Refusal, RelayOffer as ServerRelay, Request as Asked, ServerMessage,
    Standing, Welcome,
};
use ginnel_time::{Instant, Tai64n};
use ginnel_tunnel::{NetworkTag, PresharedKey, PublicKey, Suite};
use rand_core::RngCore;

use crate::Discard;
use crate::exchange::Road;
use crate::gather::RelayOffer;
use crate::io::{Failure, FailureCode, Output, Reply, RequestId, ServerId, UpOutcome};
use crate::mail::{Mail, MailKind};
use crate::node::{Node, host};
use crate::peer::{IdentityId, Jars, Pace, Peer};
use crate::report::{LogLine, PeerSource};
use crate::requests::describe;
use crate::saved::{Saved, SavedNetwork, SavedShields, Stage, Switch};
use crate::stamp::Stamper;

/// One network and this machine's part in it.
pub(crate) struct Network {
    pub(crate) saved: SavedNetwork,
    pub(crate) state: State,
    pub(crate) links: BTreeMap<ServerId, Link>,
    pub(crate) waiting: Vec<Waiting>,
    sealer: MailSealer,
    opener: MailOpener,
    lease_check: Option<Instant>,
    /// Why this machine cannot become a member, in words; set when a server or the log says so for good.
    pub(crate) refused: Option<String>,
    /// The latest entries in words; at most [`LOG_LINES`], the oldest dropped.
    pub(crate) log: VecDeque<LogLine>,
}

/// The stream to one server.
pub(crate) struct Link {
    pub(crate) server: Server,
    pub(crate) status: LinkStatus,
    client: Option<Client>,
    remote: Option<SocketAddr>,
    retry: Option<Instant>,
    pause: Duration,
    pub(crate) last_contact: Option<Instant>,
    pub(crate) trouble: Option<String>,
    /// What each append in flight was for, in order.
    appends: VecDeque<Purpose>,
    credentials_due: Option<Instant>,
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

/// What an append is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Purpose {
    /// This machine's own membership.
    Own,
    /// A lease.
    Lease,
    /// A user's request.
    Request(RequestId),
}

/// A request that waits for a server.
pub(crate) struct Waiting {
    pub(crate) request: RequestId,
    pub(crate) deadline: Instant,
    pub(crate) wish: Wish,
}

/// What a waiting request asked for.
pub(crate) enum Wish {
    /// To be a member.
    Up,
    /// A record in the log; the reply to give once it is there.
    Append {
        /// The signed record.
        record: Vec<u8>,
        /// The answer for the user.
        reply: Option<Reply>,
    },
    /// To be gone from the log, then forget it here.
    Leave {
        /// The self-made revocation.
        record: Vec<u8>,
    },
}

impl Network {
    /// This machine's member key.
    pub(crate) fn key(&self) -> MemberKey {
        self.saved.member.signing().member_key()
    }

    pub(crate) fn is_member(&self) -> bool {
        self.state.is_live(&self.key())
    }

    pub(crate) fn own_addresses(&self) -> Vec<IpAddr> {
        if self.saved.switch == Switch::Down {
            return Vec::new();
        }
        self.state.member(&self.key()).map(addresses_of).unwrap_or_default()
    }

    /// Applies one encoded entry and keeps its line for lists.
    fn take_entry(&mut self, bytes: &[u8]) -> Result<(), String> {
        let entry = Entry::decode(bytes).map_err(|error| error.to_string())?;
        let verdict = match self.state.apply(&entry).map_err(|error| error.to_string())? {
            Applied::Changed(_) => Ok(()),
            Applied::Skipped(refusal) => Err(refusal.to_string()),
            Applied::Known => return Ok(()),
        };
        if self.log.len() >= LOG_LINES {
            self.log.pop_front();
        }
        self.log.push_back(describe(&entry, verdict));
        Ok(())
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.links.values().any(|link| link.status == LinkStatus::Up)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let links = self
            .links
            .values()
            .flat_map(|link| [link.retry, link.credentials_due, link.client.as_ref().and_then(Client::poll_timeout)]);
        let waiting = self.waiting.iter().map(|waiting| waiting.deadline);
        links.flatten().chain(waiting).chain(self.lease_check).min()
    }

    /// Seals a mail to a member and hands it to every server that is connected.
    pub(crate) fn mail(&mut self, now: Instant, stamper: &Stamper, to: MemberKey, key: PublicKey, body: &[u8]) {
        let wall = stamper.wall(now).unwrap_or(Tai64n::ZERO);
        let Ok(bytes) = self.sealer.seal(wall, &TunnelKey::from_bytes(key.to_bytes()), body) else { return };
        for link in self.links.values_mut().filter(|link| link.status == LinkStatus::Up) {
            link.say(now, ClientMessage::Mail { to, bytes: bytes.clone() });
        }
    }
}

impl Link {
    fn new(server: Server) -> Self {
        Self {
            server,
            status: LinkStatus::Down,
            client: None,
            remote: None,
            retry: None,
            pause: RETRY,
            last_contact: None,
            trouble: None,
            appends: VecDeque::new(),
            credentials_due: None,
        }
    }

    fn say(&mut self, now: Instant, message: ClientMessage) {
        if let Some(client) = &mut self.client {
            let _ = client.handle_input(now, ClientInput::Send(message));
        }
    }

    fn append(&mut self, now: Instant, purpose: Purpose, record: Vec<u8>) {
        self.appends.push_back(purpose);
        self.say(now, ClientMessage::Append { record });
    }

    fn close(&mut self, now: Instant, again: Option<Duration>) {
        self.status = LinkStatus::Down;
        self.client = None;
        self.appends.clear();
        self.credentials_due = None;
        self.retry = again.map(|pause| now + pause);
    }
}

impl Node {
    /// Takes up the network of the state folder.
    pub(crate) fn resume_network(&mut self, now: Instant, saved: Saved, entries: &[Vec<u8>]) {
        let Some(saved) = saved.network else { return };
        self.enter_network(now, saved);
        let Some(network) = &mut self.network else { return };
        for bytes in entries {
            if network.take_entry(bytes).is_err() {
                break;
            }
        }
        self.sync_members(now);
        self.start_network(now);
    }

    /// Makes the network's machines from its saved form.
    pub(crate) fn enter_network(&mut self, now: Instant, saved: SavedNetwork) {
        let id = saved.id();
        self.add_identity(IdentityId::Network, saved.tunnel.tunnel(), NetworkTag(saved.id));
        let tunnel = || zeroize::Zeroizing::new(*saved.tunnel.bytes());
        let sealer = MailSealer::new(self.seed(), tunnel(), &id);
        let opener = MailOpener::new(self.seed(), tunnel(), &id);
        let links =
            (0..).zip(&saved.servers).map(|(index, server)| (ServerId(index), Link::new(server.clone()))).collect();
        self.network = Some(Network {
            state: State::new(id),
            saved,
            links,
            waiting: Vec::new(),
            sealer,
            opener,
            lease_check: Some(now + LEASE_CHECK),
            refused: None,
            log: VecDeque::new(),
        });
    }

    /// Connects to the servers when the switch is up.
    pub(crate) fn start_network(&mut self, now: Instant) {
        let Some(network) = &mut self.network else { return };
        if network.saved.switch == Switch::Down {
            return;
        }
        let shields = match network.saved.shields {
            SavedShields::Up => Shields::Up,
            SavedShields::Down => Shields::Down,
        };
        for link in network.links.values_mut() {
            if link.status == LinkStatus::Down {
                link.retry = Some(now);
            }
        }
        self.forward(Command::SetShields(shields));
        self.network_timeout(now);
    }

    /// Disconnects, takes the members' tunnels away, and keeps the membership.
    pub(crate) fn stop_network(&mut self, now: Instant) {
        let Some(network) = &mut self.network else { return };
        for (id, link) in &mut network.links {
            if link.status != LinkStatus::Down {
                self.outputs.push_back(Output::DisconnectServer(*id));
            }
            link.close(now, None);
        }
        self.gather.forget_servers(now);
        self.sync_members(now);
    }

    pub(crate) fn persist(&mut self) {
        let saved = Saved::new(self.stamper.reserve(), self.network.as_ref().map(|network| network.saved.clone()));
        self.outputs.push_back(Output::Persist(saved.encode()));
    }

    fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        seed
    }

    pub(crate) fn network_timeout(&mut self, now: Instant) {
        let Some(network) = &mut self.network else { return };
        for (id, link) in &mut network.links {
            if link.retry.is_some_and(|at| at <= now) && link.status == LinkStatus::Down {
                link.retry = None;
                link.status = LinkStatus::Connecting;
                let addresses = link.server.addresses.clone();
                self.outputs.push_back(Output::ConnectServer { server: *id, addresses });
            }
            if link.credentials_due.is_some_and(|at| at <= now) {
                link.credentials_due = None;
                link.say(now, ClientMessage::Relay);
            }
            if let Some(client) = &mut link.client {
                client.handle_timeout(now);
            }
        }
        if network.lease_check.is_some_and(|at| at <= now) {
            network.lease_check = Some(now + LEASE_CHECK);
            self.renew_lease(now);
        }
        self.drain_links(now);
        self.late_requests(now);
    }

    pub(crate) fn server_opened(&mut self, now: Instant, id: ServerId, remote: SocketAddr) {
        let seed = self.seed();
        let Some(network) = &mut self.network else { return };
        let credentials = match &network.saved.stage {
            Stage::Founding { token, .. } => Credentials::Founder {
                token: Token::from_bytes(*token),
                key: network.saved.admin.as_ref().unwrap_or(&network.saved.member).signing(),
            },
            Stage::Joining { invite } => {
                Credentials::Joiner { invite: invite.signing(), key: network.saved.member.signing() }
            }
            Stage::Member => Credentials::Member { key: network.saved.member.signing() },
        };
        let network_id = network.saved.id();
        let Some(link) = network.links.get_mut(&id) else { return };
        let mut client = Client::new(seed, link.server.keys, network_id, credentials);
        let _ = client.handle_input(now, ClientInput::Opened);
        link.client = Some(client);
        link.remote = Some(remote);
        link.status = LinkStatus::Connecting;
        self.drain_links(now);
    }

    pub(crate) fn server_bytes(&mut self, now: Instant, id: ServerId, bytes: Vec<u8>) {
        let Some(link) = self.network.as_mut().and_then(|network| network.links.get_mut(&id)) else { return };
        link.last_contact = Some(now);
        if let Some(client) = &mut link.client {
            let _ = client.handle_input(now, ClientInput::Received(bytes));
        }
        self.drain_links(now);
    }

    pub(crate) fn server_closed(&mut self, now: Instant, id: ServerId, reason: String) {
        let jitter = Duration::from_millis(u64::from(self.rng.next_u32() % 500));
        let Some(network) = &mut self.network else { return };
        let again = network.saved.switch == Switch::Up;
        let Some(link) = network.links.get_mut(&id) else { return };
        if let Some(client) = &mut link.client {
            let _ = client.handle_input(now, ClientInput::Closed);
        }
        if link.status != LinkStatus::Down || link.retry.is_none() {
            let pause = link.pause + jitter;
            link.pause = (link.pause * 2).min(RETRY_MAX);
            link.close(now, again.then_some(pause));
        }
        link.trouble.get_or_insert(reason);
    }

    /// Drains the clients of every link; answers whether there was anything.
    pub(crate) fn drain_links(&mut self, now: Instant) -> bool {
        let ids: Vec<ServerId> =
            self.network.as_ref().map(|network| network.links.keys().copied().collect()).unwrap_or_default();
        let mut any = false;
        for id in ids {
            loop {
                let output = self
                    .network
                    .as_mut()
                    .and_then(|network| network.links.get_mut(&id))
                    .and_then(|link| link.client.as_mut())
                    .and_then(Client::poll_output);
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

    fn link_ready(&mut self, now: Instant, id: ServerId) {
        let Some(network) = &mut self.network else { return };
        let stage = network.saved.stage.clone();
        let from = network.state.head().0;
        let Some(link) = network.links.get_mut(&id) else { return };
        link.status = LinkStatus::Up;
        link.pause = RETRY;
        link.trouble = None;
        if let Stage::Founding { genesis, .. } = stage {
            link.say(now, ClientMessage::Found { genesis });
        }
        link.say(now, ClientMessage::Fetch { from });
    }

    fn link_broken(&mut self, now: Instant, id: ServerId, reason: &Broken) {
        let jitter = Duration::from_millis(u64::from(self.rng.next_u32() % 500));
        self.outputs.push_back(Output::DisconnectServer(id));
        let Some(network) = &mut self.network else { return };
        let Some(link) = network.links.get_mut(&id) else { return };
        link.trouble = Some(reason.to_string());
        let pause = link.pause + jitter;
        link.pause = (link.pause * 2).min(RETRY_MAX);
        link.close(now, Some(pause));
        if let Broken::Refused { code, text } = reason
            && is_final(*code)
        {
            self.refuse(text.clone());
        } else if matches!(reason, Broken::WrongServer | Broken::HandshakeRefused) {
            self.fail_up(FailureCode::Failed, reason.to_string(), "ask the inviter for a fresh invite");
        }
    }

    fn server_says(&mut self, now: Instant, id: ServerId, message: ServerMessage) {
        match message {
            ServerMessage::Welcome(welcome) => self.welcomed(now, id, &welcome),
            ServerMessage::Entries { first, entries, head } => self.take_entries(now, id, first, &entries, head),
            ServerMessage::Appended { .. } => self.appended(now, id),
            ServerMessage::Refused { request, code, text } => self.server_refused(now, id, request, code, &text),
            ServerMessage::Mail { from, bytes } => {
                if let Err(discard) = self.handle_mail(now, from, &bytes) {
                    self.counters.count(discard);
                }
            }
            ServerMessage::MailRefused { to, why } => tracing::debug!(?to, ?why, "mail was not taken"),
            ServerMessage::Relay(relay) => {
                let Some(link) = self.network.as_mut().and_then(|network| network.links.get_mut(&id)) else { return };
                let life = Duration::from_secs(u64::from(relay.lifetime_seconds.max(120)));
                link.credentials_due = Some(now + life / 2);
                let mut servers = relay.addresses;
                if servers.is_empty() {
                    servers.extend(link.remote.map(|remote| SocketAddr::new(remote.ip(), DEFAULT_STUN_PORT)));
                }
                let credentials = ginnel_turn::Credentials { username: relay.username, password: relay.password };
                self.gather.relay_offer(now, RelayOffer { servers, credentials });
            }
            ServerMessage::Pong => {}
        }
    }

    fn welcomed(&mut self, now: Instant, id: ServerId, welcome: &Welcome) {
        let Some(network) = &mut self.network else { return };
        let Some(link) = network.links.get_mut(&id) else { return };
        let Some(remote) = link.remote else { return };
        let servers =
            welcome.stun_ports.iter().map(|port| SocketAddr::new(remote.ip().to_canonical(), *port)).collect();
        if welcome.relay == ServerRelay::Offered && welcome.standing == Standing::Member {
            link.say(now, ClientMessage::Relay);
        }
        self.gather.stun_servers(now, servers);
    }

    fn take_entries(&mut self, now: Instant, id: ServerId, first: u64, entries: &[Vec<u8>], head: Head) {
        let Some(network) = &mut self.network else { return };
        let mut fresh = Vec::new();
        let mut trouble = None;
        for (sequence, bytes) in (first..).zip(entries) {
            if sequence != network.state.head().0 {
                continue;
            }
            match network.take_entry(bytes) {
                Ok(()) => fresh.push(bytes.clone()),
                Err(error) => {
                    trouble = Some(format!("the server's log does not verify: {error}"));
                    break;
                }
            }
        }
        let length = network.state.head().0;
        let network_id = network.saved.id();
        let Some(link) = network.links.get_mut(&id) else { return };
        let broken = trouble.is_some();
        if broken {
            self.counters.count(Discard::BadServerMessage);
            link.trouble = trouble;
        } else if length < head.length && (!fresh.is_empty() || first > length) {
            link.say(now, ClientMessage::Fetch { from: length });
        }
        if !fresh.is_empty() {
            self.outputs.push_back(Output::StoreEntries { network: network_id, entries: fresh });
            self.sync_members(now);
        }
        if !broken && length >= head.length {
            self.caught_up(now, id);
        }
    }

    /// The log is as long as the server's: does this machine's own membership have to be written?
    fn caught_up(&mut self, now: Instant, id: ServerId) {
        let capabilities = self.capabilities();
        let Some(network) = &mut self.network else { return };
        if network.is_member() {
            self.became_member(now, id);
            return;
        }
        let network_id = network.saved.id();
        if network.state.head().0 == 0 {
            return;
        }
        let (invite, founder) = match &network.saved.stage {
            Stage::Founding { invite, .. } => (invite.signing(), network.saved.admin.clone()),
            Stage::Joining { invite } => (invite.signing(), None),
            Stage::Member => return,
        };
        let member = network.saved.member.signing();
        let name = Name::new(&network.saved.wish).unwrap_or_else(|_| Name::from_hostname("machine"));
        let tunnel = TunnelKey::from_bytes(network.saved.tunnel.tunnel().public().to_bytes());
        let known = network.state.invite(&invite.invite_key()).is_some();
        let Some(link) = network.links.get_mut(&id) else { return };
        if link.appends.contains(&Purpose::Own) {
            return;
        }
        if let Some(admin) = founder.filter(|_| !known) {
            let expires = self.stamper.unix_seconds(now).saturating_add(FOUNDER_INVITE_LIFE);
            let record = invite_record(&network_id, &admin.signing(), invite.invite_key(), expires, None);
            link.append(now, Purpose::Own, record);
        }
        let record = member_record(&network_id, &invite, &member, tunnel, name, capabilities);
        link.append(now, Purpose::Own, record);
    }

    fn became_member(&mut self, now: Instant, id: ServerId) {
        let Some(network) = &mut self.network else { return };
        let before = std::mem::replace(&mut network.saved.stage, Stage::Member);
        let Some(link) = network.links.get_mut(&id) else { return };
        let outcome = match before {
            Stage::Member => UpOutcome::Started,
            Stage::Joining { .. } => {
                link.say(now, ClientMessage::Relay);
                self.persist();
                UpOutcome::Joined
            }
            Stage::Founding { .. } => {
                link.close(now, Some(Duration::ZERO));
                self.outputs.push_back(Output::DisconnectServer(id));
                self.persist();
                UpOutcome::Founded
            }
        };
        self.answer_up(outcome);
        self.send_waiting(now);
    }

    fn appended(&mut self, now: Instant, id: ServerId) {
        let Some(network) = &mut self.network else { return };
        let unread = network.state.head().0 == 0;
        let Some(link) = network.links.get_mut(&id) else { return };
        if unread {
            // The genesis is on the server's disk now; a fetch before that was refused.
            link.say(now, ClientMessage::Fetch { from: 0 });
            return;
        }
        if let Some(Purpose::Request(request)) = link.appends.pop_front() {
            self.finish_request(now, request, Ok(()));
        }
    }

    fn server_refused(&mut self, now: Instant, id: ServerId, asked: Asked, code: Refusal, text: &str) {
        tracing::debug!(?asked, ?code, text, "the server refuses");
        let Some(network) = &mut self.network else { return };
        let founding = matches!(network.saved.stage, Stage::Founding { .. });
        let Some(link) = network.links.get_mut(&id) else { return };
        match asked {
            Asked::Append => match link.appends.pop_front() {
                Some(Purpose::Request(request)) => self.finish_request(now, request, Err(text.to_owned())),
                Some(Purpose::Own) if is_final(code) || matches!(code, Refusal::Record(_)) => {
                    self.refuse(text.to_owned())
                }
                Some(Purpose::Own) => link.trouble = Some(text.to_owned()),
                Some(Purpose::Lease) | None => {}
            },
            Asked::Found if is_final(code) => self.refuse(text.to_owned()),
            Asked::Fetch if founding && code == Refusal::UnknownNetwork => {}
            Asked::Found | Asked::Connection | Asked::Fetch => link.trouble = Some(text.to_owned()),
            Asked::Relay => link.credentials_due = Some(now + RELAY_AGAIN),
        }
    }

    /// Takes a final no: the join is over.
    fn refuse(&mut self, text: String) {
        let Some(network) = &mut self.network else { return };
        if matches!(network.saved.stage, Stage::Member) {
            network.refused = Some(text);
            return;
        }
        if network.state.head().0 > 0 && network.saved.admin.is_some() {
            // This machine holds the only key of a network that exists: forgetting it would lose the network.
            self.fail_up(FailureCode::Failed, text, "`ginnel up --name NAME` tries again with another name");
            return;
        }
        self.fail_up(FailureCode::Failed, text, "ask for a fresh invite");
        self.forget_network();
    }

    fn fail_up(&mut self, code: FailureCode, text: String, hint: &str) {
        let Some(network) = &mut self.network else { return };
        let mut kept = Vec::new();
        for waiting in network.waiting.drain(..) {
            match waiting.wish {
                Wish::Up => {
                    let failure = Failure::new(code, text.clone(), hint);
                    self.outputs.push_back(Output::Reply { id: waiting.request, reply: Err(failure) });
                }
                Wish::Append { .. } | Wish::Leave { .. } => kept.push(waiting),
            }
        }
        network.waiting = kept;
    }

    /// Drops every trace of the network from this machine.
    pub(crate) fn forget_network(&mut self) {
        let now = self.now;
        self.stop_network(now);
        let Some(network) = self.network.take() else { return };
        let gone: Vec<PeerId> = self.peers.values().filter(|peer| peer.member.is_some()).map(|peer| peer.id).collect();
        for id in gone {
            self.remove_peer(id);
        }
        self.remove_identity(IdentityId::Network);
        self.persist();
        self.outputs.push_back(Output::ForgetLog(network.saved.id()));
        self.outputs.push_back(Output::Names(Vec::new()));
        self.refresh_tun();
    }

    /// Makes peers of the members, and removes peers that are members no more.
    pub(crate) fn sync_members(&mut self, now: Instant) {
        let Some(network) = &self.network else { return };
        let me = network.key();
        let running = network.saved.switch == Switch::Up && network.is_member();
        let wanted: Vec<VerifiedPeer> = if running { network.state.peers(&me) } else { Vec::new() };
        let keys: BTreeSet<MemberKey> = wanted.iter().map(VerifiedPeer::member).collect();
        let gone: Vec<PeerId> = self
            .peers
            .values()
            .filter(|peer| peer.member.is_some_and(|member| !keys.contains(&member)))
            .map(|peer| peer.id)
            .collect();
        for id in gone {
            self.remove_peer(id);
        }
        for peer in wanted {
            self.take_member(&peer);
        }
        self.tell_names();
        self.refresh_tun();
        let _ = now;
    }

    fn take_member(&mut self, verified: &VerifiedPeer) {
        let allowed: Vec<(IpAddr, u8)> = verified_addresses(verified).into_iter().map(host).collect();
        let name = verified.name().as_str().to_owned();
        let known = self.peers.values_mut().find(|peer| peer.member == Some(verified.member()));
        if let Some(peer) = known {
            peer.name.clone_from(&name);
            if peer.allowed == allowed {
                return;
            }
            let id = peer.id;
            self.remove_peer(id);
        }
        let key = PublicKey::from_bytes(verified.tunnel_key().to_bytes());
        let accepts = suites_of(verified.suites());
        let suite = self.suites.iter().copied().find(|suite| accepts.contains(suite)).unwrap_or(Suite::ChaChaPoly);
        let peer = Peer {
            id: self.next_peer_id(),
            name,
            source: PeerSource::Log,
            member: Some(verified.member()),
            identity: IdentityId::Network,
            key,
            psk: PresharedKey::zero(),
            suite,
            accepts,
            allowed,
            ways: self.agent_ways(None),
            jars: Jars::new(key),
            attempt: None,
            greatest: Tai64n::ZERO,
            answered: None,
            accepted: None,
            pace: Pace::default(),
            session: None,
            pings: Vec::new(),
        };
        self.add_peer(peer, Roam::Fixed, None);
    }

    fn tell_names(&mut self) {
        let Some(network) = &self.network else { return };
        let mut names = Vec::new();
        if network.saved.switch == Switch::Up {
            for member in network.state.members().filter(|member| network.state.is_live(&member.key())) {
                let name = format!("{}.{}.internal", member.name(), network.state.name().map_or("", Name::as_str));
                names.push((name, addresses_of(member)));
            }
        }
        if self.names != names {
            self.names.clone_from(&names);
            self.outputs.push_back(Output::Names(names));
        }
    }

    fn handle_mail(&mut self, now: Instant, from: MemberKey, bytes: &[u8]) -> Result<(), Discard> {
        let by_key = &self.by_key;
        let network = self.network.as_mut().ok_or(Discard::BadMail)?;
        let mut known =
            |key: &TunnelKey| by_key.contains_key(&(IdentityId::Network, PublicKey::from_bytes(key.to_bytes())));
        let opened = network.opener.open(bytes, &mut known).map_err(|_| Discard::BadMail)?;
        let key = PublicKey::from_bytes(opened.sender.to_bytes());
        let id = *by_key.get(&(IdentityId::Network, key)).ok_or(Discard::BadMail)?;
        if self.peers.get(&id).and_then(|peer| peer.member) != Some(from) {
            return Err(Discard::ForeignMail);
        }
        let mail = Mail::decode(&opened.body).ok_or(Discard::BadMail)?;
        let fits = matches!(
            (mail.kind, ginnel_tunnel::classify(&mail.handshake)),
            (MailKind::Offer, Some((_, ginnel_tunnel::MessageKind::Initiation)))
                | (MailKind::Answer, Some((_, ginnel_tunnel::MessageKind::Response)))
                | (MailKind::Cookie, Some((_, ginnel_tunnel::MessageKind::Cookie)))
        );
        if !fits {
            return Err(Discard::BadMail);
        }
        self.handle_handshake(now, Road::Mailbox(id), &mail.handshake, &mail.candidates)
    }

    /// Signs a lease when this machine is an admin and the last one grows old.
    fn renew_lease(&mut self, now: Instant) {
        let wall = self.stamper.unix_seconds(now);
        let Some(network) = &mut self.network else { return };
        let Some(admin) = &network.saved.admin else { return };
        let fresh = network.state.lease_age(wall).is_some_and(|age| age.as_secs() < LEASE_RENEW);
        if fresh || wall == 0 || !network.is_member() {
            return;
        }
        let record = lease_record(&network.saved.id(), &admin.signing(), network.state.head(), wall);
        let up = network.links.values_mut().find(|link| link.status == LinkStatus::Up);
        if let Some(link) = up.filter(|link| !link.appends.contains(&Purpose::Lease)) {
            link.append(now, Purpose::Lease, record);
        }
    }

    fn capabilities(&self) -> Capabilities {
        if self.suites.contains(&Suite::AesGcm) { Capabilities::BOTH_SUITES } else { Capabilities::CHACHA_POLY }
    }

    /// Sends the records of waiting requests that no server has yet.
    pub(crate) fn send_waiting(&mut self, now: Instant) {
        let Some(network) = &mut self.network else { return };
        let Some(link) = network.links.values_mut().find(|link| link.status == LinkStatus::Up) else { return };
        for waiting in &network.waiting {
            let purpose = Purpose::Request(waiting.request);
            if link.appends.contains(&purpose) {
                continue;
            }
            match &waiting.wish {
                Wish::Append { record, .. } | Wish::Leave { record } => link.append(now, purpose, record.clone()),
                Wish::Up => {}
            }
        }
        self.drain_links(now);
    }

    fn answer_up(&mut self, outcome: UpOutcome) {
        let Some(network) = &mut self.network else { return };
        let (done, kept) = network.waiting.drain(..).partition::<Vec<_>, _>(|waiting| matches!(waiting.wish, Wish::Up));
        network.waiting = kept;
        for waiting in done {
            let reply = self.up_reply(outcome);
            self.outputs.push_back(Output::Reply { id: waiting.request, reply });
        }
    }

    fn finish_request(&mut self, _now: Instant, request: RequestId, outcome: Result<(), String>) {
        let Some(network) = &mut self.network else { return };
        let Some(place) = network.waiting.iter().position(|waiting| waiting.request == request) else { return };
        let waiting = network.waiting.swap_remove(place);
        let leave = matches!(waiting.wish, Wish::Leave { .. });
        let reply = match (outcome, waiting.wish) {
            (Ok(()), Wish::Append { reply, .. }) => Ok(reply.unwrap_or(Reply::Done)),
            (_, Wish::Leave { .. }) | (Ok(()), Wish::Up) => Ok(Reply::Done),
            (Err(text), Wish::Append { .. } | Wish::Up) => Err(Failure::new(FailureCode::Failed, text, "")),
        };
        self.outputs.push_back(Output::Reply { id: request, reply });
        if leave {
            self.forget_network();
        }
    }

    /// Answers the requests whose time is over.
    fn late_requests(&mut self, now: Instant) {
        let Some(network) = &mut self.network else { return };
        let trouble = network.links.values().find_map(|link| link.trouble.clone());
        let (late, kept) = network.waiting.drain(..).partition::<Vec<_>, _>(|waiting| waiting.deadline <= now);
        network.waiting = kept;
        let mut leave = false;
        for waiting in late {
            let why = trouble.clone().unwrap_or_else(|| "no server answered".to_owned());
            let reply = match waiting.wish {
                Wish::Up => Err(Failure::new(
                    FailureCode::TimedOut,
                    format!("not a member yet: {why}"),
                    "the daemon keeps trying; see `ginnel status`",
                )),
                Wish::Append { .. } => Err(Failure::new(
                    FailureCode::TimedOut,
                    format!("not written to the log: {why}"),
                    "try again when `ginnel status` shows a connected server",
                )),
                Wish::Leave { .. } => {
                    leave = true;
                    Ok(Reply::Done)
                }
            };
            self.outputs.push_back(Output::Reply { id: waiting.request, reply });
        }
        if leave {
            self.forget_network();
        }
    }
}

/// Whether a server's no is the last word on a join.
const fn is_final(code: Refusal) -> bool {
    matches!(
        code,
        Refusal::BadSignature
            | Refusal::NotAMember
            | Refusal::Revoked
            | Refusal::InviteUnknown
            | Refusal::InviteUsed
            | Refusal::InviteExpired
            | Refusal::TokenUnknown
            | Refusal::TokenUsed
    )
}

fn addresses_of(member: &ginnel_membership::Member) -> Vec<IpAddr> {
    member.ipv4().map(IpAddr::V4).into_iter().chain([IpAddr::V6(member.ipv6())]).collect()
}

fn verified_addresses(peer: &VerifiedPeer) -> Vec<IpAddr> {
    peer.ipv4().map(IpAddr::V4).into_iter().chain([IpAddr::V6(peer.ipv6())]).collect()
}

fn suites_of(capabilities: Capabilities) -> Vec<Suite> {
    let mut suites = Vec::new();
    if capabilities.contains(Capabilities::AES_GCM) {
        suites.push(Suite::AesGcm);
    }
    if capabilities.contains(Capabilities::CHACHA_POLY) {
        suites.push(Suite::ChaChaPoly);
    }
    suites
}

/// First pause before a server is tried again; doubled up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);
const LEASE_CHECK: Duration = Duration::from_secs(3600);
/// An admin signs a lease when the last one is a day old; it runs out after seven.
const LEASE_RENEW: u64 = 24 * 3600;
/// Seconds in which the founder's own join has to be ordered.
const FOUNDER_INVITE_LIFE: u64 = 24 * 3600;
const RELAY_AGAIN: Duration = Duration::from_secs(60);
const DEFAULT_STUN_PORT: u16 = 3478;
const LOG_LINES: usize = 1000;
