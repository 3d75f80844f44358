//! Sessions: order, promotion, replay, rekey, end.

use ginnel_path::message::{Echo, Probe};
use ginnel_tunnel::{ReceiverIndex, Suite};

use super::world::{A, B, PEER, V4, World, addr, direct, secs, socket_path};
use crate::test_packet::udp;
use crate::{Command, Discard, Event, RekeyReason, Roam};

fn packet(from: usize, number: u16) -> Vec<u8> {
    udp(V4[from], number, V4[1 - from], 2, b"payload")
}

fn rekeys(events: &[Event]) -> Vec<RekeyReason> {
    events.iter().filter_map(|event| if let Event::RekeyDue { why, .. } = event { Some(*why) } else { None }).collect()
}

#[test]
fn the_responder_seals_nothing_before_the_first_packet_and_tells_of_it() {
    for suite in Suite::ALL {
        let mut world = World::new(Roam::Fixed);
        let [_, theirs] = world.rekey(A, suite);
        world.tun(B, &packet(B, 1));
        world.set_direct_paths();
        assert!(world.side(B).sent.is_empty());
        world.tun(B, &packet(B, 2));
        assert!(world.side(B).sent.is_empty());
        let confirming = world.only_sent(A);
        assert_eq!(confirming.bytes.len(), 32, "the initiator confirms by a keepalive");
        world.side(B).take_events();
        world.receive(B, addr(A), &confirming.bytes);
        assert_eq!(world.side(B).take_events(), [Event::Confirmed { peer: PEER, index: theirs }]);
        world.settle();
        assert_eq!(world.side(A).tun, [packet(B, 1), packet(B, 2)]);
        assert!(world.counters(A).last_handshake.is_some() && world.counters(B).last_handshake.is_some());
    }
}

#[test]
fn the_initiator_confirms_with_what_waits_rather_than_a_keepalive() {
    let mut world = World::new(Roam::FollowSource);
    world.set_direct_paths();
    world.tun(A, &packet(A, 1));
    world.rekey(A, Suite::WireGuard);
    assert_eq!(world.side(A).sent.len(), 1);
    world.settle();
    assert_eq!(world.only_tun(B), packet(A, 1));
}

#[test]
fn a_replayed_datagram_is_dropped_and_reordered_ones_are_not() {
    for suite in Suite::ALL {
        let mut world = World::connected(suite);
        for number in 0..200 {
            world.tun(A, &packet(A, number));
        }
        let mut sent = std::mem::take(&mut world.side(A).sent);
        sent.reverse();
        for datagram in &sent {
            world.receive(B, addr(A), &datagram.bytes);
        }
        assert_eq!(world.side(B).tun.len(), 200);
        for datagram in &sent {
            world.receive(B, addr(A), &datagram.bytes);
        }
        assert_eq!(world.side(B).tun.len(), 200);
        assert_eq!(world.discarded(B, Discard::Replayed), 200);
    }
}

#[test]
fn packets_sealed_before_a_rekey_still_arrive_after_it() {
    let mut world = World::connected(Suite::ChaChaPoly);
    world.tun(A, &packet(A, 1));
    let late = world.only_sent(A);
    world.rekey(A, Suite::ChaChaPoly);
    world.settle();
    world.receive(B, addr(A), &late.bytes);
    assert_eq!(world.only_tun(B), packet(A, 1));
    world.tun(B, &packet(B, 3));
    world.settle();
    assert_eq!(world.only_tun(A), packet(B, 3));
}

#[test]
fn crossed_handshakes_leave_both_directions_alive() {
    for suite in Suite::ALL {
        let mut world = World::new(if suite == Suite::WireGuard { Roam::FollowSource } else { Roam::Fixed });
        world.set_direct_paths();
        let (a_begins, b_answers) = world.handshake(suite);
        let (b_begins, a_answers) = world.handshake(suite);
        world.command(A, Command::Install { peer: PEER, established: a_answers });
        world.command(B, Command::Install { peer: PEER, established: b_answers });
        world.command(A, Command::Install { peer: PEER, established: a_begins });
        world.command(B, Command::Install { peer: PEER, established: b_begins });
        for round in 0..5 {
            for from in [A, B] {
                world.tun(from, &packet(from, round));
                world.settle();
                assert_eq!(world.only_tun(1 - from), packet(from, round));
            }
        }
        for side in [A, B] {
            assert_eq!(world.sides[side].forward.counters().discarded_total(), 0);
            let events = world.side(side).take_events();
            assert_eq!(events.iter().filter(|event| matches!(event, Event::Confirmed { .. })).count(), 1);
        }
        // The next handshake must not cut off what the other side still seals on its own session.
        world.tun(B, &packet(B, 50));
        let in_flight = world.only_sent(B);
        world.rekey(A, suite);
        world.receive(A, addr(B), &in_flight.bytes);
        assert_eq!(world.only_tun(A), packet(B, 50));
    }
}

#[test]
fn a_session_that_was_never_confirmed_does_not_replace_the_one_in_use() {
    let mut world = World::connected(Suite::AesGcm);
    for _ in 0..10 {
        let (_, responding) = world.handshake(Suite::AesGcm);
        world.command(B, Command::Install { peer: PEER, established: responding });
    }
    let expired = world.side(B).take_events();
    assert_eq!(expired.iter().filter(|event| matches!(event, Event::Expired { .. })).count(), 9);
    for from in [A, B] {
        world.tun(from, &packet(from, 1));
        world.settle();
        assert_eq!(world.only_tun(1 - from), packet(from, 1));
    }
}

#[test]
fn only_the_initiator_rekeys_by_age_and_only_when_it_sends() {
    let mut world = World::connected(Suite::AesGcm);
    world.pass(secs(121));
    assert!(world.side(A).take_events().is_empty(), "an idle session is not renewed");
    world.tun(B, &packet(B, 1));
    assert!(rekeys(&world.side(B).take_events()).is_empty());
    world.tun(A, &packet(A, 1));
    assert_eq!(rekeys(&world.side(A).take_events()), [RekeyReason::Age]);
    for _ in 0..10 {
        world.tun(A, &packet(A, 1));
    }
    assert!(world.side(A).take_events().is_empty(), "no second request before the retry time");
    world.pass(secs(5));
    world.tun(A, &packet(A, 1));
    assert_eq!(rekeys(&world.side(A).take_events()), [RekeyReason::Age]);
    world.rekey(A, Suite::AesGcm);
    world.tun(A, &packet(A, 1));
    assert!(rekeys(&world.side(A).take_events()).is_empty());
}

#[test]
fn a_request_that_a_new_session_answered_is_not_offered_any_more() {
    let mut world = World::connected(Suite::AesGcm);
    world.pass(secs(121));
    let now = world.now;
    let mut arena = crate::SendArena::default();
    let mut plan = crate::WritePlan::default();
    let mut batch = crate::TunBatch::default();
    batch.push(&packet(A, 1));
    let (established, _) = world.handshake(Suite::AesGcm);
    let forward = &mut world.side(A).forward;
    forward.handle_tun(now, &mut batch, &mut plan, &mut arena);
    assert_eq!(forward.poll_timeout(), Some(now), "an event waits");
    forward.handle_command(now, Command::Install { peer: PEER, established }, &mut plan, &mut arena);
    assert_eq!(forward.poll_event(), Some(Event::Traffic { peer: PEER, sent: true, received: false }));
    assert_eq!(forward.poll_event(), None);
}

#[test]
fn an_initiator_that_only_receives_rekeys_at_the_last_minute() {
    let mut world = World::connected(Suite::AesGcm);
    world.pass(secs(164));
    world.tun(B, &packet(B, 1));
    world.settle();
    assert!(rekeys(&world.side(A).take_events()).is_empty());
    world.pass(secs(1));
    world.tun(B, &packet(B, 2));
    world.settle();
    assert_eq!(rekeys(&world.side(A).take_events()), [RekeyReason::LastMinute]);
    assert!(rekeys(&world.side(B).take_events()).is_empty());
}

#[test]
fn silence_after_data_calls_for_a_handshake_once() {
    for from in [A, B] {
        let mut world = World::connected(Suite::ChaChaPoly);
        world.tun(from, &packet(from, 1));
        world.pass(secs(14) + std::time::Duration::from_millis(999));
        assert!(world.side(from).take_events().is_empty());
        world.pass(std::time::Duration::from_millis(334));
        assert_eq!(rekeys(&world.side(from).take_events()), [RekeyReason::Silence]);
        world.pass(secs(60));
        assert!(rekeys(&world.side(from).take_events()).is_empty());
    }
}

#[test]
fn received_data_is_answered_by_a_keepalive_and_that_ends_the_silence() {
    for suite in Suite::ALL {
        let mut world = World::connected(suite);
        world.tun(A, &packet(A, 1));
        world.settle();
        world.pass(secs(9));
        assert!(world.side(B).sent.is_empty());
        world.pass(secs(1));
        assert_eq!(world.sides[B].sent.len(), 1);
        assert_eq!(world.sides[B].sent[0].bytes.len(), 32);
        world.settle();
        world.pass(secs(60));
        assert!(world.side(A).take_events().is_empty());
        assert!(world.side(A).sent.is_empty() && world.side(B).sent.is_empty(), "a keepalive is not answered");
    }
}

#[test]
fn data_that_goes_back_spares_the_keepalive() {
    let mut world = World::connected(Suite::AesGcm);
    world.tun(A, &packet(A, 1));
    world.settle();
    world.pass(secs(5));
    world.tun(B, &packet(B, 1));
    world.side(B).sent.clear();
    world.pass(secs(9));
    assert!(world.side(B).sent.is_empty());
}

#[test]
fn persistent_keepalives_go_out_at_their_interval_and_ask_for_a_session() {
    let mut world = World::new(Roam::FollowSource);
    world.set_direct_paths();
    let add = |interval| Command::AddPeer {
        peer: PEER,
        allowed: vec![super::world::host(V4[B])],
        roam: Roam::FollowSource,
        persistent_keepalive: interval,
    };
    world.command(A, add(Some(secs(25))));
    world.pass(secs(0));
    assert_eq!(world.side(A).take_events(), [Event::SessionWanted { peer: PEER }]);
    world.rekey(A, Suite::WireGuard);
    world.settle();
    world.pass(secs(101));
    assert_eq!(world.side(A).sent.len(), 4);
    world.command(A, add(None));
    world.side(A).sent.clear();
    world.pass(secs(60));
    assert!(world.side(A).sent.is_empty());
    world.command(A, add(Some(secs(0))));
    world.pass(secs(60));
    assert!(world.side(A).sent.is_empty());
}

#[test]
fn a_session_ends_at_its_age_in_both_directions() {
    for suite in Suite::ALL {
        let mut world = World::connected(suite);
        world.pass(secs(179));
        world.tun(A, &packet(A, 1));
        world.tun(A, &packet(A, 2));
        let [in_time, late] = std::mem::take(&mut world.side(A).sent).try_into().expect("two datagrams");
        world.receive(B, addr(A), &in_time.bytes);
        assert_eq!(world.only_tun(B), packet(A, 1));
        let events = world.side(A).take_events();
        assert_eq!(rekeys(&events), [RekeyReason::Age]);
        // The age counts even before a timeout is handled.
        world.now += secs(1);
        world.receive(B, addr(A), &late.bytes);
        assert_eq!(world.discarded(B, Discard::KeyExpired), 1);
        world.tun(A, &packet(A, 3));
        assert!(world.side(A).sent.is_empty());
        world.pass(secs(0));
        for side in [A, B] {
            let events = world.side(side).take_events();
            assert_eq!(events.iter().filter(|event| matches!(event, Event::Expired { .. })).count(), 1, "{events:?}");
        }
        world.receive(B, addr(A), &late.bytes);
        assert_eq!(world.discarded(B, Discard::UnknownIndex), 1, "the key is erased");
        assert_eq!(world.counters(A).waiting, 1);
    }
}

#[test]
fn an_idle_network_sends_nothing_for_a_day() {
    for suite in Suite::ALL {
        let mut world = World::connected(suite);
        for from in [A, B] {
            world.tun(from, &packet(from, 1));
        }
        world.settle();
        world.pass(secs(600));
        world.settle();
        for side in [A, B] {
            world.side(side).take_events();
            world.side(side).sent.clear();
        }
        world.pass(secs(24 * 3600));
        for side in [A, B] {
            assert!(world.side(side).sent.is_empty());
            assert!(world.side(side).take_events().is_empty());
            assert_eq!(world.sides[side].forward.poll_timeout(), None);
        }
    }
}

#[test]
fn a_keepalive_is_not_answered_by_a_keepalive() {
    for suite in Suite::ALL {
        let mut world = World::connected(suite);
        world.tun(A, &packet(A, 1));
        world.settle();
        let sent = |world: &World| world.sides.iter().map(|side| side.forward.counters().keepalives_sent).sum::<u64>();
        let before = sent(&world);
        for _ in 0..150 {
            world.pass(secs(1));
            world.settle();
        }
        assert_eq!(sent(&world) - before, 1, "one answers the packet, and none answers that one");
    }
}

#[test]
fn a_forgotten_session_ends_without_a_report() {
    let mut world = World::new(Roam::Fixed);
    world.set_direct_paths();
    let [mine, theirs] = world.rekey(A, Suite::AesGcm);
    world.settle();
    world.side(B).take_events();
    world.command(A, Command::Forget { index: mine });
    world.command(B, Command::Forget { index: theirs });
    world.command(B, Command::Forget { index: ReceiverIndex(0) });
    world.tun(A, &packet(A, 1));
    assert!(world.side(A).sent.is_empty());
    assert_eq!(world.side(A).take_events(), [Event::SessionWanted { peer: PEER }]);
    world.pass(secs(1000));
    assert!(world.side(B).take_events().is_empty());
}

#[test]
fn an_earlier_now_counts_as_the_latest_seen() {
    let mut world = World::connected(Suite::AesGcm);
    world.pass(secs(179));
    world.tun(A, &packet(A, 1));
    world.side(A).sent.clear();
    world.now = world.now - secs(500);
    world.tun(A, &packet(A, 1));
    assert_eq!(world.side(A).sent.len(), 1);
    assert_eq!(world.counters(A).last_sent, Some(world.now + secs(500)));
}

#[test]
fn a_probe_that_cannot_be_answered_yet_is_answered_once_there_is_a_session() {
    let mut world = World::connected(Suite::AesGcm);
    // A begins a session that B never hears of in time, so A probes on one that B may only receive on.
    let (a_begins, b_answers) = world.handshake(Suite::AesGcm);
    let (b_begins, a_answers) = world.handshake(Suite::AesGcm);
    world.pass(secs(100));
    world.command(B, Command::Install { peer: PEER, established: b_answers });
    world.command(A, Command::Install { peer: PEER, established: a_begins });
    world.side(A).sent.clear();
    let b_index = b_begins.local_index;
    world.command(A, Command::Install { peer: PEER, established: a_answers });
    world.command(B, Command::Install { peer: PEER, established: b_begins });
    world.command(B, Command::Forget { index: b_index });
    world.side(B).sent.clear();
    let plaintext = Probe { id: 5 }.encode();
    world.command(A, Command::SealControl { peer: PEER, path: Some(direct(A)), ttl: None, plaintext });
    let probe = world.only_sent(A);
    world.receive(B, addr(A), &probe.bytes);
    assert!(world.side(B).sent.is_empty());
    world.side(A).take_events();
    world.rekey(B, Suite::AesGcm);
    world.settle();
    let expected = Echo { id: 5, observed: addr(A), relayed: false }.encode();
    let events = world.side(A).take_events();
    assert!(events.contains(&Event::Control { peer: PEER, path: socket_path(addr(B)), plaintext: expected }));
}

#[test]
fn traffic_is_told_once_a_second_and_direction() {
    let mut world = World::connected(Suite::AesGcm);
    for _ in 0..5 {
        world.tun(A, &packet(A, 1));
        world.settle();
    }
    let told = |side: &mut super::world::Side| std::mem::take(&mut side.traffic);
    assert_eq!(told(world.side(A)), [Event::Traffic { peer: PEER, sent: true, received: false }]);
    assert_eq!(told(world.side(B)), [Event::Traffic { peer: PEER, sent: false, received: true }]);
    world.pass(secs(1));
    world.tun(A, &packet(A, 1));
    assert_eq!(told(world.side(A)).len(), 1);
    world.pass(secs(60));
    world.settle();
    assert!(told(world.side(A)).is_empty(), "keepalives are no data");
}
