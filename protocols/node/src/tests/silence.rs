//! Servers whose streams hang: nothing comes, and nothing says so.

use std::net::IpAddr;

use super::world::{World, secs};
use crate::Input;

#[test]
fn a_stream_that_hangs_is_given_up_for_a_new_one() {
    let mut world = World::linked(2, 1);
    let before = world.machines[1].opened;
    world.hang(1, 0);
    world.pass(secs(25));
    assert!(world.is_connected(1), "{:?}", world.status(1).networks);
    assert_eq!(world.machines[1].opened, before + 1);
}

#[test]
fn a_machine_that_has_moved_asks_its_servers_at_once() {
    let mut world = World::linked(2, 1);
    let before = world.machines[1].opened;
    world.hang(1, 0);
    world.input(1, Input::Interfaces(vec![IpAddr::from([192, 168, 9, 9])]));
    world.pass(secs(10));
    assert!(world.is_connected(1), "{:?}", world.status(1).networks);
    assert_eq!(world.machines[1].opened, before + 1);
}

#[test]
fn an_idle_stream_is_kept() {
    let mut world = World::linked(2, 1);
    let opened = |world: &World| [world.machines[0].opened, world.machines[1].opened];
    let before = opened(&world);
    world.pass(secs(3600));
    assert_eq!(opened(&world), before);
}

#[test]
fn a_server_that_comes_back_is_found_within_ten_seconds_however_long_it_was_away() {
    for away in [7, 33, 90, 1000] {
        let mut world = World::linked(2, 1);
        world.stop_host(0);
        world.pass(secs(away));
        world.start_host(0);
        world.pass(secs(10));
        assert!(world.is_connected(0) && world.is_connected(1), "after {away} s");
    }
}
