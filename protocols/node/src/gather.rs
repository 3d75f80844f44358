//! This machine's own candidates: its addresses, its mappings by STUN, its allocation on a relay.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_forward::{Command, PeerId};
use ginnel_path::address::{Reach, reach, usable_candidate};
use ginnel_path::{Candidate, CandidateKind, Local, LocalCandidate, Path, RelayId, SocketId};
use ginnel_stun::{BindingClient, Input as StunInput, Output as StunOutput};
use ginnel_time::Instant;
use ginnel_turn::client::{Config as TurnConfig, Failure, Input as TurnInput, Loss, Output as TurnOutput};
use ginnel_turn::{AddressFamily, Client as TurnClient, Credentials};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use crate::Discard;
use crate::io::{Family, ServerId};

/// What gathering asks of the node.
#[derive(Debug)]
pub(crate) enum Found {
    /// A command for the data plane.
    Forward(Command),
    /// The set of own candidates has changed.
    Changed,
    /// A relay of ours is gone.
    RelayLost(RelayId),
    /// Something new may let a pending answer go.
    LetIn,
    /// The relay does not accept the credentials: others are wanted.
    CredentialsRefused,
}

/// Learns and keeps this machine's candidates.
pub(crate) struct Gather {
    rng: ChaCha20Rng,
    sockets: BTreeMap<SocketId, SocketAddr>,
    interfaces: Vec<IpAddr>,
    stun: BindingClient,
    /// The STUN servers to ask, by the signaling server that named them.
    stun_servers: BTreeMap<ServerId, Vec<SocketAddr>>,
    /// STUN servers that did not answer: asked again after all others.
    silent: BTreeSet<SocketAddr>,
    /// Relays that gave no allocation: asked again after all others.
    unwilling: BTreeSet<SocketAddr>,
    mapped: BTreeMap<SocketId, SocketAddr>,
    refresh: Option<Instant>,
    relay: Option<Relay>,
    relay_retry: Option<Instant>,
    relay_pause: Duration,
    /// Whether what the servers offer was refused, so that asking the relay again is in vain.
    relay_trust: Trust,
    /// Relays that may be used, by the signaling server that offers them.
    offers: BTreeMap<ServerId, RelayOffer>,
    /// Sockets whose mapping was confirmed since the machine's addresses last changed.
    confirmed: BTreeSet<SocketId>,
    /// When mappings were last asked for out of turn.
    rechecked: Option<Instant>,
    /// When channels that nobody uses are looked for.
    sweep: Option<Instant>,
    candidates: Vec<LocalCandidate>,
    found: VecDeque<Found>,
}

/// Where a relay is and what it wants to see.
#[derive(Clone)]
pub(crate) struct RelayOffer {
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) credentials: Credentials,
}

/// What a relay made of the credentials at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    Untried,
    Refused,
}

struct Relay {
    id: RelayId,
    /// Who offered it: its credentials hold the allocation.
    by: ServerId,
    socket: SocketId,
    server: SocketAddr,
    client: TurnClient,
    relayed: Option<SocketAddr>,
    bound: BTreeMap<SocketAddr, u16>,
    /// Peers' addresses that were asked for: for whom, and when last used.
    asked: BTreeMap<SocketAddr, (PeerId, Instant)>,
}

impl Gather {
    pub(crate) fn new(mut rng: ChaCha20Rng) -> Self {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        Self {
            rng,
            sockets: BTreeMap::new(),
            interfaces: Vec::new(),
            stun: BindingClient::new(seed, ginnel_stun::Config::default()),
            stun_servers: BTreeMap::new(),
            silent: BTreeSet::new(),
            unwilling: BTreeSet::new(),
            mapped: BTreeMap::new(),
            refresh: None,
            relay: None,
            relay_retry: None,
            relay_pause: RELAY_RETRY,
            relay_trust: Trust::Untried,
            offers: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            rechecked: None,
            sweep: Some(Instant::ZERO),
            candidates: Vec::new(),
            found: VecDeque::new(),
        }
    }

    pub(crate) fn socket_opened(&mut self, now: Instant, socket: SocketId, local: SocketAddr) {
        self.sockets.insert(socket, local);
        self.query(now, socket);
        self.allocate(now);
        self.recount();
    }

    pub(crate) fn socket_lost(&mut self, now: Instant, socket: SocketId) {
        self.sockets.remove(&socket);
        self.mapped.remove(&socket);
        self.confirmed.remove(&socket);
        if self.relay.as_ref().is_some_and(|relay| relay.socket == socket) {
            self.drop_relay(now);
        }
        self.recount();
    }

    pub(crate) fn interfaces(&mut self, now: Instant, addresses: Vec<IpAddr>) {
        if self.interfaces != addresses {
            self.interfaces = addresses;
            self.confirmed.clear();
            self.refresh_now(now);
            self.recount();
        }
    }

    /// Takes the STUN servers that a signaling server names.
    pub(crate) fn stun_servers(&mut self, now: Instant, by: ServerId, mut servers: Vec<SocketAddr>) {
        servers.truncate(MAX_SERVERS);
        if self.stun_servers.get(&by) != Some(&servers) {
            self.stun_servers.insert(by, servers);
            self.refresh_now(now);
        }
    }

    /// Asks for the mappings at once, because a direct path has failed; at most once in [`RECHECK_SPACING`].
    pub(crate) fn recheck(&mut self, now: Instant) {
        if self.rechecked.is_none_or(|at| now.saturating_duration_since(at) >= RECHECK_SPACING) {
            self.rechecked = Some(now);
            self.refresh_now(now);
        }
    }

    /// Takes a relay's addresses and fresh credentials from a signaling server.
    pub(crate) fn relay_offer(&mut self, now: Instant, by: ServerId, offer: RelayOffer) {
        if let Some(relay) = &mut self.relay
            && relay.by == by
            && offer.servers.contains(&relay.server)
        {
            let _ = relay.client.handle_input(now, TurnInput::Credentials(offer.credentials.clone()));
        }
        self.unwilling.retain(|server| !offer.servers.contains(server));
        self.offers.insert(by, offer);
        self.relay_trust = Trust::Untried;
        self.relay_retry = None;
        self.allocate(now);
        self.drain(now);
    }

    /// Gives up what signaling servers have taught: the servers to ask and their relay. Mappings stay while another server
    /// can refresh them; the sockets stay.
    pub(crate) fn forget_servers(&mut self, now: Instant, servers: &[ServerId]) {
        self.stun_servers.retain(|by, _| !servers.contains(by));
        self.offers.retain(|by, _| !servers.contains(by));
        self.silent.clear();
        self.unwilling.clear();
        if self.stun_servers.is_empty() {
            self.mapped.clear();
            self.confirmed.clear();
            self.refresh = None;
        }
        if let Some(relay) = self.relay.as_mut().filter(|relay| servers.contains(&relay.by)) {
            let _ = relay.client.handle_input(now, TurnInput::Close);
            self.drain(now);
            self.drop_relay(now);
        }
        if self.relay.is_none() {
            self.relay_retry = None;
            self.allocate(now);
        }
        self.recount();
    }

    /// Takes a STUN datagram that came in on one of our sockets.
    pub(crate) fn handle_stun(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), Discard> {
        let relayed = match &mut self.relay {
            Some(relay) if relay.socket == socket && relay.server == from => {
                relay.client.handle_input(now, TurnInput::Received(bytes.to_vec())).is_ok()
            }
            Some(_) | None => false,
        };
        let taken = relayed
            || self
                .stun
                .handle_input(now, StunInput::Received { socket: socket.0, from, bytes: bytes.to_vec() })
                .is_ok();
        self.drain(now);
        if taken { Ok(()) } else { Err(Discard::StrayStun) }
    }

    /// Asks our relay to let the public ones of `candidates` in; answers those that are not let in yet.
    pub(crate) fn let_in(&mut self, now: Instant, peer: PeerId, candidates: &[Candidate]) -> Vec<SocketAddr> {
        let public: Vec<SocketAddr> = candidates
            .iter()
            .filter(|candidate| candidate.kind != CandidateKind::Relayed && is_public(candidate.addr.ip()))
            .map(|candidate| candidate.addr)
            .take(MAX_LET_IN)
            .collect();
        for addr in &public {
            self.bind(now, peer, *addr);
        }
        public.into_iter().filter(|addr| !self.lets_in(*addr)).collect()
    }

    /// Whether nothing keeps our relay from letting `addr` in.
    pub(crate) fn lets_in(&self, addr: SocketAddr) -> bool {
        match &self.relay {
            Some(relay) if relay.relayed.is_some() && relay.asked.contains_key(&addr) => {
                relay.bound.contains_key(&addr)
            }
            Some(_) | None => true,
        }
    }

    /// Asks our relay for a channel to `remote`, an address of `peer`, unless that was done. A peer has a few at a time;
    /// its oldest goes for a new one.
    pub(crate) fn bind(&mut self, now: Instant, peer: PeerId, remote: SocketAddr) {
        let Some(relay) = &mut self.relay else { return };
        let same_family = relay.relayed.is_some_and(|own| own.is_ipv4() == remote.is_ipv4() && own != remote);
        if !same_family {
            return;
        }
        if let Some(use_of) = relay.asked.get_mut(&remote) {
            *use_of = (peer, now);
            return;
        }
        let own = relay.asked.iter().filter(|(_, (owner, _))| *owner == peer);
        if own.clone().count() >= CHANNELS_PER_PEER
            && let Some(oldest) = own.min_by_key(|(_, (_, used))| *used).map(|(addr, _)| *addr)
        {
            let _ = relay.client.handle_input(now, TurnInput::Unbind(oldest));
            relay.asked.remove(&oldest);
        }
        if relay.client.handle_input(now, TurnInput::Bind(remote)).is_ok() {
            relay.asked.insert(remote, (peer, now));
        }
        self.drain(now);
    }

    /// Gives up the channels of a peer that is gone.
    pub(crate) fn forget_peer(&mut self, now: Instant, peer: PeerId) {
        self.unbind(now, |owner, _| owner == peer);
    }

    fn unbind(&mut self, now: Instant, gone: impl Fn(PeerId, Instant) -> bool) {
        let Some(relay) = &mut self.relay else { return };
        let addresses: Vec<SocketAddr> =
            relay.asked.iter().filter(|(_, (owner, used))| gone(*owner, *used)).map(|(addr, _)| *addr).collect();
        for addr in &addresses {
            let _ = relay.client.handle_input(now, TurnInput::Unbind(*addr));
            relay.asked.remove(addr);
        }
        if !addresses.is_empty() {
            self.drain(now);
        }
    }

    /// The address of the server that holds an allocation of ours.
    pub(crate) fn relay_server(&self, id: RelayId) -> Option<SocketAddr> {
        self.relay.as_ref().filter(|relay| relay.id == id).map(|relay| relay.server)
    }

    /// Own candidates with the ends behind them.
    pub(crate) fn candidates(&self) -> &[LocalCandidate] {
        &self.candidates
    }

    /// Whether a relay holds an address for this machine.
    pub(crate) fn has_relay(&self) -> bool {
        self.relay.as_ref().is_some_and(|relay| relay.relayed.is_some())
    }

    /// The socket that talks to our relay.
    pub(crate) fn relay_socket(&self) -> Option<SocketId> {
        self.relay.as_ref().map(|relay| relay.socket)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.stun.handle_timeout(now);
        if self.sweep.is_some_and(|at| at <= now) {
            self.sweep = Some(now + SWEEP);
            self.unbind(now, |_, used| now.saturating_duration_since(used) >= CHANNEL_IDLE);
        }
        if let Some(relay) = &mut self.relay {
            relay.client.handle_timeout(now);
        }
        if self.refresh.is_some_and(|at| at <= now) {
            self.refresh_now(now);
        }
        if self.relay_retry.is_some_and(|at| at <= now) {
            self.relay_retry = None;
            if self.relay_trust == Trust::Refused {
                self.found.push_back(Found::CredentialsRefused);
            } else {
                self.allocate(now);
            }
        }
        self.drain(now);
    }

    pub(crate) fn poll_found(&mut self) -> Option<Found> {
        self.found.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let relay = self.relay.as_ref().and_then(|relay| relay.client.poll_timeout());
        let sweep = self.sweep.filter(|_| self.relay.as_ref().is_some_and(|relay| !relay.asked.is_empty()));
        [self.stun.poll_timeout(), relay, self.refresh, self.relay_retry, sweep].into_iter().flatten().min()
    }

    fn refresh_now(&mut self, now: Instant) {
        let sockets: Vec<SocketId> = self.sockets.keys().copied().collect();
        for socket in sockets {
            self.query(now, socket);
        }
        self.refresh = self.stun_servers.values().any(|servers| !servers.is_empty()).then(|| now + MAPPING_KEPT);
        self.drain(now);
    }

    fn query(&mut self, now: Instant, socket: SocketId) {
        let Some(family) = self.sockets.get(&socket).map(Family::of) else { return };
        let fitting = self.stun_servers.values().flatten().filter(|server| Family::of(server) == family);
        if let Some(server) = fitting.min_by_key(|server| self.silent.contains(server)) {
            let _ = self.stun.handle_input(now, StunInput::Query { socket: socket.0, server: *server });
        }
    }

    /// A server did not tell a socket's mapping: another one is asked. Where all are silent the mapping is given up, unless it
    /// was confirmed since the machine last moved, because then it is the servers that have failed.
    fn unanswered(&mut self, now: Instant, socket: SocketId, server: SocketAddr) {
        self.silent.insert(server);
        let family = self.sockets.get(&socket).map(Family::of);
        let mut fitting = self.stun_servers.values().flatten().filter(|server| Some(Family::of(server)) == family);
        if fitting.any(|server| !self.silent.contains(server)) {
            self.query(now, socket);
            return;
        }
        self.silent.clear();
        if !self.confirmed.contains(&socket) && self.mapped.remove(&socket).is_some() {
            self.recount();
        }
    }

    fn allocate(&mut self, now: Instant) {
        if self.relay.is_some() || self.relay_retry.is_some() {
            return;
        }
        let all = self
            .offers
            .iter()
            .flat_map(|(by, offer)| offer.servers.iter().map(move |server| (*by, *server, &offer.credentials)));
        let usable = all.filter_map(|(by, server, credentials)| {
            let socket = self.sockets.iter().find(|(_, local)| local.is_ipv4() == server.is_ipv4())?;
            Some((by, server, credentials, *socket.0))
        });
        // Those that failed come last; the first of them again when no other is left.
        let Some((by, server, credentials, socket)) =
            usable.min_by_key(|(_, server, ..)| self.unwilling.contains(server))
        else {
            return;
        };
        if self.unwilling.contains(&server) {
            self.unwilling.clear();
        }
        let credentials = credentials.clone();
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let family = if server.is_ipv4() { AddressFamily::Ipv4 } else { AddressFamily::Ipv6 };
        let config = TurnConfig { server, credentials, family };
        let mut client = TurnClient::new(seed, config);
        let _ = client.handle_input(now, TurnInput::Allocate);
        let id = RelayId(0);
        self.found.push_back(Found::Forward(Command::SetRelay { relay: id, socket, server }));
        self.relay = Some(Relay {
            id,
            by,
            socket,
            server,
            client,
            relayed: None,
            bound: BTreeMap::new(),
            asked: BTreeMap::new(),
        });
        self.drain(now);
    }

    fn drop_relay(&mut self, now: Instant) {
        let Some(relay) = self.relay.take() else { return };
        self.found.push_back(Found::Forward(Command::RemoveRelay { relay: relay.id }));
        self.found.push_back(Found::RelayLost(relay.id));
        self.found.push_back(Found::LetIn);
        self.relay_retry = Some(now + self.relay_pause);
        self.relay_pause = (self.relay_pause * 2).min(RELAY_RETRY_MAX);
        self.recount();
    }

    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.stun.poll_output() {
            match output {
                StunOutput::Send { socket, to, bytes } => self.transmit(SocketId(socket), to, bytes),
                StunOutput::Mapped { socket, mapped, server } => {
                    self.silent.remove(&server);
                    if self.sockets.contains_key(&SocketId(socket)) {
                        self.confirmed.insert(SocketId(socket));
                        self.mapped.insert(SocketId(socket), mapped);
                        self.recount();
                    }
                }
                StunOutput::Failed { socket, server } => self.unanswered(now, SocketId(socket), server),
            }
        }
        while let Some(output) = self.relay.as_mut().and_then(|relay| relay.client.poll_output()) {
            self.handle_relay(now, output);
        }
    }

    fn handle_relay(&mut self, now: Instant, output: TurnOutput) {
        let Some(relay) = &mut self.relay else { return };
        match output {
            TurnOutput::Send(bytes) => {
                let (socket, server) = (relay.socket, relay.server);
                self.transmit(socket, server, bytes);
            }
            TurnOutput::Allocated { relayed, .. } => {
                relay.relayed = Some(relayed);
                self.relay_pause = RELAY_RETRY;
                self.recount();
            }
            TurnOutput::Bound { peer, channel } => {
                relay.bound.insert(peer, channel.get());
                let bind = Command::BindChannel { relay: relay.id, channel: channel.get(), remote: peer };
                self.found.push_back(Found::Forward(bind));
                self.found.push_back(Found::LetIn);
            }
            TurnOutput::Unbound { peer, .. } => {
                relay.asked.remove(&peer);
                if let Some(channel) = relay.bound.remove(&peer) {
                    self.found.push_back(Found::Forward(Command::UnbindChannel { relay: relay.id, channel }));
                }
                self.found.push_back(Found::LetIn);
            }
            TurnOutput::Data { peer, bytes } => {
                let path = Path { local: Local::Relay(relay.id), remote: peer };
                self.found.push_back(Found::Forward(Command::Inject { path, bytes }));
            }
            TurnOutput::Failed { reason } => {
                tracing::info!(%reason, "no relay");
                self.unwilling.insert(relay.server);
                if reason == Failure::Unauthorized {
                    self.relay_trust = Trust::Refused;
                }
                self.drop_relay(now);
            }
            TurnOutput::Lost { reason } => {
                tracing::info!(%reason, "the relay is lost");
                self.unwilling.insert(relay.server);
                if reason == Loss::Unauthorized {
                    self.relay_trust = Trust::Refused;
                }
                self.drop_relay(now);
            }
            TurnOutput::Closed => self.drop_relay(now),
            TurnOutput::Permitted(_) | TurnOutput::Unpermitted { .. } => {}
        }
    }

    fn transmit(&mut self, socket: SocketId, remote: SocketAddr, bytes: Vec<u8>) {
        let path = Path { local: Local::Socket(socket), remote };
        self.found.push_back(Found::Forward(Command::Send { path, ttl: None, bytes }));
    }

    /// Counts the candidates anew and says so when the set has changed.
    fn recount(&mut self) {
        let mut all = Vec::new();
        for (&socket, local) in &self.sockets {
            let hosts = self.interfaces.iter().filter(|ip| ip.is_ipv4() == local.is_ipv4());
            for ip in hosts.take(MAX_HOSTS) {
                all.push(own(CandidateKind::Host, Local::Socket(socket), SocketAddr::new(*ip, local.port())));
            }
            if let Some(mapped) = self.mapped.get(&socket) {
                all.push(own(CandidateKind::ServerReflexive, Local::Socket(socket), *mapped));
            }
        }
        if let Some((id, relayed)) = self.relay.as_ref().and_then(|relay| Some((relay.id, relay.relayed?))) {
            all.push(own(CandidateKind::Relayed, Local::Relay(id), relayed));
        }
        let mut seen = BTreeSet::new();
        all.retain(|candidate| usable_candidate(candidate.addr) && seen.insert(candidate.addr));
        if all != self.candidates {
            self.candidates = all;
            self.found.push_back(Found::Changed);
        }
    }
}

fn own(kind: CandidateKind, local: Local, addr: SocketAddr) -> LocalCandidate {
    LocalCandidate { kind, local, addr }
}

fn is_public(ip: IpAddr) -> bool {
    matches!(reach(ip), Reach::Global | Reach::Documentation)
}

/// How long a mapping is trusted before it is asked for again, which also keeps it open (RFC 4787 REQ-5 demands at
/// least 2 minutes; many home routers keep 30 s).
const MAPPING_KEPT: Duration = Duration::from_secs(25);
const RELAY_RETRY: Duration = Duration::from_millis(500);
const RELAY_RETRY_MAX: Duration = Duration::from_secs(120);
const MAX_SERVERS: usize = 8;
/// Between questions out of turn.
const RECHECK_SPACING: Duration = Duration::from_secs(5);
/// Host candidates per socket.
const MAX_HOSTS: usize = 8;
/// Addresses of one peer that our relay is asked to let in.
const MAX_LET_IN: usize = 4;
/// Channels held for one peer at a time.
const CHANNELS_PER_PEER: usize = 8;
/// A channel that was not used for this long is given up.
const CHANNEL_IDLE: Duration = Duration::from_secs(600);
const SWEEP: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    fn server(last: u8) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, last], 3478))
    }

    fn offer(last: u8) -> RelayOffer {
        let credentials = Credentials { username: format!("user{last}"), password: "secret".to_owned() };
        RelayOffer { servers: vec![server(last)], credentials }
    }

    fn gather() -> Gather {
        let mut gather = Gather::new(ChaCha20Rng::from_seed([1; 32]));
        gather.socket_opened(Instant::ZERO, SocketId(0), SocketAddr::from(([0, 0, 0, 0], 4000)));
        gather
    }

    /// The relays that were chosen, and where datagrams went, since the last look.
    fn look(gather: &mut Gather) -> (Vec<SocketAddr>, BTreeSet<SocketAddr>) {
        let (mut relays, mut sent) = (Vec::new(), BTreeSet::new());
        while let Some(found) = gather.poll_found() {
            match found {
                Found::Forward(Command::SetRelay { server, .. }) => relays.push(server),
                Found::Forward(Command::Send { path, .. }) => drop(sent.insert(path.remote)),
                Found::Forward(_) | Found::Changed | Found::RelayLost(_) | Found::LetIn | Found::CredentialsRefused => {
                }
            }
        }
        (relays, sent)
    }

    #[test]
    fn a_relay_is_kept_until_its_own_server_goes_and_another_one_takes_over() {
        let (now, mut gather) = (Instant::ZERO, gather());
        for last in [1, 2] {
            gather.relay_offer(now, ServerId(last.into()), offer(last));
        }
        assert_eq!(look(&mut gather).0, [server(1)]);
        gather.forget_servers(now, &[ServerId(2)]);
        gather.relay_offer(now, ServerId(2), offer(2));
        assert!(look(&mut gather).0.is_empty(), "the other server's coming and going changes nothing");
        gather.forget_servers(now, &[ServerId(1)]);
        assert_eq!(look(&mut gather).0, [server(2)]);
        gather.forget_servers(now, &[ServerId(2)]);
        assert!(look(&mut gather).0.is_empty() && gather.relay_socket().is_none());
    }

    #[test]
    fn credentials_of_another_network_do_not_touch_an_allocation() {
        let (now, mut gather) = (Instant::ZERO, gather());
        gather.relay_offer(now, ServerId(1), offer(1));
        look(&mut gather);
        // One server serves two networks: the same relay, another name.
        let again = RelayOffer { servers: vec![server(1)], ..offer(7) };
        gather.relay_offer(now, ServerId(7), again);
        assert!(look(&mut gather).0.is_empty());
        gather.forget_servers(now, &[ServerId(7)]);
        assert!(look(&mut gather).0.is_empty() && gather.relay_socket().is_some());
        gather.relay_offer(now, ServerId(7), RelayOffer { servers: vec![server(1)], ..offer(7) });
        gather.forget_servers(now, &[ServerId(1)]);
        assert_eq!(look(&mut gather).0, [server(1)], "allocated anew under the other name");
    }

    #[test]
    fn mappings_are_asked_of_the_servers_that_are_left() {
        let (now, mut gather) = (Instant::ZERO, gather());
        for last in [1, 2] {
            gather.stun_servers(now, ServerId(last.into()), vec![server(last)]);
        }
        assert!(look(&mut gather).1.contains(&server(1)));
        gather.forget_servers(now, &[ServerId(1)]);
        gather.handle_timeout(now + MAPPING_KEPT);
        assert!(look(&mut gather).1.contains(&server(2)));
    }
}
