//! From the TUN to the paths: finds the peer, seals, wraps, and keeps the timers.

mod duplication;
mod peer;

use std::collections::VecDeque;
use std::time::Duration;

use ginnel_path::Path;
use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use self::duplication::Copies;
use self::peer::{LEAD, MAX_DATAGRAM, Peer, transmit};
use crate::buffer::{SendArena, TunBatch, WritePlan};
use crate::command::{EgressCommand, PeerId, Shields};
use crate::config::{Config, FLOWS, SILENCE_JITTER};
use crate::counters::{Counters, Discard, PeerCounters};
use crate::event::{Event, Notice};
use crate::fact::{Fact, Facts, Ready};
use crate::flow::{FlowKey, NotedFlows};
use crate::packet::{self, Header};
use crate::pending::Spares;
use crate::relay::Relays;
use crate::route::Routes;
use crate::schedule::{Armed, Schedule};
use crate::table::{Slot, Table};

/// The sending half.
pub struct Egress {
    peers: Table<Peer>,
    routes: Routes,
    schedule: Schedule,
    ready: Ready,
    shields: Shields,
    noted: NotedFlows,
    flows: VecDeque<FlowKey>,
    unreachable: Vec<u8>,
    unreachable_quiet_until: Instant,
    now: Instant,
    cx: Shared,
}

/// What all peers of the half use.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) relays: Relays,
    pub(crate) counters: Counters,
    pub(crate) spares: Spares,
    rng: ChaCha20Rng,
}

impl Egress {
    /// Makes the half without peers. The seed only spreads timers.
    pub fn new(seed: [u8; 32], config: Config) -> Self {
        Self {
            peers: Table::default(),
            routes: Routes::default(),
            schedule: Schedule::default(),
            ready: Ready::default(),
            shields: Shields::default(),
            noted: NotedFlows::default(),
            flows: VecDeque::new(),
            unreachable: Vec::new(),
            unreachable_quiet_until: Instant::ZERO,
            now: Instant::ZERO,
            cx: Shared {
                config,
                relays: Relays::default(),
                counters: Counters::default(),
                spares: Spares::default(),
                rng: ChaCha20Rng::from_seed(seed),
            },
        }
    }

    /// Seals the packets of a batch for their peers and empties it. `plan` gets ICMP errors for packets that nobody
    /// owns.
    pub fn push(&mut self, now: Instant, batch: &mut TunBatch, plan: &mut WritePlan, arena: &mut SendArena) {
        let now = self.advance(now);
        for bytes in batch.iter() {
            self.cx.counters.tun_received += 1;
            if let Err(reason) = self.forward(now, bytes, plan, arena) {
                self.cx.counters.discard(reason);
            }
        }
        batch.clear();
    }

    /// Carries out an order.
    pub fn handle_command(&mut self, now: Instant, command: EgressCommand, arena: &mut SendArena) {
        let now = self.advance(now);
        if let Err(reason) = self.command(now, command, arena) {
            self.cx.counters.discard(reason);
        }
    }

    /// Takes what the other half learnt.
    pub fn handle_notice(&mut self, now: Instant, notice: Notice, arena: &mut SendArena) {
        let now = self.advance(now);
        let peer = match notice {
            Notice::Confirmed { peer, .. }
            | Notice::Roamed { peer, .. }
            | Notice::Probe { peer, .. }
            | Notice::Received { peer, .. } => peer,
        };
        // The peer may be gone since the notice was written.
        let _ = self.with_peer(peer, |peer, cx| match notice {
            Notice::Confirmed { index, .. } => peer.confirmed(now, index, cx, arena),
            Notice::Roamed { path, .. } => peer.roamed(now, path, cx, arena),
            Notice::Probe { path, id, .. } => peer.answer_probe(now, path, id, cx, arena),
            Notice::Received { what, wear, .. } => peer.received(now, what, wear, cx),
        });
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant, arena: &mut SendArena) {
        let now = self.advance(now);
        while let Some(slot) = self.schedule.take_due(now) {
            let Some(peer) = self.peers.get_mut(slot) else { continue };
            Schedule::fired(&mut peer.armed);
            peer.handle_timeout(now, &mut self.cx, arena);
            self.settle(slot);
        }
    }

    /// Takes the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.ready.poll(&mut self.peers)
    }

    /// Takes the next flow that the other half's shields must let answers in for.
    pub fn poll_flow(&mut self) -> Option<FlowKey> {
        self.flows.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout): the last `now` while an event waits.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.ready.is_empty() && self.flows.is_empty() { self.schedule.next() } else { Some(self.now) }
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.cx.counters
    }

    /// The sending half of a peer's counters; `None` for an unknown peer.
    pub fn peer_counters(&self, peer: PeerId) -> Option<PeerCounters> {
        let peer = self.peers.get(self.peers.slot(peer)?)?;
        Some(PeerCounters { waiting: peer.waiting(), ..peer.counters })
    }

    fn advance(&mut self, now: Instant) -> Instant {
        self.now = self.now.max(now);
        self.now
    }

    #[inline]
    fn forward(
        &mut self,
        now: Instant,
        bytes: &[u8],
        plan: &mut WritePlan,
        arena: &mut SendArena,
    ) -> Result<(), Discard> {
        let header = Header::of_packet(bytes).ok_or(Discard::MalformedPacket)?;
        let packet = &bytes[..header.total_len];
        let Some(slot) = self.routes.owner(header.destination) else {
            self.answer_unreachable(now, &header, packet, plan);
            return Err(Discard::NoRoute);
        };
        let peer = self.peers.get(slot).ok_or(Discard::NoRoute)?;
        if peer.own.as_ref().is_some_and(|own| !own.contains(&header.source)) {
            return Err(Discard::ForeignSource);
        }
        if self.shields == Shields::Up {
            self.note_flow(now, &header, packet);
        }
        let peer = self.peers.get_mut(slot).ok_or(Discard::NoRoute)?;
        peer.send_data(now, packet, &mut self.cx, arena);
        self.settle(slot);
        Ok(())
    }

    fn note_flow(&mut self, now: Instant, header: &Header, packet: &[u8]) {
        if let Some(key) = packet::outbound_flow(header, packet)
            && self.flows.len() < FLOWS
            && self.noted.is_due(now, key)
        {
            self.flows.push_back(key);
        }
    }

    fn answer_unreachable(&mut self, now: Instant, header: &Header, packet: &[u8], plan: &mut WritePlan) {
        if now < self.unreachable_quiet_until {
            return;
        }
        packet::unreachable(header, packet, &mut self.unreachable);
        if !self.unreachable.is_empty() {
            self.unreachable_quiet_until = now + UNREACHABLE_INTERVAL;
            self.cx.counters.unreachables += 1;
            plan.push(&self.unreachable);
        }
    }

    fn command(&mut self, now: Instant, command: EgressCommand, arena: &mut SendArena) -> Result<(), Discard> {
        match command {
            EgressCommand::AddPeer { peer, allowed, persistent_keepalive } => {
                let slot = self.peers.insert_with(peer, || Peer::new(peer));
                self.routes.remove(slot);
                for (address, length) in allowed {
                    self.routes.insert(address, length, slot);
                }
                self.with_peer(peer, |peer, _| peer.timers.set_persistent(now, persistent_keepalive))?;
            }
            EgressCommand::SetOwn { peer, own } => self.with_peer(peer, |peer, _| peer.own = Some(own))?,
            EgressCommand::RemovePeer { peer } => {
                let (slot, mut peer) = self.peers.remove(peer).ok_or(Discard::UnknownPeer)?;
                self.routes.remove(slot);
                self.schedule.disarm(&mut peer.armed, slot);
            }
            EgressCommand::Install { peer, session } => {
                self.with_peer(peer, |peer, cx| peer.install(now, session, cx, arena))?;
            }
            EgressCommand::Forget { index } => self.peers.iter_mut().for_each(|peer| peer.forget(index)),
            EgressCommand::SetPath { peer, primary, backup, duplicate } => {
                let copies = if duplicate { Copies::OnBackup } else { Copies::None };
                self.with_peer(peer, |peer, cx| peer.set_path(now, (primary, backup), copies, cx, arena))?;
            }
            EgressCommand::SealControl { peer, path, ttl, plaintext } => {
                self.with_peer(peer, |peer, cx| peer.send_control(now, &plaintext, (path, ttl), cx, arena))??;
            }
            EgressCommand::Send { path, ttl, bytes } => self.send_raw(path, ttl, &bytes, arena)?,
            EgressCommand::Relay(command) => self.cx.relays.apply(command)?,
            EgressCommand::SetShields(shields) => {
                if self.shields != shields {
                    self.shields = shields;
                    self.noted.clear();
                    self.flows.clear();
                }
            }
        }
        Ok(())
    }

    fn send_raw(&mut self, path: Path, ttl: Option<u8>, bytes: &[u8], arena: &mut SendArena) -> Result<(), Discard> {
        if bytes.len() > MAX_DATAGRAM - LEAD {
            return Err(Discard::TooLong);
        }
        let target = self.cx.relays.target(path)?;
        let (start, room) = arena.room(LEAD + bytes.len());
        room[LEAD..].copy_from_slice(bytes);
        arena.keep(start + LEAD + bytes.len());
        transmit(arena, (path, target), ttl, start + LEAD, bytes.len());
        self.cx.counters.datagrams_sent += 1;
        Ok(())
    }

    fn with_peer<R>(&mut self, id: PeerId, act: impl FnOnce(&mut Peer, &mut Shared) -> R) -> Result<R, Discard> {
        let slot = self.peers.slot(id).ok_or(Discard::UnknownPeer)?;
        let peer = self.peers.get_mut(slot).ok_or(Discard::UnknownPeer)?;
        let result = act(peer, &mut self.cx);
        self.settle(slot);
        Ok(result)
    }

    /// Arms the peer's deadline and lists its facts, after anything that may have changed them.
    #[inline]
    fn settle(&mut self, slot: Slot) {
        let Some(peer) = self.peers.get_mut(slot) else { return };
        let deadline = peer.deadline(self.cx.config.reject_after_time);
        let Peer { armed, facts, .. } = peer;
        let armed: &mut Armed = armed;
        self.schedule.arm(armed, slot, deadline);
        self.ready.list(slot, facts);
    }
}

impl Shared {
    /// Holds a fact and counts what had to go for it.
    pub(crate) fn hold(&mut self, facts: &mut Facts, fact: Fact) {
        if let Err(reason) = facts.push(fact) {
            self.counters.discard(reason);
        }
    }

    /// A random delay up to [`SILENCE_JITTER`].
    pub(crate) fn jitter(&mut self) -> Duration {
        let most = SILENCE_JITTER.as_millis() as u64;
        Duration::from_millis(self.rng.next_u64() % (most + 1))
    }
}

/// The least time between two ICMP errors: ten in a second help every program that waits, and no flood.
const UNREACHABLE_INTERVAL: Duration = Duration::from_millis(100);
