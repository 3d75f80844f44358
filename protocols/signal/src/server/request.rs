//! What clients that are let in ask for.

use ginnel_membership::{MemberKey, NetworkId};

use super::limits::Taken;
use super::line::Session;
use super::network::{KeyState, Service};
use super::{ConnectionId, Discard, Server};
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
            ClientMessage::Append { record } => self.take_append(conn, &session, record),
            ClientMessage::Mail { to, bytes } => self.take_mail(conn, &session, to, bytes),
            ClientMessage::Relay => self.take_relay(conn, &session),
            ClientMessage::Ping => self.lines.say(conn, &ServerMessage::Pong),
            ClientMessage::Refill { first, entries } => self.take_refill(conn, &session, first, &entries),
            ClientMessage::FetchSnapshot { offset } => self.take_fetch_snapshot(conn, &session, offset),
            ClientMessage::Forward { number, record } => self.take_forward(conn, &session, number, record),
        }
        Ok(())
    }

    fn take_fetch(&mut self, conn: ConnectionId, session: &Session, from: u64) {
        let request = Request::Fetch;
        let Some(network) = self.networks.get_mut(&session.network) else {
            return self.lines.refuse(conn, request, Refusal::UnknownNetwork, "the network is not founded yet");
        };
        if network.charge(self.now, session.account(), Service::Fetch, &self.config.limits) == Taken::Empty {
            return self.lines.refuse(conn, request, Refusal::RateLimited, TOO_MANY_FETCHES);
        }
        let (mut entries, mut head) = (network.log.fetch(from), network.log.head());
        if let Some(until) = session.until {
            entries.truncate(usize::try_from(until.saturating_sub(from)).unwrap_or(usize::MAX));
            head = network.log.head_at(until);
        }
        self.lines.say(conn, &ServerMessage::Entries { first: from, entries, head });
        self.note_length(session, from);
    }

    fn take_fetch_snapshot(&mut self, conn: ConnectionId, session: &Session, offset: u64) {
        let request = Request::FetchSnapshot;
        let Some(network) = self.networks.get_mut(&session.network) else {
            return self.lines.refuse(conn, request, Refusal::UnknownNetwork, "the network is not founded yet");
        };
        if network.charge(self.now, session.account(), Service::Fetch, &self.config.limits) == Taken::Empty {
            return self.lines.refuse(conn, request, Refusal::RateLimited, TOO_MANY_FETCHES);
        }
        match network.log.snapshot(offset) {
            Some(piece) if session.until.is_none() => self.lines.say(conn, &piece),
            Some(_) | None => {
                let text = "this server holds no checkpoint of the network";
                self.lines.refuse(conn, request, Refusal::NoCheckpoint, text);
            }
        }
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
        let most = self.config.limits.held_mail_per_network;
        let network = self.networks.get_mut(&session.network).ok_or(MailRefusal::NotAMember)?;
        if network.charge(self.now, session.account(), Service::Mail, &self.config.limits) == Taken::Empty {
            return Err(MailRefusal::RateLimited);
        }
        if network.key_state(&to) != KeyState::Member {
            return Err(MailRefusal::NotAMember);
        }
        match network.connection_of(&to) {
            Some(conn) if self.lines.has_room(conn) && !network.holds_mail_for(&to) => {
                self.lines.say(conn, &ServerMessage::Mail { from: session.key, bytes });
            }
            Some(_) | None if full || network.held_mail() + bytes.len() > most => return Err(MailRefusal::Busy),
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
            (Some(_), Standing::Joiner | Standing::Founder | Standing::Admin | Standing::Mirror) => {
                refuse(Refusal::NotAllowed, "the relay is for members")
            }
        };
        self.lines.say(conn, &answer);
    }
}

const TOO_MANY_FETCHES: &str = "too many fetches; try again in a few seconds";
