use ginnel_turn::server::{AllocationId, Config, Input, Output, Quotas};
use ginnel_turn::{Server, channel_data};
use rand_core::SeedableRng as _;

use super::*;
use crate::gather::Gather;

const SECRET: &[u8] = b"a secret long enough for a relay!";
const HOME: NetworkNumber = NetworkNumber(0);
const RELAY: RelayId = RelayId(0);
const WALL: u64 = 1_800_000_000;
/// What one way to a relay takes.
const WAY: Duration = Duration::from_millis(20);

/// A machine and true relays, 20 ms apart; a relay may be down.
struct World {
    now: Instant,
    gather: Gather,
    stations: Vec<Option<Station>>,
    /// (when, from a relay, relay, bytes)
    wire: VecDeque<(Instant, bool, usize, Vec<u8>)>,
    /// When a datagram left for each relay.
    sent: Vec<Vec<Instant>>,
    commands: Vec<String>,
    /// The outside port of the machine.
    port: u16,
}

struct Station {
    turn: Server,
    next_port: u16,
}

fn address(number: usize) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 1 + number as u8], 3478))
}

fn station(number: usize, starts: u8) -> Station {
    let config = Config {
        realm: "relay.internal".to_owned(),
        secret: SECRET.to_vec().into(),
        relay_addresses: vec![address(number).ip()],
        ports: 49_152..=65_535,
        quotas: Quotas::default(),
        policy: Box::new(|_| true),
        nonce_lifetime: Duration::from_secs(600),
    };
    let mut turn = Server::new([starts + number as u8; 32], config).expect("sound");
    let _ = turn.handle_input(Instant::ZERO, Input::Wall(WALL));
    Station { turn, next_port: 50_000 + 100 * u16::from(starts) }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn offer(numbers: &[usize], name: &str) -> RelayOffer {
    let credentials = Credentials::time_limited(SECRET, WALL + 86_400, name);
    RelayOffer { servers: numbers.iter().map(|number| address(*number)).collect(), credentials }
}

impl World {
    fn new(relays: usize) -> Self {
        let mut gather = Gather::new(ChaCha20Rng::from_seed([1; 32]));
        gather.socket_opened(Instant::ZERO, SocketId(0), SocketAddr::from(([0, 0, 0, 0], 4000)));
        Self {
            now: Instant::ZERO + secs(1000),
            gather,
            stations: (0..relays).map(|number| Some(station(number, 1))).collect(),
            wire: VecDeque::new(),
            sent: vec![Vec::new(); relays],
            commands: Vec::new(),
            port: 4000,
        }
    }

    fn offer(&mut self, by: u16, numbers: &[usize]) {
        self.gather.relay_offer(self.now, HOME, ServerId(by), offer(numbers, &format!("user{by}")));
        self.drain();
    }

    fn relay(&self) -> Option<SocketAddr> {
        self.gather.relay_server(RELAY)
    }

    fn allocations(&self) -> Vec<usize> {
        self.stations.iter().map(|station| station.as_ref().map_or(0, |station| station.turn.allocations())).collect()
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.run(end, |_| false);
    }

    /// Lets time pass until there is an allocation; answers how long that took.
    fn until_relay(&mut self, limit: Duration) -> Option<Duration> {
        let start = self.now;
        self.run(start + limit, |world| world.gather.has_relay(HOME));
        self.gather.has_relay(HOME).then(|| self.now.saturating_duration_since(start))
    }

    fn run(&mut self, end: Instant, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            let wire = self.wire.front().map(|(at, ..)| *at);
            let stations = self.stations.iter().flatten().filter_map(|station| station.turn.poll_timeout());
            let next = stations.chain(wire).chain(self.gather.poll_timeout()).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            while let Some((_, down, number, bytes)) = self.wire.pop_front_if(|(at, ..)| *at <= next) {
                if down {
                    let _ = self.gather.handle_stun(self.now, SocketId(0), address(number), &bytes);
                } else {
                    let from = SocketAddr::from(([198, 51, 100, 1], self.port));
                    self.serve(number, Input::Client { from, local: address(number), bytes });
                }
            }
            for number in 0..self.stations.len() {
                if let Some(station) = &mut self.stations[number] {
                    station.turn.handle_timeout(self.now);
                }
                self.drain_station(number);
            }
            if self.gather.poll_timeout().is_some_and(|at| at <= self.now) {
                self.gather.handle_timeout(self.now);
                assert!(self.gather.poll_timeout().is_none_or(|at| at > self.now), "firing moves the deadline");
            }
            self.drain();
        }
    }

    fn serve(&mut self, number: usize, input: Input) {
        if let Some(station) = &mut self.stations[number] {
            let _ = station.turn.handle_input(self.now, input);
        }
        self.drain_station(number);
    }

    fn drain_station(&mut self, number: usize) {
        while let Some(station) = &mut self.stations[number]
            && let Some(output) = station.turn.poll_output()
        {
            match output {
                Output::ToClient { to, bytes, .. } => {
                    if to.port() == self.port {
                        self.wire.push_back((self.now + WAY, true, number, bytes));
                    }
                }
                Output::OpenPort { allocation, .. } => {
                    station.next_port += 1;
                    let addr = SocketAddr::new(address(number).ip(), station.next_port);
                    let opened = Input::PortOpened { allocation: AllocationId(allocation.0), addr };
                    let _ = station.turn.handle_input(self.now, opened);
                }
                Output::ClosePort { .. } | Output::Relay { .. } => {}
            }
        }
    }

    fn drain(&mut self) {
        while let Some(found) = self.gather.poll_found() {
            match found {
                Found::Forward(Command::Send { path, bytes, .. }) => {
                    assert!(!channel_data::is_channel_data(&bytes));
                    if let Some(number) = (0..self.stations.len()).find(|number| address(*number) == path.remote) {
                        self.sent[number].push(self.now);
                        self.wire.push_back((self.now + WAY, false, number, bytes));
                    }
                }
                Found::Forward(Command::SetRelay { server, .. }) => self.commands.push(format!("set {server}")),
                Found::Forward(Command::RemoveRelay { .. }) => self.commands.push("remove".to_owned()),
                Found::Forward(Command::BindChannel { remote, .. }) => self.commands.push(format!("bind {remote}")),
                Found::Forward(Command::UnbindChannel { .. }) => self.commands.push("unbind".to_owned()),
                Found::CredentialsRefused(_) => self.commands.push("refused".to_owned()),
                Found::SocketWanted(..) | Found::SocketSpare(_) => {}
                Found::Forward(_) | Found::Changed | Found::RelayLost(_) | Found::LetIn => {}
            }
        }
    }
}

#[test]
fn the_first_relay_to_answer_is_used_and_the_others_keep_nothing() {
    let mut world = World::new(3);
    world.stations[0] = None;
    world.offer(1, &[0, 1, 2]);
    let took = world.until_relay(secs(5)).expect("the second one answers");
    assert!(took < STAGGER + 10 * WAY, "{took:?}");
    assert_eq!(world.relay(), Some(address(1)));
    world.pass(secs(60));
    assert_eq!(world.allocations(), [0, 1, 0]);
    assert_eq!(world.commands, [format!("set {}", address(1))]);
}

#[test]
fn a_relay_that_comes_back_is_used_again_within_ten_seconds_however_long_it_was_away() {
    for away in [20, 47, 61, 95, 333, 1207] {
        let mut world = World::new(1);
        world.offer(1, &[0]);
        assert!(world.until_relay(secs(1)).is_some());
        world.stations[0] = None;
        world.pass(secs(50));
        assert!(!world.gather.has_relay(HOME), "its silence is noticed");
        world.pass(secs(away));
        let minute = world.now - secs(20);
        let asked = world.sent[0].iter().filter(|at| **at > minute).count();
        assert!(asked <= 20, "{asked} datagrams in 20 s to a relay that is away");
        world.stations[0] = Some(station(0, 2));
        let took = world.until_relay(secs(60)).expect("it is back");
        assert!(took <= RETRY_MAX + secs(1), "{took:?} after {away} s");
    }
}

#[test]
fn a_pause_that_ends_early_leaves_no_deadline_that_has_come() {
    let mut world = World::new(1);
    world.offer(1, &[0]);
    assert!(world.until_relay(secs(1)).is_some());
    world.stations[0] = None;
    world.pass(secs(50));
    for _ in 0..200 {
        world.pass(Duration::from_millis(5300));
        // As when a path fails, which a deadline finds out.
        world.gather.recheck(world.now);
        assert!(world.gather.poll_timeout().is_none_or(|at| at > world.now));
        world.drain();
    }
}

#[test]
fn another_relay_takes_over_before_the_silent_one_is_given_up() {
    let mut world = World::new(2);
    world.offer(1, &[0, 1]);
    world.until_relay(secs(5));
    assert_eq!(world.relay(), Some(address(0)));
    world.stations[0] = None;
    // A path by the relay has failed.
    world.pass(secs(3));
    world.gather.recheck(world.now);
    world.drain();
    let before = world.now;
    world.run(before + secs(20), |world| world.relay() == Some(address(1)));
    assert!(world.now <= before + DOUBT + secs(1), "{:?}", world.now.saturating_duration_since(before));
    assert_eq!(world.commands[1..], ["remove".to_owned(), format!("set {}", address(1))]);
}

#[test]
fn a_relay_that_answers_after_all_stays_in_use() {
    let mut world = World::new(2);
    world.offer(1, &[0, 1]);
    world.until_relay(secs(5));
    let kept = world.stations[0].take();
    world.gather.recheck(world.now);
    world.drain();
    // One that others are asked beside, but none of them answers.
    let other = world.stations[1].take();
    world.pass(secs(4));
    world.stations[0] = kept;
    world.pass(secs(4));
    world.stations[1] = other;
    world.pass(secs(60));
    assert_eq!(world.relay(), Some(address(0)));
    assert_eq!(world.allocations(), [1, 0]);
    assert_eq!(world.commands.len(), 1, "{:?}", world.commands);
}

#[test]
fn an_allocation_is_refreshed_before_the_most_forgetful_nats_close() {
    let mut world = World::new(1);
    world.offer(1, &[0]);
    world.pass(secs(300));
    assert!(world.sent[0].windows(2).all(|pair| pair[1].saturating_duration_since(pair[0]) < secs(20)));
    assert_eq!(world.allocations(), [1]);
}

#[test]
fn a_nat_that_forgot_us_costs_one_allocation_and_no_pause() {
    let mut world = World::new(1);
    world.offer(1, &[0]);
    world.pass(secs(10));
    world.port = 4001;
    world.gather.recheck(world.now);
    world.drain();
    world.pass(secs(1));
    assert!(world.gather.has_relay(HOME));
    world.pass(secs(120));
    assert_eq!(world.allocations(), [2], "the one out of reach waits for its end");
}

#[test]
fn a_relay_is_kept_until_its_own_server_goes_and_another_one_takes_over() {
    let mut world = World::new(2);
    world.offer(1, &[0]);
    world.offer(2, &[1]);
    world.pass(secs(2));
    assert_eq!(world.relay(), Some(address(0)));
    world.gather.forget_servers(world.now, &[ServerId(2)]);
    world.offer(2, &[1]);
    world.pass(secs(2));
    assert_eq!(world.commands.len(), 1, "the other server's coming and going changes nothing");
    world.gather.forget_servers(world.now, &[ServerId(1)]);
    world.drain();
    world.pass(secs(2));
    assert_eq!(world.relay(), Some(address(1)));
    world.gather.forget_servers(world.now, &[ServerId(2)]);
    world.drain();
    world.pass(secs(2));
    assert_eq!((world.relay(), world.allocations()), (None, vec![0, 0]), "given back");
}

#[test]
fn credentials_by_another_server_do_not_touch_an_allocation() {
    let mut world = World::new(1);
    world.offer(1, &[0]);
    world.pass(secs(2));
    // Both offer the same relay, under another name each.
    world.offer(7, &[0]);
    world.gather.forget_servers(world.now, &[ServerId(7)]);
    world.pass(secs(2));
    assert_eq!(world.commands.len(), 1);
    world.offer(7, &[0]);
    world.gather.forget_servers(world.now, &[ServerId(1)]);
    world.drain();
    world.pass(secs(2));
    assert_eq!(world.commands.len(), 3, "allocated anew under the other name: {:?}", world.commands);
    assert_eq!(world.allocations(), [1]);
}

#[test]
fn refused_credentials_are_asked_for_ever_more_rarely_and_fresh_ones_are_used_at_once() {
    let mut world = World::new(1);
    let credentials = Credentials { username: "x".to_owned(), password: "y".to_owned() };
    world.gather.relay_offer(world.now, HOME, ServerId(1), RelayOffer { servers: vec![address(0)], credentials });
    world.drain();
    world.pass(secs(300));
    assert_eq!(world.commands, ["refused"]);
    assert!(world.sent[0].len() < 10, "{}", world.sent[0].len());
    world.offer(1, &[0]);
    assert!(world.until_relay(secs(1)).is_some());
}

#[test]
fn credentials_that_a_relay_refuses_are_not_shown_again_while_another_server_has_others() {
    for bad in [1, 7] {
        let mut world = World::new(1);
        let credentials = Credentials { username: "x".to_owned(), password: "y".to_owned() };
        let offer = RelayOffer { servers: vec![address(0)], credentials };
        world.gather.relay_offer(world.now, HOME, ServerId(bad), offer);
        world.drain();
        world.pass(secs(5));
        assert_eq!(world.commands, ["refused"]);
        world.offer(8 - bad, &[0]);
        assert!(world.until_relay(secs(1)).is_some(), "server {bad} offers what is refused");
        // They remain the better ones when the allocation is lost.
        world.stations[0] = None;
        world.pass(secs(50));
        world.stations[0] = Some(station(0, 2));
        assert!(world.until_relay(RETRY_MAX + secs(1)).is_some());
        assert!(!world.commands[1..].contains(&"refused".to_owned()), "{:?}", world.commands);
    }
}

#[test]
fn outdated_credentials_are_replaced_by_any_server_that_offers_the_relay() {
    let mut world = World::new(1);
    world.offer(1, &[0]);
    world.offer(7, &[0]);
    assert!(world.until_relay(secs(1)).is_some());
    let wall = WALL + 90_000;
    world.serve(0, Input::Wall(wall));
    world.pass(secs(20));
    assert_eq!(world.commands[1..], ["remove", "refused"]);
    // The one that holds the lost allocation is away.
    let credentials = Credentials::time_limited(SECRET, wall + 600, "user7");
    world.port = 4001;
    world.gather.relay_offer(world.now, HOME, ServerId(7), RelayOffer { servers: vec![address(0)], credentials });
    world.drain();
    assert!(world.until_relay(secs(1)).is_some());
}

#[test]
fn an_allocation_whose_credentials_are_outdated_is_made_anew_at_once_by_those_of_another_server() {
    let mut world = World::new(1);
    world.offer(1, &[0]);
    assert!(world.until_relay(secs(1)).is_some());
    let wall = WALL + 90_000;
    let credentials = Credentials::time_limited(SECRET, wall + 600, "user1");
    let offer = RelayOffer { servers: vec![address(0)], credentials };
    world.gather.relay_offer(world.now, HOME, ServerId(7), offer);
    world.serve(0, Input::Wall(wall));
    world.pass(secs(20));
    let set = format!("set {}", address(0));
    assert_eq!(world.commands, [set.clone(), "remove".to_owned(), set]);
}

#[test]
fn one_relay_that_refuses_does_not_keep_us_from_another() {
    let mut world = World::new(2);
    world.offer(1, &[0]);
    world.pass(secs(2));
    let credentials = Credentials { username: "x".to_owned(), password: "y".to_owned() };
    world.gather.relay_offer(world.now, HOME, ServerId(2), RelayOffer { servers: vec![address(1)], credentials });
    world.drain();
    world.stations[0] = None;
    world.gather.recheck(world.now);
    world.drain();
    // The other one is asked, and refuses.
    world.pass(secs(4));
    assert!(!world.sent[1].is_empty());
    world.stations[0] = Some(station(0, 2));
    world.pass(secs(4));
    assert!(world.gather.has_relay(HOME));
    assert_eq!(world.allocations(), [1, 0]);
}

#[test]
fn a_channel_that_two_peers_use_stays_until_the_last_of_them_goes() {
    let mut world = World::new(1);
    world.offer(1, &[0]);
    world.pass(secs(2));
    let nat = |port: u16| SocketAddr::from(([198, 51, 100, 9], port));
    let bind = |world: &mut World, peer: u32, port: u16| {
        world.gather.bind(world.now, RELAY, PeerId(peer), nat(port));
        world.pass(secs(1));
    };
    let forget = |world: &mut World, peer: u32| {
        world.gather.forget_peer(world.now, PeerId(peer));
        world.drain();
        world.commands.iter().filter(|command| *command == "unbind").count()
    };
    for peer in [1, 2] {
        bind(&mut world, peer, 7000);
    }
    assert_eq!(world.commands[1..], [format!("bind {}", nat(7000))], "one channel for both");
    assert_eq!(forget(&mut world, 2), 0, "the other one uses it");
    assert!(world.gather.lets_in(Some(HOME), nat(7000)));
    // A share in a channel counts among the few that a peer has; its oldest goes for a new one.
    bind(&mut world, 2, 7000);
    for port in 7001..7001 + CHANNELS_PER_PEER as u16 {
        bind(&mut world, 2, port);
    }
    assert!(!world.commands.contains(&"unbind".to_owned()), "it gave up its share alone");
    assert_eq!(forget(&mut world, 1), 1, "nobody uses it any more");
    assert_eq!(forget(&mut world, 2), 1 + CHANNELS_PER_PEER);
}
