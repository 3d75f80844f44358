//! The TURN client and the TURN server, each with the other as its surroundings.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ginnel_time::Instant;
use ginnel_turn::client::{Config as ClientConfig, Input as ClientInput, Output as ClientOutput};
use ginnel_turn::server::{AllocationId, Config as ServerConfig, Input as ServerInput, Output as ServerOutput, Quotas};
use ginnel_turn::{AddressFamily, Client, Credentials, Server};

use super::{Subject, garbage, index, obeys, spoil};
use crate::dice::Dice;

const SECRET: &[u8] = b"a secret of enough bytes";
const UNIX: u64 = 1_800_000_000;

struct Pair {
    client: Client,
    server: Server,
    now: Instant,
    /// Datagrams that the client sent, and that it was sent.
    up: Vec<Vec<u8>>,
    down: Vec<Vec<u8>>,
    allocations: Vec<AllocationId>,
    /// Ports that the server asked for.
    wanted: Vec<(AllocationId, u16)>,
    /// How much of `down` the client has seen.
    seen: usize,
}

impl Pair {
    fn new(now: Instant, dice: &mut Dice) -> Self {
        let credentials = Credentials::time_limited(SECRET, UNIX + 86_400, "somebody");
        let config = ClientConfig { server: server_address(), credentials, family: AddressFamily::Ipv4 };
        let mut server = Server::new(
            dice.seed(),
            ServerConfig {
                realm: "relay.internal".to_owned(),
                secret: SECRET.to_vec().into(),
                relay_addresses: vec![server_address().ip()],
                ports: 50_000..=50_999,
                quotas: Quotas::default(),
                policy: Box::new(|ip: IpAddr| !ip.is_loopback()),
                nonce_lifetime: Duration::from_secs(60),
            },
        )
        .expect("the configuration is sound");
        server.handle_input(now, ServerInput::Wall(UNIX)).expect("wall time is taken");
        let (up, down, allocations, wanted) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { client: Client::new(dice.seed(), config), server, now, up, down, allocations, wanted, seen: 0 }
    }

    fn ask_client(&mut self, now: Instant, dice: &mut Dice) {
        let peer = SocketAddr::from(([198, 51, 100, dice.below(4) as u8], 4000 + dice.below(3) as u16));
        let input = match dice.below(20) {
            0..4 => ClientInput::Allocate,
            4..7 => ClientInput::Bind(peer),
            7 => ClientInput::Unbind(peer),
            8 => ClientInput::Permit(peer.ip()),
            9 => ClientInput::Unpermit(peer.ip()),
            10 => ClientInput::Send { peer, bytes: garbage(dice) },
            11 => ClientInput::Credentials(Credentials::time_limited(SECRET, UNIX + dice.below(99_999), "somebody")),
            12 if dice.chance(200) => ClientInput::Close,
            13 | 12 => ClientInput::Received(garbage(dice)),
            _ => {
                let Some(bytes) =
                    self.down.get(self.down.len().wrapping_sub(1 + index(dice, self.down.len().clamp(1, 3))))
                else {
                    return self.client.handle_timeout(now);
                };
                let bytes = bytes.clone();
                ClientInput::Received(spoil(dice, bytes))
            }
        };
        let _ = self.client.handle_input(now, input);
    }

    fn ask_server(&mut self, now: Instant, dice: &mut Dice) {
        let from = SocketAddr::from(([198, 51, 100, 200], 40_000 + u16::from(dice.chance(50))));
        let input = match dice.below(12) {
            _ if !self.wanted.is_empty() && dice.chance(700) => {
                let (allocation, port) = self.wanted.remove(0);
                ServerInput::PortOpened { allocation, addr: SocketAddr::new(server_address().ip(), port) }
            }
            0 => ServerInput::Wall(UNIX + dice.below(100_000)),
            1 => ServerInput::Client { from, local: server_address(), bytes: garbage(dice) },
            2 | 3 if !self.allocations.is_empty() => {
                let allocation = self.allocations[index(dice, self.allocations.len())];
                ServerInput::Relayed {
                    allocation,
                    from: SocketAddr::from(([198, 51, 100, 1], 4000)),
                    bytes: garbage(dice),
                }
            }
            4 if !self.allocations.is_empty() => {
                let allocation = self.allocations[index(dice, self.allocations.len())];
                dice.pick(&[Some(()), None]).map_or(ServerInput::PortFailed { allocation }, |()| {
                    ServerInput::PortOpened { allocation, addr: SocketAddr::new(server_address().ip(), 50_000) }
                })
            }
            _ => {
                let Some(bytes) = self.up.get(self.up.len().wrapping_sub(1 + index(dice, self.up.len().clamp(1, 3))))
                else {
                    return self.server.handle_timeout(now);
                };
                let bytes = bytes.clone();
                ServerInput::Client { from, local: server_address(), bytes: spoil(dice, bytes) }
            }
        };
        let _ = self.server.handle_input(now, input);
    }

    /// Lets the server answer what the client sent just now.
    fn serve(&mut self) {
        for bytes in std::mem::take(&mut self.up) {
            let from = SocketAddr::from(([198, 51, 100, 200], 40_000));
            let _ = self.server.handle_input(self.now, ServerInput::Client { from, local: server_address(), bytes });
            while let Some(output) = self.server.poll_output() {
                match output {
                    ServerOutput::ToClient { bytes, .. } => self.down.push(bytes),
                    ServerOutput::OpenPort { allocation, port, .. } => {
                        let addr = SocketAddr::new(server_address().ip(), port);
                        let _ = self.server.handle_input(self.now, ServerInput::PortOpened { allocation, addr });
                    }
                    ServerOutput::ClosePort { .. } | ServerOutput::Relay { .. } => {}
                }
            }
        }
    }

    /// Lets the client ask for something, so that the server has something to do.
    fn want(&mut self, now: Instant, dice: &mut Dice) {
        for bytes in self.down.split_off(self.seen) {
            let _ = self.client.handle_input(now, ClientInput::Received(bytes.clone()));
            self.down.push(bytes);
        }
        self.seen = self.down.len();
        self.ask_client(now, dice);
        self.client.handle_timeout(now);
        while let Some(output) = self.client.poll_output() {
            if let ClientOutput::Send(bytes) = output {
                self.up.push(bytes);
            }
        }
    }
}

struct AsClient(Pair);

impl Subject for AsClient {
    fn input(&mut self, now: Instant, dice: &mut Dice) {
        self.0.now = self.0.now.max(now);
        self.0.serve();
        self.0.ask_client(now, dice);
    }

    fn timeout(&mut self, now: Instant) {
        self.0.now = self.0.now.max(now);
        self.0.client.handle_timeout(now);
    }

    fn output(&mut self) -> Option<String> {
        let output = self.0.client.poll_output()?;
        if let ClientOutput::Send(bytes) = &output {
            self.0.up.push(bytes.clone());
        }
        Some(format!("{output:?}"))
    }

    fn due(&self) -> Option<Instant> {
        self.0.client.poll_timeout()
    }
}

struct AsServer(Pair);

impl Subject for AsServer {
    fn input(&mut self, now: Instant, dice: &mut Dice) {
        if dice.chance(300) {
            self.0.want(now, dice);
        }
        self.0.ask_server(now, dice);
    }

    fn timeout(&mut self, now: Instant) {
        self.0.server.handle_timeout(now);
    }

    fn output(&mut self) -> Option<String> {
        let output = self.0.server.poll_output()?;
        match &output {
            ServerOutput::ToClient { bytes, .. } => self.0.down.push(bytes.clone()),
            ServerOutput::OpenPort { allocation, port, .. } => {
                self.0.allocations.push(*allocation);
                self.0.wanted.push((*allocation, *port));
            }
            ServerOutput::ClosePort { .. } | ServerOutput::Relay { .. } => {}
        }
        Some(format!("{output:?}"))
    }

    fn due(&self) -> Option<Instant> {
        self.0.server.poll_timeout()
    }
}

fn server_address() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 1], 3478))
}

#[test]
fn turn_client_obeys() {
    obeys(
        "turn client",
        1500,
        &["Allocated", "Bound", "Unbound", "Permitted", "Failed", "Lost", "Closed"],
        |now, dice| AsClient(Pair::new(now, dice)),
    );
}

#[test]
fn turn_server_obeys() {
    obeys("turn server", 1500, &["ToClient", "OpenPort", "ClosePort", "Relay"], |now, dice| {
        AsServer(Pair::new(now, dice))
    });
}
