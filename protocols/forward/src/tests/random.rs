//! Random orders, losses, copies and delays: nothing panics or spins, and the TUN gets each packet at most once and
//! only as it was sent.

use std::collections::BTreeSet;

use ginnel_path::message::Probe;
use ginnel_path::{Path, RelayId, SocketId};
use ginnel_tunnel::{Established, ReceiverIndex, Suite};
use proptest::prelude::*;

use super::world::{A, B, PEER, Sent, V4, World, addr, direct, host, secs, socket_path};
use crate::test_packet::udp;
use crate::{Command, Event, Roam, Shields};

#[derive(Clone, Debug)]
enum Step {
    Tun(usize),
    Deliver(usize, u16),
    Copy(usize, u16),
    Lose(usize, u16),
    Pass(u16),
    Handshake(usize, bool, bool),
    SetPath(usize, u8),
    Probe(usize),
    Forget(usize),
    Readd(usize),
    Shields(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let side = 0usize..2;
    prop_oneof![
        8 => side.clone().prop_map(Step::Tun),
        8 => (side.clone(), any::<u16>()).prop_map(|(side, which)| Step::Deliver(side, which)),
        2 => (side.clone(), any::<u16>()).prop_map(|(side, which)| Step::Copy(side, which)),
        1 => (side.clone(), any::<u16>()).prop_map(|(side, which)| Step::Lose(side, which)),
        3 => (0u16..200).prop_map(Step::Pass),
        3 => (side.clone(), any::<bool>(), any::<bool>()).prop_map(|(side, mine, theirs)| Step::Handshake(side, mine, theirs)),
        3 => (side.clone(), 0u8..5).prop_map(|(side, kind)| Step::SetPath(side, kind)),
        2 => side.clone().prop_map(Step::Probe),
        1 => side.clone().prop_map(Step::Forget),
        1 => side.clone().prop_map(Step::Readd),
        1 => (side, any::<bool>()).prop_map(|(side, up)| Step::Shields(side, up)),
    ]
}

struct Run {
    world: World,
    suite: Suite,
    /// What each side sent and the other has not got, lost or found yet.
    flying: [Vec<Sent>; 2],
    newest: [Option<ReceiverIndex>; 2],
    given: BTreeSet<Vec<u8>>,
    number: u16,
}

impl Run {
    fn new(suite: Suite) -> Self {
        let world = World::new(if suite == Suite::WireGuard { Roam::FollowSource } else { Roam::Fixed });
        Self { world, suite, flying: [Vec::new(), Vec::new()], newest: [None; 2], given: BTreeSet::new(), number: 0 }
    }

    fn take(&mut self, side: usize, which: u16) -> Option<Sent> {
        let count = self.flying[side].len();
        (count > 0).then(|| self.flying[side].swap_remove(usize::from(which) % count))
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Tun(from) => {
                self.number += 1;
                let packet = udp(V4[from], 9, V4[1 - from], 9, &self.number.to_be_bytes());
                self.given.insert(packet.clone());
                self.world.tun(from, &packet);
            }
            Step::Deliver(from, which) => {
                if let Some(sent) = self.take(from, which) {
                    self.deliver(from, &sent);
                }
            }
            Step::Copy(from, which) => {
                if let Some(sent) = self.take(from, which) {
                    self.deliver(from, &sent);
                    self.flying[from].push(sent);
                }
            }
            Step::Lose(from, which) => drop(self.take(from, which)),
            Step::Pass(seconds) => self.world.pass(secs(u64::from(seconds))),
            Step::Handshake(initiator, mine, theirs) => {
                let (initiating, responding) = self.world.handshake(self.suite);
                if theirs {
                    self.install(1 - initiator, responding);
                }
                if mine {
                    self.install(initiator, initiating);
                }
            }
            Step::SetPath(side, kind) => self.set_path(side, kind),
            Step::Probe(side) => {
                let plaintext = Probe { id: 1 }.encode();
                self.world.command(side, Command::SealControl { peer: PEER, path: None, ttl: None, plaintext });
            }
            Step::Forget(side) => {
                if let Some(index) = self.newest[side].take() {
                    self.world.command(side, Command::Forget { index });
                }
            }
            Step::Readd(side) => {
                self.world.command(side, Command::RemovePeer { peer: PEER });
                let (allowed, roam) = (vec![host(V4[1 - side])], Roam::Fixed);
                let persistent_keepalive = Some(secs(25));
                self.world.command(side, Command::AddPeer { peer: PEER, allowed, roam, persistent_keepalive });
            }
            Step::Shields(side, up) => {
                self.world.command(side, Command::SetShields(if up { Shields::Up } else { Shields::Down }));
            }
        }
        self.collect();
    }

    fn install(&mut self, side: usize, established: Established) {
        self.newest[side] = Some(established.local_index);
        self.world.command(side, Command::Install { peer: PEER, established });
    }

    fn set_path(&mut self, side: usize, kind: u8) {
        let relay = RelayId(4);
        let relayed = Path { local: ginnel_path::Local::Relay(relay), remote: addr(1 - side) };
        if kind == 4 {
            let server = addr(1 - side);
            self.world.command(side, Command::SetRelay { relay, socket: SocketId(0), server });
            self.world.command(side, Command::BindChannel { relay, channel: 0x4000, remote: addr(1 - side) });
        }
        let (primary, backup) = match kind {
            0 => (None, None),
            1 | 2 => (Some(direct(side)), Some(socket_path(addr(side)))),
            3 => (Some(direct(side)), Some(relayed)),
            _ => (Some(relayed), Some(direct(side))),
        };
        self.world.command(side, Command::SetPath { peer: PEER, primary, backup, duplicate: kind >= 2 });
    }

    fn deliver(&mut self, from: usize, sent: &Sent) {
        self.world.receive(1 - from, addr(from), &sent.bytes);
    }

    fn collect(&mut self) {
        for side in [A, B] {
            let sent = std::mem::take(&mut self.world.side(side).sent);
            self.flying[side].extend(sent);
            for packet in std::mem::take(&mut self.world.side(side).tun) {
                assert!(self.given.remove(&packet), "a packet that was not sent, or came twice: {packet:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn each_packet_comes_at_most_once_and_as_it_was(
        suite in prop_oneof![Just(Suite::WireGuard), Just(Suite::AesGcm), Just(Suite::ChaChaPoly)],
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut run = Run::new(suite);
        for step in &steps {
            run.step(step);
        }
        // Whatever happened, a new session on good paths carries packets again.
        for side in [A, B] {
            run.world.command(side, Command::SetShields(Shields::Down));
            run.world.command(side, Command::RemovePeer { peer: PEER });
            let (allowed, roam) = (vec![host(V4[1 - side])], Roam::Fixed);
            run.world.command(side, Command::AddPeer { peer: PEER, allowed, roam, persistent_keepalive: None });
            run.world.side(side).take_events();
        }
        run.collect();
        run.world.set_direct_paths();
        run.world.rekey(A, suite);
        run.world.settle();
        let confirmed = |event: &Event| matches!(event, Event::Confirmed { .. });
        prop_assert!(run.world.side(B).take_events().iter().any(confirmed));
        for from in [A, B] {
            let packet = udp(V4[from], 9, V4[1 - from], 9, b"after all");
            run.world.tun(from, &packet);
            run.world.settle();
            prop_assert_eq!(run.world.only_tun(1 - from), packet);
        }
    }
}
