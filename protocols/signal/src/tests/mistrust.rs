//! What servers do to each other when one of them is broken into, or was.

use std::time::Duration;

use ginnel_membership::build::{self, Founded};
use ginnel_membership::record::{AdminChange, ServersChange};
use ginnel_membership::{Context, Entry, NetworkId, Record, Signature, SignedRecord, SigningKey};
use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::fleet::{Fleet, record_of, token};
use super::world::{Disk, UNIX, address, config_of, invite, key, limits, member_record};
use crate::client::{self, Client, Credentials};
use crate::frame::{self, FrameReader, MAX_FRAME};
use crate::message::{ClientMessage, Head, Placing, Refusal, RelayOffer, ServerMessage, Standing, VERSION, Welcome};
use crate::noise::{self, Channel};
use crate::server::{ConnectionId, Discard, Input, Limits, LinkId, Output, Rate, Server};

/// A change of servers, signed by whomever.
fn servers(founded: &Founded, by: &SigningKey, number: u64, sequencer: usize, hosts: &[usize]) -> Vec<u8> {
    let servers = hosts.iter().map(|host| record_of(*host)).collect();
    let change = ServersChange { number, sequencer: record_of(sequencer).keys.sequencer(), servers };
    let record = SignedRecord::sign(&founded.network, Record::Servers(change), &[by]).unwrap();
    record.encode()
}

/// An entry that a server's key signs, whatever it holds.
fn forge(by: &SigningKey, network: NetworkId, after: &Entry, record: Vec<u8>) -> Entry {
    let (sequence, previous) = (after.sequence + 1, after.hash());
    let signature = Signature::from_bytes([0; 64]);
    let mut entry = Entry { sequence, previous, time: after.time, record, signature };
    let encoded = entry.encode();
    let message = [&network.as_bytes()[..], &encoded[..encoded.len() - 64]].concat();
    entry.signature = by.sign(Context::ENTRY, &message);
    entry
}

fn decoded(log: &[Vec<u8>], sequence: usize) -> Entry {
    Entry::decode(&log[sequence]).unwrap()
}

fn host_key(host: u8) -> SigningKey {
    key(0x5e + host)
}

fn as_mirror(fleet: &mut Fleet, host: usize, network: NetworkId, who: u8) -> ConnectionId {
    let conn = fleet.connect(host, network, Credentials::Mirror { key: host_key(who) });
    assert_eq!(fleet.welcome(conn).standing, Standing::Mirror);
    conn
}

fn refused(messages: &[ServerMessage]) -> Refusal {
    match messages {
        [ServerMessage::Refused { code, .. }] => *code,
        [ServerMessage::Forwarded { outcome: Placing::Refused { code, .. }, .. }] => *code,
        other => panic!("{other:?}"),
    }
}

/// Servers 0 to 2, of which 0 ordered the log and then gave it to 1, leaving the list.
fn with_a_former_sequencer() -> (Fleet, Founded) {
    let (mut fleet, founded) = Fleet::founded(3, 1);
    let admin = fleet.admin(0, &founded);
    fleet.append(admin, servers(&founded, &founded.admin, 1, 1, &[1, 2]));
    fleet.advance(Duration::from_secs(5));
    assert_eq!(fleet.hosts[1].server.as_ref().unwrap().status().mirrored, 0);
    fleet.kill(0);
    (fleet, founded)
}

#[test]
fn former_sequencer_cannot_stop_the_new_one_by_a_second_history_of_its_own_time() {
    let (mut fleet, founded) = with_a_former_sequencer();
    let log = fleet.log(1, founded.network);
    let junk = servers(&founded, &key(99), 1, 2, &[1, 2]);
    let genuine = decoded(&log, 3).record;
    let one = fleet.member(1, founded.network, 1);
    for (sequence, record) in [(2, junk), (2, genuine)] {
        let entry = forge(&host_key(0), founded.network, &decoded(&log, sequence - 1), record);
        fleet.send(one, ClientMessage::Refill { first: sequence as u64, entries: vec![entry.encode()] });
        assert_eq!(refused(&fleet.messages(one)), Refusal::Fork, "it is one all the same");
        let admin = fleet.admin(1, &founded);
        let length = fleet.head(1, founded.network).0;
        fleet.append(admin, invite(&founded, u8::try_from(200 + length).unwrap()));
        assert_eq!(fleet.answers(admin), [ServerMessage::Appended { sequence: length }], "the new one goes on");
        fleet.messages(one);
    }
}

#[test]
fn former_server_hands_nothing_on_and_nothing_in_and_learns_nothing_of_what_came_after() {
    let (mut fleet, founded) = with_a_former_sequencer();
    let admin = fleet.admin(1, &founded);
    fleet.append(admin, invite(&founded, 201));
    let former = as_mirror(&mut fleet, 1, founded.network, 0);
    let known = decoded(&fleet.log(1, founded.network), 4).record;
    for record in [known, vec![1, 2, 3]] {
        fleet.send(former, ClientMessage::Forward { number: 1, record: record.clone() });
        assert_eq!(refused(&fleet.messages(former)), Refusal::NotAllowed);
        fleet.append(former, record);
        assert_eq!(refused(&fleet.messages(former)), Refusal::NotAllowed);
    }
    fleet.send(former, ClientMessage::Refill { first: 0, entries: Vec::new() });
    assert!(
        matches!(&fleet.messages(former)[..], [ServerMessage::Entries { first: 4, head, .. }] if head.length == 4),
        "its own dismissal is the last that it learns of"
    );
}

#[test]
fn broken_mirror_neither_uses_up_the_networks_rate_nor_appends() {
    let tight = Limits {
        network_appends: Rate { per_second: 1, burst: 30 },
        forwards: Rate { per_second: 1, burst: 10 },
        ..limits()
    };
    let (mut fleet, founded) = Fleet::founded_with(2, 1, tight);
    fleet.kill(1);
    let broken = as_mirror(&mut fleet, 0, founded.network, 1);
    fleet.append(broken, invite(&founded, 200));
    assert_eq!(refused(&fleet.messages(broken)), Refusal::NotAllowed, "mirrors hand on and do not append");
    let mut codes = Vec::new();
    for number in 0..100 {
        fleet.send(broken, ClientMessage::Forward { number, record: vec![7; 200] });
        codes.push(refused(&fleet.messages(broken)));
    }
    assert!(codes[..10].iter().all(|code| matches!(code, Refusal::Record(_))), "{codes:?}");
    assert!(codes[10..].iter().all(|code| *code == Refusal::RateLimited), "its own rate is used up: {codes:?}");
    let admin = fleet.admin(0, &founded);
    for n in 0..30 {
        fleet.append(admin, invite(&founded, 210 + n));
    }
    assert_eq!(fleet.answers(admin).len(), 30);
    assert_eq!(fleet.head(0, founded.network).0, 33, "the network's rate was not touched by what is no record");
}

#[test]
fn admins_revocations_do_not_wait_for_the_networks_rate() {
    let tight = Limits {
        network_appends: Rate { per_second: 1, burst: 10 },
        revocations: Rate { per_second: 1, burst: 2 },
        ..limits()
    };
    let (mut fleet, founded) = Fleet::founded_with(1, 4, tight);
    let noisy = fleet.member(0, founded.network, 1);
    for number in 1..=20 {
        let name = ginnel_membership::Name::new(&format!("noisy{number}")).unwrap();
        let suites = ginnel_membership::Capabilities::BOTH_SUITES;
        let record = build::update_record(&founded.network, &key(1), number, name, suites, build::NewKeys::None);
        fleet.append(noisy, record);
    }
    let last = fleet.answers(noisy).pop().unwrap();
    assert_eq!(refused(&[last]), Refusal::RateLimited, "the rate is used up");
    let admin = fleet.admin(0, &founded);
    let mut revoke = |n: u8, by: &SigningKey| {
        let record = build::revoke_record(&founded.network, by, key(n).member_key());
        fleet.append(admin, record);
        fleet.answers(admin)
    };
    let stranger = revoke(1, &key(99));
    assert_eq!(refused(&stranger), Refusal::RateLimited, "no admin signed this one");
    for n in [1, 2] {
        assert!(matches!(revoke(n, &founded.admin)[..], [ServerMessage::Appended { .. }]));
    }
    assert_eq!(refused(&revoke(3, &founded.admin)), Refusal::RateLimited, "an admin has a rate, too");
}

#[test]
fn servers_record_that_means_nothing_makes_nobody_a_former_server() {
    let (mut fleet, founded) = Fleet::founded(2, 1);
    let network = founded.network;
    let log = fleet.log(0, network);
    fleet.kill(0);
    // The sequencer is broken into; the mirror takes what it signs, as every node does.
    let junk = forge(&host_key(0), network, &decoded(&log, 2), servers(&founded, &key(99), 1, 0, &[0, 5]));
    let genuine = forge(&host_key(0), network, &junk, servers(&founded, &founded.admin, 1, 1, &[1]));
    let one = fleet.member(1, network, 1);
    fleet.send(one, ClientMessage::Refill { first: 3, entries: vec![junk.encode(), genuine.encode()] });
    for restarted in [false, true] {
        if restarted {
            fleet.kill(1);
            fleet.start(1);
        }
        assert_eq!(fleet.head(1, network).0, 5);
        assert_eq!(fleet.hosts[1].server.as_ref().unwrap().status().mirrored, 0, "it orders the log");
        let evil = fleet.connect(1, network, Credentials::Mirror { key: host_key(5) });
        assert_eq!(fleet.refusal(evil).0, Refusal::NotAllowed);
        let removed = fleet.connect(1, network, Credentials::Mirror { key: host_key(0) });
        assert_eq!(fleet.welcome(removed).head.length, 5, "whom the genuine one removes sees it until then");
    }
}

#[test]
fn copy_of_a_servers_key_does_not_make_its_server_believe_forged_admins() {
    let (mut fleet, founded) = Fleet::founded(1, 1);
    let network = founded.network;
    let log = fleet.log(0, network);
    let change = AdminChange { number: 1, threshold: 1, admins: vec![key(77).member_key()] };
    let record = SignedRecord::sign(&network, Record::AdminChange(change), &[&founded.admin]).unwrap();
    let mut record = record.encode();
    let last = record.len() - 1;
    record[last] ^= 1;
    let forged = forge(&host_key(0), network, &decoded(&log, 2), record);
    let one = fleet.member(0, network, 1);
    fleet.send(one, ClientMessage::Refill { first: 3, entries: vec![forged.encode()] });
    assert_eq!(refused(&fleet.messages(one)), Refusal::BadSignature, "this server did not order it");
    let admin = fleet.admin(0, &founded);
    fleet.append(admin, invite(&founded, 200));
    fleet.kill(0);
    fleet.start(0);
    let thief = fleet.connect(0, network, Credentials::Member { key: key(77) });
    assert_eq!(fleet.refusal(thief).0, Refusal::NotAMember);
    fleet.admin(0, &founded);
}

#[test]
fn founding_string_of_a_mirror_ends_when_the_log_is_there() {
    let (mut fleet, founded) = Fleet::founded(2, 1);
    fleet.admin(1, &founded);
    let stranger = fleet.connect(1, founded.network, Credentials::Founder { token: token(1), key: key(88) });
    assert_eq!(fleet.refusal(stranger).0, Refusal::NotAMember);
    let founder = fleet.connect(1, founded.network, fleet.founder(1, &founded));
    assert_eq!(fleet.welcome(founder).standing, Standing::Founder);
}

#[test]
fn admin_who_came_later_fills_a_mirror_in_handfuls_and_over_broken_lines() {
    let (mut fleet, founded) = Fleet::founded(1, 1);
    let network = founded.network;
    let admin = fleet.admin(0, &founded);
    let mut admins = vec![founded.admin.member_key(), key(77).member_key()];
    admins.sort();
    let change = AdminChange { number: 1, threshold: 1, admins };
    fleet.append(admin, build::admin_change_record(&network, &founded.admin, change).unwrap());
    let full = fleet.log(0, network);
    assert_eq!(full.len(), 4);
    let mut other = Fleet::new(2);
    let holder = |n| Credentials::Founder { token: token(1), key: key(n) };
    let conn = other.connect(1, network, holder(77));
    other.send(conn, ClientMessage::Refill { first: 0, entries: full[..2].to_vec() });
    assert_eq!(other.head(1, network).0, 2);
    other.hang_up(conn);
    let stranger = other.connect(1, network, holder(88));
    assert_eq!(other.refusal(stranger).0, Refusal::NotAMember, "another key with the same string");
    let conn = other.connect(1, network, holder(77));
    other.send(conn, ClientMessage::Refill { first: 2, entries: full[2..].to_vec() });
    assert_eq!(other.log(1, network), full);
    let stranger = other.connect(1, network, holder(88));
    assert_eq!(other.refusal(stranger).0, Refusal::NotAMember);
}

#[test]
fn record_that_was_skipped_once_can_be_ordered_later() {
    let (mut fleet, founded) = Fleet::founded(2, 1);
    let network = founded.network;
    let log = fleet.log(0, network);
    fleet.kill(0);
    // The dishonest sequencer orders the newcomer before its invite.
    let newcomer = member_record(&network, &key(200), 20);
    let early = forge(&host_key(0), network, &decoded(&log, 2), newcomer.clone());
    let late = forge(&host_key(0), network, &early, invite(&founded, 200));
    let moved = forge(&host_key(0), network, &late, servers(&founded, &founded.admin, 1, 1, &[1]));
    let one = fleet.member(1, network, 1);
    let entries = [early, late, moved].iter().map(Entry::encode).collect();
    fleet.send(one, ClientMessage::Refill { first: 3, entries });
    fleet.kill(1);
    fleet.start(1);
    let joiner = fleet.connect(1, network, Credentials::Joiner { invite: key(200), key: key(20) });
    fleet.append(joiner, newcomer);
    assert_eq!(fleet.answers(joiner), [ServerMessage::Appended { sequence: 6 }]);
    assert!(fleet.replay(1, network).is_live(&key(20).member_key()));
}

/// A mirror whose sequencer is dishonest: the sequencer's end of the link is ours.
struct Deceived {
    mirror: Server,
    now: Instant,
    disk: Disk,
    link: Option<(LinkId, Channel, FrameReader)>,
    /// What the mirror said on the link.
    heard: Vec<ClientMessage>,
    one: Client,
    answers: Vec<ServerMessage>,
    dials: usize,
}

impl Deceived {
    fn new() -> (Self, Founded) {
        let (fleet, founded) = Fleet::founded(2, 1);
        let now = Instant::ZERO + Duration::from_secs(10);
        let stored = fleet.hosts[1].disk.stored.clone();
        let mirror = Server::new([1; 32], config_of(1, limits()), stored.clone(), now, UNIX).unwrap();
        let credentials = Credentials::Member { key: key(1) };
        let mut one = Client::new([3; 32], record_of(1).keys, founded.network, credentials);
        one.handle_input(now, client::Input::Opened).unwrap();
        let disk = Disk { stored, ..Disk::default() };
        let (heard, answers) = (Vec::new(), Vec::new());
        let mut this = Self { mirror, now, disk, link: None, heard, one, answers, dials: 0 };
        this.mirror.handle_input(now, Input::Opened { conn: ONE, from: address(1) }).unwrap();
        this.run();
        (this, founded)
    }

    fn log(&self) -> Vec<Vec<u8>> {
        self.disk.stored.logs[0].1.iter().map(|entry| entry.bytes.clone()).collect()
    }

    fn say(&mut self, message: &ServerMessage) {
        let Some((link, channel, _)) = &mut self.link else { panic!("no link") };
        let bytes = frame::encode(&channel.seal(&message.encode().unwrap()).unwrap());
        let link = *link;
        let _ = self.mirror.handle_input(self.now, Input::LinkReceived { link, bytes });
        self.run();
    }

    fn welcome(&mut self, length: u64, hash: [u8; 32]) {
        self.say(&ServerMessage::Welcome(Welcome {
            standing: Standing::Mirror,
            observed: address(2),
            stun_ports: Vec::new(),
            relay: RelayOffer::None,
            head: Head { length, hash },
            time: UNIX,
            checkpoint: None,
        }));
    }

    fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.mirror.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.mirror.handle_timeout(self.now);
            self.run();
        }
        self.now = end;
    }

    fn run(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(output) = self.mirror.poll_output() {
                quiet = false;
                self.take(output);
            }
            while let Some(output) = self.one.poll_output() {
                quiet = false;
                match output {
                    client::Output::Write(bytes) => {
                        self.mirror.handle_input(self.now, Input::Received { conn: ONE, bytes }).unwrap();
                    }
                    client::Output::Message(ServerMessage::Welcome(_) | ServerMessage::Entries { .. })
                    | client::Output::Ready => {}
                    client::Output::Message(message) => self.answers.push(message),
                    client::Output::Broken { reason } => panic!("{reason}"),
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Write { conn, bytes } => {
                let length = bytes.len();
                let _ = self.one.handle_input(self.now, client::Input::Received(bytes));
                self.mirror.handle_input(self.now, Input::Flushed { conn, bytes: length }).unwrap();
            }
            Output::Store { ticket, change } => {
                let outcome = self.disk.put(&change);
                self.mirror.handle_input(self.now, Input::Stored { ticket, outcome }).unwrap();
            }
            Output::Dial { link, .. } => {
                self.dials += 1;
                self.link = None;
                self.mirror.handle_input(self.now, Input::LinkOpened { link }).unwrap();
            }
            Output::LinkWrite { link, bytes } => self.hear(link, &bytes),
            Output::LinkClose { .. } => self.link = None,
            Output::Witness { .. } => {}
            Output::Close { .. } => panic!("{output:?}"),
        }
    }

    fn hear(&mut self, link: LinkId, bytes: &[u8]) {
        if let Some((_, channel, reader)) = &mut self.link {
            reader.push(bytes);
            while let Some(frame) = reader.next(MAX_FRAME).unwrap() {
                self.heard.push(ClientMessage::decode(&channel.open(&frame).unwrap()).unwrap());
            }
            return;
        }
        let mut reader = FrameReader::default();
        reader.push(bytes);
        let hello = reader.next(MAX_FRAME).unwrap().unwrap();
        let secret = config_of(0, limits()).noise;
        let seed = ChaCha20Rng::seed_from_u64(self.dials as u64);
        let (channel, first) = noise::respond(&secret, &hello[1..], seed).unwrap();
        let mut answer = vec![VERSION];
        answer.extend(first);
        self.link = Some((link, channel, reader));
        self.mirror.handle_input(self.now, Input::LinkReceived { link, bytes: frame::encode(&answer) }).unwrap();
    }
}

const ONE: ConnectionId = ConnectionId(1);

#[test]
fn mirror_confirms_no_record_that_its_log_does_not_hold() {
    for early in [true, false] {
        let (mut rig, founded) = Deceived::new();
        let log = rig.log();
        let last = decoded(&log, 2);
        rig.welcome(3, last.hash());
        let record = build::revoke_record(&founded.network, &key(1), key(1).member_key());
        let append = ClientMessage::Append { record: record.clone() };
        rig.one.handle_input(rig.now, client::Input::Send(append)).unwrap();
        rig.run();
        let number = rig.heard.iter().find_map(|message| {
            let ClientMessage::Forward { number, record: handed } = message else { return None };
            (*handed == record).then_some(*number)
        });
        let number = number.expect("it is handed on");
        // A place that is taken by something else, or that will be.
        let sequence = if early { 1 } else { 3 };
        rig.say(&ServerMessage::Forwarded { number, outcome: Placing::Placed { sequence } });
        if !early {
            assert!(rig.answers.is_empty(), "its entry has yet to come");
            let other = forge(&host_key(0), founded.network, &last, invite(&founded, 201));
            let head = Head { length: 4, hash: other.hash() };
            rig.say(&ServerMessage::Entries { first: 3, entries: vec![other.encode()], head });
        }
        assert_eq!(refused(&rig.answers), Refusal::NoSequencer);
        assert_eq!(rig.mirror.counters().get(&Discard::FalsePlace), Some(&1));
        assert!(rig.link.is_none(), "such a fellow is left alone for a while");
    }
}

#[test]
fn fellow_that_brings_nothing_is_not_asked_without_end() {
    let (mut rig, _) = Deceived::new();
    rig.welcome(100, [7; 32]);
    let asked = |rig: &Deceived| {
        rig.heard
            .iter()
            .filter(|message| matches!(message, ClientMessage::Fetch { .. } | ClientMessage::Refill { .. }))
            .count()
    };
    let log = rig.log();
    for round in 0..50 {
        let entries = if round % 2 == 0 { Vec::new() } else { log.clone() };
        rig.say(&ServerMessage::Entries { first: 0, entries, head: Head { length: 100 + round, hash: [7; 32] } });
    }
    assert!(asked(&rig) <= 2, "{} exchanges at one moment", asked(&rig));
    for round in 0..50 {
        let head = if round % 2 == 0 { Head { length: 1, hash: [7; 32] } } else { Head { length: 2, hash: [8; 32] } };
        rig.say(&ServerMessage::Entries { first: 0, entries: Vec::new(), head });
    }
    assert!(asked(&rig) <= 4, "{} exchanges at one moment", asked(&rig));
    let before = asked(&rig);
    rig.advance(Duration::from_secs(20));
    assert!(asked(&rig) > before, "it is asked again after a while");
}
