//! Quotas, bounds and refusals.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use ginnel_stun::codec::{
    AddressFamily, Builder, Class, Key, Message, Method, TransactionId, attribute, decode_authenticated, sign,
};
use ginnel_turn::client::{Ended, Failure, Input, MAX_PEERS, Output};
use ginnel_turn::server::{self, Quotas};
use ginnel_turn::{ChannelNumber, Credentials};

use crate::world::{REALM, World, config, credentials, relay_address};

const SECOND: Duration = Duration::from_secs(1);

fn failed(world: &World, index: usize, reason: Failure) -> bool {
    world.ends[index].has(|output| *output == Output::Failed { reason })
}

#[test]
fn quotas_of_a_user_and_of_the_server_are_told_apart() {
    let quotas = Quotas { total: 3, per_user: 2, ..Quotas::default() };
    let mut world = World::new(server::Config { quotas, ..config() });
    for name in ["alice", "alice", "alice", "bob", "carol"] {
        let index = world.add(name, AddressFamily::Ipv4);
        world.input(index, Input::Allocate);
        world.run(SECOND);
    }
    assert!(failed(&world, 2, Failure::QuotaReached));
    assert!(world.ends[3].relayed().is_some());
    assert!(failed(&world, 4, Failure::InsufficientCapacity));
    world.input(0, Input::Close);
    world.run(SECOND);
    world.input(2, Input::Allocate);
    world.run(SECOND);
    assert!(world.ends[2].relayed().is_some(), "a place that was given back serves again");
}

#[test]
fn ports_run_out_and_come_back() {
    let mut world = World::new(server::Config { ports: 50_000..=50_001, ..config() });
    for name in ["a", "b", "c"] {
        let index = world.add(name, AddressFamily::Ipv4);
        world.input(index, Input::Allocate);
        world.run(SECOND);
    }
    assert!(failed(&world, 2, Failure::InsufficientCapacity));
    world.input(1, Input::Close);
    world.run(SECOND);
    world.input(2, Input::Allocate);
    world.run(SECOND);
    assert!(world.ends[2].relayed().is_some());
}

#[test]
fn occupied_ports_are_passed_over_and_a_full_range_refused() {
    let mut world = World::new(server::Config { ports: 50_000..=50_003, ..config() });
    world.occupied = [50_000, 50_001].into();
    world.add("alice", AddressFamily::Ipv4);
    world.input(0, Input::Allocate);
    world.run(SECOND);
    // With half the range taken, eight tries find a free port all but once in 2^8 times; this seed is not that one.
    assert!(world.ends[0].relayed().is_some());
    world.occupied = (50_000..=50_003).collect();
    world.add("bob", AddressFamily::Ipv4);
    world.input(1, Input::Allocate);
    world.run(SECOND);
    assert!(failed(&world, 1, Failure::InsufficientCapacity));
    assert_eq!(world.server.allocations(), 1);
}

#[test]
fn family_that_is_not_served_is_refused_as_such() {
    let addresses = vec![relay_address(AddressFamily::Ipv4)];
    let mut world = World::new(server::Config { relay_addresses: addresses, ..config() });
    world.add("alice", AddressFamily::Ipv6);
    world.input(0, Input::Allocate);
    world.run(SECOND);
    assert!(failed(&world, 0, Failure::FamilyNotSupported), "{:?}", world.ends[0].seen);
}

#[test]
fn one_peer_too_many_takes_the_place_of_the_one_longest_unused() {
    let mut world = World::with_allocation();
    let peer = |n: usize| SocketAddr::from(([192, 0, 2, 50], u16::try_from(1000 + n).unwrap()));
    for n in 0..MAX_PEERS {
        world.input(0, Input::Bind(peer(n)));
        world.run(SECOND / 100);
    }
    world.run(SECOND);
    world.input(0, Input::Bind(peer(0)));
    world.ends[0].seen.clear();
    world.input(0, Input::Bind(peer(MAX_PEERS)));
    world.run(SECOND);
    let gone: Vec<_> = world.ends[0].seen.iter().filter(|output| matches!(output, Output::Unbound { .. })).collect();
    assert!(matches!(gone[..], [Output::Unbound { peer: out, reason: Ended::Evicted, .. }] if *out == peer(1)));
    assert!(world.ends[0].is_bound(peer(MAX_PEERS)));
}

#[test]
fn channel_number_is_never_given_to_another_peer_while_it_rests() {
    let mut world = World::with_allocation();
    let peer = |n: u16| SocketAddr::from(([192, 0, 2, 50], 1000 + n));
    let mut numbers = BTreeSet::new();
    let mut last = None;
    for n in 0..300 {
        world.input(0, Input::Bind(peer(n)));
        world.run(SECOND / 20);
        let bound = |output: &Output| match output {
            Output::Bound { peer: bound, channel } if *bound == peer(n) => Some(*channel),
            _ => None,
        };
        let channel: ChannelNumber = world.ends[0].seen.iter().find_map(bound).expect("bound");
        assert!(numbers.insert(channel), "{channel:?} was given twice within a minute");
        world.input(0, Input::Unbind(peer(n)));
        last = Some(channel);
    }
    world.ends[0].seen.clear();
    world.input(0, Input::Bind(peer(299)));
    world.run(SECOND);
    let again = Output::Bound { peer: peer(299), channel: last.unwrap() };
    assert!(
        world.ends[0].has(|output| *output == again),
        "the same peer gets its number back: {:?}",
        world.ends[0].seen
    );
}

/// A client that writes its own requests.
struct Raw {
    world: World,
    from: SocketAddr,
    credentials: Credentials,
    nonce: String,
    next: u8,
}

impl Raw {
    fn new(config: server::Config) -> Self {
        Self::in_world(World::new(config), "198.51.100.200:1234".parse().unwrap(), "alice")
    }

    fn in_world(mut world: World, from: SocketAddr, name: &str) -> Self {
        let request = Builder::new(Class::Request, Method::Refresh, TransactionId([0xEE; 12])).encode().unwrap();
        let answers = world.raw(from, &request).1;
        let challenge = Message::decode(&answers[0]).unwrap();
        assert_eq!((challenge.error().unwrap().0, challenge.realm()), (401, Some(REALM)));
        Self { world, from, credentials: credentials(name), nonce: challenge.nonce().unwrap().to_owned(), next: 0 }
    }

    fn key(&self) -> Key {
        Key::long_term(&self.credentials.username, REALM, &self.credentials.password).unwrap()
    }

    fn sign(&self, request: Builder) -> Vec<u8> {
        let request = request.username(&self.credentials.username).realm(REALM).nonce(&self.nonce);
        request.encode_signed(&self.key()).unwrap()
    }

    fn start(&mut self, method: Method) -> Builder {
        self.next += 1;
        Builder::new(Class::Request, method, TransactionId([self.next; 12]))
    }

    fn send(&mut self, bytes: &[u8]) -> Vec<Message> {
        let key = self.key();
        let (result, answers) = self.world.raw(self.from, bytes);
        result.unwrap();
        answers.iter().map(|answer| decode_authenticated(answer, &key).expect("answers are signed")).collect()
    }

    /// Sends a request and gives the code of its answer; 0 is success.
    fn code(&mut self, request: Builder) -> u16 {
        let bytes = self.sign(request);
        match &self.send(&bytes)[..] {
            [answer] => answer.error().map_or(0, |(code, _)| code),
            other => panic!("one answer, not {other:?}"),
        }
    }

    fn allocate(&mut self) -> u16 {
        let request = self.start(Method::Allocate).requested_transport_udp();
        self.code(request)
    }
}

#[test]
fn allocate_is_refused_for_what_it_asks() {
    let mut raw = Raw::new(config());
    let bare = raw.start(Method::Allocate);
    assert_eq!(raw.code(bare), 400);
    let even = raw.start(Method::Allocate).requested_transport_udp().even_port_with_reservation();
    assert_eq!(raw.code(even), 508);
    let token = raw.start(Method::Allocate).requested_transport_udp().reservation_token([1; 8]);
    assert_eq!(raw.code(token), 508);
    let both = raw.start(Method::Allocate).requested_transport_udp().even_port().reservation_token([1; 8]);
    assert_eq!(raw.code(both), 400);
    let whole = raw.start(Method::Allocate).requested_transport_udp().dont_fragment();
    let bytes = raw.sign(whole);
    let answer = raw.send(&bytes).remove(0);
    assert_eq!(answer.error().map(|(code, _)| code), Some(420));
    assert_eq!(answer.unknown_attributes(), Some(&[attribute::DONT_FRAGMENT][..]));
    let tcp = raw.start(Method::Allocate).requested_transport_udp();
    assert_eq!(raw.world.server.allocations(), 0);
    let tcp = tcp.username(&raw.credentials.username).realm(REALM).nonce(&raw.nonce);
    let mut bytes = tcp.encode().unwrap();
    assert_eq!(bytes[20..25], [0x00, 0x19, 0x00, 0x04, 17]);
    bytes[24] = 6;
    let signed = sign(bytes, &raw.key()).unwrap();
    assert_eq!(raw.send(&signed)[0].error().map(|(code, _)| code), Some(442));
    assert_eq!(raw.world.server.allocations(), 0);
    assert_eq!(raw.allocate(), 0);
}

#[test]
fn even_ports_are_given_when_asked_for() {
    for n in 0..20 {
        let mut raw = Raw::in_world(World::new(config()), SocketAddr::from(([198, 51, 100, 200], 1000 + n)), "alice");
        raw.world.occupied = (50_000..50_900).collect();
        let request = raw.start(Method::Allocate).requested_transport_udp().even_port();
        let bytes = raw.sign(request);
        let answers = raw.send(&bytes);
        let relayed = answers[0].xor_relayed_address();
        assert!(relayed.is_none_or(|relayed| relayed.port().is_multiple_of(2)), "{relayed:?}");
    }
    let mut raw = Raw::new(server::Config { ports: 50_001..=50_002, ..config() });
    let request = raw.start(Method::Allocate).requested_transport_udp().even_port();
    let bytes = raw.sign(request);
    assert_eq!(raw.send(&bytes)[0].xor_relayed_address().map(|relayed| relayed.port()), Some(50_002));
}

#[test]
fn repeated_allocate_gets_the_same_answer_and_no_second_port() {
    let mut raw = Raw::new(config());
    let request = raw.start(Method::Allocate).requested_transport_udp().lifetime(1);
    let bytes = raw.sign(request);
    let first = raw.world.raw(raw.from, &bytes).1;
    let second = raw.world.raw(raw.from, &bytes).1;
    assert_eq!((first.len(), &first), (1, &second));
    assert_eq!(Message::decode(&first[0]).unwrap().lifetime(), Some(600));
    assert_eq!(raw.world.server.allocations(), 1);
    assert_eq!(raw.allocate(), 437, "another request for the same address");
}

#[test]
fn lifetimes_are_granted_between_ten_minutes_and_an_hour() {
    for (asked, granted) in [(Some(1), 600), (None, 600), (Some(900), 900), (Some(u32::MAX), 3600)] {
        let mut raw = Raw::new(config());
        let mut request = raw.start(Method::Allocate).requested_transport_udp();
        if let Some(asked) = asked {
            request = request.lifetime(asked);
        }
        let bytes = raw.sign(request);
        assert_eq!(raw.send(&bytes)[0].lifetime(), Some(granted));
    }
}

#[test]
fn requests_without_an_allocation_are_a_mismatch() {
    let mut raw = Raw::new(config());
    let peer = "192.0.2.50:1".parse().unwrap();
    let requests = [
        raw.start(Method::Refresh),
        raw.start(Method::CreatePermission).xor_peer_address(peer),
        raw.start(Method::ChannelBind).xor_peer_address(peer).channel_number(0x4000),
    ];
    for request in requests {
        assert_eq!(raw.code(request), 437);
    }
}

#[test]
fn another_user_on_the_same_address_has_the_wrong_credentials() {
    let mut raw = Raw::new(config());
    assert_eq!(raw.allocate(), 0);
    let mut raw = Raw::in_world(raw.world, raw.from, "mallory");
    raw.next = 100;
    let refresh = raw.start(Method::Refresh).lifetime(0);
    assert_eq!(raw.code(refresh), 441);
    assert_eq!(raw.world.server.allocations(), 1);
}

#[test]
fn several_peers_are_permitted_at_once_or_none() {
    let mut raw = Raw::new(config());
    assert_eq!(raw.allocate(), 0);
    let relayed = *raw.world.ports.values().next().unwrap();
    let [a, b, inside]: [SocketAddr; 3] =
        ["192.0.2.1:1", "192.0.2.2:1", "10.0.0.1:1"].map(|address| address.parse().unwrap());
    let bad = raw.start(Method::CreatePermission).xor_peer_address(a).xor_peer_address(inside);
    assert_eq!(raw.code(bad), 403);
    assert_eq!(raw.world.peer_sends(a, relayed, b"x"), Err(server::Discard::NotPermitted));
    let good = raw.start(Method::CreatePermission).xor_peer_address(a).xor_peer_address(b);
    assert_eq!(raw.code(good), 0);
    assert_eq!(raw.world.peer_sends(a, relayed, b"x"), Ok(()));
    assert_eq!(raw.world.peer_sends(b, relayed, b"x"), Ok(()));
    let six = raw.start(Method::CreatePermission).xor_peer_address("[2001:db8::1]:1".parse().unwrap());
    assert_eq!(raw.code(six), 443);
    let none = raw.start(Method::CreatePermission);
    assert_eq!(raw.code(none), 400);
}

#[test]
fn channels_are_bound_to_one_peer_and_peers_to_one_channel() {
    let mut raw = Raw::new(config());
    assert_eq!(raw.allocate(), 0);
    let [a, b]: [SocketAddr; 2] = ["192.0.2.1:1", "192.0.2.2:1"].map(|address| address.parse().unwrap());
    let cases = [
        (Some(0x4000), Some(a), 0),
        (Some(0x4000), Some(a), 0),
        (Some(0x4000), Some(b), 400),
        (Some(0x4001), Some(a), 400),
        (Some(0x3FFF), Some(b), 400),
        (Some(0x5000), Some(b), 400),
        (None, Some(b), 400),
        (Some(0x4001), None, 400),
        (Some(0x4001), Some("10.0.0.1:1".parse().unwrap()), 403),
        (Some(0x4001), Some("192.0.2.1:0".parse().unwrap()), 400),
        (Some(0x4FFF), Some(b), 0),
    ];
    for (channel, peer, expected) in cases {
        let mut request = raw.start(Method::ChannelBind);
        if let Some(channel) = channel {
            request = request.channel_number(channel);
        }
        if let Some(peer) = peer {
            request = request.xor_peer_address(peer);
        }
        assert_eq!(raw.code(request), expected, "{channel:?} {peer:?}");
    }
    raw.world.run(Duration::from_secs(590));
    let refresh = raw.start(Method::Refresh).lifetime(3600);
    assert_eq!(raw.code(refresh), 0);
    raw.world.run(Duration::from_secs(20));
    let moved = raw.start(Method::ChannelBind).channel_number(0x4000).xor_peer_address(b);
    assert_eq!(raw.code(moved), 0, "an expired channel may serve another peer");
}

#[test]
fn permissions_and_channels_of_an_allocation_are_bounded() {
    let quotas = Quotas { permissions: 4, channels: 2, ..Quotas::default() };
    let mut raw = Raw::new(server::Config { quotas, ..config() });
    assert_eq!(raw.allocate(), 0);
    let peer = |n: u8| SocketAddr::from(([192, 0, 2, n], 9));
    let bind = |raw: &mut Raw, n: u8| {
        let request = raw.start(Method::ChannelBind).channel_number(0x4000 + u16::from(n)).xor_peer_address(peer(n));
        raw.code(request)
    };
    let permit = |raw: &mut Raw, n: u8| {
        let request = raw.start(Method::CreatePermission).xor_peer_address(peer(n));
        raw.code(request)
    };
    assert_eq!([bind(&mut raw, 1), bind(&mut raw, 2), bind(&mut raw, 3)], [0, 0, 508]);
    assert_eq!([permit(&mut raw, 3), permit(&mut raw, 4), permit(&mut raw, 5), permit(&mut raw, 3)], [0, 0, 508, 0]);
    raw.world.run(Duration::from_secs(301));
    assert_eq!(permit(&mut raw, 5), 0, "what has run out makes room");
}

#[test]
fn unknown_required_attributes_of_any_request_are_named() {
    let mut raw = Raw::new(config());
    assert_eq!(raw.allocate(), 0);
    let refresh = raw.start(Method::Refresh).channel_number(0x4000);
    let bytes = raw.sign(refresh);
    let answer = raw.send(&bytes).remove(0);
    assert_eq!(answer.error().map(|(code, _)| code), Some(420));
    assert_eq!(answer.unknown_attributes(), Some(&[attribute::CHANNEL_NUMBER][..]));
}

#[test]
fn send_indications_obey_the_same_permissions_as_channels() {
    let mut raw = Raw::new(config());
    assert_eq!(raw.allocate(), 0);
    let peer: SocketAddr = "192.0.2.1:7".parse().unwrap();
    let indication = |peer| {
        Builder::new(Class::Indication, Method::Send, TransactionId([1; 12])).xor_peer_address(peer).data(b"data")
    };
    let bytes = indication(peer).encode().unwrap();
    assert_eq!(raw.world.raw(raw.from, &bytes), (Err(server::Discard::NotPermitted), vec![]));
    let permit = raw.start(Method::CreatePermission).xor_peer_address(peer);
    assert_eq!(raw.code(permit), 0);
    assert_eq!(raw.world.raw(raw.from, &bytes), (Ok(()), vec![]));
    assert_eq!(raw.world.relayed.len(), 1);
    let whole = indication(peer).dont_fragment().encode().unwrap();
    assert_eq!(raw.world.raw(raw.from, &whole), (Err(server::Discard::Incomplete), vec![]));
    let elsewhere = "198.51.100.201:1".parse().unwrap();
    assert_eq!(raw.world.raw(elsewhere, &bytes), (Err(server::Discard::NoAllocation), vec![]));
    assert_eq!(raw.world.relayed.len(), 1);
}

#[test]
fn nonce_of_another_address_is_stale() {
    let mut raw = Raw::new(config());
    let request = raw.start(Method::Allocate).requested_transport_udp();
    let bytes = raw.sign(request);
    let (_, answers) = raw.world.raw("198.51.100.201:1".parse().unwrap(), &bytes);
    let answer = Message::decode(&answers[0]).unwrap();
    assert_eq!(answer.error().map(|(code, _)| code), Some(438));
    assert!(answer.nonce().is_some() && !answer.has_integrity());
}

#[test]
fn signed_request_without_a_nonce_is_a_bad_request() {
    let mut raw = Raw::new(config());
    let key = raw.key();
    let request = raw.start(Method::Allocate).requested_transport_udp().encode_signed(&key).unwrap();
    let answer = Message::decode(&raw.world.raw(raw.from, &request).1[0]).unwrap();
    assert_eq!(answer.error().map(|(code, _)| code), Some(400));
}

#[test]
fn without_wall_time_nobody_is_let_in() {
    let mut server = server::Server::new([1; 32], config()).unwrap();
    assert_eq!(server.credentials("alice", SECOND), None);
    let mut world = World::new(config());
    std::mem::swap(&mut world.server, &mut server);
    world.add("alice", AddressFamily::Ipv4);
    world.input(0, Input::Allocate);
    world.run(SECOND);
    assert!(failed(&world, 0, Failure::Unauthorized));
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    use ginnel_turn::server::ConfigError;
    let refused = |config| server::Server::new([0; 32], config).err();
    assert_eq!(refused(server::Config { realm: String::new(), ..config() }), Some(ConfigError::Realm));
    assert_eq!(refused(server::Config { realm: "x".repeat(49), ..config() }), Some(ConfigError::Realm));
    assert_eq!(refused(server::Config { realm: "a\"b".to_owned(), ..config() }), Some(ConfigError::Realm));
    assert_eq!(refused(server::Config { secret: vec![1; 15].into(), ..config() }), Some(ConfigError::Secret));
    assert_eq!(refused(server::Config { relay_addresses: vec![], ..config() }), Some(ConfigError::RelayAddresses));
    #[expect(clippy::reversed_empty_ranges, reason = "the range that must be refused")]
    let backwards = 9..=8;
    assert_eq!(refused(server::Config { ports: backwards, ..config() }), Some(ConfigError::Ports));
    assert_eq!(refused(server::Config { ports: 0..=8, ..config() }), Some(ConfigError::Ports));
    assert_eq!(refused(server::Config { nonce_lifetime: SECOND, ..config() }), Some(ConfigError::NonceLifetime));
}
