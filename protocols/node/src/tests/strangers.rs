//! Members that name somebody else's address for their own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ginnel_forward::Event;
use ginnel_path::message::{CandidateList, Phase};
use ginnel_path::{Candidate, CandidateKind, Path};

use super::world::{World, public, secs};
use crate::io::Input;
use crate::ping::PING;

const THIRD: IpAddr = IpAddr::V4(Ipv4Addr::new(9, 9, 9, 9));

#[test]
fn a_third_party_is_probed_little_however_many_peers_name_it() {
    let mut world = World::linked(4, 1);
    for other in 1..4 {
        world.talk(0, other);
    }
    world.pass(secs(5));
    let mut port = 1000;
    for round in 0..300 {
        for (peer, path) in world.machines[0].paths.clone() {
            let Some(path) = path else { continue };
            let mut named = || {
                port = 1000 + (port + 1) % 60_000;
                Candidate { kind: CandidateKind::Host, addr: SocketAddr::new(THIRD, port) }
            };
            let candidates = (0..32).map(|_| named()).collect();
            let plaintext = CandidateList { round: 0, phase: Phase::Update, candidates }.encode();
            world.input(0, Input::Forward(Event::Control { peer, path, plaintext }));
        }
        world.pass(Duration::from_millis(200));
        if round % 20 == 0 {
            for other in 1..4 {
                world.talk(0, other);
            }
        }
    }
    let probes = world.astray[&THIRD];
    assert!((100..=200).contains(&probes), "{probes} within a minute");
    for other in 1..4 {
        assert!(world.reaches(0, other));
    }
}

#[test]
fn a_forged_source_lifts_no_bound() {
    let mut world = World::linked(2, 1);
    world.talk(0, 1);
    world.pass(secs(5));
    for round in 0..300 {
        let (peer, path) = world.machines[0].paths.first_key_value().expect("a peer");
        let (peer, path) = (*peer, path.expect("a path"));
        // A member can send whatever it likes under another's address.
        let forged = Path { remote: SocketAddr::new(THIRD, 999), ..path };
        world.input(0, Input::Forward(Event::Arrived { peer, path: forged }));
        world.input(0, Input::Forward(Event::Control { peer, path: forged, plaintext: vec![PING, 1] }));
        world.input(0, Input::Forward(Event::Control { peer, path, plaintext: naming(THIRD, round) }));
        world.pass(Duration::from_millis(200));
        if round % 20 == 0 {
            world.talk(0, 1);
        }
    }
    let probes = world.astray[&THIRD];
    assert!((80..=200).contains(&probes), "{probes} within a minute");
    assert!(world.reaches(0, 1));
}

#[test]
fn whoever_names_a_third_party_and_falls_silent_sends_it_few_handshakes() {
    let mut world = World::linked(2, 1);
    world.talk(0, 1);
    world.pass(secs(5));
    let (peer, path) = world.machines[0].paths.first_key_value().expect("a peer");
    let (peer, path) = (*peer, path.expect("a path"));
    world.input(0, Input::Forward(Event::Control { peer, path, plaintext: naming(THIRD, 0) }));
    world.stop(1);
    for _ in 0..300 {
        world.talk(0, 1);
        world.pass(secs(1));
    }
    let copies = world.strays[&THIRD];
    assert!((100..=180 + 3 * 300).contains(&copies), "{copies} within five minutes");
    world.start(1);
    world.talk(0, 1);
    world.pass(secs(15));
    assert!(world.reaches(0, 1), "it has a place of its own");
}

#[test]
fn a_peer_that_names_anothers_address_does_not_cost_it_its_path() {
    let mut world = World::linked(3, 1);
    // Whatever was proven counts no more.
    world.pass(secs(400));
    world.talk(0, 2);
    world.pass(secs(5));
    let liar = world.peer(0, 2).expect("a peer").id;
    for round in 0..300 {
        let path = world.machines[0].paths[&liar].expect("a path");
        world.input(0, Input::Forward(Event::Control { peer: liar, path, plaintext: naming(public(1), round) }));
        world.pass(Duration::from_millis(200));
        if round % 20 == 0 {
            world.talk(0, 2);
        }
    }
    assert!(!world.reaches(0, 1), "nobody has asked for it yet");
    world.talk(0, 1);
    world.pass(secs(2));
    assert!(world.reaches(0, 1));
}

/// A list of addresses at one IP, other ports each time.
fn naming(ip: IpAddr, round: u16) -> Vec<u8> {
    let named = |n: u16| Candidate { kind: CandidateKind::Host, addr: SocketAddr::new(ip, 1000 + round * 32 + n) };
    CandidateList { round: 0, phase: Phase::Update, candidates: (0..32).map(named).collect() }.encode()
}
