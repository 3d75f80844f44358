//! Much at once, of what anybody can send and of what this machine itself has to say.

use ginnel_forward::Event;
use ginnel_path::{Input as PathInput, Local, Path, SocketId};
use ginnel_time::Instant;

use super::world::{World, secs};
use crate::Discard;
use crate::io::Input;
use crate::load::Bucket;

fn left(mut bucket: Bucket, now: Instant) -> usize {
    (0..10_000).take_while(|_| bucket.take(now)).count()
}

#[test]
fn a_cookie_reply_that_nobody_asked_for_has_nothing_looked_at() {
    let mut world = World::linked(2, 1);
    let id = world.peer(0, 1).expect("a peer").id;
    world.pass(secs(130));
    let now = world.now;
    let node = world.machines[0].node.as_mut().expect("it runs");
    let known = *node.indices.keys().next().expect("a session");
    for (index, why) in [(!known, Discard::UnknownIndex), (known, Discard::BadCookie)] {
        for first in [0x03, 0xC2, 0xC6] {
            // Something waits that would be taken if everything were looked at.
            let agent = node.peers.get_mut(&id).and_then(|peer| peer.agent()).expect("an agent");
            while agent.poll_output().is_some() {}
            agent.handle_input(now, PathInput::SessionLost).expect("a session is up");
            agent.handle_input(now, PathInput::Session(ginnel_path::Role::Initiator)).expect("it is taken");
            let mut bytes = vec![first, 0, 0, 0];
            bytes.extend_from_slice(&index.to_le_bytes());
            bytes.resize(64, 7);
            let remote = "192.0.2.66:4000".parse().expect("literal");
            let path = Path { local: Local::Socket(SocketId(0)), remote };
            let taken = node.handle_input(now, Input::Forward(Event::Handshake { path, bytes }));
            assert_eq!(taken, Err(why));
            let agent = node.peers.get_mut(&id).and_then(|peer| peer.agent()).expect("an agent");
            assert!(agent.poll_output().is_some(), "{first:#x}, {why:?}");
        }
    }
}

#[test]
fn who_may_have_a_path_leaves_the_last_mails_to_those_who_have_none() {
    let mut world = World::linked(2, 1);
    let id = world.peer(0, 1).expect("a peer").id;
    world.pass(secs(130));
    let now = world.now;
    let node = world.machines[0].node.as_mut().expect("it runs");
    let mut mailed = |scarce: bool| {
        node.end_attempt(id);
        let mails = &mut node.networks.iter_mut().next().expect("a network").mails;
        while scarce && mails.is_over_half(now) {
            mails.take(now);
        }
        let before = left(*mails, now);
        node.summon(now, id);
        before - left(node.networks.iter().next().expect("a network").mails, now)
    };
    assert_eq!(mailed(false), 1);
    assert_eq!(mailed(true), 0, "the path is asked alone");
}
