//! Carrying faults into the text of the tree.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::rows::{FAULTS, SWITCH};
use crate::cargo::root;

/// One replacement of a text that stands exactly once in its file.
pub(super) struct Edit {
    pub(super) file: &'static str,
    pub(super) old: &'static str,
    pub(super) new: &'static str,
}

/// The files that faults change, as they are with all faults in them.
pub(super) struct Harm {
    files: BTreeMap<PathBuf, String>,
    misfits: Vec<String>,
}

impl Harm {
    /// Carries every fault into the files of the tree.
    pub(super) fn of_tree() -> Self {
        let mut harm = Self { files: BTreeMap::new(), misfits: Vec::new() };
        SWITCH.iter().for_each(|edit| harm.carry(edit, "the switch"));
        for fault in FAULTS {
            let name = format!("fault {}", fault.number);
            let guard = format!("planted({})", fault.number);
            for edit in fault.edits {
                harm.carry(edit, &name);
                if !edit.new.contains(&guard) {
                    harm.misfits.push(format!("{name}: an edit of {} is not behind its switch", edit.file));
                }
            }
        }
        harm
    }

    /// The changed text of a file, if faults change it.
    pub(super) fn of(&self, name: &Path) -> Option<&str> {
        self.files.get(name).map(String::as_str)
    }

    /// Edits that fit nowhere, or at more than one place.
    pub(super) fn misfits(&self) -> Vec<String> {
        self.misfits.clone()
    }

    fn carry(&mut self, edit: &Edit, name: &str) {
        let text = self
            .files
            .entry(PathBuf::from(edit.file))
            .or_insert_with(|| fs::read_to_string(root().join(edit.file)).unwrap_or_default());
        let places = text.matches(edit.old).count();
        if places == 1 {
            *text = text.replacen(edit.old, edit.new, 1);
        } else {
            self.misfits.push(format!("{name}: {} holds {places} times: {}", edit.file, edit.old.trim()));
        }
    }
}
