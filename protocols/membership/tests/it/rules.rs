//! What each record may and may not do.

use std::collections::BTreeSet;
use std::time::Duration;

use ginnel_membership::build::{self, Founded};
use ginnel_membership::entry::MAX_TIME;
use ginnel_membership::keys::{InviteKey, NetworkId, SigningKey, TunnelKey};
use ginnel_membership::record::{BadGenesis, Freshness, Genesis, Invitation, Revocation};
use ginnel_membership::state::{InviteStanding, LEASE_LIFE, Standing};
use ginnel_membership::{
    Applied, Break, Capabilities, Change, Malformed, Record, Refusal, Rights, Sequencer, SignedRecord, State,
};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::world::{DAY, Machine, START, World, charter, forge, name, server, server_key};

#[test]
fn invited_machines_see_each_other() {
    let mut world = World::new();
    let (a, b) = (Machine::new(1), Machine::new(2));
    world.join(&a, "laptop").unwrap();
    world.join(&b, "server").unwrap();
    let state = world.replay();
    assert_eq!(&state, world.state());
    assert_eq!(state.name(), Some(&name("attic")));

    let [peer] = &state.peers(&a.id())[..] else { panic!("one peer") };
    assert_eq!((peer.member(), peer.tunnel_key(), peer.name()), (b.id(), b.tunnel, &name("server")));
    assert_eq!(peer.suites(), Capabilities::BOTH_SUITES);
    let own = state.member(&b.id()).unwrap();
    assert_eq!((peer.ipv4(), peer.ipv6()), (own.ipv4(), own.ipv6()));
    assert_eq!(state.peer(&a.id(), &b.id()).as_ref(), Some(peer));
    assert_eq!(state.peer(&a.id(), &a.id()), None);
    assert_eq!(state.member_named(&name("server")), Some(own));
    assert_eq!(state.member_with_tunnel_key(&b.tunnel), Some(own));
}

#[test]
fn stranger_sees_nobody() {
    let mut world = World::new();
    world.join(&Machine::new(1), "laptop").unwrap();
    assert_eq!(world.state().peers(&Machine::new(9).id()), []);
    assert_eq!(State::new(world.network).peers(&Machine::new(1).id()), []);
}

#[test]
fn invite_serves_one_machine() {
    let mut world = World::new();
    let first = Machine::new(1);
    let second = Machine { invite: first.invite.clone(), ..Machine::new(2) };
    world.join(&first, "laptop").unwrap();
    let late = world.member_record(&second, "laptop");
    assert_eq!(world.append(&late), Err(Refusal::InviteUsed));

    let mut state = world.replay();
    assert_eq!(state.apply(&world.forge(&late)), Ok(Applied::Skipped(Refusal::InviteUsed)));
    assert!(!state.is_live(&second.id()));
    assert_eq!(
        state.invite(&first.invite.invite_key()).map(|invite| invite.standing),
        Some(InviteStanding::Used(first.id()))
    );
}

#[test]
fn expiry_counts_by_entry_time() {
    let mut world = World::new();
    let (a, b) = (Machine::new(1), Machine::new(2));
    world.invite(&a);
    world.invite(&b);
    world.now = START + DAY - 1;
    let record = world.member_record(&a, "laptop");
    world.append(&record).unwrap();
    world.now = START + DAY;
    let record = world.member_record(&b, "server");
    assert_eq!(world.append(&record), Err(Refusal::InviteExpired));
    let stale =
        build::invite_record(&world.network, &world.admin, Machine::new(3).invite.invite_key(), world.now, None);
    assert_eq!(world.append(&stale), Err(Refusal::InviteExpired));
}

#[test]
fn voided_invite_is_dead_and_used_one_cannot_be_voided() {
    let mut world = World::new();
    let (a, b) = (Machine::new(1), Machine::new(2));
    world.invite(&a);
    let void = build::void_record(&world.network, &world.admin, a.invite.invite_key());
    world.append(&void).unwrap();
    let record = world.member_record(&a, "laptop");
    assert_eq!(world.append(&record), Err(Refusal::InviteVoid));
    world.join(&b, "server").unwrap();
    let void = build::void_record(&world.network, &world.admin, b.invite.invite_key());
    assert_eq!(world.append(&void), Err(Refusal::InviteUsed));
    let void = build::void_record(&world.network, &world.admin, InviteKey::from_bytes([3; 32]));
    assert_eq!(world.append(&void), Err(Refusal::InviteUnknown));
}

#[test]
fn only_admins_invite_void_revoke_and_lease() {
    let mut world = World::new();
    let (a, b) = (Machine::new(1), Machine::new(2));
    world.join(&a, "laptop").unwrap();
    world.invite(&b);
    let network = world.network;
    for record in [
        build::invite_record(&network, &a.key, Machine::new(3).invite.invite_key(), START + DAY, None),
        build::void_record(&network, &a.key, b.invite.invite_key()),
        build::revoke_record(&network, &a.key, b.id()),
        build::lease_record(&network, &a.key, world.state().head(), START),
        // The sequencer orders, but has no say.
        build::invite_record(&network, &server_key(), Machine::new(3).invite.invite_key(), START + DAY, None),
        build::revoke_record(&network, &server_key(), a.id()),
    ] {
        assert_eq!(world.append(&record), Err(Refusal::NotAuthorised));
    }
}

#[test]
fn enrolment_needs_both_signatures_and_no_third() {
    let mut world = World::new();
    let a = Machine::new(1);
    world.invite(&a);
    let signed = SignedRecord::decode(&world.member_record(&a, "laptop")).unwrap();
    let resign =
        |keys: &[&SigningKey]| SignedRecord::sign(&world.network, signed.record().clone(), keys).unwrap().encode();
    let (admin, network) = (world.admin.clone(), world.network);
    for keys in [&[&a.invite][..], &[&a.key], &[&a.invite, &a.key, &admin], &[&admin, &a.key], &[&a.invite, &admin]] {
        let record = resign(keys);
        assert_eq!(world.state().judge(START, &record), Err(Refusal::NotAuthorised));
    }
    let good = SignedRecord::sign(&network, signed.record().clone(), &[&a.key, &a.invite]).unwrap();
    assert_eq!(good, signed);
    world.append(&good.encode()).unwrap();
}

#[test]
fn record_of_another_network_is_worth_nothing() {
    let mut world = World::new();
    let elsewhere = NetworkId::from_bytes([8; 32]);
    let key = Machine::new(1).invite.invite_key();
    let record = build::invite_record(&elsewhere, &world.admin, key, START + DAY, None);
    assert!(matches!(world.append(&record), Err(Refusal::Signature(_))));
}

#[test]
fn key_seen_before_does_not_come_back() {
    let mut world = World::new();
    let (a, b) = (Machine::new(1), Machine::new(2));
    world.join(&a, "laptop").unwrap();
    world.join(&b, "server").unwrap();
    let revoke = world.revoke_record(&b);
    world.append(&revoke).unwrap();
    for gone in [&a, &b] {
        let again = Machine { invite: Machine::new(5).invite, tunnel: Machine::new(6).tunnel, key: gone.key.clone() };
        let _ = world.append(&world.invite_record(&again));
        let record = world.member_record(&again, "again");
        assert_eq!(world.append(&record), Err(Refusal::MemberKnown));
        let same_tunnel = Machine { invite: Machine::new(5).invite, tunnel: gone.tunnel, key: Machine::new(6).key };
        let record = world.member_record(&same_tunnel, "again");
        assert_eq!(world.append(&record), Err(Refusal::TunnelKeyKnown));
    }
    let node_as_invite = Machine { invite: a.key.clone(), ..Machine::new(7) };
    assert_eq!(world.append(&world.invite_record(&node_as_invite)), Err(Refusal::InviteKnown));
    // An inviter knows an invite's key, so it is nobody's identity.
    let invite_as_node = Machine { key: Machine::new(5).invite, ..Machine::new(7) };
    world.invite(&invite_as_node);
    let record = world.member_record(&invite_as_node, "again");
    assert_eq!(world.append(&record), Err(Refusal::MemberKnown));
}

#[test]
fn weak_tunnel_key_and_missing_suite_are_refused() {
    let mut world = World::new();
    let a = Machine { tunnel: TunnelKey::from_bytes([0; 32]), ..Machine::new(1) };
    world.invite(&a);
    let record = world.member_record(&a, "laptop");
    assert_eq!(world.append(&record), Err(Refusal::TunnelKeyWeak));
    let Machine { key, tunnel, invite } = Machine::new(1);
    let none = Capabilities::from_bits(0xfffc);
    let record = build::member_record(&world.network, &invite, &key, tunnel, name("laptop"), none);
    assert_eq!(world.append(&record), Err(Refusal::NoSuite));
}

#[test]
fn reserved_name_is_refused_for_machines() {
    let mut world = World::new();
    let a = Machine::new(1);
    world.invite(&a);
    let record = world.member_record(&a, "localhost");
    assert_eq!(world.append(&record), Err(Refusal::NameReserved));
    let record = world.member_record(&a, "laptop");
    world.append(&record).unwrap();
    let record = world.update_record(&a, 1, "gateway");
    assert_eq!(world.append(&record), Err(Refusal::NameReserved));
}

#[test]
fn taken_name_is_numbered_and_free_again_after_revocation() {
    let mut world = World::new();
    let machines: Vec<_> = (1..=4).map(Machine::new).collect();
    for machine in &machines[..3] {
        world.join(machine, "laptop").unwrap();
    }
    let named = |world: &World, index: usize| world.state().member(&machines[index].id()).unwrap().name().to_string();
    assert_eq!([0, 1, 2].map(|index| named(&world, index)), ["laptop", "laptop-2", "laptop-3"]);
    let revoke = world.revoke_record(&machines[0]);
    world.append(&revoke).unwrap();
    world.join(&machines[3], "laptop").unwrap();
    assert_eq!(named(&world, 3), "laptop");
    assert_eq!(world.state().member_named(&name("laptop")).unwrap().key(), machines[3].id());
}

#[test]
fn updates_are_numbered_and_self_signed() {
    let mut world = World::new();
    let (a, b) = (Machine::new(1), Machine::new(2));
    world.join(&a, "laptop").unwrap();
    world.join(&b, "server").unwrap();
    let update = world.update_record(&a, 5, "server");
    world.append(&update).unwrap();
    let member = world.state().member(&a.id()).unwrap();
    assert_eq!((member.name(), member.update_number()), (&name("server-2"), 5));
    assert_eq!(member.capabilities(), Capabilities::CHACHA_POLY);
    assert_eq!(world.state().member_named(&name("laptop")), None);
    let stale = world.update_record(&a, 5, "desk");
    assert_eq!(world.append(&stale), Err(Refusal::StaleUpdate));
    let stranger = world.update_record(&Machine::new(3), 1, "desk");
    assert_eq!(world.append(&stranger), Err(Refusal::MemberUnknown));
    let body = SignedRecord::decode(&world.update_record(&a, 6, "desk")).unwrap().record().clone();
    let by_other = SignedRecord::sign(&world.network, body, &[&b.key]).unwrap().encode();
    assert_eq!(world.append(&by_other), Err(Refusal::NotAuthorised));
    let revoke = world.revoke_record(&a);
    world.append(&revoke).unwrap();
    let posthumous = world.update_record(&a, 7, "desk");
    assert_eq!(world.append(&posthumous), Err(Refusal::MemberUnknown));
}

#[test]
fn same_wish_keeps_the_name_given() {
    let mut world = World::new();
    let (a, b) = (Machine::new(1), Machine::new(2));
    world.join(&a, "laptop").unwrap();
    world.join(&b, "laptop").unwrap();
    let update = world.update_record(&b, 1, "laptop");
    world.append(&update).unwrap();
    assert_eq!(world.state().member(&b.id()).unwrap().name(), &name("laptop-2"));
}

#[test]
fn revocation_is_final_and_hides_the_peer() {
    let mut world = World::new();
    let (a, b) = (Machine::new(1), Machine::new(2));
    world.join(&a, "laptop").unwrap();
    world.join(&b, "server").unwrap();
    let revoke = world.revoke_record(&b);
    world.append(&revoke).unwrap();
    let state = world.replay();
    assert_eq!(state.peers(&a.id()), []);
    assert_eq!(state.peers(&b.id()), []);
    assert_eq!(state.member(&b.id()).unwrap().standing(), Standing::Revoked(START));
    let again = build::revoke_record(&world.network, &b.key, b.id());
    assert_eq!(world.append(&again), Err(Refusal::AlreadyRevoked));
}

#[test]
fn revocation_works_on_receipt() {
    let mut world = World::new();
    let (a, b) = (Machine::new(1), Machine::new(2));
    world.join(&a, "laptop").unwrap();
    world.join(&b, "server").unwrap();
    let revoke = world.revoke_record(&b);
    let mut state = world.replay();
    assert_eq!(state.verify_revocation(&revoke), Ok(b.id()));
    assert!(!state.is_revoked(&b.id()));
    assert_eq!(state.revoke_on_receipt(&revoke), Ok(b.id()));
    assert_eq!(state.revoke_on_receipt(&revoke), Ok(b.id()));
    assert!(state.is_revoked(&b.id()) && !state.is_live(&b.id()));
    assert_eq!(state.peers(&a.id()), []);
    assert_eq!(state.peer(&a.id(), &b.id()), None);
    assert_eq!(state.peers(&b.id()), []);
    assert_eq!(state.pending_revocations().collect::<Vec<_>>(), [(&b.id(), revoke.as_slice())]);

    let entry = world.append(&revoke).unwrap();
    assert_eq!(state.apply(&entry), Ok(Applied::Changed(Change::Revoked(b.id()))));
    assert_eq!(state.pending_revocations().count(), 0);
    assert_eq!(&state, world.state());
    assert_eq!(state.verify_revocation(&revoke), Err(Refusal::AlreadyRevoked));
}

#[test]
fn forged_revocation_has_no_effect_on_receipt() {
    let mut world = World::new();
    let (a, b) = (Machine::new(1), Machine::new(2));
    world.join(&a, "laptop").unwrap();
    world.join(&b, "server").unwrap();
    let mut state = world.replay();
    let by_member = build::revoke_record(&world.network, &a.key, b.id());
    assert_eq!(state.revoke_on_receipt(&by_member), Err(Refusal::NotAuthorised));
    let of_stranger = build::revoke_record(&world.network, &Machine::new(3).key, Machine::new(3).id());
    assert_eq!(state.revoke_on_receipt(&of_stranger), Err(Refusal::NotAuthorised));
    let good = world.revoke_record(&b);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(state.revoke_on_receipt(&bad).is_err(), "bit {bit}");
    }
    let wrong_type = world.lease_record();
    assert_eq!(state.revoke_on_receipt(&wrong_type), Err(Refusal::NotAuthorised));
    assert_eq!(&state, world.state());
}

#[test]
fn revocation_ordered_before_its_target_still_holds() {
    let mut world = World::new();
    let a = Machine::new(1);
    world.invite(&a);
    let (revoke, member) = (world.revoke_record(&a), world.member_record(&a, "laptop"));
    world.append(&revoke).unwrap();
    assert_eq!(world.append(&member), Err(Refusal::MemberKnown));
}

#[test]
fn member_may_leave_by_itself() {
    let mut world = World::new();
    let a = Machine::new(1);
    world.join(&a, "laptop").unwrap();
    let leave = build::revoke_record(&world.network, &a.key, a.id());
    world.append(&leave).unwrap();
    assert!(world.state().is_revoked(&a.id()));
}

#[test]
fn last_admin_stays() {
    let mut world = World::new();
    let admin = world.admin.member_key();
    let revoke = build::revoke_record(&world.network, &world.admin, admin);
    assert_eq!(world.append(&revoke), Err(Refusal::LastAdmin));
    assert_eq!(world.replay().revoke_on_receipt(&revoke), Err(Refusal::LastAdmin));
    assert!(world.state().is_admin(&admin));
}

#[test]
fn admin_key_can_be_a_member_key() {
    let mut world = World::new();
    let founder = Machine { key: world.admin.clone(), ..Machine::new(1) };
    world.join(&founder, "laptop").unwrap();
    assert!(world.state().is_live(&world.admin.member_key()));
}

/// A network of three admins, two of whom must agree.
pub(crate) fn two_of_three() -> (World, [SigningKey; 3]) {
    let admins = [11, 12, 13].map(|seed| SigningKey::from_bytes(&[seed; 32]));
    let mut keys: Vec<_> = admins.iter().map(SigningKey::member_key).collect();
    keys.sort();
    let genesis = Genesis {
        name: name("attic"),
        time: START,
        threshold: 2,
        admins: keys,
        sequencer: server_key().sequencer_key(),
        servers: vec![server()],
        ipv4_range: None,
    };
    let lone = build::genesis_record(genesis.clone(), &[&admins[0]]).unwrap();
    assert!(matches!(Sequencer::found(server_key(), START, &lone), Err(Refusal::Genesis(_))));
    let genesis = build::genesis_record(genesis, &[&admins[0], &admins[2]]).unwrap();
    let (sequencer, entry) = Sequencer::found(server_key(), START, &genesis).unwrap();
    let network = sequencer.state().network();
    (World::with(network, admins[0].clone(), sequencer, entry), admins)
}

#[test]
fn threshold_of_two_takes_two() {
    let (mut world, admins) = two_of_three();
    let a = Machine::new(1);
    assert_eq!(world.append(&world.invite_record(&a)), Err(Refusal::NotAuthorised));
    let body = Invitation { key: a.invite.invite_key(), expires: START + DAY, hint: None };
    let mut signed = SignedRecord::sign(&world.network, Record::Invite(body), &[&admins[1]]).unwrap();
    signed.cosign(&world.network, &admins[1]).unwrap();
    assert_eq!(world.append(&signed.encode()), Err(Refusal::NotAuthorised));
    signed.cosign(&world.network, &admins[2]).unwrap();
    world.append(&signed.encode()).unwrap();
    let member = world.member_record(&a, "laptop");
    world.append(&member).unwrap();
    // One admin's word is enough to say what it sees.
    let lease = world.lease_record();
    world.append(&lease).unwrap();
    assert_eq!(&world.replay(), world.state());
}

#[test]
fn genesis_needs_true_signatures_of_its_admins_alone() {
    let founded = build::found(&mut ChaCha20Rng::from_seed([1; 32]), charter()).unwrap();
    let mut bad = founded.genesis.clone();
    *bad.last_mut().unwrap() ^= 1;
    let refusal = Sequencer::found(server_key(), START, &bad).err();
    assert!(matches!(refusal, Some(Refusal::Genesis(BadGenesis::Signature(_)))), "{refusal:?}");
    let Record::Genesis(genesis) = SignedRecord::decode(&founded.genesis).unwrap().record().clone() else {
        panic!("a genesis")
    };
    let crowd = build::genesis_record(genesis, &[&founded.admin, &Machine::new(1).key]).unwrap();
    let refusal = Sequencer::found(server_key(), START, &crowd).err();
    assert_eq!(refusal, Some(Refusal::Genesis(BadGenesis::NotAuthorised)));
}

#[test]
fn revocations_on_receipt_spare_enough_admins() {
    let (mut world, admins) = two_of_three();
    let revoke = |world: &World, target: usize, by: [usize; 2]| {
        let body = Record::Revoke(Revocation { member: admins[target].member_key() });
        SignedRecord::sign(&world.network, body, &by.map(|index| &admins[index])).unwrap().encode()
    };
    let (first, second) = (revoke(&world, 0, [1, 2]), revoke(&world, 1, [0, 2]));
    let mut state = world.replay();
    state.revoke_on_receipt(&first).unwrap();
    assert_eq!(state.revoke_on_receipt(&second), Err(Refusal::LastAdmin));
    // The sequencer heard of the other one first: the log decides.
    let entry = world.append(&second).unwrap();
    state.apply(&entry).unwrap();
    assert_eq!(world.append(&first), Err(Refusal::NotAuthorised));
    assert!(state.is_revoked(&admins[1].member_key()));
}

#[test]
fn revocation_on_receipt_ends_where_the_log_spares_the_last_admin() {
    let (mut world, admins) = two_of_three();
    let revoke = |world: &World, target: usize, by: [usize; 2]| {
        let body = Record::Revoke(Revocation { member: admins[target].member_key() });
        SignedRecord::sign(&world.network, body, &by.map(|index| &admins[index])).unwrap().encode()
    };
    let (first, second) = (revoke(&world, 0, [1, 2]), revoke(&world, 1, [1, 2]));
    let mut state = world.replay();
    state.revoke_on_receipt(&second).unwrap();
    let entry = world.append(&first).unwrap();
    state.apply(&entry).unwrap();
    assert!(state.is_revoked(&admins[1].member_key()));
    let spared = Change::Spared(admins[1].member_key());
    assert_eq!(state.apply(&world.forge(&second)), Ok(Applied::Changed(spared)));
    assert!(!state.is_revoked(&admins[1].member_key()));
}

#[test]
fn invites_die_with_their_makers_rights() {
    let (mut world, admins) = two_of_three();
    let a = Machine::new(1);
    let body = Invitation { key: a.invite.invite_key(), expires: START + DAY, hint: None };
    let signed = SignedRecord::sign(&world.network, Record::Invite(body), &[&admins[0], &admins[1]]).unwrap();
    world.append(&signed.encode()).unwrap();
    let target = admins[1].member_key();
    let body = Record::Revoke(Revocation { member: target });
    let revoke = SignedRecord::sign(&world.network, body, &[&admins[0], &admins[2]]).unwrap();
    world.append(&revoke.encode()).unwrap();
    assert!(!world.state().is_admin(&target));
    let member = world.member_record(&a, "laptop");
    assert_eq!(world.append(&member), Err(Refusal::InviterGone));
    // Two are left where two must agree: neither can go.
    let body = Record::Revoke(Revocation { member: admins[2].member_key() });
    let revoke = SignedRecord::sign(&world.network, body, &[&admins[0], &admins[2]]).unwrap();
    assert_eq!(world.append(&revoke.encode()), Err(Refusal::LastAdmin));
}

#[test]
fn leases_age_and_tell_forks() {
    let mut world = World::new();
    assert_eq!(world.state().lease_age(START + DAY), Some(Duration::from_secs(DAY)));
    assert_eq!(State::new(world.network).lease_age(START), None);
    world.join(&Machine::new(1), "laptop").unwrap();
    world.now += 3 * DAY;
    let lease = world.lease_record();
    world.append(&lease).unwrap();
    assert_eq!(world.state().lease_age(world.now + 5), Some(Duration::from_secs(5)));
    assert_eq!(world.state().lease_age(world.now - DAY), Some(Duration::ZERO));
    // To a clock that is further behind, or by a lease of a clock that is further ahead, nothing is proved.
    assert!(world.state().lease_age(world.now - DAY - 1) > Some(LEASE_LIFE));
    assert!(world.state().lease_age(0) > Some(LEASE_LIFE));

    let (length, _) = world.state().head();
    for (at, time) in [(length - 1, START), (length - 2, world.now + DAY)] {
        let head = world.state().head_at(at).unwrap();
        let old = build::lease_record(&world.network, &world.admin, (at, head), time);
        assert_eq!(world.append(&old), Err(Refusal::StaleLease));
    }
    let other = build::lease_record(&world.network, &world.admin, (length, [7; 32]), world.now);
    assert_eq!(world.append(&other), Err(Refusal::LeaseOfAnotherHistory));
    let longer = build::lease_record(&world.network, &world.admin, (length + 1, [7; 32]), world.now);
    assert_eq!(world.append(&longer), Err(Refusal::LeaseOfAnotherHistory));
    let mut unsigned = other;
    *unsigned.last_mut().unwrap() ^= 1;
    assert!(matches!(world.append(&unsigned), Err(Refusal::Signature(_))));
}

#[test]
fn record_of_a_later_version_is_skipped_with_a_word() {
    let mut world = World::new();
    let mut state = world.replay();
    let unknown = Refusal::Malformed(Malformed::UnknownType(12));
    assert_eq!(world.append(&[1, 12]), Err(unknown));
    assert_eq!(unknown.to_string(), "record record type 12 is not known");
    assert_eq!(state.apply(&world.forge(&[1, 12])), Ok(Applied::Skipped(unknown)));
    assert_eq!(state.head().0, 2);
}

#[test]
fn retry_answers_the_existing_entry() {
    let mut world = World::new();
    let a = Machine::new(1);
    let joined = world.join(&a, "laptop").unwrap();
    world.now += 60;
    let record = world.member_record(&a, "laptop");
    assert_eq!(world.append(&record), Ok(joined.clone()));
    let resumed = Sequencer::resume(server_key(), world.network, &world.log);
    assert_eq!(resumed.unwrap().append(world.now, &record), Ok(joined));
    assert_eq!(world.state().head().0, 3);
}

#[test]
fn sequencer_refuses_what_is_not_its_own() {
    let Founded { genesis, .. } = build::found(&mut ChaCha20Rng::from_seed([1; 32]), charter()).unwrap();
    let other = SigningKey::from_bytes(&[1; 32]);
    assert!(matches!(Sequencer::found(other, START, &genesis), Err(Refusal::OtherSequencer)));
    let mut world = World::new();
    assert_eq!(world.append(&genesis), Ok(world.log[0].clone()));
    let second = build::found(&mut ChaCha20Rng::from_seed([2; 32]), charter()).unwrap().genesis;
    assert_eq!(world.append(&second), Err(Refusal::SecondGenesis));
}

#[test]
fn time_of_entries_ends() {
    let mut world = World::new();
    world.invite(&Machine::new(1));
    let mut state = world.replay();
    // Otherwise one junk entry of the last second there is would end all invites for ever.
    for time in [MAX_TIME + 1, u64::MAX] {
        let (sequence, previous) = world.state().head();
        assert_eq!(state.apply(&forge(world.network, sequence, previous, time, b"junk")), Err(Break::Era));
    }
    let first = forge(world.network, 0, world.network.to_bytes(), MAX_TIME + 1, &world.log[0].record);
    assert_eq!(State::new(world.network).apply(&first), Err(Break::Era));
    assert_eq!(&state, world.state());
    // A sequencer whose clock is beyond the end stays at it, and an invite without an expiry still serves.
    world.now = u64::MAX;
    let late = Machine::new(2);
    let invite = build::invite_record(&world.network, &world.admin, late.invite.invite_key(), u64::MAX, None);
    assert_eq!(world.append(&invite).unwrap().time, MAX_TIME);
    let member = world.member_record(&late, "late");
    world.append(&member).unwrap();
    assert!(world.replay().is_live(&late.id()));
    let genesis = &world.log[0].record;
    assert_eq!(Sequencer::found(server_key(), u64::MAX, genesis).unwrap().1.time, MAX_TIME);
}

#[test]
fn invite_does_not_bear_an_admins_key() {
    let (mut world, admins) = two_of_three();
    let delegate = Machine::new(1);
    let by = [&admins[0], &admins[1]];
    let invite = |key: &SigningKey| build::invite_record(&world.network, &by, key.invite_key(), START + DAY, None);
    let (bad, good) = (invite(&admins[2]), invite(&delegate.invite));
    assert_eq!(world.append(&bad), Err(Refusal::InviteKnown));
    assert_eq!(world.replay().apply(&world.forge(&bad)), Ok(Applied::Skipped(Refusal::InviteKnown)));
    world.append(&good).unwrap();
    let member = world.member_record(&delegate, "helper");
    world.append(&member).unwrap();
    let policy = world.policy_record(&by, Freshness::Warn, &[(delegate.id(), Rights::INVITE)]);
    world.append(&policy).unwrap();
    for admin in &admins {
        let record = build::invite_record(&world.network, &delegate.key, admin.invite_key(), START + DAY, None);
        assert_eq!(world.append(&record), Err(Refusal::InviteKnown));
    }
    // So the set of admins stays theirs to change.
    let ids = admins.each_ref().map(SigningKey::member_key);
    let change = world.admin_change_record(&by, 1, &ids);
    world.append(&change).unwrap();
    assert_eq!(world.state().threshold(), 1);
}

#[test]
fn sequencers_clock_running_backwards_does_not_show() {
    let mut world = World::new();
    world.now -= 500;
    world.join(&Machine::new(1), "laptop").unwrap();
    assert_eq!(world.log.iter().map(|entry| entry.time).collect::<BTreeSet<_>>(), BTreeSet::from([START]));
}
