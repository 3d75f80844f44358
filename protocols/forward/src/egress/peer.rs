//! One peer as [`Egress`](crate::Egress) sees it: what to seal with, where to send, and what waits.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_path::message::Echo;
use ginnel_path::{Path, SocketId};
use ginnel_time::Instant;
use ginnel_tunnel::{HEADROOM, Metadata, ReceiverIndex, SealError, Side, TAILROOM};
use ginnel_turn::channel_data;

use super::Shared;
use super::duplication::{Copies, Duplication};
use crate::buffer::SendArena;
use crate::command::PeerId;
use crate::config::{ECHO_TIME, SESSION_WANTED_INTERVAL, TRAFFIC_INTERVAL};
use crate::counters::{Discard, PeerCounters};
use crate::event::{Received, RekeyReason, Wear};
use crate::fact::{Fact, Facts, HasFacts};
use crate::pending::Pending;
use crate::relay::Target;
use crate::schedule::{Armed, earlier};
use crate::session::{Aged, SendSession};
use crate::timer::{Due, Timers};

/// The state of one peer.
pub(crate) struct Peer {
    id: PeerId,
    pub(crate) armed: Armed,
    pub(crate) facts: Facts,
    pub(crate) timers: Timers,
    pub(crate) counters: PeerCounters,
    /// The addresses of this machine that the peer may be spoken with by; every one when `None`.
    pub(crate) own: Option<Vec<IpAddr>>,
    /// Seals what goes out.
    current: Option<Aged<SendSession>>,
    /// Ours as responder: seals nothing before the initiator has shown that it has the keys.
    next: Option<Aged<SendSession>>,
    /// We are the initiator of `current` and have sent nothing on it: the responder waits for a first packet.
    confirm: bool,
    primary: Option<Path>,
    backup: Option<Path>,
    duplication: Duplication,
    pending: Pending,
    /// A probe that arrived before we could seal.
    held_probe: Option<HeldProbe>,
    rekey_quiet_until: Instant,
    wanted_quiet_until: Instant,
    sent_quiet_until: Instant,
    received_quiet_until: Instant,
}

struct HeldProbe {
    path: Path,
    id: u64,
    until: Instant,
}

/// What a sealed datagram holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payload {
    Data,
    Control,
    Keepalive,
}

impl HasFacts for Peer {
    fn id(&self) -> PeerId {
        self.id
    }

    fn facts(&mut self) -> &mut Facts {
        &mut self.facts
    }
}

impl Peer {
    pub(crate) fn new(id: PeerId) -> Self {
        Self {
            id,
            armed: Armed::default(),
            facts: Facts::default(),
            timers: Timers::default(),
            counters: PeerCounters::default(),
            own: None,
            current: None,
            next: None,
            confirm: false,
            primary: None,
            backup: None,
            duplication: Duplication::Off,
            pending: Pending::default(),
            held_probe: None,
            rekey_quiet_until: Instant::ZERO,
            wanted_quiet_until: Instant::ZERO,
            sent_quiet_until: Instant::ZERO,
            received_quiet_until: Instant::ZERO,
        }
    }

    /// Sends an IP packet, or keeps it until there are a session and a path.
    #[inline]
    pub(crate) fn send_data(&mut self, now: Instant, packet: &[u8], cx: &mut Shared, arena: &mut SendArena) {
        if now >= self.sent_quiet_until {
            self.sent_quiet_until = now + TRAFFIC_INTERVAL;
            cx.hold(&mut self.facts, Fact::Sent);
        }
        if let Some(path) = self.data_path(now, cx) {
            match self.seal(now, Payload::Data, packet, (path, None), cx, arena) {
                Ok(()) => return,
                Err(Discard::KeyExhausted) => {}
                Err(reason) => return cx.counters.discard(reason),
            }
        }
        let dropped = self.pending.push(now, packet, &mut cx.spares);
        cx.counters.discard_many(Discard::PendingFull, dropped);
        if !self.has_session(now, cx) {
            self.want_session(now, cx);
        }
    }

    /// Sends a control message.
    pub(crate) fn send_control(
        &mut self,
        now: Instant,
        plaintext: &[u8],
        way: (Option<Path>, Option<u8>),
        cx: &mut Shared,
        arena: &mut SendArena,
    ) -> Result<(), Discard> {
        let path = way.0.or(self.primary).ok_or(Discard::NoSession)?;
        self.seal(now, Payload::Control, plaintext, (path, way.1), cx, arena)
    }

    /// Answers a probe on the path it came by, or holds it for a moment.
    pub(crate) fn answer_probe(&mut self, now: Instant, path: Path, id: u64, cx: &mut Shared, arena: &mut SendArena) {
        let echo = Echo { id, observed: path.remote, relayed: path.is_relayed() };
        match self.seal(now, Payload::Control, &echo.to_bytes(), (path, None), cx, arena) {
            Ok(()) => cx.counters.echoes += 1,
            Err(Discard::NoSession) => {
                let held = HeldProbe { path, id, until: now + ECHO_TIME };
                if self.held_probe.replace(held).is_some() {
                    cx.counters.discard(Discard::FactFull);
                }
            }
            Err(reason) => cx.counters.discard(reason),
        }
    }

    pub(crate) fn install(&mut self, now: Instant, mut session: SendSession, cx: &mut Shared, arena: &mut SendArena) {
        session.sealer.set_mtu(cx.config.mtu);
        let session = Aged { session, since: now };
        match session.session.side {
            Side::Initiator => {
                self.next = None;
                self.confirm = true;
                self.become_current(now, session, cx, arena);
            }
            Side::Responder => self.next = Some(session),
        }
    }

    pub(crate) fn confirmed(&mut self, now: Instant, index: ReceiverIndex, cx: &mut Shared, arena: &mut SendArena) {
        if let Some(next) = self.next.take_if(|next| next.session.index == index) {
            self.confirm = false;
            self.become_current(now, next, cx, arena);
        }
    }

    pub(crate) fn forget(&mut self, index: ReceiverIndex) {
        self.current.take_if(|session| session.session.index == index);
        self.next.take_if(|session| session.session.index == index);
    }

    pub(crate) fn set_path(
        &mut self,
        now: Instant,
        paths: (Option<Path>, Option<Path>),
        copies: Copies,
        cx: &mut Shared,
        arena: &mut SendArena,
    ) {
        (self.primary, self.backup) = paths;
        self.duplication.ask(now, copies);
        self.flush(now, cx, arena);
    }

    /// Moves the endpoint of a stock WireGuard peer.
    pub(crate) fn roamed(&mut self, now: Instant, path: Path, cx: &mut Shared, arena: &mut SendArena) {
        self.primary = Some(path);
        self.flush(now, cx, arena);
    }

    pub(crate) fn received(&mut self, now: Instant, what: Received, wear: Wear, cx: &mut Shared) {
        self.timers.received(now);
        if what == Received::Data {
            self.timers.data_received(now, &cx.config);
            if now >= self.received_quiet_until {
                self.received_quiet_until = now + TRAFFIC_INTERVAL;
                cx.hold(&mut self.facts, Fact::Received);
            }
        }
        if wear == Wear::Worn {
            self.rekey(now, RekeyReason::Count, cx);
        }
        let last_minute = cx.config.last_minute();
        if self.current.as_ref().is_some_and(|s| s.session.side == Side::Initiator && s.age(now) >= last_minute) {
            self.rekey(now, RekeyReason::LastMinute, cx);
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, cx: &mut Shared, arena: &mut SendArena) {
        let reject_after = cx.config.reject_after_time;
        self.current.take_if(|session| session.age(now) >= reject_after);
        self.next.take_if(|session| session.age(now) >= reject_after);
        let expired = self.pending.expire(now, &mut cx.spares);
        cx.counters.discard_many(Discard::PendingExpired, expired);
        if self.held_probe.take_if(|probe| probe.until <= now).is_some() {
            cx.counters.discard(Discard::NoSession);
        }
        while let Some(due) = self.timers.take_due(now, &cx.config) {
            match due {
                Due::Silence => self.rekey(now, RekeyReason::Silence, cx),
                Due::Persistent if !self.has_session(now, cx) => self.want_session(now, cx),
                Due::Keepalive | Due::Persistent => self.keepalive(now, cx, arena),
            }
        }
    }

    pub(crate) fn deadline(&self, reject_after: Duration) -> Option<Instant> {
        let end = |session: &Option<Aged<SendSession>>| session.as_ref().map(|session| session.since + reject_after);
        let sessions = earlier(end(&self.current), end(&self.next));
        let waiting = earlier(self.pending.deadline(), self.held_probe.as_ref().map(|probe| probe.until));
        earlier(earlier(sessions, waiting), self.timers.deadline())
    }

    pub(crate) fn waiting(&self) -> usize {
        self.pending.len()
    }

    fn become_current(&mut self, now: Instant, session: Aged<SendSession>, cx: &mut Shared, arena: &mut SendArena) {
        self.current = Some(session);
        self.counters.last_handshake = Some(now);
        self.rekey_quiet_until = now;
        self.facts.retract(&Fact::RekeyDue(RekeyReason::Age));
        self.facts.retract(&Fact::SessionWanted);
        if let Some(probe) = self.held_probe.take() {
            self.answer_probe(now, probe.path, probe.id, cx, arena);
        }
        self.flush(now, cx, arena);
    }

    /// Sends what waits, as far as there are a session and a path for it.
    fn flush(&mut self, now: Instant, cx: &mut Shared, arena: &mut SendArena) {
        for _ in 0..self.pending.len() {
            if self.data_path(now, cx).is_none() {
                break;
            }
            let Some(packet) = self.pending.pop() else { break };
            self.send_data(now, &packet, cx, arena);
            cx.spares.give(packet);
        }
        if self.confirm {
            self.keepalive(now, cx, arena);
        }
    }

    fn keepalive(&mut self, now: Instant, cx: &mut Shared, arena: &mut SendArena) {
        let Some(path) = self.data_path(now, cx) else { return };
        match self.seal(now, Payload::Keepalive, &[], (path, None), cx, arena) {
            Ok(()) => cx.counters.keepalives_sent += 1,
            Err(reason) => cx.counters.discard(reason),
        }
    }

    /// The primary path, while there is a session to send on.
    #[inline]
    fn data_path(&self, now: Instant, cx: &Shared) -> Option<Path> {
        self.primary.filter(|_| self.has_session(now, cx))
    }

    #[inline]
    fn has_session(&self, now: Instant, cx: &Shared) -> bool {
        self.current.as_ref().is_some_and(|session| session.age(now) < cx.config.reject_after_time)
    }

    /// Seals one datagram and sends it.
    fn seal(
        &mut self,
        now: Instant,
        payload: Payload,
        bytes: &[u8],
        (path, ttl): (Path, Option<u8>),
        cx: &mut Shared,
        arena: &mut SendArena,
    ) -> Result<(), Discard> {
        if !self.has_session(now, cx) {
            return Err(Discard::NoSession);
        }
        let session = self.current.as_mut().ok_or(Discard::NoSession)?;
        if bytes.len() > MAX_PACKET {
            return Err(Discard::TooLong);
        }
        let backup = self.backup.filter(|backup| payload == Payload::Data && *backup != path);
        let second = backup.filter(|_| self.duplication.admits(now, bytes.len() + HEADROOM + TAILROOM));
        let second = second.and_then(|backup| Some((backup, cx.relays.target(backup).ok()?)));
        let first = cx.relays.target(path);
        if second.is_none() {
            first?;
        }

        let (start, room) = arena.room(LEAD + HEADROOM + bytes.len() + TAILROOM);
        room[LEAD + HEADROOM..][..bytes.len()].copy_from_slice(bytes);
        let len = match session.session.sealer.seal(Metadata::NONE, &mut room[LEAD..], bytes.len()) {
            Ok(len) => len,
            Err(SealError::Exhausted) => {
                self.current = None;
                return Err(Discard::KeyExhausted);
            }
            Err(_) => return Err(Discard::TooLong),
        };
        let mut start = start + LEAD;
        arena.keep(start + len);
        let mut sent = 0;
        if let Ok(target) = first {
            transmit(arena, (path, target), ttl, start, len);
            sent += 1;
        }
        if let Some((backup, target)) = second {
            if target.channel.is_some() && first.is_ok_and(|first| first.channel.is_some()) {
                start = arena.copy(start..start + len, LEAD);
            }
            transmit(arena, (backup, target), ttl, start, len);
            self.duplication.spend(len);
            cx.counters.duplicated += 1;
            sent += 1;
        }
        cx.counters.datagrams_sent += sent;
        self.counters.tx_packets += sent;
        self.counters.tx_bytes += sent * len as u64;
        self.sealed(now, payload, cx);
        Ok(())
    }

    /// Keeps the books after a datagram was sealed.
    #[inline]
    fn sealed(&mut self, now: Instant, payload: Payload, cx: &mut Shared) {
        self.confirm = false;
        self.counters.last_sent = Some(now);
        self.timers.sent(now);
        if payload == Payload::Data {
            self.counters.tx_data_packets += 1;
            if !self.timers.silence_runs() {
                let silence = cx.config.silence() + cx.jitter();
                self.timers.data_sent(now, silence);
            }
        }
        let Some(session) = &self.current else { return };
        if session.session.sealer.rekey_due() {
            self.rekey(now, RekeyReason::Count, cx);
        } else if session.session.side == Side::Initiator && session.age(now) >= cx.config.rekey_after_time {
            self.rekey(now, RekeyReason::Age, cx);
        }
    }

    fn rekey(&mut self, now: Instant, why: RekeyReason, cx: &mut Shared) {
        if now >= self.rekey_quiet_until {
            self.rekey_quiet_until = now + cx.config.rekey_timeout;
            cx.hold(&mut self.facts, Fact::RekeyDue(why));
        }
    }

    fn want_session(&mut self, now: Instant, cx: &mut Shared) {
        if now >= self.wanted_quiet_until {
            self.wanted_quiet_until = now + SESSION_WANTED_INTERVAL;
            cx.hold(&mut self.facts, Fact::SessionWanted);
        }
    }
}

/// Adds a send of the datagram at `start`, which has [`LEAD`] free bytes before it for ChannelData's header.
pub(crate) fn transmit(
    arena: &mut SendArena,
    (path, target): (Path, Target),
    ttl: Option<u8>,
    start: usize,
    len: usize,
) {
    let to: (SocketId, SocketAddr) = (target.socket, target.to);
    let Some(channel) = target.channel else { return arena.send(path, to, ttl, start..start + len) };
    let header = channel_data::encode_header(channel, len).expect("datagrams are shorter than 64 KiB");
    arena.bytes_mut(start - LEAD..start).copy_from_slice(&header);
    arena.send(path, to, ttl, start - LEAD..start + len);
}

/// Bytes before each datagram for ChannelData's header.
pub(crate) const LEAD: usize = channel_data::HEADER_LEN;
/// The longest packet that fits a UDP datagram with all that is added to it.
pub(crate) const MAX_PACKET: usize = MAX_DATAGRAM - LEAD - HEADROOM - TAILROOM;
/// The longest UDP payload over IPv4.
pub(crate) const MAX_DATAGRAM: usize = 65_507;
