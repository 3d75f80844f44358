//! What lasts, what ends, and what survives the loss of packets, nonces, credentials and servers.

use std::net::SocketAddr;
use std::time::Duration;

use ginnel_turn::client::{Ended, Failure, Input, Loss, Output};
use ginnel_turn::{AddressFamily, Credentials, server};

use crate::world::{SECRET, WALL, World, config, credentials, server_address};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn peer() -> SocketAddr {
    "192.0.2.50:7000".parse().unwrap()
}

fn ended(output: &Output) -> bool {
    match output {
        Output::Lost { .. } | Output::Failed { .. } | Output::Unbound { .. } | Output::Unpermitted { .. } => true,
        Output::Send(_)
        | Output::Allocated { .. }
        | Output::Bound { .. }
        | Output::Permitted(_)
        | Output::Data { .. }
        | Output::Closed => false,
    }
}

fn lost(reason: Loss) -> impl Fn(&Output) -> bool {
    move |output| *output == Output::Lost { reason }
}

fn failed(reason: Failure) -> impl Fn(&Output) -> bool {
    move |output| *output == Output::Failed { reason }
}

#[test]
fn allocation_channel_and_permission_last_for_hours() {
    let mut world = World::with_allocation();
    let other = "192.0.2.60".parse().unwrap();
    world.input(0, Input::Bind(peer()));
    world.input(0, Input::Permit(other));
    for _ in 0..180 {
        world.run(MINUTE);
        let relayed = world.ends[0].relayed().unwrap();
        world.peer_sends(peer(), relayed, b"still here").unwrap();
        world.peer_sends(SocketAddr::new(other, 1), relayed, b"here too").unwrap();
    }
    assert!(!world.ends[0].has(ended), "{:?}", world.ends[0].seen);
    assert_eq!(world.ends[0].data().len(), 2 * 180 - 2, "the last two are under way");
}

#[test]
fn permission_ends_five_minutes_after_its_last_renewal() {
    let mut world = World::with_allocation();
    world.input(0, Input::Permit(peer().ip()));
    world.run(SECOND);
    world.input(0, Input::Unpermit(peer().ip()));
    let relayed = world.ends[0].relayed().unwrap();
    world.run(Duration::from_secs(298));
    world.peer_sends(peer(), relayed, b"in time").unwrap();
    world.run(Duration::from_secs(2));
    assert_eq!(world.peer_sends(peer(), relayed, b"late"), Err(server::Discard::NotPermitted));
}

#[test]
fn channel_ends_ten_minutes_after_its_last_renewal_and_its_permission_before() {
    let mut world = World::with_allocation();
    world.input(0, Input::Bind(peer()));
    world.run(SECOND);
    world.input(0, Input::Unbind(peer()));
    assert!(world.ends[0].has(|output| matches!(output, Output::Unbound { reason: Ended::Asked, .. })));
    let relayed = world.ends[0].relayed().unwrap();
    world.run(Duration::from_secs(301));
    assert_eq!(world.peer_sends(peer(), relayed, b"late"), Err(server::Discard::NotPermitted));
    world.input(0, Input::Permit(peer().ip()));
    world.run(SECOND);
    world.trace.clear();
    world.peer_sends(peer(), relayed, b"by channel").unwrap();
    assert!(world.trace.iter().any(|datagram| datagram[0] == 0x40 || datagram[0] & 0xF0 == 0x40));
    world.run(Duration::from_secs(300));
    world.trace.clear();
    world.peer_sends(peer(), relayed, b"by indication").unwrap();
    assert!(world.trace.iter().all(|datagram| datagram[0] & 0xF0 != 0x40));
}

#[test]
fn nonces_that_expire_every_minute_disturb_nothing() {
    let mut world = World::new(server::Config { nonce_lifetime: MINUTE, ..config() });
    world.add("alice", AddressFamily::Ipv4);
    world.input(0, Input::Allocate);
    world.input(0, Input::Bind(peer()));
    world.input(0, Input::Permit("192.0.2.60".parse().unwrap()));
    world.run(120 * MINUTE);
    assert!(!world.ends[0].has(ended), "{:?}", world.ends[0].seen);
    world.peer_sends(peer(), world.ends[0].relayed().unwrap(), b"on").unwrap();
}

#[test]
fn restarted_server_is_noticed_within_half_a_minute_and_a_new_allocation_serves() {
    let mut world = World::with_allocation();
    world.input(0, Input::Bind(peer()));
    world.run(10 * SECOND);
    world.restart_server(config());
    world.run(30 * SECOND);
    assert!(world.ends[0].has(lost(Loss::Mismatch)), "{:?}", world.ends[0].seen);
    world.ends[0].seen.clear();
    world.input(0, Input::Allocate);
    world.input(0, Input::Bind(peer()));
    world.run(SECOND);
    assert!(world.ends[0].is_bound(peer()));
}

#[test]
fn changed_mapping_is_noticed_within_half_a_minute() {
    let mut world = World::with_allocation();
    world.ends[0].address = "198.51.100.1:40001".parse().unwrap();
    world.run(30 * SECOND);
    assert!(world.ends[0].has(lost(Loss::Mismatch)), "{:?}", world.ends[0].seen);
}

#[test]
fn silent_server_is_given_up_within_a_minute() {
    let mut world = World::with_allocation();
    world.lost = Box::new(|_, _| true);
    world.run(60 * SECOND);
    assert!(world.ends[0].has(lost(Loss::Silent)), "{:?}", world.ends[0].seen);
    assert_eq!(world.ends[0].client.poll_timeout(), None, "nothing goes on after the loss");
}

#[test]
fn short_outage_is_survived() {
    let mut world = World::with_allocation();
    world.input(0, Input::Bind(peer()));
    world.run(20 * SECOND);
    world.lost = Box::new(|_, _| true);
    world.run(20 * SECOND);
    world.lost = Box::new(|_, _| false);
    world.run(10 * MINUTE);
    assert!(!world.ends[0].has(ended), "{:?}", world.ends[0].seen);
}

#[test]
fn allocation_that_slept_through_its_lifetime_is_lost() {
    let mut world = World::with_allocation();
    world.now += 120 * MINUTE;
    world.ends[0].client.handle_timeout(world.now);
    world.run(SECOND);
    assert!(world.ends[0].has(lost(Loss::Expired)), "{:?}", world.ends[0].seen);
    assert_eq!(world.server.allocations(), 0);
    assert!(world.ports.is_empty());
}

#[test]
fn dead_server_fails_the_allocation_in_eight_seconds() {
    let mut world = World::new(config());
    world.add("alice", AddressFamily::Ipv4);
    world.lost = Box::new(|_, _| true);
    world.input(0, Input::Allocate);
    world.run(Duration::from_millis(7_749));
    assert!(world.ends[0].seen.is_empty());
    assert_eq!(world.trace.len(), 6);
    world.run(Duration::from_millis(1));
    assert!(world.ends[0].has(failed(Failure::Timeout)));
}

#[test]
fn any_one_packet_may_be_lost() {
    for number in 0..12 {
        let mut world = World::new(config());
        world.add("alice", AddressFamily::Ipv4);
        world.lost = Box::new(move |n, _| n == number);
        world.input(0, Input::Allocate);
        world.input(0, Input::Bind(peer()));
        world.input(0, Input::Permit("192.0.2.60".parse().unwrap()));
        world.run(3 * SECOND);
        assert!(world.ends[0].is_bound(peer()), "without packet {number}");
        assert!(!world.ends[0].has(ended), "without packet {number}: {:?}", world.ends[0].seen);
        assert_eq!(world.server.allocations(), 1, "without packet {number}");
        world.input(0, Input::Close);
        world.run(3 * SECOND);
        assert!(world.ends[0].has(|output| *output == Output::Closed), "without packet {number}");
        assert_eq!(world.server.allocations(), 0, "without packet {number}");
    }
}

#[test]
fn a_fifth_of_all_packets_may_be_lost() {
    for seed in 0..20_u32 {
        let mut world = World::new(config());
        world.add("alice", AddressFamily::Ipv4);
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        world.lost = Box::new(move |_, _| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.is_multiple_of(5)
        });
        world.input(0, Input::Allocate);
        world.input(0, Input::Bind(peer()));
        world.run(40 * MINUTE);
        assert!(world.ends[0].is_bound(peer()), "seed {seed}");
        assert!(!world.ends[0].has(ended), "seed {seed}: {:?}", world.ends[0].seen);
    }
}

#[test]
fn wrong_and_expired_credentials_fail_as_such() {
    let wrong = Credentials { password: "guess".to_owned(), ..credentials("alice") };
    let expired = Credentials::time_limited(SECRET, WALL, "alice");
    let plain = Credentials { username: "alice".to_owned(), password: "p".to_owned() };
    for credentials in [wrong, expired, plain] {
        let mut world = World::new(config());
        world.add_with(credentials, AddressFamily::Ipv4);
        world.input(0, Input::Allocate);
        world.run(2 * SECOND);
        assert!(world.ends[0].has(failed(Failure::Unauthorized)), "{:?}", world.ends[0].seen);
        assert_eq!(world.server.allocations(), 0);
    }
    let mut world = World::new(config());
    let empty = Credentials { username: String::new(), password: "p".to_owned() };
    world.add_with(empty, AddressFamily::Ipv4);
    world.input(0, Input::Allocate);
    world.run(2 * SECOND);
    assert!(world.ends[0].has(failed(Failure::InvalidCredentials)), "{:?}", world.ends[0].seen);
}

#[test]
fn credentials_that_expire_are_replaced_without_losing_the_allocation() {
    let mut world = World::new(config());
    world.add_with(Credentials::time_limited(SECRET, WALL + 600, "alice"), AddressFamily::Ipv4);
    world.input(0, Input::Allocate);
    world.input(0, Input::Bind(peer()));
    world.run(8 * MINUTE);
    world.input(0, Input::Credentials(Credentials::time_limited(SECRET, WALL + 7200, "alice")));
    world.run(60 * MINUTE);
    assert!(!world.ends[0].has(ended), "{:?}", world.ends[0].seen);
}

#[test]
fn credentials_that_are_not_replaced_end_the_allocation() {
    let mut world = World::new(config());
    world.add_with(Credentials::time_limited(SECRET, WALL + 600, "alice"), AddressFamily::Ipv4);
    world.input(0, Input::Allocate);
    world.run(11 * MINUTE);
    assert!(world.ends[0].has(lost(Loss::Unauthorized)), "{:?}", world.ends[0].seen);
}

#[test]
fn server_that_insists_on_the_first_user_name_gets_it() {
    let mut world = World::with_allocation();
    for n in 0..5 {
        world.input(0, Input::Bind(SocketAddr::new(peer().ip(), 100 + n)));
    }
    world.input(0, Input::Credentials(credentials("bob")));
    world.run(30 * MINUTE);
    assert!(!world.ends[0].has(ended), "{:?}", world.ends[0].seen);
    world.input(0, Input::Close);
    world.run(SECOND);
    world.input(0, Input::Allocate);
    world.run(SECOND);
    assert_eq!(world.server.allocations(), 1);
    let names_bob = |datagram: &Vec<u8>| datagram.windows(4).any(|window| window == b":bob");
    assert!(world.trace.iter().rev().take(4).any(names_bob), "the next allocation is made with the newest");
}

#[test]
fn close_frees_everything_on_the_server() {
    let mut world = World::with_allocation();
    world.input(0, Input::Close);
    world.run(SECOND);
    assert!(world.ends[0].has(|output| *output == Output::Closed));
    assert_eq!((world.server.allocations(), world.ports.len()), (0, 0));
    assert_eq!((world.ends[0].client.poll_timeout(), world.server.poll_timeout()), (None, None));
}

#[test]
fn close_outlasts_an_outage_as_a_live_allocation_does() {
    let mut world = World::with_allocation();
    world.lost = Box::new(|_, _| true);
    world.input(0, Input::Close);
    world.run(20 * SECOND);
    assert_eq!((world.server.allocations(), &world.ends[0].seen[1..]), (1, &[][..]));
    world.lost = Box::new(|_, _| false);
    world.run(3 * SECOND);
    assert_eq!((world.server.allocations(), &world.ends[0].seen[1..]), (0, &[Output::Closed][..]));
    assert_eq!(world.ends[0].client.poll_timeout(), None);
}

#[test]
fn close_that_no_answer_follows_ends_within_a_minute_however_often_it_is_asked_for() {
    let mut world = World::with_allocation();
    world.lost = Box::new(|_, _| true);
    world.trace.clear();
    for _ in 0..6 {
        world.input(0, Input::Close);
        world.run(5 * SECOND);
    }
    world.run(30 * SECOND);
    assert_eq!(&world.ends[0].seen[1..], &[Output::Closed][..]);
    assert_eq!((world.trace.len(), world.ends[0].client.poll_timeout()), (24, None));
}

#[test]
fn allocation_of_a_client_that_vanished_ends_by_itself() {
    let mut world = World::with_allocation();
    world.ends.clear();
    world.run(11 * MINUTE);
    assert_eq!((world.server.allocations(), world.ports.len()), (0, 0));
}

/// The program restarts on the same port and knows nothing of what it had.
fn restart_client(world: &mut World, run: u16) {
    let config = ginnel_turn::client::Config {
        server: server_address(),
        credentials: credentials("alice"),
        family: AddressFamily::Ipv4,
    };
    let mut seed = [200; 32];
    seed[..2].copy_from_slice(&run.to_be_bytes());
    world.ends[0].client = ginnel_turn::Client::new(seed, config);
    world.ends[0].seen.clear();
    world.input(0, Input::Allocate);
}

#[test]
fn forgotten_allocation_in_the_way_is_deleted_first() {
    let mut world = World::with_allocation();
    let old = world.ends[0].relayed().unwrap();
    restart_client(&mut world, 0);
    world.run(SECOND);
    let new = world.ends[0].relayed().expect("a new allocation");
    assert_eq!(world.ports.values().collect::<Vec<_>>(), [&new]);
    assert_ne!(old, new);
}

#[test]
fn ten_thousand_restarts_leave_one_allocation() {
    let mut world = World::with_allocation();
    for run in 0..10_000 {
        restart_client(&mut world, run);
        world.run(SECOND / 4);
        world.trace.clear();
    }
    assert!(world.ends[0].relayed().is_some());
    assert_eq!((world.server.allocations(), world.ports.len()), (1, 1));
}

#[test]
fn a_check_asks_at_once_and_once() {
    let mut world = World::with_allocation();
    world.run(SECOND);
    world.restart_server(config());
    let before = world.trace.len();
    world.input(0, Input::Check);
    world.input(0, Input::Check);
    world.run(SECOND);
    assert!(world.ends[0].has(lost(Loss::Mismatch)), "{:?}", world.ends[0].seen);
    assert!(world.trace.len() - before <= 4, "a stale nonce, then the truth: {}", world.trace.len() - before);
}

#[test]
fn silence_is_told_while_it_lasts() {
    let mut world = World::with_allocation();
    assert_eq!(world.ends[0].client.silent_since(), None);
    world.lost = Box::new(|_, _| true);
    world.input(0, Input::Check);
    let asked = world.now;
    world.run(5 * SECOND);
    assert_eq!(world.ends[0].client.silent_since(), Some(asked));
    world.lost = Box::new(|_, _| false);
    world.run(5 * SECOND);
    assert_eq!(world.ends[0].client.silent_since(), None);
}
