//! What may leave a machine: datagrams of a class that a ginneld sends, each as long as its class is, and none in which a
//! program's packet can be read.
//!
//! | class | begins | length |
//! |---|---|---|
//! | initiation, response, cookie | its type and three zero bytes | that of its class |
//! | sealed packet | its type | no shorter than an empty one |
//! | STUN | a type below 0x4000, and the cookie in bytes 4..8 | as it says |
//! | ChannelData, for a relay alone | a channel | as it says; it holds one of the first four |

use ginnel_tunnel::Suite;

/// Whom a datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toward {
    /// The port at which a relay serves its clients.
    Relay,
    Elsewhere,
}

/// Whether a datagram is of no class that goes to such a place.
pub(crate) fn is_odd(bytes: &[u8], toward: Toward) -> bool {
    match bytes {
        [0x40..=0x4F, _, a, b, inner @ ..] => {
            let length = usize::from(u16::from_be_bytes([*a, *b]));
            toward != Toward::Relay || length != inner.len() || !is_tunnels(inner)
        }
        [0x00..=0x3F, ..] => !is_stun(bytes),
        _ => !is_tunnels(bytes),
    }
}

/// Whether a datagram is a handshake message or a sealed packet. No machine speaks with a stock WireGuard.
fn is_tunnels(bytes: &[u8]) -> bool {
    let shakes = |length: usize| bytes.len() == length && bytes.get(1..4) == Some(&[0; 3]);
    match bytes.first() {
        Some(0xC0 | 0xC4) => shakes(Suite::ChaChaPoly.initiation_len()),
        Some(0xC1 | 0xC5) => shakes(Suite::ChaChaPoly.response_len()),
        Some(0xC2 | 0xC6) => shakes(COOKIE),
        Some(0xC3 | 0xC7) => bytes.len() >= SHORTEST_SEALED,
        Some(_) | None => false,
    }
}

fn is_stun(bytes: &[u8]) -> bool {
    let Some(([_, _, a, b, cookie @ ..], rest)) = bytes.split_first_chunk::<8>() else { return false };
    let length = usize::from(u16::from_be_bytes([*a, *b]));
    *cookie == STUN_COOKIE && rest.len() >= TRANSACTION && rest.len() - TRANSACTION == length
}

/// Whether a piece of what programs say can be read anywhere in a datagram: bytes that count up as [`crate::ledger::udp`]
/// makes them, so many that no sealed packet has them by chance.
///
/// A piece of 15 bytes holds one that begins at a multiple of eight, so every eighth byte is enough to look at first.
pub(crate) fn counts_up(bytes: &[u8]) -> bool {
    let follows = |pair: &[u8]| matches!(pair, [a, b] if a.wrapping_add(1) == *b);
    bytes.chunks_exact(8).enumerate().filter(|(_, piece)| piece.windows(2).all(follows)).any(|(number, _)| {
        let (before, from) = bytes.split_at(8 * number + 1);
        // The byte at the border belongs to both runs.
        let after = std::iter::zip(from, &bytes[8 * number..]).take_while(|(b, a)| a.wrapping_add(1) == **b).count();
        let ahead = before.windows(2).rev().take_while(|pair| follows(pair)).count();
        1 + ahead + after >= TELLING_RUN
    })
}

/// The numbers of packets that may stand readable in a datagram: what follows the head of a UDP datagram between programs.
pub(crate) fn readable_numbers(bytes: &[u8], port: u16) -> impl Iterator<Item = u64> {
    let [a, b] = port.to_be_bytes();
    let heads = bytes.windows(UDP_HEAD + 8).filter(move |piece| piece.starts_with(&[a, b, a, b]));
    heads.filter_map(|piece| Some(u64::from_be_bytes(*piece.last_chunk::<8>()?)))
}

/// Bytes of a cookie reply of every suite.
const COOKIE: usize = 64;
/// Bytes of a sealed packet of nothing: head, metadata and tag.
const SHORTEST_SEALED: usize = 12 + 4 + 16;
const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const TRANSACTION: usize = 12;
const UDP_HEAD: usize = 8;
/// Bytes counting up that are no chance: one of 2⁸⁸.
const TELLING_RUN: usize = 12;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::ledger::{PORT, udp};

    fn sealed(length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length).map(|place| (place * place * 37 + 11 * place) as u8).collect();
        bytes[0] = 0xC7;
        bytes
    }

    fn in_channel(inner: &[u8]) -> Vec<u8> {
        [&[0x40, 1][..], &u16::try_from(inner.len()).unwrap().to_be_bytes(), inner].concat()
    }

    fn packet(length: usize) -> Vec<u8> {
        udp(IpAddr::from([100, 64, 0, 1]), IpAddr::from([100, 64, 0, 2]), 17, length)
    }

    #[test]
    fn each_class_passes_in_its_shape_alone() {
        let handshake = |first: u8, length: usize| [&[first, 0, 0, 0][..], &sealed(length)[4..]].concat();
        let stun = [&[0, 1, 0, 4, 0x21, 0x12, 0xA4, 0x42][..], &[7; 16]].concat();
        let fitting = [handshake(0xC0, 152), handshake(0xC5, 96), handshake(0xC2, 64), sealed(32), sealed(900), stun];
        for bytes in &fitting {
            assert!(!is_odd(bytes, Toward::Elsewhere), "{bytes:02x?}");
            let mut longer = bytes.clone();
            longer.push(0);
            assert!(is_odd(&longer, Toward::Elsewhere) || bytes[0] == 0xC7, "{longer:02x?}");
            let in_channel = in_channel(bytes);
            assert_eq!(is_odd(&in_channel, Toward::Relay), bytes[0] == 0, "{in_channel:02x?}");
            assert!(is_odd(&in_channel, Toward::Elsewhere), "{in_channel:02x?}");
            let whole = in_channel.len();
            assert!(is_odd(&in_channel[..whole - 1], Toward::Relay), "its length does not fit");
        }
        let mut reserved = handshake(0xC0, 152);
        reserved[2] = 1;
        let odd =
            [packet(100), in_channel(&packet(100)), reserved, sealed(31), vec![0x60; 80], vec![1, 0, 0, 0], Vec::new()];
        for bytes in odd {
            assert!(is_odd(&bytes, Toward::Relay), "{bytes:02x?}");
        }
    }

    #[test]
    fn a_piece_of_a_packet_is_found_wherever_it_stands() {
        let plain = packet(200);
        let payload = &plain[36..];
        for before in 0..40 {
            for length in 15..40 {
                for from in [0, 3, 100] {
                    let piece = &payload[from..from + length];
                    let whole = [&sealed(64)[..24 + before], piece, &sealed(64)[40..]].concat();
                    assert!(counts_up(&whole), "{length} bytes after {before}");
                }
            }
        }
        assert!(!counts_up(&sealed(1400)));
        assert!(!counts_up(&payload[..TELLING_RUN - 1]));
    }

    #[test]
    fn a_packet_without_a_payload_is_found_by_its_number() {
        let short = packet(0);
        for before in 0..20 {
            let whole = [&sealed(64)[..32 + before], &short, &sealed(48)].concat();
            assert_eq!(readable_numbers(&whole, PORT).collect::<Vec<_>>(), [17]);
        }
        assert_eq!(readable_numbers(&sealed(1400), PORT).count(), 0);
    }
}
