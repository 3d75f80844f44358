//! The data plane: carries batches of packets between the TUN and the paths.
//!
//! Forward holds what a packet needs and nothing else: session keys, counters and windows; who owns which address;
//! where each peer's datagrams go; and the timers that only packets set off. Handshakes, candidates, relays' allocations
//! and membership are node's, who gives orders as [`Command`]s and hears of what happens as [`Event`]s.
//!
//! It owns no socket, no clock and no entropy source. The shell lends the buffers ([`TunBatch`], [`Datagrams`],
//! [`WritePlan`], [`SendArena`]), one `now` counts for a whole batch, and a bad packet is a counted [`Discard`] inside
//! the batch. Nothing is allocated per packet once the buffers have grown to the traffic.
//!
//! # Driving it
//! ```text
//! loop:
//!   read the TUN into a TunBatch       -> handle_tun(now, batch, plan, arena)
//!   read the sockets into Datagrams    -> handle_datagrams(now, datagrams, plan, arena)
//!   each command from node             -> handle_command(now, command, plan, arena)
//!   when poll_timeout() is reached     -> handle_timeout(now, arena)
//!   after each of them: write plan to the TUN, send arena, clear both, drain poll_event()
//! ```
//! Plan and arena collect until they are cleared, so several calls may share one flush.
//!
//! # Two halves
//! [`Forward`] is [`Egress`] and [`Ingress`] on one thread. They share nothing: a command is [split](Command::split)
//! into one part for each, Ingress tells Egress by [`Notice`]s, Egress tells Ingress which flows it saw while the
//! shields are up. Both wait per peer until taken, so each half can live on its own thread with a bounded ring between.
//!
//! # A session's life
//! 1. [`Command::Install`]. As initiator the session is current at once; queued packets go out, or a keepalive, so that
//!    the responder learns that we have the keys. As responder it is next, and seals nothing.
//! 2. The first authentic packet on a responder's session makes it current: [`Event::Confirmed`].
//! 3. [`Event::RekeyDue`] when the initiator sends at REKEY_AFTER_TIME or receives 15 s before the end, when a key is
//!    worn, or when data sent meets silence.
//! 4. At REJECT_AFTER_TIME, or when newer sessions take its place, both keys are erased: [`Event::Expired`].
//!
//! # Receiving, in order
//! Receiver index, suite, key age and limit, AEAD, replay window, key promotion, inner source address against its owner
//! by longest prefix, shields, endpoint. A stock WireGuard peer's endpoint follows its authentic packets; a new source
//! of a ginneld peer is only reported ([`Event::Arrived`]).
//!
//! # Bounds
//! | queue | bound | when full |
//! |---|---|---|
//! | packets without session or path | [`PENDING_PACKETS`], [`PENDING_BYTES`] per peer, [`PENDING_TIME`] | oldest dropped |
//! | handshake datagrams for node | [`HANDSHAKE_QUEUE`] | newest dropped |
//! | cookie replies for node | [`COOKIE_QUEUE`], taken by turns with handshakes | newest dropped |
//! | STUN datagrams for node | [`STUN_QUEUE`], taken by turns with handshakes | newest dropped |
//! | control messages for node | [`CONTROL_QUEUE`] per peer | newest dropped |
//! | new source paths | [`ARRIVED_QUEUE`] per peer | oldest dropped |
//! | confirmed and ended sessions | [`EXPIRED_QUEUE`] per peer | oldest dropped |
//! | probes to answer | [`ECHO_QUEUE`] per peer in a batch, one without a session for [`ECHO_TIME`] | oldest dropped |
//! | traffic, rekey, session wanted, endpoint moved | one each per peer | the newest counts |
//! | flows remembered by the shields | [`FLOWS`] for [`FLOW_TIME`] | longest unused dropped |
//!
//! # Deviations from WireGuard's kernel implementation
//! - Keys are erased at REJECT_AFTER_TIME, when they become useless, rather than at three times that age.
//! - A third receiving session is kept, for the handshake that follows a crossed one.
//! - A passive keepalive that comes due after the session has ended is not a reason for a handshake.
//! - An endpoint does not move on a packet whose inner source address is not the peer's.
#![forbid(unsafe_code)]

mod buffer;
mod classify;
mod command;
mod config;
mod counters;
mod egress;
mod event;
mod fact;
mod flow;
mod forward;
mod ingress;
mod packet;
mod pending;
mod relay;
mod route;
mod schedule;
mod session;
mod table;
#[cfg(test)]
mod test_packet;
#[cfg(test)]
mod tests;
mod timer;

pub use buffer::{Datagrams, SendArena, Transmit, TunBatch, WritePlan};
pub use command::{Command, EgressCommand, IngressCommand, PeerId, RelayCommand, Roam, Shields};
pub use config::{
    ARRIVED_INTERVAL, ARRIVED_QUEUE, CONTROL_QUEUE, COOKIE_QUEUE, Config, DUPLICATE_BYTES, DUPLICATE_TIME, ECHO_QUEUE,
    ECHO_TIME, EXPIRED_QUEUE, FLOW_TIME, FLOWS, HANDSHAKE_QUEUE, PENDING_BYTES, PENDING_PACKETS, PENDING_TIME,
    SESSION_WANTED_INTERVAL, SILENCE_JITTER, STUN_QUEUE, TRAFFIC_INTERVAL,
};
pub use counters::{Counters, Discard, PeerCounters};
pub use egress::Egress;
pub use event::{Event, Notice, Received, RekeyReason, Wear};
pub use flow::FlowKey;
pub use forward::Forward;
pub use ingress::Ingress;
pub use session::{ReceiveSession, SendSession};
