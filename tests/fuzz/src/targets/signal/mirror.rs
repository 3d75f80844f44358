//! A mirror that follows a sequencer over a stream that is cut and damaged.

use std::net::SocketAddr;
use std::time::Duration;

use ginnel_membership::build::{Charter, found, invite_record};
use ginnel_membership::{Name, NetworkId, Sequencer, SigningKey};
use ginnel_signal_proto::Server;
use ginnel_signal_proto::server::{
    Change, Config, ConnectionId, Input as ServerInput, LinkId, Outcome, Output as ServerOutput, Stored,
};
use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::{UNIX, config, keys, new_server, sequencer};
use crate::feed::{Feed, salt};

/// A network with two servers, and its log of three entries.
fn two_servers() -> (NetworkId, Vec<Vec<u8>>) {
    let other = Config { noise: [0x52; 32].into(), ..config(SigningKey::from_bytes(&[0x5f; 32])) }.keys();
    let server = |address: &str, keys| ginnel_membership::Server { addresses: vec![address.to_owned()], keys };
    let servers = vec![server("203.0.113.1:4433", keys()), server("203.0.113.2:4433", other)];
    let name = Name::new("home").expect("a name");
    let charter = Charter { name, sequencer: keys().sequencer(), servers, ipv4_range: None, now: UNIX };
    let founded = found(&mut ChaCha20Rng::from_seed([4; 32]), charter).expect("the charter is sound");
    let (mut log, first) = Sequencer::found(sequencer(), UNIX, &founded.genesis).expect("a good genesis");
    let mut entries = vec![first.encode()];
    for seed in [9, 10] {
        let invite = SigningKey::from_bytes(&[seed; 32]).invite_key();
        let record = invite_record(&founded.network, &founded.admin, invite, UNIX + 60, None);
        entries.push(log.append(UNIX, &record).expect("an admin invites").encode());
    }
    (founded.network, entries)
}

pub(super) fn mirror(data: &[u8]) {
    let mut feed = Feed::new(data);
    let mut pair = Pair::new(data);
    loop {
        pair.drain_mirror();
        pair.drain_sequencer();
        if feed.is_empty() {
            return;
        }
        pair.step(&mut feed);
    }
}

/// A sequencer and its mirror, with the stream between them.
struct Pair {
    /// The sequencer's log.
    entries: Vec<Vec<u8>>,
    now: Instant,
    sequencer: Server,
    mirror: Server,
    /// The mirror's end of the stream, while there is one.
    link: Option<LinkId>,
    /// The sequencer's end of the newest stream.
    conn: ConnectionId,
    /// Bytes on their way to the sequencer.
    up: Vec<u8>,
    /// Bytes on their way to the mirror.
    down: Vec<u8>,
    /// How many entries the mirror holds.
    taken: u64,
}

impl Pair {
    fn new(data: &[u8]) -> Self {
        let (network, entries) = two_servers();
        let now = Instant::ZERO + Duration::from_secs(10);
        let sequencer = new_server(now, salt(data), vec![(network, entries.clone())]);
        let known = vec![(network, vec![entries[0].clone().into()])];
        let stored = Stored { logs: known, ..Stored::default() };
        let config = Config { noise: [0x52; 32].into(), ..config(SigningKey::from_bytes(&[0x5f; 32])) };
        let seed = salt(&[data, &[1]].concat());
        let mut mirror = Server::new(seed, config, stored, now, UNIX).expect("what is stored is sound");
        mirror.handle_timeout(now);
        let (up, down) = (Vec::new(), Vec::new());
        Self { entries, now, sequencer, mirror, link: None, conn: ConnectionId(0), up, down, taken: 1 }
    }

    fn drain_mirror(&mut self) {
        let now = self.now;
        while let Some(output) = self.mirror.poll_output() {
            match output {
                ServerOutput::Dial { link, .. } => {
                    (self.link, self.conn) = (Some(link), ConnectionId(self.conn.0 + 1));
                    (self.up, self.down) = (Vec::new(), Vec::new());
                    let from = SocketAddr::from(([203, 0, 113, 2], 4000));
                    let _ = self.sequencer.handle_input(now, ServerInput::Opened { conn: self.conn, from });
                    let _ = self.mirror.handle_input(now, ServerInput::LinkOpened { link });
                }
                ServerOutput::LinkWrite { bytes, .. } => self.up.extend(bytes),
                ServerOutput::LinkClose { .. } => {
                    let _ = self.sequencer.handle_input(now, ServerInput::Closed { conn: self.conn });
                    self.link = None;
                }
                ServerOutput::Store { ticket, change } => {
                    if let Change::Append { sequence, entry, .. } = change {
                        self.append(sequence, &entry.bytes);
                    }
                    let _ = self.mirror.handle_input(now, ServerInput::Stored { ticket, outcome: Outcome::Durable });
                }
                _ => {}
            }
        }
    }

    /// The mirror stores an entry, which nobody but the sequencer can have made.
    fn append(&mut self, sequence: u64, entry: &[u8]) {
        assert_eq!(
            self.entries.get(sequence as usize).map(Vec::as_slice),
            Some(entry),
            "a mirror stores a forged entry"
        );
        assert_eq!(sequence, self.taken);
        self.taken += 1;
    }

    fn drain_sequencer(&mut self) {
        let (now, conn) = (self.now, self.conn);
        while let Some(output) = self.sequencer.poll_output() {
            match output {
                ServerOutput::Write { conn: to, bytes } if to == conn => {
                    let _ = self.sequencer.handle_input(now, ServerInput::Flushed { conn, bytes: bytes.len() });
                    self.down.extend(bytes);
                }
                ServerOutput::Close { .. } => {
                    if let Some(link) = self.link.take() {
                        let why = "closed".to_owned();
                        let _ = self.mirror.handle_input(now, ServerInput::LinkClosed { link, why });
                    }
                }
                ServerOutput::Store { .. } => panic!("the mirror made the sequencer store something"),
                _ => {}
            }
        }
    }

    fn step(&mut self, feed: &mut Feed<'_>) {
        let (now, conn) = (self.now, self.conn);
        match (feed.u8() % 5, self.link) {
            (kind @ (0 | 1), Some(link)) => {
                let length = if kind == 0 { self.down.len().min(feed.u8().into()) } else { self.down.len() };
                let rest = self.down.split_off(length);
                let bytes = std::mem::replace(&mut self.down, rest);
                let _ = self.mirror.handle_input(now, ServerInput::LinkReceived { link, bytes });
                let bytes = std::mem::take(&mut self.up);
                let _ = self.sequencer.handle_input(now, ServerInput::Received { conn, bytes });
            }
            (2, Some(link)) => {
                let bytes = feed.spoil(std::mem::take(&mut self.down));
                let _ = self.mirror.handle_input(now, ServerInput::LinkReceived { link, bytes });
            }
            (3, Some(_)) => {
                let bytes = feed.spoil(std::mem::take(&mut self.up));
                let _ = self.sequencer.handle_input(now, ServerInput::Received { conn, bytes });
            }
            _ => {
                self.now += Duration::from_millis(u64::from(feed.u8()) * 100);
                self.mirror.handle_timeout(self.now);
                self.sequencer.handle_timeout(self.now);
            }
        }
    }
}
