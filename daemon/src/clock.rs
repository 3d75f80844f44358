//! The two clocks: time since boot for every machine, and wall time for what leaves this machine.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ginnel_time::{Instant, Tai64n};
use tokio::io::unix::AsyncFd;

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

/// Waits on the boot clock: what comes due while the machine is suspended is due when it wakes, where the runtime's own
/// timers would wait on for as long as was left.
#[derive(Debug)]
pub struct Alarm(AsyncFd<sys::Timer>);

impl Alarm {
    /// Makes an alarm; to be called within a tokio runtime.
    ///
    /// # Errors
    /// When the process has no free descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self(sys::async_timer()?))
    }

    /// Waits until `deadline`; without one, for ever. May be dropped and called again.
    ///
    /// # Errors
    /// When the kernel refuses the timer, which it does for no time that can come.
    pub async fn until(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        self.0.get_mut().set(deadline)?;
        let Some(deadline) = deadline else { return std::future::pending().await };
        loop {
            let mut guard = self.0.readable_mut().await?;
            if now() >= deadline {
                return Ok(());
            }
            guard.clear_ready();
        }
    }
}

/// Time since 1970 by the wall clock; zero when the clock stands before 1970.
pub fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_alarm_rings_at_each_deadline_and_not_before() {
        let mut alarm = Alarm::new().unwrap();
        for wait in [0, 20, 5, 0, 20] {
            let deadline = now() + Duration::from_millis(wait);
            tokio::time::timeout(Duration::from_secs(5), alarm.until(Some(deadline))).await.unwrap().unwrap();
            assert!(now() >= deadline);
            alarm.until(Some(deadline)).await.unwrap();
        }
        let far = Some(now() + Duration::from_secs(3600));
        for deadline in [far, None, Some(Instant::from_nanos(u64::MAX))] {
            assert!(tokio::time::timeout(Duration::from_millis(20), alarm.until(deadline)).await.is_err());
        }
        alarm.until(Some(now() + Duration::from_millis(5))).await.unwrap();
    }
}
