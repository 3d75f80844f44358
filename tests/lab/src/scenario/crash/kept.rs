//! What no death of a program may change.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::scenario::scene::Member;

/// What a machine is and knows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    /// Names, keys and addresses of this machine and its network.
    own: Value,
    network: Value,
    port: u16,
    /// Names, keys and addresses of the other members.
    members: Vec<(Value, Value, Value)>,
    log: Vec<Value>,
}

impl Kept {
    /// What a machine's own tools show.
    pub(super) fn of(member: &Member) -> Result<Self> {
        let network = member.network()?;
        let peers = network["peers"].as_array().context("status lists no peers")?;
        let mut members: Vec<_> =
            peers.iter().map(|peer| (peer["name"].clone(), peer["id"].clone(), peer["ips"].clone())).collect();
        members.sort_by_key(|(name, ..)| name.to_string());
        Ok(Self {
            own: network["self"].clone(),
            network: network["id"].clone(),
            port: member.port()?,
            members,
            log: member.log_entries()?,
        })
    }

    /// What is missing or changed since `before`.
    pub(super) fn lost_since(&self, before: &Self) -> Vec<String> {
        let mut lost = Vec::new();
        let mut same = |what: &str, before: &dyn std::fmt::Debug, after: &dyn std::fmt::Debug| {
            let (before, after) = (format!("{before:?}"), format!("{after:?}"));
            if before != after {
                lost.push(format!("{what} was {before} and is {after}"));
            }
        };
        same("the network", &before.network, &self.network);
        same("the machine's own part", &before.own, &self.own);
        same("the port", &before.port, &self.port);
        same("the list of members", &before.members, &self.members);
        if !self.log.starts_with(&before.log) {
            lost.push(format!("the log had {} entries and has {} others", before.log.len(), self.log.len()));
        }
        lost
    }
}
