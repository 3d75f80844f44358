//! Streams to signaling servers, of machines and of fellow servers: reliable, ordered, cut anywhere, and breakable.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_node::{Input, ServerId};
use ginnel_signal_proto::server::{ConnectionId, Input as HostInput, LinkId};
use ginnel_time::Instant;

use crate::dice::Dice;
use crate::intruder;
use crate::machine::Life;
use crate::net::Realm;
use crate::server;
use crate::world::{Happening, World};

/// Who opened a stream, and what it calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Caller {
    /// A member's machine.
    Machine(usize, ServerId),
    /// A signaling server that talks to a fellow.
    Host(usize, LinkId),
    /// Somebody who is in no network, and which try it is.
    Intruder(u32),
}

/// What a caller learns of its stream.
pub(crate) enum Told {
    Opened(SocketAddr),
    Bytes(Vec<u8>),
    Closed(&'static str),
}

/// What reaches an end of a stream.
#[derive(Debug)]
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
    /// Either end has heard nothing of the other for as long as it waits.
    Idle,
}

struct Stream {
    caller: Caller,
    epoch: u32,
    host: usize,
    /// When the last thing arrives at either end.
    up: Instant,
    down: Instant,
    /// What waits for the line to mend, in order.
    held: Vec<End>,
    /// Whether it carries nothing any more, though neither end has been told.
    hangs: bool,
    over: Over,
}

/// Which ends know that a stream is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    No,
    Client,
    Server,
    Both,
}

impl Over {
    const fn client(self) -> Self {
        match self {
            Self::No | Self::Client => Self::Client,
            Self::Server | Self::Both => Self::Both,
        }
    }

    const fn server(self) -> Self {
        match self {
            Self::No | Self::Server => Self::Server,
            Self::Client | Self::Both => Self::Both,
        }
    }
}

pub(crate) struct Streams {
    open: BTreeMap<ConnectionId, Stream>,
    of: BTreeMap<Caller, ConnectionId>,
    next: u64,
    dice: Dice,
}

impl Streams {
    pub(crate) fn new(dice: Dice) -> Self {
        Self { open: BTreeMap::new(), of: BTreeMap::new(), next: 0, dice }
    }

    /// Streams that either end holds.
    pub(crate) fn count(&self) -> usize {
        self.open.len()
    }
}

impl World {
    pub(crate) fn connect(&mut self, caller: Caller, addresses: &[String]) {
        let parsed = addresses.iter().filter_map(|text| text.parse::<SocketAddr>().ok());
        let host = parsed.filter_map(|addr| self.host_at(addr.ip())).next().map(|host| self.face(caller, host));
        self.streams.next += 1;
        let conn = ConnectionId(self.streams.next);
        let epoch = self.epoch_of(caller);
        self.streams.of.insert(caller, conn);
        let reached = host.filter(|host| self.hosts[*host].is_up() && self.line_holds(caller, *host));
        let reached = reached.filter(|_| !self.is_aloof(caller));
        let stream = Stream {
            caller,
            epoch,
            host: host.unwrap_or(0),
            up: self.now,
            down: self.now,
            held: Vec::new(),
            hangs: false,
            over: Over::No,
        };
        self.streams.open.insert(conn, stream);
        if reached.is_none() {
            self.never_accepted(conn);
            return;
        }
        self.send_up(conn, End::Accepted);
        // The client's stream is open after one round trip.
        if let Some(stream) = self.streams.open.get_mut(&conn) {
            stream.down = stream.up;
        }
        self.send_down(conn, End::Opened);
    }

    pub(crate) fn write_up(&mut self, caller: Caller, bytes: Vec<u8>) {
        self.trace.note(self.now, 3, &bytes);
        let Some(conn) = self.streams.of.get(&caller).copied() else { return };
        if let (Some(stream), Caller::Machine(..)) = (self.streams.open.get(&conn), caller) {
            self.heard.overhear(conn, stream.host, &bytes);
        }
        for piece in self.cut(bytes) {
            self.send_up(conn, End::Up(piece));
        }
    }

    pub(crate) fn disconnect(&mut self, caller: Caller) {
        if let Some(conn) = self.streams.of.remove(&caller) {
            if let Some(stream) = self.streams.open.get_mut(&conn) {
                stream.over = stream.over.client();
            }
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
        self.over_for_server(conn);
        self.send_down(conn, End::Broke("the server closed the connection"));
    }

    /// Breaks a stream without a word: either end finds out in its own time.
    pub(crate) fn break_stream(&mut self, conn: ConnectionId) {
        // Half of the ends see a reset, the others only silence.
        let longest = if self.streams.dice.chance(500) { 5 } else { IDLE.as_secs() };
        let after = self.streams.dice.time(Duration::ZERO, Duration::from_secs(longest));
        let later = after + self.streams.dice.millis(0, 10_000);
        self.plan(self.now + after, Happening::Stream { conn, end: End::Broke("the connection was lost") });
        self.plan(self.now + later, Happening::Stream { conn, end: End::Left });
    }

    /// Lets a stream carry nothing from here on, and break as [`Self::break_stream`] says.
    pub(crate) fn hang_stream(&mut self, conn: ConnectionId) {
        if let Some(stream) = self.streams.open.get_mut(&conn) {
            stream.hangs = true;
        }
        self.break_stream(conn);
    }

    /// Whether a server holds a caller's stream.
    pub(crate) fn is_held(&self, caller: Caller, host: usize) -> bool {
        self.streams.of.get(&caller).is_some_and(|conn| self.hosts[host].holds(*conn))
    }

    /// The streams of one machine.
    pub(crate) fn streams_of(&self, machine: usize) -> Vec<ConnectionId> {
        self.streams_by(|caller| matches!(caller, Caller::Machine(own, _) if own == machine))
    }

    /// The streams that one server has opened to its fellows.
    pub(crate) fn links_of(&self, host: usize) -> Vec<ConnectionId> {
        self.streams_by(|caller| matches!(caller, Caller::Host(own, _) if own == host))
    }

    /// The streams to one server, and who opened them.
    pub(crate) fn streams_to(&self, host: usize) -> Vec<(ConnectionId, Caller)> {
        let open = self.streams.open.iter().filter(|(_, stream)| stream.host == host);
        open.map(|(conn, stream)| (*conn, stream.caller)).collect()
    }

    fn streams_by(&self, fits: impl Fn(Caller) -> bool) -> Vec<ConnectionId> {
        self.streams.open.iter().filter(|(_, stream)| fits(stream.caller)).map(|(conn, _)| *conn).collect()
    }

    /// Looks again at every stream after lines or machines have changed: those that cannot carry anything are given up in
    /// a while, and the others carry what waited.
    pub(crate) fn review_streams(&mut self) {
        let all: Vec<ConnectionId> = self.streams.open.keys().copied().collect();
        for conn in all {
            if !self.carries(conn) {
                self.plan(self.now + IDLE, Happening::Stream { conn, end: End::Idle });
                continue;
            }
            let held = self.streams.open.get_mut(&conn).map(|stream| std::mem::take(&mut stream.held));
            for end in held.into_iter().flatten() {
                if matches!(end, End::Accepted | End::Up(_) | End::Left) {
                    self.send_up(conn, end);
                } else {
                    self.send_down(conn, end);
                }
            }
        }
    }

    pub(crate) fn stream(&mut self, conn: ConnectionId, end: End) {
        let now = self.now;
        let Some(stream) = self.streams.open.get(&conn) else { return };
        let (caller, host) = (stream.caller, stream.host);
        let here = self.epoch_of(caller) == stream.epoch;
        let held = here && self.streams.of.get(&caller) == Some(&conn);
        let for_client = matches!(end, End::Opened | End::Down(_) | End::Broke(_));
        if let Caller::Machine(machine, _) = caller
            && for_client
            && here
            && self.machines[machine].life == Life::Asleep
        {
            self.frozen[machine].push(Happening::Stream { conn, end });
            return;
        }
        match end {
            End::Accepted => self.accept(conn, caller, host),
            End::Up(bytes) => {
                self.hosts[host].received(now, conn, bytes);
                self.settle_host(host);
            }
            End::Left => self.left(conn, host),
            End::Opened if held => {
                let remote = SocketAddr::new(self.hosts[host].address(), server::STREAM_PORT);
                self.tell_caller(caller, Told::Opened(remote));
            }
            End::Down(bytes) if held => {
                self.hosts[host].flushed(now, conn, bytes.len());
                self.settle_host(host);
                self.tell_caller(caller, Told::Bytes(bytes));
            }
            End::Broke(reason) => {
                self.broke(conn);
                if held {
                    self.streams.of.remove(&caller);
                    self.tell_caller(caller, Told::Closed(reason));
                }
            }
            End::Idle => {
                if !self.carries(conn) {
                    self.stream(conn, End::Broke("the connection timed out"));
                    self.plan(now, Happening::Stream { conn, end: End::Left });
                }
            }
            End::Opened | End::Down(_) => {}
        }
    }

    /// Lets a server learn of a stream to it, if it is there.
    fn accept(&mut self, conn: ConnectionId, caller: Caller, host: usize) {
        if !self.hosts[host].is_up() {
            return self.never_accepted(conn);
        }
        let from = SocketAddr::new(self.address_of(caller), 40_000);
        self.hosts[host].opened(self.now, conn, from);
        self.settle_host(host);
    }

    /// Lets a server learn that a stream to it is over.
    fn left(&mut self, conn: ConnectionId, host: usize) {
        self.hosts[host].closed(self.now, conn);
        self.settle_host(host);
        self.over_for_server(conn);
        self.forget_stream(conn);
    }

    /// Notes that the client's end is over; the server finds out in its own time.
    fn broke(&mut self, conn: ConnectionId) {
        if let Some(stream) = self.streams.open.get_mut(&conn) {
            stream.over = stream.over.client();
            if stream.over == Over::Client {
                self.plan(self.now + IDLE, Happening::Stream { conn, end: End::Left });
            }
        }
        self.forget_stream(conn);
    }

    /// Lets a caller give up a stream in a while that no server has heard of, and none holds.
    fn never_accepted(&mut self, conn: ConnectionId) {
        self.over_for_server(conn);
        self.plan(self.now + GIVES_UP, Happening::Stream { conn, end: End::Broke("nobody answered") });
    }

    fn over_for_server(&mut self, conn: ConnectionId) {
        if let Some(stream) = self.streams.open.get_mut(&conn) {
            stream.over = stream.over.server();
        }
    }

    /// Forgets a stream once nobody waits for anything of it.
    fn forget_stream(&mut self, conn: ConnectionId) {
        let Some(stream) = self.streams.open.get(&conn) else { return };
        let gone = self.epoch_of(stream.caller) != stream.epoch;
        if stream.over == Over::Both || (stream.over == Over::Server && gone) {
            self.streams.open.remove(&conn);
        }
    }

    /// Whether anything passes between a caller and a signaling server.
    fn line_holds(&self, caller: Caller, host: usize) -> bool {
        let public = self.address_of(caller);
        let there = self.hosts[host].address();
        self.net.passes(public, there) && self.net.passes(there, public)
    }

    /// The last address that a machine has on its way to the internet.
    pub(crate) fn public_address(&self, machine: usize) -> IpAddr {
        let setup = &self.machines[machine].setup;
        self.net.public_address(setup.realm, setup.address)
    }

    fn carries(&self, conn: ConnectionId) -> bool {
        self.streams.open.get(&conn).is_some_and(|stream| {
            let lives = match stream.caller {
                Caller::Machine(machine, _) => self.machines[machine].life == Life::Awake,
                Caller::Host(host, _) => self.hosts[host].is_up(),
                Caller::Intruder(_) => true,
            };
            lives && !stream.hangs && self.line_holds(stream.caller, stream.host)
        })
    }

    fn host_at(&self, address: IpAddr) -> Option<usize> {
        (0..self.hosts.len()).find(|host| self.hosts[*host].address() == address)
    }

    /// The address that a server sees of a caller.
    fn address_of(&self, caller: Caller) -> IpAddr {
        match caller {
            Caller::Machine(machine, _) => self.public_address(machine),
            Caller::Host(host, _) => self.hosts[host].address(),
            Caller::Intruder(_) => intruder::ADDRESS,
        }
    }

    fn epoch_of(&self, caller: Caller) -> u32 {
        match caller {
            Caller::Machine(machine, _) => self.machines[machine].epoch,
            Caller::Host(host, _) => self.hosts[host].epoch,
            Caller::Intruder(_) => 0,
        }
    }

    fn tell_caller(&mut self, caller: Caller, told: Told) {
        match caller {
            Caller::Machine(machine, server) if self.machines[machine].life == Life::Awake => {
                let input = match told {
                    Told::Opened(remote) => Input::ServerOpened { server, remote },
                    Told::Bytes(bytes) => Input::ServerBytes { server, bytes },
                    Told::Closed(reason) => Input::ServerClosed { server, reason: reason.to_owned() },
                };
                self.machines[machine].input(self.now, input);
                self.settle_machine(machine);
            }
            Caller::Machine(..) => {}
            Caller::Intruder(number) => self.intruder_told(number, told),
            Caller::Host(host, link) => {
                let input = match told {
                    Told::Opened(_) => HostInput::LinkOpened { link },
                    Told::Bytes(bytes) => HostInput::LinkReceived { link, bytes },
                    Told::Closed(reason) => HostInput::LinkClosed { link, why: reason.to_owned() },
                };
                self.hosts[host].link(self.now, input);
                self.settle_host(host);
            }
        }
    }

    fn send_up(&mut self, conn: ConnectionId, end: End) {
        let Some(end) = self.held_back(conn, end) else { return };
        let delay = self.stream_delay(conn);
        let Some(stream) = self.streams.open.get_mut(&conn) else { return };
        stream.up = stream.up.max(self.now + delay);
        let at = stream.up;
        self.plan(at, Happening::Stream { conn, end });
    }

    fn send_down(&mut self, conn: ConnectionId, end: End) {
        let Some(end) = self.held_back(conn, end) else { return };
        let delay = self.stream_delay(conn);
        let Some(stream) = self.streams.open.get_mut(&conn) else { return };
        stream.down = stream.down.max(self.now) + if matches!(end, End::Opened) { delay } else { Duration::ZERO };
        stream.down = stream.down.max(self.now + delay);
        let at = stream.down;
        self.plan(at, Happening::Stream { conn, end });
    }

    /// Keeps for later what a line does not carry now.
    fn held_back(&mut self, conn: ConnectionId, end: End) -> Option<End> {
        let caller = self.streams.open.get(&conn)?.caller;
        let host = self.streams.open.get(&conn)?.host;
        let waits = self.streams.open.get(&conn).is_some_and(|stream| stream.hangs || !stream.held.is_empty());
        if self.line_holds(caller, host) && !waits {
            return Some(end);
        }
        self.streams.open.get_mut(&conn)?.held.push(end);
        None
    }

    /// One way, and the repetitions that a lossy line costs.
    fn stream_delay(&mut self, conn: ConnectionId) -> Duration {
        let Some(stream) = self.streams.open.get(&conn) else { return Duration::ZERO };
        let line = match stream.caller {
            Caller::Machine(machine, _) => {
                let setup = &self.machines[machine].setup;
                self.net.line(setup.realm, setup.address)
            }
            Caller::Host(..) | Caller::Intruder(_) => self.net.line(Realm::INTERNET, self.address_of(stream.caller)),
        };
        let mut delay = line.delay + Duration::from_millis(2);
        while self.streams.dice.chance(line.loss.good.max(line.loss.bad / 4).min(500)) {
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

/// After so long without a word from the other end a stream is over, as both programs set it.
pub(crate) const IDLE: Duration = Duration::from_secs(60);
/// For so long a daemon tries to reach a server.
const GIVES_UP: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Telling;

    #[test]
    fn a_stream_that_no_server_has_accepted_is_gone_when_its_caller_gives_it_up() {
        let mut world = World::new(1, Telling::Quiet);
        let now = world.now;
        let _ = world.hosts[0].stop(now);
        let address = world.hosts[0].name();
        for server in 0..3 {
            let caller = Caller::Machine(0, ServerId(server));
            world.connect(caller, std::slice::from_ref(&address));
            let conn = world.streams.of[&caller];
            assert_eq!(world.streams.count(), 1);
            world.stream(conn, End::Broke("nobody answered"));
            assert_eq!(world.streams.count(), 0, "nobody else knows of it");
        }
    }
}
