//! This machine's own candidates: its addresses, its mappings by STUN, its allocation on a relay.

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
pub(crate) use crate::relays::RelayOffer;
use crate::relays::Relays;

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
    sockets: BTreeMap<SocketId, SocketAddr>,
    interfaces: Vec<IpAddr>,
    stun: BindingClient,
    /// The STUN servers to ask, by the signaling server that named them.
    stun_servers: BTreeMap<ServerId, Vec<SocketAddr>>,
    /// STUN servers that did not answer: asked again after all others.
    silent: BTreeSet<SocketAddr>,
    /// The mapping of each socket, and the server that told it. A NAT may show each server another one; one server's word
    /// stands while it answers.
    mapped: BTreeMap<SocketId, (SocketAddr, SocketAddr)>,
    /// Mappings that had the socket's own port, where the server now tells another port of the same address: a NAT that
    /// keeps ports gives another one only where a packet of the server's came too early, and still the own one elsewhere.
    kept: BTreeMap<SocketId, SocketAddr>,
    refresh: Option<Instant>,
    relays: Relays,
    /// Sockets whose mapping was confirmed since the machine's addresses last changed.
    confirmed: BTreeSet<SocketId>,
    /// When mappings were last asked for out of turn.
    rechecked: Option<Instant>,
    candidates: Vec<LocalCandidate>,
    found: VecDeque<Found>,
}

impl Gather {
    pub(crate) fn new(mut rng: ChaCha20Rng) -> Self {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        Self {
            relays: Relays::new(rng),
            sockets: BTreeMap::new(),
            interfaces: Vec::new(),
            stun: BindingClient::new(seed, ginnel_stun::Config::default()),
            stun_servers: BTreeMap::new(),
            silent: BTreeSet::new(),
            mapped: BTreeMap::new(),
            kept: BTreeMap::new(),
            refresh: None,
            confirmed: BTreeSet::new(),
            rechecked: None,
            candidates: Vec::new(),
            found: VecDeque::new(),
        }
    }

    pub(crate) fn socket_opened(&mut self, now: Instant, socket: SocketId, local: SocketAddr) {
        self.sockets.insert(socket, local);
        self.query(now, socket);
        self.drain(now);
        self.recount();
    }

    pub(crate) fn socket_lost(&mut self, now: Instant, socket: SocketId) {
        self.sockets.remove(&socket);
        self.mapped.remove(&socket);
        self.kept.remove(&socket);
        self.confirmed.remove(&socket);
        self.relays.socket_lost(socket, &mut self.found);
        self.drain(now);
        self.recount();
    }

    /// Takes the machine's addresses; answers whether they are others than before.
    pub(crate) fn interfaces(&mut self, now: Instant, addresses: Vec<IpAddr>) -> bool {
        let moved = self.interfaces != addresses;
        if moved {
            self.interfaces = addresses;
            self.confirmed.clear();
            self.relays.shaken(now);
            self.refresh_now(now);
            self.recount();
        }
        moved
    }

    /// The machine's addresses.
    pub(crate) fn interfaces_known(&self) -> &[IpAddr] {
        &self.interfaces
    }

    /// Takes the STUN servers that a signaling server names.
    pub(crate) fn stun_servers(&mut self, now: Instant, by: ServerId, mut servers: Vec<SocketAddr>) {
        servers.truncate(MAX_SERVERS);
        self.relays.shaken(now);
        if self.stun_servers.get(&by) != Some(&servers) {
            self.stun_servers.insert(by, servers);
            self.refresh_now(now);
        }
        self.drain(now);
    }

    /// Asks for the mappings and the allocation at once, because a path has failed; at most once in [`RECHECK_SPACING`].
    pub(crate) fn recheck(&mut self, now: Instant) {
        if self.rechecked.is_none_or(|at| now.saturating_duration_since(at) >= RECHECK_SPACING) {
            self.rechecked = Some(now);
            self.relays.shaken(now);
            self.refresh_now(now);
        }
    }

    /// Takes a relay's addresses and fresh credentials from a signaling server.
    pub(crate) fn relay_offer(&mut self, now: Instant, by: ServerId, offer: RelayOffer) {
        self.relays.offer(now, by, offer);
        self.drain(now);
    }

    /// Gives up what signaling servers have taught: the servers to ask and their relay. Mappings stay while another server
    /// can refresh them; the sockets stay.
    pub(crate) fn forget_servers(&mut self, now: Instant, servers: &[ServerId]) {
        self.stun_servers.retain(|by, _| !servers.contains(by));
        self.silent.clear();
        if self.stun_servers.is_empty() {
            self.mapped.clear();
            self.kept.clear();
            self.confirmed.clear();
            self.refresh = None;
        }
        self.relays.forget(now, servers, &mut self.found);
        self.drain(now);
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
        let relayed = self.relays.receive(now, socket, from, bytes);
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
        self.relays.lets_in(addr)
    }

    /// Asks our relay for a channel to `remote`, an address of `peer`, unless that was done.
    pub(crate) fn bind(&mut self, now: Instant, peer: PeerId, remote: SocketAddr) {
        self.relays.bind(now, peer, remote);
        self.drain(now);
    }

    /// Gives up the channels of a peer that is gone.
    pub(crate) fn forget_peer(&mut self, now: Instant, peer: PeerId) {
        self.relays.forget_peer(now, peer);
        self.drain(now);
    }

    /// The address of the server that holds an allocation of ours.
    pub(crate) fn relay_server(&self, id: RelayId) -> Option<SocketAddr> {
        self.relays.server(id)
    }

    /// Own candidates with the ends behind them.
    pub(crate) fn candidates(&self) -> &[LocalCandidate] {
        &self.candidates
    }

    /// Whether a relay holds an address for this machine.
    pub(crate) fn has_relay(&self) -> bool {
        self.relays.relayed().is_some()
    }

    /// Whether a socket talks to a relay.
    pub(crate) fn is_relays(&self, socket: SocketId) -> bool {
        self.relays.uses(socket)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.stun.handle_timeout(now);
        self.relays.handle_timeout(now, &mut self.found);
        if self.refresh.is_some_and(|at| at <= now) {
            self.refresh_now(now);
        }
        self.drain(now);
    }

    pub(crate) fn poll_found(&mut self) -> Option<Found> {
        self.found.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [self.stun.poll_timeout(), self.relays.poll_timeout(), self.refresh].into_iter().flatten().min()
    }

    fn refresh_now(&mut self, now: Instant) {
        let sockets: Vec<SocketId> = self.sockets.keys().copied().collect();
        for socket in sockets {
            self.query(now, socket);
        }
        self.refresh = self.stun_servers.values().any(|servers| !servers.is_empty()).then(|| now + MAPPING_KEPT);
        self.drain(now);
    }

    /// Asks up to [`MAX_ASKED`] hosts for a socket's mapping, those that were silent last: each is thereby kept within reach
    /// of us, and we of it.
    fn query(&mut self, now: Instant, socket: SocketId) {
        let Some(family) = self.sockets.get(&socket).map(Family::of) else { return };
        let fitting = self.stun_servers.values().flatten().filter(|server| Family::of(server) == family);
        let mut fitting: Vec<SocketAddr> = fitting.copied().collect();
        fitting.sort_by_key(|server| self.silent.contains(server));
        let mut hosts = BTreeSet::new();
        fitting.retain(|server| hosts.insert(server.ip()));
        for server in fitting.into_iter().take(MAX_ASKED) {
            let _ = self.stun.handle_input(now, StunInput::Query { socket: socket.0, server });
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

    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.stun.poll_output() {
            match output {
                StunOutput::Send { socket, to, bytes } => self.transmit(SocketId(socket), to, bytes),
                StunOutput::Mapped { socket, mapped, server } => self.told(now, SocketId(socket), server, mapped),
                StunOutput::Failed { socket, server } => self.unanswered(now, SocketId(socket), server),
            }
        }
        let before = self.relays.relayed();
        self.relays.advance(now, &self.sockets, &mut self.found);
        if self.relays.relayed() != before {
            self.recount();
        }
    }

    /// A server has told a socket's mapping.
    fn told(&mut self, now: Instant, socket: SocketId, server: SocketAddr, mapped: SocketAddr) {
        self.silent.remove(&server);
        self.relays.heard(server.ip());
        let Some(local) = self.sockets.get(&socket) else { return };
        let own_port = local.port();
        self.confirmed.insert(socket);
        let named = |server: &SocketAddr| self.stun_servers.values().flatten().any(|known| known == server);
        match self.mapped.get(&socket) {
            Some((by, _)) if *by != server && named(by) && !self.silent.contains(by) => return,
            Some((by, known)) if *by == server && *known != mapped => self.relays.shaken(now),
            Some(_) | None => {}
        }
        let before = self.mapped.insert(socket, (server, mapped)).map(|(_, known)| known);
        if mapped.port() != own_port
            && let Some(known) = before.filter(|known| known.port() == own_port)
        {
            self.kept.insert(socket, known);
        }
        if self.kept.get(&socket).is_some_and(|kept| kept.ip() != mapped.ip() || *kept == mapped) {
            self.kept.remove(&socket);
        }
        self.recount();
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
            if let Some((_, mapped)) = self.mapped.get(&socket) {
                all.push(own(CandidateKind::ServerReflexive, Local::Socket(socket), *mapped));
            }
            if let Some(kept) = self.kept.get(&socket) {
                all.push(own(CandidateKind::ServerReflexive, Local::Socket(socket), *kept));
            }
        }
        if let Some((id, relayed)) = self.relays.relayed() {
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

/// How long a mapping is trusted before it is asked for again, which also keeps it open. RFC 4787 REQ-5 demands at least
/// 2 minutes; many home routers keep 30 s, some 20 s.
const MAPPING_KEPT: Duration = Duration::from_secs(15);
const MAX_SERVERS: usize = 8;
/// Hosts that are asked for one mapping at a time.
const MAX_ASKED: usize = 3;
/// Between questions out of turn.
const RECHECK_SPACING: Duration = Duration::from_secs(5);
/// Host candidates per socket.
const MAX_HOSTS: usize = 8;
/// Addresses of one peer that our relay is asked to let in.
const MAX_LET_IN: usize = 4;

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng as _;

    use super::*;

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
            gather.stun_servers(now, ServerId(last.into()), vec![server(last)]);
        }
        assert!(look(&mut gather).contains(&server(1)));
        gather.forget_servers(now, &[ServerId(1)]);
        gather.handle_timeout(now + MAPPING_KEPT);
        assert!(look(&mut gather).contains(&server(2)));
    }

    #[test]
    fn a_port_that_a_nat_keeps_is_told_beside_one_that_it_gave_to_a_server_alone() {
        let (now, mut gather) = (Instant::ZERO, gather());
        gather.stun_servers(now, ServerId(1), vec![server(1)]);
        let at = |last: u8, port: u16| SocketAddr::from(([8, 8, 8, last], port));
        let told = |gather: &Gather| gather.candidates().iter().map(|own| own.addr).collect::<Vec<_>>();
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
        gather.stun_servers(now, ServerId(1), vec![server(1), other_port]);
        gather.stun_servers(now, ServerId(2), vec![server(2)]);
        look(&mut gather);
        gather.handle_timeout(now + MAPPING_KEPT);
        assert_eq!(look(&mut gather), BTreeSet::from([server(1), server(2)]), "one question for each host");
        let mapping = |gather: &Gather| gather.candidates().first().map(|own| own.addr);
        let (one, two) = (SocketAddr::from(([8, 8, 8, 8], 1)), SocketAddr::from(([8, 8, 8, 8], 2)));
        gather.told(now, SocketId(0), server(1), one);
        gather.told(now, SocketId(0), server(2), two);
        assert_eq!(mapping(&gather), Some(one));
        gather.unanswered(now, SocketId(0), server(1));
        gather.told(now, SocketId(0), server(2), two);
        assert_eq!(mapping(&gather), Some(two));
    }
}
