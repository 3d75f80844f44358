//! Servers that come, go and take over.

use ginnel_membership::build;
use ginnel_membership::keys::SigningKey;
use ginnel_membership::record::ServersChange;
use ginnel_membership::{Applied, Break, Change, Entry, Malformed, Placed, Refusal, Sequencer, SignedRecord};

use crate::world::{Machine, START, World, forge, replay, server, server_key, sign_by, standby_key, standby_server};

fn third_key() -> SigningKey {
    SigningKey::from_bytes(&[0x5d; 32])
}

fn new_entry(placed: Result<Placed, Refusal>) -> Entry {
    match placed {
        Ok(Placed::New(entry)) => entry,
        other => panic!("not a new entry: {other:?}"),
    }
}

#[test]
fn list_of_servers_is_replaced() {
    let mut world = World::new();
    assert_eq!((world.state().servers(), world.state().next_servers()), (&[server()][..], 1));
    let mut state = world.replay();
    let record = world.servers_record(&server_key());
    let entry = world.append(&record).unwrap();
    assert_eq!(state.apply(&entry), Ok(Applied::Changed(Change::ServersChanged)));
    assert_eq!((state.servers(), state.next_servers()), (&[server(), standby_server()][..], 2));
    assert_eq!(state.sequencer(), Some(server_key().sequencer_key()));
    world.join(&Machine::new(1), "laptop").unwrap();
}

#[test]
fn old_sequencer_hands_over() {
    let mut world = World::new();
    let mut state = world.replay();
    let record = world.servers_record(&standby_key());
    let entry = world.append(&record).unwrap();
    state.apply(&entry).unwrap();
    assert!(world.sequencer.is_sequencer() && !world.standby.is_sequencer());
    assert_eq!(state.sequencer(), Some(standby_key().sequencer_key()));
    let lease = world.lease_record();
    let by_old = world.forge_by(&server_key(), &lease);
    assert!(matches!(state.apply(&by_old), Err(Break::Signature(_))));
    assert_eq!(world.standby.prepare(world.now, &lease), Err(Refusal::OtherSequencer));
    world.join(&Machine::new(1), "laptop").unwrap();
    assert_eq!(&world.replay(), world.state());
    // And back again.
    let record = world.servers_record(&server_key());
    world.append(&record).unwrap();
    world.join(&Machine::new(2), "server").unwrap();
    assert_eq!(&world.replay(), world.state());
    for key in [server_key(), standby_key()] {
        let resumed = Sequencer::resume(key, world.network, &world.log).unwrap();
        assert_eq!(resumed.state(), world.state());
    }
}

#[test]
fn mirror_takes_over_where_the_sequencer_is_lost() {
    let mut world = World::new();
    world.join(&Machine::new(1), "laptop").unwrap();
    let record = world.servers_record(&standby_key());
    assert_eq!(world.standby.prepare(world.now, &record), Err(Refusal::OtherSequencer));
    let entry = new_entry(world.standby.take_over(world.now, &record));
    let mut state = world.replay();
    assert_eq!(state.apply(&entry), Ok(Applied::Changed(Change::ServersChanged)));
    world.order(&entry);
    assert_eq!(world.sequencer.take_over(world.now, &record), Ok(Placed::Existing(entry)));
    world.join(&Machine::new(2), "server").unwrap();
    assert_eq!(&world.replay(), world.state());
    // What the old one still orders is refused.
    let late = world.forge_by(&server_key(), &world.lease_record());
    assert!(matches!(world.replay().apply(&late), Err(Break::Signature(_))));
}

#[test]
fn mirror_takes_over_by_admins_word_alone() {
    let mut world = World::new();
    let member = Machine::new(1);
    world.join(&member, "laptop").unwrap();
    let change = |number, sequencer: &SigningKey, by: &SigningKey| {
        let servers = vec![server(), standby_server()];
        let body = ServersChange { number, sequencer: sequencer.sequencer_key(), servers };
        build::servers_record(&world.network, by, body).unwrap()
    };
    let by_member = change(1, &standby_key(), &member.key);
    let by_itself = change(1, &standby_key(), &standby_key());
    let early = change(2, &standby_key(), &world.admin);
    let elsewhere = change(1, &server_key(), &world.admin);
    let good = change(1, &standby_key(), &world.admin);
    assert_eq!(world.standby.take_over(START, &by_member), Err(Refusal::NotAuthorised));
    assert_eq!(world.standby.take_over(START, &elsewhere), Err(Refusal::OtherSequencer));
    assert_eq!(world.standby.take_over(START, &world.lease_record()), Err(Refusal::OtherSequencer));
    let mut state = world.replay();
    for record in [&by_member, &by_itself, &early, &elsewhere, &world.lease_record()] {
        let entry = world.forge_by(&standby_key(), record);
        assert!(matches!(state.apply(&entry), Err(Break::Signature(_))));
    }
    // Another server cannot use the word that names this one.
    assert!(matches!(state.apply(&world.forge_by(&third_key(), &good)), Err(Break::Signature(_))));
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    assert!(matches!(state.apply(&world.forge_by(&standby_key(), &bad)), Err(Break::Signature(_))));
    // Ordered by the true sequencer, they mean nothing.
    for (record, refusal) in [(&by_member, Refusal::NotAuthorised), (&early, Refusal::WrongNumber)] {
        assert_eq!(state.clone().apply(&world.forge(record)), Ok(Applied::Skipped(refusal)));
    }
    assert_eq!(&state, world.state());
    assert_eq!(state.apply(&world.forge_by(&standby_key(), &good)), Ok(Applied::Changed(Change::ServersChanged)));
}

#[test]
fn earlier_handover_does_not_count_twice() {
    let mut world = World::new();
    let there = world.servers_record(&standby_key());
    world.append(&there).unwrap();
    let back = world.servers_record(&server_key());
    world.append(&back).unwrap();
    let mut state = world.replay();
    assert!(matches!(state.apply(&world.forge_by(&standby_key(), &there)), Err(Break::Signature(_))));
    assert_eq!(state.apply(&world.forge(&there)), Ok(Applied::Skipped(Refusal::WrongNumber)));
    assert_eq!(state.sequencer(), Some(server_key().sequencer_key()));
}

#[test]
fn two_histories_at_a_handover_are_a_fork() {
    let mut world = World::new();
    world.join(&Machine::new(1), "laptop").unwrap();
    let before = world.log.clone();
    let (length, head) = world.state().head();
    let lease = world.lease_record();
    let record = world.servers_record(&standby_key());
    let third = ginnel_membership::Server {
        keys: ginnel_membership::ServerKeys { signing: third_key().sequencer_key().to_bytes(), noise: [7; 32] },
        ..standby_server()
    };
    let body = ServersChange { number: 1, sequencer: third_key().sequencer_key(), servers: vec![third] };
    let rival = build::servers_record(&world.network, &world.admin, body).unwrap();
    let rival = world.forge_by(&third_key(), &rival);
    let taken = new_entry(world.standby.take_over(world.now, &record));
    world.order(&taken);
    world.join(&Machine::new(2), "server").unwrap();
    let mut state = world.replay();
    // The old sequencer put another entry into the same place.
    let stray = forge(world.network, length, head, world.now, &lease);
    assert_eq!(state.apply(&stray), Err(Break::Fork { sequence: length }));
    // So did a third one, with another word of the admins.
    assert_eq!(state.apply(&rival), Err(Break::Fork { sequence: length }));
    // Whoever followed the old one sees it by the new one's entry.
    let mut other = replay(world.network, &before);
    other.apply(&stray).unwrap();
    assert_eq!(other.apply(&taken), Err(Break::Fork { sequence: length }));
    // Signed by a key out of office, it is noise.
    let after = forge(world.network, length + 1, taken.hash(), world.now, &lease);
    assert!(matches!(state.apply(&after), Err(Break::Signature(_))));
    let too_early = sign_by(&standby_key(), world.network, Entry { sequence: 1, ..stray });
    assert!(matches!(state.apply(&too_early), Err(Break::Signature(_))));
}

#[test]
fn server_lists_hold_their_sequencer_once() {
    let world = World::new();
    let make = |sequencer: SigningKey, servers| {
        let body = ServersChange { number: 1, sequencer: sequencer.sequencer_key(), servers };
        build::servers_record(&world.network, &world.admin, body)
    };
    assert_eq!(make(standby_key(), vec![server()]), Err(Malformed::Sequencer));
    assert_eq!(make(server_key(), vec![server(), server()]), Err(Malformed::Sequencer));
    assert_eq!(make(server_key(), vec![]), Err(Malformed::Count(0, "servers")));
    let good = make(server_key(), vec![server()]).unwrap();
    let mut other = good;
    other[10..42].copy_from_slice(standby_key().sequencer_key().as_bytes());
    assert_eq!(SignedRecord::decode(&other), Err(Malformed::Sequencer));
    let mut world = world;
    assert_eq!(world.append(&other), Err(Refusal::Malformed(Malformed::Sequencer)));
}

#[test]
fn mirror_answers_retries_with_the_sequencers_entry() {
    let mut world = World::new();
    let a = Machine::new(1);
    let joined = world.join(&a, "laptop").unwrap();
    let record = world.member_record(&a, "laptop");
    assert_eq!(world.standby.prepare(world.now + 9, &record), Ok(Placed::Existing(joined.clone())));
    let resumed = Sequencer::resume(standby_key(), world.network, &world.log).unwrap();
    assert!(!resumed.is_sequencer());
    assert_eq!(resumed.prepare(world.now, &record), Ok(Placed::Existing(joined)));
}

#[test]
fn resume_trusts_its_own_entries_and_nobody_elses() {
    let mut world = World::new();
    let a = Machine::new(1);
    world.invite(&a);
    let mut record = world.member_record(&a, "laptop");
    *record.last_mut().unwrap() ^= 1;
    let entry = world.forge(&record);
    // What the server signed, it had judged.
    world.order(&entry);
    let lease = world.lease_record();
    let entry = world.forge(&lease);
    world.order(&entry);
    let log = world.log.clone();
    let own = Sequencer::resume(server_key(), world.network, &log).unwrap();
    assert!(own.state().is_live(&a.id()));
    let mirror = Sequencer::resume(standby_key(), world.network, &log).unwrap();
    assert!(!mirror.state().is_live(&a.id()));
    // A store that lost, changed or mixed up entries is noticed all the same.
    for index in 0..log.len() {
        let mut changed = log.clone();
        changed[index].time += 1;
        assert!(Sequencer::resume(server_key(), world.network, &changed).is_err());
        assert!(Sequencer::resume(standby_key(), world.network, &changed).is_err());
    }
    assert!(Sequencer::resume(server_key(), world.network, &log[1..]).is_err());
    assert!(Sequencer::resume(server_key(), world.network, [&log[0], &log[2]]).is_err());
}
