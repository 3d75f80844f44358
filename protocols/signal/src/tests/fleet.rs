//! Several servers with disks of their own, their clients, and the lines between them, in virtual time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use ginnel_membership::build::{self, Charter, Founded};
use ginnel_membership::invite::Token;
use ginnel_membership::record::ServersChange;
use ginnel_membership::{Entry, NetworkId, Server as ServerRecord, State};
use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::world::{Disk, UNIX, address, config_of, key, limits, member_record};
use crate::client::{self, Broken, Client, Credentials};
use crate::message::{ClientMessage, FoundingToken, Head, Refusal, ServerMessage, Standing, Welcome};
use crate::server::{ConnectionId, Input, Limits, LinkId, Outcome, Output, Server, Stored, StoredEntry};

pub(super) struct Fleet {
    pub(super) now: Instant,
    pub(super) hosts: Vec<Host>,
    clients: BTreeMap<ConnectionId, Guest>,
    links: BTreeMap<(usize, LinkId), (usize, ConnectionId)>,
    /// Pairs of hosts that do not reach each other.
    pub(super) cut: BTreeSet<(usize, usize)>,
    limits: Limits,
    next: u64,
}

pub(super) struct Host {
    pub(super) server: Option<Server>,
    pub(super) disk: Disk,
    /// What a driver remembers elsewhere than on the disk.
    pub(super) witnessed: BTreeMap<NetworkId, Head>,
    starts: u8,
}

struct Guest {
    host: usize,
    client: Client,
    messages: VecDeque<ServerMessage>,
    broken: Option<Broken>,
}

pub(super) fn token(host: usize) -> Token {
    Token::from_bytes([0x70 + u8::try_from(host).unwrap(); 16])
}

pub(super) fn record_of(host: usize) -> ServerRecord {
    let n = u8::try_from(host).unwrap();
    ServerRecord { addresses: vec![format!("203.0.113.{n}:4433")], keys: config_of(n, limits()).keys() }
}

impl Fleet {
    pub(super) fn new(hosts: usize) -> Self {
        Self::with(hosts, limits())
    }

    pub(super) fn with(hosts: usize, limits: Limits) -> Self {
        let disk = |host| Disk {
            stored: Stored { tokens: vec![(FoundingToken(token(host)), None)], ..Stored::default() },
            ..Disk::default()
        };
        let mut fleet = Self {
            now: Instant::ZERO + Duration::from_secs(1000),
            hosts: (0..hosts)
                .map(|host| Host { server: None, disk: disk(host), witnessed: BTreeMap::new(), starts: 0 })
                .collect(),
            clients: BTreeMap::new(),
            links: BTreeMap::new(),
            cut: BTreeSet::new(),
            limits,
            next: 0,
        };
        (0..hosts).for_each(|host| fleet.start(host));
        fleet
    }

    /// A network that every host serves, ordered by host 0, with members 1 to `members`; every mirror is filled.
    pub(super) fn founded(hosts: usize, members: u8) -> (Self, Founded) {
        Self::founded_with(hosts, members, limits())
    }

    pub(super) fn founded_with(hosts: usize, members: u8, limits: Limits) -> (Self, Founded) {
        let mut fleet = Self::with(hosts, limits);
        let charter = Charter {
            name: ginnel_membership::Name::new("home").unwrap(),
            sequencer: record_of(0).keys.sequencer(),
            servers: (0..hosts).map(record_of).collect(),
            ipv4_range: None,
            now: UNIX,
        };
        let founded = build::found(&mut ChaCha20Rng::seed_from_u64(1), charter).unwrap();
        for host in 0..hosts {
            let conn = fleet.connect(host, founded.network, fleet.founder(host, &founded));
            fleet.send(conn, ClientMessage::Found { genesis: founded.genesis.clone() });
            let answers = fleet.answers(conn);
            assert_eq!(answers, [ServerMessage::Appended { sequence: 0 }], "host {host}");
            fleet.hang_up(conn);
        }
        let admin = fleet.admin(0, &founded);
        for member in 1..=members {
            let invite = key(100 + member);
            let expires = UNIX + 360_000;
            let record = build::invite_record(&founded.network, &founded.admin, invite.invite_key(), expires, None);
            fleet.append(admin, record);
            fleet.append(admin, member_record(&founded.network, &invite, member));
            fleet.advance(Duration::from_secs(2));
        }
        fleet.hang_up(admin);
        fleet.advance(Duration::from_secs(20));
        for host in 0..hosts {
            assert_eq!(fleet.head(host, founded.network), fleet.head(0, founded.network), "host {host} is filled");
        }
        (fleet, founded)
    }

    pub(super) fn founder(&self, host: usize, founded: &Founded) -> Credentials {
        assert!(host < self.hosts.len());
        Credentials::Founder { token: token(host), key: founded.admin.clone() }
    }

    /// Starts a server that knows nothing but its disk, as after a reboot.
    pub(super) fn start(&mut self, host: usize) {
        self.hosts[host].witnessed.clear();
        self.start_again(host);
    }

    /// Starts a server that was merely killed.
    pub(super) fn start_again(&mut self, host: usize) {
        let n = u8::try_from(host).unwrap();
        let this = &mut self.hosts[host];
        this.starts += 1;
        let config = config_of(n, self.limits.clone());
        let seed = [10 * n + this.starts; 32];
        let unix = UNIX + self.now.saturating_duration_since(Instant::ZERO).as_secs() - 1000;
        let stored = Stored { witnessed: this.witnessed.clone(), ..this.disk.stored.clone() };
        let server = Server::new(seed, config, stored, self.now, unix).unwrap();
        this.server = Some(server);
        self.run();
    }

    /// Ends a server at once; everybody at the other end of its connections notices.
    pub(super) fn kill(&mut self, host: usize) {
        self.hosts[host].server = None;
        let gone: Vec<_> = self.links.iter().filter(|((from, _), (to, _))| *from == host || *to == host).collect();
        let gone: Vec<_> = gone.into_iter().map(|(from, to)| (*from, *to)).collect();
        for ((from, link), (to, conn)) in gone {
            self.links.remove(&(from, link));
            self.tell(from, Input::LinkClosed { link, why: "killed".to_owned() });
            self.tell(to, Input::Closed { conn });
        }
        let guests = self.clients.values_mut().filter(|guest| guest.host == host);
        for guest in guests {
            let _ = guest.client.handle_input(self.now, client::Input::Closed);
        }
        self.run();
    }

    pub(super) fn connect(&mut self, host: usize, network: NetworkId, credentials: Credentials) -> ConnectionId {
        self.next += 1;
        let conn = ConnectionId(self.next);
        let mut seed = [2; 32];
        seed[..8].copy_from_slice(&self.next.to_be_bytes());
        let mut client = Client::new(seed, record_of(host).keys, network, credentials);
        client.handle_input(self.now, client::Input::Opened).unwrap();
        self.clients.insert(conn, Guest { host, client, messages: VecDeque::new(), broken: None });
        self.tell(host, Input::Opened { conn, from: address(1) });
        self.run();
        conn
    }

    pub(super) fn member(&mut self, host: usize, network: NetworkId, n: u8) -> ConnectionId {
        let conn = self.connect(host, network, Credentials::Member { key: key(n) });
        assert_eq!(self.welcome(conn).standing, Standing::Member);
        conn
    }

    pub(super) fn admin(&mut self, host: usize, founded: &Founded) -> ConnectionId {
        let conn = self.connect(host, founded.network, Credentials::Member { key: founded.admin.clone() });
        assert_eq!(self.welcome(conn).standing, Standing::Admin);
        conn
    }

    pub(super) fn welcome(&mut self, conn: ConnectionId) -> Welcome {
        match self.clients.get_mut(&conn).unwrap().messages.pop_front() {
            Some(ServerMessage::Welcome(welcome)) => welcome,
            other => panic!("no welcome but {other:?}, broken: {:?}", self.clients[&conn].broken),
        }
    }

    pub(super) fn refusal(&self, conn: ConnectionId) -> (Refusal, String) {
        match &self.clients[&conn].broken {
            Some(Broken::Refused { code, text }) => (*code, text.clone()),
            other => panic!("not refused but {other:?}"),
        }
    }

    pub(super) fn send(&mut self, conn: ConnectionId, message: ClientMessage) {
        let client = &mut self.clients.get_mut(&conn).unwrap().client;
        client.handle_input(self.now, client::Input::Send(message)).unwrap();
        self.run();
    }

    pub(super) fn append(&mut self, conn: ConnectionId, record: Vec<u8>) {
        self.send(conn, ClientMessage::Append { record });
    }

    /// Has an admin make `host` the sequencer of servers 0 to `hosts`.
    pub(super) fn promote(&mut self, admin: ConnectionId, founded: &Founded, host: usize, hosts: usize) {
        let change = ServersChange {
            number: self.replay(host, founded.network).next_servers(),
            sequencer: record_of(host).keys.sequencer(),
            servers: (0..hosts).map(record_of).collect(),
        };
        self.append(admin, build::servers_record(&founded.network, &founded.admin, change).unwrap());
    }

    pub(super) fn hang_up(&mut self, conn: ConnectionId) {
        let host = self.clients.remove(&conn).unwrap().host;
        self.tell(host, Input::Closed { conn });
        self.run();
    }

    /// What a client has received since the last call, without the welcome and without pushes.
    pub(super) fn answers(&mut self, conn: ConnectionId) -> Vec<ServerMessage> {
        let mut messages: Vec<_> = self.clients.get_mut(&conn).unwrap().messages.drain(..).collect();
        messages.retain(|message| !matches!(message, ServerMessage::Welcome(_) | ServerMessage::Entries { .. }));
        messages
    }

    /// The same with pushes.
    pub(super) fn messages(&mut self, conn: ConnectionId) -> Vec<ServerMessage> {
        self.clients.get_mut(&conn).unwrap().messages.drain(..).collect()
    }

    /// What a host's disk holds of a network.
    pub(super) fn stored(&mut self, host: usize, network: NetworkId) -> &mut Vec<StoredEntry> {
        let logs = &mut self.hosts[host].disk.stored.logs;
        if !logs.iter().any(|(id, _)| *id == network) {
            logs.push((network, Vec::new()));
        }
        &mut logs.iter_mut().find(|(id, _)| *id == network).unwrap().1
    }

    /// The encoded entries on a host's disk.
    pub(super) fn log(&self, host: usize, network: NetworkId) -> Vec<Vec<u8>> {
        let logs = self.hosts[host].disk.stored.logs.iter();
        let entries = logs.filter(|(id, _)| *id == network).flat_map(|(_, log)| log);
        entries.map(|entry| entry.bytes.clone()).collect()
    }

    /// The log on a host's disk, replayed as a node replays it.
    pub(super) fn replay(&self, host: usize, network: NetworkId) -> State {
        let mut state = State::new(network);
        for (_, log) in self.hosts[host].disk.stored.logs.iter().filter(|(id, _)| *id == network) {
            for entry in log {
                state.apply(&Entry::decode(&entry.bytes).unwrap()).unwrap();
            }
        }
        state
    }

    pub(super) fn head(&self, host: usize, network: NetworkId) -> (u64, [u8; 32]) {
        self.replay(host, network).head()
    }

    pub(super) fn advance(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let clients = self.clients.values().filter_map(|guest| guest.client.poll_timeout());
            let servers = self.hosts.iter().filter_map(|host| host.server.as_ref()?.poll_timeout());
            let Some(at) = clients.chain(servers).min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            let now = self.now;
            for host in &mut self.hosts {
                if let Some(server) = &mut host.server {
                    server.handle_timeout(now);
                }
            }
            self.clients.values_mut().for_each(|guest| guest.client.handle_timeout(now));
            self.run();
            for host in &self.hosts {
                let due = host.server.as_ref().and_then(Server::poll_timeout);
                assert!(due.is_none_or(|due| due > now), "firing a deadline moves it");
            }
        }
        self.now = end;
    }

    fn tell(&mut self, host: usize, input: Input) {
        if let Some(server) = &mut self.hosts[host].server {
            let _ = server.handle_input(self.now, input);
        }
    }

    fn run(&mut self) {
        loop {
            let mut quiet = true;
            for host in 0..self.hosts.len() {
                while let Some(output) = self.hosts[host].server.as_mut().and_then(Server::poll_output) {
                    quiet = false;
                    self.take(host, output);
                }
            }
            let conns: Vec<_> = self.clients.keys().copied().collect();
            for conn in conns {
                while let Some(output) = self.clients.get_mut(&conn).and_then(|guest| guest.client.poll_output()) {
                    quiet = false;
                    self.take_client(conn, output);
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn take_client(&mut self, conn: ConnectionId, output: client::Output) {
        let guest = self.clients.get_mut(&conn).unwrap();
        let host = guest.host;
        match output {
            client::Output::Write(bytes) => self.tell(host, Input::Received { conn, bytes }),
            client::Output::Message(message) => guest.messages.push_back(message),
            client::Output::Broken { reason } => {
                guest.broken = Some(reason);
                self.tell(host, Input::Closed { conn });
            }
            client::Output::Ready => {}
        }
    }

    fn take(&mut self, host: usize, output: Output) {
        let far = |fleet: &Self, conn: ConnectionId| {
            let mut links = fleet.links.iter();
            links.find(|(_, to)| **to == (host, conn)).map(|(from, _)| *from)
        };
        match output {
            Output::Write { conn, bytes } => {
                let length = bytes.len();
                if let Some((from, link)) = far(self, conn) {
                    self.tell(from, Input::LinkReceived { link, bytes });
                } else if let Some(guest) = self.clients.get_mut(&conn) {
                    let _ = guest.client.handle_input(self.now, client::Input::Received(bytes));
                }
                self.tell(host, Input::Flushed { conn, bytes: length });
            }
            Output::Close { conn } => {
                if let Some((from, link)) = far(self, conn) {
                    self.links.remove(&(from, link));
                    self.tell(from, Input::LinkClosed { link, why: "closed".to_owned() });
                } else if let Some(guest) = self.clients.get_mut(&conn) {
                    let _ = guest.client.handle_input(self.now, client::Input::Closed);
                }
            }
            Output::Store { ticket, change } => match &mut self.hosts[host].disk.held {
                Some(held) => held.push_back((ticket, change)),
                None => {
                    let outcome = self.hosts[host].disk.put(&change);
                    self.tell(host, Input::Stored { ticket, outcome });
                }
            },
            Output::Witness { network, head } => {
                let witnessed = &mut self.hosts[host].witnessed;
                match head {
                    Some(head) => witnessed.insert(network, head),
                    None => witnessed.remove(&network),
                };
            }
            Output::Dial { link, addresses } => self.dial(host, link, &addresses),
            Output::LinkWrite { link, bytes } => {
                if let Some((to, conn)) = self.links.get(&(host, link)).copied() {
                    self.tell(to, Input::Received { conn, bytes });
                }
            }
            Output::LinkClose { link } => {
                if let Some((to, conn)) = self.links.remove(&(host, link)) {
                    self.tell(to, Input::Closed { conn });
                }
            }
        }
    }

    fn dial(&mut self, host: usize, link: LinkId, addresses: &[String]) {
        let to = (0..self.hosts.len()).find(|to| record_of(*to).addresses == addresses);
        let reached = to.filter(|to| {
            let pair = (host.min(*to), host.max(*to));
            self.hosts[*to].server.is_some() && !self.cut.contains(&pair)
        });
        let Some(to) = reached else {
            return self.tell(host, Input::LinkClosed { link, why: "nobody there".to_owned() });
        };
        self.next += 1;
        let conn = ConnectionId(self.next);
        self.links.insert((host, link), (to, conn));
        let from = SocketAddr::from(([203, 0, 113, u8::try_from(host).unwrap()], 5000));
        self.tell(to, Input::Opened { conn, from });
        self.tell(host, Input::LinkOpened { link });
    }

    /// Cuts the line between two hosts that are linked.
    pub(super) fn part(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
        let gone: Vec<_> = self.links.iter().map(|(from, to)| (*from, *to)).collect();
        for ((from, link), (to, conn)) in gone {
            if (from == a && to == b) || (from == b && to == a) {
                self.links.remove(&(from, link));
                self.tell(from, Input::LinkClosed { link, why: "cut".to_owned() });
                self.tell(to, Input::Closed { conn });
            }
        }
        self.run();
    }

    /// Lets a held disk answer everything.
    pub(super) fn release(&mut self, host: usize) {
        for (ticket, change) in self.hosts[host].disk.held.take().into_iter().flatten() {
            let outcome: Outcome = self.hosts[host].disk.put(&change);
            self.tell(host, Input::Stored { ticket, outcome });
        }
        self.run();
    }
}
