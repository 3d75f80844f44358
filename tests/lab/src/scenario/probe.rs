//! Traffic of the laboratory's own through a tunnel, timed by this process's clock on both sides.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::host::Host;

/// One end of a stream of small datagrams.
pub(crate) struct Datagrams {
    from: UdpSocket,
    to: UdpSocket,
    target: SocketAddr,
}

impl Datagrams {
    /// A sender on `a` and a receiver on `b`, at the machines' addresses inside the network.
    pub(crate) fn open((a, inner_a): (&Host, Ipv4Addr), (b, inner_b): (&Host, Ipv4Addr)) -> Result<Self> {
        let from = a.enter(|| UdpSocket::bind((inner_a, 0)))?.context("bind the sender inside the network")?;
        let to = b.enter(|| UdpSocket::bind((inner_b, 0)))?.context("bind the receiver inside the network")?;
        to.set_read_timeout(Some(Duration::from_millis(2))).context("set a time limit")?;
        let target = to.local_addr().context("read the receiver's port")?;
        Ok(Self { from, to, target })
    }

    /// Sends one datagram and answers how long it took to be read at the other end.
    pub(crate) fn first_byte(&self, limit: Duration) -> Result<Option<Duration>> {
        let begun = Instant::now();
        self.send(0)?;
        while begun.elapsed() < limit {
            if self.receive().is_some() {
                return Ok(Some(begun.elapsed()));
            }
        }
        Ok(None)
    }

    /// Sends one datagram of 600 bytes.
    pub(crate) fn send(&self, number: u32) -> Result<()> {
        let mut bytes = [0; 600];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        self.from.send_to(&bytes, self.target).context("send inside the network")?;
        Ok(())
    }

    /// The number of a datagram that came in, waiting 2 ms at most.
    pub(crate) fn receive(&self) -> Option<u32> {
        let mut bytes = [0; 600];
        let length = self.to.recv(&mut bytes).ok()?;
        (length == bytes.len()).then(|| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

/// Carries `bytes` over TCP from `a` to `b` inside the network.
pub(crate) fn transfer(a: &Host, (b, inner_b): (&Host, Ipv4Addr), bytes: usize, limit: Duration) -> Result<Duration> {
    let listener = b.enter(|| TcpListener::bind((inner_b, 0)))?.context("listen inside the network")?;
    let target = listener.local_addr().context("read the listener's port")?;
    listener.set_nonblocking(true).context("set the listener to poll")?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(move || receive_all(&listener, bytes, limit));
        let sent = a.enter(|| send_all(target, bytes, limit))?;
        let received = receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))?;
        sent.context("send")?;
        let got = received.context("receive")?;
        if got != bytes {
            bail!("{got} of {bytes} bytes arrived");
        }
        Ok(begun.elapsed())
    })
}

fn send_all(target: SocketAddr, bytes: usize, limit: Duration) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(10)).context("connect")?;
    stream.set_write_timeout(Some(limit)).context("set a time limit")?;
    let chunk = vec![0x5A; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let size = left.min(chunk.len());
        stream.write_all(&chunk[..size]).context("write")?;
        left -= size;
    }
    Ok(())
}

fn receive_all(listener: &TcpListener, bytes: usize, limit: Duration) -> Result<usize> {
    let begun = Instant::now();
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(_) if begun.elapsed() < limit => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(error).context("accept"),
        }
    };
    stream.set_nonblocking(false).context("set the stream to block")?;
    stream.set_read_timeout(Some(limit)).context("set a time limit")?;
    let mut buffer = vec![0; 64 * 1024];
    let mut got = 0;
    while got < bytes {
        match stream.read(&mut buffer).context("read")? {
            0 => break,
            length => got += length,
        }
    }
    Ok(got)
}
