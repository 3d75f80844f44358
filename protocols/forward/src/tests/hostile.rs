//! Peers that lie and bytes that are wrong.

use ginnel_tunnel::Suite;
use proptest::prelude::*;

use super::world::{A, B, PEER, V4, V6, World, addr, direct, host, secs};
use crate::test_packet::udp;
use crate::{Command, Discard, PeerId, Roam};

#[test]
fn a_source_address_that_is_not_the_senders_is_dropped() {
    for suite in Suite::ALL {
        let mut world = World::connected(suite);
        let other = Command::AddPeer {
            peer: PeerId(8),
            allowed: vec![host("100.64.0.3"), ("10.0.0.0".parse().expect("address"), 8)],
            roam: Roam::Fixed,
            persistent_keepalive: None,
        };
        world.command(B, other);
        for source in ["100.64.0.3", "10.1.2.3", "8.8.8.8", V4[B]] {
            world.tun(A, &udp(source, 1, V4[B], 2, b"x"));
        }
        world.tun(A, &udp("fd00::3", 1, V6[B], 2, b"x"));
        world.settle();
        assert!(world.side(B).tun.is_empty());
        assert_eq!(world.discarded(B, Discard::SpoofedSource), 5);
        assert_eq!(world.counters(B).rx_data_packets, 0);
    }
}

#[test]
fn a_peer_is_spoken_with_by_the_addresses_it_may_know() {
    let mut world = World::connected(Suite::AesGcm);
    let own = vec![V4[B].parse().expect("address")];
    world.command(B, Command::SetOwn { peer: PEER, own });
    // A itself keeps to no rule.
    let allowed = vec![host(V4[B]), host(V6[B]), host("100.70.0.1")];
    world.command(A, Command::AddPeer { peer: PEER, allowed, roam: Roam::Fixed, persistent_keepalive: None });
    for destination in [V4[B], "100.70.0.1"] {
        world.tun(A, &udp(V4[A], 1, destination, 2, b"x"));
    }
    world.tun(A, &udp(V6[A], 1, V6[B], 2, b"x"));
    world.settle();
    assert_eq!(world.side(B).tun.len(), 1);
    assert_eq!(world.discarded(B, Discard::ForeignDestination), 2);
    for source in [V4[B], "100.70.0.1"] {
        world.tun(B, &udp(source, 1, V4[A], 2, b"x"));
    }
    world.tun(B, &udp(V6[B], 1, V6[A], 2, b"x"));
    world.settle();
    assert_eq!(world.side(A).tun.len(), 1);
    assert_eq!(world.discarded(B, Discard::ForeignSource), 2);
}

#[test]
fn datagrams_of_another_suite_or_session_are_refused() {
    let mut world = World::connected(Suite::AesGcm);
    world.tun(A, &udp(V4[A], 1, V4[B], 2, b"x"));
    let sent = world.only_sent(A).bytes;
    let mut other_suite = sent.clone();
    other_suite[0] = 0xC7;
    world.receive(B, addr(A), &other_suite);
    assert_eq!(world.discarded(B, Discard::WrongSuite), 1);
    let mut other_session = sent.clone();
    other_session[8] ^= 0xff;
    world.receive(B, addr(A), &other_session);
    assert_eq!(world.discarded(B, Discard::UnknownIndex), 1);
    world.receive(A, addr(B), &sent);
    assert_eq!(world.discarded(A, Discard::UnknownIndex), 1, "our own datagram, reflected");
    world.receive(B, addr(A), &sent);
    assert_eq!(world.side(B).tun.len(), 1);
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused_and_leaves_the_session_working() {
    for suite in Suite::ALL {
        let mut world = World::connected(suite);
        let packet = udp(V4[A], 1, V4[B], 2, b"x");
        world.tun(A, &packet);
        let sent = world.only_sent(A).bytes;
        for bit in 0..sent.len() * 8 {
            let mut flipped = sent.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            world.receive(B, addr(A), &flipped);
        }
        for len in 0..sent.len() {
            world.receive(B, addr(A), &sent[..len]);
        }
        assert!(world.side(B).tun.is_empty());
        let counters = world.sides[B].forward.counters();
        assert_eq!(counters.discarded_total(), (sent.len() * 9) as u64);
        world.receive(B, addr(A), &sent);
        assert_eq!(world.only_tun(B), packet);
    }
}

#[test]
fn sealed_plaintexts_of_no_known_kind_are_counted() {
    let mut world = World::connected(Suite::AesGcm);
    for (plaintext, reason) in [
        (vec![0x50; 40], Discard::UnknownPlaintext),
        (vec![0x45; 30], Discard::MalformedPacket),
        (vec![0x60], Discard::MalformedPacket),
        (vec![0x01, 1, 2], Discard::MalformedProbe),
    ] {
        let before = world.discarded(B, reason);
        world.command(A, Command::SealControl { peer: PEER, path: Some(direct(A)), ttl: None, plaintext });
        world.settle();
        assert_eq!(world.discarded(B, reason), before + 1);
    }
    assert!(world.side(B).tun.is_empty() && world.side(B).take_events().is_empty());
}

#[test]
fn a_flood_of_control_messages_is_bounded() {
    let mut world = World::connected(Suite::AesGcm);
    let now = world.now;
    for number in 0..100 {
        let plaintext = vec![0x3f, number];
        world.command(A, Command::SealControl { peer: PEER, path: None, ttl: None, plaintext });
    }
    let mut datagrams = crate::Datagrams::with_capacity(100, 200);
    for sent in std::mem::take(&mut world.side(A).sent) {
        datagrams.push(sent.socket, addr(A), &sent.bytes);
    }
    let (mut plan, mut arena) = (crate::WritePlan::default(), crate::SendArena::default());
    let forward = &mut world.side(B).forward;
    forward.handle_datagrams(now, &mut datagrams, &mut plan, &mut arena);
    assert_eq!(std::iter::from_fn(|| forward.poll_event()).count(), crate::CONTROL_QUEUE);
    assert_eq!(forward.counters().discarded(Discard::ControlFull), 100 - crate::CONTROL_QUEUE as u64);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn no_bytes_on_any_road_panic_and_none_is_delivered(
        chunks in proptest::collection::vec(
            (prop_oneof![0u8..6, 0x3eu8..0x52, 0xbeu8..0xca, any::<u8>()], any::<bool>(), proptest::collection::vec(any::<u8>(), 0..300), 0u8..4),
            1..20,
        )
    ) {
        let mut world = World::connected(Suite::ChaChaPoly);
        world.command(B, Command::SetRelay { relay: ginnel_path::RelayId(1), socket: ginnel_path::SocketId(0), server: addr(A) });
        world.command(B, Command::BindChannel { relay: ginnel_path::RelayId(1), channel: 0x4001, remote: addr(B) });
        for (first, reserved, rest, road) in chunks {
            let mut bytes = vec![first];
            if reserved {
                bytes.extend_from_slice(&[0, 0, 0]);
            }
            bytes.extend_from_slice(&rest);
            match road {
                0 => world.receive(B, addr(A), &bytes),
                1 => world.command(B, Command::Inject { path: direct(B), bytes }),
                2 => {
                    let framed = [&[0x40, 1][..], &(bytes.len() as u16).to_be_bytes(), &bytes].concat();
                    world.receive(B, addr(A), &framed);
                }
                _ => world.tun(A, &bytes),
            }
            world.pass(secs(1));
        }
        prop_assert!(world.side(B).tun.is_empty());
    }
}
