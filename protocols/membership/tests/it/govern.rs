//! Admins among themselves, and what they let members do.

use ginnel_membership::build;
use ginnel_membership::keys::{MemberKey, SigningKey};
use ginnel_membership::record::{AdminChange, Delegate, Freshness, MAX_DELEGATES, Policy, Rights};
use ginnel_membership::state::InviteStanding;
use ginnel_membership::{Admission, Applied, Change, Malformed, Refusal, SignedRecord, State};

use crate::rules::two_of_three;
use crate::world::{DAY, Machine, START, World};

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn ids(keys: &[&SigningKey]) -> Vec<MemberKey> {
    let mut ids: Vec<_> = keys.iter().map(|key| key.member_key()).collect();
    ids.sort();
    ids
}

#[test]
fn admins_change_as_a_whole() {
    let mut world = World::new();
    let (old, second, third) = (world.admin.clone(), key(21), key(22));
    let mut state = world.replay();
    let grown = world.admin_change_record(&[&old], 2, &ids(&[&old, &second, &third]));
    let entry = world.append(&grown).unwrap();
    assert_eq!(state.apply(&entry), Ok(Applied::Changed(Change::AdminsChanged)));
    assert_eq!((state.threshold(), state.next_admin_change()), (2, 2));
    assert_eq!(state.admins().copied().collect::<Vec<_>>(), ids(&[&old, &second, &third]));
    assert_eq!(world.append(&world.invite_record(&Machine::new(1))), Err(Refusal::NotAuthorised));

    let shrunk = world.admin_change_record(&[&second, &third], 1, &ids(&[&third]));
    let entry = world.append(&shrunk).unwrap();
    state.apply(&entry).unwrap();
    assert!(state.is_admin(&third.member_key()) && !state.is_admin(&old.member_key()));
    assert_eq!(world.append(&world.invite_record(&Machine::new(1))), Err(Refusal::NotAuthorised));
    world.admin = third;
    world.join(&Machine::new(1), "laptop").unwrap();
    assert_eq!(&world.replay(), world.state());
}

#[test]
fn admin_change_takes_effect_once() {
    let mut world = World::new();
    let (first, second) = (world.admin.clone(), key(21));
    let to_both = world.admin_change_record(&[&first], 1, &ids(&[&first, &second]));
    let rival = world.admin_change_record(&[&first], 1, &ids(&[&first, &key(22)]));
    world.append(&to_both).unwrap();
    assert_eq!(world.append(&rival), Err(Refusal::WrongNumber));
    let back = world.admin_change_record(&[&first], 1, &ids(&[&first]));
    world.append(&back).unwrap();
    // A dishonest sequencer orders the first one again, to bring the second admin back.
    let mut state = world.replay();
    let replayed = world.forge(&to_both);
    assert_eq!(state.apply(&replayed), Ok(Applied::Skipped(Refusal::WrongNumber)));
    assert!(!state.is_admin(&second.member_key()));
    for number in [0, 1, 2, 4, u64::MAX] {
        let change = AdminChange { number, threshold: 1, admins: ids(&[&second]) };
        let record = build::admin_change_record(&world.network, &first, change).unwrap();
        assert_eq!(world.append(&record), Err(Refusal::WrongNumber), "{number}");
    }
}

#[test]
fn admins_are_changed_by_enough_of_them_alone() {
    let (mut world, admins) = two_of_three();
    let [a, b, c] = &admins;
    let member = Machine::new(1);
    let coup = ids(&[&member.key]);
    for by in [&[a][..], &[&member.key], &[a, &member.key], &[a, b, &member.key]] {
        let record = world.admin_change_record(by, 1, &coup);
        assert_eq!(world.append(&record), Err(Refusal::NotAuthorised));
    }
    // One signature twice is one signature, however it is put together.
    let lone = world.admin_change_record(&[a], 1, &coup);
    let mut signed = SignedRecord::decode(&lone).unwrap();
    signed.cosign(&world.network, a).unwrap();
    assert_eq!(signed.encode(), lone);
    let signature = &lone[lone.len() - 96..];
    let mut twice = [&lone[..], signature].concat();
    let count = lone.len() - 97;
    twice[count] = 2;
    assert_eq!(world.append(&twice), Err(Refusal::Malformed(Malformed::NotCanonical)));
    let record = world.admin_change_record(&[b, c], 3, &ids(&[a, b, c]));
    world.append(&record).unwrap();
    let record = world.admin_change_record(&[a, b], 1, &ids(&[a]));
    assert_eq!(world.append(&record), Err(Refusal::NotAuthorised));
}

#[test]
fn set_of_admins_can_always_act() {
    let mut world = World::new();
    let (network, admin) = (world.network, world.admin.clone());
    let make = |threshold, admins| {
        let change = AdminChange { number: 1, threshold, admins };
        build::admin_change_record(&network, &admin, change)
    };
    let mut descending = ids(&[&admin, &key(21)]);
    descending.reverse();
    let nine: Vec<_> = (1..=9).map(key).collect();
    let nine = ids(&nine.iter().collect::<Vec<_>>());
    let twice = vec![admin.member_key(); 2];
    for (threshold, admins) in
        [(1, vec![]), (0, ids(&[&admin])), (2, ids(&[&admin])), (1, descending), (1, nine), (1, twice)]
    {
        assert!(make(threshold, admins).is_err());
    }
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut of_order_two = [0xff; 32];
    (of_order_two[0], of_order_two[31]) = (0xec, 0x7f);
    for weak in [identity, of_order_two] {
        let mut admins = vec![admin.member_key(), MemberKey::from_bytes(weak)];
        admins.sort();
        assert_eq!(world.append(&make(1, admins).unwrap()), Err(Refusal::AdminUnfit));
    }
    let revoke = world.revoke_record(&Machine::new(1));
    world.append(&revoke).unwrap();
    world.invite(&Machine::new(2));
    for key in [&Machine::new(1).key, &Machine::new(2).invite] {
        let unfit = make(1, ids(&[&admin, key])).unwrap();
        assert_eq!(world.append(&unfit), Err(Refusal::AdminUnfit));
    }
}

#[test]
fn revocation_of_an_admin_is_no_numbered_change() {
    let (mut world, admins) = two_of_three();
    let [a, b, c] = &admins;
    let planned = world.admin_change_record(&[a, b], 2, &ids(&[a, b, c]));
    let revoke = build::revoke_record(&world.network, &[a, b], c.member_key());
    world.append(&revoke).unwrap();
    assert_eq!(world.state().next_admin_change(), 1);
    assert_eq!(world.append(&planned), Err(Refusal::AdminUnfit));
    let replaced = world.admin_change_record(&[a, b], 2, &ids(&[a, b, &key(24)]));
    world.append(&replaced).unwrap();
}

#[test]
fn policy_is_for_admins_to_make() {
    let mut world = World::new();
    let a = Machine::new(1);
    world.join(&a, "laptop").unwrap();
    let power = [(a.id(), Rights::ALL)];
    let by_member = world.policy_record(&[&a.key], Freshness::Warn, &power);
    assert_eq!(world.append(&by_member), Err(Refusal::NotAuthorised));
    let stranger = world.policy_record(&[&world.admin], Freshness::Warn, &[(Machine::new(9).id(), Rights::ALL)]);
    assert_eq!(world.append(&stranger), Err(Refusal::MemberUnknown));
    let (good, rival) = (
        world.policy_record(&[&world.admin], Freshness::Strict, &power),
        world.policy_record(&[&world.admin], Freshness::Warn, &[]),
    );
    let mut state = world.replay();
    let entry = world.append(&good).unwrap();
    assert_eq!(state.apply(&entry), Ok(Applied::Changed(Change::PolicyChanged)));
    assert_eq!(state.policy().rights(&a.id()), Some(Rights::ALL));
    assert_eq!((state.policy().freshness, state.next_policy()), (Freshness::Strict, 2));
    assert_eq!(world.append(&rival), Err(Refusal::WrongNumber));
    // A delegate has what it was given and nothing else.
    let crown = world.policy_record(&[&a.key], Freshness::Warn, &power);
    let coup = world.admin_change_record(&[&a.key], 1, &[a.id()]);
    let revoke = build::revoke_record(&world.network, &a.key, world.admin.member_key());
    for record in [crown, coup, revoke] {
        assert_eq!(world.append(&record), Err(Refusal::NotAuthorised));
    }
}

#[test]
fn policies_have_bounds_and_one_form() {
    let world = World::new();
    let make = |delegates| {
        let policy = Policy { number: 1, freshness: Freshness::Warn, delegates };
        build::policy_record(&world.network, &world.admin, policy)
    };
    let delegate = |seed| Delegate { member: Machine::new(seed).id(), rights: Rights::LEASE };
    let mut many: Vec<_> = (0..=MAX_DELEGATES as u8).map(delegate).collect();
    many.sort();
    assert_eq!(make(many.clone()), Err(Malformed::Count(17, "delegates")));
    many.pop();
    let good = make(many.clone()).unwrap();
    many.reverse();
    assert_eq!(make(many), Err(Malformed::NotCanonical));
    assert_eq!(make(vec![delegate(1), delegate(1)]), Err(Malformed::NotCanonical));
    assert_eq!((Rights::from_bits(0), Rights::from_bits(4)), (None, None));
    let with = |index: usize, value| {
        let mut bytes = good.clone();
        bytes[index] = value;
        SignedRecord::decode(&bytes).err()
    };
    assert_eq!(with(10, 1), Some(Malformed::Value(1, "policy flags")));
    assert_eq!(with(11, 2), Some(Malformed::Value(2, "policy flags")));
    assert_eq!(with(12, 17), Some(Malformed::Count(17, "delegates")));
    for rights in [0, 4, 7] {
        assert_eq!(with(13 + 32, rights), Some(Malformed::Value(rights, "a delegate's rights")));
    }
}

#[test]
fn delegate_signs_leases_while_it_may() {
    let mut world = World::new();
    let (a, b) = (Machine::new(1), Machine::new(2));
    world.join(&a, "laptop").unwrap();
    world.join(&b, "server").unwrap();
    let policy =
        world.policy_record(&[&world.admin], Freshness::Warn, &[(a.id(), Rights::LEASE), (b.id(), Rights::INVITE)]);
    world.append(&policy).unwrap();
    let lease =
        |world: &World, by: &[&SigningKey]| build::lease_record(&world.network, by, world.state().head(), world.now);
    world.now += DAY;
    let record = lease(&world, &[&a.key]);
    world.append(&record).unwrap();
    let record = lease(&world, &[&b.key]);
    assert_eq!(world.append(&record), Err(Refusal::NotAuthorised));
    let record = lease(&world, &[&a.key, &b.key]);
    assert_eq!(world.append(&record), Err(Refusal::NotAuthorised));
    let admin = world.admin.clone();
    let record = lease(&world, &[&a.key, &admin]);
    world.append(&record).unwrap();
    let revoke = world.revoke_record(&a);
    world.append(&revoke).unwrap();
    assert_eq!(world.state().policy().rights(&a.id()), None);
    let record = lease(&world, &[&a.key]);
    assert_eq!(world.append(&record), Err(Refusal::NotAuthorised));
}

#[test]
fn delegate_invites_alone_while_it_may() {
    let (mut world, admins) = two_of_three();
    let [x, y, _] = &admins;
    let delegate = Machine::new(1);
    let invite = build::invite_record(&world.network, &[x, y], delegate.invite.invite_key(), START + DAY, None);
    world.append(&invite).unwrap();
    let member = world.member_record(&delegate, "laptop");
    world.append(&member).unwrap();
    let by_delegate = |world: &World, guest: &Machine| {
        build::invite_record(&world.network, &delegate.key, guest.invite.invite_key(), START + DAY, None)
    };
    let (early, used, open) = (Machine::new(2), Machine::new(3), Machine::new(4));
    let record = by_delegate(&world, &early);
    assert_eq!(world.append(&record), Err(Refusal::NotAuthorised));
    let grant = world.policy_record(&[x, y], Freshness::Warn, &[(delegate.id(), Rights::INVITE)]);
    world.append(&grant).unwrap();
    for guest in [&used, &open] {
        let record = by_delegate(&world, guest);
        world.append(&record).unwrap();
    }
    let member = world.member_record(&used, "guest");
    world.append(&member).unwrap();
    let void = build::void_record(&world.network, &delegate.key, early.invite.invite_key());
    assert_eq!(world.append(&void), Err(Refusal::InviteUnknown));

    let withdraw = world.policy_record(&[x, y], Freshness::Warn, &[(delegate.id(), Rights::LEASE)]);
    world.append(&withdraw).unwrap();
    let late = world.member_record(&open, "late");
    assert_eq!(world.append(&late), Err(Refusal::InviterGone));
    assert!(world.state().is_live(&used.id()));
    let void = build::void_record(&world.network, &delegate.key, open.invite.invite_key());
    assert_eq!(world.append(&void), Err(Refusal::NotAuthorised));
    let record = by_delegate(&world, &early);
    assert_eq!(world.append(&record), Err(Refusal::NotAuthorised));
}

#[test]
fn delegate_takes_back_its_own_invites_only() {
    let mut world = World::new();
    let delegate = Machine::new(1);
    world.join(&delegate, "laptop").unwrap();
    let grant = world.policy_record(&[&world.admin], Freshness::Warn, &[(delegate.id(), Rights::INVITE)]);
    world.append(&grant).unwrap();
    let (own, others) = (Machine::new(2).invite.invite_key(), Machine::new(3));
    let record = build::invite_record(&world.network, &delegate.key, own, START + DAY, None);
    world.append(&record).unwrap();
    world.invite(&others);
    let void = build::void_record(&world.network, &delegate.key, others.invite.invite_key());
    assert_eq!(world.append(&void), Err(Refusal::NotAuthorised));
    let void = build::void_record(&world.network, &delegate.key, own);
    world.append(&void).unwrap();
    assert_eq!(world.state().invite(&own).unwrap().standing, InviteStanding::Void);
}

#[test]
fn delegates_rights_end_with_its_membership_and_follow_its_key() {
    let mut world = World::new();
    let (delegate, new, guest) = (Machine::new(1), Machine::new(2), Machine::new(3));
    world.join(&delegate, "laptop").unwrap();
    let grant = world.policy_record(&[&world.admin], Freshness::Warn, &[(delegate.id(), Rights::INVITE)]);
    world.append(&grant).unwrap();
    let rotation = world.rotation_record(&delegate, 1, "laptop", &new);
    world.append(&rotation).unwrap();
    assert_eq!(world.state().policy().rights(&delegate.id()), None);
    let invite =
        |by: &Machine| build::invite_record(&world.network, &by.key, guest.invite.invite_key(), START + DAY, None);
    let (by_old, by_new) = (invite(&delegate), invite(&new));
    assert_eq!(world.append(&by_old), Err(Refusal::NotAuthorised));
    world.append(&by_new).unwrap();
    let leave = build::revoke_record(&world.network, &new.key, new.id());
    world.append(&leave).unwrap();
    let member = world.member_record(&guest, "guest");
    assert_eq!(world.append(&member), Err(Refusal::InviterGone));
}

#[test]
fn strict_networks_close_when_the_lease_is_old() {
    let mut world = World::new();
    let week = 7 * DAY;
    assert_eq!(State::new(world.network).admitting(START), Admission::Closed);
    assert_eq!(world.state().admitting(START + week), Admission::Fresh);
    assert_eq!(world.state().admitting(START + week + 1), Admission::Stale);
    let strict = world.policy_record(&[&world.admin], Freshness::Strict, &[]);
    world.append(&strict).unwrap();
    assert_eq!(world.state().admitting(START + week), Admission::Fresh);
    assert_eq!(world.state().admitting(START + week + 1), Admission::Closed);
    world.now += week + 1;
    let lease = world.lease_record();
    world.append(&lease).unwrap();
    assert_eq!(world.state().admitting(world.now), Admission::Fresh);
}

#[test]
fn lease_of_a_clock_that_ran_ahead_does_not_outlive_the_next() {
    let mut world = World::new();
    let signed_at = |time| build::lease_record(&world.network, &world.admin, world.state().head(), time);
    let (mistaken, beyond) = (signed_at(START + DAY), signed_at(START + DAY + 1));
    assert_eq!(world.append(&beyond), Err(Refusal::LeaseAhead));
    assert_eq!(world.replay().apply(&world.forge(&beyond)), Ok(Applied::Skipped(Refusal::LeaseAhead)));
    world.append(&mistaken).unwrap();
    let lease = world.lease_record();
    world.append(&lease).unwrap();
    assert_eq!(world.state().lease().unwrap().time, START);
    assert_eq!(world.append(&world.forge(&mistaken).record), world.append(&mistaken));
    let mut state = world.replay();
    assert_eq!(state.apply(&world.forge(&mistaken)), Ok(Applied::Skipped(Refusal::StaleLease)));
}

#[test]
fn lease_far_ahead_keeps_nothing_fresh() {
    let mut world = World::new();
    let strict = world.policy_record(&[&world.admin], Freshness::Strict, &[]);
    world.append(&strict).unwrap();
    let now = world.now;
    // A dishonest sequencer brings the log's time along with the lease's.
    world.now = u64::MAX;
    let century = START + 100 * 365 * DAY;
    let lease = build::lease_record(&world.network, &world.admin, world.state().head(), century);
    world.append(&lease).unwrap();
    assert_eq!(world.state().lease().unwrap().time, century);
    assert_eq!(world.state().admitting(now), Admission::Closed);
    assert_eq!(world.state().admitting(now + 365 * DAY), Admission::Closed);
    // The next true one counts again.
    world.now = now;
    let lease = world.lease_record();
    world.append(&lease).unwrap();
    assert_eq!(world.state().admitting(now), Admission::Fresh);
}
