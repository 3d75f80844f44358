use std::net::SocketAddr;

use ginnel_node::Family;
use ginnel_tunnel::timers::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_AFTER_TIME};

use super::*;
use crate::trace::Telling;
use crate::world::World;

const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(100, 64, 0, 1));
const TO: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(100, 64, 0, 2));

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

/// The books of a world in which node0 talks to node1.
fn talking() -> Ledger {
    let mut world = World::new(1, Telling::Quiet);
    let lasts = (at(0), at(60));
    world.add_flow(0, 1, lasts, Duration::from_secs(1), Family::V4, Answers::Each);
    world.ledger
}

fn sent(ledger: &mut Ledger, known: Known) -> Vec<u8> {
    ledger.packet(0, 1, (FROM, TO), 100, known)
}

/// What a ledger complains of, which must be that alone.
fn complains(ledger: &Ledger, of: &str) {
    let all = ledger.violations();
    assert!(all.len() == 1 && all[0].contains(of), "{of}: {all:?}");
}

fn sealed(index: u32, counter: u64, content: u8) -> Vec<u8> {
    let mut bytes = (counter | 0xC7 << 56).to_be_bytes().to_vec();
    bytes.extend_from_slice(&index.to_be_bytes());
    bytes.extend_from_slice(&[content; 40]);
    bytes
}

fn in_channel(inner: &[u8]) -> Vec<u8> {
    [&[0x40, 1, 0, inner.len() as u8], inner].concat()
}

#[test]
fn a_packet_that_arrives_once_and_whole_is_a_delivery() {
    let mut ledger = talking();
    let packet = sent(&mut ledger, Known::Member);
    let answer = ledger.packet(0, 0, (TO, FROM), 20, Known::Member);
    assert!(ledger.arrive(at(5), 1, &packet).is_some_and(|delivery| delivery.flow == 0 && delivery.forth));
    assert!(ledger.arrive(at(6), 0, &answer).is_some_and(|delivery| delivery.flow == 0 && !delivery.forth));
    assert_eq!((ledger.delivered, ledger.flows[0].delivered), (2, 1));
    assert_eq!((ledger.flows[0].heard, ledger.flows[0].first), (Some(at(5)), Some(Duration::from_secs(5))));
    assert_eq!(ledger.violations(), [""; 0]);
}

#[test]
fn a_packet_must_arrive_once_unchanged_where_it_was_sent() {
    type Spoil = fn(&mut Ledger) -> (usize, Vec<u8>);
    let rows: [(&str, Spoil); 6] = [
        ("twice", |ledger| {
            let packet = sent(ledger, Known::Member);
            assert!(ledger.arrive(at(1), 1, &packet).is_some());
            (1, packet)
        }),
        ("changed", |ledger| {
            let mut packet = sent(ledger, Known::Member);
            *packet.last_mut().unwrap() ^= 1;
            (1, packet)
        }),
        ("changed", |ledger| {
            let mut packet = sent(ledger, Known::Member);
            packet.pop();
            (1, packet)
        }),
        ("node2 was given a packet for node1", |ledger| (2, sent(ledger, Known::Member))),
        ("knew it for no member", |ledger| (1, sent(ledger, Known::Stranger))),
        ("nobody sent", |_| (1, udp(FROM, TO, 99, 10))),
    ];
    for (of, spoil) in rows {
        let mut ledger = talking();
        let (machine, packet) = spoil(&mut ledger);
        let before = ledger.delivered;
        assert!(ledger.arrive(at(2), machine, &packet).is_none(), "{of}");
        assert_eq!(ledger.delivered, before, "{of}");
        complains(&ledger, of);
    }
}

#[test]
fn a_counter_serves_one_packet_of_a_key() {
    let rows = [
        (0, sealed(7, 4, 1), false),
        (0, sealed(7, 5, 2), false),
        (0, sealed(8, 4, 2), false),
        (1, sealed(7, 4, 2), false),
        (0, in_channel(&sealed(7, 4, 1)), false),
        (0, sealed(7, 4, 2), true),
        (0, in_channel(&sealed(7, 4, 2)), true),
    ];
    for (machine, second, wrong) in rows {
        let mut ledger = Ledger::default();
        ledger.wire(at(1), 0, &sealed(7, 4, 1));
        ledger.wire(at(2), machine, &second);
        if wrong {
            complains(&ledger, "under counter 4 of one session");
        } else {
            assert_eq!(ledger.violations(), [""; 0], "{machine} {second:02x?}");
        }
    }
}

#[test]
fn a_key_serves_no_longer_than_it_may() {
    let limit = REJECT_AFTER_TIME.as_secs();
    assert_eq!(limit, 180);
    for (age, wrong) in [(1, false), (limit, false), (limit + 1, true), (10 * limit, true)] {
        let mut ledger = Ledger::default();
        ledger.wire(at(100), 0, &sealed(7, 1, 1));
        ledger.wire(at(100 + age), 0, &sealed(7, 2, 1));
        if wrong {
            complains(&ledger, "seals with a key that has served for");
        } else {
            assert_eq!(ledger.violations(), [""; 0], "{age} s");
        }
    }
}

#[test]
fn a_key_in_use_is_overdue_from_when_it_was_to_be_replaced() {
    let (due, pause) = (REKEY_AFTER_TIME.as_secs(), KEEPALIVE_TIMEOUT.as_secs());
    let mut ledger = Ledger::default();
    let mut counter = 0;
    let mut seal = |seconds: u64| {
        counter += 1;
        ledger.wire(at(seconds), 0, &sealed(7, counter, 0))
    };
    assert_eq!(seal(0), Duration::ZERO);
    assert_eq!(seal(due - 1), Duration::ZERO);
    assert_eq!(seal(due + 2), Duration::ZERO);
    assert_eq!(seal(due + 7), Duration::from_secs(5));
    assert_eq!(seal(due + 7 + pause), Duration::ZERO, "it begins anew after a pause");
    assert_eq!(seal(due + 8 + pause), Duration::from_secs(1));
}

#[test]
fn what_a_program_says_is_readable_wherever_it_stands() {
    let mut ledger = talking();
    let (long, short) = (sent(&mut ledger, Known::Member), ledger.packet(0, 1, (FROM, TO), 0, Known::Member));
    for packet in [&long, &short] {
        assert!(ledger.is_readable(packet) && ledger.is_readable(&in_channel(packet)));
        assert!(ledger.is_readable(&[&sealed(7, 1, 1), &packet[20..]].concat()), "without its IP header");
    }
    assert!(!ledger.is_readable(&udp(FROM, TO, 99, 0)), "nobody has sent it");
    assert!(!ledger.is_readable(&sealed(7, 1, 1)));
}

#[test]
fn what_leaves_a_machine_is_looked_at() {
    let relay: SocketAddr = SocketAddr::new(crate::station::address(0), crate::station::STUN_PORT);
    let peer: SocketAddr = "45.84.0.9:4000".parse().unwrap();
    let mut relayed = (0..40).map(|seed| World::new(seed, Telling::Quiet));
    let mut world =
        relayed.find(|world| world.services[0] != crate::station::Service::StunOnly).expect("one has a relay");
    world.check_wire(0, peer, &sealed(7, 1, 1));
    world.check_wire(0, relay, &in_channel(&sealed(7, 2, 1)));
    assert_eq!(world.ledger.violations(), [""; 0]);
    world.check_wire(0, peer, &in_channel(&sealed(7, 3, 1)));
    complains(&world.ledger, "of no class");
    world.ledger = talking();
    let packet = sent(&mut world.ledger, Known::Member);
    world.check_wire(0, peer, &[&sealed(7, 1, 1)[..], &packet].concat());
    complains(&world.ledger, "can be read");
}
