//! Somebody who is in no network and wants in: it comes to the signaling servers from an address of its own, as often as it
//! can, and guesses, repeats what it has heard others say, or says what nobody says.
//!
//! | deed | what must come of it |
//! |---|---|
//! | invites, member keys, server keys and founding tokens that nobody has given out | it is refused |
//! | an invite that somebody has joined with | it is refused |
//! | what a member has said when it came in, again, cut short, with a bit turned | it is refused |
//! | frames that are none, or end in the middle | they are counted, and the connection ends |
//! | nothing at all, on many connections | they end |
//!
//! Honest machines notice nothing of it: every promise to them holds throughout.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ginnel_membership::invite::Token;
use ginnel_membership::{Invite, NetworkId, ServerKeys, SigningKey};
use ginnel_signal_proto::client::{Input, Output};
use ginnel_signal_proto::{Client, Credentials};
use ginnel_time::Instant;

use crate::dice::Dice;
use crate::fault::Trouble;
use crate::script::Step;
use crate::stream::{Caller, Told};
use crate::world::World;

/// Somebody who wants in.
pub(crate) struct Intruder {
    dice: Dice,
    /// The longest time from one try to the next.
    pace: Duration,
    until: Instant,
    tries: BTreeMap<u32, Try>,
    next: u32,
    /// What machines have said to servers; at most [`MOST_HEARD`], the oldest dropped.
    heard: VecDeque<Vec<u8>>,
}

/// One connection to a server.
enum Try {
    /// With a key or token, in due form; a spoiler turns a bit of what it writes after its hello.
    Claim { client: Box<Client>, spoils: bool, written: u32 },
    /// Bytes, once it is open.
    Bytes(Vec<Vec<u8>>),
}

impl Intruder {
    /// Listens to what a machine says to a server.
    pub(crate) fn overhear(&mut self, bytes: &[u8]) {
        self.heard.push_front(bytes.to_vec());
        self.heard.truncate(MOST_HEARD);
    }

    /// How it tries to come in at a server; `used` is an invite that somebody has joined with.
    fn draw(&mut self, keys: ServerKeys, network: NetworkId, used: Option<Invite>) -> Try {
        let dice = &mut self.dice;
        let key = SigningKey::from_bytes(&dice.seed());
        let guess = SigningKey::from_bytes(&dice.seed());
        let deed = dice.below(12);
        let credentials = match (deed, used) {
            (0, _) => Credentials::Joiner { invite: guess, key },
            (1 | 2, Some(used)) => Credentials::Joiner { invite: used.key().clone(), key },
            (1..=3, _) => Credentials::Member { key },
            (4, _) => Credentials::Mirror { key },
            (5, _) => {
                let token = dice.seed().first_chunk().copied().expect("a seed is longer than a token");
                Credentials::Founder { token: Token::from_bytes(token), key }
            }
            _ => return Try::Bytes(self.odd_bytes(deed)),
        };
        let network = if dice.chance(100) { NetworkId::from_bytes(dice.seed()) } else { network };
        let client = Box::new(Client::new(dice.seed(), keys, network, credentials));
        Try::Claim { client, spoils: dice.chance(100), written: 0 }
    }

    /// What is no handshake, or somebody else's.
    fn odd_bytes(&mut self, deed: u64) -> Vec<Vec<u8>> {
        let dice = &mut self.dice;
        let count = self.heard.len() as u64;
        match deed {
            6 => Vec::new(),
            7 => vec![vec![0xFF; 70_000]],
            8 => (0..dice.between(1, 4)).map(|_| dice.seed()[..7].to_vec()).collect(),
            _ if count == 0 => vec![dice.seed().to_vec()],
            9 | 10 => {
                // In the order in which it was said.
                let from = usize::try_from(dice.below(count)).expect("an index fits");
                self.heard.range(..=from).rev().take(3).cloned().collect()
            }
            _ => {
                let place = usize::try_from(dice.below(count)).expect("an index fits");
                let mut bytes = self.heard[place].clone();
                turn(dice, &mut bytes);
                bytes.truncate(usize::try_from(dice.between(1, bytes.len().max(1) as u64)).expect("an index fits"));
                vec![bytes]
            }
        }
    }
}

impl World {
    /// Lets somebody who is in no network try to come in, until a time.
    pub(crate) fn begin_intrusion(&mut self, seed: u64, until: Instant) {
        self.script.company.hostile_to_servers = true;
        let mut dice = Dice::labelled(seed, *b"enter");
        let pace = dice.millis(40, 1000);
        let (tries, heard) = (BTreeMap::new(), VecDeque::new());
        self.intruder = Some(Intruder { dice, pace, until, tries, next: 0, heard });
        self.step_at(self.now, Step::Intrude);
    }

    /// One try to come in, and the time of the next.
    pub(crate) fn intrude(&mut self) {
        let used = self.used_invite();
        let (Some(network), Some(intruder)) = (self.machines[0].network(), self.intruder.as_mut()) else { return };
        let over = self.now >= intruder.until;
        let idle = intruder.tries.len() >= MOST_TRIES || intruder.dice.chance(200);
        let given_up: Vec<u32> =
            intruder.tries.keys().copied().take(if over { usize::MAX } else { usize::from(idle) }).collect();
        for number in given_up {
            self.give_up(number);
        }
        let Some(intruder) = self.intruder.as_mut().filter(|_| !over) else { return };
        let host = usize::try_from(intruder.dice.below(self.servers as u64)).expect("few servers");
        let attempt = intruder.draw(self.hosts[host].server_keys(), network, used);
        intruder.next += 1;
        let number = intruder.next;
        intruder.tries.insert(number, attempt);
        let next = self.now + intruder.dice.time(Duration::from_millis(1), intruder.pace);
        self.drills.intrusions += 1;
        self.connect(Caller::Intruder(number), &[self.hosts[host].name()]);
        self.step_at(next, Step::Intrude);
    }

    /// Something has happened to a connection of the intruder.
    pub(crate) fn intruder_told(&mut self, number: u32, told: Told) {
        let now = self.now;
        let Some(intruder) = self.intruder.as_mut() else { return };
        let Some(attempt) = intruder.tries.get_mut(&number) else { return };
        let (written, ended) = match attempt {
            Try::Bytes(bytes) => match told {
                Told::Opened(_) => (std::mem::take(bytes), false),
                Told::Bytes(_) => (Vec::new(), false),
                Told::Closed(_) => (Vec::new(), true),
            },
            Try::Claim { client, spoils, written } => {
                let input = match told {
                    Told::Opened(_) => Input::Opened,
                    Told::Bytes(bytes) => Input::Received(bytes),
                    Told::Closed(_) => Input::Closed,
                };
                // A client that is over takes nothing.
                let _ = client.handle_input(now, input);
                let (mut out, mut ended) = (Vec::new(), false);
                while let Some(output) = client.poll_output() {
                    match output {
                        Output::Write(mut bytes) => {
                            *written += 1;
                            if *spoils && *written > 1 {
                                turn(&mut intruder.dice, &mut bytes);
                            }
                            out.push(bytes);
                        }
                        Output::Ready => self.ledger.violate(now, "somebody who is in no network was let in"),
                        Output::Message(_) => {}
                        Output::Broken { .. } => ended = true,
                    }
                }
                (out, ended)
            }
        };
        for bytes in written {
            self.write_up(Caller::Intruder(number), bytes);
        }
        if ended {
            self.give_up(number);
        }
    }

    fn give_up(&mut self, number: u32) {
        if let Some(intruder) = &mut self.intruder {
            intruder.tries.remove(&number);
        }
        self.disconnect(Caller::Intruder(number));
    }

    /// An invite that a machine has joined with, where no server can have forgotten that.
    fn used_invite(&self) -> Option<Invite> {
        let forgetful =
            |trouble: &Trouble| matches!(trouble, Trouble::RollBack(..) | Trouble::Wiped(_) | Trouble::TwoFaces);
        let sound = !self.script.faults.iter().any(|fault| forgetful(&fault.what));
        self.script.tickets.values().next().filter(|_| sound).and_then(|ticket| ticket.parse().ok())
    }
}

/// Turns a bit.
fn turn(dice: &mut Dice, bytes: &mut [u8]) {
    let place = usize::try_from(dice.below(bytes.len().max(1) as u64)).expect("an index fits");
    if let Some(byte) = bytes.get_mut(place) {
        *byte ^= 1 << dice.below(8);
    }
}

/// Where the intruder is.
pub(crate) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(45, 84, 0, 66));
const MOST_HEARD: usize = 32;
/// Connections at a time.
const MOST_TRIES: usize = 300;
