//! Requests to the control socket.

use ginnel_local_api::{Endpoint, Exit, MAX_BODY, Timestamp, nearest};

use crate::{Effort, Target};

/// Bodies of requests, for every endpoint.
pub(crate) const REQUEST: Target = Target {
    name: "api_request",
    covers: "the JSON of requests to the control socket",
    run: request,
    seeds: || {
        let bodies: [&str; 7] = [
            "",
            "{}",
            r#"{"peer":"nas"}"#,
            r#"{"peer":"nas","timeout_ms":1000,"seq":3}"#,
            r#"{"invite_or_founding":"ginnel-invite-x","name":"a","network":"b","shields_up":true,"timeout_ms":5}"#,
            r#"{"expires_s":60,"name":null}"#,
            r#"{"id":"0011"}"#,
        ];
        (0..Endpoint::ALL.len() as u8)
            .flat_map(|endpoint| bodies.map(|body| [&[endpoint][..], body.as_bytes()].concat()))
            .collect()
    },
    longest: 600,
    effort: Effort::Small,
};

/// Times as text.
pub(crate) const TIME: Target = Target {
    name: "api_time",
    covers: "times as text, and the nearest word to a mistyped one",
    run: time,
    seeds: || {
        ["2026-11-22T19:30:00Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2000-02-29T00:00:00Z", "listen_prot"]
            .map(|text| text.as_bytes().to_vec())
            .to_vec()
    },
    longest: 64,
    effort: Effort::Small,
};

fn request(data: &[u8]) {
    let Some((choice, body)) = data.split_first() else { return };
    let endpoint = Endpoint::ALL[usize::from(*choice) % Endpoint::ALL.len()];
    match endpoint.request(body) {
        Ok(request) => {
            assert_eq!(request.endpoint(), endpoint, "a body chose another endpoint");
            let again = request.body();
            assert!(again.len() <= MAX_BODY);
            assert_eq!(endpoint.request(&again), Ok(request.clone()), "a request does not survive its own encoding");
            assert!(request.deadline().as_secs() <= 3600, "a request may take for ever");
        }
        Err(error) => {
            assert_eq!(error.exit, Exit::Usage);
            let shown = format!("{} {:?}", error.message, error.hint);
            assert!(!shown.chars().any(char::is_control), "the error shows control characters: {shown:?}");
        }
    }
}

fn time(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(time) = text.parse::<Timestamp>() {
        assert_eq!(time.to_string().parse(), Ok(time), "{text}");
    }
    if let Some(unix) = data.first_chunk::<8>() {
        let time = Timestamp::from_unix(u64::from_be_bytes(*unix) % 253_402_300_800);
        assert_eq!(time.to_string().parse(), Ok(time));
    }
    let words = ["listen_port", "addresses", "mtu", "private_key_file"];
    assert!(nearest(text, words).is_none_or(|word| words.contains(&word)));
}
