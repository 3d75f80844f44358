//! The pause before a sequencer orders anything: after a start, and after a log came from elsewhere.
//!
//! A disk that lost its newest entries, or was restored from a backup, looks like any other. So every start is taken for
//! such a one, unless the driver remembers otherwise (see [`super::witness`]): nothing is ordered until those who may hold
//! more of the log have had the time to say so and to hand it in. A client says how long its log is by its `Fetch`, a
//! fellow server by its welcome.
//!
//! ```text
//! start ──first client or fellow comes──> counting ──> over, as soon as
//!     every live member and every fellow has spoken, and nobody has more
//!     3/5 of the time are over, there are fellows, every one has spoken, and nobody has more
//!     1/5 of the time is over, and the same, and the disk is known to be whole
//!     the time is over, and nobody who has more is still handing it in
//! ```
//!
//! The time counts from the first who comes and not from the start, since after an outage clients come back late, each
//! after a pause of its own. One who held the lost entries comes at most such a pause after the first; the time is longer.
//! A fellow server that could be asked had them as soon as anybody, which is why the time is shorter then, but not zero: it
//! may have been cut off from this server until just now. Where the disk is known to be whole, a lone server does not pause
//! at all. A fellow may have taken over while this server was down, and is heard first; the time that is left gives one that
//! is doing so in that moment the time to have it on disk, and to say so.
//!
//! Where the driver remembers an end of the log that the disk does not have, it is certain that entries are lost which others
//! may hold. The pause lasts until they are back then, and at most ten minutes from the start: for so long records are
//! refused as [`Refusal::Busy`](crate::Refusal::Busy). A server that nobody gave them back by then goes on without them,
//! and whoever holds them sees two histories.
//!
//! What a client says is its word. One that lies or is silent makes the pause a few seconds longer; only entries that this
//! server itself has signed, and that its log lacks, make it as long as they keep coming.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ginnel_membership::state::Member;
use ginnel_membership::{MemberKey, NetworkId};
use ginnel_time::Instant;

use super::Server;
use super::line::Session;
use super::log::Log;
use super::network::Network;
use super::witness::Disk;
use crate::message::{Head, Standing};

/// The pause of one network.
#[derive(Clone, Debug)]
pub(crate) struct Settling {
    /// Since when somebody has been here to be heard.
    came: Option<Instant>,
    disk: Disk,
    /// The end at the earliest, unless everybody has spoken.
    hold: Instant,
    /// An end of the log that this server had reached, and until when it is waited for.
    reached: Option<(Head, Instant)>,
    /// How long the log was when the pause was last made longer for the sake of somebody who has more.
    length: u64,
    /// Members that said how long their log is.
    heard: BTreeSet<MemberKey>,
    /// The longest log that a client spoke of.
    longest: u64,
    /// Clients that hand in entries and have not said how long their log is, and until when they are waited for.
    handing: BTreeMap<MemberKey, Instant>,
}

/// How far those who might hold more of the log have been heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Others may come.
    Some,
    /// Every fellow, of which there are some.
    Fellows,
    /// Every live member and every fellow.
    All,
}

impl Settling {
    const fn new(hold: Instant, disk: Disk) -> Self {
        Self {
            came: None,
            disk,
            hold,
            reached: None,
            length: u64::MAX,
            heard: BTreeSet::new(),
            longest: 0,
            handing: BTreeMap::new(),
        }
    }

    /// Waits for an end of the log that this server had reached.
    fn wait_for(&mut self, head: Head, now: Instant, length: u64) {
        self.disk = Disk::SetBack;
        self.reached = Some((head, now + LOST));
        self.longest = self.longest.max(head.length).max(length + 1);
    }

    /// Until when entries are waited for that this server made and that `log` does not have; `None` where there are none.
    fn lost(&self, log: &Log) -> Option<Instant> {
        self.reached.filter(|(head, _)| Disk::judge(log, Some(*head)) == Disk::SetBack).map(|(_, until)| until)
    }

    /// When the pause is over, as far as is known; `None` while nobody is here.
    fn end(&self, heard: Heard, more: More, settle: Duration) -> Option<Instant> {
        let came = self.came?;
        let handed = self.handing.values().max().copied().unwrap_or(came);
        let end = match (more, heard) {
            (More::Nowhere, Heard::All) => return Some(handed),
            (More::Nowhere, Heard::Fellows) if self.disk == Disk::Whole => came + settle / 5,
            (More::Nowhere, Heard::Fellows) => came + settle / 5 * 3,
            (More::Somewhere, _) | (More::Nowhere, Heard::Some) => came + settle,
        };
        Some(end.max(self.hold).max(handed))
    }
}

/// Whether somebody has more of the log than this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Nowhere,
    Somewhere,
}

impl Server {
    /// Begins the pause after a start, with what the driver remembers of the log's end.
    pub(super) fn settle_at_start(&mut self, id: NetworkId, witnessed: Option<Head>) {
        let (now, pause, own) = (self.now, self.config.limits.settle, self.config.sequencer.sequencer_key());
        let Some(network) = self.networks.get_mut(&id) else { return };
        network.witnessed = witnessed;
        let (disk, length) = (Disk::judge(&network.log, witnessed), network.log.length());
        if network.log.orderer() != own {
            match witnessed.filter(|_| disk == Disk::SetBack) {
                Some(head) => self.note_vanished(id, head),
                None => self.forget_head(id),
            }
            return;
        }
        if (length == 0 && witnessed.is_none()) || pause.is_zero() {
            return;
        }
        let alone = network.log.servers().iter().all(|server| server.keys.sequencer() == own);
        if disk == Disk::Whole && alone {
            return self.remember_head(id);
        }
        let mut settling = Settling::new(now, disk);
        if let Some(head) = witnessed.filter(|_| disk == Disk::SetBack) {
            tracing::error!(network = %id, length, remembered = head.length, "{SET_BACK}");
            settling.wait_for(head, now, length);
        }
        network.settling = Some(settling);
    }

    /// Says of which logs nothing is on the disk although this server is known to have ordered them, and notes how far.
    pub(super) fn note_all_vanished(&mut self, witnessed: BTreeMap<NetworkId, Head>) {
        for (id, head) in witnessed {
            if !self.networks.contains_key(&id) {
                self.note_vanished(id, head);
            }
        }
    }

    /// What makes this server the one that orders a log, and what it has ordered, is gone from the disk.
    fn note_vanished(&mut self, network: NetworkId, head: Head) {
        tracing::error!(%network, remembered = head.length, "all that this server ordered is gone; {SET_BACK}");
        self.vanished.insert(network, head);
    }

    /// A log that this server ordered, and that was gone from the disk, is here again as far as to name it as the one that
    /// orders it.
    pub(super) fn take_up_vanished(&mut self, id: NetworkId) {
        let (now, pause, own) = (self.now, self.config.limits.settle, self.config.sequencer.sequencer_key());
        let Some(network) = self.networks.get_mut(&id).filter(|network| network.log.orderer() == own) else { return };
        let Some(head) = self.vanished.remove(&id) else { return };
        network.witnessed = Some(head);
        if !pause.is_zero() && Disk::judge(&network.log, network.witnessed) == Disk::SetBack {
            let length = network.log.length();
            let settling = network.settling.get_or_insert_with(|| Settling::new(now, Disk::SetBack));
            settling.wait_for(head, now, length);
            // Whoever brought the entries.
            settling.came.get_or_insert(now);
        }
    }

    /// Begins the pause of a log that a client brings whole, where this server orders it: the disk has lost it.
    pub(super) fn settle_adopted(&self, network: &mut Network) {
        let (pause, own) = (self.config.limits.settle, self.config.sequencer.sequencer_key());
        if network.log.orderer() == own && !pause.is_zero() {
            network.settling = Some(Settling::new(self.now + pause * ADOPTED, Disk::Unknown));
        }
    }

    /// Somebody of the network is here.
    pub(super) fn note_presence(&mut self, id: NetworkId) {
        let now = self.now;
        let Some(settling) = self.networks.get_mut(&id).and_then(|network| network.settling.as_mut()) else { return };
        if settling.came.is_none() {
            settling.came = Some(now);
            self.settle_network(id);
        }
    }

    /// A client says how long its log is.
    pub(super) fn note_length(&mut self, session: &Session, length: u64) {
        let Some(network) = self.networks.get_mut(&session.network) else { return };
        let Some(settling) = &mut network.settling else { return };
        match session.standing {
            Standing::Member => {
                settling.heard.insert(session.key);
            }
            Standing::Founder | Standing::Admin => {}
            // A joiner has no log yet, and a mirror is asked on the link to it.
            Standing::Joiner | Standing::Mirror => return,
        }
        settling.handing.remove(&session.key);
        settling.longest = settling.longest.max(length);
        self.settle_network(session.network);
    }

    /// A client shows entries beyond the log's end; they may be nothing but its word.
    pub(super) fn note_beyond(&mut self, id: NetworkId, length: u64) {
        let Some(settling) = self.networks.get_mut(&id).and_then(|network| network.settling.as_mut()) else { return };
        settling.longest = settling.longest.max(length);
    }

    /// A client handed in entries that this server signed and has lost.
    pub(super) fn note_handed_in(&mut self, session: &Session) {
        self.take_up_vanished(session.network);
        let (now, pause, own) = (self.now, self.config.limits.settle, self.config.sequencer.sequencer_key());
        let Some(network) = self.networks.get_mut(&session.network) else { return };
        if network.log.orderer() != own || pause.is_zero() {
            return;
        }
        let settling = network.settling.get_or_insert_with(|| Settling::new(now, Disk::Unknown));
        let lost = settling.lost(&network.log).is_some();
        if !lost {
            settling.disk = Disk::Unknown;
        }
        settling.came.get_or_insert(now);
        if !settling.heard.contains(&session.key) {
            settling.handing.insert(session.key, now + pause);
        }
        // What is lost stays known until it is back, whatever ends this server before.
        if !lost {
            self.forget_head(session.network);
        }
        self.settle_network(session.network);
    }

    /// Sees whether this server may go on, as sequencer, after what others had to say.
    pub(super) fn settle_network(&mut self, id: NetworkId) {
        let (now, pause, own) = (self.now, self.config.limits.settle, self.config.sequencer.sequencer_key());
        let (lags, heard) = (self.lags(id), self.heard(id));
        let Some(network) = self.networks.get_mut(&id) else { return };
        let (length, elsewhere) = (network.log.length(), network.log.orderer() != own);
        if let Some(settling) = &mut network.settling {
            let more = if lags || settling.longest > length { More::Somewhere } else { More::Nowhere };
            let lost = settling.lost(&network.log);
            match settling.end(heard, more, pause).map(|end| lost.map_or(end, |until| end.max(until))) {
                _ if elsewhere => self.end_settling(id),
                None => {}
                Some(end) if end > now => {
                    self.agenda.insert((end, id));
                }
                Some(_) if more == More::Somewhere && (length > settling.length || settling.length == u64::MAX) => {
                    settling.length = length;
                    settling.hold = now + SETTLE_MORE;
                    self.agenda.insert((settling.hold, id));
                }
                Some(_) => self.end_settling(id),
            }
        }
        self.settle_takeover(id);
    }

    fn end_settling(&mut self, id: NetworkId) {
        if let Some(network) = self.networks.get_mut(&id)
            && let Some(settling) = network.settling.take()
            && settling.lost(&network.log).is_some()
            && network.log.orderer() == self.config.sequencer.sequencer_key()
        {
            tracing::error!(network = %id, "going on without the lost log entries: members that hold them will see two histories");
        }
        self.remember_head(id);
        self.reconcile(id);
        self.pump(id);
    }

    /// How far members and fellow servers have said how long their logs are.
    fn heard(&self, id: NetworkId) -> Heard {
        let Some(network) = self.networks.get(&id) else { return Heard::Some };
        let Some(settling) = network.settling.as_ref().filter(|_| self.has_heard_all(id)) else { return Heard::Some };
        let state = network.log.state();
        let mut members = state.members().map(Member::key).filter(|member| state.is_live(member)).peekable();
        if members.peek().is_some() && members.all(|member| settling.heard.contains(&member)) {
            Heard::All
        } else if network.links.is_empty() {
            Heard::Some
        } else {
            Heard::Fellows
        }
    }
}

impl Network {
    /// Whether this server is known to have ordered entries that the log lacks, and still waits for them.
    pub(crate) fn awaits_lost(&self) -> bool {
        self.settling.as_ref().is_some_and(|settling| settling.lost(&self.log).is_some())
    }
}

/// What is said of a disk that lacks what this server is known to have made.
const SET_BACK: &str = "the disk was set back: it lacks log entries that this server made, and nothing is ordered for up to \
                        ten minutes. A machine that holds them gives them back by being online; one with an admin key, \
                        normally the founder's, where the server knows none of the members any more";

/// How long entries are waited for that this server is known to have made.
const LOST: Duration = Duration::from_secs(600);

/// How many times as long the pause is for a log that a client brought.
const ADOPTED: u32 = 6;

/// How much longer the pause lasts while somebody has more, and hands it in.
const SETTLE_MORE: Duration = Duration::from_secs(5);
