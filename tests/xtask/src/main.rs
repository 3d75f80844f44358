//! The project's tasks that need logic: `cargo xtask test`, `demo`, `lab`, `sim`.
//!
//! What is plain cargo stays plain cargo. A task prints its account on standard error and its result on standard output.

mod cargo;
mod check;
mod duplicate;
mod fuzz;
mod history;
mod laboratory;
mod planted;
mod sim;
mod suite;
mod tally;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks of the Ginnel workspace")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs every test; the last line says `N passed, N failed`.
    Test {
        /// Leaves out the long laboratory and simulation runs.
        #[arg(long)]
        quick: bool,
    },
    /// Shows two homes, a third machine and a public host meeting; builds what it needs.
    Demo {
        /// Prints one JSON object on standard output.
        #[arg(long = "json", num_args = 0, default_missing_value = "json", value_parser = as_json, default_value = "text")]
        form: laboratory::Form,
    },
    /// Runs one of the laboratory's programmes.
    Lab {
        /// Which one; a wrong name lists them all.
        name: String,
        /// Prints one JSON object on standard output.
        #[arg(long = "json", num_args = 0, default_missing_value = "json", value_parser = as_json, default_value = "text")]
        form: laboratory::Form,
        /// Runs only the rows or cases whose names contain this.
        #[arg(long)]
        only: Option<String>,
        #[command(flatten)]
        length: laboratory::Length,
        /// Runs the programs as they are installed, without the assertions that the suite builds in.
        #[arg(long)]
        release: bool,
    },
    /// Runs the fuzz targets with the engine; each for a while, two at once.
    Fuzz(fuzz::Arguments),
    /// Makes mistakes of the past again, one at a time, each of which a test must find.
    History {
        /// Only the row or patch of this name.
        #[arg(long)]
        only: Option<String>,
        /// Makes none; lists them all with what covers each.
        #[arg(long, conflicts_with = "only")]
        list: bool,
    },
    /// Plants mistakes in a copy of the protocols, each of which simulated worlds must find.
    Planted(planted::Arguments),
    /// Runs simulated worlds, one for each seed; the last line is the account of all.
    Sim(sim::Worlds),
    /// Checks format, lints, purity of the protocol crates and dependencies, without running tests.
    Check,
}

fn main() -> ExitCode {
    ginnel_lab::dispatch_hidden();
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            cargo::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Test { quick } => suite::run(if quick { suite::Extent::Quick } else { suite::Extent::Full }),
        Task::Demo { form } => laboratory::demo(form),
        Task::Lab { name, form, only, length, release } => {
            let build = if release { laboratory::Build::Release } else { laboratory::Build::Checked };
            laboratory::lab(&name, form, only.as_deref(), length, build)
        }
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::History { list: true, .. } => Ok(history::list()),
        Task::History { only, list: false } => history::run(only.as_deref()),
        Task::Planted(arguments) => planted::run(&arguments),
        Task::Sim(worlds) => sim::run(&worlds),
        Task::Check => suite::check_only(),
    }
}

fn as_json(value: &str) -> Result<laboratory::Form, String> {
    match value {
        "json" => Ok(laboratory::Form::Json),
        "text" => Ok(laboratory::Form::Text),
        other => Err(format!("there is no form {other}")),
    }
}
