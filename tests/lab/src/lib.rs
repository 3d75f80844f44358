//! A laboratory of real networks: kernel NATs, routers and slow lines in network namespaces of one machine.
//!
//! ```text
//! host ─ NAT ─ r1 ═10 ms═ r2 ─ r3 ─ core ─ r3 ─ r2 ═10 ms═ r1 ─ NAT ─ host
//! ```
//! [`Lab`] builds such an internet from [`Site`]s and takes it down when dropped. Public sides have documentation
//! addresses (203.0.113.0/24, 198.51.100.0/24, 192.0.2.0/24, 2001:db8::/32). Seven routers and 20 ms one way lie
//! between any two sites; nothing lies between hosts behind one NAT. [`NatKind`] lists the NATs; [`verify`] has
//! coturn's own discovery confirm what each one does; [`cases`] checks the laboratory as a whole.
//!
//! ```no_run
//! use std::time::Duration;
//! use ginnel_lab::{Lab, NatKind};
//!
//! let lab = Lab::pair(NatKind::PortRestricted, NatKind::Symmetric)?;
//! let hub = lab.host("hub")?.ipv4().to_string();
//! let pinged = lab.host("a")?.run(&["ping", "-c1", &hub], Duration::from_secs(5))?;
//! assert!(pinged.status.success());
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! # Who may use it
//! Root on Linux, with the tools that [`setup`] lists. A program that builds laboratories calls [`dispatch_hidden`]
//! first in its `main`, because the [`delay`] box is the same program run again; a test harness, which cannot, names
//! another program by [`HELPER_VARIABLE`] or [`lab::Builder::helper`].
//!
//! # What is left behind
//! Nothing. Namespaces are named `gnl-<pid>-<n>-…` and removed on drop, after a panic, and by a guardian process when
//! this one is killed. [`Lab::sweep_stale`] removes what a machine that lost power or both processes kept.

mod blueprint;
pub mod cases;
pub mod coturn;
pub mod counters;
pub mod delay;
mod files;
pub mod host;
pub mod lab;
pub mod measure;
pub mod namespace;
pub mod nat;
mod numbers;
pub mod process;
pub mod scenario;
pub mod setup;
pub mod site;
mod sys;
pub mod verify;

pub use counters::{Count, Direction, Meter, Traffic};
pub use delay::Shape;
pub use host::Host;
pub use lab::Lab;
pub use nat::NatKind;
pub use process::{Output, Process};
pub use site::{Family, Lans, Site, UdpMemory};

/// Names, in the environment, the program that serves as delay box.
pub const HELPER_VARIABLE: &str = "GINNEL_LAB_HELPER";

/// Names, in the environment, a directory in which laboratories leave their files, such as what programs wrote, for a
/// look after a failure. Without it the files go with their laboratory.
pub const KEEP_VARIABLE: &str = "GINNEL_LAB_KEEP";

/// Runs the hidden sub-command that this process was started for, if it was, and then does not return.
pub fn dispatch_hidden() {
    let mut arguments = std::env::args().skip(1);
    let outcome = match arguments.next().as_deref() {
        Some(delay::COMMAND) => delay::run_delay_box(),
        Some(cases::VICTIM) => cases::run_victim(&arguments.next().unwrap_or_default()),
        _ => return,
    };
    if let Err(error) = &outcome {
        use std::io::Write;
        // Without standard error there is nobody to tell.
        drop(writeln!(std::io::stderr(), "{error:#}"));
    }
    std::process::exit(i32::from(outcome.is_err()));
}
