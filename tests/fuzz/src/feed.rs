//! Values taken off the front of an input: what a structured target is driven by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use blake2::{Blake2s256, Digest as _};

/// The rest of an input. Beyond its end everything is zero, so that every input means something.
pub(crate) struct Feed<'a>(&'a [u8]);

impl<'a> Feed<'a> {
    pub(crate) const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let take = N.min(self.0.len());
        let (head, rest) = self.0.split_at(take);
        out[..take].copy_from_slice(head);
        self.0 = rest;
        out
    }

    pub(crate) fn u8(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let wide = if bound > 256 { usize::from(self.u16()) } else { usize::from(self.u8()) };
        wide % bound
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    pub(crate) fn pick<T: Clone>(&mut self, among: &[T]) -> T {
        let place = self.below(among.len());
        among[place].clone()
    }

    /// Bytes with their length before them: one byte, or two more after 255.
    pub(crate) fn chunk(&mut self) -> &'a [u8] {
        let length = match self.u8() {
            255 => usize::from(self.u16()),
            short => usize::from(short),
        };
        let (chunk, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        chunk
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// An address of any kind; every fourth is one that tests use.
    pub(crate) fn address(&mut self) -> SocketAddr {
        let ip = match self.u8() {
            0..64 => IpAddr::from([198, 51, 100, self.u8()]),
            64..160 => IpAddr::V4(Ipv4Addr::from_bits(self.u32())),
            _ => IpAddr::V6(Ipv6Addr::from(self.array::<16>())),
        };
        SocketAddr::new(ip, self.u16())
    }

    /// `bytes` as they are, or changed in one of the ways that networks and attackers have.
    pub(crate) fn spoil(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        match self.u8() % 8 {
            0..=2 => {}
            3 if !bytes.is_empty() => {
                let place = self.below(bytes.len());
                bytes[place] ^= self.u8();
            }
            4 => {
                let length = self.below(bytes.len() + 1);
                bytes.truncate(length);
            }
            5 => bytes.extend_from_slice(self.chunk()),
            6 if !bytes.is_empty() => {
                let place = self.below(bytes.len());
                let chunk = self.chunk();
                let end = (place + chunk.len()).min(bytes.len());
                bytes.splice(place..end, chunk.iter().copied());
            }
            _ => bytes = self.chunk().to_vec(),
        }
        bytes
    }
}

/// A seed of an input's own. Where an input could hold what was sealed for another one, each has other keys: an engine
/// remembers every byte that it saw compared.
pub(crate) fn salt(data: &[u8]) -> [u8; 32] {
    Blake2s256::digest(data).into()
}

/// Writes an input that a [`Feed`] reads back: for seeds.
#[derive(Default)]
pub(crate) struct Script(Vec<u8>);

impl Script {
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn chunk(mut self, bytes: &[u8]) -> Self {
        match u8::try_from(bytes.len()) {
            Ok(short @ 0..=254) => self.0.push(short),
            Ok(_) | Err(_) => {
                self.0.push(255);
                let length = u16::try_from(bytes.len()).expect("seeds are short");
                self.0.extend_from_slice(&length.to_be_bytes());
            }
        }
        self.bytes(bytes)
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_script_writes_a_feed_reads() {
        let long = vec![7; 300];
        let script = Script::default().bytes(&[1, 2]).chunk(b"abc").chunk(&long).done();
        let mut feed = Feed::new(&script);
        assert_eq!((feed.u16(), feed.chunk(), feed.chunk()), (0x0102, &b"abc"[..], &long[..]));
        assert!(feed.is_empty() && feed.u32() == 0);
    }
}
