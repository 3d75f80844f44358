//! How much addresses are probed that peers named and that have never answered: they may be somebody's who has nothing to
//! do with any of this.
//!
//! The agents hold each peer's probes to a pace; this holds those of all peers in all networks together, for each address
//! with all its ports. An address that anything authentic came from is free of it, and with it everybody behind the same
//! NAT.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ginnel_path::address::canonical;
use ginnel_time::Instant;

use crate::load::Bucket;

/// The addresses that were probed or heard lately.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    /// Addresses that something authentic came from, and when it last did.
    heard: BTreeMap<IpAddr, Instant>,
    /// Addresses that were probed and never heard.
    silent: BTreeMap<IpAddr, Account>,
    /// What all addresses share that there is no room for in `silent`.
    rest: Option<Account>,
    /// When room was last looked for.
    swept: Option<Instant>,
}

/// The probes that an address may get.
#[derive(Debug)]
struct Account {
    bucket: Bucket,
    used: Instant,
}

impl Account {
    const fn new(now: Instant) -> Self {
        Self { bucket: Bucket::every(INTERVAL, AT_ONCE), used: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let taken = self.bucket.take(now);
        if taken {
            self.used = now;
        }
        taken
    }

    /// Whether it is as good as new.
    fn is_full(&self, now: Instant) -> bool {
        now >= self.used + INTERVAL * AT_ONCE
    }
}

impl Strangers {
    /// Whether `ip` may be probed once more; counts the probe.
    pub(crate) fn may_probe(&mut self, now: Instant, ip: IpAddr) -> bool {
        let host = host_of(ip);
        if self.heard.contains_key(&host) {
            return true;
        }
        if let Some(account) = self.silent.get_mut(&host) {
            return account.take(now);
        }
        if !self.has_room(now) {
            return self.rest.get_or_insert_with(|| Account::new(now)).take(now);
        }
        self.silent.entry(host).or_insert_with(|| Account::new(now)).take(now)
    }

    /// Takes note that something authentic came from `ip`. At the bound the one that was silent longest is forgotten.
    pub(crate) fn heard(&mut self, now: Instant, ip: IpAddr) {
        let host = host_of(ip);
        if !self.heard.contains_key(&host) && self.heard.len() >= MAX_HEARD {
            let oldest = self.heard.iter().min_by_key(|(_, at)| **at).map(|(host, _)| *host);
            oldest.and_then(|oldest| self.heard.remove(&oldest));
        }
        self.heard.insert(host, now);
        self.silent.remove(&host);
    }

    /// This machine is somewhere else: what never answered may answer from here.
    pub(crate) fn moved(&mut self) {
        self.silent.clear();
        self.rest = None;
    }

    /// Whether one more silent address can be remembered. Only those are forgotten that are as good as new, so being
    /// forgotten gains nobody a probe.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.silent.len() >= MAX_SILENT && self.swept.is_none_or(|swept| now >= swept + SWEEP) {
            self.swept = Some(now);
            self.silent.retain(|_, account| !account.is_full(now));
        }
        self.silent.len() < MAX_SILENT
    }
}

/// Whose address it is: in IPv6 a host has a whole /64 to itself.
fn host_of(ip: IpAddr) -> IpAddr {
    match canonical(ip) {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

/// Probes that a silent address gets without a pause.
const AT_ONCE: u32 = 120;
/// Between probes beyond those.
const INTERVAL: Duration = Duration::from_secs(2);
const MAX_HEARD: usize = 4096;
const MAX_SILENT: usize = 4096;
const SWEEP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn ip(number: u32) -> IpAddr {
        IpAddr::V4((0x0808_0000 + number).into())
    }

    #[test]
    fn an_address_that_never_answers_gets_few_probes_and_one_that_did_any() {
        let mut strangers = Strangers::default();
        let mut asked = |seconds: u64, ip: IpAddr| (0..1000).filter(|_| strangers.may_probe(at(seconds), ip)).count();
        assert_eq!(asked(10, ip(1)), AT_ONCE as usize);
        assert_eq!(asked(10, ip(2)), AT_ONCE as usize, "each for itself");
        let later: usize = (11..=70).map(|second| asked(second, ip(1))).sum();
        assert_eq!(later, 30, "one every two seconds");
        let mapped: IpAddr = "::ffff:8.8.0.1".parse().unwrap();
        assert_eq!(asked(70, mapped), 0, "the same address in another form");
        strangers.heard(at(71), ip(1));
        assert!((0..1000).all(|_| strangers.may_probe(at(71), ip(1))));
    }

    #[test]
    fn all_addresses_of_one_ipv6_host_are_one() {
        let mut strangers = Strangers::default();
        let taken = (0..1000_u128).filter(|n| {
            let ip = IpAddr::V6(((0x2001_0db8 << 96) + n).into());
            strangers.may_probe(at(10), ip)
        });
        assert_eq!(taken.count(), AT_ONCE as usize);
    }

    #[test]
    fn naming_many_others_does_not_make_us_forget_an_address() {
        let mut strangers = Strangers::default();
        while strangers.may_probe(at(10), ip(0)) {}
        let taken = (1..100_000).filter(|number| strangers.may_probe(at(11), ip(*number))).count();
        assert!(taken <= MAX_SILENT + AT_ONCE as usize, "{taken}");
        assert!(!strangers.may_probe(at(11), ip(0)));
        strangers.heard(at(11), ip(100_001));
        assert!(strangers.may_probe(at(11), ip(100_001)), "whoever answers has room");
        assert!(strangers.may_probe(at(1000), ip(100_002)), "what is as good as new makes room");
        assert!(strangers.silent.len() < 10);
    }

    #[test]
    fn from_another_place_all_are_asked_anew() {
        let mut strangers = Strangers::default();
        while strangers.may_probe(at(10), ip(0)) {}
        strangers.moved();
        assert!(strangers.may_probe(at(10), ip(0)));
    }
}
