//! The mappings of this machine's sockets: which STUN servers are asked for them, and what is made of their words.
//!
//! Every network in use is represented among the servers that are asked, each server once however many networks name it:
//! the server of one network may be on the LAN and see no NAT at all, or be wrong. Of the servers of one network, one is
//! believed for each outside address, the first that answers and as long as it does: a NAT may show each of them another
//! port. What the servers of other networks say is told to a network's peers beside that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ginnel_path::SocketId;
use ginnel_path::address::reach;

use crate::io::{Family, ServerId};
use crate::networks::NetworkNumber;

/// What the STUN servers of all networks say.
#[derive(Default)]
pub(crate) struct Mappings {
    /// The STUN servers to ask, by the signaling server that named them.
    named: BTreeMap<ServerId, (NetworkNumber, Vec<SocketAddr>)>,
    /// Servers that did not answer: asked after all others.
    silent: BTreeSet<SocketAddr>,
    /// What was told of each socket, the most trusted first; one word for each server.
    words: BTreeMap<SocketId, Vec<Word>>,
}

/// What a server says of a socket.
struct Word {
    server: SocketAddr,
    mapped: SocketAddr,
    /// A mapping that had the socket's own port, where the server now tells another port of the same address: a NAT that
    /// keeps ports gives another one only where a packet of the server's came too early, and still the own one elsewhere.
    kept: Option<SocketAddr>,
    /// It was told since this machine's addresses last changed.
    confirmed: bool,
}

/// Which servers to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    All,
    /// Those that are not known to be silent.
    Answering,
}

/// What a server's word brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing that was not known.
    Same,
    /// A first word.
    New,
    /// Another mapping than the server had told before.
    Changed,
}

impl Mappings {
    /// Takes the servers that a signaling server of a network names; answers whether they are others than before.
    pub(crate) fn name(&mut self, network: NetworkNumber, by: ServerId, mut servers: Vec<SocketAddr>) -> bool {
        servers.truncate(MAX_NAMED);
        let named = Some((network, servers));
        if self.named.get(&by) == named.as_ref() {
            return false;
        }
        self.named.extend(named.map(|named| (by, named)));
        self.drop_unnamed();
        true
    }

    /// Forgets what signaling servers have named, and what those said.
    pub(crate) fn forget(&mut self, servers: &[ServerId]) {
        self.named.retain(|by, _| !servers.contains(by));
        self.silent.clear();
        self.drop_unnamed();
    }

    pub(crate) fn forget_socket(&mut self, socket: SocketId) {
        self.words.remove(&socket);
    }

    /// This machine's addresses have changed: what was told has to be told anew.
    pub(crate) fn moved(&mut self) {
        self.words.values_mut().flatten().for_each(|word| word.confirmed = false);
    }

    /// Whether there is anybody to ask.
    pub(crate) fn any_named(&self) -> bool {
        self.named.values().any(|(_, servers)| !servers.is_empty())
    }

    /// The networks whose servers are asked.
    pub(crate) fn networks(&self) -> impl Iterator<Item = NetworkNumber> {
        self.named.values().map(|(network, _)| *network)
    }

    /// The servers to ask for the mapping of a socket: one of each network, and where that makes less than [`MAX_ASKED`]
    /// hosts, others. Each is thereby kept within reach of us, and we of it.
    pub(crate) fn to_ask(&self, family: Family, ask: Ask) -> Vec<SocketAddr> {
        let fits =
            |server: &&SocketAddr| Family::of(server) == family && (ask == Ask::All || !self.silent.contains(*server));
        let mut chosen: Vec<SocketAddr> = Vec::new();
        let networks: BTreeSet<NetworkNumber> = self.networks().collect();
        for network in networks {
            let own: Vec<SocketAddr> = self.of(network).filter(fits).copied().collect();
            // A stable sort: otherwise the order in which they were named counts.
            let best = own.iter().copied().min_by_key(|server| self.silent.contains(server));
            let Some(best) = best else { continue };
            let is_silent = self.silent.contains(&best);
            if !own.iter().any(|server| chosen.contains(server) && (is_silent || !self.silent.contains(server))) {
                chosen.push(best);
            }
        }
        let mut others: Vec<SocketAddr> =
            self.named.values().flat_map(|(_, servers)| servers).filter(fits).copied().collect();
        others.sort_by_key(|server| self.silent.contains(server));
        for server in others {
            if chosen.len() < MAX_ASKED && chosen.iter().all(|known| known.ip() != server.ip()) {
                chosen.push(server);
            }
        }
        chosen
    }

    /// Takes a server's word on a socket.
    pub(crate) fn told(&mut self, socket: SocketId, own_port: u16, server: SocketAddr, mapped: SocketAddr) -> Told {
        if !self.is_named(server) {
            return Told::Same;
        }
        self.silent.remove(&server);
        let mut words = self.words.remove(&socket).unwrap_or_default();
        let before = words.len();
        let place = words.iter().position(|word| word.server == server).unwrap_or_else(|| {
            words.push(Word { server, mapped, kept: None, confirmed: true });
            words.len() - 1
        });
        // What the silent ones of its networks said of the address is in its hands from here on.
        let replaced = |word: &Word| {
            self.silent.contains(&word.server) && word.mapped.ip() == mapped.ip() && self.share(word.server, server)
        };
        let inherited = words.iter().filter(|word| replaced(word)).find_map(|word| word.own_port(own_port));
        let mut outcome = if words.len() > before { Told::New } else { Told::Same };
        if let Some(word) = words.get_mut(place) {
            let before = std::mem::replace(&mut word.mapped, mapped);
            word.confirmed = true;
            if before != mapped {
                outcome = Told::Changed;
            }
            if mapped.port() != own_port {
                word.kept = Some(before).filter(|before| before.port() == own_port).or(word.kept).or(inherited);
            }
            word.kept = word.kept.filter(|kept| kept.ip() == mapped.ip() && *kept != mapped);
        }
        // The word of one that is silent is of before the change.
        words.retain(|word| {
            let outdated = outcome == Told::Changed && self.silent.contains(&word.server);
            word.server == server || !(outdated || replaced(word))
        });
        self.words.insert(socket, words);
        outcome
    }

    /// A server did not tell a socket's mapping. What it said stays, behind what others say, if it was confirmed since
    /// this machine last moved, because then it is the server that has failed. Answers whether others may be asked instead.
    pub(crate) fn unanswered(&mut self, socket: SocketId, server: SocketAddr) -> bool {
        if !self.is_named(server) {
            return false;
        }
        self.silent.insert(server);
        if let Some(words) = self.words.get_mut(&socket)
            && let Some(place) = words.iter().position(|word| word.server == server)
        {
            let word = words.remove(place);
            words.extend(Some(word).filter(|word| word.confirmed));
        }
        let family = Family::of(&server);
        let others = !self.to_ask(family, Ask::Answering).is_empty();
        if !others {
            self.silent.clear();
        }
        others
    }

    /// The mappings of a socket as they are told to the peers of a network: what its own servers say, and some of what
    /// those of others say; addresses that anybody can send to come first.
    pub(crate) fn of_socket(&self, socket: SocketId, own_port: u16, network: Option<NetworkNumber>) -> Vec<SocketAddr> {
        let hidden = |addr: &SocketAddr| !reach(addr.ip()).is_public();
        let mut all = network.map(|network| self.believed(socket, own_port, network)).unwrap_or_default();
        all.sort_by_key(hidden);
        // Own servers that see no NAT leave room for somebody who does.
        all.truncate(MAX_TOLD - 1);
        let others: BTreeSet<NetworkNumber> = self.networks().filter(|other| Some(*other) != network).collect();
        let mut theirs: Vec<SocketAddr> =
            others.into_iter().flat_map(|other| self.believed(socket, own_port, other)).collect();
        theirs.sort_by_key(hidden);
        for addr in theirs {
            if all.len() < MAX_TOLD && !all.contains(&addr) {
                all.push(addr);
            }
        }
        all.sort_by_key(hidden);
        all
    }

    /// What the servers of one network say of a socket.
    fn believed(&self, socket: SocketId, own_port: u16, network: NetworkNumber) -> Vec<SocketAddr> {
        let words = self.words.get(&socket).into_iter().flatten();
        let mut addresses: Vec<SocketAddr> = Vec::new();
        let mut seen: BTreeSet<IpAddr> = BTreeSet::new();
        for word in words.filter(|word| self.of(network).any(|server| *server == word.server)) {
            if seen.insert(word.mapped.ip()) {
                addresses.extend(std::iter::once(word.mapped).chain(word.kept.filter(|kept| kept.port() == own_port)));
            }
        }
        addresses
    }

    /// The servers of one network.
    fn of(&self, network: NetworkNumber) -> impl Iterator<Item = &SocketAddr> {
        self.named.values().filter(move |(of, _)| *of == network).flat_map(|(_, servers)| servers)
    }

    fn is_named(&self, server: SocketAddr) -> bool {
        self.named.values().any(|(_, servers)| servers.contains(&server))
    }

    /// Whether a network names both servers.
    fn share(&self, one: SocketAddr, other: SocketAddr) -> bool {
        self.networks().any(|network| {
            self.of(network).any(|server| *server == one) && self.of(network).any(|server| *server == other)
        })
    }

    fn drop_unnamed(&mut self) {
        let named: BTreeSet<SocketAddr> = self.named.values().flat_map(|(_, servers)| servers).copied().collect();
        for words in self.words.values_mut() {
            words.retain(|word| named.contains(&word.server));
        }
    }
}

impl Word {
    /// The mapping with the socket's own port, where there is one.
    fn own_port(&self, own_port: u16) -> Option<SocketAddr> {
        std::iter::once(self.mapped).chain(self.kept).find(|addr| addr.port() == own_port)
    }
}

/// STUN servers that one signaling server may name.
const MAX_NAMED: usize = 8;
/// Hosts that are asked for one mapping at a time, where the networks in use are no more.
const MAX_ASKED: usize = 3;
/// Mappings of one socket that a peer is told.
const MAX_TOLD: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKET: SocketId = SocketId(0);
    const PORT: u16 = 4000;
    const HOME: NetworkNumber = NetworkNumber(0);
    const WORK: NetworkNumber = NetworkNumber(1);

    fn server(last: u8) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, last], 3478))
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// Server 1 is the first network's, server 2 the second one's.
    fn two_networks() -> Mappings {
        let mut mappings = Mappings::default();
        assert!(mappings.name(HOME, ServerId(1), vec![server(1)]));
        assert!(mappings.name(WORK, ServerId(2), vec![server(2)]));
        mappings
    }

    fn told(mappings: &mut Mappings, last: u8, mapped: &str) -> Told {
        mappings.told(SOCKET, PORT, server(last), at(mapped))
    }

    fn known(mappings: &Mappings, network: Option<NetworkNumber>) -> Vec<String> {
        mappings.of_socket(SOCKET, PORT, network).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_network_is_represented_and_a_server_of_several_is_asked_once() {
        let mut mappings = Mappings::default();
        mappings.name(NetworkNumber(0), ServerId(0), vec![server(1), server(2), server(3), server(4)]);
        assert_eq!(mappings.to_ask(Family::V4, Ask::All), [server(1), server(2), server(3)]);
        mappings.name(NetworkNumber(1), ServerId(1), vec![server(5)]);
        mappings.name(NetworkNumber(2), ServerId(2), vec![server(1)]);
        assert_eq!(mappings.to_ask(Family::V4, Ask::All), [server(1), server(5), server(2)]);
        assert_eq!(mappings.to_ask(Family::V6, Ask::All), []);
        // Where it is silent, the network that has no other one still asks it.
        mappings.unanswered(SOCKET, server(1));
        assert_eq!(mappings.to_ask(Family::V4, Ask::All), [server(2), server(5), server(1)]);
        assert_eq!(mappings.to_ask(Family::V4, Ask::Answering), [server(2), server(5), server(3)]);
        for number in 3..16 {
            mappings.name(NetworkNumber(number), ServerId(number as u16), vec![server(100 + number as u8)]);
        }
        assert_eq!(mappings.to_ask(Family::V4, Ask::All).len(), 16, "one for each, and none beside");
    }

    #[test]
    fn a_server_on_the_lan_hides_no_public_mapping() {
        for lan in [1, 2] {
            let mut mappings = two_networks();
            told(&mut mappings, lan, "10.0.0.2:4000");
            told(&mut mappings, 3 - lan, "8.8.8.8:4000");
            for network in [Some(HOME), Some(WORK), None] {
                assert_eq!(known(&mappings, network), ["8.8.8.8:4000", "10.0.0.2:4000"]);
            }
        }
    }

    #[test]
    fn a_networks_own_servers_are_believed_whatever_others_say_of_the_same_address() {
        let mut mappings = two_networks();
        told(&mut mappings, 1, "8.8.8.8:666");
        told(&mut mappings, 2, "8.8.8.8:4000");
        assert_eq!(known(&mappings, Some(HOME)), ["8.8.8.8:666", "8.8.8.8:4000"]);
        assert_eq!(known(&mappings, Some(WORK)), ["8.8.8.8:4000", "8.8.8.8:666"]);
        // However many say something, own servers have their place, and so has somebody who sees a public address.
        for number in 3..9 {
            mappings.name(NetworkNumber(number.into()), ServerId(number.into()), vec![server(number)]);
            told(&mut mappings, number, &format!("10.0.{number}.2:4000"));
        }
        mappings.name(HOME, ServerId(1), vec![server(1), server(9)]);
        told(&mut mappings, 9, "10.0.9.2:4000");
        assert_eq!(known(&mappings, Some(HOME)), ["8.8.8.8:666", "8.8.8.8:4000", "10.0.9.2:4000"]);
        assert_eq!(known(&mappings, Some(NetworkNumber(5))), ["8.8.8.8:666", "8.8.8.8:4000", "10.0.5.2:4000"]);
    }

    #[test]
    fn what_a_server_said_goes_with_it() {
        let mut mappings = two_networks();
        told(&mut mappings, 1, "9.9.9.9:1");
        told(&mut mappings, 2, "8.8.8.8:1");
        mappings.forget(&[ServerId(1)]);
        assert_eq!(known(&mappings, Some(HOME)), ["8.8.8.8:1"]);
        assert_eq!(told(&mut mappings, 1, "9.9.9.9:1"), Told::Same, "a late answer");
        assert!(mappings.name(WORK, ServerId(2), vec![server(3)]));
        assert_eq!(known(&mappings, Some(WORK)), Vec::<String>::new());
    }

    #[test]
    fn a_word_outlives_its_server_until_this_machine_moves_or_its_nat_changes() {
        let mut mappings = two_networks();
        told(&mut mappings, 1, "8.8.8.8:1");
        told(&mut mappings, 2, "8.8.8.8:2");
        assert!(mappings.unanswered(SOCKET, server(1)), "the other one may be asked");
        assert_eq!(known(&mappings, Some(HOME)), ["8.8.8.8:1", "8.8.8.8:2"]);
        assert_eq!(told(&mut mappings, 2, "8.8.8.8:2"), Told::Same);
        assert_eq!(told(&mut mappings, 2, "9.9.9.9:2"), Told::Changed);
        assert_eq!(known(&mappings, Some(HOME)), ["9.9.9.9:2"], "what the silent one said is of before");
        assert_eq!(told(&mut mappings, 1, "9.9.9.9:1"), Told::New);
        mappings.moved();
        assert_eq!(known(&mappings, Some(HOME)).len(), 2, "until they are asked in vain");
        told(&mut mappings, 2, "9.9.9.9:2");
        mappings.unanswered(SOCKET, server(1));
        assert_eq!(known(&mappings, Some(HOME)), ["9.9.9.9:2"]);
    }
}
