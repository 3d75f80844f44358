//! Streams between machines and the public host: reliable, ordered, cut anywhere, and breakable.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ginnel_node::{Input, ServerId};
use ginnel_signal_proto::server::ConnectionId;
use ginnel_time::Instant;

use crate::dice::Dice;
use crate::scenario::Weather;
use crate::server;
use crate::world::{Happening, World};

/// What reaches an end of a stream.
pub(crate) enum End {
    /// The server learns of the stream.
    Accepted,
    /// The client learns that it is open.
    Opened,
    /// Bytes for the server.
    Up(Vec<u8>),
    /// Bytes for the client.
    Down(Vec<u8>),
    /// The server learns that the client closed, or is lost.
    Left,
    /// The client learns that the stream is over.
    Broke(&'static str),
}

struct Stream {
    machine: usize,
    epoch: u32,
    server: ServerId,
    /// When the last thing arrives at either end.
    up: Instant,
    down: Instant,
}

pub(crate) struct Streams {
    open: BTreeMap<ConnectionId, Stream>,
    of: BTreeMap<(usize, ServerId), ConnectionId>,
    next: u64,
    dice: Dice,
}

impl Streams {
    pub(crate) fn new(dice: Dice) -> Self {
        Self { open: BTreeMap::new(), of: BTreeMap::new(), next: 0, dice }
    }
}

impl World {
    pub(crate) fn connect(&mut self, machine: usize, server: ServerId) {
        self.streams.next += 1;
        let conn = ConnectionId(self.streams.next);
        let epoch = self.machines[machine].epoch;
        self.streams.of.insert((machine, server), conn);
        self.streams.open.insert(conn, Stream { machine, epoch, server, up: self.now, down: self.now });
        self.send_up(conn, End::Accepted);
        // The client's stream is open after one round trip.
        if let Some(stream) = self.streams.open.get_mut(&conn) {
            stream.down = stream.up;
        }
        self.send_down(conn, End::Opened);
    }

    pub(crate) fn write_up(&mut self, machine: usize, server: ServerId, bytes: Vec<u8>) {
        self.trace.note(self.now, 3, &bytes);
        let Some(conn) = self.streams.of.get(&(machine, server)).copied() else { return };
        for piece in self.cut(bytes) {
            self.send_up(conn, End::Up(piece));
        }
    }

    pub(crate) fn disconnect(&mut self, machine: usize, server: ServerId) {
        if let Some(conn) = self.streams.of.remove(&(machine, server)) {
            self.send_up(conn, End::Left);
        }
    }

    pub(crate) fn write_down(&mut self, conn: ConnectionId, bytes: Vec<u8>) {
        self.trace.note(self.now, 4, &bytes);
        for piece in self.cut(bytes) {
            self.send_down(conn, End::Down(piece));
        }
    }

    pub(crate) fn close_down(&mut self, conn: ConnectionId) {
        self.send_down(conn, End::Broke("the server closed the connection"));
    }

    /// Breaks a stream without a word: either end finds out in its own time.
    pub(crate) fn break_stream(&mut self, conn: ConnectionId) {
        let after = self.streams.dice.millis(0, 5000);
        let later = after + self.streams.dice.millis(0, 10_000);
        self.plan(self.now + after, Happening::Stream { conn, end: End::Broke("the connection was lost") });
        self.plan(self.now + later, Happening::Stream { conn, end: End::Left });
    }

    /// The streams of one machine.
    pub(crate) fn streams_of(&self, machine: usize) -> Vec<ConnectionId> {
        self.streams.open.iter().filter(|(_, stream)| stream.machine == machine).map(|(conn, _)| *conn).collect()
    }

    pub(crate) fn stream(&mut self, conn: ConnectionId, end: End) {
        let now = self.now;
        let Some(stream) = self.streams.open.get(&conn) else { return };
        let (machine, server) = (stream.machine, stream.server);
        let here = self.machines[machine].epoch == stream.epoch;
        let held = here && self.streams.of.get(&(machine, server)) == Some(&conn);
        match end {
            End::Accepted => {
                let setup = &self.machines[machine].setup;
                let from = SocketAddr::new(self.net.public_address(setup.realm, setup.address), 40_000);
                self.host.opened(now, conn, from);
                self.settle_host();
            }
            End::Up(bytes) => {
                self.host.received(now, conn, bytes);
                self.settle_host();
            }
            End::Left => {
                self.host.closed(now, conn);
                self.settle_host();
                self.streams.open.remove(&conn);
            }
            End::Opened if held => {
                let remote = SocketAddr::new(server::ADDRESS, server::STREAM_PORT);
                self.tell_node(machine, Input::ServerOpened { server, remote });
            }
            End::Down(bytes) if held => {
                self.host.flushed(now, conn, bytes.len());
                self.settle_host();
                self.tell_node(machine, Input::ServerBytes { server, bytes });
            }
            End::Broke(reason) if held => {
                self.streams.of.remove(&(machine, server));
                self.tell_node(machine, Input::ServerClosed { server, reason: reason.to_owned() });
            }
            End::Opened | End::Down(_) | End::Broke(_) => {}
        }
    }

    fn tell_node(&mut self, machine: usize, input: Input) {
        self.machines[machine].input(self.now, input);
        self.settle_machine(machine);
    }

    fn send_up(&mut self, conn: ConnectionId, end: End) {
        let delay = self.stream_delay(conn);
        let Some(stream) = self.streams.open.get_mut(&conn) else { return };
        stream.up = stream.up.max(self.now + delay);
        let at = stream.up;
        self.plan(at, Happening::Stream { conn, end });
    }

    fn send_down(&mut self, conn: ConnectionId, end: End) {
        let delay = self.stream_delay(conn);
        let Some(stream) = self.streams.open.get_mut(&conn) else { return };
        stream.down = stream.down.max(self.now) + if matches!(end, End::Opened) { delay } else { Duration::ZERO };
        stream.down = stream.down.max(self.now + delay);
        let at = stream.down;
        self.plan(at, Happening::Stream { conn, end });
    }

    /// One way, and the repetitions that a lossy line costs.
    fn stream_delay(&mut self, conn: ConnectionId) -> Duration {
        let Some(stream) = self.streams.open.get(&conn) else { return Duration::ZERO };
        let setup = &self.machines[stream.machine].setup;
        let line = self.net.line(setup.realm, setup.address);
        let mut delay = line.delay + Duration::from_millis(2);
        while self.weather == Weather::Rough && self.streams.dice.chance(line.loss) {
            delay += Duration::from_millis(200);
        }
        delay
    }

    /// A stream keeps no borders.
    fn cut(&mut self, mut bytes: Vec<u8>) -> Vec<Vec<u8>> {
        if bytes.len() < 2 || !self.streams.dice.chance(150) {
            return vec![bytes];
        }
        let place = usize::try_from(self.streams.dice.between(1, bytes.len() as u64 - 1)).expect("an index fits");
        let rest = bytes.split_off(place);
        vec![bytes, rest]
    }
}
