//! The crate from outside: whole logs, golden vectors, pasted strings.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod canonical;
mod checkpoint;
mod govern;
mod handover;
mod proposals;
mod replay;
mod resume;
mod rotation;
mod rules;
mod servers;
mod snapshots;
mod steps;
mod strings;
mod vectors;
mod world;
