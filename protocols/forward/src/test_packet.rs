//! IP packets for tests. Checksums are left zero: nothing here looks at them.

use std::net::IpAddr;

pub(crate) fn udp(from: &str, from_port: u16, to: &str, to_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut upper = Vec::new();
    upper.extend_from_slice(&from_port.to_be_bytes());
    upper.extend_from_slice(&to_port.to_be_bytes());
    upper.extend_from_slice(&((payload.len() + 8) as u16).to_be_bytes());
    upper.extend_from_slice(&[0, 0]);
    upper.extend_from_slice(payload);
    ip(from, to, 17, &upper)
}

pub(crate) fn ping(from: &str, to: &str, ident: u16) -> Vec<u8> {
    icmp_echo(from, to, if from.contains(':') { 128 } else { 8 }, ident)
}

pub(crate) fn pong(from: &str, to: &str, ident: u16) -> Vec<u8> {
    icmp_echo(from, to, if from.contains(':') { 129 } else { 0 }, ident)
}

fn icmp_echo(from: &str, to: &str, kind: u8, ident: u16) -> Vec<u8> {
    let [a, b] = ident.to_be_bytes();
    ip(from, to, if from.contains(':') { 58 } else { 1 }, &[kind, 0, 0, 0, a, b, 0, 1])
}

pub(crate) fn ip(from: &str, to: &str, protocol: u8, upper: &[u8]) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (from.parse().expect("address"), to.parse().expect("address"));
    let mut out = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[0x45, 0]);
            out.extend_from_slice(&((20 + upper.len()) as u16).to_be_bytes());
            out.extend_from_slice(&[0, 0, 0, 0, 64, protocol, 0, 0]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            out.extend_from_slice(&[0x60, 0, 0, 0]);
            out.extend_from_slice(&(upper.len() as u16).to_be_bytes());
            out.extend_from_slice(&[protocol, 64]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => panic!("addresses of one family"),
    }
    out.extend_from_slice(upper);
    out
}
