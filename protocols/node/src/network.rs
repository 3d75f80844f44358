//! The network that this machine is in: its servers, its log, its members as peers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use ginnel_forward::{Command, PeerId, Shields};
use ginnel_membership::addressing::Ipv4Range;
use ginnel_membership::state::{Applied, Comparison};
use ginnel_membership::{
    Break, Change, Entry, Malformed, MemberKey, NetworkId, Record, Refusal, SignedRecord, State, TunnelKey,
};
use ginnel_signal_proto::Head;
use ginnel_signal_proto::mailbox::{MailOpener, MailSealer};
use ginnel_signal_proto::{Client, ClientMessage};
use ginnel_time::{Instant, Tai64n};
use ginnel_tunnel::{NetworkTag, PublicKey};
use rand_core::RngCore;

use crate::clock::Clock;
use crate::gossip::Gossip;
use crate::greet::{Greeter, Reason};
use crate::io::{Failure, FailureCode, Output, Reply, RequestId, ServerId};
use crate::link::{Link, LinkStatus};
use crate::load::Bucket;
use crate::members::addresses_of;
use crate::networks::{Ipv4Use, MAX_NETWORKS, NetworkNumber};
use crate::node::{FEW_PEERS, Node, StoredLog};
use crate::peer::IdentityId;
use crate::report::LogLine;
use crate::requests::describe;
use crate::saved::{Saved, SavedNetwork, SavedShields, Stage, Switch};
use crate::servers::Recruit;
use crate::tail::Tail;
use crate::waiting::{Waiting, Wish};

/// One network and this machine's part in it.
pub(crate) struct Network {
    pub(crate) number: NetworkNumber,
    pub(crate) saved: SavedNetwork,
    pub(crate) state: State,
    pub(crate) links: BTreeMap<ServerId, Link>,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) sealer: MailSealer,
    pub(crate) opener: MailOpener,
    pub(crate) lease_check: Option<Instant>,
    /// Why this machine cannot become a member, in words; set when a server or the log says so for good.
    pub(crate) refused: Option<String>,
    /// The latest entries in words; at most [`LOG_LINES`], the oldest dropped.
    pub(crate) log: VecDeque<LogLine>,
    pub(crate) greeter: Greeter,
    pub(crate) gossip: Gossip,
    pub(crate) tail: Tail,
    /// The proof, in words, that the sequencer signed two histories.
    pub(crate) fork: Option<String>,
    /// The first entry, in words, that the sequencer ordered although the rules refuse it: an honest one never does.
    pub(crate) forged: Option<String>,
    /// An alarm that is still to be told.
    pub(crate) alarm: Option<String>,
    /// Alarms that were told, and when.
    pub(crate) alarms: BTreeMap<String, Instant>,
    /// How much of the log is here.
    pub(crate) extent: Extent,
    /// Requests whose records the log has taken or passed over, still to be answered.
    pub(crate) settled: Vec<(RequestId, Result<(), String>)>,
    pub(crate) clock: Clock,
    pub(crate) recruit: Option<Recruit>,
    /// Servers are tried with the keys that were asked for: they may be in the log already.
    pub(crate) next_keys_tried: bool,
    /// Members that are kept out until somebody vouches for the log.
    pub(crate) held_back: BTreeSet<MemberKey>,
    /// The length that the log had where the stored one begins.
    pub(crate) stored_from: u64,
    /// Bytes of the log as it is stored, at most.
    pub(crate) log_bytes: u64,
    /// Members that are peers of this machine.
    pub(crate) installed: usize,
    /// Handshake messages to addresses that have proved nothing.
    pub(crate) unproven: Bucket,
    /// Mails to the servers, below what they take.
    pub(crate) mails: Bucket,
}

/// How much of the log is here that this machine has verified, in this run or before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it.
    Whole,
    /// The state folder had less, and nobody has given the rest back yet.
    CutShort,
}

impl Network {
    /// This machine's member key.
    pub(crate) fn key(&self) -> MemberKey {
        self.saved.member.signing().member_key()
    }

    pub(crate) fn is_member(&self) -> bool {
        self.state.is_live(&self.key())
    }

    /// Whether it has so many members that routes, names and agents are not kept for each.
    pub(crate) const fn is_large(&self) -> bool {
        self.installed > FEW_PEERS
    }

    /// Whether this machine is reachable in the network: a member of it, with its switch up.
    pub(crate) fn is_running(&self) -> bool {
        self.saved.switch == Switch::Up && self.is_member()
    }

    /// What is wrong with a server that claims this head, if anything.
    pub(crate) fn disagreement(&mut self, head: Head) -> Option<String> {
        if head.length == 0 {
            return None;
        }
        let compared = match self.saved.head {
            // It may be that of our log which we have lost.
            (length, hash) if length == head.length && hash != head.hash => Comparison::Fork,
            _ => self.state.compare(head.length, head.hash),
        };
        match compared {
            Comparison::Fork => {
                let text = "the server shows another history than the one this machine has verified".to_owned();
                self.alarm = Some(text.clone());
                Some(text)
            }
            // One that is only shorter is handed what it lacks.
            Comparison::Behind | Comparison::Same | Comparison::Ahead | Comparison::Unknown => None,
        }
    }

    /// Starts the log at a checkpoint.
    pub(crate) fn start_at(&mut self, snapshot: &[u8], entry: &[u8]) -> Result<(), String> {
        let decoded = Entry::decode(entry).map_err(|error| error.to_string())?;
        self.check_pinned(&decoded)?;
        let state = State::from_checkpoint(self.saved.id(), snapshot, &decoded).map_err(|error| error.to_string())?;
        self.state = state;
        self.stored_from = decoded.sequence;
        self.log_bytes = snapshot.len() as u64;
        self.tail.push(decoded.sequence, entry.to_vec());
        self.log.push_back(describe(&decoded, Ok(())));
        Ok(())
    }

    /// An entry at the place where this machine's log ended once has to be the one that was there.
    fn check_pinned(&self, entry: &Entry) -> Result<(), String> {
        let (length, hash) = self.saved.head;
        let pinned = length.checked_sub(1) == Some(entry.sequence) && self.state.head().0 < length;
        if pinned && entry.hash() != hash {
            return Err(format!("entry {} is another one than this machine had verified before", entry.sequence));
        }
        Ok(())
    }

    /// Whether the log has just become as long again as it was once.
    pub(crate) fn is_whole_again(&mut self) -> bool {
        let extent = if self.state.head().0 < self.saved.head.0 { Extent::CutShort } else { Extent::Whole };
        std::mem::replace(&mut self.extent, extent) == Extent::CutShort && extent == Extent::Whole
    }

    pub(crate) fn own_addresses(&self) -> Vec<IpAddr> {
        if !self.is_running() {
            return Vec::new();
        }
        let own = self.state.member(&self.key()).map(addresses_of).unwrap_or_default();
        own.into_iter().filter(|ip| self.saved.ipv4.allows(*ip)).collect()
    }

    /// Whether this machine has not been let in yet; a founder counts as in.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(self.saved.stage, Stage::Joining { .. }) && !self.is_member()
    }

    /// The range of the network's IPv4 addresses, once the genesis is known.
    pub(crate) fn ipv4_range(&self) -> Option<Ipv4Range> {
        self.state.ipv4_range().or_else(|| match &self.saved.stage {
            Stage::Founding { genesis, .. } => range_of(&self.saved.id(), genesis),
            Stage::Joining { .. } | Stage::Member => None,
        })
    }

    /// Remembers that the sequencer ordered what the rules refuse.
    ///
    /// A record of a later version may mean something to later programs.
    fn accuse(&mut self, sequence: u64, refusal: &Refusal) {
        let later = matches!(refusal, Refusal::Malformed(Malformed::UnknownType(_) | Malformed::Version(_)));
        if self.forged.is_none() && !later {
            let text = format!("the sequencer put entry {sequence} in order although the rules refuse it: {refusal}");
            self.alarm = Some(text.clone());
            self.forged = Some(text);
        }
    }

    /// Applies one encoded entry and keeps it and its line for lists. What it changed, if anything.
    pub(crate) fn take_entry(&mut self, bytes: &[u8]) -> Result<Option<Change>, String> {
        let entry = Entry::decode(bytes).map_err(|error| error.to_string())?;
        self.check_pinned(&entry)?;
        let applied = self.state.apply(&entry).map_err(|error| {
            if matches!(error, Break::Fork { .. }) && self.fork.is_none() {
                self.fork = Some(error.to_string());
                self.alarm = self.fork.clone();
            }
            error.to_string()
        })?;
        let (change, verdict) = match applied {
            Applied::Changed(change) => (Some(change), Ok(())),
            Applied::Skipped(refusal) => {
                self.accuse(entry.sequence, &refusal);
                (None, Err(refusal.to_string()))
            }
            Applied::Known => return Ok(None),
        };
        self.log_bytes = self.log_bytes.saturating_add(bytes.len() as u64);
        let outcome = match &change {
            Some(Change::Spared(_)) => Err("the last admin cannot be removed".to_owned()),
            Some(_) | None => verdict.clone(),
        };
        let asked = self.waiting.iter().filter(|waiting| waiting.record() == Some(entry.record.as_slice()));
        self.settled.extend(asked.map(|waiting| (waiting.request, outcome.clone())));
        self.tail.push(entry.sequence, bytes.to_vec());
        if self.log.len() >= LOG_LINES {
            self.log.pop_front();
        }
        self.log.push_back(describe(&entry, verdict));
        Ok(change)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.serving().next().is_some()
    }

    /// The links to servers of the network that serve this machine; one that is being taken on is none yet.
    pub(crate) fn serving(&self) -> impl Iterator<Item = (ServerId, &Link)> {
        let recruit = self.recruit.as_ref().map(|recruit| recruit.link);
        let links = self.links.iter().map(|(id, link)| (*id, link));
        links.filter(move |(id, link)| link.serves() && Some(*id) != recruit)
    }

    /// As [`Self::serving`].
    pub(crate) fn serving_mut(&mut self) -> impl Iterator<Item = (ServerId, &mut Link)> {
        let recruit = self.recruit.as_ref().map(|recruit| recruit.link);
        let links = self.links.iter_mut().map(|(id, link)| (*id, link));
        links.filter(move |(id, link)| link.serves() && Some(*id) != recruit)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let links = self.links.values().flat_map(|link| {
            [
                link.retry,
                link.credentials_due,
                link.refill,
                link.append_again,
                link.alive_due(),
                link.download.as_ref().map(|download| download.deadline),
                link.client.as_ref().and_then(Client::poll_timeout),
            ]
        });
        let waiting = self.waiting.iter().map(|waiting| waiting.deadline);
        links
            .flatten()
            .chain(waiting)
            .chain(self.lease_check)
            .chain(self.greeter.poll_timeout())
            .chain(self.gossip.poll_timeout())
            .chain(self.recruit.as_ref().map(|recruit| recruit.deadline))
            .min()
    }

    /// Seals a mail to a member and hands it to every server that is connected.
    pub(crate) fn mail(&mut self, now: Instant, label: Tai64n, to: MemberKey, key: PublicKey, body: &[u8]) {
        let Ok(bytes) = self.sealer.seal(label, &TunnelKey::from_bytes(key.to_bytes()), body) else { return };
        for (_, link) in self.serving_mut() {
            link.say(now, ClientMessage::Mail { to, bytes: bytes.clone() });
            link.doubt(now);
        }
    }
}

impl Node {
    /// Takes up the networks of the state folder.
    pub(crate) fn resume_networks(&mut self, now: Instant, saved: Saved, logs: &[StoredLog]) {
        self.shields = saved.shields;
        self.set_shields();
        // All are entered before any of them can want the state written.
        for saved in saved.networks.into_iter().take(MAX_NETWORKS) {
            self.enter_network(now, saved);
        }
        for at in self.networks.numbers() {
            let Some(network) = self.networks.get_mut(at) else { continue };
            let id = network.saved.id();
            let log = logs.iter().find(|log| log.network == id);
            if let Some((snapshot, entry)) = log.and_then(|log| log.snapshot.as_ref()) {
                // One that does not hold is fetched again, as a broken log is.
                let _ = network.start_at(snapshot, entry);
            }
            for bytes in log.into_iter().flat_map(|log| &log.entries) {
                if network.take_entry(bytes).is_err() {
                    break;
                }
            }
            network.is_whole_again();
            for record in &network.saved.revocations {
                // One that was ordered meanwhile is refused as done; one that the log cannot judge yet is tried again.
                let _ = network.state.revoke_on_receipt(record);
            }
            self.plan_calls(now, at, None);
            self.take_new_keys(at);
            self.sync_servers(now, at);
            self.keep_apart(at);
            self.sync_members(at);
            self.start_network(now, at);
        }
    }

    /// Sees to it that no two networks of this machine have one name or one IPv4 range.
    pub(crate) fn keep_apart(&mut self, at: NetworkNumber) {
        self.networks.settle_title(at);
        let Some(network) = self.networks.get(at) else { return };
        let clashes = network.saved.ipv4 == Ipv4Use::On
            && network.is_member()
            && network.ipv4_range().is_some_and(|range| self.networks.clash(Some(at), range).is_some());
        if clashes && let Some(network) = self.networks.get_mut(at) {
            network.saved.ipv4 = Ipv4Use::Off;
        }
    }

    /// Makes the network's machines from its saved form.
    pub(crate) fn enter_network(&mut self, now: Instant, saved: SavedNetwork) -> NetworkNumber {
        let id = saved.id();
        let tunnel = || zeroize::Zeroizing::new(*saved.tunnel.bytes());
        let sealer = MailSealer::new(self.seed(), tunnel(), &id);
        let opener = MailOpener::new(self.seed(), tunnel(), &id);
        let servers = self.networks.server_ids(saved.servers.len());
        let links =
            servers.into_iter().zip(&saved.servers).map(|(id, server)| (id, Link::new(server.clone()))).collect();
        let (secret, tag) = (saved.tunnel.tunnel(), NetworkTag(saved.id));
        let clock = Clock::resume(now, &saved);
        let at = self.networks.enter(|number| Network {
            number,
            state: State::new(id),
            saved,
            links,
            waiting: Vec::new(),
            sealer,
            opener,
            lease_check: Some(now + LEASE_CHECK),
            refused: None,
            log: VecDeque::new(),
            greeter: Greeter::default(),
            gossip: Gossip::default(),
            tail: Tail::default(),
            fork: None,
            forged: None,
            alarm: None,
            alarms: BTreeMap::new(),
            extent: Extent::Whole,
            settled: Vec::new(),
            clock,
            recruit: None,
            next_keys_tried: false,
            held_back: BTreeSet::new(),
            stored_from: 0,
            log_bytes: 0,
            installed: 0,
            unproven: Bucket::new(200, 400),
            mails: Bucket::new(24, 256),
        });
        self.add_identity(IdentityId::Network(at), secret, tag);
        at
    }

    /// Connects to the servers when the switch is up.
    pub(crate) fn start_network(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get_mut(at) else { return };
        if network.saved.switch == Switch::Down {
            return;
        }
        for link in network.links.values_mut() {
            if link.status == LinkStatus::Down {
                link.retry = Some(now);
            }
        }
        self.plan_greetings(now, at, Reason::Started);
        self.network_timeout(now);
    }

    /// Tells the data plane whether the shields are up. They are the whole machine's, whatever networks come and go.
    pub(crate) fn set_shields(&mut self) {
        let shields = match self.shields {
            SavedShields::Up => Shields::Up,
            SavedShields::Down => Shields::Down,
        };
        self.forward(Command::SetShields(shields));
    }

    /// Disconnects, takes the members' tunnels away, and keeps the membership.
    pub(crate) fn stop_network(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get_mut(at) else { return };
        let servers: Vec<ServerId> = network.links.keys().copied().collect();
        for (id, link) in &mut network.links {
            if link.status != LinkStatus::Down {
                self.outputs.push_back(Output::DisconnectServer(*id));
            }
            link.close(now, None);
        }
        network.greeter = Greeter::default();
        network.gossip = Gossip::default();
        self.gather.forget_servers(now, &servers);
        self.sync_members(at);
    }

    pub(crate) fn persist(&mut self) {
        let (now, wall) = (self.now, self.stamper.unix_seconds(self.now));
        for network in self.networks.iter_mut() {
            network.mark_time(now, wall);
            let head = network.state.head();
            if head.0 >= network.saved.head.0 {
                network.saved.head = head;
            }
        }
        let saved = Saved::new(self.stamper.reserve(), self.shields, self.networks.saved());
        self.outputs.push_back(Output::Persist(saved.encode()));
    }

    pub(crate) fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        seed
    }

    pub(crate) fn network_timeout(&mut self, now: Instant) {
        for at in self.networks.numbers() {
            self.links_timeout(now, at);
        }
        self.drain_links(now);
        for at in self.networks.numbers() {
            self.late_requests(now, at);
            self.greeter_timeout(now, at);
            self.gossip_timeout(now, at);
            self.recruit_timeout(now, at);
            self.refill_timeout(now, at);
            self.download_timeout(now, at);
            self.append_timeout(now, at);
        }
    }

    fn links_timeout(&mut self, now: Instant, at: NetworkNumber) {
        let Some(network) = self.networks.get_mut(at) else { return };
        for (id, link) in &mut network.links {
            if link.retry.is_some_and(|at| at <= now) && link.status == LinkStatus::Down {
                link.retry = None;
                link.status = LinkStatus::Connecting;
                let addresses = link.server.addresses.clone();
                self.outputs.push_back(Output::ConnectServer { server: *id, addresses });
            }
            if link.credentials_due.is_some_and(|at| at <= now) {
                link.credentials_due = None;
                link.say(now, ClientMessage::Relay);
            }
            if let Some(client) = &mut link.client {
                client.handle_timeout(now);
            }
            link.ask_if_silent(now);
        }
        let dead: Vec<ServerId> =
            network.links.iter().filter(|(_, link)| link.is_dead(now)).map(|(id, _)| *id).collect();
        for id in dead {
            self.outputs.push_back(Output::DisconnectServer(id));
            self.server_closed(now, id, "the server does not answer any more".to_owned());
        }
        let Some(network) = self.networks.get_mut(at) else { return };
        if network.lease_check.is_some_and(|at| at <= now) {
            network.lease_check = Some(now + LEASE_CHECK);
            self.renew_lease(now, at);
        }
    }

    /// Drops every trace of a network from this machine.
    pub(crate) fn forget_network(&mut self, at: NetworkNumber) {
        let now = self.now;
        self.stop_network(now, at);
        let Some(network) = self.networks.remove(at) else { return };
        for waiting in &network.waiting {
            let reply = match waiting.wish {
                Wish::Leave { .. } => Ok(Reply::Left { network: network.title() }),
                Wish::Up | Wish::Append { .. } => {
                    Err(Failure::new(FailureCode::NotJoined, "this machine has left the network meanwhile", ""))
                }
            };
            self.outputs.push_back(Output::Reply { id: waiting.request, reply });
        }
        if let Some(recruit) = &network.recruit {
            let failure = Failure::new(FailureCode::NotJoined, "this machine has left the network meanwhile", "");
            self.outputs.push_back(Output::Reply { id: recruit.request(), reply: Err(failure) });
        }
        let gone: Vec<PeerId> =
            self.peers.values().filter(|peer| peer.profile.network() == Some(at)).map(|peer| peer.id).collect();
        for id in gone {
            self.remove_peer(id);
        }
        self.remove_identity(IdentityId::Network(at));
        self.persist();
        self.outputs.push_back(Output::ForgetLog(network.saved.id()));
        self.tell_names();
        self.refresh_tun();
        self.refresh_refused();
    }
}

/// The range that a genesis record asks for, or the one that its network's id chooses.
fn range_of(id: &NetworkId, genesis: &[u8]) -> Option<Ipv4Range> {
    let signed = SignedRecord::decode(genesis).ok()?;
    let Record::Genesis(genesis) = signed.record() else { return None };
    Some(genesis.ipv4_range.unwrap_or_else(|| Ipv4Range::of(id)))
}

pub(crate) const LEASE_CHECK: Duration = Duration::from_secs(3600);
const LOG_LINES: usize = 1000;
