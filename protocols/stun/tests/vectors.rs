//! The test vectors of RFC 5769, and what is left of them after any damage.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test may fail by panic")]

use std::net::SocketAddr;

use ginnel_stun::codec::{
    AddressFamily, Builder, Class, HEADER_LEN, Key, MAX_ATTRIBUTES, Malformed, Message, Method, TransactionId,
    Unauthenticated, decode_authenticated, sign, verify,
};
use ginnel_stun::{answer_binding, is_stun};
use proptest::prelude::*;

/// §2.1, password [`PASSWORD`].
const REQUEST: &str = "\
    000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b1\
    51263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";
/// §2.2, password [`PASSWORD`].
const IPV4_RESPONSE: &str = "\
    0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643000800142b91f599\
    fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";
/// §2.3, password [`PASSWORD`].
const IPV6_RESPONSE: &str = "\
    010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5\
    bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c";
/// §2.4, a long-term request.
const LONG_TERM_REQUEST: &str = "\
    000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b900000015001c662f2f3439396b39\
    3534643 64f4c33346f4c39465354767936347341 0014000b6578616d706c652e6f726700 00080014f67024656dd64a3e02b8e0712e85c9a2\
    8ca89666";
const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn all() -> [Vec<u8>; 4] {
    [REQUEST, IPV4_RESPONSE, IPV6_RESPONSE, LONG_TERM_REQUEST].map(bytes)
}

#[test]
fn sample_request_is_authentic() {
    let message = decode_authenticated(&bytes(REQUEST), &Key::short_term(PASSWORD).unwrap()).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Request, Method::Binding));
    assert_eq!(message.username(), Some("evtj:h6vY"));
    assert!(message.has_integrity() && message.has_fingerprint());
    assert_eq!(message.unknown_required(&[0x0006]), [0x0024]);
}

#[test]
fn sample_responses_name_their_addresses() {
    let key = Key::short_term(PASSWORD).unwrap();
    for (vector, address) in
        [(IPV4_RESPONSE, "192.0.2.1:32853"), (IPV6_RESPONSE, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
    {
        let message = decode_authenticated(&bytes(vector), &key).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Success, Method::Binding));
        assert_eq!(message.xor_mapped_address(), Some(address.parse().unwrap()));
    }
}

#[test]
fn sample_long_term_request_is_authentic_and_is_what_we_write() {
    let (user, realm) = ("\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}", "example.org");
    // The password as the RFC gives it after preparation; OpaqueString (RFC 8265) does not map what SASLprep mapped.
    let key = Key::long_term(user, realm, "TheMatrIX").unwrap();
    let message = decode_authenticated(&bytes(LONG_TERM_REQUEST), &key).unwrap();
    assert_eq!((message.username(), message.realm()), (Some(user), Some(realm)));
    assert_eq!(message.nonce(), Some("f//499k954d6OL34oL9FSTvy64sA"));
    let written = Builder::new(Class::Request, Method::Binding, message.transaction())
        .username(user)
        .nonce("f//499k954d6OL34oL9FSTvy64sA")
        .realm(realm);
    assert_eq!(written.encode_signed(&key).unwrap(), bytes(LONG_TERM_REQUEST));
}

#[test]
fn wrong_key_and_missing_integrity_are_told_apart() {
    let wrong = Key::short_term("guess").unwrap();
    assert_eq!(verify(&bytes(REQUEST), &wrong), Err(Unauthenticated::Wrong));
    let plain =
        Builder::new(Class::Request, Method::Binding, TransactionId([1; 12])).username("evtj").encode().unwrap();
    assert!(Message::decode(&plain).is_ok());
    assert_eq!(decode_authenticated(&plain, &wrong).err(), Some(Unauthenticated::Missing));
    assert_eq!(decode_authenticated(&[], &wrong).err(), Some(Unauthenticated::Malformed(Malformed::NotStun)));
}

#[test]
fn truncated_integrity_is_wrong_not_a_prefix_match() {
    let key = Key::short_term(PASSWORD).unwrap();
    let id = TransactionId([1; 12]);
    let signed = Builder::new(Class::Request, Method::Binding, id).encode_signed(&key).unwrap();
    // The same HMAC cut to its first four bytes, as an attribute of length 4.
    let mut short = signed[..HEADER_LEN + 8].to_vec();
    short[3] = 8;
    short[HEADER_LEN + 3] = 4;
    assert!(verify(&short, &key).is_err());
}

#[test]
fn attributes_after_the_integrity_are_not_part_of_the_message() {
    let key = Key::short_term("secret").unwrap();
    let id = TransactionId([9; 12]);
    let mut message = Builder::new(Class::Success, Method::Binding, id).username("me").encode_signed(&key).unwrap();
    let smuggled = Builder::new(Class::Success, Method::Binding, id)
        .xor_mapped_address("192.0.2.66:1".parse().unwrap())
        .lifetime(1)
        .encode()
        .unwrap();
    message.extend_from_slice(&smuggled[HEADER_LEN..]);
    let length = u16::try_from(message.len() - HEADER_LEN).unwrap();
    message[2..4].copy_from_slice(&length.to_be_bytes());
    let read = decode_authenticated(&message, &key).unwrap();
    assert_eq!(read.username(), Some("me"));
    assert_eq!((read.xor_mapped_address(), read.lifetime()), (None, None));
    assert!(!read.has(0x0020));
}

#[test]
fn trailing_bytes_are_refused() {
    for mut vector in all() {
        assert!(is_stun(&vector) && Message::decode(&vector).is_ok());
        vector.push(0);
        assert_eq!(Message::decode(&vector).err(), Some(Malformed::TrailingBytes));
    }
}

#[test]
fn too_many_attributes_are_refused() {
    let many = |count: usize| {
        let mut message = Builder::new(Class::Request, Method::Binding, TransactionId([1; 12])).encode().unwrap();
        for _ in 0..count {
            message.extend_from_slice(&[0xC0, 0x00, 0x00, 0x00]);
        }
        let length = u16::try_from(message.len() - HEADER_LEN).unwrap();
        message[2..4].copy_from_slice(&length.to_be_bytes());
        message
    };
    assert!(Message::decode(&many(MAX_ATTRIBUTES)).is_ok());
    assert_eq!(Message::decode(&many(MAX_ATTRIBUTES + 1)).err(), Some(Malformed::TooManyAttributes));
}

#[test]
fn other_protocols_are_not_stun() {
    let wireguard = [&[1, 0, 0, 0][..], &[0x77; 144]].concat();
    let channel_data = [0x40, 0x00, 0x00, 0x04, 0x21, 0x12, 0xA4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let odd_length = [0, 1, 0, 2, 0x21, 0x12, 0xA4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let short = [0, 1, 0, 4, 0x21, 0x12, 0xA4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert!(![&wireguard[..], &channel_data, &odd_length, &short, &[]].into_iter().any(is_stun));
}

#[test]
fn every_truncation_and_every_flipped_bit_is_noticed_or_harmless() {
    let key = Key::short_term(PASSWORD).unwrap();
    for vector in all() {
        for length in 0..vector.len() {
            assert!(Message::decode(&vector[..length]).is_err(), "cut to {length}");
        }
    }
    let vector = bytes(IPV6_RESPONSE);
    let expected = Message::decode(&vector).unwrap().xor_mapped_address();
    for position in 0..vector.len() {
        for bit in 0..8 {
            let mut damaged = vector.clone();
            damaged[position] ^= 1 << bit;
            // A damaged type of FINGERPRINT makes an unknown attribute behind MESSAGE-INTEGRITY, which is ignored.
            let ignored = (84..86).contains(&position);
            if let Ok(read) = decode_authenticated(&damaged, &key) {
                assert!(ignored, "byte {position} bit {bit}");
                assert_eq!(read.xor_mapped_address(), expected);
            }
        }
    }
}

#[test]
fn signing_by_hand_is_signing() {
    let key = Key::long_term("user", "realm", "pass").unwrap();
    let build = || Builder::new(Class::Request, Method::Refresh, TransactionId([4; 12])).username("user").lifetime(77);
    assert_eq!(sign(build().encode().unwrap(), &key), Ok(build().encode_signed(&key).unwrap()));
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![any::<([u8; 4], u16)>().prop_map(SocketAddr::from), any::<([u8; 16], u16)>().prop_map(SocketAddr::from),]
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..300), kind in 0..0x4000_u16) {
        let _ = Message::decode(&body);
        let length = body.len() / 4 * 4;
        let mut framed = kind.to_be_bytes().to_vec();
        framed.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        framed.extend_from_slice(&[0x21, 0x12, 0xA4, 0x42]);
        framed.extend_from_slice(&[7; 12]);
        framed.extend_from_slice(&body[..length]);
        prop_assert!(is_stun(&framed));
        let _ = Message::decode(&framed);
        let _ = verify(&framed, &Key::short_term("p").unwrap());
        let _ = answer_binding(&framed, "192.0.2.1:1".parse().unwrap());
    }

    #[test]
    fn attributes_of_any_type_and_length_are_read_or_refused(
        attributes in proptest::collection::vec((0..0x30_u16, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..8),
    ) {
        let mut message = Builder::new(Class::Request, Method::Allocate, TransactionId([1; 12])).encode().unwrap();
        for (kind, optional, value) in attributes {
            let kind = if optional { kind | 0x8000 } else { kind };
            message.extend_from_slice(&kind.to_be_bytes());
            message.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
            message.extend_from_slice(&value);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        let length = u16::try_from(message.len() - HEADER_LEN).unwrap();
        message[2..4].copy_from_slice(&length.to_be_bytes());
        if let Ok(read) = Message::decode(&message) {
            let _ = (read.username(), read.realm(), read.nonce(), read.error(), read.data(), read.lifetime());
            let _ = (read.channel_number(), read.requested_transport(), read.requested_address_family());
            let _ = (read.xor_peer_addresses().count(), read.alternate_server(), read.even_port());
        }
    }

    #[test]
    fn what_is_written_is_read(
        mapped in address(), peers in proptest::collection::vec(address(), 0..5), lifetime: u32, channel: u16,
        data in proptest::collection::vec(any::<u8>(), 0..1500), id: [u8; 12],
    ) {
        let key = Key::long_term("user", "realm", "pass").unwrap();
        let mut builder = Builder::new(Class::Success, Method::ChannelBind, TransactionId(id))
            .xor_mapped_address(mapped)
            .xor_relayed_address(mapped)
            .alternate_server(mapped)
            .lifetime(lifetime)
            .channel_number(channel)
            .requested_transport_udp()
            .requested_address_family(AddressFamily::Ipv6)
            .data(&data);
        for peer in &peers {
            builder = builder.xor_peer_address(*peer);
        }
        let read = decode_authenticated(&builder.encode_signed(&key).unwrap(), &key).unwrap();
        prop_assert_eq!((read.class(), read.method()), (Class::Success, Method::ChannelBind));
        prop_assert_eq!(read.transaction(), TransactionId(id));
        prop_assert_eq!(read.xor_mapped_address(), Some(mapped));
        prop_assert_eq!(read.xor_relayed_address(), Some(mapped));
        prop_assert_eq!(read.alternate_server(), Some(mapped));
        prop_assert_eq!(read.xor_peer_addresses().collect::<Vec<_>>(), peers);
        prop_assert_eq!((read.lifetime(), read.channel_number()), (Some(lifetime), Some(channel)));
        prop_assert_eq!((read.requested_transport(), read.data()), (Some(17), Some(&data[..])));
        prop_assert_eq!(read.requested_address_family(), Some(AddressFamily::Ipv6));
    }

    #[test]
    fn padded_requests_have_the_length_asked_for(length in 20..400_usize) {
        let request = Builder::new(Class::Request, Method::Binding, TransactionId([1; 12])).pad_to(length);
        let written = request.encode().unwrap();
        prop_assert!(written.len() >= length && written.len() < length + 12);
        prop_assert!(Message::decode(&written).unwrap().unknown_required(&[]).is_empty());
    }
}
