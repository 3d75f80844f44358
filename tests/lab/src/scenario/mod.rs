//! The real programs in the laboratory: what a user would do, and what the networks under it then show.

pub mod bad_input;
mod batch;
pub mod demo;
pub mod life;
pub mod machine;
pub mod pairs;
mod probe;
mod pulse;
mod scene;
pub mod wireguard;

pub use machine::{Machine, Programs, Server};
