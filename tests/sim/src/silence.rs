//! What members owe each other when no server lives: what one of them knows, all that are linked know within a minute.

use std::collections::BTreeSet;
use std::time::Duration;

use ginnel_node::{Family, Request};
use ginnel_time::Instant;

use crate::calm::{Concern, Promise, Recovery, Scope};
use crate::fault::{Direction, Trouble};
use crate::ledger::Answers;
use crate::machine::Life;
use crate::script::{Step, Wanted};
use crate::strike::LONG;
use crate::world::World;

/// What was known when the servers died.
#[derive(Clone, Debug)]
pub(crate) struct Secret {
    died: Instant,
    /// The longest log of each machine, and the pairs that were linked.
    lengths: Vec<u64>,
    links: BTreeSet<(usize, usize)>,
    revoked: Option<usize>,
}

impl World {
    /// Lets the founder alone reach the servers and write something; then they die.
    pub(crate) fn begin_silence(&mut self, fault: usize) {
        let own = (0..self.hosts.len()).map(|host| self.hosts[host].address()).collect();
        let mut others = self.everybody();
        others.remove(&self.public_address(0));
        self.cut_off(fault, &own, &others, Direction::Both);
        self.script.relays_hidden = Some(self.calm.begin(self.now, "hidden relays", Scope::Relayed, HIDDEN));
        // Neighbours talk, so that there are links; nobody with the one that means harm, which is the last.
        let turncoat =
            |machine: &usize| self.script.faults.iter().any(|fault| fault.what == Trouble::Turncoat(*machine));
        for machine in (1..self.machines.len()).filter(|machine| !turncoat(machine)).collect::<Vec<_>>() {
            let lasts = (self.now, self.now + TALK);
            self.add_flow(machine - 1, machine, lasts, Duration::from_millis(700), Family::V6, Answers::Each);
        }
        if self.machines[0].life == Life::Awake {
            let request = Request::Invite { expires: LONG, name: None };
            self.ask(0, request, Wanted::Whisper);
        }
        self.script.whisper = Some((self.length_of(0), self.now + SERVERS_DIE));
        self.step_at(self.now + LOOKS, Step::ServersDie(fault));
    }

    /// Whether the founder has what nobody else has, or will not get it.
    pub(crate) fn is_whispered(&self) -> bool {
        self.script.whisper.is_none_or(|(length, until)| self.length_of(0) > length || self.now >= until)
    }

    /// Looks again soon whether the servers can die.
    pub(crate) fn wait_for_whisper(&mut self, fault: usize) {
        self.step_at(self.now + LOOKS, Step::ServersDie(fault));
    }

    /// Kills all servers; what is known now must get about.
    pub(crate) fn servers_die(&mut self, fault: usize, revoked: Option<usize>) {
        for host in 0..self.hosts.len() {
            self.stop_server(fault, host);
        }
        // Relays beside them live.
        self.heal(fault);
        if let Some(mark) = self.script.relays_hidden.take() {
            self.calm.end(self.now, mark);
        }
        let revoked = revoked.filter(|gone| !self.script.revoked.contains_key(gone));
        if let Some(gone) = revoked {
            self.revoke(gone);
        }
        let lengths = (0..self.machines.len()).map(|machine| self.length_of(machine)).collect();
        self.script.secrets.insert(fault, Secret { died: self.now, lengths, links: self.links(), revoked });
        self.step_at(self.now + GETS_ABOUT, Step::Heard(fault));
    }

    /// Whether everybody who was linked all the time knows what one of them knew.
    pub(crate) fn check_heard(&mut self, fault: usize) {
        let Some(Secret { died, lengths, links, revoked }) = self.script.secrets.remove(&fault) else { return };
        let links: BTreeSet<(usize, usize)> = links.intersection(&self.links()).copied().collect();
        for group in groups(self.machines.len(), &links) {
            let known = group.iter().map(|machine| lengths[*machine]).max().unwrap_or_default();
            for machine in &group {
                let own = self.length_of(*machine);
                self.drills.whispers += u64::from(lengths[*machine] < known);
                if own < known {
                    let text = format!(
                        "node{machine} has {own} entries of the log, {known} were known among those that it is linked \
                         with when the last server died {:?} ago",
                        self.now.saturating_duration_since(died)
                    );
                    self.complain(&text, *machine, group[0]);
                }
            }
            let Some(gone) = revoked.filter(|gone| group.contains(&0) && self.script.revoked.contains_key(gone)) else {
                continue;
            };
            let Some(address) = self.script.addresses[gone] else { continue };
            for machine in group {
                self.drills.outcasts += u64::from(machine != gone && machine != 0);
                if machine != gone && self.machines[machine].knows(address) {
                    self.complain(&format!("node{machine} has not heard that node{gone} was revoked"), machine, gone);
                }
            }
        }
    }

    fn length_of(&self, machine: usize) -> u64 {
        self.machines[machine].log(self.now).map_or(0, |(length, _)| length)
    }

    /// Pairs whose data planes have a way to each other that nothing disturbs.
    fn links(&self) -> BTreeSet<(usize, usize)> {
        let count = self.machines.len();
        let pairs = (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b)));
        let ways = |a: usize, b: usize| {
            let address = self.machines[b].tunnel_address(Family::V6);
            self.machines[a].life == Life::Awake
                && address.is_some_and(|address| self.machines[a].path_to(address).is_some())
        };
        pairs
            .filter(|(a, b)| ways(*a, *b) && ways(*b, *a) && !self.is_gone(*a) && !self.is_gone(*b))
            .filter(|(a, b)| {
                // An old conversation: servers do not concern it, and what it needs of relays it has.
                let concern = Concern { direct: true, ..Concern::other(*a, *b, Instant::ZERO) };
                matches!(self.calm.promise(self.now, &concern), Promise::Full(_) | Promise::Shaken(_))
            })
            .collect()
    }

    fn is_gone(&self, machine: usize) -> bool {
        self.script.revoked.contains_key(&machine) || self.script.hostile.contains(&machine)
    }
}

/// Machines that are linked with each other, over others too.
fn groups(count: usize, links: &BTreeSet<(usize, usize)>) -> Vec<Vec<usize>> {
    let mut group: Vec<usize> = (0..count).collect();
    for _ in 0..count {
        for (a, b) in links {
            let least = group[*a].min(group[*b]);
            (group[*a], group[*b]) = (least, least);
        }
    }
    let mut groups = vec![Vec::new(); count];
    for (machine, least) in group.into_iter().enumerate() {
        groups[least].push(machine);
    }
    groups.retain(|group| group.len() > 1);
    groups
}

/// Between two looks whether the founder has written something.
const LOOKS: Duration = Duration::from_millis(10);
/// The founder has this long to write something.
const SERVERS_DIE: Duration = Duration::from_secs(3);
/// What one linked member knows all others know after this.
const GETS_ABOUT: Duration = Duration::from_secs(60);
/// The relays beside the servers are out of reach for a moment first.
const HIDDEN: Recovery = Recovery { back: Duration::from_secs(40), shaken: Duration::from_secs(130) };
/// The servers are away for so long.
pub(crate) const SILENCE: Duration = Duration::from_secs(70);
/// Neighbours talk for so long.
const TALK: Duration = Duration::from_secs(66);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_linked_over_others_is_in_one_group() {
        let links = [(0, 4), (1, 2), (3, 4), (2, 5)].into();
        assert_eq!(groups(7, &links), [vec![0, 3, 4], vec![1, 2, 5]]);
    }
}
