//! The data plane, whose outputs are batches and events, with a second one at the other end of its sessions.

use std::net::{IpAddr, SocketAddr};

use ginnel_forward::{Command, Config, Datagrams, Forward, PeerId, Roam, SendArena, Shields, TunBatch, WritePlan};
use ginnel_path::message::Probe;
use ginnel_path::{Local, Path, RelayId, SocketId};
use ginnel_time::{Instant, Tai64n};
use ginnel_tunnel::{
    Established, Identity, Initiator, NetworkTag, PresharedKey, Received, ReceiverIndex, StaticSecret, Suite,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::{Subject, garbage, index, obeys, spoil};
use crate::dice::Dice;

#[derive(Default)]
struct Buffers {
    batch: TunBatch,
    datagrams: Datagrams,
    plan: WritePlan,
    arena: SendArena,
}

impl Buffers {
    /// What the last call made, in words, and the datagrams.
    fn take(&mut self) -> (Vec<String>, Vec<Vec<u8>>) {
        let mut words: Vec<String> = self.plan.iter().map(|packet| format!("write {packet:02x?}")).collect();
        words.extend(self.arena.iter().map(|transmit| format!("{transmit:02x?}")));
        let datagrams = self.arena.iter().map(|transmit| transmit.contents.to_vec()).collect();
        self.plan.clear();
        self.arena.clear();
        (words, datagrams)
    }
}

struct Plane {
    forward: Forward,
    other: Forward,
    buffers: Buffers,
    /// What the last calls made and nobody has looked at.
    words: Vec<String>,
    /// Datagrams from the other end.
    inbox: Vec<Vec<u8>>,
    keys: [Identity; 2],
    next_index: u32,
    suite: Suite,
}

impl Plane {
    fn new(dice: &mut Dice) -> Self {
        let identity = |dice: &mut Dice| Identity::new(StaticSecret::from_bytes(dice.seed()), NetworkTag([0; 32]));
        Self {
            forward: Forward::new(dice.seed(), Config::default()),
            other: Forward::new(dice.seed(), Config::default()),
            buffers: Buffers::default(),
            words: Vec::new(),
            inbox: Vec::new(),
            keys: [identity(dice), identity(dice)],
            next_index: 1,
            suite: dice.pick(&[Suite::AesGcm, Suite::ChaChaPoly, Suite::WireGuard]),
        }
    }

    /// Both ends of a fresh session, ours first.
    fn shake_hands(&mut self, dice: &mut Dice) -> (Established, Established) {
        let mut rng = ChaCha20Rng::from_seed(dice.seed());
        let psk = PresharedKey::zero();
        let (ours, theirs) = (ReceiverIndex(self.next_index), ReceiverIndex(self.next_index + 1_000_000));
        self.next_index += 1;
        let we_begin = dice.chance(500);
        let (begin, answer) = if we_begin { (0, 1) } else { (1, 0) };
        let (first, second) = if we_begin { (ours, theirs) } else { (theirs, ours) };
        let stamp = Tai64n::from_unix(1_800_000_000 + u64::from(self.next_index), 0);
        let remote = self.keys[answer].public();
        let (mut initiator, initiation) =
            Initiator::start(&self.keys[begin], remote, self.suite, &psk, 0, stamp, first, &mut rng)
                .expect("keys are usable");
        let received = Received::read(&self.keys[answer], &initiation, &mut |_| true).expect("it opens");
        let (response, responder) = received.respond(&psk, 0, second, &mut rng).expect("it is answered");
        let initiator = initiator.finish(&response).expect("the answer opens");
        if we_begin { (initiator, responder) } else { (responder, initiator) }
    }

    fn command(dice: &mut Dice) -> Command {
        let peer = PeerId(u32::try_from(dice.below(3)).expect("few peers"));
        let way = path(dice);
        match dice.below(16) {
            0 => Command::AddPeer {
                peer,
                allowed: vec![(IpAddr::from([100, 64, 0, peer.0 as u8 + 2]), 32)],
                roam: dice.pick(&[Roam::Fixed, Roam::FollowSource]),
                persistent_keepalive: dice.chance(300).then(|| dice.millis(1000, 30_000)),
            },
            1 if dice.chance(200) => Command::RemovePeer { peer },
            2 => Command::Forget { index: ReceiverIndex(u32::try_from(dice.below(9)).expect("few sessions")) },
            3..6 => Command::SetPath {
                peer,
                primary: dice.chance(800).then_some(way),
                backup: dice.chance(500).then(|| path(dice)),
                duplicate: dice.chance(300),
            },
            6..8 => {
                let plaintext = vec![0x10, 1, dice.below(256) as u8];
                Command::SealControl { peer, path: dice.chance(500).then_some(way), ttl: None, plaintext }
            }
            8 => Command::Send { path: way, ttl: Some(5), bytes: garbage(dice) },
            9 => Command::SetRelay { relay: RelayId(0), socket: SocketId(0), server: address(dice) },
            10 if dice.chance(300) => Command::RemoveRelay { relay: RelayId(0) },
            11 | 12 => Command::BindChannel {
                relay: RelayId(0),
                channel: u16::try_from(0x3FFE + dice.below(6)).expect("a channel"),
                remote: address(dice),
            },
            13 => Command::UnbindChannel { relay: RelayId(0), channel: 0x4000 },
            14 => Command::Inject { path: way, bytes: garbage(dice) },
            _ => Command::SetShields(dice.pick(&[Shields::Up, Shields::Down])),
        }
    }

    /// Lets the other end make datagrams for us.
    fn other_sends(&mut self, now: Instant, dice: &mut Dice) {
        let packet = ip_packet(dice, [100, 64, 0, 2], [100, 64, 0, 1]);
        if dice.chance(600) {
            self.buffers.batch.push(&packet);
            let buffers = &mut self.buffers;
            self.other.handle_tun(now, &mut buffers.batch, &mut buffers.plan, &mut buffers.arena);
        } else {
            let plaintext = dice.chance(500).then(|| Probe { id: dice.below(99) }.encode());
            let plaintext = plaintext.unwrap_or_else(|| vec![0x10, 1, dice.below(256) as u8]);
            let command = Command::SealControl { peer: PeerId(0), path: None, ttl: None, plaintext };
            self.other.handle_command(now, command, &mut self.buffers.plan, &mut self.buffers.arena);
        }
        let (_, datagrams) = self.buffers.take();
        self.inbox.extend(datagrams);
        while self.other.poll_event().is_some() {}
    }

    fn install(&mut self, now: Instant, dice: &mut Dice) {
        let (ours, theirs) = self.shake_hands(dice);
        let path = Path { local: Local::Socket(SocketId(0)), remote: SocketAddr::from(([198, 51, 100, 1], 4000)) };
        for command in [
            Command::AddPeer {
                peer: PeerId(0),
                allowed: vec![(IpAddr::from([100, 64, 0, 1]), 32)],
                roam: Roam::Fixed,
                persistent_keepalive: None,
            },
            Command::SetPath { peer: PeerId(0), primary: Some(path), backup: None, duplicate: false },
            Command::Install { peer: PeerId(0), established: theirs },
        ] {
            self.other.handle_command(now, command, &mut self.buffers.plan, &mut self.buffers.arena);
        }
        let (_, datagrams) = self.buffers.take();
        self.inbox.extend(datagrams);
        while self.other.poll_event().is_some() {}
        let command = Command::Install { peer: PeerId(0), established: ours };
        self.forward.handle_command(now, command, &mut self.buffers.plan, &mut self.buffers.arena);
    }
}

impl Subject for Plane {
    fn input(&mut self, now: Instant, dice: &mut Dice) {
        match dice.below(20) {
            0 => self.install(now, dice),
            1..7 => {
                let command = Self::command(dice);
                self.forward.handle_command(now, command, &mut self.buffers.plan, &mut self.buffers.arena);
            }
            7..12 => {
                for _ in 0..dice.below(5) {
                    let to = [100, 64, 0, dice.below(6) as u8];
                    let packet = ip_packet(dice, [100, 64, 0, 1], to);
                    self.buffers.batch.push(&spoil(dice, packet));
                }
                let buffers = &mut self.buffers;
                self.forward.handle_tun(now, &mut buffers.batch, &mut buffers.plan, &mut buffers.arena);
            }
            12..15 => self.other_sends(now, dice),
            _ => {
                for _ in 0..dice.below(6) {
                    let bytes = if self.inbox.is_empty() || dice.chance(200) {
                        garbage(dice)
                    } else {
                        let place = index(dice, self.inbox.len());
                        let bytes = self.inbox[place].clone();
                        spoil(dice, bytes)
                    };
                    self.buffers.datagrams.push(SocketId(0), address(dice), &bytes);
                }
                let buffers = &mut self.buffers;
                self.forward.handle_datagrams(now, &mut buffers.datagrams, &mut buffers.plan, &mut buffers.arena);
            }
        }
        let words = self.buffers.take().0;
        self.words.extend(words);
    }

    fn timeout(&mut self, now: Instant) {
        self.forward.handle_timeout(now, &mut self.buffers.arena);
        let words = self.buffers.take().0;
        self.words.extend(words);
    }

    fn output(&mut self) -> Option<String> {
        // What the batches hold is there at once and does not wait: it is told together with the events.
        let event = self.forward.poll_event()?;
        Some(format!("{event:?} after {:?}", std::mem::take(&mut self.words)))
    }

    fn due(&self) -> Option<Instant> {
        self.forward.poll_timeout()
    }

    /// Each half has a last `now` of its own.
    fn hurries(&self, latest: Instant) -> bool {
        self.due().is_some_and(|due| due <= latest)
    }
}

fn address(dice: &mut Dice) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, dice.below(3) as u8], 4000 + dice.below(2) as u16))
}

fn path(dice: &mut Dice) -> Path {
    let local = if dice.chance(300) { Local::Relay(RelayId(0)) } else { Local::Socket(SocketId(0)) };
    Path { local, remote: address(dice) }
}

/// An IPv4 packet without a body worth checking.
fn ip_packet(dice: &mut Dice, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let body = garbage(dice);
    let length = u16::try_from(20 + body.len()).expect("a small packet");
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend_from_slice(&from);
    packet.extend_from_slice(&to);
    packet.extend_from_slice(&body);
    packet
}

#[test]
fn forward_obeys() {
    let depths =
        ["Confirmed", "Expired", "RekeyDue", "SessionWanted", "Arrived", "Control", "Handshake", "Traffic", "write ["];
    obeys("forward", 2000, &depths, |_, dice| Plane::new(dice));
}
