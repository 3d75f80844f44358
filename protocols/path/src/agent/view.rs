//! What can be asked of an agent without changing it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::*;
use crate::address;
use crate::checklist;
use crate::event::{PathStatus, Policy, WhyNotDirect};
use crate::pair;

impl Agent {
    /// The paths that copies of a handshake go out by before any session, best first, each with its TTL.
    ///
    /// The last path that worked, private and host addresses, and relayed ones go plain; public mappings get
    /// [`OPENER_TTL`], so that an early packet does not spoil the other side's mapping. Nothing goes from our own relay to
    /// a mapping, because a relay sends with a TTL of its own: the other side writes to the relay first. A driver without
    /// any means to tell the other side its candidates may leave the TTL away after a few attempts.
    pub fn openers(&self) -> Vec<(Path, Option<u8>)> {
        let wanted = checklist::wanted(&self.ends, &self.remotes, self.config.policy);
        let last = self.last_good.filter(|path| self.ends.contains(path.local));
        let spoils = |path: Path, tier: Tier| path.is_relayed() && tier == Tier::OneRelay;
        let others = wanted.into_iter().filter(|(path, (tier, _))| Some(*path) != last && !spoils(*path, *tier));
        let mut others: Vec<(bool, Tier, Path)> =
            others.map(|(path, (tier, kind))| (pair::can_clash(path, kind, tier), tier, path)).collect();
        others.sort_unstable();
        let others = others.into_iter().map(|(clash, _, path)| (path, clash.then_some(OPENER_TTL)));
        last.map(|path| (path, None)).into_iter().chain(others).take(MAX_OPENERS).collect()
    }

    /// Our candidates as the other side is told them: usable ones, at most 16.
    pub fn candidates(&self) -> Vec<Candidate> {
        self.ends.told(self.config.policy)
    }

    /// Our side of the session, while one is up.
    pub const fn role(&self) -> Option<Role> {
        self.role
    }

    /// Every pair with what is known of it, the paths in use first, then by class.
    pub fn status(&self) -> Vec<PathStatus> {
        let mut all: Vec<PathStatus> = self.checklist.iter().map(|pair| self.path_status(pair)).collect();
        all.sort_by_key(|status| (status.selected, status.tier, status.path));
        all
    }

    /// Why traffic does not flow directly; `None` while it does.
    pub fn why_not_direct(&self) -> Option<WhyNotDirect> {
        if self.role.is_none() {
            return Some(WhyNotDirect::NoSession);
        }
        let primary = self.selection.primary.and_then(|path| self.checklist.get(path));
        if primary.is_some_and(Pair::is_direct) {
            return None;
        }
        Some(if self.config.policy == Policy::RelayOnly {
            WhyNotDirect::Forbidden
        } else if !self.checklist.has_direct() {
            WhyNotDirect::NoCandidates
        } else if self.punch.is_preparing() || self.checklist.iter().any(|pair| pair.is_direct() && pair.is_checking())
        {
            WhyNotDirect::AwaitingEcho
        } else if !self.activity.is_active(self.now) {
            WhyNotDirect::Idle
        } else if self.own_mapping_varies() {
            WhyNotDirect::OwnMappingVaries
        } else {
            WhyNotDirect::NoEcho
        })
    }

    /// Whether one socket of ours was seen from outside under two public addresses.
    fn own_mapping_varies(&self) -> bool {
        let mut seen: BTreeMap<(Local, bool), SocketAddr> = BTreeMap::new();
        let fresh = self.checklist.iter().filter(|pair| pair.is_eligible(self.now) && !pair.path.is_relayed());
        let mut observed = fresh.filter_map(|pair| Some((pair.path.local, pair.observed?)));
        self.ends.mapping_varies()
            || observed.any(|(local, addr)| {
                let public = address::reach(addr.ip()).is_public();
                let mapped = self.ends.mapping(local, addr);
                public
                    && (mapped.is_some_and(|mapped| mapped != addr)
                        || *seen.entry((local, addr.is_ipv4())).or_insert(addr) != addr)
            })
    }

    fn path_status(&self, pair: &Pair) -> PathStatus {
        PathStatus {
            path: pair.path,
            kind: pair.kind,
            tier: pair.tier,
            rtt: pair.proof().map(|Proof { rtt, .. }| *rtt),
            state: pair.path_state(),
            selected: self.selection.use_of(pair.path),
        }
    }
}

/// Paths that one handshake goes out by, at most.
const MAX_OPENERS: usize = 24;
