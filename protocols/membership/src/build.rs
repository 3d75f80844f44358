//! Makes the records that founders, admins and members sign.

use rand_core::{CryptoRng, RngCore};

use crate::addressing::Ipv4Range;
use crate::codec::Malformed;
use crate::keys::{InviteKey, MemberKey, NetworkId, SequencerKey, Server, SigningKey, TunnelKey};
use crate::name::Name;
use crate::record::{
    AdminChange, Capabilities, Checkpoint, Enrolment, Genesis, Invitation, InviteVoid, Lease, MemberUpdate, Policy,
    Record, Revocation, Rotation, ServersChange, SignedRecord, network_id,
};

/// A network just founded.
pub struct Founded {
    /// The genesis record, to be appended first of all.
    pub genesis: Vec<u8>,
    /// The network's id.
    pub network: NetworkId,
    /// The key of the network's one admin; it may also be the founder's member key.
    pub admin: SigningKey,
}

/// What the founder decides.
#[derive(Clone, Debug)]
pub struct Charter {
    /// The network's name.
    pub name: Name,
    /// The key that will order the log: [`crate::keys::ServerKeys::sequencer`] of the first server, as a rule.
    pub sequencer: SequencerKey,
    /// One to four servers, best first.
    pub servers: Vec<Server>,
    /// The /16 for IPv4 addresses; `None` leaves the choice to the network id.
    pub ipv4_range: Option<Ipv4Range>,
    /// Unix seconds.
    pub now: u64,
}

/// Founds a network with one fresh admin key and a threshold of one.
///
/// # Errors
/// [`Malformed`] when the servers are out of bounds.
pub fn found<R: RngCore + CryptoRng + ?Sized>(rng: &mut R, charter: Charter) -> Result<Founded, Malformed> {
    let admin = SigningKey::generate(rng);
    let genesis = Genesis {
        name: charter.name,
        time: charter.now,
        threshold: 1,
        admins: vec![admin.member_key()],
        sequencer: charter.sequencer,
        servers: charter.servers,
        ipv4_range: charter.ipv4_range,
    };
    let genesis = genesis_record(genesis, &[&admin])?;
    Ok(Founded { network: network_id(&genesis), genesis, admin })
}

/// Signs a genesis record with `admins`, of which at least the threshold must be given.
///
/// # Errors
/// [`Malformed`] when a list is out of bounds or the record too long.
pub fn genesis_record(genesis: Genesis, admins: &[&SigningKey]) -> Result<Vec<u8>, Malformed> {
    SignedRecord::sign(&NetworkId::from_bytes([0; 32]), Record::Genesis(genesis), admins).map(|signed| signed.encode())
}

/// Who signs a record: one key, or as many as a threshold asks for.
///
/// # Panics
/// The functions of this module that answer bytes alone panic where more than [`MAX_ADMINS`](crate::record::MAX_ADMINS)
/// keys sign, which no network has.
#[derive(Clone, Copy)]
pub struct Signers<'a>(Hands<'a>);

#[derive(Clone, Copy)]
enum Hands<'a> {
    One(&'a SigningKey),
    Many(&'a [&'a SigningKey]),
}

impl<'a> From<&'a SigningKey> for Signers<'a> {
    fn from(key: &'a SigningKey) -> Self {
        Self(Hands::One(key))
    }
}

impl<'a> From<&'a [&'a SigningKey]> for Signers<'a> {
    fn from(keys: &'a [&'a SigningKey]) -> Self {
        Self(Hands::Many(keys))
    }
}

impl<'a, const N: usize> From<&'a [&'a SigningKey; N]> for Signers<'a> {
    fn from(keys: &'a [&'a SigningKey; N]) -> Self {
        Self(Hands::Many(keys))
    }
}

/// Lets the holder of `key` join until `expires` (Unix seconds); `by` are admins, or a delegate that may invite.
pub fn invite_record<'a>(
    network: &NetworkId,
    by: impl Into<Signers<'a>>,
    key: InviteKey,
    expires: u64,
    hint: Option<Name>,
) -> Vec<u8> {
    sign(network, Record::Invite(Invitation { key, expires, hint }), by)
}

/// Takes an unused invite back; `by` are admins, or the delegate that made it.
pub fn void_record<'a>(network: &NetworkId, by: impl Into<Signers<'a>>, key: InviteKey) -> Vec<u8> {
    sign(network, Record::InviteVoid(InviteVoid { key }), by)
}

/// Uses an invite to become a member.
pub fn member_record(
    network: &NetworkId,
    invite: &SigningKey,
    member: &SigningKey,
    tunnel_key: TunnelKey,
    name: Name,
    capabilities: Capabilities,
) -> Vec<u8> {
    let body = Enrolment { invite: invite.invite_key(), member: member.member_key(), tunnel_key, name, capabilities };
    sign(network, Record::Member(body), &[invite, member])
}

/// New keys for [`update_record`].
#[derive(Clone, Copy)]
pub enum NewKeys<'a> {
    /// The keys stay.
    None,
    /// A new tunnel key.
    Tunnel(TunnelKey),
    /// A new member key, which signs beside the old one, and a new tunnel key.
    Both(&'a SigningKey, TunnelKey),
}

/// Changes what a member says of itself; `number` is above every number used before, see
/// [`crate::state::Member::update_number`].
pub fn update_record(
    network: &NetworkId,
    member: &SigningKey,
    number: u64,
    name: Name,
    capabilities: Capabilities,
    keys: NewKeys<'_>,
) -> Vec<u8> {
    let rotation = match keys {
        NewKeys::None => Rotation::None,
        NewKeys::Tunnel(tunnel_key) => Rotation::Tunnel(tunnel_key),
        NewKeys::Both(key, tunnel_key) => Rotation::Both { member: key.member_key(), tunnel_key },
    };
    let body = MemberUpdate { member: member.member_key(), number, name, capabilities, rotation };
    match keys {
        NewKeys::None | NewKeys::Tunnel(_) => sign(network, Record::MemberUpdate(body), member),
        NewKeys::Both(key, _) => sign(network, Record::MemberUpdate(body), &[member, key]),
    }
}

/// Ends the membership of `member` for good; `by` are admins, or the member itself.
pub fn revoke_record<'a>(network: &NetworkId, by: impl Into<Signers<'a>>, member: MemberKey) -> Vec<u8> {
    sign(network, Record::Revoke(Revocation { member }), by)
}

/// Vouches for the log's `length` and `head`, as [`State::head`](crate::state::State::head) answers them, at `now` (Unix seconds); `by` is an admin,
/// or a delegate that may sign leases.
pub fn lease_record<'a>(
    network: &NetworkId,
    by: impl Into<Signers<'a>>,
    (length, head): (u64, [u8; 32]),
    now: u64,
) -> Vec<u8> {
    sign(network, Record::Lease(Lease { length, head, time: now }), by)
}

/// Replaces the whole set of admins; the number is [`State::next_admin_change`](crate::state::State::next_admin_change)'s.
///
/// # Errors
/// [`Malformed`] when the set is empty, too large or not in ascending order, or the threshold cannot be reached.
pub fn admin_change_record<'a>(
    network: &NetworkId,
    by: impl Into<Signers<'a>>,
    change: AdminChange,
) -> Result<Vec<u8>, Malformed> {
    try_sign(network, Record::AdminChange(change), by)
}

/// Replaces the list of servers and names the one that orders the log; the number is [`State::next_servers`](crate::state::State::next_servers)'s.
///
/// # Errors
/// [`Malformed`] when the servers are out of bounds, or the sequencer is not one of them.
pub fn servers_record<'a>(
    network: &NetworkId,
    by: impl Into<Signers<'a>>,
    change: ServersChange,
) -> Result<Vec<u8>, Malformed> {
    try_sign(network, Record::Servers(change), by)
}

/// Replaces the rules; the number is [`State::next_policy`](crate::state::State::next_policy)'s.
///
/// # Errors
/// [`Malformed`] when there are too many delegates, or they are not in ascending order.
pub fn policy_record<'a>(
    network: &NetworkId,
    by: impl Into<Signers<'a>>,
    policy: Policy,
) -> Result<Vec<u8>, Malformed> {
    try_sign(network, Record::Policy(policy), by)
}

/// Vouches for what the log means, see [`State::make_checkpoint`](crate::state::State::make_checkpoint).
pub fn checkpoint_record<'a>(network: &NetworkId, by: impl Into<Signers<'a>>, checkpoint: Checkpoint) -> Vec<u8> {
    sign(network, Record::Checkpoint(checkpoint), by)
}

fn sign<'a>(network: &NetworkId, record: Record, by: impl Into<Signers<'a>>) -> Vec<u8> {
    try_sign(network, record, by)
        .expect("this record has no list that can be out of bounds, and no more signers than admins")
}

fn try_sign<'a>(network: &NetworkId, record: Record, by: impl Into<Signers<'a>>) -> Result<Vec<u8>, Malformed> {
    let signed = match by.into().0 {
        Hands::One(key) => SignedRecord::sign(network, record, &[key]),
        Hands::Many(keys) => SignedRecord::sign(network, record, keys),
    }?;
    Ok(signed.encode())
}
