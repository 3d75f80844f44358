//! Keeping, leaving and regaining paths.

use std::time::Duration;

use super::nat::{ADDRESS_RESTRICTED, PORT_RESTRICTED, SYMMETRIC};
use super::world::{A, B, Link, Load, Setting, World};
use crate::{Config, Input, Local, PathEvent, PathState, Policy, RelayId, Role, Selected, SocketId};

fn connected() -> World {
    let mut world = World::connect(Setting::new(PORT_RESTRICTED, PORT_RESTRICTED));
    world.until_direct(Duration::from_secs(3)).unwrap();
    world.run(Duration::from_secs(5));
    world
}

#[test]
fn a_dead_primary_is_doubled_and_then_left() {
    let mut world = connected();
    world.blocked.insert(Link::Direct);
    let start = world.now;
    let mut doubled = None;
    while world.is_direct(A) && world.now < start + Duration::from_secs(20) {
        world.run(Duration::from_millis(10));
        if world.sides[A].duplicate && doubled.is_none() {
            doubled = Some(world.now);
        }
    }
    let doubled = doubled.unwrap().saturating_duration_since(start);
    let left = world.now.saturating_duration_since(start);
    assert!(doubled <= Duration::from_millis(5000 + 800), "{doubled:?}");
    assert!(left <= Duration::from_millis(5000 + 3100), "{left:?}");
    assert!(left >= doubled + Duration::from_millis(2000), "both carry for a while: {left:?} after {doubled:?}");
    assert!(world.is_relayed(A));
    assert!(!world.sides[A].events.iter().any(|(_, event)| *event == PathEvent::Lost));
}

#[test]
fn a_direct_path_comes_back_after_an_outage() {
    let mut world = connected();
    world.blocked.insert(Link::Direct);
    world.run(Duration::from_secs(20));
    assert!(world.is_relayed(A) && world.is_relayed(B));
    world.blocked.remove(&Link::Direct);
    assert!(world.until_direct(Duration::from_secs(310)).is_some());
}

#[test]
fn losing_every_path_is_told_and_one_that_returns_is_found() {
    let mut world = connected();
    world.blocked.extend([Link::Direct, Link::Relay]);
    world.run(Duration::from_secs(15));
    for side in [A, B] {
        assert_eq!(world.sides[side].primary, None);
        assert!(world.sides[side].events.iter().any(|(_, event)| *event == PathEvent::Lost));
    }
    world.blocked.remove(&Link::Relay);
    world.run(Duration::from_secs(15));
    assert!(world.is_relayed(A) && world.is_relayed(B));
}

#[test]
fn an_idle_network_is_silent() {
    for (a, b) in [(PORT_RESTRICTED, PORT_RESTRICTED), (SYMMETRIC, SYMMETRIC)] {
        let mut world = World::connect(Setting::new(a, b));
        world.run(Duration::from_secs(10));
        world.load = Load::Nothing;
        world.run(Duration::from_secs(135));
        let before = [world.sides[A].sent.len(), world.sides[B].sent.len()];
        world.run(Duration::from_secs(3600));
        assert_eq!([world.sides[A].sent.len(), world.sides[B].sent.len()], before, "{a:?} and {b:?}");
    }
}

#[test]
fn renewed_sessions_do_not_keep_an_idle_peer_awake() {
    let mut world = connected();
    world.load = Load::Nothing;
    world.run(Duration::from_secs(100));
    let renew = |world: &mut World| {
        world.input(A, Input::Session(Role::Initiator));
        world.input(B, Input::Session(Role::Responder));
    };
    renew(&mut world);
    world.run(Duration::from_secs(45));
    let before = [world.sides[A].sent.len(), world.sides[B].sent.len()];
    renew(&mut world);
    world.run(Duration::from_secs(600));
    assert_eq!([world.sides[A].sent.len(), world.sides[B].sent.len()], before);
}

#[test]
fn a_relay_that_is_lost_does_not_wake_an_idle_peer() {
    let kinds = [(PORT_RESTRICTED, PORT_RESTRICTED), (SYMMETRIC, SYMMETRIC)];
    for ((a, b), relays) in kinds.into_iter().flat_map(|kinds| [(kinds, [true, true]), (kinds, [true, false])]) {
        let mut world = World::connect(Setting { relays, ..Setting::new(a, b) });
        world.run(Duration::from_secs(10));
        world.load = Load::Nothing;
        world.run(Duration::from_secs(135));
        let before = [world.sides[A].sent.len(), world.sides[B].sent.len()];
        for side in [A, B] {
            world.input(side, Input::PathLost(Local::Relay(RelayId(0))));
            let in_use = [world.sides[side].primary, world.sides[side].backup];
            assert!(in_use.into_iter().flatten().all(|path| !path.is_relayed()), "{a:?}: {in_use:?}");
            let lost = world.sides[side].events.iter().any(|(_, event)| *event == PathEvent::Lost);
            assert!(!lost, "{a:?}: nobody misses a path");
        }
        world.run(Duration::from_secs(600));
        assert_eq!([world.sides[A].sent.len(), world.sides[B].sent.len()], before, "{a:?} and {b:?}");
        // New ones are there when somebody has something to say.
        world.gather(A);
        world.gather(B);
        assert_eq!([world.sides[A].sent.len(), world.sides[B].sent.len()], before, "{a:?} and {b:?}");
        world.load = Load::Steady;
        world.run(Duration::from_secs(15));
        for side in [A, B] {
            let (primary, direct) = (world.sides[side].primary, world.is_direct(side));
            assert!(primary.is_some() && direct == (a == PORT_RESTRICTED), "{a:?}: {primary:?}");
        }
    }
}

#[test]
fn traffic_after_silence_finds_its_way_again() {
    let mut world = connected();
    world.load = Load::Nothing;
    world.run(Duration::from_secs(600));
    world.load = Load::Steady;
    world.run(Duration::from_secs(8));
    for side in [A, B] {
        assert!(world.sides[side].primary.is_some());
        assert!(!world.sides[side].duplicate);
    }
    assert!(world.until_direct(Duration::from_secs(4)).is_some());
}

#[test]
fn who_talks_first_after_silence_calls_beside_its_probes() {
    let mut world = connected();
    world.load = Load::Nothing;
    world.run(Duration::from_secs(130));
    world.input(B, Input::Traffic { sent: false, received: true });
    assert_eq!(world.sides[B].summoned, 0, "what comes in shows that the other side has a way");
    world.input(A, Input::Traffic { sent: true, received: false });
    assert_eq!(world.sides[A].summoned, 1);
    world.run(Duration::from_secs(1));
    world.input(A, Input::Traffic { sent: true, received: false });
    assert_eq!(world.sides[A].summoned, 1, "once for each silence");
}

#[test]
fn who_talks_after_silence_and_has_lost_the_path_meanwhile_calls_at_once() {
    for policy in [Policy::Any, Policy::RelayOnly] {
        let config = Config { policy, ..Config::default() };
        let mut world = World::connect(Setting { config, ..Setting::new(SYMMETRIC, SYMMETRIC) });
        world.run(Duration::from_secs(10));
        world.load = Load::Nothing;
        world.run(Duration::from_secs(125));
        // Both relays go, which nobody misses; later they are there again.
        world.blocked.insert(Link::Relay);
        world.input(A, Input::PathLost(Local::Relay(RelayId(0))));
        while let Some(path) = world.sides[A].primary {
            world.input(A, Input::SendFailed { path });
        }
        world.run(Duration::from_secs(15));
        world.blocked.clear();
        world.gather(A);
        let before = (world.sides[A].summoned, world.sides[A].events.len());
        assert_eq!(world.sides[A].primary, None, "the test bites");
        world.input(A, Input::Traffic { sent: true, received: false });
        assert_eq!(world.sides[A].summoned, before.0 + 1, "{policy:?}");
        world.load = Load::From(A);
        world.run(Duration::from_secs(1));
        assert!(world.sides[A].primary.is_some(), "{policy:?}: {:?}", &world.sides[A].events[before.1..]);
        assert_eq!(world.sides[A].summoned, before.0 + 1, "once for each silence");
    }
}

#[test]
fn an_answered_call_lets_all_pairs_of_a_woken_peer_begin_anew() {
    let mut world = connected();
    world.load = Load::Nothing;
    world.run(Duration::from_secs(170));
    world.blocked.extend([Link::Direct, Link::Relay]);
    world.input(A, Input::Traffic { sent: true, received: false });
    world.run(Duration::from_millis(900));
    assert!(world.sides[A].primary.is_some_and(|path| !path.is_relayed()), "still trusted");
    world.blocked.clear();
    let before = world.sides[A].sent.len();
    world.input(A, Input::Session(Role::Initiator));
    let asked = |world: &World| world.sides[A].sent.iter().skip(before).any(|(_, path, _)| path.is_relayed());
    assert!(asked(&world), "nothing waits for the next gap of a burst");
}

#[test]
fn a_path_that_gave_way_to_a_relay_is_found_again_at_once() {
    let mut world = World::connect(Setting::new(SYMMETRIC, ADDRESS_RESTRICTED));
    world.until_direct(Duration::from_secs(3)).unwrap();
    world.load = Load::Nothing;
    world.run(Duration::from_secs(600));
    for side in [A, B] {
        world.sides[side].nat.forget();
    }
    // The first probe finds the other NAT shut; the relay carries the data, and with it the other side wakes and opens.
    world.input(A, Input::Traffic { sent: true, received: true });
    world.run(Duration::from_millis(100));
    world.input(B, Input::Traffic { sent: true, received: true });
    assert!(world.is_relayed(A), "the test bites");
    let took = world.until_direct(Duration::from_secs(2));
    assert!(took.is_some_and(|took| took < Duration::from_millis(500)), "{took:?}");
}

#[test]
fn a_quiet_pair_is_watched_rarely() {
    let mut world = connected();
    world.load = Load::Nothing;
    world.run(Duration::from_secs(16));
    let before = world.sides[A].sent.len();
    world.run(Duration::from_secs(90));
    let sent = world.sides[A].sent.len() - before;
    assert!((10..=13).contains(&sent), "primary and backup about every 15 s: {sent}");
}

#[test]
fn steady_paths_do_not_flap() {
    for seed in 0..10 {
        let mut world = World::connect(Setting { seed, loss: 10, ..Setting::new(PORT_RESTRICTED, PORT_RESTRICTED) });
        world.until_direct(Duration::from_secs(3)).unwrap();
        world.run(Duration::from_secs(5));
        let moves = |world: &World| {
            let selected =
                |(_, event): &&(ginnel_time::Instant, PathEvent)| matches!(event, PathEvent::Selected { .. });
            world.sides[A].events.iter().filter(selected).count()
        };
        let before = moves(&world);
        world.run(Duration::from_secs(1200));
        assert!(moves(&world) - before <= 2, "seed {seed}: {} moves in 20 minutes", moves(&world) - before);
    }
}

#[test]
fn a_lost_socket_moves_traffic_at_once() {
    let mut world = connected();
    world.input(A, Input::PathLost(Local::Socket(SocketId(0))));
    assert!(world.is_relayed(A), "{:?}", world.sides[A].primary);
    assert!(world.sides[A].agent.status().iter().all(|status| status.path.local != Local::Socket(SocketId(0))));
}

#[test]
fn a_machine_that_moves_is_reached_again_within_two_seconds() {
    for kind in [PORT_RESTRICTED, SYMMETRIC] {
        let mut world = connected();
        let old = world.sides[B].primary.map(|path| path.remote.ip());
        world.roam(A, kind);
        let start = world.now;
        let proven = |world: &World, side: usize| {
            let first = world.sides[side].agent.status().first().copied();
            let good = first.filter(|it| it.selected == Selected::Primary && it.state == PathState::Proven);
            good.is_some_and(|it| Some(it.path.remote.ip()) != old)
        };
        while !(proven(&world, A) && proven(&world, B)) && world.now < start + Duration::from_secs(30) {
            world.run(Duration::from_millis(10));
        }
        let took = world.now.saturating_duration_since(start);
        assert!(took <= Duration::from_secs(2), "{kind:?}: {took:?}");
        let direct = world.until_direct(Duration::from_secs(5));
        assert_eq!(direct.is_some(), kind == PORT_RESTRICTED, "{direct:?}");
    }
}

#[test]
fn a_path_without_a_route_is_left_at_once() {
    let mut world = connected();
    let path = world.sides[A].primary.unwrap();
    world.input(A, Input::SendFailed { path });
    assert!(world.sides[A].primary.is_some_and(|primary| primary != path));
    world.run(Duration::from_secs(3));
    assert!(world.is_direct(A), "it works after all");
}

#[test]
fn a_rekey_leaves_the_paths_alone() {
    let mut world = connected();
    let (primary, selects, sent) = (world.sides[A].primary, world.sides[A].selects, world.sides[A].sent.len());
    world.input(A, Input::Session(Role::Responder));
    assert_eq!((world.sides[A].primary, world.sides[A].selects), (primary, selects));
    assert!(world.sides[A].sent.len() <= sent + 1);
}

#[test]
fn a_lost_session_silences_the_agent_and_a_new_one_proves_anew() {
    let mut world = connected();
    let last = world.sides[A].primary.unwrap();
    world.input(A, Input::SessionLost);
    assert_eq!(world.sides[A].primary, None);
    assert_eq!(world.sides[A].agent.poll_timeout(), None);
    assert_eq!(world.sides[A].agent.openers().first(), Some(&(last, None)), "the last good path is tried first, plain");
    world.input(A, Input::Session(Role::Initiator));
    world.run(Duration::from_secs(1));
    assert!(world.is_direct(A));
}

#[test]
fn status_names_the_paths_in_use_first() {
    let world = connected();
    let status = world.sides[A].agent.status();
    assert_eq!(status[0].selected, Selected::Primary);
    assert_eq!(status[0].state, PathState::Proven);
    assert_eq!(status[0].rtt, Some(Duration::from_millis(40)));
    assert_eq!(status[1].selected, Selected::Backup);
    assert!(!status[1].tier.is_direct());
}
