//! From the paths to the TUN: classifies, unwraps, opens, and checks whose packet it is.

mod peer;
mod raw;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;

use ginnel_path::message::{self, Probe};
use ginnel_path::{Local, Path, SocketId};
use ginnel_time::Instant;
use ginnel_tunnel::cookie::Mac1;
use ginnel_tunnel::{HEADROOM, MessageKind, Metadata, OpenError, ReceiverIndex, Side, Suite, receiver_index};
use ginnel_turn::channel_data;

use self::peer::{MAX_SESSIONS, Peer};
use self::raw::RawQueues;
use crate::buffer::{Datagrams, WritePlan};
use crate::classify::{Kind, classify};
use crate::command::{IngressCommand, PeerId, Roam, Shields};
use crate::config::Config;
use crate::counters::{Counters, Discard, PeerCounters};
use crate::event::{Event, Notice, Received, Wear};
use crate::fact::{Fact, Ready};
use crate::flow::{FlowKey, FlowTable};
use crate::packet::{self, Header};
use crate::relay::Relays;
use crate::route::Routes;
use crate::schedule::{Schedule, earlier};
use crate::session::{Aged, ReceiveSession};
use crate::table::{Slot, Table};

/// The receiving half.
pub struct Ingress {
    config: Config,
    peers: Table<Peer>,
    sessions: BTreeMap<ReceiverIndex, Box<Entry>>,
    routes: Routes,
    relays: Relays,
    shields: Shields,
    /// The keys that handshakes may be for; any while node has not said.
    keys: Option<Vec<Mac1>>,
    flows: FlowTable,
    schedule: Schedule,
    ready: Ready,
    /// Peers with news for the other half.
    newsworthy: VecDeque<Slot>,
    raw: RawQueues,
    counters: Counters,
    now: Instant,
}

/// One session that packets may come on.
struct Entry {
    peer: Slot,
    session: Aged<ReceiveSession>,
    /// Whether a packet has come on it, or none is needed to know that the other side has the keys.
    confirmed: bool,
}

impl Ingress {
    /// Makes the half without peers.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            peers: Table::default(),
            sessions: BTreeMap::new(),
            routes: Routes::default(),
            relays: Relays::default(),
            shields: Shields::default(),
            keys: None,
            flows: FlowTable::default(),
            schedule: Schedule::default(),
            ready: Ready::default(),
            newsworthy: VecDeque::new(),
            raw: RawQueues::default(),
            counters: Counters::default(),
            now: Instant::ZERO,
        }
    }

    /// Opens the datagrams of a batch and empties it; IP packets go into `plan`.
    pub fn push(&mut self, now: Instant, datagrams: &mut Datagrams, plan: &mut WritePlan) {
        let now = self.advance(now);
        for place in 0..datagrams.len() {
            let Some((head, offset, bytes)) = datagrams.get_mut(place) else { break };
            match self.datagram(now, head.socket, head.from, bytes) {
                Ok(Some(range)) => plan.push_range(datagrams, offset + range.start..offset + range.end),
                Ok(None) => {}
                Err(reason) => self.counters.discard(reason),
            }
        }
        plan.take_slab(datagrams);
    }

    /// Carries out an order; an IP packet out of [`IngressCommand::Inject`] goes into `plan`.
    pub fn handle_command(&mut self, now: Instant, command: IngressCommand, plan: &mut WritePlan) {
        let now = self.advance(now);
        match command {
            IngressCommand::AddPeer { peer, allowed, roam } => {
                let slot = self.peers.insert_with(peer, || Peer::new(peer, roam));
                self.routes.remove(slot);
                for (address, length) in allowed {
                    self.routes.insert(address, length, slot);
                }
                if let Some(peer) = self.peers.get_mut(slot) {
                    peer.roam = roam;
                }
            }
            IngressCommand::SetOwn { peer, own } => {
                if let Some(peer) = self.peers.slot(peer).and_then(|slot| self.peers.get_mut(slot)) {
                    peer.own = Some(own);
                }
            }
            IngressCommand::RemovePeer { peer } => self.remove_peer(peer),
            IngressCommand::Install { peer, session } => self.install(now, peer, session),
            IngressCommand::Forget { index } => {
                if let Some(entry) = self.sessions.remove(&index)
                    && let Some(peer) = self.peers.get_mut(entry.peer)
                {
                    peer.sessions.remove(index);
                }
            }
            IngressCommand::SetPath { peer, primary, backup } => {
                if let Some(peer) = self.peers.slot(peer).and_then(|slot| self.peers.get_mut(slot)) {
                    peer.set_path(primary, backup);
                }
            }
            // A wrong order is counted once, by the other half.
            IngressCommand::Relay(command) => drop(self.relays.apply(command)),
            IngressCommand::Inject { path, mut bytes } => self.inject(now, path, &mut bytes, plan),
            IngressCommand::SetKeys(keys) => self.keys = Some(keys),
            IngressCommand::SetShields(shields) => {
                if self.shields != shields {
                    self.shields = shields;
                    self.flows.clear();
                }
            }
        }
    }

    /// Lets answers to a flow that this machine started pass the shields.
    pub fn handle_flow(&mut self, now: Instant, flow: FlowKey) {
        let now = self.advance(now);
        if self.shields == Shields::Up {
            self.flows.note(now, flow);
        }
    }

    /// Ends the sessions that are too old.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.advance(now);
        while let Some(slot) = self.schedule.take_due(now) {
            let Some(peer) = self.peers.get_mut(slot) else { continue };
            Schedule::fired(&mut peer.armed);
            let mut old = [None; MAX_SESSIONS];
            for (place, index) in old.iter_mut().zip(peer.sessions.iter()) {
                let reject_after = self.config.reject_after_time;
                *place = self.sessions.get(&index).filter(|e| e.session.age(now) >= reject_after).map(|_| index);
            }
            for index in old.into_iter().flatten() {
                self.expire(slot, index);
            }
            self.arm(slot);
        }
    }

    /// Takes the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.ready.poll(&mut self.peers).or_else(|| self.raw.pop())
    }

    /// Takes the next notice for the other half.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        while let Some(slot) = self.newsworthy.front() {
            if let Some(peer) = self.peers.get_mut(*slot) {
                let id = crate::fact::HasFacts::id(peer);
                if let Some(notice) = peer.news.take(id) {
                    return Some(notice);
                }
                peer.news.listed = false;
            }
            self.newsworthy.pop_front();
        }
        None
    }

    /// When to call [`handle_timeout`](Self::handle_timeout): the last `now` while an event or notice waits.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.ready.is_empty() && self.raw.is_empty() && self.newsworthy.is_empty() {
            self.schedule.next()
        } else {
            Some(self.now)
        }
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The receiving half of a peer's counters; `None` for an unknown peer.
    pub fn peer_counters(&self, peer: PeerId) -> Option<PeerCounters> {
        Some(self.peers.get(self.peers.slot(peer)?)?.counters)
    }

    fn advance(&mut self, now: Instant) -> Instant {
        self.now = self.now.max(now);
        self.now
    }

    /// Handles one datagram; gives the IP packet's place in it, if there is one for the TUN.
    fn datagram(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddr,
        bytes: &mut [u8],
    ) -> Result<Option<Range<usize>>, Discard> {
        self.counters.datagrams_received += 1;
        let path = Path { local: Local::Socket(socket), remote: from };
        match classify(bytes) {
            Kind::Data(suite) => self.data(now, path, suite, bytes),
            Kind::Handshake => self.handshake(path, bytes).map(|()| None),
            Kind::Stun => self.raw.push_stun(socket, from, bytes).map(|()| None),
            Kind::ChannelData if !self.relays.is_server(socket, from) => Err(Discard::ForeignChannelData),
            Kind::ChannelData => {
                let (channel, data) = channel_data::decode(bytes).map_err(|_| Discard::MalformedChannelData)?;
                let path = self.relays.source(socket, from, channel)?;
                let (start, end) = (channel_data::HEADER_LEN, channel_data::HEADER_LEN + data.len());
                let inner = bytes.get_mut(start..end).ok_or(Discard::MalformedChannelData)?;
                let packet = self.relayed(now, path, inner)?;
                Ok(packet.map(|packet| start + packet.start..start + packet.end))
            }
            Kind::Unknown => Err(Discard::Unclassified),
        }
    }

    /// Handles what came through a relay: only tunnel datagrams do.
    fn relayed(&mut self, now: Instant, path: Path, bytes: &mut [u8]) -> Result<Option<Range<usize>>, Discard> {
        match classify(bytes) {
            Kind::Data(suite) => self.data(now, path, suite, bytes),
            Kind::Handshake => self.handshake(path, bytes).map(|()| None),
            Kind::Stun | Kind::ChannelData | Kind::Unknown => Err(Discard::MalformedChannelData),
        }
    }

    /// Keeps a handshake message for node, if it is for us: to refuse it here costs one hash for each of our keys and wakes
    /// nobody. A cookie reply has no mac1, and therefore few places of its own.
    fn handshake(&mut self, path: Path, bytes: &[u8]) -> Result<(), Discard> {
        if ginnel_tunnel::classify(bytes).is_some_and(|(_, kind)| kind == MessageKind::Cookie) {
            return self.raw.push_cookie(path, bytes);
        }
        if self.keys.as_ref().is_some_and(|keys| !keys.iter().any(|key| key.verify(bytes))) {
            return Err(Discard::BadMac);
        }
        self.raw.push_handshake(path, bytes)
    }

    fn inject(&mut self, now: Instant, path: Path, bytes: &mut [u8], plan: &mut WritePlan) {
        self.counters.datagrams_received += 1;
        match self.relayed(now, path, bytes) {
            Ok(Some(packet)) => plan.push(&bytes[packet]),
            Ok(None) => {}
            Err(reason) => self.counters.discard(reason),
        }
    }

    /// Opens a data message. The order of the checks is that of WireGuard: index, age and limit, tag, replay window,
    /// promotion, source address, endpoint.
    fn data(
        &mut self,
        now: Instant,
        path: Path,
        suite: Suite,
        bytes: &mut [u8],
    ) -> Result<Option<Range<usize>>, Discard> {
        let index = receiver_index(bytes).ok_or(Discard::Unclassified)?;
        let entry = self.sessions.get_mut(&index).ok_or(Discard::UnknownIndex)?;
        if entry.session.session.suite != suite {
            return Err(Discard::WrongSuite);
        }
        if entry.session.age(now) >= self.config.reject_after_time {
            return Err(Discard::KeyExpired);
        }
        let size = bytes.len() as u64;
        let slot = entry.peer;
        let (metadata, plaintext) = entry.session.session.opener.open(bytes).map_err(|error| match error {
            OpenError::Exhausted => Discard::KeyExhausted,
            OpenError::Forged => Discard::Forged,
            OpenError::Replayed | OpenError::TooOld => Discard::Replayed,
            OpenError::UnknownMetadata => Discard::UnknownMetadata,
            OpenError::WrongType => Discard::Unclassified,
            _ => Discard::Forged,
        })?;
        let wear = if entry.session.session.opener.rekey_due() { Wear::Worn } else { Wear::Fresh };
        let newly_confirmed = !std::mem::replace(&mut entry.confirmed, true);
        let peer = self.peers.get_mut(slot).ok_or(Discard::UnknownIndex)?;
        peer.counters.rx_packets += 1;
        peer.counters.rx_bytes += size;
        peer.counters.last_received = Some(now);
        let content = if metadata == Metadata::NONE { Content::of(plaintext) } else { Err(Discard::UnknownMetadata) };
        let what = if matches!(content, Ok(Content::Packet(_))) { Received::Data } else { Received::Control };
        peer.news.note(what, wear);
        list_news(&mut self.newsworthy, slot, peer);
        if newly_confirmed {
            self.confirm(now, slot, index);
        }
        match content? {
            Content::Keepalive => self.moved(now, slot, path),
            Content::Control if suite == Suite::WireGuard => return Err(Discard::UnknownPlaintext),
            Content::Control => {
                let plaintext: &[u8] = plaintext;
                self.moved(now, slot, path);
                self.control(slot, path, plaintext)?;
            }
            Content::Packet(header) => {
                self.admit(now, slot, &header, plaintext)?;
                self.moved(now, slot, path);
                self.counters.tun_sent += 1;
                return Ok(Some(HEADROOM..HEADROOM + header.total_len));
            }
        }
        Ok(None)
    }

    fn confirm(&mut self, now: Instant, slot: Slot, index: ReceiverIndex) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        peer.counters.last_handshake = Some(now);
        peer.news.confirmed = Some(index);
        list_news(&mut self.newsworthy, slot, peer);
        let ended = peer.sessions.confirm(index);
        self.tell(slot, Fact::Confirmed(index));
        if let Some(ended) = ended {
            self.expire(slot, ended);
        }
    }

    /// Checks the packet against its owner and the shields.
    fn admit(&mut self, now: Instant, slot: Slot, header: &Header, plaintext: &[u8]) -> Result<(), Discard> {
        if self.routes.owner(header.source) != Some(slot) {
            return Err(Discard::SpoofedSource);
        }
        let peer = self.peers.get(slot).ok_or(Discard::UnknownPeer)?;
        if peer.own.as_ref().is_some_and(|own| !own.contains(&header.destination)) {
            return Err(Discard::ForeignDestination);
        }
        if self.shields == Shields::Up {
            let wanted = packet::inbound_flow(header, plaintext).ok_or(Discard::ShieldsUp)?;
            if !self.flows.admits(now, wanted) {
                return Err(Discard::ShieldsUp);
            }
        }
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.counters.rx_data_packets += 1;
        }
        Ok(())
    }

    /// Follows or reports the path that an authentic datagram came by.
    #[inline]
    fn moved(&mut self, now: Instant, slot: Slot, path: Path) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        match peer.roam {
            Roam::FollowSource => {
                if peer.roam_to(path) {
                    peer.news.roamed = Some(path);
                    list_news(&mut self.newsworthy, slot, peer);
                    self.tell(slot, Fact::Roamed(path));
                }
            }
            Roam::Fixed => {
                if peer.is_news(now, path) {
                    self.tell(slot, Fact::Arrived(path));
                }
            }
        }
    }

    fn control(&mut self, slot: Slot, path: Path, plaintext: &[u8]) -> Result<(), Discard> {
        if plaintext.first() != Some(&message::PROBE) {
            self.tell(slot, Fact::Control(path, plaintext.to_vec()));
            return Ok(());
        }
        let probe = Probe::decode(plaintext).map_err(|_| Discard::MalformedProbe)?;
        let peer = self.peers.get_mut(slot).ok_or(Discard::UnknownPeer)?;
        peer.news.probe(path, probe.id)
    }

    fn install(&mut self, now: Instant, id: PeerId, session: ReceiveSession) {
        let Some(slot) = self.peers.slot(id) else { return };
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let (index, side) = (session.index, session.side);
        if side == Side::Initiator {
            peer.counters.last_handshake = Some(now);
        }
        let ended = peer.sessions.install(index, side);
        let entry = Entry { peer: slot, session: Aged { session, since: now }, confirmed: side == Side::Initiator };
        if let Some(replaced) = self.sessions.insert(index, Box::new(entry))
            && replaced.peer != slot
            && let Some(other) = self.peers.get_mut(replaced.peer)
        {
            other.sessions.remove(index);
        }
        for index in ended.into_iter().flatten() {
            self.expire(slot, index);
        }
        self.arm(slot);
    }

    fn remove_peer(&mut self, id: PeerId) {
        let Some((slot, mut peer)) = self.peers.remove(id) else { return };
        for index in peer.sessions.iter() {
            self.sessions.remove(&index);
        }
        self.routes.remove(slot);
        self.schedule.disarm(&mut peer.armed, slot);
    }

    /// Erases a session's key and reports it.
    fn expire(&mut self, slot: Slot, index: ReceiverIndex) {
        self.sessions.remove(&index);
        if let Some(peer) = self.peers.get_mut(slot) {
            peer.sessions.remove(index);
        }
        self.tell(slot, Fact::Expired(index));
    }

    fn tell(&mut self, slot: Slot, fact: Fact) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        if let Err(reason) = peer.facts.push(fact) {
            self.counters.discard(reason);
        }
        self.ready.list(slot, &mut peer.facts);
    }

    fn arm(&mut self, slot: Slot) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let deadline = peer
            .sessions
            .iter()
            .filter_map(|index| self.sessions.get(&index))
            .fold(None, |first, entry| earlier(first, Some(entry.session.since + self.config.reject_after_time)));
        self.schedule.arm(&mut peer.armed, slot, deadline);
    }
}

/// What a sealed plaintext holds.
enum Content {
    Keepalive,
    Control,
    Packet(Header),
}

impl Content {
    #[inline]
    fn of(plaintext: &[u8]) -> Result<Self, Discard> {
        match plaintext.first() {
            None => Ok(Self::Keepalive),
            Some(first) if *first < CONTROL_BELOW => Ok(Self::Control),
            Some(first) if matches!(*first >> 4, 4 | 6) => {
                Header::of_packet(plaintext).map(Self::Packet).ok_or(Discard::MalformedPacket)
            }
            Some(_) => Err(Discard::UnknownPlaintext),
        }
    }
}

fn list_news(newsworthy: &mut VecDeque<Slot>, slot: Slot, peer: &mut Peer) {
    if !peer.news.listed {
        peer.news.listed = true;
        newsworthy.push_back(slot);
    }
}

/// Control messages between ginneld start with a byte below this, IP packets with one at or above it.
const CONTROL_BELOW: u8 = 0x40;
