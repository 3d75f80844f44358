//! The times and bounds that forward works by.

use std::time::Duration;

use ginnel_tunnel::timers;

/// The times of the sessions' life, those of WireGuard unless a test shortens them, and the TUN's MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The age at which an initiator's session is to be replaced when it sends.
    pub rekey_after_time: Duration,
    /// The age at which a session is refused in both directions and its keys are erased.
    pub reject_after_time: Duration,
    /// The wait before data received is answered by a keepalive.
    pub keepalive_timeout: Duration,
    /// The least time between two [`crate::Event::RekeyDue`] for one peer.
    pub rekey_timeout: Duration,
    /// The MTU of the TUN, in bytes: WireGuard's padding never lengthens a packet beyond it.
    pub mtu: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rekey_after_time: timers::REKEY_AFTER_TIME,
            reject_after_time: timers::REJECT_AFTER_TIME,
            keepalive_timeout: timers::KEEPALIVE_TIMEOUT,
            rekey_timeout: timers::REKEY_TIMEOUT,
            mtu: 1280,
        }
    }
}

impl Config {
    /// The age from which an initiator's session is to be replaced when it receives: the last moment at which a
    /// handshake still ends in time. WireGuard: 165 s.
    pub fn last_minute(&self) -> Duration {
        self.reject_after_time.saturating_sub(self.keepalive_timeout).saturating_sub(self.rekey_timeout)
    }

    /// The silence after data sent, without its jitter, that calls for a handshake. WireGuard: 15 s.
    pub fn silence(&self) -> Duration {
        self.keepalive_timeout.saturating_add(self.rekey_timeout)
    }
}

/// Packets that wait for one peer's session or path; the oldest is dropped. WireGuard's MAX_STAGED_PACKETS.
pub const PENDING_PACKETS: usize = timers::STAGED_PACKETS_MAX;
/// How long a packet waits; WireGuard gives up a handshake, and what waited for it, after REKEY_ATTEMPT_TIME.
pub const PENDING_TIME: Duration = timers::REKEY_ATTEMPT_TIME;
/// How long data goes out on both paths after duplication was asked for.
pub const DUPLICATE_TIME: Duration = Duration::from_secs(3);
/// How many bytes of data go out twice after duplication was asked for.
pub const DUPLICATE_BYTES: u64 = 1 << 20;
/// Handshake datagrams that wait for node; the newest is dropped.
pub const HANDSHAKE_QUEUE: usize = 256;
/// Cookie replies that wait for node; the newest is dropped. One is owed for each handshake under way, and asked for again.
pub const COOKIE_QUEUE: usize = 16;
/// STUN datagrams that wait for node; the newest is dropped.
pub const STUN_QUEUE: usize = 64;
/// Control messages that wait for node, per peer; the newest is dropped.
pub const CONTROL_QUEUE: usize = 32;
/// New source paths that wait to be reported, per peer; the oldest is dropped.
pub const ARRIVED_QUEUE: usize = 8;
/// The least time between two reports of one path.
pub const ARRIVED_INTERVAL: Duration = Duration::from_secs(1);
/// Ended sessions that wait to be reported, per peer; the oldest is dropped.
pub const EXPIRED_QUEUE: usize = 32;
/// Probes that wait for their echo, per peer; the oldest is dropped.
pub const ECHO_QUEUE: usize = 8;
/// How long a probe waits for a session to answer on.
pub const ECHO_TIME: Duration = Duration::from_secs(2);
/// The least time between two [`crate::Event::SessionWanted`] for one peer.
pub const SESSION_WANTED_INTERVAL: Duration = Duration::from_secs(1);
/// Flows that shields remember; the longest unused is dropped.
pub const FLOWS: usize = 4096;
/// How long shields remember an unused flow.
pub const FLOW_TIME: Duration = Duration::from_secs(180);
/// The most random delay added to [`Config::silence`], so that two peers do not start at once. WireGuard: 333 ms.
pub const SILENCE_JITTER: Duration = timers::REKEY_TIMEOUT_JITTER;
/// Memory that the waiting packets of one peer may hold, in bytes; the oldest are dropped.
pub const PENDING_BYTES: usize = 1 << 20;
/// The least time between two [`crate::Event::Traffic`] for one peer and direction.
pub const TRAFFIC_INTERVAL: Duration = Duration::from_secs(1);
