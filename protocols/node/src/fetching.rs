//! Bringing a server's log here, a newcomer's from its newest checkpoint on, and ours to a server that has less.

use std::time::Duration;

use ginnel_membership::state::Comparison;
use ginnel_signal_proto::server::{MAX_REFILL, SNAPSHOT_PIECE};
use ginnel_signal_proto::{ClientMessage, Head};
use ginnel_time::Instant;

use crate::Discard;
use crate::io::ServerId;
use crate::link::LinkStatus;
use crate::networks::NetworkNumber;
use crate::node::Node;
use crate::saved::Stage;

/// A snapshot on its way here.
#[derive(Debug, Default)]
pub(crate) struct Download {
    /// The entry of its checkpoint, once the first piece is here.
    entry: Vec<u8>,
    bytes: Vec<u8>,
    total: u64,
    /// The first byte that is not asked for yet.
    asked: u64,
    /// How often it began anew because a newer checkpoint came in between.
    restarts: u8,
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
            link.download = Some(Download { asked: SNAPSHOT_PIECE as u64, ..Download::default() });
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
            *download = Download { asked: SNAPSHOT_PIECE as u64, restarts, ..Download::default() };
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
                self.store_snapshot(at, download.bytes, download.entry, length);
                if self.networks.settle_title(at) {
                    self.persist();
                }
                self.sync_members(at);
                self.end_download(now, id, None);
            }
            Err(error) => self.end_download(now, id, Some(format!("the server's snapshot does not verify: {error}"))),
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
        let up = network.links.iter().filter(|(_, link)| link.status == LinkStatus::Up);
        for id in up.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.begin_fetch(now, id);
        }
    }

    /// Notes the end of a server's log. One that has less than we is helped after a moment: a mirror may just be slow.
    pub(crate) fn note_head(&mut self, now: Instant, id: ServerId, head: Head) {
        let Some(network) = self.networks.owner_mut(id) else { return };
        let behind = network.state.compare(head.length, head.hash) == Comparison::Behind;
        let member = network.is_member();
        let Some(link) = network.links.get_mut(&id) else { return };
        link.head = Some(head);
        if behind && member {
            link.refill.get_or_insert(now + REFILL_AFTER);
        } else {
            link.refill = None;
        }
    }

    /// Hands entries to the servers that still lack them.
    pub(crate) fn refill_timeout(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let own = network.state.head().0;
        for link in network.links.values_mut() {
            if link.refill.take_if(|at| *at <= now).is_none() || link.status != LinkStatus::Up {
                continue;
            }
            let Some(first) = link.head.map(|head| head.length).filter(|length| *length < own) else { continue };
            let Some(entries) = network.tail.from(first) else {
                link.trouble = Some(format!("the server has lost entries: it shows {first} of {own}"));
                continue;
            };
            let mut room = MAX_REFILL;
            let fits = |entry: &&[u8]| {
                let left = room.checked_sub(entry.len() + 3);
                room = left.unwrap_or(0);
                left.is_some()
            };
            let entries: Vec<Vec<u8>> = entries.take_while(fits).map(<[u8]>::to_vec).collect();
            tracing::info!(first, entries = entries.len(), "handing a server what it lacks");
            link.refill = Some(now + REFILL_AGAIN);
            link.say(now, ClientMessage::Refill { first, entries });
        }
    }
}

/// Bytes of a snapshot at most.
const MAX_SNAPSHOT: u64 = 64 << 20;
/// Bytes of a snapshot under way at a time: well below what a server keeps for a slow client before it cuts it off.
const WINDOW: u64 = 6 * SNAPSHOT_PIECE as u64;
const MAX_RESTARTS: u8 = 3;
/// How long a server may be behind before it is helped.
const REFILL_AFTER: Duration = Duration::from_secs(3);
/// Between two handfuls without an answer.
const REFILL_AGAIN: Duration = Duration::from_secs(15);
