use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::{Arc, Mutex};

use ginnel_local_api::{Daemon, EventKind, Ip, Left, Revoked, Status, Timestamp};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

#[tokio::test]
async fn requests_reach_the_machines_and_answers_come_back() {
    let mut house = serve();
    let mut calls = house.calls.take().unwrap();
    let machine = tokio::spawn(async move {
        let call = calls.recv().await.unwrap();
        assert_eq!(call.caller.tier, Some(Tier::Admin), "the daemon's own user");
        let reply = Ip { name: format!("{:?}", call.request), ips: Vec::new() };
        call.answer.send(Ok(reply.into())).unwrap();
        let call = calls.recv().await.unwrap();
        call.answer.send(Err(ApiError::new(Exit::NotJoined, "not-joined", "not in a network"))).unwrap();
    });
    let (status, body) = house.ask("POST", "/v1/ip", r#"{"peer":"laptop"}"#).await;
    assert_eq!(status, 200);
    assert_eq!(
        (body["schema"].as_str(), body["name"].as_str()),
        (Some("ginnel.ip/1"), Some(r#"Ip(IpRequest { peer: Some("laptop") })"#))
    );
    let (status, body) = house.ask("GET", "/v1/status", "").await;
    assert_eq!((status, body["error"]["exit"].as_u64()), (409, Some(5)));
    machine.await.unwrap();
}

#[tokio::test]
async fn what_is_not_understood_never_reaches_the_machines() {
    let mut house = serve();
    for (method, path, body, status, code) in [
        ("GET", "/v1/stauts", "", 404, "no-such-endpoint"),
        ("POST", "/v1/status", "", 400, "wrong-method"),
        ("POST", "/v1/events", "", 400, "wrong-method"),
        ("POST", "/v1/ping", "{}", 400, "bad-request"),
        ("POST", "/v1/up", r#"{"shield":1}"#, 400, "bad-request"),
        ("POST", "/v1/up", &"x".repeat(MAX_BODY + 1), 400, "bad-body"),
    ] {
        let (answered, reply) = house.ask(method, path, body).await;
        assert_eq!((answered, reply["error"]["code"].as_str()), (status, Some(code)), "{method} {path}");
    }
    assert!(house.calls.as_mut().unwrap().try_recv().is_err());
}

/// Every endpoint against every tier: nothing but what the tier names reaches the machines.
#[tokio::test]
async fn every_endpoint_is_denied_to_every_tier_below_its_own() {
    let (sender, mut calls) = mpsc::channel::<Call>(1);
    tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            let refused = ApiError::new(Exit::Failed, "reached", "the machines were asked");
            drop(call.answer.send(Err(refused)));
        }
    });
    let shared = shared(sender);
    for tier in [None, Some(Tier::Read), Some(Tier::Operate), Some(Tier::Admin)] {
        let caller = Caller { uid: 1000, pid: None, tier };
        let pass = Arc::new(shared.gate.admit(&caller).unwrap());
        for endpoint in Endpoint::ALL {
            let method = Method::from_bytes(endpoint.method().as_str().as_bytes()).unwrap();
            let body = Body::from(body_for(endpoint));
            let response = handle(&shared, &pass, caller, &method, &Uri::from_static(endpoint.path()), body).await;
            let status = response.status().as_u16();
            if tier < Some(endpoint.tier()) {
                assert_eq!(status, 403, "{endpoint:?} for {tier:?}");
                let body = to_bytes(response.into_body(), MAX_BODY).await.unwrap();
                let error: ErrorReply = serde_json::from_slice(&body).unwrap();
                assert_eq!(error.error.exit, Exit::Denied);
            } else {
                assert_eq!(status, if endpoint == Endpoint::Events { 200 } else { 500 }, "{endpoint:?} for {tier:?}");
            }
        }
    }
}

/// The same through the socket, as a user whom only the kernel names.
#[tokio::test]
async fn another_user_reads_and_is_denied_the_rest_by_the_kernels_word() {
    let house = serve();
    let path = house.folder.path().join("socket");
    if fs::symlink_metadata(&path).unwrap().uid() != 0 {
        println!("skipped: only root can be another user");
        return;
    }
    let mut calls = house.calls.unwrap();
    tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            let refused = ApiError::new(Exit::NoAnswer, "reached", format!("tier {:?}", call.caller.tier));
            drop(call.answer.send(Err(refused)));
        }
    });
    // As it is made, the socket lets no stranger in at all.
    let stranger = |probe: String| {
        let path = path.clone();
        tokio::task::spawn_blocking(move || {
            let mut command = Command::new("/bin/sh");
            let script = format!("exec 2>&1; {probe}");
            command.args(["-c", &script, "sh"]).arg(path).uid(65_534).gid(65_534);
            let output = command.output().expect("run as another user");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    };
    let connect =
        r#"perl -MIO::Socket::UNIX -e '$s = IO::Socket::UNIX->new($ARGV[0]) or print "no: $!"' "$1""#.to_owned();
    fs::set_permissions(house.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(stranger(connect).await.unwrap(), "no: Permission denied");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let requests = Endpoint::ALL.into_iter().filter(|endpoint| *endpoint != Endpoint::Events);
    let requests: Vec<String> =
        requests.map(|endpoint| format!("{} {}", endpoint.method().as_str(), endpoint.path())).collect();
    let ask = format!(
        r#"perl -MIO::Socket::UNIX -e '
        for (split /,/, "{}") {{
            $s = IO::Socket::UNIX->new($ARGV[0]) or die $!;
            print $s "$_ HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            $line = <$s>; @words = split / /, $line; print "$_ $words[1]\n";
        }}' "$1""#,
        requests.join(",")
    );
    let answers = stranger(ask).await.unwrap();
    let answers: Vec<&str> = answers.lines().collect();
    assert_eq!(answers.len(), Endpoint::ALL.len() - 1, "{answers:?}");
    for line in answers {
        let path = line.split(' ').nth(1).unwrap();
        let endpoint = Endpoint::ALL.into_iter().find(|endpoint| endpoint.path() == path).unwrap();
        let expected = if endpoint.tier() == Tier::Read { "504" } else { "403" };
        assert!(line.ends_with(expected), "{line}");
    }
}

#[tokio::test]
async fn a_stranger_sees_a_redacted_status() {
    let (sender, mut calls) = mpsc::channel::<Call>(1);
    let machine = tokio::spawn(async move { calls.recv().await.unwrap().answer.send(Ok(status().into())).is_ok() });
    let shared = shared(sender);
    let stranger = Caller { uid: 1000, pid: None, tier: Some(Tier::Read) };
    let pass = Arc::new(shared.gate.admit(&stranger).unwrap());
    let uri = Uri::from_static("/v1/status");
    let response = handle(&shared, &pass, stranger, &Method::GET, &uri, Body::empty()).await;
    let body = to_bytes(response.into_body(), MAX_BODY).await.unwrap();
    assert!(machine.await.unwrap());
    assert!(!String::from_utf8(body.to_vec()).unwrap().contains("signal.example"));
}

#[test]
fn every_change_leaves_one_line_that_tells_who_and_what_and_no_secret() {
    let lines = Lines::default();
    told_to(&lines, async {
        let (sender, mut calls) = mpsc::channel::<Call>(1);
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                drop(call.answer.send(Ok(Left { network: "home".into() }.into())));
            }
        });
        let shared = shared(sender);
        let ask = async |tier, path: &'static str, body: &'static str| {
            let caller = Caller { uid: 1000, pid: Some(77), tier: Some(tier) };
            let pass = Arc::new(shared.gate.admit(&caller).unwrap());
            let method = if body.is_empty() { Method::GET } else { Method::POST };
            handle(&shared, &pass, caller, &method, &Uri::from_static(path), Body::from(body)).await;
        };
        ask(Tier::Admin, "/v1/revoke", r#"{"peer":"laptop\n INFO forged line"}"#).await;
        ask(Tier::Admin, "/v1/up", r#"{"invite_or_founding":"ginnel-invite-secret","name":"desk"}"#).await;
        ask(Tier::Read, "/v1/leave", "{}").await;
        ask(Tier::Admin, "/v1/invite/revoke", r#"{"nonsense":1}"#).await;
        ask(Tier::Admin, "/v1/status", "").await;
    });
    let text = lines.text();
    let told: Vec<&str> = text.lines().filter(|line| line.contains("change asked for")).collect();
    assert_eq!(told.len(), 4, "{text}");
    assert_eq!(text.lines().count(), 4, "{text}");
    for (line, parts) in told.iter().zip([
        &["uid=1000", "pid=77", "/v1/revoke", r#"laptop\n INFO forged line"#, "done"][..],
        &["/v1/up", "desk", "done"],
        &["/v1/leave", "denied"],
        &["/v1/invite/revoke", "bad-request"],
    ]) {
        for part in parts {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
    assert!(!text.contains("ginnel-invite"), "{text}");
}

/// A caller that hangs up at once, and one that does so while the daemon stops, have their lines all the same.
#[test]
fn a_change_leaves_its_line_also_where_the_caller_has_hung_up() {
    let lines = Lines::default();
    told_to(&lines, async {
        let folder = TempDir::new().unwrap();
        let socket = ControlSocket::bind(&options(&folder)).unwrap();
        let (sender, mut calls) = mpsc::channel(4);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(socket.serve(sender, Events::default(), async move { drop(stopped.await) }));
        let mut ask_and_go = async |peer: &str| {
            let mut stream = UnixStream::connect(folder.path().join("socket")).await.unwrap();
            let body = format!(r#"{{"peer":"{peer}"}}"#);
            let head = format!("POST /v1/revoke HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            let call = calls.recv().await.unwrap();
            drop(stream);
            // Time to notice.
            tokio::time::sleep(Duration::from_millis(200)).await;
            call
        };
        let call = ask_and_go("laptop").await;
        let reply = Revoked { name: "laptop".into(), id: "b2".into() };
        call.answer.send(Ok(reply.into())).unwrap();
        let call = ask_and_go("phone").await;
        drop(stop);
        drop(call);
        drop(calls);
        serving.await.unwrap();
    });
    let text = lines.text();
    let told: Vec<&str> = text.lines().filter(|line| line.contains("change asked for")).collect();
    assert_eq!(told.len(), 2, "{text}");
    assert!(told[0].contains("laptop") && told[0].contains("done"), "{text}");
    assert!(told[1].contains("phone") && told[1].contains("stopping"), "{text}");
}

#[test]
fn refused_requests_are_bounded_and_so_are_their_lines() {
    let lines = Lines::default();
    told_to(&lines, async {
        let (sender, _calls) = mpsc::channel::<Call>(1);
        let shared = shared(sender);
        let stranger = Caller { uid: 1000, pid: None, tier: Some(Tier::Read) };
        let pass = Arc::new(shared.gate.admit(&stranger).unwrap());
        let code = async |method: Method, path: &'static str| {
            let response = handle(&shared, &pass, stranger, &method, &Uri::from_static(path), Body::empty()).await;
            let body = to_bytes(response.into_body(), MAX_BODY).await.unwrap();
            serde_json::from_slice::<ErrorReply>(&body).unwrap().error.code
        };
        assert_eq!(code(Method::POST, "/v1/revoke").await, "denied");
        for (method, path) in
            [(Method::POST, "/v1/revoke"), (Method::GET, "/v1/nothing"), (Method::GET, "/v1/status?network=%")]
        {
            let mut refused = 0;
            for _ in 0..2_000 {
                refused += usize::from(code(method.clone(), path).await == "too-many-requests");
            }
            assert!(refused > 0, "{path}");
        }
    });
    let text = lines.text();
    let told = text.lines().filter(|line| line.contains("change asked for")).count();
    assert!((20..1_000).contains(&told), "{told} lines");
}

#[tokio::test]
async fn events_are_told_to_everybody_who_listens() {
    let house = serve();
    let mut first = house.listen().await;
    let mut second = house.listen().await;
    for reader in [&mut first, &mut second] {
        assert_eq!(reader.line().await["type"], "listening");
    }
    house.events.tell(Some("home".into()), EventKind::Linked { peer: "laptop".into() });
    for reader in [&mut first, &mut second] {
        let line = reader.line().await;
        assert_eq!(
            (&line["type"], &line["peer"], &line["network"]),
            (&"linked".into(), &"laptop".into(), &"home".into())
        );
        assert_eq!(line["schema"], "ginnel.event/1");
    }
    let begun = std::time::Instant::now();
    drop(house.stop);
    assert!(first.rest().await.is_empty());
    assert!(begun.elapsed() < GRACE, "streams do not keep the daemon");
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_told_so_and_cut_off() {
    let house = serve();
    let mut reader = house.listen().await;
    assert_eq!(reader.line().await["type"], "listening");
    // More than the socket's buffers and the events ahead take together.
    let text = "x".repeat(4096);
    for _ in 0..4000 {
        house.events.tell(None, EventKind::Alarm { text: text.clone() });
        tokio::task::yield_now().await;
    }
    let rest = reader.rest().await;
    let last: serde_json::Value =
        serde_json::from_str(rest.lines().rfind(|line| line.starts_with('{')).unwrap()).unwrap();
    assert_eq!(last["type"], "overrun");
    assert!(last["missed"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_caller_that_dawdles_or_comes_too_often_is_closed() {
    let house = serve();
    let path = house.folder.path().join("socket");
    let mut slow = UnixStream::connect(&path).await.unwrap();
    slow.write_all(b"GET /v1/status HT").await.unwrap();
    let begun = std::time::Instant::now();
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).await.unwrap();
    assert!(begun.elapsed() < HEAD_TIMEOUT * 2, "{:?}", begun.elapsed());
    let mut long = UnixStream::connect(&path).await.unwrap();
    let head = [b"GET /v1/status HTTP/1.1\r\nx: ".to_vec(), vec![b'x'; 4 * LONGEST_HEAD]].concat();
    // The daemon may close before it has taken all of it.
    let _ = long.write_all(&head).await;
    let mut answer = Vec::new();
    let _ = long.read_to_end(&mut answer).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(UnixStream::connect(&path).await.unwrap());
    }
    let mut last = held.pop().unwrap();
    let mut answer = Vec::new();
    assert_eq!(last.read_to_end(&mut answer).await.unwrap(), 0, "beyond the bound connections are closed");
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
    let shared = shared(sender);
    let caller = Caller { uid: 0, pid: None, tier: Some(Tier::Admin) };
    let (_, outcome) = answer(&shared, caller, Endpoint::Leave, None, Ok(()), Body::empty()).await;
    assert_eq!(outcome.unwrap_err().exit, Exit::NoAnswer);
    let late = calls.recv().await.unwrap().answer.send(Ok(Left { network: "home".into() }.into()));
    assert!(late.is_err(), "nobody waits any more");
}

/// A control socket that is served, and the other end of its requests.
struct House {
    folder: TempDir,
    calls: Option<mpsc::Receiver<Call>>,
    events: Events,
    stop: oneshot::Sender<()>,
}

/// One reader of the event stream.
struct Reader {
    stream: UnixStream,
    read: Vec<u8>,
}

fn serve() -> House {
    let folder = TempDir::new().unwrap();
    let socket = ControlSocket::bind(&options(&folder)).unwrap();
    let (sender, calls) = mpsc::channel(4);
    let (stop, stopped) = oneshot::channel::<()>();
    let events = Events::default();
    tokio::spawn(socket.serve(sender, events.clone(), async move { drop(stopped.await) }));
    House { folder, calls: Some(calls), events, stop }
}

impl House {
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
        let stream = UnixStream::connect(self.folder.path().join("socket")).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let body = Full::new(Bytes::from(body.to_owned()));
        let request = hyper::Request::builder().method(method).uri(path).header("host", "x").body(body).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    async fn listen(&self) -> Reader {
        let mut stream = UnixStream::connect(self.folder.path().join("socket")).await.unwrap();
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        Reader { stream, read: Vec::new() }
    }
}

impl Reader {
    /// The next line that is an object; chunk sizes and the head are not.
    async fn line(&mut self) -> serde_json::Value {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                if line.starts_with(b"{") {
                    return serde_json::from_slice(&line).unwrap();
                }
                continue;
            }
            let mut chunk = [0; 4096];
            let length = self.stream.read(&mut chunk).await.unwrap();
            assert_ne!(length, 0, "the stream ends early");
            self.read.extend_from_slice(&chunk[..length]);
        }
    }

    async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await.unwrap();
        String::from_utf8(rest).unwrap().trim_matches(['\r', '\n', '0']).to_owned()
    }
}

fn shared(calls: mpsc::Sender<Call>) -> Arc<Shared> {
    let (alive, _) = mpsc::channel(1);
    Arc::new(Shared { calls, events: Events::default(), gate: Gate::default(), _alive: alive })
}

/// Runs a future and keeps what it logs.
fn told_to(lines: &Lines, future: impl Future<Output = ()>) {
    let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).with_target(false).finish();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(subscriber, || runtime.block_on(future));
}

/// Log lines, kept.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn options(folder: &TempDir) -> Options {
    Options { path: folder.path().join("socket"), admin_group: "no-such-group".to_owned() }
}

/// A body that the endpoint understands.
fn body_for(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Ping | Endpoint::Revoke | Endpoint::AdminAdd | Endpoint::AdminRemove => r#"{"peer":"laptop"}"#,
        Endpoint::ServerAdd => r#"{"founding":"ginnel-found-x"}"#,
        Endpoint::ServerRemove | Endpoint::ServerPromote => r#"{"server":"a1b2c3d4"}"#,
        Endpoint::AdminThreshold => r#"{"threshold":2}"#,
        Endpoint::Cosign => r#"{"proposal":"ginnel-sign-x"}"#,
        Endpoint::InviteRevoke => r#"{"id":"k5"}"#,
        Endpoint::Status
        | Endpoint::Peers
        | Endpoint::Ip
        | Endpoint::Log
        | Endpoint::Events
        | Endpoint::Up
        | Endpoint::Down
        | Endpoint::InviteCreate
        | Endpoint::InviteList
        | Endpoint::Leave
        | Endpoint::ServerList
        | Endpoint::AdminList
        | Endpoint::Policy
        | Endpoint::PolicySet
        | Endpoint::Checkpoint
        | Endpoint::RotateKeys => "",
    }
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
