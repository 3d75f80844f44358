//! Which addresses the tunnels carry, and which IPv4 range a network can have beside what this machine uses already.

use std::net::IpAddr;

use ginnel_membership::addressing::{Ipv4Range, ipv6_prefix};
use ginnel_membership::build::{Charter, Founded, found};
use ginnel_path::address::{Reach, is_within, reach};

use crate::interface::host;
use crate::io::{Failure, FailureCode};
use crate::networks::{Ipv4Use, NetworkNumber};
use crate::node::Node;
use crate::peer::Peer;

/// What a range is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    /// A network that is founded here and may have another one.
    Founding,
    /// This network, which has it already.
    Joining(NetworkNumber),
}

impl Node {
    /// What the tunnels carry: a path to an address in there would lead through another path. Of IPv4 that is each member's
    /// own address, and where a network is large its range: what else lies in the range may be anybody's.
    pub(crate) fn carried_prefixes(&self) -> Vec<(IpAddr, u8)> {
        let mut prefixes = self.config_addresses.clone();
        let mut few = Vec::new();
        for network in self.networks.iter() {
            prefixes.push((IpAddr::V6(ipv6_prefix(&network.saved.id())), 64));
            let own = network.own_addresses().into_iter().filter(IpAddr::is_ipv4);
            prefixes.extend(own.map(host));
            if network.is_large() {
                let range = network.ipv4_range().filter(|_| network.saved.ipv4 == Ipv4Use::On);
                prefixes.extend(range.map(whole));
            } else {
                few.push(network.number);
            }
        }
        let members = self.peers.values().filter(|peer| peer.profile.network().is_some_and(|at| few.contains(&at)));
        prefixes.extend(members.flat_map(|peer| &peer.profile.allowed).filter(|(ip, _)| ip.is_ipv4()).copied());
        prefixes
    }

    /// Why the addresses of a network that is being joined cannot stand beside what this machine uses already.
    pub(crate) fn overlap(&self, at: NetworkNumber) -> Option<String> {
        let network = self.networks.get(at)?;
        if let Some(other) = self.networks.clash6(Some(at), &network.saved.id()) {
            return Some(format!(
                "the network {} has the IPv6 range of the network {}, which this machine is in",
                network.title(),
                other.title()
            ));
        }
        let name = network.state.name().map_or_else(|| network.title(), |name| name.as_str().to_owned());
        let range = network.ipv4_range().filter(|_| network.saved.ipv4 == Ipv4Use::On)?;
        self.taken(&name, range, For::Joining(at))
    }

    /// Why a network's IPv4 addresses cannot be used here as well, if this machine has others in its range.
    pub(crate) fn overlap4(&self, at: NetworkNumber) -> Option<String> {
        let network = self.networks.get(at)?;
        self.taken(&network.title(), network.ipv4_range()?, For::Joining(at))
    }

    fn taken(&self, name: &str, range: Ipv4Range, wanted: For) -> Option<String> {
        let address = range.network_address();
        self.holder(range, wanted).map(|who| format!("the network {name} has the IPv4 range {address}/16, but {who}"))
    }

    /// Who has addresses of a range on this machine already, in words.
    fn holder(&self, range: Ipv4Range, wanted: For) -> Option<String> {
        let own = match wanted {
            For::Founding => None,
            For::Joining(at) => Some(at),
        };
        match self.networks.clash(own, range) {
            Some(other) => Some(format!("the network {}, which this machine is in, has its addresses", other.title())),
            None => self.user_of(range, wanted),
        }
    }

    /// Who beside networks has addresses of a range on this machine, in words.
    fn user_of(&self, range: Ipv4Range, wanted: For) -> Option<String> {
        let (start, length) = whole(range);
        let overlaps = |(ip, prefix): &(IpAddr, u8)| {
            // What takes in as much as that is a way out and no place.
            *prefix >= LEAST_PREFIX && (is_within(*ip, start, length) || is_within(start, *ip, *prefix))
        };
        let text = |what: &str, (ip, prefix): (IpAddr, u8)| format!("{what} {ip}/{prefix}");
        if let Some(own) = self.config_addresses.iter().copied().find(|prefix| overlaps(prefix)) {
            return Some(text("the configuration file has this machine's", own));
        }
        let configured = |peer: &&Peer| peer.profile.network().is_none();
        let peers = self.peers.values().filter(configured);
        let theirs = peers.flat_map(|peer| peer.profile.allowed.iter().map(move |prefix| (peer, *prefix)));
        if let Some((peer, prefix)) = { theirs }.find(|(_, prefix)| overlaps(prefix)) {
            return Some(text(&format!("the configuration file has the peer {} at", peer.profile.name), prefix));
        }
        // A carrier's own range holds those of most networks, and members' single addresses leave its gateway alone.
        let counts = |ip: &&IpAddr| wanted == For::Founding || reach(**ip) != Reach::SharedCgn;
        let known = self.gather.interfaces_known().iter().chain(&self.addresses);
        let own = { known }.filter(counts).find(|ip| is_within(**ip, start, length))?;
        Some(format!("this machine's own address {own} lies in it"))
    }

    /// Whether a network that is founded here cannot have this range.
    fn is_taken(&self, range: Ipv4Range) -> bool {
        self.holder(range, For::Founding).is_some()
    }

    /// A range that nothing on this machine uses: `first` if it is free, then others inside 100.64.0.0/10, then any.
    fn free_range(&self, first: Ipv4Range) -> Option<Ipv4Range> {
        let [_, start] = first.prefix();
        let near = (0..64).map(|step| (100, 64 | (start.wrapping_add(step) & 63)));
        let far = (0..=255).map(|step| (10, start.wrapping_add(step)));
        let further = (16..32).map(|second| (172, second)).chain([(192, 168)]);
        let others = near.chain(far).chain(further).filter_map(|(a, b)| Ipv4Range::new(a, b));
        std::iter::once(first).chain(others).find(|range| !self.is_taken(*range))
    }

    /// Founds a network; where nobody asks for a range and the one of its id is taken on this machine, with a free one.
    pub(crate) fn found(&mut self, charter: Charter, ipv4: Ipv4Use) -> Result<Founded, Failure> {
        let unusable = |error: &dyn std::fmt::Display| {
            Failure::new(FailureCode::Usage, format!("the founding string cannot be used: {error}"), "")
        };
        let founded = found(&mut self.rng, charter.clone()).map_err(|error| unusable(&error))?;
        let chosen = Ipv4Range::of(&founded.network);
        if charter.ipv4_range.is_some() || ipv4 == Ipv4Use::Off || !self.is_taken(chosen) {
            return Ok(founded);
        }
        let range = self.free_range(chosen).ok_or_else(|| {
            let text = "every IPv4 range that a network can have is used on this machine already";
            Failure::new(FailureCode::Usage, text, "found it with `--no-ipv4`, which reaches its members by IPv6 alone")
        })?;
        found(&mut self.rng, Charter { ipv4_range: Some(range), ..charter }).map_err(|error| unusable(&error))
    }

    /// The range that a user asks for, when nothing else on this machine has it.
    pub(crate) fn usable_range(&self, text: &str, ipv4: Ipv4Use) -> Result<Ipv4Range, Failure> {
        let range = parse_range(text).ok_or_else(|| {
            let hint =
                "write it as 100.72.0.0/16; it lies in 100.64.0.0/10, 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16";
            Failure::new(FailureCode::Usage, format!("{text} is no range for a network"), hint)
        })?;
        let holder = match ipv4 {
            Ipv4Use::On => self.holder(range, For::Founding),
            Ipv4Use::Off => None,
        };
        let Some(holder) = holder else { return Ok(range) };
        let taken = format!("the IPv4 range {text} is taken: {holder}");
        let hint = match self.free_range(Ipv4Range::new(100, 72).unwrap_or(range)) {
            Some(free) => {
                format!("--range {}/16 is free, and without --range a free one is chosen", free.network_address())
            }
            None => "choose another one".to_owned(),
        };
        Err(Failure::new(FailureCode::Usage, taken, hint))
    }
}

/// Reads a range as `100.72.0.0/16`.
fn parse_range(text: &str) -> Option<Ipv4Range> {
    let address: std::net::Ipv4Addr = text.strip_suffix("/16")?.parse().ok()?;
    match address.octets() {
        [a, b, 0, 0] => Ipv4Range::new(a, b),
        _ => None,
    }
}

fn whole(range: Ipv4Range) -> (IpAddr, u8) {
    (IpAddr::V4(range.network_address()), 16)
}

/// The shortest prefix of the configuration file that counts as a place: all of 10.0.0.0/8 does.
const LEAST_PREFIX: u8 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_whole_private_slash_16s() {
        assert_eq!(parse_range("100.72.0.0/16"), Ipv4Range::new(100, 72));
        assert_eq!(parse_range("10.9.0.0/16"), Ipv4Range::new(10, 9));
        for text in ["100.72.0.0", "100.72.0.0/24", "100.72.1.0/16", "8.8.0.0/16", "100.0.0.0/16", "fd00::/16", ""] {
            assert_eq!(parse_range(text), None, "{text}");
        }
    }
}
