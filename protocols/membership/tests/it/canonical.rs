//! One encoding per record, and no panic on any bytes.

use ginnel_membership::build;
use ginnel_membership::record::{Genesis, MAX_RECORD_LEN};
use ginnel_membership::{Entry, Malformed, Record, SignedRecord};
use proptest::prelude::*;

use crate::world::{Machine, START, World, name, server, server_key, standby_server};

fn records() -> Vec<Vec<u8>> {
    let mut world = World::new();
    let a = Machine::new(1);
    world.invite(&a);
    let hinted =
        build::invite_record(&world.network, &world.admin, a.invite.invite_key(), START, Some(name("annas-laptop")));
    let void = build::void_record(&world.network, &world.admin, a.invite.invite_key());
    vec![
        world.log[0].record.clone(),
        world.invite_record(&a),
        hinted,
        void,
        world.member_record(&a, "laptop"),
        world.update_record(&a, 1, "desk"),
        world.revoke_record(&a),
        world.lease_record(),
    ]
}

#[test]
fn every_truncation_and_extension_is_noticed() {
    for record in records() {
        assert_eq!(SignedRecord::decode(&record).unwrap().encode(), record);
        for len in 0..record.len() {
            assert!(SignedRecord::decode(&record[..len]).is_err());
        }
        let long = [&record[..], &[0]].concat();
        assert_eq!(SignedRecord::decode(&long), Err(Malformed::Trailing(1)));
    }
    assert_eq!(SignedRecord::decode(&[1; MAX_RECORD_LEN + 1]), Err(Malformed::TooLong));
}

#[test]
fn signatures_stand_in_one_order_only() {
    let world = World::new();
    let record = world.member_record(&Machine::new(1), "laptop");
    let (body, block) = record.split_at(record.len() - 2 * 96);
    let (first, second) = block.split_at(96);
    assert_eq!(SignedRecord::decode(&[body, second, first].concat()), Err(Malformed::NotCanonical));
    assert_eq!(SignedRecord::decode(&[body, first, first].concat()), Err(Malformed::NotCanonical));
}

#[test]
fn genesis_lists_are_bounded_and_sorted() {
    let world = World::new();
    let signed = SignedRecord::decode(&world.log[0].record).unwrap();
    let Record::Genesis(good) = signed.record().clone() else { panic!("a genesis") };
    let mut two: Vec<_> = [Machine::new(1).id(), Machine::new(2).id()].into();
    two.sort();
    two.reverse();
    let try_it = |genesis: Genesis| build::genesis_record(genesis, &[&world.admin]).err();
    for bad in [
        Genesis { admins: two, ..good.clone() },
        Genesis { admins: vec![], ..good.clone() },
        Genesis { threshold: 0, ..good.clone() },
        Genesis { threshold: 2, ..good.clone() },
        Genesis { servers: vec![], ..good.clone() },
        Genesis { servers: vec![server(); 5], ..good.clone() },
        Genesis { servers: vec![server(); 2], ..good.clone() },
        Genesis { servers: vec![standby_server()], ..good.clone() },
        Genesis { admins: (0..9).map(|seed| Machine::new(seed).id()).collect(), ..good.clone() },
    ] {
        assert!(try_it(bad.clone()).is_some(), "{bad:?}");
    }
    assert_eq!(try_it(good), None);
}

#[test]
fn hostile_names_do_not_decode() {
    let world = World::new();
    let record = world.member_record(&Machine::new(1), "laptop");
    let at = record.windows(6).position(|window| window == b"laptop").unwrap();
    for bad in [b"lap\"op", b"lap\nop", b"lap\x1bop", b"lap\0op", b"-aptop", b"%aptop", b"l ptop", b"Laptop", b"xn--op"]
    {
        let mut record = record.clone();
        record[at..at + 6].copy_from_slice(bad);
        assert!(matches!(SignedRecord::decode(&record), Err(Malformed::Name(_))), "{bad:?}");
    }
}

#[test]
fn unknown_versions_and_types_are_told_apart() {
    let record = World::new().lease_record();
    let with = |index: usize, value: u8| {
        let mut record = record.clone();
        record[index] = value;
        SignedRecord::decode(&record)
    };
    assert_eq!(with(0, 2), Err(Malformed::Version(2)));
    assert_eq!(with(1, 0), Err(Malformed::UnknownType(0)));
    assert_eq!(with(1, 12), Err(Malformed::UnknownType(12)));
    let mut update = World::new().update_record(&Machine::new(1), 1, "desk");
    let rotation = update.len() - 96 - 2;
    update[rotation] = 3;
    assert_eq!(SignedRecord::decode(&update), Err(Malformed::Value(3, "key rotation")));
    assert_eq!(server_key().sequencer_key().to_bytes(), server().keys.signing);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_decodes_has_one_encoding(
        index in 0_usize..8,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        insert in any::<u8>(),
    ) {
        let mut bytes = records()[index].clone();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let at = cut.index(bytes.len());
        for variant in [bytes.clone(), { let mut b = bytes.clone(); b.insert(at, insert); b }, { let mut b = bytes; b.remove(at); b }] {
            if let Ok(signed) = SignedRecord::decode(&variant) {
                prop_assert_eq!(signed.encode(), variant);
            }
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(entry) = Entry::decode(&bytes) {
            prop_assert_eq!(entry.encode(), bytes.clone());
        }
        for number in 0..=12 {
            let _ = SignedRecord::decode(&[&[1, number], &bytes[..]].concat());
        }
    }
}
