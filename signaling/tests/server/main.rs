//! The real binary on loopback, with real clients.

mod link;
mod mirror;
mod process;
mod relay;

use std::time::Duration;

use ginnel_membership::build::{self, Charter, Founded};
use ginnel_membership::invite::Founding;
use ginnel_membership::{Capabilities, Entry, Name, NetworkId, ServerKeys, SigningKey, State, TunnelKey};
use ginnel_signal_proto::client::Broken;
use ginnel_signal_proto::mailbox::{MailOpener, MailSealer};
use ginnel_signal_proto::{ClientMessage, Credentials, Refusal, Request, ServerMessage, Standing};
use ginnel_time::Tai64n;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use link::Link;
use process::{Process, State as StateFolder, unix};

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn tunnel_key(n: u8) -> TunnelKey {
    TunnelKey::from_bytes(PublicKey::from(&StaticSecret::from([n; 32])).to_bytes())
}

fn member_record(network: &NetworkId, invite: &SigningKey, member: u8) -> Vec<u8> {
    let name = Name::new(&format!("node{member}")).expect("a good name");
    build::member_record(network, invite, &key(member), tunnel_key(member), name, Capabilities::BOTH_SUITES)
}

fn charter(founding: &Founding, seed: u64) -> Founded {
    let charter = Charter {
        name: Name::new("home").expect("a good name"),
        sequencer: founding.server().keys.sequencer(),
        servers: vec![founding.server().clone()],
        ipv4_range: None,
        now: unix(),
    };
    build::found(&mut ChaCha20Rng::seed_from_u64(seed), charter).expect("a good charter")
}

fn founder(founding: &Founding, founded: &Founded) -> Credentials {
    Credentials::Founder { token: founding.token().clone(), key: founded.admin.clone() }
}

fn invite_record(founded: &Founded, invite: &SigningKey) -> Vec<u8> {
    build::invite_record(&founded.network, &founded.admin, invite.invite_key(), unix() + 600, None)
}

/// Founds a network that has no members yet; answers its admin's connection.
async fn begin(founding: &Founding, founded: &Founded) -> Link {
    let mut admin = Link::open(founding.server(), founded.network, founder(founding, founded)).await.expect("let in");
    assert_eq!(admin.welcome.standing, Standing::Founder);
    admin.send(ClientMessage::Found { genesis: founded.genesis.clone() }).await;
    assert_eq!(admin.next().await, ServerMessage::Appended { sequence: 0 });
    admin
}

/// A network with members 1 and 2, founded through `server`.
async fn found(founding: &Founding) -> Founded {
    let founded = charter(founding, 1);
    let mut admin = begin(founding, &founded).await;
    for member in [1, 2] {
        let invite = key(100 + member);
        admin.append(invite_record(&founded, &invite)).await;
        let credentials = Credentials::Joiner { invite: invite.clone(), key: key(member) };
        let mut joiner = Link::open(founding.server(), founded.network, credentials).await.expect("let in");
        assert_eq!(joiner.welcome.standing, Standing::Joiner);
        joiner.append(member_record(&founded.network, &invite, member)).await;
        // The joiner is a member from here on.
        joiner.send(ClientMessage::Relay).await;
        assert!(matches!(joiner.answer().await, ServerMessage::Relay(_)));
        joiner.close().await;
    }
    admin.close().await;
    founded
}

async fn member(founding: &Founding, network: NetworkId, n: u8) -> Link {
    let link = Link::open(founding.server(), network, Credentials::Member { key: key(n) }).await.expect("let in");
    assert_eq!(link.welcome.standing, Standing::Member);
    link
}

/// A connection of the admin, who is no founder any more.
async fn connect_admin(founding: &Founding, founded: &Founded) -> Link {
    let credentials = Credentials::Member { key: founded.admin.clone() };
    Link::open(founding.server(), founded.network, credentials).await.expect("let in")
}

#[tokio::test]
async fn network_is_founded_joined_mailed_in_and_survives_a_restart() {
    let state = StateFolder::new();
    let mut process = Process::start(&state, &[]);
    let founding = process.founding();
    let founded = found(&founding).await;
    let network = founded.network;

    let mut one = member(&founding, network, 1).await;
    let mut two = member(&founding, network, 2).await;
    let mut sealer = MailSealer::new([1; 32], Zeroizing::new([1; 32]), &network);
    let mail = sealer.seal(Tai64n::from_unix(unix(), 0), &tunnel_key(2), b"here I am").expect("fits");
    one.send(ClientMessage::Mail { to: key(2).member_key(), bytes: mail }).await;
    let ServerMessage::Mail { from, bytes } = two.next().await else { panic!("no mail") };
    assert_eq!(from, key(1).member_key());
    let mut opener = MailOpener::new([2; 32], Zeroizing::new([2; 32]), &network);
    let opened = opener.open(&bytes, &mut |sender| *sender == tunnel_key(1)).expect("good mail");
    assert_eq!((opened.sender, opened.body.as_slice()), (tunnel_key(1), b"here I am".as_slice()));

    // An entry of one is pushed to the other at once.
    let record = build::update_record(
        &network,
        &key(1),
        1,
        Name::new("renamed").expect("a good name"),
        Capabilities::BOTH_SUITES,
        build::NewKeys::None,
    );
    one.append(record).await;
    let ServerMessage::Entries { first: 5, entries, head } = two.next().await else { panic!("no push") };
    assert_eq!((entries.len(), head.length), (1, 6));

    process.terminate();
    assert_eq!(two.end().await, Broken::Closed);
    let process = Process::start(&state, &[]);
    assert!(process.prints_nothing(), "no founding string where networks are");
    let mut two = member(&founding, network, 2).await;
    assert_eq!((two.welcome.head.length, two.welcome.head.hash), (head.length, head.hash));
    two.send(ClientMessage::Fetch { from: 0 }).await;
    let ServerMessage::Entries { entries, .. } = two.next().await else { panic!("no entries") };
    let mut log = State::new(network);
    for entry in entries {
        log.apply(&Entry::decode(&entry).expect("an entry")).expect("continues the log");
    }
    assert_eq!(log.head(), (head.length, head.hash));
    assert!(log.member_named(&Name::new("renamed").expect("a good name")).is_some());

    // A revoked member is told, cut off and kept out.
    let mut admin = connect_admin(&founding, &founded).await;
    admin.append(build::revoke_record(&network, &founded.admin, key(2).member_key())).await;
    assert!(matches!(two.end().await, Broken::Refused { code: Refusal::Revoked, .. }));
    let back = Link::open(founding.server(), network, Credentials::Member { key: key(2) }).await;
    assert!(matches!(back.err(), Some(Broken::Refused { code: Refusal::Revoked, .. })));
}

#[tokio::test]
async fn mail_for_an_absent_member_waits() {
    let state = StateFolder::new();
    let process = Process::start(&state, &[]);
    let founding = process.founding();
    let network = found(&founding).await.network;
    let mut one = member(&founding, network, 1).await;
    for n in 0..20 {
        one.send(ClientMessage::Mail { to: key(2).member_key(), bytes: vec![n; 100] }).await;
    }
    one.send(ClientMessage::Ping).await;
    assert_eq!(one.next().await, ServerMessage::Pong);
    let mut two = member(&founding, network, 2).await;
    for n in 4..20 {
        assert_eq!(two.next().await, ServerMessage::Mail { from: key(1).member_key(), bytes: vec![n; 100] });
    }
}

#[tokio::test]
async fn strangers_and_wrong_servers_are_refused() {
    let state = StateFolder::new();
    let process = Process::start(&state, &[]);
    let founding = process.founding();
    let network = found(&founding).await.network;
    let mut wrong = founding.server().clone();
    wrong.keys = ServerKeys { noise: *tunnel_key(9).as_bytes(), ..wrong.keys };
    let refused = Link::open(&wrong, network, Credentials::Member { key: key(1) }).await;
    assert_eq!(refused.err(), Some(Broken::HandshakeRefused));
    let stranger = Link::open(founding.server(), network, Credentials::Member { key: key(77) }).await;
    assert!(matches!(stranger.err(), Some(Broken::Refused { code: Refusal::NotAMember, .. })));
    let other = charter(&founding, 2);
    let second = Link::open(founding.server(), other.network, founder(&founding, &other)).await;
    assert!(matches!(second.err(), Some(Broken::Refused { code: Refusal::TokenUsed, .. })));
}

#[tokio::test]
async fn of_many_joiners_with_one_invite_one_comes_in() {
    let state = StateFolder::new();
    let process = Process::start(&state, &[]);
    let founding = process.founding();
    let founded = found(&founding).await;
    let network = founded.network;
    let mut admin = connect_admin(&founding, &founded).await;
    let invite = key(200);
    admin.append(invite_record(&founded, &invite)).await;
    let mut joiners = Vec::new();
    for n in 20..30 {
        let credentials = Credentials::Joiner { invite: invite.clone(), key: key(n) };
        joiners.push((n, Link::open(founding.server(), network, credentials).await.expect("let in")));
    }
    let mut races = tokio::task::JoinSet::new();
    for (n, mut link) in joiners {
        let record = member_record(&network, &key(200), n);
        races.spawn(async move {
            link.send(ClientMessage::Append { record }).await;
            match link.try_next().await {
                Ok(ServerMessage::Appended { .. }) => true,
                Ok(ServerMessage::Refused { request: Request::Append, code: Refusal::InviteUsed, text }) => {
                    assert!(text.contains("joined as node2"), "{text}");
                    false
                }
                Err(Broken::Refused { code: Refusal::InviteUsed, text }) => {
                    assert!(text.contains("joined as node2"), "{text}");
                    false
                }
                other => panic!("{other:?}"),
            }
        });
    }
    let won = races.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 1);
}

#[tokio::test]
async fn founding_string_stays_until_it_is_used_and_another_is_made_on_request() {
    let state = StateFolder::new();
    let mut process = Process::start(&state, &[]);
    let founding = process.founding();
    process.terminate();
    let mut process = Process::start(&state, &[]);
    assert_eq!(process.founding().to_string(), founding.to_string());
    found(&founding).await;
    process.terminate();
    let process = Process::start(&state, &["--print-founding"]);
    let second = process.founding();
    assert!(!second.token().matches(founding.token()));
    let other = charter(&second, 2);
    begin(&second, &other).await;
}

#[tokio::test]
async fn killed_server_has_forgotten_nothing_that_it_answered() {
    let state = StateFolder::new();
    let mut process = Process::start(&state, &[]);
    let founding = process.founding();
    let founded = charter(&founding, 1);
    let _admin = begin(&founding, &founded).await;
    for round in 0..5_u64 {
        process.kill();
        process = Process::start(&state, &[]);
        // The client repeats its first packet until the server is up.
        let mut admin = connect_admin(&founding, &founded).await;
        assert_eq!(admin.welcome.head.length, 1 + 4 * round);
        for n in 0..4 {
            let invite = key(1 + 4 * u8::try_from(round).expect("small") + n);
            admin.append(invite_record(&founded, &invite)).await;
        }
    }
}

#[tokio::test]
async fn server_killed_in_the_middle_of_appends_holds_all_that_it_answered() {
    let state = StateFolder::new();
    let mut process = Process::start(&state, &[]);
    let founding = process.founding();
    let founded = charter(&founding, 1);
    let _admin = begin(&founding, &founded).await;
    let mut answered = Vec::new();
    for round in 0..8_u8 {
        let mut admin = connect_admin(&founding, &founded).await;
        let records: Vec<_> = (0..20).map(|n| invite_record(&founded, &key(1 + 20 * round + n))).collect();
        for record in &records {
            admin.send(ClientMessage::Append { record: record.clone() }).await;
        }
        for record in records.iter().take(usize::from(round) * 2 + 1) {
            let ServerMessage::Appended { sequence } = admin.answer().await else { panic!("not appended") };
            answered.push((sequence, record.clone()));
        }
        process.kill();
        process = Process::start(&state, &[]);
    }
    let mut admin = connect_admin(&founding, &founded).await;
    let mut log = Vec::new();
    while (log.len() as u64) < admin.welcome.head.length {
        admin.send(ClientMessage::Fetch { from: log.len() as u64 }).await;
        let ServerMessage::Entries { entries, .. } = admin.next().await else { panic!("no entries") };
        log.extend(entries.iter().map(|entry| Entry::decode(entry).expect("an entry")));
    }
    let mut replay = State::new(founded.network);
    log.iter().for_each(|entry| assert!(replay.apply(entry).is_ok(), "the log is whole"));
    for (sequence, record) in answered {
        let place = usize::try_from(sequence).expect("small");
        assert_eq!(log[place].record, record, "entry {sequence}");
    }
}

#[tokio::test]
async fn end_of_the_log_is_remembered_beside_the_disk_until_a_reboot() {
    let state = StateFolder::new();
    let mut process = Process::start(&state, &[]);
    let founding = process.founding();
    let founded = charter(&founding, 1);
    assert_eq!(state.remembered(), None);
    let mut admin = begin(&founding, &founded).await;
    let invite = |n| invite_record(&founded, &key(n));
    for n in 1..=3 {
        admin.append(invite(n)).await;
        assert_eq!(state.remembered(), Some(1 + u64::from(n)), "when the answer comes");
    }
    process.kill();
    process = Process::start(&state, &[]);
    let mut admin = connect_admin(&founding, &founded).await;
    assert_eq!(state.remembered(), Some(4));
    admin.append(invite(4)).await;
    assert_eq!(state.remembered(), Some(5));

    process.kill();
    state.forget_entries(2);
    process = Process::start(&state, &[]);
    let admin = connect_admin(&founding, &founded).await;
    assert_eq!(
        (admin.welcome.head.length, state.remembered()),
        (3, Some(5)),
        "the disk was set back, and memory was not"
    );

    process.kill();
    state.reboot();
    let _process = Process::start(&state, &[]);
    let mut admin = connect_admin(&founding, &founded).await;
    assert_eq!((admin.welcome.head.length, state.remembered()), (3, None), "nothing is known of the disk");
    admin.append(invite(5)).await;
    assert_eq!(state.remembered(), Some(4), "the pause is over");
}

#[test]
fn database_of_a_newer_version_is_refused_in_words() {
    let state = StateFolder::new();
    let mut process = Process::start(&state, &[]);
    process.founding();
    process.terminate();
    state.set_database_version(9);
    let (code, text) = Process::fail(&state, &[]);
    assert_eq!(code, Some(1));
    assert!(text.contains("signal.db") && text.contains("version 9") && text.contains("newer ginnel-signal"), "{text}");
}

#[tokio::test]
async fn silent_clients_are_dropped() {
    let state = StateFolder::new();
    let process = Process::start(&state, &[]);
    let founding = process.founding();
    let lasted = link::silent(founding.server()).await;
    assert!(lasted < Duration::from_secs(8), "{lasted:?}");
    assert!(lasted > Duration::from_secs(4), "{lasted:?}");
}

#[test]
fn second_server_on_one_folder_says_so() {
    let state = StateFolder::new();
    let process = Process::start(&state, &[]);
    process.founding();
    let (code, text) = Process::fail(&state, &[]);
    assert_eq!(code, Some(1));
    assert!(text.contains("another ginnel-signal runs on"), "{text}");
}

#[test]
fn taken_port_unwritable_folder_and_wrong_options_say_so() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let state = StateFolder::new();
    let (code, text) = Process::fail(&state, &["--listen", &address]);
    assert_eq!(code, Some(1));
    assert!(text.contains("in use") && text.contains("--listen"), "{text}");
    let (code, text) = Process::fail(&state, &["--stun", &address]);
    assert_eq!(code, Some(1));
    assert!(text.contains("in use") && text.contains("--stun"), "{text}");
    let (code, text) = Process::fail(&state, &["--state", "/proc/ginnel"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("state folder /proc/ginnel"), "{text}");
    let (code, text) = Process::fail(&state, &["--relay-ports", "9-5"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("9 is above 5"), "{text}");
}
