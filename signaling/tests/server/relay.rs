//! STUN and TURN of the real binary.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ginnel_signal_proto::{ClientMessage, Refusal, RelayCredentials, RelayOffer, Request, ServerMessage};
use ginnel_stun::{BindingClient, Config as BindingConfig};
use ginnel_turn::client::{Config, Ended, Input, Output};
use ginnel_turn::{AddressFamily, Client, Credentials};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::process::{PATIENCE, Process, State};
use crate::{found, member};

/// A TURN client on its socket.
struct Relayed {
    client: Client,
    socket: UdpSocket,
    server: SocketAddr,
    start: Instant,
}

impl Relayed {
    async fn new(credentials: &RelayCredentials, seed: u8) -> Self {
        let server = credentials.addresses[0];
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let client = Client::new(
            [seed; 32],
            Config {
                server,
                credentials: Credentials {
                    username: credentials.username.clone(),
                    password: credentials.password.clone(),
                },
                family: AddressFamily::Ipv4,
            },
        );
        Self { client, socket, server, start: Instant::now() }
    }

    fn now(&self) -> ginnel_time::Instant {
        ginnel_time::Instant::ZERO + self.start.elapsed()
    }

    fn input(&mut self, input: Input) {
        let now = self.now();
        self.client.handle_input(now, input).expect("of use");
    }

    /// Drives the client until it has something to tell.
    async fn next(&mut self) -> Output {
        let deadline = Instant::now() + PATIENCE;
        let mut buffer = vec![0; 2048];
        loop {
            while let Some(output) = self.client.poll_output() {
                match output {
                    Output::Send(bytes) => {
                        self.socket.send_to(&bytes, self.server).await.expect("sent");
                    }
                    other @ (Output::Allocated { .. }
                    | Output::Bound { .. }
                    | Output::Unbound { .. }
                    | Output::Permitted(_)
                    | Output::Unpermitted { .. }
                    | Output::Data { .. }
                    | Output::Failed { .. }
                    | Output::Lost { .. }
                    | Output::Closed) => return other,
                }
            }
            assert!(Instant::now() < deadline, "nothing happened in time");
            match timeout(Duration::from_millis(100), self.socket.recv_from(&mut buffer)).await {
                Ok(received) => {
                    let (length, from) = received.expect("received");
                    assert_eq!(from, self.server);
                    let now = self.now();
                    let _ = self.client.handle_input(now, Input::Received(buffer[..length].to_vec()));
                }
                Err(_) => {
                    let now = self.now();
                    self.client.handle_timeout(now);
                }
            }
        }
    }

    async fn allocate(&mut self) -> SocketAddr {
        self.input(Input::Allocate);
        let output = self.next().await;
        let Output::Allocated { relayed, mapped } = output else { panic!("{output:?}") };
        assert_eq!(mapped, self.socket.local_addr().expect("bound"));
        relayed
    }

    async fn data(&mut self) -> (SocketAddr, Vec<u8>) {
        let output = self.next().await;
        let Output::Data { peer, bytes } = output else { panic!("{output:?}") };
        (peer, bytes)
    }
}

async fn credentials(link: &mut crate::link::Link) -> RelayCredentials {
    link.send(ClientMessage::Relay).await;
    let answer = link.answer().await;
    let ServerMessage::Relay(credentials) = answer else { panic!("{answer:?}") };
    credentials
}

#[tokio::test]
async fn members_relay_to_each_other_and_nowhere_inside() {
    let state = State::new();
    let process = Process::start(&state, &[]);
    let founding = process.founding();
    let network = found(&founding).await.network;
    let mut one = member(&founding, network, 1).await;
    let mut two = member(&founding, network, 2).await;
    assert_eq!(one.welcome.relay, RelayOffer::Offered);
    let mut left = Relayed::new(&credentials(&mut one).await, 1).await;
    let mut right = Relayed::new(&credentials(&mut two).await, 2).await;
    let (left_address, right_address) = (left.allocate().await, right.allocate().await);
    assert!((20_000..30_000).contains(&left_address.port()));

    // A socket of this machine stands for everything inside that must not be reached.
    let inside = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let inside_address = inside.local_addr().expect("bound");
    left.input(Input::Bind(right_address));
    assert!(matches!(left.next().await, Output::Bound { peer, .. } if peer == right_address));
    right.input(Input::Bind(left_address));
    assert!(matches!(right.next().await, Output::Bound { peer, .. } if peer == left_address));
    left.input(Input::Send { peer: right_address, bytes: b"to the right".to_vec() });
    assert!(timeout(Duration::from_millis(1), left.next()).await.is_err());
    assert_eq!(right.data().await, (left_address, b"to the right".to_vec()));
    right.input(Input::Send { peer: left_address, bytes: vec![9; 1300] });
    assert!(timeout(Duration::from_millis(1), right.next()).await.is_err());
    assert_eq!(left.data().await, (right_address, vec![9; 1300]));

    // 127.0.0.1 is the relay's own address here, so a permission exists; the port is nobody's relayed address.
    left.input(Input::Bind(inside_address));
    let bound = left.next().await;
    assert!(matches!(bound, Output::Bound { .. } | Output::Unbound { .. }), "{bound:?}");
    let _ = left.client.handle_input(left.now(), Input::Send { peer: inside_address, bytes: b"in".to_vec() });
    assert!(timeout(Duration::from_millis(1), left.next()).await.is_err());
    let mut buffer = [0; 16];
    assert!(timeout(Duration::from_millis(500), inside.recv_from(&mut buffer)).await.is_err());

    for forbidden in ["10.0.0.1:53", "169.254.169.254:80", "192.168.0.1:53", "100.64.0.1:1"] {
        left.input(Input::Bind(forbidden.parse().expect("an address")));
        let refused = left.next().await;
        assert!(matches!(refused, Output::Unbound { reason: Ended::Forbidden, .. }), "{forbidden}: {refused:?}");
    }
}

#[tokio::test]
async fn without_relay_stun_is_answered_and_credentials_are_not_made() {
    let state = State::new();
    let process = Process::start(&state, &["--no-relay"]);
    let founding = process.founding();
    let founded = crate::charter(&founding, 1);
    let credentials = crate::founder(&founding, &founded);
    let mut link = crate::link::Link::open(founding.server(), founded.network, credentials).await.expect("let in");
    assert_eq!(link.welcome.relay, RelayOffer::None);
    assert_eq!(link.welcome.observed.ip(), std::net::IpAddr::from([127, 0, 0, 1]));
    link.send(ClientMessage::Relay).await;
    let answer = link.next().await;
    assert!(matches!(answer, ServerMessage::Refused { request: Request::Relay, code: Refusal::NoRelay, .. }));

    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let server = SocketAddr::from(([127, 0, 0, 1], link.welcome.stun_ports[0]));
    let mut binding = BindingClient::new([1; 32], BindingConfig::default());
    let now = ginnel_time::Instant::ZERO;
    binding.handle_input(now, ginnel_stun::Input::Query { socket: 0, server }).expect("of use");
    let Some(ginnel_stun::Output::Send { bytes, .. }) = binding.poll_output() else { panic!("no request") };
    socket.send_to(&bytes, server).await.expect("sent");
    let mut buffer = [0; 2048];
    let received = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.expect("in time");
    let (length, from) = received.expect("received");
    assert!(length <= bytes.len(), "an answer is no longer than its request");
    let bytes = buffer[..length].to_vec();
    binding.handle_input(now, ginnel_stun::Input::Received { socket: 0, from, bytes }).expect("of use");
    let mapped = socket.local_addr().expect("bound");
    assert_eq!(binding.poll_output(), Some(ginnel_stun::Output::Mapped { socket: 0, server, mapped }));
}
