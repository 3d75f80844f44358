//! Log records: what admins and members sign, and the one encoding of each.
//!
//! A record is `version u8 = 1`, `type u8`, the body of its type, and a block of signatures; at most
//! [`MAX_RECORD_LEN`] bytes. Each signature is over [`Context::RECORD`], the network id (32 zero bytes for a genesis) and
//! everything before the block. The tables are in the [crate's docs](crate).

use thiserror::Error;

use crate::addressing::Ipv4Range;
use crate::codec::{MAX_SERVERS, Malformed, Reader, Writer};
pub use crate::governance::{
    AdminChange, Checkpoint, Delegate, Freshness, MAX_DELEGATES, Policy, Rights, ServersChange,
};
use crate::governance::{check_admins, check_service};
use crate::keys::{
    BadSignature, Context, InviteKey, MemberKey, NetworkId, SequencerKey, Server, Signature, SigningKey, TunnelKey,
    Verifier, hash,
};
use crate::name::Name;

/// The first record of a log; its hash is the network's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// The network's name, for people and for DNS.
    pub name: Name,
    /// When the network was founded, Unix seconds by the founder's clock.
    pub time: u64,
    /// How many admins must sign an invite, a void or a revocation.
    pub threshold: u8,
    /// The admins' keys, strictly ascending; one to [`MAX_ADMINS`].
    pub admins: Vec<MemberKey>,
    /// The key that signs the log's entries; one of the servers' keys.
    pub sequencer: SequencerKey,
    /// Where the network's servers are; no key twice.
    pub servers: Vec<Server>,
    /// The /16 for IPv4 addresses; `None` leaves the choice to the network id.
    pub ipv4_range: Option<Ipv4Range>,
}

/// Lets the holder of a one-time key join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// The public half of the one-time key.
    pub key: InviteKey,
    /// Unix seconds; an entry of this time or later can no longer use the invite.
    pub expires: u64,
    /// The name that the inviter proposes, for lists; the joiner's own wish counts.
    pub hint: Option<Name>,
}

/// Takes an unused invite back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InviteVoid {
    /// The invite's key.
    pub key: InviteKey,
}

/// Makes a member; signed with the invite's key and the member's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// The invite that is used up.
    pub invite: InviteKey,
    /// The new member's Ed25519 key.
    pub member: MemberKey,
    /// The new member's X25519 key.
    pub tunnel_key: TunnelKey,
    /// The name it wishes for.
    pub name: Name,
    /// What it can do.
    pub capabilities: Capabilities,
}

/// Changes what a member says of itself; signed with its own key, and with the new one where that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberUpdate {
    /// The member.
    pub member: MemberKey,
    /// Greater than the number of every earlier update of this member; the enrolment counts as 0.
    pub number: u64,
    /// The name it wishes for.
    pub name: Name,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Which keys are new from here on.
    pub rotation: Rotation,
}

/// New keys of a member, which keeps its name, its addresses and its place; the old keys are dead for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Rotation {
    /// The keys stay.
    #[default]
    None,
    /// The tunnel key is new.
    Tunnel(TunnelKey),
    /// Both keys are new; the record is signed by the old and the new member key.
    Both {
        /// The new Ed25519 key.
        member: MemberKey,
        /// The new X25519 key.
        tunnel_key: TunnelKey,
    },
}

impl Rotation {
    /// The new tunnel key, if there is one.
    pub const fn tunnel_key(&self) -> Option<TunnelKey> {
        match self {
            Self::None => None,
            Self::Tunnel(key) | Self::Both { tunnel_key: key, .. } => Some(*key),
        }
    }

    /// The new member key, if there is one.
    pub const fn member(&self) -> Option<MemberKey> {
        match self {
            Self::None | Self::Tunnel(_) => None,
            Self::Both { member, .. } => Some(*member),
        }
    }

    fn write(&self, writer: &mut Writer) {
        match self {
            Self::None => writer.u8(0),
            Self::Tunnel(key) => writer.u8(1).bytes(key.as_bytes()),
            Self::Both { member, tunnel_key } => writer.u8(2).bytes(member.as_bytes()).bytes(tunnel_key.as_bytes()),
        };
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match reader.u8()? {
            0 => Self::None,
            1 => Self::Tunnel(TunnelKey::from_bytes(reader.array()?)),
            2 => Self::Both {
                member: MemberKey::from_bytes(reader.array()?),
                tunnel_key: TunnelKey::from_bytes(reader.array()?),
            },
            other => return Err(Malformed::Value(other, "key rotation")),
        })
    }
}

/// Ends a membership for good; signed by admins, or by the member itself on leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The key that is dead from here on.
    pub member: MemberKey,
}

/// The word of an admin or a delegate that the log reached `length` and `head` by `time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Number of entries.
    pub length: u64,
    /// Hash of the last of them.
    pub head: [u8; 32],
    /// Unix seconds by the signer's clock.
    pub time: u64,
}

/// A record's content.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is documented at its body")]
pub enum Record {
    Genesis(Genesis),
    Invite(Invitation),
    InviteVoid(InviteVoid),
    Member(Enrolment),
    MemberUpdate(MemberUpdate),
    Revoke(Revocation),
    Lease(Lease),
    AdminChange(AdminChange),
    Servers(ServersChange),
    Policy(Policy),
    Checkpoint(Checkpoint),
}

impl Record {
    /// The member whom a revocation names, by the key that it had when it was signed; `None` for every other record.
    pub const fn revokes(&self) -> Option<&MemberKey> {
        if let Self::Revoke(body) = self { Some(&body.member) } else { None }
    }

    const fn type_number(&self) -> u8 {
        match self {
            Self::Genesis(_) => 1,
            Self::Invite(_) => 2,
            Self::InviteVoid(_) => 3,
            Self::Member(_) => 4,
            Self::MemberUpdate(_) => 5,
            Self::Revoke(_) => 6,
            Self::Lease(_) => 7,
            Self::AdminChange(_) => 8,
            Self::Servers(_) => 9,
            Self::Policy(_) => 10,
            Self::Checkpoint(_) => CHECKPOINT,
        }
    }

    /// Version, type and body: what is signed.
    fn encode_unsigned(&self) -> Vec<u8> {
        let mut writer = Writer::new(VERSION);
        writer.u8(self.type_number());
        match self {
            Self::Genesis(genesis) => genesis.write(&mut writer),
            Self::Invite(body) => {
                writer.bytes(body.key.as_bytes()).u64(body.expires).optional_name(body.hint.as_ref());
            }
            Self::InviteVoid(body) => {
                writer.bytes(body.key.as_bytes());
            }
            Self::Member(body) => {
                writer.bytes(body.invite.as_bytes()).bytes(body.member.as_bytes()).bytes(body.tunnel_key.as_bytes());
                writer.name(&body.name).u16(body.capabilities.bits());
            }
            Self::MemberUpdate(body) => {
                writer.bytes(body.member.as_bytes()).u64(body.number);
                writer.name(&body.name).u16(body.capabilities.bits());
                body.rotation.write(&mut writer);
            }
            Self::Revoke(body) => {
                writer.bytes(body.member.as_bytes());
            }
            Self::Lease(body) => {
                writer.u64(body.length).bytes(&body.head).u64(body.time);
            }
            Self::AdminChange(body) => body.write(&mut writer),
            Self::Servers(body) => body.write(&mut writer),
            Self::Policy(body) => body.write(&mut writer),
            Self::Checkpoint(body) => body.write(&mut writer),
        }
        writer.into_bytes()
    }

    /// Checks what a decoder would refuse, where the types leave it open.
    fn check(&self) -> Result<(), Malformed> {
        match self {
            Self::Genesis(body) => body.check(),
            Self::AdminChange(body) => body.check(),
            Self::Servers(body) => body.check(),
            Self::Policy(body) => body.check(),
            Self::Invite(_)
            | Self::InviteVoid(_)
            | Self::Member(_)
            | Self::MemberUpdate(_)
            | Self::Revoke(_)
            | Self::Lease(_)
            | Self::Checkpoint(_) => Ok(()),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match reader.u8()? {
            1 => Self::Genesis(Genesis::read(reader)?),
            2 => Self::Invite(Invitation {
                key: InviteKey::from_bytes(reader.array()?),
                expires: reader.u64()?,
                hint: reader.optional_name()?,
            }),
            3 => Self::InviteVoid(InviteVoid { key: InviteKey::from_bytes(reader.array()?) }),
            4 => Self::Member(Enrolment {
                invite: InviteKey::from_bytes(reader.array()?),
                member: MemberKey::from_bytes(reader.array()?),
                tunnel_key: TunnelKey::from_bytes(reader.array()?),
                name: reader.name()?,
                capabilities: Capabilities::from_bits(reader.u16()?),
            }),
            5 => Self::MemberUpdate(MemberUpdate::read(reader)?),
            6 => Self::Revoke(Revocation { member: MemberKey::from_bytes(reader.array()?) }),
            7 => Self::Lease(Lease { length: reader.u64()?, head: reader.array()?, time: reader.u64()? }),
            8 => Self::AdminChange(AdminChange::read(reader)?),
            9 => Self::Servers(ServersChange::read(reader)?),
            10 => Self::Policy(Policy::read(reader)?),
            CHECKPOINT => Self::Checkpoint(Checkpoint::read(reader)?),
            other => return Err(Malformed::UnknownType(other)),
        })
    }
}

impl Genesis {
    fn write(&self, writer: &mut Writer) {
        writer.name(&self.name).u64(self.time).u8(self.threshold).u8(self.admins.len() as u8);
        for admin in &self.admins {
            writer.bytes(admin.as_bytes());
        }
        writer.bytes(self.sequencer.as_bytes()).servers(&self.servers);
        match self.ipv4_range {
            Some(range) => writer.u8(1).bytes(&range.prefix()),
            None => writer.u8(0),
        };
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (name, time, threshold) = (reader.name()?, reader.u64()?, reader.u8()?);
        let count = reader.count(MAX_ADMINS, "admins")?;
        let admins = (0..count).map(|_| reader.array().map(MemberKey::from_bytes)).collect::<Result<Vec<_>, _>>()?;
        let (sequencer, servers) = (SequencerKey::from_bytes(reader.array()?), reader.servers()?);
        let ipv4_range = match reader.u8()? {
            0 => None,
            1 => {
                let [a, b] = reader.array()?;
                Some(Ipv4Range::new(a, b).ok_or(Malformed::Value(a, "IPv4 range"))?)
            }
            other => return Err(Malformed::Value(other, "IPv4 range choice")),
        };
        let genesis = Self { name, time, threshold, admins, sequencer, servers, ipv4_range };
        genesis.check()?;
        Ok(genesis)
    }

    fn check(&self) -> Result<(), Malformed> {
        check_service(&self.sequencer, &self.servers)?;
        check_admins(self.threshold, &self.admins)
    }
}

impl MemberUpdate {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            member: MemberKey::from_bytes(reader.array()?),
            number: reader.u64()?,
            name: reader.name()?,
            capabilities: Capabilities::from_bits(reader.u16()?),
            rotation: Rotation::read(reader)?,
        })
    }
}

/// What a member can do, as bits: 0 AES-256-GCM, 1 ChaCha20-Poly1305. Bits without a meaning are kept and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capabilities(u16);

impl Capabilities {
    /// The tunnel suite with AES-256-GCM.
    pub const AES_GCM: Self = Self(1);
    /// The tunnel suite with ChaCha20-Poly1305.
    pub const CHACHA_POLY: Self = Self(2);
    /// Both suites.
    pub const BOTH_SUITES: Self = Self(3);

    /// Takes the bits as they stand in a record.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The bits as they stand in a record.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether all of `other`'s bits are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is a suite that a tunnel can use.
    pub const fn has_suite(self) -> bool {
        self.0 & Self::BOTH_SUITES.0 != 0
    }
}

/// A record and its signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRecord {
    record: Record,
    /// Strictly ascending by key.
    signatures: Vec<(MemberKey, Signature)>,
}

impl SignedRecord {
    /// Signs `record` with every key in `signers`; `network` is ignored for a genesis.
    ///
    /// # Errors
    /// [`Malformed`] when a list is out of bounds or the record grows beyond [`MAX_RECORD_LEN`].
    pub fn sign(network: &NetworkId, record: Record, signers: &[&SigningKey]) -> Result<Self, Malformed> {
        record.check()?;
        let mut signed = Self { record, signatures: Vec::new() };
        for signer in signers {
            signed.cosign(network, signer)?;
        }
        Ok(signed)
    }

    /// Adds one more signature, as networks with a threshold above one need; a second one by the same key changes nothing.
    ///
    /// # Errors
    /// [`Malformed`] when there are more than [`MAX_ADMINS`] or the record grows beyond [`MAX_RECORD_LEN`].
    pub fn cosign(&mut self, network: &NetworkId, signer: &SigningKey) -> Result<(), Malformed> {
        let key = signer.member_key();
        let Err(place) = self.signatures.binary_search_by_key(&key, |(key, _)| *key) else { return Ok(()) };
        let body = self.record.encode_unsigned();
        let signature = signer.sign_parts(Context::RECORD, &[&signing_scope(network, &self.record), &body]);
        if self.signatures.len() >= MAX_ADMINS {
            return Err(Malformed::Count(self.signatures.len() as u8, "signatures"));
        }
        if body.len() + 1 + (self.signatures.len() + 1) * SIGNATURE_LEN > MAX_RECORD_LEN {
            return Err(Malformed::TooLong);
        }
        self.signatures.insert(place, (key, signature));
        Ok(())
    }

    /// Drops the signatures of signers that do not pass; none needs to be left.
    pub(crate) fn retain_signers(&mut self, keep: impl Fn(&Self, &MemberKey) -> bool) {
        let dropped: Vec<MemberKey> = self.signers().filter(|key| !keep(self, key)).copied().collect();
        self.signatures.retain(|(key, _)| !dropped.contains(key));
    }

    /// Reads a record. No signature is checked: only replay can say what a record is worth.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_RECORD_LEN {
            return Err(Malformed::TooLong);
        }
        let mut reader = Reader::new(bytes);
        reader.version(VERSION)?;
        let record = Record::read(&mut reader)?;
        let count = reader.count(MAX_ADMINS, "signatures")?;
        let signatures = (0..count)
            .map(|_| Ok((MemberKey::from_bytes(reader.array()?), Signature::from_bytes(reader.array()?))))
            .collect::<Result<Vec<_>, Malformed>>()?;
        reader.end()?;
        if !signatures.is_sorted_by(|(a, _), (b, _)| a < b) {
            return Err(Malformed::NotCanonical);
        }
        let signed = Self { record, signatures };
        if signed.encode() == bytes { Ok(signed) } else { Err(Malformed::NotCanonical) }
    }

    /// The record's one encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.record.encode_unsigned();
        bytes.push(self.signatures.len() as u8);
        for (key, signature) in &self.signatures {
            bytes.extend_from_slice(key.as_bytes());
            bytes.extend_from_slice(&signature.to_bytes());
        }
        bytes
    }

    /// The content.
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// Whose signatures the record carries, whether or not they are good.
    pub fn signers(&self) -> impl ExactSizeIterator<Item = &MemberKey> {
        self.signatures.iter().map(|(key, _)| key)
    }

    /// Checks one signature.
    ///
    /// # Errors
    /// [`BadSignature`] when it is missing or bad.
    pub fn verify_by(&self, network: &NetworkId, signer: &MemberKey) -> Result<(), BadSignature> {
        let place = self.signatures.binary_search_by_key(signer, |(key, _)| *key).map_err(|_| BadSignature)?;
        let (key, signature) = self.signatures.get(place).ok_or(BadSignature)?;
        let scope = signing_scope(network, &self.record);
        let body = self.record.encode_unsigned();
        Verifier::new(key.as_bytes())?.verify(Context::RECORD, &[&scope, &body], signature)
    }

    /// Checks every signature.
    ///
    /// # Errors
    /// [`BadSignature`] when one of them, or the whole block, is missing or bad.
    pub fn verify(&self, network: &NetworkId) -> Result<(), BadSignature> {
        if self.signatures.is_empty() {
            return Err(BadSignature);
        }
        let body = self.record.encode_unsigned();
        let scope = signing_scope(network, &self.record);
        self.signatures.iter().try_for_each(|(key, signature)| {
            Verifier::new(key.as_bytes())?.verify(Context::RECORD, &[&scope, &body], signature)
        })
    }
}

/// The network id that a genesis record gives; its bytes are hashed as they stand.
pub fn network_id(genesis: &[u8]) -> NetworkId {
    NetworkId::from_bytes(hash("ginnel network v1", &[genesis]))
}

/// A genesis record's bytes are not fit to found a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadGenesis {
    /// The bytes are no record.
    #[error("genesis record: {0}")]
    Malformed(#[from] Malformed),
    /// The record is of another type.
    #[error("the first record is not a genesis")]
    NotGenesis,
    /// The bytes belong to another network.
    #[error("the genesis belongs to another network")]
    OtherNetwork,
    /// Fewer admins signed than the threshold asks for, or somebody else did.
    #[error("the genesis is not signed by its admins")]
    NotAuthorised,
    /// A signature is bad.
    #[error("genesis record: {0}")]
    Signature(#[from] BadSignature),
}

/// Reads and fully checks a genesis record.
///
/// # Errors
/// [`BadGenesis`] says what is wrong; `network` of `None` accepts any network.
pub fn check_genesis(bytes: &[u8], network: Option<&NetworkId>) -> Result<Genesis, BadGenesis> {
    if network.is_some_and(|network| network_id(bytes) != *network) {
        return Err(BadGenesis::OtherNetwork);
    }
    let signed = SignedRecord::decode(bytes)?;
    let Record::Genesis(genesis) = &signed.record else { return Err(BadGenesis::NotGenesis) };
    if signed.signers().len() < genesis.threshold.into() || !signed.signers().all(|key| genesis.admins.contains(key)) {
        return Err(BadGenesis::NotAuthorised);
    }
    signed.verify(&network_id(bytes))?;
    Ok(genesis.clone())
}

/// Whether a record that can be read would be a checkpoint.
pub(crate) fn is_checkpoint(record: &[u8]) -> bool {
    record.get(1) == Some(&CHECKPOINT)
}

/// What ties a signature to one network; a genesis comes before its network's id.
const fn signing_scope(network: &NetworkId, record: &Record) -> [u8; 32] {
    match record {
        Record::Genesis(_) => [0; 32],
        Record::Invite(_)
        | Record::InviteVoid(_)
        | Record::Member(_)
        | Record::MemberUpdate(_)
        | Record::Revoke(_)
        | Record::Lease(_)
        | Record::AdminChange(_)
        | Record::Servers(_)
        | Record::Policy(_)
        | Record::Checkpoint(_) => network.to_bytes(),
    }
}

/// Bytes of an encoded record at most.
pub const MAX_RECORD_LEN: usize = 2048;
/// Admins of a network and signatures of a record at most.
pub const MAX_ADMINS: usize = 8;
const VERSION: u8 = 1;
const CHECKPOINT: u8 = 11;
const SIGNATURE_LEN: usize = 32 + 64;
const _: () = assert!(MAX_SERVERS <= 255 && MAX_ADMINS <= 255);
