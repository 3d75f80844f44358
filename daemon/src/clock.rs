//! The two clocks: time since boot for every machine, and wall time for what leaves this machine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ginnel_time::{Instant, Tai64n};

use crate::sys;

/// Time since boot (CLOCK_BOOTTIME): it counts suspend and never jumps.
pub fn now() -> Instant {
    sys::boot_clock()
}

/// Seconds since 1970 by the wall clock; zero when the clock stands before 1970.
pub fn unix_now() -> u64 {
    wall().as_secs()
}

/// The wall clock's time as a TAI64N label.
pub fn tai64n_now() -> Tai64n {
    let wall = wall();
    Tai64n::from_unix(wall.as_secs(), wall.subsec_nanos())
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}
