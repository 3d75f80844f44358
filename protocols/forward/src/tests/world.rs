//! The world of the tests: two data planes, keys from true handshakes, and a wire that the test holds in its hands.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_path::{Local, Path, SocketId};
use ginnel_time::{Instant, Tai64n};
use ginnel_tunnel::{
    Established, Identity, Initiator, NetworkTag, PresharedKey, Received, ReceiverIndex, StaticSecret, Suite,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::{Command, Config, Datagrams, Event, Forward, PeerCounters, PeerId, Roam, SendArena, TunBatch, WritePlan};

pub(super) const A: usize = 0;
pub(super) const B: usize = 1;
/// The one peer of each side, unless a test adds more.
pub(super) const PEER: PeerId = PeerId(7);
pub(super) const V4: [&str; 2] = ["100.64.0.1", "100.64.0.2"];
pub(super) const V6: [&str; 2] = ["fd00::1", "fd00::2"];

/// A datagram on the wire.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) path: Path,
    pub(super) socket: SocketId,
    pub(super) to: SocketAddr,
    pub(super) ttl: Option<u8>,
    pub(super) bytes: Vec<u8>,
}

/// One side.
pub(super) struct Side {
    pub(super) forward: Forward,
    batch: TunBatch,
    datagrams: Datagrams,
    plan: WritePlan,
    arena: SendArena,
    /// What the TUN was given.
    pub(super) tun: Vec<Vec<u8>>,
    /// What the sockets were given.
    pub(super) sent: Vec<Sent>,
    /// Every event but [`Event::Traffic`].
    pub(super) events: Vec<Event>,
    pub(super) traffic: Vec<Event>,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) sides: [Side; 2],
    rng: ChaCha20Rng,
    index: u32,
}

pub(super) fn addr(side: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, side as u8 + 1], 4000))
}

pub(super) fn socket_path(remote: SocketAddr) -> Path {
    Path { local: Local::Socket(SocketId(0)), remote }
}

/// The path by which `side` reaches the other one directly.
pub(super) fn direct(side: usize) -> Path {
    socket_path(addr(1 - side))
}

pub(super) fn host(text: &str) -> (IpAddr, u8) {
    let ip: IpAddr = text.parse().expect("address");
    (ip, if ip.is_ipv4() { 32 } else { 128 })
}

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl World {
    /// Two sides that know each other, with neither session nor path.
    pub(super) fn new(roam: Roam) -> Self {
        let side = |seed| Side {
            forward: Forward::new([seed; 32], Config::default()),
            batch: TunBatch::default(),
            datagrams: Datagrams::default(),
            plan: WritePlan::default(),
            arena: SendArena::default(),
            tun: Vec::new(),
            sent: Vec::new(),
            events: Vec::new(),
            traffic: Vec::new(),
        };
        let mut world = Self {
            now: Instant::ZERO + secs(1000),
            sides: [side(1), side(2)],
            rng: ChaCha20Rng::from_seed([9; 32]),
            index: 100,
        };
        for me in [A, B] {
            let allowed = vec![host(V4[1 - me]), host(V6[1 - me])];
            world.command(me, Command::AddPeer { peer: PEER, allowed, roam, persistent_keepalive: None });
        }
        world
    }

    /// Two sides that know each other's address and hold a confirmed session that A began.
    pub(super) fn connected(suite: Suite) -> Self {
        let roam = if suite == Suite::WireGuard { Roam::FollowSource } else { Roam::Fixed };
        let mut world = Self::new(roam);
        world.set_direct_paths();
        world.rekey(A, suite);
        world.settle();
        assert!(world.side(B).take_events().iter().any(|event| matches!(event, Event::Confirmed { .. })));
        world.side(A).take_events();
        world
    }

    pub(super) fn set_direct_paths(&mut self) {
        for me in [A, B] {
            let primary = Some(direct(me));
            self.command(me, Command::SetPath { peer: PEER, primary, backup: None, duplicate: false });
        }
    }

    pub(super) fn side(&mut self, side: usize) -> &mut Side {
        &mut self.sides[side]
    }

    /// Runs a true handshake and gives both ends of the session, the initiator's first.
    pub(super) fn handshake(&mut self, suite: Suite) -> (Established, Established) {
        let network = NetworkTag([3; 32]);
        let initiator = Identity::new(StaticSecret::generate(&mut self.rng), network);
        let responder = Identity::new(StaticSecret::generate(&mut self.rng), network);
        let psk = PresharedKey::zero();
        self.index += 2;
        let (ours, theirs) = (ReceiverIndex(self.index), ReceiverIndex(self.index + 1));
        let label = Tai64n::from_unix(1, 0);
        let (mut waiting, initiation) =
            Initiator::start(&initiator, responder.public(), suite, &psk, 0, label, ours, &mut self.rng)
                .expect("good keys");
        let received = Received::read(&responder, &initiation, &mut |_| true).expect("a true initiation");
        let (response, responding) = received.respond(&psk, 0, theirs, &mut self.rng).expect("good keys");
        (waiting.finish(&response).expect("a true response"), responding)
    }

    /// Installs a new session on both sides, the responder first; gives the two indices, A's first.
    pub(super) fn rekey(&mut self, initiator: usize, suite: Suite) -> [ReceiverIndex; 2] {
        let (initiating, responding) = self.handshake(suite);
        let (mine, theirs) = (initiating.local_index, responding.local_index);
        self.command(1 - initiator, Command::Install { peer: PEER, established: responding });
        self.command(initiator, Command::Install { peer: PEER, established: initiating });
        if initiator == A { [mine, theirs] } else { [theirs, mine] }
    }

    pub(super) fn command(&mut self, side: usize, command: Command) {
        let now = self.now;
        let side = self.side(side);
        side.forward.handle_command(now, command, &mut side.plan, &mut side.arena);
        side.flush();
    }

    /// Gives `side` a packet from its TUN.
    pub(super) fn tun(&mut self, side: usize, packet: &[u8]) {
        let now = self.now;
        let side = self.side(side);
        assert!(side.batch.push(packet));
        side.forward.handle_tun(now, &mut side.batch, &mut side.plan, &mut side.arena);
        side.flush();
    }

    /// Gives `side` a datagram on its only socket.
    pub(super) fn receive(&mut self, side: usize, from: SocketAddr, datagram: &[u8]) {
        let now = self.now;
        let side = self.side(side);
        assert!(side.datagrams.push(SocketId(0), from, datagram));
        side.forward.handle_datagrams(now, &mut side.datagrams, &mut side.plan, &mut side.arena);
        side.flush();
    }

    /// Carries what each side sent to the other, until neither sends.
    pub(super) fn settle(&mut self) {
        while self.carry() > 0 {}
    }

    fn carry(&mut self) -> usize {
        let mut carried = 0;
        for from in [A, B] {
            for sent in std::mem::take(&mut self.side(from).sent) {
                assert_eq!(sent.to, addr(1 - from), "only direct datagrams are carried");
                self.receive(1 - from, addr(from), &sent.bytes);
                carried += 1;
            }
        }
        carried
    }

    /// Takes the only datagram that `side` has sent.
    pub(super) fn only_sent(&mut self, side: usize) -> Sent {
        let mut sent = std::mem::take(&mut self.side(side).sent);
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }

    /// Takes the only packet that the TUN of `side` was given.
    pub(super) fn only_tun(&mut self, side: usize) -> Vec<u8> {
        let mut tun = std::mem::take(&mut self.side(side).tun);
        assert_eq!(tun.len(), 1, "{tun:?}");
        tun.remove(0)
    }

    /// Lets time pass on both sides, firing every deadline at its moment; what is sent stays in `sent`.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for me in [A, B] {
            let mut now = self.now;
            let side = self.side(me);
            side.drain();
            let mut fired = 0;
            while let Some(at) = side.forward.poll_timeout().filter(|at| *at <= end) {
                assert!(at > now || fired == 0 || at == now, "a deadline lies in the past");
                now = now.max(at);
                side.forward.handle_timeout(now, &mut side.arena);
                side.flush();
                assert!(side.forward.poll_timeout().is_none_or(|next| next > now), "firing moves a deadline");
                fired += 1;
                assert!(fired < 10_000, "deadlines do not spin");
            }
        }
        self.now = end;
    }

    pub(super) fn counters(&self, side: usize) -> PeerCounters {
        self.sides[side].forward.peer_counters(PEER).expect("the peer is there")
    }

    pub(super) fn discarded(&self, side: usize, reason: crate::Discard) -> u64 {
        self.sides[side].forward.counters().discarded(reason)
    }
}

impl Side {
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn flush(&mut self) {
        self.tun.extend(self.plan.iter().map(<[u8]>::to_vec));
        self.sent.extend(self.arena.iter().map(|transmit| Sent {
            path: transmit.path,
            socket: transmit.socket,
            to: transmit.to,
            ttl: transmit.ttl,
            bytes: transmit.contents.to_vec(),
        }));
        self.plan.clear();
        self.arena.clear();
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(event) = self.forward.poll_event() {
            let list = if matches!(event, Event::Traffic { .. }) { &mut self.traffic } else { &mut self.events };
            list.push(event);
        }
    }
}
