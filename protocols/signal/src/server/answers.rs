//! Answers to appends, in the order in which each connection asked.

use std::collections::{BTreeMap, VecDeque};

use super::ConnectionId;
use crate::message::ServerMessage;

/// Appends that wait for their answers.
///
/// A record that the log refuses is answered at once, one that it takes only after the disk: without a queue the second
/// of two appends could be answered first, and the client would take the answer for the first one's.
#[derive(Default)]
pub(crate) struct Answers {
    waiting: BTreeMap<ConnectionId, VecDeque<(u64, Option<ServerMessage>)>>,
    next: u64,
}

/// Who waits for the fate of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A client that asked to append.
    Client { conn: ConnectionId, turn: u64 },
    /// A mirror that handed the record on.
    Mirror { conn: ConnectionId, number: u64 },
}

impl Answers {
    /// Notes one more append of a connection.
    pub(crate) fn ask(&mut self, conn: ConnectionId) -> Asker {
        let turn = self.next;
        self.next += 1;
        self.waiting.entry(conn).or_default().push_back((turn, None));
        Asker::Client { conn, turn }
    }

    /// Takes the answer of one append; returns the answers that may go out.
    pub(crate) fn give(&mut self, conn: ConnectionId, turn: u64, answer: ServerMessage) -> Vec<ServerMessage> {
        let Some(queue) = self.waiting.get_mut(&conn) else { return Vec::new() };
        if let Some((_, slot)) = queue.iter_mut().find(|(known, _)| *known == turn) {
            *slot = Some(answer);
        }
        let mut ready = Vec::new();
        while let Some((_, Some(_))) = queue.front() {
            ready.extend(queue.pop_front().and_then(|(_, answer)| answer));
        }
        if queue.is_empty() {
            self.waiting.remove(&conn);
        }
        ready
    }

    /// How many appends of a connection wait.
    pub(crate) fn of(&self, conn: ConnectionId) -> usize {
        self.waiting.get(&conn).map_or(0, VecDeque::len)
    }

    /// Forgets a connection.
    pub(crate) fn forget(&mut self, conn: ConnectionId) {
        self.waiting.remove(&conn);
    }
}

/// Appends of one connection that wait at once; one more ends the connection.
pub(crate) const MAX_WAITING_APPENDS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(sequence: u64) -> ServerMessage {
        ServerMessage::Appended { sequence }
    }

    #[test]
    fn answers_leave_in_the_order_of_the_questions() {
        let mut answers = Answers::default();
        let conn = ConnectionId(1);
        let turns: Vec<u64> = (0..3)
            .map(|_| match answers.ask(conn) {
                Asker::Client { turn, .. } => turn,
                Asker::Mirror { .. } => panic!("a client asked"),
            })
            .collect();
        assert!(answers.give(conn, turns[2], answer(2)).is_empty());
        assert_eq!(answers.give(conn, turns[0], answer(0)), [answer(0)]);
        assert_eq!(answers.give(conn, turns[1], answer(1)), [answer(1), answer(2)]);
        assert_eq!(answers.of(conn), 0);
        assert!(answers.give(conn, turns[1], answer(1)).is_empty(), "an answer goes out once");
    }
}
