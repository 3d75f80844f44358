//! ChannelData (RFC 8656 §12.4) as UDP carries it: no padding.
//!
//! | bytes | field |
//! |---|---|
//! | 0–1 | channel number, big-endian, 0x4000–0x4FFF |
//! | 2–3 | length of the data, big-endian |
//! | 4.. | data |

use std::fmt;

/// Bytes before the data.
pub const HEADER_LEN: usize = 4;

/// A channel number, 0x4000 to 0x4FFF by construction (RFC 8656 §12).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// The smallest number.
    pub const MIN: Self = Self(0x4000);
    /// The largest number.
    pub const MAX: Self = Self(0x4FFF);

    /// The channel of this number, if it is in range.
    pub const fn new(number: u16) -> Option<Self> {
        if number >= Self::MIN.0 && number <= Self::MAX.0 { Some(Self(number)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The number after this one, round to the smallest after the largest.
    pub(crate) const fn next(self) -> Self {
        if self.0 >= Self::MAX.0 { Self::MIN } else { Self(self.0 + 1) }
    }
}

impl fmt::Debug for ChannelNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelNumber({:#06x})", self.0)
    }
}

/// Why bytes are not ChannelData.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Fewer than four bytes.
    #[error("shorter than a ChannelData header")]
    TooShort,
    /// The number is not one of a channel.
    #[error("not a channel number")]
    NotAChannel,
    /// The length says more than arrived.
    #[error("length reaches past the end of the datagram")]
    Truncated,
    /// More follows the data than the padding that a careless sender adds.
    #[error("bytes follow the data")]
    TrailingBytes,
}

/// Tells by the first byte whether a datagram from a TURN server may be ChannelData; it never is STUN.
///
/// Holds for other protocols' datagrams too: ask only for datagrams that came from a TURN server, or to one.
pub fn is_channel_data(datagram: &[u8]) -> bool {
    matches!(datagram, [0x40..=0x4F, _, _, _, ..])
}

/// The header for `length` bytes of data, or nothing when they do not fit its 16 bits.
pub fn encode_header(channel: ChannelNumber, length: usize) -> Option<[u8; HEADER_LEN]> {
    let [c0, c1] = channel.0.to_be_bytes();
    let [l0, l1] = u16::try_from(length).ok()?.to_be_bytes();
    Some([c0, c1, l0, l1])
}

/// Reads one datagram of ChannelData; up to three bytes of padding are taken off (RFC 8656 §12.5).
///
/// # Errors
/// [`Malformed`] for everything else.
pub fn decode(datagram: &[u8]) -> Result<(ChannelNumber, &[u8]), Malformed> {
    let (&[c0, c1, l0, l1], rest) = datagram.split_first_chunk().ok_or(Malformed::TooShort)?;
    let channel = ChannelNumber::new(u16::from_be_bytes([c0, c1])).ok_or(Malformed::NotAChannel)?;
    let (data, padding) =
        rest.split_at_checked(usize::from(u16::from_be_bytes([l0, l1]))).ok_or(Malformed::Truncated)?;
    if padding.len() > 3 {
        return Err(Malformed::TrailingBytes);
    }
    Ok((channel, data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn header_is_that_of_the_rfc() {
        let channel = ChannelNumber::new(0x4001).unwrap();
        assert_eq!(encode_header(channel, 5), Some([0x40, 0x01, 0x00, 0x05]));
        assert_eq!(decode(&[0x40, 0x01, 0, 2, 9, 8]), Ok((channel, &[9, 8][..])));
        assert_eq!(encode_header(channel, 65_536), None);
    }

    #[test]
    fn numbers_outside_the_range_are_no_channels() {
        assert_eq!(ChannelNumber::new(0x3FFF), None);
        assert_eq!(ChannelNumber::new(0x5000), None);
        assert_eq!(decode(&[0x50, 0, 0, 0]), Err(Malformed::NotAChannel));
        assert_eq!(ChannelNumber::MAX.next(), ChannelNumber::MIN);
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        assert_eq!(decode(&[0x40, 0, 0]), Err(Malformed::TooShort));
        assert_eq!(decode(&[0x40, 0, 0, 3, 1, 2]), Err(Malformed::Truncated));
        assert_eq!(decode(&[0x40, 0, 0, 1, 7, 0, 0, 0]).map(|(_, data)| data), Ok(&[7][..]));
        assert_eq!(decode(&[0x40, 0, 0, 1, 7, 0, 0, 0, 0]), Err(Malformed::TrailingBytes));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok((channel, data)) = decode(&bytes) {
                let header = encode_header(channel, data.len()).unwrap();
                prop_assert!(bytes.starts_with(&[&header, data].concat()));
                prop_assert!(is_channel_data(&bytes));
            }
        }
    }
}
