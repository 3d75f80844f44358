//! A member with valid keys that means harm, once everybody is in: its node and data plane go on as they are, and beside
//! them it says what no ginneld says, and repeats what others have said.
//!
//! It calls all others by pings of its own, so that it has sessions to say it in; what it says is in [`crate::deeds`], and
//! what was opened by whom it was for is counted by its kind.
//!
//! | deed | what must come of it |
//! |---|---|
//! | heads of logs that are not, floods of them, questions without end | gossip among the others goes on |
//! | forged entries, revocations that no admin signed, what was true before | nobody's log holds them, nobody is put out, nobody raises an alarm |
//! | candidates that point at somebody else, calls for rounds without end | bounded probes there |
//! | candidates that point at nobody, or into the network | nothing goes there |
//! | packets under another inner address than its own, or to another than the receiver's | they are not delivered |
//! | probes, echoes and control messages that are odd | counted, nothing else |
//! | packets of others again, cut short, with bits turned, from another source | they are not delivered |

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_forward::{Command, PeerId};
use ginnel_node::{Family, Request};

use crate::deeds::{Deed, Knowledge};
use crate::dice::Dice;
use crate::machine::Life;
use crate::net::{Packet, Realm};
use crate::script::{Step, Wanted};
use crate::trace::digest;
use crate::watch::inner;
use crate::world::World;

/// The hostile member's own chance, and what it has sent that has not arrived yet.
pub(crate) struct Turncoat {
    dice: Dice,
    /// Sealed datagrams by their digest, and what is in them.
    sown: BTreeMap<u64, Deed>,
}

impl Turncoat {
    /// Has chance of its own, so that other worlds are the same whatever it does.
    pub(crate) fn new(seed: u64) -> Self {
        Self { dice: Dice::labelled(seed, *b"harms"), sown: BTreeMap::new() }
    }
}

impl World {
    /// One deed of a hostile member, and the time of the next.
    pub(crate) fn mischief(&mut self, machine: usize) {
        let Some(until) = self.script.mischief_until else { return };
        if self.now >= until {
            return;
        }
        let dice = &mut self.turncoat.dice;
        let next = self.now + dice.time(Duration::from_millis(50), Duration::from_millis(2500));
        let (repeats, calls) = (dice.chance(200), dice.chance(150));
        self.step_at(next, Step::Mischief(machine));
        if self.machines[machine].life != Life::Awake {
            return;
        }
        if calls {
            let others: Vec<usize> = (0..self.machines.len()).filter(|other| *other != machine).collect();
            let other = self.turncoat.dice.pick(&others);
            self.call(machine, other);
        }
        if repeats {
            return self.repeat_others();
        }
        let peers = self.machines[machine].reached_peers();
        self.drills.deeds.looks += 1;
        if peers.is_empty() {
            return;
        }
        self.drills.deeds.linked += 1;
        let (peer, deed) = (self.turncoat.dice.pick(&peers), self.turncoat.dice.pick(&Deed::ALL));
        self.commit(machine, peer, deed);
    }

    /// Lets a hostile member call all others at once.
    pub(crate) fn call_all(&mut self, machine: usize) {
        for other in (0..self.machines.len()).filter(|other| *other != machine) {
            self.call(machine, other);
        }
    }

    fn call(&mut self, machine: usize, other: usize) {
        if self.machines[machine].life == Life::Awake {
            let peer = self.machines[other].setup.name.clone();
            self.ask(machine, Request::Ping { peer, timeout: CALL }, Wanted::Whisper);
        }
    }

    /// Says something in a session.
    pub(crate) fn commit(&mut self, machine: usize, peer: PeerId, deed: Deed) {
        let Some(know) = self.knowledge(machine, peer) else { return };
        let words = deed.words(&know, &mut self.turncoat.dice);
        self.trace.tell(self.now, || format!("node{machine} says to {peer:?}: {deed:?}"));
        for plaintext in words {
            let command = Command::SealControl { peer, path: None, ttl: None, plaintext };
            self.machines[machine].command(self.now, command);
            let sent = self.machines[machine].waiting_datagrams().map(|bytes| (digest(inner(bytes)), deed));
            self.turncoat.sown.extend(sent);
            self.settle_machine(machine);
        }
    }

    /// What was in a datagram, if a hostile member has put something into it; the first copy counts.
    pub(crate) fn sown(&mut self, bytes: &[u8]) -> Option<Deed> {
        if self.turncoat.sown.is_empty() {
            return None;
        }
        self.turncoat.sown.remove(&digest(inner(bytes)))
    }

    fn knowledge(&mut self, machine: usize, peer: PeerId) -> Option<Knowledge> {
        let own = &self.machines[machine];
        let network = own.network()?;
        let length = own.log(self.now).map_or(0, |(length, _)| length);
        let entries = own.entries().cloned().collect();
        let is_receiver =
            |other: usize| self.inner_addresses(other).iter().any(|address| own.owners.get(address) == Some(&peer));
        let receiver = (0..self.machines.len()).find(|other| is_receiver(*other))?;
        let others = (0..self.machines.len()).filter(|other| *other != machine && *other != receiver);
        let others: Vec<IpAddr> = others.flat_map(|other| self.inner_addresses(other)).collect();
        let (own, receiver) = (self.inner_addresses(machine), self.inner_addresses(receiver));
        let homes = self.machines.iter().enumerate().filter(|(other, _)| *other != machine);
        let homes =
            homes.flat_map(|(_, other)| other.sockets.values().map(|port| SocketAddr::new(other.setup.address, *port)));
        let mut places: Vec<SocketAddr> = homes.collect();
        for _ in 0..8 {
            let heard = self.net.overheard(self.now, &mut self.turncoat.dice);
            places.extend(heard.into_iter().flat_map(|packet| [packet.from, packet.to]));
        }
        Some(Knowledge { network, length, entries, bystander: self.net.bystander(), places, own, receiver, others })
    }

    /// The addresses that a machine has in the network.
    pub(crate) fn inner_addresses(&self, machine: usize) -> Vec<IpAddr> {
        let families = [Family::V4, Family::V6].into_iter();
        families.filter_map(|family| self.machines[machine].tunnel_address(family)).collect()
    }

    /// Sends what was seen on the internet a moment ago once more, as it was or nearly.
    fn repeat_others(&mut self) {
        let dice = &mut self.turncoat.dice;
        let Some(packet) = self.net.overheard(self.now, dice) else { return };
        let Packet { mut from, to, mut bytes, .. } = packet;
        let length = bytes.len() as u64;
        match dice.below(5) {
            0 => bytes.truncate(usize::try_from(dice.below(length)).expect("an index fits")),
            1 => {
                let place = usize::try_from(dice.below(length)).expect("an index fits");
                bytes[place] ^= 1 << dice.below(8);
            }
            2 => from.set_port(dice.port()),
            _ => {}
        }
        self.drills.repeats += 1;
        self.transmit(Realm::INTERNET, Packet { from, to, ttl: crate::station::TTL, bytes });
    }
}

/// A call is given up after this.
const CALL: Duration = Duration::from_secs(20);
