//! The crate from outside: whole logs, golden vectors, pasted strings.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod canonical;
mod replay;
mod rules;
mod strings;
mod vectors;
mod world;
