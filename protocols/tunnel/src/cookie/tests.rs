use std::time::Duration;

use super::*;
use crate::key::{Identity, NetworkTag, PresharedKey, StaticSecret};
use crate::testing::Chosen;
use crate::{Initiator, Received};
use ginnel_time::Tai64n;

#[test]
fn cookie_makes_the_round_in_every_suite() {
    for suite in Suite::ALL {
        let message = initiation(suite);
        let (mut issuer, mut jar) = (issuer(), CookieJar::new(&far().public()));
        assert!(!issuer.verify_mac2(at(0), &message, addr(1)));
        jar.sent(&message);
        let reply = issuer.reply(at(0), &message, addr(1)).unwrap();
        assert_eq!(classify(&reply), Some((suite, MessageKind::Cookie)));
        assert_eq!(receiver_index(&reply), sender_index(&message));
        jar.accept(at(0), &reply).unwrap();
        let mut next = message.clone();
        jar.stamp(at(1), &mut next);
        assert_ne!(next, message);
        assert!(issuer.verify_mac2(at(1), &next, addr(1)));
        assert!(!issuer.verify_mac2(at(1), &next, addr(2)), "the cookie is bound to the port");
        let elsewhere = SocketAddr::from(([198, 51, 100, 7], 1));
        assert!(!issuer.verify_mac2(at(1), &next, elsewhere), "the cookie is bound to the address");
        assert!(far().mac1().verify(&next), "mac2 leaves mac1 alone");
        assert!(Received::read(&far(), &next, &mut |_| true).is_ok());
    }
}

#[test]
fn responder_under_a_loaded_initiator_gets_a_cookie_too() {
    let (near, far) = (near(), far());
    let received = Received::read(&far, &initiation(Suite::AesGcm), &mut |_| true).unwrap();
    let rng = &mut Chosen::new(&[4; 32]);
    let (mut response, _) = received.respond(&PresharedKey::zero(), 0, ReceiverIndex(9), rng).unwrap();
    let mut issuer = CookieIssuer::new([1; 32], near.public());
    let mut jar = CookieJar::new(&near.public());
    jar.sent(&response);
    let reply = issuer.reply(at(0), &response, addr(1)).unwrap();
    jar.accept(at(0), &reply).unwrap();
    jar.stamp(at(0), &mut response);
    assert!(issuer.verify_mac2(at(0), &response, addr(1)));
}

#[test]
fn cookie_is_used_for_less_than_115_seconds() {
    let message = initiation(Suite::WireGuard);
    let (mut issuer, mut jar) = (issuer(), CookieJar::new(&far().public()));
    jar.sent(&message);
    jar.accept(at(10), &issuer.reply(at(10), &message, addr(1)).unwrap()).unwrap();
    let mut stamped = message.clone();
    jar.stamp(at(10) + Duration::from_millis(114_999), &mut stamped);
    assert_ne!(stamped, message);
    jar.stamp(at(125), &mut stamped);
    assert_eq!(stamped, message, "mac2 is zero again");
}

#[test]
fn every_cookie_outlives_its_use_and_none_two_secrets() {
    for issued in [0, 1, 60, 119] {
        let message = initiation(Suite::AesGcm);
        let (mut issuer, mut jar) = (issuer(), CookieJar::new(&far().public()));
        assert!(!issuer.verify_mac2(at(0), &message, addr(1)), "the first use begins the secret's life");
        jar.sent(&message);
        jar.accept(at(issued), &issuer.reply(at(issued), &message, addr(1)).unwrap()).unwrap();
        let mut stamped = message;
        jar.stamp(at(issued), &mut stamped);
        for age in [0, 50, 114] {
            assert!(issuer.verify_mac2(at(issued + age), &stamped, addr(1)), "issued {issued}, age {age}");
        }
        assert!(issuer.verify_mac2(at(issued + 114), &stamped, addr(1)));
        assert!(!issuer.verify_mac2(at(issued + 360), &stamped, addr(1)));
    }
}

#[test]
fn secret_changes_after_120_seconds() {
    let message = initiation(Suite::AesGcm);
    let mut issuer = issuer();
    let cookie_at = |issuer: &mut CookieIssuer, seconds| {
        let mut jar = CookieJar::new(&far().public());
        jar.sent(&message);
        jar.accept(at(seconds), &issuer.reply(at(seconds), &message, addr(1)).unwrap()).unwrap();
        let mut stamped = message.clone();
        jar.stamp(at(seconds), &mut stamped);
        stamped
    };
    let first = cookie_at(&mut issuer, 0);
    assert_eq!(cookie_at(&mut issuer, 119), first);
    assert_ne!(cookie_at(&mut issuer, 120), first);
    assert!(issuer.verify_mac2(at(239), &first, addr(1)));
    assert!(!issuer.verify_mac2(at(240), &first, addr(1)));
}

#[test]
fn reply_is_taken_once_and_only_by_whom_it_answers() {
    let message = initiation(Suite::AesGcm);
    let (mut issuer, mut jar) = (issuer(), CookieJar::new(&far().public()));
    let reply = issuer.reply(at(0), &message, addr(1)).unwrap();
    assert_eq!(jar.accept(at(0), &reply), Err(CookieError::Unasked), "nothing was sent");
    jar.sent(&initiation_of(Suite::AesGcm, 2, 7));
    assert_eq!(jar.accept(at(0), &reply), Err(CookieError::NotAuthentic), "it answers another mac1");
    jar.sent(&initiation_of(Suite::AesGcm, 1, 8));
    assert_eq!(jar.accept(at(0), &reply), Err(CookieError::Unasked), "it answers another index");
    jar.sent(&initiation(Suite::ChaChaPoly));
    assert_eq!(jar.accept(at(0), &reply), Err(CookieError::Unasked), "it answers another suite");
    jar.sent(&message);
    assert_eq!(jar.accept(at(0), &reply), Ok(()));
    assert_eq!(jar.accept(at(0), &reply), Err(CookieError::Unasked), "the question is answered");
}

#[test]
fn damaged_reply_leaves_the_jar_waiting() {
    let message = initiation(Suite::WireGuard);
    let (mut issuer, mut jar) = (issuer(), CookieJar::new(&far().public()));
    jar.sent(&message);
    let reply = issuer.reply(at(0), &message, addr(1)).unwrap();
    for len in 0..reply.len() {
        assert_eq!(jar.accept(at(0), &reply[..len]), Err(CookieError::Malformed));
    }
    for place in 0..reply.len() {
        let mut damaged = reply.clone();
        damaged[place] ^= 0x08;
        let expected = match place {
            0..4 => CookieError::Malformed,
            4..8 => CookieError::Unasked,
            _ => CookieError::NotAuthentic,
        };
        assert_eq!(jar.accept(at(0), &damaged), Err(expected), "byte {place}");
    }
    assert_eq!(jar.accept(at(0), &reply), Ok(()));
}

#[test]
fn damage_anywhere_breaks_mac1_and_mac2() {
    let message = initiation(Suite::WireGuard);
    let (mut issuer, mut jar) = (issuer(), CookieJar::new(&far().public()));
    jar.sent(&message);
    jar.accept(at(0), &issuer.reply(at(0), &message, addr(1)).unwrap()).unwrap();
    let mut stamped = message;
    jar.stamp(at(0), &mut stamped);
    for place in 0..stamped.len() {
        let mut damaged = stamped.clone();
        damaged[place] ^= 0x01;
        assert!(!issuer.verify_mac2(at(0), &damaged, addr(1)), "byte {place}");
        assert_eq!(far().mac1().verify(&damaged), place >= stamped.len() - 16, "byte {place}");
    }
}

#[test]
fn bytes_that_are_no_handshake_get_no_cookie_and_keep_their_tail() {
    let mut issuer = issuer();
    let mut jar = CookieJar::new(&far().public());
    for len in 0..200 {
        let mut bytes = vec![0x55; len];
        assert_eq!(issuer.reply(at(0), &bytes, addr(1)), None);
        assert!(!issuer.verify_mac2(at(0), &bytes, addr(1)));
        jar.sent(&bytes);
        jar.stamp(at(0), &mut bytes);
        assert_eq!(bytes, vec![0x55; len]);
    }
    Mac1::new(&far().public()).stamp(&mut [0; 31]);
}

#[test]
fn nonces_differ_from_reply_to_reply() {
    let message = initiation(Suite::AesGcm);
    let mut issuer = issuer();
    let first = issuer.reply(at(0), &message, addr(1)).unwrap();
    let second = issuer.reply(at(0), &message, addr(1)).unwrap();
    assert_ne!(first[8..32], second[8..32]);
}

fn initiation(suite: Suite) -> Vec<u8> {
    initiation_of(suite, 1, 7)
}

fn initiation_of(suite: Suite, ephemeral: u8, index: u32) -> Vec<u8> {
    let mut rng = Chosen::new(&[ephemeral * 8; 32]);
    let (psk, index) = (PresharedKey::zero(), ReceiverIndex(index));
    Initiator::start(&near(), far().public(), suite, &psk, 0, Tai64n::from_unix(1, 0), index, &mut rng).unwrap().1
}

fn near() -> Identity {
    Identity::new(StaticSecret::from_bytes([1; 32]), NetworkTag::default())
}

fn far() -> Identity {
    Identity::new(StaticSecret::from_bytes([2; 32]), NetworkTag::default())
}

fn issuer() -> CookieIssuer {
    CookieIssuer::new([3; 32], far().public())
}

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}
