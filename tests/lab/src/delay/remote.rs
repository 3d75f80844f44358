//! The laboratory's end of a delay box.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use super::line::Tally;
use super::{Answer, COMMAND, Order, Plan};
use crate::process;

/// A running delay box. It ends with its input, hence with this handle.
#[derive(Debug)]
pub(crate) struct DelayBox {
    wire: Mutex<Wire>,
    child: Child,
}

#[derive(Debug)]
struct Wire {
    /// `None` once closed.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl DelayBox {
    /// Runs `program` as a delay box and waits until its devices exist.
    pub(crate) fn start(program: &Path, plan: &Plan) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg(COMMAND).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = process::spawn(command).with_context(|| format!("start {}", program.display()))?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("the delay box has no output")?);
        let delay_box = Self { wire: Mutex::new(Wire { orders, answers }), child };
        let hint = || {
            format!(
                "{} is no delay box; call ginnel_lab::dispatch_hidden first in its main, or name another program by {}",
                program.display(),
                crate::HELPER_VARIABLE
            )
        };
        match delay_box.exchange(plan).with_context(hint)? {
            Answer::Ready => Ok(delay_box),
            other @ (Answer::Done | Answer::Tally(_)) => bail!("the delay box answered {other:?} to its plan"),
        }
    }

    /// Carries out `order`.
    pub(crate) fn order(&self, order: Order) -> Result<Option<[Tally; 2]>> {
        match self.exchange(&order)? {
            Answer::Tally(tally) => Ok(Some(tally)),
            Answer::Ready | Answer::Done => Ok(None),
        }
    }

    fn exchange(&self, line: &impl serde::Serialize) -> Result<Answer> {
        let mut wire = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = serde_json::to_string(line)?;
        text.push('\n');
        let orders = wire.orders.as_mut().context("the delay box is closed")?;
        orders.write_all(text.as_bytes()).context("write to the delay box")?;
        let mut answer = String::new();
        wire.answers.read_line(&mut answer).context("read from the delay box")?;
        serde_json::from_str(&answer).with_context(|| format!("the delay box said {answer:?}"))
    }
}

impl Drop for DelayBox {
    fn drop(&mut self) {
        self.wire.get_mut().unwrap_or_else(PoisonError::into_inner).orders = None;
        // The end of its input stops the box; killing it covers one that hangs. Either way it is reaped.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
