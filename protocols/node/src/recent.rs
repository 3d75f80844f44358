//! Where members were last reached directly: what a restarted daemon has when no server answers.

use std::net::SocketAddr;

use ginnel_membership::MemberKey;
use serde::{Deserialize, Serialize};

/// Members by the time they were last reached directly, the latest first; at most [`MAX_MEMBERS`], the oldest dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recent(Vec<Place>);

/// One member's last direct remote addresses, the latest first; at most [`MAX_REMOTES`], the oldest dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    member: [u8; 32],
    remotes: Vec<SocketAddr>,
}

impl Recent {
    /// Notes that a member is reached at `remote`; answers whether that is news worth writing down.
    pub(crate) fn note(&mut self, member: MemberKey, remote: SocketAddr) -> bool {
        let mut place = match self.position(&member) {
            Some(at) => self.0.remove(at),
            None => Place { member: member.to_bytes(), remotes: Vec::new() },
        };
        let news = !place.remotes.contains(&remote);
        place.remotes.retain(|known| *known != remote);
        place.remotes.insert(0, remote);
        place.remotes.truncate(MAX_REMOTES);
        self.0.insert(0, place);
        self.0.truncate(MAX_MEMBERS);
        news
    }

    /// Drops the members for which `keep` is false; answers whether there were any.
    pub(crate) fn retain(&mut self, keep: impl Fn(&MemberKey) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|place| keep(&MemberKey::from_bytes(place.member)));
        self.0.len() != before
    }

    /// A member has another key.
    pub(crate) fn rename(&mut self, old: &MemberKey, new: MemberKey) {
        if let Some(place) = self.position(old).and_then(|at| self.0.get_mut(at)) {
            place.member = new.to_bytes();
        }
    }

    /// Where a member was last reached, the latest first.
    pub(crate) fn remotes(&self, member: &MemberKey) -> &[SocketAddr] {
        self.position(member).map_or(&[], |at| &self.0[at].remotes)
    }

    /// The members, the one reached latest first.
    pub(crate) fn members(&self) -> impl Iterator<Item = MemberKey> {
        self.0.iter().map(|place| MemberKey::from_bytes(place.member))
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn position(&self, member: &MemberKey) -> Option<usize> {
        self.0.iter().position(|place| place.member == *member.as_bytes())
    }
}

/// Members whose last endpoints are kept.
const MAX_MEMBERS: usize = 128;
/// Endpoints kept for one member: one of each family, and the one before.
const MAX_REMOTES: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn member(number: u8) -> MemberKey {
        MemberKey::from_bytes([number; 32])
    }

    fn remote(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 1], port))
    }

    #[test]
    fn the_latest_comes_first_and_only_a_new_place_is_news() {
        let mut recent = Recent::default();
        assert!(recent.note(member(1), remote(1)));
        assert!(recent.note(member(2), remote(2)));
        assert!(!recent.note(member(1), remote(1)));
        assert_eq!(recent.members().collect::<Vec<_>>(), [member(1), member(2)]);
        assert!(recent.note(member(1), remote(3)));
        assert_eq!(recent.remotes(&member(1)), [remote(3), remote(1)]);
    }

    #[test]
    fn members_and_places_are_bounded() {
        let mut recent = Recent::default();
        for number in 0..=255 {
            for port in 1..9 {
                recent.note(member(number), remote(port));
            }
        }
        assert_eq!(recent.members().count(), MAX_MEMBERS);
        assert_eq!(recent.remotes(&member(255)).len(), MAX_REMOTES);
        assert!(recent.remotes(&member(0)).is_empty());
        assert!(recent.retain(|key| *key == member(255)));
        assert_eq!(recent.members().collect::<Vec<_>>(), [member(255)]);
    }
}
