//! Journals of the state folder: they grow by whole batches and may begin with a snapshot.

use std::io;

use zeroize::Zeroizing;

use super::{CHECKSUM, DAMAGED, NEW, StateError, StateFolder, checksum};

/// What a journal holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal {
    /// The snapshot that it begins with, and the entry that vouches for it.
    pub snapshot: Option<(Vec<u8>, Vec<u8>)>,
    /// The entries after that, oldest first.
    pub entries: Vec<Vec<u8>>,
}

/// Where a journal on the disk ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// There is none.
    Missing,
    /// It is of version 1: the next batch is written as a whole new journal.
    First,
    /// Either of two journals may be there after a power cut; these entries were in it before the last attempt, and the
    /// next batch is written as a whole new journal after them.
    Unsure(Vec<Vec<u8>>),
    /// The next batch goes to this place; what is there is a batch that was cut off.
    At(u64),
}

impl StateFolder {
    /// Reads the journal `name`; `None` when there is none. A batch that was cut off at the end is left out.
    ///
    /// # Errors
    /// When it cannot be read, is damaged before its end, or is of a version that this program does not know.
    pub fn read_journal(&mut self, name: &str) -> Result<Option<Journal>, StateError> {
        self.check(name)?;
        let bytes = self.disk.read(name, LONGEST_JOURNAL).map_err(|source| self.io("read", name, source))?;
        let empty = |bytes: &Zeroizing<Vec<u8>>| bytes.is_empty();
        let Some(bytes) = bytes.filter(|bytes| !empty(bytes)) else {
            self.ends.insert(name.to_owned(), End::Missing);
            return Ok(None);
        };
        let (journal, end, kept) = match bytes.first() {
            Some(&VERSION) => {
                let (journal, kept) = parse(&bytes).map_err(|how| self.damage(name, &how))?;
                (journal, End::At(kept as u64), kept)
            }
            Some(1) => {
                let (entries, kept) = parse_first(&bytes).map_err(|how| self.damage(name, &how))?;
                (Journal { snapshot: None, entries }, End::First, kept)
            }
            Some(&version) if version > VERSION => {
                return Err(StateError::Newer { path: self.path(name), version, newest: VERSION });
            }
            Some(_) | None => return Err(self.damage(name, "it has no version")),
        };
        if kept < bytes.len() {
            let path = self.path(name).display().to_string();
            tracing::warn!("{path}: what was being written when the power failed is dropped");
        }
        self.ends.insert(name.to_owned(), end);
        Ok(Some(journal))
    }

    /// Reads the journal `name`. One that is damaged, or longer than can be read, is set aside under another name, with a
    /// warning, and counts as missing: what it held of a network's log the servers and members have.
    ///
    /// # Errors
    /// When it cannot be read or set aside, or a newer version wrote it.
    pub fn rescue_journal(&mut self, name: &str) -> Result<Option<Journal>, StateError> {
        let how = match self.read_journal(name) {
            Err(StateError::Damaged { how, .. }) => how,
            Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::FileTooLarge => source.to_string(),
            outcome => return outcome,
        };
        let aside = format!("{name}{DAMAGED}");
        self.disk.rename(name, &aside).map_err(|source| self.io("set aside", name, source))?;
        self.sync_names().map_err(|source| self.io("set aside", name, source))?;
        self.ends.insert(name.to_owned(), End::Missing);
        let (from, to) = (self.path(name), self.path(&aside));
        self.warn(format!(
            "{} is damaged ({how}): it is now {}, and the log is fetched again",
            from.display(),
            to.display()
        ));
        Ok(None)
    }

    /// Whether the journal `name` is known to be there, from reading or writing it.
    pub(super) fn has_journal(&self, name: &str) -> bool {
        self.ends.get(name).is_some_and(|end| *end != End::Missing)
    }

    /// Appends entries to the journal `name` as one batch, which is there wholly or not at all after a power cut. A
    /// journal that is missing is made.
    ///
    /// # Errors
    /// When they cannot be written or are too long; the journal then ends as before.
    pub fn append<E: AsRef<[u8]>>(&mut self, name: &str, entries: &[E]) -> Result<(), StateError> {
        self.check(name)?;
        if !self.ends.contains_key(name) {
            self.read_journal(name)?;
        }
        let before = match self.ends.get(name) {
            Some(End::At(place)) => return self.append_at(name, *place, entries),
            Some(End::Unsure(before)) => before.clone(),
            Some(End::First) => self.read_journal(name)?.unwrap_or_default().entries,
            Some(End::Missing) | None => Vec::new(),
        };
        let all: Vec<&[u8]> = before.iter().map(Vec::as_slice).chain(entries.iter().map(AsRef::as_ref)).collect();
        let written = self.begin(name, &[entries_payload(&all)]);
        if written.is_err() {
            self.ends.insert(name.to_owned(), End::Unsure(before));
        }
        written
    }

    fn append_at<E: AsRef<[u8]>>(&mut self, name: &str, place: u64, entries: &[E]) -> Result<(), StateError> {
        let batch = batch(place, &entries_payload(entries)).map_err(StateError::Unusable)?;
        self.disk.extend(name, place, &batch).map_err(|source| self.io("write", name, source))?;
        if self.is_unsynced {
            // Nobody may have seen to it that the journal has its name after a power cut.
            self.sync_names().map_err(|source| self.io("write", name, source))?;
        }
        self.ends.insert(name.to_owned(), End::At(place + batch.len() as u64));
        Ok(())
    }

    /// Begins the journal `name` anew with a snapshot, the entry that vouches for it and the entries after that one, in place
    /// of everything before: a power cut leaves all of it or what was there.
    ///
    /// # Errors
    /// When it cannot be written or is too long; the journal then stays as it was.
    pub fn restart<E: AsRef<[u8]>>(
        &mut self,
        name: &str,
        snapshot: &[u8],
        entry: &[u8],
        entries: &[E],
    ) -> Result<(), StateError> {
        self.check(name)?;
        let mut payload = vec![SNAPSHOT];
        put_sized(&mut payload, snapshot);
        put_sized(&mut payload, entry);
        let mut batches = vec![payload];
        if !entries.is_empty() {
            batches.push(entries_payload(entries));
        }
        self.begin(name, &batches)
    }

    /// Writes a whole journal of these batches over the one that is there.
    fn begin(&mut self, name: &str, payloads: &[Vec<u8>]) -> Result<(), StateError> {
        let mut bytes = vec![VERSION];
        for payload in payloads {
            bytes.extend(batch(bytes.len() as u64, payload).map_err(StateError::Unusable)?);
        }
        let new = format!("{name}{NEW}");
        let written = (|| {
            self.disk.put(&new, &bytes)?;
            self.disk.rename(&new, name)?;
            self.sync_names()
        })();
        written.map_err(|source| self.io("write", name, source))?;
        self.ends.insert(name.to_owned(), End::At(bytes.len() as u64));
        Ok(())
    }
}

fn entries_payload<E: AsRef<[u8]>>(entries: &[E]) -> Vec<u8> {
    let mut payload = vec![ENTRIES];
    entries.iter().for_each(|entry| put_sized(&mut payload, entry.as_ref()));
    payload
}

fn put_sized(payload: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    payload.extend_from_slice(&length.to_be_bytes());
    payload.extend_from_slice(bytes);
}

/// A batch that stands at `place` of its journal.
fn batch(place: u64, payload: &[u8]) -> Result<Vec<u8>, String> {
    let Some(length) = u32::try_from(payload.len()).ok().filter(|length| *length <= LONGEST_BATCH) else {
        return Err(format!("a batch of {} bytes is too long for a journal", payload.len()));
    };
    let length = length.to_be_bytes();
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&checksum(&[&[VERSION], &place.to_be_bytes(), &length, payload]));
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

/// The journal that `bytes` hold, and where its last whole batch ends.
fn parse(bytes: &[u8]) -> Result<(Journal, usize), String> {
    let mut journal = Journal::default();
    let mut place = 1;
    let mut count = 0_usize;
    while let Some(payload) = payload_at(bytes, place) {
        take(&mut journal, payload, count).ok_or_else(|| format!("batch {count} does not decode"))?;
        place += HEADER + payload.len();
        count += 1;
    }
    if has_batch_after(bytes, place)? {
        return Err(format!("batch {count} is wrong"));
    }
    Ok((journal, place))
}

/// The payload of a whole batch at `place`.
fn payload_at(bytes: &[u8], place: usize) -> Option<&[u8]> {
    let (length, rest) = bytes.get(place..)?.split_first_chunk::<4>()?;
    let announced = u32::from_be_bytes(*length);
    let (sum, rest) = rest.split_first_chunk::<CHECKSUM>()?;
    let payload = rest.get(..usize::try_from(announced).ok()?)?;
    let known = matches!(payload.first(), Some(&(ENTRIES | SNAPSHOT)));
    let place = u64::try_from(place).ok()?;
    (known && *sum == checksum(&[&[VERSION], &place.to_be_bytes(), length, payload])).then_some(payload)
}

/// Whether a whole batch stands anywhere after `place`: then the one at `place` was whole once, and is damaged.
fn has_batch_after(bytes: &[u8], place: usize) -> Result<bool, String> {
    let mut hashed = 0_usize;
    for place in place.saturating_add(1)..bytes.len().saturating_sub(HEADER) {
        let Some(length) = bytes.get(place..).and_then(|rest| rest.first_chunk::<4>()) else { break };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let kind = bytes.get(place + HEADER);
        let fits = length > 0 && length <= bytes.len() - place - HEADER;
        if !fits || !matches!(kind, Some(&(ENTRIES | SNAPSHOT))) {
            continue;
        }
        hashed = hashed.saturating_add(length);
        if hashed > MOST_HASHED {
            return Err("what follows its last whole batch cannot be told from damage".to_owned());
        }
        if payload_at(bytes, place).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn take(journal: &mut Journal, payload: &[u8], count: usize) -> Option<()> {
    let (kind, mut rest) = payload.split_first()?;
    let mut next = || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (bytes, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        rest = after;
        Some(bytes.to_vec())
    };
    if *kind == SNAPSHOT {
        let pair = (next()?, next()?);
        if count != 0 {
            return None;
        }
        journal.snapshot = Some(pair);
    } else {
        while let Some(entry) = next() {
            journal.entries.push(entry);
        }
    }
    rest.is_empty().then_some(())
}

/// The entries of a journal of version 1, and where the last whole one ends.
fn parse_first(bytes: &[u8]) -> Result<(Vec<Vec<u8>>, usize), String> {
    let mut entries = Vec::new();
    let mut place = 1;
    while let Some(rest) = bytes.get(place..).filter(|rest| !rest.is_empty()) {
        let Some((length, after)) = rest.split_first_chunk::<4>() else { break };
        let announced = u32::from_be_bytes(*length);
        if announced > LONGEST_FIRST {
            return Err(format!("entry {} is wrong", entries.len()));
        }
        let Some((sum, after)) = after.split_first_chunk::<CHECKSUM>() else { break };
        let announced = usize::try_from(announced).expect("a MiB fits");
        let Some((entry, after)) = after.split_at_checked(announced) else { break };
        if *sum != checksum(&[&[1], length, entry]) {
            // The disk may have taken the length of the last write without its bytes.
            if after.is_empty() {
                break;
            }
            return Err(format!("entry {} is wrong", entries.len()));
        }
        entries.push(entry.to_vec());
        place += HEADER + announced;
    }
    Ok((entries, place))
}

const VERSION: u8 = 2;
const ENTRIES: u8 = 0;
const SNAPSHOT: u8 = 1;
const HEADER: usize = 4 + CHECKSUM;
/// Far above the snapshot of a network of a million members.
const LONGEST_BATCH: u32 = 256 << 20;
const LONGEST_JOURNAL: u64 = 1 << 30;
/// Longest entry of version 1.
const LONGEST_FIRST: u32 = 1 << 20;
/// Bytes that are hashed at most to tell a cut end from damage: some seconds of work.
const MOST_HASHED: usize = 1 << 30;
