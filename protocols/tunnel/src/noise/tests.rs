use aws_lc_rs::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305};

use super::*;
use crate::handshake::{read_initiation, split};
use crate::key::{PresharedKey, StaticSecret, TransportKey};
use crate::testing::{Chosen, Vector};
use crate::{HandshakeError, Side};

#[test]
fn published_vectors_hold_through_our_primitives() {
    let vectors = Vector::all(include_str!("../../tests/data/noise-ikpsk2.txt"), "protocol");
    assert_eq!(vectors.len(), 2);
    for vector in &vectors {
        let psk = PresharedKey::from_bytes(vector.array("psk"));
        let prologue = vector.bytes("prologue");
        let (ours, theirs) = (identity(vector, "initiator_static"), identity(vector, "responder_static"));
        assert_eq!(theirs.public().as_bytes(), &vector.array("responder_public"));
        let mut initiator = Noise::build(&vector.name, prologue, &ours, Some(&theirs.public())).unwrap();
        let mut responder = Noise::build(&vector.name, prologue, &theirs, None).unwrap();
        let payloads: Vec<_> = vector.every("payload").collect();
        let messages: Vec<_> = vector.every("ciphertext").collect();

        let mut buffer = [0; 256];
        initiator.draw_ephemeral(&mut Chosen::new(vector.bytes("initiator_ephemeral")));
        let len = initiator.state.write_message(payloads[0], &mut buffer).unwrap();
        assert_eq!(&buffer[..len], messages[0]);
        let mut payload = [0; 64];
        let remote = read_initiation(&mut responder, messages[0], &mut payload, &mut |_| Ok(())).unwrap();
        assert_eq!(remote, ours.public());
        assert_eq!(&payload[..payloads[0].len()], payloads[0]);

        responder.draw_ephemeral(&mut Chosen::new(vector.bytes("responder_ephemeral")));
        responder.state.set_psk(PSK_POSITION, psk.as_bytes()).unwrap();
        let len = responder.state.write_message(payloads[1], &mut buffer).unwrap();
        assert_eq!(&buffer[..len], messages[1]);
        initiator.state.set_psk(PSK_POSITION, psk.as_bytes()).unwrap();
        initiator.state.read_message(messages[1], &mut payload).unwrap();
        assert_eq!(&payload[..payloads[1].len()], payloads[1]);
        assert_eq!(initiator.state.get_handshake_hash(), vector.bytes("handshake_hash"));
        assert_eq!(responder.state.get_handshake_hash(), vector.bytes("handshake_hash"));

        let (near, far) = (split(&mut initiator, Side::Initiator), split(&mut responder, Side::Responder));
        for (number, (payload, message)) in payloads.iter().zip(&messages).enumerate().skip(2) {
            let keys = if number % 2 == 0 { [&near.send, &far.receive] } else { [&near.receive, &far.send] };
            for key in keys {
                assert_eq!(seal(&vector.name, key, number as u64 / 2 - 1, payload), *message);
            }
        }
    }
}

#[test]
fn gate_asks_once_before_the_static_static_step() {
    let (ours, theirs) = (fresh(1), fresh(2));
    let message = first_message(&ours, &theirs.public());
    let mut responder = Noise::responder(&theirs, Suite::AesGcm).unwrap();
    let mut asked = Vec::new();
    let mut payload = [0; 16];
    read_initiation(&mut responder, &message, &mut payload, &mut |remote| {
        asked.push(*remote);
        Ok(())
    })
    .unwrap();
    assert_eq!(asked, [ours.public()]);
}

#[test]
fn refused_peer_leaves_a_gate_that_stays_shut() {
    let (ours, theirs) = (fresh(1), fresh(2));
    let message = first_message(&ours, &theirs.public());
    let mut responder = Noise::responder(&theirs, Suite::AesGcm).unwrap();
    let mut payload = [0; 16];
    let refused = read_initiation(&mut responder, &message, &mut payload, &mut |remote| {
        Err(HandshakeError::UnknownPeer(*remote))
    });
    assert_eq!(refused, Err(HandshakeError::UnknownPeer(ours.public())));
    assert_eq!(payload, [0; 16], "the payload was not decrypted");
    assert_eq!(responder.state.read_message(&message, &mut payload), Err(Error::Dh));
    assert_eq!(payload, [0; 16]);
}

#[test]
fn ephemeral_is_drawn_once_and_never_reused() {
    let (ours, theirs) = (fresh(1), fresh(2));
    let mut noise = Noise::initiator(&ours, Suite::ChaChaPoly, &theirs.public()).unwrap();
    let mut buffer = [0; 256];
    assert_eq!(noise.state.write_message(&[], &mut buffer), Err(Error::Rng));
    let mut rng = Chosen::new(&[7; 32]);
    noise.draw_ephemeral(&mut rng);
    assert!(rng.is_spent());
    noise.state.write_message(&[], &mut buffer).unwrap();
    assert!(locked(&noise.doors).drawn.is_none());
}

#[test]
fn products_of_low_order_points_are_refused() {
    let secret = Scalar::from([0x55; 32]);
    for point in crate::testing::LOW_ORDER {
        assert_eq!(multiply(&secret, point).err(), Some(Error::Dh), "{point:x?}");
    }
    assert!(multiply(&secret, [9; 32]).is_ok());
}

fn first_message(ours: &Identity, theirs: &PublicKey) -> Vec<u8> {
    let mut noise = Noise::initiator(ours, Suite::AesGcm, theirs).unwrap();
    noise.draw_ephemeral(&mut Chosen::new(&[3; 32]));
    let mut message = vec![0; 112];
    let len = noise.state.write_message(&[1; 16], &mut message).unwrap();
    assert_eq!(len, message.len());
    message
}

fn fresh(byte: u8) -> Identity {
    Identity::new(StaticSecret::from_bytes([byte; 32]), NetworkTag([9; 32]))
}

fn identity(vector: &Vector, key: &str) -> Identity {
    Identity::new(StaticSecret::from_bytes(vector.array(key)), NetworkTag::default())
}

fn seal(protocol: &str, key: &TransportKey, counter: u64, payload: &[u8]) -> Vec<u8> {
    let aes = protocol.contains("AESGCM");
    let algorithm: &Algorithm = if aes { &AES_256_GCM } else { &CHACHA20_POLY1305 };
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&if aes { counter.to_be_bytes() } else { counter.to_le_bytes() });
    let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_bytes()).unwrap());
    let mut sealed = payload.to_vec();
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed).unwrap();
    sealed
}
