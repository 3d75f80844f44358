//! The system calls that the standard library does not make: the boot clock, the list of interface addresses, and what
//! kind of folder a folder is.
#![expect(unsafe_code, reason = "system calls")]

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::ptr;

use ginnel_time::Instant;

/// The boot clock: it counts suspend and never jumps.
pub(crate) fn now() -> Instant {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for one timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(result, 0, "Linux 2.6.39 and later have CLOCK_BOOTTIME");
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    Instant::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    user() == 0
}

/// The user that this process acts for.
pub(crate) fn user() -> u32 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether a folder is in memory, is this user's, and is written into by nobody else.
pub(crate) fn is_private_memory(folder: &Path) -> bool {
    let private =
        |metadata: std::fs::Metadata| metadata.is_dir() && metadata.uid() == user() && metadata.mode() & 0o022 == 0;
    folder.symlink_metadata().is_ok_and(private) && is_in_memory(folder)
}

/// Whether a path is on a file system that is memory, and of which no disk holds anything.
pub(crate) fn is_in_memory(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    let mut about = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `path` ends with a zero, and `about` is a valid place for one statfs.
    if unsafe { libc::statfs(path.as_ptr(), about.as_mut_ptr()) } != 0 {
        return false;
    }
    // SAFETY: the call succeeded and has filled it.
    let about = unsafe { about.assume_init() };
    about.f_type == libc::TMPFS_MAGIC
}

/// Every address of every interface that is up.
pub(crate) fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    let mut first: *mut libc::ifaddrs = ptr::null_mut();
    // SAFETY: `first` is a valid place for one pointer.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut addresses = Vec::new();
    let mut next = first;
    while !next.is_null() {
        // SAFETY: the list came from getifaddrs and is freed only below; its entries are valid until then.
        let entry = unsafe { &*next };
        let up = u32::try_from(libc::IFF_UP).is_ok_and(|flag| entry.ifa_flags & flag != 0);
        if up && !entry.ifa_addr.is_null() {
            // SAFETY: a non-null address of an entry is a socket address of the family that it names.
            addresses.extend(unsafe { ip_address(entry.ifa_addr) });
        }
        next = entry.ifa_next;
    }
    // SAFETY: `first` came from getifaddrs and is used no more.
    unsafe { libc::freeifaddrs(first) };
    Ok(addresses)
}

/// # Safety
/// `address` points to a socket address that is as long as its family says.
unsafe fn ip_address(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: every socket address starts with its family.
    match i32::from(unsafe { (*address).sa_family }) {
        libc::AF_INET => {
            // SAFETY: the family says that this is a sockaddr_in.
            let address = unsafe { ptr::read_unaligned(address.cast::<libc::sockaddr_in>()) };
            Some(IpAddr::V4(Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes())))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is a sockaddr_in6.
            let address = unsafe { ptr::read_unaligned(address.cast::<libc::sockaddr_in6>()) };
            Some(IpAddr::V6(Ipv6Addr::from(address.sin6_addr.s6_addr)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_clock_does_not_go_back() {
        let first = now();
        assert!(first > Instant::ZERO);
        assert!(now() >= first);
    }

    #[test]
    fn loopback_is_among_the_interface_addresses() {
        assert!(interface_addresses().unwrap().contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
}
