//! What the state folder holds, lacks, and must never be without.

use ginnel_membership::build::lease_record;
use ginnel_membership::{Entry, Rights, Sequencer};

use super::world::{WALL, World, secs};
use crate::io::{Reply, Request};
use crate::node::StoredLog;
use crate::notice::Notice;
use crate::recent::Recent;
use crate::saved::Saved;

/// The length of the log that is stored.
pub(crate) fn length(log: &StoredLog) -> u64 {
    let voucher = log.snapshot.as_ref().map(|(_, entry)| entry);
    let last = log.entries.last().or(voucher);
    last.map_or(0, |bytes| Entry::decode(bytes).expect("own entries").sequence + 1)
}

/// Machine `number` has never had a link.
fn forget_endpoints(world: &mut World, number: usize) {
    let state = world.machines[number].state.as_mut().expect("it has one");
    let mut saved = Saved::decode(state).expect("own state decodes");
    for network in &mut saved.networks {
        network.recent = Recent::default();
    }
    *state = saved.encode();
}

fn has(world: &World, number: usize, code: &str) -> bool {
    world.status(number).health.iter().any(|item| item.code == code)
}

#[test]
fn a_log_that_lost_its_end_is_noticed_and_made_whole() {
    for left in [0, 3] {
        let mut world = World::linked(2, 1);
        let full = world.log_length(1);
        world.stop(1);
        // The state was last written when the last of them was there.
        world.machines[1].logs[0].entries.truncate(left);
        world.cut(1, 0);
        world.start(1);
        world.pass(secs(1));
        assert!(has(&world, 1, "log-cut-short"), "{:?}", world.status(1).health);
        world.mend(1, 0);
        world.pass(secs(75));
        assert_eq!(world.log_length(1), full);
        assert!(!has(&world, 1, "log-cut-short"));
        assert!(!world.machines[1].notices.iter().any(|notice| matches!(notice, Notice::Alarm { .. })));
    }
}

#[test]
fn another_history_in_the_place_of_a_lost_one_is_refused_with_an_alarm() {
    let mut world = World::linked(2, 1);
    assert!(matches!(world.ask(0, Request::Policy { strict: Some(true), delegate: None }), Ok(Reply::Done)));
    world.pass(secs(2));
    world.stop(0);
    world.stop(1);
    world.stop_host(0);
    let (network, log) = world.hosts[0].disk.logs[0].clone();
    let entries: Vec<Entry> = log.iter().map(|entry| Entry::decode(&entry.bytes).expect("own entries")).collect();
    let shorter = &entries[..entries.len() - 1];
    let mut liar = Sequencer::resume(world.hosts[0].key.clone(), network, shorter).expect("own log");
    world.start(0);
    let node = world.machines[0].node.as_ref().expect("it runs");
    let admin = node.networks.iter().find_map(|network| network.saved.admin.as_ref()).expect("it founded").signing();
    world.stop(0);
    let wall = WALL + 10_000;
    let record = lease_record(&network, &admin, liar.state().head(), wall);
    let lie = liar.append(wall, &record).expect("a fine lease").encode().into();
    *world.hosts[0].disk.logs[0].1.last_mut().expect("it has entries") = lie;
    world.machines[1].logs.clear();
    world.start_host(0);
    world.start(1);
    world.pass(secs(10));
    assert_eq!(world.log_length(1), shorter.len() as u64);
    assert!(has(&world, 1, "log-cut-short") && has(&world, 1, "dishonest-server"), "{:?}", world.status(1).health);
    let alarms = world.machines[1].notices.iter().filter(|notice| matches!(notice, Notice::Alarm { .. }));
    assert_eq!(alarms.count(), 1, "{:?}", world.machines[1].notices);
}

#[test]
fn strict_rules_keep_newcomers_out_while_the_log_lacks_what_was_verified() {
    let mut world = World::linked(3, 1);
    assert!(matches!(world.ask(0, Request::Policy { strict: Some(true), delegate: None }), Ok(Reply::Done)));
    let delegate = Some(("m2".to_owned(), Some(Rights::INVITE)));
    assert!(matches!(world.ask(0, Request::Policy { strict: None, delegate }), Ok(Reply::Done)));
    world.pass(secs(2));
    world.stop(1);
    // Machine 1 has met nobody, and of its log the last entry is gone.
    forget_endpoints(&mut world, 1);
    world.machines[1].logs[0].entries.pop();
    world.cut(1, 0);
    world.start(1);
    assert!(has(&world, 1, "log-cut-short") && has(&world, 1, "newcomers-wait"), "{:?}", world.status(1).health);
    assert!(world.peer(1, 0).is_some() && world.peer(1, 2).is_none(), "whom an admin has vouched for stays");
    world.mend(1, 0);
    world.pass(secs(75));
    assert!(world.peer(1, 0).is_some() && world.peer(1, 2).is_some());
}

#[test]
fn a_shorter_log_is_stored_at_once_with_all_that_follows() {
    let mut world = World::linked(3, 1);
    for _ in 0..270 {
        world.invite(0);
        world.pass(secs(1));
    }
    world.pass(secs(5));
    world.stop(1);
    assert!(matches!(world.ask(0, Request::Checkpoint), Ok(Reply::Done)));
    assert!(matches!(world.ask(0, Request::Revoke { peer: "m2".into() }), Ok(Reply::Revoked { .. })));
    world.pass(secs(2));
    // It takes both in one go; the world refuses a log that is ever stored shorter than it was.
    world.start(1);
    world.pass(secs(10));
    let log = &world.machines[1].logs[0];
    assert!(log.snapshot.is_some() && log.entries.len() == 1);
    assert_eq!(length(log), world.log_length(0));
}
