//! The data plane: what a datagram is, what a sealed packet may be, and what the system itself sends.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ginnel_forward::{
    Command, Config, Datagrams, Event, Forward, PeerId, Roam, SendArena, Shields, TunBatch, WritePlan,
};
use ginnel_path::{Local, Path, RelayId, SocketId};
use ginnel_time::Instant;
use ginnel_tunnel::{
    Established, HEADROOM, Metadata, ReceiverIndex, Sealer, SessionKeys, Side, Suite, TAILROOM, TransportKey,
};

use crate::feed::{Feed, Script};
use crate::{Effort, Target};

/// Any datagram, from anywhere: it is one thing or nothing, and is accounted for once.
pub(crate) const DATAGRAM: Target = Target {
    name: "datagram",
    covers: "what a datagram on a shared socket is",
    run: datagram,
    seeds: || {
        let stun = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let mut seeds = vec![[&[0][..], &stun].concat(), [&[1, 0x40, 0, 0, 20][..], &stun].concat()];
        for suite in Suite::ALL {
            let first = match suite {
                Suite::WireGuard => 1,
                Suite::AesGcm => 0xC0,
                Suite::ChaChaPoly => 0xC4,
            };
            let lengths = [suite.initiation_len(), suite.response_len(), 64, 32];
            for (kind, length) in (0..).zip(lengths) {
                let mut message = vec![0; length];
                message[0] = first + kind;
                seeds.push([&[0][..], &message].concat());
                let length = u16::try_from(length).expect("messages are short").to_be_bytes();
                seeds.push([&[1, 0x40, 0][..], &length, &message].concat());
            }
        }
        seeds
    },
    longest: 400,
    effort: Effort::Middling,
};

/// Plaintexts of a member that means no good, sealed as they must be.
pub(crate) const SEALED: Target = Target {
    name: "sealed_packet",
    covers: "inner packets and control messages of a hostile member, shields",
    run: sealed,
    seeds: || {
        let mut seeds = Vec::new();
        for suite in 0..3 {
            for packet in packets() {
                seeds.push(Script::default().bytes(&[suite, 0, 0]).chunk(&packet).bytes(&[1]).chunk(&packet).done());
            }
        }
        seeds
    },
    longest: 1400,
    effort: Effort::Middling,
};

/// Packets that the system sends: to members, to nobody, and broken ones.
pub(crate) const TUN: Target = Target {
    name: "tun_packet",
    covers: "packets from the TUN, and the ICMP errors that answer them",
    run: tun,
    seeds: || packets().into_iter().map(|packet| [&[0][..], &packet].concat()).collect(),
    longest: 1400,
    effort: Effort::Middling,
};

const THEIR_KEY: [u8; 32] = [1; 32];
const OURS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
const OTHERS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 3);

/// Packets of many kinds, from the peer and from others.
fn packets() -> Vec<Vec<u8>> {
    let v4 = |from: Ipv4Addr, to: Ipv4Addr, protocol: u8, upper: &[u8]| {
        let total = u16::try_from(20 + upper.len()).expect("short").to_be_bytes();
        let mut packet = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, protocol, 0, 0];
        packet.extend_from_slice(&from.octets());
        packet.extend_from_slice(&to.octets());
        packet.extend_from_slice(upper);
        packet
    };
    let v6 = |next: u8, upper: &[u8]| {
        let mut packet = vec![0x60, 0, 0, 0, 0, upper.len() as u8, next, 64];
        packet.extend_from_slice(&[&[0xfd][..], &[0; 14], &[2]].concat());
        packet.extend_from_slice(&[&[0xfd][..], &[0; 14], &[1]].concat());
        packet.extend_from_slice(upper);
        packet
    };
    let quoted = v4(OURS, THEIRS, 17, &[0, 7, 0, 9, 0, 8, 0, 0]);
    vec![
        v4(THEIRS, OURS, 17, &[0, 9, 0, 7, 0, 12, 0, 0, 1, 2, 3, 4]),
        v4(THEIRS, OURS, 6, &[0, 9, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 9, 0, 0, 0, 0]),
        v4(THEIRS, OURS, 1, &[0, 0, 0, 0, 0, 5, 0, 1]),
        v4(THEIRS, OURS, 1, &[&[3, 1, 0, 0, 0, 0, 0, 0][..], &quoted].concat()),
        v4(OTHERS, OURS, 17, &[0, 9, 0, 7, 0, 8, 0, 0]),
        v4(OURS, OTHERS, 17, &[0, 9, 0, 7, 0, 8, 0, 0]),
        v4(OURS, THEIRS, 17, &[0, 7, 0, 9, 0, 8, 0, 0]),
        v6(17, &[0, 9, 0, 7, 0, 8, 0, 0]),
        v6(0, &[&[43, 0, 0, 0, 0, 0, 0, 0][..], &[17, 31, 0, 0, 0, 0, 0, 0], &[0; 248], &[0, 9, 0, 7]].concat()),
        v6(44, &[17, 0, 0, 8, 0, 0, 0, 1, 0, 9, 0, 7]),
        v6(51, &[17, 255, 0, 0]),
        v6(58, &[128, 0, 0, 0, 0, 5, 0, 1]),
        ginnel_path::message::Probe { id: 9 }.encode(),
        vec![0x10, 1, 0, 0, 0, 0, 0, 0, 0, 9],
        Vec::new(),
    ]
}

/// A data plane and what it did last.
struct Plane {
    forward: Forward,
    batch: TunBatch,
    datagrams: Datagrams,
    plan: WritePlan,
    arena: SendArena,
    now: Instant,
}

/// What one call did.
#[derive(Default)]
struct Done {
    written: Vec<Vec<u8>>,
    sent: Vec<(Path, Vec<u8>)>,
    events: Vec<Event>,
}

impl Plane {
    fn new() -> Self {
        Self {
            forward: Forward::new([1; 32], Config::default()),
            batch: TunBatch::with_capacity(1, 2048),
            datagrams: Datagrams::with_capacity(1, 2048),
            plan: WritePlan::default(),
            arena: SendArena::default(),
            now: Instant::ZERO + Duration::from_secs(1000),
        }
    }

    fn command(&mut self, command: Command) -> Done {
        self.forward.handle_command(self.now, command, &mut self.plan, &mut self.arena);
        self.take()
    }

    fn receive(&mut self, from: SocketAddr, bytes: &[u8]) -> Done {
        assert!(self.datagrams.push(SocketId(0), from, bytes));
        self.forward.handle_datagrams(self.now, &mut self.datagrams, &mut self.plan, &mut self.arena);
        self.take()
    }

    fn tun(&mut self, packet: &[u8]) -> Done {
        assert!(self.batch.push(packet));
        self.forward.handle_tun(self.now, &mut self.batch, &mut self.plan, &mut self.arena);
        self.take()
    }

    fn take(&mut self) -> Done {
        let mut done = Done {
            written: self.plan.iter().map(<[u8]>::to_vec).collect(),
            sent: self.arena.iter().map(|transmit| (transmit.path, transmit.contents.to_vec())).collect(),
            events: Vec::new(),
        };
        self.plan.clear();
        self.arena.clear();
        while let Some(event) = self.forward.poll_event() {
            done.events.push(event);
        }
        done
    }

    fn discards(&self) -> u64 {
        self.forward.counters().discarded_total()
    }
}

fn direct(remote: SocketAddr) -> Path {
    Path { local: Local::Socket(SocketId(0)), remote }
}

fn relay_server() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 1], 3478))
}

fn datagram(data: &[u8]) {
    let Some((from, bytes)) = data.split_first() else { return };
    let tunnel = ginnel_tunnel::classify(bytes);
    let is_tunnel = tunnel.is_some();
    let is_stun = ginnel_stun::codec::Message::decode(bytes).is_ok();
    let is_channel = ginnel_turn::channel_data::is_channel_data(bytes);
    assert!(u8::from(is_tunnel) + u8::from(is_stun) + u8::from(is_channel) <= 1, "two things at once");
    assert_eq!(
        ginnel_tunnel::receiver_index(bytes).is_some() || ginnel_tunnel::sender_index(bytes).is_some(),
        is_tunnel
    );
    let mut plane = Plane::new();
    plane.command(Command::SetRelay { relay: RelayId(0), socket: SocketId(0), server: relay_server() });
    let remote = SocketAddr::from(([198, 51, 100, 9], 7));
    plane.command(Command::BindChannel { relay: RelayId(0), channel: 0x4000, remote });
    let before = plane.discards();
    let from = if from % 2 == 1 { relay_server() } else { SocketAddr::from(([198, 51, 100, 1], 4000)) };
    let done = plane.receive(from, bytes);
    let discarded = plane.discards() - before;
    assert!(done.written.is_empty() && done.sent.is_empty(), "a stranger's datagram did something");
    assert_eq!(done.events.len() as u64 + discarded, 1, "a datagram counts once: {:?}, {discarded}", done.events);
    match done.events.first() {
        Some(Event::Handshake { path, bytes: inner }) => {
            assert!(ginnel_tunnel::classify(inner).is_some());
            assert_eq!(matches!(path.local, Local::Relay(_)), is_channel);
            assert!(is_tunnel || from == relay_server());
        }
        Some(Event::Stun { bytes: inner, .. }) => assert!(ginnel_stun::is_stun(inner) && !is_tunnel && !is_channel),
        Some(other) => panic!("a stranger's datagram made {other:?}"),
        None => assert!(!is_stun, "a STUN message was dropped"),
    }
}

/// Our end of a session that the peer began.
fn session(suite: Suite) -> Established {
    let keys = SessionKeys { send: TransportKey::from_bytes([2; 32]), receive: TransportKey::from_bytes(THEIR_KEY) };
    Established {
        keys,
        local_index: ReceiverIndex(6),
        remote_index: ReceiverIndex(5),
        suite,
        side: Side::Responder,
        psk_id: 0,
    }
}

/// Two peers, of which the first has a session and a path.
fn connected(suite: Suite) -> (Plane, Sealer) {
    let mut plane = Plane::new();
    let roam = if suite == Suite::WireGuard { Roam::FollowSource } else { Roam::Fixed };
    let host = |v4: Ipv4Addr| (IpAddr::V4(v4), 32);
    let theirs6: IpAddr = "fd00::2".parse().expect("an address");
    let allowed = vec![host(THEIRS), (theirs6, 128), ([10, 0, 0, 0].into(), 8)];
    plane.command(Command::AddPeer { peer: PeerId(1), allowed, roam, persistent_keepalive: None });
    let allowed = vec![host(OTHERS), ([10, 9, 0, 0].into(), 16)];
    plane.command(Command::AddPeer { peer: PeerId(2), allowed, roam, persistent_keepalive: None });
    plane.command(Command::Install { peer: PeerId(1), established: session(suite) });
    let primary = Some(direct(SocketAddr::from(([198, 51, 100, 1], 4000))));
    plane.command(Command::SetPath { peer: PeerId(1), primary, backup: None, duplicate: false });
    (plane, Sealer::new(suite, TransportKey::from_bytes(THEIR_KEY), ReceiverIndex(6)))
}

/// The source by the plainest reading of the header.
fn source(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(12..16)?.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        6 => packet.get(8..24)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

fn is_theirs(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4 == THEIRS || (v4.octets()[0] == 10 && v4.octets()[1] != 9),
        IpAddr::V6(v6) => v6.octets() == [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
    }
}

fn sealed(data: &[u8]) {
    let mut feed = Feed::new(data);
    let suite = feed.pick(&Suite::ALL);
    let (mut plane, mut sealer) = connected(suite);
    let shields = if feed.flag() { Shields::Up } else { Shields::Down };
    plane.command(Command::SetShields(shields));
    let from = SocketAddr::from(([198, 51, 100, 1], 4000));
    for _ in 0..8 {
        if feed.is_empty() {
            return;
        }
        let kind = feed.u8();
        let content = feed.chunk();
        if kind % 8 == 7 {
            // We begin a flow, which opens the shields for its answers.
            plane.tun(content);
            continue;
        }
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(content);
        buffer.resize(buffer.len() + TAILROOM, 0);
        let length = sealer.seal(Metadata::NONE, &mut buffer, content.len()).expect("a fresh key");
        let datagram = buffer.get(..length).expect("what was sealed").to_vec();
        let source_path = if kind % 8 == 6 { SocketAddr::new(from.ip(), 9) } else { from };
        let before = plane.discards();
        let done = plane.receive(source_path, &datagram);
        arrived(&done, content, shields, suite);
        assert!(plane.discards() - before <= 1);
        let sent: usize = done.sent.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(sent <= 4 * datagram.len().max(64), "{sent} bytes answer {}", datagram.len());
        let again = plane.receive(source_path, &datagram);
        assert!(again.written.is_empty() && again.sent.is_empty(), "a packet was taken twice");
    }
}

/// What came out of one sealed packet.
fn arrived(done: &Done, content: &[u8], shields: Shields, suite: Suite) {
    assert!(done.written.len() <= 1);
    for packet in &done.written {
        let source = source(packet).expect("what reaches the system is an IP packet");
        assert!(is_theirs(source), "a packet from {source} by a peer that does not own it");
        // WireGuard's padding may stand in for the end of a packet that is cut short.
        let (whole, padding) = packet.split_at(packet.len().min(content.len()));
        assert!(content.starts_with(whole) && padding.iter().all(|byte| *byte == 0) && padding.len() < 16);
        assert!(padding.is_empty() || suite == Suite::WireGuard, "a packet grew on its way");
        let length = match packet[0] >> 4 {
            4 => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
            _ => 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])),
        };
        assert_eq!(length, packet.len(), "a packet with another length than it says");
    }
    if shields == Shields::Down
        && let [0x45, 0, high, low, 0, 0, 0, 0, ..] = content
        && usize::from(u16::from_be_bytes([*high, *low])) == content.len()
        && source(content) == Some(IpAddr::V4(THEIRS))
    {
        assert_eq!(done.written.len(), 1, "a good packet was dropped");
    }
    for event in &done.events {
        if let Event::Control { plaintext, .. } = event {
            assert!(suite != Suite::WireGuard && content.starts_with(plaintext));
            assert!(plaintext.first().is_some_and(|first| *first < 0x40));
        }
    }
}

fn tun(data: &[u8]) {
    let Some((choice, packet)) = data.split_first() else { return };
    let suite = Suite::ALL[usize::from(*choice) % 3];
    let (mut plane, mut sealer) = connected(suite);
    // The session is ours to send on once the peer has used it.
    let mut buffer = vec![0; HEADROOM + TAILROOM];
    let length = sealer.seal(Metadata::NONE, &mut buffer, 0).expect("a fresh key");
    plane.receive(SocketAddr::from(([198, 51, 100, 1], 4000)), &buffer[..length]);
    let done = plane.tun(packet);
    for (path, bytes) in &done.sent {
        assert_eq!(path.remote, SocketAddr::from(([198, 51, 100, 1], 4000)), "sent to a stranger");
        assert!(ginnel_tunnel::classify(bytes).is_some());
        assert!(!packet.is_empty() && !bytes.windows(packet.len().max(8)).any(|window| window == packet), "plaintext");
    }
    assert!(done.written.len() + done.sent.len() <= 2);
    for error in &done.written {
        check_error(error, packet);
    }
}

/// An ICMP error: whole, with right checksums, to the sender of what it quotes, and about a packet that may be answered.
fn check_error(error: &[u8], packet: &[u8]) {
    let (header, quoted) = match error[0] >> 4 {
        4 => {
            assert!(error.len() <= 576 && sum(0, &error[..20]) == 0xffff && sum(0, &error[20..]) == 0xffff);
            assert_eq!(usize::from(u16::from_be_bytes([error[2], error[3]])), error.len());
            (16..20, &error[28..])
        }
        _ => {
            let pseudo = u32::try_from(error.len() - 40).expect("short") + 58;
            assert!(error.len() <= 1280 && sum(pseudo, &error[8..]) == 0xffff);
            (24..40, &error[48..])
        }
    };
    assert!(packet.starts_with(quoted) && !quoted.is_empty());
    let to = error.get(header).expect("a destination");
    let asked = if packet[0] >> 4 == 4 { &packet[12..16] } else { &packet[8..24] };
    assert_eq!(to, asked, "an error to somebody else");
    assert!(to.iter().any(|octet| *octet != 0), "an error to nobody");
    let answers_an_error = match packet[0] >> 4 {
        4 => packet[9] == 1 && packet.get(usize::from(packet[0] & 15) * 4).is_some_and(|kind| *kind != 8),
        _ => packet[6] == 58 && packet.get(40).is_some_and(|kind| *kind < 128),
    };
    assert!(!answers_an_error, "an error about an error");
}

/// The Internet checksum by the book, before the complement.
fn sum(begin: u32, bytes: &[u8]) -> u16 {
    let mut sum = begin;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
