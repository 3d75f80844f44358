//! The part of Ginnel that decides: which peers there are, when to shake hands, which candidates to offer, which path
//! to take. [`Node`] composes the pure machines for handshakes, STUN, TURN, paths, membership and signaling, and tells
//! the data plane (`ginnel-forward`) what to carry where.
//!
//! A node never touches a socket, a clock, a file or a source of entropy. The shell drives it:
//!
//! ```text
//! node.handle_input(now, input)      or      node.handle_timeout(now)
//! while let Some(output) = node.poll_output() { carry it out, in order }
//! sleep until node.poll_timeout() or the next input
//! ```
//!
//! Outputs are carried out in order, and [`Output::Persist`] and [`Output::StoreEntries`] are durable before the next
//! output is looked at: that is what makes a join or a handshake timestamp survive a crash.
//!
//! # Who owns what
//!
//! | thing | owner |
//! |---|---|
//! | Noise states, mac1 and mac2, cookies, the limiter, timestamps, receiver indices, the ladder of copies | this crate |
//! | session keys, counters, replay windows, ages, the queue of packets without a session | `ginnel-forward` |
//! | which path | `ginnel-path`'s agent, one per ginneld peer, driven here |
//! | membership | `ginnel-membership`'s replay; only its `VerifiedPeer`, or a peer of the operator's own configuration file, becomes a peer |
//!
//! # Control messages
//!
//! Sealed plaintexts between ginneld whose first byte is below 0x40. Those of `ginnel-path` (0x01 to 0x03) go to the
//! agent; this crate adds two:
//!
//! | type | bytes |
//! |---|---|
//! | 0x10 ping | type, version 1, token u64 big-endian |
//! | 0x11 pong | type, version 1, token u64 big-endian |
#![forbid(unsafe_code)]

mod attempt;
mod counters;
mod exchange;
mod fresh;
mod gather;
mod greet;
mod io;
mod joining;
mod link;
mod load;
mod mail;
mod members;
mod network;
mod node;
mod peer;
mod ping;
mod recent;
mod report;
mod requests;
mod saved;
mod stamp;
mod status;
#[cfg(test)]
mod tests;
mod waiting;

pub use counters::{Counters, Discard};
pub use io::{
    Failure, FailureCode, Family, Input, Output, Port, Reply, Request, RequestId, ServerId, TunState, UpOutcome,
};
pub use node::{Config, ConfigPeer, ConfigPeerKind, Debug, Node, Resume};
pub use report::{
    Administration, HealthReport, InviteReport, InviteState, LogLine, NetworkReport, NetworkState, PathKind,
    PathReport, PeerReport, PeerSource, ServerReport, Status,
};
pub use saved::BadState;
