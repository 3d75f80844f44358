//! Which paths carry the traffic, and the rules by which that changes.

use ginnel_time::Instant;

use crate::checklist::Checklist;
use crate::event::Selected;
use crate::id::Path;
use crate::pair::{Pair, Watch};

/// The paths in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) primary: Option<Path>,
    pub(crate) backup: Option<Path>,
    pub(crate) duplicate: bool,
}

impl Selection {
    /// The selection that follows from what is proven.
    ///
    /// The primary stays until it is left for good or displaced; the backup is the best relayed path if there is one,
    /// else the best other one.
    pub(crate) fn next(&self, now: Instant, checklist: &Checklist) -> Self {
        let proven = |path: Option<Path>| path.and_then(|path| checklist.get(path)).filter(|pair| pair.is_proven());
        let current = proven(self.primary);
        let best = eligible(now, checklist).min_by_key(|pair| pair.score());
        let primary = match (current, best) {
            (Some(current), Some(best)) if should_move(now, current, best) => Some(best),
            (Some(current), _) => Some(current),
            (None, best) => best,
        };
        let other = |pair: &&Pair| Some(pair.path) != primary.map(|pair| pair.path);
        let standing = proven(self.backup).filter(other).filter(|pair| !pair.is_doubtful());
        let candidate = eligible(now, checklist).filter(other).min_by_key(|pair| (pair.is_direct(), pair.score()));
        let backup = match (standing, candidate) {
            (Some(standing), Some(candidate)) if is_better_backup(standing, candidate) => Some(candidate),
            (Some(standing), _) => Some(standing),
            (None, candidate) => candidate,
        };
        Self {
            primary: primary.map(|pair| pair.path),
            backup: backup.map(|pair| pair.path),
            duplicate: backup.is_some() && primary.is_some_and(Pair::is_doubtful),
        }
    }

    pub(crate) fn watch(&self, path: Path) -> Watch {
        if self.primary == Some(path) {
            Watch::Primary
        } else if self.backup == Some(path) {
            Watch::Backup
        } else {
            Watch::Not
        }
    }

    pub(crate) fn in_use(&self) -> [Option<Path>; 2] {
        [self.primary, self.backup]
    }

    pub(crate) fn use_of(&self, path: Path) -> Selected {
        match self.watch(path) {
            Watch::Primary => Selected::Primary,
            Watch::Backup => Selected::Backup,
            Watch::Not => Selected::Unused,
        }
    }
}

fn eligible(now: Instant, checklist: &Checklist) -> impl Iterator<Item = &Pair> {
    checklist.iter().filter(move |pair| pair.is_eligible(now))
}

/// A doubtful primary also yields to an equal, and to anything once its proof is stale; otherwise a worse path waits until
/// the primary is left, data going by both.
fn should_move(now: Instant, current: &Pair, best: &Pair) -> bool {
    let stale = current.proof().is_some_and(|proof| now >= proof.fresh_until);
    match (best.score(), current.score()) {
        (Some(best), Some(score)) => {
            best.displaces(&score) || (current.is_doubtful() && (stale || best.tier <= score.tier))
        }
        (Some(_), None) => true,
        (None, _) => false,
    }
}

fn is_better_backup(standing: &Pair, candidate: &Pair) -> bool {
    if candidate.is_direct() != standing.is_direct() {
        return standing.is_direct();
    }
    match (candidate.score(), standing.score()) {
        (Some(candidate), Some(standing)) => candidate.displaces(&standing),
        (candidate, None) => candidate.is_some(),
        (None, Some(_)) => false,
    }
}
