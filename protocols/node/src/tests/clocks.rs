//! Machines whose clocks are wrong by decades.

use super::world::{World, secs};
use crate::io::Input;
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
            assert!(!health.iter().any(|item| item.code == "stale-log"), "{health:?}");
            let notices = world.machines[number].notices.iter();
            let told = notices.filter_map(|notice| {
                let Notice::Clock { ahead_seconds } = notice else { return None };
                Some(*ahead_seconds)
            });
            let told: Vec<i64> = told.collect();
            assert_eq!(told.len(), usize::from(ahead != 0), "{told:?}");
            assert!(told.iter().all(|told| told.abs_diff(ahead) < 60));
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
