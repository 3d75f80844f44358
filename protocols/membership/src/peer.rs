//! Members as others see them, and [`VerifiedPeer`], the only way from the log into the data plane.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::keys::{InviteKey, MemberKey, TunnelKey};
use crate::name::Name;
use crate::record::Capabilities;

/// A member, live or revoked, for lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub(crate) key: MemberKey,
    pub(crate) tunnel_key: TunnelKey,
    pub(crate) invite: InviteKey,
    pub(crate) name: Name,
    pub(crate) wish: Name,
    pub(crate) capabilities: Capabilities,
    pub(crate) ipv4: Option<Ipv4Addr>,
    pub(crate) ipv6: Ipv6Addr,
    pub(crate) joined: u64,
    pub(crate) update_number: u64,
    pub(crate) standing: Standing,
}

/// Whether a member still is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is.
    Live,
    /// It was revoked, at this entry time (Unix seconds).
    Revoked(u64),
}

impl Member {
    /// Its Ed25519 key.
    pub const fn key(&self) -> MemberKey {
        self.key
    }

    /// Its X25519 key.
    pub const fn tunnel_key(&self) -> TunnelKey {
        self.tunnel_key
    }

    /// The invite with which it joined.
    pub const fn invite(&self) -> InviteKey {
        self.invite
    }

    /// The name it was given; a revoked member's name may be another's by now.
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// The name it wished for, which another may have had first.
    pub const fn wish(&self) -> &Name {
        &self.wish
    }

    /// Its IPv4 address; `None` when the range was exhausted.
    pub const fn ipv4(&self) -> Option<Ipv4Addr> {
        self.ipv4
    }

    /// Its IPv6 address.
    pub const fn ipv6(&self) -> Ipv6Addr {
        self.ipv6
    }

    /// What it can do.
    pub const fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// The time of the entry with which it joined, Unix seconds.
    pub const fn joined(&self) -> u64 {
        self.joined
    }

    /// The number of its latest update, 0 before the first; the next one must be greater.
    pub const fn update_number(&self) -> u64 {
        self.update_number
    }

    /// Whether it still is a member, by the log alone.
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    pub(crate) const fn is_live(&self) -> bool {
        matches!(self.standing, Standing::Live)
    }
}

/// A live member other than oneself, proved by the log.
///
/// Only [`crate::state::State`] makes one, whichever way the entries came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPeer {
    member: MemberKey,
    tunnel_key: TunnelKey,
    name: Name,
    ipv4: Option<Ipv4Addr>,
    ipv6: Ipv6Addr,
    suites: Capabilities,
}

impl VerifiedPeer {
    pub(crate) fn of(member: &Member) -> Self {
        Self {
            member: member.key,
            tunnel_key: member.tunnel_key,
            name: member.name.clone(),
            ipv4: member.ipv4,
            ipv6: member.ipv6,
            suites: member.capabilities,
        }
    }

    /// Its Ed25519 key.
    pub const fn member(&self) -> MemberKey {
        self.member
    }

    /// Its X25519 key.
    pub const fn tunnel_key(&self) -> TunnelKey {
        self.tunnel_key
    }

    /// Its name.
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// Its IPv4 address; `None` when the range was exhausted.
    pub const fn ipv4(&self) -> Option<Ipv4Addr> {
        self.ipv4
    }

    /// Its IPv6 address.
    pub const fn ipv6(&self) -> Ipv6Addr {
        self.ipv6
    }

    /// The suites it lists; at least one is set.
    pub const fn suites(&self) -> Capabilities {
        self.suites
    }
}
