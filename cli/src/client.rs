use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ginnel_local_api::{ApiError, Body, Document, ErrorReply, Exit, Request, selection};
use http_body_util::{BodyExt, Full, Limited};
use hyper::Response;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// The road to the daemon: one connection per request over its control socket.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    timeout: Option<Duration>,
    network: Option<String>,
}

/// A successful reply as the daemon wrote it.
#[derive(Debug)]
pub(crate) struct Answer {
    text: String,
}

/// Whether the reader of a stream wants more of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    More,
    Enough,
}

/// The task that moves a connection's bytes, which ends with this.
#[derive(Debug)]
struct Driver(tokio::task::JoinHandle<()>);

impl Client {
    /// A client of the daemon at `socket`; without a `timeout` each request gets what suits it. Its requests are about
    /// `network` where one is named.
    pub(crate) const fn new(socket: PathBuf, timeout: Option<Duration>, network: Option<String>) -> Self {
        Self { socket, timeout, network }
    }

    /// Sends `request` and waits for the reply.
    ///
    /// # Errors
    /// The daemon's own error, or one that says why it could not be asked.
    pub(crate) async fn ask(&self, request: &Request) -> Result<Answer, ApiError> {
        // The daemon keeps to the request's deadline and says so itself; the margin lets that answer arrive.
        let deadline = request.deadline().saturating_add(MARGIN);
        let has_own_limit = matches!(request, Request::Ping(_) | Request::Up(_));
        let limit = self.timeout.filter(|_| !has_own_limit).unwrap_or(deadline);
        match tokio::time::timeout(limit.min(FOREVER), self.exchange(request)).await {
            Ok(result) => result,
            Err(_) => Err(ApiError::new(
                Exit::NoAnswer,
                "daemon-timeout",
                format!("the daemon did not answer within {:.1} s", limit.as_secs_f64()),
            )
            .with_hint("Give it longer with --timeout, or look at its log: journalctl -u ginneld.")),
        }
    }

    /// Gives each line of a stream to `each`, until that has enough, the time is over, or the daemon ends the stream.
    /// Tells whether `each` had enough.
    ///
    /// # Errors
    /// The daemon's own error, or one that says why it could not be asked or why the stream broke.
    pub(crate) async fn listen(
        &self,
        request: &Request,
        mut each: impl FnMut(&str) -> Result<Flow, ApiError>,
    ) -> Result<Flow, ApiError> {
        let listening = async {
            let (response, _driver) = self.send(request).await?;
            if !response.status().is_success() {
                return Err(self.refused(response).await);
            }
            let mut body = response.into_body();
            let mut held = Vec::new();
            while let Some(frame) = body.frame().await {
                let Ok(bytes) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
                held.extend_from_slice(&bytes);
                while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = held.drain(..=end).collect();
                    let line = std::str::from_utf8(&line).map_err(|error| broken(&error))?;
                    if each(line.trim_end())? == Flow::Enough {
                        return Ok(Flow::Enough);
                    }
                }
                if held.len() > LARGEST_LINE {
                    return Err(broken(&io::Error::from(io::ErrorKind::InvalidData)));
                }
            }
            Err(broken(&io::Error::from(io::ErrorKind::UnexpectedEof)))
        };
        match self.timeout {
            Some(limit) => tokio::time::timeout(limit.min(FOREVER), listening).await.unwrap_or(Ok(Flow::More)),
            None => listening.await,
        }
    }

    async fn exchange(&self, request: &Request) -> Result<Answer, ApiError> {
        let (response, _driver) = self.send(request).await?;
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        let text = String::from_utf8(whole(response).await?.into()).map_err(|error| broken(&error))?;
        Ok(Answer { text })
    }

    /// Sends a request; the connection lasts as long as what comes with the response.
    async fn send(&self, request: &Request) -> Result<(Response<Incoming>, Driver), ApiError> {
        let address = selection::address(request.endpoint().path(), self.network.as_deref())?;
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| unreachable(&self.socket, &error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let driver = Driver(tokio::spawn(async move { drop(connection.await) }));
        let endpoint = request.endpoint();
        let message = hyper::Request::builder()
            .method(endpoint.method().as_str())
            .uri(address)
            .header("host", "ginneld")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(request.body())))
            .expect("method, path and headers are constants");
        let response = sender.send_request(message).await.map_err(|error| broken(&error))?;
        Ok((response, driver))
    }

    async fn refused(&self, response: Response<Incoming>) -> ApiError {
        let status = response.status();
        let body = match whole(response).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        match serde_json::from_slice::<ErrorReply>(&body) {
            Ok(reply) => reply.error,
            Err(_) => ApiError::new(Exit::Failed, "not-a-daemon", format!("the daemon answered with HTTP {status}"))
                .with_hint(format!(
                    "Check that {} is the socket of ginneld and of this version.",
                    self.socket.display()
                )),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, ApiError> {
    let body = Limited::new(response.into_body(), LARGEST_REPLY).collect().await;
    Ok(body.map_err(|error| broken(error.as_ref()))?.to_bytes())
}

impl Answer {
    /// The reply's text without the white space at its end.
    pub(crate) fn text(&self) -> &str {
        self.text.trim_end()
    }

    /// Whether the reply says that it is of `T`'s schema.
    pub(crate) fn is_of<T: Body>(&self) -> bool {
        serde_json::from_str::<Document<serde_json::Value>>(&self.text)
            .is_ok_and(|document| document.schema == T::SCHEMA)
    }

    /// The reply's content.
    ///
    /// # Errors
    /// [`Exit::Failed`] when the reply is not of the schema that `T` names.
    pub(crate) fn read<T: Body + DeserializeOwned>(&self) -> Result<T, ApiError> {
        let strange = |cause: String| {
            ApiError::new(Exit::Failed, "strange-reply", format!("the daemon's reply is not understood: {cause}"))
                .with_hint("Bring ginnel and ginneld to the same version, or read the reply with --json.")
        };
        let document: Document<T> = serde_json::from_str(&self.text).map_err(|error| strange(error.to_string()))?;
        if document.is_of_schema() {
            Ok(document.body)
        } else {
            Err(strange(format!("its schema is {}, not {}", document.schema, T::SCHEMA)))
        }
    }
}

fn unreachable(socket: &Path, error: &io::Error) -> ApiError {
    let at = socket.display();
    let unreachable =
        |message: String, hint: &str| ApiError::new(Exit::Unreachable, "daemon-unreachable", message).with_hint(hint);
    if error.kind() == io::ErrorKind::PermissionDenied {
        return ApiError::new(Exit::Denied, "socket-denied", format!("this user may not use the daemon's socket {at}"))
            .with_hint("Run ginnel with sudo, or add the user to the group ginnel-admin and log in again.");
    }
    if error.kind() == io::ErrorKind::NotFound {
        return unreachable(
            format!("the daemon is not running: there is no socket {at}"),
            "Start it with: sudo systemctl start ginneld. If it listens elsewhere, name its socket with --socket.",
        );
    }
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return unreachable(
            format!("the daemon is not running: nobody listens on {at}"),
            "Start it with: sudo systemctl start ginneld, and see journalctl -u ginneld if it stops again.",
        );
    }
    unreachable(format!("cannot reach the daemon at {at}: {error}"), "Check the path given with --socket.")
}

fn broken(error: &(dyn std::error::Error + 'static)) -> ApiError {
    ApiError::new(Exit::Unreachable, "connection-broken", format!("the connection to the daemon broke: {error}"))
        .with_hint("The daemon may have stopped or restarted; see journalctl -u ginneld and try again.")
}

/// What a reply may take on its way beyond the daemon's own deadline.
const MARGIN: Duration = Duration::from_secs(2);
/// The timer's horizon is some years; nobody waits for longer.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);
/// More than a log of 100,000 entries takes.
const LARGEST_REPLY: usize = 64 << 20;
/// More than any event takes.
const LARGEST_LINE: usize = 1 << 20;
