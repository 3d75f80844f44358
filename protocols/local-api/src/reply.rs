use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::governance::{AdminList, Changed, Policy, Rotated, ServerList, ServerSummary};
use crate::{Body, Document, Health, NetworkState, PathReport, Peer, Secret, StaticPeer, Status, Timestamp};

/// What the daemon answers to a request, one variant per endpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// To `status`.
    Status(Box<Document<Status>>),
    /// To `peers`.
    Peers(Document<Peers>),
    /// To `ip`.
    Ip(Document<Ip>),
    /// To `log`.
    Log(Document<Log>),
    /// To `ping`.
    Ping(Document<PingReply>),
    /// To `up`.
    Up(Document<Up>),
    /// To `down`.
    Down(Document<Down>),
    /// To `invite create`.
    InviteCreated(Document<InviteCreated>),
    /// To `invite list`.
    InviteList(Document<InviteList>),
    /// To `invite revoke`.
    InviteVoided(Document<InviteVoided>),
    /// To `revoke`.
    Revoked(Document<Revoked>),
    /// To `leave`.
    Left(Document<Left>),
    /// To `server list`.
    ServerList(Document<ServerList>),
    /// To `admin list`.
    AdminList(Document<AdminList>),
    /// To `policy`.
    Policy(Document<Policy>),
    /// To every change that an admin signs.
    Changed(Document<Changed>),
    /// To `rotate-keys`.
    Rotated(Document<Rotated>),
}

impl Reply {
    /// Removes what a caller of the lowest tier may not see.
    pub fn redact(&mut self) {
        match self {
            Self::Status(status) => status.body.redact(),
            Self::Peers(peers) => {
                peers.body.peers.iter_mut().for_each(Peer::redact);
                peers.body.static_peers.iter_mut().for_each(StaticPeer::redact);
            }
            Self::Ping(ping) => ping.body.path.redact(),
            Self::ServerList(list) => list.body.servers.iter_mut().for_each(ServerSummary::redact),
            Self::Up(up) => up.body.warnings.iter_mut().for_each(Health::redact),
            Self::Ip(_)
            | Self::Log(_)
            | Self::Down(_)
            | Self::InviteCreated(_)
            | Self::InviteList(_)
            | Self::InviteVoided(_)
            | Self::Revoked(_)
            | Self::Left(_)
            | Self::AdminList(_)
            | Self::Policy(_)
            | Self::Changed(_)
            | Self::Rotated(_) => {}
        }
    }
}

macro_rules! bodies {
    ($($body:ty => $variant:ident, $schema:literal;)*) => {$(
        impl Body for $body {
            const SCHEMA: &'static str = $schema;
        }

        impl From<$body> for Reply {
            fn from(body: $body) -> Self {
                Self::$variant(Document::new(body))
            }
        }
    )*};
}

bodies! {
    Peers => Peers, "ginnel.peers/1";
    Ip => Ip, "ginnel.ip/1";
    Log => Log, "ginnel.log/1";
    PingReply => Ping, "ginnel.ping/1";
    Up => Up, "ginnel.up/1";
    Down => Down, "ginnel.down/1";
    InviteCreated => InviteCreated, "ginnel.invite-create/1";
    InviteList => InviteList, "ginnel.invite-list/1";
    InviteVoided => InviteVoided, "ginnel.invite-revoke/1";
    Revoked => Revoked, "ginnel.revoke/1";
    Left => Left, "ginnel.leave/1";
    ServerList => ServerList, "ginnel.server-list/1";
    AdminList => AdminList, "ginnel.admin-list/1";
    Policy => Policy, "ginnel.policy/1";
    Changed => Changed, "ginnel.change/1";
    Rotated => Rotated, "ginnel.rotate-keys/1";
}

impl From<Status> for Reply {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(Document::new(status)))
    }
}

/// The peers of all networks and of the configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    /// Members of the networks.
    pub peers: Vec<Peer>,
    /// Peers from the configuration file.
    pub static_peers: Vec<StaticPeer>,
}

/// The addresses of one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// Its name.
    pub name: String,
    /// Its addresses in the network.
    pub ips: Vec<IpAddr>,
}

/// The membership log in summary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Name of the network.
    pub network: String,
    /// Its entries, oldest first.
    pub entries: Vec<LogEntry>,
}

/// One entry of the membership log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Place in the log, from 0.
    pub sequence: u64,
    /// When the sequencer took it in.
    pub time: Timestamp,
    /// Kind of record, as in `member` or `revoke`.
    pub kind: String,
    /// Whom or what the record is about: a name where one is known, otherwise a key.
    pub subject: String,
    /// Who signed it: a name where one is known, otherwise a key.
    pub by: String,
    /// What replay made of it.
    pub verdict: Verdict,
    /// Why it was refused.
    pub reason: Option<String>,
}

/// What replay made of a log entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It took effect.
    Applied,
    /// It stands in the log without effect.
    Refused,
}

/// The outcome of one ping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PingReply {
    /// The number that the request gave.
    pub seq: u32,
    /// Whether an answer came in time.
    pub ok: bool,
    /// The path by which the answer came; without an answer, the path in use.
    pub path: PathReport,
    /// Round trip in milliseconds.
    pub rtt_ms: Option<f64>,
}

/// The outcome of `up`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Up {
    /// The network that runs.
    #[serde(flatten)]
    pub first: UpNetwork,
    /// The further networks, where one call started all that this machine is in.
    #[serde(default)]
    pub others: Vec<UpNetwork>,
    /// What the user should know, as a clash of address ranges.
    pub warnings: Vec<Health>,
}

/// A network that runs after `up`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpNetwork {
    /// What `up` did.
    pub outcome: UpOutcome,
    /// Name of the network.
    pub network: String,
    /// Id of the network.
    pub network_id: String,
    /// This machine's name in it.
    pub name: String,
    /// This machine's addresses in it.
    pub ips: Vec<IpAddr>,
    /// What the network is doing.
    pub state: NetworkState,
}

/// What `up` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpOutcome {
    /// Founded a network; this machine is its first admin.
    Founded,
    /// Joined a network.
    Joined,
    /// Started a network that had been taken down.
    Started,
    /// The network ran already; settings given with `up` were taken over.
    Unchanged,
}

/// The outcome of `down`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    /// The networks that this call stopped; empty when none ran.
    pub stopped: Vec<String>,
}

/// A new invite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteCreated {
    /// The string that `ginnel up` takes; whoever holds it can join until it is used, revoked or expired.
    pub invite: Secret,
    /// Id for `invite revoke`.
    pub id: String,
    /// Name of the network.
    pub network: String,
    /// When it expires.
    pub expires: Timestamp,
    /// The name proposed to the machine that joins.
    pub name: Option<String>,
}

/// The invites of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteList {
    /// The invites, oldest first.
    pub invites: Vec<InviteSummary>,
}

/// One invite, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteSummary {
    /// Id for `invite revoke`.
    pub id: String,
    /// Who made it: a name where one is known, otherwise a key.
    pub by: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it expires.
    pub expires: Timestamp,
    /// Whether it can still be used.
    pub state: InviteState,
    /// Name of the member who used it.
    pub used_by: Option<String>,
}

/// Whether an invite can still be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InviteState {
    /// It can.
    Open,
    /// A member joined with it.
    Used,
    /// It was revoked.
    Revoked,
    /// Its time is over.
    Expired,
    /// A state of a later version.
    #[serde(other)]
    Unknown,
}

/// The outcome of `invite revoke`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteVoided {
    /// The invite.
    pub id: String,
}

/// The outcome of `revoke`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Name of the member put out.
    pub name: String,
    /// Its member key as text.
    pub id: String,
}

/// The outcome of `leave`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Name of the network left.
    pub network: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PathKind;

    #[test]
    fn ping_is_written_as_its_schema_says() {
        let ping = PingReply {
            seq: 3,
            ok: true,
            path: PathReport {
                kind: PathKind::Lan,
                endpoint: Some("192.168.1.2:5000".parse().unwrap()),
                ..PathReport::NONE
            },
            rtt_ms: Some(0.5),
        };
        assert_eq!(
            serde_json::to_string(&Reply::from(ping)).unwrap(),
            concat!(
                r#"{"schema":"ginnel.ping/1","ginnel_version":"0.1.0","seq":3,"ok":true,"path":{"kind":"lan","#,
                r#""endpoint":"192.168.1.2:5000","relay":null,"rtt_ms":null,"since_s":null},"rtt_ms":0.5}"#
            )
        );
    }

    #[test]
    fn log_is_written_as_its_schema_says() {
        let entry = LogEntry {
            sequence: 4,
            time: Timestamp::from_unix(1_790_000_000),
            kind: "revoke".into(),
            subject: "laptop".into(),
            by: "desk".into(),
            verdict: Verdict::Applied,
            reason: None,
        };
        let reply = Reply::from(Log { network: "home".into(), entries: vec![entry] });
        assert_eq!(
            serde_json::to_string(&reply).unwrap(),
            concat!(
                r#"{"schema":"ginnel.log/1","ginnel_version":"0.1.0","network":"home","entries":[{"sequence":4,"#,
                r#""time":"2026-09-21T14:13:20Z","kind":"revoke","subject":"laptop","by":"desk","verdict":"applied","#,
                r#""reason":null}]}"#
            )
        );
    }

    #[test]
    fn the_warnings_of_up_lose_their_words_for_the_lowest_tier() {
        let first = UpNetwork {
            outcome: UpOutcome::Unchanged,
            network: "home".into(),
            network_id: "k5qf".into(),
            name: "desk".into(),
            ips: Vec::new(),
            state: NetworkState::NoServer,
        };
        let warning = Health {
            network: None,
            code: "no-server".into(),
            severity: crate::Severity::Warning,
            text: "no answer from signal.example:4433".into(),
            fix: Some("ask who runs signal.example".into()),
        };
        let mut reply = Reply::from(Up { first, others: Vec::new(), warnings: vec![warning] });
        reply.redact();
        let text = serde_json::to_string(&reply).unwrap();
        assert!(!text.contains("signal.example") && text.contains(r#""code":"no-server""#), "{text}");
    }

    #[test]
    fn an_invite_is_not_shown_by_debug() {
        let invite = InviteCreated {
            invite: Secret::from("ginnel-invite-abc".to_owned()),
            id: "1".into(),
            network: "home".into(),
            expires: Timestamp::from_unix(0),
            name: None,
        };
        assert!(!format!("{invite:?}").contains("abc"));
        assert!(serde_json::to_string(&invite).unwrap().contains("ginnel-invite-abc"));
        let proposed = Changed {
            outcome: crate::ChangeOutcome::Proposed,
            what: Some("invite: 1".into()),
            proposal: Some("ginnel-sign-x".into()),
            missing: 1,
            invite: Some(Secret::from("ginnel-invite-abc".to_owned())),
        };
        assert!(!format!("{:?}", Reply::from(proposed.clone())).contains("abc"));
        assert!(serde_json::to_string(&proposed).unwrap().contains(r#""invite":"ginnel-invite-abc""#));
    }
}
