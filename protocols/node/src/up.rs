//! `up`: founding a network, joining one, starting those that this machine is in.

use std::time::Duration;

use ginnel_forward::Shields;
use ginnel_membership::build::Charter;
use ginnel_membership::{Founding, Invite, Name, Pasted, SigningKey};
use ginnel_time::Instant;
use ginnel_tunnel::StaticSecret;

use crate::io::{Failure, FailureCode, Reply, RequestId, UpOutcome, UpReport};
use crate::networks::{Ipv4Use, MAX_NETWORKS, NetworkNumber, is_reserved_title, not_joined};
use crate::node::Node;
use crate::recent::Recent;
use crate::saved::{AfterJoin, SavedNetwork, SavedShields, Secret, Stage, Switch};
use crate::waiting::Wish;

/// What an `up` sets.
pub(crate) struct UpSettings {
    /// The wished name of this machine.
    pub(crate) wish: Option<Name>,
    /// With a founding string the new network's name, without a string the name of the one that is meant.
    pub(crate) title: Option<String>,
    pub(crate) shields: Option<Shields>,
    /// The new network's IPv4 range.
    pub(crate) range: Option<String>,
    pub(crate) ipv4: Option<Ipv4Use>,
}

impl Node {
    pub(crate) fn up(
        &mut self,
        now: Instant,
        id: RequestId,
        wanted: Option<&str>,
        ticket: Option<String>,
        settings: &UpSettings,
    ) -> Result<Option<Reply>, Failure> {
        let at = match ticket {
            Some(_) if wanted.is_some() => {
                let text = "the founding string or invite says which network is meant";
                return Err(Failure::new(FailureCode::Usage, text, "leave --network out"));
            }
            Some(text) => {
                let pasted: Pasted = text.trim().parse().map_err(|error: ginnel_membership::PasteError| {
                    Failure::new(FailureCode::Usage, error.to_string(), "paste the whole string, as it was printed")
                })?;
                self.take_ticket(now, pasted, settings)?
            }
            None if settings.range.is_some() => return Err(only_founding()),
            None => {
                let wanted = wanted.or(settings.title.as_deref());
                let whole = wanted.is_none() && settings.wish.is_none() && settings.ipv4.is_none();
                if whole && self.networks.len() > 1 {
                    return self.up_all(now, settings.shields).map(Some);
                }
                self.networks.choose(wanted)?
            }
        };
        self.up_one(now, id, at, settings)
    }

    fn up_one(
        &mut self,
        now: Instant,
        id: RequestId,
        at: NetworkNumber,
        settings: &UpSettings,
    ) -> Result<Option<Reply>, Failure> {
        if let Some(ipv4) = settings.ipv4 {
            self.use_ipv4(at, ipv4)?;
        }
        let network = self.networks.get_mut(at).ok_or_else(not_joined)?;
        if let Some(refused) = &network.refused {
            return Err(Failure::new(
                FailureCode::NotJoined,
                refused.clone(),
                "`ginnel leave`, then join with an invite",
            ));
        }
        let before = std::mem::replace(&mut network.saved.switch, Switch::Up);
        if let Some(wish) = settings.wish.as_ref().filter(|_| !network.is_member()) {
            network.saved.wish = wish.as_str().to_owned();
        }
        let member = network.is_member();
        if !member {
            self.wait(id, at, now + UP_PATIENCE, Wish::Up)?;
        }
        if member {
            self.note_shields(settings.shields);
        } else {
            self.wish_shields(at, settings.shields);
        }
        self.persist();
        self.sync_members(at);
        self.start_network(now, at);
        let outcome = if before == Switch::Down { UpOutcome::Started } else { UpOutcome::Unchanged };
        if member { self.up_reply(at, outcome).map(Some) } else { Ok(None) }
    }

    /// Starts every network, as `down` without a name stops every one. Joins under way are not waited for.
    ///
    /// # Errors
    /// [`FailureCode::TimedOut`] when this machine has not been let into any of them yet; [`FailureCode::NotJoined`] when
    /// it was put out of some, after the others were started.
    fn up_all(&mut self, now: Instant, shields: Option<Shields>) -> Result<Reply, Failure> {
        self.note_shields(shields);
        let (mut outcomes, mut refused) = (Vec::new(), Vec::new());
        for network in self.networks.iter_mut() {
            if network.refused.is_some() || network.state.is_revoked(&network.key()) {
                refused.push(network.title());
                continue;
            }
            let before = std::mem::replace(&mut network.saved.switch, Switch::Up);
            let outcome = if before == Switch::Down { UpOutcome::Started } else { UpOutcome::Unchanged };
            outcomes.push((network.number, outcome));
        }
        self.persist();
        let mut reports = Vec::new();
        for (at, outcome) in outcomes {
            self.sync_members(at);
            self.start_network(now, at);
            reports.extend(self.up_report(at, outcome));
        }
        if let Some(first) = refused.first() {
            let text = format!("this machine was put out of {}; its other networks run", refused.join(", "));
            let hint = format!("`ginnel leave --network {first}`, then join with an invite");
            return Err(Failure::new(FailureCode::NotJoined, text, hint));
        }
        if reports.is_empty() {
            let text = "this machine is no member of any of its networks yet";
            return Err(Failure::new(FailureCode::TimedOut, text, "the daemon keeps trying; see `ginnel status`"));
        }
        Ok(Reply::AllUp(reports))
    }

    pub(crate) fn up_reply(&self, at: NetworkNumber, outcome: UpOutcome) -> Result<Reply, Failure> {
        self.up_report(at, outcome).map(Reply::Up).ok_or_else(not_joined)
    }

    fn up_report(&self, at: NetworkNumber, outcome: UpOutcome) -> Option<UpReport> {
        let network = self.networks.get(at)?;
        let member = network.state.member(&network.key())?;
        Some(UpReport {
            outcome,
            network: network.title(),
            network_id: network.saved.id().to_string(),
            name: member.name().as_str().to_owned(),
            addresses: network.own_addresses(),
        })
    }

    fn note_shields(&mut self, shields: Option<Shields>) {
        let Some(shields) = shields else { return };
        self.shields = match shields {
            Shields::Up => SavedShields::Up,
            Shields::Down => SavedShields::Down,
        };
        // A later word counts, whatever becomes of joins under way.
        self.networks.iter_mut().for_each(|network| network.saved.after_join = AfterJoin::ShieldsStay);
        self.set_shields();
    }

    /// Notes what is wished for the shields together with a join. They go up at once, so that nobody gets in meanwhile, and
    /// stay up whatever becomes of it; they go down only when it has come through.
    fn wish_shields(&mut self, at: NetworkNumber, shields: Option<Shields>) {
        if (shields, self.shields) != (Some(Shields::Down), SavedShields::Up) {
            return self.note_shields(shields);
        }
        if let Some(network) = self.networks.get_mut(at) {
            network.saved.after_join = AfterJoin::ShieldsDown;
        }
    }

    /// A join has come through, and with it what was wished for the shields.
    pub(crate) fn settle_shields(&mut self, at: NetworkNumber) {
        let wished = self.networks.get_mut(at).map(|network| std::mem::take(&mut network.saved.after_join));
        if wished == Some(AfterJoin::ShieldsDown) {
            self.note_shields(Some(Shields::Down));
            self.persist();
        }
    }

    /// Changes whether a network's IPv4 addresses are used here.
    fn use_ipv4(&mut self, at: NetworkNumber, ipv4: Ipv4Use) -> Result<(), Failure> {
        let Some(network) = self.networks.get(at) else { return Err(not_joined()) };
        if network.saved.ipv4 == ipv4 {
            return Ok(());
        }
        if let Some(text) = self.overlap4(at).filter(|_| ipv4 == Ipv4Use::On) {
            let hint =
                "free the range first: leave another network or take its IPv4 off, or change this machine's addresses";
            return Err(Failure::new(FailureCode::Usage, text, hint));
        }
        if let Some(network) = self.networks.get_mut(at) {
            network.saved.ipv4 = ipv4;
        }
        Ok(())
    }

    /// Enters the network that a string is for; answers the one that this machine is in already.
    fn take_ticket(&mut self, now: Instant, pasted: Pasted, settings: &UpSettings) -> Result<NetworkNumber, Failure> {
        let (known, same) = match &pasted {
            Pasted::Invite(invite) => {
                let known = self.networks.by_id(invite.network());
                let same = known.is_some_and(|network| match &network.saved.stage {
                    Stage::Joining { invite: held } => held.signing().invite_key() == invite.invite_key(),
                    Stage::Member | Stage::Founding { .. } => true,
                });
                (known.map(|network| network.number), same)
            }
            Pasted::Founding(founding) => {
                let token = founding.token().as_bytes();
                let made = |saved: &SavedNetwork| saved.founded_with.as_ref() == Some(token);
                let known = self.networks.iter().find(|network| made(&network.saved));
                (known.map(|network| network.number), known.is_some())
            }
        };
        if let Some(at) = known.filter(|_| same) {
            return Ok(at);
        }
        if known.is_none() && self.networks.len() >= MAX_NETWORKS {
            let text = format!("this machine is in {MAX_NETWORKS} networks, and no more fit");
            return Err(Failure::new(FailureCode::Usage, text, "`ginnel leave --network NAME` makes room"));
        }
        let mut saved = match pasted {
            Pasted::Invite(_) if settings.title.is_some() => {
                let text = "this is an invite to a network that has its name: --network-name is for founding one";
                return Err(Failure::new(FailureCode::Usage, text, "leave --network-name out"));
            }
            Pasted::Invite(_) if settings.range.is_some() => return Err(only_founding()),
            Pasted::Invite(invite) => self.joining(&invite, settings)?,
            Pasted::Founding(founding) => self.founding(&founding, settings)?,
        };
        if let Some(before) = known.and_then(|at| self.networks.get(at)) {
            // A join that has not come through gives way to a newer invite to the same network.
            saved.after_join = before.saved.after_join;
            self.forget_network(before.number);
        }
        let at = self.enter_network(now, saved);
        self.refresh_refused();
        Ok(at)
    }

    fn joining(&mut self, invite: &Invite, settings: &UpSettings) -> Result<SavedNetwork, Failure> {
        // Whether it has expired is for the server to say: this machine's clock may be wrong.
        let wish = settings.wish.as_ref().or(invite.hint());
        Ok(SavedNetwork {
            id: invite.network().to_bytes(),
            servers: invite.servers().to_vec(),
            member: Secret::of_signing(&SigningKey::generate(&mut self.rng)),
            tunnel: Secret::of_tunnel(&StaticSecret::generate(&mut self.rng)),
            admin: None,
            stage: Stage::Joining { invite: Secret::of_signing(invite.key()) },
            wish: wish.map_or_else(|| self.host_name(), |name| name.as_str().to_owned()),
            switch: Switch::Up,
            revocations: Vec::new(),
            alias: None,
            ipv4: settings.ipv4.unwrap_or(Ipv4Use::On),
            founded_with: None,
            recent: Recent::default(),
            time_floor: 0,
            next_keys: None,
            floor_wall: 0,
            head: (0, [0; 32]),
            after_join: AfterJoin::ShieldsStay,
        })
    }

    fn founding(&mut self, founding: &Founding, settings: &UpSettings) -> Result<SavedNetwork, Failure> {
        let name = Name::new(settings.title.as_deref().unwrap_or(DEFAULT_TITLE)).map_err(|error| {
            Failure::new(FailureCode::Usage, format!("the network's name cannot be used: {error}"), "choose another")
        })?;
        if is_reserved_title(name.as_str()) {
            let text = format!("{name}.internal is used by other programs");
            return Err(Failure::new(FailureCode::Usage, text, "give the network another name"));
        }
        let server = founding.server().clone();
        let ipv4 = settings.ipv4.unwrap_or(Ipv4Use::On);
        let asked = settings.range.as_deref().map(|text| self.usable_range(text, ipv4)).transpose()?;
        let charter = Charter {
            name,
            sequencer: server.keys.sequencer(),
            servers: vec![server.clone()],
            ipv4_range: asked,
            // The founding counts as the first lease, and one from the future would keep all others out: until a server
            // has told the time, an old one is claimed. The first true lease follows as soon as this machine is a member.
            now: 0,
        };
        let founded = self.found(charter, ipv4)?;
        Ok(SavedNetwork {
            id: founded.network.to_bytes(),
            servers: vec![server],
            member: Secret::of_signing(&SigningKey::generate(&mut self.rng)),
            tunnel: Secret::of_tunnel(&StaticSecret::generate(&mut self.rng)),
            admin: Some(Secret::of_signing(&founded.admin)),
            stage: Stage::Founding {
                token: *founding.token().as_bytes(),
                genesis: founded.genesis,
                invite: Secret::of_signing(&SigningKey::generate(&mut self.rng)),
            },
            wish: settings.wish.as_ref().map_or_else(|| self.host_name(), |name| name.as_str().to_owned()),
            switch: Switch::Up,
            revocations: Vec::new(),
            alias: None,
            ipv4,
            founded_with: Some(*founding.token().as_bytes()),
            recent: Recent::default(),
            time_floor: 0,
            next_keys: None,
            floor_wall: 0,
            head: (0, [0; 32]),
            after_join: AfterJoin::ShieldsStay,
        })
    }

    fn host_name(&self) -> String {
        Name::from_hostname(&self.hostname).as_str().to_owned()
    }
}

fn only_founding() -> Failure {
    let text = "a network's range is chosen when it is founded";
    Failure::new(FailureCode::Usage, text, "give --range together with a founding string")
}

/// The name of a network whose founder gave none.
const DEFAULT_TITLE: &str = "home";
const UP_PATIENCE: Duration = Duration::from_secs(15);
