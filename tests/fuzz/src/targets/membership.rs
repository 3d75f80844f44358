//! The membership log: records, entries, replay, and the strings that people paste.

use std::collections::BTreeSet;

use blake2::{Blake2s256, Digest as _};
use data_encoding::BASE64URL_NOPAD;
use ginnel_membership::build::{self, Charter, Founded};
use ginnel_membership::codec::is_address;
use ginnel_membership::entry::MAX_TIME;
use ginnel_membership::invite::{MAX_STRING_LEN, Token};
use ginnel_membership::record::{Checkpoint, MAX_ADMINS, MAX_RECORD_LEN};
use ginnel_membership::snapshot::state_hash;
use ginnel_membership::state::InviteStanding;
use ginnel_membership::{
    Applied, Change, Context, Entry, Founding, Invite, MemberKey, Name, NetworkId, Pasted, Proposal, Record, Sequencer,
    Server, ServerKeys, Signature, SignedRecord, SigningKey, State, TunnelKey,
};
use ginnel_tunnel::StaticSecret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

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

const START: u64 = 1_800_000_000;

fn server() -> Server {
    let keys = ServerKeys { signing: sequencer().sequencer_key().to_bytes(), noise: [9; 32] };
    Server { addresses: vec!["192.0.2.1:4433".to_owned()], keys }
}

fn sequencer() -> SigningKey {
    SigningKey::from_bytes(&[0x5e; 32])
}

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

/// A network, a sequencer that signs anything, and what is known of both.
struct World {
    genesis: Vec<u8>,
    network: NetworkId,
    admin: SigningKey,
    state: State,
    log: Vec<Entry>,
    now: u64,
    revoked: BTreeSet<MemberKey>,
}

impl World {
    fn new() -> Self {
        let servers = vec![server()];
        let name = Name::new("attic").expect("a name");
        let charter = Charter { name, sequencer: servers[0].keys.sequencer(), servers, ipv4_range: None, now: START };
        let Founded { genesis, network, admin } =
            build::found(&mut ChaCha20Rng::from_seed([1; 32]), charter).expect("a good charter");
        let (_, first) = Sequencer::found(sequencer(), START, &genesis).expect("a good genesis");
        let mut state = State::new(network);
        state.apply(&first).expect("the first entry");
        Self { genesis, network, admin, state, log: vec![first], now: START, revoked: BTreeSet::new() }
    }

    /// A record of any kind, with signatures by whoever the input says.
    fn record(&self, feed: &mut Feed<'_>) -> Vec<u8> {
        let kind = feed.u8() % 13;
        let choice: [u8; 4] = feed.array();
        let [a, b, ..] = choice;
        let admin = vec![self.admin.clone()];
        let (number, content, rightful) = match kind {
            1 => (1, self.invitation(choice), admin),
            2 => (2, invite(a).invite_key().as_bytes().to_vec(), admin),
            3 | 4 => (4, enrolment(choice), vec![invite(a), member(b)]),
            5 => (5, update(choice), updaters(choice)),
            6 => (6, member(a).member_key().as_bytes().to_vec(), admin),
            7 => (7, self.lease(choice), admin),
            8 => (8, self.admin_change(choice), admin),
            9 => match self.state.make_checkpoint() {
                // What the log means now, as an admin vouches for it.
                Some(checkpoint) => return build::checkpoint_record(&self.network, &self.admin, checkpoint),
                None => (9, Vec::new(), admin),
            },
            10 => (10, policy(choice), admin),
            11 => (9, servers(choice), admin),
            _ => (a % 16, feed.chunk().to_vec(), admin),
        };
        let signers = self.signers(feed.u8(), rightful);
        self.sign([&[1, number], &content[..]].concat(), signers)
    }

    fn invitation(&self, [a, b, c, _]: [u8; 4]) -> Vec<u8> {
        let mut content = invite(a).invite_key().as_bytes().to_vec();
        content.extend_from_slice(&(self.now + u64::from(c)).to_be_bytes());
        put_name(&mut content, b.checked_sub(1));
        content
    }

    fn lease(&self, [a, b, ..]: [u8; 4]) -> Vec<u8> {
        let (length, head) = self.state.head();
        let mut content = (length - u64::from(a % 2)).to_be_bytes().to_vec();
        content.extend_from_slice(&head);
        content.extend_from_slice(&(self.now + u64::from(b)).to_be_bytes());
        content
    }

    fn admin_change(&self, [a, b, c, d]: [u8; 4]) -> Vec<u8> {
        let mut admins = vec![self.admin.member_key(), member(b).member_key(), member(c).member_key()];
        admins.sort();
        admins.dedup();
        let mut content = u64::from(a % 3).to_be_bytes().to_vec();
        content.extend_from_slice(&[d % 3, admins.len() as u8]);
        admins.iter().for_each(|key| content.extend_from_slice(key.as_bytes()));
        content
    }

    /// Those who would rightly sign, or any others.
    fn signers(&self, chosen: u8, rightful: Vec<SigningKey>) -> Vec<SigningKey> {
        if chosen > 127 {
            return rightful;
        }
        let bits = (0..6).filter(|bit| chosen & (1 << bit) != 0);
        bits.map(|bit| if bit == 0 { self.admin.clone() } else { member(bit) }).collect()
    }

    fn sign(&self, mut record: Vec<u8>, mut signers: Vec<SigningKey>) -> Vec<u8> {
        let message = [self.network.as_bytes(), &record[..]].concat();
        signers.sort_by_key(SigningKey::member_key);
        signers.dedup_by_key(|key| key.member_key());
        record.push(signers.len() as u8);
        for signer in signers {
            record.extend_from_slice(signer.member_key().as_bytes());
            record.extend_from_slice(&signer.sign(Context::RECORD, &message).to_bytes());
        }
        record
    }

    fn entry(&self, record: Vec<u8>) -> Entry {
        let (sequence, previous) = self.state.head();
        let signature = Signature::from_bytes([0; 64]);
        sign(self.network, Entry { sequence, previous, time: self.now, record, signature })
    }

    /// Takes an entry, with what must hold before and after.
    fn take(&mut self, entry: Entry) {
        let (head, before) = (self.state.head(), describe(&self.state));
        let judged = self.state.judge(entry.time, &entry.record).is_ok();
        let open: Vec<_> =
            self.state.invites().filter(|i| i.standing == InviteStanding::Open).map(|i| (i.key, i.expires)).collect();
        match self.state.apply(&entry) {
            Err(_) => {
                assert_eq!((self.state.head(), describe(&self.state)), (head, before), "a refused entry left a trace");
                return;
            }
            Ok(Applied::Known) => panic!("the entry is new"),
            Ok(Applied::Skipped(_)) => {
                assert!(!judged, "a record was judged good and skipped");
                assert_eq!(describe(&self.state), before, "a skipped record left a trace");
            }
            Ok(Applied::Changed(change)) => {
                assert!(judged, "a record was judged bad and applied");
                let signed = SignedRecord::decode(&entry.record).expect("what means something decodes");
                assert!(signed.verify(&self.network).is_ok(), "an unsigned record was applied");
                if let Change::Joined(key) = change {
                    let Record::Member(body) = signed.record() else { panic!("joined by another record") };
                    assert!(signed.signers().any(|signer| *signer == body.member && *signer == key));
                    assert!(signed.signers().any(|signer| signer.as_bytes() == body.invite.as_bytes()));
                    let invited = open.iter().any(|(invite, expires)| *invite == body.invite && entry.time < *expires);
                    assert!(invited, "joined without an open invite");
                }
                if let Change::Revoked(key) = change {
                    self.revoked.insert(key);
                }
            }
        }
        assert_eq!(self.state.head().0, head.0 + 1);
        self.log.push(entry);
        self.check();
    }

    fn check(&self) {
        let state = &self.state;
        let live: Vec<_> = state.members().filter(|member| state.is_live(&member.key())).collect();
        let distinct = |values: Vec<String>| {
            let all = values.len();
            assert_eq!(values.into_iter().collect::<BTreeSet<_>>().len(), all, "two members share what is one's own");
        };
        distinct(live.iter().map(|member| member.name().to_string()).collect());
        distinct(live.iter().map(|member| format!("{:?}", member.tunnel_key())).collect());
        distinct(live.iter().filter_map(|member| member.ipv4()).map(|ip| ip.to_string()).collect());
        distinct(live.iter().map(|member| member.ipv6().to_string()).collect());
        assert!(live.iter().all(|member| !member.name().is_reserved()));
        assert!(state.admins().next().is_some(), "nobody is left to decide");
        for key in &self.revoked {
            assert!(!state.is_live(key), "a revoked member lives");
            assert!(state.peer(&self.admin.member_key(), key).is_none(), "a revoked member is a peer");
        }
    }
}

fn sign(network: NetworkId, mut entry: Entry) -> Entry {
    let bytes = entry.encode();
    let message = [network.as_bytes(), &bytes[..bytes.len() - 64]].concat();
    entry.signature = sequencer().sign(Context::ENTRY, &message);
    entry
}

/// What a state says, in words.
fn describe(state: &State) -> String {
    let members: Vec<_> = state
        .members()
        .map(|m| format!("{:?} {:?} {} {:?} {:?}", m.key(), m.tunnel_key(), m.name(), m.ipv4(), m.standing()))
        .collect();
    let invites: Vec<_> = state.invites().map(|invite| format!("{invite:?}")).collect();
    let admins: Vec<_> = state.admins().collect();
    format!("{members:?} {invites:?} {admins:?} {:?}", state.lease())
}

fn member(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number % 6 + 1; 32])
}

fn invite(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number % 6 + 100; 32])
}

fn tunnel(number: u8) -> TunnelKey {
    TunnelKey::from_bytes(StaticSecret::from_bytes([number % 6 + 50; 32]).public().to_bytes())
}

fn enrolment([a, b, c, d]: [u8; 4]) -> Vec<u8> {
    let mut content = invite(a).invite_key().as_bytes().to_vec();
    content.extend_from_slice(member(b).member_key().as_bytes());
    content.extend_from_slice(tunnel(c).as_bytes());
    put_name(&mut content, Some(d));
    content.extend_from_slice(&[0, 3]);
    content
}

fn update([a, b, c, d]: [u8; 4]) -> Vec<u8> {
    let rotation = d % 4;
    let mut content = member(a).member_key().as_bytes().to_vec();
    content.extend_from_slice(&u64::from(b).to_be_bytes());
    put_name(&mut content, Some(c));
    content.extend_from_slice(&[0, 1, rotation]);
    if rotation > 1 {
        content.extend_from_slice(member(b).member_key().as_bytes());
    }
    if rotation > 0 {
        content.extend_from_slice(tunnel(c).as_bytes());
    }
    content
}

/// Who signs an update: the member, and the key that takes its key's place.
fn updaters([a, b, _, d]: [u8; 4]) -> Vec<SigningKey> {
    if d % 4 > 1 { vec![member(a), member(b)] } else { vec![member(a)] }
}

fn policy([a, b, c, d]: [u8; 4]) -> Vec<u8> {
    let mut delegates = [member(b).member_key(), member(c).member_key()];
    delegates.sort();
    let mut content = u64::from(a % 4).to_be_bytes().to_vec();
    content.extend_from_slice(&[0, a / 128, 2]);
    for delegate in delegates {
        content.extend_from_slice(delegate.as_bytes());
        content.push(d % 4);
    }
    content
}

fn servers([a, b, ..]: [u8; 4]) -> Vec<u8> {
    let mut content = u64::from(a % 4).to_be_bytes().to_vec();
    content.extend_from_slice(sequencer().sequencer_key().as_bytes());
    content.extend_from_slice(&[1, 1, 11]);
    content.extend_from_slice(b"192.0.2.1:9");
    content.extend_from_slice(sequencer().sequencer_key().as_bytes());
    content.extend_from_slice(&[b; 32]);
    content
}

fn put_name(body: &mut Vec<u8>, number: Option<u8>) {
    let names = ["laptop", "nas", "router", "laptop-2", "localhost", "phone"];
    let name = number.map_or("", |number| names[usize::from(number) % names.len()]);
    body.push(name.len() as u8);
    body.extend_from_slice(name.as_bytes());
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
