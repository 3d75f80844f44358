//! WireGuard's constants: whitepaper section 6.1 and the Linux kernel's `messages.h`, `timers.c` and `cookie.h`.

use std::time::Duration;

/// Messages sealed under one key before a new handshake is due.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Messages sealed or opened under one key before it is refused: 2^64 - 2^13 - 1.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// Age at which the initiator of a session begins its successor.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// Age at which a session neither seals nor opens.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// Time between an initiation and the next try, before jitter.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Most random time added to [`REKEY_TIMEOUT`] and [`NEW_HANDSHAKE_AFTER`].
pub const REKEY_TIMEOUT_JITTER: Duration = Duration::from_millis(333);
/// Time after which tries without a response end.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// Silence after received data at which a keepalive is sent.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after sent data at which a new handshake begins, before jitter.
pub const NEW_HANDSHAKE_AFTER: Duration = Duration::from_secs(15);
/// Age at which an initiator that receives data renews its session: `REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT -
/// REKEY_TIMEOUT`.
pub const REKEY_ON_RECEIVE_AFTER: Duration = Duration::from_secs(165);
/// Time without a new session after which all keys of a peer are wiped: three times [`REJECT_AFTER_TIME`].
pub const ZERO_KEYS_AFTER: Duration = Duration::from_secs(540);
/// Least time between two initiations accepted from one peer (50 a second).
pub const INITIATION_INTERVAL_MIN: Duration = Duration::from_millis(20);
/// Life of a cookie secret.
pub const COOKIE_SECRET_LIFETIME: Duration = Duration::from_secs(120);
/// Age below which a received cookie is used: the secret's life less five seconds for the way.
pub const COOKIE_USE_BELOW: Duration = Duration::from_secs(115);
/// Time for which a host counts as under load after it was.
pub const UNDER_LOAD_STICKY: Duration = Duration::from_secs(1);
/// Handshakes waiting at which a host is under load: an eighth of the kernel's queue of 4,096.
pub const UNDER_LOAD_QUEUE: usize = 512;
/// Packets kept for a peer without a session.
pub const STAGED_PACKETS_MAX: usize = 128;
/// Differentiated services code point, as an outer TOS byte, of handshake messages (AF41).
pub const HANDSHAKE_TOS: u8 = 0x88;

/// Messages under one key of a 56-bit counter before a new handshake is due.
pub const REKEY_AFTER_MESSAGES_U56: u64 = 1 << 55;
/// Messages under one key of a 56-bit counter before it is refused: 2^56 - 2^16 - 1.
pub const REJECT_AFTER_MESSAGES_U56: u64 = (1 << 56) - (1 << 16) - 1;
/// 16-byte blocks under one AES-256-GCM key before a new handshake is due: half of [`REJECT_AFTER_BLOCKS`].
pub const REKEY_AFTER_BLOCKS: u64 = 1 << 33;
/// 16-byte blocks under one AES-256-GCM key before it is refused. At 2^34 blocks an attacker's advantage by the birthday
/// bound of a 128-bit permutation is below 2^-60.
pub const REJECT_AFTER_BLOCKS: u64 = 1 << 34;
