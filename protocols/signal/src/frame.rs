//! Frames of one stream: a length as u16 big-endian, then that many bytes.

use crate::noise::TAG_LEN;

/// Most bytes in one frame, the length field not counted.
pub const MAX_FRAME: usize = 65_535;

/// Most bytes of a message before it is sealed into a frame.
pub const MAX_MESSAGE: usize = MAX_FRAME - TAG_LEN;

/// A frame longer than its reader allows, or an empty one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame of {length} bytes where at most {limit} are allowed")]
pub(crate) struct BadLength {
    length: usize,
    limit: usize,
}

/// Cuts a byte stream into frames; holds at most one unfinished frame and what came with its last piece.
#[derive(Default)]
pub(crate) struct FrameReader {
    buffer: Vec<u8>,
}

impl FrameReader {
    /// Adds bytes as they came from the stream.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next whole frame.
    ///
    /// `limit` is what the state of the connection allows; it is judged as soon as the two length bytes are here, so an
    /// oversized frame is refused before it is held.
    pub(crate) fn next(&mut self, limit: usize) -> Result<Option<Vec<u8>>, BadLength> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*header));
        if length == 0 || length > limit {
            return Err(BadLength { length, limit });
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        let frame = frame.to_vec();
        self.buffer.drain(..HEADER_LEN + length);
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
        Ok(Some(frame))
    }
}

/// Puts the length before `frame`.
///
/// # Panics
/// On a frame over [`MAX_FRAME`]; senders cut their messages below [`MAX_MESSAGE`].
pub(crate) fn encode(frame: &[u8]) -> Vec<u8> {
    let length = u16::try_from(frame.len()).expect("frames are cut below MAX_FRAME");
    let mut bytes = Vec::with_capacity(HEADER_LEN + frame.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(frame);
    bytes
}

const HEADER_LEN: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let mut stream = encode(b"one");
        stream.extend(encode(b"two, longer"));
        for cut in 0..stream.len() {
            let mut reader = FrameReader::default();
            let mut frames = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                reader.push(part);
                while let Some(frame) = reader.next(100).unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [b"one".to_vec(), b"two, longer".to_vec()]);
        }
    }

    #[test]
    fn length_is_judged_before_the_frame_is_here() {
        let mut reader = FrameReader::default();
        reader.push(&[0x01, 0x00]);
        assert!(reader.next(255).is_err());
        let mut reader = FrameReader::default();
        reader.push(&[0, 0]);
        assert!(reader.next(255).is_err());
    }
}
