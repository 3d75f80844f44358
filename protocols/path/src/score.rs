//! Which of two proven paths is better.

use std::time::Duration;

/// The class of a path, best first. A better class wins with its first echo, whatever the round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Direct, to an address of a local or private network.
    Lan,
    /// Direct, to a public address.
    Public,
    /// Through one allocation, ours or the peer's.
    OneRelay,
    /// Through an allocation of each side.
    TwoRelays,
}

impl Tier {
    /// Whether no relay stands on the path.
    pub const fn is_direct(self) -> bool {
        matches!(self, Self::Lan | Self::Public)
    }
}

/// What a proven path is judged by. Ordered for a choice from nothing: class, round trip, IPv6 first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Score {
    pub(crate) tier: Tier,
    pub(crate) rtt: Duration,
    pub(crate) family: Family,
}

/// The address family of a path, preferred first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V6,
    V4,
}

impl Score {
    /// Whether traffic on `current` should move to `self`.
    ///
    /// Within a class only a gain of more than [`least_gain`] moves it, so two equal paths do not alternate; IPv6 takes
    /// over from IPv4 when it is not slower.
    pub(crate) fn displaces(&self, current: &Self) -> bool {
        if self.tier != current.tier {
            return self.tier < current.tier;
        }
        let preferred = self.family < current.family && self.rtt <= current.rtt;
        preferred || current.rtt.saturating_sub(self.rtt) > least_gain(current.rtt)
    }
}

/// The gain in round trip that is worth a move: 20 %, and not less than 10 ms.
fn least_gain(rtt: Duration) -> Duration {
    (rtt / 5).max(Duration::from_millis(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(tier: Tier, rtt: u64, family: Family) -> Score {
        Score { tier, rtt: Duration::from_millis(rtt), family }
    }

    #[test]
    fn a_better_class_wins_whatever_the_round_trip() {
        let slow_direct = score(Tier::Public, 300, Family::V4);
        let fast_relay = score(Tier::OneRelay, 5, Family::V6);
        assert!(slow_direct.displaces(&fast_relay));
        assert!(!fast_relay.displaces(&slow_direct));
    }

    #[test]
    fn small_gains_do_not_move_traffic() {
        let current = score(Tier::Public, 100, Family::V4);
        assert!(!score(Tier::Public, 81, Family::V4).displaces(&current));
        assert!(score(Tier::Public, 79, Family::V4).displaces(&current));
        let quick = score(Tier::Public, 15, Family::V4);
        assert!(!score(Tier::Public, 5, Family::V4).displaces(&quick));
        assert!(score(Tier::Public, 4, Family::V4).displaces(&quick));
    }

    #[test]
    fn ipv6_wins_a_tie_and_keeps_it() {
        let v4 = score(Tier::Public, 40, Family::V4);
        let v6 = score(Tier::Public, 40, Family::V6);
        assert!(v6.displaces(&v4));
        assert!(!v4.displaces(&v6));
        assert!(!score(Tier::Public, 31, Family::V4).displaces(&v6));
    }

    #[test]
    fn no_two_scores_displace_each_other() {
        let tiers = [Tier::Lan, Tier::Public, Tier::OneRelay];
        let all: Vec<Score> = tiers
            .into_iter()
            .flat_map(|tier| (0..200).step_by(7).map(move |rtt| (tier, rtt)))
            .flat_map(|(tier, rtt)| [score(tier, rtt, Family::V4), score(tier, rtt, Family::V6)])
            .collect();
        for a in &all {
            for b in &all {
                assert!(!(a.displaces(b) && b.displaces(a)), "{a:?} and {b:?}");
            }
        }
    }
}
