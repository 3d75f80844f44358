//! Snapshots that a liar made, and how far a newcomer reads them.

use ginnel_membership::build;
use ginnel_membership::keys::SigningKey;
use ginnel_membership::snapshot::state_hash;
use ginnel_membership::{BadSnapshot, Checkpoint, Entry, Malformed, MemberKey, Refusal, State};

use crate::world::{Machine, World, server_key, sign_by};

/// What an empty network's snapshot holds behind the servers: policy, lease, no checkpoint and six empty lists.
const REST: usize = 11 + 48 + 1 + 6 * 4;

/// A newcomer's verdict on `bytes` under a checkpoint by `admin`, which the sequencer orders.
fn verdict(world: &World, admin: &SigningKey, bytes: &[u8]) -> Result<State, BadSnapshot> {
    let (length, head) = world.state().head();
    let body = Checkpoint { length, head, state_hash: state_hash(bytes), state_length: bytes.len() as u32 };
    let entry = world.forge(&build::checkpoint_record(&world.network, admin, body));
    State::from_checkpoint(world.network, bytes, &entry)
}

#[test]
fn nothing_is_read_behind_admins_that_are_not_proved() {
    let world = World::new();
    let snapshot = world.state().snapshot();
    let proof = 1 + 2 + world.log[0].record.len() + 48;
    assert!(verdict(&world, &world.admin, &snapshot).is_ok());
    // As many records of no length as fit, or one that is long and no admin's, and no lists behind them.
    let empty = [&snapshot[..proof], &u32::MAX.to_be_bytes(), &[0; 4096]].concat();
    let refusal = BadSnapshot::Admins(Refusal::Malformed(Malformed::Truncated));
    assert_eq!(verdict(&world, &world.admin, &empty).err(), Some(refusal));
    let thief = Machine::new(66);
    let change = world.admin_change_record(&[&thief.key], 1, &[thief.id()]);
    let item = [&(change.len() as u16).to_be_bytes()[..], &change].concat();
    let forged = [&snapshot[..proof], &u32::MAX.to_be_bytes(), &item].concat();
    let refusal = BadSnapshot::Admins(Refusal::NotAuthorised);
    assert_eq!(verdict(&world, &world.admin, &forged).err(), Some(refusal));
    let long = [&snapshot[..proof], &1_u32.to_be_bytes(), &u16::MAX.to_be_bytes(), &[1; 4096]].concat();
    assert_eq!(verdict(&world, &world.admin, &long).err(), Some(BadSnapshot::Malformed(Malformed::TooLong)));
}

#[test]
fn lists_are_read_on_admins_word_alone() {
    let world = World::new();
    let snapshot = world.state().snapshot();
    let front = &snapshot[..snapshot.len() - REST];
    let garbage = [front, &[0xff; 4096]].concat();
    let thief = Machine::new(66).key;
    assert_eq!(
        verdict(&world, &thief, &garbage).err(),
        Some(BadSnapshot::Checkpoint(Refusal::NotAuthorised)),
        "the liar's own word"
    );
    let (length, head) = world.state().head();
    let body = Checkpoint { length, head, state_hash: [7; 32], state_length: garbage.len() as u32 };
    let entry = world.forge(&build::checkpoint_record(&world.network, &world.admin, body));
    let other = State::from_checkpoint(world.network, &garbage, &entry).err();
    assert_eq!(other, Some(BadSnapshot::OtherCheckpoint), "the admin's word for another snapshot");
    let right = Checkpoint { state_hash: state_hash(&garbage), ..body };
    let record = build::checkpoint_record(&world.network, &world.admin, right);
    let mut unsigned = record.clone();
    *unsigned.last_mut().unwrap() ^= 1;
    let unsigned = State::from_checkpoint(world.network, &garbage, &world.forge(&unsigned)).err();
    assert!(matches!(unsigned, Some(BadSnapshot::Checkpoint(Refusal::Signature(_)))), "{unsigned:?}");
    let elsewhere = world.forge_by(&thief, &record);
    let elsewhere = State::from_checkpoint(world.network, &garbage, &elsewhere).err();
    assert!(matches!(elsewhere, Some(BadSnapshot::Signature(_))), "not the sequencer's: {elsewhere:?}");
    let late = sign_by(&server_key(), world.network, Entry { time: u64::MAX, ..world.forge(&record) });
    let late = State::from_checkpoint(world.network, &garbage, &late).err();
    assert_eq!(late, Some(BadSnapshot::OtherCheckpoint), "a time at which no log goes on");
    // With all of that in order it is garbage.
    let refusal = verdict(&world, &world.admin, &garbage).err();
    assert!(matches!(refusal, Some(BadSnapshot::Malformed(_))), "{refusal:?}");
}

#[test]
fn order_of_a_list_is_looked_at_while_it_is_read() {
    let world = World::new();
    let snapshot = world.state().snapshot();
    // The last list, of names and numbers, claims more than there is.
    let front = &snapshot[..snapshot.len() - 4];
    let counters = |names: &[u8]| {
        let items = names.iter().flat_map(|name| [&[1, *name][..], &9_u32.to_be_bytes()].concat());
        let bytes: Vec<u8> = front.iter().copied().chain(u32::MAX.to_be_bytes()).chain(items).collect();
        verdict(&world, &world.admin, &bytes).err()
    };
    assert_eq!(counters(b"abc"), Some(BadSnapshot::Malformed(Malformed::Truncated)));
    assert_eq!(counters(b"aba"), Some(BadSnapshot::Malformed(Malformed::NotCanonical)));
    assert_eq!(counters(b"aab"), Some(BadSnapshot::Malformed(Malformed::NotCanonical)));
}

/// An admin is revoked by a key that it has replaced: the proof says whom that hit.
#[test]
fn revocation_by_a_replaced_key_proves_whom_it_hit() {
    let mut world = World::new();
    let [old, new, other, third] = [1, 2, 3, 4].map(Machine::new);
    for (machine, name) in [(&old, "laptop"), (&other, "desk"), (&third, "shelf")] {
        world.join(machine, name).unwrap();
    }
    let admin = world.admin.clone();
    let record = world.rotation_record(&old, 1, "laptop", &new);
    world.append(&record).unwrap();
    let change = world.admin_change_record(&[&admin], 1, &[admin.member_key(), new.id(), other.id()]);
    world.append(&change).unwrap();
    let revoke = world.revoke_record(&old);
    world.append(&revoke).unwrap();
    let whole = world.state().snapshot();
    let state = verdict(&world, &admin, &whole).unwrap();
    assert!(!state.is_admin(&new.id()) && state.is_revoked(&new.id()));
    assert_eq!(state.admins().collect::<Vec<_>>(), world.state().admins().collect::<Vec<_>>());

    let lie = |snapshot: &[u8], heir: MemberKey| {
        let behind = snapshot.windows(revoke.len()).position(|window| window == revoke).unwrap() + revoke.len();
        let mut bytes = snapshot.to_vec();
        assert_eq!(bytes[behind..behind + 33], [&[1][..], new.id().as_bytes()].concat());
        bytes[behind + 1..behind + 33].copy_from_slice(heir.as_bytes());
        bytes
    };
    let refusal = |bytes: &[u8]| verdict(&world, &admin, bytes).err();
    assert_eq!(refusal(&lie(&whole, third.id())), Some(BadSnapshot::Admins(Refusal::LastAdmin)), "no admin's");
    assert_eq!(refusal(&lie(&whole, other.id())), Some(BadSnapshot::Inconsistent("a dead key is an admin's")));
    assert_eq!(refusal(&lie(&whole, old.id())), Some(BadSnapshot::Admins(Refusal::LastAdmin)), "the one it names");
    // Where a later change hides it.
    let change = world.admin_change_record(&[&admin], 1, &[admin.member_key()]);
    world.append(&change).unwrap();
    let whole = world.state().snapshot();
    assert!(verdict(&world, &admin, &whole).is_ok());
    let refusal = verdict(&world, &admin, &lie(&whole, other.id())).err();
    assert_eq!(refusal, Some(BadSnapshot::Inconsistent("an admin's revocation names another's key")));
}
