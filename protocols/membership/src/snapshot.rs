//! Snapshots: everything that a log means, in one canonical byte string, and the proof of who the admins are.
//!
//! The table is in the [crate's docs](crate#formats). A snapshot is worth something only together with the entry of the
//! checkpoint that names its hash: [`State::from_checkpoint`] checks both against the network's id.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use crate::addressing::{Ipv4Range, Pool, interface_of, ipv6_of};
use crate::authority::{Authority, Effect};
use crate::codec::{Malformed, Reader, Writer};
use crate::entry::Entry;
use crate::keys::{BadSignature, InviteKey, MemberKey, NetworkId, TunnelKey, hash};
use crate::ledger::Ledger;
use crate::name::{Name, Registry};
use crate::peer::{Member, Standing};
use crate::record::{
    BadGenesis, Capabilities, Checkpoint, Lease, MAX_ADMINS, MAX_RECORD_LEN, Policy, Record, Rotation, ServersChange,
    SignedRecord, check_genesis,
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

/// A snapshot's content: a ledger, and where in the log it stands.
pub(crate) struct Snapshot {
    pub(crate) ledger: Ledger,
    pub(crate) length: u64,
    pub(crate) head: [u8; 32],
    pub(crate) time: u64,
}

impl Snapshot {
    /// Reads a snapshot and proves its admins; the rest is worth what the checkpoint's signatures are.
    pub(crate) fn decode(network: NetworkId, bytes: &[u8]) -> Result<Self, BadSnapshot> {
        if bytes.len() > MAX_SNAPSHOT_LEN {
            return Err(Malformed::TooLong.into());
        }
        let mut reader = Reader::new(bytes);
        reader.version(VERSION)?;
        let genesis_record = read_record(&mut reader)?;
        let genesis = check_genesis(&genesis_record, Some(&network))?;
        let (length, head, time) = (reader.u64()?, reader.array()?, reader.u64()?);
        let proof = list(&mut reader, read_record)?;
        let mut ledger = Ledger::new(network, genesis, genesis_record);
        ledger.service = ServersChange::read(&mut reader)?;
        ledger.policy = Policy::read(&mut reader)?;
        ledger.lease = Lease { length: reader.u64()?, head: reader.array()?, time: reader.u64()? };
        ledger.checkpoint = match reader.u8()? {
            0 => None,
            1 => Some(Checkpoint::read(&mut reader)?),
            other => return Err(Malformed::Value(other, "checkpoint").into()),
        };
        let makers = list(&mut reader, |reader| reader.array().map(MemberKey::from_bytes))?;
        let range = ledger.ipv4_range();
        let members = list(&mut reader, |reader| read_member(reader, network, range, &makers))?;
        let dead = list(&mut reader, read_dead)?;
        let spent = list(&mut reader, |reader| reader.array().map(TunnelKey::from_bytes))?;
        let invites = list(&mut reader, |reader| read_invite(reader, &makers))?;
        let counters = list(&mut reader, |reader| Ok((reader.name()?, reader.u32()?)))?;
        reader.end()?;
        fill(&mut ledger, members, dead, spent, invites, counters)?;
        ledger.authority = prove(&ledger, &proof).map_err(BadSnapshot::Admins)?;
        if ledger.authority.admins().iter().any(|key| ledger.dead.contains(key)) {
            return Err(BadSnapshot::Inconsistent("a dead key is an admin's"));
        }
        if ledger.policy.delegates.iter().any(|delegate| ledger.live(&delegate.member).is_none()) {
            return Err(BadSnapshot::Inconsistent("a delegate is not a member"));
        }
        let snapshot = Self { ledger, length, head, time };
        // Whatever order or filler the steps above let pass.
        if snapshot.ledger.encode(length, head, time) == bytes {
            Ok(snapshot)
        } else {
            Err(Malformed::NotCanonical.into())
        }
    }

    /// Checks that `entry` is the checkpoint of these `bytes`, signed by the admins that they prove.
    pub(crate) fn check(&self, bytes: &[u8], entry: &Entry) -> Result<Checkpoint, BadSnapshot> {
        let signed = SignedRecord::decode(&entry.record)?;
        let Record::Checkpoint(checkpoint) = signed.record() else { return Err(BadSnapshot::OtherCheckpoint) };
        let place = (checkpoint.length, checkpoint.head) == (self.length, self.head);
        let same_place = (entry.sequence, entry.previous) == (self.length, self.head) && entry.time >= self.time;
        let length = u32::try_from(bytes.len()).ok() == Some(checkpoint.state_length);
        if !place || !same_place || !length || state_hash(bytes) != checkpoint.state_hash {
            return Err(BadSnapshot::OtherCheckpoint);
        }
        self.ledger.authority.authorise(&signed).map_err(BadSnapshot::Checkpoint)?;
        signed.verify(&self.ledger.network).map_err(|bad| BadSnapshot::Checkpoint(bad.into()))?;
        Ok(*checkpoint)
    }
}

impl Ledger {
    /// Writes the snapshot of a log that ends here.
    pub(crate) fn encode(&self, length: u64, head: [u8; 32], time: u64) -> Vec<u8> {
        let mut writer = Writer::new(VERSION);
        writer.record(&self.genesis_record).u64(length).bytes(&head).u64(time);
        writer.count(self.authority.proof().len());
        for record in self.authority.proof() {
            writer.record(record);
        }
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
        let content = Snapshot::decode(network, snapshot)?;
        let checkpoint = content.check(snapshot, checkpoint_entry)?;
        Self::resume_at(content, snapshot, checkpoint, checkpoint_entry)
    }
}

/// Follows the records that changed the admins from the genesis on.
fn prove(ledger: &Ledger, proof: &[Vec<u8>]) -> Result<Authority, Refusal> {
    let mut authority = Authority::new(&ledger.genesis);
    for bytes in proof {
        let signed = SignedRecord::decode(bytes)?;
        match signed.record() {
            Record::AdminChange(body) => {
                authority.judge_change(&signed, body)?;
                signed.verify(&ledger.network)?;
                authority.take(&signed, Effect::Replace(body));
            }
            Record::Revoke(body) => {
                let key = ledger.current(&body.member);
                let key = if authority.contains(&body.member) { body.member } else { key };
                if !authority.contains(&key) || authority.admins().len() <= usize::from(authority.threshold()) {
                    return Err(Refusal::LastAdmin);
                }
                if !signed.signers().eq([&key]) {
                    authority.authorise(&signed)?;
                }
                signed.verify(&ledger.network)?;
                authority.take(&signed, Effect::Remove(key));
            }
            Record::MemberUpdate(body) => {
                let Rotation::Both { member: new, .. } = body.rotation else { return Err(Refusal::NotAuthorised) };
                let old = body.member;
                let both = signed.signers().len() == 2 && signed.signers().all(|key| *key == old || *key == new);
                if !both || !authority.contains(&old) || authority.contains(&new) {
                    return Err(Refusal::NotAuthorised);
                }
                signed.verify(&ledger.network)?;
                authority.take(&signed, Effect::Rotate { old, new });
            }
            Record::Genesis(_)
            | Record::Invite(_)
            | Record::InviteVoid(_)
            | Record::Member(_)
            | Record::Lease(_)
            | Record::Servers(_)
            | Record::Policy(_)
            | Record::Checkpoint(_) => return Err(Refusal::NotAuthorised),
        }
    }
    Ok(authority)
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

fn read_record(reader: &mut Reader<'_>) -> Result<Vec<u8>, Malformed> {
    let len = usize::from(reader.u16()?);
    if len > MAX_RECORD_LEN { Err(Malformed::TooLong) } else { Ok(reader.bytes(len)?.to_vec()) }
}

/// Reads as many items as a count says; memory grows with the bytes that are there, not with the count.
fn list<T>(
    reader: &mut Reader<'_>,
    mut read: impl FnMut(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let count = reader.u32()?;
    (0..count).map(|_| read(reader)).collect()
}

const fn host_of(addr: Ipv4Addr) -> u16 {
    let [.., c, d] = addr.octets();
    u16::from_be_bytes([c, d])
}

/// Bytes of a snapshot at most: room for some 400,000 members.
pub const MAX_SNAPSHOT_LEN: usize = 64 << 20;
const VERSION: u8 = 1;
