use proptest::prelude::*;

use super::*;
use crate::metadata::{Checksum, Run};
use crate::wire::{classify, receiver_index};

#[test]
fn packet_of_any_length_returns_in_every_suite() {
    for suite in Suite::ALL {
        let (mut sealer, mut opener) = pair(suite);
        for len in (0..200_usize).chain([1280, 1419, 1420, 1500, 65_535]) {
            let packet: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut datagram = seal(&mut sealer, Metadata::NONE, &packet);
            let expected = if suite == Suite::WireGuard { len.next_multiple_of(16) } else { len } + OVERHEAD;
            assert_eq!(datagram.len(), expected);
            assert_eq!(classify(&datagram), Some((suite, MessageKind::Data)));
            assert_eq!(receiver_index(&datagram), Some(INDEX));
            let (metadata, opened) = opener.open(&mut datagram).unwrap();
            assert_eq!((metadata, &opened[..len]), (Metadata::NONE, &packet[..]));
            assert!(opened[len..].iter().all(|byte| *byte == 0), "padding is zero");
        }
    }
}

#[test]
fn metadata_travels_sealed_between_ginneld_only() {
    let run = Run { id: 513, index: 2, last: true };
    let metadata = Metadata { checksum: Checksum::Partial, run: Some(run) };
    for suite in Suite::ALL {
        let (mut sealer, mut opener) = pair(suite);
        let mut datagram = seal(&mut sealer, metadata, b"packet");
        let expected = if suite == Suite::WireGuard { Metadata::NONE } else { metadata };
        assert_eq!(opener.open(&mut datagram).unwrap().0, expected);
    }
}

#[test]
fn unknown_metadata_is_refused_after_it_was_counted() {
    let (sealer, mut opener) = pair(Suite::AesGcm);
    let header = [0xC3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut sealed = [0x80, 0, 0, 0, 1, 2, 3];
    let tag = sealer.key.seal_in_place_separate_tag(nonce(Suite::AesGcm, 0), Aad::from(&header), &mut sealed).unwrap();
    let mut datagram = [&header[..], &sealed, tag.as_ref()].concat();
    assert_eq!(opener.open(&mut datagram.clone()).err(), Some(OpenError::UnknownMetadata));
    assert_eq!(opener.open(&mut datagram).err(), Some(OpenError::Replayed));
}

#[test]
fn each_datagram_opens_once_in_any_order_within_the_window() {
    for suite in Suite::ALL {
        let (mut sealer, mut opener) = pair(suite);
        let datagrams: Vec<_> = (0..9_000).map(|_| seal(&mut sealer, Metadata::NONE, b"x")).collect();
        let span = opener.window.span() as usize;
        let last = datagrams.len() - 1;
        assert!(opener.open(&mut datagrams[last].clone()).is_ok());
        for number in (0..last).rev() {
            let result = opener.open(&mut datagrams[number].clone()).map(|_| ());
            let expected = if last - number < span { Ok(()) } else { Err(OpenError::TooOld) };
            assert_eq!(result, expected, "datagram {number}");
        }
        for number in [last, last - 1, last - span + 1] {
            assert_eq!(opener.open(&mut datagrams[number].clone()).err(), Some(OpenError::Replayed));
        }
    }
}

#[test]
fn damage_anywhere_is_refused_and_costs_nothing() {
    for suite in Suite::ALL {
        let (mut sealer, mut opener) = pair(suite);
        let datagram = seal(&mut sealer, Metadata::NONE, &[7; 40]);
        for place in 0..datagram.len() {
            for bit in [0x01, 0x80] {
                let mut damaged = datagram.clone();
                damaged[place] ^= bit;
                // WireGuard's index selects the session and is not authenticated by it.
                if suite == Suite::WireGuard && (4..8).contains(&place) {
                    continue;
                }
                assert!(opener.open(&mut damaged).is_err(), "byte {place}");
            }
        }
        for len in 0..datagram.len() {
            assert!(opener.open(&mut datagram[..len].to_vec()).is_err());
        }
        let (_, packet) = opener.open(&mut datagram.clone()).map(|(m, p)| (m, p.to_vec())).unwrap();
        assert_eq!(packet[..40], [7; 40]);
    }
}

#[test]
fn forged_counter_does_not_move_the_window() {
    for suite in Suite::ALL {
        let (mut sealer, mut opener) = pair(suite);
        let datagram = seal(&mut sealer, Metadata::NONE, b"x");
        let mut forged = datagram.clone();
        forged[if suite == Suite::WireGuard { 14 } else { 1 }] = 0x40;
        assert_eq!(opener.open(&mut forged).err(), Some(OpenError::Forged));
        assert!(opener.open(&mut datagram.clone()).is_ok());
    }
}

#[test]
fn datagram_of_another_suite_or_key_is_refused() {
    for suite in Suite::ALL {
        let (mut sealer, _) = pair(suite);
        let datagram = seal(&mut sealer, Metadata::NONE, b"x");
        for other in Suite::ALL.into_iter().filter(|other| *other != suite) {
            let (_, mut opener) = pair(other);
            assert_eq!(opener.open(&mut datagram.clone()).err(), Some(OpenError::WrongType));
        }
        let mut stranger = Opener::new(suite, TransportKey::from_bytes([0x43; 32]));
        assert_eq!(stranger.open(&mut datagram.clone()).err(), Some(OpenError::Forged));
    }
}

#[test]
fn counter_stops_at_the_limit_on_both_sides() {
    let limits = [
        (Suite::WireGuard, timers::REJECT_AFTER_MESSAGES),
        (Suite::AesGcm, timers::REJECT_AFTER_MESSAGES_U56),
        (Suite::ChaChaPoly, timers::REJECT_AFTER_MESSAGES_U56),
    ];
    for (suite, limit) in limits {
        let (mut sealer, mut opener) = pair(suite);
        sealer.skip_to(limit - 1);
        let mut datagram = seal(&mut sealer, Metadata::NONE, b"last");
        assert_eq!(&opener.open(&mut datagram).unwrap().1[..4], b"last");
        let mut buffer = [0; 100];
        for _ in 0..3 {
            assert_eq!(sealer.seal(Metadata::NONE, &mut buffer, 4), Err(SealError::Exhausted));
            assert_eq!(sealer.next_counter(), limit);
        }
        let mut beyond = seal(&mut pair(suite).0, Metadata::NONE, b"x");
        match suite {
            Suite::WireGuard => beyond[8..16].copy_from_slice(&limit.to_le_bytes()),
            Suite::AesGcm | Suite::ChaChaPoly => beyond[1..8].copy_from_slice(&limit.to_be_bytes()[1..]),
        }
        assert_eq!(opener.open(&mut beyond).err(), Some(OpenError::Exhausted));
    }
}

#[test]
fn rekey_is_due_from_the_message_limit_on() {
    for (suite, limit) in [
        (Suite::WireGuard, timers::REKEY_AFTER_MESSAGES),
        (Suite::AesGcm, timers::REKEY_AFTER_MESSAGES_U56),
        (Suite::ChaChaPoly, timers::REKEY_AFTER_MESSAGES_U56),
    ] {
        let (mut sealer, mut opener) = pair(suite);
        sealer.skip_to(limit - 1);
        assert!(!sealer.rekey_due());
        let mut datagram = seal(&mut sealer, Metadata::NONE, b"x");
        assert!(sealer.rekey_due());
        opener.open(&mut datagram).unwrap();
        assert!(!opener.rekey_due());
        opener.open(&mut seal(&mut sealer, Metadata::NONE, b"x")).unwrap();
        assert!(opener.rekey_due());
    }
}

#[test]
fn aes_key_ends_by_blocks_in_either_direction() {
    let (mut sealer, mut opener) = pair(Suite::AesGcm);
    let packet = [0; 1_280];
    let cost = blocks_of(HEADROOM + packet.len());
    assert!(cost > (packet.len() as u64 + 4).div_ceil(16), "sealed bytes and tag are covered");
    sealer.charge_blocks(timers::REKEY_AFTER_BLOCKS - cost);
    opener.charge_blocks(timers::REKEY_AFTER_BLOCKS - cost);
    assert!(!sealer.rekey_due() && !opener.rekey_due());
    opener.open(&mut seal(&mut sealer, Metadata::NONE, &packet)).unwrap();
    assert!(sealer.rekey_due() && opener.rekey_due());

    sealer.charge_blocks(timers::REJECT_AFTER_BLOCKS - timers::REKEY_AFTER_BLOCKS - cost);
    let mut last = seal(&mut sealer, Metadata::NONE, &packet);
    let mut buffer = [0; 2_000];
    assert_eq!(sealer.seal(Metadata::NONE, &mut buffer, 0), Err(SealError::Exhausted));
    opener.charge_blocks(timers::REJECT_AFTER_BLOCKS - timers::REKEY_AFTER_BLOCKS - cost + 1);
    assert_eq!(opener.open(&mut last).err(), Some(OpenError::Exhausted));
}

#[test]
fn blocks_do_not_bound_chacha() {
    for suite in [Suite::WireGuard, Suite::ChaChaPoly] {
        let (mut sealer, mut opener) = pair(suite);
        sealer.charge_blocks(u64::MAX);
        opener.charge_blocks(u64::MAX);
        assert!(!sealer.rekey_due() && !opener.rekey_due());
        assert!(opener.open(&mut seal(&mut sealer, Metadata::NONE, b"x")).is_ok());
    }
}

#[test]
fn counters_never_go_back() {
    let (mut sealer, _) = pair(Suite::AesGcm);
    sealer.skip_to(10);
    sealer.skip_to(5);
    seal(&mut sealer, Metadata::NONE, b"x");
    sealer.skip_to(10);
    assert_eq!(sealer.next_counter(), 11);
}

#[test]
fn padding_never_passes_the_mtu() {
    let (mut sealer, mut opener) = pair(Suite::WireGuard);
    sealer.set_mtu(1_420);
    for (len, padded) in [(0, 0), (1, 16), (16, 16), (1_400, 1_408), (1_409, 1_420), (1_420, 1_420), (1_500, 1_500)] {
        let mut datagram = seal(&mut sealer, Metadata::NONE, &vec![9; len]);
        assert_eq!(datagram.len(), padded + OVERHEAD, "packet of {len}");
        assert_eq!(opener.open(&mut datagram).unwrap().1.len(), padded);
    }
}

#[test]
fn buffer_without_room_is_refused_and_uses_no_counter() {
    for suite in Suite::ALL {
        let (mut sealer, _) = pair(suite);
        let mut buffer = vec![0; HEADROOM + 20 + TAILROOM];
        for (room, len) in [(0, 0), (OVERHEAD - 1, 0), (HEADROOM + 20 + 15, 20), (68, 65_536), (68, usize::MAX)] {
            assert_eq!(sealer.seal(Metadata::NONE, &mut buffer[..room], len), Err(SealError::NoRoom));
        }
        assert_eq!(sealer.next_counter(), 0);
        assert!(sealer.seal(Metadata::NONE, &mut buffer, 20).is_ok());
    }
}

#[test]
fn large_window_opens_what_the_standard_one_forgot() {
    let key = || TransportKey::from_bytes([0x42; 32]);
    let mut sealer = Sealer::new(Suite::AesGcm, key(), INDEX);
    let early = seal(&mut sealer, Metadata::NONE, b"x");
    sealer.skip_to(65_000);
    let late = seal(&mut sealer, Metadata::NONE, b"x");
    for (size, expected) in [(WindowSize::Standard, Some(OpenError::TooOld)), (WindowSize::Large, None)] {
        let mut opener = Opener::with_window(Suite::AesGcm, key(), size);
        opener.open(&mut late.clone()).unwrap();
        assert_eq!(opener.open(&mut early.clone()).err(), expected);
    }
}

proptest! {
    #[test]
    fn random_bytes_never_open_nor_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), suite in 0..3_usize, typed in any::<bool>()) {
        let suite = Suite::ALL[suite];
        if typed && bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&[suite.message_type(MessageKind::Data), 0, 0, 0]);
        }
        prop_assert!(pair(suite).1.open(&mut bytes).is_err());
    }
}

fn pair(suite: Suite) -> (Sealer, Opener) {
    let key = || TransportKey::from_bytes([0x42; 32]);
    (Sealer::new(suite, key(), INDEX), Opener::new(suite, key()))
}

fn seal(sealer: &mut Sealer, metadata: Metadata, packet: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0xaa; HEADROOM + packet.len() + TAILROOM];
    buffer[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
    let len = sealer.seal(metadata, &mut buffer, packet.len()).unwrap();
    buffer.truncate(len);
    buffer
}

const INDEX: ReceiverIndex = ReceiverIndex(0x8182_8384);
