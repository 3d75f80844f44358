//! Networks of many members.

use std::time::Duration;

use ginnel_membership::build;
use ginnel_membership::sequencer::Trust;
use ginnel_membership::{Entry, InviteKey, Sequencer, SigningKey, State};
use ginnel_time::Instant;

use super::world::{UNIX, World, charter, config, config_of, key, limits};
use crate::client::Credentials;
use crate::message::{ClientMessage, ServerMessage, Standing};
use crate::server::{Server, Stored};

fn nth(n: u32, salt: u8) -> SigningKey {
    let mut seed = [salt; 32];
    seed[..4].copy_from_slice(&n.to_be_bytes());
    SigningKey::from_bytes(&seed)
}

/// A log with `members` members, an invite each, and a checkpoint at the end.
fn log_of(members: u32) -> (build::Founded, Vec<Vec<u8>>) {
    let founded = charter(1);
    let (mut sequencer, genesis) = Sequencer::found(config(limits()).sequencer, UNIX, &founded.genesis).unwrap();
    let mut log = vec![genesis.encode()];
    let network = founded.network;
    for n in 0..members {
        let (invite, member) = (nth(n, 1), nth(n, 2));
        let key: InviteKey = invite.invite_key();
        let record = build::invite_record(&network, &founded.admin, key, UNIX + 3600, None);
        log.push(sequencer.append(UNIX, &record).unwrap().encode());
        let mut tunnel_key = [3; 32];
        tunnel_key[..4].copy_from_slice(&(n + 1).to_be_bytes());
        let tunnel_key = ginnel_membership::TunnelKey::from_bytes(tunnel_key);
        let name = ginnel_membership::Name::new(&format!("node{n}")).unwrap();
        let suites = ginnel_membership::Capabilities::BOTH_SUITES;
        let record = build::member_record(&network, &invite, &member, tunnel_key, name, suites);
        log.push(sequencer.append(UNIX, &record).unwrap().encode());
    }
    let checkpoint = sequencer.state().make_checkpoint().unwrap();
    let record = build::checkpoint_record(&network, &founded.admin, checkpoint);
    log.push(sequencer.append(UNIX, &record).unwrap().encode());
    (founded, log)
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

/// Time that this thread has had a processor, whatever else the machine does.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn serve(members: u32) {
    let (founded, log) = log_of(members);
    let bytes: usize = log.iter().map(Vec::len).sum();
    let stored =
        Stored { logs: vec![(founded.network, log.iter().cloned().map(Into::into).collect())], ..Stored::default() };
    let before = resident();
    let start = processor_seconds();
    let server = Server::new([1; 32], config(limits()), stored.clone(), Instant::ZERO, UNIX).unwrap();
    let (took, memory) = (processor_seconds() - start, resident().saturating_sub(before));
    println!(
        "{members} members: {} entries of {bytes} bytes, resumed in {took:.2} s of one processor, {memory} kB more",
        log.len()
    );
    let entries = f64::from(u32::try_from(log.len()).unwrap());
    assert!(took < 0.5 + entries * 60e-6, "{took} s for {entries} entries: are signatures looked at again?");
    drop(server);
    let mut trusted = stored.clone();
    for entry in trusted.logs.iter_mut().flat_map(|(_, log)| log) {
        entry.trust = Trust::Effective;
    }
    for (what, stored) in [("of which nothing is known", stored.clone()), ("that it has judged before", trusted)] {
        let start = processor_seconds();
        let mirror = Server::new([1; 32], config_of(1, limits()), stored, Instant::ZERO, UNIX).unwrap();
        let took = processor_seconds() - start;
        println!("a mirror resumes a log {what} in {took:.2} s");
        assert_eq!(mirror.status().mirrored, 1);
        if what == "that it has judged before" {
            assert!(took < 0.5 + entries * 60e-6, "{took} s for {entries} entries: are signatures looked at again?");
        }
    }

    let mut world = World::with(limits(), stored);
    let conn = world.connect(founded.network, Credentials::Member { key: nth(members - 1, 2) });
    let ServerMessage::Welcome(welcome) = world.take(conn, 1).remove(0) else { panic!("no welcome") };
    assert_eq!((welcome.standing, welcome.checkpoint), (Standing::Member, Some(log.len() as u64 - 1)));
    let mut state = Vec::new();
    let last = loop {
        world.send(conn, ClientMessage::FetchSnapshot { offset: state.len() as u64 });
        let ServerMessage::Snapshot { entry, total, offset, bytes } = world.take(conn, 1).remove(0) else {
            panic!("no piece")
        };
        assert_eq!(offset, state.len() as u64);
        state.extend(bytes);
        if state.len() as u64 == total {
            break entry;
        }
    };
    assert!(state.len() < 200 * usize::try_from(members).unwrap() + 2000, "{} bytes of state", state.len());
    let entry = Entry::decode(&last).unwrap();
    let newcomer = State::from_checkpoint(founded.network, &state, &entry).unwrap();
    assert_eq!(newcomer.members().count(), usize::try_from(members).unwrap());
    assert_eq!(newcomer.head().0, log.len() as u64);
    world.advance(Duration::from_secs(1));
    let record = build::invite_record(&founded.network, &founded.admin, key(9).invite_key(), UNIX + 3600, None);
    let admin = world.connect(founded.network, Credentials::Member { key: founded.admin });
    world.send(admin, ClientMessage::Append { record });
    assert_eq!(world.take(admin, 3)[1], ServerMessage::Appended { sequence: log.len() as u64 });
}

#[test]
fn thousands_of_members_start_from_the_log_and_newcomers_from_its_checkpoint() {
    serve(2000);
}

/// Prints the figures of the largest network that the limits are made for.
#[test]
#[ignore = "takes a minute; run it by its name to see the figures"]
fn hundred_thousand_members_are_served() {
    serve(100_000);
}
