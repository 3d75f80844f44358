//! One history: nobody honest holds two entries for one place of the log.

use std::collections::BTreeMap;

use ginnel_membership::Entry;

use crate::world::World;

impl World {
    /// Places of the log for which two machines or servers hold different entries.
    pub(crate) fn forks(&self) -> Vec<String> {
        let mut known: BTreeMap<u64, (String, &Vec<u8>)> = BTreeMap::new();
        let mut parted = BTreeMap::new();
        let hosts = self.hosts.iter().enumerate();
        let servers =
            hosts.flat_map(|(number, host)| host.logs().map(move |entry| (format!("server {number}"), entry)));
        let machines = self.machines.iter().enumerate();
        let members =
            machines.flat_map(|(number, machine)| machine.entries().map(move |entry| (format!("node{number}"), entry)));
        for (who, bytes) in servers.chain(members) {
            let Ok(entry) = Entry::decode(bytes) else { continue };
            let (first, before) = known.entry(entry.sequence).or_insert_with(|| (who.clone(), bytes));
            if *before != bytes {
                parted.entry(entry.sequence).or_insert_with(|| format!("{first} and {who}"));
            }
        }
        // The first place tells it; all later ones follow from it.
        let first = parted.into_iter().next();
        first
            .map(|(place, who)| format!("two histories: {who} hold other entries in place {place}"))
            .into_iter()
            .collect()
    }
}
