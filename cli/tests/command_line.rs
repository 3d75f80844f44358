//! The program as a user and a script meet it: exit codes, what goes to which stream, and what goes over the socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use tempfile::TempDir;

const STATUS: &str = include_str!("../../protocols/local-api/testdata/status.json");

#[test]
fn a_daemon_that_is_not_there_is_exit_3_with_the_remedy() {
    let folder = TempDir::new().unwrap();
    let output = ginnel(folder.path(), &["status"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(text(&output.stdout), "");
    assert!(text(&output.stderr).contains("systemctl start ginneld"), "{}", text(&output.stderr));

    // A socket file whose owner has died refuses connections.
    drop(UnixListener::bind(folder.path().join("socket")).unwrap());
    let output = ginnel(folder.path(), &["status", "--json"]);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(text(&output.stdout), "");
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["code"], "daemon-unreachable");
    assert_eq!(error["error"]["exit"], 3);
}

#[test]
fn usage_errors_are_exit_2_in_either_form() {
    let folder = TempDir::new().unwrap();
    let output = ginnel(folder.path(), &["stauts"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("status"));

    let output = ginnel(folder.path(), &["stauts", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["code"], "usage");
    assert!(error["error"]["hint"].as_str().unwrap().contains("status"), "{error}");

    let output = ginnel(folder.path(), &["up", "--network-name", "castle", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("FOUNDING"), "{error}");
}

#[test]
fn an_invite_that_is_empty_or_endless_is_refused_before_the_daemon_is_asked() {
    let folder = TempDir::new().unwrap();
    for (text, cause) in [(String::new(), "it is empty"), ("x".repeat(100_000), "too long")] {
        let output = ginnel(folder.path(), &["up", &text, "--json"]);
        assert_eq!(output.status.code(), Some(2));
        let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(error["error"]["code"], "no-invite");
        assert!(error["error"]["message"].as_str().unwrap().contains(cause), "{error}");
        assert!(error["error"]["hint"].as_str().unwrap().contains("ginnel invite"), "{error}");
    }
}

#[test]
fn status_is_told_in_words_or_as_the_daemon_wrote_it() {
    let daemon = Daemon::answering(vec![(200, STATUS), (200, STATUS)]);
    let words = ginnel(daemon.path(), &["status"]);
    assert_eq!(words.status.code(), Some(0), "{}", text(&words.stderr));
    for part in ["home: running", "laptop", "direct4", "203.0.113.7:41641", "12.5 ms", "router", "no public IPv6"] {
        assert!(text(&words.stdout).contains(part), "{part} in {}", text(&words.stdout));
    }
    assert!(!text(&words.stdout).contains('\u{1b}'), "colour goes to terminals only");

    let json = ginnel(daemon.path(), &["status", "-j"]);
    assert_eq!(text(&json.stdout).trim_end(), STATUS.trim_end());
    assert!(daemon.request().starts_with("GET /v1/status HTTP/1.1\r\n"));
}

#[test]
fn a_bare_invite_prints_the_string_alone_on_standard_output() {
    let reply = r#"{"schema":"ginnel.invite-create/1","ginnel_version":"0.1.0","invite":"ginnel-invite-abc","id":"k5",
        "network":"home","expires":"2026-09-21T14:13:20Z","name":null}"#;
    let daemon = Daemon::answering(vec![(200, reply)]);
    let output = ginnel(daemon.path(), &["invite", "--expires", "15m"]);
    assert_eq!(text(&output.stdout), "ginnel-invite-abc\n");
    assert!(text(&output.stderr).contains("whoever holds it can join"));
    let request = daemon.request();
    assert!(request.starts_with("POST /v1/invite/create "), "{request}");
    assert!(request.ends_with(r#"{"expires_s":900,"name":null}"#), "{request}");
}

#[test]
fn what_other_admins_must_sign_is_printed_whatever_was_asked_for() {
    let proposed = r#"{"schema":"ginnel.change/1","ginnel_version":"0.1.0","outcome":"proposed","what":"invite: k5",
        "proposal":"ginnel-sign-abc","missing":1,"invite":"ginnel-invite-abc"}"#;
    let revoked = r#"{"schema":"ginnel.revoke/1","ginnel_version":"0.1.0","name":"laptop","id":"b2"}"#;
    let daemon = Daemon::answering(vec![(200, proposed), (200, proposed), (200, revoked)]);
    let output = ginnel(daemon.path(), &["invite"]);
    assert_eq!(text(&output.stdout), "ginnel-sign-abc\n", "{}", text(&output.stderr));
    let told = text(&output.stderr);
    assert!(told.contains("One more admin") && told.contains("\nginnel-invite-abc\n"), "{told}");
    let output = ginnel(daemon.path(), &["revoke", "laptop", "--yes"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "ginnel-sign-abc\n".to_owned()));
    let output = ginnel(daemon.path(), &["cosign", "ginnel-sign-abc"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), "Revoked laptop (b2)\n".to_owned()));
}

#[test]
fn up_reads_the_invite_from_standard_input() {
    let reply = r#"{"schema":"ginnel.up/1","ginnel_version":"0.1.0","outcome":"joined","network":"home","network_id":"k",
        "name":"desk","ips":["100.70.0.8"],"state":"running","warnings":[]}"#;
    let daemon = Daemon::answering(vec![(200, reply)]);
    let mut child = command(daemon.path(), &["up", "-", "--name", "desk"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"ginnel-invite-abc\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "Joined the network home as desk: 100.70.0.8\n", "{}", text(&output.stderr));
    assert!(daemon.request().contains(r#""invite_or_founding":"ginnel-invite-abc","name":"desk","#));
}

#[test]
fn a_misspelt_peer_is_answered_with_the_right_one() {
    let error = r#"{"error":{"code":"no-such-peer","message":"no peer is named lapton","hint":"`ginnel peers` shows them","exit":6,"docs":null}}"#;
    let peers = r#"{"schema":"ginnel.peers/1","ginnel_version":"0.1.0","peers":[],"static_peers":[{"name":"laptop",
        "public_key":"","kind":"wireguard","allowed_ips":[],"online":false,"path":{"kind":"none"},"rx_bytes":0,
        "tx_bytes":0}]}"#;
    let daemon = Daemon::answering(vec![(404, error), (200, peers)]);
    let output = ginnel(daemon.path(), &["ping", "lapton"]);
    assert_eq!(output.status.code(), Some(6));
    assert_eq!(text(&output.stderr), "error: no peer is named lapton\nDid you mean laptop?\n");
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn ping_names_the_path_of_each_reply_and_tells_silence_by_its_exit_code() {
    let answer = r#"{"schema":"ginnel.ping/1","ginnel_version":"0.1.0","seq":1,"ok":true,"path":{"kind":"turn-udp",
        "endpoint":"203.0.113.9:50000","relay":"198.51.100.1:3478"},"rtt_ms":30.25}"#;
    let silence = r#"{"schema":"ginnel.ping/1","ginnel_version":"0.1.0","seq":1,"ok":false,"path":{"kind":"none"}}"#;
    let daemon = Daemon::answering(vec![(200, answer), (200, answer), (200, silence)]);
    let output = ginnel(daemon.path(), &["ping", "laptop"]);
    assert_eq!(
        text(&output.stdout),
        "answer from laptop: seq=1 path=turn-udp 203.0.113.9:50000 by relay 198.51.100.1:3478 time=30.2 ms\n"
    );
    assert_eq!(output.status.code(), Some(0));
    assert!(daemon.request().ends_with(r#"{"peer":"laptop","timeout_ms":5000,"seq":1}"#));
    assert_eq!(ginnel(daemon.path(), &["ping", "laptop", "--direct"]).status.code(), Some(8));
    let silent = ginnel(daemon.path(), &["ping", "laptop", "--timeout", "0.2", "--json"]);
    assert_eq!(silent.status.code(), Some(7));
    assert!(text(&silent.stdout).lines().last().unwrap().contains(r#""sent":1,"received":0"#));
}

#[test]
fn events_are_told_line_by_line_until_there_are_enough() {
    let stream = concat!(
        r#"{"schema":"ginnel.event/1","ginnel_version":"0.1.0","time":"2026-09-21T14:13:20Z","network":null,"type":"listening"}"#,
        "\n",
        r#"{"schema":"ginnel.event/1","ginnel_version":"0.1.0","time":"2026-09-21T14:13:21Z","network":"home","type":"linked","peer":"lap\u001btop"}"#,
        "\n",
        r#"{"schema":"ginnel.event/1","ginnel_version":"0.1.0","time":"2026-09-21T14:13:22Z","network":"home","type":"eclipse"}"#,
        "\n",
        r#"{"schema":"ginnel.event/1","ginnel_version":"0.1.0","time":"2026-09-21T14:13:23Z","network":null,"type":"overrun","missed":3}"#,
        "\n",
    );
    let daemon = Daemon::answering(vec![(200, stream), (200, stream), (200, stream)]);
    let words = ginnel(daemon.path(), &["events", "--count", "1"]);
    assert_eq!(words.status.code(), Some(0), "{}", text(&words.stderr));
    assert_eq!(text(&words.stdout), "2026-09-21T14:13:21Z  home: linked with lap\u{fffd}top\n");
    assert!(daemon.request().starts_with("GET /v1/events HTTP/1.1\r\n"));
    let json = ginnel(daemon.path(), &["events", "--json", "-c", "2"]);
    assert_eq!(text(&json.stdout).lines().count(), 3);
    let overrun = ginnel(daemon.path(), &["events"]);
    assert_eq!(overrun.status.code(), Some(1));
    assert!(text(&overrun.stderr).contains("3 events are missing"), "{}", text(&overrun.stderr));
}

#[test]
fn what_cannot_be_undone_is_not_done_without_a_word() {
    let folder = TempDir::new().unwrap();
    for arguments in [&["leave"][..], &["revoke", "laptop"]] {
        let output = ginnel(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("--yes"));
    }
}

#[test]
fn a_wrong_key_in_the_users_file_is_exit_9() {
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("ginnel")).unwrap();
    std::fs::write(folder.path().join("ginnel/config.toml"), "jsno = true\n").unwrap();
    let output = ginnel(folder.path(), &["status"]);
    assert_eq!(output.status.code(), Some(9));
    assert!(
        text(&output.stderr).contains("config.toml:1: unknown key jsno\nDid you mean json?"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_daemon_that_stays_silent_is_exit_7_in_the_time_given() {
    let folder = TempDir::new().unwrap();
    let _listener = UnixListener::bind(folder.path().join("socket")).unwrap();
    let output = ginnel(folder.path(), &["status", "--timeout", "0.1"]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
}

/// A socket that gives each connection the next of some replies and keeps what was asked.
struct Daemon {
    folder: TempDir,
    requests: mpsc::Receiver<String>,
}

impl Daemon {
    fn answering(replies: Vec<(u16, &'static str)>) -> Self {
        let folder = TempDir::new().expect("make a folder");
        let listener = UnixListener::bind(folder.path().join("socket")).expect("bind the socket");
        let (sender, requests) = mpsc::channel();
        thread::spawn(move || {
            for (status, body) in replies {
                let (mut stream, _) = listener.accept().expect("accept a connection");
                let mut request = String::new();
                while !is_whole(&request) {
                    let mut chunk = [0; 4096];
                    let length = stream.read(&mut chunk).expect("read the request");
                    assert_ne!(length, 0, "the request ends early: {request}");
                    request.push_str(std::str::from_utf8(&chunk[..length]).expect("requests are ASCII"));
                }
                sender.send(request).expect("the test waits");
                write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                    .expect("write the reply");
            }
        });
        Self { folder, requests }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn request(&self) -> String {
        self.requests.recv().expect("a request came")
    }
}

fn is_whole(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
    length.is_none_or(|length| length.parse() == Ok(body.len()))
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ginnel"));
    command
        .arg("--socket")
        .arg(folder.join("socket"))
        .args(arguments)
        .env("XDG_CONFIG_HOME", folder)
        .env_remove("GINNEL_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn ginnel(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("run ginnel")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}
