//! This machine's allocation for one network: the relays of its servers are raced for one, it is watched, and what nobody
//! wants is given back.
//!
//! - Up to [`MAX_RACED`] of the relays on offer are asked [`STAGGER`] apart, those that failed lately last; the first
//!   that gives an allocation is used, and the others are given back what they gave. One that fails lets the next one
//!   start at once.
//! - A relay that does not answer for [`DOUBT`] is doubted: the others are raced while it is still asked, and whoever
//!   answers first is used.
//! - What one server offers for a relay and the relay refuses is not shown to it again while another server offers the same
//!   relay: that one's credentials are shown at once. Only when all are refused are fresh ones asked for.
//! - Where none gives an allocation, the race is run again after a pause of at most [`RETRY_MAX`], and at once after any
//!   sign that something has changed.
//! - A relay tells allocations by the address that they are asked from. Where another network talks to it from the common
//!   socket already, this one does from a socket of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_forward::{Command, PeerId};
use ginnel_path::{Local, Path, RelayId, SocketId};
use ginnel_time::Instant;
use ginnel_turn::client::{Config as TurnConfig, Discard, Failure, Input as TurnInput, Loss, Output as TurnOutput};
use ginnel_turn::{AddressFamily, Client as TurnClient, Credentials};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use crate::gather::Found;
use crate::io::{Family, ServerId};
use crate::networks::NetworkNumber;

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

/// Who holds an allocation of ours, or is asked for one.
struct Relay {
    /// Who offered it: its credentials hold the allocation.
    by: ServerId,
    socket: SocketId,
    server: SocketAddr,
    client: TurnClient,
}

/// The allocation in use.
struct Allocation {
    relay: Relay,
    relayed: SocketAddr,
    bound: BTreeMap<SocketAddr, u16>,
    /// Peers' addresses that were asked for: for whom, and when each last used it. Peers behind one NAT, and a machine that
    /// is a peer in several networks, share one.
    asked: BTreeMap<SocketAddr, BTreeMap<PeerId, Instant>>,
    /// Others were raced because of the silence that goes on.
    doubted: bool,
}

/// Where a machine's output of a relay's client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Current,
    Contender(usize),
    Leaving(usize),
}

/// Gets and keeps one allocation on one of the relays that a network's servers offer.
pub(crate) struct Relays {
    network: NetworkNumber,
    /// The number of the allocation in use.
    id: RelayId,
    rng: ChaCha20Rng,
    current: Option<Allocation>,
    /// Relays that are asked for an allocation now.
    contenders: Vec<Relay>,
    /// Relays that are asked next, unless one gives an allocation before.
    queue: VecDeque<(ServerId, SocketAddr)>,
    /// When the next of the queue starts.
    next: Option<Instant>,
    /// Relays whose allocation is being given back; at most [`MAX_LEAVING`], the oldest is forgotten.
    leaving: Vec<Relay>,
    /// Relays that gave no allocation: asked after all others.
    unwilling: BTreeSet<SocketAddr>,
    retry: Option<Instant>,
    pause: Duration,
    /// Whether what the servers offer was refused, so that asking again is in vain.
    trust: Trust,
    /// How often that was so since there was an allocation.
    refused: u32,
    /// Whose credentials which relay has refused, until that server offers others.
    refusals: BTreeSet<(ServerId, SocketAddr)>,
    /// Relays that may be used, by the signaling server that offers them.
    offers: BTreeMap<ServerId, RelayOffer>,
    /// When channels that nobody uses are looked for.
    sweep: Instant,
    /// For which families a socket of its own is wanted, and whether that was said.
    wanting: BTreeMap<Family, Asked>,
}

/// Whether something that is wanted was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    NotYet,
    Already,
}

/// From where relays are talked to.
pub(crate) struct Ground<'a> {
    /// The sockets of all networks.
    pub(crate) sockets: &'a BTreeMap<SocketId, SocketAddr>,
    /// Those of this network alone.
    pub(crate) lent: BTreeMap<SocketId, SocketAddr>,
    /// What other networks talk to, and from where.
    pub(crate) taken: BTreeSet<(SocketId, SocketAddr)>,
}

impl Ground<'_> {
    /// The socket from which to talk to a relay, if there is one that no other network talks to it from.
    fn socket_for(&self, server: SocketAddr) -> Option<SocketId> {
        let fits = |local: &SocketAddr| local.is_ipv4() == server.is_ipv4();
        let common = self.sockets.iter().find(|(_, local)| fits(local)).filter(|(id, _)| !self.is_taken(**id, server));
        common.or_else(|| self.lent.iter().find(|(_, local)| fits(local))).map(|(socket, _)| *socket)
    }

    fn is_taken(&self, socket: SocketId, server: SocketAddr) -> bool {
        self.taken.contains(&(socket, server))
    }
}

impl Relays {
    pub(crate) fn new(rng: ChaCha20Rng, network: NetworkNumber, id: RelayId) -> Self {
        Self {
            network,
            id,
            rng,
            current: None,
            contenders: Vec::new(),
            queue: VecDeque::new(),
            next: None,
            leaving: Vec::new(),
            unwilling: BTreeSet::new(),
            retry: None,
            pause: RETRY,
            trust: Trust::Untried,
            refused: 0,
            refusals: BTreeSet::new(),
            offers: BTreeMap::new(),
            sweep: Instant::ZERO,
            wanting: BTreeMap::new(),
        }
    }

    pub(crate) const fn id(&self) -> RelayId {
        self.id
    }

    /// Whether there is nothing left to get, to keep or to give back.
    pub(crate) fn is_spent(&self) -> bool {
        self.offers.is_empty() && self.current.is_none() && self.contenders.is_empty() && self.leaving.is_empty()
    }

    /// What is talked to, and from where.
    pub(crate) fn held(&self) -> impl Iterator<Item = (SocketId, SocketAddr)> {
        let current = self.current.iter().map(|current| &current.relay);
        current.chain(&self.contenders).chain(&self.leaving).map(|relay| (relay.socket, relay.server))
    }

    /// For which families a socket of its own is wanted; each is said once.
    pub(crate) fn wanting(&mut self) -> Vec<Family> {
        let unsaid = self.wanting.iter_mut().filter(|(_, asked)| **asked == Asked::NotYet);
        unsaid
            .map(|(family, asked)| {
                *asked = Asked::Already;
                *family
            })
            .collect()
    }

    /// A socket of its own is there.
    pub(crate) fn lent(&mut self, now: Instant, family: Family) {
        self.wanting.remove(&family);
        self.next = self.queue.front().map(|_| now);
    }

    /// The system gives no more sockets: what needs one is tried again later.
    pub(crate) fn not_lent(&mut self, now: Instant) {
        self.wanting.clear();
        self.queue.clear();
        self.next = None;
        if self.contenders.is_empty() && self.current.is_none() {
            self.rest(now);
        }
    }

    /// Takes a relay's addresses and fresh credentials from a signaling server.
    pub(crate) fn offer(&mut self, now: Instant, by: ServerId, offer: RelayOffer) {
        let held = self.current.iter_mut().map(|current| &mut current.relay).chain(&mut self.contenders);
        for relay in held.filter(|relay| relay.by == by && offer.servers.contains(&relay.server)) {
            let _ = relay.client.handle_input(now, TurnInput::Credentials(offer.credentials.clone()));
        }
        self.unwilling.retain(|server| !offer.servers.contains(server));
        self.refusals.retain(|(of, _)| *of != by);
        self.offers.insert(by, offer);
        self.trust = Trust::Untried;
        self.retry = None;
    }

    /// Gives back what the relays of these signaling servers gave.
    pub(crate) fn forget(&mut self, now: Instant, servers: &[ServerId], found: &mut VecDeque<Found>) {
        if !self.offers.keys().any(|by| servers.contains(by)) {
            return;
        }
        self.offers.retain(|by, _| !servers.contains(by));
        self.refusals.retain(|(by, _)| !servers.contains(by));
        self.queue.retain(|(by, _)| !servers.contains(by));
        self.unwilling.clear();
        let (gone, kept) = std::mem::take(&mut self.contenders).into_iter().partition(|c| servers.contains(&c.by));
        self.contenders = kept;
        for relay in gone {
            self.release(now, relay);
        }
        if self.current.as_ref().is_some_and(|current| servers.contains(&current.relay.by)) {
            self.leave_current(now, found);
        }
        if self.current.is_none() {
            // What was refused may be among what is gone.
            (self.retry, self.trust) = (None, Trust::Untried);
        }
    }

    /// A socket is gone, and what was allocated from it is out of reach.
    pub(crate) fn socket_lost(&mut self, socket: SocketId, found: &mut VecDeque<Found>) {
        self.leaving.retain(|relay| relay.socket != socket);
        self.next = self.queue.front().map(|_| Instant::ZERO);
        self.contenders.retain(|relay| relay.socket != socket);
        if self.current.as_ref().is_some_and(|current| current.relay.socket == socket) {
            self.current = None;
            self.lost(found);
        }
        self.retry = None;
    }

    /// Something may have changed: the allocation is asked for, and a pause ends.
    pub(crate) fn shaken(&mut self, now: Instant) {
        if let Some(current) = &mut self.current {
            let _ = current.relay.client.handle_input(now, TurnInput::Check);
        }
        self.pause = RETRY;
        if self.trust == Trust::Untried {
            // Ended, not due: this may come of a deadline that fires, and then no other one is to have come.
            self.retry = None;
        }
    }

    /// A host was heard that may be a relay: where one is waited for, it is asked at once.
    pub(crate) fn heard(&mut self, host: IpAddr) {
        let offered = || self.offers.values().flat_map(|offer| &offer.servers).any(|server| server.ip() == host);
        if self.retry.is_some() && self.trust == Trust::Untried && offered() {
            self.retry = None;
        }
    }

    /// Whether a datagram from `from` is one for a relay's client, and was taken.
    pub(crate) fn receive(&mut self, now: Instant, socket: SocketId, from: SocketAddr, bytes: &[u8]) -> bool {
        let current = self.current.iter_mut().map(|current| &mut current.relay);
        let mut all = current.chain(&mut self.contenders).chain(&mut self.leaving);
        all.any(|relay| {
            relay.socket == socket
                && relay.server == from
                && relay.client.handle_input(now, TurnInput::Received(bytes.to_vec())).is_ok()
        })
    }

    /// Asks for a channel to `remote`, an address of `peer`, unless that was done. A peer has a share in a few at a time; its
    /// oldest goes for a new one.
    pub(crate) fn bind(&mut self, now: Instant, peer: PeerId, remote: SocketAddr) {
        let Some(Allocation { relayed, asked, .. }) = &mut self.current else { return };
        if relayed.is_ipv4() != remote.is_ipv4() || *relayed == remote {
            return;
        }
        if let Some(used) = asked.get_mut(&remote).and_then(|owners| owners.get_mut(&peer)) {
            *used = now;
            return;
        }
        let own = asked.iter().filter_map(|(addr, owners)| Some((*addr, *owners.get(&peer)?)));
        let oldest = own.clone().min_by_key(|(_, used)| *used).filter(|_| own.count() >= CHANNELS_PER_PEER);
        if let Some((oldest, _)) = oldest {
            self.unbind(now, |addr, owner, _| addr == oldest && owner == peer);
        }
        let Some(Allocation { relay, asked, .. }) = &mut self.current else { return };
        if asked.contains_key(&remote) || relay.client.handle_input(now, TurnInput::Bind(remote)).is_ok() {
            asked.entry(remote).or_default().insert(peer, now);
        }
    }

    /// Gives up the channels of a peer that is gone, unless others use them.
    pub(crate) fn forget_peer(&mut self, now: Instant, peer: PeerId) {
        self.unbind(now, |_, owner, _| owner == peer);
    }

    /// Ends the use of channels; the last user's end is the channel's.
    fn unbind(&mut self, now: Instant, gone: impl Fn(SocketAddr, PeerId, Instant) -> bool) {
        let Some(Allocation { relay, asked, .. }) = &mut self.current else { return };
        asked.retain(|addr, owners| {
            owners.retain(|owner, used| !gone(*addr, *owner, *used));
            if owners.is_empty() {
                let _ = relay.client.handle_input(now, TurnInput::Unbind(*addr));
            }
            !owners.is_empty()
        });
    }

    /// Whether nothing keeps our relay from letting `addr` in.
    pub(crate) fn lets_in(&self, addr: SocketAddr) -> bool {
        let current = self.current.as_ref().filter(|current| current.asked.contains_key(&addr));
        current.is_none_or(|current| current.bound.contains_key(&addr))
    }

    /// The address of the server that holds an allocation of ours.
    pub(crate) fn server(&self) -> Option<SocketAddr> {
        self.current.as_ref().map(|current| current.relay.server)
    }

    /// The address that a relay holds for this machine, and the allocation's number.
    pub(crate) fn relayed(&self) -> Option<(RelayId, SocketAddr)> {
        self.current.as_ref().map(|current| (self.id, current.relayed))
    }

    /// Whether a socket talks to a relay.
    pub(crate) fn uses(&self, socket: SocketId) -> bool {
        let current = self.current.iter().map(|current| &current.relay);
        current.chain(&self.contenders).any(|relay| relay.socket == socket)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, found: &mut VecDeque<Found>) {
        if self.sweep <= now {
            self.sweep = now + SWEEP;
            self.unbind(now, |_, _, used| now.saturating_duration_since(used) >= CHANNEL_IDLE);
        }
        let current = self.current.iter_mut().map(|current| &mut current.relay);
        for relay in current.chain(&mut self.contenders).chain(&mut self.leaving) {
            relay.client.handle_timeout(now);
        }
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            if self.trust == Trust::Refused {
                found.push_back(Found::CredentialsRefused(self.network));
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let current = self.current.iter().map(|current| &current.relay);
        let clients = current.chain(&self.contenders).chain(&self.leaving).map(|relay| relay.client.poll_timeout());
        let sweep = self.current.as_ref().filter(|current| !current.asked.is_empty()).map(|_| self.sweep);
        clients.chain([self.retry, self.next, self.doubt(), sweep]).flatten().min()
    }

    /// Begins a race where one is wanted, and takes what the clients have to say.
    pub(crate) fn advance(&mut self, now: Instant, ground: &Ground<'_>, found: &mut VecDeque<Found>) {
        loop {
            self.line_up(now, ground);
            self.start_next(now, ground);
            let Some((place, output)) = self.poll_client() else { return };
            self.take(now, place, output, found);
        }
    }

    /// When the allocation's relay has been silent for long enough that others are raced.
    fn doubt(&self) -> Option<Instant> {
        let current = self.current.as_ref().filter(|current| !current.doubted)?;
        let elsewhere = self.offers.values().flat_map(|offer| &offer.servers).any(|at| *at != current.relay.server);
        current.relay.client.silent_since().filter(|_| elsewhere).map(|since| since + DOUBT)
    }

    /// Lines up the relays of a race, if one is wanted and none is on.
    fn line_up(&mut self, now: Instant, ground: &Ground<'_>) {
        if let Some(current) = &mut self.current
            && current.relay.client.silent_since().is_none()
        {
            current.doubted = false;
            self.queue.clear();
            self.next = None;
            for contender in std::mem::take(&mut self.contenders) {
                self.release(now, contender);
            }
        }
        let racing = !self.contenders.is_empty() || !self.queue.is_empty();
        let wanted = match &self.current {
            None => self.retry.is_none() && self.trust == Trust::Untried,
            Some(_) => self.doubt().is_some_and(|at| at <= now),
        };
        if racing || !wanted {
            return;
        }
        let silent = self.current.as_mut().map(|current| {
            current.doubted = true;
            current.relay.server
        });
        let mut all: Vec<(bool, ServerId, SocketAddr)> = Vec::new();
        for (by, offer) in &self.offers {
            for server in &offer.servers {
                let reachable = ground.sockets.values().any(|local| local.is_ipv4() == server.is_ipv4());
                if reachable && Some(*server) != silent && all.iter().all(|(.., known)| known != server) {
                    let by = self.untried(*server).unwrap_or(*by);
                    all.push((self.unwilling.contains(server), by, *server));
                }
            }
        }
        // A stable sort: otherwise the order of the offers counts.
        all.sort_by_key(|(unwilling, ..)| *unwilling);
        self.queue = all.into_iter().map(|(_, by, server)| (by, server)).take(MAX_RACED).collect();
        self.next = (!self.queue.is_empty()).then_some(now);
    }

    /// A server whose credentials for a relay were not refused there.
    fn untried(&self, server: SocketAddr) -> Option<ServerId> {
        let fits = |by: ServerId, offer: &RelayOffer| {
            offer.servers.contains(&server) && !self.refusals.contains(&(by, server))
        };
        self.offers.iter().find(|(by, offer)| fits(**by, offer)).map(|(by, _)| *by)
    }

    fn start_next(&mut self, now: Instant, ground: &Ground<'_>) {
        while self.next.is_some_and(|at| at <= now) {
            // An allocation that is being given back stands in the way of another from the same socket.
            let is_free = |server: SocketAddr| {
                let socket = ground.socket_for(server);
                socket.is_some_and(|socket| {
                    self.leaving.iter().all(|relay| relay.server != server || relay.socket != socket)
                })
            };
            for (_, server) in self.queue.iter().filter(|(_, server)| ground.socket_for(*server).is_none()) {
                self.wanting.entry(Family::of(server)).or_insert(Asked::NotYet);
            }
            let place = self.queue.iter().position(|(_, server)| is_free(*server));
            let Some((by, server)) = place.and_then(|place| self.queue.remove(place)) else {
                self.next = None;
                return;
            };
            self.next = (!self.queue.is_empty()).then(|| now + STAGGER);
            let socket = ground.socket_for(server);
            let credentials = self.offers.get(&by).map(|offer| offer.credentials.clone());
            let (Some(socket), Some(credentials)) = (socket, credentials) else { continue };
            let mut seed = [0; 32];
            self.rng.fill_bytes(&mut seed);
            let family = if server.is_ipv4() { AddressFamily::Ipv4 } else { AddressFamily::Ipv6 };
            let mut client = TurnClient::new(seed, TurnConfig { server, credentials, family });
            let _ = client.handle_input(now, TurnInput::Allocate);
            self.contenders.push(Relay { by, socket, server, client });
        }
    }

    fn poll_client(&mut self) -> Option<(Place, (Relayed, TurnOutput))> {
        let poll = |place: Place, relay: &mut Relay| {
            let of = Relayed { socket: relay.socket, server: relay.server };
            relay.client.poll_output().map(|output| (place, (of, output)))
        };
        if let Some(output) = self.current.as_mut().and_then(|current| poll(Place::Current, &mut current.relay)) {
            return Some(output);
        }
        let contenders = self.contenders.iter_mut().enumerate();
        let leaving = self.leaving.iter_mut().enumerate();
        let mut others = contenders
            .map(|(index, relay)| (Place::Contender(index), relay))
            .chain(leaving.map(|(index, relay)| (Place::Leaving(index), relay)));
        others.find_map(|(place, relay)| poll(place, relay))
    }

    fn take(&mut self, now: Instant, place: Place, (of, output): (Relayed, TurnOutput), found: &mut VecDeque<Found>) {
        match output {
            TurnOutput::Send(bytes) => {
                let path = Path { local: Local::Socket(of.socket), remote: of.server };
                found.push_back(Found::Forward(Command::Send { path, ttl: None, bytes }));
            }
            TurnOutput::Allocated { relayed, .. } => {
                if let Place::Contender(index) = place {
                    self.won(now, index, relayed, found);
                }
            }
            TurnOutput::Failed { reason } => self.failed(now, place, of.server, reason),
            TurnOutput::Lost { reason } => self.lose(now, place, of.server, reason, found),
            TurnOutput::Closed => {
                if let Place::Leaving(index) = place {
                    self.leaving.remove(index);
                    self.next = (!self.queue.is_empty()).then_some(now);
                }
            }
            TurnOutput::Bound { peer, channel } => {
                if let (Place::Current, Some(current)) = (place, &mut self.current) {
                    current.bound.insert(peer, channel.get());
                    let bind = Command::BindChannel { relay: self.id, channel: channel.get(), remote: peer };
                    found.extend([Found::Forward(bind), Found::LetIn]);
                }
            }
            TurnOutput::Unbound { peer, .. } => {
                if let (Place::Current, Some(current)) = (place, &mut self.current) {
                    current.asked.remove(&peer);
                    if let Some(channel) = current.bound.remove(&peer) {
                        found.push_back(Found::Forward(Command::UnbindChannel { relay: self.id, channel }));
                    }
                    found.push_back(Found::LetIn);
                }
            }
            TurnOutput::Data { peer, bytes } => {
                if place == Place::Current {
                    let path = Path { local: Local::Relay(self.id), remote: peer };
                    found.push_back(Found::Forward(Command::Inject { path, bytes }));
                }
            }
            TurnOutput::Permitted(_) | TurnOutput::Unpermitted { .. } => {}
        }
    }

    /// A relay gave an allocation: it takes the place of the one in use, and all others are given back.
    fn won(&mut self, now: Instant, index: usize, relayed: SocketAddr, found: &mut VecDeque<Found>) {
        let relay = self.contenders.remove(index);
        self.leave_current(now, found);
        for other in std::mem::take(&mut self.contenders) {
            self.release(now, other);
        }
        self.queue.clear();
        self.next = None;
        self.retry = None;
        self.pause = RETRY;
        (self.trust, self.refused) = (Trust::Untried, 0);
        self.unwilling.remove(&relay.server);
        self.refusals.remove(&(relay.by, relay.server));
        let (socket, server) = (relay.socket, relay.server);
        found.push_back(Found::Forward(Command::SetRelay { relay: self.id, socket, server }));
        let (bound, asked) = (BTreeMap::new(), BTreeMap::new());
        self.current = Some(Allocation { relay, relayed, bound, asked, doubted: false });
    }

    fn failed(&mut self, now: Instant, place: Place, server: SocketAddr, reason: Failure) {
        let Place::Contender(index) = place else { return };
        tracing::info!(%reason, %server, "no relay");
        let contender = self.contenders.remove(index);
        self.unwilling.insert(server);
        if reason == Failure::Unauthorized {
            self.refusals.insert((contender.by, server));
            match self.untried(server) {
                Some(by) => self.queue.push_front((by, server)),
                None if self.current.is_none() => self.trust = Trust::Refused,
                None => {}
            }
        }
        if !self.queue.is_empty() {
            self.next = Some(now);
        } else if self.contenders.is_empty() && self.current.is_none() {
            self.rest(now);
        }
    }

    /// The allocation is gone; the relays are raced anew, at once.
    fn lose(&mut self, now: Instant, place: Place, server: SocketAddr, reason: Loss, found: &mut VecDeque<Found>) {
        let Some(current) = self.current.take_if(|_| place == Place::Current) else { return };
        tracing::info!(%reason, %server, "the relay is lost");
        if reason == Loss::Silent {
            self.unwilling.insert(server);
        }
        if reason == Loss::Unauthorized {
            self.refusals.insert((current.relay.by, server));
            if self.untried(server).is_none() {
                self.trust = Trust::Refused;
                self.rest(now);
            }
        }
        self.lost(found);
    }

    /// Waits before the next race, for a part of the pause that chance decides: whoever lost the same relay does not come
    /// back at the same time.
    fn rest(&mut self, now: Instant) {
        let pause = match self.trust {
            Trust::Untried => {
                let pause = self.pause;
                self.pause = (pause * 2).min(RETRY_MAX);
                pause
            }
            Trust::Refused => {
                self.refused += 1;
                (RETRY * (1 << self.refused.min(7))).min(REFUSED_MAX)
            }
        };
        let half = u32::try_from(pause.as_millis() / 2).unwrap_or(u32::MAX);
        let jitter = Duration::from_millis(u64::from(self.rng.next_u32() % half.max(1)));
        self.retry = Some(now + pause - jitter);
    }

    /// Gives up the allocation in use.
    fn leave_current(&mut self, now: Instant, found: &mut VecDeque<Found>) {
        if let Some(current) = self.current.take() {
            self.lost(found);
            self.release(now, current.relay);
        }
    }

    fn release(&mut self, now: Instant, mut relay: Relay) {
        if relay.client.handle_input(now, TurnInput::Close) == Err(Discard::QueueFull) {
            return;
        }
        if self.leaving.len() >= MAX_LEAVING {
            self.leaving.remove(0);
        }
        self.leaving.push(relay);
        self.next = (!self.queue.is_empty()).then_some(now);
    }

    /// What follows from the end of the allocation in use.
    fn lost(&self, found: &mut VecDeque<Found>) {
        let gone = Found::Forward(Command::RemoveRelay { relay: self.id });
        found.extend([gone, Found::RelayLost(self.id), Found::LetIn]);
    }
}

/// Whose output it is.
#[derive(Clone, Copy)]
struct Relayed {
    socket: SocketId,
    server: SocketAddr,
}

/// Relays that are asked in one race.
pub(crate) const MAX_RACED: usize = 3;
/// Between the starts of two relays in a race: about what a near one needs to answer twice.
pub(crate) const STAGGER: Duration = Duration::from_millis(400);
/// A relay that leaves three datagrams unanswered, the last of them for a while.
pub(crate) const DOUBT: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(500);
/// The longest pause between two races. With the six datagrams of a request, 2 s apart at most, a relay that comes back
/// is used again within this time and a few round trips.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(8);
/// The longest pause before other credentials are asked for.
const REFUSED_MAX: Duration = Duration::from_secs(60);
const MAX_LEAVING: usize = 8;
/// Channels held for one peer at a time.
const CHANNELS_PER_PEER: usize = 8;
/// A channel that was not used for this long is given up.
const CHANNEL_IDLE: Duration = Duration::from_secs(600);
const SWEEP: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
