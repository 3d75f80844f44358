//! Somebody who is in no network and wants in: it comes to the signaling servers from an address of its own, as often as it
//! can, and guesses, repeats what it has heard others say, or says what nobody says.
//!
//! | deed | what must come of it |
//! |---|---|
//! | invites, member keys, server keys and founding tokens that nobody has given out | it is refused |
//! | an invite that somebody has joined with | it is refused |
//! | what a member has said when it came in to the same server, again, cut short, with a bit turned | it is refused, with no more than the answer to a handshake |
//! | frames that are none, or end in the middle | they are counted, and the connection ends |
//! | nothing at all, on many connections | the server ends them by its deadline |
//!
//! Honest machines notice nothing of it: every promise to them holds throughout.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ginnel_membership::invite::Token;
use ginnel_membership::{Invite, NetworkId, ServerKeys, SigningKey};
use ginnel_signal_proto::client::{Input, Output};
use ginnel_signal_proto::server::{ConnectionId, PROOF_DEADLINE};
use ginnel_signal_proto::{Client, Credentials};
use ginnel_time::Instant;

use crate::dice::Dice;
use crate::fault::Trouble;
use crate::machine::Manners;
use crate::script::Step;
use crate::stream::{Caller, Told};
use crate::world::World;

/// Somebody who wants in.
pub(crate) struct Intruder {
    dice: Dice,
    /// The longest time from one try to the next.
    pace: Duration,
    until: Instant,
    tries: BTreeMap<u32, Attempt>,
    next: u32,
}

/// What machines have said when they came in to servers: the beginnings of at most [`MOST_HEARD`] connections, the oldest
/// dropped.
#[derive(Default)]
pub(crate) struct Heard(VecDeque<Beginning>);

struct Beginning {
    conn: ConnectionId,
    host: usize,
    writes: Vec<Vec<u8>>,
}

impl Heard {
    /// Listens to what a machine says to a server.
    pub(crate) fn overhear(&mut self, conn: ConnectionId, host: usize, bytes: &[u8]) {
        match self.0.iter_mut().find(|beginning| beginning.conn == conn) {
            Some(beginning) if beginning.writes.len() < BEGINNING => beginning.writes.push(bytes.to_vec()),
            Some(_) => {}
            None => {
                self.0.push_back(Beginning { conn, host, writes: vec![bytes.to_vec()] });
                if self.0.len() > MOST_HEARD {
                    self.0.pop_front();
                }
            }
        }
    }

    /// The beginnings of connections to one server.
    fn with(&self, host: usize) -> Vec<&[Vec<u8>]> {
        let beginnings = self.0.iter().filter(|beginning| beginning.host == host);
        beginnings.map(|beginning| beginning.writes.as_slice()).collect()
    }
}

/// One connection to a server.
struct Attempt {
    what: Try,
    host: usize,
    /// When it learnt that it was open, later than the server.
    opened: Option<Instant>,
    /// Bytes that the server has said.
    answered: usize,
}

enum Try {
    /// With a key or token, in due form; a spoiler turns a bit of what it writes after its hello.
    Claim { client: Box<Client>, spoils: bool, written: u32 },
    /// Bytes, once it is open.
    Bytes(Vec<Vec<u8>>),
    /// Nothing, for as long as the server bears it.
    Silent,
}

impl Intruder {
    /// How it tries to come in at a server; `used` is an invite that somebody has joined with.
    fn draw(&mut self, keys: ServerKeys, network: NetworkId, used: Option<Invite>, heard: &[&[Vec<u8>]]) -> Try {
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
            (6, _) => return Try::Silent,
            _ => return Try::Bytes(self.odd_bytes(deed, heard)),
        };
        let network = if dice.chance(100) { NetworkId::from_bytes(dice.seed()) } else { network };
        let client = Box::new(Client::new(dice.seed(), keys, network, credentials));
        Try::Claim { client, spoils: dice.chance(100), written: 0 }
    }

    /// What is no handshake, or somebody else's.
    fn odd_bytes(&mut self, deed: u64, heard: &[&[Vec<u8>]]) -> Vec<Vec<u8>> {
        let dice = &mut self.dice;
        if heard.is_empty() && deed > 8 {
            return vec![dice.seed().to_vec()];
        }
        match deed {
            7 => vec![vec![0xFF; 70_000]],
            8 => (0..dice.between(1, 4)).map(|_| dice.seed()[..7].to_vec()).collect(),
            9 | 10 => dice.pick(heard).to_vec(),
            _ => {
                let said = dice.pick(heard);
                let place = usize::try_from(dice.below(said.len() as u64)).expect("an index fits");
                let mut bytes = said[place].clone();
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
        self.script.company.servers = Manners::Hostile;
        let mut dice = Dice::labelled(seed, *b"enter");
        let pace = dice.millis(40, 1000);
        self.intruder = Some(Intruder { dice, pace, until, tries: BTreeMap::new(), next: 0 });
        self.step_at(self.now, Step::Intrude);
    }

    /// One try to come in, and the time of the next.
    pub(crate) fn intrude(&mut self) {
        self.check_borne();
        let used = self.used_invite();
        let (Some(network), Some(intruder)) = (self.machines[0].network(), self.intruder.as_mut()) else { return };
        let over = self.now >= intruder.until;
        let idle = intruder.tries.len() >= MOST_TRIES || intruder.dice.chance(200);
        // What is silent stays until the server ends it.
        let talking = intruder.tries.iter().filter(|(_, attempt)| !matches!(attempt.what, Try::Silent));
        let given_up: Vec<u32> =
            talking.map(|(number, _)| *number).take(if over { usize::MAX } else { usize::from(idle) }).collect();
        for number in given_up {
            self.give_up(number);
        }
        let waits = self.intruder.as_ref().is_some_and(|intruder| !intruder.tries.is_empty());
        if over && waits {
            self.step_at(self.now + PROOF_DEADLINE, Step::Intrude);
        }
        let Some(intruder) = self.intruder.as_mut().filter(|_| !over) else { return };
        let host = usize::try_from(intruder.dice.below(self.servers as u64)).expect("few servers");
        let what = intruder.draw(self.hosts[host].server_keys(), network, used, &self.heard.with(host));
        intruder.next += 1;
        let number = intruder.next;
        intruder.tries.insert(number, Attempt { what, host, opened: None, answered: 0 });
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
        match &told {
            Told::Opened(_) => attempt.opened = Some(now),
            Told::Bytes(bytes) => attempt.answered += bytes.len(),
            Told::Closed(_) => {}
        }
        let most = match attempt.what {
            Try::Claim { .. } => usize::MAX,
            Try::Bytes(_) => HANDSHAKE_ANSWER,
            Try::Silent => 0,
        };
        if attempt.answered > most {
            let text = format!("server {} has said {} bytes to no member", attempt.host, attempt.answered);
            self.ledger.violate(now, &text);
        }
        let (written, ended) = match &mut attempt.what {
            Try::Silent => (Vec::new(), matches!(told, Told::Closed(_))),
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

    /// Complains of connections that have proved nothing for too long, and that their server bears.
    fn check_borne(&mut self) {
        let now = self.now;
        let Some(intruder) = &self.intruder else { return };
        let late = |opened: Instant| now > opened + PROOF_DEADLINE;
        let old = intruder.tries.iter().filter(|(_, attempt)| attempt.opened.is_some_and(late));
        let borne = old.filter(|(number, attempt)| self.is_held(Caller::Intruder(**number), attempt.host));
        let borne: Vec<usize> = borne.map(|(_, attempt)| attempt.host).collect();
        for host in borne {
            self.ledger.violate(now, &format!("server {host} bears a connection of no member"));
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
const MOST_HEARD: usize = 64;
/// Writes in which a machine comes in: its half of the handshake, its proof, and what it asks for first.
const BEGINNING: usize = 3;
/// Bytes of the server's half of a handshake, at most.
const HANDSHAKE_ANSWER: usize = 64;
/// Connections at a time.
const MOST_TRIES: usize = 300;
