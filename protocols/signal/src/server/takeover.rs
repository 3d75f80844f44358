//! How a mirror becomes the sequencer: by an admins' record, ordered by the old sequencer where that one can be reached,
//! and else by the mirror itself, after it has asked every fellow for the end of the log.

use std::time::Duration;

use ginnel_membership::{NetworkId, Record, SignedRecord};

use super::answers::Asker;
use super::append::{explain, no_sequencer};
use super::log::{Proposed, Role};
use super::network::Takeover;
use super::{Change, Server, Storing};
use crate::message::{Placing, Refusal};

impl Server {
    /// Takes a record that cannot be handed on. Only one that makes this server the sequencer can be helped.
    pub(super) fn consider_takeover(
        &mut self,
        id: NetworkId,
        record: Vec<u8>,
        askers: Vec<Asker>,
    ) -> Result<(), (Refusal, String)> {
        let (until, unix) = (self.now + TAKEOVER_PATIENCE, self.clock.at(self.now));
        let own = self.config.sequencer.sequencer_key();
        let signed = SignedRecord::decode(&record);
        let named =
            matches!(signed.as_ref().map(SignedRecord::record), Ok(Record::Servers(body)) if body.sequencer == own);
        let Some(network) = self.networks.get_mut(&id) else { return Ok(()) };
        if !named || network.takeover.is_some() || network.log.length() == 0 {
            let Placing::Refused { code, text } = no_sequencer() else { return Ok(()) };
            return Err((code, text));
        }
        let time = unix.max(network.log.state().time());
        if let Err(rejection) = network.log.state().judge(time, &record) {
            return Err(explain(network, &record, &rejection));
        }
        tracing::warn!(network = %id, "admins make this server the sequencer, and the old one cannot be reached");
        network.takeover = Some(Takeover { record, askers, until });
        self.agenda.insert((until, id));
        self.ask_all_anew(id);
        self.settle_takeover(id);
        Ok(())
    }

    /// Takes over, or hands the record on after all.
    pub(super) fn settle_takeover(&mut self, id: NetworkId) {
        let Some(Takeover { until, .. }) = self.networks.get(&id).and_then(|network| network.takeover.as_ref()) else {
            return;
        };
        let over = *until <= self.now;
        let reached = self.sequencer_link(id).is_some_and(|link| self.is_up(link));
        let ready = over || (self.has_asked_all(id) && !self.lags(id));
        let (unix, ticket) = (self.clock.at(self.now), self.ticket());
        let Some(network) = self.networks.get_mut(&id) else { return };
        let role = network.log.role();
        if !network.log.is_idle() || !(ready || reached || role == Role::Sequencer) {
            return;
        }
        let Some(Takeover { record, mut askers, .. }) = network.takeover.take() else { return };
        let outcome = if role == Role::Sequencer {
            self.enqueue(id, record, askers.clone())
        } else if reached {
            self.forward(id, record, askers.clone())
        } else {
            match network.log.propose_takeover(unix, &record, ticket, &mut askers) {
                Ok(Proposed::New { sequence, entry }) => {
                    tracing::warn!(network = %id, "taking over as the sequencer");
                    self.store_under(ticket, Storing::Entry(id), Change::Append { network: id, sequence, entry });
                    Ok(())
                }
                Ok(Proposed::Known(sequence)) => {
                    self.answer_all(std::mem::take(&mut askers), &Placing::Placed { sequence });
                    Ok(())
                }
                Err(rejection) => Err(explain(network, &record, &rejection)),
            }
        };
        if let Err((code, text)) = outcome {
            self.answer_all(askers, &Placing::Refused { code, text });
        }
        self.reconcile(id);
    }
}

/// How long a mirror that shall take over looks for the old sequencer and asks its fellows.
pub const TAKEOVER_PATIENCE: Duration = Duration::from_secs(15);
