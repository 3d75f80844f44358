//! The interface: which addresses and routes this machine is to have.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ginnel_membership::addressing::ipv6_prefix;

use crate::io::{Output, TunRoute, TunState};
use crate::networks::{Ipv4Use, NetworkNumber};
use crate::node::Node;

impl Node {
    /// Tells the shell the interface's wanted state when it has changed.
    pub(crate) fn refresh_tun(&mut self) {
        let mut state = TunState { addresses: self.config_addresses.clone(), routes: Vec::new() };
        for network in self.networks.iter() {
            state.addresses.extend(network.own_addresses().into_iter().map(host));
        }
        // One route for all of a large network: a kernel would take long over as many routes as members.
        for network in self.networks.iter().filter(|network| network.is_large() && network.is_running()) {
            let range = network.state.ipv4_range().filter(|_| network.saved.ipv4 == Ipv4Use::On);
            let range = range.map(|range| (IpAddr::V4(range.network_address()), 16));
            let whole = range.into_iter().chain([(IpAddr::V6(ipv6_prefix(&network.saved.id())), 64)]);
            let own = network.own_addresses();
            state.routes.extend(whole.map(|prefix| tun_route(prefix, &own)));
        }
        let small = self.networks.iter().filter(|network| !network.is_large());
        let own: BTreeMap<NetworkNumber, Vec<IpAddr>> =
            small.map(|network| (network.number, network.own_addresses())).collect();
        for peer in self.peers.values() {
            let own = match peer.profile.network().map(|at| own.get(&at)) {
                Some(Some(own)) => own.as_slice(),
                Some(None) => continue,
                None => &[],
            };
            state.routes.extend(peer.profile.allowed.iter().map(|prefix| tun_route(*prefix, own)));
        }
        state.routes.sort_unstable();
        state.routes.dedup();
        if self.tun.as_ref() != Some(&state) {
            self.tun = Some(state.clone());
            self.outputs.push_back(Output::Tun(state));
        }
    }
}

/// A route to a prefix of a network in which this machine has the addresses `own`.
fn tun_route((destination, prefix): (IpAddr, u8), own: &[IpAddr]) -> TunRoute {
    let source = own.iter().copied().find(|ip| ip.is_ipv4() == destination.is_ipv4());
    TunRoute { destination, prefix, source }
}

pub(crate) fn host(ip: IpAddr) -> (IpAddr, u8) {
    (ip, if ip.is_ipv4() { 32 } else { 128 })
}
