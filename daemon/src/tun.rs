//! The TUN interface: where IP packets enter and leave the kernel.
//!
//! The interface lives as long as [`Tun`]; the kernel removes it, its addresses and its routes when it is closed.

use std::fs::File;
use std::io;
use std::net::IpAddr;

use anyhow::{Context as _, bail};
use ginnel_node::TunRoute;

use crate::netlink::Netlink;
use crate::sys;

/// An open TUN interface.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    index: u32,
}

impl Tun {
    /// Creates the interface `name` with an MTU in bytes, and sets it up without addresses.
    ///
    /// # Errors
    /// Names the cause and the remedy: no TUN driver, no right to it, a name that is taken or too long.
    pub async fn open(name: &str, mtu: u16, netlink: &Netlink) -> anyhow::Result<Self> {
        if name.is_empty()
            || name.len() > LONGEST_NAME
            || name.contains(['/', '\0'])
            || name.contains(char::is_whitespace)
        {
            bail!("{name:?} cannot name an interface: a name has 1 to {LONGEST_NAME} bytes, no slash and no space");
        }
        let mut configuration = ::tun::Configuration::default();
        configuration.tun_name(name).mtu(mtu);
        let device = ::tun::create(&configuration).map_err(|error| explain(name, error))?;
        device.set_nonblock().context("make the TUN interface non-blocking")?;
        let file = sys::tun_file(device);
        let index = netlink.link_index(name).await?;
        netlink.set_link_up(index).await.with_context(|| format!("set the interface {name} up"))?;
        Ok(Self { file, name: name.to_owned(), index })
    }

    /// The descriptor that packets are read from and written to, non-blocking, one packet at a time.
    ///
    /// # Errors
    /// When the process has no free descriptor.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Name of the interface.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Index of the interface.
    pub const fn index(&self) -> u32 {
        self.index
    }
}

/// The addresses and routes that an interface has from us, moved to a wanted set one difference at a time.
#[derive(Debug, Default)]
pub struct Applied {
    addresses: Vec<(IpAddr, u8)>,
    routes: Vec<TunRoute>,
}

/// An address or a route that is not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unset {
    /// This machine's address that it is or goes out from, which tells whose it is.
    pub own: Option<IpAddr>,
    /// What is not set and why, in words.
    pub text: String,
}

impl Applied {
    /// Brings the interface to exactly `addresses` and `routes`.
    ///
    /// Addresses come before routes and go after them, so that a route's source address exists. One that fails does not
    /// keep the others from being tried, and is tried again by the next call.
    ///
    /// # Errors
    /// Each address or route that could not be set.
    pub async fn apply(
        &mut self,
        netlink: &Netlink,
        index: u32,
        addresses: &[(IpAddr, u8)],
        routes: &[TunRoute],
    ) -> Result<(), Vec<Unset>> {
        let mut failures = Vec::new();
        let mut failed = |own: Option<IpAddr>, text: String| failures.push(Unset { own, text });
        for gone in missing(&self.routes, routes) {
            let (address, prefix) = (gone.destination, gone.prefix);
            match netlink.delete_route(index, address, prefix).await {
                Ok(()) => self.routes.retain(|route| *route != gone),
                Err(error) => failed(gone.source, format!("remove the route {address}/{prefix}: {error:#}")),
            }
        }
        for (address, prefix) in missing(&self.addresses, addresses) {
            match netlink.delete_address(index, address, prefix).await {
                Ok(()) => self.addresses.retain(|held| *held != (address, prefix)),
                Err(error) => failed(Some(address), format!("remove the address {address}/{prefix}: {error:#}")),
            }
        }
        for (address, prefix) in missing(addresses, &self.addresses) {
            match netlink.add_address(index, address, prefix).await {
                Ok(()) => self.addresses.push((address, prefix)),
                Err(error) => failed(Some(address), format!("add the address {address}/{prefix}: {error:#}")),
            }
        }
        for route in missing(routes, &self.routes) {
            let (address, prefix) = (route.destination, route.prefix);
            match netlink.add_route(index, route).await {
                Ok(()) => self.routes.push(route),
                Err(error) => failed(route.source, format!("add the route {address}/{prefix}: {error:#}")),
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }
}

/// What `from` has and `other` has not.
fn missing<T: Copy + PartialEq>(from: &[T], other: &[T]) -> Vec<T> {
    from.iter().filter(|entry| !other.contains(entry)).copied().collect()
}

fn explain(name: &str, error: ::tun::Error) -> anyhow::Error {
    let cause = if let ::tun::Error::Io(error) = &error { error.raw_os_error() } else { None };
    let remedy = match cause {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            "there is no /dev/net/tun: load the driver with `modprobe tun`; in a container, give it --device /dev/net/tun"
        }
        Some(libc::EACCES) => {
            "/dev/net/tun may not be opened: run as root, or let the service have it with DeviceAllow=/dev/net/tun rw"
        }
        Some(libc::EPERM) => {
            "the right CAP_NET_ADMIN is missing: run as root, set AmbientCapabilities=CAP_NET_ADMIN in the service, or \
             give the container --cap-add NET_ADMIN"
        }
        Some(libc::ENOTTY) => {
            "/dev/net/tun is not the TUN driver: make it anew with `rm /dev/net/tun && mknod /dev/net/tun c 10 200`"
        }
        Some(libc::EBUSY) => {
            "another program holds an interface of that name: stop it, or choose another name with --interface"
        }
        Some(libc::EINVAL) => {
            "an interface of that name exists and is of another kind: choose another with --interface"
        }
        _ => "the kernel refused it",
    };
    anyhow::Error::new(error).context(format!("cannot make the TUN interface {name}: {remedy}"))
}

/// IFNAMSIZ without its end mark.
const LONGEST_NAME: usize = 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_remedy() {
        for (code, remedy) in
            [(libc::ENOENT, "modprobe tun"), (libc::EPERM, "CAP_NET_ADMIN"), (libc::EBUSY, "--interface")]
        {
            let error = explain("ginnel0", ::tun::Error::Io(io::Error::from_raw_os_error(code)));
            assert!(error.to_string().contains(remedy), "{error}");
        }
    }

    #[test]
    fn only_differences_are_applied() {
        let of = |last: u8| (IpAddr::from([10, 0, 0, last]), 32);
        assert_eq!(missing(&[of(1), of(2)], &[of(2), of(3)]), [of(1)]);
    }
}
