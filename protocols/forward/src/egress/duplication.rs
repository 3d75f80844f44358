//! Copies of data on the backup path, while the primary is unproven.

use ginnel_time::Instant;

use crate::config::{DUPLICATE_BYTES, DUPLICATE_TIME};

/// Whether node asks for data on the backup path too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copies {
    None,
    OnBackup,
}

/// Whether data goes out on the backup path too: for at most [`DUPLICATE_TIME`] and [`DUPLICATE_BYTES`] from when it is
/// asked for, however often it is asked for again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Duplication {
    #[default]
    Off,
    Running {
        until: Instant,
        bytes_left: u64,
    },
    /// Asked for, but its bound is reached.
    Spent,
}

impl Duplication {
    /// Takes node's wish.
    pub(crate) fn ask(&mut self, now: Instant, copies: Copies) {
        match (copies, *self) {
            (Copies::None, _) => *self = Self::Off,
            (Copies::OnBackup, Self::Off) => {
                *self = Self::Running { until: now + DUPLICATE_TIME, bytes_left: DUPLICATE_BYTES };
            }
            (Copies::OnBackup, Self::Running { .. } | Self::Spent) => {}
        }
    }

    /// Whether a datagram of at most `len` bytes may go out twice.
    #[inline]
    pub(crate) fn admits(&mut self, now: Instant, len: usize) -> bool {
        match *self {
            Self::Running { until, bytes_left } if now < until && bytes_left >= len as u64 => true,
            Self::Running { .. } => {
                *self = Self::Spent;
                false
            }
            Self::Off | Self::Spent => false,
        }
    }

    /// Counts a copy of `len` bytes.
    pub(crate) fn spend(&mut self, len: usize) {
        if let Self::Running { bytes_left, .. } = self {
            *bytes_left = bytes_left.saturating_sub(len as u64);
        }
    }
}
