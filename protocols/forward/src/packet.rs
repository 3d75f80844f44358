//! Inner IP packets: whether their lengths hold, whose they are, and which flow they belong to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::flow::FlowKey;

/// What an IP header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Length of the packet by its own header.
    pub(crate) total_len: usize,
    /// Length of the part before the upper layer, by the fixed header only.
    fixed_len: usize,
    protocol: u8,
    /// An IPv4 fragment that is not the first.
    later_fragment: bool,
}

impl Header {
    /// Reads the header of a packet that lies whole in `bytes`; more bytes may follow it.
    #[inline]
    pub(crate) fn of_packet(bytes: &[u8]) -> Option<Self> {
        Self::of_start(bytes).filter(|header| header.total_len <= bytes.len())
    }

    /// Reads the header of a packet of which `bytes` may be only the start, as ICMP errors quote it.
    #[inline]
    fn of_start(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::of_ipv4(bytes),
            6 => Self::of_ipv6(bytes),
            _ => None,
        }
    }

    fn of_ipv4(bytes: &[u8]) -> Option<Self> {
        let fixed = bytes.first_chunk::<IPV4_LEN>()?;
        let fixed_len = usize::from(fixed[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if fixed_len < IPV4_LEN || total_len < fixed_len || bytes.len() < fixed_len {
            return None;
        }
        Some(Self {
            source: IpAddr::V4(Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15])),
            destination: IpAddr::V4(Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19])),
            total_len,
            fixed_len,
            protocol: fixed[9],
            later_fragment: u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff != 0,
        })
    }

    fn of_ipv6(bytes: &[u8]) -> Option<Self> {
        let fixed = bytes.first_chunk::<IPV6_LEN>()?;
        let (source, destination) = fixed[8..].split_first_chunk::<16>()?;
        Some(Self {
            source: IpAddr::V6(Ipv6Addr::from(*source)),
            destination: IpAddr::V6(Ipv6Addr::from(*destination.first_chunk::<16>()?)),
            total_len: IPV6_LEN + usize::from(u16::from_be_bytes([fixed[4], fixed[5]])),
            fixed_len: IPV6_LEN,
            protocol: fixed[6],
            later_fragment: false,
        })
    }

    /// The upper-layer protocol and its bytes, past IPv6 extension headers; `None` for the bytes of a later fragment.
    fn upper<'a>(&self, packet: &'a [u8]) -> Option<(u8, Option<&'a [u8]>)> {
        let end = self.total_len.min(packet.len());
        let mut rest = packet.get(self.fixed_len..end)?;
        let mut protocol = self.protocol;
        if self.source.is_ipv4() {
            return Some((protocol, (!self.later_fragment).then_some(rest)));
        }
        for _ in 0..MAX_EXTENSIONS {
            let &[next, len] = rest.first_chunk::<2>()?;
            let skip = match protocol {
                HOP_BY_HOP | ROUTING | DESTINATION => (usize::from(len) + 1) * 8,
                AUTHENTICATION => (usize::from(len) + 2) * 4,
                FRAGMENT => {
                    let offset = u16::from_be_bytes(*rest.get(2..4)?.first_chunk()?) >> 3;
                    if offset != 0 {
                        return Some((next, None));
                    }
                    8
                }
                _ => return Some((protocol, Some(rest))),
            };
            protocol = next;
            rest = rest.get(skip..)?;
        }
        None
    }
}

/// The flow that an outbound packet starts or keeps alive; `None` when shields do not follow its kind.
pub(crate) fn outbound_flow(header: &Header, packet: &[u8]) -> Option<FlowKey> {
    let (protocol, upper) = header.upper(packet)?;
    let key = |local_port, remote_port| FlowKey {
        local: header.source,
        remote: header.destination,
        protocol,
        local_port,
        remote_port,
    };
    match (protocol, upper?) {
        (TCP | UDP, upper) => {
            let (source, destination) = ports(upper)?;
            Some(key(source, destination))
        }
        (ICMPV4, &[ICMPV4_ECHO, _, _, _, a, b, ..]) | (ICMPV6, &[ICMPV6_ECHO, _, _, _, a, b, ..]) => {
            Some(key(u16::from_be_bytes([a, b]), 0))
        }
        _ => None,
    }
}

/// What an inbound packet must find among the flows to pass the shields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// This flow.
    Flow(FlowKey),
    /// Any flow of the same addresses and protocol: a later fragment shows no ports.
    AnyPort(FlowKey),
}

/// The flow that an inbound packet answers; `None` when it can answer none.
pub(crate) fn inbound_flow(header: &Header, packet: &[u8]) -> Option<Wanted> {
    let (protocol, upper) = header.upper(packet)?;
    let key = |local_port, remote_port| FlowKey {
        local: header.destination,
        remote: header.source,
        protocol,
        local_port,
        remote_port,
    };
    let Some(upper) = upper else { return Some(Wanted::AnyPort(key(0, 0))) };
    match (protocol, upper) {
        (TCP | UDP, upper) => {
            let (source, destination) = ports(upper)?;
            Some(Wanted::Flow(key(destination, source)))
        }
        (ICMPV4, &[ICMPV4_ECHO_REPLY, _, _, _, a, b, ..]) | (ICMPV6, &[ICMPV6_ECHO_REPLY, _, _, _, a, b, ..]) => {
            Some(Wanted::Flow(key(u16::from_be_bytes([a, b]), 0)))
        }
        // Destination unreachable, time exceeded, parameter problem; and ICMPv6's packet too big.
        (ICMPV4, &[3 | 11 | 12, _, _, _, _, _, _, _, ref quoted @ ..])
        | (ICMPV6, &[1..=4, _, _, _, _, _, _, _, ref quoted @ ..]) => {
            let ours = Header::of_start(quoted)?;
            if ours.source != header.destination {
                return None;
            }
            outbound_flow(&ours, quoted).map(Wanted::Flow)
        }
        _ => None,
    }
}

/// Writes into `out` the ICMP message that tells the sender of `packet` that nobody owns its destination.
///
/// Writes nothing where RFC 1122 §3.2.2 and RFC 4443 §2.4 (e) forbid an answer: to ICMP that is no echo request, to
/// later fragments, to multicast and broadcast, and to packets without a source.
pub(crate) fn unreachable(header: &Header, packet: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let answerable = match header.upper(packet) {
        Some((ICMPV4, Some(upper))) => upper.first() == Some(&ICMPV4_ECHO),
        Some((ICMPV6, Some(upper))) => upper.first() == Some(&ICMPV6_ECHO),
        Some((_, upper)) => upper.is_some(),
        None => false,
    };
    let packet = &packet[..header.total_len.min(packet.len())];
    match (header.source, header.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination))
            if answerable && !source.is_unspecified() && !destination.is_multicast() && !destination.is_broadcast() =>
        {
            unreachable_v4(destination, source, packet, out);
        }
        (IpAddr::V6(source), IpAddr::V6(destination))
            if answerable && !source.is_unspecified() && !destination.is_multicast() =>
        {
            unreachable_v6(destination, source, packet, out);
        }
        _ => {}
    }
}

fn unreachable_v4(from: Ipv4Addr, to: Ipv4Addr, packet: &[u8], out: &mut Vec<u8>) {
    let quoted = &packet[..packet.len().min(MAX_ERROR_V4 - IPV4_LEN - ICMP_LEN)];
    let total = (IPV4_LEN + ICMP_LEN + quoted.len()) as u16;
    out.extend_from_slice(&[0x45, 0]);
    out.extend_from_slice(&total.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0x40, 0, 64, ICMPV4, 0, 0]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    let sum = checksum(0, &out[..IPV4_LEN]);
    out[10..12].copy_from_slice(&sum.to_be_bytes());
    // Type 3, code 1: host unreachable.
    out.extend_from_slice(&[3, 1, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(quoted);
    let sum = checksum(0, &out[IPV4_LEN..]);
    out[IPV4_LEN + 2..IPV4_LEN + 4].copy_from_slice(&sum.to_be_bytes());
}

fn unreachable_v6(from: Ipv6Addr, to: Ipv6Addr, packet: &[u8], out: &mut Vec<u8>) {
    let quoted = &packet[..packet.len().min(MAX_ERROR_V6 - IPV6_LEN - ICMP_LEN)];
    let len = (ICMP_LEN + quoted.len()) as u16;
    out.extend_from_slice(&[0x60, 0, 0, 0]);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&[ICMPV6, 64]);
    out.extend_from_slice(&from.octets());
    out.extend_from_slice(&to.octets());
    // Type 1, code 3: address unreachable.
    out.extend_from_slice(&[1, 3, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(quoted);
    let pseudo = sum_words(u64::from(len) + u64::from(ICMPV6), &out[8..IPV6_LEN]);
    let sum = checksum(pseudo, &out[IPV6_LEN..]);
    out[IPV6_LEN + 2..IPV6_LEN + 4].copy_from_slice(&sum.to_be_bytes());
}

fn ports(upper: &[u8]) -> Option<(u16, u16)> {
    let &[a, b, c, d] = upper.first_chunk::<4>()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// The Internet checksum (RFC 1071) of `bytes`, on top of `sum`.
fn checksum(sum: u64, bytes: &[u8]) -> u16 {
    let mut sum = sum_words(sum, bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn sum_words(sum: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(2).fold(sum, |sum, word| {
        let low = word.get(1).copied().unwrap_or(0);
        sum + u64::from(u16::from_be_bytes([word[0], low]))
    })
}

const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const ICMP_LEN: usize = 8;
/// RFC 1812 §4.3.2.3: an ICMP error should not exceed 576 bytes.
const MAX_ERROR_V4: usize = 576;
/// RFC 4443 §2.4 (c): an ICMPv6 error must not exceed the minimum MTU.
const MAX_ERROR_V6: usize = 1280;
/// Extension headers looked past; more of them than a sane packet has.
const MAX_EXTENSIONS: usize = 8;

const ICMPV4: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const ICMPV4_ECHO: u8 = 8;
const ICMPV4_ECHO_REPLY: u8 = 0;
const ICMPV6_ECHO: u8 = 128;
const ICMPV6_ECHO_REPLY: u8 = 129;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::test_packet::{self, ping, pong, udp};

    #[test]
    fn lengths_are_checked_and_trailing_bytes_left_out() {
        for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let mut packet = udp(a, 1000, b, 53, b"question");
            let len = packet.len();
            packet.extend_from_slice(&[0; 9]);
            assert_eq!(Header::of_packet(&packet).expect("valid packet").total_len, len);
            assert_eq!(Header::of_packet(&packet[..len - 1]), None);
        }
        let mut short_header = udp("10.0.0.1", 1, "10.0.0.2", 2, b"");
        short_header[0] = 0x44;
        assert_eq!(Header::of_packet(&short_header), None);
        assert_eq!(Header::of_packet(&[0x50; 60]), None);
    }

    #[test]
    fn answers_name_the_flow_of_the_question() {
        for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let question = udp(a, 1000, b, 53, b"q");
            let answer = udp(b, 53, a, 1000, b"a");
            let flow = outbound_flow(&Header::of_packet(&question).expect("valid"), &question).expect("a flow");
            assert_eq!(inbound_flow(&Header::of_packet(&answer).expect("valid"), &answer), Some(Wanted::Flow(flow)));
            let ping = ping(a, b, 7);
            let pong = pong(b, a, 7);
            let flow = outbound_flow(&Header::of_packet(&ping).expect("valid"), &ping).expect("a flow");
            assert_eq!(inbound_flow(&Header::of_packet(&pong).expect("valid"), &pong), Some(Wanted::Flow(flow)));
            assert_eq!(inbound_flow(&Header::of_packet(&ping).expect("valid"), &ping), None);
        }
    }

    #[test]
    fn unreachable_quotes_the_packet_and_passes_as_an_error_about_its_flow() {
        let mut out = Vec::new();
        for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let question = udp(a, 1000, b, 53, b"q");
            let header = Header::of_packet(&question).expect("valid");
            unreachable(&header, &question, &mut out);
            let error = Header::of_packet(&out).expect("a valid packet");
            assert_eq!(
                (error.source, error.destination, error.total_len),
                (header.destination, header.source, out.len())
            );
            let flow = outbound_flow(&header, &question).expect("a flow");
            assert_eq!(inbound_flow(&error, &out), Some(Wanted::Flow(flow)));
            let start = error.fixed_len;
            let pseudo = if header.source.is_ipv6() {
                sum_words((out.len() - start) as u64 + u64::from(ICMPV6), &out[8..IPV6_LEN])
            } else {
                assert_eq!(checksum(0, &out[..IPV4_LEN]), 0);
                0
            };
            assert_eq!(checksum(pseudo, &out[start..]), 0);
            let error_packet = out.clone();
            unreachable(&error, &error_packet, &mut out);
            assert!(out.is_empty(), "no error about an error");
        }
        let multicast = udp("10.0.0.1", 1, "224.0.0.251", 5353, b"");
        unreachable(&Header::of_packet(&multicast).expect("valid"), &multicast, &mut out);
        assert!(out.is_empty());
        let typeless = test_packet::ip("10.0.0.1", "10.0.0.2", ICMPV4, &[]);
        unreachable(&Header::of_packet(&typeless).expect("valid"), &typeless, &mut out);
        assert!(out.is_empty(), "no error about ICMP that has not even a type");
    }

    #[test]
    fn extension_headers_of_any_length_are_passed_over() {
        for kind in [HOP_BY_HOP, ROUTING, DESTINATION, AUTHENTICATION] {
            for len in [0_u8, 1, 31, 63, 127, 255] {
                let size = if kind == AUTHENTICATION { (usize::from(len) + 2) * 4 } else { (usize::from(len) + 1) * 8 };
                // Where a wrong length would look for ports, others stand.
                let mut upper = vec![0x11; size];
                upper[..2].copy_from_slice(&[UDP, len]);
                upper.extend_from_slice(&[0, 7, 0, 9, 0, 8, 0, 0]);
                let packet = test_packet::ip("fd00::2", "fd00::1", kind, &upper);
                let header = Header::of_packet(&packet).unwrap();
                let Some(Wanted::Flow(flow)) = inbound_flow(&header, &packet) else { panic!("{kind} of {len}") };
                assert_eq!((flow.protocol, flow.local_port, flow.remote_port), (UDP, 9, 7), "{kind} of {len}");
                for cut in 0..size + 4 {
                    let mut cut = packet[..IPV6_LEN + cut].to_vec();
                    let total = u16::try_from(cut.len() - IPV6_LEN).unwrap();
                    cut[4..6].copy_from_slice(&total.to_be_bytes());
                    let header = Header::of_packet(&cut).unwrap();
                    assert_eq!(inbound_flow(&header, &cut), None, "{kind} of {len}, cut");
                }
            }
        }
    }

    #[test]
    fn later_fragments_show_no_ports() {
        let mut fragment = udp("10.0.0.2", 53, "10.0.0.1", 1000, b"rest");
        fragment[7] = 8;
        let header = Header::of_packet(&fragment).expect("valid");
        assert_eq!(outbound_flow(&header, &fragment), None);
        assert!(matches!(inbound_flow(&header, &fragment), Some(Wanted::AnyPort(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), version in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()], protocol in prop_oneof![Just(ICMPV4), Just(ICMPV6), Just(FRAGMENT), Just(HOP_BY_HOP), Just(TCP)]) {
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            for at in [6, 9] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = protocol;
                }
            }
            let mut out = Vec::new();
            if let Some(header) = Header::of_start(&bytes) {
                let _ = outbound_flow(&header, &bytes);
                let _ = inbound_flow(&header, &bytes);
                unreachable(&header, &bytes, &mut out);
            }
        }
    }
}
