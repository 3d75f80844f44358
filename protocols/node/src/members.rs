//! Members as peers: who is one, what they are called, and the mail they send.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ginnel_forward::{PeerId, Roam};
use ginnel_membership::{Capabilities, Change, Member, MemberKey, TunnelKey, VerifiedPeer};
use ginnel_time::Instant;
use ginnel_tunnel::{PresharedKey, PublicKey, Suite};

use crate::Discard;
use crate::exchange::Road;
use crate::interface::host;
use crate::io::{Output, ServerId};
use crate::mail::{Mail, MailKind};
use crate::networks::{Ipv4Use, NetworkNumber};
use crate::node::{FEW_PEERS, Node};
use crate::notice::Notice;
use crate::peer::{IdentityId, Peer, Profile, Ways};
use crate::report::PeerSource;
use crate::saved::Switch;

impl Node {
    /// Makes peers of the members, and removes peers that are members no more. It looks at every member: what follows the
    /// log entry by entry is [`Self::take_changes`].
    pub(crate) fn sync_members(&mut self, at: NetworkNumber) {
        let time = self.time(self.now, at);
        let Some(network) = self.networks.get_mut(at) else { return };
        let me = network.key();
        let running = network.saved.switch == Switch::Up && network.is_member();
        let wanted: Vec<VerifiedPeer> = if running { network.state.peers(&me) } else { Vec::new() };
        let keys: BTreeSet<MemberKey> = wanted.iter().map(VerifiedPeer::member).collect();
        network.saved.recent.retain(|key| !network.state.is_revoked(key));
        network.held_back.clear();
        let known = self.by_member.iter().filter(|((network, _), _)| *network == at);
        let gone: Vec<PeerId> = known.filter(|((_, member), _)| !keys.contains(member)).map(|(_, id)| *id).collect();
        for id in gone {
            self.remove_peer(id);
        }
        let crowd = Crowd::of(wanted.len());
        for peer in wanted {
            self.admit_member(time, at, &peer, crowd);
        }
        self.tell_names();
        self.refresh_tun();
        self.refresh_refused();
    }

    /// Makes a peer of a member, unless newcomers are not let in at present.
    fn admit_member(&mut self, time: u64, at: NetworkNumber, verified: &VerifiedPeer, crowd: Crowd) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let member = verified.member();
        if !self.by_member.contains_key(&(at, member)) && network.is_held_back(&member, time) {
            network.held_back.insert(member);
            return;
        }
        let ipv4 = network.saved.ipv4;
        self.take_member(at, ipv4, verified, crowd);
    }

    fn take_member(&mut self, at: NetworkNumber, ipv4: Ipv4Use, verified: &VerifiedPeer, crowd: Crowd) {
        let usable = verified_addresses(verified).into_iter().filter(|ip| ipv4.allows(*ip));
        let allowed: Vec<(IpAddr, u8)> = usable.map(host).collect();
        let name = verified.name().as_str().to_owned();
        let accepts = suites_of(verified.suites());
        let suite = self.suites.iter().copied().find(|suite| accepts.contains(suite)).unwrap_or(Suite::ChaChaPoly);
        let known = self.by_member.get(&(at, verified.member())).copied();
        if let Some(peer) = known.and_then(|id| self.peers.get_mut(&id)) {
            peer.profile.name.clone_from(&name);
            peer.profile.accepts.clone_from(&accepts);
            peer.profile.suite = suite;
            if peer.profile.allowed == allowed {
                return;
            }
            let id = peer.id;
            self.remove_peer(id);
        }
        let profile = Profile {
            name,
            source: PeerSource::Log,
            member: Some(verified.member()),
            identity: IdentityId::Network(at),
            key: PublicKey::from_bytes(verified.tunnel_key().to_bytes()),
            psk: PresharedKey::zero(),
            suite,
            accepts,
            allowed,
        };
        let ways = match crowd {
            Crowd::Many => Ways::Dormant,
            Crowd::Few => self.agent_ways(None),
        };
        let peer = Peer::new(self.next_peer_id(), profile, ways);
        self.add_peer(peer, Roam::Fixed, None);
    }

    /// Puts the changes of entries that were just applied into effect.
    pub(crate) fn take_changes(&mut self, now: Instant, at: NetworkNumber, changes: &[Change]) {
        if let Some(network) = self.networks.get(at) {
            let notices: Vec<Notice> = changes.iter().flat_map(|change| network.notices(change)).collect();
            notices.into_iter().for_each(|notice| self.notice(Some(at), notice));
        }
        if self.networks.settle_title(at) {
            self.persist();
        }
        let mut scope = Scope::Nothing;
        let mut own_keys = false;
        for change in changes {
            if let Change::Rotated { old, new } = change {
                if self.take_new_keys(at) {
                    own_keys = true;
                } else {
                    self.peer_rotated(at, *old, *new);
                }
            }
            let further = if changes.len() > MANY_CHANGES { Scope::Everybody } else { self.take_change(at, change) };
            scope = scope.max(further);
        }
        match scope {
            Scope::Nothing => {}
            Scope::Some => {
                self.tell_names();
                self.refresh_tun();
                self.refresh_refused();
            }
            Scope::Everybody => self.sync_members(at),
        }
        if own_keys {
            self.use_new_keys(now, at);
        }
        if changes.iter().any(|change| matches!(change, Change::Checkpointed(_))) {
            self.compact_log(at);
        }
    }

    /// Puts one change into effect, as far as it concerns single members.
    fn take_change(&mut self, at: NetworkNumber, change: &Change) -> Scope {
        let time = self.time(self.now, at);
        let Some(network) = self.networks.get(at) else { return Scope::Nothing };
        let me = network.key();
        let running = network.saved.switch == Switch::Up && network.is_member();
        match change {
            Change::Joined(key) | Change::Updated(key) | Change::Spared(key) | Change::Rotated { new: key, .. } => {
                if *key == me {
                    return Scope::Everybody;
                }
                let crowd = Crowd::of(network.installed + 1);
                match network.state.peer(&me, key).filter(|_| running) {
                    Some(peer) => self.admit_member(time, at, &peer, crowd),
                    // Its revocation may be known though it is not ordered.
                    None => self.drop_member(at, key),
                }
                Scope::Some
            }
            Change::Revoked(key) => {
                if *key == me {
                    return Scope::Everybody;
                }
                if let Some(network) = self.networks.get_mut(at) {
                    network.saved.recent.retain(|known| known != key);
                }
                self.drop_member(at, key);
                Scope::Some
            }
            Change::Leased(_) | Change::PolicyChanged if !network.held_back.is_empty() => Scope::Everybody,
            Change::Founded => Scope::Everybody,
            Change::Invited(_)
            | Change::InviteVoided(_)
            | Change::Leased(_)
            | Change::AdminsChanged
            | Change::ServersChanged
            | Change::PolicyChanged
            | Change::Checkpointed(_) => Scope::Nothing,
        }
    }

    fn drop_member(&mut self, at: NetworkNumber, key: &MemberKey) {
        if let Some(id) = self.member_peer(at, key) {
            self.remove_peer(id);
        }
    }

    /// The peer that a member is in the data plane.
    pub(crate) fn member_peer(&self, at: NetworkNumber, member: &MemberKey) -> Option<PeerId> {
        self.by_member.get(&(at, *member)).copied()
    }

    /// Tells the names of the members; in a large network only of those that this machine has lately had links with.
    pub(crate) fn tell_names(&mut self) {
        let mut names = Vec::new();
        for network in self.networks.iter().filter(|network| network.is_running()) {
            let title = network.title();
            let mut tell = |member: &Member| {
                let usable = addresses_of(member).into_iter().filter(|ip| network.saved.ipv4.allows(*ip));
                names.push((format!("{}.{title}.internal", member.name()), usable.collect()));
            };
            if network.is_large() {
                let known = std::iter::once(network.key()).chain(network.saved.recent.members());
                known
                    .filter(|key| network.state.is_live(key))
                    .filter_map(|key| network.state.member(&key))
                    .for_each(tell);
            } else {
                network.state.members().filter(|member| network.state.is_live(&member.key())).for_each(&mut tell);
            }
        }
        if self.names != names {
            self.names.clone_from(&names);
            self.outputs.push_back(Output::Names(names));
        }
    }

    pub(crate) fn handle_mail(
        &mut self,
        now: Instant,
        server: ServerId,
        from: MemberKey,
        bytes: &[u8],
    ) -> Result<(), Discard> {
        let by_key = &self.by_key;
        let network = self.networks.owner_mut(server).ok_or(Discard::BadMail)?;
        let identity = IdentityId::Network(network.number);
        let mut known = |key: &TunnelKey| by_key.contains_key(&(identity, PublicKey::from_bytes(key.to_bytes())));
        let opened = network.opener.open(bytes, &mut known).map_err(|_| Discard::BadMail)?;
        let key = PublicKey::from_bytes(opened.sender.to_bytes());
        let id = *by_key.get(&(identity, key)).ok_or(Discard::BadMail)?;
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

/// Whether a network has so many members that nothing is kept for those whom nobody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crowd {
    Few,
    Many,
}

impl Crowd {
    const fn of(members: usize) -> Self {
        if members > FEW_PEERS { Self::Many } else { Self::Few }
    }
}

/// How many members a change concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Nothing,
    Some,
    Everybody,
}

/// From so many changes at once on, all members are looked at instead.
const MANY_CHANGES: usize = 64;

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
