//! The system calls that the standard library does not offer. Safe at this file's edge.
#![expect(unsafe_code, reason = "namespaces, TAP devices and parent-death signals have no safe interface")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// Moves the calling thread into the network namespace behind `namespace`.
pub(crate) fn enter_network_namespace(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns reads no memory; the descriptor is borrowed, hence open, for the whole call.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Creates the TAP device `name` in the calling thread's network namespace, non-blocking; each frame follows a virtio
/// header of [`VIRTIO_HEADER`] bytes.
pub(crate) fn open_tap(name: &str) -> io::Result<File> {
    let device = File::options().read(true).write(true).open("/dev/net/tun")?;
    let name = CString::new(name)?;
    if name.as_bytes().len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface name longer than 15 bytes"));
    }
    // SAFETY: `ifreq` is a plain C structure for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    // SAFETY: F_SETFL takes an integer and touches no memory of ours.
    check(unsafe { libc::fcntl(device.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    Ok(device)
}

/// Bytes before each frame of a TAP device (`struct virtio_net_hdr`).
pub(crate) const VIRTIO_HEADER: usize = 10;

/// Which frames the kernel may hand to a TAP device's reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frames {
    /// Whole ones of at most the MTU, as a wire has them.
    Wire,
    /// Also trains of segments in one frame, and frames whose checksum is yet to be made.
    Trains,
}

/// Says which frames the reader of `tap` is ready for.
pub(crate) fn set_frames(tap: &File, frames: Frames) -> io::Result<()> {
    let offload = |flags: libc::c_uint| {
        // SAFETY: TUNSETOFFLOAD takes an integer and touches no memory of ours.
        check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) }).map(drop)
    };
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    match frames {
        Frames::Wire => offload(0),
        // Kernels before 6.2 know trains of TCP only.
        Frames::Trains => offload(tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6).or_else(|_| offload(tcp)),
    }
}

/// Waits until one of `descriptors` is readable or `timeout` has passed, with the kernel's finest timer.
pub(crate) fn wait_readable(descriptors: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let mut polled: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|descriptor| libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    let limit = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().min(3600).cast_signed(),
        tv_nsec: i64::from(timeout.subsec_nanos()),
    });
    let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let count = libc::nfds_t::try_from(polled.len()).map_err(io::Error::other)?;
    // SAFETY: the array holds `count` entries, `limit` is null or points to a live timespec, no signal mask is given.
    let answer = unsafe { libc::ppoll(polled.as_mut_ptr(), count, limit, std::ptr::null()) };
    match check(answer) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        other => other.map(drop),
    }
}

/// Asks that this thread's timers fire within a microsecond instead of the usual 50.
pub(crate) fn sharpen_timers() -> io::Result<()> {
    // SAFETY: PR_SET_TIMERSLACK takes an integer and touches no memory.
    check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000 as libc::c_ulong) }).map(drop)
}

/// Sends `signal` to the process `pid`.
pub(crate) fn send_signal(pid: u32, signal: i32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: kill touches no memory.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Makes the calling thread's network namespace forget every tracked connection, as a NAT that restarts does.
pub(crate) fn flush_connection_tracking() -> io::Result<()> {
    // SAFETY: socket touches no memory.
    let socket =
        check(unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_NETFILTER) })?;
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut answer = [0_u8; 64];
    // SAFETY: both buffers are live and their lengths are given; an unbound netlink socket sends to the kernel.
    let received = unsafe {
        check_length(libc::send(socket.as_raw_fd(), FLUSH_REQUEST.as_ptr().cast(), FLUSH_REQUEST.len(), 0))?;
        check_length(libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0))?
    };
    // An acknowledgement is a header of 16 bytes and a negated error number.
    match answer.get(16..20).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes) {
        Some(0) if received >= 20 => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Whether this process runs with root's effective user id.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid cannot fail and touches no memory.
    unsafe { libc::geteuid() == 0 }
}

/// Makes the future child of `command` run inside `namespace`.
pub(crate) fn run_inside(command: &mut Command, namespace: OwnedFd) {
    // SAFETY: between fork and exec the closure makes one system call, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || enter_network_namespace(namespace.as_fd()));
    }
}

/// Makes the future child of `command` receive SIGKILL when the thread that spawns it ends.
pub(crate) fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: between fork and exec the closure makes system calls only, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong))?;
            // The parent may have died before the request took effect.
            if libc::getppid().cast_unsigned() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

fn check_length(answer: isize) -> io::Result<usize> {
    usize::try_from(answer).map_err(|_| io::Error::last_os_error())
}

fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// A netlink header (length, type "delete" of the connection-tracking subsystem, flags request and acknowledge) and an
/// empty netfilter header; without attributes it deletes everything.
const FLUSH_REQUEST: [u8; 20] = {
    let mut request = [0; 20];
    let length = 20_u32.to_ne_bytes();
    let mut at = 0;
    while at < 4 {
        request[at] = length[at];
        at += 1;
    }
    let kind = (1_u16 << 8 | 2).to_ne_bytes();
    request[4] = kind[0];
    request[5] = kind[1];
    let flags = 5_u16.to_ne_bytes();
    request[6] = flags[0];
    request[7] = flags[1];
    request
};
