//! Client and server against each other in virtual time, over a network that loses what a test wants lost.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test may fail by panic")]

mod exchange;
mod hostile;
mod lifetime;
mod limits;
mod world;
