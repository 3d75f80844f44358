//! Gossip on the wire; the table is in the crate's documentation.

use super::MAX_PACKETS;

/// First bytes of the messages.
const HEAD: u8 = 0x12;
const WANT: u8 = 0x13;
const ENTRIES: u8 = 0x14;
const REVOCATION: u8 = 0x15;
const VERSION: u8 = 1;

/// Whether a control message with this first byte is gossip.
pub(crate) const fn is_gossip(first: u8) -> bool {
    matches!(first, HEAD..=REVOCATION)
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The end of the sender's log.
    Head { length: u64, hash: [u8; 32] },
    /// Asks for the entries from this sequence on.
    Want { from: u64 },
    /// Entries, or a part of one.
    Entries(Entries),
    /// A signed revocation that no log may hold yet.
    Revocation(Vec<u8>),
}

/// One packet of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entries {
    /// Sequence of the first entry.
    pub(super) first: u64,
    /// Whether nothing follows in this answer.
    pub(super) last: bool,
    pub(super) content: Content,
}

/// What a packet holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Whole entries with consecutive sequences.
    Whole(Vec<Vec<u8>>),
    /// Part `part` of `parts` of one entry.
    Part { part: u8, parts: u8, bytes: Vec<u8> },
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Head { length, hash } => {
                [[HEAD, VERSION].as_slice(), &length.to_be_bytes(), hash.as_slice()].concat()
            }
            Self::Want { from } => [[WANT, VERSION].as_slice(), &from.to_be_bytes()].concat(),
            Self::Entries(entries) => entries.encode(),
            Self::Revocation(record) => [[REVOCATION, VERSION].as_slice(), record].concat(),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[kind, version], rest) = bytes.split_first_chunk::<2>()?;
        if version != VERSION {
            return None;
        }
        match kind {
            HEAD => {
                let (length, hash) = rest.split_first_chunk::<8>()?;
                Some(Self::Head { length: u64::from_be_bytes(*length), hash: hash.try_into().ok()? })
            }
            WANT => Some(Self::Want { from: u64::from_be_bytes(rest.try_into().ok()?) }),
            ENTRIES => Entries::decode(rest).map(Self::Entries),
            REVOCATION if !rest.is_empty() && rest.len() <= MAX_RECORD => Some(Self::Revocation(rest.to_vec())),
            _ => None,
        }
    }
}

impl Entries {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![ENTRIES, VERSION];
        bytes.extend_from_slice(&self.first.to_be_bytes());
        bytes.push(u8::from(self.last));
        match &self.content {
            Content::Whole(entries) => {
                bytes.extend_from_slice(&[0, 1]);
                for entry in entries {
                    bytes.extend_from_slice(&u16::try_from(entry.len()).unwrap_or(u16::MAX).to_be_bytes());
                    bytes.extend_from_slice(entry);
                }
            }
            Content::Part { part, parts, bytes: content } => {
                bytes.extend_from_slice(&[*part, *parts]);
                bytes.extend_from_slice(content);
            }
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first_chunk::<8>()?;
        let (&[last, part, parts], mut rest) = rest.split_first_chunk::<3>()?;
        let first = u64::from_be_bytes(*first);
        let last = match last {
            0 => false,
            1 => true,
            _ => return None,
        };
        if parts > 1 {
            let fits = part < parts && parts <= MAX_PARTS && !rest.is_empty();
            return fits.then(|| Self { first, last, content: Content::Part { part, parts, bytes: rest.to_vec() } });
        }
        let mut entries = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let (entry, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            entries.push(entry.to_vec());
            rest = after;
        }
        let fits = rest.is_empty() && (part, parts) == (0, 1) && entries.len() <= MAX_ENTRIES;
        fits.then_some(Self { first, last, content: Content::Whole(entries) })
    }

    /// The entries of this packet, with the parts that came before it in `parts`; none while parts are still to come.
    pub(super) fn assemble(self, kept: &mut Vec<u8>) -> Option<(u64, Vec<Vec<u8>>)> {
        match self.content {
            Content::Whole(entries) => {
                kept.clear();
                Some((self.first, entries))
            }
            Content::Part { part, parts, bytes } => {
                if part == 0 {
                    kept.clear();
                }
                if kept.len() != usize::from(part) * BUDGET {
                    // A part is lost; the entry is asked for again.
                    kept.clear();
                    return Some((self.first, Vec::new()));
                }
                kept.extend_from_slice(&bytes);
                let entries = if part + 1 == parts { vec![std::mem::take(kept)] } else { Vec::new() };
                Some((self.first, entries))
            }
        }
    }
}

/// Cuts entries into packets: as many whole ones as fit into each, and long ones into parts.
pub(super) fn pages<'a>(from: u64, entries: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = Entries> {
    let mut pages: Vec<Entries> = Vec::new();
    let mut room = 0;
    for (first, entry) in (from..).zip(entries) {
        if entry.len() > BUDGET {
            let parts = entry.chunks(BUDGET);
            let count = u8::try_from(parts.len()).unwrap_or(u8::MAX);
            pages.extend((0..).zip(parts).map(|(part, bytes)| {
                let content = Content::Part { part, parts: count, bytes: bytes.to_vec() };
                Entries { first, last: false, content }
            }));
            room = 0;
        } else if let Some(Entries { content: Content::Whole(list), .. }) =
            pages.last_mut().filter(|_| room >= entry.len() + 2)
        {
            list.push(entry.to_vec());
            room -= entry.len() + 2;
        } else {
            room = BUDGET - entry.len();
            pages.push(Entries { first, last: false, content: Content::Whole(vec![entry.to_vec()]) });
        }
        if pages.len() >= MAX_PACKETS {
            break;
        }
    }
    if let Some(page) = pages.last_mut() {
        page.last = true;
    }
    pages.into_iter()
}

/// Bytes of entries in one packet, so that it fits every path.
const BUDGET: usize = 1100;
const MAX_PARTS: u8 = 3;
const MAX_ENTRIES: usize = 64;
/// Bytes of a revocation with the most signatures.
const MAX_RECORD: usize = 2 + 32 + 1 + 8 * 96;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn collect(pages: impl Iterator<Item = Entries>) -> Vec<(u64, Vec<u8>)> {
        let mut kept = Vec::new();
        let mut all = Vec::new();
        for page in pages {
            let Some(Message::Entries(page)) = Message::decode(&Message::Entries(page).encode()) else {
                panic!("own pages decode");
            };
            let (first, entries) = page.assemble(&mut kept).expect("in order");
            all.extend((first..).zip(entries));
        }
        all
    }

    #[test]
    fn golden_messages() {
        let head = Message::Head { length: 0x0102, hash: [9; 32] };
        assert_eq!(head.encode(), [[0x12, 1, 0, 0, 0, 0, 0, 0, 1, 2].as_slice(), &[9; 32]].concat());
        assert_eq!(Message::Want { from: 5 }.encode(), [0x13, 1, 0, 0, 0, 0, 0, 0, 0, 5]);
        let content = Content::Whole(vec![vec![1, 2], vec![3]]);
        let entries = Message::Entries(Entries { first: 7, last: true, content });
        assert_eq!(entries.encode(), [0x14, 1, 0, 0, 0, 0, 0, 0, 0, 7, 1, 0, 1, 0, 2, 1, 2, 0, 1, 3]);
        let content = Content::Part { part: 1, parts: 2, bytes: vec![8, 8] };
        let part = Message::Entries(Entries { first: 7, last: false, content });
        assert_eq!(part.encode(), [0x14, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 1, 2, 8, 8]);
        assert_eq!(Message::Revocation(vec![4, 5]).encode(), [0x15, 1, 4, 5]);
        for message in [head, entries, part] {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
    }

    #[test]
    fn long_and_short_entries_are_cut_and_put_together() {
        let entries: Vec<Vec<u8>> =
            [300, 2163, 10, 1098, 1099, 600, 700].iter().zip(0..).map(|(length, at)| vec![at; *length]).collect();
        let whole = collect(pages(40, entries.iter().map(Vec::as_slice)));
        assert_eq!(whole, (40..).zip(entries).collect::<Vec<_>>());
    }

    #[test]
    fn an_answer_is_bounded() {
        let entries = vec![vec![0; 900]; 100];
        assert_eq!(pages(0, entries.iter().map(Vec::as_slice)).count(), MAX_PACKETS);
    }

    #[test]
    fn a_lost_part_loses_its_entry_only() {
        let entries = [vec![1; 2000], vec![2; 30]];
        let pages: Vec<Entries> = pages(0, entries.iter().map(Vec::as_slice)).collect();
        assert_eq!(collect(pages.into_iter().skip(1)), [(1, vec![2; 30])]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0x12..0x16u8) {
            let bytes = [[kind, 1].as_slice(), &bytes].concat();
            if let Some(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }
}
