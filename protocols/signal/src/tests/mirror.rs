//! Several servers of one network: copies, forwards, refills, and the office of the sequencer on the move.

use std::collections::VecDeque;
use std::time::Duration;

use ginnel_membership::build::{self, Founded};
use ginnel_membership::record::ServersChange;
use ginnel_membership::{Capabilities, Name, NetworkId};

use super::fleet::{Fleet, record_of, token};
use super::world::{UNIX, config_of, invite, key, limits, member_record};
use crate::client::Credentials;
use crate::message::{ClientMessage, FoundingToken, Placing, Refusal, Request, ServerMessage, Standing};
use crate::server::{ConnectionId, Discard, FORWARD_PATIENCE, Limits, Server, Stored, TAKEOVER_PATIENCE};

fn update(founded: &Founded, member: u8, number: u64) -> Vec<u8> {
    let name = Name::new(&format!("name{number}")).unwrap();
    let suites = Capabilities::BOTH_SUITES;
    build::update_record(&founded.network, &key(member), number, name, suites, build::NewKeys::None)
}

fn refused(messages: &[ServerMessage]) -> Refusal {
    match messages {
        [ServerMessage::Refused { code, .. }] => *code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn mirror_holds_the_log_serves_reads_and_hands_records_on() {
    let (mut fleet, founded) = Fleet::founded(2, 2);
    let network = founded.network;
    assert_eq!(fleet.hosts[1].server.as_ref().unwrap().status().mirrored, 1);
    let at_sequencer = fleet.member(0, network, 1);
    let at_mirror = fleet.member(1, network, 2);
    fleet.append(at_mirror, update(&founded, 2, 1));
    let messages = fleet.messages(at_mirror);
    assert_eq!(messages[0], ServerMessage::Appended { sequence: 5 }, "answered once its own disk has it");
    assert!(matches!(&messages[1], ServerMessage::Entries { first: 5, entries, .. } if entries.len() == 1));
    assert!(matches!(&fleet.messages(at_sequencer)[..], [ServerMessage::Entries { first: 5, .. }]));
    assert_eq!(fleet.head(0, network), fleet.head(1, network));

    fleet.append(at_mirror, update(&founded, 2, 1));
    assert_eq!(fleet.answers(at_mirror), [ServerMessage::Appended { sequence: 5 }], "the same record again");
    fleet.append(at_mirror, update(&founded, 2, 0));
    assert!(matches!(refused(&fleet.answers(at_mirror)), Refusal::Record(_)), "the sequencer's no comes through");
    fleet.send(at_mirror, ClientMessage::Fetch { from: 0 });
    assert!(matches!(&fleet.messages(at_mirror)[..], [ServerMessage::Entries { entries, .. }] if entries.len() == 6));
}

#[test]
fn mirror_answers_only_when_the_entry_is_on_its_own_disk() {
    let (mut fleet, founded) = Fleet::founded(2, 2);
    let member = fleet.member(1, founded.network, 2);
    fleet.hosts[1].disk.held = Some(VecDeque::new());
    fleet.append(member, update(&founded, 2, 1));
    assert!(fleet.messages(member).is_empty());
    fleet.release(1);
    assert_eq!(fleet.answers(member), [ServerMessage::Appended { sequence: 5 }]);
}

#[test]
fn joiner_comes_in_by_a_mirror_and_the_loser_of_a_race_learns_who_won() {
    let (mut fleet, founded) = Fleet::founded(2, 1);
    let admin = fleet.admin(0, &founded);
    fleet.append(admin, invite(&founded, 200));
    let join = |n| Credentials::Joiner { invite: key(200), key: key(n) };
    let winner = fleet.connect(1, founded.network, join(20));
    let loser = fleet.connect(1, founded.network, join(21));
    let elsewhere = fleet.connect(0, founded.network, join(22));
    assert_eq!(fleet.welcome(winner).standing, Standing::Joiner);
    fleet.append(winner, member_record(&founded.network, &key(200), 20));
    assert_eq!(fleet.answers(winner), [ServerMessage::Appended { sequence: 4 }]);
    for conn in [loser, elsewhere] {
        let (code, text) = fleet.refusal(conn);
        assert_eq!(code, Refusal::InviteUsed);
        assert!(text.contains("node20"), "{text}");
    }
    fleet.hang_up(winner);
    let again = fleet.connect(0, founded.network, join(20));
    assert_eq!(fleet.welcome(again).standing, Standing::Member, "the winner's retry after a lost answer");
    fleet.append(again, member_record(&founded.network, &key(200), 20));
    assert_eq!(fleet.answers(again), [ServerMessage::Appended { sequence: 4 }]);
}

#[test]
fn without_the_sequencer_a_mirror_says_so_and_goes_on_with_all_else() {
    let (mut fleet, founded) = Fleet::founded(2, 2);
    let one = fleet.member(1, founded.network, 1);
    let two = fleet.member(1, founded.network, 2);
    fleet.kill(0);
    fleet.advance(Duration::from_secs(2));
    fleet.append(one, update(&founded, 1, 1));
    assert_eq!(refused(&fleet.answers(one)), Refusal::NoSequencer);
    fleet.send(one, ClientMessage::Fetch { from: 0 });
    assert!(matches!(&fleet.messages(one)[..], [ServerMessage::Entries { entries, .. }] if entries.len() == 5));
    fleet.send(one, ClientMessage::Mail { to: key(2).member_key(), bytes: vec![7] });
    assert_eq!(fleet.messages(two), [ServerMessage::Mail { from: key(1).member_key(), bytes: vec![7] }]);
    fleet.send(one, ClientMessage::Relay);
    assert!(matches!(&fleet.messages(one)[..], [ServerMessage::Relay(_)]));

    fleet.start(0);
    fleet.advance(Duration::from_secs(20));
    fleet.append(one, update(&founded, 1, 1));
    assert_eq!(fleet.answers(one), [ServerMessage::Appended { sequence: 5 }]);
}

#[test]
fn mirror_that_may_not_know_an_invite_yet_does_not_say_that_there_is_none() {
    let (mut fleet, founded) = Fleet::founded(2, 1);
    let join = |n| Credentials::Joiner { invite: key(200), key: key(n) };
    let known_to_nobody = fleet.connect(1, founded.network, join(20));
    assert_eq!(fleet.refusal(known_to_nobody).0, Refusal::InviteUnknown, "the mirror has all of the log");
    fleet.kill(0);
    let perhaps = fleet.connect(1, founded.network, join(20));
    assert_eq!(fleet.refusal(perhaps).0, Refusal::NoSequencer);
    fleet.start(0);
    let admin = fleet.admin(0, &founded);
    fleet.append(admin, invite(&founded, 200));
    fleet.advance(Duration::from_secs(15));
    let joiner = fleet.connect(1, founded.network, join(20));
    assert_eq!(fleet.welcome(joiner).standing, Standing::Joiner);
}

#[test]
fn append_under_way_when_the_sequencer_restarts_is_handed_on_again() {
    let (mut fleet, founded) = Fleet::founded(2, 1);
    let one = fleet.member(1, founded.network, 1);
    fleet.hosts[0].disk.held = Some(VecDeque::new());
    fleet.append(one, update(&founded, 1, 1));
    assert!(fleet.messages(one).is_empty());
    fleet.hosts[0].disk.held = None;
    fleet.hosts[0].server = None;
    fleet.start(0);
    fleet.kill(0);
    fleet.start(0);
    fleet.advance(Duration::from_secs(5));
    assert_eq!(fleet.answers(one), [ServerMessage::Appended { sequence: 3 }]);
    assert_eq!(fleet.head(1, founded.network).0, 4);
}

#[test]
fn silent_sequencer_is_given_up_in_time() {
    let (mut fleet, founded) = Fleet::founded(2, 1);
    let one = fleet.member(1, founded.network, 1);
    fleet.hosts[0].disk.held = Some(VecDeque::new());
    fleet.append(one, update(&founded, 1, 1));
    fleet.advance(FORWARD_PATIENCE);
    assert_eq!(refused(&fleet.answers(one)), Refusal::NoSequencer);
    fleet.release(0);
    fleet.advance(Duration::from_secs(20));
    fleet.append(one, update(&founded, 1, 1));
    assert_eq!(fleet.answers(one), [ServerMessage::Appended { sequence: 3 }], "it had come through after all");
}

#[test]
fn restarted_mirror_catches_up() {
    let (mut fleet, founded) = Fleet::founded(2, 1);
    fleet.kill(1);
    let one = fleet.member(0, founded.network, 1);
    for number in 1..=40 {
        fleet.append(one, update(&founded, 1, number));
        fleet.advance(Duration::from_secs(1));
    }
    fleet.start(1);
    fleet.advance(Duration::from_secs(1));
    assert_eq!(fleet.head(0, founded.network).0, 43);
    assert_eq!(fleet.head(0, founded.network), fleet.head(1, founded.network));
}

#[test]
fn rolled_back_sequencer_gets_its_log_back_before_it_orders_anything() {
    let pause = Limits { settle: Duration::from_secs(2), ..limits() };
    let (mut fleet, founded) = Fleet::founded_with(2, 2, pause);
    let head = fleet.head(0, founded.network);
    fleet.kill(0);
    fleet.stored(0, founded.network).truncate(2);
    fleet.start(0);
    let one = fleet.admin(0, &founded);
    fleet.append(one, invite(&founded, 201));
    assert!(fleet.answers(one).is_empty() || fleet.head(0, founded.network).0 >= head.0);
    fleet.advance(Duration::from_secs(5));
    assert_eq!(fleet.answers(one), [ServerMessage::Appended { sequence: 5 }]);
    assert_eq!(fleet.replay(0, founded.network).head_at(5), Some(head.1));
    assert_eq!(fleet.head(0, founded.network), fleet.head(1, founded.network));
    assert_eq!(fleet.hosts[1].server.as_ref().unwrap().counters().get(&Discard::Fork), None);
}

#[test]
fn members_fill_a_lone_server_that_has_forgotten_and_forks_are_refused() {
    let pause = Limits { settle: Duration::from_secs(2), ..limits() };
    let (mut fleet, founded) = Fleet::founded_with(1, 2, pause);
    let full = fleet.log(0, founded.network);
    fleet.kill(0);
    fleet.stored(0, founded.network).truncate(3);
    fleet.start(0);
    let one = fleet.member(0, founded.network, 1);
    fleet.send(one, ClientMessage::Refill { first: 1, entries: full[1..].to_vec() });
    let messages = fleet.messages(one);
    assert!(
        messages.iter().any(|message| matches!(message, ServerMessage::Entries { first: 5, entries, head }
        if entries.is_empty() && head.length == 5)),
        "{messages:?}"
    );
    assert_eq!(fleet.log(0, founded.network), full);
    fleet.send(one, ClientMessage::Refill { first: 1, entries: full[1..].to_vec() });
    assert_eq!(fleet.messages(one).len(), 1, "what is known is no news to anybody");

    // Beyond the end: the server says where its log ends.
    fleet.send(one, ClientMessage::Refill { first: 9, entries: vec![full[1].clone()] });
    assert!(matches!(&fleet.messages(one)[..], [ServerMessage::Entries { first: 5, .. }]));
    let mut forged = full[4].clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    fleet.kill(0);
    fleet.stored(0, founded.network).truncate(4);
    fleet.start(0);
    let one = fleet.member(0, founded.network, 1);
    fleet.send(one, ClientMessage::Refill { first: 4, entries: vec![forged] });
    assert_eq!(refused(&fleet.answers(one)), Refusal::BadSignature);
    assert_eq!(fleet.stored(0, founded.network).len(), 4);

    // The server orders something else in that place; the old entry is then a second history.
    fleet.advance(Duration::from_secs(3));
    let admin = fleet.admin(0, &founded);
    fleet.append(admin, invite(&founded, 201));
    assert_eq!(fleet.answers(admin), [ServerMessage::Appended { sequence: 4 }]);
    fleet.messages(one);
    fleet.send(one, ClientMessage::Refill { first: 4, entries: vec![full[4].clone()] });
    assert_eq!(refused(&fleet.messages(one)), Refusal::Fork);
    assert_eq!(fleet.hosts[0].server.as_ref().unwrap().counters().get(&Discard::Fork), Some(&1));
}

#[test]
fn sequencer_that_lost_everything_but_its_key_is_filled_by_a_founder() {
    let (mut fleet, founded) = Fleet::founded(1, 1);
    let full = fleet.log(0, founded.network);
    fleet.kill(0);
    fleet.hosts[0].disk.stored.logs.clear();
    fleet.hosts[0].disk.stored.tokens[0].1 = None;
    fleet.start(0);
    let conn = fleet.connect(0, founded.network, fleet.founder(0, &founded));
    fleet.send(conn, ClientMessage::Refill { first: 0, entries: full.clone() });
    fleet.advance(Duration::from_secs(1));
    assert_eq!(fleet.log(0, founded.network), full);
    fleet.append(conn, invite(&founded, 201));
    assert_eq!(fleet.answers(conn), [ServerMessage::Appended { sequence: 3 }]);
}

/// Servers of which 1 was told of a network that another one orders, and no more; and the log of that network.
fn told_of_a_network() -> (Fleet, Founded, Vec<Vec<u8>>) {
    let (fleet, founded) = Fleet::founded(1, 1);
    let full = fleet.log(0, founded.network);
    let mut other = Fleet::new(2);
    let conn = other.connect(1, founded.network, other.founder(1, &founded));
    other.send(conn, ClientMessage::Found { genesis: founded.genesis.clone() });
    assert_eq!(other.answers(conn), [ServerMessage::Appended { sequence: 0 }]);
    (other, founded, full)
}

#[test]
fn mirror_is_adopted_once_filled_by_its_founder_and_restarts_as_a_mirror() {
    let (mut other, founded, full) = told_of_a_network();
    other.kill(1);
    other.start(1);
    let conn = other.connect(1, founded.network, other.founder(1, &founded));
    assert_eq!(other.welcome(conn).head.length, 0, "adopted, still empty after a restart");
    other.send(conn, ClientMessage::Refill { first: 0, entries: full.clone() });
    let messages = other.messages(conn);
    assert!(matches!(messages.last(), Some(ServerMessage::Entries { head, .. }) if head.length == 3), "{messages:?}");
    assert_eq!(other.log(1, founded.network), full);
    let stranger = other.connect(1, founded.network, Credentials::Founder { token: token(0), key: key(9) });
    assert_eq!(other.refusal(stranger).0, Refusal::TokenUnknown);
    let joiner = other.connect(1, founded.network, Credentials::Joiner { invite: key(101), key: key(77) });
    assert_eq!(other.refusal(joiner).0, Refusal::InviteUsed);
    let member = other.member(1, founded.network, 1);
    other.append(member, update(&founded, 1, 1));
    other.advance(Duration::from_secs(10));
    assert_eq!(refused(&other.answers(member)), Refusal::NoSequencer, "nobody lists it as a server yet");
}

#[test]
fn mirror_that_was_told_of_a_network_and_no_more_takes_a_fresh_string() {
    let (mut other, founded, full) = told_of_a_network();
    // Whoever did that came no further, and the server has given out another string since.
    let fresh = token(7);
    other.hosts[1].disk.stored.tokens.push((FoundingToken(fresh.clone()), None));
    other.kill(1);
    other.start(1);
    // An admin of later, whom the genesis does not name.
    let admin = key(9);
    for _ in 0..2 {
        let conn = other.connect(1, founded.network, Credentials::Founder { token: fresh.clone(), key: admin.clone() });
        assert_eq!(other.welcome(conn).head.length, 0);
        other.send(conn, ClientMessage::Found { genesis: founded.genesis.clone() });
        assert_eq!(other.answers(conn), [ServerMessage::Appended { sequence: 0 }], "it has taken it up already");
    }
    let conn = other.connect(1, founded.network, Credentials::Founder { token: fresh.clone(), key: admin });
    other.send(conn, ClientMessage::Refill { first: 0, entries: full.clone() });
    other.messages(conn);
    assert_eq!(other.log(1, founded.network), full);
    let late = other.connect(1, founded.network, Credentials::Founder { token: fresh.clone(), key: key(8) });
    assert_eq!(other.refusal(late).0, Refusal::NotAMember, "the log is there, and names its admins");
    for again in [false, true] {
        if again {
            other.kill(1);
            other.start(1);
        }
        let elsewhere = NetworkId::from_bytes([77; 32]);
        let conn = other.connect(1, elsewhere, Credentials::Founder { token: fresh.clone(), key: key(8) });
        assert_eq!(other.refusal(conn).0, Refusal::TokenUsed, "one string, one network");
    }
}

#[test]
fn sequencer_moves_by_a_record_and_the_old_one_becomes_a_mirror() {
    let (mut fleet, founded) = Fleet::founded(2, 2);
    let admin = fleet.admin(0, &founded);
    fleet.promote(admin, &founded, 1, 2);
    assert_eq!(fleet.answers(admin), [ServerMessage::Appended { sequence: 5 }]);
    fleet.advance(Duration::from_secs(5));
    assert_eq!(fleet.hosts[0].server.as_ref().unwrap().status().mirrored, 1);
    assert_eq!(fleet.hosts[1].server.as_ref().unwrap().status().mirrored, 0);
    fleet.append(admin, invite(&founded, 201));
    assert_eq!(fleet.answers(admin), [ServerMessage::Appended { sequence: 6 }], "the old one hands on");
    let one = fleet.member(1, founded.network, 1);
    fleet.append(one, update(&founded, 1, 1));
    assert_eq!(fleet.answers(one), [ServerMessage::Appended { sequence: 7 }]);
    assert_eq!(fleet.head(0, founded.network), fleet.head(1, founded.network));
}

#[test]
fn promotion_at_the_mirror_is_ordered_by_the_old_sequencer_while_it_lives() {
    let (mut fleet, founded) = Fleet::founded(2, 1);
    let admin = fleet.admin(1, &founded);
    fleet.promote(admin, &founded, 1, 2);
    assert_eq!(fleet.answers(admin), [ServerMessage::Appended { sequence: 3 }]);
    fleet.advance(Duration::from_secs(5));
    assert_eq!(fleet.hosts[1].server.as_ref().unwrap().status().mirrored, 0);
    assert_eq!(fleet.head(0, founded.network), fleet.head(1, founded.network));
}

#[test]
fn mirror_takes_over_from_a_dead_sequencer_which_comes_back_as_a_mirror() {
    let pause = Limits { settle: Duration::from_secs(2), ..limits() };
    let (mut fleet, founded) = Fleet::founded_with(3, 2, pause);
    fleet.kill(0);
    fleet.advance(Duration::from_secs(2));
    let admin = fleet.admin(1, &founded);
    fleet.promote(admin, &founded, 1, 3);
    fleet.advance(TAKEOVER_PATIENCE);
    assert_eq!(fleet.answers(admin), [ServerMessage::Appended { sequence: 5 }]);
    fleet.append(admin, invite(&founded, 201));
    assert_eq!(fleet.answers(admin), [ServerMessage::Appended { sequence: 6 }]);

    fleet.start(0);
    let member = fleet.member(0, founded.network, 1);
    fleet.append(member, update(&founded, 1, 1));
    fleet.advance(Duration::from_secs(30));
    assert_eq!(fleet.answers(member), [ServerMessage::Appended { sequence: 7 }], "ordered by the new one");
    for host in [0, 2] {
        assert_eq!(fleet.head(host, founded.network), fleet.head(1, founded.network), "host {host}");
        assert_eq!(fleet.hosts[host].server.as_ref().unwrap().status().mirrored, 1);
        assert_eq!(fleet.hosts[host].server.as_ref().unwrap().counters().get(&Discard::Fork), None);
    }
}

#[test]
fn mirror_takes_over_from_a_sequencer_that_fell_silent_without_being_asked_again() {
    let (mut fleet, founded) = Fleet::founded(3, 1);
    // Its links stay as they are, and nothing answers on them.
    fleet.hosts[0].server = None;
    let admin = fleet.admin(1, &founded);
    fleet.promote(admin, &founded, 1, 3);
    fleet.advance(FORWARD_PATIENCE + TAKEOVER_PATIENCE);
    assert_eq!(fleet.answers(admin), [ServerMessage::Appended { sequence: 3 }]);
}

#[test]
fn mirror_that_takes_over_first_gets_what_another_mirror_knows() {
    let (mut fleet, founded) = Fleet::founded(3, 2);
    fleet.part(0, 1);
    let one = fleet.member(0, founded.network, 1);
    fleet.append(one, update(&founded, 1, 1));
    assert_eq!(fleet.head(2, founded.network).0, 6);
    assert_eq!(fleet.head(1, founded.network).0, 5);
    fleet.kill(0);
    fleet.advance(Duration::from_secs(2));
    let admin = fleet.admin(1, &founded);
    fleet.promote(admin, &founded, 1, 3);
    fleet.advance(TAKEOVER_PATIENCE);
    assert_eq!(fleet.answers(admin), [ServerMessage::Appended { sequence: 6 }]);
    fleet.advance(Duration::from_secs(20));
    assert_eq!(fleet.head(2, founded.network), fleet.head(1, founded.network));
}

#[test]
fn takeover_is_for_the_admins_and_the_server_they_name() {
    let (mut fleet, founded) = Fleet::founded(3, 2);
    fleet.kill(0);
    fleet.advance(Duration::from_secs(2));
    let member = fleet.member(1, founded.network, 1);
    let number = fleet.replay(1, founded.network).next_servers();
    let servers: Vec<_> = (0..3).map(record_of).collect();
    let change = ServersChange { number, sequencer: record_of(1).keys.sequencer(), servers };
    let stolen = build::servers_record(&founded.network, &key(1), change).unwrap();
    fleet.append(member, stolen);
    fleet.advance(Duration::from_secs(1));
    assert!(matches!(refused(&fleet.answers(member)), Refusal::Record(_)));
    let admin = fleet.admin(1, &founded);
    fleet.promote(admin, &founded, 2, 3);
    assert_eq!(refused(&fleet.answers(admin)), Refusal::NoSequencer, "it names another");
    fleet.advance(Duration::from_secs(60));
    assert_eq!(fleet.head(1, founded.network).0, 5);
}

#[test]
fn server_that_was_dismissed_sees_the_log_no_further_than_its_dismissal() {
    let (mut fleet, founded) = Fleet::founded(3, 1);
    let admin = fleet.admin(0, &founded);
    let number = fleet.replay(0, founded.network).next_servers();
    let servers: Vec<_> = (0..2).map(record_of).collect();
    let change = ServersChange { number, sequencer: record_of(0).keys.sequencer(), servers };
    fleet.append(admin, build::servers_record(&founded.network, &founded.admin, change).unwrap());
    fleet.append(admin, invite(&founded, 201));
    assert_eq!(fleet.answers(admin).len(), 2);
    fleet.advance(Duration::from_secs(30));
    assert_eq!(fleet.head(1, founded.network).0, 5);
    assert_eq!(fleet.head(2, founded.network).0, 4, "its own dismissal is the last that it sees");
    let mut conn = fleet.connect(0, founded.network, Credentials::Mirror { key: key(0x5e + 2) });
    assert_eq!(fleet.welcome(conn).head.length, 4);
    fleet.send(conn, ClientMessage::Fetch { from: 3 });
    assert!(matches!(&fleet.messages(conn)[..], [ServerMessage::Entries { entries, .. }] if entries.len() == 1));
    conn = fleet.connect(0, founded.network, Credentials::Mirror { key: key(0x77) });
    assert_eq!(fleet.refusal(conn).0, Refusal::NotAllowed);
}

#[test]
fn server_that_was_dismissed_and_taken_on_anew_sees_all_of_the_log_on_the_link_that_it_has() {
    let (mut fleet, founded) = Fleet::founded(3, 1);
    let admin = fleet.admin(0, &founded);
    let number = fleet.replay(0, founded.network).next_servers();
    let servers: Vec<_> = (0..2).map(record_of).collect();
    let change = ServersChange { number, sequencer: record_of(0).keys.sequencer(), servers };
    fleet.append(admin, build::servers_record(&founded.network, &founded.admin, change).unwrap());
    fleet.kill(2);
    fleet.hosts[2].disk.stored = Stored { tokens: vec![(FoundingToken(token(2)), None)], ..Stored::default() };
    fleet.start(2);
    let conn = fleet.connect(2, founded.network, fleet.founder(2, &founded));
    fleet.send(conn, ClientMessage::Found { genesis: founded.genesis.clone() });
    fleet.advance(Duration::from_secs(5));
    assert_eq!(fleet.head(2, founded.network).0, 4, "its own dismissal is the last that it sees");
    fleet.promote(admin, &founded, 0, 3);
    fleet.append(admin, invite(&founded, 201));
    fleet.advance(Duration::from_secs(1));
    assert_eq!(fleet.head(0, founded.network).0, 6);
    assert_eq!(fleet.head(2, founded.network), fleet.head(0, founded.network));
}

#[test]
fn records_do_not_go_in_circles_and_only_servers_hand_them_on() {
    let (mut fleet, founded) = Fleet::founded(2, 1);
    let mirror = fleet.connect(1, founded.network, Credentials::Mirror { key: key(0x5e) });
    let record = update(&founded, 1, 1);
    fleet.send(mirror, ClientMessage::Forward { number: 4, record: record.clone() });
    let answers = fleet.answers(mirror);
    assert!(
        matches!(&answers[..], [ServerMessage::Forwarded { number: 4, outcome: Placing::Refused { code, .. } }]
        if *code == Refusal::NoSequencer),
        "{answers:?}"
    );
    let one = fleet.member(0, founded.network, 1);
    fleet.send(one, ClientMessage::Forward { number: 4, record });
    let answers = fleet.answers(one);
    assert!(
        matches!(&answers[..], [ServerMessage::Forwarded { number: 4, outcome: Placing::Refused { code, .. } }]
        if *code == Refusal::NotAllowed),
        "{answers:?}"
    );
}

#[test]
fn mirror_on_a_full_disk_takes_nothing_and_recovers() {
    let (mut fleet, founded) = Fleet::founded(2, 1);
    let one = fleet.member(0, founded.network, 1);
    fleet.hosts[1].disk.fails = true;
    fleet.append(one, update(&founded, 1, 1));
    fleet.advance(Duration::from_secs(12));
    assert_eq!(fleet.head(1, founded.network).0, 3);
    fleet.append(one, update(&founded, 1, 2));
    fleet.hosts[1].disk.fails = false;
    fleet.advance(Duration::from_secs(12));
    assert_eq!(fleet.head(1, founded.network), fleet.head(0, founded.network));
    assert_eq!(fleet.head(1, founded.network).0, 5);
}

#[test]
fn mirror_on_a_disk_that_stays_full_tries_less_and_less_often() {
    let (mut fleet, founded) = Fleet::founded(2, 1);
    let one = fleet.member(0, founded.network, 1);
    fleet.hosts[1].disk.fails = true;
    fleet.append(one, update(&founded, 1, 1));
    let mut tries = Vec::new();
    for _ in 0..10 {
        fleet.advance(Duration::from_secs(60));
        tries.push(std::mem::take(&mut fleet.hosts[1].disk.failures));
    }
    assert!((1..=4).contains(&tries[0]), "{tries:?}");
    assert!(tries[5..].iter().sum::<usize>() <= 4, "each try costs a replay of the whole log: {tries:?}");
    fleet.hosts[1].disk.fails = false;
    fleet.advance(Duration::from_secs(90));
    assert_eq!(fleet.head(1, founded.network), fleet.head(0, founded.network));
}

#[test]
fn checkpoint_is_announced_and_its_state_comes_in_pieces() {
    let (mut fleet, founded) = Fleet::founded(2, 3);
    let admin = fleet.admin(0, &founded);
    fleet.send(admin, ClientMessage::FetchSnapshot { offset: 0 });
    let answers = fleet.answers(admin);
    assert!(matches!(&answers[..], [ServerMessage::Refused { request: Request::FetchSnapshot, code, .. }]
        if *code == Refusal::NoCheckpoint));
    let state = fleet.replay(0, founded.network);
    let checkpoint = state.make_checkpoint().unwrap();
    fleet.append(admin, build::checkpoint_record(&founded.network, &founded.admin, checkpoint));
    assert_eq!(fleet.answers(admin), [ServerMessage::Appended { sequence: 7 }]);
    for restart in [false, true] {
        for host in 0..2 {
            if restart {
                fleet.kill(host);
                fleet.start(host);
            }
            let conn: ConnectionId = fleet.connect(host, founded.network, Credentials::Member { key: key(1) });
            assert_eq!(fleet.welcome(conn).checkpoint, Some(7));
            fleet.send(conn, ClientMessage::FetchSnapshot { offset: 0 });
            let answers = fleet.answers(conn);
            let [ServerMessage::Snapshot { entry, total, offset: 0, bytes }] = &answers[..] else {
                panic!("{answers:?}")
            };
            assert_eq!(*total, bytes.len() as u64);
            let entry = ginnel_membership::Entry::decode(entry).unwrap();
            let started = ginnel_membership::State::from_checkpoint(founded.network, bytes, &entry).unwrap();
            assert_eq!(started.head(), fleet.head(0, founded.network));
            fleet.send(conn, ClientMessage::FetchSnapshot { offset: u64::MAX });
            assert!(matches!(&fleet.answers(conn)[..], [ServerMessage::Snapshot { bytes, .. }] if bytes.is_empty()));
        }
    }
}

#[test]
fn sequencer_that_was_cut_off_when_the_log_moved_stops_ordering() {
    let (mut fleet, founded) = Fleet::founded(2, 2);
    fleet.part(0, 1);
    let one = fleet.member(0, founded.network, 1);
    fleet.append(one, update(&founded, 1, 1));
    assert_eq!(fleet.answers(one), [ServerMessage::Appended { sequence: 5 }]);
    fleet.advance(Duration::from_secs(30));
    let admin = fleet.admin(1, &founded);
    fleet.promote(admin, &founded, 1, 2);
    fleet.advance(TAKEOVER_PATIENCE);
    assert_eq!(fleet.answers(admin), [ServerMessage::Appended { sequence: 5 }]);
    fleet.append(admin, invite(&founded, 201));
    fleet.cut.clear();
    fleet.kill(0);
    let head = fleet.head(0, founded.network);
    let log = fleet.log(1, founded.network);
    fleet.start(0);
    let one = fleet.member(0, founded.network, 1);
    fleet.send(one, ClientMessage::Refill { first: 5, entries: log[5..].to_vec() });
    assert_eq!(refused(&fleet.answers(one)), Refusal::Fork);
    fleet.append(one, update(&founded, 1, 2));
    assert_eq!(refused(&fleet.answers(one)), Refusal::Fork, "two histories are enough");
    assert_eq!(fleet.head(0, founded.network), head);
}

#[test]
fn sequencer_that_asks_its_fellows_at_its_start_learns_that_the_log_moved() {
    let pause = Limits { settle: Duration::from_secs(2), ..limits() };
    let (mut fleet, founded) = Fleet::founded_with(2, 2, pause);
    let one = fleet.member(0, founded.network, 1);
    fleet.part(0, 1);
    for number in 1..=3 {
        fleet.append(one, update(&founded, 1, number));
    }
    fleet.kill(0);
    fleet.cut.clear();
    let admin = fleet.admin(1, &founded);
    fleet.promote(admin, &founded, 1, 2);
    fleet.advance(TAKEOVER_PATIENCE);
    for n in 0..9 {
        fleet.append(admin, invite(&founded, 200 + n));
    }
    assert_eq!(fleet.answers(admin).len(), 10);
    fleet.start(0);
    let one = fleet.member(0, founded.network, 1);
    fleet.append(one, update(&founded, 1, 4));
    fleet.advance(Duration::from_secs(10));
    assert_eq!(refused(&fleet.answers(one)), Refusal::Fork);
    assert_eq!(fleet.head(0, founded.network).0, 8);
}

#[test]
fn damaged_entries_are_signed_again_or_fetched_anew_or_keep_a_server_from_starting() {
    let (mut fleet, founded) = Fleet::founded(2, 2);
    let network = founded.network;
    let full = fleet.log(0, network);
    let last = full.len() - 1;
    let harm = |fleet: &mut Fleet, host, sequence: usize, byte: fn(usize) -> usize| {
        fleet.kill(host);
        let bytes = &mut fleet.stored(host, network)[sequence].bytes;
        let byte = byte(bytes.len());
        bytes[byte] ^= 1;
        fleet.hosts[host].disk.stored.damaged.insert((network, sequence as u64));
    };
    let signature: fn(usize) -> usize = |length| length - 7;
    let body: fn(usize) -> usize = |_| 60;
    // A mirror fetches it, wherever it is.
    for (sequence, byte) in [(2, signature), (2, body), (last, signature), (last, body)] {
        harm(&mut fleet, 1, sequence, byte);
        fleet.start(1);
        fleet.advance(Duration::from_secs(20));
        assert_eq!(fleet.log(1, network), full, "entry {sequence}");
        assert!(fleet.hosts[1].disk.stored.damaged.is_empty());
    }
    // The sequencer makes its own signature again.
    harm(&mut fleet, 0, 2, signature);
    fleet.start(0);
    assert_eq!(fleet.log(0, network), full);
    assert!(fleet.hosts[0].disk.stored.damaged.is_empty());
    // A flag that is damaged is all the same to it.
    fleet.kill(0);
    fleet.hosts[0].disk.stored.damaged.insert((network, last as u64));
    fleet.start(0);
    assert!(fleet.hosts[0].disk.stored.damaged.is_empty());
    // What it cannot know it does not make up.
    for (sequence, byte) in [(2, body), (last, body), (last, signature)] {
        harm(&mut fleet, 0, sequence, byte);
        let stored = fleet.hosts[0].disk.stored.clone();
        let started = Server::new([1; 32], config_of(0, limits()), stored, fleet.now, UNIX);
        assert!(started.is_err(), "entry {sequence}");
        fleet.stored(0, network)[sequence].bytes = full[sequence].clone();
        fleet.hosts[0].disk.stored.damaged.clear();
    }
}
