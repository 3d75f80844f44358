//! Accounting: whatever happens in whatever order, every index and count follows from the allocations alone.

use std::collections::BTreeMap;

use ginnel_stun::codec::{Message, TransactionId};
use rand_core::RngCore;

use super::*;
use crate::credentials::Credentials;

const SECRET: &[u8] = b"a secret of enough bytes";
const REALM: &str = "r";
const LOCAL: &str = "203.0.113.1:3478";

fn server() -> Server {
    let config = Config {
        realm: REALM.to_owned(),
        secret: SECRET.to_vec().into(),
        relay_addresses: vec!["203.0.113.2".parse().unwrap(), "2001:db8::2".parse().unwrap()],
        ports: 50_000..=50_020,
        quotas: Quotas { total: 25, per_user: 6, permissions: 5, channels: 4 },
        policy: Box::new(|address| address.is_ipv6() || !address.to_string().starts_with("10.")),
        nonce_lifetime: Duration::from_secs(3600),
    };
    let mut server = Server::new([4; 32], config).unwrap();
    server.handle_input(Instant::ZERO, Input::Wall(1000)).unwrap();
    server
}

/// What the shell of the test holds: ports being opened, and open ones.
#[derive(Default)]
struct Shell {
    opening: Vec<(AllocationId, AddressFamily, u16)>,
    open: BTreeMap<AllocationId, SocketAddr>,
}

impl Shell {
    fn drain(&mut self, server: &mut Server) {
        while let Some(output) = server.poll_output() {
            match output {
                Output::OpenPort { allocation, family, port } => self.opening.push((allocation, family, port)),
                Output::ClosePort { allocation } => {
                    self.opening.retain(|(id, ..)| *id != allocation);
                    self.open.remove(&allocation);
                }
                Output::ToClient { .. } | Output::Relay { .. } => {}
            }
        }
    }
}

fn pick<T: Copy>(rng: &mut ChaCha20Rng, from: &[T]) -> T {
    from[rng.next_u32() as usize % from.len()]
}

fn request(rng: &mut ChaCha20Rng, server: &Server, client: SocketAddr) -> Vec<u8> {
    let method = pick(rng, &[Method::Allocate, Method::Refresh, Method::CreatePermission, Method::ChannelBind]);
    let id = TransactionId([pick(rng, &[1, 2, 3]); 12]);
    let peers = ["192.0.2.1:1", "192.0.2.2:1", "10.0.0.1:1", "203.0.113.2:50003", "[2001:db8:9::1]:4"];
    let peer = pick(rng, &peers).parse().unwrap();
    let request = Builder::new(Class::Request, method, id);
    let request = match method {
        Method::Allocate if rng.next_u32().is_multiple_of(3) => {
            request.requested_transport_udp().requested_address_family(AddressFamily::Ipv6)
        }
        Method::Allocate => request.requested_transport_udp(),
        Method::Refresh => request.lifetime(pick(rng, &[0, 600, 3600])),
        Method::ChannelBind => request.xor_peer_address(peer).channel_number(pick(rng, &[0x4000, 0x4001, 0x4002])),
        Method::CreatePermission | Method::Binding | Method::Send | Method::Data | Method::Other(_) => {
            request.xor_peer_address(peer)
        }
    };
    let credentials = Credentials::time_limited(SECRET, 1_000_000_000, pick(rng, &["a", "b", "c", "d", "e", "f"]));
    let nonce = server.nonces.make(server.now, client);
    let key = credentials.key(REALM).unwrap();
    request.username(&credentials.username).realm(REALM).nonce(&nonce).encode_signed(&key).unwrap()
}

#[test]
fn accounts_balance_after_a_hundred_thousand_random_operations() {
    let mut rng = ChaCha20Rng::from_seed([8; 32]);
    let (mut server, mut shell) = (server(), Shell::default());
    let (mut now, local) = (Instant::ZERO, LOCAL.parse().unwrap());
    let mut most = 0;
    for step in 0..100_000_u32 {
        let from =
            SocketAddr::from(([198, 51, 100, pick(&mut rng, &[1, 2, 3, 4, 5])], pick(&mut rng, &[1, 2, 3, 4, 5, 6])));
        match rng.next_u32() % 16 {
            0 => now += Duration::from_secs(u64::from(rng.next_u32() % 120)),
            1..=3 if !shell.opening.is_empty() => {
                let index = rng.next_u32() as usize % shell.opening.len();
                let (allocation, family, port) = shell.opening.remove(index);
                let ip = server.config.relay_addresses.iter().find(|ip| AddressFamily::of(**ip) == family).unwrap();
                let addr = SocketAddr::new(*ip, port);
                if rng.next_u32().is_multiple_of(4) {
                    server.handle_input(now, Input::PortFailed { allocation }).unwrap();
                } else if server.handle_input(now, Input::PortOpened { allocation, addr }).is_ok() {
                    shell.open.insert(allocation, addr);
                }
            }
            _ => {
                let bytes = request(&mut rng, &server, from);
                server.handle_input(now, Input::Client { from, local, bytes }).unwrap();
            }
        }
        server.handle_timeout(now);
        shell.drain(&mut server);
        server.allocations.assert_consistent();
        most = most.max(server.allocations());
        assert!(server.allocations() <= 25);
        assert!(step % 1000 != 0 || shell.open.len() + shell.opening.len() >= server.allocations());
    }
    assert!(most >= 20, "the quotas were reached: {most}");
    server.handle_timeout(now + Duration::from_secs(7200));
    shell.drain(&mut server);
    assert_eq!((server.allocations(), shell.open.len(), shell.opening.len()), (0, 0, 0));
}

#[test]
fn flood_from_invented_addresses_leaves_a_bounded_table_and_nothing_else() {
    let mut server = server();
    let request = Builder::new(Class::Request, Method::Allocate, TransactionId([1; 12])).requested_transport_udp();
    let bytes = request.encode().unwrap();
    let local = LOCAL.parse().unwrap();
    let mut answers = 0;
    for n in 0..200_000_u32 {
        let from = SocketAddr::new(IpAddr::V4(n.wrapping_mul(40_503).into()), 9);
        let _ = server.handle_input(Instant::ZERO, Input::Client { from, local, bytes: bytes.clone() });
        while let Some(Output::ToClient { bytes, .. }) = server.poll_output() {
            assert_eq!(Message::decode(&bytes).unwrap().error().map(|(code, _)| code), Some(401));
            answers += 1;
        }
    }
    assert!(answers < 200_000 / 2);
    assert!(server.limiter.len() <= 4096);
    assert_eq!((server.allocations(), server.poll_timeout()), (0, None));
}
