//! What a datagram is, by its first bytes, its length and its source.

use ginnel_tunnel::{MessageKind, Suite};
use ginnel_turn::channel_data;

/// The kinds of datagram that share our sockets. Every datagram is exactly one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A sealed packet.
    Data(Suite),
    /// An initiation, response or cookie reply.
    Handshake,
    /// A STUN message.
    Stun,
    /// ChannelData, if it comes from a relay.
    ChannelData,
    /// Nothing that we know.
    Unknown,
}

/// Tells the kind of a datagram.
///
/// The first bytes exclude each other: 0xC0 to 0xC7 and 0x40 to 0x4F stand alone; 1 to 4 with three zero bytes is at
/// least 32 bytes long, while a STUN message that starts so says in the same zero bytes that it is 20 long.
#[inline]
pub(crate) fn classify(datagram: &[u8]) -> Kind {
    if let Some((suite, kind)) = ginnel_tunnel::classify(datagram) {
        return match kind {
            MessageKind::Data => Kind::Data(suite),
            MessageKind::Initiation | MessageKind::Response | MessageKind::Cookie => Kind::Handshake,
        };
    }
    if is_stun(datagram) {
        Kind::Stun
    } else if channel_data::is_channel_data(datagram) {
        Kind::ChannelData
    } else {
        Kind::Unknown
    }
}

/// RFC 8489 §5 and §6.3: two zero bits, the magic cookie, and a length that is a multiple of four and fits exactly.
fn is_stun(datagram: &[u8]) -> bool {
    let Some(&[kind, _, l0, l1, c0, c1, c2, c3]) = datagram.first_chunk::<8>() else { return false };
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    kind & 0xc0 == 0
        && [c0, c1, c2, c3] == MAGIC_COOKIE
        && length.is_multiple_of(4)
        && datagram.len() == STUN_HEADER_LEN + length
}

const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const STUN_HEADER_LEN: usize = 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claims(datagram: &[u8]) -> usize {
        usize::from(ginnel_tunnel::classify(datagram).is_some())
            + usize::from(is_stun(datagram))
            + usize::from(channel_data::is_channel_data(datagram))
    }

    #[test]
    fn a_stun_message_is_known_by_its_cookie_and_length() {
        let mut binding = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        binding.resize(20, 7);
        assert_eq!(classify(&binding), Kind::Stun);
        binding.push(0);
        assert_eq!(classify(&binding), Kind::Unknown);
        binding.pop();
        binding[4] = 0;
        assert_eq!(classify(&binding), Kind::Unknown);
    }

    #[test]
    fn a_success_response_is_not_taken_for_an_initiation() {
        let mut response = vec![1, 1, 0, 128, 0x21, 0x12, 0xa4, 0x42];
        response.resize(148, 0);
        assert_eq!(classify(&response), Kind::Stun);
        response[1] = 0;
        response[3] = 0;
        assert_eq!(classify(&response), Kind::Handshake);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn no_datagram_is_claimed_twice(
            first in prop_oneof![0u8..6, 0x3eu8..0x52, 0xbeu8..0xca, any::<u8>()],
            reserved in prop_oneof![Just([0u8, 0, 0]), any::<[u8; 3]>()],
            cookie in prop_oneof![Just(MAGIC_COOKIE), any::<[u8; 4]>()],
            len in prop_oneof![Just(0usize), Just(20), Just(32), Just(64), Just(92), Just(96), Just(148), Just(152), 0usize..200],
        ) {
            let mut datagram = [&[first], &reserved[..], &cookie[..]].concat();
            datagram.resize(len, 0);
            let known = classify(&datagram) != Kind::Unknown;
            prop_assert_eq!(claims(&datagram), usize::from(known));
        }
    }
}
