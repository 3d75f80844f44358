//! Starting in the middle of a log.

use ginnel_membership::build;
use ginnel_membership::snapshot::state_hash;
use ginnel_membership::{
    Applied, BadSnapshot, Break, Change, Checkpoint, Comparison, Entry, MemberKey, Refusal, Sequencer, State,
};
use proptest::prelude::*;

use crate::rules::two_of_three;
use crate::steps::{Server, check, server, step, take};
use crate::world::{DAY, Machine, World, server_key, standby_key};

/// Checkpoints a world; answers the snapshot and the checkpoint's entry.
fn checkpoint(world: &mut World) -> (Vec<u8>, Entry) {
    let snapshot = world.state().snapshot();
    let record = world.checkpoint_record();
    let entry = world.append(&record).expect("an admin vouches for the state");
    (snapshot, entry)
}

/// Some of everything that a snapshot holds.
fn varied() -> World {
    let mut world = World::new();
    let [a, b, c, d] = [1, 2, 3, 4].map(Machine::new);
    for machine in [&a, &b, &c] {
        world.join(machine, "laptop").unwrap();
    }
    world.now += 10;
    world.invite(&d);
    world.invite(&Machine::new(5));
    let admin = world.admin.clone();
    let key = Machine::new(5).invite.invite_key();
    let hinted = build::invite_record(
        &world.network,
        &admin,
        Machine::new(6).invite.invite_key(),
        world.now + DAY,
        Some(crate::world::name("phone")),
    );
    for record in [
        build::void_record(&world.network, &admin, key),
        hinted,
        world.update_record(&b, 3, "desk"),
        world.revoke_record(&c),
        world.revoke_record(&Machine::new(7)),
        world.rotation_record(&a, 1, "laptop", &Machine::new(8)),
        world.admin_change_record(&[&admin], 1, &[admin.member_key(), b.id(), Machine::new(8).id()]),
        world.servers_record(&standby_key()),
    ] {
        world.append(&record).unwrap();
    }
    for record in [
        world.rotation_record(&Machine::new(8), 2, "laptop", &Machine::new(9)),
        build::revoke_record(&world.network, &admin, b.id()),
        world.policy_record(
            &[&admin],
            ginnel_membership::record::Freshness::Strict,
            &[(Machine::new(9).id(), ginnel_membership::Rights::INVITE)],
        ),
        world.lease_record(),
    ] {
        world.append(&record).unwrap();
    }
    checkpoint(&mut world);
    world.join(&Machine::new(10), "laptop").unwrap();
    world
}

/// What can be seen of a state, its past apart.
fn assert_same(fresh: &State, whole: &State) {
    assert_eq!(fresh.snapshot(), whole.snapshot());
    assert_eq!(fresh.head(), whole.head());
    assert_eq!(fresh.time(), whole.time());
    assert_eq!(fresh.members().collect::<Vec<_>>(), whole.members().collect::<Vec<_>>());
    assert_eq!(fresh.invites().collect::<Vec<_>>(), whole.invites().collect::<Vec<_>>());
    assert_eq!(fresh.admins().collect::<Vec<_>>(), whole.admins().collect::<Vec<_>>());
    assert_eq!((fresh.threshold(), fresh.policy()), (whole.threshold(), whole.policy()));
    assert_eq!((fresh.servers(), fresh.sequencer()), (whole.servers(), whole.sequencer()));
    assert_eq!((fresh.lease(), fresh.checkpoint()), (whole.lease(), whole.checkpoint()));
    assert_eq!((fresh.genesis(), fresh.ipv4_range()), (whole.genesis(), whole.ipv4_range()));
    for member in whole.members() {
        assert_eq!(fresh.peers(&member.key()), whole.peers(&member.key()));
        assert_eq!(fresh.member_with_tunnel_key(&member.tunnel_key()), Some(member));
        assert_eq!(fresh.member_named(member.name()), whole.member_named(member.name()));
    }
    for seed in 0..20 {
        let key = Machine::new(seed).id();
        assert_eq!(fresh.is_revoked(&key), whole.is_revoked(&key));
        assert_eq!(fresh.current_key(&key), whole.current_key(&key));
        let tunnel = Machine::new(seed).tunnel;
        assert_eq!(fresh.member_with_tunnel_key(&tunnel), whole.member_with_tunnel_key(&tunnel));
    }
}

#[test]
fn newcomer_starts_at_a_checkpoint() {
    let mut world = varied();
    let (snapshot, entry) = checkpoint(&mut world);
    let mut state = State::from_checkpoint(world.network, &snapshot, &entry).unwrap();
    assert_same(&state, world.state());
    assert_eq!(state.checkpoint_snapshot().map(|bytes| &bytes[..]), Some(&snapshot[..]));
    assert_eq!(world.state().checkpoint_snapshot(), state.checkpoint_snapshot());
    assert_eq!(state.checkpoint().unwrap().length, entry.sequence);
    // Names go on where they were, and nothing dead comes back.
    let tail = world.log.len();
    world.join(&Machine::new(11), "laptop").unwrap();
    let dead = Machine { key: Machine::new(1).key, ..Machine::new(12) };
    world.invite(&dead);
    let again = world.member_record(&dead, "again");
    assert_eq!(world.append(&again), Err(Refusal::MemberKnown));
    let forged = world.forge(&again);
    world.order(&forged);
    for entry in &world.log[tail..] {
        state.apply(entry).unwrap();
    }
    assert_same(&state, world.state());
    let named = state.member(&Machine::new(11).id()).unwrap().name().to_string();
    assert_eq!(named, "laptop-5", "laptop-2 was given to one who renamed itself, -3 to a revoked one, -4 is in use");
}

#[test]
fn past_before_the_checkpoint_is_unknown() {
    let mut world = varied();
    let (snapshot, entry) = checkpoint(&mut world);
    let mut state = State::from_checkpoint(world.network, &snapshot, &entry).unwrap();
    assert_eq!(state.base(), entry.sequence);
    assert_eq!(state.head_at(entry.sequence), Some(entry.previous));
    assert_eq!(state.head_at(entry.sequence + 1), Some(entry.hash()));
    for length in 0..entry.sequence {
        assert_eq!(state.head_at(length), None);
        assert_eq!(state.compare(length, world.state().head_at(length).unwrap()), Comparison::Unknown);
        assert_eq!(state.compare(length, [7; 32]), Comparison::Unknown);
    }
    assert_eq!(state.compare(entry.sequence, entry.previous), Comparison::Behind);
    assert_eq!(state.compare(entry.sequence, [7; 32]), Comparison::Fork);
    let (length, head) = world.state().head();
    assert_eq!((state.compare(length, head), state.compare(length + 1, head)), (Comparison::Same, Comparison::Ahead));
    assert_eq!(state.apply(&entry), Ok(Applied::Known));
    let last_before = &world.log[usize::try_from(entry.sequence).unwrap() - 1];
    assert_eq!(state.apply(last_before), Ok(Applied::Known));
    assert_eq!(state.apply(&world.log[2]), Err(Break::Gap { expected: length, found: 2 }));
}

#[test]
fn leases_and_checkpoints_of_the_past_are_stale_for_everybody() {
    let mut world = varied();
    let lease = world.lease_record();
    let old = world.checkpoint_record();
    world.append(&lease).unwrap();
    let early = world.lease_record();
    let (snapshot, entry) = {
        let record = world.update_record(&Machine::new(10), 1, "shelf");
        world.append(&record).unwrap();
        checkpoint(&mut world)
    };
    let fresh = State::from_checkpoint(world.network, &snapshot, &entry).unwrap();
    for state in [&fresh, world.state()] {
        assert_eq!(state.judge(world.now, &early), Err(Refusal::StaleLease));
        assert_eq!(state.judge(world.now, &old), Err(Refusal::StaleCheckpoint));
    }
}

#[test]
fn checkpoint_is_enough_admins_true_word() {
    let (mut world, admins) = two_of_three();
    let [a, b, _] = &admins;
    let guest = Machine::new(1);
    let good = world.state().make_checkpoint().unwrap();
    assert_eq!(good.state_hash, state_hash(&world.state().snapshot()));
    let signed = |by: &[&ginnel_membership::SigningKey], body| build::checkpoint_record(&world.network, by, body);
    let by_one = signed(&[a], good);
    let by_stranger = signed(&[a, &guest.key], good);
    let mut wrong: Vec<_> = Vec::new();
    for body in [
        Checkpoint { state_hash: [7; 32], ..good },
        Checkpoint { state_length: good.state_length + 1, ..good },
        Checkpoint { head: [7; 32], ..good },
    ] {
        wrong.push(signed(&[a, b], body));
    }
    let early = signed(&[a, b], Checkpoint { length: good.length + 1, ..good });
    let (late, right) = (signed(&[a, b], good), signed(&[a, b], good));
    assert_eq!(world.append(&by_one), Err(Refusal::NotAuthorised));
    assert_eq!(world.append(&by_stranger), Err(Refusal::NotAuthorised));
    for record in wrong {
        assert_eq!(world.append(&record), Err(Refusal::CheckpointOfAnotherState));
    }
    assert_eq!(world.append(&early), Err(Refusal::StaleCheckpoint));
    let mut state = world.replay();
    let entry = world.append(&right).unwrap();
    assert_eq!(state.apply(&entry), Ok(Applied::Changed(Change::Checkpointed(good))));
    assert_eq!(state.checkpoint(), Some(good));
    assert_eq!(state.apply(&world.forge(&late)), Ok(Applied::Skipped(Refusal::StaleCheckpoint)));
}

#[test]
fn any_byte_altered_is_noticed() {
    let mut world = varied();
    let (snapshot, entry) = checkpoint(&mut world);
    for index in 0..snapshot.len() {
        let mut bad = snapshot.clone();
        bad[index] ^= 1 << (index % 8);
        assert!(State::from_checkpoint(world.network, &bad, &entry).is_err(), "byte {index}");
    }
    for len in (0..snapshot.len()).step_by(7) {
        assert!(State::from_checkpoint(world.network, &snapshot[..len], &entry).is_err());
    }
    let long = [&snapshot[..], &[0]].concat();
    assert!(State::from_checkpoint(world.network, &long, &entry).is_err());
    let bytes = entry.encode();
    for index in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[index] ^= 1 << (index % 8);
        if let Ok(bad) = Entry::decode(&bad) {
            assert!(State::from_checkpoint(world.network, &snapshot, &bad).is_err(), "byte {index}");
        }
    }
}

#[test]
fn snapshot_goes_with_its_own_checkpoint_and_network() {
    let mut world = varied();
    let (old_snapshot, old_entry) = checkpoint(&mut world);
    world.join(&Machine::new(12), "shelf").unwrap();
    let (snapshot, entry) = checkpoint(&mut world);
    let try_it = |snapshot: &[u8], entry: &Entry| State::from_checkpoint(world.network, snapshot, entry).err();
    assert_eq!(try_it(&old_snapshot, &entry), Some(BadSnapshot::OtherCheckpoint));
    assert_eq!(try_it(&snapshot, &old_entry), Some(BadSnapshot::OtherCheckpoint));
    assert_eq!(try_it(&snapshot, &world.log[1]), Some(BadSnapshot::OtherCheckpoint));
    let elsewhere = ginnel_membership::NetworkId::from_bytes([7; 32]);
    assert!(matches!(State::from_checkpoint(elsewhere, &snapshot, &entry), Err(BadSnapshot::Genesis(_))));
    // The entry is the sequencer's, and no earlier one's.
    let by_old = crate::world::sign_by(&server_key(), world.network, entry);
    assert!(matches!(try_it(&snapshot, &by_old), Some(BadSnapshot::Signature(_))));
}

/// A network whose server would like other admins: its word against the proof.
#[test]
fn admins_cannot_be_forged() {
    let mut world = varied();
    let genesis = world.log[0].record.clone();
    let (snapshot, _) = checkpoint(&mut world);
    let thief = Machine::new(66);
    // Where the proof starts: version, genesis, length, head, time.
    let at = 1 + 2 + genesis.len() + 8 + 32 + 8;
    let count = u32::from_be_bytes(snapshot[at..at + 4].try_into().unwrap());
    assert_eq!(count, 3, "an admin-change, an admin's rotation, an admin's revocation");
    let mut ends = vec![at + 4];
    for _ in 0..count {
        let start = *ends.last().unwrap();
        let len = u16::from_be_bytes(snapshot[start..start + 2].try_into().unwrap());
        let end = start + 2 + usize::from(len);
        // A revocation is followed by a byte that says whose right it ended.
        ends.push(end + usize::from(snapshot[start + 3] == 6));
    }
    let records: Vec<_> = ends.windows(2).map(|pair| snapshot[pair[0]..pair[1]].to_vec()).collect();
    let rest = &snapshot[*ends.last().unwrap()..];
    let with = |proof: &[Vec<u8>]| {
        let mut bytes = snapshot[..at].to_vec();
        bytes.extend((proof.len() as u32).to_be_bytes());
        bytes.extend(proof.concat());
        bytes.extend(rest);
        // The thief signs a checkpoint for whatever it made, and the server orders it.
        let (length, head) = (world.log.len() as u64 - 1, world.log.last().unwrap().previous);
        let body = Checkpoint { length, head, state_hash: state_hash(&bytes), state_length: bytes.len() as u32 };
        let record = build::checkpoint_record(&world.network, &thief.key, body);
        let entry = Entry { record, ..world.log.last().unwrap().clone() };
        let entry = crate::world::sign_by(&standby_key(), world.network, entry);
        State::from_checkpoint(world.network, &bytes, &entry).err()
    };
    assert_eq!(with(&records), Some(BadSnapshot::Checkpoint(Refusal::NotAuthorised)));
    let forged = world.admin_change_record(&[&thief.key], 1, &[thief.id()]);
    let item = |record: Vec<u8>| [&(record.len() as u16).to_be_bytes()[..], &record].concat();
    let more = [&records[..], &[item(forged)]].concat();
    assert_eq!(with(&more), Some(BadSnapshot::Admins(Refusal::NotAuthorised)));
    let mut unsigned = world.admin_change_record(&[&world.admin], 1, &[thief.id()]);
    *unsigned.last_mut().unwrap() ^= 1;
    let more = [&records[..], &[item(unsigned)]].concat();
    assert!(matches!(with(&more), Some(BadSnapshot::Admins(Refusal::Signature(_)))));
    // Left out, doubled or in another order, they prove nothing either.
    assert!(matches!(with(&records[1..]), Some(BadSnapshot::Admins(_))));
    assert!(matches!(with(&[&records[..], &records[..1]].concat()), Some(BadSnapshot::Admins(_))));
    assert!(matches!(with(&[records[1].clone(), records[0].clone()]), Some(BadSnapshot::Admins(_))));
    let other = [&records[..], &[item(world.lease_record())]].concat();
    assert_eq!(with(&other), Some(BadSnapshot::Admins(Refusal::NotAuthorised)));
    let self_made = world.rotation_record(&Machine::new(65), 9, "thief", &thief);
    let more = [&records[..], &[item(self_made)]].concat();
    assert_eq!(with(&more), Some(BadSnapshot::Admins(Refusal::NotAuthorised)));
}

/// Admins can be wrong, too: a snapshot that no log leads to is refused whoever signed it.
#[test]
fn contradictions_are_refused_from_anybody() {
    let mut world = varied();
    let (snapshot, entry) = checkpoint(&mut world);
    let resigned = |from: &[u8], to: &[u8]| {
        let at = snapshot.windows(from.len()).position(|window| window == from).expect("it is in there");
        let mut bytes = snapshot.clone();
        bytes.splice(at..at + from.len(), to.iter().copied());
        let state_length = bytes.len() as u32;
        let body =
            Checkpoint { length: entry.sequence, head: entry.previous, state_hash: state_hash(&bytes), state_length };
        let record = build::checkpoint_record(&world.network, &world.admin, body);
        let entry = crate::world::sign_by(&standby_key(), world.network, Entry { record, ..entry.clone() });
        State::from_checkpoint(world.network, &bytes, &entry)
    };
    let id = |seed| Machine::new(seed).id().to_bytes();
    assert!(resigned(&id(9), &id(9)).is_ok());
    // Keys that replace each other would be followed for ever.
    let step = |from: u8, to: u8| [&id(from)[..], &[1], &id(to)].concat();
    assert_eq!(
        resigned(&step(8, 9), &step(8, 1)).err(),
        Some(BadSnapshot::Inconsistent("a replaced key leads nowhere"))
    );
    assert_eq!(
        resigned(&step(8, 9), &step(8, 12)).err(),
        Some(BadSnapshot::Inconsistent("a replaced key leads nowhere"))
    );
    let pair = |seed: u8| [&Machine::new(seed).id().to_bytes()[..], &Machine::new(seed).tunnel.to_bytes()].concat();
    let stolen = [&id(10)[..], &Machine::new(9).tunnel.to_bytes()].concat();
    assert_eq!(resigned(&pair(10), &stolen).err(), Some(BadSnapshot::Inconsistent("a key is there twice")));
    let spent = [&id(10)[..], &Machine::new(1).tunnel.to_bytes()].concat();
    let refusal = Some(BadSnapshot::Inconsistent("a replaced tunnel key is in use"));
    assert_eq!(resigned(&pair(10), &spent).err(), refusal);
    let refusal = Some(BadSnapshot::Inconsistent("a name is given twice"));
    assert_eq!(resigned(b"\x08laptop-4\x06laptop", b"\x06laptop\x00").err(), refusal);
    let interface = |seed: u8| {
        let member = world.state().members().find(|member| member.key() == Machine::new(seed).id());
        member.expect("a member").ipv6().octets()[8..].to_vec()
    };
    let refusal = Some(BadSnapshot::Inconsistent("an address is given twice"));
    assert_eq!(resigned(&interface(10), &interface(9)).err(), refusal);
    let delegate = |seed: u8| [&[1, 0, 1, 1][..], &id(seed), &[2]].concat();
    assert_eq!(
        resigned(&delegate(9), &delegate(3)).err(),
        Some(BadSnapshot::Inconsistent("a delegate is not a member"))
    );
}

#[test]
fn state_that_nobody_founded_has_no_snapshot() {
    let world = World::new();
    let empty = State::new(world.network);
    assert_eq!((empty.snapshot(), empty.make_checkpoint()), (Vec::new(), None));
    assert!(State::from_checkpoint(world.network, &[], &world.log[0]).is_err());
}

#[test]
fn mirror_starts_at_a_checkpoint() {
    let mut world = varied();
    let (snapshot, entry) = checkpoint(&mut world);
    let state = State::from_checkpoint(world.network, &snapshot, &entry).unwrap();
    let mut mirror = Sequencer::mirror_at(server_key(), state);
    let joined = world.join(&Machine::new(12), "shelf").unwrap();
    for entry in &world.log[usize::try_from(entry.sequence).unwrap() + 1..] {
        mirror.apply(entry).unwrap();
    }
    assert_eq!(mirror.prepare(world.now, &joined.record), Ok(ginnel_membership::Placed::Existing(joined)));
    assert_same(mirror.state(), world.state());
    let record = world.servers_record(&server_key());
    let Ok(ginnel_membership::Placed::New(entry)) = mirror.take_over(world.now, &record) else { panic!("a new entry") };
    world.order(&entry);
    assert_eq!(world.state().sequencer(), Some(server_key().sequencer_key()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn from_a_checkpoint_on_all_is_the_same(
        before in proptest::collection::vec((step(), server()), 0..50),
        after in proptest::collection::vec((step(), server()), 0..30),
    ) {
        let mut world = World::new();
        for (step, server) in before {
            take(&mut world, step, server);
        }
        let snapshot = world.state().snapshot();
        let admins: Vec<MemberKey> = world.state().admins().copied().collect();
        let mut signers: Vec<_> = (1..9).map(|seed| Machine::new(seed).key).chain([world.admin.clone()]).collect();
        signers.retain(|key| admins.contains(&key.member_key()));
        let signers: Vec<_> = signers.iter().collect();
        let body = world.state().make_checkpoint().expect("a founded network");
        let record = build::checkpoint_record(&world.network, &signers[..], body);
        let entry = world.append(&record).expect("all admins vouch for the state");
        let mut state = State::from_checkpoint(world.network, &snapshot, &entry).expect("its own snapshot");
        assert_same(&state, world.state());

        for (step, server) in after {
            let length = world.log.len();
            let mut whole = world.state().clone();
            take(&mut world, step, server);
            for entry in &world.log[length..] {
                prop_assert_eq!(state.apply(entry), whole.apply(entry));
            }
        }
        assert_same(&state, world.state());
        check(&state);
    }

    #[test]
    fn no_bytes_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new();
        for step in [crate::steps::Step::Invite(1), crate::steps::Step::Join { machine: 1, invite: 1, wish: 0 }] {
            take(&mut world, step, Server::Honest);
        }
        let (mut snapshot, entry) = checkpoint(&mut world);
        let whole = snapshot.clone();
        for (at, value) in edits {
            let at = at.index(snapshot.len());
            snapshot[at] = value;
        }
        let read = State::from_checkpoint(world.network, &snapshot, &entry);
        prop_assert!(read.is_err() || snapshot == whole);
        let end = cut.index(snapshot.len());
        prop_assert!(State::from_checkpoint(world.network, &snapshot[..end], &entry).is_err());
    }
}
