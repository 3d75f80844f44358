use std::io::{self, IsTerminal, Write};

use ginnel_local_api::{ApiError, ErrorReply, Exit, PathKind, Severity};
use serde::Serialize;

use crate::arguments::Color;

/// Standard output and standard error, in the form that the user asked for.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    out: Paint,
    err: Paint,
}

/// The form in which replies and errors are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Words for a person.
    Text,
    /// The daemon's own objects for a script.
    Json,
}

/// Whether a stream takes colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paint {
    Colored,
    Plain,
}

impl Output {
    pub(crate) fn new(format: Format, color: Option<Color>) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let paint = |is_terminal: fn() -> bool| match color.unwrap_or(Color::Auto) {
            Color::Always => Paint::Colored,
            Color::Auto if is_terminal() && !no_color => Paint::Colored,
            Color::Auto | Color::Never => Paint::Plain,
        };
        Self { format, out: paint(|| io::stdout().is_terminal()), err: paint(|| io::stderr().is_terminal()) }
    }

    /// Whether replies are printed as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints one line of the result.
    pub(crate) fn line(&self, text: &str) {
        put(&mut io::stdout().lock(), text);
    }

    /// Prints one line of explanation, which no script reads.
    pub(crate) fn note(&self, text: &str) {
        if !self.is_json() {
            put(&mut io::stderr().lock(), text);
        }
    }

    /// Prints an object as one line of JSON.
    pub(crate) fn object(&self, object: &impl Serialize) {
        self.line(&serde_json::to_string(object).expect("replies are strings, numbers, lists and objects"));
    }

    /// Tells of a failure and gives back its exit code.
    pub(crate) fn error(&self, error: &ApiError) -> Exit {
        let text = if self.is_json() {
            serde_json::to_string(&ErrorReply { error: error.clone() }).expect("errors are strings and numbers")
        } else {
            let label = paint(self.err, RED, "error:");
            let hint = error.hint.as_deref().map(|hint| format!("\n{}", clean_lines(hint))).unwrap_or_default();
            format!("{label} {}{hint}", clean_lines(&error.message))
        };
        put(&mut io::stderr().lock(), &text);
        error.exit
    }

    /// The name of a path, green for a direct one and yellow for a relayed one.
    pub(crate) fn path(&self, kind: PathKind) -> String {
        let color = match kind {
            PathKind::Lan | PathKind::Direct4 | PathKind::Direct6 => GREEN,
            PathKind::TurnUdp => YELLOW,
            PathKind::None | PathKind::Unknown => DIM,
        };
        paint(self.out, color, &kind.to_string())
    }

    /// The word for a severity, in its colour.
    pub(crate) fn severity(&self, severity: Severity) -> String {
        let color = match severity {
            Severity::Error => RED,
            Severity::Warning => YELLOW,
            Severity::Info | Severity::Unknown => DIM,
        };
        paint(self.out, color, &severity.to_string())
    }

    /// A heading.
    pub(crate) fn strong(&self, text: &str) -> String {
        paint(self.out, BOLD, text)
    }
}

/// `text` with every control character replaced, so that a name from outside cannot command the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if hostile(c) { '\u{fffd}' } else { c }).collect()
}

fn clean_lines(text: &str) -> String {
    text.chars().map(|c| if c != '\n' && hostile(c) { '\u{fffd}' } else { c }).collect()
}

/// Control characters, and the marks that reorder the text around them.
fn hostile(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn paint(paint: Paint, color: &str, text: &str) -> String {
    match paint {
        Paint::Colored => format!("{color}{text}{RESET}"),
        Paint::Plain => text.to_owned(),
    }
}

fn put(stream: &mut impl Write, text: &str) {
    if writeln!(stream, "{text}").and_then(|()| stream.flush()).is_err() {
        // The reader has gone (`ginnel log | head`): nothing is left to do, and nobody to tell.
        std::process::exit(i32::from(Exit::Failed.code()));
    }
}

const RED: &str = "\u{1b}[31m";
const GREEN: &str = "\u{1b}[32m";
const YELLOW: &str = "\u{1b}[33m";
const BOLD: &str = "\u{1b}[1m";
const DIM: &str = "\u{1b}[2m";
const RESET: &str = "\u{1b}[0m";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_command_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\u{202e}c\r\n"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}\u{fffd}");
        assert_eq!(clean("naïve-größe"), "naïve-größe");
    }
}
