//! The two messages that make a session, from both sides.

use std::fmt;

use ginnel_time::Tai64n;
use rand_core::{CryptoRng, RngCore};
use thiserror::Error;

use crate::cookie::Mac1;
use crate::key::{Identity, PresharedKey, PublicKey, SessionKeys, TransportKey};
use crate::noise::{Noise, PSK_POSITION};
use crate::wire::{
    KEY_LEN, MAC_LEN, MessageKind, PSK_ID_LEN, ReceiverIndex, Suite, TAG_LEN, TAI64N_LEN, classify, receiver_index,
    sender_index,
};

/// Preshared keys that one [`Initiator`] tries on a response, the first included.
pub const MAX_PRESHARED_KEYS: usize = 3;

/// Which part of the handshake this side played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Sent the initiation; may send data at once.
    Initiator,
    /// Sent the response; may send only after the first packet has arrived on the session.
    Responder,
}

/// A finished handshake: everything the data plane needs of a session.
pub struct Established {
    /// The keys of both directions.
    pub keys: SessionKeys,
    /// The index by which this side knows the session; stands in datagrams that arrive.
    pub local_index: ReceiverIndex,
    /// The index by which the other side knows the session; stands in datagrams that are sent.
    pub remote_index: ReceiverIndex,
    /// What seals the session.
    pub suite: Suite,
    /// The part this side played.
    pub side: Side,
    /// The id of the preshared key in use; 0 = bootstrap. WireGuard has no ids on the wire: there it is the caller's.
    pub psk_id: u32,
}

impl fmt::Debug for Established {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Established")
            .field("local_index", &self.local_index)
            .field("remote_index", &self.remote_index)
            .field("suite", &self.suite)
            .field("side", &self.side)
            .field("psk_id", &self.psk_id)
            .finish_non_exhaustive()
    }
}

/// Why a handshake message was not made or not accepted.
#[derive(Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The datagram is not the message that is due: wrong type, length or suite.
    #[error("not the handshake message that is due")]
    Malformed,
    /// The message was made for another key.
    #[error("mac1 is not for this key")]
    Mac1,
    /// The response names an index that this initiation did not use.
    #[error("message is for another handshake")]
    WrongIndex,
    /// A key of low order: the shared secret would be zero.
    #[error("key of low order")]
    LowOrderKey,
    /// The initiator's static key is not known here.
    #[error("peer is unknown")]
    UnknownPeer(PublicKey),
    /// The message is forged or damaged, or the preshared keys differ.
    #[error("message is not authentic, or the preshared keys differ")]
    NotAuthentic,
    /// The response names another preshared key than the one that opens it.
    #[error("response names another preshared key")]
    WrongPresharedKey,
    /// The other side's key is our own.
    #[error("peer has our own key")]
    OwnKey,
    /// The handshake has given its session already.
    #[error("handshake is finished")]
    Finished,
    /// The Noise library refused a step for a reason of its own.
    #[error("noise: {0}")]
    Noise(#[source] snow::Error),
}

/// A handshake begun by this side, waiting for its response.
pub struct Initiator {
    state: State,
    suite: Suite,
    own_mac1: Mac1,
    local_index: ReceiverIndex,
    remote: PublicKey,
    psks: Vec<(u32, PresharedKey)>,
}

enum State {
    Waiting(Noise),
    Finished,
}

impl Initiator {
    /// Begins a handshake with `remote` and returns its initiation, with mac1 set and mac2 zero.
    ///
    /// `timestamp` must be later than that of every initiation sent to this peer before. `local_index` must be unique
    /// among this host's handshakes and sessions. Draws 32 bytes of `rng` for the ephemeral key.
    ///
    /// # Errors
    /// [`HandshakeError::OwnKey`] and [`HandshakeError::LowOrderKey`] for keys no peer can have.
    #[expect(clippy::too_many_arguments, reason = "each is one field of the message or one key of the pattern")]
    pub fn start<R: RngCore + CryptoRng + ?Sized>(
        identity: &Identity,
        remote: PublicKey,
        suite: Suite,
        psk: &PresharedKey,
        psk_id: u32,
        timestamp: Tai64n,
        local_index: ReceiverIndex,
        rng: &mut R,
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        if remote == identity.public() {
            return Err(HandshakeError::OwnKey);
        }
        let mut noise = Noise::initiator(identity, suite, &remote)?;
        noise.draw_ephemeral(rng);
        let mut message = vec![0; suite.initiation_len()];
        message[0] = suite.message_type(MessageKind::Initiation);
        message[4..8].copy_from_slice(&local_index.0.to_le_bytes());
        let mut payload = [0; TAI64N_LEN + PSK_ID_LEN];
        payload[..TAI64N_LEN].copy_from_slice(&timestamp.to_bytes());
        payload[TAI64N_LEN..].copy_from_slice(&psk_id.to_be_bytes());
        let macs = message.len() - 2 * MAC_LEN;
        noise.state.write_message(&payload[..suite.initiation_payload_len()], &mut message[8..macs])?;
        Mac1::new(&remote).stamp(&mut message);
        let initiator = Self {
            state: State::Waiting(noise),
            suite,
            own_mac1: identity.mac1().clone(),
            local_index,
            remote,
            psks: vec![(psk_id, psk.clone())],
        };
        Ok((initiator, message))
    }

    /// Also accepts a response made with another preshared key, as of a peer that lost or has not yet learnt the first.
    /// At most [`MAX_PRESHARED_KEYS`] are kept; further ones and known ids are not taken.
    pub fn also_accept(&mut self, psk_id: u32, psk: &PresharedKey) {
        if self.psks.len() < MAX_PRESHARED_KEYS && self.psks.iter().all(|(id, _)| *id != psk_id) {
            self.psks.push((psk_id, psk.clone()));
        }
    }

    /// Reads the response and gives the session.
    ///
    /// # Errors
    /// [`HandshakeError`]; after bytes that are not authentic the handshake still waits for the true response. After an
    /// authentic one it is over: [`HandshakeError::Finished`].
    pub fn finish(&mut self, response: &[u8]) -> Result<Established, HandshakeError> {
        let State::Waiting(noise) = &mut self.state else { return Err(HandshakeError::Finished) };
        if classify(response) != Some((self.suite, MessageKind::Response)) {
            return Err(HandshakeError::Malformed);
        }
        if !self.own_mac1.verify(response) {
            return Err(HandshakeError::Mac1);
        }
        if receiver_index(response) != Some(self.local_index) {
            return Err(HandshakeError::WrongIndex);
        }
        let remote_index = sender_index(response).ok_or(HandshakeError::Malformed)?;
        let body = response.get(12..response.len() - 2 * MAC_LEN).ok_or(HandshakeError::Malformed)?;
        let (psk_id, named) = read_response(noise, body, &self.psks)?;
        let keys = split(noise, Side::Initiator);
        self.state = State::Finished;
        if self.suite != Suite::WireGuard && named != psk_id.to_be_bytes() {
            return Err(HandshakeError::WrongPresharedKey);
        }
        Ok(Established {
            keys,
            local_index: self.local_index,
            remote_index,
            suite: self.suite,
            side: Side::Initiator,
            psk_id,
        })
    }

    /// The index that the initiation carries as its sender's.
    pub const fn local_index(&self) -> ReceiverIndex {
        self.local_index
    }

    /// The key of the peer that the initiation is for.
    pub const fn remote(&self) -> PublicKey {
        self.remote
    }

    /// The suite of the handshake.
    pub const fn suite(&self) -> Suite {
        self.suite
    }
}

/// An initiation that was read and whose sender is known, waiting for this side's response.
pub struct Received {
    noise: Noise,
    suite: Suite,
    remote: PublicKey,
    timestamp: Tai64n,
    psk_id: u32,
    remote_index: ReceiverIndex,
}

impl Received {
    /// Reads an initiation. `known` is asked once for the initiator's static key, before the static-static step, so that
    /// a stranger costs one multiplication on the curve.
    ///
    /// The label is authentic but may be old: the caller refuses one not later than the last from this peer.
    ///
    /// # Errors
    /// [`HandshakeError`] for everything that is not an initiation from a known peer to this identity.
    pub fn read(
        identity: &Identity,
        initiation: &[u8],
        known: &mut dyn FnMut(&PublicKey) -> bool,
    ) -> Result<Self, HandshakeError> {
        let Some((suite, MessageKind::Initiation)) = classify(initiation) else {
            return Err(HandshakeError::Malformed);
        };
        if !identity.mac1().verify(initiation) {
            return Err(HandshakeError::Mac1);
        }
        let remote_index = sender_index(initiation).ok_or(HandshakeError::Malformed)?;
        let body = initiation.get(8..initiation.len() - 2 * MAC_LEN).ok_or(HandshakeError::Malformed)?;
        let mut noise = Noise::responder(identity, suite)?;
        let mut payload = [0; TAI64N_LEN + PSK_ID_LEN];
        let remote = read_initiation(&mut noise, body, &mut payload, &mut |remote| {
            if *remote == identity.public() {
                return Err(HandshakeError::OwnKey);
            }
            if known(remote) { Ok(()) } else { Err(HandshakeError::UnknownPeer(*remote)) }
        })?;
        let [label @ .., a, b, c, d] = payload;
        let timestamp = Tai64n::from_bytes(label);
        Ok(Self { noise, suite, remote, timestamp, psk_id: u32::from_be_bytes([a, b, c, d]), remote_index })
    }

    /// Answers with the response, mac1 set and mac2 zero, and gives the session.
    ///
    /// `psk_id` names `psk` to the initiator (not under WireGuard). `local_index` must be unique among this host's
    /// handshakes and sessions. Draws 32 bytes of `rng` for the ephemeral key.
    ///
    /// # Errors
    /// [`HandshakeError::LowOrderKey`] when the initiator's keys allow no shared secret.
    pub fn respond<R: RngCore + CryptoRng + ?Sized>(
        mut self,
        psk: &PresharedKey,
        psk_id: u32,
        local_index: ReceiverIndex,
        rng: &mut R,
    ) -> Result<(Vec<u8>, Established), HandshakeError> {
        self.noise.draw_ephemeral(rng);
        self.noise.state.set_psk(PSK_POSITION, psk.as_bytes())?;
        let mut message = vec![0; self.suite.response_len()];
        message[0] = self.suite.message_type(MessageKind::Response);
        message[4..8].copy_from_slice(&local_index.0.to_le_bytes());
        message[8..12].copy_from_slice(&self.remote_index.0.to_le_bytes());
        let payload = psk_id.to_be_bytes();
        let macs = message.len() - 2 * MAC_LEN;
        self.noise.state.write_message(&payload[..self.suite.response_payload_len()], &mut message[12..macs])?;
        Mac1::new(&self.remote).stamp(&mut message);
        let established = Established {
            keys: split(&mut self.noise, Side::Responder),
            local_index,
            remote_index: self.remote_index,
            suite: self.suite,
            side: Side::Responder,
            psk_id,
        };
        Ok((message, established))
    }

    /// The initiator's static key.
    pub const fn remote(&self) -> PublicKey {
        self.remote
    }

    /// The initiator's label: later in each of its initiations.
    pub const fn timestamp(&self) -> Tai64n {
        self.timestamp
    }

    /// The id of the preshared key that the initiator means to use; 0 (bootstrap) under WireGuard.
    pub const fn psk_id(&self) -> u32 {
        self.psk_id
    }

    /// The index by which the initiator will know the session.
    pub const fn remote_index(&self) -> ReceiverIndex {
        self.remote_index
    }

    /// The suite of the handshake.
    pub const fn suite(&self) -> Suite {
        self.suite
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initiator")
            .field("suite", &self.suite)
            .field("local_index", &self.local_index)
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("suite", &self.suite)
            .field("remote", &self.remote)
            .field("timestamp", &self.timestamp)
            .field("psk_id", &self.psk_id)
            .field("remote_index", &self.remote_index)
            .finish_non_exhaustive()
    }
}

impl From<snow::Error> for HandshakeError {
    fn from(error: snow::Error) -> Self {
        if error == snow::Error::Dh {
            Self::LowOrderKey
        } else if error == snow::Error::Decrypt {
            Self::NotAuthentic
        } else {
            Self::Noise(error)
        }
    }
}

/// Reads the first message up to the static-static step, asks, and reads it to its end.
pub(crate) fn read_initiation(
    noise: &mut Noise,
    body: &[u8],
    payload: &mut [u8],
    admit: &mut dyn FnMut(&PublicKey) -> Result<(), HandshakeError>,
) -> Result<PublicKey, HandshakeError> {
    let stopped = noise.state.read_message(body, payload);
    let Some(remote) = noise.asked() else {
        // Without a question the message failed earlier: the gate lets no first message through unasked.
        return Err(stopped.err().map_or(HandshakeError::NotAuthentic, HandshakeError::from));
    };
    admit(&remote)?;
    noise.admit();
    noise.state.read_message(body, payload)?;
    Ok(remote)
}

/// Reads the second message with each preshared key in turn; gives the id of the one that fits and the payload.
fn read_response(
    noise: &mut Noise,
    body: &[u8],
    psks: &[(u32, PresharedKey)],
) -> Result<(u32, [u8; PSK_ID_LEN]), HandshakeError> {
    debug_assert!(body.len() >= KEY_LEN + TAG_LEN);
    for (id, psk) in psks {
        let mut payload = [0; PSK_ID_LEN];
        noise.state.set_psk(PSK_POSITION, psk.as_bytes())?;
        match noise.state.read_message(body, &mut payload) {
            Ok(_) => return Ok((*id, payload)),
            Err(snow::Error::Decrypt) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(HandshakeError::NotAuthentic)
}

/// Takes the transport keys out of a finished handshake.
pub(crate) fn split(noise: &mut Noise, side: Side) -> SessionKeys {
    assert!(noise.state.is_handshake_finished(), "keys are split after both messages");
    let (forth, back) = noise.state.dangerously_get_raw_split();
    let (forth, back) = (TransportKey::from_bytes(forth), TransportKey::from_bytes(back));
    match side {
        Side::Initiator => SessionKeys { send: forth, receive: back },
        Side::Responder => SessionKeys { send: back, receive: forth },
    }
}
