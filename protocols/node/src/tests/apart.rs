//! What the servers of one network do for another: their word on a mapping is one among others, and their relay is for
//! their own members alone.

use std::net::{IpAddr, SocketAddr};

use ginnel_forward::{Event, PeerId};
use ginnel_path::{CandidateKind, Local, Path, RelayId};

use super::several::{BOTH, HOME, WORK, founded, founded_in, join, reaches, start};
use super::world::{Nat, World, host_address, public, secs};
use crate::counters::Discard;
use crate::io::{Input, Request};
use crate::peer::IdentityId;

/// What `BOTH` tells its peer in a network of one kind of candidate.
fn told(world: &World, title: &str, kind: CandidateKind) -> Vec<SocketAddr> {
    let node = world.machines[BOTH].node.as_ref().expect("it runs");
    let candidates = node.candidates_for(boss(world, title));
    candidates.into_iter().filter(|own| own.kind == kind).map(|own| own.addr).collect()
}

/// `BOTH`'s peer in a network.
fn boss(world: &World, title: &str) -> PeerId {
    let status = world.status(BOTH);
    let at = status.networks.iter().find(|network| network.name == title).map(|network| network.number);
    status.peers.iter().find(|peer| peer.network == at).expect("it has one").id
}

/// The relay by which `BOTH` reaches its peer in a network.
fn relay(world: &World, title: &str) -> Option<IpAddr> {
    let id = boss(world, title);
    let peer = world.status(BOTH).peers.into_iter().find(|peer| peer.id == id)?;
    let path = peer.path?;
    Some(path.relay.map_or(path.path.remote.ip(), |relay| relay.ip()))
}

fn allocations(world: &World, host: usize) -> usize {
    world.hosts[host].relay.as_ref().map_or(0, super::world::Relay::allocations)
}

/// Machines that reach nobody without a relay, which every server has.
fn relayed(hosts: usize) -> World {
    let mut world = World::new(3, hosts);
    world.machines.iter_mut().for_each(|machine| machine.nat = Nat::Symmetric);
    (0..hosts).for_each(|host| world.give_relay(host));
    world
}

/// `BOTH` is in `home` and `work`, with a server each, or with one for both.
fn joined(mut world: World, hosts: [usize; 2]) -> World {
    founded_in(&mut world, hosts, ["home", "work"], [Some("100.70.0.0/16"), Some("100.71.0.0/16")]);
    for founder in [HOME, WORK] {
        join(&mut world, founder).expect("the invite is good");
    }
    world.pass(secs(5));
    world
}

#[test]
fn a_server_on_the_lan_of_one_network_does_not_hide_the_mapping_from_another() {
    for lan in [0, 1] {
        let mut world = founded(["home", "work"], [Some("100.70.0.0/16"), Some("100.71.0.0/16")]);
        world.hosts[lan].sees_lan = true;
        for founder in [HOME, WORK] {
            join(&mut world, founder).expect("the invite is good");
        }
        world.pass(secs(20));
        let mapped = SocketAddr::new(public(BOTH), 40_000 + BOTH as u16);
        for title in ["home", "work"] {
            assert_eq!(told(&world, title, CandidateKind::ServerReflexive), [mapped], "{title} with {lan} on the LAN");
        }
        let (title, other) = if lan == 0 { ("work", WORK) } else { ("home", HOME) };
        assert!(reaches(&mut world, title, other), "{:?}", world.status(BOTH));
    }
}

#[test]
fn each_network_is_relayed_by_its_own_server() {
    let mut world = joined(relayed(2), [0, 1]);
    for (host, title) in [(0, "home"), (1, "work")] {
        let relayed = told(&world, title, CandidateKind::Relayed);
        assert!(relayed.len() == 1 && relayed[0].ip() == host_address(host), "{title}: {relayed:?}");
    }
    assert_eq!([allocations(&world, 0), allocations(&world, 1)], [2, 2], "the founder's and ours");
    assert!(reaches(&mut world, "home", HOME) && reaches(&mut world, "work", WORK), "{:?}", world.status(BOTH));
    assert_eq!([relay(&world, "home"), relay(&world, "work")], [0, 1].map(|host| Some(host_address(host))));
    // The end of one network's server is nothing to the other.
    world.stop_host(0);
    world.hosts[0].relay = None;
    world.pass(secs(60));
    assert!(reaches(&mut world, "work", WORK), "{:?}", world.status(BOTH));
    assert!(!reaches(&mut world, "home", HOME));
    assert_eq!(told(&world, "home", CandidateKind::Relayed), []);
    // And with a network its allocation goes.
    assert!(world.ask_in(BOTH, Some("work"), Request::Leave).is_ok());
    world.pass(secs(5));
    assert_eq!(allocations(&world, 1), 1, "the founder's");
}

#[test]
fn a_server_of_two_networks_holds_an_allocation_for_each() {
    let mut world = joined(relayed(1), [0, 0]);
    let [home, work] = ["home", "work"].map(|title| told(&world, title, CandidateKind::Relayed));
    assert!(home.len() == 1 && work.len() == 1 && home != work, "{home:?} {work:?}");
    assert_eq!(allocations(&world, 0), 4, "the founders' and our two");
    assert!(reaches(&mut world, "home", HOME) && reaches(&mut world, "work", WORK), "{:?}", world.status(BOTH));
    let lent = |world: &World| world.machines[BOTH].node.as_ref().map_or(0, |node| node.gather.sockets_lent());
    assert_eq!(lent(&world), 1, "one of them is asked from another socket");
    for (title, left) in [("work", 3), ("home", 2)] {
        assert!(world.ask_in(BOTH, Some(title), Request::Down).is_ok());
        world.pass(secs(5));
        assert_eq!((allocations(&world, 0), lent(&world)), (left, 0), "without {title}");
    }
    // They come back, whichever is first.
    for title in ["work", "home"] {
        assert!(world.ask_in(BOTH, Some(title), start()).is_ok());
        world.pass(secs(5));
    }
    assert_eq!((allocations(&world, 0), lent(&world)), (4, 1));
}

#[test]
fn what_comes_by_the_relay_of_another_network_is_refused() {
    let mut world = World::new(3, 2);
    (0..2).for_each(|host| world.give_relay(host));
    let mut world = joined(world, [0, 1]);
    assert!(reaches(&mut world, "home", HOME) && reaches(&mut world, "work", WORK));
    let node = world.machines[BOTH].node.as_ref().expect("it runs");
    let relay_of = |title: &str| {
        let own = node.candidates_for(boss(&world, title)).into_iter().map(|own| own.local);
        own.into_iter().find_map(|local| match local {
            Local::Relay(relay) => Some(relay),
            Local::Socket(_) => None,
        })
    };
    let [home, work] = ["home", "work"].map(|title| relay_of(title).expect("it has one"));
    let refused =
        |world: &World| world.machines[BOTH].node.as_ref().map_or(0, |node| node.counters().of(Discard::ForeignRelay));
    let arrive = |world: &mut World, peer: PeerId, relay: RelayId| {
        let path = Path { local: Local::Relay(relay), remote: SocketAddr::new(public(WORK), 7) };
        world.input(BOTH, Input::Forward(Event::Arrived { peer, path }));
        refused(world)
    };
    let peer = boss(&world, "work");
    assert_eq!(arrive(&mut world, peer, work), 0);
    assert_eq!(arrive(&mut world, peer, home), 1);
    // An initiation, as far as anybody can tell without its key.
    let node = world.machines[BOTH].node.as_ref().expect("it runs");
    let mut bytes = vec![0; 148];
    bytes[0] = 1;
    node.macs[&IdentityId::Network(node.network_of(peer).expect("it is in one"))].stamp(&mut bytes);
    let before = refused(&world);
    for relay in [home, work] {
        let path = Path { local: Local::Relay(relay), remote: SocketAddr::new(public(WORK), 7) };
        world.input(BOTH, Input::Forward(Event::Handshake { path, bytes: bytes.clone() }));
    }
    assert_eq!(refused(&world), before + 1, "it is for one network, and came by both");
}
