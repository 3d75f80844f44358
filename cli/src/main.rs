//! `ginnel`: asks and commands the daemon `ginneld` over its control socket, and holds no protocol logic of its own.
#![forbid(unsafe_code)]

mod arguments;
mod client;
mod events;
mod govern;
mod output;
mod ping;
mod settings;
mod table;
mod time;
mod verb;

use std::process::ExitCode;

use clap::Parser;
use ginnel_local_api::{ApiError, Exit};

use crate::arguments::Arguments;
use crate::output::{Format, Output};
use crate::settings::Settings;

fn main() -> ExitCode {
    // Before the arguments are understood, only their text can tell in which form an error is wanted.
    let asks_json = std::env::args_os().skip(1).take_while(|a| a != "--").any(|a| {
        let text = a.to_string_lossy();
        text == "--json" || text.starts_with("--json=") || text == "-j"
    });
    let format = if asks_json { Format::Json } else { Format::Text };
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error, format),
    };
    let settings = match Settings::load() {
        Ok(settings) => settings,
        Err(error) => return finish(Output::new(format, arguments.global.color).error(&error)),
    };
    let format = if arguments.global.json.is_some() || settings.json { Format::Json } else { Format::Text };
    let output = Output::new(format, arguments.global.color);
    let result = run(&arguments, &settings, &output);
    finish(match result {
        Ok(exit) => exit,
        Err(error) => output.error(&error),
    })
}

fn run(arguments: &Arguments, settings: &Settings, output: &Output) -> Result<Exit, ApiError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| ApiError::new(Exit::Failed, "no-runtime", format!("cannot start: {error}")))?;
    runtime.block_on(async {
        tokio::select! {
            result = verb::run(arguments, settings, output) => result,
            signal = tokio::signal::ctrl_c() => match signal {
                Ok(()) => Ok(Exit::Interrupted),
                Err(error) => Err(ApiError::new(Exit::Failed, "no-signals", format!("cannot watch for Ctrl-C: {error}"))),
            },
        }
    })
}

/// Prints help, the version or a usage error, each where it belongs.
fn usage(error: &clap::Error, format: Format) -> ExitCode {
    if !error.use_stderr() || format == Format::Text {
        // A closed pipe at the other end leaves nobody to tell.
        let _ = error.print();
        return finish(if error.use_stderr() { Exit::Usage } else { Exit::Done });
    }
    let text = error.render().to_string();
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut message = lines.next().unwrap_or("wrong arguments").trim_start_matches("error: ").to_owned();
    if message.ends_with(':') {
        message = [&message, lines.next().unwrap_or_default()].join(" ");
    }
    let hint: Vec<&str> = lines.collect();
    let error = ApiError::new(Exit::Usage, "usage", message).with_hint(hint.join(" "));
    finish(Output::new(format, None).error(&error))
}

fn finish(exit: Exit) -> ExitCode {
    ExitCode::from(exit.code())
}
