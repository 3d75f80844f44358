//! What forward counts: every discard by its reason, and each peer's traffic.

use ginnel_time::Instant;

/// Why a packet or datagram went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Discard {
    /// The datagram is neither tunnel, STUN nor ChannelData.
    #[error("datagram of no known kind")]
    Unclassified,
    /// ChannelData came from an address that is no relay of ours.
    #[error("ChannelData from an address that is no relay of ours")]
    ForeignChannelData,
    /// The ChannelData header is wrong, or the channel holds no tunnel datagram.
    #[error("malformed ChannelData")]
    MalformedChannelData,
    /// The channel is not bound.
    #[error("ChannelData on an unbound channel")]
    UnknownChannel,
    /// The receiver index names no session.
    #[error("receiver index of no session")]
    UnknownIndex,
    /// The type byte belongs to another suite than the session's.
    #[error("type byte of another suite than the session's")]
    WrongSuite,
    /// The session is older than REJECT_AFTER_TIME.
    #[error("session older than its limit")]
    KeyExpired,
    /// The session's message or block limit is reached.
    #[error("session beyond its message limit")]
    KeyExhausted,
    /// The tag does not verify.
    #[error("tag does not verify")]
    Forged,
    /// The counter was seen before, or lies below the replay window.
    #[error("counter seen before or too old")]
    Replayed,
    /// The sealed metadata asks for something that is not known.
    #[error("unknown metadata")]
    UnknownMetadata,
    /// The sealed plaintext is neither IP nor a control message that this peer may send.
    #[error("plaintext of no known kind")]
    UnknownPlaintext,
    /// A probe does not decode.
    #[error("malformed probe")]
    MalformedProbe,
    /// The inner packet's header or length is wrong.
    #[error("malformed inner packet")]
    MalformedPacket,
    /// The inner source address does not belong to the peer.
    #[error("source address belongs to another peer or to none")]
    SpoofedSource,
    /// The inner destination is no address by which this machine is known to the peer.
    #[error("destination is not ours in the peer's network")]
    ForeignDestination,
    /// The packet to send has a source by which this machine is not known to the peer.
    #[error("source is not ours in the peer's network")]
    ForeignSource,
    /// The shields are up and the packet answers no flow of ours.
    #[error("shields are up")]
    ShieldsUp,
    /// No peer owns the destination.
    #[error("no peer owns the destination")]
    NoRoute,
    /// The queue of waiting packets was full and gave up its oldest.
    #[error("queue of waiting packets is full")]
    PendingFull,
    /// A packet waited longer than PENDING_TIME.
    #[error("packet waited too long")]
    PendingExpired,
    /// The relay has no channel bound to the destination.
    #[error("relay has no channel to the destination")]
    NoChannel,
    /// The relay is not known.
    #[error("unknown relay")]
    NoRelay,
    /// The command names a peer that is not there.
    #[error("unknown peer")]
    UnknownPeer,
    /// A control message had no session or no path to go out on.
    #[error("no session or path for a control message")]
    NoSession,
    /// The channel number is outside 0x4000 to 0x4FFF.
    #[error("channel number out of range")]
    BadChannel,
    /// The queue of handshake datagrams, or that of STUN datagrams, was full.
    #[error("queue of raw datagrams is full")]
    RawFull,
    /// A peer's queue of control messages was full.
    #[error("queue of control messages is full")]
    ControlFull,
    /// A queue of facts or of probes gave up its oldest entry.
    #[error("queue of facts is full")]
    FactFull,
    /// A packet is longer than a datagram can be.
    #[error("packet too long")]
    TooLong,
    /// A handshake message is for no key of ours, by its mac1.
    #[error("mac1 fits no key of ours")]
    BadMac,
}

impl Discard {
    /// Every reason.
    pub const ALL: [Self; 31] = [
        Self::Unclassified,
        Self::ForeignChannelData,
        Self::MalformedChannelData,
        Self::UnknownChannel,
        Self::UnknownIndex,
        Self::WrongSuite,
        Self::KeyExpired,
        Self::KeyExhausted,
        Self::Forged,
        Self::Replayed,
        Self::UnknownMetadata,
        Self::UnknownPlaintext,
        Self::MalformedProbe,
        Self::MalformedPacket,
        Self::SpoofedSource,
        Self::ForeignDestination,
        Self::ForeignSource,
        Self::ShieldsUp,
        Self::NoRoute,
        Self::PendingFull,
        Self::PendingExpired,
        Self::NoChannel,
        Self::NoRelay,
        Self::UnknownPeer,
        Self::NoSession,
        Self::BadChannel,
        Self::RawFull,
        Self::ControlFull,
        Self::FactFull,
        Self::TooLong,
        Self::BadMac,
    ];
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// IP packets taken from the TUN.
    pub tun_received: u64,
    /// IP packets handed to the TUN.
    pub tun_sent: u64,
    /// Datagrams taken from the sockets and from Data indications.
    pub datagrams_received: u64,
    /// Datagrams handed to the sockets.
    pub datagrams_sent: u64,
    /// Data datagrams that went out a second time, on the backup path.
    pub duplicated: u64,
    /// Probes answered.
    pub echoes: u64,
    /// Keepalives sent, passive and persistent.
    pub keepalives_sent: u64,
    /// ICMP unreachable messages handed to the TUN.
    pub unreachables: u64,
    discards: [u64; Discard::ALL.len()],
}

impl Counters {
    /// How many packets and datagrams were discarded for `reason`.
    pub fn discarded(&self, reason: Discard) -> u64 {
        self.discards[reason as usize]
    }

    /// Every reason with its count.
    pub fn discards(&self) -> impl Iterator<Item = (Discard, u64)> + '_ {
        Discard::ALL.into_iter().map(|reason| (reason, self.discarded(reason)))
    }

    /// All discards together.
    pub fn discarded_total(&self) -> u64 {
        self.discards.iter().sum()
    }

    pub(crate) fn discard(&mut self, reason: Discard) {
        self.discards[reason as usize] += 1;
    }

    pub(crate) fn discard_many(&mut self, reason: Discard, count: usize) {
        self.discards[reason as usize] += count as u64;
    }

    pub(crate) fn merged(mut self, other: &Self) -> Self {
        self.tun_received += other.tun_received;
        self.tun_sent += other.tun_sent;
        self.datagrams_received += other.datagrams_received;
        self.datagrams_sent += other.datagrams_sent;
        self.duplicated += other.duplicated;
        self.echoes += other.echoes;
        self.keepalives_sent += other.keepalives_sent;
        self.unreachables += other.unreachables;
        for (mine, theirs) in self.discards.iter_mut().zip(other.discards) {
            *mine += theirs;
        }
        self
    }
}

/// One peer's traffic since it was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Bytes of sealed datagrams sent, copies on the backup path included.
    pub tx_bytes: u64,
    /// Sealed datagrams sent.
    pub tx_packets: u64,
    /// IP packets sent.
    pub tx_data_packets: u64,
    /// Bytes of authentic datagrams received.
    pub rx_bytes: u64,
    /// Authentic datagrams received.
    pub rx_packets: u64,
    /// IP packets received and handed to the TUN.
    pub rx_data_packets: u64,
    /// Packets that wait for a session or a path.
    pub waiting: usize,
    /// When the newest session was installed as initiator, or confirmed as responder.
    pub last_handshake: Option<Instant>,
    /// When an authentic datagram last arrived.
    pub last_received: Option<Instant>,
    /// When a sealed datagram was last sent.
    pub last_sent: Option<Instant>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_place_of_its_own() {
        for (place, reason) in Discard::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }
}
