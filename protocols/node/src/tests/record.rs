//! Recordings of whole machines, and what is no recording.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use ginnel_forward::{Event, PeerId, RekeyReason, Shields};
use ginnel_membership::{NetworkId, Rights};
use ginnel_path::{Local, Path, RelayId, SocketId};
use ginnel_time::{Instant, Tai64n};
use ginnel_tunnel::{PresharedKey, PublicKey, ReceiverIndex, StaticSecret, Suite};

use super::world::{World, secs};
use crate::counters::Discard;
use crate::io::{Input, Output, Request, RequestId, ServerId};
use crate::networks::Ipv4Use;
use crate::node::{Config, ConfigPeer, ConfigPeerKind, Debug, Node, Resume, StoredLog};
use crate::record::{
    self, BadRecording, Entry, OutputDigest, Played, Reader, ReplayError, beginning, deadlines, outputs, replay,
};

/// A node of the world, recorded where that is wanted.
pub(crate) struct Recorded {
    node: Node,
    recording: Option<Vec<u8>>,
    taken: Vec<OutputDigest>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recording {
    On,
    Off,
}

impl Recorded {
    pub(crate) fn new(now: Instant, config: Config, resume: Resume, recording: Recording) -> Self {
        let recording = (recording == Recording::On).then(|| beginning("test", now, &config, &resume).to_vec());
        Self { node: Node::new(now, config, resume).expect("own state is read"), recording, taken: Vec::new() }
    }

    pub(crate) fn handle_input(&mut self, now: Instant, input: Input) -> Result<(), Discard> {
        if let Some(recording) = &mut self.recording {
            recording.extend_from_slice(&record::input(now, &input));
        }
        self.node.handle_input(now, input)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(recording) = &mut self.recording {
            recording.extend(deadlines(now));
        }
        self.node.handle_timeout(now);
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        let output = self.node.poll_output();
        if let Some(recording) = &mut self.recording {
            match &output {
                Some(output) => self.taken.push(OutputDigest::of(output)),
                None => recording.extend(outputs(&std::mem::take(&mut self.taken))),
            }
        }
        output
    }
}

impl Deref for Recorded {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl DerefMut for Recorded {
    fn deref_mut(&mut self) -> &mut Node {
        &mut self.node
    }
}

fn recording(world: &World, number: usize) -> Vec<u8> {
    world.machines[number].node.as_ref().and_then(|node| node.recording.clone()).expect("it is recorded")
}

/// Two machines that found, join, link and talk; the second is started again in the middle.
fn world() -> World {
    let mut world = World::with(2, 1, Recording::On);
    world.found();
    world.join(1);
    world.pass(secs(3));
    world.talk(0, 1);
    world.pass(secs(10));
    assert!(world.reaches(0, 1));
    world.stop(1);
    world.start(1);
    world.pass(secs(10));
    world.talk(1, 0);
    world.pass(secs(130));
    assert!(world.reaches(1, 0));
    world
}

#[test]
fn a_recorded_machine_does_the_same_again() {
    let world = world();
    for number in 0..2 {
        let bytes = recording(&world, number);
        let played = replay(&bytes).unwrap_or_else(|error| panic!("machine {number}: {error}"));
        assert_eq!((played.program.as_str(), played.cut_off), ("test", None));
        assert!(played.inputs > 20 && played.deadlines > 20 && played.outputs > 40, "{played:?}");
        assert!(played.ended <= world.now && played.ended > played.began + secs(100), "{played:?}");
        // What was read is written as it was.
        let again: Vec<u8> = Reader::new(&bytes).expect("a recording").flat_map(|entry| written(&entry)).collect();
        assert_eq!([&[1][..], &again].concat(), bytes);
    }
    let resumed = Reader::new(&recording(&world, 1)).expect("a recording").next().expect("a start");
    assert!(matches!(resumed, Ok(Entry::Start(start)) if start.resume.state.is_some() && start.resume.logs.len() == 1));
}

fn written(entry: &Result<Entry, BadRecording>) -> Vec<u8> {
    match entry {
        Ok(Entry::Start(start)) => beginning(&start.program, start.now, &start.config, &start.resume).split_off(1),
        Ok(Entry::Input { now, input }) => record::input(*now, input).to_vec(),
        Ok(Entry::Deadlines { now }) => deadlines(*now),
        Ok(Entry::Outputs(digests)) => outputs(digests),
        Err(error) => panic!("{error}"),
    }
}

/// Each input in turn is changed by one bit, or left out: somewhere after it, something else comes out.
#[test]
fn a_changed_input_is_noticed_and_the_first_difference_is_named() {
    let bytes = recording(&world(), 0);
    let entries: Vec<_> = Reader::new(&bytes).expect("a recording").collect();
    let changed = |place: usize, input: &Input, now: Instant| {
        let mut bytes = vec![1];
        for (at, entry) in entries.iter().enumerate() {
            bytes.extend(if at == place { record::input(now, input).to_vec() } else { written(entry) });
        }
        replay(&bytes)
    };
    let (mut streams, mut handshakes) = (0, 0);
    for (place, entry) in entries.iter().enumerate() {
        let Ok(Entry::Input { now, input }) = entry else { continue };
        let kind = match input {
            Input::ServerBytes { server, bytes } if streams < 5 => {
                streams += 1;
                let mut bytes = bytes.clone();
                *bytes.last_mut().expect("a stream gives bytes") ^= 1;
                (Input::ServerBytes { server: *server, bytes }, "ServerBytes")
            }
            Input::Forward(Event::Handshake { path, bytes }) if handshakes < 3 => {
                handshakes += 1;
                let mut bytes = bytes.clone();
                bytes[40] ^= 1;
                (Input::Forward(Event::Handshake { path: *path, bytes }), "Handshake")
            }
            Input::Wall(_)
            | Input::Interfaces(_)
            | Input::Addresses(_)
            | Input::SocketOpened { .. }
            | Input::SocketLost { .. }
            | Input::SendFailed { .. }
            | Input::Forward(_)
            | Input::ServerOpened { .. }
            | Input::ServerBytes { .. }
            | Input::ServerClosed { .. }
            | Input::Request { .. } => continue,
        };
        let Err(ReplayError::Differs(difference)) = changed(place, &kind.0, *now) else {
            panic!("entry {place}: {} was changed and nothing came of it", kind.1);
        };
        assert!(difference.entry > place as u64 && difference.now >= *now, "{difference}");
        let words = difference.to_string();
        assert!(words.contains(" was ") && !words.contains("ginnel-"), "{words}");
    }
    assert!(streams == 5 && handshakes > 0, "{streams} and {handshakes} of them");
    // The seed decides as much as the inputs do.
    let mut other = bytes;
    let seed = 1 + 4 + 1 + 4 + "test".len() + 8;
    other[seed] ^= 1;
    assert!(matches!(replay(&other), Err(ReplayError::Differs(_))));
}

#[test]
fn every_input_is_read_as_it_was_written() {
    let path = Path { local: Local::Relay(RelayId(3)), remote: "203.0.113.9:4000".parse().expect("literal") };
    let own = Path { local: Local::Socket(SocketId(1)), remote: "[2001:db8::1]:5".parse().expect("literal") };
    let (peer, server, socket) = (PeerId(7), ServerId(2), SocketId(1));
    let index = ReceiverIndex(9);
    let text = || "text".to_owned();
    let events = [
        Event::Confirmed { peer, index },
        Event::Expired { index, peer },
        Event::RekeyDue { peer, why: RekeyReason::Silence },
        Event::SessionWanted { peer },
        Event::Arrived { peer, path },
        Event::Roamed { peer, path: own },
        Event::Control { peer, path, plaintext: vec![1, 2] },
        Event::Handshake { path: own, bytes: vec![3] },
        Event::Stun { socket, from: path.remote, bytes: Vec::new() },
        Event::Traffic { peer, sent: true, received: false },
    ];
    let id = RequestId(4);
    let inputs = [
        Input::Wall(Tai64n::from_unix(5, 6)),
        Input::Interfaces(vec![path.remote.ip(), own.remote.ip()]),
        Input::Addresses(vec![path.remote.ip()]),
        Input::SocketOpened { socket, local: own.remote },
        Input::SocketLost { socket },
        Input::SendFailed { path },
        Input::ServerOpened { server, remote: path.remote },
        Input::ServerBytes { server, bytes: vec![0; 70_000] },
        Input::ServerClosed { server, reason: text() },
    ];
    let requests = requests().map(|request| Input::Request { id, network: Some(text()), request });
    for input in inputs.into_iter().chain(events.map(Input::Forward)).chain(requests) {
        let now = Instant::from_nanos(77);
        let bytes = [&[1][..], &record::input(now, &input)].concat();
        let mut reader = Reader::new(&bytes).expect("a version");
        let Some(Ok(Entry::Input { now: at, input: read })) = reader.next() else { panic!("{input:?}") };
        assert!(at == now && reader.next().is_none());
        assert_eq!(format!("{read:?}"), format!("{input:?}"));
        assert_eq!(record::input(now, &read), record::input(now, &input));
    }
}

/// A request of every kind.
fn requests() -> [Request; 19] {
    let text = || "text".to_owned();
    [
        Request::Up {
            ticket: Some(text()),
            name: None,
            network: Some(text()),
            shields: Some(Shields::Up),
            range: None,
            ipv4: Some(Ipv4Use::Off),
        },
        Request::Down,
        Request::Leave,
        Request::Ping { peer: text(), timeout: Duration::from_millis(1500) },
        Request::Invite { expires: secs(60), name: Some(text()) },
        Request::Invites,
        Request::VoidInvite { id: text() },
        Request::Revoke { peer: text() },
        Request::Log,
        Request::ServerAdd { founding: text() },
        Request::ServerRemove { server: text() },
        Request::ServerPromote { server: text() },
        Request::AdminAdd { peer: text() },
        Request::AdminRemove { peer: text() },
        Request::AdminThreshold { threshold: 2 },
        Request::Cosign { proposal: text() },
        Request::Policy { strict: Some(true), delegate: Some((text(), Some(Rights::ALL))) },
        Request::Checkpoint,
        Request::RotateKeys,
    ]
}

fn start() -> Vec<u8> {
    let config = Config {
        seed: [5; 32],
        secret: Some(StaticSecret::from_bytes([6; 32])),
        addresses: vec![("10.0.0.1".parse().expect("literal"), 24)],
        peers: vec![ConfigPeer {
            name: "ada".into(),
            key: PublicKey::from_bytes([7; 32]),
            psk: PresharedKey::from_bytes([8; 32]),
            endpoint: None,
            allowed: vec![("fd00::".parse().expect("literal"), 8)],
            persistent_keepalive: Some(secs(25)),
            kind: ConfigPeerKind::Ginnel,
        }],
        suites: vec![Suite::ChaChaPoly],
        hostname: "m".into(),
        debug: Debug::default(),
    };
    let log = StoredLog {
        network: NetworkId::from_bytes([9; 32]),
        snapshot: Some((vec![1], vec![2, 3])),
        entries: vec![vec![4]],
    };
    let resume = Resume { state: None, logs: vec![log] };
    beginning("0.1", Instant::from_nanos(258), &config, &resume).to_vec()
}

#[test]
fn golden_recording() {
    let start = start();
    let mut golden = vec![1, 0, 0, 1, 17, 0];
    golden
        .extend([&[0, 0, 0, 3][..], b"0.1", &[0, 0, 0, 0, 0, 0, 1, 2], &[5; 32], &[1], &[0], &[6; 30], &[70]].concat());
    golden.extend(
        [&[0, 0, 0, 1, 4, 10, 0, 0, 1, 24][..], &[0, 0, 0, 1, 0, 0, 0, 3], b"ada", &[7; 32], &[8; 32]].concat(),
    );
    golden
        .extend([&[0, 0, 0, 0, 1, 6, 0xFD][..], &[0; 15], &[8, 1], &[0, 0, 0, 0, 0, 0, 0, 25, 0, 0, 0, 0, 1]].concat());
    golden.extend([&[0, 0, 0, 1, 2, 0, 0, 0, 1][..], b"m", &[0, 0], &[0, 0, 0, 0, 1], &[9; 32], &[1]].concat());
    golden.extend([0, 0, 0, 1, 1, 0, 0, 0, 2, 2, 3, 0, 0, 0, 1, 0, 0, 0, 1, 4]);
    assert_eq!(start, golden);
    let now = Instant::from_nanos(515);
    let lost = record::input(now, &Input::SocketLost { socket: SocketId(1) });
    assert_eq!(*lost, [0, 0, 0, 12, 1, 0, 0, 0, 0, 0, 0, 2, 3, 3, 0, 1]);
    let addresses = record::input(now, &Input::Addresses(vec![[10, 0, 0, 1].into()]));
    assert_eq!(*addresses, [0, 0, 0, 19, 1, 0, 0, 0, 0, 0, 0, 2, 3, 10, 0, 0, 0, 1, 4, 10, 0, 0, 1]);
    assert_eq!(deadlines(now), [0, 0, 0, 9, 2, 0, 0, 0, 0, 0, 0, 2, 3]);
    let closed = OutputDigest::of(&Output::CloseSocket(SocketId(1)));
    let kept = OutputDigest::of(&Output::Persist(b"a".to_vec()));
    let digests = [8, 0xAF, 0x63, 0xDC, 0x4C, 0x86, 0x01, 0xEC, 0x8C];
    assert_eq!(outputs(&[kept])[9..], digests, "FNV-1a of one letter, as its authors print it");
    assert!(closed.to_string().starts_with("CloseSocket "));
}

#[test]
fn what_is_no_recording_or_not_whole_is_an_error() {
    assert_eq!(replay(&[]).err(), Some(ReplayError::Recording(BadRecording::NotOne)));
    assert_eq!(replay(&[0, 1]).err(), Some(ReplayError::Recording(BadRecording::NotOne)));
    assert_eq!(replay(&[2, 1]).err(), Some(ReplayError::Recording(BadRecording::Newer(2))));
    let whole = start();
    assert_eq!(replay(&[&whole[..], &whole[1..]].concat()).err(), Some(ReplayError::Misplaced));
    assert_eq!(replay(&[&[1][..], &deadlines(Instant::ZERO)].concat()).err(), Some(ReplayError::Misplaced));
    for length in 1..whole.len() {
        assert!(replay(&whole[..length]).is_err(), "{length} bytes");
    }
    let now = Instant::from_nanos(600);
    let wall = record::input(now, &Input::Wall(Tai64n::from_unix(1_800_000_000, 0)));
    let longer = [&whole[..], &wall].concat();
    for length in whole.len() + 1..longer.len() {
        let Ok(Played { cut_off, inputs, .. }) = replay(&longer[..length]) else { panic!("{length} bytes") };
        assert_eq!((cut_off, inputs), (Some(whole.len()), 0));
    }
    // A length that lies, and a case that there is none of.
    let mut lying = longer.clone();
    lying[whole.len() + 3] += 1;
    assert_eq!(replay(&lying).map(|played| played.cut_off), Ok(Some(whole.len())));
    let mut strange = longer;
    strange[whole.len() + 13] = 99;
    let broken = BadRecording::Broken { at: whole.len() };
    assert_eq!(replay(&strange).err(), Some(ReplayError::Recording(broken)));
}
