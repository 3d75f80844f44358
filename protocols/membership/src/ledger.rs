//! What the records of a log mean: which are valid, and what each changes. Order and signatures of entries are
//! [`crate::state`]'s business.

use std::collections::{BTreeMap, BTreeSet};

use crate::addressing::{Ipv4Range, Pool};
use crate::keys::{InviteKey, MemberKey, NetworkId, TunnelKey, Verifier};
use crate::name::{Name, Registry};
use crate::peer::{Member, Standing};
use crate::record::{
    BadGenesis, Enrolment, Genesis, Invitation, InviteVoid, Lease, MemberUpdate, Record, Revocation, SignedRecord,
};
use crate::refusal::Refusal;
use crate::state::{Change, InviteInfo, InviteStanding};

/// The meaning of a log from its genesis on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) network: NetworkId,
    pub(crate) genesis: Genesis,
    pub(crate) sequencer: Verifier,
    pub(crate) admins: BTreeSet<MemberKey>,
    pub(crate) invites: BTreeMap<InviteKey, InviteInfo>,
    pub(crate) members: BTreeMap<MemberKey, Member>,
    /// Tunnel keys of all members that ever were.
    pub(crate) tunnel_keys: BTreeMap<TunnelKey, MemberKey>,
    /// Revoked keys, those included that a revocation named before they could join.
    pub(crate) dead: BTreeSet<MemberKey>,
    pub(crate) names: Registry<MemberKey>,
    pub(crate) lease: Lease,
    pool: Pool,
}

impl Ledger {
    pub(crate) fn new(network: NetworkId, genesis: Genesis) -> Result<Self, BadGenesis> {
        let range = genesis.ipv4_range.unwrap_or_else(|| Ipv4Range::of(&network));
        Ok(Self {
            network,
            sequencer: Verifier::new(genesis.sequencer.as_bytes())?,
            admins: genesis.admins.iter().copied().collect(),
            invites: BTreeMap::new(),
            members: BTreeMap::new(),
            tunnel_keys: BTreeMap::new(),
            dead: BTreeSet::new(),
            names: Registry::new(),
            // Founding counts as the first lease.
            lease: Lease { length: 0, head: network.to_bytes(), time: genesis.time },
            pool: Pool::new(network, range),
            genesis,
        })
    }

    pub(crate) const fn ipv4_range(&self) -> Ipv4Range {
        self.pool.range()
    }

    /// Says whether a record would have an effect in an entry of `time`. `head_at` answers the log's head at a length.
    pub(crate) fn judge(
        &self,
        time: u64,
        signed: &SignedRecord,
        head_at: &dyn Fn(u64) -> Option<[u8; 32]>,
    ) -> Result<(), Refusal> {
        match signed.record() {
            Record::Genesis(_) => return Err(Refusal::SecondGenesis),
            Record::Invite(body) => self.judge_invite(time, signed, body)?,
            Record::InviteVoid(body) => self.judge_void(signed, body)?,
            Record::Member(body) => self.judge_enrolment(time, signed, body)?,
            Record::MemberUpdate(body) => self.judge_update(signed, body)?,
            Record::Revoke(body) => self.judge_revocation(signed, body, self.admins.len())?,
            Record::Lease(body) => self.judge_lease(signed, body, head_at)?,
        }
        // Last, because it is what costs.
        Ok(signed.verify(&self.network)?)
    }

    /// Puts a record into effect that [`Self::judge`] passed for the same `time`.
    pub(crate) fn admit(&mut self, time: u64, signed: SignedRecord) -> Option<Change> {
        let by: Vec<_> = signed.signers().copied().collect();
        match signed.into_record() {
            Record::Genesis(_) => None,
            Record::Invite(Invitation { key, expires, hint }) => {
                self.invites.insert(key, InviteInfo { key, expires, hint, by, standing: InviteStanding::Open });
                Some(Change::Invited(key))
            }
            Record::InviteVoid(body) => {
                let invite = self.invites.get_mut(&body.key)?;
                invite.standing = InviteStanding::Void;
                Some(Change::InviteVoided(body.key))
            }
            Record::Member(body) => Some(self.enrol(time, body)),
            Record::MemberUpdate(body) => self.update(body),
            Record::Revoke(body) => Some(self.revoke(time, body.member)),
            Record::Lease(body) => {
                self.lease = body;
                Some(Change::Leased(body))
            }
        }
    }

    /// `admins_left` is how many admins are live before this revocation.
    pub(crate) fn judge_revocation(
        &self,
        signed: &SignedRecord,
        body: &Revocation,
        admins_left: usize,
    ) -> Result<(), Refusal> {
        if self.dead.contains(&body.member) {
            return Err(Refusal::AlreadyRevoked);
        }
        let leaves = self.live(&body.member).is_some() && signed.signers().eq([&body.member]);
        if !leaves {
            self.authorise(signed)?;
        }
        let threshold = usize::from(self.genesis.threshold);
        if self.admins.contains(&body.member) && admins_left <= threshold {
            return Err(Refusal::LastAdmin);
        }
        Ok(())
    }

    pub(crate) fn live(&self, key: &MemberKey) -> Option<&Member> {
        self.members.get(key).filter(|member| member.is_live())
    }

    fn judge_invite(&self, time: u64, signed: &SignedRecord, body: &Invitation) -> Result<(), Refusal> {
        if self.invites.contains_key(&body.key) || self.is_used(&same_key(&body.key)) {
            return Err(Refusal::InviteKnown);
        }
        if time >= body.expires {
            return Err(Refusal::InviteExpired);
        }
        self.authorise(signed)
    }

    fn judge_void(&self, signed: &SignedRecord, body: &InviteVoid) -> Result<(), Refusal> {
        match self.invites.get(&body.key).map(|invite| invite.standing) {
            None => Err(Refusal::InviteUnknown),
            Some(InviteStanding::Used(_)) => Err(Refusal::InviteUsed),
            Some(InviteStanding::Void) => Err(Refusal::InviteVoid),
            Some(InviteStanding::Open) => self.authorise(signed),
        }
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
        let inviters = invite.by.iter().filter(|key| self.admins.contains(key)).count();
        if inviters < self.genesis.threshold.into() {
            return Err(Refusal::InviterGone);
        }
        if self.is_used(&body.member) || self.invites.contains_key(&InviteKey::from_bytes(body.member.to_bytes())) {
            return Err(Refusal::MemberKnown);
        }
        if !body.tunnel_key.is_usable() {
            return Err(Refusal::TunnelKeyWeak);
        }
        if self.tunnel_keys.contains_key(&body.tunnel_key) {
            return Err(Refusal::TunnelKeyKnown);
        }
        check_wish(&body.name, body.capabilities)?;
        let both = [same_key(&body.invite), body.member];
        if signed.signers().len() == both.len() && both.iter().all(|key| signed.signers().any(|signer| signer == key)) {
            Ok(())
        } else {
            Err(Refusal::NotAuthorised)
        }
    }

    fn judge_update(&self, signed: &SignedRecord, body: &MemberUpdate) -> Result<(), Refusal> {
        let member = self.live(&body.member).ok_or(Refusal::MemberUnknown)?;
        if body.number <= member.update_number {
            return Err(Refusal::StaleUpdate);
        }
        check_wish(&body.name, body.capabilities)?;
        if signed.signers().eq([&body.member]) { Ok(()) } else { Err(Refusal::NotAuthorised) }
    }

    fn judge_lease(
        &self,
        signed: &SignedRecord,
        body: &Lease,
        head_at: &dyn Fn(u64) -> Option<[u8; 32]>,
    ) -> Result<(), Refusal> {
        if signed.signers().len() == 0 || !signed.signers().all(|key| self.admins.contains(key)) {
            return Err(Refusal::NotAuthorised);
        }
        if body.time < self.lease.time || body.length < self.lease.length {
            return Err(Refusal::StaleLease);
        }
        if head_at(body.length) == Some(body.head) {
            return Ok(());
        }
        // Only an admin's true signature makes this an alarm.
        signed.verify(&self.network)?;
        Err(Refusal::LeaseOfAnotherHistory)
    }

    /// At least the threshold of admins signed, and nobody else.
    fn authorise(&self, signed: &SignedRecord) -> Result<(), Refusal> {
        let enough = signed.signers().len() >= self.genesis.threshold.into();
        let only_admins = signed.signers().all(|key| self.admins.contains(key));
        if enough && only_admins { Ok(()) } else { Err(Refusal::NotAuthorised) }
    }

    fn is_used(&self, key: &MemberKey) -> bool {
        self.members.contains_key(key) || self.dead.contains(key)
    }

    fn enrol(&mut self, time: u64, body: Enrolment) -> Change {
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
            wish: body.name,
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

    fn update(&mut self, body: MemberUpdate) -> Option<Change> {
        let member = self.members.get_mut(&body.member)?;
        member.update_number = body.number;
        member.capabilities = body.capabilities;
        if member.wish != body.name {
            self.names.release(&member.name);
            member.name = self.names.assign(&body.name, body.member);
            member.wish = body.name;
        }
        Some(Change::Updated(body.member))
    }

    fn revoke(&mut self, time: u64, key: MemberKey) -> Change {
        self.dead.insert(key);
        self.admins.remove(&key);
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

fn check_wish(name: &Name, capabilities: crate::record::Capabilities) -> Result<(), Refusal> {
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
