//! Who gets in: proofs, presence, and what the log's growth changes about both.

use ginnel_membership::{MemberKey, NetworkId};

use super::line::Session;
use super::network::{InviteState, KeyState, Network};
use super::{ConnectionId, Discard, Server, TokenUse};
use crate::auth::{self, SignedRole};
use crate::message::{
    Claim, ClientMessage, FoundingToken, Head, Refusal, RelayOffer, ServerMessage, Standing, Welcome,
};

/// Why somebody does not get in.
type NotAdmitted = (Refusal, &'static str);

impl Server {
    /// Takes the first sealed message of a connection.
    pub(super) fn take_proof(&mut self, conn: ConnectionId, plaintext: &[u8]) -> Result<(), Discard> {
        let message = ClientMessage::decode(plaintext);
        let Ok(ClientMessage::Authenticate { network, claim }) = message else {
            self.lines.dismiss(conn, Refusal::Malformed, "the first message must prove a key");
            return Err(Discard::Malformed);
        };
        let Some(binding) = self.lines.binding(conn) else { return Err(Discard::UnknownConnection) };
        match self.admit(network, &claim, &binding) {
            Ok(session) => {
                self.enter(conn, session);
                Ok(())
            }
            Err((code, text)) => {
                tracing::debug!(conn = conn.0, ?code, "client not admitted");
                self.lines.dismiss(conn, code, text);
                Err(Discard::NotAdmitted)
            }
        }
    }

    fn admit(&self, network: NetworkId, claim: &Claim, binding: &[u8; 32]) -> Result<Session, NotAdmitted> {
        let session = |key, standing| Session { network, key, standing, invite: None, token: None };
        match claim {
            Claim::Member { key, signature } => {
                auth::verify(key, SignedRole::Member, &network, binding, signature).map_err(|_| BAD_SIGNATURE)?;
                Ok(session(*key, self.standing(self.network(&network)?, key)?))
            }
            Claim::Joiner { invite, invite_signature, key, signature } => {
                auth::verify_invite(invite, &network, binding, invite_signature).map_err(|_| BAD_SIGNATURE)?;
                auth::verify(key, SignedRole::Joiner, &network, binding, signature).map_err(|_| BAD_SIGNATURE)?;
                let log = self.network(&network)?;
                match (log.key_state(key), log.invite_state(invite, self.clock.at(self.now))) {
                    (KeyState::Member, _) => Ok(session(*key, Standing::Member)),
                    (KeyState::Revoked, _) => Err(REVOKED),
                    (KeyState::Admin | KeyState::Unknown, InviteState::Open) => {
                        Ok(Session { invite: Some(*invite), ..session(*key, Standing::Joiner) })
                    }
                    (KeyState::Admin | KeyState::Unknown, refused) => Err(invite_refusal(refused)),
                }
            }
            Claim::Founder { token, key, signature } => {
                auth::verify(key, SignedRole::Founder, &network, binding, signature).map_err(|_| BAD_SIGNATURE)?;
                let token = self.admit_founder(&network, token, key)?;
                Ok(Session { token: Some(token), ..session(*key, Standing::Founder) })
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
            None => Err((Refusal::TokenUnknown, "this server did not give out this founding string")),
            Some((place, TokenUse::Unused)) => match self.networks.get(network) {
                None => Ok(place),
                Some(_) => Err((Refusal::NotAllowed, "the network exists already")),
            },
            Some((_, TokenUse::Founding(id))) if id == *network => {
                Err((Refusal::Busy, "the network is being founded; try again"))
            }
            Some((place, TokenUse::Founded(id))) if id == *network => match self.network(&id)?.key_state(key) {
                KeyState::Member | KeyState::Admin => Ok(place),
                KeyState::Revoked => Err(REVOKED),
                KeyState::Unknown => Err(NOT_A_MEMBER),
            },
            Some((_, TokenUse::Founding(_) | TokenUse::Founded(_))) => {
                Err((Refusal::TokenUsed, "this founding string has founded another network"))
            }
        }
    }

    fn network(&self, id: &NetworkId) -> Result<&Network, NotAdmitted> {
        self.networks.get(id).ok_or((Refusal::UnknownNetwork, "this server does not know the network"))
    }

    fn standing(&self, network: &Network, key: &MemberKey) -> Result<Standing, NotAdmitted> {
        match network.key_state(key) {
            KeyState::Member => Ok(Standing::Member),
            KeyState::Admin => Ok(Standing::Admin),
            KeyState::Revoked => Err(REVOKED),
            KeyState::Unknown => Err(NOT_A_MEMBER),
        }
    }

    /// Lets a proved client in: welcome, presence, waiting mail.
    fn enter(&mut self, conn: ConnectionId, session: Session) {
        let Some(observed) = self.lines.from(conn) else { return };
        let head = self
            .networks
            .get(&session.network)
            .map_or(Head { length: 0, hash: session.network.to_bytes() }, Network::head);
        let welcome = Welcome {
            standing: session.standing,
            observed,
            stun_ports: self.config.stun_ports.clone(),
            relay: if self.config.relay.is_some() { RelayOffer::Offered } else { RelayOffer::None },
            head,
            time: self.clock.at(self.now),
        };
        tracing::info!(conn = conn.0, standing = ?session.standing, "client let in");
        self.lines.admit(conn, session.clone());
        self.lines.say(conn, &ServerMessage::Welcome(welcome));
        self.take_place(conn, &session);
        self.deliver(conn);
    }

    /// Makes a connection the one of its key; an older one of the same key is dismissed.
    pub(super) fn take_place(&mut self, conn: ConnectionId, session: &Session) {
        let Some(network) = self.networks.get_mut(&session.network) else { return };
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
            (KeyState::Revoked, _) => {
                network.drop_mail_of(&session.key);
                self.lines.dismiss(conn, REVOKED.0, REVOKED.1);
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
                if matches!(invite, InviteState::Used | InviteState::Unknown) {
                    let (code, text) = invite_refusal(invite);
                    self.lines.dismiss(conn, code, text);
                }
            }
            (KeyState::Unknown, Standing::Member | Standing::Founder | Standing::Admin) => {
                self.lines.dismiss(conn, NOT_A_MEMBER.0, NOT_A_MEMBER.1);
            }
        }
    }
}

const fn invite_refusal(state: InviteState) -> NotAdmitted {
    match state {
        InviteState::Used => (Refusal::InviteUsed, "the invite was used by another machine"),
        InviteState::Expired => (Refusal::InviteExpired, "the invite has expired"),
        InviteState::Open | InviteState::Unknown => {
            (Refusal::InviteUnknown, "the network has no such invite, or took it back")
        }
    }
}

const BAD_SIGNATURE: NotAdmitted = (Refusal::BadSignature, "the signature does not verify");
const REVOKED: NotAdmitted = (Refusal::Revoked, "this machine was removed from the network");
const NOT_A_MEMBER: NotAdmitted = (Refusal::NotAMember, "this machine is not a member of the network");
