//! A network of clients, one server and its peers in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_time::Instant;
use ginnel_turn::client::{self, Client};
use ginnel_turn::server::{self, AllocationId, Quotas, Server};
use ginnel_turn::{AddressFamily, Credentials};

pub(crate) const SECRET: &[u8] = b"a secret of enough bytes";
pub(crate) const REALM: &str = "relay.test";
pub(crate) const WALL: u64 = 1_700_000_000;
pub(crate) const DELAY: Duration = Duration::from_millis(10);

pub(crate) fn server_address() -> SocketAddr {
    "203.0.113.1:3478".parse().unwrap()
}

pub(crate) fn relay_address(family: AddressFamily) -> IpAddr {
    match family {
        AddressFamily::Ipv4 => "203.0.113.2".parse().unwrap(),
        AddressFamily::Ipv6 => "2001:db8:2::2".parse().unwrap(),
    }
}

pub(crate) fn client_address(index: usize) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, u8::try_from(index + 1).unwrap()], 40_000))
}

pub(crate) fn config() -> server::Config {
    server::Config {
        realm: REALM.to_owned(),
        secret: SECRET.to_vec().into(),
        relay_addresses: vec![relay_address(AddressFamily::Ipv4), relay_address(AddressFamily::Ipv6)],
        ports: 50_000..=50_999,
        quotas: Quotas::default(),
        policy: Box::new(|address| match address.to_canonical() {
            IpAddr::V4(ip) => !ip.is_private() && !ip.is_loopback() && !ip.is_unspecified(),
            IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unspecified(),
        }),
        nonce_lifetime: Duration::from_secs(3600),
    }
}

pub(crate) fn credentials(name: &str) -> Credentials {
    Credentials::time_limited(SECRET, WALL + 86_400, name)
}

pub(crate) struct End {
    pub(crate) address: SocketAddr,
    pub(crate) client: Client,
    pub(crate) seen: Vec<client::Output>,
}

impl End {
    pub(crate) fn relayed(&self) -> Option<SocketAddr> {
        self.seen.iter().rev().find_map(|output| match output {
            client::Output::Allocated { relayed, .. } => Some(*relayed),
            _ => None,
        })
    }

    pub(crate) fn data(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        let data = |output: &client::Output| match output {
            client::Output::Data { peer, bytes } => Some((*peer, bytes.clone())),
            _ => None,
        };
        self.seen.iter().filter_map(data).collect()
    }

    pub(crate) fn has(&self, wanted: impl Fn(&client::Output) -> bool) -> bool {
        self.seen.iter().any(wanted)
    }

    pub(crate) fn is_bound(&self, peer: SocketAddr) -> bool {
        self.has(|output| matches!(output, client::Output::Bound { peer: bound, .. } if *bound == peer))
    }
}

#[derive(Clone, Debug)]
enum Parcel {
    ToServer { from: SocketAddr, bytes: Vec<u8> },
    ToClient { to: SocketAddr, bytes: Vec<u8> },
}

/// Decides whether the n-th datagram between clients and server arrives.
pub(crate) type Loss = Box<dyn FnMut(usize, &[u8]) -> bool>;

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) server: Server,
    pub(crate) ends: Vec<End>,
    pub(crate) ports: BTreeMap<AllocationId, SocketAddr>,
    /// Ports that something else on the machine has.
    pub(crate) occupied: BTreeSet<u16>,
    /// What left for peers: from which relayed address, to whom.
    pub(crate) relayed: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    /// Every datagram between clients and server, lost ones included.
    pub(crate) trace: Vec<Vec<u8>>,
    pub(crate) server_discards: Vec<server::Discard>,
    pub(crate) client_discards: Vec<client::Discard>,
    pub(crate) lost: Loss,
    in_flight: BTreeMap<(Instant, usize), Parcel>,
    wall_offset: u64,
}

impl World {
    pub(crate) fn new(config: server::Config) -> Self {
        let mut world = Self {
            now: Instant::ZERO + Duration::from_secs(1000),
            server: Server::new([9; 32], config).unwrap(),
            ends: Vec::new(),
            ports: BTreeMap::new(),
            occupied: BTreeSet::new(),
            relayed: Vec::new(),
            trace: Vec::new(),
            server_discards: Vec::new(),
            client_discards: Vec::new(),
            lost: Box::new(|_, _| false),
            in_flight: BTreeMap::new(),
            wall_offset: 0,
        };
        world.server.handle_input(world.now, server::Input::Wall(WALL)).unwrap();
        world
    }

    /// A world with one client that has its allocation.
    pub(crate) fn with_allocation() -> Self {
        let mut world = Self::new(config());
        world.add("alice", AddressFamily::Ipv4);
        world.input(0, client::Input::Allocate);
        world.run(Duration::from_secs(1));
        assert!(world.ends[0].relayed().is_some(), "{:?}", world.ends[0].seen);
        world
    }

    pub(crate) fn add(&mut self, name: &str, family: AddressFamily) -> usize {
        self.add_with(credentials(name), family)
    }

    pub(crate) fn add_with(&mut self, credentials: Credentials, family: AddressFamily) -> usize {
        let index = self.ends.len();
        let config = client::Config { server: server_address(), credentials, family };
        let seed = [u8::try_from(index).unwrap(); 32];
        let end = End { address: client_address(index), client: Client::new(seed, config), seen: Vec::new() };
        self.ends.push(end);
        index
    }

    /// The server restarts: it remembers nothing, and its relay sockets are closed.
    pub(crate) fn restart_server(&mut self, config: server::Config) {
        self.server = Server::new([77; 32], config).unwrap();
        self.ports.clear();
        let wall = WALL + self.wall_offset;
        self.server.handle_input(self.now, server::Input::Wall(wall)).unwrap();
    }

    pub(crate) fn input(&mut self, index: usize, input: client::Input) {
        self.try_input(index, input).unwrap();
    }

    pub(crate) fn try_input(&mut self, index: usize, input: client::Input) -> Result<(), client::Discard> {
        let result = self.ends[index].client.handle_input(self.now, input);
        self.drain();
        result
    }

    /// A datagram from a peer to a client's relayed address.
    pub(crate) fn peer_sends(
        &mut self,
        peer: SocketAddr,
        relayed: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), server::Discard> {
        let allocation =
            *self.ports.iter().find(|(_, address)| **address == relayed).expect("a live relayed address").0;
        let input = server::Input::Relayed { allocation, from: peer, bytes: bytes.to_vec() };
        let result = self.server.handle_input(self.now, input);
        self.drain();
        result
    }

    /// Hands a datagram to the server at once, as a client at `from`, and gives the answers to it.
    pub(crate) fn raw(&mut self, from: SocketAddr, bytes: &[u8]) -> (Result<(), server::Discard>, Vec<Vec<u8>>) {
        let input = server::Input::Client { from, local: server_address(), bytes: bytes.to_vec() };
        let result = self.server.handle_input(self.now, input);
        let mut answers = Vec::new();
        self.drain_server(|to, bytes| {
            if to == from {
                answers.push(bytes);
            }
        });
        (result, answers)
    }

    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.drain();
        loop {
            let mut next = self.in_flight.keys().next().map(|(at, _)| *at);
            let timers = self.ends.iter().map(|end| end.client.poll_timeout()).chain([self.server.poll_timeout()]);
            for timer in timers.flatten() {
                next = Some(next.map_or(timer, |at| at.min(timer)));
            }
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.step(at);
        }
        self.now = end;
    }

    fn step(&mut self, at: Instant) {
        assert!(at >= self.now || self.in_flight.is_empty() || at + DELAY >= self.now);
        let before = self.now;
        self.now = self.now.max(at);
        self.wall_offset = self.now.saturating_duration_since(Instant::ZERO).as_secs().saturating_sub(1000);
        let due: Vec<_> = self.in_flight.range(..=(self.now, usize::MAX)).map(|(key, _)| *key).collect();
        for key in due {
            match self.in_flight.remove(&key).expect("the key was just read") {
                Parcel::ToServer { from, bytes } => {
                    let input = server::Input::Client { from, local: server_address(), bytes };
                    if let Err(discard) = self.server.handle_input(self.now, input) {
                        self.server_discards.push(discard);
                    }
                }
                Parcel::ToClient { to, bytes } => {
                    let Some(end) = self.ends.iter_mut().find(|end| end.address == to) else { continue };
                    if let Err(discard) = end.client.handle_input(self.now, client::Input::Received(bytes)) {
                        self.client_discards.push(discard);
                    }
                }
            }
            self.drain();
        }
        for end in &mut self.ends {
            end.client.handle_timeout(self.now);
        }
        self.server.handle_timeout(self.now);
        self.drain();
        let stuck = |timer: Option<Instant>| timer.is_some_and(|timer| timer <= self.now);
        assert!(before <= self.now && !self.ends.iter().any(|end| stuck(end.client.poll_timeout())), "client spins");
        assert!(!stuck(self.server.poll_timeout()), "server spins");
    }

    fn drain(&mut self) {
        let mut parcels = Vec::new();
        for end in &mut self.ends {
            while let Some(output) = end.client.poll_output() {
                match output {
                    client::Output::Send(bytes) => parcels.push(Parcel::ToServer { from: end.address, bytes }),
                    other => end.seen.push(other),
                }
            }
        }
        self.drain_server(|to, bytes| parcels.push(Parcel::ToClient { to, bytes }));
        for parcel in parcels {
            let bytes = match &parcel {
                Parcel::ToServer { bytes, .. } | Parcel::ToClient { bytes, .. } => bytes.clone(),
            };
            let number = self.trace.len();
            let lost = (self.lost)(number, &bytes);
            self.trace.push(bytes);
            if !lost {
                self.in_flight.insert((self.now + DELAY, number), parcel);
            }
        }
    }

    fn drain_server(&mut self, mut to_client: impl FnMut(SocketAddr, Vec<u8>)) {
        while let Some(output) = self.server.poll_output() {
            match output {
                server::Output::ToClient { to, local, bytes } => {
                    assert_eq!(local, server_address());
                    to_client(to, bytes);
                }
                server::Output::OpenPort { allocation, family, port } => {
                    let addr = SocketAddr::new(relay_address(family), port);
                    let answer = if self.occupied.contains(&port) {
                        server::Input::PortFailed { allocation }
                    } else {
                        assert!(!self.ports.values().any(|taken| *taken == addr), "{addr} is handed out twice");
                        self.ports.insert(allocation, addr);
                        server::Input::PortOpened { allocation, addr }
                    };
                    self.server.handle_input(self.now, answer).unwrap();
                }
                server::Output::ClosePort { allocation } => {
                    self.ports.remove(&allocation).expect("only open ports are closed");
                }
                server::Output::Relay { allocation, to, bytes } => {
                    let from = *self.ports.get(&allocation).expect("data leaves from open ports only");
                    self.relayed.push((from, to, bytes));
                }
            }
        }
    }
}
