use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ApiError, Exit, MAX_BODY};

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
}

impl Endpoint {
    /// Every endpoint.
    pub const ALL: [Self; 12] = [
        Self::Status,
        Self::Peers,
        Self::Ip,
        Self::Log,
        Self::Ping,
        Self::Up,
        Self::Down,
        Self::InviteCreate,
        Self::InviteList,
        Self::InviteRevoke,
        Self::Revoke,
        Self::Leave,
    ];

    /// Its HTTP method.
    pub const fn method(self) -> Method {
        match self {
            Self::Status | Self::Peers | Self::Log | Self::InviteList => Method::Get,
            Self::Ip
            | Self::Ping
            | Self::Up
            | Self::Down
            | Self::InviteCreate
            | Self::InviteRevoke
            | Self::Revoke
            | Self::Leave => Method::Post,
        }
    }

    /// Its path.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Status => "/v1/status",
            Self::Peers => "/v1/peers",
            Self::Ip => "/v1/ip",
            Self::Log => "/v1/log",
            Self::Ping => "/v1/ping",
            Self::Up => "/v1/up",
            Self::Down => "/v1/down",
            Self::InviteCreate => "/v1/invite/create",
            Self::InviteList => "/v1/invite/list",
            Self::InviteRevoke => "/v1/invite/revoke",
            Self::Revoke => "/v1/revoke",
            Self::Leave => "/v1/leave",
        }
    }

    /// What a caller needs to be allowed to use it.
    pub const fn tier(self) -> Tier {
        match self {
            Self::Status | Self::Peers | Self::Ip | Self::Log => Tier::Read,
            Self::Ping | Self::Up | Self::Down => Tier::Operate,
            Self::InviteCreate | Self::InviteList | Self::InviteRevoke | Self::Revoke | Self::Leave => Tier::Admin,
        }
    }

    /// Whether what it changes has to be on this machine's disk before it counts.
    pub const fn must_last(self) -> bool {
        match self {
            Self::Up | Self::Down | Self::Leave => true,
            Self::Status
            | Self::Peers
            | Self::Ip
            | Self::Log
            | Self::Ping
            | Self::InviteCreate
            | Self::InviteList
            | Self::InviteRevoke
            | Self::Revoke => false,
        }
    }

    /// Reads the body of a request to this endpoint.
    ///
    /// # Errors
    /// An error of [`Exit::Usage`] that says what is wrong with the body.
    pub fn request(self, body: &[u8]) -> Result<Request, ApiError> {
        Ok(match self {
            Self::Status => Request::Status,
            Self::Peers => Request::Peers,
            Self::Ip => Request::Ip(read(body)?),
            Self::Log => Request::Log,
            Self::Ping => Request::Ping(read(body)?),
            Self::Up => Request::Up(read(body)?),
            Self::Down => Request::Down,
            Self::InviteCreate => Request::InviteCreate(read(body)?),
            Self::InviteList => Request::InviteList,
            Self::InviteRevoke => Request::InviteRevoke(read(body)?),
            Self::Revoke => Request::Revoke(read(body)?),
            Self::Leave => Request::Leave,
        })
    }
}

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
}

impl Request {
    /// The endpoint that it goes to.
    pub const fn endpoint(&self) -> Endpoint {
        match self {
            Self::Status => Endpoint::Status,
            Self::Peers => Endpoint::Peers,
            Self::Ip(_) => Endpoint::Ip,
            Self::Log => Endpoint::Log,
            Self::Ping(_) => Endpoint::Ping,
            Self::Up(_) => Endpoint::Up,
            Self::Down => Endpoint::Down,
            Self::InviteCreate(_) => Endpoint::InviteCreate,
            Self::InviteList => Endpoint::InviteList,
            Self::InviteRevoke(_) => Endpoint::InviteRevoke,
            Self::Revoke(_) => Endpoint::Revoke,
            Self::Leave => Endpoint::Leave,
        }
    }

    /// The body as it goes over the socket; empty where there is nothing to say.
    pub fn body(&self) -> Vec<u8> {
        match self {
            Self::Status | Self::Peers | Self::Log | Self::Down | Self::InviteList | Self::Leave => Vec::new(),
            Self::Ip(body) => write(body),
            Self::Ping(body) => write(body),
            Self::Up(body) => write(body),
            Self::InviteCreate(body) => write(body),
            Self::InviteRevoke(body) => write(body),
            Self::Revoke(body) => write(body),
        }
    }

    /// How long the daemon works on it before it answers that it could not.
    pub fn deadline(&self) -> Duration {
        match self {
            // The answer that no echo came is itself due at the end of the ping's own limit.
            Self::Ping(ping) => ping.timeout() + Duration::from_secs(1),
            Self::Up(up) => Duration::from_millis(up.timeout_ms).min(LONGEST),
            Self::InviteCreate(_) | Self::InviteRevoke(_) | Self::Revoke(_) | Self::Leave => CHANGE,
            Self::Status | Self::Peers | Self::Ip(_) | Self::Log | Self::Down | Self::InviteList => READ,
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
    /// Name for the network that a founding string founds; refused together with an invite.
    pub network: Option<String>,
    /// Whether to refuse connections that peers open to this machine.
    pub shields_up: Option<bool>,
    /// How long to wait for the network to run, in milliseconds, five minutes at most.
    pub timeout_ms: u64,
}

impl Default for UpRequest {
    fn default() -> Self {
        Self { invite_or_founding: None, name: None, network: None, shields_up: None, timeout_ms: 30_000 }
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

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    if body.len() > MAX_BODY {
        return Err(ApiError::new(
            Exit::Usage,
            "body-too-large",
            format!("the request is longer than {MAX_BODY} bytes"),
        ));
    }
    let body = if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        ApiError::new(Exit::Usage, "bad-request", format!("the request's body is not understood: {error}"))
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
            Request::Ping(PingRequest { peer: "laptop".into(), timeout_ms: 10, seq: 2 }),
            Request::Up(UpRequest {
                invite_or_founding: Some(Secret::from("ginnel-invite-x".to_owned())),
                name: Some("desk".into()),
                network: Some("home".into()),
                shields_up: Some(true),
                timeout_ms: 7,
            }),
            Request::Down,
            Request::InviteCreate(InviteCreateRequest { expires_s: 60, name: None }),
            Request::InviteList,
            Request::InviteRevoke(InviteRevokeRequest { id: "k5".into() }),
            Request::Revoke(RevokeRequest { peer: "laptop".into() }),
            Request::Leave,
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

    #[test]
    fn changing_endpoints_are_not_of_the_lowest_tier() {
        for endpoint in Endpoint::ALL {
            let reads = matches!(endpoint, Endpoint::Status | Endpoint::Peers | Endpoint::Ip | Endpoint::Log);
            assert_eq!(endpoint.tier() == Tier::Read, reads, "{endpoint:?}");
        }
    }
}
