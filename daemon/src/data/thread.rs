//! The thread's own side: drain until nothing is left, flush, sleep.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use ginnel_forward::{Datagrams, Forward, SendArena, Transmit, TunBatch, WritePlan};
use ginnel_path::{Path, SocketId};
use ginnel_time::Instant;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{DataCommand, DataEvent, Options, Order, Report, ShellCounters, Wake};
use crate::clock;
use crate::sys;
use crate::udp::{SendFailure, Udp};

/// Everything that the thread owns.
pub(super) struct Plane {
    forward: Forward,
    tun: Option<File>,
    sockets: BTreeMap<SocketId, Socket>,
    /// The socket that was read first in the last round; the next one is first in the next.
    first: SocketId,
    /// The ready sockets of one round, in the order of reading.
    turns: Vec<SocketId>,
    batch: TunBatch,
    datagrams: Datagrams,
    plan: WritePlan,
    arena: SendArena,
    orders: Receiver<Order>,
    events: mpsc::Sender<DataEvent>,
    told: Told,
    wake: Arc<Wake>,
    timer: sys::Timer,
    polled: Vec<libc::pollfd>,
    tun_ready: Ready,
    counters: ShellCounters,
}

struct Socket {
    udp: Udp,
    ready: Ready,
    failures: u32,
}

/// Whether something may be read without sleeping first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ready {
    Yes,
    No,
}

/// Whether the thread goes on.
#[derive(PartialEq, Eq)]
enum Flow {
    Go,
    Stop,
}

impl Plane {
    pub(super) fn new(
        options: Options,
        orders: Receiver<Order>,
        events: mpsc::Sender<DataEvent>,
        wake: Arc<Wake>,
    ) -> io::Result<Self> {
        let slot = options.forward.mtu.saturating_add(SLOT_MARGIN).max(LEAST_SLOT);
        Ok(Self {
            forward: Forward::new(options.seed, options.forward),
            tun: options.tun,
            sockets: BTreeMap::new(),
            first: SocketId(0),
            turns: Vec::new(),
            batch: TunBatch::with_capacity(BATCH, slot),
            datagrams: Datagrams::with_capacity(BATCH, slot),
            plan: WritePlan::default(),
            arena: SendArena::default(),
            orders,
            events,
            told: Told::default(),
            wake,
            timer: sys::Timer::new()?,
            polled: Vec::new(),
            tun_ready: Ready::Yes,
            counters: ShellCounters::default(),
        })
    }

    pub(super) fn run(mut self) {
        loop {
            match self.round() {
                Ok(Flow::Go) => {}
                Ok(Flow::Stop) => return,
                Err(error) => {
                    // Only a descriptor table gone wrong leads here; spinning on it would help nobody.
                    tracing::error!("the data thread cannot wait for packets: {error}");
                    return;
                }
            }
        }
    }

    fn round(&mut self) -> io::Result<Flow> {
        self.counters.rounds += 1;
        let now = clock::now();
        if self.take_orders(now) == Flow::Stop {
            self.flush(now);
            return Ok(Flow::Stop);
        }
        self.read_tun(now);
        self.read_sockets(now);
        if self.forward.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.forward.handle_timeout(now, &mut self.arena);
        }
        self.flush(now);
        let offered = self.offer_events();
        if self.is_drained() {
            self.sleep(now, offered)?;
        } else {
            // One that never runs dry must not keep the thread from seeing that the others have something, too.
            self.look(Some(Duration::ZERO))?;
        }
        Ok(Flow::Go)
    }

    fn take_orders(&mut self, now: Instant) -> Flow {
        for _ in 0..ORDERS_PER_ROUND {
            match self.orders.try_recv() {
                Ok(Order::Command(command)) => self.command(now, command),
                Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return Flow::Stop,
                Err(TryRecvError::Empty) => return Flow::Go,
            }
        }
        // More may wait: look again after this round.
        self.wake.wake();
        Flow::Go
    }

    fn command(&mut self, now: Instant, command: DataCommand) {
        match command {
            DataCommand::Forward(command) => {
                self.forward.handle_command(now, command, &mut self.plan, &mut self.arena);
                if self.arena.len() >= BATCH {
                    self.flush(now);
                }
            }
            DataCommand::AddSocket { id, socket } => {
                self.sockets.insert(id, Socket { udp: socket, ready: Ready::Yes, failures: 0 });
            }
            DataCommand::RemoveSocket { id } => {
                // What was ordered before may still be meant for it.
                self.flush(now);
                self.sockets.remove(&id);
            }
            DataCommand::SetTun(tun) => {
                self.tun = tun;
                self.tun_ready = Ready::Yes;
            }
            DataCommand::Report { peers, answer } => {
                let peers = peers.into_iter().filter_map(|peer| Some((peer, self.forward.peer_counters(peer)?)));
                let report = Report { forward: self.forward.counters(), shell: self.counters, peers: peers.collect() };
                // Whoever asked may have gone.
                let _ = answer.send(report);
            }
        }
    }

    fn read_tun(&mut self, now: Instant) {
        if self.tun_ready == Ready::No {
            return;
        }
        let Some(mut tun) = self.tun.as_ref() else {
            self.tun_ready = Ready::No;
            return;
        };
        let mut lost = None;
        while let Some(slot) = self.batch.slot() {
            let room = slot.len();
            match tun.read(slot) {
                // A packet that fills its buffer has lost its end.
                Ok(length) if length == room => self.counters.tun_too_long += 1,
                Ok(length) => self.batch.commit(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.tun_ready = Ready::No;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    lost = Some(error.to_string());
                    break;
                }
            }
        }
        if let Some(error) = lost {
            self.tun = None;
            self.tun_ready = Ready::No;
            self.told.fact(DataEvent::TunLost { error });
        }
        if !self.batch.is_empty() {
            self.forward.handle_tun(now, &mut self.batch, &mut self.plan, &mut self.arena);
        }
    }

    /// Reads a batch from the sockets that are ready. Each is first in its turn, and none takes more than half of the
    /// batch while others wait.
    fn read_sockets(&mut self, now: Instant) {
        let mut lost = Vec::new();
        self.take_turns();
        let share = if self.turns.len() > 1 { BATCH / 2 } else { BATCH };
        for id in &self.turns {
            let Some(socket) = self.sockets.get_mut(id) else { continue };
            let end = self.datagrams.len() + share;
            while self.datagrams.len() < end
                && let Some(slot) = self.datagrams.slot()
            {
                match socket.udp.receive(slot) {
                    Ok(Some((length, from))) => {
                        socket.failures = 0;
                        self.datagrams.commit(*id, from, length);
                    }
                    Ok(None) => {
                        socket.ready = Ready::No;
                        break;
                    }
                    Err(error) => {
                        self.counters.receive_failed += 1;
                        socket.failures += 1;
                        socket.ready = Ready::No;
                        if socket.failures >= FAILURES {
                            lost.push((*id, error.to_string()));
                        }
                        break;
                    }
                }
            }
        }
        for (id, error) in lost {
            self.sockets.remove(&id);
            self.told.fact(DataEvent::SocketLost { id, error });
        }
        if !self.datagrams.is_empty() {
            self.forward.handle_datagrams(now, &mut self.datagrams, &mut self.plan, &mut self.arena);
        }
    }

    fn take_turns(&mut self) {
        self.turns.clear();
        let ready = self.sockets.iter().filter(|(_, socket)| socket.ready == Ready::Yes);
        self.turns.extend(ready.map(|(id, _)| *id));
        let next = self.turns.partition_point(|id| *id <= self.first);
        // At the end of the ring the first comes again.
        let next = if next == self.turns.len() { 0 } else { next };
        self.turns.rotate_left(next);
        if let Some(first) = self.turns.first() {
            self.first = *first;
        }
    }

    /// Writes what forward has planned, to the TUN and to the sockets.
    fn flush(&mut self, now: Instant) {
        if !self.plan.is_empty() {
            if let Some(mut tun) = self.tun.as_ref() {
                for packet in self.plan.iter() {
                    // A TUN never takes a part. It refuses what is no IP packet, and everything while it is down.
                    if tun.write(packet).is_err() {
                        self.counters.tun_write_failed += 1;
                    }
                }
            }
            self.plan.clear();
        }
        if self.arena.is_empty() {
            return;
        }
        for transmit in self.arena.iter() {
            let Some(socket) = self.sockets.get(&transmit.socket) else {
                self.counters.send_unknown_socket += 1;
                continue;
            };
            match send(&socket.udp, &transmit) {
                Ok(()) => {}
                Err(SendFailure::Full) => self.counters.send_full += 1,
                Err(failure) => {
                    self.counters.send_failed += 1;
                    self.told.send_failed(now, transmit.path, failure);
                }
            }
        }
        self.arena.clear();
    }

    /// Tells as much as the daemon takes. An event leaves forward only when there is room for it.
    fn offer_events(&mut self) -> Offered {
        loop {
            let permit = match self.events.try_reserve() {
                Ok(permit) => permit,
                Err(TrySendError::Full(())) => return Offered::ChannelFull,
                // The daemon is going; its order to stop is on its way.
                Err(TrySendError::Closed(())) => {
                    self.told.queue.clear();
                    while self.forward.poll_event().is_some() {}
                    return Offered::All;
                }
            };
            match self.told.queue.pop_front().or_else(|| self.forward.poll_event().map(DataEvent::Forward)) {
                Some(event) => permit.send(event),
                None => return Offered::All,
            }
        }
    }

    fn is_drained(&self) -> bool {
        self.tun_ready == Ready::No && self.sockets.values().all(|socket| socket.ready == Ready::No)
    }

    fn sleep(&mut self, now: Instant, offered: Offered) -> io::Result<()> {
        let deadline = match (self.forward.poll_timeout(), offered) {
            (deadline, Offered::All) => deadline,
            // Events that wait make forward's deadline the present; the daemon needs time to take some.
            (deadline, Offered::ChannelFull) => Some(deadline.unwrap_or(now).max(now + OFFER_AGAIN)),
        };
        self.timer.set(deadline)?;
        self.look(None)
    }

    /// Learns what may be read, once something may be or `wait` is over.
    fn look(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.polled.clear();
        let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        self.polled.extend([entry(self.wake.event.fd()), entry(self.timer.fd())]);
        // A negative descriptor is passed over, and keeps the places of the others.
        self.polled.push(entry(self.tun.as_ref().map_or(-1, |tun| tun.as_raw_fd())));
        self.polled.extend(self.sockets.values().map(|socket| entry(socket.udp.fd())));
        sys::poll(&mut self.polled, wait)?;
        let mut ready = self.polled.iter().map(|entry| if entry.revents == 0 { Ready::No } else { Ready::Yes });
        if ready.next() == Some(Ready::Yes) {
            self.wake.clear();
        }
        // The timer is read by comparing clocks.
        ready.next();
        self.tun_ready = ready.next().unwrap_or(Ready::No);
        for (socket, ready) in self.sockets.values_mut().zip(ready) {
            socket.ready = ready;
        }
        Ok(())
    }
}

/// How far telling got.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Offered {
    All,
    ChannelFull,
}

/// What the thread itself has to tell.
#[derive(Default)]
struct Told {
    queue: VecDeque<DataEvent>,
    failed: BTreeMap<Path, Instant>,
}

impl Told {
    /// Queues what must not be lost: there is one for each socket and one for the TUN.
    fn fact(&mut self, event: DataEvent) {
        self.queue.push_back(event);
    }

    /// Queues a failed send unless the same path's was told a moment ago.
    fn send_failed(&mut self, now: Instant, path: Path, failure: SendFailure) {
        if self.failed.get(&path).is_some_and(|told| now.saturating_duration_since(*told) < TELL_AGAIN) {
            return;
        }
        if self.failed.len() >= PATHS {
            self.failed.retain(|_, told| now.saturating_duration_since(*told) < TELL_AGAIN);
            if self.failed.len() >= PATHS {
                return;
            }
        }
        self.failed.insert(path, now);
        if self.queue.len() >= QUEUE {
            let oldest = self.queue.iter().position(|event| matches!(event, DataEvent::SendFailed { .. }));
            if let Some(oldest) = oldest {
                self.queue.remove(oldest);
            }
        }
        self.queue.push_back(DataEvent::SendFailed { path, failure });
    }
}

/// Sends one datagram, or a run of them. A full queue is given some time to drain, which holds back the TUN's readers
/// as a full network would.
fn send(socket: &Udp, transmit: &Transmit<'_>) -> Result<(), SendFailure> {
    let size = transmit.segment_size.map_or(transmit.contents.len(), usize::from).max(1);
    for datagram in transmit.contents.chunks(size) {
        match socket.send(transmit.to, transmit.ttl, datagram) {
            Err(SendFailure::Full) => {
                let mut polled = [libc::pollfd { fd: socket.fd(), events: libc::POLLOUT, revents: 0 }];
                // A failed wait is followed by a failed send.
                let _ = sys::poll(&mut polled, Some(FULL_WAIT));
                socket.send(transmit.to, transmit.ttl, datagram)?;
            }
            result => result?,
        }
    }
    Ok(())
}

/// Packets read in one go from the TUN, and from all sockets.
const BATCH: usize = 64;
/// A datagram's 32 bytes around a packet, WireGuard's padding, ChannelData's header, and one to see a cut.
const SLOT_MARGIN: usize = 64;
const LEAST_SLOT: usize = 2048;
/// Orders carried out before packets have their turn.
const ORDERS_PER_ROUND: usize = 256;
/// Failures to receive, one after the other, that make a socket a lost one.
const FAILURES: u32 = 64;
const OFFER_AGAIN: Duration = Duration::from_millis(10);
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// Paths whose failures are remembered.
const PATHS: usize = 256;
/// Failed sends that wait to be told.
const QUEUE: usize = 64;
const FULL_WAIT: Duration = Duration::from_millis(5);
