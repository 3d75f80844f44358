//! Checks that NATs meet each other as they do in the world: two plain sockets that know each other's mapped address.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::host::Host;
use crate::lab::Lab;
use crate::nat::NatKind;

pub(super) fn port_restricted_pair() -> Result<String> {
    let lab = Lab::pair(NatKind::PortRestricted, NatKind::PortRestricted)?;
    let taken = meet(&lab, &lab.host("a")?, &lab.host("b")?)?.context("two port-restricted NATs must meet")?;
    Ok(format!("direct after {taken:?}"))
}

pub(super) fn symmetric_pair() -> Result<String> {
    let lab = Lab::pair(NatKind::Symmetric, NatKind::Symmetric)?;
    let met = meet(&lab, &lab.host("a")?, &lab.host("b")?)?;
    ensure!(met.is_none(), "two symmetric NATs met without a guess");
    let lab = Lab::pair(NatKind::FullCone, NatKind::Symmetric)?;
    let taken = meet(&lab, &lab.host("a")?, &lab.host("b")?)?.context("a full cone must meet a symmetric NAT")?;
    Ok(format!("two symmetric NATs do not meet by mapped addresses; a full cone meets one after {taken:?}"))
}

pub(super) fn same_lan() -> Result<String> {
    let lab = Lab::same_lan()?;
    let (first, second) = (lab.host("a")?, lab.host_at("a", 1)?);
    let met = meet(&lab, &first, &second)?;
    ensure!(met.is_none(), "a NAT without hairpin serves its outer address");
    crate::verify::exchange(&first, &second).context("neighbours must meet by their own addresses")?;
    Ok("neighbours meet by their own addresses only".to_owned())
}

pub(super) fn same_nat_hairpin() -> Result<String> {
    let lab = Lab::same_nat_hairpin()?;
    let (first, second) = (lab.host("a")?, lab.host_at("a", 1)?);
    let direct = first.run(&["ping", "-n", "-c1", "-W1", &second.ipv4().to_string()], Duration::from_secs(5))?;
    ensure!(!direct.status.success(), "isolated networks reach each other");
    let taken = meet(&lab, &first, &second)?.context("two hosts must meet by their NAT's outer address")?;
    Ok(format!("isolated networks meet by the outer address after {taken:?}"))
}

pub(super) fn nat_forgets() -> Result<String> {
    for kind in [NatKind::PortRestricted, NatKind::FullCone] {
        let lab = Lab::pair(kind, NatKind::Open)?;
        let (inside, hub) = (lab.host("a")?, lab.host("hub")?);
        let mirror = hub.enter(|| UdpSocket::bind((hub.ipv4(), 0)))??;
        let socket = inside.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        mirror.set_read_timeout(Some(Duration::from_secs(5)))?;
        let outer = mapped(&socket, &mirror)?;
        let answered = |limit| -> Result<bool> {
            socket.set_read_timeout(Some(limit))?;
            mirror.send_to(b"answer", outer)?;
            Ok(socket.recv(&mut [0; 16]).is_ok())
        };
        ensure!(answered(Duration::from_secs(5))?, "{kind}: an answer does not come in");
        lab.nat("a")?.forget_flows()?;
        ensure!(!answered(Duration::from_millis(300))?, "{kind}: an answer comes in by a forgotten mapping");
        ensure!(mapped(&socket, &mirror)?.ip() == outer.ip(), "{kind}: the inside cannot write again");
        ensure!(answered(Duration::from_secs(5))?, "{kind}: an answer does not come in again");
    }
    Ok("nothing comes in until the inside writes again".to_owned())
}

/// Has both hosts learn their mapped address from the hub and write to each other's every 50 ms for two seconds.
/// Answers when both had heard the other, if they did.
fn meet(lab: &Lab, a: &Host, b: &Host) -> Result<Option<Duration>> {
    let hub = lab.host("hub")?;
    let mirror = hub.enter(|| UdpSocket::bind((hub.ipv4(), 0)))??;
    mirror.set_read_timeout(Some(Duration::from_secs(5)))?;
    let bind = |host: &Host| host.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
    let sockets = [bind(a)??, bind(b)??];
    let mapped = [mapped(&sockets[0], &mirror)?, mapped(&sockets[1], &mirror)?];
    let begun = Instant::now();
    let mut heard: [Option<SocketAddr>; 2] = [None; 2];
    let mut confirmed = [false; 2];
    while begun.elapsed() < Duration::from_secs(2) {
        for (me, socket) in sockets.iter().enumerate() {
            let other = heard[me].unwrap_or(mapped[1 - me]);
            // Answers whatever has come; the first byte says whether its sender has heard us.
            socket.send_to(&[u8::from(heard[me].is_some())], other)?;
            socket.set_read_timeout(Some(Duration::from_millis(25)))?;
            let mut buffer = [0; 4];
            if let Ok((1, from)) = socket.recv_from(&mut buffer) {
                heard[me] = Some(from);
                confirmed[me] |= buffer[0] == 1;
            }
        }
        if confirmed == [true; 2] {
            return Ok(Some(begun.elapsed()));
        }
    }
    Ok(None)
}

fn mapped(socket: &UdpSocket, mirror: &UdpSocket) -> Result<SocketAddr> {
    socket.send_to(b"who am I", mirror.local_addr()?)?;
    let (_, from) = mirror.recv_from(&mut [0; 16]).context("the hub hears nothing")?;
    Ok(from)
}
