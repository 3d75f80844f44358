//! Snapshots: everything that a log means, in one canonical byte string, and the proof of who the admins are.
//!
//! The table is in the [crate's docs](crate#formats). A snapshot is worth something only together with the entry of the
//! checkpoint that names its hash: [`State::from_checkpoint`] checks both against the network's id.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use crate::addressing::{Ipv4Range, Pool, interface_of, ipv6_of};
use crate::authority::Authority;
use crate::codec::{Malformed, Reader, Writer};
use crate::entry::{Entry, MAX_TIME};
use crate::keys::{BadSignature, InviteKey, MemberKey, NetworkId, TunnelKey, Verifier, hash};
use crate::ledger::Ledger;
use crate::name::{Name, Registry};
use crate::peer::{Member, Standing};
use crate::record::{
    BadGenesis, Capabilities, Checkpoint, Genesis, Lease, MAX_ADMINS, Policy, Record, ServersChange, SignedRecord,
    check_genesis,
};
use crate::refusal::Refusal;
use crate::state::{InviteInfo, InviteStanding, State};

/// The hash of a snapshot, as a checkpoint names it.
pub fn state_hash(snapshot: &[u8]) -> [u8; 32] {
    hash("ginnel snapshot v1", &[snapshot])
}

/// A snapshot or its checkpoint cannot be trusted or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadSnapshot {
    /// The bytes are no snapshot.
    #[error("snapshot {0}")]
    Malformed(#[from] Malformed),
    /// The snapshot's genesis does not found this network.
    #[error("snapshot: {0}")]
    Genesis(#[from] BadGenesis),
    /// The records that should prove who the admins are do not.
    #[error("snapshot does not prove who the network's admins are: {0}")]
    Admins(#[source] Refusal),
    /// Parts of the snapshot contradict each other.
    #[error("snapshot contradicts itself: {0}")]
    Inconsistent(&'static str),
    /// The entry holds no checkpoint, or one for another snapshot.
    #[error("this is not the checkpoint of this snapshot")]
    OtherCheckpoint,
    /// Too few admins signed the checkpoint, or somebody else did.
    #[error("the checkpoint: {0}")]
    Checkpoint(#[source] Refusal),
    /// The sequencer did not sign the checkpoint's entry.
    #[error("the checkpoint's entry: {0}")]
    Signature(#[from] BadSignature),
}

/// The start of a snapshot: all that it takes to know whose word the rest is.
struct Front<'a> {
    bytes: &'a [u8],
    /// Behind the servers.
    rest: Reader<'a>,
    network: NetworkId,
    genesis: Genesis,
    genesis_record: &'a [u8],
    length: u64,
    head: [u8; 32],
    time: u64,
    authority: Authority,
    service: ServersChange,
}

impl<'a> Front<'a> {
    /// Reads the start of a snapshot and proves its admins. A liar's reading ends here: nothing that it could make long has
    /// been kept.
    fn read(network: NetworkId, bytes: &'a [u8]) -> Result<Self, BadSnapshot> {
        if bytes.len() > MAX_SNAPSHOT_LEN {
            return Err(Malformed::TooLong.into());
        }
        let mut rest = Reader::new(bytes);
        rest.version(VERSION)?;
        let genesis_record = rest.record()?;
        let genesis = check_genesis(genesis_record, Some(&network))?;
        let (length, head, time) = (rest.u64()?, rest.array()?, rest.u64()?);
        let authority = Authority::read(&network, &genesis, &mut rest)?;
        let service = ServersChange::read(&mut rest)?;
        Ok(Self { bytes, rest, network, genesis, genesis_record, length, head, time, authority, service })
    }

    /// Checks that `entry` is the checkpoint of these bytes, signed by the admins that they prove, and by the sequencer.
    fn check(&self, entry: &Entry) -> Result<(Checkpoint, Verifier), BadSnapshot> {
        let signed = SignedRecord::decode(&entry.record)?;
        let Record::Checkpoint(checkpoint) = signed.record() else { return Err(BadSnapshot::OtherCheckpoint) };
        let place = (checkpoint.length, checkpoint.head) == (self.length, self.head);
        let same_place = (entry.sequence, entry.previous) == (self.length, self.head);
        let same_time = (self.time..=MAX_TIME).contains(&entry.time);
        let length = u32::try_from(self.bytes.len()) == Ok(checkpoint.state_length);
        if !place || !same_place || !same_time || !length || state_hash(self.bytes) != checkpoint.state_hash {
            return Err(BadSnapshot::OtherCheckpoint);
        }
        self.authority.authorise(&signed).map_err(BadSnapshot::Checkpoint)?;
        signed.verify(&self.network).map_err(|bad| BadSnapshot::Checkpoint(bad.into()))?;
        let sequencer = Verifier::new(self.service.sequencer.as_bytes())?;
        entry.verify(&self.network, &sequencer)?;
        Ok((*checkpoint, sequencer))
    }

    /// Reads the rest. Admins have vouched for it, and can be wrong.
    fn finish(mut self) -> Result<Ledger, BadSnapshot> {
        let mut ledger = Ledger::new(self.network, self.genesis, self.genesis_record.to_vec());
        (ledger.authority, ledger.service) = (self.authority, self.service);
        let reader = &mut self.rest;
        ledger.policy = Policy::read(reader)?;
        ledger.lease = Lease { length: reader.u64()?, head: reader.array()?, time: reader.u64()? };
        ledger.checkpoint = match reader.u8()? {
            0 => None,
            1 => Some(Checkpoint::read(reader)?),
            other => return Err(Malformed::Value(other, "checkpoint").into()),
        };
        let makers = list(reader, |reader| reader.array().map(MemberKey::from_bytes), |key| *key)?;
        let (network, range) = (self.network, ledger.ipv4_range());
        let members = list(reader, |reader| read_member(reader, network, range, &makers), |(member, _)| member.key)?;
        let dead = list(reader, read_dead, |(key, _)| *key)?;
        let spent = list(reader, |reader| reader.array().map(TunnelKey::from_bytes), |key| *key)?;
        let invites = list(reader, |reader| read_invite(reader, &makers), |invite| invite.key)?;
        let counters = list(reader, |reader| Ok((reader.name()?, reader.u32()?)), |(name, _)| name.clone())?;
        self.rest.end()?;
        fill(&mut ledger, members, dead, spent, invites, counters)?;
        if ledger.authority.admins().iter().any(|key| ledger.dead.contains(key)) {
            return Err(BadSnapshot::Inconsistent("a dead key is an admin's"));
        }
        if ledger.authority.heirs().any(|(named, heir)| ledger.current(&named) != heir) {
            return Err(BadSnapshot::Inconsistent("an admin's revocation names another's key"));
        }
        if ledger.policy.delegates.iter().any(|delegate| ledger.live(&delegate.member).is_none()) {
            return Err(BadSnapshot::Inconsistent("a delegate is not a member"));
        }
        // Whatever second spellings or filler the steps above let pass.
        let canonical = ledger.encode(self.length, self.head, self.time) == self.bytes;
        if canonical { Ok(ledger) } else { Err(Malformed::NotCanonical.into()) }
    }
}

impl Ledger {
    /// Writes the snapshot of a log that ends here.
    pub(crate) fn encode(&self, length: u64, head: [u8; 32], time: u64) -> Vec<u8> {
        let mut writer = Writer::new(VERSION);
        writer.record(&self.genesis_record).u64(length).bytes(&head).u64(time);
        self.authority.write(&mut writer);
        self.service.write(&mut writer);
        self.policy.write(&mut writer);
        writer.u64(self.lease.length).bytes(&self.lease.head).u64(self.lease.time);
        match &self.checkpoint {
            Some(checkpoint) => checkpoint.write(writer.u8(1)),
            None => {
                writer.u8(0);
            }
        }
        let makers: BTreeSet<&MemberKey> = self.invites.values().flat_map(|invite| &invite.by).collect();
        let makers: BTreeMap<&MemberKey, u32> = makers.into_iter().zip(0..).collect();
        writer.count(makers.len());
        for key in makers.keys() {
            writer.bytes(key.as_bytes());
        }
        writer.count(self.members.len());
        for member in self.members.values() {
            self.write_member(&mut writer, member, &makers);
        }
        self.write_dead(&mut writer);
        writer.count(self.spent_tunnel_keys.len());
        for key in &self.spent_tunnel_keys {
            writer.bytes(key.as_bytes());
        }
        self.write_invites(&mut writer, &makers);
        writer.count(self.names.counters().len());
        for (name, next) in self.names.counters() {
            writer.name(name).u32(*next);
        }
        writer.into_bytes()
    }

    fn write_member(&self, writer: &mut Writer, member: &Member, makers: &BTreeMap<&MemberKey, u32>) {
        let wish = Some(&member.wish).filter(|wish| **wish != member.name);
        let host = member.ipv4.map_or(0, host_of);
        writer.bytes(member.key.as_bytes()).bytes(member.tunnel_key.as_bytes()).bytes(member.invite.as_bytes());
        if let Some(invite) = self.invites.get(&member.invite) {
            write_terms(writer, invite, makers);
        }
        writer.name(&member.name).optional_name(wish).u16(member.capabilities.bits()).u16(host);
        writer.u64(interface_of(member.ipv6)).u64(member.joined).u64(member.update_number);
        match member.standing {
            Standing::Live => writer.u8(0),
            Standing::Revoked(time) => writer.u8(1).u64(time),
        };
    }

    /// Dead keys that are no member's.
    fn write_dead(&self, writer: &mut Writer) {
        let others: Vec<_> = self.dead.iter().filter(|key| !self.members.contains_key(key)).collect();
        writer.count(others.len());
        for key in others {
            writer.bytes(key.as_bytes());
            match self.successors.get(key) {
                Some(successor) => writer.u8(1).bytes(successor.as_bytes()),
                None => writer.u8(0),
            };
        }
    }

    /// Invites that no member used.
    fn write_invites(&self, writer: &mut Writer, makers: &BTreeMap<&MemberKey, u32>) {
        let state = |invite: &InviteInfo| match invite.standing {
            InviteStanding::Open => Some(0),
            InviteStanding::Void => Some(1),
            InviteStanding::Used(_) => None,
        };
        let unused: Vec<_> = self.invites.values().filter_map(|invite| Some((invite, state(invite)?))).collect();
        writer.count(unused.len());
        for (invite, state) in unused {
            writer.bytes(invite.key.as_bytes());
            write_terms(writer, invite, makers);
            writer.u8(state);
        }
    }
}

impl State {
    /// The canonical form of everything that the log means up to its end; empty before the genesis.
    ///
    /// Revocations on receipt are not part of it.
    pub fn snapshot(&self) -> Vec<u8> {
        let (length, head) = self.head();
        self.ledger().map(|ledger| ledger.encode(length, head, self.time())).unwrap_or_default()
    }

    /// Starts in the middle of a log, just after a checkpoint's entry.
    ///
    /// What came before is known by its meaning only: [`Self::head_at`] has no answers there.
    ///
    /// # Errors
    /// [`BadSnapshot`] unless the genesis founds `network`, the admins follow from it, enough of them signed the
    /// checkpoint, the checkpoint names this snapshot, and the sequencer signed the entry.
    pub fn from_checkpoint(network: NetworkId, snapshot: &[u8], checkpoint_entry: &Entry) -> Result<Self, BadSnapshot> {
        let front = Front::read(network, snapshot)?;
        let (checkpoint, sequencer) = front.check(checkpoint_entry)?;
        let ledger = front.finish()?;
        Ok(Self::resume_at(ledger, sequencer, snapshot, checkpoint, checkpoint_entry))
    }
}

/// Puts the lists into their places and refuses what no log could have led to.
fn fill(
    ledger: &mut Ledger,
    members: Vec<(Member, InviteInfo)>,
    dead: Vec<(MemberKey, Option<MemberKey>)>,
    spent: Vec<TunnelKey>,
    invites: Vec<InviteInfo>,
    counters: Vec<(Name, u32)>,
) -> Result<(), BadSnapshot> {
    use BadSnapshot::Inconsistent;
    let count = members.len();
    let live = || members.iter().map(|(member, _)| member).filter(|member| member.is_live());
    ledger.names = Registry::restore(live().map(|member| (member.name.clone(), member.key)), counters);
    let tunnel_keys = members.iter().map(|(member, _)| (member.tunnel_key, member.key)).collect();
    let all = members.iter().map(|(member, _)| (member.ipv4, member.ipv6, member.is_live()));
    ledger.pool =
        Pool::restore(ledger.network, ledger.ipv4_range(), all).ok_or(Inconsistent("an address is given twice"))?;
    if ledger.names.len() != live().count() {
        return Err(Inconsistent("a name is given twice"));
    }
    let revoked = members.iter().map(|(member, _)| member).filter(|member| !member.is_live()).map(|member| member.key);
    ledger.dead = revoked.chain(dead.iter().map(|(key, _)| *key)).collect();
    ledger.successors = dead.iter().filter_map(|(key, next)| next.map(|next| (*key, next))).collect();
    ledger.spent_tunnel_keys = spent.into_iter().collect();
    ledger.tunnel_keys = tunnel_keys;
    let (members, used): (Vec<_>, Vec<_>) = members.into_iter().unzip();
    let invite_count = used.len() + invites.len();
    ledger.members = members.into_iter().map(|member| (member.key, member)).collect();
    ledger.invites = used.into_iter().chain(invites).map(|invite| (invite.key, invite)).collect();
    if ledger.members.len() != count || ledger.tunnel_keys.len() != count || ledger.invites.len() != invite_count {
        return Err(Inconsistent("a key is there twice"));
    }
    if ledger.tunnel_keys.keys().any(|key| ledger.spent_tunnel_keys.contains(key)) {
        return Err(Inconsistent("a replaced tunnel key is in use"));
    }
    if dead.iter().any(|(key, _)| ledger.members.contains_key(key)) {
        return Err(Inconsistent("a member's key is dead"));
    }
    check_successors(ledger)
}

/// Every key that was replaced must lead to a member, or following it might never end.
fn check_successors(ledger: &Ledger) -> Result<(), BadSnapshot> {
    let before: BTreeMap<&MemberKey, &MemberKey> = ledger.successors.iter().map(|(old, new)| (new, old)).collect();
    let mut found = 0;
    for member in ledger.members.keys() {
        let mut key = member;
        while let Some(old) = before.get(key) {
            found += 1;
            key = old;
        }
    }
    let all = ledger.successors.len();
    if found == all && before.len() == all {
        Ok(())
    } else {
        Err(BadSnapshot::Inconsistent("a replaced key leads nowhere"))
    }
}

fn write_terms(writer: &mut Writer, invite: &InviteInfo, makers: &BTreeMap<&MemberKey, u32>) {
    writer.u64(invite.expires).optional_name(invite.hint.as_ref()).u8(invite.by.len() as u8);
    for key in &invite.by {
        writer.u32(makers.get(key).copied().unwrap_or(u32::MAX));
    }
}

fn read_terms(
    reader: &mut Reader<'_>,
    key: InviteKey,
    makers: &[MemberKey],
    standing: InviteStanding,
) -> Result<InviteInfo, Malformed> {
    let (expires, hint) = (reader.u64()?, reader.optional_name()?);
    let count = reader.count(MAX_ADMINS, "makers of an invite")?;
    let by = (0..count)
        .map(|_| {
            let index = usize::try_from(reader.u32()?).map_err(|_| Malformed::NotCanonical)?;
            makers.get(index).copied().ok_or(Malformed::NotCanonical)
        })
        .collect::<Result<_, _>>()?;
    Ok(InviteInfo { key, expires, hint, by, standing })
}

fn read_member(
    reader: &mut Reader<'_>,
    network: NetworkId,
    range: Ipv4Range,
    makers: &[MemberKey],
) -> Result<(Member, InviteInfo), Malformed> {
    let key = MemberKey::from_bytes(reader.array()?);
    let tunnel_key = TunnelKey::from_bytes(reader.array()?);
    let invite = InviteKey::from_bytes(reader.array()?);
    let info = read_terms(reader, invite, makers, InviteStanding::Used(key))?;
    let name = reader.name()?;
    let wish = reader.optional_name()?.unwrap_or_else(|| name.clone());
    let capabilities = Capabilities::from_bits(reader.u16()?);
    let ipv4 = match reader.u16()? {
        0 => None,
        host => Some(range.host(host)),
    };
    let ipv6: Ipv6Addr = ipv6_of(&network, reader.u64()?);
    let (joined, update_number) = (reader.u64()?, reader.u64()?);
    let standing = match reader.u8()? {
        0 => Standing::Live,
        1 => Standing::Revoked(reader.u64()?),
        other => return Err(Malformed::Value(other, "standing of a member")),
    };
    let member =
        Member { key, tunnel_key, invite, name, wish, capabilities, ipv4, ipv6, joined, update_number, standing };
    Ok((member, info))
}

fn read_dead(reader: &mut Reader<'_>) -> Result<(MemberKey, Option<MemberKey>), Malformed> {
    let key = MemberKey::from_bytes(reader.array()?);
    match reader.u8()? {
        0 => Ok((key, None)),
        1 => Ok((key, Some(MemberKey::from_bytes(reader.array()?)))),
        other => Err(Malformed::Value(other, "successor of a key")),
    }
}

fn read_invite(reader: &mut Reader<'_>, makers: &[MemberKey]) -> Result<InviteInfo, Malformed> {
    let key = InviteKey::from_bytes(reader.array()?);
    let mut invite = read_terms(reader, key, makers, InviteStanding::Open)?;
    invite.standing = match reader.u8()? {
        0 => InviteStanding::Open,
        1 => InviteStanding::Void,
        other => return Err(Malformed::Value(other, "standing of an invite")),
    };
    Ok(invite)
}

/// Reads as many items as a count says, in strictly ascending order; memory grows with the bytes that are there, not with
/// the count.
fn list<T, K: Ord>(
    reader: &mut Reader<'_>,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<T, Malformed>,
    key: impl Fn(&T) -> K,
) -> Result<Vec<T>, Malformed> {
    let mut items: Vec<T> = Vec::new();
    for _ in 0..reader.u32()? {
        let item = read(reader)?;
        if items.last().is_some_and(|last| key(last) >= key(&item)) {
            return Err(Malformed::NotCanonical);
        }
        items.push(item);
    }
    Ok(items)
}

const fn host_of(addr: Ipv4Addr) -> u16 {
    let [.., c, d] = addr.octets();
    u16::from_be_bytes([c, d])
}

/// Bytes of a snapshot at most: room for some 400,000 members.
pub const MAX_SNAPSHOT_LEN: usize = 64 << 20;
const VERSION: u8 = 1;
