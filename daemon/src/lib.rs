//! The I/O shell of `ginneld`: the files, sockets, interfaces and threads that the pure machines are driven by.
//!
//! | module | what it owns |
//! |---|---|
//! | [`api`] | the control socket: who calls, what they may do, and the way of a request to the machines and back |
//! | [`clock`] | the boot clock and the wall clock |
//! | [`config`] | the configuration file |
//! | [`control`] | the control task: drives the node and carries out what it asks for |
//! | [`data`] | the data thread: TUN, UDP sockets and the machine that carries packets between them |
//! | [`hosts`] | the names of peers in the machine's hosts file |
//! | [`netlink`] | addresses, routes and links of the kernel |
//! | [`quic`] | the connection to a signaling server |
//! | [`record`] | a recording of what goes into the deciding machine, on request |
//! | [`state`] | the state folder |
//! | [`translate`] | the control socket's documents from the node's words |
//! | [`tun`] | the TUN interface |
//! | [`udp`] | UDP sockets |

pub mod api;
pub mod clock;
pub mod config;
pub mod control;
pub mod data;
pub mod hosts;
pub mod netlink;
pub mod quic;
pub mod record;
pub mod state;
mod sys;
pub mod translate;
pub mod tun;
pub mod udp;

/// Keeps the process's memory, which holds private keys, out of core files and from other processes of its user.
///
/// # Errors
/// When the kernel refuses, which it has no reason to.
pub fn protect_memory() -> std::io::Result<()> {
    sys::protect_memory()
}
