//! What clients that are let in ask for.

use ginnel_membership::record::MAX_RECORD_LEN;
use ginnel_membership::{MemberKey, NetworkId, Record, SignedRecord};

use super::limits::Taken;
use super::line::Session;
use super::network::{Account, KeyState, Network, Sequenced};
use super::{Change, ConnectionId, Discard, Outcome, Output, Server, Storing, TokenUse};
use crate::mailbox::MAX_MAIL;
use crate::message::{ClientMessage, MailRefusal, Refusal, Request, ServerMessage, Standing};

impl Server {
    /// Takes a message of a client that is let in.
    pub(super) fn take_request(&mut self, conn: ConnectionId, plaintext: &[u8]) -> Result<(), Discard> {
        let Some(session) = self.lines.session(conn).cloned() else { return Err(Discard::UnknownConnection) };
        let Ok(message) = ClientMessage::decode(plaintext) else {
            self.lines.dismiss(conn, Refusal::Malformed, "a message does not decode");
            return Err(Discard::Malformed);
        };
        match message {
            ClientMessage::Authenticate { .. } => {
                self.lines.dismiss(conn, Refusal::Malformed, "a key was proved already");
                return Err(Discard::Malformed);
            }
            ClientMessage::Found { genesis } => self.take_genesis(conn, &session, &genesis),
            ClientMessage::Fetch { from } => self.take_fetch(conn, &session, from),
            ClientMessage::Append { record } => self.take_append(conn, &session, &record),
            ClientMessage::Mail { to, bytes } => self.take_mail(conn, &session, to, bytes),
            ClientMessage::Relay => self.take_relay(conn, &session),
            ClientMessage::Ping => self.lines.say(conn, &ServerMessage::Pong),
        }
        Ok(())
    }

    fn take_genesis(&mut self, conn: ConnectionId, session: &Session, genesis: &[u8]) {
        let mut refuse = |code, text: &str| self.lines.refuse(conn, Request::Found, code, text);
        let Some((place, (token, usage))) = session.token.and_then(|place| Some((place, self.tokens.get(place)?)))
        else {
            return refuse(Refusal::NotAllowed, "only a founder founds a network");
        };
        if let Some(network) = self.networks.get(&session.network) {
            // The answer to an earlier try may have been lost.
            return if network.is_genesis(genesis) {
                self.lines.say(conn, &ServerMessage::Appended { sequence: 0 });
            } else {
                refuse(Refusal::NotAllowed, "the network exists already");
            };
        }
        if *usage != TokenUse::Unused {
            return refuse(Refusal::TokenUsed, "this founding string is used");
        }
        if self.networks.len() >= self.config.limits.networks {
            return refuse(Refusal::Busy, "this server holds as many networks as it may");
        }
        let unix = self.clock.at(self.now);
        match Network::found(session.network, self.config.sequencer.clone(), unix, genesis) {
            Ok((network, _)) if network.key_state(&session.key) != KeyState::Admin => {
                refuse(Refusal::NotAllowed, "the founder is not an admin of the network");
            }
            Ok((network, entry)) => {
                let change = Change::Found { network: session.network, token: token.clone(), entry };
                self.tokens[place].1 = TokenUse::Founding(session.network);
                self.store(Storing::Genesis { network: Box::new(network), token: place, conn }, change);
            }
            Err(rejection) => refuse(Refusal::Record(rejection.code()), &rejection.to_string()),
        }
    }

    /// A genesis came to its end.
    pub(super) fn founded(&mut self, network: Network, token: usize, conn: ConnectionId, outcome: Outcome) {
        let id = network.id();
        let usage = match outcome {
            Outcome::Durable => TokenUse::Founded(id),
            Outcome::Failed => TokenUse::Unused,
        };
        if let Some((_, slot)) = self.tokens.get_mut(token) {
            *slot = usage;
        }
        match outcome {
            Outcome::Failed => {
                let text = "the server could not write to its disk";
                self.lines.refuse(conn, Request::Found, Refusal::Storage, text);
            }
            Outcome::Durable => {
                tracing::info!(network = %id, "network founded");
                self.networks.insert(id, network);
                if let Some(session) = self.lines.session(conn).cloned() {
                    self.take_place(conn, &session);
                }
                self.lines.say(conn, &ServerMessage::Appended { sequence: 0 });
            }
        }
    }

    fn take_fetch(&mut self, conn: ConnectionId, session: &Session, from: u64) {
        let Some(network) = self.networks.get(&session.network) else {
            return self.lines.refuse(conn, Request::Fetch, Refusal::UnknownNetwork, "the network is not founded yet");
        };
        let answer = ServerMessage::Entries { first: from, entries: network.fetch(from), head: network.head() };
        self.lines.say(conn, &answer);
    }

    fn take_append(&mut self, conn: ConnectionId, session: &Session, record: &[u8]) {
        match self.order(conn, session, record) {
            Ok(Some(sequence)) => self.lines.say(conn, &ServerMessage::Appended { sequence }),
            Ok(None) => {}
            Err((code, text)) => self.lines.refuse(conn, Request::Append, code, &text),
        }
    }

    /// Puts a record in order; the sequence where it is in the log already.
    fn order(
        &mut self,
        conn: ConnectionId,
        session: &Session,
        record: &[u8],
    ) -> Result<Option<u64>, (Refusal, String)> {
        let refusal = |code, text: &str| Err((code, text.to_owned()));
        if record.len() > MAX_RECORD_LEN {
            return refusal(Refusal::TooLarge, "the record is too large");
        }
        if session.standing == Standing::Joiner && !enrols(record, &session.key) {
            return refusal(Refusal::NotAllowed, "a joiner appends its own membership only");
        }
        let (now, unix, ticket) = (self.now, self.clock.at(self.now), self.ticket());
        let limits = &self.config.limits;
        let Some(network) = self.networks.get_mut(&session.network) else {
            return refusal(Refusal::UnknownNetwork, "the network is not founded yet");
        };
        if network.charge_append(now, session.account(), limits) == Taken::Empty {
            return refusal(Refusal::RateLimited, "too many appends; try again in a few seconds");
        }
        if network.length() >= room_for(record, limits.log_entries) {
            return refusal(Refusal::TooLarge, "the network's log is as long as this server allows");
        }
        if network.is_congested() {
            return refusal(Refusal::Busy, "too many appends wait for the disk");
        }
        match network.append(unix, record, ticket, conn) {
            Ok(Sequenced::Known(sequence)) => Ok(Some(sequence)),
            Ok(Sequenced::Underway) => Ok(None),
            Ok(Sequenced::New { sequence, entry }) => {
                let change = Change::Append { network: session.network, sequence, entry };
                self.lines.emit(Output::Store { ticket, change });
                self.stores.insert(ticket, Storing::Entry(session.network));
                Ok(None)
            }
            Err(rejection) => Err((Refusal::Record(rejection.code()), rejection.to_string())),
        }
    }

    fn store(&mut self, storing: Storing, change: Change) {
        let ticket = self.ticket();
        self.stores.insert(ticket, storing);
        self.lines.emit(Output::Store { ticket, change });
    }

    fn take_mail(&mut self, conn: ConnectionId, session: &Session, to: MemberKey, bytes: Vec<u8>) {
        if let Err(why) = self.post(session, to, bytes) {
            self.lines.say(conn, &ServerMessage::MailRefused { to, why });
        }
    }

    fn post(&mut self, session: &Session, to: MemberKey, bytes: Vec<u8>) -> Result<(), MailRefusal> {
        if session.standing != Standing::Member {
            return Err(MailRefusal::NotAllowed);
        }
        if bytes.is_empty() || bytes.len() > MAX_MAIL {
            return Err(MailRefusal::Size);
        }
        let full = self.held_mail() + bytes.len() > self.config.limits.held_mail;
        let network = self.networks.get_mut(&session.network).ok_or(MailRefusal::NotAMember)?;
        if network.charge_mail(self.now, session.account(), &self.config.limits) == Taken::Empty {
            return Err(MailRefusal::RateLimited);
        }
        if network.key_state(&to) != KeyState::Member {
            return Err(MailRefusal::NotAMember);
        }
        match network.connection_of(&to) {
            Some(conn) if self.lines.has_room(conn) && !network.holds_mail_for(&to) => {
                self.lines.say(conn, &ServerMessage::Mail { from: session.key, bytes });
            }
            Some(_) | None if full => return Err(MailRefusal::Busy),
            Some(_) | None => network.hold_mail(self.now, session.key, to, bytes),
        }
        Ok(())
    }

    /// Hands waiting mail to a member, as long as it reads.
    pub(super) fn deliver(&mut self, conn: ConnectionId) {
        let Some(session) = self.lines.session(conn) else { return };
        let (id, key): (NetworkId, MemberKey) = (session.network, session.key);
        let Some(network) = self.networks.get_mut(&id) else { return };
        if network.connection_of(&key) != Some(conn) {
            return;
        }
        while self.lines.has_room(conn)
            && let Some(piece) = network.take_mail(self.now, &key)
        {
            self.lines.say(conn, &ServerMessage::Mail { from: piece.from, bytes: piece.bytes });
        }
    }

    fn take_relay(&mut self, conn: ConnectionId, session: &Session) {
        let refuse = |code, text| ServerMessage::Refused { request: Request::Relay, code, text: String::from(text) };
        let answer = match (&self.config.relay, session.standing) {
            (None, _) => refuse(Refusal::NoRelay, "this server offers no relay"),
            (Some(issue), Standing::Member) => ServerMessage::Relay(issue(self.clock.at(self.now), &session.key)),
            (Some(_), Standing::Joiner | Standing::Founder | Standing::Admin) => {
                refuse(Refusal::NotAllowed, "the relay is for members")
            }
        };
        self.lines.say(conn, &answer);
    }
}

impl Session {
    const fn account(&self) -> Account {
        match self.invite {
            Some(invite) => Account::Invite(invite),
            None => Account::Key(self.key),
        }
    }
}

/// How long a log may be to take a record. No member can fill the log with its updates so that nobody is let in, and
/// no full log keeps a member from being revoked or admins from governing.
fn room_for(record: &[u8], entries: usize) -> u64 {
    let entries = entries as u64;
    match SignedRecord::decode(record).as_ref().map(SignedRecord::record) {
        Ok(Record::MemberUpdate(_)) => entries / 4 * 3,
        Ok(
            Record::Revoke(_)
            | Record::AdminChange(_)
            | Record::Servers(_)
            | Record::Policy(_)
            | Record::Checkpoint(_),
        ) => entries.saturating_add(entries / 4).saturating_add(1),
        Ok(Record::Genesis(_) | Record::Invite(_) | Record::InviteVoid(_) | Record::Member(_) | Record::Lease(_))
        | Err(_) => entries,
    }
}

/// Whether the bytes are a record that makes `key` a member.
fn enrols(record: &[u8], key: &MemberKey) -> bool {
    SignedRecord::decode(record)
        .is_ok_and(|signed| matches!(signed.record(), Record::Member(body) if body.member == *key))
}
