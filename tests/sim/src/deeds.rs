//! What a hostile member says inside its sessions, each kind by its name, and how often each has arrived.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

use ginnel_membership::{Entry, MemberKey, NetworkId, Record, SignedRecord, SigningKey, build};
use ginnel_path::message::{CandidateList, Echo, Phase, Probe};
use ginnel_path::{Candidate, CandidateKind};

use crate::dice::Dice;
use crate::ledger;

/// One kind of what no ginneld says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// The head of a log that is longer than there is one.
    LongHead,
    /// A head with another hash than its place has.
    OtherHead,
    HeadFlood,
    WantFlood,
    /// Entries that nobody signed, for whoever asks after a long head, or after another history.
    ForgedEntries,
    /// Entries of the log in their place, in another, and with a bit turned.
    ReplayedEntries,
    /// Revocations of members by somebody unknown.
    ForgedRevocation,
    /// Records of the log told as revocations, as they are or with a bit turned.
    ReplayedRecord,
    /// Candidates of somebody who has nothing to do with it.
    BystanderCandidates,
    /// Candidates that no datagram may go to: loopback, groups, nobody's.
    UnusableCandidates,
    /// Candidates that are the addresses of other members, as they are seen on the internet or at home.
    MemberCandidates,
    /// Candidates inside the network.
    InnerCandidates,
    /// Echoes of probes that nobody sent, with addresses that nobody has seen.
    FalseEcho,
    EchoFlood,
    ProbeFlood,
    PingFlood,
    /// Messages with more after their end, up to what no line carries.
    Oversized,
    /// Messages that end in the middle.
    Truncated,
    /// Bytes.
    Noise,
    /// Packets from other members' inner addresses.
    SourceOfMember,
    /// Packets from addresses outside the network.
    SourceOutside,
    /// Packets from the receiver's own address.
    SourceOfReceiver,
    /// Packets from its own address to what is not the receiver's.
    ForeignTarget,
    /// Packets whose header is wrong.
    BrokenPacket,
}

/// What it draws on.
#[derive(Debug)]
pub(crate) struct Knowledge {
    pub(crate) network: NetworkId,
    pub(crate) length: u64,
    /// Entries of the log, encoded.
    pub(crate) entries: Vec<Vec<u8>>,
    pub(crate) bystander: IpAddr,
    /// Where others are, outside.
    pub(crate) places: Vec<SocketAddr>,
    /// Inner addresses: its own, those of whom it talks to, and of all others.
    pub(crate) own: Vec<IpAddr>,
    pub(crate) receiver: Vec<IpAddr>,
    pub(crate) others: Vec<IpAddr>,
}

impl Deed {
    pub(crate) const ALL: [Self; 24] = [
        Self::LongHead,
        Self::OtherHead,
        Self::HeadFlood,
        Self::WantFlood,
        Self::ForgedEntries,
        Self::ReplayedEntries,
        Self::ForgedRevocation,
        Self::ReplayedRecord,
        Self::BystanderCandidates,
        Self::UnusableCandidates,
        Self::MemberCandidates,
        Self::InnerCandidates,
        Self::FalseEcho,
        Self::EchoFlood,
        Self::ProbeFlood,
        Self::PingFlood,
        Self::Oversized,
        Self::Truncated,
        Self::Noise,
        Self::SourceOfMember,
        Self::SourceOutside,
        Self::SourceOfReceiver,
        Self::ForeignTarget,
        Self::BrokenPacket,
    ];

    /// What is said, in order: control messages and IP packets.
    pub(crate) fn words(self, know: &Knowledge, dice: &mut Dice) -> Vec<Vec<u8>> {
        match self {
            Self::LongHead => {
                let bits = dice.between(1, 40);
                let longer = know.length + 1 + dice.below(1 << bits);
                vec![head(dice.pick(&[longer, u64::MAX]), dice.seed())]
            }
            Self::OtherHead => vec![head(dice.below(know.length + 1), dice.seed())],
            Self::HeadFlood => (0..300).map(|_| head(know.length + 1 + dice.below(9), dice.seed())).collect(),
            Self::WantFlood => (0..60).map(|from| message(WANT, &u64::to_be_bytes(from))).collect(),
            Self::ForgedEntries => forged_entries(know, dice),
            Self::ReplayedEntries => replayed_entries(know, dice),
            Self::ForgedRevocation => forged_revocations(know, dice),
            Self::ReplayedRecord => replayed_records(know, dice),
            Self::BystanderCandidates | Self::UnusableCandidates | Self::MemberCandidates | Self::InnerCandidates => {
                vec![self.candidates(know, dice)]
            }
            Self::FalseEcho => {
                let mut seen = know.places.clone();
                seen.extend([know.bystander, LOOPBACK].map(|ip| SocketAddr::new(ip, 9)));
                vec![echo(dice, dice_pick(&seen))]
            }
            Self::EchoFlood => {
                let observed = SocketAddr::new(know.bystander, 9);
                (0..200).map(|_| echo(dice, |_| observed)).collect()
            }
            Self::ProbeFlood => (0..100)
                .map(|_| {
                    let length = dice.pick(&[48, 48, 48, 600, 1180]);
                    Probe { id: dice.below(u64::MAX) }.encode_padded(length)
                })
                .collect(),
            Self::PingFlood => (0..100)
                .flat_map(|_| [PING, PONG].map(|kind| message(kind, &dice.below(u64::MAX).to_be_bytes())))
                .collect(),
            Self::Oversized => {
                let more = dice.pick(&[1, 60, 900, 1100, 8000, 64_000]);
                let mut word = sample(know, dice);
                word.truncate(1100);
                word.resize(word.len() + more, 0x55);
                vec![word]
            }
            Self::Truncated => {
                let mut word = sample(know, dice);
                word.truncate(usize::try_from(dice.between(1, word.len().max(2) as u64 - 1)).expect("an index fits"));
                vec![word]
            }
            Self::Noise => {
                let length = dice.below(1000);
                let mut odd: Vec<u8> = (0..=length).map(|_| dice.below(256) as u8).collect();
                odd[0] &= 0x3F;
                vec![odd]
            }
            Self::SourceOfMember
            | Self::SourceOutside
            | Self::SourceOfReceiver
            | Self::ForeignTarget
            | Self::BrokenPacket => self.packets(know, dice),
        }
    }

    /// Candidates that are none of its own.
    fn candidates(self, know: &Knowledge, dice: &mut Dice) -> Vec<u8> {
        let mut addresses = vec![know.bystander];
        if self == Self::UnusableCandidates {
            addresses = UNUSABLE.clone();
        } else if self == Self::InnerCandidates {
            addresses = [&know.own[..], &know.receiver, &know.others].concat();
        }
        let members = self == Self::MemberCandidates && !know.places.is_empty();
        let kinds = [CandidateKind::Host, CandidateKind::ServerReflexive, CandidateKind::Relayed];
        let candidates = (0..32).map(|_| {
            let addr =
                if members { dice.pick(&know.places) } else { SocketAddr::new(dice.pick(&addresses), dice.port()) };
            Candidate { kind: dice.pick(&kinds), addr }
        });
        let candidates = candidates.collect();
        let phase = dice.pick(&[Phase::Update, Phase::Call, Phase::Ready]);
        CandidateList { round: dice.below(256) as u8, phase, candidates }.encode()
    }

    /// Packets that must not be delivered.
    fn packets(self, know: &Knowledge, dice: &mut Dice) -> Vec<Vec<u8>> {
        let outside: Vec<IpAddr> = OUTSIDE.iter().map(|text| text.parse().expect("literal")).collect();
        let (mut sources, mut targets) = (know.own.clone(), know.receiver.clone());
        if self == Self::SourceOfMember {
            sources.clone_from(&know.others);
        } else if self == Self::SourceOutside {
            sources = outside;
        } else if self == Self::SourceOfReceiver {
            sources.clone_from(&know.receiver);
        } else if self == Self::ForeignTarget {
            targets = [&know.others[..], &outside, &know.own].concat();
        }
        let pairs = sources.iter().flat_map(|from| targets.iter().map(move |to| (*from, *to)));
        let pairs = pairs.filter(|(from, to)| from.is_ipv4() == to.is_ipv4());
        // A number that no packet has: if it is delivered, nobody sent it.
        let packets = pairs.map(|(from, to)| ledger::udp(from, to, u64::MAX, 32));
        if self == Self::BrokenPacket {
            return packets.map(|packet| broken(packet, dice)).collect();
        }
        packets.collect()
    }
}

/// How often each kind of deed has arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deeds {
    /// Looks of hostile members, awake, for somebody to talk to.
    pub looks: u64,
    /// Those in which there was somebody.
    pub linked: u64,
    arrived: [u64; Deed::ALL.len()],
}

impl Deeds {
    /// Each kind of deed, and how many of its messages were opened by who they were for.
    pub fn arrived(&self) -> impl Iterator<Item = (String, u64)> {
        Deed::ALL.iter().zip(self.arrived).map(|(deed, count)| (format!("{deed:?}"), count))
    }

    pub(crate) fn count(&mut self, deed: Deed) {
        if let Some(place) = Deed::ALL.iter().position(|other| *other == deed) {
            self.arrived[place] += 1;
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.looks += other.looks;
        self.linked += other.linked;
        for (count, more) in self.arrived.iter_mut().zip(other.arrived) {
            *count += more;
        }
    }
}

/// Whether it is one of the addresses where no datagram may go, of those that the hostile name.
pub(crate) fn is_unusable(ip: IpAddr) -> bool {
    UNUSABLE.contains(&ip)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind, 1], body].concat()
}

fn head(length: u64, hash: [u8; 32]) -> Vec<u8> {
    message(HEAD, &[&length.to_be_bytes()[..], &hash].concat())
}

fn echo(dice: &mut Dice, observed: impl Fn(&mut Dice) -> SocketAddr) -> Vec<u8> {
    Echo { id: dice.below(u64::MAX), observed: observed(dice), relayed: dice.chance(300) }.encode()
}

fn dice_pick(options: &[SocketAddr]) -> impl Fn(&mut Dice) -> SocketAddr {
    move |dice| dice.pick(options)
}

/// A message of some kind, in due form.
fn sample(know: &Knowledge, dice: &mut Dice) -> Vec<u8> {
    let kinds = [
        Deed::LongHead,
        Deed::WantFlood,
        Deed::ReplayedEntries,
        Deed::ForgedRevocation,
        Deed::BystanderCandidates,
        Deed::FalseEcho,
        Deed::PingFlood,
    ];
    dice.pick(&kinds).words(know, dice).pop().unwrap_or_default()
}

/// Entries from a place on, whole.
fn entries(first: u64, entries: &[&[u8]]) -> Vec<u8> {
    let mut body = [&first.to_be_bytes()[..], &[1, 0, 1]].concat();
    for entry in entries {
        body.extend_from_slice(&u16::try_from(entry.len()).expect("an entry is short").to_be_bytes());
        body.extend_from_slice(entry);
    }
    message(ENTRIES, &body)
}

/// A head that makes the receiver ask, and in the same breath what answers it.
fn forged_entries(know: &Knowledge, dice: &mut Dice) -> Vec<Vec<u8>> {
    let length = know.length;
    let last = know.entries.last().and_then(|bytes| Entry::decode(bytes).ok());
    let longer = head(length + 1 + dice.below(5), dice.seed());
    match (dice.below(5), last) {
        (0, Some(last)) => {
            // The next place, with a signature of another.
            let next = Entry { sequence: length, previous: last.hash(), ..last };
            vec![longer, entries(length, &[&next.encode()])]
        }
        (1, Some(last)) => {
            // Another history for the last place.
            let other = Entry { time: last.time.wrapping_add(1 + dice.below(9)), ..last };
            let place = other.sequence;
            vec![head(place + 1, other.hash()), entries(place, &[&other.encode()])]
        }
        (2, Some(last)) => {
            let victim = members(know).last().copied();
            let Some(victim) = victim else { return vec![longer] };
            let record = build::revoke_record(&know.network, &SigningKey::from_bytes(&dice.seed()), victim);
            let next = Entry { sequence: length, previous: last.hash(), record, ..last };
            vec![longer, entries(length, &[&next.encode()])]
        }
        (3, _) => {
            // Parts of one that never ends.
            let part = |part: u8| {
                let body = [&length.to_be_bytes()[..], &[u8::from(part == 2), part, 3], &[7; 1100]].concat();
                message(ENTRIES, &body)
            };
            vec![longer, part(0), part(1), part(2), part(1)]
        }
        _ => {
            let first = dice.pick(&[0, length, length.wrapping_sub(1), u64::MAX]);
            vec![longer, entries(first, &[&[7; 16], &[]])]
        }
    }
}

/// What the log holds, again.
fn replayed_entries(know: &Knowledge, dice: &mut Dice) -> Vec<Vec<u8>> {
    let longer = head(know.length + 2, dice.seed());
    let short: Vec<&Vec<u8>> = know.entries.iter().filter(|entry| entry.len() <= 1000).collect();
    if short.is_empty() {
        return vec![longer];
    }
    let mut entry = dice.pick(&short).clone();
    let place = Entry::decode(&entry).map_or(0, |entry| entry.sequence);
    let first = dice.pick(&[place, know.length, 0]);
    if dice.chance(400) {
        turn(&mut entry, dice);
    }
    vec![longer, entries(first, &[&entry])]
}

/// Members by the keys that they came in with.
fn members(know: &Knowledge) -> Vec<MemberKey> {
    let records = know.entries.iter().filter_map(|bytes| Entry::decode(bytes).ok());
    let signed = records.filter_map(|entry| SignedRecord::decode(&entry.record).ok());
    let members =
        signed.filter_map(
            |signed| {
                if let Record::Member(enrolment) = signed.record() { Some(enrolment.member) } else { None }
            },
        );
    members.collect()
}

/// A revocation of each member, by keys that nobody has.
fn forged_revocations(know: &Knowledge, dice: &mut Dice) -> Vec<Vec<u8>> {
    let unknown = SigningKey::from_bytes(&dice.seed()).member_key();
    let victims = members(know).into_iter().chain([unknown]);
    let words = victims.map(|victim| {
        let key = SigningKey::from_bytes(&dice.seed());
        message(REVOCATION, &build::revoke_record(&know.network, &key, victim))
    });
    words.collect()
}

/// Records of the log, as revocations; such as they were, first of all.
fn replayed_records(know: &Knowledge, dice: &mut Dice) -> Vec<Vec<u8>> {
    let entries = know.entries.iter().filter_map(|bytes| Entry::decode(bytes).ok());
    let records: Vec<Vec<u8>> = entries.map(|entry| entry.record).collect();
    let revokes = |bytes: &Vec<u8>| SignedRecord::decode(bytes).is_ok_and(|signed| signed.record().revokes().is_some());
    let mut words: Vec<Vec<u8>> = records.iter().filter(|bytes| revokes(bytes)).cloned().collect();
    for _ in 0..4.min(records.len()) {
        let place = usize::try_from(dice.below(records.len() as u64)).expect("an index fits");
        words.push(records[place].clone());
    }
    for word in words.clone() {
        let mut word = word;
        turn(&mut word, dice);
        words.push(word);
    }
    words.iter().map(|record| message(REVOCATION, record)).collect()
}

/// A packet whose header does not fit it.
fn broken(mut packet: Vec<u8>, dice: &mut Dice) -> Vec<u8> {
    match dice.below(4) {
        // It ends early.
        0 => packet.truncate(usize::try_from(dice.between(1, packet.len() as u64 - 1)).expect("an index fits")),
        // No such version.
        1 => packet[0] = dice.pick(&[0x50, 0x70, 0x90, 0xF5]),
        // A header shorter than any, or a length beyond all.
        2 if packet[0] >> 4 == 4 => packet[0] = 0x44,
        _ => {
            let place = if packet[0] >> 4 == 4 { 2 } else { 4 };
            packet[place] = 0xFF;
        }
    }
    packet
}

fn turn(bytes: &mut [u8], dice: &mut Dice) {
    let place = usize::try_from(dice.below(bytes.len().max(1) as u64)).expect("an index fits");
    if let Some(byte) = bytes.get_mut(place) {
        *byte ^= 1 << dice.below(8);
    }
}

const PING: u8 = 0x10;
const PONG: u8 = 0x11;
const HEAD: u8 = 0x12;
const WANT: u8 = 0x13;
const ENTRIES: u8 = 0x14;
const REVOCATION: u8 = 0x15;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Where no datagram may go.
static UNUSABLE: LazyLock<Vec<IpAddr>> =
    LazyLock::new(|| UNUSABLE_TEXTS.map(|text| text.parse().expect("literal")).to_vec());
const UNUSABLE_TEXTS: [&str; 14] = [
    "127.0.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "169.254.169.254",
    "240.0.0.1",
    "198.18.0.1",
    "::1",
    "::",
    "ff02::1",
    "fe80::1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::1",
];
/// Nobody's addresses inside.
const OUTSIDE: [&str; 13] = [
    "8.8.8.8",
    "127.0.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "169.254.1.1",
    "192.168.1.1",
    "100.127.255.254",
    "2001:db8::1",
    "::1",
    "::",
    "ff02::1",
    "fe80::1",
];
