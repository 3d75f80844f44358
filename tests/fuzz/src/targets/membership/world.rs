//! A network whose sequencer signs anything, and records of all kinds for its log.

use std::collections::BTreeSet;

use ginnel_membership::build::{self, Charter, Founded};
use ginnel_membership::state::InviteStanding;
use ginnel_membership::{
    Applied, Change, Context, Entry, MemberKey, Name, NetworkId, Record, Sequencer, Server, ServerKeys, Signature,
    SignedRecord, SigningKey, State, TunnelKey,
};
use ginnel_tunnel::StaticSecret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use crate::feed::Feed;

/// A network, a sequencer that signs anything, and what is known of both.
pub(super) struct World {
    pub(super) genesis: Vec<u8>,
    pub(super) network: NetworkId,
    pub(super) admin: SigningKey,
    pub(super) state: State,
    pub(super) log: Vec<Entry>,
    pub(super) now: u64,
    revoked: BTreeSet<MemberKey>,
}

impl World {
    pub(super) fn new() -> Self {
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
    pub(super) fn record(&self, feed: &mut Feed<'_>) -> Vec<u8> {
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

    pub(super) fn entry(&self, record: Vec<u8>) -> Entry {
        let (sequence, previous) = self.state.head();
        let signature = Signature::from_bytes([0; 64]);
        sign(self.network, Entry { sequence, previous, time: self.now, record, signature })
    }

    /// Takes an entry, with what must hold before and after.
    pub(super) fn take(&mut self, entry: Entry) {
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

pub(super) fn sign(network: NetworkId, mut entry: Entry) -> Entry {
    let bytes = entry.encode();
    let message = [network.as_bytes(), &bytes[..bytes.len() - 64]].concat();
    entry.signature = sequencer().sign(Context::ENTRY, &message);
    entry
}

/// What a state says, in words.
pub(super) fn describe(state: &State) -> String {
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

pub(super) fn server() -> Server {
    let keys = ServerKeys { signing: sequencer().sequencer_key().to_bytes(), noise: [9; 32] };
    Server { addresses: vec!["192.0.2.1:4433".to_owned()], keys }
}

fn sequencer() -> SigningKey {
    SigningKey::from_bytes(&[0x5e; 32])
}

const START: u64 = 1_800_000_000;
