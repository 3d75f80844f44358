//! Both halves on one thread.

use ginnel_time::Instant;

use crate::buffer::{Datagrams, SendArena, TunBatch, WritePlan};
use crate::command::{Command, PeerId};
use crate::config::Config;
use crate::counters::{Counters, PeerCounters};
use crate::egress::Egress;
use crate::event::Event;
use crate::ingress::Ingress;

/// The data plane: [`Egress`] and [`Ingress`], with what passes between them handed over at once.
pub struct Forward {
    egress: Egress,
    ingress: Ingress,
}

impl Forward {
    /// Makes a data plane without peers. The seed only spreads timers.
    pub fn new(seed: [u8; 32], config: Config) -> Self {
        Self { egress: Egress::new(seed, config), ingress: Ingress::new(config) }
    }

    /// Takes packets read from the TUN and empties the batch. `plan` gets ICMP errors for packets that nobody owns.
    pub fn handle_tun(&mut self, now: Instant, batch: &mut TunBatch, plan: &mut WritePlan, arena: &mut SendArena) {
        self.egress.push(now, batch, plan, arena);
        while let Some(flow) = self.egress.poll_flow() {
            self.ingress.handle_flow(now, flow);
        }
    }

    /// Takes datagrams read from the sockets and empties the batch; echoes and what waited for a session go out.
    pub fn handle_datagrams(
        &mut self,
        now: Instant,
        datagrams: &mut Datagrams,
        plan: &mut WritePlan,
        arena: &mut SendArena,
    ) {
        self.ingress.push(now, datagrams, plan);
        self.hand_over(now, arena);
    }

    /// Carries out an order of node's. `plan` gets the IP packet out of [`Command::Inject`].
    pub fn handle_command(&mut self, now: Instant, command: Command, plan: &mut WritePlan, arena: &mut SendArena) {
        let (egress, ingress) = command.split();
        if let Some(command) = ingress {
            self.ingress.handle_command(now, command, plan);
        }
        if let Some(command) = egress {
            self.egress.handle_command(now, command, arena);
        }
        self.hand_over(now, arena);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant, arena: &mut SendArena) {
        self.ingress.handle_timeout(now);
        self.egress.handle_timeout(now, arena);
        self.hand_over(now, arena);
    }

    /// Takes the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.ingress.poll_event().or_else(|| self.egress.poll_event())
    }

    /// When to call [`handle_timeout`](Self::handle_timeout): the last `now` while an event waits.
    pub fn poll_timeout(&self) -> Option<Instant> {
        crate::schedule::earlier(self.ingress.poll_timeout(), self.egress.poll_timeout())
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.ingress.counters().merged(&self.egress.counters())
    }

    /// One peer's traffic; `None` for an unknown peer.
    pub fn peer_counters(&self, peer: PeerId) -> Option<PeerCounters> {
        let (sent, received) = (self.egress.peer_counters(peer)?, self.ingress.peer_counters(peer)?);
        Some(PeerCounters {
            rx_bytes: received.rx_bytes,
            rx_packets: received.rx_packets,
            rx_data_packets: received.rx_data_packets,
            last_received: received.last_received,
            last_handshake: sent.last_handshake.max(received.last_handshake),
            ..sent
        })
    }

    fn hand_over(&mut self, now: Instant, arena: &mut SendArena) {
        while let Some(notice) = self.ingress.poll_notice() {
            self.egress.handle_notice(now, notice, arena);
        }
    }
}
