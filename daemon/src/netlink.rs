//! The kernel's links, addresses and routes, over rtnetlink.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::{StreamExt as _, TryStreamExt as _};
use ginnel_node::TunRoute;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{AddressMessageBuilder, Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// A connection to the kernel. Changes need CAP_NET_ADMIN; reading needs nothing.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    driver: JoinHandle<()>,
}

impl Netlink {
    /// Connects; to be called within a tokio runtime.
    ///
    /// # Errors
    /// When the process may not open a netlink socket.
    pub fn open() -> anyhow::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .context("cannot open a netlink socket; in a service, RestrictAddressFamilies must name AF_NETLINK")?;
        Ok(Self { handle, driver: tokio::spawn(connection) })
    }

    /// The index of the interface `name`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn link_index(&self, name: &str) -> anyhow::Result<u32> {
        let request = self.handle.link().get().match_name(name.to_owned());
        let link = request.execute().try_next().await.with_context(|| format!("look for the interface {name}"))?;
        Ok(link.with_context(|| format!("there is no interface {name}"))?.header.index)
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn set_link_up(&self, index: u32) -> anyhow::Result<()> {
        self.handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await.map_err(explain)
    }

    /// Gives an interface an address; one that it has already is fine.
    ///
    /// # Errors
    /// The kernel's, as IPv6 being switched off on the interface.
    pub async fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> anyhow::Result<()> {
        let mut request = self.handle.address().add(index, address, prefix).replace();
        if address.is_ipv6() {
            // Nobody else can have an address derived from our key: waiting for duplicates would only delay it.
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.map_err(explain)
    }

    /// Takes an address from an interface; one that it has not is fine.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn delete_address(&self, index: u32, address: IpAddr, prefix: u8) -> anyhow::Result<()> {
        let message: AddressMessage = match address {
            IpAddr::V4(v4) => {
                AddressMessageBuilder::<std::net::Ipv4Addr>::new().index(index).address(v4, prefix).build()
            }
            IpAddr::V6(v6) => {
                AddressMessageBuilder::<std::net::Ipv6Addr>::new().index(index).address(v6, prefix).build()
            }
        };
        ignore(self.handle.address().del(message).execute().await, &[libc::EADDRNOTAVAIL, libc::ENODEV])
    }

    /// Routes a prefix into an interface; a route of the same kind is replaced.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn add_route(&self, index: u32, route: TunRoute) -> anyhow::Result<()> {
        let mut message = device_route(index, route.destination, route.prefix)?;
        // By IPv6 the kernel takes the own address that has most in common with the destination (RFC 6724, rule 8), which
        // is the one in the same network; by IPv4 it would take the interface's first.
        if let Some(IpAddr::V4(source)) = route.source {
            message.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(source)));
        }
        self.handle.route().add(message).replace().execute().await.map_err(explain)
    }

    /// Removes a route of [`Netlink::add_route`]; one that is not there is fine.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn delete_route(&self, index: u32, destination: IpAddr, prefix: u8) -> anyhow::Result<()> {
        let message = device_route(index, destination, prefix)?;
        ignore(self.handle.route().del(message).execute().await, &[libc::ESRCH, libc::ENODEV])
    }

    /// Every usable address of every interface that is up; those being checked for duplicates, refused as duplicates or
    /// past their preferred life are left out.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn interface_addresses(&self) -> anyhow::Result<Vec<InterfaceAddress>> {
        let mut links = BTreeMap::new();
        let mut stream = std::pin::pin!(self.handle.link().get().execute());
        while let Some(link) = stream.try_next().await.context("list the interfaces")? {
            if link.header.flags.contains(LinkFlags::Up) {
                let name = link.attributes.iter().find_map(|attribute| {
                    if let LinkAttribute::IfName(name) = attribute { Some(name.clone()) } else { None }
                });
                let kind = link.attributes.iter().find_map(link_kind).unwrap_or(LinkKind::Other);
                let kind = if link.header.flags.contains(LinkFlags::Loopback) { LinkKind::Loopback } else { kind };
                links.insert(link.header.index, (name.unwrap_or_default(), kind));
            }
        }
        let mut addresses = Vec::new();
        let mut stream = std::pin::pin!(self.handle.address().get().execute());
        while let Some(message) = stream.try_next().await.context("list the addresses")? {
            let Some((interface, kind)) = links.get(&message.header.index) else { continue };
            if let (Some(address), Usable::Yes) = (local_address(&message), usable(&message)) {
                let prefix = message.header.prefix_len;
                addresses.push(InterfaceAddress { interface: interface.clone(), kind: *kind, address, prefix });
            }
        }
        Ok(addresses)
    }

    /// The addresses by which peers may reach this machine: those of [`Netlink::interface_addresses`] without loopback,
    /// the interface `own`, other tunnels, and the bridges of containers and virtual machines.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn candidate_addresses(&self, own: &str) -> anyhow::Result<Vec<IpAddr>> {
        Ok(candidates(&self.interface_addresses().await?, own))
    }

    /// The routes of the main table.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn routes(&self) -> anyhow::Result<Vec<Route>> {
        let mut routes = Vec::new();
        let families = [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ];
        for family in families {
            let mut stream = std::pin::pin!(self.handle.route().get(family).execute());
            while let Some(message) = stream.try_next().await.context("list the routes")? {
                routes.extend(route(&message));
            }
        }
        Ok(routes)
    }

    /// Watches links and addresses: after each burst of changes, one message, 100 ms after the burst's first.
    ///
    /// Messages that nobody takes run into one another. The watch ends when the receiver is dropped.
    ///
    /// # Errors
    /// When the process may not open a netlink socket.
    pub fn watch() -> anyhow::Result<mpsc::Receiver<()>> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, _, mut messages) =
            rtnetlink::new_multicast_connection(&groups).context("cannot watch the kernel's addresses")?;
        let (sender, receiver) = mpsc::channel(1);
        let driver = tokio::spawn(connection);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = sender.closed() => break,
                    message = messages.next() => match message {
                        Some((message, _)) if concerns_addresses(&message.payload) => {}
                        Some(_) => continue,
                        None => break,
                    },
                }
                tokio::time::sleep(DEBOUNCE).await;
                while messages.try_recv().is_ok() {}
                // A full channel says the same already.
                let _ = sender.try_send(());
            }
            driver.abort();
        });
        Ok(receiver)
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Name of the interface.
    pub interface: String,
    /// What sort of interface it is.
    pub kind: LinkKind,
    /// The address.
    pub address: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
}

/// Sorts of interface, as far as they matter for candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// The loopback interface.
    Loopback,
    /// A tunnel of this or another program.
    Tunnel,
    /// A bridge.
    Bridge,
    /// Anything else: Ethernet, Wi-Fi, mobile, a container's own end.
    Other,
}

/// The addresses by which peers may reach this machine, see [`Netlink::candidate_addresses`].
pub fn candidates(entries: &[InterfaceAddress], own: &str) -> Vec<IpAddr> {
    entries.iter().filter(|entry| entry.is_candidate(own)).map(|entry| entry.address).collect()
}

/// The addresses of every interface but `own`, other tunnels and bridges of containers included: what no network may have.
pub fn in_use(entries: &[InterfaceAddress], own: &str) -> Vec<IpAddr> {
    let others = entries.iter().filter(|entry| entry.interface != own && !entry.address.is_loopback());
    others.map(|entry| entry.address).collect()
}

impl InterfaceAddress {
    fn is_candidate(&self, own: &str) -> bool {
        let link_local = match self.address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let bridge_of_containers =
            self.kind == LinkKind::Bridge && CONTAINER_BRIDGES.iter().any(|start| self.interface.starts_with(start));
        self.interface != own
            && !link_local
            && !self.address.is_loopback()
            && !self.address.is_unspecified()
            && !self.address.is_multicast()
            && !bridge_of_containers
            && !matches!(self.kind, LinkKind::Loopback | LinkKind::Tunnel)
    }
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destination.
    pub destination: IpAddr,
    /// Length of its prefix; 0 for a default route.
    pub prefix: u8,
    /// Index of the interface, where the route names one.
    pub index: Option<u32>,
}

/// The route, other than a default route or one of the interface `own`, that would lose traffic if `prefix` of `address`
/// were routed into the tunnel.
pub fn clash(routes: &[Route], own: u32, address: IpAddr, prefix: u8) -> Option<&Route> {
    routes
        .iter()
        .filter(|route| route.index != Some(own) && route.prefix > 0)
        .filter(|route| {
            let common = route.prefix.min(prefix);
            masked(route.destination, common) == masked(address, common)
        })
        .max_by_key(|route| route.prefix)
}

/// `address` with everything after its first `prefix` bits zero.
pub fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(u32::from(prefix))).unwrap_or(0);
            IpAddr::from((u32::from(v4) & mask).to_be_bytes())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(u32::from(prefix))).unwrap_or(0);
            IpAddr::from((u128::from(v6) & mask).to_be_bytes())
        }
    }
}

enum Usable {
    Yes,
    No,
}

fn usable(message: &AddressMessage) -> Usable {
    let bad = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed | AddressHeaderFlags::Deprecated;
    if message.header.flags.intersects(bad) { Usable::No } else { Usable::Yes }
}

/// IFA_LOCAL where there is one: on a point-to-point link IFA_ADDRESS is the other end's.
fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    let attributes = &message.attributes;
    let local = attributes
        .iter()
        .find_map(|attribute| if let AddressAttribute::Local(address) = attribute { Some(*address) } else { None });
    local.or_else(|| {
        attributes.iter().find_map(|attribute| {
            if let AddressAttribute::Address(address) = attribute { Some(*address) } else { None }
        })
    })
}

fn link_kind(attribute: &LinkAttribute) -> Option<LinkKind> {
    let LinkAttribute::LinkInfo(infos) = attribute else { return None };
    let kind = infos.iter().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind) } else { None })?;
    let tunnel = matches!(
        kind,
        InfoKind::Tun
            | InfoKind::Wireguard
            | InfoKind::IpIp
            | InfoKind::Ip6Tnl
            | InfoKind::SitTun
            | InfoKind::GreTun
            | InfoKind::GreTun6
            | InfoKind::Vti
            | InfoKind::Vti6
            | InfoKind::Xfrm
    );
    if tunnel {
        Some(LinkKind::Tunnel)
    } else if matches!(kind, InfoKind::Bridge) {
        Some(LinkKind::Bridge)
    } else {
        None
    }
}

fn route(message: &RouteMessage) -> Option<Route> {
    let table = message
        .attributes
        .iter()
        .find_map(|attribute| if let RouteAttribute::Table(table) = attribute { Some(*table) } else { None });
    if table.unwrap_or_else(|| u32::from(message.header.table)) != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    let destination = message.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Destination(address) = attribute else { return None };
        if let RouteAddress::Inet(v4) = address {
            return Some(IpAddr::V4(*v4));
        }
        if let RouteAddress::Inet6(v6) = address { Some(IpAddr::V6(*v6)) } else { None }
    });
    let destination = match (destination, message.header.address_family) {
        (Some(destination), _) => destination,
        (None, AddressFamily::Inet) => IpAddr::from([0; 4]),
        (None, AddressFamily::Inet6) => IpAddr::from([0; 16]),
        (None, _) => return None,
    };
    let index = message
        .attributes
        .iter()
        .find_map(|attribute| if let RouteAttribute::Oif(index) = attribute { Some(*index) } else { None });
    Some(Route { destination, prefix: message.header.destination_prefix_length, index })
}

fn device_route(index: u32, destination: IpAddr, prefix: u8) -> anyhow::Result<RouteMessage> {
    let widest = if destination.is_ipv4() { 32 } else { 128 };
    if prefix > widest {
        bail!("{destination}/{prefix} is not a prefix");
    }
    Ok(match masked(destination, prefix) {
        IpAddr::V4(v4) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(v4, prefix)
            .output_interface(index)
            .scope(RouteScope::Link)
            .build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(v6, prefix)
            .output_interface(index)
            .build(),
    })
}

fn concerns_addresses(payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    matches!(
        payload,
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewAddress(_)
                | RouteNetlinkMessage::DelAddress(_)
                | RouteNetlinkMessage::NewLink(_)
                | RouteNetlinkMessage::DelLink(_)
        )
    )
}

fn ignore(result: Result<(), rtnetlink::Error>, codes: &[i32]) -> anyhow::Result<()> {
    match result {
        Err(rtnetlink::Error::NetlinkError(error)) if codes.contains(&error.raw_code().saturating_neg()) => Ok(()),
        result => result.map_err(explain),
    }
}

fn explain(error: rtnetlink::Error) -> anyhow::Error {
    if let rtnetlink::Error::NetlinkError(message) = &error {
        let code = message.raw_code().saturating_neg();
        if code == libc::EPERM {
            return anyhow::anyhow!(
                "the right CAP_NET_ADMIN is missing: run as root or give the service that capability"
            );
        }
        return anyhow::Error::new(std::io::Error::from_raw_os_error(code));
    }
    anyhow::Error::new(error)
}

/// Long enough for the burst that an interface coming up makes, short enough not to be felt.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// How Docker, Podman, libvirt, LXD, Incus, CNI plugins and systemd-nspawn name their bridges.
const CONTAINER_BRIDGES: [&str; 10] =
    ["docker", "br-", "podman", "virbr", "lxcbr", "lxdbr", "incusbr", "cni", "vz-", "kube-bridge"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_leave_out_tunnels_container_bridges_and_local_addresses() {
        let entry = |interface: &str, kind, address: &str| InterfaceAddress {
            interface: interface.to_owned(),
            kind,
            address: address.parse().unwrap(),
            prefix: 24,
        };
        for (candidate, expected) in [
            (entry("eth0", LinkKind::Other, "192.168.1.2"), true),
            (entry("br0", LinkKind::Bridge, "192.168.1.2"), true),
            (entry("eth0", LinkKind::Other, "2001:db8::1"), true),
            (entry("eth0", LinkKind::Other, "fe80::1"), false),
            (entry("eth0", LinkKind::Other, "169.254.1.1"), false),
            (entry("lo", LinkKind::Loopback, "10.1.1.1"), false),
            (entry("wg0", LinkKind::Tunnel, "10.1.1.1"), false),
            (entry("docker0", LinkKind::Bridge, "172.17.0.1"), false),
            (entry("ginnel0", LinkKind::Other, "100.70.0.1"), false),
        ] {
            assert_eq!(candidate.is_candidate("ginnel0"), expected, "{candidate:?}");
        }
    }

    #[test]
    fn what_other_tunnels_and_container_bridges_have_is_in_use() {
        let entry = |interface: &str, kind, address: &str| InterfaceAddress {
            interface: interface.to_owned(),
            kind,
            address: address.parse().unwrap(),
            prefix: 16,
        };
        let entries = [
            entry("lo", LinkKind::Loopback, "127.0.0.1"),
            entry("eth0", LinkKind::Other, "192.168.1.2"),
            entry("tailscale0", LinkKind::Tunnel, "100.101.2.3"),
            entry("docker0", LinkKind::Bridge, "172.17.0.1"),
            entry("ginnel0", LinkKind::Tunnel, "100.70.0.1"),
        ];
        let expected: Vec<IpAddr> =
            ["192.168.1.2", "100.101.2.3", "172.17.0.1"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(in_use(&entries, "ginnel0"), expected);
    }

    #[test]
    fn masks_are_right_at_their_ends() {
        for (address, prefix, expected) in [
            ("10.1.2.3", 32, "10.1.2.3"),
            ("10.1.2.3", 24, "10.1.2.0"),
            ("10.1.2.3", 0, "0.0.0.0"),
            ("2001:db8::ffff", 128, "2001:db8::ffff"),
            ("2001:db8::ffff", 120, "2001:db8::ff00"),
            ("2001:db8::ffff", 0, "::"),
        ] {
            assert_eq!(masked(address.parse().unwrap(), prefix), expected.parse::<IpAddr>().unwrap());
        }
    }

    #[test]
    fn a_clash_is_the_longest_foreign_route_that_meets_the_prefix() {
        let route =
            |destination: &str, prefix, index| Route { destination: destination.parse().unwrap(), prefix, index };
        let routes = [
            route("0.0.0.0", 0, Some(2)),
            route("100.64.0.0", 10, Some(3)),
            route("100.70.0.0", 16, Some(4)),
            route("100.70.0.9", 32, Some(9)),
            route("::", 0, Some(2)),
        ];
        assert_eq!(clash(&routes, 9, "100.70.0.9".parse().unwrap(), 32), Some(&routes[2]));
        assert_eq!(clash(&routes, 9, "100.80.0.0".parse().unwrap(), 16), Some(&routes[1]));
        assert_eq!(clash(&routes, 9, "10.0.0.1".parse().unwrap(), 32), None);
        assert_eq!(clash(&routes, 9, "fd00::1".parse().unwrap(), 128), None);
    }

    #[tokio::test]
    async fn the_kernel_lists_the_loopback_address() {
        let netlink = Netlink::open().unwrap();
        let addresses = netlink.interface_addresses().await.unwrap();
        let loopback = addresses.iter().find(|entry| entry.address == IpAddr::from([127, 0, 0, 1])).unwrap();
        assert_eq!((loopback.interface.as_str(), loopback.kind, loopback.prefix), ("lo", LinkKind::Loopback, 8));
        assert!(!netlink.candidate_addresses("none").await.unwrap().contains(&loopback.address));
        assert_eq!(netlink.link_index("lo").await.unwrap(), 1);
        assert!(netlink.link_index("no-such-link").await.is_err());
        netlink.routes().await.unwrap();
    }
}
