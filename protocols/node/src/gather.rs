//! This machine's own candidates: its addresses, its mappings by STUN, its allocation on a relay of each network.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_forward::{Command, PeerId};
use ginnel_path::address::{Reach, reach, usable_candidate};
use ginnel_path::{Candidate, CandidateKind, Local, LocalCandidate, Path, RelayId, SocketId};
use ginnel_stun::{BindingClient, Input as StunInput, Output as StunOutput};
use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use crate::Discard;
use crate::io::{Family, ServerId};
use crate::mappings::{Ask, Mappings, Told};
use crate::networks::NetworkNumber;
use crate::node::fork;
pub(crate) use crate::relays::RelayOffer;
use crate::relays::{Ground, Relays};

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
    /// No relay of the network accepts the credentials: others are wanted.
    CredentialsRefused(NetworkNumber),
    /// The network needs a socket of its own for a relay, because another one talks to that relay from the common one: a
    /// relay tells allocations by the address that they are asked from.
    SocketWanted(NetworkNumber, Family),
    /// A socket that was opened for relays is of no use any more.
    SocketSpare(SocketId),
}

/// Learns and keeps this machine's candidates.
///
/// The sockets and what is known of their mappings are for all networks; each has an allocation of its own, on a relay of
/// its own servers and by its own credentials.
pub(crate) struct Gather {
    sockets: BTreeMap<SocketId, SocketAddr>,
    interfaces: Vec<IpAddr>,
    stun: BindingClient,
    mappings: Mappings,
    refresh: Option<Instant>,
    relays: BTreeMap<NetworkNumber, Relays>,
    /// Sockets on which one network alone talks to relays, and their addresses once they are open.
    lent: BTreeMap<SocketId, (NetworkNumber, Option<SocketAddr>)>,
    rng: ChaCha20Rng,
    /// When mappings were last asked for out of turn.
    rechecked: Option<Instant>,
    /// What the peers of each network are told, and under no network what is told to those of the configuration file.
    candidates: BTreeMap<Option<NetworkNumber>, Vec<LocalCandidate>>,
    found: VecDeque<Found>,
}

impl Gather {
    pub(crate) fn new(mut rng: ChaCha20Rng) -> Self {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        Self {
            relays: BTreeMap::new(),
            lent: BTreeMap::new(),
            rng,
            sockets: BTreeMap::new(),
            interfaces: Vec::new(),
            stun: BindingClient::new(seed, ginnel_stun::Config::default()),
            mappings: Mappings::default(),
            refresh: None,
            rechecked: None,
            candidates: BTreeMap::from([(None, Vec::new())]),
            found: VecDeque::new(),
        }
    }

    pub(crate) fn socket_opened(&mut self, now: Instant, socket: SocketId, local: SocketAddr) {
        if let Some((network, opened)) = self.lent.get_mut(&socket) {
            *opened = Some(local);
            if let Some(relays) = self.relays.get_mut(network) {
                relays.lent(now, Family::of(&local));
            }
            return self.drain(now);
        }
        self.sockets.insert(socket, local);
        self.query(now, socket, Ask::All);
        self.drain(now);
        self.recount();
    }

    pub(crate) fn socket_lost(&mut self, now: Instant, socket: SocketId) {
        self.sockets.remove(&socket);
        self.mappings.forget_socket(socket);
        let refused = self.lent.remove(&socket).filter(|(_, local)| local.is_none());
        if let Some(relays) = refused.and_then(|(network, _)| self.relays.get_mut(&network)) {
            relays.not_lent(now);
        }
        for relays in self.relays.values_mut() {
            relays.socket_lost(socket, &mut self.found);
        }
        self.drain(now);
        self.recount();
    }

    /// Takes the machine's addresses; answers whether they are others than before.
    pub(crate) fn interfaces(&mut self, now: Instant, addresses: Vec<IpAddr>) -> bool {
        let moved = self.interfaces != addresses;
        if moved {
            self.interfaces = addresses;
            self.mappings.moved();
            self.shaken(now);
            self.refresh_now(now);
            self.recount();
        }
        moved
    }

    /// The machine's addresses.
    pub(crate) fn interfaces_known(&self) -> &[IpAddr] {
        &self.interfaces
    }

    /// Takes the STUN servers that a signaling server of a network names.
    pub(crate) fn stun_servers(
        &mut self,
        now: Instant,
        network: NetworkNumber,
        by: ServerId,
        servers: Vec<SocketAddr>,
    ) {
        if let Some(relays) = self.relays.get_mut(&network) {
            relays.shaken(now);
        }
        if self.mappings.name(network, by, servers) {
            self.refresh_now(now);
        }
        self.drain(now);
        self.recount();
    }

    /// Asks for the mappings and the allocations at once, because a path has failed; at most once in [`RECHECK_SPACING`].
    pub(crate) fn recheck(&mut self, now: Instant) {
        if self.rechecked.is_none_or(|at| now.saturating_duration_since(at) >= RECHECK_SPACING) {
            self.rechecked = Some(now);
            self.shaken(now);
            self.refresh_now(now);
        }
    }

    /// Takes a relay's addresses and fresh credentials from a signaling server of a network.
    pub(crate) fn relay_offer(&mut self, now: Instant, network: NetworkNumber, by: ServerId, offer: RelayOffer) {
        let free = (0..=u16::MAX).map(RelayId).find(|id| self.relays.values().all(|relays| relays.id() != *id));
        let relays = self.relays.entry(network).or_insert_with(|| {
            let id = free.expect("a machine is in fewer networks than there are numbers");
            Relays::new(fork(&mut self.rng), network, id)
        });
        relays.offer(now, by, offer);
        self.drain(now);
    }

    /// A socket is being opened, as it was wanted, for the relays of a network.
    pub(crate) fn lend(&mut self, network: NetworkNumber, socket: SocketId) {
        self.lent.insert(socket, (network, None));
    }

    /// Whether a network has or awaits an allocation.
    pub(crate) fn wants_relay(&self, network: NetworkNumber) -> bool {
        self.relays.contains_key(&network)
    }

    /// Sockets that talk to relays alone.
    pub(crate) fn sockets_lent(&self) -> usize {
        self.lent.len()
    }

    /// Gives up what signaling servers have taught: the servers to ask with what those said, and their relays.
    pub(crate) fn forget_servers(&mut self, now: Instant, servers: &[ServerId]) {
        self.mappings.forget(servers);
        for relays in self.relays.values_mut() {
            relays.forget(now, servers, &mut self.found);
        }
        self.refresh_now(now);
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
        let relayed = self.relays.values_mut().any(|relays| relays.receive(now, socket, from, bytes));
        let taken = relayed
            || self
                .stun
                .handle_input(now, StunInput::Received { socket: socket.0, from, bytes: bytes.to_vec() })
                .is_ok();
        self.drain(now);
        if taken { Ok(()) } else { Err(Discard::StrayStun) }
    }

    /// Asks the relay of a network to let the public ones of `candidates` in; answers those that are not let in yet.
    pub(crate) fn let_in(
        &mut self,
        now: Instant,
        network: Option<NetworkNumber>,
        peer: PeerId,
        candidates: &[Candidate],
    ) -> Vec<SocketAddr> {
        let Some(relays) = network.and_then(|network| self.relays.get_mut(&network)) else { return Vec::new() };
        let public: Vec<SocketAddr> = candidates
            .iter()
            .filter(|candidate| candidate.kind != CandidateKind::Relayed && is_public(candidate.addr.ip()))
            .map(|candidate| candidate.addr)
            .take(MAX_LET_IN)
            .collect();
        for addr in &public {
            relays.bind(now, peer, *addr);
        }
        self.drain(now);
        public.into_iter().filter(|addr| !self.lets_in(network, *addr)).collect()
    }

    /// Whether nothing keeps the relay of a network from letting `addr` in.
    pub(crate) fn lets_in(&self, network: Option<NetworkNumber>, addr: SocketAddr) -> bool {
        network.and_then(|network| self.relays.get(&network)).is_none_or(|relays| relays.lets_in(addr))
    }

    /// Asks a relay of ours for a channel to `remote`, an address of `peer`, unless that was done.
    pub(crate) fn bind(&mut self, now: Instant, relay: RelayId, peer: PeerId, remote: SocketAddr) {
        if let Some(relays) = self.relays.values_mut().find(|relays| relays.id() == relay) {
            relays.bind(now, peer, remote);
            self.drain(now);
        }
    }

    /// Gives up the channels of a peer that is gone.
    pub(crate) fn forget_peer(&mut self, now: Instant, peer: PeerId) {
        for relays in self.relays.values_mut() {
            relays.forget_peer(now, peer);
        }
        self.drain(now);
    }

    /// The address of the server that holds an allocation of ours.
    pub(crate) fn relay_server(&self, id: RelayId) -> Option<SocketAddr> {
        self.relays.values().find(|relays| relays.id() == id).and_then(Relays::server)
    }

    /// The network whose servers hold an allocation of ours.
    pub(crate) fn relay_network(&self, id: RelayId) -> Option<NetworkNumber> {
        self.relays.iter().find(|(_, relays)| relays.id() == id).map(|(network, _)| *network)
    }

    /// Own candidates with the ends behind them, as they are for the peers of a network.
    pub(crate) fn candidates(&self, network: Option<NetworkNumber>) -> &[LocalCandidate] {
        self.candidates.get(&network).or_else(|| self.candidates.get(&None)).map_or(&[], Vec::as_slice)
    }

    /// Everything that peers of any network are told.
    pub(crate) fn all_candidates(&self) -> Vec<LocalCandidate> {
        let mut seen = BTreeSet::new();
        let mut all: Vec<LocalCandidate> = self.candidates.values().flatten().copied().collect();
        all.retain(|candidate| seen.insert(candidate.addr));
        all
    }

    /// Whether a relay of the network holds an address for this machine.
    pub(crate) fn has_relay(&self, network: NetworkNumber) -> bool {
        self.relays.get(&network).is_some_and(|relays| relays.relayed().is_some())
    }

    /// Whether a socket talks to a relay.
    pub(crate) fn is_relays(&self, socket: SocketId) -> bool {
        self.relays.values().any(|relays| relays.uses(socket))
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.stun.handle_timeout(now);
        for relays in self.relays.values_mut() {
            relays.handle_timeout(now, &mut self.found);
        }
        if self.refresh.is_some_and(|at| at <= now) {
            self.refresh_now(now);
        }
        self.drain(now);
    }

    pub(crate) fn poll_found(&mut self) -> Option<Found> {
        self.found.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let relays = self.relays.values().filter_map(Relays::poll_timeout).min();
        [self.stun.poll_timeout(), relays, self.refresh].into_iter().flatten().min()
    }

    /// Something may have changed: every relay is asked.
    fn shaken(&mut self, now: Instant) {
        self.relays.values_mut().for_each(|relays| relays.shaken(now));
    }

    fn refresh_now(&mut self, now: Instant) {
        let sockets: Vec<SocketId> = self.sockets.keys().copied().collect();
        for socket in sockets {
            self.query(now, socket, Ask::All);
        }
        self.refresh = self.mappings.any_named().then(|| now + MAPPING_KEPT);
        self.drain(now);
    }

    /// Asks for a socket's mapping.
    fn query(&mut self, now: Instant, socket: SocketId, ask: Ask) {
        let Some(family) = self.sockets.get(&socket).map(Family::of) else { return };
        for server in self.mappings.to_ask(family, ask) {
            let _ = self.stun.handle_input(now, StunInput::Query { socket: socket.0, server });
        }
    }

    /// A server did not tell a socket's mapping: others are asked.
    fn unanswered(&mut self, now: Instant, socket: SocketId, server: SocketAddr) {
        if self.mappings.unanswered(socket, server) {
            self.query(now, socket, Ask::Answering);
        }
        self.recount();
    }

    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.stun.poll_output() {
            match output {
                StunOutput::Send { socket, to, bytes } => self.transmit(SocketId(socket), to, bytes),
                StunOutput::Mapped { socket, mapped, server } => self.told(now, SocketId(socket), server, mapped),
                StunOutput::Failed { socket, server } => self.unanswered(now, SocketId(socket), server),
            }
        }
        let networks: Vec<NetworkNumber> = self.relays.keys().copied().collect();
        let mut moved = false;
        for network in networks {
            moved |= self.advance(now, network);
        }
        if moved {
            self.recount();
        }
    }

    /// Lets the relays of one network go on; answers whether the address that they hold for us is another one.
    fn advance(&mut self, now: Instant, network: NetworkNumber) -> bool {
        let others = self.relays.iter().filter(|(other, _)| **other != network);
        let taken: BTreeSet<(SocketId, SocketAddr)> = others.flat_map(|(_, relays)| relays.held()).collect();
        let own = self.lent.iter().filter(|(_, (of, _))| *of == network);
        let lent = own.filter_map(|(socket, (_, local))| Some((*socket, (*local)?))).collect();
        let Some(relays) = self.relays.get_mut(&network) else { return false };
        let before = relays.relayed();
        relays.advance(now, &Ground { sockets: &self.sockets, lent, taken }, &mut self.found);
        let moved = relays.relayed() != before;
        for family in relays.wanting() {
            self.found.push_back(Found::SocketWanted(network, family));
        }
        if relays.is_spent() {
            self.relays.remove(&network);
            let spare = self.lent.iter().filter(|(_, (of, _))| *of == network);
            self.found.extend(spare.map(|(socket, _)| Found::SocketSpare(*socket)));
        }
        moved
    }

    /// A server has told a socket's mapping.
    fn told(&mut self, now: Instant, socket: SocketId, server: SocketAddr, mapped: SocketAddr) {
        for relays in self.relays.values_mut() {
            relays.heard(server.ip());
        }
        let Some(local) = self.sockets.get(&socket) else { return };
        match self.mappings.told(socket, local.port(), server, mapped) {
            Told::Same => return,
            Told::New => {}
            Told::Changed => self.shaken(now),
        }
        self.recount();
    }

    fn transmit(&mut self, socket: SocketId, remote: SocketAddr, bytes: Vec<u8>) {
        let path = Path { local: Local::Socket(socket), remote };
        self.found.push_back(Found::Forward(Command::Send { path, ttl: None, bytes }));
    }

    /// Counts the candidates anew and says so when the set has changed.
    fn recount(&mut self) {
        let networks = self.mappings.networks().chain(self.relays.keys().copied()).map(Some).chain([None]);
        let all: BTreeMap<Option<NetworkNumber>, Vec<LocalCandidate>> =
            networks.map(|network| (network, self.counted(network))).collect();
        let before = std::mem::replace(&mut self.candidates, all);
        // A network that comes or goes with the candidates that it would have anyway changes nothing.
        let changed =
            self.candidates.iter().any(|(network, now)| before.get(network).or(before.get(&None)) != Some(now))
                || before.iter().any(|(network, then)| self.candidates(*network) != then);
        if changed {
            self.found.push_back(Found::Changed);
        }
    }

    fn counted(&self, network: Option<NetworkNumber>) -> Vec<LocalCandidate> {
        let mut all = Vec::new();
        for (&socket, local) in &self.sockets {
            let hosts = self.interfaces.iter().filter(|ip| ip.is_ipv4() == local.is_ipv4());
            for ip in hosts.take(MAX_HOSTS) {
                all.push(own(CandidateKind::Host, Local::Socket(socket), SocketAddr::new(*ip, local.port())));
            }
            for mapped in self.mappings.of_socket(socket, local.port(), network) {
                all.push(own(CandidateKind::ServerReflexive, Local::Socket(socket), mapped));
            }
        }
        let relays = network.and_then(|network| self.relays.get(&network));
        if let Some((id, relayed)) = relays.and_then(Relays::relayed) {
            all.push(own(CandidateKind::Relayed, Local::Relay(id), relayed));
        }
        let mut seen = BTreeSet::new();
        all.retain(|candidate| usable_candidate(candidate.addr) && seen.insert(candidate.addr));
        all
    }
}

fn own(kind: CandidateKind, local: Local, addr: SocketAddr) -> LocalCandidate {
    LocalCandidate { kind, local, addr }
}

fn is_public(ip: IpAddr) -> bool {
    matches!(reach(ip), Reach::Global | Reach::Documentation)
}

/// How long a mapping is trusted before it is asked for again, which also keeps it open. RFC 4787 REQ-5 demands at least
/// 2 minutes; many home routers keep 30 s, some 20 s.
const MAPPING_KEPT: Duration = Duration::from_secs(15);
/// Between questions out of turn.
const RECHECK_SPACING: Duration = Duration::from_secs(5);
/// Host candidates per socket.
const MAX_HOSTS: usize = 8;
/// Addresses of one peer that a relay of ours is asked to let in.
const MAX_LET_IN: usize = 4;

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

    const HOME: NetworkNumber = NetworkNumber(0);

    fn server(last: u8) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, last], 3478))
    }

    fn gather() -> Gather {
        let mut gather = Gather::new(ChaCha20Rng::from_seed([1; 32]));
        gather.socket_opened(Instant::ZERO, SocketId(0), SocketAddr::from(([0, 0, 0, 0], 4000)));
        gather
    }

    /// Where datagrams went since the last look.
    fn look(gather: &mut Gather) -> BTreeSet<SocketAddr> {
        let mut sent = BTreeSet::new();
        while let Some(found) = gather.poll_found() {
            if let Found::Forward(Command::Send { path, .. }) = found {
                sent.insert(path.remote);
            }
        }
        sent
    }

    #[test]
    fn mappings_are_asked_of_the_servers_that_are_left() {
        let (now, mut gather) = (Instant::ZERO, gather());
        for last in [1, 2] {
            gather.stun_servers(now, HOME, ServerId(last.into()), vec![server(last)]);
        }
        assert!(look(&mut gather).contains(&server(1)));
        gather.forget_servers(now, &[ServerId(1)]);
        gather.handle_timeout(now + MAPPING_KEPT);
        assert!(look(&mut gather).contains(&server(2)));
    }

    #[test]
    fn a_port_that_a_nat_keeps_is_told_beside_one_that_it_gave_to_a_server_alone() {
        let (now, mut gather) = (Instant::ZERO, gather());
        gather.stun_servers(now, HOME, ServerId(1), vec![server(1)]);
        let at = |last: u8, port: u16| SocketAddr::from(([8, 8, 8, last], port));
        let told = |gather: &Gather| gather.candidates(Some(HOME)).iter().map(|own| own.addr).collect::<Vec<_>>();
        for (mapped, expected) in [
            (at(8, 4000), vec![at(8, 4000)]),
            (at(8, 61_624), vec![at(8, 61_624), at(8, 4000)]),
            (at(8, 61_625), vec![at(8, 61_625), at(8, 4000)]),
            (at(8, 4000), vec![at(8, 4000)]),
            (at(9, 5000), vec![at(9, 5000)]),
            (at(9, 5001), vec![at(9, 5001)]),
        ] {
            gather.told(now, SocketId(0), server(1), mapped);
            assert_eq!(told(&gather), expected);
        }
    }

    #[test]
    fn every_host_is_asked_and_one_of_them_is_believed_while_it_answers() {
        let (now, mut gather) = (Instant::ZERO, gather());
        let other_port = SocketAddr::new(server(1).ip(), 3479);
        gather.stun_servers(now, HOME, ServerId(1), vec![server(1), other_port]);
        gather.stun_servers(now, HOME, ServerId(2), vec![server(2)]);
        look(&mut gather);
        gather.handle_timeout(now + MAPPING_KEPT);
        assert_eq!(look(&mut gather), BTreeSet::from([server(1), server(2)]), "one question for each host");
        let mapping = |gather: &Gather| gather.candidates(Some(HOME)).first().map(|own| own.addr);
        let (one, two) = (SocketAddr::from(([8, 8, 8, 8], 1)), SocketAddr::from(([8, 8, 8, 8], 2)));
        gather.told(now, SocketId(0), server(1), one);
        gather.told(now, SocketId(0), server(2), two);
        assert_eq!(mapping(&gather), Some(one));
        gather.unanswered(now, SocketId(0), server(1));
        gather.told(now, SocketId(0), server(2), two);
        assert_eq!(mapping(&gather), Some(two));
    }
}
