//! Strings that people paste, and what they do to them.

use blake2::{Blake2s256, Digest as _};
use data_encoding::BASE64URL_NOPAD;
use ginnel_membership::invite::{MAX_STRING_LEN, Token};
use ginnel_membership::keys::{NetworkId, Server, SigningKey};
use ginnel_membership::{Founding, Invite, Malformed, PasteError, Pasted};
use proptest::prelude::*;

use crate::world::{START, name, server};

pub(crate) fn invite() -> Invite {
    let key = SigningKey::from_bytes(&[0x77; 32]);
    Invite::new(&[server()], NetworkId::from_bytes([0xab; 32]), key, START, Some(name("annas-laptop"))).unwrap()
}

pub(crate) fn founding() -> Founding {
    Founding::new(server(), Token::from_bytes([0x99; 16])).unwrap()
}

#[test]
fn strings_survive_their_journey() {
    let text = invite().to_string();
    assert!(text.starts_with("ginnel-invite-") && text.len() <= MAX_STRING_LEN);
    let read: Invite = text.parse().unwrap();
    assert_eq!(read.servers(), [server()]);
    assert_eq!(read.network(), NetworkId::from_bytes([0xab; 32]));
    assert_eq!(*read.key().to_bytes(), [0x77; 32]);
    assert_eq!((read.expires(), read.hint()), (START, Some(&name("annas-laptop"))));
    assert!(!read.is_expired(START - 1) && read.is_expired(START));
    assert_eq!(read.to_string(), text);

    let text = founding().to_string();
    assert!(text.starts_with("ginnel-found-") && text.len() <= MAX_STRING_LEN);
    let read: Founding = text.parse().unwrap();
    assert_eq!(read.server(), &server());
    assert!(read.token().matches(&Token::from_bytes([0x99; 16])));
    assert!(!read.token().matches(&Token::from_bytes([0x98; 16])));
}

#[test]
fn white_space_of_terminals_and_mails_is_forgiven() {
    let text = invite().to_string();
    let wrapped: Vec<_> = text.as_bytes().chunks(40).map(|chunk| std::str::from_utf8(chunk).unwrap()).collect();
    let wrapped = format!("  {}\r\n", wrapped.join("\r\n   "));
    assert_eq!(wrapped.parse::<Invite>().unwrap().to_string(), text);
}

#[test]
fn every_truncation_says_so() {
    for text in [invite().to_string(), founding().to_string()] {
        for len in 1..text.len() {
            assert_eq!(text[..len].parse::<Pasted>().err(), Some(PasteError::Truncated), "{len}");
        }
        assert_eq!(format!("{text}A").parse::<Pasted>().err(), Some(PasteError::Trailing));
        assert_eq!(format!("{text} and some words").parse::<Pasted>().err(), Some(PasteError::Trailing));
        assert_eq!(format!("{text}{text}").parse::<Pasted>().err(), Some(PasteError::Trailing));
    }
    assert_eq!("".parse::<Pasted>().err(), Some(PasteError::Empty));
    assert_eq!(" \n".parse::<Invite>().err(), Some(PasteError::Empty));
}

#[test]
fn every_wrong_character_is_noticed() {
    for text in [invite().to_string(), founding().to_string()] {
        for index in 0..text.len() {
            for wrong in ['A', 'b', '7', '_', '-', '+', '=', '/', '%'] {
                let mut bad: Vec<char> = text.chars().collect();
                if bad[index] != wrong {
                    bad[index] = wrong;
                    let bad: String = bad.into_iter().collect();
                    assert!(bad.parse::<Pasted>().is_err(), "{index} {wrong}");
                }
            }
        }
    }
    let text = invite().to_string();
    let mut swapped = text.into_bytes();
    swapped.swap(100, 101);
    let swapped = String::from_utf8(swapped).unwrap();
    assert_eq!(swapped.parse::<Invite>().err(), Some(PasteError::Mistyped));
}

#[test]
fn wrong_kind_is_named() {
    assert_eq!(founding().to_string().parse::<Invite>().err(), Some(PasteError::FoundingNotInvite));
    assert_eq!(invite().to_string().parse::<Founding>().err(), Some(PasteError::InviteNotFounding));
    assert_eq!("https://example.com".parse::<Pasted>().err(), Some(PasteError::NotGinnel));
    assert_eq!("é".repeat(1000).parse::<Pasted>().err(), Some(PasteError::NotGinnel));
    // A payload of one kind under the other's prefix has the wrong checksum.
    let dressed = founding().to_string().replace("ginnel-found-", "ginnel-invite-");
    assert_eq!(dressed.parse::<Invite>().err(), Some(PasteError::Mistyped));
    assert!(matches!(founding().to_string().parse(), Ok(Pasted::Founding(_))));
    assert!(matches!(invite().to_string().parse(), Ok(Pasted::Invite(_))));
}

#[test]
fn newer_version_is_named() {
    // The first base64 character holds the high bits of the version, the second its low bits.
    let newer = invite().to_string().replacen("ginnel-invite-AQ", "ginnel-invite-Ag", 1);
    assert_eq!(newer.parse::<Invite>().err(), Some(PasteError::NewerVersion));
}

#[test]
fn secrets_stay_out_of_debug() {
    let shown = format!("{:?} {:?} {:?}", invite(), founding(), invite().to_string().parse::<Pasted>());
    let text = invite().to_string();
    assert!(!shown.contains("7777") && !shown.contains("119, 119") && !shown.contains("153, 153"));
    assert!(!shown.contains(&text[60..80]));
    assert!(shown.contains("secret"));
}

#[test]
fn token_matches_as_a_whole_only() {
    let token = Token::from_bytes([7; 16]);
    assert!(token.matches(&Token::from_bytes([7; 16])));
    for place in 0..16 {
        let mut other = [7; 16];
        other[place] ^= 1;
        assert!(!token.matches(&Token::from_bytes(other)), "byte {place} does not count");
    }
}

#[test]
fn strings_stay_short() {
    let long = |letter: &str| Server {
        addresses: vec![format!("{}.{}:4433", letter.repeat(60), letter.repeat(60)); 4],
        ..server()
    };
    let key = SigningKey::from_bytes(&[1; 32]);
    let network = NetworkId::from_bytes([0; 32]);
    let hint = Some(name(&"h".repeat(63)));
    let invite = Invite::new(&[long("a"), long("b")], network, key.clone(), START, hint).unwrap();
    let text = invite.to_string();
    assert!(text.len() <= MAX_STRING_LEN);
    assert_eq!(invite.servers(), [Server { addresses: vec![format!("{0}.{0}:4433", "a".repeat(60))], ..server() }]);
    assert_eq!(text.parse::<Invite>().unwrap().servers(), invite.servers());
    let short: Vec<_> = (1..=4).map(|n| Server { addresses: vec![format!("192.0.2.{n}:443")], ..server() }).collect();
    let kept = Invite::new(&short, network, key.clone(), START, None).unwrap();
    assert_eq!(kept.servers(), &short[..kept.servers().len()]);
    assert!(kept.servers().len() >= 3);
    assert_eq!(Invite::new(&[], network, key.clone(), START, None).err(), Some(Malformed::Count(0, "servers")));
    assert!(Invite::new(&vec![server(); 5], network, key, START, None).is_err());
    assert_eq!(Founding::new(long("c"), Token::from_bytes([0; 16])).err(), Some(Malformed::TooLong));
}

/// A string with any payload, whole and with a true checksum.
fn framed(prefix: &str, payload: &[u8]) -> String {
    let mut bytes = vec![1];
    bytes.extend_from_slice(&((payload.len() + 7) as u16).to_be_bytes());
    bytes.extend_from_slice(payload);
    let checksum = Blake2s256::new().chain_update([prefix.len() as u8]).chain_update(prefix).chain_update(&bytes);
    bytes.extend_from_slice(&checksum.finalize()[..4]);
    format!("{prefix}{}", BASE64URL_NOPAD.encode(&bytes))
}

fn payload(text: &str, prefix: &str) -> Vec<u8> {
    let bytes = BASE64URL_NOPAD.decode(text.strip_prefix(prefix).unwrap().as_bytes()).unwrap();
    bytes[3..bytes.len() - 4].to_vec()
}

#[test]
fn intact_string_with_senseless_content_says_so() {
    let good = payload(&invite().to_string(), "ginnel-invite-");
    assert!(framed("ginnel-invite-", &good).parse::<Invite>().is_ok());
    let short = framed("ginnel-invite-", &good[..good.len() - 1]);
    assert_eq!(short.parse::<Invite>().err(), Some(PasteError::Content(Malformed::Truncated)));
    let long = framed("ginnel-invite-", &[&good[..], &[0]].concat());
    assert_eq!(long.parse::<Invite>().err(), Some(PasteError::Content(Malformed::Trailing(1))));
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,80}", at in any::<prop::sample::Index>(), insert in ".{0,4}") {
        let _ = text.parse::<Pasted>();
        for whole in [invite().to_string(), founding().to_string()] {
            let (head, tail) = whole.split_at(at.index(whole.len()));
            let _ = format!("{head}{insert}{tail}").parse::<Pasted>();
            let _ = format!("{head}{text}").parse::<Pasted>();
        }
    }

    #[test]
    fn what_parses_has_one_string(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        noise in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        for (prefix, whole) in [("ginnel-invite-", invite().to_string()), ("ginnel-found-", founding().to_string())] {
            let mut edited = payload(&whole, prefix);
            for (at, value) in &edits {
                let at = at.index(edited.len());
                edited[at] = *value;
            }
            for content in [&edited, &noise] {
                let text = framed(prefix, content);
                match text.parse::<Pasted>() {
                    Ok(Pasted::Invite(invite)) => prop_assert_eq!(invite.to_string(), text),
                    Ok(Pasted::Founding(founding)) => prop_assert_eq!(founding.to_string(), text),
                    Err(error) => prop_assert!(matches!(error, PasteError::Content(_)), "{}", error),
                }
            }
        }
    }
}
