//! WireGuard's timers that need nothing but packets: passive and persistent keepalives, and silence.

use std::time::Duration;

use ginnel_time::Instant;

use crate::config::Config;
use crate::schedule::earlier;

/// One peer's timers. Packets write fields; nothing here sends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timers {
    /// When received data is answered by a keepalive.
    keepalive: Option<Instant>,
    /// More data came after `keepalive` was set, so another one follows.
    keepalive_again: bool,
    /// When sent data has met silence for too long.
    silence: Option<Instant>,
    /// When the persistent keepalive goes out.
    persistent: Option<Instant>,
    interval: Option<Duration>,
}

/// What came due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Received data wants an answer.
    Keepalive,
    /// The persistent keepalive goes out.
    Persistent,
    /// Sent data met silence.
    Silence,
}

impl Timers {
    /// Sets the interval of persistent keepalives; the first is due at once.
    pub(crate) fn set_persistent(&mut self, now: Instant, interval: Option<Duration>) {
        let interval = interval.filter(|interval| !interval.is_zero());
        if interval != self.interval {
            self.interval = interval;
            self.persistent = interval.map(|_| now);
        }
    }

    /// A sealed datagram of any kind went out.
    #[inline]
    pub(crate) fn sent(&mut self, now: Instant) {
        self.keepalive = None;
        self.keepalive_again = false;
        self.put_off_persistent(now);
    }

    /// An IP packet went out; `silence` is the time to wait for a sign of life.
    #[inline]
    pub(crate) fn data_sent(&mut self, now: Instant, silence: Duration) {
        if self.silence.is_none() {
            self.silence = Some(now + silence);
        }
    }

    /// Whether [`data_sent`](Self::data_sent) has nothing to set.
    #[inline]
    pub(crate) fn silence_runs(&self) -> bool {
        self.silence.is_some()
    }

    /// An authentic datagram of any kind came in.
    #[inline]
    pub(crate) fn received(&mut self, now: Instant) {
        self.silence = None;
        self.put_off_persistent(now);
    }

    /// An IP packet came in.
    #[inline]
    pub(crate) fn data_received(&mut self, now: Instant, config: &Config) {
        if self.keepalive.is_some() {
            self.keepalive_again = true;
        } else {
            self.keepalive = Some(now + config.keepalive_timeout);
        }
    }

    /// Takes one thing that is due at `now`, and moves its deadline.
    pub(crate) fn take_due(&mut self, now: Instant, config: &Config) -> Option<Due> {
        let due = |at: &mut Instant| *at <= now;
        if self.silence.take_if(due).is_some() {
            return Some(Due::Silence);
        }
        if self.keepalive.take_if(due).is_some() {
            if std::mem::take(&mut self.keepalive_again) {
                self.keepalive = Some(now + config.keepalive_timeout.max(SHORTEST));
            }
            return Some(Due::Keepalive);
        }
        self.persistent.take_if(due)?;
        self.put_off_persistent(now);
        Some(Due::Persistent)
    }

    /// The next moment at which something comes due.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        earlier(earlier(self.keepalive, self.silence), self.persistent)
    }

    #[inline]
    fn put_off_persistent(&mut self, now: Instant) {
        if let Some(interval) = self.interval {
            self.persistent = Some(now + interval);
        }
    }
}

/// Keeps a deadline from moving onto itself, whatever the configured times.
const SHORTEST: Duration = Duration::from_nanos(1);
