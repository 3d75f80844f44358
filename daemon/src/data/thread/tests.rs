//! One round after the other, against sockets whose queues hold what the test put there.

use std::sync::mpsc::sync_channel;

use ginnel_forward::{Config, Event};

use super::*;

struct Rounds {
    plane: Plane,
    events: mpsc::Receiver<DataEvent>,
    targets: BTreeMap<SocketId, std::net::SocketAddr>,
    sender: Udp,
    /// Without it the thread would stop.
    _orders: std::sync::mpsc::SyncSender<Order>,
}

impl Rounds {
    fn new(sockets: u16) -> Self {
        let options = Options { seed: [1; 32], forward: Config::default(), tun: None };
        let (orders, received) = sync_channel(8);
        let (sender, events) = mpsc::channel(1024);
        let mut plane = Plane::new(options, received, sender, Arc::new(Wake::new().unwrap())).unwrap();
        let mut targets = BTreeMap::new();
        for id in (0..sockets).map(SocketId) {
            let socket = Udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
            targets.insert(id, socket.local());
            plane.command(clock::now(), DataCommand::AddSocket { id, socket });
        }
        let sender = Udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self { plane, events, targets, sender, _orders: orders }
    }

    /// Puts STUN messages into a socket's queue; over loopback they are there when the call ends.
    fn fill(&self, socket: u16, count: usize) {
        let mut message = [0; 20];
        message[1] = 1;
        message[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
        for _ in 0..count {
            self.sender.send(self.targets[&SocketId(socket)], None, &message).unwrap();
        }
    }

    /// How many messages of each socket one round brings. A round that leaves nothing unread sleeps, for ever here.
    fn round(&mut self) -> BTreeMap<u16, usize> {
        assert!(self.plane.round().unwrap() == Flow::Go);
        let mut counts = BTreeMap::new();
        while let Ok(event) = self.events.try_recv() {
            let DataEvent::Forward(Event::Stun { socket, .. }) = event else { panic!("{event:?}") };
            *counts.entry(socket.0).or_insert(0) += 1;
        }
        counts
    }
}

#[test]
fn full_sockets_share_each_batch_and_are_first_in_turn() {
    let mut rounds = Rounds::new(3);
    for socket in 0..3 {
        rounds.fill(socket, 100);
    }
    let half = BATCH / 2;
    for (first, second) in [(1, 2), (2, 0), (0, 1), (1, 2)] {
        assert_eq!(rounds.round(), BTreeMap::from([(first, half), (second, half)]));
    }
}

#[test]
fn a_socket_alone_has_the_whole_batch() {
    let mut rounds = Rounds::new(1);
    rounds.fill(0, 2 * BATCH);
    for _ in 0..2 {
        assert_eq!(rounds.round(), BTreeMap::from([(0, BATCH)]));
    }
}

#[test]
fn a_flood_on_one_socket_does_not_hide_what_comes_to_another() {
    let mut rounds = Rounds::new(3);
    rounds.fill(0, 3 * BATCH);
    rounds.round();
    rounds.fill(2, 1);
    // The first round sees that there is something, the second one reads it.
    let seen: Vec<_> = (0..2).map(|_| rounds.round()).collect();
    assert_eq!(seen, [BTreeMap::from([(0, BATCH)]), BTreeMap::from([(0, BATCH / 2), (2, 1)])]);
}
