//! UDP sockets of the data plane: one address family each, never fragmenting, with a time to live per packet.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use anyhow::Context as _;
use socket2::{Domain, MsgHdr, SockAddr, SockRef, Socket, Type};

use crate::sys;

/// A bound, non-blocking UDP socket of one address family.
#[derive(Debug)]
pub struct Udp {
    socket: UdpSocket,
    local: SocketAddr,
}

/// Why a datagram was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendFailure {
    /// The socket's queue, or the interface's, is full. Trying again later helps.
    Full,
    /// The datagram is longer than the interface or the path takes.
    TooLong,
    /// No route, no source address, or the network is down.
    NoRoute,
    /// A local rule, as a firewall, forbids it.
    Forbidden,
    /// Another error of the kernel, by number.
    Other(i32),
}

impl Udp {
    /// Binds a socket to `local`; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// The kernel's, as the port being taken or the address family missing.
    pub fn bind(local: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(local), Type::DGRAM, None)?;
        if local.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        set_buffers(&socket);
        forbid_fragments(&socket, local)?;
        socket.bind(&SockAddr::from(local))?;
        let socket = UdpSocket::from(socket);
        let local = socket.local_addr()?;
        Ok(Self { socket, local })
    }

    /// Where the socket is bound.
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// Receives one datagram into `buffer`; `None` when none waits.
    ///
    /// # Errors
    /// The kernel's; a socket that goes on failing is lost.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
        match self.socket.recv_from(buffer) {
            Ok((length, from)) => Ok(Some((length, plain(from)))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends one datagram to `to`, with `ttl` as its IPv4 time to live or IPv6 hop limit.
    ///
    /// # Errors
    /// [`SendFailure`]; nothing is retried.
    pub fn send(&self, to: SocketAddr, ttl: Option<u8>, contents: &[u8]) -> Result<(), SendFailure> {
        let result = match ttl {
            None => self.socket.send_to(contents, to),
            Some(ttl) => {
                let control = control_message(to, ttl);
                let to = SockAddr::from(to);
                let buffers = [IoSlice::new(contents)];
                let message = MsgHdr::new().with_addr(&to).with_buffers(&buffers).with_control(&control);
                SockRef::from(&self.socket).sendmsg(&message, 0)
            }
        };
        result.map(|_| ()).map_err(|error| SendFailure::of(&error))
    }

    /// The descriptor, for `poll`.
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl SendFailure {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error().unwrap_or(0) {
            libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => Self::Full,
            libc::EMSGSIZE => Self::TooLong,
            libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::ENETDOWN
            | libc::EHOSTDOWN
            | libc::EADDRNOTAVAIL
            | libc::ENODEV
            | libc::EAFNOSUPPORT
            | libc::EINVAL => Self::NoRoute,
            libc::EPERM | libc::EACCES => Self::Forbidden,
            other => Self::Other(other),
        }
    }
}

/// The sockets of a node at rest: one per address family, on one port.
#[derive(Debug)]
pub struct Pair {
    /// IPv4, where the machine has it.
    pub v4: Option<Udp>,
    /// IPv6, where the machine has it.
    pub v6: Option<Udp>,
    /// The port of both, to be kept for the next start.
    pub port: u16,
}

impl Pair {
    /// Binds both families to `wanted`; when that port is taken, or none is wanted, to a random one.
    ///
    /// A machine without one of the families gets the other alone.
    ///
    /// # Errors
    /// When no family can be bound.
    pub fn bind(wanted: Option<u16>) -> anyhow::Result<Self> {
        let mut last = None;
        for attempt in 0..ATTEMPTS {
            let port = match (attempt, wanted) {
                (0, Some(port)) if port != 0 => port,
                _ => random_port()?,
            };
            match Self::bind_to(port) {
                Ok(pair) => return Ok(pair),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("at least one attempt was made")).context("no UDP port can be bound")
    }

    /// Binds both families to exactly `port`.
    ///
    /// # Errors
    /// When the port is taken in either family, or no family can be bound.
    pub fn bind_to(port: u16) -> io::Result<Self> {
        let v4 = Udp::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        let v6 = Udp::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
        match (v4, v6) {
            (Ok(v4), Ok(v6)) => Ok(Self { v4: Some(v4), v6: Some(v6), port }),
            (Ok(v4), Err(error)) if no_family(&error) => Ok(Self { v4: Some(v4), v6: None, port }),
            (Err(error), Ok(v6)) if no_family(&error) => Ok(Self { v4: None, v6: Some(v6), port }),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }
}

/// Binds one socket of the family of `any` to a new random port.
///
/// # Errors
/// When no port can be bound.
pub fn bind_random(any: IpAddr) -> anyhow::Result<Udp> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match Udp::bind(SocketAddr::new(any, random_port()?)) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = Some(error),
        }
    }
    Err(last.expect("at least one attempt was made")).context("no UDP port can be bound")
}

fn no_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}

/// A port below the kernel's ephemeral range, so that no other program's outgoing socket takes it between two starts.
fn random_port() -> anyhow::Result<u16> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("the kernel gives no random bytes: {error}"))?;
    let offset = u32::from_ne_bytes(bytes) % (u32::from(LAST_PORT - FIRST_PORT) + 1);
    Ok(FIRST_PORT + u16::try_from(offset).expect("less than the range of ports"))
}

/// Asks for large queues; with CAP_NET_ADMIN beyond the system's limit, without it up to that limit.
fn set_buffers(socket: &Socket) {
    let bytes = i32::try_from(BUFFER).expect("4 MiB fit");
    if sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes).is_err() {
        // What the kernel grants is enough to work with.
        let _ = socket.set_recv_buffer_size(BUFFER);
    }
    if sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes).is_err() {
        let _ = socket.set_send_buffer_size(BUFFER);
    }
}

/// Sets "don't fragment" and leaves the kernel's memory of path MTUs aside: probes find the MTU of a path.
fn forbid_fragments(socket: &Socket, local: SocketAddr) -> io::Result<()> {
    if local.is_ipv4() {
        return sys::set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE);
    }
    sys::set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
    sys::set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)
}

/// A control message that sets the time to live of one packet: the kernel's `cmsghdr` and an `int`, padded.
fn control_message(to: SocketAddr, ttl: u8) -> [u8; CONTROL] {
    let (level, kind) = match to {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TTL),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT),
    };
    let mut message = [0; CONTROL];
    let fields = CONTROL_LENGTH.to_ne_bytes().into_iter().chain(level.to_ne_bytes()).chain(kind.to_ne_bytes());
    for (place, byte) in message.iter_mut().zip(fields.chain(i32::from(ttl).to_ne_bytes())) {
        *place = byte;
    }
    message
}

/// The address without a flow label, so that one source is one path.
fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => address,
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
    }
}

/// Queues that hold 10 ms at 3 Gbit/s.
const BUFFER: usize = 4 << 20;
const ATTEMPTS: u32 = 32;
const FIRST_PORT: u16 = 10_000;
/// Linux chooses ephemeral ports from 32,768 on.
const LAST_PORT: u16 = 32_767;
/// `cmsg_len`: a `cmsghdr` (a length in a machine word, level, type) and an `int`.
const CONTROL_LENGTH: usize = size_of::<usize>() + 3 * size_of::<i32>();
/// The same, padded to a machine word.
const CONTROL: usize = CONTROL_LENGTH.next_multiple_of(size_of::<usize>());

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn datagrams_pass_with_and_without_a_ttl_in_both_families() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let sender = Udp::bind(local.parse().unwrap()).unwrap();
            let receiver = Udp::bind(local.parse().unwrap()).unwrap();
            let mut buffer = [0; 64];
            assert_eq!(receiver.receive(&mut buffer).unwrap(), None);
            for (ttl, contents) in [(None, &b"plain"[..]), (Some(7), b"limited")] {
                sender.send(receiver.local(), ttl, contents).unwrap();
                wait(&receiver);
                let (length, from) = receiver.receive(&mut buffer).unwrap().unwrap();
                assert_eq!((&buffer[..length], from), (contents, sender.local()), "{local} {ttl:?}");
            }
        }
    }

    #[test]
    fn the_ttl_reaches_the_packet() {
        for (local, level, option, kind) in [
            ("127.0.0.1:0", libc::IPPROTO_IP, libc::IP_RECVTTL, libc::IP_TTL),
            ("[::1]:0", libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, libc::IPV6_HOPLIMIT),
        ] {
            let sender = Udp::bind(local.parse().unwrap()).unwrap();
            let receiver = Udp::bind(local.parse().unwrap()).unwrap();
            sys::set_option(receiver.socket.as_fd(), level, option, 1).unwrap();
            sender.send(receiver.local(), Some(7), b"x").unwrap();
            wait(&receiver);
            let header = [level.to_ne_bytes(), kind.to_ne_bytes(), 7_i32.to_ne_bytes()].concat();
            let control = sys::receive_control(receiver.socket.as_fd()).unwrap();
            assert!(control.windows(header.len()).any(|part| part == header), "{local}: {control:?}");
        }
    }

    #[test]
    fn a_datagram_beyond_the_interface_is_told_apart() {
        let socket = Udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_eq!(socket.send(socket.local(), None, &[0; 65_507 + 1]), Err(SendFailure::TooLong));
        let nowhere = "[2001:db8::1]:9".parse().unwrap();
        assert_eq!(socket.send(nowhere, None, b"x"), Err(SendFailure::NoRoute));
    }

    #[test]
    fn a_taken_port_is_replaced_by_a_random_one() {
        let first = Pair::bind(None).unwrap();
        assert!((FIRST_PORT..=LAST_PORT).contains(&first.port));
        assert!(Pair::bind_to(first.port).is_err());
        let second = Pair::bind(Some(first.port)).unwrap();
        assert_ne!(first.port, second.port);
        let port = second.port;
        drop(second);
        assert_eq!(Pair::bind(Some(port)).unwrap().port, port);
    }

    fn wait(socket: &Udp) {
        let mut polled = [libc::pollfd { fd: socket.fd(), events: libc::POLLIN, revents: 0 }];
        sys::poll(&mut polled, Some(Duration::from_secs(5))).unwrap();
        assert_ne!(polled[0].revents, 0, "the datagram arrives");
    }
}
