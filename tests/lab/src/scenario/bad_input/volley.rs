//! Datagrams of every kind that a port could take for its own, each whole, cut at every byte, and too long; and their
//! delivery, with an account of every answer.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};

/// One datagram and what it pretends to be.
#[derive(Clone, Debug)]
pub(super) struct Shot {
    pub(super) kind: &'static str,
    pub(super) bytes: Vec<u8>,
}

/// What a volley brought back.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) sent: usize,
    pub(super) sent_bytes: usize,
    pub(super) answers: usize,
    pub(super) answered_bytes: usize,
    /// The answers by kind of datagram.
    pub(super) by_kind: BTreeMap<&'static str, usize>,
    /// Kind and length of a datagram, and the greater length of its answer.
    pub(super) amplified: Vec<(&'static str, usize, usize)>,
}

/// The same numbers for the same seed, by the splitmix64 sequence.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 1).unwrap_or(0) % bound.max(1)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_be_bytes()[0]).collect()
    }
}

/// Every kind of datagram, from the same seed in the same order.
pub(super) fn shots(seed: u64) -> Vec<Shot> {
    let mut random = Random::new(seed);
    let mut shots = vec![Shot { kind: "empty", bytes: Vec::new() }];
    let whole = templates(&mut random);
    for Shot { kind, bytes } in &whole {
        shots.push(Shot { kind, bytes: bytes.clone() });
    }
    for Shot { kind, bytes } in &whole {
        shots.extend((1..bytes.len()).map(|length| Shot { kind, bytes: bytes[..length].to_vec() }));
    }
    for (method, class) in (0..=0xFFF).flat_map(|method| [0, 1, 2, 3].map(|class| (method, class))) {
        shots.push(Shot { kind: "stun method", bytes: stun(method, class, &[], &mut random) });
    }
    for Shot { kind, bytes } in &whole {
        for length in [1_473, 2_000, 9_001, 65_507] {
            let mut long = bytes.clone();
            long.extend(random.bytes(length - bytes.len().min(length)));
            shots.push(Shot { kind, bytes: long });
        }
        for _ in 0..4 {
            let mut flipped = bytes.clone();
            let place = random.below(flipped.len());
            flipped[place] ^= 1 << random.below(8);
            shots.push(Shot { kind, bytes: flipped });
        }
    }
    for _ in 0..400 {
        let length = random.below(1_500);
        shots.push(Shot { kind: "random", bytes: random.bytes(length) });
    }
    shots
}

fn templates(random: &mut Random) -> Vec<Shot> {
    let mut whole = Vec::new();
    for (kind, first, length) in [
        ("wireguard initiation", 1, 148),
        ("wireguard response", 2, 92),
        ("wireguard cookie", 3, 64),
        ("wireguard data", 4, 128),
        ("ginneld initiation", 0xC0, 152),
        ("ginneld response", 0xC1, 96),
        ("ginneld cookie", 0xC2, 64),
        ("ginneld data", 0xC3, 128),
        ("ginneld initiation", 0xC4, 152),
        ("ginneld response", 0xC5, 96),
        ("ginneld cookie", 0xC6, 64),
        ("ginneld data", 0xC7, 128),
    ] {
        let mut bytes = random.bytes(length);
        bytes[..4].copy_from_slice(&[first, 0, 0, 0]);
        whole.push(Shot { kind, bytes });
    }
    for (kind, method, class, attributes) in stun_requests(random) {
        whole.push(Shot { kind, bytes: stun(method, class, &attributes, random) });
    }
    for (kind, stated) in [("channel data", 60), ("channel data, too short", 0xFFFF), ("channel data, too long", 0)] {
        let number = 0x4000 + u16::try_from(random.below(0x1000)).unwrap_or(0);
        let mut bytes = [number.to_be_bytes(), u16::to_be_bytes(stated)].concat();
        bytes.extend(random.bytes(60));
        whole.push(Shot { kind, bytes });
    }
    for (kind, first, version) in [
        ("quic initial", 0xC3, 1),
        ("quic unknown version", 0xC3, 0x1A2A_3A4A),
        ("quic handshake", 0xE3, 1),
        ("quic version negotiation", 0x80, 0),
    ] {
        whole.push(Shot { kind, bytes: quic(first, version, random) });
    }
    let mut short = random.bytes(48);
    short[0] = 0x41;
    whole.push(Shot { kind: "quic short header", bytes: short });
    whole
}

type Attribute = (u16, Vec<u8>);

fn stun_requests(random: &mut Random) -> Vec<(&'static str, u16, u16, Vec<Attribute>)> {
    let (requested, lifetime) = ((0x0019, vec![17, 0, 0, 0]), (0x000D, vec![0, 0, 2, 88]));
    let peer = (0x0012, vec![0, 1, 0x21, 0x12, 0x21, 0x12, 0xA4, 0x42]);
    let channel = (0x000C, vec![0x40, 1, 0, 0]);
    let data = (0x0013, random.bytes(32));
    let user = (0x0006, b"4102444800:0123456789abcdef".to_vec());
    let (realm, nonce) = ((0x0014, b"ginnel".to_vec()), (0x0015, random.bytes(24)));
    let (integrity, fingerprint) = ((0x0008, random.bytes(20)), (0x8028, random.bytes(4)));
    let proof = [user, realm, nonce, integrity, fingerprint.clone()];
    let with_proof = |attributes: &[Attribute]| [attributes, &proof].concat();
    vec![
        ("stun binding", 1, REQUEST, vec![]),
        ("stun binding, padded", 1, REQUEST, vec![(0x8026, vec![0; 120])]),
        ("stun binding, false fingerprint", 1, REQUEST, vec![fingerprint]),
        ("stun binding, unknown attributes", 1, REQUEST, (1..20).map(|n| (0x7000 + n, vec![0; 4])).collect()),
        ("stun binding response", 1, 2, vec![(0x0020, vec![0, 1, 0x21, 0x12, 0x21, 0x12, 0xA4, 0x42])]),
        ("turn allocate", 3, REQUEST, vec![requested.clone()]),
        ("turn allocate, false proof", 3, REQUEST, with_proof(&[requested])),
        ("turn refresh to nothing", 4, REQUEST, with_proof(&[(0x000D, vec![0; 4])])),
        ("turn refresh", 4, REQUEST, vec![lifetime]),
        ("turn send", 6, 1, vec![peer.clone(), data.clone()]),
        ("turn data", 7, 1, vec![peer.clone(), data]),
        ("turn permission", 8, REQUEST, with_proof(std::slice::from_ref(&peer))),
        ("turn channel", 9, REQUEST, with_proof(&[channel, peer])),
    ]
}

fn stun(method: u16, class: u16, attributes: &[Attribute], random: &mut Random) -> Vec<u8> {
    let kind = (method & 0xF80) << 2 | (method & 0x70) << 1 | method & 0xF | (class & 2) << 7 | (class & 1) << 4;
    let mut body = Vec::new();
    for (number, value) in attributes {
        body.extend(number.to_be_bytes());
        body.extend(u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
        body.extend(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend(u16::try_from(body.len()).unwrap_or(0).to_be_bytes());
    bytes.extend([0x21, 0x12, 0xA4, 0x42]);
    bytes.extend(random.bytes(12));
    bytes.extend(body);
    bytes
}

fn quic(first: u8, version: u32, random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![first];
    bytes.extend(version.to_be_bytes());
    bytes.push(8);
    bytes.extend(random.bytes(8));
    bytes.push(8);
    bytes.extend(random.bytes(8));
    // No token, then a length that covers the rest.
    bytes.extend([0, 0x44, 0x96]);
    bytes.resize(bytes.len() + 1_174, 0);
    let tail = random.bytes(1_174);
    let start = bytes.len() - tail.len();
    bytes[start..].copy_from_slice(&tail);
    bytes
}

/// Sends every shot to `target` from sockets of the calling thread's network namespace, and holds each answer against the
/// datagram that it answers.
pub(super) fn fire(shots: &[Shot], target: SocketAddr) -> Result<Account> {
    let lanes: Vec<UdpSocket> = (0..LANES).map(|_| lane(None)).collect::<Result<_>>()?;
    let mut account = Account::default();
    let mut suspects = Vec::new();
    for salvo in shots.chunks(LANES) {
        for (shot, lane) in salvo.iter().zip(&lanes) {
            account.note_sent(shot, lane, target);
        }
        std::thread::sleep(PACE);
        for (shot, lane) in salvo.iter().zip(&lanes) {
            let answer = collect(lane);
            if answer > 0 {
                account.answers += 1;
                account.answered_bytes += answer;
                *account.by_kind.entry(shot.kind).or_default() += 1;
            }
            if answer > shot.bytes.len() {
                suspects.push(shot);
            }
        }
    }
    // An answer that came late was held against another datagram: those are asked again, alone.
    for shot in suspects {
        let lane = lane(None)?;
        account.note_sent(shot, &lane, target);
        std::thread::sleep(PATIENCE);
        let answer = collect(&lane);
        if answer > shot.bytes.len() {
            account.amplified.push((shot.kind, shot.bytes.len(), answer));
        }
    }
    Ok(account)
}

/// Sends every shot to `target` under the address `source`, which the calling thread's network namespace must hold.
pub(super) fn fire_as(shots: &[Shot], source: SocketAddrV4, target: SocketAddr) -> Result<Account> {
    let lane = lane(Some(source))?;
    let mut account = Account::default();
    for salvo in shots.chunks(LANES) {
        salvo.iter().for_each(|shot| account.note_sent(shot, &lane, target));
        std::thread::sleep(PACE);
    }
    Ok(account)
}

impl Account {
    fn note_sent(&mut self, shot: &Shot, lane: &UdpSocket, target: SocketAddr) {
        // A full queue on the way is part of the attack.
        if lane.send_to(&shot.bytes, target).is_ok() {
            self.sent += 1;
            self.sent_bytes += shot.bytes.len();
        }
    }
}

fn lane(source: Option<SocketAddrV4>) -> Result<UdpSocket> {
    let any = SocketAddrV4::new(std::net::Ipv4Addr::UNSPECIFIED, 0);
    let socket = UdpSocket::bind(source.unwrap_or(any)).context("bind a sender")?;
    socket.set_nonblocking(true).context("set a sender to poll")?;
    Ok(socket)
}

/// The bytes of everything that has come in.
fn collect(lane: &UdpSocket) -> usize {
    let mut buffer = [0; 2048];
    let mut bytes = 0;
    loop {
        match lane.recv_from(&mut buffer) {
            Ok((length, _)) => bytes += length,
            // The kernel tells of a port that is closed, and then goes on.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) => return bytes,
        }
    }
}

const REQUEST: u16 = 0;
const LANES: usize = 64;
const PACE: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_millis(100);
