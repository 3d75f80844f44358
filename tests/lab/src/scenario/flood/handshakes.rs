//! Floods of handshake messages at a daemon's port.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ginnel_time::Tai64n;
use ginnel_tunnel::cookie::CookieJar;
use ginnel_tunnel::{
    Identity, Initiator, MessageKind, NetworkTag, PresharedKey, PublicKey, ReceiverIndex, StaticSecret, Suite, classify,
};
use quinn_udp::{Transmit, UdpSockRef, UdpSocketState};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use socket2::{Domain, Protocol, Socket, Type};

use super::field::{Aim, Volley};
use crate::scenario::guest::random;

/// What a hostile ex-member knows of its victim: where it is, and its key.
#[derive(Clone, Copy)]
pub(super) struct Victim {
    pub(super) network: [u8; 32],
    pub(super) key: PublicKey,
    pub(super) at: SocketAddrV4,
}

impl Victim {
    /// Initiations that are whole in every respect, from a key that is in the network no more.
    fn initiations(&self) -> Result<Vec<Vec<u8>>> {
        let mut rng = ChaCha20Rng::from_seed(random());
        let identity = Identity::new(StaticSecret::generate(&mut rng), NetworkTag(self.network));
        let make = |_| {
            let (stamp, index) = (Tai64n::from_unix(unix(), 0), ReceiverIndex(rng.next_u32()));
            let psk = PresharedKey::zero();
            let started = Initiator::start(&identity, self.key, Suite::AesGcm, &psk, 0, stamp, index, &mut rng);
            started.map(|(_, message)| message).context("make an initiation")
        };
        (0..ROUNDS).map(make).collect()
    }
}

/// Initiations whose mac1 is wrong, from one address.
pub(super) fn bad_mac1(victim: &Victim, aim: Aim, until: Instant) -> Result<Volley> {
    let mut messages = victim.initiations()?;
    for message in &mut messages {
        let mac1 = message.len() - 32;
        message[mac1] ^= 1;
    }
    let gun = Gun::new()?;
    let to = aim.at(victim.at);
    let mut at = 0;
    let sent = paced(BAD_MAC1_RATE, until, |count| {
        let salvo = gun.most().min(count);
        let train: Vec<u8> = (0..salvo).flat_map(|n| messages[(at + n) % messages.len()].iter().copied()).collect();
        at += salvo;
        gun.fire(&train, messages[0].len(), to).map(|()| salvo)
    })?;
    Ok(Volley { sent, bytes: sent * INITIATION, note: format!("{} a second wanted", rate(BAD_MAC1_RATE)) })
}

/// Initiations with a good mac1 under addresses of others, by a raw socket.
pub(super) fn spoofed(victim: &Victim, aim: Aim, until: Instant) -> Result<Volley> {
    let messages = victim.initiations()?;
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW))).context("open a raw socket")?;
    let mut rng = ChaCha20Rng::from_seed(random());
    let to = aim.at(victim.at);
    let target = SocketAddr::from(to).into();
    let mut at = 0;
    let sent = paced(SPOOFED_RATE, until, |count| {
        for _ in 0..count {
            let [_, b, c, d] = rng.next_u32().to_be_bytes();
            let source = SocketAddrV4::new(Ipv4Addr::new(198, 18 | (b & 1), c, d), 1024 | (rng.next_u32() as u16 >> 1));
            raw.send_to(&packet(source, to, &messages[at % messages.len()]), &target)?;
            at += 1;
        }
        Ok(count)
    })?;
    Ok(Volley {
        sent,
        bytes: sent * INITIATION,
        note: format!("{} a second wanted, from 131,072 addresses", rate(SPOOFED_RATE)),
    })
}

/// Initiations with a good mac1 and a good cookie, from one real address.
pub(super) fn with_cookie(victim: &Victim, aim: Aim, until: Instant) -> Result<Volley> {
    let mut messages = victim.initiations()?;
    let gun = Gun::new()?;
    let mut jar = CookieJar::new(&victim.key);
    let begun = Instant::now();
    let now = || ginnel_time::Instant::ZERO + begun.elapsed();
    if aim == Aim::Victim {
        gun.beg(&messages, victim.at, &mut jar, &now)?;
    }
    for message in &mut messages {
        jar.stamp(now(), message);
        let stamped = message[message.len() - 16..].iter().any(|byte| *byte != 0);
        ensure!(stamped || aim == Aim::Nobody, "a message got no cookie");
    }
    let to = aim.at(victim.at);
    let mut at = 0;
    let sent = paced(COOKIE_RATE, until, |count| {
        let salvo = gun.most().min(count);
        let train: Vec<u8> = (0..salvo).flat_map(|n| messages[(at + n) % messages.len()].iter().copied()).collect();
        at += salvo;
        gun.fire(&train, messages[0].len(), to).map(|()| salvo)
    })?;
    Ok(Volley {
        sent,
        bytes: sent * INITIATION,
        note: format!("{} a second wanted, from one address that got a cookie", rate(COOKIE_RATE)),
    })
}

/// A socket that sends trains of datagrams.
struct Gun {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Gun {
    fn new() -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("bind a sender")?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket)).context("set a sender up")?;
        Ok(Self { socket, state })
    }

    fn most(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn fire(&self, train: &[u8], length: usize, to: SocketAddrV4) -> io::Result<()> {
        let transmit =
            Transmit { destination: to.into(), ecn: None, contents: train, segment_size: Some(length), src_ip: None };
        self.state.send(UdpSockRef::from(&self.socket), &transmit)
    }

    /// Floods until the victim asks for a cookie, then gets one.
    fn beg(
        &self,
        messages: &[Vec<u8>],
        to: SocketAddrV4,
        jar: &mut CookieJar,
        now: &dyn Fn() -> ginnel_time::Instant,
    ) -> Result<()> {
        self.socket.set_read_timeout(Some(Duration::from_millis(100))).context("set a time limit")?;
        let (last, rest) = messages.split_last().context("there are messages")?;
        let mut buffer = [0; 256];
        for _ in 0..20 {
            for message in rest.iter().chain(rest).chain(rest) {
                self.socket.send_to(message, to).context("send")?;
            }
            std::thread::sleep(Duration::from_millis(20));
            jar.sent(last);
            self.socket.send_to(last, to).context("send")?;
            while let Ok(length) = self.socket.recv(&mut buffer) {
                let reply = &buffer[..length];
                let is_cookie = classify(reply).is_some_and(|(_, kind)| kind == MessageKind::Cookie);
                if is_cookie && jar.accept(now(), reply).is_ok() {
                    return Ok(());
                }
            }
        }
        bail!("the victim asks nobody for a cookie, however many initiations it gets")
    }
}

/// Calls `salvo` with how many datagrams are due until it is `until`; answers how many were sent.
fn paced(rate: u32, until: Instant, mut salvo: impl FnMut(usize) -> io::Result<usize>) -> Result<u64> {
    let begun = Instant::now();
    let mut sent: u64 = 0;
    // What the sender was too slow for is not made up for in one go.
    let mut skipped = 0;
    while Instant::now() < until {
        let due = (begun.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        let behind = due.saturating_sub(sent + skipped);
        if behind > MOST_BEHIND {
            skipped += behind - MOST_BEHIND;
        }
        let count = usize::try_from(behind.min(MOST_BEHIND)).unwrap_or(0);
        if count == 0 {
            std::thread::sleep(Duration::from_micros(500));
            continue;
        }
        match salvo(count) {
            Ok(count) => sent += count as u64,
            // A full queue on the way is part of a flood.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error).context("send"),
        }
    }
    Ok(sent)
}

/// An IPv4 packet with a UDP datagram; the kernel fills in the header's checksum, and UDP goes without one.
fn packet(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let udp = u16::try_from(payload.len() + 8).unwrap_or(u16::MAX);
    let mut bytes = vec![0x45, 0];
    bytes.extend((udp + 20).to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
    bytes.extend(from.ip().octets());
    bytes.extend(to.ip().octets());
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes.extend(udp.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

pub(super) fn unix() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn rate(per_second: u32) -> String {
    format!("{},000", per_second / 1000)
}

/// Bytes of an initiation between ginneld.
const INITIATION: u64 = 152;
/// Different messages of one flood.
const ROUNDS: usize = 512;
const BAD_MAC1_RATE: u32 = 100_000;
const SPOOFED_RATE: u32 = 20_000;
const COOKIE_RATE: u32 = 20_000;
const MOST_BEHIND: u64 = 256;
const UDP: u8 = 17;
/// The protocol number under which the kernel takes whole IPv4 packets.
const RAW: i32 = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_packet_is_whole() {
        let at = |last, port| SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, last), port);
        let bytes = packet(at(1, 4000), at(2, 5000), &[7; 152]);
        assert_eq!(bytes.len(), 180);
        assert_eq!(bytes[2..4], 180_u16.to_be_bytes(), "the length of the packet");
        assert_eq!(bytes[12..20], [192, 0, 2, 1, 192, 0, 2, 2]);
        assert_eq!(bytes[20..24], [0x0F, 0xA0, 0x13, 0x88]);
        assert_eq!(bytes[24..28], [0, 160, 0, 0], "the length of the datagram, and no checksum");
        assert_eq!(bytes[28..], [7; 152]);
    }

    #[test]
    fn a_flood_keeps_its_pace_and_ends() {
        let until = Instant::now() + Duration::from_millis(200);
        let sent = paced(10_000, until, Ok).expect("nothing fails");
        assert!((1..=2_100).contains(&sent), "{sent}");
        assert!(Instant::now() >= until);
    }
}
