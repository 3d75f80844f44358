//! What entries of the log change on this machine, and whom it tells.

use std::time::Duration;

use ginnel_membership::record::Freshness;
use ginnel_membership::state::Standing;
use ginnel_membership::{Admission, Change, MemberKey, SignedRecord};

use crate::io::Output;
use crate::network::{Extent, Network};
use crate::networks::NetworkNumber;
use crate::node::Node;
use crate::notice::Notice;

impl Node {
    /// Replaces the stored log by the state that its newest checkpoint vouches for and the entries since, once that makes
    /// it much shorter.
    pub(crate) fn compact_log(&mut self, at: NetworkNumber) {
        let Some(network) = self.networks.get(at) else { return };
        let state = &network.state;
        let (Some(checkpoint), Some(snapshot)) = (state.checkpoint(), state.checkpoint_snapshot()) else { return };
        if checkpoint.length < network.stored_from.saturating_add(MUCH_SHORTER) {
            return;
        }
        let Some(mut entries) = network.tail.from(checkpoint.length) else { return };
        let Some(entry) = entries.next().map(<[u8]>::to_vec) else { return };
        let entries: Vec<Vec<u8>> = entries.map(<[u8]>::to_vec).collect();
        let (snapshot, length) = (snapshot.to_vec(), checkpoint.length);
        self.store_snapshot(at, length, snapshot, entry, entries);
    }

    /// Replaces the stored log by the state of the checkpoint in `entry`, at `length`, and the entries after that one: all at
    /// once, so that nothing that was stored is ever missing.
    pub(crate) fn store_snapshot(
        &mut self,
        at: NetworkNumber,
        length: u64,
        snapshot: Vec<u8>,
        entry: Vec<u8>,
        entries: Vec<Vec<u8>>,
    ) {
        let Some(network) = self.networks.get_mut(at) else { return };
        network.stored_from = length;
        let entries_len: usize = entries.iter().map(Vec::len).sum();
        network.log_bytes = snapshot.len().saturating_add(entries_len) as u64;
        let id = network.saved.id();
        self.outputs.push_back(Output::StoreSnapshot { network: id, snapshot, entry, entries });
    }

    /// Tells an alarm that has come up, unless it was told lately.
    pub(crate) fn report_alarm(&mut self, at: NetworkNumber) {
        let now = self.now;
        let Some(network) = self.networks.get_mut(at) else { return };
        let Some(text) = network.alarm.take() else { return };
        network.alarms.retain(|_, told| now.saturating_duration_since(*told) < ALARM_AGAIN);
        // Whoever is the cause of one could be it a thousand times a second.
        if network.alarms.contains_key(&text) || network.alarms.len() >= MAX_ALARMS {
            return;
        }
        network.alarms.insert(text.clone(), now);
        let text = format!("{}: {text}", network.title());
        tracing::warn!("{text}");
        self.notice(Some(at), Notice::Alarm { text });
    }
}

impl Network {
    /// A change as events.
    pub(crate) fn notices(&self, change: &Change) -> Vec<Notice> {
        let name = |key: &MemberKey| self.state.member(key).map(|member| member.name().as_str().to_owned());
        match change {
            Change::Joined(key) => {
                let Some(member) = self.state.member(key) else { return Vec::new() };
                let name = member.name().as_str().to_owned();
                let own = self.saved.admin.as_ref().map(|admin| admin.signing().member_key());
                let invite = self.state.invite(&member.invite());
                let mine = invite.filter(|invite| invite.by.iter().any(|by| Some(*by) == own || *by == self.key()));
                let used = mine.map(|invite| Notice::InviteUsed { invite: invite.key.to_string(), name: name.clone() });
                let joined = Notice::Joined { name, id: key.to_string() };
                std::iter::once(joined).chain(used).collect()
            }
            Change::Updated(key) | Change::Rotated { new: key, .. } => {
                name(key).map(|name| Notice::Updated { name, id: key.to_string() }).into_iter().collect()
            }
            Change::Revoked(key) => {
                let by = self.revoked_by(key).unwrap_or_default();
                name(key).map(|name| Notice::Left { name, id: key.to_string(), by }).into_iter().collect()
            }
            Change::Founded
            | Change::Invited(_)
            | Change::InviteVoided(_)
            | Change::Spared(_)
            | Change::Leased(_)
            | Change::AdminsChanged
            | Change::ServersChanged
            | Change::PolicyChanged
            | Change::Checkpointed(_) => Vec::new(),
        }
    }

    /// Who signed the revocation of `key`, by name where there is one; `None` when that is not known any more.
    pub(crate) fn revoked_by(&self, key: &MemberKey) -> Option<String> {
        let pending = self.state.pending_revocations().find(|(dead, _)| *dead == key).map(|(_, record)| {
            let signed = SignedRecord::decode(record).ok()?;
            Some(signed.signers().copied().collect::<Vec<_>>())
        });
        if let Some(signers) = pending {
            return Some(self.called(&signers?));
        }
        let subject = key.to_string();
        let line = self.log.iter().rev().find(|line| line.kind == "revoke" && line.subject == subject)?;
        let known = |text: &String| text.parse().ok().filter(|key| self.state.member(key).is_some());
        let signers: Vec<MemberKey> = line.by.iter().filter_map(known).collect();
        Some(if signers.is_empty() { "an admin".to_owned() } else { self.called(&signers) })
    }

    /// Keys by their members' names; an admin key that is no member's is called that.
    fn called(&self, keys: &[MemberKey]) -> String {
        let name = |key: &MemberKey| {
            let member = self.state.member(key);
            member.map_or_else(|| "an admin".to_owned(), |member| member.name().as_str().to_owned())
        };
        keys.iter().map(name).collect::<Vec<_>>().join(", ")
    }

    /// Whether a member that this machine has not known is kept out, because the rules are strict, and nobody with the right
    /// to has vouched for the log for too long, or less of it is here than this machine had verified.
    pub(crate) fn is_held_back(&self, member: &MemberKey, time: u64) -> bool {
        let vouched = self.state.lease().map_or(0, |lease| lease.time);
        let strict = self.state.policy().freshness == Freshness::Strict;
        (self.state.admitting(time) == Admission::Closed || (strict && self.extent == Extent::CutShort))
            && self.state.member(member).is_some_and(|member| member.joined() > vouched)
            && self.saved.recent.remotes(member).is_empty()
    }

    /// Why this machine is a member no more, in words; `None` while it is one or is about to become one.
    pub(crate) fn why_out(&self) -> Option<String> {
        let me = self.key();
        if !self.state.is_revoked(&me) {
            return self.refused.clone();
        }
        let left = self.state.member(&me).is_some_and(|member| member.standing() != Standing::Live);
        let by = self.revoked_by(&me).unwrap_or_else(|| "an admin".to_owned());
        let ordered = if left { "" } else { ", which no server has ordered yet" };
        Some(format!("{by} revoked its membership{ordered}"))
    }
}

/// Entries that a compaction must save.
const MUCH_SHORTER: u64 = 256;
/// The same alarm is told again after this time.
const ALARM_AGAIN: Duration = Duration::from_secs(3600);
/// Different alarms told in that time.
const MAX_ALARMS: usize = 64;
