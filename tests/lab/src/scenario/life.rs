//! What happens to a network in its life: verbs, restarts, machines that move, servers that fail.

mod crowd;
mod families;
mod relays;
mod restarts;
mod roaming;
mod several;
mod shields;
mod verbs;

use anyhow::Result;

use super::batch::{self, Case};
use super::machine::Programs;
use super::{pulse, scene};
use crate::cases::CaseResult;

/// Runs every case, by name, a few at a time; `tell` gets each result as it comes.
pub fn run(programs: &Programs, only: &str, tell: &(dyn Fn(&CaseResult) + Sync)) -> Vec<CaseResult> {
    let case = |name, work: fn(&Programs) -> Result<String>| -> Case<'_> { (name, Box::new(move || work(programs))) };
    let cases = vec![
        // The longest goes first, and is idle for most of its time.
        case("life: an idle link sends little", relays::idle),
        case("life: a direct link outlives its server", restarts::server_dead),
        case("life: a server restarts", restarts::server_restarts),
        case("life: a relay restarts", relays::restarts),
        case("life: a daemon restarts", restarts::daemon_restarts),
        case("life: a machine moves", roaming::new_address),
        case("life: a NAT maps anew", roaming::new_mapping),
        case("life: an uplink is cut for 5 s", roaming::cut),
        case("life: revoke", verbs::revoke),
        case("life: leave", verbs::leave),
        case("life: down and up, names, ip, log", verbs::down_and_up),
        case("life: shields", shields::shields),
        case("life: both families, port-restricted", families::either),
        case("life: IPv6 where IPv4 cannot be direct", families::only_v6_direct),
        case("life: server by IPv6, peer by IPv4", families::server_by_v6),
        case("life: four machines at once", crowd::four_at_once),
        case("life: a machine in several networks", several::two_networks),
    ];
    batch::run(cases, only, AT_ONCE, tell)
}

/// Two, and the one that is idle.
const AT_ONCE: usize = 3;
