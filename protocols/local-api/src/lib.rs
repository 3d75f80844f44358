//! The control socket of `ginneld`: requests, replies and errors as versioned JSON types.
//!
//! The daemon and the command line both use these types, so a reply read from the socket and the output of
//! `ginnel VERB --json` are the same object.
//!
//! # Transport
//! HTTP/1.1 over the Unix socket [`DEFAULT_SOCKET`]. A request is one of [`Endpoint`]: a `GET` without a body where
//! nothing is asked beyond the thing itself, otherwise a `POST` whose body is one JSON object (an empty body counts as
//! `{}`). Bodies are at most [`MAX_BODY`] bytes.
//!
//! | endpoint | method and path | tier | schema of the reply |
//! |---|---|---|---|
//! | status | `GET /v1/status` | read | `ginnel.status/1` |
//! | peers | `GET /v1/peers` | read | `ginnel.peers/1` |
//! | ip | `POST /v1/ip` | read | `ginnel.ip/1` |
//! | log | `GET /v1/log` | read | `ginnel.log/1` |
//! | events | `GET /v1/events` | read | lines of `ginnel.event/1` |
//! | ping | `POST /v1/ping` | operate | `ginnel.ping/1` |
//! | up | `POST /v1/up` | operate | `ginnel.up/1` |
//! | down | `POST /v1/down` | operate | `ginnel.down/1` |
//! | invite create | `POST /v1/invite/create` | admin | `ginnel.invite-create/1` |
//! | invite list | `GET /v1/invite/list` | admin | `ginnel.invite-list/1` |
//! | invite revoke | `POST /v1/invite/revoke` | admin | `ginnel.invite-revoke/1` |
//! | revoke | `POST /v1/revoke` | admin | `ginnel.revoke/1` |
//! | leave | `POST /v1/leave` | admin | `ginnel.leave/1` |
//! | server list | `GET /v1/server/list` | read | `ginnel.server-list/1` |
//! | server add, remove, promote | `POST /v1/server/add`, `remove`, `promote` | admin | `ginnel.change/1` |
//! | admin list | `GET /v1/admin/list` | read | `ginnel.admin-list/1` |
//! | admin add, remove, threshold | `POST /v1/admin/add`, `remove`, `threshold` | admin | `ginnel.change/1` |
//! | cosign | `POST /v1/cosign` | admin | `ginnel.change/1` |
//! | policy | `GET /v1/policy` | read | `ginnel.policy/1` |
//! | policy set | `POST /v1/policy/set` | admin | `ginnel.change/1` |
//! | checkpoint | `POST /v1/checkpoint` | admin | `ginnel.change/1` |
//! | rotate-keys | `POST /v1/rotate-keys` | admin | `ginnel.rotate-keys/1` |
//!
//! The answer to `events` has no end: one JSON object per line, as things happen, until either side closes. See [`Event`].
//!
//! A user has at most 32 connections and 100 requests a second (200 at once); all users together have 128 connections,
//! of which 32 are kept for callers of the highest tier. A request's head has 5 s to arrive, its body another 5 s. A
//! connection without an event stream is closed after ten minutes.
//!
//! Every request that changes something leaves one line in the daemon's log: who asked (user and process), for what, and
//! what came of it.
//! A request about one network names it in its address, as `GET /v1/log?network=home`, by its name or the start of its id.
//! That is needed only where a machine is in several and the request fits more than one; [`selection`] reads and writes it.
//!
//! # Rules of the format
//! * Every reply carries `schema` and `ginnel_version`; within a schema's version keys are only added.
//! * Readers ignore unknown keys; the daemon refuses unknown keys in a request, so a misspelt option is not lost.
//! * Keys are snake_case, enumerated values lower-case, times RFC 3339 in UTC, numbers carry their unit in the key.
//! * A failure is an [`ErrorReply`]; its `exit` is the exit code of the command line, see [`Exit`].
#![forbid(unsafe_code)]

mod document;
mod endpoint;
mod error;
mod event;
mod governance;
mod nearest;
mod reply;
mod request;
pub mod selection;
mod status;
mod timestamp;

pub use document::{Body, Document};
pub use endpoint::{Effect, Endpoint, Method, Tier};
pub use error::{ApiError, ErrorReply, Exit};
pub use event::{Event, EventKind};
pub use governance::{
    AdminList, AdminSummary, ChangeOutcome, Changed, Delegate, Policy, Right, Rotated, ServerList, ServerRole,
    ServerSummary,
};
pub use nearest::nearest;
pub use reply::{
    Down, InviteCreated, InviteList, InviteState, InviteSummary, InviteVoided, Ip, Left, Log, LogEntry, Peers,
    PingReply, Reply, Revoked, Up, UpNetwork, UpOutcome, Verdict,
};
pub use request::{
    AdminRequest, CosignRequest, DelegateRequest, InviteCreateRequest, InviteRevokeRequest, IpRequest, PingRequest,
    PolicyRequest, Request, RevokeRequest, Secret, ServerAddRequest, ServerRequest, ThresholdRequest, UpRequest,
};
pub use status::{
    Daemon, Health, Network, NetworkState, OwnNode, PathKind, PathReport, Peer, PeerKind, ServerReport, Severity,
    StaticPeer, Status,
};
pub use timestamp::{NotATime, Timestamp};

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/ginnel/ginneld.sock";

/// The largest request body that the daemon reads, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// The version that every reply names as `ginnel_version`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
