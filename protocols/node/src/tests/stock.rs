//! A stock WireGuard peer and whoever recorded its handshakes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_forward::{Command, Event};
use ginnel_path::{Local, Path, SocketId};
use ginnel_time::{Instant, Tai64n};
use ginnel_tunnel::{Identity, Initiator, NetworkTag, PresharedKey, ReceiverIndex, StaticSecret, Suite};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use crate::io::{Input, Output, Request, RequestId};
use crate::node::{Config, ConfigPeer, ConfigPeerKind, Debug, Node, Resume};

#[test]
fn a_replayed_initiation_makes_no_session_and_moves_no_endpoint_even_after_a_restart() {
    let recorded = initiation();
    let (mut node, now) = start();
    let first = deliver(&mut node, now, &recorded, home());
    assert_eq!((first.answers, first.installed), (1, 1), "a true initiation is answered");
    assert_eq!(first.moved, 0, "an initiation alone moves nothing: {first:?}");

    // Long after the answer was forgotten, from elsewhere.
    let later = now + Duration::from_secs(60);
    node.handle_timeout(later);
    drain(&mut node);
    let replayed = deliver(&mut node, later, &recorded, elsewhere());
    assert_eq!((replayed.answers, replayed.installed, replayed.moved), (0, 0, 0), "a replay was taken: {replayed:?}");

    // A restart forgets the label; the answer to the replay goes where it came from, and nothing else does.
    let (mut node, now) = start();
    let replayed = deliver(&mut node, now, &recorded, elsewhere());
    assert_eq!(replayed.moved, 0, "a replay moved the endpoint: {replayed:?}");
}

#[derive(Debug, Default)]
struct Done {
    answers: usize,
    installed: usize,
    /// Times that the peer's path was set to the place of the datagram.
    moved: usize,
}

fn deliver(node: &mut Node, now: Instant, bytes: &[u8], path: Path) -> Done {
    let _ = node.handle_input(now, Input::Forward(Event::Handshake { path, bytes: bytes.to_vec() }));
    let mut done = Done::default();
    for output in drain(node) {
        let Output::Forward(command) = &output else { continue };
        let sent = matches!(command, Command::Send { path: to, .. } if *to == path);
        let set = matches!(command, Command::SetPath { primary, .. } if *primary == Some(path));
        done.answers += usize::from(sent);
        done.installed += usize::from(matches!(command, Command::Install { .. }));
        done.moved += usize::from(set);
    }
    done
}

fn drain(node: &mut Node) -> Vec<Output> {
    std::iter::from_fn(|| node.poll_output()).collect()
}

fn start() -> (Node, Instant) {
    let now = Instant::ZERO + Duration::from_secs(1000);
    let peer = ConfigPeer {
        name: "router".to_owned(),
        key: secret(2).public(),
        psk: PresharedKey::zero(),
        endpoint: Some(SocketAddr::from(([192, 0, 2, 1], 51_820))),
        allowed: vec![(IpAddr::from([10, 9, 0, 2]), 32)],
        persistent_keepalive: None,
        kind: ConfigPeerKind::WireGuard,
    };
    let config = Config {
        seed: [7; 32],
        secret: Some(secret(1)),
        addresses: vec![(IpAddr::from([10, 9, 0, 1]), 24)],
        peers: vec![peer],
        suites: vec![Suite::AesGcm, Suite::ChaChaPoly],
        hostname: "machine".to_owned(),
        debug: Debug::default(),
    };
    let mut node = Node::new(now, config, Resume::default()).expect("nothing is saved");
    let _ = node.handle_input(now, Input::Wall(Tai64n::from_unix(1_800_000_000, 0)));
    drain(&mut node);
    (node, now)
}

/// What the peer sent once, and somebody kept.
fn initiation() -> Vec<u8> {
    let peer = Identity::new(secret(2), NetworkTag([0; 32]));
    let (psk, label) = (PresharedKey::zero(), Tai64n::from_unix(1_800_000_000, 0));
    let mut rng = ChaCha20Rng::from_seed([3; 32]);
    let remote = secret(1).public();
    let index = ReceiverIndex(9);
    Initiator::start(&peer, remote, Suite::WireGuard, &psk, 0, label, index, &mut rng).expect("good keys").1
}

fn secret(seed: u8) -> StaticSecret {
    StaticSecret::from_bytes([seed; 32])
}

fn home() -> Path {
    Path { local: Local::Socket(SocketId(0)), remote: SocketAddr::from(([198, 51, 100, 1], 51_820)) }
}

fn elsewhere() -> Path {
    Path { local: Local::Socket(SocketId(0)), remote: SocketAddr::from(([203, 0, 113, 66], 6666)) }
}

#[test]
fn a_range_that_the_configuration_file_uses_is_no_networks() {
    for range in ["10.9.0.0/16", "100.80.0.0/16"] {
        let (mut node, now) = start();
        let ticket = Some(super::world::World::new(0, 1).founding(0));
        let request =
            Request::Up { ticket, name: None, network: None, shields: None, range: Some(range.to_owned()), ipv4: None };
        let _ = node.handle_input(now, Input::Request { id: RequestId(1), network: None, request });
        let refused = drain(&mut node).into_iter().find_map(|output| {
            let Output::Reply { reply: Err(failure), .. } = output else { return None };
            Some(failure.message)
        });
        assert_eq!(refused.is_some(), range.starts_with("10.9."), "{refused:?}");
        assert!(refused.is_none_or(|text| text.contains("the configuration file") && text.contains("10.9.0.1/24")));
    }
}
