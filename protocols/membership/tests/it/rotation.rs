//! New keys in a member's old place.

use ginnel_membership::build::{self, NewKeys};
use ginnel_membership::keys::{SigningKey, TunnelKey};
use ginnel_membership::record::{Freshness, Rights};
use ginnel_membership::state::{InviteStanding, Standing};
use ginnel_membership::{Applied, Capabilities, Change, Record, Refusal, SignedRecord};

use crate::rules::two_of_three;
use crate::world::{DAY, Machine, START, World, name};

/// A network of two members, and what the first will become.
fn pair() -> (World, Machine, Machine, Machine) {
    let mut world = World::new();
    let (a, b) = (Machine::new(1), Machine::new(2));
    world.join(&a, "laptop").unwrap();
    world.join(&b, "server").unwrap();
    (world, a, b, Machine::new(3))
}

#[test]
fn rotated_member_keeps_its_place() {
    let (mut world, a, b, new) = pair();
    let before = world.state().member(&a.id()).unwrap().clone();
    let rotation = world.rotation_record(&a, 1, "laptop", &new);
    let mut state = world.replay();
    let entry = world.append(&rotation).unwrap();
    assert_eq!(state.apply(&entry), Ok(Applied::Changed(Change::Rotated { old: a.id(), new: new.id() })));
    let member = state.member(&new.id()).unwrap();
    assert_eq!((member.name(), member.ipv4(), member.ipv6()), (before.name(), before.ipv4(), before.ipv6()));
    assert_eq!((member.joined(), member.invite()), (before.joined(), before.invite()));
    assert_eq!((member.tunnel_key(), member.update_number()), (new.tunnel, 1));
    assert_eq!(state.member_named(&name("laptop")), Some(member));
    assert_eq!(state.invite(&a.invite.invite_key()).unwrap().standing, InviteStanding::Used(new.id()));

    let [peer] = &state.peers(&b.id())[..] else { panic!("one peer") };
    assert_eq!((peer.member(), peer.tunnel_key(), peer.ipv6()), (new.id(), new.tunnel, before.ipv6()));
    assert_eq!(state.peers(&a.id()), []);
    assert_eq!(state.peer(&b.id(), &a.id()), None);
    assert!(state.is_revoked(&a.id()) && !state.is_live(&a.id()) && state.member(&a.id()).is_none());
    assert_eq!(state.current_key(&a.id()), new.id());
    assert_eq!(state.member_with_tunnel_key(&a.tunnel), None);
    assert_eq!(state.member_with_tunnel_key(&new.tunnel), Some(member));
    assert_eq!(&state, world.state());
}

#[test]
fn replaced_keys_are_good_for_nothing() {
    let (mut world, a, b, new) = pair();
    let rotation = world.rotation_record(&a, 1, "laptop", &new);
    world.append(&rotation).unwrap();
    for (number, record) in [(2, "laptop"), (3, "other")].map(|(n, wish)| (n, world.update_record(&a, n, wish))) {
        assert_eq!(world.append(&record), Err(Refusal::MemberUnknown), "{number}");
    }
    let back = world.rotation_record(&new, 2, "laptop", &Machine { tunnel: Machine::new(7).tunnel, ..a.clone() });
    assert_eq!(world.append(&back), Err(Refusal::MemberKnown));
    let back = world.rotation_record(&new, 2, "laptop", &Machine { tunnel: a.tunnel, ..Machine::new(7) });
    assert_eq!(world.append(&back), Err(Refusal::TunnelKeyKnown));
    let again = Machine { invite: Machine::new(8).invite, tunnel: Machine::new(8).tunnel, ..a.clone() };
    world.invite(&again);
    let record = world.member_record(&again, "again");
    assert_eq!(world.append(&record), Err(Refusal::MemberKnown));
    let record = world.member_record(&Machine { key: Machine::new(8).key, tunnel: a.tunnel, ..again }, "again");
    assert_eq!(world.append(&record), Err(Refusal::TunnelKeyKnown));
    let as_invite = Machine { invite: a.key.clone(), ..Machine::new(9) };
    assert_eq!(world.append(&world.invite_record(&as_invite)), Err(Refusal::InviteKnown));
    let as_admin = world.admin_change_record(&[&world.admin], 1, &[world.admin.member_key(), a.id()]);
    assert_eq!(world.append(&as_admin), Err(Refusal::AdminUnfit));
    let as_delegate = world.policy_record(&[&world.admin], Freshness::Warn, &[(a.id(), Rights::ALL)]);
    assert_eq!(world.append(&as_delegate), Err(Refusal::MemberUnknown));
    // Leaving by the old key would let a thief end the membership.
    let leave = build::revoke_record(&world.network, &a.key, a.id());
    assert_eq!(world.append(&leave), Err(Refusal::NotAuthorised));
    let other = world.rotation_record(&b, 1, "server", &Machine { tunnel: Machine::new(9).tunnel, ..new });
    assert_eq!(world.append(&other), Err(Refusal::MemberKnown));
}

#[test]
fn rotation_takes_both_keys_and_no_third() {
    let (mut world, a, b, new) = pair();
    let signed = SignedRecord::decode(&world.rotation_record(&a, 1, "laptop", &new)).unwrap();
    let (admin, record) = (world.admin.clone(), signed.record().clone());
    for keys in [&[&a.key][..], &[&new.key], &[&a.key, &admin], &[&new.key, &b.key], &[&a.key, &new.key, &admin]] {
        let resigned = SignedRecord::sign(&world.network, record.clone(), keys).unwrap();
        assert_eq!(world.append(&resigned.encode()), Err(Refusal::NotAuthorised));
    }
    let mut bad = signed.encode();
    *bad.last_mut().unwrap() ^= 1;
    assert!(matches!(world.append(&bad), Err(Refusal::Signature(_))));
    world.append(&signed.encode()).unwrap();
}

#[test]
fn tunnel_key_alone_can_be_replaced() {
    let (mut world, a, b, new) = pair();
    let update = |number, tunnel| {
        let (key, suites) = (&a.key, Capabilities::CHACHA_POLY);
        build::update_record(&world.network, key, number, name("desk"), suites, NewKeys::Tunnel(tunnel))
    };
    let (good, stale, same) = (update(1, new.tunnel), update(1, Machine::new(5).tunnel), update(2, new.tunnel));
    let (weak, taken) = (update(2, TunnelKey::from_bytes([0; 32])), update(2, b.tunnel));
    let mut state = world.replay();
    let entry = world.append(&good).unwrap();
    assert_eq!(state.apply(&entry), Ok(Applied::Changed(Change::Rotated { old: a.id(), new: a.id() })));
    let member = state.member(&a.id()).unwrap();
    assert_eq!((member.tunnel_key(), member.name()), (new.tunnel, &name("desk")));
    assert!(state.is_live(&a.id()));
    assert_eq!(state.member_with_tunnel_key(&a.tunnel), None);
    assert_eq!(world.append(&stale), Err(Refusal::StaleUpdate));
    assert_eq!(world.append(&same), Err(Refusal::TunnelKeyKnown));
    assert_eq!(world.append(&weak), Err(Refusal::TunnelKeyWeak));
    assert_eq!(world.append(&taken), Err(Refusal::TunnelKeyKnown));
}

#[test]
fn keys_of_others_are_no_new_keys() {
    let (mut world, a, b, _) = pair();
    world.invite(&Machine::new(4));
    let revoke = world.revoke_record(&Machine::new(5));
    world.append(&revoke).unwrap();
    let tunnel = Machine::new(9).tunnel;
    for key in [&a.key, &b.key, &Machine::new(4).invite, &Machine::new(5).key, &world.admin.clone()] {
        let new = Machine { key: key.clone(), tunnel, ..Machine::new(9) };
        let record = world.rotation_record(&a, 1, "laptop", &new);
        assert_eq!(world.append(&record), Err(Refusal::MemberKnown));
    }
}

#[test]
fn revocation_of_a_replaced_key_hits_the_member() {
    let (mut world, a, b, new) = pair();
    let rotation = world.rotation_record(&a, 1, "laptop", &new);
    let revoke = world.revoke_record(&a);
    // Received before the thief's rotation is ordered: it follows the member.
    let mut early = world.replay();
    assert_eq!(early.revoke_on_receipt(&revoke), Ok(a.id()));
    let entry = world.append(&rotation).unwrap();
    early.apply(&entry).unwrap();
    assert!(early.is_revoked(&new.id()) && !early.is_live(&new.id()));
    assert_eq!(early.peers(&b.id()), []);
    // Received after it.
    let mut late = world.replay();
    assert_eq!(late.revoke_on_receipt(&revoke), Ok(new.id()));
    assert!(!late.is_live(&new.id()));

    let entry = world.append(&revoke).unwrap();
    assert_eq!(early.apply(&entry), Ok(Applied::Changed(Change::Revoked(new.id()))));
    assert_eq!(early.pending_revocations().count(), 0);
    late.apply(&entry).unwrap();
    assert_eq!((&early, &late), (world.state(), world.state()));
    assert_eq!(early.member(&new.id()).unwrap().standing(), Standing::Revoked(START));
    assert_eq!(world.append(&world.revoke_record(&a)), world.append(&revoke));
    assert_eq!(world.append(&world.revoke_record(&new)), Err(Refusal::AlreadyRevoked));
    let resurrection = world.rotation_record(&new, 2, "laptop", &Machine::new(8));
    assert_eq!(world.append(&resurrection), Err(Refusal::MemberUnknown));
}

#[test]
fn admins_right_follows_the_members_key() {
    let mut world = World::new();
    let founder = Machine { key: world.admin.clone(), ..Machine::new(1) };
    world.join(&founder, "laptop").unwrap();
    let (new, guest) = (Machine::new(2), Machine::new(3));
    world.invite(&guest);
    let rotation = world.rotation_record(&founder, 1, "laptop", &new);
    world.append(&rotation).unwrap();
    assert_eq!(world.state().admins().copied().collect::<Vec<_>>(), [new.id()]);
    let by_old = world.invite_record(&Machine::new(4));
    assert_eq!(world.append(&by_old), Err(Refusal::NotAuthorised));
    // What the old key promised is worth nothing, in case it is known to others.
    let member = world.member_record(&guest, "guest");
    assert_eq!(world.append(&member), Err(Refusal::InviterGone));
    world.admin = new.key.clone();
    world.join(&Machine::new(5), "guest").unwrap();
    let last = world.revoke_record(&new);
    assert_eq!(world.append(&last), Err(Refusal::LastAdmin));
    assert_eq!(&world.replay(), world.state());
}

#[test]
fn admins_do_not_merge_by_rotation() {
    let (mut world, admins) = two_of_three();
    let first = Machine { key: admins[0].clone(), ..Machine::new(1) };
    let invite =
        build::invite_record(&world.network, &[&admins[0], &admins[1]], first.invite.invite_key(), START + DAY, None);
    world.append(&invite).unwrap();
    let member = world.member_record(&first, "laptop");
    world.append(&member).unwrap();
    let merged = Machine { key: admins[1].clone(), ..Machine::new(2) };
    let record = world.rotation_record(&first, 1, "laptop", &merged);
    assert_eq!(world.append(&record), Err(Refusal::MemberKnown));
    assert_eq!((world.state().admins().count(), world.state().threshold()), (3, 2));
}

#[test]
fn rotation_may_rename_and_frees_the_old_name() {
    let (mut world, a, _, new) = pair();
    let rotation = world.rotation_record(&a, 1, "server", &new);
    world.append(&rotation).unwrap();
    assert_eq!(world.state().member(&new.id()).unwrap().name(), &name("server-2"));
    world.join(&Machine::new(6), "laptop").unwrap();
    assert_eq!(world.state().member_named(&name("laptop")).unwrap().key(), Machine::new(6).id());
    let reserved = world.rotation_record(&new, 2, "localhost", &Machine::new(7));
    assert_eq!(world.append(&reserved), Err(Refusal::NameReserved));
}

#[test]
fn chain_of_rotations_leads_to_the_member() {
    let (mut world, a, b, _) = pair();
    let mut now = a.clone();
    for seed in 10..20 {
        let next = Machine::new(seed);
        let record = world.rotation_record(&now, u64::from(seed), "laptop", &next);
        world.append(&record).unwrap();
        now = next;
    }
    assert_eq!(world.state().current_key(&a.id()), now.id());
    assert_eq!(world.state().peers(&b.id()).len(), 1);
    let revoke = world.revoke_record(&Machine::new(14));
    world.append(&revoke).unwrap();
    assert_eq!(world.state().peers(&b.id()), []);
    let signed = SignedRecord::decode(&revoke).unwrap();
    assert!(matches!(signed.record(), Record::Revoke(body) if body.member == Machine::new(14).id()));
    let key = SigningKey::from_bytes(&[10; 32]).member_key();
    assert!(world.state().is_revoked(&key));
}
