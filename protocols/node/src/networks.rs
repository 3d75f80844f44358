//! The networks that this machine is in: found by number, by server, or by what a user calls them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ginnel_membership::addressing::Ipv4Range;
use ginnel_membership::{Name, NetworkId};

use crate::io::{Failure, FailureCode, ServerId};
use crate::link::Link;
use crate::network::Network;
use crate::saved::SavedNetwork;

/// One network of this machine. The number is this process's own: it is given when the network is entered and not used
/// for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkNumber(pub u32);

/// Every network of this machine, in the order in which they were entered.
#[derive(Default)]
pub(crate) struct Networks {
    all: BTreeMap<NetworkNumber, Network>,
    next: u32,
    next_server: u32,
}

impl Networks {
    /// Takes in a network that `make` builds from its number.
    pub(crate) fn enter(&mut self, make: impl FnOnce(NetworkNumber) -> Network) -> NetworkNumber {
        let number = NetworkNumber(self.next);
        self.next = self.next.wrapping_add(1);
        self.all.insert(number, make(number));
        number
    }

    /// Numbers for the servers of a network; none is used for two servers at a time.
    pub(crate) fn server_ids(&mut self, count: usize) -> Vec<ServerId> {
        let mut ids = Vec::with_capacity(count);
        while ids.len() < count {
            let id = ServerId(u16::try_from(self.next_server & 0xFFFF).expect("16 bits are left"));
            self.next_server = self.next_server.wrapping_add(1);
            if self.owner(id).is_none() && !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    pub(crate) fn remove(&mut self, at: NetworkNumber) -> Option<Network> {
        self.all.remove(&at)
    }

    pub(crate) fn get(&self, at: NetworkNumber) -> Option<&Network> {
        self.all.get(&at)
    }

    pub(crate) fn get_mut(&mut self, at: NetworkNumber) -> Option<&mut Network> {
        self.all.get_mut(&at)
    }

    pub(crate) fn numbers(&self) -> Vec<NetworkNumber> {
        self.all.keys().copied().collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Network> {
        self.all.values()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Network> {
        self.all.values_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// The network with this id.
    pub(crate) fn by_id(&self, id: NetworkId) -> Option<&Network> {
        self.iter().find(|network| network.saved.id() == id)
    }

    /// The network that a server serves.
    pub(crate) fn owner(&self, id: ServerId) -> Option<&Network> {
        self.iter().find(|network| network.links.contains_key(&id))
    }

    /// The network that a server serves.
    pub(crate) fn owner_mut(&mut self, id: ServerId) -> Option<&mut Network> {
        self.iter_mut().find(|network| network.links.contains_key(&id))
    }

    /// The stream to a server.
    pub(crate) fn link_mut(&mut self, id: ServerId) -> Option<&mut Link> {
        self.iter_mut().find_map(|network| network.links.get_mut(&id))
    }

    /// The link to every server of every network.
    pub(crate) fn links_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.iter_mut().flat_map(|network| network.links.values_mut())
    }

    /// Every server of every network.
    pub(crate) fn servers(&self) -> Vec<ServerId> {
        self.iter().flat_map(|network| network.links.keys().copied()).collect()
    }

    /// What the networks are kept as.
    pub(crate) fn saved(&self) -> Vec<SavedNetwork> {
        self.iter().map(|network| network.saved.clone()).collect()
    }

    /// The network that a user means: the one named by its name or the start of its id; without a name the only one, or
    /// the only one that this machine has been let into.
    ///
    /// # Errors
    /// [`FailureCode::NotJoined`] without any network, [`FailureCode::NoSuchNetwork`] for a name that fits none, and
    /// [`FailureCode::Ambiguous`] with the names to choose from where several fit.
    pub(crate) fn choose(&self, wanted: Option<&str>) -> Result<NetworkNumber, Failure> {
        let numbers = self.fitting(wanted)?;
        match numbers.as_slice() {
            [one] => Ok(*one),
            _ => Err(self.ambiguous(&numbers)),
        }
    }

    /// As [`Self::choose`], but that a network which this machine has not been let into yet counts as well: for what cannot
    /// be undone.
    ///
    /// # Errors
    /// As [`Self::choose`].
    pub(crate) fn choose_strictly(&self, wanted: Option<&str>) -> Result<NetworkNumber, Failure> {
        let at = self.choose(wanted)?;
        if wanted.is_none() && self.len() > 1 { Err(self.ambiguous(&self.numbers())) } else { Ok(at) }
    }

    /// The networks that a user can mean; never empty.
    ///
    /// # Errors
    /// As [`Self::choose`], but that several may fit when none is named.
    pub(crate) fn fitting(&self, wanted: Option<&str>) -> Result<Vec<NetworkNumber>, Failure> {
        if self.all.is_empty() {
            return Err(not_joined());
        }
        let Some(wanted) = wanted else {
            let all: Vec<NetworkNumber> = self.numbers();
            let entered: Vec<NetworkNumber> =
                self.iter().filter(|network| !network.is_pending()).map(|network| network.number).collect();
            return Ok(if entered.is_empty() { all } else { entered });
        };
        let named = self.iter().find(|network| network.title() == wanted).map(|network| vec![network.number]);
        let by_id = || {
            let start = |network: &&Network| {
                wanted.len() >= MIN_ID && network.saved.id().to_string().starts_with(&wanted.to_ascii_lowercase())
            };
            self.iter().filter(start).map(|network| network.number).collect::<Vec<_>>()
        };
        match named.unwrap_or_else(by_id) {
            none if none.is_empty() => {
                let text = format!("this machine is in no network {wanted}");
                let hint = format!("it is in {}", self.titles(&self.numbers()));
                Err(Failure::new(FailureCode::NoSuchNetwork, text, hint))
            }
            one if one.len() == 1 => Ok(one),
            several => Err(self.ambiguous(&several)),
        }
    }

    /// The failure of a request that fits several networks.
    pub(crate) fn ambiguous(&self, fitting: &[NetworkNumber]) -> Failure {
        let text = format!("this machine is in several networks: {}", self.titles(fitting));
        Failure::new(FailureCode::Ambiguous, text, "name the one that is meant with --network NAME")
    }

    fn titles(&self, numbers: &[NetworkNumber]) -> String {
        let titles: Vec<String> = numbers.iter().filter_map(|at| self.get(*at)).map(Network::title).collect();
        titles.join(", ")
    }

    /// Another network of this machine that takes IPv4 addresses out of `range`. One that has not let this machine in takes
    /// none yet.
    pub(crate) fn clash(&self, at: Option<NetworkNumber>, range: Ipv4Range) -> Option<&Network> {
        let others = self.iter().filter(|network| Some(network.number) != at);
        let settled = others.filter(|network| network.saved.ipv4 == Ipv4Use::On && !network.is_pending());
        settled.into_iter().find(|network| network.ipv4_range() == Some(range))
    }

    /// Another network of this machine with the same IPv6 prefix, which takes a collision of two hashes.
    pub(crate) fn clash6(&self, at: Option<NetworkNumber>, id: &NetworkId) -> Option<&Network> {
        let prefix = ginnel_membership::addressing::ipv6_prefix(id);
        let others = self.iter().filter(|network| Some(network.number) != at);
        others.into_iter().find(|network| ginnel_membership::addressing::ipv6_prefix(&network.saved.id()) == prefix)
    }

    /// Gives a network whose own name another one has here, or that is one of [`RESERVED_TITLES`], a name for this machine
    /// alone. The one that had the name first keeps it; one that has not let this machine in has none.
    ///
    /// Answers whether there is a new one.
    pub(crate) fn settle_title(&mut self, at: NetworkNumber) -> bool {
        let Some(network) = self.get(at).filter(|network| !network.is_pending()) else { return false };
        let Some(name) = network.state.name().filter(|_| network.saved.alias.is_none()).cloned() else { return false };
        let taken = |name: &str| {
            is_reserved_title(name) || self.iter().any(|other| other.number != at && other.title() == name)
        };
        if !taken(name.as_str()) {
            return false;
        }
        let alias = (2..=MAX_NETWORKS + 1).map(|number| numbered(&name, number)).find(|alias| !taken(alias));
        if let Some(network) = self.get_mut(at) {
            network.saved.alias = alias;
        }
        true
    }
}

/// Whether a network's IPv4 addresses are used on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Ipv4Use {
    /// They are.
    On,
    /// The network's members are reached by IPv6 alone.
    Off,
}

impl Ipv4Use {
    /// Whether an address may be used.
    pub(crate) fn allows(self, ip: IpAddr) -> bool {
        self == Self::On || ip.is_ipv6()
    }
}

/// The name with a number at its end, shortened to what a label may have.
fn numbered(name: &Name, number: usize) -> String {
    let suffix = format!("-{number}");
    let stem = name.as_str().get(..MAX_LABEL - suffix.len()).unwrap_or(name.as_str());
    format!("{}{suffix}", stem.trim_end_matches('-'))
}

pub(crate) fn not_joined() -> Failure {
    Failure::new(FailureCode::NotJoined, "this machine is in no network", "`ginnel up INVITE` joins one")
}

/// Whether a network of this name would answer for names under `.internal` that others rely on.
pub(crate) fn is_reserved_title(name: &str) -> bool {
    RESERVED_TITLES.contains(&name) || Name::new(name).is_ok_and(|name| name.is_reserved())
}

/// Labels below `.internal` that clouds, container engines and clusters use, sorted.
const RESERVED_TITLES: [&str; 18] = [
    "amazonaws",
    "azure",
    "c",
    "cloud",
    "cloudapp",
    "cluster",
    "compute",
    "consul",
    "containers",
    "docker",
    "ec2",
    "google",
    "googleapis",
    "kubernetes",
    "lima",
    "metadata",
    "orb",
    "svc",
];
/// Networks that one machine may be in.
pub(crate) const MAX_NETWORKS: usize = 16;
/// Digits of a key or id that a user must give at least.
pub(crate) const MIN_ID: usize = 4;
const MAX_LABEL: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_titles_are_sorted_labels() {
        assert!(RESERVED_TITLES.is_sorted());
        assert!(RESERVED_TITLES.iter().all(|label| Name::new(label).is_ok() && is_reserved_title(label)));
        assert!(is_reserved_title("localhost") && !is_reserved_title("home"));
    }
}
