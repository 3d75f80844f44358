//! Golden vectors: what is in `vectors.txt` is what other versions of this program read and write.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use ginnel_membership::addressing::{Ipv4Range, ipv4_probes, ipv6_prefix, ula};
use ginnel_membership::build::NewKeys;
use ginnel_membership::record::{Freshness, Rights};
use ginnel_membership::snapshot::state_hash;
use ginnel_membership::{Capabilities, Entry, Proposal, SignedRecord, State, build};

use crate::strings::{founding, invite};
use crate::world::{DAY, Machine, START, World, name, standby_key};

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

#[test]
fn golden_snapshot_is_taken_up() {
    let value = |wanted: &str| {
        let lines = VECTORS.lines().filter_map(|line| line.split_once(' '));
        let (_, value) = lines.into_iter().find(|(what, _)| *what == wanted).unwrap();
        value
    };
    let bytes = |what: &str| HEXLOWER.decode(value(what).as_bytes()).unwrap();
    let entry = Entry::decode(&bytes("checkpoint-entry")).unwrap();
    let state = State::from_checkpoint(value("network").parse().unwrap(), &bytes("snapshot"), &entry).unwrap();
    assert_eq!(state.members().count(), 2);
    let proposal: Proposal = value("proposal").parse().unwrap();
    assert_eq!(proposal.encode(), bytes("record-invite"));
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
    for (what, record) in governing(&world) {
        line(what, HEXLOWER.encode(&record));
    }
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
    line("proposal", Proposal::new(world.network, &hinted).unwrap().to_string());
    let (snapshot, checkpoint) = checkpointed();
    line("snapshot", HEXLOWER.encode(&snapshot));
    line("snapshot-hash", HEXLOWER.encode(&state_hash(&snapshot)));
    line("checkpoint-entry", HEXLOWER.encode(&checkpoint.encode()));
    text
}

/// Records by which admins govern and members change keys.
fn governing(world: &World) -> [(&'static str, Vec<u8>); 6] {
    let (a, b, admin) = (Machine::new(1), Machine::new(2), &world.admin);
    let keys = NewKeys::Tunnel(b.tunnel);
    let tunnel = build::update_record(&world.network, &a.key, 7, name("desk"), Capabilities::BOTH_SUITES, keys);
    [
        ("record-member-update-tunnel-key", tunnel),
        ("record-member-update-both-keys", world.rotation_record(&a, 7, "desk", &b)),
        ("record-admin-change", world.admin_change_record(&[admin], 2, &[admin.member_key(), b.id()])),
        ("record-servers", world.servers_record(&standby_key())),
        (
            "record-policy",
            world.policy_record(&[admin], Freshness::Strict, &[(a.id(), Rights::LEASE), (b.id(), Rights::ALL)]),
        ),
        ("record-checkpoint", world.checkpoint_record()),
    ]
}

/// A small network in which every list of a snapshot has something in it.
fn checkpointed() -> (Vec<u8>, Entry) {
    let mut world = World::new();
    let [a, b, c, d] = [1, 2, 3, 4].map(Machine::new);
    for machine in [&a, &b] {
        world.join(machine, "laptop").unwrap();
    }
    world.invite(&d);
    let admin = world.admin.clone();
    for record in [
        world.admin_change_record(&[&admin], 1, &[admin.member_key(), a.id()]),
        world.rotation_record(&a, 1, "laptop", &c),
        world.policy_record(&[&admin], Freshness::Strict, &[(c.id(), Rights::INVITE)]),
        world.update_record(&b, 1, "desk"),
        world.rotation_record(&b, 2, "desk", &Machine::new(6)),
    ] {
        world.append(&record).unwrap();
    }
    for record in [
        world.admin_change_record(&[&admin], 1, &[admin.member_key(), c.id(), Machine::new(6).id()]),
        world.revoke_record(&b),
        world.revoke_record(&Machine::new(5)),
        world.lease_record(),
    ] {
        world.append(&record).unwrap();
    }
    let first = world.checkpoint_record();
    world.append(&first).unwrap();
    let snapshot = world.state().snapshot();
    let record = world.checkpoint_record();
    let entry = world.append(&record).unwrap();
    (snapshot, entry)
}
