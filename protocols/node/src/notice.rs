//! What happens in a network, for whoever listens.

use ginnel_forward::PeerId;
use ginnel_path::Path;

use crate::io::Output;
use crate::network::Network;
use crate::networks::NetworkNumber;
use crate::node::Node;
use crate::report::PathReport;

/// Something that happened. Nothing depends on a notice being read: the shell may drop any.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// A machine became a member.
    Joined {
        /// Its name.
        name: String,
        /// Its member key in hexadecimal.
        id: String,
    },
    /// A member is one no more.
    Left {
        /// Its name.
        name: String,
        /// Its member key in hexadecimal.
        id: String,
        /// Who signed, by name where there is one; the member itself when it left.
        by: String,
    },
    /// A member has another name, other capabilities or other keys.
    Updated {
        /// Its name.
        name: String,
        /// Its member key in hexadecimal.
        id: String,
    },
    /// A machine joined with an invite that this machine made.
    InviteUsed {
        /// The invite's public key in hexadecimal.
        invite: String,
        /// The newcomer's name.
        name: String,
    },
    /// Packets can flow to a peer.
    Linked {
        /// Its name.
        peer: String,
    },
    /// Packets to a peer take another path.
    PathChanged {
        /// Its name.
        peer: String,
        /// The path.
        path: PathReport,
    },
    /// No path to a peer answers any longer.
    Lost {
        /// Its name.
        peer: String,
    },
    /// A server let this machine in.
    ServerUp {
        /// Its first address.
        server: String,
    },
    /// A server that had let this machine in is gone.
    ServerDown {
        /// Its first address.
        server: String,
        /// Why, in words.
        reason: String,
    },
    /// Somebody cheats, or the network needs an admin.
    Alarm {
        /// What was seen.
        text: String,
    },
    /// This machine's clock is wrong.
    Clock {
        /// Seconds by which it is ahead of the servers'; negative when behind.
        ahead_seconds: i64,
    },
}

impl Node {
    /// Tells how a peer is reached when that has changed.
    pub(crate) fn tell_path(&mut self, id: PeerId, before: Option<Path>, after: Option<Path>) {
        let Some(peer) = self.peers.get(&id) else { return };
        let name = peer.profile.name.clone();
        let notice = match (before, after) {
            (None, Some(_)) => Notice::Linked { peer: name },
            (Some(old), Some(path)) if old != path => {
                Notice::PathChanged { peer: name, path: self.path_report(peer, path) }
            }
            // A session that ran out for want of traffic is no loss.
            (Some(_), None) if peer.session.is_some() => Notice::Lost { peer: name },
            (Some(_), Some(_) | None) | (None, None) => return,
        };
        let network = peer.profile.network();
        self.notice(network, notice);
    }

    pub(crate) fn notice(&mut self, network: Option<NetworkNumber>, notice: Notice) {
        let network = network.and_then(|at| self.networks.get(at)).map(Network::title);
        self.outputs.push_back(Output::Notice { network, notice });
    }
}
