//! The four sealed bytes before the packet in data messages between ginneld.
//!
//! | byte | content |
//! |---|---|
//! | 0 | flags: 0x01 checksum partial, 0x02 part of a run, 0x04 last of its run; the other bits are zero |
//! | 1 | place in the run, from 0; zero without a run |
//! | 2, 3 | id of the run, big-endian; zero without a run |

/// What a sealed packet's receiver must know beside the packet itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// How far the packet's TCP or UDP checksum was computed.
    pub checksum: Checksum,
    /// The run of segments that the packet belongs to. Only packets with a partial checksum join runs.
    pub run: Option<Run>,
}

/// How far a packet's checksum was computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// The checksum is the one that the packet shows to the world.
    #[default]
    Complete,
    /// An unfragmented TCP or UDP packet whose checksum field holds the pseudo-header's sum only.
    Partial,
}

/// A segment's place among the segments that one large packet was cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Tells runs apart that follow each other.
    pub id: u16,
    /// Place in the run, from 0.
    pub index: u8,
    /// Whether this is the run's last segment.
    pub last: bool,
}

impl Metadata {
    /// An ordinary packet: complete checksum, no run.
    pub const NONE: Self = Self { checksum: Checksum::Complete, run: None };

    pub(crate) const LEN: usize = 4;

    pub(crate) const fn encode(self) -> [u8; Self::LEN] {
        let partial = match self.checksum {
            Checksum::Complete => 0,
            Checksum::Partial => PARTIAL,
        };
        match self.run {
            None => [partial, 0, 0, 0],
            Some(run) => {
                let [high, low] = run.id.to_be_bytes();
                let last = if run.last { LAST } else { 0 };
                [partial | RUN | last, run.index, high, low]
            }
        }
    }

    /// Reads the four bytes; `None` when they break the table or name a run of packets with complete checksums.
    pub(crate) fn decode([flags, index, high, low]: [u8; Self::LEN]) -> Option<Self> {
        match flags {
            0 | PARTIAL if index | high | low == 0 => {
                Some(Self { checksum: if flags == 0 { Checksum::Complete } else { Checksum::Partial }, run: None })
            }
            IN_RUN | LAST_IN_RUN => {
                let run = Run { id: u16::from_be_bytes([high, low]), index, last: flags == LAST_IN_RUN };
                Some(Self { checksum: Checksum::Partial, run: Some(run) })
            }
            _ => None,
        }
    }
}

const PARTIAL: u8 = 0x01;
const RUN: u8 = 0x02;
const LAST: u8 = 0x04;
const IN_RUN: u8 = PARTIAL | RUN;
const LAST_IN_RUN: u8 = PARTIAL | RUN | LAST;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_table() {
        assert_eq!(Metadata::NONE.encode(), [0; 4]);
        let partial = Metadata { checksum: Checksum::Partial, run: None };
        assert_eq!(partial.encode(), [1, 0, 0, 0]);
        let run = |last| Metadata { checksum: Checksum::Partial, run: Some(Run { id: 0x1234, index: 7, last }) };
        assert_eq!(run(false).encode(), [3, 7, 0x12, 0x34]);
        assert_eq!(run(true).encode(), [7, 7, 0x12, 0x34]);
    }

    #[test]
    fn every_value_is_either_refused_or_returns_to_its_bytes() {
        let mut accepted = 0;
        for flags in 0..=u8::MAX {
            for rest in [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [255, 255, 255]] {
                let bytes = [flags, rest[0], rest[1], rest[2]];
                if let Some(metadata) = Metadata::decode(bytes) {
                    assert_eq!(metadata.encode(), bytes);
                    accepted += 1;
                }
            }
        }
        assert_eq!(accepted, 2 + 2 * 5);
    }

    #[test]
    fn run_of_complete_checksums_is_refused() {
        assert_eq!(Metadata::decode([2, 0, 0, 1]), None);
        assert_eq!(Metadata::decode([4, 0, 0, 0]), None);
    }
}
