//! Rollback detection: what tells a server that was merely killed from one whose disk was set back.
//!
//! While a server may order a log, it has its driver remember the log's end in a place that a disk restored from an earlier
//! time does not bring back: [`Output::Witness`], which comes out before anything else that follows from a new entry. The
//! next start is told what was remembered, [`Stored::witnessed`](super::Stored::witnessed), and compares it with the disk:
//!
//! | what was remembered | what it means | what follows |
//! |---|---|---|
//! | nothing | nothing is known | the whole pause |
//! | an end that the log on disk has, or goes beyond | the disk holds all that this server ever let out | no pause; with fellow servers, until every one has spoken, since one may have taken over meanwhile |
//! | an end that the log on disk does not have | the disk was set back | appends are refused until the entries are back, or ten minutes are over |
//! | an end of a log that is not on the disk at all, or only up to a time when another server ordered it | the log is lost | the same, once enough of the log is back to name this server as the one that orders it |
//!
//! Nothing is remembered of a log that this server may not order: not during the pause, so that a second start in it does
//! not take the disk for whole, and not once the log was moved away, by whomever. An end that the disk does not have stays
//! remembered until it has it, or until this server goes on without it.

use ginnel_membership::NetworkId;

use super::log::{Log, Role};
use super::network::Course;
use super::{Output, Server};
use crate::message::Head;

/// What a log's disk is by what was remembered of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    /// It may have been set back.
    Unknown,
    /// It holds all that this server has let out.
    Whole,
    /// It has lost entries.
    SetBack,
}

impl Disk {
    pub(super) fn judge(log: &Log, witnessed: Option<Head>) -> Self {
        match witnessed {
            None => Self::Unknown,
            Some(Head { length, hash }) if length <= log.length() && log.state().head_at(length) == Some(hash) => {
                Self::Whole
            }
            Some(_) => Self::SetBack,
        }
    }
}

impl Server {
    /// Has the driver remember how far this server has ordered a log, or that it does not order it.
    pub(super) fn remember_head(&mut self, id: NetworkId) {
        if self.vanished.contains_key(&id) {
            return;
        }
        let Some(network) = self.networks.get_mut(&id).filter(|network| network.settling.is_none()) else { return };
        let orders = network.log.role() == Role::Sequencer && network.course != Course::Moved;
        let head = orders.then(|| network.log.head());
        if network.witnessed != head {
            network.witnessed = head;
            self.lines.emit(Output::Witness { network: id, head });
        }
    }

    /// Has the driver forget what it remembers of a log: entries came to light that the disk has lost.
    pub(super) fn forget_head(&mut self, id: NetworkId) {
        if let Some(network) = self.networks.get_mut(&id)
            && network.witnessed.take().is_some()
        {
            self.lines.emit(Output::Witness { network: id, head: None });
        }
    }
}
