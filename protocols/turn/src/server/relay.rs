//! Data between clients and peers.

use std::net::{IpAddr, SocketAddr};

use ginnel_stun::codec::{Builder, Class, Message, Method, TransactionId, attribute};
use rand_core::RngCore;

use super::allocation::{Allocation, AllocationId, FiveTuple};
use super::{Discard, Output, Server};
use crate::channel_data;

impl Server {
    /// ChannelData from a client.
    pub(super) fn receive_channel_data(&mut self, from: FiveTuple, mut bytes: Vec<u8>) -> Result<(), Discard> {
        let (channel, data) = channel_data::decode(&bytes).map_err(|_| Discard::Malformed)?;
        let length = data.len();
        let (id, allocation) = self.allocations.of_client(from).ok_or(Discard::NoAllocation)?;
        let peer = allocation.peer_of(self.now, channel).ok_or(Discard::UnknownChannel)?;
        bytes.drain(..channel_data::HEADER_LEN);
        bytes.truncate(length);
        self.relay(id, peer, bytes)
    }

    /// A Send indication from a client.
    pub(super) fn receive_send(&mut self, from: FiveTuple, message: &Message) -> Result<(), Discard> {
        // DONT-FRAGMENT is among the attributes that are not understood (RFC 8656 §11.2).
        if !message.unknown_required(&[attribute::XOR_PEER_ADDRESS, attribute::DATA]).is_empty() {
            return Err(Discard::Incomplete);
        }
        let (id, _) = self.allocations.of_client(from).ok_or(Discard::NoAllocation)?;
        let peer = message.xor_peer_addresses().next().ok_or(Discard::Incomplete)?;
        let data = message.data().ok_or(Discard::Incomplete)?.to_vec();
        self.relay(id, peer, data)
    }

    /// A datagram on a relayed address.
    pub(super) fn receive_relayed(
        &mut self,
        id: AllocationId,
        from: SocketAddr,
        bytes: Vec<u8>,
    ) -> Result<(), Discard> {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let allocation = self.allocations.get(id).ok_or(Discard::NoAllocation)?;
        // What our relayed addresses send to each other never leaves the process, so this is forged.
        if self.own_addresses.contains(&from.ip()) {
            return Err(Discard::Forbidden);
        }
        self.authorize_peer(allocation, from)?;
        self.deliver(id, from, bytes)
    }

    /// The one check that every datagram between an allocation and a peer passes, whatever its direction and framing.
    fn authorize_peer(&self, allocation: &Allocation, peer: SocketAddr) -> Result<(), Discard> {
        if allocation.relayed().is_none() || !allocation.is_permitted(self.now, peer.ip()) || peer.port() == 0 {
            return Err(Discard::NotPermitted);
        }
        if !self.may_reach(peer.ip()) {
            return Err(Discard::Forbidden);
        }
        Ok(())
    }

    /// Whether any allocation may exchange data with this address at all.
    pub(super) fn may_reach(&self, address: IpAddr) -> bool {
        // An IPv4 address in disguise would leave through an IPv6 socket as IPv4, past an IPv4 allocation's quotas.
        let disguised = address != address.to_canonical();
        !disguised && (self.own_addresses.contains(&address) || (self.config.policy)(address))
    }

    fn relay(&mut self, id: AllocationId, peer: SocketAddr, bytes: Vec<u8>) -> Result<(), Discard> {
        let allocation = self.allocations.get(id).ok_or(Discard::NoAllocation)?;
        self.authorize_peer(allocation, peer)?;
        if !self.own_addresses.contains(&peer.ip()) {
            return self.push(Output::Relay { allocation: id, to: peer, bytes });
        }
        let relayed = allocation.relayed().ok_or(Discard::NotPermitted)?;
        let (other_id, other) = self.allocations.of_relayed(peer).ok_or(Discard::NoSuchPeer)?;
        self.authorize_peer(other, relayed)?;
        self.deliver(other_id, relayed, bytes)
    }

    /// Hands data to a client: as ChannelData if a channel is bound to the peer, else as a Data indication.
    fn deliver(&mut self, id: AllocationId, peer: SocketAddr, bytes: Vec<u8>) -> Result<(), Discard> {
        let allocation = self.allocations.get(id).ok_or(Discard::NoAllocation)?;
        let to = allocation.five_tuple;
        let datagram = match allocation.channel_of(self.now, peer) {
            Some(channel) => {
                let header = channel_data::encode_header(channel, bytes.len()).ok_or(Discard::TooLong)?;
                let mut datagram = Vec::with_capacity(header.len() + bytes.len());
                datagram.extend_from_slice(&header);
                datagram.extend_from_slice(&bytes);
                datagram
            }
            None => {
                let mut transaction = TransactionId([0; 12]);
                self.rng.fill_bytes(&mut transaction.0);
                let indication = Builder::new(Class::Indication, Method::Data, transaction);
                indication.xor_peer_address(peer).data(&bytes).encode().map_err(|_| Discard::TooLong)?
            }
        };
        self.send_to_client(to, datagram)
    }
}
