//! Agents against each other over a small simulated network, and against a hostile other side.

mod contract;
mod hostile;
mod nat;
mod punching;
mod watching;
mod world;
