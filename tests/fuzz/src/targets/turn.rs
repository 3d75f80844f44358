//! ChannelData, the TURN client and the TURN server.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_stun::codec::{Builder, Class, Message, Method, TransactionId};
use ginnel_time::Instant;
use ginnel_turn::channel_data::{self, ChannelNumber};
use ginnel_turn::client::{Config as ClientConfig, Input as ClientInput, Output as ClientOutput};
use ginnel_turn::server::{
    AllocationId, Config as ServerConfig, Input as ServerInput, MAX_OUTPUTS, Output as ServerOutput, Quotas,
};
use ginnel_turn::{AddressFamily, Client, Credentials, MAX_CHALLENGE_LEN, Server};

use crate::feed::{Feed, Script};
use crate::{Effort, Target};

/// Any bytes as ChannelData.
pub(crate) const CHANNEL_DATA: Target = Target {
    name: "channel_data",
    covers: "ChannelData",
    run: channel,
    seeds: || vec![vec![0x40, 0, 0, 4, 1, 2, 3, 4], vec![0x4F, 0xFF, 0, 1, 9, 0, 0, 0], vec![0x41, 0, 0, 0]],
    longest: 300,
    effort: Effort::Small,
};

/// A client whose server answers truly, falsely, late and to others.
pub(crate) const CLIENT: Target = Target {
    name: "turn_client",
    covers: "what a TURN server sends to our client",
    run: client,
    seeds: || {
        let open = Script::default().bytes(&[0, 1, 0, 0, 1, 0, 0, 1, 0, 0]);
        let bind = |script: Script| script.bytes(&[2, 1, 1, 0, 0, 1, 0, 0]);
        vec![
            open.done(),
            bind(Script::default().bytes(&[0, 1, 0, 0, 1, 0, 0])).bytes(&[4]).chunk(b"data").bytes(&[5, 200]).done(),
            bind(Script::default().bytes(&[0, 1, 0, 0, 1, 0, 0])).bytes(&[6, 1, 1, 3]).bytes(&[7]).done(),
        ]
    },
    longest: 800,
    effort: Effort::Middling,
};

/// A server whose clients know their passwords and mean no good.
pub(crate) const SERVER: Target = Target {
    name: "turn_server",
    covers: "what clients and strangers send to the TURN server",
    run: server,
    seeds: || {
        let open = [0, 0, 0, 0, 1, 0, 0, 2, 0];
        vec![
            Script::default().bytes(&open).bytes(&[0, 1, 0, 1, 3, 0, 0, 3]).chunk(b"payload").done(),
            Script::default().bytes(&open).bytes(&[4]).chunk(&[0x40, 0, 0, 2, 1, 1]).bytes(&[5, 255]).done(),
            Script::default().bytes(&open).bytes(&[6, 1]).chunk(&[1; 30]).bytes(&[7, 3]).bytes(&open).done(),
        ]
    },
    longest: 800,
    effort: Effort::Middling,
};

const SECRET: &[u8] = b"a secret of enough bytes";
const UNIX: u64 = 1_800_000_000;

fn channel(bytes: &[u8]) {
    let Ok((channel, data)) = channel_data::decode(bytes) else { return };
    assert!(channel_data::is_channel_data(bytes));
    assert!((0x4000..=0x4FFF).contains(&channel.get()));
    assert_eq!(ChannelNumber::new(channel.get()), Some(channel));
    let header = channel_data::encode_header(channel, data.len()).expect("what fits in a datagram fits in 16 bits");
    assert_eq!(bytes.get(..4), Some(&header[..]));
    assert!(bytes.len() - 4 - data.len() < 4);
}

fn server_address() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 1], 3478))
}

fn new_server(quotas: Quotas) -> Server {
    let config = ServerConfig {
        realm: "relay.internal".to_owned(),
        secret: SECRET.to_vec().into(),
        relay_addresses: vec![server_address().ip()],
        ports: 50_000..=50_063,
        quotas,
        policy: Box::new(|ip: IpAddr| matches!(ip, IpAddr::V4(v4) if v4.octets()[0] == 198)),
        nonce_lifetime: Duration::from_secs(60),
    };
    let mut server = Server::new([2; 32], config).expect("the configuration is sound");
    server.handle_input(Instant::ZERO, ServerInput::Wall(UNIX)).expect("wall time is taken");
    server
}

fn new_client(seed: u8) -> Client {
    let credentials = Credentials::time_limited(SECRET, UNIX + 86_400, "somebody");
    let config = ClientConfig { server: server_address(), credentials, family: AddressFamily::Ipv4 };
    Client::new([seed; 32], config)
}

fn peer(feed: &mut Feed<'_>) -> SocketAddr {
    match feed.u8() {
        rare @ 240.. => SocketAddr::from(([127, 0, 0, rare & 1], 7)),
        usual => SocketAddr::from(([198, 51, 100, usual % 4], 4000 + u16::from(usual / 64))),
    }
}

fn client(data: &[u8]) {
    let mut feed = Feed::new(data);
    let mut now = Instant::ZERO + Duration::from_secs(10);
    let (mut client, mut server) = (new_client(1), new_server(Quotas::default()));
    let mut down: Vec<Vec<u8>> = Vec::new();
    let mut bound = BTreeMap::new();
    while !feed.is_empty() {
        let input = match feed.u8() % 8 {
            0 => ClientInput::Allocate,
            1 if !down.is_empty() => {
                let place = down.len() - 1 - feed.below(down.len().min(4));
                ClientInput::Received(feed.spoil(down[place].clone()))
            }
            2 => ClientInput::Bind(peer(&mut feed)),
            3 => ClientInput::Permit(peer(&mut feed).ip()),
            4 => ClientInput::Received(feed.chunk().to_vec()),
            5 => {
                now += Duration::from_millis(u64::from(feed.u8()) * 1000);
                client.handle_timeout(now);
                continue;
            }
            6 => ClientInput::Received(indication(&mut feed)),
            _ => match feed.u8() % 4 {
                0 => ClientInput::Unbind(peer(&mut feed)),
                1 => ClientInput::Close,
                2 => ClientInput::Unpermit(peer(&mut feed).ip()),
                _ => ClientInput::Send { peer: peer(&mut feed), bytes: feed.chunk().to_vec() },
            },
        };
        let _ = client.handle_input(now, input);
        while let Some(output) = client.poll_output() {
            match output {
                ClientOutput::Send(bytes) => down.extend(answers(&mut server, now, bytes)),
                ClientOutput::Bound { peer, channel } => {
                    let former = bound.insert(channel.get(), peer);
                    assert!(former.is_none_or(|former| former == peer), "a channel changed its peer");
                }
                ClientOutput::Lost { .. } | ClientOutput::Closed => bound.clear(),
                ClientOutput::Data { peer, .. } => assert!(peer.port() != 0 || !bound.is_empty() || peer.is_ipv4()),
                ClientOutput::Allocated { .. }
                | ClientOutput::Unbound { .. }
                | ClientOutput::Permitted(_)
                | ClientOutput::Unpermitted { .. }
                | ClientOutput::Failed { .. } => {}
            }
        }
    }
}

/// What the true server sends back.
fn answers(server: &mut Server, now: Instant, bytes: Vec<u8>) -> Vec<Vec<u8>> {
    let from = SocketAddr::from(([198, 51, 100, 200], 40_000));
    let _ = server.handle_input(now, ServerInput::Client { from, local: server_address(), bytes });
    let mut answers = Vec::new();
    while let Some(output) = server.poll_output() {
        match output {
            ServerOutput::ToClient { bytes, .. } => answers.push(bytes),
            ServerOutput::OpenPort { allocation, port, .. } => {
                let addr = SocketAddr::new(server_address().ip(), port);
                let _ = server.handle_input(now, ServerInput::PortOpened { allocation, addr });
            }
            ServerOutput::ClosePort { .. } | ServerOutput::Relay { .. } => {}
        }
    }
    answers
}

fn indication(feed: &mut Feed<'_>) -> Vec<u8> {
    let builder = Builder::new(Class::Indication, Method::Data, TransactionId(feed.array()));
    builder.xor_peer_address(peer(feed)).data(feed.chunk()).encode().unwrap_or_default()
}

/// The server, its clients, and the account of what it may have.
struct Relay {
    server: Server,
    clients: Vec<(Client, Vec<Vec<u8>>)>,
    now: Instant,
    ports: BTreeMap<AllocationId, u16>,
}

const MOST: Quotas = Quotas { total: 3, per_user: 2, permissions: 4, channels: 3 };

fn server(data: &[u8]) {
    let mut feed = Feed::new(data);
    let clients = (1..4).map(|seed| (new_client(seed), Vec::new())).collect();
    let now = Instant::ZERO + Duration::from_secs(10);
    let mut relay = Relay { server: new_server(MOST), clients, now, ports: BTreeMap::new() };
    while !feed.is_empty() {
        relay.step(&mut feed);
    }
}

impl Relay {
    fn step(&mut self, feed: &mut Feed<'_>) {
        let kind = feed.u8() % 8;
        let who = feed.below(self.clients.len());
        match kind {
            0 => self.ask(who, ClientInput::Allocate),
            1 | 2 => {
                let input = match feed.u8() % 6 {
                    0 | 1 => ClientInput::Bind(peer(feed)),
                    2 => ClientInput::Permit(peer(feed).ip()),
                    3 => ClientInput::Send { peer: peer(feed), bytes: feed.chunk().to_vec() },
                    4 => ClientInput::Unbind(peer(feed)),
                    _ => ClientInput::Close,
                };
                self.ask(who, input);
            }
            3 => {
                let sent = self.clients[who].1.clone();
                if let Some(bytes) = sent.len().checked_sub(1 + feed.below(4)).and_then(|place| sent.get(place)) {
                    let bytes = feed.spoil(bytes.clone());
                    self.receive(who, bytes);
                }
            }
            4 => {
                let bytes = feed.chunk().to_vec();
                self.stranger(bytes);
            }
            5 => {
                self.now += Duration::from_secs(u64::from(feed.u8()) * 4);
                self.server.handle_timeout(self.now);
                self.drain();
                for who in 0..self.clients.len() {
                    self.clients[who].0.handle_timeout(self.now);
                    self.flush(who);
                }
            }
            6 => {
                let Some(allocation) = self.ports.keys().nth(feed.below(3)).copied() else { return };
                let input = ServerInput::Relayed { allocation, from: peer(feed), bytes: feed.chunk().to_vec() };
                let _ = self.server.handle_input(self.now, input);
                self.drain();
            }
            _ => {
                let request = Builder::new(Class::Request, Method::Allocate, TransactionId(feed.array()));
                let bytes = request.requested_transport_udp().realm("relay.internal").pad_to(usize::from(feed.u8()));
                self.stranger(feed.spoil(bytes.encode().unwrap_or_default()));
            }
        }
        assert!(self.server.allocations() <= MOST.total, "more allocations than the quota");
        assert!(self.ports.len() <= MOST.total, "a port without an allocation stays open");
    }

    fn ask(&mut self, who: usize, input: ClientInput) {
        let _ = self.clients[who].0.handle_input(self.now, input);
        self.flush(who);
    }

    /// Sends what a client wants to send, until it has nothing more to say.
    fn flush(&mut self, who: usize) {
        for _ in 0..16 {
            let mut sent = Vec::new();
            while let Some(output) = self.clients[who].0.poll_output() {
                if let ClientOutput::Send(bytes) = output {
                    sent.push(bytes);
                }
            }
            if sent.is_empty() {
                return;
            }
            for bytes in sent {
                self.clients[who].1.push(bytes.clone());
                self.receive(who, bytes);
            }
        }
    }

    fn receive(&mut self, who: usize, bytes: Vec<u8>) {
        let _ = self.server.handle_input(self.now, client_input(who, bytes));
        self.drain();
    }

    /// Bytes from an address that has nothing: the answer is small, and nothing is kept.
    fn stranger(&mut self, bytes: Vec<u8>) {
        let before = self.server.allocations();
        let _ = self.server.handle_input(self.now, client_input(99, bytes));
        while let Some(output) = self.server.poll_output() {
            match output {
                ServerOutput::ToClient { bytes, .. } => assert!(bytes.len() <= MAX_CHALLENGE_LEN),
                ServerOutput::OpenPort { .. } | ServerOutput::ClosePort { .. } | ServerOutput::Relay { .. } => {
                    panic!("a stranger got more than an answer: {output:?}");
                }
            }
        }
        assert_eq!(self.server.allocations(), before);
    }

    fn drain(&mut self) {
        for _ in 0..=MAX_OUTPUTS {
            let Some(output) = self.server.poll_output() else { return };
            match output {
                ServerOutput::ToClient { to, bytes, .. } => {
                    if Message::decode(&bytes).is_err() {
                        assert!(channel_data::decode(&bytes).is_ok(), "what we send is a message or ChannelData");
                    }
                    let who = usize::from(to.port()).wrapping_sub(40_000);
                    if let Some((client, _)) = self.clients.get_mut(who) {
                        let _ = client.handle_input(self.now, ClientInput::Received(bytes));
                    }
                }
                ServerOutput::OpenPort { allocation, port, .. } => {
                    let addr = SocketAddr::new(server_address().ip(), port);
                    assert!(!self.ports.values().any(|open| *open == port), "a port is opened twice");
                    self.ports.insert(allocation, port);
                    let _ = self.server.handle_input(self.now, ServerInput::PortOpened { allocation, addr });
                }
                ServerOutput::ClosePort { allocation } => {
                    assert!(self.ports.remove(&allocation).is_some(), "a port is closed that is not open");
                }
                ServerOutput::Relay { to, .. } => {
                    assert!(matches!(to.ip(), IpAddr::V4(v4) if v4.octets()[0] == 198), "relayed to {to}");
                }
            }
        }
        panic!("output without end");
    }
}

fn client_input(who: usize, bytes: Vec<u8>) -> ServerInput {
    let port = 40_000 + u16::try_from(who).expect("few clients");
    ServerInput::Client { from: SocketAddr::from(([198, 51, 100, 200], port)), local: server_address(), bytes }
}
