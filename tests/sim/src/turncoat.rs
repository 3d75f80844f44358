//! A member with valid keys that means harm, once everybody is in: its node and data plane go on as they are, and beside
//! them it says what no ginneld says, and repeats what others have said.
//!
//! | deed | what must come of it |
//! |---|---|
//! | heads of logs that are not, floods of them, questions without end | gossip among the others goes on |
//! | forged entries, revocations that no admin signed | nobody's log holds them, nobody is put out |
//! | candidates that point at somebody else, calls for rounds without end | bounded probes there |
//! | packets under another member's inner address | they are not delivered |
//! | probes, echoes and control messages that are odd | counted, nothing else |
//! | packets of others again, cut short, with bits turned, from another source | they are not delivered |

use std::net::SocketAddr;
use std::time::Duration;

use ginnel_forward::{Command, PeerId};
use ginnel_node::Family;
use ginnel_path::message::{CandidateList, Echo, Phase, Probe};
use ginnel_path::{Candidate, CandidateKind};

use crate::ledger;
use crate::machine::Life;
use crate::net::{Packet, Realm};
use crate::script::Step;
use crate::world::World;

impl World {
    /// One deed of a hostile member, and the time of the next.
    pub(crate) fn mischief(&mut self, machine: usize) {
        let Some(until) = self.script.mischief_until else { return };
        if self.now >= until {
            return;
        }
        let next = self.now + self.dice.time(Duration::from_millis(50), Duration::from_millis(2500));
        self.step_at(next, Step::Mischief(machine));
        if self.machines[machine].life != Life::Awake {
            return;
        }
        if self.dice.chance(400) {
            self.repeat_others();
            return;
        }
        let peers = self.machines[machine].reached_peers();
        if peers.is_empty() {
            return;
        }
        let peer = self.dice.pick(&peers);
        let plaintexts = self.odd_words(machine, peer);
        for plaintext in plaintexts {
            let command = Command::SealControl { peer, path: None, ttl: None, plaintext };
            self.machines[machine].command(self.now, command);
        }
        self.drills.deeds += 1;
        self.settle_machine(machine);
    }

    /// What a hostile member says inside a session.
    fn odd_words(&mut self, machine: usize, peer: PeerId) -> Vec<Vec<u8>> {
        let dice = &mut self.dice;
        let length = self.machines[machine].log(self.now).map_or(0, |(length, _)| length);
        let head = |length: u64, hash: [u8; 32]| [&[0x12, 1][..], &length.to_be_bytes(), &hash].concat();
        match dice.below(12) {
            0 => vec![head(length + dice.below(1 << 40), dice.seed())],
            1 => vec![head(dice.below(length + 2), dice.seed())],
            2 => (0..300).map(|_| head(length + 1 + dice.below(9), dice.seed())).collect(),
            3 => (0..60).map(|from| [&[0x13, 1][..], &u64::to_be_bytes(from)].concat()).collect(),
            4 => {
                let entry = [[0; 8], [7; 8]].concat();
                let first = dice.pick(&[0, length, length.wrapping_sub(1), u64::MAX]);
                let size = u16::try_from(entry.len()).expect("short").to_be_bytes();
                vec![[&[0x14, 1][..], &first.to_be_bytes(), &[1, 0, 1], &size, &entry].concat()]
            }
            5 => vec![[&[0x15, 1][..], &self.forged_revocation()].concat()],
            6 | 7 => vec![self.misleading_candidates()],
            8 => {
                let observed = SocketAddr::new(self.net.bystander(), 9);
                vec![Echo { id: dice.below(u64::MAX), observed, relayed: false }.encode()]
            }
            9 => (0..50).map(|_| Probe { id: dice.below(u64::MAX) }.encode()).collect(),
            10 => {
                let length = usize::try_from(dice.below(1000)).expect("short");
                let mut odd: Vec<u8> = (0..=length).map(|_| dice.below(256) as u8).collect();
                odd[0] &= 0x3F;
                vec![odd]
            }
            _ => self.false_sources(machine, peer),
        }
    }

    /// A revocation of the founder that bears a signature of nobody.
    fn forged_revocation(&mut self) -> Vec<u8> {
        let key = ginnel_membership::SigningKey::from_bytes(&self.dice.seed());
        let network = self.machines[0].network();
        let victim = ginnel_membership::SigningKey::from_bytes(&self.dice.seed()).member_key();
        network.map(|network| ginnel_membership::build::revoke_record(&network, &key, victim)).unwrap_or_default()
    }

    /// Candidates of somebody who has nothing to do with it.
    fn misleading_candidates(&mut self) -> Vec<u8> {
        let kinds = [CandidateKind::Host, CandidateKind::ServerReflexive, CandidateKind::Relayed];
        let ip = self.net.bystander();
        let candidates =
            (0..32).map(|_| Candidate { kind: self.dice.pick(&kinds), addr: SocketAddr::new(ip, self.dice.port()) });
        let candidates = candidates.collect();
        let phase = self.dice.pick(&[Phase::Update, Phase::Call, Phase::Ready]);
        CandidateList { round: self.dice.below(256) as u8, phase, candidates }.encode()
    }

    /// Packets to a peer under the inner addresses of all others.
    fn false_sources(&self, machine: usize, peer: PeerId) -> Vec<Vec<u8>> {
        let victim = (0..self.machines.len()).find(|other| {
            let address = self.machines[*other].tunnel_address(Family::V4);
            address.is_some_and(|address| self.machines[machine].owners.get(&address) == Some(&peer))
        });
        let Some(victim) = victim else { return Vec::new() };
        let others = (0..self.machines.len()).filter(|other| *other != machine && *other != victim);
        let mut packets = Vec::new();
        for other in others.chain([victim]) {
            for family in [Family::V4, Family::V6] {
                let ends = (self.machines[other].tunnel_address(family), self.machines[victim].tunnel_address(family));
                if let (Some(from), Some(to)) = ends {
                    // A number that no packet has: if it is delivered, nobody sent it.
                    packets.push(ledger::udp(from, to, u64::MAX, 32));
                }
            }
        }
        packets
    }

    /// Sends what was seen on the internet a moment ago once more, as it was or nearly.
    fn repeat_others(&mut self) {
        let Some(packet) = self.net.overheard(self.now, &mut self.dice) else { return };
        let Packet { mut from, to, mut bytes, .. } = packet;
        let length = bytes.len() as u64;
        match self.dice.below(5) {
            0 => bytes.truncate(usize::try_from(self.dice.below(length)).expect("an index fits")),
            1 => {
                let place = usize::try_from(self.dice.below(length)).expect("an index fits");
                bytes[place] ^= 1 << self.dice.below(8);
            }
            2 => from.set_port(self.dice.port()),
            _ => {}
        }
        self.drills.deeds += 1;
        self.transmit(Realm::INTERNET, Packet { from, to, ttl: crate::station::TTL, bytes });
    }
}
