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
//! # Several networks
//!
//! A machine is in up to 16 networks at once, with keys of its own in each. They share the UDP sockets and what STUN
//! servers say of the NATs in front of these, and nothing else: mac1 tells whose identity a handshake is for, a peer
//! belongs to the network of that identity, a server's mail opens only with the keys of the network that it serves, and
//! the data plane takes a packet only from the peer that owns its source address. Nothing is forwarded from a peer to a
//! peer, so networks do not meet on a machine that is in both.
//!
//! STUN servers of every network are asked, three in all where there are no more networks than that, else one of each; one
//! that serves several is asked once. A network's own servers are believed first. What those of others say is told to its
//! peers beside it, three mappings of a socket at most: one server may be on the LAN and see no NAT, or be wrong.
//!
//! Each network that is up has one allocation, on a relay of its own servers and by its own credentials, at most 16 in all;
//! its members are told of no other one, and what comes in by another one is refused. Who runs one network's relay thus
//! sees nothing of another's members, and a relay's end is that of its own network's links alone. Where one relay serves
//! two networks, the second allocation is asked for from a socket of its own. Peers of the configuration file are in no
//! network and have no relay. With a network or a server of it go its allocation and its words.
//!
//! IPv4 ranges may overlap, since 64 /16 ranges are few. A founder takes a range that is free on its machine, inside
//! 100.64.0.0/10 if there is one: none of another network, of the configuration file, or around an address of the machine's
//! own, that of another VPN or a container bridge included. A join whose range is taken is
//! refused before this machine writes itself into the log, unless it goes by IPv6 alone ([`Ipv4Use::Off`]); an address
//! that a carrier gave out (100.64.0.0/10) does not count there. What a network does not route stays a path for others:
//! only its members' own addresses are refused as candidates, and the whole range where there are more than 1,000. A
//! network whose name another one has already gets a number at its end (`home-2`), on this machine alone. Shields are the
//! whole machine's.
//!
//! # Third parties
//!
//! A member can name somebody else's address for its own. One at which no probe was answered within five minutes gets
//! at most 120 probes at once and one in two seconds after that, and 180 copies of handshakes at once and three a
//! second after that, with all its ports and for all peers in all networks together; in IPv6 a /64 counts as one
//! address. An initiation that comes from there is answered once, whoever sent it, by no more bytes than it has.
//! Nothing else that comes from there lifts the bound, because it may be forged, and what is answered by way of a relay
//! lifts it for relays alone. A peer by itself gets two thirds of it at most, so that one that names the address of
//! another, or shares it, leaves that one what a direct path takes. A machine that has moved counts anew.
//!
//! # Recordings
//!
//! A run of a node can be recorded and repeated, see [`record`].
//!
//! # After an outage
//!
//! However long something was away, these bound how long it takes until it is used again, beside a few round trips:
//!
//! | what is back | noticed, where it had not been | used again within |
//! |---|---|---|
//! | a signaling server | its stream is silent: 22 s, while mail is awaited 11 s | 8 s and what the shell takes to connect |
//! | a relay | 15 s for one that forgot us, at once where a path by it fails | 8 s; another one on offer after 2 s of silence |
//! | a mapping | asked for every 15 s, and at once where a path fails | |
//! | a peer that data waits for | | a handshake every 10 s, by mail and on every plausible path |
//!
//! So a pair that data waits for is linked within 30 s of the end of a partition, a black hole or a suspend.
//!
//! A server that lost the newest entries of its log is given them back by whichever member it still knows. One that knows
//! none of them any more gets them from the founder's machine, which comes in by its admin key; until that is there, or
//! for an older log than the last 8,192 entries or 4 MiB, such a server serves nobody.
//!
//! # Records and several servers
//!
//! A record goes to the server that orders the log where that one is reached, or else to another, and to the next one
//! where that says that it does not reach the first, or is lost before it has answered. A request waits 20 s for its
//! record, as a mirror may hold it for 12 s; one that moves the log to another server 28 s, in which a mirror looks for the
//! lost one and asks every fellow.
//!
//! # Control messages
//!
//! Sealed plaintexts between ginneld whose first byte is below 0x40. Those of `ginnel-path` (0x01 to 0x03) go to the
//! agent; this crate adds:
//!
//! | type | bytes |
//! |---|---|
//! | 0x10 ping | type, version 1, token u64 big-endian |
//! | 0x11 pong | type, version 1, token u64 big-endian |
//! | 0x12 head | type, version 1, length of the log u64 big-endian, hash of its last entry 32 |
//! | 0x13 want | type, version 1, first sequence wanted u64 big-endian |
//! | 0x14 entries | type, version 1, sequence of the first u64 big-endian, 1 in the last packet of an answer else 0, part u8, parts u8; for one part: per entry its length u16 big-endian and the encoded entry, at most 64; for 2 or 3 parts: 1,100 bytes of one entry, the rest in the last |
//! | 0x15 revocation | type, version 1, the signed record |
#![forbid(unsafe_code)]

mod alive;
mod attempt;
mod changes;
mod clock;
mod counters;
mod exchange;
mod fetching;
mod fresh;
mod gather;
mod gossip;
mod govern;
mod greet;
mod guise;
mod health;
mod interface;
mod io;
mod joining;
mod link;
mod load;
mod lookup;
mod mail;
mod mappings;
mod members;
mod network;
mod networks;
mod node;
mod notice;
mod peer;
mod ping;
mod ranges;
mod recent;
pub mod record;
mod relays;
mod report;
mod requests;
mod roster;
mod rotation;
mod saved;
mod servers;
mod stamp;
mod status;
mod strangers;
mod tail;
#[cfg(test)]
mod tests;
mod up;
mod waiting;

pub use counters::{Counters, Discard};
pub use io::{
    Failure, FailureCode, Family, Input, Output, Port, Reply, Request, RequestId, ServerId, TunRoute, TunState,
    UpOutcome, UpReport,
};
pub use networks::{Ipv4Use, NetworkNumber};
pub use node::{Config, ConfigPeer, ConfigPeerKind, Debug, Node, Resume, StoredLog};
pub use notice::Notice;
pub use report::{
    Administration, HealthReport, InviteReport, InviteState, LogLine, NetworkReport, NetworkState, PathKind,
    PathReport, PeerReport, PeerSource, ServerReport, Status,
};
pub use roster::{Holder, Roster, RosterAdmin, RosterDelegate, RosterServer, ServerRole};
pub use saved::BadState;
