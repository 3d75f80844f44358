//! The control messages that concern paths, as they stand inside the sealed session.
//!
//! The first byte is below 0x40, so it is neither IPv4 nor IPv6; integers are big-endian.
//!
//! | message | bytes |
//! |---|---|
//! | any | type u8, version u8 = 1 |
//! | Probe 0x01 | id u64, zeros up to 48 bytes in all or more |
//! | Echo 0x02 | id u64, observed address, relayed u8 (0 or 1) |
//! | Candidates 0x03 | round u8, phase u8 (0 update, 1 call, 2 ready), count u8 ≤ 32, then count × (kind u8, address) |
//! | address | family u8 (4 or 6), 16 bytes (IPv4: 4 bytes, then 12 zeros), port u16 |
//! | kind | 0 host, 1 server-reflexive, 2 peer-reflexive, 3 relayed |
//!
//! A Probe is never shorter than its Echo, so an answer does not amplify. Probe padding is not looked at; a message of
//! any other kind that is longer than its fields is malformed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::id::{Candidate, CandidateKind};

/// The type byte of a [`Probe`].
pub const PROBE: u8 = 0x01;
/// The type byte of an [`Echo`].
pub const ECHO: u8 = 0x02;
/// The type byte of a [`CandidateList`].
pub const CANDIDATES: u8 = 0x03;
/// The version byte of every message of this module.
pub const VERSION: u8 = 1;
/// The least length of a [`Probe`] in bytes.
pub const PROBE_MIN_LEN: usize = 48;
/// The length of an [`Echo`] in bytes.
pub const ECHO_LEN: usize = 2 + 8 + ADDRESS_LEN + 1;
/// The most candidates that one [`CandidateList`] carries.
pub const MAX_CANDIDATES: usize = 32;

/// Tells whether a sealed plaintext that starts with `first` belongs to this module.
pub fn is_path_message(first: u8) -> bool {
    matches!(first, PROBE | ECHO | CANDIDATES)
}

/// Reads one message.
///
/// # Errors
/// [`Malformed`] when the bytes are not exactly one message of a known type and version.
pub fn decode(bytes: &[u8]) -> Result<Message, Malformed> {
    match bytes.first() {
        None => Err(Malformed::Truncated),
        Some(&PROBE) => Probe::decode(bytes).map(Message::Probe),
        Some(&ECHO) => Echo::decode(bytes).map(Message::Echo),
        Some(&CANDIDATES) => CandidateList::decode(bytes).map(Message::Candidates),
        Some(&other) => Err(Malformed::Type(other)),
    }
}

/// Any message of this module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Asks whether the path works.
    Probe(Probe),
    /// Answers a probe on the path that it came by.
    Echo(Echo),
    /// Tells candidates, and calls for a round of punching.
    Candidates(CandidateList),
}

/// Asks the other side to answer on the path that the probe came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Chosen by the sender; the [`Echo`] repeats it.
    pub id: u64,
}

impl Probe {
    /// The bytes of the message, [`PROBE_MIN_LEN`] long.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_padded(PROBE_MIN_LEN)
    }

    /// The bytes of the message, padded to `len` bytes to prove that packets of that size pass.
    pub fn encode_padded(&self, len: usize) -> Vec<u8> {
        let mut out = vec![PROBE, VERSION];
        out.extend_from_slice(&self.id.to_be_bytes());
        out.resize(len.max(PROBE_MIN_LEN), 0);
        out
    }

    /// Reads the message.
    ///
    /// # Errors
    /// [`Malformed`] for another type or version, or fewer than [`PROBE_MIN_LEN`] bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::start(bytes, PROBE)?;
        if bytes.len() < PROBE_MIN_LEN {
            return Err(Malformed::Truncated);
        }
        Ok(Self { id: u64::from_be_bytes(reader.array()?) })
    }
}

/// Answers a [`Probe`] on the path that it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// The probe's id.
    pub id: u64,
    /// The address that the probe came from, as the answering side saw it.
    pub observed: SocketAddr,
    /// Whether the probe reached the answering side through an allocation of its own.
    pub relayed: bool,
}

impl Echo {
    /// The bytes of the message, [`ECHO_LEN`] long.
    pub fn encode(&self) -> Vec<u8> {
        self.to_bytes().to_vec()
    }

    /// The bytes of the message, without allocating.
    pub fn to_bytes(self) -> [u8; ECHO_LEN] {
        let mut out = [0; ECHO_LEN];
        out[0] = ECHO;
        out[1] = VERSION;
        out[2..10].copy_from_slice(&self.id.to_be_bytes());
        out[10..10 + ADDRESS_LEN].copy_from_slice(&address_bytes(self.observed));
        out[ECHO_LEN - 1] = u8::from(self.relayed);
        out
    }

    /// Reads the message.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are not exactly one Echo.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::start(bytes, ECHO)?;
        let id = u64::from_be_bytes(reader.array()?);
        let observed = reader.address()?;
        let relayed = match reader.byte()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed::Field("relayed")),
        };
        reader.finish()?;
        Ok(Self { id, observed, relayed })
    }
}

/// What a [`CandidateList`] asks of its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Nothing: the candidates changed.
    Update,
    /// To get ready for a round of punching, and answer [`Phase::Ready`].
    Call,
    /// To start the round.
    Ready,
}

/// Tells the sender's candidates, whole set, and the state of a round of punching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateList {
    /// The round of punching that the message belongs to.
    pub round: u8,
    /// What the receiver is asked to do.
    pub phase: Phase,
    /// At most [`MAX_CANDIDATES`]; further ones are not encoded.
    pub candidates: Vec<Candidate>,
}

impl CandidateList {
    /// The bytes of the message.
    pub fn encode(&self) -> Vec<u8> {
        let told = &self.candidates[..self.candidates.len().min(MAX_CANDIDATES)];
        let phase = match self.phase {
            Phase::Update => 0,
            Phase::Call => 1,
            Phase::Ready => 2,
        };
        let count = u8::try_from(told.len()).expect("MAX_CANDIDATES fits in a byte");
        let mut out = vec![CANDIDATES, VERSION, self.round, phase, count];
        for candidate in told {
            out.push(match candidate.kind {
                CandidateKind::Host => 0,
                CandidateKind::ServerReflexive => 1,
                CandidateKind::PeerReflexive => 2,
                CandidateKind::Relayed => 3,
            });
            out.extend_from_slice(&address_bytes(candidate.addr));
        }
        out
    }

    /// Reads the message.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes are not exactly one list of at most [`MAX_CANDIDATES`] candidates.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::start(bytes, CANDIDATES)?;
        let round = reader.byte()?;
        let phase = match reader.byte()? {
            0 => Phase::Update,
            1 => Phase::Call,
            2 => Phase::Ready,
            _ => return Err(Malformed::Field("phase")),
        };
        let count = usize::from(reader.byte()?);
        if count > MAX_CANDIDATES {
            return Err(Malformed::Field("count"));
        }
        let mut candidates = Vec::with_capacity(count);
        for _ in 0..count {
            let kind = match reader.byte()? {
                0 => CandidateKind::Host,
                1 => CandidateKind::ServerReflexive,
                2 => CandidateKind::PeerReflexive,
                3 => CandidateKind::Relayed,
                _ => return Err(Malformed::Field("kind")),
            };
            candidates.push(Candidate { kind, addr: reader.address()? });
        }
        reader.finish()?;
        Ok(Self { round, phase, candidates })
    }
}

/// Why bytes are not a message of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The message ends before its fields do.
    #[error("message is cut short")]
    Truncated,
    /// Bytes follow the last field.
    #[error("bytes follow the last field")]
    Trailing,
    /// The type byte names no message, or not the one asked for.
    #[error("type {0:#04x} is not the expected one")]
    Type(u8),
    /// The version is not [`VERSION`].
    #[error("version {0} is unknown")]
    Version(u8),
    /// A field holds a value that the format does not know.
    #[error("field {0} holds an unknown value")]
    Field(&'static str),
}

/// Takes fields off the front of untrusted bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn start(bytes: &'a [u8], kind: u8) -> Result<Self, Malformed> {
        let mut reader = Self(bytes);
        let found = reader.byte()?;
        if found != kind {
            return Err(Malformed::Type(found));
        }
        match reader.byte()? {
            VERSION => Ok(reader),
            other => Err(Malformed::Version(other)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn address(&mut self) -> Result<SocketAddr, Malformed> {
        let family = self.byte()?;
        let bytes = self.array::<16>()?;
        let port = u16::from_be_bytes(self.array()?);
        let ip = match (family, bytes) {
            (4, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            (6, bytes) => IpAddr::V6(Ipv6Addr::from(bytes)),
            _ => return Err(Malformed::Field("address")),
        };
        Ok(SocketAddr::new(ip, port))
    }

    fn finish(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
    }
}

fn address_bytes(addr: SocketAddr) -> [u8; ADDRESS_LEN] {
    let mut out = [0; ADDRESS_LEN];
    match addr.ip() {
        IpAddr::V4(ip) => {
            out[0] = 4;
            out[1..5].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out[0] = 6;
            out[1..17].copy_from_slice(&ip.octets());
        }
    }
    out[17..].copy_from_slice(&addr.port().to_be_bytes());
    out
}

const ADDRESS_LEN: usize = 1 + 16 + 2;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_probe() {
        let mut expected = vec![1, 1, 1, 2, 3, 4, 5, 6, 7, 8];
        expected.resize(48, 0);
        assert_eq!(Probe { id: 0x0102_0304_0506_0708 }.encode(), expected);
        assert_eq!(Probe::decode(&expected), Ok(Probe { id: 0x0102_0304_0506_0708 }));
        assert_eq!(Probe::decode(&expected[..47]), Err(Malformed::Truncated));
        assert_eq!(Probe { id: 1 }.encode_padded(1300).len(), 1300);
    }

    #[test]
    fn golden_echo() {
        let echo = Echo { id: 9, observed: "192.0.2.1:51820".parse().expect("address"), relayed: true };
        let mut expected = vec![2, 1, 0, 0, 0, 0, 0, 0, 0, 9, 4, 192, 0, 2, 1];
        expected.extend_from_slice(&[0; 12]);
        expected.extend_from_slice(&[0xca, 0x6c, 1]);
        assert_eq!(echo.encode(), expected);
        assert_eq!(Echo::decode(&expected), Ok(echo));
        const { assert!(ECHO_LEN <= PROBE_MIN_LEN) };
    }

    #[test]
    fn golden_candidates() {
        let list = CandidateList {
            round: 3,
            phase: Phase::Call,
            candidates: vec![Candidate {
                kind: CandidateKind::ServerReflexive,
                addr: "[2001:db8::1]:80".parse().expect("address"),
            }],
        };
        let expected = [3, 1, 3, 1, 1, 1, 6, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 80];
        assert_eq!(list.encode(), expected);
        assert_eq!(CandidateList::decode(&expected), Ok(list));
    }

    #[test]
    fn a_list_too_long_is_cut_by_us_and_refused_from_others() {
        let one = Candidate { kind: CandidateKind::Host, addr: "10.0.0.1:1".parse().expect("address") };
        let list = CandidateList { round: 0, phase: Phase::Update, candidates: vec![one; 40] };
        let mut bytes = list.encode();
        assert_eq!(CandidateList::decode(&bytes).map(|l| l.candidates.len()), Ok(MAX_CANDIDATES));
        bytes[4] = 33;
        assert_eq!(CandidateList::decode(&bytes), Err(Malformed::Field("count")));
    }

    #[test]
    fn unknown_versions_types_and_trailing_bytes_are_refused() {
        let echo = Echo { id: 9, observed: "192.0.2.1:1".parse().expect("address"), relayed: false };
        let mut bytes = echo.encode();
        bytes[1] = 2;
        assert_eq!(decode(&bytes), Err(Malformed::Version(2)));
        bytes[1] = 1;
        bytes.push(0);
        assert_eq!(decode(&bytes), Err(Malformed::Trailing));
        assert_eq!(decode(&[0x3f, 1]), Err(Malformed::Type(0x3f)));
        assert_eq!(decode(&[]), Err(Malformed::Truncated));
    }

    #[test]
    fn a_probe_shorter_than_its_echo_is_refused() {
        let probe = Probe { id: 7 }.encode();
        const { assert!(ECHO_LEN <= PROBE_MIN_LEN) };
        for length in 0..PROBE_MIN_LEN {
            assert_eq!(decode(&probe[..length]), Err(Malformed::Truncated), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics_and_what_decodes_encodes_back(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 1u8..4) {
            let mut bytes = bytes;
            let _ = decode(&bytes);
            if bytes.len() > 2 {
                bytes[0] = kind;
                bytes[1] = VERSION;
            }
            match decode(&bytes) {
                Ok(Message::Probe(probe)) => prop_assert_eq!(&probe.encode_padded(bytes.len())[..10], &bytes[..10]),
                Ok(Message::Echo(echo)) => prop_assert_eq!(echo.encode(), bytes),
                Ok(Message::Candidates(list)) => prop_assert_eq!(list.encode(), bytes),
                Err(_) => {}
            }
        }
    }
}
