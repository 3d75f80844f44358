//! What a client makes of a server that means harm.

use ginnel_time::Instant;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::world::{charter, config, key, keys};
use crate::client::{Broken, Client, Credentials, Input, Output};
use crate::frame::{self, FrameReader, MAX_FRAME};
use crate::message::{
    Head, MAX_TEXT, Refusal, RelayOffer, Request, ServerMessage, Standing, VERSION, Welcome, printable,
};
use crate::noise::{self, Channel};
use crate::server::Limits;

/// A client, and the rogue's end of its channel.
fn connected() -> (Client, Channel) {
    let mut client = Client::new([3; 32], keys(), charter(1).network, Credentials::Member { key: key(1) });
    client.handle_input(Instant::ZERO, Input::Opened).unwrap();
    let Some(Output::Write(hello)) = client.poll_output() else { panic!("a hello") };
    let mut reader = FrameReader::default();
    reader.push(&hello);
    let hello = reader.next(MAX_FRAME).unwrap().unwrap();
    let secret = config(Limits::default()).noise;
    let (channel, first) = noise::respond(&secret, &hello[1..], ChaCha20Rng::seed_from_u64(4)).unwrap();
    let mut answer = vec![VERSION];
    answer.extend(first);
    client.handle_input(Instant::ZERO, Input::Received(frame::encode(&answer))).unwrap();
    assert!(matches!(client.poll_output(), Some(Output::Write(_))), "the proof");
    (client, channel)
}

fn say(client: &mut Client, channel: &mut Channel, message: &ServerMessage) -> Vec<Output> {
    let sealed = channel.seal(&message.encode().unwrap()).unwrap();
    let _ = client.handle_input(Instant::ZERO, Input::Received(frame::encode(&sealed)));
    std::iter::from_fn(|| client.poll_output()).collect()
}

fn welcome() -> ServerMessage {
    ServerMessage::Welcome(Welcome {
        standing: Standing::Member,
        observed: ([203, 0, 113, 9], 1).into(),
        stun_ports: Vec::new(),
        relay: RelayOffer::None,
        head: Head { length: 0, hash: [0; 32] },
        time: 0,
        checkpoint: None,
    })
}

fn hostile() -> [(String, String); 3] {
    let longest = "\u{1b}".repeat(65_000);
    [
        ("no\u{1b}]0;owned\u{7}\r\nroot#\u{9b}2J é".to_owned(), "no?]0;owned???root#?2J ?".to_owned()),
        ("x".repeat(MAX_TEXT + 1), "x".repeat(MAX_TEXT)),
        (longest, "?".repeat(MAX_TEXT)),
    ]
}

#[test]
fn no_refusal_carries_control_characters_or_pages_of_text_to_a_terminal() {
    for (text, shown) in hostile() {
        let refused = |request| ServerMessage::Refused { request, code: Refusal::Busy, text: text.clone() };
        let ended = Output::Broken { reason: Broken::Refused { code: Refusal::Busy, text: shown.clone() } };

        let (mut client, mut channel) = connected();
        assert_eq!(say(&mut client, &mut channel, &refused(Request::Connection)), [ended], "before the welcome");

        let (mut client, mut channel) = connected();
        say(&mut client, &mut channel, &welcome());
        let heard = say(&mut client, &mut channel, &refused(Request::Append));
        let harmless = ServerMessage::Refused { request: Request::Append, code: Refusal::Busy, text: shown.clone() };
        assert_eq!(heard, [Output::Message(harmless)], "for one request");
        let ended = Output::Broken { reason: Broken::Refused { code: Refusal::Busy, text: shown } };
        assert_eq!(say(&mut client, &mut channel, &refused(Request::Connection)), [ended], "after the welcome");
    }
}

#[test]
fn what_is_printable_stays_as_it_is() {
    let text: String = (' '..='~').collect();
    assert_eq!(printable(&text), text);
}
