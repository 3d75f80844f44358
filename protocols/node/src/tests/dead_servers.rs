//! Links that outlive every server, and daemons that come back without one.

use std::time::Duration;

use super::world::{World, secs};
use crate::io::{Reply, Request, UpOutcome, UpReport};

fn up(ticket: Option<String>) -> Request {
    Request::Up { ticket, name: None, network: None, shields: None, range: None, ipv4: None }
}

#[test]
fn a_restarted_daemon_is_back_without_any_server() {
    let mut world = World::linked(2, 1);
    world.stop_host(0);
    world.pass(secs(30));
    world.stop(1);
    world.pass(secs(15));
    world.start(1);
    world.pass(secs(5));
    assert!(world.reaches(1, 0) && world.reaches(0, 1), "{:?}", world.status(1));
    world.machines[0].delivered.clear();
    world.talk(1, 0);
    world.pass(secs(1));
    assert_eq!(world.machines[0].delivered.len(), 1);
}

#[test]
fn two_restarted_daemons_find_each_other_without_any_server() {
    let mut world = World::linked(2, 1);
    world.stop_host(0);
    world.stop(0);
    world.stop(1);
    world.pass(secs(600));
    world.start(0);
    world.pass(secs(20));
    world.start(1);
    world.pass(secs(5));
    assert!(world.reaches(1, 0) && world.reaches(0, 1), "{:?}", world.status(1));
}

#[test]
fn idle_links_stay_warm_while_no_server_is_reached() {
    let mut world = World::linked(2, 1);
    world.stop_host(0);
    world.pass(secs(900));
    world.machines[0].delivered.clear();
    world.talk(1, 0);
    world.pass(Duration::from_millis(200));
    assert_eq!(world.machines[0].delivered.len(), 1, "{:?}", world.status(1));
}

#[test]
fn an_idle_link_sends_nothing_while_a_server_is_reached() {
    let mut world = World::linked(2, 1);
    world.pass(secs(400));
    let before = world.carried;
    world.pass(secs(400));
    // What is left are the answers of STUN, which keep the mapping open.
    assert!(world.carried - before <= 2 * 400 / 15 + 4, "{} datagrams", world.carried - before);
}

#[test]
fn a_silent_restart_is_noticed_by_the_side_with_traffic() {
    let mut world = World::linked(2, 1);
    world.stop(1);
    // The restarted machine has forgotten where the other one was, and says nothing by itself.
    world.stop_host(0);
    world.start(1);
    world.pass(Duration::from_millis(1));
    for _ in 0..20 {
        world.talk(0, 1);
        world.pass(Duration::from_millis(500));
    }
    world.machines[1].delivered.clear();
    world.talk(0, 1);
    world.pass(secs(1));
    assert!(!world.machines[1].delivered.is_empty(), "{:?}", world.status(0));
}

#[test]
fn a_call_without_answer_ends_and_says_why_it_waits() {
    let mut world = World::linked(2, 1);
    world.stop_host(0);
    world.stop(0);
    world.pass(secs(300));
    world.stop(1);
    world.start(1);
    world.pass(secs(2));
    let waiting = world.peer(1, 0).expect("still a peer").waiting.expect("it says why");
    assert!(waiting.contains("last endpoint does not answer"), "{waiting}");
    world.pass(secs(40));
    let peer = world.peer(1, 0).expect("still a peer");
    assert!(!peer.connecting && peer.waiting.is_some_and(|text| text.contains("no server")));
    let before = world.machines[1].writes;
    world.pass(secs(600));
    assert!(world.machines[1].writes - before <= 1, "a machine that is left alone writes nothing");
    // The server's return brings the links back.
    world.start_host(0);
    world.start(0);
    world.pass(secs(75));
    assert!(world.reaches(1, 0), "{:?}", world.status(1));
}

#[test]
fn a_member_that_was_never_linked_waits_for_a_server() {
    let mut world = World::new(2, 1);
    world.found();
    world.join(1);
    world.pass(secs(2));
    world.stop_host(0);
    world.pass(secs(2));
    world.talk(1, 0);
    world.pass(secs(2));
    let waiting = world.peer(1, 0).expect("a peer").waiting.expect("it says why");
    assert!(waiting.starts_with("waiting for a server"), "{waiting}");
}

#[test]
fn endpoints_are_written_rarely() {
    let mut world = World::linked(3, 1);
    let before = world.machines[0].writes;
    for _ in 0..60 {
        world.talk(0, 1);
        world.talk(2, 0);
        world.pass(secs(5));
    }
    // The reserve of handshake labels moves with each handshake, at most once a minute.
    assert!(world.machines[0].writes - before <= 7, "{} writes in 5 min", world.machines[0].writes - before);
}

#[test]
fn the_founding_string_again_changes_nothing() {
    let mut world = World::new(1, 1);
    world.found();
    let ticket = world.founding(0);
    let again = world.ask(0, up(Some(ticket.clone())));
    assert!(matches!(again, Ok(Reply::Up(UpReport { outcome: UpOutcome::Unchanged, .. }))), "{again:?}");
    world.stop(0);
    world.start(0);
    let again = world.ask(0, up(Some(ticket)));
    assert!(matches!(again, Ok(Reply::Up(UpReport { outcome: UpOutcome::Unchanged, .. }))), "{again:?}");
}

#[test]
fn one_wrong_server_among_several_fails_no_join() {
    use ginnel_membership::Invite;
    let mut world = World::new(2, 2);
    world.found();
    let invite: Invite = world.invite(0).parse().expect("own invites parse");
    // The second server is there, but holds another key than the invite says.
    let mut wrong = world.server(1);
    wrong.keys.noise = world.server(0).keys.noise;
    let servers = vec![wrong, world.server(0)];
    let both = Invite::new(&servers, invite.network(), invite.key().clone(), u64::MAX / 2, None).expect("it fits");
    let joined = world.ask(1, up(Some(both.to_string())));
    assert!(matches!(joined, Ok(Reply::Up(UpReport { outcome: UpOutcome::Joined, .. }))), "{joined:?}");
}

#[test]
fn only_wrong_servers_fail_a_join_at_once() {
    use ginnel_membership::Invite;
    let mut world = World::new(2, 2);
    world.found();
    let invite: Invite = world.invite(0).parse().expect("own invites parse");
    let mut wrong = world.server(1);
    wrong.keys.noise = world.server(0).keys.noise;
    let only = Invite::new(&[wrong], invite.network(), invite.key().clone(), u64::MAX / 2, None).expect("it fits");
    let before = world.now;
    let failed = world.ask(1, up(Some(only.to_string()))).expect_err("nobody can let it in");
    assert!(failed.hint.contains("fresh invite"), "{failed:?}");
    assert!(world.now.saturating_duration_since(before) < secs(3));
}
