//! Logs that come from elsewhere: networks that this server mirrors, and entries that its disk has lost.
//!
//! What is handed in is believed for its signatures alone, whoever hands it in: an entry is taken where the network's
//! sequencer signed it and it continues the log, and then stored like any other.

use std::time::Duration;

use ginnel_membership::record::network_id;
use ginnel_membership::{Entry, NetworkId};

use super::limits::Taken;
use super::line::Session;
use super::log::{Accepted, Log, Unfit};
use super::network::{Course, KeyState, Network, Service};
use super::{Change, ConnectionId, Discard, Outcome, Server, Storing, TokenUse, room};
use crate::message::{FoundingToken, Placing, Refusal, Request, ServerMessage, Standing};

/// What a run of entries did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taking {
    /// All of them are known.
    Nothing,
    /// Some go to the disk; the rest, if there is one, does not touch the log's end.
    Storing,
    /// Nothing but entries beyond the log's end.
    Beyond,
}

impl Server {
    /// Takes `Found`.
    pub(super) fn take_genesis(&mut self, conn: ConnectionId, session: &Session, genesis: &[u8]) {
        if let Some(network) = self.networks.get(&session.network) {
            // The answer to an earlier try may have been lost.
            return if session.token.is_some() && network.log.is_genesis(genesis) {
                self.lines.say(conn, &ServerMessage::Appended { sequence: 0 });
            } else {
                let text = "the network exists already";
                self.lines.refuse(conn, Request::Found, Refusal::NotAllowed, text);
            };
        }
        let (place, token) = match self.unused_token(session) {
            Ok(free) => free,
            Err((code, text)) => return self.lines.refuse(conn, Request::Found, code, text),
        };
        let (id, key) = (session.network, self.config.sequencer.clone());
        let elsewhere = match Log::adopt(id, key.clone(), genesis) {
            Ok(log) if log.orderer() != key.sequencer_key() => Some(log),
            Ok(_) | Err(_) => None,
        };
        if let Some(log) = elsewhere {
            return self.adopt(conn, (place, token), log, genesis.to_vec(), Vec::new());
        }
        let founded = Log::found(id, key, self.clock.at(self.now), genesis);
        match founded.map(|(log, entry)| (Network::new(log, self.now, &self.config.limits), entry)) {
            Ok((network, _)) if network.key_state(&session.key) != KeyState::Admin => {
                let text = "the founder is not an admin of the network";
                self.lines.refuse(conn, Request::Found, Refusal::NotAllowed, text);
            }
            Ok((network, entry)) => {
                let change = Change::Found { network: id, token, entry };
                self.install(conn, place, network, change, Vec::new());
            }
            Err(rejection) => {
                let text = rejection.to_string();
                self.lines.refuse(conn, Request::Found, Refusal::Record(rejection.code()), &text);
            }
        }
    }

    /// The place and bytes of a founder's token that has founded nothing.
    fn unused_token(&self, session: &Session) -> Result<(usize, FoundingToken), (Refusal, &'static str)> {
        let token = session.token.and_then(|place| Some((place, self.tokens.get(place)?)));
        match token {
            None => Err((Refusal::NotAllowed, "only a founder founds a network")),
            Some((_, (_, TokenUse::Founding(_) | TokenUse::Founded(_)))) => {
                Err((Refusal::TokenUsed, "this founding string is used"))
            }
            Some(_) if self.networks.len() >= self.config.limits.networks => {
                Err((Refusal::Busy, "this server holds as many networks as it may"))
            }
            Some((place, (token, TokenUse::Unused))) => Ok((place, token.clone())),
        }
    }

    /// Whoever fills a log with a token that founded nothing has used it: it is good for one network.
    fn spend_token(&mut self, session: &Session) {
        let network = session.network;
        let Some((token, usage @ TokenUse::Unused)) = session.token.and_then(|place| self.tokens.get_mut(place)) else {
            return;
        };
        *usage = TokenUse::Founded(network);
        let change = Change::Spend { network, token: token.clone() };
        let ticket = self.ticket();
        self.store_under(ticket, Storing::Token, change);
    }

    fn adopt(
        &mut self,
        conn: ConnectionId,
        (place, token): (usize, FoundingToken),
        log: Log,
        genesis: Vec<u8>,
        refill: Vec<Vec<u8>>,
    ) {
        let change = Change::Adopt { network: log.id(), token, genesis };
        let mut network = Network::new(log, self.now, &self.config.limits);
        self.settle_adopted(&mut network);
        self.install(conn, place, network, change, refill);
    }

    fn install(&mut self, conn: ConnectionId, place: usize, network: Network, change: Change, refill: Vec<Vec<u8>>) {
        if let Some((_, usage)) = self.tokens.get_mut(place) {
            *usage = TokenUse::Founding(network.id());
        }
        let ticket = self.ticket();
        self.store_under(ticket, Storing::Genesis { network: Box::new(network), token: place, conn, refill }, change);
    }

    /// A new network came to the end of its way to the disk.
    pub(super) fn installed(
        &mut self,
        network: Network,
        token: usize,
        conn: ConnectionId,
        refill: &[Vec<u8>],
        outcome: Outcome,
    ) {
        let id = network.id();
        let request = if refill.is_empty() { Request::Found } else { Request::Refill };
        let usage = match outcome {
            Outcome::Durable => TokenUse::Founded(id),
            Outcome::Failed => TokenUse::Unused,
        };
        if let Some((_, slot)) = self.tokens.get_mut(token) {
            *slot = usage;
        }
        if outcome == Outcome::Failed {
            return self.lines.refuse(conn, request, Refusal::Storage, NO_DISK);
        }
        tracing::info!(network = %id, role = ?network.log.role(), "network taken up");
        self.networks.insert(id, network);
        self.take_up_vanished(id);
        self.remember_head(id);
        let session = self.lines.session(conn).cloned();
        if let Some(session) = &session {
            self.take_place(conn, session);
            self.note_presence(id);
        }
        match (request, session) {
            (Request::Refill, Some(session)) => self.take_refill(conn, &session, 0, refill),
            _ => self.lines.say(conn, &ServerMessage::Appended { sequence: 0 }),
        }
        self.reconcile(id);
    }

    /// Takes `Refill`.
    pub(super) fn take_refill(&mut self, conn: ConnectionId, session: &Session, first: u64, entries: &[Vec<u8>]) {
        let outcome = match session.standing {
            Standing::Joiner => Err((Refusal::NotAllowed, "a joiner hands in its own membership only".to_owned())),
            Standing::Member | Standing::Founder | Standing::Admin | Standing::Mirror => {
                self.refill(conn, session, first, entries)
            }
        };
        match outcome {
            Ok(Some(answer)) => self.lines.say(conn, &answer),
            Ok(None) => {}
            Err((code, text)) => self.lines.refuse(conn, Request::Refill, code, &text),
        }
    }

    fn refill(
        &mut self,
        conn: ConnectionId,
        session: &Session,
        first: u64,
        entries: &[Vec<u8>],
    ) -> Result<Option<ServerMessage>, (Refusal, String)> {
        let refusal = |code, text: &str| Err((code, text.to_owned()));
        let (id, now) = (session.network, self.now);
        let Some(network) = self.networks.get_mut(&id) else { return self.adopt_log(conn, session, first, entries) };
        if let Some(until) = session.until {
            // Whatever it could bring is of a time in which it was no server, or known.
            let head = network.log.head_at(until);
            return Ok(Some(ServerMessage::Entries { first: head.length, entries: Vec::new(), head }));
        }
        if network.charge(now, session.account(), Service::Refill, &self.config.limits) == Taken::Empty {
            return refusal(Refusal::RateLimited, "too many entries handed in; try again in a few seconds");
        }
        if network.paused.is_some_and(|until| now < until) {
            return refusal(Refusal::Storage, NO_DISK);
        }
        if network.log.backlog() >= MAX_BACKLOG {
            return refusal(Refusal::Busy, "too many entries wait for the disk");
        }
        match self.take_entries(id, first, entries) {
            Ok(Taking::Storing) => {
                if let Some(network) = self.networks.get_mut(&id) {
                    network.refillers.insert(conn);
                }
                self.spend_token(session);
                self.note_handed_in(session);
                Ok(None)
            }
            Ok(Taking::Beyond) => {
                self.note_beyond(id, first.saturating_add(entries.len() as u64));
                Ok(self.refill_answer(id))
            }
            Ok(Taking::Nothing) => Ok(self.refill_answer(id)),
            Err(unfit) => Err(self.judge_unfit(id, &unfit)),
        }
    }

    /// Takes up a network by the log that a founder brings along: this server's own, after it has lost its disk, or one
    /// that it shall mirror.
    fn adopt_log(
        &mut self,
        conn: ConnectionId,
        session: &Session,
        first: u64,
        entries: &[Vec<u8>],
    ) -> Result<Option<ServerMessage>, (Refusal, String)> {
        let unknown = || (Refusal::UnknownNetwork, "the network is not founded yet".to_owned());
        let genesis = match (first, entries.first().map(|entry| Entry::decode(entry))) {
            (0, Some(Ok(entry))) if network_id(&entry.record) == session.network => entry.record,
            (_, _) => return Err(unknown()),
        };
        let token = self.unused_token(session).map_err(|(code, text)| (code, text.to_owned()))?;
        let log = Log::adopt(session.network, self.config.sequencer.clone(), &genesis).map_err(|_| unknown())?;
        self.adopt(conn, token, log, genesis, entries.to_vec());
        Ok(None)
    }

    /// Takes consecutive entries that another server made.
    pub(super) fn take_entries(&mut self, id: NetworkId, first: u64, entries: &[Vec<u8>]) -> Result<Taking, Unfit> {
        let limits = self.config.limits.clone();
        let mut taking = Taking::Nothing;
        // Also keeps the count below from running over.
        if self.networks.get(&id).is_none_or(|network| first > network.log.state().head().0) {
            return Ok(Taking::Beyond);
        }
        for (sequence, encoded) in (first..).zip(entries) {
            let ticket = self.ticket();
            let Some(network) = self.networks.get_mut(&id) else { break };
            let bytes = network.log.bytes().saturating_add(encoded.len());
            if !room::most(&limits).holds(sequence, bytes) {
                return Err(Unfit::TooLarge);
            }
            match network.log.accept(sequence, encoded, ticket)? {
                Accepted::Known => {}
                Accepted::Beyond if taking == Taking::Nothing => return Ok(Taking::Beyond),
                Accepted::Beyond => break,
                Accepted::New(entry) => {
                    taking = Taking::Storing;
                    let change = Change::Append { network: id, sequence, entry };
                    self.store_under(ticket, Storing::Entry(id), change);
                }
            }
        }
        Ok(taking)
    }

    /// Counts and words why entries were not taken.
    pub(super) fn judge_unfit(&mut self, id: NetworkId, unfit: &Unfit) -> (Refusal, String) {
        match unfit {
            Unfit::Malformed => {
                self.count(Discard::BadEntry);
                (Refusal::Malformed, "what was handed in is no log entry".to_owned())
            }
            Unfit::Bad(why) => {
                self.count(Discard::BadEntry);
                (Refusal::BadSignature, format!("the entry does not continue the log: {why}"))
            }
            Unfit::Fork { moved } => {
                if *moved {
                    self.stop_ordering(id);
                }
                tracing::error!(network = %id, "two histories, both signed by the network's sequencer; keeping ours");
                self.count(Discard::Fork);
                (Refusal::Fork, "the entry and this server's log are two histories of one network".to_owned())
            }
            Unfit::TooLarge => (Refusal::TooLarge, "the log is longer than this server allows".to_owned()),
        }
    }

    /// The log was moved to another sequencer at a place that this server has filled itself: whatever it orders from
    /// here on would be another history.
    fn stop_ordering(&mut self, id: NetworkId) {
        let Some(network) = self.networks.get_mut(&id) else { return };
        network.course = Course::Moved;
        let waiting = std::mem::take(&mut network.queue);
        for waiting in waiting {
            self.answer_all(waiting.askers, &moved());
        }
        self.remember_head(id);
    }

    /// Answers those who handed entries in that are on disk now.
    pub(super) fn finish_refills(&mut self, id: NetworkId) {
        let Some(answer) = self.refill_answer(id) else { return };
        let Some(network) = self.networks.get_mut(&id) else { return };
        for conn in std::mem::take(&mut network.refillers) {
            self.lines.say(conn, &answer);
        }
    }

    /// Tells those who handed entries in that the disk did not take them.
    pub(super) fn fail_refills(&mut self, id: NetworkId) {
        let Some(network) = self.networks.get_mut(&id) else { return };
        network.paused = Some(self.now + DISK_PAUSE * (1 << network.disk_failures.min(MAX_DOUBLINGS)));
        network.disk_failures = network.disk_failures.saturating_add(1);
        for conn in std::mem::take(&mut network.refillers) {
            self.lines.refuse(conn, Request::Refill, Refusal::Storage, NO_DISK);
        }
    }

    fn refill_answer(&self, id: NetworkId) -> Option<ServerMessage> {
        let head = self.networks.get(&id)?.log.head();
        Some(ServerMessage::Entries { first: head.length, entries: Vec::new(), head })
    }
}

/// What is said of a record that this server may not order any more.
pub(super) fn moved() -> Placing {
    let text =
        "the network's log was moved to another server, and this one holds entries that the other does not".to_owned();
    Placing::Refused { code: Refusal::Fork, text }
}

pub(super) const NO_DISK: &str = "the server could not write to its disk";

/// Entries of one network that wait for the disk before no more are handed in.
const MAX_BACKLOG: usize = 1024;

/// How long no entries are taken after a disk that failed, and twice as long after each further failure: undoing them means
/// to read the whole log anew, and nobody is served meanwhile.
const DISK_PAUSE: Duration = Duration::from_secs(5);
const MAX_DOUBLINGS: u32 = 4;

/// Most bytes of the entries of one `Refill`, counting 3 more for each.
pub const MAX_REFILL: usize = super::line::MAX_CLIENT_FRAME - 256;
