//! Whom a user means: members and peers by name, full name, address or the start of their key.

use std::net::IpAddr;

use ginnel_forward::PeerId;
use ginnel_membership::MemberKey;
use ginnel_membership::state::Standing;

use crate::interface::host;
use crate::io::{Failure, FailureCode};
use crate::network::Network;
use crate::networks::{MIN_ID, NetworkNumber};
use crate::node::Node;
use crate::peer::Peer;

/// What a user wrote for a peer.
struct Sought<'a> {
    text: &'a str,
    ip: Option<IpAddr>,
    /// The first label, and the network's name behind it.
    label: &'a str,
    network: Option<&'a str>,
}

impl<'a> Sought<'a> {
    fn new(text: &'a str) -> Self {
        let (label, rest) = text.split_once('.').map_or((text, None), |(label, rest)| (label, Some(rest)));
        let network =
            rest.map(|rest| rest.trim_end_matches('.')).map(|rest| rest.strip_suffix(".internal").unwrap_or(rest));
        Self { text, ip: text.parse().ok(), label, network }
    }

    /// Whether the name that was written can be one of this network.
    fn may_be_in(&self, title: &str) -> bool {
        self.ip.is_some() || self.network.is_none_or(|network| network == title)
    }

    /// A member goes by its label as well; a peer of the configuration file by its whole name alone.
    fn is_name_of(&self, peer: &Peer) -> bool {
        let name = &peer.profile.name;
        name == self.text || (peer.profile.network().is_some() && name == self.label)
    }

    fn is_key(&self, key: &MemberKey) -> bool {
        self.text.len() >= MIN_ID && key.to_string().starts_with(self.text)
    }
}

impl Node {
    /// The network of a request about a member that cannot be undone: with several networks it has to be named, by
    /// `--network` or in the member's full name or address.
    pub(crate) fn network_of_lost_member(&self, wanted: Option<&str>, text: &str) -> Result<NetworkNumber, Failure> {
        let sought = Sought::new(text);
        if wanted.is_none() && sought.network.is_none() && sought.ip.is_none() {
            self.networks.choose_strictly(None)?;
        }
        self.network_of_member(wanted, text)
    }

    /// The network of a request about a member: the one that is named, or the only one with such a member.
    pub(crate) fn network_of_member(&self, wanted: Option<&str>, text: &str) -> Result<NetworkNumber, Failure> {
        let fitting = self.networks.fitting(wanted)?;
        if let [one] = fitting.as_slice() {
            return Ok(*one);
        }
        let knows =
            |at: &NetworkNumber| self.networks.get(*at).is_some_and(|network| network.find_member(text).is_some());
        let with: Vec<NetworkNumber> = fitting.into_iter().filter(knows).collect();
        match with.as_slice() {
            [one] => Ok(*one),
            [] => Err(no_peer(text)),
            several => Err(self.networks.ambiguous(several)),
        }
    }

    /// The peer that is meant: a member of the named network, else of any, or a peer of the configuration file.
    pub(crate) fn find_peer(&self, wanted: Option<&str>, text: &str) -> Result<PeerId, Failure> {
        let among = wanted.map(|_| self.networks.choose(wanted)).transpose()?;
        let sought = Sought::new(text);
        let in_reach = |peer: &&Peer| {
            let network = peer.profile.network();
            let title = network.and_then(|at| self.networks.get(at)).map(Network::title);
            among.is_none_or(|at| network == Some(at)) && title.is_none_or(|title| sought.may_be_in(&title))
        };
        let peers = || self.peers.values().filter(in_reach);
        let mut found: Vec<&Peer> = match sought.ip {
            Some(ip) => peers().filter(|peer| peer.profile.allowed.contains(&host(ip))).collect(),
            None => peers().filter(|peer| sought.is_name_of(peer)).collect(),
        };
        if found.is_empty() && sought.ip.is_none() {
            found = peers().filter(|peer| peer.profile.member.is_some_and(|member| sought.is_key(&member))).collect();
        }
        let Some(first) = found.first() else { return Err(no_peer(text)) };
        let networks: Vec<NetworkNumber> = found.iter().filter_map(|peer| peer.profile.network()).collect();
        if networks.iter().any(|at| Some(*at) != first.profile.network()) && networks.len() == found.len() {
            return Err(self.networks.ambiguous(&networks));
        }
        Ok(first.id)
    }
}

impl Network {
    /// The live member by name, full name or address, else by the start of its key where no other key begins so.
    pub(crate) fn find_member(&self, text: &str) -> Option<(MemberKey, String)> {
        let sought = Sought::new(text);
        if !sought.may_be_in(&self.title()) {
            return None;
        }
        // A revocation that waits to be ordered can be asked for again.
        let live = || self.state.members().filter(|member| member.standing() == Standing::Live);
        let by_name = live().find(|member| match sought.ip {
            Some(ip) => member.ipv4().map(IpAddr::V4) == Some(ip) || IpAddr::V6(member.ipv6()) == ip,
            None => member.name().as_str() == sought.label,
        });
        let member = by_name.or_else(|| {
            let mut by_key = live().filter(|member| sought.is_key(&member.key()));
            by_key.next().filter(|_| by_key.next().is_none())
        })?;
        Some((member.key(), member.name().as_str().to_owned()))
    }
}

pub(crate) fn no_peer(text: &str) -> Failure {
    Failure::new(FailureCode::NoSuch, format!("no peer {text}"), "`ginnel peers` shows them")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_name_says_which_network() {
        for text in ["laptop.work", "laptop.work.internal", "laptop.work.internal."] {
            let sought = Sought::new(text);
            assert!(sought.label == "laptop" && sought.may_be_in("work") && !sought.may_be_in("home"), "{text}");
        }
        assert!(Sought::new("laptop").may_be_in("home"));
        assert!(Sought::new("100.72.0.9").may_be_in("home"));
    }
}
