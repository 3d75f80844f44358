//! Who gets in: proofs, presence, and what the log's growth changes about both.

use std::borrow::Cow;

use ginnel_membership::{InviteKey, MemberKey, NetworkId, SequencerKey};

use super::limits::Taken;
use super::line::Session;
use super::log::{Place, Role};
use super::network::{InviteState, KeyState, Network};
use super::{ConnectionId, Discard, Server, TokenUse};
use crate::auth::{self, SignedRole};
use crate::message::{
    Claim, ClientMessage, FoundingToken, Head, Refusal, RelayOffer, ServerMessage, Standing, Welcome,
};

/// Why somebody does not get in.
type NotAdmitted = (Refusal, Cow<'static, str>);

impl Server {
    /// Takes the first sealed message of a connection.
    pub(super) fn take_proof(&mut self, conn: ConnectionId, plaintext: &[u8]) -> Result<(), Discard> {
        let message = ClientMessage::decode(plaintext);
        let Ok(ClientMessage::Authenticate { network, claim }) = message else {
            self.lines.dismiss(conn, Refusal::Malformed, "the first message must prove a key");
            return Err(Discard::Malformed);
        };
        let Some(binding) = self.lines.binding(conn) else { return Err(Discard::UnknownConnection) };
        if self.lines.guesses(self.now, conn) == Taken::Empty && !self.is_known(&network, &claim) {
            self.lines.dismiss(conn, Refusal::RateLimited, "too many wrong tries from this address; wait a minute");
            return Err(Discard::GuessLimit);
        }
        match self.admit(network, &claim, &binding) {
            Ok(session) => {
                self.enter(conn, session);
                Ok(())
            }
            Err((code, text)) => {
                tracing::debug!(conn = conn.0, ?code, "client not admitted");
                if is_guess(code) {
                    self.lines.charge_guess(self.now, conn);
                }
                self.lines.dismiss(conn, code, &text);
                Err(Discard::NotAdmitted)
            }
        }
    }

    /// Whether a claim names a key that the log knows; nothing is proved by that.
    fn is_known(&self, network: &NetworkId, claim: &Claim) -> bool {
        let Some(network) = self.networks.get(network) else { return false };
        match claim {
            Claim::Member { key, .. } => matches!(network.key_state(key), KeyState::Member | KeyState::Admin),
            Claim::Mirror { key, .. } => network.log.is_server(key),
            Claim::Joiner { .. } | Claim::Founder { .. } => false,
        }
    }

    fn admit(&self, network: NetworkId, claim: &Claim, binding: &[u8; 32]) -> Result<Session, NotAdmitted> {
        let session = |key, standing| Session { network, key, standing, invite: None, token: None, until: None };
        match claim {
            Claim::Member { key, signature } => {
                auth::verify(key, SignedRole::Member, &network, binding, signature).map_err(|_| bad_signature())?;
                Ok(session(*key, self.standing(self.network(&network)?, key)?))
            }
            Claim::Joiner { invite, invite_signature, key, signature } => {
                auth::verify_invite(invite, &network, binding, invite_signature).map_err(|_| bad_signature())?;
                auth::verify(key, SignedRole::Joiner, &network, binding, signature).map_err(|_| bad_signature())?;
                let log = self.network(&network)?;
                match (log.key_state(key), log.invite_state(invite, self.clock.at(self.now))) {
                    (KeyState::Member, _) => Ok(session(*key, Standing::Member)),
                    (KeyState::Revoked, _) => Err(revoked()),
                    (KeyState::Admin | KeyState::Unknown, InviteState::Open) => {
                        Ok(Session { invite: Some(*invite), ..session(*key, Standing::Joiner) })
                    }
                    (KeyState::Admin | KeyState::Unknown, InviteState::Unknown) if self.may_lack(network) => {
                        let text = "this server does not reach the one that orders the log, and may not know the invite \
                                    yet; try again in a moment";
                        Err((Refusal::NoSequencer, text.into()))
                    }
                    (KeyState::Admin | KeyState::Unknown, refused) => Err(invite_refusal(log, invite, refused)),
                }
            }
            Claim::Founder { token, key, signature } => {
                auth::verify(key, SignedRole::Founder, &network, binding, signature).map_err(|_| bad_signature())?;
                let token = self.admit_founder(&network, token, key)?;
                Ok(Session { token: Some(token), ..session(*key, Standing::Founder) })
            }
            Claim::Mirror { key, signature } => {
                auth::verify_mirror(key, &network, binding, signature).map_err(|_| bad_signature())?;
                let until = self.admit_mirror(self.network(&network)?, key)?;
                Ok(Session { until, ..session(MemberKey::from_bytes(key.to_bytes()), Standing::Mirror) })
            }
        }
    }

    /// How much of the log a fellow server may see: all of it, or that part in which it was one.
    fn admit_mirror(&self, network: &Network, key: &SequencerKey) -> Result<Option<u64>, NotAdmitted> {
        let own = *key == self.config.sequencer.sequencer_key();
        match network.log.place_of(key) {
            Place::Server if !own => Ok(None),
            Place::Former { until } if !own => Ok(Some(until)),
            Place::Server | Place::Former { .. } | Place::Nobody => {
                Err((Refusal::NotAllowed, "the log does not name this key as a fellow server's".into()))
            }
        }
    }

    /// The place of a founder's token, if it may found `network` or has done so for `key`.
    fn admit_founder(&self, network: &NetworkId, token: &FoundingToken, key: &MemberKey) -> Result<usize, NotAdmitted> {
        // Every token is compared, each in constant time, so that the time tells nothing.
        let found = self.tokens.iter().enumerate().fold(None, |found, (place, (known, usage))| {
            if known.0.matches(&token.0) { Some((place, *usage)) } else { found }
        });
        match found {
            None => Err((Refusal::TokenUnknown, "this server did not give out this founding string".into())),
            // A server that was dismissed holds the network still when it is taken on anew, and one that was told of it by
            // somebody who came no further holds none of its log.
            Some((place, TokenUse::Unused)) => match self.networks.get(network).map(|held| (held, held.key_state(key)))
            {
                None | Some((_, KeyState::Member | KeyState::Admin)) => Ok(place),
                Some((_, KeyState::Revoked)) => Err(revoked()),
                Some((held, KeyState::Unknown)) if held.log.role() == Role::Mirror && held.may_fill(key) => Ok(place),
                Some((_, KeyState::Unknown)) => Err((Refusal::NotAllowed, "the network exists already".into())),
            },
            Some((_, TokenUse::Founding(id))) if id == *network => {
                Err((Refusal::Busy, "the network is being founded; try again".into()))
            }
            Some((place, TokenUse::Founded(id))) if id == *network => {
                let network = self.network(&id)?;
                match (network.key_state(key), network.log.role()) {
                    (KeyState::Member | KeyState::Admin, _) => Ok(place),
                    (KeyState::Revoked, _) => Err(revoked()),
                    // Whoever makes this server a mirror may be in entries that have yet to come.
                    (KeyState::Unknown, Role::Mirror) if network.may_fill(key) => Ok(place),
                    (KeyState::Unknown, Role::Mirror | Role::Sequencer) => Err(not_a_member()),
                }
            }
            Some((_, TokenUse::Founding(_) | TokenUse::Founded(_))) => {
                Err((Refusal::TokenUsed, "this founding string has founded another network".into()))
            }
        }
    }

    fn network(&self, id: &NetworkId) -> Result<&Network, NotAdmitted> {
        self.networks.get(id).ok_or((Refusal::UnknownNetwork, "this server does not know the network".into()))
    }

    fn standing(&self, network: &Network, key: &MemberKey) -> Result<Standing, NotAdmitted> {
        match network.key_state(key) {
            KeyState::Member => Ok(Standing::Member),
            KeyState::Admin => Ok(Standing::Admin),
            KeyState::Revoked => Err(revoked()),
            KeyState::Unknown => Err(not_a_member()),
        }
    }

    /// Lets a proved client in: welcome, presence, waiting mail.
    fn enter(&mut self, conn: ConnectionId, session: Session) {
        let Some(observed) = self.lines.from(conn) else { return };
        let network = self.networks.get(&session.network);
        if let Some(network) = network
            && network.presence() >= self.config.limits.connections_per_network
        {
            return self.lines.dismiss(conn, Refusal::Busy, "too many machines of this network are connected");
        }
        let head = match (network, session.until) {
            (None, _) => Head { length: 0, hash: session.network.to_bytes() },
            (Some(network), None) => network.log.head(),
            (Some(network), Some(until)) => network.log.head_at(until),
        };
        let checkpoint = network.and_then(|network| network.log.checkpoint()).filter(|_| session.until.is_none());
        let welcome = Welcome {
            standing: session.standing,
            observed,
            stun_ports: self.config.stun_ports.clone(),
            relay: if self.config.relay.is_some() { RelayOffer::Offered } else { RelayOffer::None },
            head,
            time: self.clock.at(self.now),
            checkpoint,
        };
        tracing::info!(conn = conn.0, standing = ?session.standing, "client let in");
        self.lines.admit(self.now, conn, session.clone());
        self.lines.say(conn, &ServerMessage::Welcome(welcome));
        self.take_place(conn, &session);
        self.deliver(conn);
        self.note_presence(session.network);
        if session.standing == Standing::Mirror {
            self.hasten(session.network, &SequencerKey::from_bytes(session.key.to_bytes()));
        }
    }

    /// Makes a connection the one of its key; an older one of the same key is dismissed.
    pub(super) fn take_place(&mut self, conn: ConnectionId, session: &Session) {
        let Some(network) = self.networks.get_mut(&session.network) else { return };
        if session.standing == Standing::Founder && network.key_state(&session.key) == KeyState::Unknown {
            network.filler = Some(session.key);
        }
        if let Some(older) = network.enter(conn, session.key, session.standing) {
            self.lines.dismiss(older, Refusal::Replaced, "the same key came in on a newer connection");
        }
    }

    /// Judges a connection anew after its network's log grew.
    pub(super) fn review(&mut self, conn: ConnectionId) {
        let Some(session) = self.lines.session(conn).cloned() else { return };
        let unix = self.clock.at(self.now);
        let Some(network) = self.networks.get_mut(&session.network) else { return };
        match (network.key_state(&session.key), session.standing) {
            (_, Standing::Mirror) => {
                let key = SequencerKey::from_bytes(session.key.to_bytes());
                match (network.log.is_server(&key), session.until) {
                    (false, None) => {
                        let text = "the log no longer names this key as a server's";
                        self.lines.dismiss(conn, Refusal::NotAllowed, text);
                    }
                    // It was one before, and is one again.
                    (true, Some(_)) => self.lines.show_all(conn),
                    (true, None) | (false, Some(_)) => {}
                }
            }
            (KeyState::Revoked, _) => {
                network.drop_mail_of(&session.key);
                self.dismiss(conn, revoked());
            }
            (KeyState::Member, Standing::Joiner | Standing::Founder | Standing::Admin) => {
                self.lines.set_standing(conn, Standing::Member);
                self.take_place(conn, &Session { standing: Standing::Member, ..session });
                self.deliver(conn);
            }
            (KeyState::Member, Standing::Member) | (KeyState::Admin, _) => {}
            (KeyState::Unknown, Standing::Joiner) => {
                let invite = session.invite.map_or(InviteState::Unknown, |invite| network.invite_state(&invite, unix));
                // An invite that only ran out is judged when it is used: an append may be under way.
                if let (InviteState::Used | InviteState::Unknown, Some(key)) = (invite, session.invite) {
                    let refusal = invite_refusal(network, &key, invite);
                    self.dismiss(conn, refusal);
                }
            }
            // A mirror that is filled learns only in the end who fills it.
            (KeyState::Unknown, Standing::Founder)
                if network.log.role() == Role::Mirror && network.may_fill(&session.key) => {}
            (KeyState::Unknown, Standing::Member | Standing::Founder | Standing::Admin) => {
                self.dismiss(conn, not_a_member());
            }
        }
    }

    fn dismiss(&mut self, conn: ConnectionId, (code, text): NotAdmitted) {
        self.lines.dismiss(conn, code, &text);
    }
}

fn invite_refusal(network: &Network, invite: &InviteKey, state: InviteState) -> NotAdmitted {
    match state {
        InviteState::Used => (Refusal::InviteUsed, network.used_by(invite).into()),
        InviteState::Expired => (Refusal::InviteExpired, "the invite has expired".into()),
        InviteState::Open | InviteState::Unknown => {
            (Refusal::InviteUnknown, "the network has no such invite, or took it back".into())
        }
    }
}

/// Whether a client that is refused so has shown no knowledge of any network.
const fn is_guess(code: Refusal) -> bool {
    matches!(
        code,
        Refusal::BadSignature
            | Refusal::NotAMember
            | Refusal::InviteUnknown
            | Refusal::TokenUnknown
            | Refusal::TokenUsed
    )
}

const fn bad_signature() -> NotAdmitted {
    (Refusal::BadSignature, Cow::Borrowed("the signature does not verify"))
}

const fn revoked() -> NotAdmitted {
    (Refusal::Revoked, Cow::Borrowed("this machine was removed from the network"))
}

const fn not_a_member() -> NotAdmitted {
    (Refusal::NotAMember, Cow::Borrowed("this machine is not a member of the network"))
}
