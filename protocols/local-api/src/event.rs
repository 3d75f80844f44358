use serde::{Deserialize, Serialize};

use crate::{Body, PathReport, Timestamp};

/// One line of the event stream: something that happened while the reader listened.
///
/// A stream begins with [`EventKind::Listening`]: what happens after that line is told, up to 256 events ahead of the
/// reader. One that is further behind is told how many it missed by [`EventKind::Overrun`], and the stream ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When it happened.
    pub time: Timestamp,
    /// Name of the network that it happened in, where it is about one.
    pub network: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

impl Body for Event {
    const SCHEMA: &'static str = "ginnel.event/1";
}

/// What happened, by its `type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum EventKind {
    /// The stream has begun.
    Listening,
    /// The reader was too slow; the stream ends here.
    Overrun {
        /// Events that it missed.
        missed: u64,
    },
    /// A machine became a member.
    Joined {
        /// Its name.
        peer: String,
        /// Its member key.
        id: String,
    },
    /// A member is one no more.
    Left {
        /// Its name.
        peer: String,
        /// Its member key.
        id: String,
        /// Who signed, by name where there is one.
        by: String,
    },
    /// A member has another name, other capabilities or other keys.
    Updated {
        /// Its name.
        peer: String,
        /// Its member key.
        id: String,
    },
    /// A machine joined with an invite that this machine made.
    InviteUsed {
        /// Id of the invite.
        invite: String,
        /// The newcomer's name.
        peer: String,
    },
    /// Packets can flow to a peer.
    Linked {
        /// Its name.
        peer: String,
    },
    /// Packets to a peer take another path.
    PathChanged {
        /// Its name.
        peer: String,
        /// The path.
        path: PathReport,
    },
    /// No path to a peer answers any longer.
    Lost {
        /// Its name.
        peer: String,
    },
    /// A server let this machine in.
    ServerUp {
        /// Its address; empty for a caller of the lowest tier.
        server: String,
    },
    /// A server that had let this machine in is gone.
    ServerDown {
        /// Its address; empty for a caller of the lowest tier.
        server: String,
        /// Why; empty for a caller of the lowest tier.
        reason: String,
    },
    /// Somebody cheats, or the machine or its network needs an admin.
    Alarm {
        /// What is the matter; empty for a caller of the lowest tier.
        text: String,
    },
    /// This machine's clock is wrong.
    Clock {
        /// Seconds by which it is ahead of the servers'; negative when behind.
        ahead_s: i64,
    },
    /// A kind of a later version.
    #[serde(other)]
    Unknown,
}

impl Event {
    /// Removes what a caller of the lowest tier may not see: endpoints, the addresses of servers, and words that may quote
    /// one of them.
    pub fn redact(&mut self) {
        match &mut self.kind {
            EventKind::PathChanged { path, .. } => path.redact(),
            EventKind::ServerUp { server } => server.clear(),
            EventKind::ServerDown { server, reason } => {
                server.clear();
                // It may quote an address.
                reason.clear();
            }
            // It may quote a server.
            EventKind::Alarm { text } => text.clear(),
            EventKind::Listening
            | EventKind::Overrun { .. }
            | EventKind::Joined { .. }
            | EventKind::Left { .. }
            | EventKind::Updated { .. }
            | EventKind::InviteUsed { .. }
            | EventKind::Linked { .. }
            | EventKind::Lost { .. }
            | EventKind::Clock { .. }
            | EventKind::Unknown => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Document, PathKind};

    #[test]
    fn events_are_written_as_their_schema_says() {
        let kinds = [
            (EventKind::Listening, r#""type":"listening""#),
            (EventKind::Overrun { missed: 3 }, r#""type":"overrun","missed":3"#),
            (
                EventKind::Joined { peer: "laptop".into(), id: "b2".into() },
                r#""type":"joined","peer":"laptop","id":"b2""#,
            ),
            (
                EventKind::Left { peer: "laptop".into(), id: "b2".into(), by: "desk".into() },
                r#""type":"left","peer":"laptop","id":"b2","by":"desk""#,
            ),
            (
                EventKind::InviteUsed { invite: "k5".into(), peer: "nas".into() },
                r#""type":"invite-used","invite":"k5","peer":"nas""#,
            ),
            (EventKind::Clock { ahead_s: -60 }, r#""type":"clock","ahead_s":-60"#),
        ];
        for (kind, text) in kinds {
            let event = Event { time: Timestamp::from_unix(1_790_000_000), network: Some("home".into()), kind };
            let line = serde_json::to_string(&Document::new(event.clone())).unwrap();
            let head = r#"{"schema":"ginnel.event/1","ginnel_version":"0.1.0","time":"2026-09-21T14:13:20Z","network":"home","#;
            assert_eq!(line, format!("{head}{text}}}"));
            assert_eq!(serde_json::from_str::<Document<Event>>(&line).unwrap().body, event);
        }
    }

    #[test]
    fn an_event_of_a_later_version_is_unknown_and_not_an_error() {
        let line = r#"{"schema":"ginnel.event/1","ginnel_version":"9","time":"2026-09-21T14:13:20Z","network":null,
            "type":"eclipse","darkness":1}"#;
        assert_eq!(serde_json::from_str::<Document<Event>>(line).unwrap().body.kind, EventKind::Unknown);
    }

    #[test]
    fn redaction_leaves_no_address_outside_the_network() {
        let endpoint = Some("203.0.113.7:41641".parse().unwrap());
        let path = PathReport { kind: PathKind::Direct4, endpoint, relay: endpoint, ..PathReport::NONE };
        let server = "signal.example:4433".to_owned();
        for kind in [
            EventKind::PathChanged { peer: "laptop".into(), path },
            EventKind::ServerUp { server: server.clone() },
            EventKind::Alarm { text: format!("{server} says that it holds another history") },
            EventKind::ServerDown { reason: format!("no answer from {server}"), server },
        ] {
            let mut event = Event { time: Timestamp::from_unix(0), network: None, kind };
            event.redact();
            let text = serde_json::to_string(&event).unwrap();
            assert!(!text.contains("203.0.113") && !text.contains("signal.example"), "{text}");
        }
    }
}
