//! Names of machines and networks: DNS labels that are safe in a hosts file, a shell, an URL and a terminal.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A validated DNS label: 1 to 63 of `a-z`, `0-9` and `-`, neither starting nor ending with `-`, not a number in any
/// spelling that `inet_aton` would take for an address, without the `--` in third place that marks encoded labels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Takes a label from outside.
    ///
    /// # Errors
    /// [`NameError`] says which rule the label breaks. Reserved labels pass: whether one may be used is
    /// [`Name::is_reserved`]'s to say.
    pub fn new(text: &str) -> Result<Self, NameError> {
        Self::from_bytes(text.as_bytes())
    }

    /// Makes a name out of whatever a machine calls itself: the first label of a host name, lower-cased, other characters
    /// turned into `-`; `node` where nothing usable is left.
    pub fn from_hostname(hostname: &str) -> Self {
        let first = hostname.split('.').next().unwrap_or_default().to_ascii_lowercase();
        let mut label = String::new();
        for character in first.chars() {
            let safe = character.is_ascii_lowercase() || character.is_ascii_digit();
            if safe && label.len() < MAX_LEN {
                label.push(character);
            } else if !label.is_empty() && !label.ends_with('-') && label.len() < MAX_LEN {
                label.push('-');
            }
        }
        Self::new(label.trim_end_matches('-'))
            .ok()
            .filter(|name| !name.is_reserved())
            .unwrap_or_else(|| Self(FALLBACK.to_owned()))
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, NameError> {
        if bytes.is_empty() {
            return Err(NameError::Empty);
        }
        if bytes.len() > MAX_LEN {
            return Err(NameError::TooLong);
        }
        let allowed = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
        if !bytes.iter().all(allowed) {
            return Err(NameError::Character);
        }
        if bytes.first() == Some(&b'-') || bytes.last() == Some(&b'-') {
            return Err(NameError::Hyphen);
        }
        if bytes.get(2..4) == Some(b"--") {
            return Err(NameError::Encoded);
        }
        if looks_like_a_number(bytes) {
            return Err(NameError::Number);
        }
        // Only ASCII passed above.
        Ok(Self(bytes.iter().map(|byte| char::from(*byte)).collect()))
    }

    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the label is one of [`RESERVED`], which no machine may be called.
    pub fn is_reserved(&self) -> bool {
        RESERVED.contains(&self.as_str())
    }

    /// The name with `-number` at its end, shortened where it would grow beyond 63 bytes.
    fn numbered(&self, number: u32) -> Self {
        let suffix = format!("-{number}");
        let room = MAX_LEN.saturating_sub(suffix.len());
        let stem = self.0.get(..room).unwrap_or(&self.0).trim_end_matches('-');
        Self(format!("{stem}{suffix}"))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing there.
    #[error("a name needs at least one character")]
    Empty,
    /// More than 63 bytes.
    #[error("a name has at most 63 characters")]
    TooLong,
    /// A character outside `a-z`, `0-9`, `-`.
    #[error("a name has lower-case letters a to z, digits and hyphens only")]
    Character,
    /// A hyphen at an end.
    #[error("a name neither starts nor ends with a hyphen")]
    Hyphen,
    /// `--` in third and fourth place, as in `xn--`.
    #[error("a name has no double hyphen after its second character")]
    Encoded,
    /// Only digits, or `0x` and hexadecimal digits.
    #[error("a name is not a number")]
    Number,
}

/// Who holds which name: first come, first served, in log order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registry<K> {
    holders: BTreeMap<Name, K>,
    /// The next number for a wish that is taken. Numbers are not given twice, which also keeps a replay with one wish for
    /// all members from searching quadratically.
    next: BTreeMap<Name, u32>,
}

impl<K: Copy> Registry<K> {
    pub(crate) const fn new() -> Self {
        Self { holders: BTreeMap::new(), next: BTreeMap::new() }
    }

    /// Gives `holder` the name it wishes for, or the next free `wish-2`, `wish-3`, ….
    pub(crate) fn assign(&mut self, wish: &Name, holder: K) -> Name {
        if !self.holders.contains_key(wish) {
            self.holders.insert(wish.clone(), holder);
            return wish.clone();
        }
        let next = self.next.entry(wish.clone()).or_insert(2);
        loop {
            let name = wish.numbered(*next);
            *next = next.saturating_add(1);
            if !self.holders.contains_key(&name) {
                self.holders.insert(name.clone(), holder);
                return name;
            }
        }
    }

    /// The next number for each wish that was taken once.
    pub(crate) const fn counters(&self) -> &BTreeMap<Name, u32> {
        &self.next
    }

    /// Takes up who holds what, and the counters.
    pub(crate) fn restore(
        holders: impl IntoIterator<Item = (Name, K)>,
        counters: impl IntoIterator<Item = (Name, u32)>,
    ) -> Self {
        Self { holders: holders.into_iter().collect(), next: counters.into_iter().collect() }
    }

    /// Number of names that are held.
    pub(crate) fn len(&self) -> usize {
        self.holders.len()
    }

    /// Gives a name that is held to another holder.
    pub(crate) fn hand_over(&mut self, name: &Name, holder: K) {
        if let Some(place) = self.holders.get_mut(name) {
            *place = holder;
        }
    }

    pub(crate) fn release(&mut self, name: &Name) {
        self.holders.remove(name);
    }

    pub(crate) fn holder(&self, name: &Name) -> Option<K> {
        self.holders.get(name).copied()
    }
}

fn looks_like_a_number(bytes: &[u8]) -> bool {
    match bytes {
        [b'0', b'x', rest @ ..] => rest.iter().all(u8::is_ascii_hexdigit),
        digits => digits.iter().all(u8::is_ascii_digit),
    }
}

/// Labels that no machine may be called, because resolvers, hosts files or this program give them a meaning.
///
/// Special-use names of RFC 6761, 6762, 7686 and 9476 as far as they are single labels, names that hosts files define,
/// names that clients look up by themselves (`wpad`, `isatap`), and words of our own command line. A network may bear one
/// of them: its name stands only in front of `internal`.
pub const RESERVED: [&str; 26] = [
    "all",
    "alt",
    "any",
    "arpa",
    "broadcasthost",
    "default",
    "dns",
    "example",
    "gateway",
    "ginnel",
    "internal",
    "invalid",
    "ip6-allnodes",
    "ip6-allrouters",
    "ip6-localhost",
    "ip6-loopback",
    "isatap",
    "local",
    "localdomain",
    "localhost",
    "me",
    "none",
    "onion",
    "self",
    "test",
    "wpad",
];

/// Bytes of a DNS label, RFC 1035 section 2.3.4.
pub const MAX_LEN: usize = 63;
const FALLBACK: &str = "node";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a good name")
    }

    #[test]
    fn hostile_names_are_refused() {
        use NameError::*;
        for (text, error) in [
            ("", Empty),
            ("-x", Hyphen),
            ("x-", Hyphen),
            ("-", Hyphen),
            ("a.b", Character),
            ("A", Character),
            ("a\nb", Character),
            ("a\0", Character),
            ("a\u{1b}[2J", Character),
            ("a'b", Character),
            ("a\"b", Character),
            ("%n", Character),
            ("$(id)", Character),
            ("a b", Character),
            ("é", Character),
            ("a_b", Character),
            ("xn--bcher-kva", Encoded),
            ("127", Number),
            ("0x7f000001", Number),
            ("0x", Number),
        ] {
            assert_eq!(Name::new(text), Err(error), "{text:?}");
        }
        assert_eq!(Name::new(&"a".repeat(64)), Err(TooLong));
        assert!(Name::new(&"a".repeat(63)).is_ok());
        for good in ["a", "0x7g", "1a", "laptop-2", "a--b"] {
            assert!(Name::new(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn reserved_list_is_sorted_and_made_of_names() {
        assert!(RESERVED.is_sorted());
        assert!(RESERVED.iter().all(|label| name(label).is_reserved()));
        assert!(!name("laptop").is_reserved());
    }

    #[test]
    fn host_names_become_names() {
        for (hostname, expected) in [
            ("Annas-MacBook-Pro.local", "annas-macbook-pro"),
            ("büro_pc", "b-ro-pc"),
            ("localhost.localdomain", "node"),
            ("", "node"),
            ("---", "node"),
            ("10.0.0.1", "node"),
            ("xn--abc", "xn-abc"),
        ] {
            assert_eq!(Name::from_hostname(hostname).as_str(), expected, "{hostname}");
        }
    }

    #[test]
    fn taken_names_are_numbered() {
        let mut registry = Registry::new();
        let wish = name("laptop");
        assert_eq!(registry.assign(&wish, 1), wish);
        assert_eq!(registry.assign(&wish, 2), name("laptop-2"));
        assert_eq!(registry.assign(&name("laptop-3"), 3), name("laptop-3"));
        assert_eq!(registry.assign(&wish, 4), name("laptop-4"));
        registry.release(&wish);
        assert_eq!(registry.assign(&wish, 5), wish);
        assert_eq!(registry.holder(&wish), Some(5));
    }

    #[test]
    fn numbered_names_stay_labels() {
        let mut registry = Registry::new();
        for text in ["a".repeat(63), format!("{}-{}", "a".repeat(60), "bb"), format!("a{}b", "-".repeat(61))] {
            if let Ok(wish) = Name::new(&text) {
                for holder in 0..12 {
                    let given = registry.assign(&wish, holder);
                    assert_eq!(Name::new(given.as_str()), Ok(given));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn only_harmless_bytes_pass(bytes in proptest::collection::vec(any::<u8>(), 0..70)) {
            if let Ok(name) = Name::from_bytes(&bytes) {
                prop_assert!(name.as_str().bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')));
                prop_assert!(name.as_str().parse::<std::net::IpAddr>().is_err());
            }
        }

        #[test]
        fn every_host_name_gives_a_name(hostname in ".*") {
            let name = Name::from_hostname(&hostname);
            prop_assert_eq!(Name::new(name.as_str()), Ok(name.clone()));
            prop_assert!(!name.is_reserved());
        }
    }
}
