//! Makes the records that founders, admins and members sign.

use rand_core::{CryptoRng, RngCore};

use crate::addressing::Ipv4Range;
use crate::codec::Malformed;
use crate::keys::{InviteKey, MemberKey, NetworkId, SequencerKey, Server, SigningKey, TunnelKey};
use crate::name::Name;
use crate::record::{
    Capabilities, Enrolment, Genesis, Invitation, InviteVoid, Lease, MemberUpdate, Record, Revocation, SignedRecord,
    network_id,
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

/// Lets the holder of `key` join until `expires` (Unix seconds).
pub fn invite_record(
    network: &NetworkId,
    by: &SigningKey,
    key: InviteKey,
    expires: u64,
    hint: Option<Name>,
) -> Vec<u8> {
    sign(network, Record::Invite(Invitation { key, expires, hint }), &[by])
}

/// Takes an unused invite back.
pub fn void_record(network: &NetworkId, by: &SigningKey, key: InviteKey) -> Vec<u8> {
    sign(network, Record::InviteVoid(InviteVoid { key }), &[by])
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

/// Changes what a member says of itself; `number` is above every number used before, see
/// [`crate::state::Member::update_number`].
pub fn update_record(
    network: &NetworkId,
    member: &SigningKey,
    number: u64,
    name: Name,
    capabilities: Capabilities,
) -> Vec<u8> {
    let body = MemberUpdate { member: member.member_key(), number, name, capabilities };
    sign(network, Record::MemberUpdate(body), &[member])
}

/// Ends the membership of `member` for good; `by` is an admin, or the member itself.
pub fn revoke_record(network: &NetworkId, by: &SigningKey, member: MemberKey) -> Vec<u8> {
    sign(network, Record::Revoke(Revocation { member }), &[by])
}

/// Vouches for the log's `length` and `head`, as [`crate::state::State::head`] answers them, at `now` (Unix seconds).
pub fn lease_record(network: &NetworkId, by: &SigningKey, (length, head): (u64, [u8; 32]), now: u64) -> Vec<u8> {
    sign(network, Record::Lease(Lease { length, head, time: now }), &[by])
}

fn sign(network: &NetworkId, record: Record, signers: &[&SigningKey]) -> Vec<u8> {
    let signed = SignedRecord::sign(network, record, signers);
    signed.expect("only a genesis has lists that can be out of bounds").encode()
}
