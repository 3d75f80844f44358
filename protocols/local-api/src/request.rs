use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ApiError, Endpoint, Exit, MAX_BODY, Right};

/// One request, with what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Everything the daemon knows.
    Status,
    /// The peers alone.
    Peers,
    /// The addresses of this machine or of a peer.
    Ip(IpRequest),
    /// The membership log.
    Log,
    /// What happens from now on, as it happens.
    Events,
    /// One probe to a peer and its echo.
    Ping(PingRequest),
    /// Founds, joins or starts a network.
    Up(UpRequest),
    /// Stops the network without leaving it.
    Down,
    /// Makes an invite.
    InviteCreate(InviteCreateRequest),
    /// Lists invites.
    InviteList,
    /// Voids an invite.
    InviteRevoke(InviteRevokeRequest),
    /// Puts a member out of the network for good.
    Revoke(RevokeRequest),
    /// Leaves the network and forgets its keys.
    Leave,
    /// The servers of the network.
    ServerList,
    /// Gives the network one more server.
    ServerAdd(ServerAddRequest),
    /// Takes a server out of the network.
    ServerRemove(ServerRequest),
    /// Makes a server the one that orders the log.
    ServerPromote(ServerRequest),
    /// The admins of the network.
    AdminList,
    /// Makes a member an admin.
    AdminAdd(AdminRequest),
    /// Takes an admin's rights.
    AdminRemove(AdminRequest),
    /// Sets how many admins must agree.
    AdminThreshold(ThresholdRequest),
    /// Adds this machine's signature to what another admin has proposed.
    Cosign(CosignRequest),
    /// The rules of the network.
    Policy,
    /// Changes the rules of the network.
    PolicySet(PolicyRequest),
    /// Lets newcomers start from what the log means at present.
    Checkpoint,
    /// Replaces this machine's keys in the network.
    RotateKeys,
}

impl Request {
    /// The endpoint that it goes to.
    pub const fn endpoint(&self) -> Endpoint {
        match self {
            Self::Status => Endpoint::Status,
            Self::Peers => Endpoint::Peers,
            Self::Ip(_) => Endpoint::Ip,
            Self::Log => Endpoint::Log,
            Self::Events => Endpoint::Events,
            Self::Ping(_) => Endpoint::Ping,
            Self::Up(_) => Endpoint::Up,
            Self::Down => Endpoint::Down,
            Self::InviteCreate(_) => Endpoint::InviteCreate,
            Self::InviteList => Endpoint::InviteList,
            Self::InviteRevoke(_) => Endpoint::InviteRevoke,
            Self::Revoke(_) => Endpoint::Revoke,
            Self::Leave => Endpoint::Leave,
            Self::ServerList => Endpoint::ServerList,
            Self::ServerAdd(_) => Endpoint::ServerAdd,
            Self::ServerRemove(_) => Endpoint::ServerRemove,
            Self::ServerPromote(_) => Endpoint::ServerPromote,
            Self::AdminList => Endpoint::AdminList,
            Self::AdminAdd(_) => Endpoint::AdminAdd,
            Self::AdminRemove(_) => Endpoint::AdminRemove,
            Self::AdminThreshold(_) => Endpoint::AdminThreshold,
            Self::Cosign(_) => Endpoint::Cosign,
            Self::Policy => Endpoint::Policy,
            Self::PolicySet(_) => Endpoint::PolicySet,
            Self::Checkpoint => Endpoint::Checkpoint,
            Self::RotateKeys => Endpoint::RotateKeys,
        }
    }

    /// The body as it goes over the socket; empty where there is nothing to say.
    pub fn body(&self) -> Vec<u8> {
        match self {
            Self::Status
            | Self::Peers
            | Self::Log
            | Self::Events
            | Self::Down
            | Self::InviteList
            | Self::Leave
            | Self::ServerList
            | Self::AdminList
            | Self::Policy
            | Self::Checkpoint
            | Self::RotateKeys => Vec::new(),
            Self::Ip(body) => write(body),
            Self::Ping(body) => write(body),
            Self::Up(body) => write(body),
            Self::InviteCreate(body) => write(body),
            Self::InviteRevoke(body) => write(body),
            Self::Revoke(body) => write(body),
            Self::ServerAdd(body) => write(body),
            Self::ServerRemove(body) | Self::ServerPromote(body) => write(body),
            Self::AdminAdd(body) | Self::AdminRemove(body) => write(body),
            Self::AdminThreshold(body) => write(body),
            Self::Cosign(body) => write(body),
            Self::PolicySet(body) => write(body),
        }
    }

    /// Whom or what it is about, for the daemon's log; never a secret.
    pub fn subject(&self) -> Option<&str> {
        match self {
            Self::Ip(ip) => ip.peer.as_deref(),
            Self::Ping(ping) => Some(&ping.peer),
            Self::Up(up) => up.name.as_deref(),
            Self::InviteCreate(invite) => invite.name.as_deref(),
            Self::InviteRevoke(invite) => Some(&invite.id),
            Self::Revoke(revoke) => Some(&revoke.peer),
            Self::ServerRemove(server) | Self::ServerPromote(server) => Some(&server.server),
            Self::AdminAdd(admin) | Self::AdminRemove(admin) => Some(&admin.peer),
            Self::PolicySet(policy) => policy.delegate.as_ref().map(|delegate| delegate.peer.as_str()),
            Self::Status
            | Self::Peers
            | Self::Log
            | Self::Events
            | Self::Down
            | Self::InviteList
            | Self::Leave
            | Self::ServerList
            | Self::ServerAdd(_)
            | Self::AdminList
            | Self::AdminThreshold(_)
            | Self::Cosign(_)
            | Self::Policy
            | Self::Checkpoint
            | Self::RotateKeys => None,
        }
    }

    /// How long the daemon works on it before it answers that it could not.
    pub fn deadline(&self) -> Duration {
        match self {
            // The answer that no echo came is itself due at the end of the ping's own limit.
            Self::Ping(ping) => ping.timeout() + Duration::from_secs(1),
            Self::Up(up) => Duration::from_millis(up.timeout_ms).min(LONGEST),
            Self::InviteCreate(_)
            | Self::InviteRevoke(_)
            | Self::Revoke(_)
            | Self::Leave
            | Self::ServerAdd(_)
            | Self::ServerRemove(_)
            | Self::ServerPromote(_)
            | Self::AdminAdd(_)
            | Self::AdminRemove(_)
            | Self::AdminThreshold(_)
            | Self::Cosign(_)
            | Self::PolicySet(_)
            | Self::Checkpoint
            | Self::RotateKeys => CHANGE,
            Self::Status
            | Self::Peers
            | Self::Ip(_)
            | Self::Log
            | Self::Events
            | Self::Down
            | Self::InviteList
            | Self::ServerList
            | Self::AdminList
            | Self::Policy => READ,
        }
    }
}

/// The body of `ip`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IpRequest {
    /// Name, address or member key of a peer; this machine when absent.
    pub peer: Option<String>,
}

/// The body of `ping`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PingRequest {
    /// Name, address or member key of the peer.
    pub peer: String,
    /// How long to wait for the echo, in milliseconds; [`PingRequest::timeout`] holds it to a minute.
    #[serde(default = "ping_timeout_ms")]
    pub timeout_ms: u64,
    /// A number that comes back in the reply.
    #[serde(default)]
    pub seq: u32,
}

impl PingRequest {
    /// How long to wait for the echo.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms).min(LONGEST_PING)
    }
}

/// The body of `up`. What is absent stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpRequest {
    /// A founding string or an invite; absent to start the network that this machine is in.
    pub invite_or_founding: Option<Secret>,
    /// Name for this machine in the network.
    pub name: Option<String>,
    /// With a founding string the name for the new network, without a string the name of the network to start; refused
    /// together with an invite.
    pub network: Option<String>,
    /// IPv4 range of the network that a founding string founds, as `100.72.0.0/16`; one is chosen when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    /// Whether the network's IPv4 addresses are used on this machine, in place of IPv6 alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<bool>,
    /// Whether to refuse connections that peers of any network open to this machine.
    pub shields_up: Option<bool>,
    /// How long to wait for the network to run, in milliseconds, five minutes at most.
    pub timeout_ms: u64,
}

impl Default for UpRequest {
    fn default() -> Self {
        Self {
            invite_or_founding: None,
            name: None,
            network: None,
            range: None,
            ipv4: None,
            shields_up: None,
            timeout_ms: 30_000,
        }
    }
}

/// The body of `invite create`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InviteCreateRequest {
    /// How long the invite can be used, in seconds.
    pub expires_s: u64,
    /// Name to propose to the machine that joins.
    pub name: Option<String>,
}

impl Default for InviteCreateRequest {
    fn default() -> Self {
        Self { expires_s: 86_400, name: None }
    }
}

/// The body of `invite revoke`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteRevokeRequest {
    /// Id of the invite, or the start of it where that is unambiguous.
    pub id: String,
}

/// The body of `revoke`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    /// Name, address or member key of the peer.
    pub peer: String,
}

/// The body of `server add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerAddRequest {
    /// The founding string that the server printed.
    pub founding: Secret,
}

/// The body of `server remove` and `server promote`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerRequest {
    /// Address of the server, or the start of its key.
    pub server: String,
}

/// The body of `admin add` and `admin remove`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminRequest {
    /// Name, address or key of the member; for an admin that is no member, the start of its key.
    pub peer: String,
}

/// The body of `admin threshold`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThresholdRequest {
    /// How many admins must agree to a change.
    pub threshold: u8,
}

/// The body of `cosign`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CosignRequest {
    /// The string that another admin's change has printed.
    pub proposal: String,
}

/// The body of `policy set`. What is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyRequest {
    /// Whether nobody new is let in once no admin has vouched for the log for seven days.
    pub strict: Option<bool>,
    /// A member and the rights of an admin that it gets.
    pub delegate: Option<DelegateRequest>,
}

/// A member and the rights of an admin that it gets, in place of those that it has; without any it has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DelegateRequest {
    /// Name, address or key of the member.
    pub peer: String,
    /// The rights.
    pub rights: Vec<Right>,
}

/// A string that must not reach a log: an invite or a founding string. `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The string itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

pub(crate) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    if body.len() > MAX_BODY {
        return Err(ApiError::new(
            Exit::Usage,
            "body-too-large",
            format!("the request is longer than {MAX_BODY} bytes"),
        ));
    }
    let body = if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        // The error quotes the body, and whatever stands in it must not reach a terminal as it is.
        let quoted: String = error.to_string().chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        ApiError::new(Exit::Usage, "bad-request", format!("the request's body is not understood: {quoted}"))
            .with_hint("The program that asked may be of another version than the daemon; bring both to the same one.")
    })
}

fn write<T: Serialize>(body: &T) -> Vec<u8> {
    serde_json::to_vec(body).expect("structs of strings and numbers always serialise")
}

const fn ping_timeout_ms() -> u64 {
    5_000
}

/// Limit of requests that only read the daemon's memory.
const READ: Duration = Duration::from_secs(5);
/// Limit of requests that wait for the server to order a record.
const CHANGE: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(300);
const LONGEST_PING: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_comes_back_from_its_own_body() {
        let requests = [
            Request::Status,
            Request::Peers,
            Request::Ip(IpRequest { peer: Some("laptop".into()) }),
            Request::Log,
            Request::Events,
            Request::Ping(PingRequest { peer: "laptop".into(), timeout_ms: 10, seq: 2 }),
            Request::Up(UpRequest {
                invite_or_founding: Some(Secret::from("ginnel-invite-x".to_owned())),
                name: Some("desk".into()),
                network: Some("home".into()),
                range: Some("100.72.0.0/16".into()),
                ipv4: Some(false),
                shields_up: Some(true),
                timeout_ms: 7,
            }),
            Request::Down,
            Request::InviteCreate(InviteCreateRequest { expires_s: 60, name: None }),
            Request::InviteList,
            Request::InviteRevoke(InviteRevokeRequest { id: "k5".into() }),
            Request::Revoke(RevokeRequest { peer: "laptop".into() }),
            Request::Leave,
            Request::ServerList,
            Request::ServerAdd(ServerAddRequest { founding: Secret::from("ginnel-found-x".to_owned()) }),
            Request::ServerRemove(ServerRequest { server: "signal.example:4433".into() }),
            Request::ServerPromote(ServerRequest { server: "a1b2".into() }),
            Request::AdminList,
            Request::AdminAdd(AdminRequest { peer: "laptop".into() }),
            Request::AdminRemove(AdminRequest { peer: "laptop".into() }),
            Request::AdminThreshold(ThresholdRequest { threshold: 2 }),
            Request::Cosign(CosignRequest { proposal: "ginnel-sign-x".into() }),
            Request::Policy,
            Request::PolicySet(PolicyRequest {
                strict: Some(true),
                delegate: Some(DelegateRequest { peer: "laptop".into(), rights: vec![Right::Leases] }),
            }),
            Request::Checkpoint,
            Request::RotateKeys,
        ];
        assert_eq!(requests.len(), Endpoint::ALL.len());
        for (request, endpoint) in requests.into_iter().zip(Endpoint::ALL) {
            assert_eq!(request.endpoint(), endpoint);
            assert_eq!(endpoint.request(&request.body()), Ok(request));
        }
    }

    #[test]
    fn an_empty_body_asks_for_the_defaults() {
        assert_eq!(Endpoint::InviteCreate.request(b"\n"), Ok(Request::InviteCreate(InviteCreateRequest::default())));
        assert_eq!(Endpoint::Up.request(b""), Ok(Request::Up(UpRequest::default())));
        assert_eq!(Endpoint::Ping.request(b"").unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn a_misspelt_key_is_refused_by_name() {
        let error = Endpoint::Up.request(br#"{"shield_up":true}"#).unwrap_err();
        assert!(error.message.contains("shield_up"), "{error}");
    }

    #[test]
    fn hostile_limits_are_held_down() {
        let ping = PingRequest { peer: "a".into(), timeout_ms: u64::MAX, seq: 0 };
        assert_eq!(Request::Ping(ping).deadline(), Duration::from_secs(61));
        let up = UpRequest { timeout_ms: u64::MAX, ..UpRequest::default() };
        assert_eq!(Request::Up(up).deadline(), Duration::from_secs(300));
    }
}
