//! Which pairs of NATs end up direct, and how fast.

use std::time::Duration;

use super::nat::{self, ACCEPTING, ADDRESS_RESTRICTED, FULL_CONE, PORT_RESTRICTED, PUBLIC, SYMMETRIC};
use super::world::{A, B, FreshSockets, Link, Load, Setting, World};
use crate::{Config, Input, PathEvent, Policy, Role, WhyNotDirect};

const KINDS: [(&str, nat::Kind); 5] = [
    ("public", PUBLIC),
    ("full cone", FULL_CONE),
    ("address-restricted", ADDRESS_RESTRICTED),
    ("port-restricted", PORT_RESTRICTED),
    ("symmetric", SYMMETRIC),
];

/// A mapping per destination is met only by a filter that does not look at ports.
fn theory(a: nat::Kind, b: nat::Kind) -> bool {
    let fits = |x: nat::Kind, y: nat::Kind| x != SYMMETRIC || (y != SYMMETRIC && y != PORT_RESTRICTED);
    fits(a, b) && fits(b, a)
}

#[test]
fn direct_is_reached_as_theory_says_and_else_the_relay_carries() {
    for (name_a, a) in KINDS {
        for (name_b, b) in KINDS {
            let mut world = World::connect(Setting::new(a, b));
            let took = world.until_direct(Duration::from_secs(3));
            assert_eq!(took.is_some(), theory(a, b), "{name_a} and {name_b}: {took:?}");
            if took.is_none() {
                assert!(world.is_relayed(A) && world.is_relayed(B), "{name_a} and {name_b}");
            }
            for side in [A, B] {
                assert!(world.peak_rate(side) <= 56, "{name_a} and {name_b}: {}", world.peak_rate(side));
            }
        }
    }
}

#[test]
fn cones_meet_within_one_round_trip_of_the_session() {
    for kind in [FULL_CONE, ADDRESS_RESTRICTED, PORT_RESTRICTED] {
        let mut world = World::connect(Setting::new(kind, kind));
        // 100 ms of mail, then one direct round trip each way.
        let took = world.until_direct(Duration::from_secs(3)).unwrap();
        assert!(took <= Duration::from_millis(200), "{kind:?}: {took:?}");
    }
}

#[test]
fn a_relay_carries_first_and_direct_takes_over_without_a_gap() {
    let mut world = World::connect(Setting::new(PORT_RESTRICTED, SYMMETRIC));
    world.run(Duration::from_millis(400));
    assert!(world.is_relayed(A) && world.is_relayed(B));
    let mut world = World::connect(Setting::new(PORT_RESTRICTED, PORT_RESTRICTED));
    world.run(Duration::from_secs(5));
    assert!(world.is_direct(A) && world.is_direct(B));
    for side in [A, B] {
        assert!(world.sides[side].backup.is_some(), "a relayed path stands by");
        assert!(!world.sides[side].events.iter().any(|(_, event)| *event == PathEvent::Lost));
        assert_eq!(world.sides[side].agent.why_not_direct(), None);
    }
}

#[test]
fn loss_delays_and_does_not_prevent_a_direct_path() {
    for seed in 0..60 {
        for (a, b) in [(PORT_RESTRICTED, PORT_RESTRICTED), (SYMMETRIC, FULL_CONE), (ADDRESS_RESTRICTED, SYMMETRIC)] {
            let mut world = World::connect(Setting { seed, loss: 10, ..Setting::new(a, b) });
            let took = world.until_direct(Duration::from_secs(3));
            assert!(took.is_some(), "seed {seed}, {a:?} and {b:?}");
        }
    }
}

#[test]
fn even_the_slowest_of_a_thousand_lossy_meetings_is_quick() {
    for kind in [PORT_RESTRICTED, ACCEPTING] {
        let meet = |seed| World::connect(Setting { seed, loss: 5, ..Setting::new(kind, kind) });
        let mut took: Vec<Duration> =
            (0..1000).map(|seed| meet(seed).until_direct(Duration::from_secs(30)).unwrap_or(Duration::MAX)).collect();
        took.sort_unstable();
        // After 100 ms of mail: one relayed and one direct round trip for the median, 300 ms more for the 99th percentile.
        assert!(took[500] <= Duration::from_millis(220), "{kind:?}: median {:?}", took[500]);
        assert!(took[990] <= Duration::from_millis(520), "{kind:?}: 99 % {:?}", took[990]);
        assert!(took[999] <= Duration::from_secs(5), "{kind:?}: worst {:?}", took[999]);
    }
}

#[test]
fn short_lived_openers_keep_accepting_nats_clean() {
    for (a, b) in [(ACCEPTING, ACCEPTING), (ACCEPTING, PORT_RESTRICTED), (PORT_RESTRICTED, ACCEPTING)] {
        let mut world = World::connect(Setting::new(a, b));
        assert!(world.until_direct(Duration::from_secs(3)).is_some(), "{a:?} and {b:?}");
        assert!(!world.clashed(), "{a:?} and {b:?}");
        assert_eq!(world.sides[A].fresh + world.sides[B].fresh, 0, "no round was needed");
    }
}

#[test]
fn candidates_told_inside_the_session_are_opened_for_first() {
    for (a, b) in [
        (ACCEPTING, ACCEPTING),
        (PORT_RESTRICTED, ACCEPTING),
        (FULL_CONE, SYMMETRIC),
        (PORT_RESTRICTED, PORT_RESTRICTED),
    ] {
        for (seed, loss) in (0..50).flat_map(|seed| [(seed, 0), (seed, 10)]) {
            let mut world = World::connect_by_relay(Setting { seed, loss, ..Setting::new(a, b) });
            let took = world.until_direct(Duration::from_secs(12));
            assert!(took.is_some(), "seed {seed}, loss {loss}, {a:?} and {b:?}");
            if loss == 0 {
                assert!(!world.clashed(), "seed {seed}, {a:?} and {b:?}");
                assert!(took <= Some(Duration::from_secs(1)), "seed {seed}, {a:?} and {b:?}: {took:?}");
            }
        }
    }
}

#[test]
fn a_session_renewed_by_a_path_opens_before_it_probes() {
    for (a, b) in [(ACCEPTING, ACCEPTING), (PORT_RESTRICTED, ACCEPTING)] {
        let mut world = World::connect(Setting::new(a, b));
        world.blocked.insert(Link::Direct);
        world.fresh_sockets = FreshSockets::Refused;
        world.run(Duration::from_secs(1));
        assert!(world.is_relayed(A) && world.is_relayed(B));
        world.load = Load::Nothing;
        world.run(Duration::from_secs(600));
        world.blocked.clear();
        // The handshake goes by the relay: its answer is here a round trip before the other side's session is confirmed.
        world.input(A, Input::Traffic { sent: false, received: true });
        world.input(A, Input::Session(Role::Initiator));
        world.run(Duration::from_millis(45));
        world.input(B, Input::Traffic { sent: false, received: true });
        world.input(B, Input::Session(Role::Responder));
        assert!(world.until_direct(Duration::from_secs(1)).is_some(), "{a:?} and {b:?}");
        assert!(!world.clashed(), "{a:?} and {b:?}");
    }
}

#[test]
fn a_clash_is_overcome_on_a_fresh_port() {
    // So near that the first openers reach the other NAT and spoil its mapping.
    for hops in [0, 1, 2, 3, 4] {
        for seed in 0..10 {
            let mut world = World::connect(Setting { hops, seed, ..Setting::new(ACCEPTING, ACCEPTING) });
            let took = world.until_direct(Duration::from_secs(12));
            assert!(world.clashed(), "{hops} hops: the test bites");
            assert!(world.sides[A].fresh + world.sides[B].fresh > 0, "{hops} hops: a fresh port was used");
            assert!(took.is_some(), "{hops} hops, seed {seed}");
        }
    }
}

#[test]
fn hopeless_pairs_stop_trying_so_often() {
    let mut world = World::connect(Setting::new(SYMMETRIC, SYMMETRIC));
    world.run(Duration::from_secs(20));
    let early = world.sides[A].fresh + world.sides[B].fresh;
    assert!((2..=8).contains(&early), "{early}");
    let mut waited = 0;
    while world.sides[A].agent.why_not_direct() == Some(WhyNotDirect::AwaitingEcho) && waited < 60 {
        world.run(Duration::from_secs(1));
        waited += 1;
    }
    assert_eq!(world.sides[A].agent.why_not_direct(), Some(WhyNotDirect::OwnMappingVaries));
    world.run(Duration::from_secs(1200));
    let late = world.sides[A].fresh + world.sides[B].fresh - early;
    assert!((3..=14).contains(&late), "{late}");
    assert!(world.is_relayed(A) && world.is_relayed(B));
}

#[test]
fn a_round_goes_on_when_no_fresh_socket_comes() {
    let mut world = World::connect(Setting::new(SYMMETRIC, PORT_RESTRICTED));
    world.fresh_sockets = FreshSockets::Refused;
    world.run(Duration::from_secs(60));
    assert!(world.is_relayed(A) && world.is_relayed(B));
    assert!(world.sides[A].fresh + world.sides[B].fresh > 2);
}

#[test]
fn one_relay_is_enough() {
    for relays in [[true, false], [false, true]] {
        let mut world = World::connect(Setting { relays, ..Setting::new(SYMMETRIC, SYMMETRIC) });
        world.run(Duration::from_secs(3));
        assert!(world.is_relayed(A) && world.is_relayed(B), "{relays:?}");
    }
}

#[test]
fn without_any_relay_cones_still_meet() {
    let mut world =
        World::connect(Setting { relays: [false, false], ..Setting::new(PORT_RESTRICTED, PORT_RESTRICTED) });
    assert!(world.until_direct(Duration::from_secs(3)).is_some());
}

#[test]
fn without_any_relay_all_meet_that_can() {
    let accepting = [("accepting", ACCEPTING)];
    for (name_a, a) in KINDS.into_iter().chain(accepting) {
        for (name_b, b) in KINDS.into_iter().chain(accepting) {
            if !theory(a, b) || (a == SYMMETRIC && b == ACCEPTING) || (a == ACCEPTING && b == SYMMETRIC) {
                continue;
            }
            for seed in 0..5 {
                let setting = Setting { relays: [false, false], seed, ..Setting::new(a, b) };
                let took = World::connect(setting).until_direct(Duration::from_secs(3));
                assert!(took.is_some(), "{name_a} and {name_b}, seed {seed}");
            }
        }
    }
}

#[test]
fn without_any_relay_a_spoilt_mapping_is_replaced() {
    for (a, b) in [(ACCEPTING, ACCEPTING), (ACCEPTING, PORT_RESTRICTED), (PORT_RESTRICTED, ACCEPTING)] {
        for seed in 0..20 {
            let mut world = World::connect(Setting { relays: [false, false], seed, ..Setting::new(a, b) });
            assert!(world.until_direct(Duration::from_secs(3)).is_some());
            // Both NATs forget the flow; then one side sends at full TTL, and the other one's NAT may take it amiss.
            world.load = Load::Nothing;
            world.run(Duration::from_secs(600));
            let caller = if seed % 2 == 0 { A } else { B };
            world.load = Load::From(caller);
            world.run(Duration::from_secs(5));
            assert_eq!(world.clashed(), [a, b][1 - caller] == ACCEPTING, "the test bites");
            let took = world.until_direct(Duration::from_secs(12));
            assert!(took.is_some(), "{a:?} and {b:?}, seed {seed}");
        }
    }
}

#[test]
fn a_pair_that_cannot_meet_calls_rarely() {
    let mut world = World::connect(Setting { relays: [false, false], ..Setting::new(SYMMETRIC, SYMMETRIC) });
    world.run(Duration::from_secs(30));
    let before = world.sides[A].summoned + world.sides[B].summoned;
    world.run(Duration::from_secs(600));
    let calls = world.sides[A].summoned + world.sides[B].summoned - before;
    assert!((40..=100).contains(&calls), "each side about every 14 s: {calls}");
}

#[test]
fn relay_only_neither_tells_nor_probes_direct_addresses() {
    let config = Config { policy: Policy::RelayOnly, ..Config::default() };
    let mut world = World::connect(Setting { config, ..Setting::new(FULL_CONE, FULL_CONE) });
    world.run(Duration::from_secs(30));
    for side in [A, B] {
        assert!(world.is_relayed(side));
        let direct = |path: crate::Path| !path.is_relayed() && path.remote.ip() != super::world::RELAY;
        assert!(!world.sides[side].sent.iter().any(|(_, path, _)| direct(*path)));
        assert_eq!(world.sides[side].agent.why_not_direct(), Some(WhyNotDirect::Forbidden));
    }
}
