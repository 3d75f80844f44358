//! Replay as a function of the log alone, whatever a network or a dishonest server does to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ginnel_membership::keys::SigningKey;
use ginnel_membership::record::{Freshness, Rights};
use ginnel_membership::{
    Applied, Break, Capabilities, Change, Comparison, Entry, MemberKey, Name, Sequencer, State, TunnelKey,
};
use proptest::prelude::*;

use crate::steps::{Server, Step, check, server, step, take};
use crate::world::{Machine, START, World, forge, replay, server_key, sign, standby_key};

/// A log in which every kind of record occurs.
fn varied() -> World {
    let mut world = World::new();
    let (a, b, c) = (Machine::new(1), Machine::new(2), Machine::new(3));
    world.join(&a, "laptop").unwrap();
    world.now += 10;
    world.join(&b, "laptop").unwrap();
    world.invite(&c);
    let void = ginnel_membership::build::void_record(&world.network, &world.admin, c.invite.invite_key());
    world.append(&void).unwrap();
    let update = world.update_record(&a, 1, "desk");
    world.append(&update).unwrap();
    world.now += 10;
    let lease = world.lease_record();
    world.append(&lease).unwrap();
    let revoke = world.revoke_record(&b);
    world.append(&revoke).unwrap();
    let rotation = world.rotation_record(&a, 2, "desk", &Machine::new(4));
    world.append(&rotation).unwrap();
    let delegate = (Machine::new(4).id(), Rights::ALL);
    for record in [
        world.policy_record(&[&world.admin], Freshness::Strict, &[delegate]),
        world.admin_change_record(&[&world.admin], 1, &[world.admin.member_key(), Machine::new(4).id()]),
        world.servers_record(&server_key()),
    ] {
        world.append(&record).unwrap();
    }
    let checkpoint = world.checkpoint_record();
    world.append(&checkpoint).unwrap();
    world
}

#[test]
fn any_bit_flipped_breaks_the_chain() {
    let world = varied();
    let mut state = State::new(world.network);
    for entry in &world.log {
        let bytes = entry.encode();
        assert_eq!(Entry::decode(&bytes).as_ref(), Ok(entry));
        let before = state.clone();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(bad) = Entry::decode(&bad) {
                assert!(state.apply(&bad).is_err_and(|broken| !matches!(broken, Break::Fork { .. })), "bit {bit}");
            }
        }
        assert_eq!(state, before);
        assert!(matches!(state.apply(entry), Ok(Applied::Changed(_))));
    }
}

#[test]
fn dishonest_sequencer_cannot_change_a_record() {
    let world = varied();
    for (index, entry) in world.log.iter().enumerate() {
        let state = replay(world.network, &world.log[..index]);
        for bit in 0..entry.record.len() * 8 {
            let mut record = entry.record.clone();
            record[bit / 8] ^= 1 << (bit % 8);
            let bad = forge(world.network, entry.sequence, entry.previous, entry.time, &record);
            let outcome = state.clone().apply(&bad);
            assert!(matches!(outcome, Ok(Applied::Skipped(_)) | Err(Break::Genesis(_))), "{index} {bit} {outcome:?}");
        }
    }
}

#[test]
fn every_truncation_is_noticed() {
    for entry in &varied().log {
        let bytes = entry.encode();
        for len in 0..bytes.len() {
            assert!(Entry::decode(&bytes[..len]).is_err());
        }
        let long = [&bytes[..], &[0]].concat();
        assert!(Entry::decode(&long).is_err());
    }
}

#[test]
fn second_history_is_a_fork() {
    let mut world = varied();
    let mut state = world.replay();
    let (length, _) = state.head();
    let last = world.log.last().unwrap().clone();
    let rewritten = forge(world.network, last.sequence, last.previous, last.time + 1, &last.record);
    assert_eq!(state.apply(&rewritten), Err(Break::Fork { sequence: length - 1 }));
    // The one who holds the other history sees it at the next entry.
    let mut other = replay(world.network, &world.log[..world.log.len() - 1]);
    other.apply(&rewritten).unwrap();
    assert_eq!(state.compare(other.head().0, other.head().1), Comparison::Fork);
    world.now += 30;
    let next = world.lease_record();
    let next = world.append(&next).unwrap();
    assert_eq!(other.apply(&next), Err(Break::Fork { sequence: length }));
    // Without the sequencer's signature there is no fork, only noise.
    let mut noise = rewritten;
    noise.time += 1;
    assert!(matches!(state.apply(&noise), Err(Break::Signature(_))));
}

#[test]
fn heads_compare() {
    let world = varied();
    let state = world.replay();
    for (index, _) in world.log.iter().enumerate() {
        let (length, head) = replay(world.network, &world.log[..index]).head();
        assert_eq!(state.head_at(length), Some(head));
        assert_eq!(state.compare(length, head), Comparison::Behind);
        assert_eq!(state.compare(length, [0; 32]), Comparison::Fork);
    }
    let (length, head) = state.head();
    assert_eq!(state.compare(length, head), Comparison::Same);
    assert_eq!(state.compare(length + 1, [0; 32]), Comparison::Ahead);
    assert_eq!(state.compare(u64::MAX, [0; 32]), Comparison::Ahead);
    assert_eq!(state.head_at(length + 1), None);
}

#[test]
fn time_never_decreases() {
    let world = varied();
    let mut state = world.replay();
    let lease = world.lease_record();
    let (length, head) = state.head();
    assert_eq!(state.apply(&forge(world.network, length, head, START, &lease)), Err(Break::Time));
    assert_eq!(&state, world.state());
}

#[test]
fn other_sequencers_entries_are_refused() {
    let world = varied();
    let mut state = world.replay();
    let lease = world.lease_record();
    let mut entry = world.forge(&lease);
    let bytes = entry.encode();
    let message = [world.network.as_bytes(), &bytes[..bytes.len() - 64]].concat();
    let other = SigningKey::from_bytes(&[3; 32]);
    entry.signature = other.sign(ginnel_membership::Context::ENTRY, &message);
    assert!(matches!(state.apply(&entry), Err(Break::Signature(_))));
    // A signature made for a record does not serve for an entry.
    entry.signature = server_key().sign(ginnel_membership::Context::RECORD, &message);
    assert!(matches!(state.apply(&entry), Err(Break::Signature(_))));
    assert!(matches!(state.apply(&sign(world.network, entry)), Ok(Applied::Changed(Change::Leased(_)))));
}

#[test]
fn oversized_record_breaks() {
    let world = varied();
    let mut entry = world.log.last().unwrap().clone();
    entry.sequence += 1;
    entry.record = vec![0; 70_000];
    assert_eq!(world.replay().apply(&entry), Err(Break::TooLong));
}

/// Follows a log entry by entry: a key that is dead stays dead, whatever comes after, and every peer that is another than
/// before is named by the change.
fn revocation_is_final(world: &World) {
    let mut state = State::new(world.network);
    let keys: Vec<_> = (1..20).map(|seed| Machine::new(seed).id()).collect();
    let mut dead = BTreeSet::new();
    let mut peers = BTreeMap::new();
    for entry in &world.log {
        let applied = state.apply(entry).expect("the log in order");
        dead.extend(keys.iter().filter(|key| state.is_revoked(key)));
        assert!(dead.iter().all(|key| state.is_revoked(key) && !state.is_live(key)));
        assert!(dead.iter().all(|key| !state.is_admin(key) && state.policy().rights(key).is_none()));
        let seen: BTreeMap<_, _> =
            state.members().filter_map(|member| Some((member.key(), view(&state, member.key())?))).collect();
        let differing: BTreeSet<_> = keys.iter().filter(|key| seen.get(key) != peers.get(*key)).copied().collect();
        let named = match applied {
            Applied::Changed(
                Change::Joined(key) | Change::Updated(key) | Change::Revoked(key) | Change::Spared(key),
            ) => BTreeSet::from([key]),
            Applied::Changed(Change::Rotated { old, new }) => BTreeSet::from([old, new]),
            Applied::Changed(_) | Applied::Skipped(_) | Applied::Known => BTreeSet::new(),
        };
        assert!(differing.is_subset(&named), "{applied:?} changed {differing:?}");
        peers = seen;
    }
}

/// What others see of a member.
type View = (Name, TunnelKey, Option<Ipv4Addr>, Ipv6Addr, Capabilities);

fn view(state: &State, key: MemberKey) -> Option<View> {
    let member = state.member(&key).filter(|_| state.is_live(&key))?;
    Some((member.name().clone(), member.tunnel_key(), member.ipv4(), member.ipv6(), member.capabilities()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn replay_is_a_function_of_the_log(
        steps in proptest::collection::vec((step(), server()), 0..40),
        deliveries in proptest::collection::vec(0_usize..45, 0..150),
    ) {
        let mut world = World::new();
        for (step, server) in steps {
            take(&mut world, step, server);
        }
        let full = world.replay();
        prop_assert_eq!(&full, world.state());
        check(&full);
        revocation_is_final(&world);
        let resumed = Sequencer::resume(server_key(), world.network, &world.log).expect("its own log");
        prop_assert_eq!(resumed.state(), &full);
        let resumed = Sequencer::resume(standby_key(), world.network, &world.log).expect("the same log");
        prop_assert_eq!(resumed.state(), &full);

        // Entries that come late, twice, early or never leave a prefix, and the rest completes it.
        let mut state = State::new(world.network);
        for index in deliveries {
            let Some(entry) = world.log.get(index) else { continue };
            let (length, _) = state.head();
            match state.apply(entry) {
                Ok(Applied::Known) => prop_assert!(entry.sequence < length),
                Ok(Applied::Changed(_) | Applied::Skipped(_)) => prop_assert_eq!(entry.sequence, length),
                Err(broken) => {
                    prop_assert_eq!(broken, Break::Gap { expected: length, found: entry.sequence });
                    prop_assert!(entry.sequence > length);
                }
            }
        }
        let length = state.head().0 as usize;
        prop_assert_eq!(&state, &replay(world.network, &world.log[..length]));
        check(&state);
        for entry in &world.log {
            state.apply(entry).expect("the whole log in order");
        }
        prop_assert_eq!(state, full);
    }

    #[test]
    fn one_of_many_wins_an_invite(order in Just((1_u8..20).collect::<Vec<_>>()).prop_shuffle()) {
        let mut world = World::new();
        let invite = Machine::new(100);
        world.invite(&invite);
        for machine in &order {
            take(&mut world, Step::Join { machine: *machine, invite: 100, wish: 0 }, Server::Dishonest);
        }
        let state = world.replay();
        let live: Vec<_> = state.members().map(|member| member.key()).collect();
        prop_assert_eq!(live, [Machine::new(order[0]).id()]);
    }
}
