//! Whether handshakes come in faster than they can be answered.

use std::time::Duration;

use ginnel_time::Instant;

/// Counts initiations with a good mac1 and answers whether senders must prove their address.
#[derive(Debug)]
pub(crate) struct Load {
    threshold: u32,
    window: Instant,
    count: u32,
    until: Option<Instant>,
}

impl Load {
    pub(crate) fn new(threshold: u32) -> Self {
        Self { threshold, window: Instant::ZERO, count: 0, until: None }
    }

    /// Notes one initiation; `true` while under load.
    pub(crate) fn note(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.window) >= WINDOW {
            self.window = now;
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        if self.count > self.threshold {
            self.until = Some(now + STICKY);
        }
        self.until.is_some_and(|until| now < until)
    }
}

const WINDOW: Duration = Duration::from_secs(1);
/// Load is held to last this long after the last sign of it.
const STICKY: Duration = Duration::from_secs(1);
/// Initiations per second that one core answers with ease: an eighth of what it can (about 4,500, see the benchmark of
/// the tunnel crate).
pub(crate) const DEFAULT_THRESHOLD: u32 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn few_initiations_are_no_load() {
        let mut load = Load::new(10);
        assert!((0..1000).all(|i| !load.note(at(i * 200))));
    }

    #[test]
    fn load_ends_when_the_flood_ends() {
        let mut load = Load::new(10);
        let flooded = (0..100).filter(|i| load.note(at(*i))).count();
        assert!(flooded > 80);
        assert!(!load.note(at(5000)));
    }
}
