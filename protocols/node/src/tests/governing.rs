//! What admins decide, and what every machine makes of it.

use ginnel_membership::{Proposal, Rights, SigningKey};

use super::world::{Dialled, World, secs};
use crate::io::{FailureCode, Reply, Request, UpOutcome};
use crate::notice::Notice;

const DAY: i64 = 86_400;

fn up(ticket: String, name: &str) -> Request {
    Request::Up {
        ticket: Some(ticket),
        name: Some(name.to_owned()),
        network: None,
        shields: None,
        range: None,
        ipv4: None,
    }
}

fn done(world: &mut World, number: usize, request: Request) {
    let reply = world.ask(number, request);
    assert!(matches!(reply, Ok(Reply::Done)), "{reply:?}");
}

fn proposed(world: &mut World, number: usize, request: Request) -> (String, u8, Option<String>) {
    match world.ask(number, request) {
        Ok(Reply::Proposed { proposal, missing, what, ticket }) => {
            assert!(!what.contains("ginnel-invite-"), "words are no place for a secret: {what}");
            (proposal, missing, ticket)
        }
        other => panic!("{other:?}"),
    }
}

fn kinds(world: &mut World, number: usize) -> Vec<String> {
    match world.ask(number, Request::Log) {
        Ok(Reply::Log { lines, .. }) => lines.into_iter().map(|line| line.kind).collect(),
        other => panic!("{other:?}"),
    }
}

/// All clocks run ahead by so many days from here on.
fn leap(world: &mut World, days: i64) {
    for host in 0..world.hosts.len() {
        world.stop_host(host);
        world.hosts[host].ahead += days * DAY;
        world.start_host(host);
    }
    for number in 0..world.machines.len() {
        world.machines[number].ahead += days * DAY;
        world.tell_wall(number);
    }
    world.pass(secs(70));
}

#[test]
fn two_admins_of_two_decide_together() {
    let mut world = World::linked(2, 1);
    let denied = world.ask(1, Request::AdminThreshold { threshold: 1 }).expect_err("not an admin yet");
    assert_eq!(denied.code, FailureCode::Denied);
    done(&mut world, 0, Request::AdminAdd { peer: "m1".into() });
    world.pass(secs(1));
    // Its own member key signs.
    world.invite(1);
    done(&mut world, 0, Request::AdminThreshold { threshold: 2 });
    let none = world.ask(0, Request::AdminThreshold { threshold: 3 }).expect_err("there are two");
    assert_eq!(none.code, FailureCode::Usage);
    world.pass(secs(1));

    let (proposal, missing, ticket) = proposed(&mut world, 0, Request::Invite { expires: secs(3600), name: None });
    assert_eq!(missing, 1);
    let ticket = ticket.expect("the invite is told");
    let length = world.log_length(0);
    done(&mut world, 1, Request::Cosign { proposal: proposal.clone() });
    assert_eq!(world.log_length(0), length + 1);
    // The one who made it cannot do alone what two must.
    let mut third = World::new(1, 2);
    let founding = third.founding(1);
    assert!(third.ask(0, up(founding, "m0")).is_ok());
    let foreign = third.ask(0, Request::Cosign { proposal }).expect_err("another network");
    assert_eq!(foreign.code, FailureCode::Usage);
    assert!(ticket.parse::<ginnel_membership::Invite>().is_ok());

    // The founder's own key goes by its digits.
    let founder = world.machines[0].node.as_ref().and_then(|node| node.networks.iter().next()?.saved.admin.clone());
    let key = founder.expect("it founded").signing().member_key().to_string();
    let refused = world.ask(1, Request::AdminRemove { peer: key.clone() }).expect_err("too few would be left");
    assert_eq!(refused.code, FailureCode::Usage);
    let (proposal, ..) = proposed(&mut world, 1, Request::AdminThreshold { threshold: 1 });
    done(&mut world, 0, Request::Cosign { proposal });
    done(&mut world, 1, Request::AdminRemove { peer: key });
    world.pass(secs(1));
    let denied = world.ask(0, Request::Checkpoint).expect_err("it is no admin any more");
    assert_eq!(denied.code, FailureCode::Denied);
}

#[test]
fn a_proposal_spoilt_on_its_way_serves_all_the_same() {
    let mut world = World::linked(2, 1);
    done(&mut world, 0, Request::AdminAdd { peer: "m1".into() });
    done(&mut world, 0, Request::AdminThreshold { threshold: 2 });
    world.pass(secs(1));
    let (proposal, ..) = proposed(&mut world, 0, Request::Invite { expires: secs(3600), name: None });
    let mut spoilt: Proposal = proposal.parse().expect("a proposal");
    spoilt.cosign(&SigningKey::from_bytes(&[9; 32])).expect("there is room");
    let length = world.log_length(0);
    done(&mut world, 1, Request::Cosign { proposal: spoilt.to_string() });
    assert_eq!(world.log_length(0), length + 1);
}

#[test]
fn a_revocation_by_two_takes_effect_with_the_second_signature() {
    let mut world = World::linked(3, 1);
    done(&mut world, 0, Request::AdminAdd { peer: "m1".into() });
    done(&mut world, 0, Request::AdminThreshold { threshold: 2 });
    world.pass(secs(1));
    let (proposal, ..) = proposed(&mut world, 0, Request::Revoke { peer: "m2".into() });
    assert!(world.peer(0, 2).is_some());
    let reply = world.ask(1, Request::Cosign { proposal });
    assert!(matches!(&reply, Ok(Reply::Revoked { name, .. }) if name == "m2"), "{reply:?}");
    world.pass(secs(1));
    assert!(world.peer(0, 2).is_none() && world.peer(1, 2).is_none());
}

#[test]
fn delegates_invite_and_sign_leases_while_they_have_the_right() {
    let mut world = World::linked(2, 1);
    let denied = world.ask(1, Request::Invite { expires: secs(60), name: None }).expect_err("no right yet");
    assert_eq!(denied.code, FailureCode::Denied);
    let delegate = |rights| Request::Policy { strict: None, delegate: Some(("m1".into(), rights)) };
    done(&mut world, 0, delegate(Some(Rights::ALL)));
    world.pass(secs(1));
    world.invite(1);
    world.stop(0);
    leap(&mut world, 2);
    world.pass(secs(3700));
    let leases = kinds(&mut world, 1).iter().filter(|kind| *kind == "lease").count();
    assert_eq!(leases, 2, "the founder's first, and the delegate's");
    world.start(0);
    world.pass(secs(10));
    done(&mut world, 0, delegate(None));
    world.pass(secs(1));
    let denied = world.ask(1, Request::Invite { expires: secs(60), name: None }).expect_err("the right is gone");
    assert_eq!(denied.code, FailureCode::Denied);
}

#[test]
fn strict_rules_keep_newcomers_out_until_somebody_vouches() {
    let mut world = World::new(3, 1);
    world.found();
    world.join(1);
    let invite_only = Some(("m1".into(), Some(Rights::INVITE)));
    done(&mut world, 0, Request::Policy { strict: Some(true), delegate: invite_only });
    world.pass(secs(1));
    world.stop(0);
    leap(&mut world, 8);
    let ticket = world.invite(1);
    let joined = world.ask(2, up(ticket, "m2"));
    assert!(matches!(joined, Ok(Reply::Up(crate::io::UpReport { outcome: UpOutcome::Joined, .. }))), "{joined:?}");
    world.pass(secs(2));
    assert!(world.peer(1, 2).is_none(), "nobody has vouched for the log in 8 days");
    assert!(world.peer(1, 0).is_some(), "whom it knows it keeps");
    assert!(world.status(1).health.iter().any(|item| item.code == "newcomers-wait"));
    world.start(0);
    world.pass(secs(10));
    assert!(world.peer(1, 2).is_some() && world.peer(0, 2).is_some());
    assert!(!world.status(1).health.iter().any(|item| item.code == "newcomers-wait"));
}

#[test]
fn new_keys_keep_name_address_and_link() {
    let mut world = World::linked(2, 1);
    let before = world.peer(0, 1).expect("a peer");
    done(&mut world, 1, Request::RotateKeys);
    world.pass(secs(3));
    let after = world.peer(0, 1).expect("still a peer");
    assert_ne!(before.key, after.key);
    assert_eq!((before.id, &before.addresses), (after.id, &after.addresses));
    assert!(after.last_handshake > before.last_handshake, "the session was made anew");
    for (one, other) in [(0, 1), (1, 0)] {
        world.machines[other].delivered.clear();
        world.talk(one, other);
        world.pass(secs(1));
        assert_eq!(world.machines[other].delivered.len(), 1);
    }
    // The new keys last, and lead to the server and to the peer, with or without it.
    world.stop(1);
    world.stop_host(0);
    world.start(1);
    world.pass(secs(5));
    assert!(world.reaches(1, 0));
    world.start_host(0);
    world.pass(secs(75));
    assert!(
        world.status(1).networks.first().is_some_and(|network| network.servers.iter().all(|server| server.connected))
    );
}

#[test]
fn keys_that_a_crash_left_halfway_are_found_again() {
    let mut world = World::linked(2, 1);
    // The record is on its way when the machine stops.
    world.request(1, None, Request::RotateKeys);
    world.pass(std::time::Duration::from_millis(15));
    world.stop(1);
    world.pass(secs(1));
    assert!(kinds(&mut world, 0).iter().any(|kind| kind == "member-update"));
    world.start(1);
    world.pass(secs(10));
    assert!(
        world.status(1).networks.first().is_some_and(|network| network.servers.iter().all(|server| server.connected))
    );
    world.talk(1, 0);
    world.pass(secs(3));
    assert!(world.reaches(1, 0));
}

#[test]
fn servers_come_go_and_take_over() {
    let mut world = World::linked(2, 2);
    let founding = world.founding(1);
    done(&mut world, 0, Request::ServerAdd { founding });
    world.pass(secs(75));
    for number in 0..2 {
        let network = world.status(number).networks.into_iter().next().expect("a network");
        assert_eq!(network.servers.iter().filter(|server| server.connected).count(), 2, "{:?}", network.servers);
    }
    // The sequencer is lost for good; the other server takes its place.
    world.stop_host(0);
    world.pass(secs(10));
    let server = world.server(1).addresses[0].clone();
    done(&mut world, 0, Request::ServerPromote { server });
    world.pass(secs(5));
    world.invite(0);
    let lost = world.server(0).addresses[0].clone();
    done(&mut world, 0, Request::ServerRemove { server: lost });
    world.pass(secs(5));
    for number in 0..2 {
        let network = world.status(number).networks.into_iter().next().expect("a network");
        assert!(network.servers.len() == 1 && network.servers[0].connected, "{:?}", network.servers);
    }
    assert!(world.machines[1].notices.iter().any(|notice| matches!(notice, Notice::ServerUp { .. })));
    assert!(world.reaches(0, 1));
}

#[test]
fn any_server_that_is_left_takes_the_place_of_a_lost_sequencer() {
    for heir in [1, 2] {
        let mut world = World::linked(2, 3);
        for host in [1, 2] {
            let founding = world.founding(host);
            done(&mut world, 0, Request::ServerAdd { founding });
            world.pass(secs(75));
        }
        world.stop_host(0);
        world.pass(secs(10));
        let server = world.server(heir).addresses[0].clone();
        done(&mut world, 0, Request::ServerPromote { server });
        world.pass(secs(5));
        world.invite(0);
        let lost = world.server(0).addresses[0].clone();
        done(&mut world, 0, Request::ServerRemove { server: lost });
        world.pass(secs(75));
        for number in 0..2 {
            let servers = world.status(number).networks[0].servers.clone();
            assert!(servers.len() == 2 && servers.iter().all(|server| server.connected), "{heir}: {servers:?}");
        }
    }
}

/// A founder that does not reach the server that orders the log, and two mirrors.
fn far_from_the_sequencer() -> World {
    let mut world = World::linked(1, 3);
    for host in [1, 2] {
        let founding = world.founding(host);
        done(&mut world, 0, Request::ServerAdd { founding });
        world.pass(secs(75));
    }
    world.cut(0, 0);
    world.pass(secs(1));
    world
}

#[test]
fn a_record_goes_by_the_mirror_that_reaches_the_sequencer() {
    for lost in [1, 2] {
        let mut world = far_from_the_sequencer();
        world.part_hosts(0, lost, Dialled::Refused);
        world.pass(secs(5));
        world.invite(0);
    }
}

#[test]
fn a_record_that_a_mirror_holds_in_vain_goes_by_another() {
    for lost in [1, 2] {
        let mut world = far_from_the_sequencer();
        world.part_hosts(0, lost, Dialled::Unanswered);
        world.invite(0);
    }
}

#[test]
fn a_record_that_a_mirror_took_along_goes_by_another() {
    for lost in [1, 2] {
        let mut world = far_from_the_sequencer();
        world.part_hosts(0, lost, Dialled::Unanswered);
        let id = world.request(0, None, Request::Invite { expires: secs(3600), name: None });
        world.pass(secs(2));
        world.stop_host(lost);
        world.pass(secs(2));
        let reply = world.machines[0].replies.remove(&id);
        assert!(matches!(reply, Some(Ok(Reply::Invite { .. }))), "{reply:?}");
    }
}

#[test]
fn a_lease_goes_by_the_mirror_that_reaches_the_sequencer() {
    for lost in [1, 2] {
        let mut world = far_from_the_sequencer();
        world.part_hosts(0, lost, Dialled::Refused);
        let leases = |world: &mut World| kinds(world, 0).iter().filter(|kind| *kind == "lease").count();
        let before = leases(&mut world);
        leap(&mut world, 2);
        world.pass(secs(3700));
        assert_eq!(leases(&mut world), before + 1);
    }
}

#[test]
fn the_admin_is_told_of_a_takeover_from_a_sequencer_that_answers_nothing() {
    let mut world = World::linked(1, 2);
    let founding = world.founding(1);
    done(&mut world, 0, Request::ServerAdd { founding });
    world.pass(secs(75));
    world.cut(0, 0);
    world.part_hosts(0, 1, Dialled::Unanswered);
    let server = world.server(1).addresses[0].clone();
    done(&mut world, 0, Request::ServerPromote { server });
    world.invite(0);
}

#[test]
fn the_only_server_gets_its_log_back_from_a_member() {
    let mut world = World::linked(3, 1);
    // More than one message takes.
    for _ in 0..120 {
        world.invite(0);
        world.pass(secs(1));
    }
    let length = world.log_length(0);
    let founding = world.founding(0);
    let known = world.ask(0, Request::ServerAdd { founding }).expect_err("it serves");
    assert!(known.code == FailureCode::Usage && known.message.contains("already"), "{known:?}");
    world.stop_host(0);
    world.wipe_host(0);
    world.start_host(0);
    world.pass(secs(60));
    assert!(!world.status(0).networks[0].servers[0].connected);
    let founding = world.founding(0);
    done(&mut world, 0, Request::ServerAdd { founding });
    world.pass(secs(120));
    for number in 0..3 {
        let status = world.status(number);
        assert!(status.networks[0].servers[0].connected, "{number}: {:?}", status.networks[0].servers);
        assert!(status.health.is_empty(), "{:?}", status.health);
    }
    world.invite(0);
    world.pass(secs(5));
    assert_eq!((0..3).map(|number| world.log_length(number)).collect::<Vec<_>>(), vec![length + 1; 3]);
}

#[test]
fn the_first_sequencer_comes_back_without_its_disk_as_a_mirror() {
    let mut world = World::linked(2, 2);
    let founding = world.founding(1);
    done(&mut world, 0, Request::ServerAdd { founding });
    world.pass(secs(75));
    let [first, second] = [0, 1].map(|host| world.server(host).addresses[0].clone());
    done(&mut world, 0, Request::ServerPromote { server: second });
    done(&mut world, 0, Request::ServerRemove { server: first });
    world.stop_host(0);
    world.wipe_host(0);
    world.start_host(0);
    let founding = world.founding(0);
    done(&mut world, 0, Request::ServerAdd { founding });
    world.pass(secs(75));
    for number in 0..2 {
        let status = world.status(number);
        let connected = status.networks[0].servers.iter().filter(|server| server.connected).count();
        assert_eq!(connected, 2, "{:?}", status.networks[0].servers);
        assert!(status.health.is_empty(), "{:?}", status.health);
    }
    world.stop_host(1);
    world.pass(secs(5));
    assert!(world.reaches(0, 1));
}

#[test]
fn a_server_that_was_dismissed_comes_back_by_a_fresh_string() {
    let mut world = World::linked(2, 2);
    let founding = world.founding(1);
    done(&mut world, 0, Request::ServerAdd { founding });
    world.pass(secs(75));
    let second = world.server(1).addresses[0].clone();
    done(&mut world, 0, Request::ServerRemove { server: second });
    world.pass(secs(5));
    world.stop_host(1);
    world.renew_founding(1);
    world.start_host(1);
    let founding = world.founding(1);
    done(&mut world, 0, Request::ServerAdd { founding });
    world.pass(secs(75));
    for number in 0..2 {
        let servers = world.status(number).networks[0].servers.clone();
        assert!(servers.len() == 2 && servers.iter().all(|server| server.connected), "{servers:?}");
    }
}

#[test]
fn a_server_that_does_not_answer_is_not_added() {
    let mut world = World::new(1, 2);
    world.found();
    world.stop_host(1);
    let founding = world.founding(1);
    let failed = world.ask(0, Request::ServerAdd { founding }).expect_err("it is down");
    assert_eq!(failed.code, FailureCode::Failed);
    assert_eq!(world.status(0).networks.first().map(|network| network.servers.len()), Some(1));
}

#[test]
fn a_newcomer_starts_from_a_checkpoint() {
    let mut world = World::new(3, 1);
    world.found();
    world.join(1);
    for _ in 0..20 {
        world.invite(0);
    }
    world.pass(secs(5));
    done(&mut world, 0, Request::Checkpoint);
    world.pass(secs(5));
    let checkpoint = world.log_length(0) - 1;
    world.invite(0);
    world.join(2);
    world.pass(secs(1));
    assert!(world.machines[2].logs[0].snapshot.is_some());
    assert_eq!(world.machines[2].logs[0].entries.len() as u64, world.log_length(2) - checkpoint - 1);
    assert_eq!(world.log_length(2), world.log_length(0));
    world.stop_host(0);
    world.stop(2);
    world.start(2);
    assert_eq!(world.log_length(2), world.log_length(0));
    assert!(world.peer(2, 0).is_some() && world.peer(2, 1).is_some());
}
