//! Recordings of a node, as whoever sends one in may have made them up.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_forward::{Event, PeerId};
use ginnel_node::record::{self, Entry, OutputDigest, Reader, beginning, deadlines, outputs, replay};
use ginnel_node::{Config, ConfigPeer, ConfigPeerKind, Debug, Input, Node, Request, RequestId, Resume, ServerId};
use ginnel_path::{Local, Path, SocketId};
use ginnel_time::{Instant, Tai64n};
use ginnel_tunnel::{PresharedKey, StaticSecret, Suite};

use crate::feed::{Feed, Script};
use crate::{Effort, Target};

/// Recordings: their frame, their entries, and the node that they are played to.
pub(crate) const RECORDING: Target = Target {
    name: "recording",
    covers: "recordings of a node, read and played",
    run: recording,
    seeds: || {
        let bytes = recorded();
        let mut bodies = Script::default().bytes(&[1]);
        let mut rest = &bytes[1..];
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (body, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            bodies = bodies.chunk(body);
            rest = after;
        }
        vec![bodies.done(), [&[0][..], &bytes].concat(), vec![0], vec![0, 1], vec![0, 2, 0, 0, 0, 1, 9]]
    },
    longest: 2500,
    effort: Effort::Middling,
};

/// The first byte says whether the rest is a recording as it stands, or its entries without their frames.
fn recording(data: &[u8]) {
    let mut feed = Feed::new(data);
    let bytes = if feed.flag() {
        let mut bytes = vec![1];
        while !feed.is_empty() {
            let body = feed.chunk();
            bytes.extend_from_slice(&u32::try_from(body.len()).expect("inputs are short").to_be_bytes());
            bytes.extend_from_slice(body);
        }
        bytes
    } else {
        feed.rest().to_vec()
    };
    let Ok(entries) = Reader::new(&bytes) else {
        assert!(replay(&bytes).is_err());
        return;
    };
    let mut again = vec![1];
    for entry in entries {
        match entry {
            Ok(Entry::Start(start)) => {
                again.extend_from_slice(&beginning(&start.program, start.now, &start.config, &start.resume)[1..]);
            }
            Ok(Entry::Input { now, input }) => again.extend_from_slice(&record::input(now, &input)),
            Ok(Entry::Deadlines { now }) => again.extend(deadlines(now)),
            Ok(Entry::Outputs(digests)) => again.extend(outputs(&digests)),
            Err(_) => break,
        }
    }
    assert!(bytes.starts_with(&again), "an entry has a second encoding");
    // Whether it goes as recorded or not, it ends.
    let _ = replay(&bytes);
}

/// A node of the configuration file that is told a few things.
fn recorded() -> Vec<u8> {
    let config = || Config {
        seed: [1; 32],
        secret: Some(StaticSecret::from_bytes([2; 32])),
        addresses: vec![(IpAddr::from([10, 9, 0, 1]), 24)],
        peers: vec![ConfigPeer {
            name: "other".to_owned(),
            key: StaticSecret::from_bytes([3; 32]).public(),
            psk: PresharedKey::zero(),
            endpoint: Some(SocketAddr::from(([198, 51, 100, 9], 51_820))),
            allowed: vec![(IpAddr::from([10, 9, 0, 9]), 32)],
            persistent_keepalive: Some(Duration::from_secs(25)),
            kind: ConfigPeerKind::Ginnel,
        }],
        suites: vec![Suite::ChaChaPoly],
        hostname: "machine".to_owned(),
        debug: Debug::default(),
    };
    let at = |seconds: u64| Instant::ZERO + Duration::from_secs(seconds);
    let mut node = Node::new(at(1), config(), Resume::default()).unwrap_or_else(|error| panic!("{error}"));
    let mut bytes = beginning("0", at(1), &config(), &Resume::default()).to_vec();
    let path = Path { local: Local::Socket(SocketId(0)), remote: SocketAddr::from(([198, 51, 100, 9], 51_820)) };
    let up = Request::Up {
        ticket: Some("ginnel-invite-x".to_owned()),
        name: None,
        network: None,
        shields: None,
        range: None,
        ipv4: None,
    };
    let inputs = [
        Input::Wall(Tai64n::from_unix(1_800_000_000, 0)),
        Input::Interfaces(vec![IpAddr::from([192, 168, 1, 7])]),
        Input::SocketOpened { socket: SocketId(0), local: SocketAddr::from(([0, 0, 0, 0], 40_000)) },
        Input::Forward(Event::SessionWanted { peer: PeerId(0) }),
        Input::Forward(Event::Handshake { path, bytes: vec![0xC4, 0, 0, 0, 1] }),
        Input::Request { id: RequestId(1), network: None, request: up },
        Input::ServerClosed { server: ServerId(0), reason: "gone".to_owned() },
    ];
    for input in inputs {
        bytes.extend_from_slice(&record::input(at(2), &input));
        let _ = node.handle_input(at(2), input);
        let digests: Vec<_> = std::iter::from_fn(|| node.poll_output()).map(|out| OutputDigest::of(&out)).collect();
        bytes.extend(outputs(&digests));
    }
    bytes.extend(deadlines(at(9)));
    node.handle_timeout(at(9));
    let digests: Vec<_> = std::iter::from_fn(|| node.poll_output()).map(|out| OutputDigest::of(&out)).collect();
    bytes.extend(outputs(&digests));
    assert!(replay(&bytes).is_ok(), "what was recorded is played");
    bytes
}
