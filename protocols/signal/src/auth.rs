//! What a client signs to prove a key on one channel.
//!
//! The signed message, in the context `ginnel signal auth v1`, is one byte for the role (0 member, 1 joiner by its
//! invite key, 2 joiner by its node key, 3 founder, 4 mirror), the network's id and the hash of the channel's Noise handshake.
//! The context keeps the signature apart from every other that the same key makes; the handshake hash ties it to one
//! channel with one server.

use ginnel_membership::{BadSignature, Context, InviteKey, MemberKey, NetworkId, SequencerKey, Signature, SigningKey};

/// The role under which a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignedRole {
    Member = 0,
    Invite = 1,
    Joiner = 2,
    Founder = 3,
    Mirror = 4,
}

/// Signs `role` in `network` for the channel `binding` with `key`.
pub(crate) fn sign(key: &SigningKey, role: SignedRole, network: &NetworkId, binding: &[u8; 32]) -> Signature {
    key.sign(CONTEXT, &message(role, network, binding))
}

/// Checks what [`sign`] made with the secret half of `key`.
pub(crate) fn verify(
    key: &MemberKey,
    role: SignedRole,
    network: &NetworkId,
    binding: &[u8; 32],
    signature: &Signature,
) -> Result<(), BadSignature> {
    key.verify(CONTEXT, &message(role, network, binding), signature)
}

/// Checks what [`sign`] made in [`SignedRole::Invite`] with the secret half of an invite's key.
pub(crate) fn verify_invite(
    key: &InviteKey,
    network: &NetworkId,
    binding: &[u8; 32],
    signature: &Signature,
) -> Result<(), BadSignature> {
    key.verify(CONTEXT, &message(SignedRole::Invite, network, binding), signature)
}

/// Checks what [`sign`] made in [`SignedRole::Mirror`] with the secret half of a server's key.
pub(crate) fn verify_mirror(
    key: &SequencerKey,
    network: &NetworkId,
    binding: &[u8; 32],
    signature: &Signature,
) -> Result<(), BadSignature> {
    key.verify(CONTEXT, &message(SignedRole::Mirror, network, binding), signature)
}

fn message(role: SignedRole, network: &NetworkId, binding: &[u8; 32]) -> Vec<u8> {
    let mut message = vec![role as u8];
    message.extend_from_slice(network.as_bytes());
    message.extend_from_slice(binding);
    message
}

const CONTEXT: Context = Context::new("ginnel signal auth v1");
