//! What the tests of this crate share: hex data files and a generator that gives chosen bytes.
#![allow(dead_code, reason = "each test binary uses a part")]

use rand_core::{CryptoRng, Error, RngCore};

/// One vector of a data file: named fields in their order.
pub(crate) struct Vector {
    pub(crate) name: String,
    fields: Vec<(String, Vec<u8>)>,
}

impl Vector {
    /// The vectors of a data file; each begins with a line whose first word is `head`.
    pub(crate) fn all(text: &str, head: &str) -> Vec<Self> {
        let mut vectors: Vec<Self> = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            if key == head {
                vectors.push(Self { name: value.to_owned(), fields: Vec::new() });
            } else {
                vectors.last_mut().expect("a vector begins with its head").fields.push((key.to_owned(), hex(value)));
            }
        }
        vectors
    }

    pub(crate) fn bytes(&self, key: &str) -> &[u8] {
        self.fields
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_slice())
            .unwrap_or_else(|| panic!("{} has no field {key}", self.name))
    }

    pub(crate) fn array<const N: usize>(&self, key: &str) -> [u8; N] {
        self.bytes(key).try_into().expect("the field has its length")
    }

    pub(crate) fn every<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_slice())
    }
}

/// Gives these bytes, once.
pub(crate) struct Chosen(Vec<u8>);

impl Chosen {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// Whether all bytes were drawn.
    pub(crate) fn is_spent(&self) -> bool {
        self.0.is_empty()
    }
}

impl RngCore for Chosen {
    fn next_u32(&mut self) -> u32 {
        panic!("keys are drawn as bytes")
    }

    fn next_u64(&mut self) -> u64 {
        panic!("keys are drawn as bytes")
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        dest.copy_from_slice(&self.0[..dest.len()]);
        self.0.drain(..dest.len());
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoRng for Chosen {}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    assert_eq!(text.len() % 2, 0, "{text}");
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hex digits")).collect()
}

/// The points whose multiples are zero, in their canonical and other encodings (<https://cr.yp.to/ecdh.html>), each also
/// with the ignored top bit set where that is another encoding.
pub(crate) const LOW_ORDER: [[u8; 32]; 8] = [
    [0; 32],
    edge(1, 0, 0),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
        0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ],
    edge(0xec, 0xff, 0x7f),
    edge(0xed, 0xff, 0x7f),
    edge(0xee, 0xff, 0x7f),
    edge(0xed, 0xff, 0xff),
];

const fn edge(low: u8, middle: u8, high: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    bytes[0] = low;
    bytes[31] = high;
    bytes
}
