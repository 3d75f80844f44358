//! How values stand in a recording: numbers big-endian, an enum by one byte for its case and then the case's fields, a list
//! by its length (4) and its items.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use ginnel_forward::{Event, PeerId, RekeyReason, Shields};
use ginnel_membership::{NetworkId, Rights};
use ginnel_path::{Local, Path, Policy, RelayId, SocketId};
use ginnel_time::{Instant, Tai64n};
use ginnel_tunnel::{PresharedKey, PublicKey, ReceiverIndex, StaticSecret, Suite};

use crate::io::{Input, Request, RequestId, ServerId};
use crate::networks::Ipv4Use;
use crate::node::{Config, ConfigPeer, ConfigPeerKind, Debug, Resume, StoredLog};

/// A value with one encoding.
pub(super) trait Coded: Sized {
    fn put(&self, out: &mut Vec<u8>);

    /// Takes a value off the front; `None` when there is none.
    fn take(from: &mut &[u8]) -> Option<Self>;
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Coded for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                Coded::take(from).map(Self::from_be_bytes)
            }
        }
    )*};
}

numbers!(u16, u32, u64);

impl Coded for u8 {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        let (first, rest) = from.split_first()?;
        *from = rest;
        Some(*first)
    }
}

impl<const N: usize> Coded for [u8; N] {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        let (first, rest) = from.split_first_chunk()?;
        *from = rest;
        Some(*first)
    }
}

impl Coded for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        match u8::take(from)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl<T: Coded> Coded for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        if bool::take(from)? { T::take(from).map(Some) } else { Some(None) }
    }
}

impl<T: Coded> Coded for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        length(self.len()).put(out);
        self.iter().for_each(|item| item.put(out));
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        // Every item takes a byte at least, so a length that lies ends with the bytes.
        let count = u32::take(from)?;
        (0..count).map(|_| T::take(from)).collect()
    }
}

impl Coded for String {
    fn put(&self, out: &mut Vec<u8>) {
        length(self.len()).put(out);
        out.extend_from_slice(self.as_bytes());
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        let count = usize::try_from(u32::take(from)?).ok()?;
        let (text, rest) = from.split_at_checked(count)?;
        *from = rest;
        std::str::from_utf8(text).ok().map(str::to_owned)
    }
}

impl<A: Coded, B: Coded> Coded for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        Some((A::take(from)?, B::take(from)?))
    }
}

/// A prefix, whose length fits its family.
#[derive(Clone, Copy)]
struct Prefix(IpAddr, u8);

impl Coded for Prefix {
    fn put(&self, out: &mut Vec<u8>) {
        (self.0, self.1).put(out);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        let (ip, length) = <(IpAddr, u8)>::take(from)?;
        (length <= if ip.is_ipv4() { 32 } else { 128 }).then_some(Self(ip, length))
    }
}

fn put_prefixes(prefixes: &[(IpAddr, u8)], out: &mut Vec<u8>) {
    prefixes.iter().map(|(ip, length)| Prefix(*ip, *length)).collect::<Vec<_>>().put(out);
}

fn take_prefixes(from: &mut &[u8]) -> Option<Vec<(IpAddr, u8)>> {
    Some(Vec::<Prefix>::take(from)?.into_iter().map(|prefix| (prefix.0, prefix.1)).collect())
}

/// Types that are made of another one and back.
macro_rules! through {
    ($($type:ty: $as:ty, $to:expr, $back:expr;)*) => {$(
        impl Coded for $type {
            fn put(&self, out: &mut Vec<u8>) {
                let to: fn(&$type) -> $as = $to;
                to(self).put(out);
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                let back: fn($as) -> Option<$type> = $back;
                back(<$as>::take(from)?)
            }
        }
    )*};
}

through! {
    Duration: (u64, u32),
        |time| (time.as_secs(), time.subsec_nanos()),
        |(secs, nanos)| (nanos < 1_000_000_000).then(|| Duration::new(secs, nanos));
    Instant: u64, |at| at.as_nanos(), |nanos| Some(Instant::from_nanos(nanos));
    Tai64n: [u8; 12], |label| label.to_bytes(), |bytes| Some(Tai64n::from_bytes(bytes));
    SocketId: u16, |id| id.0, |id| Some(SocketId(id));
    RelayId: u16, |id| id.0, |id| Some(RelayId(id));
    ServerId: u16, |id| id.0, |id| Some(ServerId(id));
    RequestId: u64, |id| id.0, |id| Some(RequestId(id));
    PeerId: u32, |id| id.0, |id| Some(PeerId(id));
    ReceiverIndex: u32, |index| index.0, |index| Some(ReceiverIndex(index));
    NetworkId: [u8; 32], |id| *id.as_bytes(), |bytes| Some(NetworkId::from_bytes(bytes));
    PublicKey: [u8; 32], |key| key.to_bytes(), |bytes| Some(PublicKey::from_bytes(bytes));
    // A secret has bits that are always the same.
    StaticSecret: [u8; 32],
        |key| *key.to_bytes(),
        |bytes| Some(StaticSecret::from_bytes(bytes)).filter(|key| *key.to_bytes() == bytes);
    PresharedKey: [u8; 32], |key| *key.to_bytes(), |bytes| Some(PresharedKey::from_bytes(bytes));
    Rights: u8, |rights| rights.bits(), Rights::from_bits;
}

impl Coded for IpAddr {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::V4(ip) => (4_u8, ip.octets()).put(out),
            Self::V6(ip) => (6_u8, ip.octets()).put(out),
        }
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        match u8::take(from)? {
            4 => <[u8; 4]>::take(from).map(Self::from),
            6 => <[u8; 16]>::take(from).map(Self::from),
            _ => None,
        }
    }
}

impl Coded for SocketAddr {
    fn put(&self, out: &mut Vec<u8>) {
        (self.ip(), self.port()).put(out);
        if let Self::V6(addr) = self {
            (addr.flowinfo(), addr.scope_id()).put(out);
        }
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(match <(IpAddr, u16)>::take(from)? {
            (IpAddr::V4(ip), port) => Self::from((ip, port)),
            (IpAddr::V6(ip), port) => {
                let (flow, scope) = <(u32, u32)>::take(from)?;
                Self::V6(SocketAddrV6::new(ip, port, flow, scope))
            }
        })
    }
}

/// Structs by their fields.
macro_rules! fields {
    ($($type:ident { $($field:ident),* })*) => {$(
        impl Coded for $type {
            fn put(&self, out: &mut Vec<u8>) {
                let Self { $($field),* } = self;
                $($field.put(out);)*
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                Some(Self { $($field: Coded::take(from)?),* })
            }
        }
    )*};
}

/// Enums by their cases.
macro_rules! cases {
    ($($type:ident { $($number:literal $case:ident $({ $($field:ident),* })? $(( $($place:ident),* ))?,)* })*) => {$(
        impl Coded for $type {
            fn put(&self, out: &mut Vec<u8>) {
                match self {$(
                    Self::$case $({ $($field),* })? $(( $($place),* ))? => {
                        out.push($number);
                        $($($field.put(out);)*)?
                        $($($place.put(out);)*)?
                    }
                )*}
            }

            fn take(from: &mut &[u8]) -> Option<Self> {
                Some(match u8::take(from)? {
                    $($number => {
                        $($(let $field = Coded::take(from)?;)*)?
                        $($(let $place = Coded::take(from)?;)*)?
                        Self::$case $({ $($field),* })? $(( $($place),* ))?
                    })*
                    _ => return None,
                })
            }
        }
    )*};
}

fields! {
    Path { local, remote }
    Debug { load_threshold, paths }
    Resume { state, logs }
    StoredLog { network, snapshot, entries }
}

cases! {
    Local { 0 Socket(id), 1 Relay(id), }
    Policy { 0 Any, 1 RelayOnly, }
    Suite { 0 WireGuard, 1 AesGcm, 2 ChaChaPoly, }
    Shields { 0 Up, 1 Down, }
    Ipv4Use { 0 On, 1 Off, }
    RekeyReason { 0 Age, 1 Count, 2 LastMinute, 3 Silence, }
    ConfigPeerKind { 0 WireGuard, 1 Ginnel, }
    Input {
        0 Wall(label),
        1 Interfaces(addresses),
        2 SocketOpened { socket, local },
        3 SocketLost { socket },
        4 SendFailed { path },
        5 Forward(event),
        6 ServerOpened { server, remote },
        7 ServerBytes { server, bytes },
        8 ServerClosed { server, reason },
        9 Request { id, network, request },
        10 Addresses(addresses),
    }
    Event {
        0 Confirmed { peer, index },
        1 Expired { index, peer },
        2 RekeyDue { peer, why },
        3 SessionWanted { peer },
        4 Arrived { peer, path },
        5 Roamed { peer, path },
        6 Control { peer, path, plaintext },
        7 Handshake { path, bytes },
        8 Stun { socket, from, bytes },
        9 Traffic { peer, sent, received },
    }
    Request {
        0 Up { ticket, name, network, shields, range, ipv4 },
        1 Down,
        2 Leave,
        3 Ping { peer, timeout },
        4 Invite { expires, name },
        5 Invites,
        6 VoidInvite { id },
        7 Revoke { peer },
        8 Log,
        9 ServerAdd { founding },
        10 ServerRemove { server },
        11 ServerPromote { server },
        12 AdminAdd { peer },
        13 AdminRemove { peer },
        14 AdminThreshold { threshold },
        15 Cosign { proposal },
        16 Policy { strict, delegate },
        17 Checkpoint,
        18 RotateKeys,
    }
}

impl Coded for Config {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { seed, secret, addresses, peers, suites, hostname, debug } = self;
        seed.put(out);
        secret.put(out);
        put_prefixes(addresses, out);
        peers.put(out);
        suites.put(out);
        hostname.put(out);
        debug.put(out);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(Self {
            seed: Coded::take(from)?,
            secret: Coded::take(from)?,
            addresses: take_prefixes(from)?,
            peers: Coded::take(from)?,
            suites: Coded::take(from)?,
            hostname: Coded::take(from)?,
            debug: Coded::take(from)?,
        })
    }
}

impl Coded for ConfigPeer {
    fn put(&self, out: &mut Vec<u8>) {
        let Self { name, key, psk, endpoint, allowed, persistent_keepalive, kind } = self;
        name.put(out);
        key.put(out);
        psk.put(out);
        endpoint.put(out);
        put_prefixes(allowed, out);
        persistent_keepalive.put(out);
        kind.put(out);
    }

    fn take(from: &mut &[u8]) -> Option<Self> {
        Some(Self {
            name: Coded::take(from)?,
            key: Coded::take(from)?,
            psk: Coded::take(from)?,
            endpoint: Coded::take(from)?,
            allowed: take_prefixes(from)?,
            persistent_keepalive: Coded::take(from)?,
            kind: Coded::take(from)?,
        })
    }
}

fn length(count: usize) -> u32 {
    u32::try_from(count).expect("what a node is told is far below 4 GiB")
}
