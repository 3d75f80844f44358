//! What a start may make of the end of a log that a driver remembers elsewhere than on the disk.

use std::collections::VecDeque;
use std::time::Duration;

use ginnel_membership::build::Founded;

use super::fleet::{Fleet, token};
use super::world::{invite, pausing};
use crate::message::{ClientMessage, FoundingToken, Head, Refusal, Request, ServerMessage};
use crate::server::{Discard, Input, Output, Stored};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn remembered(fleet: &Fleet, founded: &Founded) -> Option<Head> {
    fleet.hosts[0].witnessed.get(&founded.network).copied()
}

fn end(fleet: &Fleet, founded: &Founded) -> Head {
    let (length, hash) = fleet.head(0, founded.network);
    Head { length, hash }
}

/// How long after its start, and after somebody came, the server orders a record; `None` where that takes 30 s.
fn pause(fleet: &mut Fleet, founded: &Founded) -> Option<Duration> {
    let length = fleet.head(0, founded.network).0;
    let admin = fleet.admin(0, founded);
    fleet.append(admin, invite(founded, 230 + u8::try_from(length).unwrap()));
    let begun = fleet.now;
    while fleet.now.saturating_duration_since(begun) < seconds(30) {
        if fleet.answers(admin) == [ServerMessage::Appended { sequence: length }] {
            return Some(fleet.now.saturating_duration_since(begun));
        }
        fleet.advance(Duration::from_millis(500));
    }
    None
}

/// How long after its start the server orders a record that it refuses at first.
fn long_pause(fleet: &mut Fleet, founded: &Founded) -> Duration {
    let (admin, begun) = (fleet.admin(0, founded), fleet.now);
    loop {
        fleet.append(admin, invite(founded, 200));
        fleet.advance(seconds(10));
        let answers = fleet.answers(admin);
        if matches!(answers[..], [ServerMessage::Appended { .. }]) {
            return fleet.now.saturating_duration_since(begun);
        }
        assert!(busy(&answers), "{answers:?}");
        assert!(fleet.now.saturating_duration_since(begun) < seconds(700));
    }
}

fn busy(answers: &[ServerMessage]) -> bool {
    matches!(answers, [ServerMessage::Refused { request: Request::Append, code: Refusal::Busy, .. }])
}

#[test]
fn lone_server_that_was_merely_killed_orders_at_once() {
    let (mut fleet, founded) = Fleet::founded_with(1, 3, pausing());
    assert_eq!(remembered(&fleet, &founded), Some(end(&fleet, &founded)));
    fleet.kill(0);
    fleet.start_again(0);
    assert_eq!(pause(&mut fleet, &founded), Some(Duration::ZERO));
    fleet.kill(0);
    fleet.start_again(0);
    assert_eq!(pause(&mut fleet, &founded), Some(Duration::ZERO), "and again");
}

#[test]
fn start_of_which_nothing_is_remembered_pauses_and_so_does_a_second_one_in_that_pause() {
    let (mut fleet, founded) = Fleet::founded_with(1, 3, pausing());
    fleet.kill(0);
    fleet.start(0);
    let admin = fleet.admin(0, &founded);
    fleet.append(admin, invite(&founded, 200));
    fleet.advance(seconds(9));
    assert_eq!(remembered(&fleet, &founded), None, "the disk is not known to be whole");
    fleet.kill(0);
    fleet.start_again(0);
    assert_eq!(pause(&mut fleet, &founded), Some(seconds(10)));
    assert_eq!(remembered(&fleet, &founded), Some(end(&fleet, &founded)), "it orders now");
}

/// A lone server that was killed and whose disk has lost the last two entries; and the whole log.
fn set_back() -> (Fleet, Founded, Vec<Vec<u8>>) {
    let (mut fleet, founded) = Fleet::founded_with(1, 3, pausing());
    let full = fleet.log(0, founded.network);
    assert_eq!(remembered(&fleet, &founded), Some(end(&fleet, &founded)));
    fleet.kill(0);
    fleet.stored(0, founded.network).truncate(full.len() - 2);
    (fleet, founded, full)
}

#[test]
fn disk_that_was_set_back_is_noticed_and_its_entries_are_waited_for() {
    let (mut fleet, founded, full) = set_back();
    let network = founded.network;
    fleet.start_again(0);
    let admin = fleet.admin(0, &founded);
    fleet.append(admin, invite(&founded, 200));
    assert!(busy(&fleet.answers(admin)));
    // All members that are left say that they have no more: the disk knows better.
    let conns: Vec<_> = (1..=2).map(|n| fleet.member(0, network, n)).collect();
    for conn in &conns {
        fleet.send(*conn, ClientMessage::Fetch { from: full.len() as u64 - 2 });
    }
    fleet.advance(seconds(9));
    assert_eq!(fleet.log(0, network).len(), full.len() - 2, "nothing is ordered");
    let lost = full[full.len() - 2..].to_vec();
    fleet.send(conns[0], ClientMessage::Refill { first: full.len() as u64 - 2, entries: lost });
    fleet.append(admin, invite(&founded, 200));
    fleet.advance(seconds(20));
    assert_eq!(fleet.answers(admin), [ServerMessage::Appended { sequence: full.len() as u64 }]);
    assert_eq!(fleet.log(0, network)[..full.len()], full);
    assert_eq!(fleet.hosts[0].server.as_ref().unwrap().counters().get(&Discard::Fork), None);
    assert_eq!(remembered(&fleet, &founded), Some(end(&fleet, &founded)));
}

#[test]
fn disk_that_was_set_back_is_still_known_as_such_after_another_start() {
    let (mut fleet, founded) = Fleet::founded_with(1, 3, pausing());
    let (network, before) = (founded.network, end(&fleet, &founded));
    fleet.kill(0);
    fleet.stored(0, network).pop();
    for _ in 0..3 {
        fleet.start_again(0);
        fleet.admin(0, &founded);
        fleet.advance(seconds(5));
        assert_eq!(remembered(&fleet, &founded), Some(before));
        fleet.kill(0);
    }
    fleet.start_again(0);
    assert!(long_pause(&mut fleet, &founded) >= seconds(600));
}

#[test]
fn lost_entries_are_waited_for_until_the_last_is_back_whatever_happens_meanwhile() {
    let (mut fleet, founded, full) = set_back();
    let (network, left) = (founded.network, full.len() - 2);
    let before = remembered(&fleet, &founded).unwrap();
    fleet.start_again(0);
    let one = fleet.member(0, network, 1);
    fleet.advance(seconds(60));
    let first = left as u64;
    fleet.send(one, ClientMessage::Refill { first, entries: vec![full[left].clone()] });
    for again in [false, true] {
        if again {
            fleet.kill(0);
            fleet.start_again(0);
        }
        assert_eq!(remembered(&fleet, &founded), Some(before), "one of two is not all");
        let admin = fleet.admin(0, &founded);
        fleet.advance(seconds(60));
        fleet.append(admin, invite(&founded, 200));
        assert!(busy(&fleet.answers(admin)));
    }
    let one = fleet.member(0, network, 1);
    fleet.send(one, ClientMessage::Refill { first: first + 1, entries: vec![full[left + 1].clone()] });
    assert!(pause(&mut fleet, &founded).is_some());
    assert_eq!(fleet.log(0, network)[..full.len()], full);
}

#[test]
fn office_that_the_disk_has_lost_is_not_taken_up_again_without_the_entries_made_in_it() {
    let (mut fleet, founded) = Fleet::founded_with(2, 3, pausing());
    let network = founded.network;
    let before = fleet.log(1, network).len();
    let admin = fleet.admin(0, &founded);
    fleet.promote(admin, &founded, 1, 2);
    fleet.advance(seconds(20));
    fleet.part(0, 1);
    let admin = fleet.admin(1, &founded);
    fleet.append(admin, invite(&founded, 200));
    fleet.append(admin, invite(&founded, 201));
    let full = fleet.log(1, network);
    assert_eq!(full.len(), before + 3);
    let known = fleet.hosts[1].witnessed.get(&network).copied();
    assert_eq!(known.unwrap().length, full.len() as u64);
    fleet.kill(1);
    fleet.stored(1, network).truncate(before);
    fleet.start_again(1);
    assert_eq!(fleet.hosts[1].witnessed.get(&network).copied(), known);
    // The other server tells of the office, and of nothing that was ordered in it.
    fleet.cut.clear();
    fleet.advance(seconds(60));
    let admin = fleet.admin(1, &founded);
    fleet.append(admin, invite(&founded, 202));
    assert!(busy(&fleet.answers(admin)));
    assert_eq!(fleet.hosts[1].witnessed.get(&network).copied(), known);
    assert_eq!(fleet.head(1, network).0, before as u64 + 1);
    let one = fleet.member(1, network, 1);
    let first = before as u64 + 1;
    fleet.send(one, ClientMessage::Refill { first, entries: full[before + 1..].to_vec() });
    fleet.append(admin, invite(&founded, 202));
    fleet.advance(seconds(20));
    assert_eq!(fleet.answers(admin), [ServerMessage::Appended { sequence: full.len() as u64 }]);
    assert_eq!(fleet.log(1, network)[..full.len()], full);
}

#[test]
fn log_that_is_gone_altogether_is_waited_for_when_some_of_it_is_back() {
    let (mut fleet, founded) = Fleet::founded_with(1, 3, pausing());
    let (network, full) = (founded.network, fleet.log(0, founded.network));
    fleet.kill(0);
    fleet.hosts[0].disk.stored = Stored { tokens: vec![(FoundingToken(token(0)), None)], ..Stored::default() };
    fleet.start_again(0);
    let founder = fleet.connect(0, network, fleet.founder(0, &founded));
    let some = full[..full.len() - 1].to_vec();
    fleet.send(founder, ClientMessage::Refill { first: 0, entries: some });
    fleet.advance(seconds(120));
    let admin = fleet.admin(0, &founded);
    fleet.append(admin, invite(&founded, 200));
    assert!(busy(&fleet.answers(admin)));
    let one = fleet.member(0, network, 1);
    let first = full.len() as u64 - 1;
    fleet.send(one, ClientMessage::Refill { first, entries: full[full.len() - 1..].to_vec() });
    assert!(pause(&mut fleet, &founded).is_some());
    assert_eq!(fleet.log(0, network)[..full.len()], full);
}

#[test]
fn handover_that_reached_the_disk_and_was_never_told_takes_the_proof_back() {
    let (mut fleet, founded) = Fleet::founded_with(2, 1, pausing());
    let before = remembered(&fleet, &founded).unwrap();
    let admin = fleet.admin(0, &founded);
    fleet.promote(admin, &founded, 1, 2);
    fleet.kill(0);
    fleet.hosts[0].witnessed.insert(founded.network, before);
    fleet.start_again(0);
    assert_eq!(remembered(&fleet, &founded), None);
    // A disk from before that would name this server.
    fleet.kill(0);
    fleet.stored(0, founded.network).pop();
    fleet.cut.insert((0, 1));
    fleet.start_again(0);
    assert_eq!(pause(&mut fleet, &founded), Some(seconds(10)), "nothing is known of it");
}

#[test]
fn another_history_on_the_disk_is_no_proof() {
    let (mut fleet, founded) = Fleet::founded_with(1, 3, pausing());
    fleet.kill(0);
    fleet.hosts[0].witnessed.get_mut(&founded.network).unwrap().hash[0] ^= 1;
    fleet.start_again(0);
    assert!(long_pause(&mut fleet, &founded) >= seconds(600));
    assert_eq!(remembered(&fleet, &founded), Some(end(&fleet, &founded)), "it orders now");
}

#[test]
fn entry_that_reached_the_disk_and_was_never_told_makes_no_pause() {
    let (mut fleet, founded) = Fleet::founded_with(1, 3, pausing());
    let before = remembered(&fleet, &founded).unwrap();
    let admin = fleet.admin(0, &founded);
    fleet.append(admin, invite(&founded, 200));
    fleet.kill(0);
    fleet.hosts[0].witnessed.insert(founded.network, before);
    fleet.start_again(0);
    assert_eq!(remembered(&fleet, &founded), Some(end(&fleet, &founded)), "it may tell of it from here on");
    assert_eq!(pause(&mut fleet, &founded), Some(Duration::ZERO));
}

#[test]
fn end_of_the_log_is_to_be_remembered_before_anybody_is_told() {
    let (mut fleet, founded) = Fleet::founded_with(1, 3, pausing());
    let admin = fleet.admin(0, &founded);
    fleet.hosts[0].disk.held = Some(VecDeque::new());
    fleet.append(admin, invite(&founded, 200));
    let (now, host) = (fleet.now, &mut fleet.hosts[0]);
    let (ticket, change) = host.disk.held.take().unwrap().pop_front().unwrap();
    let outcome = host.disk.put(&change);
    let server = host.server.as_mut().unwrap();
    server.handle_input(now, Input::Stored { ticket, outcome }).unwrap();
    let outputs: Vec<Output> = std::iter::from_fn(|| server.poll_output()).collect();
    let end = end(&fleet, &founded);
    let [Output::Witness { network, head: Some(head) }, rest @ ..] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!((*network, *head), (founded.network, end));
    assert!(rest.iter().any(|output| matches!(output, Output::Write { .. })));
}

#[test]
fn entries_that_come_to_light_later_take_the_proof_back() {
    let (mut fleet, founded, full) = set_back();
    let network = founded.network;
    fleet.start(0);
    fleet.admin(0, &founded);
    fleet.advance(seconds(20));
    assert_eq!(remembered(&fleet, &founded), Some(end(&fleet, &founded)), "nobody knew better");
    let one = fleet.member(0, network, 1);
    let first = full.len() as u64 - 2;
    fleet.send(one, ClientMessage::Refill { first, entries: vec![full[full.len() - 2].clone()] });
    assert_eq!(remembered(&fleet, &founded), None);
    fleet.kill(0);
    fleet.start_again(0);
    assert_eq!(pause(&mut fleet, &founded), Some(seconds(10)));
}

#[test]
fn fellows_are_heard_first_and_waited_for_where_one_is_away() {
    for (hosts, alive, wanted) in [(2, 2, 2), (3, 3, 2), (3, 2, 10), (2, 1, 10)] {
        let (mut fleet, founded) = Fleet::founded_with(hosts, 3, pausing());
        (0..hosts).for_each(|host| fleet.kill(host));
        (1..alive).for_each(|host| fleet.start_again(host));
        fleet.start_again(0);
        let pause = pause(&mut fleet, &founded);
        assert_eq!(pause, Some(seconds(wanted)), "{alive} of {hosts} servers");
    }
}

#[test]
fn server_that_was_replaced_while_it_was_down_orders_nothing() {
    let (mut fleet, founded) = Fleet::founded_with(2, 1, pausing());
    let network = founded.network;
    fleet.kill(0);
    fleet.advance(seconds(1));
    let admin = fleet.admin(1, &founded);
    fleet.promote(admin, &founded, 1, 2);
    fleet.advance(seconds(1));
    fleet.append(admin, invite(&founded, 200));
    assert_eq!(fleet.answers(admin).len(), 2);
    fleet.start_again(0);
    let late = fleet.admin(0, &founded);
    fleet.append(late, invite(&founded, 201));
    fleet.advance(seconds(20));
    assert_eq!(fleet.answers(late), [ServerMessage::Appended { sequence: 5 }], "by way of the other");
    assert_eq!(fleet.head(0, network), fleet.head(1, network));
    assert_eq!(remembered(&fleet, &founded), None);
    assert!(fleet.hosts[1].witnessed.contains_key(&network));
}

#[test]
fn server_that_moved_the_log_away_itself_is_no_longer_vouched_for() {
    let (mut fleet, founded) = Fleet::founded_with(2, 1, pausing());
    let admin = fleet.admin(0, &founded);
    fleet.promote(admin, &founded, 1, 2);
    assert_eq!(fleet.answers(admin).len(), 1);
    assert_eq!(remembered(&fleet, &founded), None);
    // A disk from before that would name this server.
    fleet.kill(0);
    fleet.stored(0, founded.network).pop();
    fleet.cut.insert((0, 1));
    fleet.start_again(0);
    assert_eq!(pause(&mut fleet, &founded), Some(seconds(10)), "as it has always been");
}
