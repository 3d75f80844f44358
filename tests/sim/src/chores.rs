//! What the admin does about the servers, one thing after the other, and again after a while where it failed.

use std::collections::VecDeque;
use std::time::Duration;

use ginnel_node::{Reply, Request};

use crate::calm::MarkId;
use crate::machine::Life;
use crate::script::{Step, Wanted};
use crate::world::World;

/// One thing to do; servers by their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chore {
    /// Takes a server on.
    Add(usize),
    /// Lets a server that the log names and that has lost all it knew have the log again.
    Restore(usize),
    /// Takes a server out.
    Remove(usize),
    /// Lets a server order the log.
    Promote(usize),
    /// Lets everybody in.
    Invite,
    /// Lets the time of recovery from a fault begin.
    Calm(MarkId),
}

/// What is still to be done.
#[derive(Debug, Default)]
pub(crate) struct Chores {
    queue: VecDeque<Chore>,
    tries: u32,
    asked: bool,
}

impl Chores {
    /// Whether something waits to be done.
    pub(crate) fn is_busy(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Disturbances that last until what waits is done.
    pub(crate) fn awaited(&self) -> Vec<MarkId> {
        let marks =
            self.queue.iter().filter_map(|chore| if let Chore::Calm(mark) = chore { Some(*mark) } else { None });
        marks.collect()
    }
}

impl World {
    pub(crate) fn give_chores(&mut self, chores: impl IntoIterator<Item = Chore>) {
        self.script.chores.queue.extend(chores);
        self.next_chore();
    }

    /// Does the next thing, unless one is under way.
    pub(crate) fn next_chore(&mut self) {
        while !self.script.chores.asked
            && let Some(chore) = self.script.chores.queue.front().copied()
        {
            let now = self.now;
            let request = match chore {
                Chore::Add(host) | Chore::Restore(host) => {
                    let founding = self.hosts[host].fresh_founding(now, &mut self.dice);
                    self.settle_host(host);
                    Request::ServerAdd { founding }
                }
                Chore::Remove(host) => Request::ServerRemove { server: self.hosts[host].name() },
                Chore::Promote(host) => Request::ServerPromote { server: self.hosts[host].name() },
                Chore::Invite | Chore::Calm(_) => {
                    self.finish_chore();
                    continue;
                }
            };
            if self.machines[0].life != Life::Awake {
                return self.step_at(now + AGAIN, Step::Chore);
            }
            self.script.chores.asked = true;
            return self.ask(0, request, Wanted::Chore);
        }
    }

    /// Takes the answer to what was asked for last.
    pub(crate) fn chore_answered(&mut self, reply: Result<Reply, String>) {
        self.script.chores.asked = false;
        let Some(chore) = self.script.chores.queue.front().copied() else { return };
        let again = self.script.chores.tries > 0;
        let done = match (chore, &reply) {
            (_, Ok(_)) => true,
            // The try before was done after all.
            (Chore::Add(_), Err(text)) => again && text.contains("has this server already"),
            // The machine may take the lost server's stream for alive for a while, and says the same.
            (Chore::Restore(host), Err(text)) => {
                text.contains("has this server already") && self.hosts[host].log_length() > 0
            }
            (Chore::Remove(_), Err(text)) => again && text.contains("no server"),
            (_, Err(_)) => false,
        };
        if done {
            self.finish_chore();
            return self.step_at(self.now, Step::Chore);
        }
        self.script.chores.tries += 1;
        if self.script.chores.tries >= MOST_TRIES {
            self.ledger.violate(self.now, &format!("the admin has tried in vain: {chore:?}, {reply:?}"));
            self.finish_chore();
        }
        self.step_at(self.now + AGAIN, Step::Chore);
    }

    /// The daemon that was asked has died and answers nothing; the admin tries again.
    pub(crate) fn ask_again(&mut self) {
        self.script.chores.asked = false;
        self.script.chores.tries += 1;
        self.step_at(self.now + AGAIN, Step::Chore);
    }

    fn finish_chore(&mut self) {
        self.script.chores.tries = 0;
        match self.script.chores.queue.pop_front() {
            Some(Chore::Promote(host)) => self.script.sequencer = host,
            Some(Chore::Invite) => self.invite_all(),
            Some(Chore::Calm(mark)) => self.calm.end(self.now, mark),
            Some(Chore::Add(_) | Chore::Restore(_) | Chore::Remove(_)) | None => {}
        }
    }
}

/// When a person tries again.
const AGAIN: Duration = Duration::from_secs(15);
/// No fault keeps the admin from it for so long.
const MOST_TRIES: u32 = 40;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Telling;

    #[test]
    fn the_admin_asks_again_when_the_daemon_dies_before_it_answers() {
        let mut world = World::new(1, Telling::Quiet);
        world.script.chores = Chores { queue: [Chore::Promote(0)].into(), tries: 0, asked: true };
        // What only a server can answer.
        let ticket = Some(world.hosts[0].founding());
        let up = Request::Up { ticket, name: None, network: None, shields: None, range: None, ipv4: None };
        world.ask(0, up, Wanted::Chore);
        assert!(world.script.chores.asked && !world.is_planned(|step| matches!(step, Step::Chore)));
        world.kill(0);
        assert!(!world.script.chores.asked && world.is_planned(|step| matches!(step, Step::Chore)));
    }
}
