//! The relay of one server of the world.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ginnel_membership::MemberKey;
use ginnel_signal_proto::RelayCredentials;
use ginnel_signal_proto::server::RelayIssuer;
use ginnel_time::Instant;
use ginnel_turn::server::{AllocationId, Config, Input, Output, Quotas};
use ginnel_turn::{Credentials, Server};

use super::WALL;

const SECRET: &[u8] = b"a secret long enough for a relay!";

pub(crate) struct Relay {
    at: SocketAddr,
    turn: Server,
    relayed: BTreeMap<u16, AllocationId>,
}

/// A datagram that a relay sends: from where, and where to.
pub(super) type Sent = (SocketAddr, SocketAddr, Vec<u8>);

impl Relay {
    pub(crate) fn new(at: SocketAddr) -> Self {
        let config = Config {
            realm: "relay.internal".to_owned(),
            secret: SECRET.to_vec().into(),
            relay_addresses: vec![at.ip()],
            ports: 49_152..=65_535,
            quotas: Quotas::default(),
            policy: Box::new(|_| true),
            nonce_lifetime: Duration::from_secs(600),
        };
        let mut turn = Server::new([at.port() as u8; 32], config).expect("sound");
        let _ = turn.handle_input(Instant::ZERO, Input::Wall(WALL));
        Self { at, turn, relayed: BTreeMap::new() }
    }

    /// Makes the credentials that it takes.
    pub(super) fn issuer(&self) -> RelayIssuer {
        let at = self.at;
        Box::new(move |unix: u64, member: &MemberKey| {
            let Credentials { username, password } =
                Credentials::time_limited(SECRET, unix + 86_400, &member.to_string()[..16]);
            RelayCredentials { username, password, lifetime_seconds: 86_400, addresses: vec![at] }
        })
    }

    /// Allocations that it holds.
    pub(crate) fn allocations(&self) -> usize {
        self.turn.allocations()
    }

    pub(super) fn take(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, bytes: &[u8]) -> Vec<Sent> {
        let bytes = bytes.to_vec();
        let input = match self.relayed.get(&to.port()) {
            Some(&allocation) => Input::Relayed { allocation, from, bytes },
            None => Input::Client { from, local: to, bytes },
        };
        self.turn.handle_timeout(now);
        let _ = self.turn.handle_input(now, input);
        let mut sent = Vec::new();
        while let Some(output) = self.turn.poll_output() {
            match output {
                Output::ToClient { to, local, bytes } => sent.push((local, to, bytes)),
                Output::OpenPort { allocation, port, .. } => {
                    self.relayed.insert(port, allocation);
                    let addr = SocketAddr::new(self.at.ip(), port);
                    let _ = self.turn.handle_input(now, Input::PortOpened { allocation, addr });
                }
                Output::ClosePort { allocation } => self.relayed.retain(|_, held| *held != allocation),
                Output::Relay { allocation, to, bytes } => {
                    let port = self.relayed.iter().find(|(_, held)| **held == allocation).map(|(port, _)| *port);
                    let from = SocketAddr::new(self.at.ip(), port.expect("it is open"));
                    sent.push((from, to, bytes));
                }
            }
        }
        sent
    }
}
