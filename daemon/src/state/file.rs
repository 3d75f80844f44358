//! Files of the state folder: written whole, with the generation before.

use zeroize::Zeroizing;

use super::{CHECKSUM, DAMAGED, NEW, PREVIOUS, StateError, StateFolder, checksum};

/// A file's version and content.
pub type Content = (u8, Zeroizing<Vec<u8>>);

impl StateFolder {
    /// Reads the file `name` with the version of its content; `None` when there is none. Where the newest generation is
    /// damaged or missing and the one before it is whole, that one is given, and [`Self::warnings`] says so.
    ///
    /// # Errors
    /// When it cannot be read, is damaged in both generations, or is of a version above `newest`, to which no generation
    /// before it is preferred.
    pub fn read(&mut self, name: &str, newest: u8) -> Result<Option<Content>, StateError> {
        self.check(name)?;
        let first = self.read_one(name, newest);
        let trouble = match first {
            Ok(Some(content)) => return Ok(Some(content)),
            Ok(None) => "is missing",
            Err(StateError::Damaged { .. }) => "is damaged",
            Err(error) => return Err(error),
        };
        let Ok(Some(content)) = self.read_one(&format!("{name}{PREVIOUS}"), newest) else { return first };
        let path = self.path(name).display().to_string();
        self.warn(format!(
            "{path} {trouble}; the state before it is in use, and what happened in its last minutes may be forgotten"
        ));
        if first.is_err() {
            self.damaged.insert(name.to_owned());
        }
        Ok(Some(content))
    }

    fn read_one(&self, name: &str, newest: u8) -> Result<Option<Content>, StateError> {
        let bytes = self.disk.read(name, LONGEST_FILE).map_err(|source| match source.raw_os_error() {
            Some(libc::EIO) => self.damage(name, "the disk cannot read it"),
            Some(_) | None => self.io("read", name, source),
        })?;
        let Some(bytes) = bytes else { return Ok(None) };
        let Some((&version, rest)) = bytes.split_first() else { return Err(self.damage(name, "it is empty")) };
        if version > newest {
            return Err(StateError::Newer { path: self.path(name), version, newest });
        }
        let Some((sum, content)) = rest.split_first_chunk::<CHECKSUM>() else {
            return Err(self.damage(name, "it is cut off"));
        };
        if version == 0 || *sum != checksum(&[&[version], content]) {
            return Err(self.damage(name, "its checksum is wrong"));
        }
        Ok(Some((version, Zeroizing::new(content.to_vec()))))
    }

    /// Writes the file `name` so that after a power cut it holds either the old or the new content, and keeps the old
    /// content as the generation before.
    ///
    /// # Errors
    /// When it cannot be written, as on a full disk; the old content stays.
    pub fn write(&mut self, name: &str, version: u8, content: &[u8]) -> Result<(), StateError> {
        self.check(name)?;
        let bytes = framed(version, content);
        let before = if self.damaged.contains(name) { DAMAGED } else { PREVIOUS };
        let (new, before) = (format!("{name}{NEW}"), format!("{name}{before}"));
        let written = (|| {
            self.disk.put(&new, &bytes)?;
            match self.disk.rename(name, &before) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
            self.disk.rename(&new, name)?;
            self.sync_names()
        })();
        written.map_err(|source| self.io("write", name, source))?;
        self.damaged.remove(name);
        Ok(())
    }

    /// Makes the generation before the newest one equal to it, so that what it held is forgotten.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn forget_previous(&mut self, name: &str) -> Result<(), StateError> {
        match self.read_one(name, u8::MAX)? {
            Some((version, content)) => self.write(name, version, &content),
            None => Ok(()),
        }
    }
}

/// A file's bytes: version, checksum, content.
pub(super) fn framed(version: u8, content: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(1 + CHECKSUM + content.len()));
    bytes.push(version);
    bytes.extend_from_slice(&checksum(&[&[version], content]));
    bytes.extend_from_slice(content);
    bytes
}

const LONGEST_FILE: u64 = 64 << 20;
