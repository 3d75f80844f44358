//! Time for the pure crates: [`Instant`], made by the shells from `CLOCK_BOOTTIME`, and [`Tai64n`], the wall time that
//! handshakes and log entries carry.
//!
//! Neither type can read a clock. A machine is told the time with each call, so a run can be recorded and replayed, and
//! suspend counts because the boot clock counts it. All arithmetic saturates: a hostile or broken clock gives a wrong
//! answer, never a panic.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// A point on the boot clock, in nanoseconds since boot, suspend included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The moment of boot, and the start of every simulated world.
    pub const ZERO: Self = Self(0);

    /// Makes an instant from nanoseconds since boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(nanos(rhs)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(rhs)))
    }
}

/// A TAI64N label: 8 bytes of seconds (2^62 + 10 + Unix seconds) and 4 bytes of nanoseconds, both big-endian.
///
/// Labels compare as bytes do. The format is that of the WireGuard whitepaper, section 5.1, and of
/// <https://cr.yp.to/libtai/tai64.html>.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tai64n([u8; 12]);

impl Tai64n {
    /// The smallest label: earlier than every time a clock can name.
    pub const ZERO: Self = Self([0; 12]);

    /// Takes the 12 bytes of a label as they stand on the wire.
    pub const fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// The 12 bytes of the label as they stand on the wire.
    pub const fn to_bytes(self) -> [u8; 12] {
        self.0
    }

    /// Makes the label of a Unix time: whole seconds and nanoseconds below one second.
    pub fn from_unix(seconds: u64, nanos: u32) -> Self {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&seconds.saturating_add(TAI_BASE).to_be_bytes());
        bytes[8..].copy_from_slice(&nanos.min(NANOS_PER_SECOND - 1).to_be_bytes());
        Self(bytes)
    }

    /// Unix seconds of the label; zero for a label before 1970.
    pub fn unix_seconds(self) -> u64 {
        self.seconds().saturating_sub(TAI_BASE)
    }

    /// Nanoseconds below the second; a label from outside may hold up to `u32::MAX`.
    pub fn subsec_nanos(self) -> u32 {
        let [.., a, b, c, d] = self.0;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The label `duration` later.
    pub fn saturating_add(self, duration: Duration) -> Self {
        let nanos = u64::from(self.subsec_nanos().min(NANOS_PER_SECOND - 1)) + u64::from(duration.subsec_nanos());
        let carry = nanos / u64::from(NANOS_PER_SECOND);
        let seconds = self.unix_seconds().saturating_add(duration.as_secs()).saturating_add(carry);
        Self::from_unix(seconds, (nanos % u64::from(NANOS_PER_SECOND)) as u32)
    }

    /// The label with its nanoseconds rounded down to a multiple of 2^24 (16.8 ms), as WireGuard sends it, so that it
    /// tells less about the clock.
    pub fn whitened(self) -> Self {
        let mut bytes = self.0;
        bytes[8..].copy_from_slice(&(self.subsec_nanos() & !(TICK_NANOS - 1)).to_be_bytes());
        Self(bytes)
    }

    /// The first whitened label that is later than `self`.
    pub fn next_tick(self) -> Self {
        self.whitened().saturating_add(Duration::from_nanos(u64::from(TICK_NANOS))).whitened_up(self)
    }

    fn whitened_up(self, floor: Self) -> Self {
        let candidate = self.whitened();
        if candidate > floor { candidate } else { Self::from_unix(floor.unix_seconds().saturating_add(1), 0) }
    }

    fn seconds(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Debug for Tai64n {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tai64n({}.{:09})", self.unix_seconds(), self.subsec_nanos())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// 2^62, the label of 1970 TAI, and the 10 seconds that TAI was ahead of UTC then.
const TAI_BASE: u64 = (1 << 62) + 10;
const NANOS_PER_SECOND: u32 = 1_000_000_000;
/// WireGuard's granularity of initiation timestamps.
const TICK_NANOS: u32 = 1 << 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_later_times_compare_greater() {
        let a = Tai64n::from_unix(1_700_000_000, 5);
        assert!(a < Tai64n::from_unix(1_700_000_000, 6));
        assert!(a < Tai64n::from_unix(1_700_000_001, 0));
    }

    #[test]
    fn label_bytes_are_those_of_the_format() {
        let label = Tai64n::from_unix(0, 500);
        assert_eq!(label.to_bytes(), [0x40, 0, 0, 0, 0, 0, 0, 0x0a, 0, 0, 0x01, 0xf4]);
        assert_eq!(Tai64n::from_bytes(label.to_bytes()), label);
    }

    #[test]
    fn next_tick_is_later_and_whitened() {
        let mut label = Tai64n::from_unix(1_700_000_000, 999_999_999);
        for _ in 0..200 {
            let next = label.next_tick();
            assert!(next > label);
            assert_eq!(next.whitened(), next);
            label = next;
        }
    }

    #[test]
    fn arithmetic_saturates_instead_of_panicking() {
        let end = Instant::from_nanos(u64::MAX);
        assert_eq!(end + Duration::MAX, end);
        assert_eq!(Instant::ZERO - Duration::MAX, Instant::ZERO);
        assert_eq!(Instant::ZERO.saturating_duration_since(end), Duration::ZERO);
        let far = Tai64n::from_bytes([0xff; 12]);
        let _ = far.saturating_add(Duration::MAX).next_tick();
    }
}
