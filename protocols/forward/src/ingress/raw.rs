//! Datagrams that wait for node unopened.

use std::collections::VecDeque;
use std::net::SocketAddr;

use ginnel_path::{Path, SocketId};

use crate::config::{COOKIE_QUEUE, HANDSHAKE_QUEUE, STUN_QUEUE};
use crate::counters::Discard;
use crate::event::Event;

/// Handshakes, cookie replies and STUN messages, each with a bound of its own and taken by turns: anybody can send any,
/// and a flood of one kind must not cost the others. A cookie reply has no mac1 that it could be refused by.
#[derive(Default)]
pub(super) struct RawQueues {
    handshakes: VecDeque<(Path, Vec<u8>)>,
    cookies: VecDeque<(Path, Vec<u8>)>,
    stun: VecDeque<(SocketId, SocketAddr, Vec<u8>)>,
    turn: Turn,
}

#[derive(Clone, Copy, Default)]
enum Turn {
    #[default]
    Handshake,
    Stun,
    Cookie,
}

impl RawQueues {
    pub(super) fn push_handshake(&mut self, path: Path, bytes: &[u8]) -> Result<(), Discard> {
        push(&mut self.handshakes, HANDSHAKE_QUEUE, || (path, bytes.to_vec()))
    }

    pub(super) fn push_cookie(&mut self, path: Path, bytes: &[u8]) -> Result<(), Discard> {
        push(&mut self.cookies, COOKIE_QUEUE, || (path, bytes.to_vec()))
    }

    pub(super) fn push_stun(&mut self, socket: SocketId, from: SocketAddr, bytes: &[u8]) -> Result<(), Discard> {
        push(&mut self.stun, STUN_QUEUE, || (socket, from, bytes.to_vec()))
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        match self.turn {
            Turn::Handshake => self.pop_handshake().or_else(|| self.pop_stun()).or_else(|| self.pop_cookie()),
            Turn::Stun => self.pop_stun().or_else(|| self.pop_cookie()).or_else(|| self.pop_handshake()),
            Turn::Cookie => self.pop_cookie().or_else(|| self.pop_handshake()).or_else(|| self.pop_stun()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.handshakes.is_empty() && self.cookies.is_empty() && self.stun.is_empty()
    }

    fn pop_handshake(&mut self) -> Option<Event> {
        let (path, bytes) = self.handshakes.pop_front()?;
        self.turn = Turn::Stun;
        Some(Event::Handshake { path, bytes })
    }

    fn pop_stun(&mut self) -> Option<Event> {
        let (socket, from, bytes) = self.stun.pop_front()?;
        self.turn = Turn::Cookie;
        Some(Event::Stun { socket, from, bytes })
    }

    fn pop_cookie(&mut self) -> Option<Event> {
        let (path, bytes) = self.cookies.pop_front()?;
        self.turn = Turn::Handshake;
        Some(Event::Handshake { path, bytes })
    }
}

/// Appends to a queue that holds `bound` at most.
fn push<T>(queue: &mut VecDeque<T>, bound: usize, item: impl FnOnce() -> T) -> Result<(), Discard> {
    if queue.len() >= bound {
        return Err(Discard::RawFull);
    }
    queue.push_back(item());
    Ok(())
}
