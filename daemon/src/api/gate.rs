//! How much of the daemon one caller, and all callers together, may take.
//!
//! | bound | figure | beyond it |
//! |---|---|---|
//! | connections of a user below the highest tier | 32 | closed at once |
//! | connections | 128, of which 32 are kept for callers of the highest tier | closed at once |
//! | requests of a user below the highest tier | 100 a second, 200 at once | refused |

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

    fn users(&self) -> MutexGuard<'_, Users> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Users {
    fn user(&mut self, uid: u32) -> &mut User {
        self.by_uid.entry(uid).or_insert_with(|| User { connections: 0, left: BURST, filled: clock::now() })
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
        // A user who is not connected is forgotten once its requests are paid for; so the users are never more than the
        // connections and a second's comers and goers.
        users.by_uid.retain(|_, user| {
            user.fill();
            user.connections > 0 || user.left < BURST
        });
    }
}

const MOST: usize = 128;
/// Connections that only callers of the highest tier take.
const KEPT: usize = 32;
const MOST_OF_USER: usize = 32;
const PER_SECOND: u32 = 100;
const BURST: u32 = 200;

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
}
