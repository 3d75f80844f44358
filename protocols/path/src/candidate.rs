//! The addresses of both sides: our ends with what we tell of them, and what the peer told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::address;
use crate::event::Policy;
use crate::id::{Candidate, CandidateKind, Local, LocalCandidate};

/// Ends of our own that are used, at most; the newest stay.
const MAX_ENDS: usize = 12;
/// Local candidates that are looked at, at most.
const MAX_LOCAL: usize = 64;

/// Candidates of a kind that are told or kept, at most: 16 in all.
const fn quota(kind: CandidateKind) -> usize {
    match kind {
        CandidateKind::Host => 6,
        CandidateKind::ServerReflexive | CandidateKind::Relayed => 4,
        CandidateKind::PeerReflexive => 2,
    }
}

/// Our sockets and allocations.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    list: Vec<LocalCandidate>,
    born: BTreeMap<Local, u64>,
    births: u64,
}

/// What a new set of local candidates changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Ends that are new.
    pub(crate) added: Vec<Local>,
    /// Whether an address or an end is gone: this machine has moved.
    pub(crate) moved: bool,
}

impl Ends {
    pub(crate) fn replace(&mut self, mut list: Vec<LocalCandidate>) -> Change {
        list.truncate(MAX_LOCAL);
        let old: BTreeSet<(Local, SocketAddr)> = self.list.iter().map(|c| (c.local, c.addr)).collect();
        let new: BTreeSet<(Local, SocketAddr)> = list.iter().map(|c| (c.local, c.addr)).collect();
        let locals: BTreeSet<Local> = list.iter().map(|c| c.local).collect();
        // A socket kept for an earlier round goes without the machine moving; what remains must keep its addresses.
        let moved = old.iter().any(|entry| locals.contains(&entry.0) && !new.contains(entry));
        self.born.retain(|local, _| locals.contains(local));
        let mut added = Vec::new();
        for candidate in &list {
            if !self.born.contains_key(&candidate.local) {
                self.births += 1;
                self.born.insert(candidate.local, self.births);
                added.push(candidate.local);
            }
        }
        while self.born.len() > MAX_ENDS {
            let oldest = self.born.iter().min_by_key(|(_, born)| **born).map(|(local, _)| *local);
            let oldest = oldest.expect("more than MAX_ENDS ends have an oldest");
            self.born.remove(&oldest);
            added.retain(|local| *local != oldest);
        }
        self.list = list;
        self.list.retain(|candidate| self.born.contains_key(&candidate.local));
        Change { added, moved }
    }

    pub(crate) fn remove(&mut self, local: Local) -> bool {
        self.list.retain(|candidate| candidate.local != local);
        self.born.remove(&local).is_some()
    }

    pub(crate) fn contains(&self, local: Local) -> bool {
        self.born.contains_key(&local)
    }

    pub(crate) fn locals(&self) -> impl Iterator<Item = Local> {
        self.born.keys().copied()
    }

    /// How many ends there have been; the newest has this number.
    pub(crate) fn births(&self) -> u64 {
        self.births
    }

    /// The server-reflexive address of `local` in the family of `like`.
    pub(crate) fn mapping(&self, local: Local, like: SocketAddr) -> Option<SocketAddr> {
        let reflexive = self.list.iter().filter(|c| c.local == local && c.kind == CandidateKind::ServerReflexive);
        reflexive.map(|candidate| candidate.addr).find(|addr| addr.is_ipv4() == like.is_ipv4())
    }

    /// The ends that can send to `remote`, newest first.
    pub(crate) fn towards(&self, remote: SocketAddr) -> Vec<Local> {
        let same_family = |candidate: &&LocalCandidate| candidate.addr.is_ipv4() == remote.is_ipv4();
        let locals: BTreeSet<Local> = self.list.iter().filter(same_family).map(|candidate| candidate.local).collect();
        let mut locals: Vec<Local> = locals.into_iter().collect();
        locals.sort_by_key(|local| std::cmp::Reverse(self.birth(*local)));
        locals
    }

    /// A number that grows with each new end.
    pub(crate) fn birth(&self, local: Local) -> u64 {
        self.born.get(&local).copied().unwrap_or(0)
    }

    pub(crate) fn is_own(&self, addr: SocketAddr) -> bool {
        self.list.iter().any(|candidate| candidate.addr == addr)
    }

    /// Whether `ip` is on a local or private network, as seen from here.
    pub(crate) fn is_near(&self, ip: IpAddr) -> bool {
        let hosts = self.list.iter().filter(|candidate| candidate.kind == CandidateKind::Host);
        address::reach(ip).is_private() || hosts.into_iter().any(|host| address::same_subnet(host.addr.ip(), ip))
    }

    /// Whether `local` has an address that the other side of a NAT can send to.
    pub(crate) fn has_public_address(&self, local: Local) -> bool {
        self.list.iter().any(|candidate| candidate.local == local && address::reach(candidate.addr.ip()).is_public())
    }

    /// Whether any socket has a mapping or a public address of its own.
    pub(crate) fn any_socket_is_public(&self) -> bool {
        self.born.keys().any(|local| matches!(local, Local::Socket(_)) && self.has_public_address(*local))
    }

    /// Whether one socket was seen with two public mappings in one family.
    pub(crate) fn mapping_varies(&self) -> bool {
        // A server on the local network sees another address, which says nothing of the NAT.
        let reflexive = |candidate: &&LocalCandidate| {
            candidate.kind == CandidateKind::ServerReflexive && address::reach(candidate.addr.ip()).is_public()
        };
        let mut seen: BTreeMap<(Local, bool), SocketAddr> = BTreeMap::new();
        self.list.iter().filter(reflexive).any(|candidate| {
            *seen.entry((candidate.local, candidate.addr.is_ipv4())).or_insert(candidate.addr) != candidate.addr
        })
    }

    /// What the other side is told: usable addresses, a few of each kind; mappings of the newest sockets first.
    pub(crate) fn told(&self, policy: Policy) -> Vec<Candidate> {
        let allowed = |candidate: &&LocalCandidate| match policy {
            Policy::Any => true,
            Policy::RelayOnly => candidate.kind == CandidateKind::Relayed,
        };
        let mut list: Vec<&LocalCandidate> = self.list.iter().filter(allowed).collect();
        list.sort_by_key(|candidate| match candidate.kind {
            CandidateKind::Host | CandidateKind::Relayed => (candidate.kind, self.birth(candidate.local)),
            CandidateKind::ServerReflexive | CandidateKind::PeerReflexive => {
                (candidate.kind, u64::MAX - self.birth(candidate.local))
            }
        });
        select(list.into_iter().map(LocalCandidate::candidate), |_| true)
    }
}

/// What the peer told, by mailbox and inside the session.
#[derive(Debug, Default)]
pub(crate) struct Remotes {
    mailbox: Vec<Candidate>,
    session: Vec<Candidate>,
    latest: Source,
}

/// Where a set of remote candidates came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Source {
    #[default]
    Mailbox,
    Session,
}

impl Remotes {
    /// Replaces the set of one source; what that source says is looked at first from here on. What was told inside the
    /// session replaces the mail before it, too.
    pub(crate) fn replace(&mut self, source: Source, candidates: Vec<Candidate>) {
        let kept = select(candidates.into_iter(), |_| true);
        match source {
            Source::Mailbox => self.mailbox = kept,
            Source::Session => {
                self.session = kept;
                self.mailbox.clear();
            }
        }
        self.latest = source;
    }

    /// Forgets the candidates that are not wanted; answers whether there were any.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&Candidate) -> bool) -> bool {
        let before = self.mailbox.len() + self.session.len();
        self.mailbox.retain(&wanted);
        self.session.retain(&wanted);
        self.mailbox.len() + self.session.len() < before
    }

    /// Forgets what was told inside a session that is gone.
    pub(crate) fn forget_session(&mut self) {
        self.session.clear();
    }

    /// The candidates to use: usable, not our own, a few of each kind, the latest source first.
    pub(crate) fn usable(&self, ends: &Ends) -> Vec<Candidate> {
        let (first, second) = match self.latest {
            Source::Mailbox => (&self.mailbox, &self.session),
            Source::Session => (&self.session, &self.mailbox),
        };
        select(first.iter().chain(second).copied(), |candidate| !ends.is_own(candidate.addr))
    }

    /// The kind under which the peer told `addr`; a relayed address is one whatever else it is called.
    pub(crate) fn kind_of(&self, addr: SocketAddr) -> Option<CandidateKind> {
        let all = self.session.iter().chain(&self.mailbox);
        all.filter(|candidate| candidate.addr == addr).map(|candidate| candidate.kind).max()
    }
}

/// Takes usable, distinct addresses up to each kind's quota.
fn select(candidates: impl Iterator<Item = Candidate>, wanted: impl Fn(&Candidate) -> bool) -> Vec<Candidate> {
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        let same_kind = kept.iter().filter(|other| other.kind == candidate.kind).count();
        let repeated = kept.iter().any(|other| other.addr == candidate.addr);
        let fits = same_kind < quota(candidate.kind) && !repeated;
        if fits && address::usable_candidate(candidate.addr) && wanted(&candidate) {
            kept.push(candidate);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{RelayId, SocketId};

    fn local(kind: CandidateKind, socket: u16, addr: &str) -> LocalCandidate {
        let local = match kind {
            CandidateKind::Relayed => Local::Relay(RelayId(socket)),
            CandidateKind::Host | CandidateKind::ServerReflexive | CandidateKind::PeerReflexive => {
                Local::Socket(SocketId(socket))
            }
        };
        LocalCandidate { kind, local, addr: addr.parse().unwrap() }
    }

    fn remote(kind: CandidateKind, addr: &str) -> Candidate {
        Candidate { kind, addr: addr.parse().unwrap() }
    }

    #[test]
    fn a_vanished_address_means_that_the_machine_moved() {
        let mut ends = Ends::default();
        let host = local(CandidateKind::Host, 0, "192.168.1.2:5000");
        let mapped = local(CandidateKind::ServerReflexive, 0, "203.0.113.1:5000");
        assert!(!ends.replace(vec![host]).moved);
        assert_eq!(ends.replace(vec![host, mapped]), Change { added: vec![], moved: false });
        let elsewhere = local(CandidateKind::Host, 0, "10.0.0.2:5000");
        assert_eq!(ends.replace(vec![elsewhere]), Change { added: vec![], moved: true });
    }

    #[test]
    fn a_closed_socket_is_no_move() {
        let mut ends = Ends::default();
        let first = local(CandidateKind::Host, 0, "192.168.1.2:5000");
        let fresh = local(CandidateKind::Host, 1, "192.168.1.2:6000");
        ends.replace(vec![first]);
        assert_eq!(ends.replace(vec![first, fresh]).added, [Local::Socket(SocketId(1))]);
        assert!(!ends.replace(vec![first]).moved);
    }

    #[test]
    fn what_is_told_is_usable_capped_and_newest_mapping_first() {
        let mut ends = Ends::default();
        let mut list =
            vec![local(CandidateKind::Host, 0, "127.0.0.1:1"), local(CandidateKind::Host, 0, "169.254.1.1:1")];
        list.extend((1..=9).map(|n| local(CandidateKind::Host, 0, &format!("10.0.0.{n}:1"))));
        list.extend((0..6).map(|n| local(CandidateKind::ServerReflexive, n, &format!("203.0.113.1:{}", 1000 + n))));
        list.push(local(CandidateKind::Relayed, 0, "198.51.100.1:7"));
        ends.replace(list);
        let told = ends.told(Policy::Any);
        let of = |kind| told.iter().filter(|c| c.kind == kind).map(|c| c.addr.to_string()).collect::<Vec<_>>();
        assert_eq!(of(CandidateKind::Host).len(), 6);
        assert_eq!(of(CandidateKind::ServerReflexive)[0], "203.0.113.1:1005");
        assert_eq!(of(CandidateKind::ServerReflexive).len(), 4);
        assert_eq!(ends.told(Policy::RelayOnly), [remote(CandidateKind::Relayed, "198.51.100.1:7")]);
    }

    #[test]
    fn remote_candidates_are_capped_and_never_our_own() {
        let mut ends = Ends::default();
        ends.replace(vec![local(CandidateKind::ServerReflexive, 0, "203.0.113.1:5000")]);
        let mut remotes = Remotes::default();
        let mut list =
            vec![remote(CandidateKind::Host, "203.0.113.1:5000"), remote(CandidateKind::Host, "127.0.0.1:9")];
        list.extend((1..200).map(|n| remote(CandidateKind::Host, &format!("8.8.{n}.1:1"))));
        remotes.replace(Source::Session, list);
        remotes.replace(
            Source::Mailbox,
            (1..200).map(|n| remote(CandidateKind::Relayed, &format!("9.9.{n}.1:1"))).collect(),
        );
        let usable = remotes.usable(&ends);
        assert!(usable.len() <= 16);
        assert!(usable.iter().all(|candidate| candidate.addr.port() == 1));
        assert_eq!(usable[0].kind, CandidateKind::Relayed, "the latest source comes first");
    }

    #[test]
    fn two_mappings_of_one_socket_vary() {
        let mut ends = Ends::default();
        let a = local(CandidateKind::ServerReflexive, 0, "203.0.113.1:5000");
        let b = local(CandidateKind::ServerReflexive, 0, "203.0.113.1:5001");
        ends.replace(vec![a, local(CandidateKind::ServerReflexive, 1, "203.0.113.1:5002")]);
        assert!(!ends.mapping_varies());
        ends.replace(vec![a, b]);
        assert!(ends.mapping_varies());
        ends.replace(vec![a, local(CandidateKind::ServerReflexive, 0, "192.168.1.2:5000")]);
        assert!(!ends.mapping_varies(), "one of them is not from outside");
    }
}
