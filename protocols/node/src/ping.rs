//! A user's ping: a question through the tunnel, answered by the other node.

use ginnel_forward::{Command, PeerId};
use ginnel_path::Path;
use ginnel_time::Instant;
use rand_core::RngCore;
use std::time::Duration;

use crate::Discard;
use crate::io::{Failure, FailureCode, Output, Reply, RequestId};
use crate::node::Node;
use crate::peer::{MAX_PINGS, PING_AGAIN, Ping, Ways};

/// First byte of a ping.
pub(crate) const PING: u8 = 0x10;
/// First byte of a pong.
pub(crate) const PONG: u8 = 0x11;
const VERSION: u8 = 1;

impl Node {
    /// Begins a ping; the answer comes as a reply to `request`.
    pub(crate) fn ping(
        &mut self,
        now: Instant,
        request: RequestId,
        id: PeerId,
        timeout: Duration,
    ) -> Result<(), Failure> {
        let token = self.rng.next_u64() >> 1;
        let Some(peer) = self.peers.get_mut(&id) else {
            return Err(Failure::new(FailureCode::NoSuch, "the peer is gone", ""));
        };
        if matches!(peer.ways, Ways::Endpoint(_)) {
            let text = format!("{} is a stock WireGuard peer, which answers no ping of ours", peer.profile.name);
            return Err(Failure::new(FailureCode::Usage, text, "ping its address instead"));
        }
        if peer.pings.len() >= MAX_PINGS {
            return Err(Failure::new(FailureCode::Failed, "too many pings wait for this peer", "try again later"));
        }
        peer.pings.push(Ping { request, token, sent: Vec::new(), deadline: now + timeout, again: now });
        self.ping_timeout(now, id);
        Ok(())
    }

    /// Sends the pings that are due and answers those whose time is over.
    pub(crate) fn ping_timeout(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let ready = peer.session.is_some() && peer.primary().is_some();
        let name = peer.profile.name.clone();
        let mut send = Vec::new();
        let mut late = Vec::new();
        peer.pings.retain_mut(|ping| {
            if now >= ping.deadline {
                late.push(ping.request);
                return false;
            }
            if now >= ping.again {
                ping.again = now + PING_AGAIN;
                if ready {
                    send.push(ping.token + ping.sent.len() as u64);
                    ping.sent.push(now);
                }
            }
            true
        });
        let waiting = !peer.pings.is_empty();
        for request in late {
            let failure = Failure::new(
                FailureCode::TimedOut,
                format!("no answer from {name}"),
                "see `ginnel status` for whether it is reachable",
            );
            self.outputs.push_back(Output::Reply { id: request, reply: Err(failure) });
        }
        for token in send {
            self.seal(id, None, control(PING, token));
        }
        if waiting && !ready {
            self.want_session(now, id);
        }
    }

    /// A path was selected: what waited for one goes out now.
    pub(crate) fn pings_may_go(&mut self, now: Instant, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            for ping in peer.pings.iter_mut().filter(|ping| ping.sent.is_empty()) {
                ping.again = now;
            }
            self.ping_timeout(now, id);
        }
    }

    /// Takes a ping or pong out of a session.
    pub(crate) fn handle_ping(
        &mut self,
        now: Instant,
        id: PeerId,
        path: Path,
        plaintext: &[u8],
    ) -> Result<(), Discard> {
        let (kind, token) = decode(plaintext).ok_or(Discard::BadControl)?;
        if kind == PING {
            self.seal(id, Some(path), control(PONG, token));
            return Ok(());
        }
        let report = self.peers.get(&id).map(|peer| self.path_report(peer, path)).ok_or(Discard::Stale)?;
        let peer = self.peers.get_mut(&id).ok_or(Discard::Stale)?;
        let sent = |ping: &Ping| {
            let number = usize::try_from(token.checked_sub(ping.token)?).ok()?;
            ping.sent.get(number).copied()
        };
        let place = peer.pings.iter().position(|ping| sent(ping).is_some()).ok_or(Discard::Stale)?;
        let ping = peer.pings.swap_remove(place);
        let rtt = sent(&ping).map_or(Duration::ZERO, |sent| now.saturating_duration_since(sent));
        let reply = Reply::Pong { peer: peer.profile.name.clone(), path: report, rtt };
        self.outputs.push_back(Output::Reply { id: ping.request, reply: Ok(reply) });
        Ok(())
    }

    pub(crate) fn seal(&mut self, peer: PeerId, path: Option<Path>, plaintext: Vec<u8>) {
        self.forward(Command::SealControl { peer, path, ttl: None, plaintext });
    }
}

fn control(kind: u8, token: u64) -> Vec<u8> {
    let mut bytes = vec![kind, VERSION];
    bytes.extend_from_slice(&token.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<(u8, u64)> {
    let (&[kind, version], rest) = bytes.split_first_chunk::<2>()?;
    let token = u64::from_be_bytes(rest.try_into().ok()?);
    (version == VERSION && (kind == PING || kind == PONG)).then_some((kind, token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_ping() {
        assert_eq!(control(PING, 0x0102_0304_0506_0708), [0x10, 1, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(decode(&control(PONG, 9)), Some((PONG, 9)));
    }

    #[test]
    fn other_lengths_and_versions_are_refused() {
        let whole = control(PING, 9);
        assert!((0..whole.len()).all(|length| decode(&whole[..length]).is_none()));
        assert_eq!(decode(&[PING, 2, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(decode(&[0x12, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
