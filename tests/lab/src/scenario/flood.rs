//! Floods beside a running transfer: what it keeps, whether a newcomer still gets in, and what the programs grow by.
//!
//! All machines are on one segment, so that nothing of the laboratory's own stands between flood and victim. The flooder,
//! the victims and both ends of the transfer share the processors of this machine; a flood is therefore held against the
//! same flood where it harms nobody of the network, which costs the flooder the same: datagrams at a port behind which
//! nobody reads, mail from the flooder to itself, guesses and slow clients at another network's server. A share is computed
//! from two floods that were equal within a tenth; where they were not, both are run once more, and if they are then not, the
//! row has no share. A newcomer joins beside every transfer, so that it costs all the same.
//!
//! What a share says differs: beside datagrams that nobody reads it is all that the flood takes from the link, the victim's
//! work included; beside mail to oneself, the victim's work alone; beside guesses and slow clients at an equal server, only
//! what the flood does to the link itself, for the other server works as hard. What such a flood costs is the server's
//! share of a core, which every row tells.

mod field;
mod handshakes;
mod hostile;
mod joins;
mod refusals;

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use self::field::{Aim, Field, Volley};
use super::machine::Programs;

/// What a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How long each flood was, in seconds.
    pub seconds: u64,
    /// Processors that everything shares.
    pub processors: usize,
    /// One row for each flood.
    pub floods: Vec<Row>,
    /// What one core refuses of handshakes with a bad mac1.
    pub bad_mac1: Refusals,
}

/// One flood.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Row {
    /// Its name.
    pub flood: String,
    /// What it was made of, and what came of it.
    pub detail: String,
    /// Where it harms nobody.
    pub harmless: Harmless,
    /// Datagrams, messages or connections.
    pub sent: u64,
    /// The same for each second, as it was.
    pub rate: f64,
    /// The rate of the same flood where it harms nobody; absent for floods that have no such form.
    pub beside_rate: Option<f64>,
    /// Throughput just before, in Mbit/s.
    pub before_mbps: f64,
    /// Throughput beside the same flood where it harms nobody.
    pub beside_mbps: Option<f64>,
    /// Throughput beside the flood.
    pub flooded_mbps: f64,
    /// The share of the throughput that the transfer keeps, in percent: of what it has beside the harmless flood where
    /// there is one, of what it had before otherwise. Absent when the two floods were not equal.
    pub kept_percent: Option<f64>,
    /// From a newcomer's `ginnel up` to the first answer of the victim, in seconds.
    pub newcomer_seconds: Option<f64>,
    /// Growth of the victim's daemon, in KiB.
    pub daemon_growth_kib: u64,
    /// Growth of the server, in KiB.
    pub server_growth_kib: u64,
    /// What the server takes of a core while the flood lasts, in percent.
    pub server_core_percent: f64,
    /// What went wrong.
    pub error: Option<String>,
}

/// Handshakes with a bad mac1 that one core refuses, per second.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Refusals {
    /// The check alone.
    pub check: u64,
    /// From the batch of datagrams to the counter, through the data plane and, for what it does not refuse, the deciding
    /// machine.
    pub whole_road: u64,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beside = self.beside_mbps.map_or_else(|| "–".to_owned(), |mbps| format!("{mbps:.0}"));
        let beside_rate = self.beside_rate.map_or_else(|| "–".to_owned(), |rate| format!("{rate:.0}"));
        let kept = match self.kept_percent {
            None => "the two rates differ by more than a tenth: no share".to_owned(),
            Some(kept) => {
                let goal = if kept < GOAL { " (goal 90)" } else { "" };
                format!("keeps {kept:.1} %{goal} {}", self.harmless.share())
            }
        };
        let newcomer = self.newcomer_seconds.map_or_else(|| "–".to_owned(), |took| format!("{took:.1} s"));
        write!(
            f,
            "{:<31} {:.0} a second ({beside_rate} where it harms nobody); {:.0} Mbit/s before, {beside} beside the harmless, \
             {:.0} beside it: {kept}; newcomer {newcomer}; daemon +{} KiB, server +{} KiB and {:.0} % of a core; {}",
            self.flood,
            self.rate,
            self.before_mbps,
            self.flooded_mbps,
            self.daemon_growth_kib,
            self.server_growth_kib,
            self.server_core_percent,
            self.detail
        )
    }
}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, whole_road } = self;
        write!(
            f,
            "bad mac1, within one process and without a socket, 64 messages over and over: {whole_road} refused a second and \
             core from the batch of datagrams to the counter, {check} by the check alone"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.floods.iter().try_for_each(|row| writeln!(f, "{row}"))?;
        write!(f, "{}; {} s each on {} processors", self.bad_mac1, self.seconds, self.processors)
    }
}

type Flood = (&'static str, fn(&Field, Aim, Instant) -> Result<Volley>, Harmless);

/// The form of a flood that harms nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Harmless {
    /// There is none.
    #[default]
    None,
    /// At a port behind which nobody reads.
    Unread,
    /// Mail from the flooder to itself, through the same server.
    ToItself,
    /// At an equal server of another network.
    OtherServer,
}

impl Harmless {
    /// What a share of the throughput is the share of.
    const fn share(self) -> &'static str {
        match self {
            Self::None => "of what it had before",
            Self::Unread => "of what it has beside the same where nobody reads",
            Self::ToItself => "of what it has beside as much mail to its sender",
            Self::OtherServer => {
                "of what it has beside the same at an equal server (what the flood does to the link itself; what it costs is \
                 the server's core)"
            }
        }
    }
}

/// The floods, in the order in which they are run.
const FLOODS: [Flood; 8] = [
    ("handshakes, bad mac1", |field, aim, until| handshakes::bad_mac1(&field.victim, aim, until), Harmless::Unread),
    (
        "handshakes, good mac1, spoofed",
        |field, aim, until| handshakes::spoofed(&field.victim, aim, until),
        Harmless::Unread,
    ),
    (
        "handshakes, good cookie",
        |field, aim, until| handshakes::with_cookie(&field.victim, aim, until),
        Harmless::Unread,
    ),
    ("mailbox, by a member", hostile::mails, Harmless::ToItself),
    ("joins by guess", joins::guesses, Harmless::OtherServer),
    ("connections half open", joins::half_open, Harmless::Unread),
    ("slow clients", joins::slow, Harmless::OtherServer),
    ("candidates of a third party", |field, _, until| hostile::third_party(field, until), Harmless::None),
];

/// Runs every flood whose name contains `only` for `seconds`; `tell` gets each row as it comes.
///
/// # Errors
/// When the field cannot be built, or no flood has such a name.
pub fn run(programs: &Programs, seconds: u64, only: &str, tell: &dyn Fn(&Row)) -> Result<Report> {
    let length = Duration::from_secs(seconds.clamp(2, 30));
    let chosen: Vec<&Flood> = FLOODS.iter().filter(|(name, ..)| name.contains(only)).collect();
    if chosen.is_empty() {
        bail!("no flood has such a name");
    }
    let field = Field::build(programs)?;
    let mut floods = Vec::new();
    for (name, flood, harmless) in chosen {
        let once = || {
            let mut row = Row { flood: (*name).to_owned(), harmless: *harmless, ..Row::default() };
            if let Err(error) = measure(&field, *flood, length, &mut row) {
                row.error = Some(format!("{error:#}"));
            }
            row
        };
        let mut row = once();
        // Whatever else the machine does takes from transfer and flooder, too; a flood that is too much is so every time.
        if row.error.is_none() && row.kept_percent.is_none_or(|kept| kept < FLOOR) {
            row = once();
        }
        tell(&row);
        floods.push(row);
    }
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(Report { seconds: length.as_secs(), processors, floods, bad_mac1: refusals::measure(length / 5)? })
}

impl Report {
    /// What is wrong, one line for each.
    pub fn complaints(&self) -> Vec<String> {
        let rows = self.floods.iter().filter_map(|row| Some(format!("{}: {}", row.flood, complaint(row)?)));
        rows.chain(refusals_complaint(&self.bad_mac1)).collect()
    }
}

impl Row {
    /// Whether the flood and the harmless one were equal, within a tenth.
    fn is_comparable(&self) -> bool {
        self.beside_rate.is_none_or(|rate| (self.rate - rate).abs() <= rate.max(self.rate) * UNEQUAL)
    }

    /// The throughput beside the flood, in percent of that beside the harmless one, or of that before.
    fn share(&self) -> f64 {
        (1000.0 * self.flooded_mbps / self.beside_mbps.unwrap_or(self.before_mbps).max(0.1)).round() / 10.0
    }
}

/// What a row fails in, if it does.
pub fn complaint(row: &Row) -> Option<String> {
    if let Some(error) = &row.error {
        return Some(error.clone());
    }
    match row.kept_percent {
        Some(kept) if kept < FLOOR => return Some(format!("the transfer keeps {kept:.0} %, less than {FLOOR} %")),
        // The harmless flood was the weaker one or the stronger: either way a link that is all but dead is no noise.
        None if row.share() < DEAD => {
            return Some(format!("the transfer keeps {:.0} % beside a flood of another rate", row.share()));
        }
        Some(_) | None => {}
    }
    match row.newcomer_seconds {
        None => return Some("the newcomer was not linked".to_owned()),
        Some(took) if took > NEWCOMER => return Some(format!("the newcomer was linked after {took:.1} s")),
        Some(_) => {}
    }
    let grown = row.daemon_growth_kib.max(row.server_growth_kib);
    (grown > GROWTH).then(|| format!("a program grew by {grown} KiB, more than {GROWTH}"))
}

/// What is wrong with the refusals, if anything.
pub fn refusals_complaint(refusals: &Refusals) -> Option<String> {
    let slow = refusals.whole_road < REFUSALS;
    slow.then(|| format!("a core refuses only {} handshakes a second, not {REFUSALS}", refusals.whole_road))
}

fn measure(
    field: &Field,
    flood: fn(&Field, Aim, Instant) -> Result<Volley>,
    length: Duration,
    row: &mut Row,
) -> Result<()> {
    let calm = field.under(length, |_| Ok(Volley::elsewhere(0, String::new())))?;
    calm.newcomer.context("the newcomer without any flood")?;
    row.before_mbps = calm.mbps;
    if row.harmless != Harmless::None {
        let spared = field.under(length, |until| flood(field, Aim::Nobody, until))?;
        let volley = spared.volley.context("the harmless flood")?;
        spared.newcomer.context("the newcomer beside the harmless flood")?;
        row.beside_mbps = Some(spared.mbps);
        row.beside_rate = Some(volley.sent as f64 / spared.took.as_secs_f64());
    }
    let meter = field.meter()?;
    let outcome = field.under(length, |until| flood(field, Aim::Victim, until))?;
    row.flooded_mbps = outcome.mbps;
    row.daemon_growth_kib = outcome.daemon_growth;
    row.server_growth_kib = outcome.server_growth;
    row.server_core_percent = (100.0 * outcome.server_core).round();
    row.newcomer_seconds = outcome.newcomer.as_ref().ok().map(|took| (took.as_secs_f64() * 100.0).round() / 100.0);
    let volley = outcome.volley.context("the flood")?;
    let arrived = meter.read()?.bytes;
    ensure!(arrived * 2 >= volley.bytes, "only {arrived} of {} bytes reached the victim", volley.bytes);
    (row.sent, row.rate, row.detail) = (volley.sent, volley.sent as f64 / outcome.took.as_secs_f64(), volley.note);
    row.kept_percent = row.is_comparable().then(|| row.share());
    outcome.newcomer.context("the newcomer")?;
    field.is_well().context("afterwards")
}

/// The share of the throughput that is aimed at, in percent.
const GOAL: f64 = 90.0;
/// The least share of the throughput that a transfer must keep, in percent. The goal is 90; on two processors that
/// flooder, victim and both ends of the transfer share, scheduling alone moves a transfer of this length by a tenth or
/// two, and the victim's work on the flood is taken from the transfer's own.
const FLOOR: f64 = 50.0;
/// The share below which no difference between two floods explains it, in percent.
const DEAD: f64 = 10.0;
/// By which part two floods may differ and still be held against each other.
const UNEQUAL: f64 = 0.1;
/// The longest that a newcomer may take, in seconds: three tries of the handshake.
const NEWCOMER: f64 = 15.0;
/// The most that a program may grow by, in KiB.
const GROWTH: u64 = 16 * 1024;
/// The least number of handshakes with a bad mac1 that a core must refuse in a second, in this profile with its checks;
/// a fifth of what an idle core does.
const REFUSALS: u64 = 250_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Row {
        Row { kept_percent: Some(95.0), newcomer_seconds: Some(0.5), ..Row::default() }
    }

    #[test]
    fn each_broken_promise_is_complained_of() {
        assert_eq!(complaint(&good()), None);
        for bad in [
            Row { kept_percent: Some(FLOOR - 1.0), ..good() },
            Row { kept_percent: None, before_mbps: 100.0, flooded_mbps: DEAD - 1.0, ..good() },
            Row { newcomer_seconds: None, ..good() },
            Row { newcomer_seconds: Some(NEWCOMER + 1.0), ..good() },
            Row { daemon_growth_kib: GROWTH + 1, ..good() },
            Row { server_growth_kib: GROWTH + 1, ..good() },
            Row { error: Some("broken".to_owned()), ..good() },
        ] {
            assert!(complaint(&bad).is_some(), "{bad:?}");
        }
        assert!(refusals_complaint(&Refusals { check: REFUSALS, whole_road: REFUSALS - 1 }).is_some());
        assert!(refusals_complaint(&Refusals { check: REFUSALS, whole_road: REFUSALS }).is_none());
    }

    #[test]
    fn floods_of_different_rates_give_no_share() {
        let row = |rate, beside_rate| Row {
            harmless: Harmless::Unread,
            rate,
            beside_rate,
            beside_mbps: Some(100.0),
            flooded_mbps: 80.0,
            ..good()
        };
        for (rate, beside, comparable) in [
            (90_000.0, Some(100_000.0), true),
            (100_000.0, Some(90_000.0), true),
            (89_000.0, Some(100_000.0), false),
            (100_000.0, Some(89_000.0), false),
            (100_000.0, None, true),
        ] {
            assert_eq!(row(rate, beside).is_comparable(), comparable, "{rate} {beside:?}");
        }
        let kept = Row { kept_percent: Some(row(1.0, None).share()), ..row(1.0, None) }.to_string();
        assert!(kept.contains("keeps 80.0 % (goal 90) of"), "{kept}");
        let unequal = Row { kept_percent: None, ..row(50_000.0, Some(100_000.0)) };
        let said = unequal.to_string();
        assert!(said.contains("50000 a second (100000 where") && !said.contains("keeps"), "{said}");
        assert_eq!(complaint(&unequal), None, "it is the laboratory that was too slow");
    }

    #[test]
    fn every_name_is_one_floods_own() {
        for (name, ..) in FLOODS {
            assert_eq!(FLOODS.iter().filter(|(other, ..)| other.contains(name)).count(), 1, "{name}");
        }
    }
}
