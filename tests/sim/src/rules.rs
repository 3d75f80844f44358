//! Rules that are kept by worlds as wholes, each broken by hand: the world must say so, and must not where it is kept.

use std::net::SocketAddr;
use std::time::Duration;

use ginnel_forward::PeerId;
use ginnel_node::{Family, ServerId};
use ginnel_path::{Local, Path, SocketId};

use crate::calm::{Recovery, Scope};
use crate::ledger::{Answers, Known};
use crate::scenario::Weather;
use crate::stream::Caller;
use crate::trace::Telling;
use crate::watch::tests::{add, install, sealed};
use crate::world::World;

/// What a world complains of at its end for what was done to it, and not without.
fn told_for(deed: impl Fn(&mut World)) -> Vec<String> {
    let told = |deed: &dyn Fn(&mut World)| {
        let mut world = World::new(SOUND, Telling::Quiet);
        deed(&mut world);
        world.conclude();
        world.ledger.violations()
    };
    let without = told(&|_| {});
    told(&deed).into_iter().filter(|text| !without.contains(text)).collect()
}

fn path(world: &World) -> Path {
    let socket = world.machines[0].sockets.keys().next().copied().unwrap_or(SocketId(0));
    Path { local: Local::Socket(socket), remote: peer() }
}

fn peer() -> SocketAddr {
    "45.84.0.9:4000".parse().expect("literal")
}

#[test]
fn what_is_left_at_the_end_is_told() {
    type Deed = fn(&mut World);
    let rows: [(&str, Deed); 4] = [
        ("node0 holds 1 paths", |world| {
            let path = path(world);
            world.machines[0].paths.insert(PeerId(1), Some(path));
        }),
        ("node0 holds 40 peers", |world| {
            world.machines[0].paths.extend((0..40).map(|peer| (PeerId(peer), None)));
        }),
        ("node0 holds 4 sockets", |world| {
            world.machines[0].sockets = (0..4).map(|socket| (SocketId(socket), 4000 + socket)).collect();
        }),
        ("streams are open", |world| {
            let addresses = [world.hosts[0].name()];
            for server in 0..99 {
                world.connect(Caller::Machine(0, ServerId(server)), &addresses);
            }
        }),
    ];
    for (of, deed) in rows {
        let told = told_for(deed);
        assert!(told.iter().any(|text| text.contains(of)), "{of}: {told:?}");
    }
    assert_eq!(told_for(|_| {}), [""; 0]);
    let pathless = |world: &mut World| {
        world.machines[0].paths.insert(PeerId(1), None);
    };
    assert_eq!(told_for(pathless), [""; 0]);
}

#[test]
fn words_in_silence_are_told() {
    let sealed = [&[0xC7, 0, 0, 0, 0, 0, 0, 1][..], &[5; 44]].concat();
    let stun = [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
    for (bytes, silent, wrong) in [(&sealed, true, true), (&sealed, false, false), (&stun, true, false)] {
        let mut world = World::new(SOUND, Telling::Quiet);
        world.script.silent = silent.then_some(world.now);
        world.check_wire(0, peer(), bytes);
        let told = world.ledger.violations();
        assert_eq!(told.iter().any(|text| text.contains("though nobody talks")), wrong, "{told:?}");
        assert_eq!(told.len(), usize::from(wrong), "{told:?}");
    }
}

/// What befalls two who have a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    /// The only server has two faces from the beginning on.
    TwoFaces,
    /// The relay crashes once the key serves.
    Crash,
}

/// What is told of a key with which the founder seals for `to` beyond the time in which it was to be replaced.
fn told_of_old_key(to: usize, blows: &[Blow]) -> Vec<String> {
    let fits = |world: &World| world.weather == Weather::Clear && world.has_relays() && world.servers == 1;
    let mut worlds = (0..200).map(|seed| World::new(seed, Telling::Quiet));
    let mut world = worlds.find(|world| fits(world) && world.machines.len() > 2).expect("one is like that");
    let began = world.now;
    let at = |seconds: u64| began + Duration::from_secs(seconds);
    let recovery = Recovery { back: Duration::ZERO, shaken: Duration::ZERO };
    if blows.contains(&Blow::TwoFaces) {
        let mark = world.calm.begin(at(0), "two faces", Scope::OddOnes(0), recovery);
        world.calm.settle(mark);
        world.grow_faces();
    }
    if blows.contains(&Blow::Crash) {
        let mark = world.calm.begin(at(5), "a crash", Scope::Relayed, recovery);
        world.calm.end(at(10), mark);
    }
    let peer = u32::try_from(to).expect("few machines");
    world.script.addresses = (0..world.machines.len()).map(|to| Some([100, 64, 0, to as u8].into())).collect();
    world.machines[0].command(began, add(peer));
    world.machines[0].command(began, install(peer, 77));
    for (counter, seconds) in [0, 120, 125, 130, 135, 141].into_iter().enumerate() {
        let mut bytes = sealed(77);
        bytes[7] = counter as u8;
        world.now = at(seconds);
        world.check_wire(0, self::peer(), &bytes);
    }
    world.ledger.violations()
}

#[test]
fn a_key_is_replaced_unless_nobody_can_bring_its_two_together() {
    let rows: [(usize, &[Blow], bool); 5] = [
        (1, &[], true),
        (1, &[Blow::Crash], true),
        (1, &[Blow::TwoFaces], true),
        (2, &[Blow::TwoFaces, Blow::Crash], true),
        (1, &[Blow::TwoFaces, Blow::Crash], false),
    ];
    for (to, blows, wrong) in rows {
        let told = told_of_old_key(to, blows);
        assert_eq!(told.iter().any(|text| text.contains("that was to be replaced")), wrong, "{to} {blows:?}: {told:?}");
        assert_eq!(told.len(), usize::from(wrong), "{to} {blows:?}: {told:?}");
    }
}

#[test]
fn a_packet_of_a_strangers_inner_address_is_told() {
    for knows in [true, false] {
        let mut world = World::new(SOUND, Telling::Quiet);
        let lasts = (world.now, world.now + Duration::from_secs(60));
        world.add_flow(0, 1, lasts, Duration::from_secs(1), Family::V4, Answers::None);
        let ends = ([100, 64, 0, 1].into(), [100, 64, 0, 2].into());
        let packet = world.ledger.packet(0, 1, ends, 50, Known::Member);
        if knows {
            world.machines[1].owners.insert(ends.0, PeerId(7));
        }
        world.deliver(1, &packet);
        let told = world.ledger.violations();
        assert_eq!(told.iter().any(|text| text.contains("knows for no member")), !knows, "{told:?}");
        assert_eq!(told.len(), usize::from(!knows), "{told:?}");
    }
}

#[test]
fn a_complaint_of_somebody_elses_packet_is_told() {
    let returned = crate::ledger::udp([100, 64, 0, 9].into(), [100, 64, 0, 2].into(), 1, 8);
    let mut icmp = crate::ledger::udp([100, 64, 0, 2].into(), [100, 64, 0, 1].into(), 1, 0);
    icmp[9] = 1;
    icmp.truncate(28);
    icmp.extend(returned);
    let mut world = World::new(SOUND, Telling::Quiet);
    world.deliver(1, &icmp);
    let told = world.ledger.violations();
    assert!(told.len() == 1 && told[0].contains("a packet that is not its own"), "{told:?}");
}

#[test]
fn a_datagram_to_where_nobody_can_be_is_told() {
    let inside: SocketAddr = "100.64.0.9:4000".parse().expect("literal");
    for (to, wrong) in [(peer(), false), (inside, true), ("127.0.0.1:4000".parse().expect("literal"), true)] {
        for hostile in [false, true] {
            let mut world = World::new(SOUND, Telling::Quiet);
            world.machines[0].owners.insert(inside.ip(), PeerId(7));
            world.script.hostile.extend(hostile.then_some(0));
            world.check_wire(0, to, &[&[0xC7][..], &[5; 51]].concat());
            let told = world.ledger.violations();
            assert_eq!(told.len(), usize::from(wrong && !hostile), "{to}: {told:?}");
            assert!(told.iter().all(|text| text.contains("where nobody can be")), "{told:?}");
        }
    }
}

#[test]
fn an_alarm_by_a_members_word_is_told() {
    for hostile in [None, Some(1)] {
        let told = told_for(|world| {
            world.script.hostile.extend(hostile);
            world.machines[0].alarms = 1;
        });
        assert_eq!(told.len(), usize::from(hostile.is_some()), "{told:?}");
        assert!(told.iter().all(|text| text.contains("node0 raises an alarm")), "{told:?}");
    }
}

/// A world in which no NAT forgets a mapping before it is refreshed.
const SOUND: u64 = 1;
