//! The server's side of a Binding transaction.

use std::net::SocketAddr;

use crate::codec::{Builder, Class, Malformed, Message, Method};

/// Most bytes in an answer that [`answer_binding`] gives.
pub const MAX_ANSWER_LEN: usize = 92;

/// Why a datagram gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Discard {
    /// The bytes are not one whole message.
    #[error("malformed message")]
    Malformed(#[from] Malformed),
    /// The message is not a Binding request.
    #[error("not a Binding request")]
    NotBindingRequest,
}

/// Answers a Binding request that came from `from`, with mandatory attributes only: XOR-MAPPED-ADDRESS, and FINGERPRINT
/// if the request carried one.
///
/// A request with an unknown comprehension-required attribute gets error 420. No answer is longer than
/// [`MAX_ANSWER_LEN`]. Nothing is authenticated and nothing is remembered; limiting the rate of answers is up to the
/// caller.
///
/// # Errors
/// [`Discard`] for everything that is not a Binding request.
pub fn answer_binding(datagram: &[u8], from: SocketAddr) -> Result<Vec<u8>, Discard> {
    let request = Message::decode(datagram)?;
    if (request.class(), request.method()) != (Class::Request, Method::Binding) {
        return Err(Discard::NotBindingRequest);
    }
    Ok(answer_binding_message(&request, from))
}

fn answer_binding_message(request: &Message, from: SocketAddr) -> Vec<u8> {
    let mut unknown = request.unknown_required(&UNDERSTOOD);
    let answer = if unknown.is_empty() {
        let seen = SocketAddr::new(from.ip().to_canonical(), from.port());
        Builder::new(Class::Success, Method::Binding, request.transaction()).xor_mapped_address(seen)
    } else {
        unknown.truncate(MAX_UNKNOWN_LISTED);
        Builder::new(Class::Error, Method::Binding, request.transaction()).error(420).unknown_attributes(&unknown)
    };
    let bytes = if request.has_fingerprint() { answer.encode_with_fingerprint() } else { answer.encode() };
    bytes.expect("addresses, numbers and fixed phrases always fit")
}

/// What a Binding request may carry without being refused. Credentials are understood and not asked for.
const UNDERSTOOD: [u16; 3] =
    [crate::codec::attribute::USERNAME, crate::codec::attribute::REALM, crate::codec::attribute::NONCE];
/// Keeps a 420 answer below [`MAX_ANSWER_LEN`].
const MAX_UNKNOWN_LISTED: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{AddressFamily, TransactionId};

    const ID: TransactionId = TransactionId([7; 12]);

    #[test]
    fn answer_names_the_source_and_nothing_else() {
        let from: SocketAddr = "[2001:db8::1]:4242".parse().unwrap();
        let request = Builder::new(Class::Request, Method::Binding, ID).encode().unwrap();
        let bytes = answer_binding(&request, from).unwrap();
        let answer = Message::decode(&bytes).unwrap();
        assert_eq!((answer.class(), answer.transaction()), (Class::Success, ID));
        assert_eq!(answer.xor_mapped_address(), Some(from));
        assert_eq!(bytes.len(), 20 + 24);
    }

    #[test]
    fn fingerprint_is_given_only_if_asked_for() {
        let from: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let plain = Builder::new(Class::Request, Method::Binding, ID).encode().unwrap();
        let marked = Builder::new(Class::Request, Method::Binding, ID).encode_with_fingerprint().unwrap();
        assert!(!Message::decode(&answer_binding(&plain, from).unwrap()).unwrap().has_fingerprint());
        assert!(Message::decode(&answer_binding(&marked, from).unwrap()).unwrap().has_fingerprint());
    }

    #[test]
    fn mapped_ipv4_sources_are_named_as_ipv4() {
        let request = Builder::new(Class::Request, Method::Binding, ID).encode().unwrap();
        let bytes = answer_binding(&request, "[::ffff:192.0.2.9]:77".parse().unwrap()).unwrap();
        assert_eq!(Message::decode(&bytes).unwrap().xor_mapped_address(), Some("192.0.2.9:77".parse().unwrap()));
    }

    #[test]
    fn unknown_required_attributes_are_refused_by_name() {
        let request = Builder::new(Class::Request, Method::Binding, ID)
            .requested_address_family(AddressFamily::Ipv6)
            .encode()
            .unwrap();
        let bytes = answer_binding(&request, "192.0.2.1:1".parse().unwrap()).unwrap();
        let answer = Message::decode(&bytes).unwrap();
        assert_eq!(answer.error().map(|(code, _)| code), Some(420));
        assert_eq!(answer.unknown_attributes(), Some(&[0x0017][..]));
    }

    #[test]
    fn answers_stay_small_whatever_the_request_holds() {
        let mut request = Builder::new(Class::Request, Method::Binding, ID).encode().unwrap();
        for kind in 0x4000_u16..0x4030 {
            request.extend_from_slice(&kind.to_be_bytes());
            request.extend_from_slice(&[0, 0]);
        }
        let length = u16::try_from(request.len() - 20).unwrap();
        request[2..4].copy_from_slice(&length.to_be_bytes());
        let answer = answer_binding(&request, "[2001:db8::1]:1".parse().unwrap()).unwrap();
        assert!(answer.len() <= MAX_ANSWER_LEN, "{}", answer.len());
        assert!(Message::decode(&answer).unwrap().error().is_some());
    }

    #[test]
    fn indications_answers_and_other_methods_get_nothing() {
        let from = "192.0.2.1:1".parse().unwrap();
        for (class, method) in [
            (Class::Indication, Method::Binding),
            (Class::Success, Method::Binding),
            (Class::Error, Method::Binding),
            (Class::Request, Method::Allocate),
        ] {
            let bytes = Builder::new(class, method, ID).encode().unwrap();
            assert_eq!(answer_binding(&bytes, from), Err(Discard::NotBindingRequest));
        }
    }
}
