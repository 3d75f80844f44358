//! A true TUN interface with its addresses and routes, in a network namespace that holds nothing else:
//! `unshare --net cargo test --profile ci -p ginneld --test interface -- --ignored`

#[path = "interface/program.rs"]
mod program;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ginnel_node::TunRoute;
use ginneld::netlink::{LinkKind, Netlink, clash};
use ginneld::tun::{Applied, Tun};

#[tokio::test]
#[ignore = "needs CAP_NET_ADMIN and a network namespace of its own"]
async fn an_interface_carries_packets_and_goes_with_its_owner() {
    let _alone = Alone::new();
    let netlink = Netlink::open().expect("open netlink");
    let mut changes = Netlink::watch().expect("watch");
    let tun = Tun::open("gtest0", 1280, &netlink).await.expect("open the TUN");
    let taken = Tun::open("gtest0", 1280, &netlink).await.expect_err("the name is taken").to_string();
    assert!(taken.contains("--interface"), "{taken}");

    let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
    let (own4, own6, peer4, peer6) =
        (address("100.70.0.1"), address("fd5a::1"), address("100.70.0.2"), address("fd5a::2"));
    let mut applied = Applied::default();
    let (addresses, routes) = ([(own4, 32), (own6, 128)], [route(peer4, 32, own4), route(peer6, 128, own6)]);
    applied.apply(&netlink, tun.index(), &addresses, &routes).await.expect("apply");
    applied.apply(&netlink, tun.index(), &addresses, &routes).await.expect("applying twice changes nothing");
    tokio::time::timeout(Duration::from_secs(5), changes.recv())
        .await
        .expect("changes are told")
        .expect("the watch lives");

    let held = netlink.interface_addresses().await.expect("list addresses");
    let ours: Vec<IpAddr> =
        held.iter().filter(|entry| entry.interface == "gtest0").map(|entry| entry.address).collect();
    assert!(ours.contains(&own4) && ours.contains(&own6), "{held:?}");
    assert!(held.iter().filter(|entry| entry.interface == "gtest0").all(|entry| entry.kind == LinkKind::Tunnel));
    assert!(
        netlink.candidate_addresses("none").await.expect("list candidates").is_empty(),
        "tunnels are no candidates"
    );
    let table = netlink.routes().await.expect("list routes");
    assert!(clash(&table, 0, peer4, 32).is_some() && clash(&table, tun.index(), peer4, 32).is_none(), "{table:?}");

    let mut file = tun.file().expect("share the descriptor");
    for (own, peer) in [(own4, peer4), (own6, peer6)] {
        let socket = UdpSocket::bind((own, 7000)).expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("set the timeout");
        socket.send_to(b"out", (peer, 7001)).expect("send");
        let mut packet = read_until(&mut file, b"out");
        swap_ends(&mut packet);
        file.write_all(&packet).expect("write the packet back");
        let mut buffer = [0; 16];
        let (length, from) = socket.recv_from(&mut buffer).expect("the packet comes back");
        assert_eq!((&buffer[..length], from.ip(), from.port()), (&b"out"[..], peer, 7001));
    }

    applied.apply(&netlink, tun.index(), &[(own4, 32)], &[]).await.expect("take away");
    let held = netlink.interface_addresses().await.expect("list addresses");
    assert!(!held.iter().any(|entry| entry.address == own6), "{held:?}");
    drop((tun, file));
    assert!(netlink.link_index("gtest0").await.is_err(), "the interface goes when it is closed");
}

fn route(destination: IpAddr, prefix: u8, source: IpAddr) -> TunRoute {
    TunRoute { destination, prefix, source: Some(source) }
}

/// One test at a time: they share a network namespace.
struct Alone {
    _turn: MutexGuard<'static, ()>,
}

impl Alone {
    fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        Self { _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// The next packet that ends with `contents`; the kernel sends some of its own, as router solicitations.
fn read_until(file: &mut std::fs::File, contents: &[u8]) -> Vec<u8> {
    let mut buffer = [0; 2048];
    for _ in 0..500 {
        match file.read(&mut buffer) {
            Ok(length) if buffer[..length].ends_with(contents) => return buffer[..length].to_vec(),
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    panic!("the packet does not reach the TUN");
}

/// Swaps addresses and ports; the checksums stay right, as they are sums.
fn swap_ends(packet: &mut [u8]) {
    let (addresses, width, ports) = if packet[0] >> 4 == 4 { (12, 4, 20) } else { (8, 16, 40) };
    let (from, to) = packet[addresses..addresses + 2 * width].split_at_mut(width);
    from.swap_with_slice(to);
    let (from, to) = packet[ports..ports + 4].split_at_mut(2);
    from.swap_with_slice(to);
}
