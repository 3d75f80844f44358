//! The signaling servers of the world, and their disks.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ginnel_membership::invite::Token;
use ginnel_membership::{Founding, NetworkId, ServerKeys, SigningKey};
use ginnel_signal_proto::server::{
    Change, Config as SignalConfig, ConnectionId, Input as SignalInput, Limits, LinkId, Outcome,
    Output as SignalOutput, Stored,
};
use ginnel_signal_proto::{FoundingToken, Server as Signal};
use ginnel_tunnel::StaticSecret;

use super::relay::Relay;
use super::{Item, LAN_ADDRESS, SERVER_PORT, STUN_PORT, World, wall};
use crate::io::ServerId;

/// Who is at the other end of a server's connection.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// A machine's stream: its link and the link's serial.
    Machine(usize, ServerId, u64),
    Host(usize, LinkId),
}

/// What a server's disk says of what it is to write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    Durable,
    /// Nothing, ever.
    Unanswered,
}

/// What comes of dialling a server that cannot be reached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialled {
    Refused,
    /// Nothing, ever.
    Unanswered,
}

pub(crate) struct Host {
    pub(super) signal: Option<Signal>,
    pub(crate) key: SigningKey,
    noise: [u8; 32],
    token: [u8; 16],
    pub(crate) disk: Stored,
    /// Connections by number: machine, its link, the link's serial.
    pub(super) lines: BTreeMap<u64, End>,
    /// Links to fellow servers: which one, and the number of the connection there.
    pub(super) links: BTreeMap<u64, (usize, u64)>,
    starts: u8,
    pub(crate) writes: Writes,
    /// Seconds by which the wall clock is wrong.
    pub(crate) ahead: i64,
    /// Whether it sees machines by their addresses behind the NATs.
    pub(crate) sees_lan: bool,
    pub(crate) relay: Option<Relay>,
}

impl Host {
    pub(super) fn new(number: usize) -> Self {
        let token = [50 + number as u8; 16];
        let tokens = vec![(FoundingToken(Token::from_bytes(token)), None)];
        Self {
            signal: None,
            key: SigningKey::from_bytes(&[100 + number as u8; 32]),
            noise: [120 + number as u8; 32],
            token,
            disk: Stored { tokens, ..Stored::default() },
            lines: BTreeMap::new(),
            links: BTreeMap::new(),
            starts: 0,
            writes: Writes::Durable,
            ahead: 0,
            sees_lan: false,
            relay: None,
        }
    }

    pub(super) fn keep(&mut self, change: Change) {
        match change {
            Change::Found { network, token, entry } => {
                self.disk.logs.push((network, vec![entry]));
                self.use_token(&token, network);
            }
            Change::Append { network, sequence, entry } => {
                let log = self.disk.logs.iter_mut().find(|(id, _)| *id == network);
                let log = match log {
                    Some((_, log)) => log,
                    None => {
                        self.disk.logs.push((network, Vec::new()));
                        &mut self.disk.logs.last_mut().expect("just pushed").1
                    }
                };
                assert_eq!(log.len() as u64, sequence, "a log has no gap");
                log.push(entry);
            }
            Change::Spend { network, token } => self.use_token(&token, network),
            Change::Mend { .. } | Change::Cut { .. } => panic!("{change:?}: the disk is sound"),
            Change::Adopt { network, token, genesis } => {
                self.disk.adopted.push((network, genesis));
                self.use_token(&token, network);
            }
        }
    }

    fn use_token(&mut self, token: &FoundingToken, network: NetworkId) {
        for (known, usage) in &mut self.disk.tokens {
            if known == token {
                *usage = Some(network);
            }
        }
    }
}

impl World {
    pub(crate) fn server(&self, host: usize) -> ginnel_membership::Server {
        let host_keys = &self.hosts[host];
        let noise = StaticSecret::from_bytes(host_keys.noise).public().to_bytes();
        let keys = ServerKeys { signing: host_keys.key.sequencer_key().to_bytes(), noise };
        ginnel_membership::Server {
            addresses: vec![SocketAddr::new(host_address(host), SERVER_PORT).to_string()],
            keys,
        }
    }

    pub(crate) fn founding(&self, host: usize) -> String {
        let token = Token::from_bytes(self.hosts[host].token);
        Founding::new(self.server(host), token).expect("one address fits").to_string()
    }

    /// Takes a stopped server's disk away; its keys are kept, and it prints a fresh founding string.
    pub(crate) fn wipe_host(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        assert!(host.signal.is_none());
        host.token[0] ^= 0x80;
        let tokens = vec![(FoundingToken(Token::from_bytes(host.token)), None)];
        host.disk = Stored { tokens, ..Stored::default() };
    }

    /// Gives a stopped server a fresh founding string beside the used one.
    pub(crate) fn renew_founding(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        assert!(host.signal.is_none());
        host.token[1] ^= 0x80;
        host.disk.tokens.push((FoundingToken(Token::from_bytes(host.token)), None));
    }

    /// Starts a server anew with a relay.
    pub(crate) fn give_relay(&mut self, number: usize) {
        self.stop_host(number);
        self.hosts[number].relay = Some(Relay::new(SocketAddr::new(host_address(number), STUN_PORT)));
        self.start_host(number);
    }

    pub(crate) fn start_host(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        host.starts += 1;
        let config = SignalConfig {
            noise: host.noise.into(),
            sequencer: host.key.clone(),
            stun_ports: vec![STUN_PORT],
            relay: host.relay.as_ref().map(Relay::issuer),
            limits: Limits { log_entries: 1 << 20, log_bytes: 1 << 30, ..Limits::default() },
        };
        let wall = wall(self.now, host.ahead);
        let seed = [host.starts; 32];
        let signal =
            Signal::new(seed, config, host.disk.clone(), self.now, wall).expect("the disk holds what it wrote");
        host.signal = Some(signal);
    }

    pub(crate) fn stop_host(&mut self, number: usize) {
        self.hosts[number].signal = None;
        let lines = std::mem::take(&mut self.hosts[number].lines);
        for end in lines.into_values() {
            self.end(end, "connection lost");
        }
        for (fellow, serial) in std::mem::take(&mut self.hosts[number].links).into_values() {
            self.hosts[fellow].lines.remove(&serial);
            self.tell_host(fellow, SignalInput::Closed { conn: ConnectionId(serial) });
        }
    }

    /// Keeps two servers from each other.
    pub(crate) fn part_hosts(&mut self, one: usize, other: usize, dialled: Dialled) {
        self.apart.insert((one.min(other), one.max(other)), dialled);
        for (number, fellow) in [(one, other), (other, one)] {
            let links = self.hosts[number].links.iter().filter(|(_, (at, _))| *at == fellow);
            let links: Vec<(u64, u64)> = links.map(|(link, (_, serial))| (*link, *serial)).collect();
            for (link, serial) in links {
                self.hangup(fellow, serial);
                self.later(Item::LinkDown { host: number, link: LinkId(link), news: None });
            }
        }
    }

    /// A server answers STUN, and relays if it has a relay.
    pub(super) fn host_datagram(&mut self, number: usize, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let now = self.now;
        let host = &mut self.hosts[number];
        let seen = if host.sees_lan { SocketAddr::new(LAN_ADDRESS, from.port()) } else { from };
        if host.signal.is_none() {
            return;
        }
        if let Ok(bytes) = ginnel_stun::answer_binding(bytes, seen) {
            self.later(Item::Datagram { from: to, to: from, bytes });
        } else if let Some(relay) = &mut host.relay {
            for (from, to, bytes) in relay.take(now, from, to, bytes) {
                self.later(Item::Datagram { from, to, bytes });
            }
        }
    }

    /// The server that is meant by the first of some addresses.
    pub(super) fn host_named(&self, addresses: &[String]) -> Option<usize> {
        let wanted: SocketAddr = addresses.first()?.parse().ok()?;
        self.host_at(wanted.ip())
    }

    pub(super) fn host_at(&self, address: IpAddr) -> Option<usize> {
        (0..self.hosts.len()).find(|number| host_address(*number) == address)
    }

    /// One server opens a stream to another.
    fn dial(&mut self, number: usize, link: LinkId, addresses: &[String]) {
        let named = self.host_named(addresses);
        let apart = named.and_then(|fellow| self.apart.get(&(number.min(fellow), number.max(fellow))).copied());
        if apart == Some(Dialled::Unanswered) {
            return;
        }
        match named.filter(|fellow| apart.is_none() && self.hosts[*fellow].signal.is_some()) {
            Some(fellow) => {
                self.order += 1;
                let serial = self.order;
                self.hosts[number].links.insert(link.0, (fellow, serial));
                self.hosts[fellow].lines.insert(serial, End::Host(number, link));
                let from = SocketAddr::new(host_address(number), 6000);
                self.tell_host(fellow, SignalInput::Opened { conn: ConnectionId(serial), from });
                self.later(Item::LinkDown { host: number, link, news: Some(Vec::new()) });
            }
            None => self.later(Item::LinkDown { host: number, link, news: None }),
        }
    }

    pub(super) fn tell_host(&mut self, number: usize, input: SignalInput) {
        let now = self.now;
        if let Some(signal) = &mut self.hosts[number].signal {
            let _ = signal.handle_input(now, input);
            self.serve(number);
        }
    }

    pub(super) fn serve(&mut self, number: usize) {
        while let Some(output) = self.hosts[number].signal.as_mut().and_then(Signal::poll_output) {
            match output {
                SignalOutput::Write { conn, bytes } => {
                    let length = bytes.len();
                    let item = match self.hosts[number].lines.get(&conn.0).copied() {
                        Some(End::Machine(machine, server, serial)) => Item::Down { machine, server, serial, bytes },
                        Some(End::Host(host, link)) => Item::LinkDown { host, link, news: Some(bytes) },
                        None => continue,
                    };
                    self.later(item);
                    self.tell_host(number, SignalInput::Flushed { conn, bytes: length });
                }
                SignalOutput::Close { conn } => {
                    if let Some(end) = self.hosts[number].lines.remove(&conn.0) {
                        self.end(end, "the server closed");
                    }
                }
                SignalOutput::Dial { link, addresses } => self.dial(number, link, &addresses),
                SignalOutput::LinkWrite { link, bytes } => self.later(Item::LinkUp { host: number, link, bytes }),
                SignalOutput::LinkClose { link } => {
                    if let Some((fellow, serial)) = self.hosts[number].links.remove(&link.0) {
                        self.hosts[fellow].lines.remove(&serial);
                        self.tell_host(fellow, SignalInput::Closed { conn: ConnectionId(serial) });
                    }
                }
                SignalOutput::Witness { .. } => {}
                SignalOutput::Store { .. } if self.hosts[number].writes == Writes::Unanswered => {}
                SignalOutput::Store { ticket, change } => {
                    self.hosts[number].keep(change);
                    self.tell_host(number, SignalInput::Stored { ticket, outcome: Outcome::Durable });
                }
            }
        }
    }

    fn end(&mut self, end: End, reason: &'static str) {
        self.later(match end {
            End::Machine(machine, server, serial) => Item::Closed { machine, server, serial, reason },
            End::Host(host, link) => Item::LinkDown { host, link, news: None },
        });
    }
}

pub(crate) fn host_address(host: usize) -> IpAddr {
    IpAddr::from([203, 0, 113, 1 + host as u8])
}
