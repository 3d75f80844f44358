//! Coming in at a server that has lost the entries by which it would know this machine.
//!
//! A server that was restored from an old backup may know none of the members who could give it back what it lost, and no
//! fellow server either. The genesis it has, and in there the key of the network's first admin, which is no member's. A machine that holds
//! such a key comes in by it, hands in what is lost, and comes in again as the member that it is. Until then the server is
//! none to it: it takes no mail and gives no relay.

use std::time::Duration;

use ginnel_membership::SigningKey;
use ginnel_time::Instant;

use crate::io::{Output, ServerId};
use crate::link::Link;
use crate::network::Network;
use crate::node::Node;

/// As whom a member comes in at a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Guise {
    /// As the member that it is.
    #[default]
    Member,
    /// As an admin that is no member.
    Admin,
}

impl Network {
    /// A key of this machine that is an admin's and no member's.
    pub(crate) fn bare_admin_key(&self) -> Option<SigningKey> {
        let me = self.key();
        self.admin_keys().into_iter().find(|key| key.member_key() != me)
    }

    /// A server knows no member by the key that it was shown: it is shown the other one next, where there is one.
    pub(crate) fn change_guise(&mut self, id: ServerId) {
        let able = self.is_member() && self.bare_admin_key().is_some();
        if let Some(link) = self.links.get_mut(&id) {
            link.guise = if able && link.guise == Guise::Member { Guise::Admin } else { Guise::Member };
        }
    }
}

impl Node {
    /// A server that this machine has come in at as an admin holds all of the log again.
    pub(crate) fn come_in_as_member(&mut self, now: Instant, id: ServerId) {
        let Some(link) = self.networks.link_mut(id).filter(|link| link.guise == Guise::Admin) else { return };
        link.guise = Guise::Member;
        link.close(now, Some(Duration::ZERO));
        self.outputs.push_back(Output::DisconnectServer(id));
    }
}

impl Link {
    /// Whether the server serves this machine as a member, or as one that is to be.
    pub(crate) fn serves(&self) -> bool {
        self.is_up() && self.guise == Guise::Member
    }
}
