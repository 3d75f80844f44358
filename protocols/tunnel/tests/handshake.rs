//! Handshakes under attack: wrong keys, forgeries, damage, strangers.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

#[path = "../src/testing.rs"]
mod testing;

use ginnel_time::Tai64n;
use ginnel_tunnel::cookie::Mac1;
use ginnel_tunnel::{
    Established, HEADROOM, HandshakeError, Identity, Initiator, MAX_PRESHARED_KEYS, Metadata, NetworkTag, Opener,
    PresharedKey, PublicKey, Received, ReceiverIndex, Sealer, Side, StaticSecret, Suite, TAILROOM,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

#[test]
fn both_sides_agree_in_every_suite() {
    for suite in Suite::ALL {
        let mut world = World::new(suite);
        let (mut initiator, initiation) = world.start();
        assert_eq!(initiation.len(), suite.initiation_len());
        let received = world.read(&initiation).unwrap();
        assert_eq!(received.remote(), world.near.public());
        assert_eq!(received.timestamp(), STAMP);
        assert_eq!(received.remote_index(), NEAR_INDEX);
        let (response, far) = received.respond(&world.psk, 0, FAR_INDEX, &mut world.rng).unwrap();
        assert_eq!(response.len(), suite.response_len());
        let near = initiator.finish(&response).unwrap();
        assert_eq!((near.side, near.local_index, near.remote_index), (Side::Initiator, NEAR_INDEX, FAR_INDEX));
        assert_eq!((far.side, far.local_index, far.remote_index), (Side::Responder, FAR_INDEX, NEAR_INDEX));
        assert_eq!(initiator.finish(&response).err(), Some(HandshakeError::Finished));
        assert!(carries(near, far));
    }
}

#[test]
fn two_handshakes_share_no_key() {
    let mut world = World::new(Suite::AesGcm);
    let (near, _) = world.establish();
    let (_, far) = world.establish();
    assert!(!carries(near, far));
}

#[test]
fn ten_thousand_forged_responses_do_not_hinder_the_true_one() {
    for suite in Suite::ALL {
        let mut world = World::new(suite);
        let (mut initiator, initiation) = world.start();
        let (response, far) = world.answer(&initiation);
        let mac1 = Mac1::new(&world.near.public());
        for number in 0..10_000_u32 {
            let mut forged = response.clone();
            let place = 12 + number as usize % (response.len() - 32 - 12);
            forged[place] ^= 1 << (world.rng.next_u32() % 8);
            // Most stop at mac1, as those of a sender who does not know the initiator's key; the others cost the
            // full work.
            let known = number % 50 == 0;
            if known {
                mac1.stamp(&mut forged);
            }
            let error = initiator.finish(&forged).err();
            // Bit 255 of the ephemeral is ignored by X25519 but covered by the transcript.
            let expected = if known { HandshakeError::NotAuthentic } else { HandshakeError::Mac1 };
            assert_eq!(error, Some(expected), "byte {place}");
        }
        let near = initiator.finish(&response).unwrap();
        assert!(carries(near, far));
    }
}

#[test]
fn initiation_cut_or_damaged_anywhere_is_refused() {
    for suite in Suite::ALL {
        let mut world = World::new(suite);
        let (_, initiation) = world.start();
        let mac1 = Mac1::new(&world.far.public());
        for len in 0..initiation.len() {
            assert_eq!(world.read(&initiation[..len]).err(), Some(HandshakeError::Malformed));
        }
        for place in 0..initiation.len() - 16 {
            let mut damaged = initiation.clone();
            damaged[place] ^= 0x10;
            let expected = if place < 4 { HandshakeError::Malformed } else { HandshakeError::Mac1 };
            assert_eq!(world.read(&damaged).err(), Some(expected), "byte {place}");
            if (8..initiation.len() - 32).contains(&place) {
                mac1.stamp(&mut damaged);
                assert_eq!(world.read(&damaged).err(), Some(HandshakeError::NotAuthentic), "byte {place}");
            }
        }
        assert!(world.read(&initiation).is_ok());
    }
}

#[test]
fn response_cut_or_damaged_anywhere_is_refused() {
    for suite in Suite::ALL {
        let mut world = World::new(suite);
        let (mut initiator, initiation) = world.start();
        let (response, _) = world.answer(&initiation);
        let mac1 = Mac1::new(&world.near.public());
        for len in 0..response.len() {
            assert_eq!(initiator.finish(&response[..len]).err(), Some(HandshakeError::Malformed));
        }
        for place in 0..response.len() - 16 {
            let mut damaged = response.clone();
            damaged[place] ^= 0x10;
            let expected = if place < 4 { HandshakeError::Malformed } else { HandshakeError::Mac1 };
            assert_eq!(initiator.finish(&damaged).err(), Some(expected), "byte {place}");
            mac1.stamp(&mut damaged);
            let expected = match place {
                // The sender's index is not authenticated; a wrong one gives a session that nothing opens.
                4..8 => continue,
                0..4 => HandshakeError::Malformed,
                8..12 => HandshakeError::WrongIndex,
                _ if place < response.len() - 32 => HandshakeError::NotAuthentic,
                _ => continue,
            };
            assert_eq!(initiator.finish(&damaged).err(), Some(expected), "byte {place}");
        }
        assert!(initiator.finish(&response).is_ok());
    }
}

#[test]
fn random_bytes_of_every_kind_never_pass_nor_panic() {
    let mut world = World::new(Suite::AesGcm);
    let (mut initiator, _) = world.start();
    let macs = [Mac1::new(&world.near.public()), Mac1::new(&world.far.public())];
    for number in 0..2_000_usize {
        let suite = Suite::ALL[number % 3];
        let len = if number % 2 == 0 { suite.initiation_len() } else { suite.response_len() };
        let mut noise = vec![0; len];
        world.rng.fill_bytes(&mut noise);
        let kind = if number % 2 == 0 { 0 } else { 1 };
        noise[..4].copy_from_slice(&[[1, 0xC0, 0xC4][number % 3] + kind, 0, 0, 0]);
        noise[8..12].copy_from_slice(&NEAR_INDEX.0.to_le_bytes());
        macs[usize::from(kind == 0)].stamp(&mut noise);
        assert!(world.read(&noise).is_err());
        assert!(initiator.finish(&noise).is_err());
    }
}

#[test]
fn stranger_is_refused_before_the_static_static_step() {
    for suite in Suite::ALL {
        let mut world = World::new(suite);
        let (_, initiation) = world.start();
        let mut asked = Vec::new();
        let refused = Received::read(&world.far, &initiation, &mut |key| {
            asked.push(*key);
            false
        });
        assert_eq!(refused.err(), Some(HandshakeError::UnknownPeer(world.near.public())));
        assert_eq!(asked, [world.near.public()]);
    }
}

#[test]
fn initiation_for_another_key_network_or_suite_is_refused() {
    let mut world = World::new(Suite::AesGcm);
    let (_, initiation) = world.start();
    let other = identity(9, TAG);
    assert_eq!(Received::read(&other, &initiation, &mut |_| true).err(), Some(HandshakeError::Mac1));
    let elsewhere = identity(2, NetworkTag([0xee; 32]));
    assert_eq!(Received::read(&elsewhere, &initiation, &mut |_| true).err(), Some(HandshakeError::NotAuthentic));
    let mut relabelled = initiation;
    relabelled[0] = 0xC4;
    world.far.mac1().stamp(&mut relabelled);
    assert_eq!(world.read(&relabelled).err(), Some(HandshakeError::NotAuthentic));
}

#[test]
fn response_of_another_handshake_is_refused() {
    let mut world = World::new(Suite::ChaChaPoly);
    let (mut first, _) = world.start();
    let (_, second) = world.start();
    let (response, _) = world.answer(&second);
    assert_eq!(first.finish(&response).err(), Some(HandshakeError::NotAuthentic));
}

#[test]
fn differing_preshared_keys_give_no_session() {
    for suite in Suite::ALL {
        let mut world = World::new(suite);
        let (mut initiator, initiation) = world.start();
        let received = world.read(&initiation).unwrap();
        let other = PresharedKey::from_bytes([8; 32]);
        let (response, _) = received.respond(&other, 0, FAR_INDEX, &mut world.rng).unwrap();
        assert_eq!(initiator.finish(&response).err(), Some(HandshakeError::NotAuthentic));
        let (response, _) = world.answer(&initiation);
        assert!(initiator.finish(&response).is_ok(), "the handshake still waits for the right key");
    }
}

#[test]
fn response_by_a_further_preshared_key_names_it() {
    for suite in [Suite::AesGcm, Suite::ChaChaPoly] {
        let mut world = World::new(suite);
        let (mut initiator, initiation) = world.start_with(77);
        let zero = PresharedKey::zero();
        initiator.also_accept(0, &zero);
        let received = world.read(&initiation).unwrap();
        assert_eq!(received.psk_id(), 77);
        let (response, far) = received.respond(&zero, 0, FAR_INDEX, &mut world.rng).unwrap();
        let near = initiator.finish(&response).unwrap();
        assert_eq!((near.psk_id, far.psk_id), (0, 0));
        assert!(carries(near, far));
    }
}

#[test]
fn response_that_names_another_key_than_it_uses_ends_the_handshake() {
    let mut world = World::new(Suite::AesGcm);
    let (mut initiator, initiation) = world.start_with(77);
    let received = world.read(&initiation).unwrap();
    let (response, _) = received.respond(&world.psk, 78, FAR_INDEX, &mut world.rng).unwrap();
    assert_eq!(initiator.finish(&response).err(), Some(HandshakeError::WrongPresharedKey));
    assert_eq!(initiator.finish(&response).err(), Some(HandshakeError::Finished));
}

#[test]
fn preshared_keys_tried_are_bounded() {
    let mut world = World::new(Suite::AesGcm);
    let (mut initiator, initiation) = world.start();
    for id in 1..10 {
        initiator.also_accept(id, &PresharedKey::from_bytes([id as u8; 32]));
    }
    let beyond = MAX_PRESHARED_KEYS as u8;
    for (id, accepted) in [(beyond, false), (beyond - 1, true)] {
        let received = world.read(&initiation).unwrap();
        let psk = PresharedKey::from_bytes([id; 32]);
        let (response, _) = received.respond(&psk, u32::from(id), FAR_INDEX, &mut world.rng).unwrap();
        assert_eq!(initiator.finish(&response).is_ok(), accepted);
    }
}

#[test]
fn low_order_keys_never_make_a_message() {
    for suite in Suite::ALL {
        let mut world = World::new(suite);
        for point in testing::LOW_ORDER {
            let remote = PublicKey::from_bytes(point);
            let started =
                Initiator::start(&world.near, remote, suite, &world.psk, 0, STAMP, NEAR_INDEX, &mut world.rng);
            assert_eq!(started.err(), Some(HandshakeError::LowOrderKey), "{point:x?}");
        }
    }
}

#[test]
fn low_order_ephemerals_are_refused_on_both_sides() {
    for suite in Suite::ALL {
        let mut world = World::new(suite);
        let (mut initiator, initiation) = world.start();
        let (response, _) = world.answer(&initiation);
        for point in testing::LOW_ORDER {
            let mut forged = initiation.clone();
            forged[8..40].copy_from_slice(&point);
            world.far.mac1().stamp(&mut forged);
            assert_eq!(world.read(&forged).err(), Some(HandshakeError::LowOrderKey));
            let mut forged = response.clone();
            forged[12..44].copy_from_slice(&point);
            world.near.mac1().stamp(&mut forged);
            assert_eq!(initiator.finish(&forged).err(), Some(HandshakeError::LowOrderKey));
        }
        assert!(initiator.finish(&response).is_ok());
    }
}

#[test]
fn own_key_is_no_peer() {
    let mut world = World::new(Suite::AesGcm);
    let own = world.near.public();
    let started = Initiator::start(&world.near, own, Suite::AesGcm, &world.psk, 0, STAMP, NEAR_INDEX, &mut world.rng);
    assert_eq!(started.err(), Some(HandshakeError::OwnKey));
}

#[test]
fn cached_initiation_gives_a_fresh_session_each_time_it_is_answered() {
    let mut world = World::new(Suite::AesGcm);
    let (mut initiator, initiation) = world.start();
    let (first, lost) = world.answer(&initiation);
    let (second, far) = world.answer(&initiation);
    assert_ne!(first, second);
    let near = initiator.finish(&second).unwrap();
    assert!(carries(near, far));
    drop(lost);
}

struct World {
    suite: Suite,
    near: Identity,
    far: Identity,
    psk: PresharedKey,
    rng: ChaCha20Rng,
}

impl World {
    fn new(suite: Suite) -> Self {
        let rng = ChaCha20Rng::from_seed([5; 32]);
        Self { suite, near: identity(1, TAG), far: identity(2, TAG), psk: PresharedKey::from_bytes([7; 32]), rng }
    }

    fn start(&mut self) -> (Initiator, Vec<u8>) {
        self.start_with(0)
    }

    fn start_with(&mut self, psk_id: u32) -> (Initiator, Vec<u8>) {
        let (near, far) = (&self.near, self.far.public());
        Initiator::start(near, far, self.suite, &self.psk, psk_id, STAMP, NEAR_INDEX, &mut self.rng).unwrap()
    }

    fn read(&self, initiation: &[u8]) -> Result<Received, HandshakeError> {
        Received::read(&self.far, initiation, &mut |key| *key == self.near.public())
    }

    fn answer(&mut self, initiation: &[u8]) -> (Vec<u8>, Established) {
        let received = self.read(initiation).unwrap();
        received.respond(&self.psk, 0, FAR_INDEX, &mut self.rng).unwrap()
    }

    fn establish(&mut self) -> (Established, Established) {
        let (mut initiator, initiation) = self.start();
        let (response, far) = self.answer(&initiation);
        (initiator.finish(&response).unwrap(), far)
    }
}

fn identity(byte: u8, network: NetworkTag) -> Identity {
    Identity::new(StaticSecret::from_bytes([byte; 32]), network)
}

/// Whether a packet sealed by each side opens at the other.
fn carries(near: Established, far: Established) -> bool {
    let (suite, packet) = (near.suite, [0x45; 64]);
    let ways = [(near.keys.send, far.keys.receive), (far.keys.send, near.keys.receive)];
    ways.into_iter().all(|(send, receive)| {
        let mut buffer = [0; HEADROOM + 64 + TAILROOM];
        buffer[HEADROOM..HEADROOM + 64].copy_from_slice(&packet);
        let len = Sealer::new(suite, send, FAR_INDEX).seal(Metadata::NONE, &mut buffer, 64).unwrap();
        Opener::new(suite, receive).open(&mut buffer[..len]).is_ok_and(|(_, opened)| opened == packet)
    })
}

const STAMP: Tai64n = Tai64n::from_bytes([0x40, 0, 0, 0, 0x65, 0x53, 0xf1, 0x0a, 1, 0, 0, 0]);
const TAG: NetworkTag = NetworkTag([0xab; 32]);
const NEAR_INDEX: ReceiverIndex = ReceiverIndex(0x0102_0304);
const FAR_INDEX: ReceiverIndex = ReceiverIndex(0xf506_0708);
