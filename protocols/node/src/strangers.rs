//! What addresses get that peers named and at which no probe was ever answered: they may be somebody's who has nothing to
//! do with any of this.
//!
//! The agents hold each peer's probes to a pace; this holds those of all peers in all networks together, for each address
//! with all its ports, and beside them, with a pace of their own, the copies of handshakes.
//!
//! What lifts the bound is the answer to a probe of ours, and nothing else: each probe carries a number of its own that
//! cannot be guessed and goes to one address alone, sealed, so that whoever repeats it was reached there. An authentic
//! packet proves nothing of the kind, since a member can send it under any address; nor does the response to a
//! handshake, because the same initiation goes to every address that the peer told, and by the mailbox, and the
//! response says nothing of where it was found. Where a relay carries our probes, it is the relay that says whom they
//! reached: their answers lift the bound for what goes by a relay.
//!
//! The bound is then off for everybody behind the same NAT, too, until five minutes have passed without an answer.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ginnel_forward::PeerId;
use ginnel_path::address::{canonical, reach};
use ginnel_path::{Local, Path};
use ginnel_time::Instant;

use crate::load::Bucket;

/// The addresses that were written to or answered lately.
#[derive(Debug)]
pub(crate) struct Strangers {
    /// Addresses at which a probe was answered, and when one last was.
    answered: BTreeMap<(IpAddr, Via), Instant>,
    probes: Silent,
    handshakes: Silent,
}

/// What those get that did not answer, of one sort of datagram.
#[derive(Debug)]
struct Silent {
    pace: Pace,
    accounts: BTreeMap<IpAddr, Account>,
    /// What all addresses share that there is no room for in `accounts`.
    rest: Option<Account>,
    /// When room was last looked for.
    swept: Option<Instant>,
}

/// How much one address gets.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Without a pause.
    at_once: u32,
    /// Between those beyond them.
    interval: Duration,
}

/// Who brings a probe to its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Via {
    /// A socket of ours, and the networks between here and there.
    Socket,
    /// A relay of ours.
    Relay,
}

impl Via {
    const fn of(path: Path) -> Self {
        match path.local {
            Local::Socket(_) => Self::Socket,
            Local::Relay(_) => Self::Relay,
        }
    }
}

/// What an address may get.
#[derive(Debug)]
struct Account {
    pace: Pace,
    left: Bucket,
    /// What was taken for each peer of late, by each way; for all that there is no room for, under nobody's name.
    taken: BTreeMap<(Option<PeerId>, Via), u64>,
    /// When `taken` was last halved.
    halved: Instant,
}

impl Account {
    const fn new(now: Instant, pace: Pace) -> Self {
        Self { pace, left: Bucket::every(pace.interval, pace.at_once), taken: BTreeMap::new(), halved: now }
    }

    /// Takes a datagram for a peer unless it had [`SHARE`] times of late what is left: whoever comes next finds some,
    /// however many one peer could do with.
    fn take(&mut self, now: Instant, peer: PeerId, via: Via) -> bool {
        self.forgive(now);
        let own = (Some(peer), via);
        let has_room = self.taken.len() < MAX_TAKERS || self.taken.contains_key(&own);
        let taken = self.taken.entry(if has_room { own } else { (None, via) }).or_default();
        let may = *taken < SHARE * self.left.left(now) && self.left.take(now);
        *taken += u64::from(may);
        may
    }

    /// Forgets half of what was taken with each minute, and all of it once it has been made good.
    fn forgive(&mut self, now: Instant) {
        if self.is_full(now) {
            *self = Self::new(now, self.pace);
        }
        while now >= self.halved + HALVING {
            self.halved += HALVING;
            self.taken.values_mut().for_each(|taken| *taken /= 2);
        }
        self.taken.retain(|_, taken| *taken > 0);
    }

    /// Whether it is as good as new.
    fn is_full(&self, now: Instant) -> bool {
        self.left.is_full(now)
    }
}

impl Silent {
    const fn new(pace: Pace) -> Self {
        Self { pace, accounts: BTreeMap::new(), rest: None, swept: None }
    }

    fn take(&mut self, now: Instant, peer: PeerId, host: IpAddr, via: Via) -> bool {
        if let Some(account) = self.accounts.get_mut(&host) {
            return account.take(now, peer, via);
        }
        let pace = self.pace;
        if !self.has_room(now) {
            return self.rest.get_or_insert_with(|| Account::new(now, pace)).take(now, peer, via);
        }
        self.accounts.entry(host).or_insert_with(|| Account::new(now, pace)).take(now, peer, via)
    }

    fn clear(&mut self) {
        self.accounts.clear();
        self.rest = None;
    }

    /// Whether one more silent address can be remembered. Only those are forgotten that are as good as new, so being
    /// forgotten gains nobody anything.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.accounts.len() >= MAX_SILENT && self.swept.is_none_or(|swept| now >= swept + SWEEP) {
            self.swept = Some(now);
            self.accounts.retain(|_, account| !account.is_full(now));
        }
        self.accounts.len() < MAX_SILENT
    }
}

impl Default for Strangers {
    fn default() -> Self {
        Self { answered: BTreeMap::new(), probes: Silent::new(PROBES), handshakes: Silent::new(HANDSHAKES) }
    }
}

impl Strangers {
    /// Whether a probe for `peer` may go out by `path`; counts it.
    pub(crate) fn may_probe(&mut self, now: Instant, peer: PeerId, path: Path) -> bool {
        let (host, via) = (host_of(path.remote.ip()), Via::of(path));
        self.has_answered(now, host, via) || self.probes.take(now, peer, host, via)
    }

    /// Whether a copy of a handshake for `peer` may go out by `path`; counts it.
    pub(crate) fn may_greet(&mut self, now: Instant, peer: PeerId, path: Path) -> bool {
        let (host, via) = (host_of(path.remote.ip()), Via::of(path));
        self.has_answered(now, host, via) || self.handshakes.take(now, peer, host, via)
    }

    /// Takes note that a probe by `path` was answered. At the bound the one that was silent longest is forgotten.
    pub(crate) fn answered(&mut self, now: Instant, path: Path) {
        let key = (host_of(path.remote.ip()), Via::of(path));
        if !self.answered.contains_key(&key) && self.answered.len() >= MAX_ANSWERED {
            let oldest = self.answered.iter().min_by_key(|(_, at)| **at).map(|(key, _)| *key);
            oldest.and_then(|oldest| self.answered.remove(&oldest));
        }
        self.answered.insert(key, now);
        if key.1 == Via::Socket {
            self.probes.accounts.remove(&key.0);
            self.handshakes.accounts.remove(&key.0);
        }
    }

    /// This machine is somewhere else: what never answered may answer from here, and a private address may be another's.
    pub(crate) fn moved(&mut self) {
        self.answered.retain(|(host, _), _| !reach(*host).is_private());
        self.probes.clear();
        self.handshakes.clear();
    }

    fn has_answered(&self, now: Instant, host: IpAddr, via: Via) -> bool {
        let lately = |via| self.answered.get(&(host, via)).is_some_and(|at| now < *at + ANSWER_COUNTS);
        lately(Via::Socket) || (via == Via::Relay && lately(Via::Relay))
    }
}

/// Whose address it is: in IPv6 a host has a whole /64 to itself.
pub(crate) fn host_of(ip: IpAddr) -> IpAddr {
    match canonical(ip) {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

/// The probes that a silent address gets.
const PROBES: Pace = Pace { at_once: 120, interval: Duration::from_secs(2) };
/// The copies of handshakes that a silent address gets. An initiation goes out six times in five seconds on each path: this
/// is enough for half a minute of a peer with four ports there, and for the first copies of many peers.
const HANDSHAKES: Pace = Pace { at_once: 180, interval: Duration::from_millis(333) };
/// How many times what is left of them one peer may have had: of those at once, a lone one gets two thirds.
const SHARE: u64 = 2;
/// After this time half of what a peer had counts no more.
const HALVING: Duration = Duration::from_secs(60);
/// For how long an answer counts.
const ANSWER_COUNTS: Duration = Duration::from_secs(300);
const MAX_ANSWERED: usize = 4096;
const MAX_SILENT: usize = 4096;
/// Peers that are told apart at one address.
const MAX_TAKERS: usize = 64;
const SWEEP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use ginnel_path::{RelayId, SocketId};

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn path(ip: IpAddr) -> Path {
        Path { local: Local::Socket(SocketId(0)), remote: SocketAddr::new(ip, 4000) }
    }

    fn relayed(ip: IpAddr) -> Path {
        Path { local: Local::Relay(RelayId(0)), ..path(ip) }
    }

    fn ip(number: u32) -> IpAddr {
        IpAddr::V4((0x0808_0000 + number).into())
    }

    /// How many of 1,000 probes go out, each for another one of so many peers.
    fn asked(strangers: &mut Strangers, seconds: u64, peers: u32, path: Path) -> usize {
        (0..1000).filter(|n| strangers.may_probe(at(seconds), PeerId(n % peers), path)).count()
    }

    fn exhaust(strangers: &mut Strangers, seconds: u64, path: Path) {
        while asked(strangers, seconds, 200, path) > 0 {}
    }

    #[test]
    fn an_address_that_never_answers_gets_few_probes_and_one_that_did_any() {
        let mut strangers = Strangers::default();
        exhaust(&mut strangers, 9, path(ip(9)));
        let mut asked = |seconds: u64, ip: IpAddr| asked(&mut strangers, seconds, 200, path(ip));
        assert_eq!(asked(10, ip(1)), PROBES.at_once as usize);
        assert_eq!(asked(10, ip(2)), PROBES.at_once as usize, "each for itself");
        let later: usize = (11..=70).map(|second| asked(second, ip(1))).sum();
        assert_eq!(later, 30, "one every two seconds");
        let mapped: IpAddr = "::ffff:8.8.0.1".parse().unwrap();
        assert_eq!(asked(70, mapped), 0, "the same address in another form");
        strangers.answered(at(71), path(ip(1)));
        assert!((0..1000).all(|_| strangers.may_probe(at(71), PeerId(0), path(ip(1)))));
        assert!((0..1000).all(|_| strangers.may_probe(at(370), PeerId(0), path(ip(1)))));
        assert!(!(0..1000).all(|_| strangers.may_probe(at(371), PeerId(0), path(ip(1)))), "long ago");
    }

    #[test]
    fn handshakes_have_a_pace_of_their_own() {
        let mut strangers = Strangers::default();
        exhaust(&mut strangers, 10, path(ip(1)));
        let mut greeted = |seconds: u64, peers: u32| {
            (0..1000).filter(|n| strangers.may_greet(at(seconds), PeerId(n % peers), path(ip(1)))).count()
        };
        assert_eq!(greeted(10, 200), HANDSHAKES.at_once as usize);
        assert_eq!((11..=70).map(|second| greeted(second, 200)).sum::<usize>(), 180, "three a second");
        strangers.answered(at(71), path(ip(1)));
        assert!((0..1000).all(|_| strangers.may_greet(at(71), PeerId(0), path(ip(1)))));
        assert!(strangers.handshakes.accounts.is_empty());
    }

    #[test]
    fn a_peer_leaves_others_behind_the_same_address_theirs() {
        let mut strangers = Strangers::default();
        let mut asked = |seconds: u64, peer: u32, times: u64| {
            (0..times).filter(|_| strangers.may_probe(at(seconds), PeerId(peer), path(ip(1)))).count()
        };
        assert_eq!(asked(10, 0, 1000), 80, "a lone peer");
        assert!(asked(10, 1, 1000) >= 24, "two bursts of a pair");
        assert!((10..3600).map(|second| asked(second, 0, 50)).sum::<usize>() > 20 * 60, "it alone goes on");
        assert!(asked(3600, 1, 1000) >= 10, "however long another one was at it");
        for second in 3600..7200 {
            for peer in 2..6 {
                asked(second, peer, 50);
            }
        }
        assert!(asked(7200, 1, 1000) >= 3, "and several others");
    }

    #[test]
    fn what_a_relay_says_counts_for_relays_alone() {
        let mut strangers = Strangers::default();
        exhaust(&mut strangers, 10, path(ip(1)));
        strangers.answered(at(10), relayed(ip(1)));
        assert!((0..1000).all(|_| strangers.may_probe(at(10), PeerId(0), relayed(ip(1)))));
        assert_eq!(asked(&mut strangers, 10, 200, path(ip(1))), 0);
        strangers.answered(at(10), path(ip(1)));
        strangers.answered(at(10), path(ip(2)));
        assert!((0..1000).all(|_| strangers.may_probe(at(10), PeerId(0), path(ip(1)))));
        assert!((0..1000).all(|_| strangers.may_probe(at(10), PeerId(0), relayed(ip(2)))));
    }

    #[test]
    fn all_addresses_of_one_ipv6_host_are_one() {
        let mut strangers = Strangers::default();
        let taken = (0..1000_u32).filter(|n| {
            let ip = IpAddr::V6(((0x2001_0db8 << 96) + u128::from(*n)).into());
            strangers.may_probe(at(10), PeerId(n % 200), path(ip))
        });
        assert_eq!(taken.count(), PROBES.at_once as usize);
    }

    #[test]
    fn naming_many_others_does_not_make_us_forget_an_address() {
        let mut strangers = Strangers::default();
        exhaust(&mut strangers, 10, path(ip(0)));
        let mut probe = |seconds: u64, number: u32| strangers.may_probe(at(seconds), PeerId(0), path(ip(number)));
        let taken = (1..100_000).filter(|number| probe(11, *number)).count();
        assert!(taken <= MAX_SILENT + PROBES.at_once as usize, "{taken}");
        assert!(!probe(11, 0));
        strangers.answered(at(11), path(ip(100_001)));
        let mut probe = |seconds: u64, number: u32| strangers.may_probe(at(seconds), PeerId(0), path(ip(number)));
        assert!(probe(11, 100_001), "whoever answers has room");
        assert!(probe(1000, 100_002), "what is as good as new makes room");
        assert!(strangers.probes.accounts.len() < 10);
    }

    #[test]
    fn of_those_that_answered_no_more_are_remembered_than_there_is_room_for() {
        let mut strangers = Strangers::default();
        (0..=MAX_ANSWERED as u32).for_each(|number| strangers.answered(at(10 + u64::from(number)), path(ip(number))));
        assert_eq!(strangers.answered.len(), MAX_ANSWERED);
        assert!(!strangers.answered.contains_key(&(ip(0), Via::Socket)), "the longest silent one went");
    }

    #[test]
    fn an_account_knows_few_peers_by_name() {
        let mut account = Account::new(at(10), PROBES);
        for peer in 0..1000 {
            account.take(at(10), PeerId(peer), Via::Socket);
        }
        assert_eq!(account.taken.len(), MAX_TAKERS + 1);
        assert!(account.take(at(10), PeerId(0), Via::Socket), "those without a name leave it some");
    }

    #[test]
    fn from_another_place_all_are_asked_anew() {
        let mut strangers = Strangers::default();
        let [public, private] = ["8.8.8.8", "192.168.1.7"].map(|text| path(text.parse().unwrap()));
        strangers.answered(at(10), public);
        strangers.answered(at(10), private);
        exhaust(&mut strangers, 10, path(ip(0)));
        while strangers.may_greet(at(10), PeerId(0), path(ip(0))) {}
        strangers.moved();
        assert!(strangers.may_greet(at(10), PeerId(0), path(ip(0))));
        assert!(strangers.may_probe(at(10), PeerId(0), path(ip(0))));
        assert_eq!(asked(&mut strangers, 10, 200, private), PROBES.at_once as usize, "it may be another's here");
        assert_eq!(asked(&mut strangers, 10, 200, public), 1000);
    }
}
