//! Peers of a large network for which nothing is kept.

use ginnel_forward::Event;
use ginnel_path::{Local, Path, SocketId};

use super::world::{World, secs};
use crate::Discard;
use crate::io::Input;
use crate::node::{FEW_PEERS, Node};

/// Makes a machine's networks look large.
fn crowd(node: &mut Node) {
    node.networks.iter_mut().for_each(|network| network.installed += FEW_PEERS);
}

#[test]
fn a_replayed_initiation_leaves_a_dormant_peer_alone() {
    let mut world = World::linked(2, 1);
    let id = world.peer(1, 0).expect("a peer").id;
    // Without a mailbox the next handshake comes directly.
    world.stop_host(0);
    world.stop(0);
    world.start(0);
    world.pass(secs(5));
    assert!(world.reaches(0, 1) && world.reaches(1, 0));
    let captured = world.initiations_to(1);
    assert!(!captured.is_empty());
    crowd(world.machines[1].node.as_mut().expect("it runs"));
    world.stop(0);
    world.pass(secs(1200));
    let now = world.now;
    let node = world.machines[1].node.as_mut().expect("it runs");
    assert!(!node.awake.contains(&id), "nobody has asked for it for long");
    for bytes in captured {
        let remote = "192.0.2.66:4000".parse().expect("literal");
        let path = Path { local: Local::Socket(SocketId(0)), remote };
        let taken = node.handle_input(now, Input::Forward(Event::Handshake { path, bytes }));
        assert_eq!(taken, Err(Discard::OldTimestamp));
    }
    assert!(!node.awake.contains(&id));
}

#[test]
fn the_data_plane_keeps_no_path_of_a_dormant_peer() {
    let mut world = World::linked(2, 1);
    let id = world.peer(1, 0).expect("a peer").id;
    crowd(world.machines[1].node.as_mut().expect("it runs"));
    assert!(world.machines[1].paths.get(&id).is_some_and(Option::is_some));
    world.pass(secs(1200));
    assert!(!world.machines[1].node.as_ref().expect("it runs").awake.contains(&id));
    assert_eq!(world.machines[1].paths.get(&id), Some(&None));
}
