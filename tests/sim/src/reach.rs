//! Whom a packet can reach at all, by lines, NATs and relays that live.

use std::collections::BTreeMap;

use ginnel_time::Instant;

use crate::machine::Life;
use crate::oracle::Theory;
use crate::station;
use crate::world::World;

/// Pairs of machines between which no packet can go and be answered, whatever they do, and since when.
#[derive(Debug, Default)]
pub(crate) struct Severed(BTreeMap<(usize, usize), Instant>);

impl World {
    /// Looks at every pair anew, after machines, lines or relays have changed.
    pub(crate) fn survey(&mut self) {
        let count = self.machines.len();
        for (a, b) in (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b))) {
            if self.is_joined(a, b) {
                self.severed.0.remove(&(a, b));
            } else {
                self.severed.0.entry((a, b)).or_insert(self.now);
            }
        }
    }

    /// Since when nothing can go between two machines and be answered.
    pub(crate) fn severed_since(&self, a: usize, b: usize) -> Option<Instant> {
        self.severed.0.get(&(a.min(b), a.max(b))).copied()
    }

    fn is_joined(&self, a: usize, b: usize) -> bool {
        let awake = [a, b].iter().all(|machine| self.machines[*machine].life == Life::Awake);
        awake && self.reaches(a, b) && self.reaches(b, a)
    }

    /// Whether a packet can go from one machine to another: directly, as far as NATs let it, or by one relay or two.
    fn reaches(&self, a: usize, b: usize) -> bool {
        let (from, to) = (self.public_address(a), self.public_address(b));
        if self.theory(a, b) != Theory::Never && (from == to || self.net.passes(from, to)) {
            return true;
        }
        let live = || (0..self.stations.len()).filter(|number| self.stations[*number].relays()).map(station::address);
        let near = live().filter(|relay| self.net.passes(from, *relay));
        near.flat_map(|near| live().map(move |far| (near, far)))
            .any(|(near, far)| self.net.passes(near, far) && self.net.passes(far, to))
    }
}
