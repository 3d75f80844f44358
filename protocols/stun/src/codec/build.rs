//! Writing messages.

use std::net::SocketAddr;

use stun_rs::attributes::stun as base;
use stun_rs::attributes::turn;
use stun_rs::{MessageClass, MessageEncoder, MessageMethod, StunAttribute, StunMessageBuilder};

use super::integrity::Key;
use super::message::{AddressFamily, Class, Method, TransactionId};

/// Why a message cannot be written: an attribute is too long or breaks the grammar of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an attribute is too long or breaks the grammar of its type")]
pub struct EncodeError;

/// Builds one message; attributes go out in the order of the calls.
#[derive(Debug)]
pub struct Builder {
    method: Method,
    class: Class,
    transaction: TransactionId,
    attributes: Vec<StunAttribute>,
    /// Room for attributes whose size has no small bound.
    room: usize,
    invalid: bool,
}

impl Builder {
    /// Starts a message without attributes.
    pub const fn new(class: Class, method: Method, transaction: TransactionId) -> Self {
        Self { method, class, transaction, attributes: Vec::new(), room: 0, invalid: false }
    }

    /// Adds XOR-MAPPED-ADDRESS.
    #[must_use]
    pub fn xor_mapped_address(self, address: SocketAddr) -> Self {
        self.with(base::XorMappedAddress::from(address))
    }

    /// Adds XOR-RELAYED-ADDRESS.
    #[must_use]
    pub fn xor_relayed_address(self, address: SocketAddr) -> Self {
        self.with(turn::XorRelayedAddress::from(address))
    }

    /// Adds one XOR-PEER-ADDRESS.
    #[must_use]
    pub fn xor_peer_address(self, address: SocketAddr) -> Self {
        self.with(turn::XorPeerAddress::from(address))
    }

    /// Adds ALTERNATE-SERVER.
    #[must_use]
    pub fn alternate_server(self, address: SocketAddr) -> Self {
        self.with(base::AlternateServer::new(address.ip(), address.port()))
    }

    /// Adds DATA.
    #[must_use]
    pub fn data(mut self, data: &[u8]) -> Self {
        self.room = self.room.saturating_add(data.len());
        self.with(turn::Data::new(data))
    }

    /// Adds ERROR-CODE with the phrase that the RFCs recommend for the number.
    #[must_use]
    pub fn error(self, code: u16) -> Self {
        let attribute = stun_rs::ErrorCode::new(code, phrase(code)).map(base::ErrorCode::new);
        self.with_checked(attribute)
    }

    /// Adds UNKNOWN-ATTRIBUTES.
    #[must_use]
    pub fn unknown_attributes(self, kinds: &[u16]) -> Self {
        self.with(base::UnknownAttributes::from(kinds))
    }

    /// Adds USERNAME.
    #[must_use]
    pub fn username(mut self, username: &str) -> Self {
        self.room = self.room.saturating_add(username.len());
        self.invalid |= username.is_empty();
        self.with_checked(base::UserName::new(username))
    }

    /// Adds REALM.
    #[must_use]
    pub fn realm(mut self, realm: &str) -> Self {
        self.room = self.room.saturating_add(realm.len());
        self.invalid |= realm.is_empty();
        self.with_checked(base::Realm::new(realm))
    }

    /// Adds NONCE.
    #[must_use]
    pub fn nonce(mut self, nonce: &str) -> Self {
        self.room = self.room.saturating_add(nonce.len());
        self.with_checked(base::Nonce::new(nonce))
    }

    /// Adds LIFETIME, in seconds.
    #[must_use]
    pub fn lifetime(self, seconds: u32) -> Self {
        self.with(turn::LifeTime::new(seconds))
    }

    /// Adds CHANNEL-NUMBER.
    #[must_use]
    pub fn channel_number(self, number: u16) -> Self {
        self.with(turn::ChannelNumber::new(number))
    }

    /// Adds REQUESTED-TRANSPORT with the number of UDP.
    #[must_use]
    pub fn requested_transport_udp(self) -> Self {
        self.with(turn::RequestedTrasport::default())
    }

    /// Adds REQUESTED-ADDRESS-FAMILY.
    #[must_use]
    pub fn requested_address_family(self, family: AddressFamily) -> Self {
        self.with(turn::RequestedAddressFamily::new(match family {
            AddressFamily::Ipv4 => stun_rs::AddressFamily::IPv4,
            AddressFamily::Ipv6 => stun_rs::AddressFamily::IPv6,
        }))
    }

    /// Adds EVEN-PORT without a reservation.
    #[must_use]
    pub fn even_port(self) -> Self {
        self.with(turn::EvenPort::new(false))
    }

    /// Adds EVEN-PORT with a reservation of the next higher port.
    #[must_use]
    pub fn even_port_with_reservation(self) -> Self {
        self.with(turn::EvenPort::new(true))
    }

    /// Adds DONT-FRAGMENT.
    #[must_use]
    pub fn dont_fragment(self) -> Self {
        self.with(turn::DontFragment::default())
    }

    /// Adds RESERVATION-TOKEN.
    #[must_use]
    pub fn reservation_token(self, token: [u8; 8]) -> Self {
        self.with(turn::ReservationToken::from(token))
    }

    /// Adds SOFTWARE of a length that brings a message without further attributes to at least `length` bytes.
    ///
    /// The text is neutral: it names no program.
    #[must_use]
    pub fn pad_to(self, length: usize) -> Self {
        let have = self.encode_attributes(&self.attributes).map_or(0, |bytes| bytes.len());
        let missing = length.saturating_sub(have);
        if missing == 0 || missing > MAX_PADDING {
            return self;
        }
        let text = ".".repeat(missing.saturating_sub(4).max(1));
        self.with_checked(base::Software::new(text))
    }

    /// Writes the message as it is.
    ///
    /// # Errors
    /// [`EncodeError`] when an attribute was too long or malformed.
    pub fn encode(self) -> Result<Vec<u8>, EncodeError> {
        self.encode_attributes(&self.attributes)
    }

    /// Writes the message with MESSAGE-INTEGRITY as its last attribute.
    ///
    /// # Errors
    /// [`EncodeError`] when an attribute was too long or malformed.
    pub fn encode_signed(self, key: &Key) -> Result<Vec<u8>, EncodeError> {
        self.with(base::MessageIntegrity::new(key.0.clone())).encode()
    }

    /// Writes the message with FINGERPRINT as its last attribute.
    ///
    /// # Errors
    /// [`EncodeError`] when an attribute was too long or malformed.
    pub fn encode_with_fingerprint(self) -> Result<Vec<u8>, EncodeError> {
        self.with(base::Fingerprint::default()).encode()
    }

    fn with(mut self, attribute: impl Into<StunAttribute>) -> Self {
        self.attributes.push(attribute.into());
        self
    }

    fn with_checked<A: Into<StunAttribute>>(mut self, attribute: Result<A, stun_rs::StunError>) -> Self {
        match attribute {
            Ok(attribute) => self.with(attribute),
            Err(_) => {
                self.invalid = true;
                self
            }
        }
    }

    fn encode_attributes(&self, attributes: &[StunAttribute]) -> Result<Vec<u8>, EncodeError> {
        if self.invalid || self.room > MAX_ROOM {
            return Err(EncodeError);
        }
        let method = MessageMethod::try_from(self.method.number()).map_err(|_| EncodeError)?;
        let class = match self.class {
            Class::Request => MessageClass::Request,
            Class::Indication => MessageClass::Indication,
            Class::Success => MessageClass::SuccessResponse,
            Class::Error => MessageClass::ErrorResponse,
        };
        let mut builder = StunMessageBuilder::new(method, class).with_transaction_id(self.transaction.0.into());
        for attribute in attributes {
            builder = builder.with_attribute(attribute.clone());
        }
        let mut buffer = vec![0; SMALL_ATTRIBUTES + self.room + 28 * attributes.len()];
        let length = MessageEncoder::default().encode(&mut buffer, &builder.build()).map_err(|_| EncodeError)?;
        buffer.truncate(length);
        Ok(buffer)
    }
}

/// The reason phrases of RFC 8489 §14.8 and RFC 8656 §19.
const fn phrase(code: u16) -> &'static str {
    match code {
        300 => "Try Alternate",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        420 => "Unknown Attribute",
        437 => "Allocation Mismatch",
        438 => "Stale Nonce",
        440 => "Address Family not Supported",
        441 => "Wrong Credentials",
        442 => "Unsupported Transport Protocol",
        443 => "Peer Address Family Mismatch",
        486 => "Allocation Quota Reached",
        508 => "Insufficient Capacity",
        _ => "Error",
    }
}

/// Room for the header, padding (at most [`MAX_PADDING`]) and a list of unknown attributes.
const SMALL_ATTRIBUTES: usize = 768;
/// Longest SOFTWARE that `stun-rs` writes is 509 bytes.
const MAX_PADDING: usize = 500;
/// Longest DATA and strings together: what one UDP datagram holds.
const MAX_ROOM: usize = 65_507;
