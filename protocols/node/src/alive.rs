//! Whether the stream to a server still carries anything.
//!
//! A stream whose other end has gone away may hang for a minute before the system gives it up; meanwhile mail neither
//! leaves nor comes. So a server that has been silent for [`SILENT`] is asked, one from which mail is awaited after
//! [`AWAITED`] already, every one at once when this machine's addresses have changed, and a stream on which nothing comes
//! in for [`DEAD`] after that is given up for a new one. The question takes the place of the keepalive that the stream would
//! send anyway; after a move it also shows the server where to answer.

use std::time::Duration;

use ginnel_signal_proto::ClientMessage;
use ginnel_time::Instant;

use crate::link::{Link, LinkStatus};

impl Link {
    /// When [`Self::ask_if_silent`] or [`Self::is_dead`] has something to say.
    pub(crate) fn alive_due(&self) -> Option<Instant> {
        if self.status != LinkStatus::Up {
            return None;
        }
        self.pinged.map(|at| at + DEAD).or_else(|| self.heard().map(|at| at + SILENT))
    }

    /// Asks a server that has been silent for long whether it is there.
    pub(crate) fn ask_if_silent(&mut self, now: Instant) {
        self.ask_after(now, SILENT);
    }

    /// Asks a server from which something is awaited whether it is there.
    pub(crate) fn doubt(&mut self, now: Instant) {
        self.ask_after(now, AWAITED);
    }

    /// Asks a server whether it still hears this machine, whose addresses have changed.
    pub(crate) fn moved(&mut self, now: Instant) {
        self.ask_after(now, Duration::ZERO);
    }

    /// Whether the server was asked in vain.
    pub(crate) fn is_dead(&self, now: Instant) -> bool {
        self.status == LinkStatus::Up && self.pinged.is_some_and(|at| now.saturating_duration_since(at) >= DEAD)
    }

    fn ask_after(&mut self, now: Instant, silence: Duration) {
        let silent = self.heard().is_some_and(|at| now.saturating_duration_since(at) >= silence);
        if self.status == LinkStatus::Up && silent && self.pinged.is_none() {
            self.pinged = Some(now);
            self.say(now, ClientMessage::Ping);
        }
    }

    fn heard(&self) -> Option<Instant> {
        self.last_contact.max(self.up_since)
    }
}

/// The shells keep an idle stream's mapping open at this pace; a question before that saves them the packet.
const SILENT: Duration = Duration::from_secs(14);
const AWAITED: Duration = Duration::from_secs(3);
/// What a stream may take for a repetition or two on a bad line.
const DEAD: Duration = Duration::from_secs(8);
