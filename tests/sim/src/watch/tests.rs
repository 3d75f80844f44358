use std::net::IpAddr;

use ginnel_forward::Roam;
use ginnel_time::Tai64n;
use ginnel_tunnel::{Identity, Initiator, NetworkTag, PresharedKey, Received, ReceiverIndex, StaticSecret, Suite};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::*;

pub(crate) fn add(peer: u32) -> Command {
    let address = IpAddr::from([100, 64, 0, peer as u8]);
    Command::AddPeer { peer: PeerId(peer), allowed: vec![(address, 32)], roam: Roam::Fixed, persistent_keepalive: None }
}

/// A session with a peer, which the far side knows by an index.
pub(crate) fn install(peer: u32, index: u32) -> Command {
    let identity = |seed: u8| Identity::new(StaticSecret::from_bytes([seed; 32]), NetworkTag([0; 32]));
    let (near, far) = (identity(1), identity(2));
    let (mut rng, psk) = (ChaCha20Rng::from_seed([3; 32]), PresharedKey::zero());
    let stamp = Tai64n::from_unix(1_800_000_000, 0);
    let suite = Suite::ChaChaPoly;
    let (mut initiator, initiation) =
        Initiator::start(&near, far.public(), suite, &psk, 0, stamp, ReceiverIndex(9), &mut rng).unwrap();
    let received = Received::read(&far, &initiation, &mut |_| true).unwrap();
    let (response, _) = received.respond(&psk, 0, ReceiverIndex(index), &mut rng).unwrap();
    Command::Install { peer: PeerId(peer), established: initiator.finish(&response).unwrap() }
}

pub(crate) fn sealed(index: u32) -> Vec<u8> {
    [&[0xC7, 0, 0, 0, 0, 0, 0, 1][..], &index.to_be_bytes(), &[5; 40]].concat()
}

#[test]
fn packets_are_sealed_for_sessions_of_peers_alone() {
    let rows: [(&str, Vec<Command>, bool); 5] = [
        ("a session with a peer", vec![add(1), install(1, 77)], true),
        ("no session", vec![add(1)], false),
        ("another session", vec![add(1), install(1, 78)], false),
        ("a peer that was removed", vec![add(1), install(1, 77), Command::RemovePeer { peer: PeerId(1) }], false),
        (
            "another that was removed",
            vec![add(1), add(2), install(1, 77), Command::RemovePeer { peer: PeerId(2) }],
            true,
        ),
    ];
    for (what, commands, known) in rows {
        let mut watch = Watch::default();
        for command in &commands {
            assert_eq!(watch.command(command), None, "{what}");
        }
        let channel = [&[0x40, 1, 0, 52][..], &sealed(77)].concat();
        for datagram in [sealed(77), channel] {
            let told = watch.datagram(&datagram);
            assert_eq!(told.is_none(), known, "{what}: {told:?}");
            assert!(told.is_none_or(|told| told.contains("for a session with nobody, 0000004d")), "{what}");
        }
    }
}

#[test]
fn nobody_but_a_peer_has_a_session() {
    let mut watch = Watch::default();
    assert!(watch.command(&install(1, 77)).is_some_and(|told| told.contains("who is no peer")));
    assert!(watch.datagram(&sealed(77)).is_some());
    assert_eq!(watch.command(&add(1)), None);
    assert_eq!(watch.command(&Command::RemovePeer { peer: PeerId(1) }), None);
    assert!(watch.command(&install(1, 77)).is_some());
}

#[test]
fn only_sealed_packets_are_looked_at() {
    let watch = Watch::default();
    for first in [0xC0, 0xC1, 0xC2, 0xC4, 0xC5, 0xC6, 0] {
        let mut bytes = sealed(77);
        bytes[0] = first;
        assert_eq!(watch.datagram(&bytes), None, "{first:02x}");
    }
}
