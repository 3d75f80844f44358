//! New keys, of this machine and of others: what changes when the log holds them. Sessions last until the next handshake,
//! which is made at once.

use ginnel_forward::PeerId;
use ginnel_membership::MemberKey;
use ginnel_signal_proto::mailbox::{MailOpener, MailSealer};
use ginnel_time::Instant;
use ginnel_tunnel::{NetworkTag, PublicKey};

use crate::attempt::GREETING;
use crate::io::Output;
use crate::link::LinkStatus;
use crate::networks::NetworkNumber;
use crate::node::Node;
use crate::peer::{IdentityId, Jars};
use crate::saved::Switch;

impl Node {
    /// Takes the keys that the log gave this machine, if it did; answers whether.
    pub(crate) fn take_new_keys(&mut self, at: NetworkNumber) -> bool {
        let Some(network) = self.networks.get_mut(at) else { return false };
        let me = network.key();
        let rotated = network.saved.next_keys.take_if(|next| {
            let new = next.member.signing().member_key();
            network.state.current_key(&me) == new && network.state.member(&new).is_some()
        });
        let Some(next) = rotated else { return false };
        (network.saved.member, network.saved.tunnel) = (next.member, next.tunnel);
        network.next_keys_tried = false;
        let (id, secret) = (network.saved.id(), network.saved.tunnel.clone());
        let tunnel = || zeroize::Zeroizing::new(*secret.bytes());
        let sealer = MailSealer::new(self.seed(), tunnel(), &id);
        let opener = MailOpener::new(self.seed(), tunnel(), &id);
        if let Some(network) = self.networks.get_mut(at) {
            (network.sealer, network.opener) = (sealer, opener);
        }
        self.add_identity(IdentityId::Network(at), secret.tunnel(), NetworkTag(id.to_bytes()));
        self.persist();
        true
    }

    /// Makes links and sessions anew with this machine's new keys.
    pub(crate) fn use_new_keys(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let mut open = Vec::new();
        for (id, link) in &mut network.links {
            if link.status != LinkStatus::Down {
                open.push(*id);
                link.close(now, (network.saved.switch == Switch::Up).then_some(std::time::Duration::ZERO));
            }
        }
        self.outputs.extend(open.into_iter().map(Output::DisconnectServer));
        let ids: Vec<PeerId> = self.awake.iter().copied().collect();
        for id in ids {
            let Some(peer) = self.peers.get(&id).filter(|peer| peer.profile.network() == Some(at)) else { continue };
            let (wanted, linked) = (peer.attempt.is_some(), peer.session.is_some());
            self.end_attempt(id);
            if wanted || linked {
                self.begin_attempt(now, id, now, GREETING);
            }
        }
    }

    /// A peer has other keys. Its next handshake is by the new ones; it begins that itself.
    pub(crate) fn peer_rotated(&mut self, at: NetworkNumber, old: MemberKey, new: MemberKey) {
        let Some(network) = self.networks.get_mut(at) else { return };
        network.saved.recent.rename(&old, new);
        let Some(member) = network.state.member(&new) else { return };
        let key = PublicKey::from_bytes(member.tunnel_key().to_bytes());
        let Some(id) = self.by_member.remove(&(at, old)) else { return };
        self.by_member.insert((at, new), id);
        self.end_attempt(id);
        self.pending_answers.retain(|pending| pending.peer != id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        self.by_key.remove(&(IdentityId::Network(at), peer.profile.key));
        self.by_key.insert((IdentityId::Network(at), key), id);
        peer.profile.member = Some(new);
        peer.profile.key = key;
        peer.jars = Jars::new(key);
        peer.answered = None;
        peer.accepted = None;
    }
}
