//! Paths between two members: candidates, probes inside the sealed session, path selection and punching.
//!
//! One [`Agent`] per peer ranks every way there is to reach it, proves ways by probes that the other side echoes, tells
//! which one carries the traffic and which one stands by, and punches NATs together with the agent of the other side.
//! The session knows nothing of addresses, so traffic moves from path to path without touching it.
//!
//! The crate never opens a socket, never reads a clock, never resolves a name, and knows neither STUN nor TURN: its
//! driver gathers candidates, seals and sends what the agent asks for, and hands back what came in.
//!
//! # Driving an agent
//!
//! ```text
//! loop {
//!     agent.handle_input(now, input)  or  agent.handle_timeout(now)
//!     while let Some(output) = agent.poll_output() { ... }
//!     sleep until agent.poll_timeout() or the next input
//! }
//! ```
//! While output is queued, `poll_timeout` answers the last `now`. A deadline fires at `now >= deadline`, and firing moves
//! it. An earlier `now` counts as the latest one seen.
//!
//! What the driver owes beyond that:
//! - every copy of a handshake message that proves authentic, identical repetitions included, is an [`Input::Arrived`];
//!   a responder repeats its answer on [`Agent::openers`] until the session is confirmed, since the first copies may meet
//!   a relay that does not let it in yet; once the other side must have the answer by mail, and has opened, at full TTL,
//!   since a side whose NAT gives each remote another port is known by what arrives from it alone;
//! - a path of a relay that the agent sends on has its permission and channel made before the bytes go out;
//! - [`Input::Traffic`] stands for data, never for probes or keepalives, or the network is never idle;
//! - a fresh socket's mapping is found before the candidates with it are handed in, or soon after: a round waits 1.5 s.
//!
//! # The order of things
//!
//! 1. Before a session the driver sends its handshake on [`Agent::openers`]: to public addresses behind NATs with a small
//!    TTL, so that the packet opens our own NAT and dies before the other one, which would answer an early packet by
//!    giving the other side's flow a new port.
//! 2. [`Input::Session`] starts the probes, at full TTL on every pair. The first echo names the first primary, usually a
//!    relay's; better tiers take over with their own first echo ([`Tier`]). A session that is renewed where the paths fail
//!    starts them again; where its handshake came by a path, and not by the mailbox, mappings get openers first, since
//!    nothing has told the other side to open.
//! 3. When no direct path came up, the agents arrange rounds of punching by [`message::CandidateList`], each on a fresh
//!    port ([`Output::FreshSocket`]), with opening moves that differ from round to round. While there is no path at all,
//!    the driver's mailbox takes the place of the call ([`Output::Summon`]).
//! 4. Who has data for an idle peer calls it ([`Output::Summon`]) beside asking what was proven before: meanwhile nothing was
//!    asked. A path that gives way to a worse one unanswered is probed on with all the others.
//! 5. The primary is probed while traffic flows, the backup more rarely, nothing once the peer has been idle for two
//!    minutes: a path that is lost then, as with our own relay, is missed only when there is something to say. A primary
//!    that stops echoing is doubtful after 750 ms (data goes both ways) and left after 3 s.
//!
//! # Deviations from ICE (RFC 8445)
//!
//! No roles beyond the tie-break, no nomination, no foundations or priorities on the wire, no STUN between peers: probes
//! are authenticated by the session. A pair is never failed for good. Each side chooses its sending path alone.
#![forbid(unsafe_code)]

pub mod address;
mod agent;
mod candidate;
mod checklist;
mod event;
pub mod id;
pub mod message;
mod outbox;
mod pace;
mod pair;
mod punch;
mod schedule;
mod score;
mod selection;
mod strategy;
mod telling;

pub use agent::Agent;
pub use event::{
    Config, Discard, Input, Output, PathEvent, PathState, PathStatus, Policy, Role, Selected, WhyNotDirect,
};
pub use id::{Candidate, CandidateKind, Local, LocalCandidate, Path, RelayId, SocketId};
pub use score::Tier;
pub use strategy::OPENER_TTL;
