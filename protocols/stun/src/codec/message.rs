//! A message that was read, and what it says.

use std::net::{IpAddr, SocketAddr};

use stun_rs::attributes::stun as base;
use stun_rs::attributes::turn;
use stun_rs::{MessageClass, MessageDecoder, StunAttribute, StunAttributeType, StunMessage};

use super::wire::{Layout, layout};

/// Names a transaction: 96 random bits (RFC 8489 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub [u8; 12]);

/// What kind of message this is (RFC 8489 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// Answers a request that succeeded.
    Success,
    /// Answers a request that failed.
    Error,
}

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// RFC 8489 §3.
    Binding,
    /// RFC 8656 §7.
    Allocate,
    /// RFC 8656 §8.
    Refresh,
    /// RFC 8656 §11.
    Send,
    /// RFC 8656 §11.
    Data,
    /// RFC 8656 §10.
    CreatePermission,
    /// RFC 8656 §12.
    ChannelBind,
    /// A method that this crate does not know, by its number.
    Other(u16),
}

impl Method {
    pub(super) const fn number(self) -> u16 {
        match self {
            Self::Binding => 0x001,
            Self::Allocate => 0x003,
            Self::Refresh => 0x004,
            Self::Send => 0x006,
            Self::Data => 0x007,
            Self::CreatePermission => 0x008,
            Self::ChannelBind => 0x009,
            Self::Other(number) => number & 0x0FFF,
        }
    }

    const fn from_number(number: u16) -> Self {
        match number {
            0x001 => Self::Binding,
            0x003 => Self::Allocate,
            0x004 => Self::Refresh,
            0x006 => Self::Send,
            0x007 => Self::Data,
            0x008 => Self::CreatePermission,
            0x009 => Self::ChannelBind,
            other => Self::Other(other),
        }
    }
}

/// The address family of a relayed address (RFC 8656 §18.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressFamily {
    /// IPv4, number 1.
    Ipv4,
    /// IPv6, number 2.
    Ipv6,
}

impl AddressFamily {
    /// The family of an address; an IPv4-mapped IPv6 address is of IPv6.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

/// Why bytes are not a STUN message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// No STUN header, or a length that does not fit.
    #[error("not a STUN message")]
    NotStun,
    /// Bytes follow the message.
    #[error("bytes follow the message")]
    TrailingBytes,
    /// An attribute reaches past the end.
    #[error("an attribute reaches past the end of the message")]
    Truncated,
    /// More attributes than [`MAX_ATTRIBUTES`](super::MAX_ATTRIBUTES).
    #[error("too many attributes")]
    TooManyAttributes,
    /// FINGERPRINT is wrong or not the last attribute.
    #[error("FINGERPRINT is wrong or not the last attribute")]
    Fingerprint,
    /// An attribute's value breaks the grammar of its type.
    #[error("an attribute's value is malformed")]
    Attribute,
}

/// A STUN message that was read from the wire.
///
/// Attributes that follow MESSAGE-INTEGRITY are not part of it; of an attribute that must not repeat, the first counts
/// (RFC 8489 §14).
#[derive(Debug)]
pub struct Message {
    inner: StunMessage,
    layout: Layout,
}

impl Message {
    /// Reads exactly one message; a FINGERPRINT that is there must be right.
    ///
    /// # Errors
    /// [`Malformed`] for everything else. No input panics.
    pub fn decode(datagram: &[u8]) -> Result<Self, Malformed> {
        let layout = layout(datagram)?;
        let (inner, _) = MessageDecoder::default().decode(datagram).map_err(|_| Malformed::Attribute)?;
        if let Some(position) = layout.fingerprint {
            let covered = datagram.get(..position).ok_or(Malformed::Fingerprint)?;
            let fingerprint = inner.get::<base::Fingerprint>().and_then(|found| found.as_fingerprint().ok());
            if !fingerprint.is_some_and(|found| found.validate(covered)) {
                return Err(Malformed::Fingerprint);
            }
        }
        Ok(Self { inner, layout })
    }

    /// The kind of the message.
    pub fn class(&self) -> Class {
        match self.inner.class() {
            MessageClass::Request => Class::Request,
            MessageClass::Indication => Class::Indication,
            MessageClass::SuccessResponse => Class::Success,
            MessageClass::ErrorResponse => Class::Error,
        }
    }

    /// What the message is about.
    pub fn method(&self) -> Method {
        Method::from_number(self.inner.method().as_u16())
    }

    /// The transaction that the message belongs to.
    pub fn transaction(&self) -> TransactionId {
        TransactionId(*self.inner.transaction_id().as_bytes())
    }

    /// Whether the message carries MESSAGE-INTEGRITY; says nothing about whether it fits.
    pub fn has_integrity(&self) -> bool {
        self.layout.integrity.is_some()
    }

    /// Whether the message carries FINGERPRINT; it was right.
    pub fn has_fingerprint(&self) -> bool {
        self.layout.fingerprint.is_some()
    }

    /// Whether the message carries a comprehension-required attribute of this type.
    pub fn has(&self, attribute: u16) -> bool {
        self.layout.required.contains(&attribute)
    }

    /// Comprehension-required attributes that are not in `understood`, each once, in order.
    pub fn unknown_required(&self, understood: &[u16]) -> Vec<u16> {
        self.layout.required.iter().copied().filter(|kind| !understood.contains(kind)).collect()
    }

    /// XOR-MAPPED-ADDRESS.
    pub fn xor_mapped_address(&self) -> Option<SocketAddr> {
        Some(*self.find::<base::XorMappedAddress>()?.as_xor_mapped_address().ok()?.socket_address())
    }

    /// XOR-RELAYED-ADDRESS.
    pub fn xor_relayed_address(&self) -> Option<SocketAddr> {
        Some(*self.find::<turn::XorRelayedAddress>()?.as_xor_relayed_address().ok()?.socket_address())
    }

    /// Every XOR-PEER-ADDRESS, in order.
    pub fn xor_peer_addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.inner
            .attributes()
            .iter()
            .filter_map(|attribute| Some(*attribute.as_xor_peer_address().ok()?.socket_address()))
    }

    /// ALTERNATE-SERVER.
    pub fn alternate_server(&self) -> Option<SocketAddr> {
        Some(*self.find::<base::AlternateServer>()?.as_alternate_server().ok()?.socket_address())
    }

    /// DATA.
    pub fn data(&self) -> Option<&[u8]> {
        Some(self.find::<turn::Data>()?.as_data().ok()?.as_bytes())
    }

    /// ERROR-CODE: the number and the reason phrase.
    pub fn error(&self) -> Option<(u16, &str)> {
        let error = self.find::<base::ErrorCode>()?.as_error_code().ok()?.error_code();
        Some((error.error_code(), error.reason()))
    }

    /// USERNAME.
    pub fn username(&self) -> Option<&str> {
        Some(self.find::<base::UserName>()?.as_user_name().ok()?.as_str())
    }

    /// REALM.
    pub fn realm(&self) -> Option<&str> {
        Some(self.find::<base::Realm>()?.as_realm().ok()?.as_str())
    }

    /// NONCE.
    pub fn nonce(&self) -> Option<&str> {
        Some(self.find::<base::Nonce>()?.as_nonce().ok()?.as_str())
    }

    /// LIFETIME, in seconds.
    pub fn lifetime(&self) -> Option<u32> {
        Some(self.find::<turn::LifeTime>()?.as_life_time().ok()?.as_u32())
    }

    /// CHANNEL-NUMBER, whatever its range.
    pub fn channel_number(&self) -> Option<u16> {
        Some(self.find::<turn::ChannelNumber>()?.as_channel_number().ok()?.number())
    }

    /// REQUESTED-TRANSPORT: an IP protocol number.
    pub fn requested_transport(&self) -> Option<u8> {
        Some(self.find::<turn::RequestedTrasport>()?.as_requested_trasport().ok()?.protocol().as_u8())
    }

    /// EVEN-PORT: whether the next higher port is to be reserved as well.
    pub fn even_port(&self) -> Option<bool> {
        Some(self.find::<turn::EvenPort>()?.as_even_port().ok()?.reserve())
    }

    /// REQUESTED-ADDRESS-FAMILY.
    pub fn requested_address_family(&self) -> Option<AddressFamily> {
        match self.find::<turn::RequestedAddressFamily>()?.as_requested_address_family().ok()?.family() {
            stun_rs::AddressFamily::IPv4 => Some(AddressFamily::Ipv4),
            stun_rs::AddressFamily::IPv6 => Some(AddressFamily::Ipv6),
        }
    }

    /// UNKNOWN-ATTRIBUTES of a 420 answer.
    pub fn unknown_attributes(&self) -> Option<&[u16]> {
        Some(self.find::<base::UnknownAttributes>()?.as_unknown_attributes().ok()?.attributes())
    }

    fn find<A: StunAttributeType>(&self) -> Option<&StunAttribute> {
        self.inner.get::<A>()
    }
}
