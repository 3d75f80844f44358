//! The forger's tools: it has broken into the server, holds its keys and its database, and writes entries by hand.
//!
//! Nothing here is shared with the crate that verifies: the encodings follow the tables in the documentation of
//! `ginnel-membership`, so that a forgery fails for what it says and not for how it was made.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use blake2::{Blake2s256, Digest as _};
use ed25519_dalek::{Signer as _, SigningKey};
use rusqlite::{Connection, params};

/// A stopped server's state folder in the wrong hands.
pub(super) struct Forger {
    database: PathBuf,
    sequencer: SigningKey,
}

/// One stored entry, taken apart.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) time: u64,
    pub(super) record: Vec<u8>,
}

/// A log as the forger wants it.
pub(super) struct History {
    pub(super) network: [u8; 32],
    pub(super) entries: Vec<Stored>,
}

impl Forger {
    /// Takes the keys out of the folder.
    pub(super) fn break_in(state: &Path) -> Result<Self> {
        let keys = std::fs::read(state.join("server.key")).context("read the server's keys")?;
        let seed: [u8; 32] = keys.get(1..33).context("the key file is short")?.try_into()?;
        Ok(Self { database: state.join("signal.db"), sequencer: SigningKey::from_bytes(&seed) })
    }

    /// Reads the only network's log.
    pub(super) fn read(&self) -> Result<History> {
        let database = Connection::open(&self.database)?;
        let mut query = database.prepare("SELECT network, bytes FROM entry ORDER BY network, sequence")?;
        let rows: Vec<([u8; 32], Vec<u8>)> =
            query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
        let network = rows.first().context("the server has no log")?.0;
        ensure!(rows.iter().all(|(of, _)| *of == network), "the server has several networks");
        let entries = rows.iter().map(|(_, bytes)| Stored::decode(bytes)).collect::<Result<_>>()?;
        Ok(History { network, entries })
    }

    /// Writes a log over the one that is there: every entry in its place, chained and signed with the server's true key.
    pub(super) fn write(&self, history: &History) -> Result<()> {
        let mut database = Connection::open(&self.database)?;
        let transaction = database.transaction()?;
        transaction.execute("DELETE FROM entry WHERE network = ?1", params![history.network])?;
        let mut previous = history.network;
        for (sequence, entry) in (0_u64..).zip(&history.entries) {
            let unsigned = entry.unsigned(sequence, &previous)?;
            previous = hash("ginnel entry v1", &unsigned);
            let mut message = labelled("ginnel entry v1");
            message.extend(history.network);
            message.extend(&unsigned);
            let signature = self.sequencer.sign(&message);
            let bytes = [unsigned, signature.to_bytes().to_vec()].concat();
            let sequence = i64::try_from(sequence)?;
            transaction.execute(
                "INSERT INTO entry (network, sequence, bytes) VALUES (?1, ?2, ?3)",
                params![history.network, sequence, bytes],
            )?;
        }
        transaction.commit()?;
        Ok(())
    }
}

impl Stored {
    fn decode(bytes: &[u8]) -> Result<Self> {
        let field = |from: usize, length: usize| bytes.get(from..from + length).context("a stored entry is short");
        let time = u64::from_be_bytes(field(41, 8)?.try_into()?);
        let length = usize::from(u16::from_be_bytes(field(49, 2)?.try_into()?));
        Ok(Self { time, record: field(51, length)?.to_vec() })
    }

    fn unsigned(&self, sequence: u64, previous: &[u8; 32]) -> Result<Vec<u8>> {
        let length = u16::try_from(self.record.len())?;
        let mut bytes = vec![1];
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(previous);
        bytes.extend(self.time.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend(&self.record);
        Ok(bytes)
    }

    /// The type of the record, as the tables number it.
    pub(super) fn kind(&self) -> Option<u8> {
        self.record.get(1).copied()
    }
}

/// A record that lets `member` in by an invite, both signatures true; whether the invite exists is another question.
pub(super) fn member_record(
    network: &[u8; 32],
    invite: &SigningKey,
    member: &SigningKey,
    name: &str,
) -> Result<Vec<u8>> {
    let mut body = vec![1, MEMBER];
    body.extend(invite.verifying_key().as_bytes());
    body.extend(member.verifying_key().as_bytes());
    // Any point serves as tunnel key: nobody shall get so far as to use it.
    body.extend(hash("forged tunnel key", member.verifying_key().as_bytes()));
    body.push(u8::try_from(name.len())?);
    body.extend(name.as_bytes());
    body.extend(BOTH_SUITES.to_be_bytes());
    Ok(signed(network, body, &[invite, member]))
}

/// A record that makes `invite` an invite, signed by somebody who is no admin.
pub(super) fn invite_record(network: &[u8; 32], by: &SigningKey, invite: &SigningKey, expires: u64) -> Vec<u8> {
    let mut body = vec![1, INVITE];
    body.extend(invite.verifying_key().as_bytes());
    body.extend(expires.to_be_bytes());
    body.push(0);
    signed(network, body, &[by])
}

/// Puts another tunnel key into a member's record, whose signatures are then those of the old one.
pub(super) fn swap_tunnel_key(entry: &mut Stored, key: &[u8; 32]) -> Result<()> {
    ensure!(entry.kind() == Some(MEMBER), "only a member's record has a tunnel key");
    entry.record.get_mut(66..98).context("the record is short")?.copy_from_slice(key);
    Ok(())
}

fn signed(network: &[u8; 32], body: Vec<u8>, signers: &[&SigningKey]) -> Vec<u8> {
    let mut message = labelled("ginnel record v1");
    message.extend(network);
    message.extend(&body);
    let mut signatures: Vec<_> =
        signers.iter().map(|key| (key.verifying_key().to_bytes(), key.sign(&message).to_bytes())).collect();
    signatures.sort_unstable();
    let mut record = body;
    record.push(signatures.len() as u8);
    for (key, signature) in signatures {
        record.extend(key);
        record.extend(signature);
    }
    record
}

fn labelled(label: &str) -> Vec<u8> {
    let mut bytes = vec![label.len() as u8];
    bytes.extend(label.as_bytes());
    bytes
}

fn hash(label: &str, data: &[u8]) -> [u8; 32] {
    Blake2s256::new().chain_update(labelled(label)).chain_update(data).finalize().into()
}

/// Types of records.
pub(super) const INVITE: u8 = 2;
pub(super) const MEMBER: u8 = 4;
const BOTH_SUITES: u16 = 3;
