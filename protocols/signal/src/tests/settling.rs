//! What a sequencer that has started waits for, and for how long.

use std::time::Duration;

use ginnel_membership::build::{self, Founded};
use ginnel_membership::{NetworkId, SigningKey};

use super::fleet::Fleet;
use super::world::{UNIX, invite, key, member_record, pausing};
use crate::client::Credentials;
use crate::message::{ClientMessage, ServerMessage};
use crate::server::{ConnectionId, Discard, MAX_REFILL};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A member that comes in and, as members do, asks for what follows its own log.
fn comes_with(fleet: &mut Fleet, network: NetworkId, n: u8, length: u64) -> ConnectionId {
    let conn = fleet.member(0, network, n);
    fleet.send(conn, ClientMessage::Fetch { from: length });
    conn
}

/// A lone server with `members` members and 2 entries for each beside the genesis, whose disk then loses the last `lost`.
fn rolled_back(members: u8, lost: usize) -> (Fleet, Founded, Vec<Vec<u8>>) {
    let (mut fleet, founded) = Fleet::founded_with(1, members, pausing());
    let full = fleet.log(0, founded.network);
    fleet.kill(0);
    fleet.stored(0, founded.network).truncate(full.len() - lost);
    fleet.start(0);
    (fleet, founded, full)
}

#[test]
fn lone_server_from_a_backup_gets_its_log_back_from_whoever_comes_within_nine_seconds_of_the_first() {
    let (mut fleet, founded, full) = rolled_back(4, 2);
    let (network, length) = (founded.network, full.len() as u64);
    fleet.advance(seconds(600));
    // One that was away when the lost entries were made, and with it somebody who wants something.
    let stale = comes_with(&mut fleet, network, 1, length - 2);
    fleet.append(stale, invite(&founded, 200));
    let admin = fleet.admin(0, &founded);
    fleet.append(admin, invite(&founded, 201));
    fleet.advance(seconds(9));
    assert_eq!(fleet.head(0, network).0, length - 2, "nothing is ordered yet");
    let two = comes_with(&mut fleet, network, 2, length);
    fleet.advance(seconds(3));
    assert_eq!(fleet.head(0, network).0, length - 2, "somebody has more");
    fleet.send(two, ClientMessage::Refill { first: length - 2, entries: full[full.len() - 2..].to_vec() });
    fleet.advance(seconds(20));
    assert_eq!(fleet.answers(admin), [ServerMessage::Appended { sequence: length + 1 }]);
    assert_eq!(fleet.log(0, network)[..full.len()], full);
    assert_eq!(fleet.hosts[0].server.as_ref().unwrap().counters().get(&Discard::Fork), None);
}

#[test]
fn pause_is_over_at_once_when_every_member_has_spoken() {
    let (mut fleet, founded, full) = rolled_back(2, 0);
    let length = full.len() as u64;
    let one = comes_with(&mut fleet, founded.network, 1, length);
    let admin = fleet.admin(0, &founded);
    fleet.append(admin, invite(&founded, 200));
    assert!(fleet.answers(admin).is_empty(), "the other may have more");
    comes_with(&mut fleet, founded.network, 2, length - 1);
    assert_eq!(fleet.answers(admin), [ServerMessage::Appended { sequence: length }]);
    assert!(!fleet.messages(one).is_empty());
}

#[test]
fn pause_is_shorter_where_every_fellow_has_said_that_it_has_no_more() {
    for (hosts, alive, pause) in [(1, 1, 10), (2, 2, 6), (3, 2, 10)] {
        let (mut fleet, founded) = Fleet::founded_with(hosts, 3, pausing());
        let length = fleet.head(0, founded.network).0;
        (0..hosts).for_each(|host| fleet.kill(host));
        fleet.advance(seconds(60));
        // The one that is to order the log comes last; who it finds counts from then on.
        (0..alive).rev().for_each(|host| fleet.start(host));
        comes_with(&mut fleet, founded.network, 1, length);
        let admin = fleet.admin(0, &founded);
        fleet.append(admin, invite(&founded, 200));
        fleet.advance(seconds(pause) - Duration::from_millis(1));
        assert!(fleet.answers(admin).is_empty(), "{hosts} servers, {alive} of them alive");
        fleet.advance(Duration::from_millis(1));
        let answers = fleet.answers(admin);
        assert_eq!(answers, [ServerMessage::Appended { sequence: length }], "{hosts} servers, {alive} of them alive");
    }
}

#[test]
fn member_that_says_it_has_more_and_hands_in_nothing_holds_a_network_up_for_seconds_only() {
    let (mut fleet, founded, full) = rolled_back(3, 0);
    let length = full.len() as u64;
    let liar = comes_with(&mut fleet, founded.network, 1, u64::MAX);
    let admin = fleet.admin(0, &founded);
    fleet.append(admin, invite(&founded, 200));
    for _ in 0..16 {
        fleet.advance(seconds(1));
        fleet.send(liar, ClientMessage::Fetch { from: u64::MAX });
        fleet.send(liar, ClientMessage::Refill { first: u64::MAX - 1, entries: vec![full[1].clone()] });
    }
    assert_eq!(fleet.answers(admin), [ServerMessage::Appended { sequence: length }]);
}

#[test]
fn sequencer_without_its_log_orders_nothing_between_two_handfuls_of_the_founder() {
    let (mut fleet, founded) = Fleet::founded_with(1, 1, pausing());
    let network = founded.network;
    let admin = fleet.admin(0, &founded);
    fleet.append(admin, invite(&founded, 130));
    for n in 0..180 {
        let invite = SigningKey::from_bytes(&[[n; 16], [250; 16]].concat().try_into().unwrap()).invite_key();
        fleet.append(admin, build::invite_record(&network, &founded.admin, invite, UNIX + 360_000, None));
        fleet.advance(seconds(1));
    }
    let full = fleet.log(0, network);
    assert!(full.iter().map(Vec::len).sum::<usize>() > 2 * MAX_REFILL, "several handfuls");
    fleet.kill(0);
    fleet.hosts[0].disk.stored.logs.clear();
    fleet.hosts[0].disk.stored.tokens[0].1 = None;
    fleet.start(0);
    let founder = fleet.connect(0, network, fleet.founder(0, &founded));
    let mut handed = 0;
    while handed < full.len() {
        let mut room = MAX_REFILL;
        let fits = |entry: &&Vec<u8>| room.checked_sub(entry.len() + 3).map(|left| room = left).is_some();
        let chunk: Vec<_> = full[handed..].iter().take_while(fits).cloned().collect();
        let (first, count) = (handed as u64, chunk.len());
        fleet.send(founder, ClientMessage::Refill { first, entries: chunk });
        handed += count;
        if first == 0 {
            let joiner = fleet.connect(0, network, Credentials::Joiner { invite: key(130), key: key(99) });
            fleet.append(joiner, member_record(&network, &key(130), 99));
            comes_with(&mut fleet, network, 1, full.len() as u64);
        }
        fleet.advance(seconds(4));
        assert_eq!(fleet.head(0, network).0, handed as u64, "nothing of its own");
    }
    fleet.advance(seconds(120));
    assert_eq!(fleet.log(0, network)[..full.len()], full);
    assert_eq!(fleet.head(0, network).0, full.len() as u64 + 1, "the joiner came after it");
    assert_eq!(fleet.hosts[0].server.as_ref().unwrap().counters().get(&Discard::Fork), None);
}

#[test]
fn founding_again_after_the_disk_was_lost_makes_the_same_first_entry() {
    let (mut fleet, founded) = Fleet::founded(1, 1);
    let first = fleet.log(0, founded.network)[0].clone();
    fleet.kill(0);
    fleet.hosts[0].disk.stored.logs.clear();
    fleet.hosts[0].disk.stored.tokens[0].1 = None;
    fleet.advance(seconds(10_000));
    fleet.start(0);
    let conn = fleet.connect(0, founded.network, fleet.founder(0, &founded));
    fleet.send(conn, ClientMessage::Found { genesis: founded.genesis.clone() });
    assert_eq!(fleet.log(0, founded.network), [first]);
}
