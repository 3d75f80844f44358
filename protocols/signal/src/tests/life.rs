//! What a network does in its life: founded, joined, mailed in, left.

use std::collections::VecDeque;
use std::time::Duration;

use ginnel_membership::build;
use ginnel_membership::invite::Token;

use super::world::{TOKEN, UNIX, World, charter, config, founder, key, limits, member_record};
use crate::client::{Broken, Credentials};
use crate::message::{ClientMessage, MailRefusal, Refusal, RelayOffer, Request, ServerMessage, Standing};
use crate::server::{PER_PAIR, Server};

#[test]
fn founding_inviting_and_joining_ends_in_members_who_hold_the_log() {
    let mut world = World::new();
    let founded = charter(1);
    let admin = world.connect(founded.network, founder(&founded));
    let welcome = world.take(admin, 1).remove(0);
    let ServerMessage::Welcome(welcome) = welcome else { panic!("{welcome:?}") };
    assert_eq!((welcome.standing, welcome.head.length, welcome.time), (Standing::Founder, 0, UNIX));
    assert_eq!((welcome.stun_ports.as_slice(), welcome.relay), ([3478].as_slice(), RelayOffer::Offered));
    assert_eq!(welcome.observed, super::world::address(1));

    world.send(admin, ClientMessage::Found { genesis: founded.genesis.clone() });
    assert_eq!(world.take(admin, 1), [ServerMessage::Appended { sequence: 0 }]);
    let invite = key(100);
    let record = build::invite_record(&founded.network, &founded.admin, invite.invite_key(), UNIX + 60, None);
    world.send(admin, ClientMessage::Append { record });
    assert_eq!(world.take(admin, 2)[0], ServerMessage::Appended { sequence: 1 });

    let joiner = world.connect(founded.network, Credentials::Joiner { invite: invite.clone(), key: key(1) });
    assert_eq!(world.welcome(joiner), Standing::Joiner);
    world.send(joiner, ClientMessage::Fetch { from: 0 });
    let log = world.take(joiner, 1).remove(0);
    let ServerMessage::Entries { first: 0, entries, head } = log else { panic!("{log:?}") };
    assert_eq!((entries.len(), head.length), (2, 2));

    world.send(joiner, ClientMessage::Append { record: member_record(&founded.network, &invite, 1) });
    let messages = world.take(joiner, 2);
    assert_eq!(messages[0], ServerMessage::Appended { sequence: 2 });
    assert!(matches!(&messages[1], ServerMessage::Entries { first: 2, entries, .. } if entries.len() == 1));
    assert!(matches!(&world.take(admin, 1)[0], ServerMessage::Entries { first: 2, .. }));

    let state = world.replay(founded.network);
    assert!(state.is_live(&key(1).member_key()));
    assert_eq!(state.head().0, 3);
    world.send(joiner, ClientMessage::Relay);
    assert!(matches!(&world.take(joiner, 1)[0], ServerMessage::Relay(made) if made.lifetime_seconds == 3600));
}

#[test]
fn founding_again_after_a_lost_answer_is_answered_and_nothing_else_is() {
    let mut world = World::new();
    let founded = charter(1);
    world.disk.held = Some(VecDeque::new());
    let first = world.connect(founded.network, founder(&founded));
    world.send(first, ClientMessage::Found { genesis: founded.genesis.clone() });
    assert_eq!(world.welcome(first), Standing::Founder);
    assert!(world.take(first, 0).is_empty(), "nothing is answered before the disk");
    world.hang_up(first);
    world.release();

    let again = world.connect(founded.network, founder(&founded));
    world.send(again, ClientMessage::Found { genesis: founded.genesis.clone() });
    assert_eq!(world.take(again, 2)[1], ServerMessage::Appended { sequence: 0 });

    let other = charter(2);
    let thief = world.connect(other.network, founder(&other));
    assert_eq!(world.refusal(thief), Refusal::TokenUsed);
    let wrong = Credentials::Founder { token: Token::from_bytes([1; 16]), key: other.admin.clone() };
    let wrong = world.connect(other.network, wrong);
    assert_eq!(world.refusal(wrong), Refusal::TokenUnknown);
    let stranger = Credentials::Founder { token: Token::from_bytes(TOKEN), key: key(9) };
    let stranger = world.connect(founded.network, stranger);
    assert_eq!(world.refusal(stranger), Refusal::NotAMember);
}

#[test]
fn one_token_founds_one_network_even_while_the_disk_is_busy() {
    let mut world = World::new();
    let (one, two) = (charter(1), charter(2));
    world.disk.held = Some(VecDeque::new());
    let first = world.connect(one.network, founder(&one));
    let second = world.connect(two.network, founder(&two));
    world.send(first, ClientMessage::Found { genesis: one.genesis });
    world.send(second, ClientMessage::Found { genesis: two.genesis });
    world.release();
    assert_eq!(world.take(first, 2)[1], ServerMessage::Appended { sequence: 0 });
    assert!(matches!(
        world.take(second, 2)[1],
        ServerMessage::Refused { request: Request::Found, code: Refusal::TokenUsed, .. }
    ));
    assert_eq!(world.disk.stored.logs.len(), 1);
}

#[test]
fn failed_disk_founds_nothing_and_leaves_the_token_good() {
    let mut world = World::new();
    let founded = charter(1);
    let conn = world.connect(founded.network, founder(&founded));
    world.disk.fails = true;
    world.send(conn, ClientMessage::Found { genesis: founded.genesis.clone() });
    assert!(matches!(
        world.take(conn, 2)[1],
        ServerMessage::Refused { request: Request::Found, code: Refusal::Storage, .. }
    ));
    world.disk.fails = false;
    world.send(conn, ClientMessage::Found { genesis: founded.genesis });
    assert_eq!(world.take(conn, 1), [ServerMessage::Appended { sequence: 0 }]);
}

#[test]
fn nothing_of_an_entry_is_told_before_it_is_on_disk() {
    let (mut world, founded) = World::founded(2);
    let one = world.member(founded.network, 1);
    let two = world.member(founded.network, 2);
    world.disk.held = Some(VecDeque::new());
    let record = build::revoke_record(&founded.network, &key(1), key(1).member_key());
    world.send(one, ClientMessage::Append { record: record.clone() });
    world.send(one, ClientMessage::Append { record });
    world.send(two, ClientMessage::Fetch { from: 5 });
    assert!(world.take(one, 0).is_empty());
    assert!(matches!(&world.take(two, 1)[0], ServerMessage::Entries { entries, head, .. }
        if entries.is_empty() && head.length == 5));
    world.release();
    let mut messages = world.take(one, 3);
    assert!(matches!(messages.pop(), Some(ServerMessage::Entries { first: 5, .. })), "it sees itself revoked");
    assert_eq!(messages, vec![ServerMessage::Appended { sequence: 5 }; 2], "both askers of one record are answered");
    assert_eq!(world.refusal(one), Refusal::Revoked);
    assert!(matches!(&world.take(two, 1)[0], ServerMessage::Entries { first: 5, .. }));
}

#[test]
fn failed_disk_undoes_every_append_that_waited() {
    let (mut world, founded) = World::founded(1);
    let admin = world.connect(founded.network, Credentials::Member { key: founded.admin.clone() });
    assert_eq!(world.welcome(admin), Standing::Admin);
    let invite = |n| build::invite_record(&founded.network, &founded.admin, key(n).invite_key(), UNIX + 60, None);
    world.disk.held = Some(VecDeque::new());
    world.send(admin, ClientMessage::Append { record: invite(201) });
    world.send(admin, ClientMessage::Append { record: invite(202) });
    world.disk.fails = true;
    world.release();
    for message in world.take(admin, 2) {
        assert!(matches!(message, ServerMessage::Refused { request: Request::Append, code: Refusal::Storage, .. }));
    }
    world.disk.fails = false;
    world.send(admin, ClientMessage::Append { record: invite(202) });
    assert_eq!(world.take(admin, 2)[0], ServerMessage::Appended { sequence: 3 });
    let state = world.replay(founded.network);
    assert!(state.invite(&key(202).invite_key()).is_some());
    assert!(state.invite(&key(201).invite_key()).is_none());
}

#[test]
fn of_two_joiners_with_one_invite_exactly_one_comes_in() {
    let (mut world, founded) = World::founded(1);
    let admin = world.connect(founded.network, Credentials::Member { key: founded.admin.clone() });
    let invite = key(200);
    let record = build::invite_record(&founded.network, &founded.admin, invite.invite_key(), UNIX + 60, None);
    world.send(admin, ClientMessage::Append { record });
    let join = |n| Credentials::Joiner { invite: key(200), key: key(n) };
    let one = world.connect(founded.network, join(11));
    let two = world.connect(founded.network, join(12));
    let idle = world.connect(founded.network, join(13));
    for conn in [one, two, idle] {
        assert_eq!(world.welcome(conn), Standing::Joiner);
    }
    world.disk.held = Some(VecDeque::new());
    world.send(one, ClientMessage::Append { record: member_record(&founded.network, &invite, 11) });
    world.send(two, ClientMessage::Append { record: member_record(&founded.network, &invite, 12) });
    world.release();
    assert_eq!(world.take(one, 2)[0], ServerMessage::Appended { sequence: 4 });
    assert_eq!(world.refusal(two), Refusal::InviteUsed, "whose append waited for the disk");
    assert_eq!(world.refusal(idle), Refusal::InviteUsed, "a joiner who waits learns it too");
    let state = world.replay(founded.network);
    assert!(state.is_live(&key(11).member_key()) && !state.is_live(&key(12).member_key()));

    // The winner whose answer was lost comes again with its invite and is a member.
    let again = world.connect(founded.network, join(11));
    assert_eq!(world.welcome(again), Standing::Member);
    world.send(again, ClientMessage::Append { record: member_record(&founded.network, &invite, 11) });
    assert_eq!(world.take(again, 1), [ServerMessage::Appended { sequence: 4 }]);
    let loser = world.connect(founded.network, join(12));
    assert_eq!(world.refusal(loser), Refusal::InviteUsed);
}

#[test]
fn joiners_do_nothing_but_join() {
    let (mut world, founded) = World::founded(1);
    let admin = world.connect(founded.network, Credentials::Member { key: founded.admin.clone() });
    let invite = key(200);
    let record = build::invite_record(&founded.network, &founded.admin, invite.invite_key(), UNIX + 60, None);
    world.send(admin, ClientMessage::Append { record });
    let joiner = world.connect(founded.network, Credentials::Joiner { invite: invite.clone(), key: key(11) });
    assert_eq!(world.welcome(joiner), Standing::Joiner);
    world.send(joiner, ClientMessage::Append { record: member_record(&founded.network, &invite, 12) });
    world.send(joiner, ClientMessage::Mail { to: key(1).member_key(), bytes: vec![1] });
    world.send(joiner, ClientMessage::Relay);
    world.send(joiner, ClientMessage::Found { genesis: founded.genesis });
    let messages = world.take(joiner, 4);
    assert!(matches!(messages[0], ServerMessage::Refused { request: Request::Append, code: Refusal::NotAllowed, .. }));
    assert!(matches!(messages[1], ServerMessage::MailRefused { why: MailRefusal::NotAllowed, .. }));
    assert!(matches!(messages[2], ServerMessage::Refused { request: Request::Relay, code: Refusal::NotAllowed, .. }));
    assert!(matches!(messages[3], ServerMessage::Refused { request: Request::Found, code: Refusal::NotAllowed, .. }));
}

#[test]
fn expired_and_voided_invites_do_not_come_in() {
    let (mut world, founded) = World::founded(1);
    let admin = world.connect(founded.network, Credentials::Member { key: founded.admin.clone() });
    let invite = |n: u8| build::invite_record(&founded.network, &founded.admin, key(n).invite_key(), UNIX + 60, None);
    world.send(admin, ClientMessage::Append { record: invite(200) });
    world.send(admin, ClientMessage::Append { record: invite(201) });
    let record = build::void_record(&founded.network, &founded.admin, key(201).invite_key());
    world.send(admin, ClientMessage::Append { record });
    let join = |n| Credentials::Joiner { invite: key(n), key: key(11) };
    let voided = world.connect(founded.network, join(201));
    assert_eq!(world.refusal(voided), Refusal::InviteUnknown);
    let never = world.connect(founded.network, join(202));
    assert_eq!(world.refusal(never), Refusal::InviteUnknown);
    world.advance(Duration::from_secs(61));
    let late = world.connect(founded.network, join(200));
    assert_eq!(world.refusal(late), Refusal::InviteExpired);
}

#[test]
fn revoked_member_is_cut_off_and_stays_out() {
    let (mut world, founded) = World::founded(2);
    let one = world.member(founded.network, 1);
    let two = world.member(founded.network, 2);
    let admin = world.connect(founded.network, Credentials::Member { key: founded.admin.clone() });
    world.send(one, ClientMessage::Mail { to: key(2).member_key(), bytes: vec![1] });
    world.take(two, 1);
    let record = build::revoke_record(&founded.network, &founded.admin, key(2).member_key());
    world.send(admin, ClientMessage::Append { record });
    assert_eq!(world.refusal(two), Refusal::Revoked);
    assert!(
        matches!(&world.take(two, 1)[0], ServerMessage::Entries { entries, .. } if entries.len() == 1),
        "a revoked member sees that entry, and nothing more"
    );
    let other = build::revoke_record(&founded.network, &founded.admin, key(3).member_key());
    world.send(admin, ClientMessage::Append { record: other });
    assert!(world.take(two, 0).is_empty());
    let back = world.connect(founded.network, Credentials::Member { key: key(2) });
    assert_eq!(world.refusal(back), Refusal::Revoked);
    let with_invite = Credentials::Joiner { invite: key(102), key: key(2) };
    let back = world.connect(founded.network, with_invite);
    assert_eq!(world.refusal(back), Refusal::Revoked);
    world.take(one, 2);
    world.send(one, ClientMessage::Mail { to: key(2).member_key(), bytes: vec![1] });
    assert!(matches!(world.take(one, 1)[0], ServerMessage::MailRefused { why: MailRefusal::NotAMember, .. }));
}

#[test]
fn newest_connection_of_a_key_wins() {
    let (mut world, founded) = World::founded(2);
    let old = world.member(founded.network, 1);
    let new = world.member(founded.network, 1);
    assert_eq!(world.refusal(old), Refusal::Replaced);
    let two = world.member(founded.network, 2);
    world.send(two, ClientMessage::Mail { to: key(1).member_key(), bytes: vec![7] });
    assert_eq!(world.take(new, 1), [ServerMessage::Mail { from: key(2).member_key(), bytes: vec![7] }]);
}

#[test]
fn mail_waits_for_its_recipient_bounded_and_for_a_minute() {
    let (mut world, founded) = World::founded(3);
    let sender = world.member(founded.network, 1);
    for n in 0..20 {
        world.send(sender, ClientMessage::Mail { to: key(2).member_key(), bytes: vec![n] });
    }
    world.advance(Duration::from_secs(30));
    world.send(sender, ClientMessage::Mail { to: key(3).member_key(), bytes: vec![3] });
    let two = world.member(founded.network, 2);
    let bodies: Vec<u8> = world
        .take(two, PER_PAIR)
        .into_iter()
        .map(|message| {
            let ServerMessage::Mail { from, bytes } = message else { panic!("{message:?}") };
            assert_eq!(from, key(1).member_key());
            bytes[0]
        })
        .collect();
    assert_eq!(bodies, (4..20).collect::<Vec<u8>>(), "the oldest are dropped, the order is kept");
    world.advance(Duration::from_secs(61));
    let three = world.member(founded.network, 3);
    assert!(world.take(three, 0).is_empty(), "mail older than a minute is dropped");
    assert_eq!(world.server.status().held_mail, 0);
    world.send(sender, ClientMessage::Mail { to: key(9).member_key(), bytes: vec![1] });
    assert!(matches!(world.take(sender, 1)[0], ServerMessage::MailRefused { why: MailRefusal::NotAMember, .. }));
}

#[test]
fn restarted_server_holds_the_same_log() {
    let (mut world, founded) = World::founded(40);
    let head = world.replay(founded.network).head();
    let one = world.connect(founded.network, Credentials::Member { key: key(1) });
    let welcome = world.take(one, 1).remove(0);
    assert!(matches!(&welcome, ServerMessage::Welcome(welcome) if (welcome.head.length, welcome.head.hash) == head));
    let mut state = ginnel_membership::State::new(founded.network);
    while state.head().0 < head.0 {
        world.send(one, ClientMessage::Fetch { from: state.head().0 });
        let ServerMessage::Entries { first, entries, .. } = world.take(one, 1).remove(0) else { panic!("no entries") };
        assert_eq!(first, state.head().0);
        for entry in entries {
            state.apply(&ginnel_membership::Entry::decode(&entry).unwrap()).unwrap();
        }
    }
    assert_eq!(state.head(), head);
}

#[test]
fn damaged_or_foreign_logs_are_not_served() {
    let (world, _) = World::founded(1);
    let start = |stored| Server::new([1; 32], config(limits()), stored, world.now, UNIX).map(|_| ());
    let mut damaged = world.disk.stored.clone();
    damaged.logs[0].1[1].bytes[60] ^= 1;
    assert!(start(damaged).is_err());
    let mut shortened = world.disk.stored.clone();
    shortened.logs[0].1.remove(1);
    assert!(start(shortened).is_err());
    let mut renamed = world.disk.stored.clone();
    renamed.logs[0].0 = charter(2).network;
    assert!(start(renamed).is_err());
    let mut foreign = config(limits());
    foreign.sequencer = key(77);
    let mirror = Server::new([1; 32], foreign, world.disk.stored.clone(), world.now, UNIX).unwrap();
    assert_eq!(mirror.status().mirrored, 1, "a log that another server orders is mirrored");
}

#[test]
fn client_gives_up_on_a_silent_server() {
    let mut client =
        crate::Client::new([1; 32], super::world::keys(), charter(1).network, Credentials::Member { key: key(1) });
    let now = ginnel_time::Instant::ZERO;
    client.handle_input(now, crate::client::Input::Opened).unwrap();
    assert_eq!(client.poll_timeout(), Some(now), "while output is queued the last moment is answered");
    assert!(matches!(client.poll_output(), Some(crate::client::Output::Write(_))));
    let deadline = client.poll_timeout().unwrap();
    assert_eq!(deadline, now + crate::client::HANDSHAKE_DEADLINE);
    client.handle_timeout(deadline - Duration::from_nanos(1));
    assert!(client.poll_output().is_none());
    client.handle_timeout(deadline);
    assert_eq!(client.poll_output(), Some(crate::client::Output::Broken { reason: Broken::TimedOut }));
    assert_eq!(client.poll_timeout(), None);
}
