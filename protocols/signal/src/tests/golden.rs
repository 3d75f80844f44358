//! The bytes of every message, so that no change of a type changes the wire unseen.

use ginnel_membership::invite::Token;
use ginnel_membership::{InviteKey, MemberKey, NetworkId, SequencerKey, Signature, TunnelKey};
use ginnel_time::Tai64n;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::mailbox::{MailOpener, MailSealer};
use crate::message::{
    Claim, ClientMessage, FoundingToken, Head, MailRefusal, Malformed, Placing, Refusal, RelayCredentials, RelayOffer,
    Request, ServerMessage, Standing, Welcome,
};
use crate::noise;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `n` repeated over a key's length, in hexadecimal.
fn run(n: u8, length: usize) -> String {
    hex(&vec![n; length])
}

fn client(message: &ClientMessage, expected: &str) {
    let bytes = message.encode().unwrap();
    assert_eq!(hex(&bytes), expected);
    assert_eq!(ClientMessage::decode(&bytes).as_ref(), Ok(message));
    for length in 0..bytes.len() {
        assert!(ClientMessage::decode(&bytes[..length]).is_err(), "{message:?} cut at {length}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert_eq!(ClientMessage::decode(&longer), Err(Malformed::Body));
}

fn server(message: &ServerMessage, expected: &str) {
    let bytes = message.encode().unwrap();
    assert_eq!(hex(&bytes), expected);
    assert_eq!(ServerMessage::decode(&bytes).as_ref(), Ok(message));
    for length in 0..bytes.len() {
        assert!(ServerMessage::decode(&bytes[..length]).is_err(), "{message:?} cut at {length}");
    }
}

#[test]
fn client_messages_are_these_bytes() {
    let network = NetworkId::from_bytes([0x11; 32]);
    let key = MemberKey::from_bytes([0x22; 32]);
    let signature = Signature::from_bytes([0x33; 64]);
    let signed = format!("{}40{}", run(0x22, 32), run(0x33, 64));
    let authenticate = format!("0200{}", run(0x11, 32));
    client(
        &ClientMessage::Authenticate { network, claim: Claim::Member { key, signature } },
        &format!("{authenticate}00{signed}"),
    );
    let invite = InviteKey::from_bytes([0x44; 32]);
    let invite_signature = Signature::from_bytes([0x55; 64]);
    client(
        &ClientMessage::Authenticate { network, claim: Claim::Joiner { invite, invite_signature, key, signature } },
        &format!("{authenticate}01{}40{}{signed}", run(0x44, 32), run(0x55, 64)),
    );
    let token = FoundingToken(Token::from_bytes([0x66; 16]));
    client(
        &ClientMessage::Authenticate { network, claim: Claim::Founder { token, key, signature } },
        &format!("{authenticate}02{}{signed}", run(0x66, 16)),
    );
    client(&ClientMessage::Found { genesis: vec![1, 2, 3] }, "020103010203");
    client(&ClientMessage::Fetch { from: 300 }, "0202ac02");
    client(&ClientMessage::Append { record: vec![9; 2] }, "0203020909");
    client(&ClientMessage::Mail { to: key, bytes: vec![7] }, &format!("0204{}0107", run(0x22, 32)));
    client(&ClientMessage::Relay, "0205");
    client(&ClientMessage::Ping, "0206");
    let far = SequencerKey::from_bytes([0x22; 32]);
    client(
        &ClientMessage::Authenticate { network, claim: Claim::Mirror { key: far, signature } },
        &format!("{authenticate}03{signed}"),
    );
    client(&ClientMessage::Refill { first: 7, entries: vec![vec![1, 2], vec![3]] }, "020707020201020103");
    client(&ClientMessage::FetchSnapshot { offset: 60_000 }, "0208e0d403");
    client(&ClientMessage::Forward { number: 3, record: vec![9; 2] }, "020903020909");
}

#[test]
fn server_messages_are_these_bytes() {
    let head = Head { length: 2, hash: [0xaa; 32] };
    let hash = run(0xaa, 32);
    let welcome = Welcome {
        standing: Standing::Founder,
        observed: "198.51.100.7:4242".parse().unwrap(),
        stun_ports: vec![3478],
        relay: RelayOffer::Offered,
        head,
        time: 1_800_000_000,
        checkpoint: None,
    };
    let said = format!("02000200c6336407922101961b0002{hash}80a4a7da06");
    server(&ServerMessage::Welcome(welcome.clone()), &format!("{said}00"));
    let at_checkpoint = Welcome { standing: Standing::Mirror, checkpoint: Some(300), ..welcome };
    server(&ServerMessage::Welcome(at_checkpoint), &format!("{}01ac02", said.replacen("020002", "020004", 1)));
    server(
        &ServerMessage::Entries { first: 1, entries: vec![vec![5, 6]], head },
        &format!("020101010205060 2{hash}").replace(' ', ""),
    );
    server(&ServerMessage::Appended { sequence: 5 }, "020205");
    let text = "no".to_owned();
    server(
        &ServerMessage::Refused { request: Request::Append, code: Refusal::Record(11), text: text.clone() },
        "0203030a0b026e6f",
    );
    server(&ServerMessage::Refused { request: Request::Connection, code: Refusal::Malformed, text }, "02030011026e6f");
    let from = MemberKey::from_bytes([0x22; 32]);
    server(&ServerMessage::Mail { from, bytes: vec![7] }, &format!("0204{}0107", run(0x22, 32)));
    server(&ServerMessage::MailRefused { to: from, why: MailRefusal::NotAllowed }, &format!("0205{}04", run(0x22, 32)));
    let relay = RelayCredentials {
        username: "1:a".to_owned(),
        password: "p".to_owned(),
        lifetime_seconds: 600,
        addresses: vec!["[2001:db8::1]:3478".parse().unwrap()],
    };
    server(&ServerMessage::Relay(relay), "020603313a610170d804010120010db8000000000000000000000001961b");
    server(&ServerMessage::Pong, "0207");
    server(
        &ServerMessage::Snapshot { entry: vec![5, 6], total: 300, offset: 2, bytes: vec![7] },
        "0208020506ac02020107",
    );
    let placed = Placing::Placed { sequence: 5 };
    server(&ServerMessage::Forwarded { number: 3, outcome: placed }, "0209030005");
    let refused = Placing::Refused { code: Refusal::NoSequencer, text: "no".to_owned() };
    server(&ServerMessage::Forwarded { number: 3, outcome: refused }, "0209030112026e6f");
    let refused = |request, code| ServerMessage::Refused { request, code, text: String::new() };
    server(&refused(Request::Refill, Refusal::Fork), "0203051300");
    server(&refused(Request::FetchSnapshot, Refusal::NoCheckpoint), "0203061400");
}

#[test]
fn handshake_mail_and_proof_are_these_bytes() {
    let secret = [7; 32];
    let public = PublicKey::from(&StaticSecret::from(secret)).to_bytes();
    let (initiator, first) = noise::Initiator::start(&public, ChaCha20Rng::seed_from_u64(1)).unwrap();
    let (server, answer) = noise::respond(&secret, &first, ChaCha20Rng::seed_from_u64(2)).unwrap();
    let mut channel = initiator.finish(&answer).unwrap();
    assert_eq!(hex(&first), FIRST);
    assert_eq!(hex(&answer), ANSWER);
    assert_eq!(hex(server.binding()), BINDING);
    assert_eq!(hex(&channel.seal(&ClientMessage::Ping.encode().unwrap()).unwrap()), PING);
    let network = NetworkId::from_bytes([0x11; 32]);
    let proof = crate::auth::sign(&super::world::key(1), crate::auth::SignedRole::Member, &network, channel.binding());
    assert_eq!(hex(&proof.to_bytes()), PROOF);

    let recipient = TunnelKey::from_bytes(public);
    let mut sealer = MailSealer::new([3; 32], Zeroizing::new([8; 32]), &network);
    let mail = sealer.seal(Tai64n::from_unix(1_800_000_000, 5), &recipient, b"hello").unwrap();
    assert_eq!(hex(&mail), MAIL);
    let mut opener = MailOpener::new([4; 32], Zeroizing::new(secret), &network);
    assert_eq!(opener.open(&mail, &mut |_| true).unwrap().counter, 1_800_000_000_000_000_005);
}

const FIRST: &str = "c9561fe32c63944f32911110e14dc210d15c4c3402f82a05f1c5c8334172216b784206299b8db9d66378e5e3fa180d33";
const ANSWER: &str = "52cca6438038819fef7230a934ca175235da9a44c20590cc9c2f025194a64328871d05b37e05666333b84a9b6e3f4dc3";
const BINDING: &str = "d7df4959d2afbb3bb5988dea685410b114f4e6490164a302496ef04df497171b";
const PING: &str = "d570640cd86648926ca720b8caacc30b5c7e";
const PROOF: &str = "7500346962959aa1b52a4cffeeec49631b848bfd94a4069a8f3b2ee529f3fda0871134bfad3290b2315f04e0146f36fccdfc\
    9e0f4f72f156f5d6b02956ebab02";
const MAIL: &str = "015906e87a9b9502bfecaff2304ad605723749e441751005cd8b3ec62914689b47856c12e6a1552c74af9523deef903f183f\
    51d0af41cf22c5e516672c064188367c20685f63c77902d54615cd202ec5365354fdc4e5b2971a516fad6f7bd1ee4694b6fb\
    608d0be2a8cfa27273a6";
