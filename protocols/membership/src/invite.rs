//! The strings that people paste: an [`Invite`] joins a machine to a network, a [`Founding`] string founds one on a
//! fresh server. Both are secrets: whoever holds one can use it.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use rand_core::{CryptoRng, RngCore};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::codec::{MAX_SERVERS, Malformed, Reader, Writer, check_server, check_servers};
use crate::keys::{InviteKey, NetworkId, Server, SigningKey, hash};
use crate::name::Name;

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
        let mut writer = Writer::for_secrets();
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
        let mut writer = Writer::for_secrets();
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
        }
    }
}

/// Why a pasted string cannot be used, in words for whoever pasted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PasteError {
    /// Nothing there.
    #[error("nothing was pasted")]
    Empty,
    /// Neither prefix stands at its start.
    #[error("this is not a ginnel string: those start with \"ginnel-invite-\" or \"ginnel-found-\"")]
    NotGinnel,
    /// A founding string in an invite's place.
    #[error("this is a founding string, not an invite: use it with `ginnel up` to found a network")]
    FoundingNotInvite,
    /// An invite in a founding string's place.
    #[error("this is an invite, not a founding string: it joins a network that exists already")]
    InviteNotFounding,
    /// The end is missing.
    #[error("the string is cut short: copy it whole, to its last character")]
    Truncated,
    /// Something else follows.
    #[error("the string has characters after its end: copy it alone")]
    Trailing,
    /// A character or more is wrong.
    #[error("the string is mistyped: copy it again")]
    Mistyped,
    /// Made by a later version.
    #[error("the string was made by a newer version of ginnel: update ginnel on this machine")]
    NewerVersion,
    /// Intact, but its content makes no sense.
    #[error("the string is intact, but its content is not valid: {0}")]
    Content(#[source] Malformed),
}

/// The two kinds of string: `prefix`, then base64url of {version u8 = 1, length of all bytes u16, payload, checksum 4}.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Invite,
    Founding,
}

impl Kind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Invite => "ginnel-invite-",
            Self::Founding => "ginnel-found-",
        }
    }

    fn of(text: &str) -> Result<(Self, &str), PasteError> {
        if text.is_empty() {
            return Err(PasteError::Empty);
        }
        for kind in [Self::Invite, Self::Founding] {
            if let Some(rest) = text.strip_prefix(kind.prefix()) {
                return Ok((kind, rest));
            }
            if kind.prefix().starts_with(text) {
                return Err(PasteError::Truncated);
            }
        }
        Err(PasteError::NotGinnel)
    }

    fn wrap(self, payload: &[u8]) -> Zeroizing<String> {
        let mut writer = Writer::for_secrets();
        writer.u8(VERSION).u16((FRAME + payload.len()) as u16).bytes(payload);
        let mut bytes = Zeroizing::new(writer.into_bytes());
        let checksum = self.checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        let mut text = Zeroizing::new(String::with_capacity(MAX_STRING_LEN));
        text.push_str(self.prefix());
        BASE64URL_NOPAD.encode_append(&bytes, &mut text);
        text
    }

    fn unwrap<T>(
        self,
        text: &str,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
    ) -> Result<T, PasteError> {
        let text = squeeze(text)?;
        let rest = match (self, Self::of(&text)?) {
            (Self::Invite, (Self::Founding, _)) => return Err(PasteError::FoundingNotInvite),
            (Self::Founding, (Self::Invite, _)) => return Err(PasteError::InviteNotFounding),
            (Self::Invite, (Self::Invite, rest)) | (Self::Founding, (Self::Founding, rest)) => rest,
        };
        let bytes = decode_frame(rest)?;
        let body_len = bytes.len().checked_sub(CHECKSUM_LEN).ok_or(PasteError::Mistyped)?;
        let (body, checksum) = bytes.split_at_checked(body_len).ok_or(PasteError::Mistyped)?;
        if self.checksum(body) != checksum {
            return Err(PasteError::Mistyped);
        }
        let mut reader = Reader::new(body);
        let result = reader.bytes(HEADER_LEN).and_then(|_| read(&mut reader));
        let value = result.map_err(PasteError::Content)?;
        reader.end().map_err(PasteError::Content)?;
        Ok(value)
    }

    fn checksum(self, bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
        let [a, b, c, d, ..] = hash(self.prefix(), &[bytes]);
        [a, b, c, d]
    }
}

/// Undoes what mail and terminals do to a long line: white space anywhere is dropped.
fn squeeze(text: &str) -> Result<Zeroizing<String>, PasteError> {
    let mut squeezed = Zeroizing::new(String::with_capacity(MAX_STRING_LEN + 1));
    for character in text.chars().filter(|character| !character.is_whitespace()) {
        if squeezed.len() > MAX_STRING_LEN {
            break;
        }
        squeezed.push(character);
    }
    if squeezed.len() > MAX_STRING_LEN && Kind::of(&squeezed).is_ok() {
        return Err(PasteError::Trailing);
    }
    Ok(squeezed)
}

/// Decodes the base64url part after holding its length against the length it states, so that a cut string is told from a
/// mistyped one.
fn decode_frame(text: &str) -> Result<Zeroizing<Vec<u8>>, PasteError> {
    let header = text.as_bytes().get(..4).ok_or(PasteError::Truncated)?;
    let header = BASE64URL_NOPAD.decode(header).map_err(|_| PasteError::Mistyped)?;
    let [version, high, low] = header[..] else { return Err(PasteError::Mistyped) };
    match version {
        VERSION => {}
        0 => return Err(PasteError::Mistyped),
        _ => return Err(PasteError::NewerVersion),
    }
    let stated = usize::from(u16::from_be_bytes([high, low]));
    if !(FRAME..=FRAME + MAX_PAYLOAD).contains(&stated) {
        return Err(PasteError::Mistyped);
    }
    match text.len().cmp(&BASE64URL_NOPAD.encode_len(stated)) {
        std::cmp::Ordering::Less => Err(PasteError::Truncated),
        std::cmp::Ordering::Greater => Err(PasteError::Trailing),
        std::cmp::Ordering::Equal => {
            BASE64URL_NOPAD.decode(text.as_bytes()).map(Zeroizing::new).map_err(|_| PasteError::Mistyped)
        }
    }
}

/// Characters of a string at most.
pub const MAX_STRING_LEN: usize = 512;
const VERSION: u8 = 1;
const HEADER_LEN: usize = 3;
const CHECKSUM_LEN: usize = 4;
const FRAME: usize = HEADER_LEN + CHECKSUM_LEN;
/// What is left of the characters after the longer prefix, in bytes of payload.
const MAX_PAYLOAD: usize = (MAX_STRING_LEN - "ginnel-invite-".len()) / 4 * 3 - FRAME;
const _: () = assert!(MAX_SERVERS <= 255);
