//! How fast one core refuses handshakes whose mac1 is wrong, measured inside this process.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ginnel_forward::{Config as ForwardConfig, Datagrams, Discard, Forward, SendArena, WritePlan};
use ginnel_node::{Config, Debug, Input, Node, Output, Resume};
use ginnel_path::SocketId;
use ginnel_time::Tai64n;
use ginnel_tunnel::cookie::Mac1;
use ginnel_tunnel::{StaticSecret, Suite};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::Refusals;
use super::handshakes::unix;
use crate::scenario::guest::random;

/// Measures both figures for `length` each, on this thread.
pub(super) fn measure(length: Duration) -> Result<Refusals> {
    let mut rng = ChaCha20Rng::from_seed(random());
    let secret = StaticSecret::generate(&mut rng);
    let messages: Vec<Vec<u8>> = (0..64)
        .map(|_| {
            let mut message = vec![0; Suite::AesGcm.initiation_len()];
            rng.fill_bytes(&mut message);
            message[..4].copy_from_slice(&[0xC0, 0, 0, 0]);
            message
        })
        .collect();
    let mac1 = Mac1::new(&secret.public());
    let check = rate(length, || {
        let passed = messages.iter().filter(|message| mac1.verify(message)).count();
        ensure!(passed == 0, "{passed} random messages passed");
        Ok(messages.len() as u64)
    })?;
    Ok(Refusals { check, whole_road: whole_road(length, secret, &messages)? })
}

/// Through the data plane and the deciding machine, as the daemon joins them.
fn whole_road(length: Duration, secret: StaticSecret, messages: &[Vec<u8>]) -> Result<u64> {
    let begun = Instant::now();
    let now = || ginnel_time::Instant::ZERO + begun.elapsed();
    let config = Config {
        seed: random(),
        secret: Some(secret),
        addresses: Vec::new(),
        peers: Vec::new(),
        suites: Suite::ALL.to_vec(),
        hostname: "core".to_owned(),
        debug: Debug::default(),
    };
    let mut node = Node::new(now(), config, Resume::default()).context("make a node")?;
    let _ = node.handle_input(now(), Input::Wall(Tai64n::from_unix(unix(), 0)));
    let mut forward = Forward::new(random(), ForwardConfig::default());
    let (mut datagrams, mut plan, mut arena) = (Datagrams::default(), WritePlan::default(), SendArena::default());
    while let Some(output) = node.poll_output() {
        if let Output::Forward(command) = output {
            forward.handle_command(now(), command, &mut plan, &mut arena);
        }
    }
    let from: SocketAddr = "203.0.113.99:4000".parse().context("an address")?;
    let mut fired = 0;
    let rate = rate(length, || {
        let now = now();
        for message in messages {
            datagrams.push(SocketId(0), from, message);
        }
        forward.handle_datagrams(now, &mut datagrams, &mut plan, &mut arena);
        while let Some(event) = forward.poll_event() {
            // The refusal is counted.
            let _ = node.handle_input(now, Input::Forward(event));
            ensure!(node.poll_output().is_none(), "a refused handshake makes the node do something");
        }
        fired += messages.len() as u64;
        Ok(messages.len() as u64)
    })?;
    let refused = forward.counters().discarded(Discard::BadMac);
    ensure!(refused == fired, "{refused} of {fired} messages were refused for their mac1");
    ensure!(arena.iter().next().is_none(), "a refused handshake was answered");
    Ok(rate)
}

fn rate(length: Duration, mut work: impl FnMut() -> Result<u64>) -> Result<u64> {
    let begun = Instant::now();
    let mut done = 0;
    while begun.elapsed() < length {
        done += work()?;
    }
    Ok((done as f64 / begun.elapsed().as_secs_f64()) as u64)
}
