//! One signaling server of the world, and its disk.

use std::collections::BTreeMap;

use ginnel_membership::SigningKey;
use ginnel_signal_proto::Server as Signal;
use ginnel_signal_proto::server::{Change, LinkId, Stored};

use super::relay::Relay;
use crate::io::ServerId;

/// Who is at the other end of a server's connection.
#[derive(Clone, Copy)]
pub(super) enum End {
    /// A machine's stream: its link and the link's serial.
    Machine(usize, ServerId, u64),
    Host(usize, LinkId),
}

/// What a server's disk says of what it is to write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    Durable,
    /// Nothing, ever.
    Unanswered,
}

pub(crate) struct Host {
    pub(super) signal: Option<Signal>,
    pub(crate) key: SigningKey,
    pub(super) noise: [u8; 32],
    pub(super) token: [u8; 16],
    pub(crate) disk: Stored,
    /// Connections by number: machine, its link, the link's serial.
    pub(super) lines: BTreeMap<u64, End>,
    /// Links to fellow servers: which one, and the number of the connection there.
    pub(super) links: BTreeMap<u64, (usize, u64)>,
    pub(super) starts: u8,
    pub(crate) writes: Writes,
    /// Seconds by which the wall clock is wrong.
    pub(crate) ahead: i64,
    /// Whether it sees machines by their addresses behind the NATs.
    pub(crate) sees_lan: bool,
    pub(crate) relay: Option<Relay>,
}

impl Host {
    pub(super) fn keep(&mut self, change: Change) {
        match change {
            Change::Found { network, token, entry } => {
                self.disk.logs.push((network, vec![entry]));
                for (known, usage) in &mut self.disk.tokens {
                    if *known == token {
                        *usage = Some(network);
                    }
                }
            }
            Change::Append { network, sequence, entry } => {
                let log = self.disk.logs.iter_mut().find(|(id, _)| *id == network);
                let log = match log {
                    Some((_, log)) => log,
                    None => {
                        self.disk.logs.push((network, Vec::new()));
                        &mut self.disk.logs.last_mut().expect("just pushed").1
                    }
                };
                assert_eq!(log.len() as u64, sequence, "a log has no gap");
                log.push(entry);
            }
            Change::Mend { .. } | Change::Cut { .. } => panic!("{change:?}: the disk is sound"),
            Change::Spend { network, token } => {
                for (known, usage) in &mut self.disk.tokens {
                    if *known == token {
                        *usage = Some(network);
                    }
                }
            }
            Change::Adopt { network, token, genesis } => {
                self.disk.adopted.push((network, genesis));
                for (known, usage) in &mut self.disk.tokens {
                    if *known == token {
                        *usage = Some(network);
                    }
                }
            }
        }
    }
}
