//! What needs a user's attention. Each item is about one network and says which: a machine may be in several, and what
//! helps one does nothing for another.

use std::time::Duration;

use ginnel_time::Instant;

use crate::clock::in_words;
use crate::link::Link;
use crate::network::{Extent, Network};
use crate::node::Node;
use crate::report::HealthReport;
use crate::saved::Switch;

impl Node {
    /// What is wrong with each network.
    pub(crate) fn health(&self, now: Instant) -> Vec<HealthReport> {
        let clock = self.stamper.unix_seconds(now);
        let several = self.networks.len() > 1;
        let mut all = Vec::new();
        for network in self.networks.iter() {
            let mut items = Items { network, several, items: Vec::new() };
            items.about_history();
            items.about_servers();
            items.about_newcomers(now, clock);
            items.about_log();
            items.about_clock(now, clock);
            all.extend(items.items);
        }
        all
    }
}

/// Collects the items of one network.
struct Items<'a> {
    network: &'a Network,
    several: bool,
    items: Vec<HealthReport>,
}

impl Items<'_> {
    /// One item; its text is put behind the network's name.
    fn add(&mut self, code: &'static str, text: &str, fix: String) {
        let text = format!("{}: {text}", self.network.title());
        self.items.push(HealthReport { network: Some(self.network.number), code, text, fix });
    }

    /// A command as it is to be typed, a word in capitals where the user has to choose; with the network's name where it would
    /// otherwise be asked for.
    fn command(&self, verb: &str) -> String {
        let of = if self.several { format!(" --network {}", self.network.title()) } else { String::new() };
        format!("`ginnel {verb}{of}`")
    }

    /// What the sequencer and other servers were seen to do.
    fn about_history(&mut self) {
        let network = self.network;
        if let Some(fork) = &network.fork {
            let fix = format!("move the network to a server you trust: {}", self.command("server promote SERVER"));
            self.add("forked-log", &format!("{fork}; this machine keeps to the one it saw first"), fix);
        }
        if let Some(forged) = &network.forged {
            let promote = self.command("server promote SERVER");
            let fix = format!("it has no effect; {promote} makes a server you trust the sequencer");
            self.add("forged-entry", forged, fix);
        }
        for link in network.links.values() {
            let Some(accused) = &link.accused else { continue };
            let address = link.server.addresses.first().map_or("a server", String::as_str);
            let remove = self.command(&format!("server remove {}", link.name()));
            let fix = format!("this machine keeps to the log that it has verified; {remove} takes it off the list");
            self.add("dishonest-server", &format!("{address}: {accused}"), fix);
        }
    }

    /// Whether this machine is in, and reaches a server.
    fn about_servers(&mut self) {
        let network = self.network;
        if let Some(refused) = network.why_out() {
            let fix = format!("{}, then join with a fresh invite", self.command("leave"));
            self.add("not-a-member", &format!("this machine is no member: {refused}"), fix);
        } else if network.saved.switch == Switch::Up
            && !network.is_connected()
            && let Some(why) = network.links.values().find_map(trouble)
        {
            let fix = "links that are up stay up; new ones need a server".to_owned();
            self.add("no-server", &format!("no server is reached: {why}"), fix);
        }
    }

    /// Whether an admin has vouched for the log lately, by a clock that says `clock` (Unix seconds, 0 when unknown).
    fn about_newcomers(&mut self, now: Instant, clock: u64) {
        let network = self.network;
        if !network.held_back.is_empty() {
            let count = network.held_back.len();
            let text = format!("{count} new members are not let in: no admin has vouched for the log");
            self.add("newcomers-wait", &text, "let an admin's machine go online".to_owned());
        }
        let wall = network.believed(now, clock);
        if let Some(age) = unvouched(network, wall).filter(|age| wall != 0 && age.as_secs() > LEASE_LIFE) {
            let text = format!("no admin has vouched for the log in {} days", age.as_secs() / 86_400);
            self.add("stale-log", &text, "let the machine that founded the network go online".to_owned());
        }
    }

    fn about_log(&mut self) {
        let network = self.network;
        if network.extent == Extent::CutShort {
            let (here, verified) = (network.state.head().0, network.saved.head.0);
            let text =
                format!("only {here} of the {verified} entries of the log that this machine had verified are here");
            let fix = "the rest comes from a server or a member; check this machine's disk".to_owned();
            self.add("log-cut-short", &text, fix);
        }
    }

    fn about_clock(&mut self, now: Instant, clock: u64) {
        let Some(ahead) = self.network.clock_error(now, clock) else { return };
        let side = if ahead > 0 { "ahead of" } else { "behind" };
        let text = format!("this machine's clock is {} {side} the server's", in_words(ahead.unsigned_abs()));
        self.add("clock", &text, "set the clock, for instance by NTP; links work meanwhile".to_owned());
    }
}

/// For how long no admin has vouched for the log; nothing is said in the moments after a founding, in which the first lease is
/// on its way. A genesis has no true time.
fn unvouched(network: &Network, wall: u64) -> Option<Duration> {
    let age = network.state.lease_age(wall)?;
    let vouched = network.state.lease().is_some_and(|lease| lease.time != 0);
    let first = network.log.iter().map(|line| line.time).find(|time| *time != 0);
    let founded = first.map_or(0, |first| wall.saturating_sub(first));
    (vouched || founded > FIRST_LEASE).then_some(age)
}

fn trouble(link: &Link) -> Option<&str> {
    link.trouble.as_deref()
}

/// Seconds after which the lease counts as run out.
const LEASE_LIFE: u64 = 7 * 86_400;
/// Seconds that the first lease of a network may take: it is signed when the founder's own membership has come back.
const FIRST_LEASE: u64 = 5;
