//! One network: its log, who of it is here, and its mail.

use std::collections::{BTreeMap, VecDeque};

use ginnel_membership::record::{BadGenesis, network_id};
use ginnel_membership::state::InviteStanding;
use ginnel_membership::{Entry, InviteKey, MemberKey, NetworkId, Placed, Refusal as Rejection, Sequencer, SigningKey};
use ginnel_time::Instant;

use super::limits::{Bucket, Limits, Rate, Taken};
use super::post::{Piece, Post};
use super::{ConnectionId, Ticket};
use crate::frame::MAX_MESSAGE;
use crate::message::{Head, Standing};

/// A network as the server holds it.
pub(crate) struct Network {
    id: NetworkId,
    /// Ahead of `entries` by what is in `pending`.
    sequencer: Sequencer,
    /// Encoded entries that are on disk.
    entries: Vec<Vec<u8>>,
    head: [u8; 32],
    genesis: Vec<u8>,
    pending: VecDeque<Pending>,
    /// Everybody who proved a key of this network, joiners included.
    connections: BTreeMap<ConnectionId, MemberKey>,
    /// The newest connection of each key that is no mere joiner.
    present: BTreeMap<MemberKey, ConnectionId>,
    rates: BTreeMap<Account, Rates>,
    post: Post,
}

/// An entry on its way to the disk.
struct Pending {
    ticket: Ticket,
    entry: Entry,
    askers: Vec<ConnectionId>,
}

/// Who is charged: joiners by their invite, since they may bring as many node keys as they like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Account {
    Key(MemberKey),
    Invite(InviteKey),
}

struct Rates {
    mail: Bucket,
    appends: Bucket,
}

/// How a key or an invite stands in the log.
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

/// What became of a record.
pub(crate) enum Sequenced {
    /// It has been in the log before.
    Known(u64),
    /// It is on its way to the disk already; the asker is noted.
    Underway,
    /// It is to be stored.
    New { sequence: u64, entry: Vec<u8> },
}

/// An entry that reached the disk.
pub(crate) struct Advance {
    pub(crate) sequence: u64,
    pub(crate) entry: Vec<u8>,
    pub(crate) askers: Vec<ConnectionId>,
}

/// A stored log that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log of network {network}, entry {sequence}: {why}")]
pub struct BadLog {
    /// The network.
    pub network: NetworkId,
    /// The first entry that is wrong.
    pub sequence: u64,
    /// What is wrong with it.
    pub why: String,
}

impl Network {
    /// Founds a network: orders its genesis, which is not on disk yet.
    pub(crate) fn found(
        id: NetworkId,
        key: SigningKey,
        unix: u64,
        genesis: &[u8],
    ) -> Result<(Self, Vec<u8>), Rejection> {
        if network_id(genesis) != id {
            return Err(BadGenesis::OtherNetwork.into());
        }
        let (sequencer, entry) = Sequencer::found(key, unix, genesis)?;
        let mut network = Self::empty(id, sequencer, genesis.to_vec());
        network.settle(&entry);
        Ok((network, entry.encode()))
    }

    /// Replays a stored log.
    pub(crate) fn restore(id: NetworkId, key: SigningKey, stored: &[Vec<u8>]) -> Result<Self, BadLog> {
        let bad = |sequence, why: String| BadLog { network: id, sequence, why };
        let mut entries = Vec::with_capacity(stored.len());
        for (sequence, encoded) in (0..).zip(stored) {
            entries.push(Entry::decode(encoded).map_err(|why| bad(sequence, why.to_string()))?);
        }
        let Some(genesis) = entries.first() else { return Err(bad(0, "the log is empty".to_owned())) };
        let own = key.sequencer_key();
        let sequencer = Sequencer::resume(key, id, &entries).map_err(|why| bad(0, why.to_string()))?;
        if sequencer.state().sequencer() != Some(own) {
            return Err(bad(0, "the log is ordered by another server's key".to_owned()));
        }
        let mut network = Self::empty(id, sequencer, genesis.record.clone());
        entries.iter().for_each(|entry| network.settle(entry));
        Ok(network)
    }

    fn empty(id: NetworkId, sequencer: Sequencer, genesis: Vec<u8>) -> Self {
        Self {
            id,
            sequencer,
            entries: Vec::new(),
            head: id.to_bytes(),
            genesis,
            pending: VecDeque::new(),
            connections: BTreeMap::new(),
            present: BTreeMap::new(),
            rates: BTreeMap::new(),
            post: Post::default(),
        }
    }

    fn settle(&mut self, entry: &Entry) {
        self.entries.push(entry.encode());
        self.head = entry.hash();
    }

    /// Orders a record, unless it is ordered already.
    pub(crate) fn append(
        &mut self,
        unix: u64,
        record: &[u8],
        ticket: Ticket,
        asker: ConnectionId,
    ) -> Result<Sequenced, Rejection> {
        match self.sequencer.prepare(unix, record)? {
            Placed::Existing(entry) => {
                let underway = self.pending.iter_mut().find(|pending| pending.entry.sequence == entry.sequence);
                Ok(match underway {
                    Some(pending) => {
                        pending.askers.push(asker);
                        Sequenced::Underway
                    }
                    None => Sequenced::Known(entry.sequence),
                })
            }
            Placed::New(entry) => {
                self.sequencer.apply(&entry).expect("an entry made for the log's end continues it");
                let (sequence, encoded) = (entry.sequence, entry.encode());
                self.pending.push_back(Pending { ticket, entry, askers: vec![asker] });
                Ok(Sequenced::New { sequence, entry: encoded })
            }
        }
    }

    /// Whether as much is on its way to the disk as may be.
    pub(crate) fn is_congested(&self) -> bool {
        self.pending.len() >= MAX_PENDING
    }

    /// The oldest entry on its way reached the disk; `None` where `ticket` names another.
    pub(crate) fn advance(&mut self, ticket: Ticket) -> Option<Advance> {
        if self.pending.front()?.ticket != ticket {
            return None;
        }
        let Pending { entry, askers, .. } = self.pending.pop_front()?;
        self.settle(&entry);
        Some(Advance { sequence: entry.sequence, entry: entry.encode(), askers })
    }

    /// Forgets what is on its way to the disk; returns who asked for it.
    pub(crate) fn roll_back(&mut self, key: SigningKey) -> Vec<ConnectionId> {
        let entries: Vec<Entry> = self
            .entries
            .iter()
            .map(|encoded| Entry::decode(encoded).expect("settled entries are our own encoding"))
            .collect();
        self.sequencer = Sequencer::resume(key, self.id, &entries).expect("settled entries were applied before");
        self.pending.drain(..).flat_map(|pending| pending.askers).collect()
    }

    /// Entries from `from` on, as many as fit into one message.
    pub(crate) fn fetch(&self, from: u64) -> Vec<Vec<u8>> {
        let start = usize::try_from(from).unwrap_or(usize::MAX);
        let mut room = MAX_MESSAGE - ENTRIES_OVERHEAD;
        let mut chunk = Vec::new();
        for entry in self.entries.iter().skip(start) {
            let Some(left) = room.checked_sub(entry.len() + ENTRY_OVERHEAD) else { break };
            room = left;
            chunk.push(entry.clone());
        }
        chunk
    }

    /// Whether the record is the one that founded the network.
    pub(crate) fn is_genesis(&self, record: &[u8]) -> bool {
        self.genesis == record
    }

    /// The end of what is on disk.
    pub(crate) fn head(&self) -> Head {
        Head { length: self.length(), hash: self.head }
    }

    pub(crate) fn length(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(crate) const fn id(&self) -> NetworkId {
        self.id
    }

    /// How a key stands.
    pub(crate) fn key_state(&self, key: &MemberKey) -> KeyState {
        let state = self.sequencer.state();
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
        match self.sequencer.state().invite(invite) {
            None => InviteState::Unknown,
            Some(info) => match info.standing {
                InviteStanding::Void => InviteState::Unknown,
                InviteStanding::Used(_) => InviteState::Used,
                InviteStanding::Open if unix >= info.expires => InviteState::Expired,
                InviteStanding::Open => InviteState::Open,
            },
        }
    }

    /// Notes a connection; returns the one that it replaces.
    pub(crate) fn enter(&mut self, conn: ConnectionId, key: MemberKey, standing: Standing) -> Option<ConnectionId> {
        self.connections.insert(conn, key);
        match standing {
            Standing::Joiner => None,
            Standing::Member | Standing::Founder | Standing::Admin => {
                self.present.insert(key, conn).filter(|older| *older != conn)
            }
        }
    }

    /// Forgets a connection.
    pub(crate) fn leave(&mut self, conn: ConnectionId, key: &MemberKey) {
        self.connections.remove(&conn);
        if self.present.get(key) == Some(&conn) {
            self.present.remove(key);
        }
    }

    /// Everybody who proved a key of this network, joiners included.
    pub(crate) fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.connections.keys().copied()
    }

    /// The newest connection of a key.
    pub(crate) fn connection_of(&self, key: &MemberKey) -> Option<ConnectionId> {
        self.present.get(key).copied()
    }

    /// Takes one piece of mail out of `account`'s rate.
    pub(crate) fn charge_mail(&mut self, now: Instant, account: Account, limits: &Limits) -> Taken {
        self.rates(now, account, limits).mail.take(now)
    }

    /// Takes one append out of `account`'s rate.
    pub(crate) fn charge_append(&mut self, now: Instant, account: Account, limits: &Limits) -> Taken {
        self.rates(now, account, limits).appends.take(now)
    }

    fn rates(&mut self, now: Instant, account: Account, limits: &Limits) -> &mut Rates {
        let fresh = |rate: Rate| Bucket::new(now, rate);
        self.rates.entry(account).or_insert_with(|| Rates { mail: fresh(limits.mail), appends: fresh(limits.appends) })
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
        self.rates.retain(|_, rates| !(rates.mail.is_full(now) && rates.appends.is_full(now)));
        !self.post.is_empty() || !self.rates.is_empty()
    }
}

/// Entries of one network on their way to the disk.
const MAX_PENDING: usize = 256;

/// Version, variant, first sequence, count, head: at most this many bytes.
const ENTRIES_OVERHEAD: usize = 64;
/// The length before one entry.
const ENTRY_OVERHEAD: usize = 3;
