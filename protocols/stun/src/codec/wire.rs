//! The bytes of a message before its attributes mean anything.

use super::attribute;
use super::message::Malformed;

/// Length of the message header (RFC 8489 §5).
pub const HEADER_LEN: usize = 20;

/// Most attributes that a message may have; the busiest message in use, an Allocate request, has ten.
pub const MAX_ATTRIBUTES: usize = 64;

/// Tells whether a datagram is a STUN message: two zero bits, the magic cookie, and a length that is a multiple of four
/// and fits.
///
/// Says nothing about what the message holds.
pub fn is_stun(datagram: &[u8]) -> bool {
    let Some((&[kind, _, high, low, a, b, c, d], _)) = datagram.split_first_chunk() else { return false };
    let length = usize::from(u16::from_be_bytes([high, low]));
    kind & 0xC0 == 0
        && [a, b, c, d] == MAGIC_COOKIE
        && length.is_multiple_of(4)
        && datagram.len() >= HEADER_LEN.saturating_add(length)
}

/// What a pass over the attribute headers finds.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Comprehension-required types up to MESSAGE-INTEGRITY, each once, in order.
    pub(super) required: Vec<u16>,
    /// Where the first MESSAGE-INTEGRITY starts.
    pub(super) integrity: Option<usize>,
    /// Where FINGERPRINT starts; it is the last attribute.
    pub(super) fingerprint: Option<usize>,
}

/// Walks the attribute headers of exactly one message.
pub(super) fn layout(datagram: &[u8]) -> Result<Layout, Malformed> {
    if !is_stun(datagram) {
        return Err(Malformed::NotStun);
    }
    let length = usize::from(u16::from_be_bytes([byte(datagram, 2), byte(datagram, 3)]));
    if datagram.len() != HEADER_LEN + length {
        return Err(Malformed::TrailingBytes);
    }
    let mut found = Layout::default();
    let mut position = HEADER_LEN;
    let mut count = 0;
    while position < datagram.len() {
        if found.fingerprint.is_some() {
            return Err(Malformed::Fingerprint);
        }
        count += 1;
        if count > MAX_ATTRIBUTES {
            return Err(Malformed::TooManyAttributes);
        }
        let (kind, value) = attribute_at(datagram, position).ok_or(Malformed::Truncated)?;
        note(&mut found, kind, position);
        position += ATTRIBUTE_HEADER_LEN + value.len().next_multiple_of(4);
        if position > datagram.len() {
            return Err(Malformed::Truncated);
        }
    }
    Ok(found)
}

fn note(found: &mut Layout, kind: u16, position: usize) {
    if kind == attribute::FINGERPRINT {
        found.fingerprint = Some(position);
    } else if kind == attribute::MESSAGE_INTEGRITY && found.integrity.is_none() {
        found.integrity = Some(position);
    } else if kind < FIRST_OPTIONAL && found.integrity.is_none() && !found.required.contains(&kind) {
        found.required.push(kind);
    }
}

/// The attribute whose header starts at `position`: its type and its value without padding.
pub(super) fn attribute_at(datagram: &[u8], position: usize) -> Option<(u16, &[u8])> {
    let (&[kind_high, kind_low, high, low], rest) = datagram.get(position..)?.split_first_chunk()?;
    let value = rest.get(..usize::from(u16::from_be_bytes([high, low])))?;
    Some((u16::from_be_bytes([kind_high, kind_low]), value))
}

fn byte(datagram: &[u8], index: usize) -> u8 {
    datagram.get(index).copied().unwrap_or_default()
}

/// RFC 8489 §5.
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
pub(super) const ATTRIBUTE_HEADER_LEN: usize = 4;
/// Types from here on may be ignored by who does not know them (RFC 8489 §14).
const FIRST_OPTIONAL: u16 = 0x8000;
