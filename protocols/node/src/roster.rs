//! Who governs a network: its servers, admins and delegates, as plain values for the local API.

use ginnel_membership::record::{Freshness, Rights};
use ginnel_membership::{MemberKey, SigningKey};

use crate::network::Network;
use crate::networks::NetworkNumber;
use crate::node::Node;
use crate::report::ServerReport;

/// Who governs a network, and by which rules.
#[derive(Clone, Debug)]
pub struct Roster {
    /// The network's name.
    pub network: String,
    /// The servers, in the order of the log's record.
    pub servers: Vec<RosterServer>,
    /// The admins, by key.
    pub admins: Vec<RosterAdmin>,
    /// How many of them must agree.
    pub threshold: u8,
    /// What an old lease means.
    pub freshness: Freshness,
    /// Members with rights of admins.
    pub delegates: Vec<RosterDelegate>,
}

/// A server.
#[derive(Clone, Debug)]
pub struct RosterServer {
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its signing key in hexadecimal.
    pub key: String,
    /// Whether it orders the log.
    pub role: ServerRole,
    /// How this machine stands with it; `None` when it does not talk to it.
    pub report: Option<ServerReport>,
}

/// What a server does for a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerRole {
    /// Orders the log.
    Sequencer,
    /// Keeps a copy.
    Mirror,
}

/// An admin.
#[derive(Clone, Debug)]
pub struct RosterAdmin {
    /// Its key in hexadecimal.
    pub id: String,
    /// The name of the member whose own key it is.
    pub name: Option<String>,
    /// Whether this machine holds it.
    pub holder: Holder,
}

/// Where a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// On this machine.
    Here,
    /// Somewhere else.
    Elsewhere,
}

/// A member with rights of an admin.
#[derive(Clone, Debug)]
pub struct RosterDelegate {
    /// Its name.
    pub name: String,
    /// Its member key in hexadecimal.
    pub id: String,
    /// The rights.
    pub rights: Rights,
}

impl Node {
    /// Who governs a network; `None` before its first record is here.
    pub fn roster(&self, at: NetworkNumber) -> Option<Roster> {
        self.networks.get(at).filter(|network| network.state.head().0 > 0).map(Network::roster)
    }
}

impl Network {
    fn roster(&self) -> Roster {
        let name = |key: &MemberKey| self.state.member(key).map(|member| member.name().as_str().to_owned());
        let held: Vec<MemberKey> = self.admin_keys().iter().map(SigningKey::member_key).collect();
        let sequencer = self.state.sequencer();
        let servers = self.state.servers().iter().map(|server| {
            let link = self.links.values().find(|link| link.server.keys == server.keys);
            RosterServer {
                addresses: server.addresses.clone(),
                key: server.keys.sequencer().to_string(),
                role: if Some(server.keys.sequencer()) == sequencer {
                    ServerRole::Sequencer
                } else {
                    ServerRole::Mirror
                },
                report: link.map(|link| ServerReport {
                    address: link.server.addresses.first().cloned().unwrap_or_default(),
                    connected: link.serves(),
                    last_contact: link.last_contact,
                    trouble: link.trouble.clone(),
                }),
            }
        });
        let policy = self.state.policy();
        Roster {
            network: self.title(),
            servers: servers.collect(),
            admins: self
                .state
                .admins()
                .map(|key| RosterAdmin {
                    id: key.to_string(),
                    name: name(key),
                    holder: if held.contains(key) { Holder::Here } else { Holder::Elsewhere },
                })
                .collect(),
            threshold: self.state.threshold(),
            freshness: policy.freshness,
            delegates: policy
                .delegates
                .iter()
                .map(|delegate| RosterDelegate {
                    name: name(&delegate.member).unwrap_or_default(),
                    id: delegate.member.to_string(),
                    rights: delegate.rights,
                })
                .collect(),
        }
    }
}
