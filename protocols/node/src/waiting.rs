//! Requests that wait for a server.

use ginnel_time::Instant;

use crate::io::{Failure, FailureCode, Output, Reply, RequestId, UpOutcome};
use crate::link::{LinkStatus, Purpose};
use crate::network::Network;
use crate::networks::NetworkNumber;
use crate::node::Node;

/// A request that waits for a server.
pub(crate) struct Waiting {
    pub(crate) request: RequestId,
    pub(crate) deadline: Instant,
    pub(crate) wish: Wish,
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
    fn record(&self) -> Option<&[u8]> {
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
        let sequencer = network.state.sequencer();
        let up = network.links.values_mut().filter(|link| link.status == LinkStatus::Up);
        // The one that orders the log itself, where it is reached.
        let best = up.min_by_key(|link| Some(link.server.keys.sequencer()) != sequencer);
        let Some(link) = best else { return };
        let asked: Vec<&[u8]> = network.waiting.iter().filter_map(|waiting| waiting.record()).collect();
        for (_, record) in network.state.pending_revocations() {
            if !asked.contains(&record) && !link.holds(record) {
                link.append(now, Purpose::Revocation, record.to_vec());
            }
        }
        for waiting in &network.waiting {
            let purpose = Purpose::Request(waiting.request);
            if link.is_appending(&purpose) {
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
            (link.status == LinkStatus::Up).then_some(*id)
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
            let why = trouble.clone().unwrap_or_else(|| "no server answered".to_owned());
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
