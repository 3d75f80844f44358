//! The envelope of the strings that people paste, and what can be wrong with one.

use data_encoding::BASE64URL_NOPAD;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::codec::{Malformed, Reader, Writer};
use crate::keys::hash;
use crate::record::MAX_RECORD_LEN;

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
    /// A proposal in another string's place.
    #[error("this is a proposal that admins sign: use it with `ginnel cosign`")]
    ProposalNotInvite,
    /// Another string in a proposal's place.
    #[error("this is not a proposal: those start with \"ginnel-sign-\"")]
    NotProposal,
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

/// The kinds of string: `prefix`, then base64url of {version u8 = 1, length of all bytes u16, payload, checksum 4}.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Invite,
    Founding,
    Proposal,
}

impl Kind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Invite => "ginnel-invite-",
            Self::Founding => "ginnel-found-",
            Self::Proposal => "ginnel-sign-",
        }
    }

    /// Bytes of payload at most.
    const fn room(self) -> usize {
        match self {
            Self::Invite | Self::Founding => MAX_PAYLOAD,
            Self::Proposal => MAX_PROPOSAL,
        }
    }

    pub(crate) fn of(text: &str) -> Result<(Self, &str), PasteError> {
        if text.is_empty() {
            return Err(PasteError::Empty);
        }
        for kind in [Self::Invite, Self::Founding, Self::Proposal] {
            if let Some(rest) = text.strip_prefix(kind.prefix()) {
                return Ok((kind, rest));
            }
            if kind.prefix().starts_with(text) {
                return Err(PasteError::Truncated);
            }
        }
        Err(PasteError::NotGinnel)
    }

    pub(crate) fn wrap(self, payload: &[u8]) -> Zeroizing<String> {
        let mut writer = Writer::for_secrets(FRAME + payload.len());
        writer.u8(VERSION).u16((FRAME + payload.len()) as u16).bytes(payload);
        let mut bytes = Zeroizing::new(writer.into_bytes());
        let checksum = self.checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        let mut text = Zeroizing::new(String::with_capacity(MAX_TEXT_LEN));
        text.push_str(self.prefix());
        BASE64URL_NOPAD.encode_append(&bytes, &mut text);
        text
    }

    pub(crate) fn unwrap<T>(
        self,
        text: &str,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
    ) -> Result<T, PasteError> {
        let text = squeeze(text)?;
        let (kind, rest) = Self::of(&text)?;
        if kind != self {
            return Err(match (self, kind) {
                (Self::Proposal, _) => PasteError::NotProposal,
                (_, Self::Proposal) => PasteError::ProposalNotInvite,
                (Self::Founding, _) => PasteError::InviteNotFounding,
                (Self::Invite, _) => PasteError::FoundingNotInvite,
            });
        }
        let bytes = self.decode_frame(rest)?;
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

    /// Decodes the base64url part after holding its length against the length it states, so that a cut string is told from a
    /// mistyped one.
    fn decode_frame(self, text: &str) -> Result<Zeroizing<Vec<u8>>, PasteError> {
        let header = text.as_bytes().get(..4).ok_or(PasteError::Truncated)?;
        let header = BASE64URL_NOPAD.decode(header).map_err(|_| PasteError::Mistyped)?;
        let [version, high, low] = header[..] else { return Err(PasteError::Mistyped) };
        match version {
            VERSION => {}
            0 => return Err(PasteError::Mistyped),
            _ => return Err(PasteError::NewerVersion),
        }
        let stated = usize::from(u16::from_be_bytes([high, low]));
        if !(FRAME..=FRAME + self.room()).contains(&stated) {
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

    fn checksum(self, bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
        let [a, b, c, d, ..] = hash(self.prefix(), &[bytes]);
        [a, b, c, d]
    }
}

/// Undoes what mail and terminals do to a long line: white space anywhere is dropped.
pub(crate) fn squeeze(text: &str) -> Result<Zeroizing<String>, PasteError> {
    let mut squeezed = Zeroizing::new(String::with_capacity(MAX_TEXT_LEN + 1));
    for character in text.chars().filter(|character| !character.is_whitespace()) {
        if squeezed.len() > MAX_TEXT_LEN {
            break;
        }
        squeezed.push(character);
    }
    if squeezed.len() > MAX_TEXT_LEN && Kind::of(&squeezed).is_ok() {
        return Err(PasteError::Trailing);
    }
    Ok(squeezed)
}

/// Characters of an invite or a founding string at most.
pub const MAX_STRING_LEN: usize = 512;
const VERSION: u8 = 1;
const HEADER_LEN: usize = 3;
const CHECKSUM_LEN: usize = 4;
const FRAME: usize = HEADER_LEN + CHECKSUM_LEN;
/// What is left of an invite's characters after its prefix, in bytes of payload.
pub(crate) const MAX_PAYLOAD: usize = (MAX_STRING_LEN - "ginnel-invite-".len()) / 4 * 3 - FRAME;
/// Network id and record.
const MAX_PROPOSAL: usize = 32 + MAX_RECORD_LEN;
/// Characters of the longest string, a proposal with the longest record.
const MAX_TEXT_LEN: usize = "ginnel-sign-".len() + (FRAME + MAX_PROPOSAL).div_ceil(3) * 4;
