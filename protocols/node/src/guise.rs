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
use crate::link::{CROWDED, Link};
use crate::network::Network;
use crate::node::Node;
use crate::saved::Secret;

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
    /// The key of the first admin, no member's, where this machine founded the network. Whether it is an admin's still is not
    /// asked of the log here: to a server that has lost its end it may be.
    fn bare_admin_key(&self) -> Option<SigningKey> {
        self.saved.admin.as_ref().map(Secret::signing)
    }

    /// The key that a server is shown instead of the member's, in the guise that it is met in.
    pub(crate) fn guise_key(&self, id: ServerId) -> Option<SigningKey> {
        let guise = self.links.get(&id).map(|link| link.guise).unwrap_or_default();
        self.bare_admin_key().filter(|_| guise == Guise::Admin)
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

impl Node {
    /// A server that this machine has come in at as an admin takes nothing of what it lacks: it is left for a while, and
    /// may know members when this machine comes back.
    pub(crate) fn give_up_as_admin(&mut self, now: Instant, id: ServerId) {
        let Some(link) = self.networks.link_mut(id).filter(|link| link.guise == Guise::Admin) else { return };
        link.guise = Guise::Member;
        link.close(now, Some(CROWDED));
        self.outputs.push_back(Output::DisconnectServer(id));
    }
}

impl Link {
    /// Whether the server serves this machine as a member, or as one that is to be.
    pub(crate) fn serves(&self) -> bool {
        self.is_up() && self.guise == Guise::Member
    }
}
