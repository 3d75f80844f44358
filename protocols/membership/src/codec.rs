//! The bounded reader and the writer under every format of this crate: big-endian integers, length-prefixed strings,
//! one encoding per value.

use std::net::SocketAddr;

use thiserror::Error;

use crate::keys::{Server, ServerKeys};
use crate::name::{Name, NameError};
use crate::record::MAX_RECORD_LEN;

/// Bytes from outside are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The bytes end too early.
    #[error("cut short")]
    Truncated,
    /// Bytes follow after the end.
    #[error("has {0} bytes too many")]
    Trailing(usize),
    /// More bytes than the format allows.
    #[error("too long")]
    TooLong,
    /// A format version that this build does not know.
    #[error("format version {0} is not known to this version of ginnel")]
    Version(u8),
    /// A record type that nobody has defined.
    #[error("record type {0} is not known")]
    UnknownType(u8),
    /// A count outside its bounds.
    #[error("{0} of {1} is out of bounds")]
    Count(u8, &'static str),
    /// A flag or reserved byte with a value that has no meaning.
    #[error("value {0} of {1} has no meaning")]
    Value(u8, &'static str),
    /// A list that is not in strictly ascending order, or another second spelling of the same thing.
    #[error("not in canonical form")]
    NotCanonical,
    /// A name that is not one.
    #[error("bad name: {0}")]
    Name(#[source] NameError),
    /// A list of servers that names one twice, or without the one that is to order the log.
    #[error("the sequencer is not one of the servers, or a server is there twice")]
    Sequencer,
    /// A server address that is not `host:port` in canonical form.
    #[error("bad server address")]
    Address,
}

/// Reads from untrusted bytes; every step is checked.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(Malformed::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Malformed::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// A count byte within `1..=max`.
    pub(crate) fn count(&mut self, max: usize, what: &'static str) -> Result<u8, Malformed> {
        let count = self.u8()?;
        if count == 0 || usize::from(count) > max { Err(Malformed::Count(count, what)) } else { Ok(count) }
    }

    pub(crate) fn version(&mut self, known: u8) -> Result<(), Malformed> {
        let version = self.u8()?;
        if version == known { Ok(()) } else { Err(Malformed::Version(version)) }
    }

    pub(crate) fn name(&mut self) -> Result<Name, Malformed> {
        let len = self.u8()?;
        Name::from_bytes(self.bytes(len.into())?).map_err(Malformed::Name)
    }

    /// A record, behind its length.
    pub(crate) fn record(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::from(self.u16()?);
        if len > MAX_RECORD_LEN { Err(Malformed::TooLong) } else { self.bytes(len) }
    }

    /// A name, or nothing where the length is zero.
    pub(crate) fn optional_name(&mut self) -> Result<Option<Name>, Malformed> {
        if self.0.first() == Some(&0) {
            self.u8()?;
            return Ok(None);
        }
        self.name().map(Some)
    }

    pub(crate) fn server(&mut self) -> Result<Server, Malformed> {
        let count = self.count(MAX_ADDRESSES, "server addresses")?;
        let addresses = (0..count).map(|_| self.address()).collect::<Result<_, _>>()?;
        Ok(Server { addresses, keys: ServerKeys { signing: self.array()?, noise: self.array()? } })
    }

    pub(crate) fn servers(&mut self) -> Result<Vec<Server>, Malformed> {
        let count = self.count(MAX_SERVERS, "servers")?;
        (0..count).map(|_| self.server()).collect()
    }

    /// Everything that is left.
    pub(crate) const fn rest(&mut self) -> &'a [u8] {
        let rest = self.0;
        self.0 = &[];
        rest
    }

    pub(crate) const fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Trailing(self.0.len())) }
    }

    fn address(&mut self) -> Result<String, Malformed> {
        let len = self.u8()?;
        let text = std::str::from_utf8(self.bytes(len.into())?).map_err(|_| Malformed::Address)?;
        if is_address(text) { Ok(text.to_owned()) } else { Err(Malformed::Address) }
    }
}

/// Writes what [`Reader`] reads. Values out of bounds are kept out before by [`check_servers`] and by types.
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new(version: u8) -> Self {
        Self(vec![version])
    }

    /// Without a version byte: what goes into an envelope that has its own.
    pub(crate) const fn empty() -> Self {
        Self(Vec::new())
    }

    /// With room for `payload` bytes, or for any list of servers, from the start, so that growing leaves no copy of a secret
    /// behind.
    pub(crate) fn for_secrets(payload: usize) -> Self {
        let servers = MAX_SERVERS * (2 + 64 + MAX_ADDRESSES * (1 + MAX_ADDRESS_LEN)) + 256;
        Self(Vec::with_capacity(payload.max(servers)))
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn name(&mut self, name: &Name) -> &mut Self {
        self.short(name.as_str().as_bytes())
    }

    pub(crate) fn optional_name(&mut self, name: Option<&Name>) -> &mut Self {
        match name {
            Some(name) => self.name(name),
            None => self.u8(0),
        }
    }

    pub(crate) fn server(&mut self, server: &Server) -> &mut Self {
        self.u8(server.addresses.len() as u8);
        for address in &server.addresses {
            self.short(address.as_bytes());
        }
        self.bytes(&server.keys.signing).bytes(&server.keys.noise)
    }

    pub(crate) fn servers(&mut self, servers: &[Server]) -> &mut Self {
        self.u8(servers.len() as u8);
        for server in servers {
            self.server(server);
        }
        self
    }

    /// A record, behind its length.
    pub(crate) fn record(&mut self, bytes: &[u8]) -> &mut Self {
        self.u16(bytes.len().min(usize::from(u16::MAX)) as u16).bytes(bytes)
    }

    /// How many items of a long list follow.
    pub(crate) fn count(&mut self, items: usize) -> &mut Self {
        self.u32(u32::try_from(items).unwrap_or(u32::MAX))
    }

    fn short(&mut self, bytes: &[u8]) -> &mut Self {
        self.u8(bytes.len() as u8).bytes(bytes)
    }
}

/// Whether `text` is a server address: `host:port` with an IPv4 address, a bracketed IPv6 address or a lower-case DNS
/// name, each in its one canonical spelling, of at most [`MAX_ADDRESS_LEN`] bytes.
pub fn is_address(text: &str) -> bool {
    if text.len() > MAX_ADDRESS_LEN {
        return false;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    if !port.parse::<u16>().is_ok_and(|number| number != 0 && number.to_string() == port) {
        return false;
    }
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return addr.to_string() == text;
    }
    let numeric = host.rsplit('.').next().is_none_or(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    !numeric && host.split('.').all(is_host_label)
}

/// Checks a list of servers against the bounds of every format that carries one.
pub(crate) fn check_servers(servers: &[Server]) -> Result<(), Malformed> {
    if servers.is_empty() || servers.len() > MAX_SERVERS {
        return Err(Malformed::Count(servers.len().min(255) as u8, "servers"));
    }
    servers.iter().try_for_each(check_server)
}

/// Checks one server against the bounds of every format that carries one.
pub(crate) fn check_server(server: &Server) -> Result<(), Malformed> {
    let count = server.addresses.len();
    if count == 0 || count > MAX_ADDRESSES {
        return Err(Malformed::Count(count.min(255) as u8, "server addresses"));
    }
    if server.addresses.iter().all(|address| is_address(address)) { Ok(()) } else { Err(Malformed::Address) }
}

fn is_host_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let inner = bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-');
    inner && !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
}

/// Servers that a genesis record or an invite may name.
pub const MAX_SERVERS: usize = 4;
/// Addresses that one server may have.
pub const MAX_ADDRESSES: usize = 4;
/// Bytes of one server address.
pub const MAX_ADDRESS_LEN: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_spelling() {
        for good in
            ["192.0.2.1:4433", "[2001:db8::1]:4433", "signal.example.com:443", "localhost:1", "a1.b-c.example:65535"]
        {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "",
            ":",
            "host",
            "host:0",
            "host:00443",
            "host:65536",
            "host:+1",
            "Host:1",
            "a b:1",
            "a..b:1",
            ".a:1",
            "a.:1",
            "-a:1",
            "a-:1",
            "192.0.2.1.:1",
            "192.0.2:1",
            "192.0.2.01:1",
            "2001:db8::1:443",
            "[2001:DB8::1]:443",
            "[2001:db8:0::1]:443",
            "a\n:1",
            "a;b:1",
            "a\u{1b}:1",
            "é:1",
        ] {
            assert!(!is_address(bad), "{bad:?}");
        }
        assert!(!is_address(&format!("{}:1", "a.".repeat(63) + "ab")));
    }
}
