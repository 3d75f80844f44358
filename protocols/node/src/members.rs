//! Members as peers: who is one, what they are called, and the mail they send.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ginnel_forward::{PeerId, Roam};
use ginnel_membership::{Capabilities, MemberKey, Name, TunnelKey, VerifiedPeer};
use ginnel_time::Instant;
use ginnel_tunnel::{PresharedKey, PublicKey, Suite};

use crate::Discard;
use crate::exchange::Road;
use crate::io::Output;
use crate::mail::{Mail, MailKind};
use crate::node::{Node, host};
use crate::peer::{IdentityId, Peer, Profile};
use crate::report::PeerSource;
use crate::saved::Switch;

impl Node {
    /// Makes peers of the members, and removes peers that are members no more.
    pub(crate) fn sync_members(&mut self) {
        let Some(network) = &self.network else { return };
        let me = network.key();
        let running = network.saved.switch == Switch::Up && network.is_member();
        let wanted: Vec<VerifiedPeer> = if running { network.state.peers(&me) } else { Vec::new() };
        let keys: BTreeSet<MemberKey> = wanted.iter().map(VerifiedPeer::member).collect();
        let gone: Vec<PeerId> = self
            .peers
            .values()
            .filter(|peer| peer.profile.member.is_some_and(|member| !keys.contains(&member)))
            .map(|peer| peer.id)
            .collect();
        for id in gone {
            self.remove_peer(id);
        }
        if let Some(network) = &mut self.network {
            network.saved.recent.retain(|key| !network.state.is_revoked(key));
        }
        for peer in wanted {
            self.take_member(&peer);
        }
        self.tell_names();
        self.refresh_tun();
    }

    pub(crate) fn take_member(&mut self, verified: &VerifiedPeer) {
        let allowed: Vec<(IpAddr, u8)> = verified_addresses(verified).into_iter().map(host).collect();
        let name = verified.name().as_str().to_owned();
        let known = self.peers.values_mut().find(|peer| peer.profile.member == Some(verified.member()));
        if let Some(peer) = known {
            peer.profile.name.clone_from(&name);
            if peer.profile.allowed == allowed {
                return;
            }
            let id = peer.id;
            self.remove_peer(id);
        }
        let key = PublicKey::from_bytes(verified.tunnel_key().to_bytes());
        let accepts = suites_of(verified.suites());
        let suite = self.suites.iter().copied().find(|suite| accepts.contains(suite)).unwrap_or(Suite::ChaChaPoly);
        let profile = Profile {
            name,
            source: PeerSource::Log,
            member: Some(verified.member()),
            identity: IdentityId::Network,
            key,
            psk: PresharedKey::zero(),
            suite,
            accepts,
            allowed,
        };
        let ways = self.agent_ways(None);
        let peer = Peer::new(self.next_peer_id(), profile, ways);
        self.add_peer(peer, Roam::Fixed, None);
    }

    /// The peer that a member is in the data plane.
    pub(crate) fn member_peer(&self, member: &MemberKey) -> Option<PeerId> {
        let key = self.network.as_ref()?.state.member(member)?.tunnel_key();
        self.by_key.get(&(IdentityId::Network, PublicKey::from_bytes(key.to_bytes()))).copied()
    }

    pub(crate) fn tell_names(&mut self) {
        let Some(network) = &self.network else { return };
        let mut names = Vec::new();
        if network.saved.switch == Switch::Up {
            for member in network.state.members().filter(|member| network.state.is_live(&member.key())) {
                let name = format!("{}.{}.internal", member.name(), network.state.name().map_or("", Name::as_str));
                names.push((name, addresses_of(member)));
            }
        }
        if self.names != names {
            self.names.clone_from(&names);
            self.outputs.push_back(Output::Names(names));
        }
    }

    pub(crate) fn handle_mail(&mut self, now: Instant, from: MemberKey, bytes: &[u8]) -> Result<(), Discard> {
        let by_key = &self.by_key;
        let network = self.network.as_mut().ok_or(Discard::BadMail)?;
        let mut known =
            |key: &TunnelKey| by_key.contains_key(&(IdentityId::Network, PublicKey::from_bytes(key.to_bytes())));
        let opened = network.opener.open(bytes, &mut known).map_err(|_| Discard::BadMail)?;
        let key = PublicKey::from_bytes(opened.sender.to_bytes());
        let id = *by_key.get(&(IdentityId::Network, key)).ok_or(Discard::BadMail)?;
        if self.peers.get(&id).and_then(|peer| peer.profile.member) != Some(from) {
            return Err(Discard::ForeignMail);
        }
        let mail = Mail::decode(&opened.body).ok_or(Discard::BadMail)?;
        let fits = matches!(
            (mail.kind, ginnel_tunnel::classify(&mail.handshake)),
            (MailKind::Offer, Some((_, ginnel_tunnel::MessageKind::Initiation)))
                | (MailKind::Answer, Some((_, ginnel_tunnel::MessageKind::Response)))
                | (MailKind::Cookie, Some((_, ginnel_tunnel::MessageKind::Cookie)))
        );
        if !fits {
            return Err(Discard::BadMail);
        }
        self.handle_handshake(now, Road::Mailbox(id), &mail.handshake, &mail.candidates)
    }
}

pub(crate) fn addresses_of(member: &ginnel_membership::Member) -> Vec<IpAddr> {
    member.ipv4().map(IpAddr::V4).into_iter().chain([IpAddr::V6(member.ipv6())]).collect()
}

pub(crate) fn verified_addresses(peer: &VerifiedPeer) -> Vec<IpAddr> {
    peer.ipv4().map(IpAddr::V4).into_iter().chain([IpAddr::V6(peer.ipv6())]).collect()
}

pub(crate) fn suites_of(capabilities: Capabilities) -> Vec<Suite> {
    let mut suites = Vec::new();
    if capabilities.contains(Capabilities::AES_GCM) {
        suites.push(Suite::AesGcm);
    }
    if capabilities.contains(Capabilities::CHACHA_POLY) {
        suites.push(Suite::ChaChaPoly);
    }
    suites
}
