//! Counted discards.

use std::collections::BTreeMap;

/// Why an input from outside was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Discard {
    /// Not a handshake message by type and length.
    #[error("not a handshake message")]
    NotAHandshake,
    /// mac1 fits none of our keys.
    #[error("mac1 fits no key of ours")]
    BadMac,
    /// The initiation does not open, or comes from a key that we do not know.
    #[error("initiation does not open or comes from a stranger")]
    BadInitiation,
    /// No peer has that key.
    #[error("no peer has that key")]
    UnknownPeer,
    /// The timestamp is not later than the last one.
    #[error("timestamp of the initiation is not later than the last one")]
    OldTimestamp,
    /// The suite is not recorded for the peer.
    #[error("suite is not recorded for the peer")]
    SuiteNotAllowed,
    /// More initiations of one peer than a second allows.
    #[error("more initiations of one peer than a second allows")]
    TooManyInitiations,
    /// More handshake messages or probes of ours to addresses that have proved nothing than are allowed.
    #[error("more handshake messages or probes to unproven addresses than are allowed")]
    TooManyUnproven,
    /// More mails of ours than the servers of a network take.
    #[error("more mails than a second allows")]
    TooManyMails,
    /// No handshake of ours waits under that index.
    #[error("no handshake of ours has that index")]
    UnknownIndex,
    /// The response does not open.
    #[error("response does not open")]
    BadResponse,
    /// The cookie reply does not open or was not asked for.
    #[error("cookie reply does not open or was not asked for")]
    BadCookie,
    /// Under load: the sender was sent a cookie.
    #[error("under load; the sender was sent a cookie")]
    CookieDemanded,
    /// Under load: this second's cookie replies were sent to others.
    #[error("under load; this second's cookie replies were sent to others")]
    CookiesSpent,
    /// Under load: the sender's address had its share.
    #[error("under load; the sender's address had its share")]
    RateLimited,
    /// It came by the relay of another network than the sender's.
    #[error("came by the relay of another network")]
    ForeignRelay,
    /// A mail brings the handshake of somebody else.
    #[error("mail brings the handshake of somebody else")]
    ForeignMail,
    /// A mail does not open, is too old, or says nothing that we know.
    #[error("mail does not open or is malformed")]
    BadMail,
    /// A STUN message that nobody waits for.
    #[error("stun message that nobody waits for")]
    StrayStun,
    /// A control message that is malformed or of an unknown type.
    #[error("control message is malformed or of an unknown type")]
    BadControl,
    /// More gossip of one peer than is taken.
    #[error("more gossip of one peer than is taken")]
    TooMuchGossip,
    /// A peer's log entries or revocation do not verify.
    #[error("peer's log entries or revocation do not verify")]
    BadGossip,
    /// A server's message that does not fit the state or does not decode.
    #[error("server's message does not decode or does not fit")]
    BadServerMessage,
    /// A peer's public key that no handshake can be made with.
    #[error("peer's key cannot be used")]
    BadPeerKey,
    /// An input about a thing that is not there any more.
    #[error("input about something that is gone")]
    Stale,
}

/// How often each [`Discard`] happened.
#[derive(Clone, Debug, Default)]
pub struct Counters(BTreeMap<Discard, u64>);

impl Counters {
    pub(crate) fn count(&mut self, discard: Discard) {
        *self.0.entry(discard).or_default() += 1;
    }

    /// How often `discard` happened.
    pub fn of(&self, discard: Discard) -> u64 {
        self.0.get(&discard).copied().unwrap_or(0)
    }

    /// Every discard that happened at least once.
    pub fn iter(&self) -> impl Iterator<Item = (Discard, u64)> + '_ {
        self.0.iter().map(|(discard, count)| (*discard, *count))
    }
}
