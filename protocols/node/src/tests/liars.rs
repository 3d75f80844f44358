//! Servers that say what is not so, or nothing.

use std::net::IpAddr;
use std::time::Duration;

use ginnel_membership::MemberKey;
use ginnel_membership::build::revoke_record;
use ginnel_signal_proto::{Head, Refusal, Request as Asked, ServerMessage};

use super::scale::crowd;
use super::world::{World, secs};
use crate::io::{FailureCode, Reply, Request, ServerId, UpOutcome, UpReport};
use crate::link::Link;
use crate::network::Network;
use crate::node::Node;
use crate::notice::Notice;
use crate::report::NetworkState;

fn up(ticket: String) -> Request {
    Request::Up { ticket: Some(ticket), name: None, network: None, shields: None, range: None, ipv4: None }
}

fn node(world: &mut World, number: usize) -> &mut Node {
    world.machines[number].node.as_mut().expect("it runs")
}

fn network(world: &mut World, number: usize) -> &mut Network {
    node(world, number).networks.iter_mut().next().expect("it is in one")
}

/// A server says something to a machine.
fn say(world: &mut World, number: usize, server: ServerId, message: ServerMessage) {
    let now = world.now;
    node(world, number).server_says(now, server, message);
    // Whatever comes of it is carried out with the next input.
    world.tell_wall(number);
}

fn server_of(world: &mut World, number: usize) -> ServerId {
    *network(world, number).links.keys().next().expect("it has one")
}

/// From here on the server keeps the stream open and says nothing.
fn silence(link: &mut Link) {
    link.client = None;
}

#[test]
fn what_a_server_says_a_thousand_times_is_told_once_and_in_our_words() {
    let mut world = World::linked(1, 1);
    let server = server_of(&mut world, 0);
    let before = world.machines[0].notices.len();
    for number in 0..1000 {
        let text = format!("evil {number}");
        say(&mut world, 0, server, ServerMessage::Refused { request: Asked::Refill, code: Refusal::Fork, text });
        let head = Head { length: 2, hash: [number as u8; 32] };
        say(&mut world, 0, server, ServerMessage::Entries { first: 2, entries: Vec::new(), head });
    }
    world.pass(secs(1));
    let told: Vec<&Notice> = world.machines[0].notices[before..].iter().collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(matches!(told[0], Notice::Alarm { text } if !text.contains("evil")), "{told:?}");
}

#[test]
fn nothing_is_done_because_a_server_says_so() {
    let mut world = World::linked(1, 1);
    let ticket = world.invite(0);
    let Ok(Reply::Invites(invites)) = world.ask(0, Request::Invites) else { panic!("they are listed") };
    assert!(!ticket.is_empty() && invites.len() == 2);
    let server = server_of(&mut world, 0);
    network(&mut world, 0).links.values_mut().for_each(silence);
    let asked = world.request(0, None, Request::VoidInvite { id: invites[1].id.clone() });
    for sequence in [2, 77] {
        say(&mut world, 0, server, ServerMessage::Appended { sequence });
    }
    world.pass(secs(1));
    assert!(!world.machines[0].replies.contains_key(&asked), "{:?}", world.machines[0].replies);
    world.pass(secs(20));
    match world.machines[0].replies.get(&asked) {
        Some(Err(failure)) => {
            assert!(failure.code == FailureCode::TimedOut && failure.message.contains("does not show"), "{failure:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_server_that_sends_no_snapshot_holds_up_no_join_for_long() {
    let mut world = World::new(3, 2);
    world.found();
    let founding = world.founding(1);
    assert!(matches!(world.ask(0, Request::ServerAdd { founding }), Ok(Reply::Done)));
    world.pass(secs(75));
    assert!(matches!(world.ask(0, Request::Checkpoint), Ok(Reply::Done)));
    world.pass(secs(2));
    let ticket = world.invite(0);
    let asked = world.request(2, None, up(ticket));
    let begun = (0..200).any(|_| {
        world.pass(Duration::from_millis(5));
        let mut links = network(&mut world, 2).links.values_mut();
        links.find(|link| link.download.is_some()).map(silence).is_some()
    });
    assert!(begun, "it starts from the checkpoint");
    world.pass(secs(14));
    let reply = world.machines[2].replies.get(&asked);
    assert!(matches!(reply, Some(Ok(Reply::Up(UpReport { outcome: UpOutcome::Joined, .. })))), "{reply:?}");
}

#[test]
fn a_server_that_is_being_taken_on_is_none_of_the_networks_yet() {
    let mut world = World::new(1, 2);
    world.found();
    world.stop_host(0);
    world.pass(secs(1));
    let founding = world.founding(1);
    let added = world.request(0, None, Request::ServerAdd { founding });
    let invited = world.request(0, None, Request::Invite { expires: secs(3600), name: None });
    let mut was_there = false;
    for _ in 0..200 {
        world.pass(Duration::from_millis(2));
        was_there |= network(&mut world, 0).links.len() == 2;
        let report = world.status(0).networks.into_iter().next().expect("a network");
        assert!(report.state == NetworkState::NoServer && report.servers.len() == 1, "{report:?}");
    }
    assert!(was_there);
    world.pass(secs(20));
    for asked in [added, invited] {
        let reply = world.machines[0].replies.get(&asked);
        assert!(matches!(reply, Some(Err(failure)) if failure.code == FailureCode::TimedOut), "{reply:?}");
    }
}

/// Machines that joined a network of so many members, none of which is there, and the admin's revocations of members.
fn among(machines: usize, members: u32) -> (World, Vec<Vec<u8>>) {
    let mut world = World::new(machines, 1);
    let (stored, tickets, admin) = crowd(&world, members, machines as u8);
    world.stop_host(0);
    world.hosts[0].disk = stored;
    world.start_host(0);
    world.pass(secs(10));
    for (number, ticket) in tickets.into_iter().enumerate() {
        let joined = world.ask(number, up(ticket));
        assert!(matches!(joined, Ok(Reply::Up(UpReport { outcome: UpOutcome::Joined, .. }))), "{joined:?}");
    }
    world.pass(secs(3));
    let network = network(&mut world, 0);
    let id = network.saved.id();
    let mut keys: Vec<MemberKey> = network.state.members().map(|member| member.key()).collect();
    // Those that have joined here are called m0-2 and so on.
    keys.retain(|key| network.state.member(key).is_some_and(|member| !member.name().as_str().contains('-')));
    let records = keys.iter().map(|key| revoke_record(&id, &admin, *key)).collect();
    (world, records)
}

fn revoke(world: &mut World, number: usize, record: &[u8]) {
    let (now, at) = (world.now, network(world, number).number);
    node(world, number).revoke_here(now, at, record, None).expect("an admin signed it");
    world.tell_wall(number);
}

#[test]
fn a_revocation_that_nobody_orders_is_brought_to_more_than_the_first_members() {
    let (mut world, records) = among(1, 200);
    world.stop_host(0);
    world.pass(secs(20));
    revoke(&mut world, 0, &records[0]);
    world.pass(secs(240));
    let called = node(&mut world, 0).peers.values().filter(|peer| peer.unanswered || peer.attempt.is_some()).count();
    assert!(called >= 199, "{called}");
}

#[test]
fn more_revocations_than_are_told_at_once_are_all_told() {
    let (mut world, records) = among(2, 100);
    let v6 = |ip: &IpAddr| match ip {
        IpAddr::V6(ip) => Some(*ip),
        IpAddr::V4(_) => None,
    };
    let status = world.status(0);
    let own = status.networks[0].self_addresses.iter().find_map(v6).expect("it has one");
    let other = status.peers.iter().find(|peer| peer.name == "m1-2").expect("it has joined");
    let other = other.addresses.iter().find_map(|(ip, _)| v6(ip)).expect("it has one");
    world.send(0, own, other);
    world.pass(secs(5));
    assert!(!network(&mut world, 1).saved.recent.is_empty(), "the two were linked");
    world.stop_host(0);
    world.stop(1);
    world.pass(secs(1));
    for record in records.iter().take(90) {
        revoke(&mut world, 0, record);
    }
    world.start(1);
    world.pass(secs(5));
    let told = network(&mut world, 1).state.pending_revocations().count();
    assert_eq!(told, 90, "{:?}", world.status(1).peers.iter().find(|peer| peer.name == "m0-2"));
    // Repeated a few times, since nobody acknowledges them, and then left at that.
    world.pass(secs(55));
    let before = world.carried;
    world.pass(secs(60));
    let more = world.carried - before;
    assert!(more < 64, "{more} datagrams in a minute in which nothing has changed");
}
