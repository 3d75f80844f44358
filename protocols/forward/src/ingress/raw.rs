//! Datagrams that wait for node unopened.

use std::collections::VecDeque;
use std::net::SocketAddr;

use ginnel_path::{Path, SocketId};

use crate::config::{HANDSHAKE_QUEUE, STUN_QUEUE};
use crate::counters::Discard;
use crate::event::Event;

/// Handshakes and STUN messages, each with a bound of its own and taken by turns: anybody can send either, and a flood
/// of one kind must not cost the other.
#[derive(Default)]
pub(super) struct RawQueues {
    handshakes: VecDeque<(Path, Vec<u8>)>,
    stun: VecDeque<(SocketId, SocketAddr, Vec<u8>)>,
    turn: Turn,
}

#[derive(Clone, Copy, Default)]
enum Turn {
    #[default]
    Handshake,
    Stun,
}

impl RawQueues {
    pub(super) fn push_handshake(&mut self, path: Path, bytes: &[u8]) -> Result<(), Discard> {
        if self.handshakes.len() >= HANDSHAKE_QUEUE {
            return Err(Discard::RawFull);
        }
        self.handshakes.push_back((path, bytes.to_vec()));
        Ok(())
    }

    pub(super) fn push_stun(&mut self, socket: SocketId, from: SocketAddr, bytes: &[u8]) -> Result<(), Discard> {
        if self.stun.len() >= STUN_QUEUE {
            return Err(Discard::RawFull);
        }
        self.stun.push_back((socket, from, bytes.to_vec()));
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        match self.turn {
            Turn::Handshake => self.pop_handshake().or_else(|| self.pop_stun()),
            Turn::Stun => self.pop_stun().or_else(|| self.pop_handshake()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.handshakes.is_empty() && self.stun.is_empty()
    }

    fn pop_handshake(&mut self) -> Option<Event> {
        let (path, bytes) = self.handshakes.pop_front()?;
        self.turn = Turn::Stun;
        Some(Event::Handshake { path, bytes })
    }

    fn pop_stun(&mut self) -> Option<Event> {
        let (socket, from, bytes) = self.stun.pop_front()?;
        self.turn = Turn::Handshake;
        Some(Event::Stun { socket, from, bytes })
    }
}
