//! Entries that claim a taken place and hand the log over there: which of them prove a second history.

use ginnel_membership::build;
use ginnel_membership::keys::SigningKey;
use ginnel_membership::record::ServersChange;
use ginnel_membership::{Applied, Break, Entry, MemberKey, Placed, Sequencer, Server, ServerKeys, State};

use crate::rules::two_of_three;
use crate::world::{Machine, World, replay, server, server_key, sign_by, standby_key, standby_server};

fn third_key() -> SigningKey {
    SigningKey::from_bytes(&[0x5d; 32])
}

/// A change of servers to the third server, beside the two.
fn to_third(world: &World, number: u64, by: &[&SigningKey]) -> Vec<u8> {
    let keys = ServerKeys { signing: third_key().sequencer_key().to_bytes(), noise: [7; 32] };
    let servers = vec![server(), standby_server(), Server { keys, ..standby_server() }];
    let body = ServersChange { number, sequencer: third_key().sequencer_key(), servers };
    build::servers_record(&world.network, by, body).unwrap()
}

/// `record` in the place `sequence` of the world's log, signed by `key`.
fn placed(world: &World, sequence: u64, key: &SigningKey, record: &[u8]) -> Entry {
    let known = &world.log[usize::try_from(sequence).unwrap()];
    sign_by(key, world.network, Entry { record: record.to_vec(), ..known.clone() })
}

#[track_caller]
fn assert_noise(state: &mut State, entry: &Entry) {
    assert!(!state.is_handover(entry));
    assert!(matches!(state.apply(entry), Err(Break::Signature(_))));
}

#[test]
fn removed_server_does_not_hand_over_by_the_word_of_the_past() {
    let mut world = World::new();
    let there = world.servers_record(&standby_key());
    world.append(&there).unwrap();
    world.join(&Machine::new(1), "laptop").unwrap();
    let back = world.servers_record(&server_key());
    world.append(&back).unwrap();
    world.join(&Machine::new(2), "server").unwrap();
    let mut state = world.replay();
    // The word that named it was the next one up to entry 1, which it fills; elsewhere it is worth nothing.
    for sequence in 5..world.log.len() as u64 {
        assert_noise(&mut state, &placed(&world, sequence, &standby_key(), &there));
    }
    // Nor are the places of its own time others' to give: a fork by its own signature, but no handover.
    let junk = to_third(&world, 2, &[&third_key()]);
    let stray = placed(&world, 2, &standby_key(), &junk);
    assert!(!state.is_handover(&stray));
    assert_eq!(state.apply(&stray), Err(Break::Fork { sequence: 2 }));
}

#[test]
fn handover_takes_the_admins_of_its_place() {
    let (mut world, admins) = two_of_three();
    let new: [SigningKey; 2] = [21, 22].map(|seed| SigningKey::from_bytes(&[seed; 32]));
    let ids: Vec<MemberKey> = new.iter().map(SigningKey::member_key).collect();
    let change = world.admin_change_record(&[&admins[0], &admins[1]], 1, &ids);
    let changed = world.append(&change).unwrap().sequence;
    let last = world.append(&build::lease_record(&world.network, &new[0], world.state().head(), world.now)).unwrap();
    let mut state = world.replay();
    let old_word = to_third(&world, 1, &[&admins[0], &admins[2]]);
    let lone_word = to_third(&world, 1, &[&admins[0]]);
    let new_word = to_third(&world, 1, &[&new[0]]);
    let third = third_key();
    for sequence in 1..=last.sequence {
        let before = sequence <= changed;
        for (word, good) in [(&old_word, before), (&lone_word, false), (&new_word, !before)] {
            let entry = placed(&world, sequence, &third, word);
            assert_eq!(state.is_handover(&entry), good, "{sequence}");
            assert_eq!(state.apply(&entry) == Err(Break::Fork { sequence }), good, "{sequence}");
        }
    }
    // Nor may the signatures under the word be false.
    let mut forged = new_word;
    *forged.last_mut().unwrap() ^= 1;
    assert_noise(&mut state, &placed(&world, last.sequence, &third, &forged));
}

#[test]
fn handover_continues_what_is_there() {
    let mut world = World::new();
    world.join(&Machine::new(1), "laptop").unwrap();
    let list = world.servers_record(&server_key());
    let changed = world.append(&list).unwrap().sequence;
    world.join(&Machine::new(2), "server").unwrap();
    let last = world.log.len() as u64 - 1;
    let mut state = world.replay();
    let words = [1, 2, 3].map(|number| to_third(&world, number, &[&world.admin]));
    for sequence in 1..=last {
        for (number, word) in (1..).zip(&words) {
            let good = number == if sequence <= changed { 1 } else { 2 };
            assert_eq!(state.is_handover(&placed(&world, sequence, &third_key(), word)), good, "{sequence} {number}");
        }
    }
    let good = placed(&world, last, &third_key(), &words[1]);
    assert!(state.is_handover(&good));
    let by = |key: &SigningKey, entry| sign_by(key, world.network, entry);
    assert_noise(&mut state, &by(&third_key(), Entry { previous: [7; 32], ..good.clone() }));
    assert_noise(&mut state, &by(&standby_key(), good.clone()));
    assert_noise(&mut state, &by(&third_key(), Entry { sequence: last - 1, ..good.clone() }));
    assert_noise(&mut state, &by(&third_key(), Entry { time: u64::MAX, ..good.clone() }));
    // By the sequencer that it ends it counts as well, and that one's other entries are a fork, but no handover.
    let by_old = by(&server_key(), good);
    assert!(state.is_handover(&by_old));
    let junk = by(&server_key(), Entry { record: b"junk".to_vec(), ..by_old });
    assert!(!state.is_handover(&junk));
    assert_eq!(state.apply(&junk), Err(Break::Fork { sequence: last }));
    // A new list with the same sequencer moves nothing.
    let same = placed(&world, last, &server_key(), &world.servers_record(&server_key()));
    assert!(!state.is_handover(&same));
    // What is to come proves itself as well as what was.
    let next = world.forge_by(&third_key(), &words[1]);
    assert!(state.is_handover(&next));
    assert!(matches!(state.apply(&next), Ok(Applied::Changed(_))));
    assert!(!state.is_handover(&world.forge_by(&third_key(), &words[2])));
}

#[test]
fn offices_are_told_by_their_places() {
    let mut world = World::new();
    assert_eq!(State::new(world.network).office_of(0), None);
    let (one, two) = (server_key().sequencer_key(), standby_key().sequencer_key());
    world.join(&Machine::new(1), "laptop").unwrap();
    // Handed over by the old one, in place 3.
    let there = world.servers_record(&standby_key());
    world.append(&there).unwrap();
    world.invite(&Machine::new(2));
    // Taken by the other, in place 5.
    let back = world.servers_record(&server_key());
    let Ok(Placed::New(entry)) = world.standby.take_over(world.now, &back) else { panic!("a new entry") };
    world.order(&entry);
    world.invite(&Machine::new(3));
    let expected = [one, one, one, one, two, one, one, one];
    let resumed = |key| Sequencer::resume(key, world.network, &world.log).unwrap().state().clone();
    for state in [world.replay(), resumed(server_key()), resumed(standby_key())] {
        assert_eq!(&state, world.state());
        for (sequence, key) in (0..).zip(expected) {
            assert_eq!(state.office_of(sequence), Some(key), "{sequence}");
        }
        assert_eq!(state.office_of(u64::MAX), Some(one));
    }
}

#[test]
fn handover_is_told_from_a_checkpoint_on() {
    let mut world = World::new();
    world.join(&Machine::new(1), "laptop").unwrap();
    let early = world.log.len() as u64 - 1;
    let list = world.servers_record(&server_key());
    world.append(&list).unwrap();
    let snapshot = world.state().snapshot();
    let record = world.checkpoint_record();
    let entry = world.append(&record).unwrap();
    world.invite(&Machine::new(2));
    let mut state = State::from_checkpoint(world.network, &snapshot, &entry).unwrap();
    state.apply(world.log.last().unwrap()).unwrap();
    let word = to_third(&world, 2, &[&world.admin]);
    for sequence in [entry.sequence, entry.sequence + 1] {
        assert!(state.is_handover(&placed(&world, sequence, &third_key(), &word)));
        assert_eq!(state.office_of(sequence), Some(server_key().sequencer_key()));
    }
    let old = placed(&world, early, &third_key(), &to_third(&world, 1, &[&world.admin]));
    assert!(replay(world.network, &world.log).is_handover(&old));
    assert!(!state.is_handover(&old));
    assert_eq!(state.office_of(entry.sequence - 1), None);
}
