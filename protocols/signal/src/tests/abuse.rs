//! What hostile, broken and slow clients meet.

use std::time::Duration;

use ginnel_membership::ServerKeys;
use ginnel_membership::build;
use ginnel_membership::record::Policy;
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::world::{UNIX, World, address, charter, key, keys, limits};
use crate::auth::{self, SignedRole};
use crate::client::{Broken, Credentials};
use crate::frame::{self, FrameReader, MAX_FRAME};
use crate::message::{Claim, ClientMessage, MailRefusal, Refusal, Request, ServerMessage, VERSION};
use crate::noise::{Channel, Initiator};
use crate::server::{ConnectionId, Discard, Input, Limits, MAX_UNSENT, Output, PROOF_DEADLINE, Rate, Server};

/// A client that keeps no rules.
struct Raw {
    conn: ConnectionId,
    channel: Channel,
    reader: FrameReader,
}

impl Raw {
    fn connect(world: &mut World, conn: u64) -> Self {
        let conn = ConnectionId(conn);
        world.server.handle_input(world.now, Input::Opened { conn, from: address(66) }).unwrap();
        let (initiator, first) = Initiator::start(&keys().noise, ChaCha20Rng::seed_from_u64(conn.0)).unwrap();
        let mut hello = vec![VERSION];
        hello.extend(first);
        push(world, conn, frame::encode(&hello)).unwrap();
        let mut reader = FrameReader::default();
        for bytes in written(&mut world.server, conn) {
            reader.push(&bytes);
        }
        let answer = reader.next(MAX_FRAME).unwrap().unwrap();
        Self { conn, channel: initiator.finish(&answer[1..]).unwrap(), reader }
    }

    fn say(&mut self, world: &mut World, message: &ClientMessage) -> Result<(), Discard> {
        let sealed = self.channel.seal(&message.encode().unwrap()).unwrap();
        push(world, self.conn, frame::encode(&sealed))
    }

    fn hear(&mut self, world: &mut World) -> Vec<ServerMessage> {
        for bytes in written(&mut world.server, self.conn) {
            self.reader.push(&bytes);
        }
        let mut heard = Vec::new();
        while let Some(frame) = self.reader.next(MAX_FRAME).unwrap() {
            heard.push(ServerMessage::decode(&self.channel.open(&frame).unwrap()).unwrap());
        }
        heard
    }
}

fn push(world: &mut World, conn: ConnectionId, bytes: Vec<u8>) -> Result<(), Discard> {
    world.server.handle_input(world.now, Input::Received { conn, bytes })
}

fn written(server: &mut Server, from: ConnectionId) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(output) = server.poll_output() {
        match output {
            Output::Write { conn, bytes } if conn == from => all.push(bytes),
            Output::Write { .. }
            | Output::Close { .. }
            | Output::Store { .. }
            | Output::Witness { .. }
            | Output::Dial { .. }
            | Output::LinkWrite { .. }
            | Output::LinkClose { .. } => {}
        }
    }
    all
}

fn code(message: &ServerMessage) -> Refusal {
    let ServerMessage::Refused { code, .. } = message else { panic!("{message:?}") };
    *code
}

#[test]
fn server_with_another_key_is_found_out() {
    let (mut world, founded) = World::founded(1);
    let wrong = ServerKeys { noise: [9; 32], ..keys() };
    let conn = world.connect_from(address(1), wrong, founded.network, Credentials::Member { key: key(1) });
    assert_eq!(world.broken(conn), Some(&Broken::HandshakeRefused));
    assert_eq!(world.server.status().connections, 0);
    assert_eq!(world.server.counters().get(&Discard::BadSeal), Some(&1));
}

#[test]
fn strangers_see_nothing_of_the_log() {
    let (mut world, founded) = World::founded(1);
    let stranger = world.connect(founded.network, Credentials::Member { key: key(77) });
    assert_eq!(world.refusal(stranger), Refusal::NotAMember);
    assert!(world.take(stranger, 0).is_empty());
    let elsewhere = world.connect(charter(5).network, Credentials::Member { key: key(1) });
    assert_eq!(world.refusal(elsewhere), Refusal::UnknownNetwork);
    // A request in the place of the proof.
    let mut raw = Raw::connect(&mut world, 5000);
    assert_eq!(raw.say(&mut world, &ClientMessage::Fetch { from: 0 }), Err(Discard::Malformed));
    let heard = raw.hear(&mut world);
    assert_eq!(heard.len(), 1);
    assert_eq!(code(&heard[0]), Refusal::Malformed);
}

#[test]
fn proof_of_another_channel_role_network_or_key_is_worth_nothing() {
    let (mut world, founded) = World::founded(2);
    let network = founded.network;
    let sign = |raw: &Raw, role, network| auth::sign(&key(1), role, network, raw.channel.binding());
    let earlier = Raw::connect(&mut world, 5000);
    let stolen = sign(&earlier, SignedRole::Member, &network);
    let mut conn = 5001;
    let mut attempt = |world: &mut World, claimed, make: &dyn Fn(&Raw) -> ginnel_membership::Signature| {
        conn += 1;
        let mut raw = Raw::connect(world, conn);
        let claim = Claim::Member { key: claimed, signature: make(&raw) };
        let _ = raw.say(world, &ClientMessage::Authenticate { network, claim });
        raw.hear(world)
    };
    let one = key(1).member_key();
    assert_eq!(code(&attempt(&mut world, one, &|_| stolen)[0]), Refusal::BadSignature);
    let joiner = attempt(&mut world, one, &|raw| sign(raw, SignedRole::Joiner, &network));
    assert_eq!(code(&joiner[0]), Refusal::BadSignature);
    let other = charter(9).network;
    let elsewhere = attempt(&mut world, one, &|raw| sign(raw, SignedRole::Member, &other));
    assert_eq!(code(&elsewhere[0]), Refusal::BadSignature);
    let two = key(2).member_key();
    let masked = attempt(&mut world, two, &|raw| sign(raw, SignedRole::Member, &network));
    assert_eq!(code(&masked[0]), Refusal::BadSignature);
    let good = attempt(&mut world, one, &|raw| sign(raw, SignedRole::Member, &network));
    assert!(matches!(good[0], ServerMessage::Welcome(_)));
}

#[test]
fn second_proof_and_garbage_after_the_first_end_the_connection() {
    let (mut world, founded) = World::founded(1);
    let network = founded.network;
    let proof = |raw: &Raw| {
        let signature = auth::sign(&key(1), SignedRole::Member, &network, raw.channel.binding());
        ClientMessage::Authenticate { network, claim: Claim::Member { key: key(1).member_key(), signature } }
    };
    let mut raw = Raw::connect(&mut world, 5000);
    let message = proof(&raw);
    raw.say(&mut world, &message).unwrap();
    assert_eq!(raw.say(&mut world, &message), Err(Discard::Malformed));
    assert_eq!(code(raw.hear(&mut world).last().unwrap()), Refusal::Malformed);

    let mut raw = Raw::connect(&mut world, 5001);
    let message = proof(&raw);
    raw.say(&mut world, &message).unwrap();
    let sealed = raw.channel.seal(&[VERSION, 0xff, 0xff]).unwrap();
    assert_eq!(push(&mut world, raw.conn, frame::encode(&sealed)), Err(Discard::Malformed));
    assert_eq!(push(&mut world, raw.conn, vec![0]), Err(Discard::UnknownConnection));
    assert_eq!(world.server.status().connections, 0);
}

#[test]
fn oversized_frames_are_refused_by_their_length() {
    let (mut world, _) = World::founded(1);
    let conn = ConnectionId(5000);
    world.server.handle_input(world.now, Input::Opened { conn, from: address(1) }).unwrap();
    assert_eq!(push(&mut world, conn, vec![4, 0]), Err(Discard::FrameLength));
    let raw = Raw::connect(&mut world, 5001);
    assert_eq!(push(&mut world, raw.conn, vec![0x40, 0]), Err(Discard::FrameLength));
    assert_eq!(world.server.status().connections, 0);
}

#[test]
fn other_versions_are_told_ours() {
    let (mut world, _) = World::founded(1);
    let conn = ConnectionId(5000);
    world.server.handle_input(world.now, Input::Opened { conn, from: address(1) }).unwrap();
    assert_eq!(push(&mut world, conn, vec![0, 2, 99, 9]), Err(Discard::Version));
    assert_eq!(written(&mut world.server, conn), [vec![0, 1, VERSION]]);
}

#[test]
fn silent_connections_end_after_five_seconds() {
    let (mut world, _) = World::founded(1);
    let conn = ConnectionId(5000);
    world.server.handle_input(world.now, Input::Opened { conn, from: address(1) }).unwrap();
    let raw = Raw::connect(&mut world, 5001);
    world.advance(PROOF_DEADLINE - Duration::from_millis(1));
    assert_eq!(world.server.status().connections, 2);
    world.advance(Duration::from_millis(1));
    assert_eq!(world.server.status().connections, 0);
    assert_eq!(push(&mut world, raw.conn, vec![0]), Err(Discard::UnknownConnection));
}

#[test]
fn connections_are_bounded_in_all_and_per_source() {
    let limits = Limits {
        connections: 10,
        connections_per_source: 4,
        unauthenticated: 8,
        opens: Rate { per_second: 1, burst: 6 },
        ..limits()
    };
    let (mut world, founded) = World::founded_with(limits, 10);
    let open = |world: &mut World, conn, source| {
        let from = ([198, 51, source, 7], 5000).into();
        world.server.handle_input(world.now, Input::Opened { conn: ConnectionId(conn), from })
    };
    for conn in 0..4 {
        assert_eq!(open(&mut world, 5000 + conn, 1), Ok(()));
    }
    assert_eq!(open(&mut world, 5010, 1), Err(Discard::SourceLimit));
    for conn in 0..4 {
        assert_eq!(open(&mut world, 5020 + conn, 2), Ok(()));
    }
    assert_eq!(open(&mut world, 5030, 3), Err(Discard::Full), "the unproven leave room for nobody but the proven");
    world.advance(PROOF_DEADLINE);
    assert_eq!(world.server.status().connections, 0);
    let mut refused = 0;
    for conn in 0..20 {
        refused += u32::from(open(&mut world, 6000 + conn, 4).is_err());
        world.server.handle_input(world.now, Input::Closed { conn: ConnectionId(6000 + conn) }).unwrap();
    }
    assert_eq!(refused, 14, "six at once, then the rate");
    for n in 1..=10 {
        let from = ([198, 51, 100 + n, 7], 5000).into();
        world.connect_from(from, keys(), founded.network, Credentials::Member { key: key(n) });
    }
    assert_eq!(world.server.status().connections, 10);
    assert_eq!(open(&mut world, 7000, 9), Err(Discard::Full));
}

#[test]
fn requests_mail_and_appends_have_their_rates() {
    let limits = Limits {
        requests: Rate { per_second: 10, burst: 100 },
        mail: Rate { per_second: 1, burst: 3 },
        appends: Rate { per_second: 1, burst: 2 },
        ..limits()
    };
    let (mut world, founded) = World::founded_with(limits, 2);
    let one = world.member(founded.network, 1);
    let mail = ClientMessage::Mail { to: key(2).member_key(), bytes: vec![1] };
    for _ in 0..3 {
        world.send(one, mail.clone());
    }
    assert!(world.take(one, 0).is_empty());
    world.send(one, mail.clone());
    assert!(matches!(world.take(one, 1)[0], ServerMessage::MailRefused { why: MailRefusal::RateLimited, .. }));
    // A new connection of the same key does not start afresh.
    let one = world.member(founded.network, 1);
    world.send(one, mail.clone());
    assert!(matches!(world.take(one, 1)[0], ServerMessage::MailRefused { why: MailRefusal::RateLimited, .. }));
    world.advance(Duration::from_secs(1));
    world.send(one, mail);
    assert!(world.take(one, 0).is_empty());

    for n in 0..3 {
        let record = build::update_record(
            &founded.network,
            &key(1),
            n + 1,
            ginnel_membership::Name::new("other").unwrap(),
            ginnel_membership::Capabilities::BOTH_SUITES,
            build::NewKeys::None,
        );
        world.send(one, ClientMessage::Append { record });
    }
    let last = world.take(one, 5).pop().unwrap();
    assert!(matches!(last, ServerMessage::Refused { request: Request::Append, code: Refusal::RateLimited, .. }));

    let mut pings = 0;
    while world.broken(one).is_none() {
        let _ = world.try_send(one, ClientMessage::Ping);
        pings += 1;
        assert!(pings < 200, "a flood ends the connection");
    }
    assert_eq!(world.refusal(one), Refusal::RateLimited);
}

#[test]
fn client_that_does_not_read_gets_its_mail_later_and_is_cut_off_in_the_end() {
    let (mut world, founded) = World::founded(2);
    let sender = world.member(founded.network, 1);
    let slow = world.member(founded.network, 2);
    world.peers.get_mut(&slow).unwrap().reads = false;
    let before = world.peers[&slow].received;
    for n in 0..60 {
        world.send(sender, ClientMessage::Mail { to: key(2).member_key(), bytes: vec![n; 4096] });
    }
    let unread = world.peers[&slow].received - before;
    assert!(unread < 140 << 10, "{unread}");
    let delivered = world.peers[&slow].messages.len();
    assert!(world.server.status().held_mail > 0);
    let bytes = unread;
    world.server.handle_input(world.now, Input::Flushed { conn: slow, bytes }).unwrap();
    world.run();
    assert_eq!(world.peers[&slow].messages.len(), delivered + 16, "what was held comes once there is room");
    assert_eq!(world.server.status().held_mail, 0);

    let mut fetched = 0;
    while world.broken(slow).is_none() {
        let _ = world.try_send(slow, ClientMessage::Fetch { from: 0 });
        fetched += 1;
        assert!(fetched < 1000);
    }
    assert_eq!(world.broken(slow), Some(&Broken::Closed));
    assert!(world.peers[&slow].received < before + unread + 16 * 4200 + MAX_UNSENT + 4096);
    assert!(world.broken(sender).is_none(), "nobody else is hurt");
}

#[test]
fn held_mail_is_bounded_over_all() {
    let limits = Limits { held_mail: 10_000, ..limits() };
    let (mut world, founded) = World::founded_with(limits, 3);
    let sender = world.member(founded.network, 1);
    for to in [2, 2, 3] {
        world.send(sender, ClientMessage::Mail { to: key(to).member_key(), bytes: vec![0; 4096] });
    }
    assert!(matches!(world.take(sender, 1)[0], ServerMessage::MailRefused { why: MailRefusal::Busy, .. }));
    for bytes in [Vec::new(), vec![0; 4097]] {
        world.send(sender, ClientMessage::Mail { to: key(2).member_key(), bytes });
        assert!(matches!(world.take(sender, 1)[0], ServerMessage::MailRefused { why: MailRefusal::Size, .. }));
    }
}

#[test]
fn full_log_is_still_governed_and_takes_no_more_of_all_else() {
    let limits = Limits { log_entries: 8, ..limits() };
    let (mut world, founded) = World::founded_with(limits, 1);
    let one = world.member(founded.network, 1);
    let admin = world.connect(founded.network, Credentials::Member { key: founded.admin.clone() });
    world.welcome(admin);
    let (network, member) = (founded.network, key(1).member_key());
    let update = |number| {
        let name = ginnel_membership::Name::new(&format!("other{number}")).unwrap();
        let suites = ginnel_membership::Capabilities::BOTH_SUITES;
        build::update_record(&network, &key(1), number, name, suites, build::NewKeys::None)
    };
    let invite = |n| build::invite_record(&network, &founded.admin, key(n).invite_key(), UNIX + 60, None);
    let lease = |world: &World, time| {
        let (length, head) = world.replay(network).head();
        build::lease_record(&network, &founded.admin, (length, head), time)
    };
    let policy = |number| {
        let policy = Policy { number, ..Policy::default() };
        build::policy_record(&network, &founded.admin, policy).unwrap()
    };
    let append = |world: &mut World, conn, record| {
        world.send(conn, ClientMessage::Append { record });
        let messages: Vec<_> = world.peers.get_mut(&conn).unwrap().messages.drain(..).collect();
        let mut answers = messages.into_iter().filter(|message| !matches!(message, ServerMessage::Entries { .. }));
        match answers.next() {
            Some(ServerMessage::Appended { sequence }) => Ok(sequence),
            Some(refused) => Err(code(&refused)),
            None => panic!("no answer"),
        }
    };
    for number in 1..=3 {
        assert_eq!(append(&mut world, one, update(number)), Ok(2 + number));
    }
    assert_eq!(append(&mut world, one, update(4)), Err(Refusal::TooLarge), "updates leave room for newcomers");
    assert_eq!(append(&mut world, admin, invite(200)), Ok(6));
    assert_eq!(append(&mut world, admin, invite(201)), Err(Refusal::TooLarge), "newcomers leave room for leases");
    let record = lease(&world, UNIX + 1);
    assert_eq!(append(&mut world, admin, record), Ok(7));
    let record = lease(&world, UNIX + 2);
    assert_eq!(append(&mut world, admin, record), Err(Refusal::TooLarge), "leases leave room for what admins decide");
    assert_eq!(append(&mut world, admin, policy(1)), Ok(8));
    let record = build::revoke_record(&network, &founded.admin, member);
    assert_eq!(append(&mut world, admin, record), Ok(9));
    assert_eq!(world.refusal(one), Refusal::Revoked);
    assert_eq!(append(&mut world, admin, policy(2)), Ok(10));
    assert_eq!(append(&mut world, admin, policy(3)), Err(Refusal::TooLarge), "there is an end to everything");
}

#[test]
fn state_is_forgotten_when_everybody_has_gone() {
    let (mut world, founded) = World::founded(2);
    for n in [1, 2] {
        let conn = world.member(founded.network, n);
        world.send(conn, ClientMessage::Mail { to: key(3 - n).member_key(), bytes: vec![n; 100] });
        world.hang_up(conn);
    }
    world.advance(Duration::from_secs(600));
    assert_eq!(world.server.poll_timeout(), None, "an empty server sleeps");
    assert_eq!(world.server.status().held_mail, 0);
}

#[test]
fn streams_cut_or_damaged_at_every_byte_never_break_the_server() {
    let (mut world, founded) = World::founded(1);
    let mut conn = 10_000;
    for damage in [false, true] {
        for place in 0..54 {
            conn += 1;
            let id = ConnectionId(conn);
            world.advance(Duration::from_secs(1));
            world.server.handle_input(world.now, Input::Opened { conn: id, from: address(2) }).unwrap();
            let (_, first) = Initiator::start(&keys().noise, ChaCha20Rng::seed_from_u64(conn)).unwrap();
            let mut hello = vec![VERSION];
            hello.extend(first);
            let mut bytes = frame::encode(&hello);
            bytes.resize(54, 0);
            if damage {
                bytes[place] ^= 0x55;
            } else {
                bytes.truncate(place);
            }
            let _ = push(&mut world, id, bytes);
            let _ = written(&mut world.server, id);
            let _ = world.server.handle_input(world.now, Input::Closed { conn: id });
        }
    }
    let member = world.member(founded.network, 1);
    world.send(member, ClientMessage::Ping);
    assert_eq!(world.take(member, 1), [ServerMessage::Pong]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn decoders_never_panic_and_encodings_are_unique(bytes in proptest::collection::vec(any::<u8>(), 0..300), variant in 0_u8..11) {
        let mut body = bytes;
        body.splice(0..0, [VERSION, variant]);
        if let Ok(message) = ClientMessage::decode(&body) {
            prop_assert_eq!(ClientMessage::decode(&message.encode().unwrap()), Ok(message));
        }
        if let Ok(message) = ServerMessage::decode(&body) {
            prop_assert_eq!(ServerMessage::decode(&message.encode().unwrap()), Ok(message));
        }
    }

    #[test]
    fn sealed_garbage_never_breaks_the_server(messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..8)) {
        let (mut world, founded) = World::founded(1);
        let mut raw = Raw::connect(&mut world, 5000);
        let signature = auth::sign(&key(1), SignedRole::Member, &founded.network, raw.channel.binding());
        let claim = Claim::Member { key: key(1).member_key(), signature };
        raw.say(&mut world, &ClientMessage::Authenticate { network: founded.network, claim }).unwrap();
        for message in messages {
            let mut plaintext = vec![VERSION];
            plaintext.extend(message);
            let sealed = raw.channel.seal(&plaintext).unwrap();
            let _ = push(&mut world, raw.conn, frame::encode(&sealed));
        }
        world.run();
        let member = world.member(founded.network, 1);
        world.send(member, ClientMessage::Ping);
        prop_assert!(world.take(member, 1).contains(&ServerMessage::Pong));
    }

    #[test]
    fn client_survives_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0_usize..300) {
        let mut client = crate::Client::new([1; 32], keys(), charter(1).network, Credentials::Member { key: key(1) });
        let now = ginnel_time::Instant::ZERO;
        client.handle_input(now, crate::client::Input::Opened).unwrap();
        let cut = cut.min(bytes.len());
        let _ = client.handle_input(now, crate::client::Input::Received(bytes[..cut].to_vec()));
        let _ = client.handle_input(now, crate::client::Input::Received(bytes[cut..].to_vec()));
        while client.poll_output().is_some() {}
    }
}
