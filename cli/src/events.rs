use ginnel_local_api::{ApiError, Document, Event, EventKind, Exit, Request};

use crate::arguments::Events;
use crate::client::{Client, Flow};
use crate::output::{Output, clean};
use crate::verb::short;

/// Tells what happens until the user, `--count` or `--timeout` ends it.
pub(crate) async fn run(options: &Events, client: &Client, output: &Output) -> Result<Exit, ApiError> {
    let mut seen = 0;
    let flow = client.listen(&Request::Events, |line| {
        let event: Event = serde_json::from_str::<Document<Event>>(line)
            .map_err(|error| {
                ApiError::new(Exit::Failed, "strange-reply", format!("an event is not understood: {error}"))
                    .with_hint("Bring ginnel and ginneld to the same version.")
            })?
            .body;
        if output.is_json() {
            output.line(line);
        } else if let Some(text) = describe(&event.kind, output) {
            let network = event.network.as_deref().map(|network| format!("{}: ", clean(network))).unwrap_or_default();
            output.line(&format!("{}  {network}{text}", event.time));
        }
        match event.kind {
            EventKind::Listening => return Ok(Flow::More),
            EventKind::Overrun { missed } => {
                let message = format!("more happened than was read: {missed} events are missing here");
                return Err(ApiError::new(Exit::Failed, "overrun", message).with_hint("Read faster, or listen again."));
            }
            EventKind::Joined { .. }
            | EventKind::Left { .. }
            | EventKind::Updated { .. }
            | EventKind::InviteUsed { .. }
            | EventKind::Linked { .. }
            | EventKind::PathChanged { .. }
            | EventKind::Lost { .. }
            | EventKind::ServerUp { .. }
            | EventKind::ServerDown { .. }
            | EventKind::Alarm { .. }
            | EventKind::Clock { .. }
            | EventKind::Unknown => seen += 1,
        }
        Ok(if options.count.is_some_and(|count| seen >= count) { Flow::Enough } else { Flow::More })
    });
    match (flow.await?, options.count) {
        (Flow::More, Some(count)) => {
            Err(ApiError::new(Exit::NoAnswer, "few-events", format!("{seen} of {count} events came in the time given")))
        }
        (Flow::More | Flow::Enough, _) => Ok(Exit::Done),
    }
}

/// The event in words; `None` for what is of no use to a person.
fn describe(kind: &EventKind, output: &Output) -> Option<String> {
    Some(match kind {
        EventKind::Listening | EventKind::Overrun { .. } => return None,
        EventKind::Joined { peer, id } => format!("{} joined ({})", clean(peer), short(id)),
        EventKind::Left { peer, id, by } => format!("{} is out ({}), by {}", clean(peer), short(id), short(by)),
        EventKind::Updated { peer, id } => format!("{} has changed ({})", clean(peer), short(id)),
        EventKind::InviteUsed { invite, peer } => format!("{} has used the invite {}", clean(peer), short(invite)),
        EventKind::Linked { peer } => format!("linked with {}", clean(peer)),
        EventKind::PathChanged { peer, path } => {
            let endpoint = path.endpoint.map(|endpoint| format!(" {endpoint}")).unwrap_or_default();
            format!("{} is reached by {}{endpoint}", clean(peer), output.path(path.kind))
        }
        EventKind::Lost { peer } => format!("no path to {}", clean(peer)),
        EventKind::ServerUp { server } => format!("server {} is connected", clean(server)),
        EventKind::ServerDown { server, reason } => format!("server {} is gone: {}", clean(server), clean(reason)),
        EventKind::Alarm { text } if text.is_empty() => {
            "alarm, told in full to those who may operate this machine".to_owned()
        }
        EventKind::Alarm { text } => format!("alarm: {}", clean(text)),
        EventKind::Clock { ahead_s } if *ahead_s < 0 => {
            format!("this machine's clock is {} s behind", ahead_s.unsigned_abs())
        }
        EventKind::Clock { ahead_s } => format!("this machine's clock is {ahead_s} s ahead"),
        EventKind::Unknown => "something that this version of ginnel has no words for".to_owned(),
    })
}
