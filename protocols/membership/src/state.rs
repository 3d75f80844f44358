//! Replay: from entries to the members, names and addresses that they prove.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::addressing::Ipv4Range;
pub use crate::change::{Admission, Applied, Change, Comparison, InviteInfo, InviteStanding};
use crate::entry::{Entry, MAX_TIME};
use crate::keys::{BadSignature, InviteKey, MemberKey, NetworkId, SequencerKey, Server, TunnelKey, Verifier};
use crate::ledger::{Check, Ledger};
use crate::name::Name;
use crate::office::Offices;
pub use crate::peer::{Member, Standing, VerifiedPeer};
use crate::record::{
    Checkpoint, Freshness, Genesis, Lease, MAX_RECORD_LEN, Policy, Record, SignedRecord, check_genesis,
};
use crate::refusal::{Break, Refusal};
use crate::snapshot::{MAX_SNAPSHOT_LEN, state_hash};

/// A network as its log tells it.
///
/// Two states that took the same entries are equal, whatever else came in between, except for revocations on receipt
/// ([`Self::revoke_on_receipt`]), which only ever take peers away. One that started at a checkpoint
/// ([`Self::from_checkpoint`]) knows no entries before it, and equals the others in everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    network: NetworkId,
    /// The log's length and head where this state started.
    base: (u64, [u8; 32]),
    /// The hash of every entry since.
    heads: Vec<[u8; 32]>,
    /// The time of the last entry.
    time: u64,
    /// `None` until the genesis is in.
    ledger: Option<Ledger>,
    /// Who orders and who governs, place by place.
    offices: Offices,
    /// The snapshot that the latest checkpoint speaks of.
    snapshot: Option<Arc<[u8]>>,
    /// Revocations in effect that are not in the log yet.
    pending: BTreeMap<MemberKey, Vec<u8>>,
}

/// A record that has an effect; a checkpoint with its snapshot.
struct Judged {
    signed: SignedRecord,
    snapshot: Option<Arc<[u8]>>,
}

impl State {
    /// The empty log of a network that is known by its id alone.
    pub const fn new(network: NetworkId) -> Self {
        Self {
            network,
            base: (0, network.to_bytes()),
            heads: Vec::new(),
            time: 0,
            ledger: None,
            offices: Offices::new(),
            snapshot: None,
            pending: BTreeMap::new(),
        }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// [`Break`] when the entry does not continue this log; nothing has changed then.
    pub fn apply(&mut self, entry: &Entry) -> Result<Applied, Break> {
        self.apply_checked(entry, Check::All)
    }

    pub(crate) fn apply_checked(&mut self, entry: &Entry, check: Check) -> Result<Applied, Break> {
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
        if self.ledger.is_none() {
            return self.apply_genesis(entry, hash);
        }
        if check == Check::All {
            self.verify_entry(entry)?;
        }
        if entry.previous != self.head().1 {
            return Err(Break::Fork { sequence: entry.sequence });
        }
        if entry.time < self.time {
            return Err(Break::Time);
        }
        if entry.time > MAX_TIME {
            return Err(Break::Era);
        }
        let judged = self.judge_checked(entry.time, &entry.record, check);
        self.heads.push(hash);
        self.time = entry.time;
        match judged {
            Ok(judged) => Ok(self.admit(entry, judged)),
            Err(refusal) => Ok(self.skip(refusal, &entry.record)),
        }
    }

    /// Takes a revocation before it is ordered: the key is dead for [`Self::is_revoked`] and [`Self::peers`] at once. Answers
    /// the member's latest key, which need not be the one that the record names.
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
        let target = ledger.current(&body.member);
        let dying = self.pending.keys().filter(|key| **key != target && ledger.authority.contains(key)).count();
        let admins_left = ledger.authority.admins().len().saturating_sub(dying);
        let key = ledger.judge_revocation(&signed, body, admins_left)?;
        signed.verify(&self.network)?;
        Ok(key)
    }

    /// Says whether `record` would have an effect in an entry of `time`, and reads it.
    ///
    /// # Errors
    /// [`Refusal`] says why it would not.
    pub fn judge(&self, time: u64, record: &[u8]) -> Result<SignedRecord, Refusal> {
        self.judge_checked(time, record, Check::All).map(|judged| judged.signed)
    }

    /// What an admin signs to let newcomers start here: see [`crate::build::checkpoint_record`]. It holds until the next
    /// entry; `None` before the genesis, or when the snapshot would be longer than [`MAX_SNAPSHOT_LEN`].
    pub fn make_checkpoint(&self) -> Option<Checkpoint> {
        self.ledger.as_ref()?;
        let (length, head) = self.head();
        let snapshot = self.snapshot();
        let state_length = u32::try_from(snapshot.len()).ok().filter(|_| snapshot.len() <= MAX_SNAPSHOT_LEN)?;
        Some(Checkpoint { length, head, state_hash: state_hash(&snapshot), state_length })
    }

    /// Number of entries, and the hash of the last; the network id stands for the hash of an empty log.
    pub fn head(&self) -> (u64, [u8; 32]) {
        (self.length(), self.heads.last().copied().unwrap_or(self.base.1))
    }

    /// The head that the log had when it held `length` entries; `None` when it is not that long, or when that was before
    /// the checkpoint at which this state started.
    pub fn head_at(&self, length: u64) -> Option<[u8; 32]> {
        match length.checked_sub(self.base.0)?.checked_sub(1) {
            None => Some(self.base.1),
            Some(last) => self.heads.get(usize::try_from(last).ok()?).copied(),
        }
    }

    /// The length that the log had where this state started: 0, unless that was at a checkpoint.
    pub const fn base(&self) -> u64 {
        self.base.0
    }

    /// Compares another's log with this one by its length and head.
    pub fn compare(&self, length: u64, head: [u8; 32]) -> Comparison {
        match self.head_at(length) {
            None if length < self.base.0 => Comparison::Unknown,
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

    /// The genesis as it stands in the log; `None` until it is in.
    pub fn genesis_record(&self) -> Option<&[u8]> {
        self.ledger.as_ref().map(|ledger| ledger.genesis_record.as_slice())
    }

    /// The network's name; `None` until the genesis is in.
    pub fn name(&self) -> Option<&Name> {
        self.genesis().map(|genesis| &genesis.name)
    }

    /// The network's servers, best first; none until the genesis is in.
    pub fn servers(&self) -> &[Server] {
        self.ledger.as_ref().map_or(&[], Ledger::servers)
    }

    /// The key that orders the log; `None` until the genesis is in.
    pub fn sequencer(&self) -> Option<SequencerKey> {
        self.ledger.as_ref().map(Ledger::sequencer)
    }

    /// Whose office a place of the log falls into: the key that filled it, or that fills it next where the log is not that
    /// long. An entry that handed the log over belongs to whichever of the two sequencers signed it. `None` before the
    /// genesis, and for places before the checkpoint at which this state started.
    pub fn office_of(&self, sequence: u64) -> Option<SequencerKey> {
        self.offices.holder(sequence)
    }

    /// Whether an entry proves that the log was handed over in its place, taken or not: it continues what this log holds
    /// before that place, its record is the change of servers that was next there and names another sequencer than the
    /// place's, enough of the admins in force there signed the record and nobody else did, and that sequencer or the new
    /// one signed the entry. `false` where this log does not reach, or started later.
    pub fn is_handover(&self, entry: &Entry) -> bool {
        self.head_at(entry.sequence) == Some(entry.previous) && self.offices.is_handover(&self.network, entry)
    }

    /// The number that the next change of the servers must have.
    pub fn next_servers(&self) -> u64 {
        self.ledger.as_ref().map_or(1, Ledger::next_servers)
    }

    /// The rules; the defaults until a policy is in the log. Its delegates are live members.
    pub fn policy(&self) -> Policy {
        self.ledger.as_ref().map(|ledger| ledger.policy.clone()).unwrap_or_default()
    }

    /// The number that the next policy must have.
    pub fn next_policy(&self) -> u64 {
        self.ledger.as_ref().map_or(1, Ledger::next_policy)
    }

    /// The latest checkpoint in the log; its `length` is the sequence number of its entry.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        self.ledger.as_ref()?.checkpoint
    }

    /// The snapshot of which the latest checkpoint speaks: what a newcomer needs beside the checkpoint's entry.
    pub const fn checkpoint_snapshot(&self) -> Option<&Arc<[u8]>> {
        self.snapshot.as_ref()
    }

    /// The /16 of the network's IPv4 addresses; `None` until the genesis is in.
    pub fn ipv4_range(&self) -> Option<Ipv4Range> {
        self.ledger.as_ref().map(Ledger::ipv4_range)
    }

    /// The keys that may govern, ascending.
    pub fn admins(&self) -> impl Iterator<Item = &MemberKey> {
        self.ledger.iter().flat_map(|ledger| ledger.authority.admins())
    }

    /// How many admins must sign together; 0 until the genesis is in.
    pub fn threshold(&self) -> u8 {
        self.ledger.as_ref().map_or(0, |ledger| ledger.authority.threshold())
    }

    /// The number that the next change of the admins must have.
    pub fn next_admin_change(&self) -> u64 {
        self.ledger.as_ref().map_or(1, Ledger::next_admin_change)
    }

    /// Whether `key` is an admin's.
    pub fn is_admin(&self, key: &MemberKey) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| ledger.authority.contains(key))
    }

    /// All members that ever were, by their latest key.
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

    /// The member, live or revoked, with this tunnel key; nobody has one that was replaced.
    pub fn member_with_tunnel_key(&self, key: &TunnelKey) -> Option<&Member> {
        self.member(self.ledger.as_ref()?.tunnel_keys.get(key)?)
    }

    /// What a member's key was replaced with in the end; `key` itself unless it was.
    pub fn current_key(&self, key: &MemberKey) -> MemberKey {
        self.ledger.as_ref().map_or(*key, |ledger| ledger.current(key))
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

    /// The age of the latest lease at `now` (Unix seconds); `None` until the genesis is in. Zero for one from the future,
    /// but for one that lies more than [`LEASE_LEAD`] ahead: that proves nothing, and is taken to be just older than
    /// [`LEASE_LIFE`].
    pub fn lease_age(&self, now: u64) -> Option<Duration> {
        let time = self.lease()?.time;
        if time > now.saturating_add(LEASE_LEAD.as_secs()) {
            return Some(LEASE_LIFE + Duration::from_secs(1));
        }
        Some(Duration::from_secs(now.saturating_sub(time)))
    }

    /// Whether newcomers may be let in at `now` (Unix seconds).
    pub fn admitting(&self, now: u64) -> Admission {
        let Some((ledger, age)) = self.ledger.as_ref().zip(self.lease_age(now)) else { return Admission::Closed };
        match ledger.policy.freshness {
            _ if age <= LEASE_LIFE => Admission::Fresh,
            Freshness::Warn => Admission::Stale,
            Freshness::Strict => Admission::Closed,
        }
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

    pub(crate) const fn ledger(&self) -> Option<&Ledger> {
        self.ledger.as_ref()
    }

    /// Stands just after the entry of a checkpoint, signed by the sequencer that `verifier` stands for, which vouches for
    /// `ledger`.
    pub(crate) fn resume_at(
        mut ledger: Ledger,
        verifier: Verifier,
        snapshot: &[u8],
        checkpoint: Checkpoint,
        entry: &Entry,
    ) -> Self {
        ledger.checkpoint = Some(checkpoint);
        Self {
            network: ledger.network,
            base: (checkpoint.length, checkpoint.head),
            heads: vec![entry.hash()],
            time: entry.time,
            offices: Offices::starting(checkpoint.length, verifier, &ledger),
            ledger: Some(ledger),
            snapshot: Some(snapshot.into()),
            pending: BTreeMap::new(),
        }
    }

    fn apply_genesis(&mut self, entry: &Entry, hash: [u8; 32]) -> Result<Applied, Break> {
        let genesis = check_genesis(&entry.record, Some(&self.network))?;
        let verifier = Verifier::new(genesis.sequencer.as_bytes())?;
        entry.verify(&self.network, &verifier)?;
        if entry.previous != self.network.to_bytes() {
            return Err(Break::Fork { sequence: entry.sequence });
        }
        if entry.time > MAX_TIME {
            return Err(Break::Era);
        }
        self.heads.push(hash);
        self.time = entry.time;
        let ledger = Ledger::new(self.network, genesis, entry.record.clone());
        self.offices = Offices::starting(0, verifier, &ledger);
        self.ledger = Some(ledger);
        Ok(Applied::Changed(Change::Founded))
    }

    fn judge_checked(&self, time: u64, record: &[u8], check: Check) -> Result<Judged, Refusal> {
        let ledger = self.ledger.as_ref().ok_or(Refusal::NotFounded)?;
        if check == Check::Void {
            return Err(Refusal::NotAuthorised);
        }
        let signed = SignedRecord::decode(record)?;
        ledger.judge(time, &signed, &|length| self.head_at(length), check)?;
        let snapshot =
            if let Record::Checkpoint(body) = signed.record() { self.judge_checkpoint(body, check)? } else { None };
        Ok(Judged { signed, snapshot })
    }

    /// Holds what admins say of the log and its meaning against both; answers the snapshot.
    fn judge_checkpoint(&self, body: &Checkpoint, check: Check) -> Result<Option<Arc<[u8]>>, Refusal> {
        // Whoever started at the latest checkpoint knows no head before it.
        if self.checkpoint().is_some_and(|latest| body.length < latest.length) {
            return Err(Refusal::StaleCheckpoint);
        }
        if self.head_at(body.length).is_some_and(|head| head != body.head) {
            return Err(Refusal::CheckpointOfAnotherState);
        }
        if body.length != self.length() {
            return Err(Refusal::StaleCheckpoint);
        }
        if check == Check::Brief {
            return Ok(None);
        }
        let snapshot = self.snapshot();
        let length = snapshot.len() <= MAX_SNAPSHOT_LEN && u32::try_from(snapshot.len()) == Ok(body.state_length);
        let known = matches!(check, Check::Nothing | Check::Void);
        if length && (known || state_hash(&snapshot) == body.state_hash) {
            Ok(Some(snapshot.into()))
        } else {
            Err(Refusal::CheckpointOfAnotherState)
        }
    }

    fn admit(&mut self, entry: &Entry, judged: Judged) -> Applied {
        let Some(ledger) = &mut self.ledger else { return Applied::Skipped(Refusal::NotFounded) };
        let change = ledger.admit(entry.time, &judged.signed);
        match &change {
            Some(Change::Revoked(key)) => {
                self.pending.remove(key);
                self.offices.take(&self.network, entry, ledger);
            }
            Some(Change::Rotated { old, new }) => {
                // A revocation on its way holds for whoever the member is by now.
                if let Some(record) = self.pending.remove(old) {
                    self.pending.insert(*new, record);
                }
                self.offices.take(&self.network, entry, ledger);
            }
            Some(Change::Checkpointed(_)) => self.snapshot = judged.snapshot,
            Some(Change::AdminsChanged | Change::ServersChanged) => self.offices.take(&self.network, entry, ledger),
            Some(
                Change::Founded
                | Change::Invited(_)
                | Change::InviteVoided(_)
                | Change::Joined(_)
                | Change::Updated(_)
                | Change::Spared(_)
                | Change::Leased(_)
                | Change::PolicyChanged,
            )
            | None => {}
        }
        change.map_or(Applied::Skipped(Refusal::SecondGenesis), Applied::Changed)
    }

    /// A revocation that was in effect on receipt, but that the log's order made void, loses its effect.
    fn skip(&mut self, refusal: Refusal, record: &[u8]) -> Applied {
        if refusal != Refusal::LastAdmin {
            return Applied::Skipped(refusal);
        }
        let spared = self.pending.iter().find(|(_, pending)| pending.as_slice() == record).map(|(key, _)| *key);
        match spared {
            Some(key) => {
                self.pending.remove(&key);
                Applied::Changed(Change::Spared(key))
            }
            None => Applied::Skipped(refusal),
        }
    }

    /// Checks that the sequencer signed an entry for the log's end, or the one that the entry's own record puts in its place.
    fn verify_entry(&self, entry: &Entry) -> Result<(), BadSignature> {
        match self.offices.verify(&self.network, entry)? {
            None => Ok(()),
            Some(_) => self.judge(entry.time, &entry.record).map(drop).map_err(|_| BadSignature),
        }
    }

    /// What it means that another entry claims a place that is taken.
    fn signed_fork(&self, entry: &Entry) -> Break {
        match self.offices.vouch(&self.network, entry) {
            Err(bad) if !self.is_handover(entry) => Break::Signature(bad),
            Ok(()) | Err(_) => Break::Fork { sequence: entry.sequence },
        }
    }

    fn known_hash(&self, sequence: u64) -> Option<[u8; 32]> {
        let length = sequence.checked_add(1)?;
        // The base of a whole log is the network's id, which is no entry's hash.
        self.head_at(length).filter(|_| length > 0)
    }

    const fn length(&self) -> u64 {
        self.base.0.saturating_add(self.heads.len() as u64)
    }
}

/// How long a lease keeps a log fresh.
pub const LEASE_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// How far a lease may lie ahead of the entry that holds it, and of the clock that judges its age: room for clocks that
/// differ, not for a lease that never ages.
pub const LEASE_LEAD: Duration = Duration::from_secs(86_400);
/// Revocations waiting to be ordered.
const MAX_PENDING: usize = 1024;
