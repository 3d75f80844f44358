//! A member that means harm: what it can make us do is bounded.

use std::net::SocketAddr;
use std::time::Duration;

use ginnel_time::Instant;

use super::nat::PORT_RESTRICTED;
use super::world::{A, Setting, World};
use crate::message::{CandidateList, Echo, Phase, Probe};
use crate::{
    Agent, Candidate, CandidateKind, Config, Discard, Input, Local, LocalCandidate, Output, Path, RelayId, Role,
    SocketId,
};

fn victim(n: u64) -> SocketAddr {
    let [.., a, b, c] = n.to_be_bytes();
    SocketAddr::from(([8, a, b, c], 443))
}

fn list(round: u8, phase: Phase, from: u64) -> Vec<u8> {
    let candidates = (from..from + 32).map(|n| Candidate { kind: CandidateKind::ServerReflexive, addr: victim(n) });
    CandidateList { round, phase, candidates: candidates.collect() }.encode()
}

fn connected() -> World {
    let mut world = World::connect(Setting::new(PORT_RESTRICTED, PORT_RESTRICTED));
    world.until_direct(Duration::from_secs(3)).unwrap();
    world.run(Duration::from_secs(5));
    world
}

/// Gives A an input every 5 ms for a minute and counts the probes to places that only the attacker named.
fn flood(world: &mut World, mut input: impl FnMut(u64, Path) -> Input) -> usize {
    let path = world.sides[A].primary.unwrap();
    let before = world.sides[A].sent.len();
    for n in 0..12_000 {
        let input = input(n, path);
        world.input(A, input);
        world.run(Duration::from_millis(5));
        assert!(world.sides[A].agent.status().len() <= 48);
    }
    assert!(world.peak_rate(A) <= 60, "{} per second", world.peak_rate(A));
    assert!(world.is_direct(A), "the honest path stands");
    let named = |path: &Path| matches!(path.remote, SocketAddr::V4(v4) if v4.ip().octets()[0] == 8);
    world.sides[A].sent[before..].iter().filter(|(_, path, _)| named(path)).count()
}

#[test]
fn floods_of_candidates_are_bounded() {
    for phase in [Phase::Update, Phase::Call, Phase::Ready] {
        let mut world = connected();
        let probes = flood(&mut world, |n, path| {
            let bytes = list(u8::try_from(n % 251).unwrap(), phase, n * 32);
            Input::Message { path, bytes }
        });
        assert!(probes <= 360 + 6 * 60, "{phase:?}: {probes}");
    }
}

#[test]
fn floods_of_arrivals_are_bounded() {
    let mut world = connected();
    let probes =
        flood(&mut world, |n, _| Input::Arrived(Path { local: Local::Socket(SocketId(0)), remote: victim(n) }));
    assert!(probes <= 360 + 6 * 60, "{probes}");
    let unasked =
        world.sides[A].agent.status().iter().filter(|status| victim(0).port() == status.path.remote.port()).count();
    assert!(unasked <= 8, "{unasked}");
}

#[test]
fn echoes_with_wrong_ids_prove_nothing() {
    let mut world = connected();
    let selects = world.sides[A].selects;
    let path = world.sides[A].primary.unwrap();
    for id in 0..5000 {
        let bytes = Echo { id, observed: victim(id), relayed: false }.encode();
        let now = world.now;
        let result = world.sides[A].agent.handle_input(now, Input::Message { path, bytes });
        assert_eq!(result, Err(Discard::UnknownEcho));
    }
    assert_eq!(world.sides[A].selects, selects);
}

#[test]
fn an_echo_proves_the_path_that_was_asked_and_only_in_time() {
    let mut world = World::new(Setting::new(PORT_RESTRICTED, PORT_RESTRICTED));
    let asked = Path { local: Local::Socket(SocketId(0)), remote: victim(1) };
    let told = vec![Candidate { kind: CandidateKind::Host, addr: victim(1) }];
    let agent = &mut world.sides[A].agent;
    let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
    agent.handle_input(at(10), Input::RemoteCandidates(told)).unwrap();
    agent.handle_input(at(10), Input::Session(crate::Role::Initiator)).unwrap();
    let mut ids = Vec::new();
    while let Some(output) = agent.poll_output() {
        if let Output::Seal { path, plaintext, .. } = output
            && path == asked
        {
            ids.push(Probe::decode(&plaintext).unwrap().id);
        }
    }
    let elsewhere = Path { remote: victim(2), ..asked };
    let bytes = Echo { id: ids[0], observed: victim(9), relayed: false }.encode();
    let late = agent.handle_input(at(16), Input::Message { path: elsewhere, bytes: bytes.clone() });
    assert_eq!(late, Err(Discard::LateEcho));
    let again = agent.handle_input(at(16), Input::Message { path: elsewhere, bytes });
    assert_eq!(again, Err(Discard::UnknownEcho), "an id counts once");
}

#[test]
fn forbidden_addresses_are_never_probed() {
    let mut world = connected();
    let forbidden =
        ["127.0.0.1:53", "169.254.169.254:80", "[::1]:53", "[::ffff:127.0.0.1]:53", "224.0.0.1:5353", "0.0.0.0:9"];
    let candidates: Vec<Candidate> =
        forbidden.iter().map(|text| Candidate { kind: CandidateKind::Host, addr: text.parse().unwrap() }).collect();
    let path = world.sides[A].primary.unwrap();
    let bytes = CandidateList { round: 0, phase: Phase::Update, candidates: candidates.clone() }.encode();
    world.input(A, Input::Message { path, bytes });
    world.input(A, Input::RemoteCandidates(candidates.clone()));
    for candidate in &candidates {
        let path = Path { local: Local::Socket(SocketId(0)), remote: candidate.addr };
        let now = world.now;
        let arrived = world.sides[A].agent.handle_input(now, Input::Arrived(path));
        assert_eq!(arrived, Err(Discard::UnusableAddress), "{}", candidate.addr);
    }
    world.run(Duration::from_secs(20));
    assert!(!world.sides[A].sent.iter().any(|(_, path, _)| candidates.iter().any(|c| c.addr == path.remote)));
}

#[test]
fn our_own_addresses_are_never_probed() {
    let mut world = connected();
    let own: Vec<Candidate> = world.sides[A].agent.candidates();
    let path = world.sides[A].primary.unwrap();
    let bytes = CandidateList { round: 0, phase: Phase::Update, candidates: own.clone() }.encode();
    world.input(A, Input::Message { path, bytes });
    world.run(Duration::from_secs(10));
    assert!(!world.sides[A].sent.iter().any(|(_, path, _)| own.iter().any(|c| c.addr == path.remote)));
}

/// The network's own addresses, which every member has routes to through the tunnel.
fn overlay() -> Config {
    let refused = [("100.72.0.0".parse().unwrap(), 16), ("fd12:3456:789a:1::".parse().unwrap(), 64)];
    Config { refused: refused.into(), ..Config::default() }
}

const INSIDE: [&str; 4] =
    ["100.72.0.1:5000", "100.72.255.254:5000", "[fd12:3456:789a:1::7]:5000", "[64:ff9b::100.72.0.1]:5000"];
const OUTSIDE: [&str; 3] = ["100.73.0.1:5000", "[fd12:3456:789a:2::7]:5000", "[64:ff9b::100.73.0.1]:5000"];

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn told() -> Vec<Candidate> {
    let kinds = [CandidateKind::Host, CandidateKind::ServerReflexive, CandidateKind::Relayed];
    let candidate = |n: usize, text: &&str| Candidate { kind: kinds[n % 3], addr: addr(text) };
    INSIDE.iter().chain(&OUTSIDE).enumerate().map(|(n, text)| candidate(n, text)).collect()
}

fn is_inside(path: Path) -> bool {
    INSIDE.iter().any(|text| addr(text) == path.remote)
}

#[test]
fn addresses_inside_the_tunnel_are_no_paths() {
    let (v4, v6) = (Local::Socket(SocketId(0)), Local::Socket(SocketId(1)));
    let locals = vec![
        LocalCandidate { kind: CandidateKind::Host, local: v4, addr: addr("192.168.1.2:5000") },
        LocalCandidate { kind: CandidateKind::Host, local: v6, addr: addr("[2001:db8::2]:5000") },
        LocalCandidate { kind: CandidateKind::Relayed, local: Local::Relay(RelayId(0)), addr: addr("192.0.2.9:49001") },
    ];
    let mut agent = Agent::new([7; 32], overlay());
    let mut give = |input| {
        let result = agent.handle_input(Instant::ZERO, input);
        while let Some(output) = agent.poll_output() {
            assert!(!matches!(output, Output::Seal { path, .. } if is_inside(path)), "{output:?}");
        }
        let paths: Vec<Path> = agent.status().iter().map(|status| status.path).chain(openers(&agent)).collect();
        assert!(!paths.iter().any(|path| is_inside(*path)), "{paths:?}");
        (result, paths)
    };
    give(Input::LocalCandidates(locals)).0.unwrap();
    let (_, paths) = give(Input::RemoteCandidates(told()));
    assert!(paths.iter().any(|path| path.remote == addr(OUTSIDE[0])), "its neighbours are");
    give(Input::Session(Role::Responder)).0.unwrap();
    let by = Path { local: v4, remote: addr(OUTSIDE[0]) };
    for (round, phase) in [(0, Phase::Update), (1, Phase::Call), (1, Phase::Ready)] {
        let bytes = CandidateList { round, phase, candidates: told() }.encode();
        let _ = give(Input::Message { path: by, bytes });
    }
    for (texts, result) in [(&INSIDE[..], Err(Discard::UnusableAddress)), (&OUTSIDE[..], Ok(()))] {
        for remote in texts.iter().map(|text| addr(text)) {
            let local = if remote.is_ipv4() { v4 } else { v6 };
            assert_eq!(give(Input::Arrived(Path { local, remote })).0, result, "{remote}");
        }
    }
}

fn openers(agent: &Agent) -> Vec<Path> {
    agent.openers().into_iter().map(|(path, _)| path).collect()
}

#[test]
fn a_call_from_a_place_that_may_not_be_probed_is_not_answered() {
    let mut world = connected();
    for remote in ["127.0.0.1:7", "169.254.169.254:80", "224.0.0.1:9"] {
        let path = Path { local: Local::Socket(SocketId(0)), remote: remote.parse().unwrap() };
        let before = world.sides[A].sent.len();
        let now = world.now;
        let called = Input::Message { path, bytes: list(1, Phase::Call, 0) };
        assert_eq!(world.sides[A].agent.handle_input(now, called), Err(Discard::UnusableAddress));
        world.run(Duration::from_secs(1));
        assert!(world.sides[A].sent[before..].iter().all(|(_, sent, _)| sent.remote != path.remote), "{remote}");
    }
}

#[test]
fn a_network_that_is_joined_later_carries_its_addresses_too() {
    let local = Local::Socket(SocketId(0));
    let mut agent = Agent::new([7; 32], Config::default());
    let own = LocalCandidate { kind: CandidateKind::Host, local, addr: addr("192.168.1.2:5000") };
    agent.handle_input(Instant::ZERO, Input::LocalCandidates(vec![own])).unwrap();
    agent.handle_input(Instant::ZERO, Input::RemoteCandidates(told())).unwrap();
    assert!(openers(&agent).iter().any(|path| is_inside(*path)), "nothing is refused yet");
    agent.handle_input(Instant::ZERO, Input::Refused(overlay().refused)).unwrap();
    agent.handle_input(Instant::ZERO, Input::Session(Role::Initiator)).unwrap();
    while let Some(output) = agent.poll_output() {
        assert!(!matches!(output, Output::Seal { path, .. } if is_inside(path)), "{output:?}");
    }
    let paths: Vec<Path> = agent.status().iter().map(|status| status.path).chain(openers(&agent)).collect();
    assert!(!paths.iter().any(|path| is_inside(*path)), "{paths:?}");
    let inside = Path { local, remote: addr(INSIDE[0]) };
    assert_eq!(agent.handle_input(Instant::ZERO, Input::Arrived(inside)), Err(Discard::UnusableAddress));
}
