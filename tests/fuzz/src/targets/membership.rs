//! The membership log: records, entries, replay, and the strings that people paste.

mod world;

use std::collections::BTreeSet;

use blake2::{Blake2s256, Digest as _};
use data_encoding::BASE64URL_NOPAD;
use ginnel_membership::build;
use ginnel_membership::codec::is_address;
use ginnel_membership::entry::MAX_TIME;
use ginnel_membership::invite::{MAX_STRING_LEN, Token};
use ginnel_membership::record::{Checkpoint, MAX_ADMINS, MAX_RECORD_LEN};
use ginnel_membership::snapshot::state_hash;
use ginnel_membership::{
    Applied, Entry, Founding, Invite, Name, NetworkId, Pasted, Proposal, Signature, SignedRecord, SigningKey, State,
};

use self::world::{World, describe, server, sign};
use crate::feed::{Feed, Script};
use crate::{Effort, Target};

/// Any bytes as a record.
pub(crate) const RECORD: Target = Target {
    name: "record",
    covers: "records of the membership log",
    run: record,
    seeds: || {
        let world = World::new();
        let mut seeds = vec![world.genesis.clone()];
        for kind in 0..8 {
            let script = Script::default().bytes(&[kind, 1, 2, 3, 4, 5, 6, 255, 0]).done();
            seeds.push(world.record(&mut Feed::new(&script)));
        }
        seeds
    },
    longest: MAX_RECORD_LEN + 8,
    effort: Effort::Small,
};

/// Snapshots: true ones, which must lead to the same state, and any bytes that an admin vouches for.
pub(crate) const SNAPSHOT: Target = Target {
    name: "snapshot",
    covers: "snapshots of the membership log, and where a newcomer starts",
    run: snapshot,
    seeds: || {
        let join = |n: u8| [[1, n, 0, 200, 255, 0], [3, n, n, n, n, 255]].concat();
        let mut world = World::new();
        let mut seeds = vec![[&[0, 2, 12][..], &join(1), &join(2), &[3]].concat(), vec![0, 0, 1, 0]];
        for n in 1..4 {
            for record in join(n).chunks(6) {
                let record = world.record(&mut Feed::new(record));
                let entry = world.entry(record);
                world.take(entry);
            }
            seeds.push([&[1][..], &world.state.snapshot()].concat());
        }
        let rotate = Script::default().bytes(&join(1)).bytes(&[5, 1, 2, 3, 2, 255, 0, 8, 1, 2, 3, 1, 255, 0]).done();
        seeds.push([&[0, 4, 30][..], &rotate].concat());
        seeds
    },
    longest: 2000,
    effort: Effort::Great,
};

/// Any bytes as an entry.
pub(crate) const ENTRY: Target = Target {
    name: "entry",
    covers: "entries of the membership log",
    run: entry,
    seeds: || vec![World::new().log[0].encode()],
    longest: 2600,
    effort: Effort::Small,
};

/// Strings as people paste them, with and without a right checksum.
pub(crate) const STRINGS: Target = Target {
    name: "paste",
    covers: "invites, founding strings and proposals",
    run: strings,
    seeds: || {
        let network = NetworkId::from_bytes([3; 32]);
        let hint = Name::new("laptop").ok();
        let invite = Invite::new(&[server()], network, SigningKey::from_bytes(&[4; 32]), 9, hint).expect("it fits");
        let founding = Founding::new(server(), Token::from_bytes([5; 16])).expect("it fits");
        let world = World::new();
        let record = world.record(&mut Feed::new(&[6, 1, 0, 0, 0, 255]));
        let proposal = Proposal::new(world.network, &record).expect("a revocation may be proposed");
        let texts = [invite.to_string(), founding.to_string(), proposal.to_string()];
        let mut seeds: Vec<Vec<u8>> = texts.iter().map(|text| [&[0], text.as_bytes()].concat()).collect();
        for (kind, text) in texts.iter().enumerate() {
            let (_, frame) = text.rsplit_once("-").unwrap_or_default();
            if let Ok(frame) = BASE64URL_NOPAD.decode(frame.as_bytes()) {
                let payload = frame.get(3..frame.len() - 4).unwrap_or_default();
                seeds.push([&[kind as u8 + 1], payload].concat());
            }
        }
        seeds
    },
    longest: 3000,
    effort: Effort::Small,
};

/// Names and server addresses.
pub(crate) const NAME: Target = Target {
    name: "name",
    covers: "names of machines and networks, addresses of servers",
    run: name,
    seeds: || {
        [
            "laptop",
            "a--b",
            "xn--a",
            "0x7f",
            "192.0.2.1:7",
            "[::1]:9",
            "host.example:443",
            "-x",
            "a\nb",
            "localhost",
            "1e3",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    },
    longest: 200,
    effort: Effort::Small,
};

/// Replay of logs that a dishonest sequencer could write.
pub(crate) const LOG: Target = Target {
    name: "log",
    covers: "replay of the membership log",
    run: log,
    seeds: || {
        let join = |n: u8| [[1, n, 0, 200, 255, 0], [3, n, n, n, n, 255]].concat();
        let all = [255, 0];
        let mut seeds = vec![[join(1), join(2), join(3)].concat()];
        for kind in 0..12 {
            let script = Script::default().bytes(&join(1)).bytes(&join(2)).bytes(&[kind, 1, 1, 2, 1]).bytes(&all);
            seeds.push(script.bytes(&join(3)).done());
        }
        seeds
    },
    longest: 600,
    effort: Effort::Great,
};

fn record(bytes: &[u8]) {
    let network = NetworkId::from_bytes([3; 32]);
    let Ok(signed) = SignedRecord::decode(bytes) else { return };
    assert!(bytes.len() <= MAX_RECORD_LEN);
    assert_eq!(signed.encode(), bytes, "a record has two encodings");
    assert!(signed.signers().len() <= MAX_ADMINS);
    let keys: Vec<_> = signed.signers().collect();
    assert!(keys.is_sorted_by(|a, b| a < b));
    let _ = signed.verify(&network);
    if let Ok(genesis) = ginnel_membership::record::check_genesis(bytes, None) {
        assert!(signed.verify(&ginnel_membership::record::network_id(bytes)).is_ok());
        assert!(signed.signers().len() >= usize::from(genesis.threshold));
    }
}

fn entry(bytes: &[u8]) {
    let Ok(entry) = Entry::decode(bytes) else { return };
    assert_eq!(entry.encode(), bytes, "an entry has two encodings");
    assert!(entry.record.len() <= MAX_RECORD_LEN);
    let mut state = State::new(NetworkId::from_bytes([3; 32]));
    assert!(state.apply(&entry).is_err(), "an entry of no network was taken");
    assert_eq!(state.head().0, 0);
}

fn strings(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let text = match kind % 4 {
        0 => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => return,
        },
        1 => framed("ginnel-invite-", bytes),
        2 => framed("ginnel-found-", bytes),
        _ => framed("ginnel-sign-", bytes),
    };
    let squeezed: String = text.chars().filter(|character| !character.is_whitespace()).collect();
    if let Ok(proposal) = text.parse::<Proposal>() {
        assert_eq!(proposal.to_string(), squeezed, "a proposal has two spellings");
        assert!(text.parse::<Pasted>().is_err());
        assert!(proposal.missing(&World::new().state) <= 1, "a network with one admin wants more");
    }
    let Ok(pasted) = text.parse::<Pasted>() else { return };
    let again = match &pasted {
        Pasted::Invite(invite) => {
            assert!(text.parse::<Founding>().is_err());
            invite.to_string()
        }
        Pasted::Founding(founding) => {
            assert!(text.parse::<Invite>().is_err());
            founding.to_string()
        }
    };
    assert_eq!(again, squeezed, "a string has two spellings");
    assert!(again.len() <= MAX_STRING_LEN);
}

/// A string whose checksum is right, whatever it holds.
fn framed(prefix: &str, payload: &[u8]) -> String {
    let mut frame = vec![1];
    frame.extend_from_slice(&u16::try_from(payload.len() + 7).unwrap_or(u16::MAX).to_be_bytes());
    frame.extend_from_slice(payload);
    let label = [&[prefix.len() as u8], prefix.as_bytes()].concat();
    let sum = Blake2s256::new().chain_update(label).chain_update(&frame).finalize();
    frame.extend_from_slice(&sum[..4]);
    format!("{prefix}{}", BASE64URL_NOPAD.encode(&frame))
}

fn name(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(name) = Name::new(&text) {
        let shown = name.as_str();
        assert_eq!(shown, text);
        assert!((1..=63).contains(&shown.len()) && !shown.starts_with('-') && !shown.ends_with('-'));
        assert!(shown.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(!digits(shown) && !shown.strip_prefix("0x").is_some_and(hex), "{shown} is a number to some");
        assert!(!shown.starts_with("xn--"));
    }
    let made = Name::from_hostname(&text);
    assert_eq!(Name::new(made.as_str()), Ok(made.clone()), "{text:?} gave a name that is none");
    assert!(!made.is_reserved());
    if is_address(&text) {
        assert!(text.len() <= 128 && text.bytes().all(|byte| byte.is_ascii_graphic()));
        let (_, port) = text.rsplit_once(':').expect("an address has a port");
        assert!(port.parse::<u16>().is_ok_and(|port| port > 0));
    }
}

/// A log of some records, its snapshot, and what a newcomer makes of that.
fn snapshot(data: &[u8]) {
    let mut feed = Feed::new(data);
    let mut world = World::new();
    if feed.flag() {
        return vouched(&world, feed.rest());
    }
    let (damage, place, bit) = (feed.u8() % 4, feed.u16(), feed.u8() % 8);
    for _ in 0..12 {
        if feed.is_empty() {
            break;
        }
        let record = world.record(&mut feed);
        feed.u8();
        let entry = world.entry(record);
        world.take(entry);
    }
    let Some(checkpoint) = world.state.make_checkpoint() else { return };
    let snapshot = world.state.snapshot();
    let record = build::checkpoint_record(&world.network, &world.admin, checkpoint);
    let entry = world.entry(record);
    if damage > 0 {
        let mut damaged = snapshot.clone();
        let place = usize::from(place) % damaged.len();
        damaged[place] ^= 1 << bit;
        assert!(
            State::from_checkpoint(world.network, &damaged, &entry).is_err(),
            "a changed byte {place} was not noticed"
        );
    }
    // Where others became admins the old one's word is not enough.
    let is_enough = world.state.threshold() == 1 && world.state.is_admin(&world.admin.member_key());
    match State::from_checkpoint(world.network, &snapshot, &entry) {
        Ok(mut newcomer) => {
            assert!(is_enough);
            world.state.apply(&entry).expect("the entry continues the log");
            assert_eq!(describe(&newcomer), describe(&world.state), "a newcomer sees another network");
            assert_eq!(newcomer.head(), world.state.head());
            assert_eq!(newcomer.snapshot(), world.state.snapshot());
            let next = world.entry(build::invite_record(
                &world.network,
                &world.admin,
                SigningKey::from_bytes(&[0xF0; 32]).invite_key(),
                world.now + 9,
                None,
            ));
            assert_eq!(newcomer.apply(&next).is_ok(), world.state.apply(&next).is_ok());
            assert_eq!(describe(&newcomer), describe(&world.state));
        }
        Err(error) => assert!(!is_enough, "a true snapshot was refused: {error}"),
    }
}

/// Bytes of any kind under a checkpoint that an admin and the sequencer signed.
fn vouched(world: &World, bytes: &[u8]) {
    let (sequence, previous) = world.state.head();
    for (length, head) in [(sequence, previous), (place_of(bytes), head_of(bytes))] {
        let checkpoint = Checkpoint {
            length,
            head,
            state_hash: state_hash(bytes),
            state_length: u32::try_from(bytes.len()).expect("inputs are short"),
        };
        let record = build::checkpoint_record(&world.network, &world.admin, checkpoint);
        let signature = Signature::from_bytes([0; 64]);
        let entry = sign(world.network, Entry { sequence: length, previous: head, time: MAX_TIME, record, signature });
        if let Ok(state) = State::from_checkpoint(world.network, bytes, &entry) {
            assert!(state.admins().next().is_some());
            let live: Vec<_> = state.members().filter(|member| state.is_live(&member.key())).collect();
            let names: BTreeSet<_> = live.iter().map(|member| member.name()).collect();
            assert_eq!(names.len(), live.len(), "two members of one name");
        }
    }
}

/// What a snapshot says about where it stands, if it is one: after its version byte and the genesis.
fn after_genesis(bytes: &[u8]) -> &[u8] {
    let length = bytes.get(1..).and_then(|rest| rest.first_chunk()).map_or(0, |length| u16::from_be_bytes(*length));
    bytes.get(3 + usize::from(length)..).unwrap_or_default()
}

fn place_of(bytes: &[u8]) -> u64 {
    after_genesis(bytes).first_chunk().map_or(0, |place| u64::from_be_bytes(*place))
}

fn head_of(bytes: &[u8]) -> [u8; 32] {
    after_genesis(bytes).get(8..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default()
}

fn log(data: &[u8]) {
    let mut feed = Feed::new(data);
    let mut world = World::new();
    for _ in 0..24 {
        if feed.is_empty() {
            break;
        }
        let record = world.record(&mut feed);
        let how = feed.u8();
        if how & 0x40 != 0 {
            world.now += u64::from(how & 0x3f);
        }
        let record = if how & 0x80 != 0 { feed.spoil(record) } else { record };
        let entry = world.entry(record);
        if how & 0xc0 == 0xc0 {
            // The same entry, damaged: refused, or not damaged at all.
            let damaged = feed.spoil(entry.encode());
            if let Ok(other) = Entry::decode(&damaged)
                && other != entry
            {
                let head = world.state.head();
                assert!(world.state.apply(&other).is_err(), "a forged entry was taken");
                assert_eq!(world.state.head(), head);
            }
        }
        world.take(entry);
    }
    let mut again = State::new(world.network);
    for entry in &world.log {
        again.apply(entry).expect("a log that was taken once is taken again");
    }
    assert_eq!(describe(&again), describe(&world.state), "two replays differ");
    assert_eq!(again.head(), world.state.head());
    let first = world.log[0].clone();
    assert_eq!(again.apply(&first), Ok(Applied::Known));
    assert!(!world.genesis.is_empty());
}
