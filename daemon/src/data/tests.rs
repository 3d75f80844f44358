//! Two data threads back to back over loopback sockets, with a pair of datagram sockets in the place of each TUN: the
//! kernel keeps packets apart on both alike.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use ginnel_forward::Roam;
use ginnel_path::Local;
use ginnel_time::Tai64n;
use ginnel_tunnel::{
    Established, Identity, Initiator, NetworkTag, PresharedKey, Received, ReceiverIndex, StaticSecret, Suite,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::*;

const PEER: PeerId = PeerId(3);
const SOCKET: SocketId = SocketId(5);
const ADDRESSES: [[u8; 4]; 2] = [[100, 64, 0, 1], [100, 64, 0, 2]];

#[tokio::test]
async fn packets_pass_next_packet_to_tun_both_ways() {
    let [mut a, mut b] = linked();
    for size in [28, 1280] {
        let packet = packet(0, 1, size);
        a.tun.send(&packet).unwrap();
        assert_eq!(b.next_packet(), packet);
    }
    let packet = packet(1, 0, 500);
    b.tun.send(&packet).unwrap();
    assert_eq!(a.next_packet(), packet);
    assert!(matches!(b.event().await, DataEvent::Forward(Event::Confirmed { peer: PEER, .. })), "the responder's fact");
    let report = a.thread.handle().report(vec![PEER, PeerId(9)]).await.unwrap();
    assert_eq!(report.peers.keys().collect::<Vec<_>>(), [&PEER]);
    assert!(report.peers[&PEER].tx_bytes >= 1308 && report.peers[&PEER].rx_bytes >= 500);
    assert_eq!(ShellCounters { rounds: 0, ..report.shell }, ShellCounters::default());
    let _ = a.events.try_recv();
}

#[tokio::test]
async fn a_thousand_packets_arrive_in_order() {
    let [a, b] = linked();
    for burst in 0..20_u16 {
        for number in 0..50 {
            let mut packet = packet(0, 1, 200);
            packet[20..22].copy_from_slice(&(burst * 50 + number).to_be_bytes());
            a.tun.send(&packet).unwrap();
        }
        for number in 0..50 {
            let packet = b.next_packet();
            assert_eq!(u16::from_be_bytes([packet[20], packet[21]]), burst * 50 + number);
        }
    }
}

#[tokio::test]
async fn raw_datagrams_come_out_as_events_and_go_in_as_commands() {
    let mut side = Side::new(0);
    let stranger = Udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut initiation = vec![0xC0; 152];
    initiation[1..4].fill(0);
    stranger.send(side.address, None, &initiation).unwrap();
    let DataEvent::Forward(Event::Handshake { path, bytes }) = side.event().await else { panic!("a handshake") };
    assert_eq!((path.local, path.remote, bytes), (Local::Socket(SOCKET), stranger.local(), initiation));
    for ttl in [None, Some(9)] {
        side.order(Command::Send { path, ttl, bytes: b"answer".to_vec() });
        assert_eq!(received(&stranger), b"answer");
    }
}

#[tokio::test]
async fn a_send_that_fails_is_told_once_a_second() {
    let mut side = Side::new(0);
    let path = Path { local: Local::Socket(SOCKET), remote: "[2001:db8::1]:9".parse().unwrap() };
    for _ in 0..3 {
        side.order(Command::Send { path, ttl: None, bytes: b"lost".to_vec() });
    }
    let unknown = Path { local: Local::Socket(SocketId(77)), remote: side.address };
    side.order(Command::Send { path: unknown, ttl: None, bytes: b"lost".to_vec() });
    let event = side.event().await;
    let DataEvent::SendFailed { path: failed, failure: SendFailure::NoRoute } = event else { panic!("{event:?}") };
    assert_eq!(failed, path);
    let report = side.thread.handle().report(Vec::new()).await.unwrap();
    assert_eq!((report.shell.send_failed, report.shell.send_unknown_socket), (3, 1));
    assert!(side.events.try_recv().is_err());
}

#[tokio::test]
async fn facts_wait_while_the_daemon_does_not_listen() {
    let mut side = Side::new(0);
    let peers = u32::try_from(EVENTS).unwrap() * 2;
    for number in 0..peers {
        let address = IpAddr::from(0x6440_0000_u32.saturating_add(number).to_be_bytes());
        let allowed = vec![(address, 32)];
        side.order(Command::AddPeer {
            peer: PeerId(number),
            allowed,
            roam: Roam::Fixed,
            persistent_keepalive: Some(Duration::from_secs(1)),
        });
    }
    // Each peer's persistent keepalive wants a session: twice as many facts as the channel holds.
    let mut wanted = std::collections::BTreeSet::new();
    while wanted.len() < peers as usize {
        if let DataEvent::Forward(Event::SessionWanted { peer }) = side.event().await {
            wanted.insert(peer);
        }
    }
}

#[tokio::test]
async fn a_tun_that_is_gone_is_told_and_another_taken() {
    let mut side = Side::new(0);
    side.thread.handle().send(DataCommand::SetTun(None)).unwrap();
    let (ours, theirs) = pair();
    side.thread.handle().send(DataCommand::SetTun(Some(theirs))).unwrap();
    // The old far end stays open: closing it before the thread has changed over would count as a loss.
    let _old = std::mem::replace(&mut side.tun, ours);
    side.order(Command::AddPeer {
        peer: PEER,
        allowed: vec![(ADDRESSES[1].into(), 32)],
        roam: Roam::Fixed,
        persistent_keepalive: None,
    });
    side.tun.send(&packet(0, 1, 100)).unwrap();
    while !matches!(side.event().await, DataEvent::Forward(Event::SessionWanted { peer: PEER })) {}
    // A directory cannot be read as a file: the kernel's error stands for that of a deleted interface.
    let broken = File::open("/").unwrap();
    side.thread.handle().send(DataCommand::SetTun(Some(broken))).unwrap();
    assert!(matches!(side.event().await, DataEvent::TunLost { .. }));
}

#[tokio::test]
async fn the_thread_sleeps_when_nothing_happens_and_ends_with_its_owner() {
    let [a, mut b] = linked();
    // What the handshake leaves to do is done soon.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = rounds(&b).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let rounds = rounds(&b).await - before;
    assert!(rounds < 10, "the thread makes {rounds} rounds in 300 ms");
    drop(a);
    let handle = b.thread.handle().clone();
    b.events.close();
    drop(b);
    assert_eq!(handle.send(DataCommand::SetTun(None)), Err(Ended));
}

/// One side: its thread, and the far end of its TUN.
struct Side {
    thread: DataThread,
    events: mpsc::Receiver<DataEvent>,
    tun: UnixDatagram,
    address: std::net::SocketAddr,
}

impl Side {
    fn new(seed: u8) -> Self {
        let (tun, theirs) = pair();
        let options = Options { seed: [seed; 32], forward: Config::default(), tun: Some(theirs) };
        let (thread, events) = DataThread::spawn(options).unwrap();
        let socket = Udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local();
        thread.handle().send(DataCommand::AddSocket { id: SOCKET, socket }).unwrap();
        Self { thread, events, tun, address }
    }

    fn order(&self, command: Command) {
        self.thread.handle().send(DataCommand::Forward(command)).unwrap();
    }

    async fn event(&mut self) -> DataEvent {
        tokio::time::timeout(Duration::from_secs(10), self.events.recv()).await.unwrap().unwrap()
    }

    fn next_packet(&self) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let length = self.tun.recv(&mut buffer).unwrap();
        buffer[..length].to_vec()
    }
}

/// Two sides with a session from a true handshake.
fn linked() -> [Side; 2] {
    let sides = [Side::new(1), Side::new(2)];
    let [initiator, responder] = handshake();
    for (place, established) in [(1, responder), (0, initiator)] {
        let (side, other) = (&sides[place], &sides[1 - place]);
        let allowed = vec![(ADDRESSES[1 - place].into(), 32)];
        side.order(Command::AddPeer { peer: PEER, allowed, roam: Roam::Fixed, persistent_keepalive: None });
        let path = Path { local: Local::Socket(SOCKET), remote: other.address };
        side.order(Command::SetPath { peer: PEER, primary: Some(path), backup: None, duplicate: false });
        side.order(Command::Install { peer: PEER, established });
    }
    sides
}

fn handshake() -> [Established; 2] {
    let mut rng = ChaCha20Rng::from_seed([7; 32]);
    let identities = [(); 2].map(|()| Identity::new(StaticSecret::generate(&mut rng), NetworkTag([9; 32])));
    let psk = PresharedKey::zero();
    let label = Tai64n::from_unix(1_790_000_000, 0);
    let to = identities[1].public();
    let index = ReceiverIndex(1);
    let (mut initiator, initiation) =
        Initiator::start(&identities[0], to, Suite::AesGcm, &psk, 0, label, index, &mut rng).unwrap();
    let received = Received::read(&identities[1], &initiation, &mut |_| true).unwrap();
    let (response, responder) = received.respond(&psk, 0, ReceiverIndex(2), &mut rng).unwrap();
    [initiator.finish(&response).unwrap(), responder]
}

fn pair() -> (UnixDatagram, File) {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (ours, File::from(OwnedFd::from(theirs)))
}

/// A UDP packet between two of the addresses.
fn packet(from: usize, to: usize, size: usize) -> Vec<u8> {
    let mut packet = vec![0; size];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(size).unwrap().to_be_bytes());
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&ADDRESSES[from]);
    packet[16..20].copy_from_slice(&ADDRESSES[to]);
    packet
}

fn received(socket: &Udp) -> Vec<u8> {
    let mut polled = [libc::pollfd { fd: socket.fd(), events: libc::POLLIN, revents: 0 }];
    sys::poll(&mut polled, Some(Duration::from_secs(10))).unwrap();
    let mut buffer = [0; 2048];
    let (length, _) = socket.receive(&mut buffer).unwrap().expect("a datagram");
    buffer[..length].to_vec()
}

async fn rounds(side: &Side) -> u64 {
    side.thread.handle().report(Vec::new()).await.unwrap().shell.rounds
}
