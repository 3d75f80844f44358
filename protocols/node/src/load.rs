//! Whether handshakes come in faster than they can be answered.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use crate::strangers::host_of;

/// Counts initiations with a good mac1 and answers whether senders must prove their address.
#[derive(Debug)]
pub(crate) struct Load {
    threshold: u32,
    window: Instant,
    count: u32,
    until: Option<Instant>,
}

impl Load {
    pub(crate) fn new(threshold: u32) -> Self {
        Self { threshold, window: Instant::ZERO, count: 0, until: None }
    }

    /// Notes one initiation; `true` while under load.
    pub(crate) fn note(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.window) >= WINDOW {
            self.window = now;
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        if self.count > self.threshold {
            self.until = Some(now + STICKY);
        }
        self.until.is_some_and(|until| now < until)
    }
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    /// What one token costs.
    price: u64,
    burst: u32,
    /// Nanoseconds of credit.
    credit: Option<(Instant, u64)>,
}

impl Bucket {
    /// A full bucket of `burst` tokens that `per_second` more flow into.
    pub(crate) const fn new(per_second: u32, burst: u32) -> Self {
        Self { price: SECOND / if per_second == 0 { 1 } else { per_second as u64 }, burst, credit: None }
    }

    /// A full bucket of `burst` tokens that one more flows into every `interval`, of at most a minute.
    pub(crate) const fn every(interval: Duration, burst: u32) -> Self {
        Self { price: SECOND * interval.as_secs() + interval.subsec_nanos() as u64, burst, credit: None }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let (price, credit) = (self.price, self.credit_at(now));
        let rest = credit.checked_sub(price);
        self.credit = Some((now, rest.unwrap_or(credit)));
        rest.is_some()
    }

    /// Whether more than half of the burst is there.
    pub(crate) fn is_over_half(&self, now: Instant) -> bool {
        self.credit_at(now) > self.full() / 2
    }

    /// The whole tokens that are there.
    pub(crate) fn left(&self, now: Instant) -> u64 {
        self.credit_at(now) / self.price.max(1)
    }

    /// Whether it is as good as new.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.credit_at(now) == self.full()
    }

    const fn full(&self) -> u64 {
        self.price.saturating_mul(self.burst as u64)
    }

    fn credit_at(&self, now: Instant) -> u64 {
        match self.credit {
            Some((at, credit)) => {
                let flown = u64::try_from(now.saturating_duration_since(at).as_nanos()).unwrap_or(u64::MAX);
                credit.saturating_add(flown).min(self.full())
            }
            None => self.full(),
        }
    }
}

/// Cookie replies under load: so many a second to addresses at which peers may be, and so many to all others.
///
/// Each reply costs more than all that went before it, and a flood under many addresses has most of them go to nobody. An
/// address that no peer has told then gets its reply with the share that its messages have in the flood; a handshake by
/// mailbox needs none. One sender alone, or few, take nothing from anybody: whoever wants more than a few replies a second
/// gets what the others leave. It is not refused them, because others can send under its address.
#[derive(Debug)]
pub(crate) struct Cookies {
    known: Replies,
    others: Replies,
    places: BTreeSet<IpAddr>,
    looked: Option<Instant>,
}

/// The replies to one kind of addresses.
#[derive(Debug)]
struct Replies {
    all: Bucket,
    /// The few of each sender; a bucket is shared by those that the key throws together.
    few: Vec<Bucket>,
    key: ChaCha20Rng,
}

impl Cookies {
    /// `key` is a stream of its own that nobody else can tell or read: whoever knew it could choose a sender to share a
    /// bucket with.
    pub(crate) fn new(key: ChaCha20Rng) -> Self {
        let replies = || Replies { all: Bucket::new(COOKIES, COOKIES), few: vec![FEW; SENDERS], key: key.clone() };
        Self { known: replies(), others: replies(), places: BTreeSet::new(), looked: None }
    }

    /// Whether one more reply may be sent, to `to`; `places` says where peers may be, and is asked once a second.
    pub(crate) fn take(&mut self, now: Instant, to: IpAddr, places: impl FnOnce() -> BTreeSet<IpAddr>) -> bool {
        if self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= WINDOW) {
            self.looked = Some(now);
            self.places = places();
        }
        let replies = if self.places.contains(&to) { &mut self.known } else { &mut self.others };
        replies.take(now, to)
    }
}

impl Replies {
    fn take(&mut self, now: Instant, to: IpAddr) -> bool {
        let sender = self.bucket_of(to);
        let is_modest = self.few.get_mut(sender).is_some_and(|few| few.take(now));
        (is_modest || self.all.is_over_half(now)) && self.all.take(now)
    }

    /// The bucket of an address: where the stream that is the address's own begins.
    fn bucket_of(&self, to: IpAddr) -> usize {
        let mut stream = self.key.clone();
        stream.set_stream(match host_of(to) {
            IpAddr::V4(v4) => v4.to_bits().into(),
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        });
        stream.next_u32() as usize % SENDERS
    }
}

/// Twice as many as initiations that make a load.
const COOKIES: u32 = 2 * DEFAULT_THRESHOLD;
/// What each sender has of them: four a second, a cookie being good for two minutes.
const FEW: Bucket = Bucket::new(4, 8);
/// Buckets for these; together they let pass more than [`COOKIES`] a second, so that a flood under many addresses finds no
/// other bound than before.
const SENDERS: usize = 1024;
const SECOND: u64 = 1_000_000_000;
const WINDOW: Duration = Duration::from_secs(1);
/// Load is held to last this long after the last sign of it.
const STICKY: Duration = Duration::from_secs(1);
/// Initiations per second that one core answers with ease: an eighth of what it can (about 4,500, see the benchmark of
/// the tunnel crate).
pub(crate) const DEFAULT_THRESHOLD: u32 = 500;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand_core::SeedableRng;

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::new(10, 5);
        assert_eq!((0..20).filter(|_| bucket.take(at(1000))).count(), 5);
        assert_eq!((0..1000).filter(|i| bucket.take(at(1000 + i))).count(), 9);
    }

    #[test]
    fn a_bucket_knows_when_it_is_half_empty() {
        let mut bucket = Bucket::new(10, 6);
        let left: Vec<bool> = (0..4).map(|_| (bucket.is_over_half(at(0)), bucket.take(at(0))).0).collect();
        assert_eq!(left, [true, true, true, false]);
        assert!(!bucket.is_over_half(at(100)) && bucket.is_over_half(at(200)));
    }

    fn cookies(seed: u8) -> Cookies {
        Cookies::new(ChaCha20Rng::from_seed([seed; 32]))
    }

    /// Addresses of as many machines.
    fn many(network: u32, count: u32) -> impl Iterator<Item = IpAddr> + Clone {
        (0..count).map(move |host| IpAddr::V4((network + host).into()))
    }

    const STRANGERS: u32 = 0xC612_0000;
    const PEERS: u32 = 0xCB00_7100;

    #[test]
    fn strangers_do_not_use_up_the_cookies_of_those_who_are_expected() {
        let mut cookies = cookies(1);
        let peers = many(PEERS, 256);
        let places = || peers.clone().collect();
        let strangers = many(STRANGERS, 20_000).zip(0..);
        let given = strangers.filter(|(stranger, i)| cookies.take(at(1000 + i / 20), *stranger, places)).count();
        assert!((1900..=2100).contains(&given), "{given}: a burst and a second");
        assert!(peers.clone().all(|peer| cookies.take(at(2000), peer, places)));
        let more = (0..80).flat_map(|_| peers.clone()).filter(|peer| cookies.take(at(2000), *peer, places)).count();
        assert_eq!(256 + more, 1000, "whose addresses are used by others have a bound, too");
    }

    #[test]
    fn one_sender_takes_nothing_from_another() {
        for expected in [false, true] {
            let mut cookies = cookies(2);
            let [greedy, modest] = ["198.51.100.1", "203.0.113.1"].map(|text| text.parse().unwrap());
            let places = || if expected { [greedy, modest].into() } else { BTreeSet::new() };
            let (mut taken, mut got) = (0, 0);
            for i in 0..200_000 {
                taken += u32::from(cookies.take(at(1000 + i / 20), greedy, places));
                if i % 5_000 == 2_500 {
                    got += u32::from(cookies.take(at(1000 + i / 20), modest, places));
                }
            }
            assert_eq!(got, 40, "four a second for ten seconds");
            assert!(taken > 9_000, "{taken}: what nobody else wants");
        }
    }

    #[test]
    fn nobody_can_tell_who_shares_a_bucket() {
        let buckets = |seed: u8| many(STRANGERS, 4096).map(|ip| cookies(seed).others.bucket_of(ip)).collect::<Vec<_>>();
        let (one, other) = (buckets(1), buckets(2));
        let same = one.iter().zip(&other).filter(|(one, other)| one == other).count();
        assert!(same < 30, "{same} of 4,096");
        let mut load = BTreeMap::new();
        one.iter().for_each(|bucket| *load.entry(bucket).or_insert(0) += 1);
        assert!(load.len() > 950 && load.values().all(|count| *count < 20), "{load:?}");
    }

    #[test]
    fn a_sender_is_an_ipv4_address_or_an_ipv6_network_of_one_link() {
        let cookies = cookies(3);
        let bucket = |text: &str| cookies.others.bucket_of(text.parse().unwrap());
        assert_eq!(bucket("198.51.100.1"), bucket("::ffff:198.51.100.1"));
        assert_eq!(bucket("2001:db8::1"), bucket("2001:db8::ffff:0:0:9"));
        assert_ne!(bucket("2001:db8::1"), bucket("2001:db8:0:1::1"));
    }

    #[test]
    fn where_peers_may_be_is_asked_once_a_second() {
        let mut cookies = cookies(4);
        let peer: IpAddr = "203.0.113.1".parse().unwrap();
        let mut asked = 0;
        for i in 0..3000 {
            cookies.take(at(i), peer, || {
                asked += 1;
                BTreeSet::new()
            });
        }
        assert_eq!(asked, 3);
    }

    #[test]
    fn few_initiations_are_no_load() {
        let mut load = Load::new(10);
        assert!((0..1000).all(|i| !load.note(at(i * 200))));
    }

    #[test]
    fn load_ends_when_the_flood_ends() {
        let mut load = Load::new(10);
        let flooded = (0..100).filter(|i| load.note(at(*i))).count();
        assert!(flooded > 80);
        assert!(!load.note(at(5000)));
    }
}
