use std::time::{Duration, Instant};

use ginnel_local_api::{ApiError, Body, Document, Exit, PathKind, PathReport, PingReply, PingRequest, Request};
use serde::Serialize;

use crate::arguments::Ping;
use crate::client::Client;
use crate::output::{Output, clean};

/// The last object of `ping --json`.
#[derive(Debug, Serialize)]
struct Summary {
    sent: u32,
    received: u32,
    min_ms: Option<f64>,
    avg_ms: Option<f64>,
    max_ms: Option<f64>,
    final_path: PathReport,
}

impl Body for Summary {
    const SCHEMA: &'static str = "ginnel.ping-summary/1";
}

/// Probes a peer once a second and names the path of each reply.
pub(crate) async fn run(
    ping: &Ping,
    timeout: Option<Duration>,
    client: &Client,
    output: &Output,
) -> Result<Exit, ApiError> {
    let wait = timeout.unwrap_or(WAIT).min(LONGEST_WAIT);
    let peer = clean(&ping.peer);
    let mut times = Vec::new();
    let mut last = PathReport::NONE;
    for seq in 1..=ping.count {
        let begun = Instant::now();
        let timeout_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        let answer = client.ask(&Request::Ping(PingRequest { peer: ping.peer.clone(), timeout_ms, seq })).await?;
        let reply: PingReply = answer.read()?;
        last = reply.path;
        if reply.ok {
            times.push(reply.rtt_ms.unwrap_or(0.0));
        }
        if output.is_json() {
            output.line(answer.text());
        } else {
            let text = describe(&peer, &reply, wait, output);
            output.line(&text);
        }
        if seq < ping.count {
            tokio::time::sleep(PACE.saturating_sub(begun.elapsed())).await;
        }
    }
    summarise(&peer, ping, &times, last, output)
}

fn describe(peer: &str, reply: &PingReply, wait: Duration, output: &Output) -> String {
    let seq = reply.seq;
    if !reply.ok {
        return format!("no answer from {peer} within {:.1} s: seq={seq}", wait.as_secs_f64());
    }
    let endpoint = reply.path.endpoint.map(|endpoint| format!(" {endpoint}")).unwrap_or_default();
    let relay = reply.path.relay.map(|relay| format!(" by relay {relay}")).unwrap_or_default();
    let rtt = reply.rtt_ms.map(|rtt| format!(" time={rtt:.1} ms")).unwrap_or_default();
    format!("answer from {peer}: seq={seq} path={}{endpoint}{relay}{rtt}", output.path(reply.path.kind))
}

fn summarise(peer: &str, ping: &Ping, times: &[f64], last: PathReport, output: &Output) -> Result<Exit, ApiError> {
    let received = u32::try_from(times.len()).unwrap_or(u32::MAX);
    let min = times.iter().copied().reduce(f64::min);
    let max = times.iter().copied().reduce(f64::max);
    let average = (!times.is_empty()).then(|| times.iter().sum::<f64>() / f64::from(received));
    if output.is_json() {
        let summary =
            Summary { sent: ping.count, received, min_ms: min, avg_ms: average, max_ms: max, final_path: last };
        output.object(&Document::new(summary));
    } else if let (true, Some(min), Some(average), Some(max)) = (ping.count > 1, min, average, max) {
        let sent = ping.count;
        output.line(&format!(
            "{received} of {sent} answered, round trip {min:.1}/{average:.1}/{max:.1} ms (min/avg/max)"
        ));
    }
    if received == 0 {
        return Err(ApiError::new(Exit::NoAnswer, "no-answer", format!("{peer} did not answer"))
            .with_hint(format!("It may be off or offline; `ginnel peers` says when {peer} was last seen.")));
    }
    if ping.direct && !matches!(last.kind, PathKind::Lan | PathKind::Direct4 | PathKind::Direct6) {
        return Err(ApiError::new(Exit::Degraded, "not-direct", format!("{peer} answered, but not by a direct path"))
            .with_hint("A direct path can take some seconds to be found; ping again with a higher --count."));
    }
    Ok(Exit::Done)
}

/// How long to wait for each reply unless told otherwise.
const WAIT: Duration = Duration::from_secs(5);
/// What the daemon allows one probe.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// From one probe to the next.
const PACE: Duration = Duration::from_secs(1);
