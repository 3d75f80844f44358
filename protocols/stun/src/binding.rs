//! Binding transactions from several sockets to several servers.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use crate::codec::{Builder, Class, Malformed, Message, Method, TransactionId};

/// How requests are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Wait before the first repetition; each further wait is twice the last (RFC 8489 §6.2.1).
    pub first_rto: Duration,
    /// Requests sent before a transaction fails, the first included (Rc).
    pub attempts: u8,
}

impl Default for Config {
    /// 100 ms and 7 requests: an answer that no packet was lost for is in hand before a person notices, and a dead
    /// server is known after 7.9 s. RFC 8489 recommends 500 ms, for paths whose round trip is not known to be shorter;
    /// a repetition that was not needed costs 92 bytes.
    fn default() -> Self {
        Self { first_rto: Duration::from_millis(100), attempts: 7 }
    }
}

/// What happens to a [`BindingClient`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Ask `server` from `socket`; while the same question is open this changes nothing.
    Query {
        /// The socket to ask from.
        socket: u16,
        /// The server to ask.
        server: SocketAddr,
    },
    /// A datagram for which [`is_stun`](crate::is_stun) holds arrived.
    Received {
        /// The socket that it arrived on.
        socket: u16,
        /// Its source.
        from: SocketAddr,
        /// Its bytes.
        bytes: Vec<u8>,
    },
}

/// What a [`BindingClient`] wants done, or has found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send these bytes.
    Send {
        /// The socket to send from.
        socket: u16,
        /// Where to.
        to: SocketAddr,
        /// One STUN message.
        bytes: Vec<u8>,
    },
    /// The server saw this address.
    Mapped {
        /// The socket that asked.
        socket: u16,
        /// The server that answered.
        server: SocketAddr,
        /// The address that it saw.
        mapped: SocketAddr,
    },
    /// The server did not answer, or refused.
    Failed {
        /// The socket that asked.
        socket: u16,
        /// The server that was asked.
        server: SocketAddr,
    },
}

/// Why an [`Input`] had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Discard {
    /// The bytes are not one whole message.
    #[error("malformed message")]
    Malformed(#[from] Malformed),
    /// The message is no answer to a Binding request.
    #[error("not an answer to a Binding request")]
    NotAnAnswer,
    /// No open transaction has this id.
    #[error("no such transaction")]
    UnknownTransaction,
    /// The answer came from another address, or to another socket, than was asked.
    #[error("answer from an address or to a socket that was not asked")]
    WrongSource,
    /// A success without a usable XOR-MAPPED-ADDRESS.
    #[error("answer without a usable address")]
    NoAddress,
    /// [`MAX_TRANSACTIONS`] are open; the query was refused.
    #[error("too many open transactions")]
    TooManyTransactions,
}

/// Most transactions that may be open at once; further queries are refused.
pub const MAX_TRANSACTIONS: usize = 256;

/// Bytes in a request: at least what the largest answer takes.
pub const REQUEST_LEN: usize = crate::MAX_ANSWER_LEN;

/// Asks STUN servers for the addresses that they see.
///
/// An answer counts only if it came from the server that was asked, to the socket that asked, with the transaction's
/// id. An answer is not authenticated: it is a hint, and a caller compares several servers.
#[derive(Debug)]
pub struct BindingClient {
    config: Config,
    rng: ChaCha20Rng,
    now: Instant,
    transactions: BTreeMap<TransactionId, Transaction>,
    /// At most one `Send` and one result per transaction and call: bounded by [`MAX_TRANSACTIONS`] between drains of a
    /// driver that keeps the contract, and by [`MAX_OUTPUTS`] for one that does not.
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
struct Transaction {
    socket: u16,
    server: SocketAddr,
    bytes: Vec<u8>,
    sent: u8,
    wait: Duration,
    deadline: Instant,
}

impl BindingClient {
    /// Makes a client without transactions; `seed` decides the transaction ids and must not be guessable.
    pub fn new(seed: [u8; 32], config: Config) -> Self {
        Self {
            config,
            rng: ChaCha20Rng::from_seed(seed),
            now: Instant::ZERO,
            transactions: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes a query or a datagram.
    ///
    /// # Errors
    /// [`Discard`] says why the input had no effect.
    pub fn handle_input(&mut self, now: Instant, input: Input) -> Result<(), Discard> {
        self.now = self.now.max(now);
        match input {
            Input::Query { socket, server } => self.query(socket, server),
            Input::Received { socket, from, bytes } => self.receive(socket, from, &bytes),
        }
    }

    /// Repeats requests that are due and gives up those that were repeated enough.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let due: Vec<TransactionId> =
            self.transactions.iter().filter(|(_, open)| open.deadline <= self.now).map(|(id, _)| *id).collect();
        for id in due {
            self.fire(id);
        }
    }

    /// Gives the next thing to do; `None` once all is given.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is due; the last `now` while output waits.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.outputs.is_empty() {
            return Some(self.now);
        }
        self.transactions.values().map(|open| open.deadline).min()
    }

    /// How many questions are open.
    pub fn open(&self) -> usize {
        self.transactions.len()
    }

    fn query(&mut self, socket: u16, server: SocketAddr) -> Result<(), Discard> {
        if self.transactions.values().any(|open| open.socket == socket && open.server == server) {
            return Ok(());
        }
        if self.transactions.len() >= MAX_TRANSACTIONS || self.outputs.len() >= MAX_OUTPUTS {
            return Err(Discard::TooManyTransactions);
        }
        let mut id = TransactionId([0; 12]);
        self.rng.fill_bytes(&mut id.0);
        let bytes = Builder::new(Class::Request, Method::Binding, id)
            .pad_to(REQUEST_LEN)
            .encode()
            .expect("a padded Binding request always fits");
        self.outputs.push_back(Output::Send { socket, to: server, bytes: bytes.clone() });
        let wait = self.config.first_rto.max(MIN_RTO);
        let deadline = self.now + wait;
        self.transactions.insert(id, Transaction { socket, server, bytes, sent: 1, wait, deadline });
        Ok(())
    }

    fn receive(&mut self, socket: u16, from: SocketAddr, bytes: &[u8]) -> Result<(), Discard> {
        let answer = Message::decode(bytes)?;
        let succeeded = match (answer.class(), answer.method()) {
            (Class::Success, Method::Binding) => true,
            (Class::Error, Method::Binding) => false,
            _ => return Err(Discard::NotAnAnswer),
        };
        let open = self.transactions.get(&answer.transaction()).ok_or(Discard::UnknownTransaction)?;
        if open.socket != socket || open.server != from {
            return Err(Discard::WrongSource);
        }
        let server = open.server;
        let output = if succeeded {
            let mapped = answer.xor_mapped_address().filter(usable).ok_or(Discard::NoAddress)?;
            Output::Mapped { socket, server, mapped }
        } else {
            Output::Failed { socket, server }
        };
        self.transactions.remove(&answer.transaction());
        self.outputs.push_back(output);
        Ok(())
    }

    fn fire(&mut self, id: TransactionId) {
        let Some(open) = self.transactions.get_mut(&id) else { return };
        if open.sent < self.config.attempts {
            open.sent += 1;
            open.wait = if open.sent == self.config.attempts {
                // Rm of RFC 8489 §6.2.1: the last wait is 16 times the first.
                self.config.first_rto.max(MIN_RTO).saturating_mul(16)
            } else {
                open.wait.saturating_mul(2)
            };
            open.deadline = self.now + open.wait;
            let (socket, to, bytes) = (open.socket, open.server, open.bytes.clone());
            self.outputs.push_back(Output::Send { socket, to, bytes });
        } else if let Some(open) = self.transactions.remove(&id) {
            self.outputs.push_back(Output::Failed { socket: open.socket, server: open.server });
        }
    }
}

fn usable(mapped: &SocketAddr) -> bool {
    mapped.port() != 0 && !mapped.ip().is_unspecified() && !mapped.ip().is_multicast()
}

/// A wait of nothing would let a misconfigured client spin.
const MIN_RTO: Duration = Duration::from_millis(10);
/// A driver that never drains gets no further queries in.
const MAX_OUTPUTS: usize = 4 * MAX_TRANSACTIONS;

#[cfg(test)]
mod tests;
