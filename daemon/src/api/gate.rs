//! How much of the daemon one caller, and all callers together, may take.
//!
//! | bound | figure | beyond it |
//! |---|---|---|
//! | connections of a user below the highest tier | 32 | closed at once |
//! | connections | 128, of which 32 are kept for callers of the highest tier | closed at once |
//! | requests of a user below the highest tier | 100 a second, 200 at once | refused |
//! | lines of the log about changes of such a user that were refused before they were asked for | 10 a minute, 20 at once | counted in the next one |

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ginnel_local_api::Tier;
use ginnel_time::Instant;

use super::Caller;
use crate::clock;

/// Counts connections and requests by user.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Arc<Mutex<Users>>);

#[derive(Debug, Default)]
struct Users {
    connections: usize,
    by_uid: BTreeMap<u32, User>,
}

#[derive(Debug)]
struct User {
    connections: usize,
    /// Requests that may still come at once.
    left: u32,
    filled: Instant,
    /// Lines of the log that may still come at once.
    lines: u32,
    lines_filled: Instant,
    /// Refusals that had no line.
    untold: u64,
}

/// The right to be connected; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Pass {
    gate: Gate,
    uid: u32,
    is_streaming: AtomicBool,
}

/// Too much at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooManyRequests;

impl TooManyRequests {
    pub(super) const fn code(self) -> &'static str {
        "too-many-requests"
    }
}

impl fmt::Display for TooManyRequests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this user asks more than {PER_SECOND} times a second")
    }
}

impl Gate {
    /// Lets a caller connect; `None` when it or all together have too many connections.
    pub(super) fn admit(&self, caller: &Caller) -> Option<Pass> {
        let mut users = self.users();
        let of_user = users.by_uid.get(&caller.uid).map_or(0, |user| user.connections);
        let (most_of_user, most) =
            if caller.tier == Some(Tier::Admin) { (MOST, MOST) } else { (MOST_OF_USER, MOST - KEPT) };
        if of_user >= most_of_user || users.connections >= most {
            tracing::debug!(uid = caller.uid, "too many connections to the control socket");
            return None;
        }
        users.connections += 1;
        users.user(caller.uid).connections += 1;
        Some(Pass { gate: self.clone(), uid: caller.uid, is_streaming: AtomicBool::new(false) })
    }

    /// Counts a request.
    pub(super) fn take(&self, caller: &Caller) -> Result<(), TooManyRequests> {
        if caller.tier == Some(Tier::Admin) {
            return Ok(());
        }
        let mut users = self.users();
        let user = users.user(caller.uid);
        user.fill();
        user.left = user.left.checked_sub(1).ok_or(TooManyRequests)?;
        Ok(())
    }

    /// Whether a refusal has a line of the log to itself; if so, how many before it had none.
    pub(super) fn tell_refusal(&self, caller: &Caller) -> Option<u64> {
        if caller.tier == Some(Tier::Admin) {
            return Some(0);
        }
        let mut users = self.users();
        let user = users.user(caller.uid);
        user.fill();
        let Some(left) = user.lines.checked_sub(1) else {
            user.untold += 1;
            return None;
        };
        user.lines = left;
        Some(std::mem::take(&mut user.untold))
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Users {
    fn user(&mut self, uid: u32) -> &mut User {
        let now = clock::now();
        let new = User { connections: 0, left: BURST, filled: now, lines: LINES, lines_filled: now, untold: 0 };
        self.by_uid.entry(uid).or_insert(new)
    }
}

impl User {
    fn fill(&mut self) {
        let now = clock::now();
        let passed = now.saturating_duration_since(self.filled).as_millis();
        let more = u32::try_from(passed * u128::from(PER_SECOND) / 1000).unwrap_or(BURST);
        if more > 0 {
            self.left = self.left.saturating_add(more).min(BURST);
            self.filled = now;
        }
        let passed = now.saturating_duration_since(self.lines_filled).as_secs() / SECONDS_PER_LINE;
        if passed > 0 {
            self.lines = self.lines.saturating_add(u32::try_from(passed).unwrap_or(LINES)).min(LINES);
            self.lines_filled = now;
        }
    }
}

impl Pass {
    /// An event stream begins: the connection lasts as long as both sides want.
    pub(super) fn begin_stream(&self) {
        self.is_streaming.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_streaming(&self) -> bool {
        self.is_streaming.load(Ordering::Relaxed)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut users = self.gate.users();
        users.connections = users.connections.saturating_sub(1);
        let user = users.user(self.uid);
        user.connections = user.connections.saturating_sub(1);
        // A user who is not connected is forgotten once its requests and lines are paid for; so the users are never more
        // than the connections and the comers and goers of two seconds, and of two minutes those who were refused.
        users.by_uid.retain(|uid, user| {
            user.fill();
            let kept = user.connections > 0 || user.left < BURST || user.lines < LINES;
            if !kept && user.untold > 0 {
                tracing::info!(uid, untold = user.untold, "changes were asked for and refused");
            }
            kept
        });
    }
}

const MOST: usize = 128;
/// Connections that only callers of the highest tier take.
const KEPT: usize = 32;
const MOST_OF_USER: usize = 32;
const PER_SECOND: u32 = 100;
const BURST: u32 = 200;
const LINES: u32 = 20;
const SECONDS_PER_LINE: u64 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_take_every_connection_nor_one_of_them_all_that_are_left() {
        let gate = Gate::default();
        let caller = |uid, tier| Caller { uid, pid: None, tier: Some(tier) };
        let connect = |uid| std::iter::from_fn(|| gate.admit(&caller(uid, Tier::Read))).collect::<Vec<_>>();
        let strangers: Vec<Vec<Pass>> = (1000..1010).map(connect).collect();
        assert_eq!(strangers.iter().map(Vec::len).collect::<Vec<_>>(), [32, 32, 32, 0, 0, 0, 0, 0, 0, 0]);
        let root: Vec<Pass> = std::iter::from_fn(|| gate.admit(&caller(0, Tier::Admin))).collect();
        assert_eq!(root.len(), 32);
        drop(strangers);
        assert_eq!(connect(1000).len(), 32);
    }

    #[test]
    fn a_user_below_the_highest_tier_asks_so_often_and_no_more() {
        let gate = Gate::default();
        let stranger = Caller { uid: 1000, pid: None, tier: Some(Tier::Read) };
        let asked = (0..10_000).filter(|_| gate.take(&stranger).is_ok()).count();
        assert!((200..2_000).contains(&asked), "{asked} at once");
        let root = Caller { uid: 0, pid: None, tier: Some(Tier::Admin) };
        assert!((0..10_000).all(|_| gate.take(&root).is_ok()));
        let other = Caller { uid: 1001, pid: None, tier: Some(Tier::Read) };
        assert!(gate.take(&other).is_ok());
    }

    #[test]
    fn refusals_beyond_the_bound_are_counted_and_the_next_line_tells_how_many() {
        let gate = Gate::default();
        let stranger = Caller { uid: 1000, pid: None, tier: Some(Tier::Read) };
        let pass = gate.admit(&stranger).unwrap();
        let told: Vec<u64> = (0..10_000).filter_map(|_| gate.tell_refusal(&stranger)).collect();
        assert!((20..1_000).contains(&told.len()), "{} lines at once", told.len());
        let counted: u64 = told.iter().sum();
        // A disconnected user is remembered, so that coming again is no way around the bound.
        drop(pass);
        gate.users().user(1000).lines = 1;
        assert_eq!(gate.tell_refusal(&stranger), Some(10_000 - told.len() as u64 - counted));
        let root = Caller { uid: 0, pid: None, tier: Some(Tier::Admin) };
        assert!((0..1000).all(|_| gate.tell_refusal(&root) == Some(0)));
    }
}
