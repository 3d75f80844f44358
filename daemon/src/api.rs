//! The control socket: who calls, what they may do, and the way of a request to the machines and back.
//!
//! A caller is known by the kernel's credentials of its connection. Root and the daemon's own user may do everything, as
//! may members of the admin group; everybody else whom the socket's mode lets in may read, without endpoints and keys.
//! Every change that is asked for leaves one line in the log, also where it is refused, and also where the caller does not
//! wait for the answer. Of refusals alone that a user below the highest tier piles up, most are counted in one line.

mod caller;
mod events;
mod gate;

use std::convert::Infallible;
use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::body::{Body, to_bytes};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use ginnel_local_api::{
    ApiError, ChangeOutcome, Effect, Endpoint, ErrorReply, Exit, MAX_BODY, Reply, Request, Tier, nearest, selection,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

pub use caller::Caller;
pub use events::Events;

use caller::Admission;
use gate::{Gate, Pass};

/// A request on its way to the machines.
#[derive(Debug)]
pub struct Call {
    /// What is asked; the caller may ask it.
    pub request: Request,
    /// The network that is meant, by its name or the start of its id.
    pub network: Option<String>,
    /// Who asks.
    pub caller: Caller,
    /// Where the answer goes. A caller that has gone or waited too long no longer takes it.
    pub answer: oneshot::Sender<Result<Reply, ApiError>>,
}

/// Where the socket is and whom it lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Path of the socket.
    pub path: PathBuf,
    /// The group whose members may do everything, by name; it counts for nothing where it does not exist.
    pub admin_group: String,
}

/// A bound control socket, removed when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    admission: Admission,
    guard: SocketFile,
}

/// The socket's file, as long as it is ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl ControlSocket {
    /// Binds the socket with mode 0660, of the admin group where that exists. A socket that nobody answers on is
    /// replaced; its folder is made where it is missing.
    ///
    /// # Errors
    /// When another daemon answers there, something else has the path, or it cannot be bound.
    pub fn bind(options: &Options) -> anyhow::Result<Self> {
        let path = &options.path;
        let context = || format!("cannot make the control socket {}", path.display());
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).with_context(context)?;
        }
        make_way(path)?;
        let listener = UnixListener::bind(path).with_context(context)?;
        let metadata = fs::symlink_metadata(path).with_context(context)?;
        let guard = SocketFile { path: path.clone(), inode: (metadata.dev(), metadata.ino()) };
        let groups = fs::read_to_string("/etc/group").unwrap_or_default();
        let admin_gid = caller::group_id(&groups, &options.admin_group);
        if let Some(gid) = admin_gid
            && let Err(error) = std::os::unix::fs::lchown(path, None, Some(gid))
        {
            tracing::warn!("the control socket cannot be given to the group {}: {error}", options.admin_group);
        }
        fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).with_context(context)?;
        // The daemon's own user is whoever owns what it has just made.
        let admission = Admission { own_uid: metadata.uid(), admin_gid };
        Ok(Self { listener, admission, guard })
    }

    /// Serves until `shutdown` is ready: every request that is understood and allowed goes to `calls`, and readers of
    /// the event stream take from `events`. A process that is out of descriptors waits until it has some again.
    pub async fn serve(self, calls: mpsc::Sender<Call>, events: Events, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        let (stop, stopping) = watch::channel(());
        let (alive, mut ended) = mpsc::channel(1);
        let shared = Arc::new(Shared { calls, events, gate: Gate::default(), _alive: alive });
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let caller = self.admission.caller(&stream);
                        if let Some(pass) = shared.gate.admit(&caller) {
                            connections.spawn(converse(stream, caller, pass, Arc::clone(&shared), stopping.clone()));
                        }
                    }
                    Err(error) => {
                        tracing::warn!("the control socket does not accept: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
        // Event streams end at once; a connection on which nothing is asked is not waited for.
        drop((stop, shared));
        let rest = async {
            while connections.join_next().await.is_some() {}
            // Changes whose callers have gone still leave their lines.
            ended.recv().await;
        };
        let _ = tokio::time::timeout(GRACE, rest).await;
        drop(self.guard);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another daemon may have taken the path; its socket stays.
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!("the control socket {} stays behind: {error}", self.path.display());
        }
    }
}

#[derive(Debug)]
struct Shared {
    calls: mpsc::Sender<Call>,
    events: Events,
    gate: Gate,
    /// Dropped with the last that has to do with a request.
    _alive: mpsc::Sender<()>,
}

/// Serves one connection until it ends or has lasted too long.
async fn converse(
    stream: UnixStream,
    caller: Caller,
    pass: Pass,
    shared: Arc<Shared>,
    mut stopping: watch::Receiver<()>,
) {
    let pass = Arc::new(pass);
    let answer = |request: hyper::Request<hyper::body::Incoming>| {
        let (shared, pass) = (Arc::clone(&shared), Arc::clone(&pass));
        async move {
            let (parts, body) = request.into_parts();
            Ok::<_, Infallible>(handle(&shared, &pass, caller, &parts.method, &parts.uri, Body::new(body)).await)
        }
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    let mut connection = std::pin::pin!(connection);
    let mut lifetime = std::pin::pin!(tokio::time::sleep(LIFETIME));
    let mut is_stopping = false;
    loop {
        tokio::select! {
            // A caller that breaks off tells nobody anything.
            _ = &mut connection => return,
            _ = stopping.changed(), if !is_stopping => {
                if pass.is_streaming() {
                    return;
                }
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = &mut lifetime, if !pass.is_streaming() => return,
        }
    }
}

async fn handle(
    shared: &Arc<Shared>,
    pass: &Arc<Pass>,
    caller: Caller,
    method: &Method,
    uri: &Uri,
    body: Body,
) -> Response {
    // Whatever is asked is counted first, so that nothing is had for less.
    let counted = shared.gate.take(&caller).map_err(|busy| {
        ApiError::new(Exit::Failed, busy.code(), busy.to_string()).with_hint("Wait a moment and try again.")
    });
    let endpoint = match find(method, uri.path()) {
        Ok(endpoint) => endpoint,
        Err(error) => return refuse(counted.err().unwrap_or(error)),
    };
    let network = match selection::network(uri.query()) {
        Ok(Some(_)) if endpoint == Endpoint::Events => {
            let error = ApiError::new(Exit::Usage, "usage", "events are those of every network");
            return refuse(counted.err().unwrap_or_else(|| error.with_hint("Leave --network out.")));
        }
        Ok(network) => network,
        Err(error) => return refuse(counted.err().unwrap_or(error)),
    };
    let admitted = counted.and_then(|()| admit(&caller, endpoint));
    if endpoint == Endpoint::Events {
        return match admitted {
            Ok(()) => {
                pass.begin_stream();
                shared.events.stream(caller.tier)
            }
            Err(error) => refuse(error),
        };
    }
    let outcome = if endpoint.effect() == Effect::None {
        answer(shared, caller, endpoint, network, admitted, body).await.1
    } else {
        let task = change(Arc::clone(shared), Arc::clone(pass), caller, endpoint, network, admitted, body);
        // It is a task of its own, so that it runs to its end where the caller hangs up.
        tokio::spawn(task).await.unwrap_or_else(|_| Err(stopping()))
    };
    match outcome {
        Ok(mut reply) => {
            if caller.tier < Some(Tier::Operate) {
                reply.redact();
            }
            respond(StatusCode::OK, &reply)
        }
        Err(error) => refuse(error),
    }
}

/// Answers a request that changes something, and leaves its line in the log. Until then its connection counts as open.
async fn change(
    shared: Arc<Shared>,
    _pass: Arc<Pass>,
    caller: Caller,
    endpoint: Endpoint,
    network: Option<String>,
    admitted: Result<(), ApiError>,
    body: Body,
) -> Result<Reply, ApiError> {
    let (request, outcome) = answer(&shared, caller, endpoint, network.clone(), admitted, body).await;
    // One that never got as far as being asked costs its sender nothing.
    let is_free = request.is_none() && outcome.is_err();
    let told = if is_free { shared.gate.tell_refusal(&caller) } else { Some(0) };
    if let Some(untold) = told {
        audit(&caller, endpoint, (request.as_ref(), network.as_deref()), untold, &outcome);
    }
    outcome
}

/// The answer to one request, with the request as far as it was understood.
async fn answer(
    shared: &Shared,
    caller: Caller,
    endpoint: Endpoint,
    network: Option<String>,
    admitted: Result<(), ApiError>,
    body: Body,
) -> (Option<Request>, Result<Reply, ApiError>) {
    let request = async {
        admitted?;
        endpoint.request(&read(body).await?)
    };
    let request = match request.await {
        Ok(request) => request,
        Err(error) => return (None, Err(error)),
    };
    let deadline = request.deadline();
    let (sender, receiver) = oneshot::channel();
    let call = Call { request: request.clone(), network, caller, answer: sender };
    let exchange = async {
        shared.calls.send(call).await.map_err(|_| stopping())?;
        receiver.await.map_err(|_| stopping())?
    };
    let outcome = tokio::time::timeout(deadline, exchange).await.unwrap_or_else(|_| {
        let message = format!("not done within {:.1} s", deadline.as_secs_f64());
        Err(ApiError::new(Exit::NoAnswer, "deadline", message)
            .with_hint("It may still be done later; `ginnel status` tells how things stand."))
    });
    (Some(request), outcome)
}

/// Whether this caller may use this endpoint.
fn admit(caller: &Caller, endpoint: Endpoint) -> Result<(), ApiError> {
    if caller.tier >= Some(endpoint.tier()) {
        return Ok(());
    }
    let message = format!("this user may not use {}, which needs the tier {}", endpoint.path(), endpoint.tier());
    Err(ApiError::new(Exit::Denied, "denied", message)
        .with_hint("Run ginnel with sudo, or add the user to the group ginnel-admin and log in again."))
}

/// The error for a request that no daemon can answer while it stops.
fn stopping() -> ApiError {
    ApiError::new(Exit::Unreachable, "stopping", "the daemon is stopping")
}

async fn read(body: Body) -> Result<axum::body::Bytes, ApiError> {
    let body = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY)).await;
    let body =
        body.map_err(|_| ApiError::new(Exit::Usage, "body-too-slow", "the request's body did not arrive in time"))?;
    body.map_err(|_| {
        let message = format!("the request's body broke off or is longer than {MAX_BODY} bytes");
        ApiError::new(Exit::Usage, "bad-body", message).with_hint("Send less, and all of it.")
    })
}

/// One line for a change that was asked for, and for `untold` refusals before it. What comes from the caller is quoted, so
/// that it can fake no other line.
fn audit(
    caller: &Caller,
    endpoint: Endpoint,
    (request, network): (Option<&Request>, Option<&str>),
    untold: u64,
    outcome: &Result<Reply, ApiError>,
) {
    let subject = request.and_then(Request::subject).map(|subject| subject.chars().take(LONGEST_SUBJECT).collect());
    let subject: String = subject.unwrap_or_default();
    let outcome = match outcome {
        Ok(Reply::Changed(changed)) if changed.body.outcome == ChangeOutcome::Proposed => "proposed",
        Ok(_) => "done",
        Err(error) => error.code.as_str(),
    };
    let (uid, pid) = (caller.uid, caller.pid);
    let untold = (untold > 0).then_some(untold);
    tracing::info!(uid, pid, request = endpoint.path(), network, subject = ?subject, outcome, untold, "change asked for");
}

fn find(method: &Method, path: &str) -> Result<Endpoint, ApiError> {
    let at_path = |endpoint: &Endpoint| endpoint.path() == path;
    match Endpoint::ALL.into_iter().find(at_path) {
        Some(endpoint) if endpoint.method().as_str() == method.as_str() => Ok(endpoint),
        Some(endpoint) => {
            let message = format!("{path} does not take {method}");
            Err(ApiError::new(Exit::Usage, "wrong-method", message)
                .with_hint(format!("Use {}.", endpoint.method().as_str())))
        }
        None => {
            let error = ApiError::new(Exit::NotFound, "no-such-endpoint", format!("there is no {path}"));
            let hint = nearest(path, Endpoint::ALL.map(Endpoint::path)).map(|near| format!("Did you mean {near}?"));
            Err(error.with_hint(hint.unwrap_or_else(|| "The paths begin with /v1/, as /v1/status.".to_owned())))
        }
    }
}

fn refuse(error: ApiError) -> Response {
    let status = StatusCode::from_u16(error.exit.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    respond(status, &ErrorReply { error })
}

fn respond(status: StatusCode, object: &impl serde::Serialize) -> Response {
    let text = serde_json::to_string_pretty(object).expect("replies are strings, numbers, lists and objects");
    (status, [(header::CONTENT_TYPE, "application/json")], text + "\n").into_response()
}

/// Removes a socket on which nobody answers.
fn make_way(path: &Path) -> anyhow::Result<()> {
    let Ok(file) = fs::symlink_metadata(path) else { return Ok(()) };
    if !file.file_type().is_socket() {
        bail!(
            "{} is in the way of the control socket and is no socket: remove it, or choose another --socket",
            path.display()
        );
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => bail!("another ginneld answers on {}: stop it, or choose another --socket", path.display()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
            .with_context(|| format!("remove the socket {} that a daemon left behind", path.display())),
        Err(error) => Err(error).with_context(|| format!("cannot tell whether a daemon answers on {}", path.display())),
    }
}

const SOCKET_MODE: u32 = 0o660;
/// Time for answers under way when the daemon stops.
const GRACE: Duration = Duration::from_secs(2);
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than any request may take.
const LIFETIME: Duration = Duration::from_secs(600);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a request's head; hyper asks for no less.
const LONGEST_HEAD: usize = 16 * 1024;
/// Characters of a subject that a line of the log takes.
const LONGEST_SUBJECT: usize = 64;

#[cfg(test)]
mod tests;
