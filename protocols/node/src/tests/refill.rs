//! Servers that have lost entries, or the whole of a log, and the machines that still have them.

use std::time::Duration;

use super::world::{World, Writes, secs};
use crate::io::{Reply, Request};
use crate::notice::Notice;
use crate::report::NetworkState;

/// Takes the last entries from a server's disk.
fn lose(world: &mut World, host: usize, count: usize) {
    world.stop_host(host);
    let log = &mut world.hosts[host].disk.logs[0].1;
    log.truncate(log.len() - count);
}

/// The log as the first server has it on its disk.
fn on_disk(world: &World) -> Vec<Vec<u8>> {
    world.hosts[0].disk.logs[0].1.iter().map(|entry| entry.bytes.clone()).collect()
}

fn no_alarms(world: &World) {
    for machine in &world.machines {
        assert!(!machine.notices.iter().any(|notice| matches!(notice, Notice::Alarm { .. })), "{:?}", machine.notices);
    }
}

#[test]
fn a_server_gets_back_what_it_lost_before_it_is_asked_for_anything() {
    let mut world = World::linked(2, 1);
    for _ in 0..60 {
        world.invite(0);
    }
    world.pass(secs(2));
    let full = on_disk(&world);
    lose(&mut world, 0, 40);
    world.pass(secs(2));
    // Both have something to be written when it comes back.
    let asked = world.request(0, None, Request::Policy { strict: Some(true), delegate: None });
    world.start_host(0);
    world.pass(secs(8));
    let log = on_disk(&world);
    assert_eq!(log[..full.len()], full, "nothing stands in the place of what was lost");
    assert!(matches!(world.machines[0].replies.get(&asked), Some(Ok(Reply::Done))), "{:?}", world.status(0));
    assert_eq!(log.len(), full.len() + 1);
    no_alarms(&world);
}

#[test]
fn a_server_that_knows_no_member_any_more_gets_its_log_back_from_the_founder() {
    let mut world = World::linked(2, 1);
    let full = on_disk(&world);
    // The genesis is left, and then what let the founder in, but not that it came.
    for left in [1, 2] {
        lose(&mut world, 0, full.len() - left);
        world.start_host(0);
        world.pass(secs(20));
        assert!(on_disk(&world) == full, "{left} entries were left: {:?}", world.status(0));
        assert!((0..2).all(|machine| world.is_connected(machine)), "{:?}", world.status(0));
        // As members, whom mail reaches once the session has ended.
        world.pass(secs(400));
        assert!(!world.reaches(0, 1));
        world.talk(0, 1);
        world.pass(secs(3));
        assert!(world.reaches(0, 1), "{:?}", world.status(0));
    }
    no_alarms(&world);
}

#[test]
fn key_that_founded_the_network_serves_even_when_it_is_no_admins_any_more() {
    let mut world = World::linked(2, 1);
    let founder = world.machines[0].node.as_ref().and_then(|node| node.networks.iter().next()?.saved.admin.clone());
    let key = founder.expect("it founded").signing().member_key().to_string();
    for (machine, request) in [(0, Request::AdminAdd { peer: "m1".into() }), (1, Request::AdminRemove { peer: key })] {
        assert!(matches!(world.ask(machine, request), Ok(Reply::Done)));
        world.pass(secs(1));
    }
    let full = on_disk(&world);
    lose(&mut world, 0, full.len() - 1);
    world.start_host(0);
    world.pass(secs(20));
    assert!(on_disk(&world) == full, "{:?}", world.status(0));
    assert!((0..2).all(|machine| world.is_connected(machine)), "{:?}", world.status(0));
    no_alarms(&world);
}

#[test]
fn member_that_a_server_has_forgotten_is_told_to_wait_and_not_to_leave() {
    let mut world = World::linked(2, 1);
    let full = on_disk(&world);
    world.stop(0);
    lose(&mut world, 0, full.len() - 1);
    world.start_host(0);
    world.pass(secs(20));
    let status = world.status(1);
    assert_eq!(status.networks.first().map(|network| network.state), Some(NetworkState::NoServer));
    let health: Vec<_> = status.health.iter().map(|item| (item.code, item.text.contains("founder's"))).collect();
    assert_eq!(health, [("no-server", true)], "{:?}", status.health);
    let up = Request::Up { ticket: None, name: None, network: None, shields: None, range: None, ipv4: None };
    let up = world.ask(1, up);
    assert!(matches!(up, Ok(Reply::Up(_))), "{up:?}");
    world.start(0);
    world.pass(secs(80));
    assert!(on_disk(&world) == full, "{:?}", world.status(0));
    assert!(world.is_connected(1) && world.status(1).health.is_empty(), "{:?}", world.status(1));
}

#[test]
fn server_that_takes_nothing_of_what_it_lacks_counts_as_none() {
    let mut world = World::linked(2, 1);
    let full = on_disk(&world);
    lose(&mut world, 0, full.len() - 1);
    world.hosts[0].writes = Writes::Unanswered;
    world.start_host(0);
    world.pass(secs(20));
    let status = world.status(0);
    assert_eq!(status.networks.first().map(|network| network.state), Some(NetworkState::NoServer));
    let health: Vec<_> = status.health.iter().map(|item| (item.code, item.text.contains("lost entries"))).collect();
    assert_eq!(health, [("no-server", true)], "{:?}", status.health);
    assert!(!world.is_connected(0), "{:?}", status.networks);
    // It is left alone after a while, and tried again.
    let before = world.machines[0].opened;
    world.pass(secs(150));
    assert!(world.machines[0].opened > before);
    world.stop_host(0);
    world.hosts[0].writes = Writes::Durable;
    world.start_host(0);
    world.pass(secs(80));
    assert!(on_disk(&world) == full && world.is_connected(0), "{:?}", world.status(0));
    no_alarms(&world);
}

#[test]
fn one_handful_follows_the_other() {
    let mut world = World::linked(1, 1);
    for _ in 0..250 {
        world.invite(0);
        world.pass(secs(1));
    }
    let full = on_disk(&world);
    let bytes: usize = full.iter().map(Vec::len).sum();
    assert!(bytes > 3 * ginnel_signal_proto::server::MAX_REFILL);
    lose(&mut world, 0, 248);
    world.start_host(0);
    world.pass(secs(4));
    assert_eq!(on_disk(&world), full);
    no_alarms(&world);
}

#[test]
fn nothing_is_appended_to_a_server_that_is_behind() {
    let mut world = World::linked(2, 1);
    for _ in 0..10 {
        world.invite(0);
    }
    world.pass(secs(2));
    let full = on_disk(&world);
    lose(&mut world, 0, 5);
    // Nor by one who cannot give it what it lacks.
    for machine in &mut world.machines {
        let network = machine.node.as_mut().and_then(|node| node.networks.iter_mut().next());
        network.expect("it is in one").tail = crate::tail::Tail::default();
    }
    world.start_host(0);
    world.pass(Duration::from_millis(100));
    let asked = world.request(0, None, Request::Invite { expires: secs(60), name: None });
    world.pass(secs(20));
    assert_eq!(on_disk(&world), full[..full.len() - 5]);
    assert!(matches!(world.machines[0].replies.get(&asked), Some(Err(_))));
    no_alarms(&world);
}
