//! What a network of 100,000 members costs one of them. Slow to set up: `cargo test --profile ci -p ginnel-node scale --
//! --ignored --nocapture`.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "figures are what this is for")]

use std::time::Duration;

use ginnel_membership::build::{self, Charter};
use ginnel_membership::{Capabilities, Invite, Name, Sequencer, SigningKey, TunnelKey};
use ginnel_signal_proto::server::Stored;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::world::{WALL, World, secs};
use crate::io::{Reply, Request, UpOutcome};

const MEMBERS: u32 = 100_000;

/// Seconds that this thread has had a processor, whatever else the machine does.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
    let nanos: f64 = text.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number");
    nanos / 1e9
}

fn resident_megabytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is there");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") / 1024
}

fn nth(number: u32, kind: u8) -> [u8; 32] {
    let mut seed = [kind; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    seed
}

/// A server that holds the log of so many members with a checkpoint and open invites, those invites, and the admin's key.
pub(super) fn crowd(world: &World, members: u32, invites: u8) -> (Stored, Vec<String>, SigningKey) {
    let server = world.server(0);
    let charter = Charter {
        name: Name::new("crowd").expect("a name"),
        sequencer: server.keys.sequencer(),
        servers: vec![server.clone()],
        ipv4_range: None,
        now: WALL,
    };
    let founded = build::found(&mut ChaCha20Rng::from_seed([1; 32]), charter).expect("a network");
    let (network, admin) = (founded.network, founded.admin);
    let key = world.hosts[0].key.clone();
    let (mut sequencer, genesis) = Sequencer::found(key, WALL, &founded.genesis).expect("a log");
    let mut log = vec![genesis.encode()];
    let mut append = |record: &[u8]| log.push(sequencer.append(WALL, record).expect("a good record").encode());
    for number in 0..members {
        let (invite, member) = (SigningKey::from_bytes(&nth(number, 1)), SigningKey::from_bytes(&nth(number, 2)));
        append(&build::invite_record(&network, &admin, invite.invite_key(), WALL + 86_400, None));
        let tunnel = ginnel_tunnel::StaticSecret::from_bytes(nth(number, 3)).public();
        let tunnel = TunnelKey::from_bytes(tunnel.to_bytes());
        let name = Name::new(&format!("m{number}")).expect("a name");
        append(&build::member_record(&network, &invite, &member, tunnel, name, Capabilities::BOTH_SUITES));
    }
    let open: Vec<SigningKey> = (0..invites).map(|number| SigningKey::from_bytes(&[77 + number; 32])).collect();
    for key in &open {
        append(&build::invite_record(&network, &admin, key.invite_key(), u64::MAX, None));
    }
    let checkpoint = sequencer.state().make_checkpoint().expect("it fits");
    let record = build::checkpoint_record(&network, &admin, checkpoint);
    log.push(sequencer.append(WALL, &record).expect("a good record").encode());
    let ticket =
        |key| Invite::new(std::slice::from_ref(&server), network, key, u64::MAX, None).expect("it fits").to_string();
    let tickets = open.into_iter().map(ticket).collect();
    let log = log.into_iter().map(Into::into).collect();
    let stored = Stored { logs: vec![(network, log)], ..Stored::default() };
    (stored, tickets, admin)
}

#[test]
#[ignore = "signs and checks half a million signatures"]
fn a_newcomer_joins_100_000_members_within_3_s() {
    let mut world = World::new(1, 1);
    let (stored, mut tickets, _) = crowd(&world, MEMBERS, 1);
    world.stop_host(0);
    world.hosts[0].disk = stored;
    let started = processor_seconds();
    world.start_host(0);
    println!("server resumed: {:.2} s of one processor", processor_seconds() - started);
    // A server that has just started orders nothing for a moment.
    world.pass(secs(10));
    let memory = resident_megabytes();
    let (began, started) = (world.now, processor_seconds());
    let up = world.ask(
        0,
        Request::Up {
            ticket: tickets.pop(),
            name: Some("newcomer".into()),
            network: None,
            shields: None,
            range: None,
            ipv4: None,
        },
    );
    assert!(matches!(up, Ok(Reply::Up(crate::io::UpReport { outcome: UpOutcome::Joined, .. }))), "{up:?}");
    let (worked, waited) = (processor_seconds() - started, world.now.saturating_duration_since(began));
    let bytes =
        world.machines[0].logs.first().and_then(|log| log.snapshot.as_ref()).map_or(0, |(snapshot, _)| snapshot.len());
    println!(
        "joined: {worked:.2} s of one processor for server and newcomer, {:.2} s on a wire of 20 ms round trip, {bytes} \
         bytes of snapshot, {} MB more memory",
        waited.as_secs_f64(),
        resident_megabytes().saturating_sub(memory)
    );
    assert!(worked + waited.as_secs_f64() < 3.0, "{worked} s of work and {waited:?} of waiting");
    assert!(bytes <= 20 << 20);
    let routes = world.machines[0].tun.routes.len();
    assert!(routes <= 2, "{routes} routes");
    assert!(world.machines[0].names.len() <= 129, "{} names", world.machines[0].names.len());

    // An idle hour costs nothing worth speaking of.
    let started = processor_seconds();
    world.pass(secs(3600));
    println!("an idle hour: {:.3} s of one processor", processor_seconds() - started);
    assert!(processor_seconds() - started < 1.0);
    // Nor does one more member.
    let started = processor_seconds();
    world.machines[0].node.as_mut().expect("it runs").handle_timeout(world.now);
    println!("one timeout: {:.1} us", (processor_seconds() - started) * 1e6);
    world.stop(0);
    let started = processor_seconds();
    world.start(0);
    println!("restarted from its snapshot: {:.2} s of one processor", processor_seconds() - started);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.status(0).peers.len(), MEMBERS as usize);
}
