//! A node and a server, with nothing between them but what the input damages.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_forward::{Command, PeerId};
use ginnel_membership::{Entry, NetworkId, SigningKey, State};
use ginnel_node::{Input, Node, Output, Reply, Request, RequestId, Resume};
use ginnel_path::Path;
use ginnel_signal_proto::client::{Input as ClientInput, Output as ClientOutput};
use ginnel_signal_proto::server::{ConnectionId, Input as ServerInput, Outcome, Output as ServerOutput};
use ginnel_signal_proto::{Client, ClientMessage, Credentials, Server};
use ginnel_time::{Instant, Tai64n};

use super::{SIGNING, UNIX, configuration, fixture};
use crate::targets::signal::{keys, new_server};

/// A node and a server; the node's streams end here.
pub(super) struct Whole {
    node: Node,
    server: Server,
    now: Instant,
    /// The node's connection, and how many there were.
    conn: Option<ConnectionId>,
    connections: u64,
    /// Bytes of the server for the node; held back for the input to damage.
    pub(super) down: Vec<u8>,
    /// The other member's client, once it speaks.
    other: Option<(Client, ConnectionId)>,
    pub(super) state: Vec<u8>,
    pub(super) entries: Vec<Vec<u8>>,
    pub(super) replies: Vec<Reply>,
    requests: u64,
    /// What the node sent raw, and by which path.
    pub(super) sent: Vec<(Path, Vec<u8>)>,
    pub(super) probes: Vec<(PeerId, Path, Vec<u8>)>,
    pub(super) peers: Vec<PeerId>,
    pub(super) log: Option<State>,
}

impl Whole {
    pub(super) fn new(resume: Resume, logs: Vec<(NetworkId, Vec<Vec<u8>>)>) -> Self {
        let now = Instant::ZERO + Duration::from_secs(1000);
        let node = Node::new(now, configuration(), resume).unwrap_or_else(|e| panic!("{e}"));
        let mut whole = Self {
            node,
            server: new_server(now, [3; 32], logs),
            now,
            conn: None,
            connections: 0,
            down: Vec::new(),
            other: None,
            state: Vec::new(),
            entries: Vec::new(),
            replies: Vec::new(),
            requests: 0,
            sent: Vec::new(),
            probes: Vec::new(),
            peers: Vec::new(),
            log: None,
        };
        whole.input(Input::Wall(Tai64n::from_unix(UNIX, 0)));
        whole.input(Input::Interfaces(vec![IpAddr::from([192, 168, 1, 7])]));
        whole.settle();
        whole
    }

    pub(super) fn request(&mut self, request: Request) {
        self.requests += 1;
        self.input(Input::Request { id: RequestId(self.requests), network: None, request });
        self.settle();
        for _ in 0..8 {
            self.pass(Duration::from_millis(500));
            self.settle();
        }
    }

    /// Lets node and server talk until neither says more.
    pub(super) fn settle(&mut self) {
        for _ in 0..40 {
            let bytes = std::mem::take(&mut self.down);
            if bytes.is_empty() {
                return;
            }
            self.server_bytes(bytes);
        }
    }

    pub(super) fn server_bytes(&mut self, bytes: Vec<u8>) {
        if self.conn.is_some() {
            self.input(Input::ServerBytes { server: ginnel_node::ServerId(0), bytes });
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.server.handle_timeout(self.now);
        self.serve();
        self.node.handle_timeout(self.now);
        self.drain();
    }

    pub(super) fn input(&mut self, input: Input) {
        let _ = self.node.handle_input(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.node.poll_output() {
            outputs += 1;
            assert!(outputs < 10_000, "output without end");
            self.carry_out(output);
        }
        if self.conn.is_some_and(|conn| conn.0 > self.connections) {
            self.connections += 1;
            let conn = ConnectionId(self.connections);
            let from = SocketAddr::from(([198, 51, 100, 7], 4000));
            let _ = self.server.handle_input(self.now, ServerInput::Opened { conn, from });
            let remote = SocketAddr::from(([203, 0, 113, 1], 4433));
            self.input(Input::ServerOpened { server: ginnel_node::ServerId(0), remote });
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Forward(command) => self.forward(command),
            Output::OpenSocket { socket, .. } => {
                let local = SocketAddr::from(([0, 0, 0, 0], 40_000 + socket.0));
                let _ = self.node.handle_input(self.now, Input::SocketOpened { socket, local });
            }
            Output::ConnectServer { .. } => {
                self.down.clear();
                self.conn = Some(ConnectionId(self.connections + 1));
            }
            Output::WriteServer { bytes, .. } => {
                if let Some(conn) = self.conn {
                    let _ = self.server.handle_input(self.now, ServerInput::Received { conn, bytes });
                    self.serve();
                }
            }
            Output::DisconnectServer(_) => {
                if let Some(conn) = self.conn.take() {
                    let _ = self.server.handle_input(self.now, ServerInput::Closed { conn });
                }
            }
            Output::Persist(bytes) => self.state = bytes,
            Output::StoreEntries { entries, .. } => self.store(entries),
            Output::Reply { reply, .. } => self.replies.extend(reply.ok()),
            _ => {}
        }
    }

    fn store(&mut self, entries: Vec<Vec<u8>>) {
        if let Some(log) = &mut self.log {
            for entry in &entries {
                let entry = Entry::decode(entry).expect("what is stored decodes");
                assert!(log.apply(&entry).is_ok(), "an entry was stored that does not verify");
            }
        }
        self.entries.extend(entries);
    }

    fn forward(&mut self, command: Command) {
        match command {
            Command::Send { path, bytes, .. } => self.sent.push((path, bytes)),
            Command::SealControl { peer, path: Some(path), plaintext, .. } => self.probes.push((peer, path, plaintext)),
            Command::AddPeer { peer, allowed, .. } => {
                self.peers.push(peer);
                if self.log.is_some() {
                    fixture().check_allowed(&allowed);
                }
            }
            _ => {}
        }
    }

    /// Takes what the server says, for the node and for the other member.
    fn serve(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                ServerOutput::Write { conn, bytes } => {
                    let _ = self.server.handle_input(self.now, ServerInput::Flushed { conn, bytes: bytes.len() });
                    if self.conn == Some(conn) {
                        self.down.extend(bytes);
                    } else if let Some((client, _)) = self.other.as_mut().filter(|(_, other)| *other == conn) {
                        let _ = client.handle_input(self.now, ClientInput::Received(bytes));
                        self.relay_other();
                    }
                }
                ServerOutput::Close { conn } if self.conn == Some(conn) => {
                    self.conn = None;
                    let server = ginnel_node::ServerId(0);
                    self.input(Input::ServerClosed { server, reason: "closed".to_owned() });
                }
                ServerOutput::Store { ticket, .. } => {
                    let stored = ServerInput::Stored { ticket, outcome: Outcome::Durable };
                    let _ = self.server.handle_input(self.now, stored);
                }
                _ => {}
            }
        }
    }

    fn relay_other(&mut self) {
        let Some((client, conn)) = &mut self.other else { return };
        while let Some(output) = client.poll_output() {
            if let ClientOutput::Write(bytes) = output {
                let _ = self.server.handle_input(self.now, ServerInput::Received { conn: *conn, bytes });
            }
        }
    }

    /// Mail from the other member, as its client hands it in.
    pub(super) fn mail(&mut self, bytes: Vec<u8>) {
        if self.other.is_none() {
            let conn = ConnectionId(1 << 32);
            let credentials = Credentials::Member { key: SigningKey::from_bytes(&SIGNING) };
            let mut client = Client::new([9; 32], keys(), fixture().network, credentials);
            let from = SocketAddr::from(([198, 51, 100, 8], 4000));
            let _ = self.server.handle_input(self.now, ServerInput::Opened { conn, from });
            let _ = client.handle_input(self.now, ClientInput::Opened);
            self.other = Some((client, conn));
            for _ in 0..6 {
                self.relay_other();
                self.serve();
            }
        }
        let mail = ClientMessage::Mail { to: fixture().node, bytes };
        if let Some((client, _)) = &mut self.other {
            let _ = client.handle_input(self.now, ClientInput::Send(mail));
        }
        self.relay_other();
        self.serve();
        self.settle();
    }
}
