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
        for local in ends.towards(candidate.addr) {
            let path = Path { local, remote: candidate.addr };
            let tier = tier(ends, path, candidate.kind);
            if allows(policy, tier) && !(path.is_relayed() && is_private(candidate.addr)) {
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
