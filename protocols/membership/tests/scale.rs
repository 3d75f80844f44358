//! What a network of 100,000 members costs. Slow to set up: `cargo test --profile ci -p ginnel-membership --test scale --
//! --ignored --nocapture`.
#![allow(clippy::unwrap_used, reason = "tests panic on failure")]
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "figures are what this is for")]

use std::time::{Duration, Instant};

use ginnel_membership::build::{self, Charter, Founded};
use ginnel_membership::keys::{Server, ServerKeys, SigningKey, TunnelKey};
use ginnel_membership::{Capabilities, Entry, Name, Sequencer, State};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;

const MEMBERS: u32 = 100_000;
const START: u64 = 1_800_000_000;

/// A log of 100,000 truly signed joins; `names` says what each wishes to be called.
fn network(names: impl Fn(u32) -> String) -> (SigningKey, Sequencer, Vec<Entry>) {
    let server = SigningKey::from_bytes(&[0x5e; 32]);
    let keys = ServerKeys { signing: server.sequencer_key().to_bytes(), noise: [9; 32] };
    let charter = Charter {
        name: Name::new("attic").unwrap(),
        sequencer: keys.sequencer(),
        servers: vec![Server { addresses: vec!["192.0.2.1:4433".to_owned()], keys }],
        ipv4_range: None,
        now: START,
    };
    let Founded { genesis, network, admin } = build::found(&mut ChaCha20Rng::from_seed([1; 32]), charter).unwrap();
    let (mut sequencer, entry) = Sequencer::found(server.clone(), START, &genesis).unwrap();
    let mut log = vec![entry];
    for number in 0..MEMBERS {
        let seed = |kind: u8| {
            let mut seed = [kind; 32];
            seed[..4].copy_from_slice(&number.to_be_bytes());
            seed
        };
        let (invite, member) = (SigningKey::from_bytes(&seed(1)), SigningKey::from_bytes(&seed(2)));
        let tunnel = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(seed(3)));
        let tunnel = TunnelKey::from_bytes(tunnel.to_bytes());
        let name = Name::new(&names(number)).unwrap();
        let record = build::invite_record(&network, &admin, invite.invite_key(), START + 86_400, None);
        log.push(sequencer.append(START, &record).unwrap());
        let record = build::member_record(&network, &invite, &member, tunnel, name, Capabilities::BOTH_SUITES);
        log.push(sequencer.append(START, &record).unwrap());
    }
    let checkpoint = sequencer.state().make_checkpoint().unwrap();
    let record = build::checkpoint_record(&network, &admin, checkpoint);
    log.push(sequencer.append(START, &record).unwrap());
    (server, sequencer, log)
}

/// Time that this thread has had a processor, so that a busy machine does not fail the test; passed time where Linux does
/// not tell.
fn worked(since: Instant) -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    nanos.map_or_else(|| since.elapsed(), Duration::from_nanos)
}

fn measure<T>(what: &str, limit: Duration, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let before = worked(start);
    let result = work();
    let took = worked(start).saturating_sub(before);
    println!("{what}: {:.0} ms", took.as_secs_f64() * 1e3);
    assert!(took < limit, "{what} took {took:?}, more than {limit:?}");
    result
}

#[test]
#[ignore = "signs and checks half a million signatures"]
fn hundred_thousand_members() {
    let (server, sequencer, log) = network(|number| format!("laptop-of-{number}"));
    let whole = sequencer.state();
    let second = Duration::from_secs(1);

    let snapshot = measure("snapshot", second, || whole.checkpoint_snapshot().unwrap().to_vec());
    let fresh = measure("snapshot written", second, || whole.snapshot());
    assert!(fresh.len() > snapshot.len());
    let each = snapshot.len() / MEMBERS as usize;
    println!("snapshot: {} bytes, {each} per member", snapshot.len());
    assert!(snapshot.len() <= 20 << 20);

    let entry = log.last().unwrap();
    let state =
        measure("from_checkpoint", second, || State::from_checkpoint(whole.network(), &snapshot, entry).unwrap());
    assert_eq!(state.snapshot(), fresh);

    let bytes: Vec<Vec<u8>> = log.iter().map(Entry::encode).collect();
    println!("log: {} entries, {} bytes", log.len(), bytes.iter().map(Vec::len).sum::<usize>());
    let resumed = measure("trusting resume of 200,002 entries", 3 * second, || {
        Sequencer::resume(server, whole.network(), &log).unwrap()
    });
    assert_eq!(resumed.state(), whole);

    let me = whole.members().next().unwrap().key();
    let peers = measure("all peers", second, || state.peers(&me));
    assert_eq!(peers.len(), MEMBERS as usize - 1);
    measure("each peer by its key", second, || {
        for peer in &peers {
            assert!(state.peer(&me, &peer.member()).is_some());
        }
    });
    let without = peers.iter().filter(|peer| peer.ipv4().is_none()).count();
    println!("members without an IPv4 address: {without}");
}

#[test]
#[ignore = "signs and checks half a million signatures"]
fn hundred_thousand_members_of_one_name() {
    let (_, sequencer, log) = network(|_| "node".to_owned());
    let snapshot = sequencer.state().checkpoint_snapshot().unwrap();
    println!("snapshot: {} bytes", snapshot.len());
    assert!(snapshot.len() <= 20 << 20);
    let entry = log.last().unwrap();
    let second = Duration::from_secs(1);
    measure("from_checkpoint", second, || {
        State::from_checkpoint(sequencer.state().network(), snapshot, entry).unwrap()
    });
}
