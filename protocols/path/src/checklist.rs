//! Every pair of one peer, bounded.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ginnel_time::Instant;

use crate::address;
use crate::candidate::{Ends, Remotes};
use crate::event::{Discard, Policy};
use crate::id::{CandidateKind, Local, Path};
use crate::pair::Pair;
use crate::score::Tier;

/// Direct pairs with told addresses; those of the newest sockets stay. With the other bounds, 48 pairs in all.
const MAX_DIRECT: usize = 28;
/// Relayed pairs with told addresses.
const MAX_RELAYED: usize = 12;
/// Pairs learnt from arrivals, or kept after the peer stopped telling their address; the longest unheard one goes first,
/// unproven before proven.
const MAX_SEEN: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Checklist {
    pairs: BTreeMap<Path, Pair>,
}

impl Checklist {
    /// Makes the pairs of the present candidates, and answers those that are new.
    ///
    /// A pair whose address is no longer told stays while it is proven or was learnt from an arrival; `in_use` stays in
    /// any case while its local end does.
    pub(crate) fn rebuild(
        &mut self,
        ends: &Ends,
        remotes: &Remotes,
        policy: Policy,
        in_use: [Option<Path>; 2],
    ) -> Vec<Path> {
        let wanted = wanted(ends, remotes, policy);
        for pair in self.pairs.values_mut() {
            if let Some((tier, kind)) = wanted.get(&pair.path) {
                (pair.tier, pair.kind, pair.told) = (*tier, *kind, true);
            } else {
                pair.told = false;
                pair.kind = remotes.kind_of(pair.path.remote).unwrap_or(pair.kind);
                pair.tier = pair.tier.max(tier(ends, pair.path, pair.kind));
            }
        }
        self.pairs.retain(|path, pair| {
            let held = pair.told || pair.is_proven() || pair.heard.is_some() || in_use.contains(&Some(*path));
            ends.contains(path.local) && !ends.is_own(path.remote) && held && allows(policy, pair.tier)
        });
        let mut added = Vec::new();
        for (path, (tier, kind)) in wanted {
            self.pairs.entry(path).or_insert_with(|| {
                added.push(path);
                Pair::new(path, kind, tier)
            });
        }
        self.evict(in_use);
        added
    }

    /// Notes an arrival by `path`, making the pair if it is new.
    pub(crate) fn heard(
        &mut self,
        now: Instant,
        path: Path,
        (ends, remotes, policy): (&Ends, &Remotes, Policy),
        in_use: [Option<Path>; 2],
    ) -> Result<&mut Pair, Discard> {
        if !ends.contains(path.local) {
            return Err(Discard::UnknownLocal);
        }
        if !address::usable_source(path.remote) || ends.is_own(path.remote) {
            return Err(Discard::UnusableAddress);
        }
        let kind = remotes.kind_of(path.remote).unwrap_or(CandidateKind::PeerReflexive);
        let tier = tier(ends, path, kind);
        if !allows(policy, tier) {
            return Err(Discard::UnusableAddress);
        }
        let pair = self.pairs.entry(path).or_insert_with(|| {
            let mut pair = Pair::new(path, kind, tier);
            pair.told = false;
            pair
        });
        pair.heard = Some(now);
        self.evict(in_use);
        self.pairs.get_mut(&path).ok_or(Discard::UnknownPath)
    }

    /// Drops every pair of a local end that is gone.
    pub(crate) fn remove_local(&mut self, local: Local) {
        self.pairs.retain(|path, _| path.local != local);
    }

    pub(crate) fn get(&self, path: Path) -> Option<&Pair> {
        self.pairs.get(&path)
    }

    pub(crate) fn get_mut(&mut self, path: Path) -> Option<&mut Pair> {
        self.pairs.get_mut(&path)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pair> {
        self.pairs.values()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Pair> {
        self.pairs.values_mut()
    }

    /// Whether any pair needs no relay.
    pub(crate) fn has_direct(&self) -> bool {
        self.iter().any(Pair::is_direct)
    }

    fn evict(&mut self, in_use: [Option<Path>; 2]) {
        while self.iter().filter(|pair| !pair.told).count() > MAX_SEEN {
            let spare = self.iter().filter(|pair| !pair.told && !in_use.contains(&Some(pair.path)));
            let Some(victim) = spare.min_by_key(|pair| (pair.is_proven(), pair.heard, pair.path)).map(|pair| pair.path)
            else {
                return;
            };
            self.pairs.remove(&victim);
        }
    }
}

/// The class of a path to an address of this kind.
pub(crate) fn tier(ends: &Ends, path: Path, kind: CandidateKind) -> Tier {
    match (path.local, kind) {
        (Local::Relay(_), CandidateKind::Relayed) => Tier::TwoRelays,
        (Local::Relay(_), CandidateKind::Host | CandidateKind::ServerReflexive | CandidateKind::PeerReflexive)
        | (Local::Socket(_), CandidateKind::Relayed) => Tier::OneRelay,
        (Local::Socket(_), CandidateKind::Host | CandidateKind::ServerReflexive | CandidateKind::PeerReflexive) => {
            if ends.is_near(path.remote.ip()) {
                Tier::Lan
            } else {
                Tier::Public
            }
        }
    }
}

/// Every pair that the candidates of both sides make, within the bounds.
pub(crate) fn wanted(ends: &Ends, remotes: &Remotes, policy: Policy) -> BTreeMap<Path, (Tier, CandidateKind)> {
    let mut all: Vec<(Tier, u64, usize, Path, CandidateKind)> = Vec::new();
    for (order, candidate) in remotes.usable(ends).into_iter().enumerate() {
        let locals = ends.towards(candidate.addr);
        let oldest = locals.iter().rfind(|local| matches!(local, Local::Socket(_))).copied();
        for local in locals {
            let path = Path { local, remote: candidate.addr };
            let tier = tier(ends, path, candidate.kind);
            // A fresh port helps only where the other side has a NAT.
            let helps = tier == Tier::Public || path.is_relayed() || Some(local) == oldest;
            if helps && allows(policy, tier) && !(path.is_relayed() && is_private(candidate.addr)) {
                all.push((tier, u64::MAX - ends.birth(local), order, path, candidate.kind));
            }
        }
    }
    // Sockets of the newest first inside a kind of path, so that a fresh port is never crowded out.
    all.sort_by_key(|(tier, age, order, ..)| (!tier.is_direct(), *age, *tier, *order));
    let direct = all.iter().filter(|(tier, ..)| tier.is_direct()).take(MAX_DIRECT);
    let relayed = all.iter().filter(|(tier, ..)| !tier.is_direct()).take(MAX_RELAYED);
    direct.chain(relayed).map(|(tier, _, _, path, kind)| (*path, (*tier, *kind))).collect()
}

fn allows(policy: Policy, tier: Tier) -> bool {
    match policy {
        Policy::Any => true,
        Policy::RelayOnly => !tier.is_direct(),
    }
}

/// A relay on the Internet reaches nobody's private network.
fn is_private(addr: SocketAddr) -> bool {
    address::reach(addr.ip()).is_private()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate::Source;
    use crate::id::{Candidate, LocalCandidate, RelayId, SocketId};

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn ends(list: &[(CandidateKind, Local, &str)]) -> Ends {
        let mut ends = Ends::default();
        let list =
            list.iter().map(|(kind, local, text)| LocalCandidate { kind: *kind, local: *local, addr: addr(text) });
        ends.replace(list.collect());
        ends
    }

    fn remotes(list: &[(CandidateKind, &str)]) -> Remotes {
        let mut remotes = Remotes::default();
        let list = list.iter().map(|(kind, text)| Candidate { kind: *kind, addr: addr(text) });
        remotes.replace(Source::Mailbox, list.collect());
        remotes
    }

    const V4: Local = Local::Socket(SocketId(0));
    const V6: Local = Local::Socket(SocketId(1));
    const FRESH: Local = Local::Socket(SocketId(2));
    const RELAY: Local = Local::Relay(RelayId(0));

    fn dual_stack() -> Ends {
        ends(&[
            (CandidateKind::Host, V4, "192.168.1.2:5000"),
            (CandidateKind::Host, V6, "[2001:db8:1::2]:5000"),
            (CandidateKind::Relayed, RELAY, "192.0.2.9:49001"),
        ])
    }

    #[test]
    fn pairs_join_ends_of_one_family_and_know_their_tier() {
        let remotes = remotes(&[
            (CandidateKind::Host, "192.168.1.9:6000"),
            (CandidateKind::Host, "[2001:db8:1::9]:6000"),
            (CandidateKind::Host, "[2001:db8:2::9]:6000"),
            (CandidateKind::ServerReflexive, "198.51.100.2:6000"),
            (CandidateKind::Relayed, "192.0.2.9:49002"),
        ]);
        let pairs = wanted(&dual_stack(), &remotes, Policy::Any);
        let tier = |local, remote: &str| pairs.get(&Path { local, remote: addr(remote) }).map(|(tier, _)| *tier);
        assert_eq!(tier(V4, "192.168.1.9:6000"), Some(Tier::Lan));
        assert_eq!(tier(V6, "[2001:db8:1::9]:6000"), Some(Tier::Lan), "the same /64");
        assert_eq!(tier(V6, "[2001:db8:2::9]:6000"), Some(Tier::Public));
        assert_eq!(tier(V4, "198.51.100.2:6000"), Some(Tier::Public));
        assert_eq!(tier(V4, "192.0.2.9:49002"), Some(Tier::OneRelay));
        assert_eq!(tier(RELAY, "198.51.100.2:6000"), Some(Tier::OneRelay));
        assert_eq!(tier(RELAY, "192.0.2.9:49002"), Some(Tier::TwoRelays));
        assert_eq!(pairs.len(), 7);
    }

    #[test]
    fn fresh_sockets_go_to_mappings_only() {
        let ends =
            ends(&[(CandidateKind::Host, V4, "192.168.1.2:5000"), (CandidateKind::Host, FRESH, "192.168.1.2:5001")]);
        let remotes = remotes(&[
            (CandidateKind::Host, "192.168.7.9:6000"),
            (CandidateKind::ServerReflexive, "198.51.100.2:6000"),
            (CandidateKind::Relayed, "192.0.2.9:49002"),
        ]);
        let pairs = wanted(&ends, &remotes, Policy::Any);
        let fresh: Vec<SocketAddr> = pairs.keys().filter(|path| path.local == FRESH).map(|path| path.remote).collect();
        assert_eq!(fresh, [addr("198.51.100.2:6000")]);
        assert_eq!(pairs.len(), 4);
    }

    #[test]
    fn a_path_told_later_takes_its_kind_and_one_no_longer_told_goes_unless_it_was_heard() {
        let (ends, none) = (dual_stack(), Remotes::default());
        let mut checklist = Checklist::default();
        let heard = Path { local: V4, remote: addr("192.0.2.9:49002") };
        let context = (&ends, &none, Policy::Any);
        let pair = checklist.heard(Instant::ZERO, heard, context, [None; 2]).unwrap();
        assert_eq!((pair.kind, pair.tier), (CandidateKind::PeerReflexive, Tier::Public));
        let told = remotes(&[(CandidateKind::Relayed, "192.0.2.9:49002"), (CandidateKind::Host, "192.168.1.9:1")]);
        let added = checklist.rebuild(&ends, &told, Policy::Any, [None; 2]);
        assert_eq!(added.len(), 2, "the LAN pair and the pair of two relays");
        let pair = checklist.get(heard).unwrap();
        assert_eq!((pair.kind, pair.tier), (CandidateKind::Relayed, Tier::OneRelay));
        checklist.rebuild(&ends, &none, Policy::Any, [None; 2]);
        assert_eq!(checklist.iter().map(|pair| pair.path).collect::<Vec<_>>(), [heard]);
    }

    #[test]
    fn the_bounds_hold_for_many_ends_and_candidates() {
        let list: Vec<LocalCandidate> = (0..40u16)
            .map(|n| {
                let local = if n % 4 == 0 { Local::Relay(RelayId(n)) } else { Local::Socket(SocketId(n)) };
                LocalCandidate {
                    kind: CandidateKind::Host,
                    local,
                    addr: SocketAddr::from(([192, 168, 1, 2], 5000 + n)),
                }
            })
            .collect();
        let mut ends = Ends::default();
        ends.replace(list);
        let texts: Vec<String> = (1..60).map(|n| format!("8.8.{n}.1:6000")).collect();
        let mut all: Vec<(CandidateKind, &str)> = Vec::new();
        for text in &texts {
            all.push((
                if all.len().is_multiple_of(2) { CandidateKind::ServerReflexive } else { CandidateKind::Relayed },
                text,
            ));
        }
        let mut checklist = Checklist::default();
        checklist.rebuild(&ends, &remotes(&all), Policy::Any, [None; 2]);
        let none = Remotes::default();
        for n in 0..100 {
            let path = Path { local: Local::Socket(SocketId(39)), remote: SocketAddr::from(([9, 9, 9, n], 1)) };
            let _ = checklist.heard(Instant::from_nanos(u64::from(n)), path, (&ends, &none, Policy::Any), [None; 2]);
        }
        assert_eq!(checklist.iter().filter(|pair| pair.told && pair.is_direct()).count(), MAX_DIRECT);
        assert_eq!(checklist.iter().filter(|pair| pair.told && !pair.is_direct()).count(), MAX_RELAYED);
        assert_eq!(checklist.iter().filter(|pair| !pair.told).count(), MAX_SEEN);
        let newest = Path { local: Local::Socket(SocketId(39)), remote: SocketAddr::from(([9, 9, 9, 99], 1)) };
        assert!(checklist.get(newest).is_some(), "the longest unheard went");
    }
}
