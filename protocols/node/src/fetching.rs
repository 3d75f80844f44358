//! Bringing a server's log here, a newcomer's from its newest checkpoint on, and ours to a server that has less.

use std::time::Duration;

use ginnel_membership::state::Comparison;
use ginnel_signal_proto::server::{MAX_REFILL, SNAPSHOT_PIECE};
use ginnel_signal_proto::{ClientMessage, Head};
use ginnel_time::Instant;

use crate::Discard;
use crate::guise::Guise;
use crate::io::ServerId;
use crate::link::{LinkStatus, ServerLog};
use crate::network::Network;
use crate::networks::NetworkNumber;
use crate::node::Node;
use crate::saved::Stage;
use crate::tail::Tail;

/// A snapshot on its way here.
#[derive(Debug)]
pub(crate) struct Download {
    /// When the server has to have sent [`STRIDE`] bytes more.
    pub(crate) deadline: Instant,
    /// What it had sent when the deadline was last moved.
    counted: u64,
    /// The entry of its checkpoint, once the first piece is here.
    entry: Vec<u8>,
    bytes: Vec<u8>,
    total: u64,
    /// The first byte that is not asked for yet.
    asked: u64,
    /// How often it began anew because a newer checkpoint came in between.
    restarts: u8,
}

impl Download {
    fn new(now: Instant, restarts: u8) -> Self {
        Self {
            deadline: now + STRIDE_TIME,
            counted: 0,
            entry: Vec::new(),
            bytes: Vec::new(),
            total: 0,
            asked: SNAPSHOT_PIECE as u64,
            restarts,
        }
    }
}

/// One piece of a snapshot.
pub(crate) struct Piece {
    pub(crate) entry: Vec<u8>,
    pub(crate) total: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: Vec<u8>,
}

impl Node {
    /// Asks a server that has let us in for its log; one that holds a checkpoint, for that when we have nothing.
    pub(crate) fn begin_fetch(&mut self, now: Instant, id: ServerId) {
        let Some(network) = self.networks.owner_mut(id) else { return };
        let from = network.state.head().0;
        let founding = matches!(network.saved.stage, Stage::Founding { .. });
        let busy = network.links.values().any(|link| link.download.is_some());
        let Some(link) = network.links.get_mut(&id) else { return };
        if from > 0 || founding || link.checkpoint.is_none() {
            link.say(now, ClientMessage::Fetch { from });
        } else if !busy {
            link.download = Some(Download::new(now, 0));
            link.say(now, ClientMessage::FetchSnapshot { offset: 0 });
        }
    }

    /// Takes a piece of a snapshot and asks for further ones; several are under way at a time.
    pub(crate) fn take_piece(&mut self, now: Instant, id: ServerId, piece: Piece) {
        let Some(link) = self.networks.link_mut(id) else { return };
        let Some(download) = &mut link.download else { return self.counters.count(Discard::BadServerMessage) };
        if piece.offset == 0 && download.bytes.is_empty() {
            (download.entry, download.total) = (piece.entry, piece.total);
        } else if piece.entry != download.entry {
            let restarts = download.restarts + 1;
            if restarts > MAX_RESTARTS {
                return self.end_download(now, id, Some("the server keeps changing its checkpoint".to_owned()));
            }
            *download = Download { deadline: download.deadline, ..Download::new(now, restarts) };
            return link.say(now, ClientMessage::FetchSnapshot { offset: 0 });
        }
        let length = download.bytes.len() as u64;
        if piece.offset != length {
            // Asked for before the download began anew.
            return;
        }
        let fits = download.total <= MAX_SNAPSHOT && length + piece.bytes.len() as u64 <= download.total;
        if !fits || piece.bytes.is_empty() {
            return self.end_download(now, id, Some("the server's snapshot is not what it says".to_owned()));
        }
        download.bytes.extend_from_slice(&piece.bytes);
        let length = download.bytes.len() as u64;
        if length == download.total {
            return self.finish_download(now, id);
        }
        if length - download.counted >= STRIDE {
            (download.counted, download.deadline) = (length, now + STRIDE_TIME);
        }
        // Pieces of another length than the usual are asked for one by one.
        let usual = piece.bytes.len() == SNAPSHOT_PIECE;
        let end = if usual { download.total.min(length + WINDOW) } else { length + 1 };
        let mut asks = Vec::new();
        if !usual {
            download.asked = length;
        }
        while download.asked < end {
            asks.push(download.asked);
            download.asked += SNAPSHOT_PIECE as u64;
        }
        for offset in asks {
            link.say(now, ClientMessage::FetchSnapshot { offset });
        }
    }

    fn finish_download(&mut self, now: Instant, id: ServerId) {
        let Some(network) = self.networks.owner_mut(id) else { return };
        let Some(download) = network.links.get_mut(&id).and_then(|link| link.download.take()) else { return };
        if network.state.head().0 > 0 {
            return self.end_download(now, id, None);
        }
        match network.start_at(&download.bytes, &download.entry) {
            Ok(()) => {
                let length = network.stored_from;
                let at = network.number;
                self.store_snapshot(at, length, download.bytes, download.entry, Vec::new());
                if self.networks.settle_title(at) {
                    self.persist();
                }
                let revoked = self.retry_revocations(at);
                self.drop_ordered_revocations(at, &[]);
                self.sync_members(at);
                self.revoked_here(now, at, &revoked);
                self.end_download(now, id, None);
            }
            Err(error) => self.end_download(now, id, Some(format!("the server's snapshot does not verify: {error}"))),
        }
    }

    /// Gives up a download that does not come forward, so that another server may help.
    pub(crate) fn download_timeout(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get(at) else { return };
        let late = network.links.iter().filter(|(_, link)| link.download.as_ref().is_some_and(|it| it.deadline <= now));
        for id in late.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.end_download(now, id, Some("the server does not send its snapshot".to_owned()));
        }
    }

    /// Every server is asked for what follows; after a failure, for the whole log.
    fn end_download(&mut self, now: Instant, id: ServerId, trouble: Option<String>) {
        let Some(network) = self.networks.owner_mut(id) else { return };
        let at = network.number;
        if let Some(link) = network.links.get_mut(&id) {
            link.download = None;
            if trouble.is_some() {
                self.counters.count(Discard::BadServerMessage);
                link.checkpoint = None;
                link.trouble = trouble;
            }
        }
        self.fetch_from_all(now, at);
    }

    /// Asks every server for what we lack: a download has come to its end.
    pub(crate) fn fetch_from_all(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get(at) else { return };
        for id in network.serving().map(|(id, _)| id).collect::<Vec<_>>() {
            self.begin_fetch(now, id);
        }
    }

    /// Notes the end of a server's log. The sequencer is handed what it lacks at once, before it can put anything else into
    /// those places, and so is a server to which the link is new; a mirror after a moment, since it may just be slow. As
    /// long as it takes what it is handed, it gets more.
    pub(crate) fn note_head(&mut self, now: Instant, id: ServerId, head: Head) {
        let Some(network) = self.networks.owner_mut(id) else { return };
        let behind = head.length < network.state.head().0
            && (head.length == 0 || network.state.compare(head.length, head.hash) != Comparison::Fork);
        let (member, sequencer) = (network.is_member(), network.state.sequencer());
        let Some(link) = network.links.get_mut(&id) else { return };
        let is_new = link.head.replace(head).is_none();
        link.note_log(now, if behind { ServerLog::Behind } else { ServerLog::Level });
        if !behind || !member {
            (link.refill, link.refilled) = (None, None);
            return;
        }
        let urgent = is_new || Some(link.server.keys.sequencer()) == sequencer;
        let due = match link.refilled {
            Some(first) if head.length > first => now,
            Some(_) => now + REFILL_AGAIN,
            None if urgent => now,
            None => now + REFILL_AFTER,
        };
        link.refill = Some(link.refill.map_or(due, |at| at.min(due)));
    }

    /// Hands entries to the servers that still lack them.
    pub(crate) fn refill_timeout(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let own = network.state.head().0;
        let mut vain = Vec::new();
        for (id, link) in &mut network.links {
            if link.refill.take_if(|at| *at <= now).is_none() || link.status != LinkStatus::Up {
                continue;
            }
            let Some(first) = link.head.map(|head| head.length).filter(|length| *length < own) else { continue };
            let Some(entries) = handful(&network.tail, first) else {
                link.trouble = Some(format!("the server has lost entries: it shows {first} of {own}"));
                continue;
            };
            link.vain_refills = if link.refilled == Some(first) { link.vain_refills.saturating_add(1) } else { 0 };
            if link.guise == Guise::Admin && link.vain_refills >= MAX_REFILLS {
                vain.push(*id);
                continue;
            }
            tracing::info!(first, entries = entries.len(), "handing a server what it lacks");
            link.refilled = Some(first);
            link.refill = Some(now + REFILL_AGAIN);
            link.say(now, ClientMessage::Refill { first, entries });
        }
        for id in vain {
            self.give_up_as_admin(now, id);
        }
    }
}

impl Network {
    /// Entries from sequence `first` on, as many as one message takes; `None` where they are not here any more.
    pub(crate) fn refill_from(&self, first: u64) -> Option<Vec<Vec<u8>>> {
        handful(&self.tail, first)
    }
}

fn handful(tail: &Tail, first: u64) -> Option<Vec<Vec<u8>>> {
    let mut room = MAX_REFILL;
    let fits = |entry: &&[u8]| {
        let left = room.checked_sub(entry.len() + 3);
        room = left.unwrap_or(0);
        left.is_some()
    };
    Some(tail.from(first)?.take_while(fits).map(<[u8]>::to_vec).collect())
}

/// Bytes of a snapshot at most.
const MAX_SNAPSHOT: u64 = 64 << 20;
/// Bytes of a snapshot under way at a time: well below what a server keeps for a slow client before it cuts it off.
const WINDOW: u64 = 6 * SNAPSHOT_PIECE as u64;
const MAX_RESTARTS: u8 = 3;
/// A server has to send so many bytes of a snapshot,
const STRIDE: u64 = 64 << 10;
/// in this time.
const STRIDE_TIME: Duration = Duration::from_secs(10);
/// How long a mirror may be behind before it is helped.
const REFILL_AFTER: Duration = Duration::from_secs(3);
/// Between two handfuls without an answer.
const REFILL_AGAIN: Duration = Duration::from_secs(15);
/// So often one handful is handed to a server that knows this machine by its bare key alone.
const MAX_REFILLS: u8 = 4;
