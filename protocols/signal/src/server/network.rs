//! One network: its log, who of it is here, its mail, and what waits to be ordered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ginnel_membership::state::InviteStanding;
use ginnel_membership::{InviteKey, MemberKey, NetworkId, Record, SequencerKey, Server as ServerRecord, SignedRecord};
use ginnel_time::Instant;

use super::answers::Asker;
use super::limits::{Bucket, Limits, Rate, Taken};
use super::log::{Log, Role};
use super::post::{Piece, Post};
use super::settling::Settling;
use super::{ConnectionId, LinkId};
use crate::message::{Head, Standing};

/// A network as the server holds it.
pub(crate) struct Network {
    pub(crate) log: Log,
    /// Records that wait for their turn at the disk, or for the end of `settling`.
    pub(crate) queue: VecDeque<Waiting>,
    /// Records handed on to the sequencer, by this server's numbers.
    pub(crate) forwards: BTreeMap<u64, Forward>,
    pub(crate) course: Course,
    /// While it lasts nothing is ordered, so that entries that this server's disk has lost can come back first.
    pub(crate) settling: Option<Settling>,
    /// What the driver remembers of the log's end.
    pub(crate) witnessed: Option<Head>,
    /// A record that makes this server the sequencer, while it makes sure that the old one is gone.
    pub(crate) takeover: Option<Takeover>,
    /// Links to fellow servers.
    pub(crate) links: BTreeMap<SequencerKey, LinkId>,
    /// Clients that handed entries in and wait for the disk.
    pub(crate) refillers: BTreeSet<ConnectionId>,
    /// The first entry on disk that clients have not been told of, while more are on their way.
    pub(crate) unpublished: Option<u64>,
    /// The key that proved the founding string and is not in the log: the entries that name it may have yet to come.
    pub(crate) filler: Option<MemberKey>,
    /// Until when no entries are taken because the disk has failed.
    pub(crate) paused: Option<Instant>,
    /// How often the disk has failed entries of others since it last took some.
    pub(crate) disk_failures: u32,
    /// Everybody who proved a key of this network, joiners included.
    connections: BTreeMap<ConnectionId, MemberKey>,
    /// The newest connection of each key that is no mere joiner.
    present: BTreeMap<MemberKey, ConnectionId>,
    rates: BTreeMap<Account, Rates>,
    appends: Bucket,
    mail: Bucket,
    post: Post,
}

/// Whether this server knows where the log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// With the sequencer that the log names.
    Plain,
    /// That one has been asked in vain more than once; others may know better.
    Astray,
    /// It was moved to another sequencer in a place that this server has filled itself.
    Moved,
}

/// A record that waits for its turn.
pub(crate) struct Waiting {
    pub(crate) record: Vec<u8>,
    pub(crate) askers: Vec<Asker>,
}

/// A record on its way to the sequencer and back.
pub(crate) struct Forward {
    pub(crate) record: Vec<u8>,
    pub(crate) askers: Vec<Asker>,
    pub(crate) deadline: Instant,
    pub(crate) stage: Stage,
}

/// How far a forward has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The link is not up.
    Held,
    /// The sequencer has it.
    Sent,
    /// The sequencer has put it here; the entry has yet to come.
    Placed(u64),
}

/// The pause before taking over.
pub(crate) struct Takeover {
    pub(crate) record: Vec<u8>,
    pub(crate) askers: Vec<Asker>,
    pub(crate) until: Instant,
}

/// Who is charged: joiners by their invite, since they may bring as many node keys as they like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Account {
    Key(MemberKey),
    Invite(InviteKey),
}

/// What is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Mail,
    Append,
    /// What a mirror hands on.
    Forward,
    /// A revocation that an admin signed.
    Revocation,
    Refill,
    Fetch,
}

struct Rates {
    mail: Bucket,
    appends: Bucket,
    forwards: Bucket,
    revocations: Bucket,
    refills: Bucket,
    fetches: Bucket,
}

/// How a key stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyState {
    Member,
    Admin,
    Revoked,
    Unknown,
}

/// How an invite stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InviteState {
    Open,
    Used,
    Expired,
    Unknown,
}

impl Network {
    pub(crate) fn new(log: Log, now: Instant, limits: &Limits) -> Self {
        Self {
            log,
            queue: VecDeque::new(),
            forwards: BTreeMap::new(),
            course: Course::Plain,
            settling: None,
            witnessed: None,
            takeover: None,
            links: BTreeMap::new(),
            refillers: BTreeSet::new(),
            unpublished: None,
            filler: None,
            paused: None,
            disk_failures: 0,
            connections: BTreeMap::new(),
            present: BTreeMap::new(),
            rates: BTreeMap::new(),
            appends: Bucket::new(now, limits.network_appends),
            mail: Bucket::new(now, limits.network_mail),
            post: Post::default(),
        }
    }

    pub(crate) const fn id(&self) -> NetworkId {
        self.log.id()
    }

    /// Whether this server may put a record in order now.
    pub(crate) fn may_order(&self) -> bool {
        self.log.role() == Role::Sequencer
            && self.settling.is_none()
            && self.log.is_idle()
            && self.course != Course::Moved
    }

    /// Whether a key that the log does not name may hand in the log by the founding string: the first that does, until the
    /// log names it. Later holders of the string have no more rights than anybody.
    pub(crate) fn may_fill(&self, key: &MemberKey) -> bool {
        self.filler.as_ref().map_or(self.log.length() == 0, |filler| filler == key)
    }

    /// Forgets whom the log has come to name: what that key may do is in the log from here on.
    pub(crate) fn review_filler(&mut self) {
        if self.filler.is_some_and(|filler| self.key_state(&filler) != KeyState::Unknown) {
            self.filler = None;
        }
    }

    /// The fellow servers that this server should have links to.
    pub(crate) fn fellows(&self, own: &SequencerKey) -> Vec<ServerRecord> {
        let orderer = self.log.orderer();
        let asks_all =
            self.settling.is_some() || self.takeover.is_some() || self.course == Course::Astray || orderer == *own;
        let wanted = |server: &&ServerRecord| {
            let key = server.keys.sequencer();
            key != *own && (asks_all || key == orderer)
        };
        if self.log.role() == Role::Sequencer && self.settling.is_none() {
            return Vec::new();
        }
        self.log.servers().iter().filter(wanted).cloned().collect()
    }

    /// How a key stands.
    pub(crate) fn key_state(&self, key: &MemberKey) -> KeyState {
        let state = self.log.state();
        if state.is_revoked(key) {
            KeyState::Revoked
        } else if state.is_live(key) {
            KeyState::Member
        } else if state.is_admin(key) {
            KeyState::Admin
        } else {
            KeyState::Unknown
        }
    }

    /// How an invite stands at a Unix time.
    pub(crate) fn invite_state(&self, invite: &InviteKey, unix: u64) -> InviteState {
        match self.log.state().invite(invite) {
            None => InviteState::Unknown,
            Some(info) => match info.standing {
                InviteStanding::Void => InviteState::Unknown,
                InviteStanding::Used(_) => InviteState::Used,
                InviteStanding::Open if unix >= info.expires => InviteState::Expired,
                InviteStanding::Open => InviteState::Open,
            },
        }
    }

    /// Says who used an invite.
    pub(crate) fn used_by(&self, invite: &InviteKey) -> String {
        let state = self.log.state();
        let winner = match state.invite(invite).map(|info| info.standing) {
            Some(InviteStanding::Used(member)) => state.member(&member),
            Some(InviteStanding::Open | InviteStanding::Void) | None => None,
        };
        match winner {
            Some(member) => format!("the invite was used by another machine, which joined as {}", member.name()),
            None => "the invite was used by another machine".to_owned(),
        }
    }

    /// Notes a connection; returns the one that it replaces.
    pub(crate) fn enter(&mut self, conn: ConnectionId, key: MemberKey, standing: Standing) -> Option<ConnectionId> {
        self.connections.insert(conn, key);
        match standing {
            Standing::Joiner => None,
            Standing::Member | Standing::Founder | Standing::Admin | Standing::Mirror => {
                self.present.insert(key, conn).filter(|older| *older != conn)
            }
        }
    }

    /// Forgets a connection.
    pub(crate) fn leave(&mut self, conn: ConnectionId, key: &MemberKey) {
        self.connections.remove(&conn);
        self.refillers.remove(&conn);
        if self.present.get(key) == Some(&conn) {
            self.present.remove(key);
        }
    }

    /// Everybody who proved a key of this network, joiners included.
    pub(crate) fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.connections.keys().copied()
    }

    /// How many connections the network has.
    pub(crate) fn presence(&self) -> usize {
        self.connections.len()
    }

    /// The newest connection of a key.
    pub(crate) fn connection_of(&self, key: &MemberKey) -> Option<ConnectionId> {
        self.present.get(key).copied()
    }

    /// Takes one use of a service out of `account`'s rate; of mail out of the network's, too.
    pub(crate) fn charge(&mut self, now: Instant, account: Account, service: Service, limits: &Limits) -> Taken {
        let fresh = |rate: Rate| Bucket::new(now, rate);
        let rates = self.rates.entry(account).or_insert_with(|| Rates {
            mail: fresh(limits.mail),
            appends: fresh(limits.appends),
            forwards: fresh(limits.forwards),
            revocations: fresh(limits.revocations),
            refills: fresh(limits.refills),
            fetches: fresh(limits.fetches),
        });
        let of_account = match service {
            Service::Mail => rates.mail.take(now),
            Service::Append => rates.appends.take(now),
            Service::Forward => rates.forwards.take(now),
            Service::Revocation => rates.revocations.take(now),
            Service::Refill => rates.refills.take(now),
            Service::Fetch => rates.fetches.take(now),
        };
        match (of_account, service) {
            (Taken::Granted, Service::Mail) => self.mail.take(now),
            (
                Taken::Granted,
                Service::Append | Service::Forward | Service::Revocation | Service::Refill | Service::Fetch,
            )
            | (Taken::Empty, _) => of_account,
        }
    }

    /// Takes one append out of the network's rate. A revocation that enough admins signed is not held up by it: those
    /// admins' own rates bound it.
    pub(crate) fn charge_append(&mut self, now: Instant, record: &SignedRecord, limits: &Limits) -> Taken {
        if self.is_admins_revocation(record)
            && record
                .signers()
                .all(|admin| self.charge(now, Account::Key(*admin), Service::Revocation, limits) == Taken::Granted)
        {
            return Taken::Granted;
        }
        self.appends.take(now)
    }

    fn is_admins_revocation(&self, record: &SignedRecord) -> bool {
        let state = self.log.state();
        matches!(record.record(), Record::Revoke(_))
            && record.signers().all(|signer| state.is_admin(signer))
            && state.verify_revocation(&record.encode()).is_ok()
    }

    /// Keeps mail for somebody who is away or slow.
    pub(crate) fn hold_mail(&mut self, now: Instant, from: MemberKey, to: MemberKey, bytes: Vec<u8>) {
        self.post.push(now, from, to, bytes);
    }

    /// Takes the oldest mail for `to`.
    pub(crate) fn take_mail(&mut self, now: Instant, to: &MemberKey) -> Option<Piece> {
        self.post.pop(now, to)
    }

    /// Whether mail waits for `to`.
    pub(crate) fn holds_mail_for(&self, to: &MemberKey) -> bool {
        self.post.holds_for(to)
    }

    /// Drops mail from and to a key that was revoked.
    pub(crate) fn drop_mail_of(&mut self, key: &MemberKey) {
        self.post.forget(key);
    }

    /// Bytes of mail held.
    pub(crate) fn held_mail(&self) -> usize {
        self.post.bytes()
    }

    /// Forgets what is too old; whether anything is left to forget.
    pub(crate) fn sweep(&mut self, now: Instant) -> bool {
        self.post.expire(now);
        self.rates.retain(|_, rates| {
            let Rates { mail, appends, forwards, revocations, refills, fetches } = rates;
            let buckets = [mail, appends, forwards, revocations, refills, fetches];
            !buckets.into_iter().all(|bucket| bucket.is_full(now))
        });
        !self.post.is_empty() || !self.rates.is_empty()
    }
}
