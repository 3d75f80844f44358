//! Packets there and back.

use ginnel_tunnel::Suite;

use super::world::{A, B, PEER, V4, V6, World, addr, direct, host, secs};
use crate::test_packet::{ip, ping, pong, udp};
use crate::{Command, Discard, Event, PENDING_PACKETS, PeerId, Roam, Shields};

#[test]
fn packets_of_both_families_pass_both_ways_under_every_suite() {
    for suite in Suite::ALL {
        let mut world = World::connected(suite);
        for addresses in [V4, V6] {
            for from in [A, B] {
                for len in [0, 1, 15, 16, 17, 1000, 1200] {
                    let packet = udp(addresses[from], 1, addresses[1 - from], 2, &vec![0xab; len]);
                    world.tun(from, &packet);
                    let sent = world.only_sent(from);
                    let padding =
                        if suite == Suite::WireGuard { packet.len().next_multiple_of(16) } else { packet.len() };
                    assert_eq!(sent.bytes.len(), padding + 32);
                    world.receive(1 - from, addr(from), &sent.bytes);
                    assert_eq!(world.only_tun(1 - from), packet);
                }
            }
        }
        for side in [A, B] {
            assert_eq!(world.sides[side].forward.counters().discarded_total(), 0);
            assert_eq!(world.counters(side).rx_data_packets, 14);
            assert_eq!(world.counters(side).tx_data_packets, 14);
        }
    }
}

#[test]
fn padding_never_passes_the_mtu() {
    let mut world = World::connected(Suite::WireGuard);
    let packet = udp(V4[A], 1, V4[B], 2, &vec![0; 1275 - 28]);
    world.tun(A, &packet);
    assert_eq!(world.only_sent(A).bytes.len(), 1280 + 32);
}

#[test]
fn a_batch_is_delivered_whole_and_in_order() {
    let mut world = World::connected(Suite::AesGcm);
    let packets: Vec<_> = (0..50u16).map(|port| udp(V4[A], port, V4[B], 2, &[port as u8; 900])).collect();
    for packet in &packets {
        world.tun(A, packet);
    }
    world.settle();
    assert_eq!(world.side(B).tun, packets);
}

#[test]
fn packets_without_session_wait_up_to_a_bound_and_the_newest_stay() {
    let mut world = World::new(Roam::Fixed);
    for port in 0..PENDING_PACKETS as u16 + 10 {
        world.tun(A, &udp(V4[A], port, V4[B], 2, b"x"));
    }
    assert_eq!(world.side(A).take_events(), [Event::SessionWanted { peer: PEER }]);
    assert_eq!(world.counters(A).waiting, PENDING_PACKETS);
    assert_eq!(world.discarded(A, Discard::PendingFull), 10);

    world.rekey(A, Suite::ChaChaPoly);
    assert!(world.side(A).sent.is_empty(), "data waits for a path");
    world.set_direct_paths();
    world.settle();
    let tun = std::mem::take(&mut world.side(B).tun);
    assert_eq!(tun.len(), PENDING_PACKETS);
    assert_eq!(tun[0], udp(V4[A], 10, V4[B], 2, b"x"));
    assert_eq!(world.counters(A).waiting, 0);
}

#[test]
fn a_session_is_asked_for_again_while_packets_come() {
    let mut world = World::new(Roam::Fixed);
    let packet = udp(V4[A], 1, V4[B], 2, b"x");
    world.tun(A, &packet);
    world.tun(A, &packet);
    assert_eq!(world.side(A).take_events().len(), 1);
    world.pass(secs(1));
    world.tun(A, &packet);
    assert_eq!(world.side(A).take_events(), [Event::SessionWanted { peer: PEER }]);
    world.pass(secs(200));
    assert_eq!(world.counters(A).waiting, 0);
    assert_eq!(world.discarded(A, Discard::PendingExpired), 3);
    assert!(world.side(A).take_events().is_empty());
}

#[test]
fn a_packet_that_nobody_owns_is_answered_by_an_icmp_error() {
    let mut world = World::connected(Suite::AesGcm);
    world.tun(A, &udp(V4[A], 1, "100.64.9.9", 2, b"x"));
    assert_eq!(world.discarded(A, Discard::NoRoute), 1);
    let error = world.only_tun(A);
    assert_eq!((error[9], error[20], error[21]), (1, 3, 1));
    world.tun(A, &udp(V4[A], 1, "100.64.9.9", 2, b"x"));
    assert!(world.side(A).tun.is_empty(), "errors are limited");
    world.pass(secs(1));
    world.tun(A, &udp(V6[A], 1, "fd00::99", 2, b"x"));
    let error = world.only_tun(A);
    assert_eq!((error[6], error[40], error[41]), (58, 1, 3));
    assert!(world.side(A).sent.is_empty());
}

#[test]
fn malformed_packets_from_the_tun_are_counted() {
    let mut world = World::connected(Suite::AesGcm);
    for bytes in [&[][..], &[0x45], &[0x45; 19], &[0x60; 39], &[0xff; 60]] {
        world.tun(A, bytes);
    }
    assert_eq!(world.discarded(A, Discard::MalformedPacket), 5);
    assert!(world.side(A).sent.is_empty());
}

#[test]
fn a_removed_peer_takes_its_addresses_with_it() {
    let mut world = World::connected(Suite::AesGcm);
    world.command(A, Command::RemovePeer { peer: PEER });
    world.tun(A, &udp(V4[A], 1, V4[B], 2, b"x"));
    assert_eq!(world.discarded(A, Discard::NoRoute), 1);
    assert!(world.sides[A].forward.peer_counters(PEER).is_none());
    world.tun(B, &udp(V4[B], 1, V4[A], 2, b"x"));
    world.settle();
    assert_eq!(world.discarded(A, Discard::UnknownIndex), 1);
    world.pass(secs(1000));
    assert_eq!(world.sides[A].forward.poll_timeout(), None);
}

#[test]
fn addresses_move_with_the_newest_order() {
    let mut world = World::connected(Suite::AesGcm);
    let other = PeerId(8);
    let allowed = vec![host(V4[B])];
    world.command(A, Command::AddPeer { peer: other, allowed, roam: Roam::Fixed, persistent_keepalive: None });
    world.tun(A, &udp(V4[A], 1, V4[B], 2, b"x"));
    assert_eq!(world.side(A).take_events(), [Event::SessionWanted { peer: other }]);
    world.tun(A, &udp(V6[A], 1, V6[B], 2, b"x"));
    assert_eq!(world.only_sent(A).path, direct(A));
}

#[test]
fn shields_let_only_answers_in() {
    for addresses in [V4, V6] {
        let mut world = World::connected(Suite::AesGcm);
        world.command(A, Command::SetShields(Shields::Up));
        let question = udp(addresses[A], 1000, addresses[B], 53, b"q");
        let answer = udp(addresses[B], 53, addresses[A], 1000, b"a");
        let arrives = |world: &mut World, packet: &[u8]| {
            world.tun(B, packet);
            world.settle();
            let tun = std::mem::take(&mut world.side(A).tun);
            assert!(tun.is_empty() || tun == [packet]);
            !tun.is_empty()
        };
        assert!(!arrives(&mut world, &answer));
        world.tun(A, &question);
        world.settle();
        assert!(arrives(&mut world, &answer));
        assert!(!arrives(&mut world, &udp(addresses[B], 53, addresses[A], 1001, b"a")));
        assert!(!arrives(&mut world, &ping(addresses[B], addresses[A], 5)));
        assert!(!arrives(&mut world, &pong(addresses[B], addresses[A], 5)));
        world.tun(A, &ping(addresses[A], addresses[B], 5));
        world.settle();
        assert!(arrives(&mut world, &pong(addresses[B], addresses[A], 5)));
        let (protocol, kind) = if addresses == V4 { (1, 3) } else { (58, 1) };
        let error = [&[kind, 3, 0, 0, 0, 0, 0, 0], &question[..]].concat();
        assert!(arrives(&mut world, &ip(addresses[B], addresses[A], protocol, &error)));
        let error = [&[kind, 3, 0, 0, 0, 0, 0, 0], &udp(addresses[A], 7, addresses[B], 7, b"")[..]].concat();
        assert!(!arrives(&mut world, &ip(addresses[B], addresses[A], protocol, &error)));
        assert_eq!(world.discarded(A, Discard::ShieldsUp), 5);
        world.command(A, Command::SetShields(Shields::Down));
        assert!(arrives(&mut world, &ping(addresses[B], addresses[A], 5)));
    }
}

#[test]
fn two_data_planes_with_one_seed_do_the_same() {
    let run = || {
        let mut world = World::connected(Suite::AesGcm);
        world.tun(A, &udp(V4[A], 1, V4[B], 2, b"x"));
        world.pass(secs(300));
        let sent: Vec<_> = world.side(A).sent.iter().map(|sent| sent.bytes.clone()).collect();
        (sent, world.side(A).take_events(), world.sides[A].forward.counters())
    };
    assert_eq!(run(), run());
}
