//! A server that shows two histories: what it signs for one place of the log is one thing for half of the world and
//! another for the other half.
//!
//! Behind the second face is a real server with the same keys. It knows the log up to an entry that the founder has just
//! written, and for that place it has signed the same record under another time.
//!
//! Or a mirror that keeps things to itself: half of the world sees a face of it that lacks the newest entries, gets no
//! others from any fellow, and hands no mail to the other half. Where another server is well, nobody notices.

use std::time::Duration;

use ginnel_node::{Request, ServerId};
use ginnel_signal_proto::server::LinkId;
use ginnel_time::Instant;

use crate::machine::Life;
use crate::script::{Step, Wanted};
use crate::stream::Caller;
use crate::strike::LONG;
use crate::world::World;

/// A server with two faces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faces {
    honest: usize,
    false_face: usize,
    /// Entries before the two histories part.
    length: u64,
    since: Instant,
    shown: Shown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    No,
    /// It shows no other history, only less of the one.
    Less,
    Since(Instant),
}

impl World {
    /// Lets the server that orders the log hide from half of the world, until it has two stories to tell.
    pub(crate) fn grow_faces(&mut self) {
        let honest = self.script.sequencer;
        let false_face = self.hosts.len();
        let twin = self.hosts[honest].twin();
        self.hosts.push(twin);
        let length = self.hosts[honest].log_length();
        self.script.faces = Some(Faces { honest, false_face, length, since: self.now, shown: Shown::No });
        for conn in self.streams_to(honest) {
            if self.face(conn.1, honest) == false_face {
                self.break_stream(conn.0);
            }
        }
        let request = Request::Invite { expires: LONG, name: None };
        self.ask(0, request, Wanted::Whisper);
        self.step_at(self.now + LOOKS, Step::Forge);
    }

    /// Lets a mirror keep things to itself from here on.
    pub(crate) fn begin_withholding(&mut self, host: usize) {
        let false_face = self.hosts.len();
        let mut twin = self.hosts[host].twin();
        twin.take_over(self.hosts[host].stored_all());
        twin.roll_back(LACKING);
        twin.start(self.now, &mut self.dice);
        self.hosts.push(twin);
        let length = self.hosts[host].log_length();
        self.script.faces = Some(Faces { honest: host, false_face, length, since: self.now, shown: Shown::Less });
        for conn in self.streams_to(host) {
            if self.face(conn.1, host) == false_face {
                self.break_stream(conn.0);
            }
        }
        self.settle_host(false_face);
        self.drills.withheld += 1;
    }

    /// Whether the server that orders the log can show another one, and somebody is there to write what the two differ by.
    pub(crate) fn can_grow_faces(&self) -> bool {
        let orders = self.hosts[self.script.sequencer].is_up();
        orders && self.script.faces.is_none() && self.machines[0].life == Life::Awake
    }

    /// Whether a server is a mirror with nothing to hide yet.
    pub(crate) fn can_withhold(&self, host: usize) -> bool {
        host != self.script.sequencer && self.script.faces.is_none() && self.hosts[host].is_up()
    }

    /// Whether a server keeps things to itself.
    pub(crate) fn is_withholding(&self) -> bool {
        self.script.faces.is_some_and(|faces| faces.shown == Shown::Less)
    }

    /// Whether a caller is a face that keeps away from its fellows.
    pub(crate) fn is_aloof(&self, caller: Caller) -> bool {
        self.is_withholding() && matches!(caller, Caller::Host(host, _) if host >= self.servers)
    }

    /// Shows the second face once there is an entry to sign another one in place of.
    pub(crate) fn forge(&mut self) {
        let Some(faces) = self.script.faces else { return };
        if self.hosts[faces.honest].log_length() <= faces.length {
            if self.now < faces.since + PATIENCE {
                self.step_at(self.now + LOOKS, Step::Forge);
            }
            return;
        }
        let (honest, number) = (self.hosts[faces.honest].stored_all(), faces.false_face);
        self.hosts[number].forge(honest, faces.length);
        self.hosts[number].start(self.now, &mut self.dice);
        self.settle_host(number);
        self.script.faces = Some(Faces { shown: Shown::Since(self.now), ..faces });
        self.trace.tell(self.now, || format!("server {} shows two histories", faces.honest));
    }

    /// How many may have a stream to a server, or to one face of it: members and fellows.
    pub(crate) fn callers_of(&self, host: usize) -> usize {
        let server = self.script.faces.filter(|faces| faces.false_face == host).map_or(host, |faces| faces.honest);
        let members = (0..self.machines.len()).map(|number| Caller::Machine(number, ServerId(0)));
        let others = (0..self.hosts.len()).filter(|other| self.hosts[*other].address() != self.hosts[host].address());
        let fellows = others.map(|number| Caller::Host(number, LinkId(0))).filter(|caller| !self.is_aloof(*caller));
        members.chain(fellows).filter(|caller| self.face(*caller, server) == host).count()
    }

    /// The face that a caller sees of a server.
    pub(crate) fn face(&self, caller: Caller, host: usize) -> usize {
        let number = match caller {
            Caller::Machine(number, _) | Caller::Host(number, _) => number,
            Caller::Intruder(_) => return host,
        };
        match self.script.faces {
            Some(faces) if faces.honest == host && number % 2 == 1 => faces.false_face,
            Some(_) | None => host,
        }
    }

    /// Whether two machines see each another face of a server.
    pub(crate) fn see_two_faces(&self, a: usize, b: usize) -> bool {
        let seen = |machine, host| self.face(Caller::Machine(machine, ServerId(0)), host);
        self.script.faces.is_some_and(|Faces { honest, .. }| seen(a, honest) != seen(b, honest))
    }

    /// Two histories that nobody has reported.
    pub(crate) fn unreported(&mut self) -> Option<String> {
        let Some(Faces { shown: Shown::Since(at), .. }) = self.script.faces else {
            return self.forks().into_iter().next();
        };
        self.forks().first()?;
        self.drills.forks += 1;
        let across = self.ledger.flows.iter().filter(|flow| {
            let honest = [flow.from, flow.to].iter().all(|machine| !self.script.hostile.contains(machine));
            honest && (flow.from + flow.to) % 2 == 1 && flow.progress > at + FOUND_OUT && flow.delivered > 0
        });
        let met = across.count() > 0;
        let told = self.machines.iter().any(|machine| machine.alarms > 0);
        (met && !told).then(|| "a server has shown two histories, and nobody says so".to_owned())
    }
}

/// Entries that a server lacks which keeps things to itself.
const LACKING: usize = 2;
/// Between two looks whether the founder has written something.
const LOOKS: Duration = Duration::from_millis(20);
/// After this it has not.
const PATIENCE: Duration = Duration::from_secs(60);
/// Members of either half that have been linked for so long know.
const FOUND_OUT: Duration = Duration::from_secs(60);
