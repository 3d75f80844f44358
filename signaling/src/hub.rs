//! The task that owns the signaling machine: everything that happens to any connection passes through here in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ginnel_signal_proto::server::{ConnectionId, Input, Outcome, Output, Server, Ticket};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::dial::{Dial, Dialler};
use crate::storage::Writer;
use crate::sys;
use crate::witness::Witness;

/// What happens to the hub.
pub(crate) enum Event {
    /// A client opened its stream.
    Opened { conn: ConnectionId, from: SocketAddr, writer: mpsc::UnboundedSender<Written> },
    /// Bytes came from a client.
    Received { conn: ConnectionId, bytes: Vec<u8> },
    /// Bytes went out to a client.
    Flushed { conn: ConnectionId, bytes: usize },
    /// A client's stream ended.
    Closed { conn: ConnectionId },
    /// Changes came to their end on the disk.
    Stored(Vec<(Ticket, Outcome)>),
    /// A stream to a fellow server is open.
    LinkOpened(Dial),
    /// Bytes came from a fellow server.
    LinkReceived { dial: Dial, bytes: Vec<u8> },
    /// A stream to a fellow server ended, or could not be opened.
    LinkClosed { dial: Dial, why: String },
}

/// What a connection's writer is given. The machine bounds what waits: it drops a client that does not read.
pub(crate) enum Written {
    /// Bytes for the client.
    Bytes(Vec<u8>),
    /// Nothing more comes.
    End,
}

/// The machine and what it drives.
pub(crate) struct Hub {
    server: Server,
    writers: BTreeMap<ConnectionId, mpsc::UnboundedSender<Written>>,
    storage: Writer,
    witness: Witness,
    dialler: Dialler,
}

impl Hub {
    pub(crate) fn new(server: Server, storage: Writer, witness: Witness, dialler: Dialler) -> Self {
        Self { server, writers: BTreeMap::new(), storage, witness, dialler }
    }

    /// Runs until `stop` turns true, then waits for the disk.
    pub(crate) async fn run(mut self, mut events: mpsc::Receiver<Event>, mut stop: watch::Receiver<bool>) {
        let mut wall = tokio::time::interval(TELL_WALL);
        wall.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut report = tokio::time::interval(REPORT);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        // The machine may have something to do before anything happens.
        self.drain();
        loop {
            let sleep = until(self.server.poll_timeout());
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                received = events.recv_many(&mut batch, BATCH) => {
                    if received == 0 {
                        break;
                    }
                    for event in batch.drain(..) {
                        self.take(event);
                    }
                }
                () = sleep => {
                    self.server.handle_timeout(sys::now());
                    self.drain();
                }
                _ = wall.tick() => {
                    self.witness.keep(sys::now());
                    self.input(Input::Wall(unix()));
                }
                _ = report.tick() => self.report(),
            }
        }
        // The last answers of the disk have nobody to be told to; what matters is that it is done.
        events.close();
        if tokio::task::spawn_blocking(move || self.storage.finish()).await.is_err() {
            tracing::error!("waiting for the disk failed");
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Opened { conn, from, writer } => {
                self.writers.insert(conn, writer);
                self.input(Input::Opened { conn, from });
            }
            Event::Received { conn, bytes } => self.input(Input::Received { conn, bytes }),
            Event::Flushed { conn, bytes } => self.input(Input::Flushed { conn, bytes }),
            Event::Closed { conn } => {
                self.writers.remove(&conn);
                self.input(Input::Closed { conn });
            }
            Event::Stored(outcomes) => {
                for (ticket, outcome) in outcomes {
                    self.input(Input::Stored { ticket, outcome });
                }
            }
            Event::LinkOpened(dial) => self.link_input(dial, Input::LinkOpened { link: dial.link }),
            Event::LinkReceived { dial, bytes } => {
                self.link_input(dial, Input::LinkReceived { link: dial.link, bytes })
            }
            Event::LinkClosed { dial, why } => self.link_input(dial, Input::LinkClosed { link: dial.link, why }),
        }
    }

    /// The machine takes what comes for the dial before, which it has given up, for news of the one under way.
    fn link_input(&mut self, dial: Dial, input: Input) {
        if self.dialler.is_current(dial) {
            self.input(input);
        }
    }

    fn input(&mut self, input: Input) {
        if let Err(discard) = self.server.handle_input(sys::now(), input) {
            tracing::debug!(%discard, "input of no use");
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Write { conn, bytes } => {
                    if let Some(writer) = self.writers.get(&conn) {
                        // A writer that is gone has its end reported already.
                        let _ = writer.send(Written::Bytes(bytes));
                    }
                }
                Output::Close { conn } => {
                    if let Some(writer) = self.writers.remove(&conn) {
                        let _ = writer.send(Written::End);
                    }
                }
                Output::Store { ticket, change } => self.storage.store(ticket, change),
                Output::Witness { network, head } => self.witness.note(network, head, sys::now()),
                Output::Dial { link, addresses } => self.dialler.dial(link, addresses),
                Output::LinkWrite { link, bytes } => self.dialler.write(link, bytes),
                Output::LinkClose { link } => self.dialler.close(link),
            }
        }
    }

    fn report(&self) {
        let status = self.server.status();
        tracing::debug!(
            connections = status.connections,
            networks = status.networks,
            mirrored = status.mirrored,
            links = status.links,
            held_mail = status.held_mail,
            discards = ?self.server.counters(),
            "status"
        );
    }
}

/// Sleeps until a moment of the boot clock; for ever where there is none.
pub(crate) async fn until(deadline: Option<ginnel_time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep(deadline.saturating_duration_since(sys::now())).await,
        None => std::future::pending().await,
    }
}

/// The wall clock in Unix seconds; 0 before 1970.
pub(crate) fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How often the machines learn what the wall clock says, and the memory that the server runs.
pub(crate) const TELL_WALL: Duration = Duration::from_secs(10);
const REPORT: Duration = Duration::from_secs(300);
const BATCH: usize = 64;
