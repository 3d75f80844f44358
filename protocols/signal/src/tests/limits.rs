//! Bounds on what sources, members and networks may cost.

use std::time::Duration;

use ginnel_membership::build;
use ginnel_membership::invite::Token;

use super::world::{UNIX, World, address, charter, founder, key, keys, limits, member_record};
use crate::client::Credentials;
use crate::message::{ClientMessage, MailRefusal, Refusal, Request, ServerMessage, Standing};
use crate::server::{ConnectionId, Discard, Input, Limits, MAX_REFILL, PROOF_DEADLINE, Rate};

fn invite(world: &World, founded: &build::Founded, n: u8) -> Vec<u8> {
    assert!(world.now > ginnel_time::Instant::ZERO);
    build::invite_record(&founded.network, &founded.admin, key(n).invite_key(), UNIX + 3600, None)
}

fn refused(message: &ServerMessage) -> (Request, Refusal) {
    let ServerMessage::Refused { request, code, .. } = message else { panic!("{message:?}") };
    (*request, *code)
}

#[test]
fn guessing_invites_tokens_and_keys_is_slow_and_hurts_nobody_else() {
    let limits = Limits { guesses: Rate { per_second: 1, burst: 6 }, ..limits() };
    let (mut world, founded) = World::founded_with(limits, 1);
    let network = founded.network;
    let guess = |n: u8| match n % 3 {
        0 => Credentials::Joiner { invite: key(200 + n), key: key(210 + n) },
        1 => Credentials::Founder { token: Token::from_bytes([n; 16]), key: key(200 + n) },
        _ => Credentials::Member { key: key(200 + n) },
    };
    for n in 0..6 {
        let conn = world.connect_from(address(n), keys(), network, guess(n));
        let code = world.refusal(conn);
        assert!(matches!(code, Refusal::InviteUnknown | Refusal::TokenUnknown | Refusal::NotAMember), "{code:?}");
    }
    for n in 6..12 {
        let conn = world.connect_from(address(n), keys(), network, guess(n));
        assert_eq!(world.refusal(conn), Refusal::RateLimited, "one /24 is one source");
    }
    assert_eq!(world.server.counters().get(&Discard::GuessLimit), Some(&6));
    world.member(network, 1);
    let elsewhere = world.connect_from(([192, 0, 2, 1], 5000).into(), keys(), network, guess(0));
    assert_eq!(world.refusal(elsewhere), Refusal::InviteUnknown, "another source has guesses of its own");
    world.advance(Duration::from_secs(2));
    let later = world.connect_from(address(1), keys(), network, guess(0));
    assert_eq!(world.refusal(later), Refusal::InviteUnknown);
}

#[test]
fn losing_an_invite_race_is_no_guess() {
    let limits = Limits { guesses: Rate { per_second: 1, burst: 2 }, ..limits() };
    let (mut world, founded) = World::founded_with(limits, 1);
    for _ in 0..20 {
        let late = world.connect(founded.network, Credentials::Joiner { invite: key(101), key: key(77) });
        assert_eq!(world.refusal(late), Refusal::InviteUsed);
    }
}

#[test]
fn half_open_connections_of_one_source_leave_room_for_others() {
    let limits = Limits { unauthenticated: 16, unauthenticated_per_source: 4, ..limits() };
    let (mut world, founded) = World::founded_with(limits, 1);
    let open = |world: &mut World, conn: u64, from: [u8; 4]| {
        world.server.handle_input(world.now, Input::Opened { conn: ConnectionId(conn), from: (from, 1).into() })
    };
    for n in 0..4 {
        assert_eq!(open(&mut world, 5000 + u64::from(n), [203, 0, 113, n]), Ok(()));
    }
    assert_eq!(open(&mut world, 5010, [203, 0, 113, 9]), Err(Discard::SourceLimit));
    world.member(founded.network, 1);
    world.advance(PROOF_DEADLINE);
    assert_eq!(open(&mut world, 5020, [203, 0, 113, 9]), Ok(()), "their time is over");
}

#[test]
fn one_address_and_one_network_have_their_share_of_connections() {
    let limits = Limits { connections_per_address: 3, connections_per_network: 5, ..limits() };
    let (mut world, founded) = World::founded_with(limits, 8);
    for n in 1..=3 {
        world.member(founded.network, n);
    }
    let conn = ConnectionId(9000);
    let from = address(1);
    assert_eq!(world.server.handle_input(world.now, Input::Opened { conn, from }), Err(Discard::SourceLimit));
    let member = |n| Credentials::Member { key: key(n) };
    for n in 4..=5 {
        let conn = world.connect_from(address(n), keys(), founded.network, member(n));
        assert_eq!(world.welcome(conn), Standing::Member);
    }
    let full = world.connect_from(address(6), keys(), founded.network, member(6));
    assert_eq!(world.refusal(full), Refusal::Busy);
    assert_eq!(world.server.status().connections, 5);
}

#[test]
fn appends_of_all_members_together_have_a_rate() {
    let limits = Limits { network_appends: Rate { per_second: 1, burst: 3 }, ..limits() };
    let (mut world, founded) = World::founded_with(limits, 2);
    let admin = world.connect(founded.network, Credentials::Member { key: founded.admin.clone() });
    for n in 0..3 {
        let record = invite(&world, &founded, 150 + n);
        world.send(admin, ClientMessage::Append { record });
    }
    world.take(admin, 7);
    let one = world.member(founded.network, 1);
    let record = build::revoke_record(&founded.network, &key(1), key(1).member_key());
    world.send(one, ClientMessage::Append { record });
    assert_eq!(refused(&world.take(one, 1)[0]), (Request::Append, Refusal::RateLimited));
}

#[test]
fn entries_handed_in_and_fetches_have_their_rates() {
    let rate = Rate { per_second: 1, burst: 3 };
    let (mut world, founded) = World::founded_with(Limits { refills: rate, fetches: rate, ..limits() }, 2);
    let one = world.member(founded.network, 1);
    let log = world.log();
    for message in [
        ClientMessage::Refill { first: 0, entries: log },
        ClientMessage::Fetch { from: 0 },
        ClientMessage::FetchSnapshot { offset: 0 },
    ] {
        let mut limited = 0;
        for _ in 0..5 {
            world.send(one, message.clone());
            let answer = world.take(one, 1).remove(0);
            limited += u32::from(matches!(answer, ServerMessage::Refused { code: Refusal::RateLimited, .. }));
        }
        assert!(limited >= 2, "{message:?}: {limited}");
    }
    let two = world.member(founded.network, 2);
    world.send(two, ClientMessage::Fetch { from: 0 });
    assert!(matches!(&world.take(two, 1)[0], ServerMessage::Entries { entries, .. } if entries.len() == 5));
}

#[test]
fn garbage_handed_in_changes_nothing_and_is_counted() {
    let (mut world, founded) = World::founded(2);
    let one = world.member(founded.network, 1);
    let log = world.log();
    let mut shifted = log[4].clone();
    shifted[8] = 5;
    for first in [6, u64::MAX] {
        world.send(one, ClientMessage::Refill { first, entries: vec![vec![1]; 3] });
        assert!(matches!(&world.take(one, 1)[0], ServerMessage::Entries { first: 5, .. }), "told where the log ends");
    }
    for (first, entry) in [(5, vec![0; 300]), (5, Vec::new()), (5, log[4].clone()), (5, shifted)] {
        world.send(one, ClientMessage::Refill { first, entries: vec![entry] });
        let answer = world.take(one, 1).remove(0);
        let (request, code) = refused(&answer);
        assert_eq!(request, Request::Refill);
        assert!(matches!(code, Refusal::Malformed | Refusal::BadSignature), "{code:?}");
    }
    world.send(one, ClientMessage::Refill { first: 3, entries: Vec::new() });
    assert!(matches!(&world.take(one, 1)[0], ServerMessage::Entries { first: 5, .. }));
    assert_eq!(world.log(), log);
    assert_eq!(world.server.counters().get(&Discard::BadEntry), Some(&4));
    let largest = ClientMessage::Refill { first: 9, entries: vec![vec![0; 100]; MAX_REFILL / 103] };
    world.send(one, largest);
    assert!(matches!(&world.take(one, 1)[0], ServerMessage::Entries { first: 5, .. } | ServerMessage::Refused { .. }));
    assert!(world.broken(one).is_none(), "the largest refill fits into a frame");
}

#[test]
fn logs_longer_than_allowed_are_neither_ordered_nor_handed_in() {
    let (world, founded) = World::founded(2);
    let log = world.log();
    let bytes: usize = log.iter().map(Vec::len).sum();
    let most = Limits { log_bytes: bytes + 100, ..limits() };
    let mut world = World::with(most, world.disk.stored);
    let admin = world.connect(founded.network, Credentials::Member { key: founded.admin.clone() });
    let record = invite(&world, &founded, 150);
    world.send(admin, ClientMessage::Append { record });
    assert_eq!(refused(&world.take(admin, 2)[1]), (Request::Append, Refusal::TooLarge));
    let record = build::revoke_record(&founded.network, &founded.admin, key(1).member_key());
    world.send(admin, ClientMessage::Append { record });
    assert_eq!(world.take(admin, 2)[0], ServerMessage::Appended { sequence: 5 }, "bytes are shared out as entries are");

    for most in [Limits { log_entries: 2, ..limits() }, Limits { log_bytes: bytes / 10 * 8, ..limits() }] {
        let mut stored = world.disk.stored.clone();
        stored.logs[0].1.truncate(3);
        let mut short = World::with(most, stored);
        let one = short.member(founded.network, 1);
        short.send(one, ClientMessage::Refill { first: 3, entries: log[3..].to_vec() });
        let answers = short.peers.get_mut(&one).unwrap().messages.drain(..).collect::<Vec<_>>();
        assert_eq!(refused(&answers[0]), (Request::Refill, Refusal::TooLarge), "{answers:?}");
        assert!(short.disk.stored.logs[0].1.len() < 5);
    }
}

#[test]
fn mail_of_one_network_has_a_rate_and_a_share_of_the_room() {
    let limits = Limits { network_mail: Rate { per_second: 1, burst: 4 }, held_mail_per_network: 3 * 4096, ..limits() };
    let (mut world, founded) = World::founded_with(limits, 3);
    let one = world.member(founded.network, 1);
    let two = world.member(founded.network, 2);
    let mail = |to| ClientMessage::Mail { to: key(to).member_key(), bytes: vec![0; 4096] };
    for _ in 0..3 {
        world.send(one, mail(3));
    }
    world.send(two, mail(3));
    assert!(matches!(world.take(two, 1)[0], ServerMessage::MailRefused { why: MailRefusal::Busy, .. }));
    world.send(two, mail(3));
    assert!(matches!(world.take(two, 1)[0], ServerMessage::MailRefused { why: MailRefusal::RateLimited, .. }));
}

#[test]
fn slow_clients_together_are_cut_before_they_fill_the_memory() {
    let limits = Limits { unsent: 300_000, ..limits() };
    let (mut world, founded) = World::founded_with(limits, 6);
    let log: usize = world.log().iter().map(Vec::len).sum();
    let quick = world.member(founded.network, 6);
    let slow: Vec<ConnectionId> = (1..=5).map(|n| world.member(founded.network, n)).collect();
    for conn in &slow {
        world.peers.get_mut(conn).unwrap().reads = false;
    }
    let mut asked = 0;
    while slow.iter().all(|conn| world.broken(*conn).is_none()) {
        for conn in &slow {
            let _ = world.try_send(*conn, ClientMessage::Fetch { from: 0 });
        }
        asked += log * slow.len();
        assert!(asked < 600_000, "nobody was cut");
    }
    assert!(asked > 250_000, "cut too early, at {asked}");
    world.send(quick, ClientMessage::Fetch { from: 0 });
    assert!(matches!(&world.take(quick, 1)[0], ServerMessage::Entries { .. }), "who reads is served");
    assert!(world.server.counters().get(&Discard::SlowClient).is_some_and(|count| *count >= 1));
}

#[test]
fn nobody_who_waits_for_a_disk_blocks_another_network() {
    let mut world = World::new();
    let founded = charter(1);
    let conn = world.connect(founded.network, founder(&founded));
    world.send(conn, ClientMessage::Found { genesis: founded.genesis.clone() });
    world.disk.held = Some(std::collections::VecDeque::new());
    for n in 0..60 {
        let record = invite(&world, &founded, n);
        world.send(conn, ClientMessage::Append { record });
    }
    world.send(conn, ClientMessage::Ping);
    let messages = world.take(conn, 3);
    assert_eq!(messages[2], ServerMessage::Pong, "only appends wait");
    world.release();
    while world.disk.held.is_some() {
        world.release();
    }
    let appended = world.peers.get_mut(&conn).unwrap().messages.drain(..);
    assert_eq!(appended.filter(|message| matches!(message, ServerMessage::Appended { .. })).count(), 60);
}

#[test]
fn joiner_hands_in_nothing_but_its_own_record() {
    let (mut world, founded) = World::founded(1);
    let admin = world.connect(founded.network, Credentials::Member { key: founded.admin.clone() });
    let record = invite(&world, &founded, 200);
    world.send(admin, ClientMessage::Append { record });
    let joiner = world.connect(founded.network, Credentials::Joiner { invite: key(200), key: key(50) });
    assert_eq!(world.welcome(joiner), Standing::Joiner);
    world.send(joiner, ClientMessage::Refill { first: 0, entries: world.log() });
    assert_eq!(refused(&world.take(joiner, 1)[0]), (Request::Refill, Refusal::NotAllowed));
    world.send(joiner, ClientMessage::Append { record: member_record(&founded.network, &key(200), 51) });
    assert_eq!(refused(&world.take(joiner, 1)[0]), (Request::Append, Refusal::NotAllowed));
}
