//! One peer: who it is, the handshake under way with it, the paths to it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ginnel_forward::PeerId;
use ginnel_membership::MemberKey;
use ginnel_path::{Agent, Path};
use ginnel_time::{Instant, Tai64n};
use ginnel_tunnel::cookie::CookieJar;
use ginnel_tunnel::{PresharedKey, PublicKey, Received, Side, Suite};

use crate::Discard;
use crate::attempt::Attempt;
use crate::io::RequestId;
use crate::load::Bucket;
use crate::networks::NetworkNumber;
use crate::report::PeerSource;

/// Which of this machine's static keys speaks with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum IdentityId {
    /// The key of the configuration file.
    Config,
    /// The key of a network's membership.
    Network(NetworkNumber),
}

impl IdentityId {
    /// The network whose key it is.
    pub(crate) const fn network(self) -> Option<NetworkNumber> {
        match self {
            Self::Network(number) => Some(number),
            Self::Config => None,
        }
    }
}

/// Who a peer is; unchanged for the life of its [`Peer`], but for its name.
pub(crate) struct Profile {
    pub(crate) name: String,
    pub(crate) source: PeerSource,
    pub(crate) member: Option<MemberKey>,
    pub(crate) identity: IdentityId,
    pub(crate) key: PublicKey,
    pub(crate) psk: PresharedKey,
    /// The suite in which this side initiates.
    pub(crate) suite: Suite,
    /// The suites that an initiation of the peer may come in.
    pub(crate) accepts: Vec<Suite>,
    pub(crate) allowed: Vec<(IpAddr, u8)>,
}

impl Profile {
    /// Which member of which network the peer is.
    pub(crate) fn membership(&self) -> Option<(NetworkNumber, MemberKey)> {
        self.network().zip(self.member)
    }

    /// The network that the peer is a member of; none for a peer of the configuration file.
    pub(crate) const fn network(&self) -> Option<NetworkNumber> {
        self.identity.network()
    }
}

/// Everything the node keeps about one peer.
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) profile: Profile,
    pub(crate) ways: Ways,
    pub(crate) jars: Jars,
    pub(crate) attempt: Option<Box<Attempt>>,
    /// The greatest timestamp of an initiation from the peer.
    pub(crate) greatest: Tai64n,
    pub(crate) answered: Option<Answered>,
    /// The response that made the newest session, so that its copies can be told.
    pub(crate) accepted: Option<Accepted>,
    /// How often the mailbox may make us answer.
    pub(crate) offers: Bucket,
    /// Handshakes made since a path last reached the peer.
    pub(crate) unreached: u32,
    /// Initiations that authenticate.
    pub(crate) initiations: Bucket,
    pub(crate) session: Option<SessionInfo>,
    pub(crate) pings: Vec<Ping>,
    /// The last handshake that this side began got no answer.
    pub(crate) unanswered: bool,
}

/// How a peer is reached.
pub(crate) enum Ways {
    /// A ginneld that nobody has asked for: nothing is kept for it, and it costs nothing until it is woken.
    Dormant,
    /// Between ginneld: a path agent decides.
    Agent {
        /// The agent.
        agent: Box<Agent>,
        /// What it selected last.
        primary: Option<(Path, Instant)>,
        /// The path kept warm behind it.
        backup: Option<Path>,
    },
    /// Stock WireGuard: one endpoint, which the data plane moves on authenticated data.
    Endpoint(Option<Path>),
}

/// The newest session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionInfo {
    pub(crate) made: Instant,
    pub(crate) side: Side,
    pub(crate) confirmed: Confirmation,
}

/// Whether the other side is known to hold the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirmation {
    /// A packet under the keys came in, or this side is the initiator.
    Confirmed,
    /// This side answered and has heard nothing under the keys.
    Awaited,
}

/// The answer to the peer's last initiation, kept for its copies.
pub(crate) struct Answered {
    pub(crate) initiation: Vec<u8>,
    pub(crate) response: Vec<u8>,
    pub(crate) until: Instant,
    pub(crate) paths: Vec<Path>,
    /// When the response goes out again towards the candidates that came by mailbox, until the session is confirmed.
    pub(crate) repeats: &'static [Duration],
    pub(crate) answered_at: Instant,
    /// Whether a copy of the initiation came by mailbox.
    pub(crate) mailed: bool,
}

impl Answered {
    /// The answer to an initiation that came by `path`, or by mailbox where there is none.
    pub(crate) fn new(now: Instant, path: Option<Path>, initiation: Vec<u8>, response: Vec<u8>) -> Self {
        Self {
            initiation,
            response,
            until: now + ANSWER_KEPT,
            paths: path.into_iter().collect(),
            repeats: if path.is_none() { ANSWER_REPEATS } else { &[] },
            answered_at: now,
            mailed: path.is_none(),
        }
    }

    /// Notes a copy that came by mailbox; `true` for the first, which brings candidates.
    pub(crate) fn first_by_mail(&mut self) -> bool {
        let first = !std::mem::replace(&mut self.mailed, true);
        if first {
            self.repeats = ANSWER_REPEATS;
        }
        first
    }

    /// When the response is to go out again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.repeats.first().map(|step| self.answered_at + *step)
    }
}

/// The response that made a session, kept for its copies.
pub(crate) struct Accepted {
    pub(crate) response: Vec<u8>,
    pub(crate) until: Instant,
    /// How many copies are still believed from paths where no initiation went.
    pub(crate) strays: u8,
}

/// The cookies of one peer, one jar for each path, because a cookie proves one address.
pub(crate) struct Jars {
    remote: PublicKey,
    jars: BTreeMap<Path, CookieJar>,
}

impl Jars {
    pub(crate) fn new(remote: PublicKey) -> Self {
        Self { remote, jars: BTreeMap::new() }
    }

    /// The handshake message as it goes out on `path`.
    pub(crate) fn stamped(&mut self, now: Instant, path: Path, message: &[u8]) -> Vec<u8> {
        if self.jars.len() >= MAX_JARS && !self.jars.contains_key(&path) {
            self.jars.clear();
        }
        let jar = self.jars.entry(path).or_insert_with(|| CookieJar::new(&self.remote));
        let mut copy = message.to_vec();
        jar.stamp(now, &mut copy);
        jar.sent(&copy);
        copy
    }

    /// Whether a handshake message of ours went out on `path`.
    pub(crate) fn knows(&self, path: Path) -> bool {
        self.jars.contains_key(&path)
    }

    /// Takes a cookie reply that came by `path`; `false` when it was not asked for there.
    pub(crate) fn accept(&mut self, now: Instant, path: Path, reply: &[u8]) -> bool {
        self.jars.get_mut(&path).is_some_and(|jar| jar.accept(now, reply).is_ok())
    }
}

/// A ping of a user that waits for its answer.
pub(crate) struct Ping {
    pub(crate) request: RequestId,
    /// The token of the first send; each further send counts one up.
    pub(crate) token: u64,
    /// When each send went out.
    pub(crate) sent: Vec<Instant>,
    pub(crate) deadline: Instant,
    pub(crate) again: Instant,
}

impl Peer {
    /// A peer without session or handshake.
    pub(crate) fn new(id: PeerId, profile: Profile, ways: Ways) -> Self {
        Self {
            id,
            jars: Jars::new(profile.key),
            profile,
            ways,
            attempt: None,
            greatest: Tai64n::ZERO,
            answered: None,
            accepted: None,
            offers: OFFERS,
            unreached: 0,
            initiations: INITIATIONS,
            session: None,
            pings: Vec::new(),
            unanswered: false,
        }
    }

    /// Lets the peer begin a handshake by an initiation that is newer than every one before it, and not too soon.
    pub(crate) fn take_initiation(&mut self, now: Instant, received: &Received) -> Result<(), Discard> {
        if !self.profile.accepts.contains(&received.suite()) {
            return Err(Discard::SuiteNotAllowed);
        }
        if received.timestamp() <= self.greatest {
            return Err(Discard::OldTimestamp);
        }
        if !self.initiations.take(now) {
            return Err(Discard::TooManyInitiations);
        }
        self.greatest = received.timestamp();
        Ok(())
    }

    /// The agent, when there is one.
    pub(crate) fn agent(&mut self) -> Option<&mut Agent> {
        match &mut self.ways {
            Ways::Agent { agent, .. } => Some(agent),
            Ways::Dormant | Ways::Endpoint(_) => None,
        }
    }

    /// The addresses at which it may be.
    pub(crate) fn places(&self) -> Vec<IpAddr> {
        match &self.ways {
            Ways::Dormant => Vec::new(),
            Ways::Agent { agent, .. } => agent.status().iter().map(|status| status.path.remote.ip()).collect(),
            Ways::Endpoint(path) => path.iter().map(|path| path.remote.ip()).collect(),
        }
    }

    /// The path that data takes, when one is selected.
    pub(crate) fn primary(&self) -> Option<Path> {
        match &self.ways {
            Ways::Dormant => None,
            Ways::Agent { primary, .. } => primary.map(|(path, _)| path),
            Ways::Endpoint(path) => *path,
        }
    }

    /// Whether nothing would be lost if the peer were made anew.
    pub(crate) fn is_idle(&self) -> bool {
        self.session.is_none() && self.attempt.is_none() && self.pings.is_empty()
    }

    /// The earliest moment at which this peer needs a call.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let agent = match &self.ways {
            Ways::Agent { agent, .. } => agent.poll_timeout(),
            Ways::Dormant | Ways::Endpoint(_) => None,
        };
        let attempt = self.attempt.as_ref().map(|attempt| attempt.deadline());
        let answer = self.answered.as_ref().and_then(Answered::deadline);
        let pings = self.pings.iter().map(|ping| ping.deadline.min(ping.again)).min();
        [agent, attempt, answer, pings].into_iter().flatten().min()
    }
}

/// Initiations of one authenticated peer: 50 a second, as WireGuard's implementations take them.
const INITIATIONS: Bucket = Bucket::new(50, 50);
/// For how long the copies of an answered initiation get the same answer.
pub(crate) const ANSWER_KEPT: Duration = Duration::from_secs(10);
/// On how many paths the same answer goes out.
pub(crate) const ANSWER_PATHS: usize = 8;
/// Jars kept for one peer; all are emptied when more paths come up.
const MAX_JARS: usize = 32;
/// Answers by mailbox to one peer: a new initiation is due every 5 s at most.
const OFFERS: Bucket = Bucket::new(1, 6);
/// When an answer that went by mailbox is repeated on the paths that may carry it, from the second time on at full TTL.
pub(crate) const ANSWER_REPEATS: &[Duration] =
    &[Duration::from_millis(200), Duration::from_millis(600), Duration::from_millis(1400), Duration::from_millis(3000)];
/// How many pings of one peer may wait at a time.
pub(crate) const MAX_PINGS: usize = 16;
/// How often an unanswered ping is sent again while its deadline has not come.
pub(crate) const PING_AGAIN: Duration = Duration::from_millis(500);
