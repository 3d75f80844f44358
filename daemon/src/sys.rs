//! System calls that neither the standard library nor a crate in use offers; safe at this file's edge.
#![expect(unsafe_code, reason = "system calls without a safe wrapper at hand")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use ginnel_time::Instant;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Time since boot, suspend included.
pub(crate) fn boot_clock() -> Instant {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec for the kernel to write to.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(result, 0, "Linux 2.6.39 and later have CLOCK_BOOTTIME");
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Instant::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Keeps this process's memory out of core files and from other processes of its user: it holds private keys.
pub(crate) fn protect_memory() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` is a valid rlimit that the kernel reads.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) })?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }).map(|_| ())
}

/// Sets a socket option that is an `int`.
pub(crate) fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the option's value is a live i32 and its length is given; the descriptor is open while borrowed.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            libc::socklen_t::try_from(size_of::<i32>()).expect("four fits"),
        )
    };
    check(result).map(|_| ())
}

/// The supplementary groups that the process at the other end of a Unix socket had when it connected.
pub(crate) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; GROUPS];
    let mut length = libc::socklen_t::try_from(GROUPS * size_of::<libc::gid_t>()).expect("some KiB fit");
    // SAFETY: `groups` has room for `length` bytes and the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    check(result)?;
    groups.truncate(usize::try_from(length).unwrap_or(0) / size_of::<libc::gid_t>());
    Ok(groups)
}

/// Waits until one of `polled` is ready or `timeout` is over; without a timeout until one is ready.
pub(crate) fn poll(polled: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map_or(-1, |timeout| i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX));
    let count = libc::nfds_t::try_from(polled.len()).expect("descriptors fit");
    // SAFETY: `polled` is a valid slice of `count` pollfd, which the kernel writes `revents` of.
    match check(unsafe { libc::poll(polled.as_mut_ptr(), count, timeout) }) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            polled.iter_mut().for_each(|entry| entry.revents = 0);
            Ok(())
        }
        result => result.map(|_| ()),
    }
}

/// An eventfd: wakes a thread that polls it.
#[derive(Debug)]
pub(crate) struct Event(File);

impl Event {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let fd = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        Ok(Self(adopt(fd)))
    }

    /// Makes the event readable until it is cleared.
    pub(crate) fn set(&self) {
        // The one error is a full counter: the event is set then already.
        let _ = (&self.0).write(&1_u64.to_ne_bytes());
    }

    pub(crate) fn clear(&self) {
        // The one error is that it was not set.
        let _ = (&self.0).read(&mut [0; 8]);
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A timer on the boot clock: after a suspend it is due at once, where a timeout of `poll` would sleep on.
#[derive(Debug)]
pub(crate) struct Timer {
    file: File,
    deadline: Option<Instant>,
}

impl Timer {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        let fd = check(unsafe { libc::timerfd_create(libc::CLOCK_BOOTTIME, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) })?;
        Ok(Self { file: adopt(fd), deadline: None })
    }

    /// Makes the timer readable from `deadline` on; without one, never.
    pub(crate) fn set(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        if self.deadline == deadline {
            return Ok(());
        }
        // A value of zero would disarm the timer.
        let nanos = deadline.map_or(0, |deadline| deadline.as_nanos().max(1));
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(nanos / 1_000_000_000).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::try_from(nanos % 1_000_000_000).expect("below a second"),
        };
        let spec = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // SAFETY: `spec` is a valid itimerspec, and the old value is not asked for.
        let result =
            unsafe { libc::timerfd_settime(self.fd(), libc::TFD_TIMER_ABSTIME, &raw const spec, std::ptr::null_mut()) };
        check(result)?;
        self.deadline = deadline;
        Ok(())
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// A timer that a task can wait for; to be made within a tokio runtime.
pub(crate) fn async_timer() -> io::Result<AsyncFd<Timer>> {
    let timer = Timer::new()?;
    // SAFETY: the timer owns its descriptor, which stays the same and open until the timer is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?)
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.fd()
    }
}

/// The open descriptor of a TUN interface, as a file that can be read and written without the crate's extra copies.
pub(crate) fn tun_file(device: tun::Device) -> File {
    adopt(device.into_raw_fd())
}

/// The control messages of the next datagram, whose contents are thrown away.
#[cfg(test)]
pub(crate) fn receive_control(socket: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut control = vec![0_u8; 256];
    // SAFETY: all zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = control.len();
    // SAFETY: the message names a buffer of that length for control messages and none for contents.
    check(i32::try_from(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) }).unwrap_or(-1))?;
    control.truncate(message.msg_controllen);
    Ok(control)
}

fn adopt(fd: RawFd) -> File {
    // SAFETY: every caller gives a descriptor that it has just opened and that nobody else closes.
    File::from(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Groups that a caller can have and still be understood; a caller with more counts as one with none.
const GROUPS: usize = 1024;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_boot_clock_goes_forward() {
        let first = boot_clock();
        assert!(first > Instant::ZERO && boot_clock() >= first);
    }

    #[test]
    fn a_process_that_holds_keys_leaves_no_core_file() {
        protect_memory().unwrap();
        // SAFETY: takes no pointers.
        assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }, 0);
        let limits = std::fs::read_to_string("/proc/thread-self/limits").unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }

    #[test]
    fn an_event_is_readable_from_set_to_clear() {
        let event = Event::new().unwrap();
        assert!(!readable(event.fd(), Duration::ZERO));
        event.set();
        event.set();
        assert!(readable(event.fd(), Duration::ZERO));
        event.clear();
        assert!(!readable(event.fd(), Duration::ZERO));
    }

    #[test]
    fn a_timer_is_readable_from_its_deadline_until_it_is_moved() {
        let mut timer = Timer::new().unwrap();
        timer.set(Some(Instant::ZERO)).unwrap();
        assert!(readable(timer.fd(), Duration::from_secs(5)));
        timer.set(Some(boot_clock() + Duration::from_secs(3600))).unwrap();
        assert!(!readable(timer.fd(), Duration::ZERO));
        timer.set(Some(boot_clock() + Duration::from_millis(5))).unwrap();
        assert!(readable(timer.fd(), Duration::from_secs(5)));
        timer.set(None).unwrap();
        assert!(!readable(timer.fd(), Duration::ZERO));
    }

    #[test]
    fn the_groups_of_a_peer_are_those_of_its_process() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
        let mut expected: Vec<u32> = line.split_whitespace().map(|group| group.parse().unwrap()).collect();
        let mut groups = peer_groups(ours.as_fd()).unwrap();
        expected.sort_unstable();
        groups.sort_unstable();
        assert_eq!(groups, expected);
    }

    fn readable(fd: RawFd, timeout: Duration) -> bool {
        let mut polled = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
        poll(&mut polled, Some(timeout)).unwrap();
        polled[0].revents & libc::POLLIN != 0
    }
}
