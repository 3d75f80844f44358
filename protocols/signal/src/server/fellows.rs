//! Links to fellow servers of a network: this server as the client of another.
//!
//! A mirror holds one to the server that orders the log, and one to every other as long as it cannot reach that one: the
//! log may have moved. A sequencer has none, but for the time after its start, when it asks every fellow for what its own
//! disk may have lost.
//!
//! ```text
//! Resting ──due──> Dialling ──opened──> Greeting ──Welcome──> Up
//!    any ──refused, broken, silent──> Resting, each time for longer
//! ```
//!
//! On a link that is up, both sides come to hold the longer of their two logs: this server fetches what it lacks, and
//! hands in what the other lacks.

use std::time::Duration;

use ginnel_membership::{NetworkId, SequencerKey, Server as ServerRecord};
use ginnel_time::Instant;
use rand_core::RngCore as _;

use super::log::{Role, Unfit};
use super::network::{Course, Stage};
use super::refill::{MAX_REFILL, Taking};
use super::{Discard, LINK_REST_MAX, LinkId, Output, Server};
use crate::client::{Client, Credentials, Input as ClientInput, Output as ClientOutput};
use crate::message::{ClientMessage, Head, Refusal, Request, ServerMessage};

/// One link.
pub(crate) struct Link {
    network: NetworkId,
    far: ServerRecord,
    phase: Phase,
    /// When the phase is over by itself.
    due: Option<Instant>,
    /// Dials that have come to nothing since the link last held.
    failures: u32,
    /// Since when it has been up.
    since: Instant,
    /// The end of the other's log, as last heard.
    head: Option<Head>,
    /// What is asked and not answered.
    asked: Option<Request>,
    /// The end of what was handed in over this link.
    handed: u64,
    /// Until when nothing more is asked after an answer that brought nothing.
    idle: Instant,
}

enum Phase {
    Resting,
    Dialling,
    Greeting(Box<Client>),
    Up(Box<Client>),
}

impl Server {
    /// Opens and closes links so that they are those that a network needs.
    pub(super) fn reconcile(&mut self, id: NetworkId) {
        let own = self.config.sequencer.sequencer_key();
        let Some(network) = self.networks.get(&id) else { return };
        let wanted = network.fellows(&own);
        let have: Vec<(SequencerKey, LinkId)> = network.links.iter().map(|(key, link)| (*key, *link)).collect();
        for (key, link) in have {
            let stays = self.links.get(&link).is_some_and(|link| wanted.contains(&link.far));
            if !stays {
                self.forget_link(link);
                if let Some(network) = self.networks.get_mut(&id) {
                    network.links.remove(&key);
                }
            }
        }
        for far in wanted {
            let key = far.keys.sequencer();
            let Some(network) = self.networks.get_mut(&id) else { return };
            if network.links.contains_key(&key) {
                continue;
            }
            let link = LinkId(self.next_link);
            self.next_link += 1;
            network.links.insert(key, link);
            let state = Link {
                network: id,
                far,
                phase: Phase::Resting,
                due: None,
                failures: 0,
                since: self.now,
                head: None,
                asked: None,
                handed: 0,
                idle: self.now,
            };
            self.links.insert(link, state);
            self.dial(link);
        }
    }

    /// A driver opened a stream.
    pub(super) fn link_opened(&mut self, id: LinkId) -> Result<(), Discard> {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let (now, key) = (self.now, self.config.sequencer.clone());
        let link = self.links.get_mut(&id).ok_or(Discard::UnknownLink)?;
        if !matches!(link.phase, Phase::Dialling) {
            return Err(Discard::OutOfOrder);
        }
        let mut client = Client::new(seed, link.far.keys, link.network, Credentials::Mirror { key });
        let opened = client.handle_input(now, ClientInput::Opened);
        link.phase = Phase::Greeting(Box::new(client));
        self.drain_link(id);
        opened.map_err(|_| Discard::BadFellow)
    }

    /// Bytes of a fellow server.
    pub(super) fn link_received(&mut self, id: LinkId, bytes: Vec<u8>) -> Result<(), Discard> {
        let now = self.now;
        let client = self.links.get_mut(&id).and_then(Link::client).ok_or(Discard::UnknownLink)?;
        let taken = client.handle_input(now, ClientInput::Received(bytes));
        self.drain_link(id);
        taken.map_err(|_| Discard::BadFellow)
    }

    /// A stream ended, or was never opened.
    pub(super) fn link_closed(&mut self, id: LinkId, why: &str) -> Result<(), Discard> {
        let link = self.links.get(&id).ok_or(Discard::UnknownLink)?;
        if matches!(link.phase, Phase::Resting) {
            return Err(Discard::OutOfOrder);
        }
        self.rest(id, why);
        Ok(())
    }

    /// Ends a link from this side, to try again after a while.
    pub(super) fn drop_link(&mut self, id: LinkId, why: &str) {
        self.lines.emit(Output::LinkClose { link: id });
        self.rest(id, why);
    }

    /// Lets the deadlines of links fire.
    pub(super) fn expire_links(&mut self) {
        while let Some(&(due, id)) = self.link_deadlines.first()
            && due <= self.now
        {
            self.link_deadlines.remove(&(due, id));
            let now = self.now;
            let Some(link) = self.links.get_mut(&id) else { continue };
            link.due = None;
            match &mut link.phase {
                Phase::Resting => self.dial(id),
                Phase::Dialling => self.drop_link(id, "it could not be reached in time"),
                Phase::Greeting(client) => {
                    client.handle_timeout(now);
                    self.drain_link(id);
                }
                Phase::Up(_) => {
                    link.asked = None;
                    self.sync(id);
                }
            }
        }
    }

    /// Dials at once a server that shows signs of life.
    pub(super) fn hasten(&mut self, network: NetworkId, far: &SequencerKey) {
        let link = self.networks.get(&network).and_then(|network| network.links.get(far)).copied();
        if let Some(id) = link
            && self.links.get(&id).is_some_and(|link| matches!(link.phase, Phase::Resting))
        {
            self.dial(id);
        }
    }

    /// The link to the server that orders a network's log.
    pub(super) fn sequencer_link(&self, id: NetworkId) -> Option<LinkId> {
        let network = self.networks.get(&id)?;
        network.links.get(&network.log.orderer()).copied()
    }

    pub(super) fn is_up(&self, link: LinkId) -> bool {
        self.links.get(&link).is_some_and(|link| matches!(link.phase, Phase::Up(_)))
    }

    /// Whether this server only mirrors the log and may not have the newest of it.
    pub(super) fn may_lack(&self, id: NetworkId) -> bool {
        let mirrors = self.networks.get(&id).is_some_and(|network| network.log.role() == Role::Mirror);
        mirrors && (self.lags(id) || !self.sequencer_link(id).is_some_and(|link| self.is_up(link)))
    }

    /// Whether the sequencer answers, or has not been asked in vain yet.
    pub(super) fn is_reachable(&self, id: NetworkId) -> bool {
        let link = self.sequencer_link(id).and_then(|link| self.links.get(&link));
        link.is_some_and(|link| matches!(link.phase, Phase::Up(_)) || link.failures == 0)
    }

    /// Whether a fellow has shown that it holds more of the log than this server.
    pub(super) fn lags(&self, id: NetworkId) -> bool {
        let Some(network) = self.networks.get(&id) else { return false };
        let own = network.log.length();
        let links = network.links.values().filter_map(|link| self.links.get(link));
        links.filter_map(|link| link.head).any(|head| head.length > own)
    }

    /// Whether every fellow has been heard, or tried in vain.
    pub(super) fn has_asked_all(&self, id: NetworkId) -> bool {
        let Some(network) = self.networks.get(&id) else { return true };
        let mut links = network.links.values().filter_map(|link| self.links.get(link));
        links.all(|link| link.head.is_some() || link.failures > 0)
    }

    /// Whether every fellow has said how long its log is.
    pub(super) fn has_heard_all(&self, id: NetworkId) -> bool {
        let Some(network) = self.networks.get(&id) else { return true };
        let mut links = network.links.values().filter_map(|link| self.links.get(link));
        links.all(|link| link.head.is_some())
    }

    /// Dials every fellow of a network that has been asked in vain, and the new ones.
    pub(super) fn ask_all_anew(&mut self, id: NetworkId) {
        self.reconcile(id);
        let Some(network) = self.networks.get(&id) else { return };
        let links: Vec<LinkId> = network.links.values().copied().collect();
        for id in links {
            if let Some(link) = self.links.get_mut(&id).filter(|link| matches!(link.phase, Phase::Resting)) {
                link.failures = 0;
                self.dial(id);
            }
        }
    }

    pub(super) fn links_up(&self) -> usize {
        self.links.values().filter(|link| matches!(link.phase, Phase::Up(_))).count()
    }

    /// Says something on a link that is up.
    pub(super) fn tell_link(&mut self, id: LinkId, message: ClientMessage) {
        let now = self.now;
        if let Some(Phase::Up(client)) = self.links.get_mut(&id).map(|link| &mut link.phase) {
            // Whatever is said here was cut to fit; a client that is over says so by itself.
            let _ = client.handle_input(now, ClientInput::Send(message));
            self.drain_link(id);
        }
    }

    /// Brings the two logs of every link of a network together.
    pub(super) fn sync_links(&mut self, id: NetworkId) {
        let Some(network) = self.networks.get(&id) else { return };
        let links: Vec<LinkId> = network.links.values().copied().collect();
        links.into_iter().for_each(|link| self.sync(link));
    }

    fn dial(&mut self, id: LinkId) {
        let due = self.now + DIAL_PATIENCE;
        let Some(link) = self.links.get_mut(&id) else { return };
        link.phase = Phase::Dialling;
        let addresses = link.far.addresses.clone();
        self.set_due(id, Some(due));
        self.lines.emit(Output::Dial { link: id, addresses });
    }

    fn rest(&mut self, id: LinkId, why: &str) {
        let jitter = self.rng.next_u32();
        let now = self.now;
        let Some(link) = self.links.get_mut(&id) else { return };
        let (network, was_up) = (link.network, matches!(link.phase, Phase::Up(_)));
        if was_up && now.saturating_duration_since(link.since) >= HELD {
            link.failures = 0;
        } else if !was_up {
            link.failures = link.failures.saturating_add(1);
        }
        link.phase = Phase::Resting;
        link.asked = None;
        link.head = None;
        let pause = backoff(link.failures, jitter);
        tracing::info!(%network, server = ?link.far.keys.sequencer(), why, ?pause, "no link to a fellow server");
        self.set_due(id, Some(now + pause));
        if self.sequencer_link(network) == Some(id) {
            if let Some(network) = self.networks.get_mut(&network) {
                let sent = network.forwards.values_mut().filter(|forward| forward.stage == Stage::Sent);
                sent.for_each(|forward| forward.stage = Stage::Held);
            }
            if !was_up {
                self.give_up_forwards(network);
                self.go_astray(network, id);
            }
        }
        self.settle_network(network);
    }

    /// Asks everybody where the log went, once its sequencer has not been reached twice.
    fn go_astray(&mut self, id: NetworkId, link: LinkId) {
        let failures = self.links.get(&link).map_or(0, |link| link.failures);
        if let Some(network) = self.networks.get_mut(&id)
            && failures > 1
            && network.course == Course::Plain
        {
            network.course = Course::Astray;
            self.reconcile(id);
        }
    }

    fn forget_link(&mut self, id: LinkId) {
        self.set_due(id, None);
        if self.links.remove(&id).is_some_and(|link| !matches!(link.phase, Phase::Resting)) {
            self.lines.emit(Output::LinkClose { link: id });
        }
    }

    fn set_due(&mut self, id: LinkId, due: Option<Instant>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Some(old) = std::mem::replace(&mut link.due, due) {
            self.link_deadlines.remove(&(old, id));
        }
        if let Some(due) = due {
            self.link_deadlines.insert((due, id));
        }
    }

    fn drain_link(&mut self, id: LinkId) {
        loop {
            let Some(client) = self.links.get_mut(&id).and_then(Link::client) else { return };
            match client.poll_output() {
                Some(ClientOutput::Write(bytes)) => self.lines.emit(Output::LinkWrite { link: id, bytes }),
                Some(ClientOutput::Ready) => {}
                Some(ClientOutput::Message(message)) => self.link_says(id, message),
                Some(ClientOutput::Broken { reason }) => return self.drop_link(id, &reason.to_string()),
                None => break,
            }
        }
        if let Some(Phase::Greeting(client)) = self.links.get(&id).map(|link| &link.phase) {
            let due = client.poll_timeout();
            self.set_due(id, due);
        }
    }

    fn link_says(&mut self, id: LinkId, message: ServerMessage) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let network = link.network;
        match message {
            ServerMessage::Welcome(welcome) => {
                link.phase = match std::mem::replace(&mut link.phase, Phase::Resting) {
                    Phase::Greeting(client) | Phase::Up(client) => Phase::Up(client),
                    other @ (Phase::Resting | Phase::Dialling) => other,
                };
                link.since = self.now;
                link.head = Some(welcome.head);
                link.handed = 0;
                tracing::info!(%network, server = ?link.far.keys.sequencer(), "linked to a fellow server");
                self.set_due(id, None);
                self.sync(id);
                if self.sequencer_link(network) == Some(id) {
                    if let Some(network) = self.networks.get_mut(&network)
                        && network.course == Course::Astray
                    {
                        network.course = Course::Plain;
                    }
                    self.reconcile(network);
                }
                self.send_forwards(network);
                self.note_presence(network);
                self.settle_network(network);
            }
            ServerMessage::Entries { first, entries, head } => {
                link.head = Some(head);
                link.asked = None;
                self.take_far_entries(id, network, first, &entries);
            }
            ServerMessage::Forwarded { number, outcome } => {
                if self.sequencer_link(network) == Some(id) {
                    self.forwarded(network, number, outcome);
                }
            }
            ServerMessage::Refused { request, code, text } => {
                tracing::debug!(%network, ?request, ?code, text, "a fellow server refuses");
                if link.asked == Some(request) {
                    self.set_due(id, Some(self.now + ASK_AGAIN));
                }
                if code == Refusal::Fork {
                    self.count(Discard::Fork);
                }
            }
            ServerMessage::Appended { .. }
            | ServerMessage::Mail { .. }
            | ServerMessage::MailRefused { .. }
            | ServerMessage::Relay(_)
            | ServerMessage::Pong
            | ServerMessage::Snapshot { .. } => {}
        }
    }

    fn take_far_entries(&mut self, id: LinkId, network: NetworkId, first: u64, entries: &[Vec<u8>]) {
        match self.take_entries(network, first, entries) {
            // The log grows with the disk's answer, which asks for more.
            Ok(Taking::Storing) => {}
            Ok(Taking::Nothing | Taking::Beyond) => {
                self.sync_or_wait(id);
                self.settle_network(network);
            }
            // Another sequencer's entries make sense only after the one that made it so, in a place that is taken here.
            Err(Unfit::Bad(_)) if self.look_back(id, network, first) => {}
            Err(unfit) => {
                let (_, text) = self.judge_unfit(network, &unfit);
                self.hold_off(id);
                self.drop_link(id, &text);
            }
        }
    }

    /// Fetches once more, from some entries before the end, to see where two logs part; whether that is worth while.
    fn look_back(&mut self, id: LinkId, network: NetworkId, first: u64) -> bool {
        let Some(length) = self.networks.get(&network).map(|network| network.log.length()) else { return false };
        let Some(link) = self.links.get_mut(&id) else { return false };
        if first < length || length == 0 {
            return false;
        }
        link.asked = Some(Request::Fetch);
        self.tell_link(id, ClientMessage::Fetch { from: length.saturating_sub(LOOK_BACK) });
        true
    }

    /// Goes on after an answer that brought no entries: at once where the other has taken what was handed in, and else once
    /// in [`ASK_AGAIN`], whatever the other says its head is.
    fn sync_or_wait(&mut self, id: LinkId) {
        let now = self.now;
        let Some(link) = self.links.get_mut(&id) else { return };
        let took = link.handed > 0 && link.head.is_some_and(|head| head.length >= link.handed);
        if took || link.idle <= now {
            if !took {
                link.idle = now + ASK_AGAIN;
            }
            return self.sync(id);
        }
        link.asked.get_or_insert(Request::Fetch);
        let due = link.idle;
        self.set_due(id, Some(due));
    }

    /// Fetches what this server lacks, or hands in what the other lacks.
    fn sync(&mut self, id: LinkId) {
        let now = self.now;
        let Some(Link { network, head: Some(head), asked: None, phase: Phase::Up(_), .. }) = self.links.get(&id) else {
            return;
        };
        let (network_id, head) = (*network, *head);
        let Some(network) = self.networks.get(&network_id) else { return };
        if network.paused.is_some_and(|until| now < until) {
            return self.set_due(id, network.paused);
        }
        let own = network.log.head();
        let mut handed = 0;
        let (asked, message) = if head.length > own.length {
            if !network.log.is_idle() {
                return;
            }
            (Request::Fetch, ClientMessage::Fetch { from: own.length })
        } else if network.log.state().head_at(head.length).is_some_and(|hash| hash != head.hash) {
            // Its word is no proof; its entry is.
            (Request::Fetch, ClientMessage::Fetch { from: head.length.saturating_sub(LOOK_BACK) })
        } else if head.length < own.length {
            let entries = network.log.chunk(head.length, MAX_REFILL);
            handed = head.length.saturating_add(entries.len() as u64);
            (Request::Refill, ClientMessage::Refill { first: head.length, entries })
        } else {
            return;
        };
        if let Some(link) = self.links.get_mut(&id) {
            link.asked = Some(asked);
            link.handed = link.handed.max(handed);
        }
        self.tell_link(id, message);
    }

    /// Makes the next rest of a link a long one.
    pub(super) fn hold_off(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.failures = link.failures.max(LONG);
            link.since = self.now;
        }
    }

    /// Lets what a network waits for come to its end.
    pub(super) fn expire_agenda(&mut self) {
        while let Some(&(due, id)) = self.agenda.first()
            && due <= self.now
        {
            self.agenda.remove(&(due, id));
            self.expire_forwards(id);
            self.settle_network(id);
        }
    }
}

impl Link {
    fn client(&mut self) -> Option<&mut Client> {
        match &mut self.phase {
            Phase::Greeting(client) | Phase::Up(client) => Some(client),
            Phase::Resting | Phase::Dialling => None,
        }
    }
}

/// The pause before the next dial: doubled with each failure, and up to half of it more.
fn backoff(failures: u32, jitter: u32) -> Duration {
    let pause = LINK_REST.saturating_mul(1 << failures.min(LONG)).min(LINK_REST_MAX / 3 * 2);
    pause + pause / 2 * (jitter % 1000) / 1000
}

/// How long a fellow server is left alone after a link that broke.
const LINK_REST: Duration = Duration::from_millis(250);

/// Failures after which the pause no longer grows.
const LONG: u32 = 6;

/// How long the driver may take to open a stream or to say that it could not.
const DIAL_PATIENCE: Duration = Duration::from_secs(12);

/// A link that was up as long as this has held.
const HELD: Duration = Duration::from_secs(10);

/// Entries before the end among which two logs are looked for to part.
const LOOK_BACK: u64 = 64;

/// How long to wait before something refused is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(2);
