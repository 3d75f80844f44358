//! The real programs in the laboratory: what a user would do, and what the networks under it then show.

pub mod bad_input;
mod batch;
pub mod crash;
pub mod demo;
mod disk;
pub mod flood;
mod guest;
pub mod hostile_server;
pub mod invite_race;
pub mod life;
pub mod machine;
pub mod pairs;
mod probe;
mod pulse;
pub mod revoke;
mod scene;
pub mod servers_down;
pub mod times;
mod two_way;
pub mod wireguard;

pub use machine::{Machine, Programs, Server};
