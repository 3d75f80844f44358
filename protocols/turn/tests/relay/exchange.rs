//! Data between clients and peers.

use std::net::SocketAddr;
use std::time::Duration;

use ginnel_turn::client::{Discard, Ended, Input, Output};
use ginnel_turn::{AddressFamily, server};

use crate::world::{World, config, relay_address, server_address};

const PEER: &str = "192.0.2.50:7000";
const SECOND: Duration = Duration::from_secs(1);

fn peer() -> SocketAddr {
    PEER.parse().unwrap()
}

fn send(peer: SocketAddr, bytes: &[u8]) -> Input {
    Input::Send { peer, bytes: bytes.to_vec() }
}

#[test]
fn bound_peer_exchanges_channel_data() {
    let mut world = World::with_allocation();
    world.input(0, Input::Bind(peer()));
    world.run(SECOND);
    assert!(world.ends[0].is_bound(peer()));
    let relayed = world.ends[0].relayed().unwrap();
    world.trace.clear();
    world.input(0, send(peer(), b"out"));
    world.run(SECOND);
    assert_eq!(world.relayed, [(relayed, peer(), b"out".to_vec())]);
    world.peer_sends(peer(), relayed, b"in").unwrap();
    world.run(SECOND);
    assert_eq!(world.ends[0].data(), [(peer(), b"in".to_vec())]);
    assert!(world.trace.iter().all(|datagram| matches!(datagram[0], 0x40..=0x4F)), "both went as ChannelData");
}

#[test]
fn permitted_peer_exchanges_indications() {
    let mut world = World::with_allocation();
    world.input(0, Input::Permit(peer().ip()));
    world.run(SECOND);
    assert!(world.ends[0].has(|output| *output == Output::Permitted(peer().ip())));
    let relayed = world.ends[0].relayed().unwrap();
    world.input(0, send(peer(), b"out"));
    world.run(SECOND);
    assert_eq!(world.relayed, [(relayed, peer(), b"out".to_vec())]);
    let other_port = SocketAddr::new(peer().ip(), 9);
    world.peer_sends(other_port, relayed, b"in").unwrap();
    world.run(SECOND);
    assert_eq!(world.ends[0].data(), [(other_port, b"in".to_vec())]);
}

#[test]
fn mapped_address_is_the_one_the_server_sees() {
    let world = World::with_allocation();
    let mapped = world.ends[0].address;
    assert!(world.ends[0].has(|output| matches!(output, Output::Allocated { mapped: seen, .. } if *seen == mapped)));
    assert_eq!(world.ends[0].client.mapped(), Some(mapped));
}

#[test]
fn strangers_reach_nobody_and_nobody_reaches_strangers() {
    let mut world = World::with_allocation();
    let relayed = world.ends[0].relayed().unwrap();
    assert_eq!(world.peer_sends(peer(), relayed, b"in"), Err(server::Discard::NotPermitted));
    assert_eq!(world.try_input(0, send(peer(), b"out")), Err(Discard::NotPermitted));
    world.run(SECOND);
    assert!(world.relayed.is_empty() && world.ends[0].data().is_empty());
}

#[test]
fn peers_asked_for_before_the_allocation_are_bound_after_it() {
    let mut world = World::new(config());
    world.add("alice", AddressFamily::Ipv4);
    assert_eq!(world.try_input(0, Input::Bind(peer())), Err(Discard::NotAllocated));
    world.input(0, Input::Allocate);
    world.input(0, Input::Bind(peer()));
    world.input(0, Input::Permit("192.0.2.60".parse().unwrap()));
    world.run(SECOND);
    assert!(world.ends[0].is_bound(peer()));
    assert!(world.ends[0].has(|output| *output == Output::Permitted("192.0.2.60".parse().unwrap())));
}

#[test]
fn ipv6_allocation_reaches_ipv6_peers_only() {
    let mut world = World::new(config());
    world.add("alice", AddressFamily::Ipv6);
    world.input(0, Input::Allocate);
    world.run(SECOND);
    let relayed = world.ends[0].relayed().unwrap();
    assert_eq!(relayed.ip(), relay_address(AddressFamily::Ipv6));
    assert_eq!(world.try_input(0, Input::Bind(peer())), Err(Discard::WrongFamily));
    let far: SocketAddr = "[2001:db8:99::1]:5".parse().unwrap();
    world.input(0, Input::Bind(far));
    world.run(SECOND);
    world.input(0, send(far, b"six"));
    world.run(SECOND);
    assert_eq!(world.relayed, [(relayed, far, b"six".to_vec())]);
}

/// Two clients with an allocation each on one server.
fn pair() -> (World, SocketAddr, SocketAddr) {
    let mut world = World::with_allocation();
    world.add("bob", AddressFamily::Ipv4);
    world.input(1, Input::Allocate);
    world.run(SECOND);
    let (alice, bob) = (world.ends[0].relayed().unwrap(), world.ends[1].relayed().unwrap());
    assert_ne!(alice, bob);
    (world, alice, bob)
}

#[test]
fn two_clients_of_one_server_exchange_data_inside_it() {
    let (mut world, alice, bob) = pair();
    world.input(0, Input::Bind(bob));
    world.input(1, Input::Bind(alice));
    world.run(SECOND);
    world.input(0, send(bob, b"to bob"));
    world.input(1, send(alice, b"to alice"));
    world.run(SECOND);
    assert_eq!(world.ends[1].data(), [(alice, b"to bob".to_vec())]);
    assert_eq!(world.ends[0].data(), [(bob, b"to alice".to_vec())]);
    assert!(world.relayed.is_empty(), "nothing left the server");
}

#[test]
fn delivery_inside_the_server_needs_both_permissions() {
    let (mut world, alice, bob) = pair();
    world.input(0, Input::Bind(bob));
    world.run(SECOND);
    world.input(0, send(bob, b"unwanted"));
    world.run(SECOND);
    assert!(world.ends[1].data().is_empty());
    assert_eq!(world.server_discards, [server::Discard::NotPermitted]);
    world.input(1, Input::Permit(alice.ip()));
    world.run(SECOND);
    world.input(0, send(bob, b"wanted"));
    world.run(SECOND);
    assert_eq!(world.ends[1].data(), [(alice, b"wanted".to_vec())]);
}

#[test]
fn relay_address_without_an_allocation_is_a_dead_end() {
    let (mut world, alice, _) = pair();
    for port in [22, 3478, 50_000] {
        let dead = SocketAddr::new(alice.ip(), port);
        if world.ports.values().any(|live| *live == dead) {
            continue;
        }
        world.server_discards.clear();
        world.input(0, Input::Bind(dead));
        world.run(SECOND);
        world.input(0, send(dead, b"hello"));
        world.run(SECOND);
        assert_eq!(world.server_discards, [server::Discard::NoSuchPeer]);
    }
    assert!(world.relayed.is_empty());
}

#[test]
fn nobody_reaches_the_server_itself_through_the_server() {
    let mut world = World::with_allocation();
    world.input(0, Input::Bind(server_address()));
    world.run(SECOND);
    world.input(0, send(server_address(), b"in circles"));
    world.run(SECOND);
    assert_eq!(world.server_discards, [server::Discard::NoSuchPeer]);
    assert!(world.relayed.is_empty());
}

#[test]
fn datagrams_that_claim_to_come_from_a_relay_address_are_dropped() {
    let (mut world, alice, bob) = pair();
    world.input(0, Input::Bind(bob));
    world.run(SECOND);
    assert_eq!(world.peer_sends(bob, alice, b"forged"), Err(server::Discard::Forbidden));
}

#[test]
fn closed_allocation_is_no_longer_reachable_from_its_neighbour() {
    let (mut world, alice, bob) = pair();
    world.input(0, Input::Bind(bob));
    world.input(1, Input::Bind(alice));
    world.run(SECOND);
    world.input(1, Input::Close);
    world.run(SECOND);
    world.input(0, send(bob, b"late"));
    world.run(SECOND);
    assert_eq!(world.server_discards, [server::Discard::NoSuchPeer]);
}

#[test]
fn policy_forbids_internal_peers_in_every_disguise() {
    let mut world = World::with_allocation();
    for address in ["10.0.0.1:80", "192.168.1.1:53", "127.0.0.1:22", "0.0.0.0:80"] {
        let peer: SocketAddr = address.parse().unwrap();
        world.input(0, Input::Bind(peer));
        world.input(0, Input::Permit(peer.ip()));
        world.run(SECOND);
        let forbidden = |output: &Output| match output {
            Output::Unbound { peer: gone, reason, .. } => *gone == peer && *reason == Ended::Forbidden,
            _ => false,
        };
        assert!(world.ends[0].has(forbidden), "{address}");
        let denied = Output::Unpermitted { address: peer.ip(), reason: Ended::Forbidden };
        assert!(world.ends[0].has(|output| *output == denied), "{address}");
    }
    let mut world = World::new(config());
    world.add("alice", AddressFamily::Ipv6);
    world.input(0, Input::Allocate);
    world.run(SECOND);
    for address in ["[::ffff:10.0.0.1]:80", "[::ffff:192.0.2.1]:80", "[::1]:22", "[::]:80"] {
        let peer: SocketAddr = address.parse().unwrap();
        world.input(0, Input::Bind(peer));
        world.run(SECOND);
        assert!(!world.ends[0].is_bound(peer), "{address}");
    }
}

#[test]
fn policy_that_changes_its_mind_stops_data_that_was_permitted() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let open = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&open);
    let config = server::Config { policy: Box::new(move |_| asked.load(Ordering::Relaxed)), ..config() };
    let mut world = World::new(config);
    world.add("alice", AddressFamily::Ipv4);
    world.input(0, Input::Allocate);
    world.input(0, Input::Bind(peer()));
    world.run(SECOND);
    let relayed = world.ends[0].relayed().unwrap();
    world.peer_sends(peer(), relayed, b"in").unwrap();
    open.store(false, Ordering::Relaxed);
    assert_eq!(world.peer_sends(peer(), relayed, b"in"), Err(server::Discard::Forbidden));
    world.input(0, send(peer(), b"out"));
    world.run(SECOND);
    assert_eq!(world.server_discards, [server::Discard::Forbidden]);
    assert!(world.relayed.is_empty());
}
