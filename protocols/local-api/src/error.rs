use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The exit codes of `ginnel`, the same for every verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed for a reason that no other code names.
    Failed = 1,
    /// The command line was wrong.
    Usage = 2,
    /// The daemon could not be reached.
    Unreachable = 3,
    /// The caller may not do this.
    Denied = 4,
    /// This machine is not in a network, or its membership awaits approval or has ended; so too when an invite lets it
    /// into none because it is expired, used or taken back.
    NotJoined = 5,
    /// No such peer, network, invite or key.
    NotFound = 6,
    /// No answer came in time.
    NoAnswer = 7,
    /// Works, but less well than asked.
    Degraded = 8,
    /// The configuration is invalid.
    Config = 9,
    /// Some of several targets failed.
    Partial = 10,
    /// Interrupted by the user.
    Interrupted = 130,
}

impl Exit {
    /// Every exit code, in order.
    pub const ALL: [Self; 12] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Unreachable,
        Self::Denied,
        Self::NotJoined,
        Self::NotFound,
        Self::NoAnswer,
        Self::Degraded,
        Self::Config,
        Self::Partial,
        Self::Interrupted,
    ];

    /// The number given to the shell.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The exit code of that number; a number of a later version counts as [`Exit::Failed`].
    pub fn from_code(code: u8) -> Self {
        Self::ALL.into_iter().find(|exit| exit.code() == code).unwrap_or(Self::Failed)
    }

    /// What the code means, in a few words.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "usage error",
            Self::Unreachable => "daemon not reachable",
            Self::Denied => "permission denied",
            Self::NotJoined => "not joined, awaiting approval or expired",
            Self::NotFound => "no such peer, network, invite or key",
            Self::NoAnswer => "no answer or timed out",
            Self::Degraded => "works but degraded",
            Self::Config => "configuration invalid",
            Self::Partial => "some of several targets failed",
            Self::Interrupted => "interrupted",
        }
    }

    /// The HTTP status under which the daemon sends an error of this kind.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Done => 200,
            Self::Usage => 400,
            Self::Denied => 403,
            Self::NotFound => 404,
            Self::NotJoined | Self::Degraded | Self::Partial => 409,
            Self::Config => 422,
            Self::Unreachable => 503,
            Self::NoAnswer => 504,
            Self::Failed | Self::Interrupted => 500,
        }
    }
}

impl Serialize for Exit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(self.code())
    }
}

impl<'de> Deserialize<'de> for Exit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u8::deserialize(deserializer).map(Self::from_code)
    }
}

/// Why a request failed: what went wrong, what to do about it, and the exit code it leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// Stable kebab-case name for scripts, as in `no-such-peer`.
    pub code: String,
    /// The cause, in one sentence without a full stop.
    pub message: String,
    /// The remedy, in one sentence.
    pub hint: Option<String>,
    /// Exit code of the command line.
    pub exit: Exit,
    /// Page that says more.
    pub docs: Option<String>,
}

impl ApiError {
    /// An error of kind `exit` with its stable `code` and its cause.
    pub fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), hint: None, exit, docs: None }
    }

    /// The same error with a remedy.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error with the page that says more.
    #[must_use]
    pub fn with_docs(mut self, docs: impl Into<String>) -> Self {
        self.docs = Some(docs.into());
        self
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

/// The body of every failed reply, and what `--json` prints on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// The error.
    pub error: ApiError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_documentation() {
        let codes: Vec<u8> = Exit::ALL.into_iter().map(Exit::code).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130]);
        for exit in Exit::ALL {
            assert_eq!(Exit::from_code(exit.code()), exit);
        }
        assert_eq!(Exit::from_code(77), Exit::Failed);
    }

    #[test]
    fn an_error_is_one_object_with_five_keys() {
        let error =
            ApiError::new(Exit::NotFound, "no-such-peer", "no peer is named lapton").with_hint("Did you mean laptop?");
        assert_eq!(
            serde_json::to_string(&ErrorReply { error }).unwrap(),
            r#"{"error":{"code":"no-such-peer","message":"no peer is named lapton","hint":"Did you mean laptop?","exit":6,"docs":null}}"#
        );
    }
}
