//! What two nodes say to each other through a server's mailbox, before a session exists.
//!
//! The body is sealed by `ginnel_signal_proto::mailbox`; these bytes are what is inside.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | kind: 1 offer, 2 answer, 3 cookie |
//! | 2 | 2 | length of the handshake message, big-endian |
//! | 4 | n | the handshake message: initiation, response or cookie reply, as on the wire |
//! | 4 + n | rest | the sender's candidates, as a path message of type `Candidates`; absent in a cookie |

use ginnel_path::Candidate;
use ginnel_path::message::{CandidateList, Message, Phase, decode};

/// A decoded body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mail {
    pub(crate) kind: MailKind,
    pub(crate) handshake: Vec<u8>,
    pub(crate) candidates: Vec<Candidate>,
}

/// What a mail brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MailKind {
    /// An initiation and the initiator's candidates.
    Offer,
    /// A response and the responder's candidates.
    Answer,
    /// A cookie reply.
    Cookie,
}

impl Mail {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            MailKind::Offer => 1,
            MailKind::Answer => 2,
            MailKind::Cookie => 3,
        };
        let length = u16::try_from(self.handshake.len()).unwrap_or(u16::MAX);
        let mut bytes = vec![VERSION, kind];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&self.handshake[..usize::from(length)]);
        if self.kind != MailKind::Cookie {
            let list = CandidateList { round: 0, phase: Phase::Update, candidates: self.candidates.clone() };
            bytes.extend_from_slice(&list.encode());
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[version, kind, high, low], rest) = bytes.split_first_chunk::<4>()?;
        if version != VERSION {
            return None;
        }
        let (handshake, list) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        let (kind, candidates) = match kind {
            1 => (MailKind::Offer, candidates(list)?),
            2 => (MailKind::Answer, candidates(list)?),
            3 if list.is_empty() => (MailKind::Cookie, Vec::new()),
            _ => return None,
        };
        Some(Self { kind, handshake: handshake.to_vec(), candidates })
    }
}

fn candidates(bytes: &[u8]) -> Option<Vec<Candidate>> {
    match decode(bytes) {
        Ok(Message::Candidates(list)) => Some(list.candidates),
        Ok(Message::Probe(_) | Message::Echo(_)) | Err(_) => None,
    }
}

const VERSION: u8 = 1;

#[cfg(test)]
mod tests {
    use ginnel_path::CandidateKind;
    use proptest::prelude::*;

    use super::*;

    fn mail(kind: MailKind) -> Mail {
        let candidate = Candidate { kind: CandidateKind::Host, addr: "192.168.1.2:4000".parse().expect("literal") };
        let candidates = if kind == MailKind::Cookie { Vec::new() } else { vec![candidate] };
        Mail { kind, handshake: vec![7; 152], candidates }
    }

    #[test]
    fn bodies_survive_the_round_trip() {
        for kind in [MailKind::Offer, MailKind::Answer, MailKind::Cookie] {
            assert_eq!(Mail::decode(&mail(kind).encode()), Some(mail(kind)));
        }
    }

    #[test]
    fn golden_cookie_body() {
        let body = Mail { kind: MailKind::Cookie, handshake: vec![0xAA, 0xBB], candidates: Vec::new() };
        assert_eq!(body.encode(), [1, 3, 0, 2, 0xAA, 0xBB]);
    }

    #[test]
    fn truncated_bodies_are_refused() {
        let whole = mail(MailKind::Offer).encode();
        for length in 0..whole.len() {
            assert_eq!(Mail::decode(&whole[..length]), None, "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(mail) = Mail::decode(&bytes) {
                prop_assert_eq!(Mail::decode(&mail.encode()), Some(mail));
            }
        }
    }
}
