//! What the records of a log mean: which are valid, and what each changes. Order and signatures of entries are
//! [`crate::state`]'s business.

use std::collections::{BTreeMap, BTreeSet};

use crate::addressing::{Ipv4Range, Pool};
use crate::authority::{Authority, Effect};
use crate::keys::{BadSignature, InviteKey, MemberKey, NetworkId, SequencerKey, Server, TunnelKey, Verifier};
use crate::name::{Name, Registry};
use crate::peer::{Member, Standing};
use crate::record::{
    Capabilities, Checkpoint, Enrolment, Genesis, Invitation, InviteVoid, Lease, MemberUpdate, Policy, Record,
    Revocation, Rights, Rotation, ServersChange, SignedRecord,
};
use crate::refusal::Refusal;
use crate::state::{Change, InviteInfo, InviteStanding, LEASE_LEAD};

/// The meaning of a log from its genesis on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) network: NetworkId,
    pub(crate) genesis: Genesis,
    /// The genesis as it stands in the log.
    pub(crate) genesis_record: Vec<u8>,
    pub(crate) authority: Authority,
    /// Who orders the log, and where the servers are.
    pub(crate) service: ServersChange,
    pub(crate) policy: Policy,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) invites: BTreeMap<InviteKey, InviteInfo>,
    /// All that ever were, by their latest key.
    pub(crate) members: BTreeMap<MemberKey, Member>,
    /// The latest tunnel keys of all members that ever were.
    pub(crate) tunnel_keys: BTreeMap<TunnelKey, MemberKey>,
    /// Tunnel keys that members have replaced.
    pub(crate) spent_tunnel_keys: BTreeSet<TunnelKey>,
    /// Revoked keys, those included that a revocation named before they could join, and keys that members have replaced.
    pub(crate) dead: BTreeSet<MemberKey>,
    /// What members' keys were replaced with.
    pub(crate) successors: BTreeMap<MemberKey, MemberKey>,
    pub(crate) names: Registry<MemberKey>,
    pub(crate) lease: Lease,
    pub(crate) pool: Pool,
}

/// What a judgement looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Everything.
    All,
    /// The record's signatures, not the entry's: whoever asks took this very entry from the sequencer before.
    Records,
    /// No signatures, and not the state that a checkpoint speaks of: whoever asks found this very record good before.
    Nothing,
    /// As `Nothing`, and builds no snapshot where the record is a checkpoint: another one follows.
    Brief,
    /// Not even the record: whoever asks found before that it means nothing.
    Void,
}

impl Check {
    pub(crate) fn verify(self, network: &NetworkId, signed: &SignedRecord) -> Result<(), BadSignature> {
        match self {
            Self::All | Self::Records => signed.verify(network),
            Self::Nothing | Self::Brief | Self::Void => Ok(()),
        }
    }
}

impl Ledger {
    /// Starts with a genesis that was checked.
    pub(crate) fn new(network: NetworkId, genesis: Genesis, genesis_record: Vec<u8>) -> Self {
        let range = genesis.ipv4_range.unwrap_or_else(|| Ipv4Range::of(&network));
        Self {
            network,
            genesis_record,
            authority: Authority::new(&genesis),
            service: ServersChange { number: 0, sequencer: genesis.sequencer, servers: genesis.servers.clone() },
            policy: Policy::default(),
            checkpoint: None,
            invites: BTreeMap::new(),
            members: BTreeMap::new(),
            tunnel_keys: BTreeMap::new(),
            spent_tunnel_keys: BTreeSet::new(),
            dead: BTreeSet::new(),
            successors: BTreeMap::new(),
            names: Registry::new(),
            // Founding counts as the first lease.
            lease: Lease { length: 0, head: network.to_bytes(), time: genesis.time },
            pool: Pool::new(network, range),
            genesis,
        }
    }

    pub(crate) const fn ipv4_range(&self) -> Ipv4Range {
        self.pool.range()
    }

    pub(crate) fn servers(&self) -> &[Server] {
        &self.service.servers
    }

    pub(crate) const fn sequencer(&self) -> SequencerKey {
        self.service.sequencer
    }

    /// Says whether a record would have an effect in an entry of `time`. `head_at` answers the log's head at a length. What
    /// a checkpoint says of the log and its state is left to the caller.
    pub(crate) fn judge(
        &self,
        time: u64,
        signed: &SignedRecord,
        head_at: &dyn Fn(u64) -> Option<[u8; 32]>,
        check: Check,
    ) -> Result<(), Refusal> {
        match signed.record() {
            Record::Genesis(_) => return Err(Refusal::SecondGenesis),
            Record::Invite(body) => self.judge_invite(time, signed, body)?,
            Record::InviteVoid(body) => self.judge_void(signed, body)?,
            Record::Member(body) => self.judge_enrolment(time, signed, body)?,
            Record::MemberUpdate(body) => self.judge_update(signed, body)?,
            Record::Revoke(body) => self.judge_revocation(signed, body, self.authority.admins().len()).map(drop)?,
            Record::Lease(body) => self.judge_lease(time, signed, body, head_at, check)?,
            Record::AdminChange(body) => {
                self.authority.judge_change(signed, body)?;
                if body.admins.iter().any(|key| self.dead.contains(key) || self.is_invite(key)) {
                    return Err(Refusal::AdminUnfit);
                }
            }
            Record::Servers(body) => self.judge_servers(signed, body)?,
            Record::Policy(body) => self.judge_policy(signed, body)?,
            Record::Checkpoint(_) => self.authority.authorise(signed)?,
        }
        // Last, because it is what costs.
        Ok(check.verify(&self.network, signed)?)
    }

    /// Puts a record into effect that [`Self::judge`] passed for the same `time`.
    pub(crate) fn admit(&mut self, time: u64, signed: &SignedRecord) -> Option<Change> {
        match signed.record() {
            Record::Genesis(_) => None,
            Record::Invite(Invitation { key, expires, hint }) => {
                let by = signed.signers().copied().collect();
                let info =
                    InviteInfo { key: *key, expires: *expires, hint: hint.clone(), by, standing: InviteStanding::Open };
                self.invites.insert(*key, info);
                Some(Change::Invited(*key))
            }
            Record::InviteVoid(body) => {
                let invite = self.invites.get_mut(&body.key)?;
                invite.standing = InviteStanding::Void;
                Some(Change::InviteVoided(body.key))
            }
            Record::Member(body) => Some(self.enrol(time, body)),
            Record::MemberUpdate(body) => self.update(signed, body),
            Record::Revoke(body) => Some(self.revoke(time, signed, self.current(&body.member))),
            Record::Lease(body) => {
                self.lease = *body;
                Some(Change::Leased(*body))
            }
            Record::AdminChange(body) => {
                self.authority.take(signed, Effect::Replace(body));
                Some(Change::AdminsChanged)
            }
            Record::Servers(body) => {
                self.service = body.clone();
                Some(Change::ServersChanged)
            }
            Record::Policy(body) => {
                self.policy = body.clone();
                Some(Change::PolicyChanged)
            }
            Record::Checkpoint(body) => {
                self.checkpoint = Some(*body);
                Some(Change::Checkpointed(*body))
            }
        }
    }

    /// Answers whose membership a valid revocation ends: the key it names, or what that was replaced with meanwhile.
    /// `admins_left` is how many admins are live before this revocation.
    pub(crate) fn judge_revocation(
        &self,
        signed: &SignedRecord,
        body: &Revocation,
        admins_left: usize,
    ) -> Result<MemberKey, Refusal> {
        let key = self.current(&body.member);
        if self.dead.contains(&key) {
            return Err(Refusal::AlreadyRevoked);
        }
        let leaves = self.live(&key).is_some() && signed.signers().eq([&key]);
        if !leaves {
            self.authority.authorise(signed)?;
        }
        if self.authority.contains(&key) && admins_left <= usize::from(self.authority.threshold()) {
            return Err(Refusal::LastAdmin);
        }
        Ok(key)
    }

    pub(crate) fn live(&self, key: &MemberKey) -> Option<&Member> {
        self.members.get(key).filter(|member| member.is_live())
    }

    /// The key that a member has in place of `key`, which is `key` itself unless it was replaced.
    pub(crate) fn current(&self, key: &MemberKey) -> MemberKey {
        let mut key = *key;
        while let Some(next) = self.successors.get(&key) {
            key = *next;
        }
        key
    }

    fn judge_invite(&self, time: u64, signed: &SignedRecord, body: &Invitation) -> Result<(), Refusal> {
        let key = same_key(&body.key);
        if self.invites.contains_key(&body.key) || self.is_used(&key) || self.authority.contains(&key) {
            return Err(Refusal::InviteKnown);
        }
        if time >= body.expires {
            return Err(Refusal::InviteExpired);
        }
        let by: Vec<_> = signed.signers().copied().collect();
        if self.may_invite_alone(&by) { Ok(()) } else { self.authority.authorise(signed) }
    }

    fn judge_void(&self, signed: &SignedRecord, body: &InviteVoid) -> Result<(), Refusal> {
        let invite = self.invites.get(&body.key).ok_or(Refusal::InviteUnknown)?;
        match invite.standing {
            InviteStanding::Used(_) => return Err(Refusal::InviteUsed),
            InviteStanding::Void => return Err(Refusal::InviteVoid),
            InviteStanding::Open => {}
        }
        let by_maker = self.may_invite_alone(&invite.by) && signed.signers().eq(&invite.by);
        if by_maker { Ok(()) } else { self.authority.authorise(signed) }
    }

    fn judge_enrolment(&self, time: u64, signed: &SignedRecord, body: &Enrolment) -> Result<(), Refusal> {
        let invite = self.invites.get(&body.invite).ok_or(Refusal::InviteUnknown)?;
        match invite.standing {
            InviteStanding::Used(_) => return Err(Refusal::InviteUsed),
            InviteStanding::Void => return Err(Refusal::InviteVoid),
            InviteStanding::Open => {}
        }
        if time >= invite.expires {
            return Err(Refusal::InviteExpired);
        }
        let inviters = invite.by.iter().filter(|key| self.authority.contains(key)).count();
        if inviters < self.authority.threshold().into() && !self.may_invite_alone(&invite.by) {
            return Err(Refusal::InviterGone);
        }
        self.judge_member_key(&body.member)?;
        self.judge_tunnel_key(&body.tunnel_key)?;
        check_wish(&body.name, body.capabilities)?;
        signed_by_both(signed, &same_key(&body.invite), &body.member)
    }

    fn judge_update(&self, signed: &SignedRecord, body: &MemberUpdate) -> Result<(), Refusal> {
        let member = self.live(&body.member).ok_or(Refusal::MemberUnknown)?;
        if body.number <= member.update_number {
            return Err(Refusal::StaleUpdate);
        }
        check_wish(&body.name, body.capabilities)?;
        if let Some(key) = &body.rotation.tunnel_key() {
            self.judge_tunnel_key(key)?;
        }
        match body.rotation {
            Rotation::Both { member: new, .. } => {
                self.judge_member_key(&new)?;
                // A right cannot come with a key, nor two of them become one.
                if self.authority.contains(&new) {
                    return Err(Refusal::MemberKnown);
                }
                signed_by_both(signed, &body.member, &new)
            }
            Rotation::None | Rotation::Tunnel(_) if signed.signers().eq([&body.member]) => Ok(()),
            Rotation::None | Rotation::Tunnel(_) => Err(Refusal::NotAuthorised),
        }
    }

    fn judge_lease(
        &self,
        time: u64,
        signed: &SignedRecord,
        body: &Lease,
        head_at: &dyn Fn(u64) -> Option<[u8; 32]>,
        check: Check,
    ) -> Result<(), Refusal> {
        let may = |key| self.authority.contains(key) || self.has_right(key, Rights::LEASE);
        if signed.signers().len() == 0 || !signed.signers().all(may) {
            return Err(Refusal::NotAuthorised);
        }
        if body.time > time.saturating_add(LEASE_LEAD.as_secs()) {
            return Err(Refusal::LeaseAhead);
        }
        // By length first: one signed by a clock that runs ahead must not outlive those of true clocks. Whoever started at
        // the checkpoint knows no head before it.
        let floor = self.checkpoint.map_or(0, |checkpoint| checkpoint.length);
        if (body.length, body.time) < (self.lease.length, self.lease.time) || body.length < floor {
            return Err(Refusal::StaleLease);
        }
        if head_at(body.length) == Some(body.head) {
            return Ok(());
        }
        // Only an admin's true signature makes this an alarm.
        check.verify(&self.network, signed)?;
        Err(Refusal::LeaseOfAnotherHistory)
    }

    fn judge_servers(&self, signed: &SignedRecord, body: &ServersChange) -> Result<(), Refusal> {
        self.authority.authorise(signed)?;
        if body.number != self.next_servers() {
            return Err(Refusal::WrongNumber);
        }
        Ok(Verifier::new(body.sequencer.as_bytes()).map(drop)?)
    }

    fn judge_policy(&self, signed: &SignedRecord, body: &Policy) -> Result<(), Refusal> {
        self.authority.authorise(signed)?;
        if body.number != self.next_policy() {
            return Err(Refusal::WrongNumber);
        }
        let members = body.delegates.iter().all(|delegate| self.live(&delegate.member).is_some());
        if members { Ok(()) } else { Err(Refusal::MemberUnknown) }
    }

    fn judge_member_key(&self, key: &MemberKey) -> Result<(), Refusal> {
        if self.is_invite(key) || self.is_used(key) { Err(Refusal::MemberKnown) } else { Ok(()) }
    }

    /// Whether the key is an invite's, whose secret more than one knows.
    fn is_invite(&self, key: &MemberKey) -> bool {
        self.invites.contains_key(&InviteKey::from_bytes(key.to_bytes()))
    }

    fn judge_tunnel_key(&self, key: &TunnelKey) -> Result<(), Refusal> {
        if !key.is_usable() {
            return Err(Refusal::TunnelKeyWeak);
        }
        let known = self.tunnel_keys.contains_key(key) || self.spent_tunnel_keys.contains(key);
        if known { Err(Refusal::TunnelKeyKnown) } else { Ok(()) }
    }

    /// Whether these signers are one delegate with the right to invite.
    fn may_invite_alone(&self, by: &[MemberKey]) -> bool {
        matches!(by, [key] if self.has_right(key, Rights::INVITE))
    }

    fn has_right(&self, key: &MemberKey, right: Rights) -> bool {
        self.policy.rights(key).is_some_and(|rights| rights.contains(right))
    }

    fn is_used(&self, key: &MemberKey) -> bool {
        self.members.contains_key(key) || self.dead.contains(key)
    }

    pub(crate) const fn next_admin_change(&self) -> u64 {
        self.authority.number().saturating_add(1)
    }

    pub(crate) const fn next_servers(&self) -> u64 {
        self.service.number.saturating_add(1)
    }

    pub(crate) const fn next_policy(&self) -> u64 {
        self.policy.number.saturating_add(1)
    }

    fn enrol(&mut self, time: u64, body: &Enrolment) -> Change {
        let (ipv4, ipv6) = self.pool.assign(&body.member);
        let name = self.names.assign(&body.name, body.member);
        if let Some(invite) = self.invites.get_mut(&body.invite) {
            invite.standing = InviteStanding::Used(body.member);
        }
        self.tunnel_keys.insert(body.tunnel_key, body.member);
        let member = Member {
            key: body.member,
            tunnel_key: body.tunnel_key,
            invite: body.invite,
            name,
            wish: body.name.clone(),
            capabilities: body.capabilities,
            ipv4,
            ipv6,
            joined: time,
            update_number: 0,
            standing: Standing::Live,
        };
        self.members.insert(body.member, member);
        Change::Joined(body.member)
    }

    fn update(&mut self, signed: &SignedRecord, body: &MemberUpdate) -> Option<Change> {
        let old = body.member;
        let mut member = self.members.remove(&old)?;
        member.update_number = body.number;
        member.capabilities = body.capabilities;
        if let Some(new) = body.rotation.member() {
            self.replace_key(signed, &member, new);
            member.key = new;
        }
        if let Some(tunnel_key) = body.rotation.tunnel_key() {
            self.tunnel_keys.remove(&member.tunnel_key);
            self.spent_tunnel_keys.insert(member.tunnel_key);
            member.tunnel_key = tunnel_key;
        }
        self.tunnel_keys.insert(member.tunnel_key, member.key);
        if member.wish != body.name {
            self.names.release(&member.name);
            member.name = self.names.assign(&body.name, member.key);
            member.wish = body.name.clone();
        }
        let new = member.key;
        self.members.insert(new, member);
        Some(match body.rotation {
            Rotation::None => Change::Updated(new),
            Rotation::Tunnel(_) | Rotation::Both { .. } => Change::Rotated { old, new },
        })
    }

    /// Puts `new` in every place of a member's key but the member itself.
    fn replace_key(&mut self, signed: &SignedRecord, member: &Member, new: MemberKey) {
        let old = member.key;
        self.dead.insert(old);
        self.successors.insert(old, new);
        self.names.hand_over(&member.name, new);
        if let Some(invite) = self.invites.get_mut(&member.invite) {
            invite.standing = InviteStanding::Used(new);
        }
        if self.authority.contains(&old) {
            self.authority.take(signed, Effect::Rotate { old, new });
        }
        for delegate in self.policy.delegates.iter_mut().filter(|delegate| delegate.member == old) {
            delegate.member = new;
        }
        self.policy.delegates.sort_unstable();
    }

    fn revoke(&mut self, time: u64, signed: &SignedRecord, key: MemberKey) -> Change {
        self.dead.insert(key);
        if self.authority.contains(&key) {
            self.authority.take(signed, Effect::Remove(key));
        }
        self.policy.delegates.retain(|delegate| delegate.member != key);
        if let Some(member) = self.members.get_mut(&key) {
            member.standing = Standing::Revoked(time);
            self.names.release(&member.name);
            if let Some(addr) = member.ipv4 {
                self.pool.release(addr);
            }
        }
        Change::Revoked(key)
    }
}

fn signed_by_both(signed: &SignedRecord, one: &MemberKey, other: &MemberKey) -> Result<(), Refusal> {
    let both = [one, other];
    let all = both.iter().all(|key| signed.signers().any(|signer| signer == *key));
    if signed.signers().len() == both.len() && all { Ok(()) } else { Err(Refusal::NotAuthorised) }
}

fn check_wish(name: &Name, capabilities: Capabilities) -> Result<(), Refusal> {
    if name.is_reserved() {
        Err(Refusal::NameReserved)
    } else if capabilities.has_suite() {
        Ok(())
    } else {
        Err(Refusal::NoSuite)
    }
}

/// An invite's key where keys of all kinds are compared.
const fn same_key(key: &InviteKey) -> MemberKey {
    MemberKey::from_bytes(key.to_bytes())
}
