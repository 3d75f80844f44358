//! The two directions of a session, as the halves hold them.

use std::time::Duration;

use ginnel_time::Instant;
use ginnel_tunnel::{Established, Opener, ReceiverIndex, Sealer, Side, Suite};

/// The sending direction of a session, on its way to [`crate::Egress`].
pub struct SendSession {
    pub(crate) index: ReceiverIndex,
    pub(crate) side: Side,
    pub(crate) sealer: Sealer,
}

/// The receiving direction of a session, on its way to [`crate::Ingress`].
pub struct ReceiveSession {
    pub(crate) index: ReceiverIndex,
    pub(crate) side: Side,
    pub(crate) suite: Suite,
    pub(crate) opener: Opener,
}

/// A session direction with the time of its installation.
pub(crate) struct Aged<T> {
    pub(crate) session: T,
    pub(crate) since: Instant,
}

impl<T> Aged<T> {
    #[inline]
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

/// Parts a finished handshake into its two directions.
pub(crate) fn split(established: Established) -> (SendSession, ReceiveSession) {
    let Established { keys, local_index: index, remote_index, suite, side, psk_id: _ } = established;
    let sealer = Sealer::new(suite, keys.send, remote_index);
    let opener = Opener::new(suite, keys.receive);
    (SendSession { index, side, sealer }, ReceiveSession { index, side, suite, opener })
}
