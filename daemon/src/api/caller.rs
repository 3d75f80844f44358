//! Who calls, by the kernel's word.

use std::os::fd::AsFd as _;

use ginnel_local_api::Tier;
use tokio::net::UnixStream;

use crate::sys;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User id; the highest number where the kernel does not name it.
    pub uid: u32,
    /// Process id, where the kernel names it.
    pub pid: Option<i32>,
    /// The most that this caller may do; `None` for one that may do nothing.
    pub tier: Option<Tier>,
}

/// Whom the socket lets do everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admission {
    pub(super) own_uid: u32,
    pub(super) admin_gid: Option<u32>,
}

/// The kernel's credentials of a connection, from when it was made.
#[derive(Clone, Debug)]
pub(super) enum Credentials {
    Known { uid: u32, pid: Option<i32>, groups: Vec<u32> },
    Unknown,
}

impl Admission {
    pub(super) fn caller(self, stream: &UnixStream) -> Caller {
        self.judge(&Credentials::of(stream))
    }

    pub(super) fn judge(self, credentials: &Credentials) -> Caller {
        let Credentials::Known { uid, pid, groups } = credentials else {
            return Caller { uid: u32::MAX, pid: None, tier: None };
        };
        let in_admin_group = self.admin_gid.is_some_and(|gid| groups.contains(&gid));
        let tier = if *uid == 0 || *uid == self.own_uid || in_admin_group { Tier::Admin } else { Tier::Read };
        Caller { uid: *uid, pid: *pid, tier: Some(tier) }
    }
}

impl Credentials {
    fn of(stream: &UnixStream) -> Self {
        let Ok(credentials) = stream.peer_cred() else { return Self::Unknown };
        let mut groups = sys::peer_groups(stream.as_fd()).unwrap_or_default();
        groups.push(credentials.gid());
        Self::Known { uid: credentials.uid(), pid: credentials.pid(), groups }
    }
}

/// The id of a group by the text of `/etc/group`.
pub(super) fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name) && !name.is_empty()).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_own_user_and_the_admin_group_may_do_everything_and_others_may_read() {
        let admission = Admission { own_uid: 7, admin_gid: Some(40) };
        let tier =
            |uid, groups: &[u32]| admission.judge(&Credentials::Known { uid, pid: None, groups: groups.to_vec() }).tier;
        for (uid, groups) in [(0, &[0][..]), (7, &[7]), (1000, &[1000, 40])] {
            assert_eq!(tier(uid, groups), Some(Tier::Admin), "{uid}");
        }
        assert_eq!(tier(1000, &[1000]), Some(Tier::Read));
        assert_eq!(admission.judge(&Credentials::Unknown).tier, None);
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\nginnel-admin:x:40:alice,bob\n";
        assert_eq!(group_id(groups, "ginnel-admin"), Some(40));
        assert_eq!(group_id(groups, "ginnel"), None);
        assert_eq!(group_id(groups, ""), None);
    }
}
