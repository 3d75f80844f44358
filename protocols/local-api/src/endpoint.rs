use std::fmt;

use crate::request::read;
use crate::{ApiError, Request};

/// What a caller needs to be allowed to use an endpoint; each tier includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// See, without endpoints and keys.
    Read,
    /// See everything, probe, start and stop.
    Operate,
    /// Change who is in the network.
    Admin,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        })
    }
}

/// HTTP method of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Asks without a body.
    Get,
    /// Asks with a body, or changes something.
    Post,
}

impl Method {
    /// The method as HTTP writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
        }
    }
}

/// What a request does to this machine and its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// A change that others keep: who asked for it is written to the daemon's log.
    Change,
    /// A change that counts only when it is on this machine's disk; written to the log likewise.
    Lasting,
}

/// The things that can be asked of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Everything the daemon knows.
    Status,
    /// The peers alone.
    Peers,
    /// The addresses of this machine or of a peer.
    Ip,
    /// The membership log.
    Log,
    /// What happens from now on, as it happens.
    Events,
    /// One probe to a peer and its echo.
    Ping,
    /// Founds, joins or starts a network.
    Up,
    /// Stops the network without leaving it.
    Down,
    /// Makes an invite.
    InviteCreate,
    /// Lists invites.
    InviteList,
    /// Voids an invite.
    InviteRevoke,
    /// Puts a member out of the network for good.
    Revoke,
    /// Leaves the network and forgets its keys.
    Leave,
    /// The servers of the network.
    ServerList,
    /// Gives the network one more server.
    ServerAdd,
    /// Takes a server out of the network.
    ServerRemove,
    /// Makes a server the one that orders the log.
    ServerPromote,
    /// The admins of the network.
    AdminList,
    /// Makes a member an admin.
    AdminAdd,
    /// Takes an admin's rights.
    AdminRemove,
    /// Sets how many admins must agree.
    AdminThreshold,
    /// Adds this machine's signature to what another admin has proposed.
    Cosign,
    /// The rules of the network.
    Policy,
    /// Changes the rules of the network.
    PolicySet,
    /// Lets newcomers start from what the log means at present.
    Checkpoint,
    /// Replaces this machine's keys in the network.
    RotateKeys,
}

impl Endpoint {
    /// Every endpoint.
    pub const ALL: [Self; 26] = [
        Self::Status,
        Self::Peers,
        Self::Ip,
        Self::Log,
        Self::Events,
        Self::Ping,
        Self::Up,
        Self::Down,
        Self::InviteCreate,
        Self::InviteList,
        Self::InviteRevoke,
        Self::Revoke,
        Self::Leave,
        Self::ServerList,
        Self::ServerAdd,
        Self::ServerRemove,
        Self::ServerPromote,
        Self::AdminList,
        Self::AdminAdd,
        Self::AdminRemove,
        Self::AdminThreshold,
        Self::Cosign,
        Self::Policy,
        Self::PolicySet,
        Self::Checkpoint,
        Self::RotateKeys,
    ];

    /// Its HTTP method.
    pub const fn method(self) -> Method {
        self.row().0
    }

    /// Its path.
    pub const fn path(self) -> &'static str {
        self.row().1
    }

    /// What a caller needs to be allowed to use it.
    pub const fn tier(self) -> Tier {
        self.row().2
    }

    /// What a request to it does.
    pub const fn effect(self) -> Effect {
        self.row().3
    }

    const fn row(self) -> (Method, &'static str, Tier, Effect) {
        use Method::{Get, Post};
        match self {
            Self::Status => (Get, "/v1/status", Tier::Read, Effect::None),
            Self::Peers => (Get, "/v1/peers", Tier::Read, Effect::None),
            Self::Ip => (Post, "/v1/ip", Tier::Read, Effect::None),
            Self::Log => (Get, "/v1/log", Tier::Read, Effect::None),
            Self::Events => (Get, "/v1/events", Tier::Read, Effect::None),
            Self::Ping => (Post, "/v1/ping", Tier::Operate, Effect::None),
            Self::Up => (Post, "/v1/up", Tier::Operate, Effect::Lasting),
            Self::Down => (Post, "/v1/down", Tier::Operate, Effect::Lasting),
            Self::InviteCreate => (Post, "/v1/invite/create", Tier::Admin, Effect::Change),
            Self::InviteList => (Get, "/v1/invite/list", Tier::Admin, Effect::None),
            Self::InviteRevoke => (Post, "/v1/invite/revoke", Tier::Admin, Effect::Change),
            // It takes effect on the others; a full disk must not keep a thief in.
            Self::Revoke => (Post, "/v1/revoke", Tier::Admin, Effect::Change),
            Self::Leave => (Post, "/v1/leave", Tier::Admin, Effect::Lasting),
            Self::ServerList => (Get, "/v1/server/list", Tier::Read, Effect::None),
            Self::ServerAdd => (Post, "/v1/server/add", Tier::Admin, Effect::Change),
            Self::ServerRemove => (Post, "/v1/server/remove", Tier::Admin, Effect::Change),
            Self::ServerPromote => (Post, "/v1/server/promote", Tier::Admin, Effect::Change),
            Self::AdminList => (Get, "/v1/admin/list", Tier::Read, Effect::None),
            Self::AdminAdd => (Post, "/v1/admin/add", Tier::Admin, Effect::Change),
            Self::AdminRemove => (Post, "/v1/admin/remove", Tier::Admin, Effect::Change),
            Self::AdminThreshold => (Post, "/v1/admin/threshold", Tier::Admin, Effect::Change),
            Self::Cosign => (Post, "/v1/cosign", Tier::Admin, Effect::Change),
            Self::Policy => (Get, "/v1/policy", Tier::Read, Effect::None),
            Self::PolicySet => (Post, "/v1/policy/set", Tier::Admin, Effect::Change),
            Self::Checkpoint => (Post, "/v1/checkpoint", Tier::Admin, Effect::Change),
            // Keys that are lost with the power would leave this machine out of its network.
            Self::RotateKeys => (Post, "/v1/rotate-keys", Tier::Admin, Effect::Lasting),
        }
    }

    /// Reads the body of a request to this endpoint.
    ///
    /// # Errors
    /// An error of [`Exit::Usage`](crate::Exit::Usage) that says what is wrong with the body.
    pub fn request(self, body: &[u8]) -> Result<Request, ApiError> {
        Ok(match self {
            Self::Status => Request::Status,
            Self::Peers => Request::Peers,
            Self::Ip => Request::Ip(read(body)?),
            Self::Log => Request::Log,
            Self::Events => Request::Events,
            Self::Ping => Request::Ping(read(body)?),
            Self::Up => Request::Up(read(body)?),
            Self::Down => Request::Down,
            Self::InviteCreate => Request::InviteCreate(read(body)?),
            Self::InviteList => Request::InviteList,
            Self::InviteRevoke => Request::InviteRevoke(read(body)?),
            Self::Revoke => Request::Revoke(read(body)?),
            Self::Leave => Request::Leave,
            Self::ServerList => Request::ServerList,
            Self::ServerAdd => Request::ServerAdd(read(body)?),
            Self::ServerRemove => Request::ServerRemove(read(body)?),
            Self::ServerPromote => Request::ServerPromote(read(body)?),
            Self::AdminList => Request::AdminList,
            Self::AdminAdd => Request::AdminAdd(read(body)?),
            Self::AdminRemove => Request::AdminRemove(read(body)?),
            Self::AdminThreshold => Request::AdminThreshold(read(body)?),
            Self::Cosign => Request::Cosign(read(body)?),
            Self::Policy => Request::Policy,
            Self::PolicySet => Request::PolicySet(read(body)?),
            Self::Checkpoint => Request::Checkpoint,
            Self::RotateKeys => Request::RotateKeys,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changing_endpoints_are_not_of_the_lowest_tier_nor_asked_for_by_get() {
        for endpoint in Endpoint::ALL {
            if endpoint.effect() != Effect::None {
                assert!(endpoint.tier() > Tier::Read && endpoint.method() == Method::Post, "{endpoint:?}");
            }
        }
    }

    #[test]
    fn no_two_endpoints_share_a_path() {
        let mut paths = Endpoint::ALL.map(Endpoint::path).to_vec();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), Endpoint::ALL.len());
    }
}
