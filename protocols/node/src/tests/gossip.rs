//! What members tell each other inside tunnels.

use std::time::Duration;

use ginnel_membership::build::lease_record;
use ginnel_membership::{Entry, Sequencer};

use super::world::{World, secs};
use crate::Discard;
use crate::io::{Reply, Request};
use crate::notice::Notice;
use crate::report::NetworkState;

fn revoke(name: &str) -> Request {
    Request::Revoke { peer: name.to_owned() }
}

#[test]
fn a_revocation_without_any_server_ends_sessions_at_once_everywhere() {
    let mut world = World::linked(3, 1);
    world.stop_host(0);
    world.pass(secs(1));
    let reply = world.ask(0, revoke("m2"));
    assert!(matches!(reply, Ok(Reply::Revoked { .. })), "{reply:?}");
    world.pass(Duration::from_millis(200));
    assert!(world.peer(0, 2).is_none() && world.peer(1, 2).is_none());
    // The revoked machine is told, and by whom.
    let status = world.status(2);
    assert!(status.peers.is_empty());
    assert!(
        status.health.iter().any(|item| item.code == "not-a-member" && item.text.contains("revoked")),
        "{status:?}"
    );
    assert_eq!(status.networks.first().map(|network| network.state), Some(NetworkState::Revoked));
    // It survives restarts, and is ordered when the server is back; the one that was told orders it, too.
    world.stop(0);
    world.stop(1);
    world.start(1);
    assert!(world.peer(1, 2).is_none());
    world.start_host(0);
    world.pass(secs(75));
    assert_eq!(world.log_length(1), 9);
    assert!(world.machines[1].notices.iter().any(|notice| matches!(notice, Notice::Left { name, .. } if name == "m2")));
    world.start(0);
    world.pass(secs(3));
    assert_eq!(world.log_length(0), 9);
}

#[test]
fn a_revocation_reaches_members_without_a_session_within_a_minute() {
    let mut world = World::linked(4, 1);
    world.pass(secs(300));
    assert!((1..4).all(|other| world.peer(0, other).is_some_and(|peer| peer.last_handshake.is_none())));
    world.stop_host(0);
    // Nobody has noticed yet that there is no server to arrange anything.
    let reply = world.ask(0, revoke("m3"));
    assert!(matches!(reply, Ok(Reply::Revoked { .. })), "{reply:?}");
    world.pass(secs(58));
    assert!((0..3).all(|one| world.peer(one, 3).is_none()), "{:?}", world.status(1));
}

#[test]
fn a_machine_that_was_revoked_while_it_was_off_is_told_why() {
    let mut world = World::linked(3, 1);
    world.stop(2);
    assert!(world.ask(0, revoke("m2")).is_ok());
    world.pass(secs(3));
    world.start(2);
    world.pass(secs(5));
    // A server's word alone takes no peer away; they all have hung up on it.
    let status = world.status(2);
    assert!(
        status.health.iter().any(|item| item.code == "not-a-member" && item.text.contains("removed")),
        "{status:?}"
    );
    assert!((0..2).all(|other| !world.reaches(2, other)));
}

#[test]
fn missing_entries_are_handed_on_and_stored() {
    let mut world = World::linked(2, 1);
    world.cut(1, 0);
    world.pass(secs(1));
    for _ in 0..30 {
        world.invite(0);
    }
    world.pass(secs(3));
    assert_eq!(world.log_length(1), world.log_length(0));
    assert_eq!(world.machines[1].logs[0].entries, world.machines[0].logs[0].entries);
    assert!(world.log_length(1) > 30);
    world.mend(1, 0);
    world.pass(secs(75));
    assert_eq!(world.machines[1].logs[0].entries, world.machines[0].logs[0].entries);
}

#[test]
fn what_was_told_into_a_lossy_line_is_told_again() {
    let mut world = World::linked(3, 1);
    world.cut(1, 0);
    world.pass(secs(1));
    world.machines[1].deaf = true;
    world.invite(0);
    world.pass(secs(2));
    world.machines[1].deaf = false;
    assert!(world.log_length(1) < world.log_length(0));
    world.pass(secs(8));
    assert_eq!(world.log_length(1), world.log_length(0));
    // And a revocation that no server orders.
    world.stop_host(0);
    world.pass(secs(1));
    world.machines[1].deaf = true;
    assert!(world.ask(0, revoke("m2")).is_ok());
    world.pass(secs(2));
    world.machines[1].deaf = false;
    assert!(world.peer(1, 2).is_some());
    world.pass(secs(8));
    assert!(world.peer(1, 2).is_none());
}

#[test]
fn a_peer_that_was_away_catches_up_when_it_is_linked_again() {
    let mut world = World::linked(2, 1);
    world.stop(1);
    world.cut(1, 0);
    for _ in 0..120 {
        world.invite(0);
        world.pass(secs(4));
    }
    world.start(1);
    world.talk(0, 1);
    world.pass(secs(6));
    assert!(world.reaches(1, 0));
    assert_eq!(world.log_length(1), world.log_length(0));
}

#[test]
fn two_histories_of_one_sequencer_raise_an_alarm_and_cut_no_link() {
    let mut world = World::linked(2, 1);
    world.cut(1, 0);
    // The sequencer signs one entry for machine 1, and another one for everybody else.
    let (network, log) = world.hosts[0].disk.logs[0].clone();
    let entries: Vec<Entry> = log.iter().map(|entry| Entry::decode(&entry.bytes).expect("own entries")).collect();
    let mut liar = Sequencer::resume(world.hosts[0].key.clone(), network, &entries).expect("own log");
    let node = world.machines[0].node.as_ref().expect("it runs");
    let admin = node.networks.iter().find_map(|network| network.saved.admin.as_ref()).expect("it founded").signing();
    let wall = super::world::WALL + 10_000;
    let record = lease_record(&network, &admin, liar.state().head(), wall);
    let lie = liar.append(wall, &record).expect("a fine lease");
    world.stop(1);
    world.machines[1].logs[0].entries.push(lie.encode());
    world.invite(0);
    world.start(1);
    world.pass(secs(10));
    for number in 0..2 {
        let alarms = world.machines[number].notices.iter().filter(|notice| matches!(notice, Notice::Alarm { .. }));
        assert_eq!(alarms.count(), 1, "machine {number}: {:?}", world.machines[number].notices);
        assert!(world.status(number).health.iter().any(|item| item.code == "forked-log"));
    }
    assert!(world.reaches(0, 1) && world.reaches(1, 0));
}

#[test]
fn gossip_is_bounded_and_lies_change_nothing() {
    let mut world = World::linked(2, 1);
    let id = world.peer(0, 1).expect("a peer").id;
    let path = world.peer(0, 1).and_then(|peer| peer.path).expect("linked").path;
    let before = world.log_length(0);
    // A head of another history is a word, no proof.
    let head = [[0x12, 1].as_slice(), &2_u64.to_be_bytes(), &[7; 32]].concat();
    let unasked = [[0x14, 1].as_slice(), &before.to_be_bytes(), &[1, 0, 1, 0, 2, 9, 9]].concat();
    let revocation = [[0x15, 1].as_slice(), &[1; 80]].concat();
    for _ in 0..1000 {
        for plaintext in [&head, &unasked, &revocation] {
            let event = ginnel_forward::Event::Control { peer: id, path, plaintext: plaintext.clone() };
            world.input(0, crate::io::Input::Forward(event));
        }
    }
    world.pass(secs(5));
    let node = world.machines[0].node.as_ref().expect("it runs");
    assert!(node.counters().of(Discard::TooMuchGossip) > 2000);
    assert!(node.counters().of(Discard::BadGossip) <= 200);
    assert_eq!(world.log_length(0), before);
    assert!(!world.machines[0].notices.iter().any(|notice| matches!(notice, Notice::Alarm { .. })));
    assert!(world.reaches(0, 1));
}

/// Machine 2 tells machine 1 of another log.
fn claim(world: &mut World, path: ginnel_path::Path, head: &[u8]) {
    let peer = world.peer(1, 2).expect("a peer").id;
    let event = ginnel_forward::Event::Control { peer, path, plaintext: head.to_vec() };
    world.input(1, crate::io::Input::Forward(event));
}

#[test]
fn a_member_that_claims_much_and_gives_nothing_keeps_no_entry_from_anybody() {
    for is_other_history in [false, true] {
        let mut world = World::linked(3, 1);
        world.cut(1, 0);
        world.pass(secs(1));
        let length = world.log_length(1);
        let path = world.peer(1, 2).and_then(|peer| peer.path).expect("linked").path;
        let claimed = if is_other_history { length } else { u64::MAX };
        let head = [[0x12, 1].as_slice(), &claimed.to_be_bytes(), &[9; 32]].concat();
        // It will never answer.
        world.stop(2);
        claim(&mut world, path, &head);
        world.invite(0);
        for _ in 0..30 {
            claim(&mut world, path, &head);
            world.pass(secs(2));
        }
        assert_eq!((world.log_length(1), world.log_length(0)), (length + 1, length + 1));
    }
}

#[test]
fn what_is_claimed_and_never_shown_keeps_no_session_alive() {
    for is_other_history in [false, true] {
        let mut world = World::linked(3, 1);
        world.talk(1, 2);
        // What is true has been told, and is not told again.
        world.pass(secs(40));
        let path = world.peer(1, 2).and_then(|peer| peer.path).expect("linked").path;
        let claimed = if is_other_history { world.log_length(1) } else { u64::MAX };
        claim(&mut world, path, &[[0x12, 1].as_slice(), &claimed.to_be_bytes(), &[9; 32]].concat());
        world.pass(secs(600));
        assert_eq!(world.peer(1, 2).expect("a member").path, None, "{:?}", world.status(1).peers);
    }
}

#[test]
fn a_revocation_that_is_heard_before_the_entries_that_make_it_good_waits_for_them() {
    let mut world = World::linked(4, 1);
    world.cut(1, 0);
    world.pass(secs(1));
    let before = world.log_length(1);
    assert!(matches!(world.ask(0, Request::AdminAdd { peer: "m3".into() }), Ok(Reply::Done)));
    world.pass(Duration::from_millis(30));
    world.stop_host(0);
    world.pass(Duration::from_millis(15));
    let reply = world.ask(3, revoke("m2"));
    assert!(matches!(reply, Ok(Reply::Revoked { .. })), "{reply:?}");
    world.pass(Duration::from_millis(20));
    assert_eq!(world.log_length(1), before, "it has heard the revocation first");
    assert!(world.peer(1, 2).is_some());
    world.pass(secs(5));
    assert_eq!(world.log_length(1), before + 1);
    assert!(world.peer(1, 2).is_none(), "{:?}", world.status(1));
    world.stop(1);
    world.start(1);
    assert!(world.peer(1, 2).is_none());
}

#[test]
fn new_keys_that_are_heard_of_after_their_revocation_let_nobody_in() {
    let mut world = World::linked(3, 1);
    world.cut(1, 0);
    world.pass(secs(1));
    let before = world.log_length(1);
    assert!(matches!(world.ask(2, Request::RotateKeys), Ok(Reply::Done)));
    world.pass(Duration::from_millis(30));
    world.stop_host(0);
    world.pass(Duration::from_millis(15));
    let reply = world.ask(0, revoke("m2"));
    assert!(matches!(reply, Ok(Reply::Revoked { .. })), "{reply:?}");
    world.pass(Duration::from_millis(20));
    assert_eq!(world.log_length(1), before, "it has heard the revocation first");
    world.pass(secs(5));
    assert_eq!(world.log_length(1), before + 1);
    assert!(world.peer(1, 2).is_none(), "{:?}", world.status(1));
}

#[test]
fn a_revocation_outlasts_a_log_that_is_lost() {
    let mut world = World::linked(3, 1);
    world.stop_host(0);
    world.pass(secs(1));
    assert!(world.ask(0, revoke("m2")).is_ok());
    world.pass(secs(1));
    let length = world.log_length(1);
    for number in 0..3 {
        world.stop(number);
    }
    // Nothing is left but the state.
    world.machines[1].logs.clear();
    world.start_host(0);
    world.start(1);
    world.pass(secs(15));
    assert_eq!(world.log_length(1), length + 1, "it has had it ordered");
    assert!(world.peer(1, 2).is_none() && world.peer(1, 0).is_some());
}
