//! Log entries: a record in its place, signed by the network's sequencer.

use crate::codec::{Malformed, Reader, Writer};
use crate::keys::{BadSignature, Context, NetworkId, Signature, SigningKey, Verifier, hash};
use crate::record::MAX_RECORD_LEN;

/// One link of the log's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The entry's place, from 0.
    pub sequence: u64,
    /// The hash of the entry before; the network id for entry 0.
    pub previous: [u8; 32],
    /// When the sequencer took it, Unix seconds; never decreasing, at most [`MAX_TIME`].
    pub time: u64,
    /// A record of at most [`MAX_RECORD_LEN`] bytes.
    pub record: Vec<u8>,
    /// The sequencer's, over [`Context::ENTRY`], the network id and everything before it.
    pub signature: Signature,
}

impl Entry {
    pub(crate) fn sign(key: &SigningKey, network: &NetworkId, place: Place, record: &[u8]) -> Self {
        let unsigned = encode_unsigned(&place, record);
        let signature = key.sign_parts(Context::ENTRY, &[network.as_bytes(), &unsigned]);
        let Place { sequence, previous, time } = place;
        Self { sequence, previous, time, record: record.to_vec(), signature }
    }

    /// Reads an entry; neither chain nor signatures are checked.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        reader.version(VERSION)?;
        let (sequence, previous, time) = (reader.u64()?, reader.array()?, reader.u64()?);
        let len = usize::from(reader.u16()?);
        if len > MAX_RECORD_LEN {
            return Err(Malformed::TooLong);
        }
        let record = reader.bytes(len)?.to_vec();
        let signature = Signature::from_bytes(reader.array()?);
        reader.end()?;
        Ok(Self { sequence, previous, time, record, signature })
    }

    /// The entry's one encoding, at most [`MAX_ENTRY_LEN`] bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.unsigned();
        bytes.extend_from_slice(&self.signature.to_bytes());
        bytes
    }

    /// The hash that the next entry names: over everything but the signature, so that a head stands for what was ordered.
    pub fn hash(&self) -> [u8; 32] {
        hash("ginnel entry v1", &[&self.unsigned()])
    }

    pub(crate) fn verify(&self, network: &NetworkId, sequencer: &Verifier) -> Result<(), BadSignature> {
        sequencer.verify(Context::ENTRY, &[network.as_bytes(), &self.unsigned()], &self.signature)
    }

    fn unsigned(&self) -> Vec<u8> {
        encode_unsigned(&Place { sequence: self.sequence, previous: self.previous, time: self.time }, &self.record)
    }
}

/// Where and when an entry stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) sequence: u64,
    pub(crate) previous: [u8; 32],
    pub(crate) time: u64,
}

fn encode_unsigned(place: &Place, record: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(VERSION);
    writer.u64(place.sequence).bytes(&place.previous).u64(place.time);
    writer.u16(record.len().min(usize::from(u16::MAX)) as u16).bytes(record);
    writer.into_bytes()
}

/// Bytes of an encoded entry at most.
pub const MAX_ENTRY_LEN: usize = 1 + 8 + 32 + 8 + 2 + MAX_RECORD_LEN + 64;
/// The latest time that an entry may have: the end of the year 9999. The log's time never decreases, so that without an end
/// one wrong entry would leave no time at which an invite is still open.
pub const MAX_TIME: u64 = 253_402_300_799;
const VERSION: u8 = 1;
