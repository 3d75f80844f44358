//! Stored logs, and what a server that takes one up still has to look at.

use ginnel_membership::build;
use ginnel_membership::{Applied, Break, Checkpoint, Entry, MemberKey, Refusal, Sequencer, Trust};

use crate::world::{DAY, Machine, World, server_key, standby_key};

fn resume(world: &World, trust: impl Fn(&Entry) -> Trust + Clone) -> (Sequencer, Vec<Trust>) {
    let entries = world.log.iter().map(|entry| (entry, trust(entry)));
    Sequencer::resume_with(server_key(), world.network, entries).unwrap()
}

/// Puts a record in order that a server with this key would never have ordered; whoever replays it skips it.
fn thrust(world: &mut World, record: &[u8], refusal: Refusal) -> Entry {
    let entry = world.forge(record);
    assert_eq!(world.order(&entry), Applied::Skipped(refusal));
    entry
}

/// A log whose entry 3 pretends to make `Machine::new(9)` the admin, and what its replay says of each entry.
fn forged_admin() -> (World, MemberKey, Vec<Trust>) {
    let mut world = World::new();
    world.join(&Machine::new(1), "laptop").unwrap();
    let thief = Machine::new(9).id();
    let mut record = world.admin_change_record(&[&world.admin], 1, &[thief]);
    *record.last_mut().unwrap() ^= 1;
    thrust(&mut world, &record, Refusal::Signature(ginnel_membership::BadSignature));
    world.join(&Machine::new(2), "server").unwrap();
    let mut known = vec![Trust::Effective; world.log.len()];
    known[3] = Trust::Skipped;
    (world, thief, known)
}

#[test]
fn entries_that_others_brought_are_judged_under_this_servers_own_key() {
    let (world, thief, known) = forged_admin();
    let (sequencer, found) = resume(&world, |_| Trust::Refilled);
    assert_eq!((sequencer.state(), found), (world.state(), known));
    assert!(!sequencer.state().is_admin(&thief));
    // A store that says of this one alone that others brought it is as good.
    let trust = |entry: &Entry| if entry.sequence == 3 { Trust::Refilled } else { Trust::Stored };
    assert_eq!(resume(&world, trust).0.state(), world.state());
}

#[test]
fn what_was_judged_once_is_not_judged_again() {
    let (world, thief, known) = forged_admin();
    let trust = |entry: &Entry| known[usize::try_from(entry.sequence).unwrap()];
    let (sequencer, again) = resume(&world, trust);
    assert_eq!((sequencer.state(), &again), (world.state(), &known));
    // What is said of an entry is taken at its word: no signature is looked at for one that took effect, and what was
    // passed over has none.
    assert!(resume(&world, |_| Trust::Effective).0.state().is_admin(&thief));
    let (sequencer, found) = resume(&world, |entry| if entry.sequence == 2 { Trust::Skipped } else { Trust::Refilled });
    assert_eq!(found[2], Trust::Skipped);
    assert_eq!(sequencer.state().head(), world.state().head());
    assert!(!sequencer.state().is_live(&Machine::new(1).id()));
    // The last entry is looked at whatever is said.
    let mut forged = world.log.clone();
    let last = forged.last_mut().unwrap();
    *last.record.last_mut().unwrap() ^= 1;
    let entries = forged.iter().map(|entry| (entry, Trust::Effective));
    assert!(matches!(Sequencer::resume_with(server_key(), world.network, entries), Err(Break::Signature(_))));
}

#[test]
fn record_that_took_no_effect_is_not_found() {
    let mut world = World::new();
    let late = Machine::new(1);
    // A dishonest sequencer orders the newcomer before its invite.
    let member = world.member_record(&late, "laptop");
    thrust(&mut world, &member, Refusal::InviteUnknown);
    world.invite(&late);
    assert_eq!(world.sequencer.find(&member), None);
    let entry = world.append(&member).unwrap();
    assert_eq!(entry.sequence, 3);
    let (resumed, _) = resume(&world, |_| Trust::Stored);
    for sequencer in [&world.sequencer, &world.standby, &resumed] {
        assert_eq!(sequencer.find(&member), Some(3));
        assert_eq!(sequencer.find(b"junk"), None);
    }
    assert!(resumed.state().is_live(&late.id()));
}

/// Appends a checkpoint whose hash is wrong, as a server that does not look could have.
fn false_checkpoint(world: &mut World) -> u64 {
    let checkpoint = Checkpoint { state_hash: [7; 32], ..world.state().make_checkpoint().unwrap() };
    let record = build::checkpoint_record(&world.network, &world.admin, checkpoint);
    thrust(world, &record, Refusal::CheckpointOfAnotherState).sequence
}

#[test]
fn state_of_a_known_checkpoint_is_not_hashed_again() {
    let mut world = World::new();
    world.join(&Machine::new(1), "laptop").unwrap();
    let wrong = usize::try_from(false_checkpoint(&mut world)).unwrap();
    world.invite(&Machine::new(2));
    // This server's own word on it suffices.
    let (mut sequencer, known) = resume(&world, |_| Trust::Stored);
    assert_eq!(known[wrong], Trust::Effective);
    let next = sequencer.state().make_checkpoint().unwrap();
    let entry = sequencer.append(world.now, &build::checkpoint_record(&world.network, &world.admin, next)).unwrap();
    world.log.push(entry);
    let filler = world.invite_record(&Machine::new(3));
    world.log.push(sequencer.append(world.now, &filler).unwrap());
    // Nor does it matter once another one follows, whose snapshot is there.
    let (resumed, known) = resume(&world, |_| Trust::Stored);
    assert_eq!(resumed.state(), sequencer.state());
    assert_eq!(resumed.state().checkpoint(), Some(next));
    assert_eq!(known, vec![Trust::Effective; world.log.len()]);
    // Another's word does not.
    assert_eq!(resume(&world, |_| Trust::Refilled).1[wrong], Trust::Skipped);
    let mirror = Sequencer::resume(standby_key(), world.network, &world.log).unwrap();
    assert_eq!(mirror.state().checkpoint(), None);
}

#[test]
fn snapshot_is_there_where_the_last_checkpoint_was_none() {
    let mut world = World::new();
    for day in 1..4 {
        world.join(&Machine::new(day), "laptop").unwrap();
        let record = world.checkpoint_record();
        world.append(&record).unwrap();
        world.now += DAY;
    }
    let wrong = false_checkpoint(&mut world);
    world.invite(&Machine::new(4));
    let good = world.state().checkpoint().unwrap().length;
    for trust in [Trust::Stored, Trust::Effective, Trust::Refilled] {
        let trust = |entry: &Entry| if entry.sequence == wrong { Trust::Refilled } else { trust };
        let (sequencer, known) = resume(&world, trust);
        assert_eq!(sequencer.state(), world.state());
        assert!(sequencer.state().checkpoint_snapshot().is_some());
        let expected = |sequence| if sequence == wrong { Trust::Skipped } else { Trust::Effective };
        assert_eq!(known, (0..world.log.len() as u64).map(expected).collect::<Vec<_>>());
    }
    assert!(good < wrong);
}
