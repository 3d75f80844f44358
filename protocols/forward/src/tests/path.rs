//! Paths: roaming, duplication, relays, probes.

use std::net::SocketAddr;

use ginnel_path::message::{Echo, Probe};
use ginnel_path::{Local, Path, RelayId, SocketId};
use ginnel_time::Instant;
use ginnel_tunnel::cookie::Mac1;
use ginnel_tunnel::{StaticSecret, Suite};

use super::world::{A, B, PEER, V4, World, addr, direct, secs, socket_path};
use crate::test_packet::udp;
use crate::{COOKIE_QUEUE, Command, DUPLICATE_BYTES, Discard, Event, HANDSHAKE_QUEUE, STUN_QUEUE};

const RELAY: RelayId = RelayId(3);
const CHANNEL: u16 = 0x4abc;

fn server() -> SocketAddr {
    "198.51.100.1:3478".parse().expect("address")
}

fn elsewhere() -> SocketAddr {
    "203.0.113.5:999".parse().expect("address")
}

fn relay_path(remote: SocketAddr) -> Path {
    Path { local: Local::Relay(RELAY), remote }
}

fn packet(from: usize) -> Vec<u8> {
    udp(V4[from], 1, V4[1 - from], 2, b"payload")
}

fn set_relay(world: &mut World, side: usize, remote: SocketAddr) {
    world.command(side, Command::SetRelay { relay: RELAY, socket: SocketId(0), server: server() });
    world.command(side, Command::BindChannel { relay: RELAY, channel: CHANNEL, remote });
}

fn set_path(world: &mut World, primary: Path, backup: Option<Path>) {
    world.command(A, Command::SetPath { peer: PEER, primary: Some(primary), backup, duplicate: false });
}

fn duplicate(world: &mut World, primary: Path, backup: Path) {
    world.command(A, Command::SetPath { peer: PEER, primary: Some(primary), backup: Some(backup), duplicate: true });
}

/// ChannelData around `bytes`.
fn channel_data(bytes: &[u8]) -> Vec<u8> {
    [&CHANNEL.to_be_bytes()[..], &(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

#[test]
fn a_stock_peer_is_followed_on_authentic_data_only() {
    let mut world = World::connected(Suite::WireGuard);
    world.tun(A, &packet(A));
    let sent = world.only_sent(A);
    let mut forged = sent.bytes.clone();
    *forged.last_mut().expect("a tag") ^= 1;
    world.receive(B, elsewhere(), &forged);
    world.tun(B, &packet(B));
    assert_eq!(world.only_sent(B).to, addr(A));
    world.receive(B, elsewhere(), &sent.bytes);
    assert_eq!(world.side(B).take_events(), [Event::Roamed { peer: PEER, path: socket_path(elsewhere()) }]);
    world.tun(B, &packet(B));
    assert_eq!(world.only_sent(B).to, elsewhere());
    // A copy of what was already opened moves nothing.
    world.receive(B, addr(A), &sent.bytes);
    world.tun(B, &packet(B));
    assert_eq!(world.only_sent(B).to, elsewhere());
    assert_eq!(world.discarded(B, Discard::Replayed), 1);
}

#[test]
fn a_stock_peer_is_followed_on_a_keepalive_but_not_on_a_spoofed_packet() {
    let mut world = World::connected(Suite::WireGuard);
    // A lies about the source; B must neither deliver nor follow.
    let lie = udp("100.64.0.77", 1, V4[B], 2, b"payload");
    world.tun(A, &lie);
    let sent = world.only_sent(A);
    world.receive(B, elsewhere(), &sent.bytes);
    assert_eq!(world.discarded(B, Discard::SpoofedSource), 1);
    assert!(world.side(B).take_events().is_empty() && world.side(B).tun.is_empty());
    world.tun(B, &packet(B));
    world.settle();
    world.pass(secs(10));
    let keepalive = world.only_sent(A);
    world.receive(B, elsewhere(), &keepalive.bytes);
    assert_eq!(world.side(B).take_events(), [Event::Roamed { peer: PEER, path: socket_path(elsewhere()) }]);
}

#[test]
fn a_new_source_of_a_ginneld_peer_is_reported_and_not_followed() {
    let mut world = World::connected(Suite::AesGcm);
    let arrived = [Event::Arrived { peer: PEER, path: socket_path(elsewhere()) }];
    let from_elsewhere = |world: &mut World| {
        world.tun(A, &packet(A));
        let sent = world.only_sent(A);
        world.receive(B, elsewhere(), &sent.bytes);
        assert_eq!(world.only_tun(B), packet(A));
        world.side(B).take_events()
    };
    assert_eq!(from_elsewhere(&mut world), arrived);
    assert!(from_elsewhere(&mut world).is_empty(), "not for every packet");
    world.pass(secs(1));
    assert_eq!(from_elsewhere(&mut world), arrived);
    world.tun(B, &packet(B));
    assert_eq!(world.only_sent(B).to, addr(A));
    let (primary, backup) = (Some(direct(B)), Some(socket_path(elsewhere())));
    world.command(B, Command::SetPath { peer: PEER, primary, backup, duplicate: false });
    world.pass(secs(5));
    assert!(from_elsewhere(&mut world).is_empty(), "the backup is known");
}

#[test]
fn data_is_duplicated_for_three_seconds_and_delivered_once() {
    let mut world = World::connected(Suite::AesGcm);
    let backup = socket_path(elsewhere());
    duplicate(&mut world, direct(A), backup);
    world.tun(A, &packet(A));
    let sent = std::mem::take(&mut world.side(A).sent);
    assert_eq!(sent.iter().map(|sent| sent.path).collect::<Vec<_>>(), [direct(A), backup]);
    assert_eq!(sent[0].bytes, sent[1].bytes);
    for copy in &sent {
        world.receive(B, addr(A), &copy.bytes);
    }
    assert_eq!(world.only_tun(B), packet(A));
    assert_eq!(world.discarded(B, Discard::Replayed), 1);
    world.command(A, Command::SealControl { peer: PEER, path: None, ttl: None, plaintext: vec![0x20, 1] });
    assert_eq!(world.only_sent(A).path, direct(A), "control messages take one path");

    world.pass(secs(2));
    duplicate(&mut world, direct(A), backup);
    world.pass(secs(1));
    world.side(A).sent.clear();
    world.tun(A, &packet(A));
    assert_eq!(world.only_sent(A).path, direct(A), "asking again does not renew the bound");
    set_path(&mut world, direct(A), Some(backup));
    duplicate(&mut world, direct(A), backup);
    world.tun(A, &packet(A));
    assert_eq!(world.side(A).sent.len(), 2);
}

#[test]
fn duplication_ends_after_its_bytes() {
    let mut world = World::connected(Suite::AesGcm);
    duplicate(&mut world, direct(A), socket_path(elsewhere()));
    let large = udp(V4[A], 1, V4[B], 2, &[0; 1200]);
    for _ in 0..2000 {
        world.tun(A, &large);
    }
    let sent = std::mem::take(&mut world.side(A).sent);
    let copied: usize = sent.iter().filter(|sent| sent.to == elsewhere()).map(|sent| sent.bytes.len()).sum();
    let datagram = (large.len() + 32) as u64;
    assert!((DUPLICATE_BYTES - 2 * datagram..=DUPLICATE_BYTES).contains(&(copied as u64)), "{copied}");
    assert_eq!(sent.len(), 2000 + copied / datagram as usize);
}

#[test]
fn relayed_data_is_wrapped_and_unwrapped() {
    for suite in Suite::ALL {
        let mut world = World::connected(suite);
        let b_relayed: SocketAddr = "198.51.100.1:50000".parse().expect("address");
        set_relay(&mut world, A, b_relayed);
        set_path(&mut world, relay_path(b_relayed), None);
        world.tun(A, &packet(A));
        let sent = world.only_sent(A);
        assert_eq!((sent.to, sent.socket, sent.path), (server(), SocketId(0), relay_path(b_relayed)));
        assert_eq!(sent.bytes, channel_data(&sent.bytes[4..]));

        set_relay(&mut world, B, addr(A));
        world.receive(B, server(), &sent.bytes);
        assert_eq!(world.only_tun(B), packet(A));
        world.side(B).take_events();
        world.receive(B, elsewhere(), &sent.bytes);
        assert_eq!(world.discarded(B, Discard::ForeignChannelData), 1);
        world.command(B, Command::UnbindChannel { relay: RELAY, channel: CHANNEL });
        world.receive(B, server(), &sent.bytes);
        assert_eq!(world.discarded(B, Discard::UnknownChannel), 1);
        world.command(B, Command::RemoveRelay { relay: RELAY });
        world.receive(B, server(), &sent.bytes);
        assert_eq!(world.discarded(B, Discard::ForeignChannelData), 2);
    }
}

#[test]
fn copies_on_direct_and_relayed_paths_hold_one_datagram() {
    let mut world = World::connected(Suite::AesGcm);
    let (near, far): (SocketAddr, SocketAddr) = (elsewhere(), "203.0.113.6:1".parse().expect("address"));
    world.command(A, Command::SetRelay { relay: RELAY, socket: SocketId(0), server: server() });
    world.command(A, Command::BindChannel { relay: RELAY, channel: 0x4001, remote: near });
    world.command(A, Command::BindChannel { relay: RELAY, channel: 0x4002, remote: far });
    for (primary, backup) in [
        (direct(A), relay_path(near)),
        (relay_path(near), direct(A)),
        (relay_path(near), relay_path(far)),
        (direct(A), socket_path(elsewhere())),
    ] {
        set_path(&mut world, primary, Some(backup));
        duplicate(&mut world, primary, backup);
        world.side(A).sent.clear();
        world.tun(A, &packet(A));
        let sent = std::mem::take(&mut world.side(A).sent);
        let inner: Vec<_> = sent
            .iter()
            .map(|sent| {
                if !sent.path.is_relayed() {
                    return sent.bytes.clone();
                }
                let channel = if sent.path.remote == near { 1 } else { 2 };
                assert_eq!(sent.bytes[..2], [0x40, channel]);
                sent.bytes[4..].to_vec()
            })
            .collect();
        assert_eq!(inner.len(), 2);
        assert_eq!(inner[0], inner[1]);
    }
}

#[test]
fn a_relayed_path_without_channel_is_counted_and_a_working_backup_still_carries() {
    let mut world = World::connected(Suite::AesGcm);
    set_path(&mut world, relay_path(elsewhere()), None);
    world.tun(A, &packet(A));
    assert_eq!(world.discarded(A, Discard::NoRelay), 1);
    world.command(A, Command::SetRelay { relay: RELAY, socket: SocketId(0), server: server() });
    world.tun(A, &packet(A));
    assert_eq!(world.discarded(A, Discard::NoChannel), 1);
    world.command(A, Command::Send { path: relay_path(elsewhere()), ttl: None, bytes: vec![1; 10] });
    assert_eq!(world.discarded(A, Discard::NoChannel), 2);
    world.command(A, Command::BindChannel { relay: RELAY, channel: 0x3fff, remote: elsewhere() });
    assert_eq!(world.discarded(A, Discard::BadChannel), 1);
    assert!(world.side(A).sent.is_empty());
    duplicate(&mut world, relay_path(elsewhere()), direct(A));
    world.tun(A, &packet(A));
    assert_eq!(world.only_sent(A).path, direct(A));
}

#[test]
fn a_handshake_inside_channel_data_names_the_relayed_path() {
    let mut world = World::connected(Suite::AesGcm);
    set_relay(&mut world, A, elsewhere());
    let mut initiation = vec![0; 152];
    initiation[0] = 0xC0;
    world.receive(A, server(), &channel_data(&initiation));
    let relayed = [Event::Handshake { path: relay_path(elsewhere()), bytes: initiation.clone() }];
    assert_eq!(world.side(A).take_events(), relayed);
    world.receive(A, addr(B), &initiation);
    let plain = Event::Handshake { path: direct(A), bytes: initiation.clone() };
    assert_eq!(world.side(A).take_events(), [plain]);
    world.command(A, Command::Inject { path: relay_path(elsewhere()), bytes: initiation });
    assert_eq!(world.side(A).take_events(), relayed);
    for inner in [channel_data(&[1; 40]), vec![0; 3], stun(0)] {
        world.receive(A, server(), &channel_data(&inner));
    }
    assert_eq!(world.discarded(A, Discard::MalformedChannelData), 3);
}

#[test]
fn an_injected_data_indication_is_opened_and_delivered() {
    let mut world = World::connected(Suite::ChaChaPoly);
    world.tun(A, &packet(A));
    let sent = world.only_sent(A);
    world.command(B, Command::Inject { path: relay_path(elsewhere()), bytes: sent.bytes });
    assert_eq!(world.only_tun(B), packet(A));
    assert_eq!(world.side(B).take_events(), [Event::Arrived { peer: PEER, path: relay_path(elsewhere()) }]);
}

#[test]
fn raw_sends_keep_their_ttl_and_are_wrapped_for_relays() {
    let mut world = World::connected(Suite::AesGcm);
    world.command(A, Command::Send { path: direct(A), ttl: Some(4), bytes: vec![9; 30] });
    let sent = world.only_sent(A);
    assert_eq!((sent.to, sent.ttl, sent.bytes), (addr(B), Some(4), vec![9; 30]));
    set_relay(&mut world, A, elsewhere());
    world.command(A, Command::Send { path: relay_path(elsewhere()), ttl: None, bytes: vec![9; 30] });
    let sent = world.only_sent(A);
    assert_eq!((sent.to, sent.bytes), (server(), channel_data(&[9; 30])));
    world.command(A, Command::Send { path: direct(A), ttl: None, bytes: vec![0; 70_000] });
    assert_eq!(world.discarded(A, Discard::TooLong), 1);
}

#[test]
fn a_probe_is_echoed_on_the_path_it_came_by() {
    for suite in [Suite::AesGcm, Suite::ChaChaPoly] {
        let mut world = World::connected(suite);
        set_relay(&mut world, B, elsewhere());
        for (source, path) in
            [(addr(A), direct(B)), (server(), relay_path(elsewhere())), (elsewhere(), socket_path(elsewhere()))]
        {
            let plaintext = Probe { id: 77 }.encode();
            world.command(A, Command::SealControl { peer: PEER, path: None, ttl: Some(3), plaintext });
            let probe = world.only_sent(A);
            assert_eq!(probe.ttl, Some(3));
            let wire = if path.is_relayed() { channel_data(&probe.bytes) } else { probe.bytes };
            world.receive(B, source, &wire);
            let echo = world.only_sent(B);
            assert_eq!(echo.path, path);
            let inner = if path.is_relayed() { &echo.bytes[4..] } else { &echo.bytes[..] };
            world.receive(A, addr(B), inner);
            let told = Echo { id: 77, observed: path.remote, relayed: path.is_relayed() }.encode();
            assert_eq!(world.side(A).take_events(), [Event::Control { peer: PEER, path: direct(A), plaintext: told }]);
            let events = world.side(B).take_events();
            assert_eq!(events.len(), usize::from(path != direct(B)), "{events:?}");
        }
        assert_eq!(world.sides[B].forward.counters().echoes, 3);
    }
}

#[test]
fn control_messages_come_out_with_their_path_and_wait_within_a_bound() {
    let mut world = World::connected(Suite::AesGcm);
    world.command(A, Command::SealControl { peer: PEER, path: None, ttl: None, plaintext: vec![0x3f, 1, 2] });
    world.settle();
    let told = Event::Control { peer: PEER, path: direct(B), plaintext: vec![0x3f, 1, 2] };
    assert_eq!(world.side(B).take_events(), [told]);
    world.command(A, Command::SealControl { peer: crate::PeerId(99), path: None, ttl: None, plaintext: vec![1] });
    assert_eq!(world.discarded(A, Discard::UnknownPeer), 1);
}

#[test]
fn stock_peers_send_no_control_messages() {
    let mut world = World::connected(Suite::WireGuard);
    world.command(A, Command::SealControl { peer: PEER, path: None, ttl: None, plaintext: vec![0x01; 48] });
    world.settle();
    assert_eq!(world.discarded(B, Discard::UnknownPlaintext), 1);
    assert!(world.side(B).take_events().is_empty() && world.side(B).sent.is_empty());
}

#[test]
fn raw_datagrams_wait_within_a_bound_and_facts_are_not_lost() {
    let mut world = World::connected(Suite::AesGcm);
    let now = world.now;
    let mut datagrams = crate::Datagrams::with_capacity(400, 200);
    let (mut plan, mut arena) = (crate::WritePlan::default(), crate::SendArena::default());
    for number in 0..300u16 {
        datagrams.push(SocketId(2), elsewhere(), &stun(number as u8));
    }
    world.tun(A, &packet(A));
    let data = world.only_sent(A);
    datagrams.push(SocketId(0), elsewhere(), &data.bytes);
    let forward = &mut world.side(B).forward;
    forward.handle_datagrams(now, &mut datagrams, &mut plan, &mut arena);
    let all = std::iter::from_fn(|| forward.poll_event());
    let events: Vec<_> = all.filter(|event| !matches!(event, Event::Traffic { .. })).collect();
    assert_eq!(events[0], Event::Arrived { peer: PEER, path: socket_path(elsewhere()) });
    assert_eq!(events[1], Event::Stun { socket: SocketId(2), from: elsewhere(), bytes: stun(0) });
    assert_eq!(events.len(), STUN_QUEUE + 1);
    assert_eq!(forward.counters().discarded(Discard::RawFull), 300 - STUN_QUEUE as u64);
}

#[test]
fn a_flood_of_handshakes_costs_no_stun_answer_and_the_other_way_round() {
    let flood = HANDSHAKE_QUEUE + STUN_QUEUE;
    for stun_floods in [false, true] {
        let mut world = World::connected(Suite::AesGcm);
        let now = world.now;
        let mut datagrams = crate::Datagrams::with_capacity(flood + 1, 200);
        let (mut plan, mut arena) = (crate::WritePlan::default(), crate::SendArena::default());
        let (junk, wanted) = if stun_floods { (stun(0), initiation()) } else { (initiation(), stun(0)) };
        for _ in 0..flood {
            datagrams.push(SocketId(2), elsewhere(), &junk);
        }
        datagrams.push(SocketId(2), elsewhere(), &wanted);
        let forward = &mut world.side(B).forward;
        forward.handle_datagrams(now, &mut datagrams, &mut plan, &mut arena);
        let is_stun: Vec<bool> = std::iter::from_fn(|| forward.poll_event())
            .filter(|event| matches!(event, Event::Stun { .. } | Event::Handshake { .. }))
            .map(|event| matches!(event, Event::Stun { .. }))
            .collect();
        let place = is_stun.iter().position(|stun| *stun != stun_floods);
        assert!(place.is_some_and(|place| place < 2), "the one of the other kind came at place {place:?}");
        let bound = if stun_floods { STUN_QUEUE } else { HANDSHAKE_QUEUE };
        assert_eq!(is_stun.len(), bound + 1);
        assert_eq!(forward.counters().discarded(Discard::RawFull), (flood - bound) as u64);
    }
}

#[test]
fn a_flood_of_cookie_replies_costs_no_handshake_and_no_stun_answer() {
    let mut world = World::connected(Suite::AesGcm);
    let now = world.now;
    let flood = 2 * HANDSHAKE_QUEUE;
    let mut datagrams = crate::Datagrams::with_capacity(flood + 2, 200);
    let (mut plan, mut arena) = (crate::WritePlan::default(), crate::SendArena::default());
    for first in [0x03, 0xC2, 0xC6].into_iter().cycle().take(flood) {
        let mut cookie = vec![first, 0, 0, 0];
        cookie.resize(64, 7);
        datagrams.push(SocketId(2), elsewhere(), &cookie);
    }
    datagrams.push(SocketId(2), elsewhere(), &stun(0));
    datagrams.push(SocketId(2), elsewhere(), &initiation());
    let forward = &mut world.side(B).forward;
    forward.handle_datagrams(now, &mut datagrams, &mut plan, &mut arena);
    let events: Vec<Event> = std::iter::from_fn(|| forward.poll_event())
        .filter(|event| matches!(event, Event::Stun { .. } | Event::Handshake { .. }))
        .collect();
    let is_cookie = |event: &Event| matches!(event, Event::Handshake { bytes, .. } if bytes.len() == 64);
    assert_eq!(events.iter().take(3).filter(|event| !is_cookie(event)).count(), 2, "by turns");
    assert_eq!(events.len(), COOKIE_QUEUE + 2);
    assert_eq!(forward.counters().discarded(Discard::RawFull), (flood - COOKIE_QUEUE) as u64);
}

#[test]
fn a_handshake_for_no_key_of_ours_is_refused_before_it_waits_and_a_cookie_reply_is_not() {
    let mut forward = crate::Forward::new([1; 32], crate::Config::default());
    let keys = [1, 2].map(|n| Mac1::new(&StaticSecret::from_bytes([n; 32]).public()));
    let stranger = Mac1::new(&StaticSecret::from_bytes([3; 32]).public());
    let stamped = |key: &Mac1, kind: u8, length: usize| {
        let mut message = vec![kind, 0, 0, 0];
        message.resize(length, 7);
        key.stamp(&mut message);
        message
    };
    let mut cookie = vec![3, 0, 0, 0];
    cookie.resize(64, 7);
    let all = [
        stamped(&keys[0], 1, 148),
        stamped(&keys[1], 2, 92),
        stamped(&stranger, 1, 148),
        stamped(&stranger, 2, 92),
        cookie.clone(),
    ];
    let (mut plan, mut arena) = (crate::WritePlan::default(), crate::SendArena::default());
    let mut waiting = |forward: &mut crate::Forward| {
        let mut datagrams = crate::Datagrams::with_capacity(8, 200);
        assert!(all.iter().all(|message| datagrams.push(SocketId(2), elsewhere(), message)));
        forward.handle_datagrams(Instant::ZERO, &mut datagrams, &mut plan, &mut arena);
        let events = std::iter::from_fn(|| forward.poll_event());
        events.filter(|event| matches!(event, Event::Handshake { .. })).count()
    };
    assert_eq!(waiting(&mut forward), 5, "nothing is known of keys");
    let (mut no_plan, mut nothing) = (crate::WritePlan::default(), crate::SendArena::default());
    forward.handle_command(Instant::ZERO, Command::SetKeys(keys.to_vec()), &mut no_plan, &mut nothing);
    assert_eq!(waiting(&mut forward), 3);
    assert_eq!(forward.counters().discarded(Discard::BadMac), 2);
}

fn initiation() -> Vec<u8> {
    let mut message = vec![1, 0, 0, 0];
    message.resize(148, 7);
    message
}

fn stun(number: u8) -> Vec<u8> {
    let mut message = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    message.resize(20, number);
    message
}
