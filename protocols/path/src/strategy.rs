//! How a round of punching opens, and with what TTL.
//!
//! A round needs each side's first packet to leave before the other side's arrives: a Linux NAT that accepts packets to
//! itself records an early arrival, and gives the flow that it belongs to another port. Rounds therefore differ in their
//! opening move, since none fits every pair of networks. The called side opens, so it alone acts on the choice.
//!
//! Both moves suit NATs that keep one mapping per socket. What NATs that map per destination need (many sockets at once,
//! prediction of ports) belongs here as further openings: the round around it, the fresh socket and the pacing stay.

use std::time::Duration;

use crate::schedule;

/// The TTL of packets that open our own NAT before the other side is known to have opened its own: beyond two layers of
/// NAT on our side, and short of the other NAT where at least six hops lie between.
pub const OPENER_TTL: u8 = 5;

/// The called side's opening move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// Packets that die on the way. Full ones follow when the caller's own arrive, or once the answer must have reached
    /// the caller: it would have called again by then.
    ShortLived { ttl: u8 },
    /// Full packets half a relayed round trip after the answer, so that they cross the caller's own.
    Simultaneous,
}

impl Opening {
    /// The move of round number `round`, counted from 1. Short TTLs differ: 2 fits a single NAT few hops away from the
    /// other, 8 a deep one; crossing packets fit two NATs with no hop between them.
    pub(crate) fn of_round(round: u8) -> Self {
        match round % 4 {
            1 => Self::ShortLived { ttl: 2 },
            2 => Self::Simultaneous,
            3 => Self::ShortLived { ttl: OPENER_TTL },
            _ => Self::ShortLived { ttl: 8 },
        }
    }

    /// When the full packets leave, after the answer, given the round trip of the path that carried the call.
    pub(crate) fn delay(self, rtt: Duration) -> Duration {
        match self {
            Self::ShortLived { .. } => schedule::call_gap(rtt) + rtt + MARGIN,
            Self::Simultaneous => rtt / 2,
        }
    }
}

/// What a relayed round trip may be longer than measured.
const MARGIN: Duration = Duration::from_millis(20);
