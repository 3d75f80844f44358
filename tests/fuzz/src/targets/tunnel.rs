//! Handshakes, cookies and sealed packets.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use ginnel_time::{Instant, Tai64n};
use ginnel_tunnel::cookie::{CookieIssuer, CookieJar, Mac1};
use ginnel_tunnel::{
    Checksum, HEADROOM, HandshakeError, Identity, Initiator, MessageKind, Metadata, NetworkTag, OpenError, Opener,
    PresharedKey, Received, ReceiverIndex, Run, SealError, Sealer, StaticSecret, Suite, TAILROOM, TransportKey,
    WindowSize, classify, receiver_index,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use crate::feed::{Feed, Script, salt};
use crate::{Effort, Target};

/// Initiations and responses, damaged and whole, with and without a fresh mac1.
pub(crate) const HANDSHAKE: Target = Target {
    name: "handshake",
    covers: "initiations and responses of every suite",
    run: handshake,
    seeds: || {
        let mut seeds = Vec::new();
        for suite in 0..3 {
            for damage in [0, 3, 4, 5, 6, 7] {
                for at in [0, 1] {
                    let mut script = Script::default().bytes(&[suite, 1, damage]).bytes(&[20 * at, 1, 1]);
                    script = script.chunk(&[9; 40]).bytes(&[0, 0, 0]);
                    seeds.push(script.done());
                }
            }
        }
        seeds
    },
    longest: 600,
    effort: Effort::Great,
};

/// Cookie replies.
pub(crate) const COOKIE: Target = Target {
    name: "cookie",
    covers: "cookie replies, and who gets one",
    run: cookie,
    seeds: || {
        (0..3_u8)
            .flat_map(|suite| {
                [0, 3, 4, 7]
                    .map(|damage| Script::default().bytes(&[suite, 0, 1, 2, damage, 9, 1]).chunk(&[1; 64]).done())
            })
            .collect()
    },
    longest: 400,
    effort: Effort::Middling,
};

/// Sealed packets against a model of the replay window.
pub(crate) const TRANSPORT: Target = Target {
    name: "transport",
    covers: "sealed packets, replay window, limits of a key",
    run: transport,
    seeds: || {
        let order = [0, 1, 0, 2, 0, 3, 2, 0, 2, 1, 2, 0, 1, 4, 2, 2, 3, 0, 3, 3, 1, 5];
        (0..6_u8).map(|suite| Script::default().bytes(&[suite]).bytes(&order).bytes(&order).done()).collect()
    },
    longest: 1024,
    effort: Effort::Middling,
};

fn identity(seed: u8) -> Identity {
    Identity::new(StaticSecret::from_bytes([seed; 32]), NetworkTag([3; 32]))
}

fn suite(feed: &mut Feed<'_>) -> Suite {
    feed.pick(&Suite::ALL)
}

/// What was sent, damaged; mac1 is made right again where the input says so, as whoever knows the key can.
fn on_the_way(feed: &mut Feed<'_>, message: &[u8], to: &Identity) -> Vec<u8> {
    let stamped = feed.flag();
    let mut bytes = feed.spoil(message.to_vec());
    if stamped {
        Mac1::new(&to.public()).stamp(&mut bytes);
    }
    bytes
}

/// What a handshake proves: everything up to the macs, but for the sender's own index.
fn proved(message: &[u8], from: usize) -> &[u8] {
    let end = message.len().saturating_sub(32);
    message.get(from..end).unwrap_or_default()
}

fn handshake(data: &[u8]) {
    let mut feed = Feed::new(data);
    let (ours, theirs) = (identity(1), identity(2));
    let suite = suite(&mut feed);
    let mut rng = ChaCha20Rng::from_seed([7; 32]);
    let psk = PresharedKey::from_bytes([5; 32]);
    let (stamp, index) = (Tai64n::from_unix(1_800_000_000, 5), ReceiverIndex(0x0102_0304));
    let (mut initiator, initiation) =
        Initiator::start(&ours, theirs.public(), suite, &psk, 9, stamp, index, &mut rng).expect("good keys");
    let arrived = on_the_way(&mut feed, &initiation, &theirs);
    let mut asked = 0;
    let read = Received::read(&theirs, &arrived, &mut |key| {
        asked += 1;
        *key == ours.public()
    });
    assert!(asked <= 1, "the owner of a key is asked for once");
    if let Ok(received) = &read {
        assert_eq!(proved(&arrived, 8), proved(&initiation, 8), "a forged initiation was read");
        assert_eq!((received.remote(), received.timestamp(), received.suite()), (ours.public(), stamp, suite));
    } else {
        assert_ne!(arrived, initiation, "a true initiation was refused");
    }
    // A stranger's is refused whatever it holds.
    assert!(Received::read(&theirs, &arrived, &mut |_| false).is_err());
    let received = Received::read(&theirs, &initiation, &mut |_| true).unwrap_or_else(|e| panic!("{e}"));
    let (response, answered) = received.respond(&psk, 9, ReceiverIndex(77), &mut rng).expect("good keys");
    let arrived = on_the_way(&mut feed, &response, &ours);
    let established = match initiator.finish(&arrived) {
        Ok(established) => {
            assert_eq!(proved(&arrived, 8), proved(&response, 8), "a forged response was taken");
            established
        }
        Err(HandshakeError::Finished) => panic!("the handshake ended with a forged response"),
        Err(_) => initiator.finish(&response).unwrap_or_else(|e| panic!("spoiled by a forged response: {e}")),
    };
    assert!(matches!(initiator.finish(&response), Err(HandshakeError::Finished)));
    assert_eq!(established.local_index, index);
    let mut sealer = Sealer::new(suite, established.keys.send, ReceiverIndex(77));
    let mut opener = Opener::new(suite, answered.keys.receive);
    let mut packet = vec![0x45; HEADROOM + 20 + TAILROOM];
    let length = sealer.seal(Metadata::NONE, &mut packet, 20).expect("the first packet");
    let (_, opened) = opener.open(&mut packet[..length]).expect("both ends hold the same keys");
    assert_eq!(opened[..20], [0x45; 20]);
}

fn cookie(data: &[u8]) {
    let mut feed = Feed::new(data);
    let (ours, theirs) = (identity(1), identity(2));
    let suite = suite(&mut feed);
    let now = Instant::ZERO + Duration::from_secs(feed.u8().into());
    let from = SocketAddr::from(([198, 51, 100, feed.u8()], feed.u16()));
    let mut rng = ChaCha20Rng::from_seed([7; 32]);
    let stamp = Tai64n::from_unix(1_800_000_000, 5);
    let (_, mut message) =
        Initiator::start(&ours, theirs.public(), suite, &PresharedKey::zero(), 0, stamp, ReceiverIndex(8), &mut rng)
            .expect("good keys");
    let mut issuer = CookieIssuer::new([1; 32], theirs.public());
    let mut jar = CookieJar::new(&theirs.public());
    let reply = issuer.reply(now, &message, from).expect("an initiation gets a reply");
    assert!(jar.accept(now, &reply).is_err(), "nothing was sent");
    jar.sent(&message);
    let arrived = feed.spoil(reply.clone());
    if jar.accept(now, &arrived).is_ok() {
        assert_eq!(arrived, reply, "a forged cookie was taken");
    } else {
        jar.accept(now, &reply).expect("the true reply is taken after a forged one");
    }
    assert!(jar.accept(now, &reply).is_err(), "one reply for one message");
    jar.stamp(now, &mut message);
    assert!(issuer.verify_mac2(now, &message, from));
    let elsewhere = SocketAddr::new(from.ip(), from.port() ^ 1);
    assert!(!issuer.verify_mac2(now, &message, elsewhere));
    // Whatever comes, the reply is no longer than it.
    let stray = feed.rest();
    if let Some(reply) = issuer.reply(now, stray, from) {
        assert!(reply.len() <= stray.len());
        let kind = classify(stray).map(|(_, kind)| kind);
        assert!(matches!(kind, Some(MessageKind::Initiation | MessageKind::Response)));
    }
}

/// Everything that was sealed, and what the receiver must make of it.
struct Traffic {
    suite: Suite,
    sealer: Sealer,
    opener: Opener,
    span: u64,
    sent: Vec<Packet>,
    opened: BTreeSet<u64>,
    last: Option<u64>,
}

#[derive(Clone)]
struct Packet {
    counter: u64,
    metadata: Metadata,
    content: Vec<u8>,
    datagram: Vec<u8>,
}

fn transport(data: &[u8]) {
    let mut feed = Feed::new(data);
    let choice = feed.u8();
    let suite = Suite::ALL[usize::from(choice) % 3];
    let size = if choice < 128 { WindowSize::Standard } else { WindowSize::Large };
    let key = || TransportKey::from_bytes(salt(data));
    let mut traffic = Traffic {
        suite,
        sealer: Sealer::new(suite, key(), ReceiverIndex(0xAABB_CCDD)),
        opener: Opener::with_window(suite, key(), size),
        span: ginnel_tunnel::ReplayWindow::new(size).span(),
        sent: Vec::new(),
        opened: BTreeSet::new(),
        last: None,
    };
    while !feed.is_empty() {
        match feed.u8() % 8 {
            0..=2 => traffic.seal(&mut feed),
            3 | 4 => traffic.deliver(&mut feed),
            5 => traffic.forge(&mut feed),
            6 => {
                let next = traffic.sealer.next_counter();
                traffic.sealer.skip_to(next.saturating_add(feed.u16().into()));
            }
            _ => {
                // Towards the end of the counters, too.
                let jump = if feed.flag() { u64::MAX - u64::from(feed.u16()) } else { 1 << (feed.u8() % 64) };
                if feed.flag() {
                    traffic.sealer.skip_to(jump);
                } else {
                    traffic.sealer.charge_blocks(jump);
                }
            }
        }
    }
}

impl Traffic {
    fn seal(&mut self, feed: &mut Feed<'_>) {
        let metadata = match feed.u8() % 3 {
            0 => Metadata::NONE,
            1 => Metadata { checksum: Checksum::Partial, run: None },
            _ => {
                let run = Run { id: feed.u16(), index: feed.u8(), last: feed.flag() };
                Metadata { checksum: Checksum::Partial, run: Some(run) }
            }
        };
        let metadata = if self.suite == Suite::WireGuard { Metadata::NONE } else { metadata };
        let content = vec![feed.u8(); usize::from(feed.u8()) * 6];
        let mut datagram = vec![0xEE; HEADROOM];
        datagram.extend_from_slice(&content);
        datagram.resize(datagram.len() + TAILROOM, 0xEE);
        let counter = self.sealer.next_counter();
        match self.sealer.seal(metadata, &mut datagram, content.len()) {
            Ok(length) => {
                datagram.truncate(length);
                assert!(self.last.is_none_or(|last| counter > last), "a counter was used twice");
                self.last = Some(counter);
                assert_eq!(classify(&datagram), Some((self.suite, MessageKind::Data)));
                assert_eq!(receiver_index(&datagram), Some(ReceiverIndex(0xAABB_CCDD)));
                self.sent.push(Packet { counter, metadata, content, datagram });
            }
            Err(SealError::Exhausted) => assert_eq!(self.sealer.next_counter(), counter, "a refusal took a counter"),
            Err(error) => panic!("{error}"),
        }
    }

    /// Gives the receiver a packet as it was sealed, perhaps again.
    fn deliver(&mut self, feed: &mut Feed<'_>) {
        if self.sent.is_empty() {
            return;
        }
        let packet = self.sent[feed.below(self.sent.len())].clone();
        let newest = self.opened.last().copied().unwrap_or(0);
        let too_old = packet.counter < newest && newest - packet.counter >= self.span;
        let mut datagram = packet.datagram.clone();
        match self.opener.open(&mut datagram) {
            Ok((metadata, content)) => {
                assert!(!too_old, "a packet behind the window was opened");
                assert!(self.opened.insert(packet.counter), "a packet was opened twice");
                assert_eq!(metadata, packet.metadata);
                let (head, padding) = content.split_at(packet.content.len());
                assert!(head == packet.content && padding.iter().all(|byte| *byte == 0) && padding.len() < 16);
            }
            Err(OpenError::Replayed) => assert!(self.opened.contains(&packet.counter), "a new packet was refused"),
            Err(OpenError::TooOld) => assert!(too_old, "a packet within the window was refused"),
            Err(error) => panic!("a true packet was refused: {error}"),
        }
    }

    /// Gives the receiver something that nobody sealed; what it knows must stay as it is, as later packets show.
    fn forge(&mut self, feed: &mut Feed<'_>) {
        let sealed = match self.sent.len() {
            0 => Vec::new(),
            among => self.sent[feed.below(among)].datagram.clone(),
        };
        let mut bytes = feed.spoil(sealed);
        // WireGuard does not authenticate the receiver index: by it the session was found.
        let index = if self.suite == Suite::WireGuard { 4..8 } else { 0..0 };
        let but_for_index = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes.get_mut(index.clone()).unwrap_or_default().fill(0);
            bytes
        };
        if self.sent.iter().any(|packet| but_for_index(&packet.datagram) == but_for_index(&bytes)) {
            return;
        }
        assert!(self.opener.open(&mut bytes).is_err(), "a forged packet was opened");
    }
}
