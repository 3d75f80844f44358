//! Replay: from entries to the members, names and addresses that they prove.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::addressing::Ipv4Range;
use crate::entry::Entry;
use crate::keys::{InviteKey, MemberKey, NetworkId, SequencerKey, Server, TunnelKey};
use crate::ledger::Ledger;
use crate::name::Name;
pub use crate::peer::{Member, Standing, VerifiedPeer};
use crate::record::{Genesis, Lease, MAX_RECORD_LEN, Record, SignedRecord, check_genesis};
use crate::refusal::{Break, Refusal};

/// A network as its log tells it.
///
/// Two states that took the same entries are equal, whatever else came in between, except for revocations on receipt
/// ([`Self::revoke_on_receipt`]), which only ever take peers away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    network: NetworkId,
    /// The hash of every entry.
    heads: Vec<[u8; 32]>,
    /// The time of the last entry.
    time: u64,
    /// `None` until the genesis is in.
    ledger: Option<Ledger>,
    /// Revocations in effect that are not in the log yet.
    pending: BTreeMap<MemberKey, Vec<u8>>,
}

impl State {
    /// The empty log of a network that is known by its id alone.
    pub const fn new(network: NetworkId) -> Self {
        Self { network, heads: Vec::new(), time: 0, ledger: None, pending: BTreeMap::new() }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// [`Break`] when the entry does not continue this log; nothing has changed then.
    pub fn apply(&mut self, entry: &Entry) -> Result<Applied, Break> {
        if entry.record.len() > MAX_RECORD_LEN {
            return Err(Break::TooLong);
        }
        let hash = entry.hash();
        if let Some(known) = self.known_hash(entry.sequence) {
            return if known == hash { Ok(Applied::Known) } else { Err(self.signed_fork(entry)) };
        }
        if entry.sequence != self.length() {
            return Err(Break::Gap { expected: self.length(), found: entry.sequence });
        }
        let Some(ledger) = &self.ledger else { return self.apply_genesis(entry, hash) };
        entry.verify(&self.network, &ledger.sequencer)?;
        if entry.previous != self.head().1 {
            return Err(Break::Fork { sequence: entry.sequence });
        }
        if entry.time < self.time {
            return Err(Break::Time);
        }
        let judged = self.judge(entry.time, &entry.record);
        self.heads.push(hash);
        self.time = entry.time;
        match judged {
            Ok(signed) => Ok(self.admit(entry.time, signed)),
            Err(refusal) => Ok(self.skip(refusal, &entry.record)),
        }
    }

    /// Takes a revocation before it is ordered: the key is dead for [`Self::is_revoked`] and [`Self::peers`] at once.
    ///
    /// # Errors
    /// [`Refusal`] when the record is not a revocation that this log would take.
    pub fn revoke_on_receipt(&mut self, record: &[u8]) -> Result<MemberKey, Refusal> {
        let key = self.verify_revocation(record)?;
        if self.pending.len() >= MAX_PENDING && !self.pending.contains_key(&key) {
            // Each one is signed by an admin or by a live member, so only an admin's key run wild comes here.
            return Err(Refusal::TooManyPending);
        }
        self.pending.entry(key).or_insert_with(|| record.to_vec());
        Ok(key)
    }

    /// Checks a revocation against the log as it stands, whether or not it is ordered yet.
    ///
    /// # Errors
    /// [`Refusal`] when the record is not a revocation that this log would take; [`Refusal::AlreadyRevoked`] when it is in
    /// the log.
    pub fn verify_revocation(&self, record: &[u8]) -> Result<MemberKey, Refusal> {
        let signed = SignedRecord::decode(record)?;
        let Record::Revoke(body) = signed.record() else { return Err(Refusal::NotAuthorised) };
        let ledger = self.ledger.as_ref().ok_or(Refusal::NotFounded)?;
        let dying = self.pending.keys().filter(|key| **key != body.member && ledger.admins.contains(key)).count();
        ledger.judge_revocation(&signed, body, ledger.admins.len().saturating_sub(dying))?;
        signed.verify(&self.network)?;
        Ok(body.member)
    }

    /// Says whether `record` would have an effect in an entry of `time`, and reads it.
    ///
    /// # Errors
    /// [`Refusal`] says why it would not.
    pub fn judge(&self, time: u64, record: &[u8]) -> Result<SignedRecord, Refusal> {
        let ledger = self.ledger.as_ref().ok_or(Refusal::NotFounded)?;
        let signed = SignedRecord::decode(record)?;
        ledger.judge(time, &signed, &|length| self.head_at(length))?;
        Ok(signed)
    }

    /// Number of entries, and the hash of the last; the network id stands for the hash of an empty log.
    pub fn head(&self) -> (u64, [u8; 32]) {
        (self.length(), self.heads.last().copied().unwrap_or_else(|| self.network.to_bytes()))
    }

    /// The head that the log had when it held `length` entries; `None` when it is not that long.
    pub fn head_at(&self, length: u64) -> Option<[u8; 32]> {
        match length.checked_sub(1) {
            None => Some(self.network.to_bytes()),
            Some(last) => self.known_hash(last),
        }
    }

    /// Compares another's log with this one by its length and head.
    pub fn compare(&self, length: u64, head: [u8; 32]) -> Comparison {
        match self.head_at(length) {
            None => Comparison::Ahead,
            Some(own) if own != head => Comparison::Fork,
            Some(_) if length == self.length() => Comparison::Same,
            Some(_) => Comparison::Behind,
        }
    }

    /// The network's id.
    pub const fn network(&self) -> NetworkId {
        self.network
    }

    /// The time of the last entry, Unix seconds; 0 before the genesis.
    pub const fn time(&self) -> u64 {
        self.time
    }

    /// The genesis; `None` until it is in.
    pub fn genesis(&self) -> Option<&Genesis> {
        self.ledger.as_ref().map(|ledger| &ledger.genesis)
    }

    /// The network's name; `None` until the genesis is in.
    pub fn name(&self) -> Option<&Name> {
        self.genesis().map(|genesis| &genesis.name)
    }

    /// The network's servers, best first; none until the genesis is in.
    pub fn servers(&self) -> &[Server] {
        self.genesis().map_or(&[], |genesis| &genesis.servers)
    }

    /// The key that orders the log; `None` until the genesis is in.
    pub fn sequencer(&self) -> Option<SequencerKey> {
        self.genesis().map(|genesis| genesis.sequencer)
    }

    /// The /16 of the network's IPv4 addresses; `None` until the genesis is in.
    pub fn ipv4_range(&self) -> Option<Ipv4Range> {
        self.ledger.as_ref().map(Ledger::ipv4_range)
    }

    /// The keys that may invite, revoke and sign leases.
    pub fn admins(&self) -> impl Iterator<Item = &MemberKey> {
        self.ledger.iter().flat_map(|ledger| &ledger.admins)
    }

    /// Whether `key` is an admin's.
    pub fn is_admin(&self, key: &MemberKey) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| ledger.admins.contains(key))
    }

    /// All members that ever were, by key.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.ledger.iter().flat_map(|ledger| ledger.members.values())
    }

    /// The member with this key, live or revoked.
    pub fn member(&self, key: &MemberKey) -> Option<&Member> {
        self.ledger.as_ref()?.members.get(key)
    }

    /// The live member of this name.
    pub fn member_named(&self, name: &Name) -> Option<&Member> {
        self.member(&self.ledger.as_ref()?.names.holder(name)?)
    }

    /// The member, live or revoked, with this tunnel key.
    pub fn member_with_tunnel_key(&self, key: &TunnelKey) -> Option<&Member> {
        self.member(self.ledger.as_ref()?.tunnel_keys.get(key)?)
    }

    /// Whether `key` is a live member's: in the log, and not revoked, on receipt included.
    pub fn is_live(&self, key: &MemberKey) -> bool {
        self.member(key).is_some_and(Member::is_live) && !self.pending.contains_key(key)
    }

    /// Whether `key` is revoked, in the log or on receipt.
    pub fn is_revoked(&self, key: &MemberKey) -> bool {
        self.pending.contains_key(key) || self.ledger.as_ref().is_some_and(|ledger| ledger.dead.contains(key))
    }

    /// Revocations in effect that the log does not hold yet, to be stored, appended and told to others.
    pub fn pending_revocations(&self) -> impl Iterator<Item = (&MemberKey, &[u8])> {
        self.pending.iter().map(|(key, record)| (key, record.as_slice()))
    }

    /// All invites that ever were, by key.
    pub fn invites(&self) -> impl Iterator<Item = &InviteInfo> {
        self.ledger.iter().flat_map(|ledger| ledger.invites.values())
    }

    /// The invite with this key.
    pub fn invite(&self, key: &InviteKey) -> Option<&InviteInfo> {
        self.ledger.as_ref()?.invites.get(key)
    }

    /// The latest lease; the founding counts as one of length 0.
    pub fn lease(&self) -> Option<Lease> {
        self.ledger.as_ref().map(|ledger| ledger.lease)
    }

    /// The age of the latest lease at `now` (Unix seconds); `None` until the genesis is in, zero for one from the future.
    pub fn lease_age(&self, now: u64) -> Option<Duration> {
        self.lease().map(|lease| Duration::from_secs(now.saturating_sub(lease.time)))
    }

    /// Every live member but `me`, by key; none when `me` is not a live member itself.
    pub fn peers(&self, me: &MemberKey) -> Vec<VerifiedPeer> {
        if !self.is_live(me) {
            return Vec::new();
        }
        self.members().filter(|member| self.is_peer(me, member)).map(VerifiedPeer::of).collect()
    }

    /// The live member `key`, unless it is `me` or `me` is not a live member itself.
    pub fn peer(&self, me: &MemberKey, key: &MemberKey) -> Option<VerifiedPeer> {
        let member = self.member(key)?;
        (self.is_live(me) && self.is_peer(me, member)).then(|| VerifiedPeer::of(member))
    }

    fn is_peer(&self, me: &MemberKey, member: &Member) -> bool {
        member.key != *me && member.is_live() && !self.pending.contains_key(&member.key)
    }

    fn apply_genesis(&mut self, entry: &Entry, hash: [u8; 32]) -> Result<Applied, Break> {
        let genesis = check_genesis(&entry.record, Some(&self.network))?;
        let ledger = Ledger::new(self.network, genesis)?;
        entry.verify(&self.network, &ledger.sequencer)?;
        if entry.previous != self.network.to_bytes() {
            return Err(Break::Fork { sequence: entry.sequence });
        }
        self.heads.push(hash);
        self.time = entry.time;
        self.ledger = Some(ledger);
        Ok(Applied::Changed(Change::Founded))
    }

    fn admit(&mut self, time: u64, signed: SignedRecord) -> Applied {
        let change = self.ledger.as_mut().and_then(|ledger| ledger.admit(time, signed));
        if let Some(Change::Revoked(key)) = &change {
            self.pending.remove(key);
        }
        change.map_or(Applied::Skipped(Refusal::SecondGenesis), Applied::Changed)
    }

    /// A revocation that was in effect on receipt, but that the log's order made void, loses its effect.
    fn skip(&mut self, refusal: Refusal, record: &[u8]) -> Applied {
        if refusal == Refusal::LastAdmin {
            self.pending.retain(|_, pending| pending.as_slice() != record);
        }
        Applied::Skipped(refusal)
    }

    /// What it means that another entry claims a place that is taken.
    fn signed_fork(&self, entry: &Entry) -> Break {
        let verified = match &self.ledger {
            Some(ledger) => entry.verify(&self.network, &ledger.sequencer),
            None => Ok(()),
        };
        verified.map_or_else(Break::Signature, |()| Break::Fork { sequence: entry.sequence })
    }

    fn known_hash(&self, sequence: u64) -> Option<[u8; 32]> {
        self.heads.get(usize::try_from(sequence).ok()?).copied()
    }

    const fn length(&self) -> u64 {
        self.heads.len() as u64
    }
}

/// What an entry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Its record took effect.
    Changed(Change),
    /// The entry stands in the log, but its record means nothing.
    Skipped(Refusal),
    /// The entry was in the log already.
    Known,
}

/// What a record changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The network exists.
    Founded,
    /// An invite can be used.
    Invited(InviteKey),
    /// An invite can no longer be used.
    InviteVoided(InviteKey),
    /// A member came in.
    Joined(MemberKey),
    /// A member's name or capabilities changed.
    Updated(MemberKey),
    /// A key is dead.
    Revoked(MemberKey),
    /// An admin vouched for the log.
    Leased(Lease),
}

/// An invite, for lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InviteInfo {
    /// The public half of its one-time key.
    pub key: InviteKey,
    /// Unix seconds.
    pub expires: u64,
    /// The name its maker proposed.
    pub hint: Option<Name>,
    /// The admins who signed it.
    pub by: Vec<MemberKey>,
    /// What became of it.
    pub standing: InviteStanding,
}

/// What became of an invite; whether it has expired is a question of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InviteStanding {
    /// Nobody has used it.
    Open,
    /// This member joined with it.
    Used(MemberKey),
    /// An admin took it back.
    Void,
}

/// How another's log relates to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Both hold the same entries.
    Same,
    /// The other is shorter, and a part of this one.
    Behind,
    /// The other is longer; whether it continues this one shows when its entries come.
    Ahead,
    /// The two are different histories.
    Fork,
}

/// Revocations waiting to be ordered.
const MAX_PENDING: usize = 1024;
