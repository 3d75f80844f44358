//! The watch over one data plane: whatever it seals is for the session of one whom it has for a peer.

use std::collections::{BTreeMap, BTreeSet};

use ginnel_forward::{Command, PeerId};

/// The peers of a data plane and their sessions, as its commands tell them.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    peers: BTreeSet<PeerId>,
    /// The far side's index of each session.
    sessions: BTreeMap<[u8; 4], PeerId>,
}

impl Watch {
    /// Notes a command; tells what is wrong with it.
    pub(crate) fn command(&mut self, command: &Command) -> Option<String> {
        match command {
            Command::AddPeer { peer, .. } => {
                self.peers.insert(*peer);
            }
            Command::RemovePeer { peer } => {
                self.peers.remove(peer);
                self.sessions.retain(|_, owner| owner != peer);
            }
            Command::Install { peer, established } => {
                if !self.peers.contains(peer) {
                    return Some(format!("a session with {peer:?}, who is no peer"));
                }
                self.sessions.insert(established.remote_index.0.to_be_bytes(), *peer);
            }
            Command::Forget { .. }
            | Command::SetPath { .. }
            | Command::SealControl { .. }
            | Command::Send { .. }
            | Command::SetRelay { .. }
            | Command::RemoveRelay { .. }
            | Command::BindChannel { .. }
            | Command::UnbindChannel { .. }
            | Command::Inject { .. }
            | Command::SetOwn { .. }
            | Command::SetShields(_)
            | Command::SetKeys(_) => {}
        }
        None
    }

    /// Looks at a datagram that goes out; tells what is wrong with it.
    pub(crate) fn datagram(&self, bytes: &[u8]) -> Option<String> {
        let [a, b, c, d] = sealed_for(bytes)?;
        let known = self.addressee(bytes).is_some();
        (!known).then(|| format!("a packet sealed for a session with nobody, {a:02x}{b:02x}{c:02x}{d:02x}"))
    }

    /// Whom a datagram that goes out is sealed for.
    pub(crate) fn addressee(&self, bytes: &[u8]) -> Option<PeerId> {
        self.sessions.get(&sealed_for(bytes)?).copied()
    }
}

/// The far side's index of the session that a datagram is sealed for, if it is sealed.
pub(crate) fn sealed_for(bytes: &[u8]) -> Option<[u8; 4]> {
    let [0xC3 | 0xC7, _, _, _, _, _, _, _, index @ ..] = inner(bytes).first_chunk::<12>()? else { return None };
    Some(*index)
}

/// What a relay would carry of a datagram, if it is one for a relay.
pub(crate) fn inner(bytes: &[u8]) -> &[u8] {
    match bytes {
        [0x40..=0x4F, _, _, _, inner @ ..] => inner,
        whole => whole,
    }
}

#[cfg(test)]
pub(crate) mod tests;
