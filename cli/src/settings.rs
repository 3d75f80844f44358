use std::io;
use std::path::{Path, PathBuf};

use ginnel_local_api::{ApiError, Exit, nearest};
use toml::de::{DeTable, DeValue};

/// The user's own defaults, from `config.toml` in the user's configuration folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Control socket of the daemon.
    pub(crate) socket: Option<PathBuf>,
    /// Whether every verb prints JSON.
    pub(crate) json: bool,
}

impl Settings {
    /// Reads the user's file; no file is no settings.
    ///
    /// # Errors
    /// [`Exit::Config`] that names the file, the line and the remedy.
    pub(crate) fn load() -> Result<Self, ApiError> {
        let Some(folders) = directories::ProjectDirs::from("", "", "ginnel") else { return Ok(Self::default()) };
        let path = folders.config_dir().join("config.toml");
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&path, &text),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(Self::default())
            }
            Err(error) => Err(invalid(
                format!("cannot read {}: {error}", path.display()),
                "Make the file readable or remove it, or set HOME to the folder of this user.",
            )),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ApiError> {
        let at = |offset: usize| {
            let before = text.get(..offset).unwrap_or(text);
            format!("{}:{}", path.display(), before.matches('\n').count() + 1)
        };
        let table = DeTable::parse(text).map_err(|error| {
            let place = at(error.span().map_or(0, |span| span.start));
            invalid(format!("{place}: {}", error.message()), "Correct the line; the file is TOML.")
        })?;
        let mut settings = Self::default();
        for (key, value) in table.get_ref() {
            let place = at(key.span().start);
            match (key.get_ref().as_ref(), value.get_ref()) {
                ("socket", DeValue::String(socket)) => settings.socket = Some(PathBuf::from(socket.as_ref())),
                ("socket", _) => {
                    return Err(invalid(format!("{place}: socket is not a text"), "Write socket = \"/path\"."));
                }
                ("json", DeValue::Boolean(json)) => settings.json = *json,
                ("json", _) => {
                    return Err(invalid(format!("{place}: json is not true or false"), "Write json = true."));
                }
                (other, _) => {
                    let hint = nearest(other, KEYS).map_or_else(
                        || format!("The keys are {}.", KEYS.join(" and ")),
                        |key| format!("Did you mean {key}?"),
                    );
                    return Err(invalid(format!("{place}: unknown key {other}"), &hint));
                }
            }
        }
        Ok(settings)
    }
}

fn invalid(message: String, hint: &str) -> ApiError {
    ApiError::new(Exit::Config, "settings-invalid", message).with_hint(hint)
}

const KEYS: [&str; 2] = ["socket", "json"];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, ApiError> {
        Settings::parse(Path::new("/home/a/config.toml"), text)
    }

    #[test]
    fn known_keys_are_taken() {
        let settings = parse("socket = \"/tmp/s\"\njson = true\n").unwrap();
        assert_eq!(settings, Settings { socket: Some("/tmp/s".into()), json: true });
        assert_eq!(parse("").unwrap(), Settings::default());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_one() {
        let error = parse("json = true\nsockte = \"/tmp/s\"\n").unwrap_err();
        assert_eq!(error.exit, Exit::Config);
        assert_eq!(error.message, "/home/a/config.toml:2: unknown key sockte");
        assert_eq!(error.hint.as_deref(), Some("Did you mean socket?"));
    }

    #[test]
    fn a_wrong_type_or_a_broken_file_is_named_with_its_line() {
        assert!(parse("\n\njson = 1").unwrap_err().message.contains(":3:"));
        assert!(parse("\njson = ").unwrap_err().message.contains(":2:"));
    }
}
