//! One peer as [`Ingress`](crate::Ingress) sees it: its sessions, the paths it is expected on, and what was learnt.

use std::collections::VecDeque;
use std::net::IpAddr;

use ginnel_path::Path;
use ginnel_time::Instant;
use ginnel_tunnel::{ReceiverIndex, Side};

use crate::command::{PeerId, Roam};
use crate::config::{ARRIVED_INTERVAL, ARRIVED_QUEUE, ECHO_QUEUE};
use crate::counters::{Discard, PeerCounters};
use crate::event::{Notice, Received, Wear};
use crate::fact::{Facts, HasFacts};
use crate::schedule::Armed;

/// The state of one peer.
pub(crate) struct Peer {
    id: PeerId,
    pub(crate) armed: Armed,
    pub(crate) facts: Facts,
    pub(crate) counters: PeerCounters,
    /// The addresses of this machine that the peer may be spoken with by; every one when `None`.
    pub(crate) own: Option<Vec<IpAddr>>,
    pub(crate) roam: Roam,
    pub(crate) sessions: Sessions,
    pub(crate) news: News,
    primary: Option<Path>,
    backup: Option<Path>,
    /// Paths lately reported, with the time of the report.
    reported: VecDeque<(Path, Instant)>,
}

impl HasFacts for Peer {
    fn id(&self) -> PeerId {
        self.id
    }

    fn facts(&mut self) -> &mut Facts {
        &mut self.facts
    }
}

impl Peer {
    pub(crate) fn new(id: PeerId, roam: Roam) -> Self {
        Self {
            id,
            armed: Armed::default(),
            facts: Facts::default(),
            counters: PeerCounters::default(),
            own: None,
            roam,
            sessions: Sessions::default(),
            news: News::default(),
            primary: None,
            backup: None,
            reported: VecDeque::new(),
        }
    }

    pub(crate) fn set_path(&mut self, primary: Option<Path>, backup: Option<Path>) {
        (self.primary, self.backup) = (primary, backup);
    }

    /// Moves the endpoint of a stock WireGuard peer; `false` when it is there already.
    pub(crate) fn roam_to(&mut self, path: Path) -> bool {
        self.primary.replace(path) != Some(path)
    }

    /// Whether an authentic packet by `path` is worth a report.
    #[inline]
    pub(crate) fn is_news(&mut self, now: Instant, path: Path) -> bool {
        if self.primary == Some(path) || self.backup == Some(path) {
            return false;
        }
        if let Some((_, at)) = self.reported.iter_mut().find(|(known, _)| *known == path) {
            let due = now.saturating_duration_since(*at) >= ARRIVED_INTERVAL;
            if due {
                *at = now;
            }
            return due;
        }
        if self.reported.len() >= ARRIVED_QUEUE {
            self.reported.pop_front();
        }
        self.reported.push_back((path, now));
        true
    }
}

/// Which sessions a peer's packets may come on.
///
/// `next` is ours as responder and unconfirmed; a newer one takes its place, so that a peer whose responses get lost
/// never pushes out the session in use. The others are kept newest first. WireGuard keeps two of them; the third lets
/// the session that the other side still seals with live through the handshake after a crossed one.
#[derive(Default)]
pub(crate) struct Sessions {
    next: Option<ReceiverIndex>,
    kept: VecDeque<ReceiverIndex>,
}

impl Sessions {
    /// Takes in a new session and gives those that end for it.
    pub(crate) fn install(&mut self, index: ReceiverIndex, side: Side) -> [Option<ReceiverIndex>; 2] {
        match side {
            Side::Responder => [self.next.replace(index), None],
            Side::Initiator => {
                let crossed = self.next.take().and_then(|next| self.keep(next));
                [crossed, self.keep(index)]
            }
        }
    }

    /// Promotes a confirmed session and gives the one that ends for it.
    pub(crate) fn confirm(&mut self, index: ReceiverIndex) -> Option<ReceiverIndex> {
        self.next.take_if(|next| *next == index).and_then(|next| self.keep(next))
    }

    pub(crate) fn remove(&mut self, index: ReceiverIndex) {
        self.next.take_if(|next| *next == index);
        self.kept.retain(|kept| *kept != index);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = ReceiverIndex> + '_ {
        self.next.iter().chain(&self.kept).copied()
    }

    fn keep(&mut self, index: ReceiverIndex) -> Option<ReceiverIndex> {
        self.kept.push_front(index);
        if self.kept.len() > KEPT_SESSIONS { self.kept.pop_back() } else { None }
    }
}

/// What the other half must hear about the peer, held until it is taken.
#[derive(Default)]
pub(crate) struct News {
    pub(crate) listed: bool,
    pub(crate) confirmed: Option<ReceiverIndex>,
    pub(crate) roamed: Option<Path>,
    probes: VecDeque<(Path, u64)>,
    received: Option<(Received, Wear)>,
}

impl News {
    /// Notes an authentic datagram.
    #[inline]
    pub(crate) fn note(&mut self, what: Received, wear: Wear) {
        let (known, worn) = self.received.unwrap_or((what, wear));
        self.received = Some((known.max(what), worn.max(wear)));
    }

    /// Holds a probe.
    ///
    /// # Errors
    /// [`Discard::FactFull`] when an older one was dropped for it.
    pub(crate) fn probe(&mut self, path: Path, id: u64) -> Result<(), Discard> {
        let full = self.probes.len() >= ECHO_QUEUE;
        if full {
            self.probes.pop_front();
        }
        self.probes.push_back((path, id));
        if full { Err(Discard::FactFull) } else { Ok(()) }
    }

    /// Takes the next notice: what changes the session first, then what is to be answered on it.
    pub(crate) fn take(&mut self, peer: PeerId) -> Option<Notice> {
        if let Some(index) = self.confirmed.take() {
            return Some(Notice::Confirmed { peer, index });
        }
        if let Some(path) = self.roamed.take() {
            return Some(Notice::Roamed { peer, path });
        }
        if let Some((path, id)) = self.probes.pop_front() {
            return Some(Notice::Probe { peer, path, id });
        }
        let (what, wear) = self.received.take()?;
        Some(Notice::Received { peer, what, wear })
    }
}

/// Sessions kept beside the unconfirmed one.
const KEPT_SESSIONS: usize = 3;
/// The most sessions that [`Sessions`] holds.
pub(crate) const MAX_SESSIONS: usize = KEPT_SESSIONS + 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn index(number: u32) -> ReceiverIndex {
        ReceiverIndex(number)
    }

    #[test]
    fn unconfirmed_sessions_push_out_only_each_other() {
        let mut sessions = Sessions::default();
        sessions.install(index(1), Side::Initiator);
        for number in 2..20 {
            let [ended, other] = sessions.install(index(number), Side::Responder);
            assert_eq!((ended, other), ((number > 2).then(|| index(number - 1)), None));
        }
        assert_eq!(sessions.iter().collect::<Vec<_>>(), [index(19), index(1)]);
        assert_eq!(sessions.confirm(index(18)), None);
        assert_eq!(sessions.confirm(index(19)), None);
        assert_eq!(sessions.iter().collect::<Vec<_>>(), [index(19), index(1)]);
    }

    #[test]
    fn the_oldest_of_the_kept_ends() {
        let mut sessions = Sessions::default();
        for number in 1..=3 {
            assert_eq!(sessions.install(index(number), Side::Initiator), [None, None]);
        }
        sessions.install(index(4), Side::Responder);
        assert_eq!(sessions.install(index(5), Side::Initiator), [Some(index(1)), Some(index(2))]);
        assert_eq!(sessions.iter().collect::<Vec<_>>(), [index(5), index(4), index(3)]);
    }
}
