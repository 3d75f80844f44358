//! The data thread: it owns the TUN, the UDP sockets and [`ginnel_forward::Forward`], and carries packets both ways.
//!
//! The rest of the daemon talks to it by [`DataHandle`], a bounded queue of commands and an eventfd that wakes the
//! thread, and hears from it by a bounded channel of [`DataEvent`]s. The thread never waits for the daemon: while the
//! channel is full, facts stay where they are and are offered again, and only raw datagrams are lost (by forward's own
//! bound). The daemon may wait for the thread, which empties the queue of commands every round.
//!
//! | queue | bound | when full |
//! |---|---|---|
//! | commands | [`COMMANDS`] | the sender waits |
//! | events | [`EVENTS`] | facts wait in the data plane |
//! | reports of failed sends | 64 | oldest dropped |

mod thread;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use anyhow::Context as _;
use ginnel_forward::{Command, Config, Counters, Event, PeerCounters, PeerId};
use ginnel_path::{Path, SocketId};
use tokio::sync::{mpsc, oneshot};

use crate::sys;
use crate::udp::{SendFailure, Udp};

/// What the data thread starts with.
#[derive(Debug)]
pub struct Options {
    /// Spreads forward's timers.
    pub seed: [u8; 32],
    /// Forward's times and the TUN's MTU.
    pub forward: Config,
    /// The TUN, non-blocking, where it is open already.
    pub tun: Option<File>,
}

/// An order to the data thread.
pub enum DataCommand {
    /// For forward.
    Forward(Command),
    /// A socket that is bound; one of the same number is closed.
    AddSocket {
        /// Its number.
        id: SocketId,
        /// The socket.
        socket: Udp,
    },
    /// Closes a socket; an unknown one is fine.
    RemoveSocket {
        /// Its number.
        id: SocketId,
    },
    /// Takes another TUN, or none.
    SetTun(Option<File>),
    /// Asks for the counters.
    Report {
        /// The peers whose traffic is wanted.
        peers: Vec<PeerId>,
        /// Where the answer goes.
        answer: oneshot::Sender<Report>,
    },
}

impl fmt::Debug for DataCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward(_) => f.write_str("Forward(..)"),
            Self::AddSocket { id, socket } => write!(f, "AddSocket({id:?}, {})", socket.local()),
            Self::RemoveSocket { id } => write!(f, "RemoveSocket({id:?})"),
            Self::SetTun(_) => f.write_str("SetTun(..)"),
            Self::Report { .. } => f.write_str("Report(..)"),
        }
    }
}

/// What the data thread tells.
#[derive(Debug)]
pub enum DataEvent {
    /// From forward.
    Forward(Event),
    /// A datagram could not be sent; told at most once a second for each path.
    SendFailed {
        /// The path.
        path: Path,
        /// Why.
        failure: SendFailure,
    },
    /// A socket went on failing and was closed.
    SocketLost {
        /// Its number.
        id: SocketId,
        /// The kernel's last word.
        error: String,
    },
    /// The TUN is gone, as when somebody has deleted the interface.
    TunLost {
        /// The kernel's last word.
        error: String,
    },
}

/// What was counted since the start.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By forward.
    pub forward: Counters,
    /// By the thread itself.
    pub shell: ShellCounters,
    /// The traffic of the peers asked for that exist.
    pub peers: BTreeMap<PeerId, PeerCounters>,
}

/// What the thread lost at the kernel's edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShellCounters {
    /// Rounds of the thread's loop; an idle thread makes few.
    pub rounds: u64,
    /// Datagrams not sent because a socket's queue stayed full.
    pub send_full: u64,
    /// Datagrams not sent for another reason.
    pub send_failed: u64,
    /// Datagrams for a socket that is not there.
    pub send_unknown_socket: u64,
    /// Errors on receiving.
    pub receive_failed: u64,
    /// Packets that the TUN did not take.
    pub tun_write_failed: u64,
    /// Packets from the TUN that were longer than its MTU.
    pub tun_too_long: u64,
}

/// The running thread. Dropping it stops and joins it.
#[derive(Debug)]
pub struct DataThread {
    handle: DataHandle,
    thread: Option<JoinHandle<()>>,
}

/// A way to command the data thread.
#[derive(Clone, Debug)]
pub struct DataHandle {
    commands: SyncSender<Order>,
    wake: Arc<Wake>,
}

/// The data thread has ended; nothing more is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the data thread has ended")]
pub struct Ended;

impl DataThread {
    /// Starts the thread, and gives the channel that it tells by. The channel ends when the thread does.
    ///
    /// # Errors
    /// When the kernel gives no thread or no descriptors.
    pub fn spawn(options: Options) -> anyhow::Result<(Self, mpsc::Receiver<DataEvent>)> {
        let wake = Arc::new(Wake::new().context("open an eventfd")?);
        let (commands, orders) = sync_channel(COMMANDS);
        let (sender, events) = mpsc::channel(EVENTS);
        let plane = thread::Plane::new(options, orders, sender, Arc::clone(&wake)).context("open a timer")?;
        let thread = std::thread::Builder::new()
            .name("ginnel-data".to_owned())
            .spawn(move || plane.run())
            .context("start the data thread")?;
        Ok((Self { handle: DataHandle { commands, wake }, thread: Some(thread) }, events))
    }

    /// A way to command the thread.
    pub const fn handle(&self) -> &DataHandle {
        &self.handle
    }
}

impl Drop for DataThread {
    fn drop(&mut self) {
        // An error means that the thread has ended already.
        let _ = self.handle.order(Order::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the data thread has panicked");
        }
    }
}

impl DataHandle {
    /// Gives an order; orders are carried out in turn. Waits while the queue is full, which the thread empties every
    /// round.
    ///
    /// # Errors
    /// [`Ended`].
    pub fn send(&self, command: DataCommand) -> Result<(), Ended> {
        self.order(Order::Command(command))
    }

    /// Asks for the counters, and for the traffic of `peers`.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn report(&self, peers: Vec<PeerId>) -> Result<Report, Ended> {
        let (answer, report) = oneshot::channel();
        self.send(DataCommand::Report { peers, answer })?;
        report.await.map_err(|_| Ended)
    }

    fn order(&self, order: Order) -> Result<(), Ended> {
        match self.commands.try_send(order) {
            Ok(()) => {}
            Err(TrySendError::Full(order)) => {
                self.wake.wake();
                self.commands.send(order).map_err(|_| Ended)?;
            }
            Err(TrySendError::Disconnected(_)) => return Err(Ended),
        }
        self.wake.wake();
        Ok(())
    }
}

/// What stands in the queue.
#[derive(Debug)]
enum Order {
    Command(DataCommand),
    Stop,
}

/// An eventfd that is written once for any number of orders until the thread has seen it.
#[derive(Debug)]
struct Wake {
    event: sys::Event,
    pending: AtomicBool,
}

impl Wake {
    fn new() -> io::Result<Self> {
        Ok(Self { event: sys::Event::new()?, pending: AtomicBool::new(false) })
    }

    fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            self.event.set();
        }
    }

    /// To be called before the queue is emptied, so that an order that comes meanwhile wakes again.
    fn clear(&self) {
        self.event.clear();
        self.pending.store(false, Ordering::Release);
    }
}

/// Orders that wait for the thread.
pub const COMMANDS: usize = 4096;
/// Events that wait for the daemon.
pub const EVENTS: usize = 1024;

#[cfg(test)]
mod tests;
