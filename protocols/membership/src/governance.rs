//! Records by which admins govern: who they are, which servers there are, what members may do, and checkpoints.

use crate::codec::{Malformed, Reader, Writer, check_servers};
use crate::keys::{MemberKey, SequencerKey, Server};
use crate::record::MAX_ADMINS;

/// Replaces the whole set of admins; signed by as many of the old ones as their threshold says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminChange {
    /// One above that of the change before; the genesis counts as 0.
    pub number: u64,
    /// How many admins must sign from here on.
    pub threshold: u8,
    /// The admins' keys, strictly ascending; one to [`MAX_ADMINS`].
    pub admins: Vec<MemberKey>,
}

/// Replaces the list of servers and says which of them orders the log; signed by a threshold of admins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServersChange {
    /// One above that of the change before; the genesis counts as 0.
    pub number: u64,
    /// The key that signs the entries after this one; one of the servers' keys.
    pub sequencer: SequencerKey,
    /// One to four servers, best first.
    pub servers: Vec<Server>,
}

/// Replaces the network's rules; signed by a threshold of admins.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Policy {
    /// One above that of the policy before; the genesis counts as 0.
    pub number: u64,
    /// What an old lease means.
    pub freshness: Freshness,
    /// Members with rights of admins, strictly ascending by key; at most [`MAX_DELEGATES`].
    pub delegates: Vec<Delegate>,
}

/// What it means that no lease is younger than [`LEASE_LIFE`](crate::state::LEASE_LIFE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Freshness {
    /// Nodes warn.
    #[default]
    Warn,
    /// Nodes admit nobody new.
    Strict,
}

/// A member that may do some of what admins do, as long as it is a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delegate {
    /// The member.
    pub member: MemberKey,
    /// At least one.
    pub rights: Rights,
}

/// Rights of a delegate, as bits: 0 may sign leases, 1 may invite without any admin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rights(u8);

impl Rights {
    /// May sign leases.
    pub const LEASE: Self = Self(1);
    /// May invite without any admin.
    pub const INVITE: Self = Self(2);
    /// Both.
    pub const ALL: Self = Self(3);

    /// Takes the bits as they stand in a record; `None` unless at least one has a meaning and none has not.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            1..=3 => Some(Self(bits)),
            _ => None,
        }
    }

    /// The bits as they stand in a record.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether all of `other`'s rights are among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Admins' word on what the log before it means, so that a newcomer can start from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Number of entries before the checkpoint's own, which is also its own sequence number.
    pub length: u64,
    /// Hash of the last of them.
    pub head: [u8; 32],
    /// Hash of the snapshot, see [`crate::snapshot::state_hash`].
    pub state_hash: [u8; 32],
    /// Bytes of the snapshot.
    pub state_length: u32,
}

impl AdminChange {
    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.u64(self.number).u8(self.threshold).u8(self.admins.len() as u8);
        for admin in &self.admins {
            writer.bytes(admin.as_bytes());
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (number, threshold) = (reader.u64()?, reader.u8()?);
        let count = reader.count(MAX_ADMINS, "admins")?;
        let admins = (0..count).map(|_| reader.array().map(MemberKey::from_bytes)).collect::<Result<Vec<_>, _>>()?;
        let change = Self { number, threshold, admins };
        change.check()?;
        Ok(change)
    }

    pub(crate) fn check(&self) -> Result<(), Malformed> {
        check_admins(self.threshold, &self.admins)
    }
}

impl ServersChange {
    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.u64(self.number).bytes(self.sequencer.as_bytes()).servers(&self.servers);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let change = Self {
            number: reader.u64()?,
            sequencer: SequencerKey::from_bytes(reader.array()?),
            servers: reader.servers()?,
        };
        change.check()?;
        Ok(change)
    }

    pub(crate) fn check(&self) -> Result<(), Malformed> {
        check_service(&self.sequencer, &self.servers)
    }
}

impl Policy {
    /// The rights of a member, if it has any.
    pub fn rights(&self, member: &MemberKey) -> Option<Rights> {
        self.delegates.iter().find(|delegate| delegate.member == *member).map(|delegate| delegate.rights)
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        let flags = match self.freshness {
            Freshness::Warn => 0,
            Freshness::Strict => STRICT,
        };
        writer.u64(self.number).u16(flags).u8(self.delegates.len() as u8);
        for delegate in &self.delegates {
            writer.bytes(delegate.member.as_bytes()).u8(delegate.rights.bits());
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let number = reader.u64()?;
        let freshness = match reader.u16()? {
            0 => Freshness::Warn,
            STRICT => Freshness::Strict,
            other => return Err(Malformed::Value((other >> 8).max(other & 0xff) as u8, "policy flags")),
        };
        let count = reader.u8()?;
        if usize::from(count) > MAX_DELEGATES {
            return Err(Malformed::Count(count, "delegates"));
        }
        let delegates = (0..count)
            .map(|_| {
                let (member, bits) = (MemberKey::from_bytes(reader.array()?), reader.u8()?);
                let rights = Rights::from_bits(bits).ok_or(Malformed::Value(bits, "a delegate's rights"))?;
                Ok(Delegate { member, rights })
            })
            .collect::<Result<Vec<_>, Malformed>>()?;
        let policy = Self { number, freshness, delegates };
        policy.check()?;
        Ok(policy)
    }

    pub(crate) fn check(&self) -> Result<(), Malformed> {
        if self.delegates.len() > MAX_DELEGATES {
            return Err(Malformed::Count(self.delegates.len().min(255) as u8, "delegates"));
        }
        let sorted = self.delegates.is_sorted_by(|a, b| a.member < b.member);
        if sorted { Ok(()) } else { Err(Malformed::NotCanonical) }
    }
}

impl Checkpoint {
    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.u64(self.length).bytes(&self.head).bytes(&self.state_hash).u32(self.state_length);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            length: reader.u64()?,
            head: reader.array()?,
            state_hash: reader.array()?,
            state_length: reader.u32()?,
        })
    }
}

/// Checks servers and who of them orders the log against the bounds of every record that names them.
pub(crate) fn check_service(sequencer: &SequencerKey, servers: &[Server]) -> Result<(), Malformed> {
    check_servers(servers)?;
    let mut keys: Vec<_> = servers.iter().map(|server| server.keys.signing).collect();
    keys.sort_unstable();
    let distinct = keys.is_sorted_by(|a, b| a < b);
    if distinct && keys.contains(sequencer.as_bytes()) { Ok(()) } else { Err(Malformed::Sequencer) }
}

/// Checks a set of admins against the bounds of every record that names one.
pub(crate) fn check_admins(threshold: u8, admins: &[MemberKey]) -> Result<(), Malformed> {
    if admins.is_empty() || admins.len() > MAX_ADMINS {
        return Err(Malformed::Count(admins.len().min(255) as u8, "admins"));
    }
    if threshold == 0 || usize::from(threshold) > admins.len() {
        return Err(Malformed::Count(threshold, "threshold"));
    }
    if admins.is_sorted_by(|a, b| a < b) { Ok(()) } else { Err(Malformed::NotCanonical) }
}

/// Delegates of a network at most.
pub const MAX_DELEGATES: usize = 16;
const STRICT: u16 = 1;
