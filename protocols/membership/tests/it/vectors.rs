//! Golden vectors: what is in `vectors.txt` is what other versions of this program read and write.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use ginnel_membership::addressing::{Ipv4Range, ipv4_probes, ipv6_prefix, ula};
use ginnel_membership::{Entry, SignedRecord, build};

use crate::strings::{founding, invite};
use crate::world::{DAY, Machine, START, World, name};

const VECTORS: &str = include_str!("vectors.txt");

#[test]
fn formats_are_what_they_were() {
    let made = make();
    let differing: Vec<_> = made.lines().zip(VECTORS.lines()).filter(|(made, golden)| made != golden).collect();
    assert!(made == VECTORS, "first difference: {:?}\nall of them as made:\n{made}", differing.first());
}

#[test]
fn golden_bytes_decode() {
    for line in VECTORS.lines() {
        let (what, value) = line.split_once(' ').unwrap();
        if let Some(record) = what.strip_prefix("record-") {
            let bytes = HEXLOWER.decode(value.as_bytes()).unwrap();
            assert_eq!(SignedRecord::decode(&bytes).unwrap().encode(), bytes, "{record}");
        } else if what.starts_with("entry-") && what != "entry-hash" {
            let bytes = HEXLOWER.decode(value.as_bytes()).unwrap();
            assert_eq!(Entry::decode(&bytes).unwrap().encode(), bytes);
        }
    }
}

/// Everything this crate writes, in one text: a name and a value on each line.
fn make() -> String {
    let mut world = World::new();
    let a = Machine::new(1);
    let hinted = build::invite_record(
        &world.network,
        &world.admin,
        a.invite.invite_key(),
        START + DAY,
        Some(name("annas-laptop")),
    );
    let invited = world.append(&hinted).unwrap();
    let member = world.member_record(&a, "laptop");
    world.append(&member).unwrap();
    let void = build::void_record(&world.network, &world.admin, a.invite.invite_key());

    let mut text = String::new();
    let mut line = |what: &str, value: String| writeln!(text, "{what} {value}").unwrap();
    line("network", world.network.to_string());
    line("record-genesis", HEXLOWER.encode(&world.log[0].record));
    line("record-invite", HEXLOWER.encode(&hinted));
    line("record-invite-void", HEXLOWER.encode(&void));
    line("record-member", HEXLOWER.encode(&member));
    line("record-member-update", HEXLOWER.encode(&world.update_record(&a, 7, "desk")));
    line("record-revoke", HEXLOWER.encode(&world.revoke_record(&a)));
    line("record-lease", HEXLOWER.encode(&world.lease_record()));
    line("entry-0", HEXLOWER.encode(&world.log[0].encode()));
    line("entry-1", HEXLOWER.encode(&invited.encode()));
    line("entry-hash", HEXLOWER.encode(&invited.hash()));
    line("ipv6-prefix", ipv6_prefix(&world.network).to_string());
    line("ipv6", ula(&world.network, &a.id()).to_string());
    let probes: Vec<_> =
        ipv4_probes(Ipv4Range::of(&world.network), &world.network, &a.id()).take(3).map(|ip| ip.to_string()).collect();
    line("ipv4-probes", probes.join(","));
    line("invite", invite().to_string());
    line("founding", founding().to_string());
    text
}
