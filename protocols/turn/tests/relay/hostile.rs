//! Strangers, forgers and noise.

use std::net::SocketAddr;
use std::time::Duration;

use ginnel_stun::codec::{AddressFamily, Builder, Class, Key, Message, Method, TransactionId};
use ginnel_turn::client::{self, Client, Discard, Failure, Input, Output};
use ginnel_turn::server;
use proptest::prelude::*;

use crate::world::{REALM, World, config, credentials, server_address};

const SECOND: Duration = Duration::from_secs(1);

fn peer() -> SocketAddr {
    "192.0.2.50:7000".parse().unwrap()
}

/// A client that has asked for an allocation, and what it sent.
fn asking() -> (Client, Vec<u8>) {
    let config =
        client::Config { server: server_address(), credentials: credentials("alice"), family: AddressFamily::Ipv4 };
    let mut client = Client::new([5; 32], config);
    client.handle_input(Default::default(), Input::Allocate).unwrap();
    let request = sent(&mut client);
    (client, request)
}

fn sent(client: &mut Client) -> Vec<u8> {
    match client.poll_output() {
        Some(Output::Send(bytes)) => bytes,
        other => panic!("a request, not {other:?}"),
    }
}

fn receive(client: &mut Client, bytes: Vec<u8>) -> Result<(), Discard> {
    client.handle_input(Default::default(), Input::Received(bytes))
}

fn challenge(request: &[u8], code: u16) -> Vec<u8> {
    let request = Message::decode(request).unwrap();
    let answer = Builder::new(Class::Error, request.method(), request.transaction());
    answer.error(code).realm(REALM).nonce("abc").encode().unwrap()
}

fn success(request: &[u8]) -> Builder {
    let request = Message::decode(request).unwrap();
    Builder::new(Class::Success, request.method(), request.transaction())
        .xor_relayed_address("203.0.113.2:50000".parse().unwrap())
        .xor_mapped_address("198.51.100.1:40000".parse().unwrap())
        .lifetime(600)
}

fn key() -> Key {
    let credentials = credentials("alice");
    Key::long_term(&credentials.username, REALM, &credentials.password).unwrap()
}

#[test]
fn first_request_is_never_smaller_than_its_answer() {
    let (_, request) = asking();
    assert!(request.len() >= 128);
    let mut world = World::new(config());
    let (_, answers) = world.raw(peer(), &request);
    assert!(answers[0].len() <= 128, "{}", answers[0].len());
}

#[test]
fn longest_realm_still_gives_a_small_challenge() {
    let realm = "r".repeat(server::MAX_REALM_LEN);
    let mut world = World::new(server::Config { realm, ..config() });
    let (_, answers) = world.raw("[2001:db8::1]:65535".parse().unwrap(), &asking().1);
    assert!(answers[0].len() <= 128, "{}", answers[0].len());
}

#[test]
fn answers_that_the_server_did_not_sign_are_discarded() {
    let (mut client, request) = asking();
    assert_eq!(receive(&mut client, success(&request).encode().unwrap()), Err(Discard::Unauthenticated));
    receive(&mut client, challenge(&request, 401)).unwrap();
    let signed = sent(&mut client);
    assert_eq!(receive(&mut client, success(&signed).encode().unwrap()), Err(Discard::Unauthenticated));
    let wrong = Key::long_term("mallory", REALM, "guess").unwrap();
    assert_eq!(receive(&mut client, success(&signed).encode_signed(&wrong).unwrap()), Err(Discard::Unauthenticated));
    let answered = Message::decode(&signed).unwrap();
    let refusal = Builder::new(Class::Error, Method::Allocate, answered.transaction()).error(486);
    assert_eq!(receive(&mut client, refusal.encode().unwrap()), Err(Discard::Unauthenticated));
    receive(&mut client, success(&signed).encode_signed(&key()).unwrap()).unwrap();
    assert!(matches!(client.poll_output(), Some(Output::Allocated { .. })));
}

#[test]
fn answers_to_other_questions_are_discarded() {
    let (mut client, request) = asking();
    let mut other = challenge(&request, 401);
    other[10] ^= 1;
    assert_eq!(receive(&mut client, other), Err(Discard::UnknownTransaction));
    let id = Message::decode(&request).unwrap().transaction();
    let refresh = Builder::new(Class::Error, Method::Refresh, id).error(401).realm(REALM).nonce("n").encode().unwrap();
    assert_eq!(receive(&mut client, refresh), Err(Discard::UnknownTransaction));
    assert_eq!(receive(&mut client, request), Err(Discard::Unexpected));
    let early = Builder::new(Class::Indication, Method::Data, TransactionId([0; 12]))
        .xor_peer_address(peer())
        .data(b"early")
        .encode()
        .unwrap();
    assert_eq!(receive(&mut client, early), Err(Discard::NotPermitted));
    assert_eq!(receive(&mut client, vec![0x40, 0, 0, 1, 7]), Err(Discard::UnknownChannel));
}

#[test]
fn nonce_that_is_always_stale_ends_in_a_failure() {
    let (mut client, mut request) = asking();
    receive(&mut client, challenge(&request, 401)).unwrap();
    for _ in 0..10 {
        match client.poll_output() {
            Some(Output::Send(next)) => request = next,
            Some(Output::Failed { reason }) => return assert_eq!(reason, Failure::Unauthorized),
            other => panic!("a request or a failure, not {other:?}"),
        }
        receive(&mut client, challenge(&request, 438)).unwrap();
    }
    panic!("the client asks for ever");
}

#[test]
fn redirection_is_reported_with_the_other_server() {
    let (mut client, request) = asking();
    let other: SocketAddr = "203.0.113.77:3478".parse().unwrap();
    let id = Message::decode(&request).unwrap().transaction();
    let answer = Builder::new(Class::Error, Method::Allocate, id).error(300).alternate_server(other);
    receive(&mut client, answer.encode().unwrap()).unwrap();
    assert_eq!(client.poll_output(), Some(Output::Failed { reason: Failure::Redirect(other) }));
}

#[test]
fn signed_answer_without_addresses_is_a_failure_not_a_wait() {
    let (mut client, request) = asking();
    receive(&mut client, challenge(&request, 401)).unwrap();
    let signed = sent(&mut client);
    let id = Message::decode(&signed).unwrap().transaction();
    let empty = Builder::new(Class::Success, Method::Allocate, id).lifetime(600).encode_signed(&key()).unwrap();
    receive(&mut client, empty).unwrap();
    assert_eq!(client.poll_output(), Some(Output::Failed { reason: Failure::Malformed }));
}

#[test]
fn driver_that_never_drains_costs_bounded_memory() {
    let mut world = World::with_allocation();
    world.input(0, Input::Bind(peer()));
    world.run(SECOND);
    let now = world.now;
    let end = &mut world.ends[0];
    let send = || Input::Send { peer: peer(), bytes: vec![0; 100] };
    let accepted = (0..10_000).filter(|_| end.client.handle_input(now, send()).is_ok()).count();
    assert_eq!(accepted, client::MAX_OUTPUTS);
    assert_eq!(end.client.handle_input(now, send()), Err(Discard::QueueFull));
}

#[test]
fn unauthenticated_requests_of_every_kind_get_small_answers_and_leave_nothing() {
    let mut world = World::new(config());
    for method in [Method::Allocate, Method::Refresh, Method::CreatePermission, Method::ChannelBind, Method::Binding] {
        for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
            world.run(SECOND);
            let id = TransactionId([3; 12]);
            let bytes = Builder::new(class, method, id).requested_transport_udp().encode().unwrap();
            let (_, answers) = world.raw("[2001:db8::1]:9".parse().unwrap(), &bytes);
            let limit = if method == Method::Binding { 92 } else { 128 };
            assert!(answers.iter().all(|answer| answer.len() <= limit));
            assert!(answers.len() <= usize::from(class == Class::Request));
        }
    }
    assert_eq!(world.server.allocations(), 0);
    assert_eq!(world.server.poll_timeout(), None);
}

#[test]
fn one_network_gets_few_unauthenticated_answers_and_the_next_is_served() {
    let mut world = World::new(config());
    let request = asking().1;
    let binding = Builder::new(Class::Request, Method::Binding, TransactionId([3; 12])).encode().unwrap();
    let mut answered = 0;
    for n in 0..1000_u16 {
        let from = SocketAddr::from(([192, 0, 2, (n % 250) as u8], 1000 + n));
        let bytes = if n.is_multiple_of(2) { &request } else { &binding };
        let (result, answers) = world.raw(from, bytes);
        answered += answers.len();
        assert_eq!(result.is_err(), answers.is_empty());
    }
    assert_eq!(answered, 40);
    assert_eq!(world.raw("192.0.3.1:1".parse().unwrap(), &request).1.len(), 1);
    world.run(SECOND);
    assert_eq!(world.raw("192.0.2.1:1".parse().unwrap(), &request).1.len(), 1);
}

#[test]
fn flood_from_its_own_network_does_not_keep_a_client_from_a_fresh_nonce() {
    let mut world = World::new(server::Config { nonce_lifetime: Duration::from_secs(60), ..config() });
    world.add("alice", AddressFamily::Ipv4);
    world.input(0, Input::Allocate);
    world.run(SECOND);
    let request = asking().1;
    for _ in 0..600 {
        for port in 1..60 {
            let _ = world.raw(SocketAddr::from(([198, 51, 100, 99], port)), &request);
        }
        world.run(SECOND);
    }
    assert_eq!(world.server.allocations(), 1);
    assert_eq!(world.ends[0].seen.len(), 1, "{:?}", world.ends[0].seen);
}

#[test]
fn every_truncation_of_every_message_is_harmless() {
    let mut world = busy_world();
    let trace = std::mem::take(&mut world.trace);
    let mut shapes: Vec<Vec<u8>> = Vec::new();
    for datagram in trace {
        if !shapes.iter().any(|known| known.len() == datagram.len() && known[..2] == datagram[..2]) {
            shapes.push(datagram);
        }
    }
    assert!(shapes.len() >= 10, "requests, answers, errors, indications and ChannelData: {}", shapes.len());
    let (now, allocations) = (world.now, world.server.allocations());
    for datagram in &shapes {
        for length in 0..datagram.len() {
            let cut = datagram[..length].to_vec();
            assert!(world.raw(world.ends[0].address, &cut).1.is_empty());
            let _ = world.ends[0].client.handle_input(now, Input::Received(cut));
        }
    }
    assert_eq!(world.server.allocations(), allocations);
    world.run(SECOND);
    assert_eq!(world.ends[0].client.mapped(), Some(world.ends[0].address), "the allocation is still there");
}

/// A world in which every kind of message has been seen.
fn busy_world() -> World {
    let mut world = World::with_allocation();
    world.input(0, Input::Bind(peer()));
    world.input(0, Input::Bind("10.0.0.1:1".parse().unwrap()));
    world.input(0, Input::Permit("192.0.2.60".parse().unwrap()));
    world.run(SECOND);
    let other: SocketAddr = "192.0.2.60:1".parse().unwrap();
    for to in [peer(), other] {
        world.input(0, Input::Send { peer: to, bytes: b"out".to_vec() });
        world.peer_sends(to, world.ends[0].relayed().unwrap(), b"in").unwrap();
    }
    world.run(Duration::from_secs(30));
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn noise_and_mutations_panic_nothing_and_change_no_allocation(
        noise in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..=255_u8), 1..60),
    ) {
        let mut world = busy_world();
        let trace = world.trace.clone();
        let (now, from) = (world.now, world.ends[0].address);
        let mutated = flips.iter().map(|(which, at, mask)| {
            let mut datagram = which.get(&trace).clone();
            let position = at.index(datagram.len());
            datagram[position] ^= mask;
            datagram
        });
        for datagram in noise.into_iter().chain(mutated) {
            let _ = world.raw(from, &datagram);
            let _ = world.raw(peer(), &datagram);
            let _ = world.ends[0].client.handle_input(now, Input::Received(datagram));
        }
        world.run(Duration::from_secs(60));
        prop_assert_eq!(world.server.allocations(), 1);
        prop_assert_eq!(world.ends[0].client.mapped(), Some(from));
    }

    #[test]
    fn random_wishes_and_losses_never_panic_or_spin(
        wishes in proptest::collection::vec((0..9_u8, 0..6_u16, 0..40_000_u64), 1..60),
        seed in any::<u32>(),
    ) {
        let mut world = World::new(config());
        world.add("alice", AddressFamily::Ipv4);
        let mut state = seed | 1;
        world.lost = Box::new(move |_, _| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.is_multiple_of(5)
        });
        for (wish, peer, millis) in wishes {
            let peer = SocketAddr::from(([192, 0, 2, 50], 100 + peer));
            let input = match wish {
                0 | 1 => Input::Allocate,
                2 => Input::Bind(peer),
                3 => Input::Unbind(peer),
                4 => Input::Permit(peer.ip()),
                5 => Input::Unpermit(peer.ip()),
                6 => Input::Send { peer, bytes: vec![1; 50] },
                7 => Input::Credentials(credentials(if millis % 2 == 0 { "alice" } else { "bob" })),
                _ => Input::Close,
            };
            let _ = world.try_input(0, input);
            world.run(Duration::from_millis(millis));
        }
        world.run(Duration::from_secs(7200));
        prop_assert!(world.server.allocations() <= 1);
    }
}
