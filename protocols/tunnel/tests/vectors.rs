//! Messages made by others: a recorded run with wireguard-go, and an independent implementation of our own suites.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

#[path = "../src/testing.rs"]
mod testing;

use ginnel_time::{Instant, Tai64n};
use ginnel_tunnel::cookie::CookieJar;
use ginnel_tunnel::{
    Checksum, Established, HEADROOM, Identity, Initiator, Metadata, NetworkTag, Opener, PresharedKey, PublicKey,
    Received, ReceiverIndex, Run, Sealer, StaticSecret, Suite, TAILROOM, receiver_index, sender_index,
};
use testing::{Chosen, Vector};

#[test]
fn our_initiation_is_answered_by_wireguard_go() {
    let run = &recording()[0];
    let peer = Peer::of(run);
    let (mut initiator, initiation) = peer.start(run, "initiator_ephemeral", "timestamp", 0x0102_0304);
    assert_eq!(initiation, run.bytes("initiation"));
    let response = run.bytes("response");
    let established = initiator.finish(response).unwrap();
    assert_eq!(Some(established.remote_index), sender_index(response));
    let (mut sealer, mut opener) = halves(established);
    assert_eq!(seal(&mut sealer, Metadata::NONE, run.bytes("packet_out")), run.bytes("data_out"));
    assert_eq!(open(&mut opener, run.bytes("data_in")).1, run.bytes("packet_in"));
}

#[test]
fn initiation_of_wireguard_go_is_answered_by_us() {
    let run = &recording()[1];
    let peer = Peer::of(run);
    let received = Received::read(&peer.ours, run.bytes("initiation"), &mut |key| *key == peer.its).unwrap();
    assert_eq!(received.remote(), peer.its);
    assert_eq!(received.timestamp(), Tai64n::from_bytes(run.array("timestamp")));
    assert_eq!((received.suite(), received.psk_id()), (Suite::WireGuard, 0));
    let mut rng = Chosen::new(run.bytes("responder_ephemeral"));
    let (response, established) = received.respond(&peer.psk, 0, ReceiverIndex(0x0506_0708), &mut rng).unwrap();
    assert_eq!(response, run.bytes("response"));
    let (_, mut opener) = halves(established);
    assert_eq!(open(&mut opener, run.bytes("data_in_0")).1, run.bytes("packet_in_0"));
    assert_eq!(open(&mut opener, run.bytes("data_in_1")).1, run.bytes("packet_in_1"));
}

#[test]
fn cookie_of_wireguard_go_opens_its_door() {
    let run = &recording()[0];
    let peer = Peer::of(run);
    let (_, first) = peer.start(run, "cookie_ephemeral", "cookie_timestamp", 0x0a0b_0c0d);
    assert_eq!(first, run.bytes("cookie_initiation"));
    let mut jar = CookieJar::new(&peer.its);
    jar.sent(&first);
    jar.accept(Instant::ZERO, run.bytes("cookie_reply")).unwrap();
    let (mut initiator, mut next) = peer.start(run, "cookie_next_ephemeral", "cookie_next_timestamp", 0x0a0b_0c0e);
    jar.stamp(Instant::ZERO, &mut next);
    // Under load, wireguard-go answered exactly these bytes with a response.
    assert_eq!(next, run.bytes("cookie_next_initiation"));
    initiator.finish(run.bytes("cookie_next_response")).unwrap();
}

#[test]
fn own_suites_are_those_of_the_documented_tables() {
    let vectors = Vector::all(include_str!("data/ginnel.txt"), "suite");
    assert_eq!(vectors.len(), 2);
    for (vector, suite) in vectors.iter().zip([Suite::AesGcm, Suite::ChaChaPoly]) {
        let network = NetworkTag(vector.array("network"));
        let near = Identity::new(StaticSecret::from_bytes(vector.array("initiator_static")), network);
        let far = Identity::new(StaticSecret::from_bytes(vector.array("responder_static")), network);
        let psk = PresharedKey::from_bytes(vector.array("psk"));
        let psk_id = u32::from_be_bytes(vector.array("psk_id"));
        let stamp = Tai64n::from_bytes(vector.array("timestamp"));
        let (near_index, far_index) = (ReceiverIndex(0x0102_0304), ReceiverIndex(0x0506_0708));
        let mut rng = Chosen::new(vector.bytes("initiator_ephemeral"));
        let (mut initiator, initiation) =
            Initiator::start(&near, far.public(), suite, &psk, psk_id, stamp, near_index, &mut rng).unwrap();
        assert_eq!(initiation, vector.bytes("initiation"));
        let received = Received::read(&far, &initiation, &mut |key| *key == near.public()).unwrap();
        assert_eq!((received.timestamp(), received.psk_id()), (stamp, psk_id));
        let mut rng = Chosen::new(vector.bytes("responder_ephemeral"));
        let (response, far_half) = received.respond(&psk, psk_id, far_index, &mut rng).unwrap();
        assert_eq!(response, vector.bytes("response"));

        let (mut near_sealer, mut near_opener) = halves(initiator.finish(&response).unwrap());
        let (mut far_sealer, mut far_opener) = halves(far_half);
        let packet = vector.bytes("packet");
        let forth = [("data_0_forth", packet), ("keepalive_1_forth", &[][..])];
        for (name, packet) in forth {
            let expected = vector.bytes(name);
            assert_eq!(receiver_index(expected), Some(far_index));
            assert_eq!(seal(&mut near_sealer, Metadata::NONE, packet), expected);
            assert_eq!(open(&mut far_opener, expected), (Metadata::NONE, packet.to_vec()));
        }
        let run = Run { id: 0x1234, index: 3, last: true };
        let metadata = Metadata { checksum: Checksum::Partial, run: Some(run) };
        far_sealer.skip_to(0x00fe_dcba_9876_5432);
        let back = vector.bytes("data_high_back");
        assert_eq!(seal(&mut far_sealer, metadata, packet), back);
        assert_eq!(open(&mut near_opener, back), (metadata, packet.to_vec()));
    }
}

struct Peer {
    ours: Identity,
    its: PublicKey,
    psk: PresharedKey,
}

impl Peer {
    fn of(run: &Vector) -> Self {
        let ours = Identity::new(StaticSecret::from_bytes(run.array("our_static")), NetworkTag::default());
        let its = StaticSecret::from_bytes(run.array("its_static")).public();
        Self { ours, its, psk: PresharedKey::from_bytes(run.array("psk")) }
    }

    fn start(&self, run: &Vector, ephemeral: &str, timestamp: &str, index: u32) -> (Initiator, Vec<u8>) {
        let stamp = Tai64n::from_bytes(run.array(timestamp));
        let mut rng = Chosen::new(run.bytes(ephemeral));
        let (suite, index) = (Suite::WireGuard, ReceiverIndex(index));
        Initiator::start(&self.ours, self.its, suite, &self.psk, 0, stamp, index, &mut rng).unwrap()
    }
}

fn recording() -> Vec<Vector> {
    Vector::all(include_str!("data/wireguard-go.txt"), "run")
}

fn halves(established: Established) -> (Sealer, Opener) {
    let Established { keys, remote_index, suite, .. } = established;
    (Sealer::new(suite, keys.send, remote_index), Opener::new(suite, keys.receive))
}

fn seal(sealer: &mut Sealer, metadata: Metadata, packet: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0xaa; HEADROOM + packet.len() + TAILROOM];
    buffer[HEADROOM..HEADROOM + packet.len()].copy_from_slice(packet);
    let len = sealer.seal(metadata, &mut buffer, packet.len()).unwrap();
    buffer.truncate(len);
    buffer
}

fn open(opener: &mut Opener, datagram: &[u8]) -> (Metadata, Vec<u8>) {
    let mut datagram = datagram.to_vec();
    let (metadata, packet) = opener.open(&mut datagram).unwrap();
    (metadata, packet.to_vec())
}
