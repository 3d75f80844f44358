//! Machines whose clocks are wrong by decades.

use std::time::Duration;

use super::world::{WALL, World, secs};
use crate::io::{Input, Reply, Request};
use crate::notice::Notice;

const YEARS_50: i64 = 50 * 31_557_600;

fn talks(world: &mut World, one: usize, other: usize) {
    world.machines[other].delivered.clear();
    world.talk(one, other);
    world.pass(secs(5));
    assert!(!world.machines[other].delivered.is_empty(), "{:?}", world.status(one));
}

#[test]
fn a_clock_50_years_off_joins_links_and_is_told() {
    for (founder, guest) in [(YEARS_50, 0), (-YEARS_50, 0), (0, YEARS_50), (0, -YEARS_50), (YEARS_50, -YEARS_50)] {
        let mut world = World::new(2, 1);
        world.machines[0].ahead = founder;
        world.machines[1].ahead = guest;
        world.tell_wall(0);
        world.tell_wall(1);
        world.found();
        world.join(1);
        world.pass(secs(3));
        talks(&mut world, 0, 1);
        talks(&mut world, 1, 0);
        for (number, ahead) in [(0, founder), (1, guest)] {
            let health = world.status(number).health;
            assert_eq!(health.iter().any(|item| item.code == "clock"), ahead != 0, "{health:?}");
            // A founder whose clock is behind signs nothing: who tells it the time could be anybody.
            assert_eq!(health.iter().any(|item| item.code == "stale-log"), founder < 0, "{health:?}");
            let notices = world.machines[number].notices.iter();
            let told = notices.filter_map(|notice| {
                let Notice::Clock { ahead_seconds } = notice else { return None };
                Some(*ahead_seconds)
            });
            let told: Vec<i64> = told.collect();
            assert_eq!(told.len(), usize::from(ahead != 0), "{told:?}");
            assert!(told.iter().all(|told| told.abs_diff(ahead) < 60));
        }
        for number in 0..2 {
            world.machines[number].ahead = 0;
            world.tell_wall(number);
        }
        world.pass(secs(1));
        for number in 0..2 {
            assert!(world.status(number).health.is_empty(), "{:?}", world.status(number).health);
        }
    }
}

#[test]
fn a_clock_that_was_ahead_and_is_set_back_locks_nobody_out() {
    let mut world = World::new(2, 1);
    world.machines[1].ahead = YEARS_50;
    world.tell_wall(1);
    world.found();
    world.join(1);
    world.pass(secs(3));
    talks(&mut world, 1, 0);
    world.stop(1);
    world.machines[1].ahead = 0;
    world.start(1);
    talks(&mut world, 1, 0);
    // Nor does one that is set back twice as far while it runs.
    world.machines[1].ahead = -YEARS_50;
    world.tell_wall(1);
    world.pass(secs(300));
    talks(&mut world, 1, 0);
    talks(&mut world, 0, 1);
}

#[test]
fn a_replayed_initiation_moves_nothing_after_a_restart() {
    let mut world = World::linked(2, 1);
    world.stop_host(0);
    for number in [1, 0] {
        world.stop(number);
        world.start(number);
        world.pass(secs(5));
        assert!(world.reaches(0, 1) && world.reaches(1, 0));
    }
    // Without a mailbox the handshakes came directly; the one before the restart is known to nobody any more.
    let captured = world.initiations_to(1);
    assert!(!captured.is_empty());
    world.stop(1);
    world.start(1);
    world.pass(secs(5));
    let before = world.peer(1, 0).expect("a peer");
    let stranger = "192.0.2.66:4000".parse().expect("literal");
    for bytes in captured {
        let socket = ginnel_path::SocketId(0);
        let path = ginnel_path::Path { local: ginnel_path::Local::Socket(socket), remote: stranger };
        world.input(1, Input::Forward(ginnel_forward::Event::Handshake { path, bytes }));
    }
    world.pass(secs(3));
    let after = world.peer(1, 0).expect("a peer");
    assert_eq!(before.path.map(|path| path.path), after.path.map(|path| path.path));
    talks(&mut world, 0, 1);
    talks(&mut world, 1, 0);
}

/// The wall clock's time, where it is right.
fn wall(world: &World) -> u64 {
    WALL + world.now.as_nanos() / 1_000_000_000
}

/// What a server says of the time from here on.
fn turn(world: &mut World, host: usize, ahead: i64) {
    world.stop_host(host);
    world.hosts[host].ahead = ahead;
    world.start_host(host);
}

fn lease_time(world: &World, number: usize) -> u64 {
    let network = world.machines[number].node.as_ref().and_then(|node| node.networks.iter().next());
    network.and_then(|network| network.state.lease()).expect("there is one").time
}

fn invite_ends(world: &mut World, number: usize) -> u64 {
    match world.ask(number, Request::Invite { expires: secs(3600), name: None }) {
        Ok(Reply::Invite { invite, .. }) => invite.expires,
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_server_has_an_admin_sign_a_time_that_is_yet_to_come() {
    let mut world = World::linked(2, 2);
    let founding = world.founding(1);
    assert!(world.ask(0, Request::ServerAdd { founding }).is_ok());
    world.pass(secs(75));
    // A mirror lies, and the sequencer does not.
    turn(&mut world, 1, YEARS_50);
    world.pass(secs(86_400 + 2 * 3600));
    let lease = lease_time(&world, 0);
    assert!(lease.abs_diff(wall(&world)) < 2 * 3600 + 60, "a true lease is signed nevertheless: {lease}");
    assert!(invite_ends(&mut world, 0) <= wall(&world) + 3600);
    assert!(world.status(0).health.iter().all(|item| item.code != "stale-log"), "{:?}", world.status(0).health);
    // Now there is nobody else to ask.
    turn(&mut world, 0, YEARS_50);
    world.pass(secs(2 * 86_400));
    assert_eq!(lease_time(&world, 0), lease);
    let refused = world.ask(0, Request::Invite { expires: secs(3600), name: None }).expect_err("it would be over");
    assert!(refused.message.contains("50 years behind"), "{refused:?}");
}

#[test]
fn a_network_that_is_being_founded_has_no_old_log() {
    let mut world = World::new(1, 1);
    let ticket = Some(world.founding(0));
    let up = Request::Up { ticket, name: None, network: None, shields: None, range: None, ipv4: None };
    world.request(0, None, up);
    for _ in 0..2000 {
        world.pass(Duration::from_millis(1));
        let health = world.status(0).health;
        assert!(health.iter().all(|item| item.code != "stale-log"), "{health:?}");
    }
    assert_eq!(lease_time(&world, 0).abs_diff(wall(&world)) / 60, 0, "it has a lease by now");
}

#[test]
fn a_lease_from_the_future_is_replaced_by_a_true_one() {
    let mut world = World::new(2, 1);
    world.machines[0].ahead = YEARS_50;
    world.tell_wall(0);
    turn(&mut world, 0, YEARS_50 - 3 * 86_400);
    world.found();
    world.pass(secs(5));
    assert!(lease_time(&world, 0) > wall(&world) + 40 * 31_557_600);
    turn(&mut world, 0, 0);
    world.machines[0].ahead = 0;
    world.tell_wall(0);
    world.pass(secs(2 * 3600));
    assert!(lease_time(&world, 0) <= wall(&world));
}

#[test]
fn a_server_that_turns_time_back_hides_no_old_log_from_a_machine_that_restarts() {
    let mut world = World::linked(2, 1);
    world.stop(0);
    world.stop(1);
    // It says that no time has passed, and the machine's clock knows better; whether that is right or not.
    for days in [30, 3] {
        world.machines[1].ahead += days * 86_400;
        world.start(1);
        world.pass(secs(10));
        let health = world.status(1).health;
        assert!(health.iter().any(|item| item.code == "stale-log"), "{health:?}");
        world.stop(1);
    }
}
