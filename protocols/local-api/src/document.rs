use serde::{Deserialize, Serialize};

use crate::VERSION;

/// A reply's content that knows the name of its schema.
pub trait Body {
    /// Name and version of the schema, as in `ginnel.status/1`.
    const SCHEMA: &'static str;
}

/// A top object: the schema's name, the program's version, and the content's own keys beside them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document<T> {
    /// Name and version of the schema.
    pub schema: String,
    /// Version of the daemon that made the reply.
    pub ginnel_version: String,
    /// The content, whose keys stand at the top.
    #[serde(flatten)]
    pub body: T,
}

impl<T: Body> Document<T> {
    /// Puts `body` under its schema's name and this crate's version.
    pub fn new(body: T) -> Self {
        Self { schema: T::SCHEMA.to_owned(), ginnel_version: VERSION.to_owned(), body }
    }

    /// Tells whether the document says that it is of `T`'s schema.
    pub fn is_of_schema(&self) -> bool {
        self.schema == T::SCHEMA
    }
}
