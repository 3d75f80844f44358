//! The node itself: its parts, its contract, and where each input goes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ginnel_forward::{Command, Event, PeerId, Roam};
use ginnel_membership::{MemberKey, NetworkId};
use ginnel_path::message::{PROBE, is_path_message};
use ginnel_path::{
    Agent, Config as PathConfig, Input as PathInput, Local, Output as PathOutput, Path, PathEvent, SocketId,
};
use ginnel_signal_proto::ClientMessage;
use ginnel_time::Instant;
use ginnel_tunnel::cookie::{CookieIssuer, Mac1};
use ginnel_tunnel::limiter::HandshakeLimiter;
use ginnel_tunnel::{Identity, MessageKind, NetworkTag, PresharedKey, PublicKey, StaticSecret, Suite, classify};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use crate::counters::{Counters, Discard};
use crate::exchange::{IndexUse, PendingAnswer, Road};
use crate::fresh::Fresh;
use crate::gather::{Found, Gather};
use crate::gossip::is_gossip;
use crate::io::{Failure, FailureCode, Family, Input, Output, Port, TunState};
use crate::load::{Bucket, Cookies, DEFAULT_THRESHOLD, Load};
use crate::network::Network;
use crate::networks::{MAX_NETWORKS, NetworkNumber, Networks};
use crate::peer::{IdentityId, Jars, Peer, Profile, Ways};
use crate::ping::{PING, PONG};
use crate::report::PeerSource;
use crate::saved::{BadState, Saved, SavedNetwork, SavedShields};
use crate::stamp::Stamper;
use crate::strangers::Strangers;

/// What a node is made from.
pub struct Config {
    /// Seed of all randomness, from the system's generator; keys are made of it.
    pub seed: [u8; 32],
    /// The static key of the configuration file.
    pub secret: Option<StaticSecret>,
    /// Own addresses for the peers of the configuration file.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The peers of the configuration file.
    pub peers: Vec<ConfigPeer>,
    /// Suites that this machine runs fast, best first.
    pub suites: Vec<Suite>,
    /// The machine's own name, wished for in a network when the user names none.
    pub hostname: String,
    /// Settings for tests.
    pub debug: Debug,
}

/// Settings that only tests need.
#[derive(Clone, Copy, Debug, Default)]
pub struct Debug {
    /// Handshakes per second above which senders must prove their address.
    pub load_threshold: Option<u32>,
    /// Which paths may be used.
    pub paths: ginnel_path::Policy,
}

/// A peer of the operator's own configuration file, which is its authority.
pub struct ConfigPeer {
    /// Its name.
    pub name: String,
    /// Its static public key.
    pub key: PublicKey,
    /// The preshared key, all zeros when unset.
    pub psk: PresharedKey,
    /// Where it is reached, when that is known.
    pub endpoint: Option<SocketAddr>,
    /// Which addresses are its own.
    pub allowed: Vec<(IpAddr, u8)>,
    /// How often a packet goes out in any case.
    pub persistent_keepalive: Option<Duration>,
    /// What it is.
    pub kind: ConfigPeerKind,
}

/// What a peer of the configuration file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigPeerKind {
    /// A stock WireGuard implementation.
    WireGuard,
    /// A ginneld.
    Ginnel,
}

/// What a node finds in the state folder.
#[derive(Default)]
pub struct Resume {
    /// The last bytes of [`Output::Persist`]; `None` on a first start.
    pub state: Option<Vec<u8>>,
    /// The stored logs, one for each of [`Node::networks_of`]; a broken tail is dropped.
    pub logs: Vec<StoredLog>,
}

/// The stored log of one network.
#[derive(Clone, Debug)]
pub struct StoredLog {
    /// The network.
    pub network: NetworkId,
    /// The snapshot with which the stored log begins, and the entry that vouches for it.
    pub snapshot: Option<(Vec<u8>, Vec<u8>)>,
    /// Its entries, in order.
    pub entries: Vec<Vec<u8>>,
}

/// The deciding machine; see the crate's documentation for how to drive it.
pub struct Node {
    pub(crate) now: Instant,
    pub(crate) rng: ChaCha20Rng,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) counters: Counters,
    pub(crate) stamper: Stamper,
    pub(crate) identities: BTreeMap<IdentityId, Identity>,
    pub(crate) macs: BTreeMap<IdentityId, Mac1>,
    pub(crate) issuers: BTreeMap<IdentityId, CookieIssuer>,
    pub(crate) limiter: HandshakeLimiter,
    pub(crate) load: Load,
    /// What is left of this second's cookie replies.
    pub(crate) cookies: Cookies,
    /// Handshake messages to addresses that have proved nothing; each network has a share of its own in it.
    pub(crate) unproven: Bucket,
    /// What addresses get at which no probe was answered.
    pub(crate) strangers: Strangers,
    pub(crate) peers: BTreeMap<PeerId, Peer>,
    /// Peers for which something is kept beyond who they are; everything periodic looks at these alone.
    pub(crate) awake: BTreeSet<PeerId>,
    pub(crate) by_member: BTreeMap<(NetworkNumber, MemberKey), PeerId>,
    pub(crate) by_key: BTreeMap<(IdentityId, PublicKey), PeerId>,
    pub(crate) indices: BTreeMap<u32, IndexUse>,
    pub(crate) pending_answers: Vec<PendingAnswer>,
    pub(crate) gather: Gather,
    pub(crate) networks: Networks,
    /// Of the whole machine: connections that peers of any network open.
    pub(crate) shields: SavedShields,
    pub(crate) suites: Vec<Suite>,
    pub(crate) hostname: String,
    policy: ginnel_path::Policy,
    pub(crate) names: Vec<(String, Vec<IpAddr>)>,
    pub(crate) config_addresses: Vec<(IpAddr, u8)>,
    /// Every address of this machine but those of the tunnels' own interface.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) sockets: BTreeMap<SocketId, Family>,
    /// Sockets opened for the punching of one peer.
    pub(crate) fresh: BTreeMap<SocketId, Fresh>,
    /// What every agent was told of the prefixes that the tunnels carry.
    refused: Arc<[(IpAddr, u8)]>,
    next_peer: u32,
    next_socket: u16,
    pub(crate) tun: Option<TunState>,
}

impl Node {
    /// Makes a node from its configuration and what the state folder holds.
    ///
    /// # Errors
    /// [`BadState`] when the saved state is of a newer version or broken.
    pub fn new(now: Instant, config: Config, resume: Resume) -> Result<Self, BadState> {
        let mut rng = ChaCha20Rng::from_seed(config.seed);
        let mut senders = rng.clone();
        senders.set_stream(SENDERS_STREAM);
        let saved = resume.state.as_deref().map(Saved::decode).transpose()?.unwrap_or_default();
        let gather = Gather::new(fork(&mut rng));
        let limiter = HandshakeLimiter::new();
        let mut node = Self {
            now,
            rng,
            outputs: VecDeque::new(),
            counters: Counters::default(),
            stamper: Stamper::new(saved.reserve()),
            identities: BTreeMap::new(),
            macs: BTreeMap::new(),
            issuers: BTreeMap::new(),
            limiter,
            load: Load::new(config.debug.load_threshold.unwrap_or(DEFAULT_THRESHOLD)),
            cookies: Cookies::new(fork(&mut senders)),
            unproven: Bucket::new(800, 1600),
            strangers: Strangers::default(),
            peers: BTreeMap::new(),
            awake: BTreeSet::new(),
            by_member: BTreeMap::new(),
            by_key: BTreeMap::new(),
            indices: BTreeMap::new(),
            pending_answers: Vec::new(),
            gather,
            networks: Networks::default(),
            shields: SavedShields::Down,
            suites: config.suites,
            hostname: config.hostname,
            policy: config.debug.paths,
            names: Vec::new(),
            config_addresses: config.addresses,
            addresses: Vec::new(),
            sockets: BTreeMap::new(),
            fresh: BTreeMap::new(),
            refused: Arc::default(),
            next_peer: 0,
            next_socket: 0,
            tun: None,
        };
        for family in [Family::V4, Family::V6] {
            node.open_socket(family, Port::Kept);
        }
        node.refresh_refused();
        if let Some(secret) = config.secret {
            node.add_identity(IdentityId::Config, secret, NetworkTag([0; 32]));
            for peer in config.peers {
                node.add_config_peer(peer);
            }
        }
        node.resume_networks(now, saved, &resume.logs);
        node.refresh_tun();
        node.pump(now);
        Ok(node)
    }

    /// The networks whose logs go with saved state, so that the shell can find them; none for state that [`Self::new`]
    /// refuses.
    pub fn networks_of(state: &[u8]) -> Vec<NetworkId> {
        let saved = Saved::decode(state).unwrap_or_default();
        saved.networks.iter().take(MAX_NETWORKS).map(SavedNetwork::id).collect()
    }

    /// Takes one input.
    ///
    /// # Errors
    /// [`Discard`] when the input came from outside and was dropped; it has been counted.
    pub fn handle_input(&mut self, now: Instant, input: Input) -> Result<(), Discard> {
        let now = self.advance(now);
        let from_a_path = matches!(input, Input::Forward(Event::Handshake { .. }));
        let is_cookie = matches!(&input, Input::Forward(Event::Handshake { bytes, .. }) if is_cookie(bytes));
        let result = self.dispatch(now, input);
        if let Err(discard) = result {
            self.counters.count(discard);
        }
        // A flood of what changes nothing must not have everything looked at each time.
        let unused = matches!(result, Err(Discard::BadMac | Discard::CookieDemanded | Discard::CookiesSpent));
        let stray_cookie = is_cookie && matches!(result, Err(Discard::UnknownIndex | Discard::BadCookie));
        if !(from_a_path && unused || stray_cookie) {
            self.pump(now);
        }
        result
    }

    /// Lets every deadline fire that has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.advance(now);
        self.gather.handle_timeout(now);
        let ids: Vec<PeerId> = self.awake.iter().copied().collect();
        for id in ids {
            if self.peers.get(&id).and_then(Peer::deadline).is_some_and(|at| at <= now) {
                if let Some(agent) = self.peers.get_mut(&id).and_then(Peer::agent) {
                    agent.handle_timeout(now);
                }
                self.attempt_timeout(now, id);
                self.answer_timeout(now, id);
                self.ping_timeout(now, id);
            }
        }
        self.flush_answers(now);
        self.fresh_timeout(now);
        self.network_timeout(now);
        self.pump(now);
    }

    /// The next output, to be carried out in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.outputs.is_empty() {
            return Some(self.now);
        }
        let peers = self.awake.iter().filter_map(|id| self.peers.get(id)?.deadline()).min();
        let answers = self.pending_answers.iter().map(|pending| pending.deadline).min();
        let network = self.networks.iter().filter_map(Network::poll_timeout).min();
        [self.gather.poll_timeout(), self.fresh_deadline(), peers, answers, network].into_iter().flatten().min()
    }

    /// Discards so far, by reason.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn advance(&mut self, now: Instant) -> Instant {
        self.now = self.now.max(now);
        self.now
    }

    fn dispatch(&mut self, now: Instant, input: Input) -> Result<(), Discard> {
        match input {
            Input::Wall(wall) => {
                self.stamper.set_wall(now, wall);
                self.check_clock(now);
            }
            Input::Interfaces(addresses) => {
                if self.gather.interfaces(now, addresses) {
                    self.strangers.moved();
                    self.networks.links_mut().for_each(|link| link.moved(now));
                    self.drain_links(now);
                }
            }
            Input::Addresses(addresses) => self.addresses = addresses,
            Input::SocketOpened { socket, local } => {
                // It may have been closed again meanwhile.
                if self.sockets.contains_key(&socket) {
                    self.gather.socket_opened(now, socket, local);
                }
            }
            Input::SocketLost { socket } => self.socket_lost(now, socket),
            Input::SendFailed { path } => {
                let ids: Vec<PeerId> = self.awake.iter().copied().collect();
                for id in ids {
                    self.tell_agent(now, id, PathInput::SendFailed { path });
                }
            }
            Input::Forward(event) => return self.handle_event(now, event),
            Input::ServerOpened { server, remote } => self.server_opened(now, server, remote),
            Input::ServerBytes { server, bytes } => self.server_bytes(now, server, bytes),
            Input::ServerClosed { server, reason } => self.server_closed(now, server, reason),
            Input::Request { id, network, request } => self.handle_request(now, id, network.as_deref(), request),
        }
        Ok(())
    }

    fn handle_event(&mut self, now: Instant, event: Event) -> Result<(), Discard> {
        match event {
            Event::Confirmed { peer, .. } => self.confirmed(now, peer),
            Event::Expired { peer, index } => self.expired(now, peer, index),
            Event::RekeyDue { peer, .. } => self.rekey(now, peer),
            Event::SessionWanted { peer } => self.want_session(now, peer),
            Event::Arrived { peer, path } => {
                self.may_use(self.network_of(peer), path.local)?;
                self.arrived(now, peer, path);
            }
            Event::Roamed { peer, path } => {
                if let Some(Ways::Endpoint(endpoint)) = self.peers.get_mut(&peer).map(|peer| &mut peer.ways) {
                    *endpoint = Some(path);
                }
            }
            Event::Traffic { peer, sent, received } => {
                self.tell_agent(now, peer, PathInput::Traffic { sent, received });
                if sent && self.peers.get(&peer).is_some_and(|peer| peer.primary().is_none()) {
                    self.out_of_reach(now, peer);
                }
            }
            Event::Control { peer, path, plaintext } => return self.handle_control(now, peer, path, plaintext),
            Event::Handshake { path, bytes } => {
                if matches!(path.local, Local::Relay(_))
                    && let Ok(identity) = self.identity_of(&bytes)
                {
                    self.may_use(identity.network(), path.local)?;
                }
                return self.handle_handshake(now, Road::Path(path), &bytes, &[]);
            }
            Event::Stun { socket, from, bytes } => return self.gather.handle_stun(now, socket, from, &bytes),
        }
        Ok(())
    }

    fn handle_control(&mut self, now: Instant, peer: PeerId, path: Path, plaintext: Vec<u8>) -> Result<(), Discard> {
        self.may_use(self.network_of(peer), path.local)?;
        self.fresh_used(now, path.local);
        match plaintext.first() {
            Some(&first) if is_path_message(first) => {
                self.tell_agent(now, peer, PathInput::Message { path, bytes: plaintext });
                Ok(())
            }
            Some(&(PING | PONG)) => self.handle_ping(now, peer, path, &plaintext),
            Some(&first) if is_gossip(first) => self.handle_gossip(now, peer, &plaintext),
            Some(_) | None => Err(Discard::BadControl),
        }
    }

    fn arrived(&mut self, now: Instant, peer: PeerId, path: Path) {
        self.fresh_used(now, path.local);
        if let Local::Relay(relay) = path.local {
            self.gather.bind(now, relay, peer, path.remote);
        }
        self.tell_agent(now, peer, PathInput::Arrived(path));
    }

    /// The network that a peer is a member of.
    pub(crate) fn network_of(&self, peer: PeerId) -> Option<NetworkNumber> {
        self.peers.get(&peer).and_then(|peer| peer.profile.network())
    }

    /// Refuses what comes by the relay of another network: its operator is not to see what its members do elsewhere.
    fn may_use(&self, network: Option<NetworkNumber>, local: Local) -> Result<(), Discard> {
        match local {
            Local::Socket(_) => Ok(()),
            Local::Relay(relay) if network.is_some() && self.gather.relay_network(relay) == network => Ok(()),
            Local::Relay(_) => Err(Discard::ForeignRelay),
        }
    }

    pub(crate) fn tell_agent(&mut self, now: Instant, peer: PeerId, input: PathInput) {
        if let Some(agent) = self.peers.get_mut(&peer).and_then(Peer::agent)
            && agent.handle_input(now, input).is_err()
        {
            self.counters.count(Discard::BadControl);
        }
    }

    pub(crate) fn socket_lost(&mut self, now: Instant, socket: SocketId) {
        self.sockets.remove(&socket);
        self.fresh.remove(&socket);
        self.gather.socket_lost(now, socket);
        self.path_lost(now, Local::Socket(socket));
    }

    fn path_lost(&mut self, now: Instant, local: Local) {
        let ids: Vec<PeerId> = self.awake.iter().copied().collect();
        for id in ids {
            self.tell_agent(now, id, PathInput::PathLost(local));
        }
    }

    /// Drains every child until all are quiet.
    fn pump(&mut self, now: Instant) {
        loop {
            let mut quiet = !self.drain_links(now);
            while let Some(found) = self.gather.poll_found() {
                quiet = false;
                self.handle_found(now, found);
            }
            let ids: Vec<PeerId> = self.awake.iter().copied().collect();
            for id in ids {
                while let Some(output) = self.peers.get_mut(&id).and_then(Peer::agent).and_then(Agent::poll_output) {
                    quiet = false;
                    self.handle_path(now, id, output);
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn handle_found(&mut self, now: Instant, found: Found) {
        match found {
            Found::Forward(command) => self.forward(command),
            Found::Changed => {
                let ids: Vec<PeerId> = self.awake.iter().copied().collect();
                for id in ids {
                    self.renew_candidates(now, id);
                }
            }
            Found::RelayLost(relay) => self.path_lost(now, Local::Relay(relay)),
            Found::LetIn => self.flush_answers(now),
            Found::CredentialsRefused(network) => self.ask_for_credentials(now, network),
            Found::SocketWanted(network, family) => {
                if self.gather.wants_relay(network) {
                    let socket = self.open_socket(family, Port::Fresh);
                    self.gather.lend(network, socket);
                }
            }
            Found::SocketSpare(socket) => self.close_socket(now, socket),
        }
    }

    /// Tells a peer's agent our candidates. A call that no path carries is mailed again when it would now bring others.
    fn renew_candidates(&mut self, now: Instant, id: PeerId) {
        let candidates = self.candidates_for(id);
        let told = |node: &mut Self| node.peers.get_mut(&id).and_then(Peer::agent).map(|agent| agent.candidates());
        let before = told(self);
        self.tell_agent(now, id, PathInput::LocalCandidates(candidates));
        let calls = self.peers.get(&id).is_some_and(|peer| peer.attempt.is_some() && peer.primary().is_none());
        if calls && told(self) != before {
            self.mail_attempt(now, id);
        }
    }

    /// Asks every server of a network that is there for credentials of its relay.
    fn ask_for_credentials(&mut self, now: Instant, at: NetworkNumber) {
        for (_, link) in self.networks.get_mut(at).into_iter().flat_map(Network::serving_mut) {
            link.say(now, ClientMessage::Relay);
        }
    }

    fn handle_path(&mut self, now: Instant, id: PeerId, output: PathOutput) {
        match output {
            PathOutput::Seal { path, ttl, plaintext } => {
                let probe = plaintext.first() == Some(&PROBE);
                if probe && !self.strangers.may_probe(now, id, path) {
                    self.counters.count(Discard::TooManyUnproven);
                    return;
                }
                if let Local::Relay(relay) = path.local {
                    self.gather.bind(now, relay, id, path.remote);
                }
                self.forward(Command::SealControl { peer: id, path: Some(path), ttl, plaintext });
            }
            PathOutput::Answered { path } => self.strangers.answered(now, path),
            PathOutput::Select { primary, backup, duplicate } => {
                self.forward(Command::SetPath { peer: id, primary, backup, duplicate });
                self.selected(now, id, primary, backup);
            }
            PathOutput::FreshSocket { .. } => self.fresh_socket(now, id),
            PathOutput::Summon => self.summon(now, id),
            PathOutput::Event(event) => {
                tracing::debug!(peer = id.0, ?event, "path");
                if matches!(event, PathEvent::Failed { path } if path.is_relayed()) {
                    // Perhaps it is our own relay that has failed.
                    self.gather.recheck(now);
                }
                if event == PathEvent::Lost {
                    self.out_of_reach(now, id);
                }
            }
        }
    }

    /// Takes an agent's choice of paths.
    fn selected(&mut self, now: Instant, id: PeerId, primary: Option<Path>, backup: Option<Path>) {
        let mut before = None;
        if let Some(Ways::Agent { primary: current, backup: behind, .. }) =
            self.peers.get_mut(&id).map(|peer| &mut peer.ways)
        {
            before = current.map(|(path, _)| path);
            if before != primary {
                *current = primary.map(|path| (path, now));
            }
            *behind = backup;
        }
        let fell = before.is_some_and(|path| !path.is_relayed()) && primary.is_none_or(|path| path.is_relayed());
        if fell && self.peers.get(&id).is_some_and(|peer| peer.session.is_some()) {
            // Perhaps it is our own mapping that has changed: punching needs the new one.
            self.gather.recheck(now);
        }
        self.tell_path(id, before, primary);
        let Some(path) = primary else { return };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.unreached = 0;
        }
        self.remember(now, id, path);
        self.begin_talk(id);
        self.pings_may_go(now, id);
    }

    pub(crate) fn open_socket(&mut self, family: Family, port: Port) -> SocketId {
        let socket = loop {
            let socket = SocketId(self.next_socket);
            self.next_socket = self.next_socket.wrapping_add(1);
            if !self.sockets.contains_key(&socket) {
                break socket;
            }
        };
        self.sockets.insert(socket, family);
        self.outputs.push_back(Output::OpenSocket { socket, family, port });
        socket
    }

    pub(crate) fn add_identity(&mut self, id: IdentityId, secret: StaticSecret, tag: NetworkTag) {
        let identity = Identity::new(secret, tag);
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        self.macs.insert(id, Mac1::new(&identity.public()));
        self.issuers.insert(id, CookieIssuer::new(seed, identity.public()));
        self.identities.insert(id, identity);
        self.tell_keys();
    }

    pub(crate) fn remove_identity(&mut self, id: IdentityId) {
        self.identities.remove(&id);
        self.macs.remove(&id);
        self.issuers.remove(&id);
        self.tell_keys();
    }

    fn tell_keys(&mut self) {
        let keys = self.macs.values().cloned().collect();
        self.forward(Command::SetKeys(keys));
    }

    fn add_config_peer(&mut self, config: ConfigPeer) {
        let endpoint = config.endpoint.map(|remote| Path { local: Local::Socket(self.socket_for(&remote)), remote });
        let (source, suite, accepts, ways, roam) = match config.kind {
            ConfigPeerKind::WireGuard => (
                PeerSource::ConfigWireGuard,
                Suite::WireGuard,
                vec![Suite::WireGuard],
                Ways::Endpoint(endpoint),
                Roam::FollowSource,
            ),
            ConfigPeerKind::Ginnel => {
                let suite = self.suites.first().copied().unwrap_or(Suite::ChaChaPoly);
                (
                    PeerSource::ConfigGinnel,
                    suite,
                    vec![Suite::AesGcm, Suite::ChaChaPoly],
                    self.agent_ways(config.endpoint),
                    Roam::Fixed,
                )
            }
        };
        let profile = Profile {
            name: config.name,
            source,
            member: None,
            identity: IdentityId::Config,
            key: config.key,
            psk: config.psk,
            suite,
            accepts,
            allowed: config.allowed,
        };
        let peer = Peer::new(self.next_peer_id(), profile, ways);
        let id = peer.id;
        self.add_peer(peer, roam, config.persistent_keepalive);
        if endpoint.is_some() && config.kind == ConfigPeerKind::WireGuard {
            self.forward(Command::SetPath { peer: id, primary: endpoint, backup: None, duplicate: false });
        }
    }

    pub(crate) fn add_peer(&mut self, peer: Peer, roam: Roam, persistent_keepalive: Option<Duration>) {
        let allowed = peer.profile.allowed.clone();
        self.forward(Command::AddPeer { peer: peer.id, allowed, roam, persistent_keepalive });
        if let Some((number, _)) = peer.profile.membership() {
            let own = self.networks.get(number).map(Network::own_addresses).unwrap_or_default();
            if let Some(network) = self.networks.get_mut(number) {
                network.installed += 1;
            }
            self.forward(Command::SetOwn { peer: peer.id, own });
        }
        self.by_key.insert((peer.profile.identity, peer.profile.key), peer.id);
        let id = peer.id;
        self.by_member.extend(peer.profile.membership().map(|member| (member, id)));
        let awake = !matches!(peer.ways, Ways::Dormant);
        self.peers.insert(id, peer);
        if awake {
            self.awake.insert(id);
            let candidates = self.candidates_for(id);
            self.tell_agent(self.now, id, PathInput::LocalCandidates(candidates));
        }
    }

    /// Gives a peer that was dormant what it needs to be reached.
    pub(crate) fn wake(&mut self, now: Instant, id: PeerId) {
        if !self.peers.get(&id).is_some_and(|peer| matches!(peer.ways, Ways::Dormant)) {
            return;
        }
        let ways = self.agent_ways(None);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.ways = ways;
        }
        self.awake.insert(id);
        let candidates = self.candidates_for(id);
        self.tell_agent(now, id, PathInput::LocalCandidates(candidates));
    }

    /// In a large network, gives up what is kept for a peer that nobody has asked for lately.
    pub(crate) fn doze(&mut self, id: PeerId) {
        let network = self.peers.get(&id).and_then(|peer| self.networks.get(peer.profile.network()?));
        if !network.is_some_and(Network::is_large) {
            return;
        }
        // What the agent still has to say: the data plane must not keep a path that is given up.
        while let Some(output) = self.peers.get_mut(&id).and_then(Peer::agent).and_then(Agent::poll_output) {
            self.handle_path(self.now, id, output);
        }
        if let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_idle())
            && let Ways::Agent { .. } = peer.ways
        {
            peer.ways = Ways::Dormant;
            peer.answered = None;
            peer.accepted = None;
            peer.jars = Jars::new(peer.profile.key);
            self.awake.remove(&id);
            self.close_fresh(self.now, id);
        }
    }

    pub(crate) fn remove_peer(&mut self, id: PeerId) {
        let Some(peer) = self.peers.remove(&id) else { return };
        for ping in &peer.pings {
            let failure = Failure::new(FailureCode::NoSuch, format!("{} is no peer any more", peer.profile.name), "");
            self.outputs.push_back(Output::Reply { id: ping.request, reply: Err(failure) });
        }
        self.by_key.remove(&(peer.profile.identity, peer.profile.key));
        self.awake.remove(&id);
        if let Some(member) = peer.profile.membership() {
            self.by_member.remove(&member);
            if let Some(network) = self.networks.get_mut(member.0) {
                network.installed = network.installed.saturating_sub(1);
            }
        }
        self.indices.retain(|_, used| *used != IndexUse::Attempt(id) && *used != IndexUse::Session(id));
        self.pending_answers.retain(|pending| pending.peer != id);
        self.forward(Command::RemovePeer { peer: id });
        if let Some(network) = peer.profile.network().and_then(|at| self.networks.get_mut(at)) {
            network.gossip.forget(self.now, id);
        }
        self.close_fresh(self.now, id);
        self.gather.forget_peer(self.now, id);
    }

    pub(crate) fn next_peer_id(&mut self) -> PeerId {
        let id = PeerId(self.next_peer);
        self.next_peer = self.next_peer.wrapping_add(1);
        id
    }

    /// A path agent, told of an endpoint when one is known.
    pub(crate) fn agent_ways(&mut self, endpoint: Option<SocketAddr>) -> Ways {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let config = PathConfig { policy: self.policy, refused: Arc::clone(&self.refused) };
        let mut agent = Box::new(Agent::new(seed, config));
        if let Some(addr) = endpoint {
            let candidate = ginnel_path::Candidate { kind: ginnel_path::CandidateKind::Host, addr };
            let _ = agent.handle_input(self.now, PathInput::RemoteCandidates(vec![candidate]));
        }
        Ways::Agent { agent, primary: None, backup: None }
    }

    /// Tells every agent which prefixes the tunnels carry, when that has changed.
    pub(crate) fn refresh_refused(&mut self) {
        let prefixes: Arc<[(IpAddr, u8)]> = self.carried_prefixes().into();
        if self.refused == prefixes {
            return;
        }
        self.refused = Arc::clone(&prefixes);
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            self.tell_agent(self.now, id, PathInput::Refused(Arc::clone(&prefixes)));
        }
    }

    fn socket_for(&self, remote: &SocketAddr) -> SocketId {
        let family = Family::of(remote);
        self.sockets.iter().find(|(_, own)| **own == family).map_or(SocketId(0), |(socket, _)| *socket)
    }
}

/// Up to so many members each has a route, a name and an agent of its own from the start.
pub(crate) const FEW_PEERS: usize = 1000;

/// The stream of the seed that tells senders apart which ask for cookies; all else comes from stream 0.
const SENDERS_STREAM: u64 = 1;

pub(crate) fn fork(rng: &mut ChaCha20Rng) -> ChaCha20Rng {
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    ChaCha20Rng::from_seed(seed)
}

/// Whether a handshake message is a cookie reply, which anybody can send: it has no mac1.
fn is_cookie(bytes: &[u8]) -> bool {
    classify(bytes).is_some_and(|(_, kind)| kind == MessageKind::Cookie)
}
