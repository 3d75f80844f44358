use serde::{Deserialize, Serialize};

use crate::{Secret, Timestamp};

/// The servers of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerList {
    /// Name of the network.
    pub network: String,
    /// Its servers, in the order of the log's record.
    pub servers: Vec<ServerSummary>,
}

/// One server of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSummary {
    /// Its addresses, `host:port`; empty for a caller of the lowest tier.
    pub addresses: Vec<String>,
    /// Its signing key as text.
    pub key: String,
    /// What it does for the network.
    pub role: ServerRole,
    /// Whether this machine is connected to it.
    pub connected: bool,
    /// When it was last heard.
    pub last_contact: Option<Timestamp>,
    /// Why it is not connected; empty for a caller of the lowest tier.
    pub trouble: Option<String>,
}

impl ServerSummary {
    /// Removes the addresses and what may quote them.
    pub fn redact(&mut self) {
        self.addresses.clear();
        self.trouble = None;
    }
}

/// What a server does for a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerRole {
    /// Orders the log.
    Sequencer,
    /// Keeps a copy of the log and passes on what it is given.
    Mirror,
    /// A role of a later version.
    #[serde(other)]
    Unknown,
}

/// The admins of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminList {
    /// Name of the network.
    pub network: String,
    /// How many of them must agree to a change.
    pub threshold: u8,
    /// The admins.
    pub admins: Vec<AdminSummary>,
}

/// One admin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminSummary {
    /// Its key as text.
    pub id: String,
    /// Name of the member whose own key it is; absent for a key that stands alone.
    pub name: Option<String>,
    /// Whether this machine can sign with it.
    pub here: bool,
}

/// The rules of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Name of the network.
    pub network: String,
    /// Whether nobody new is let in once no admin has vouched for the log for seven days.
    pub strict: bool,
    /// Members with some rights of an admin.
    pub delegates: Vec<Delegate>,
}

/// A member with some rights of an admin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegate {
    /// Its name.
    pub peer: String,
    /// Its member key as text.
    pub id: String,
    /// What it may do.
    pub rights: Vec<Right>,
}

/// A right of an admin that a delegate may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Right {
    /// To vouch for the log.
    Leases,
    /// To invite.
    Invites,
}

/// The outcome of a change that admins sign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Whether it stands in the log.
    pub outcome: ChangeOutcome,
    /// What it is, in words.
    pub what: Option<String>,
    /// The string for other admins to sign with `ginnel cosign`, where some must.
    pub proposal: Option<String>,
    /// How many more admins must sign.
    pub missing: u8,
    /// The string that joins once a proposed invite is signed; nobody is told it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invite: Option<Secret>,
}

/// Whether a change stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeOutcome {
    /// It does.
    Done,
    /// Other admins must sign it first.
    Proposed,
}

/// The outcome of `rotate-keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotated {
    /// This machine's name, which stays.
    pub name: String,
    /// Its member key as text, which is new.
    pub id: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reply;

    #[test]
    fn a_change_is_written_as_its_schema_says() {
        let changed = Changed {
            outcome: ChangeOutcome::Proposed,
            what: Some("2 admins must agree".into()),
            proposal: Some("ginnel-sign-x".into()),
            missing: 1,
            invite: None,
        };
        assert_eq!(
            serde_json::to_string(&Reply::from(changed)).unwrap(),
            concat!(
                r#"{"schema":"ginnel.change/1","ginnel_version":"0.1.0","outcome":"proposed","#,
                r#""what":"2 admins must agree","proposal":"ginnel-sign-x","missing":1}"#
            )
        );
    }

    #[test]
    fn the_servers_lose_their_addresses_for_the_lowest_tier() {
        let server = ServerSummary {
            addresses: vec!["signal.example:4433".into()],
            key: "a1".into(),
            role: ServerRole::Sequencer,
            connected: false,
            last_contact: Some(Timestamp::from_unix(0)),
            trouble: Some("no answer from signal.example".into()),
        };
        let mut reply = Reply::from(ServerList { network: "home".into(), servers: vec![server] });
        assert!(serde_json::to_string(&reply).unwrap().contains(r#""role":"sequencer""#));
        reply.redact();
        assert!(!serde_json::to_string(&reply).unwrap().contains("signal.example"));
    }
}
