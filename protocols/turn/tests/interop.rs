//! Against coturn, over real sockets on the loopback interface: our client on its server, its client on our server.
//!
//! The tests need `turnserver` and `turnutils_uclient` (Debian: `coturn`). Without them they say so and test nothing.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test may fail by panic")]
#![allow(clippy::disallowed_methods, reason = "real sockets wait in real time")]

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant as Clock};

use ginnel_time::Instant;
use ginnel_turn::client::{self, Client, Ended, Failure, Input, Loss, Output};
use ginnel_turn::server::{self, AllocationId, Quotas, Server};
use ginnel_turn::{AddressFamily, Credentials};

const SECRET: &str = "north north-west and by south";
const WAIT: Duration = Duration::from_secs(20);

/// Tells whether a program is installed, loudly if it is not.
fn is_installed(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    if !found {
        let _ =
            writeln!(io::stderr(), "SKIPPED: {program} is not installed (Debian package coturn); nothing was tested");
    }
    found
}

fn unix_seconds() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

fn loopback(last: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, last], 0))
}

/// A UDP port that was free a moment ago.
fn free_port() -> u16 {
    UdpSocket::bind(loopback(1)).unwrap().local_addr().unwrap().port()
}

struct Coturn {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Coturn {
    fn start(extra: &[&str]) -> Self {
        let port = free_port();
        let folder = std::env::temp_dir().join(format!("ginnel-turn-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let child = Command::new("turnserver")
            .current_dir(&folder)
            .args(["-n", "--no-cli", "--no-tls", "--no-dtls", "--no-tcp", "--lt-cred-mech", "--use-auth-secret"])
            .args([&format!("--static-auth-secret={SECRET}"), "--realm=interop.test", "--allow-loopback-peers"])
            .args(["--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", &format!("--listening-port={port}")])
            .args([&format!("--userdb={}", folder.join("db").display()), "--log-file=stdout", "--simple-log"])
            .args([&format!("--pidfile={}", folder.join("pid").display())])
            .args(extra)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let coturn = Self { child, address: SocketAddr::from(([127, 0, 0, 1], port)), folder };
        coturn.wait_until_up();
        coturn
    }

    fn wait_until_up(&self) {
        let socket = UdpSocket::bind(loopback(1)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let binding = [0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let start = Clock::now();
        while start.elapsed() < WAIT {
            let _ = socket.send_to(&binding, self.address);
            if socket.recv_from(&mut [0; 1500]).is_ok_and(|(_, from)| from == self.address) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("coturn does not answer within {WAIT:?}");
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Our client on a socket.
struct Driven {
    client: Client,
    socket: UdpSocket,
    start: Clock,
    /// Added to the clock, so that what takes minutes need not be waited for.
    skipped: Duration,
    seen: Vec<Output>,
}

impl Driven {
    fn new(server: SocketAddr, credentials: Credentials) -> Self {
        let socket = UdpSocket::bind(loopback(1)).unwrap();
        let config = client::Config { server, credentials, family: AddressFamily::Ipv4 };
        let mut seed = [0; 32];
        seed[..2].copy_from_slice(&socket.local_addr().unwrap().port().to_be_bytes());
        let client = Client::new(seed, config);
        Self { client, socket, start: Clock::now(), skipped: Duration::ZERO, seen: Vec::new() }
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.start.elapsed() + self.skipped
    }

    fn input(&mut self, input: Input) {
        self.client.handle_input(self.now(), input).unwrap();
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Send(bytes) => {
                    self.socket.send_to(&bytes, self.client.server()).unwrap();
                }
                other => self.seen.push(other),
            }
        }
    }

    /// Runs until something is seen that `wanted` gives a value for.
    fn until<T>(&mut self, what: &str, wanted: impl Fn(&Output) -> Option<T>) -> T {
        let start = Clock::now();
        let mut buffer = [0; 2000];
        loop {
            if let Some(found) = self.seen.iter().find_map(&wanted) {
                return found;
            }
            assert!(start.elapsed() < WAIT, "no {what} within {WAIT:?}: {:?}", self.seen);
            let now = self.now();
            let due = self.client.poll_timeout().map(|at| at.saturating_duration_since(now));
            let wait = due.unwrap_or(WAIT).clamp(Duration::from_millis(1), Duration::from_millis(50));
            self.socket.set_read_timeout(Some(wait)).unwrap();
            if let Ok((length, from)) = self.socket.recv_from(&mut buffer)
                && from == self.client.server()
            {
                let _ = self.client.handle_input(self.now(), Input::Received(buffer[..length].to_vec()));
            }
            let now = self.now();
            if self.client.poll_timeout().is_some_and(|at| at <= now) {
                self.client.handle_timeout(now);
            }
            self.drain();
        }
    }

    fn until_allocated(&mut self) -> SocketAddr {
        self.until("allocation", |output| match output {
            Output::Allocated { relayed, .. } => Some(*relayed),
            _ => None,
        })
    }

    fn until_bound(&mut self, peer: SocketAddr) {
        self.until("binding", |output| match output {
            Output::Bound { peer: bound, .. } => (*bound == peer).then_some(()),
            _ => None,
        });
    }

    fn until_data(&mut self) -> (SocketAddr, Vec<u8>) {
        self.until("data", |output| match output {
            Output::Data { peer, bytes } => Some((*peer, bytes.clone())),
            _ => None,
        })
    }

    fn until_failed(&mut self) -> Failure {
        self.until("failure", |output| match output {
            Output::Failed { reason } => Some(*reason),
            _ => None,
        })
    }

    fn until_lost(&mut self) -> Loss {
        self.until("loss", |output| match output {
            Output::Lost { reason } => Some(*reason),
            _ => None,
        })
    }
}

fn credentials(name: &str) -> Credentials {
    Credentials::time_limited(SECRET.as_bytes(), unix_seconds() + 3600, name)
}

#[test]
fn client_exchanges_data_through_coturn() {
    if !is_installed("turnserver") {
        return;
    }
    let coturn = Coturn::start(&[]);
    let peer = UdpSocket::bind(loopback(1)).unwrap();
    peer.set_read_timeout(Some(WAIT)).unwrap();
    let peer_address = peer.local_addr().unwrap();
    let mut driven = Driven::new(coturn.address, credentials("alice"));
    driven.input(Input::Allocate);
    let relayed = driven.until_allocated();
    assert_eq!(driven.client.mapped(), Some(driven.socket.local_addr().unwrap()));

    driven.input(Input::Permit(peer_address.ip()));
    driven.until("permission", |output| matches!(output, Output::Permitted(_)).then_some(()));
    peer.send_to(b"by indication", relayed).unwrap();
    assert_eq!(driven.until_data(), (peer_address, b"by indication".to_vec()));
    driven.input(Input::Send { peer: peer_address, bytes: b"indicated".to_vec() });
    let mut buffer = [0; 100];
    assert_eq!(peer.recv_from(&mut buffer).unwrap(), (9, relayed));

    driven.seen.clear();
    driven.input(Input::Bind(peer_address));
    driven.until_bound(peer_address);
    driven.input(Input::Send { peer: peer_address, bytes: b"by channel".to_vec() });
    assert_eq!(peer.recv_from(&mut buffer).unwrap(), (10, relayed));
    peer.send_to(b"back", relayed).unwrap();
    assert_eq!(driven.until_data(), (peer_address, b"back".to_vec()));

    driven.input(Input::Close);
    driven.until("close", |output| matches!(output, Output::Closed).then_some(()));
}

#[test]
fn two_clients_reach_each_other_through_coturn() {
    if !is_installed("turnserver") {
        return;
    }
    let coturn = Coturn::start(&[]);
    let mut alice = Driven::new(coturn.address, credentials("alice"));
    let mut bob = Driven::new(coturn.address, credentials("bob"));
    alice.input(Input::Allocate);
    bob.input(Input::Allocate);
    let (a, b) = (alice.until_allocated(), bob.until_allocated());
    alice.input(Input::Bind(b));
    bob.input(Input::Bind(a));
    alice.until_bound(b);
    bob.until_bound(a);
    alice.input(Input::Send { peer: b, bytes: b"hello bob".to_vec() });
    assert_eq!(bob.until_data(), (a, b"hello bob".to_vec()));
    bob.input(Input::Send { peer: a, bytes: b"hello alice".to_vec() });
    assert_eq!(alice.until_data(), (b, b"hello alice".to_vec()));
}

#[test]
fn refreshes_survive_the_stale_nonces_of_coturn() {
    if !is_installed("turnserver") {
        return;
    }
    let coturn = Coturn::start(&["--stale-nonce=1"]);
    let peer = "127.0.0.1:9".parse().unwrap();
    let mut driven = Driven::new(coturn.address, credentials("alice"));
    driven.input(Input::Allocate);
    driven.input(Input::Bind(peer));
    driven.until_allocated();
    driven.until_bound(peer);
    // The nonce grows stale while the client believes that minutes pass: it must refresh, and bind anew.
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(1500));
        driven.skipped += Duration::from_secs(285);
        driven.seen.clear();
        let other = SocketAddr::new(peer.ip(), 10 + driven.skipped.as_secs() as u16 % 1000);
        driven.input(Input::Bind(other));
        driven.until_bound(other);
        let ended = |output: &Output| matches!(output, Output::Lost { .. } | Output::Unbound { .. });
        assert!(!driven.seen.iter().any(ended), "{:?}", driven.seen);
    }
}

#[test]
fn refusals_of_coturn_have_their_names() {
    if !is_installed("turnserver") {
        return;
    }
    let coturn = Coturn::start(&["--user-quota=1", "--denied-peer-ip=127.0.0.9"]);
    let wrong = Credentials { password: "guess".to_owned(), ..credentials("alice") };
    let mut driven = Driven::new(coturn.address, wrong);
    driven.input(Input::Allocate);
    assert_eq!(driven.until_failed(), Failure::Unauthorized);

    let named = credentials("alice");
    let mut first = Driven::new(coturn.address, named.clone());
    first.input(Input::Allocate);
    first.until_allocated();
    let mut second = Driven::new(coturn.address, named);
    second.input(Input::Allocate);
    assert_eq!(second.until_failed(), Failure::QuotaReached);

    first.input(Input::Bind("127.0.0.9:9".parse().unwrap()));
    let reason = first.until("refusal", |output| match output {
        Output::Unbound { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(reason, Ended::Forbidden);

    let elsewhere = Coturn::start(&["--alternate-server=127.0.0.1:4444"]);
    let mut third = Driven::new(elsewhere.address, credentials("alice"));
    third.input(Input::Allocate);
    assert_eq!(third.until_failed(), Failure::Redirect("127.0.0.1:4444".parse().unwrap()));
}

#[test]
fn allocation_that_coturn_forgot_is_lost_and_credentials_may_change() {
    if !is_installed("turnserver") {
        return;
    }
    let coturn = Coturn::start(&[]);
    let mut driven = Driven::new(coturn.address, credentials("alice"));
    driven.input(Input::Allocate);
    driven.until_allocated();
    // coturn ties an allocation to the whole user name, so the former credentials go on serving.
    driven.input(Input::Credentials(Credentials::time_limited(SECRET.as_bytes(), unix_seconds() + 7200, "alice")));
    for port in [9, 10] {
        let peer = SocketAddr::from(([127, 0, 0, 1], port));
        driven.input(Input::Bind(peer));
        driven.until_bound(peer);
    }
    // Another address of ours: coturn knows no allocation for it, as after its restart.
    driven.socket = UdpSocket::bind(loopback(1)).unwrap();
    driven.skipped += Duration::from_secs(30);
    assert_eq!(driven.until_lost(), Loss::Mismatch);
}

/// Our server on sockets, for as long as it lives.
struct Relay {
    server: Server,
    socket: UdpSocket,
    ports: BTreeMap<AllocationId, UdpSocket>,
    start: Clock,
}

impl Relay {
    /// Listens on 127.0.0.3 and relays from 127.0.0.2, so that peers on 127.0.0.1 are not addresses of its own.
    fn new() -> Self {
        let config = server::Config {
            realm: "interop.test".to_owned(),
            secret: SECRET.as_bytes().to_vec().into(),
            relay_addresses: vec![IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))],
            ports: 40_000..=60_000,
            quotas: Quotas::default(),
            policy: Box::new(|address| address == IpAddr::V4(Ipv4Addr::LOCALHOST)),
            nonce_lifetime: Duration::from_secs(60),
        };
        let socket = UdpSocket::bind(loopback(3)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut server = Server::new([6; 32], config).unwrap();
        server.handle_input(Instant::ZERO, server::Input::Wall(unix_seconds())).unwrap();
        Self { server, socket, ports: BTreeMap::new(), start: Clock::now() }
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.start.elapsed()
    }

    fn turn(&mut self) {
        let mut buffer = [0; 65_536];
        let mut inputs = Vec::new();
        let local = self.socket.local_addr().unwrap();
        while let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            inputs.push(server::Input::Client { from, local, bytes: buffer[..length].to_vec() });
        }
        for (allocation, socket) in &self.ports {
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let bytes = buffer[..length].to_vec();
                inputs.push(server::Input::Relayed { allocation: *allocation, from, bytes });
            }
        }
        let idle = inputs.is_empty();
        for input in inputs {
            let _ = self.server.handle_input(self.now(), input);
            self.drain();
        }
        self.server.handle_timeout(self.now());
        self.drain();
        if idle {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                server::Output::ToClient { to, bytes, .. } => {
                    let _ = self.socket.send_to(&bytes, to);
                }
                server::Output::OpenPort { allocation, port, .. } => {
                    let addr = SocketAddr::from(([127, 0, 0, 2], port));
                    let answer = match UdpSocket::bind(addr) {
                        Ok(socket) => {
                            socket.set_nonblocking(true).unwrap();
                            self.ports.insert(allocation, socket);
                            server::Input::PortOpened { allocation, addr }
                        }
                        Err(_) => server::Input::PortFailed { allocation },
                    };
                    let _ = self.server.handle_input(self.now(), answer);
                }
                server::Output::ClosePort { allocation } => {
                    self.ports.remove(&allocation);
                }
                server::Output::Relay { allocation, to, bytes } => {
                    if let Some(socket) = self.ports.get(&allocation) {
                        let _ = socket.send_to(&bytes, to);
                    }
                }
            }
        }
    }

    /// Serves until the program ends; gives what it printed.
    fn serve(&mut self, mut child: Child) -> String {
        let start = Clock::now();
        loop {
            self.turn();
            if child.try_wait().unwrap().is_some() {
                return io::read_to_string(child.stdout.take().unwrap()).unwrap();
            }
            if start.elapsed() > 3 * WAIT {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the client did not end: {}", io::read_to_string(child.stdout.take().unwrap()).unwrap());
            }
        }
    }

    fn uclient(&self, extra: &[&str]) -> Child {
        Command::new("turnutils_uclient")
            .args(["-u", "alice", "-W", SECRET, "-p", &self.socket.local_addr().unwrap().port().to_string()])
            .args(["-n", "20", "-l", "300", "-z", "10"])
            .args(extra)
            .arg("127.0.0.3")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}

// `-s`, Send indications, in every run: the program picks its channel numbers from the range of RFC 5766, of which we
// refuse three quarters. Our own client proves the channels of our own server.

/// The figure that `turnutils_uclient` prints last after `label`.
fn figure(report: &str, label: &str) -> Option<u64> {
    let rest = report.rsplit_once(label)?.1;
    rest.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?.parse().ok()
}

#[test]
fn coturn_clients_reach_each_other_through_our_server() {
    if !is_installed("turnutils_uclient") {
        return;
    }
    for extra in [&["-y", "-c", "-s"][..], &["-y", "-c", "-s", "-m", "4"]] {
        let mut relay = Relay::new();
        let child = relay.uclient(extra);
        let report = relay.serve(child);
        let (sent, received) = (figure(&report, "tot_send_msgs="), figure(&report, "tot_recv_msgs="));
        assert!(sent.is_some_and(|sent| sent >= 20), "{extra:?}: {report}");
        assert_eq!(sent, received, "{extra:?}: {report}");
    }
}

#[test]
fn coturn_client_reaches_a_peer_through_our_server() {
    if !is_installed("turnutils_uclient") {
        return;
    }
    let echo = UdpSocket::bind(loopback(1)).unwrap();
    let port = echo.local_addr().unwrap().port().to_string();
    echo.set_read_timeout(Some(2 * WAIT)).unwrap();
    let echoing = std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        let mut sources = Vec::new();
        while sources.len() < 20 {
            let Ok((length, from)) = echo.recv_from(&mut buffer) else { break };
            echo.send_to(&buffer[..length], from).unwrap();
            sources.push(from);
        }
        sources
    });
    let mut relay = Relay::new();
    let child = relay.uclient(&["-c", "-s", "-e", "127.0.0.1", "-r", &port]);
    let report = relay.serve(child);
    let sources = echoing.join().unwrap();
    assert!(sources.len() == 20 && sources.iter().all(|from| from.ip() == IpAddr::from([127, 0, 0, 2])), "{report}");
    assert_eq!(figure(&report, "tot_recv_msgs="), Some(20), "{report}");
}
