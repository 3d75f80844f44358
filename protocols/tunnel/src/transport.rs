//! Sealing and opening of packets, in place and without allocation.

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use thiserror::Error;

use crate::key::TransportKey;
use crate::metadata::Metadata;
use crate::replay::{ReplayError, ReplayWindow, WindowSize};
use crate::timers;
use crate::wire::{DATA_LEN_MIN, MessageKind, ReceiverIndex, Suite, TAG_LEN};

/// Free bytes that [`Sealer::seal`] wants before the packet, for the header and the metadata.
pub const HEADROOM: usize = 16;
/// Free bytes that [`Sealer::seal`] wants after the packet, for padding and tag.
pub const TAILROOM: usize = 32;
/// Bytes that sealing adds to a packet, padding aside.
pub const OVERHEAD: usize = HEADROOM + TAG_LEN;

/// Why a packet was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SealError {
    /// The key has sealed all that it may; the session must be replaced.
    #[error("key is used up")]
    Exhausted,
    /// The packet is longer than 65,535 bytes or the buffer lacks room around it.
    #[error("packet does not fit its buffer")]
    NoRoom,
}

/// Why a datagram was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The datagram is no data message of this session's suite.
    #[error("not a data message of the session's suite")]
    WrongType,
    /// The key has opened all that it may; the session must be replaced.
    #[error("key is used up")]
    Exhausted,
    /// The datagram was not sealed with the session's key.
    #[error("datagram is not authentic")]
    Forged,
    /// The counter was opened before.
    #[error("datagram was opened before")]
    Replayed,
    /// The counter is behind the replay window.
    #[error("datagram is behind the replay window")]
    TooOld,
    /// The metadata is not one that this version knows.
    #[error("metadata is unknown")]
    UnknownMetadata,
}

/// Seals the packets of one direction of one session.
pub struct Sealer {
    suite: Suite,
    key: LessSafeKey,
    remote_index: ReceiverIndex,
    counter: u64,
    usage: Usage,
    mtu: usize,
}

impl Sealer {
    /// Makes the sealer of a session whose receiver knows it as `remote_index`. Counters begin at zero.
    pub fn new(suite: Suite, key: TransportKey, remote_index: ReceiverIndex) -> Self {
        Self { suite, key: bind(suite, &key), remote_index, counter: 0, usage: Usage::new(suite), mtu: usize::MAX }
    }

    /// Sets the length in bytes beyond which WireGuard's padding never lengthens a packet; without it every packet is
    /// padded to a multiple of 16.
    pub fn set_mtu(&mut self, mtu: usize) {
        self.mtu = mtu;
    }

    /// Skips counters: the next packet takes `counter`, or a later one if `counter` was reached already.
    pub fn skip_to(&mut self, counter: u64) {
        self.counter = self.counter.max(counter);
    }

    /// Counts `blocks` of 16 bytes towards the key's limit, as if they had been sealed.
    pub fn charge_blocks(&mut self, blocks: u64) {
        self.usage.blocks = self.usage.blocks.saturating_add(blocks);
    }

    /// Seals the packet at `buf[HEADROOM..HEADROOM + len]` in place and returns the length of the datagram, which then
    /// starts at `buf[0]`.
    ///
    /// Each call that reaches the cipher uses up one counter. An empty packet makes a keepalive. WireGuard carries no
    /// metadata: there `metadata` is not sent.
    ///
    /// # Errors
    /// [`SealError::Exhausted`] at the key's limit; [`SealError::NoRoom`] when `buf` is too short for header, packet,
    /// padding and tag ([`TAILROOM`] always suffices).
    pub fn seal(&mut self, metadata: Metadata, buf: &mut [u8], len: usize) -> Result<usize, SealError> {
        let end = HEADROOM + if len <= PACKET_LEN_MAX { self.padded(len) } else { return Err(SealError::NoRoom) };
        let datagram = buf.get_mut(..end + TAG_LEN).ok_or(SealError::NoRoom)?;
        self.usage.admit(self.counter, end).map_err(|Limit| SealError::Exhausted)?;
        let counter = self.counter;
        self.counter += 1;

        let (head, tag) = datagram.split_at_mut(end);
        let written = match self.suite {
            Suite::WireGuard => {
                head[HEADROOM + len..].fill(0);
                let (header, packet) = head.split_at_mut(HEADROOM);
                header[..4].copy_from_slice(&u32::from(self.suite.message_type(MessageKind::Data)).to_le_bytes());
                header[4..8].copy_from_slice(&self.remote_index.0.to_le_bytes());
                header[8..].copy_from_slice(&counter.to_le_bytes());
                self.key.seal_in_place_separate_tag(nonce(self.suite, counter), Aad::from(&[][..]), packet)
            }
            Suite::AesGcm | Suite::ChaChaPoly => {
                let (header, sealed) = head.split_at_mut(HEADER_LEN);
                header[..8].copy_from_slice(&counter.to_be_bytes());
                header[0] = self.suite.message_type(MessageKind::Data);
                header[8..].copy_from_slice(&self.remote_index.0.to_be_bytes());
                sealed[..Metadata::LEN].copy_from_slice(&metadata.encode());
                self.key.seal_in_place_separate_tag(nonce(self.suite, counter), Aad::from(&header[..]), sealed)
            }
        };
        tag.copy_from_slice(written.expect("packets are far below the ciphers' limits").as_ref());
        Ok(end + TAG_LEN)
    }

    /// Whether the key has sealed so much that a successor is due.
    pub fn rekey_due(&self) -> bool {
        self.usage.rekey_due(self.counter)
    }

    /// The counter of the next packet; the number of packets sealed unless some were skipped.
    pub const fn next_counter(&self) -> u64 {
        self.counter
    }

    /// The index by which the receiver knows the session.
    pub const fn remote_index(&self) -> ReceiverIndex {
        self.remote_index
    }

    /// The suite of the session.
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    fn padded(&self, len: usize) -> usize {
        match self.suite {
            Suite::WireGuard => len.next_multiple_of(16).min(self.mtu.max(len)),
            Suite::AesGcm | Suite::ChaChaPoly => len,
        }
    }
}

/// Opens the packets of one direction of one session, each once.
pub struct Opener {
    suite: Suite,
    key: LessSafeKey,
    window: ReplayWindow,
    usage: Usage,
}

impl Opener {
    /// Makes the opener of a session, with the window that WireGuard has.
    pub fn new(suite: Suite, key: TransportKey) -> Self {
        Self::with_window(suite, key, WindowSize::Standard)
    }

    /// Makes the opener of a session with a window of the given size.
    pub fn with_window(suite: Suite, key: TransportKey, size: WindowSize) -> Self {
        Self { suite, key: bind(suite, &key), window: ReplayWindow::new(size), usage: Usage::new(suite) }
    }

    /// Counts `blocks` of 16 bytes towards the key's limit, as if they had been opened.
    pub fn charge_blocks(&mut self, blocks: u64) {
        self.usage.blocks = self.usage.blocks.saturating_add(blocks);
    }

    /// Opens `datagram` in place and returns its metadata and packet; the packet of a keepalive is empty.
    ///
    /// Under WireGuard the packet may end in zeros that its own length field does not cover, for the caller to trim.
    /// The replay window moves only for authentic datagrams. After an error the content of `datagram` is undefined.
    ///
    /// # Errors
    /// [`OpenError`]; all but [`OpenError::Exhausted`] are the sender's or an attacker's doing and leave the session as
    /// it was.
    pub fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<(Metadata, &'a mut [u8]), OpenError> {
        if datagram.len() < DATA_LEN_MIN {
            return Err(OpenError::WrongType);
        }
        let (head, tag) = datagram.split_at_mut(datagram.len() - TAG_LEN);
        let header_len = match self.suite {
            Suite::WireGuard => HEADROOM,
            Suite::AesGcm | Suite::ChaChaPoly => HEADER_LEN,
        };
        let size = head.len();
        let (header, sealed) = head.split_at_mut(header_len);
        let counter = self.counter_of(header).ok_or(OpenError::WrongType)?;
        self.usage.check(counter, size).map_err(|Limit| OpenError::Exhausted)?;
        let associated = match self.suite {
            Suite::WireGuard => &[][..],
            Suite::AesGcm | Suite::ChaChaPoly => header,
        };
        self.key
            .open_in_place_separate_tag(nonce(self.suite, counter), Aad::from(associated), tag, sealed)
            .map_err(|_| OpenError::Forged)?;
        self.window.accept(counter).map_err(|error| match error {
            ReplayError::Seen => OpenError::Replayed,
            ReplayError::TooOld => OpenError::TooOld,
        })?;
        self.usage.charge(size);
        match self.suite {
            Suite::WireGuard => Ok((Metadata::NONE, sealed)),
            Suite::AesGcm | Suite::ChaChaPoly => {
                let (metadata, packet) =
                    sealed.split_first_chunk_mut::<{ Metadata::LEN }>().ok_or(OpenError::WrongType)?;
                Ok((Metadata::decode(*metadata).ok_or(OpenError::UnknownMetadata)?, packet))
            }
        }
    }

    /// Whether the key has opened so much that a successor is due.
    pub fn rekey_due(&self) -> bool {
        self.usage.rekey_due(self.window.newest())
    }

    /// The suite of the session.
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    /// The counter in a header of this session's suite; `None` under another type.
    fn counter_of(&self, header: &[u8]) -> Option<u64> {
        let data = self.suite.message_type(MessageKind::Data);
        match self.suite {
            Suite::WireGuard => {
                let (kind, rest) = header.split_first_chunk::<4>()?;
                let counter = u64::from_le_bytes(*rest.get(4..)?.first_chunk::<8>()?);
                (u32::from_le_bytes(*kind) == u32::from(data)).then_some(counter)
            }
            Suite::AesGcm | Suite::ChaChaPoly => {
                let word = u64::from_be_bytes(*header.first_chunk::<8>()?);
                (word >> 56 == u64::from(data)).then_some(word & COUNTER_MASK)
            }
        }
    }
}

/// How much of a key's life is spent.
struct Usage {
    suite: Suite,
    blocks: u64,
}

struct Limit;

impl Usage {
    const fn new(suite: Suite) -> Self {
        Self { suite, blocks: 0 }
    }

    /// Refuses what would pass a limit. `size` counts the datagram's bytes less the tag.
    fn check(&self, counter: u64, size: usize) -> Result<(), Limit> {
        let (counters, blocks) = match self.suite {
            Suite::WireGuard => (timers::REJECT_AFTER_MESSAGES, u64::MAX),
            Suite::AesGcm => (timers::REJECT_AFTER_MESSAGES_U56, timers::REJECT_AFTER_BLOCKS),
            Suite::ChaChaPoly => (timers::REJECT_AFTER_MESSAGES_U56, u64::MAX),
        };
        let spent = self.blocks.saturating_add(blocks_of(size));
        if counter >= counters || spent > blocks { Err(Limit) } else { Ok(()) }
    }

    fn charge(&mut self, size: usize) {
        self.blocks = self.blocks.saturating_add(blocks_of(size));
    }

    fn admit(&mut self, counter: u64, size: usize) -> Result<(), Limit> {
        self.check(counter, size)?;
        self.charge(size);
        Ok(())
    }

    fn rekey_due(&self, counter: u64) -> bool {
        match self.suite {
            Suite::WireGuard => counter >= timers::REKEY_AFTER_MESSAGES,
            Suite::AesGcm => counter >= timers::REKEY_AFTER_MESSAGES_U56 || self.blocks >= timers::REKEY_AFTER_BLOCKS,
            Suite::ChaChaPoly => counter >= timers::REKEY_AFTER_MESSAGES_U56,
        }
    }
}

/// Cipher calls that a datagram costs: its sealed bytes in blocks and one for the tag. The header's 12 bytes, counted
/// along, make this an upper bound.
const fn blocks_of(size: usize) -> u64 {
    size.div_ceil(16) as u64 + 1
}

fn bind(suite: Suite, key: &TransportKey) -> LessSafeKey {
    let algorithm = match suite {
        Suite::AesGcm => &AES_256_GCM,
        Suite::WireGuard | Suite::ChaChaPoly => &CHACHA20_POLY1305,
    };
    LessSafeKey::new(UnboundKey::new(algorithm, key.as_bytes()).expect("both ciphers take keys of 32 bytes"))
}

fn nonce(suite: Suite, counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&match suite {
        Suite::AesGcm => counter.to_be_bytes(),
        Suite::WireGuard | Suite::ChaChaPoly => counter.to_le_bytes(),
    });
    Nonce::assume_unique_for_key(bytes)
}

/// Type, counter and receiver index of the data messages between ginneld.
const HEADER_LEN: usize = 12;
/// No IP packet is longer.
const PACKET_LEN_MAX: usize = 65_535;
const COUNTER_MASK: u64 = (1 << 56) - 1;

#[cfg(test)]
mod tests;
