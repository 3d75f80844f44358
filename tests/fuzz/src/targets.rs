//! The targets, by the crate whose parsers they try.

mod daemon;
mod forward;
mod local_api;
mod membership;
mod node;
mod path;
mod recording;
mod signal;
mod stun;
mod tunnel;
mod turn;

use crate::Target;

/// Every target.
pub const TARGETS: &[Target] = &[
    forward::DATAGRAM,
    forward::SEALED,
    forward::TUN,
    tunnel::HANDSHAKE,
    tunnel::COOKIE,
    tunnel::TRANSPORT,
    stun::MESSAGE,
    stun::CLIENT,
    turn::CHANNEL_DATA,
    turn::CLIENT,
    turn::SERVER,
    path::MESSAGE,
    path::ADDRESS,
    path::AGENT,
    membership::RECORD,
    membership::ENTRY,
    membership::STRINGS,
    membership::NAME,
    membership::LOG,
    membership::SNAPSHOT,
    signal::CLIENT_MESSAGE,
    signal::SERVER_MESSAGE,
    signal::CLIENT,
    signal::SERVER,
    signal::MIRROR,
    signal::MAILBOX,
    node::NODE,
    node::STATE,
    recording::RECORDING,
    local_api::REQUEST,
    local_api::TIME,
    daemon::CONFIG,
    daemon::STATE,
    daemon::JOURNAL,
    daemon::TRANSFER,
    daemon::HOSTS,
];
