//! Layouts: which suite and kind a datagram is, and where its fields stand.

use std::fmt;

/// What seals a session, and by which types its messages are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suite {
    /// Stock WireGuard: types 1 to 4, ChaCha20-Poly1305, no metadata.
    WireGuard,
    /// Types 0xC0 to 0xC3, AES-256-GCM.
    AesGcm,
    /// Types 0xC4 to 0xC7, ChaCha20-Poly1305.
    ChaChaPoly,
}

/// The four messages of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageKind {
    /// First handshake message.
    Initiation,
    /// Second handshake message.
    Response,
    /// Answer of a host under load, with a cookie for the next try.
    Cookie,
    /// A sealed packet.
    Data,
}

/// The number by which the receiver of a message finds the session or handshake that it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiverIndex(pub u32);

/// Tells the suite and kind of `datagram` by its type bytes and length; `None` for everything that is no tunnel message.
///
/// Handshake messages have one exact length, data messages at least [`DATA_LEN_MIN`]. Nothing is authenticated.
pub fn classify(datagram: &[u8]) -> Option<(Suite, MessageKind)> {
    let (&[first, a, b, c], _) = datagram.split_first_chunk::<4>()?;
    let suite = Suite::of_type(first)?;
    let kind = MessageKind::at(first.wrapping_sub(suite.first_type()))?;
    let reserved_is_zero = a | b | c == 0;
    let fits = match kind {
        MessageKind::Initiation => reserved_is_zero && datagram.len() == suite.initiation_len(),
        MessageKind::Response => reserved_is_zero && datagram.len() == suite.response_len(),
        MessageKind::Cookie => reserved_is_zero && datagram.len() == COOKIE_LEN,
        MessageKind::Data => (reserved_is_zero || suite != Suite::WireGuard) && datagram.len() >= DATA_LEN_MIN,
    };
    fits.then_some((suite, kind))
}

/// The receiver index of a response, cookie reply or data message; `None` for an initiation and for other datagrams.
pub fn receiver_index(datagram: &[u8]) -> Option<ReceiverIndex> {
    let (suite, kind) = classify(datagram)?;
    let at = |offset: usize| datagram.get(offset..)?.first_chunk::<4>().copied();
    match (kind, suite) {
        (MessageKind::Initiation, _) => None,
        (MessageKind::Response, _) => at(8).map(u32::from_le_bytes),
        (MessageKind::Cookie, _) | (MessageKind::Data, Suite::WireGuard) => at(4).map(u32::from_le_bytes),
        (MessageKind::Data, Suite::AesGcm | Suite::ChaChaPoly) => at(8).map(u32::from_be_bytes),
    }
    .map(ReceiverIndex)
}

/// The sender's own index in an initiation or response; `None` for other datagrams.
pub fn sender_index(datagram: &[u8]) -> Option<ReceiverIndex> {
    match classify(datagram)?.1 {
        MessageKind::Initiation | MessageKind::Response => {
            let bytes = datagram.get(4..)?.first_chunk::<4>()?;
            Some(ReceiverIndex(u32::from_le_bytes(*bytes)))
        }
        MessageKind::Cookie | MessageKind::Data => None,
    }
}

impl Suite {
    /// All suites, in the order of their types.
    pub const ALL: [Self; 3] = [Self::WireGuard, Self::AesGcm, Self::ChaChaPoly];

    /// The type byte of this suite's messages of one kind.
    pub const fn message_type(self, kind: MessageKind) -> u8 {
        self.first_type() + kind.offset()
    }

    /// Bytes of an initiation.
    pub const fn initiation_len(self) -> usize {
        8 + KEY_LEN + (KEY_LEN + TAG_LEN) + (self.initiation_payload_len() + TAG_LEN) + 2 * MAC_LEN
    }

    /// Bytes of a response.
    pub const fn response_len(self) -> usize {
        12 + KEY_LEN + (self.response_payload_len() + TAG_LEN) + 2 * MAC_LEN
    }

    pub(crate) const fn initiation_payload_len(self) -> usize {
        match self {
            Self::WireGuard => TAI64N_LEN,
            Self::AesGcm | Self::ChaChaPoly => TAI64N_LEN + PSK_ID_LEN,
        }
    }

    pub(crate) const fn response_payload_len(self) -> usize {
        match self {
            Self::WireGuard => 0,
            Self::AesGcm | Self::ChaChaPoly => PSK_ID_LEN,
        }
    }

    const fn first_type(self) -> u8 {
        match self {
            Self::WireGuard => 1,
            Self::AesGcm => 0xC0,
            Self::ChaChaPoly => 0xC4,
        }
    }

    fn of_type(first: u8) -> Option<Self> {
        match first {
            1..=4 => Some(Self::WireGuard),
            0xC0..=0xC3 => Some(Self::AesGcm),
            0xC4..=0xC7 => Some(Self::ChaChaPoly),
            _ => None,
        }
    }
}

impl MessageKind {
    const fn offset(self) -> u8 {
        match self {
            Self::Initiation => 0,
            Self::Response => 1,
            Self::Cookie => 2,
            Self::Data => 3,
        }
    }

    fn at(offset: u8) -> Option<Self> {
        match offset {
            0 => Some(Self::Initiation),
            1 => Some(Self::Response),
            2 => Some(Self::Cookie),
            3 => Some(Self::Data),
            _ => None,
        }
    }
}

impl fmt::Debug for ReceiverIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiverIndex({:08x})", self.0)
    }
}

/// The shortest data message: an empty packet (keepalive).
pub const DATA_LEN_MIN: usize = 32;
pub(crate) const COOKIE_LEN: usize = 64;
pub(crate) const KEY_LEN: usize = 32;
pub(crate) const TAG_LEN: usize = 16;
pub(crate) const MAC_LEN: usize = 16;
pub(crate) const TAI64N_LEN: usize = 12;
pub(crate) const PSK_ID_LEN: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_tables() {
        assert_eq!((Suite::WireGuard.initiation_len(), Suite::WireGuard.response_len()), (148, 92));
        for suite in [Suite::AesGcm, Suite::ChaChaPoly] {
            assert_eq!((suite.initiation_len(), suite.response_len()), (152, 96));
        }
    }

    #[test]
    fn datagrams_too_short_for_any_message_are_none() {
        for first in 0..=u8::MAX {
            for len in 0..DATA_LEN_MIN {
                let datagram = vec![first; len];
                assert_eq!(
                    (classify(&datagram), receiver_index(&datagram), sender_index(&datagram)),
                    (None, None, None)
                );
            }
        }
    }

    #[test]
    fn every_first_byte_belongs_to_at_most_one_kind() {
        for first in 0..=u8::MAX {
            let mut kinds = Vec::new();
            for len in [64, 92, 96, 148, 152, 1000] {
                let mut datagram = vec![0; len];
                datagram[0] = first;
                if let Some((suite, kind)) = classify(&datagram)
                    && !kinds.contains(&(suite, kind))
                {
                    assert_eq!(suite.message_type(kind), first);
                    kinds.push((suite, kind));
                }
            }
            let ours = matches!(first, 1..=4 | 0xC0..=0xC7);
            assert_eq!(kinds.len(), usize::from(ours), "first byte {first:#x}");
        }
    }

    #[test]
    fn handshake_messages_have_one_length_each() {
        for suite in Suite::ALL {
            for (kind, len) in [
                (MessageKind::Initiation, suite.initiation_len()),
                (MessageKind::Response, suite.response_len()),
                (MessageKind::Cookie, COOKIE_LEN),
            ] {
                for other in 0..300 {
                    let mut datagram = vec![0; other];
                    if let Some(first) = datagram.first_mut() {
                        *first = suite.message_type(kind);
                    }
                    assert_eq!(classify(&datagram), (other == len).then_some((suite, kind)));
                }
            }
        }
    }

    #[test]
    fn reserved_bytes_must_be_zero_except_where_the_counter_stands() {
        for suite in Suite::ALL {
            for (kind, len) in [
                (MessageKind::Initiation, suite.initiation_len()),
                (MessageKind::Response, suite.response_len()),
                (MessageKind::Cookie, COOKIE_LEN),
                (MessageKind::Data, DATA_LEN_MIN),
            ] {
                for reserved in 1..4 {
                    let mut datagram = vec![0; len];
                    datagram[0] = suite.message_type(kind);
                    datagram[reserved] = 1;
                    let allowed = kind == MessageKind::Data && suite != Suite::WireGuard;
                    assert_eq!(classify(&datagram).is_some(), allowed);
                }
            }
        }
    }

    #[test]
    fn indices_are_read_from_their_place() {
        let mut data = vec![0; DATA_LEN_MIN];
        data[..12].copy_from_slice(&[0xC3, 9, 9, 9, 9, 9, 9, 9, 1, 2, 3, 4]);
        assert_eq!(receiver_index(&data), Some(ReceiverIndex(0x0102_0304)));
        data[..8].copy_from_slice(&[4, 0, 0, 0, 4, 3, 2, 1]);
        assert_eq!(receiver_index(&data), Some(ReceiverIndex(0x0102_0304)));
        assert_eq!(sender_index(&data), None);
        let mut response = vec![0; 92];
        response[..12].copy_from_slice(&[2, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(receiver_index(&response), Some(ReceiverIndex(0x0102_0304)));
        assert_eq!(sender_index(&response), Some(ReceiverIndex(0x0506_0708)));
    }
}
