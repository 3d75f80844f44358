//! The strings that people paste: an [`Invite`] joins a machine to a network, a [`Founding`] string founds one on a
//! fresh server. Both are secrets: whoever holds one can use it.

use std::fmt;
use std::str::FromStr;

use rand_core::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use crate::codec::{Malformed, Reader, Writer, check_server, check_servers};
use crate::keys::{InviteKey, NetworkId, Server, SigningKey};
use crate::name::Name;
use crate::paste::{Kind, MAX_PAYLOAD, squeeze};
pub use crate::paste::{MAX_STRING_LEN, PasteError};

/// Everything that a machine needs to join: where to ask, how to know the network, and the right to come in.
#[derive(Clone)]
pub struct Invite {
    servers: Vec<Server>,
    network: NetworkId,
    key: SigningKey,
    expires: u64,
    hint: Option<Name>,
}

impl Invite {
    /// Makes an invite string for `key`, whose public half is in the log.
    ///
    /// A string has room for one server with many addresses or for a few short ones: servers at the end of the list are
    /// left out when they do not fit, and the newcomer learns them from the log. A first server that does not fit alone
    /// keeps as many of its addresses as do.
    ///
    /// # Errors
    /// [`Malformed`] when the servers are out of bounds.
    pub fn new(
        servers: &[Server],
        network: NetworkId,
        key: SigningKey,
        expires: u64,
        hint: Option<Name>,
    ) -> Result<Self, Malformed> {
        check_servers(servers)?;
        let mut invite = Self { servers: servers.to_vec(), network, key, expires, hint };
        while invite.payload().len() > MAX_PAYLOAD {
            if invite.servers.len() > 1 {
                invite.servers.pop();
            } else {
                let first = invite.servers.first_mut().filter(|server| server.addresses.len() > 1);
                first.ok_or(Malformed::TooLong)?.addresses.pop();
            }
        }
        Ok(invite)
    }

    /// The servers, best first.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The network to which it leads.
    pub const fn network(&self) -> NetworkId {
        self.network
    }

    /// The one-time key with which the holder signs its enrolment.
    pub const fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The public half of the key, as the log knows it.
    pub fn invite_key(&self) -> InviteKey {
        self.key.invite_key()
    }

    /// Unix seconds.
    pub const fn expires(&self) -> u64 {
        self.expires
    }

    /// The name that its maker proposes.
    pub const fn hint(&self) -> Option<&Name> {
        self.hint.as_ref()
    }

    /// Whether it is too late at `now` (Unix seconds); what counts in the end is the time of the log's entry.
    pub const fn is_expired(&self, now: u64) -> bool {
        now >= self.expires
    }

    fn payload(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = Writer::for_secrets(0);
        writer.bytes(self.network.as_bytes()).bytes(&*self.key.to_bytes()).u64(self.expires);
        writer.optional_name(self.hint.as_ref()).servers(&self.servers);
        Zeroizing::new(writer.into_bytes())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            network: NetworkId::from_bytes(reader.array()?),
            key: SigningKey::from_bytes(&Zeroizing::new(reader.array()?)),
            expires: reader.u64()?,
            hint: reader.optional_name()?,
            servers: reader.servers()?,
        })
    }
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Kind::Invite.wrap(&self.payload()))
    }
}

impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invite")
            .field("servers", &self.servers)
            .field("network", &self.network)
            .field("key", &"secret")
            .field("expires", &self.expires)
            .field("hint", &self.hint)
            .finish()
    }
}

impl FromStr for Invite {
    type Err = PasteError;

    fn from_str(text: &str) -> Result<Self, PasteError> {
        Kind::Invite.unwrap(text, Self::read)
    }
}

/// What a fresh server prints: whoever pastes it founds a network there.
#[derive(Clone)]
pub struct Founding {
    server: Server,
    token: Token,
}

impl Founding {
    /// Makes a founding string.
    ///
    /// # Errors
    /// [`Malformed`] when the server's addresses are out of bounds or too long for a string.
    pub fn new(server: Server, token: Token) -> Result<Self, Malformed> {
        check_server(&server)?;
        let founding = Self { server, token };
        if founding.payload().len() > MAX_PAYLOAD { Err(Malformed::TooLong) } else { Ok(founding) }
    }

    /// The server.
    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// The right to found.
    pub const fn token(&self) -> &Token {
        &self.token
    }

    fn payload(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = Writer::for_secrets(0);
        writer.bytes(self.token.as_bytes()).server(&self.server);
        Zeroizing::new(writer.into_bytes())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { token: Token(Zeroizing::new(reader.array()?)), server: reader.server()? })
    }
}

impl fmt::Display for Founding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Kind::Founding.wrap(&self.payload()))
    }
}

impl fmt::Debug for Founding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Founding").field("server", &self.server).field("token", &"secret").finish()
    }
}

impl FromStr for Founding {
    type Err = PasteError;

    fn from_str(text: &str) -> Result<Self, PasteError> {
        Kind::Founding.unwrap(text, Self::read)
    }
}

/// A founding string's one-time secret; wiped when dropped, never shown, compared in constant time.
#[derive(Clone)]
pub struct Token(Zeroizing<[u8; 16]>);

impl Token {
    /// Makes a fresh token.
    pub fn generate<R: RngCore + CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut bytes = Zeroizing::new([0; 16]);
        rng.fill_bytes(&mut *bytes);
        Self(bytes)
    }

    /// Takes the secret bytes of a stored token.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether both are the same, in a time that does not depend on the bytes.
    pub fn matches(&self, other: &Self) -> bool {
        subtle::ConstantTimeEq::ct_eq(self.0.as_slice(), other.0.as_slice()).into()
    }
}

/// Whatever was pasted.
#[derive(Clone, Debug)]
pub enum Pasted {
    /// An invite.
    Invite(Box<Invite>),
    /// A founding string.
    Founding(Founding),
}

impl FromStr for Pasted {
    type Err = PasteError;

    fn from_str(text: &str) -> Result<Self, PasteError> {
        match Kind::of(&squeeze(text)?)?.0 {
            Kind::Invite => text.parse().map(Box::new).map(Self::Invite),
            Kind::Founding => text.parse().map(Self::Founding),
            Kind::Proposal => Err(PasteError::ProposalNotInvite),
        }
    }
}
