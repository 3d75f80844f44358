//! Requests that wait for a server.

use ginnel_membership::{Entry, Record, SequencerKey, SignedRecord};
use ginnel_time::Instant;

use crate::io::{Failure, FailureCode, Output, Reply, RequestId, ServerId, UpOutcome};
use crate::link::{Link, Purpose};
use crate::network::Network;
use crate::networks::NetworkNumber;
use crate::node::Node;

/// A request that waits for a server.
pub(crate) struct Waiting {
    pub(crate) request: RequestId,
    pub(crate) deadline: Instant,
    pub(crate) wish: Wish,
    /// The server that says that its record is in the log; done it is when the log shows it.
    pub(crate) acknowledged: Option<ServerId>,
}

/// What a waiting request asked for.
pub(crate) enum Wish {
    /// To be a member.
    Up,
    /// A record in the log; the reply to give once it is there.
    Append {
        /// The signed record.
        record: Vec<u8>,
        /// The answer for the user.
        reply: Option<Reply>,
    },
    /// To be gone from the log, then forget it here.
    Leave {
        /// The self-made revocation.
        record: Vec<u8>,
    },
}

impl Waiting {
    /// The record that the log has to take.
    pub(crate) fn record(&self) -> Option<&[u8]> {
        match &self.wish {
            Wish::Append { record, .. } | Wish::Leave { record } => Some(record),
            Wish::Up => None,
        }
    }
}

impl Node {
    pub(crate) fn fail_up(&mut self, at: NetworkNumber, code: FailureCode, text: String, hint: &str) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let mut kept = Vec::new();
        for waiting in network.waiting.drain(..) {
            match waiting.wish {
                Wish::Up => {
                    let failure = Failure::new(code, text.clone(), hint);
                    self.outputs.push_back(Output::Reply { id: waiting.request, reply: Err(failure) });
                }
                Wish::Append { .. } | Wish::Leave { .. } => kept.push(waiting),
            }
        }
        network.waiting = kept;
    }

    /// Sends the records of waiting requests that no server has yet.
    pub(crate) fn send_waiting(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let Some(server) = network.best_server() else { return };
        let heirs: Vec<Option<ServerId>> = network.waiting.iter().map(|waiting| network.heir(waiting)).collect();
        let Some(link) = network.links.get_mut(&server) else { return };
        let asked: Vec<&[u8]> = network.waiting.iter().filter_map(|waiting| waiting.record()).collect();
        for (_, record) in network.state.pending_revocations() {
            if !asked.contains(&record) && !link.holds(record) {
                link.append(now, Purpose::Revocation, record.to_vec());
            }
        }
        for (waiting, heir) in network.waiting.iter().zip(heirs) {
            let server = heir.unwrap_or(server);
            let Some(link) = network.links.get_mut(&server) else { continue };
            let purpose = Purpose::Request(waiting.request);
            if link.is_appending(&purpose) || waiting.acknowledged == Some(server) {
                continue;
            }
            match &waiting.wish {
                Wish::Append { record, .. } | Wish::Leave { record } => link.append(now, purpose, record.clone()),
                Wish::Up => {}
            }
        }
        self.drain_links(now);
    }

    /// Sends again what a server could not take a moment ago.
    pub(crate) fn append_timeout(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let due = network.links.iter_mut().filter_map(|(id, link)| {
            link.append_again.take_if(|at| *at <= now)?;
            link.serves().then_some(*id)
        });
        for id in due.collect::<Vec<_>>() {
            self.caught_up(now, id);
        }
    }

    pub(crate) fn answer_up(&mut self, at: NetworkNumber, outcome: UpOutcome) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let (done, kept) = network.waiting.drain(..).partition::<Vec<_>, _>(|waiting| matches!(waiting.wish, Wish::Up));
        network.waiting = kept;
        for waiting in done {
            let reply = self.up_reply(at, outcome);
            self.outputs.push_back(Output::Reply { id: waiting.request, reply });
        }
    }

    /// A server says that the record of a request is in the log.
    pub(crate) fn acknowledged(&mut self, at: NetworkNumber, id: ServerId, request: RequestId, sequence: u64) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let known = network.entry_at(sequence);
        let verdict = network.log.iter().find(|line| line.sequence == sequence).map(|line| line.verdict.clone());
        let Some(waiting) = network.waiting.iter_mut().find(|waiting| waiting.request == request) else { return };
        waiting.acknowledged = Some(id);
        let is_there = known.is_some_and(|entry| waiting.record() == Some(entry.record.as_slice()));
        if is_there {
            self.finish_request(request, verdict.unwrap_or(Ok(())));
        } else if matches!(waiting.wish, Wish::Leave { .. }) {
            // The server lets us in no longer, so that nothing more can be learned of it.
            self.finish_request(request, Ok(()));
        }
    }

    pub(crate) fn finish_request(&mut self, request: RequestId, outcome: Result<(), String>) {
        let waits = |network: &&mut Network| network.waiting.iter().any(|waiting| waiting.request == request);
        let Some(network) = self.networks.iter_mut().find(waits) else { return };
        let Some(place) = network.waiting.iter().position(|waiting| waiting.request == request) else { return };
        let at = network.number;
        let waiting = network.waiting.swap_remove(place);
        let leave = matches!(waiting.wish, Wish::Leave { .. });
        let reply = match (outcome, waiting.wish) {
            (Ok(()), Wish::Append { reply, .. }) => Ok(reply.unwrap_or(Reply::Done)),
            (_, Wish::Leave { .. }) => Ok(Reply::Left { network: network.title() }),
            (Ok(()), Wish::Up) => Ok(Reply::Done),
            (Err(text), Wish::Append { .. } | Wish::Up) => Err(Failure::new(FailureCode::Failed, text, "")),
        };
        self.outputs.push_back(Output::Reply { id: request, reply });
        if leave {
            self.forget_network(at);
        }
    }

    /// Answers the requests whose time is over.
    pub(crate) fn late_requests(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let trouble = network.links.values().find_map(|link| link.trouble.clone());
        let (late, kept) = network.waiting.drain(..).partition::<Vec<_>, _>(|waiting| waiting.deadline <= now);
        network.waiting = kept;
        let mut leave = false;
        for waiting in late {
            let said =
                waiting.acknowledged.map(|_| "a server says that it was, but the log does not show it".to_owned());
            let why = said.or_else(|| trouble.clone()).unwrap_or_else(|| "no server answered".to_owned());
            let reply = match waiting.wish {
                Wish::Up => Err(Failure::new(
                    FailureCode::TimedOut,
                    format!("not a member yet: {why}"),
                    "the daemon keeps trying; see `ginnel status`",
                )),
                // In effect already, and ordered when a server answers.
                Wish::Append { reply: Some(reply @ Reply::Revoked { .. }), .. } => Ok(reply),
                Wish::Append { .. } => Err(Failure::new(
                    FailureCode::TimedOut,
                    format!("not written to the log: {why}"),
                    "try again when `ginnel status` shows a connected server",
                )),
                Wish::Leave { .. } => {
                    leave = true;
                    Ok(Reply::Left { network: network.title() })
                }
            };
            self.outputs.push_back(Output::Reply { id: waiting.request, reply });
        }
        if leave {
            self.forget_network(at);
        }
    }
}

impl Network {
    /// The server that a record goes to: the one that orders the log, where it is reached, or else any; of those that did
    /// not reach that one themselves the one that said so longest ago.
    pub(crate) fn best_server(&self) -> Option<ServerId> {
        let sequencer = self.state.sequencer();
        let orders = |link: &Link| Some(link.server.keys.sequencer()) == sequencer;
        self.serving().min_by_key(|(_, link)| (!orders(link), link.at_a_loss)).map(|(id, _)| id)
    }

    /// Whether a record moves the log to another server than the one that orders it now.
    pub(crate) fn is_handover(&self, record: &[u8]) -> bool {
        appointed(record).is_some_and(|named| Some(named) != self.state.sequencer())
    }

    /// The server that is to order the log by a waiting record. No other one can take it where the present one is lost.
    fn heir(&self, waiting: &Waiting) -> Option<ServerId> {
        let named = appointed(waiting.record()?)?;
        let orders = |link: &Link| Some(link.server.keys.sequencer()) == self.state.sequencer();
        if self.serving().any(|(_, link)| orders(link)) {
            return None;
        }
        let heir = self.serving().find(|(_, link)| link.server.keys.sequencer() == named);
        heir.map(|(id, _)| id)
    }

    /// An entry near the end of the log.
    fn entry_at(&self, sequence: u64) -> Option<Entry> {
        self.tail.from(sequence)?.next().and_then(|bytes| Entry::decode(bytes).ok())
    }
}

/// The server that a record has order the log.
fn appointed(record: &[u8]) -> Option<SequencerKey> {
    let signed = SignedRecord::decode(record).ok()?;
    if let Record::Servers(body) = signed.record() { Some(body.sequencer) } else { None }
}
