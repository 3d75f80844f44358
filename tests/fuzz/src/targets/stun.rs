//! STUN messages, and the client of Binding transactions.

use std::net::SocketAddr;
use std::time::Duration;

use ginnel_stun::codec::{
    AddressFamily, Builder, Class, Key, Message, Method, TransactionId, decode_authenticated, sign, verify,
};
use ginnel_stun::{BindingClient, Config, Input, MAX_ANSWER_LEN, Output, answer_binding, is_stun};
use ginnel_time::Instant;

use crate::feed::{Feed, Script};
use crate::{Effort, Target};

/// Any datagram as a message, with every field read; and messages of ours, which must come back.
pub(crate) const MESSAGE: Target = Target {
    name: "stun_message",
    covers: "STUN messages, Binding answers, MESSAGE-INTEGRITY",
    run: message,
    seeds: || {
        let transaction = TransactionId([9; 12]);
        let key = key();
        let request = || Builder::new(Class::Request, Method::Allocate, transaction);
        let peer: SocketAddr = SocketAddr::from(([192, 0, 2, 1], 7));
        [
            Builder::new(Class::Request, Method::Binding, transaction).pad_to(92).encode(),
            Builder::new(Class::Request, Method::Binding, transaction).encode_with_fingerprint(),
            request().username("u").realm("r").nonce("n").requested_transport_udp().lifetime(9).encode_signed(&key),
            Builder::new(Class::Success, Method::Binding, transaction).xor_mapped_address(peer).encode(),
            Builder::new(Class::Error, Method::Allocate, transaction).error(401).realm("r").nonce("n").encode(),
            Builder::new(Class::Error, Method::Binding, transaction).error(420).unknown_attributes(&[1, 2]).encode(),
            Builder::new(Class::Error, Method::Allocate, transaction).error(300).alternate_server(peer).encode(),
            Builder::new(Class::Indication, Method::Data, transaction).xor_peer_address(peer).data(b"data").encode(),
            request().even_port().dont_fragment().requested_address_family(AddressFamily::Ipv6).encode(),
            Builder::new(Class::Request, Method::ChannelBind, transaction).channel_number(0x4000).encode(),
            request().reservation_token([1; 8]).even_port_with_reservation().xor_relayed_address(peer).encode(),
        ]
        .into_iter()
        .map(|encoded| [&[0][..], &encoded.expect("short values fit")].concat())
        .chain([[&[1][..], &[0x55; 90]].concat()])
        .collect()
    },
    longest: 1500,
    effort: Effort::Middling,
};

/// Answers to our own questions, damaged on the way.
pub(crate) const CLIENT: Target = Target {
    name: "stun_client",
    covers: "the client of Binding transactions",
    run: client,
    seeds: || {
        vec![
            Script::default().bytes(&[0, 0, 1, 0, 0, 0]).done(),
            Script::default().bytes(&[0, 0, 0, 1, 1, 0, 3, 4, 1, 1, 0, 0, 2, 200]).done(),
            Script::default().bytes(&[0, 2, 0, 2, 2, 255, 2, 255, 3, 0]).chunk(&[0; 20]).done(),
        ]
    },
    longest: 600,
    effort: Effort::Middling,
};

fn key() -> Key {
    Key::long_term("user", "realm", "password").expect("plain credentials")
}

fn message(data: &[u8]) {
    match data.split_first() {
        Some((kind, bytes)) if kind & 1 == 0 => any_bytes(bytes),
        Some((_, bytes)) => own_message(&mut Feed::new(bytes)),
        None => {}
    }
}

fn any_bytes(bytes: &[u8]) {
    let from = SocketAddr::from(([198, 51, 100, 7], 4000));
    let Ok(message) = Message::decode(bytes) else {
        assert!(answer_binding(bytes, from).is_err(), "an answer to bytes that are no message");
        return;
    };
    assert!(is_stun(bytes));
    look_at(&message);
    let answer = answer_binding(bytes, from);
    assert_eq!(answer.is_ok(), (message.class(), message.method()) == (Class::Request, Method::Binding));
    if let Ok(answer) = answer {
        assert!(answer.len() <= MAX_ANSWER_LEN);
        let answer = Message::decode(&answer).expect("our answers decode");
        assert_eq!(answer.transaction(), message.transaction());
        assert!(matches!(answer.class(), Class::Success | Class::Error));
    }
    let key = key();
    assert_eq!(verify(bytes, &key).is_ok(), decode_authenticated(bytes, &key).is_ok());
    if verify(bytes, &key).is_ok() {
        assert!(message.has_integrity());
        return;
    }
    if !message.has_integrity()
        && !message.has_fingerprint()
        && let Ok(signed) = sign(bytes.to_vec(), &key)
    {
        assert!(verify(&signed, &key).is_ok(), "what was signed does not verify");
        let other = Key::short_term("another").expect("plain");
        assert!(verify(&signed, &other).is_err());
    }
}

/// Reads every field: none may panic, whatever the others hold.
fn look_at(message: &Message) {
    let _ = (message.xor_mapped_address(), message.xor_relayed_address(), message.alternate_server());
    assert!(message.xor_peer_addresses().count() <= 64);
    let _ = (message.data().map(<[u8]>::len), message.error(), message.username(), message.realm(), message.nonce());
    let _ = (message.lifetime(), message.channel_number(), message.requested_transport(), message.even_port());
    let _ = (message.requested_address_family(), message.unknown_attributes().map(<[u16]>::len));
    assert!(message.unknown_required(&[]).len() <= 64);
}

/// Makes a message of the input's values; it must decode to the same.
fn own_message(feed: &mut Feed<'_>) {
    let class = feed.pick(&[Class::Request, Class::Indication, Class::Success, Class::Error]);
    let methods = [Method::Binding, Method::Allocate, Method::Send, Method::Data, Method::ChannelBind];
    let (method, transaction) = (feed.pick(&methods), TransactionId(feed.array()));
    let (peer, mapped) = (feed.address(), feed.address());
    let (lifetime, channel) = (feed.u32(), feed.u16());
    let data = feed.chunk();
    let code = 300 + u16::from(feed.u8()) % 400;
    let builder = Builder::new(class, method, transaction)
        .xor_mapped_address(mapped)
        .xor_peer_address(peer)
        .lifetime(lifetime)
        .channel_number(channel)
        .data(data)
        .error(code);
    let key = key();
    let Ok(bytes) = builder.encode_signed(&key) else { return };
    let message = decode_authenticated(&bytes, &key).expect("what we sign, we read");
    assert_eq!((message.class(), message.method(), message.transaction()), (class, method, transaction));
    assert_eq!(message.xor_mapped_address(), Some(mapped));
    assert_eq!(message.xor_peer_addresses().collect::<Vec<_>>(), [peer]);
    assert_eq!((message.lifetime(), message.channel_number()), (Some(lifetime), Some(channel)));
    assert_eq!(message.data(), Some(data));
    assert_eq!(message.error().map(|(code, _)| code), Some(code));
    // Any one bit.
    let mut damaged = bytes;
    let (place, bit) = (feed.below(damaged.len()), feed.u8() % 8);
    damaged[place] ^= 1 << bit;
    assert!(decode_authenticated(&damaged, &key).is_err(), "a changed bit at {place} was not noticed");
}

fn client(data: &[u8]) {
    let mut feed = Feed::new(data);
    let mut client = BindingClient::new([4; 32], Config::default());
    let mut now = Instant::ZERO + Duration::from_secs(10);
    let mut asked: Vec<(u16, SocketAddr, Vec<u8>)> = Vec::new();
    while !feed.is_empty() {
        match feed.u8() % 4 {
            0 => {
                let server = SocketAddr::from(([203, 0, 113, 1], 3478 + u16::from(feed.u8() % 3)));
                let _ = client.handle_input(now, Input::Query { socket: u16::from(feed.u8() % 3), server });
            }
            1 if !asked.is_empty() => {
                let (socket, server, request) = asked[feed.below(asked.len())].clone();
                let answer = answer_binding(&request, SocketAddr::from(([198, 51, 100, 7], 4000 + socket)));
                let bytes = feed.spoil(answer.expect("the client writes Binding requests"));
                let from = if feed.u8() < 16 { feed.address() } else { server };
                let _ = client.handle_input(now, Input::Received { socket, from, bytes });
            }
            2 => {
                now += Duration::from_millis(u64::from(feed.u8()) * 40);
                client.handle_timeout(now);
            }
            _ => {
                let bytes = feed.chunk().to_vec();
                let _ = client.handle_input(now, Input::Received { socket: 0, from: feed.address(), bytes });
            }
        }
        while let Some(output) = client.poll_output() {
            match output {
                Output::Send { socket, to, bytes } => asked.push((socket, to, bytes)),
                Output::Mapped { socket, server, .. } => {
                    let known = asked.iter().any(|(s, to, _)| (*s, *to) == (socket, server));
                    assert!(known, "an answer of a server that was not asked");
                }
                Output::Failed { .. } => {}
            }
        }
    }
}
