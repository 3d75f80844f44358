//! Members that name somebody else's address for their own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ginnel_forward::Event;
use ginnel_path::message::{CandidateList, Phase};
use ginnel_path::{Candidate, CandidateKind};

use super::world::{World, secs};
use crate::io::Input;

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
