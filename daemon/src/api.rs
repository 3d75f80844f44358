//! The control socket: who calls, what they may do, and the way of a request to the machines and back.
//!
//! A caller is known by the kernel's credentials of its connection. Root and the daemon's own user may do everything, as
//! may members of the admin group; everybody else whom the socket's mode lets in may read, without endpoints and keys.

use std::fs;
use std::future::{Future, IntoFuture as _};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use ginnel_local_api::{ApiError, Endpoint, ErrorReply, Exit, MAX_BODY, Reply, Request, Tier, nearest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::sys;

/// A request on its way to the machines.
#[derive(Debug)]
pub struct Call {
    /// What is asked; the caller may ask it.
    pub request: Request,
    /// Who asks.
    pub caller: Caller,
    /// Where the answer goes. A caller that has gone or waited too long no longer takes it.
    pub answer: oneshot::Sender<Result<Reply, ApiError>>,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Process id, where the kernel names it.
    pub pid: Option<i32>,
    /// The most that this caller may do; `None` for one that may do nothing.
    pub tier: Option<Tier>,
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

#[derive(Clone, Copy, Debug)]
struct Admission {
    own_uid: u32,
    admin_gid: Option<u32>,
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
        let admin_gid = group_id(&fs::read_to_string("/etc/group").unwrap_or_default(), &options.admin_group);
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

    /// Serves until `shutdown` is ready: every request that is understood and allowed goes to `calls`.
    ///
    /// # Errors
    /// When the socket can no longer accept.
    pub async fn serve(
        self,
        calls: mpsc::Sender<Call>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let router = router(Shared { calls, admission: self.admission });
        let service = router.into_make_service_with_connect_info::<Credentials>();
        let (stop, stopped) = oneshot::channel::<()>();
        let graceful = async move { drop(stopped.await) };
        let mut serving =
            std::pin::pin!(axum::serve(self.listener, service).with_graceful_shutdown(graceful).into_future());
        let served = tokio::select! {
            served = &mut serving => served,
            () = shutdown => {
                drop(stop);
                // A connection on which nothing is asked is not waited for.
                tokio::time::timeout(GRACE, serving).await.unwrap_or(Ok(()))
            }
        };
        drop(self.guard);
        served
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

impl Admission {
    fn caller(self, credentials: &Credentials) -> Caller {
        let Credentials::Known { uid, pid, groups } = credentials else {
            return Caller { uid: u32::MAX, pid: None, tier: None };
        };
        let in_admin_group = self.admin_gid.is_some_and(|gid| groups.contains(&gid));
        let tier = if *uid == 0 || *uid == self.own_uid || in_admin_group { Tier::Admin } else { Tier::Read };
        Caller { uid: *uid, pid: *pid, tier: Some(tier) }
    }
}

/// The kernel's credentials of a connection, from when it was made.
#[derive(Clone, Debug)]
enum Credentials {
    Known { uid: u32, pid: Option<i32>, groups: Vec<u32> },
    Unknown,
}

impl Credentials {
    fn of(stream: &UnixStream) -> Self {
        let Ok(credentials) = stream.peer_cred() else { return Self::Unknown };
        let mut groups = sys::peer_groups(stream.as_fd()).unwrap_or_default();
        groups.push(credentials.gid());
        Self::Known { uid: credentials.uid(), pid: credentials.pid(), groups }
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Credentials {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self::of(stream.io())
    }
}

#[derive(Clone, Debug)]
struct Shared {
    calls: mpsc::Sender<Call>,
    admission: Admission,
}

fn router(shared: Shared) -> Router {
    Router::new().fallback(handle).with_state(shared)
}

async fn handle(
    State(shared): State<Shared>,
    ConnectInfo(credentials): ConnectInfo<Credentials>,
    method: Method,
    uri: Uri,
    body: Body,
) -> Response {
    let caller = shared.admission.caller(&credentials);
    match answer(&shared.calls, caller, &method, &uri, body).await {
        Ok(mut reply) => {
            if caller.tier < Some(Tier::Operate) {
                reply.redact();
            }
            respond(StatusCode::OK, &reply)
        }
        Err(error) => {
            let status = StatusCode::from_u16(error.exit.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            respond(status, &ErrorReply { error })
        }
    }
}

async fn answer(
    calls: &mpsc::Sender<Call>,
    caller: Caller,
    method: &Method,
    uri: &Uri,
    body: Body,
) -> Result<Reply, ApiError> {
    let endpoint = find(method, uri.path())?;
    if caller.tier < Some(endpoint.tier()) {
        tracing::debug!(uid = caller.uid, pid = caller.pid, "control request refused: {}", endpoint.path());
        let message = format!("this user may not use {}, which needs the tier {}", endpoint.path(), endpoint.tier());
        return Err(ApiError::new(Exit::Denied, "denied", message)
            .with_hint("Run ginnel with sudo, or add the user to the group ginnel-admin and log in again."));
    }
    let body = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY)).await;
    let body =
        body.map_err(|_| ApiError::new(Exit::Usage, "body-too-slow", "the request's body did not arrive in time"))?;
    let body = body.map_err(|_| {
        ApiError::new(
            Exit::Usage,
            "bad-body",
            format!("the request's body broke off or is longer than {MAX_BODY} bytes"),
        )
        .with_hint("Send less, and all of it.")
    })?;
    let request = endpoint.request(&body)?;
    let deadline = request.deadline();
    let (sender, receiver) = oneshot::channel();
    let exchange = async {
        let stopping = || ApiError::new(Exit::Unreachable, "stopping", "the daemon is stopping");
        calls.send(Call { request, caller, answer: sender }).await.map_err(|_| stopping())?;
        receiver.await.map_err(|_| stopping())?
    };
    tokio::time::timeout(deadline, exchange).await.unwrap_or_else(|_| {
        let message = format!("not done within {:.1} s", deadline.as_secs_f64());
        Err(ApiError::new(Exit::NoAnswer, "deadline", message)
            .with_hint("It may still be done later; `ginnel status` tells how things stand."))
    })
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

/// The id of a group by the text of `/etc/group`.
fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name) && !name.is_empty()).then(|| fields.nth(1)?.parse().ok())?
    })
}

const SOCKET_MODE: u32 = 0o660;
/// Time for answers under way when the daemon stops.
const GRACE: Duration = Duration::from_secs(2);
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use ginnel_local_api::{Daemon, Ip, Left, Status, Timestamp};
    use http_body_util::{BodyExt as _, Full};
    use hyper::body::Bytes;
    use hyper_util::rt::TokioIo;
    use tempfile::TempDir;

    use super::*;

    #[tokio::test]
    async fn requests_reach_the_machines_and_answers_come_back() {
        let (folder, mut calls, stop) = serve();
        let machine = tokio::spawn(async move {
            let call = calls.recv().await.unwrap();
            assert_eq!(call.caller.tier, Some(Tier::Admin), "the daemon's own user");
            let reply = Ip { name: format!("{:?}", call.request), ips: Vec::new() };
            call.answer.send(Ok(reply.into())).unwrap();
            let call = calls.recv().await.unwrap();
            call.answer.send(Err(ApiError::new(Exit::NotJoined, "not-joined", "not in a network"))).unwrap();
        });
        let (status, body) = ask(&folder, "POST", "/v1/ip", r#"{"peer":"laptop"}"#).await;
        assert_eq!(status, 200);
        assert_eq!(
            (body["schema"].as_str(), body["name"].as_str()),
            (Some("ginnel.ip/1"), Some(r#"Ip(IpRequest { peer: Some("laptop") })"#))
        );
        let (status, body) = ask(&folder, "GET", "/v1/status", "").await;
        assert_eq!((status, body["error"]["exit"].as_u64()), (409, Some(5)));
        machine.await.unwrap();
        drop(stop);
    }

    #[tokio::test]
    async fn what_is_not_understood_never_reaches_the_machines() {
        let (folder, mut calls, _stop) = serve();
        for (method, path, body, status, code) in [
            ("GET", "/v1/stauts", "", 404, "no-such-endpoint"),
            ("POST", "/v1/status", "", 400, "wrong-method"),
            ("POST", "/v1/ping", "{}", 400, "bad-request"),
            ("POST", "/v1/up", r#"{"shield":1}"#, 400, "bad-request"),
            ("POST", "/v1/up", &"x".repeat(MAX_BODY + 1), 400, "bad-body"),
        ] {
            let (answered, reply) = ask(&folder, method, path, body).await;
            assert_eq!((answered, reply["error"]["code"].as_str()), (status, Some(code)), "{method} {path}");
        }
        assert!(calls.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_stranger_reads_a_redacted_status_and_changes_nothing() {
        let (sender, mut calls) = mpsc::channel(1);
        let admission = Admission { own_uid: 7, admin_gid: Some(40) };
        let stranger = admission.caller(&Credentials::Known { uid: 1000, pid: None, groups: vec![1000] });
        assert_eq!(stranger.tier, Some(Tier::Read));
        for endpoint in Endpoint::ALL.into_iter().filter(|endpoint| endpoint.tier() > Tier::Read) {
            let method = Method::from_bytes(endpoint.method().as_str().as_bytes()).unwrap();
            let error = answer(&sender, stranger, &method, &Uri::from_static(endpoint.path()), Body::empty()).await;
            assert_eq!(error.unwrap_err().exit, Exit::Denied, "{endpoint:?}");
        }
        assert!(calls.try_recv().is_err());

        let nobody = admission.caller(&Credentials::Unknown);
        let uri = Uri::from_static("/v1/status");
        assert_eq!(answer(&sender, nobody, &Method::GET, &uri, Body::empty()).await.unwrap_err().exit, Exit::Denied);

        let machine = tokio::spawn(async move { calls.recv().await.unwrap().answer.send(Ok(status().into())).is_ok() });
        let shared = Shared { calls: sender, admission };
        let credentials = ConnectInfo(Credentials::Known { uid: 1000, pid: None, groups: vec![1000] });
        let response = handle(State(shared), credentials, Method::GET, uri, Body::empty()).await;
        let body = to_bytes(response.into_body(), MAX_BODY).await.unwrap();
        assert!(machine.await.unwrap());
        assert!(!String::from_utf8(body.to_vec()).unwrap().contains("signal.example"));
    }

    #[test]
    fn root_the_own_user_and_the_admin_group_may_do_everything() {
        let admission = Admission { own_uid: 7, admin_gid: Some(40) };
        for (uid, groups) in [(0, vec![0]), (7, vec![7]), (1000, vec![1000, 40])] {
            let caller = admission.caller(&Credentials::Known { uid, pid: None, groups });
            assert_eq!(caller.tier, Some(Tier::Admin), "{uid}");
        }
        let groups = "root:x:0:\nginnel-admin:x:40:alice,bob\n";
        assert_eq!(group_id(groups, "ginnel-admin"), Some(40));
        assert_eq!(group_id(groups, "ginnel"), None);
        assert_eq!(group_id(groups, ""), None);
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
        let folder = TempDir::new().unwrap();
        let options = options(&folder);
        drop(std::os::unix::net::UnixListener::bind(&options.path).unwrap());
        let socket = ControlSocket::bind(&options).unwrap();
        assert_eq!(fs::metadata(&options.path).unwrap().permissions().mode() & 0o777, 0o660);
        let error = ControlSocket::bind(&options).unwrap_err().to_string();
        assert!(error.contains("another ginneld"), "{error}");
        drop(socket);
        assert!(!options.path.exists(), "the socket goes with the daemon");
        fs::write(&options.path, "precious").unwrap();
        assert!(ControlSocket::bind(&options).unwrap_err().to_string().contains("no socket"));
        assert_eq!(fs::read_to_string(&options.path).unwrap(), "precious");
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_stays_silent_is_answered_for_at_the_deadline() {
        let (sender, mut calls) = mpsc::channel(1);
        let caller = Caller { uid: 0, pid: None, tier: Some(Tier::Admin) };
        let uri = Uri::from_static("/v1/leave");
        let error = answer(&sender, caller, &Method::POST, &uri, Body::empty()).await.unwrap_err();
        assert_eq!(error.exit, Exit::NoAnswer);
        let late = calls.recv().await.unwrap().answer.send(Ok(Left { network: "home".into() }.into()));
        assert!(late.is_err(), "nobody waits any more");
    }

    fn options(folder: &TempDir) -> Options {
        Options { path: folder.path().join("socket"), admin_group: "no-such-group".to_owned() }
    }

    fn serve() -> (TempDir, mpsc::Receiver<Call>, oneshot::Sender<()>) {
        let folder = TempDir::new().unwrap();
        let socket = ControlSocket::bind(&options(&folder)).unwrap();
        let (sender, calls) = mpsc::channel(4);
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(socket.serve(sender, async move { drop(stopped.await) }));
        (folder, calls, stop)
    }

    async fn ask(folder: &TempDir, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
        let stream = UnixStream::connect(folder.path().join("socket")).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let body = Full::new(Bytes::from(body.to_owned()));
        let request = hyper::Request::builder().method(method).uri(path).header("host", "x").body(body).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    fn status() -> Status {
        let daemon = Daemon { version: "0".into(), pid: 1, started: Timestamp::from_unix(0) };
        let mut status = Status { daemon, networks: Vec::new(), static_peers: Vec::new(), health: Vec::new() };
        status.networks.push(
            serde_json::from_str(
                r#"{"name":"home","id":"","state":"running","server":{"addr":"signal.example:1","connected":true},
                "self":{"name":"a","id":"","ips":[]},"peers":[]}"#,
            )
            .unwrap(),
        );
        status
    }
}
