//! The path agent.

use std::net::SocketAddr;

use ginnel_path::message::{CandidateList, Echo, Message, Phase, decode};
use ginnel_path::{
    Agent, Candidate, CandidateKind, Config, Input, Local, LocalCandidate, Output, Path, RelayId, Role, SocketId,
};
use ginnel_time::Instant;

use super::{Subject, garbage, index, obeys, spoil};
use crate::dice::Dice;

struct Paths {
    machine: Agent,
    /// Probes that it sent, by path.
    probes: Vec<(Path, u64)>,
}

impl Paths {
    fn path(&self, dice: &mut Dice) -> Path {
        if !self.probes.is_empty() && dice.chance(500) {
            return self.probes[index(dice, self.probes.len())].0;
        }
        Path { local: local(dice), remote: address(dice) }
    }

    fn message(&self, dice: &mut Dice) -> Vec<u8> {
        if !self.probes.is_empty() && dice.chance(700) {
            // Late and repeated echoes, too.
            let (path, id) = self.probes[self.probes.len() - 1 - index(dice, self.probes.len().min(20))];
            let echo = Echo { id, observed: path.remote, relayed: dice.chance(100) };
            return echo.encode();
        }
        let phase = dice.pick(&[Phase::Update, Phase::Call, Phase::Ready]);
        let round = u8::try_from(dice.below(4)).expect("few rounds");
        CandidateList { round, phase, candidates: candidates(dice) }.encode()
    }
}

impl Subject for Paths {
    fn input(&mut self, now: Instant, dice: &mut Dice) {
        let input = match dice.below(24) {
            0..3 => Input::LocalCandidates(locals(dice)),
            3..5 => Input::RemoteCandidates(candidates(dice)),
            5..7 => Input::Session(dice.pick(&[Role::Initiator, Role::Responder])),
            7 if dice.chance(200) => Input::SessionLost,
            8..11 => Input::Arrived(self.path(dice)),
            11..18 => {
                let bytes = self.message(dice);
                Input::Message { path: self.path(dice), bytes: spoil(dice, bytes) }
            }
            18 => Input::Message { path: self.path(dice), bytes: garbage(dice) },
            19 => Input::SendFailed { path: self.path(dice) },
            20 if dice.chance(300) => Input::PathLost(local(dice)),
            21 if dice.chance(100) => Input::Refused([("100.72.0.0".parse().expect("literal"), 16)].into()),
            _ => Input::Traffic { sent: dice.chance(700), received: dice.chance(500) },
        };
        let _ = self.machine.handle_input(now, input);
    }

    fn timeout(&mut self, now: Instant) {
        self.machine.handle_timeout(now);
    }

    fn output(&mut self) -> Option<String> {
        let output = self.machine.poll_output()?;
        if let Output::Seal { path, plaintext, .. } = &output
            && let Ok(Message::Probe(probe)) = decode(plaintext)
        {
            self.probes.push((*path, probe.id));
        }
        Some(format!("{output:?}"))
    }

    fn due(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }
}

fn local(dice: &mut Dice) -> Local {
    match dice.below(4) {
        0 => Local::Relay(RelayId(0)),
        number => Local::Socket(SocketId(u16::try_from(number).expect("few sockets"))),
    }
}

fn address(dice: &mut Dice) -> SocketAddr {
    let last = u8::try_from(dice.below(4)).expect("an octet");
    let port = u16::try_from(4000 + dice.below(3)).expect("a port");
    let ip = match dice.below(5) {
        0 => [192, 168, 1, last],
        1 => [127, 0, 0, 1],
        2 => [203, 0, 113, 1],
        _ => [198, 51, 100, last],
    };
    SocketAddr::from((ip, port))
}

fn kind(dice: &mut Dice) -> CandidateKind {
    use CandidateKind::{Host, PeerReflexive, Relayed, ServerReflexive};
    dice.pick(&[Host, ServerReflexive, PeerReflexive, Relayed])
}

fn candidates(dice: &mut Dice) -> Vec<Candidate> {
    (0..dice.below(5)).map(|_| Candidate { kind: kind(dice), addr: address(dice) }).collect()
}

fn locals(dice: &mut Dice) -> Vec<LocalCandidate> {
    (0..dice.below(6)).map(|_| LocalCandidate { kind: kind(dice), local: local(dice), addr: address(dice) }).collect()
}

#[test]
fn path_agent_obeys() {
    obeys(
        "path agent",
        3000,
        &["Select", "duplicate: true", "FreshSocket", "Punching", "Lost", "Failed"],
        |_, dice| Paths { machine: Agent::new(dice.seed(), Config::default()), probes: Vec::new() },
    );
}
