//! First contact, and contact after a pause, without any relay.

use std::time::Duration;

use ginnel_time::Tai64n;

use super::world::{Nat, World, secs};

#[test]
fn a_port_that_varies_meets_an_address_that_does_not_whoever_calls() {
    for (one, other) in [(Nat::AddressRestricted, Nat::Symmetric), (Nat::Symmetric, Nat::AddressRestricted)] {
        let mut world = World::new(2, 1);
        (world.machines[0].nat, world.machines[1].nat) = (one, other);
        world.found();
        world.join(1);
        world.pass(secs(3));
        world.talk(0, 1);
        world.pass(secs(3));
        assert!(world.reaches(0, 1) && world.reaches(1, 0), "{one:?} calls {other:?}: {:?}", world.status(0));
        assert!(!world.machines[1].delivered.is_empty());
    }
}

#[test]
fn who_talks_after_a_pause_is_heard_at_once_though_every_path_is_gone() {
    for (one, other) in [(0, 1), (1, 0)] {
        let mut world = World::linked(2, 1);
        // The session lives on, the NATs have forgotten the flow, and nothing was asked meanwhile.
        world.pass(secs(150));
        assert!(world.peer(one, other).is_some_and(|peer| peer.last_handshake.is_some()), "the test bites");
        assert!(world.reaches(one, other), "the test bites");
        let before = world.machines[other].delivered.len();
        for _ in 0..3 {
            world.talk(one, other);
            world.pass(Duration::from_millis(100));
        }
        assert!(world.machines[other].delivered.len() > before, "{one} calls {other}: {:?}", world.status(one));
    }
}

#[test]
fn the_two_sides_of_a_pair_have_different_roles_though_their_handshakes_cross() {
    let mut world = World::new(2, 1);
    world.found();
    world.join(1);
    world.pass(secs(3));
    world.talk(0, 1);
    world.talk(1, 0);
    world.pass(secs(3));
    let roles = [(0, 1), (1, 0)].map(|(one, other)| {
        let id = world.peer(one, other).expect("a peer").id;
        let peer = world.machines[one].node.as_mut().and_then(|node| node.peers.get_mut(&id)).expect("it is known");
        assert!(peer.greatest > Tai64n::ZERO, "{one} has accepted an initiation");
        peer.agent().and_then(|agent| agent.role()).expect("a session is up")
    });
    assert_ne!(roles[0], roles[1]);
}
