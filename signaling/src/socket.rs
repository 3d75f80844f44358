//! UDP sockets, bound with errors that say what to do.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::anyhow;
use socket2::{Domain, Protocol, Socket, Type};

/// Binds the UDP socket that an option asks for. `[::]` takes IPv4 too, and means `0.0.0.0` on a machine without IPv6.
pub(crate) fn bind_listener(address: SocketAddr, option: &str) -> anyhow::Result<UdpSocket> {
    let bound = match bind(address) {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && lacks_ipv6(&error) => {
            bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        bound => bound,
    };
    bound.map_err(|error| explain(&error, address, option))
}

/// Binds a UDP socket; an IPv6 wildcard takes IPv4 too.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // As much as the system allows: bursts of relayed packets arrive while the one task is busy.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Whether a socket can be bound to this very address, which is not so behind a cloud's one-to-one NAT.
pub(crate) fn is_local(address: IpAddr) -> bool {
    bind(SocketAddr::new(address, 0)).is_ok()
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn explain(error: &io::Error, address: SocketAddr, option: &str) -> anyhow::Error {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => anyhow!(
            "UDP port {} is in use, maybe by another ginnel-signal; stop it, or choose another address with {option}",
            address.port()
        ),
        Some(libc::EADDRNOTAVAIL) => {
            anyhow!("{} is not an address of this machine; choose another with {option}", address.ip())
        }
        Some(libc::EACCES) => {
            anyhow!("no permission to use UDP port {}; choose one from 1024 on with {option}", address.port())
        }
        Some(_) | None => anyhow!("cannot listen on UDP {address} ({option}): {error}"),
    }
}

const BUFFER: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_ports_are_explained() {
        let first = bind_listener("127.0.0.1:0".parse().unwrap(), "--listen").unwrap();
        let error = bind_listener(first.local_addr().unwrap(), "--listen").unwrap_err().to_string();
        assert!(error.contains("in use") && error.contains("--listen"), "{error}");
    }

    #[test]
    fn foreign_addresses_are_explained() {
        assert!(!is_local("192.0.2.1".parse().unwrap()));
        let error = bind_listener("192.0.2.1:0".parse().unwrap(), "--stun").unwrap_err().to_string();
        assert!(error.contains("not an address of this machine") && error.contains("--stun"), "{error}");
    }
}
