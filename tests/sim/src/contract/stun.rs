//! The client of Binding transactions.

use std::net::SocketAddr;

use ginnel_stun::{BindingClient, Config, Input, Output, answer_binding};
use ginnel_time::Instant;

use super::{Subject, garbage, index, obeys, spoil};
use crate::dice::Dice;

struct Binding {
    machine: BindingClient,
    /// Answers to what it asked: socket, server and bytes.
    answers: Vec<(u16, SocketAddr, Vec<u8>)>,
}

impl Subject for Binding {
    fn input(&mut self, now: Instant, dice: &mut Dice) {
        let socket = u16::try_from(dice.below(3)).expect("few sockets");
        let server = SocketAddr::from(([203, 0, 113, 1], u16::try_from(3478 + dice.below(3)).expect("a port")));
        let input = match dice.below(3) {
            0 => Input::Query { socket, server },
            1 if !self.answers.is_empty() => {
                let place = index(dice, self.answers.len());
                let (socket, from, bytes) = self.answers[place].clone();
                Input::Received { socket, from, bytes: spoil(dice, bytes) }
            }
            _ => Input::Received { socket, from: server, bytes: garbage(dice) },
        };
        let _ = self.machine.handle_input(now, input);
    }

    fn timeout(&mut self, now: Instant) {
        self.machine.handle_timeout(now);
    }

    fn output(&mut self) -> Option<String> {
        let output = self.machine.poll_output()?;
        if let Output::Send { socket, to, bytes } = &output {
            let seen = SocketAddr::from(([198, 51, 100, 7], 40_000 + *socket));
            let answer = answer_binding(bytes, seen).expect("the client writes Binding requests");
            self.answers.push((*socket, *to, answer));
        }
        Some(format!("{output:?}"))
    }

    fn due(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }
}

#[test]
fn stun_client_obeys() {
    obeys("stun client", 600, &["Mapped", "Failed"], |_, dice| Binding {
        machine: BindingClient::new(dice.seed(), Config::default()),
        answers: Vec::new(),
    });
}
