//! The two halves on their own: key limits, and notices that wait.

use ginnel_path::SocketId;
use ginnel_path::message::Probe;
use ginnel_tunnel::{Metadata, Suite, timers};

use super::world::{A, B, PEER, V4, World, addr, direct, host, secs};
use crate::session::split;
use crate::test_packet::udp;
use crate::{
    Config, Datagrams, Discard, ECHO_QUEUE, Egress, EgressCommand, Event, Ingress, IngressCommand, Notice, Received,
    RekeyReason, Roam, SendArena, SendSession, TunBatch, Wear, WritePlan,
};

fn egress_with(session: SendSession, world: &World) -> Egress {
    egress_of(Config::default(), session, world)
}

fn egress_of(config: Config, session: SendSession, world: &World) -> Egress {
    let mut egress = Egress::new([0; 32], config);
    let mut arena = SendArena::default();
    let (primary, backup) = (Some(direct(A)), None);
    for command in [
        EgressCommand::AddPeer { peer: PEER, allowed: vec![host(V4[B])], persistent_keepalive: None },
        EgressCommand::SetPath { peer: PEER, primary, backup, duplicate: false },
        EgressCommand::Install { peer: PEER, session },
    ] {
        egress.handle_command(world.now, command, &mut arena);
    }
    egress
}

fn send(egress: &mut Egress, world: &World) -> (usize, Vec<Event>) {
    let (mut batch, mut plan, mut arena) = (TunBatch::default(), WritePlan::default(), SendArena::default());
    batch.push(&udp(V4[A], 1, V4[B], 2, b"x"));
    egress.push(world.now, &mut batch, &mut plan, &mut arena);
    let events = std::iter::from_fn(|| egress.poll_event());
    (arena.len(), events.filter(|event| !matches!(event, Event::Traffic { .. })).collect())
}

#[test]
fn a_worn_sending_key_asks_for_a_successor_and_a_spent_one_seals_nothing() {
    let mut world = World::new(Roam::Fixed);
    let (initiating, _) = world.handshake(Suite::AesGcm);
    let (mut session, _) = split(initiating);
    session.sealer.charge_blocks(timers::REKEY_AFTER_BLOCKS - 10);
    let mut egress = egress_with(session, &world);
    let mut why = Vec::new();
    for _ in 0..5 {
        let (sent, events) = send(&mut egress, &world);
        assert_eq!(sent, 1);
        why.extend(events);
    }
    assert_eq!(why, [Event::RekeyDue { peer: PEER, why: RekeyReason::Count }]);

    let (initiating, _) = world.handshake(Suite::WireGuard);
    let (mut session, _) = split(initiating);
    session.sealer.skip_to(timers::REJECT_AFTER_MESSAGES - 2);
    let mut egress = egress_with(session, &world);
    assert_eq!(send(&mut egress, &world).0, 1, "the confirming keepalive took the other of the two");
    let (sent, events) = send(&mut egress, &world);
    assert_eq!((sent, events), (0, vec![Event::SessionWanted { peer: PEER }]));
    assert_eq!(egress.peer_counters(PEER).expect("the peer is there").waiting, 1);
}

#[test]
fn configured_times_replace_those_of_wireguard() {
    let mut world = World::new(Roam::Fixed);
    let (initiating, _) = world.handshake(Suite::ChaChaPoly);
    let config = Config { rekey_after_time: secs(2), reject_after_time: secs(4), ..Config::default() };
    let mut egress = egress_of(config, split(initiating).0, &world);
    world.now += secs(1);
    assert_eq!(send(&mut egress, &world), (1, Vec::new()));
    world.now += secs(1);
    assert_eq!(send(&mut egress, &world), (1, vec![Event::RekeyDue { peer: PEER, why: RekeyReason::Age }]));
    world.now += secs(2);
    assert_eq!(send(&mut egress, &world), (0, vec![Event::SessionWanted { peer: PEER }]));
}

#[test]
fn a_worn_receiving_key_asks_for_a_successor_and_a_spent_one_opens_nothing() {
    for (spent, discard) in
        [(timers::REKEY_AFTER_BLOCKS, None), (timers::REJECT_AFTER_BLOCKS, Some(Discard::KeyExhausted))]
    {
        let mut world = World::new(Roam::Fixed);
        let (initiating, responding) = world.handshake(Suite::AesGcm);
        let (mut sending, _) = split(initiating);
        let (_, mut receiving) = split(responding);
        receiving.opener.charge_blocks(spent);
        let mut ingress = ingress_with(receiving, &world);
        let mut buffer = vec![0; 48];
        let len = sending.sealer.seal(Metadata::NONE, &mut buffer, 0).expect("a new key");
        receive(&mut ingress, &world, &buffer[..len]);
        let notices: Vec<_> = std::iter::from_fn(|| ingress.poll_notice()).collect();
        match discard {
            Some(reason) => {
                assert!(notices.is_empty());
                assert_eq!(ingress.counters().discarded(reason), 1);
            }
            None => {
                let worn = Notice::Received { peer: PEER, what: Received::Control, wear: Wear::Worn };
                assert!(notices.contains(&worn), "{notices:?}");
            }
        }
    }
}

#[test]
fn notices_wait_until_they_are_taken_and_stay_within_their_bound() {
    let mut world = World::new(Roam::FollowSource);
    let (initiating, responding) = world.handshake(Suite::ChaChaPoly);
    let (mut sending, _) = split(initiating);
    let (_, receiving) = split(responding);
    let index = receiving.index;
    let mut ingress = ingress_with(receiving, &world);
    for id in 0..20 {
        let probe = Probe { id }.encode();
        let mut buffer = vec![0; 200];
        buffer[16..16 + probe.len()].copy_from_slice(&probe);
        let len = sending.sealer.seal(Metadata::NONE, &mut buffer, probe.len()).expect("a new key");
        receive(&mut ingress, &world, &buffer[..len]);
        assert_eq!(ingress.poll_timeout(), Some(world.now), "a notice waits");
    }
    while ingress.poll_event().is_some() {}
    let notices: Vec<_> = std::iter::from_fn(|| ingress.poll_notice()).collect();
    assert_eq!(notices[0], Notice::Confirmed { peer: PEER, index });
    let probes = notices.iter().filter(|notice| matches!(notice, Notice::Probe { .. })).count();
    assert_eq!(probes, ECHO_QUEUE);
    assert_eq!(notices.len(), ECHO_QUEUE + 2);
    assert_eq!(ingress.counters().discarded(Discard::FactFull), 20 - ECHO_QUEUE as u64);
    assert_eq!(ingress.poll_timeout(), Some(world.now + secs(180)));
}

fn ingress_with(session: crate::ReceiveSession, world: &World) -> Ingress {
    let mut ingress = Ingress::new(Config::default());
    let mut plan = WritePlan::default();
    let allowed = vec![host(V4[A])];
    for command in [
        IngressCommand::AddPeer { peer: PEER, allowed, roam: Roam::Fixed },
        IngressCommand::SetPath { peer: PEER, primary: Some(direct(B)), backup: None },
        IngressCommand::Install { peer: PEER, session },
    ] {
        ingress.handle_command(world.now, command, &mut plan);
    }
    ingress
}

fn receive(ingress: &mut Ingress, world: &World, datagram: &[u8]) {
    let (mut datagrams, mut plan) = (Datagrams::default(), WritePlan::default());
    assert!(datagrams.push(SocketId(0), addr(A), datagram));
    ingress.push(world.now, &mut datagrams, &mut plan);
}
