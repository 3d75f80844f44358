//! The event stream: what happens, told to everybody who listens.

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use ginnel_local_api::{Document, Event, EventKind, Tier, Timestamp};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::clock;

/// Where events are told. Nobody need listen; a reader that is more than 256 events behind is told so and cut off.
#[derive(Clone, Debug)]
pub struct Events(broadcast::Sender<Event>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(AHEAD))
    }
}

impl Events {
    /// Tells what happens at this moment, in `network` where it is about one.
    pub fn tell(&self, network: Option<String>, kind: EventKind) {
        // Nobody may be listening.
        drop(self.0.send(event(network, kind)));
    }

    /// Whether anybody listens.
    pub fn is_heard(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// An answer that goes on as long as both sides want.
    pub(super) fn stream(&self, tier: Option<Tier>) -> Response {
        let reader = Reader { events: self.0.subscribe(), is_redacted: tier < Some(Tier::Operate), state: State::New };
        let lines = stream::unfold(reader, |mut reader| async {
            let line = reader.next().await?;
            Some((Ok::<_, std::convert::Infallible>(line), reader))
        });
        ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
    }
}

#[derive(Debug)]
struct Reader {
    events: broadcast::Receiver<Event>,
    is_redacted: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Listening,
    Ended,
}

impl Reader {
    async fn next(&mut self) -> Option<Bytes> {
        let mut event = match self.state {
            State::New => {
                self.state = State::Listening;
                event(None, EventKind::Listening)
            }
            State::Listening => match self.events.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(missed)) => {
                    self.state = State::Ended;
                    event(None, EventKind::Overrun { missed })
                }
                Err(RecvError::Closed) => return None,
            },
            State::Ended => return None,
        };
        if self.is_redacted {
            event.redact();
        }
        let mut line = serde_json::to_vec(&Document::new(event)).expect("events are strings and numbers");
        line.push(b'\n');
        Some(line.into())
    }
}

fn event(network: Option<String>, kind: EventKind) -> Event {
    Event { time: Timestamp::from_unix(clock::unix_now()), network, kind }
}

/// Events that a reader may be behind.
const AHEAD: usize = 256;
