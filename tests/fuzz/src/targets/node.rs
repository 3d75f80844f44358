//! The node as a whole: a member of a network, with a server, another member and strangers around it.

#![expect(clippy::wildcard_enum_match_arm, reason = "of outputs, a target looks at those that it promises about")]

mod whole;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::Duration;

use ginnel_forward::{Command, Event, PeerId, RekeyReason};
use ginnel_membership::invite::Token;
use ginnel_membership::{
    Applied, Capabilities, Context, Entry, Founding, Invite, MemberKey, Name, NetworkId, Signature, SigningKey, State,
    TunnelKey, build,
};
use ginnel_node::{Config, ConfigPeer, ConfigPeerKind, Debug, Input, Node, Output, Reply, Request, Resume, StoredLog};
use ginnel_path::message::{CandidateList, Echo, Message, Phase, decode};
use ginnel_path::{Candidate, CandidateKind, Local, Path, RelayId, SocketId};
use ginnel_signal_proto::mailbox::{MAX_BODY, MailSealer};
use ginnel_time::{Instant, Tai64n};
use ginnel_tunnel::cookie::Mac1;
use ginnel_tunnel::{
    Identity, Initiator, NetworkTag, PresharedKey, PublicKey, Received, ReceiverIndex, StaticSecret, Suite,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use zeroize::Zeroizing;

use self::whole::Whole;
use super::signal::{keys, sequencer};
use crate::feed::{Feed, Script};
use crate::{Effort, Target};

/// A running member.
pub(crate) const NODE: Target = Target {
    name: "node",
    covers: "the node: handshakes, mail, control messages, entries and answers of a server",
    run: node,
    seeds: || {
        let list = CandidateList { round: 0, phase: Phase::Update, candidates: vec![candidate()] }.encode();
        let cookie = [&[1, 3, 0, 4][..], &[7; 4]].concat();
        let mut seeds = vec![
            Script::default().bytes(&[0, 0, 0]).bytes(&[1, 0, 0, 0, 9]).bytes(&[2, 0, 0, 0]).done(),
            Script::default().bytes(&[0, 0, 0, 2, 0, 0, 0]).bytes(&[5, 0]).chunk(&list).bytes(&[5, 1]).done(),
            Script::default().bytes(&[3, 3, 0, 3, 3, 0]).chunk(&cookie).bytes(&[7, 20, 0, 0, 0, 7, 100]).done(),
            Script::default().bytes(&[3, 0, 0]).chunk(&list).bytes(&[7, 20, 3, 1, 0]).chunk(&list).done(),
            Script::default().bytes(&[4, 3, 0, 9]).bytes(&[7, 40]).bytes(&[6, 1, 6, 3, 6, 4]).done(),
        ];
        for first in [0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x20, 0x30] {
            let plaintext = [&[first, 1][..], &[0; 40]].concat();
            seeds.push(Script::default().bytes(&[0, 0, 0, 5, 0]).chunk(&plaintext).bytes(&[7, 30]).done());
        }
        seeds
    },
    longest: 600,
    effort: Effort::Great,
};

/// Saved state.
pub(crate) const STATE: Target = Target {
    name: "node_state",
    covers: "the saved state of a node, and the entries beside it",
    run: state,
    seeds: || {
        let fixture = fixture();
        let with = |entries: &[Vec<u8>]| {
            let script = Script::default().chunk(&fixture.state);
            entries.iter().fold(script, |script, entry| script.chunk(entry)).done()
        };
        vec![
            with(&[]),
            with(&fixture.entries),
            Script::default().chunk(&[1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 0]).done(),
        ]
    },
    longest: 3000,
    effort: Effort::Great,
};

const UNIX: u64 = 1_800_000_000;
const TOKEN: [u8; 16] = [7; 16];
/// The other member's seeds, and those of peers of the configuration.
const SIGNING: [u8; 32] = [0x21; 32];
const TUNNEL: [u8; 32] = [0x22; 32];
const STATIC: [u8; 32] = [0x23; 32];
const OWN_STATIC: [u8; 32] = [0x24; 32];

/// A network with two members, as the first of them has it on disk.
struct Fixture {
    state: Vec<u8>,
    entries: Vec<Vec<u8>>,
    network: NetworkId,
    node: MemberKey,
    node_tunnel: TunnelKey,
    addresses: BTreeSet<IpAddr>,
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(Fixture::new)
}

impl Fixture {
    fn new() -> Self {
        let mut whole = Whole::new(Resume::default(), Vec::new());
        let server = ginnel_membership::Server { addresses: vec!["203.0.113.1:4433".to_owned()], keys: keys() };
        let founding = Founding::new(server, Token::from_bytes(TOKEN)).expect("one address fits");
        let up = Request::Up {
            ticket: Some(founding.to_string()),
            name: None,
            network: None,
            shields: None,
            range: None,
            ipv4: None,
        };
        whole.request(up);
        whole.request(Request::Invite { expires: Duration::from_secs(9000), name: None });
        let ticket = whole.replies.iter().find_map(|reply| match reply {
            Reply::Invite { ticket, .. } => Some(ticket.clone()),
            _ => None,
        });
        let invite: Invite = ticket.expect("an admin makes an invite").parse().expect("our own string");
        let network = invite.network();
        let mut log = State::new(network);
        let mut entries = whole.entries.clone();
        for entry in &entries {
            log.apply(&Entry::decode(entry).expect("our own entry")).expect("our own log");
        }
        let node = *log.members().next().map(|member| member.key()).as_ref().expect("the founder");
        let node_tunnel = log.members().next().map(|member| member.tunnel_key()).expect("the founder");
        let tunnel = TunnelKey::from_bytes(StaticSecret::from_bytes(TUNNEL).public().to_bytes());
        let name = Name::new("other").expect("a name");
        let key = SigningKey::from_bytes(&SIGNING);
        let record = build::member_record(&network, invite.key(), &key, tunnel, name, Capabilities::BOTH_SUITES);
        let entry = sign(&log, network, record);
        assert!(matches!(log.apply(&entry), Ok(Applied::Changed(_))), "the other member joins");
        entries.push(entry.encode());
        let addresses =
            log.members().flat_map(|m| m.ipv4().map(IpAddr::V4).into_iter().chain([m.ipv6().into()])).collect();
        Self { state: whole.state, entries, network, node, node_tunnel, addresses }
    }

    /// What a peer of the data plane may send from: an address of a member, or one of the configuration.
    fn check_allowed(&self, allowed: &[(IpAddr, u8)]) {
        let known =
            |ip: &IpAddr| self.addresses.contains(ip) || matches!(ip, IpAddr::V4(v4) if v4.octets()[..3] == [10, 9, 0]);
        assert!(allowed.iter().all(|(ip, _)| known(ip)), "an address of nobody in the log: {allowed:?}");
    }
}

fn sign(log: &State, network: NetworkId, record: Vec<u8>) -> Entry {
    let (sequence, previous) = log.head();
    let signature = Signature::from_bytes([0; 64]);
    let mut entry = Entry { sequence, previous, time: log.time().max(UNIX), record, signature };
    let bytes = entry.encode();
    let message = [network.as_bytes(), &bytes[..bytes.len() - 64]].concat();
    entry.signature = sequencer().sign(Context::ENTRY, &message);
    entry
}

#[allow(clippy::needless_update, reason = "what else a node may find is not there")]
fn resumed(state: Vec<u8>, entries: Vec<Vec<u8>>) -> Resume {
    let logs = Node::networks_of(&state).into_iter().map(|network| StoredLog {
        network,
        snapshot: None,
        entries: entries.clone(),
    });
    let logs = logs.collect();
    Resume { state: Some(state), logs, ..Resume::default() }
}

fn configuration() -> Config {
    let peer = |name: &str, kind, secret: [u8; 32], last: u8| ConfigPeer {
        name: name.to_owned(),
        key: StaticSecret::from_bytes(secret).public(),
        psk: PresharedKey::zero(),
        endpoint: Some(SocketAddr::from(([198, 51, 100, last], 51_820))),
        allowed: vec![(IpAddr::from([10, 9, 0, last]), 32)],
        persistent_keepalive: None,
        kind,
    };
    Config {
        seed: [5; 32],
        secret: Some(StaticSecret::from_bytes(OWN_STATIC)),
        addresses: vec![(IpAddr::from([10, 9, 0, 1]), 24)],
        peers: vec![
            peer("wireguard", ConfigPeerKind::WireGuard, STATIC, 8),
            peer("ginnel", ConfigPeerKind::Ginnel, [0x25; 32], 9),
        ],
        suites: vec![Suite::AesGcm, Suite::ChaChaPoly],
        hostname: "machine".to_owned(),
        debug: Debug::default(),
    }
}

fn candidate() -> Candidate {
    Candidate { kind: CandidateKind::Host, addr: SocketAddr::from(([198, 51, 100, 1], 4000)) }
}

/// The other member's hands.
struct Other {
    identity: Identity,
    rng: ChaCha20Rng,
    sealer: MailSealer,
    waiting: Option<Initiator>,
    stamp: u64,
    index: u32,
}

impl Other {
    fn new() -> Self {
        let network = fixture().network;
        Self {
            identity: Identity::new(StaticSecret::from_bytes(TUNNEL), NetworkTag(network.to_bytes())),
            rng: ChaCha20Rng::from_seed([6; 32]),
            sealer: MailSealer::new([1; 32], Zeroizing::new(TUNNEL), &network),
            waiting: None,
            stamp: UNIX,
            index: 0,
        }
    }

    /// A new initiation to the node.
    fn initiation(&mut self) -> Vec<u8> {
        self.stamp += 1;
        self.index += 1;
        let remote = PublicKey::from_bytes(fixture().node_tunnel.to_bytes());
        let (label, index) = (Tai64n::from_unix(self.stamp, 0), ReceiverIndex(self.index));
        let psk = PresharedKey::zero();
        let (initiator, bytes) =
            Initiator::start(&self.identity, remote, Suite::AesGcm, &psk, 0, label, index, &mut self.rng)
                .expect("good keys");
        self.waiting = Some(initiator);
        bytes
    }

    /// The answer to the last initiation that the node sent.
    fn answer(&mut self, sent: &[(Path, Vec<u8>)]) -> Option<(Path, Vec<u8>)> {
        let (path, initiation) = sent.iter().rev().find(|(_, bytes)| {
            ginnel_tunnel::classify(bytes).is_some_and(|(_, kind)| kind == ginnel_tunnel::MessageKind::Initiation)
        })?;
        self.index += 1;
        let received = Received::read(&self.identity, initiation, &mut |_| true).ok()?;
        let (response, _) =
            received.respond(&PresharedKey::zero(), 0, ReceiverIndex(self.index), &mut self.rng).ok()?;
        Some((*path, response))
    }

    /// Takes the node's response, if there is one.
    fn finish(&mut self, sent: &[(Path, Vec<u8>)]) {
        if let Some(initiator) = &mut self.waiting {
            let _ = sent.iter().rev().any(|(_, bytes)| initiator.finish(bytes).is_ok());
        }
    }
}

fn node(data: &[u8]) {
    let mut feed = Feed::new(data);
    let fixture = fixture();
    let resume = resumed(fixture.state.clone(), fixture.entries.clone());
    let mut whole = Whole::new(resume, vec![(fixture.network, fixture.entries.clone())]);
    let mut log = State::new(fixture.network);
    for entry in &fixture.entries {
        log.apply(&Entry::decode(entry).expect("our own entry")).expect("our own log");
    }
    whole.log = Some(log);
    let mut other = Other::new();
    for _ in 0..24 {
        if feed.is_empty() {
            return;
        }
        step(&mut feed, &mut whole, &mut other);
        assert!(whole.peers.iter().collect::<BTreeSet<_>>().len() <= 8, "peers without end");
    }
}

fn step(feed: &mut Feed<'_>, whole: &mut Whole, other: &mut Other) {
    match feed.u8() % 8 {
        0 => {
            let bytes = other.initiation();
            let bytes = feed.spoil(bytes);
            let path = near(feed);
            whole.input(Input::Forward(Event::Handshake { path, bytes }));
            other.finish(&whole.sent);
        }
        1 => {
            let mut bytes = feed.chunk().to_vec();
            let key = if feed.flag() {
                PublicKey::from_bytes(fixture().node_tunnel.to_bytes())
            } else {
                StaticSecret::from_bytes(OWN_STATIC).public()
            };
            Mac1::new(&key).stamp(&mut bytes);
            let path = near(feed);
            whole.input(Input::Forward(Event::Handshake { path, bytes }));
        }
        2 => {
            if let Some((path, bytes)) = other.answer(&whole.sent) {
                let bytes = feed.spoil(bytes);
                whole.input(Input::Forward(Event::Handshake { path, bytes }));
            }
        }
        3 => {
            let body = body(feed, other);
            let body = body.get(..body.len().min(MAX_BODY)).unwrap_or_default();
            let stamp = Tai64n::from_unix(UNIX, 0);
            let sealed = other.sealer.seal(stamp, &fixture().node_tunnel, body).expect("a good key");
            let sealed = feed.spoil(sealed);
            whole.mail(sealed);
        }
        4 => {
            let bytes = feed.chunk().to_vec();
            whole.down.extend(bytes);
            let down = std::mem::take(&mut whole.down);
            let down = feed.spoil(down);
            whole.server_bytes(down);
        }
        5 => {
            let event = control(feed, whole.probes.last().map(|(_, _, probe)| probe.as_slice()));
            whole.input(Input::Forward(event));
        }
        6 => {
            let event = event(feed);
            whole.input(Input::Forward(event));
        }
        _ => {
            let time = Duration::from_millis(u64::from(feed.u8()) * 100);
            whole.pass(time);
            whole.settle();
        }
    }
}

/// A path on which somebody near may be.
fn near(feed: &mut Feed<'_>) -> Path {
    let local = if feed.flag() { Local::Relay(RelayId(0)) } else { Local::Socket(SocketId(0)) };
    Path { local, remote: SocketAddr::from(([198, 51, 100, feed.u8() % 4], 4000)) }
}

/// A control message that a peer sealed: the answer to the last probe, something like that probe, or anything.
fn control(feed: &mut Feed<'_>, probe: Option<&[u8]>) -> Event {
    let peer = PeerId(u32::from(feed.u8() % 4));
    let path = near(feed);
    let plaintext = match probe {
        Some(probe) if feed.flag() => match decode(probe) {
            Ok(Message::Probe(probe)) => {
                let echo = Echo { id: probe.id, observed: path.remote, relayed: false };
                feed.spoil(echo.encode())
            }
            Ok(_) | Err(_) => feed.spoil(probe.to_vec()),
        },
        Some(_) | None => feed.chunk().to_vec(),
    };
    Event::Control { peer, path, plaintext }
}

/// What else the data plane has to tell.
fn event(feed: &mut Feed<'_>) -> Event {
    let peer = PeerId(u32::from(feed.u8() % 4));
    let path = near(feed);
    match feed.u8() % 6 {
        0 => Event::SessionWanted { peer },
        1 => Event::Arrived { peer, path },
        2 => Event::Roamed { peer, path },
        3 => Event::Confirmed { peer, index: ReceiverIndex(feed.u32()) },
        4 => Event::RekeyDue { peer, why: RekeyReason::Age },
        _ => {
            let from = SocketAddr::from(([203, 0, 113, 1], 3478));
            Event::Stun { socket: SocketId(0), from, bytes: feed.chunk().to_vec() }
        }
    }
}

/// The body of a mail: an offer, an answer, a cookie, or anything.
fn body(feed: &mut Feed<'_>, other: &mut Other) -> Vec<u8> {
    let kind = feed.u8() % 4;
    let handshake = match kind {
        0 | 1 => other.initiation(),
        _ => return feed.chunk().to_vec(),
    };
    let mut body = vec![1, kind + 1];
    body.extend_from_slice(&u16::try_from(handshake.len()).expect("short").to_be_bytes());
    body.extend_from_slice(&handshake);
    let list = feed.spoil(CandidateList { round: 0, phase: Phase::Update, candidates: vec![candidate()] }.encode());
    body.extend_from_slice(&list);
    body
}

fn state(data: &[u8]) {
    let mut feed = Feed::new(data);
    let state = feed.chunk().to_vec();
    let mut entries = Vec::new();
    while !feed.is_empty() && entries.len() < 16 {
        entries.push(feed.chunk().to_vec());
    }
    let networks = Node::networks_of(&state);
    let now = Instant::ZERO + Duration::from_secs(1000);
    let resume = resumed(state, entries);
    match Node::new(now, configuration(), resume) {
        Ok(mut node) => {
            let mut outputs = 0;
            while let Some(output) = node.poll_output() {
                outputs += 1;
                assert!(outputs < 10_000, "output without end");
                if let Output::Forward(Command::AddPeer { allowed, .. }) = output {
                    fixture().check_allowed(&allowed);
                }
            }
            node.handle_timeout(now + Duration::from_secs(100));
        }
        Err(_) => assert!(networks.is_empty(), "a network of a state that is refused"),
    }
}
