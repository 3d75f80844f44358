//! How a record gets into a log: put in order by this server, or handed on to the one that does.
//!
//! ```text
//! sequencer:  asked ──> queue ──one at a time──> Output::Store ──durable──> in effect, answered, pushed
//! mirror:     asked ──> forward ──> sequencer ──Placed──> its entry comes ──durable──> answered
//! ```

use std::time::Duration;

use ginnel_membership::record::MAX_RECORD_LEN;
use ginnel_membership::{NetworkId, Record, Refusal as Rejection, SignedRecord};

use super::answers::{Asker, MAX_WAITING_APPENDS};
use super::limits::Taken;
use super::line::Session;
use super::log::{Proposed, Role, Settled};
use super::network::{Account, Course, Forward, Network, Service, Stage, Waiting};
use super::refill::moved;
use super::room::{entry_len, room_for};
use super::{Change, ConnectionId, Discard, Server, Storing};
use crate::message::{ClientMessage, Placing, Refusal, Request, ServerMessage, Standing, printable};

/// Why a record does not get in.
type Refused = (Refusal, String);

impl Server {
    pub(super) fn take_append(&mut self, conn: ConnectionId, session: &Session, record: Vec<u8>) {
        if self.answers.of(conn) >= MAX_WAITING_APPENDS {
            return self.lines.dismiss(conn, Refusal::RateLimited, "too many appends wait for their answers");
        }
        let asker = self.answers.ask(conn);
        let outcome = if session.standing == Standing::Mirror {
            Err((Refusal::NotAllowed, "a server hands records on and appends none".to_owned()))
        } else {
            self.submit(session, record, asker)
        };
        if let Err((code, text)) = outcome {
            self.answer(asker, Placing::Refused { code, text });
        }
    }

    pub(super) fn take_forward(&mut self, conn: ConnectionId, session: &Session, number: u64, record: Vec<u8>) {
        let asker = Asker::Mirror { conn, number };
        let outcome = if session.standing == Standing::Mirror && session.until.is_none() {
            self.submit(session, record, asker)
        } else {
            Err((Refusal::NotAllowed, "only a server of the network hands records on".to_owned()))
        };
        if let Err((code, text)) = outcome {
            self.answer(asker, Placing::Refused { code, text });
        }
    }

    /// Judges who asks, and puts the record where it waits for its turn.
    fn submit(&mut self, session: &Session, record: Vec<u8>, asker: Asker) -> Result<(), Refused> {
        let refusal = |code, text: &str| Err((code, text.to_owned()));
        if record.len() > MAX_RECORD_LEN {
            return refusal(Refusal::TooLarge, "the record is too large");
        }
        if session.standing == Standing::Joiner && !enrols(&record, session) {
            return refusal(Refusal::NotAllowed, "a joiner appends its own membership only");
        }
        let (now, limits) = (self.now, &self.config.limits);
        let Some(network) = self.networks.get_mut(&session.network) else {
            return refusal(Refusal::UnknownNetwork, "the network is not founded yet");
        };
        let service = match session.standing {
            Standing::Mirror => Service::Forward,
            Standing::Member | Standing::Joiner | Standing::Founder | Standing::Admin => Service::Append,
        };
        let too_many = "too many appends; try again in a few seconds";
        if network.charge(now, session.account(), service, limits) == Taken::Empty {
            return refusal(Refusal::RateLimited, too_many);
        }
        if let Some(sequence) = network.log.find(&record) {
            self.answer(asker, Placing::Placed { sequence });
            return Ok(());
        }
        let signed = match SignedRecord::decode(&record) {
            Ok(signed) => signed,
            Err(malformed) => return Err(explain(network, &record, &Rejection::from(malformed))),
        };
        if network.charge_append(now, &signed, limits) == Taken::Empty {
            return refusal(Refusal::RateLimited, too_many);
        }
        match network.log.role() {
            Role::Sequencer => self.enqueue(session.network, record, vec![asker]),
            // A forward that comes in a circle would never end.
            Role::Mirror if session.standing == Standing::Mirror => {
                refusal(Refusal::NoSequencer, "this server does not order the log")
            }
            Role::Mirror => self.forward(session.network, record, vec![asker]),
        }
    }

    /// Puts a record into the queue for the disk.
    pub(super) fn enqueue(&mut self, id: NetworkId, record: Vec<u8>, askers: Vec<Asker>) -> Result<(), Refused> {
        let Some(network) = self.networks.get_mut(&id) else { return Ok(()) };
        if let [asker] = *askers
            && network.log.join(&record, asker)
        {
            return Ok(());
        }
        if let Some(waiting) = network.queue.iter_mut().find(|waiting| waiting.record == record) {
            waiting.askers.extend(askers);
            return Ok(());
        }
        if network.course == Course::Moved
            && let Placing::Refused { code, text } = moved()
        {
            return Err((code, text));
        }
        if network.awaits_lost() {
            let text = "the server has lost entries and waits for a machine that gives them back; try again later";
            return Err((Refusal::Busy, text.to_owned()));
        }
        if network.queue.len() >= MAX_QUEUE {
            return Err((Refusal::Busy, "too many appends wait for the disk".to_owned()));
        }
        network.queue.push_back(Waiting { record, askers });
        self.pump(id);
        Ok(())
    }

    /// Orders what waits, until something has to go to the disk.
    pub(super) fn pump(&mut self, id: NetworkId) {
        loop {
            let (unix, ticket) = (self.clock.at(self.now), self.ticket());
            let limits = self.config.limits.clone();
            let Some(network) = self.networks.get_mut(&id).filter(|network| network.may_order()) else { return };
            let Some(Waiting { record, mut askers }) = network.queue.pop_front() else { return };
            let bytes = network.log.bytes().saturating_add(entry_len(&record));
            let proposed = if !room_for(&record, &limits).holds(network.log.length(), bytes) {
                Err((Refusal::TooLarge, "the network's log is as long as this server allows".to_owned()))
            } else {
                let proposed = network.log.propose(unix, &record, ticket, &mut askers);
                proposed.map_err(|rejection| explain(network, &record, &rejection))
            };
            let outcome = match proposed {
                Ok(Proposed::New { sequence, entry }) => {
                    let change = Change::Append { network: id, sequence, entry };
                    return self.store_under(ticket, Storing::Entry(id), change);
                }
                Ok(Proposed::Known(sequence)) => Placing::Placed { sequence },
                Err((code, text)) => Placing::Refused { code, text },
            };
            self.answer_all(askers, &outcome);
        }
    }

    /// Hands a record on to the sequencer.
    pub(super) fn forward(&mut self, id: NetworkId, record: Vec<u8>, askers: Vec<Asker>) -> Result<(), Refused> {
        let deadline = self.now + FORWARD_PATIENCE;
        let reachable = self.is_reachable(id);
        let number = self.next_forward;
        let Some(network) = self.networks.get_mut(&id) else { return Ok(()) };
        if let Some(takeover) = network.takeover.as_mut().filter(|takeover| takeover.record == record) {
            takeover.askers.extend(askers);
            return Ok(());
        }
        if let Some(known) = network.forwards.values_mut().find(|known| known.record == record) {
            known.askers.extend(askers);
            return Ok(());
        }
        if !reachable {
            return self.consider_takeover(id, record, askers);
        }
        if network.forwards.len() >= MAX_FORWARDS {
            return Err((Refusal::Busy, "too many appends wait for the server that orders them".to_owned()));
        }
        self.next_forward += 1;
        network.forwards.insert(number, Forward { record, askers, deadline, stage: Stage::Held });
        self.agenda.insert((deadline, id));
        self.send_forwards(id);
        Ok(())
    }

    /// Hands on what waits for the link to the sequencer.
    pub(super) fn send_forwards(&mut self, id: NetworkId) {
        let Some(link) = self.sequencer_link(id).filter(|link| self.is_up(*link)) else { return };
        let Some(network) = self.networks.get_mut(&id) else { return };
        let held = network.forwards.iter_mut().filter(|(_, forward)| forward.stage == Stage::Held);
        let sent: Vec<ClientMessage> = held
            .map(|(number, forward)| {
                forward.stage = Stage::Sent;
                ClientMessage::Forward { number: *number, record: forward.record.clone() }
            })
            .collect();
        for message in sent {
            self.tell_link(link, message);
        }
    }

    /// Takes the sequencer's answer.
    pub(super) fn forwarded(&mut self, id: NetworkId, number: u64, outcome: Placing) {
        let Some(network) = self.networks.get_mut(&id) else { return };
        match outcome {
            Placing::Placed { sequence } if sequence >= network.log.length() => {
                if let Some(forward) = network.forwards.get_mut(&number) {
                    forward.stage = Stage::Placed(sequence);
                }
            }
            Placing::Placed { .. } => {
                if let Some(forward) = network.forwards.remove(&number) {
                    self.confirm(id, forward);
                }
            }
            Placing::Refused { .. } => {
                if let Some(forward) = network.forwards.remove(&number) {
                    self.answer_all(forward.askers, &outcome);
                }
            }
        }
    }

    /// Answers those who asked for a record that the sequencer says is in the log, by what the log here says.
    fn confirm(&mut self, id: NetworkId, forward: Forward) {
        let Some(network) = self.networks.get(&id) else { return };
        if let Some(sequence) = network.log.find(&forward.record) {
            return self.answer_all(forward.askers, &Placing::Placed { sequence });
        }
        tracing::error!(network = %id, "the sequencer says that it placed a record, and its log says otherwise");
        self.count(Discard::FalsePlace);
        self.answer_all(forward.askers, &no_sequencer());
        if let Some(link) = self.sequencer_link(id).filter(|link| self.is_up(*link)) {
            self.hold_off(link);
            self.drop_link(link, "it says what its log does not");
        }
    }

    /// Ends forwards whose time is over; the sequencer is dead or too slow.
    pub(super) fn expire_forwards(&mut self, id: NetworkId) {
        let now = self.now;
        let Some(network) = self.networks.get_mut(&id) else { return };
        let late: Vec<u64> =
            network.forwards.iter().filter(|(_, forward)| forward.deadline <= now).map(|(number, _)| *number).collect();
        if late.is_empty() {
            return;
        }
        let late: Vec<Forward> = late.iter().filter_map(|number| network.forwards.remove(number)).collect();
        // First, so that nothing is handed on to it once more.
        if let Some(link) = self.sequencer_link(id).filter(|link| self.is_up(*link)) {
            self.drop_link(link, "it does not answer");
        }
        self.do_without_sequencer(id, late);
    }

    /// Answers what cannot be handed on because the sequencer cannot be reached.
    pub(super) fn give_up_forwards(&mut self, id: NetworkId) {
        let Some(network) = self.networks.get_mut(&id) else { return };
        let forwards = std::mem::take(&mut network.forwards);
        self.do_without_sequencer(id, forwards.into_values());
    }

    fn do_without_sequencer(&mut self, id: NetworkId, forwards: impl IntoIterator<Item = Forward>) {
        for forward in forwards {
            if let Err((code, text)) = self.consider_takeover(id, forward.record, forward.askers.clone()) {
                self.answer_all(forward.askers, &Placing::Refused { code, text });
            }
        }
    }

    /// Answers forwards whose entry is here.
    fn finish_forwards(&mut self, id: NetworkId) {
        let Some(network) = self.networks.get_mut(&id) else { return };
        let length = network.log.length();
        let mut done = Vec::new();
        network.forwards.retain(|_, forward| match forward.stage {
            Stage::Placed(sequence) if sequence < length => {
                let (record, askers) = (std::mem::take(&mut forward.record), std::mem::take(&mut forward.askers));
                done.push(Forward { record, askers, ..*forward });
                false
            }
            Stage::Placed(_) | Stage::Held | Stage::Sent => true,
        });
        done.into_iter().for_each(|forward| self.confirm(id, forward));
    }

    /// Moves what waits to where it belongs after the log may have moved to another sequencer.
    fn move_waiting(&mut self, id: NetworkId) {
        let Some(network) = self.networks.get_mut(&id) else { return };
        let role = network.log.role();
        let (queued, held) = match role {
            Role::Sequencer => (Vec::new(), std::mem::take(&mut network.forwards).into_values().collect()),
            Role::Mirror => (std::mem::take(&mut network.queue).into_iter().collect::<Vec<_>>(), Vec::new()),
        };
        let moved = queued.into_iter().map(|waiting| (waiting.record, waiting.askers));
        for (record, askers) in moved.chain(held.into_iter().map(|forward| (forward.record, forward.askers))) {
            let outcome = match role {
                Role::Sequencer => self.enqueue(id, record, askers.clone()),
                Role::Mirror => self.forward(id, record, askers.clone()),
            };
            if let Err((code, text)) = outcome {
                self.answer_all(askers, &Placing::Refused { code, text });
            }
        }
    }

    /// Tells everybody about entries that are on disk, and lets their consequences happen.
    pub(super) fn publish(&mut self, id: NetworkId, from: u64) {
        let Some(network) = self.networks.get(&id) else { return };
        let (head, mut next, mut pushes) = (network.log.head(), from, Vec::new());
        while next < head.length {
            let entries = network.log.fetch(next);
            let count = entries.len() as u64;
            pushes.push(ServerMessage::Entries { first: next, entries, head });
            next += count.max(1);
        }
        let present: Vec<ConnectionId> = network.connections().collect();
        for conn in present {
            // Whom an entry puts out sees it first: a member believes the log and no server.
            let saw = self.sees_log(conn);
            if saw {
                pushes.iter().for_each(|push| self.lines.say(conn, push));
            }
            self.review(conn);
            if !saw && self.sees_log(conn) {
                pushes.iter().for_each(|push| self.lines.say(conn, push));
            }
        }
    }

    fn sees_log(&self, conn: ConnectionId) -> bool {
        let session = self.lines.session(conn);
        session.is_some_and(|session| session.standing != Standing::Joiner && session.until.is_none())
    }

    /// An entry is on disk.
    pub(super) fn settled(&mut self, id: NetworkId, settled: Settled) {
        self.take_up_vanished(id);
        if self.networks.get(&id).is_some_and(|network| network.log.is_idle()) {
            self.remember_head(id);
        }
        self.answer_all(settled.askers, &Placing::Placed { sequence: settled.sequence });
        let Some(network) = self.networks.get_mut(&id) else { return };
        let from = *network.unpublished.get_or_insert(settled.sequence);
        if !network.log.is_idle() {
            return;
        }
        network.unpublished = None;
        network.disk_failures = 0;
        network.review_filler();
        self.finish_forwards(id);
        self.publish(id, from);
        self.finish_refills(id);
        self.reconcile(id);
        self.move_waiting(id);
        self.sync_links(id);
        self.settle_network(id);
        self.pump(id);
    }

    pub(super) fn answer_all(&mut self, askers: Vec<Asker>, outcome: &Placing) {
        for asker in askers {
            self.answer(asker, outcome.clone());
        }
    }

    fn answer(&mut self, asker: Asker, outcome: Placing) {
        let outcome = match outcome {
            Placing::Placed { sequence } => Placing::Placed { sequence },
            Placing::Refused { code, text } => Placing::Refused { code, text: printable(&text) },
        };
        match asker {
            Asker::Mirror { conn, number } => self.lines.say(conn, &ServerMessage::Forwarded { number, outcome }),
            Asker::Client { conn, turn } => {
                let answer = match outcome {
                    Placing::Placed { sequence } => ServerMessage::Appended { sequence },
                    Placing::Refused { code, text } => ServerMessage::Refused { request: Request::Append, code, text },
                };
                for message in self.answers.give(conn, turn, answer) {
                    self.lines.say(conn, &message);
                }
            }
        }
    }
}

impl Session {
    pub(crate) const fn account(&self) -> Account {
        match self.invite {
            Some(invite) => Account::Invite(invite),
            None => Account::Key(self.key),
        }
    }
}

/// What a client is told of a record that the log refuses.
pub(super) fn explain(network: &Network, record: &[u8], rejection: &Rejection) -> Refused {
    if *rejection == Rejection::InviteUsed
        && let Ok(Record::Member(body)) = SignedRecord::decode(record).as_ref().map(SignedRecord::record)
    {
        return (Refusal::InviteUsed, network.used_by(&body.invite));
    }
    (Refusal::Record(rejection.code()), rejection.to_string())
}

pub(super) fn no_sequencer() -> Placing {
    let text = "the server that orders this network's log cannot be reached; try again later".to_owned();
    Placing::Refused { code: Refusal::NoSequencer, text }
}

/// Whether the bytes are a record that makes the session's key a member.
fn enrols(record: &[u8], session: &Session) -> bool {
    SignedRecord::decode(record)
        .is_ok_and(|signed| matches!(signed.record(), Record::Member(body) if body.member == session.key))
}

/// Records of one network that wait for the disk.
const MAX_QUEUE: usize = 256;

/// Records of one network on their way to the sequencer and back.
const MAX_FORWARDS: usize = 256;

/// How long a mirror waits for the fate of a record that it handed on, its way into its own log included.
pub const FORWARD_PATIENCE: Duration = Duration::from_secs(12);
