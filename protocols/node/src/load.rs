//! Whether handshakes come in faster than they can be answered.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ginnel_time::Instant;

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
/// address that no peer has told gets its reply with the share that its messages have in the flood; a handshake by mailbox
/// needs none.
#[derive(Debug)]
pub(crate) struct Cookies {
    known: Bucket,
    others: Bucket,
    places: BTreeSet<IpAddr>,
    looked: Option<Instant>,
}

impl Default for Cookies {
    fn default() -> Self {
        let bucket = Bucket::new(COOKIES, COOKIES);
        Self { known: bucket, others: bucket, places: BTreeSet::new(), looked: None }
    }
}

impl Cookies {
    /// Whether one more reply may be sent, to `to`; `places` says where peers may be, and is asked once a second.
    pub(crate) fn take(&mut self, now: Instant, to: IpAddr, places: impl FnOnce() -> BTreeSet<IpAddr>) -> bool {
        if self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= WINDOW) {
            self.looked = Some(now);
            self.places = places();
        }
        let bucket = if self.places.contains(&to) { &mut self.known } else { &mut self.others };
        bucket.take(now)
    }
}

/// Twice as many as initiations that make a load.
const COOKIES: u32 = 2 * DEFAULT_THRESHOLD;
const SECOND: u64 = 1_000_000_000;
const WINDOW: Duration = Duration::from_secs(1);
/// Load is held to last this long after the last sign of it.
const STICKY: Duration = Duration::from_secs(1);
/// Initiations per second that one core answers with ease: an eighth of what it can (about 4,500, see the benchmark of
/// the tunnel crate).
pub(crate) const DEFAULT_THRESHOLD: u32 = 500;

#[cfg(test)]
mod tests {
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

    #[test]
    fn strangers_do_not_use_up_the_cookies_of_those_who_are_expected() {
        let mut cookies = Cookies::default();
        let [peer, stranger] = ["203.0.113.1", "198.51.100.1"].map(|text| text.parse().unwrap());
        let places = || [peer].into();
        let given = (0..20_000).filter(|i| cookies.take(at(1000 + i / 20), stranger, places)).count();
        assert!((1900..=2100).contains(&given), "{given}: a burst and a second");
        assert!((0..500).all(|_| cookies.take(at(2000), peer, places)));
        let given = 500 + (0..20_000).filter(|_| cookies.take(at(2000), peer, places)).count();
        assert_eq!(given, 1000, "whose address is used by others has a bound, too");
    }

    #[test]
    fn where_peers_may_be_is_asked_once_a_second() {
        let mut cookies = Cookies::default();
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
