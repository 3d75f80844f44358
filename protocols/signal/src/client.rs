//! The client's end of one connection.
//!
//! ```text
//! Idle ──Opened──> Handshaking ──answer──> Authenticating ──Welcome──> Ready
//!   any state ──closed, refused, bad bytes, 10 s without a welcome──> Broken
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use ginnel_membership::invite::Token;
use ginnel_membership::{NetworkId, ServerKeys, SigningKey};
use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use crate::auth::{self, SignedRole};
use crate::frame::{self, FrameReader, MAX_FRAME};
use crate::message::{
    Claim, ClientMessage, FoundingToken, Placing, Refusal, Request, ServerMessage, TooLong, VERSION, printable,
};
use crate::noise::{Channel, Initiator};

/// One connection to one server, from the opened stream to its end.
///
/// The driver opens a stream, hands in [`Input::Opened`], carries bytes both ways, and makes a new `Client` with a new
/// seed for the next connection.
pub struct Client {
    state: State,
    server: ServerKeys,
    network: NetworkId,
    reader: FrameReader,
    /// Messages that wait for the welcome; at most [`MAX_WAITING`], further ones are discarded.
    waiting: VecDeque<ClientMessage>,
    outputs: VecDeque<Output>,
    now: Instant,
}

/// Who the client proves to be.
#[expect(clippy::large_enum_variant, reason = "one lives as long as one handshake")]
pub enum Credentials {
    /// A member, or an admin that is no member.
    Member {
        /// Its signing key.
        key: SigningKey,
    },
    /// The holder of an invite. A joiner whose record is in the log already is welcomed as a member.
    Joiner {
        /// The key out of the invite.
        invite: SigningKey,
        /// The key that it makes a member.
        key: SigningKey,
    },
    /// The holder of a founding string.
    Founder {
        /// The token out of the founding string.
        token: Token,
        /// The first admin's key.
        key: SigningKey,
    },
    /// A server of the network.
    Mirror {
        /// The key by which it stands in the log's list of servers.
        key: SigningKey,
    },
}

/// What a client is told.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "inputs are taken at once")]
pub enum Input {
    /// The stream is open.
    Opened,
    /// Bytes from the stream, cut anywhere.
    Received(Vec<u8>),
    /// The stream or its connection ended.
    Closed,
    /// Says `message` to the server, after the welcome if there is none yet.
    Send(ClientMessage),
}

/// What a client wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Write these bytes to the stream.
    Write(Vec<u8>),
    /// The server proved itself and let the client in; its welcome follows as a message.
    Ready,
    /// The server said something.
    Message(ServerMessage),
    /// The connection is over and should be closed; nothing follows.
    Broken {
        /// Why.
        reason: Broken,
    },
}

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// The stream ended before the server proved itself: not a Ginnel server, or not the one with this key.
    #[error("the server closed during the handshake: it has another key, or is no Ginnel server")]
    HandshakeRefused,
    /// The server's answer does not verify: it has another key.
    #[error("the server does not hold the key that this network names")]
    WrongServer,
    /// The server let the client not in, or dismissed it.
    #[error("the server refuses: {text}")]
    Refused {
        /// Why, for programs.
        code: Refusal,
        /// Why, for people.
        text: String,
    },
    /// The stream ended.
    #[error("the server closed the connection")]
    Closed,
    /// No welcome in time.
    #[error("the server did not answer within {} s", HANDSHAKE_DEADLINE.as_secs())]
    TimedOut,
    /// The server speaks another version of the protocol.
    #[error("the server speaks version {0} of the protocol, this program version {VERSION}")]
    Version(u8),
    /// The server sent bytes that are no message.
    #[error("the server sent bytes that are no message")]
    Malformed,
    /// The server key in the invite is no key.
    #[error("the server key is not usable")]
    BadServerKey,
}

/// An input that a client could not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Discard {
    /// The connection is over.
    #[error("connection is over")]
    Broken,
    /// Bytes before the stream was opened, or a second opening.
    #[error("input out of order")]
    OutOfOrder,
    /// Bytes from the server that end the connection; [`Output::Broken`] says why.
    #[error("bytes from the server do not verify")]
    Untrusted,
    /// Too many messages wait for the welcome.
    #[error("too many messages wait for the connection")]
    QueueFull,
    /// The message fits into no frame.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

enum State {
    Idle { credentials: Credentials, rng: Box<ChaCha20Rng> },
    Handshaking { credentials: Credentials, initiator: Box<Initiator>, deadline: Instant },
    Authenticating { channel: Box<Channel>, deadline: Instant },
    Ready { channel: Box<Channel> },
    Broken,
}

impl Client {
    /// Makes a client for one connection; `seed` must be fresh for each.
    pub fn new(seed: [u8; 32], server: ServerKeys, network: NetworkId, credentials: Credentials) -> Self {
        Self {
            state: State::Idle { credentials, rng: Box::new(ChaCha20Rng::from_seed(seed)) },
            server,
            network,
            reader: FrameReader::default(),
            waiting: VecDeque::new(),
            outputs: VecDeque::new(),
            now: Instant::ZERO,
        }
    }

    /// Takes one input.
    ///
    /// # Errors
    /// [`Discard`] says why the input was of no use.
    pub fn handle_input(&mut self, now: Instant, input: Input) -> Result<(), Discard> {
        self.now = self.now.max(now);
        if matches!(self.state, State::Broken) {
            return Err(Discard::Broken);
        }
        match input {
            Input::Opened => self.open(),
            Input::Received(bytes) => self.receive(&bytes),
            Input::Closed => {
                self.end(match self.state {
                    State::Idle { .. } | State::Handshaking { .. } => Broken::HandshakeRefused,
                    State::Authenticating { .. } | State::Ready { .. } | State::Broken => Broken::Closed,
                });
                Ok(())
            }
            Input::Send(message) => self.send(message),
        }
    }

    /// Ends the connection when the server has not let the client in in time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.deadline().is_some_and(|deadline| self.now >= deadline) {
            self.end(Broken::TimedOut);
        }
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.outputs.is_empty() { self.deadline() } else { Some(self.now) }
    }

    fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Handshaking { deadline, .. } | State::Authenticating { deadline, .. } => Some(deadline),
            State::Idle { .. } | State::Ready { .. } | State::Broken => None,
        }
    }

    fn open(&mut self) -> Result<(), Discard> {
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Idle { credentials, rng } => {
                let Ok((initiator, first)) = Initiator::start(&self.server.noise, *rng) else {
                    self.end(Broken::BadServerKey);
                    return Ok(());
                };
                let mut hello = vec![VERSION];
                hello.extend(first);
                self.outputs.push_back(Output::Write(frame::encode(&hello)));
                let deadline = self.now + HANDSHAKE_DEADLINE;
                self.state = State::Handshaking { credentials, initiator: Box::new(initiator), deadline };
                Ok(())
            }
            state
            @ (State::Handshaking { .. } | State::Authenticating { .. } | State::Ready { .. } | State::Broken) => {
                self.state = state;
                Err(Discard::OutOfOrder)
            }
        }
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), Discard> {
        if matches!(self.state, State::Idle { .. }) {
            return Err(Discard::OutOfOrder);
        }
        self.reader.push(bytes);
        loop {
            if matches!(self.state, State::Broken) {
                return Err(Discard::Untrusted);
            }
            match self.reader.next(MAX_FRAME) {
                Ok(Some(frame)) => self.take_frame(&frame),
                Ok(None) => return Ok(()),
                Err(_) => self.end(Broken::Malformed),
            }
        }
    }

    fn take_frame(&mut self, frame: &[u8]) {
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Handshaking { credentials, initiator, deadline } => {
                self.authenticate(frame, &credentials, *initiator, deadline);
            }
            State::Authenticating { channel, deadline } => self.await_welcome(frame, channel, deadline),
            State::Ready { mut channel } => match open(&mut channel, frame) {
                Ok(ServerMessage::Refused { request: Request::Connection, code, text }) => {
                    self.end(Broken::Refused { code, text });
                }
                Ok(message) => {
                    self.outputs.push_back(Output::Message(message));
                    self.state = State::Ready { channel };
                }
                Err(reason) => self.end(reason),
            },
            State::Idle { .. } | State::Broken => {}
        }
    }

    fn authenticate(&mut self, frame: &[u8], credentials: &Credentials, initiator: Initiator, deadline: Instant) {
        let answer = match frame {
            [VERSION, answer @ ..] => answer,
            [other, ..] => return self.end(Broken::Version(*other)),
            [] => return self.end(Broken::Malformed),
        };
        let Ok(mut channel) = initiator.finish(answer) else { return self.end(Broken::WrongServer) };
        let claim = claim(credentials, &self.network, channel.binding());
        let message = ClientMessage::Authenticate { network: self.network, claim };
        if self.write(&mut channel, &message).is_err() {
            return self.end(Broken::Malformed);
        }
        self.state = State::Authenticating { channel: Box::new(channel), deadline };
    }

    fn await_welcome(&mut self, frame: &[u8], mut channel: Box<Channel>, deadline: Instant) {
        match open(&mut channel, frame) {
            Ok(welcome @ ServerMessage::Welcome(_)) => {
                self.outputs.push_back(Output::Ready);
                self.outputs.push_back(Output::Message(welcome));
                while let Some(message) = self.waiting.pop_front() {
                    if self.write(&mut channel, &message).is_err() {
                        return self.end(Broken::Malformed);
                    }
                }
                self.state = State::Ready { channel };
            }
            Ok(ServerMessage::Refused { code, text, .. }) => self.end(Broken::Refused { code, text }),
            Ok(
                ServerMessage::Entries { .. }
                | ServerMessage::Appended { .. }
                | ServerMessage::Mail { .. }
                | ServerMessage::MailRefused { .. }
                | ServerMessage::Relay(_)
                | ServerMessage::Pong
                | ServerMessage::Snapshot { .. }
                | ServerMessage::Forwarded { .. },
            ) => self.state = State::Authenticating { channel, deadline },
            Err(reason) => self.end(reason),
        }
    }

    fn send(&mut self, message: ClientMessage) -> Result<(), Discard> {
        message.encode()?;
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Ready { mut channel } => {
                let written = self.write(&mut channel, &message);
                self.state = State::Ready { channel };
                written
            }
            state @ (State::Idle { .. } | State::Handshaking { .. } | State::Authenticating { .. } | State::Broken) => {
                self.state = state;
                if self.waiting.len() >= MAX_WAITING {
                    return Err(Discard::QueueFull);
                }
                self.waiting.push_back(message);
                Ok(())
            }
        }
    }

    fn write(&mut self, channel: &mut Channel, message: &ClientMessage) -> Result<(), Discard> {
        let sealed = channel.seal(&message.encode()?).map_err(|_| Discard::Broken)?;
        self.outputs.push_back(Output::Write(frame::encode(&sealed)));
        Ok(())
    }

    fn end(&mut self, reason: Broken) {
        self.state = State::Broken;
        self.waiting.clear();
        self.outputs.push_back(Output::Broken { reason });
    }
}

fn claim(credentials: &Credentials, network: &NetworkId, binding: &[u8; 32]) -> Claim {
    let sign = |key: &SigningKey, role| auth::sign(key, role, network, binding);
    match credentials {
        Credentials::Member { key } => {
            Claim::Member { key: key.member_key(), signature: sign(key, SignedRole::Member) }
        }
        Credentials::Joiner { invite, key } => Claim::Joiner {
            invite: invite.invite_key(),
            invite_signature: sign(invite, SignedRole::Invite),
            key: key.member_key(),
            signature: sign(key, SignedRole::Joiner),
        },
        Credentials::Founder { token, key } => Claim::Founder {
            token: FoundingToken(token.clone()),
            key: key.member_key(),
            signature: sign(key, SignedRole::Founder),
        },
        Credentials::Mirror { key } => {
            Claim::Mirror { key: key.sequencer_key(), signature: sign(key, SignedRole::Mirror) }
        }
    }
}

fn open(channel: &mut Channel, frame: &[u8]) -> Result<ServerMessage, Broken> {
    let plaintext = channel.open(frame).map_err(|_| Broken::Malformed)?;
    let mut message = ServerMessage::decode(&plaintext).map_err(|malformed| match malformed {
        crate::message::Malformed::Version(version) => Broken::Version(version),
        crate::message::Malformed::Body | crate::message::Malformed::Empty => Broken::Malformed,
    })?;
    if let ServerMessage::Refused { text, .. }
    | ServerMessage::Forwarded { outcome: Placing::Refused { text, .. }, .. } = &mut message
    {
        *text = printable(text);
    }
    Ok(message)
}

/// How long a server may take from the opened stream to its welcome; twice the server's own deadline.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// How many messages wait for the welcome.
pub const MAX_WAITING: usize = 64;
