//! Whom a packet can reach at all, by lines, NATs and relays that live.

use std::collections::BTreeMap;

use ginnel_time::Instant;

use crate::machine::Life;
use crate::station;
use crate::world::World;

/// Pairs of machines between which no packet can go and be answered, whatever they do.
#[derive(Debug, Default)]
pub(crate) struct Severed(BTreeMap<(usize, usize), Severance>);

#[derive(Debug)]
struct Severance {
    since: Instant,
    says: Says,
}

/// What it says that nothing goes between two machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Says {
    /// Nothing: neither could take a path for alive.
    Nothing,
    /// Something: one of them held a path when it began, or packets still go one way.
    Something,
    /// Nothing any more: it was counted.
    Counted,
}

impl Severed {
    /// Whether it says something that nothing goes between two machines, and was not counted before.
    pub(crate) fn is_telling(&mut self, a: usize, b: usize) -> bool {
        let severance = self.0.get_mut(&(a.min(b), a.max(b)));
        severance.is_some_and(|severance| {
            let telling = severance.says == Says::Something;
            if telling {
                severance.says = Says::Counted;
            }
            telling
        })
    }
}

impl World {
    /// Looks at every pair anew, after machines, lines or relays have changed.
    pub(crate) fn survey(&mut self) {
        let count = self.machines.len();
        for (a, b) in (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))) {
            if self.is_joined(a, b) {
                self.severed.0.remove(&(a, b));
            } else {
                let half = self.is_half_joined(a, b);
                let held = !self.severed.0.contains_key(&(a, b)) && (self.holds_path(a, b) || self.holds_path(b, a));
                let says = if half || held { Says::Something } else { Says::Nothing };
                let severance = self.severed.0.entry((a, b)).or_insert(Severance { since: self.now, says });
                severance.says = severance.says.max(says);
            }
        }
    }

    /// Since when nothing can go between two machines and be answered.
    pub(crate) fn severed_since(&self, a: usize, b: usize) -> Option<Instant> {
        self.severed.0.get(&(a.min(b), a.max(b))).map(|severance| severance.since)
    }

    /// Whether both live, and packets go one way at least.
    fn is_half_joined(&self, a: usize, b: usize) -> bool {
        let awake = [a, b].iter().all(|machine| self.machines[*machine].life == Life::Awake);
        awake && (self.reaches(a, b) || self.reaches(b, a))
    }

    /// Whether a machine lives and takes a path to another for alive.
    fn holds_path(&self, a: usize, b: usize) -> bool {
        let address = self.script.addresses.get(b).copied().flatten();
        self.machines[a].life == Life::Awake && address.is_some_and(|ip| self.machines[a].path_to(ip).is_some())
    }

    fn is_joined(&self, a: usize, b: usize) -> bool {
        let awake = [a, b].iter().all(|machine| self.machines[*machine].life == Life::Awake);
        awake && self.reaches(a, b) && self.reaches(b, a)
    }

    /// Whether a packet can go from one machine to another: directly, as far as NATs let it, or by one relay or two.
    fn reaches(&self, a: usize, b: usize) -> bool {
        let (from, to) = (self.public_address(a), self.public_address(b));
        if !self.is_hopeless(a, b) && (from == to || self.net.passes(from, to)) {
            return true;
        }
        let live = || (0..self.stations.len()).filter(|number| self.stations[*number].relays()).map(station::address);
        let near = live().filter(|relay| self.net.passes(from, *relay));
        near.flat_map(|near| live().map(move |far| (near, far)))
            .any(|(near, far)| self.net.passes(near, far) && self.net.passes(far, to))
    }
}
